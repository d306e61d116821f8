/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Matrices on their way from a checkpoint's files to the device. */
#ifndef KV_CUDA_UPLOAD_H
#define KV_CUDA_UPLOAD_H

#include "engine/cuda/kernels.h"
#include "engine/weights.h"

/* All elements of `tensor`, as bf16 (nearest even), to the device's memory at `to`. */
struct kv_cuda_matrix {
    const struct kv_tensor *tensor;
    kv_bf16 *to;
};

/* In pieces of at most `piece_bytes` (a multiple of 4): `readers` threads read them and round them, while the device
 * copies pieces that were read before. They have arrived when this returns. *bytes: how many were read from files.
 * KV_DATA: a file that ends too early; KV_ENV. */
bool kv_cuda_upload(struct kv_gpu *g, const struct kv_weights *w, const struct kv_cuda_matrix *matrix, int64_t n,
                    int64_t piece_bytes, int readers, int64_t *bytes, struct kv_err *e);

#endif
