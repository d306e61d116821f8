/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The matrix products of a step, y[m,n] = x[m,k] w[k,n], and what attention reads and computes, from a model's shape.
 */
#ifndef KV_GEMMS_H
#define KV_GEMMS_H

#include "sim/core/store.h"

enum kv_gemm_rows { KV_GEMM_TOKENS, KV_GEMM_SEQUENCES, KV_GEMM_EXPERTS }; /* EXPERTS: each one's share of the tokens */

struct kv_gemm {
    const char *name;
    int64_t n, k;
    double times; /* in a step; EXPERTS: layers */
    enum kv_gemm_rows rows;
};

enum { KV_GEMMS = 16 };

struct kv_gemms {
    struct kv_gemm gemm[KV_GEMMS];
    int n;
    double weight_bytes;    /* of one weight, on average */
    double experts, chosen; /* of a layer; 0: dense */
    double kv_bytes;        /* of one token's entries over all layers */
    double pair_flops;      /* of one query and one key over all layers and heads */
    double row_bytes;       /* q and output of one token's attention over all layers */
    double element_bytes;   /* what norms, rotation and activation read and write for a token over all layers */
};

void kv_gemms_of(struct kv_gemms *g, const struct kv_model *m, enum kv_dtype kv_dtype);

/* How many of a layer's experts `tokens` tokens touch, if each chooses evenly and by itself. */
double kv_experts_touched(const struct kv_gemms *g, double tokens);

#endif
