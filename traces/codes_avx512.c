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
#else
enum { NOT_FOR_THIS_MACHINE };
#endif
