/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/draw.h"

#include "sim/core/random.h"

#include "sim/core/units.h"

#include <gsl/gsl_randist.h>
#include <math.h>
#include <string.h>

struct stream {
    uint64_t seed, purpose, id, counter;
};

static void set(void *state, unsigned long seed)
{
    *(struct stream *)state = (struct stream){.seed = seed};
}

static uint64_t next(void *state)
{
    struct stream *s = state;
    return kv_random(s->seed, s->purpose, s->id, s->counter++);
}

static unsigned long get(void *state)
{
    return (unsigned long)(next(state) >> 32);
}

static double get_double(void *state)
{
    return kv_uniform(next(state));
}

static const gsl_rng_type counter_based = {
    .name = "kvsim",
    .max = UINT32_MAX,
    .min = 0,
    .size = sizeof(struct stream),
    .set = set,
    .get = get,
    .get_double = get_double,
};

gsl_rng *kv_draw_open(void)
{
    gsl_rng *rng = gsl_rng_alloc(&counter_based);
    KV_ASSERT(rng);
    return rng;
}

void kv_draw_seek(gsl_rng *rng, uint64_t seed, const char *purpose, uint64_t id)
{
    *(struct stream *)rng->state = (struct stream){.seed = seed, .purpose = kv_purpose(purpose), .id = id};
}

/* "LEAST-MOST:WEIGHT" or "LENGTH:WEIGHT"; NULL, or why not. */
static const char *read_bin(const char *text, int64_t *least, int64_t *most, double *weight, struct kv_arena *a)
{
    size_t first = strcspn(text, "-:"), both = strcspn(text, ":");
    const char *why = text[both] ? NULL : "has no ':'";
    if (!why)
        why = kv_read_count(a, kv_copy_part(a, text, first), least);
    *most = *least;
    if (!why && first < both)
        why = kv_read_count(a, kv_copy_part(a, text + first + 1, both - first - 1), most);
    if (!why)
        why = kv_read_real(a, text + both + 1, weight);
    if (!why && (*least < 0 || *most < *least || *most > 1 << 30))
        why = "runs backwards, or past 1073741824";
    if (!why && (!(*weight >= 0) || *weight > 1e18))
        why = "weighs less than nothing, or more than 1e18";
    return why ? kv_format(a, "'%s': %s; write LEAST-MOST:WEIGHT, ...", text, why) : NULL;
}

const char *kv_histogram_read(struct kv_histogram **out, const struct kv_texts *bins, struct kv_arena *a)
{
    struct kv_histogram *h = KV_NEW(a, struct kv_histogram);
    *h = (struct kv_histogram){.n = bins->n,
                               .least = KV_NEW_N(a, int64_t, bins->n),
                               .most = KV_NEW_N(a, int64_t, bins->n),
                               .sum = KV_NEW_N(a, double, bins->n + 1)};
    for (int i = 0; i < h->n; i++) {
        double weight = 0;
        const char *why = read_bin(bins->at[i], &h->least[i], &h->most[i], &weight, a);
        if (why)
            return why;
        if (i && h->least[i] <= h->most[i - 1])
            return kv_format(a, "'%s': bins ascend and do not overlap", bins->at[i]);
        h->sum[i + 1] = h->sum[i] + weight;
    }
    double total = h->sum[h->n];
    if (!(total > 0))
        return "weighs nothing";
    for (int i = 0; i <= h->n; i++)
        h->sum[i] /= total;
    *out = h;
    return NULL;
}

/* A bin by its weight, then a number in it. */
static int64_t draw_bin(gsl_rng *rng, const struct kv_histogram *h)
{
    double u = gsl_rng_uniform(rng);
    int low = 0, high = h->n;
    while (high - low > 1) {
        int middle = low + (high - low) / 2;
        if (h->sum[middle] <= u)
            low = middle;
        else
            high = middle;
    }
    return llrint(floor(gsl_ran_flat(rng, (double)h->least[low], (double)h->most[low] + 1)));
}

int64_t kv_draw_length(gsl_rng *rng, const struct kv_lengths *l, int64_t bound)
{
    int64_t least = l->least == KV_UNSET ? 1 : l->least, most = l->most == KV_UNSET ? bound : l->most;
    double value = (double)l->tokens;
    if (l->distribution == KV_UNIFORM)
        value = floor(gsl_ran_flat(rng, (double)least, (double)most + 1));
    else if (l->distribution == KV_LOGNORMAL && l->tokens > 0) {
        double variance = log1p(l->cv * l->cv);
        value = gsl_ran_lognormal(rng, log(value) - variance / 2, sqrt(variance));
    } else if (l->distribution == KV_HISTOGRAM)
        value = (double)draw_bin(rng, l->shape);
    else
        return l->tokens;
    if (!(value < (double)most))
        return most;
    int64_t tokens = llrint(value);
    return tokens < least ? least : tokens;
}

void kv_draw_request(gsl_rng *rng, const struct kv_settings *s, uint64_t seed, uint64_t id, int64_t longest,
                     int64_t *prompt, int64_t *output)
{
    kv_draw_seek(rng, seed, "output length", id);
    int64_t n = kv_draw_length(rng, &s->workload.output, longest - 1);
    *output = n < longest ? n : longest - 1;
    kv_draw_seek(rng, seed, "prompt length", id);
    n = kv_draw_length(rng, &s->workload.prompt, longest - *output);
    n = n < longest - *output ? n : longest - *output;
    *prompt = n < 1 ? 1 : n;
}
