/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The KV cache of one sequence under one policy, as far as deciding goes: which positions each lane holds, what the
 * score remembers of them, what it costs. It is told that a pass begins, what each layer attended to as it ends, and
 * that the pass ends; replay tells it from a trace, an engine from the device and then moves rows.
 *
 * A lane is a set of positions: bit i is token i. Entries are named by rank, their place in order of position. Layers
 * may be handed in by different threads, the lanes of one layer by one. The same calls give the same sets, whatever the
 * threads. */
#ifndef KV_CACHE_H
#define KV_CACHE_H

#include "sim/core/ledger.h"
#include "sim/core/select.h"

struct kv_cache_lane {
    int64_t end;  /* tokens that were put into the set; those up to `seen` are held as well */
    int64_t held; /* entries of the set */
    int64_t last; /* entries after the last eviction: what a law is asked with */
    uint64_t *set;
    float *column; /* (columns, room) numbers that move with the entries */
    int64_t room;
    int64_t fed;  /* tokens whose static channels were fed */
    int64_t hole; /* of a positional policy: where its span of recents begins, or 0 */
    bool decided; /* handed in, in the pass that is on */
    int64_t ties; /* entries that the order of positions chose, in all */
};

struct kv_cache {
    const struct kv_policy *policy;
    const struct kv_shape *shape;
    struct kv_request request;
    int64_t tokens; /* that it has room for */
    int64_t lanes;
    struct kv_cache_lane *lane; /* (layers, store heads) */
    struct kv_classes classes;  /* one for each lane */
    struct kv_ledger ledger;
    bool in_place; /* pages without compaction are counted, from the sets */

    struct kv_pass pass; /* the one that was begun */
    int64_t passes;
    int64_t index, seen, unit;
    int64_t *before, *gain, *frozen; /* (lanes,) of the pass, for the ledger */
    unsigned statics;                /* static channels kept in columns, one each, before the score's own */
    int columns;
    struct kv_places *places; /* pages without compaction */
    uint64_t *unions;         /* a layer's set, and that of all */
};

/* Buffers of one thread; any cache of at most so many entries a lane and heads a layer may use them. */
struct kv_cache_work {
    const struct kv_select *select;
    struct kv_top_work top;
    float **keep; /* (heads,)(entries + slack,) */
    float *pool;  /* (2 x entries + slack,) */
    float *all;   /* (heads x entries + slack,) for shared budgets */
    int32_t *position;
    uint64_t *mask, *all_mask;
    int64_t chosen; /* candidates of the lane decided last, those that stayed in `mask`; 0: all of them did */
    int heads;
};

/* What one lane brings. Attention and the like: (rows, stride) over the lane's entries, new tokens, and patch;
 * window_local: over the unit (tokens since the last eviction) and patch. Static channels: one row, over the tokens
 * since they were last fed. Views; finite, no NaN. */
struct kv_lane_in {
    int rows;
    const float *channel[KV_SCORE_CHANNELS];
    int64_t stride[KV_SCORE_CHANNELS];
};

/* The policy must be prepared for the shape. KV_ENV when memory is out. `in_place`: count pages without compaction. */
bool kv_cache_open(struct kv_cache *c, const struct kv_policy *p, const struct kv_shape *s, const struct kv_request *r,
                   int64_t page, bool in_place, struct kv_arena *a, struct kv_err *e);
void kv_cache_close(struct kv_cache *c);

/* Lanes of a layer decided together need all heads' buffers at once. */
bool kv_cache_decides_layers(const struct kv_cache *c);
bool kv_cache_work_open(struct kv_cache_work *w, int64_t entries, int heads, struct kv_err *e);
void kv_cache_work_close(struct kv_cache_work *w);

/* The next pass, of at most `limit` tokens: kv_pass_next from where the cache is. */
bool kv_cache_next(const struct kv_cache *c, int64_t limit, struct kv_pass *pass);

/* A pass begins; `passes` of them that go on alike may be told at once when none evicts and no layer is handed in.
 * KV_ENV. */
bool kv_cache_begin(struct kv_cache *c, const struct kv_pass *pass, int64_t passes, struct kv_err *e);

/* Channels (KV_BIT) that a layer's lanes need in this pass; 0: the lanes need not be handed in, the layer alone, if
 * something leaves it at all (kv_cache_idle). */
unsigned kv_cache_wants(const struct kv_cache *c, int64_t layer);

/* Whether nothing leaves any layer and nothing is observed: a pass nobody needs to look into. */
bool kv_cache_idle(const struct kv_cache *c);

/* What a lane loses in a pass, by rank, the new tokens counted: `n` of its entries [first, behind). */
struct kv_leave {
    int32_t first, behind, n;
};
/* That of all lanes, (layers, store heads), in the pass that was begun. By position they are those from `first` on;
 * else no lane loses more than the one of lowest score. False: it is not so. */
bool kv_cache_leaves(const struct kv_cache *c, struct kv_leave *leave);
/* Instead of kv_cache_lane and kv_cache_layer: the entry of that rank leaves the lane, `ties` as kv_select's top counts
 * them. The score's columns are not kept: whoever tells has them. */
void kv_cache_told(struct kv_cache *c, int64_t layer, int64_t head, int64_t rank, int64_t ties);
/* The one column that the cache has of a lane, (entries before the pass,), for who keeps it instead. */
float *kv_cache_only_column(struct kv_cache *c, int64_t layer, int64_t head);

/* The lane's set with the new tokens in it, (bits of) tokens [0, seen + n_new). */
const uint64_t *kv_cache_set(struct kv_cache *c, int64_t layer, int64_t head);

/* Lane after lane of a layer, then the layer itself: who leaves is decided by then. */
void kv_cache_lane(struct kv_cache *c, int64_t layer, int64_t head, const struct kv_lane_in *in,
                   struct kv_cache_work *w);
void kv_cache_layer(struct kv_cache *c, int64_t layer, struct kv_cache_work *w);

/* The pass ends: patch gone, ledger charged. */
void kv_cache_end(struct kv_cache *c);

/* Entries of a lane at this moment; the score's own column of them, by rank. */
int64_t kv_cache_held(const struct kv_cache *c, int64_t layer, int64_t head);
const float *kv_cache_column(const struct kv_cache *c, int64_t layer, int64_t head, int column);

#endif
