/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The CPU backend: f32 throughout, weights as they lie in their file. */
#include "engine/cpu/inside.h"

#include "sim/core/select.h"

#include <cblas.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static struct kv_cpu *cpu_of(struct kv_backend *b)
{
    return (struct kv_cpu *)(void *)b;
}

static bool make(void *out, int64_t n, size_t size, const char *what, struct kv_err *e)
{
    void *made = NULL;
    size_t bytes;
    if (!__builtin_mul_overflow((size_t)(n > 0 ? n : 1), size, &bytes))
        made = aligned_alloc(64, (bytes + 63) / 64 * 64);
    memcpy(out, &made, sizeof made);
    return made || kv_fail(e, KV_ENV, "no memory for %lld x %zu bytes of %s", (long long)n, size, what);
}

/* ---- open and close ---- */

static void cpu_close(struct kv_backend *backend)
{
    struct kv_cpu *b = cpu_of(backend);
    for (int i = 0; b->work && i < kv_team_members(b->team); i++) {
        free(b->work[i].q);
        free(b->work[i].keys);
        free(b->work[i].values);
        free(b->work[i].s);
        free(b->work[i].o);
        free(b->work[i].top);
        free(b->work[i].weight);
    }
    void *buffers[] = {b->x,   b->norm,   b->q,      b->key,      b->value, b->attention, b->gate, b->up,
                       b->lse, b->weight, b->cosine, b->position, b->first, b->logits,    b->work};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        free(buffers[i]);
    kv_pages_close(&b->pages);
    if (b->team)
        kv_team_close(b->team);
    kv_arena_close(b->arena);
    free(b);
}

static bool open_work(struct kv_cpu *b, struct kv_err *e)
{
    int64_t d = kv_cpu_d(b), group = b->config.q_heads / b->config.kv_heads;
    int64_t rows = group > KV_CPU_QUERY_ROWS ? group : KV_CPU_QUERY_ROWS;
    b->work = calloc((size_t)kv_team_members(b->team), sizeof *b->work);
    if (!b->work)
        return kv_fail(e, KV_ENV, "no memory for the buffers of threads");
    for (int i = 0; i < kv_team_members(b->team); i++) {
        struct kv_cpu_work *w = &b->work[i];
        if (!make(&w->q, rows * d, sizeof(float), "queries", e) ||
            !make(&w->keys, KV_CPU_TILE * d, sizeof(float), "keys", e) ||
            !make(&w->values, KV_CPU_TILE * d, sizeof(float), "values", e) ||
            !make(&w->s, rows * KV_CPU_TILE, sizeof(float), "scores", e) ||
            !make(&w->o, rows * d, sizeof(float), "outputs", e) || !make(&w->top, 2 * rows, sizeof(float), "sums", e) ||
            !make(&w->weight, KV_CPU_BLOCK_OUTPUTS * KV_CPU_BLOCK_INPUTS, sizeof(float), "weights", e))
            return false;
        w->sum = w->top + rows;
    }
    return true;
}

static bool cpu_open(struct kv_backend **out, const struct kv_weights *w, const struct kv_backend_asked *asked,
                     struct kv_err *e)
{
    if (w->drawn)
        return kv_fail(e, KV_USAGE, "random weights are drawn on a device; take --backend cuda, or a checkpoint");
    struct kv_cpu *b = calloc(1, sizeof *b);
    KV_ASSERT(asked->dtype == KV_FP32);
    if (!b)
        return kv_fail(e, KV_ENV, "no memory for a backend");
    b->base.ops = &kv_backend_cpu;
    b->weights = w;
    b->config = w->config;
    b->asked = *asked;
    b->k = kv_kernels_best();
    b->arena = kv_arena_open();
    b->team = kv_team_open(asked->threads, b->arena);
    int64_t widest = w->config.hidden > w->config.head_dim ? w->config.hidden : w->config.head_dim;
    *out = &b->base;
    if (kv_pages_open(&b->pages, 2 * asked->page * w->config.head_dim * (int64_t)sizeof(float), asked->pool_bytes, e) &&
        make(&b->weight, widest, sizeof(float), "weights of a norm", e) && open_work(b, e))
        return true;
    cpu_close(*out);
    *out = NULL;
    return false;
}

/* ---- sequences ---- */

static bool cpu_seq_open(struct kv_backend *backend, struct kv_seq *s, struct kv_err *e)
{
    struct kv_cpu *b = cpu_of(backend);
    int64_t lanes = b->config.layers * s->store_heads;
    s->lane = calloc((size_t)lanes, sizeof *s->lane);
    s->query = NULL;
    s->n_query = s->seen = 0;
    if (!s->lane)
        return kv_fail(e, KV_ENV, "no memory for %lld lanes", (long long)lanes);
    return !s->window || make(&s->query, b->config.layers * s->window * b->config.q_heads * kv_cpu_d(b), sizeof(float),
                              "a window of queries", e);
}

static void cpu_seq_close(struct kv_backend *backend, struct kv_seq *s)
{
    struct kv_cpu *b = cpu_of(backend);
    for (int64_t i = 0; s->lane && i < b->config.layers * s->store_heads; i++) {
        for (int64_t p = 0; p < s->lane[i].n_pages; p++)
            kv_pages_give(&b->pages, s->lane[i].page[p]);
        free(s->lane[i].page);
    }
    free(s->lane);
    free(s->query);
    s->lane = NULL;
    s->query = NULL;
}

/* Pages for `length` entries. */
static bool take_pages(struct kv_cpu *b, struct kv_lane_pages *lane, int64_t length, struct kv_err *e)
{
    int64_t pages = (length + b->asked.page - 1) / b->asked.page;
    if (pages > lane->room) {
        int64_t room = pages + pages / 2 + 4;
        int32_t *page = realloc(lane->page, sizeof *page * (size_t)room);
        if (!page)
            return kv_fail(e, KV_ENV, "no memory for a table of %lld pages", (long long)room);
        lane->page = page;
        lane->room = room;
    }
    for (; lane->n_pages < pages; lane->n_pages++) {
        int32_t page = kv_pages_take(&b->pages);
        if (page < 0)
            return kv_fail(e, KV_ENV,
                           "the KV pool is full: %lld pages of %lld bytes; raise --pool, shorten the prompt, or evict",
                           (long long)b->pages.most, (long long)b->pages.page_bytes);
        lane->page[lane->n_pages] = page;
    }
    return true;
}

static void cpu_compact(struct kv_backend *backend, int part, int64_t layer, int64_t head, const uint64_t *stay)
{
    struct kv_cpu *b = cpu_of(backend);
    const struct kv_part *p = &b->part[part];
    struct kv_lane_pages *lane = kv_cpu_lane(p->seq, layer, head);
    int64_t n = lane->length - p->n_patch, kept = stay ? 0 : n;
    size_t bytes = sizeof(float) * (size_t)kv_cpu_d(b);
    for (int64_t i = 0; stay && i < n; i++) {
        if (!kv_set_has(stay, i))
            continue;
        if (kept < i) { /* survivors only ever move down, so none is overwritten before it has moved */
            memcpy(kv_cpu_key(b, lane, kept), kv_cpu_key(b, lane, i), bytes);
            memcpy(kv_cpu_value(b, lane, kept), kv_cpu_value(b, lane, i), bytes);
        }
        kept++;
    }
    lane->length = kept;
    int64_t pages = (kept + b->asked.page - 1) / b->asked.page;
    while (lane->n_pages > pages)
        kv_pages_give(&b->pages, lane->page[--lane->n_pages]);
}

static void cpu_entries(struct kv_backend *backend, int part, int64_t layer, int64_t head, int64_t first, int64_t n,
                        float *keys, float *values)
{
    struct kv_cpu *b = cpu_of(backend);
    const struct kv_seq *s = b->part[part].seq;
    kv_cpu_tile(b, s, kv_cpu_lane(s, layer, head), first, n, keys, values);
}

/* ---- a pass ---- */

static bool make_rows(struct kv_cpu *b, int64_t rows, struct kv_err *e)
{
    const struct kv_config *c = &b->config;
    int64_t d = c->head_dim;
    if (rows <= b->room)
        return true;
    void *old[] = {b->x, b->norm, b->q, b->key, b->value, b->attention, b->gate, b->up, b->lse, b->position};
    for (size_t i = 0; i < sizeof old / sizeof *old; i++)
        free(old[i]);
    b->x = b->norm = b->q = b->key = b->value = b->attention = b->gate = b->up = b->lse = NULL;
    b->position = NULL;
    b->room = 0;
    if (!make(&b->x, rows * c->hidden, 4, "activations", e) || !make(&b->norm, rows * c->hidden, 4, "activations", e) ||
        !make(&b->q, rows * c->q_heads * d, 4, "queries", e) || !make(&b->key, rows * c->kv_heads * d, 4, "keys", e) ||
        !make(&b->value, rows * c->kv_heads * d, 4, "values", e) ||
        !make(&b->attention, rows * c->q_heads * d, 4, "attention", e) ||
        !make(&b->gate, rows * c->intermediate, 4, "activations", e) ||
        !make(&b->up, rows * c->intermediate, 4, "activations", e) ||
        !make(&b->lse, rows * c->q_heads, 4, "attention sums", e) || !make(&b->position, rows, 8, "positions", e))
        return false;
    b->room = rows;
    return true;
}

static bool make_rope(struct kv_cpu *b, int64_t positions, struct kv_err *e)
{
    if (positions <= b->rope_room)
        return true;
    int64_t room = positions + positions / 4 + 256, half = b->config.head_dim / 2;
    free(b->cosine);
    b->cosine = NULL;
    b->rope_room = 0;
    if (!make(&b->cosine, 2 * room * half, sizeof(float), "rotations", e))
        return false;
    b->sine = b->cosine + room * half;
    kv_config_rope(&b->config, 0, room, b->cosine, b->sine);
    b->rope_room = room;
    return true;
}

static bool begin(struct kv_cpu *b, struct kv_part *part, int n_parts, struct kv_err *e)
{
    b->part = part;
    b->n_parts = n_parts;
    openblas_set_num_threads(1); /* the team's members multiply, each for itself */
    free(b->first);
    free(b->logits);
    b->first = NULL;
    b->logits = NULL;
    if (!make(&b->first, 2 * (n_parts + 1), sizeof *b->first, "parts", e) ||
        !make(&b->logits, n_parts, sizeof *b->logits, "parts", e))
        return false;
    int64_t last = kv_parts_rows(part, n_parts, b->first);
    b->tokens = b->first[n_parts];
    if (!kv_config_reaches(&b->config, last, e) || !make_rows(b, b->tokens, e) || !make_rope(b, last + 1, e))
        return false;
    for (int p = 0; p < n_parts; p++)
        for (int64_t t = 0; t < part[p].n_new + part[p].n_patch; t++) {
            int64_t row = b->first[p] + t;
            b->position[row] = part[p].seq->seen + t;
            kv_tensor_read(&b->weights->embedding, part[p].token[t] * b->config.hidden, b->config.hidden,
                           b->x + row * b->config.hidden);
        }
    return true;
}

/* ---- what is done row by row: the team shares the rows of a chunk ---- */

struct by_rows {
    struct kv_cpu *b;
    void (*work)(const struct kv_cpu *b, const struct by_rows *r, int64_t from, int64_t n);
    const float *x, *weight;
    float *out;
    int64_t rows;
    atomic_llong next;
};
enum { ROWS_AT_ONCE = 16 };

static void take_rows(void *by_rows_, int member)
{
    struct by_rows *r = by_rows_;
    (void)member;
    for (int64_t i; (i = atomic_fetch_add(&r->next, ROWS_AT_ONCE)) < r->rows;)
        r->work(r->b, r, i, r->rows - i < ROWS_AT_ONCE ? r->rows - i : ROWS_AT_ONCE);
}

static void do_rows(struct by_rows *r)
{
    if (r->rows <= ROWS_AT_ONCE)
        r->work(r->b, r, 0, r->rows);
    else
        kv_team_run(r->b->team, take_rows, r);
}

static const float *read_weight(const struct kv_cpu *b, const struct kv_tensor *weight, int64_t n)
{
    b->k->widen(weight->data, weight->type, n, b->weight);
    return b->weight;
}

static void norm_some(const struct kv_cpu *b, const struct by_rows *r, int64_t from, int64_t n)
{
    int64_t width = b->config.hidden;
    for (int64_t i = from; i < from + n; i++)
        b->k->rms_norm(r->x + i * width, r->weight, width, (float)b->config.rms_eps, r->out + i * width);
}

static void norm_rows(struct kv_cpu *b, const struct kv_tensor *weight, const float *x, int64_t rows, float *out)
{
    struct by_rows r = {.b = b, .work = norm_some, .x = x, .out = out, .rows = rows};
    r.weight = read_weight(b, weight, b->config.hidden);
    do_rows(&r);
}

static void norm_heads(struct kv_cpu *b, const struct kv_tensor *weight, float *x, int64_t heads)
{
    int64_t d = kv_cpu_d(b);
    const float *w = read_weight(b, weight, d);
    for (int64_t i = 0; i < b->tokens * heads; i++)
        b->k->rms_norm(x + i * d, w, d, (float)b->config.rms_eps, x + i * d);
}

static void silu_some(const struct kv_cpu *b, const struct by_rows *r, int64_t from, int64_t n)
{
    int64_t width = b->config.intermediate;
    b->k->silu_times(r->out + from * width, r->x + from * width, n * width);
}

static void rotate_some(const struct kv_cpu *b, const struct by_rows *r, int64_t from, int64_t n)
{
    const struct kv_config *c = &b->config;
    int part = 0;
    (void)r;
    for (int64_t row = from; row < from + n; row++) {
        while (row >= b->first[part + 1])
            part++;
        if (b->part[part].seq->slot_positions)
            continue;
        kv_cpu_rotate(b, b->q + row * c->q_heads * c->head_dim, c->q_heads, b->position[row]);
        kv_cpu_rotate(b, b->key + row * c->kv_heads * c->head_dim, c->kv_heads, b->position[row]);
    }
}

/* ---- layers ---- */

/* New keys and values go behind what each lane holds. */
static bool append(struct kv_cpu *b, int64_t layer, struct kv_err *e)
{
    int64_t d = kv_cpu_d(b);
    size_t bytes = sizeof(float) * (size_t)d;
    for (int p = 0; p < b->n_parts; p++) {
        const struct kv_seq *s = b->part[p].seq;
        int64_t tokens = b->part[p].n_new + b->part[p].n_patch, per = s->store_heads / b->config.kv_heads;
        for (int64_t h = 0; h < s->store_heads; h++) {
            struct kv_lane_pages *lane = kv_cpu_lane(s, layer, h);
            if (!take_pages(b, lane, lane->length + tokens, e))
                return false;
            for (int64_t t = 0; t < tokens; t++) {
                int64_t from = ((b->first[p] + t) * b->config.kv_heads + h / per) * d;
                memcpy(kv_cpu_key(b, lane, lane->length + t), b->key + from, bytes);
                memcpy(kv_cpu_value(b, lane, lane->length + t), b->value + from, bytes);
            }
            lane->length += tokens;
        }
    }
    return true;
}

static bool attention_layer(struct kv_cpu *b, int64_t layer, kv_layer_hook *hook, void *context, struct kv_err *e)
{
    const struct kv_layer_weights *w = &b->weights->layer[layer];
    norm_rows(b, &w->attention_norm, b->x, b->tokens, b->norm);
    const struct kv_cpu_rows rows = {.n_parts = b->n_parts, .first = b->first};
    const struct kv_cpu_product in[] = {{.w = &w->q, .bias = w->q_bias, .y = b->q},
                                        {.w = &w->k, .bias = w->k_bias, .y = b->key},
                                        {.w = &w->v, .bias = w->v_bias, .y = b->value}},
                                out = {.w = &w->o, .bias = w->o_bias, .y = b->x, .add = true};
    kv_cpu_linear(b, &rows, b->norm, b->config.hidden, in, 3);
    if (w->q_norm)
        norm_heads(b, w->q_norm, b->q, b->config.q_heads);
    if (w->k_norm)
        norm_heads(b, w->k_norm, b->key, b->config.kv_heads);
    struct by_rows turns = {.b = b, .work = rotate_some, .rows = b->tokens};
    do_rows(&turns);
    if (!append(b, layer, e))
        return false;
    kv_cpu_attention(b, layer);
    if (hook && !hook(context, layer, e))
        return false;
    for (int p = 0; p < b->n_parts; p++)
        kv_cpu_keep_queries(b, p, layer);
    kv_cpu_linear(b, &rows, b->attention, b->config.q_heads * kv_cpu_d(b), &out, 1);
    return true;
}

static void mlp_layer(struct kv_cpu *b, int64_t layer)
{
    const struct kv_layer_weights *w = &b->weights->layer[layer];
    norm_rows(b, &w->mlp_norm, b->x, b->tokens, b->norm);
    const struct kv_cpu_rows rows = {.n_parts = b->n_parts, .first = b->first};
    const struct kv_cpu_product in[] = {{.w = &w->gate, .bias = w->gate_bias, .y = b->gate},
                                        {.w = &w->up, .bias = w->up_bias, .y = b->up}},
                                out = {.w = &w->down, .bias = w->down_bias, .y = b->x, .add = true};
    kv_cpu_linear(b, &rows, b->norm, b->config.hidden, in, 2);
    struct by_rows silu = {.b = b, .work = silu_some, .x = b->up, .out = b->gate, .rows = b->tokens};
    do_rows(&silu);
    kv_cpu_linear(b, &rows, b->gate, b->config.intermediate, &out, 1);
}

/* Of all parts at once: the head is the largest matrix of many models, and is read once. */
static void make_logits(struct kv_cpu *b)
{
    int64_t n = b->config.hidden, *first = b->first + b->n_parts + 1;
    first[0] = 0;
    for (int p = 0; p < b->n_parts; p++) {
        const struct kv_part *part = &b->part[p];
        first[p + 1] = first[p] + part->n_logits;
        b->logits[p] = part->logits;
        norm_rows(b, &b->weights->norm, b->x + (b->first[p] + part->n_new - part->n_logits) * n, part->n_logits,
                  b->norm + first[p] * n);
    }
    const struct kv_cpu_rows rows = {.n_parts = b->n_parts, .first = first};
    const struct kv_cpu_product head = {.w = &b->weights->head, .part_y = b->logits};
    if (first[b->n_parts])
        kv_cpu_linear(b, &rows, b->norm, n, &head, 1);
}

static bool do_layers(struct kv_cpu *b, kv_layer_hook *hook, void *context, struct kv_err *e)
{
    for (int64_t layer = 0; layer < b->config.layers; layer++) {
        if (!attention_layer(b, layer, hook, context, e))
            return false;
        mlp_layer(b, layer);
    }
    return true;
}

static bool cpu_forward(struct kv_backend *backend, struct kv_part *part, int n_parts, kv_layer_hook *hook,
                        void *context, struct kv_err *e)
{
    struct kv_cpu *b = cpu_of(backend);
    for (int p = 0; p < n_parts; p++)
        KV_ASSERT(!part[p].seq->lost);
    if (!begin(b, part, n_parts, e))
        return false;
    bool good = do_layers(b, hook, context, e);
    if (good)
        make_logits(b);
    kv_parts_end(part, n_parts, good);
    return good;
}

static struct kv_backend_use cpu_use(const struct kv_backend *backend)
{
    const struct kv_cpu *b = (const struct kv_cpu *)(const void *)backend;
    return (struct kv_backend_use){.pages_live = b->pages.live,
                                   .pages_peak = b->pages.peak,
                                   .page_bytes = b->pages.page_bytes,
                                   .resident_bytes = kv_pages_resident(&b->pages),
                                   .weight_bytes = b->weights->bytes};
}

static const enum kv_dtype dtypes[] = {KV_FP32};

const struct kv_backend_ops kv_backend_cpu = {
    .name = "cpu",
    .computes = "f32",
    .dtype = dtypes,
    .n_dtypes = sizeof dtypes / sizeof *dtypes,
    .open = cpu_open,
    .close = cpu_close,
    .seq_open = cpu_seq_open,
    .seq_close = cpu_seq_close,
    .forward = cpu_forward,
    .channel = kv_cpu_channel,
    .entries = cpu_entries,
    .compact = cpu_compact,
    .use = cpu_use,
};
