/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "engine/pages.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

bool kv_pages_open(struct kv_pages *p, int64_t page_bytes, int64_t most_bytes, struct kv_err *e)
{
    *p = (struct kv_pages){
        .page_bytes = page_bytes, .most = most_bytes / page_bytes, .system_bytes = sysconf(_SC_PAGESIZE)};
    if (p->most < 1 || p->most > INT32_MAX)
        return kv_fail(e, KV_USAGE, "a pool of %lld bytes holds %lld pages of %lld bytes; it must be 1 to %d",
                       (long long)most_bytes, (long long)p->most, (long long)page_bytes, INT32_MAX);
    int64_t bytes = p->most * page_bytes;
    p->free = malloc(sizeof *p->free * (size_t)p->most);
    p->busy = page_bytes % p->system_bytes ? calloc((size_t)(bytes / p->system_bytes + 2), sizeof *p->busy) : NULL;
    void *base = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    p->base = base == MAP_FAILED ? NULL : base;
    pthread_mutex_init(&p->lock, NULL);
    if (p->free && p->base && (p->busy || page_bytes % p->system_bytes == 0))
        return true;
    kv_fail(e, KV_ENV, "cannot map %lld bytes for KV pages: %s", (long long)bytes, strerror(errno));
    kv_pages_close(p);
    return false;
}

void kv_pages_close(struct kv_pages *p)
{
    if (p->base)
        munmap(p->base, (size_t)(p->most * p->page_bytes));
    if (p->most)
        pthread_mutex_destroy(&p->lock);
    free(p->free);
    free(p->busy);
    *p = (struct kv_pages){0};
}

/* The system's pages that a KV page lies in. */
static void system_span(const struct kv_pages *p, int32_t page, int64_t *first, int64_t *last)
{
    *first = (int64_t)page * p->page_bytes / p->system_bytes;
    *last = (((int64_t)page + 1) * p->page_bytes - 1) / p->system_bytes;
}

/* KV pages that share a page of the system are few: 64 KiB hold 4096 of 16 bytes. */
static void mark(struct kv_pages *p, int32_t page, int by)
{
    int64_t first, last;
    if (!p->busy)
        return;
    system_span(p, page, &first, &last);
    for (int64_t i = first; i <= last; i++)
        p->busy[i] = (uint16_t)(p->busy[i] + by);
}

int32_t kv_pages_take(struct kv_pages *p)
{
    int32_t page = -1;
    pthread_mutex_lock(&p->lock);
    if (p->n_free)
        page = p->free[--p->n_free];
    else if (p->fresh < p->most)
        page = (int32_t)p->fresh++;
    if (page >= 0) {
        mark(p, page, 1);
        p->live++;
        p->peak = p->live > p->peak ? p->live : p->peak;
    }
    pthread_mutex_unlock(&p->lock);
    return page;
}

/* Advice is all it is: when it fails, the memory only stays. */
static void return_memory(struct kv_pages *p, int32_t page)
{
    int64_t first, last;
    if (!p->busy) {
        (void)madvise(kv_pages_at(p, page), (size_t)p->page_bytes, MADV_DONTNEED);
        return;
    }
    system_span(p, page, &first, &last);
    for (int64_t i = first; i <= last; i++)
        if (!p->busy[i])
            (void)madvise(p->base + i * p->system_bytes, (size_t)p->system_bytes, MADV_DONTNEED);
}

void kv_pages_give(struct kv_pages *p, int32_t page)
{
    pthread_mutex_lock(&p->lock);
    KV_ASSERT(p->live > 0 && page >= 0 && page < p->fresh);
    mark(p, page, -1);
    return_memory(p, page);
    p->free[p->n_free++] = page;
    p->live--;
    pthread_mutex_unlock(&p->lock);
}

int64_t kv_pages_resident(const struct kv_pages *p)
{
    int64_t n = (p->fresh * p->page_bytes + p->system_bytes - 1) / p->system_bytes, resident = 0;
    unsigned char *in = malloc((size_t)n + 1);
    if (in && n && !mincore(p->base, (size_t)(n * p->system_bytes), in))
        for (int64_t i = 0; i < n; i++)
            resident += in[i] & 1;
    free(in);
    return resident * p->system_bytes;
}
