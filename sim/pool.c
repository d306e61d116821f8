/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/pool.h"

#include "sim/core/least.h"
#include "sim/core/units.h"

#include <stdio.h>

/* Bytes a forward pass of `tokens` tokens needs beside weights and KV: residual stream and its norm, and the larger of
 * attention's projections and the MLP's, in 2-byte elements; logits of `seqs` sequences, computed in fp32 from 2-byte
 * ones. A lower estimate: workspaces of kernels are not in it. */
static int64_t activation_bytes(const struct kv_model *m, int64_t tokens, int64_t seqs)
{
    enum { ELEMENT_BYTES = 2, LOGIT_BYTES = 2 + 4 };
    int64_t head = m->kv_lora_rank ? m->nope_dim + m->rope_dim : m->head_dim;
    int64_t attention = (2 * m->q_heads + 2 * m->kv_heads) * head; /* q, k, v and the output before its projection */
    int64_t mlp = 3 * m->intermediate;                             /* gate, up and their product */
    if (m->experts)
        mlp = 3 * (m->experts_per_token * m->moe_intermediate + m->shared_intermediate);
    return tokens * (2 * m->hidden + kv_most(attention, mlp)) * ELEMENT_BYTES + seqs * m->vocab * LOGIT_BYTES;
}

void kv_pool_derive(struct kv_pool *p, const struct kv_settings *s, const struct kv_model *m, enum kv_dtype dtype,
                    int64_t pass_tokens)
{
    *p = (struct kv_pool){
        .memory = s->hardware.memory == KV_UNSET ? 0 : s->hardware.memory,
        .devices = s->engine.tensor_parallel_size,
        .overhead = s->hardware.overhead,
        .batched_tokens = s->engine.max_num_batched_tokens == KV_UNSET ? pass_tokens : s->engine.max_num_batched_tokens,
        .measured = s->engine.kv_pool != KV_UNSET,
        .activations_estimated = s->hardware.activations == KV_UNSET,
        .token_bytes = kv_store_token_bytes(m, dtype),
    };
    p->usable = (int64_t)((double)p->memory * s->engine.gpu_memory_utilization);
    struct kv_model share;
    struct kv_err ignored = {0}; /* settings were checked against the model */
    kv_model_share(m, p->devices, &share, &ignored);
    p->weights = share.weight_bytes;
    p->activations = p->activations_estimated ? activation_bytes(&share, p->batched_tokens, s->engine.max_num_seqs)
                                              : s->hardware.activations;
    p->bytes = p->measured ? s->engine.kv_pool : p->usable - p->weights - p->activations - p->overhead;
    if (!m->kv_lora_rank && p->devices > 1) /* more devices than KV heads hold some of them twice */
        p->bytes = p->bytes / share.kv_heads * m->kv_heads;
}

void kv_print_model(const struct kv_model *m, enum kv_dtype dtype)
{
    char token[KV_NUMBER_TEXT];
    printf("%s, %s KV: %lld layers x ", m->name, kv_dtype_names[dtype], (long long)m->layers);
    if (m->kv_lora_rank)
        printf("one latent of %lld + %lld (MLA)", (long long)m->kv_lora_rank, (long long)m->rope_dim);
    else
        printf("%lld KV heads x %lld", (long long)m->kv_heads, (long long)m->head_dim);
    printf(" -> %s per token\n", kv_print_bytes(token, kv_store_token_bytes(m, dtype)));
}

static void line(const char *what, int64_t bytes, const char *why)
{
    char text[KV_NUMBER_TEXT];
    printf("  %-22s %12s  %s\n", what, kv_print_bytes(text, bytes), why);
}

void kv_pool_print(const struct kv_pool *p, const struct kv_settings *s, const struct kv_model *m)
{
    char why[160], tokens[KV_NUMBER_TEXT], blocks[KV_NUMBER_TEXT];
    const char *device = s->hardware.title ? s->hardware.title : s->hardware.device;
    if (p->devices > 1)
        printf("Memory on each of %lld x %s\n", (long long)p->devices, device);
    else
        printf("Memory on %s\n", device);
    if (!p->measured) {
        line("device memory", p->memory, "");
        snprintf(why, sizeof why, "x %.2f gpu_memory_utilization", s->engine.gpu_memory_utilization);
        line("usable", p->usable, why);
        snprintf(why, sizeof why, "%s%s", m->name, s->model.weights == KV_UNSET ? "" : ", as given");
        line("- weights", p->weights, why);
        snprintf(why, sizeof why, "passes of %s tokens, %s", kv_print_count(tokens, p->batched_tokens),
                 p->activations_estimated ? "estimated" : "as given");
        line("- activations", p->activations, why);
        line("- overhead", p->overhead, "driver context, libraries, graphs");
    }
    if (p->bytes <= 0) {
        line("= KV pool", p->bytes, "nothing is left");
        return;
    }
    snprintf(why, sizeof why, "%s tokens of the full cache, %s blocks of %lld; %s",
             kv_print_count(tokens, p->bytes / p->token_bytes),
             kv_print_count(blocks, p->bytes / (p->token_bytes * s->engine.block_size)),
             (long long)s->engine.block_size, p->measured ? "as measured" : "estimated, not measured");
    line(p->devices > 1 ? "= KV pool of all" : "= KV pool", p->bytes, why);
}
