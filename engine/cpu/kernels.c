/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "engine/cpu/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif
#include <math.h>
#include <stdlib.h>
#include <string.h>

#pragma GCC diagnostic ignored "-Wpsabi" /* vectors stay within this file */

#define ALWAYS __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")
#define PUT(to, vector)                                                                                                \
    do {                                                                                                               \
        __typeof__(vector) v_ = (vector);                                                                              \
        memcpy(to, &v_, sizeof v_);                                                                                    \
    } while (0)

/* What a set says of itself, beside its name: lanes of a vector, rows whose sums fit its registers, a x b + c, and the
 * vector of the 16-bit numbers at `from`. */

#define KERNEL_SET "portable"
#define NAME(x)    x##_portable
#define TARGET
#define LANES        16
#define MOST_ROWS    4
#define FMA(a, b, c) ((c) + (a) * (b))
#define FROM_BF16(v, from)                                                                                             \
    do {                                                                                                               \
        half_vector half_;                                                                                             \
        memcpy(&half_, from, sizeof half_);                                                                            \
        (v) = (wide_portable)(__builtin_convertvector(half_, bits_vector) << 16);                                      \
    } while (0)
#define FROM_F16(v, from)                                                                                              \
    do {                                                                                                               \
        struct kv_tensor half_ = {.type = KV_TENSOR_F16, .rows = 1, .columns = LANES, .data = from};                   \
        float float_[LANES];                                                                                           \
        kv_tensor_read(&half_, 0, LANES, float_);                                                                      \
        memcpy(&(v), float_, sizeof float_);                                                                           \
    } while (0)
typedef uint16_t half_vector __attribute__((vector_size(32), aligned(2)));
typedef uint32_t bits_vector __attribute__((vector_size(64)));
#include "engine/cpu/kernels_body.h"

#if defined(__x86_64__)
#define KERNEL_SET   "avx2"
#define NAME(x)      x##_avx2
#define TARGET       __attribute__((target("avx2,fma,f16c")))
#define LANES        8
#define MOST_ROWS    4
#define FMA(a, b, c) ((wide_avx2)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define FROM_BF16(v, from)                                                                                             \
    (v) = ((wide_avx2)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(from))), \
                                        16))
#define FROM_F16(v, from) (v) = ((wide_avx2)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(from))))
#include "engine/cpu/kernels_body.h"

#define KERNEL_SET   "avx512"
#define NAME(x)      x##_avx512
#define TARGET       __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#define LANES        16
#define MOST_ROWS    8
#define FMA(a, b, c) ((wide_avx512)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define FROM_BF16(v, from)                                                                                             \
    (v) = ((wide_avx512)_mm512_slli_epi32(                                                                             \
        _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(from))), 16))
#define FROM_F16(v, from)                                                                                              \
    (v) = ((wide_avx512)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(from))))
#include "engine/cpu/kernels_body.h"
#endif

#if defined(__x86_64__)
/* Whether it turns halves into floats, which __builtin_cpu_supports of clang 14 does not know. */
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && c & bit_F16C;
}
#endif

const struct kv_kernels *kv_kernels_best(void)
{
    const char *asked = getenv("KVSIM_SIMD");
    bool any = !asked || !*asked;
#if defined(__x86_64__)
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    if (avx512 && (any || !strcmp(asked, "avx512")))
        return &kernels_avx512;
    if (avx2 && (any || strcmp(asked, "portable") != 0))
        return &kernels_avx2;
#endif
    (void)any;
    return &kernels_portable;
}
