/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What a step runs: decodes first, then prefills in order of admission, then those who wait, under the rules of vLLM's
 * V1 scheduler (docs/SERVING.md cites each) or of Sarathi as Vidur has it. */
#include "sim/serve/engine_inside.h"

#include <math.h>
#include <string.h>

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

void kv_engine_tell(const struct kv_engine *e, enum kv_engine_event what, struct kv_job *job, int64_t tokens,
                    int64_t computed)
{
    if (e->watch)
        e->watch->tell(e->watch->context, what, job, tokens, computed);
}

/* ---- who waits ---- */

struct kv_job *kv_engine_next_job(struct kv_engine *e)
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

/* What decodes take in this step and some give back at its end. */
static void claim(struct kv_engine *e, int64_t sign)
{
    const struct kv_decodes *d = &e->decodes;
    int64_t phase = kv_in_page(e->holder, e->step);
    for (int layout = e->holder->counted; layout < KV_LAYOUTS; layout++)
        e->claims[layout] += sign * kv_decodes_take(d, (enum kv_layout)layout, phase);
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

/* ---- preemption: what was computed is dropped, and computed again with what was generated ---- */

static void compute_again(struct kv_engine *e, const struct kv_slot *s)
{
    struct kv_job *job = s->job;
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
}

/* Pages that were taken for the rest of a prompt have nothing in them yet. */
static void move_out(struct kv_engine *e, const struct kv_slot *s)
{
    enum kv_layout layout = e->rules.layout;
    int64_t pages = s->reserved ? kv_pages_of(e->holder, s->seen) * e->holder->table[layout]->tables : s->pages[layout];
    s->job->on_host = s->seen;
    e->offload_bytes += (double)(pages * e->rules.page_bytes);
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
    if (e->rules.offload && !e->blocks && !e->holder->policy->when.patch && s->seen)
        move_out(e, s);
    else
        compute_again(e, s);
    job->preemptions++;
    e->sums.preemptions++;
    kv_slot_give_pages(e, s);
    kv_slot_leave(e, number);
    wait_first(e, job);
    kv_engine_tell(e, KV_PREEMPTED, job, 0, 0);
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
        if (kv_keep_drop(e, NULL))
            continue;
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

static void take_blocks(struct kv_engine *e)
{
    for (int32_t i = e->in_phase[kv_in_page(e->holder, e->step)]; i >= 0; i = e->slot[i]->phase_newer)
        kv_slot_take_block(e->slot[i], kv_blocks_take(e->blocks));
}

/* Blocks that this step fills get their names when the prefills have theirs, so that a decode which one of them
 * preempted names none; or a step later where the last of its tokens is not known yet when the step is scheduled
 * (vllm/v1/core/sched/async_scheduler.py). */
static void name_blocks(struct kv_engine *e)
{
    bool async = e->rules.async_scheduling;
    for (int32_t i = e->in_phase[kv_in_page(e->holder, e->step + !async)]; i >= 0; i = e->slot[i]->phase_newer) {
        struct kv_slot *s = e->slot[i];
        if (!async)
            kv_slot_name_block(e, s, s->n_blocks - 1);
        else if (s->seen + e->step - s->start > s->target)
            kv_slot_name_block(e, s, s->n_blocks - 2); /* the last one is this step's */
    }
}

static bool decodes_fit(const struct kv_engine *e, int64_t phase)
{
    return kv_engine_decodes_need(e, phase) <= kv_engine_free_pages(e);
}

static bool schedule_decodes(struct kv_engine *e)
{
    int64_t phase = kv_in_page(e->holder, e->step);
    bool preempted = e->decodes.n && !decodes_fit(e, phase) && walk_decodes(e);
    if (e->blocks)
        take_blocks(e);
    else
        claim(e, 1);
    e->now.decodes = e->now.sequences = e->now.tokens = e->decodes.n;
    e->decodes_counted = true;
    e->budget -= e->decodes.n;
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
        return (kv_pages_of(e->holder, s->seen + s->pass->n_new) - s->n_blocks) * e->holder->table[layout]->tables;
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
        for (int layout = e->holder->counted; layout < KV_LAYOUTS; layout++)
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

static struct kv_request request_of(const struct kv_job *job)
{
    return (struct kv_request){.prompt = job->target, .output = job->left, .prefill = job->target};
}

/* Pages of the whole prefill at its largest, run through in passes as long as it has when it is alone: in shorter ones
 * layers that evict as their own attention ends hold more. */
static int64_t prefill_peak(struct kv_engine *e, struct kv_slot *s)
{
    int64_t budget = e->rules.max_num_batched_tokens, threshold = e->rules.long_prefill_token_threshold;
    int64_t limit = threshold && threshold < budget ? threshold : budget;
    struct kv_request request = request_of(s->job);
    if (s->job->peak_of != s->job->target) {
        kv_hold_start(&s->hold, &request);
        s->job->prefill_peak = kv_hold_prefill_peak(&s->hold, e->rules.layout, limit);
        s->job->peak_of = s->job->target;
    }
    return s->job->prefill_peak;
}

/* Goes on behind the first `tokens`, whose entries exist. */
static void find_entries(struct kv_engine *e, struct kv_slot *s, int64_t tokens)
{
    kv_hold_seek(&s->hold, tokens, e->rules.max_num_batched_tokens);
    s->seen = tokens;
    s->held = s->hold.held;
    memcpy(s->pages, s->hold.pages, sizeof s->pages);
}

/* They are its own now: `kept`, if of the turn before, and else of a time before it was preempted. */
static void take_entries(struct kv_engine *e, struct kv_slot *s, const struct kv_keep *kept)
{
    if (!kept || !kv_keep_in_pool(kept))
        e->offload_bytes += (double)(s->pages[e->rules.layout] * e->rules.page_bytes);
    for (int layout = e->holder->counted; layout < KV_LAYOUTS; layout++)
        e->pages[layout] += s->pages[layout] - (kept ? kept->pages[layout] : 0);
    s->job->on_host = 0;
    if (!kept)
        return;
    s->found = s->seen;
    kv_keep_end(e, kept);
}

static bool next_decode(struct kv_slot *s)
{
    s->pass = kv_hold_next(&s->hold, INT64_MAX);
    return s->pass != NULL;
}

/* Pages of the whole prefill. */
static int64_t whole_prefill(struct kv_engine *e, struct kv_slot *s)
{
    return e->holder->plain ? kv_pages_of(e->holder, s->target) : prefill_peak(e, s);
}

/* Whether there are pages for the first pass, and for what else the rules ask: `whole` for all of the prefill. `kept`:
 * of the turn before, or NULL. */
static bool fits(struct kv_engine *e, struct kv_slot *s, int64_t whole, const struct kv_keep *kept)
{
    const struct kv_engine_rules *r = &e->rules;
    struct kv_request request = request_of(s->job);
    int64_t tables = e->holder->table[r->layout]->tables, page = e->holder->page, unused = 0, there = 0, free_pages;
    int64_t exist = kept ? least(kept->tokens, s->target - 1) : s->job->on_host;
    int64_t have = kept ? kept->pages[r->layout] : 0;
    bool sarathi = r->scheduler == KV_SCHEDULER_SARATHI;
    free_pages = kv_engine_free_pages(e);
    kv_hold_start(&s->hold, &request);
    if (e->blocks) {
        int64_t found = find_blocks(e, s, &unused);
        s->found = s->seen = found * page;
        s->held = (double)s->seen;
        kv_hold_seek(&s->hold, s->seen, r->max_num_batched_tokens);
        there = (found - unused) * tables;
    }
    if ((r->reserve_prompt || sarathi) && whole - there - have > free_pages - r->watermark)
        return false;
    if (exist)
        find_entries(e, s, exist);
    int64_t back = s->pages[r->layout] - have; /* pages for what comes back from the host */
    if (s->seen >= s->target ? !next_decode(s) : !next_pass(e, s))
        return false;
    if (pass_need(e, s) + unused * tables + back > free_pages - r->watermark)
        return false;
    if (kept || exist)
        take_entries(e, s, kept);
    for (int64_t i = 0; i < s->n_blocks; i++)
        kv_blocks_share(e->blocks, s->block[i]);
    s->reserved = sarathi && !e->blocks && e->holder->plain && s->seen < s->target;
    if (s->reserved)
        for (int layout = e->holder->counted; layout < KV_LAYOUTS; layout++) {
            int64_t back_already = s->pages[layout]; /* of entries that were kept */
            s->pages[layout] = kv_pages_of(e->holder, s->target) * e->holder->table[layout]->tables;
            e->pages[layout] += s->pages[layout] - back_already;
        }
    return true;
}

/* It was preempted among decodes, and its entries are back: it goes on with this step. */
static void resume_decode(struct kv_engine *e, int32_t number)
{
    kv_slot_end_prefill(e, number);
    e->away_s[e->n_back++] = e->clock - e->slot[number]->job->last_token_s;
    claim(e, -1);
    kv_slot_begin_run(e, number);
    claim(e, 1);
    e->now.decodes++;
    e->now.sequences++;
    e->now.tokens++;
    e->budget--;
}

enum admission { ADMITTED, NOT_NOW, NO_MEMORY };

static enum admission admit(struct kv_engine *e, double cutoff)
{
    struct kv_job *job = e->first_waiting;
    int32_t number;
    if (job->arrival_s > cutoff)
        return NOT_NOW;
    if (token_limit(e) <= e->holder->policy->when.patch) /* a chunk ends with a patch */
        return NOT_NOW;
    e->limit = KV_LIMIT_SEQUENCES;
    if (e->n_running == e->rules.max_num_seqs)
        return NOT_NOW;
    e->limit = KV_LIMIT_PAGES;
    struct kv_slot *s = kv_slot_take(e, job, &number);
    if (!s)
        return NO_MEMORY;
    s->target = job->target;
    int64_t whole = whole_prefill(e, s);
    bool too_large = whole > e->rules.pages; /* by pieces it would come as far as the pool goes, again and again */
    const struct kv_keep *kept = kv_keep_find(e, job);
    while (too_large || !fits(e, s, whole, kept)) {
        s->n_blocks = s->seen = s->found = 0;
        s->held = 0;
        memset(s->pages, 0, sizeof s->pages);
        bool dropped = !too_large && (kv_keep_drop(e, kept) || kv_keep_drop(e, NULL));
        kept = kv_keep_find(e, job);
        if (dropped)
            continue;
        e->idle[e->n_idle++] = number;
        e->full = true;
        return NOT_NOW;
    }
    kv_engine_next_job(e);
    kv_slot_run(e, number);
    if (isnan(job->scheduled_s))
        job->scheduled_s = e->clock;
    if (!job->preemptions)
        e->sums.prompt_tokens += job->is.prompt;
    job->cached_tokens += s->found;
    e->tokens_left -= s->found;
    e->sums.cached_tokens += s->found;
    kv_engine_tell(e, job->preemptions ? KV_RESUMED : KV_ADMITTED, job, 0, s->found);
    if (s->seen < s->target) {
        e->prefill_held += s->held;
        run_pass(e, number);
    } else {
        resume_decode(e, number);
    }
    e->limit = KV_LIMIT_TOKENS;
    return ADMITTED;
}

/* ---- a step ---- */

static void begin_step(struct kv_engine *e)
{
    e->budget = e->rules.max_num_batched_tokens;
    e->limit = KV_LIMIT_TOKENS;
    e->now = (struct kv_step){.chunk = e->chunk};
    e->n_ran = e->n_back = 0;
    e->recomputed = 0;
    e->decodes_counted = false;
    memset(e->claims, 0, sizeof e->claims);
}

void kv_engine_begin_decodes(struct kv_engine *e)
{
    begin_step(e);
    e->now.decodes = e->now.sequences = e->decodes.n;
    e->now.moved_bytes = e->decodes.moved_bytes;
    e->now.scored_bytes = e->decodes.scored_bytes;
}

/* Decides what the step runs. False when memory is out. */
bool kv_engine_schedule(struct kv_engine *e, double cutoff)
{
    begin_step(e);
    if (e->blocks || !e->holder->plain)
        e->full = false; /* what is cached may have changed, and evictions give pages back */
    bool preempted = schedule_decodes(e);
    preempted |= schedule_prefills(e);
    if (e->blocks)
        name_blocks(e);
    preempted &= e->rules.scheduler == KV_SCHEDULER_VLLM; /* sarathi admits in such a step too */
    if (preempted)
        e->limit = KV_LIMIT_PAGES;
    enum admission last = ADMITTED;
    while (!preempted && !e->full && e->first_waiting && e->budget > 0 && last == ADMITTED)
        last = admit(e, cutoff);
    e->now.chunk = e->chunk;
    return last != NO_MEMORY;
}
