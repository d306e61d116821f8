/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A token-level model of one request: the lists of positions that the independent selector keeps (engine/selector.h),
 * each page what its entries lie in. Written from what ledger.h says its fields mean; it shares no code with sim/.
 * Which entries a scored policy keeps is left to dice within its rules (windows, sinks and recents stay, earlier chunks
 * are never touched) where no channels are at hand: counts must not depend on it. */
#ifndef KV_TESTS_BRUTE_H
#define KV_TESTS_BRUTE_H

#include "engine/selector.h"
#include "sim/core/ledger.h"
#include "tests/laws/draw.h"

enum { MOST_HELD = MOST_PROMPT + MOST_OUTPUT + 64, MOST_PASSES = MOST_PROMPT + MOST_OUTPUT + 1 };

enum { BEFORE, DURING, AFTER, MOMENTS };

/* What a layer holds at a moment. */
struct layer_state {
    int64_t entries, head_pages[KV_COMPACTIONS], layer_pages[KV_COMPACTIONS];
};

struct brute {
    const struct draw *d;
    struct dice dice;
    int64_t heads, lanes;
    bool in_place;
    struct kv_turn step[MOST_PASSES];
    int64_t n_steps;
    struct kv_selector model;
    int64_t window[MOST_LAYERS];
    double importance[MOST_LANES];
    int64_t count[MOMENTS][MOST_LANES];
    struct layer_state layer[MOMENTS][MOST_LAYERS];
    int64_t shared[MOMENTS][KV_COMPACTIONS];
    int page_of[MOST_HELD];     /* of each position */
    int mark[MOST_HELD], marks; /* the count in which a page last was */
    struct kv_ledger sum;       /* its counts, made here */
    bool scored;                /* by the model; else by lot */
};

/* ---- the draw as the model is told ---- */

static struct kv_rules brute_rules(struct brute *b, const struct draw *d)
{
    for (int64_t i = 0; i < d->layers; i++)
        b->window[i] = draw_layer_slides(d, i) ? d->window : 0;
    for (int64_t i = 0; i < d->layers * d->kv_heads; i++)
        b->importance[i] = (double)d->quarters[i];
    return (struct kv_rules){
        .layers = d->layers,
        .kv_heads = d->latent ? 1 : d->kv_heads,
        .heads = draw_heads(d),
        .window = b->window,
        .prompt = d->request.prompt,
        .prefill = d->request.prefill,
        .output = d->request.output,
        .rule = d->rule,
        .score = d->score->name,
        .positional = d->score->positional,
        .at_chunks = d->at & KV_AT_CHUNK,
        .at_postfill = d->at & KV_AT_POSTFILL,
        .at_decode = d->at & KV_AT_DECODE,
        .chunk = d->chunk ? d->chunk : d->run_chunk,
        .every = d->every,
        .patch = d->patch,
        .window_size = d->window_size,
        .sinks = d->sinks,
        .recents = d->recents,
        .floor = d->floor,
        .share = d->share,
        .tokens = d->tokens,
        .skip = d->skip,
        .round_to = d->round_to,
        .beta = d->beta,
        .stabilizers = d->stabilizers,
        .local = d->local,
        .kvpress = d->kvpress,
        .head_beta = d->head_beta,
        .held_back = d->held_back,
        .normalize = d->normalize,
        .importance = b->importance,
        .full = d->full,
        .pools_mean = d->pooling == POOL_AVG,
        .pools_max = d->pooling == POOL_MAX,
        .reduces_max = d->reduce == REDUCE_MAX,
        .reduce_first = d->reduce_first,
        .kernel = d->kernel,
        .block = d->block,
        .seed = d->seed,
        .local_size = d->local_size,
    };
}

static void list_steps(struct brute *b)
{
    const struct kv_turn *before = NULL;
    for (b->n_steps = 0; kv_rules_next(&b->model.rules, before, &b->step[b->n_steps]); b->n_steps++)
        before = &b->step[b->n_steps];
}

/* ---- which stay ---- */

/* Of the entries [from, to) `n` stay: the first `first`, the newest `newest`, and others by lot. */
static void choose(struct brute *b, struct kv_selector_lane *l, int64_t from, int64_t to, int64_t n, int64_t first,
                   int64_t newest)
{
    n = smaller(n, to - from);
    first = smaller(first, n);
    newest = smaller(newest, n - first);
    int64_t wanted = n - first - newest, left = to - from - first - newest;
    for (int64_t i = from; i < to; i++) {
        if (i < from + first || i >= to - newest) {
            l->keep[i] = true;
            continue;
        }
        l->keep[i] = roll(&b->dice, 1, left--) <= wanted;
        wanted -= l->keep[i];
    }
}

/* Sinks and recents by position; scored policies keep the guarded ones and others by lot. */
static void choose_by_lot(struct brute *b, const struct kv_turn *s, int64_t layer)
{
    for (int64_t head = 0; head < b->heads; head++) {
        struct kv_selector_lane *l = &b->model.lane[layer * b->heads + head];
        const struct kv_rules_room *r = &b->model.room[head];
        if (b->d->score->positional)
            kv_selector_by_position(&b->model, layer, head);
        else if (r->bounded)
            choose(b, l, r->from, l->n - s->n_patch, r->keep, r->first, r->newest);
    }
}

/* A layer's lanes at the end of a pass. */
static void evict(struct brute *b, const struct kv_turn *s, int64_t layer)
{
    if (b->scored) {
        kv_selector_layer(&b->model, layer);
        return;
    }
    kv_selector_rooms(&b->model, layer);
    choose_by_lot(b, s, layer);
    kv_selector_apply(&b->model, layer);
}

/* ---- what it costs ---- */

/* Pages that the entries of lanes first .. first + n - 1 lie in when token t has slot t of a table they share. */
static int64_t pages_in_place(struct brute *b, int64_t first, int64_t n)
{
    int64_t pages = 0;
    b->marks++;
    for (int64_t i = first; i < first + n; i++)
        for (int64_t j = 0; j < b->model.lane[i].n; j++) {
            int *mark = &b->mark[b->page_of[b->model.lane[i].at[j]]];
            pages += *mark != b->marks;
            *mark = b->marks;
        }
    return pages;
}

static int64_t pages_compact(const struct brute *b, int64_t first, int64_t n)
{
    int64_t longest = 0;
    for (int64_t i = first; i < first + n; i++)
        longest = larger(longest, b->model.lane[i].n);
    return (longest + b->d->page - 1) / b->d->page;
}

static void measure(struct brute *b, int moment)
{
    for (int64_t i = 0; i < b->lanes; i++)
        b->count[moment][i] = b->model.lane[i].n;
    for (int64_t layer = 0; layer < b->d->layers; layer++) {
        struct layer_state *state = &b->layer[moment][layer];
        int64_t first = layer * b->heads;
        *state = (struct layer_state){
            .layer_pages = {pages_compact(b, first, b->heads), b->in_place ? pages_in_place(b, first, b->heads) : 0}};
        for (int64_t i = first; i < first + b->heads; i++) {
            state->entries += b->model.lane[i].n;
            state->head_pages[KV_COMPACT] += pages_compact(b, i, 1);
            state->head_pages[KV_IN_PLACE] += b->in_place ? pages_in_place(b, i, 1) : 0;
        }
    }
    b->shared[moment][KV_COMPACT] = pages_compact(b, 0, b->lanes);
    b->shared[moment][KV_IN_PLACE] = b->in_place ? pages_in_place(b, 0, b->lanes) : 0;
}

/* KIVI (notes 9): the last n mod R keys and the last R values wait in fp16, the rest is packed with scales. */
static int64_t bytes_of(const struct draw *d, int64_t n)
{
    int64_t fp16 = n % d->residual + smaller(n, d->residual), entry = draw_entry_bytes(d);
    if (d->dtype != KV_INT8 && d->dtype != KV_INT4)
        return n * entry;
    return (2 * n - fp16) * (entry / 2) + fp16 * d->head_dim * 2;
}

static int64_t bytes_at(const struct brute *b, int64_t running, int scope)
{
    int64_t bytes = 0;
    for (int64_t i = 0; i < b->lanes; i++) {
        int64_t layer = i / b->heads;
        int moment = scope == KV_SCOPE_PASS || layer == running ? DURING : layer < running ? AFTER : BEFORE;
        bytes += bytes_of(b->d, b->count[moment][i]);
    }
    return bytes;
}

/* One number of each layer, by where it lies in struct layer_state. */
static int64_t value_of(const struct brute *b, int moment, int64_t layer, size_t offset)
{
    int64_t value;
    memcpy(&value, (const char *)&b->layer[moment][layer] + offset, sizeof value);
    return value;
}

/* The moment when layer `running` has attended; with scope `layer` those below have evicted, with `pass` none has. */
static int64_t moment_value(const struct brute *b, int64_t running, int scope, size_t offset)
{
    int64_t sum = 0;
    for (int64_t i = 0; i < b->d->layers; i++)
        sum += value_of(b, i > running ? BEFORE : i == running || scope == KV_SCOPE_PASS ? DURING : AFTER, i, offset);
    return sum;
}

static bool lift(struct kv_peak *peak, int64_t value, const struct kv_turn *s, int64_t layer)
{
    if (value <= peak->value)
        return false;
    *peak = (struct kv_peak){.value = value,
                             .pass = s->index,
                             .seen = s->start,
                             .layer = layer,
                             .decode = s->decode_step >= 0,
                             .patched = s->n_patch > 0};
    return true;
}

/* The largest moment of the pass. */
static int64_t walk_layers(struct brute *b, const struct kv_turn *s, int scope, size_t offset, struct kv_peak *peak)
{
    int64_t most = 0, *bytes = offset == offsetof(struct layer_state, entries) ? &b->sum.peak_bytes[scope] : NULL;
    for (int64_t i = 0; i < b->d->layers; i++) {
        int64_t value = moment_value(b, i, scope, offset);
        most = larger(most, value);
        /* With scope `pass` what all layers took is held together once the last has run: that is the moment said. */
        if ((scope == KV_SCOPE_LAYER || i == b->d->layers - 1) && lift(peak, value, s, i) && bytes)
            *bytes = bytes_at(b, i, scope);
    }
    return most;
}

static void add_page_count(struct kv_page_count *c, int64_t during, int64_t after, const struct kv_turn *s)
{
    c->end = after;
    c->end_peak = larger(c->end_peak, after);
    if (s->last || s->decode_step >= 0)
        c->resident = larger(c->resident, after);
    c->returned += during - after;
    for (int64_t i = 0; i < s->n_new; i++)
        c->steps += during;
}

static void charge_pages(struct brute *b, const struct kv_turn *s, int how)
{
    const size_t offset[] = {
        [KV_PER_HEAD] = offsetof(struct layer_state, head_pages) + sizeof(int64_t) * (size_t)how,
        [KV_PER_LAYER] = offsetof(struct layer_state, layer_pages) + sizeof(int64_t) * (size_t)how,
    };
    for (int layout = 0; layout < KV_SHARED; layout++) {
        struct kv_page_count *c = &b->sum.pages[layout][how];
        int64_t during = 0, after = 0;
        for (int64_t i = 0; i < b->d->layers; i++) {
            during += value_of(b, DURING, i, offset[layout]);
            after += value_of(b, AFTER, i, offset[layout]);
        }
        for (int scope = 0; scope < KV_SCOPES; scope++)
            b->sum.pass_pages[layout][how][scope] = walk_layers(b, s, scope, offset[layout], &c->peak[scope]);
        add_page_count(c, during, after, s);
    }
    struct kv_page_count *c = &b->sum.pages[KV_SHARED][how];
    for (int scope = 0; scope < KV_SCOPES; scope++) {
        b->sum.pass_pages[KV_SHARED][how][scope] = b->shared[DURING][how];
        lift(&c->peak[scope], b->shared[DURING][how], s, -1);
    }
    add_page_count(c, b->shared[DURING][how], b->shared[AFTER][how], s);
}

static void charge_entries(struct brute *b, const struct kv_turn *s)
{
    struct kv_ledger *sum = &b->sum;
    for (int scope = 0; scope < KV_SCOPES; scope++)
        sum->pass_entries[scope] =
            walk_layers(b, s, scope, offsetof(struct layer_state, entries), &sum->entries[scope]);
    sum->end_entries = sum->end_bytes = 0;
    for (int64_t layer = 0; layer < b->d->layers; layer++) {
        int64_t moved = 0;
        for (int64_t i = layer * b->heads; i < (layer + 1) * b->heads; i++) {
            for (int64_t j = 1; j <= s->n_new; j++)
                sum->entry_steps += b->count[BEFORE][i] + j;
            sum->end_entries += b->model.lane[i].n;
            sum->end_bytes += bytes_of(b->d, b->model.lane[i].n);
            if (b->model.lane[i].n < b->count[BEFORE][i] + s->n_new)
                moved += b->model.lane[i].n - b->model.lane[i].frozen;
        }
        if (s->evict)
            sum->scratch_entries = larger(sum->scratch_entries, moved);
    }
    if (sum->end_entries > sum->end_entries_peak) {
        sum->end_entries_peak = sum->end_entries;
        sum->end_peak_bytes = sum->end_bytes;
    }
    sum->steps += s->n_new;
    sum->passes++;
    sum->evictions += s->evict;
}

/* ---- a request ---- */

/* `read`: the rules as they were read off the policy, or NULL: as they were drawn. */
static void brute_start(struct brute *b, const struct draw *d, const struct kv_rules *read, struct kv_arena *a)
{
    struct kv_err e = {0};
    struct kv_rules rules = read ? *read : brute_rules(b, d);
    b->d = d;
    b->dice = dice_for(99, d->number);
    b->heads = draw_heads(d);
    b->lanes = d->layers * b->heads;
    /* Recents of each chunk alone leave many holes: that is not counted. */
    b->in_place = d->score->positional && !(d->at & KV_AT_CHUNK && draw_counts_units(d));
    b->scored = false;
    KV_ASSERT(kv_selector_open(&b->model, &rules, a, &e));
    b->sum = (struct kv_ledger){0};
    b->marks = 0;
    memset(b->mark, 0, sizeof b->mark);
    for (int64_t i = 0; i < MOST_HELD; i++)
        b->page_of[i] = (int)(i / d->page);
    measure(b, AFTER);
    list_steps(b);
}

/* All layers take the pass; what each moment in between looked like is put together from before, during and after. */
static void brute_step(struct brute *b, const struct kv_turn *s)
{
    memcpy(b->count[BEFORE], b->count[AFTER], sizeof b->count[BEFORE]);
    memcpy(b->layer[BEFORE], b->layer[AFTER], sizeof b->layer[BEFORE]);
    kv_selector_begin(&b->model, s);
    measure(b, DURING);
    for (int64_t layer = 0; layer < b->d->layers; layer++)
        evict(b, s, layer);
    measure(b, AFTER);
    charge_entries(b, s);
    for (int how = 0; how < (b->in_place ? KV_COMPACTIONS : 1); how++)
        charge_pages(b, s, how);
}

#endif
