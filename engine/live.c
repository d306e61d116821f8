/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "engine/live.h"
#include "engine/sample.h"
#include "sim/progress.h"

#include <stdlib.h>
#include <string.h>

/* ---- open and close ---- */

/* What a live run can make; the rest must come from a trace. */
static bool check_channels(const struct kv_policy *p, struct kv_err *e)
{
    unsigned never = KV_BIT(KV_EXTERNAL) | KV_BIT(KV_EXPECTED) | KV_BIT(KV_LATER_SUM);
    unsigned wants = (p->score->needs | p->score->observes) & never;
    return !wants || kv_fail(e, KV_USAGE, "%s score '%s' needs channel '%s', which a live run does not make", p->where,
                             p->score->name, kv_channels[__builtin_ctz(wants)].name);
}

/* A policy's entries are the backend's: bytes would be counted that nobody holds. */
static bool check_dtype(const struct kv_policy *p, const struct kv_defaults *run, struct kv_err *e)
{
    return p->store.dtype == run->dtype ||
           kv_fail(e, KV_USAGE, "%s kv_cache_dtype = %s, and entries of this run are %s; say it with --kv-cache-dtype",
                   p->where, kv_dtype_names[p->store.dtype], kv_dtype_names[run->dtype]);
}

bool kv_live_open(struct kv_live *l, struct kv_backend *b, const struct kv_weights *w, const struct kv_policy *policy,
                  const struct kv_defaults *run, const int32_t *prompt, int64_t n_prompt, int64_t output,
                  int64_t window, int64_t page, bool in_place, struct kv_arena *a, struct kv_err *e)
{
    struct kv_model m;
    *l = (struct kv_live){.backend = b, .weights = w, .policy = *policy, .limit = INT64_MAX};
    kv_config_model(&w->config, &m);
    l->request = (struct kv_request){.prompt = n_prompt, .output = output, .prefill = n_prompt};
    if (!check_channels(&l->policy, e) || !kv_policy_prepare(&l->policy, &m, run, &l->shape, a, e) ||
        !check_dtype(&l->policy, run, e))
        return false;
    int64_t tokens = n_prompt + output, heads = l->shape.store_heads;
    l->words = kv_words(tokens);
    l->token = kv_alloc_many(a, (size_t)tokens + 1, sizeof *l->token, "tokens", e);
    l->logits = kv_alloc_many(a, (size_t)w->config.vocab, sizeof *l->logits, "logits", e);
    l->old_set = kv_alloc_many(a, (size_t)((heads + 1) * l->words), sizeof *l->old_set, "sets of positions", e);
    l->leave = kv_alloc_many(a, (size_t)(l->shape.layers * heads), sizeof *l->leave, "lanes", e);
    l->left = kv_alloc_many(a, (size_t)(l->shape.layers * heads), sizeof *l->left, "lanes", e);
    l->simple = kv_score_simple(&l->policy, l->shape.q_heads / heads, &l->by) && l->policy.when.every <= 1;
    if (!l->token || !l->logits || !l->old_set || !l->leave || !l->left ||
        !kv_cache_open(&l->cache, &l->policy, &l->shape, &l->request, page, in_place, a, e) ||
        !kv_cache_work_open(&l->work, tokens + l->policy.when.patch, (int)heads, e))
        return false;
    l->stay = l->old_set + heads * l->words;
    memcpy(l->token, prompt, sizeof *prompt * (size_t)n_prompt);
    l->n_token = n_prompt;
    l->seq = (struct kv_seq){.store_heads = heads, .window = l->policy.score->window ? l->policy.keys.window_size : 0};
    l->seq.window = window > l->seq.window ? window : l->seq.window;
    return b->ops->seq_open(b, &l->seq, e);
}

void kv_live_leave(struct kv_live *l)
{
    if (l->seq.lane)
        l->backend->ops->seq_close(l->backend, &l->seq);
}

void kv_live_close(struct kv_live *l)
{
    kv_live_leave(l);
    kv_cache_close(&l->cache);
    kv_cache_work_close(&l->work);
    for (int k = 0; k < KV_SCORE_CHANNELS; k++)
        free(l->row[k]);
    free(l->pass_token);
    *l = (struct kv_live){0};
}

/* ---- passes ---- */

bool kv_live_next(const struct kv_live *l)
{
    struct kv_pass pass;
    return l->cache.seen < l->n_token && kv_cache_next(&l->cache, l->limit, &pass);
}

void kv_live_add(struct kv_live *l, int32_t token)
{
    KV_ASSERT(l->n_token < l->request.prompt + l->request.output);
    l->token[l->n_token++] = token;
}

int32_t kv_live_greedy(const struct kv_live *l)
{
    return kv_most_likely(l->logits, l->weights->config.vocab);
}

/* ---- a layer ---- */

/* Else their sum, which is cheaper to make and to record. */
bool kv_live_query_rows(const struct kv_live *l)
{
    const struct kv_score *s = l->policy.score;
    const struct kv_recipe_keys *r = l->policy.score_params;
    if (l->shape.store_heads != l->shape.kv_heads || l->shape.q_heads == l->shape.kv_heads)
        return false;
    if (!s->recipe)
        return s->field == kv_recipe_fields + 2 && r->group_reduce == KV_GROUP_MAX;
    return r->group_reduce == KV_GROUP_MAX || (r->pooling == KV_POOL_MAX && r->reduce_order == KV_POOL_FIRST);
}

static bool make_rows(struct kv_live *l, int channel, int64_t numbers, struct kv_err *e)
{
    if (numbers <= l->row_room[channel])
        return true;
    free(l->row[channel]);
    l->row_room[channel] = numbers + numbers / 4;
    l->row[channel] = malloc(sizeof(float) * (size_t)l->row_room[channel]);
    if (l->row[channel])
        return true;
    l->row_room[channel] = 0;
    return kv_fail(e, KV_ENV, "no memory for %lld scores of a layer", (long long)numbers);
}

static bool fetch_scores(struct kv_live *l, int part, int64_t layer, struct kv_err *e)
{
    const struct kv_backend_ops *ops = l->backend->ops;
    int64_t heads = l->shape.store_heads, longest = 0;
    for (int64_t h = 0; h < heads; h++) {
        int64_t length = l->seq.lane[layer * heads + h].length;
        longest = length > longest ? length : longest;
    }
    l->stride = (longest + 2 * KV_SLACK) / 16 * 16;
    int64_t window = l->policy.score->window ? l->policy.keys.window_size : l->seq.window;
    l->rows = l->query_rows ? l->shape.q_heads / heads : 1;
    int64_t unit = l->policy.law->room ? l->pass.n_unit : l->pass.n_new; /* nothing evicts: each pass is its own */
    for (int k = 0; k < KV_SCORE_CHANNELS; k++)
        if (l->wants & KV_BIT(k) && (!make_rows(l, k, heads * l->rows * l->stride + KV_SLACK, e) ||
                                     !ops->channel(l->backend, part, layer, (enum kv_channel)k, window, unit,
                                                   l->query_rows, l->row[k], l->rows * l->stride, l->stride, e)))
            return false;
    return true;
}

static void decide(struct kv_live *l, int64_t layer, unsigned wants)
{
    int64_t heads = l->shape.store_heads;
    for (int64_t h = 0; h < heads; h++) {
        struct kv_lane_in in = {.rows = (int)l->rows};
        for (int k = 0; k < KV_SCORE_CHANNELS; k++) {
            in.stride[k] = l->stride;
            if (wants & KV_BIT(k))
                in.channel[k] = l->row[k] + h * l->rows * l->stride;
        }
        memcpy(l->old_set + h * l->words, kv_cache_set(&l->cache, layer, h), sizeof *l->old_set * (size_t)l->words);
        kv_cache_lane(&l->cache, layer, h, &in, &l->work);
    }
    kv_cache_layer(&l->cache, layer, &l->work);
}

/* Which ranks of the lane as it was are still in the set. */
static bool survivors(struct kv_live *l, int64_t layer, int64_t head)
{
    const uint64_t *old = l->old_set + head * l->words, *set = kv_cache_set(&l->cache, layer, head);
    int64_t rank = 0, left = 0;
    memset(l->stay, 0, sizeof *l->stay * (size_t)l->words);
    for (int64_t w = 0; w < l->words; w++)
        for (uint64_t bits = old[w]; bits; bits &= bits - 1, rank++) {
            bool in = set[w] >> __builtin_ctzll(bits) & 1;
            l->stay[rank / 64] |= (uint64_t)in << (rank % 64);
            left += !in;
        }
    return left > 0;
}

static bool layer_ends(struct kv_live *l, int part, int64_t layer, struct kv_err *e)
{
    const struct kv_backend_ops *ops = l->backend->ops;
    bool watched_rows = false;
    int64_t start = kv_clock_ns();
    unsigned wants = kv_cache_wants(&l->cache, layer);
    l->query_rows = kv_live_query_rows(l);
    l->wants = wants;
    if (l->watch)
        l->wants |= l->watch->wants(l->watch->context, l, &watched_rows);
    l->query_rows |= watched_rows && l->shape.store_heads == l->shape.kv_heads;
    if (!fetch_scores(l, part, layer, e) || (l->watch && !l->watch->scores(l->watch->context, l, layer, e)))
        return false;
    int64_t scored = kv_clock_ns();
    decide(l, layer, wants);
    for (int64_t h = 0; h < l->shape.store_heads; h++) {
        bool left = survivors(l, layer, h);
        if (left || l->pass.n_patch)
            ops->compact(l->backend, part, layer, h, left ? l->stay : NULL);
    }
    l->score_s += (double)(scored - start) * 1e-9;
    l->evict_s += (double)(kv_clock_ns() - scored) * 1e-9;
    return true;
}

struct step {
    struct kv_live **live;
    int n;
};

static bool hook(void *step_, int64_t layer, struct kv_err *e)
{
    struct step *s = step_;
    for (int i = 0; i < s->n; i++)
        if (!s->live[i]->planned && !layer_ends(s->live[i], i, layer, e))
            return false;
    return true;
}

/* ---- steps without a hook ---- */

/* Nothing is asked of the pass's layers and nothing leaves them. */
static bool only_grows(const struct kv_live *l)
{
    return !l->watch && !l->pass.n_patch && kv_cache_idle(&l->cache);
}

/* The backend can tell by itself who leaves. */
static bool plan(struct kv_live *l)
{
    return l->backend->ops->set_column && !l->watch && l->pass.decode_step >= 0 && l->pass.n_new == 1 &&
           !l->pass.n_patch && (l->simple || l->policy.score->positional) && kv_cache_leaves(&l->cache, l->leave);
}

/* The score's column is where the pass wants it. */
static bool move_columns(struct kv_live *l, bool away, struct kv_err *e)
{
    const struct kv_backend_ops *ops = l->backend->ops;
    int64_t heads = l->shape.store_heads;
    if (l->away == away || !l->cache.columns)
        return true;
    for (int64_t i = 0; i < l->shape.layers * heads; i++)
        if (away ? !ops->set_column(l->backend, &l->seq, i / heads, i % heads,
                                    kv_cache_only_column(&l->cache, i / heads, i % heads), e)
                 : !ops->get_column(l->backend, &l->seq, i / heads, i % heads,
                                    kv_cache_only_column(&l->cache, i / heads, i % heads), e))
            return false;
    l->away = away;
    return true;
}

/* The cache is told what the backend did. */
static void told(struct kv_live *l)
{
    int64_t heads = l->shape.store_heads;
    bool by_place = l->policy.score->positional;
    struct kv_lane_in nothing = {.rows = 1};
    for (int64_t i = 0; i < l->shape.layers * heads; i++)
        if (by_place)
            kv_cache_lane(&l->cache, i / heads, i % heads, &nothing, &l->work);
        else if (l->leave[i].n)
            kv_cache_told(&l->cache, i / heads, i % heads, l->left[i].rank, l->left[i].ties);
    for (int64_t layer = 0; layer < l->shape.layers && by_place; layer++)
        kv_cache_layer(&l->cache, layer, &l->work);
    for (int64_t i = 0; i < l->shape.layers * heads; i++)
        KV_ASSERT(kv_cache_held(&l->cache, i / heads, i % heads) == l->seq.lane[i].length);
}

/* ---- steps ---- */

static bool begin(struct kv_live *l, struct kv_part *part, struct kv_err *e)
{
    KV_ASSERT(kv_cache_next(&l->cache, l->limit, &l->pass));
    int64_t n = l->pass.n_new + l->pass.n_patch;
    if (n > l->pass_room) {
        free(l->pass_token);
        l->pass_room = n;
        l->pass_token = malloc(sizeof *l->pass_token * (size_t)n);
        if (!l->pass_token)
            return kv_fail(e, KV_ENV, "no memory for a pass of %lld tokens", (long long)n);
    }
    memcpy(l->pass_token, l->token + l->pass.seen, sizeof *l->token * (size_t)l->pass.n_new);
    memcpy(l->pass_token + l->pass.n_new, l->token + l->request.prefill - l->pass.n_patch,
           sizeof *l->token * (size_t)l->pass.n_patch);
    *part = (struct kv_part){.seq = &l->seq,
                             .token = l->pass_token,
                             .n_new = l->pass.n_new,
                             .n_patch = l->pass.n_patch,
                             .n_logits = 1,
                             .logits = l->logits};
    if (!kv_cache_begin(&l->cache, &l->pass, 1, e))
        return false;
    bool idle = only_grows(l);
    l->planned = (!idle || l->policy.when.at & KV_AT_DECODE) && plan(l); /* all decodes alike: then they are repeated */
    if ((!idle || l->planned) && !move_columns(l, l->planned, e))
        return false;
    if (l->planned) {
        part->leave = l->leave;
        part->by = l->policy.score->positional ? NULL : &l->by;
        part->left = l->left;
    }
    return true;
}

bool kv_live_step(struct kv_live **live, int n, struct kv_err *e)
{
    struct kv_live *going[n];
    struct kv_part part[n];
    struct step step = {.live = going};
    int64_t start = kv_clock_ns();
    int64_t tokens = 0;
    bool asks = false;
    for (int i = 0; i < n; i++)
        if (kv_live_next(live[i])) {
            if (!begin(live[i], &part[step.n], e))
                return false;
            tokens += part[step.n].n_new + part[step.n].n_patch;
            asks |= !live[i]->planned && !only_grows(live[i]);
            going[step.n++] = live[i];
        }
    if (!step.n)
        return true;
    struct kv_backend *b = going[0]->backend;
    if (!b->ops->forward(b, part, step.n, asks ? hook : NULL, &step, e))
        return false;
    double each = (double)(kv_clock_ns() - start) * 1e-9 / (double)tokens;
    for (int i = 0; i < step.n; i++) {
        if (going[i]->planned)
            told(going[i]);
        kv_cache_end(&going[i]->cache);
        going[i]->pass_s += each * (double)(part[i].n_new + part[i].n_patch);
        if (going[i]->watch && !going[i]->watch->ends(going[i]->watch->context, going[i], e))
            return false;
    }
    return true;
}
