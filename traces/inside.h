/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What the parts of the trace reader share. Private to traces/. */
#ifndef KV_TRACE_INSIDE_H
#define KV_TRACE_INSIDE_H

#include "traces/codes.h"
#include "traces/h5.h"
#include "traces/pack.h"
#include "traces/trace.h"

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
};

/* Rows of a channel: what is known of each tick. */
struct kv_rows {
    bool *at;                  /* (ticks,) */
    struct kv_lengths *ragged; /* (ticks,) or NULL */
    int64_t sum_tick;          /* of the sums held, -1: none */
    double *sum;               /* (streams,) or NULL: not stored */
};

struct kv_trace {
    struct kv_place root;
    struct kv_arena *own;
    int file; /* for reads that go past the HDF5 library */
    struct kv_trace_about about;
    struct kv_rows *rows;            /* (channels,) */
    struct kv_lengths *slots, *kept; /* (ticks,), n = 0: not there; or NULL */
};

/* Shape of a channel's rows at a tick. */
int64_t kv_trace_positions(const struct kv_tick *tick, const struct kv_trace_channel *c);
bool kv_trace_nonnegative(enum kv_channel what);
int64_t kv_trace_lanes(const struct kv_trace_about *about);
/* The group of a tick, "t00012", below `up`. */
const char *kv_tick_name(int64_t tick, char text[24]);

/* Opens the trace and reads what is not rows. `deep`: also looks at the datasets of all rows, chunk by chunk. */
bool kv_trace_walk(struct kv_trace *t, const char *path, bool deep, struct kv_err *e);
/* Which form a tick's rows have, and whether its datasets have the shape they must have. */
bool kv_rows_check(const struct kv_trace *t, int channel, int64_t tick, enum kv_encoding *encoding, bool deep,
                   struct kv_err *e);

/* Runs kv_trace_walk, deep, in a process of its own: a file that makes the HDF5 library crash or loop is refused. */
bool kv_trace_probe(const char *path, struct kv_err *e);

/* ---- rows of one dataset ---- */

struct kv_plane {
    struct kv_dataset set;
    hid_t type;  /* of numbers in memory; owned */
    size_t item; /* bytes of one */
    int64_t rows, columns;
    enum { KV_PLANE_FLAT, KV_PLANE_CHUNKS, KV_PLANE_OTHER } how;
    int64_t offset; /* flat: in the file */
    int64_t band;   /* rows read at a time */
    int n_filters;
    enum { KV_STEP_ZSTD, KV_STEP_GZIP, KV_STEP_CHECKSUM } filter[3];
    int64_t held, n_held; /* the rows in `buffer` */
    uint8_t *buffer, *packed;
    size_t room, packed_room; /* of the buffers, which outlive kv_plane_close */
};

/* Rank 2, (rows, columns); or rank 1, one row of `columns`. Under kv_h5_lock. Takes `type`. */
bool kv_plane_open(struct kv_plane *p, const struct kv_place *up, const char *name, hid_t type, int rank, int64_t rows,
                   int64_t columns, struct kv_err *e);
void kv_plane_close(struct kv_plane *p); /* under kv_h5_lock */
void kv_plane_free(struct kv_plane *p);
/* A row, until the next call. Takes the lock where it needs it. */
const void *kv_plane_row(struct kv_plane *p, int64_t row, int file, struct kv_packer *packer, struct kv_err *e);
/* Items [begin, begin + n) of a rank 1 plane, into `out`, or of a flat rank 2 plane. */
bool kv_plane_part(struct kv_plane *p, int64_t begin, int64_t n, void *out, int file, struct kv_err *e);

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
