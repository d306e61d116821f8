/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Attention for heads of any even size up to 256: a warp for each query row, as plainly as can be. */
#include "engine/cuda/attention.cuh"

enum { WARPS = 4, MOST_D = 256, PER_THREAD = MOST_D / 32 };

struct row {
    float o[PER_THREAD], top, sum; /* o: elements lane, lane + 32, ... */
};

/* Element pair i, i + d / 2 of x, rotated by the tables' row where there is one. */
template <typename E>
static __device__ __forceinline__ float2 pair_of(const E *x, const float *cosine, const float *sine, int half, int i)
{
    float first, second;
    kv_load<1>(&first, x + i);
    kv_load<1>(&second, x + i + half);
    if (!cosine)
        return make_float2(first, second);
    return make_float2(first * cosine[i] - second * sine[i], second * cosine[i] + first * sine[i]);
}

template <typename E>
static __device__ float score_of(const struct kv_attention &a, const float *q, const E *key, bool slots, int64_t i)
{
    int half = a.s.d / 2;
    const float *cosine = slots ? a.s.cosine + i * half : nullptr, *sine = slots ? a.s.sine + i * half : nullptr;
    float sum = 0;
    for (int c = 0; c < half; c++) {
        float2 k = pair_of(key, cosine, sine, half, c);
        sum += q[c] * k.x + q[c + half] * k.y;
    }
    return sum;
}

/* 32 entries from `first` on, one a lane; `weight` is the warp's. */
template <typename E>
static __device__ void add_entries(const struct kv_attention &a, const int32_t *table, const float *q, bool slots,
                                   int64_t first, int64_t seen, float *weight, struct row *r)
{
    int lane = (int)threadIdx.x % 32, n = (int)(seen - first < 32 ? seen - first : 32);
    float score = -INFINITY;
    if (lane < n)
        score = score_of(a, q, kv_row_of<E>(a.s, table, first + lane), slots, first + lane);
    float top = fmaxf(r->top, kv_warp_max(score)), shrink = kv_exp2(r->top - top);
    weight[lane] = kv_exp2(score - top);
    r->sum = r->sum * shrink + weight[lane];
    r->top = top;
    __syncwarp();
    KV_UNROLL
    for (int k = 0; k < PER_THREAD; k++)
        r->o[k] *= shrink;
    for (int i = 0; i < n; i++) {
        const E *value = kv_row_of<E>(a.s, table, first + i) + (int64_t)a.s.page * a.s.d;
        KV_UNROLL
        for (int k = 0; k < PER_THREAD; k++)
            if (lane + 32 * k < a.s.d) {
                float x;
                kv_load<1>(&x, value + lane + 32 * k);
                r->o[k] += weight[i] * x;
            }
    }
    __syncwarp();
}

template <typename E>
static __device__ void attend(const struct kv_attention &a, const struct kv_cuda_part &p, int32_t head, int64_t row,
                              float *q, float *weight)
{
    int lane = (int)threadIdx.x % 32, half = a.s.d / 2, group = a.s.q_heads / p.heads;
    int32_t token = (int32_t)(row / group);
    const int32_t *table = kv_table_of(p, a.layer, head);
    int64_t seen = kv_length_of(p, a.layer, head) + token + 1,
            at = kv_query_of(a, p, token, head * group + (int32_t)(row % group));
    bool slots = p.slot_positions != 0;
    const float *cosine = slots ? a.s.cosine + (seen - 1) * half : nullptr,
                *sine = slots ? a.s.sine + (seen - 1) * half : nullptr;
    float scale = 1.44269504f / sqrtf((float)a.s.d);
    for (int i = lane; i < half; i += 32) {
        float2 x = pair_of((const kv_matrix<E> *)a.q + at * a.s.d, cosine, sine, half, i);
        q[i] = x.x * scale;
        q[i + half] = x.y * scale;
    }
    __syncwarp();
    struct row r = {{0, 0, 0, 0, 0, 0, 0, 0}, -INFINITY, 0};
    for (int64_t first = 0; first < seen; first += 32)
        add_entries<E>(a, table, q, slots, first, seen, weight, &r);
    float sum = kv_warp_sum(r.sum);
    KV_UNROLL
    for (int k = 0; k < PER_THREAD; k++)
        if (lane + 32 * k < a.s.d)
            a.out[at * a.s.d + lane + 32 * k] = kv_to_bf16(r.o[k] / sum);
    if (lane == 0)
        a.lse[at] = r.top * 0.693147181f + logf(sum);
}

template <typename E>
__global__ void __launch_bounds__(32 * WARPS)
    attention_plain(const struct kv_attention a, const struct kv_attention_tile *list)
{
    __shared__ float q[WARPS][MOST_D], weight[WARPS][32];
    const struct kv_attention_tile tile = list[blockIdx.x];
    const struct kv_cuda_part &p = a.part[tile.part];
    int warp = (int)threadIdx.x / 32;
    int64_t rows = ((int64_t)p.n_new + p.n_patch) * (a.s.q_heads / p.heads);
    int64_t first = (int64_t)tile.number * KV_PLAIN_ROWS;
    for (int64_t row = first + warp; row < rows && row < first + KV_PLAIN_ROWS; row += WARPS)
        attend<E>(a, p, tile.head, row, q[warp], weight[warp]);
}

void kv_attention_plain(struct kv_gpu *g, const struct kv_attention *a, const struct kv_attention_tile *tile, int64_t n)
{
    kv_with_elements(&a->s, [&](auto element) {
        if (n)
            KV_LAUNCH(g, attention_plain<decltype(element)>, dim3((unsigned)n), dim3(32 * WARPS), 0, *a, tile);
    });
}
