/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What the kinds of timing share: each gives the seconds of a step's terms, timing.c makes the answer of them. */
#ifndef KV_TIMING_KIND_H
#define KV_TIMING_KIND_H

#include "sim/serve/timing.h"

/* Seconds of a step's terms. `outside` is there as 1 when a kind is asked. */
struct kv_step_cost {
    double sum;             /* of the three below, in the order of operations the kind prescribes */
    double prefill, decode; /* attention of the chunks, and of the decodes */
    double shared;          /* what all tokens go through together */
    double evict;           /* less than 0: the kind has no figure of its own */
    double outside;
};

enum { KV_TIMING_FILES = 64 };

struct kv_timing {
    void (*cost)(const struct kv_timing *t, const struct kv_step *step, struct kv_step_cost *out);
    bool (*linear)(const struct kv_timing *t, int64_t decodes, double *base, double *slope); /* NULL: never */
    const void *own; /* the kind's tables or coefficients */
    const struct kv_settings *settings;
    bool strict;            /* on_missing = error */
    double overhead;        /* seconds a step */
    double move_s_per_byte; /* of device memory; NaN: the hardware does not say */
    double link_s_per_byte;
    const char *stamp;
    const char *file[KV_TIMING_FILES + 1];
    int n_files;
    struct kv_arena *arena;
};

/* Notes a file that is read, for provenance. */
void kv_timing_reads(struct kv_timing *t, const char *path);

/* [timing] of a config, for messages. */
const char *kv_timing_where(const struct kv_timing *t);

/* Each fills cost, linear, own, stamp and file. KV_USAGE, KV_DATA. */
bool kv_timing_open_roofline(struct kv_timing *t, const struct kv_model *m, struct kv_err *e);
bool kv_timing_open_step_time(struct kv_timing *t, const struct kv_model *m, const char *folder, struct kv_err *e);
bool kv_timing_open_layers(struct kv_timing *t, const struct kv_model *m, const char *folder, struct kv_err *e);

#endif
