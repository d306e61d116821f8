/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Requests on their way: memory for those in hand, and rows of requests.csv in order of arrival. */
#ifndef KV_REQUESTS_H
#define KV_REQUESTS_H

#include "sim/serve/engine.h"

#include <stdio.h>

struct kv_jobs {
    struct kv_entry *first, *last; /* in order of arrival, ended ones whose turn to be written has not come included */
    struct kv_entry *idle;
    int64_t n;      /* in the list */
    int64_t follow; /* of them those that a turn may follow */
    int64_t numbers;
    FILE *out; /* or NULL */
    const char *policy;
    int64_t page_bytes;
};

void kv_jobs_open(struct kv_jobs *j, FILE *out, const char *policy);
/* Writes who has not ended as well, with what is known of them. */
void kv_jobs_close(struct kv_jobs *j);

/* A job with a copy of what arrives; NULL when memory is out. */
struct kv_job *kv_jobs_begin(struct kv_jobs *j, const struct kv_arrival *arrival);
void kv_jobs_end(struct kv_jobs *j, struct kv_job *job);

/* The first in flight that arrived behind `last`, or behind nobody (NULL). NULL: none. */
const struct kv_job *kv_jobs_in_flight(const struct kv_jobs *j, const struct kv_job *last);

#endif
