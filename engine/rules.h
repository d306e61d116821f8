/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A policy by the numbers its user gives, and how many entries of a lane stay by the published rules. Written from
 * notes of the publications and their code, which docs/POLICIES.md names, and not from sim/policies: it is what those
 * are checked against, together with engine/selector.h. */
#ifndef KV_RULES_H
#define KV_RULES_H

#include <stdbool.h>
#include <stdint.h>

/* How many entries stay: one rule for each law of the table, by the law's name. KV_RULE_UNKNOWN: one that nobody has
 * written here. */
enum kv_rule {
    KV_RULE_ALL,
    KV_RULE_FIXED,
    KV_RULE_UNIFORM,
    KV_RULE_PYRAMID,
    KV_RULE_GROWING,
    KV_RULE_MASK,
    KV_RULE_HEADS,
    KV_RULE_ADAPTIVE,
    KV_RULE_SAFEGUARD,
    KV_RULE_UNKNOWN
};
enum kv_rule kv_rule_of(const char *law);

/* A model's shape, a request and a policy as its user would say it. */
struct kv_rules {
    int64_t layers, kv_heads, heads; /* heads: lanes of a layer, which hold entries of their own */
    const int64_t *window; /* (layers,) entries of a sliding-window layer, 0: full attention; NULL: all full */
    int64_t prompt, prefill, output;

    enum kv_rule rule;
    const char *score;
    bool positional;                                       /* sinks and recents alone */
    bool at_chunks, at_postfill, at_decode;                /* when it evicts */
    int64_t chunk, every, patch;                           /* chunk: of the prefill passes */
    int64_t window_size, sinks, recents, floor;            /* floor: min_tokens */
    double share;                                          /* that stays; NaN: none */
    int64_t tokens;                                        /* budget where there is no share; 0: none */
    int64_t skip, round_to, beta, stabilizers, local;      /* keys of laws */
    bool kvpress;                                          /* PyramidKV's other schedule */
    double head_beta, held_back;                           /* HeadKV's; floor_ratio or alpha_safeguard of AdaKV */
    bool normalize;                                        /* AdaKV's */
    const double *importance;                              /* (layers, kv_heads) HeadKV's, any unit */
    const bool *full;                                      /* (layers, kv_heads) under a head mask: keep everything */
    bool pools_mean, pools_max, reduces_max, reduce_first; /* of scores that pool and reduce */
    int64_t kernel, block, seed, local_size;
};

/* As many heads of highest gate are full as DuoAttention's loader makes: notes/policies.md 8.1; lower layer and then
 * lower head first among equals. */
void kv_rules_full_heads(const double *gate, int64_t lanes, double sparsity, bool *full);

/* A pass. */
struct kv_turn {
    int64_t index, start, n_new, n_patch;
    int64_t decode_step; /* -1 in prefill */
    int64_t n_unit;      /* tokens since the last eviction, the new ones included */
    bool evict, last;    /* last: of the prefill */
};

/* The pass after `before` (NULL: the first); false when the request has ended. */
bool kv_rules_next(const struct kv_rules *r, const struct kv_turn *before, struct kv_turn *turn);

/* What the rules leave a lane: its oldest `from` entries are out of the question; of those behind them, patch left out,
 * `keep` stay, the `first` and the `newest` of them whatever else. */
struct kv_rules_room {
    bool bounded;
    int64_t from, keep, first, newest;
};
/* Of a lane that holds n entries at these positions, patch included, `last` of them after its last eviction. */
struct kv_rules_room kv_rules_room(const struct kv_rules *r, const struct kv_turn *p, const int32_t *at, int64_t n,
                                   int64_t last, int64_t layer, int64_t head);

/* SnapKV and PyramidKV: a unit of tokens has a capacity, and chunks that were evicted from are frozen. */
bool kv_rules_count_units(const struct kv_rules *r);
/* Tokens of the unit that the score's own window protects. */
int64_t kv_rules_window(const struct kv_rules *r, int64_t n_patch);
/* Entries of the layer's sliding window; 0: full attention. */
int64_t kv_rules_slide(const struct kv_rules *r, int64_t layer);

#endif
