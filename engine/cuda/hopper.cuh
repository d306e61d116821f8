/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What kernels for compute capability 9.0 are written in: barriers in shared memory, bulk copies of boxes, products of
 * a warpgroup (4 warps, the first a multiple of 4). Only files compiled for sm_90a take it in. Sections are the PTX
 * ISA's; what CUTLASS (include/cute/atom/mma_traits_sm90_gmma.hpp) says of layouts is the same.
 *
 * A tile here is rows of 64 bf16, 128 bytes each, from a multiple of 1024 bytes on; the 16-byte chunks of a row lie
 * mixed: chunk c of row r at c ^ r % 8, as bulk copies write it and products read it (5.5.6, swizzling modes: 128B). */
#ifndef KV_CUDA_HOPPER_CUH
#define KV_CUDA_HOPPER_CUH

#include "engine/cuda/device.cuh"

enum { KV_TILE_COLUMNS = 64, KV_TILE_ROW = 2 * KV_TILE_COLUMNS, KV_TILE_EIGHT_ROWS = 8 * KV_TILE_ROW };

#ifdef KV_EMULATED
#include "tests/gpu/emulate_hopper.h"
#else

static __device__ __forceinline__ uint32_t kv_shared_address(const void *shared)
{
    return (uint32_t)__cvta_generic_to_shared(shared);
}

/* 9.7.13.15: a barrier's phase is over when `arrivals` have arrived and all bytes that they expected have come. Phases
 * alternate between 0 and 1; to wait for the one before the first is to wait for nothing. */
static __device__ __forceinline__ void kv_barrier_init(uint64_t *barrier, int arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(kv_shared_address(barrier)), "r"(arrivals) : "memory");
}
/* By who made them; a __syncthreads behind it, and all may use them, bulk copies too. */
static __device__ __forceinline__ void kv_barriers_made(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
static __device__ __forceinline__ void kv_barrier_arrive(uint64_t *barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(kv_shared_address(barrier)) : "memory");
}
static __device__ __forceinline__ void kv_barrier_arrive_expecting(uint64_t *barrier, int bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(kv_shared_address(barrier)), "r"(bytes)
                 : "memory");
}
static __device__ __forceinline__ void kv_barrier_wait(uint64_t *barrier, int phase)
{
    uint32_t at = kv_shared_address(barrier), over = 0;
    while (!over)
        asm volatile("{\n.reg .pred over;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2;\n"
                     "selp.b32 %0, 1, 0, over;\n}"
                     : "=r"(over)
                     : "r"(at), "r"(phase)
                     : "memory");
}

/* 9.7.9.27 (cp.async.bulk.tensor): the map's box whose first element is (row, column), by one thread; its bytes are
 * counted by the barrier. */
static __device__ __forceinline__ void kv_copy_box(void *shared, const struct kv_gpu_boxes *map, int32_t column,
                                                   int32_t row, uint64_t *barrier)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
                 "[%4];" ::"r"(kv_shared_address(shared)),
                 "l"(map), "r"(column), "r"(row), "r"(kv_shared_address(barrier))
                 : "memory");
}
static __device__ __forceinline__ void kv_prefetch_boxes(const struct kv_gpu_boxes *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* What this thread wrote into shared memory is there for products and bulk copies (9.7.15.4, async proxy). */
static __device__ __forceinline__ void kv_fence_products(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* 9.7.13.1 (bar): of the threads that take part, some may arrive without waiting. Number 0 is __syncthreads'. */
static __device__ __forceinline__ void kv_named_wait(int number, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
static __device__ __forceinline__ void kv_named_arrive(int number, int threads)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

/* Registers a thread of the warpgroup has from here on: a multiple of 8 (9.7.19.5, setmaxnreg). */
template <int n> static __device__ __forceinline__ void kv_fewer_registers(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n));
}
template <int n> static __device__ __forceinline__ void kv_more_registers(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n));
}

/* 9.7.15.7: a fence between what the warpgroup did with registers and products that use them; products in groups; a
 * wait that leaves the newest n groups under way. What is multiplied must stay, and sums not be touched, till then. */
static __device__ __forceinline__ void kv_products_fence(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
static __device__ __forceinline__ void kv_products_group(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int n> static __device__ __forceinline__ void kv_products_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(n) : "memory");
}
/* The compiler must not move what it does with these across: it knows nothing of products under way. */
template <int n> static __device__ __forceinline__ void kv_products_hold(float (&sum)[n])
{
    KV_UNROLL
    for (int i = 0; i < n; i++)
        asm volatile("" : "+f"(sum[i])::"memory");
}
template <int n> static __device__ __forceinline__ void kv_products_hold(uint32_t (&left)[n])
{
    KV_UNROLL
    for (int i = 0; i < n; i++)
        asm volatile("" : "+r"(left[i])::"memory");
}

#define KV_SUMS_8(d, i)                                                                                                \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]),        \
        "+f"(d[i + 7])
#define KV_SUMS_32(d, i) KV_SUMS_8(d, i), KV_SUMS_8(d, i + 8), KV_SUMS_8(d, i + 16), KV_SUMS_8(d, i + 24)
#define KV_PLACES_32                                                                                                   \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "   \
    "%24, %25, %26, %27, %28, %29, %30, %31"
#define KV_PLACES_64                                                                                                   \
    KV_PLACES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, "   \
                 "%51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

/* 9.7.15.5 (wgmma.mma_async), m64nNk16: sums (64, N) += a (64, 16) b (16, N), bf16 times bf16, fp32 sums; or = where
 * not `add`. Registers (9.7.15.5.1.1): thread t of the warpgroup has of the sums [4 n + 2 h + i] row 16 (t / 32) + t %
 * 32 / 4 + 8 h, column 8 n + 2 (t % 4) + i; of `a` the same with n < 2, pairs of columns in one word.
 *
 * rows_128: a and b are tiles' rows, k along them. columns: a is in registers; b is a tile's rows, N along them. */
static __device__ __forceinline__ void kv_multiply_rows_128(float (&d)[64], uint64_t a, uint64_t b, bool add)
{
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" KV_PLACES_64 "}, %64, %65, add, 1, 1, 0, "
                 "0;\n}"
                 : KV_SUMS_32(d, 0), KV_SUMS_32(d, 32)
                 : "l"(a), "l"(b), "r"((int)add));
}
static __device__ __forceinline__ void kv_multiply_columns(float (&d)[64], const uint32_t *a, uint64_t b)
{
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, 1, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" KV_PLACES_64 "}, {%64, %65, %66, %67}, "
                 "%68, add, 1, 1, 1;\n}"
                 : KV_SUMS_32(d, 0), KV_SUMS_32(d, 32)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
static __device__ __forceinline__ void kv_multiply_columns(float (&d)[32], const uint32_t *a, uint64_t b)
{
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, 1, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" KV_PLACES_32 "}, {%32, %33, %34, %35}, %36, "
                 "add, 1, 1, 1;\n}"
                 : KV_SUMS_32(d, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#endif

/* 9.7.15.5.1.2.2, matrix descriptor: all in units of 16 bytes. Address; bytes from tile to tile along N
 * (9.7.15.5.1.2.1, leading dimension: read only where N lies along rows, and N is more than a row); bytes from eight
 * rows to the next eight (stride dimension); 128-byte swizzle. */
static __device__ __forceinline__ uint64_t kv_rows_at(uint32_t shared, uint32_t tile_bytes)
{
    return (uint64_t)(shared & 0x3ffff) >> 4 | (uint64_t)(tile_bytes >> 4) << 16 |
           (uint64_t)(KV_TILE_EIGHT_ROWS >> 4) << 32 | (uint64_t)1 << 62;
}

#endif
