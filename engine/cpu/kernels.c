/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "engine/cpu/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include <math.h>
#include <stdlib.h>
#include <string.h>

#pragma GCC diagnostic ignored "-Wpsabi" /* vectors stay within this file */

#define ALWAYS __attribute__((always_inline))
#define PUT(to, vector)                                                                                                \
    do {                                                                                                               \
        __typeof__(vector) v_ = (vector);                                                                              \
        memcpy(to, &v_, sizeof v_);                                                                                    \
    } while (0)

/* bits = the sixteen 16-bit numbers at `from`, as 32-bit ones */
#define WIDEN(bits, from)                                                                                              \
    do {                                                                                                               \
        half_vector half_;                                                                                             \
        memcpy(&half_, from, sizeof half_);                                                                            \
        (bits) = __builtin_convertvector(half_, __typeof__(bits));                                                     \
    } while (0)
typedef uint16_t half_vector __attribute__((vector_size(32), aligned(2)));

#define KERNEL_SET "portable"
#define NAME(x)    x##_portable
#define TARGET
#include "engine/cpu/kernels_body.h"
#undef KERNEL_SET
#undef NAME
#undef TARGET

#if defined(__x86_64__)
#define KERNEL_SET "avx2"
#define NAME(x)    x##_avx2
#define TARGET     __attribute__((target("avx2,fma")))
#include "engine/cpu/kernels_body.h"
#undef KERNEL_SET
#undef NAME
#undef TARGET

/* The compiler makes two halves of it and puts them together again. */
#undef WIDEN
#define WIDEN(bits, from)                                                                                              \
    do {                                                                                                               \
        __m512i wide_ = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(from)));              \
        memcpy(&(bits), &wide_, sizeof wide_);                                                                         \
    } while (0)
#define KERNEL_SET "avx512"
#define NAME(x)    x##_avx512
#define TARGET     __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#include "engine/cpu/kernels_body.h"
#undef KERNEL_SET
#undef NAME
#undef TARGET
#endif

const struct kv_kernels *kv_kernels_best(void)
{
    const char *asked = getenv("KVSIM_SIMD");
    bool any = !asked || !*asked;
#if defined(__x86_64__)
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx512 && (any || !strcmp(asked, "avx512")))
        return &kernels_avx512;
    if (avx2 && (any || strcmp(asked, "portable") != 0))
        return &kernels_avx2;
#endif
    (void)any;
    return &kernels_portable;
}
