/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Head masks: which lanes are full and which hold sinks and recents only. Both published forms are read: DuoAttention's
 * `full_attention_heads.tsv` (a gate of about 0..1 per layer and KV head) and PruLong's `masks*.tsv` (0 or 1). */
#ifndef KV_MASK_H
#define KV_MASK_H

#include "sim/core/arena.h"

#include <stdint.h>

struct kv_mask {
    const char *path; /* the file itself, where a folder was given */
    int64_t layers, heads;
    double *gate; /* (layers, heads) as in the file, clipped to 0..1 */
    bool binary;  /* every gate is 0 or 1 */
};

/* PATH is the TSV, or a folder holding full_attention_heads.tsv or masks.tsv. The shape must be layers x heads; q_heads
 * only serves to explain a query-head file. KV_DATA with file:line:col. */
bool kv_mask_read(const char *path, int64_t layers, int64_t heads, int64_t q_heads, struct kv_mask *mask,
                  struct kv_arena *a, struct kv_err *e);

/* Marks full heads. quantile: as many as DuoAttention's loader makes full at this sparsity, M - ceil(sparsity x (M-1))
 * of M, highest gate first; equal gates, which upstream orders by random noise, by lower layer, then lower head; `ties`
 * counts the full heads that such a choice decided. threshold: gate > threshold. */
void kv_mask_by_quantile(const struct kv_mask *mask, double sparsity, bool *full, int64_t *ties, struct kv_arena *a);
void kv_mask_by_threshold(const struct kv_mask *mask, double threshold, bool *full);

/* As many full heads as by quantile, spread evenly over the layers: for counts when no mask is at hand. */
void kv_mask_synthetic(int64_t layers, int64_t heads, double sparsity, bool *full);

#endif
