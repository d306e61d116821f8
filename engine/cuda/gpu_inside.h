/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What launches of kernels need of the device they go to. */
#ifndef KV_GPU_INSIDE_H
#define KV_GPU_INSIDE_H

#include "engine/cuda/gpu.h"

#include <cuda_runtime.h>

cudaStream_t kv_gpu_stream(struct kv_gpu *g);

/* Lets the kernel have so many bytes of shared memory. False: it cannot, which is remembered. */
bool kv_gpu_shared(struct kv_gpu *g, const void *kernel, const char *name, size_t bytes);

/* Remembers a launch that failed. */
void kv_gpu_launched(struct kv_gpu *g, const char *name);

#endif
