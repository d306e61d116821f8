/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "engine/witness.h"

#include "sim/core/mask.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what a policy says ---- */

static const void *find(const struct kv_policy *p, const char *key, const struct kv_field **field)
{
    for (int i = 0; i < p->n_binds; i++)
        for (int j = 0; j < p->bind[i].n; j++)
            if (!strcmp(p->bind[i].field[j].key, key)) {
                *field = &p->bind[i].field[j];
                return (const char *)p->bind[i].base + (*field)->offset;
            }
    return NULL;
}

/* Keys that a policy does not have are `otherwise`. */
static int64_t count_of(const struct kv_policy *p, const char *key, int64_t otherwise)
{
    const struct kv_field *f;
    const int64_t *value = find(p, key, &f);
    return value && *value != KV_UNSET ? *value : otherwise;
}

static double real_of(const struct kv_policy *p, const char *key, double otherwise)
{
    const struct kv_field *f;
    const double *value = find(p, key, &f);
    return value && !isnan(*value) ? *value : otherwise;
}

static const char *text_of(const struct kv_policy *p, const char *key)
{
    const struct kv_field *f;
    const void *value = find(p, key, &f);
    if (!value)
        return NULL;
    return f->type == KV_T_CHOICE ? f->choices[*(const int *)value] : *(const char *const *)value;
}

static bool is(const struct kv_policy *p, const char *key, const char *choice)
{
    const char *text = text_of(p, key);
    return text && !strcmp(text, choice);
}

/* Heads that keep everything: a file of zeros and ones as it is, of gates by threshold or by quantile. */
static bool read_mask(struct kv_rules *r, const struct kv_policy *p, const struct kv_shape *s, struct kv_arena *a,
                      struct kv_err *e)
{
    int64_t lanes = s->layers * s->kv_heads;
    double sparsity = real_of(p, "sparsity", NAN);
    bool *full = KV_NEW_N(a, bool, lanes);
    struct kv_mask mask;
    r->full = full;
    if (!text_of(p, "mask")) { /* without a file there is nothing to hold it against */
        for (int64_t i = 0; i < lanes; i++)
            full[i] = !p->law->group(p, s, i / s->kv_heads, i % s->kv_heads * (s->store_heads / s->kv_heads));
        return true;
    }
    if (!kv_mask_read(text_of(p, "mask"), s->layers, s->kv_heads, s->q_heads, &mask, a, e))
        return false;
    bool quantile = is(p, "mask_rule", "quantile") || (is(p, "mask_rule", "auto") && !mask.binary && !isnan(sparsity));
    if (quantile)
        kv_rules_full_heads(mask.gate, lanes, sparsity, full);
    for (int64_t i = 0; i < lanes && !quantile; i++)
        full[i] = mask.gate[i] > real_of(p, "threshold", 0.5);
    return true;
}

static bool read_importance(struct kv_rules *r, const struct kv_policy *p, const struct kv_shape *s, struct kv_arena *a,
                            struct kv_err *e)
{
    struct kv_mask file;
    if (!kv_mask_read(text_of(p, "head_scores"), s->layers, s->kv_heads, s->q_heads, &file, a, e))
        return false;
    r->importance = file.gate;
    return true;
}

bool kv_rules_read(struct kv_rules *r, const struct kv_policy *p, const struct kv_shape *s, const struct kv_request *q,
                   struct kv_arena *a, struct kv_err *e)
{
    const struct kv_field *f;
    const bool *normalize = find(p, "normalize", &f);
    *r = (struct kv_rules){
        .layers = s->layers,
        .kv_heads = s->kv_heads,
        .heads = s->store_heads,
        .window = s->window,
        .prompt = q->prompt,
        .prefill = q->prefill,
        .output = q->output,
        .rule = kv_rule_of(p->law->name),
        .score = p->score->name,
        .positional = p->score->positional,
        .at_chunks = p->when.at & KV_AT_CHUNK,
        .at_postfill = p->when.at & KV_AT_POSTFILL,
        .at_decode = p->when.at & KV_AT_DECODE,
        .chunk = p->when.chunk,
        .every = p->when.every,
        .patch = p->when.patch,
        .window_size = p->keys.window_size,
        .sinks = p->keys.sink_size,
        .recents = p->keys.recent_size,
        .floor = p->floor,
        .share = p->kept,
        .tokens = p->budget == KV_UNSET ? 0 : p->budget,
        .skip = count_of(p, "skip_layers", 0),
        .round_to = count_of(p, "round_to", 1),
        .beta = count_of(p, "beta", 1),
        .stabilizers = count_of(p, "stabilizers", 0),
        .local = count_of(p, "local_len", 0),
        .kvpress = is(p, "schedule", "kvpress"),
        .head_beta = real_of(p, "head_beta", 1),
        .held_back = real_of(p, "floor_ratio", real_of(p, "alpha_safeguard", 0)),
        .normalize = normalize && *normalize,
        .pools_mean = is(p, "pooling", "avg"),
        .pools_max = is(p, "pooling", "max"),
        .reduces_max = is(p, "group_reduce", "max"),
        .reduce_first = is(p, "reduce_order", "reduce-first"),
        .kernel = count_of(p, "kernel_size", 1),
        .block = count_of(p, "local_block", 1),
        .seed = count_of(p, "seed", 0),
        .local_size = count_of(p, "local_size", 0),
    };
    if (r->rule == KV_RULE_UNKNOWN)
        return kv_fail(e, KV_USAGE,
                       "%s the independent selector does not know the law '%s'; write it in engine/rules.c", p->where,
                       p->law->name);
    return (r->rule != KV_RULE_MASK || read_mask(r, p, s, a, e)) &&
           (r->rule != KV_RULE_HEADS || read_importance(r, p, s, a, e));
}

/* ---- what the selector asks for ---- */

static double number(void *witness, int channel, int64_t layer, int64_t head, int64_t row, int64_t i)
{
    struct kv_witness *w = witness;
    const struct kv_selector_lane *l = &w->selector.lane[layer * w->selector.rules.heads + head];
    if (w->fixed[channel])
        return (double)w->fixed[channel][(layer * w->selector.rules.heads + head) * w->tokens + l->at[i]];
    if (!(w->made & KV_BIT(channel))) {
        w->missing = channel;
        return 0;
    }
    if (channel == KV_WINDOW_LOCAL) /* over the unit and the patch */
        i -= l->n - w->turn.n_patch - w->turn.n_unit;
    return (double)w->row[channel][(head * w->rows + row) * w->stride + i];
}

static bool stays(void *witness, int64_t layer, int64_t head, int64_t position)
{
    const struct kv_witness *w = witness;
    return kv_set_has(kv_cache_set(&w->live->cache, layer, head), position);
}

/* ---- the watch ---- */

static void note(struct kv_witness *w, const char *text)
{
    if (!*w->selector.problem)
        snprintf(w->selector.problem, sizeof w->selector.problem, "pass %lld: %s", (long long)w->live->pass.index,
                 text);
}

/* The pass that the rules make next must be the one that runs. */
static void begin(struct kv_witness *w)
{
    const struct kv_pass *p = &w->live->pass;
    struct kv_turn turn;
    if (!kv_rules_next(&w->selector.rules, w->begun ? &w->turn : NULL, &turn)) {
        note(w, "by the rules the request has ended");
        return;
    }
    if (turn.start != p->seen || turn.n_new != p->n_new || turn.n_patch != p->n_patch || turn.evict != p->evict ||
        turn.n_unit != p->n_unit || turn.decode_step != p->decode_step)
        note(w, "another pass than the rules make");
    w->turn = turn;
    w->begun = true;
    w->selector.rounding = 1e-5 + (double)turn.index * 0x1p-24; /* sums over passes are made in f32 */
    kv_selector_begin(&w->selector, &turn);
}

/* The layer whose scores were kept has decided by now. */
static void settle(struct kv_witness *w)
{
    if (w->layer < 0)
        return;
    w->missing = -1;
    w->selector.rows = w->rows;
    kv_selector_layer(&w->selector, w->layer);
    if (w->missing >= 0) {
        *w->selector.problem = '\0';
        note(w, "the run made no scores where by the rules it had to decide");
    }
    w->checked += !*w->selector.problem;
    w->layer = -1;
}

static unsigned watch_wants(void *witness, const struct kv_live *l, bool *query_rows)
{
    struct kv_witness *w = witness;
    return w->next ? w->next->wants(w->next->context, l, query_rows) : 0;
}

static bool keep_rows(struct kv_witness *w, int channel, struct kv_err *e)
{
    const struct kv_live *l = w->live;
    int64_t heads = l->shape.store_heads, numbers = heads * l->rows * l->stride;
    if (w->fixed[channel]) {
        for (int64_t h = 0; h < heads; h++)
            memcpy(w->fixed[channel] + (w->layer * heads + h) * w->tokens + l->pass.seen,
                   l->row[channel] + h * l->rows * l->stride, sizeof(float) * (size_t)l->pass.n_new);
        return true;
    }
    if (numbers > w->room[channel]) {
        free(w->row[channel]);
        w->room[channel] = numbers + numbers / 4;
        w->row[channel] = malloc(sizeof(float) * (size_t)w->room[channel]);
        if (!w->row[channel]) {
            w->room[channel] = 0;
            return kv_fail(e, KV_ENV, "no memory for %lld scores of a layer", (long long)numbers);
        }
    }
    memcpy(w->row[channel], l->row[channel], sizeof(float) * (size_t)numbers);
    w->made |= KV_BIT(channel);
    return true;
}

static bool watch_scores(void *witness, struct kv_live *l, int64_t layer, struct kv_err *e)
{
    struct kv_witness *w = witness;
    const unsigned needs = l->policy.score->needs | l->policy.score->observes;
    settle(w);
    if (layer == 0)
        begin(w);
    w->layer = layer;
    w->made = 0;
    w->stride = l->stride;
    w->rows = l->rows;
    for (int k = 0; k < KV_SCORE_CHANNELS; k++)
        if (l->wants & needs & KV_BIT(k) && !keep_rows(w, k, e))
            return false;
    return !w->next || w->next->scores(w->next->context, l, layer, e);
}

static bool watch_ends(void *witness, struct kv_live *l, struct kv_err *e)
{
    struct kv_witness *w = witness;
    settle(w);
    return !w->next || w->next->ends(w->next->context, l, e);
}

/* ---- open and close ---- */

bool kv_witness_open(struct kv_witness *w, struct kv_live *l, struct kv_arena *a, struct kv_err *e)
{
    struct kv_rules rules;
    const unsigned fixed = (l->policy.score->needs | l->policy.score->observes) & KV_STATIC_CHANNELS;
    *w = (struct kv_witness){.live = l, .layer = -1, .missing = -1, .tokens = l->request.prompt + l->request.output};
    if (!kv_rules_read(&rules, &l->policy, &l->shape, &l->request, a, e) ||
        !kv_selector_open(&w->selector, &rules, a, e))
        return false;
    for (int k = 0; k < KV_SCORE_CHANNELS; k++)
        if (fixed & KV_BIT(k) &&
            !(w->fixed[k] = kv_alloc_many(a, (size_t)(w->selector.lanes * w->tokens), sizeof(float), "norms", e)))
            return false;
    w->selector.context = w;
    w->selector.number = number;
    w->selector.stays = stays;
    w->next = l->watch;
    w->watch = (struct kv_live_watch){.context = w, .wants = watch_wants, .scores = watch_scores, .ends = watch_ends};
    l->watch = &w->watch;
    return true;
}

void kv_witness_close(struct kv_witness *w)
{
    if (w->live && w->live->watch == &w->watch)
        w->live->watch = w->next;
    for (int k = 0; k < KV_SCORE_CHANNELS; k++)
        free(w->row[k]);
    memset(w->row, 0, sizeof w->row);
}

const char *kv_witness_problem(const struct kv_witness *w)
{
    return w->selector.problem;
}
