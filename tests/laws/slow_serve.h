/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A serving engine as plain as it can be, to hold the fast one against: one step at a time, every sequence of a step
 * looked at, everything searched for from the front. It follows the schedulers' own sources and not our code. Shared
 * with the code under test: the time of a step, which is asked for with what the step computes, and a policy's walk. */
#ifndef KV_TESTS_SLOW_SERVE_H
#define KV_TESTS_SLOW_SERVE_H

#include "tests/laws/slow_schedule.h"

/* ---- a step ---- */

/* Who holds what now: pages of the passes in this step, of others what they were left with. */
static void slow_note_held(struct slow_engine *s, struct slow_step *b)
{
    for (int64_t i = 0; i < s->n_requests; i++) {
        struct slow_request *r = &s->request[i];
        if (r->at != s || r->n_table == 0)
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

/* The step waits for all that is to be moved. */
static void slow_load_link(struct slow_engine *s, struct slow_step *b)
{
    b->moved_bytes = 0;
    if (b->n == 0)
        return;
    b->moved_bytes = s->moved_bytes;
    s->moved_bytes = 0;
    for (int64_t i = 0; i < s->n_kept; i++)
        s->kept[i]->to_move = 0;
}

/* What keeps the first who waits out of the step: no token of it is left; as many run as may; or there are no pages,
 * for which somebody was even preempted. */
static enum kv_limit slow_limit(const struct slow_engine *s, const struct slow_step *b, bool preempted)
{
    int64_t tokens = 0, running = 0;
    for (int64_t i = 0; i < b->n; i++)
        tokens += b->item[i].n_tokens;
    for (int64_t i = 0; i < s->n_requests; i++)
        running += s->request[i].at == s && s->request[i].state == SLOW_RUNNING;
    if (preempted && s->rules->scheduler == KV_SCHEDULER_VLLM)
        return KV_LIMIT_PAGES;
    if (s->n_waiting == 0 || slow_too_few(s, s->rules->max_num_batched_tokens - tokens))
        return KV_LIMIT_TOKENS; /* nobody waits: who comes while it runs is too late for it */
    return running == s->rules->max_num_seqs ? KV_LIMIT_SEQUENCES : KV_LIMIT_PAGES;
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
        r->pass[r->n_passes++] = b->item[i].n_new;
        if (b->item[i].yields)
            r->in_flight++;
    }
    for (int64_t i = 0; i < s->n_requests; i++)
        b->computed[i] = s->request[i].computed;
    slow_load_link(s, b);
    slow_note_held(s, b);
    s->in_vain = s->sums.preemptions == preempted;
    b->limit = slow_limit(s, b, !s->in_vain);
    b->decided = (struct slow_decisions){s->sums.preemptions, s->sums.cached_tokens, s->sums.prompt_tokens,
                                         s->sums.dropped_sessions};
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

static bool slow_time(struct slow_engine *s, const struct slow_step *b, struct kv_step_time *time)
{
    struct kv_step_chunk chunk[SLOW_SEQS];
    struct kv_step step = {.sequences = b->n, .chunk = chunk, .offload_bytes = (double)b->moved_bytes};
    struct kv_err e = {0};
    for (int64_t i = 0; i < b->n; i++) {
        const struct slow_item *it = &b->item[i];
        step.tokens += it->n_tokens;
        step.moved_bytes += it->moved_bytes;
        step.scored_bytes += it->scored_bytes;
        if (it->decode) {
            step.decodes++;
            step.decode_kv += it->before + 1;
            step.decode_kv_squares += (it->before + 1) * (it->before + 1);
        } else
            chunk[step.n_chunks++] = (struct kv_step_chunk){it->n_tokens, it->before};
    }
    step.tokens = slow_padded(s->rules, step.tokens);
    return kv_timing_step(s->timing, &step, time, &e);
}

/* Of the time of prompts what went into tokens that had been computed before. */
static double slow_recompute_s(const struct slow_step *b, double prefill_s)
{
    int64_t again = 0, all = 0;
    for (int64_t i = 0; i < b->n; i++) {
        again += b->item[i].again;
        all += b->item[i].decode ? 0 : b->item[i].n_tokens;
    }
    return again > 0 ? prefill_s * (double)again / (double)all : 0;
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
    if (r->state == SLOW_RUNNING && s->rules->between != KV_BETWEEN_DROP && slow_can_keep(s) &&
        slow_has_next_turn(s, r))
        slow_keep(s, r);
    else
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
        for (int layout = 0; layout < KV_LAYOUTS && !s->plain; layout++)
            s->sums.returned_pages[layout] += it->most[layout] - it->after[layout];
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
    struct kv_step_time time;
    if (!slow_time(s, b, &time))
        return false;
    double seconds = time.s;
    for (int64_t i = 0; i < s->n_requests; i++)
        if (s->request[i].at == s)
            s->request[i].begun = b->computed[i];
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
    s->sums.offloaded_bytes += (double)b->moved_bytes;
    s->sums.busy_s += seconds;
    for (int i = 0; i < KV_TIME_PARTS; i++)
        s->sums.part_s[i] += time.part[i];
    s->sums.recompute_s += slow_recompute_s(b, time.part[KV_TIME_PREFILL]);
    s->sums.waited_s += seconds * (double)s->n_left_out;
    s->sums.limit_s[b->limit] += s->n_left_out > 0 ? seconds : 0;
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

static void slow_arrive(struct slow_engine *s, struct slow_request *r)
{
    r->at = s;
    r->state = SLOW_WAITING;
    s->waiting[s->n_waiting++] = r;
}

/* ---- from first to last ---- */

static void slow_request_open(const struct slow_engine *s, struct slow_request *r)
{
    struct kv_request asked = {r->is.prompt, r->is.output, r->is.prompt};
    r->state = SLOW_NOT_THERE;
    r->arrived_s = r->after < 0 ? r->arrival_s : NAN;
    r->target = r->known = r->is.prompt;
    r->table = KV_NEW_N(s->arena, int64_t, s->pool.n + r->is.prompt + r->is.output);
    r->pass = KV_NEW_N(s->arena, int64_t, r->is.prompt + r->is.output);
    r->scheduled_s = r->first_token_s = r->last_token_s = r->finish_s = NAN;
    if (!s->plain) {
        r->hold.page = s->holder->page;
        r->hold.scope = s->holder->scope;
        kv_walk_start(&r->hold.walk, s->holder->policy, s->holder->shape, s->holder->classes, &asked, s->arena);
    }
}

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
    slow_pool_open(&s->begun, s->pool.n, a);
    s->mark = KV_NEW_N(a, int64_t, s->pool.n + 1);
    s->step = KV_NEW(a, struct slow_step);
    s->next = KV_NEW(a, struct slow_step);
    for (int64_t i = 0; i < n; i++)
        slow_request_open(s, &request[i]);
}

/* Nothing runs and the head of the queue cannot begin: it never can. */
static bool slow_refuse(struct slow_engine *s)
{
    if (s->n_running > 0 || s->n_waiting == 0 || !s->in_vain)
        return false;
    struct slow_request *kept = slow_kept_for(s, s->waiting[0]);
    if (kept)
        slow_forget(s, kept);
    s->waiting[0]->state = SLOW_REFUSED;
    s->waiting[0]->refused_s = s->now;
    slow_remove(s->waiting, &s->n_waiting, s->waiting[0]);
    s->refused++;
    return true;
}

/* Nothing runs, and what sessions keep is held all the same. */
static void slow_idle(struct slow_engine *s, double until)
{
    struct slow_step held = {0};
    slow_note_held(s, &held);
    slow_count_pages(s, &held, until - s->now);
    s->now = until;
}

/* Decides on a step that runs something, and runs it. False: there is none, and nobody but a new arrival makes one. */
static bool slow_go_on(struct slow_engine *s)
{
    struct slow_step *b = s->step, *next = s->next;
    if (b->n == 0) /* nothing is under way, or nothing could be scheduled then */
        slow_schedule(s, b);
    s->decided = b->decided;
    slow_pool_copy(&s->begun, &s->pool);
    if (b->n == 0)
        return slow_refuse(s) || !s->in_vain;
    s->n_left_out = s->n_waiting;
    next->n = 0;
    if (s->rules->async_scheduling) {
        for (int64_t i = 0; i < b->n && !s->plain; i++)
            if (b->item[i].r->state == SLOW_RUNNING)
                slow_evict(s, &b->item[i]);
        slow_schedule(s, next);
    }
    if (!slow_run_step(s, b))
        s->wrong = "a step without a time";
    s->step = next;
    s->next = b;
    return !s->wrong;
}

/* Arrivals and steps before the horizon; what is kept at the end is held up to it. */
static inline void slow_run(struct slow_engine *s, double horizon)
{
    while (!s->wrong) {
        struct slow_request *r = slow_next_arrival(s);
        if (r && r->arrived_s >= horizon)
            r = NULL;
        if (r && r->arrived_s <= s->now)
            slow_arrive(s, r);
        else if (s->now < horizon && slow_go_on(s))
            continue;
        else if (r)
            slow_idle(s, r->arrived_s);
        else
            break;
    }
    bool rests = s->n_waiting + s->n_running == 0;
    if (!rests && isinf(horizon) && !s->wrong)
        s->wrong = "requests wait and no step begins";
    if (rests && isfinite(horizon) && s->now < horizon)
        slow_idle(s, horizon);
}

#endif
