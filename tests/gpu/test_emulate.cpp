/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The emulated device itself: matrix instructions against plain sums, barriers, what lanes tell each other. */
#include "engine/cuda/device.cuh"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matrices),
        cmocka_unit_test(test_barriers),
        cmocka_unit_test(test_copies),
        cmocka_unit_test(test_bf16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
