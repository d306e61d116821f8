/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Random models, policies and requests, small enough to be enumerated token by token. A draw is a function of its
 * purpose and number alone, and says all that is needed to see it again. What a policy keeps is told here by rule and
 * numbers, and to the code under test as the SPEC a user would write. */
#ifndef KV_TESTS_DRAW_H
#define KV_TESTS_DRAW_H

#include "engine/rules.h"
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

enum pooling { POOL_NONE, POOL_AVG, POOL_MAX };
enum reduce { REDUCE_MEAN, REDUCE_SUM, REDUCE_MAX };

/* The largest that is drawn, and the parts, where they are not left to chance. */
struct limits {
    int64_t prompt, output, layers, kv_heads;
    const struct kv_law *law;
    const struct kv_score *score;
};
static const struct limits large_draws = {MOST_PROMPT, MOST_OUTPUT, MOST_LAYERS, MOST_KV_HEADS, NULL, NULL};

enum mask_form { MASK_SYNTHETIC, MASK_BINARY, MASK_GATES };

struct draw {
    uint64_t number;

    int64_t layers, kv_heads, group, head_dim;
    int64_t latent; /* elements of an entry under multi-head latent attention, in one lane a layer; 0: none */
    int64_t window, full_every; /* of sliding-window layers; every how many-th layer is full, 0: none */

    const struct kv_kind *kind;
    const struct kv_law *law;
    const struct kv_score *score;
    enum kv_rule rule;
    unsigned at;
    int64_t run_chunk, chunk, every, patch, window_size, sinks, recents, floor;
    double share;      /* that stays; NaN: none */
    int share_form;    /* how it is written */
    int64_t tokens;    /* budget; 0: none */
    int64_t odd_bytes; /* the budget is written as so many bytes more than `tokens` entries are; 0: as tokens */
    int64_t skip, round_to, beta, stabilizers, local;
    bool kvpress;     /* PyramidKV's other schedule */
    double head_beta; /* HeadKV's */
    double held_back; /* floor_ratio of AdaKV, alpha_safeguard of kvpress' */
    bool normalize;
    enum mask_form mask_form;
    double sparsity;
    int quarters[MOST_LANES]; /* gates of the mask file, x 4 */
    bool full[MOST_LANES];    /* (layers, kv_heads) heads that keep everything, under KV_RULE_MASK */
    const char *mask_file;

    /* What is made of a channel: keys of those scores that have them. */
    enum pooling pooling;
    enum reduce reduce;
    bool reduce_first;
    int64_t kernel, block, seed, local_size;

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

/* SnapKV and PyramidKV: a unit of tokens has a capacity, and chunks that were evicted from are frozen. */
static inline bool draw_counts_units(const struct draw *d)
{
    return d->rule == KV_RULE_UNIFORM || d->rule == KV_RULE_PYRAMID;
}

static inline bool draw_shares(const struct draw *d)
{
    return d->rule == KV_RULE_ADAPTIVE || d->rule == KV_RULE_SAFEGUARD;
}

/* One decision for all heads of a layer. */
static inline bool draw_by_layer(const struct draw *d)
{
    return !strcmp(d->score->name, "tova");
}

/* Tokens of the unit that the score's own window protects. */
static inline int64_t draw_window(const struct draw *d, int64_t n_patch)
{
    return strcmp(d->score->name, "window") ? 0 : larger(d->window_size - n_patch, 0);
}

static void roll_model(struct draw *d, struct dice *r, const struct limits *most)
{
    d->layers = roll(r, 1, most->layers);
    d->kv_heads = roll(r, 1, most->kv_heads);
    d->group = roll(r, 1, MOST_GROUP);
    d->head_dim = 8 * roll(r, 1, 3);
}

static void roll_request(struct draw *d, struct dice *r, const struct limits *most)
{
    d->request.prompt = roll_size(r, 1, most->prompt);
    d->request.output = roll_size(r, 0, most->output);
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

/* Budgets are shared out by scores, one decision for a layer is for lanes that hold as much, and a storage in order of
 * norms knows no frozen chunks. */
static bool parts_fit(const struct draw *d)
{
    if (draw_shares(d) && d->score->positional)
        return false;
    if (draw_counts_units(d) && !strcmp(d->score->name, "l2-upstream"))
        return false;
    return !draw_by_layer(d) || !(draw_shares(d) || d->rule == KV_RULE_MASK || d->rule == KV_RULE_HEADS);
}

static void find_rule(struct draw *d)
{
    d->rule = kv_rule_of(d->law->name);
}

/* Another kind's law or score in place of the kind's own. */
static void roll_parts(struct draw *d, struct dice *r, const struct limits *most)
{
    int64_t n = 0;
    while (kv_kinds[n])
        n++;
    d->law = most->law ? most->law : d->kind->law;
    d->score = most->score ? most->score : d->kind->score;
    if (!most->law && strcmp(d->law->name, "all") && one_in(r, 3)) {
        const struct kv_kind *other = kv_kinds[roll(r, 0, n - 1)];
        if (strcmp(other->law->name, "all"))
            d->law = other->law;
        other = kv_kinds[roll(r, 0, n - 1)];
        if (strcmp(other->law->name, "all"))
            d->score = other->score;
    }
    find_rule(d);
    if (!most->law && !parts_fit(d)) {
        d->law = d->kind->law;
        d->score = d->kind->score;
        find_rule(d);
    }
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
    if (d->at & KV_AT_CHUNK && !d->score->positional && one_in(r, draw_counts_units(d) ? 2 : 8))
        d->patch = d->window_size;
}

/* Sinks and recents, under every law that evicts; those without a budget live by them. */
static void roll_guard(struct draw *d, struct dice *r)
{
    int64_t n = d->request.prompt;
    bool lives = d->rule == KV_RULE_FIXED || d->rule == KV_RULE_MASK;
    if (!d->law->room)
        return;
    d->sinks = one_in(r, lives ? 2 : 3) ? roll_size(r, 0, n < 20 ? n : 20) : 0;
    if (one_in(r, 20))
        d->sinks = roll_size(r, 0, n);
    if (lives ? !d->sinks || !one_in(r, 8) : one_in(r, 3))
        d->recents = roll_size(r, 1, n + 20);
}

static void roll_budget(struct draw *d, struct dice *r)
{
    int64_t n = d->request.prompt;
    bool refused =
        d->rule == KV_RULE_FIXED || d->rule == KV_RULE_HEADS || draw_shares(d); /* less than sinks and recents */
    d->share = NAN;
    bool must = strstr(d->kind->preset, "tokens=") || d->law->needs_budget || !d->score->positional;
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
        d->tokens = (refused ? d->sinks + d->recents : 0) + roll_size(r, 1, n + 20);
        d->odd_bytes = one_in(r, 4) ? roll(r, 1, draw_entry_bytes(d) - 1) : 0;
    }
}

static void mask_by_quantile(struct draw *d)
{
    double gate[MOST_LANES];
    for (int64_t i = 0; i < d->layers * d->kv_heads; i++)
        gate[i] = d->quarters[i];
    kv_rules_full_heads(gate, d->layers * d->kv_heads, d->sparsity, d->full);
}

static void roll_law(struct draw *d, struct dice *r)
{
    int64_t n = d->request.prompt;
    d->skip = one_in(r, 3) ? roll(r, 0, d->layers + 1) : 0;
    d->round_to = one_in(r, 3) ? 64 : one_in(r, 2) ? 1 : roll_size(r, 1, 100);
    d->beta = one_in(r, 2) ? 20 : roll_size(r, 1, 40);
    d->stabilizers = roll_size(r, 0, n + 10);
    d->local = roll_size(r, 0, n + 10);
    d->kvpress = one_in(r, 3);
    d->head_beta = 1 + (double)roll(r, 0, 8) / 4;
    d->held_back = (double)roll(r, 0, one_in(r, 4) ? 100 : 40) / 100;
    d->normalize = one_in(r, 2);
    d->mask_form = (enum mask_form)roll(r, 0, 2);
    d->sparsity = (double)roll(r, 0, 20) / 20;
    for (int64_t i = 0; i < d->layers * d->kv_heads; i++) {
        d->quarters[i] = d->mask_form == MASK_BINARY ? 4 * (int)roll(r, 0, 1) : (int)roll(r, 0, 4);
        d->full[i] = d->quarters[i] == 4; /* read as it is when zeros and ones alone */
    }
    if (d->rule == KV_RULE_HEADS) /* none of no importance at all */
        d->quarters[roll(r, 0, d->kv_heads - 1)] = 3;
    if (d->mask_form == MASK_GATES)
        mask_by_quantile(d);
}

static void roll_score(struct draw *d, struct dice *r)
{
    d->pooling = (enum pooling)roll(r, 0, 2);
    d->reduce = (enum reduce)roll(r, 0, 2);
    d->reduce_first = one_in(r, 2);
    d->kernel = 2 * roll_size(r, 0, one_in(r, 20) ? 200 : 8) + 1;
    d->block = roll_size(r, 1, 40);
    d->seed = roll(r, 0, 3);
    d->local_size = roll_size(r, 0, d->request.prompt + 10);
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
static void draw_within(struct draw *d, const struct limits *most, uint64_t purpose, uint64_t number,
                        const struct kv_kind *kind)
{
    struct dice r = dice_for(purpose, number);
    *d = (struct draw){.number = number, .kind = kind ? kind : roll_kind(&r)};
    roll_model(d, &r, most);
    roll_request(d, &r, most);
    roll_parts(d, &r, most);
    roll_when(d, &r);
    roll_store(d, &r);
    roll_guard(d, &r);
    roll_budget(d, &r);
    roll_law(d, &r);
    roll_score(d, &r);
    d->floor = one_in(&r, 5) ? roll_size(&r, 1, d->request.prompt + 10) : 0;
    /* Recents of each chunk are no window: refused. After prefill nothing says whether T counts what the window
     * dropped. */
    if (d->score->positional && !draw_counts_units(d) && one_in(&r, 3)) {
        d->window = roll_size(&r, 1, d->request.prompt + 50);
        d->full_every = roll(&r, 0, 3);
    }
}

static void draw_make(struct draw *d, uint64_t purpose, uint64_t number, const struct kv_kind *kind)
{
    draw_within(d, &large_draws, purpose, number, kind);
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
    case KV_RULE_FIXED:
        return kv_format(a, ",skip_layers=%lld", (long long)d->skip);
    case KV_RULE_UNIFORM:
        return kv_format(a, ",round_to=%lld", (long long)d->round_to);
    case KV_RULE_PYRAMID:
        return kv_format(a, ",round_to=%lld,beta=%lld,schedule=%s", (long long)d->round_to, (long long)d->beta,
                         d->kvpress ? "kvpress" : "released");
    case KV_RULE_GROWING:
        return kv_format(a, ",stabilizers=%lld,local_len=%lld", (long long)d->stabilizers, (long long)d->local);
    case KV_RULE_MASK:
        if (d->mask_form == MASK_BINARY)
            return kv_format(a, ",mask=%s", d->mask_file);
        if (d->mask_form == MASK_GATES)
            return kv_format(a, ",mask=%s,mask_rule=quantile,sparsity=%.2f", d->mask_file, d->sparsity);
        return kv_format(a, ",sparsity=%.2f", d->sparsity);
    case KV_RULE_HEADS:
        return kv_format(a, ",head_scores=%s,head_beta=%.2f", d->mask_file, d->head_beta);
    case KV_RULE_ADAPTIVE:
        return kv_format(a, ",floor_ratio=%.2f,normalize=%s", d->held_back, d->normalize ? "true" : "false");
    case KV_RULE_SAFEGUARD:
        return kv_format(a, ",alpha_safeguard=%.2f", d->held_back);
    case KV_RULE_ALL:
    case KV_RULE_UNKNOWN:
        break;
    }
    return "";
}

static bool score_has(const struct draw *d, const char *key)
{
    for (int i = 0; i < d->score->n_fields; i++)
        if (!strcmp(d->score->field[i].key, key))
            return true;
    return false;
}

static const char *score_text(const struct draw *d, struct kv_arena *a)
{
    static const char *const poolings[] = {"none", "avg", "max"}, *const reduces[] = {"mean", "sum", "max"};
    const char *text = "";
    if (score_has(d, "pooling"))
        text = kv_format(a, ",pooling=%s,kernel_size=%lld,reduce_order=%s", poolings[d->pooling], (long long)d->kernel,
                         d->reduce_first ? "reduce-first" : "pool-first");
    if (score_has(d, "group_reduce"))
        text = kv_format(a, "%s,group_reduce=%s", text, reduces[d->reduce]);
    if (score_has(d, "local_block"))
        text = kv_format(a, "%s,local_block=%lld", text, (long long)d->block);
    if (score_has(d, "seed"))
        text = kv_format(a, "%s,seed=%lld", text, (long long)d->seed);
    if (score_has(d, "local_size"))
        text = kv_format(a, "%s,local_size=%lld", text, (long long)d->local_size);
    return text;
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
    text = kv_format(a, "%s%s%s%s", text, budget_text(d, a), law_text(d, a), score_text(d, a));
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
    for (int64_t i = 0; (d->rule == KV_RULE_MASK || d->rule == KV_RULE_HEADS) && i < d->layers * d->kv_heads; i++)
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
