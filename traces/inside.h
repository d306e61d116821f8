/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What the parts of the trace reader share. Private to traces/. */
#ifndef KV_TRACE_INSIDE_H
#define KV_TRACE_INSIDE_H

#include "traces/index.h"
#include "traces/trace.h"

#include <pthread.h>

enum {
    KV_TRACE_MOST_CHANNELS = 256,
    KV_TRACE_MOST_TICKS = 1 << 24,
    KV_TRACE_MOST_STREAMS = 1 << 26,
    KV_TRACE_MOST_WINDOW = 1 << 20,
    KV_TRACE_MOST_TOKENS = 1 << 30
};

/* Lengths of what lies one behind another: `n` items, item i is [begin[i], begin[i + 1]). */
struct kv_lengths {
    int64_t n, *begin;
    int32_t group; /* where they were read */
};

/* Rows of a channel: what is known of each tick. */
struct kv_rows {
    bool *at;                  /* (ticks,) */
    int32_t *group;            /* (ticks,) node of the index */
    struct kv_lengths *ragged; /* (ticks,) or NULL */
    int64_t sum_tick;          /* of the sums held, -1: none */
    double *sum;               /* (streams,) or NULL: not stored */
};

struct kv_trace {
    const char *path;
    struct kv_arena *own;
    int file;
    struct kv_index index;
    struct kv_trace_about about;
    struct kv_rows *rows;            /* (channels,) */
    struct kv_lengths *slots, *kept; /* (ticks,), n = 0: not there; or NULL */
    pthread_mutex_t lock;            /* of the sums */
};

/* Shape of a channel's rows at a tick. */
int64_t kv_trace_positions(const struct kv_tick *tick, const struct kv_trace_channel *c);
bool kv_trace_nonnegative(enum kv_channel what);
int64_t kv_trace_lanes(const struct kv_trace_about *about);
/* The group of a tick, "t00012"; whether a name looks like one. */
const char *kv_tick_name(int64_t tick, char text[24]);
bool kv_is_tick_name(const char *name);
/* The kind of channel a group is for: its name up to a dot; -1: none we know. */
int kv_trace_kind_of(const char *name);

/* A process of its own reads the file with the HDF5 library, and says what is in it: the index, by malloc. */
bool kv_trace_probe(int file, int64_t file_bytes, const char *path, void **index, size_t *size, struct kv_err *e);
/* A trace from its file, which is closed with it or when this fails, and an index that anyone may have made. */
bool kv_trace_take(struct kv_trace **t, const char *path, int file, int64_t file_bytes, void *index, size_t size,
                   struct kv_trace_about *about, struct kv_arena *a, struct kv_err *e);
/* Fills in what is not rows, and checks that rows have the shape they must have. */
bool kv_trace_walk(struct kv_trace *t, struct kv_err *e);
/* Which form a tick's rows have, and whether its datasets have the shape they must have. */
bool kv_rows_check(const struct kv_trace *t, int channel, int64_t tick, enum kv_encoding *encoding, struct kv_err *e);

/* ---- rows as they are stored, for copying ---- */

struct kv_raw_row {
    const uint16_t *code; /* NULL: floats */
    float max;
    double sum; /* NaN: not stored */
};

/* As kv_trace_row, but coded rows stay codes: r->code is a view into the work, and `out` is untouched. */
bool kv_trace_row_raw(struct kv_trace *t, int channel, int64_t tick, int64_t stream, float *out, struct kv_raw_row *r,
                      struct kv_trace_work *w, struct kv_err *e);

#endif
