/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/progress.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS INT64_C(1000000000)

int64_t kv_clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * SECOND_NS + t.tv_nsec;
}

void kv_progress_start(struct kv_progress *p, const char *what, int64_t total, bool quiet)
{
    p->what = what;
    p->total = total;
    p->quiet = quiet;
    p->terminal = isatty(STDERR_FILENO);
    p->start_ns = kv_clock_ns();
    atomic_store(&p->done, 0);
    atomic_store(&p->next_ns, p->start_ns + (p->terminal ? 1 : 30) * SECOND_NS);
}

void kv_progress_add(struct kv_progress *p, int64_t n)
{
    int64_t done = atomic_fetch_add(&p->done, n) + n, due = atomic_load(&p->next_ns);
    if (p->quiet || done <= 0)
        return;
    int64_t now = kv_clock_ns();
    int64_t next = now + (p->terminal ? SECOND_NS / 10 : 30 * SECOND_NS);
    if (now < due || !atomic_compare_exchange_strong(&p->next_ns, &due, next))
        return;
    double seconds = (double)(now - p->start_ns) * 1e-9, rate = (double)done / seconds;
    fprintf(stderr, "%s%3.0f %%  %lld of %lld %s  %.3g/s  %.0f s left%s", p->terminal ? "\r" : "",
            100.0 * (double)done / (double)p->total, (long long)done, (long long)p->total, p->what, rate,
            (double)(p->total - done) / rate, p->terminal ? "\033[K" : "\n");
}

void kv_progress_end(struct kv_progress *p)
{
    if (!p->quiet && p->terminal && atomic_load(&p->next_ns) > p->start_ns + SECOND_NS)
        fputs("\r\033[K", stderr);
}
