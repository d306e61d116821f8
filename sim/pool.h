/* SPDX-License-Identifier: GPL-3.0-or-later */
/* How much of a device is left for KV: memory x utilisation - weights - activations - overhead, each line kept so that
 * it can be printed. It is an estimate unless `kv_pool` was measured, and says so. */
#ifndef KV_POOL_H
#define KV_POOL_H

#include "sim/settings.h"

struct kv_pool {
    int64_t memory, usable, weights, activations, overhead; /* of a device */
    int64_t devices;                                        /* that share the model (tensor parallel) */
    int64_t bytes; /* for KV, of all of them, each entry counted once; may be negative: the model does not fit */
    int64_t batched_tokens; /* of a pass, which the activations were estimated for */
    bool measured;          /* given as kv_pool */
    bool activations_estimated;
    int64_t token_bytes; /* KV of one token, in the run's dtype */
};

/* `pass_tokens`: the longest pass of the plan, used where max_num_batched_tokens is auto. */
void kv_pool_derive(struct kv_pool *p, const struct kv_settings *s, const struct kv_model *m, enum kv_dtype dtype,
                    int64_t pass_tokens);

/* One line: the shape, and what a token weighs in this dtype. */
void kv_print_model(const struct kv_model *m, enum kv_dtype dtype);

void kv_pool_print(const struct kv_pool *p, const struct kv_settings *s, const struct kv_model *m);

#endif
