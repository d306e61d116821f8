/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Steps of one token whose lanes lose a run of neighbours: found by place, or by the lowest score. Nothing here depends
 * on anything but the device's memory, so that a recorded step can be repeated. The host's sim/core/cache.c is the
 * truth of who leaves: lowest score, of equals the later entry. */
#include "engine/cuda/device.cuh"

enum { FIND_THREADS = 256, MOVE_THREADS = 512, COLUMN_BYTES = 32, AT_ONCE = 4 };

/* ---- finding ---- */

static __device__ __forceinline__ struct kv_cuda_lowest lower(const struct kv_cuda_lowest &a,
                                                              const struct kv_cuda_lowest &b)
{
    if (!a.many || !b.many)
        return a.many ? a : b;
    if (a.score != b.score)
        return a.score < b.score ? a : b;
    return {a.score, max(a.rank, b.rank), a.many + b.many};
}

static __device__ __forceinline__ struct kv_cuda_lowest lowest_of_warp(struct kv_cuda_lowest x)
{
    for (int step = 16; step; step /= 2) {
        struct kv_cuda_lowest other = {__shfl_xor_sync(0xffffffffu, x.score, step),
                                       __shfl_xor_sync(0xffffffffu, x.rank, step),
                                       __shfl_xor_sync(0xffffffffu, x.many, step)};
        x = lower(x, other);
    }
    return x;
}

/* A block for each chunk of each lane. */
__global__ __launch_bounds__(FIND_THREADS) void weigh(struct kv_cuda_shape s, const struct kv_cuda_part *part,
                                                      int32_t layer, struct kv_cuda_rule rule, const float *made,
                                                      int64_t made_stride, struct kv_cuda_lowest *lowest)
{
    __shared__ struct kv_cuda_lowest of_warp[FIND_THREADS / 32];
    const struct kv_cuda_part &p = *part;
    int32_t head = (int32_t)blockIdx.y, n = (int32_t)kv_length_of(p, layer, head) + p.n_new;
    int32_t from = (int32_t)blockIdx.x * KV_CUDA_CHUNK, behind = min(from + KV_CUDA_CHUNK, n);
    const struct kv_cuda_leave leave = p.leave[(int64_t)layer * p.heads + head];
    float *column = p.column ? p.column + ((int64_t)layer * p.heads + head) * p.column_room : nullptr;
    struct kv_cuda_lowest found = {0, 0, 0};
    (void)s;
    for (int32_t i = from + (int32_t)threadIdx.x; i < behind; i += FIND_THREADS) {
        float x;
        if (rule.brought) {
            x = i == n - 1 ? made[head] : column[i];
        } else {
            x = made[(rule.together ? 0 : head) * made_stride + i];
            for (int32_t h = 1; h < p.heads && rule.together; h++)
                x += made[h * made_stride + i];
        }
        if (rule.gathered)
            x += i == n - 1 ? 0.0f : column[i];
        if (rule.gathered || rule.brought)
            column[i] = x;
        if (leave.n && i >= leave.first && i < leave.behind)
            found = lower(found, {rule.sign * x, i, 1});
    }
    found = lowest_of_warp(found);
    if (threadIdx.x % 32 == 0)
        of_warp[threadIdx.x / 32] = found;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < FIND_THREADS / 32; w++)
            found = lower(found, of_warp[w]);
        lowest[(int64_t)head * gridDim.x + blockIdx.x] = found;
    }
}

void kv_cuda_weigh(struct kv_gpu *g, const struct kv_cuda_shape *s, const struct kv_cuda_part *part,
                   const struct kv_cuda_part *part_host, int32_t layer, const struct kv_cuda_rule *rule,
                   const float *made, int64_t made_stride, int64_t most_entries, struct kv_cuda_lowest *lowest)
{
    dim3 grid((unsigned)kv_cuda_chunks(most_entries), (unsigned)part_host->heads);
    KV_LAUNCH(g, weigh, grid, dim3(FIND_THREADS), 0, *s, part, layer, *rule, made, made_stride, lowest);
}

/* ---- closing up ---- */

/* Rows [first + n, end) of the lane become [first, ...), the block's columns of them, some rows at a time: what a batch
 * overwrites it has read, or an earlier one. */
template <typename unit>
static __device__ __forceinline__ void move_up(const struct kv_cuda_shape &s, const int32_t *table, int32_t first,
                                               int32_t n, int32_t end, int32_t units)
{
    constexpr int across = COLUMN_BYTES / (int)sizeof(unit), down = MOVE_THREADS / across;
    int32_t half = ((int32_t)gridDim.x - 1) / 2, block = (int32_t)blockIdx.x;
    int32_t column = block % half * across + (int32_t)threadIdx.x % across;
    bool mine = column < units;
    column += block / half * s.page * units;
    for (int32_t begin = first; begin < end - n; begin += down * AT_ONCE) {
        unit some[AT_ONCE];
        int32_t row = begin + (int32_t)threadIdx.x / across;
        KV_UNROLL
        for (int k = 0; k < AT_ONCE; k++)
            if (mine && row + down * k < end - n)
                some[k] = ((const unit *)s.pool)[kv_row_number(s, table, row + down * k + n) * units + column];
        __syncthreads();
        KV_UNROLL
        for (int k = 0; k < AT_ONCE; k++)
            if (mine && row + down * k < end - n)
                ((unit *)s.pool)[kv_row_number(s, table, row + down * k) * units + column] = some[k];
    }
}

static __device__ __forceinline__ void move_numbers_up(float *column, int32_t first, int32_t n, int32_t end)
{
    for (int32_t begin = first; begin < end - n; begin += MOVE_THREADS * AT_ONCE) {
        float some[AT_ONCE];
        int32_t i = begin + (int32_t)threadIdx.x;
        KV_UNROLL
        for (int k = 0; k < AT_ONCE; k++)
            if (i + MOVE_THREADS * k < end - n)
                some[k] = column[i + MOVE_THREADS * k + n];
        __syncthreads();
        KV_UNROLL
        for (int k = 0; k < AT_ONCE; k++)
            if (i + MOVE_THREADS * k < end - n)
                column[i + MOVE_THREADS * k] = some[k];
    }
}

/* Blocks of a lane: columns of K, then of V, then one for the numbers. */
template <typename unit>
__global__ __launch_bounds__(MOVE_THREADS, 2) void close_up(struct kv_cuda_shape s, const struct kv_cuda_part *part,
                                                            int32_t layer, const struct kv_cuda_lowest *lowest,
                                                            int64_t chunks, int32_t units)
{
    const struct kv_cuda_part &p = *part;
    int32_t head = (int32_t)blockIdx.y, end = (int32_t)kv_length_of(p, layer, head) + p.n_new;
    int64_t lane = (int64_t)layer * p.heads + head;
    struct kv_cuda_leave leave = p.leave[lane];
    if (!leave.n)
        return;
    bool numbers = blockIdx.x == gridDim.x - 1;
    if (lowest) {
        struct kv_cuda_lowest found = {0, 0, 0};
        for (int32_t i = leave.first / KV_CUDA_CHUNK; i * KV_CUDA_CHUNK < leave.behind; i++)
            found = lower(found, lowest[head * chunks + i]);
        leave.first = found.rank;
        if (numbers && threadIdx.x == 0)
            p.left[lane] = {found.rank, found.many > 1 ? found.many : 0};
    }
    if (!numbers)
        move_up<unit>(s, kv_table_of(p, layer, head), leave.first, leave.n, end, units);
    else if (p.column)
        move_numbers_up(p.column + lane * p.column_room, leave.first, leave.n, end);
}

template <typename unit>
static void launch_close_up(struct kv_gpu *g, const struct kv_cuda_shape *s, const struct kv_cuda_part *part,
                            int32_t heads, int32_t layer, const struct kv_cuda_lowest *lowest, int64_t chunks)
{
    int32_t units = s->d * kv_cuda_entry_bytes(s->entry) / (int32_t)sizeof(unit),
            across = COLUMN_BYTES / (int32_t)sizeof(unit);
    dim3 grid((unsigned)(2 * ((units + across - 1) / across) + 1), (unsigned)heads);
    KV_LAUNCH(g, close_up<unit>, grid, dim3(MOVE_THREADS), 0, *s, part, layer, lowest, chunks, units);
}

void kv_cuda_close_up(struct kv_gpu *g, const struct kv_cuda_shape *s, const struct kv_cuda_part *part,
                      const struct kv_cuda_part *part_host, int32_t layer, const struct kv_cuda_lowest *lowest,
                      int64_t chunks)
{
    int32_t row_bytes = s->d * kv_cuda_entry_bytes(s->entry);
    if (row_bytes % 16 == 0)
        launch_close_up<uint4>(g, s, part, part_host->heads, layer, lowest, chunks);
    else if (row_bytes % 4 == 0)
        launch_close_up<uint32_t>(g, s, part, part_host->heads, layer, lowest, chunks);
    else
        launch_close_up<uint16_t>(g, s, part, part_host->heads, layer, lowest, chunks);
}
