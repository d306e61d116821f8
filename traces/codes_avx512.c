/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Decoding with the table in registers. */
#include "traces/codes_paths.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#define INLINE static inline __attribute__((always_inline)) AVX512

enum { LANES = 16 };

/* table[i % steps]: a permutation looks up 32 numbers, blends choose among those. */
INLINE __m512i look_up(const __m512i *table, int steps, __m512i i)
{
    __m512i t = _mm512_permutex2var_epi32(table[0], i, table[1]);
    if (steps == 32)
        return t;
    __mmask16 bit5 = _mm512_test_epi32_mask(i, _mm512_set1_epi32(32));
    t = _mm512_mask_mov_epi32(t, bit5, _mm512_permutex2var_epi32(table[2], i, table[3]));
    if (steps == 64)
        return t;
    __m512i high = _mm512_permutex2var_epi32(table[4], i, table[5]);
    high = _mm512_mask_mov_epi32(high, bit5, _mm512_permutex2var_epi32(table[6], i, table[7]));
    return _mm512_mask_mov_epi32(t, _mm512_test_epi32_mask(i, _mm512_set1_epi32(64)), high);
}

INLINE int64_t decode(const uint16_t *code, int64_t n, int steps, int shift, const uint32_t *from, float max,
                      float *out)
{
    __m512i table[8], one = _mm512_set1_epi32(1), octaves = _mm512_set1_epi32(4096 >> shift);
    __m512 maxes = _mm512_set1_ps(max);
    for (int i = 0; i < steps / LANES; i++)
        table[i] = _mm512_loadu_si512(from + i * LANES);
    for (int64_t i = 0; i < n; i += LANES) {
        __mmask16 there = (__mmask16)(n - i >= LANES ? 0xffff : (1u << (n - i)) - 1);
        __m512i c = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, code + i));
        c = _mm512_and_si512(c, _mm512_set1_epi32(4095));
        __m512i u = _mm512_add_epi32(c, one), t = look_up(table, steps, u);
        __m512i exponent = _mm512_sub_epi32(_mm512_srli_epi32(u, (unsigned)shift), octaves);
        __m512 factor;
        if (steps == 32) /* rounds where it is subnormal */
            factor = _mm512_scalef_ps(_mm512_castsi512_ps(t), _mm512_cvtepi32_ps(exponent));
        else
            factor = _mm512_castsi512_ps(_mm512_add_epi32(t, _mm512_slli_epi32(exponent, 23)));
        __mmask16 some = _mm512_test_epi32_mask(c, c);
        _mm512_mask_storeu_ps(out + i, there, _mm512_maskz_mul_ps(some, maxes, factor));
    }
    return n;
}

AVX512 int64_t kv_codes_decode_avx512(const uint16_t *code, int64_t n, int steps, float max, float *out)
{
    if (steps == 32)
        return decode(code, n, 32, 5, kv_codes_table32, max, out);
    if (steps == 64)
        return decode(code, n, 64, 6, kv_codes_table64, max, out);
    return decode(code, n, 128, 7, kv_codes_table128, max, out);
}

/* The upper, or lower, halves of the table's entries, in one or two pairs of registers. */
INLINE void halves(const uint32_t *from, int steps, int shift, __m512i out[4])
{
    for (int i = 0; i < steps / 32; i++) {
        __m512i a = _mm512_loadu_si512(from + i * 32), b = _mm512_loadu_si512(from + i * 32 + LANES);
        __m256i low = _mm512_cvtepi32_epi16(_mm512_srli_epi32(a, (unsigned)shift));
        __m256i high = _mm512_cvtepi32_epi16(_mm512_srli_epi32(b, (unsigned)shift));
        out[i] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    }
}

INLINE __m512i look_up_half(const __m512i table[4], int steps, __m512i u, __mmask32 upper)
{
    __m512i t = _mm512_permutex2var_epi16(table[0], u, table[1]);
    return steps == 64 ? t : _mm512_mask_mov_epi16(t, upper, _mm512_permutex2var_epi16(table[2], u, table[3]));
}

/* 32 codes at a time stay 16 bits wide, each half of a factor for itself, until the product with the maximum. */
INLINE int64_t planes(const uint8_t *hi, const uint8_t *lo, int64_t n, int steps, int shift, const uint32_t *from,
                      float max, uint16_t *code, float *out)
{
    __m512i upper[4], lower[4], one = _mm512_set1_epi16(1), nibbles = _mm512_set1_epi32(0x000f000f);
    __m512i whole = _mm512_set1_epi16((short)-steps), bias = _mm512_set1_epi16((short)((4096 >> shift) << 7));
    __m512i quads = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7); /* so that unpacking leaves codes in order */
    __m512 maxes = _mm512_set1_ps(max);
    int64_t i = 0;
    halves(from, steps, 16, upper);
    halves(from, steps, 0, lower);
    for (int k = 0; k < steps / 32; k++)
        upper[k] = _mm512_sub_epi16(upper[k], bias);
    for (; i + 32 <= n; i += 32) {
        __m512i h = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(hi + i)));
        __m512i l = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(lo + i / 2)));
        l = _mm512_ternarylogic_epi32(l, _mm512_slli_epi32(l, 12), nibbles, 0xa8); /* (a | b) & c */
        __m512i c = _mm512_or_si512(_mm512_slli_epi16(h, 4), l);
        _mm512_storeu_si512(code + i, c);
        __mmask32 some = _mm512_test_epi16_mask(c, c);
        __m512i u = _mm512_permutexvar_epi64(quads, _mm512_add_epi16(c, one));
        __mmask32 bit6 = _mm512_test_epi16_mask(u, _mm512_set1_epi16(64)); /* used at 128 steps */
        __m512i exponent = _mm512_and_si512(u, whole); /* octaves, where an exponent's lowest bit is at 128 steps */
        exponent = steps == 64 ? _mm512_add_epi16(exponent, exponent) : exponent;
        __m512i high = _mm512_add_epi16(look_up_half(upper, steps, u, bit6), exponent);
        __m512i low = look_up_half(lower, steps, u, bit6);
        __m512 a = _mm512_castsi512_ps(_mm512_unpacklo_epi16(low, high));
        __m512 b = _mm512_castsi512_ps(_mm512_unpackhi_epi16(low, high));
        _mm512_storeu_ps(out + i, _mm512_maskz_mul_ps((__mmask16)some, maxes, a));
        _mm512_storeu_ps(out + i + LANES, _mm512_maskz_mul_ps((__mmask16)(some >> 16), maxes, b));
    }
    return i;
}

AVX512 int64_t kv_codes_planes_avx512(const uint8_t *hi, const uint8_t *lo, int64_t n, int steps, float max,
                                      uint16_t *code, float *out)
{
    if (steps == 64)
        return planes(hi, lo, n, 64, 6, kv_codes_table64, max, code, out);
    return steps == 128 ? planes(hi, lo, n, 128, 7, kv_codes_table128, max, code, out) : 0;
}
#else
enum { NOT_FOR_THIS_MACHINE };
#endif
