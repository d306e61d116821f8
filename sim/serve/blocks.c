/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/serve/blocks.h"

struct block {
    uint64_t name;
    int32_t users;
    bool named;
    int32_t older, newer; /* in the queue of free blocks */
    int32_t next;         /* of its bucket, those named earlier first */
};

struct kv_blocks {
    struct block *at; /* (blocks + 1,) the last one is both ends of the queue */
    int32_t *bucket;
    uint64_t mask;
    int64_t blocks, free;
};

struct kv_blocks *kv_blocks_open(int64_t blocks, struct kv_arena *a, struct kv_err *e)
{
    struct kv_blocks *b = KV_NEW(a, struct kv_blocks);
    if (blocks < 0 || blocks >= INT32_MAX) {
        kv_fail(e, KV_USAGE, "a pool of %lld blocks; prefix caching can name up to %d", (long long)blocks,
                INT32_MAX - 1);
        return NULL;
    }
    uint64_t buckets = 64;
    while (buckets < (uint64_t)blocks)
        buckets *= 2;
    b->blocks = b->free = blocks;
    b->mask = buckets - 1;
    b->at = kv_alloc_many(a, (size_t)blocks + 1, sizeof *b->at, "the blocks of the pool", e);
    b->bucket = kv_alloc_many(a, buckets, sizeof *b->bucket, "the names of blocks", e);
    if (!b->at || !b->bucket)
        return NULL;
    for (uint64_t i = 0; i < buckets; i++)
        b->bucket[i] = -1;
    for (int64_t i = 0; i <= blocks; i++) {
        b->at[i].older = (int32_t)(i ? i - 1 : blocks);
        b->at[i].newer = (int32_t)(i < blocks ? i + 1 : 0);
    }
    return b;
}

int64_t kv_blocks_free(const struct kv_blocks *b)
{
    return b->free;
}

bool kv_blocks_used(const struct kv_blocks *b, int32_t block)
{
    return b->at[block].users > 0;
}

/* ---- names ---- */

int32_t kv_blocks_find(const struct kv_blocks *b, uint64_t name)
{
    int32_t i = b->bucket[name & b->mask];
    while (i >= 0 && b->at[i].name != name)
        i = b->at[i].next;
    return i;
}

void kv_blocks_name(struct kv_blocks *b, int32_t block, uint64_t name)
{
    int32_t *last = &b->bucket[name & b->mask];
    KV_ASSERT(!b->at[block].named);
    while (*last >= 0)
        last = &b->at[*last].next;
    *last = block;
    b->at[block].name = name;
    b->at[block].named = true;
    b->at[block].next = -1;
}

static void forget(struct kv_blocks *b, int32_t block)
{
    int32_t *at = &b->bucket[b->at[block].name & b->mask];
    while (*at != block)
        at = &b->at[*at].next;
    *at = b->at[block].next;
    b->at[block].named = false;
}

/* ---- users ---- */

static void leave_queue(struct kv_blocks *b, int32_t block)
{
    const struct block *it = &b->at[block];
    b->at[it->older].newer = it->newer;
    b->at[it->newer].older = it->older;
    b->free--;
}

void kv_blocks_share(struct kv_blocks *b, int32_t block)
{
    if (!b->at[block].users)
        leave_queue(b, block);
    b->at[block].users++;
}

int32_t kv_blocks_take(struct kv_blocks *b)
{
    int32_t block = b->at[b->blocks].newer;
    KV_ASSERT(b->free > 0);
    leave_queue(b, block);
    b->at[block].users = 1;
    if (b->at[block].named)
        forget(b, block);
    return block;
}

void kv_blocks_give(struct kv_blocks *b, int32_t block)
{
    int32_t ends = (int32_t)b->blocks;
    struct block *it = &b->at[block];
    KV_ASSERT(it->users > 0);
    if (--it->users)
        return;
    it->older = b->at[ends].older;
    it->newer = ends;
    b->at[it->older].newer = block;
    b->at[ends].older = block;
    b->free++;
}
