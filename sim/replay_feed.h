/* SPDX-License-Identifier: GPL-3.0-or-later */
/* One thread's part of a replay: it reads a layer's rows at a tick, hands them to the caches, and measures what stays.
 * A part of replay; nobody else asks. */
#ifndef KV_REPLAY_FEED_H
#define KV_REPLAY_FEED_H

#include "sim/replay.h"

struct kv_feed;

/* Keys and values of all tokens so far, where policies are fed from them: (layers, kv heads, tokens, head_dim). */
struct kv_history {
    float *keys, *values;
    int keys_channel, values_channel; /* of the trace, or -1 */
};

/* `history` may be empty. NULL: KV_ENV. */
struct kv_feed *kv_feed_open(struct kv_replay *r, struct kv_history *history, struct kv_arena *a, struct kv_err *e);
void kv_feed_close(struct kv_feed *f);

/* All lanes of a layer at a tick whose last pass the caches have begun. */
bool kv_feed_layer(struct kv_feed *f, int64_t tick, int64_t layer, struct kv_err *e);

#endif
