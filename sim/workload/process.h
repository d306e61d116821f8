/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Arrivals over time, drawn: a renewal process of gaps with mean 1 (exponential, or gamma with a cv) run through the
 * integral of a rate that may change with time. Gap i depends on (seed, i) alone. */
#ifndef KV_PROCESS_H
#define KV_PROCESS_H

#include "sim/draw.h"

struct kv_process {
    int kind; /* enum kv_arrivals: KV_POISSON .. KV_DIURNAL */
    double rate, cv, mean_on, mean_off, off_rate, period, amplitude;
    uint64_t seed;
    gsl_rng *rng; /* view */

    int64_t n;        /* arrivals so far */
    double t;         /* of the last one */
    int64_t phase;    /* onoff: even ones are on */
    double phase_end; /* onoff */
};

void kv_process_start(struct kv_process *p, const struct kv_settings *s, uint64_t seed, gsl_rng *rng);
/* Seconds of the next arrival; never falls. Infinite when none comes any more. */
double kv_process_next(struct kv_process *p);

/* Gamma of this mean and cv; cv = 0: the mean. */
double kv_draw_time(gsl_rng *rng, double mean, double cv);

#endif
