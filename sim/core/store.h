/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What one entry weighs. bf16 and fp16: two bytes an element. fp8: one byte, its scale one per tensor (vLLM's
 * `kv_cache_dtype = fp8`), so nothing per entry. int8 and int4 as KIVI stores them (arXiv 2402.02750): `group` elements
 * share a scale and a minimum of two bytes each, and the newest entries stay in fp16: keys wait until `residual` of
 * them fill a group along the tokens, values keep their last `residual` as they are. KIVI's own b is 2; the formula is
 * the same.  */
#ifndef KV_STORE_H
#define KV_STORE_H

#include "sim/core/model.h"

struct kv_store {
    enum kv_dtype dtype;
    int64_t elements;        /* of an entry, key and value together: 2 x head_dim; MLA: kv_lora_rank + rope_dim */
    int64_t group, residual; /* of int8 and int4 */
};

enum { KV_STORE_GROUP = 32 }; /* KIVI's G, and R, where nothing else is said */

/* What a config or option may say of the KV cache, "auto" first; and what a choice means where auto is `otherwise`. */
extern const char *const kv_dtype_choices[];
enum kv_dtype kv_dtype_of_choice(int choice, enum kv_dtype otherwise);
/* What a model's cache holds when nothing else is said: its weights' type, bf16 beside fp8 weights. */
enum kv_dtype kv_cache_dtype_of(const struct kv_model *m);

extern const char *const kv_dtype_names[]; /* by enum kv_dtype, NULL at the end */
int64_t kv_dtype_bits(enum kv_dtype dtype);
bool kv_store_quantised(const struct kv_store *s);

/* Bytes a page gives to each entry: the element bytes and, when quantised, its share of scales and minima. */
int64_t kv_store_entry_bytes(const struct kv_store *s);

/* Bytes of a lane that no page counts: the fp16 buffer of the newest `residual` keys and values; else 0. */
int64_t kv_store_lane_buffer_bytes(const struct kv_store *s);

/* Bytes that `entries` entries of one lane really are. Not monotone when quantised: a full group of keys is packed. */
int64_t kv_store_held_bytes(const struct kv_store *s, int64_t entries);

/* Bytes of one token over all layers of a full cache, pages' share of scales included. */
int64_t kv_store_token_bytes(const struct kv_model *m, enum kv_dtype dtype);

/* KV_USAGE when the sizes do not go together. */
bool kv_store_check(const struct kv_store *s, bool mla, const char *where, struct kv_err *e);

#endif
