/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A plan with traffic: the same requests served under each policy, beside the full cache and its fp8 form. */
#ifndef KV_TRAFFIC_H
#define KV_TRAFFIC_H

#include "sim/serve/serve.h"

#include <jansson.h>

struct kv_table;

enum { KV_TRAFFIC_ROWS = 64 };

struct kv_traffic {
    const struct kv_settings *settings;
    struct kv_model model;
    struct kv_timing *timing[2];  /* of the run's entries, and of fp8 ones; the second NULL: not asked for */
    struct kv_serve_asked *asked; /* (rows,) */
    struct kv_served *row;        /* (rows,) */
    int n_rows;
    bool baseline[KV_TRAFFIC_ROWS];          /* (rows,) not in the config */
    struct kv_arena *arena[KV_TRAFFIC_ROWS]; /* (rows,) what the rows lie in */
    bool complete;
};

/* Serves the traffic under every policy, on `jobs` threads; results do not depend on their number. With `folder`:
 * requests.csv goes there as it is made (NULL: nowhere); `steps`: a log of every step, or NULL. */
bool kv_traffic_compute(struct kv_traffic *t, const struct kv_settings *s, int jobs, const char *folder,
                        const char *steps, bool quiet, struct kv_arena *a, struct kv_err *e);

/* Frees the rows; even of a traffic that failed. */
void kv_traffic_close(struct kv_traffic *t);

void kv_traffic_print(const struct kv_traffic *t, struct kv_arena *a);
void kv_traffic_table(const struct kv_traffic *t, struct kv_table *table, struct kv_arena *a);
json_t *kv_traffic_json(const struct kv_traffic *t, struct kv_arena *a); /* summary.json; the caller decrefs */

/* summary.json, policies.csv, timeline.csv, config.resolved.ini, provenance.json, each whole or not at all. */
bool kv_traffic_write(const struct kv_traffic *t, const char *folder, struct kv_arena *a, struct kv_err *e);

/* Whether the policy keeps what [slo] promises. */
bool kv_traffic_meets(const struct kv_traffic *t, const struct kv_served *row);
/* Whether any does. */
bool kv_traffic_answer(const struct kv_traffic *t);

#endif
