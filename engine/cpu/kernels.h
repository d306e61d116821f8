/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The inner loops of the CPU backend, chosen at run time: the same C compiled for AVX-512, AVX2 and whatever there is.
 */
#ifndef KV_CPU_KERNELS_H
#define KV_CPU_KERNELS_H

#include "engine/weights.h"

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
    /* y[m] = row . x[m], for m < n_x vectors of n, `stride` apart */
    void (*dot_rows)(const void *row, enum kv_tensor_type type, int64_t n, const float *x, int64_t stride, int n_x,
                     float *y);
    void (*widen)(const void *from, enum kv_tensor_type type, int64_t n, float *out);
};

const struct kv_kernels *kv_kernels_best(void);

#endif
