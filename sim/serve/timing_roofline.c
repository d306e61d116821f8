/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Step times from hardware figures alone, measured on nothing:
 *
 *     step = sum over products of max(2 m n k / flops, (w bytes of n k + activations of m (n + k)) / bandwidth)
 *          + max(4 x head_dim x heads x layers x pairs / flops, KV bytes read / bandwidth), of chunks and of decodes
 *
 * where flops and bandwidth are those of [hardware] times their efficiencies. Weights are read once a step; of experts,
 * those the tokens touch if each chooses evenly. Decodes read their KV once, a chunk its prefix and itself once. Pairs
 * of a chunk: chunk x (prefix + chunk / 2). Nothing overlaps, nothing is launched: a bound with a margin, not a
 * prediction. */
#include "sim/serve/gemms.h"
#include "sim/serve/timing_kind.h"

#include <math.h>

struct roofline {
    struct kv_gemms gemms;
    double s_per_flop, s_per_byte, s_per_decode_kv;
};

static double larger(const struct roofline *r, double flops, double bytes)
{
    return fmax(flops * r->s_per_flop, bytes * r->s_per_byte);
}

static double product_s(const struct roofline *r, const struct kv_gemm *g, double tokens, double sequences)
{
    const struct kv_gemms *all = &r->gemms;
    double n = (double)g->n, k = (double)g->k, rows = g->rows == KV_GEMM_SEQUENCES ? sequences : tokens, matrices = 1;
    if (g->rows == KV_GEMM_EXPERTS) {
        rows = tokens * all->chosen; /* of all experts together */
        matrices = kv_experts_touched(all, tokens);
    }
    return g->times * larger(r, 2 * rows * n * k, matrices * n * k * all->weight_bytes + 2 * rows * (n + k));
}

static double shared_s(const struct roofline *r, double tokens, double sequences)
{
    double sum = tokens * r->gemms.element_bytes * r->s_per_byte;
    for (int i = 0; i < r->gemms.n; i++)
        sum += product_s(r, &r->gemms.gemm[i], tokens, sequences);
    return sum;
}

static void cost(const struct kv_timing *t, const struct kv_step *step, struct kv_step_cost *out)
{
    const struct roofline *r = t->own;
    struct kv_step_chunks chunks = kv_step_chunks_of(step);
    double entries = chunks.prefixes + chunks.tokens;
    out->shared = shared_s(r, (double)step->tokens, (double)step->sequences);
    out->decode = r->s_per_decode_kv * step->decode_kv;
    out->prefill =
        larger(r, chunks.pairs * r->gemms.pair_flops, entries * r->gemms.kv_bytes + chunks.tokens * r->gemms.row_bytes);
    out->sum = out->shared + out->decode + out->prefill;
    out->until = INFINITY;
    out->per_kv = r->s_per_decode_kv;
}

bool kv_timing_open_roofline(struct kv_timing *t, const struct kv_model *m, struct kv_err *e)
{
    const struct kv_settings *s = t->settings;
    struct roofline *r = KV_NEW(t->arena, struct roofline);
    double flops = s->hardware.peak_flops, bandwidth = s->hardware.memory_bandwidth;
    if (!(flops > 0) || !(bandwidth > 0))
        return kv_fail(e, KV_USAGE, "%s model = roofline needs [hardware] %s", kv_timing_where(t),
                       flops > 0 ? "memory_bandwidth" : "peak_flops");
    if (!(s->timing.compute_efficiency > 0) || !(s->timing.bandwidth_efficiency > 0))
        return kv_fail(e, KV_USAGE, "%s an efficiency of 0 %% makes steps endless", kv_timing_where(t));
    kv_gemms_of(&r->gemms, m, kv_dtype_of_choice(s->engine.kv_cache_dtype, kv_cache_dtype_of(m)));
    r->s_per_flop = 1 / (flops * s->timing.compute_efficiency);
    r->s_per_byte = 1 / (bandwidth * s->timing.bandwidth_efficiency);
    r->s_per_decode_kv = larger(r, r->gemms.pair_flops, r->gemms.kv_bytes);
    t->own = r;
    t->cost = cost;
    t->stamp = kv_format(t->arena, "roofline of %s (%.3g %% of %.4g TFLOP/s, %.3g %% of %.4g TB/s), not calibrated",
                         s->hardware.title ? s->hardware.title : "the device", 100 * s->timing.compute_efficiency,
                         flops / 1e12, 100 * s->timing.bandwidth_efficiency, bandwidth / 1e12);
    return true;
}
