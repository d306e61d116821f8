/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Percentiles of a stream in bounded memory: counts in log-spaced buckets, each 1/128 of an octave's start wide, so
 * that a quantile is within 0.4 % of a value that was really seen at that rank. Order and splitting of the stream
 * change nothing. */
#ifndef KV_QUANTILE_H
#define KV_QUANTILE_H

#include <stdint.h>

enum { KV_QUANTILE_SUB = 128, KV_QUANTILE_OCTAVES = 128, KV_QUANTILE_LOW = -44 };

struct kv_quantiles {
    int64_t n, zeros;
    double least, most, sum;
    int64_t bucket[KV_QUANTILE_OCTAVES * KV_QUANTILE_SUB]; /* from 2^KV_QUANTILE_LOW on */
};

/* Start from zeroed memory. value >= 0 and finite. */
void kv_quantiles_add(struct kv_quantiles *q, double value);
/* The same value `times` > 0 times. */
void kv_quantiles_add_many(struct kv_quantiles *q, double value, int64_t times);
void kv_quantiles_merge(struct kv_quantiles *q, const struct kv_quantiles *other);

/* The value at rank ceil(share x n), 0 <= share <= 1: the middle of its bucket, held between the least and the most
 * seen, which are exact; 0 when nothing was added. */
double kv_quantile(const struct kv_quantiles *q, double share);

#endif
