/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What launches of kernels and products need of the device they go to. */
#ifndef KV_GPU_INSIDE_H
#define KV_GPU_INSIDE_H

#include "engine/cuda/gpu.h"

#include <cuda_runtime.h>

cudaStream_t kv_gpu_stream(struct kv_gpu *g);

/* Lets the kernel have so many bytes of shared memory. False: it cannot, which is remembered. */
bool kv_gpu_shared(struct kv_gpu *g, const void *kernel, const char *name, size_t bytes);

/* Remembers a launch that failed. */
void kv_gpu_launched(struct kv_gpu *g, const char *name);

/* Remembers what failed, unless something did before. */
void kv_gpu_remember(struct kv_gpu *g, const char *why);

/* Products (gpu_multiply.cu). NULL: failed, which is remembered. */
struct kv_products *kv_products_open(struct kv_gpu *g);
void kv_products_close(struct kv_products *p); /* NULL is fine */
int kv_products_version(void);
/* The device's own. NULL: something has failed, nothing more is asked of it. */
struct kv_products *kv_gpu_products(struct kv_gpu *g);

#endif
