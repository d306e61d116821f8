/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Traces that nobody recorded: attention of four kinds of heads, made from numbers alone, for benchmarks and tests.
 *
 * What a row holds is a pure function of (seed, layer, head, tick, channel, position): any order of making it gives the
 * same bits. Channels of a lane agree with each other: its sinks, its recency law and the importance of each position
 * last for the whole request, and each row adds noise of its own. */
#ifndef KV_SYNTH_H
#define KV_SYNTH_H

#include "traces/trace.h"

/* Ranges of heads as they were measured on trained models:
 * sink: 60 .. 98 % of the mass on the first four tokens; recency: a power law of exponent 0.8 .. 1.5; retrieval: few
 * positions hold most of it, deviation of the logarithms 2 .. 3.2, and narrow spikes; diffuse: deviation 0.4 .. 1.1. */
enum kv_head_kind { KV_HEAD_SINK, KV_HEAD_RECENCY, KV_HEAD_RETRIEVAL, KV_HEAD_DIFFUSE, KV_HEAD_KINDS };
extern const char *const kv_head_kind_names[]; /* "sink", ..., NULL */

struct kv_synth_asked {
    const char *model;
    int64_t layers, q_heads, kv_heads, head_dim;
    int64_t n_prompt, n_output;
    int64_t chunk, decode_tick; /* tokens of a prefill tick, of a decode tick */
    int64_t tail;               /* of the prompt, prefilled last and alone; 0: none */
    int64_t window;
    int64_t patch;     /* last prompt tokens appended to each chunk but the last; 0: none */
    unsigned channels; /* 1 << enum kv_channel; score channels only */
    bool query_heads;  /* attention has rows for query heads */
    enum kv_encoding encoding;
    int n_needles;
    const struct kv_mark *needle;
    uint64_t seed;
};

/* Tokens that are fed: the last output token never is. Rows of a channel, asked for or not. What the trace file says of
 * itself: ticks and channels, in the order of enum kv_channel. */
int64_t kv_synth_tokens(const struct kv_synth_asked *asked);
int64_t kv_synth_streams(const struct kv_synth_asked *asked, enum kv_channel what);
void kv_synth_describe(const struct kv_synth_asked *asked, struct kv_trace_about *about, struct kv_arena *a);

/* Which tick and channel rows are made for, and what all lanes share there. */
struct kv_synth_shape {
    int channel;
    int64_t tick;
    int64_t first, end; /* keys of a row: [first, end) */
    double queries;     /* whose attention is summed */
    double mean_causal; /* of the tick's own keys */
    float *causal;      /* (end,) share of the queries that see a key */
    float **recency;    /* (exponents)(end,), each with sum 1 */
    double *reach;      /* (exponents,) share of recency mass that goes to keys of the row */
    double content_reach;
};

struct kv_synth;

/* Tables of one synthesis; threads make its factors. KV_ENV: no memory. `s` lives in the arena. */
struct kv_synth *kv_synth_open(const struct kv_synth_asked *asked, int threads, struct kv_arena *a, struct kv_err *e);

const struct kv_synth_asked *kv_synth_what(const struct kv_synth *s);
const struct kv_trace_about *kv_synth_about(const struct kv_synth *s);
enum kv_head_kind kv_synth_kind(const struct kv_synth *s, int64_t layer, int64_t head); /* of a KV head */

/* The shape has room for one channel at one tick; turning it is for one thread, then any may make rows. */
bool kv_synth_shape_open(const struct kv_synth *s, struct kv_synth_shape *shape, struct kv_err *e);
void kv_synth_shape_close(struct kv_synth_shape *shape);
/* `what` need not be a channel that was asked for. */
void kv_synth_turn(const struct kv_synth *s, struct kv_synth_shape *shape, enum kv_channel what, int64_t tick);
/* Row of a stream: shape->end - shape->first numbers. */
void kv_synth_row(const struct kv_synth *s, const struct kv_synth_shape *shape, int64_t stream, float *out);

/* Heads of one kind at the last prefill tick: means over lanes, and their range. */
struct kv_synth_facts {
    int64_t lanes;
    double entropy, entropy_least, entropy_most; /* bits, of window_seen's rows */
    double top, top_least, top_most;             /* share of the mass on the top tenth of positions */
    double sinks;                                /* share on the first four */
    double overlap; /* of the 30 % chosen by window_seen, and as many by what later queries look at; NaN: none are */
};
bool kv_synth_facts(const struct kv_synth *s, int threads, struct kv_synth_facts facts[KV_HEAD_KINDS],
                    struct kv_arena *a, struct kv_err *e);

/* Writes all of it. */
bool kv_synth_write(const struct kv_synth *s, const char *path, enum kv_filter filter, int threads, bool quiet,
                    struct kv_arena *a, struct kv_err *e);

#endif
