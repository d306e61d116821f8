/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Channels: numbers about entries that are recorded from a run, or made live, and from which policies choose.
 *
 * A channel is a row of one number for each position, for each (layer, head), at some of the passes. A[q,j] is the
 * attention weight of query q on key j: softmax over the keys that q sees. In a trace of a full cache these are all
 * keys up to q; live, and in a trace recorded under a policy, they are the keys the policy still holds. */
#ifndef KV_CHANNEL_H
#define KV_CHANNEL_H

#include <stdbool.h>
#include <stdint.h>

enum kv_channel {
    KV_WINDOW_LOCAL,  /* sum of A over the last w queries of the pass (its patch, where it has one), softmax over the
                       * pass's own keys and patch alone: PruLong's chunked form */
    KV_WINDOW_SEEN,   /* sum of A over the last w queries up to the pass's end, softmax over all keys: SnapKV */
    KV_COLUMN_SUM,    /* sum of A over the queries of the pass: H2O's increment */
    KV_LAST_ROW,      /* A of the pass's last query: TOVA */
    KV_LATER_SUM,     /* sum of A over all queries after the pass: known afterwards only, for the oracle */
    KV_KEY_NORM,      /* |k|, 2-norm of the key as cached (after RoPE) */
    KV_VALUE_NORM,    /* |v| */
    KV_KEY_COSINE,    /* cosine of the key and the mean of all unit keys: KeyDiff */
    KV_LAG,           /* LagKV's score */
    KV_EXPECTED,      /* Expected Attention's score */
    KV_EXTERNAL,      /* a score from elsewhere: Locret's trained heads */
    KV_WINDOW_LOGITS, /* q.k / sqrt(head_dim) of the last w queries, one row each: small, exact traces */
    KV_KEYS,          /* the key as cached: head_dim numbers a position */
    KV_VALUES,        /* the value */
    KV_CHANNELS
};
enum { KV_SCORE_CHANNELS = KV_WINDOW_LOGITS }; /* those before it are one number for each entry */

/* Positions that a row has at a pass over tokens [begin, end): all of [0, end), or only [begin, end). */
enum kv_span { KV_SPAN_SEEN, KV_SPAN_NEW };

struct kv_channel_about {
    const char *name; /* as in trace files */
    enum kv_span span;
    bool attention; /* made by queries: has a form for each query head */
    bool window;    /* of the last w queries: says its w */
    const char *help;
};
extern const struct kv_channel_about kv_channels[KV_CHANNELS];

/* The channel of that name, or -1. */
int kv_channel_find(const char *name);

#endif
