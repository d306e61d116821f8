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
    int64_t prompt, output; /* asked last */
    bool fits;
};

/* Views of both. */
void kv_alone_open(struct kv_alone *a, const struct kv_holder *holder, const struct kv_engine_rules *rules);

/* False: even alone it is refused, at once or when it has outgrown the pool. A watermark is not looked at. */
bool kv_alone_fits(struct kv_alone *a, int64_t prompt, int64_t output);

#endif
