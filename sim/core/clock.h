/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Simulated time. Durations are seconds in double and are summed as such; the time of an event is that running total
 * rounded once to integer nanoseconds, so that rounding never piles up step by step. */
#ifndef KV_CLOCK_H
#define KV_CLOCK_H

#include <math.h>
#include <stdint.h>

struct kv_clock {
    double seconds, lost; /* lost: what the sum's rounding dropped so far (Neumaier) */
};

static inline void kv_clock_advance(struct kv_clock *c, double seconds)
{
    double sum = c->seconds + seconds;
    if (fabs(c->seconds) >= fabs(seconds))
        c->lost += (c->seconds - sum) + seconds;
    else
        c->lost += (seconds - sum) + c->seconds;
    c->seconds = sum;
}

/* Up to 292 years. */
static inline int64_t kv_clock_ns(const struct kv_clock *c)
{
    double whole = floor(c->seconds); /* apart, or nanoseconds would drown in the bits of many days */
    return (int64_t)whole * 1000000000 + llrint((c->seconds - whole + c->lost) * 1e9);
}

#endif
