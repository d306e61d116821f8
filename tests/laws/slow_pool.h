/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A pool of blocks as plain as it can be: the free ones in an array, least recently used first, and names looked for
 * one block after the other. What vLLM 0.19's vllm/v1/core/block_pool.py does, without its hash maps and lists. */
#ifndef KV_TESTS_SLOW_POOL_H
#define KV_TESTS_SLOW_POOL_H

#include "sim/core/arena.h"

#include <stdint.h>
#include <string.h>

/* Tokens up to the end of a block: those named `key` (of a prompt's block, or of a session), of which it is block
 * `index`. */
struct slow_name {
    uint64_t key;
    int64_t index;
    bool of_session;
};

struct slow_block {
    int64_t users;
    int64_t named_at; /* 0: it has no name */
    struct slow_name name;
};

struct slow_pool {
    int64_t n, n_free, namings;
    int64_t *free; /* (n,) the first n_free */
    struct slow_block *block;
};

static void slow_pool_open(struct slow_pool *p, int64_t n, struct kv_arena *a)
{
    *p = (struct slow_pool){
        .n = n, .n_free = n, .free = KV_NEW_N(a, int64_t, n + 1), .block = KV_NEW_N(a, struct slow_block, n + 1)};
    for (int64_t i = 0; i < n; i++)
        p->free[i] = i;
}

/* The names that there are now, and who uses what, for later. */
static void slow_pool_copy(struct slow_pool *to, const struct slow_pool *from)
{
    memcpy(to->block, from->block, sizeof *to->block * (size_t)from->n);
}

static void slow_pool_unlist(struct slow_pool *p, int64_t at)
{
    memmove(p->free + at, p->free + at + 1, sizeof *p->free * (size_t)(p->n_free - at - 1));
    p->n_free--;
}

/* The block of that name which got it first, or -1. */
static int64_t slow_pool_find(const struct slow_pool *p, struct slow_name name)
{
    int64_t found = -1;
    for (int64_t i = 0; i < p->n; i++) {
        const struct slow_block *b = &p->block[i];
        if (b->named_at && b->name.key == name.key && b->name.index == name.index &&
            b->name.of_session == name.of_session && (found < 0 || b->named_at < p->block[found].named_at))
            found = i;
    }
    return found;
}

static void slow_pool_share(struct slow_pool *p, int64_t block)
{
    if (p->block[block].users++ > 0)
        return;
    int64_t at = 0;
    while (p->free[at] != block)
        at++;
    slow_pool_unlist(p, at);
}

/* The first `n` free ones into `out`. */
static void slow_pool_take(struct slow_pool *p, int64_t n, int64_t *out)
{
    KV_ASSERT(n <= p->n_free);
    for (int64_t i = 0; i < n; i++) {
        out[i] = p->free[i];
        p->block[out[i]] = (struct slow_block){.users = 1};
    }
    memmove(p->free, p->free + n, sizeof *p->free * (size_t)(p->n_free - n));
    p->n_free -= n;
}

static void slow_pool_name(struct slow_pool *p, int64_t block, struct slow_name name)
{
    p->block[block].name = name;
    p->block[block].named_at = ++p->namings;
}

static void slow_pool_give(struct slow_pool *p, int64_t block)
{
    KV_ASSERT(p->block[block].users > 0);
    if (--p->block[block].users == 0)
        p->free[p->n_free++] = block;
}

#endif
