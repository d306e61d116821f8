/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The truth that backends are tested against: the same model in double precision, dense, one sequence, no pages, no
 * cleverness. What was evicted is a mask: a query does not see positions that its pass no longer held. */
#ifndef KV_REFERENCE_H
#define KV_REFERENCE_H

#include "engine/weights.h"

struct kv_reference;

/* Weights are read into doubles: small models only. KV_ENV. */
bool kv_reference_open(struct kv_reference **r, const struct kv_weights *w, struct kv_err *e);
void kv_reference_close(struct kv_reference *r);

/* A pass over `n` tokens at positions seen .. seen+n-1, with `n_patch` patch tokens behind them, which leave
 * nothing. Keys and values of earlier passes are those this object made. `held`: NULL, or for each (layer, kv head)
 * which of the `seen` earlier positions the lane still holds, a byte each, at [(layer x kv_heads + head) x seen +
 * position]. Logits of the last `n_logits` of the n tokens go to logits (n_logits, vocab) (NULL: none). KV_DATA: a
 * token outside the vocabulary, nothing was done; KV_ENV. */
bool kv_reference_pass(struct kv_reference *r, const int32_t *tokens, int64_t n, int64_t n_patch, const uint8_t *held,
                       double *logits, int64_t n_logits, struct kv_err *e);

/* Attention weights of the last pass: of query i (of n + n_patch) of a query head, over all positions and the patch
 * behind them: out (seen + n + n_patch,); those masked are 0. */
void kv_reference_attention(const struct kv_reference *r, int64_t layer, int64_t q_head, int64_t i, double *out);

/* The key after RoPE, and the value, of a position: (head_dim,) views. */
const double *kv_reference_key(const struct kv_reference *r, int64_t layer, int64_t kv_head, int64_t position);
const double *kv_reference_value(const struct kv_reference *r, int64_t layer, int64_t kv_head, int64_t position);

/* Starts again at token 0. */
void kv_reference_reset(struct kv_reference *r);

#endif
