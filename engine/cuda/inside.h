/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What the files of the CUDA backend share. */
#ifndef KV_CUDA_INSIDE_H
#define KV_CUDA_INSIDE_H

#include "engine/backend.h"
#include "engine/cuda/kernels.h"
#include "engine/cuda/pool.h"

/* A layer's weights on the device: matrices bf16, q, k and v in one, gate and up in one; norms and biases fp32, NULL
 * where there are none. */
struct kv_cuda_layer {
    kv_bf16 *qkv, *o, *gate_up, *down;
    float *attention_norm, *mlp_norm, *qkv_bias, *o_bias, *gate_bias, *up_bias, *down_bias, *q_norm, *k_norm;
};

/* A sequence's own. The host's tables are what kv_lane_pages point into; both are (layers, heads, room). */
struct kv_cuda_seq {
    int32_t *table, *host_table;
    int32_t *length, *host_length; /* (layers, heads) before the pass that is on */
    int64_t room;
    kv_query *query; /* (layers, window, q heads, d) */
    /* Of passes whose part says who leaves: NULL until the first. (layers, heads). */
    struct kv_cuda_leave *leave, *host_leave;
    struct kv_cuda_left *left, *host_left;
    float *column; /* (layers, heads, column_room), once it was set */
    int64_t column_room;
};

/* Memory of the device that grows to what is asked for. */
struct kv_cuda_buffer {
    void *at;
    int64_t bytes;
};

/* Lanes of one layer whose entries leave within a hook: moved together when it ends, or something reads them. */
struct kv_cuda_moves {
    struct kv_cuda_stay *lane;
    int32_t *keep; /* the lanes' lists, one behind the other */
    int64_t layer, n, room, kept, keep_room;
};

struct kv_cuda {
    struct kv_backend base;
    const struct kv_weights *weights;
    struct kv_config config;
    struct kv_backend_asked asked;
    struct kv_gpu *gpu;
    struct kv_cuda_shape shape;
    struct kv_cuda_pool pool;
    int64_t weight_bytes, free_before; /* of the device, before weights */
    int64_t load_bytes; /* read from files for them */
    double load_s;

    struct kv_cuda_layer *layer;
    kv_bf16 *embedding, *head; /* the same where tied */
    float *norm;
    int64_t rope_room; /* positions of the shape's tables */
    float *rope;

    /* The pass that is on. */
    struct kv_part *part;
    int n_parts;
    int64_t *first; /* (parts + 1,) each part's first row */
    int64_t rows, room;
    struct kv_cuda_part *part_host, *part_device;
    const int32_t **length_host; /* (parts,) */
    int parts_room;
    int32_t *token_host, *token;
    float *x, *lse;
    kv_bf16 *normed, *qkv, *attention, *gate_up, *act;
    kv_query *q;
    struct kv_cuda_buffer lists, work, logits, scores, scratch, from, keep;
    /* Of parts that say who leaves: their scores, from no entry on, the lowest of them; for so many entries of a lane.
     */
    struct kv_cuda_buffer made, made_scratch, none, lowest;
    int64_t most_entries;
    char *lists_host; /* (layers, attention_size.list_bytes), lists_room bytes */
    int64_t lists_room;
    struct kv_cuda_attention_size attention_size;
    struct kv_cuda_moves moves;
    struct kv_err late; /* what failed where nothing could be said, within a hook: the pass ends with it */
    float *scores_host; /* (scores_room,) */
    int64_t scores_room;

    /* The step of decodes that was recorded, or NULL; what this one and the last one are like. */
    struct kv_gpu_graph *graph;
    struct kv_cuda_step *step, *step_before;
    int64_t moved; /* times that memory which launches name has changed place */
};

static inline struct kv_cuda *kv_cuda_of(struct kv_backend *b)
{
    return (struct kv_cuda *)(void *)b;
}

/* At least so many bytes; what was in it is lost where it grows. KV_ENV. */
bool kv_cuda_room(struct kv_cuda *b, struct kv_cuda_buffer *buffer, int64_t bytes, const char *what, struct kv_err *e);

/* Weights to the device (weights.c of this folder). KV_ENV. */
bool kv_cuda_load(struct kv_cuda *b, struct kv_err *e);
void kv_cuda_unload(struct kv_cuda *b);

/* Sequences (sequence.c). */
bool kv_cuda_seq_open(struct kv_backend *backend, struct kv_seq *s, struct kv_err *e);
void kv_cuda_seq_close(struct kv_backend *backend, struct kv_seq *s);
/* Before the first layer: room in the tables for `tokens` more, and the lanes' lengths, on the device. KV_ENV. */
bool kv_cuda_seq_begin(struct kv_cuda *b, struct kv_seq *s, int64_t tokens, struct kv_err *e);
/* Pages of the layer's lanes for `tokens` more each, and their numbers on the device. KV_ENV. */
bool kv_cuda_seq_grow(struct kv_cuda *b, struct kv_seq *s, int64_t layer, int64_t tokens, struct kv_err *e);
/* What the part says leaves the layer's lanes: told to the device before the first layer, and counted off as the layer
 * is asked for; who left by score comes back after the pass. KV_ENV. */
bool kv_cuda_seq_plan(struct kv_cuda *b, const struct kv_part *part, struct kv_err *e);
void kv_cuda_seq_shrink(struct kv_cuda *b, const struct kv_part *part, int64_t layer);
void kv_cuda_seq_told(struct kv_cuda *b, const struct kv_part *part);
bool kv_cuda_set_column(struct kv_backend *backend, struct kv_seq *s, int64_t layer, int64_t head, const float *column,
                        struct kv_err *e);
bool kv_cuda_get_column(struct kv_backend *backend, struct kv_seq *s, int64_t layer, int64_t head, float *column,
                        struct kv_err *e);
/* Entries as scores of lanes of up to n are made for: few different numbers, as sums are split by it. */
static inline int64_t kv_cuda_round_entries(int64_t n)
{
    int64_t step = 1024;
    while (8 * step < n)
        step *= 2;
    return (n + step - 1) / step * step;
}
void kv_cuda_compact_lane(struct kv_backend *backend, int part, int64_t layer, int64_t head, const uint64_t *stay);
/* Moves what kv_cuda_compact_lane left to be moved: before anything reads or writes the layer's entries. */
void kv_cuda_compact_all(struct kv_cuda *b);

/* Scores (channels.c). */
bool kv_cuda_channel(struct kv_backend *backend, int part, int64_t layer, enum kv_channel what, int64_t queries,
                     int64_t unit, bool query_rows, float *out, int64_t lane_stride, int64_t row_stride,
                     struct kv_err *e);
void kv_cuda_lane_entries(struct kv_backend *backend, int part, int64_t layer, int64_t head, int64_t first, int64_t n,
                          float *keys, float *values);

#endif
