/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Random numbers as a function of (seed, purpose, id, counter): no state is shared, so that adding a policy or a
 * request changes the draws of no other. Core and engine draw from here directly; kvsim's GSL distributions sit on it
 * (sim/draw.h). */
#ifndef KV_RANDOM_H
#define KV_RANDOM_H

#include "sim/core/hash.h"

#include <string.h>

/* 64 bits that change completely with any bit of any argument. The mixer is SplitMix64's finaliser (Steele, Lea, Flood
 * 2014), applied after each word is folded in. */
static inline uint64_t kv_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static inline uint64_t kv_random(uint64_t seed, uint64_t purpose, uint64_t id, uint64_t counter)
{
    uint64_t h = kv_mix(seed + UINT64_C(0x9e3779b97f4a7c15));
    h = kv_mix(h ^ (purpose + UINT64_C(0x9e3779b97f4a7c15)));
    h = kv_mix(h ^ (id + UINT64_C(0xd1b54a32d192ed03)));
    return kv_mix(h ^ (counter + UINT64_C(0x8cb92ba72f3d8dd7)));
}

/* 0 <= x < 1, all 53 bits of it. */
static inline double kv_uniform(uint64_t bits)
{
    return (double)(bits >> 11) * 0x1p-53;
}

/* The purpose of a draw, from its name: FNV-1a. */
static inline uint64_t kv_purpose(const char *name)
{
    return kv_hash(KV_HASH_START, name, strlen(name));
}

#endif
