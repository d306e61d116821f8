/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Products of a few rows, as decode steps have them: reading the weights is all that takes time, so they are read once,
 * 16 bytes a lane, by warps that each add up some outputs for all rows. A sum has the same order whatever the number of
 * rows, so a sequence's numbers do not depend on who else is in the step. */
#include "engine/cuda/device.cuh"

enum { WARPS = 8, LANES = 32, THREADS = WARPS * LANES, EIGHT = 8, STEP = LANES * EIGHT };
/* Of x, at a time in shared memory: a multiple of STEP. */
enum { INPUTS_AT_ONCE = 2048 };

struct product {
    const kv_bf16 *w, *x;
    int64_t rows, outputs, inputs, y_step;
    void *y;
    bool wide, add;
};

static __device__ __forceinline__ float times_eight(const uint4 &w, const uint4 &x, float sum)
{
    sum = fmaf(kv_low(w.x), kv_low(x.x), sum);
    sum = fmaf(kv_high(w.x), kv_high(x.x), sum);
    sum = fmaf(kv_low(w.y), kv_low(x.y), sum);
    sum = fmaf(kv_high(w.y), kv_high(x.y), sum);
    sum = fmaf(kv_low(w.z), kv_low(x.z), sum);
    sum = fmaf(kv_high(w.z), kv_high(x.z), sum);
    sum = fmaf(kv_low(w.w), kv_low(x.w), sum);
    return fmaf(kv_high(w.w), kv_high(x.w), sum);
}

static __device__ __forceinline__ void store(const struct product &p, int64_t row, int64_t output, float sum)
{
    int64_t at = row * p.y_step + output;
    if (!p.wide)
        ((kv_bf16 *)p.y)[at] = kv_to_bf16(sum);
    else
        ((float *)p.y)[at] = p.add ? ((float *)p.y)[at] + sum : sum;
}

/* Rows beyond those there are count as zeros. */
template <int rows_most> static __device__ void load_rows(const struct product &p, int64_t from, int64_t n, uint4 *to)
{
    int64_t pieces = n / EIGHT;
    for (int64_t i = threadIdx.x; i < rows_most * pieces; i += THREADS) {
        int64_t row = i / pieces, piece = i % pieces;
        to[row * (INPUTS_AT_ONCE / EIGHT) + piece] =
            row < p.rows ? *(const uint4 *)(p.x + row * p.inputs + from + piece * EIGHT) : make_uint4(0, 0, 0, 0);
    }
}

template <int rows_most, int outputs_each> __global__ void __launch_bounds__(THREADS) skinny(struct product p)
{
    KV_SHARED_BYTES(bytes);
    uint4 *x = (uint4 *)bytes;
    int lane = (int)threadIdx.x % LANES, warp = (int)threadIdx.x / LANES;
    int64_t first = ((int64_t)blockIdx.x * WARPS + warp) * outputs_each;
    float sum[outputs_each][rows_most];
#pragma unroll
    for (int o = 0; o < outputs_each; o++)
#pragma unroll
        for (int r = 0; r < rows_most; r++)
            sum[o][r] = 0;
    for (int64_t from = 0; from < p.inputs; from += INPUTS_AT_ONCE) {
        int64_t n = min((int64_t)INPUTS_AT_ONCE, p.inputs - from);
        __syncthreads();
        load_rows<rows_most>(p, from, n, x);
        __syncthreads();
#pragma unroll 4
        for (int64_t i = lane; i < n / EIGHT; i += LANES) {
            uint4 w[outputs_each];
#pragma unroll
            for (int o = 0; o < outputs_each; o++)
                w[o] = first + o < p.outputs ? __ldg((const uint4 *)(p.w + (first + o) * p.inputs + from) + i)
                                             : make_uint4(0, 0, 0, 0);
#pragma unroll
            for (int r = 0; r < rows_most; r++) {
                uint4 with = x[r * (INPUTS_AT_ONCE / EIGHT) + i];
#pragma unroll
                for (int o = 0; o < outputs_each; o++)
                    sum[o][r] = times_eight(w[o], with, sum[o][r]);
            }
        }
    }
#pragma unroll
    for (int o = 0; o < outputs_each; o++)
#pragma unroll
        for (int r = 0; r < rows_most; r++) {
            float all = kv_warp_sum(sum[o][r]);
            if (lane == 0 && r < p.rows && first + o < p.outputs)
                store(p, r, first + o, all);
        }
}

/* Widths that are no multiple of 8: a warp an output and row, element by element. */
__global__ void __launch_bounds__(THREADS) skinny_odd(struct product p)
{
    int lane = (int)threadIdx.x % LANES, warp = (int)threadIdx.x / LANES;
    int64_t output = (int64_t)blockIdx.x * WARPS + warp, row = blockIdx.y;
    float sum = 0;
    for (int64_t i = lane; output < p.outputs && i < p.inputs; i += LANES)
        sum = fmaf(kv_from_bf16(p.w[output * p.inputs + i]), kv_from_bf16(p.x[row * p.inputs + i]), sum);
    sum = kv_warp_sum(sum);
    if (lane == 0 && output < p.outputs)
        store(p, row, output, sum);
}

template <int rows_most, int outputs_each> static void launch(struct kv_gpu *g, const struct product *p)
{
    int64_t each = (int64_t)WARPS * outputs_each;
    size_t shared = (size_t)rows_most * INPUTS_AT_ONCE * sizeof(kv_bf16);
    KV_LAUNCH(g, (skinny<rows_most, outputs_each>), dim3((unsigned)((p->outputs + each - 1) / each)), dim3(THREADS),
              shared, *p);
}

/* More outputs a warp keep more loads under way, as long as there are blocks enough to fill the device. */
template <int rows_most> static void launch_for(struct kv_gpu *g, const struct product *p)
{
    int64_t wanted = 4 * (int64_t)kv_gpu_about(g)->multiprocessors * WARPS;
    if (p->outputs >= 4 * wanted)
        launch<rows_most, 4>(g, p);
    else if (p->outputs >= 2 * wanted)
        launch<rows_most, 2>(g, p);
    else
        launch<rows_most, 1>(g, p);
}

void kv_cuda_skinny(struct kv_gpu *g, const kv_bf16 *w, const kv_bf16 *x, int64_t rows, int64_t outputs, int64_t inputs,
                    void *y, int64_t y_step, bool wide, bool add)
{
    struct product p = {w, x, rows, outputs, inputs, y_step, y, wide, add};
    if (!rows || !outputs)
        return;
    if (inputs % EIGHT)
        KV_LAUNCH(g, skinny_odd, dim3((unsigned)((outputs + WARPS - 1) / WARPS), (unsigned)rows), dim3(THREADS), 0, p);
    else if (rows == 1)
        launch_for<1>(g, &p);
    else if (rows == 2)
        launch_for<2>(g, &p);
    else if (rows <= 4)
        launch_for<4>(g, &p);
    else
        launch_for<KV_CUDA_SKINNY>(g, &p);
}
