/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Percentiles of a stream in bounded memory: counts in log-spaced buckets, each 1/128 of an octave's start wide, so
 * that a quantile is within 0.4 % of a value that was really seen at that rank. Order and splitting of the stream
 * change nothing. */
#ifndef KV_QUANTILE_H
#define KV_QUANTILE_H

#include "sim/core/error.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { KV_QUANTILE_SUB = 128, KV_QUANTILE_OCTAVES = 128, KV_QUANTILE_LOW = -44 };

struct kv_quantiles {
    int64_t n, zeros;
    double least, most, sum;
    int64_t bucket[KV_QUANTILE_OCTAVES * KV_QUANTILE_SUB]; /* from 2^KV_QUANTILE_LOW on */
};

/* Of a normal number: its exponent, and the top seven bits behind it. */
static inline int kv_quantiles_bucket(double value)
{
    enum { MANTISSA = 52, SUB_BITS = 7, BIAS = 1023, BUCKETS = KV_QUANTILE_OCTAVES * KV_QUANTILE_SUB };
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    int64_t i = (int64_t)(bits >> (MANTISSA - SUB_BITS)) - (int64_t)(BIAS + KV_QUANTILE_LOW) * KV_QUANTILE_SUB;
    return i < 0 ? 0 : i >= BUCKETS ? BUCKETS - 1 : (int)i;
}

/* Of a value >= 0: no number from it up to this one, exclusive, is of another bucket. */
static inline double kv_quantiles_bucket_end(double value)
{
    enum { BELOW = 52 - 7 };
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits = ((bits >> BELOW) + 1) << BELOW;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* `times` > 0 values from `least` to `most`, all of one bucket; whoever counts them adds to the sum. */
static inline void kv_quantiles_count(struct kv_quantiles *q, double least, double most, int64_t times)
{
    KV_ASSERT(least >= 0 && most < INFINITY && times > 0);
    if (!q->n || least < q->least)
        q->least = least;
    if (!q->n || most > q->most)
        q->most = most;
    q->n += times;
    if (least > 0)
        q->bucket[kv_quantiles_bucket(least)] += times;
    else
        q->zeros += times;
}

/* The value `times` > 0 times. Start from zeroed memory. value >= 0 and finite. */
static inline void kv_quantiles_add_many(struct kv_quantiles *q, double value, int64_t times)
{
    kv_quantiles_count(q, value, value, times);
    q->sum += value * (double)times;
}

void kv_quantiles_add(struct kv_quantiles *q, double value);
void kv_quantiles_merge(struct kv_quantiles *q, const struct kv_quantiles *other);

/* The value at rank ceil(share x n), 0 <= share <= 1: the middle of its bucket, held between the least and the most
 * seen, which are exact; 0 when nothing was added. */
double kv_quantile(const struct kv_quantiles *q, double share);

#endif
