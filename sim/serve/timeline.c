/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/serve/timeline.h"

#include "sim/core/least.h"

#include <string.h>

void kv_timeline_start(struct kv_timeline *t)
{
    memset(t, 0, sizeof *t);
    t->width = 0x1p-10;
    t->per_s = 0x1p10;
}

static void join(struct kv_stretch *to, const struct kv_stretch *from)
{
    for (int layout = 0; layout < KV_LAYOUTS; layout++) {
        to->peak[layout] = kv_most(to->peak[layout], from->peak[layout]);
        to->area[layout] += from->area[layout];
    }
    to->running = kv_most(to->running, from->running);
    to->waiting = kv_most(to->waiting, from->waiting);
    to->tokens += from->tokens;
    to->steps += from->steps;
    to->preemptions += from->preemptions;
}

static void halve(struct kv_timeline *t)
{
    for (int64_t i = 0; i < KV_TIMELINE_SPANS / 2; i++) {
        struct kv_stretch both = t->span[2 * i];
        join(&both, &t->span[2 * i + 1]);
        t->span[i] = both;
    }
    memset(t->span + KV_TIMELINE_SPANS / 2, 0, sizeof t->span / 2);
    t->width *= 2;
    t->per_s /= 2;
    t->n = (t->n + 1) / 2;
}

void kv_timeline_reach(struct kv_timeline *t, double at)
{
    while (at >= t->width * KV_TIMELINE_SPANS)
        halve(t);
}

struct kv_stretch *kv_timeline_hold(struct kv_timeline *t, double from, double s, const int64_t pages[KV_LAYOUTS],
                                    int64_t running, int64_t waiting)
{
    double until = from + s;
    if (until >= t->width * KV_TIMELINE_SPANS)
        kv_timeline_reach(t, until);
    int64_t first = (int64_t)(from * t->per_s), i = first;
    while (until > (double)(i + 1) * t->width) {
        double end = (double)(i + 1) * t->width;
        kv_stretch_hold(&t->span[i++], t->counted, end - from, pages, running, waiting);
        s = until - end;
        from = end;
    }
    kv_stretch_hold(&t->span[i], t->counted, s, pages, running, waiting);
    t->n = t->n > i ? t->n : i + 1;
    return &t->span[first];
}

void kv_timeline_follow(struct kv_timeline *t, enum kv_layout layout, int64_t times)
{
    for (int64_t i = 0; i < t->n; i++) {
        t->span[i].peak[layout] = t->span[i].peak[KV_SHARED] * times;
        t->span[i].area[layout] = t->span[i].area[KV_SHARED] * (double)times;
    }
}
