/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The same as attention_prefill.cu, for compute capability 9.0 and pages of 64 entries: blocks stay and take tile after
 * tile. One thread has pages copied, two warpgroups of 64 rows each multiply and weigh, turn by turn, so that one
 * multiplies while the other takes exponentials; and each has the products of the next keys under way while it weighs
 * these. Keys go 128 at a time, two pages. Queries, keys and values lie as tiles of 64 columns (hopper.cuh). */
#include "engine/cuda/attention.cuh"
#include "engine/cuda/hopper.cuh"

enum {
    ROWS = KV_PREFILL_ROWS,
    PAGE = 64,
    KEYS = 2 * PAGE,
    WARPGROUP = 128,
    GROUPS = 2, /* that multiply; the first warpgroup of a block copies */
    GROUP_ROWS = ROWS / GROUPS,
    BOTH = GROUPS * WARPGROUP,
    THREADS = BOTH + WARPGROUP,
    COPY_REGISTERS = 40, /* of 168 that a thread starts with */
    REGISTERS = 232,
    ALIGNED = 1024,
};

/* Named barriers. */
enum { TURN = 1, OWN = TURN + GROUPS, ALL = OWN + GROUPS };

template <int D> struct form {
    enum {
        TILES = D / KV_TILE_COLUMNS,
        BOX = PAGE * KV_TILE_ROW,
        TILE = KEYS * KV_TILE_ROW,
        Q_TILE = ROWS * KV_TILE_ROW,
        STAGE = TILES * TILE, /* keys, or values */
        STAGES = D == 128 ? 3 : 4,
        KEYS_AT = TILES * Q_TILE,
        VALUES_AT = KEYS_AT + STAGES * STAGE,
        BARRIERS_AT = VALUES_AT + STAGES * STAGE,
        BYTES = ALIGNED + BARRIERS_AT + 4 * STAGES * 8,
        STEPS = D / 16,
    };
};

/* A stage, and the phase in which it is filled for the time it is on. */
struct stage {
    int number, phase;
};

template <int D> static __device__ __forceinline__ void advance(struct stage *s)
{
    s->number++;
    if (s->number == form<D>::STAGES) {
        s->number = 0;
        s->phase ^= 1;
    }
}

/* The block's shared memory. */
template <int D> struct room {
    unsigned char *base;

    __device__ __forceinline__ unsigned char *keys(int stage) const
    {
        return base + form<D>::KEYS_AT + stage * form<D>::STAGE;
    }
    __device__ __forceinline__ unsigned char *values(int stage) const
    {
        return base + form<D>::VALUES_AT + stage * form<D>::STAGE;
    }
    /* Of a stage of keys (which 0) or values (1): it is full; it may be filled again. */
    __device__ __forceinline__ uint64_t *full(int which, int stage) const
    {
        return (uint64_t *)(void *)(base + form<D>::BARRIERS_AT) + (2 * which) * form<D>::STAGES + stage;
    }
    __device__ __forceinline__ uint64_t *empty(int which, int stage) const
    {
        return full(which, stage) + form<D>::STAGES;
    }
};

/* What a thread keeps of its two rows, 8 apart. */
template <int D> struct sums {
    float o[D / 2], top[2], sum[2];
};

static __device__ __forceinline__ int group_here(void)
{
    return (int)threadIdx.x / WARPGROUP - 1;
}
static __device__ __forceinline__ int row_here(void)
{
    return (int)threadIdx.x % WARPGROUP / 32 * 16 + (int)threadIdx.x % 32 / 4;
}

/* The block's tile of a turn: the list begins with the longest, so that turns go back and forth. -1: none. */
static __device__ __forceinline__ int64_t tile_of(int64_t n, int turn)
{
    int64_t blocks = gridDim.x, at = turn * blocks + (turn % 2 ? blocks - 1 - blockIdx.x : blockIdx.x);
    return at < n ? at : -1;
}

/* ---- the thread that copies ---- */

/* Rows of the pool from `first` on, and from `second` on where it is not negative. */
template <int D>
static __device__ __forceinline__ void copy_pages(const struct kv_gpu_boxes *map, int32_t first, int32_t second,
                                                  unsigned char *to, uint64_t *full)
{
    kv_barrier_arrive_expecting(full, (second < 0 ? 1 : 2) * form<D>::TILES * form<D>::BOX);
    KV_UNROLL
    for (int i = 0; i < form<D>::TILES; i++) {
        kv_copy_box(to + i * form<D>::TILE, map, i * KV_TILE_COLUMNS, first, full);
        if (second >= 0)
            kv_copy_box(to + i * form<D>::TILE + form<D>::BOX, map, i * KV_TILE_COLUMNS, second, full);
    }
}

template <int D>
static __device__ __forceinline__ void copy_lanes(const struct kv_attention &a, const struct kv_attention_tile *list,
                                                  int64_t n, const struct kv_gpu_boxes *map, const struct room<D> &at)
{
    struct stage s = {0, 0};
    kv_prefetch_boxes(map);
    for (int turn = 0; tile_of(n, turn) >= 0; turn++) {
        const struct kv_attention_tile &tile = list[tile_of(n, turn)];
        const int32_t *table = kv_table_of(a.part[tile.part], a.layer, tile.head);
        int32_t pages = (tile.entries + PAGE - 1) / PAGE;
        for (int32_t page = 0; page < pages; page += 2) {
            int32_t first = table[page] * (2 * PAGE), second = page + 1 < pages ? table[page + 1] * (2 * PAGE) : -1;
            kv_barrier_wait(at.empty(0, s.number), s.phase ^ 1);
            copy_pages<D>(map, first, second, at.keys(s.number), at.full(0, s.number));
            kv_barrier_wait(at.empty(1, s.number), s.phase ^ 1);
            copy_pages<D>(map, first + PAGE, second < 0 ? -1 : second + PAGE, at.values(s.number),
                          at.full(1, s.number));
            advance<D>(&s);
        }
    }
}

/* ---- warpgroups that multiply ---- */

/* The warpgroup's rows, zeros behind the last. */
template <int D>
static __device__ __forceinline__ void copy_queries(const struct kv_attention &a, const struct kv_attention_place &w,
                                                    unsigned char *q)
{
    enum { CHUNKS = D / 8 };
    int t = (int)threadIdx.x % WARPGROUP, chunk = t % CHUNKS;
    kv_named_wait(OWN + group_here(), WARPGROUP); /* all are done with the last ones */
    q += group_here() * (GROUP_ROWS * KV_TILE_ROW) + chunk / 8 * form<D>::Q_TILE;
    for (int r = t / CHUNKS; r < GROUP_ROWS; r += WARPGROUP / CHUNKS) {
        bool there = w.first + r < w.rows;
        int64_t at = kv_query_at(a, w, there ? w.first + r : 0);
        kv_copy_later(q + r * KV_TILE_ROW + ((chunk ^ r) & 7) * 16, a.q + at * D + chunk * 8, there);
    }
    kv_copy_group();
    kv_copy_wait<0>();
    kv_fence_products(); /* and the first turn is waited for by all */
}

/* s = q k^T of the warpgroup's rows and a stage's keys. */
template <int D>
static __device__ __forceinline__ void multiply_keys(const struct room<D> &at, int stage, float (&s)[KEYS / 2])
{
    uint64_t q = kv_rows_at(kv_shared_address(at.base) + (uint32_t)group_here() * (GROUP_ROWS * KV_TILE_ROW), 16);
    uint64_t keys = kv_rows_at(kv_shared_address(at.keys(stage)), 16);
    KV_UNROLL
    for (int k = 0; k < form<D>::STEPS; k++)
        kv_multiply_rows_128(s, q + (uint64_t)((k / 4 * form<D>::Q_TILE + k % 4 * 32) >> 4),
                             keys + (uint64_t)((k / 4 * form<D>::TILE + k % 4 * 32) >> 4), k > 0);
    kv_products_group();
}

/* o += weights v. */
template <int D>
static __device__ __forceinline__ void multiply_values(const struct room<D> &at, int stage, const uint32_t *weight,
                                                       float (&o)[D / 2])
{
    uint64_t values = kv_rows_at(kv_shared_address(at.values(stage)), form<D>::TILE);
    KV_UNROLL
    for (int k = 0; k < KEYS / 16; k++)
        kv_multiply_columns(o, weight + 4 * k, values + (uint64_t)(k * 16 * KV_TILE_ROW >> 4));
    kv_products_group();
}

/* The warp is done with a stage. */
static __device__ __forceinline__ void leave(uint64_t *empty)
{
    if (threadIdx.x % 32 == 0)
        kv_barrier_arrive(empty);
}

/* What a row does not see counts nothing: entries [old + token + 1, ...). `first`: the first key's. */
static __device__ __forceinline__ void mask(const struct kv_attention_place &w, int32_t first, float (&s)[KEYS / 2])
{
    if (first + KEYS <= w.old + w.first / w.group + 1)
        return;
    KV_UNROLL
    for (int half = 0; half < 2; half++) {
        int32_t row = w.first + row_here() + half * 8;
        int32_t seen = w.old + row / w.group + 1 - first - (int)threadIdx.x % 4 * 2;
        KV_UNROLL
        for (int n = 0; n < KEYS / 8; n++)
            KV_UNROLL
        for (int i = 0; i < 2; i++)
            s[4 * n + 2 * half + i] = n * 8 + i < seen ? s[4 * n + 2 * half + i] : -INFINITY;
    }
}

/* Scores become weights under their row's highest so far (of base 2, `scale` the factor); `shrink`: what was summed
 * under a lower one does so by it. */
template <int D>
static __device__ __forceinline__ void take_weights(struct sums<D> *r, float (&s)[KEYS / 2], float scale,
                                                    float shrink[2])
{
    KV_UNROLL
    for (int half = 0; half < 2; half++) {
        float top = r->top[half], sum = 0;
        KV_UNROLL
        for (int n = 0; n < KEYS / 8; n++)
            top = fmaxf(top, fmaxf(s[4 * n + 2 * half], s[4 * n + 2 * half + 1]));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        float base = top == -INFINITY ? 0.0f : top * scale;
        shrink[half] = kv_exp2(r->top[half] * scale - base);
        KV_UNROLL
        for (int n = 0; n < KEYS / 8; n++)
            KV_UNROLL
        for (int i = 0; i < 2; i++) {
            float weight = kv_exp2(s[4 * n + 2 * half + i] * scale - base);
            s[4 * n + 2 * half + i] = weight;
            sum += weight;
        }
        r->top[half] = top;
        r->sum[half] = r->sum[half] * shrink[half] + sum;
    }
}

template <int D> static __device__ __forceinline__ void shrink_by(struct sums<D> *r, const float shrink[2])
{
    KV_UNROLL
    for (int i = 0; i < D / 2; i++)
        r->o[i] *= shrink[i / 2 % 2];
}

/* As a product's left side takes them: its registers of 16 keys are the sums' of two times 8. */
static __device__ __forceinline__ void pack(const float (&s)[KEYS / 2], uint32_t (&weight)[KEYS / 4])
{
    KV_UNROLL
    for (int i = 0; i < KEYS / 4; i++)
        weight[i] = kv_pack(s[2 * i], s[2 * i + 1]);
}

/* Values behind the tile's last entry may be anything, NaNs too, which weights of 0 do not undo. By both warpgroups. */
template <int D> static __device__ __forceinline__ void clear_behind(int32_t entries, unsigned char *values)
{
    int left = entries % KEYS;
    if (!left)
        return;
    for (int i = left * (KV_TILE_ROW / 16) + (int)threadIdx.x - WARPGROUP; i < form<D>::TILE / 16; i += BOTH)
        KV_UNROLL
    for (int tile = 0; tile < form<D>::TILES; tile++)
        *(uint4 *)(void *)(values + tile * form<D>::TILE + i * 16) = make_uint4(0, 0, 0, 0);
    kv_fence_products();
    kv_named_wait(ALL, BOTH);
}

template <int D>
static __device__ __forceinline__ void write_rows(const struct kv_attention &a, const struct kv_attention_place &w,
                                                  const struct sums<D> &r, float scale)
{
    int lane = (int)threadIdx.x % 32;
    KV_UNROLL
    for (int half = 0; half < 2; half++) {
        float sum = r.sum[half];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        int32_t row = w.first + row_here() + half * 8;
        if (row >= w.rows)
            continue; /* a row's four lanes together */
        int64_t at = kv_query_at(a, w, row);
        float by = sum > 0 ? 1 / sum : 0.0f;
        KV_UNROLL
        for (int n = 0; n < D / 8; n++)
            *(uint32_t *)(void *)(a.out + at * D + n * 8 + lane % 4 * 2) =
                kv_pack(r.o[4 * n + 2 * half] * by, r.o[4 * n + 2 * half + 1] * by);
        if (lane % 4 == 0)
            a.lse[at] = sum > 0 ? r.top[half] * (scale * 0.693147181f) + logf(sum) : -INFINITY;
    }
}

/* Registers that products are about to use are as they shall be. */
template <int D> static __device__ __forceinline__ void before_products(struct sums<D> *r, uint32_t (&weight)[KEYS / 4])
{
    kv_products_hold(r->o);
    kv_products_hold(weight);
    kv_products_fence();
}

/* One tile. `keys`: the stage of its first keys; left as that of the next tile's. */
template <int D>
static __device__ __forceinline__ void attend(const struct kv_attention &a, const struct kv_attention_place &w,
                                              const struct room<D> &at, struct stage *keys)
{
    const float scale = 1.44269504f / sqrtf((float)D);
    const int turn = TURN + group_here(), others = TURN + (group_here() ^ 1);
    struct stage values = *keys;
    struct sums<D> r;
    float s[KEYS / 2], shrink[2];
    uint32_t weight[KEYS / 4] = {};
    KV_UNROLL
    for (int i = 0; i < D / 2; i++)
        r.o[i] = 0;
    r.top[0] = r.top[1] = -INFINITY;
    r.sum[0] = r.sum[1] = 0;

    kv_barrier_wait(at.full(0, keys->number), keys->phase);
    kv_named_wait(turn, BOTH);
    before_products(&r, weight);
    multiply_keys<D>(at, keys->number, s);
    kv_named_arrive(others, BOTH);
    kv_products_wait<0>();
    kv_products_hold(s);
    leave(at.empty(0, keys->number));
    advance<D>(keys);
    mask(w, 0, s);
    take_weights(&r, s, scale, shrink);
    pack(s, weight);
    for (int32_t first = KEYS; first < w.entries; first += KEYS) {
        kv_barrier_wait(at.full(0, keys->number), keys->phase);
        kv_named_wait(turn, BOTH);
        before_products(&r, weight);
        multiply_keys<D>(at, keys->number, s);
        kv_barrier_wait(at.full(1, values.number), values.phase);
        kv_products_fence(); /* else the compiler puts one here, as waits are loops */
        multiply_values<D>(at, values.number, weight, r.o);
        kv_named_arrive(others, BOTH);
        kv_products_wait<1>();
        kv_products_hold(s);
        leave(at.empty(0, keys->number));
        advance<D>(keys);
        mask(w, first, s);
        take_weights(&r, s, scale, shrink);
        kv_products_wait<0>();
        kv_products_hold(r.o);
        leave(at.empty(1, values.number));
        advance<D>(&values);
        shrink_by(&r, shrink);
        pack(s, weight);
    }
    kv_barrier_wait(at.full(1, values.number), values.phase);
    clear_behind<D>(w.entries, at.values(values.number));
    before_products(&r, weight);
    multiply_values<D>(at, values.number, weight, r.o);
    kv_products_wait<0>();
    kv_products_hold(r.o);
    leave(at.empty(1, values.number));
    write_rows(a, w, r, scale);
}

template <int D>
static __device__ __forceinline__ void attend_all(const struct kv_attention &a, const struct kv_attention_tile *list,
                                                  int64_t n, const struct room<D> &at)
{
    struct stage s = {0, 0};
    if (group_here() == 1)
        kv_named_arrive(TURN, BOTH); /* the first turn is the other's */
    for (int turn = 0; tile_of(n, turn) >= 0; turn++) {
        const struct kv_attention_tile tile = list[tile_of(n, turn)];
        const struct kv_attention_place w =
            kv_place_of(a, tile, tile.number * ROWS + group_here() * GROUP_ROWS); /* the warpgroup's own rows */
        copy_queries<D>(a, w, at.base);
        attend<D>(a, w, at, &s);
    }
    if (group_here() == 0)
        kv_named_wait(TURN, BOTH);
}

template <int D>
__global__ void __launch_bounds__(THREADS, 1)
    attention_hopper(const struct kv_attention a, const struct kv_attention_tile *list, int64_t n,
                     const __grid_constant__ struct kv_gpu_boxes map)
{
    KV_SHARED_BYTES(shared);
    uint32_t over = kv_shared_address(shared) % ALIGNED;
    const struct room<D> at = {
        shared + (over ? ALIGNED - over : 0)
    };
    if (threadIdx.x == 0) {
        for (int i = 0; i < form<D>::STAGES; i++)
            for (int which = 0; which < 2; which++) {
                kv_barrier_init(at.full(which, i), 1);
                kv_barrier_init(at.empty(which, i), BOTH / 32);
            }
        kv_barriers_made();
    }
    __syncthreads();
    if (threadIdx.x < WARPGROUP) {
        kv_fewer_registers<COPY_REGISTERS>();
        if (threadIdx.x == 0)
            copy_lanes<D>(a, list, n, &map, at);
    } else {
        kv_more_registers<REGISTERS>();
        attend_all<D>(a, list, n, at);
    }
}

template <int D>
static void launch_for(struct kv_gpu *g, const struct kv_attention *a, const struct kv_attention_tile *tile, int64_t n,
                       const struct kv_gpu_boxes &map)
{
    int64_t blocks = kv_gpu_about(g)->multiprocessors;
    blocks = n < blocks ? n : blocks;
    KV_LAUNCH(g, (attention_hopper<D>), dim3((unsigned)blocks), dim3(THREADS), form<D>::BYTES, *a, tile, n, map);
}

bool kv_attention_hopper(struct kv_gpu *g, const struct kv_attention *a, const struct kv_attention_tile *tile,
                         int64_t n)
{
    const struct kv_gpu_facts *facts = kv_gpu_about(g);
    const struct kv_cuda_shape *s = &a->s;
    int64_t rows = s->pages * (2 * PAGE);
    struct kv_gpu_boxes map;
    if (facts->major != 9 || facts->minor != 0 || s->entry != KV_CUDA_BF16 || s->page != PAGE ||
        (s->d != 64 && s->d != 128) || rows < 1 || rows > INT32_MAX ||
        !kv_gpu_make_boxes(g, &map, s->pool, rows, s->d, PAGE, KV_TILE_COLUMNS))
        return false;
    if (!n)
        return true;
    if (s->d == 64)
        launch_for<64>(g, a, tile, n, map);
    else
        launch_for<128>(g, a, tile, n, map);
    return true;
}
