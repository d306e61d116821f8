/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Sequences on the device: which pages lie where is decided on the host, which knows all lengths; the device has a copy
 * of the tables. */
#include "engine/cuda/inside.h"

#include "sim/core/select.h"

#include <stdlib.h>
#include <string.h>

static struct kv_cuda_seq *own_of(const struct kv_seq *s)
{
    return s->own;
}

bool kv_cuda_seq_open(struct kv_backend *backend, struct kv_seq *s, struct kv_err *e)
{
    struct kv_cuda *b = kv_cuda_of(backend);
    int64_t lanes = b->config.layers * s->store_heads, d = b->config.head_dim;
    int64_t queries = b->config.layers * s->window * b->config.q_heads * d;
    struct kv_cuda_seq *own = calloc(1, sizeof *own);
    s->lane = calloc((size_t)lanes, sizeof *s->lane);
    s->query = NULL;
    s->own = own;
    s->n_query = s->seen = 0;
    if (own && s->lane && kv_gpu_new(b->gpu, &own->length, lanes, sizeof *own->length, "lengths of lanes", e) &&
        kv_gpu_new_host(b->gpu, &own->host_length, lanes, sizeof *own->host_length, "lengths of lanes", e) &&
        (!s->window || kv_gpu_new(b->gpu, &own->query, queries, sizeof *own->query, "a window of queries", e)))
        return true;
    return e->n ? false : kv_fail(e, KV_ENV, "no memory for %lld lanes", (long long)lanes);
}

void kv_cuda_seq_close(struct kv_backend *backend, struct kv_seq *s)
{
    struct kv_cuda *b = kv_cuda_of(backend);
    struct kv_cuda_seq *own = own_of(s);
    for (int64_t i = 0; s->lane && i < b->config.layers * s->store_heads; i++)
        for (int64_t p = 0; p < s->lane[i].n_pages; p++)
            kv_cuda_pool_give(&b->pool, s->lane[i].page[p]);
    kv_cuda_pool_trim(&b->pool);
    if (own) {
        kv_gpu_delete(b->gpu, own->table);
        kv_gpu_delete_host(b->gpu, own->host_table);
        kv_gpu_delete(b->gpu, own->length);
        kv_gpu_delete_host(b->gpu, own->host_length);
        kv_gpu_delete(b->gpu, own->query);
        kv_gpu_delete(b->gpu, own->leave);
        kv_gpu_delete_host(b->gpu, own->host_leave);
        kv_gpu_delete(b->gpu, own->left);
        kv_gpu_delete_host(b->gpu, own->host_left);
        kv_gpu_delete(b->gpu, own->column);
    }
    free(own);
    free(s->lane);
    s->own = NULL;
    s->lane = NULL;
}

/* Wider tables: the pages that lanes have move over. */
static bool widen(struct kv_cuda *b, struct kv_seq *s, int64_t pages, struct kv_err *e)
{
    struct kv_cuda_seq *own = own_of(s);
    int64_t lanes = b->config.layers * s->store_heads, room = pages + pages / 2 + 4;
    int32_t *host, *device;
    if (!kv_gpu_new_host(b->gpu, &host, lanes * room, sizeof *host, "tables of pages", e))
        return false;
    if (!kv_gpu_new(b->gpu, &device, lanes * room, sizeof *device, "tables of pages", e)) {
        kv_gpu_delete_host(b->gpu, host);
        return false;
    }
    memset(host, 0, sizeof *host * (size_t)(lanes * room));
    for (int64_t i = 0; i < lanes; i++) {
        struct kv_lane_pages *lane = &s->lane[i];
        if (lane->n_pages)
            memcpy(host + i * room, lane->page, sizeof *host * (size_t)lane->n_pages);
        lane->page = host + i * room;
        lane->room = room;
    }
    kv_gpu_delete(b->gpu, own->table);
    kv_gpu_delete_host(b->gpu, own->host_table);
    own->table = device;
    own->host_table = host;
    own->room = room;
    kv_gpu_put(b->gpu, device, host, sizeof *host * (size_t)(lanes * room));
    return kv_gpu_wait(b->gpu, e); /* the host's may change from here on */
}

/* Columns [from, to) of the layer's tables. */
static void put_tables(struct kv_cuda *b, const struct kv_seq *s, int64_t layer, int64_t from, int64_t to)
{
    const struct kv_cuda_seq *own = own_of(s);
    size_t step = sizeof *own->table * (size_t)own->room;
    int64_t at = layer * s->store_heads * own->room + from;
    if (from < to)
        kv_gpu_put_rows(b->gpu, own->table + at, step, own->host_table + at, step,
                        sizeof *own->table * (size_t)(to - from), (size_t)s->store_heads);
}

bool kv_cuda_seq_grow(struct kv_cuda *b, struct kv_seq *s, int64_t layer, int64_t tokens, struct kv_err *e)
{
    int64_t page = b->asked.page, from = INT64_MAX, to = 0;
    struct kv_lane_pages *lanes = &s->lane[layer * s->store_heads];
    for (int64_t h = 0; h < s->store_heads; h++) {
        int64_t pages = (lanes[h].length + tokens + page - 1) / page;
        to = pages > lanes[h].n_pages && pages > to ? pages : to;
        from = pages > lanes[h].n_pages && lanes[h].n_pages < from ? lanes[h].n_pages : from;
    }
    KV_ASSERT(to <= own_of(s)->room);
    for (int64_t h = 0; h < s->store_heads; h++) {
        lanes[h].length += tokens;
        for (; lanes[h].n_pages < (lanes[h].length + page - 1) / page; lanes[h].n_pages++)
            if (!kv_cuda_pool_take(&b->pool, &lanes[h].page[lanes[h].n_pages], e)) {
                lanes[h].length -= tokens;
                return false;
            }
    }
    put_tables(b, s, layer, from, to);
    return true;
}

static int64_t longest_lane(const struct kv_cuda *b, const struct kv_seq *s)
{
    int64_t most = 0;
    for (int64_t i = 0; i < b->config.layers * s->store_heads; i++)
        most = s->lane[i].length > most ? s->lane[i].length : most;
    return most;
}

bool kv_cuda_seq_begin(struct kv_cuda *b, struct kv_seq *s, int64_t tokens, struct kv_err *e)
{
    struct kv_cuda_seq *own = own_of(s);
    int64_t lanes = b->config.layers * s->store_heads, most = longest_lane(b, s);
    for (int64_t i = 0; i < lanes; i++)
        own->host_length[i] = (int32_t)s->lane[i].length;
    int64_t pages = (most + tokens + b->asked.page - 1) / b->asked.page;
    if (pages > own->room && !widen(b, s, pages, e))
        return false;
    kv_gpu_put(b->gpu, own->length, own->host_length, sizeof *own->length * (size_t)lanes);
    return true;
}

/* ---- what leaves by itself ---- */

static bool make_leave(struct kv_cuda *b, struct kv_cuda_seq *own, int64_t lanes, struct kv_err *e)
{
    static const char what[] = "who leaves";
    return own->host_left || (kv_gpu_new(b->gpu, &own->leave, lanes, sizeof *own->leave, what, e) &&
                              kv_gpu_new_host(b->gpu, &own->host_leave, lanes, sizeof *own->host_leave, what, e) &&
                              kv_gpu_new(b->gpu, &own->left, lanes, sizeof *own->left, what, e) &&
                              kv_gpu_new_host(b->gpu, &own->host_left, lanes, sizeof *own->host_left, what, e));
}

/* Room for numbers of so many entries; what there are move along. */
static bool widen_columns(struct kv_cuda *b, struct kv_seq *s, int64_t entries, struct kv_err *e)
{
    struct kv_cuda_seq *own = own_of(s);
    int64_t lanes = b->config.layers * s->store_heads, room = entries + entries / 8 + 64;
    float *wider;
    if (entries <= own->column_room)
        return true;
    if (!kv_gpu_new(b->gpu, &wider, lanes * room, sizeof *wider, "numbers of entries", e))
        return false;
    for (int64_t i = 0; i < lanes && own->column; i++)
        kv_gpu_copy(b->gpu, wider + i * room, own->column + i * own->column_room,
                    sizeof *wider *
                        (size_t)(s->lane[i].length < own->column_room ? s->lane[i].length : own->column_room));
    kv_gpu_delete(b->gpu, own->column);
    own->column = wider;
    own->column_room = room;
    return true;
}

bool kv_cuda_seq_plan(struct kv_cuda *b, const struct kv_part *part, struct kv_err *e)
{
    struct kv_cuda_seq *own = own_of(part->seq);
    int64_t lanes = b->config.layers * part->seq->store_heads;
    if (!part->leave)
        return true;
    KV_ASSERT(part->n_new == 1 && !part->n_patch);
    if (!make_leave(b, own, lanes, e) ||
        (own->column && !widen_columns(b, part->seq, longest_lane(b, part->seq) + 1, e)))
        return false;
    for (int64_t i = 0; i < lanes; i++)
        own->host_leave[i] = (struct kv_cuda_leave){part->leave[i].first, part->leave[i].behind, part->leave[i].n};
    kv_gpu_put(b->gpu, own->leave, own->host_leave, sizeof *own->leave * (size_t)lanes);
    return true;
}

/* The lane's entries from `length` on are gone. */
static void shorten(struct kv_cuda *b, struct kv_lane_pages *lane, int64_t length)
{
    int64_t pages = (length + b->asked.page - 1) / b->asked.page;
    lane->length = length;
    while (lane->n_pages > pages)
        kv_cuda_pool_give(&b->pool, lane->page[--lane->n_pages]);
}

void kv_cuda_seq_shrink(struct kv_cuda *b, const struct kv_part *part, int64_t layer)
{
    int64_t heads = part->seq->store_heads;
    for (int64_t i = layer * heads; part->leave && i < (layer + 1) * heads; i++)
        shorten(b, &part->seq->lane[i], part->seq->lane[i].length - part->leave[i].n);
}

void kv_cuda_seq_told(struct kv_cuda *b, const struct kv_part *part)
{
    struct kv_cuda_seq *own = own_of(part->seq);
    int64_t lanes = b->config.layers * part->seq->store_heads;
    if (!part->leave || !part->by)
        return;
    kv_gpu_get(b->gpu, own->host_left, own->left, sizeof *own->left * (size_t)lanes);
    for (int64_t i = 0; i < lanes; i++)
        if (part->leave[i].n)
            part->left[i] = (struct kv_left){own->host_left[i].rank, own->host_left[i].ties};
}

bool kv_cuda_set_column(struct kv_backend *backend, struct kv_seq *s, int64_t layer, int64_t head, const float *column,
                        struct kv_err *e)
{
    struct kv_cuda *b = kv_cuda_of(backend);
    int64_t lane = layer * s->store_heads + head;
    if (!widen_columns(b, s, longest_lane(b, s) + 1, e))
        return false;
    kv_gpu_put(b->gpu, own_of(s)->column + lane * own_of(s)->column_room, column,
               sizeof *column * (size_t)s->lane[lane].length);
    return true;
}

bool kv_cuda_get_column(struct kv_backend *backend, struct kv_seq *s, int64_t layer, int64_t head, float *column,
                        struct kv_err *e)
{
    struct kv_cuda *b = kv_cuda_of(backend);
    int64_t lane = layer * s->store_heads + head;
    kv_gpu_get(b->gpu, column, own_of(s)->column + lane * own_of(s)->column_room,
               sizeof *column * (size_t)s->lane[lane].length);
    return kv_gpu_wait(b->gpu, e);
}

/* ---- what leaves ---- */

/* Room for the list of one more lane. */
static bool make_list(struct kv_cuda_moves *m, int64_t n)
{
    if (m->n == m->room) {
        int64_t room = 2 * m->room + 16;
        struct kv_cuda_stay *lane = realloc(m->lane, sizeof *lane * (size_t)room);
        if (!lane)
            return false;
        m->lane = lane;
        m->room = room;
    }
    if (m->kept + n > m->keep_room) {
        int64_t room = (m->kept + n) * 2;
        int32_t *keep = realloc(m->keep, sizeof *keep * (size_t)room);
        if (!keep)
            return false;
        m->keep = keep;
        m->keep_room = room;
    }
    return true;
}

/* The lists are pageable, so they were read when this returns. Without memory for them the pass ends. */
void kv_cuda_compact_all(struct kv_cuda *b)
{
    struct kv_cuda_moves *m = &b->moves;
    size_t lanes = sizeof *m->lane * (size_t)m->n, keep = sizeof *m->keep * (size_t)m->kept;
    if (m->n && kv_cuda_room(b, &b->keep, (int64_t)(lanes + keep), "what stays", &b->late)) {
        char *at = b->keep.at;
        kv_gpu_put(b->gpu, at, m->lane, lanes);
        kv_gpu_put(b->gpu, at + lanes, m->keep, keep);
        kv_cuda_compact(b->gpu, &b->shape, b->part_device, (int32_t)m->layer, b->keep.at, m->n,
                        (const int32_t *)(const void *)(at + lanes));
    }
    m->n = m->kept = 0;
}

/* Pages go back at once: none is taken before the lists were sent for. */
void kv_cuda_compact_lane(struct kv_backend *backend, int part, int64_t layer, int64_t head, const uint64_t *stay)
{
    struct kv_cuda *b = kv_cuda_of(backend);
    struct kv_cuda_moves *m = &b->moves;
    const struct kv_part *p = &b->part[part];
    struct kv_lane_pages *lane = &p->seq->lane[layer * p->seq->store_heads + head];
    int64_t n = lane->length - p->n_patch, kept = stay ? 0 : n;
    if (m->n == KV_CUDA_LANES)
        kv_cuda_compact_all(b);
    if (stay && !make_list(m, n))
        kv_fail(&b->late, KV_ENV, "no memory for a list of %lld entries", (long long)n);
    else if (stay) {
        int32_t *keep = m->keep + m->kept;
        for (int64_t i = 0; i < n; i++)
            if (kv_set_has(stay, i))
                keep[kept++] = (int32_t)i;
        if (kept && keep[kept - 1] != kept - 1) { /* else nothing moves */
            m->layer = layer;
            m->lane[m->n++] =
                (struct kv_cuda_stay){.first = m->kept, .part = part, .head = (int32_t)head, .n = (int32_t)kept};
            m->kept += kept;
        }
    }
    shorten(b, lane, kept);
}
