/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The measured layers of timing_layers.c, open for tests of how far off their interpolation is. */
#ifndef KV_LAYERS_H
#define KV_LAYERS_H

#include "sim/serve/ragged.h"
#include "sim/serve/timing_kind.h"

struct kv_skew {
    int n;
    double *decodes, *alpha; /* (n,) ascending */
};

/* Microseconds of one call for one layer. */
struct kv_layer_attention {
    struct kv_ragged prefill, decode, mixed; /* (chunk, prefix), (decodes, length), all four */
    struct kv_skew skew[2];                  /* of decodes alone, and beside a chunk */
};

struct kv_layer_attention kv_layer_attention_empty(void);
bool kv_layer_attention_build(struct kv_layer_attention *t, const char *path, struct kv_arena *a, struct kv_err *e);
double kv_layer_attention_us(const struct kv_layer_attention *t, double chunk, double prefix, double n, double kv,
                             double deviation, double *outside);
/* Fits the skew to the rows of PATH, leaving out lines with line % folds == fold (folds = 0: none). */
bool kv_layer_skew_read(struct kv_layer_attention *t, const char *path, int fold, int folds, struct kv_arena *a,
                        struct kv_err *e);

#endif
