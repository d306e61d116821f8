/* SPDX-License-Identifier: GPL-3.0-or-later */
/* One thread's part of a replay: it reads a layer's rows at a tick, hands them to the caches, and measures what stays.
 * A part of replay; nobody else asks. */
#ifndef KV_REPLAY_FEED_H
#define KV_REPLAY_FEED_H

#include "sim/replay.h"

/* Keys and values of all tokens so far, where policies are fed from them: (layers, kv heads, tokens, head_dim). */
struct kv_history {
    float *keys, *values;
    int keys_channel, values_channel; /* of the trace, or -1 */
};

struct kv_feed {
    struct kv_replay *replay;
    struct kv_history *history;
    struct kv_trace_work *work;
    const struct kv_select *select;
    struct kv_cache_work lanes;   /* of policies that decide lane by lane */
    struct kv_cache_work *layers; /* (runs,) of those that decide a layer at once; not open for others */
    float **row;                  /* (channels,)(rows, stride) as read; NULL where nobody wants it */
    const float *fed;             /* of the lane fed last: rows of the mass channel over its entries, or NULL */
    double **total;               /* (channels,)(rows,) their sums */
    int64_t *at_tick, *at_lane;   /* (channels,) what is in `row` */
    float *slots;                 /* (places, most rows, stride) of survivors */
    float *derived;               /* likewise, made from keys or logits */
    float *picked;                /* (window, stride) logits of survivors */
    float *survivors;             /* (2, stride, head_dim) */
    double *sums;                 /* (2 x stride + ...) */
    uint64_t *oracle;
    int64_t stride, most_rows;
    int places; /* channels that a lane may want at once */
};

static inline int64_t kv_feed_group(const struct kv_replay *r)
{
    return r->about.q_heads / r->about.kv_heads;
}

/* `history` may be empty. NULL: KV_ENV. */
struct kv_feed *kv_feed_open(struct kv_replay *r, struct kv_history *history, struct kv_arena *a, struct kv_err *e);
void kv_feed_close(struct kv_feed *f);

/* All lanes of a layer at a tick whose last pass the caches have begun. */
bool kv_feed_layer(struct kv_feed *f, int64_t tick, int64_t layer, struct kv_err *e);

/* ---- its parts ---- */

/* The rows of a KV head at a tick, one for each of its query heads where the channel has those; in f->row[channel]. */
bool kv_feed_rows(struct kv_feed *f, int channel, int64_t tick, int64_t layer, int64_t kv_head, struct kv_err *e);

/* Before anything leaves: what the pass's queries could attend to. `in`: what the lane is fed with. */
bool kv_measure_held(struct kv_feed *f, struct kv_replay_run *run, int64_t tick, int64_t layer, int64_t head,
                     const struct kv_lane_in *in, struct kv_err *e);
/* When it was decided: what stayed of `before` entries. */
bool kv_measure_kept(struct kv_feed *f, struct kv_replay_run *run, int64_t tick, int64_t layer, int64_t head,
                     int64_t before, struct kv_err *e);
/* And what later queries will find of it. */
bool kv_measure_later(struct kv_feed *f, struct kv_replay_run *run, int64_t tick, int64_t layer, int64_t head,
                      struct kv_err *e);

#endif
