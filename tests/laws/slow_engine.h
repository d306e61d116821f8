/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What a slow serving engine (slow_serve.h) consists of: requests in an array, each with its own table of blocks, the
 * names of these, and the pass that a request would run next. */
#ifndef KV_TESTS_SLOW_ENGINE_H
#define KV_TESTS_SLOW_ENGINE_H

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
    struct slow_engine *at; /* which has it */
    double arrived_s;
    int64_t begun;     /* tokens computed in steps that have begun */
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
    int64_t n_passes;
    int64_t *pass;    /* tokens of each since its walk began */
    int64_t admitted; /* number of its last admission */
    double kept_at;
    int64_t to_move; /* pages of those kept, until a step has waited for them */

    double refused_s, scheduled_s, first_token_s, last_token_s, finish_s;
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
    double moved_bytes, scored_bytes;
    int64_t most[KV_LAYOUTS], after[KV_LAYOUTS];
};

/* Who holds what while a step runs. */
struct slow_holding {
    struct slow_request *r;
    int64_t pages[KV_LAYOUTS];
    double entries; /* those that come and go in the step included */
    int64_t n_table, *table;
};

/* What the schedulers decided on, from first to last. */
struct slow_decisions {
    int64_t preemptions, cached_tokens, prompt_tokens, dropped_sessions;
};

struct slow_step {
    int64_t n, n_held;
    enum kv_limit limit;           /* what held back the first of those who waited when it was scheduled */
    struct slow_decisions decided; /* up to it */
    int64_t moved_bytes;           /* to the host and from it */
    struct slow_item item[SLOW_SEQS];
    struct slow_holding held[SLOW_REQUESTS];
    int64_t computed[SLOW_REQUESTS]; /* of all requests, with it */
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
    struct slow_request *kept[SLOW_REQUESTS]; /* ended, with entries for the next turn; those kept longest first */
    int64_t n_waiting, n_running, n_kept, admissions;
    int64_t moved_bytes; /* to the host and from it, which the next step waits for */
    double now;
    struct slow_step *step, *next; /* the one under way, and with async scheduling the one behind it */
    int64_t n_left_out;            /* requests that waited when the step under way began */
    struct slow_pool begun;        /* with the names that steps which have begun gave */
    int64_t *mark;                 /* (blocks,) work space */

    struct kv_engine_sums sums;
    struct slow_decisions decided; /* of steps that have begun */
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

/* Tokens of one prompt in a step that has so many left. */
static int64_t slow_share(const struct slow_engine *s, int64_t budget)
{
    int64_t threshold = s->rules->long_prefill_token_threshold;
    return threshold > 0 ? slow_least(budget, threshold) : budget;
}

/* The next pass, in a step that has `budget` tokens left; nothing is taken yet. */
static struct slow_item slow_plan(struct slow_engine *s, struct slow_request *r, int64_t budget)
{
    int64_t limit = slow_share(s, budget);
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
        it.moved_bytes = r->hold.moved_bytes;
        it.scored_bytes = r->hold.scored_bytes;
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

/* Leaves the queue and goes on behind `seen` tokens, of which so many were found: made by others. */
static void slow_begin(struct slow_engine *s, struct slow_request *r, int64_t seen, int64_t found)
{
    slow_remove(s->waiting, &s->n_waiting, r);
    s->running[s->n_running++] = r;
    r->state = SLOW_RUNNING;
    r->computed = seen;
    r->entries = (double)seen;
    r->admitted = s->admissions++;
    s->sums.prompt_tokens += isnan(r->scheduled_s) && r->preemptions == 0 ? r->is.prompt : 0;
    r->cached_tokens += found;
    s->sums.cached_tokens += found;
}

/* Chunks end with a patch, which the rest of a step's tokens may be too few for. */
static bool slow_too_few(const struct slow_engine *s, int64_t budget)
{
    return slow_share(s, budget) <= s->holder->policy->when.patch;
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
    return slow_hold_peak(&r->hold, &asked, slow_share(s, s->rules->max_num_batched_tokens), s->rules->layout);
}

#endif
