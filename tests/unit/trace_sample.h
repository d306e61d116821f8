/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A trace whose numbers follow from channel, tick, row and place: tests write it, and know what must be read back. */
#ifndef KV_TRACE_SAMPLE_H
#define KV_TRACE_SAMPLE_H

#include "sim/core/select.h"
#include "traces/codes.h"
#include "traces/half.h"
#include "traces/trace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLE_WINDOW = 2, SAMPLE_CHANNELS = 8, SAMPLE_LATER = 7 };

static inline uint64_t sample_hash(int channel, int64_t tick, int64_t stream, int64_t i)
{
    uint64_t x = ((uint64_t)channel << 56) ^ ((uint64_t)tick << 40) ^ ((uint64_t)stream << 24) ^ (uint64_t)i;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

static inline float sample_value(const struct kv_trace_about *b, int channel, int64_t tick, int64_t stream, int64_t i)
{
    uint64_t x = sample_hash(channel, tick, stream, i);
    const struct kv_trace_channel *c = &b->channel[channel];
    float value = x % 16 == 0 ? 0 : exp2f(-(float)(x >> 40 & 4095) / 256);
    if (c->what == KV_WINDOW_LOGITS)
        return x % 16 == 0 ? -INFINITY : 4 - 8 * value;
    return c->what > KV_VALUE_NORM ? value - 0.5f : value;
}

/* Every kind of encoding; `closed`: lanes that lose entries, and ragged rows. */
static inline void sample_about(struct kv_trace_about *b, int64_t n_prompt, int64_t n_output, bool closed,
                                struct kv_arena *a)
{
    static const struct {
        enum kv_channel what;
        const char *name;
        bool query;
        enum kv_encoding encoding;
    } channels[SAMPLE_CHANNELS] = {
        {KV_WINDOW_SEEN, "window_seen", false, KV_ENC_LOG12},  {KV_WINDOW_LOCAL, "window_local", true, KV_ENC_F32},
        {KV_KEY_NORM, "key_norm", false, KV_ENC_CODE},         {KV_KEYS, "keys", false, KV_ENC_F16},
        {KV_WINDOW_LOGITS, "window_logits", true, KV_ENC_F32}, {KV_LAST_ROW, "last_row", false, KV_ENC_LOG12},
        {KV_COLUMN_SUM, "column_sum", true, KV_ENC_F32},       {KV_LATER_SUM, "later_sum", false, KV_ENC_LOG12},
    };
    static struct kv_mark marks[2] = {{"first needle", 0, 1}, {"second", 1, 3}};
    *b = (struct kv_trace_about){.producer = "test",
                                 .model = "tiny",
                                 .layers = 2,
                                 .q_heads = 4,
                                 .kv_heads = 2,
                                 .head_dim = 4,
                                 .n_prompt = n_prompt,
                                 .n_output = n_output,
                                 .prefill = n_prompt,
                                 .policy = closed ? "snapkv" : "full",
                                 .has_kept = closed,
                                 .n_channels = SAMPLE_CHANNELS,
                                 .n_marks = 2,
                                 .mark = marks};
    b->channel = KV_NEW_N(a, struct kv_trace_channel, SAMPLE_CHANNELS);
    for (int i = 0; i < SAMPLE_CHANNELS; i++) {
        struct kv_trace_channel *c = &b->channel[i];
        *c = (struct kv_trace_channel){.what = channels[i].what,
                                       .name = channels[i].name,
                                       .query_heads = channels[i].query,
                                       .encoding = channels[i].encoding,
                                       .steps_per_octave = i == SAMPLE_LATER ? 128 : 64,
                                       .precision = "bf16",
                                       .under = b->policy};
        c->reduce = kv_channels[c->what].attention && !c->query_heads ? KV_REDUCE_SUM : KV_REDUCE_NONE;
        c->window = kv_channels[c->what].window ? SAMPLE_WINDOW : 0;
        c->rows = c->what == KV_WINDOW_LOGITS ? SAMPLE_WINDOW : 1;
        c->elements = c->what == KV_KEYS ? b->head_dim : 1;
        c->streams = b->layers * (c->query_heads ? b->q_heads : b->kv_heads) * c->rows;
        c->ragged = closed && c->what == KV_COLUMN_SUM;
    }
}

/* Which positions a lane holds at a tick, and keeps after it: some of the older ones, and the new ones. */
static inline int64_t sample_lane(int64_t tick, int64_t lane, int64_t begin, int64_t end, bool kept, int32_t *out)
{
    int64_t n = 0;
    for (int64_t i = 0; i < end; i++)
        if (sample_hash(kept ? 200 : 201, tick, lane, i) % 3 || (!kept && i >= begin))
            out[n++] = (int32_t)i;
    return n;
}

static inline int64_t sample_length(const struct kv_trace_about *b, int channel, const struct kv_tick *tick)
{
    const struct kv_trace_channel *c = &b->channel[channel];
    return (kv_channels[c->what].span == KV_SPAN_SEEN ? tick->end : tick->end - tick->begin) * c->elements;
}

static inline bool sample_recorded(int channel, int64_t tick)
{
    return channel != SAMPLE_LATER && (channel != 2 || tick % 2 == 0);
}

/* All rows of a channel at a tick; by malloc. Ragged ones are as long as their lanes. */
static inline float *sample_rows(const struct kv_trace_about *b, int channel, const struct kv_tick *tick, int64_t t,
                                 const int64_t *lane_length)
{
    const struct kv_trace_channel *c = &b->channel[channel];
    int64_t n = sample_length(b, channel, tick), place = 0;
    float *rows = malloc((size_t)(n * c->streams + KV_SLACK) * sizeof *rows);
    for (int64_t s = 0; s < c->streams; s++) {
        int64_t length = c->ragged ? lane_length[s * b->kv_heads / b->q_heads] : n;
        for (int64_t i = 0; i < length; i++)
            rows[place++] = sample_value(b, channel, t, s, i);
    }
    return rows;
}

/* What must be read of a row of n numbers: what the encoding makes of them. */
static inline void sample_expected(const struct kv_trace_about *b, int channel, int64_t t, int64_t stream, int64_t n,
                                   float *out)
{
    const struct kv_trace_channel *c = &b->channel[channel];
    for (int64_t i = 0; i < n; i++)
        out[i] = sample_value(b, channel, t, stream, i);
    if (c->encoding == KV_ENC_F16)
        for (int64_t i = 0; i < n; i++)
            out[i] = kv_half_to_float(kv_half_from_float(out[i]));
    if (c->encoding <= KV_ENC_CODE) {
        struct kv_row_facts facts;
        int64_t bad;
        uint16_t *code = malloc((size_t)(n + KV_SLACK) * sizeof *code);
        KV_ASSERT(kv_codes_encode(out, n, c->steps_per_octave, code, &facts, &bad));
        kv_codes_decode(code, n, c->steps_per_octave, facts.max, out);
        free(code);
    }
}

static inline bool sample_put_lanes(struct kv_trace_writer *w, const struct kv_trace_about *b,
                                    const struct kv_tick *tick, int64_t t, bool kept, int64_t *length, struct kv_err *e)
{
    int64_t lanes = b->layers * b->kv_heads, total = 0;
    int32_t *position = malloc((size_t)(lanes * tick->end) * sizeof *position);
    for (int64_t i = 0; i < lanes; i++)
        total += length[i] = sample_lane(t, i, tick->begin, tick->end, kept, position + total);
    bool good = kept ? kv_trace_put_kept(w, length, position, e) : kv_trace_put_slots(w, length, position, e);
    free(position);
    return good;
}

static inline bool sample_put_tick(struct kv_trace_writer *w, const struct kv_trace_about *b,
                                   const struct kv_tick *tick, int64_t t, struct kv_err *e)
{
    int64_t length[64], kept[64];
    bool good = kv_trace_tick(w, tick, e) && (!b->has_kept || sample_put_lanes(w, b, tick, t, false, length, e));
    for (int c = 0; good && c < b->n_channels; c++)
        if (sample_recorded(c, t)) {
            float *rows = sample_rows(b, c, tick, t, length);
            good = kv_trace_put(w, c, rows, e);
            free(rows);
        }
    return good && (!b->has_kept || sample_put_lanes(w, b, tick, t, true, kept, e)) && kv_trace_commit(w, e);
}

/* Ticks of `step` tokens each. */
static inline struct kv_tick sample_tick(const struct kv_trace_about *b, int64_t t, int64_t step)
{
    int64_t begin = t * step, end = begin + step;
    return (struct kv_tick){
        begin < b->prefill ? KV_TICK_PREFILL : KV_TICK_DECODE, begin, end, 0, 10 * t, 10 * t + 5, 100 * end};
}

static inline bool sample_put_later(struct kv_trace_writer *w, const struct kv_trace_about *b, int64_t t, int64_t step,
                                    struct kv_err *e)
{
    struct kv_tick tick = sample_tick(b, t, step);
    float *rows = sample_rows(b, SAMPLE_LATER, &tick, t, NULL);
    bool good = kv_trace_put_later(w, SAMPLE_LATER, t, rows, e);
    free(rows);
    return good;
}

static inline bool sample_put_end(struct kv_trace_writer *w, const struct kv_trace_about *b, int64_t step,
                                  int64_t n_ticks, struct kv_err *e)
{
    int64_t n = b->n_prompt + b->n_output;
    int32_t *ids = malloc((size_t)n * sizeof *ids);
    float *lp = malloc((size_t)(b->n_output + 1) * sizeof *lp);
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)(i * 7);
    for (int64_t i = 0; i < b->n_output; i++)
        lp[i] = -(float)i;
    bool good = kv_trace_put_ids(w, ids, n, e) && kv_trace_put_log_probability(w, lp, b->n_output, e);
    for (int64_t t = 0; good && t < n_ticks; t++)
        good = sample_put_later(w, b, t, step, e);
    free(ids);
    free(lp);
    return good;
}

/* The whole: n_ticks of `step` tokens. */
static inline bool sample_write(const char *path, bool closed, int64_t n_ticks, int64_t step, enum kv_filter filter,
                                struct kv_arena *a, struct kv_err *e)
{
    struct kv_trace_about b;
    struct kv_trace_writer *w;
    sample_about(&b, n_ticks * step - 1, 2, closed, a);
    bool good = kv_trace_create(&w, path, &b, filter, 2, e);
    for (int64_t t = 0; good && t < n_ticks; t++) {
        struct kv_tick tick = sample_tick(&b, t, step);
        good = sample_put_tick(w, &b, &tick, t, e);
    }
    return good && sample_put_end(w, &b, step, n_ticks, e) && kv_trace_finish(w, e);
}

/* Whether every row of the trace is what was written, bit for bit; false with the place, or what the reader says. */
static inline bool sample_check(const char *path, int64_t at_least, struct kv_arena *a, struct kv_err *e)
{
    struct kv_trace *t;
    struct kv_trace_about b, s;
    if (!kv_trace_open(&t, path, &b, a, e))
        return false;
    sample_about(&s, b.n_prompt, b.n_output, strcmp(b.policy, "full"), a);
    struct kv_trace_work *w = kv_trace_work_open(t, e);
    bool good = b.n_ticks >= at_least || kv_fail(e, KV_NO, "%d ticks", (int)b.n_ticks);
    for (int c = 0; good && c < b.n_channels; c++) {
        int own = 0;
        while (strcmp(s.channel[own].name, b.channel[c].name))
            own++;
        for (int64_t i = 0; good && i < b.n_ticks; i++) {
            if (own != SAMPLE_LATER && b.channel[c].at[i] != sample_recorded(own, i))
                good = kv_fail(e, KV_NO, "channel %s, tick %d", b.channel[c].name, (int)i);
            for (int64_t r = 0; good && b.channel[c].at[i] && r < b.channel[c].streams; r++) {
                int64_t n = kv_trace_row_length(t, c, i, r) * b.channel[c].elements;
                float *read = malloc((size_t)(n + KV_SLACK) * 8), *expected = read + n + KV_SLACK;
                sample_expected(&s, own, i, r, n, expected);
                good = kv_trace_row(t, c, i, r, read, w, e) &&
                       (!memcmp(read, expected, (size_t)n * 4) ||
                        kv_fail(e, KV_NO, "channel %s, tick %d, row %d", b.channel[c].name, (int)i, (int)r));
                free(read);
            }
        }
    }
    kv_trace_work_close(w);
    kv_trace_close(t);
    return good;
}

#endif
