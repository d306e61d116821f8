/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/replay_feed.h"

#include "sim/core/produce.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- opening ---- */

static void *make(size_t n, size_t size, bool *good)
{
    void *made = calloc(n ? n : 1, size);
    *good &= made != NULL;
    return made;
}

/* Rows of one KV head in a channel: its query heads, times the rows of each. */
static int64_t rows_of(const struct kv_replay *r, int channel)
{
    const struct kv_trace_channel *c = &r->about.channel[channel];
    return (c->query_heads ? kv_feed_group(r) : 1) * c->rows;
}

static void want_channel(const struct kv_feed *f, bool *wanted, int channel)
{
    if (channel >= 0 && f->replay->about.channel[channel].elements == 1)
        wanted[channel] = true;
}

static bool open_rows(struct kv_feed *f, struct kv_arena *a)
{
    const struct kv_replay *r = f->replay;
    int64_t window = 0;
    f->places = 1;
    bool good = true, *wanted = KV_NEW_N(a, bool, r->about.n_channels + 1);
    want_channel(f, wanted, r->mass);
    want_channel(f, wanted, r->later);
    for (int i = 0; i < r->n_runs; i++) {
        int places = 0;
        for (int k = 0; k < KV_SCORE_CHANNELS; k++) {
            const struct kv_source *s = &r->run[i].source[k];
            places += s->way != KV_WAY_NONE;
            if (s->way == KV_WAY_RECORDED || s->way == KV_WAY_LOGITS)
                want_channel(f, wanted, s->channel);
            if (s->way == KV_WAY_LOGITS && r->about.channel[s->channel].rows > window)
                window = r->about.channel[s->channel].rows;
        }
        f->places = places > f->places ? places : f->places;
    }
    if (window)
        f->picked = make((size_t)(window * f->stride), sizeof(float), &good);
    f->most_rows = kv_feed_group(r);
    f->row = KV_NEW_N(a, float *, r->about.n_channels + 1);
    f->total = KV_NEW_N(a, double *, r->about.n_channels + 1);
    f->at_tick = KV_NEW_N(a, int64_t, r->about.n_channels + 1);
    f->at_lane = KV_NEW_N(a, int64_t, r->about.n_channels + 1);
    for (int c = 0; c < r->about.n_channels; c++) {
        f->at_tick[c] = -1;
        f->total[c] = KV_NEW_N(a, double, rows_of(r, c));
        if (wanted[c])
            f->row[c] = make((size_t)(rows_of(r, c) * f->stride), sizeof(float), &good);
    }
    return good;
}

static bool open_work(struct kv_feed *f, struct kv_arena *a, struct kv_err *e)
{
    const struct kv_replay *r = f->replay;
    f->layers = KV_NEW_N(a, struct kv_cache_work, r->n_runs);
    if (!kv_cache_work_open(&f->lanes, f->stride, 1, e))
        return false;
    for (int i = 0; i < r->n_runs; i++)
        if (kv_cache_decides_layers(&r->run[i].cache) &&
            !kv_cache_work_open(&f->layers[i], f->stride, (int)r->run[i].shape.store_heads, e))
            return false;
    return true;
}

struct kv_feed *kv_feed_open(struct kv_replay *r, struct kv_history *history, struct kv_arena *a, struct kv_err *e)
{
    struct kv_feed *f = KV_NEW(a, struct kv_feed);
    bool good = true;
    *f = (struct kv_feed){.replay = r, .history = history, .select = kv_select_best()};
    f->stride = (r->end + 2 * KV_SLACK) / 16 * 16;
    good &= open_rows(f, a);
    f->slots = make((size_t)(f->places * f->most_rows * f->stride), sizeof(float), &good);
    f->derived = make((size_t)(f->places * f->most_rows * f->stride), sizeof(float), &good);
    f->oracle = make((size_t)kv_words(f->stride), sizeof(uint64_t), &good);
    if (history->keys_channel >= 0 || history->values_channel >= 0)
        f->survivors = make((size_t)(2 * f->stride * r->about.head_dim), sizeof(float), &good);
    f->sums = make((size_t)(2 * f->stride + 4 * r->about.head_dim + 1024), sizeof(double), &good);
    if (!good)
        kv_fail(e, KV_ENV, "no memory for the rows of %lld tokens", (long long)r->end);
    else if ((f->work = kv_trace_work_open(r->trace, e)) && open_work(f, a, e))
        return f;
    kv_feed_close(f);
    return NULL;
}

void kv_feed_close(struct kv_feed *f)
{
    for (int c = 0; f->row && c < f->replay->about.n_channels; c++)
        free(f->row[c]);
    for (int i = 0; f->layers && i < f->replay->n_runs; i++)
        kv_cache_work_close(&f->layers[i]);
    kv_cache_work_close(&f->lanes);
    if (f->work)
        kv_trace_work_close(f->work);
    free(f->slots);
    free(f->derived);
    free(f->survivors);
    free(f->picked);
    free(f->sums);
    free(f->oracle);
}

/* ---- reading ---- */

/* The rows of a KV head at a tick, one for each of its query heads where the channel has those. */
bool kv_feed_rows(struct kv_feed *f, int channel, int64_t tick, int64_t layer, int64_t kv_head, struct kv_err *e)
{
    const struct kv_replay *r = f->replay;
    int64_t rows = rows_of(r, channel), lane = layer * r->about.kv_heads + kv_head;
    if (f->at_tick[channel] == tick && f->at_lane[channel] == lane)
        return true;
    for (int64_t i = 0; i < rows; i++)
        if (!kv_trace_row(r->trace, channel, tick, lane * rows + i, f->row[channel] + i * f->stride, f->work, e))
            return false;
    for (int64_t i = 0; i < rows; i++)
        f->total[channel][i] = NAN;
    f->at_tick[channel] = tick;
    f->at_lane[channel] = lane;
    return true;
}

/* Keys or values of the tick's tokens join those of earlier ones. */
static bool read_history(struct kv_feed *f, int channel, float *all, int64_t tick, int64_t layer, int64_t kv_head,
                         struct kv_err *e)
{
    const struct kv_replay *r = f->replay;
    int64_t lane = layer * r->about.kv_heads + kv_head, d = r->about.head_dim;
    if (channel < 0 || !r->about.channel[channel].at[tick]) /* whoever needs it was refused */
        return true;
    float *to = all + (lane * (r->end + KV_SLACK) + r->about.tick[tick].begin) * d;
    return kv_trace_row(r->trace, channel, tick, lane, to, f->work, e);
}

/* ---- what a lane is fed with ---- */

/* The one approximation of a replay. Attention recorded with the full cache stands for attention after an eviction:
 * the survivors' own numbers are picked out and not renormalised, and what the layers below would have made of the
 * missing entries is not known. Exact where nothing has left the lane yet and nothing below it, where the softmax is
 * over the chunk's own keys (window_local), and for norms; and in a closed-loop trace, which is not fed through here.
 * Its error on kept sets and footprints is what `kvengine verify` measures; at long context it is unknown until that
 * was run. */
static const float *pick_survivors(struct kv_feed *f, const float *row, int64_t rows, const uint64_t *set, int64_t end,
                                   int64_t held, int place)
{
    float *out = f->slots + place * f->most_rows * f->stride;
    if (held == end)
        return row;
    for (int64_t i = 0; i < rows; i++)
        f->select->compress(row + i * f->stride, set, end, out + i * f->stride);
    return out;
}

/* Softmax of logits over the survivors: what the window would have seen of them. */
static const float *from_logits(struct kv_feed *f, const struct kv_replay_run *run, enum kv_channel what,
                                const struct kv_trace_channel *c, const float *row, int64_t rows, const uint64_t *set,
                                int64_t begin, int64_t end, int place)
{
    float *out = f->derived + place * f->most_rows * f->stride;
    int64_t w = what == KV_LAST_ROW ? 1 : run->policy.keys.window_size, n = 0, used = c->rows < w ? c->rows : w;
    float *picked = f->picked;
    int64_t held = kv_set_count(set, end);
    for (int64_t h = 0; h < rows; h++) {
        for (int64_t i = 0; i < used; i++) {
            const float *logits = row + (h * c->rows + c->rows - used + i) * f->stride;
            if (what == KV_WINDOW_LOCAL) {
                n = end - begin;
                memcpy(picked + i * n, logits + (c->ragged ? held - n : begin), sizeof(float) * (size_t)n);
                continue;
            }
            if (c->ragged) {
                n = held;
                memcpy(picked + i * n, logits, sizeof(float) * (size_t)n);
                continue;
            }
            n = 0;
            for (int64_t t = 0; t < end; t++)
                if (kv_set_has(set, t))
                    picked[i * held + n++] = logits[t];
        }
        kv_make_attention(picked, used, n, f->sums, out + h * f->stride);
    }
    return out;
}

static const float *gather(const struct kv_feed *f, const float *all, int64_t lane, const uint64_t *set, int64_t from,
                           int64_t end, float *out, int64_t *n)
{
    int64_t d = f->replay->about.head_dim;
    const float *x = all + lane * (f->replay->end + KV_SLACK) * d;
    *n = 0;
    for (int64_t t = from; t < end; t++)
        if (kv_set_has(set, t))
            memcpy(out + (*n)++ * d, x + t * d, sizeof(float) * (size_t)d);
    return out;
}

static const float *from_keys(struct kv_feed *f, enum kv_channel what, int64_t lane, const uint64_t *set, int64_t begin,
                              int64_t end, int place)
{
    int64_t d = f->replay->about.head_dim, n = 0, from = kv_channels[what].span == KV_SPAN_NEW ? begin : 0;
    float *out = f->derived + place * f->most_rows * f->stride, *second = f->survivors + f->stride * d;
    const float *k = NULL, *v = NULL;
    if (f->history->keys_channel >= 0)
        k = gather(f, f->history->keys, lane, set, from, end, f->survivors, &n);
    if (f->history->values_channel >= 0)
        v = gather(f, f->history->values, lane, set, from, end, second, &n);
    if (what == KV_KEY_NORM)
        kv_make_norms(k, n, d, out);
    else if (what == KV_VALUE_NORM)
        kv_make_norms(v, n, d, out);
    else if (what == KV_KEY_COSINE)
        kv_make_cosines(k, n, d, f->sums, out);
    else
        kv_make_lag(k, v, n, d, 4, 128, f->sums, out);
    return out;
}

static bool feed_channel(struct kv_feed *f, struct kv_replay_run *run, enum kv_channel what, int64_t tick,
                         int64_t layer, int64_t head, int place, struct kv_lane_in *in, struct kv_err *e)
{
    const struct kv_replay *r = f->replay;
    const struct kv_source *s = &run->source[what];
    const struct kv_tick *at = &r->about.tick[tick];
    int64_t g = kv_feed_group(r), per = run->shape.store_heads / r->about.kv_heads, kv_head = head / per;
    int64_t rows = per == 1 && s->query_heads ? g : 1, first = per > 1 && s->query_heads ? head % per : 0;
    const uint64_t *set = kv_cache_set(&run->cache, layer, head);
    int64_t held = kv_cache_held(&run->cache, layer, head), lane = layer * r->about.kv_heads + kv_head;
    in->stride[what] = f->stride;
    if (s->way == KV_WAY_KEYS) {
        in->channel[what] = from_keys(f, what, lane, set, at->begin, at->end, place);
        return true;
    }
    if (kv_channels[what].attention)
        in->rows = (int)rows;
    if (!r->about.channel[s->channel].at[tick])
        return kv_fail(e, KV_USAGE, "%s channel '%s' was not recorded for the pass [%lld, %lld); record it there",
                       run->policy.where, kv_channels[what].name, (long long)at->begin, (long long)at->end);
    if (!kv_feed_rows(f, s->channel, tick, layer, kv_head, e))
        return false;
    const struct kv_trace_channel *c = &r->about.channel[s->channel];
    const float *row = f->row[s->channel] + first * c->rows * f->stride;
    if (s->way == KV_WAY_LOGITS)
        in->channel[what] = from_logits(f, run, what, c, row, rows, set, at->begin, at->end, place);
    else if (c->ragged && kv_channels[what].span == KV_SPAN_NEW) /* all that the lane held: the new ones are last */
        in->channel[what] = row + held - (at->end - at->begin);
    else if (kv_channels[what].span == KV_SPAN_NEW || c->ragged)
        in->channel[what] = row;
    else
        in->channel[what] = pick_survivors(f, row, rows, set, at->end, held, place);
    return true;
}

/* ---- closed loop ---- */

/* The trace says which positions the lane held, or kept: they must be those of the cache. */
static bool same_positions(struct kv_feed *f, const struct kv_replay_run *run, const int32_t *position, int64_t n,
                           int64_t layer, int64_t head)
{
    const uint64_t *set = kv_cache_set((struct kv_cache *)&run->cache, layer, head);
    (void)f;
    if (n != kv_cache_held(&run->cache, layer, head))
        return false;
    for (int64_t i = 0; i < n; i++)
        if (!kv_set_has(set, position[i]))
            return false;
    return true;
}

static bool check_slots(struct kv_feed *f, struct kv_replay_run *run, int64_t tick, int64_t layer, int64_t head,
                        struct kv_err *e)
{
    const int32_t *position;
    int64_t n;
    if (!kv_trace_slots(f->replay->trace, tick, layer, head, &position, &n, f->work, e))
        return false;
    return same_positions(f, run, position, n, layer, head) ||
           kv_fail(e, KV_DATA,
                   "tick %lld, layer %lld, head %lld: the recorded lane held other entries than '%s' leaves; the trace "
                   "was recorded under '%s'",
                   (long long)tick, (long long)layer, (long long)head, run->policy.name, f->replay->about.policy);
}

static bool check_kept(struct kv_feed *f, struct kv_replay_run *run, int64_t tick, int64_t layer, int64_t head,
                       int64_t *differs, struct kv_err *e)
{
    const int32_t *position;
    int64_t n;
    if (!kv_trace_kept(f->replay->trace, tick, layer, head, &position, &n, f->work, e))
        return false;
    *differs += !same_positions(f, run, position, n, layer, head);
    return true;
}

/* ---- a layer ---- */

/* Adds the tick to the lane's sums. */
static void count_lane(const struct kv_replay *r, struct kv_replay_run *run, int64_t layer, int64_t head, int64_t held)
{
    struct kv_replay_lane *lane = &run->lane[layer * run->shape.store_heads + head];
    const struct kv_lane_mass *m = &lane->last;
    int64_t stay = kv_cache_held(&run->cache, layer, head), end = run->cache.seen + run->cache.pass.n_new;
    if (m->known) {
        lane->sum.held += m->held;
        lane->n_held++;
    }
    if (stay == held)
        return;
    lane->evictions++;
    unsigned wants = kv_policy_wants(&run->policy, &run->cache.pass, true);
    for (int k = 0; k < KV_SCORE_CHANNELS && held < end && !r->closed; k++)
        if (wants & KV_BIT(k) & ~KV_STATIC_CHANNELS && k != KV_WINDOW_LOCAL && run->source[k].way == KV_WAY_RECORDED) {
            lane->approximate++;
            break;
        }
    if (m->known) {
        lane->sum.kept += m->kept;
        lane->sum.inner += m->inner;
        lane->n++;
    }
    if (m->later_known) {
        lane->sum.later += m->later;
        lane->sum.overlap += m->overlap;
        lane->n_later++;
    }
}

static bool feed_lane(struct kv_feed *f, struct kv_replay_run *run, struct kv_cache_work *w, unsigned wants,
                      int64_t tick, int64_t layer, int64_t head, struct kv_err *e)
{
    struct kv_lane_in in = {.rows = 1};
    int place = 0;
    f->fed = NULL;
    for (int k = 0; k < KV_SCORE_CHANNELS; k++)
        if (wants & KV_BIT(k) && !feed_channel(f, run, (enum kv_channel)k, tick, layer, head, place++, &in, e))
            return false;
    if (!kv_measure_held(f, run, tick, layer, head, &in, e))
        return false;
    kv_cache_lane(&run->cache, layer, head, &in, w);
    return true;
}

static bool measure(struct kv_feed *f, struct kv_replay_run *run, int64_t tick, int64_t layer, int64_t head,
                    int64_t held, struct kv_err *e)
{
    struct kv_replay_lane *lane = &run->lane[layer * run->shape.store_heads + head];
    if (!kv_measure_kept(f, run, tick, layer, head, held, e) || !kv_measure_later(f, run, tick, layer, head, e))
        return false;
    count_lane(f->replay, run, layer, head, held);
    int64_t differs = 0;
    if (f->replay->closed && f->replay->about.has_kept && !check_kept(f, run, tick, layer, head, &differs, e))
        return false;
    lane->differs += differs;
    return true;
}

/* One lane of one policy at the tick; policies that decide a whole layer are measured after it. */
static bool lane_at_tick(struct kv_feed *f, int i, int64_t tick, int64_t layer, int64_t head, unsigned wants,
                         struct kv_err *e)
{
    struct kv_replay_run *run = &f->replay->run[i];
    bool whole = kv_cache_decides_layers(&run->cache);
    (void)kv_cache_set(&run->cache, layer, head);
    int64_t held = kv_cache_held(&run->cache, layer, head);
    if (f->replay->closed && !check_slots(f, run, tick, layer, head, e))
        return false;
    run->lane[layer * run->shape.store_heads + head].held = held;
    if (!feed_lane(f, run, whole ? &f->layers[i] : &f->lanes, wants, tick, layer, head, e))
        return false;
    return whole || measure(f, run, tick, layer, head, held, e);
}

static bool end_layers(struct kv_feed *f, int i, int64_t tick, int64_t layer, struct kv_err *e)
{
    struct kv_replay_run *run = &f->replay->run[i];
    bool whole = kv_cache_decides_layers(&run->cache);
    f->fed = NULL;
    kv_cache_layer(&run->cache, layer, whole ? &f->layers[i] : &f->lanes);
    for (int64_t head = 0; whole && head < run->shape.store_heads; head++)
        if (!measure(f, run, tick, layer, head, run->lane[layer * run->shape.store_heads + head].held, e))
            return false;
    return true;
}

bool kv_feed_layer(struct kv_feed *f, int64_t tick, int64_t layer, struct kv_err *e)
{
    struct kv_replay *r = f->replay;
    unsigned wants[r->n_runs];
    for (int i = 0; i < r->n_runs; i++)
        wants[i] = r->run[i].cache.passes ? kv_cache_wants(&r->run[i].cache, layer) : 0;
    for (int64_t kv_head = 0; kv_head < r->about.kv_heads; kv_head++) {
        if (!read_history(f, f->history->keys_channel, f->history->keys, tick, layer, kv_head, e) ||
            !read_history(f, f->history->values_channel, f->history->values, tick, layer, kv_head, e))
            return false;
        for (int i = 0; i < r->n_runs; i++) {
            struct kv_replay_run *run = &r->run[i];
            int64_t per = run->shape.store_heads / r->about.kv_heads;
            for (int64_t h = kv_head * per; run->cache.passes && h < (kv_head + 1) * per; h++)
                if (!lane_at_tick(f, i, tick, layer, h, wants[i], e))
                    return false;
        }
    }
    for (int i = 0; i < r->n_runs; i++)
        if (r->run[i].cache.passes && !end_layers(f, i, tick, layer, e))
            return false;
    return true;
}
