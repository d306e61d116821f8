/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What a replica held over time, in bounded memory: equal spans of time, each with its peaks and means. When they do
 * not reach any more, spans are joined two by two, so no peak is ever lost. */
#ifndef KV_TIMELINE_H
#define KV_TIMELINE_H

#include "sim/core/ledger.h"

enum { KV_TIMELINE_SPANS = 2048 };

struct kv_stretch {
    int64_t peak[KV_LAYOUTS];           /* pages */
    double area[KV_LAYOUTS];            /* pages x s */
    int64_t running, waiting;           /* most */
    int64_t tokens, steps, preemptions; /* of steps that began in it */
};

struct kv_timeline {
    int counted;  /* the first layout that pages are told of; the others follow */
    double width; /* seconds of a span: a power of two */
    double per_s; /* 1 / width */
    int64_t n;    /* spans up to the last one that anything was in */
    struct kv_stretch span[KV_TIMELINE_SPANS];
};

void kv_timeline_start(struct kv_timeline *t);
/* Spans become longer until `at` lies in one. */
void kv_timeline_reach(struct kv_timeline *t, double at);

/* Pages, of the layouts from `counted` on, held for `s` seconds in it, while so many ran and waited. */
static inline void kv_stretch_hold(struct kv_stretch *span, int counted, double s, const int64_t pages[KV_LAYOUTS],
                                   int64_t running, int64_t waiting)
{
    for (int layout = counted; layout < KV_LAYOUTS; layout++) {
        span->peak[layout] = span->peak[layout] > pages[layout] ? span->peak[layout] : pages[layout];
        span->area[layout] += (double)pages[layout] * s;
    }
    span->running = span->running > running ? span->running : running;
    span->waiting = span->waiting > waiting ? span->waiting : waiting;
}

/* Pages held for `s` seconds from `from` on, while so many ran and waited: into every span that time is of. Returns the
 * first of them. */
struct kv_stretch *kv_timeline_hold(struct kv_timeline *t, double from, double s, const int64_t pages[KV_LAYOUTS],
                                    int64_t running, int64_t waiting);

/* A layout that was not counted held so many times as many pages as KV_SHARED. */
void kv_timeline_follow(struct kv_timeline *t, enum kv_layout layout, int64_t times);

/* The span that `at` lies in; to be filled by the caller. */
static inline struct kv_stretch *kv_timeline_at(struct kv_timeline *t, double at)
{
    if (at >= t->width * KV_TIMELINE_SPANS)
        kv_timeline_reach(t, at);
    int64_t i = (int64_t)(at * t->per_s); /* at / width, exactly */
    t->n = t->n > i ? t->n : i + 1;
    return &t->span[i];
}

#endif
