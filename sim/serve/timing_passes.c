/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Step times from whole passes, in the table of `kvengine profile`:
 *
 *     kind, batch, new_tokens, prefix_tokens, seconds, runs, layers, kv_heads, head_dim
 *
 * prefill: one sequence takes `new_tokens` on top of `prefix_tokens`. decode: `batch` sequences take one token each;
 * the median of `runs` passes, one after the other, so the middle one attended to prefix_tokens + 1 + runs / 2 entries.
 * Several chunks in a step are asked for as one, as in timing_layers.c. A step with both takes the sum, less what the
 * shortest decode takes alone: the weights, read once; never less than either. scores, evict: what eviction adds to a
 * pass, shared out over the bytes it read and moved. */
#include "sim/serve/timed_pass.h"
#include "sim/serve/ragged.h"

#include <math.h>
#include <string.h>

struct passes {
    struct kv_ragged prefill, decode;
    double weights;                             /* seconds of the shortest pass */
    double moved_s_per_byte, scored_s_per_byte; /* NaN: not measured */
};

static void cost(const struct kv_timing *t, const struct kv_step *step, struct kv_step_cost *out)
{
    const struct passes *p = t->own;
    double n = (double)step->decodes, chunk, prefix;
    kv_step_one_chunk(step, &chunk, &prefix);
    if (chunk > 0)
        out->prefill = kv_ragged_at(&p->prefill, (double[]){chunk, prefix}, &out->outside);
    if (n > 0) {
        double ignored = 1, least = t->kv_share == 1 ? 0 : kv_ragged_at(&p->decode, (double[]){n, 0}, &ignored);
        out->decode =
            kv_timing_by_bytes(t, least, kv_ragged_at(&p->decode, (double[]){n, step->decode_kv / n}, &out->outside));
    }
    if (chunk > 0 && n > 0) {
        double least = fmin(p->weights, fmin(out->prefill, out->decode));
        out->shared = least;
        out->prefill -= least;
        out->decode -= least;
    }
    out->sum = out->shared + out->prefill + out->decode;
    double moved = step->moved_bytes > 0 ? step->moved_bytes * p->moved_s_per_byte : 0;
    double scored = step->scored_bytes > 0 ? step->scored_bytes * p->scored_s_per_byte : 0;
    out->evict = isnan(moved) || isnan(scored) ? -1 : moved + scored;
}

/* ---- reading ---- */

bool kv_timed_passes_read(const char *path, const struct kv_model *m, struct kv_timed_pass **out, int *n,
                          struct kv_arena *a, struct kv_err *e)
{
    static const char *const names[] = {"kind", "batch",  "new_tokens", "prefix_tokens", "seconds",
                                        "runs", "layers", "kv_heads",   "head_dim"};
    static const char *const kinds[] = {"prefill", "decode", "scores", "evict"};
    enum { KIND, BATCH, NEW, PREFIX, SECONDS, RUNS, LAYERS, HEADS, DIM, COLUMNS };
    enum { MOST_ROWS = 1 << 20 };
    struct kv_csv c;
    int column[COLUMNS], room = 0;
    *n = 0;
    if (!kv_csv_open(&c, path, a, e))
        return false;
    bool good = kv_csv_bind(&c, names, COLUMNS, COLUMNS, column, e);
    enum kv_next next = KV_NEXT_ROW;
    while (good && (next = kv_csv_next(&c, e)) == KV_NEXT_ROW) {
        struct kv_timed_pass pass = {.line = c.line, .kind = -1};
        int64_t shape[3];
        for (int i = 0; i < 4; i++)
            if (!strcmp(c.cell[column[KIND]], kinds[i]))
                pass.kind = i;
        if (pass.kind < 0)
            good = kv_csv_fail(&c, column[KIND], e, "is none of prefill, decode, scores, evict");
        good = good && kv_csv_count(&c, column[BATCH], 1, KV_TIMING_MOST_KEY, &pass.batch, e) &&
               kv_csv_count(&c, column[NEW], 1, KV_TIMING_MOST_KEY, &pass.tokens, e) &&
               kv_csv_count(&c, column[PREFIX], 0, KV_TIMING_MOST_KEY, &pass.prefix, e) &&
               kv_csv_count(&c, column[RUNS], 1, KV_TIMING_MOST_KEY, &pass.runs, e) &&
               kv_csv_real(&c, column[SECONDS], 1e-12, 1e6, &pass.seconds, e);
        const int64_t wanted[] = {m->layers, m->kv_heads, m->head_dim};
        for (int i = 0; good && i < 3; i++) {
            good = kv_csv_count(&c, column[LAYERS + i], 1, KV_TIMING_MOST_KEY, &shape[i], e);
            if (good && shape[i] != wanted[i])
                good = kv_csv_fail(&c, column[LAYERS + i], e,
                                   kv_format(a, "is not that of the model, %lld", (long long)wanted[i]));
        }
        if (good && *n == room) {
            struct kv_timed_pass *grown =
                kv_alloc_many(a, (size_t)(room = room ? 2 * room : 256), sizeof *grown, "rows", e);
            good = grown && (room <= MOST_ROWS || kv_fail(e, KV_DATA, "%s: more than %d rows", path, MOST_ROWS));
            if (good && *n)
                memcpy(grown, *out, (size_t)*n * sizeof *grown);
            *out = grown;
        }
        if (good)
            (*out)[(*n)++] = pass;
    }
    kv_csv_close(&c);
    return good && next == KV_NEXT_END;
}

void kv_timed_pass_evicted(const struct kv_timed_pass *pass, const struct kv_model *m, double *moved, double *scored)
{
    double entry = (double)kv_store_token_bytes(m, kv_cache_dtype_of(m));
    *moved = pass->kind == KV_TIMED_EVICT ? (double)pass->prefix * entry : 0;
    *scored = pass->kind == KV_TIMED_SCORES ? (double)(pass->prefix + pass->tokens) * entry / 2 : 0;
}

bool kv_timing_open_passes(struct kv_timing *t, const struct kv_model *m, const char *path, struct kv_err *e)
{
    struct passes *p = KV_NEW(t->arena, struct passes);
    struct kv_timed_pass *pass = NULL;
    int n;
    double evict_s = 0, score_s = 0, moved = 0, scored = 0;
    p->prefill = (struct kv_ragged){.keys = 2, .law = {KV_AXIS_PAIRS, KV_AXIS_LINEAR}};
    p->decode = (struct kv_ragged){.keys = 2, .law = {KV_AXIS_BYTES, KV_AXIS_LINEAR}};
    p->weights = INFINITY;
    t->own = p;
    t->cost = cost;
    kv_timing_measured_with(t, m, kv_cache_dtype_of(m));
    bool good = kv_timed_passes_read(path, m, &pass, &n, t->arena, e);
    kv_timing_reads(t, path);
    for (int i = 0; good && i < n; i++) {
        double now_moved, now_scored;
        kv_timed_pass_evicted(&pass[i], m, &now_moved, &now_scored);
        if (pass[i].kind == KV_TIMED_PREFILL)
            good = kv_ragged_add(&p->prefill, (int64_t[]){pass[i].tokens, pass[i].prefix}, pass[i].seconds,
                                 pass[i].line, e);
        else if (pass[i].kind == KV_TIMED_DECODE) {
            good = kv_ragged_add(&p->decode, (int64_t[]){pass[i].batch, kv_timed_pass_length(&pass[i])},
                                 pass[i].seconds, pass[i].line, e);
            p->weights = fmin(p->weights, pass[i].seconds);
        } else if (pass[i].kind == KV_TIMED_EVICT)
            evict_s += pass[i].seconds;
        else
            score_s += pass[i].seconds;
        moved += now_moved;
        scored += now_scored;
    }
    p->moved_s_per_byte = moved > 0 ? evict_s / moved : NAN;
    p->scored_s_per_byte = scored > 0 ? score_s / scored : NAN;
    if (good && (!p->prefill.n_rows || !p->decode.n_rows))
        good = kv_fail(e, KV_DATA, "%s: no rows of %s", path, p->decode.n_rows ? "prefill" : "decode");
    good = good && kv_ragged_build(&p->prefill, path, t->arena, e) && kv_ragged_build(&p->decode, path, t->arena, e);
    kv_ragged_drop(&p->prefill);
    kv_ragged_drop(&p->decode);
    t->knows_evictions = moved > 0 && scored > 0;
    t->stamp = kv_format(t->arena, "table '%s': measured passes", path);
    return good;
}
