/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Attention of parts of one token: a block for each piece of a lane, then a merge of the pieces in their order. A
 * thread holds 8 elements of some rows. K and V are copied ahead through shared memory, 16 bytes at a time: of 16-bit
 * elements a thread copies its own share, which nobody else reads; of fp8 that of two threads of its warp, which then
 * wait for each other. So many copies are under way without registers or barriers of the block. */
#include "engine/cuda/attention.cuh"

enum {
    THREADS = 256,
    STAGES = 4,
    UNROLLED = 2, /* rows a thread takes at once */
    PER_THREAD = 8,
    MERGE_WARPS = 4,
    MOST_D = 128,
};

/* Threads of one row, rows of a block at once. */
template <int D> struct form {
    enum { ACROSS = D / PER_THREAD, ROWS = THREADS / ACROSS, STEP = ROWS * UNROLLED };
};

/* Copies of a step, of K and of V each, and threads that one of them is for. */
template <typename E> struct copies {
    enum { FOR = 16 / (PER_THREAD * (int)sizeof(E)), N = UNROLLED / FOR };
};

/* Shared memory, in bytes: copies ahead, later the rows' outputs; behind them the rows' tops and sums. */
template <int D, int G, typename E> struct shared_form {
    enum {
        AHEAD = STAGES * copies<E>::N * 2 * THREADS * 16,
        ALL = form<D>::ROWS * G * D * 4,
        TOPS = AHEAD > ALL ? AHEAD : ALL,
        BYTES = TOPS + 2 * form<D>::ROWS * G * 4
    };
};

/* What a thread attends to: row `mine` of each ROWS of [first, behind), elements [column, column + 8). */
struct place {
    const int32_t *table;
    uint32_t first, behind;
    int mine, column;
    unsigned char *ahead; /* [stage][copy][K or V] of this warp, THREADS x 16 bytes apart: its rows, thread by thread */
};

template <int G> struct sums {
    float o[G][PER_THREAD], top[G], sum[G];
};

/* x: elements [column, column + 8) of a row whose other half's are `across` threads off. */
template <int D>
static __device__ __forceinline__ void rotate(const struct kv_cuda_shape &s, float x[PER_THREAD], int column,
                                              int64_t position)
{
    const float *cosine = s.cosine + position * (D / 2) + column % (D / 2);
    const float *sine = s.sine + position * (D / 2) + column % (D / 2);
    float sign = column < D / 2 ? -1.0f : 1.0f;
    KV_UNROLL
    for (int i = 0; i < PER_THREAD; i++) {
        float other = __shfl_xor_sync(0xffffffffu, x[i], D / PER_THREAD / 2);
        x[i] = x[i] * cosine[i] + sign * other * sine[i];
    }
}

/* Of two threads' share, the first 16 copy that of even rows of UNROLLED, the others that of odd ones. */
template <int D, typename E>
static __device__ __forceinline__ void copy_ahead(const struct kv_cuda_shape &s, const struct place &w, uint32_t step)
{
    enum { FOR = copies<E>::FOR, N = copies<E>::N, THEIRS = 32 / FOR };
    int lane = (int)threadIdx.x % 32, reader = (int)threadIdx.x - lane + lane % THEIRS * FOR;
    unsigned char *to = w.ahead + step % STAGES * (2 * N * THREADS * 16) + lane * 16;
    KV_UNROLL
    for (int k = 0; k < N; k++) {
        int row = (k * FOR + lane / THEIRS) * form<D>::ROWS + reader / form<D>::ACROSS;
        uint32_t i = w.first + step * form<D>::STEP + (uint32_t)row;
        bool there = i < w.behind;
        const E *key = kv_entry_of<E>(s, w.table, there ? i : w.first) + reader % form<D>::ACROSS * PER_THREAD;
        kv_copy_later(to + (2 * k) * (THREADS * 16), key, there);
        kv_copy_later(to + (2 * k + 1) * (THREADS * 16), key + (int64_t)s.page * D, there);
    }
    kv_copy_group();
}

/* A thread's share of row u of UNROLLED, of K or V, that was copied for a step. */
template <typename E>
static __device__ __forceinline__ void read_share(const struct place &w, uint32_t step, int u, bool values,
                                                  float out[PER_THREAD])
{
    enum { FOR = copies<E>::FOR, N = copies<E>::N, BYTES = PER_THREAD * (int)sizeof(E) };
    const unsigned char *from = w.ahead + step % STAGES * (2 * N * THREADS * 16);
    from += (2 * (u / FOR) + values) * (THREADS * 16) + (u % FOR) * (32 * BYTES) + (int)threadIdx.x % 32 * BYTES;
    kv_load<PER_THREAD>(out, (const E *)(const void *)from);
}

/* Scores of UNROLLED rows; q holds the scale. */
template <int D, int G, typename E, bool SLOTS>
static __device__ __forceinline__ void score(const struct kv_cuda_shape &s, const struct place &w, uint32_t step,
                                             const float q[G][PER_THREAD], float out[UNROLLED][G])
{
    KV_UNROLL
    for (int u = 0; u < UNROLLED; u++) {
        uint32_t i = w.first + step * form<D>::STEP + (uint32_t)(u * form<D>::ROWS + w.mine);
        float key[PER_THREAD];
        read_share<E>(w, step, u, false, key);
        if (SLOTS)
            rotate<D>(s, key, w.column, i < w.behind ? i : w.first);
        KV_UNROLL
        for (int g = 0; g < G; g++) {
            float sum = 0;
            KV_UNROLL
            for (int k = 0; k < PER_THREAD; k++)
                sum += q[g][k] * key[k];
            KV_UNROLL
            for (int across = form<D>::ACROSS / 2; across; across /= 2)
                sum += __shfl_xor_sync(0xffffffffu, sum, across);
            out[u][g] = i < w.behind ? sum : -INFINITY;
        }
    }
}

template <int G, typename E>
static __device__ __forceinline__ void add(const struct place &w, uint32_t step, float score[UNROLLED][G],
                                           struct sums<G> *r)
{
    KV_UNROLL
    for (int g = 0; g < G; g++) {
        float top = r->top[g];
        KV_UNROLL
        for (int u = 0; u < UNROLLED; u++)
            top = fmaxf(top, score[u][g]);
        if (top > r->top[g]) { /* seldom, after the first entries */
            float shrink = kv_exp2(r->top[g] - top);
            r->sum[g] *= shrink;
            KV_UNROLL
            for (int k = 0; k < PER_THREAD; k++)
                r->o[g][k] *= shrink;
            r->top[g] = top;
        }
    }
    KV_UNROLL
    for (int u = 0; u < UNROLLED; u++) {
        float value[PER_THREAD];
        read_share<E>(w, step, u, true, value);
        KV_UNROLL
        for (int g = 0; g < G; g++) {
            float weight = r->top[g] == -INFINITY ? 0.0f : kv_exp2(score[u][g] - r->top[g]);
            r->sum[g] += weight;
            KV_UNROLL
            for (int k = 0; k < PER_THREAD; k++)
                r->o[g][k] += weight * value[k];
        }
    }
}

/* The block's rows are one: tops first, so that what is summed is under the same. `all` (ROWS, G, D). */
template <int D, int G>
static __device__ __forceinline__ void write_piece(float *tops, float *all, const struct place &w, struct sums<G> *r,
                                                   const struct kv_attention_split &to, int64_t piece)
{
    enum { ROWS = form<D>::ROWS };
    float *total = tops + ROWS * G;
    for (int g = 0; g < G && w.column == 0; g++)
        tops[w.mine * G + g] = r->top[g];
    __syncthreads();
    KV_UNROLL
    for (int g = 0; g < G; g++) {
        float top = -INFINITY;
        for (int i = 0; i < ROWS; i++)
            top = fmaxf(top, tops[i * G + g]);
        float shrink = kv_exp2(r->top[g] - top);
        KV_UNROLL
        for (int k = 0; k < PER_THREAD; k++)
            all[(w.mine * G + g) * D + w.column + k] = r->o[g][k] * shrink;
        if (w.column == 0)
            total[w.mine * G + g] = r->sum[g] * shrink;
        r->top[g] = top;
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < G * D; i += THREADS) {
        float sum = 0;
        for (int row = 0; row < ROWS; row++)
            sum += all[row * G * D + i];
        to.o[piece * (G * D) + i] = sum;
    }
    for (int g = 0; g < G && threadIdx.x == 0; g++) {
        float sum = 0;
        for (int row = 0; row < ROWS; row++)
            sum += total[row * G + g];
        to.top_sum[(piece * G + g) * 2] = r->top[g];
        to.top_sum[(piece * G + g) * 2 + 1] = sum;
    }
}

template <int D, typename M, bool SLOTS>
static __device__ __forceinline__ void load_query(const struct kv_attention &a, const struct kv_cuda_part &p,
                                                  const struct place &w, int32_t head, bool there, int64_t position,
                                                  float q[PER_THREAD])
{
    KV_UNROLL
    for (int k = 0; k < PER_THREAD; k++)
        q[k] = 0;
    if (there)
        kv_load<PER_THREAD>(q, (const M *)a.q + kv_query_of(a, p, 0, head) * D + w.column);
    if (SLOTS)
        rotate<D>(a.s, q, w.column, position);
    KV_UNROLL
    for (int k = 0; k < PER_THREAD; k++)
        q[k] *= 1.44269504f / sqrtf((float)D);
}

template <int D, int G, typename E, bool SLOTS>
__global__ void __launch_bounds__(THREADS, G < KV_DECODE_HEADS ? 2 : 1)
    attention_decode(const struct kv_attention a, const struct kv_attention_split split)
{
    KV_SHARED_BYTES(shared);
    if ((int32_t)blockIdx.x >= split.n->pieces[SLOTS])
        return;
    int64_t number = (SLOTS ? split.n->pieces[0] : 0) + (int64_t)blockIdx.x;
    const struct kv_attention_piece piece = split.piece[number];
    const struct kv_cuda_part &p = a.part[piece.part];
    int t = (int)threadIdx.x, group = a.s.q_heads / p.heads;
    struct place w = {kv_table_of(p, a.layer, piece.head),       (uint32_t)piece.first,
                      (uint32_t)piece.first + (uint32_t)piece.n, t / form<D>::ACROSS,
                      t % form<D>::ACROSS * PER_THREAD,          shared + t / 32 * (32 * 16)};
    uint32_t steps = ((uint32_t)piece.n + form<D>::STEP - 1) / form<D>::STEP;
    KV_UNROLL
    for (uint32_t step = 0; step < STAGES - 1; step++)
        copy_ahead<D, E>(a.s, w, step);
    float q[G][PER_THREAD];
    KV_UNROLL
    for (int g = 0; g < G; g++)
        load_query<D, kv_matrix<E>, SLOTS>(a, p, w, piece.head * group + piece.sub + g, piece.sub + g < group,
                                           SLOTS ? kv_length_of(p, a.layer, piece.head) : 0, q[g]);
    struct sums<G> r;
    KV_UNROLL
    for (int g = 0; g < G; g++) {
        r.top[g] = -INFINITY;
        r.sum[g] = 0;
        KV_UNROLL
        for (int k = 0; k < PER_THREAD; k++)
            r.o[g][k] = 0;
    }
    for (uint32_t step = 0; step < steps; step++) {
        float scores[UNROLLED][G];
        copy_ahead<D, E>(a.s, w, step + STAGES - 1);
        kv_copy_wait<STAGES - 1>();
        if (copies<E>::FOR > 1)
            __syncwarp(); /* the others' copies are here */
        score<D, G, E, SLOTS>(a.s, w, step, q, scores);
        add<G, E>(w, step, scores, &r);
        if (copies<E>::FOR > 1)
            __syncwarp(); /* they may be overwritten */
    }
    kv_copy_wait<0>();
    write_piece<D, G>((float *)(void *)(shared + shared_form<D, G, E>::TOPS), (float *)(void *)shared, w, &r, split,
                      number);
}

/* A warp for each query head of each lane. */
__global__ void __launch_bounds__(32 * MERGE_WARPS)
    attention_merge(const struct kv_attention a, const struct kv_attention_split split, int32_t heads)
{
    int lane = (int)threadIdx.x % 32, d = a.s.d;
    int64_t number = (int64_t)blockIdx.x * MERGE_WARPS + threadIdx.x / 32;
    if (number >= (int64_t)split.n->merges * heads)
        return;
    const struct kv_attention_merge merge = split.merge[number / heads];
    const struct kv_cuda_part &p = a.part[merge.part];
    int32_t g = (int32_t)(number % heads), group = a.s.q_heads / p.heads;
    if (merge.sub + g >= group)
        return;
    const float *top_sum = split.top_sum + ((int64_t)merge.first * heads + g) * 2;
    const float *o = split.o + ((int64_t)merge.first * heads + g) * d;
    float top = -INFINITY, sum = 0, all[MOST_D / 32] = {0, 0, 0, 0};
    for (int i = lane; i < merge.n; i += 32)
        top = fmaxf(top, top_sum[(int64_t)i * heads * 2]);
    top = kv_warp_max(top);
    for (int64_t i = 0; i < merge.n; i++) {
        float weight = kv_exp2(top_sum[i * heads * 2] - top);
        sum += weight * top_sum[i * heads * 2 + 1];
        for (int k = 0; k < MOST_D / 32; k++)
            if (k * 32 < d)
                all[k] += weight * o[i * heads * d + k * 32 + lane];
    }
    int64_t at = kv_query_of(a, p, 0, merge.head * group + merge.sub + g);
    for (int k = 0; k < MOST_D / 32; k++)
        if (k * 32 < d)
            a.out[at * d + k * 32 + lane] = kv_to_bf16(all[k] / sum);
    if (lane == 0)
        a.lse[at] = (top + log2f(sum)) * 0.693147181f;
}

void kv_attention_merge_pieces(struct kv_gpu *g, const struct kv_attention *a, const struct kv_attention_split *split,
                               int64_t most, int32_t heads)
{
    int64_t blocks = (most * heads + MERGE_WARPS - 1) / MERGE_WARPS;
    if (most)
        KV_LAUNCH(g, attention_merge, dim3((unsigned)blocks), dim3(32 * MERGE_WARPS), 0, *a, *split, heads);
}

struct launch {
    struct kv_gpu *g;
    const struct kv_attention *a;
    const struct kv_attention_split *split;
    int64_t most;
};

template <int D, int G> static void launch_as(const struct launch *l, bool slots)
{
    kv_with_elements(&l->a->s, [&](auto element) {
        typedef decltype(element) E;
        if (slots)
            KV_LAUNCH(l->g, (attention_decode<D, G, E, true>), dim3((unsigned)l->most), dim3(THREADS),
                      (shared_form<D, G, E>::BYTES), *l->a, *l->split);
        else
            KV_LAUNCH(l->g, (attention_decode<D, G, E, false>), dim3((unsigned)l->most), dim3(THREADS),
                      (shared_form<D, G, E>::BYTES), *l->a, *l->split);
    });
}

template <int D> static void launch_for(const struct launch *l, bool slots, int32_t heads)
{
    if (heads == 1)
        launch_as<D, 1>(l, slots);
    else if (heads == 2)
        launch_as<D, 2>(l, slots);
    else if (heads == 4)
        launch_as<D, 4>(l, slots);
    else
        launch_as<D, KV_DECODE_HEADS>(l, slots);
}

void kv_attention_decode(struct kv_gpu *g, const struct kv_attention *a, const struct kv_attention_split *split,
                         int64_t most, bool slots, int32_t heads)
{
    struct launch l = {g, a, split, most};
    if (a->s.d == 32)
        launch_for<32>(&l, slots, heads);
    else if (a->s.d == 64)
        launch_for<64>(&l, slots, heads);
    else
        launch_for<128>(&l, slots, heads);
}
