/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What a workload is like: how many requests when, how long, how much of their prompts is alike. */
#ifndef KV_FACTS_H
#define KV_FACTS_H

#include "sim/core/quantile.h"
#include "sim/workload/workload.h"

/* Lengths counted one by one up to KV_SPREAD_EXACT, so that percentiles are exact; beyond, within 0.4 %. */
enum { KV_SPREAD_EXACT = 1 << 21 };
struct kv_spread {
    int64_t *count; /* (room,) */
    int64_t room;
    struct kv_quantiles all;
};
double kv_spread_mean(const struct kv_spread *s);
int64_t kv_spread_quantile(const struct kv_spread *s, double share); /* at rank ceil(share x n) */
/* As [workload] *_histogram takes it: bins of four an octave, NULL beyond KV_SPREAD_EXACT. */
const char *kv_spread_bins(const struct kv_spread *s, struct kv_arena *a);

struct kv_facts {
    int64_t requests, skipped;     /* requests: later turns too */
    int64_t first_turns, sessions; /* sessions: a trace's names, or KV_UNSET */
    double first_s, last_s;        /* of first turns */
    double gap_mean, gap_cv;       /* NaN below two gaps */
    double wait_mean;              /* before later turns; NaN without any */
    struct kv_spread prompt, output, turns;
    int64_t block_tokens, blocks, distinct; /* names of prompt blocks; 0: none */
    int64_t context;                        /* prompt tokens that are earlier turns */
};

/* Reads the workload to its end; answers take no time. Free it even then. */
bool kv_facts_gather(struct kv_facts *f, struct kv_workload *w, struct kv_err *e);
void kv_facts_free(struct kv_facts *f);

#endif
