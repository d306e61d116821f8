/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What kernels are written in: CUDA, and the few instructions it has no words for. With KV_EMULATED the same source is
 * compiled for the host, where tests run it thread by thread (tests/gpu/emulate.h). */
#ifndef KV_CUDA_DEVICE_CUH
#define KV_CUDA_DEVICE_CUH

#include "engine/cuda/kernels.h"

#ifdef KV_EMULATED
#include "tests/gpu/emulate.h"
#else

#include "engine/cuda/gpu_inside.h"

/* kernel<<<grid, block, shared bytes>>>(...) on the device's stream; a launch that fails is remembered. */
#define KV_LAUNCH(g, kernel, grid, block, shared, ...)                                                                 \
    do {                                                                                                               \
        if (kv_gpu_shared((g), (const void *)(kernel), #kernel, (size_t)(shared)))                                     \
            kernel<<<(grid), (block), (size_t)(shared), kv_gpu_stream(g)>>>(__VA_ARGS__);                              \
        kv_gpu_launched((g), #kernel);                                                                                 \
    } while (0)
/* The launch's shared bytes, as an array. */
#define KV_SHARED_BYTES(name)                                                                                          \
    extern __shared__ __align__(128) unsigned char kv_shared_bytes_[];                                                 \
    unsigned char *const name = kv_shared_bytes_

/* c += a b: m16n8k16, bf16 times bf16, fp32 sums (PTX ISA, mma.sync.aligned.m16n8k16.row.col). */
static __device__ __forceinline__ void kv_mma(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* The same of fp16. */
static __device__ __forceinline__ void kv_mma_fp16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Four 8 x 8 matrices of 16-bit elements from shared memory: lane i gives the address of a 16-byte row (of matrix
 * i / 8) and gets elements 2 (i % 4) and the next of row i / 4 of each. `transposed`: of the transposed matrices. */
static __device__ __forceinline__ void kv_load_matrices(uint32_t out[4], const void *row)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(at)
                 : "memory");
}
static __device__ __forceinline__ void kv_load_matrices_transposed(uint32_t out[4], const void *row)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(at)
                 : "memory");
}

/* 16 bytes into shared memory, later; zeros where not `there`. Copies are done in groups: kv_copy_wait leaves the
 * newest n groups of this thread under way. Others see them after a __syncthreads behind that. */
static __device__ __forceinline__ void kv_copy_later(void *shared, const void *global, bool there)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(shared);
    int bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(global), "r"(bytes) : "memory");
}
static __device__ __forceinline__ void kv_copy_group(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int n> static __device__ __forceinline__ void kv_copy_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}

/* threadIdx.x, asked anew: what is computed from it is not kept in registers. */
static __device__ __forceinline__ int kv_thread_anew(void)
{
    int x;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
    return x;
}

/* Loops whose arrays must lie in registers; loops that are to be unrolled no further. */
#define KV_UNROLL       _Pragma("unroll")
#define KV_UNROLL_BY(n) KV_PRAGMA_(unroll n)
#define KV_PRAGMA_(x)   _Pragma(#x)

/* 2^x as the device does it (2 ulp); below 2^-126 it is 0. */
static __device__ __forceinline__ float kv_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Two floats as bf16, nearest even: `low` in the low half. */
static __device__ __forceinline__ uint32_t kv_pack(float low, float high)
{
    uint32_t both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

/* The same as fp16, infinite from 65520 on; and back. */
static __device__ __forceinline__ uint32_t kv_pack_fp16(float low, float high)
{
    uint32_t both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}
static __device__ __forceinline__ float2 kv_unpack_fp16(uint32_t both)
{
    float2 x;
    asm("{.reg .b16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high;}"
        : "=f"(x.x), "=f"(x.y)
        : "r"(both));
    return x;
}

#endif

static __device__ __forceinline__ float kv_from_bf16(kv_bf16 x)
{
    return __uint_as_float((uint32_t)x << 16);
}
static __device__ __forceinline__ float kv_low(uint32_t both)
{
    return __uint_as_float(both << 16);
}
static __device__ __forceinline__ float kv_high(uint32_t both)
{
    return __uint_as_float(both & 0xffff0000u);
}
static __device__ __forceinline__ kv_bf16 kv_to_bf16(float x)
{
    return (kv_bf16)(kv_pack(x, 0.0f) & 0xffffu);
}

/* Elements i and i + d / 2 of a head, turned by an angle. Which product is rounded is said here, not left to a
 * compiler: so whoever turns a key, and rounds it then, has the same bits. */
static __device__ __forceinline__ float kv_turned_low(float low, float high, float cosine, float sine)
{
    return fmaf(low, cosine, -(high * sine));
}
static __device__ __forceinline__ float kv_turned_high(float low, float high, float cosine, float sine)
{
    return fmaf(high, cosine, low * sine);
}

/* Over the 32 lanes of a warp, in all of them. */
static __device__ __forceinline__ float kv_warp_sum(float x)
{
    for (int step = 16; step; step /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}
static __device__ __forceinline__ float kv_warp_max(float x)
{
    for (int step = 16; step; step /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

/* ---- elements of entries ---- */

/* Beside kv_bf16. fp8 is e4m3: a sign, 4 bits of exponent, 3 behind the point; 448 at most, no infinity, 0x7f a NaN. */
struct kv_fp16 {
    uint16_t bits;
};
struct kv_fp8 {
    uint8_t bits;
};

/* fp8 by arithmetic on fp32, where no instruction has it: to the nearest, the even one of two; what is larger becomes
 * 448. Below 2^-6 steps are 2^-9, which is where fp32 rounds what is added to 2^14. */
static __device__ __forceinline__ uint32_t kv_round_fp8(float x)
{
    uint32_t bits = __float_as_uint(x), sign = bits >> 24 & 0x80, size = bits & 0x7fffffffu;
    if (size > 0x7f800000u)
        return 0x7f;
    if (size < 0x3c800000u)
        return sign | (__float_as_uint(__uint_as_float(size) + 0x1p14f) - 0x46800000u);
    size = size < 0x43e00000u ? size : 0x43e00000u;
    return sign | (((size + 0x7ffffu + (size >> 20 & 1)) >> 20) - (120u << 3));
}
/* Its exponent counts from 2^-7, fp32's from 2^-127; so do those of the smallest, without a leading 1. */
static __device__ __forceinline__ float kv_widen_fp8(uint32_t x)
{
    float size = __uint_as_float((x & 0x7f) << 20) * 0x1p120f;
    return (x & 0x7f) == 0x7f ? __uint_as_float(0x7fffffffu) : x & 0x80 ? -size : size;
}

/* Two floats as fp8 in 16 bits, `low` in the low half, and two fp8 as fp16, which has all of them. From sm_89 on these
 * are instructions. They give what the functions above do: PTX ISA, cvt: .rn is to the nearest, ties to even;
 * .satfinite makes infinities and what is out of range the largest of its sign, and of a NaN a NaN (whose sign nobody
 * looks at); subnormals count, as there is no .ftz. The way back is exact. */
static __device__ __forceinline__ uint32_t kv_pack_fp8(float low, float high)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    uint16_t both;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(both) : "f"(high), "f"(low));
    return both;
#else
    return kv_round_fp8(high) << 8 | kv_round_fp8(low);
#endif
}
static __device__ __forceinline__ uint32_t kv_fp8_as_fp16(uint32_t both)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    uint32_t wide;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(wide) : "h"((uint16_t)both));
    return wide;
#else
    return kv_pack_fp16(kv_widen_fp8(both & 0xff), kv_widen_fp8(both >> 8 & 0xff));
#endif
}
static __device__ __forceinline__ float2 kv_unpack_fp8(uint32_t both)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    return kv_unpack_fp16(kv_fp8_as_fp16(both));
#else
    return make_float2(kv_widen_fp8(both & 0xff), kv_widen_fp8(both >> 8 & 0xff));
#endif
}

/* What matrix units multiply: two elements in 32 bits. */
template <typename M> struct kv_pair;
template <> struct kv_pair<kv_bf16> {
    static __device__ __forceinline__ uint32_t pack(float low, float high)
    {
        return kv_pack(low, high);
    }
    static __device__ __forceinline__ float2 unpack(uint32_t both)
    {
        return make_float2(kv_low(both), kv_high(both));
    }
    static __device__ __forceinline__ void multiply(float c[4], const uint32_t a[4], const uint32_t b[2])
    {
        kv_mma(c, a, b);
    }
};
template <> struct kv_pair<kv_fp16> {
    static __device__ __forceinline__ uint32_t pack(float low, float high)
    {
        return kv_pack_fp16(low, high);
    }
    static __device__ __forceinline__ float2 unpack(uint32_t both)
    {
        return kv_unpack_fp16(both);
    }
    static __device__ __forceinline__ void multiply(float c[4], const uint32_t a[4], const uint32_t b[2])
    {
        kv_mma_fp16(c, a, b);
    }
};

/* What entries of elements E are multiplied as, and what queries (kv_query) then are: fp16 has all bits of an fp16 and
 * of an fp8. */
template <typename E> struct kv_matrix_of {
    typedef kv_fp16 type;
};
template <> struct kv_matrix_of<kv_bf16> {
    typedef kv_bf16 type;
};
template <typename E> using kv_matrix = typename kv_matrix_of<E>::type;

/* Calls launch(E()) with the shape's elements. */
template <typename F> static inline void kv_with_elements(const struct kv_cuda_shape *s, F launch)
{
    if (s->entry == KV_CUDA_FP8)
        launch(kv_fp8());
    else if (s->entry == KV_CUDA_FP16)
        launch(kv_fp16());
    else
        launch(kv_bf16());
}

/* n neighbours, 1, 2 or 8 of them, that begin at a multiple of their bytes (of 16 for more). */
template <int n, typename M> static __device__ __forceinline__ void kv_load_words(float *out, const M *x)
{
    if constexpr (n == 8) {
        uint4 all = *(const uint4 *)(const void *)x;
        const uint32_t both[4] = {all.x, all.y, all.z, all.w};
        for (int i = 0; i < 4; i++) {
            float2 two = kv_pair<M>::unpack(both[i]);
            out[2 * i] = two.x;
            out[2 * i + 1] = two.y;
        }
    } else if constexpr (n == 2) {
        float2 two = kv_pair<M>::unpack(*(const uint32_t *)(const void *)x);
        out[0] = two.x;
        out[1] = two.y;
    } else
        out[0] = kv_pair<M>::unpack(*(const uint16_t *)(const void *)x).x;
}
template <int n> static __device__ __forceinline__ void kv_load(float *out, const kv_bf16 *x)
{
    kv_load_words<n>(out, x);
}
template <int n> static __device__ __forceinline__ void kv_load(float *out, const kv_fp16 *x)
{
    kv_load_words<n>(out, x);
}
template <int n> static __device__ __forceinline__ void kv_load(float *out, const kv_fp8 *x)
{
    if constexpr (n == 8) {
        uint2 all = *(const uint2 *)(const void *)x;
        const uint32_t both[4] = {all.x & 0xffff, all.x >> 16, all.y & 0xffff, all.y >> 16};
        for (int i = 0; i < 4; i++) {
            float2 two = kv_unpack_fp8(both[i]);
            out[2 * i] = two.x;
            out[2 * i + 1] = two.y;
        }
    } else if constexpr (n == 2) {
        float2 two = kv_unpack_fp8(*(const uint16_t *)(const void *)x);
        out[0] = two.x;
        out[1] = two.y;
    } else
        out[0] = kv_unpack_fp8(x->bits).x;
}
template <int n> static __device__ __forceinline__ void kv_load(float *out, const float *x)
{
    if constexpr (n == 8)
        for (int i = 0; i < 8; i += 4) {
            float4 four = *(const float4 *)(const void *)(x + i);
            out[i] = four.x;
            out[i + 1] = four.y;
            out[i + 2] = four.z;
            out[i + 3] = four.w;
        }
    else
        for (int i = 0; i < n; i++)
            out[i] = x[i];
}
template <int n, typename M> static __device__ __forceinline__ void kv_store_words(M *out, const float *x)
{
    if constexpr (n == 8)
        *(uint4 *)(void *)out = make_uint4(kv_pair<M>::pack(x[0], x[1]), kv_pair<M>::pack(x[2], x[3]),
                                           kv_pair<M>::pack(x[4], x[5]), kv_pair<M>::pack(x[6], x[7]));
    else if constexpr (n == 2)
        *(uint32_t *)(void *)out = kv_pair<M>::pack(x[0], x[1]);
    else
        *(uint16_t *)(void *)out = (uint16_t)(kv_pair<M>::pack(x[0], 0.0f) & 0xffffu);
}
template <int n> static __device__ __forceinline__ void kv_store(kv_bf16 *out, const float *x)
{
    kv_store_words<n>(out, x);
}
template <int n> static __device__ __forceinline__ void kv_store(kv_fp16 *out, const float *x)
{
    kv_store_words<n>(out, x);
}
template <int n> static __device__ __forceinline__ void kv_store(kv_fp8 *out, const float *x)
{
    if constexpr (n == 8)
        *(uint2 *)(void *)out = make_uint2(kv_pack_fp8(x[0], x[1]) | kv_pack_fp8(x[2], x[3]) << 16,
                                           kv_pack_fp8(x[4], x[5]) | kv_pack_fp8(x[6], x[7]) << 16);
    else if constexpr (n == 2)
        *(uint16_t *)(void *)out = (uint16_t)kv_pack_fp8(x[0], x[1]);
    else
        out->bits = (uint8_t)kv_pack_fp8(x[0], 0.0f);
}
template <int n> static __device__ __forceinline__ void kv_store(float *out, const float *x)
{
    if constexpr (n == 8)
        for (int i = 0; i < 8; i += 4)
            *(float4 *)(void *)(out + i) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
    else
        for (int i = 0; i < n; i++)
            out[i] = x[i];
}

/* Eight neighbours of an entry, as matrix units want them. */
template <typename E> static __device__ __forceinline__ uint4 kv_matrix_words(const E *x)
{
    if constexpr (sizeof(E) == 2)
        return *(const uint4 *)(const void *)x;
    else {
        uint2 all = *(const uint2 *)(const void *)x;
        return make_uint4(kv_fp8_as_fp16(all.x & 0xffff), kv_fp8_as_fp16(all.x >> 16), kv_fp8_as_fp16(all.y & 0xffff),
                          kv_fp8_as_fp16(all.y >> 16));
    }
}

/* Number of the K row of entry i of a lane whose pages are `table`; its V row is a page's number of entries behind.
 * Entries are fewer than 2^31: their division is the short one. */
static __device__ __forceinline__ int64_t kv_row_number(const struct kv_cuda_shape &s, const int32_t *table, int64_t i)
{
    uint32_t entry = (uint32_t)i, page = (uint32_t)s.page;
    return (int64_t)table[entry / page] * 2 * s.page + entry % page;
}
template <typename E = kv_bf16>
static __device__ __forceinline__ E *kv_row_of(const struct kv_cuda_shape &s, const int32_t *table, int64_t i)
{
    return (E *)s.pool + kv_row_number(s, table, i) * s.d;
}
static __device__ __forceinline__ const int32_t *kv_table_of(const struct kv_cuda_part &p, int32_t layer, int32_t head)
{
    return p.table + ((int64_t)layer * p.heads + head) * p.table_room;
}
static __device__ __forceinline__ int64_t kv_length_of(const struct kv_cuda_part &p, int32_t layer, int32_t head)
{
    return p.length[(int64_t)layer * p.heads + head];
}

#endif
