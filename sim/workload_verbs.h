/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Verbs of `kvsim workload`, and what they share. */
#ifndef KV_WORKLOAD_VERBS_H
#define KV_WORKLOAD_VERBS_H

#include "sim/cli.h"
#include "sim/workload/workload.h"

/* Opens the workload of a file of requests, of a config ("*.ini"), or of options alone (operand NULL), with the options
 * over it. *times: requests have arrivals; a file of lengths alone is opened all the same. Close it even then. */
bool kv_workload_of_args(const struct kv_args *args, const char *operand, struct kv_settings *s, struct kv_workload **w,
                         bool *times, struct kv_arena *a, struct kv_err *e);

bool kv_workload_verb_info(const struct kv_args *args, struct kv_arena *a, struct kv_err *e);
bool kv_workload_verb_convert(const struct kv_args *args, struct kv_arena *a, struct kv_err *e);
bool kv_workload_verb_synth(const struct kv_args *args, struct kv_arena *a, struct kv_err *e);

#endif
