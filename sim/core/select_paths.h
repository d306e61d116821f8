/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What the three paths of select.h share. `top` is one algorithm around three passes over the data, which each path has
 * in its own instructions; it is exact whatever bracket it starts from, so paths cannot differ. */
#ifndef KV_SELECT_PATHS_H
#define KV_SELECT_PATHS_H

#include "sim/core/select.h"

#include <string.h>

#if defined(__x86_64__)
#define KV_SELECT_X86 1
#else
#define KV_SELECT_X86 0
#endif

/* An int32 that orders as the float does; -0 and 0 are one. Other than an unsigned key it compares in one instruction
 * of SSE2 and AVX2. */
static inline int32_t kv_key_of(float x)
{
    int32_t bits;
    x += 0.0f;
    memcpy(&bits, &x, sizeof bits);
    /* cppcheck-suppress shiftTooManyBitsSigned */
    return bits ^ (bits >> 31 & INT32_MAX);
}

static inline float kv_key_value(int32_t key)
{
    float x;
    /* cppcheck-suppress shiftTooManyBitsSigned */
    key ^= key >> 31 & INT32_MAX;
    memcpy(&x, &key, sizeof x);
    return x;
}

struct kv_top_passes {
    /* Keys in [low, high], in order, to `key` (room for n + KV_SLACK); returns how many. `above`: how many are higher.
     */
    int64_t (*gather)(const float *score, int64_t n, int32_t low, int32_t high, int32_t *key, int64_t *above);
    /* How many are at least `least`. */
    int64_t (*count)(const int32_t *key, int64_t n, int32_t least);
    /* Marks scores above the threshold, and the first `equals` of those that equal it; INT64_MAX: all of them. */
    void (*mark)(const float *score, int64_t n, float threshold, int64_t equals, uint64_t *mask);
};

int64_t kv_top_by(const struct kv_top_passes *pass, const float *score, int64_t n, int64_t k, uint64_t *mask,
                  struct kv_top_work *work);

/* Positions that a pool's window leaves at the ends, where it is cut: in the order of the whole windows. */
static inline float kv_pool_sum_at(const float *in, int64_t n, int64_t half, int64_t i)
{
    int64_t begin = i < half ? 0 : i - half, end = n - i <= half ? n : i + half + 1;
    float sum = in[begin];
    for (int64_t j = begin + 1; j < end; j++)
        sum += in[j];
    return sum;
}

/* Of -0 and 0 the first one wins, as maxps does with its operands in this order. */
static inline float kv_larger(float x, float than)
{
    return x > than ? x : than;
}

static inline float kv_pool_max_at(const float *in, int64_t n, int64_t half, int64_t i)
{
    int64_t begin = i < half ? 0 : i - half, end = n - i <= half ? n : i + half + 1;
    float max = in[begin];
    for (int64_t j = begin + 1; j < end; j++)
        max = kv_larger(in[j], max);
    return max;
}

enum { KV_SUMS = 32 };
static inline double kv_sum_pairs(const double part[KV_SUMS])
{
    double sum[8];
    for (int i = 0; i < 8; i++)
        sum[i] = (part[i] + part[i + 8]) + (part[i + 16] + part[i + 24]);
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

/* The `count` bits of mask from `rank` on, in the low bits; what is above them is undefined. count >= 1, and no word is
 * read in which none of the bits is. */
static inline uint64_t kv_bits_from(const uint64_t *mask, int64_t rank, int64_t count)
{
    int64_t shift = rank % 64;
    return mask[rank / 64] >> shift | mask[(rank + count - 1) / 64] << 1 << (63 - shift);
}

/* Members of one word that stay when `take` more may: the lowest. */
static inline uint64_t kv_lowest(uint64_t word, int64_t take)
{
    uint64_t rest = word;
    for (; take > 0 && rest; take--)
        rest &= rest - 1;
    return word ^ rest;
}

/* The word of 64 marks from its two comparisons; *equals goes down by those of equal score taken. */
static inline uint64_t kv_mark_word(uint64_t above, uint64_t equal, int64_t count, int64_t *equals)
{
    if (count <= *equals) {
        *equals -= count;
        return above | equal;
    }
    equal = kv_lowest(equal, *equals);
    *equals = 0;
    return above | equal;
}

#if KV_SELECT_X86
extern const struct kv_select kv_select_avx2, kv_select_avx512;
#endif

#endif
