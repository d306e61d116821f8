/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The next token from logits. */
#ifndef KV_SAMPLE_H
#define KV_SAMPLE_H

#include "sim/core/arena.h"

#include <stdint.h>

struct kv_sampler {
    double temperature; /* 0: greedy */
    double top_p;       /* 1: all tokens */
    uint64_t seed;
    uint64_t stream;      /* of the sequence: its draws depend on no other's */
    struct kv_rank *rank; /* (vocab,) work space */
};

bool kv_sampler_open(struct kv_sampler *s, int64_t vocab, struct kv_arena *a, struct kv_err *e);

/* Softmax at the temperature, the least set of tokens with at least top_p of it, and one of them by the draw of `step`.
 * Greedy: the most likely, lowest id among equals. */
int32_t kv_sample(struct kv_sampler *s, const float *logits, int64_t vocab, uint64_t step);

/* The token with the largest of (vocab,) logits, the lowest id among equals. */
int32_t kv_most_likely(const float *logits, int64_t vocab);

/* Natural logarithm of the softmax of one token. */
double kv_log_probability(const float *logits, int64_t vocab, int32_t token);

#endif
