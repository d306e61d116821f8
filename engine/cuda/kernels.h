/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The kernels, as the backend asks for them: in order on the device's stream. Pointers are the device's unless they say
 * host. bf16 are 16-bit words; all sums are fp32. Rows are the tokens of all parts of a pass, part after part. */
#ifndef KV_CUDA_KERNELS_H
#define KV_CUDA_KERNELS_H

#include "engine/cuda/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef uint16_t kv_bf16;

/* Elements of entries. fp8 is e4m3 under a scale of 1: what is larger than 448 is stored as 448. */
enum kv_cuda_entry { KV_CUDA_BF16, KV_CUDA_FP16, KV_CUDA_FP8 };
static inline int32_t kv_cuda_entry_bytes(enum kv_cuda_entry entry)
{
    return entry == KV_CUDA_FP8 ? 1 : 2;
}

/* Of queries, once heads are apart: bf16 words; fp16 words where entries are fp16 or fp8, so that no bit of theirs is
 * lost where the two are multiplied. */
typedef uint16_t kv_query;

/* What does not change from pass to pass. A page is one lane's: `page` K rows of d elements, then as many V rows. */
struct kv_cuda_shape {
    int32_t layers, q_heads, kv_heads, d, page; /* d: 32, 64 or 128; or any even number up to 256, slowly. page: any */
    void *pool;                                 /* page p begins at element p x 2 x page x d */
    const float *cosine, *sine;                 /* (positions, d / 2) */
    enum kv_cuda_entry entry;
    int64_t pages; /* of the pool; 0: not said, and kernels that must know are not used */
};

/* As kv_leave and kv_left, of a lane. */
struct kv_cuda_leave {
    int32_t first, behind, n;
};
struct kv_cuda_left {
    int32_t rank, ties;
};

/* A part of the pass; an array of them is on the device and on the host. Its lanes are (layers, heads). */
struct kv_cuda_part {
    const int32_t *table;  /* (layers, heads, table_room) pages of each lane */
    const int32_t *length; /* (layers, heads) entries before the pass; n_new + n_patch go behind them */
    int64_t table_room;
    int32_t heads; /* store heads: KV heads, or query heads where K and V are expanded */
    int32_t first; /* row of its first token */
    int32_t n_new, n_patch;
    int64_t seen;           /* position of its first token */
    int32_t slot_positions; /* keys lie raw; they and queries are rotated by place in the lane: entry i by i */
    const kv_query *query;  /* (layers, window, q_heads, d) last queries of earlier passes, newest last; or NULL */
    int32_t window;
    const struct kv_cuda_leave *leave; /* (layers, heads) or NULL */
    struct kv_cuda_left *left;         /* (layers, heads) */
    float *column;                     /* (layers, heads, column_room) numbers of the entries, or NULL */
    int64_t column_room;
};

/* As kv_gpu_multiply, of at most KV_CUDA_SKINNY rows: a row's numbers are the same bits whatever the other rows. */
enum { KV_CUDA_SKINNY = 8 };
void kv_cuda_skinny(struct kv_gpu *g, const kv_bf16 *w, const kv_bf16 *x, int64_t rows, int64_t outputs, int64_t inputs,
                    void *y, int64_t y_step, bool wide, bool add);

/* x (rows, width) fp32 = rows `token` (device) of table (vocab, width) bf16. */
void kv_cuda_embed(struct kv_gpu *g, const kv_bf16 *table, const int32_t *token, int64_t rows, int64_t width, float *x);

/* out (rows, width) bf16 = x / sqrt(mean(x^2) + eps) rounded to bf16, x weight (width,) fp32: x fp32. */
void kv_cuda_rms_norm(struct kv_gpu *g, const float *x, const float *weight, float eps, int64_t rows, int64_t width,
                      kv_bf16 *out);

/* qkv (rows, q_heads + 2 kv_heads, d) bf16, as products left it. Adds `bias` ((q_heads + 2 kv_heads) x d fp32, or
 * NULL), norms each head of q and k by q_norm, k_norm (d,) fp32 where not NULL, rotates q and k by the tokens'
 * positions (neither where slot_positions), leaves q (rows, q_heads, d) and puts k and v behind what the layer's lanes
 * hold (pages are in the tables), each rounded once. A store head's entries are those of kv head = head x kv_heads /
 * heads. */
void kv_cuda_append(struct kv_gpu *g, const struct kv_cuda_shape *s, const struct kv_cuda_part *part, int n_parts,
                    int64_t rows, int32_t layer, const kv_bf16 *qkv, const float *bias, const float *q_norm,
                    const float *k_norm, float eps, kv_query *q);

/* out (rows, width) bf16 = silu(gate) x up; both (rows, 2 width) bf16 in gate_up, gate first; biases fp32 or NULL. */
void kv_cuda_silu_times(struct kv_gpu *g, const kv_bf16 *gate_up, const float *gate_bias, const float *up_bias,
                        int64_t rows, int64_t width, kv_bf16 *out);

/* x (rows, width) fp32 += bias (width,) fp32. */
void kv_cuda_add_bias(struct kv_gpu *g, const float *bias, int64_t rows, int64_t width, float *x);

/* How much work the attention of a pass is, in any layer. It depends on the parts and not on how many entries their
 * lanes have: so a step of decodes that was recorded can be repeated as they grow. */
struct kv_cuda_attention_size {
    int64_t tiles[2], pieces, merges; /* (tiles: without and with slot_positions) at most */
    int32_t heads;
    bool splits[2];
    int64_t list_bytes; /* of one layer's lists */
    int64_t work_bytes;
};
void kv_cuda_attention_measure(const struct kv_cuda_shape *s, const struct kv_cuda_part *part_host, int n_parts,
                               int multiprocessors, struct kv_cuda_attention_size *size);

/* Writes a layer's lists of what is attended to in which block: list_bytes of the host's, counts first. host_length
 * (parts,): host copies of the parts' `length`. */
struct kv_cuda_attention_counts {
    int32_t pieces[2], merges; /* (pieces: without and with slot_positions) */
};
void kv_cuda_attention_lists(const struct kv_cuda_shape *s, const struct kv_cuda_part *part_host,
                             const int32_t *const *host_length, int n_parts, int multiprocessors, int32_t layer,
                             const struct kv_cuda_attention_size *size, void *lists);

/* Attention of the pass's rows over the layer's lanes, causal among the new tokens: query head h reads store head
 * h x heads / q_heads. out (rows, q_heads, d) bf16; lse (rows, q_heads) fp32: logarithm (natural) of the sum of
 * exponentials of q.k / sqrt(d). Parts of one token are split over their entries and merged in a fixed order. `lists`:
 * the layer's, on the device; `work`: work_bytes of the device's, nothing of which outlives the call on its stream. */
void kv_cuda_attention(struct kv_gpu *g, const struct kv_cuda_shape *s, const struct kv_cuda_part *part,
                       const struct kv_cuda_attention_size *size, int32_t layer, const kv_query *q, kv_bf16 *out,
                       float *lse, const void *lists, void *work);

/* Sums of softmax weights over queries, for one part: of all its store heads h, over entries [from[h], length + n_new +
 * n_patch) (from: device, (heads,), never below 0), normalised over just those entries (one lse of their own, made
 * first). The queries are the last `queries` of the part's tokens and, before them, of its kept ones, leaving out the
 * newest `skip`; a query that came b before the end sees all but the last b - 1 entries. One row a lane, the sum over
 * its q_heads / heads query heads, at out + h x lane_stride; or with query_rows one for each, row_stride apart. Entry
 * from[h] is element 0. most_entries: of any lane, or more. `scratch`: as many floats as kv_cuda_window_scratch says.
 */
int64_t kv_cuda_window_scratch(const struct kv_cuda_shape *s, int64_t queries);
void kv_cuda_window_sums(struct kv_gpu *g, const struct kv_cuda_shape *s, const struct kv_cuda_part *part,
                         const struct kv_cuda_part *part_host, int32_t layer, const kv_query *q, int64_t queries,
                         int64_t skip, const int32_t *from, int64_t most_entries, bool query_rows, float *out,
                         int64_t lane_stride, int64_t row_stride, float *scratch);

/* Euclidean norms of the part's new keys (or values) as they lie in the layer's lanes (rotated by place where
 * slot_positions does not change them): n_new of each store head, at out + h x lane_stride. */
void kv_cuda_norms(struct kv_gpu *g, const struct kv_cuda_shape *s, const struct kv_cuda_part *part,
                   const struct kv_cuda_part *part_host, int32_t layer, bool values, float *out, int64_t lane_stride);

/* Entries [first, first + n) of a lane as fp32, keys as attention sees them, rounded as queries are where it turns
 * them: (n, d) each; values may be NULL. */
void kv_cuda_entries(struct kv_gpu *g, const struct kv_cuda_shape *s, const struct kv_cuda_part *part, int32_t layer,
                     int32_t head, int64_t first, int64_t n, float *keys, float *values);

/* Moves entries of lanes of one layer together, in one launch: of each lane, entry keep[first + i] becomes entry i, i <
 * n; these ascend. Entries below the first move stay. `lane` (n_lanes,) and `keep` are the device's; at most
 * KV_CUDA_LANES lanes, each once. */
enum { KV_CUDA_LANES = 65535 };
struct kv_cuda_stay {
    int64_t first;
    int32_t part, head, n;
};
void kv_cuda_compact(struct kv_gpu *g, const struct kv_cuda_shape *s, const struct kv_cuda_part *part, int32_t layer,
                     const struct kv_cuda_stay *lane, int64_t n_lanes, const int32_t *keep);

/* A number for each entry of a layer's lanes, from `made`: of each entry, lane h at h x made_stride; or (brought) the
 * new entry's alone, at h. It is taken as it is, or added to the part's column, or becomes the new entry's there; for
 * `together` the lanes' are added up in order. x sign it is the score, and the lowest of entries [first, behind) of
 * part->leave is looked for: lowest[h x chunks + i] is that of KV_CUDA_CHUNK entries; of equals the last one. chunks =
 * kv_cuda_chunks(most_entries), most_entries of any lane, or more. */
enum { KV_CUDA_CHUNK = 4096 };
struct kv_cuda_lowest {
    float score;
    int32_t rank, many; /* many: how many have it; 0: no entry may leave */
};
static inline int64_t kv_cuda_chunks(int64_t most_entries)
{
    return (most_entries + KV_CUDA_CHUNK - 1) / KV_CUDA_CHUNK;
}
struct kv_cuda_rule {
    bool gathered, brought, together;
    float sign;
};
void kv_cuda_weigh(struct kv_gpu *g, const struct kv_cuda_shape *s, const struct kv_cuda_part *part,
                   const struct kv_cuda_part *part_host, int32_t layer, const struct kv_cuda_rule *rule,
                   const float *made, int64_t made_stride, int64_t most_entries, struct kv_cuda_lowest *lowest);

/* What part->leave says leaves the layer's lanes, and those behind move up, numbers of the column too: n entries from
 * `first` on, or (lowest not NULL) the one that was found, which part->left then says. */
void kv_cuda_close_up(struct kv_gpu *g, const struct kv_cuda_shape *s, const struct kv_cuda_part *part,
                      const struct kv_cuda_part *part_host, int32_t layer, const struct kv_cuda_lowest *lowest,
                      int64_t chunks);

/* query (layers, window, q_heads, d) of the layer: its last n_new rows become the part's last new tokens, older ones
 * move up. */
void kv_cuda_keep_queries(struct kv_gpu *g, const struct kv_cuda_shape *s, const struct kv_cuda_part *part_host,
                          int32_t layer, const kv_query *q, kv_query *query);

/* n seeded normal numbers x scale + mean, as bf16 or (wide) fp32: number i is the same whatever the grid. */
void kv_cuda_random(struct kv_gpu *g, void *out, int64_t n, bool wide, uint64_t seed, float mean, float scale);

#ifdef __cplusplus
}
#endif

#endif
