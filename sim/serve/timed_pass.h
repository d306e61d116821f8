/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The rows of `kvengine profile`. */
#ifndef KV_TIMED_PASS_H
#define KV_TIMED_PASS_H

#include "sim/core/store.h"
#include "sim/serve/timing_kind.h"

enum kv_timed_kind { KV_TIMED_PREFILL, KV_TIMED_DECODE, KV_TIMED_SCORES, KV_TIMED_EVICT };

struct kv_timed_pass {
    int kind; /* enum kv_timed_kind */
    int64_t batch, tokens, prefix, runs, line;
    double seconds;
};

/* (*n,) rows in the arena, whose sizes must be those of the model. KV_DATA. */
bool kv_timed_passes_read(const char *path, const struct kv_model *m, struct kv_timed_pass **out, int *n,
                          struct kv_arena *a, struct kv_err *e);

/* Entries a decode attended to: the median of `runs` steps that follow each other. */
static inline int64_t kv_timed_pass_length(const struct kv_timed_pass *pass)
{
    return pass->prefix + 1 + pass->runs / 2;
}

/* About how many bytes the rows of scores and evict read and moved: the profile's policy holds prefix_tokens in each
 * lane after a chunk of new_tokens; every one of them is moved, and every key there was is read. */
void kv_timed_pass_evicted(const struct kv_timed_pass *pass, const struct kv_model *m, double *moved, double *scored);

#endif
