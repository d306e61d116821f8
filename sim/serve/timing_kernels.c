/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Step times from measured kernels, in the tables of aiconfigurator (milliseconds), for a model's own shape:
 *
 *     gemm_bf16.csv                          m, n, k, latency_ms             y[m,n] = x[m,k] w[k,n]
 *     attn_decode_h32_kv8_d128.csv           batch_size, kv_len, kv_cache_dtype, latency_ms    one layer
 *     attn_prefill_h32_kv8_d128.csv          batch_size, isl, kv_cache_dtype, latency_ms       one layer, no prefix
 *
 * step = sum of the model's products (sim/serve/gemms) at m = tokens, the last one at m = sequences
 *      + layers x (decode attention at (decodes, mean length) + prefill attention at (chunks, length))
 *      + bytes of norms, rotation and activation over memory_bandwidth x bandwidth_efficiency
 *
 * Products are interpolated in n and k, and beyond the largest of the table go on along the line (said in the stamp); a
 * model whose n or k lie below the table's is refused. Several chunks are asked for as that many prompts of one length
 * without prefix that make as many pairs; a chunk on a prefix likewise. Unequal decodes are taken as equal: no table
 * says more. Attention is that of rows of the type the cache holds; where there are none, that of bf16, of decodes by
 * bytes. */
#include "sim/serve/gemms.h"
#include "sim/serve/ragged.h"
#include "sim/serve/timing_kind.h"

#include <math.h>
#include <string.h>

static const double ms = 1e-3;
static const char bf16[] = "bfloat16"; /* in kv_cache_dtype */

struct kernels {
    struct kv_curve products, last; /* milliseconds of a step, by tokens and by sequences */
    struct kv_ragged decode, prefill;
    double layers, element_s; /* a token */
};

static void cost(const struct kv_timing *t, const struct kv_step *step, struct kv_step_cost *out)
{
    const struct kernels *k = t->own;
    double n = (double)step->decodes, chunks = (double)step->n_chunks, pairs = kv_step_chunks_of(step).pairs;
    out->shared = (kv_curve_at(&k->products, step->tokens, &out->outside) +
                   kv_curve_at(&k->last, step->sequences, &out->outside)) *
                      ms +
                  (double)step->tokens * k->element_s;
    if (n > 0) {
        double ignored = 1, least = t->kv_share == 1 ? 0 : kv_ragged_at(&k->decode, (double[]){n, 0}, &ignored),
               taken = kv_ragged_at(&k->decode, (double[]){n, step->decode_kv / n}, &out->outside);
        out->decode = k->layers * kv_timing_by_bytes(t, least, taken) * ms;
    }
    if (chunks > 0)
        out->prefill =
            k->layers * kv_ragged_at(&k->prefill, (double[]){chunks, sqrt(2 * pairs / chunks)}, &out->outside) * ms;
    out->sum = out->shared + out->decode + out->prefill;
}

/* ---- reading ---- */

static bool take_product(void *self, const struct kv_csv *c, int text, const int64_t *key, double time,
                         struct kv_err *e)
{
    (void)text;
    if (!key[0] || !key[1] || !key[2])
        return kv_fail(e, KV_DATA, "%s:%lld: a product of size 0", c->path, (long long)c->line);
    return kv_ragged_add(self, (int64_t[]){key[1], key[2], key[0]}, time, c->line, e); /* n, k, m */
}

/* Rows of the type that is asked for, and of the one that all tables have. */
struct attention {
    const char *dtype;
    struct kv_ragged own, bf16;
};

static bool take_attention(void *self, const struct kv_csv *c, int text, const int64_t *key, double time,
                           struct kv_err *e)
{
    struct attention *a = self;
    if (!strcmp(c->cell[text], a->dtype))
        return kv_ragged_add(&a->own, key, time, c->line, e);
    return strcmp(c->cell[text], bf16) || kv_ragged_add(&a->bf16, key, time, c->line, e);
}

/* *own: rows of the stored type were there; else those of bf16 are taken. */
static bool read_attention(struct kv_timing *t, struct kv_ragged *out, const char *folder, const char *file,
                           const char *length, bool *own, struct kv_err *e)
{
    const char *const column[] = {"batch_size", length, "latency_ms", "kv_cache_dtype"};
    const char *path = kv_format(t->arena, "%s/%s", folder, file);
    bool two_bytes = t->stored == KV_BF16 || t->stored == KV_FP16;
    struct attention a = {two_bytes ? bf16 : kv_dtype_names[t->stored], *out, *out};
    bool good = kv_timing_rows(t, path, column, 2, true, take_attention, &a, e);
    *own = a.own.n_rows > 0;
    *out = *own ? a.own : a.bf16;
    if (good && !out->n_rows)
        good = kv_fail(e, KV_DATA, "%s: no rows of kv_cache_dtype '%s'", path, a.dtype);
    good = good && kv_ragged_build(out, path, t->arena, e);
    kv_ragged_drop(*own ? &a.bf16 : &a.own);
    kv_ragged_drop(out);
    return good;
}

/* One product's time against m, interpolated at its n and k, as a curve. */
static bool product_curve(struct kv_timing *t, const struct kv_ragged *table, const struct kv_gemm *g,
                          struct kv_curve *out, double *outside, struct kv_err *e)
{
    struct kv_ragged by_m = {.keys = 1};
    bool good = true;
    for (int64_t i = 0; good && i < table->n[2]; i++) /* m of all (n, k), each once */
    {
        double m = table->at[2][i], ignored = 1;
        bool seen = false;
        for (int64_t j = 0; j < by_m.n_rows && !seen; j++)
            seen = by_m.row[j].key[0] == (int64_t)m;
        if (!seen)
            good = kv_ragged_add(&by_m, (int64_t[]){(int64_t)m},
                                 kv_ragged_at(table, (double[]){(double)g->n, (double)g->k, m}, &ignored), 0, e);
    }
    good = good && kv_ragged_build(&by_m, "products", t->arena, e) && kv_curve_build(out, &by_m, t->arena, e);
    kv_ragged_drop(&by_m);
    kv_ragged_at(table, (double[]){(double)g->n, (double)g->k, 1}, outside);
    return good;
}

static bool add_product(struct kv_timing *t, struct kernels *k, const struct kv_ragged *table, const struct kv_gemm *g,
                        const char **beyond, struct kv_err *e)
{
    struct kv_curve one, *sum = g->rows == KV_GEMM_SEQUENCES ? &k->last : &k->products;
    double outside = 1;
    if ((double)g->n < table->at[0][0] || (double)g->k < table->at[1][0])
        return kv_fail(e, KV_USAGE, "%s %s is a product of n = %lld, k = %lld, below the smallest measured in '%s'",
                       kv_timing_where(t), g->name, (long long)g->n, (long long)g->k, t->settings->timing.profile);
    if (!product_curve(t, table, g, &one, &outside, e))
        return false;
    if (outside > 1)
        *beyond = kv_format(t->arena, "%s; %s extrapolated %.1fx in size", *beyond, g->name, outside);
    for (int64_t i = 0; i < one.n; i++)
        one.value[i] *= g->times;
    if (!sum->value)
        *sum = one;
    else
        for (int64_t i = 0; i < sum->n; i++)
            sum->value[i] += one.value[i];
    return true;
}

bool kv_timing_open_kernels(struct kv_timing *t, const struct kv_model *m, const char *folder, struct kv_err *e)
{
    static const char *const product_columns[] = {"m", "n", "k", "latency_ms"};
    struct kernels *k = KV_NEW(t->arena, struct kernels);
    struct kv_ragged products = {.keys = 3};
    struct kv_gemms gemms;
    bool own_decode, own_prefill;
    const char *beyond = "", *shape = kv_format(t->arena, "h%lld_kv%lld_d%lld", (long long)m->q_heads,
                                                (long long)m->kv_heads, (long long)m->head_dim);
    double bandwidth = t->settings->hardware.memory_bandwidth * t->settings->timing.bandwidth_efficiency;
    k->layers = (double)m->layers;
    k->decode = (struct kv_ragged){.keys = 2, .law = {KV_AXIS_BYTES, KV_AXIS_LINEAR}};
    k->prefill = (struct kv_ragged){.keys = 2, .law = {KV_AXIS_LINEAR, KV_AXIS_SQUARES}};
    t->own = k;
    t->cost = cost;
    if (m->experts || m->kv_lora_rank)
        return kv_fail(e, KV_USAGE, "%s '%s' has %s, whose kernels these tables do not have", kv_timing_where(t),
                       m->name, m->experts ? "experts" : "latent attention");
    if (!(bandwidth > 0))
        return kv_fail(e, KV_USAGE, "%s tables of kernels need [hardware] memory_bandwidth for norms and activations",
                       kv_timing_where(t));
    kv_gemms_of(&gemms, m, t->stored);
    k->element_s = gemms.element_bytes / bandwidth;
    const char *path = kv_format(t->arena, "%s/gemm_bf16.csv", folder);
    bool good = kv_timing_rows(t, path, product_columns, 3, false, take_product, &products, e) &&
                kv_ragged_build(&products, path, t->arena, e) &&
                read_attention(t, &k->decode, folder, kv_format(t->arena, "attn_decode_%s.csv", shape), "kv_len",
                               &own_decode, e) &&
                read_attention(t, &k->prefill, folder, kv_format(t->arena, "attn_prefill_%s.csv", shape), "isl",
                               &own_prefill, e);
    kv_ragged_drop(&products);
    if (good && !own_decode)
        kv_timing_measured_with(t, m, KV_BF16);
    for (int i = 0; good && i < gemms.n; i++)
        good = add_product(t, k, &products, &gemms.gemm[i], &beyond, e);
    t->stamp = kv_format(t->arena, "table '%s': measured kernels for %s; norms and activations by bytes%s", folder,
                         m->name, beyond);
    return good;
}
