/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Blocks of a pool by name, for prefix caching as vLLM's V1 block pool has it (vllm/v1/core/block_pool.py): a full
 * block keeps the name of the tokens up to its end; blocks nobody uses wait, least recently used first, and can be
 * found by name until they are taken for something else. */
#ifndef KV_BLOCKS_H
#define KV_BLOCKS_H

#include "sim/core/arena.h"
#include "sim/core/error.h"

#include <stdbool.h>
#include <stdint.h>

struct kv_blocks;

/* KV_ENV. The blocks live in the arena. */
struct kv_blocks *kv_blocks_open(int64_t blocks, struct kv_arena *a, struct kv_err *e);

/* How many nobody uses. */
int64_t kv_blocks_free(const struct kv_blocks *b);
bool kv_blocks_used(const struct kv_blocks *b, int32_t block);

/* The block of that name which got it first, or -1. */
int32_t kv_blocks_find(const struct kv_blocks *b, uint64_t name);

/* One more user. */
void kv_blocks_share(struct kv_blocks *b, int32_t block);
/* The least recently used free block, which loses its name; there must be one. */
int32_t kv_blocks_take(struct kv_blocks *b);
/* A block that is full: others may find it from now on. */
void kv_blocks_name(struct kv_blocks *b, int32_t block, uint64_t name);
/* One user less. */
void kv_blocks_give(struct kv_blocks *b, int32_t block);

#endif
