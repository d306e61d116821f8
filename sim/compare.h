/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Two runs or two results side by side. */
#ifndef KV_COMPARE_H
#define KV_COMPARE_H

#include "sim/request_times.h"
#include "sim/table.h"

/* How large errors may be, as shares; NaN: any. */
struct kv_tolerance {
    double error;      /* of mean and p99 of TPOT and E2E; of every value of results without such times */
    double ttft_error; /* of mean and p99 of TTFT */
};

/* ---- runs: a simulated one against a measured one ---- */

/* What ran and what waited at one moment. */
struct kv_moment {
    double t_s;
    int64_t running, waiting;
};
struct kv_moments {
    const char *path;     /* where measured ones are from */
    struct kv_moment *at; /* (n,) ascending; malloc'ed */
    int64_t n;
};

struct kv_compared_runs {
    struct kv_run_times a, b; /* b: what a is judged by */
    struct kv_moments measured;
    const char **policy; /* (n_policies,) of a: compared; one NULL when a has none */
    int n_policies;
    struct kv_table table; /* a row for each policy, latency and statistic, then errors by request, then curves */
    int64_t *matched, *a_ended, *a_all; /* (n_policies,) requests */
    int64_t b_ended;
};

/* Reads and compares. `only`: the policies of a that are compared; NULL: those that its config names. KV_DATA,
 * KV_USAGE. Close it in any case. */
bool kv_compare_runs(struct kv_compared_runs *c, const char *a_path, const char *b_path, const char *const *only,
                     int n_only, struct kv_arena *a, struct kv_err *e);
void kv_compare_runs_close(struct kv_compared_runs *c);
void kv_compare_runs_print(const struct kv_compared_runs *c, struct kv_arena *a);
json_t *kv_compare_runs_json(const struct kv_compared_runs *c); /* the caller decrefs */
/* KV_NO, with each value that is worse. */
bool kv_compare_runs_judge(const struct kv_compared_runs *c, const struct kv_tolerance *t, struct kv_err *e);

/* The pairs of requests that are alike: the k-th of some lengths in one run with the k-th of these lengths in the
 * other, in order of arrival. Of (n,) pairs, by arrival in b; malloc'ed, NULL and KV_ENV when there is no memory. */
struct kv_pair {
    const struct kv_request_times *a, *b;
};
struct kv_pair *kv_match_requests(const struct kv_run_times *a, int policy, const struct kv_run_times *b, int64_t *n,
                                  struct kv_err *e);

/* What ran and waited at these moments, by the times of the requests. */
bool kv_moments_of_run(const struct kv_run_times *run, int policy, const struct kv_moments *when, struct kv_moment *out,
                       struct kv_err *e);
/* Of a measured run: timeseries.csv beside its requests, or from its requests at whole seconds. Free ->at. */
bool kv_moments_read(struct kv_moments *m, const char *path, const struct kv_run_times *run, struct kv_arena *a,
                     struct kv_err *e);

/* ---- results: policies.csv of two folders ---- */

struct kv_compared_results {
    const char *a, *b;
    struct kv_table table; /* a row for each policy and column that both have */
    int64_t n_differ;
    int n_policies;                    /* in both */
    const char *only_a, *only_b;       /* policies, as a list; "" */
    const char *columns_a, *columns_b; /* the same of columns */
};
/* KV_DATA. */
bool kv_compare_results(struct kv_compared_results *c, const char *a_path, const char *b_path, struct kv_arena *a,
                        struct kv_err *e);
void kv_compare_results_print(const struct kv_compared_results *c, struct kv_arena *a);
json_t *kv_compare_results_json(const struct kv_compared_results *c);
bool kv_compare_results_judge(const struct kv_compared_results *c, const struct kv_tolerance *t, struct kv_err *e);

#endif
