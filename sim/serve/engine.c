/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/interrupt.h"
#include "sim/serve/engine_inside.h"

#include <math.h>
#include <stdlib.h>

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* ---- open and close ---- */

/* The pool in pages of the layout that is counted in its stead: what is asked for and what is there are then whole
 * numbers of its tables, and a rest of the pool is of no use. */
static void count_own(struct kv_engine *e)
{
    struct kv_engine_rules *r = &e->rules;
    int64_t tables = e->holder->table[r->layout]->tables, left = r->pages - r->watermark;
    e->own_pages = 1;
    if (!e->holder->plain)
        return;
    e->own_pages = tables;
    r->pages /= tables;
    r->watermark = r->pages - (left < 0 ? -((tables - 1 - left) / tables) : left / tables);
    r->page_bytes *= tables;
    r->layout = KV_SHARED;
    if (e->watch && e->watch->timeline)
        e->watch->timeline->counted = e->holder->counted;
}

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
    for (int layout = holder->counted; layout < KV_LAYOUTS; layout++) {
        e->decodes.phase[layout] = KV_NEW_N(a, int64_t, holder->page);
        e->decodes.dip[layout] = KV_NEW_N(a, int64_t, holder->page);
    }
    count_own(e);
    if (rules->prefix_caching && holder->plain) {
        e->in_phase = KV_NEW_N(a, int32_t, holder->page);
        for (int64_t i = 0; i < holder->page; i++)
            e->in_phase[i] = KV_NOBODY;
        e->blocks = kv_blocks_open(e->rules.pages, a, err);
        if (!e->blocks)
            return NULL;
    }
    return e;
}

static void count_blocks(struct kv_engine *e)
{
    e->pages[KV_SHARED] = e->rules.pages - kv_blocks_free(e->blocks);
}

void kv_engine_close(struct kv_engine *e)
{
    for (int32_t i = 0; e && i < e->n_slots; i++)
        free(e->slot[i]->block);
    if (!e)
        return;
    if (e->blocks)
        count_blocks(e);
    for (int layout = e->holder->counted; layout < KV_LAYOUTS && !e->n_running && !e->n_keep;
         layout++) /* taken = given back */
        KV_ASSERT(e->pages[layout] == 0);
    if (e->watch && e->watch->timeline)
        for (int layout = 0; layout < e->holder->counted; layout++)
            kv_timeline_follow(e->watch->timeline, (enum kv_layout)layout, e->holder->table[layout]->tables);
    void *lists[] = {e->keep, e->slot, e->idle, e->ending, e->prefill, e->event, e->chunk, e->ran, e->away_s};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        free(lists[i]);
}

/* Nothing runs; what sessions keep is held all the same. */
static void idle_until(struct kv_engine *e, double until)
{
    double s = until - e->clock;
    if (e->n_keep && !e->blocks) {
        for (int layout = e->holder->counted; layout < KV_LAYOUTS; layout++)
            e->sums.page_area[layout] += (double)e->pages[layout] * s;
        if (e->watch && e->watch->timeline)
            kv_timeline_hold(e->watch->timeline, e->clock, s, e->pages, 0, 0);
    }
    e->clock = until;
}

void kv_engine_rest(struct kv_engine *e, double until)
{
    if (!e->n_running && !e->n_waiting && until > e->clock)
        idle_until(e, until);
}

void kv_engine_add(struct kv_engine *e, struct kv_job *job)
{
    kv_engine_rest(e, job->arrival_s);
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

/* ---- the end of a step ---- */

static void leave(struct kv_engine *e, int32_t number)
{
    struct kv_slot *s = e->slot[number];
    if (s->ending && s->names_last)
        kv_blocks_name(e->blocks, s->block[s->n_blocks - 1], s->last_name);
    if (s->keeps)
        kv_keep_slot(e, s);
    else
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
    s->keeps = job->is.follows && e->rules.between != KV_BETWEEN_DROP && !e->blocks && !e->holder->policy->when.patch;
    s->session = job->is.request;
    if (e->rules.async_scheduling) {
        s->ending = true;
        s->names_last = e->blocks && s->seen > s->target && kv_in_page(e->holder, s->seen) == 0;
        s->last_name = s->names_last ? kv_job_block_name(e, job, s->n_blocks - 1) : 0; /* the job goes before them */
        e->ending[e->n_ending++] = number;
    } else {
        leave(e, number);
    }
    kv_engine_tell(e, KV_FINISHED, job, 0, 0);
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
    for (int layout = e->holder->counted; layout < KV_LAYOUTS && !e->blocks; layout++) {
        int64_t after = s->reserved ? most(s->pages[layout], p->after[layout]) : p->after[layout];
        e->pages[layout] += after - s->pages[layout];
        s->pages[layout] = after;
        e->sums.returned_pages[layout] += p->returned[layout];
    }
    job->entry_steps += n * p->held + ramp;
    job->full_steps += n * (double)s->seen + ramp;
    job->peak_pages = most(job->peak_pages, p->during[e->rules.layout] * e->own_pages);
    s->seen += p->n_new;
    e->prefill_held += p->gain;
    s->held += p->gain;
    if (p->last) {
        e->prefill_held -= s->held;
        end_prefill(e, number);
    }
}

/* Decodes are a token further, in a step of that number modulo page. */
static void advance(struct kv_engine *e, int64_t phase)
{
    struct kv_decodes *d = &e->decodes;
    for (int layout = e->holder->counted; layout < KV_LAYOUTS; layout++)
        e->pages[layout] += d->phase[layout][phase];
    d->held_held += 2 * d->gain_held + d->gain_gain;
    d->gain_held += d->gain_gain;
    d->held += d->gain;
    e->step++;
    e->sums.output_tokens += d->n;
    e->tokens_left -= d->n;
}

static void end_run(struct kv_engine *e, int32_t number)
{
    kv_slot_stop(e, number);
    if (!kv_slot_next_run(e, number))
        finish(e, number);
}

void kv_engine_end_runs(struct kv_engine *e)
{
    int32_t i = 0;
    for (;;) {
        bool run = e->n_events && e->event[0].step == e->step;
        if (i < e->n_ran && (!run || e->slot[e->ran[i]]->order < e->event[0].order))
            end_pass(e, e->ran[i++]);
        else if (run)
            end_run(e, e->event[0].slot);
        else
            return;
    }
}

/* Seconds in which somebody waited. */
static void count_waiting(struct kv_engine *e, double s)
{
    if (!e->n_waiting)
        return;
    e->sums.limit_s[e->full ? KV_LIMIT_PAGES : e->limit] += s;
    e->sums.waited_s += (double)e->n_waiting * s;
}

/* What the step took, in time and memory, into the timeline. */
static void count_span(const struct kv_engine *e, double s, int64_t tokens)
{
    int64_t pages[KV_LAYOUTS];
    for (int layout = e->holder->counted; layout < KV_LAYOUTS; layout++)
        pages[layout] = e->pages[layout] + e->claims[layout];
    struct kv_stretch *span = kv_timeline_hold(e->watch->timeline, e->clock, s, pages, e->n_running, e->n_waiting);
    span->tokens += tokens;
    span->steps++;
}

/* Gaps between tokens of those who decode. Who was away among them has been longer without one. */
static void count_gaps(struct kv_engine *e, double s)
{
    struct kv_quantiles *gaps = e->watch->gaps;
    if (e->decodes.n > e->n_back)
        kv_quantiles_add_many(gaps, s, e->decodes.n - e->n_back);
    for (int32_t i = 0; i < e->n_back; i++)
        kv_quantiles_add(gaps, e->away_s[i] + s);
}

/* The same into the sums. */
static void count_step(struct kv_engine *e, const struct kv_step_time *time, int64_t chunk_tokens)
{
    struct kv_engine_sums *sums = &e->sums;
    double held = e->prefill_held + e->decodes.held + (double)e->decodes.n;
    for (int layout = e->holder->counted; layout < KV_LAYOUTS; layout++) {
        int64_t pages = e->pages[layout] + e->claims[layout];
        sums->peak_pages[layout] = most(sums->peak_pages[layout], pages);
        sums->page_area[layout] += (double)pages * time->s;
    }
    sums->held_area += (held + (double)chunk_tokens) * time->s;
    count_waiting(e, time->s);
    sums->steps++;
    sums->busy_s += time->s;
    for (int i = 0; i < KV_TIME_PARTS; i++)
        sums->part_s[i] += time->part[i];
    if (time->outside > sums->outside)
        sums->outside = time->outside;
    if (e->watch && e->watch->gaps)
        count_gaps(e, time->s);
}

/* Of its prefill, what had been computed before. */
static void count_recomputed(struct kv_engine *e, const struct kv_step_time *time, int64_t chunk_tokens)
{
    e->sums.recomputed_tokens += e->recomputed;
    e->sums.recompute_s += time->part[KV_TIME_PREFILL] * (double)e->recomputed / (double)chunk_tokens;
}

/* ---- a step ---- */

static void tell_who_ran(struct kv_engine *e)
{
    for (int32_t i = e->oldest; i >= 0; i = e->slot[i]->newer) {
        const struct kv_slot *s = e->slot[i];
        bool ran = s->decoding;
        for (int32_t j = 0; j < e->n_ran; j++)
            ran |= e->ran[j] == i;
        if (ran)
            kv_engine_tell(e, KV_RAN, s->job, s->decoding ? 1 : s->pass->n_new + s->pass->n_patch,
                           s->decoding ? s->seen + e->step - s->start : s->seen);
    }
}

int64_t kv_engine_padded(const struct kv_engine *e, int64_t tokens)
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

static bool take_step(struct kv_engine *e, struct kv_err *err)
{
    struct kv_step_time time;
    const struct kv_decodes *d = &e->decodes;
    const struct kv_engine_watch *w = e->watch;
    int64_t tokens = e->now.tokens, chunk_tokens = tokens - e->now.decodes;
    e->now.decode_kv = d->held + (double)d->n;
    e->now.decode_kv_squares = d->held_held + 2 * d->held + (double)d->n;
    e->now.moved_bytes += d->moved_bytes;
    e->now.scored_bytes += d->scored_bytes;
    e->now.offload_bytes = e->offload_bytes;
    e->sums.offloaded_bytes += e->offload_bytes;
    e->offload_bytes = 0;
    e->now.tokens = kv_engine_padded(e, tokens);
    if (!kv_timing_step(e->timing, &e->now, &time, err))
        return false;
    if (e->blocks)
        count_blocks(e);
    if (w && w->details) {
        tell_who_ran(e);
        kv_engine_tell(e, KV_STEPPED, NULL, tokens, e->n_running);
    }
    if (e->recomputed)
        count_recomputed(e, &time, chunk_tokens);
    if (w && w->timeline)
        count_span(e, time.s, tokens);
    count_step(e, &time, chunk_tokens);
    e->begun = e->clock;
    e->clock += time.s;
    advance(e, kv_in_page(e->holder, e->step));
    int32_t ending = e->n_ending;
    kv_engine_end_runs(e);
    if (ending)
        release(e, ending); /* those that ended a step before */
    if (e->blocks)
        count_blocks(e);
    return true;
}

/* ---- steps one after another ---- */

/* Decides on a step that runs something, if there is one. */
static bool find_step(struct kv_engine *e, struct kv_err *err)
{
    double cutoff = e->rules.async_scheduling && e->n_running ? e->begun : INFINITY;
    bool good = kv_engine_schedule(e, cutoff);
    if (good && !e->now.tokens && (e->n_ending || cutoff < INFINITY)) { /* the step before ends first */
        release(e, e->n_ending);
        good = kv_engine_schedule(e, INFINITY);
    }
    return good || kv_fail(err, KV_ENV, "no memory for %lld sequences at a time", (long long)e->n_running);
}

/* Nothing runs, and who waits first does not fit into an empty pool: it never will. */
static void give_up(struct kv_engine *e)
{
    if (e->n_running || !e->first_waiting || !e->full)
        return;
    struct kv_job *job = kv_engine_next_job(e);
    e->full = false;
    e->ended = true;
    if (job->is.turn)
        kv_engine_forget(e, job->is.request);
    e->tokens_left -= job->target + job->left - 1 - job->on_host;
    kv_engine_tell(e, KV_REFUSED, job, 0, 0);
}

bool kv_engine_run(struct kv_engine *e, double until, struct kv_err *err)
{
    e->ended = false;
    while (!e->ended && (e->n_running || e->n_waiting) && e->clock < until && !kv_interrupted()) {
        if (!kv_engine_take_stretches(e, until, err))
            return false;
        if (e->ended || !(e->clock < until))
            break;
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

struct kv_engine_sums kv_engine_sums(const struct kv_engine *e)
{
    struct kv_engine_sums sums = e->sums;
    for (int32_t i = e->oldest; i >= 0; i = e->slot[i]->newer)
        if (e->slot[i]->decoding)
            kv_slot_add_returned(e, e->slot[i], sums.returned_pages);
    for (int layout = 0; layout < e->holder->counted; layout++) {
        int64_t tables = e->holder->table[layout]->tables;
        sums.peak_pages[layout] = sums.peak_pages[KV_SHARED] * tables;
        sums.page_area[layout] = sums.page_area[KV_SHARED] * (double)tables;
    }
    return sums;
}

void kv_engine_sums_add(struct kv_engine_sums *to, const struct kv_engine_sums *from)
{
    to->dropped_sessions += from->dropped_sessions;
    to->offloaded_bytes += from->offloaded_bytes;
    to->steps += from->steps;
    to->preemptions += from->preemptions;
    to->recomputed_tokens += from->recomputed_tokens;
    to->cached_tokens += from->cached_tokens;
    to->prompt_tokens += from->prompt_tokens;
    to->output_tokens += from->output_tokens;
    for (int layout = 0; layout < KV_LAYOUTS; layout++) {
        if (from->peak_pages[layout] > to->peak_pages[layout])
            to->peak_pages[layout] = from->peak_pages[layout];
        to->returned_pages[layout] += from->returned_pages[layout];
        to->page_area[layout] += from->page_area[layout];
    }
    to->held_area += from->held_area;
    to->busy_s += from->busy_s;
    for (int i = 0; i < KV_TIME_PARTS; i++)
        to->part_s[i] += from->part_s[i];
    to->recompute_s += from->recompute_s;
    for (int i = 0; i < KV_LIMITS; i++)
        to->limit_s[i] += from->limit_s[i];
    to->waited_s += from->waited_s;
    if (from->outside > to->outside)
        to->outside = from->outside;
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
    bool counted = (int)layout >= e->holder->counted;
    return counted ? e->pages[layout] + e->claims[layout]
                   : (e->pages[KV_SHARED] + e->claims[KV_SHARED]) * e->holder->table[layout]->tables;
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
