/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Writes a trace of a live sequence as it runs: a tick for each prefill pass and for every N decoded tokens. */
#ifndef KV_RECORDER_H
#define KV_RECORDER_H

#include "engine/live.h"
#include "traces/trace.h"

struct kv_recorder_asked {
    unsigned channels; /* KV_BIT; later_sum is made of column sums at the end; keys and values may be asked for */
    bool query_rows;
    int64_t window;      /* of window sums */
    int64_t decode_tick; /* tokens */
    enum kv_encoding encoding;
    enum kv_filter filter;
    const char *model, *item;
    const struct kv_mark *mark;
    int n_marks;
};

struct kv_recorder;

/* A trace of `l`, which must have run no pass; it is watched from here on. With a policy that evicts, what it was fed
 * with (f32), the slots and the kept sets of each pass are recorded: a closed loop. KV_ENV. */
bool kv_recorder_open(struct kv_recorder **r, const char *path, const struct kv_recorder_asked *asked,
                      struct kv_live *l, struct kv_arena *a, struct kv_err *e);

/* Bytes that the file will have, about, and numbers that must be made. */
int64_t kv_recorder_bytes(const struct kv_recorder_asked *asked, const struct kv_live *l, int64_t chunk,
                          int64_t output);

/* log-probability of each generated token, in order, as it is chosen. */
void kv_recorder_chose(struct kv_recorder *r, int32_t token, double log_probability);

/* Closes the file under its name; or leaves the .part with what was committed. The recorder is gone. */
bool kv_recorder_finish(struct kv_recorder *r, struct kv_err *e);
void kv_recorder_abandon(struct kv_recorder *r);

#endif
