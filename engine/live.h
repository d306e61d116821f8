/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Sequences that run under a policy: passes from the policy's plan, scores from the backend, decisions from the same
 * cache that replay asks (sim/core/cache.h), rows moved as it says. */
#ifndef KV_LIVE_H
#define KV_LIVE_H

#include "engine/backend.h"
#include "sim/core/cache.h"

struct kv_live;

/* What a recorder is told. Rows are (store heads, rows, stride) of one layer; positions are in the cache. */
struct kv_live_watch {
    void *context;
    /* Channels (KV_BIT) wanted beside the policy's own in the pass that begins, and whether as a row for each query
     * head. */
    unsigned (*wants)(void *context, const struct kv_live *l, bool *query_rows);
    /* The scores of a layer, before anything leaves. */
    bool (*scores)(void *context, struct kv_live *l, int64_t layer, struct kv_err *e);
    /* The pass has ended; `logits` of its last token. */
    bool (*ends)(void *context, struct kv_live *l, struct kv_err *e);
};

struct kv_live {
    struct kv_backend *backend;
    const struct kv_weights *weights;
    struct kv_policy policy;
    struct kv_shape shape;
    struct kv_request request;
    struct kv_cache cache;
    struct kv_cache_work work;
    struct kv_seq seq;
    const struct kv_live_watch *watch; /* or NULL */
    int64_t limit;                     /* tokens of a pass at most, patch included */

    int32_t *token; /* (prompt + output,) the prompt, then what was generated */
    int64_t n_token;
    float *logits; /* (vocab,) of the last token of the last pass */

    /* The pass that is on. */
    struct kv_pass pass;
    int32_t *pass_token; /* (n_new + n_patch,) */
    int64_t pass_room;
    unsigned wants; /* of the layer that is on */
    bool query_rows;
    float *row[KV_SCORE_CHANNELS]; /* (store heads, rows, stride) */
    int64_t stride, rows, row_room[KV_SCORE_CHANNELS];
    uint64_t *old_set; /* (store heads, words) before the layer decides */
    uint64_t *stay;
    int64_t words;

    /* Steps that the backend decides by itself. */
    bool simple, away; /* the score is simple; its column is the backend's */
    struct kv_simple_score by;
    struct kv_leave *leave; /* (layers, store heads), as left */
    struct kv_left *left;
    bool planned;                    /* the pass that is on is such a step */
    double score_s, evict_s, pass_s; /* seconds in all; of a pass with others its share, by tokens */
};

/* `policy` was read and is copied; prompt tokens are copied. `output`: tokens that will be generated at most. `window`:
 * of queries to keep for scores, at least. KV_USAGE, KV_ENV. */
bool kv_live_open(struct kv_live *l, struct kv_backend *b, const struct kv_weights *w, const struct kv_policy *policy,
                  const struct kv_defaults *run, const int32_t *prompt, int64_t n_prompt, int64_t output,
                  int64_t window, int64_t page, bool in_place, struct kv_arena *a, struct kv_err *e);
void kv_live_close(struct kv_live *l);

/* Gives the pages back. What was counted and generated can be read until it is closed; there is no further pass. */
void kv_live_leave(struct kv_live *l);

/* Whether there is another pass: the prompt is not through, or a token was added that was not fed. */
bool kv_live_next(const struct kv_live *l);

/* One pass of each of n sequences, in one forward. Those without a next pass are left out. False: those that were in it
 * can only be closed, others go on. */
bool kv_live_step(struct kv_live **l, int n, struct kv_err *e);

/* Whether the policy pools or picks among the query heads of a KV head before it adds them up: then rows are of each.
 */
bool kv_live_query_rows(const struct kv_live *l);

/* Adds a token to be fed next. */
void kv_live_add(struct kv_live *l, int32_t token);

/* The most likely token; lowest id among equals. */
int32_t kv_live_greedy(const struct kv_live *l);

#endif
