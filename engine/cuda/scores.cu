/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What policies ask of a layer's lanes: sums of softmax weights over queries, norms, entries. Scores are made twice,
 * for the sum of exponentials of each query and for the weights, and never written down. All sums have one order: a run
 * repeated gives the same bits.
 *
 * Keys are the rows of the matrix products and queries the columns, so that few queries waste little and a key's sum
 * stays in the registers of four lanes. The order of a head's elements does not matter to a dot product: a lane takes
 * 8 neighbours of a row for two steps of 16 elements, of keys straight from the pages and of queries from shared
 * memory. */
#include "engine/cuda/device.cuh"

enum {
    WARPS = 4,
    THREADS = 32 * WARPS,
    KEYS = 32,    /* of a warp at a time */
    QUERIES = 64, /* of a head at a time, 8 in a matrix */
    MATRICES = QUERIES / 8,
    MOST_SPLITS = 64,
    SPLIT_QUERIES = 4096, /* times splits, at most, where there is more than one */
    PLAIN_QUERIES = 16,
    MOST_D = 256,
};
/* Under any score, and 2^(none - any) is 0, not NaN. */
#define LOWEST (-1e30f)

/* What all of a call's kernels are told. */
struct look {
    struct kv_cuda_shape s;
    const struct kv_cuda_part *part;
    const kv_query *q;
    const int32_t *from;
    float
        *scratch; /* (q_heads, queries, splits, 2): highest score of a split and sum below it; merged, one logarithm */
    int32_t layer, queries, skip, splits;
    int32_t rows; /* of a tile of queries: QUERIES, or as few eights as there are */
    float scale;  /* of q.k, to powers of two */
};

/* A lane, as a block sees it. Entries count from 0 to `end`, from `from` on they are looked at. */
struct lane {
    struct kv_cuda_part p;
    const int32_t *table;
    int32_t from, end, tokens, first_head, group;
};

static __device__ __forceinline__ struct lane lane_of(const struct look &l, int32_t head)
{
    struct lane a;
    a.p = *l.part;
    a.table = kv_table_of(a.p, l.layer, head);
    a.tokens = a.p.n_new + a.p.n_patch;
    a.end = (int32_t)kv_length_of(a.p, l.layer, head) + a.tokens;
    a.from = l.from[head];
    a.group = l.s.q_heads / a.p.heads;
    a.first_head = head * a.group;
    return a;
}

/* How many of the lane's entries query i sees: all but those that came after it. Not above 0: it is older than they
 * are.
 */
static __device__ __forceinline__ int32_t seen_by(const struct look &l, const struct lane &a, int32_t i)
{
    return a.end - (l.queries - i + l.skip) + 1;
}

static __device__ __forceinline__ const kv_query *query_of(const struct look &l, const struct lane &a, int32_t i,
                                                           int32_t head)
{
    int64_t back = l.queries - i + l.skip, width = (int64_t)l.s.q_heads * l.s.d;
    const kv_query *row = back <= a.tokens
                              ? l.q + (a.p.first + a.tokens - back) * width
                              : a.p.query + ((int64_t)(l.layer + 1) * a.p.window - (back - a.tokens)) * width;
    return row + (int64_t)head * l.s.d;
}

static __device__ __forceinline__ float *scratch_of(const struct look &l, int32_t head, int32_t i, int32_t split)
{
    return l.scratch + 2 * (((int64_t)head * l.queries + i) * l.splits + split);
}

/* Eight neighbours of each half of a head, turned to a position, `at` elements into the half; rounded, as they would be
 * if they had been stored so. */
template <typename M>
static __device__ __forceinline__ void turn(const struct kv_cuda_shape &s, int32_t position, int32_t at, uint4 *low,
                                            uint4 *high)
{
    int64_t angle = (int64_t)position * (s.d / 2) + at;
    float x[8], y[8], cosine[8], sine[8];
    kv_load<8>(x, (const M *)low);
    kv_load<8>(y, (const M *)high);
    kv_load<8>(cosine, s.cosine + angle);
    kv_load<8>(sine, s.sine + angle);
    for (int i = 0; i < 8; i++) {
        float was = x[i];
        x[i] = kv_turned_low(was, y[i], cosine[i], sine[i]);
        y[i] = kv_turned_high(was, y[i], cosine[i], sine[i]);
    }
    kv_store<8>((M *)low, x);
    kv_store<8>((M *)high, y);
}

/* ---- matrices ---- */

/* Queries in shared memory lie 64 bytes further apart than they are long: eight lanes that read 16 bytes each of two
 * rows then touch all banks once. */
template <int d> struct tile {
    enum { ROW_BYTES = 2 * d + 64 };
};

/* Queries first .. of a head to shared memory, by the threads of a block or of a warp; zeros for those that there are
 * not or that see nothing. They arrive when the copies are waited for. */
template <int d, typename M>
static __device__ void load_queries(const struct look &l, const struct lane &a, int32_t head, int32_t first,
                                    unsigned char *to, int thread, int threads)
{
    for (int chunk = thread; chunk < l.rows * d / 8; chunk += threads) {
        int row = chunk / (d / 8), at = chunk % (d / 8) * 8;
        int32_t i = first + row;
        bool there = i < l.queries && seen_by(l, a, i) > a.from;
        const kv_query *query = there ? query_of(l, a, i, head) : l.q;
        unsigned char *shared = to + row * tile<d>::ROW_BYTES + 2 * at;
        if (!a.p.slot_positions || !there) {
            kv_copy_later(shared, query + (there ? at : 0), there);
            continue;
        }
        uint4 low = *(const uint4 *)(const void *)(query + at % (d / 2));
        uint4 high = *(const uint4 *)(const void *)(query + at % (d / 2) + d / 2);
        turn<M>(l.s, seen_by(l, a, i) - 1, at % (d / 2), &low, &high);
        *(uint4 *)(void *)shared = at < d / 2 ? low : high;
    }
    kv_copy_group();
}

/* Keys first .. first + 31 of the lane: of rows lane / 4 + 8 r, 8 elements of every 32. Behind the end, the last one.
 */
template <int d, typename E>
static __device__ __forceinline__ void load_keys(const struct look &l, const struct lane &a, int32_t first,
                                                 uint4 (&keys)[4][d / 32])
{
    int group = (int)threadIdx.x % 32 / 4, in = (int)threadIdx.x % 4;
    KV_UNROLL
    for (int r = 0; r < 4; r++) {
        int32_t i = first + group + 8 * r < a.end ? first + group + 8 * r : a.end - 1;
        const E *row = kv_row_of<E>(l.s, a.table, i);
        KV_UNROLL
        for (int c = 0; c < d / 32; c++)
            keys[r][c] = kv_matrix_words(row + 32 * c + 8 * in);
        if (!a.p.slot_positions)
            continue;
        KV_UNROLL
        for (int c = 0; c < d / 64; c++)
            turn<kv_matrix<E>>(l.s, i, 32 * c + 8 * in, &keys[r][c], &keys[r][c + d / 64]);
    }
}

/* Products of 32 keys and 8 queries: out[k][0 and 1] of key lane / 4 + 8 k and queries 2 (lane % 4) and the next. */
template <int d, typename M>
static __device__ __forceinline__ void multiply(const uint4 (&keys)[4][d / 32], const unsigned char *queries,
                                                int matrix, float (&out)[4][2])
{
    int group = (int)threadIdx.x % 32 / 4, in = (int)threadIdx.x % 4;
    const unsigned char *row = queries + (8 * matrix + group) * tile<d>::ROW_BYTES + 16 * in;
    float c[2][4] = {};
    KV_UNROLL
    for (int k = 0; k < d / 32; k++) {
        uint4 q = *(const uint4 *)(const void *)(row + 64 * k);
        const uint32_t one[2] = {q.x, q.y}, other[2] = {q.z, q.w};
        KV_UNROLL
        for (int t = 0; t < 2; t++) {
            const uint4 &upper = keys[2 * t][k], &lower = keys[2 * t + 1][k];
            const uint32_t first[4] = {upper.x, lower.x, upper.y, lower.y};
            const uint32_t second[4] = {upper.z, lower.z, upper.w, lower.w};
            kv_pair<M>::multiply(c[t], first, one);
            kv_pair<M>::multiply(c[t], second, other);
        }
    }
    KV_UNROLL
    for (int k = 0; k < 4; k++) {
        out[k][0] = c[k / 2][k % 2 * 2];
        out[k][1] = c[k / 2][k % 2 * 2 + 1];
    }
}

/* ---- first pass: the sum of exponentials of each query ---- */

struct running {
    float top, sum; /* of 2^(x - top) */
};
static __device__ __forceinline__ void join(struct running &x, float top, float sum)
{
    float higher = fmaxf(x.top, top);
    x.sum = x.sum * kv_exp2(x.top - higher) + sum * kv_exp2(top - higher);
    x.top = higher;
}

/* Entries of a split: whole steps of KEYS, but the last of the lane. */
static __device__ __forceinline__ void range_of(const struct look &l, const struct lane &a, int32_t split,
                                                int32_t *first, int32_t *end)
{
    int64_t n = a.end > a.from ? a.end - a.from : 0, each = (n + l.splits - 1) / l.splits;
    each = (each + KEYS - 1) / KEYS * KEYS;
    int64_t before = each * split < n ? each * split : n;
    *first = a.from + (int32_t)before;
    *end = a.from + (int32_t)(before + each < n ? before + each : n);
}

/* A query's scores of four keys, 8 apart, of which it sees those before `seen` (all where `whole`). */
static __device__ __forceinline__ void add_scores(struct running &x, const float (&score)[4][2], int e, float scale,
                                                  bool whole, int32_t seen)
{
    float s[4], top = x.top, sum = 0;
    KV_UNROLL
    for (int k = 0; k < 4; k++) {
        s[k] = whole || 8 * k < seen ? score[k][e] * scale : -INFINITY;
        top = fmaxf(top, s[k]);
    }
    KV_UNROLL
    for (int k = 0; k < 4; k++)
        sum += kv_exp2(s[k] - top);
    x.sum = x.sum * kv_exp2(x.top - top) + sum;
    x.top = top;
}

/* Of n queries from `query` on, what the eight lanes have that saw different keys. */
static __device__ __forceinline__ void put_split(const struct look &l, struct running (&of)[MATRICES][2], int32_t head,
                                                 int32_t query, int32_t n, int32_t split)
{
    int group = (int)threadIdx.x % 32 / 4, in = (int)threadIdx.x % 4;
    KV_UNROLL
    for (int m = 0; m < MATRICES; m++)
        KV_UNROLL
    for (int e = 0; e < 2; e++) {
        struct running all = of[m][e];
        for (int step = 4; step < 32; step *= 2) {
            float top = __shfl_xor_sync(0xffffffffu, all.top, step);
            join(all, top, __shfl_xor_sync(0xffffffffu, all.sum, step));
        }
        int32_t i = 8 * m + 2 * in + e;
        if (group || i >= n)
            continue;
        float *out = scratch_of(l, head, query + i, split);
        out[0] = all.top;
        out[1] = all.sum;
    }
}

/* A block: one split of a lane's entries. A warp of it: QUERIES queries of a head, against all of those; the warps read
 * the same keys at about the same time. */
template <int d, typename E> __global__ __launch_bounds__(THREADS) void sum_exponentials(struct look l)
{
    KV_SHARED_BYTES(shared);
    const struct lane a = lane_of(l, (int32_t)blockIdx.z);
    int thread = (int)threadIdx.x % 32, group = thread / 4, in = thread % 4, warp = (int)threadIdx.x / 32;
    int32_t tiles = (l.queries + QUERIES - 1) / QUERIES, at = (int32_t)(blockIdx.y * (blockDim.x / 32)) + warp;
    if (at >= tiles * a.group)
        return;
    int32_t head = a.first_head + at / tiles, query = at % tiles * QUERIES, entry, end;
    int32_t n = l.queries - query < QUERIES ? l.queries - query : QUERIES, least = seen_by(l, a, query);
    unsigned char *queries = shared + warp * l.rows * tile<d>::ROW_BYTES;
    struct running of[MATRICES][2];
    KV_UNROLL
    for (int m = 0; m < MATRICES; m++)
        of[m][0].top = of[m][1].top = LOWEST, of[m][0].sum = of[m][1].sum = 0;
    load_queries<d, kv_matrix<E>>(l, a, head, query, queries, thread, 32);
    kv_copy_wait<0>();
    __syncwarp();
    range_of(l, a, (int32_t)blockIdx.x, &entry, &end);
    for (end = least + n - 1 < end ? least + n - 1 : end; entry < end; entry += KEYS) {
        uint4 keys[4][d / 32];
        load_keys<d, E>(l, a, entry, keys);
        KV_UNROLL
        for (int m = 0; m < MATRICES; m++) {
            float score[4][2];
            if (8 * m >= n)
                break;
            multiply<d, kv_matrix<E>>(keys, queries, m, score);
            for (int e = 0; e < 2; e++)
                add_scores(of[m][e], score, e, l.scale, entry + KEYS <= least,
                           least + 8 * m + 2 * in + e - entry - group);
        }
    }
    put_split(l, of, head, query, n, (int32_t)blockIdx.x);
}

/* A query's splits, in order, to the logarithm of their sum. (Nobody looks at that of one that sees nothing.) */
__global__ void merge_splits(struct look l)
{
    int64_t row = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (row >= (int64_t)l.s.q_heads * l.queries)
        return;
    float *at = l.scratch + 2 * row * l.splits;
    struct running all = {LOWEST, 0};
    for (int32_t s = 0; s < l.splits; s++)
        join(all, at[2 * s], at[2 * s + 1]);
    at[0] = all.top + log2f(all.sum);
}

/* ---- second pass: sums of weights ---- */

struct sums {
    float *out;
    int64_t lane_stride, row_stride;
    bool query_rows;
};

/* Adds the weights of n queries to the sums of a warp's keys: the first sees `least` entries, each after it one more.
 */
template <int d, typename M>
static __device__ __forceinline__ void add_weights(const struct look &l, const uint4 (&keys)[4][d / 32],
                                                   const unsigned char *queries, const float *logarithm, int32_t n,
                                                   int32_t least, int32_t entry, float (&sum)[4])
{
    int group = (int)threadIdx.x % 32 / 4, in = (int)threadIdx.x % 4;
    bool whole = entry + KEYS <= least;
    for (int m = 0; 8 * m < n; m++) {
        float score[4][2];
        multiply<d, M>(keys, queries, m, score);
        KV_UNROLL
        for (int e = 0; e < 2; e++) {
            float by = logarithm[8 * m + 2 * in + e];
            int32_t seen = least + 8 * m + 2 * in + e - entry - group;
            KV_UNROLL
            for (int k = 0; k < 4; k++)
                sum[k] += whole || 8 * k < seen ? kv_exp2(score[k][e] * l.scale - by) : 0;
        }
    }
}

/* A warp's keys, each from the four lanes that share it; they begin anew. */
static __device__ __forceinline__ void put_sums(const struct lane &a, int32_t entry, float (&sum)[4], float *out)
{
    int group = (int)threadIdx.x % 32 / 4, in = (int)threadIdx.x % 4;
    KV_UNROLL
    for (int k = 0; k < 4; k++) {
        float all = sum[k] + __shfl_xor_sync(0xffffffffu, sum[k], 1);
        all += __shfl_xor_sync(0xffffffffu, all, 2);
        int32_t i = entry + group + 8 * k;
        if (in == k && i < a.end)
            out[i - a.from] = all;
        sum[k] = 0;
    }
}

/* A tile of a head's queries is called for; the logarithm of this thread's query comes back. */
template <int d, typename M>
static __device__ __forceinline__ float fetch(const struct look &l, const struct lane &a, int32_t head, int32_t query,
                                              unsigned char *to)
{
    int thread = (int)threadIdx.x;
    load_queries<d, M>(l, a, head, query, to, thread, THREADS);
    return thread < QUERIES && query + thread < l.queries ? *scratch_of(l, head, query + thread, 0) : INFINITY;
}

/* A block: THREADS keys of a lane, KEYS a warp, against all queries that see one of them, tile after tile of each head;
 * the next tile comes while one is worked on. */
template <int d, typename E> __global__ __launch_bounds__(THREADS) void sum_weights(struct look l, struct sums to)
{
    typedef kv_matrix<E> M;
    KV_SHARED_BYTES(shared);
    const struct lane a = lane_of(l, (int32_t)blockIdx.y);
    int thread = (int)threadIdx.x;
    int32_t block = a.from + (int32_t)blockIdx.x * THREADS, entry = block + thread / 32 * KEYS, step = 0;
    if (block >= a.end)
        return;
    /* tiles before `begin` see none of the keys */
    int32_t unseen = block + 1 - seen_by(l, a, 0), begin = unseen > 0 ? unseen / QUERIES : 0;
    int32_t tiles = (l.queries + QUERIES - 1) / QUERIES, each = tiles - begin, steps = each > 0 ? each * a.group : 0;
    int32_t bytes = l.rows * tile<d>::ROW_BYTES;
    float *logarithms = (float *)(void *)(shared + 2 * bytes), logarithm = 0, sum[4] = {0, 0, 0, 0};
    uint4 keys[4][d / 32];
    load_keys<d, E>(l, a, entry, keys);
    if (steps)
        logarithm = fetch<d, M>(l, a, a.first_head, begin * QUERIES, shared);
    for (int32_t head = 0; head < a.group; head++) {
        for (int32_t t = begin; t < tiles; t++, step++) {
            unsigned char *now = shared + step % 2 * bytes, *then = shared + (step + 1) % 2 * bytes;
            float *by = logarithms + step % 2 * QUERIES;
            int32_t n = l.queries - t * QUERIES < QUERIES ? l.queries - t * QUERIES : QUERIES;
            if (thread < QUERIES)
                by[thread] = logarithm;
            kv_copy_wait<0>();
            __syncthreads();
            if (step + 1 < steps)
                logarithm =
                    fetch<d, M>(l, a, a.first_head + (step + 1) / each, (begin + (step + 1) % each) * QUERIES, then);
            if (entry < a.end)
                add_weights<d, M>(l, keys, now, by, n, seen_by(l, a, t * QUERIES), entry, sum);
        }
        if (to.query_rows || head + 1 == a.group)
            put_sums(a, entry, sum, to.out + blockIdx.y * to.lane_stride + (to.query_rows ? head * to.row_stride : 0));
    }
}

/* ---- both passes for heads that do not fit the matrices, element by element ---- */

/* An element of a head, as attention sees it from its place in the lane. */
template <typename E>
static __device__ float element(const struct look &l, bool turned, const E *x, int32_t place, int i)
{
    typedef kv_pair<kv_matrix<E>> pair;
    int half = l.s.d / 2;
    float low, high;
    if (!turned) {
        kv_load<1>(&low, x + i);
        return low;
    }
    int64_t at = (int64_t)place * half + i % half;
    float c = l.s.cosine[at], s = l.s.sine[at];
    kv_load<1>(&low, x + i % half);
    kv_load<1>(&high, x + i % half + half);
    return pair::unpack(pair::pack(i < half ? kv_turned_low(low, high, c, s) : kv_turned_high(low, high, c, s), 0)).x;
}

/* A query to shared memory, by the block. */
template <typename M>
static __device__ void plain_query(const struct look &l, const struct lane &a, int32_t head, int32_t i, float *to)
{
    int32_t seen = seen_by(l, a, i);
    for (int e = (int)threadIdx.x; e < l.s.d && seen > a.from; e += THREADS)
        to[e] = element(l, a.p.slot_positions, (const M *)query_of(l, a, i, head), seen - 1, e);
}

template <typename E>
static __device__ float plain_score(const struct look &l, const struct lane &a, const float *query, int32_t entry)
{
    const E *key = kv_row_of<E>(l.s, a.table, entry);
    float sum = 0;
    for (int e = 0; e < l.s.d; e++)
        sum += query[e] * element(l, a.p.slot_positions, key, entry, e);
    return sum * l.scale;
}

/* A block: a query (x) against a split (y). */
template <typename E> __global__ void plain_exponentials(struct look l)
{
    __shared__ float query[MOST_D];
    __shared__ struct running of_thread[THREADS];
    int32_t head = (int32_t)blockIdx.z, i = (int32_t)blockIdx.x, entry, end, group = l.s.q_heads / l.part->heads;
    const struct lane a = lane_of(l, head / group);
    struct running all = {LOWEST, 0};
    plain_query<kv_matrix<E>>(l, a, head, i, query);
    __syncthreads();
    range_of(l, a, (int32_t)blockIdx.y, &entry, &end);
    end = seen_by(l, a, i) < end ? seen_by(l, a, i) : end;
    for (entry += (int32_t)threadIdx.x; entry < end; entry += THREADS)
        join(all, plain_score<E>(l, a, query, entry), 1);
    of_thread[threadIdx.x] = all;
    __syncthreads();
    if (threadIdx.x)
        return;
    for (int t = 1; t < THREADS; t++)
        join(all, of_thread[t].top, of_thread[t].sum);
    float *out = scratch_of(l, head, i, (int32_t)blockIdx.y);
    out[0] = all.top;
    out[1] = all.sum;
}

/* A thread: a key, against all queries. */
template <typename E> __global__ void plain_weights(struct look l, struct sums to)
{
    __shared__ float query[PLAIN_QUERIES][MOST_D];
    const struct lane a = lane_of(l, (int32_t)blockIdx.y);
    int32_t block = a.from + (int32_t)blockIdx.x * THREADS, entry = block + (int32_t)threadIdx.x;
    float sum = 0;
    if (block >= a.end)
        return;
    for (int32_t head = 0; head < a.group; head++) {
        float *out = to.out + blockIdx.y * to.lane_stride + (to.query_rows ? head * to.row_stride : 0);
        for (int32_t first = 0; first < l.queries; first += PLAIN_QUERIES) {
            int32_t n = l.queries - first < PLAIN_QUERIES ? l.queries - first : PLAIN_QUERIES;
            for (int32_t i = 0; i < n; i++)
                plain_query<kv_matrix<E>>(l, a, a.first_head + head, first + i, query[i]);
            __syncthreads();
            for (int32_t i = 0; i < n; i++)
                if (entry < seen_by(l, a, first + i))
                    sum += kv_exp2(plain_score<E>(l, a, query[i], entry) -
                                   *scratch_of(l, a.first_head + head, first + i, 0));
            __syncthreads();
        }
        if (entry < a.end && (to.query_rows || head + 1 == a.group))
            out[entry - a.from] = sum;
        sum = to.query_rows ? 0 : sum;
    }
}

/* ---- the launches ---- */

static unsigned parts_of(int64_t n, int64_t size)
{
    return (unsigned)((n + size - 1) / size);
}

/* So that a few queries of long lanes keep a device busy, within the scratch there is. */
static int32_t splits_of(int64_t queries, int64_t most_entries)
{
    int64_t splits = (most_entries + 511) / 512;
    splits = splits < MOST_SPLITS ? splits : (int64_t)MOST_SPLITS;
    splits = splits < SPLIT_QUERIES / queries ? splits : SPLIT_QUERIES / queries;
    return splits > 1 ? (int32_t)splits : 1;
}

int64_t kv_cuda_window_scratch(const struct kv_cuda_shape *s, int64_t queries)
{
    return 2 * s->q_heads * (queries > SPLIT_QUERIES ? queries : (int64_t)SPLIT_QUERIES);
}

template <int d, typename E>
static void launch_matrices(struct kv_gpu *g, const struct look *l, int32_t heads, int64_t most_entries,
                            const struct sums *to)
{
    int32_t tiles = (int32_t)parts_of(l->queries, QUERIES) * (l->s.q_heads / heads), warps = WARPS;
    int32_t bytes = l->rows * tile<d>::ROW_BYTES;
    warps = tiles < warps ? tiles : warps;
    KV_LAUNCH(g, (sum_exponentials<d, E>), dim3((unsigned)l->splits, parts_of(tiles, warps), (unsigned)heads),
              dim3((unsigned)(32 * warps)), warps * bytes, *l);
    KV_LAUNCH(g, merge_splits, dim3(parts_of((int64_t)l->s.q_heads * l->queries, THREADS)), dim3(THREADS), 0, *l);
    KV_LAUNCH(g, (sum_weights<d, E>), dim3(parts_of(most_entries, THREADS), (unsigned)heads), dim3(THREADS),
              2 * bytes + 2 * QUERIES * (int)sizeof(float), *l, *to);
}

template <typename E>
static void launch_plain(struct kv_gpu *g, const struct look *l, int32_t heads, int64_t most_entries,
                         const struct sums *to)
{
    KV_LAUNCH(g, plain_exponentials<E>, dim3((unsigned)l->queries, (unsigned)l->splits, (unsigned)l->s.q_heads),
              dim3(THREADS), 0, *l);
    KV_LAUNCH(g, merge_splits, dim3(parts_of((int64_t)l->s.q_heads * l->queries, THREADS)), dim3(THREADS), 0, *l);
    KV_LAUNCH(g, plain_weights<E>, dim3(parts_of(most_entries, THREADS), (unsigned)heads), dim3(THREADS), 0, *l, *to);
}

void kv_cuda_window_sums(struct kv_gpu *g, const struct kv_cuda_shape *s, const struct kv_cuda_part *part,
                         const struct kv_cuda_part *part_host, int32_t layer, const kv_query *q, int64_t queries,
                         int64_t skip, const int32_t *from, int64_t most_entries, bool query_rows, float *out,
                         int64_t lane_stride, int64_t row_stride, float *scratch)
{
    const float to_twos = 1.44269504f; /* 1 / ln 2 */
    struct look l = {};
    l.s = *s;
    l.part = part;
    l.q = q;
    l.from = from;
    l.scratch = scratch;
    l.layer = layer;
    l.queries = (int32_t)queries;
    l.skip = (int32_t)skip;
    l.rows = queries < QUERIES ? (l.queries + 7) / 8 * 8 : (int32_t)QUERIES;
    l.scale = to_twos / sqrtf((float)s->d);
    struct sums to = {out, lane_stride, row_stride, query_rows};
    if (queries <= 0 || most_entries <= 0)
        return;
    l.splits = splits_of(queries, most_entries);
    kv_with_elements(s, [&](auto element) {
        typedef decltype(element) E;
        if (s->d == 64)
            launch_matrices<64, E>(g, &l, part_host->heads, most_entries, &to);
        else if (s->d == 128)
            launch_matrices<128, E>(g, &l, part_host->heads, most_entries, &to);
        else
            launch_plain<E>(g, &l, part_host->heads, most_entries, &to);
    });
}

/* ---- norms and entries ---- */

/* A warp for each new token of each lane. */
template <typename E> __global__ void norms(struct look l, bool values, float *out, int64_t lane_stride)
{
    const struct kv_cuda_part &p = *l.part;
    int32_t head = (int32_t)blockIdx.y, lane = (int32_t)threadIdx.x % 32;
    int32_t token = (int32_t)(blockIdx.x * WARPS + threadIdx.x / 32);
    float sum = 0;
    if (token >= p.n_new)
        return;
    const E *row = kv_row_of<E>(l.s, kv_table_of(p, l.layer, head), kv_length_of(p, l.layer, head) + token);
    row += values ? (int64_t)l.s.page * l.s.d : 0;
    for (int32_t i = 2 * lane; i < l.s.d; i += 64) {
        float two[2];
        kv_load<2>(two, row + i);
        sum += two[0] * two[0] + two[1] * two[1];
    }
    sum = kv_warp_sum(sum);
    if (lane == 0)
        out[head * lane_stride + token] = sqrtf(sum);
}

void kv_cuda_norms(struct kv_gpu *g, const struct kv_cuda_shape *s, const struct kv_cuda_part *part,
                   const struct kv_cuda_part *part_host, int32_t layer, bool values, float *out, int64_t lane_stride)
{
    struct look l = {};
    l.s = *s;
    l.part = part;
    l.layer = layer;
    if (part_host->n_new > 0)
        kv_with_elements(s, [&](auto element) {
            KV_LAUNCH(g, norms<decltype(element)>, dim3(parts_of(part_host->n_new, WARPS), (unsigned)part_host->heads),
                      dim3(THREADS), 0, l, values, out, lane_stride);
        });
}

/* A block for each entry. */
template <typename E> __global__ void entries(struct look l, int32_t head, int64_t first, float *keys, float *values)
{
    int64_t entry = first + blockIdx.x, at = (int64_t)blockIdx.x * l.s.d;
    const E *key = kv_row_of<E>(l.s, kv_table_of(*l.part, l.layer, head), entry);
    for (int e = (int)threadIdx.x; e < l.s.d; e += THREADS) {
        keys[at + e] = element(l, l.part->slot_positions, key, (int32_t)entry, e);
        if (values)
            kv_load<1>(values + at + e, key + (int64_t)l.s.page * l.s.d + e);
    }
}

void kv_cuda_entries(struct kv_gpu *g, const struct kv_cuda_shape *s, const struct kv_cuda_part *part, int32_t layer,
                     int32_t head, int64_t first, int64_t n, float *keys, float *values)
{
    struct look l = {};
    l.s = *s;
    l.part = part;
    l.layer = layer;
    if (n > 0)
        kv_with_elements(s, [&](auto element) {
            KV_LAUNCH(g, entries<decltype(element)>, dim3((unsigned)n), dim3(THREADS), 0, l, head, first, keys, values);
        });
}
