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

/* One length, between least and most, which must be set for KV_UNIFORM; `bound` stands for an unset `most`. */
int64_t kv_draw_length(gsl_rng *rng, const struct kv_lengths *l, int64_t bound);

#endif
