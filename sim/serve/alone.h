/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Whether a request comes through when a replica serves nothing else: what the pool is too small for even then is
 * refused as it arrives. */
#ifndef KV_ALONE_H
#define KV_ALONE_H

#include "sim/serve/engine.h"

struct kv_alone {
    const struct kv_holder *holder;
    const struct kv_engine_rules *rules;
    struct kv_hold hold;
    int64_t whole;          /* tokens that fit with nothing evicted */
    int64_t prompt, output; /* walked last */
    bool fits;
};

/* Views of both. */
void kv_alone_open(struct kv_alone *a, const struct kv_holder *holder, const struct kv_engine_rules *rules);

/* The answer where something must be evicted. */
bool kv_alone_walk(struct kv_alone *a, int64_t prompt, int64_t output);

/* False: even alone it is refused, at once or when it has outgrown the pool. A watermark is not looked at. */
static inline bool kv_alone_fits(struct kv_alone *a, int64_t prompt, int64_t output)
{
    return prompt + output - 1 <= a->whole || kv_alone_walk(a, prompt, output); /* the last token is never fed */
}

#endif
