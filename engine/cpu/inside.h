/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What the files of the CPU backend share. */
#ifndef KV_CPU_INSIDE_H
#define KV_CPU_INSIDE_H

#include "engine/backend.h"
#include "engine/cpu/kernels.h"
#include "engine/pages.h"
#include "sim/team.h"

/* Buffers of one thread of attention. */
struct kv_cpu_work {
    float *q;         /* (QUERY_ROWS, d) scaled */
    float *keys;      /* (TILE, d) */
    float *values;    /* (TILE, d) */
    float *s;         /* (QUERY_ROWS, TILE) */
    float *o;         /* (QUERY_ROWS, d) */
    float *top, *sum; /* (QUERY_ROWS,) */
    float *weight;    /* (BLOCK_OUTPUTS, BLOCK_INPUTS) weights widened to f32 */
};
enum { KV_CPU_TILE = 256, KV_CPU_QUERY_ROWS = 256, KV_CPU_BLOCK_OUTPUTS = 384, KV_CPU_BLOCK_INPUTS = 1024 };

/* Rows of activations by part: part p has first[p] to first[p + 1]. */
struct kv_cpu_rows {
    int n_parts;
    const int64_t *first; /* (n_parts + 1,) */
};

struct kv_cpu {
    struct kv_backend base;
    struct kv_arena *arena;
    const struct kv_weights *weights;
    struct kv_config config;
    struct kv_backend_asked asked;
    const struct kv_kernels *k;
    struct kv_pages pages;
    struct kv_team *team;
    struct kv_cpu_work *work; /* (members,) */
    int64_t rope_room;        /* positions of cosine and sine */
    float *cosine, *sine;

    /* The pass that is on. */
    struct kv_part *part;
    int n_parts;
    float **logits;       /* (parts,) where each part's go */
    int64_t tokens, room; /* rows of all parts; rows there is room for */
    int64_t *first;       /* (parts + 1,) each part's first row, twice: of tokens and of logits */
    int64_t *position;    /* (rows,) */
    float *x, *norm, *q, *key, *value, *attention, *gate, *up; /* (rows, ...) */
    float *lse;    /* (rows, q heads) of the layer: logarithm of the sum of exponentials */
    float *weight; /* of a norm, as f32 */
};

static inline int64_t kv_cpu_d(const struct kv_cpu *b)
{
    return b->config.head_dim;
}

/* K row of an entry of a lane; its V row is page x d floats behind. */
static inline float *kv_cpu_key(const struct kv_cpu *b, const struct kv_lane_pages *lane, int64_t i)
{
    int64_t page = b->asked.page;
    return (float *)(void *)kv_pages_at(&b->pages, lane->page[i / page]) + i % page * b->config.head_dim;
}

static inline float *kv_cpu_value(const struct kv_cpu *b, const struct kv_lane_pages *lane, int64_t i)
{
    return kv_cpu_key(b, lane, i) + b->asked.page * b->config.head_dim;
}

static inline struct kv_lane_pages *kv_cpu_lane(const struct kv_seq *s, int64_t layer, int64_t head)
{
    return &s->lane[layer * s->store_heads + head];
}

/* y = x W^T + bias; += where `add`. */
struct kv_cpu_product {
    const struct kv_tensor *w; /* (outputs, inputs) */
    const struct kv_tensor *bias;
    float *y;             /* (rows, outputs) */
    float *const *part_y; /* or (parts,) of that, each part's rows on their own */
    bool add;
};

/* Products of the same x (rows, inputs), together. */
void kv_cpu_linear(struct kv_cpu *b, const struct kv_cpu_rows *rows, const float *x, int64_t inputs,
                   const struct kv_cpu_product *product, int n_products);

/* Attention of a part's rows in a layer, from its lanes; queries in b->q, result in b->attention, b->lse. */
void kv_cpu_attention(struct kv_cpu *b, int64_t layer);

/* Rotates n heads of a row to a position. */
void kv_cpu_rotate(const struct kv_cpu *b, float *x, int64_t heads, int64_t position);

/* The tile [first, first + n) of a lane's entries, keys rotated by place where the sequence says so. */
void kv_cpu_tile(const struct kv_cpu *b, const struct kv_seq *s, const struct kv_lane_pages *lane, int64_t first,
                 int64_t n, float *keys, float *values);

bool kv_cpu_channel(struct kv_backend *b, int part, int64_t layer, enum kv_channel what, int64_t queries, int64_t unit,
                    bool query_rows, float *out, int64_t lane_stride, int64_t row_stride, struct kv_err *e);
/* Keeps the part's last queries of the layer for later windows. */
void kv_cpu_keep_queries(struct kv_cpu *b, int part, int64_t layer);

#endif
