/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/core/store.h"

const char *const kv_dtype_names[] = {"bf16", "fp16", "fp32", "fp8", "int8", "int4", NULL};

const char *const kv_dtype_choices[] = {"auto", "bf16", "fp16", "fp32", "fp8", "int8", "int4", NULL};

enum kv_dtype kv_dtype_of_choice(int choice, enum kv_dtype otherwise)
{
    static const enum kv_dtype dtype[] = {KV_BF16, KV_BF16, KV_FP16, KV_FP32, KV_FP8, KV_INT8, KV_INT4};
    return choice ? dtype[choice] : otherwise;
}

enum kv_dtype kv_cache_dtype_of(const struct kv_model *m)
{
    return m->dtype == KV_FP8 ? KV_BF16 : m->dtype;
}

enum { SCALE_AND_MINIMUM_BYTES = 4, FP16_BYTES = 2 };

int64_t kv_dtype_bits(enum kv_dtype dtype)
{
    static const int64_t bits[] = {16, 16, 32, 8, 8, 4};
    return bits[dtype];
}

bool kv_store_quantised(const struct kv_store *s)
{
    return s->dtype == KV_INT8 || s->dtype == KV_INT4;
}

/* Key or value of one entry, packed: elements at their bits, and one scale and minimum for every `group` of them. Along
 * the tokens (keys) and along the channels (values) the share per entry is the same. */
static int64_t packed_side_bytes(const struct kv_store *s)
{
    int64_t d = s->elements / 2;
    return d * kv_dtype_bits(s->dtype) / 8 + d * SCALE_AND_MINIMUM_BYTES / s->group;
}

int64_t kv_store_entry_bytes(const struct kv_store *s)
{
    if (kv_store_quantised(s))
        return 2 * packed_side_bytes(s);
    return s->elements * kv_dtype_bits(s->dtype) / 8;
}

int64_t kv_store_lane_buffer_bytes(const struct kv_store *s)
{
    return kv_store_quantised(s) ? s->residual * s->elements * FP16_BYTES : 0;
}

int64_t kv_store_held_bytes(const struct kv_store *s, int64_t entries)
{
    if (!kv_store_quantised(s))
        return entries * kv_store_entry_bytes(s);
    int64_t d = s->elements / 2;
    int64_t keys = entries / s->residual * s->residual;
    int64_t values = entries > s->residual ? entries - s->residual : 0;
    return (keys + values) * packed_side_bytes(s) + (2 * entries - keys - values) * d * FP16_BYTES;
}

int64_t kv_store_token_bytes(const struct kv_model *m, enum kv_dtype dtype)
{
    bool mla = m->kv_lora_rank > 0;
    struct kv_store s = {.dtype = dtype,
                         .elements = mla ? m->kv_lora_rank + m->rope_dim : 2 * m->head_dim,
                         .group = KV_STORE_GROUP,
                         .residual = KV_STORE_GROUP};
    return m->layers * (mla ? 1 : m->kv_heads) * kv_store_entry_bytes(&s);
}

bool kv_store_check(const struct kv_store *s, bool mla, const char *where, struct kv_err *e)
{
    if (!kv_store_quantised(s))
        return true;
    if (mla)
        return kv_fail(e, KV_USAGE,
                       "%s kv_cache_dtype '%s' is not defined for a latent (MLA) cache; use bf16, fp16 or fp8", where,
                       kv_dtype_names[s->dtype]);
    bool head = (s->elements / 2) % s->group == 0, residual = s->residual % s->group == 0;
    if (head && residual)
        return true;
    return kv_fail(e, KV_USAGE,
                   "%s group_size %lld does not divide %s %lld; choose one that divides head_dim and "
                   "residual_length",
                   where, (long long)s->group, head ? "residual_length" : "head_dim",
                   (long long)(head ? s->residual : s->elements / 2));
}
