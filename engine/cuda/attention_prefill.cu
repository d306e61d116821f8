/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Attention of parts of more than one token, with matrix units: a block has 128 query rows of one store head (tokens x
 * the group's query heads, so that each key is loaded once for all of them) and walks the lane 64 entries at a time.
 * While a tile is worked on the next one is copied. Rows in shared memory are chunks of 16 bytes, their places mixed so
 * that the 8 rows that a matrix load takes lie in different banks. Weights go from one product's registers into the
 * other's. Products are of bf16 for entries in bf16, of fp16 for others: fp8 arrives as it is, and is widened before
 * its tile is worked on. */
#include "engine/cuda/attention.cuh"

enum {
    ROWS = KV_PREFILL_ROWS,
    KEYS = 64,
    WARPS = 4,
    THREADS = 32 * WARPS,
    BLOCKS = 2, /* 16-row blocks of a warp: each loaded key serves both */
    WARP_ROWS = 16 * BLOCKS,
};

/* Shared memory: queries, then two tiles of K rows and V rows each. */
template <int D> struct form {
    enum {
        CHUNKS = D / 8,
        Q_BYTES = ROWS * D * 2,
        TILE_BYTES = KEYS * D * 2,
        BYTES = Q_BYTES + 4 * TILE_BYTES,
        STEPS = D / 16,
        MIXED = CHUNKS < 8 ? CHUNKS - 1 : 7, /* bits of a chunk's number that are mixed with the row's */
        SHARE = CHUNKS < 8 ? 8 / CHUNKS : 1, /* rows in 128 bytes */
        ROWS_16 = 16 * CHUNKS * 16           /* bytes of 16 rows */
    };
};

/* What a thread keeps of its rows: of each 16-row block, rows lane / 4 and 8 behind. */
template <int D> struct sums {
    float o[BLOCKS][D / 8][4], top[BLOCKS][2], sum[BLOCKS][2];
};

/* Where chunk `chunk` of row `row` lies. Of chunk + 2 k, chunk < 2: the same with 32 k mixed in; 16 rows on: ROWS_16
 * bytes on. */
template <int D> static __device__ __forceinline__ uint32_t chunk_at(int row, int chunk)
{
    int mixed = chunk ^ (row / form<D>::SHARE & form<D>::MIXED);
    return (uint32_t)((row * form<D>::CHUNKS + mixed) * 16);
}

template <int D>
static __device__ __forceinline__ void copy_queries(const struct kv_attention &a, const struct kv_attention_place &w,
                                                    unsigned char *q)
{
    int chunk = (int)threadIdx.x % form<D>::CHUNKS;
    for (int r = (int)threadIdx.x / form<D>::CHUNKS; r < ROWS; r += THREADS / form<D>::CHUNKS) {
        bool there = w.first + r < w.rows;
        int64_t at = kv_query_at(a, w, there ? w.first + r : w.first);
        kv_copy_later(q + chunk_at<D>(r, chunk), a.q + at * D + chunk * 8, there);
    }
}

/* Entries [first, first + KEYS), zeros behind the last; fp8 as bare rows. */
template <int D, typename E>
static __device__ __forceinline__ void copy_tile(const struct kv_attention &a, const struct kv_attention_place &w,
                                                 int32_t first, unsigned char *keys, unsigned char *values)
{
    enum { PER_CHUNK = 16 / (int)sizeof(E), CHUNKS = D / PER_CHUNK, STEP = THREADS / CHUNKS };
    int chunk = (int)threadIdx.x % CHUNKS, mine = (int)threadIdx.x / CHUNKS;
    int64_t values_behind = (int64_t)a.s.page * D;
    bool whole = a.s.page % KEYS == 0; /* one page has the tile */
    const E *tile = kv_entry_of<E>(a.s, w.table, (uint32_t)first);
    KV_UNROLL_BY(2) /* all at once, addresses take the registers that sums need */
    for (int i = 0; i < KEYS / STEP; i++) {
        int r = mine + i * STEP;
        bool there = first + r < w.entries;
        const E *key = tile + r * D;
        if (!whole)
            key = kv_entry_of<E>(a.s, w.table, (uint32_t)(there ? first + r : first));
        uint32_t at = sizeof(E) == 2 ? chunk_at<D>(r, chunk) : (uint32_t)((r * CHUNKS + chunk) * 16);
        kv_copy_later(keys + at, key + chunk * PER_CHUNK, there);
        kv_copy_later(values + at, key + values_behind + chunk * PER_CHUNK, there);
    }
    kv_copy_group();
}

/* K rows and V rows behind them, from fp8 to chunks of fp16. A thread's rows are STEP apart, whose chunks are mixed
 * alike. */
template <int D, bool SLOTS>
static __device__ __forceinline__ void widen_tile(const unsigned char *from, unsigned char *to)
{
    enum { CHUNKS = form<D>::CHUNKS, STEP = THREADS / CHUNKS };
    int t = SLOTS ? kv_thread_anew() : (int)threadIdx.x; /* registers are few there */
    static_assert(STEP % (8 * form<D>::SHARE) == 0, "rows mixed alike");
    from += 8 * t;
    to += chunk_at<D>(t / CHUNKS, t % CHUNKS);
    KV_UNROLL_BY(8)
    for (int i = 0; i < 2 * KEYS / STEP; i++)
        *(uint4 *)(void *)(to + i * (STEP * CHUNKS * 16)) =
            kv_matrix_words((const kv_fp8 *)(const void *)(from + i * (8 * THREADS)));
}

/* Pairs (first, second), two of each, rotated. */
template <typename M>
static __device__ __forceinline__ void rotate_pair(uint32_t *first, uint32_t *second, const float *cosine,
                                                   const float *sine)
{
    float2 a = kv_pair<M>::unpack(*first), b = kv_pair<M>::unpack(*second);
    *first = kv_pair<M>::pack(kv_turned_low(a.x, b.x, cosine[0], sine[0]), kv_turned_low(a.y, b.y, cosine[1], sine[1]));
    *second =
        kv_pair<M>::pack(kv_turned_high(a.x, b.x, cosine[0], sine[0]), kv_turned_high(a.y, b.y, cosine[1], sine[1]));
}

/* A row's chunk and the one half a row behind, rotated by `position`. */
template <int D, typename M>
static __device__ __forceinline__ void rotate_chunk(const struct kv_cuda_shape &s, unsigned char *tile, int row,
                                                    int chunk, int64_t position)
{
    uint4 *at = (uint4 *)(void *)(tile + chunk_at<D>(row, chunk));
    uint4 *behind = (uint4 *)(void *)(tile + chunk_at<D>(row, chunk + form<D>::CHUNKS / 2));
    uint4 first = *at, second = *behind;
    const float *cosine = s.cosine + position * (D / 2) + chunk * 8, *sine = s.sine + position * (D / 2) + chunk * 8;
    rotate_pair<M>(&first.x, &second.x, cosine, sine);
    rotate_pair<M>(&first.y, &second.y, cosine + 2, sine + 2);
    rotate_pair<M>(&first.z, &second.z, cosine + 4, sine + 4);
    rotate_pair<M>(&first.w, &second.w, cosine + 6, sine + 6);
    *at = first;
    *behind = second;
}

/* Queries by their tokens' places in the lane. */
template <int D, typename M>
static __device__ __forceinline__ void rotate_queries(const struct kv_attention &a, const struct kv_attention_place &w,
                                                      unsigned char *q)
{
    enum { PAIRS = form<D>::CHUNKS / 2 };
    for (int i = (int)threadIdx.x; i < ROWS * PAIRS; i += THREADS)
        if (w.first + i / PAIRS < w.rows)
            rotate_chunk<D, M>(a.s, q, i / PAIRS, i % PAIRS, w.old + (w.first + i / PAIRS) / w.group);
}

template <int D, typename M>
static __device__ __forceinline__ void rotate_tile(const struct kv_attention &a, const struct kv_attention_place &w,
                                                   int32_t first, unsigned char *keys)
{
    enum { PAIRS = form<D>::CHUNKS / 2 };
    for (int i = (int)threadIdx.x; i < KEYS * PAIRS; i += THREADS)
        if (first + i / PAIRS < w.entries)
            rotate_chunk<D, M>(a.s, keys, i / PAIRS, i % PAIRS, first + i / PAIRS);
}

/* s = q k^T of the warp's rows. */
template <int D, typename M>
static __device__ __forceinline__ void multiply_keys(unsigned char *q, unsigned char *keys,
                                                     float s[BLOCKS][KEYS / 8][4])
{
    int lane = (int)threadIdx.x % 32;
    uint32_t query = chunk_at<D>(lane % 16, lane / 16), key = chunk_at<D>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
    q += (int)threadIdx.x / 32 * (BLOCKS * form<D>::ROWS_16);
    KV_UNROLL
    for (int b = 0; b < BLOCKS; b++)
        KV_UNROLL
    for (int n = 0; n < KEYS / 8; n++)
        s[b][n][0] = s[b][n][1] = s[b][n][2] = s[b][n][3] = 0;
    KV_UNROLL
    for (int k = 0; k < form<D>::STEPS; k++) {
        uint32_t has[BLOCKS][4];
        KV_UNROLL
        for (int b = 0; b < BLOCKS; b++)
            kv_load_matrices(has[b], q + (query ^ (uint32_t)(32 * k)) + b * form<D>::ROWS_16);
        KV_UNROLL
        for (int n = 0; n < KEYS / 16; n++) {
            uint32_t with[4];
            kv_load_matrices(with, keys + (key ^ (uint32_t)(32 * k)) + n * form<D>::ROWS_16);
            KV_UNROLL
            for (int b = 0; b < BLOCKS; b++) {
                kv_pair<M>::multiply(s[b][2 * n], has[b], with);
                kv_pair<M>::multiply(s[b][2 * n + 1], has[b], with + 2);
            }
        }
    }
}

/* What a row does not see counts nothing: entries [old + token + 1, ...). `first`: the tile's first. */
static __device__ __forceinline__ void mask(const struct kv_attention_place &w, int32_t first,
                                            float s[BLOCKS][KEYS / 8][4])
{
    int lane = (int)threadIdx.x % 32, row = (int)threadIdx.x / 32 * WARP_ROWS + lane / 4;
    KV_UNROLL
    for (int b = 0; b < BLOCKS; b++)
        KV_UNROLL
    for (int half = 0; half < 2; half++) {
        int32_t r = w.first + row + b * 16 + half * 8;
        int32_t seen = w.old + r / w.group + 1 - first - lane % 4 * 2;
        KV_UNROLL
        for (int n = 0; n < KEYS / 8; n++) {
            s[b][n][2 * half] = n * 8 < seen ? s[b][n][2 * half] : -INFINITY;
            s[b][n][2 * half + 1] = n * 8 + 1 < seen ? s[b][n][2 * half + 1] : -INFINITY;
        }
    }
}

/* Scores become weights under their row's highest so far (of base 2, `scale` the factor); what was summed under a lower
 * one shrinks. */
template <int D>
static __device__ __forceinline__ void take_weights(struct sums<D> *r, float s[BLOCKS][KEYS / 8][4], float scale)
{
    KV_UNROLL
    for (int b = 0; b < BLOCKS; b++)
        KV_UNROLL
    for (int half = 0; half < 2; half++) {
        float top = r->top[b][half], sum = 0;
        KV_UNROLL
        for (int n = 0; n < KEYS / 8; n++)
            top = fmaxf(top, fmaxf(s[b][n][2 * half], s[b][n][2 * half + 1]));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        float base = top == -INFINITY ? 0.0f : top * scale;
        float shrink = kv_exp2(r->top[b][half] * scale - base);
        KV_UNROLL
        for (int n = 0; n < KEYS / 8; n++)
            KV_UNROLL
        for (int i = 2 * half; i < 2 * half + 2; i++) {
            s[b][n][i] = kv_exp2(s[b][n][i] * scale - base);
            sum += s[b][n][i];
        }
        KV_UNROLL
        for (int n = 0; n < D / 8; n++) {
            r->o[b][n][2 * half] *= shrink;
            r->o[b][n][2 * half + 1] *= shrink;
        }
        r->top[b][half] = top;
        r->sum[b][half] = r->sum[b][half] * shrink + sum;
    }
}

/* o += weights v. */
template <int D, typename M>
static __device__ __forceinline__ void multiply_values(struct sums<D> *r, float s[BLOCKS][KEYS / 8][4],
                                                       unsigned char *values)
{
    int lane = (int)threadIdx.x % 32;
    uint32_t value = chunk_at<D>(lane % 16, lane / 16);
    KV_UNROLL
    for (int k = 0; k < KEYS / 16; k++) {
        uint32_t has[BLOCKS][4];
        KV_UNROLL
        for (int b = 0; b < BLOCKS; b++)
            KV_UNROLL
        for (int i = 0; i < 4; i++) {
            const float *two = &s[b][2 * k + i / 2][i % 2 * 2];
            has[b][i] = kv_pair<M>::pack(two[0], two[1]);
        }
        KV_UNROLL
        for (int n = 0; n < D / 16; n++) {
            uint32_t with[4];
            kv_load_matrices_transposed(with, values + (value ^ (uint32_t)(32 * n)) + k * form<D>::ROWS_16);
            KV_UNROLL
            for (int b = 0; b < BLOCKS; b++) {
                kv_pair<M>::multiply(r->o[b][2 * n], has[b], with);
                kv_pair<M>::multiply(r->o[b][2 * n + 1], has[b], with + 2);
            }
        }
    }
}

template <int D>
static __device__ __forceinline__ void write_rows(const struct kv_attention &a, const struct kv_attention_place &w,
                                                  struct sums<D> *r, float scale)
{
    int lane = (int)threadIdx.x % 32, row = (int)threadIdx.x / 32 * WARP_ROWS + lane / 4;
    KV_UNROLL
    for (int b = 0; b < BLOCKS; b++)
        KV_UNROLL
    for (int half = 0; half < 2; half++) {
        float sum = r->sum[b][half];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        int32_t number = w.first + row + b * 16 + half * 8;
        if (number >= w.rows)
            continue; /* a row's four lanes together */
        int64_t at = kv_query_at(a, w, number);
        float by = sum > 0 ? 1 / sum : 0.0f;
        KV_UNROLL
        for (int n = 0; n < D / 8; n++)
            *(uint32_t *)(void *)(a.out + at * D + n * 8 + lane % 4 * 2) =
                kv_pack(r->o[b][n][2 * half] * by, r->o[b][n][2 * half + 1] * by);
        if (lane % 4 == 0)
            a.lse[at] = sum > 0 ? r->top[b][half] * (scale * 0.693147181f) + logf(sum) : -INFINITY;
    }
}

template <int D> static __device__ __forceinline__ void clear(struct sums<D> *r)
{
    KV_UNROLL
    for (int b = 0; b < BLOCKS; b++)
        KV_UNROLL
    for (int half = 0; half < 2; half++) {
        r->top[b][half] = -INFINITY;
        r->sum[b][half] = 0;
        KV_UNROLL
        for (int n = 0; n < D / 8; n++)
            r->o[b][n][2 * half] = r->o[b][n][2 * half + 1] = 0;
    }
}

template <int D, typename E, bool SLOTS>
__global__ void __launch_bounds__(THREADS, 2)
    attention_prefill(const struct kv_attention a, const struct kv_attention_tile *list)
{
    KV_SHARED_BYTES(shared);
    typedef kv_matrix<E> M;
    enum { TILE = form<D>::TILE_BYTES };
    constexpr bool widens = sizeof(E) == 1; /* then tiles arrive in the first half of the first one's room */
    constexpr int arrives = widens ? TILE / 2 : TILE;
    const struct kv_attention_tile &tile = list[blockIdx.x];
    const struct kv_attention_place w = kv_place_of(a, tile, tile.number * ROWS);
    unsigned char *q = shared, *tiles = shared + form<D>::Q_BYTES;
    float scale = 1.44269504f / sqrtf((float)D);
    int32_t mine = w.first + (int)threadIdx.x / 32 * WARP_ROWS;
    /* Entries that all rows see, and that some row of the warp does. */
    int32_t open = w.old + w.first / w.group + 1;
    int32_t needed = mine < w.rows ? w.old + (mine + WARP_ROWS - 1) / w.group + 1 : 0;
    struct sums<D> r;
    clear(&r);
    copy_queries<D>(a, w, q);
    copy_tile<D, E>(a, w, 0, tiles, tiles + arrives);
    for (int32_t first = 0, side = 0; first < w.entries; first += KEYS, side ^= 1) {
        unsigned char *keys = tiles + (widens ? 1 : side) * (2 * TILE);
        unsigned char *ahead = tiles + (widens ? 0 : side ^ 1) * (2 * TILE);
        kv_copy_wait<0>();
        __syncthreads(); /* all that was copied is seen, and what lay ahead of the last tile is done with */
        if (widens) {
            widen_tile<D, SLOTS>(ahead, keys);
            __syncthreads();
        }
        if (first + KEYS < w.entries)
            copy_tile<D, E>(a, w, first + KEYS, ahead, ahead + arrives);
        if (SLOTS) {
            if (first == 0)
                rotate_queries<D, M>(a, w, q);
            rotate_tile<D, M>(a, w, first, keys);
            __syncthreads();
        }
        if (first >= needed)
            continue;
        float s[BLOCKS][KEYS / 8][4];
        multiply_keys<D, M>(q, keys, s);
        if (first + KEYS > open)
            mask(w, first, s);
        take_weights<D>(&r, s, scale);
        multiply_values<D, M>(&r, s, keys + TILE);
    }
    /* asked again: not kept in registers till here */
    write_rows<D>(a, kv_place_of(a, list[blockIdx.x], list[blockIdx.x].number * ROWS), &r, scale);
}

template <int D>
static void launch_for(struct kv_gpu *g, const struct kv_attention *a, const struct kv_attention_tile *tile, int64_t n,
                       bool slots)
{
    kv_with_elements(&a->s, [&](auto element) {
        typedef decltype(element) E;
        if (slots)
            KV_LAUNCH(g, (attention_prefill<D, E, true>), dim3((unsigned)n), dim3(THREADS), form<D>::BYTES, *a, tile);
        else
            KV_LAUNCH(g, (attention_prefill<D, E, false>), dim3((unsigned)n), dim3(THREADS), form<D>::BYTES, *a, tile);
    });
}

void kv_attention_prefill(struct kv_gpu *g, const struct kv_attention *a, const struct kv_attention_tile *tile,
                          int64_t n, bool slots)
{
    if (!n)
        return;
    if (a->s.d == 32)
        launch_for<32>(g, a, tile, n, slots);
    else if (a->s.d == 64)
        launch_for<64>(g, a, tile, n, slots);
    else
        launch_for<128>(g, a, tile, n, slots);
}
