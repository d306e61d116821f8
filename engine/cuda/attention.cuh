/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What the kernels of attention share: what is attended to, and the lists of work that the host makes for them. */
#ifndef KV_CUDA_ATTENTION_CUH
#define KV_CUDA_ATTENTION_CUH

#include "engine/cuda/device.cuh"

/* One layer's attention, as kv_cuda_attention was asked for it. */
struct kv_attention {
    struct kv_cuda_shape s;
    const struct kv_cuda_part *part;
    const kv_query *q;
    kv_bf16 *out;
    float *lse;
    int32_t layer;
};

/* Query rows [number x rows, ...) of a store head: row = token x group + query head of the group. */
struct kv_attention_tile {
    int32_t part, head, number;
    int32_t entries; /* that its last row sees */
};

/* Entries [first, first + n) of a lane, for the one token's query heads [sub, ...) of the store head's group. */
struct kv_attention_piece {
    int32_t part, head, sub, first, n;
};

/* The n pieces from the first on are those of one lane and the same query heads. */
struct kv_attention_merge {
    int32_t part, head, sub, first, n;
};

/* A layer's attention by pieces. How many there are lies on the device, so that a step whose launches were recorded can
 * have other lists. What pieces leave: unnormalised outputs o (pieces, heads, d), and top_sum (pieces, heads, 2) of
 * base-2 logarithm of the greatest weight and sum of weights under it. */
struct kv_attention_split {
    const struct kv_cuda_attention_counts *n;
    const struct kv_attention_piece *piece;
    const struct kv_attention_merge *merge;
    float *o, *top_sum;
};

enum {
    KV_PREFILL_ROWS = 128, /* query rows a block */
    KV_PLAIN_ROWS = 16,    /* the same of the kernel for any d */
    KV_DECODE_HEADS = 8,   /* query heads that share a loaded entry, at most */
};

/* Head sizes that the fast kernels know. */
static inline bool kv_attention_fast(int32_t d)
{
    return d == 32 || d == 64 || d == 128;
}

/* Launches over lists on the device. All tiles or pieces of a list are of parts with the same slot_positions. */
void kv_attention_prefill(struct kv_gpu *g, const struct kv_attention *a, const struct kv_attention_tile *tile,
                          int64_t n, bool slots);
/* The same for plain parts, on devices and in shapes that it is made for. False: this is none, and nothing was done. */
bool kv_attention_hopper(struct kv_gpu *g, const struct kv_attention *a, const struct kv_attention_tile *tile,
                         int64_t n);
void kv_attention_plain(struct kv_gpu *g, const struct kv_attention *a, const struct kv_attention_tile *tile,
                        int64_t n);
/* Of at most `most` pieces or merges; there are as many as split->n says. `heads`: query heads a piece has room for: 1,
 * 2, 4 or 8. */
void kv_attention_decode(struct kv_gpu *g, const struct kv_attention *a, const struct kv_attention_split *split,
                         int64_t most, bool slots, int32_t heads);
void kv_attention_merge_pieces(struct kv_gpu *g, const struct kv_attention *a, const struct kv_attention_split *split,
                               int64_t most, int32_t heads);

/* The same as kv_row_of where entries fit 32 bits, without a division of 64. */
template <typename E = kv_bf16>
static __device__ __forceinline__ const E *kv_entry_of(const struct kv_cuda_shape &s, const int32_t *table, uint32_t i)
{
    uint32_t page = (uint32_t)s.page, number = i / page;
    return (const E *)s.pool + ((int64_t)table[number] * 2 * page + (i - number * page)) * s.d;
}

/* A query head's row of one token: in q and out times d, in lse as it is. */
static __device__ __forceinline__ int64_t kv_query_of(const struct kv_attention &a, const struct kv_cuda_part &p,
                                                      int32_t token, int32_t head)
{
    return ((int64_t)p.first + token) * a.s.q_heads + head;
}

/* A tile's work: query rows [first, rows) of a store head, `head` being its first query head; the lane has `old`
 * entries before the pass, of which and the new ones the last row sees `entries`. */
struct kv_attention_place {
    const int32_t *table;
    int32_t old, part_first, head, group;
    int32_t first, rows;
    int32_t entries;
};

static __device__ __forceinline__ struct kv_attention_place
kv_place_of(const struct kv_attention &a, const struct kv_attention_tile &tile, int32_t first)
{
    const struct kv_cuda_part &p = a.part[tile.part];
    int32_t group = a.s.q_heads / p.heads;
    struct kv_attention_place w = {kv_table_of(p, a.layer, tile.head),
                                   (int32_t)kv_length_of(p, a.layer, tile.head),
                                   p.first,
                                   tile.head * group,
                                   group,
                                   first,
                                   (p.n_new + p.n_patch) * group,
                                   tile.entries};
    return w;
}

/* As kv_query_of, of one of the tile's rows. */
static __device__ __forceinline__ int64_t kv_query_at(const struct kv_attention &a, const struct kv_attention_place &w,
                                                      int32_t row)
{
    return ((int64_t)w.part_first + row / w.group) * a.s.q_heads + w.head + row % w.group;
}

#endif
