/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Channels made from queries, keys and values: for small exact traces, and the plain form of what an engine makes where
 * its keys are. Arrays are row major; n entries of d numbers. Sums are in double, in order. */
#ifndef KV_PRODUCE_H
#define KV_PRODUCE_H

#include "sim/core/channel.h"

#include <stdbool.h>
#include <stdint.h>

/* q.k / sqrt(d) of each of `rows` queries with each entry, (rows, n); row i sees the first seen[i] entries, the others
 * are -INFINITY. */
void kv_make_logits(const float *q, int64_t rows, const float *k, int64_t n, int64_t d, const int64_t *seen,
                    float *logits);

/* out[j] = sum over rows of softmax(row)[j]. Rows in which nothing is seen add nothing. `work`: (2 x n,). */
void kv_make_attention(const float *logits, int64_t rows, int64_t n, double *work, float *out);

/* 2-norms. */
void kv_make_norms(const float *x, int64_t n, int64_t d, float *out);

/* Cosine of each key with the mean of all keys scaled to length 1. `work`: (d,).
 * Source: NVIDIA/kvpress 8bb29b9c, KeyDiffPress. */
void kv_make_cosines(const float *k, int64_t n, int64_t d, double *work, float *out);

/* LagKV's score: after `sinks` entries, blocks of `lag` are scaled by the range of the block behind them; the spread
 * over the d numbers, as a softmax in the block, meaned over keys and values, ranks an entry in its block, from 0 to
 * below 1; sinks and what no block follows have 1. Fewer than sinks + 2 x lag entries: rising with position. `work`: (2
 * x lag + 2 x d,). Source: arXiv 2504.04704; NVIDIA/kvpress 8bb29b9c, LagKVPress. */
void kv_make_lag(const float *k, const float *v, int64_t n, int64_t d, int64_t sinks, int64_t lag, double *work,
                 float *out);

/* One of key_norm, value_norm, key_cosine and lag (4 sinks, blocks of 128) of the entries; `v` may be NULL where only
 * keys count. False: no memory. */
bool kv_make_of_keys(enum kv_channel what, const float *k, const float *v, int64_t n, int64_t d, float *out);

/* Expected Attention of `rows` query heads: softmax over entries of mean.k / sqrt(d) + k' cov k / (2 d), averaged over
 * the heads, times the value's norm. mean: (rows, d), covariance: (rows, d, d), already rotated to the positions
 * ahead. `work`: (2 x n,).
 * Source: arXiv 2510.00636; NVIDIA/kvpress 8bb29b9c, ExpectedAttentionPress. */
void kv_make_expected(const float *mean, const float *covariance, int64_t rows, const float *k, const float *value_norm,
                      int64_t n, int64_t d, double *work, float *out);

#endif
