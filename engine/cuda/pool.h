/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Pages of KV entries on the device, in one range of addresses whose slabs are mapped as pages in them are taken and
 * unmapped as all of them are free: the driver's own figure of free memory moves with what is evicted. The lowest free
 * page is taken first, so that live pages lie close together. */
#ifndef KV_CUDA_POOL_H
#define KV_CUDA_POOL_H

#include "engine/cuda/gpu.h"

struct kv_cuda_pool {
    struct kv_gpu *gpu;
    char *base;
    int64_t page_bytes, most; /* pages at most */
    int64_t live, peak;
    int64_t slab_bytes, mapped, mapped_peak; /* slabs */
    uint64_t *taken;                         /* a bit for each page */
    int64_t lowest;                          /* no page below this word of them is free */
    int32_t *busy;                           /* (slabs,) pages in each */
    bool *there;                             /* (slabs,) mapped */
    bool emptied;                            /* a slab has lost its last page since the last trim */
};

/* Room for pages of `page_bytes` up to `most_bytes` in all; nothing is mapped yet. KV_USAGE, KV_ENV. */
bool kv_cuda_pool_open(struct kv_cuda_pool *p, struct kv_gpu *g, int64_t page_bytes, int64_t most_bytes,
                       struct kv_err *e);
void kv_cuda_pool_close(struct kv_cuda_pool *p);

/* A page; its content is anything. KV_ENV: all are taken, or the device has no memory for them. */
bool kv_cuda_pool_take(struct kv_cuda_pool *p, int32_t *page, struct kv_err *e);
void kv_cuda_pool_give(struct kv_cuda_pool *p, int32_t page);

/* Unmaps slabs in which no page is taken. Waits for the device. */
void kv_cuda_pool_trim(struct kv_cuda_pool *p);

#endif
