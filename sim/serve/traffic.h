/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A plan with traffic: the same requests served under each policy, beside the full cache and its fp8 form. */
#ifndef KV_TRAFFIC_H
#define KV_TRAFFIC_H

#include "sim/serve/serve.h"

#include <jansson.h>

struct kv_table;

enum { KV_TRAFFIC_ROWS = 64 };

/* What a search came to, for one policy. */
struct kv_found {
    bool any;       /* there is an answer; false: not even the least that was tried will do */
    bool unbounded; /* the most that was tried will do */
    double rate, context;
    int64_t replicas;
    const char *quality; /* "unknown", or what is known of it */
    bool trusted;        /* good enough for best_policy */
};

enum { KV_SPREAD = 6, KV_SPREAD_SLO = 5 };
extern const char *const kv_spread_keys[KV_SPREAD];

/* Means over seeds, and half the width of their 95 % intervals (Student's t). */
struct kv_spread {
    double mean[KV_SPREAD], half[KV_SPREAD];
};

struct kv_traffic {
    const struct kv_settings *settings;
    struct kv_model model;
    struct kv_timing *timing;     /* of the run's type of entries; rows of another have their own */
    struct kv_serve_asked *asked; /* (rows,) */
    struct kv_served *row;        /* (rows,) of the first seed */
    struct kv_found *found;       /* (rows,) */
    struct kv_spread *spread;     /* (rows,) NULL: one seed */
    int best;                     /* of best_policy; -1: none */
    int n_rows;
    bool baseline[KV_TRAFFIC_ROWS];          /* (rows,) not in the config */
    struct kv_arena *arena[KV_TRAFFIC_ROWS]; /* (rows,) what the rows lie in */
    bool complete;
};

/* Serves the traffic under every policy, on `jobs` threads; results do not depend on their number. `folder`, `steps`:
 * where rows of requests and of steps will be written, or NULL: nowhere. */
bool kv_traffic_compute(struct kv_traffic *t, const struct kv_settings *s, int jobs, const char *folder,
                        const char *steps, bool quiet, struct kv_arena *a, struct kv_err *e);

/* Frees the rows; even of a traffic that failed. */
void kv_traffic_close(struct kv_traffic *t);

void kv_traffic_print(const struct kv_traffic *t, struct kv_arena *a);
void kv_traffic_table(const struct kv_traffic *t, struct kv_table *table, struct kv_arena *a);
json_t *kv_traffic_json(const struct kv_traffic *t, struct kv_arena *a); /* summary.json; the caller decrefs */

/* requests.csv, summary.json, policies.csv, timeline.csv, config.resolved.ini, provenance.json in the folder, and the
 * log of steps (NULL: not asked for): nothing gets its name before all are written. */
bool kv_traffic_write(const struct kv_traffic *t, const char *folder, const char *steps, struct kv_arena *a,
                      struct kv_err *e);

/* The first row with entries of the run's own type: what headings and advice are about. */
const struct kv_served *kv_traffic_first(const struct kv_traffic *t);

/* Whether the policy keeps what [slo] promises. */
bool kv_traffic_meets(const struct kv_traffic *t, const struct kv_served *row);
/* Whether any does. */
bool kv_traffic_answer(const struct kv_traffic *t);

/* ---- searches (find.c) ---- */

/* Changes what is asked of the row until it is the most that keeps [slo]. Does not write rows of requests. */
bool kv_find(const struct kv_traffic *t, struct kv_serve_asked *asked, struct kv_found *found, struct kv_err *e);

/* Qualities of all rows from [plan] scores or min_footprint; KV_USAGE when best_policy was asked for and neither is
 * given. */
bool kv_find_quality(struct kv_traffic *t, struct kv_arena *a, struct kv_err *e);

#endif
