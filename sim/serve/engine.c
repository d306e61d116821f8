/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/serve/engine_inside.h"

#include <math.h>
#include <stdlib.h>

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static void tell(const struct kv_engine *e, enum kv_engine_event what, struct kv_job *job, int64_t tokens,
                 int64_t computed)
{
    if (e->watch)
        e->watch->tell(e->watch->context, what, job, tokens, computed);
}

/* ---- open and close ---- */

struct kv_engine *kv_engine_open(const struct kv_engine_rules *rules, const struct kv_holder *holder,
                                 const struct kv_timing *timing, const struct kv_engine_watch *watch,
                                 struct kv_arena *a, struct kv_err *err)
{
    struct kv_engine *e = KV_NEW(a, struct kv_engine);
    *e = (struct kv_engine){.rules = *rules,
                            .holder = holder,
                            .timing = timing,
                            .watch = watch,
                            .arena = a,
                            .begun = -INFINITY,
                            .oldest = KV_NOBODY,
                            .newest = KV_NOBODY};
    e->last_waiting = &e->first_waiting;
    for (int layout = 0; layout < KV_LAYOUTS; layout++)
        e->decodes.phase[layout] = KV_NEW_N(a, int64_t, holder->page);
    if (rules->prefix_caching && holder->plain) {
        e->in_phase = KV_NEW_N(a, int32_t, holder->page);
        for (int64_t i = 0; i < holder->page; i++)
            e->in_phase[i] = KV_NOBODY;
        e->blocks = kv_blocks_open(rules->pages / holder->table[rules->layout]->tables, a, err);
        if (!e->blocks)
            return NULL;
    }
    return e;
}

void kv_engine_close(struct kv_engine *e)
{
    for (int32_t i = 0; e && i < e->n_slots; i++)
        free(e->slot[i]->block);
    if (!e)
        return;
    void *lists[] = {e->slot, e->idle, e->ending, e->prefill, e->event, e->chunk, e->ran};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        free(lists[i]);
}

/* ---- who waits ---- */

static struct kv_job *wait_no_more(struct kv_engine *e)
{
    struct kv_job *job = e->first_waiting;
    e->first_waiting = job->next;
    if (!job->next)
        e->last_waiting = &e->first_waiting;
    e->n_waiting--;
    return job;
}

static void wait_first(struct kv_engine *e, struct kv_job *job)
{
    job->next = e->first_waiting;
    if (!job->next)
        e->last_waiting = &job->next;
    e->first_waiting = job;
    e->n_waiting++;
    e->full = false;
}

void kv_engine_add(struct kv_engine *e, struct kv_job *job)
{
    if (!e->n_running && !e->n_waiting && job->arrival_s > e->clock)
        e->clock = job->arrival_s;
    job->scheduled_s = job->first_token_s = job->last_token_s = job->finish_s = NAN;
    job->target = job->is.prompt;
    job->left = job->is.output;
    job->next = NULL;
    *e->last_waiting = job;
    e->last_waiting = &job->next;
    e->n_waiting++;
    e->tokens_left += job->target + job->left - 1;
}

double kv_engine_clock(const struct kv_engine *e)
{
    return e->n_running || e->n_waiting ? e->clock : INFINITY;
}

/* ---- preemption: what was computed is dropped, and computed again with what was generated ---- */

/* What decodes take in this step and some give back at its end. */
static void claim(struct kv_engine *e, int64_t sign)
{
    const struct kv_decodes *d = &e->decodes;
    int64_t phase = e->step % e->holder->page;
    for (int layout = 0; layout < KV_LAYOUTS; layout++)
        e->claims[layout] += sign * (d->phase[layout][phase] + d->rise[layout]);
}

/* A decode is not of this step, or no longer so. */
static void stop_decode(struct kv_engine *e, int32_t number)
{
    bool counted = e->decodes_counted;
    if (counted && !e->blocks)
        claim(e, -1);
    kv_slot_stop(e, number);
    if (!counted)
        return;
    if (!e->blocks)
        claim(e, 1);
    e->now.decodes--;
    e->now.sequences--;
    e->now.tokens--;
    e->budget++;
}

static void preempt(struct kv_engine *e, int32_t number)
{
    struct kv_slot *s = e->slot[number];
    struct kv_job *job = s->job;
    if (s->decoding) {
        stop_decode(e, number);
        job->last_token_s = e->clock; /* decodes are a token further with every step */
    } else {
        e->prefill_held -= s->held;
    }
    int64_t done = job->generated - job->generated_before;
    e->tokens_left += s->seen;
    job->recompute = most(job->recompute, s->seen);
    if (e->rules.restart_bug && s->seen < s->target) { /* what was not computed becomes output */
        job->left += s->target - s->seen;
        job->target = s->seen;
    } else {
        job->target += done;
        job->left -= done;
    }
    job->generated_before = job->generated;
    job->preemptions++;
    e->sums.preemptions++;
    kv_slot_give_pages(e, s);
    kv_slot_leave(e, number);
    wait_first(e, job);
    tell(e, KV_PREEMPTED, job, 0, 0);
}

/* Its last token is on its way, and only its pages go (vLLM: it finishes from among those who wait). */
static void drop_ending(struct kv_engine *e, int32_t number)
{
    int32_t n = 0;
    for (int32_t i = 0; i < e->n_ending; i++)
        if (e->ending[i] != number)
            e->ending[n++] = e->ending[i];
    e->n_ending = n;
    e->sums.preemptions++;
    kv_slot_give_pages(e, e->slot[number]);
    kv_slot_leave(e, number);
    e->full = false;
}

/* Pages for a decode or a prefill; the newest sequences give theirs up, in the end it itself. */
static bool make_room(struct kv_engine *e, int32_t number, int64_t need, bool *preempted)
{
    while (kv_engine_free_pages(e) < need) {
        int32_t victim = e->newest;
        *preempted = true;
        if (e->slot[victim]->ending)
            drop_ending(e, victim);
        else
            preempt(e, victim);
        if (victim == number)
            return false;
    }
    return true;
}

/* ---- decodes ---- */

/* One after another, in order of admission: each takes what it needs, and who needs more than there is preempts the
 * newest. */
static bool walk_decodes(struct kv_engine *e)
{
    enum kv_layout layout = e->rules.layout;
    bool sarathi = e->rules.scheduler == KV_SCHEDULER_SARATHI, preempted = false;
    int64_t claimed = 0;
    for (int32_t i = e->oldest, next; i >= 0; i = next) {
        struct kv_slot *s = e->slot[i];
        next = s->newer;
        if (!s->decoding)
            continue;
        int64_t need = kv_slot_need(e, s);
        /* sarathi asks for a free page before it looks whether one is needed */
        if (!make_room(e, i, sarathi ? most(need, e->holder->table[layout]->tables) : need, &preempted))
            break;
        e->claims[layout] += need;
        claimed += need;
        next = s->newer; /* who followed may be gone */
    }
    e->claims[layout] -= claimed;
    return preempted;
}

static void name_last_block(struct kv_engine *e, struct kv_slot *s)
{
    kv_blocks_name(e->blocks, s->block[s->n_blocks - 1], kv_job_block_name(e, s->job, s->n_blocks - 1));
}

/* A block that this step fills has its name at once, or a step later where the last of its tokens is not known yet when
 * the step is scheduled (vllm/v1/core/sched/async_scheduler.py). */
static void take_blocks(struct kv_engine *e)
{
    int64_t page = e->holder->page;
    for (int32_t i = e->in_phase[e->step % page]; i >= 0; i = e->slot[i]->phase_newer) {
        struct kv_slot *s = e->slot[i];
        if (e->rules.async_scheduling && s->seen + e->step - s->start > s->target)
            name_last_block(e, s);
        kv_slot_take_block(s, kv_blocks_take(e->blocks));
    }
    if (e->rules.async_scheduling)
        return;
    for (int32_t i = e->in_phase[(e->step + 1) % page]; i >= 0; i = e->slot[i]->phase_newer)
        name_last_block(e, e->slot[i]);
}

static int64_t decodes_need(const struct kv_engine *e)
{
    const struct kv_decodes *d = &e->decodes;
    enum kv_layout layout = e->rules.layout;
    int64_t need = d->phase[layout][e->step % e->holder->page] + d->rise[layout];
    return e->rules.scheduler == KV_SCHEDULER_SARATHI ? need + e->holder->table[layout]->tables : need;
}

static bool schedule_decodes(struct kv_engine *e)
{
    bool preempted = e->decodes.n && decodes_need(e) > kv_engine_free_pages(e) && walk_decodes(e);
    if (e->blocks)
        take_blocks(e);
    else
        claim(e, 1);
    e->now.decodes = e->now.sequences = e->now.tokens = e->decodes.n;
    e->budget -= e->decodes.n;
    e->decodes_counted = true;
    return preempted;
}

/* ---- prefill ---- */

static int64_t token_limit(const struct kv_engine *e)
{
    int64_t threshold = e->rules.long_prefill_token_threshold;
    return threshold && threshold < e->budget ? threshold : e->budget;
}

/* Pages a pass needs that the slot does not have. */
static int64_t pass_need(const struct kv_engine *e, const struct kv_slot *s)
{
    enum kv_layout layout = e->rules.layout;
    if (e->blocks)
        return ((s->seen + s->pass->n_new + e->holder->page - 1) / e->holder->page - s->n_blocks) *
               e->holder->table[layout]->tables;
    return most(0, s->pass->during[layout] - s->pages[layout]);
}

static bool next_pass(struct kv_engine *e, struct kv_slot *s)
{
    int64_t limit = token_limit(e);
    if (limit <= e->holder->policy->when.patch)
        return false;
    s->pass = kv_hold_next(&s->hold, limit);
    KV_ASSERT(s->pass && !s->pass->decode);
    return true;
}

/* The pass is part of this step. */
static void run_pass(struct kv_engine *e, int32_t number)
{
    struct kv_slot *s = e->slot[number];
    const struct kv_hold_pass *p = s->pass;
    int64_t tokens = p->n_new + p->n_patch;
    if (e->blocks)
        kv_slot_take_blocks(e, s, s->seen, s->seen + p->n_new);
    else
        for (int layout = 0; layout < KV_LAYOUTS; layout++)
            e->claims[layout] += most(0, p->during[layout] - s->pages[layout]);
    e->chunk[e->now.n_chunks++] = (struct kv_step_chunk){.tokens = tokens, .prefix = p->held};
    e->ran[e->n_ran++] = number;
    e->now.tokens += tokens;
    e->now.sequences++;
    e->now.moved_bytes += p->moved_bytes;
    e->now.scored_bytes += p->scored_bytes;
    e->budget -= tokens;
    e->tokens_left -= p->n_new;
    e->recomputed += most(0, least(s->job->recompute, s->seen + p->n_new) - s->seen);
}

static bool schedule_prefills(struct kv_engine *e)
{
    bool preempted = false;
    for (int32_t i = 0; i < e->n_prefill && e->budget > 0;) {
        int32_t number = e->prefill[i];
        struct kv_slot *s = e->slot[number];
        if (!next_pass(e, s))
            break;
        if (!make_room(e, number, pass_need(e, s), &preempted))
            break;
        run_pass(e, number);
        i++;
    }
    return preempted;
}

/* ---- admission ---- */

/* The longest chain of named blocks that the prompt begins with; its last token is always computed. */
static int64_t find_blocks(struct kv_engine *e, struct kv_slot *s, int64_t *unused)
{
    const struct kv_job *job = s->job;
    int64_t most_blocks = (job->target - 1) / e->holder->page;
    *unused = 0;
    while (s->n_blocks < most_blocks) {
        int32_t block = kv_blocks_find(e->blocks, kv_job_block_name(e, job, s->n_blocks));
        if (block < 0)
            break;
        *unused += !kv_blocks_used(e->blocks, block);
        kv_slot_take_block(s, block);
    }
    return s->n_blocks;
}

/* Pages of the whole prefill at its largest, run through in passes of the whole budget. */
static int64_t prefill_peak(struct kv_engine *e, struct kv_slot *s)
{
    int64_t peak = 0;
    const struct kv_hold_pass *p;
    if (s->job->peak_of == s->job->target)
        return s->job->prefill_peak;
    do {
        p = kv_hold_next(&s->hold, e->rules.max_num_batched_tokens);
        peak = most(peak, p->during[e->rules.layout]);
    } while (!p->last);
    s->job->peak_of = s->job->target;
    s->job->prefill_peak = peak;
    return peak;
}

static struct kv_request request_of(const struct kv_job *job)
{
    return (struct kv_request){.prompt = job->target, .output = job->left, .prefill = job->target};
}

/* Whether there are pages for the first pass, and for what else the rules ask. */
static bool fits(struct kv_engine *e, struct kv_slot *s)
{
    const struct kv_engine_rules *r = &e->rules;
    struct kv_request request = request_of(s->job);
    int64_t tables = e->holder->table[r->layout]->tables, page = e->holder->page, unused = 0, there = 0, free_pages,
            whole;
    bool sarathi = r->scheduler == KV_SCHEDULER_SARATHI;
    free_pages = kv_engine_free_pages(e);
    kv_hold_start(&s->hold, &request);
    if (e->blocks) {
        int64_t found = find_blocks(e, s, &unused);
        s->found = s->seen = found * page;
        s->held = (double)s->seen;
        kv_hold_skip(&s->hold, s->seen);
        there = (found - unused) * tables;
    }
    if (e->holder->plain) {
        whole = (s->target + page - 1) / page * tables;
    } else {
        whole = prefill_peak(e, s);
        kv_hold_start(&s->hold, &request);
    }
    if (whole > r->pages) /* by pieces it would come as far as the pool goes, again and again */
        return false;
    if ((r->reserve_prompt || sarathi) && whole - there > free_pages - r->watermark)
        return false;
    if (!next_pass(e, s))
        return false;
    if (pass_need(e, s) + unused * tables > free_pages - r->watermark)
        return false;
    for (int64_t i = 0; i < s->n_blocks; i++)
        kv_blocks_share(e->blocks, s->block[i]);
    s->reserved = sarathi && !e->blocks && e->holder->plain;
    if (s->reserved)
        for (int layout = 0; layout < KV_LAYOUTS; layout++) {
            s->pages[layout] = (s->target + page - 1) / page * e->holder->table[layout]->tables;
            e->pages[layout] += s->pages[layout];
        }
    return true;
}

enum admission { ADMITTED, NOT_NOW, NO_MEMORY };

static enum admission admit(struct kv_engine *e, double cutoff)
{
    struct kv_job *job = e->first_waiting;
    int32_t number;
    if (job->arrival_s > cutoff)
        return NOT_NOW;
    e->limit = KV_LIMIT_SEQUENCES;
    if (e->n_running == e->rules.max_num_seqs)
        return NOT_NOW;
    e->limit = KV_LIMIT_PAGES;
    struct kv_slot *s = kv_slot_take(e, job, &number);
    if (!s)
        return NO_MEMORY;
    s->target = job->target;
    if (!fits(e, s)) {
        e->idle[e->n_idle++] = number;
        s->n_blocks = 0;
        e->full = true;
        return NOT_NOW;
    }
    wait_no_more(e);
    kv_slot_run(e, number);
    e->prefill_held += s->held;
    if (isnan(job->scheduled_s))
        job->scheduled_s = e->clock;
    if (!job->preemptions)
        e->sums.prompt_tokens += job->is.prompt;
    job->cached_tokens += s->found;
    e->tokens_left -= s->found;
    e->sums.cached_tokens += s->found;
    tell(e, job->preemptions ? KV_RESUMED : KV_ADMITTED, job, 0, s->found);
    run_pass(e, number);
    e->limit = KV_LIMIT_TOKENS;
    return ADMITTED;
}

/* ---- the end of a step ---- */

static void leave(struct kv_engine *e, int32_t number)
{
    struct kv_slot *s = e->slot[number];
    if (s->ending && s->names_last)
        kv_blocks_name(e->blocks, s->block[s->n_blocks - 1], s->last_name);
    kv_slot_give_pages(e, s);
    kv_slot_leave(e, number);
    e->full = false;
}

/* The first n of those whose last token is out. */
static void release(struct kv_engine *e, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        leave(e, e->ending[i]);
    for (int32_t i = n; i < e->n_ending; i++)
        e->ending[i - n] = e->ending[i];
    e->n_ending -= n;
}

static void finish(struct kv_engine *e, int32_t number)
{
    struct kv_slot *s = e->slot[number];
    struct kv_job *job = s->job;
    job->finish_s = job->last_token_s = e->clock;
    e->ended = true;
    if (e->rules.async_scheduling) {
        s->ending = true;
        s->names_last = e->blocks && s->seen > s->target && s->seen % e->holder->page == 0;
        s->last_name = s->names_last ? kv_job_block_name(e, job, s->n_blocks - 1) : 0; /* the job goes before them */
        e->ending[e->n_ending++] = number;
    } else {
        leave(e, number);
    }
    tell(e, KV_FINISHED, job, 0, 0);
}

/* Its prompt is computed: the first token is out. */
static void end_prefill(struct kv_engine *e, int32_t number)
{
    struct kv_slot *s = e->slot[number];
    struct kv_job *job = s->job;
    kv_slot_end_prefill(e, number);
    if (isnan(job->first_token_s))
        job->first_token_s = e->clock;
    else if (e->watch && e->watch->gaps)
        kv_quantiles_add(e->watch->gaps, e->clock - job->last_token_s);
    job->last_token_s = e->clock;
    job->generated++;
    e->sums.output_tokens++;
    if (!kv_slot_next_run(e, number))
        finish(e, number);
}

static void end_pass(struct kv_engine *e, int32_t number)
{
    struct kv_slot *s = e->slot[number];
    const struct kv_hold_pass *p = s->pass;
    struct kv_job *job = s->job;
    double n = (double)p->n_new, ramp = n * (n + 1) / 2;
    for (int layout = 0; layout < KV_LAYOUTS && !e->blocks; layout++) {
        int64_t after = s->reserved ? most(s->pages[layout], p->after[layout]) : p->after[layout];
        e->pages[layout] += after - s->pages[layout];
        s->pages[layout] = after;
        e->sums.returned_pages[layout] += p->returned[layout];
    }
    job->entry_steps += n * p->held + ramp;
    job->full_steps += n * (double)s->seen + ramp;
    job->peak_pages = most(job->peak_pages, p->during[e->rules.layout]);
    s->seen += p->n_new;
    e->prefill_held += p->gain;
    s->held += p->gain;
    if (p->last) {
        e->prefill_held -= s->held;
        end_prefill(e, number);
    }
}

/* Decodes are a token further. */
static void advance(struct kv_engine *e)
{
    struct kv_decodes *d = &e->decodes;
    int64_t phase = e->step % e->holder->page;
    for (int layout = 0; layout < KV_LAYOUTS; layout++)
        e->pages[layout] += d->phase[layout][phase];
    d->held_held += 2 * d->gain_held + d->gain_gain;
    d->gain_held += d->gain_gain;
    d->held += d->gain;
    e->step++;
    e->sums.output_tokens += d->n;
    e->tokens_left -= d->n;
}

static void end_runs(struct kv_engine *e)
{
    while (e->n_events && e->event[0].step == e->step) {
        int32_t number = e->event[0].slot;
        kv_slot_stop(e, number);
        if (!kv_slot_next_run(e, number))
            finish(e, number);
    }
}

static void count_blocks(struct kv_engine *e)
{
    int64_t used = e->rules.pages / e->holder->table[e->rules.layout]->tables - kv_blocks_free(e->blocks);
    for (int layout = 0; layout < KV_LAYOUTS; layout++)
        e->pages[layout] = used * e->holder->table[layout]->tables;
}

/* What the step took, in time and memory. */
static void count_step(struct kv_engine *e, const struct kv_step_time *time)
{
    struct kv_engine_sums *sums = &e->sums;
    double held = e->prefill_held + e->decodes.held + (double)e->decodes.n;
    for (int layout = 0; layout < KV_LAYOUTS; layout++) {
        int64_t pages = e->pages[layout] + e->claims[layout];
        sums->peak_pages[layout] = most(sums->peak_pages[layout], pages);
        sums->page_area[layout] += (double)pages * time->s;
    }
    int64_t chunk_tokens = 0;
    for (int64_t i = 0; i < e->now.n_chunks; i++)
        chunk_tokens += e->chunk[i].tokens;
    if (e->recomputed) {
        sums->recomputed_tokens += e->recomputed;
        sums->recompute_s += time->part[KV_TIME_PREFILL] * (double)e->recomputed / (double)chunk_tokens;
    }
    sums->held_area += (held + (double)chunk_tokens) * time->s;
    if (e->n_waiting) {
        sums->limit_s[e->full ? KV_LIMIT_PAGES : e->limit] += time->s;
        sums->waited_s += (double)e->n_waiting * time->s;
    }
    sums->steps++;
    sums->busy_s += time->s;
    for (int i = 0; i < KV_TIME_PARTS; i++)
        sums->part_s[i] += time->part[i];
    if (time->outside > sums->outside)
        sums->outside = time->outside;
    if (e->watch && e->watch->gaps && e->decodes.n)
        kv_quantiles_add_many(e->watch->gaps, time->s, e->decodes.n);
}

/* ---- a step ---- */

static void begin_step(struct kv_engine *e)
{
    e->budget = e->rules.max_num_batched_tokens;
    e->limit = KV_LIMIT_TOKENS;
    e->now = (struct kv_step){.chunk = e->chunk};
    e->n_ran = 0;
    e->decodes_counted = false;
    e->recomputed = 0;
    for (int layout = 0; layout < KV_LAYOUTS; layout++)
        e->claims[layout] = 0;
}

static void tell_who_ran(struct kv_engine *e)
{
    for (int32_t i = e->oldest; i >= 0; i = e->slot[i]->newer) {
        const struct kv_slot *s = e->slot[i];
        bool ran = s->decoding;
        for (int32_t j = 0; j < e->n_ran; j++)
            ran |= e->ran[j] == i;
        if (ran)
            tell(e, KV_RAN, s->job, s->decoding ? 1 : s->pass->n_new + s->pass->n_patch,
                 s->decoding ? s->seen + e->step - s->start : s->seen);
    }
}

static int64_t padded(const struct kv_engine *e, int64_t tokens)
{
    int64_t low = 0, high = e->rules.n_graph_sizes;
    if (!high || tokens > e->rules.graph_sizes[high - 1])
        return tokens;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (e->rules.graph_sizes[middle] < tokens)
            low = middle + 1;
        else
            high = middle;
    }
    return e->rules.graph_sizes[low];
}

/* Decides what the step runs. False when memory is out. */
static bool schedule(struct kv_engine *e, double cutoff)
{
    begin_step(e);
    if (e->blocks || !e->holder->plain)
        e->full = false; /* what is cached may have changed, and evictions give pages back */
    bool preempted = schedule_decodes(e);
    preempted |= schedule_prefills(e);
    enum admission last = ADMITTED;
    preempted &= e->rules.scheduler == KV_SCHEDULER_VLLM; /* sarathi admits in such a step too */
    while (!preempted && !e->full && e->first_waiting && e->budget > 0 && last == ADMITTED)
        last = admit(e, cutoff);
    e->now.chunk = e->chunk;
    return last != NO_MEMORY;
}

static bool take_step(struct kv_engine *e, struct kv_err *err)
{
    struct kv_step_time time = {0};
    const struct kv_decodes *d = &e->decodes;
    e->now.decode_kv = d->held + (double)d->n;
    e->now.decode_kv_squares = d->held_held + 2 * d->held + (double)d->n;
    e->now.moved_bytes += d->moved_bytes;
    e->now.scored_bytes += d->scored_bytes;
    int64_t tokens = e->now.tokens;
    e->now.tokens = padded(e, tokens);
    if (!kv_timing_step(e->timing, &e->now, &time, err))
        return false;
    if (e->blocks)
        count_blocks(e);
    if (e->watch && e->watch->details)
        tell_who_ran(e);
    e->step_s = time.s;
    tell(e, KV_STEPPED, NULL, tokens, e->n_running);
    count_step(e, &time);
    e->begun = e->clock;
    e->clock += time.s;
    advance(e);
    int32_t ending = e->n_ending;
    end_runs(e);
    for (int32_t i = 0; i < e->n_ran; i++)
        end_pass(e, e->ran[i]);
    release(e, ending); /* those that ended a step before */
    if (e->blocks)
        count_blocks(e);
    return true;
}

/* Decides on a step that runs something, if there is one. */
static bool find_step(struct kv_engine *e, struct kv_err *err)
{
    double cutoff = e->rules.async_scheduling && e->n_running ? e->begun : INFINITY;
    bool good = schedule(e, cutoff);
    if (good && !e->now.tokens && (e->n_ending || cutoff < INFINITY)) { /* the step before ends first */
        release(e, e->n_ending);
        good = schedule(e, INFINITY);
    }
    return good || kv_fail(err, KV_ENV, "no memory for %lld sequences at a time", (long long)e->n_running);
}

/* Nothing runs, and who waits first does not fit into an empty pool: it never will. */
static void give_up(struct kv_engine *e)
{
    if (e->n_running || !e->first_waiting || !e->full)
        return;
    struct kv_job *job = wait_no_more(e);
    e->full = false;
    e->ended = true;
    e->tokens_left -= job->target + job->left - 1;
    tell(e, KV_REFUSED, job, 0, 0);
}

bool kv_engine_run(struct kv_engine *e, double until, struct kv_err *err)
{
    e->ended = false;
    while (!e->ended && (e->n_running || e->n_waiting) && e->clock < until) {
        if (!find_step(e, err))
            return false;
        if (!e->now.tokens)
            give_up(e);
        else if (!take_step(e, err))
            return false;
    }
    return true;
}

/* ---- what others ask ---- */

const struct kv_engine_sums *kv_engine_sums(const struct kv_engine *e)
{
    return &e->sums;
}

int64_t kv_engine_waiting(const struct kv_engine *e)
{
    return e->n_waiting;
}

int64_t kv_engine_running(const struct kv_engine *e)
{
    return e->n_running;
}

int64_t kv_engine_pages(const struct kv_engine *e, enum kv_layout layout)
{
    return e->pages[layout] + e->claims[layout];
}

double kv_engine_step_s(const struct kv_engine *e)
{
    return e->step_s;
}

double kv_engine_now(const struct kv_engine *e)
{
    return e->clock;
}

int64_t kv_engine_tokens_left(const struct kv_engine *e)
{
    return e->tokens_left;
}

int64_t kv_engine_cached(const struct kv_engine *e, const struct kv_job *job)
{
    int64_t n = 0;
    while (e->blocks && n < (job->is.prompt - 1) / e->holder->page &&
           kv_blocks_find(e->blocks, kv_job_block_name(e, job, n)) >= 0)
        n++;
    return n;
}
