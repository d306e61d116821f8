/* SPDX-License-Identifier: GPL-3.0-or-later */
/* How much attention is on what a lane holds. */
#include "sim/replay_feed.h"

#include <math.h>
#include <string.h>

/* Rows of an attention channel that belong to a lane. */
struct lane_rows {
    const float *row;
    double *total; /* of each row, NaN while nobody has asked */
    int64_t n;
};

static bool lane_rows(struct kv_feed *f, int channel, const struct kv_replay_run *run, int64_t tick, int64_t layer,
                      int64_t head, struct lane_rows *out, struct kv_err *e)
{
    const struct kv_replay *r = f->replay;
    int64_t per = run->shape.store_heads / r->about.kv_heads;
    bool query = r->about.channel[channel].query_heads;
    if (!kv_feed_rows(f, channel, tick, layer, head / per, e))
        return false;
    out->n = query && per == 1 ? kv_feed_group(r) : 1;
    out->row = f->row[channel] + (query && per > 1 ? head % per : 0) * f->stride;
    out->total = f->total[channel] + (query && per > 1 ? head % per : 0);
    return true;
}

static double sum_of(const struct kv_feed *f, const struct lane_rows *rows, const uint64_t *set, int64_t end)
{
    double sum = 0;
    for (int64_t i = 0; i < rows->n; i++)
        sum += f->select->sum(rows->row + i * f->stride, set, end);
    return sum;
}

/* Of all positions: summed once, however many policies ask. */
static double total_of(const struct kv_feed *f, const struct lane_rows *rows, int64_t end)
{
    double sum = 0;
    for (int64_t i = 0; i < rows->n; i++) {
        if (isnan(rows->total[i]))
            rows->total[i] = f->select->sum(rows->row + i * f->stride, NULL, end);
        sum += rows->total[i];
    }
    return sum;
}

/* Of the positions [from, to). */
static double sum_range(const struct kv_feed *f, const struct lane_rows *rows, const uint64_t *set, int64_t from,
                        int64_t to)
{
    double sum = 0;
    for (int64_t i = 0; i < rows->n; i++)
        for (int64_t t = from; t < to; t++)
            sum += !set || kv_set_has(set, t) ? (double)rows->row[i * f->stride + t] : 0;
    return sum;
}

static bool can_measure(const struct kv_replay *r, int channel, int64_t tick)
{
    return channel >= 0 && !r->about.channel[channel].ragged && r->about.channel[channel].at[tick];
}

/* What the lane was fed with, where that is the same attention: its survivors lie together there. */
static const float *fed_rows(const struct kv_replay *r, const struct kv_replay_run *run, const struct kv_lane_in *in)
{
    for (int k = 0; k < KV_SCORE_CHANNELS; k++)
        if (in->channel[k] && run->source[k].way == KV_WAY_RECORDED && run->source[k].channel == r->mass)
            return in->channel[k];
    return NULL;
}

/* Before anything leaves: what the pass's queries could attend to. */
bool kv_measure_held(struct kv_feed *f, struct kv_replay_run *run, int64_t tick, int64_t layer, int64_t head,
                     const struct kv_lane_in *in, struct kv_err *e)
{
    const struct kv_replay *r = f->replay;
    struct kv_lane_mass *m = &run->lane[layer * run->shape.store_heads + head].last;
    int64_t end = r->about.tick[tick].end;
    struct lane_rows rows;
    *m = (struct kv_lane_mass){0};
    if (!can_measure(r, r->mass, tick))
        return true;
    m->known = true;
    m->held = 1;
    int64_t n = kv_cache_held(&run->cache, layer, head);
    const float *fed = f->fed = fed_rows(r, run, in);
    if (n == end)
        return true;
    if (!lane_rows(f, r->mass, run, tick, layer, head, &rows, e))
        return false;
    double all = total_of(f, &rows, end), held = 0;
    for (int64_t i = 0; fed && i < rows.n; i++)
        held += f->select->sum(fed + i * f->stride, NULL, n);
    if (!fed)
        held = sum_of(f, &rows, kv_cache_set(&run->cache, layer, head), end);
    m->held = all > 0 ? held / all : 1;
    return true;
}

/* On what stayed of `before` entries. Where the lane was just decided from this very attention, its survivors are still
 * together, which is less to read than all positions. */
static double kept_of(const struct kv_feed *f, const struct lane_rows *rows, const uint64_t *set, int64_t end,
                      int64_t before)
{
    double sum = 0;
    if (!f->fed || f->lanes.chosen != before)
        return sum_of(f, rows, set, end);
    for (int64_t i = 0; i < rows->n; i++)
        sum += f->select->sum(f->fed + i * f->stride, f->lanes.mask, before);
    return sum;
}

bool kv_measure_kept(struct kv_feed *f, struct kv_replay_run *run, int64_t tick, int64_t layer, int64_t head,
                     int64_t before, struct kv_err *e)
{
    const struct kv_replay *r = f->replay;
    struct kv_lane_mass *m = &run->lane[layer * run->shape.store_heads + head].last;
    int64_t end = r->about.tick[tick].end;
    const uint64_t *set = kv_cache_set(&run->cache, layer, head);
    struct lane_rows rows;
    m->kept = m->inner = 1;
    if (!m->known || kv_cache_held(&run->cache, layer, head) == end)
        return true;
    if (!lane_rows(f, r->mass, run, tick, layer, head, &rows, e))
        return false;
    int64_t from = r->asked.mass_sinks < end ? r->asked.mass_sinks : end;
    int64_t to = end - r->asked.mass_recents > from ? end - r->asked.mass_recents : from;
    double all = total_of(f, &rows, end), kept = kept_of(f, &rows, set, end, before);
    double outer = sum_range(f, &rows, NULL, 0, from) + sum_range(f, &rows, NULL, to, end);
    double outer_kept = sum_range(f, &rows, set, 0, from) + sum_range(f, &rows, set, to, end);
    m->kept = all > 0 ? kept / all : 1;
    m->inner = all - outer > 0 ? fmax(0, fmin(1, (kept - outer_kept) / (all - outer))) : 1;
    return true;
}

/* An oracle that knows the attention to come keeps as many entries, of all tokens so far. */
bool kv_measure_later(struct kv_feed *f, struct kv_replay_run *run, int64_t tick, int64_t layer, int64_t head,
                      struct kv_err *e)
{
    const struct kv_replay *r = f->replay;
    struct kv_lane_mass *m = &run->lane[layer * run->shape.store_heads + head].last;
    int64_t end = r->about.tick[tick].end, held = kv_cache_held(&run->cache, layer, head);
    const uint64_t *set = kv_cache_set(&run->cache, layer, head);
    struct lane_rows rows;
    if (!can_measure(r, r->later, tick))
        return true;
    m->later_known = true;
    m->later = m->overlap = 1;
    if (held == end)
        return true;
    if (!lane_rows(f, r->later, run, tick, layer, head, &rows, e))
        return false;
    double all = total_of(f, &rows, end);
    if (!(all > 0)) { /* nothing follows */
        m->later_known = false;
        return true;
    }
    m->later = sum_of(f, &rows, set, end) / all;
    float *sum = f->slots;
    memcpy(sum, rows.row, sizeof *sum * (size_t)end);
    for (int64_t i = 1; i < rows.n; i++)
        f->select->add(sum, rows.row + i * f->stride, end);
    f->select->top(sum, end, held, f->oracle, &f->lanes.top);
    m->overlap = held ? (double)kv_set_common(set, f->oracle, end) / (double)held : 1;
    return true;
}
