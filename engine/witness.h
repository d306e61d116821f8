/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The independent selector beside a live run: at every pass and layer it is handed the scores that the run was decided
 * from, and says where the entries that stayed are not those of the published rules. */
#ifndef KV_WITNESS_H
#define KV_WITNESS_H

#include "engine/live.h"
#include "engine/selector.h"

/* What a policy says, read off its keys, for a request on a model of that shape. Files of head scores and masks are
 * read again; of a synthetic mask, which no publication has, it is read back which heads are full. KV_USAGE: nobody has
 * written down the rule of its law. */
bool kv_rules_read(struct kv_rules *r, const struct kv_policy *p, const struct kv_shape *s, const struct kv_request *q,
                   struct kv_arena *a, struct kv_err *e);

struct kv_witness {
    struct kv_live *live;
    struct kv_live_watch watch;
    const struct kv_live_watch *next; /* who watched before, and still does */
    struct kv_selector selector;
    struct kv_turn turn;
    bool begun;      /* turn: the first pass has begun */
    int64_t checked; /* layers decided so far */

    /* Of the layer whose decision is not known yet; -1: none. */
    int64_t layer;
    unsigned made; /* KV_BIT of the channels in `row` */
    int missing;   /* a channel that the rules wanted and the run did not make, or -1 */
    int64_t stride, rows;
    float *row[KV_SCORE_CHANNELS]; /* (heads, rows, stride), malloc */
    int64_t room[KV_SCORE_CHANNELS];
    float *fixed[KV_SCORE_CHANNELS]; /* (lanes, tokens) numbers that come with an entry: norms */
    int64_t tokens;
};

/* `l` must have run no pass; whoever watches it goes on doing so. KV_ENV, KV_USAGE. Close it before that one is
 * closed. */
bool kv_witness_open(struct kv_witness *w, struct kv_live *l, struct kv_arena *a, struct kv_err *e);
void kv_witness_close(struct kv_witness *w);

/* Where the run and the rules first differ; "" while they do not. */
const char *kv_witness_problem(const struct kv_witness *w);

#endif
