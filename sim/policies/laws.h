/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Laws and scores that several kinds share. */
#ifndef KV_POLICIES_LAWS_H
#define KV_POLICIES_LAWS_H

#include "sim/core/policy.h"

extern const struct kv_law kv_law_all;   /* everything stays */
extern const struct kv_law kv_law_fixed; /* the same number in each lane, for good */

/* What the fixed law leaves a lane, sinks and recents included; KV_NO_BOUND at keep = 100 %. */
int64_t kv_fixed_total(const struct kv_policy *p, int64_t prompt);
/* Refuses a budget that is missing or below sinks and recents. */
bool kv_fixed_prepare(struct kv_policy *p, const struct kv_shape *s, struct kv_arena *a, struct kv_err *e);

extern const struct kv_score kv_score_none;
extern const struct kv_score kv_score_recency;
extern const struct kv_score kv_score_window;

/* Capacity of one unit of tokens under the SnapKV rules, window included: what SnapKV gives each layer and
 * PyramidKV shares out among them.
 * Source: policies as published by PruLong (eval/, commit ff22598e), chunked and post-fill drivers. */
struct kv_capacity {
    int64_t
        total; /* tokens the rules look at: the unit and its patch, the whole lane, or, decoding, all tokens so far */
    int64_t capacity; /* C, window included; the patch counts in it */
    int64_t window;   /* w */
    bool chunk;       /* the unit is a prefill chunk: earlier entries are frozen */
    bool decode;      /* the unit is decoded tokens: the whole lane competes for the capacity */
    enum kv_steady steady;
};
struct kv_capacity kv_unit_capacity(const struct kv_policy *p, const struct kv_lane *lane, const struct kv_pass *pass,
                                    int64_t round_to);

/* SnapKV's rule on a unit: keep all below capacity; only the window when the capacity is no more; else the capacity.
 * Ours: a unit of at most the window keeps all, where upstream fails. */
int64_t kv_snapkv_keeps(const struct kv_capacity *c);

/* `keeps` of the unit's tokens, patch included, as room: the patch itself leaves with the pass. */
struct kv_room kv_unit_room(const struct kv_capacity *c, const struct kv_lane *lane, const struct kv_pass *pass,
                            int64_t keeps);

/* The paper's form of chunked eviction (one pass when the policy evicts after prefill). */
struct kv_paper_form kv_paper_chunked(const struct kv_policy *p, const struct kv_request *r, int64_t chunk);

#endif
