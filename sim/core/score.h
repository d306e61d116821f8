/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Which entries stay: a score for each candidate of a lane. Higher stays; equal scores by lower position; INFINITY
 * never leaves; NaN is a bug. A score does not evict, allocate, or know who is asking: guards, top-k, ties and order
 * are the cache's (sim/core/cache.h). Most scores are a recipe, which runs on host or device; the rest are functions.
 */
#ifndef KV_SCORE_H
#define KV_SCORE_H

#include "sim/core/channel.h"
#include "sim/core/schema.h"

struct kv_policy;
struct kv_pass;
struct kv_select;

#define KV_BIT(channel) (1u << (channel))
enum { KV_COLUMNS_MOST = 2 }; /* columns that a score may ask for */

/* One lane at one pass; valid during the call. Its candidates are the entries that may leave, in order of position:
 * those that are not frozen, without the patch. */
struct kv_view {
    const struct kv_policy *policy;
    const struct kv_pass *pass;
    const struct kv_select *select;
    int64_t layer, head;
    int64_t n;           /* candidates */
    int64_t fresh;       /* the last of them that are new in this pass */
    int64_t old_entries; /* entries of the lane before this pass: frozen ones and candidates */
    int64_t tail;        /* newest candidates whose queries made the scores and which stay: not to be pooled */
    int rows;            /* of attention channels: query heads of the lane, or 1 */
    /* Number of candidate i in row r at [r x stride + i]; NULL: not fed. Norms and external scores have one row, which
     * the cache keeps. */
    const float *channel[KV_SCORE_CHANNELS];
    int64_t stride[KV_SCORE_CHANNELS];
    float *column[KV_COLUMNS_MOST]; /* (n,) the score's own numbers of each candidate: they move with it; 0 when new */
    const int32_t *position;        /* (n,) or NULL where the score does not ask for them */
    float *work;                    /* (2 x n + slack,) for the call */
};

enum kv_pooling { KV_POOL_NONE, KV_POOL_AVG, KV_POOL_MAX };
enum kv_group { KV_GROUP_MEAN, KV_GROUP_SUM, KV_GROUP_MAX };
enum kv_order { KV_POOL_FIRST, KV_REDUCE_FIRST };

/* score = sign x reduce over rows (pool (channel)), or the other order. Means are sums: no order depends on it. */
struct kv_recipe_keys {
    int pooling; /* enum kv_pooling */
    int64_t kernel_size;
    int group_reduce; /* enum kv_group */
    int reduce_order; /* enum kv_order */
};

struct kv_score {
    const char *name;
    const char *help;
    bool positional; /* decided by positions alone (sinks and recents): then kept sets are known from lengths */

    const struct kv_field *field;
    int n_fields;
    size_t params_size; /* of a recipe: struct kv_recipe_keys, first */

    /* Channels (KV_BIT): wanted at passes that evict, and at every pass. Both window sums: the chunk's own where
     * earlier chunks are frozen, else that over all keys. */
    unsigned needs, observes;
    bool window;    /* scored by the last window_size queries of the unit (or its patch), which stay themselves */
    bool positions; /* reads kv_view.position */
    int columns;

    /* A recipe: `recipe` and its sign, the channel being the one it needs. Else one of the two functions. */
    bool recipe;
    float sign;
    /* keep: (n,) of one lane. */
    void (*lane)(const struct kv_view *v, float *keep);
    /* keep: [head](n,): one decision for all lanes of a layer, which must hold as much as each other. */
    void (*layer)(const struct kv_view *v, int heads, float *const *keep);
    /* Updates the columns; called at each pass at which an observed channel is fed, before any eviction. */
    void (*observe)(const struct kv_view *v);
    /* Told at each pass that may evict which candidates stay (n bits), before the columns move; all of them, often. */
    void (*kept)(const struct kv_view *v, const uint64_t *stay);

    /* What the functions come to, where it is as simple as this (kv_score_simple): column 0 is the sum of the column
     * sums that were observed, and the score; `layer` adds up the heads' scores in their order. */
    bool gathers, adds_heads;
};

/* The tables of a recipe's keys; the second's defaults are SnapKV's pooling. */
extern const struct kv_field kv_recipe_fields[], kv_pooled_fields[];
enum { KV_RECIPE_FIELDS = 4 };

/* The recipe of a policy, for the whole lane. */
void kv_recipe_run(const struct kv_view *v, float *keep);

/* A score of a step of one token that can be made next to the keys, without asking the host (engine/backend.h). */
enum kv_made { KV_MADE_AFRESH, KV_MADE_GATHERED, KV_MADE_BROUGHT };
struct kv_simple_score {
    enum kv_channel channel; /* last_row, or a norm */
    enum kv_made made;       /* at each step; added to what earlier steps gave; once, as the entry came */
    float sign;
    bool together; /* the heads' scores, added up in their order, decide for all of them */
};
/* False: only the score's functions can make it. `rows`: query heads of a lane. */
bool kv_score_simple(const struct kv_policy *p, int64_t rows, struct kv_simple_score *out);

/* Channels that say something of an entry once, when it comes: the cache keeps them. */
#define KV_STATIC_CHANNELS (KV_BIT(KV_KEY_NORM) | KV_BIT(KV_VALUE_NORM) | KV_BIT(KV_EXTERNAL))

/* Channels fed at a pass: those the score needs where it evicts, those it observes, and those that entries bring. */
unsigned kv_policy_wants(const struct kv_policy *p, const struct kv_pass *pass, bool evicts);
/* "window_seen (attention of the last queries, over all keys), ..." or "nothing". */
const char *kv_score_needs(const struct kv_score *s, struct kv_arena *a);

#endif
