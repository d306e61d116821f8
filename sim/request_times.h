/* SPDX-License-Identifier: GPL-3.0-or-later */
/* When each request of a run came, ran and ended, read from a requests.csv: one of ours, or one of a measured run.
 * Hides which of the two it is. */
#ifndef KV_REQUEST_TIMES_H
#define KV_REQUEST_TIMES_H

#include "sim/core/arena.h"

#include <stdint.h>

/* One request; seconds, NaN where unknown (one that never ended). */
struct kv_request_times {
    int64_t prompt, output;
    double arrival_s; /* since the run's first arrival */
    double queue_s;   /* from there to being scheduled first */
    double ttft_s, e2e_s;
    double seen_s; /* from arrival until the engine's loop knew of it; 0 when simulated */
    int policy;
};

struct kv_run_times {
    const char *path;             /* of the file */
    bool measured;                /* no result of ours: it may have clocks of its own */
    bool knows_seen;              /* measured, with queued_s */
    struct kv_request_times *row; /* (n,) in the file's order; malloc'ed */
    int64_t n;
    const char **policy; /* (n_policies,) as they come; none when measured */
    int n_policies;
    struct kv_arena *arena;
};

/* What is asked of a request. */
enum kv_latency {
    KV_LATENCY_TTFT,      /* from arrival to the first token */
    KV_LATENCY_TTFT_SEEN, /* from where the engine's loop knew of it */
    KV_LATENCY_TPOT,      /* per output token behind the first; unknown when there is none */
    KV_LATENCY_E2E,       /* from arrival to the last token */
    KV_LATENCY_E2E_SEEN,
    KV_LATENCY_QUEUE, /* from arrival to being scheduled */
    KV_LATENCIES
};
extern const char *const kv_latency_keys[KV_LATENCIES];   /* ttft_s */
extern const char *const kv_latency_titles[KV_LATENCIES]; /* TTFT from arrival */

/* NaN when unknown. */
double kv_latency_of(const struct kv_request_times *r, enum kv_latency what);

/* Reads PATH, a CSV or a folder with requests.csv. Columns of ours: arrival_s, prompt_tokens, output_tokens, queue_s,
 * ttft_s, e2e_s, policy. Of a measured run: input_tokens, output_tokens, arrival_s, first_token_s, last_token_s, and if
 * there: queued_s, scheduled_s. KV_DATA with every mistake. Close it in any case. */
bool kv_run_times_read(struct kv_run_times *run, const char *path, struct kv_arena *a, struct kv_err *e);
void kv_run_times_close(struct kv_run_times *run);

/* The place of a policy, or -1. */
int kv_run_policy(const struct kv_run_times *run, const char *name);

/* The values that are known, of one policy (-1: of all), ascending; *n of them. malloc'ed; NULL and KV_ENV when there
 * is no memory. */
double *kv_run_sorted(const struct kv_run_times *run, int policy, enum kv_latency what, int64_t *n, struct kv_err *e);

/* Of n > 0 ascending values the one at rank ceil(share x n), at least the first. */
double kv_at_rank(const double *sorted, int64_t n, double share);

/* Sorts, NaN not allowed. */
void kv_sort_values(double *value, int64_t n);

#endif
