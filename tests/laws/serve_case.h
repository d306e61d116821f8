/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Random serving scenarios, small enough for slow_serve.h, and a clock for both sides: the time of a step is a whole
 * number of ticks drawn from everything it computes, so that two engines which differ in anything drift apart, and so
 * that arrivals fall on the very start of a step often enough. */
#ifndef KV_TESTS_SERVE_CASE_H
#define KV_TESTS_SERVE_CASE_H

#include "sim/core/random.h"
#include "sim/serve/timing_kind.h"
#include "tests/laws/slow_serve.h"
#include "tests/laws/subject.h"

enum { FOR_SERVING = 77, CASE_PROMPT = 200, CASE_OUTPUT = 60, CASE_BLOCKS = 64, CASE_SIZES = 6, CASE_LINE = 400 };

static const double tick_s = 0x1p-16; /* sums of ticks are exact */

/* ---- the clock ---- */

/* What each step computed, as one line, in the order of the steps. */
struct step_log {
    struct kv_arena *arena;
    int64_t n, room;
    const char **line;
    int64_t lanes;
};

/* A whole number of ticks, up to so many. */
static double log_ticks(uint64_t h, uint64_t most)
{
    return (double)(1 + h % most) * tick_s;
}

static void log_line(struct step_log *log, const char *line)
{
    if (log->n == log->room) {
        const char **more = KV_NEW_N(log->arena, const char *, log->room * 2 + 64);
        if (log->n)
            memcpy(more, log->line, sizeof *more * (size_t)log->n);
        log->room = log->room * 2 + 64;
        log->line = more;
    }
    log->line[log->n++] = line;
}

/* Means over lanes, and sums of them, are fractions of the lanes: here entries of all lanes, whatever the order in
 * which they were added up. */
static int64_t log_entries(const struct step_log *log, double entries)
{
    return llrint(entries * (double)log->lanes);
}

static void log_step(const struct kv_timing *t, const struct kv_step *step, struct kv_step_cost *out)
{
    struct step_log *log = (struct step_log *)(uintptr_t)t->own;
    int64_t held = log_entries(log, step->decode_kv),
            squares = log_entries(log, step->decode_kv_squares * (double)log->lanes);
    uint64_t h = kv_random((uint64_t)step->tokens, (uint64_t)step->sequences, (uint64_t)step->decodes, (uint64_t)held);
    char line[CASE_LINE];
    int n =
        snprintf(line, sizeof line,
                 "%lld tokens of %lld, %lld decodes over %lld (%lld), %.0f bytes offloaded, %.0f moved, %.1f scored",
                 (long long)step->tokens, (long long)step->sequences, (long long)step->decodes, (long long)held,
                 (long long)squares, step->offload_bytes, step->moved_bytes, step->scored_bytes);
    h = kv_mix(h ^ (uint64_t)squares);
    h = kv_random(h, (uint64_t)llrint(step->moved_bytes), (uint64_t)llrint(2 * step->scored_bytes), 0);
    for (int64_t i = 0; i < step->n_chunks; i++) {
        int64_t prefix = log_entries(log, step->chunk[i].prefix);
        h = kv_random(h, (uint64_t)step->chunk[i].tokens, (uint64_t)prefix, (uint64_t)i);
        if (n < CASE_LINE - 60)
            n += snprintf(line + n, sizeof line - (size_t)n, "; %lld after %lld", (long long)step->chunk[i].tokens,
                          (long long)prefix);
    }
    log_line(log, kv_copy_text(log->arena, line));
    out->shared = log_ticks(h, 64);
    out->decode = step->decodes > 0 ? log_ticks(h >> 8, 16) : 0;
    out->prefill = step->n_chunks > 0 ? log_ticks(h >> 16, 32) : 0;
    out->sum = out->shared + out->decode + out->prefill;
}

/* ---- a case ---- */

struct serve_case {
    struct subject subject; /* policy and model */
    struct kv_err e;
    uint64_t number;
    struct kv_holder holder;
    struct kv_engine_rules rules;
    struct kv_timing timing[2];
    struct step_log log[2];
    double horizon; /* INFINITY: none */
    int64_t sizes[CASE_SIZES];
    int64_t n;
    struct slow_request request[SLOW_REQUESTS];
};

/* Half of them keep everything. The others evict by any law that lengths alone decide. */
static void roll_serving_policy(struct serve_case *c, const struct bench *b, struct dice *r)
{
    static const struct limits small = {CASE_PROMPT, CASE_OUTPUT, 3, 2, NULL, NULL};
    const struct kv_kind *kind = one_in(r, 2) ? kv_kind_find("full") : NULL;
    uint64_t number = c->number;
    do
        draw_within(&c->subject.draw, &small, FOR_SERVING, number += UINT64_C(1) << 40, kind);
    while (c->subject.draw.law->share);
    c->subject.draw.page = one_in(r, 4) ? 1 : roll_size(r, 1, 16);
    if (!kind && one_in(r, 2)) /* budgets that bind */
        c->subject.draw.run_chunk = roll_size(r, 1, 100);
    prepare(&c->subject, b);
    kv_holder_open(&c->holder, &c->subject.policy, &c->subject.shape, &c->subject.classes, c->subject.draw.page,
                   (enum kv_scope)roll(r, 0, KV_SCOPES - 1), c->subject.arena);
}

static void roll_rules(struct serve_case *c, struct dice *r)
{
    struct kv_engine_rules *rules = &c->rules;
    rules->scheduler = one_in(r, 3) ? KV_SCHEDULER_SARATHI : KV_SCHEDULER_VLLM;
    rules->layout = one_in(r, 2) ? KV_SHARED : (enum kv_layout)roll(r, 0, KV_LAYOUTS - 1);
    rules->max_num_seqs = roll(r, 1, 8);
    rules->max_num_batched_tokens = rules->max_num_seqs + c->subject.policy.when.patch + roll_size(r, 0, 300);
    rules->max_model_len = 4 * (CASE_PROMPT + CASE_OUTPUT); /* whoever adds requests keeps to it */
    if (rules->scheduler == KV_SCHEDULER_VLLM) {
        rules->prefix_caching = one_in(r, 2);
        rules->async_scheduling = one_in(r, 3);
        rules->reserve_prompt = !one_in(r, 4);
        if (one_in(r, 4)) /* a chunk that ends with a patch is longer than that */
            rules->long_prefill_token_threshold = c->subject.policy.when.patch + roll_size(r, 1, 60);
    } else
        rules->restart_bug = one_in(r, 3);
    rules->offload = one_in(r, 2);
    rules->between = (enum kv_between_turns)roll(r, KV_BETWEEN_DROP, KV_BETWEEN_OFFLOAD);
    rules->page_bytes = roll(r, 1, 3);
    if (one_in(r, 4)) {
        rules->graph_sizes = c->sizes;
        rules->n_graph_sizes = roll(r, 1, CASE_SIZES);
        for (int64_t i = 0, size = 0; i < rules->n_graph_sizes; i++)
            c->sizes[i] = size += roll_size(r, 1, 9);
    }
}

/* Prompts that begin as those of others do: a chain of names for each of a few families, of which a prompt knows the
 * first ones, and goes its own way where it has no name or a name of its own. */
static void roll_names(struct serve_case *c, struct dice *r, struct slow_request *q, int64_t block_tokens)
{
    uint64_t family = (uint64_t)roll(r, 1, 3), *name = KV_NEW_N(c->subject.arena, uint64_t, CASE_BLOCKS);
    int64_t whole = q->is.prompt / block_tokens, common = roll(r, 0, CASE_BLOCKS);
    q->is.block_tokens = block_tokens;
    q->is.n_blocks = smaller(one_in(r, 3) ? roll(r, 0, whole) : whole, CASE_BLOCKS);
    if (one_in(r, 4) && q->is.n_blocks == whole && whole < CASE_BLOCKS && q->is.prompt % block_tokens)
        q->is.n_blocks++; /* the last one names what is left of the prompt */
    for (int64_t i = 0; i < q->is.n_blocks; i++)
        name[i] = kv_random(family, i < common ? 0 : (uint64_t)(q - c->request) + 1, (uint64_t)i,
                            i == whole ? (uint64_t)q->is.prompt : 0);
    q->is.block = name;
}

static void roll_requests(struct serve_case *c, struct dice *r)
{
    int64_t ticks = 0, spread = roll_size(r, 0, 1000), block_tokens = roll_size(r, 1, 40);
    bool named = one_in(r, 2), sessions = one_in(r, 3);
    int64_t most_prompt = one_in(r, 2) ? CASE_PROMPT : roll_size(r, 1, CASE_PROMPT),
            most_output = one_in(r, 2) ? CASE_OUTPUT : roll_size(r, 1, CASE_OUTPUT);
    c->n = one_in(r, 2) ? roll(r, 1, 30) : roll_size(r, 1, 30);
    for (int64_t i = 0; i < c->n; i++) {
        struct slow_request *q = &c->request[i];
        int64_t last = sessions && i > 0 && one_in(r, 2) ? roll(r, 0, i - 1) : -1;
        *q = (struct slow_request){.session = i, .after = -1};
        q->is = (struct kv_arrival){.request = i,
                                    .follows = sessions && one_in(r, 4),
                                    .prompt = roll(r, 1, most_prompt),
                                    .output = roll(r, 1, most_output)};
        for (int64_t j = 0; j < i; j++)
            if (c->request[j].after == last)
                last = -1; /* one turn after another */
        struct slow_request *before = last < 0 ? NULL : &c->request[last];
        if (before && before->is.prompt + before->is.output < 2 * CASE_PROMPT) {
            q->after = last;
            q->session = before->session;
            q->is.request = before->is.request;
            before->is.follows = true;
            q->is.turn = before->is.turn + 1;
            q->is.context = before->is.prompt + before->is.output;
            q->is.prompt = q->is.context + roll_size(r, 1, 30);
            if (one_in(r, 10)) /* cut off at the end, as too_long = shorten does */
                q->is.prompt = roll(r, 1, q->is.context);
            q->is.block = before->is.block;
            q->is.n_blocks = before->is.n_blocks;
            q->is.block_tokens = before->is.block_tokens;
            q->is.arrival_s = q->arrival_s = (double)roll_size(r, 0, 500) * tick_s;
        } else {
            ticks += one_in(r, 2) ? 0 : roll(r, 0, spread);
            q->is.arrival_s = q->arrival_s = (double)ticks * tick_s;
            if (named)
                roll_names(c, r, q, block_tokens);
        }
    }
}

/* From too small for the largest request to room for several. */
static void roll_pool(struct serve_case *c, struct dice *r)
{
    int64_t most = 1, unit = 1;
    const struct kv_shape *s = &c->subject.shape;
    for (int64_t i = 0; i < c->n; i++)
        most = larger(most, c->request[i].is.prompt + c->request[i].is.output);
    if (c->rules.layout == KV_PER_LAYER)
        unit = s->layers;
    if (c->rules.layout == KV_PER_HEAD)
        unit = s->layers * s->store_heads;
    int64_t one = slow_ceil(most, c->holder.page);
    c->rules.pages =
        unit * roll(r, one_in(r, 6) ? larger(one / 2, 1) : one, one + roll_size(r, 0, 3 * one)) + roll(r, 0, 1);
    if (c->rules.scheduler == KV_SCHEDULER_SARATHI && one_in(r, 2))
        c->rules.watermark = roll(r, 0, c->rules.pages / 10);
}

/* Evictions cost nothing, or a power of two, so that sums stay exact. */
static double roll_move_s_per_byte(struct serve_case *c, struct dice *r)
{
    double cost = tick_s;
    if (one_in(r, 2))
        return 0;
    while (cost * c->holder.entry_bytes > tick_s / 16)
        cost /= 2;
    return cost;
}

static inline void case_make(struct serve_case *c, const struct bench *b, uint64_t number)
{
    struct dice r = dice_for(FOR_SERVING, number);
    *c = (struct serve_case){.number = number};
    roll_serving_policy(c, b, &r);
    roll_rules(c, &r);
    roll_requests(c, &r);
    roll_pool(c, &r);
    c->horizon = one_in(&r, 3) ? (double)roll_size(&r, 1, 20000) * tick_s : INFINITY;
    double move_s_per_byte = roll_move_s_per_byte(c, &r);
    for (int side = 0; side < 2; side++) {
        c->log[side] = (struct step_log){.arena = c->subject.arena,
                                         .lanes = c->subject.shape.layers * c->subject.shape.store_heads};
        c->timing[side] = (struct kv_timing){.cost = log_step,
                                             .scale = 1,
                                             .move_s_per_byte = move_s_per_byte,
                                             .link_s_per_byte = tick_s,
                                             .own = &c->log[side]};
    }
}

static const char *case_text(const struct serve_case *c)
{
    static const char *const between[] = {"drop", "hold", "offload"};
    const struct kv_engine_rules *r = &c->rules;
    return kv_format(c->subject.arena,
                     "case %llu: %s, %s%s%s%s%s%s, between turns %s, %lld bytes a page, layout %s, scope %s, %lld "
                     "pages of %lld, max_num_seqs %lld, "
                     "max_num_batched_tokens %lld, long_prefill_token_threshold %lld, watermark %lld, %lld graph "
                     "sizes, %lld requests, horizon %g s\n%s",
                     (unsigned long long)c->number, c->holder.plain ? "plain" : "evicting",
                     r->scheduler == KV_SCHEDULER_SARATHI ? "sarathi" : "vllm",
                     r->prefix_caching ? ", prefix caching" : "", r->async_scheduling ? ", async" : "",
                     r->reserve_prompt ? ", reserve_prompt" : "", r->restart_bug ? ", restart_bug" : "",
                     r->offload ? ", offload" : "", between[r->between], (long long)r->page_bytes,
                     kv_layout_names[r->layout], kv_scope_names[c->holder.scope], (long long)r->pages,
                     (long long)c->holder.page, (long long)r->max_num_seqs, (long long)r->max_num_batched_tokens,
                     (long long)r->long_prefill_token_threshold, (long long)r->watermark, (long long)r->n_graph_sizes,
                     (long long)c->n, c->horizon, draw_text(&c->subject.draw, c->subject.arena));
}

#endif
