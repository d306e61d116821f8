/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Decoding with gathered table entries; splitting and joining of planes, 32 codes at a time. */
#include "traces/codes_paths.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define AVX2   __attribute__((target("avx2")))
#define INLINE static inline __attribute__((always_inline)) AVX2

enum { LANES = 8, WIDE = 32 };

/* 2^-down as f32, in two factors that are normal: the second is 1 except at 32 steps. */
INLINE __m256 lower(__m256i t, __m256i down, int steps)
{
    if (steps != 32)
        return _mm256_castsi256_ps(_mm256_sub_epi32(t, _mm256_slli_epi32(down, 23)));
    __m256i safe = _mm256_min_epi32(down, _mm256_set1_epi32(96)), rest = _mm256_sub_epi32(down, safe);
    __m256i power = _mm256_slli_epi32(_mm256_sub_epi32(_mm256_set1_epi32(127), rest), 23);
    __m256 factor = _mm256_castsi256_ps(_mm256_sub_epi32(t, _mm256_slli_epi32(safe, 23)));
    return _mm256_mul_ps(factor, _mm256_castsi256_ps(power));
}

INLINE int64_t decode(const uint16_t *code, int64_t n, int steps, int shift, const uint32_t *table, float max,
                      float *out)
{
    __m256i octaves = _mm256_set1_epi32(4096 >> shift);
    __m256 maxes = _mm256_set1_ps(max);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        __m256i c = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(code + i)));
        c = _mm256_and_si256(c, _mm256_set1_epi32(4095));
        __m256i u = _mm256_add_epi32(c, _mm256_set1_epi32(1));
        __m256i at = _mm256_and_si256(u, _mm256_set1_epi32(steps - 1));
        __m256i t = _mm256_i32gather_epi32((const int *)table, at, 4);
        __m256 factor = lower(t, _mm256_sub_epi32(octaves, _mm256_srli_epi32(u, shift)), steps);
        __m256i none = _mm256_cmpeq_epi32(c, _mm256_setzero_si256());
        _mm256_storeu_ps(out + i, _mm256_andnot_ps(_mm256_castsi256_ps(none), _mm256_mul_ps(maxes, factor)));
    }
    return i;
}

AVX2 int64_t kv_codes_decode_avx2(const uint16_t *code, int64_t n, int steps, float max, float *out)
{
    if (steps == 32)
        return decode(code, n, 32, 5, kv_codes_table32, max, out);
    if (steps == 64)
        return decode(code, n, 64, 6, kv_codes_table64, max, out);
    return decode(code, n, 128, 7, kv_codes_table128, max, out);
}

AVX2 int64_t kv_codes_join_avx2(const uint8_t *hi, const uint8_t *lo, int64_t n, uint16_t *code)
{
    int64_t i = 0;
    for (; i + WIDE <= n; i += WIDE) {
        __m256i two = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(lo + i / 2)));
        __m256i low = _mm256_and_si256(_mm256_or_si256(two, _mm256_slli_epi16(two, 4)), _mm256_set1_epi8(15));
        __m256i a = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(hi + i)));
        __m256i b = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(hi + i + WIDE / 2)));
        a = _mm256_or_si256(_mm256_slli_epi16(a, 4), _mm256_cvtepu8_epi16(_mm256_castsi256_si128(low)));
        b = _mm256_or_si256(_mm256_slli_epi16(b, 4), _mm256_cvtepu8_epi16(_mm256_extracti128_si256(low, 1)));
        _mm256_storeu_si256((__m256i *)(code + i), a);
        _mm256_storeu_si256((__m256i *)(code + i + WIDE / 2), b);
    }
    return i;
}

/* 16-bit lanes below 256 of a and b, in order, as bytes: the instruction packs within halves. */
INLINE __m256i bytes_of(__m256i a, __m256i b)
{
    return _mm256_permute4x64_epi64(_mm256_packus_epi16(a, b), 0xd8);
}

AVX2 int64_t kv_codes_split_avx2(const uint16_t *code, int64_t n, uint8_t *hi, uint8_t *lo)
{
    __m256i fifteen = _mm256_set1_epi16(15), byte = _mm256_set1_epi16(255), weights = _mm256_set1_epi16(0x1001);
    int64_t i = 0;
    for (; i + WIDE <= n; i += WIDE) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(code + i));
        __m256i b = _mm256_loadu_si256((const __m256i *)(code + i + WIDE / 2));
        __m256i high =
            bytes_of(_mm256_and_si256(_mm256_srli_epi16(a, 4), byte), _mm256_and_si256(_mm256_srli_epi16(b, 4), byte));
        __m256i low = bytes_of(_mm256_and_si256(a, fifteen), _mm256_and_si256(b, fifteen));
        low = _mm256_maddubs_epi16(low, weights);
        _mm256_storeu_si256((__m256i *)(hi + i), high);
        _mm_storeu_si128((__m128i *)(lo + i / 2), _mm256_castsi256_si128(bytes_of(low, low)));
    }
    return i;
}
#else
enum { NOT_FOR_THIS_MACHINE };
#endif
