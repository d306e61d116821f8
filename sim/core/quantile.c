/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/core/quantile.h"

#include <math.h>
#include <string.h>

enum { BUCKETS = KV_QUANTILE_OCTAVES * KV_QUANTILE_SUB };

void kv_quantiles_add(struct kv_quantiles *q, double value)
{
    kv_quantiles_add_many(q, value, 1);
}

void kv_quantiles_merge(struct kv_quantiles *q, const struct kv_quantiles *other)
{
    if (!other->n)
        return;
    if (!q->n || other->least < q->least)
        q->least = other->least;
    if (!q->n || other->most > q->most)
        q->most = other->most;
    q->n += other->n;
    q->zeros += other->zeros;
    q->sum += other->sum;
    for (int i = 0; i < BUCKETS; i++)
        q->bucket[i] += other->bucket[i];
}

double kv_quantile(const struct kv_quantiles *q, double share)
{
    int64_t rank = (int64_t)ceil(share * (double)q->n), passed = q->zeros;
    if (rank <= q->zeros || rank < 1)
        return q->zeros || !q->n ? 0 : q->least;
    if (rank >= q->n)
        return q->most;
    int i = 0;
    for (; i < BUCKETS - 1; i++) {
        passed += q->bucket[i];
        if (passed >= rank)
            break;
    }
    double low = ldexp(1 + (double)(i % KV_QUANTILE_SUB) / KV_QUANTILE_SUB, i / KV_QUANTILE_SUB + KV_QUANTILE_LOW);
    double middle = low + ldexp(0.5 / KV_QUANTILE_SUB, i / KV_QUANTILE_SUB + KV_QUANTILE_LOW);
    return middle < q->least ? q->least : middle > q->most ? q->most : middle;
}
