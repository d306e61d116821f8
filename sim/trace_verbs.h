/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The parts of `kvsim trace`, a file each. */
#ifndef KV_TRACE_VERBS_H
#define KV_TRACE_VERBS_H

#include "sim/cli.h"
#include "traces/trace.h"

bool kv_trace_verb_info(const struct kv_args *args, struct kv_arena *a, struct kv_err *e);
bool kv_trace_verb_check(const struct kv_args *args, struct kv_arena *a, struct kv_err *e);
bool kv_trace_verb_head(const struct kv_args *args, struct kv_arena *a, struct kv_err *e);
bool kv_trace_verb_repack(const struct kv_args *args, struct kv_arena *a, struct kv_err *e);
bool kv_trace_verb_recover(const struct kv_args *args, struct kv_arena *a, struct kv_err *e);
bool kv_trace_verb_synth(const struct kv_args *args, struct kv_arena *a, struct kv_err *e);

/* A file that is to be made: not there, nor half of it, or --force is given. */
bool kv_trace_may_write(const struct kv_args *args, const char *path, struct kv_arena *a, struct kv_err *e);
/* -j: as many threads as cores, where it is not given. */
bool kv_trace_threads(const struct kv_args *args, int *threads, struct kv_arena *a, struct kv_err *e);
/* --filter and --encoding; left alone where they are not given. */
bool kv_trace_storage(const struct kv_args *args, enum kv_filter *filter, int *encoding, struct kv_arena *a,
                      struct kv_err *e);

/* A kind of policy, the SPEC with which the trace was asked to replay it, and why it cannot: NULL when it can. Of a
 * closed loop: the one policy that was on. */
struct kv_trace_kind {
    const char *kind, *spec, *why;
};
bool kv_trace_kinds(const char *path, struct kv_trace_kind **kind, int *n, struct kv_arena *a, struct kv_err *e);

#endif
