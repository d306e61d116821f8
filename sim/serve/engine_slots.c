/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The sequences of an engine: their places in its lists, and the sums over those that decode. */
#include "sim/core/random.h"
#include "sim/serve/engine_inside.h"

#include <stdlib.h>
#include <string.h>

/* ---- slots ---- */

static bool grow(struct kv_engine *e)
{
    int32_t room = e->room ? 2 * e->room : 16;
    struct {
        void *at;
        size_t size;
    } list[] = {{&e->slot, sizeof *e->slot},       {&e->idle, sizeof *e->idle},    {&e->ending, sizeof *e->ending},
                {&e->prefill, sizeof *e->prefill}, {&e->event, sizeof *e->event},  {&e->chunk, sizeof *e->chunk},
                {&e->ran, sizeof *e->ran},         {&e->away_s, sizeof *e->away_s}};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        void *old, *made;
        memcpy(&old, list[i].at, sizeof old);
        made = realloc(old, list[i].size * (size_t)room);
        if (!made)
            return false;
        memcpy(list[i].at, &made, sizeof made);
    }
    e->room = room;
    return true;
}

struct kv_slot *kv_slot_take(struct kv_engine *e, struct kv_job *job, int32_t *number)
{
    if (!e->n_idle && e->n_slots == e->room && !grow(e))
        return NULL;
    if (e->n_idle) {
        *number = e->idle[--e->n_idle];
    } else {
        *number = e->n_slots++;
        e->slot[*number] = KV_NEW(e->arena, struct kv_slot);
        kv_hold_open(&e->slot[*number]->hold, e->holder);
    }
    struct kv_slot *s = e->slot[*number];
    s->job = job;
    s->pass = NULL;
    s->held = 0;
    s->decoding = s->ending = s->single = s->reserved = s->keeps = false;
    s->seen = s->found = s->n_blocks = 0;
    memset(s->pages, 0, sizeof s->pages);
    return s;
}

void kv_slot_run(struct kv_engine *e, int32_t number)
{
    struct kv_slot *s = e->slot[number];
    s->order = e->orders++;
    s->older = e->newest;
    s->newer = KV_NOBODY;
    if (e->newest >= 0)
        e->slot[e->newest]->newer = number;
    else
        e->oldest = number;
    e->newest = number;
    e->n_running++;
    e->prefill[e->n_prefill++] = number;
}

void kv_slot_end_prefill(struct kv_engine *e, int32_t number)
{
    int32_t i = 0;
    while (i < e->n_prefill && e->prefill[i] != number)
        i++;
    if (i == e->n_prefill)
        return;
    memmove(e->prefill + i, e->prefill + i + 1, sizeof *e->prefill * (size_t)(e->n_prefill - i - 1));
    e->n_prefill--;
}

void kv_slot_leave(struct kv_engine *e, int32_t number)
{
    struct kv_slot *s = e->slot[number];
    if (s->older >= 0)
        e->slot[s->older]->newer = s->newer;
    else
        e->oldest = s->newer;
    if (s->newer >= 0)
        e->slot[s->newer]->older = s->older;
    else
        e->newest = s->older;
    kv_slot_end_prefill(e, number);
    e->n_running--;
    s->job = NULL;
    e->idle[e->n_idle++] = number;
}

/* ---- events: the first step, then the earliest admitted ---- */

/* Without a branch: which of two comes first cannot be foretold. */
static bool sooner(const struct kv_event *a, const struct kv_event *b)
{
    return (a->step < b->step) | ((a->step == b->step) & (a->order < b->order));
}

static void sift_up(struct kv_engine *e, int32_t at, struct kv_event moved)
{
    for (; at && sooner(&moved, &e->event[(at - 1) / 2]); at = (at - 1) / 2)
        e->event[at] = e->event[(at - 1) / 2];
    e->event[at] = moved;
}

/* The sooner children move up all the way, and the one that was last goes into the gap: it mostly stays down there. */
static void fill_gap(struct kv_engine *e, int32_t at, struct kv_event last)
{
    int32_t child;
    for (; (child = 2 * at + 2) < e->n_events; at = child) {
        child -= sooner(&e->event[child - 1], &e->event[child]);
        e->event[at] = e->event[child];
    }
    if (child - 1 < e->n_events) {
        e->event[at] = e->event[child - 1];
        at = child - 1;
    }
    sift_up(e, at, last);
}

static void drop_event(struct kv_engine *e, int32_t number)
{
    int32_t at = 0;
    while (e->event[at].slot != number)
        at++;
    struct kv_event last = e->event[--e->n_events];
    if (at < e->n_events)
        fill_gap(e, at, last);
}

/* ---- sums over decodes ---- */

static void enter_phase(struct kv_engine *e, int32_t number, bool enter)
{
    struct kv_slot *s = e->slot[number];
    const struct kv_hold_line *line = &s->hold.line[e->rules.layout][0];
    int32_t *first = &e->in_phase[kv_in_page(e->holder, s->start - line->value)];
    if (enter) {
        s->phase_older = KV_NOBODY;
        s->phase_newer = *first;
        if (*first >= 0)
            e->slot[*first]->phase_older = number;
        *first = number;
        return;
    }
    if (s->phase_newer >= 0)
        e->slot[s->phase_newer]->phase_older = s->phase_older;
    if (s->phase_older >= 0)
        e->slot[s->phase_older]->phase_newer = s->phase_newer;
    else
        *first = s->phase_newer;
}

/* Nothing ever leaves: an entry more with each step. */
static void count_plain_decode(struct kv_engine *e, const struct kv_slot *s, int64_t j, int64_t sign)
{
    struct kv_decodes *d = &e->decodes;
    double one = (double)sign, held = (double)(s->seen + j);
    d->n += sign;
    d->held += one * held;
    d->gain += one;
    d->gain_held += one * held;
    d->gain_gain += one;
    d->held_held += one * held * held;
    d->phase[KV_SHARED][kv_in_page(e->holder, s->start - s->seen)] += sign;
}

/* Adds (sign 1) what a decode holds and takes from the step `j` of its run on, or takes it away (-1). */
static void count_decode(struct kv_engine *e, const struct kv_slot *s, int64_t j, int64_t sign)
{
    struct kv_decodes *d = &e->decodes;
    const struct kv_hold_pass *p = s->pass;
    double one = (double)sign, held = p->held + p->gain * (double)j;
    if (e->holder->plain) {
        count_plain_decode(e, s, j, sign);
        return;
    }
    d->n += sign;
    d->held += one * held;
    d->gain += one * p->gain;
    d->gain_held += one * p->gain * held;
    d->gain_gain += one * p->gain * p->gain;
    d->held_held += one * held * held;
    d->moved_bytes += one * p->moved_bytes;
    d->scored_bytes += one * p->scored_bytes;
    for (int layout = e->holder->counted; layout < KV_LAYOUTS; layout++) {
        if (s->single) {
            d->rise[layout] += sign * (p->during[layout] - p->before[layout]);
            continue;
        }
        d->rise[layout] += sign * p->rise[layout];
        if (p->dip[layout])
            d->dip[layout][kv_in_page(e->holder, s->start - p->grows_from)] += sign * p->dip[layout];
        for (int64_t i = 0; i < e->holder->n_tables[layout]; i++) {
            const struct kv_hold_line *line = &p->line[layout][i];
            if (line->gain)
                d->phase[layout][kv_in_page(e->holder, s->start - line->value)] +=
                    sign * e->holder->table[layout][i].tables;
        }
    }
    if (!d->n) /* sums of fractions end where they began */
        d->held = d->gain = d->gain_held = d->gain_gain = d->held_held = d->moved_bytes = d->scored_bytes = 0;
}

static bool is_single(const struct kv_engine *e, const struct kv_hold_pass *p)
{
    if (p->passes > 1)
        return false;
    for (int layout = e->holder->counted; layout < KV_LAYOUTS; layout++)
        for (int64_t i = 0; i < e->holder->n_tables[layout]; i++)
            if (p->line[layout][i].gain < 0 || p->line[layout][i].gain > 1)
                return true;
    return false;
}

/* What the run adds to the job's own figures. */
static void count_run(const struct kv_engine *e, struct kv_slot *s, int64_t passes)
{
    enum kv_layout layout = e->rules.layout;
    const struct kv_hold_pass *p = s->pass;
    double n = (double)passes, pairs = n * (n - 1) / 2;
    if (!passes)
        return;
    s->job->entry_steps += n * (p->held + 1) + p->gain * pairs;
    s->job->full_steps += n * ((double)s->seen + 1) + pairs;
    int64_t most = s->single ? p->during[layout] : s->pages[layout] + kv_hold_rise(e->holder, p, layout, passes - 1);
    if (most * e->own_pages > s->job->peak_pages)
        s->job->peak_pages = most * e->own_pages;
}

bool kv_slot_next_run(struct kv_engine *e, int32_t number)
{
    struct kv_slot *s = e->slot[number];
    s->pass = kv_hold_next(&s->hold, INT64_MAX);
    if (s->pass)
        kv_slot_begin_run(e, number);
    return s->pass != NULL;
}

void kv_slot_begin_run(struct kv_engine *e, int32_t number)
{
    struct kv_slot *s = e->slot[number];
    s->decoding = true;
    s->start = e->step;
    s->single = !e->holder->plain && is_single(e, s->pass);
    count_decode(e, s, 0, 1);
    if (e->blocks)
        enter_phase(e, number, true);
    sift_up(e, e->n_events++, (struct kv_event){.step = e->step + s->pass->passes, .order = s->order, .slot = number});
}

/* In a run each pass gives back what it needed beyond what it left (kv_hold_rise). */
void kv_slot_add_returned(const struct kv_engine *e, const struct kv_slot *s, int64_t returned[KV_LAYOUTS])
{
    const struct kv_hold_pass *p = s->pass;
    int64_t passes = e->step - s->start;
    if (e->holder->plain || !passes)
        return;
    int64_t dips = kv_pages_of(e->holder, p->grows_from + passes) - kv_pages_of(e->holder, p->grows_from);
    for (int layout = 0; layout < KV_LAYOUTS; layout++)
        returned[layout] += s->single ? p->returned[layout] : passes * p->rise[layout] + dips * p->dip[layout];
}

void kv_slot_stop(struct kv_engine *e, int32_t number)
{
    struct kv_slot *s = e->slot[number];
    const struct kv_hold_pass *p = s->pass;
    int64_t passes = e->step - s->start;
    for (int layout = e->holder->counted; layout < KV_LAYOUTS; layout++) {
        if (s->single && passes) /* sums did not tell */
            e->pages[layout] += p->after[layout] - p->before[layout];
        s->pages[layout] = s->single ? (passes ? p->after[layout] : p->before[layout])
                                     : kv_hold_pages(&s->hold, (enum kv_layout)layout, passes);
    }
    kv_slot_add_returned(e, s, e->sums.returned_pages);
    count_decode(e, s, passes, -1);
    if (e->blocks)
        enter_phase(e, number, false);
    drop_event(e, number);
    count_run(e, s, passes);
    s->seen += passes;
    s->job->generated += passes;
    s->decoding = false;
}

int64_t kv_slot_generated(const struct kv_engine *e, const struct kv_slot *s)
{
    return s->job->generated + (s->decoding ? e->step - s->start : 0);
}

/* ---- pages ---- */

int64_t kv_slot_need(const struct kv_engine *e, const struct kv_slot *s)
{
    enum kv_layout layout = e->rules.layout;
    const struct kv_hold_pass *p = s->pass;
    if (s->single)
        return p->during[layout] - p->before[layout];
    int64_t need = kv_hold_rise(e->holder, p, layout, e->step - s->start);
    for (int64_t i = 0; i < e->holder->n_tables[layout]; i++) {
        const struct kv_hold_line *line = &p->line[layout][i];
        if (line->gain && kv_in_page(e->holder, line->value + e->step - s->start) == 0)
            need += e->holder->table[layout][i].tables;
    }
    return need;
}

void kv_slot_give_pages(struct kv_engine *e, struct kv_slot *s)
{
    if (e->blocks)
        while (s->n_blocks)
            kv_blocks_give(e->blocks, s->block[--s->n_blocks]);
    else
        for (int layout = e->holder->counted; layout < KV_LAYOUTS; layout++)
            e->pages[layout] -= s->pages[layout];
    memset(s->pages, 0, sizeof s->pages);
}

/* ---- blocks by name ---- */

/* Named by the file as far as it goes; behind that a session's tokens are its own, and the same in all its turns. */
uint64_t kv_job_block_name(const struct kv_engine *e, const struct kv_job *job, int64_t block)
{
    static const uint64_t named = 1, own = 2;
    int64_t last = (block + 1) * e->holder->page - 1;
    if (job->is.n_blocks && last < job->is.prompt && last / job->is.block_tokens < job->is.n_blocks)
        return kv_random(named, job->is.block[last / job->is.block_tokens], (uint64_t)block, 0);
    return kv_random(own, (uint64_t)job->session, (uint64_t)block, 0);
}

void kv_slot_take_block(struct kv_slot *s, int32_t block)
{
    if (s->n_blocks == s->room) {
        s->room = s->room ? 2 * s->room : 64;
        s->block = realloc(s->block, sizeof *s->block * (size_t)s->room);
        KV_ASSERT(s->block);
    }
    s->block[s->n_blocks++] = block;
}

void kv_slot_take_blocks(struct kv_engine *e, struct kv_slot *s, int64_t from, int64_t tokens)
{
    int64_t page = e->holder->page, want = kv_pages_of(e->holder, tokens);
    while (s->n_blocks < want)
        kv_slot_take_block(s, kv_blocks_take(e->blocks));
    for (int64_t i = from / page; i < tokens / page; i++)
        kv_blocks_name(e->blocks, s->block[i], kv_job_block_name(e, s->job, i));
}

void kv_slot_name_block(struct kv_engine *e, const struct kv_slot *s, int64_t n)
{
    kv_blocks_name(e->blocks, s->block[n], kv_job_block_name(e, s->job, n));
}
