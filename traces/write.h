/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What the parts of the trace writer share. Private to traces/. */
#ifndef KV_TRACE_WRITE_H
#define KV_TRACE_WRITE_H

#include "traces/codes.h"
#include "traces/h5.h"
#include "traces/inside.h"
#include "traces/pack.h"

struct kv_trace_writer {
    struct kv_arena *own;
    const char *path, *part;
    const struct kv_trace_about *about;
    enum kv_filter filter;
    int threads;
    hid_t file, ticks, channels, slots, kept;
    hid_t *channel;       /* (channels,) groups */
    struct kv_tick *tick; /* (room,) */
    int64_t n_ticks, room, n_output;
    bool in_tick, complete;
    bool *put;        /* (channels,) in this tick */
    int64_t *lengths; /* (lanes,) of this tick's slots */
    bool has_slots, has_kept;
};

/* Where rows to be written come from. */
struct kv_row_source {
    const float *rows; /* one behind another; NULL: rows of a trace */
    struct kv_trace *from;
    int channel;
};

/* As kv_trace_create, with a name for the unfinished file and a word on what it will say of itself in the end. */
bool kv_writer_create(struct kv_trace_writer **w, const char *path, const char *part, bool complete,
                      const struct kv_trace_about *about, enum kv_filter filter, int threads, struct kv_err *e);
/* Rows of a channel at a tick, this one or an earlier one. */
bool kv_writer_put(struct kv_trace_writer *w, int channel, int64_t tick, const struct kv_row_source *source,
                   struct kv_err *e);
/* "cannot write 'PATH': why", KV_ENV; after a call of the library failed. */
bool kv_writer_failed(const struct kv_trace_writer *w, struct kv_err *e);

#endif
