/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Random models, policies and requests, small enough to be enumerated token by token. A draw is a function of its
 * purpose and number alone, and says all that is needed to see it again. What a policy keeps is told here by rule and
 * numbers, and to the code under test as the SPEC a user would write. */
#ifndef KV_TESTS_DRAW_H
#define KV_TESTS_DRAW_H

#include "sim/core/policy.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    MOST_PROMPT = 600,
    MOST_OUTPUT = 200,
    MOST_CHUNK = 700,
    MOST_PAGE = 70,
    MOST_LAYERS = 6,
    MOST_KV_HEADS = 4,
    MOST_GROUP = 4,
    MOST_LANES = MOST_LAYERS * MOST_KV_HEADS * MOST_GROUP
};

/* How many entries stay: one rule for each law of the table. RULE_UNKNOWN: a law these tests were not taught. */
enum rule { RULE_ALL, RULE_FIXED, RULE_UNIFORM, RULE_PYRAMID, RULE_GROWING, RULE_MASK, RULE_UNKNOWN };
static const char *const rule_names[] = {"all", "fixed", "uniform", "pyramid", "growing", "mask", NULL};

enum mask_form { MASK_SYNTHETIC, MASK_BINARY, MASK_GATES };

struct draw {
    uint64_t number;

    int64_t layers, kv_heads, group, head_dim;
    int64_t latent; /* elements of an entry under multi-head latent attention, in one lane a layer; 0: none */
    int64_t window, full_every; /* of sliding-window layers; every how many-th layer is full, 0: none */

    const struct kv_kind *kind;
    const struct kv_law *law;
    const struct kv_score *score;
    enum rule rule;
    unsigned at;
    int64_t run_chunk, chunk, every, patch, window_size, sinks, recents, floor;
    double share;      /* that stays; NaN: none */
    int share_form;    /* how it is written */
    int64_t tokens;    /* budget; 0: none */
    int64_t odd_bytes; /* the budget is written as so many bytes more than `tokens` entries are; 0: as tokens */
    int64_t skip, round_to, beta, stabilizers, local;
    enum mask_form mask_form;
    double sparsity;
    int quarters[MOST_LANES]; /* gates of the mask file, x 4 */
    bool full[MOST_LANES];    /* (layers, kv_heads) heads that keep everything, under RULE_MASK */
    const char *mask_file;
    bool query_heads;
    enum kv_dtype dtype;
    int64_t scale_group, residual;

    struct kv_request request;
    int64_t page;
};

/* ---- dice ---- */

struct dice {
    uint64_t key, n;
};

static inline uint64_t roll_bits(struct dice *d)
{
    uint64_t x = d->key + ++d->n * UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static inline int64_t roll(struct dice *d, int64_t low, int64_t high)
{
    KV_ASSERT(low <= high);
    return low + (int64_t)(roll_bits(d) % (uint64_t)(high - low + 1));
}

static inline bool one_in(struct dice *d, int64_t n)
{
    return roll(d, 1, n) == 1;
}

/* Each order of magnitude about as likely as the next: most draws are small, and small ones find most mistakes. */
static inline int64_t roll_size(struct dice *d, int64_t low, int64_t high)
{
    int64_t bits = 0;
    while ((high - low) >> bits)
        bits++;
    int64_t value = roll(d, 0, ((int64_t)1 << roll(d, 0, bits)) - 1);
    return low + (value > high - low ? high - low : value);
}

static inline struct dice dice_for(uint64_t purpose, uint64_t number)
{
    struct dice d = {.key = purpose * UINT64_C(0xd1342543de82ef95) + number};
    d.key = roll_bits(&d);
    return d;
}

/* ---- parts of a draw ---- */

static inline int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static inline int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Lanes of a layer. */
static inline int64_t draw_heads(const struct draw *d)
{
    return d->latent ? 1 : d->query_heads ? d->kv_heads * d->group : d->kv_heads;
}

/* Bytes of an entry in a page: notes/policies.md 9, KIVI; other types have no scales. */
static inline int64_t draw_entry_bytes(const struct draw *d)
{
    int64_t elements = d->latent ? d->latent : 2 * d->head_dim;
    switch (d->dtype) {
    case KV_FP8:
        return elements;
    case KV_INT8:
        return elements + elements * 4 / d->scale_group;
    case KV_INT4:
        return elements / 2 + elements * 4 / d->scale_group;
    default:
        return elements * 2;
    }
}

/* The budget of n tokens: int((1-s)*n), upstream's. */
static inline int64_t share_of(const struct draw *d, int64_t n)
{
    return isnan(d->share) ? d->tokens : (int64_t)(d->share * (double)n);
}

static void roll_model(struct draw *d, struct dice *r)
{
    d->layers = roll(r, 1, MOST_LAYERS);
    d->kv_heads = roll(r, 1, MOST_KV_HEADS);
    d->group = roll(r, 1, MOST_GROUP);
    d->head_dim = 8 * roll(r, 1, 3);
}

static void roll_request(struct draw *d, struct dice *r)
{
    d->request.prompt = roll_size(r, 1, MOST_PROMPT);
    d->request.output = roll_size(r, 0, MOST_OUTPUT);
    d->request.prefill = d->request.prompt - one_in(r, 2);
    d->run_chunk = one_in(r, 2) ? roll_size(r, 1, MOST_CHUNK) : d->request.prompt / roll(r, 1, 6) + 1;
    d->page = roll_size(r, 1, MOST_PAGE);
}

/* Those that evict nothing come half as often. */
static const struct kv_kind *roll_kind(struct dice *r)
{
    int64_t n = 0;
    while (kv_kinds[n])
        n++;
    const struct kv_kind *kind = kv_kinds[roll(r, 0, n - 1)];
    return kind->law->room ? kind : kv_kinds[roll(r, 0, n - 1)];
}

/* Another kind's law or score in place of the kind's own. Its preset must not hold keys of its own law. */
static void roll_parts(struct draw *d, struct dice *r)
{
    int64_t n = 0;
    while (kv_kinds[n])
        n++;
    d->law = d->kind->law;
    d->score = d->kind->score;
    bool plain = !strstr(d->kind->preset, "tokens=") && strcmp(d->law->name, "all");
    if (plain && one_in(r, 3)) {
        const struct kv_kind *other = kv_kinds[roll(r, 0, n - 1)];
        if (strcmp(other->law->name, "all"))
            d->law = other->law;
        other = kv_kinds[roll(r, 0, n - 1)];
        if (strcmp(other->law->name, "all"))
            d->score = other->score;
    }
    d->rule = 0;
    while (rule_names[d->rule] && strcmp(rule_names[d->rule], d->law->name))
        d->rule++;
}

static void roll_when(struct draw *d, struct dice *r)
{
    static const unsigned some[] = {KV_AT_CHUNK, KV_AT_POSTFILL, KV_AT_DECODE, KV_AT_CHUNK | KV_AT_DECODE,
                                    KV_AT_POSTFILL | KV_AT_DECODE};
    do
        d->at = d->law->at ? some[roll(r, 0, 4)] : 0;
    while (d->at & ~d->law->at);
    d->chunk = one_in(r, 4) ? roll_size(r, 1, MOST_CHUNK) : 0;
    d->every = one_in(r, 2) ? roll_size(r, 1, 40) : 1;
    d->window_size = roll_size(r, 0, 64);
    bool units = d->rule == RULE_UNIFORM || d->rule == RULE_PYRAMID;
    if (d->at & KV_AT_CHUNK && !d->score->positional && one_in(r, units ? 2 : 8))
        d->patch = d->window_size;
}

static void roll_budget(struct draw *d, struct dice *r)
{
    int64_t n = d->request.prompt;
    bool guarded = d->rule == RULE_FIXED || d->rule == RULE_MASK;
    d->sinks = guarded && one_in(r, 2) ? roll_size(r, 0, n < 20 ? n : 20) : 0;
    d->recents = !guarded || (d->sinks && one_in(r, 8)) ? 0 : roll_size(r, 1, n + 20);
    d->share = NAN;
    bool must = strstr(d->kind->preset, "tokens=") || d->rule == RULE_UNIFORM || d->rule == RULE_PYRAMID ||
                d->rule == RULE_GROWING || d->rule == RULE_UNKNOWN;
    if (!d->law->budget || (!must && one_in(r, 2)))
        return;
    if (!(d->law->budget & KV_BUDGET_TOKENS) || (d->law->budget & KV_BUDGET_SHARE && one_in(r, 2))) {
        d->share = (double)(one_in(r, 8) ? 100 : roll(r, 0, 100)) / 100.0;
        d->share_form = (int)roll(r, 0, 2);
        if (d->share_form == 2) /* compression_ratio: what upstream subtracts from one */
            d->share = 1.0 - d->share;
    } else {
        if (one_in(r, 2))
            d->recents = 0;
        d->tokens = d->sinks + d->recents + roll_size(r, 1, n + 20);
        d->odd_bytes = one_in(r, 4) ? roll(r, 1, draw_entry_bytes(d) - 1) : 0;
    }
}

/* The `full` of highest gate, lower layer and then lower head first among equals: DESIGN 6, notes/policies.md 8.1. */
static void mask_by_quantile(struct draw *d)
{
    int64_t lanes = d->layers * d->kv_heads,
            full = d->sparsity >= 1 ? 0 : lanes - (int64_t)ceil(d->sparsity * (double)(lanes - 1));
    for (int gate = 4; gate >= 0; gate--)
        for (int64_t i = 0; i < lanes; i++)
            if (d->quarters[i] == gate)
                d->full[i] = full-- > 0;
}

static void roll_law(struct draw *d, struct dice *r)
{
    int64_t n = d->request.prompt;
    d->skip = one_in(r, 3) ? roll(r, 0, d->layers + 1) : 0;
    d->round_to = one_in(r, 3) ? 64 : one_in(r, 2) ? 1 : roll_size(r, 1, 100);
    d->beta = one_in(r, 2) ? 20 : roll_size(r, 1, 40);
    d->stabilizers = roll_size(r, 0, n + 10);
    d->local = roll_size(r, 0, n + 10);
    d->mask_form = (enum mask_form)roll(r, 0, 2);
    d->sparsity = (double)roll(r, 0, 20) / 20;
    for (int64_t i = 0; i < d->layers * d->kv_heads; i++) {
        d->quarters[i] = d->mask_form == MASK_BINARY ? 4 * (int)roll(r, 0, 1) : (int)roll(r, 0, 4);
        d->full[i] = d->quarters[i] == 4; /* read as it is when zeros and ones alone */
    }
    if (d->mask_form == MASK_GATES)
        mask_by_quantile(d);
}

static void roll_store(struct draw *d, struct dice *r)
{
    static const enum kv_dtype some[] = {KV_BF16, KV_BF16, KV_FP16, KV_FP8, KV_INT8, KV_INT4};
    d->query_heads = one_in(r, 4);
    d->dtype = some[roll(r, 0, 5)];
    if (!strcmp(d->kind->name, "full") && one_in(r, 3)) {
        d->latent = 8 * roll(r, 1, 9);
        d->dtype = some[roll(r, 0, 3)];
    }
    d->scale_group = (int64_t)1 << roll(r, 0, 3);
    d->residual = d->scale_group * roll(r, 1, 8);
}

/* kind: NULL: any. */
static void draw_make(struct draw *d, uint64_t purpose, uint64_t number, const struct kv_kind *kind)
{
    struct dice r = dice_for(purpose, number);
    *d = (struct draw){.number = number, .kind = kind ? kind : roll_kind(&r)};
    roll_model(d, &r);
    roll_request(d, &r);
    roll_parts(d, &r);
    roll_when(d, &r);
    roll_store(d, &r);
    roll_budget(d, &r);
    roll_law(d, &r);
    d->floor = one_in(&r, 5) ? roll_size(&r, 1, d->request.prompt + 10) : 0;
    /* Recents of each chunk are no window: refused. After prefill nothing says whether T counts what the window
     * dropped. */
    bool units = d->rule == RULE_UNIFORM || d->rule == RULE_PYRAMID;
    if (d->score->positional && !units && one_in(&r, 3)) {
        d->window = roll_size(&r, 1, d->request.prompt + 50);
        d->full_every = roll(&r, 0, 3);
    }
}

/* ---- telling the code under test ---- */

static bool draw_layer_slides(const struct draw *d, int64_t layer)
{
    return d->window && !(d->full_every && (layer + 1) % d->full_every == 0);
}

static struct kv_model draw_model(const struct draw *d, struct kv_arena *a)
{
    struct kv_model m = {.name = "drawn",
                         .type = "llama",
                         .origin = "a draw",
                         .layers = d->layers,
                         .q_heads = d->kv_heads * d->group,
                         .kv_heads = d->kv_heads,
                         .head_dim = d->head_dim,
                         .dtype = KV_BF16,
                         .window = KV_NEW_N(a, int64_t, d->layers)};
    if (d->latent)
        m.rope_dim = m.kv_lora_rank = d->latent / 2;
    for (int64_t i = 0; i < d->layers; i++)
        if ((m.window[i] = draw_layer_slides(d, i) ? d->window : 0))
            m.sliding_window = d->window;
    return m;
}

static const char *budget_text(const struct draw *d, struct kv_arena *a)
{
    long long percent = llround((d->share_form == 2 ? 1 - d->share : d->share) * 100);
    if (d->tokens && d->odd_bytes)
        return kv_format(a, ",bytes=%lld B", (long long)(d->tokens * draw_entry_bytes(d) + d->odd_bytes));
    if (d->tokens)
        return kv_format(a, ",tokens=%lld", (long long)d->tokens);
    if (isnan(d->share))
        return "";
    if (d->share_form == 1)
        return kv_format(a, ",keep=%lld %%", percent);
    return kv_format(a, ",%s=%lld.%02lld", d->share_form ? "compression_ratio" : "keep", percent / 100, percent % 100);
}

static const char *law_text(const struct draw *d, struct kv_arena *a)
{
    switch (d->rule) {
    case RULE_FIXED:
        return kv_format(a, ",skip_layers=%lld", (long long)d->skip);
    case RULE_UNIFORM:
        return kv_format(a, ",round_to=%lld", (long long)d->round_to);
    case RULE_PYRAMID:
        return kv_format(a, ",round_to=%lld,beta=%lld", (long long)d->round_to, (long long)d->beta);
    case RULE_GROWING:
        return kv_format(a, ",stabilizers=%lld,local_len=%lld", (long long)d->stabilizers, (long long)d->local);
    case RULE_MASK:
        if (d->mask_form == MASK_BINARY)
            return kv_format(a, ",mask=%s", d->mask_file);
        if (d->mask_form == MASK_GATES)
            return kv_format(a, ",mask=%s,mask_rule=quantile,sparsity=%.2f", d->mask_file, d->sparsity);
        return kv_format(a, ",sparsity=%.2f", d->sparsity);
    case RULE_ALL:
    case RULE_UNKNOWN:
        break;
    }
    return "";
}

static const char *draw_spec(const struct draw *d, struct kv_arena *a)
{
    static const char *const when[] = {[0] = "never",
                                       [KV_AT_CHUNK] = "chunk",
                                       [KV_AT_POSTFILL] = "postfill",
                                       [KV_AT_DECODE] = "decode",
                                       [KV_AT_CHUNK | KV_AT_DECODE] = "chunk+decode",
                                       [KV_AT_POSTFILL | KV_AT_DECODE] = "postfill+decode"};
    static const char *const dtype[] = {
        [KV_BF16] = "bf16", [KV_FP16] = "fp16", [KV_FP8] = "fp8", [KV_INT8] = "int8", [KV_INT4] = "int4"};
    const char *text = kv_format(a, "%s:when=%s,every=%lld,patch=%lld,window_size=%lld,sink_size=%lld,recent_size=%lld",
                                 d->kind->name, when[d->at], (long long)d->every, (long long)d->patch,
                                 (long long)d->window_size, (long long)d->sinks, (long long)d->recents);
    text = kv_format(a, "%s%s%s", text, budget_text(d, a), law_text(d, a));
    if (d->law != d->kind->law)
        text = kv_format(a, "%s,law=%s", text, d->law->name);
    if (d->score != d->kind->score)
        text = kv_format(a, "%s,score=%s", text, d->score->name);
    if (d->chunk)
        text = kv_format(a, "%s,chunk=%lld", text, (long long)d->chunk);
    if (d->floor)
        text = kv_format(a, "%s,min_tokens=%lld", text, (long long)d->floor);
    return kv_format(a, "%s,store=%s,kv_cache_dtype=%s,group_size=%lld,residual_length=%lld", text,
                     d->query_heads ? "query-head" : "kv-head", dtype[d->dtype], (long long)d->scale_group,
                     (long long)d->residual);
}

/* Everything about it, for the report of a failure. */
static const char *draw_text(const struct draw *d, struct kv_arena *a)
{
    const char *mask = "";
    for (int64_t i = 0; d->rule == RULE_MASK && i < d->layers * d->kv_heads; i++)
        mask = kv_format(a, "%s%s%d/4%s", mask, *mask ? " " : "; gates ", d->quarters[i], d->full[i] ? " full" : "");
    return kv_format(a,
                     "draw %llu: '%s'; %lld layers x %lld KV heads x %lld, head_dim %lld, latent %lld, window %lld, "
                     "full every %lld; "
                     "prompt %lld, output %lld, prefill %lld, run's chunk %lld, page %lld%s",
                     (unsigned long long)d->number, draw_spec(d, a), (long long)d->layers, (long long)d->kv_heads,
                     (long long)d->group, (long long)d->head_dim, (long long)d->latent, (long long)d->window,
                     (long long)d->full_every, (long long)d->request.prompt, (long long)d->request.output,
                     (long long)d->request.prefill, (long long)d->run_chunk, (long long)d->page, mask);
}

/* The mask of the draw in the form it is published in, one layer a line. */
static bool draw_write_mask(const struct draw *d)
{
    FILE *out = fopen(d->mask_file, "w");
    if (!out)
        return false;
    for (int64_t i = 0; i < d->layers * d->kv_heads; i++)
        fprintf(out, "%.2f%c", d->quarters[i] / 4.0, (i + 1) % d->kv_heads ? '\t' : '\n');
    return !fclose(out);
}

#endif
