/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/draw.h"

#include "sim/core/random.h"

#include <gsl/gsl_randist.h>
#include <math.h>

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

int64_t kv_draw_length(gsl_rng *rng, const struct kv_lengths *l, int64_t bound)
{
    int64_t least = l->least == KV_UNSET ? 1 : l->least, most = l->most == KV_UNSET ? bound : l->most;
    double value = (double)l->tokens;
    if (l->distribution == KV_UNIFORM)
        value = floor(gsl_ran_flat(rng, (double)least, (double)most + 1));
    else if (l->distribution == KV_LOGNORMAL && l->tokens > 0) {
        double variance = log1p(l->cv * l->cv);
        value = gsl_ran_lognormal(rng, log(value) - variance / 2, sqrt(variance));
    } else
        return l->tokens;
    if (!(value < (double)most))
        return most;
    int64_t tokens = llrint(value);
    return tokens < least ? least : tokens;
}
