/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The arithmetic of choosing entries: sets of positions as bits, pooling, top-k. Three paths, chosen at run time, give
 * the same bits: sums have one fixed order each.
 *
 * A set is an array of 64-bit words, position i in bit i % 64 of word i / 64; bits beyond its length are 0. The rank of
 * a member is how many members are before it. Rows of floats that a function writes have KV_SLACK floats of room
 * behind them. */
#ifndef KV_SELECT_H
#define KV_SELECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { KV_SLACK = 16 };

static inline int64_t kv_words(int64_t bits)
{
    return (bits + 63) / 64;
}

enum kv_simd { KV_SIMD_PORTABLE, KV_SIMD_AVX2, KV_SIMD_AVX512, KV_SIMDS };

/* Work space of `top`, one for each thread. */
struct kv_top_work {
    uint32_t *histogram; /* (4, 4096) interleaved */
    uint32_t *boundary;  /* (room + KV_SLACK,) */
    int64_t room;        /* the largest n */
};

struct kv_select {
    enum kv_simd simd;
    const char *name;
    /* The members' values, in order: out[rank] = row[position]. Returns how many. */
    int64_t (*compress)(const float *row, const uint64_t *set, int64_t n, float *out);
    /* out[i] = in[i-h] + ... + in[i+h], added from left to right, what lies outside left out; width = 2h + 1. `max`:
     * the largest of them. in and out are different. */
    void (*pool_sum)(const float *in, int64_t n, int width, float *out);
    void (*pool_max)(const float *in, int64_t n, int width, float *out);
    /* out[i] += in[i]; out[i] = the larger one; */
    void (*add)(float *out, const float *in, int64_t n);
    void (*max)(float *out, const float *in, int64_t n);
    /* Sets the k bits of `mask` (n bits, the others become 0) whose scores are highest; equal scores by lower index.
     * 0 <= k <= n. No NaN; -0 equals 0. Returns how many scores that equal the lowest one chosen were not chosen, plus
     * how many of that value were, when there are any of the former: entries that the order of positions decided. */
    int64_t (*top)(const float *score, int64_t n, int64_t k, uint64_t *mask, struct kv_top_work *work);
    /* Leaves those members of `set` (n bits) whose rank is set in `mask`. */
    void (*restrict_to)(uint64_t *set, int64_t n, const uint64_t *mask);
    /* Sum of row[i] over the members (NULL: all i < n), in double: 32 sums, of i % 32 each; of these (i + (i+8)) +
     * ((i+16)
     * + (i+24)) for i < 8, and of those ((0+1)+(2+3))+((4+5)+(6+7)). */
    double (*sum)(const float *row, const uint64_t *set, int64_t n);
};

/* The path of that width, or NULL where this machine has no such instructions. */
const struct kv_select *kv_select_of(enum kv_simd simd);
/* The widest one; the environment variable KVSIM_SIMD = portable, avx2 or avx512 asks for another. */
const struct kv_select *kv_select_best(void);

/* Members among the first n; pages of `page` positions of which a member is in. */
int64_t kv_set_count(const uint64_t *set, int64_t n);
int64_t kv_set_common(const uint64_t *a, const uint64_t *b, int64_t n);
int64_t kv_set_pages(const uint64_t *set, int64_t n, int64_t page);
/* Adds, removes, counts the positions [begin, end). */
void kv_set_fill(uint64_t *set, int64_t begin, int64_t end);
void kv_set_clear(uint64_t *set, int64_t begin, int64_t end);
int64_t kv_set_count_range(const uint64_t *set, int64_t begin, int64_t end);
/* The position of the member of that rank; n when there are fewer. */
int64_t kv_set_position(const uint64_t *set, int64_t n, int64_t rank);

static inline bool kv_set_has(const uint64_t *set, int64_t position)
{
    return set[position / 64] >> (position % 64) & 1;
}

#endif
