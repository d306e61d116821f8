/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Entries that outlive the request that made them: between the turns of a session, held in the pool or moved to the
 * host; and of preempted requests that are moved to the host instead of being computed again. */
#include "sim/serve/engine_inside.h"

#include <stdlib.h>
#include <string.h>

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

struct kv_keep *kv_keep_find(const struct kv_engine *e, const struct kv_job *job)
{
    for (int64_t i = 0; job->is.turn && !job->preemptions && i < e->n_keep; i++)
        if (e->keep[i].session == job->is.request)
            return &e->keep[i];
    return NULL;
}

void kv_keep_end(struct kv_engine *e, const struct kv_keep *k)
{
    forget(e, k - e->keep);
}

static void give_back(struct kv_engine *e, struct kv_keep *k)
{
    for (int layout = e->holder->counted; layout < KV_LAYOUTS; layout++)
        e->pages[layout] -= k->pages[layout];
    if (kv_keep_in_pool(k))
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

bool kv_keep_drop(struct kv_engine *e, const struct kv_keep *but)
{
    int64_t i = 0;
    while (i < e->n_keep && (!kv_keep_in_pool(&e->keep[i]) || &e->keep[i] == but))
        i++;
    if (i == e->n_keep)
        return false;
    give_back(e, &e->keep[i]);
    forget(e, i);
    e->sums.dropped_sessions++;
    return true;
}
