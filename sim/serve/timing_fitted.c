/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Step times from a file of `kvsim fit`; the formula stands in sim/serve/fit.h. */
#include "sim/serve/fit.h"
#include "sim/serve/timing_kind.h"

#include <math.h>
#include <string.h>

static double larger(double a, double b)
{
    return a > b ? a : b;
}

static void cost(const struct kv_timing *t, const struct kv_step *step, struct kv_step_cost *out)
{
    const struct kv_fit *f = t->own;
    const struct kv_fit_sizes *most = &f->largest;
    const double *c = f->c;
    struct kv_step_chunks chunks = {0};
    if (step->n_chunks)
        chunks = kv_step_chunks_of(step);
    double tokens = (double)step->tokens, decodes = (double)step->decodes;
    out->shared =
        c[KV_FIT_BASE] + c[KV_FIT_TOKEN] * larger(f->knee, tokens) + c[KV_FIT_SEQUENCE] * (double)step->sequences;
    double entry_s = c[KV_FIT_DECODE_KV] * t->kv_share, beside_s = c[KV_FIT_BESIDE_KV] * t->kv_share;
    out->decode = entry_s * step->decode_kv + beside_s * (step->n_chunks ? step->decode_kv : 0);
    out->prefill = c[KV_FIT_PAIR] * chunks.pairs + c[KV_FIT_PREFIX] * chunks.prefixes;
    out->sum = out->shared + out->decode + out->prefill;
    if (!(step->moved_bytes + step->scored_bytes > 0))
        out->evict = 0;
    else if ((f->there[KV_FIT_MOVED] || !(step->moved_bytes > 0)) &&
             (f->there[KV_FIT_SCORED] || !(step->scored_bytes > 0)))
        out->evict = c[KV_FIT_MOVED] * step->moved_bytes + c[KV_FIT_SCORED] * step->scored_bytes;
    if (tokens <= most->tokens && decodes <= most->decodes && step->decode_kv <= most->length * decodes &&
        chunks.tokens <= most->chunk && chunks.longest <= most->prefix) {
        out->until = most->length * decodes;
        out->per_kv = entry_s;
        return;
    }
    const double asked[] = {tokens, decodes, step->decodes ? step->decode_kv / decodes : 0, chunks.tokens,
                            chunks.longest};
    const double largest[] = {most->tokens, most->decodes, most->length, most->chunk, most->prefix};
    for (int i = 0; i < 5; i++)
        if (asked[i] > largest[i])
            out->outside = fmax(out->outside, asked[i] / fmax(largest[i], 1));
}

bool kv_timing_open_fitted(struct kv_timing *t, const struct kv_model *m, const char *path, struct kv_err *e)
{
    struct kv_fit_file *f = KV_NEW(t->arena, struct kv_fit_file);
    if (!kv_fit_read(f, path, t->arena, e))
        return false;
    kv_timing_reads(t, path);
    if (strcmp(f->model, m->name))
        return kv_fail(e, KV_USAGE, "%s profile '%s' was fitted to %s, but the model is %s", kv_timing_where(t), path,
                       f->model, m->name);
    const struct kv_fit_error *out = &f->fit.out[KV_FIT_KINDS];
    const char *error = out->n ? kv_format(t->arena, "mean error %.1f %% on %d rows kept out", 100 * out->mean, out->n)
                               : "error unknown (no rows kept out)";
    const char *last = f->n_sources ? strrchr(f->source->path, '/') : NULL;
    const char *of = f->n_sources ? f->source->path : "rows unknown";
    of = last && last[1] ? last + 1 : of;
    t->own = &f->fit;
    t->cost = cost;
    kv_timing_measured_with(t, m, kv_cache_dtype_of(m));
    t->knows_evictions = f->fit.there[KV_FIT_MOVED] && f->fit.there[KV_FIT_SCORED];
    t->stamp = kv_format(t->arena, "fitted to %s%s, %s", of, f->n_sources > 1 ? " and more" : "", error);
    return true;
}
