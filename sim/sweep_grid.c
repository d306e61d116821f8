/* SPDX-License-Identifier: GPL-3.0-or-later */
/* [sweep]: keys of other sections and the values they take. Ranges are counted in decimals as they are written, so that
 * 0.3:0.9:0.1 ends at 0.9. */
#include "sim/sweep_grid.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* ---- values ---- */

struct decimal {
    int64_t digits;
    int places;
    const char *unit; /* what stands behind, with the blanks before it */
};

static const char *trimmed(const char *text, size_t length, struct kv_arena *a)
{
    for (; length && isspace((unsigned char)*text); text++)
        length--;
    while (length && isspace((unsigned char)text[length - 1]))
        length--;
    return kv_copy_part(a, text, length);
}

static bool read_decimal(const char *text, struct decimal *d)
{
    enum { MOST_DIGITS = 15 };
    const char *c = text + (*text == '-' || *text == '+');
    bool point = false;
    int digits = 0;
    *d = (struct decimal){0};
    for (; isdigit((unsigned char)*c) || (*c == '.' && !point); c++) {
        if (*c == '.') {
            point = true;
            continue;
        }
        d->digits = 10 * d->digits + (*c - '0');
        d->places += point;
        if (++digits > MOST_DIGITS)
            return false;
    }
    if (*text == '-')
        d->digits = -d->digits;
    d->unit = c;
    return digits > 0;
}

static bool scale(struct decimal *d, int places)
{
    for (; d->places < places; d->places++)
        if (__builtin_mul_overflow(d->digits, 10, &d->digits))
            return false;
    return llabs(d->digits) < INT64_MAX / 2; /* so that differences are numbers too */
}

static bool same_unit(const struct decimal *a, const struct decimal *b)
{
    return !strcmp(a->unit + strspn(a->unit, " \t"), b->unit + strspn(b->unit, " \t"));
}

static const char *decimal_text(int64_t digits, int places, const char *unit, struct kv_arena *a)
{
    int64_t one = 1;
    for (; places > 0 && digits % 10 == 0; places--)
        digits /= 10;
    for (int i = 0; i < places; i++)
        one *= 10;
    const char *fraction = places ? kv_format(a, ".%0*lld", places, llabs(digits) % one) : "";
    return kv_format(a, "%s%lld%s%s", digits < 0 ? "-" : "", llabs(digits) / one, fraction, unit);
}

struct list {
    const char **at;
    int n, room;
    struct kv_arena *arena;
};

static void add(struct list *l, const char *value)
{
    if (l->n == l->room) {
        int room = l->room ? 2 * l->room : 8;
        const char **more = KV_NEW_N(l->arena, const char *, room);
        if (l->n)
            memcpy(more, l->at, sizeof *more * (size_t)l->n);
        l->at = more;
        l->room = room;
    }
    l->at[l->n++] = value;
}

/* first:last:step; NULL, or why not */
static const char *add_range(struct list *l, const char *text)
{
    struct kv_arena *a = l->arena;
    struct decimal part[3];
    const char *at = text;
    int places = 0;
    for (int i = 0; i < 3; i++) {
        size_t length = strcspn(at, ":");
        if (!read_decimal(trimmed(at, length, a), &part[i]))
            return kv_format(a, "'%s' is no range; write first:last:step, as in 0.3:0.9:0.1", text);
        places = part[i].places > places ? part[i].places : places;
        at += length + 1;
    }
    if (!same_unit(&part[0], &part[1]) || !same_unit(&part[0], &part[2]))
        return kv_format(a, "'%s': the unit stands with first, last and step alike, as in 10 %%:50 %%:10 %%", text);
    for (int i = 0; i < 3; i++)
        if (!scale(&part[i], places))
            return kv_format(a, "'%s' has too many digits", text);
    int64_t first = part[0].digits, last = part[1].digits, step = part[2].digits;
    if (!step || (last != first && (last > first) != (step > 0)))
        return kv_format(a, "'%s': such steps never lead from first to last; write first:last:step", text);
    int64_t n = (last - first) / step + 1;
    if (n > KV_SWEEP_MOST)
        return kv_format(a, "'%s' has %lld values; at most %d are run", text, (long long)n, KV_SWEEP_MOST);
    for (int64_t i = 0; i < n; i++)
        add(l, decimal_text(first + i * step, places, part[0].unit, a));
    return NULL;
}

/* Two colons behind something that begins like a number: 1-100:5 of a histogram is none. */
static bool is_range(const char *text)
{
    int colons = 0;
    for (const char *c = text; *c; c++)
        colons += *c == ':';
    return colons == 2 && strspn(text, "0123456789.+-") > 0 && !strchr(text, ',');
}

static const char *read_values(const char *text, struct kv_axis *axis, struct kv_arena *a)
{
    struct list l = {.arena = a};
    const char *separator = strchr(text, '|') ? "|" : ",", *why = NULL;
    for (size_t length; *text && !why; text += length + (text[length] != '\0')) {
        length = strcspn(text, separator);
        const char *part = trimmed(text, length, a);
        if (is_range(part))
            why = add_range(&l, part);
        else if (*part)
            add(&l, part);
    }
    for (int i = 0; i < l.n && l.n <= 4096 && !why; i++) /* what is longer is a range, or caught by its points */
        for (int j = 0; j < i && !why; j++)
            if (!strcmp(l.at[i], l.at[j]))
                why = kv_format(a, "has '%s' twice; keep one", l.at[i]);
    axis->value = l.at;
    axis->n = l.n;
    return why || l.n ? why : "has no value";
}

/* ---- the section ---- */

static bool is_policy(const char *section)
{
    return !strncmp(section, "policy ", 7);
}

/* A key without section: where it may belong. */
static void say_no_section(const struct kv_setting *s, struct kv_err *e)
{
    for (int i = 0; i < kv_n_sections; i++)
        for (int f = 0; f < kv_sections[i].n; f++)
            if (!strcmp(kv_sections[i].field[f].key, s->key)) {
                kv_fail(e, KV_USAGE, "%s key '%s' is of another section; did you mean '%s.%s'?", s->where, s->key,
                        kv_sections[i].name, s->key);
                return;
            }
    kv_fail(e, KV_USAGE, "%s key '%s' names no section; write section.key, as in engine.block_size", s->where, s->key);
}

/* A policy that the config has, or that [sweep] gives a kind to. */
static bool known_policy(const struct kv_ini *ini, const struct kv_setting *s, const char *section, struct kv_arena *a,
                         struct kv_err *e)
{
    const struct kv_ini_section *sweep = kv_ini_find(ini, "sweep");
    const char **names = KV_NEW_N(a, const char *, ini->n + 1), *kind = kv_format(a, "%s.kind", section);
    int n = 0;
    for (int i = 0; i < ini->n; i++) {
        if (!strcmp(ini->section[i].name, section))
            return true;
        if (is_policy(ini->section[i].name))
            names[n++] = ini->section[i].name;
    }
    for (int i = 0; i < sweep->n; i++)
        if (!strcmp(sweep->setting[i].key, kind))
            return true;
    const char *near = kv_nearest(section, names, n);
    return near ? kv_fail(e, KV_USAGE, "%s there is no [%s]; did you mean [%s]?", s->where, section, near)
                : kv_fail(e, KV_USAGE, "%s there is no [%s]; add that section", s->where, section);
}

static bool read_axis(struct kv_axis *axis, const struct kv_ini *ini, const struct kv_setting *setting,
                      struct kv_arena *a, struct kv_err *e)
{
    const char *dot = strrchr(setting->key, '.');
    if (!dot || dot == setting->key || !dot[1]) {
        say_no_section(setting, e);
        return false;
    }
    const char *section = kv_copy_part(a, setting->key, (size_t)(dot - setting->key));
    if (is_policy(section) && !known_policy(ini, setting, section, a, e))
        return false;
    if (!strcmp(setting->key, "run.output"))
        return kv_fail(e, KV_USAGE, "%s run.output: each point has a folder of its own", setting->where);
    *axis = (struct kv_axis){.key = setting->key, .where = setting->where};
    const char *why = read_values(setting->value, axis, a);
    return !why || kv_fail(e, KV_USAGE, "%s %s: %s", setting->where, setting->key, why);
}

bool kv_sweep_grid(struct kv_sweep *s, const struct kv_ini *ini, struct kv_arena *a, struct kv_err *e)
{
    const struct kv_ini_section *sweep = kv_ini_find(ini, "sweep");
    int64_t n = 1;
    int errors = e->n;
    if (!sweep)
        return kv_fail(e, KV_USAGE,
                       "%s: there is no [sweep]; write the keys to vary there, as in engine.block_size = 16, 32",
                       ini->path);
    s->axis = KV_NEW_N(a, struct kv_axis, sweep->n + 1);
    for (int i = 0; i < sweep->n; i++)
        if (strncmp(sweep->setting[i].key, "x_", 2) != 0) /* private notes */
            s->n_axes += read_axis(&s->axis[s->n_axes], ini, &sweep->setting[i], a, e);
    if (!s->n_axes)
        return e->n == errors &&
               kv_fail(e, KV_USAGE,
                       "%s: [sweep] is empty; write the keys to vary there, as in engine.block_size = 16, 32",
                       sweep->where);
    for (int i = 0; i < s->n_axes && n <= KV_SWEEP_MOST; i++)
        n *= s->axis[i].n;
    if (n > KV_SWEEP_MOST)
        return kv_fail(e, KV_USAGE, "%s: [sweep] has more than %d points; split it", sweep->where, KV_SWEEP_MOST);
    s->n_points = (int)n;
    return true;
}

/* ---- points ---- */

const char *kv_sweep_value(const struct kv_sweep *s, int point, int axis)
{
    for (int i = s->n_axes - 1; i > axis; i--)
        point /= s->axis[i].n;
    return s->axis[axis].value[point % s->axis[axis].n];
}

const char *kv_sweep_point_text(const struct kv_sweep *s, int point, struct kv_arena *a)
{
    const char *text = "";
    for (int i = 0; i < s->n_axes; i++)
        text = kv_format(a, "%s%s%s = %s", text, i ? ", " : "", s->axis[i].key, kv_sweep_value(s, point, i));
    return text;
}

bool kv_sweep_mine(const struct kv_sweep *s, int point)
{
    return point % s->shards == s->shard;
}

const char *kv_sweep_path(const struct kv_sweep *s, int point, const char *suffix, struct kv_arena *a)
{
    return kv_format(a, "%s/points/%s%s", s->folder, s->point[point].name, suffix);
}
