/* SPDX-License-Identifier: GPL-3.0-or-later */
/* One request under one policy, counted: the walk, its ledger, and both accountings, as shares and bytes. */
#ifndef KV_COUNT_H
#define KV_COUNT_H

#include "sim/core/ledger.h"
#include "sim/core/paper.h"

/* Where a peak was. */
struct kv_place {
    int64_t bytes;
    struct kv_peak at;
};

struct kv_count {
    int64_t prompt, output, chunk;
    /* Shares of what nothing evicted would hold in the same lanes. NaN where an accounting has no form. */
    double footprint_actual, footprint_paper;
    double peak_actual[KV_SCOPES], peak_paper, end_peak_actual;
    double active; /* entries read / entries held, over query steps; 1 for all that read what they hold */

    int64_t entry_bytes;
    struct kv_place held[KV_SCOPES]; /* entries at their peak */
    int64_t held_end;                /* after the last pass */
    int64_t held_end_peak;           /* most at the end of a pass */
    /* In pages, the buffers of quantised lanes and block summaries included; -1 where lengths cannot tell. */
    struct kv_place pages[KV_LAYOUTS][KV_COMPACTIONS][KV_SCOPES];
    int64_t pages_end[KV_LAYOUTS][KV_COMPACTIONS];
    int64_t pages_end_peak[KV_LAYOUTS][KV_COMPACTIONS];
    int64_t pages_resident[KV_LAYOUTS][KV_COMPACTIONS]; /* most from the end of prefill on, at ends of passes */
    int64_t returned[KV_LAYOUTS][KV_COMPACTIONS];
    double pages_mean[KV_LAYOUTS][KV_COMPACTIONS]; /* over query steps: token time */
    int64_t summary_bytes, buffer_bytes, scratch_bytes;
    int64_t passes, evictions;
};

/* A policy fitted to a model, ready to count requests. It holds pointers into itself: never copy it. Not shared between
 * threads. */
struct kv_counter {
    const struct kv_model *model;
    struct kv_policy policy;
    struct kv_shape shape;
    struct kv_classes classes;
    struct kv_walk walk;
    struct kv_ledger ledger;
};

/* `policy` is copied; KV_USAGE when it does not fit the model. The counter lives in the arena. */
bool kv_counter_open(struct kv_counter *c, const struct kv_policy *policy, const struct kv_model *m,
                     const struct kv_defaults *run, int64_t page, struct kv_arena *a, struct kv_err *e);

/* What a ledger says after the last pass of a request. */
void kv_count_read(struct kv_count *out, const struct kv_ledger *l, const struct kv_request *r);

/* The request as it is under the counter's policy, whose answers may be longer or shorter (output_scale). */
struct kv_request kv_counter_request(const struct kv_counter *c, const struct kv_request *r);

/* KV_USAGE when the lengths cannot be counted. */
bool kv_counter_run(struct kv_counter *c, const struct kv_request *r, struct kv_count *out, struct kv_err *e);

#endif
