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
};

/* Memory of the device that grows to what is asked for. */
struct kv_cuda_buffer {
    void *at;
    int64_t bytes;
};

struct kv_cuda {
    struct kv_backend base;
    const struct kv_weights *weights;
    struct kv_config config;
    struct kv_backend_asked asked;
    struct kv_gpu *gpu;
    struct kv_cuda_shape shape;
    struct kv_cuda_pool pool;
    int64_t weight_bytes;

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
    struct kv_cuda_buffer work, logits, scores, scratch, from, keep;
    struct kv_err late; /* what failed where nothing could be said, within a hook: the pass ends with it */
    float *scores_host; /* (scores_room,) */
    int64_t scores_room;
    char *lists; /* (layers, list_bytes) of work: what was put for one layer may wait while the next one's is made */
    int64_t list_bytes, work_bytes; /* work_bytes: that this pass's attention needs of `work` */
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
void kv_cuda_compact_lane(struct kv_backend *backend, int part, int64_t layer, int64_t head, const uint64_t *stay);

/* Scores (channels.c). */
bool kv_cuda_channel(struct kv_backend *backend, int part, int64_t layer, enum kv_channel what, int64_t queries,
                     int64_t unit, bool query_rows, float *out, int64_t lane_stride, int64_t row_stride,
                     struct kv_err *e);
void kv_cuda_lane_entries(struct kv_backend *backend, int part, int64_t layer, int64_t head, int64_t first, int64_t n,
                          float *keys, float *values);

#endif
