/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "engine/recorder.h"

#include "sim/progress.h"

#include <stdlib.h>
#include <string.h>

struct kv_recorder {
    struct kv_recorder_asked asked;
    struct kv_live *live;
    struct kv_live_watch watch;
    struct kv_trace_writer *writer;
    struct kv_trace_about about;
    struct kv_trace_channel *channel; /* (n_channels,) */
    bool closed;

    /* The tick that is on. */
    struct kv_tick tick;
    bool open;
    float **row; /* (n_channels,)(streams, numbers) of the tick */
    int64_t *row_room;
    float **sum;    /* column sums of a decode tick's earlier passes; (n_channels,) */
    float **column; /* later_sum: column sums of each tick, (ticks,)(streams, positions) */
    int64_t n_ticks, tick_room;
    int64_t *length;   /* (lanes,) */
    int32_t *position; /* of slots, and of kept sets */
    int64_t n_position;
    float *log_probability;
    int32_t *ids;
};

static bool has_query_rows(const struct kv_recorder *r)
{
    return r->asked.query_rows && r->live->shape.store_heads == r->live->shape.kv_heads;
}

/* ---- what is wanted of a pass ---- */

/* Whether the pass that begins ends a tick: each prefill pass does, and every decode_tick-th decoded token or the last.
 */
static bool ends_tick(const struct kv_recorder *r)
{
    const struct kv_pass *p = &r->live->pass;
    int64_t end = p->seen + p->n_new;
    return p->decode_step < 0 || r->closed || (p->decode_step + 1) % r->asked.decode_tick == 0 ||
           end == kv_request_steps(&r->live->request);
}

static unsigned watch_wants(void *context, const struct kv_live *l, bool *query_rows)
{
    struct kv_recorder *r = context;
    *query_rows = has_query_rows(r);
    if (r->closed) {
        *query_rows = false;
        /* What the policy may be fed with, in all layers alike, even where nothing leaves after all. */
        return kv_policy_wants(&l->policy, &l->pass, l->pass.evict);
    }
    unsigned made = r->asked.channels & ~KV_BIT(KV_LATER_SUM);
    unsigned always = KV_BIT(KV_COLUMN_SUM) | KV_BIT(KV_KEY_NORM) | KV_BIT(KV_VALUE_NORM);
    if (r->asked.channels & KV_BIT(KV_LATER_SUM))
        made |= KV_BIT(KV_COLUMN_SUM);
    if (l->pass.decode_step >= 0)
        made &= ~KV_BIT(KV_WINDOW_LOCAL);
    if (l->pass.n_patch) /* a patched pass has its patch's window only */
        made &= ~(KV_BIT(KV_COLUMN_SUM) | KV_BIT(KV_LAST_ROW));
    made &= (1u << KV_SCORE_CHANNELS) - 1;
    return ends_tick(r) ? made : made & always;
}

/* ---- rows ---- */

static bool make_row(struct kv_recorder *r, int channel, int64_t numbers, struct kv_err *e)
{
    if (numbers <= r->row_room[channel])
        return true;
    float *row = realloc(r->row[channel], sizeof *row * (size_t)(numbers + numbers / 4));
    if (!row)
        return kv_fail(e, KV_ENV, "no memory for %lld numbers of a recorded pass", (long long)numbers);
    r->row[channel] = row;
    r->row_room[channel] = numbers + numbers / 4;
    return true;
}

/* Positions that a row has in the tick. */
static int64_t row_length(const struct kv_recorder *r, enum kv_channel what)
{
    int64_t end = r->live->pass.seen + r->live->pass.n_new;
    return kv_channels[what].span == KV_SPAN_NEW ? end - r->tick.begin : end;
}

/* Full cache: every lane has every position, so rows are streams x length. Sums of earlier passes of the tick are
 * added; norms of its earlier tokens stay in front. */
static bool take_rows(struct kv_recorder *r, int channel, int64_t layer, struct kv_err *e)
{
    struct kv_live *l = r->live;
    const struct kv_trace_channel *c = &r->channel[channel];
    int64_t heads = l->shape.store_heads, rows = kv_channels[c->what].attention ? l->rows : 1;
    int64_t length = row_length(r, c->what), fresh = l->pass.n_new, before = length - fresh;
    int64_t streams = c->streams;
    if (c->elements > 1)
        return true;
    if (!make_row(r, channel, streams * length, e))
        return false;
    if (layer == 0 && c->what != KV_COLUMN_SUM && kv_channels[c->what].span == KV_SPAN_NEW && before > 0)
        for (int64_t s = streams - 1; s >= 0; s--) /* rows get longer: the last moves first */
            memmove(r->row[channel] + s * length, r->row[channel] + s * before, sizeof(float) * (size_t)before);
    if (layer == 0 && c->what == KV_COLUMN_SUM && l->pass.seen > r->tick.begin)
        for (int64_t s = streams - 1; s >= 0; s--) {
            memmove(r->row[channel] + s * length, r->row[channel] + s * before, sizeof(float) * (size_t)before);
            memset(r->row[channel] + s * length + before, 0, sizeof(float) * (size_t)fresh);
        }
    for (int64_t h = 0; h < heads; h++)
        for (int64_t i = 0; i < rows; i++) {
            const float *from = l->row[c->what] + (h * l->rows + i) * l->stride;
            float *to = r->row[channel] + ((layer * heads + h) * rows + i) * length;
            if (c->what == KV_COLUMN_SUM && l->pass.seen > r->tick.begin)
                for (int64_t t = 0; t < length; t++)
                    to[t] += from[t];
            else if (kv_channels[c->what].span == KV_SPAN_NEW && c->what != KV_WINDOW_LOCAL)
                memcpy(to + before, from, sizeof *to * (size_t)fresh);
            else
                memcpy(to, from, sizeof *to * (size_t)length);
        }
    return true;
}

static bool take_entries(struct kv_recorder *r, int channel, int64_t layer, struct kv_err *e)
{
    struct kv_live *l = r->live;
    int64_t d = l->weights->config.head_dim, heads = l->shape.store_heads, length = row_length(r, KV_KEYS);
    if (!make_row(r, channel, r->channel[channel].streams * length * d, e))
        return false;
    for (int64_t h = 0; h < heads; h++) {
        float *to = r->row[channel] + (layer * heads + h) * length * d;
        bool keys = r->channel[channel].what == KV_KEYS;
        float *other = malloc(sizeof *other * (size_t)(length * d));
        if (!other)
            return kv_fail(e, KV_ENV, "no memory for %lld keys", (long long)length);
        l->backend->ops->entries(l->backend, 0, layer, h, r->tick.begin, length, keys ? to : other, keys ? other : to);
        free(other);
    }
    return true;
}

/* Closed loop: rows are over what the lane held, one behind another. */
static bool take_ragged(struct kv_recorder *r, int channel, int64_t layer, struct kv_err *e)
{
    struct kv_live *l = r->live;
    const struct kv_trace_channel *c = &r->channel[channel];
    int64_t heads = l->shape.store_heads, rows = kv_channels[c->what].attention ? l->rows : 1, at = 0;
    for (int64_t i = 0; i < layer * heads; i++)
        at += r->length[i] * rows;
    for (int64_t h = 0; h < heads; h++) {
        int64_t held = r->length[layer * heads + h];
        if (!make_row(r, channel, at + held * rows, e))
            return false;
        for (int64_t i = 0; i < rows; i++, at += held)
            memcpy(r->row[channel] + at, l->row[c->what] + (h * l->rows + i) * l->stride, sizeof(float) * (size_t)held);
    }
    return true;
}

/* ---- sets ---- */

static bool list_sets(struct kv_recorder *r, struct kv_err *e)
{
    struct kv_live *l = r->live;
    int64_t lanes = l->shape.layers * l->shape.store_heads, n = 0;
    for (int64_t i = 0; i < lanes; i++)
        n += r->length[i] = kv_cache_held(&l->cache, i / l->shape.store_heads, i % l->shape.store_heads);
    if (n > r->n_position) {
        free(r->position);
        r->n_position = n + n / 4 + 1;
        r->position = malloc(sizeof *r->position * (size_t)r->n_position);
        if (!r->position)
            return kv_fail(e, KV_ENV, "no memory for %lld positions", (long long)n);
    }
    n = 0;
    for (int64_t i = 0; i < lanes; i++) {
        const uint64_t *set = kv_cache_set(&l->cache, i / l->shape.store_heads, i % l->shape.store_heads);
        int64_t end = r->live->pass.seen + r->live->pass.n_new;
        for (int64_t t = 0; t < end; t++)
            if (kv_set_has(set, t))
                r->position[n++] = (int32_t)t;
    }
    return true;
}

/* ---- the watch ---- */

static bool begin_tick(struct kv_recorder *r, struct kv_err *e)
{
    const struct kv_pass *p = &r->live->pass;
    if (r->open)
        return true;
    r->tick = (struct kv_tick){.kind = p->decode_step >= 0 ? KV_TICK_DECODE
                                       : p->n_patch        ? KV_TICK_PATCHED
                                                           : KV_TICK_PREFILL,
                               .begin = p->seen,
                               .n_patch = p->n_patch,
                               .start_ns = kv_clock_ns()};
    r->open = true;
    return !r->closed || list_sets(r, e);
}

static bool watch_scores(void *context, struct kv_live *l, int64_t layer, struct kv_err *e)
{
    struct kv_recorder *r = context;
    if (layer == 0 && !begin_tick(r, e))
        return false;
    for (int c = 0; c < r->about.n_channels; c++) {
        enum kv_channel what = r->channel[c].what;
        bool made = (int)what < KV_SCORE_CHANNELS && l->wants & KV_BIT(what);
        if (made && !(r->channel[c].ragged ? take_ragged(r, c, layer, e) : take_rows(r, c, layer, e)))
            return false;
        if ((what == KV_KEYS || what == KV_VALUES) && ends_tick(r) && !take_entries(r, c, layer, e))
            return false;
    }
    return true;
}

/* The tick's column sums, to be added up from the end when it is known. */
static bool keep_for_later(struct kv_recorder *r, int column, struct kv_err *e)
{
    size_t bytes = sizeof(float) * (size_t)(r->channel[column].streams * r->tick.end);
    float *sum = malloc(bytes);
    if (!sum)
        return kv_fail(e, KV_ENV, "no memory for later sums of %lld tokens", (long long)r->tick.end);
    memcpy(sum, r->row[column], bytes);
    r->column[r->n_ticks] = sum;
    return true;
}

static bool grow_ticks(struct kv_recorder *r, struct kv_err *e)
{
    if (r->n_ticks < r->tick_room)
        return true;
    int64_t room = 2 * r->tick_room + 64;
    struct kv_tick *tick = realloc(r->about.tick, sizeof *tick * (size_t)room);
    if (tick)
        r->about.tick = tick;
    float **column = realloc(r->column, sizeof *column * (size_t)room);
    if (column)
        r->column = column;
    if (!tick || !column)
        return kv_fail(e, KV_ENV, "no memory for %lld ticks", (long long)room);
    memset(column + r->tick_room, 0, sizeof *column * (size_t)(room - r->tick_room));
    r->tick_room = room;
    return true;
}

static int find_channel(const struct kv_recorder *r, enum kv_channel what)
{
    for (int c = 0; c < r->about.n_channels; c++)
        if (r->channel[c].what == what)
            return c;
    return -1;
}

/* Which channels the tick that ends has rows of. */
static bool tick_has(const struct kv_recorder *r, int channel)
{
    enum kv_channel what = r->channel[channel].what;
    return what == KV_KEYS || what == KV_VALUES ||
           ((int)what < KV_SCORE_CHANNELS && r->live->wants & KV_BIT(what) && what != KV_LATER_SUM);
}

static bool write_tick(struct kv_recorder *r, struct kv_err *e)
{
    if (!kv_trace_tick(r->writer, &r->tick, e) ||
        (r->closed && !kv_trace_put_slots(r->writer, r->length, r->position, e)))
        return false;
    for (int c = 0; c < r->about.n_channels; c++)
        if (tick_has(r, c) && !kv_trace_put(r->writer, c, r->row[c], e))
            return false;
    if (r->closed && (!list_sets(r, e) || !kv_trace_put_kept(r->writer, r->length, r->position, e)))
        return false;
    return kv_trace_commit(r->writer, e);
}

static bool watch_ends(void *context, struct kv_live *l, struct kv_err *e)
{
    struct kv_recorder *r = context;
    if (!ends_tick(r))
        return true;
    int column = find_channel(r, KV_COLUMN_SUM);
    struct kv_backend_use use = l->backend->ops->use(l->backend);
    r->tick.end = l->pass.seen + l->pass.n_new;
    r->tick.end_ns = kv_clock_ns();
    r->tick.kv_bytes = use.pages_live * use.page_bytes;
    if (!grow_ticks(r, e) || (r->asked.channels & KV_BIT(KV_LATER_SUM) && !keep_for_later(r, column, e)) ||
        !write_tick(r, e))
        return false;
    r->about.tick[r->n_ticks++] = r->tick;
    r->open = false;
    return true;
}

/* ---- open ---- */

static void add_channel(struct kv_recorder *r, enum kv_channel what)
{
    const struct kv_shape *s = &r->live->shape;
    const struct kv_channel_about *about = &kv_channels[what];
    bool query = about->attention && (has_query_rows(r) || s->store_heads == s->q_heads);
    bool entries = what == KV_KEYS || what == KV_VALUES;
    r->channel[r->about.n_channels++] = (struct kv_trace_channel){
        .what = what,
        .name = about->name,
        .query_heads = query,
        .reduce = about->attention && !query ? KV_REDUCE_SUM : KV_REDUCE_NONE,
        .window = about->window ? r->asked.window : 0,
        .rows = 1,
        .elements = entries ? r->live->weights->config.head_dim : 1,
        .encoding = r->closed || entries || !about->attention ? KV_ENC_F32 : r->asked.encoding,
        .steps_per_octave = 64,
        .precision = "f32",
        .under = r->closed ? r->live->policy.name : "full",
        .ragged = r->closed && about->span == KV_SPAN_SEEN, /* new tokens are the same in every lane */
        .streams = s->layers * (query ? s->q_heads : s->store_heads),
    };
}

static void add_channels(struct kv_recorder *r)
{
    unsigned wanted = r->asked.channels;
    if (wanted & KV_BIT(KV_LATER_SUM))
        wanted |= KV_BIT(KV_COLUMN_SUM);
    for (int k = 0; k < KV_CHANNELS; k++)
        if (wanted & KV_BIT(k) && k != KV_WINDOW_LOGITS)
            add_channel(r, (enum kv_channel)k);
}

bool kv_recorder_open(struct kv_recorder **out, const char *path, const struct kv_recorder_asked *asked,
                      struct kv_live *l, struct kv_arena *a, struct kv_err *e)
{
    struct kv_recorder *r = KV_NEW(a, struct kv_recorder);
    const struct kv_config *c = &l->weights->config;
    int64_t lanes = l->shape.layers * l->shape.store_heads;
    *r = (struct kv_recorder){.asked = *asked, .live = l, .closed = l->policy.law->room != NULL};
    if (r->closed) { /* what its policy is fed with, as it is fed */
        r->asked.channels = l->policy.score->needs | l->policy.score->observes;
        r->asked.window = l->policy.keys.window_size;
        r->asked.query_rows = kv_live_query_rows(l);
    }
    r->channel = KV_NEW_N(a, struct kv_trace_channel, KV_CHANNELS);
    r->row = KV_NEW_N(a, float *, KV_CHANNELS);
    r->row_room = KV_NEW_N(a, int64_t, KV_CHANNELS);
    r->length = kv_alloc_many(a, (size_t)lanes, sizeof *r->length, "lanes", e);
    r->log_probability = kv_alloc_many(a, (size_t)l->request.output + 1, sizeof(float), "log-probabilities", e);
    if (!r->length || !r->log_probability)
        return false;
    r->about = (struct kv_trace_about){.producer = "kvengine",
                                       .model = asked->model,
                                       .compute_dtype = l->backend->ops->computes,
                                       .kv_dtype = kv_dtype_names[l->policy.store.dtype],
                                       .layers = c->layers,
                                       .q_heads = c->q_heads,
                                       .kv_heads = c->kv_heads,
                                       .head_dim = c->head_dim,
                                       .n_prompt = l->request.prompt,
                                       .n_output = l->request.output,
                                       .prefill = l->request.prefill,
                                       .policy = r->closed ? l->policy.name : "full",
                                       .item = asked->item,
                                       .query_lanes = l->shape.store_heads != l->shape.kv_heads,
                                       .channel = r->channel,
                                       .mark = (struct kv_mark *)asked->mark,
                                       .n_marks = asked->n_marks};
    add_channels(r);
    r->watch = (struct kv_live_watch){.context = r, .wants = watch_wants, .scores = watch_scores, .ends = watch_ends};
    if (!kv_trace_create(&r->writer, path, &r->about, asked->filter, 1, e))
        return false;
    l->watch = &r->watch;
    *out = r;
    return true;
}

int64_t kv_recorder_bytes(const struct kv_recorder_asked *asked, const struct kv_live *l, int64_t chunk, int64_t output)
{
    int64_t prompt = l->request.prompt,
            streams = l->shape.layers * (asked->query_rows ? l->shape.q_heads : l->shape.kv_heads);
    double bytes = 0;
    for (int k = 0; k < KV_CHANNELS; k++) {
        if (!(asked->channels & KV_BIT(k)))
            continue;
        double numbers = 0, of = (double)(kv_channels[k].attention ? streams : l->shape.layers * l->shape.kv_heads);
        double each = kv_channels[k].attention && asked->encoding == KV_ENC_LOG12 ? 1.2 : 4;
        if (k == KV_KEYS || k == KV_VALUES)
            of *= (double)l->weights->config.head_dim;
        if (kv_channels[k].span == KV_SPAN_NEW)
            numbers = (double)(prompt + output);
        for (int64_t end = chunk; kv_channels[k].span == KV_SPAN_SEEN && end < prompt + chunk; end += chunk)
            numbers += (double)(end < prompt ? end : prompt);
        for (int64_t t = asked->decode_tick; kv_channels[k].span == KV_SPAN_SEEN && t <= output;
             t += asked->decode_tick)
            numbers += (double)(prompt + t);
        bytes += numbers * of * each;
    }
    return (int64_t)bytes;
}

/* ---- the end ---- */

void kv_recorder_chose(struct kv_recorder *r, int32_t token, double log_probability)
{
    (void)token;
    int64_t i = r->live->n_token - r->live->request.prompt;
    if (i >= 0 && i < r->live->request.output)
        r->log_probability[i] = (float)log_probability;
}

static void free_all(struct kv_recorder *r)
{
    for (int c = 0; c < r->about.n_channels; c++)
        free(r->row[c]);
    for (int64_t i = 0; i < r->n_ticks && r->column; i++)
        free(r->column[i]);
    free(r->column);
    free(r->about.tick);
    free(r->position);
    r->live->watch = NULL;
}

/* From the last tick back, so that nothing is ever subtracted. */
static bool write_later(struct kv_recorder *r, int channel, struct kv_err *e)
{
    int64_t streams = r->channel[channel].streams, whole = r->about.tick[r->n_ticks - 1].end;
    float *later = calloc((size_t)(streams * whole), sizeof *later),
          *row = malloc(sizeof *row * (size_t)(streams * whole));
    bool good = (later && row) || kv_fail(e, KV_ENV, "no memory for later sums of %lld tokens", (long long)whole);
    for (int64_t i = r->n_ticks - 1; good && i >= 0; i--) {
        int64_t end = r->about.tick[i].end;
        for (int64_t s = 0; s < streams; s++)
            for (int64_t t = 0; t < end; t++) {
                row[s * end + t] = later[s * whole + t];
                later[s * whole + t] += r->column[i][s * end + t];
            }
        good = kv_trace_put_later(r->writer, channel, i, row, e);
    }
    free(later);
    free(row);
    return good;
}

bool kv_recorder_finish(struct kv_recorder *r, struct kv_err *e)
{
    const struct kv_live *l = r->live;
    int later = find_channel(r, KV_LATER_SUM);
    bool good =
        (later < 0 || !r->n_ticks || write_later(r, later, e)) &&
        kv_trace_put_ids(r->writer, l->token, l->request.prompt + l->request.output, e) &&
        (!l->request.output || kv_trace_put_log_probability(r->writer, r->log_probability, l->request.output, e));
    if (good)
        good = kv_trace_finish(r->writer, e);
    else
        kv_trace_abandon(r->writer);
    free_all(r);
    return good;
}

void kv_recorder_abandon(struct kv_recorder *r)
{
    kv_trace_abandon(r->writer);
    free_all(r);
}
