/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Traffic served under one policy: arrivals dealt out to replicas, turns that follow answers, and what came of each
 * request. */
#ifndef KV_SERVE_H
#define KV_SERVE_H

#include "sim/core/quantile.h"
#include "sim/pool.h"
#include "sim/serve/engine.h"
#include "sim/serve/timeline.h"

#include <stdio.h>

/* What is asked; the same traffic under each policy. */
struct kv_serve_asked {
    const struct kv_settings *settings;
    const struct kv_model *model;
    const struct kv_timing *timing;
    const struct kv_policy *policy; /* read, not yet fitted to the model */
    const char *name;
    enum kv_dtype dtype;
    bool prefix_caching;
    uint64_t seed;
    double rate, context; /* arrivals come this many times as fast, prompts are this many times as long */
    int64_t replicas;
    FILE *requests, *steps; /* rows of requests.csv and of a log of steps, or NULL */
    bool quiet;             /* no progress bar */
};

enum kv_verdict { KV_STABLE, KV_BACKLOGGED, KV_OVERLOADED };
extern const char *const kv_verdict_names[];
extern const char *const kv_limit_names[];

struct kv_served {
    const char *name;
    struct kv_policy policy; /* fitted to the model */
    struct kv_pool pool;
    int64_t pages, page_bytes[KV_LAYOUTS], blocks; /* of a replica */
    bool prefix_caching;

    /* Of the requests that count: those that arrived behind the warm-up and before the drain, and ended. Overdue are
     * those of them that did not, and can meet [slo] no more. */
    int64_t counted, good, overdue;
    struct kv_quantiles ttft, tpot, e2e, queue, peak_bytes;
    double footprint_actual, footprint_paper; /* means; NaN where the paper has no form */
    int64_t prompt_tokens, output_tokens;

    /* Of all. */
    struct kv_quantiles *gaps; /* between tokens (ITL) */
    int64_t arrived, finished, refused, unfinished;
    const char *refused_first; /* a sentence on the first that was */
    double arrivals_s;         /* from the first arrival to the last */
    double offered_per_s;      /* first turns, over the time in which they arrive; NaN: of one */
    double span_s;             /* from the first arrival to the last token */
    struct kv_engine_sums sums;
    struct kv_timeline *timeline; /* (replicas,) */
    int64_t replicas;
    enum kv_verdict verdict;
    int64_t max_num_seqs;
    bool complete; /* nobody interrupted it, and no horizon cut it off */
};

/* KV_USAGE, KV_DATA, KV_NO, KV_ENV. Interrupted: true, with complete = false. */
bool kv_serve(struct kv_served *out, const struct kv_serve_asked *asked, struct kv_arena *a, struct kv_err *e);

/* Of the requests whose fate under [slo] is known, those that meet it; NaN: there are none. */
double kv_served_slo_share(const struct kv_served *s);

/* First lines of requests.csv and of a log of steps. */
extern const char kv_serve_request_header[], kv_serve_step_header[];

#endif
