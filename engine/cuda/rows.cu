/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What is done to rows of a pass by themselves: all but products and attention. Bound by memory, so rows are read eight
 * elements at a time where their width and addresses let them. */
#include "engine/cuda/device.cuh"

enum { THREADS = 256, WARPS = THREADS / 32 };

/* Rows of so many elements, at these addresses (NULL is fine), are all aligned for eight at a time. */
static bool in_eights(int64_t width, const void *a, const void *b, const void *c, const void *d)
{
    return width % 8 == 0 && ((uintptr_t)a | (uintptr_t)b | (uintptr_t)c | (uintptr_t)d) % 16 == 0;
}

/* One block for each row and THREADS x n elements of it. */
static dim3 grid_of(int64_t rows, int64_t width, int n)
{
    int64_t part = (int64_t)THREADS * n;
    return dim3((unsigned)rows, (unsigned)((width + part - 1) / part));
}
static __device__ __forceinline__ int64_t own_column(int n)
{
    return ((int64_t)blockIdx.y * THREADS + threadIdx.x) * n;
}

/* ---- embedding, norm, activation, bias ---- */

template <int n> __global__ void embed(const kv_bf16 *table, const int32_t *token, int64_t width, float *x)
{
    int64_t column = own_column(n), row = blockIdx.x;
    float some[n];
    if (column >= width)
        return;
    kv_load<n>(some, table + token[row] * width + column);
    kv_store<n>(x + row * width + column, some);
}

void kv_cuda_embed(struct kv_gpu *g, const kv_bf16 *table, const int32_t *token, int64_t rows, int64_t width, float *x)
{
    if (rows <= 0)
        return;
    if (in_eights(width, table, x, NULL, NULL))
        KV_LAUNCH(g, embed<8>, grid_of(rows, width, 8), dim3(THREADS), 0, table, token, width, x);
    else
        KV_LAUNCH(g, embed<1>, grid_of(rows, width, 1), dim3(THREADS), 0, table, token, width, x);
}

/* Over the block, in all of its threads; always in the same order. */
static __device__ float block_sum(float x)
{
    __shared__ float of_warp[WARPS];
    x = kv_warp_sum(x);
    if (threadIdx.x % 32 == 0)
        of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
    for (int w = 0; w < WARPS; w++)
        x += of_warp[w];
    return x;
}

template <int n>
__global__ void rms_norm(const float *all, const float *weight, float eps, int64_t width, kv_bf16 *all_out)
{
    const float *x = all + blockIdx.x * width;
    kv_bf16 *out = all_out + blockIdx.x * width;
    float some[n], by[n], sum = 0;
    for (int64_t i = (int64_t)threadIdx.x * n; i < width; i += THREADS * n) {
        kv_load<n>(some, x + i);
        for (int k = 0; k < n; k++)
            sum += some[k] * some[k];
    }
    float shrink = 1 / sqrtf(block_sum(sum) / (float)width + eps);
    for (int64_t i = (int64_t)threadIdx.x * n; i < width; i += THREADS * n) {
        kv_load<n>(some, x + i);
        kv_load<n>(by, weight + i);
        for (int k = 0; k < n; k++) /* rounded before the weight, as models in bf16 were trained */
            some[k] = kv_from_bf16(kv_to_bf16(some[k] * shrink)) * by[k];
        kv_store<n>(out + i, some);
    }
}

void kv_cuda_rms_norm(struct kv_gpu *g, const float *x, const float *weight, float eps, int64_t rows, int64_t width,
                      kv_bf16 *out)
{
    if (rows <= 0)
        return;
    if (in_eights(width, x, weight, out, NULL))
        KV_LAUNCH(g, rms_norm<8>, dim3((unsigned)rows), dim3(THREADS), 0, x, weight, eps, width, out);
    else
        KV_LAUNCH(g, rms_norm<1>, dim3((unsigned)rows), dim3(THREADS), 0, x, weight, eps, width, out);
}

template <int n> static __device__ __forceinline__ void add_some(float *x, const float *bias, int64_t at)
{
    float by[n];
    if (!bias)
        return;
    kv_load<n>(by, bias + at);
    for (int k = 0; k < n; k++)
        x[k] += by[k];
}

template <int n>
__global__ void silu_times(const kv_bf16 *gate_up, const float *gate_bias, const float *up_bias, int64_t width,
                           kv_bf16 *out)
{
    int64_t column = own_column(n), row = blockIdx.x;
    float gate[n], up[n];
    if (column >= width)
        return;
    kv_load<n>(gate, gate_up + row * 2 * width + column);
    kv_load<n>(up, gate_up + (row * 2 + 1) * width + column);
    add_some<n>(gate, gate_bias, column);
    add_some<n>(up, up_bias, column);
    for (int k = 0; k < n; k++)
        gate[k] = gate[k] / (1 + expf(-gate[k])) * up[k];
    kv_store<n>(out + row * width + column, gate);
}

void kv_cuda_silu_times(struct kv_gpu *g, const kv_bf16 *gate_up, const float *gate_bias, const float *up_bias,
                        int64_t rows, int64_t width, kv_bf16 *out)
{
    if (rows <= 0)
        return;
    if (in_eights(width, gate_up, gate_bias, up_bias, out))
        KV_LAUNCH(g, silu_times<8>, grid_of(rows, width, 8), dim3(THREADS), 0, gate_up, gate_bias, up_bias, width, out);
    else
        KV_LAUNCH(g, silu_times<1>, grid_of(rows, width, 1), dim3(THREADS), 0, gate_up, gate_bias, up_bias, width, out);
}

template <int n> __global__ void add_bias(const float *bias, int64_t width, float *x)
{
    int64_t column = own_column(n), row = blockIdx.x;
    float some[n];
    if (column >= width)
        return;
    kv_load<n>(some, x + row * width + column);
    add_some<n>(some, bias, column);
    kv_store<n>(x + row * width + column, some);
}

void kv_cuda_add_bias(struct kv_gpu *g, const float *bias, int64_t rows, int64_t width, float *x)
{
    if (rows <= 0)
        return;
    if (in_eights(width, bias, x, NULL, NULL))
        KV_LAUNCH(g, add_bias<8>, grid_of(rows, width, 8), dim3(THREADS), 0, bias, width, x);
    else
        KV_LAUNCH(g, add_bias<1>, grid_of(rows, width, 1), dim3(THREADS), 0, bias, width, x);
}

/* ---- queries, keys and values ---- */

/* A head's two halves over the lanes of a warp: of each, a lane has n neighbours (1 or 2), then those 32 n further on,
 * to HALF of them. What RoPE turns together is in one lane. */
enum { HALF = 4 };
struct head {
    float low[HALF], high[HALF];
};
static __device__ __forceinline__ int first_of(int n, int k)
{
    return (int)(threadIdx.x % 32) * n + 32 * k;
}

template <int n> static __device__ __forceinline__ void load_head(struct head &x, const kv_bf16 *from, int half)
{
    for (int k = 0; k < HALF; k++)
        x.low[k] = x.high[k] = 0;
    for (int k = 0; k < HALF; k += n) {
        int i = first_of(n, k);
        if (i >= half)
            continue;
        kv_load<n>(x.low + k, from + i);
        kv_load<n>(x.high + k, from + half + i);
    }
}

template <int n, typename E> static __device__ __forceinline__ void store_head(const struct head &x, E *to, int half)
{
    for (int k = 0; k < HALF; k += n) {
        int i = first_of(n, k);
        if (i >= half)
            continue;
        kv_store<n>(to + i, x.low + k);
        kv_store<n>(to + half + i, x.high + k);
    }
}

template <int n> static __device__ __forceinline__ void bias_head(struct head &x, const float *bias, int half)
{
    for (int k = 0; k < HALF; k += n) {
        int i = first_of(n, k);
        for (int j = 0; j < n && i < half; j++) {
            x.low[k + j] += bias[i + j];
            x.high[k + j] += bias[half + i + j];
        }
    }
}

template <int n> static __device__ __forceinline__ void norm_head(struct head &x, const float *by, float eps, int half)
{
    float sum = 0;
    for (int k = 0; k < HALF; k++)
        sum += x.low[k] * x.low[k] + x.high[k] * x.high[k];
    float shrink = 1 / sqrtf(kv_warp_sum(sum) / (float)(2 * half) + eps);
    for (int k = 0; k < HALF; k += n) {
        int i = first_of(n, k);
        for (int j = 0; j < n && i < half; j++) {
            x.low[k + j] *= shrink * by[i + j];
            x.high[k + j] *= shrink * by[half + i + j];
        }
    }
}

template <int n>
static __device__ __forceinline__ void rotate_head(struct head &x, const float *cosine, const float *sine, int half)
{
    for (int k = 0; k < HALF; k += n) {
        int i = first_of(n, k);
        for (int j = 0; j < n && i < half; j++) {
            float low = x.low[k + j], high = x.high[k + j], c = cosine[i + j], s = sine[i + j];
            x.low[k + j] = kv_turned_low(low, high, c, s);
            x.high[k + j] = kv_turned_high(low, high, c, s);
        }
    }
}

/* The last part that begins at the row or before: those without rows share their first with the next. */
static __device__ const struct kv_cuda_part *part_of(const struct kv_cuda_part *part, int n_parts, int64_t row)
{
    int low = 0, high = n_parts;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (part[middle].first <= row)
            low = middle;
        else
            high = middle;
    }
    return part + low;
}

/* A head of keys (or values) behind all lanes that store it. */
template <int n, typename E>
static __device__ void put_head(const struct kv_cuda_shape &s, const struct kv_cuda_part *p, int64_t token,
                                int32_t layer, int32_t kv_head, bool values, const struct head &x)
{
    int32_t copies = p->heads / s.kv_heads;
    for (int32_t h = kv_head * copies; h < (kv_head + 1) * copies; h++) {
        E *row = kv_row_of<E>(s, kv_table_of(*p, layer, h), kv_length_of(*p, layer, h) + token);
        store_head<n>(x, row + (values ? (int64_t)s.page * s.d : 0), s.d / 2);
    }
}

struct append {
    struct kv_cuda_shape s;
    const struct kv_cuda_part *part;
    const kv_bf16 *qkv;
    const float *bias, *q_norm, *k_norm;
    kv_query *q;
    float eps;
    int32_t n_parts, layer;
};

/* A warp for each head of each row. */
template <int n, typename E> __global__ void append_heads(struct append a)
{
    const struct kv_cuda_shape &s = a.s;
    int64_t row = blockIdx.x;
    int32_t heads = s.q_heads + 2 * s.kv_heads, head = (int32_t)(blockIdx.y * WARPS + threadIdx.x / 32), half = s.d / 2;
    if (head >= heads)
        return;
    const struct kv_cuda_part *p = part_of(a.part, a.n_parts, row);
    int64_t token = row - p->first, at = (p->seen + token) * half;
    bool query = head < s.q_heads, value = head >= s.q_heads + s.kv_heads;
    const float *norm = value ? NULL : query ? a.q_norm : a.k_norm;
    struct head x;
    load_head<n>(x, a.qkv + (row * heads + head) * s.d, half);
    if (a.bias)
        bias_head<n>(x, a.bias + (int64_t)head * s.d, half);
    if (norm)
        norm_head<n>(x, norm, a.eps, half);
    if (!value && !p->slot_positions)
        rotate_head<n>(x, s.cosine + at, s.sine + at, half);
    if (query)
        store_head<n>(x, (kv_matrix<E> *)a.q + (row * s.q_heads + head) * s.d, half);
    else
        put_head<n, E>(s, p, token, a.layer, value ? head - s.q_heads - s.kv_heads : head - s.q_heads, value, x);
}

void kv_cuda_append(struct kv_gpu *g, const struct kv_cuda_shape *s, const struct kv_cuda_part *part, int n_parts,
                    int64_t rows, int32_t layer, const kv_bf16 *qkv, const float *bias, const float *q_norm,
                    const float *k_norm, float eps, kv_query *q)
{
    struct append a = {*s, part, qkv, bias, q_norm, k_norm, q, eps, n_parts, layer};
    dim3 grid((unsigned)rows, (unsigned)((s->q_heads + 2 * s->kv_heads + WARPS - 1) / WARPS));
    if (rows <= 0)
        return;
    kv_with_elements(s, [&](auto element) {
        typedef decltype(element) E;
        if (s->d % 4 == 0)
            KV_LAUNCH(g, (append_heads<2, E>), grid, dim3(THREADS), 0, a);
        else
            KV_LAUNCH(g, (append_heads<1, E>), grid, dim3(THREADS), 0, a);
    });
}

/* Row i takes what is n rows on, in those kept and the n newest behind them. A thread moves a column of two elements:
 * what it overwrites it has read, and nobody else reads. AHEAD reads are under way at a time. */
enum { AHEAD = 16 };
__global__ void keep_queries(uint32_t *kept, const uint32_t *newest, int64_t width, int64_t window, int64_t n)
{
    int64_t column = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    uint32_t some[AHEAD];
    if (column >= width)
        return;
    for (int64_t row = 0; row < window; row += AHEAD) {
        KV_UNROLL
        for (int k = 0; k < AHEAD; k++) {
            int64_t from = row + k + n;
            if (row + k < window)
                some[k] = from < window ? kept[from * width + column] : newest[(from - window) * width + column];
        }
        KV_UNROLL
        for (int k = 0; k < AHEAD; k++)
            if (row + k < window)
                kept[(row + k) * width + column] = some[k];
    }
}

void kv_cuda_keep_queries(struct kv_gpu *g, const struct kv_cuda_shape *s, const struct kv_cuda_part *part_host,
                          int32_t layer, const kv_query *q, kv_query *query)
{
    int64_t width = (int64_t)s->q_heads * s->d, window = part_host->window;
    int64_t n = part_host->n_new;
    const kv_query *newest = q + part_host->first * width;
    if (window > 0 && n > 0)
        KV_LAUNCH(g, keep_queries, dim3((unsigned)((width / 2 + THREADS - 1) / THREADS)), dim3(THREADS), 0,
                  (uint32_t *)(void *)(query + layer * window * width), (const uint32_t *)(const void *)newest,
                  width / 2, window, n);
}

/* ---- numbers for weights that nobody trained ---- */

/* SplitMix64 (Steele, Lea, Flood 2014): number i of the seed's stream. */
static __device__ uint64_t mixed(uint64_t seed, uint64_t i)
{
    uint64_t x = seed + (i + 1) * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Box and Muller's normal number of two even ones; the other is not used, so that each stands alone. */
static __device__ float normal(uint64_t bits)
{
    float far = ((float)(uint32_t)(bits >> 32) + 0.5f) * 0x1p-32f, turn = (float)(uint32_t)bits * 0x1p-32f;
    return sqrtf(-2 * logf(far)) * cosf(6.2831853f * turn);
}

__global__ void random_numbers(void *out, int64_t n, bool wide, uint64_t seed, float mean, float scale)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n)
        return;
    float x = normal(mixed(seed, (uint64_t)i)) * scale + mean;
    if (wide)
        ((float *)out)[i] = x;
    else
        ((kv_bf16 *)out)[i] = kv_to_bf16(x);
}

void kv_cuda_random(struct kv_gpu *g, void *out, int64_t n, bool wide, uint64_t seed, float mean, float scale)
{
    if (n > 0)
        KV_LAUNCH(g, random_numbers, dim3((unsigned)((n + THREADS - 1) / THREADS)), dim3(THREADS), 0, out, n, wide,
                  seed, mean, scale);
}
