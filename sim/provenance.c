/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/provenance.h"

#include "sim/core/preset.h"
#include "sim/core/random.h"
#include "sim/output.h"
#include "sim/table.h"

#include <stdlib.h>
#include <string.h>

#ifndef KV_VERSION
#define KV_VERSION "unknown"
#endif

/* A list goes on over indented lines, so that it never is too long a line. */
static void write_field(const struct kv_field *f, const void *base, FILE *out, struct kv_arena *a)
{
    if (!kv_field_is_set(f, base))
        return;
    fprintf(out, "%s = ", f->key);
    const char *text = kv_field_text(f, base, a);
    bool list = f->type == KV_T_COUNTS || f->type == KV_T_TEXTS;
    for (const char *comma; list && (comma = strchr(text, ',')); text = comma + 2)
        fprintf(out, "%.*s\n    ", (int)(comma - text), text);
    fprintf(out, "%s\n", text);
}

void kv_write_config(const struct kv_settings *s, FILE *out, struct kv_arena *a)
{
    for (int i = 0; i < kv_n_sections; i++) {
        const struct kv_section *section = &kv_sections[i];
        fprintf(out, "%s[%s]\n", i ? "\n" : "", section->name);
        for (int f = 0; f < section->n; f++)
            if (strcmp(section->field[f].key, "output")) /* where results go is not what they are */
                write_field(&section->field[f], s->bind[i].base, out, a);
    }
    for (int i = 0; i < s->n_policies; i++) {
        const struct kv_policy *policy = &s->policy[i];
        fprintf(out, "\n[policy %s]\n", policy->name);
        for (int b = 0; b < policy->n_binds; b++)
            for (int f = 0; f < policy->bind[b].n; f++)
                write_field(&policy->bind[b].field[f], policy->bind[b].base, out, a);
    }
}

static json_t *input_json(const char *path, const char *hash)
{
    return json_pack("{s:o, s:s}", "path", kv_json_text(path), "hash", hash);
}

/* A preset by its place in the data folder, which lies elsewhere on another machine. */
static const char *shown_origin(const char *origin, struct kv_arena *a)
{
    const char *data = kv_data_folder(a, KV_NEW(a, struct kv_err));
    size_t length = data ? strlen(data) : 0;
    return length && !strncmp(origin, data, length) && origin[length] == '/' ? origin + length + 1 : origin;
}

static void add_input(json_t *inputs, const char *path, struct kv_arena *a)
{
    if (!path)
        return;
    json_t *input = input_json(shown_origin(path, a), kv_file_hash(path, a)), *other;
    size_t i;
    bool again = false;
    json_array_foreach (inputs, i, other)
        again |= json_equal(input, other);
    if (!again)
        json_array_append(inputs, input);
    json_decref(input);
}

void kv_write_provenance(const struct kv_settings *s, const struct kv_model *m, const char *const *input, FILE *out,
                         struct kv_arena *a)
{
    char *config = NULL;
    size_t length = 0;
    FILE *text = open_memstream(&config, &length);
    KV_ASSERT(text);
    kv_write_config(s, text, a);
    fclose(text);
    json_t *root =
        json_pack("{s:s, s:s, s:s, s:I, s:[o, o]}", "program", "kvsim", "version", KV_VERSION, "config_hash",
                  kv_format(a, "%016llx", (unsigned long long)kv_purpose(config)), "seed", (json_int_t)s->run.seed,
                  "inputs", input_json(s->path, kv_format(a, "%016llx", (unsigned long long)s->hash)),
                  input_json(shown_origin(m->origin, a), kv_file_hash(m->origin, a)));
    add_input(json_object_get(root, "inputs"), s->device_file, a);
    for (int i = 0; input[i]; i++)
        add_input(json_object_get(root, "inputs"), input[i], a);
    kv_json_print(root, out);
    json_decref(root);
    free(config);
}
