/* SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef KV_BATCH_H
#define KV_BATCH_H

#include "sim/core/arena.h"

#include <stdio.h>

/* Reads cases from a CSV, one a row, and writes each row again with `kv_footprint,kv_peak` behind it, as the paper's
 * authors compute them (sim/core/paper.h); no model is needed. Columns by name: prompt_len, response_len,
 * prefill_chunk_size, and sink_tokens, local_window_size, kv_sparsity, head_sparsity, or locret_sparsity,
 * locret_local_len, locret_stabilizers. Columns kv_footprint and kv_peak of the input are replaced. Every bad row is
 * said (KV_DATA), and then nothing is written. */
bool kv_batch(const char *path, FILE *out, struct kv_arena *a, struct kv_err *e);

#endif
