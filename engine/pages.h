/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Pages of KV entries in one range of addresses. A page that is given back leaves the process: where it is made of
 * whole pages of the system its memory is returned at once, else when its neighbours in such a page are free as well.
 * What is counted here can be seen from outside, in the resident size. */
#ifndef KV_PAGES_H
#define KV_PAGES_H

#include "sim/core/arena.h"

#include <pthread.h>
#include <stdint.h>

struct kv_pages {
    char *base;
    int64_t page_bytes, most; /* pages at most */
    int64_t live, peak;
    int32_t *free;         /* (n_free,) given back, last in first out */
    int64_t n_free, fresh; /* fresh: pages never taken begin here */
    uint16_t *busy;        /* (system pages,) KV pages in each, where a KV page is smaller */
    int64_t system_bytes;
    pthread_mutex_t lock;
};

/* Room for pages of `page_bytes` up to `most_bytes` in all; nothing is resident yet. KV_ENV. Open/close. */
bool kv_pages_open(struct kv_pages *p, int64_t page_bytes, int64_t most_bytes, struct kv_err *e);
void kv_pages_close(struct kv_pages *p);

/* A page, or -1 when all are taken. Its content is what it was, or zeros. Any thread. */
int32_t kv_pages_take(struct kv_pages *p);
void kv_pages_give(struct kv_pages *p, int32_t page);

static inline char *kv_pages_at(const struct kv_pages *p, int32_t page)
{
    return p->base + (int64_t)page * p->page_bytes;
}

/* Bytes of the range that are resident now, as the system says. */
int64_t kv_pages_resident(const struct kv_pages *p);

#endif
