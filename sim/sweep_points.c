/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Each point of a grid resolved, checked and named, before any of them runs. */
#include "sim/core/random.h"
#include "sim/output.h"
#include "sim/provenance.h"
#include "sim/sweep_grid.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#ifndef KV_VERSION
#define KV_VERSION "unknown"
#endif

/* ---- names ---- */

/* A file is read once, however many points read it. */
struct inputs {
    struct input {
        const char *path, *hash;
        struct input *next;
    } * first;
    struct kv_arena *arena;
};

/* Of a file's bytes; of a folder's files and their names, and of those in the folders in it. */
static const char *hash_path(const char *path, int depth, struct kv_arena *a)
{
    enum { DEEPEST = 8 };
    struct stat st;
    struct dirent **entry;
    if (stat(path, &st) || !S_ISDIR(st.st_mode) || depth > DEEPEST)
        return kv_file_hash(path, a);
    const char *text = "";
    int n = scandir(path, &entry, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        const char *name = entry[i]->d_name;
        if (name[0] != '.')
            text = kv_format(a, "%016llx %s %s", (unsigned long long)kv_purpose(text), name,
                             hash_path(kv_format(a, "%s/%s", path, name), depth + 1, a));
        free(entry[i]);
    }
    if (n >= 0)
        free(entry);
    return kv_format(a, "%016llx", (unsigned long long)kv_purpose(text));
}

static const char *input_hash(struct inputs *all, const char *path)
{
    for (struct input *i = all->first; i; i = i->next)
        if (!strcmp(i->path, path))
            return i->hash;
    struct input *i = KV_NEW(all->arena, struct input);
    *i = (struct input){kv_copy_text(all->arena, path), hash_path(path, 0, all->arena), all->first};
    all->first = i;
    return i->hash;
}

/* What a text names is an input if it is there: traces, tables, masks, and what keys to come will name. */
static void hash_named(const struct kv_bind *b, const char *but, struct inputs *inputs, FILE *out)
{
    struct stat st;
    for (int f = 0; f < b->n; f++) {
        const struct kv_field *field = &b->field[f];
        if (field->type != KV_T_TEXT || kv_in_list(but, field->key) || !kv_field_is_set(field, b->base))
            continue;
        const char *path = kv_field_text(field, b->base, inputs->arena);
        if (!stat(path, &st))
            fprintf(out, "%s %s\n", field->key, input_hash(inputs, path));
    }
}

static void to_hex(uint64_t hash, char text[KV_POINT_NAME])
{
    snprintf(text, KV_POINT_NAME, "%016llx", (unsigned long long)hash);
}

static void name_point(struct kv_point *p, const struct kv_settings *s, const struct kv_model *m, struct inputs *inputs,
                       struct kv_arena *a)
{
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    KV_ASSERT(out);
    kv_write_config(s, out, a);
    fflush(out);
    to_hex(kv_purpose(text), p->config);
    fprintf(out, "\nversion %s\nmodel %s\n", KV_VERSION, input_hash(inputs, m->origin));
    if (s->device_file)
        fprintf(out, "device %s\n", input_hash(inputs, s->device_file));
    for (int i = 0; i < kv_n_sections; i++) /* of a model's folder only its config is read, which is said above */
        if (strcmp(kv_sections[i].name, "model") != 0)
            hash_named(&s->bind[i], "name, output, device, title", inputs, out);
    for (int i = 0; i < s->n_policies; i++)
        for (int b = 0; b < s->policy[i].n_binds; b++)
            hash_named(&s->policy[i].bind[b], "kind, law, score", inputs, out);
    fclose(out);
    to_hex(kv_purpose(text), p->name);
    free(text);
}

/* ---- mistakes ---- */

/* What points say that is wrong, each once, with how many say it. */
struct mistakes {
    struct mistake {
        const char *text;
        enum kv_status status;
        int first, last, n; /* points that say it */
    } at[KV_ERR_LINES];
    int n;
    struct kv_arena *arena;
};

static void note(struct mistakes *m, int point, const struct kv_err *e)
{
    for (const char *line = e->text; *line;) {
        size_t length = strcspn(line, "\n");
        const char *text = kv_copy_part(m->arena, line, length);
        int i = 0;
        while (i < m->n && strcmp(m->at[i].text, text) != 0)
            i++;
        if (i == KV_ERR_LINES)
            return;
        if (i == m->n)
            m->at[m->n++] = (struct mistake){.text = text, .status = e->status, .first = point, .last = -1};
        m->at[i].n += m->at[i].last != point;
        m->at[i].last = point;
        line += length + (line[length] == '\n');
    }
}

/* A line of [sweep] tells where to look; what names none, and only some points say, is said with the first of them. */
static bool say_all(const struct kv_sweep *s, const struct mistakes *m, struct kv_err *e)
{
    for (int i = 0; i < m->n; i++) {
        const struct mistake *at = &m->at[i];
        if (strstr(e->text, at->text)) /* said when the config was read */
            continue;
        if (at->n == s->n_points || strstr(at->text, ": [sweep]"))
            kv_fail(e, at->status, "%s", at->text);
        else
            kv_fail(e, at->status, "with %s: %s", kv_sweep_point_text(s, at->first, m->arena), at->text);
    }
    return !m->n;
}

/* ---- resolving ---- */

static void read_ini(const struct kv_sweep *s, struct kv_ini *ini, struct kv_arena *a, struct kv_err *e)
{
    kv_ini_read(s->config, ini, a, e);
    for (int i = 0; i < s->n_set && e->status != KV_DATA; i++)
        kv_ini_set(ini, s->set[i], NULL, a, e);
}

static bool resolve(struct kv_sweep *s, int point, struct inputs *inputs, struct kv_arena *a, struct kv_err *e)
{
    struct kv_ini ini;
    struct kv_settings *settings = KV_NEW(a, struct kv_settings);
    struct kv_model *model = KV_NEW(a, struct kv_model);
    read_ini(s, &ini, a, e);
    if (ini.hash != s->hash)
        return kv_fail(e, KV_DATA, "'%s' changed while it was read", s->config);
    for (int i = 0; i < s->n_axes; i++)
        kv_ini_set(&ini, kv_format(a, "%s=%s", s->axis[i].key, kv_sweep_value(s, point, i)), s->axis[i].where, a, e);
    if (!kv_settings_bind(&ini, settings, a, e) || !kv_settings_model(settings, model, a, e))
        return false;
    name_point(&s->point[point], settings, model, inputs, a);
    return true;
}

static bool resolve_all(struct kv_sweep *s, struct kv_arena *a, struct kv_err *e)
{
    struct mistakes *wrong = KV_NEW(a, struct mistakes);
    struct kv_err *said = KV_NEW(a, struct kv_err);
    struct inputs inputs = {.arena = a};
    wrong->arena = a;
    for (int i = 0; i < s->n_points && wrong->n < KV_ERR_LINES; i++) {
        struct kv_arena *own = kv_arena_open();
        said->status = KV_OK;
        said->n = 0;
        said->length = 0;
        said->text[0] = '\0';
        if (!resolve(s, i, &inputs, own, said))
            note(wrong, i, said);
        kv_arena_close(own);
    }
    return say_all(s, wrong, e);
}

struct named {
    char name[KV_POINT_NAME];
    int point;
};

static int by_name(const void *a, const void *b)
{
    const struct named *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : (x->point > y->point) - (x->point < y->point);
}

/* Two points of one name are one plan: 0.3 and 30 %. */
static bool all_differ(const struct kv_sweep *s, struct kv_arena *a, struct kv_err *e)
{
    struct named *all = KV_NEW_N(a, struct named, s->n_points);
    for (int i = 0; i < s->n_points; i++) {
        memcpy(all[i].name, s->point[i].name, KV_POINT_NAME);
        all[i].point = i;
    }
    qsort(all, (size_t)s->n_points, sizeof *all, by_name);
    for (int i = 1; i < s->n_points; i++)
        if (!strcmp(all[i - 1].name, all[i].name))
            return kv_fail(e, KV_USAGE, "%s: [sweep] the points '%s' and '%s' are one plan; keep one", s->config,
                           kv_sweep_point_text(s, all[i - 1].point, a), kv_sweep_point_text(s, all[i].point, a));
    return true;
}

static const char *output_of(const struct kv_ini *ini)
{
    const struct kv_ini_section *run = kv_ini_find(ini, "run");
    for (int i = 0; run && i < run->n; i++)
        if (!strcmp(run->setting[i].key, "output"))
            return run->setting[i].value;
    return NULL;
}

bool kv_sweep_read(struct kv_sweep *s, const char *folder, struct kv_arena *a, struct kv_err *e)
{
    struct kv_ini ini;
    struct stat st;
    if (!stat(s->config, &st) && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
        return kv_fail(e, KV_USAGE, "'%s' is no regular file; every point reads the config again, so save it",
                       s->config);
    read_ini(s, &ini, a, e);
    if (e->status == KV_DATA)
        return false;
    s->hash = ini.hash;
    if (!kv_sweep_grid(s, &ini, a, e))
        return false;
    s->folder = folder ? folder : output_of(&ini);
    s->point = kv_alloc_many(a, (size_t)s->n_points, sizeof *s->point, "points", e);
    if (!s->point || !resolve_all(s, a, e) || e->n || !all_differ(s, a, e))
        return false;
    return s->folder || kv_fail(e, KV_USAGE, "a sweep needs a folder for its points; give -o DIR, or output in [run]");
}
