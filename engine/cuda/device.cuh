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

/* n neighbours, 1, 2 or 8 of them, that begin at a multiple of their bytes (of 16 for more). */
template <int n> static __device__ __forceinline__ void kv_load(float *out, const kv_bf16 *x)
{
    if constexpr (n == 8) {
        uint4 all = *(const uint4 *)(const void *)x;
        const uint32_t both[4] = {all.x, all.y, all.z, all.w};
        for (int i = 0; i < 4; i++) {
            out[2 * i] = kv_low(both[i]);
            out[2 * i + 1] = kv_high(both[i]);
        }
    } else if constexpr (n == 2) {
        uint32_t both = *(const uint32_t *)(const void *)x;
        out[0] = kv_low(both);
        out[1] = kv_high(both);
    } else
        out[0] = kv_from_bf16(x[0]);
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
template <int n> static __device__ __forceinline__ void kv_store(kv_bf16 *out, const float *x)
{
    if constexpr (n == 8)
        *(uint4 *)(void *)out =
            make_uint4(kv_pack(x[0], x[1]), kv_pack(x[2], x[3]), kv_pack(x[4], x[5]), kv_pack(x[6], x[7]));
    else if constexpr (n == 2)
        *(uint32_t *)(void *)out = kv_pack(x[0], x[1]);
    else
        out[0] = kv_to_bf16(x[0]);
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

/* K row of entry i of a lane whose pages are `table`; its V row is page x d elements behind. Entries are fewer than
 * 2^31: their division is the short one. */
static __device__ __forceinline__ kv_bf16 *kv_row_of(const struct kv_cuda_shape &s, const int32_t *table, int64_t i)
{
    uint32_t entry = (uint32_t)i, page = (uint32_t)s.page;
    return s.pool + ((int64_t)table[entry / page] * 2 * s.page + entry % page) * s.d;
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
