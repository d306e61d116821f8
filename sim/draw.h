/* SPDX-License-Identifier: GPL-3.0-or-later */
/* GSL's distributions on the core's counter-based random numbers: the draws of (seed, purpose, id) depend on nothing
 * else. */
#ifndef KV_DRAW_H
#define KV_DRAW_H

#include "sim/settings.h"

#include <gsl/gsl_rng.h>

/* A generator to be pointed at one stream after another. Never fails; free with gsl_rng_free. */
gsl_rng *kv_draw_open(void);
void kv_draw_seek(gsl_rng *rng, uint64_t seed, const char *purpose, uint64_t id);

/* Bins of whole numbers and what each weighs, as LEAST-MOST:WEIGHT; within a bin all are equally likely. */
struct kv_histogram {
    int n;
    int64_t *least, *most; /* (n,) ascending, apart */
    double *sum;           /* (n + 1,) shares of the weight below each bin; the last is 1 */
};
/* NULL, or why not. */
const char *kv_histogram_read(struct kv_histogram **out, const struct kv_texts *bins, struct kv_arena *a);

/* Whether `tokens` are the length or its mean, which only some distributions take from there. */
static inline bool kv_lengths_mean(const struct kv_lengths *l)
{
    return l->distribution == KV_FIXED || l->distribution == KV_LOGNORMAL;
}

/* One length, between least and most, which must be set for KV_UNIFORM; `bound` stands for an unset `most`. */
int64_t kv_draw_length(gsl_rng *rng, const struct kv_lengths *l, int64_t bound);

/* Prompt and output of request `id`, at most `longest` together, the prompt at least 1: the same whether a plan counts
 * them or traffic brings them. */
void kv_draw_request(gsl_rng *rng, const struct kv_settings *s, uint64_t seed, uint64_t id, int64_t longest,
                     int64_t *prompt, int64_t *output);

#endif
