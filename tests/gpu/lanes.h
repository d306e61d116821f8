/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Lanes in pages for tests of kernels: ragged, some empty, their pages in no order; all of it numbers that a seed
 * gives. */
#ifndef KV_TESTS_LANES_H
#define KV_TESTS_LANES_H

#include "tests/gpu/entries.h"

enum { LANES_PARTS = 6, LANES_POSITIONS = 2048 };

struct lanes {
    struct kv_gpu *g;
    struct kv_cuda_shape shape;
    struct kv_cuda_part *part; /* (LANES_PARTS,) */
    int parts;
    int64_t rows, pages, pool_elements;
    float *cosine, *sine; /* (positions, d / 2) */
};

static inline void lanes_open(struct lanes *l, struct kv_gpu *g, enum kv_cuda_entry kind, int q_heads, int kv_heads,
                              int d, int page, int layers, int positions = LANES_POSITIONS)
{
    int half = d / 2;
    *l = {};
    l->g = g;
    l->part = room<struct kv_cuda_part>(g, LANES_PARTS);
    l->cosine = room<float>(g, (int64_t)positions * half);
    l->sine = room<float>(g, (int64_t)positions * half);
    for (int i = 0; i < positions * half; i++) {
        double angle = i / half * pow(1000, -(double)(i % half) / half);
        l->cosine[i] = (float)cos(angle);
        l->sine[i] = (float)sin(angle);
    }
    l->shape = {layers, q_heads, kv_heads, d, page, NULL, l->cosine, l->sine, kind, 0};
}

static inline int64_t lane_length(const struct kv_cuda_part *p, int32_t layer, int32_t head)
{
    return p->length[layer * p->heads + head];
}

/* Another part, whose lanes hold `longest` entries or fewer: the last one all of them, the one before none. Its pages
 * come from a pool that grows, and is filled anew. */
static inline void lanes_add(struct lanes *l, int heads, int n_new, int n_patch, int longest, bool slot_positions,
                             int window)
{
    struct kv_cuda_part *p = &l->part[l->parts];
    const struct kv_cuda_shape *s = &l->shape;
    int64_t lanes = (int64_t)s->layers * heads, tokens = n_new + n_patch;
    int64_t table_room = (longest + tokens + s->page - 1) / s->page + 1;
    int32_t *table = room<int32_t>(l->g, lanes * table_room), *length = room<int32_t>(l->g, lanes);
    kv_query *query = window ? room<kv_query>(l->g, (int64_t)s->layers * window * s->q_heads * s->d) : NULL;
    for (int64_t i = 0; i < lanes; i++) {
        length[i] = i == lanes - 1 ? longest : i == lanes - 2 ? 0 : (int32_t)(longest * (0.6 + 0.1 * (double)(i % 4)));
        int64_t pages = (length[i] + tokens + s->page - 1) / s->page;
        for (int64_t k = 0; k < table_room; k++) /* backwards, so that neighbours are not neighbours */
            table[i * table_room + k] = k < pages ? (int32_t)(l->pages + pages - 1 - k) : INT32_MAX;
        l->pages += pages;
    }
    if (query)
        fill_elements(query_kind(s->entry), query, (int64_t)s->layers * window * s->q_heads * s->d,
                      31 + (uint64_t)l->parts);
    *p = {table,  length,  table_room,  heads,          (int32_t)l->rows,
          n_new,  n_patch, longest + 7, slot_positions, query,
          window, NULL,    NULL,        NULL,           0};
    l->parts++;
    l->rows += tokens;
    l->pool_elements = l->pages * 2 * s->page * s->d;
    drop(l->g, l->shape.pool);
    l->shape.pool = room<uint8_t>(l->g, l->pool_elements * kv_cuda_entry_bytes(s->entry));
    fill_elements(s->entry, l->shape.pool, l->pool_elements, 41);
}

static inline void lanes_close(struct lanes *l)
{
    for (int p = 0; p < l->parts; p++)
        drop(l->g, l->part[p].table, l->part[p].length, l->part[p].query);
    drop(l->g, l->part, l->shape.pool, l->cosine, l->sine);
}

/* Where an entry's key begins, in elements of the pool. */
static inline int64_t lane_key(const struct lanes *l, int part, int32_t layer, int32_t head, int64_t entry)
{
    const struct kv_cuda_part *p = &l->part[part];
    int64_t page = p->table[((int64_t)layer * p->heads + head) * p->table_room + entry / l->shape.page];
    return (page * 2 * l->shape.page + entry % l->shape.page) * l->shape.d;
}
static inline int64_t lane_value(const struct lanes *l, int part, int32_t layer, int32_t head, int64_t entry)
{
    return lane_key(l, part, layer, head, entry) + (int64_t)l->shape.page * l->shape.d;
}

static inline double lane_element(const struct lanes *l, int64_t at)
{
    return element_at(l->shape.entry, l->shape.pool, at);
}

static inline void rotate_double(const struct lanes *l, double *x, int64_t position)
{
    int half = l->shape.d / 2;
    for (int i = 0; i < half; i++) {
        double c = l->cosine[position * half + i], s = l->sine[position * half + i], low = x[i], high = x[i + half];
        x[i] = low * c - high * s;
        x[i + half] = high * c + low * s;
    }
}

#endif
