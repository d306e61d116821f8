/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Entries that outlive the request that made them: between the turns of a session, held in the pool or moved to the
 * host; and of preempted requests that are moved to the host instead of being computed again. */
#include "sim/serve/engine_inside.h"

#include <stdlib.h>
#include <string.h>

static bool in_pool(const struct kv_keep *k)
{
    return k->pages[KV_SHARED] > 0;
}

static void forget(struct kv_engine *e, int64_t i)
{
    memmove(e->keep + i, e->keep + i + 1, sizeof *e->keep * (size_t)(e->n_keep - i - 1));
    e->n_keep--;
}

void kv_keep_slot(struct kv_engine *e, struct kv_slot *s)
{
    if (e->n_keep == e->keep_room) {
        e->keep_room = e->keep_room ? 2 * e->keep_room : 64;
        e->keep = realloc(e->keep, sizeof *e->keep * (size_t)e->keep_room);
        KV_ASSERT(e->keep);
    }
    struct kv_keep *k = &e->keep[e->n_keep++];
    *k = (struct kv_keep){.session = s->session, .tokens = s->seen};
    if (e->rules.between == KV_BETWEEN_HOLD) {
        memcpy(k->pages, s->pages, sizeof k->pages);
        memset(s->pages, 0, sizeof s->pages);
        return;
    }
    k->bytes = (double)(s->pages[e->rules.layout] * e->rules.page_bytes);
    k->step = e->sums.steps;
    e->offload_bytes += k->bytes;
    kv_slot_give_pages(e, s);
}

void kv_keep_find(struct kv_engine *e, struct kv_job *job)
{
    int64_t i = 0;
    while (i < e->n_keep && e->keep[i].session != job->is.request)
        i++;
    if (i == e->n_keep)
        return;
    struct kv_keep *k = &e->keep[i];
    job->there = k->tokens < job->target ? k->tokens : job->target - 1;
    job->on_host = !in_pool(k);
    memcpy(job->kept, k->pages, sizeof job->kept);
    k->job = job;
}

void kv_keep_end(struct kv_engine *e, struct kv_job *job)
{
    for (int64_t i = 0; i < e->n_keep; i++)
        if (e->keep[i].job == job) {
            forget(e, i);
            break;
        }
    memset(job->kept, 0, sizeof job->kept);
    job->there = 0;
    job->on_host = false;
}

static void give_back(struct kv_engine *e, struct kv_keep *k)
{
    for (int layout = 0; layout < KV_LAYOUTS; layout++)
        e->pages[layout] -= k->pages[layout];
    if (in_pool(k))
        e->full = false;
}

/* Told as a request ends: its slot may still wait for the step that gives its pages back, or that moves them. */
void kv_engine_forget(struct kv_engine *e, int64_t session)
{
    for (int32_t i = 0; i < e->n_ending; i++)
        if (e->slot[e->ending[i]]->keeps && e->slot[e->ending[i]]->session == session)
            e->slot[e->ending[i]]->keeps = false;
    for (int64_t i = e->n_keep - 1; i >= 0; i--)
        if (e->keep[i].session == session) {
            if (e->keep[i].step == e->sums.steps)
                e->offload_bytes -= e->keep[i].bytes;
            give_back(e, &e->keep[i]);
            forget(e, i);
        }
}

bool kv_keep_drop(struct kv_engine *e, const struct kv_job *job)
{
    int64_t i = 0;
    while (i < e->n_keep && (!in_pool(&e->keep[i]) || (job && e->keep[i].job == job)))
        i++;
    if (i == e->n_keep)
        return false;
    struct kv_keep *k = &e->keep[i];
    give_back(e, k);
    if (k->job) {
        memset(k->job->kept, 0, sizeof k->job->kept);
        k->job->there = 0;
    }
    forget(e, i);
    e->sums.dropped_sessions++;
    return true;
}
