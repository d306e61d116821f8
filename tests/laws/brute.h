/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A token-level model of one request: each lane is the list of the positions it holds, each page what its entries lie
 * in. Written from the publications' rules (DESIGN 2 and 6, notes/policies.md 2-8) and from what ledger.h says its
 * fields mean; it shares no code with sim/. Which entries a scored policy keeps is left to dice within its rules
 * (windows, sinks and recents stay, earlier chunks are never touched): counts must not depend on it. */
#ifndef KV_TESTS_BRUTE_H
#define KV_TESTS_BRUTE_H

#include "sim/core/ledger.h"
#include "tests/laws/draw.h"

enum { MOST_HELD = MOST_PROMPT + MOST_OUTPUT + 64, MOST_PASSES = MOST_PROMPT + MOST_OUTPUT + 1 };

struct step {
    int64_t start, n_new, n_patch, decode_step, n_unit;
    bool evict, last;
};

/* What the rules leave a lane: its oldest `from` entries are out of the question; of those behind them, patch left out,
 * `keep` stay, the `first` and the `newest` of them whatever else. */
struct room {
    bool bounded;
    int64_t from, keep, first, newest;
};

struct lane {
    int64_t n, last, frozen; /* entries; those the last eviction left; those of them that can no longer leave */
    int at[MOST_HELD];       /* positions, ascending */
    bool keep[MOST_HELD];
};

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
    struct step step[MOST_PASSES];
    int64_t n_steps;
    struct lane lane[MOST_LANES]; /* (layers, heads) */
    int64_t count[MOMENTS][MOST_LANES];
    struct layer_state layer[MOMENTS][MOST_LAYERS];
    int64_t shared[MOMENTS][KV_COMPACTIONS];
    int page_of[MOST_HELD];                       /* of each position */
    int mark[MOST_HELD], marks;                   /* the count in which a page last was */
    struct kv_ledger sum;                         /* its counts, made here */
    struct room room[MOST_KV_HEADS * MOST_GROUP]; /* of the layer that is decided */
    /* Marks the entries of a layer's lanes that stay; NULL: those of the rooms, others by lot. Called at each pass. */
    void (*decide)(struct brute *b, const struct step *s, int64_t layer);
    void *own;
};

/* ---- passes ---- */

static void add_step(struct brute *b, int64_t start, int64_t n, int64_t patch, bool evict)
{
    const struct kv_request *r = &b->d->request;
    const struct step *before = b->n_steps ? &b->step[b->n_steps - 1] : NULL;
    b->step[b->n_steps++] = (struct step){
        .start = start,
        .n_new = n,
        .n_patch = patch,
        .evict = evict,
        .last = start < r->prefill && start + n == r->prefill,
        .decode_step = start < r->prefill ? -1 : start - r->prefill,
        .n_unit = n + (before && !before->evict ? before->n_unit : 0),
    };
}

/* Chunks start at 0, n, 2n, ...; the last is the remainder (notes 0). Locret's last `local` tokens are a chunk of their
 * own, a prompt of no more than that one chunk (7). Every chunk but the last is patched with the prompt's end (4.3). */
static void list_steps(struct brute *b)
{
    const struct draw *d = b->d;
    const struct kv_request *r = &d->request;
    int64_t n = r->prefill, chunk = d->chunk ? d->chunk : d->run_chunk, local = d->rule == RULE_GROWING ? d->local : 0,
            chunked = n > local ? n - local : 0, fed = r->output ? r->prompt + r->output - 1 : 0;
    b->n_steps = 0;
    for (int64_t start = 0, size; start < n; start += size) {
        size = start < chunked ? smaller(chunk, chunked - start) : n - start;
        bool last = start + size == n;
        add_step(b, start, size, last ? 0 : smaller(d->patch, n),
                 d->at & KV_AT_CHUNK || (last && d->at & KV_AT_POSTFILL));
    }
    for (int64_t t = n; t < fed; t++)
        add_step(b, t, 1, 0, d->at & KV_AT_DECODE && (t - n + 1) % d->every == 0);
}

/* ---- how many stay ---- */

static int64_t next_multiple(int64_t n, int64_t of)
{
    while (n % of)
        n++;
    return n;
}

/* SnapKV (notes 4.2) and PyramidKV (5): of T tokens with capacity C, window included. T <= w keeps all (ours); one
 * layer alone keeps the mean (ours). */
static int64_t snapkv_stay(const struct draw *d, int64_t t, int64_t c, int64_t layer)
{
    int64_t w = d->window_size, b = c - w;
    if (t < c || t <= w)
        return t;
    if (c <= w)
        return w;
    if (d->rule == RULE_UNIFORM || t < 2 * b || d->layers == 1)
        return smaller(b, t - w) + w;
    int64_t low = b / d->beta, high = 2 * b - low;
    if (high >= t - w) {
        high = t - w;
        low = 2 * b - high;
    }
    return smaller(high - layer * ((high - low) / (d->layers - 1)), t - w) + w;
}

/* kvpress' PyramidKV (notes 5): real steps, of T tokens and a budget that the window is not part of. */
static int64_t kvpress_stay(const struct draw *d, int64_t t, int64_t layer)
{
    double share = isnan(d->share) ? (double)d->tokens : (double)t * d->share, w = (double)d->window_size,
           low = share / (double)d->beta, high = 2 * share - low;
    if (high >= (double)t - w) {
        high = (double)t - w;
        low = 2 * share - high;
    }
    bool sloped = (double)t >= high && high >= low && low >= w && d->layers > 1;
    return (int64_t)rint(sloped ? high - (double)layer * ((high - low) / (double)(d->layers - 1)) : share);
}

/* HeadKV (notes 9 and its source): base - base//beta is every head's, the rest is shared out by importance. */
static int64_t head_stay(const struct draw *d, int64_t total, int64_t layer, int64_t kv_head)
{
    int64_t lanes = d->layers * d->kv_heads, window = draw_window(d, 0);
    double all = 0, base = (double)larger(total - window, 0), pool = floor(base / d->head_beta);
    for (int64_t i = 0; i < lanes; i++)
        all += d->quarters[i];
    return window +
           (int64_t)rint(d->quarters[layer * d->kv_heads + kv_head] / all * pool * (double)lanes + (base - pool));
}

/* SnapKV and PyramidKV: chunks compete alone, patch included, and are then frozen (notes 4.3); after prefill the whole
 * lane competes, capacity counted on the full prompt, at least the window, rounded up (4.2). While decoding, of which
 * the notes say nothing, the whole lane competes for what the rules would leave of all tokens so far, never rounded. */
static void unit_room(const struct brute *b, const struct lane *l, const struct step *s, int64_t layer, struct room *r)
{
    const struct draw *d = b->d;
    bool kvpress = d->rule == RULE_PYRAMID && d->kvpress;
    if (s->decode_step >= 0) {
        int64_t t = s->start + 1;
        r->keep =
            kvpress ? kvpress_stay(d, t, layer) : snapkv_stay(d, t, larger(share_of(d, t), d->window_size), layer);
    } else if (d->at & KV_AT_CHUNK) {
        r->from = l->last;
        r->keep = kvpress
                      ? kvpress_stay(d, s->n_unit, layer)
                      : snapkv_stay(d, s->n_unit + s->n_patch, share_of(d, s->n_unit) + s->n_patch, layer) - s->n_patch;
    } else {
        int64_t c = next_multiple(larger(share_of(d, d->request.prompt), d->window_size), d->round_to);
        r->keep = kvpress ? kvpress_stay(d, l->n, layer) : snapkv_stay(d, l->n, c, layer);
    }
    r->keep = larger(r->keep, 0);
}

/* Sinks and recents never leave, nor do the last queries where a window of them scores; they are part of the budget and
 * raise it where they are more. A sliding-window layer's sinks leave with the window, so that the recents alone stay
 * (documented in the project's DESIGN). */
static void guard_room(const struct brute *b, const struct lane *l, const struct step *s, int64_t layer, struct room *r)
{
    const struct draw *d = b->d;
    bool slides = draw_layer_slides(d, layer);
    for (int64_t i = r->from; i < l->n - s->n_patch && !slides; i++)
        r->first += l->at[i] < d->sinks;
    r->newest = larger(r->newest, larger(d->recents, draw_window(d, s->n_patch)));
    if (slides)
        r->keep = larger(r->keep, d->sinks + r->newest) - d->sinks;
    r->keep = larger(r->keep, r->first + r->newest);
    r->keep = larger(r->keep, d->floor - r->from);
}

static struct room room_for(const struct brute *b, const struct lane *l, const struct step *s, int64_t layer,
                            int64_t head)
{
    const struct draw *d = b->d;
    int64_t guarded = d->sinks + d->recents, seen = s->start + s->n_new,
            kv_head = head / larger(b->heads / d->kv_heads, 1),
            total = isnan(d->share) && !d->tokens ? guarded : larger(share_of(d, d->request.prompt), guarded);
    struct room r = {.bounded = s->evict && !(d->share >= 1)}; /* keeping everything is no policy (DESIGN 5) */
    switch (d->rule) {
    case RULE_FIXED: /* notes 2, 3, 6 */
        r.bounded &= layer >= d->skip;
        r.keep = total;
        break;
    case RULE_ADAPTIVE: /* notes 9: the mean of the layer's lanes */
    case RULE_SAFEGUARD:
        r.keep = share_of(d, d->request.prompt);
        break;
    case RULE_HEADS:
        r.keep = head_stay(d, share_of(d, d->request.prompt), layer, kv_head);
        break;
    case RULE_MASK: /* notes 8.3 */
        r.bounded &= !d->full[layer * d->kv_heads + kv_head];
        r.keep = guarded;
        break;
    case RULE_GROWING: /* notes 7 */
        r.keep = larger(next_multiple(share_of(d, seen), 64), d->stabilizers);
        r.newest = seen < d->request.prefill - d->local ? d->stabilizers : 0;
        break;
    case RULE_UNIFORM:
    case RULE_PYRAMID:
        unit_room(b, l, s, layer, &r);
        break;
    case RULE_ALL:
    case RULE_UNKNOWN:
        r.bounded = false;
    }
    if (!r.bounded)
        return (struct room){0};
    guard_room(b, l, s, layer, &r);
    return r;
}

/* ---- which stay ---- */

/* Of the entries [from, to) `n` stay: the first `first`, the newest `newest`, and others by lot. */
static void choose(struct brute *b, struct lane *l, int64_t from, int64_t to, int64_t n, int64_t first, int64_t newest)
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
static void choose_by_lot(struct brute *b, const struct step *s, int64_t layer)
{
    for (int64_t head = 0; head < b->heads; head++) {
        struct lane *l = &b->lane[layer * b->heads + head];
        const struct room *r = &b->room[head];
        if (r->bounded)
            choose(b, l, r->from, l->n - s->n_patch, r->keep, r->first,
                   b->d->score->positional ? r->keep - r->first : r->newest);
    }
}

/* A layer's lanes at the end of a pass: the policy, then the window above it; then the patch goes. */
static void evict(struct brute *b, const struct step *s, int64_t layer)
{
    const struct draw *d = b->d;
    for (int64_t head = 0; head < b->heads; head++) {
        struct lane *l = &b->lane[layer * b->heads + head];
        b->room[head] = room_for(b, l, s, layer, head);
        l->frozen = b->room[head].from;
        for (int64_t i = 0; i < l->n; i++)
            l->keep[i] = true;
    }
    if (b->decide)
        b->decide(b, s, layer);
    else
        choose_by_lot(b, s, layer);
    for (int64_t head = 0; head < b->heads; head++) {
        struct lane *l = &b->lane[layer * b->heads + head];
        int64_t end = l->n - s->n_patch, kept = 0, n = 0;
        for (int64_t i = 0; i < end; i++)
            kept += l->keep[i];
        int64_t too_many = draw_layer_slides(d, layer) ? kept - d->window : 0;
        for (int64_t i = 0; i < end; i++)
            if (l->keep[i] && too_many-- <= 0)
                l->at[n++] = l->at[i];
        l->n = n;
        if (s->evict)
            l->last = n;
    }
}

/* ---- what it costs ---- */

/* Pages that the entries of lanes first .. first + n - 1 lie in when token t has slot t of a table they share. */
static int64_t pages_in_place(struct brute *b, int64_t first, int64_t n)
{
    int64_t pages = 0;
    b->marks++;
    for (int64_t i = first; i < first + n; i++)
        for (int64_t j = 0; j < b->lane[i].n; j++) {
            int *mark = &b->mark[b->page_of[b->lane[i].at[j]]];
            pages += *mark != b->marks;
            *mark = b->marks;
        }
    return pages;
}

static int64_t pages_compact(const struct brute *b, int64_t first, int64_t n)
{
    int64_t longest = 0;
    for (int64_t i = first; i < first + n; i++)
        longest = larger(longest, b->lane[i].n);
    return (longest + b->d->page - 1) / b->d->page;
}

static void measure(struct brute *b, int moment)
{
    for (int64_t i = 0; i < b->lanes; i++)
        b->count[moment][i] = b->lane[i].n;
    for (int64_t layer = 0; layer < b->d->layers; layer++) {
        struct layer_state *state = &b->layer[moment][layer];
        int64_t first = layer * b->heads;
        *state = (struct layer_state){
            .layer_pages = {pages_compact(b, first, b->heads), b->in_place ? pages_in_place(b, first, b->heads) : 0}};
        for (int64_t i = first; i < first + b->heads; i++) {
            state->entries += b->lane[i].n;
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

static bool lift(struct kv_peak *peak, int64_t value, const struct brute *b, const struct step *s, int64_t layer)
{
    if (value <= peak->value)
        return false;
    *peak = (struct kv_peak){.value = value,
                             .pass = s - b->step,
                             .seen = s->start,
                             .layer = layer,
                             .decode = s->decode_step >= 0,
                             .patched = s->n_patch > 0};
    return true;
}

/* The largest moment of the pass. */
static int64_t walk_layers(struct brute *b, const struct step *s, int scope, size_t offset, struct kv_peak *peak)
{
    int64_t most = 0, *bytes = offset == offsetof(struct layer_state, entries) ? &b->sum.peak_bytes[scope] : NULL;
    for (int64_t i = 0; i < b->d->layers; i++) {
        int64_t value = moment_value(b, i, scope, offset);
        most = larger(most, value);
        /* With scope `pass` what all layers took is held together once the last has run: that is the moment said. */
        if ((scope == KV_SCOPE_LAYER || i == b->d->layers - 1) && lift(peak, value, b, s, i) && bytes)
            *bytes = bytes_at(b, i, scope);
    }
    return most;
}

static void add_page_count(struct kv_page_count *c, int64_t during, int64_t after, const struct step *s)
{
    c->end = after;
    c->end_peak = larger(c->end_peak, after);
    if (s->last || s->decode_step >= 0)
        c->resident = larger(c->resident, after);
    c->returned += during - after;
    for (int64_t i = 0; i < s->n_new; i++)
        c->steps += during;
}

static void charge_pages(struct brute *b, const struct step *s, int how)
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
        lift(&c->peak[scope], b->shared[DURING][how], b, s, -1);
    }
    add_page_count(c, b->shared[DURING][how], b->shared[AFTER][how], s);
}

static void charge_entries(struct brute *b, const struct step *s)
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
            sum->end_entries += b->lane[i].n;
            sum->end_bytes += bytes_of(b->d, b->lane[i].n);
            if (b->lane[i].n < b->count[BEFORE][i] + s->n_new)
                moved += b->lane[i].n - b->lane[i].frozen;
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

static void brute_start(struct brute *b, const struct draw *d)
{
    b->d = d;
    b->dice = dice_for(99, d->number);
    b->heads = draw_heads(d);
    b->lanes = d->layers * b->heads;
    /* Recents of each chunk alone leave many holes: that is not counted. */
    b->in_place = d->score->positional && !(d->at & KV_AT_CHUNK && draw_counts_units(d));
    b->sum = (struct kv_ledger){0};
    b->marks = 0;
    memset(b->mark, 0, sizeof b->mark);
    for (int64_t i = 0; i < MOST_HELD; i++)
        b->page_of[i] = (int)(i / d->page);
    for (int64_t i = 0; i < b->lanes; i++)
        b->lane[i].n = b->lane[i].last = 0;
    measure(b, AFTER);
    list_steps(b);
}

/* All layers take the pass; what each moment in between looked like is put together from before, during and after. */
static void brute_step(struct brute *b, const struct step *s)
{
    memcpy(b->count[BEFORE], b->count[AFTER], sizeof b->count[BEFORE]);
    memcpy(b->layer[BEFORE], b->layer[AFTER], sizeof b->layer[BEFORE]);
    for (int64_t i = 0; i < b->lanes; i++) {
        struct lane *l = &b->lane[i];
        for (int64_t j = 0; j < s->n_new + s->n_patch; j++) /* a patch takes the positions behind the chunk (4.3) */
            l->at[l->n++] = (int)(s->start + j);
    }
    measure(b, DURING);
    for (int64_t layer = 0; layer < b->d->layers; layer++)
        evict(b, s, layer);
    measure(b, AFTER);
    charge_entries(b, s);
    for (int how = 0; how < (b->in_place ? KV_COMPACTIONS : 1); how++)
        charge_pages(b, s, how);
}

#endif
