/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Survivors of lanes move together, in place and in one launch. A block has some columns of a lane's rows for itself,
 * and takes them BATCH entries at a time: reads, waits for its threads, writes. As keep[i] >= i, what a batch
 * overwrites has been read by it or before, and nothing is read that was written. So blocks need not wait for each
 * other, and a batch can be read while the one before is written. */
#include "engine/cuda/device.cuh"

/* A block's columns are the 32 bytes that a device reads at once: an entry's in K, or in V. */
enum { THREADS = 512, COLUMN_BYTES = 32, AT_ONCE = 4 };

struct moves {
    struct kv_cuda_shape s;
    const struct kv_cuda_part *part;
    const struct kv_cuda_stay *lane;
    const int32_t *keep;
    int32_t layer, units; /* units: of a row */
};

/* A block's lane. */
struct lane {
    const int32_t *table, *keep;
    int32_t n;
};

/* The batch that begins at `first`: to *from and *some what a thread moves; *from is where it lies already if it does.
 */
template <typename unit>
static __device__ __forceinline__ void read_batch(const struct moves &m, const struct lane &l, int32_t first,
                                                  int32_t column, int32_t *from, unit *some)
{
    constexpr int across = COLUMN_BYTES / (int)sizeof(unit), down = THREADS / across;
    KV_UNROLL
    for (int k = 0; k < AT_ONCE; k++) {
        int32_t i = first + down * k + (int32_t)threadIdx.x / across;
        from[k] = i < l.n ? l.keep[i] : i;
        if (from[k] != i)
            some[k] = ((const unit *)m.s.pool)[kv_row_number(m.s, l.table, from[k]) * m.units + column];
    }
}

template <typename unit>
static __device__ __forceinline__ void write_batch(const struct moves &m, const struct lane &l, int32_t first,
                                                   int32_t column, const int32_t *from, const unit *some)
{
    constexpr int across = COLUMN_BYTES / (int)sizeof(unit), down = THREADS / across;
    KV_UNROLL
    for (int k = 0; k < AT_ONCE; k++) {
        int32_t i = first + down * k + (int32_t)threadIdx.x / across;
        if (from[k] != i)
            ((unit *)m.s.pool)[kv_row_number(m.s, l.table, i) * m.units + column] = some[k];
    }
}

/* Of each lane, blocks of gridDim.x / 2 columns for K, then as many for V. */
template <typename unit> __global__ __launch_bounds__(THREADS) void move_together(struct moves m)
{
    constexpr int across = COLUMN_BYTES / (int)sizeof(unit), batch = THREADS / across * AT_ONCE;
    const struct kv_cuda_stay &stay = m.lane[blockIdx.y];
    const struct lane l = {kv_table_of(m.part[stay.part], m.layer, stay.head), m.keep + stay.first, stay.n};
    int32_t half = (int32_t)gridDim.x / 2, block = (int32_t)blockIdx.x;
    int32_t column = block % half * across + (int32_t)threadIdx.x % across, from[AT_ONCE];
    unit some[AT_ONCE];
    bool mine = column < m.units;
    column += block / half * m.s.page * m.units;
    for (int32_t first = 0; first < l.n; first += batch) {
        if (mine)
            read_batch(m, l, first, column, from, some);
        __syncthreads();
        if (mine)
            write_batch(m, l, first, column, from, some);
    }
}

template <typename unit> static void launch(struct kv_gpu *g, struct moves *m, int32_t row_bytes, int64_t n_lanes)
{
    unsigned blocks = 2 * (unsigned)((row_bytes + COLUMN_BYTES - 1) / COLUMN_BYTES);
    m->units = row_bytes / (int32_t)sizeof(unit);
    KV_LAUNCH(g, move_together<unit>, dim3(blocks, (unsigned)n_lanes), dim3(THREADS), 0, *m);
}

void kv_cuda_compact(struct kv_gpu *g, const struct kv_cuda_shape *s, const struct kv_cuda_part *part, int32_t layer,
                     const struct kv_cuda_stay *lane, int64_t n_lanes, const int32_t *keep)
{
    struct moves m = {*s, part, lane, keep, layer, 0};
    int32_t row_bytes = s->d * kv_cuda_entry_bytes(s->entry);
    if (n_lanes <= 0)
        return;
    if (row_bytes % 16 == 0)
        launch<uint4>(g, &m, row_bytes, n_lanes);
    else if (row_bytes % 4 == 0)
        launch<uint32_t>(g, &m, row_bytes, n_lanes);
    else
        launch<uint16_t>(g, &m, row_bytes, n_lanes);
}
