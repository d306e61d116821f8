/* SPDX-License-Identifier: GPL-3.0-or-later */
/* CUDA's words on the host, for kernels whose logic is to be tested where there is no device. Blocks run one after
 * another; the threads of a block are fibers that run until they wait for each other, so that what a barrier is missing
 * for shows: threads run in an order that changes with every barrier, shared memory starts as NaNs, and what is copied
 * asynchronously arrives no sooner than it is waited for. Matrix instructions do what the PTX manual says of each
 * lane's registers. Speed, memory order and caches are not emulated. */
#ifndef KV_TESTS_EMULATE_H
#define KV_TESTS_EMULATE_H

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <tuple>
#include <vector>

#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __shared__ static
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(8) uint2 {
    uint32_t x, y;
};
struct alignas(16) int4 {
    int32_t x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
static inline uint2 make_uint2(uint32_t x, uint32_t y)
{
    return uint2{x, y};
}
static inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w)
{
    return uint4{x, y, z, w};
}
static inline float2 make_float2(float x, float y)
{
    return float2{x, y};
}
static inline float4 make_float4(float x, float y, float z, float w)
{
    return float4{x, y, z, w};
}

/* Of the thread that runs. */
extern dim3 kv_emulated_thread, kv_emulated_block, kv_emulated_block_size, kv_emulated_grid;
#define threadIdx kv_emulated_thread
#define blockIdx  kv_emulated_block
#define blockDim  kv_emulated_block_size
#define gridDim   kv_emulated_grid

static inline int kv_thread_anew(void)
{
    return (int)threadIdx.x;
}

/* Runs the kernel, or adds that to the recording that is on; the block's threads must be a multiple of 32. */
void kv_emulate(const char *name, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()> &kernel);
/* What a graph repeats, in order; NULL: nothing is recorded. */
extern std::vector<std::function<void()>> *kv_emulated_recording;
/* A launch's arguments are what they are when it is asked for. */
template <typename... P, typename... A> static std::function<void()> kv_emulated_call(void (*kernel)(P...), A... args)
{
    std::tuple<std::decay_t<P>...> all{static_cast<std::decay_t<P>>(args)...};
    return [kernel, all]() { std::apply(kernel, all); };
}
#define KV_LAUNCH(g, kernel, grid, block, shared, ...)                                                                 \
    do {                                                                                                               \
        (void)(g);                                                                                                     \
        kv_emulate(#kernel, (grid), (block), (size_t)(shared), kv_emulated_call(kernel, __VA_ARGS__));                 \
    } while (0)

/* Blocks so far of kernels whose names contain `name`. */
long kv_emulated_blocks(const char *name);

unsigned char *kv_emulated_shared(void);
#define KV_SHARED_BYTES(name) unsigned char *const name = kv_emulated_shared()

void kv_emulated_block_barrier(void);
void kv_emulated_warp_barrier(void);
/* 64 bytes of each lane of this warp, for what lanes tell each other: one of two sets, turn by turn. */
unsigned char *kv_emulated_lane(int lane);
void kv_emulated_turn(void);
int kv_emulated_lane_number(void);

#define __syncthreads() kv_emulated_block_barrier()
#define __syncwarp(...) kv_emulated_warp_barrier()
#define __threadfence() ((void)0)
#define __ldg(p)        (*(p))

/* Puts a value where the others see it, waits for them, takes one of theirs. */
template <typename T> static T kv_emulated_exchange(T value, int from)
{
    T got;
    std::memcpy(kv_emulated_lane(kv_emulated_lane_number()), &value, sizeof value);
    kv_emulated_warp_barrier();
    std::memcpy(&got, kv_emulated_lane(from & 31), sizeof got);
    kv_emulated_turn();
    return got;
}
#define __shfl_xor_sync(mask, x, step)  kv_emulated_exchange((x), kv_emulated_lane_number() ^ (int)(step))
#define __shfl_sync(mask, x, lane)      kv_emulated_exchange((x), (int)(lane))
#define __shfl_down_sync(mask, x, step) kv_emulated_exchange_down((x), (int)(step))
template <typename T> static T kv_emulated_exchange_down(T x, int step)
{
    int lane = kv_emulated_lane_number();
    return kv_emulated_exchange(x, lane + step < 32 ? lane + step : lane);
}

template <typename T> static T atomicAdd(T *at, T value)
{
    T before = *at;
    *at = before + value;
    return before;
}

static inline uint32_t __float_as_uint(float x)
{
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
static inline float __uint_as_float(uint32_t bits)
{
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
static inline float rsqrtf(float x)
{
    return 1 / sqrtf(x);
}
template <typename T> static inline T min(T a, T b)
{
    return b < a ? b : a;
}
template <typename T> static inline T max(T a, T b)
{
    return a < b ? b : a;
}

static inline uint16_t kv_emulated_bf16(float x)
{
    uint32_t bits = __float_as_uint(x);
    if (x != x)
        return 0x7fff;
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}
static inline uint32_t kv_pack(float low, float high)
{
    return (uint32_t)kv_emulated_bf16(high) << 16 | kv_emulated_bf16(low);
}

/* To the nearest, the even one of two: what is below 2^-14 in steps of 2^-24, where fp32 rounds at 1/2. */
static inline uint16_t kv_emulated_fp16(float x)
{
    uint32_t bits = __float_as_uint(x), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (x != x)
        return 0x7fff;
    if (size < 0x38800000)
        return (uint16_t)(sign | (__float_as_uint(__uint_as_float(size) + 0.5f) - __float_as_uint(0.5f)));
    if (size >= 0x477ff000)
        return (uint16_t)(sign | 0x7c00);
    return (uint16_t)(sign | (((size + 0xfff + (size >> 13 & 1)) >> 13) - (112 << 10)));
}
static inline float kv_emulated_from_fp16(uint32_t x)
{
    uint32_t sign = (x & 0x8000) << 16, size = (x & 0x7fff) << 13;
    if (size >= 0x0f800000) /* infinite, or a NaN */
        return __uint_as_float(sign | size | 0x7f800000);
    return __uint_as_float(sign | __float_as_uint(__uint_as_float(size) * 0x1p112f));
}
static inline uint32_t kv_pack_fp16(float low, float high)
{
    return (uint32_t)kv_emulated_fp16(high) << 16 | kv_emulated_fp16(low);
}
static inline float2 kv_unpack_fp16(uint32_t both)
{
    return make_float2(kv_emulated_from_fp16(both & 0xffff), kv_emulated_from_fp16(both >> 16));
}

#define KV_UNROLL
#define KV_UNROLL_BY(n)
static inline float kv_exp2(float x)
{
    float y = exp2f(x);
    return y < FLT_MIN ? 0 : y;
}

void kv_mma(float c[4], const uint32_t a[4], const uint32_t b[2]);
void kv_mma_fp16(float c[4], const uint32_t a[4], const uint32_t b[2]);
/* Matrices so far whose 8 rows lay partly in the same banks of shared memory, which costs time. */
extern long kv_emulated_conflicts;
void kv_load_matrices(uint32_t out[4], const void *row);
void kv_load_matrices_transposed(uint32_t out[4], const void *row);
void kv_emulated_copy_later(void *shared, const void *global, bool there);
/* Read here too, where a sanitizer watches. */
static inline void kv_copy_later(void *shared, const void *global, bool there)
{
    if (there)
        (void)*(const volatile uint32_t *)global;
    kv_emulated_copy_later(shared, global, there);
}
void kv_copy_group(void);
void kv_emulated_copy_wait(int left);
template <int n> static void kv_copy_wait(void)
{
    kv_emulated_copy_wait(n);
}

#endif
