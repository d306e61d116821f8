/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A fitted model as an INI file: [fitted] has the coefficients, their 95 % intervals and the error, units in each key's
 * name; [source N] what it was fitted to. Numbers are the shortest that read back to the same double; nothing of it
 * depends on when or where it was written. */
#include "sim/serve/fit.h"

#include "sim/core/units.h"
#include "sim/output.h"

#include <math.h>
#include <string.h>

struct keys {
    const char *model;
    double c[KV_FIT_TERMS], low[KV_FIT_TERMS], high[KV_FIT_TERMS];
    double knee, knee_low, knee_high;
    struct kv_fit_sizes largest;
    int64_t rows, kept_out, seed;
    double kept_out_share, mean, p90, most, bias, in_mean;
};

#define REAL(name, member, low_, help_)                                                                                \
    {                                                                                                                  \
        .key = name, .type = KV_T_REAL, .offset = offsetof(struct keys, member), .min = low_, .max = 1e18,             \
        .help = help_                                                                                                  \
    }
#define TERM(name, at, of)                                                                                             \
    REAL(name, c[at], 0, "seconds for " of), REAL(name "_low", low[at], 0, "lower end of its 95 % interval"),          \
        REAL(name "_high", high[at], 0, "upper end")
static const struct kv_field fields[] = {
    {.key = "model",
     .type = KV_T_TEXT,
     .offset = offsetof(struct keys, model),
     .help = "the model it was measured with"},
    TERM("base_s", KV_FIT_BASE, "a step"),
    TERM("token_s", KV_FIT_TOKEN, "a token"),
    TERM("decode_kv_s", KV_FIT_DECODE_KV, "an entry that a decode reads"),
    TERM("beside_kv_s", KV_FIT_BESIDE_KV, "the same, more, beside a chunk"),
    TERM("pair_s", KV_FIT_PAIR, "a query and a key of a chunk"),
    TERM("prefix_kv_s", KV_FIT_PREFIX, "an entry that a chunk is on top of"),
    TERM("sequence_s", KV_FIT_SEQUENCE, "a request in the step"),
    TERM("moved_byte_s", KV_FIT_MOVED, "a byte that an eviction moves"),
    TERM("scored_byte_s", KV_FIT_SCORED, "a byte of keys that are scored"),
    REAL("knee_tokens", knee, 0, "a step with fewer tokens takes as long as with these"),
    REAL("knee_tokens_low", knee_low, 0, "lower end of its interval"),
    REAL("knee_tokens_high", knee_high, 0, "upper end"),
    REAL("largest_tokens", largest.tokens, 0, "of a step it was fitted to"),
    REAL("largest_decodes", largest.decodes, 0, "of a step"),
    REAL("largest_length_tokens", largest.length, 0, "of decodes, on average"),
    REAL("largest_chunk_tokens", largest.chunk, 0, "of a step"),
    REAL("largest_prefix_tokens", largest.prefix, 0, "of a chunk"),
    {.key = "rows",
     .type = KV_T_COUNT,
     .offset = offsetof(struct keys, rows),
     .min = 0,
     .max = 1e9,
     .help = "fitted to"},
    {.key = "rows_kept_out",
     .type = KV_T_COUNT,
     .offset = offsetof(struct keys, kept_out),
     .min = 0,
     .max = 1e9,
     .help = "of the fit, for its error"},
    REAL("kept_out_share", kept_out_share, 0, "that was asked for"),
    {.key = "seed",
     .type = KV_T_COUNT,
     .offset = offsetof(struct keys, seed),
     .min = 0,
     .max = 0x1p53,
     .help = "of the choice which"},
    REAL("error_mean_share", mean, 0, "relative error on the rows kept out, mean"),
    REAL("error_p90_share", p90, 0, "90th percentile"),
    REAL("error_max_share", most, 0, "largest"),
    REAL("error_bias_share", bias, -1e18, "mean with sign"),
    REAL("fit_error_mean_share", in_mean, 0, "relative error on the rows of the fit, mean"),
};
enum { FIELDS = sizeof fields / sizeof *fields };

static void put(struct keys *k, const struct kv_fit_file *f)
{
    const struct kv_fit *fit = &f->fit;
    const struct kv_fit_error *out = &fit->out[KV_FIT_KINDS];
    *k = (struct keys){.model = f->model,
                       .knee = fit->knee,
                       .knee_low = fit->knee_low,
                       .knee_high = fit->knee_high,
                       .largest = fit->largest,
                       .rows = fit->rows,
                       .kept_out = fit->kept_out,
                       .seed = f->seed,
                       .kept_out_share = f->kept_out_share,
                       .in_mean = fit->in.mean};
    k->mean = out->n ? out->mean : NAN;
    k->p90 = out->n ? out->p90 : NAN;
    k->most = out->n ? out->max : NAN;
    k->bias = out->n ? out->bias : NAN;
    for (int i = 0; i < KV_FIT_TERMS; i++) {
        k->c[i] = fit->there[i] ? fit->c[i] : NAN;
        k->low[i] = fit->there[i] ? fit->low[i] : NAN;
        k->high[i] = fit->there[i] ? fit->high[i] : NAN;
    }
}

static bool is_term(const struct kv_field *f, int *term)
{
    *term = (int)((f->offset - offsetof(struct keys, c)) / sizeof(double));
    return f->offset >= offsetof(struct keys, c) && f->offset < offsetof(struct keys, low);
}

bool kv_fit_write(const struct kv_fit_file *f, const char *path, struct kv_arena *a, struct kv_err *e)
{
    struct keys k;
    struct kv_out out;
    if (!kv_out_open(&out, path, a, e))
        return false;
    put(&k, f);
    fprintf(out.file,
            "; SPDX-License-Identifier: GPL-3.0-or-later\n"
            "; Written by 'kvsim fit'. A step takes the sum of these; docs/TIMING.md says how it was fitted.\n"
            "; To use it: [timing] model = fitted, profile = this file.\n[fitted]\n");
    for (int i = 0; i < FIELDS; i++) {
        int term;
        if (!kv_field_is_set(&fields[i], &k))
            continue;
        if (is_term(&fields[i], &term))
            fprintf(out.file, "; seconds for %s\n", kv_fit_term_texts[term].of);
        fprintf(out.file, "%s = %s\n", fields[i].key, kv_field_text(&fields[i], &k, a));
    }
    for (int i = 0; i < f->n_sources; i++)
        fprintf(out.file, "\n[source %d]\nfile = %s\nhash = %s\nrows = %d\n", i + 1, f->source[i].path,
                f->source[i].hash, f->source[i].rows);
    return kv_out_close(&out, e);
}

static bool get(struct kv_fit_file *f, const struct keys *k, const char *path, struct kv_err *e)
{
    struct kv_fit *fit = &f->fit;
    int errors = e->n;
    for (int i = 0; i < FIELDS; i++) {
        int term;
        bool is = is_term(&fields[i], &term), evicts = is && (term == KV_FIT_MOVED || term == KV_FIT_SCORED);
        if (((is && !evicts && term != KV_FIT_BESIDE_KV && term != KV_FIT_PREFIX) || !strcmp(fields[i].key, "model") ||
             !strncmp(fields[i].key, "largest", 7) || !strcmp(fields[i].key, "knee_tokens")) &&
            !kv_field_is_set(&fields[i], k))
            kv_fail(e, KV_USAGE, "%s: [fitted] has no key '%s'; 'kvsim fit' writes it", path, fields[i].key);
    }
    *fit = (struct kv_fit){.knee = k->knee, .knee_low = k->knee_low, .knee_high = k->knee_high, .largest = k->largest};
    fit->rows = k->rows == KV_UNSET ? 0 : (int)k->rows;
    fit->kept_out = k->kept_out == KV_UNSET ? 0 : (int)k->kept_out;
    fit->in.mean = k->in_mean;
    fit->out[KV_FIT_KINDS] = (struct kv_fit_error){
        .n = isnan(k->mean) ? 0 : fit->kept_out, .mean = k->mean, .p90 = k->p90, .max = k->most, .bias = k->bias};
    for (int i = 0; i < KV_FIT_TERMS; i++) {
        fit->there[i] = !isnan(k->c[i]);
        fit->c[i] = fit->there[i] ? k->c[i] : 0;
        fit->low[i] = k->low[i];
        fit->high[i] = k->high[i];
    }
    f->model = k->model;
    f->seed = k->seed;
    f->kept_out_share = k->kept_out_share;
    return e->n == errors;
}

bool kv_fit_read(struct kv_fit_file *f, const char *path, struct kv_arena *a, struct kv_err *e)
{
    struct kv_ini ini;
    struct keys k = {0};
    *f = (struct kv_fit_file){0};
    if (!kv_ini_read(path, &ini, a, e))
        return false;
    const struct kv_ini_section *s = kv_ini_find(&ini, "fitted");
    if (!s)
        return kv_fail(e, KV_USAGE, "%s: no section [fitted]; is it a file of 'kvsim fit'?", path);
    struct kv_bind bind = {.field = fields, .n = FIELDS, .base = &k};
    if (!kv_bind(&bind, 1, NULL, 0, s->setting, s->n, a, e) || !get(f, &k, path, e))
        return false;
    f->source = KV_NEW_N(a, struct kv_fit_source, ini.n);
    for (int i = 0; i < ini.n; i++) {
        struct kv_fit_source *source = &f->source[f->n_sources];
        if (strncmp(ini.section[i].name, "source ", 7))
            continue;
        f->n_sources++;
        for (int j = 0; j < ini.section[i].n; j++) {
            const struct kv_setting *one = &ini.section[i].setting[j];
            if (!strcmp(one->key, "file"))
                source->path = one->value;
            if (!strcmp(one->key, "hash"))
                source->hash = one->value;
        }
        if (!source->path)
            return kv_fail(e, KV_USAGE, "%s: [%s] has no key 'file'; 'kvsim fit' writes it", path, ini.section[i].name);
    }
    return true;
}
