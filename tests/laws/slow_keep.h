/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Entries that outlive a run of their request in a slow serving engine (slow_serve.h), from docs/SERVING.md: those of
 * preempted requests that go to the host, and those of sessions between two turns. A request that has ended keeps its
 * own table of blocks until the next turn takes it over. */
#ifndef KV_TESTS_SLOW_KEEP_H
#define KV_TESTS_SLOW_KEEP_H

#include "tests/laws/slow_engine.h"

/* What prefix caching finds by name is not kept, and a patch is not part of what a pass leaves. */
static bool slow_can_keep(const struct slow_engine *s)
{
    return !(s->rules->prefix_caching && s->plain) && s->holder->policy->when.patch == 0;
}

/* Pages of the pool's layout with entries of the first `tokens` in them. */
static int64_t slow_entry_pages(const struct slow_engine *s, const struct slow_request *r, int64_t tokens)
{
    enum kv_layout layout = s->rules->layout;
    return s->plain ? slow_ceil(tokens, s->holder->page) * s->unit[layout] : r->held[layout];
}

/* Over the link to the host, or back; the step that is scheduled next waits for it. */
static void slow_move(struct slow_engine *s, int64_t pages)
{
    s->moved_bytes += pages * s->rules->page_bytes;
}

/* ---- sessions ---- */

static bool slow_has_next_turn(const struct slow_engine *s, const struct slow_request *r)
{
    for (int64_t i = 0; i < s->n_requests; i++)
        if (s->request[i].after == r - s->request)
            return true;
    return false;
}

/* A request ends: its entries wait for the next turn, behind those kept longer; of one step those first that were
 * admitted first. */
static void slow_keep(struct slow_engine *s, struct slow_request *r)
{
    int64_t at = s->n_kept++;
    r->kept_at = s->now;
    for (; at > 0 && s->kept[at - 1]->kept_at == s->now && s->kept[at - 1]->admitted > r->admitted; at--)
        s->kept[at] = s->kept[at - 1];
    s->kept[at] = r;
    if (s->rules->between != KV_BETWEEN_OFFLOAD)
        return;
    r->to_move = slow_entry_pages(s, r, r->computed);
    slow_move(s, r->to_move);
    slow_give(s, r, 0);
}

/* Gives up the entries in the pool that were kept longest, but not those of `spared`. */
static bool slow_drop(struct slow_engine *s, const struct slow_request *spared)
{
    for (int64_t i = 0; i < s->n_kept; i++) {
        struct slow_request *k = s->kept[i];
        if (k->n_table == 0 || k == spared)
            continue;
        slow_give(s, k, 0);
        slow_remove(s->kept, &s->n_kept, k);
        s->sums.dropped_sessions++;
        return true;
    }
    return false;
}

/* The turn before, if its entries are still there. */
static struct slow_request *slow_kept_for(const struct slow_engine *s, const struct slow_request *r)
{
    for (int64_t i = 0; i < s->n_kept; i++)
        if (s->kept[i] - s->request == r->after)
            return s->kept[i];
    return NULL;
}

/* For lack of pages to admit the request: others' first, its own at last. */
static bool slow_drop_for(struct slow_engine *s, const struct slow_request *r)
{
    return slow_drop(s, slow_kept_for(s, r)) || slow_drop(s, NULL);
}

/* No turn will have them. What no step waits for yet is not moved. */
static void slow_forget(struct slow_engine *s, struct slow_request *k)
{
    slow_move(s, -k->to_move);
    slow_give(s, k, 0);
    slow_remove(s->kept, &s->n_kept, k);
}

/* ---- preemption ---- */

/* Everything is to be computed again. */
static void slow_lose(struct slow_engine *s, struct slow_request *r)
{
    r->was_computed = r->computed > r->was_computed ? r->computed : r->was_computed;
    r->lost_tokens += slow_is_ending(r) ? 0 : r->computed;
    if (s->rules->scheduler == KV_SCHEDULER_SARATHI) {
        bool filling = r->computed < r->target;
        r->target = !filling ? r->known : s->rules->restart_bug ? r->computed : r->target;
        r->known = r->target;
    }
    r->computed = 0;
    r->n_passes = 0;
}

/* Back to the queue's head. What is on the host then still counts as computed; of who has its last token under way
 * nothing is wanted any more. */
static void slow_restart(struct slow_engine *s, struct slow_request *r)
{
    bool ending = slow_is_ending(r);
    slow_remove(s->running, &s->n_running, r);
    if (s->rules->offload && slow_can_keep(s) && !ending)
        slow_move(s, slow_entry_pages(s, r, r->computed));
    else
        slow_lose(s, r);
    slow_give(s, r, 0);
    r->state = SLOW_WAITING;
    r->preemptions += !ending;
    s->sums.preemptions++;
    r->named = 0;
    memset(r->held, 0, sizeof r->held);
    memmove(s->waiting + 1, s->waiting, sizeof *s->waiting * (size_t)s->n_waiting++);
    s->waiting[0] = r;
}

/* The newest of those who run makes room, when no session's entries are left to give up. */
static void slow_make_free(struct slow_engine *s, struct slow_request *r)
{
    if (!slow_drop(s, NULL))
        slow_restart(s, s->n_running ? s->running[s->n_running - 1] : r);
}

/* ---- who comes back ---- */

/* Where a request that waits would go on: behind entries of its own that are on the host, or those of the turn
 * before. */
struct slow_return {
    int64_t tokens, found; /* found: made by another request */
    int64_t blocks;        /* of them in the pool */
    struct slow_request *kept;
};

static struct slow_return slow_return_of(const struct slow_engine *s, const struct slow_request *r)
{
    struct slow_return back = {.tokens = r->computed};
    if (r->computed > 0)
        return back;
    back.kept = slow_kept_for(s, r);
    if (back.kept) {
        back.tokens = back.found = slow_least(back.kept->computed, r->target - 1); /* one token is always computed */
        back.blocks = back.kept->n_table;
    }
    return back;
}

/* The walk behind these entries. Its own: pass by pass as they were made. Of the turn before: as passes of as many
 * tokens as a step has would have left them (sim/serve/hold.h). */
static void slow_seek(struct slow_engine *s, struct slow_request *r, const struct slow_return *back)
{
    struct kv_request asked = slow_as_request(r);
    bool own = r->computed > 0;
    if (!own)
        r->n_passes = 0;
    if (s->plain || back->tokens == 0)
        return;
    kv_walk_restart(&r->hold.walk, &asked);
    for (int64_t seen = 0, i = 0; seen < back->tokens; i++) {
        int64_t limit = own ? r->pass[i] : slow_least(s->rules->max_num_batched_tokens, back->tokens - seen);
        if (!slow_hold_next(&r->hold, limit))
            s->wrong = "a walk that ends too early";
        seen += r->hold.run.pass.n_new;
        r->pass[i] = r->hold.run.pass.n_new;
        r->n_passes = i + 1;
    }
    memcpy(r->held, r->hold.after, sizeof r->held);
}

/* It has them now. */
static void slow_take_over(struct slow_engine *s, struct slow_request *r, const struct slow_return *back)
{
    int64_t pages = slow_entry_pages(s, r, back->tokens);
    if (back->kept) {
        slow_remove(s->kept, &s->n_kept, back->kept);
        r->n_table = back->kept->n_table;
        memcpy(r->table, back->kept->table, sizeof *r->table * (size_t)r->n_table);
        back->kept->n_table = 0;
    }
    if (back->tokens > 0 && back->blocks == 0)
        slow_move(s, pages);
    slow_give(s, r, slow_least(r->n_table, pages / s->unit[s->rules->layout]));
}

#endif
