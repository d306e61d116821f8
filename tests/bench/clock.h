/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Seconds, and the median of several runs. */
#ifndef KV_BENCH_CLOCK_H
#define KV_BENCH_CLOCK_H

#include <stdlib.h>
#include <time.h>

static inline double seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static inline double now(void)
{
    return seconds(CLOCK_MONOTONIC);
}

static inline int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Sorts them. */
static inline double median(double *value, int n)
{
    qsort(value, (size_t)n, sizeof *value, by_value);
    return value[n / 2];
}

#endif
