/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A serving engine as plain as it can be, to hold the fast one against: requests in an array, each with its own table
 * of blocks; one step at a time, every sequence of a step looked at, everything searched for from the front.
 *
 * It follows the schedulers' own sources, not our code: vLLM 0.19.1, vllm/v1/core/sched/scheduler.py and
 * async_scheduler.py, kv_cache_manager.py, single_type_kv_cache_manager.py; Vidur 7d475133,
 * sarathi_replica_scheduler.py and entities/request.py. Shared with the code under test: the time of a step, which is
 * asked for with what the step computes, and the walk of a policy. */
#ifndef KV_TESTS_SLOW_SERVE_H
#define KV_TESTS_SLOW_SERVE_H

#include "sim/serve/engine.h"
#include "tests/laws/slow_hold.h"
#include "tests/laws/slow_pool.h"

#include <math.h>

enum { SLOW_REQUESTS = 48, SLOW_SEQS = 16 };

enum slow_state { SLOW_NOT_THERE, SLOW_WAITING, SLOW_RUNNING, SLOW_ENDED, SLOW_REFUSED };

struct slow_request {
    /* What is asked. */
    struct kv_arrival is;
    int64_t session;
    int64_t after;    /* arrives when that request has ended; -1: at its time */
    double arrival_s; /* or the time after it */

    enum slow_state state;
    double arrived_s;
    int64_t target;    /* tokens to compute before the next one */
    int64_t known;     /* tokens whose values are known */
    int64_t in_flight; /* tokens that a step under way will bring */
    int64_t computed;
    int64_t named; /* blocks that have a name */
    int64_t n_table;
    int64_t *table;
    int64_t held[KV_LAYOUTS]; /* pages after its last pass, under a policy that evicts */
    double entries;           /* mean over lanes, after it */
    struct slow_hold hold;

    double scheduled_s, first_token_s, last_token_s, finish_s;
    int64_t generated, preemptions, cached_tokens, peak_pages, was_computed;
    int64_t lost_tokens; /* computed, and dropped by a preemption */
    double entry_steps, full_steps;
    double own_area; /* pages of the pool's layout x seconds, a shared one by halves, thirds, ... */
};

/* A sequence in a step. */
struct slow_item {
    struct slow_request *r;
    int64_t n_new, n_tokens; /* patch included */
    int64_t seen;            /* tokens before it */
    int64_t again;           /* of n_new, those of a prefill that were computed before */
    bool decode, yields;
    double before, left; /* entries before and after it, mean over lanes */
    int64_t most[KV_LAYOUTS], after[KV_LAYOUTS];
};

/* Who holds what while a step runs. */
struct slow_holding {
    struct slow_request *r;
    int64_t pages[KV_LAYOUTS];
    double entries; /* those that come and go in the step included */
    int64_t n_table, *table;
};

struct slow_step {
    int64_t n, n_held;
    struct slow_item item[SLOW_SEQS];
    struct slow_holding held[SLOW_REQUESTS];
};

struct slow_engine {
    const struct kv_engine_rules *rules;
    const struct kv_holder *holder;
    const struct kv_timing *timing;
    struct kv_arena *arena;
    bool plain;
    int64_t unit[KV_LAYOUTS]; /* pages of a block: all tables take one together, where nothing is ever evicted */
    int64_t spare;            /* pages of the pool that make no block */
    struct slow_pool pool;
    struct slow_request *request;
    int64_t n_requests;
    struct slow_request *waiting[SLOW_REQUESTS], *running[SLOW_REQUESTS];
    int64_t n_waiting, n_running;
    double now;
    int64_t *mark; /* (blocks,) work space */

    struct kv_engine_sums sums;
    int64_t gaps, refused;
    int64_t tokens; /* of all steps, patches included */
    double gap_sum, gap_most;
    bool in_vain;      /* nobody was preempted when a step was scheduled last */
    const char *wrong; /* what never must happen did */
};

/* ---- blocks ---- */

static int64_t slow_least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Block i of a request: by the smallest of the prompt's named blocks that covers it, or by its place in the session. */
static struct slow_name slow_name_of(const struct slow_engine *s, const struct slow_request *r, int64_t i)
{
    int64_t end = (i + 1) * s->holder->page, named = slow_least(r->is.n_blocks * r->is.block_tokens, r->is.prompt);
    if (end <= named)
        return (struct slow_name){r->is.block[slow_ceil(end, r->is.block_tokens) - 1], i, false};
    return (struct slow_name){(uint64_t)r->session, i, true};
}

/* Full blocks of so many tokens get their names (cache_full_blocks). */
static void slow_name_blocks(struct slow_engine *s, struct slow_request *r, int64_t tokens)
{
    if (!s->rules->prefix_caching || !s->plain)
        return;
    for (; (r->named + 1) * s->holder->page <= tokens; r->named++)
        slow_pool_name(&s->pool, r->table[r->named], slow_name_of(s, r, r->named));
}

static void slow_take(struct slow_engine *s, struct slow_request *r, int64_t blocks)
{
    if (blocks > r->n_table) {
        slow_pool_take(&s->pool, blocks - r->n_table, r->table + r->n_table);
        r->n_table = blocks;
    }
}

/* From the end on, so that the last ones are taken first. */
static void slow_give(struct slow_engine *s, struct slow_request *r, int64_t left)
{
    while (r->n_table > left)
        slow_pool_give(&s->pool, r->table[--r->n_table]);
}

static int64_t slow_free_pages(const struct slow_engine *s)
{
    return s->pool.n_free * s->unit[s->rules->layout] + s->spare;
}

/* ---- passes ---- */

/* The next pass, of at most `limit` tokens; nothing is taken yet. */
static struct slow_item slow_plan(struct slow_engine *s, struct slow_request *r, int64_t limit)
{
    struct slow_item it = {
        .r = r, .decode = r->computed >= r->target, .seen = r->computed, .before = (double)r->computed};
    if (s->plain) {
        it.n_new = it.n_tokens = it.decode ? 1 : slow_least(r->target - r->computed, limit);
        it.left = it.before + (double)it.n_new;
        for (int layout = 0; layout < KV_LAYOUTS; layout++)
            it.most[layout] = it.after[layout] = slow_ceil(r->computed + it.n_new, s->holder->page) * s->unit[layout];
    } else {
        bool there = slow_hold_next(&r->hold, limit);
        if (!there || (r->hold.run.pass.decode_step >= 0) != it.decode || r->hold.run.pass.seen != r->computed)
            s->wrong = "a walk is not where its sequence is";
        it.n_new = r->hold.run.pass.n_new;
        it.n_tokens = r->hold.n_tokens;
        it.before = r->hold.before;
        it.left = r->hold.left;
        memcpy(it.most, r->hold.most, sizeof it.most);
        memcpy(it.after, r->hold.after, sizeof it.after);
    }
    it.yields = r->computed + it.n_new >= r->target;
    for (int64_t i = 0; i < it.n_new && !it.decode; i++)
        it.again += it.seen + i < r->was_computed;
    return it;
}

/* Blocks of the pool that the pass needs in all. */
static int64_t slow_needs(const struct slow_engine *s, const struct slow_item *it)
{
    return it->most[s->rules->layout] / s->unit[s->rules->layout];
}

static void slow_add(struct slow_engine *s, struct slow_step *b, const struct slow_item *it)
{
    KV_ASSERT(b->n < SLOW_SEQS);
    slow_take(s, it->r, slow_needs(s, it));
    /* num_tokens_to_cache: at once, so that the next one admitted finds them; tokens in flight have no values yet */
    slow_name_blocks(s, it->r, slow_least(it->r->computed + it->n_new, it->r->known));
    b->item[b->n++] = *it;
}

static void slow_remove(struct slow_request **list, int64_t *n, const struct slow_request *r)
{
    int64_t at = 0;
    while (at < *n && list[at] != r)
        at++;
    if (at == *n)
        return;
    memmove(list + at, list + at + 1, sizeof *list * (size_t)(*n - at - 1));
    --*n;
}

/* Async: the step under way brings its last token. It stays in the running list until then. */
static bool slow_is_ending(const struct slow_request *r)
{
    return r->in_flight > 0 && r->computed + 2 - r->in_flight >= r->is.prompt + r->is.output;
}

/* Back to the queue's head, everything to be computed again. */
static void slow_restart(struct slow_engine *s, struct slow_request *r)
{
    slow_remove(s->running, &s->n_running, r);
    slow_give(s, r, 0);
    r->state = SLOW_WAITING;
    r->preemptions += !slow_is_ending(r);
    s->sums.preemptions++;
    r->was_computed = r->computed > r->was_computed ? r->computed : r->was_computed;
    r->lost_tokens += slow_is_ending(r) ? 0 : r->computed;
    if (s->rules->scheduler == KV_SCHEDULER_SARATHI) {
        bool filling = r->computed < r->target;
        r->target = !filling ? r->known : s->rules->restart_bug ? r->computed : r->target;
        r->known = r->target;
    }
    r->computed = 0;
    r->named = 0;
    memset(r->held, 0, sizeof r->held);
    memmove(s->waiting + 1, s->waiting, sizeof *s->waiting * (size_t)s->n_waiting++);
    s->waiting[0] = r;
}

/* Leaves the queue and runs from its first token on, but for `cached` that are there. */
static void slow_begin(struct slow_engine *s, struct slow_request *r, int64_t cached)
{
    slow_remove(s->waiting, &s->n_waiting, r);
    s->running[s->n_running++] = r;
    r->state = SLOW_RUNNING;
    r->computed = cached;
    r->entries = (double)cached;
    s->sums.prompt_tokens += isnan(r->scheduled_s) && r->preemptions == 0 ? r->is.prompt : 0;
    r->cached_tokens += cached;
    s->sums.cached_tokens += cached;
}

/* Chunks end with a patch, which the rest of a step's tokens may be too few for. */
static bool slow_too_few(const struct slow_engine *s, int64_t budget)
{
    return budget <= s->holder->policy->when.patch;
}

static struct kv_request slow_as_request(const struct slow_request *r)
{
    return (struct kv_request){r->target, r->is.prompt + r->is.output - r->target, r->target};
}

/* Blocks of the whole prefill, at its largest moment. */
static int64_t slow_whole(struct slow_engine *s, struct slow_request *r)
{
    if (s->plain)
        return slow_ceil(r->target, s->holder->page);
    struct kv_request asked = slow_as_request(r);
    return slow_hold_peak(&r->hold, &asked, s->rules->max_num_batched_tokens, s->rules->layout);
}

/* ---- vLLM ---- */

static bool slow_fits(const struct slow_engine *s, const struct slow_item *it)
{
    return slow_needs(s, it) - it->r->n_table <= s->pool.n_free;
}

/* Blocks at the front of a waiting request that are there already: full ones, and not the last token. */
static int64_t slow_hits(const struct slow_engine *s, const struct slow_request *r, int64_t *block)
{
    int64_t n = 0, most = (r->known - 1) / s->holder->page;
    if (!s->rules->prefix_caching || !s->plain)
        return 0;
    while (n < most && (block[n] = slow_pool_find(&s->pool, slow_name_of(s, r, n))) >= 0)
        n++;
    return n;
}

/* Whether the head of the queue can begin now. */
static bool slow_admit_vllm(struct slow_engine *s, struct slow_step *b, int64_t *budget)
{
    struct slow_request *r = s->waiting[0];
    int64_t *hit = r->table, n_hits = slow_hits(s, r, hit), cached = n_hits * s->holder->page, unused = 0;
    r->target = r->known;
    int64_t whole = slow_whole(s, r);
    for (int64_t i = 0; i < n_hits; i++)
        unused += s->pool.block[hit[i]].users == 0;
    if (whole > s->pool.n || (s->rules->reserve_prompt && whole - n_hits + unused > s->pool.n_free) ||
        slow_too_few(s, *budget))
        return false;
    r->computed = cached;
    struct slow_item it = slow_plan(s, r, *budget);
    r->computed = 0;
    if (slow_needs(s, &it) - n_hits + unused > s->pool.n_free)
        return false;
    for (int64_t i = 0; i < n_hits; i++)
        slow_pool_share(&s->pool, hit[i]);
    r->n_table = r->named = n_hits;
    slow_begin(s, r, cached);
    slow_add(s, b, &it);
    *budget -= it.n_tokens;
    return true;
}

static void slow_admissions_vllm(struct slow_engine *s, struct slow_step *b, int64_t budget)
{
    while (s->n_waiting > 0 && budget > 0 && s->n_running < s->rules->max_num_seqs && slow_admit_vllm(s, b, &budget))
        continue;
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
            slow_restart(s, s->running[s->n_running - 1]);
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
            slow_restart(s, s->n_running ? s->running[s->n_running - 1] : r);
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
    while (s->n_waiting > 0 && s->n_running + b->n < s->rules->max_num_seqs && chunk - tokens > 0) {
        struct slow_request *r = s->waiting[0];
        int64_t whole = slow_whole(s, r);
        if (!slow_spares(s, whole))
            break;
        slow_begin(s, r, 0);
        s->n_running--; /* it is in the step, and in the list again when that has ended */
        slow_take(s, r, whole);
        struct slow_item it = slow_plan(s, r, chunk - tokens);
        slow_add(s, b, &it);
        tokens += it.n_tokens;
    }
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
    while (sarathi && s->n_waiting > 0 && s->n_running < s->rules->max_num_seqs && !slow_too_few(s, budget)) {
        struct slow_request *r = s->waiting[0];
        if (!slow_spares(s, slow_whole(s, r)))
            break;
        struct slow_item it = slow_plan(s, r, budget);
        if (!slow_spares(s, slow_needs(s, &it))) /* a piece of a chunk may need more than the whole of it */
            break;
        slow_begin(s, r, 0);
        slow_add(s, b, &it);
        budget -= it.n_tokens;
    }
}

/* ---- a step ---- */

/* Who holds what now: pages of the passes in this step, of others what they were left with. */
static void slow_note_held(struct slow_engine *s, struct slow_step *b)
{
    for (int64_t i = 0; i < s->n_requests; i++) {
        struct slow_request *r = &s->request[i];
        if (r->n_table == 0)
            continue;
        struct slow_holding *h = &b->held[b->n_held++];
        *h = (struct slow_holding){.r = r, .n_table = r->n_table, .table = KV_NEW_N(s->arena, int64_t, r->n_table)};
        memcpy(h->table, r->table, sizeof *h->table * (size_t)r->n_table);
        memcpy(h->pages, r->held, sizeof h->pages);
        h->entries = r->entries;
        for (int64_t j = 0; j < b->n; j++)
            if (b->item[j].r == r) {
                memcpy(h->pages, b->item[j].most, sizeof h->pages);
                h->entries = b->item[j].before + (double)b->item[j].n_tokens;
                r->entries = b->item[j].left;
            }
        for (int layout = 0; layout < KV_LAYOUTS; layout++)
            if (s->plain)
                h->pages[layout] = r->n_table * s->unit[layout];
        if (!s->plain && h->pages[s->rules->layout] < r->n_table)
            h->pages[s->rules->layout] = r->n_table;
    }
}

static void slow_schedule(struct slow_engine *s, struct slow_step *b)
{
    int64_t preempted = s->sums.preemptions;
    b->n = b->n_held = 0;
    if (!s->plain)
        slow_schedule_evicting(s, b);
    else if (s->rules->scheduler == KV_SCHEDULER_VLLM)
        slow_schedule_vllm(s, b);
    else
        slow_schedule_sarathi(s, b);
    for (int64_t i = 0; i < b->n; i++) {
        struct slow_request *r = b->item[i].r;
        r->computed += b->item[i].n_new;
        if (b->item[i].yields)
            r->in_flight++;
    }
    slow_note_held(s, b);
    s->in_vain = s->sums.preemptions == preempted;
}

/* What all of them hold together while the step runs, a block of several users once. */
static void slow_count_pages(struct slow_engine *s, const struct slow_step *b, double seconds)
{
    int64_t pages[KV_LAYOUTS] = {0}, blocks = 0;
    memset(s->mark, 0, sizeof *s->mark * (size_t)s->pool.n);
    for (int64_t i = 0; i < b->n_held; i++) {
        struct slow_request *r = b->held[i].r;
        int64_t own = b->held[i].n_table * s->unit[s->rules->layout];
        r->peak_pages = own > r->peak_pages ? own : r->peak_pages;
        if (r->state != SLOW_ENDED)
            s->sums.held_area += b->held[i].entries * seconds;
        for (int layout = 0; layout < KV_LAYOUTS; layout++)
            pages[layout] += b->held[i].pages[layout];
        for (int64_t j = 0; j < b->held[i].n_table; j++)
            blocks += s->mark[b->held[i].table[j]]++ == 0;
    }
    for (int64_t i = 0; i < b->n_held; i++)
        for (int64_t j = 0; j < b->held[i].n_table; j++)
            b->held[i].r->own_area +=
                seconds * (double)s->unit[s->rules->layout] / (double)s->mark[b->held[i].table[j]];
    for (int layout = 0; layout < KV_LAYOUTS; layout++) {
        int64_t now = s->plain ? blocks * s->unit[layout] : pages[layout];
        s->sums.page_area[layout] += (double)now * seconds;
        if (now > s->sums.peak_pages[layout])
            s->sums.peak_pages[layout] = now;
    }
}

static int64_t slow_padded(const struct kv_engine_rules *r, int64_t tokens)
{
    for (int64_t i = 0; i < r->n_graph_sizes; i++)
        if (r->graph_sizes[i] >= tokens)
            return r->graph_sizes[i];
    return tokens;
}

static bool slow_time(struct slow_engine *s, const struct slow_step *b, double *seconds)
{
    struct kv_step_chunk chunk[SLOW_SEQS];
    struct kv_step step = {.sequences = b->n, .chunk = chunk};
    struct kv_step_time time;
    struct kv_err e = {0};
    for (int64_t i = 0; i < b->n; i++) {
        const struct slow_item *it = &b->item[i];
        step.tokens += it->n_tokens;
        if (it->decode) {
            step.decodes++;
            step.decode_kv += it->before + 1;
            step.decode_kv_squares += (it->before + 1) * (it->before + 1);
        } else
            chunk[step.n_chunks++] = (struct kv_step_chunk){it->n_tokens, it->before};
    }
    step.tokens = slow_padded(s->rules, step.tokens);
    if (!kv_timing_step(s->timing, &step, &time, &e))
        return false;
    *seconds = time.s;
    return true;
}

static void slow_token(struct slow_engine *s, struct slow_request *r, double now)
{
    if (isnan(r->first_token_s))
        r->first_token_s = now;
    else {
        double gap = now - r->last_token_s;
        s->gaps++;
        s->gap_sum += gap;
        s->gap_most = gap > s->gap_most ? gap : s->gap_most;
    }
    r->last_token_s = now;
    r->generated++;
    r->known++;
    s->sums.output_tokens++;
}

static void slow_end(struct slow_engine *s, struct slow_request *r, double now)
{
    slow_give(s, r, 0);
    slow_remove(s->running, &s->n_running, r);
    slow_remove(s->waiting, &s->n_waiting, r); /* where it was preempted with its last token under way */
    r->state = SLOW_ENDED;
    r->finish_s = now;
    for (int64_t i = 0; i < s->n_requests; i++)
        if (s->request[i].after == r - s->request)
            s->request[i].arrived_s = now + s->request[i].arrival_s;
}

/* Pages that the pass's eviction gives back; how many they are is known from lengths, so that with async scheduling
 * they are there for the step after already. */
static void slow_evict(struct slow_engine *s, const struct slow_item *it)
{
    memcpy(it->r->held, it->after, sizeof it->r->held);
    slow_give(s, it->r, it->after[s->rules->layout]);
}

/* The step's results arrive. */
static void slow_update(struct slow_engine *s, const struct slow_step *b)
{
    for (int64_t i = 0; i < b->n; i++) {
        const struct slow_item *it = &b->item[i];
        struct slow_request *r = it->r;
        bool runs = r->state == SLOW_RUNNING;
        if (runs && !s->plain && !s->rules->async_scheduling)
            slow_evict(s, it);
        if (it->yields) {
            slow_token(s, r, s->now);
            r->in_flight--;
            if (runs && s->rules->async_scheduling)
                slow_name_blocks(s, r, r->computed - r->in_flight);
        }
        if (r->known == r->is.prompt + r->is.output) {
            slow_end(s, r, s->now);
        } else if (s->plain && s->rules->scheduler == KV_SCHEDULER_SARATHI)
            s->running[s->n_running++] = r;
    }
}

static bool slow_run_step(struct slow_engine *s, const struct slow_step *b)
{
    double seconds;
    if (!slow_time(s, b, &seconds))
        return false;
    for (int64_t i = 0; i < b->n; i++) {
        const struct slow_item *it = &b->item[i];
        if (isnan(it->r->scheduled_s))
            it->r->scheduled_s = s->now;
        for (int64_t j = 0; j < it->n_new; j++) {
            it->r->entry_steps += it->before + (double)j + 1;
            it->r->full_steps += (double)(it->seen + j + 1);
        }
        s->sums.recomputed_tokens += it->again;
        s->tokens += it->n_tokens;
    }
    s->sums.steps++;
    s->sums.busy_s += seconds;
    s->sums.waited_s += seconds * (double)s->n_waiting;
    slow_count_pages(s, b, seconds);
    s->now += seconds;
    slow_update(s, b);
    return true;
}

/* ---- arrivals ---- */

/* The one of those not there yet that comes first. */
static struct slow_request *slow_next_arrival(struct slow_engine *s)
{
    struct slow_request *first = NULL;
    for (int64_t i = 0; i < s->n_requests; i++) {
        struct slow_request *r = &s->request[i];
        if (r->state == SLOW_NOT_THERE && !isnan(r->arrived_s) && (!first || r->arrived_s < first->arrived_s))
            first = r;
    }
    return first;
}

static void slow_arrivals(struct slow_engine *s)
{
    struct slow_request *r;
    while ((r = slow_next_arrival(s)) && r->arrived_s <= s->now) {
        r->state = SLOW_WAITING;
        s->waiting[s->n_waiting++] = r;
    }
}

/* ---- from first to last ---- */

static void slow_open(struct slow_engine *s, const struct kv_engine_rules *rules, const struct kv_holder *holder,
                      const struct kv_timing *timing, struct slow_request *request, int64_t n, struct kv_arena *a)
{
    const struct kv_shape *shape = holder->shape;
    *s = (struct slow_engine){.rules = rules,
                              .holder = holder,
                              .timing = timing,
                              .arena = a,
                              .plain = holder->plain,
                              .unit = {1, 1, 1},
                              .request = request,
                              .n_requests = n};
    if (s->plain) {
        s->unit[KV_PER_HEAD] = shape->layers * shape->store_heads;
        s->unit[KV_PER_LAYER] = shape->layers;
    }
    s->spare = rules->pages % s->unit[rules->layout];
    slow_pool_open(&s->pool, rules->pages / s->unit[rules->layout], a);
    s->mark = KV_NEW_N(a, int64_t, s->pool.n + 1);
    for (int64_t i = 0; i < n; i++) {
        struct slow_request *r = &request[i];
        struct kv_request asked = {r->is.prompt, r->is.output, r->is.prompt};
        r->state = SLOW_NOT_THERE;
        r->arrived_s = r->after < 0 ? r->arrival_s : NAN;
        r->target = r->known = r->is.prompt;
        r->table = KV_NEW_N(a, int64_t, s->pool.n + r->is.prompt + r->is.output);
        r->scheduled_s = r->first_token_s = r->last_token_s = r->finish_s = NAN;
        if (!s->plain) {
            r->hold.page = holder->page;
            r->hold.scope = holder->scope;
            kv_walk_start(&r->hold.walk, holder->policy, shape, holder->classes, &asked, a);
        }
    }
}

/* Nothing runs and the head of the queue cannot begin: it never can. */
static bool slow_refuse(struct slow_engine *s)
{
    if (s->n_running > 0 || s->n_waiting == 0 || !s->in_vain)
        return false;
    s->waiting[0]->state = SLOW_REFUSED;
    slow_remove(s->waiting, &s->n_waiting, s->waiting[0]);
    s->refused++;
    return true;
}

/* False: it stands still though requests wait, or what must never happen did. */
static bool slow_run(struct slow_engine *s)
{
    struct slow_step *b = KV_NEW(s->arena, struct slow_step), *next = KV_NEW(s->arena, struct slow_step);
    while (!s->wrong) {
        slow_arrivals(s);
        if (b->n == 0) /* nothing is under way, or nothing could be scheduled then */
            slow_schedule(s, b);
        if (b->n == 0) {
            struct slow_request *r = slow_next_arrival(s);
            if (slow_refuse(s) || !s->in_vain)
                continue;
            if (!r)
                break;
            s->now = r->arrived_s;
            continue;
        }
        next->n = 0;
        if (s->rules->async_scheduling) {
            for (int64_t i = 0; i < b->n && !s->plain; i++)
                if (b->item[i].r->state == SLOW_RUNNING)
                    slow_evict(s, &b->item[i]);
            slow_schedule(s, next);
        }
        if (!slow_run_step(s, b))
            return false;
        struct slow_step *swap = b;
        b = next;
        next = swap;
    }
    if (s->n_waiting + s->n_running > 0 && !s->wrong)
        s->wrong = "requests wait and no step begins";
    return !s->wrong;
}

#endif
