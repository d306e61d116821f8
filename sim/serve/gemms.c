/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/serve/gemms.h"

#include <math.h>

/* Bytes of an activation: engines keep them in 16 bits. */
enum { ACTIVATION_BYTES = 2 };

static void add(struct kv_gemms *g, const char *name, int64_t n, int64_t k, int64_t times, enum kv_gemm_rows rows)
{
    if (!n || !k || !times)
        return;
    KV_ASSERT(g->n < KV_GEMMS);
    g->gemm[g->n++] = (struct kv_gemm){name, n, k, (double)times, rows};
}

static void add_attention(struct kv_gemms *g, const struct kv_model *m)
{
    int64_t l = m->layers;
    if (!m->kv_lora_rank) {
        add(g, "qkv", (m->q_heads + 2 * m->kv_heads) * m->head_dim, m->hidden, l, KV_GEMM_TOKENS);
        add(g, "o", m->hidden, m->q_heads * m->head_dim, l, KV_GEMM_TOKENS);
        return;
    }
    int64_t q = m->q_heads * (m->nope_dim + m->rope_dim);
    add(g, "q_a", m->q_lora_rank, m->hidden, l, KV_GEMM_TOKENS);
    add(g, "q_b", q, m->q_lora_rank ? m->q_lora_rank : m->hidden, l, KV_GEMM_TOKENS);
    add(g, "kv_a", m->kv_lora_rank + m->rope_dim, m->hidden, l, KV_GEMM_TOKENS);
    add(g, "kv_b", m->q_heads * (m->nope_dim + m->value_dim), m->kv_lora_rank, l, KV_GEMM_TOKENS);
    add(g, "o", m->hidden, m->q_heads * m->value_dim, l, KV_GEMM_TOKENS);
}

void kv_gemms_of(struct kv_gemms *g, const struct kv_model *m, enum kv_dtype kv_dtype)
{
    int64_t dense = m->experts ? m->dense_layers : m->layers, sparse = m->layers - dense;
    double layers = (double)m->layers, heads = (double)m->q_heads;
    *g = (struct kv_gemms){.experts = (double)m->experts, .chosen = (double)m->experts_per_token};
    add_attention(g, m);
    add(g, "gate_up", 2 * m->intermediate, m->hidden, dense, KV_GEMM_TOKENS);
    add(g, "down", m->hidden, m->intermediate, dense, KV_GEMM_TOKENS);
    add(g, "router", m->experts, m->hidden, sparse, KV_GEMM_TOKENS);
    add(g, "shared gate_up", 2 * m->shared_intermediate, m->hidden, sparse, KV_GEMM_TOKENS);
    add(g, "shared down", m->hidden, m->shared_intermediate, sparse, KV_GEMM_TOKENS);
    add(g, "experts' gate_up", 2 * m->moe_intermediate, m->hidden, m->experts ? sparse : 0, KV_GEMM_EXPERTS);
    add(g, "experts' down", m->hidden, m->moe_intermediate, m->experts ? sparse : 0, KV_GEMM_EXPERTS);
    add(g, "lm_head", m->vocab, m->hidden, 1, KV_GEMM_SEQUENCES);
    g->weight_bytes = m->parameters && m->weight_bytes ? (double)m->weight_bytes / (double)m->parameters : 2;
    g->kv_bytes = (double)kv_store_token_bytes(m, kv_dtype);
    /* a product and a sum for each element of query x key and of weight x value; MLA works on the latent */
    double key = (double)(m->kv_lora_rank ? m->kv_lora_rank + m->rope_dim : m->head_dim);
    double value = (double)(m->kv_lora_rank ? m->kv_lora_rank : m->head_dim);
    g->pair_flops = layers * heads * 2 * (key + value);
    g->row_bytes = layers * heads * (key + value) * ACTIVATION_BYTES;
    /* two norms of x and residual, each read and written; q, k, v rotated in place; gate and up read, product written
     */
    double mlp =
        (double)(m->experts ? m->moe_intermediate * m->experts_per_token + m->shared_intermediate : m->intermediate);
    double qkv = m->kv_lora_rank ? 0 : (double)((m->q_heads + 2 * m->kv_heads) * m->head_dim);
    g->element_bytes = layers * ACTIVATION_BYTES * (8 * (double)m->hidden + 2 * qkv + 3 * mlp);
}

double kv_experts_touched(const struct kv_gemms *g, double tokens)
{
    return g->experts > 0 ? g->experts * (1 - pow(1 - fmin(1, g->chosen / g->experts), tokens)) : 0;
}
