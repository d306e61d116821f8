/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The emulated device itself: matrix instructions against plain sums, barriers, what lanes tell each other, bulk
 * copies. */
#include "engine/cuda/hopper.cuh"

extern "C" {
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
}

static float value_of(int i, int over)
{
    return (float)(i * 7 % over) - (float)over / 2;
}

/* c (16, 8) = a (16, 16) b (8, 16)^T, b's rows loaded as they lie and, from `across` (16, 8), transposed. */
__global__ void multiply(const kv_bf16 *a, const kv_bf16 *b, const kv_bf16 *across, float *straight, float *turned)
{
    __shared__ __align__(16) kv_bf16 at_a[16 * 16], at_b[8 * 16], at_across[16 * 8];
    int t = (int)threadIdx.x, group = t / 4, in = t % 4;
    for (int i = t; i < 256; i += 32)
        at_a[i] = a[i];
    for (int i = t; i < 128; i += 32) {
        at_b[i] = b[i];
        at_across[i] = across[i];
    }
    __syncthreads();
    uint32_t left[4], right[4], right_turned[4];
    kv_load_matrices(left, at_a + t % 16 * 16 + t / 16 * 8);
    kv_load_matrices(right, at_b + t % 8 * 16 + t / 8 % 2 * 8);
    kv_load_matrices_transposed(right_turned, at_across + t % 16 * 8);
    float c[4] = {0, 0, 0, 0}, d[4] = {0, 0, 0, 0};
    kv_mma(c, left, right);
    kv_mma(d, left, right_turned);
    for (int i = 0; i < 4; i++) {
        int at = (group + i / 2 * 8) * 8 + 2 * in + i % 2;
        straight[at] = c[i];
        turned[at] = d[i];
    }
}

static void test_matrices(void **state)
{
    kv_bf16 a[256], b[128], across[128];
    float straight[128], turned[128];
    struct kv_gpu *g = nullptr;
    (void)state;
    for (int i = 0; i < 256; i++)
        a[i] = kv_emulated_bf16(value_of(i, 13));
    for (int n = 0; n < 8; n++)
        for (int k = 0; k < 16; k++)
            b[n * 16 + k] = across[k * 8 + n] = kv_emulated_bf16(value_of(n * 16 + k, 11));
    KV_LAUNCH(g, multiply, dim3(1), dim3(32), 0, a, b, across, straight, turned);
    for (int r = 0; r < 16; r++)
        for (int n = 0; n < 8; n++) {
            float sum = 0;
            for (int k = 0; k < 16; k++)
                sum += value_of(r * 16 + k, 13) * value_of(n * 16 + k, 11);
            assert_true(straight[r * 8 + n] == sum);
            assert_true(turned[r * 8 + n] == sum);
        }
}

__global__ void sums(float *out)
{
    __shared__ float all[4];
    int t = (int)threadIdx.x;
    float sum = kv_warp_sum((float)t);
    if (t % 32 == 0)
        all[t / 32] = sum;
    __syncthreads();
    out[blockIdx.x * 128 + threadIdx.x] = all[0] + all[1] + all[2] + all[3] + (float)__shfl_sync(0xffffffffu, t, 5);
}

static void test_barriers(void **state)
{
    float out[3 * 128];
    struct kv_gpu *g = nullptr;
    (void)state;
    KV_LAUNCH(g, sums, dim3(3), dim3(128), 0, out);
    for (int i = 0; i < 3 * 128; i++)
        assert_true(out[i] == 127 * 64 + (float)(i % 128 / 32 * 32 + 5));
}

__global__ void copies(const uint32_t *from, uint32_t *out)
{
    __shared__ __align__(16) uint32_t to[2][128];
    int t = (int)threadIdx.x;
    for (int half = 0; half < 2; half++) {
        kv_copy_later(&to[half][4 * t], from + half * 128 + 4 * t, t != 3);
        kv_copy_group();
    }
    kv_copy_wait<1>();
    __syncthreads();
    out[t] = to[0][t * 3 % 128];
    kv_copy_wait<0>();
    __syncthreads();
    out[32 + t] = to[1][t * 5 % 128];
}

static void test_copies(void **state)
{
    __attribute__((aligned(16))) uint32_t from[256];
    uint32_t out[64];
    struct kv_gpu *g = nullptr;
    (void)state;
    for (uint32_t i = 0; i < 256; i++)
        from[i] = i + 1;
    KV_LAUNCH(g, copies, dim3(1), dim3(32), 0, from, out);
    for (uint32_t t = 0; t < 32; t++) {
        assert_int_equal(out[t], t * 3 % 128 / 4 == 3 ? 0 : t * 3 % 128 + 1);
        assert_int_equal(out[32 + t], t * 5 % 128 / 4 == 3 ? 0 : 128 + t * 5 % 128 + 1);
    }
}

static void test_bf16(void **state)
{
    (void)state;
    assert_int_equal(kv_to_bf16(1.0f), 0x3f80);
    assert_int_equal(kv_to_bf16(1.00390625f), 0x3f80); /* halfway: to even */
    assert_int_equal(kv_to_bf16(1.01171875f), 0x3f82);
    assert_true(kv_low(kv_pack(2.0f, -3.0f)) == 2.0f && kv_high(kv_pack(2.0f, -3.0f)) == -3.0f);
}

/* What CUTLASS says of the same layouts, in its own terms (include/cute/atom/mma_traits_sm90_gmma.hpp): sums and a left
 * side in registers, thread t and value v to an element of (64, N), columns first: ((4,8,4),(2,2,N/8)) :
 * ((128,1,16),(64,8,512)). In shared memory, bytes under Swizzle<3,4,3>: K-major ((8,m),(8,2)) : ((128,SBO),(2,16)),
 * MN- major ((8,8,m),(8,k)) : ((2,16,LBO),(128,SBO)). */
static int cute_element(int t, int v)
{
    return t % 4 * 128 + t / 4 % 8 + t / 32 * 16 + v % 2 * 64 + v / 2 % 2 * 8 + v / 4 * 512;
}
static uint32_t cute_swizzle(uint32_t byte)
{
    return byte ^ (byte & 0x380) >> 3;
}
static uint32_t cute_k_major(uint32_t mn, uint32_t k)
{
    return cute_swizzle(mn % 8 * 128 + mn / 8 * 1024 + k % 8 * 2 + k / 8 * 16);
}
static uint32_t cute_mn_major(uint32_t mn, uint32_t k, uint32_t leading)
{
    return cute_swizzle(mn % 8 * 2 + mn / 8 % 8 * 16 + mn / 64 * leading + k % 8 * 128 + k / 8 * 1024);
}

/* a (64, 32), b (128, 32), c (32, 128) as `tile` has them, all but 16 of k left out: rows = a b^T, columns = a c. */
__global__ void multiply_warpgroup(const unsigned char *tile, int bytes, const float *a, float *rows, float *columns)
{
    KV_SHARED_BYTES(shared);
    int t = (int)threadIdx.x;
    uint32_t base = (kv_shared_address(shared) + 1023) / 1024 * 1024, skip = base - kv_shared_address(shared);
    for (int i = t; i < bytes; i += 128)
        shared[skip + (uint32_t)i] = tile[i];
    float sum[64], other[64];
    uint32_t left[4];
    for (int v = 0; v < 64; v++)
        sum[v] = other[v] = 1;
    for (int i = 0; i < 4; i++)
        left[i] = kv_pack(a[cute_element(t, 2 * i)], a[cute_element(t, 2 * i + 1)]);
    kv_fence_products();
    __syncthreads();
    kv_products_fence();
    kv_multiply_rows_128(sum, kv_rows_at(base + 32, 16), kv_rows_at(base + 8192 + 32, 16), false);
    kv_products_group();
    kv_multiply_columns(other, left, kv_rows_at(base + 8192 + 16384 + 2048, 4096));
    kv_products_group();
    kv_products_wait<1>();
    for (int v = 0; v < 64; v++) {
        rows[cute_element(t, v)] = sum[v];
        columns[cute_element(t, v)] = -1;
        if (other[v] == other[v])
            rows[0] = INFINITY; /* sums that nobody waited for are none */
    }
    kv_products_wait<0>();
    for (int v = 0; v < 64; v++)
        columns[cute_element(t, v)] = other[v];
}

static void test_warpgroup(void **state)
{
    enum { A = 0, B = 8192, C = B + 16384, BYTES = C + 8192 };
    static unsigned char tile[BYTES];
    static float a[64 * 16], rows[64 * 128], columns[64 * 128];
    auto put = [&](uint32_t at, float x) {
        uint16_t half = kv_emulated_bf16(x);
        memcpy(tile + at, &half, sizeof half);
    };
    struct kv_gpu *g = nullptr;
    (void)state;
    for (int m = 0; m < 64; m++)
        for (int k = 0; k < 16; k++) {
            put(A + cute_k_major((uint32_t)m, (uint32_t)k + 16), value_of(m * 16 + k, 13));
            a[k * 64 + m] = value_of(m * 16 + k, 13);
        }
    for (int n = 0; n < 128; n++)
        for (int k = 0; k < 16; k++) {
            put(B + cute_k_major((uint32_t)n, (uint32_t)k + 16), value_of(n * 16 + k, 11));
            put(C + cute_mn_major((uint32_t)n, (uint32_t)k + 16, 4096), value_of(n * 16 + k, 17));
        }
    KV_LAUNCH(g, multiply_warpgroup, dim3(1), dim3(128), BYTES + 1024, tile, (int)BYTES, a, rows, columns);
    for (int m = 0; m < 64; m++)
        for (int n = 0; n < 128; n++) {
            float straight = 0, across = 1;
            for (int k = 0; k < 16; k++) {
                straight += value_of(m * 16 + k, 13) * value_of(n * 16 + k, 11);
                across += value_of(m * 16 + k, 13) * value_of(n * 16 + k, 17);
            }
            assert_true(rows[n * 64 + m] == straight);
            assert_true(columns[n * 64 + m] == across);
        }
}

/* Two boxes by one thread; the others see them in the phase that they came in. */
__global__ void boxes(const struct kv_gpu_boxes map, uint16_t *out)
{
    KV_SHARED_BYTES(shared);
    uint32_t skip = 1024 - kv_shared_address(shared) % 1024;
    uint64_t *full = (uint64_t *)(void *)shared;
    int t = (int)threadIdx.x;
    if (t == 0) {
        kv_barrier_init(full, 1);
        kv_barriers_made();
    }
    __syncthreads();
    for (int turn = 0; turn < 2; turn++) {
        if (t == 0) {
            kv_barrier_arrive_expecting(full, 8 * 128);
            kv_copy_box(shared + skip + turn * 1024, &map, turn * 64, 5 + turn, full);
        }
        kv_barrier_wait(full, turn);
        for (int i = t; i < 512; i += 64)
            memcpy(&out[turn * 512 + i],
                   shared + skip + turn * 1024 + cute_swizzle((uint32_t)(i / 64 * 128 + i % 64 * 2)), 2);
    }
}

static void test_boxes(void **state)
{
    __attribute__((aligned(16))) static uint16_t matrix[16 * 128], out[1024];
    struct kv_emulated_boxes inside = {(const unsigned char *)matrix, 16, 128, 8, 64};
    struct kv_gpu_boxes map;
    struct kv_gpu *g = nullptr;
    (void)state;
    memcpy(&map, &inside, sizeof inside);
    for (uint16_t i = 0; i < 16 * 128; i++)
        matrix[i] = i;
    KV_LAUNCH(g, boxes, dim3(1), dim3(64), 4096, map, out);
    for (int turn = 0; turn < 2; turn++)
        for (int i = 0; i < 512; i++)
            assert_int_equal(out[turn * 512 + i], matrix[(5 + turn + i / 64) * 128 + turn * 64 + i % 64]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matrices), cmocka_unit_test(test_barriers),  cmocka_unit_test(test_copies),
        cmocka_unit_test(test_bf16),     cmocka_unit_test(test_warpgroup), cmocka_unit_test(test_boxes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
