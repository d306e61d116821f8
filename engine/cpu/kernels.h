/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The inner loops of the CPU backend, chosen at run time: the same C compiled for AVX-512, AVX2 and whatever there is.
 */
#ifndef KV_CPU_KERNELS_H
#define KV_CPU_KERNELS_H

#include "engine/weights.h"

enum { KV_MOST_VECTORS = 8 };

struct kv_kernels {
    const char *name;
    float (*dot)(const float *a, const float *b, int64_t n);
    void (*axpy)(float *y, float a, const float *x, int64_t n); /* y += a x */
    void (*scale)(float *y, float a, int64_t n);
    float (*max)(const float *x, int64_t n);
    /* x[i] = exp(x[i] - top); returns their sum. exp of what is 88 below top or more is 0. */
    float (*softmax)(float *x, int64_t n, float top);
    /* sum += exp(x[i] - shift) */
    void (*add_exp)(float *sum, const float *x, int64_t n, float shift);
    void (*silu_times)(float *gate, const float *up, int64_t n); /* gate = gate x sigmoid(gate) x up */
    void (*rms_norm)(const float *x, const float *weight, int64_t n, float eps, float *out);
    /* out[m x stride + j] = row j . x[m], for rows of n that lie behind each other and n_x <= KV_MOST_VECTORS vectors.
     * The order of a sum depends on n alone, so neither neighbours nor threads change a bit of it. */
    void (*multiply)(const void *rows, enum kv_tensor_type type, int64_t n, int64_t n_rows, const float *const *x,
                     int n_x, float *out, int64_t stride);
    /* y += the sum of by[j] x row j, for rows of n that lie behind each other; from the first to the last */
    void (*add_rows)(float *y, const float *by, const float *rows, int64_t n, int64_t n_rows);
    void (*widen)(const void *from, enum kv_tensor_type type, int64_t n, float *out);
};

const struct kv_kernels *kv_kernels_best(void);

#endif
