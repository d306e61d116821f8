/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "engine/cuda/pool.h"

#include "sim/core/error.h"

#include <stdlib.h>

enum { WORD = 64 };

bool kv_cuda_pool_open(struct kv_cuda_pool *p, struct kv_gpu *g, int64_t page_bytes, int64_t most_bytes,
                       struct kv_err *e)
{
    void *base;
    *p = (struct kv_cuda_pool){.gpu = g, .page_bytes = page_bytes, .most = most_bytes / page_bytes};
    if (p->most < 1 || p->most > INT32_MAX)
        return kv_fail(e, KV_USAGE, "a pool of %lld bytes holds %lld pages of %lld bytes; it must be 1 to %d",
                       (long long)most_bytes, (long long)p->most, (long long)page_bytes, INT32_MAX);
    if (!kv_gpu_reserve(g, p->most * page_bytes, &base, &p->slab_bytes, e))
        return false;
    p->base = base;
    int64_t slabs = (p->most * page_bytes + p->slab_bytes - 1) / p->slab_bytes;
    p->taken = calloc((size_t)(p->most / WORD + 1), sizeof *p->taken);
    p->busy = calloc((size_t)slabs, sizeof *p->busy);
    p->there = calloc((size_t)slabs, sizeof *p->there);
    if (p->taken && p->busy && p->there)
        return true;
    kv_cuda_pool_close(p);
    return kv_fail(e, KV_ENV, "no memory for a list of %lld pages", (long long)(most_bytes / page_bytes));
}

void kv_cuda_pool_close(struct kv_cuda_pool *p)
{
    if (p->base)
        kv_gpu_release(p->gpu, p->base);
    free(p->taken);
    free(p->busy);
    free(p->there);
    *p = (struct kv_cuda_pool){0};
}

/* The slabs that a page lies in. */
static void span(const struct kv_cuda_pool *p, int32_t page, int64_t *first, int64_t *last)
{
    *first = (int64_t)page * p->page_bytes / p->slab_bytes;
    *last = (((int64_t)page + 1) * p->page_bytes - 1) / p->slab_bytes;
}

static bool map(struct kv_cuda_pool *p, int32_t page, struct kv_err *e)
{
    int64_t first, last;
    span(p, page, &first, &last);
    for (int64_t i = first; i <= last; i++) {
        if (p->there[i])
            continue;
        if (!kv_gpu_map(p->gpu, p->base, i, e))
            return kv_while(e, "KV pages beyond %lld", (long long)p->live);
        p->there[i] = true;
        p->mapped++;
    }
    p->mapped_peak = p->mapped > p->mapped_peak ? p->mapped : p->mapped_peak;
    return true;
}

static void count(struct kv_cuda_pool *p, int32_t page, int by)
{
    int64_t first, last;
    span(p, page, &first, &last);
    for (int64_t i = first; i <= last; i++) {
        p->busy[i] += by;
        p->emptied |= p->busy[i] == 0;
    }
    p->live += by;
    p->peak = p->live > p->peak ? p->live : p->peak;
}

bool kv_cuda_pool_take(struct kv_cuda_pool *p, int32_t *page, struct kv_err *e)
{
    if (p->live == p->most)
        return kv_fail(e, KV_ENV,
                       "the KV pool is full: %lld pages of %lld bytes; raise --pool, shorten the prompt, or evict",
                       (long long)p->most, (long long)p->page_bytes);
    while (!~p->taken[p->lowest])
        p->lowest++;
    int32_t found = (int32_t)(p->lowest * WORD + __builtin_ctzll(~p->taken[p->lowest]));
    if (!map(p, found, e))
        return false;
    p->taken[found / WORD] |= UINT64_C(1) << found % WORD;
    count(p, found, 1);
    *page = found;
    return true;
}

void kv_cuda_pool_give(struct kv_cuda_pool *p, int32_t page)
{
    uint64_t bit = UINT64_C(1) << page % WORD;
    KV_ASSERT(page >= 0 && page < p->most && (p->taken[page / WORD] & bit));
    p->taken[page / WORD] &= ~bit;
    p->lowest = page / WORD < p->lowest ? page / WORD : p->lowest;
    count(p, page, -1);
}

void kv_cuda_pool_trim(struct kv_cuda_pool *p)
{
    int64_t slabs = (p->most * p->page_bytes + p->slab_bytes - 1) / p->slab_bytes;
    for (int64_t i = 0; i < slabs && p->emptied; i++) {
        if (!p->there[i] || p->busy[i])
            continue;
        kv_gpu_unmap(p->gpu, p->base, i);
        p->there[i] = false;
        p->mapped--;
    }
    p->emptied = false;
}
