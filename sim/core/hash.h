/* SPDX-License-Identifier: GPL-3.0-or-later */
/* FNV-1a, 64 bits: tells inputs apart that nobody made alike on purpose. */
#ifndef KV_HASH_H
#define KV_HASH_H

#include <stddef.h>
#include <stdint.h>

#define KV_HASH_START UINT64_C(0xcbf29ce484222325)

static inline uint64_t kv_hash_byte(uint64_t h, int c)
{
    return (h ^ (unsigned char)c) * UINT64_C(0x100000001b3);
}

/* Of these bytes behind those that made h. */
static inline uint64_t kv_hash(uint64_t h, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        h = kv_hash_byte(h, text[i]);
    return h;
}

#endif
