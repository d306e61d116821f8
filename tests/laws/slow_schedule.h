/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Who runs in a step of a slow serving engine (slow_serve.h), from the schedulers' own sources: vLLM 0.19.1,
 * vllm/v1/core/sched/scheduler.py and async_scheduler.py, kv_cache_manager.py, single_type_kv_cache_manager.py; Vidur,
 * sarathi_replica_scheduler.py and entities/request.py. */
#ifndef KV_TESTS_SLOW_SCHEDULE_H
#define KV_TESTS_SLOW_SCHEDULE_H

#include "tests/laws/slow_keep.h"

/* ---- vLLM ---- */

static bool slow_fits(const struct slow_engine *s, const struct slow_item *it)
{
    return slow_needs(s, it) - it->r->n_table <= s->pool.n_free;
}

/* Blocks at the front of a waiting request that are in the pool already: full ones, and not the last token. */
static int64_t slow_hits(const struct slow_engine *s, const struct slow_pool *pool, const struct slow_request *r,
                         int64_t *block)
{
    int64_t n = 0, most = (r->known - 1) / s->holder->page;
    if (!s->rules->prefix_caching || !s->plain)
        return 0;
    while (n < most && (block[n] = slow_pool_find(pool, slow_name_of(s, r, n))) >= 0)
        n++;
    return n;
}

/* Whether the head of the queue can begin now. */
static bool slow_admit_vllm(struct slow_engine *s, struct slow_step *b, int64_t *budget)
{
    struct slow_request *r = s->waiting[0];
    int64_t *hit = r->table, n_hits = slow_hits(s, &s->pool, r, hit), unused = 0, computed = r->computed;
    if (computed == 0)
        r->target = r->known;
    struct slow_return back = slow_return_of(s, r);
    int64_t whole = slow_whole(s, r), there = n_hits + back.blocks;
    for (int64_t i = 0; i < n_hits; i++)
        unused += s->pool.block[hit[i]].users == 0;
    if ((s->rules->reserve_prompt && whole - there + unused > s->pool.n_free) || slow_too_few(s, *budget))
        return false;
    slow_seek(s, r, &back);
    r->computed = back.tokens + n_hits * s->holder->page;
    struct slow_item it = slow_plan(s, r, *budget);
    r->computed = computed;
    if (slow_needs(s, &it) - there + unused > s->pool.n_free)
        return false;
    for (int64_t i = 0; i < n_hits; i++)
        slow_pool_share(&s->pool, hit[i]);
    r->n_table = r->named = n_hits;
    if (n_hits == 0)
        slow_take_over(s, r, &back);
    slow_begin(s, r, it.seen, back.found + n_hits * s->holder->page);
    slow_add(s, b, &it);
    *budget -= it.n_tokens;
    return true;
}

/* What the whole pool cannot hold asks nobody for pages. */
static bool slow_is_too_large(struct slow_engine *s, struct slow_request *r)
{
    if (r->computed == 0 && s->rules->scheduler == KV_SCHEDULER_VLLM)
        r->target = r->known;
    return slow_whole(s, r) > s->pool.n;
}

static void slow_admissions_vllm(struct slow_engine *s, struct slow_step *b, int64_t budget)
{
    while (s->n_waiting > 0 && budget > 0 && s->n_running < s->rules->max_num_seqs &&
           !slow_is_too_large(s, s->waiting[0]))
        if (!slow_admit_vllm(s, b, &budget) && !slow_drop_for(s, s->waiting[0]))
            break;
}

static void slow_schedule_vllm(struct slow_engine *s, struct slow_step *b)
{
    int64_t budget = s->rules->max_num_batched_tokens, preempted = s->sums.preemptions;
    for (int64_t i = 0; i < s->n_running && budget > 0; i++) {
        struct slow_request *r = s->running[i];
        if (slow_is_ending(r))
            continue;
        struct slow_item it = slow_plan(s, r, budget);
        while (!slow_fits(s, &it) && r->state == SLOW_RUNNING)
            slow_make_free(s, r);
        if (r->state != SLOW_RUNNING)
            break;
        slow_add(s, b, &it);
        budget -= it.n_tokens;
    }
    if (s->sums.preemptions == preempted)
        slow_admissions_vllm(s, b, budget);
}

/* ---- Sarathi ---- */

/* A decode wants a free block even where it does not take one. */
static bool slow_decode_fits(const struct slow_engine *s, const struct slow_item *it)
{
    int64_t wanted = slow_needs(s, it) - it->r->n_table;
    return s->pool.n_free >= (wanted > 1 ? wanted : 1);
}

/* Decodes in the order of the running list; prompts still being filled are set aside. */
static void slow_sarathi_decodes(struct slow_engine *s, struct slow_step *b, struct slow_request **aside,
                                 int64_t *n_aside, int64_t *tokens)
{
    while (s->n_running > 0 && b->n < s->rules->max_num_seqs) {
        struct slow_request *r = s->running[0];
        slow_remove(s->running, &s->n_running, r);
        if (r->computed < r->target) {
            aside[(*n_aside)++] = r;
            continue;
        }
        struct slow_item it = slow_plan(s, r, 1);
        while (!slow_decode_fits(s, &it) && r->state == SLOW_RUNNING)
            slow_make_free(s, r);
        if (r->state != SLOW_RUNNING)
            continue;
        slow_add(s, b, &it);
        *tokens += it.n_tokens;
    }
}

static bool slow_spares(const struct slow_engine *s, int64_t blocks)
{
    return blocks <= s->pool.n_free && slow_free_pages(s) - blocks * s->unit[s->rules->layout] >= s->rules->watermark;
}

/* Whether the head of the queue can begin now. All of a prompt's pages are taken at once where none ever comes back. */
static bool slow_admit_sarathi(struct slow_engine *s, struct slow_step *b, int64_t *budget)
{
    struct slow_request *r = s->waiting[0];
    struct slow_return back = slow_return_of(s, r);
    int64_t whole = slow_whole(s, r), computed = r->computed;
    if (!slow_spares(s, whole - back.blocks))
        return false;
    slow_seek(s, r, &back);
    r->computed = back.tokens;
    struct slow_item it = slow_plan(s, r, *budget);
    r->computed = computed;
    if (!slow_spares(s, slow_needs(s, &it) - back.blocks)) /* a piece of a chunk may need more than the whole of it */
        return false;
    slow_take_over(s, r, &back);
    slow_begin(s, r, it.seen, back.found);
    if (s->plain)
        slow_take(s, r, whole);
    slow_add(s, b, &it);
    *budget -= it.n_tokens;
    return true;
}

static bool slow_admits_sarathi(struct slow_engine *s, struct slow_step *b, int64_t *budget)
{
    if (slow_too_few(s, *budget) || slow_is_too_large(s, s->waiting[0]))
        return false;
    while (!slow_admit_sarathi(s, b, budget))
        if (!slow_drop_for(s, s->waiting[0]))
            return false;
    return true;
}

static void slow_schedule_sarathi(struct slow_engine *s, struct slow_step *b)
{
    struct slow_request *aside[SLOW_REQUESTS], *left[SLOW_REQUESTS];
    int64_t n_aside = 0, n_left = 0, tokens = 0, chunk = s->rules->max_num_batched_tokens;
    slow_sarathi_decodes(s, b, aside, &n_aside, &tokens);
    for (int64_t i = 0; i < n_aside; i++) {
        if (chunk - tokens <= 0) {
            left[n_left++] = aside[i];
            continue;
        }
        struct slow_item it = slow_plan(s, aside[i], chunk - tokens);
        slow_add(s, b, &it);
        tokens += it.n_tokens;
    }
    for (int64_t i = 0; i < s->n_running; i++)
        left[n_left++] = s->running[i];
    /* sorted by arrival, those of the same time as they are */
    s->n_running = 0;
    while (n_left > 0) {
        int64_t first = 0;
        for (int64_t i = 1; i < n_left; i++)
            if (left[i]->arrived_s < left[first]->arrived_s)
                first = i;
        s->running[s->n_running++] = left[first];
        slow_remove(left, &n_left, left[first]);
    }
    int64_t budget = chunk - tokens;
    while (s->n_waiting > 0 && s->n_running + b->n < s->rules->max_num_seqs && budget > 0 &&
           slow_admits_sarathi(s, b, &budget))
        s->n_running--; /* it is in the step, and in the list again when that has ended */
}

/* ---- policies that evict ---- */

/* Neither scheduler knows them, and our own rules are: decodes come first, then prompts being filled, each in order of
 * admission, for chunks leave part of a step's tokens over; whoever lacks pages preempts the newest, and those that
 * were in the step are so no more; the whole prompt at its largest must fit at admission, but is not taken. */
static void slow_make_room(struct slow_engine *s, struct slow_step *b, const struct slow_item *it, int64_t wanted,
                           int64_t *budget)
{
    while (it->r->state == SLOW_RUNNING && s->pool.n_free < wanted) {
        struct slow_request *victim = s->running[s->n_running - 1];
        if (slow_drop(s, NULL))
            continue;
        for (int64_t i = 0; i < b->n; i++)
            if (b->item[i].r == victim) {
                *budget += b->item[i].n_tokens;
                memmove(b->item + i, b->item + i + 1, sizeof *b->item * (size_t)(--b->n - i));
            }
        slow_restart(s, victim);
    }
}

static void slow_schedule_evicting(struct slow_engine *s, struct slow_step *b)
{
    bool sarathi = s->rules->scheduler == KV_SCHEDULER_SARATHI;
    int64_t budget = s->rules->max_num_batched_tokens, preempted = s->sums.preemptions,
            tables = s->holder->table[s->rules->layout]->tables;
    for (int filling = 0; filling < 2; filling++)
        for (int64_t i = 0; i < s->n_running && budget > 0; i++) {
            struct slow_request *r = s->running[i];
            if (slow_is_ending(r) || (r->computed < r->target) != filling)
                continue;
            if (filling && slow_too_few(s, budget))
                break;
            struct slow_item it = slow_plan(s, r, budget);
            int64_t wanted = slow_needs(s, &it) - r->n_table;
            slow_make_room(s, b, &it, sarathi && !filling && wanted < tables ? tables : wanted, &budget);
            if (r->state != SLOW_RUNNING)
                break;
            slow_add(s, b, &it);
            budget -= it.n_tokens;
        }
    if (!sarathi && s->sums.preemptions == preempted)
        slow_admissions_vllm(s, b, budget);
    while (sarathi && s->n_waiting > 0 && s->n_running < s->rules->max_num_seqs && slow_admits_sarathi(s, b, &budget))
        continue;
}

#endif
