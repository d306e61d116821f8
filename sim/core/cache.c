/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/core/places.h"

#include "sim/core/least.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct kv_cache_lane *lane_at(const struct kv_cache *c, int64_t layer, int64_t head)
{
    return &c->lane[layer * c->shape->store_heads + head];
}

/* Tokens there are, those of the pass that is on included. */
static int64_t lane_end(const struct kv_cache *c)
{
    return c->seen + (c->passes ? c->pass.n_new : 0);
}

/* ---- opening ---- */

bool kv_cache_open(struct kv_cache *c, const struct kv_policy *p, const struct kv_shape *s, const struct kv_request *r,
                   int64_t page, bool in_place, struct kv_arena *a, struct kv_err *e)
{
    *c = (struct kv_cache){
        .policy = p,
        .shape = s,
        .request = *r,
        .tokens = kv_request_steps(r),
        .lanes = s->layers * s->store_heads,
        .in_place = in_place,
        .statics = (p->score->needs | p->score->observes) & KV_STATIC_CHANNELS,
    };
    c->columns = __builtin_popcount(c->statics) + p->score->columns;
    KV_ASSERT(p->score->columns <= KV_COLUMNS_MOST);
    if (!kv_request_check(r, s, e) || !kv_classes_of_lanes(&c->classes, s, a, e))
        return false;
    size_t words = (size_t)kv_words(c->tokens), lanes = (size_t)c->lanes;
    c->lane = kv_alloc_many(a, lanes, sizeof *c->lane, "lanes", e);
    uint64_t *sets = kv_alloc_many(a, lanes * words, sizeof *sets, "sets of positions", e);
    c->before = kv_alloc_many(a, 3 * lanes, sizeof *c->before, "lanes", e);
    if (!c->lane || !sets || !c->before || (in_place && !kv_places_open(c, a, e)))
        return false;
    c->gain = c->before + lanes;
    c->frozen = c->gain + lanes;
    KV_ASSERT(!p->score->positional || !kv_cache_decides_layers(c));
    for (size_t i = 0; i < lanes; i++)
        c->lane[i].set = sets + i * words;
    kv_ledger_open(&c->ledger, p, s, &c->classes, page, a);
    c->ledger.in_place = in_place;
    return true;
}

void kv_cache_close(struct kv_cache *c)
{
    for (int64_t i = 0; c->lane && i < c->lanes; i++)
        free(c->lane[i].column);
    *c = (struct kv_cache){0};
}

/* ---- work space ---- */

bool kv_cache_decides_layers(const struct kv_cache *c)
{
    return c->policy->law->share || c->policy->score->layer;
}

static bool make(void *out, size_t n, size_t size, struct kv_err *e)
{
    void *made = calloc(n ? n : 1, size);
    memcpy(out, &made, sizeof made);
    /* cppcheck-suppress memleak */
    return made || kv_fail(e, KV_ENV, "no memory for %zu x %zu bytes of buffers", n, size);
}

bool kv_cache_work_open(struct kv_cache_work *w, int64_t entries, int heads, struct kv_err *e)
{
    size_t n = (size_t)entries + 64, all = n * (size_t)heads;
    *w = (struct kv_cache_work){.select = kv_select_best(), .heads = heads, .top.room = (int64_t)all};
    if (!make(&w->keep, (size_t)heads, sizeof *w->keep, e) || !make(&w->pool, 2 * n, sizeof *w->pool, e) ||
        !make(&w->position, n, sizeof *w->position, e) || !make(&w->all, all, sizeof *w->all, e) ||
        !make(&w->mask, n / 64 + 2, sizeof *w->mask, e) || !make(&w->all_mask, all / 64 + 2, sizeof *w->all_mask, e) ||
        !make(&w->top.histogram, 4 * 4096, sizeof *w->top.histogram, e) ||
        !make(&w->top.boundary, all + KV_SLACK, sizeof *w->top.boundary, e))
        return false;
    for (int i = 0; i < heads; i++)
        if (!make(&w->keep[i], n, sizeof *w->keep[i], e))
            return false;
    return true;
}

void kv_cache_work_close(struct kv_cache_work *w)
{
    for (int i = 0; w->keep && i < w->heads; i++)
        free(w->keep[i]);
    free(w->keep);
    free(w->pool);
    free(w->all);
    free(w->position);
    free(w->mask);
    free(w->all_mask);
    free(w->top.histogram);
    free(w->top.boundary);
    *w = (struct kv_cache_work){0};
}

/* ---- passes ---- */

bool kv_cache_next(const struct kv_cache *c, int64_t limit, struct kv_pass *pass)
{
    return kv_pass_next(&c->policy->when, &c->request, c->index, c->seen, c->unit, limit, pass);
}

/* Columns get room for `n` entries; what they hold moves along. */
static bool grow_columns(struct kv_cache *c, struct kv_cache_lane *lane, int64_t n, struct kv_err *e)
{
    if (!c->columns || n <= lane->room)
        return true;
    int64_t room = kv_least(n + n / 2 + KV_SLACK, c->tokens + KV_SLACK);
    room = room < n ? n : room;
    float *column = calloc((size_t)room * (size_t)c->columns, sizeof *column);
    if (!column)
        return kv_fail(e, KV_ENV, "no memory for %lld x %d numbers of a lane", (long long)room, c->columns);
    for (int k = 0; k < c->columns && lane->column; k++)
        memcpy(column + k * room, lane->column + k * lane->room, sizeof *column * (size_t)lane->held);
    free(lane->column);
    lane->column = column;
    lane->room = room;
    return true;
}

static struct kv_room room_of(const struct kv_cache *c, int64_t i)
{
    struct kv_lane lane = {.layer = c->classes.at[i].layer, .head = c->classes.at[i].head, .held = c->lane[i].last};
    return kv_policy_room(c->policy, c->shape, &lane, c->classes.at[i].window, &c->pass);
}

bool kv_cache_begin(struct kv_cache *c, const struct kv_pass *pass, int64_t passes, struct kv_err *e)
{
    KV_ASSERT(!c->passes && pass->seen == c->seen && pass->seen + pass->n_new * passes <= c->tokens);
    KV_ASSERT(passes == 1 || (!pass->evict && !c->shape->window));
    c->pass = *pass;
    c->passes = passes;
    for (int64_t i = 0; i < c->lanes; i++) {
        struct kv_cache_lane *lane = &c->lane[i];
        int64_t held = lane->held + c->seen - lane->end;
        c->before[i] = held;
        c->gain[i] = pass->n_new;
        lane->decided = false;
        c->frozen[i] = 0;
        if (c->columns && !grow_columns(c, lane, held + pass->n_new * passes, e))
            return false;
    }
    if (c->in_place && passes == 1) { /* until something leaves, which sets then tell */
        kv_places_grow(c, c->seen + pass->n_new + pass->n_patch, KV_DURING);
        kv_places_grow(c, c->seen + pass->n_new, KV_AFTER);
    }
    return true;
}

/* Whether the lanes of a layer, which share what they may keep, hold more than that together. */
static bool layer_evicts(const struct kv_cache *c, int64_t layer)
{
    int64_t heads = c->shape->store_heads, all = 0, keep = 0;
    for (int64_t i = layer * heads; i < (layer + 1) * heads; i++) {
        struct kv_room room = room_of(c, i);
        if (room.keep == KV_NO_BOUND)
            return false;
        all += c->before[i] + c->pass.n_new - room.frozen;
        keep += room.keep;
    }
    return all > keep;
}

/* Whether the room makes anything leave. */
static bool evicts(const struct kv_cache *c, int64_t i, const struct kv_room *room)
{
    if (c->policy->law->share)
        return layer_evicts(c, c->classes.at[i].layer);
    return c->before[i] + c->pass.n_new - room->frozen > room->keep;
}

unsigned kv_cache_wants(const struct kv_cache *c, int64_t layer)
{
    unsigned wants = kv_policy_wants(c->policy, &c->pass, false);
    bool any = false;
    for (int64_t i = layer * c->shape->store_heads; i < (layer + 1) * c->shape->store_heads && !any; i++) {
        struct kv_room room = room_of(c, i);
        any = evicts(c, i, &room);
    }
    return any ? wants | kv_policy_wants(c->policy, &c->pass, true) : wants;
}

bool kv_cache_idle(const struct kv_cache *c)
{
    if (c->pass.evict && c->policy->score->kept)
        return false;
    for (int64_t layer = 0; layer < c->shape->layers; layer++)
        if (kv_cache_wants(c, layer))
            return false;
    for (int64_t i = 0; i < c->lanes; i++) { /* positions, or a score that needs nothing, may tell who leaves */
        struct kv_room room = room_of(c, i);
        if (evicts(c, i, &room))
            return false;
    }
    return true;
}

bool kv_cache_leaves(const struct kv_cache *c, struct kv_leave *leave)
{
    bool positional = c->policy->score->positional;
    if (c->policy->law->share || (positional && c->policy->law->freezes))
        return false;
    for (int64_t i = 0; i < c->lanes; i++) {
        struct kv_room room = room_of(c, i);
        int64_t n = c->before[i] + c->pass.n_new, first = kv_least(room.first, room.keep), gone;
        gone = evicts(c, i, &room) ? n - room.frozen - room.keep : 0;
        if (positional) /* evict_positions: what lies behind the hole is all held */
            first = n - (lane_end(c) - (first > c->lane[i].hole ? first : c->lane[i].hole));
        else
            first += room.frozen;
        leave[i] = (struct kv_leave){(int32_t)first, (int32_t)(n - room.newest), (int32_t)gone};
        if (!positional && gone && (gone > 1 || leave[i].behind <= leave[i].first))
            return false;
    }
    return true;
}

/* Tokens up to `end` get into the set. */
static void fill(struct kv_cache *c, struct kv_cache_lane *lane, int64_t end)
{
    if (lane->end == end)
        return;
    kv_set_fill(lane->set, lane->end, end);
    for (int k = 0; k < c->columns; k++)
        memset(lane->column + k * lane->room + lane->held, 0, sizeof(float) * (size_t)(end - lane->end));
    lane->held += end - lane->end;
    lane->end = end;
}

const uint64_t *kv_cache_set(struct kv_cache *c, int64_t layer, int64_t head)
{
    struct kv_cache_lane *lane = lane_at(c, layer, head);
    fill(c, lane, lane_end(c));
    return lane->set;
}

int64_t kv_cache_held(const struct kv_cache *c, int64_t layer, int64_t head)
{
    const struct kv_cache_lane *lane = lane_at(c, layer, head);
    return lane->held + lane_end(c) - lane->end;
}

const float *kv_cache_column(const struct kv_cache *c, int64_t layer, int64_t head, int column)
{
    const struct kv_cache_lane *lane = lane_at(c, layer, head);
    return lane->column + (__builtin_popcount(c->statics) + column) * lane->room;
}

/* ---- a lane ---- */

static float *static_column(const struct kv_cache *c, const struct kv_cache_lane *lane, int channel)
{
    return lane->column + __builtin_popcount(c->statics & (KV_BIT(channel) - 1)) * lane->room;
}

static void feed_statics(struct kv_cache *c, struct kv_cache_lane *lane, const struct kv_lane_in *in)
{
    int64_t n = lane->end - lane->fed;
    bool fed = false;
    for (int k = 0; k < KV_SCORE_CHANNELS; k++) {
        if (!(c->statics & KV_BIT(k)) || !in->channel[k])
            continue;
        memcpy(static_column(c, lane, k) + lane->held - n, in->channel[k], sizeof(float) * (size_t)n);
        fed = true;
    }
    if (fed)
        lane->fed = lane->end;
}

static void list_positions(const struct kv_cache_lane *lane, int64_t from, int32_t *out)
{
    for (int64_t w = from / 64; w < kv_words(lane->end); w++) {
        uint64_t bits = lane->set[w];
        if (w == from / 64)
            bits &= ~UINT64_C(0) << (from % 64);
        for (; bits; bits &= bits - 1)
            *out++ = (int32_t)(w * 64 + __builtin_ctzll(bits));
    }
}

/* The position of the first candidate. */
static int64_t first_candidate(const struct kv_cache_lane *lane, const struct kv_room *room)
{
    return room->frozen ? kv_set_position(lane->set, lane->end, room->frozen) : 0;
}

static struct kv_view view_of(struct kv_cache *c, int64_t i, const struct kv_lane_in *in, const struct kv_room *room,
                              struct kv_cache_work *w)
{
    struct kv_cache_lane *lane = &c->lane[i];
    const struct kv_score *score = c->policy->score;
    struct kv_view v = {
        .policy = c->policy,
        .pass = &c->pass,
        .select = w->select,
        .layer = c->classes.at[i].layer,
        .head = c->classes.at[i].head,
        .n = lane->held - room->frozen,
        .fresh = kv_least(c->pass.n_new, lane->held - room->frozen),
        .old_entries = c->before[i],
        .rows = in->rows,
        .work = w->pool,
    };
    if (score->window)
        v.tail = kv_least(
            v.n, c->policy->keys.window_size > c->pass.n_patch ? c->policy->keys.window_size - c->pass.n_patch : 0);
    for (int k = 0; k < KV_SCORE_CHANNELS; k++) {
        v.stride[k] = in->stride[k];
        if (c->statics & KV_BIT(k))
            v.channel[k] = static_column(c, lane, k) + room->frozen;
        else if (in->channel[k])
            v.channel[k] = in->channel[k] + (k == KV_WINDOW_LOCAL ? 0 : room->frozen);
    }
    for (int k = 0; k < score->columns; k++)
        v.column[k] = lane->column + (__builtin_popcount(c->statics) + k) * lane->room + room->frozen;
    if (score->positions) {
        list_positions(lane, first_candidate(lane, room), w->position);
        v.position = w->position;
    }
    return v;
}

/* The candidates whose bit in `mask` is 0 leave. */
static void remove_others(struct kv_cache *c, struct kv_cache_lane *lane, const struct kv_room *room, int64_t n,
                          const uint64_t *mask, struct kv_cache_work *w)
{
    int64_t stay = kv_set_count(mask, n);
    int64_t from = first_candidate(lane, room), word = from / 64;
    uint64_t older = lane->set[word] & ((UINT64_C(1) << (from % 64)) - 1); /* frozen ones of that word */
    lane->set[word] ^= older;
    w->select->restrict_to(lane->set + word, lane->end - word * 64, mask);
    lane->set[word] |= older;
    for (int k = 0; k < c->columns; k++) {
        float *column = lane->column + k * lane->room + room->frozen;
        w->select->compress(column, mask, n, w->pool);
        memcpy(column, w->pool, sizeof *column * (size_t)stay);
    }
    lane->held = room->frozen + stay;
}

/* Sinks and recents: the ranks between them leave. Unless earlier chunks left spans of their own, what is held is the
 * sinks and one span up to the end. */
static void evict_positions(struct kv_cache *c, int64_t i, const struct kv_room *room)
{
    struct kv_cache_lane *lane = &c->lane[i];
    int64_t first = kv_least(room->first, room->keep), newest = room->keep - first;
    int64_t from = first > lane->hole ? first : lane->hole, to = lane->end - newest;
    if (c->policy->law->freezes) {
        from = kv_set_position(lane->set, lane->end, room->frozen + first);
        to = kv_set_position(lane->set, lane->end, lane->held - newest);
    }
    kv_set_clear(lane->set, from, to);
    lane->hole = to;
    lane->held = room->frozen + room->keep;
    c->gain[i] = lane->held - c->before[i];
    c->frozen[i] = room->frozen;
}

static void protect(float *keep, int64_t n, const struct kv_room *room)
{
    for (int64_t i = 0; i < kv_least(room->first, n); i++)
        keep[i] = INFINITY;
    for (int64_t i = n - kv_least(room->newest, n); i < n; i++)
        keep[i] = INFINITY;
}

static void score_lane(const struct kv_view *v, float *keep)
{
    if (v->policy->score->recipe)
        kv_recipe_run(v, keep);
    else
        v->policy->score->lane(v, keep);
}

/* What stays of a lane whose scores are known. */
static void choose(struct kv_cache *c, int64_t i, const struct kv_room *room, const struct kv_view *v,
                   const float *keep, struct kv_cache_work *w)
{
    struct kv_cache_lane *lane = &c->lane[i];
    lane->ties += w->select->top(keep, v->n, room->keep, w->mask, &w->top);
    if (c->policy->score->kept)
        c->policy->score->kept(v, w->mask);
    w->chosen = v->n;
    remove_others(c, lane, room, v->n, w->mask, w);
    c->gain[i] = lane->held - c->before[i];
    c->frozen[i] = room->frozen;
}

static void keep_all(struct kv_cache *c, const struct kv_view *v, const struct kv_room *room, struct kv_cache_work *w)
{
    if (!c->policy->score->kept || !c->pass.evict || room->keep == KV_NO_BOUND)
        return;
    memset(w->mask, 0, sizeof *w->mask * (size_t)kv_words(v->n));
    kv_set_fill(w->mask, 0, v->n);
    c->policy->score->kept(v, w->mask);
}

static void hand_in(struct kv_cache *c, int64_t i, const struct kv_lane_in *in, struct kv_cache_work *w)
{
    struct kv_cache_lane *lane = &c->lane[i];
    const struct kv_score *score = c->policy->score;
    struct kv_room none = {0}, room = room_of(c, i);
    fill(c, lane, lane_end(c));
    feed_statics(c, lane, in);
    if (score->observe) {
        struct kv_view all = view_of(c, i, in, &none, w);
        score->observe(&all);
    }
    struct kv_view v = view_of(c, i, in, &room, w);
    if (kv_cache_decides_layers(c)) { /* once all lanes are there */
        if (evicts(c, i, &room))
            score_lane(&v, w->keep[v.head]);
    } else if (evicts(c, i, &room)) {
        score_lane(&v, w->keep[0]);
        protect(w->keep[0], v.n, &room);
        choose(c, i, &room, &v, w->keep[0], w);
    } else {
        keep_all(c, &v, &room, w);
    }
}

static void decide_by_position(struct kv_cache *c, int64_t i)
{
    struct kv_room room = room_of(c, i);
    fill(c, &c->lane[i], lane_end(c));
    if (evicts(c, i, &room))
        evict_positions(c, i, &room);
}

void kv_cache_lane(struct kv_cache *c, int64_t layer, int64_t head, const struct kv_lane_in *in,
                   struct kv_cache_work *w)
{
    w->chosen = 0;
    int64_t i = layer * c->shape->store_heads + head;
    c->lane[i].decided = true;
    if (c->policy->score->positional)
        decide_by_position(c, i);
    else
        hand_in(c, i, in, w);
}

static void decide_layer(struct kv_cache *c, int64_t layer, struct kv_cache_work *w)
{
    int heads = (int)c->shape->store_heads;
    int64_t first = layer * heads;
    KV_ASSERT(heads > 0);
    struct kv_room room[heads];
    int64_t n[heads];
    bool any = false;
    for (int h = 0; h < heads; h++) {
        room[h] = room_of(c, first + h);
        n[h] = c->lane[first + h].held - room[h].frozen;
        any |= evicts(c, first + h, &room[h]);
    }
    if (any && c->policy->score->layer) {
        struct kv_lane_in in = {.rows = 1};
        struct kv_view v = view_of(c, first, &in, &room[0], w);
        for (int h = 1; h < heads; h++)
            KV_ASSERT(n[h] == n[0]);
        c->policy->score->layer(&v, heads, w->keep);
    }
    for (int h = 0; h < heads && any; h++)
        protect(w->keep[h], n[h], &room[h]);
    struct kv_share_work share = {.select = w->select, .top = &w->top, .score = w->all, .mask = w->all_mask};
    if (any && c->policy->law->share)
        c->policy->law->share(c->policy, heads, n, (const float *const *)w->keep, room, &share);
    for (int h = 0; h < heads; h++) {
        struct kv_lane_in in = {.rows = 1};
        struct kv_view v = view_of(c, first + h, &in, &room[h], w);
        if (any && n[h] > room[h].keep)
            choose(c, first + h, &room[h], &v, w->keep[h], w);
        else
            keep_all(c, &v, &room[h], w);
    }
}

/* Lanes that nothing had to be handed in for: positions tell who leaves, or a score that needs nothing. */
static void decide_others(struct kv_cache *c, int64_t layer, struct kv_cache_work *w)
{
    struct kv_lane_in in = {.rows = 1};
    for (int64_t head = 0; head < c->shape->store_heads; head++)
        if (!lane_at(c, layer, head)->decided)
            kv_cache_lane(c, layer, head, &in, w);
}

void kv_cache_layer(struct kv_cache *c, int64_t layer, struct kv_cache_work *w)
{
    decide_others(c, layer, w);
    if (kv_cache_decides_layers(c))
        decide_layer(c, layer, w);
}

void kv_cache_told(struct kv_cache *c, int64_t layer, int64_t head, int64_t rank, int64_t ties)
{
    struct kv_cache_lane *lane = lane_at(c, layer, head);
    int64_t i = layer * c->shape->store_heads + head;
    struct kv_room room = room_of(c, i);
    fill(c, lane, lane_end(c));
    int64_t position = kv_set_position(lane->set, lane->end, rank);
    KV_ASSERT(rank >= room.frozen && position < lane->end);
    kv_set_clear(lane->set, position, position + 1);
    lane->held--;
    lane->ties += ties;
    lane->decided = true;
    c->gain[i] = lane->held - c->before[i];
    c->frozen[i] = room.frozen;
}

float *kv_cache_only_column(struct kv_cache *c, int64_t layer, int64_t head)
{
    struct kv_cache_lane *lane = lane_at(c, layer, head);
    KV_ASSERT(c->columns == 1);
    fill(c, lane, c->seen);
    lane->fed = lane->end;
    return lane->column;
}

/* ---- the end of a pass ---- */

static void charge(struct kv_cache *c, const struct kv_pass *pass, int64_t passes)
{
    struct kv_run run = {.pass = *pass,
                         .passes = passes,
                         .before = c->before,
                         .gain = c->gain,
                         .frozen = c->frozen,
                         .places = c->in_place ? c->places : NULL};
    kv_ledger_add(&c->ledger, &run);
}

/* One of several passes told at once: they are alike, and nothing leaves. */
static void charge_alone(struct kv_cache *c, struct kv_pass *pass)
{
    if (c->in_place) {
        kv_places_grow(c, pass->seen + pass->n_new + pass->n_patch, KV_DURING);
        kv_places_grow(c, pass->seen + pass->n_new, KV_AFTER);
    }
    charge(c, pass, 1);
    for (int64_t i = 0; i < c->lanes; i++)
        c->before[i] += pass->n_new;
    pass->index++;
    pass->seen += pass->n_new;
    c->seen = pass->seen;
    if (c->in_place)
        kv_places_next(c);
}

static void end_one(struct kv_cache *c)
{
    bool left = false;
    for (int64_t i = 0; i < c->lanes; i++) {
        left |= c->gain[i] != c->pass.n_new;
        if (c->pass.evict) {
            fill(c, &c->lane[i], lane_end(c));
            c->lane[i].last = c->lane[i].held;
        }
    }
    if (c->in_place && left) {
        for (int64_t i = 0; i < c->lanes; i++)
            fill(c, &c->lane[i], lane_end(c));
        kv_places_count(c);
    }
    charge(c, &c->pass, 1);
    c->seen += c->pass.n_new;
    if (c->in_place)
        kv_places_next(c);
}

void kv_cache_end(struct kv_cache *c)
{
    KV_ASSERT(c->passes);
    int64_t passes = c->passes;
    struct kv_pass pass = c->pass;
    if (passes == 1) {
        end_one(c);
    } else if (c->in_place) {
        for (int64_t j = 0; j < passes; j++)
            charge_alone(c, &pass);
    } else {
        charge(c, &pass, passes);
        c->seen += pass.n_new * passes;
    }
    c->index += passes;
    c->unit = c->pass.evict ? 0 : c->unit + c->pass.n_new * passes;
    c->passes = 0;
}
