/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/core/schema.h"

#include "sim/core/units.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORD_MAX = 48 };

static int smaller(int a, int b)
{
    return a < b ? a : b;
}

/* Damerau-Levenshtein, adjacent letters swapped only once. */
static int distance(const char *a, const char *b)
{
    int n = (int)strlen(a), m = (int)strlen(b);
    if (n > WORD_MAX || m > WORD_MAX)
        return WORD_MAX;
    int d[WORD_MAX + 1][WORD_MAX + 1];
    for (int i = 0; i <= n; i++)
        for (int j = 0; j <= m; j++) {
            if (!i || !j) {
                d[i][j] = i + j;
                continue;
            }
            bool same = tolower((unsigned char)a[i - 1]) == tolower((unsigned char)b[j - 1]);
            d[i][j] = smaller(smaller(d[i - 1][j], d[i][j - 1]) + 1, d[i - 1][j - 1] + !same);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                d[i][j] = smaller(d[i][j], d[i - 2][j - 2] + 1);
        }
    return d[n][m];
}

const char *kv_nearest(const char *word, const char *const *words, int n)
{
    const char *best = NULL;
    int least = strlen(word) > 4 ? 3 : 2;
    for (int i = 0; i < n; i++) {
        int d = distance(word, words[i]);
        if (d < least) {
            least = d;
            best = words[i];
        }
    }
    return best;
}

static void *at(const struct kv_field *f, const void *base)
{
    return (char *)(uintptr_t)base + f->offset;
}

bool kv_in_list(const char *list, const char *word)
{
    size_t length = strlen(word);
    for (const char *c = list; c && *c; c += strspn(c, ", ")) {
        size_t part = strcspn(c, ", ");
        if (part == length && !strncmp(c, word, length))
            return true;
        c += part;
    }
    return false;
}

static int n_choices(const struct kv_field *f)
{
    int n = 0;
    while (f->choices[n])
        n++;
    return n;
}

static const char *join(struct kv_arena *a, const char *const *words, int n)
{
    const char *text = "";
    for (int i = 0; i < n; i++)
        text = kv_format(a, "%s%s%s", text, i ? ", " : "", words[i]);
    return text;
}

static void unset(const struct kv_field *f, void *base)
{
    switch (f->type) {
    case KV_T_TEXT:
        *(const char **)at(f, base) = NULL;
        break;
    case KV_T_BOOL:
        *(bool *)at(f, base) = false;
        break;
    case KV_T_COUNT:
    case KV_T_BYTES:
        *(int64_t *)at(f, base) = KV_UNSET;
        break;
    case KV_T_CHOICE:
        *(int *)at(f, base) = 0;
        break;
    case KV_T_COUNTS:
        *(struct kv_counts *)at(f, base) = (struct kv_counts){0};
        break;
    case KV_T_TEXTS:
        *(struct kv_texts *)at(f, base) = (struct kv_texts){0};
        break;
    default:
        *(double *)at(f, base) = NAN;
    }
}

bool kv_field_is_set(const struct kv_field *f, const void *base)
{
    switch (f->type) {
    case KV_T_TEXT:
        return *(const char **)at(f, base);
    case KV_T_COUNT:
    case KV_T_BYTES:
        return *(int64_t *)at(f, base) != KV_UNSET;
    case KV_T_BOOL:
    case KV_T_CHOICE:
        return true;
    case KV_T_COUNTS:
        return ((struct kv_counts *)at(f, base))->n;
    case KV_T_TEXTS:
        return ((struct kv_texts *)at(f, base))->n;
    default:
        return !isnan(*(double *)at(f, base));
    }
}

static const char *check_range(const struct kv_field *f, double value, const char *text, struct kv_arena *a)
{
    if ((f->min == 0 && f->max == 0) || (value >= f->min && value <= f->max))
        return NULL;
    if (value < 0 && f->min >= 0)
        return kv_format(a, "'%s' is negative", text);
    char low[KV_NUMBER_TEXT], high[KV_NUMBER_TEXT];
    bool bytes = f->type == KV_T_BYTES, real = f->type != KV_T_COUNT && f->type != KV_T_COUNTS && !bytes;
    if (bytes) {
        kv_print_bytes(low, (int64_t)f->min);
        kv_print_bytes(high, f->max >= 0x1p63 ? INT64_MAX : (int64_t)f->max);
    } else {
        snprintf(low, sizeof low, real ? "%g" : "%.0f", f->min);
        snprintf(high, sizeof high, real ? "%g" : "%.0f", f->max);
    }
    return kv_format(a, "'%s' is outside %s .. %s", text, low, high);
}

/* The parts of a list, without blanks around them; NULL after the last. */
static const char *next_part(const char **rest, struct kv_arena *a)
{
    *rest += strspn(*rest, ", \t");
    size_t length = strcspn(*rest, ",");
    const char *start = *rest;
    *rest += length;
    while (length && isspace((unsigned char)start[length - 1]))
        length--;
    return length ? kv_copy_part(a, start, length) : NULL;
}

static const char *read_list(const struct kv_field *f, void *base, const char *text, struct kv_arena *a)
{
    int commas = 1;
    for (const char *c = text; *c; c++)
        commas += *c == ',';
    struct kv_counts counts = {.at = KV_NEW_N(a, int64_t, commas)};
    struct kv_texts texts = {.at = KV_NEW_N(a, const char *, commas)};
    for (const char *part; (part = next_part(&text, a));) {
        const char *why = NULL;
        if (f->type == KV_T_TEXTS)
            texts.at[texts.n++] = part;
        else if (!(why = kv_read_count(a, part, &counts.at[counts.n])))
            why = check_range(f, (double)counts.at[counts.n++], part, a);
        if (why)
            return why;
    }
    if (f->type == KV_T_TEXTS)
        *(struct kv_texts *)at(f, base) = texts;
    else
        *(struct kv_counts *)at(f, base) = counts;
    return NULL;
}

static const char *read_choice(const struct kv_field *f, void *base, const char *text, struct kv_arena *a)
{
    int n = n_choices(f);
    for (int i = 0; i < n; i++)
        if (!strcmp(f->choices[i], text)) {
            *(int *)at(f, base) = i;
            return NULL;
        }
    const char *near = kv_nearest(text, f->choices, n);
    if (near)
        return kv_format(a, "'%s' is not known; did you mean '%s'?", text, near);
    return kv_format(a, "'%s' is none of %s", text, join(a, f->choices, n));
}

static const char *read_real(const struct kv_field *f, void *base, const char *text, struct kv_arena *a)
{
    static const char *(*const reader[])(struct kv_arena *, const char *, double *) = {
        [KV_T_REAL] = kv_read_real, [KV_T_SHARE] = kv_read_share,         [KV_T_SECONDS] = kv_read_seconds,
        [KV_T_RATE] = kv_read_rate, [KV_T_BANDWIDTH] = kv_read_bandwidth, [KV_T_FLOPS] = kv_read_flops,
    };
    double value;
    const char *why = reader[f->type](a, text, &value);
    if (!why)
        why = check_range(f, value, text, a);
    if (!why)
        *(double *)at(f, base) = value;
    return why;
}

/* NULL, or why not. */
static const char *read_value(const struct kv_field *f, void *base, const char *text, struct kv_arena *a)
{
    const char *why;
    int64_t whole;
    if (!strcmp(text, "auto") && (!f->def || !strcmp(f->def, "auto")))
        return NULL; /* as the defaults and the preset left it */
    if (!*text)
        return "has no value";
    switch (f->type) {
    case KV_T_TEXT:
        *(const char **)at(f, base) = text;
        return NULL;
    case KV_T_BOOL:
        return kv_read_bool(a, text, at(f, base));
    case KV_T_CHOICE:
        return read_choice(f, base, text, a);
    case KV_T_COUNTS:
    case KV_T_TEXTS:
        return read_list(f, base, text, a);
    case KV_T_COUNT:
    case KV_T_BYTES:
        why = f->type == KV_T_BYTES ? kv_read_bytes(a, text, &whole) : kv_read_count(a, text, &whole);
        if (!why)
            why = check_range(f, (double)whole, text, a);
        if (!why)
            *(int64_t *)at(f, base) = whole;
        return why;
    default:
        return read_real(f, base, text, a);
    }
}

static bool unknown_key(const struct kv_bind *bind, int n_binds, const struct kv_setting *s, struct kv_arena *a,
                        struct kv_err *e)
{
    int n = 0;
    for (int b = 0; b < n_binds; b++)
        n += bind[b].n;
    const char **keys = KV_NEW_N(a, const char *, n);
    n = 0;
    for (int b = 0; b < n_binds; b++)
        for (int i = 0; i < bind[b].n; i++) {
            if (kv_in_list(bind[b].field[i].also, s->key))
                return kv_fail(e, KV_USAGE, "%s unknown key '%s'; did you mean '%s'?", s->where, s->key,
                               bind[b].field[i].key);
            keys[n++] = bind[b].field[i].key;
        }
    const char *near = kv_nearest(s->key, keys, n);
    if (near)
        return kv_fail(e, KV_USAGE, "%s unknown key '%s'; did you mean '%s'?", s->where, s->key, near);
    return kv_fail(e, KV_USAGE, "%s unknown key '%s'; known: %s", s->where, s->key, join(a, keys, n));
}

static bool bind_one(struct kv_bind *bind, int n_binds, const struct kv_setting *s, struct kv_arena *a,
                     struct kv_err *e)
{
    if (!strncmp(s->key, "x_", 2)) /* private notes */
        return true;
    for (int b = 0; b < n_binds; b++)
        for (int i = 0; i < bind[b].n; i++) {
            const struct kv_field *f = &bind[b].field[i];
            if (strcmp(f->key, s->key))
                continue;
            if (s->continued && f->type != KV_T_COUNTS && f->type != KV_T_TEXTS)
                return kv_fail(e, KV_USAGE, "%s '%s' takes one value, and an indented line below continues it",
                               s->where, s->key);
            const char *why = read_value(f, bind[b].base, s->value, a);
            if (strcmp(s->value, "auto"))
                bind[b].origin[i] = s->origin;
            return !why || kv_fail(e, KV_USAGE, "%s %s: %s", s->where, s->key, why);
        }
    return unknown_key(bind, n_binds, s, a, e);
}

bool kv_bind(struct kv_bind *bind, int n_binds, const struct kv_setting *preset, int n_preset,
             const struct kv_setting *setting, int n, struct kv_arena *a, struct kv_err *e)
{
    int errors = e->n;
    for (int b = 0; b < n_binds; b++) {
        bind[b].origin = KV_NEW_N(a, const char *, bind[b].n);
        for (int i = 0; i < bind[b].n; i++) {
            const struct kv_field *f = &bind[b].field[i];
            unset(f, bind[b].base);
            bind[b].origin[i] = "default";
            const char *why = f->def ? read_value(f, bind[b].base, f->def, a) : NULL;
            if (why) /* a wrong default is a mistake in our own table */
                kv_bug(f->key, 0, why);
        }
    }
    for (int i = 0; i < n_preset; i++)
        bind_one(bind, n_binds, &preset[i], a, e);
    for (int i = 0; i < n; i++)
        bind_one(bind, n_binds, &setting[i], a, e);
    return e->n == errors;
}

static const char *count_list(const struct kv_counts *list, struct kv_arena *a)
{
    const char *text = "";
    for (int i = 0; i < list->n; i++)
        text = kv_format(a, "%s%s%lld", text, i ? ", " : "", (long long)list->at[i]);
    return text;
}

/* Bytes in the largest unit that keeps them exact. */
static const char *bytes_text(int64_t bytes, struct kv_arena *a)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int unit = 0;
    while (bytes && bytes % 1024 == 0 && unit < 4) {
        bytes /= 1024;
        unit++;
    }
    return kv_format(a, "%lld %s", (long long)bytes, units[unit]);
}

const char *kv_field_text(const struct kv_field *f, const void *base, struct kv_arena *a)
{
    static const char *const suffix[] = {
        [KV_T_SECONDS] = " s", [KV_T_RATE] = " /s", [KV_T_BANDWIDTH] = " B/s", [KV_T_FLOPS] = " FLOP/s"};
    char number[KV_NUMBER_TEXT];
    if (!kv_field_is_set(f, base))
        return "auto";
    switch (f->type) {
    case KV_T_TEXT:
        return *(const char **)at(f, base);
    case KV_T_BOOL:
        return *(bool *)at(f, base) ? "true" : "false";
    case KV_T_COUNT:
        return kv_format(a, "%lld", (long long)*(int64_t *)at(f, base));
    case KV_T_BYTES:
        return bytes_text(*(int64_t *)at(f, base), a);
    case KV_T_CHOICE:
        return f->choices[*(int *)at(f, base)];
    case KV_T_COUNTS:
        return count_list(at(f, base), a);
    case KV_T_TEXTS:
        return join(a, ((struct kv_texts *)at(f, base))->at, ((struct kv_texts *)at(f, base))->n);
    case KV_T_REAL:
    case KV_T_SHARE:
        return kv_copy_text(a, kv_print_real(number, *(double *)at(f, base)));
    default:
        return kv_format(a, "%s%s", kv_print_real(number, *(double *)at(f, base)), suffix[f->type]);
    }
}

const char *kv_field_kind(const struct kv_field *f, struct kv_arena *a)
{
    static const char *const names[] = {
        [KV_T_TEXT] = "text",
        [KV_T_BOOL] = "true or false",
        [KV_T_COUNT] = "whole number",
        [KV_T_BYTES] = "bytes with unit (GiB, MB, ...)",
        [KV_T_REAL] = "number",
        [KV_T_SHARE] = "share (30 % or 0.3)",
        [KV_T_SECONDS] = "time with unit (ms, s, min, h)",
        [KV_T_RATE] = "rate with unit (/s, /min, /h)",
        [KV_T_BANDWIDTH] = "bandwidth with unit (GB/s, TB/s, ...)",
        [KV_T_FLOPS] = "operations with unit (TFLOP/s, ...)",
        [KV_T_COUNTS] = "whole numbers, comma separated",
        [KV_T_TEXTS] = "words, comma separated",
    };
    if (f->type == KV_T_CHOICE)
        return kv_format(a, "one of %s", join(a, f->choices, n_choices(f)));
    return names[f->type];
}
