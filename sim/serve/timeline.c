/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/serve/timeline.h"

#include <string.h>

void kv_timeline_start(struct kv_timeline *t)
{
    memset(t, 0, sizeof *t);
    t->width = 0x1p-10;
    t->per_s = 0x1p10;
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static void join(struct kv_stretch *to, const struct kv_stretch *from)
{
    to->any |= from->any;
    to->s += from->s;
    for (int layout = 0; layout < KV_LAYOUTS; layout++) {
        to->peak[layout] = most(to->peak[layout], from->peak[layout]);
        to->area[layout] += from->area[layout];
    }
    to->running = most(to->running, from->running);
    to->waiting = most(to->waiting, from->waiting);
    to->tokens += from->tokens;
    to->steps += from->steps;
    to->preemptions += from->preemptions;
    to->output_tokens += from->output_tokens;
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

void kv_timeline_hold(struct kv_timeline *t, double from, double until, const int64_t pages[KV_LAYOUTS])
{
    kv_timeline_at(t, until);
    for (int64_t i = (int64_t)(from / t->width); i < t->n && (double)i * t->width < until; i++) {
        double begin = (double)i * t->width, end = begin + t->width;
        double s = (end < until ? end : until) - (begin > from ? begin : from);
        for (int layout = 0; layout < KV_LAYOUTS; layout++) {
            t->span[i].peak[layout] = most(t->span[i].peak[layout], pages[layout]);
            t->span[i].area[layout] += (double)pages[layout] * s;
        }
    }
}
