/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/workload/process.h"

#include <gsl/gsl_randist.h>
#include <math.h>

double kv_draw_time(gsl_rng *rng, double mean, double cv)
{
    if (!(mean > 0) || cv == 0)
        return mean > 0 ? mean : 0;
    if (cv == 1)
        return gsl_ran_exponential(rng, mean);
    return gsl_ran_gamma(rng, 1 / (cv * cv), mean * cv * cv);
}

void kv_process_start(struct kv_process *p, const struct kv_settings *s, uint64_t seed, gsl_rng *rng)
{
    *p = (struct kv_process){.kind = s->workload.arrivals,
                             .rate = s->workload.rate,
                             .cv = s->workload.arrivals == KV_POISSON || isnan(s->workload.cv) ? 1 : s->workload.cv,
                             .mean_on = s->workload.on_time,
                             .mean_off = s->workload.off_time,
                             .off_rate = s->workload.off_rate,
                             .period = s->workload.period,
                             .amplitude = s->workload.amplitude,
                             .seed = seed,
                             .rng = rng,
                             .phase = -1};
}

static void next_phase(struct kv_process *p)
{
    p->phase++;
    kv_draw_seek(p->rng, p->seed, "arrival phase", (uint64_t)p->phase);
    p->phase_end += gsl_ran_exponential(p->rng, p->phase % 2 ? p->mean_off : p->mean_on);
}

/* From t on, until `work` expected arrivals have gone by. */
static double through_phases(struct kv_process *p, double t, double work)
{
    if (p->phase < 0)
        next_phase(p);
    for (;;) {
        double rate = p->phase % 2 ? p->off_rate : p->rate, there = rate * (p->phase_end - t);
        if (work <= there && rate > 0)
            return t + work / rate;
        work -= there;
        t = p->phase_end;
        next_phase(p);
    }
}

/* Expected arrivals of a wave until t: the rate is rate x (1 - amplitude x cos(2 pi t / period)). */
static double wave(const struct kv_process *p, double t)
{
    double turn = 2 * M_PI / p->period;
    return p->rate * (t - p->amplitude * sin(turn * t) / turn);
}

/* Where the wave has risen by `work`: it rises without end and never falls, so halving finds it. */
static double through_wave(const struct kv_process *p, double t, double work)
{
    double from = wave(p, t), low = t, high = t + work / p->rate;
    while (wave(p, high) - from < work)
        high += p->period;
    for (int i = 0; i < 200 && high - low > 1e-12 * high; i++) {
        double middle = low + (high - low) / 2;
        if (middle <= low || middle >= high)
            break;
        if (wave(p, middle) - from < work)
            low = middle;
        else
            high = middle;
    }
    return high;
}

double kv_process_next(struct kv_process *p)
{
    kv_draw_seek(p->rng, p->seed, "arrival gap", (uint64_t)p->n++);
    double work = kv_draw_time(p->rng, 1, p->cv);
    if (p->kind == KV_ONOFF)
        p->t = through_phases(p, p->t, work);
    else if (p->kind == KV_DIURNAL)
        p->t = through_wave(p, p->t, work);
    else
        p->t += work / p->rate;
    return p->t;
}
