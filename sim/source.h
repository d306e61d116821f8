/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A trace as a policy wants to read it: which recorded channel stands for one that it asks for, and whether it can. */
#ifndef KV_SOURCE_H
#define KV_SOURCE_H

#include "sim/core/policy.h"
#include "traces/trace.h"

/* How a wanted channel comes out of the trace. */
enum kv_way {
    KV_WAY_NONE,
    KV_WAY_RECORDED, /* rows as they are, those of survivors picked out */
    KV_WAY_LOGITS,   /* softmax of recorded logits over the survivors: exact */
    KV_WAY_KEYS,     /* from recorded keys (and values) of the survivors: exact */
};

struct kv_source {
    enum kv_way way;
    int channel;      /* of the trace */
    int values;       /* of the trace: the second one that KV_WAY_KEYS may need, or -1 */
    bool query_heads; /* a row for each query head of a lane's group */
};

/* Finds how `what` can be had for the policy. KV_USAGE: says what the trace has and what to record. */
bool kv_source_find(struct kv_source *s, enum kv_channel what, const struct kv_policy *p, const struct kv_shape *shape,
                    const struct kv_trace_about *about, struct kv_arena *a, struct kv_err *e);

/* The attention that tells how much of it survivors hold: rows over all keys. -1: the trace has none. */
int kv_source_mass(const struct kv_trace_about *about);
int kv_source_later(const struct kv_trace_about *about);

#endif
