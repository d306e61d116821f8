/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A capacity plan: a set of requests, counted under each policy at each chunk, against the KV pool of a device. */
#ifndef KV_PLAN_H
#define KV_PLAN_H

#include "sim/core/quantile.h"
#include "sim/count.h"
#include "sim/pool.h"

#include <jansson.h>

/* No context and no number is looked for beyond this; where all of it fits, "any" is said. */
#define KV_PLAN_MOST_TOKENS (INT64_C(1) << 24)
#define KV_PLAN_ANY         INT64_MAX

enum kv_baseline { KV_OWN_POLICY, KV_BASELINE, KV_PREFIX_CACHING };

/* One policy at one chunk. Means are plain means over requests, as the paper averages examples. */
struct kv_plan_row {
    struct kv_counter counter;
    enum kv_baseline baseline;
    int source;          /* rows of the same policy at other chunks have the same */
    struct kv_pool pool; /* of an engine that runs this policy at this chunk: longer passes leave less */
    double footprint_actual, footprint_paper, peak_actual, peak_paper, active; /* means; NaN where undefined */
    struct kv_quantiles peak_bytes; /* of a request, in pages of the chosen layout */
    struct kv_count largest;        /* the request with the largest peak */
    double resident[KV_LAYOUTS];    /* bytes a request holds while it decodes, mean */
    int64_t peak[KV_LAYOUTS];       /* bytes, most over requests */
    int64_t fit[KV_LAYOUTS];        /* requests that fit together, one of them in prefill at a time */
    int64_t fit_at_peak;            /* all of them at their peak at once, chosen layout */
    int64_t context[KV_LAYOUTS];    /* longest prompt + output of one request that fits */
    int64_t fitting_prompt;         /* when it does not fit: the longest prompt of which the wanted concurrency would */
    bool fits;                      /* the wanted concurrency, in the chosen layout */
    struct kv_err err;
};

struct kv_plan {
    const struct kv_settings *settings;
    struct kv_model model;
    struct kv_pool pool; /* the largest of the rows' */
    enum kv_dtype dtype;
    enum kv_layout layout;
    enum kv_compaction compaction;
    enum kv_scope scope;
    int64_t longest; /* prompt and output together */
    struct kv_request *request;
    int64_t n_requests;
    struct kv_quantiles prompts, outputs;
    struct kv_plan_row **row;
    int n_rows;
};

/* Counts everything, on `jobs` threads; the result does not depend on their number. `quiet`: no progress bar. KV_USAGE
 * for what cannot be planned. A model that leaves no pool is no error here: pool.bytes <= 0 and no row is counted. */
bool kv_plan_compute(struct kv_plan *plan, const struct kv_settings *s, int jobs, bool quiet, struct kv_arena *a,
                     struct kv_err *e);

/* The heading, the pool, the table and what it means, on stdout. */
void kv_plan_print(const struct kv_plan *plan, struct kv_arena *a);
/* policies.csv as a table, and summary.json as an object, which the caller decrefs. */
struct kv_table;
json_t *kv_plan_json(const struct kv_plan *plan, struct kv_arena *a);
void kv_plan_table(const struct kv_plan *plan, struct kv_table *t, struct kv_arena *a);
/* Writes the result folder: summary.json, policies.csv, requests.csv, timeline.csv, chunks.csv, config.resolved.ini,
 * provenance.json, each whole or not at all. */
bool kv_plan_write(const struct kv_plan *plan, const char *folder, struct kv_arena *a, struct kv_err *e);

/* Bytes the wanted concurrency takes together, one request in prefill; a shared prefix counts once. */
double kv_plan_wanted_bytes(const struct kv_plan *plan, const struct kv_plan_row *row);

/* Whether any policy fits the wanted concurrency. */
bool kv_plan_fits(const struct kv_plan *plan);

#endif
