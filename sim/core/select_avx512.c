/* SPDX-License-Identifier: GPL-3.0-or-later */
/* select.h for machines with AVX-512 (F, BW, VL, DQ). Rows end in masked loads: nothing behind them is read. */
#include "sim/core/select_paths.h"

#if KV_SELECT_X86
#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,bmi,bmi2,popcnt")))
#define INLINE static inline __attribute__((always_inline)) AVX512

enum { LANES = 16 };

/* The lanes that are there when `left` >= 0 numbers are. */
INLINE __mmask16 lanes(int64_t left)
{
    return (__mmask16)(left >= LANES ? 0xffff : (1u << left) - 1);
}

AVX512 static int64_t compress(const float *row, const uint64_t *set, int64_t n, float *out)
{
    float *start = out;
    for (int64_t w = 0; w < kv_words(n); w++)
        for (int64_t l = 0; l < 64; l += LANES) {
            __mmask16 in = (__mmask16)(set[w] >> l);
            __m512 x = _mm512_maskz_loadu_ps(in, row + w * 64 + l);
            _mm512_storeu_ps(out, _mm512_maskz_compress_ps(in, x));
            out += _mm_popcnt_u32(in);
        }
    return out - start;
}

INLINE __m512 window_sum(const float *from, int width)
{
    __m512 sum = _mm512_loadu_ps(from);
    for (int j = 1; j < width; j++)
        sum = _mm512_add_ps(sum, _mm512_loadu_ps(from + j));
    return sum;
}

INLINE __m512 window_max(const float *from, int width)
{
    __m512 max = _mm512_loadu_ps(from);
    for (int j = 1; j < width; j++)
        max = _mm512_max_ps(_mm512_loadu_ps(from + j), max);
    return max;
}

/* Whole windows. The last vector overlaps the one before it, which changes nothing. */
INLINE void pool_inside(const float *in, int64_t n, int width, bool sum, float *out)
{
    int64_t half = width / 2, end = n - half;
    for (int64_t i = half; i < end;) {
        _mm512_storeu_ps(out + i, sum ? window_sum(in + i - half, width) : window_max(in + i - half, width));
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

AVX512 static void pool_sum(const float *in, int64_t n, int width, float *out)
{
    pool(in, n, width, true, out);
}

AVX512 static void pool_max(const float *in, int64_t n, int width, float *out)
{
    pool(in, n, width, false, out);
}

AVX512 static void add(float *out, const float *in, int64_t n)
{
    for (int64_t i = 0; i < n; i += LANES) {
        __mmask16 there = lanes(n - i);
        __m512 x = _mm512_maskz_loadu_ps(there, in + i), y = _mm512_maskz_loadu_ps(there, out + i);
        _mm512_mask_storeu_ps(out + i, there, _mm512_add_ps(y, x));
    }
}

AVX512 static void max(float *out, const float *in, int64_t n)
{
    for (int64_t i = 0; i < n; i += LANES) {
        __mmask16 there = lanes(n - i);
        __m512 x = _mm512_maskz_loadu_ps(there, in + i), y = _mm512_maskz_loadu_ps(there, out + i);
        _mm512_mask_storeu_ps(out + i, there, _mm512_max_ps(x, y));
    }
}

/* kv_key_of */
INLINE __m512i keys_of(__m512 x)
{
    __m512i bits = _mm512_castps_si512(_mm512_add_ps(x, _mm512_setzero_ps()));
    __m512i sign = _mm512_srai_epi32(bits, 31);
    return _mm512_ternarylogic_epi32(bits, sign, _mm512_set1_epi32(INT32_MAX), 0x78); /* bits ^ (sign & max) */
}

AVX512 static int64_t gather(const float *score, int64_t n, int32_t low, int32_t high, int32_t *key, int64_t *above)
{
    __m512i lows = _mm512_set1_epi32(low), highs = _mm512_set1_epi32(high);
    int64_t reach = 0;
    int32_t *start = key;
    for (int64_t i = 0; i < n; i += LANES) {
        __mmask16 there = lanes(n - i);
        __m512i own = keys_of(_mm512_maskz_loadu_ps(there, score + i));
        __mmask16 high_enough = _mm512_mask_cmpge_epi32_mask(there, own, lows);
        __mmask16 in = _mm512_mask_cmple_epi32_mask(high_enough, own, highs);
        _mm512_storeu_si512(key, _mm512_maskz_compress_epi32(in, own));
        key += _mm_popcnt_u32(in);
        reach += _mm_popcnt_u32(high_enough);
    }
    *above = reach - (key - start);
    return key - start;
}

AVX512 static int64_t count(const int32_t *key, int64_t n, int32_t least)
{
    __m512i leasts = _mm512_set1_epi32(least), one = _mm512_set1_epi32(1);
    __m512i even = _mm512_setzero_si512(), odd = even;
    for (int64_t i = 0; i < n; i += 2 * LANES) {
        __mmask16 there = lanes(n - i), next = n - i > LANES ? lanes(n - i - LANES) : 0;
        __mmask16 a = _mm512_mask_cmpge_epi32_mask(there, _mm512_maskz_loadu_epi32(there, key + i), leasts);
        __mmask16 b = _mm512_mask_cmpge_epi32_mask(next, _mm512_maskz_loadu_epi32(next, key + i + LANES), leasts);
        even = _mm512_mask_add_epi32(even, a, even, one);
        odd = _mm512_mask_add_epi32(odd, b, odd, one);
    }
    return _mm512_reduce_add_epi32(_mm512_add_epi32(even, odd));
}

AVX512 static void mark(const float *score, int64_t n, float threshold, int64_t equals, uint64_t *mask)
{
    __m512 cut = _mm512_set1_ps(threshold);
    for (int64_t w = 0; w < kv_words(n); w++) {
        uint64_t above = 0, equal = 0;
        for (int64_t l = 0; l < 64 && w * 64 + l < n; l += LANES) {
            __mmask16 there = lanes(n - w * 64 - l);
            __m512 x = _mm512_maskz_loadu_ps(there, score + w * 64 + l);
            above |= (uint64_t)_mm512_mask_cmp_ps_mask(there, x, cut, _CMP_GT_OQ) << l;
            equal |= (uint64_t)_mm512_mask_cmp_ps_mask(there, x, cut, _CMP_EQ_OQ) << l;
        }
        mask[w] = equal ? kv_mark_word(above, equal, (int64_t)_mm_popcnt_u64(equal), &equals) : above;
    }
}

AVX512 static int64_t top(const float *score, int64_t n, int64_t k, uint64_t *mask, struct kv_top_work *work)
{
    static const struct kv_top_passes passes = {gather, count, mark};
    return kv_top_by(&passes, score, n, k, mask, work);
}

AVX512 static void restrict_to(uint64_t *set, int64_t n, const uint64_t *mask)
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

/* part + the members of eight floats */
INLINE __m512d add_eight(__m512d part, const float *row, uint64_t in)
{
    return _mm512_add_pd(part, _mm512_cvtps_pd(_mm256_maskz_loadu_ps((__mmask8)in, row)));
}

AVX512 static double sum(const float *row, const uint64_t *set, int64_t n)
{
    __m512d part[4] = {_mm512_setzero_pd(), _mm512_setzero_pd(), _mm512_setzero_pd(), _mm512_setzero_pd()};
    double in_order[KV_SUMS];
    int64_t i = 0;
    for (; i + KV_SUMS <= n; i += KV_SUMS) { /* four chains, or the latency of one addition would be the speed */
        uint64_t in = set ? set[i / 64] >> i % 64 : ~UINT64_C(0);
        for (int p = 0; p < 4; p++)
            part[p] = add_eight(part[p], row + i + 8 * p, in >> 8 * p & 255);
    }
    for (int p = 0; i < n; i += 8, p++) {
        uint64_t there = n - i >= 8 ? 255 : (UINT64_C(1) << (n - i)) - 1;
        part[p] = add_eight(part[p], row + i, (set ? set[i / 64] >> i % 64 : there) & there);
    }
    for (int p = 0; p < 4; p++)
        _mm512_storeu_pd(in_order + 8 * p, part[p]);
    return kv_sum_pairs(in_order);
}

const struct kv_select kv_select_avx512 = {
    .simd = KV_SIMD_AVX512,
    .name = "avx512",
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
