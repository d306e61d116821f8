/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Sizes of a model from its fields. What differs between families and is not a field of its own (a bias on each expert,
 * an attention sink) is decided by `type` here and nowhere else. */
#include "sim/core/model.h"
#include "sim/core/store.h"

#include <stddef.h>
#include <string.h>

enum { MOST_LAYERS = KV_MODEL_MOST_LAYERS, MOST = KV_MODEL_MOST };

/* ---- checks ---- */

#define AT(field) offsetof(struct kv_model, field)
enum { ALWAYS, NEVER, WITH_MLA, WITH_EXPERTS };

/* A field's range; `least_when`: when 1 is the least, otherwise 0 is. */
static const struct range {
    const char *name;
    size_t offset;
    int64_t most;
    int least_when;
} ranges[] = {
    {"layers", AT(layers), MOST_LAYERS, ALWAYS},
    {"q_heads", AT(q_heads), MOST, ALWAYS},
    {"kv_heads", AT(kv_heads), MOST, ALWAYS},
    {"head_dim", AT(head_dim), MOST, ALWAYS},
    {"hidden", AT(hidden), MOST, ALWAYS},
    {"intermediate", AT(intermediate), MOST, NEVER},
    {"vocab", AT(vocab), MOST, ALWAYS},
    {"max_positions", AT(max_positions), MOST, ALWAYS},
    {"norms_per_layer", AT(norms_per_layer), MOST, ALWAYS},
    {"sliding_window", AT(sliding_window), MOST, NEVER},
    {"sliding_full_every", AT(sliding_full_every), MOST_LAYERS, NEVER},
    {"experts", AT(experts), MOST, NEVER},
    {"experts_per_token", AT(experts_per_token), MOST, WITH_EXPERTS},
    {"moe_intermediate", AT(moe_intermediate), MOST, WITH_EXPERTS},
    {"shared_intermediate", AT(shared_intermediate), MOST, NEVER},
    {"dense_layers", AT(dense_layers), MOST_LAYERS, NEVER},
    {"kv_lora_rank", AT(kv_lora_rank), MOST, NEVER},
    {"rope_dim", AT(rope_dim), MOST, WITH_MLA},
    {"q_lora_rank", AT(q_lora_rank), MOST, NEVER},
    {"nope_dim", AT(nope_dim), MOST, WITH_MLA},
    {"value_dim", AT(value_dim), MOST, WITH_MLA},
    {"rope_original_max_positions", AT(rope_original_max_positions), MOST, NEVER},
};

static bool check_ranges(const struct kv_model *m, struct kv_err *e)
{
    const bool least_is_one[] = {
        [ALWAYS] = true,
        [NEVER] = false,
        [WITH_MLA] = m->kv_lora_rank > 0,
        [WITH_EXPERTS] = m->experts > 0,
    };
    bool good = true;
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        const struct range *r = &ranges[i];
        int64_t value = *(const int64_t *)(const void *)((const char *)m + r->offset);
        int64_t least = least_is_one[r->least_when];
        if (value < least)
            good = kv_fail(e, KV_DATA, "%s: '%s' is %lld; expected at least %lld", m->origin, r->name, (long long)value,
                           (long long)least);
        if (value > r->most)
            good = kv_fail(e, KV_DATA, "%s: '%s' is %lld; expected at most %lld", m->origin, r->name, (long long)value,
                           (long long)r->most);
    }
    return good;
}

static bool check_type(const struct kv_model *m, struct kv_arena *a, struct kv_err *e)
{
    const char *known = "";
    for (const char *const *family = kv_model_families; *family; family++) {
        if (m->type && !strcmp(m->type, *family))
            return true;
        known = kv_format(a, "%s%s%s", known, *known ? ", " : "", *family);
    }
    if (!m->type)
        return kv_fail(e, KV_DATA, "%s: 'type' is missing; one of %s", m->origin, known);
    return kv_fail(e, KV_DATA, "%s: type '%s' is not known; known: %s", m->origin, m->type, known);
}

/* How the fields go together. In words, because a config.json has other names for the fields. */
static bool check_relations(const struct kv_model *m, struct kv_err *e)
{
    bool good = true;
    if (m->q_heads % m->kv_heads)
        good = kv_fail(e, KV_DATA, "%s: %lld query heads cannot share %lld KV heads evenly; expected a multiple",
                       m->origin, (long long)m->q_heads, (long long)m->kv_heads);
    if (m->kv_lora_rank && m->head_dim != m->nope_dim + m->rope_dim)
        good = kv_fail(e, KV_DATA, "%s: 'head_dim' is %lld; expected nope_dim + rope_dim, %lld", m->origin,
                       (long long)m->head_dim, (long long)(m->nope_dim + m->rope_dim));
    if (m->experts_per_token > m->experts)
        good = kv_fail(e, KV_DATA, "%s: %lld experts per token, but only %lld experts", m->origin,
                       (long long)m->experts_per_token, (long long)m->experts);
    if (m->dense_layers > m->layers)
        good = kv_fail(e, KV_DATA, "%s: %lld dense layers, but only %lld layers", m->origin, (long long)m->dense_layers,
                       (long long)m->layers);
    if ((!m->experts || m->dense_layers) && m->intermediate < 1)
        good = kv_fail(e, KV_DATA, "%s: 'intermediate' is 0, but there are layers without experts; expected at least 1",
                       m->origin);
    if (m->sliding_full_every && !m->sliding_window && !m->window)
        good = kv_fail(e, KV_DATA, "%s: 'sliding_full_every' is %lld, but there is no 'sliding_window'", m->origin,
                       (long long)m->sliding_full_every);
    if (m->dtype == KV_INT8 || m->dtype == KV_INT4)
        good = kv_fail(e, KV_DATA,
                       "%s: 'dtype' is %s; expected bf16, fp16, fp32 or fp8, and 'quantised' where weights "
                       "are narrower than that",
                       m->origin, kv_dtype_names[m->dtype]);
    return good;
}

/* ---- windows ---- */

static bool fill_windows(struct kv_model *m, struct kv_arena *a, struct kv_err *e)
{
    if (!m->window) {
        m->window = kv_alloc_many(a, (size_t)m->layers, sizeof *m->window, "the window of each layer", e);
        if (!m->window)
            return false;
        for (int64_t i = 0; i < m->layers; i++)
            m->window[i] = m->sliding_full_every && (i + 1) % m->sliding_full_every == 0 ? 0 : m->sliding_window;
    }
    bool slides = false;
    for (int64_t i = 0; i < m->layers; i++) {
        KV_ASSERT(m->window[i] == 0 || m->window[i] == m->sliding_window);
        slides |= m->window[i] != 0;
    }
    if (!slides)
        m->sliding_window = 0;
    return true;
}

/* ---- parameters ---- */

struct sum {
    int64_t n;
    bool overflow;
};

/* Adds `count` matrices of rows x columns. */
static void add(struct sum *s, int64_t count, int64_t rows, int64_t columns)
{
    int64_t matrix, all;
    s->overflow |= __builtin_mul_overflow(rows, columns, &matrix) || __builtin_mul_overflow(count, matrix, &all) ||
                   __builtin_add_overflow(s->n, all, &s->n);
}

static bool is(const struct kv_model *m, const char *type)
{
    return !strcmp(m->type, type);
}

static void add_attention(struct sum *s, const struct kv_model *m)
{
    int64_t q = m->q_heads * m->head_dim, kv = m->kv_heads * m->head_dim;
    add(s, m->layers, m->hidden, q + 2 * kv); /* q, k, v */
    add(s, m->layers, q, m->hidden);          /* o */
    if (m->qkv_bias)
        add(s, m->layers, 1, q + 2 * kv);
    if (m->o_bias)
        add(s, m->layers, 1, m->hidden);
    if (m->qk_norm)
        add(s, m->layers, 1, is(m, "olmo2") ? q + kv : 2 * m->head_dim);
    if (is(m, "gpt_oss"))
        add(s, m->layers, 1, m->q_heads); /* one sink for each head */
}

/* DeepSeek-V2, arXiv:2405.04434, section 2.1: queries (optionally), keys and values come from low-rank latents. The
 * latent and the rotary part of the key are one projection; each latent has a norm. */
static void add_latent_attention(struct sum *s, const struct kv_model *m)
{
    int64_t q = m->q_heads * (m->nope_dim + m->rope_dim);
    if (m->q_lora_rank) {
        add(s, m->layers, m->hidden + 1, m->q_lora_rank); /* + 1: the norm */
        add(s, m->layers, m->q_lora_rank, q);
    } else {
        add(s, m->layers, m->hidden, q);
    }
    add(s, m->layers, m->hidden, m->kv_lora_rank + m->rope_dim);
    add(s, m->layers, 1, m->kv_lora_rank);
    add(s, m->layers, m->kv_lora_rank, m->q_heads * (m->nope_dim + m->value_dim));
    add(s, m->layers, m->q_heads * m->value_dim, m->hidden);
}

static void add_mlp(struct sum *s, const struct kv_model *m, int64_t layers)
{
    add(s, layers, 3 * m->hidden, m->intermediate); /* gate, up, down */
    if (m->mlp_bias)
        add(s, layers, 1, 2 * m->intermediate + m->hidden);
}

static void add_experts(struct sum *s, const struct kv_model *m, int64_t layers)
{
    int64_t experts = layers * m->experts;
    add(s, experts, 3 * m->hidden, m->moe_intermediate);
    add(s, experts, 1, m->hidden); /* router */
    add(s, layers, 3 * m->hidden, m->shared_intermediate);
    if (m->shared_gate)
        add(s, layers, 1, m->hidden);
    if (is(m, "gpt_oss")) /* a bias on the router, and on the matrices of each expert */
        add(s, experts, 1, 1 + 2 * m->moe_intermediate + m->hidden);
    if (is(m, "deepseek_v3")) /* the vector that balances the load of the experts without a loss */
        add(s, experts, 1, 1);
}

static bool count_parameters(struct kv_model *m, struct kv_err *e)
{
    int64_t dense = m->experts ? m->dense_layers : m->layers;
    struct sum s = {0}, bits = {0}, kv = {0};
    add(&s, m->tie_embeddings ? 1 : 2, m->vocab, m->hidden);
    if (m->kv_lora_rank)
        add_latent_attention(&s, m);
    else
        add_attention(&s, m);
    add_mlp(&s, m, dense);
    if (m->experts)
        add_experts(&s, m, m->layers - dense);
    add(&s, m->layers, m->norms_per_layer, m->hidden);
    add(&s, 1, 1, m->hidden); /* the last norm */
    m->parameters = s.n;

    /* What is computed from these later must fit too: the bits of all weights, the bytes of a token's KV. */
    add(&bits, 64, 1, s.n);
    add(&kv, 8 * m->layers, m->kv_heads, m->head_dim);
    if (s.overflow || bits.overflow || kv.overflow)
        return kv_fail(e, KV_DATA, "%s: the sizes multiply to more than 64 bits can count; at least one is wrong",
                       m->origin);
    return true;
}

bool kv_model_finish(struct kv_model *m, struct kv_arena *a, struct kv_err *e)
{
    bool good = check_type(m, a, e);
    good = check_ranges(m, e) && good;
    if (!good || !check_relations(m, e) || !count_parameters(m, e) || !fill_windows(m, a, e))
        return false;
    if (!m->quantised)
        m->weight_bytes = (m->parameters * kv_dtype_bits(m->dtype) + 7) / 8;
    return true;
}

static int64_t part_of(int64_t whole, int64_t parts)
{
    return (whole + parts - 1) / parts;
}

bool kv_model_share(const struct kv_model *m, int64_t devices, struct kv_model *share, struct kv_err *e)
{
    *share = *m;
    if (devices <= 1)
        return true;
    if (m->q_heads % devices)
        return kv_fail(e, KV_USAGE,
                       "tensor_parallel_size = %lld: the %lld query heads of '%s' cannot be dealt out evenly",
                       (long long)devices, (long long)m->q_heads, m->name);
    if (m->kv_heads % devices && devices % m->kv_heads)
        return kv_fail(e, KV_USAGE, "tensor_parallel_size = %lld: the %lld KV heads of '%s' cannot be dealt out evenly",
                       (long long)devices, (long long)m->kv_heads, m->name);
    share->q_heads = m->q_heads / devices;
    share->kv_heads = part_of(m->kv_heads, devices);
    share->intermediate = part_of(m->intermediate, devices);
    share->moe_intermediate = part_of(m->moe_intermediate, devices);
    share->shared_intermediate = part_of(m->shared_intermediate, devices);
    share->vocab = part_of(m->vocab, devices);
    share->parameters = part_of(m->parameters, devices);
    share->weight_bytes = part_of(m->weight_bytes, devices);
    return true;
}
