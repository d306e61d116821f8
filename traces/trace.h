/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Trace files: what was recorded of one request's attention. FORMAT.md is the law; HDF5 is the container, and none of
 * it shows here. Nothing read is believed before it is bounded. */
#ifndef KV_TRACE_H
#define KV_TRACE_H

#include "sim/core/arena.h"
#include "sim/core/channel.h"

enum kv_tick_kind { KV_TICK_PREFILL, KV_TICK_PATCHED, KV_TICK_DECODE };

/* One recorded pass, or several passes together (a decode tick of 64 steps), over tokens [begin, end). */
struct kv_tick {
    enum kv_tick_kind kind;
    int64_t begin, end;
    int64_t n_patch;          /* patch tokens behind `end` that left nothing; patched ticks only */
    int64_t start_ns, end_ns; /* -1: not recorded */
    int64_t kv_bytes;         /* KV cache held when it ended; -1: not recorded */
};

enum kv_encoding {
    KV_ENC_LOG12, /* 12-bit logarithms of steps of 1/64 octave below the row's maximum, in two planes */
    KV_ENC_CODE,  /* the same codes, 16 bits each */
    KV_ENC_F32,
    KV_ENC_F16
};
enum kv_filter { KV_FILTER_NONE, KV_FILTER_ZSTD, KV_FILTER_GZIP };
enum kv_reduce { KV_REDUCE_NONE, KV_REDUCE_SUM, KV_REDUCE_MEAN, KV_REDUCE_MAX };
extern const char *const kv_encoding_names[]; /* "log2anch", "code", "f32", "f16", NULL */
extern const char *const kv_filter_names[];   /* "none", "zstd", "gzip", NULL */
extern const char *const kv_reduce_names[];   /* "none", "sum", "mean", "max", NULL */

struct kv_trace_channel {
    enum kv_channel what;
    const char *name;      /* of its group: the channel's, or "NAME.something" for a second one of the same kind */
    bool query_heads;      /* rows for query heads; else for KV heads */
    enum kv_reduce reduce; /* how query heads became one row of a KV head */
    int64_t window;        /* w; 0 where the channel has none */
    int64_t rows;          /* rows of each (layer, head): 1; w for window_logits */
    int64_t elements;      /* numbers of each position: 1; head_dim for keys and values */
    enum kv_encoding encoding;
    int steps_per_octave;  /* of log codes: 32, 64 or 128 */
    const char *precision; /* of the numbers before encoding: "f32", "bf16", "f16" */
    const char *under;     /* "full", or the policy that was on: then rows are ragged (kv_trace_slots) */
    bool ragged;
    int64_t streams; /* layers x heads x rows; row (layer, head, r) is stream (layer x heads + head) x rows + r */
    const bool *at;  /* (ticks,) whether it was recorded there */
};

struct kv_mark {
    const char *name;
    int64_t begin, end; /* tokens [begin, end): a needle */
};

/* NAME=FIRST-LAST, both tokens included, below `tokens`. KV_USAGE. */
bool kv_mark_read(struct kv_mark *m, const char *text, int64_t tokens, struct kv_arena *a, struct kv_err *e);

struct kv_trace_about {
    const char *producer, *producer_version, *created_utc, *uuid;
    bool complete;
    const char *model, *revision, *compute_dtype, *kv_dtype; /* kv_dtype: of cached keys and values */
    int64_t layers, q_heads, kv_heads, head_dim;
    int64_t n_prompt, n_output;
    int64_t prefill;    /* tokens run before the first decode pass */
    const char *policy; /* "full": open loop; else the SPEC that was on: closed loop */
    const char *dataset, *item;
    bool has_ids, has_log_probability, has_kept;
    bool query_lanes; /* closed loop: lanes are query heads; else KV heads */
    int64_t n_ticks;  /* committed */
    struct kv_tick *tick;
    int n_channels;
    struct kv_trace_channel *channel;
    int n_marks;
    struct kv_mark *mark;
};

/* ---- reading ---- */

struct kv_trace;
struct kv_trace_work; /* buffers of one thread */

/* Opens and checks everything but the rows. KV_DATA: no trace, damaged, sizes that do not fit together; KV_ENV. Rows of
 * a file that was not completed can be read up to the last committed pass. The trace lives until kv_trace_close; what
 * `about` points to lives in the arena. */
bool kv_trace_open(struct kv_trace **t, const char *path, struct kv_trace_about *about, struct kv_arena *a,
                   struct kv_err *e);
void kv_trace_close(struct kv_trace *t);

struct kv_trace_work *kv_trace_work_open(const struct kv_trace *t, struct kv_err *e); /* NULL: KV_ENV */
void kv_trace_work_close(struct kv_trace_work *w);

/* How many positions a row has: the tick's tokens, all so far, or, ragged, what the lane held. */
int64_t kv_trace_row_length(const struct kv_trace *t, int channel, int64_t tick, int64_t stream);

/* One row as f32, kv_trace_row_length x elements numbers, KV_SLACK floats of room behind them. Checked against its
 * checksum; KV_DATA when it does not agree, or holds what is no finite number (negative ones are refused for attention
 * and norms). Several threads may read at once, each with its own work. Rows of one tick and channel are read fastest
 * in order of stream. */
bool kv_trace_row(struct kv_trace *t, int channel, int64_t tick, int64_t stream, float *out, struct kv_trace_work *w,
                  struct kv_err *e);

/* The row's exact sum before encoding; NaN where none was stored. */
double kv_trace_row_sum(const struct kv_trace *t, int channel, int64_t tick, int64_t stream);

/* Bytes that a channel's rows, and what stands beside them, take in the file. */
int64_t kv_trace_stored_bytes(const struct kv_trace *t, int channel);

/* Closed loop: positions of the slots of a lane's row, ascending (patch left out), and the positions kept after it.
 * (n,) views into the work, until its next call. */
bool kv_trace_slots(struct kv_trace *t, int64_t tick, int64_t layer, int64_t head, const int32_t **position, int64_t *n,
                    struct kv_trace_work *w, struct kv_err *e);
bool kv_trace_kept(struct kv_trace *t, int64_t tick, int64_t layer, int64_t head, const int32_t **position, int64_t *n,
                   struct kv_trace_work *w, struct kv_err *e);

/* Token ids (n_prompt + n_output), and the log-probability of each output token (n_output); where recorded. */
bool kv_trace_ids(struct kv_trace *t, int32_t *out, struct kv_err *e);
bool kv_trace_log_probability(struct kv_trace *t, float *out, struct kv_err *e);

/* ---- writing ---- */

struct kv_trace_writer;

/* Writes PATH.part; the file gets its name when it is finished. `about` says everything but ticks, marks may be given;
 * channels in the order in which rows come; it must live as long as the writer. Rows are encoded on `threads` threads.
 * KV_ENV. */
bool kv_trace_create(struct kv_trace_writer **w, const char *path, const struct kv_trace_about *about,
                     enum kv_filter filter, int threads, struct kv_err *e);

/* A pass: begin, its rows (each channel at most once), end. After `end` it survives whatever happens to the program;
 * before it, it never was. */
bool kv_trace_tick(struct kv_trace_writer *w, const struct kv_tick *tick, struct kv_err *e);
/* Rows (streams, length x elements), one behind another; ragged channels say each lane's length and positions.
 * KV_DATA: a number that its encoding or kind cannot have. */
bool kv_trace_put(struct kv_trace_writer *w, int channel, const float *rows, struct kv_err *e);
/* Closed loop: (layers x heads,) lengths and ascending positions, lane after lane: slots before ragged rows are put,
 * kept when the pass has evicted. */
bool kv_trace_put_slots(struct kv_trace_writer *w, const int64_t *length, const int32_t *position, struct kv_err *e);
bool kv_trace_put_kept(struct kv_trace_writer *w, const int64_t *length, const int32_t *position, struct kv_err *e);
bool kv_trace_commit(struct kv_trace_writer *w, struct kv_err *e);

/* What is known at the end only. Before kv_trace_finish. `n` is n_prompt + n_output, or fewer when the
 * generation ended early: then n_output becomes what it was. Log-probabilities after the ids. A later_sum row belongs
 * to a tick committed before. */
bool kv_trace_put_ids(struct kv_trace_writer *w, const int32_t *ids, int64_t n, struct kv_err *e);
bool kv_trace_put_log_probability(struct kv_trace_writer *w, const float *lp, int64_t n, struct kv_err *e);
bool kv_trace_put_later(struct kv_trace_writer *w, int channel, int64_t tick, const float *rows, struct kv_err *e);

/* Marks it complete, syncs, renames. Either way the writer is gone. */
bool kv_trace_finish(struct kv_trace_writer *w, struct kv_err *e);
void kv_trace_abandon(struct kv_trace_writer *w); /* the .part stays, for `recover` */

/* Copies committed passes into a new file: another filter or encoding, or out of a .part. `encoding` < 0: as it is.
 * A path's own .part is used again. KV_DATA, KV_ENV. */
bool kv_trace_copy(const char *from, const char *to, enum kv_filter filter, int encoding, struct kv_arena *a,
                   struct kv_err *e);

#endif
