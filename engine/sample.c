/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "engine/sample.h"

#include "sim/core/random.h"

#include <math.h>
#include <stdlib.h>

struct kv_rank {
    double weight;
    int32_t id;
};

bool kv_sampler_open(struct kv_sampler *s, int64_t vocab, struct kv_arena *a, struct kv_err *e)
{
    s->rank = kv_alloc_many(a, (size_t)vocab, sizeof *s->rank, "tokens to choose from", e);
    return s->rank != NULL;
}

int32_t kv_most_likely(const float *logits, int64_t vocab)
{
    int32_t best = 0;
    for (int64_t i = 1; i < vocab; i++)
        best = logits[i] > logits[best] ? (int32_t)i : best;
    return best;
}

static int by_weight(const void *a, const void *b)
{
    const struct kv_rank *x = a, *y = b;
    return x->weight != y->weight ? (x->weight < y->weight) - (x->weight > y->weight)
                                  : (x->id > y->id) - (x->id < y->id);
}

int32_t kv_sample(struct kv_sampler *s, const float *logits, int64_t vocab, uint64_t step)
{
    int32_t best = kv_most_likely(logits, vocab);
    if (!(s->temperature > 0))
        return best;
    double total = 0, kept = 0, sum = 0;
    for (int64_t i = 0; i < vocab; i++) {
        s->rank[i] = (struct kv_rank){exp(((double)logits[i] - (double)logits[best]) / s->temperature), (int32_t)i};
        total += s->rank[i].weight;
    }
    qsort(s->rank, (size_t)vocab, sizeof *s->rank, by_weight);
    int64_t n = 0;
    while (n < vocab && (n == 0 || kept < s->top_p * total))
        kept += s->rank[n++].weight;
    double draw = kv_uniform(kv_random(s->seed, kv_purpose("sample"), s->stream, step)) * kept;
    for (int64_t i = 0; i < n; i++)
        if ((sum += s->rank[i].weight) > draw)
            return s->rank[i].id;
    return s->rank[n - 1].id;
}

double kv_log_probability(const float *logits, int64_t vocab, int32_t token)
{
    double top = (double)logits[kv_most_likely(logits, vocab)], sum = 0;
    for (int64_t i = 0; i < vocab; i++)
        sum += exp((double)logits[i] - top);
    KV_ASSERT(sum > 0); /* the most likely token alone is 1 */
    return (double)logits[token] - top - log(sum);
}
