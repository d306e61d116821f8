/* SPDX-License-Identifier: GPL-3.0-or-later */
/* select.h for machines with AVX2 and BMI2. Rows end in scalar code. */
#include "sim/core/select_paths.h"

#if KV_SELECT_X86
#include <immintrin.h>

#define AVX2   __attribute__((target("avx2,bmi,bmi2,popcnt")))
#define INLINE static inline __attribute__((always_inline)) AVX2

enum { LANES = 8 };

/* For a permutation that brings the lanes of `in` (8 bits) to the front. */
INLINE __m256i to_front(uint32_t in)
{
    uint64_t bytes = _pdep_u64(in, UINT64_C(0x0101010101010101)) * 0xff;
    uint64_t order = _pext_u64(UINT64_C(0x0706050403020100), bytes);
    return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)order));
}

AVX2 static int64_t compress(const float *row, const uint64_t *set, int64_t n, float *out)
{
    float *start = out;
    for (int64_t i = 0; i + LANES <= n; i += LANES) {
        uint32_t in = (uint32_t)(set[i / 64] >> i % 64) & 255;
        _mm256_storeu_ps(out, _mm256_permutevar8x32_ps(_mm256_loadu_ps(row + i), to_front(in)));
        out += _mm_popcnt_u32(in);
    }
    for (int64_t i = n / LANES * LANES; i < n; i++)
        if (kv_set_has(set, i))
            *out++ = row[i];
    return out - start;
}

INLINE __m256 window_sum(const float *from, int width)
{
    __m256 sum = _mm256_loadu_ps(from);
    for (int j = 1; j < width; j++)
        sum = _mm256_add_ps(sum, _mm256_loadu_ps(from + j));
    return sum;
}

INLINE __m256 window_max(const float *from, int width)
{
    __m256 max = _mm256_loadu_ps(from);
    for (int j = 1; j < width; j++)
        max = _mm256_max_ps(_mm256_loadu_ps(from + j), max);
    return max;
}

/* Whole windows. The last vector overlaps the one before it, which changes nothing. */
INLINE void pool_inside(const float *in, int64_t n, int width, bool sum, float *out)
{
    int64_t half = width / 2, end = n - half;
    for (int64_t i = half; i < end;) {
        _mm256_storeu_ps(out + i, sum ? window_sum(in + i - half, width) : window_max(in + i - half, width));
        i += LANES;
        if (i < end && i > end - LANES)
            i = end - LANES;
    }
}

/* Common widths are compiled apart, their loads unrolled. */
INLINE void pool(const float *in, int64_t n, int width, bool sum, float *out)
{
    int64_t half = width / 2, inside = n - 2 * half >= LANES ? n - half : half;
    for (int64_t i = 0; i < n; i++) {
        if (i == half)
            i = inside;
        if (i < n)
            out[i] = sum ? kv_pool_sum_at(in, n, half, i) : kv_pool_max_at(in, n, half, i);
    }
    if (inside == half)
        return;
    if (width == 5)
        pool_inside(in, n, 5, sum, out);
    else if (width == 7)
        pool_inside(in, n, 7, sum, out);
    else
        pool_inside(in, n, width, sum, out);
}

AVX2 static void pool_sum(const float *in, int64_t n, int width, float *out)
{
    pool(in, n, width, true, out);
}

AVX2 static void pool_max(const float *in, int64_t n, int width, float *out)
{
    pool(in, n, width, false, out);
}

AVX2 static void add(float *out, const float *in, int64_t n)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        _mm256_storeu_ps(out + i, _mm256_add_ps(_mm256_loadu_ps(out + i), _mm256_loadu_ps(in + i)));
    for (; i < n; i++)
        out[i] += in[i];
}

AVX2 static void max(float *out, const float *in, int64_t n)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        _mm256_storeu_ps(out + i, _mm256_max_ps(_mm256_loadu_ps(in + i), _mm256_loadu_ps(out + i)));
    for (; i < n; i++)
        out[i] = kv_larger(in[i], out[i]);
}

/* kv_key_of */
INLINE __m256i keys_of(__m256 x)
{
    __m256i bits = _mm256_castps_si256(_mm256_add_ps(x, _mm256_setzero_ps()));
    return _mm256_xor_si256(bits, _mm256_srli_epi32(_mm256_srai_epi32(bits, 31), 1));
}

INLINE uint32_t signs(__m256i x)
{
    return (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(x));
}

AVX2 static int64_t gather(const float *score, int64_t n, int32_t low, int32_t high, int32_t *key, int64_t *above)
{
    __m256i lows = _mm256_set1_epi32(low), highs = _mm256_set1_epi32(high);
    int64_t i = 0, higher = 0;
    int32_t *start = key;
    for (; i + LANES <= n; i += LANES) {
        __m256i own = keys_of(_mm256_loadu_ps(score + i));
        uint32_t too_high = signs(_mm256_cmpgt_epi32(own, highs)), too_low = signs(_mm256_cmpgt_epi32(lows, own));
        uint32_t in = ~(too_high | too_low) & 255;
        _mm256_storeu_si256((__m256i *)key, _mm256_permutevar8x32_epi32(own, to_front(in)));
        key += _mm_popcnt_u32(in);
        higher += _mm_popcnt_u32(too_high);
    }
    for (; i < n; i++) {
        int32_t own = kv_key_of(score[i]);
        *key = own;
        key += own >= low && own <= high;
        higher += own > high;
    }
    *above = higher;
    return key - start;
}

AVX2 static int64_t count(const int32_t *key, int64_t n, int32_t least)
{
    __m256i leasts = _mm256_set1_epi32(least), even = _mm256_setzero_si256(), odd = even;
    int32_t lower[LANES];
    int64_t i = 0, total;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        even = _mm256_add_epi32(even, _mm256_cmpgt_epi32(leasts, _mm256_loadu_si256((const __m256i *)(key + i))));
        odd = _mm256_add_epi32(odd, _mm256_cmpgt_epi32(leasts, _mm256_loadu_si256((const __m256i *)(key + i + LANES))));
    }
    _mm256_storeu_si256((__m256i *)lower, _mm256_add_epi32(even, odd));
    total = i;
    for (int l = 0; l < LANES; l++)
        total += lower[l];
    for (; i < n; i++)
        total += key[i] >= least;
    return total;
}

AVX2 static void mark(const float *score, int64_t n, float threshold, int64_t equals, uint64_t *mask)
{
    __m256 cut = _mm256_set1_ps(threshold);
    for (int64_t w = 0; w < kv_words(n); w++) {
        uint64_t above = 0, equal = 0;
        int64_t l = 0, end = n - w * 64 < 64 ? n - w * 64 : 64;
        const float *x = score + w * 64;
        for (; l + LANES <= end; l += LANES) {
            __m256 own = _mm256_loadu_ps(x + l);
            above |= (uint64_t)_mm256_movemask_ps(_mm256_cmp_ps(own, cut, _CMP_GT_OQ)) << l;
            equal |= (uint64_t)_mm256_movemask_ps(_mm256_cmp_ps(own, cut, _CMP_EQ_OQ)) << l;
        }
        for (; l < end; l++) {
            above |= (uint64_t)(x[l] > threshold) << l;
            equal |= (uint64_t)(x[l] == threshold) << l;
        }
        mask[w] = equal ? kv_mark_word(above, equal, (int64_t)_mm_popcnt_u64(equal), &equals) : above;
    }
}

AVX2 static int64_t top(const float *score, int64_t n, int64_t k, uint64_t *mask, struct kv_top_work *work)
{
    static const struct kv_top_passes passes = {gather, count, mark};
    return kv_top_by(&passes, score, n, k, mask, work);
}

AVX2 static void restrict_to(uint64_t *set, int64_t n, const uint64_t *mask)
{
    int64_t rank = 0;
    for (int64_t w = 0; w < kv_words(n); w++) {
        uint64_t members = set[w];
        if (!members)
            continue;
        int64_t many = (int64_t)_mm_popcnt_u64(members);
        set[w] = _pdep_u64(kv_bits_from(mask, rank, many), members);
        rank += many;
    }
}

/* All ones in the lanes of the four bits. */
INLINE __m256d members_of(uint32_t in)
{
    __m256i bit = _mm256_set_epi64x(8, 4, 2, 1);
    return _mm256_castsi256_pd(_mm256_cmpeq_epi64(_mm256_and_si256(_mm256_set1_epi64x(in), bit), bit));
}

AVX2 static double sum(const float *row, const uint64_t *set, int64_t n)
{
    __m256d sums[KV_SUMS / 4];
    double part[KV_SUMS];
    int64_t i = 0;
    for (int p = 0; p < KV_SUMS / 4; p++)
        sums[p] = _mm256_setzero_pd();
    for (; i + KV_SUMS <= n; i += KV_SUMS) { /* eight chains, or the latency of one addition would be the speed */
        uint32_t in = set ? (uint32_t)(set[i / 64] >> i % 64) : UINT32_MAX;
        for (int p = 0; p < KV_SUMS / 4; p++) {
            __m256d x = _mm256_cvtps_pd(_mm_loadu_ps(row + i + 4 * p));
            sums[p] = _mm256_add_pd(sums[p], _mm256_and_pd(x, members_of(in >> 4 * p)));
        }
    }
    for (int p = 0; p < KV_SUMS / 4; p++)
        _mm256_storeu_pd(part + 4 * p, sums[p]);
    for (; i < n; i++)
        part[i % KV_SUMS] += !set || kv_set_has(set, i) ? (double)row[i] : 0.0;
    return kv_sum_pairs(part);
}

const struct kv_select kv_select_avx2 = {
    .simd = KV_SIMD_AVX2,
    .name = "avx2",
    .compress = compress,
    .pool_sum = pool_sum,
    .pool_max = pool_max,
    .add = add,
    .max = max,
    .top = top,
    .restrict_to = restrict_to,
    .sum = sum,
};
#else
enum { NOT_FOR_THIS_MACHINE };
#endif
