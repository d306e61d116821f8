/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What policies and traces ask of a lane: made on the device where its keys are; only scores come over. */
#include "engine/cuda/inside.h"

#include "sim/core/produce.h"

#include <stdlib.h>
#include <string.h>

static struct kv_lane_pages *lane_of(const struct kv_part *p, int64_t layer, int64_t head)
{
    return &p->seq->lane[layer * p->seq->store_heads + head];
}

void kv_cuda_lane_entries(struct kv_backend *backend, int part, int64_t layer, int64_t head, int64_t first, int64_t n,
                          float *keys, float *values)
{
    struct kv_cuda *b = kv_cuda_of(backend);
    size_t bytes = sizeof *keys * (size_t)(n * b->shape.d);
    kv_cuda_compact_all(b);
    if (!kv_cuda_room(b, &b->scores, 2 * (int64_t)bytes + 1, "keys and values", &b->late)) {
        memset(keys, 0, bytes);
        if (values)
            memset(values, 0, bytes);
        return;
    }
    float *device = b->scores.at;
    kv_cuda_entries(b->gpu, &b->shape, b->part_device + part, (int32_t)layer, (int32_t)head, first, n, device,
                    values ? device + n * b->shape.d : NULL);
    kv_gpu_get(b->gpu, keys, device, bytes);
    if (values)
        kv_gpu_get(b->gpu, values, device + n * b->shape.d, bytes);
}

/* Cosines and LagKV's scores of all entries of a lane but the patch. */
static bool key_scores(struct kv_cuda *b, int part, int64_t layer, int64_t head, enum kv_channel what, float *out,
                       struct kv_err *e)
{
    const struct kv_part *p = &b->part[part];
    int64_t n = lane_of(p, layer, head)->length - p->n_patch, d = b->shape.d;
    float *keys = malloc(sizeof *keys * (size_t)(2 * n * d + 1)), *values = keys ? keys + n * d : NULL;
    bool good = keys != NULL;
    if (good) {
        kv_cuda_lane_entries(&b->base, part, layer, head, 0, n, keys, values);
        good = kv_make_of_keys(what, keys, values, n, d, out);
    }
    free(keys);
    return good || kv_fail(e, KV_ENV, "no memory for the keys of %lld entries", (long long)n);
}

/* The first n of b->scores to b->scores_host, in one go. */
static bool get_scores(struct kv_cuda *b, int64_t n, struct kv_err *e)
{
    if (n > b->scores_room) {
        kv_gpu_delete_host(b->gpu, b->scores_host);
        b->scores_host = NULL;
        b->scores_room = 0;
        if (!kv_gpu_new_host(b->gpu, &b->scores_host, n + n / 4, sizeof *b->scores_host, "scores", e))
            return false;
        b->scores_room = n + n / 4;
    }
    kv_gpu_get(b->gpu, b->scores_host, b->scores.at, sizeof *b->scores_host * (size_t)n);
    return true;
}

static bool norms(struct kv_cuda *b, int part, int64_t layer, bool values, float *out, int64_t lane_stride,
                  struct kv_err *e)
{
    const struct kv_part *p = &b->part[part];
    int64_t heads = p->seq->store_heads;
    if (!kv_cuda_room(b, &b->scores, heads * p->n_new * (int64_t)sizeof *out, "norms", e))
        return false;
    float *device = b->scores.at;
    kv_cuda_norms(b->gpu, &b->shape, b->part_device + part, b->part_host + part, (int32_t)layer, values, device,
                  p->n_new);
    if (!get_scores(b, heads * p->n_new, e))
        return false;
    for (int64_t h = 0; h < heads; h++)
        memcpy(out + h * lane_stride, b->scores_host + h * p->n_new, sizeof *out * (size_t)p->n_new);
    return true;
}

/* Where each lane's entries begin that count, and how many queries do. */
static int64_t first_entries(const struct kv_part *p, int64_t layer, enum kv_channel what, int64_t unit, int32_t *from,
                             int64_t *most, int64_t *queries)
{
    *most = 0;
    for (int64_t h = 0; h < p->seq->store_heads; h++) {
        int64_t length = lane_of(p, layer, h)->length, first = 0;
        if (what == KV_WINDOW_LOCAL) {
            first = length - p->n_patch - unit;
            *queries = *queries < length - first ? *queries : length - first;
        }
        from[h] = (int32_t)first;
        *most = length - first > *most ? length - first : *most;
    }
    return *most;
}

/* Window sums, column sums and last rows. */
static bool attention_scores(struct kv_cuda *b, int part, int64_t layer, enum kv_channel what, int64_t queries,
                             int64_t unit, bool query_rows, float *out, int64_t lane_stride, int64_t row_stride,
                             struct kv_err *e)
{
    const struct kv_part *p = &b->part[part];
    int64_t heads = p->seq->store_heads, tokens = p->n_new + p->n_patch, most, skip = 0;
    int64_t before = p->seq->n_query < p->seq->window ? p->seq->n_query : p->seq->window;
    int64_t rows = query_rows ? b->shape.q_heads / heads : 1;
    queries = queries < tokens + before ? queries : tokens + before;
    if (what == KV_COLUMN_SUM || what == KV_LAST_ROW) {
        skip = p->n_patch;
        queries = what == KV_LAST_ROW ? 1 : p->n_new;
    }
    int32_t *from = malloc(sizeof *from * (size_t)heads);
    if (!from)
        return kv_fail(e, KV_ENV, "no memory for %lld lanes", (long long)heads);
    first_entries(p, layer, what, unit, from, &most, &queries);
    int64_t stride = (most + 3) / 4 * 4;
    int64_t sums = kv_cuda_window_scratch(&b->shape, queries);
    bool good = kv_cuda_room(b, &b->from, heads * (int64_t)sizeof *from, "lanes", e) &&
                kv_cuda_room(b, &b->scores, heads * rows * stride * (int64_t)sizeof(float), "scores", e) &&
                kv_cuda_room(b, &b->scratch, sums * (int64_t)sizeof(float), "sums", e);
    if (good) {
        kv_gpu_put(b->gpu, b->from.at, from, sizeof *from * (size_t)heads);
        kv_cuda_window_sums(b->gpu, &b->shape, b->part_device + part, b->part_host + part, (int32_t)layer, b->q,
                            queries, skip, b->from.at, kv_cuda_round_entries(most), query_rows, b->scores.at,
                            rows * stride, stride, b->scratch.at);
    }
    good = good && get_scores(b, heads * rows * stride, e);
    for (int64_t i = 0; good && i < heads * rows; i++)
        memcpy(out + i / rows * lane_stride + i % rows * row_stride, b->scores_host + i * stride,
               sizeof *out * (size_t)(lane_of(p, layer, i / rows)->length - from[i / rows]));
    free(from);
    return good;
}

bool kv_cuda_channel(struct kv_backend *backend, int part, int64_t layer, enum kv_channel what, int64_t queries,
                     int64_t unit, bool query_rows, float *out, int64_t lane_stride, int64_t row_stride,
                     struct kv_err *e)
{
    struct kv_cuda *b = kv_cuda_of(backend);
    kv_cuda_compact_all(b);
    switch (what) {
    case KV_WINDOW_LOCAL:
    case KV_WINDOW_SEEN:
    case KV_COLUMN_SUM:
    case KV_LAST_ROW:
        return attention_scores(b, part, layer, what, queries, unit, query_rows, out, lane_stride, row_stride, e);
    case KV_KEY_NORM:
    case KV_VALUE_NORM:
        return norms(b, part, layer, what == KV_VALUE_NORM, out, lane_stride, e);
    case KV_KEY_COSINE:
    case KV_LAG:
        for (int64_t h = 0; h < b->part[part].seq->store_heads; h++)
            if (!key_scores(b, part, layer, h, what, out + h * lane_stride, e))
                return false;
        return true;
    default:
        return kv_fail(e, KV_USAGE, "channel '%s' cannot be made in a live run", kv_channels[what].name);
    }
}
