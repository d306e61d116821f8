/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The CUDA backend: weights and activations in bf16, entries as asked, sums and the residual stream in fp32. The host
 * decides which page lies where, and asks for kernels in order; it waits where scores are wanted and at a pass's end.
 */
#include "engine/cuda/inside.h"

#include <stdlib.h>
#include <string.h>

enum { LOGIT_ROWS = 256 }; /* that are made at a time */

bool kv_cuda_room(struct kv_cuda *b, struct kv_cuda_buffer *buffer, int64_t bytes, const char *what, struct kv_err *e)
{
    if (bytes <= buffer->bytes)
        return true;
    kv_gpu_delete(b->gpu, buffer->at);
    *buffer = (struct kv_cuda_buffer){0};
    if (!kv_gpu_new(b->gpu, &buffer->at, bytes + bytes / 4, 1, what, e))
        return false;
    buffer->bytes = bytes + bytes / 4;
    return true;
}

/* ---- open and close ---- */

static void drop_rows(struct kv_cuda *b)
{
    void *all[] = {b->token, b->x, b->lse, b->normed, b->qkv, b->q, b->attention, b->gate_up, b->act};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        kv_gpu_delete(b->gpu, all[i]);
    kv_gpu_delete_host(b->gpu, b->token_host);
    b->token_host = b->token = NULL;
    b->x = b->lse = NULL;
    b->normed = b->qkv = b->q = b->attention = b->gate_up = b->act = NULL;
    b->room = 0;
}

static void drop_parts(struct kv_cuda *b)
{
    kv_gpu_delete(b->gpu, b->part_device);
    kv_gpu_delete_host(b->gpu, b->part_host);
    free(b->length_host);
    free(b->first);
    b->part_device = b->part_host = NULL;
    b->length_host = NULL;
    b->first = NULL;
    b->parts_room = 0;
}

static void cuda_close(struct kv_backend *backend)
{
    struct kv_cuda *b = kv_cuda_of(backend);
    if (b->gpu) {
        struct kv_cuda_buffer *buffers[] = {&b->work, &b->logits, &b->scores, &b->scratch, &b->from, &b->keep};
        for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
            kv_gpu_delete(b->gpu, buffers[i]->at);
        drop_rows(b);
        drop_parts(b);
        kv_gpu_delete_host(b->gpu, b->scores_host);
        kv_gpu_delete_host(b->gpu, b->lists);
        kv_gpu_delete(b->gpu, b->rope);
        kv_cuda_unload(b);
        kv_cuda_pool_close(&b->pool);
        kv_gpu_close(b->gpu);
    }
    free(b);
}

static enum kv_cuda_entry entry_of(enum kv_dtype dtype)
{
    KV_ASSERT(dtype == KV_BF16 || dtype == KV_FP16 || dtype == KV_FP8);
    return dtype == KV_FP8 ? KV_CUDA_FP8 : dtype == KV_FP16 ? KV_CUDA_FP16 : KV_CUDA_BF16;
}

static bool cuda_open(struct kv_backend **out, const struct kv_weights *w, const struct kv_backend_asked *asked,
                      struct kv_err *e)
{
    struct kv_cuda *b = calloc(1, sizeof *b);
    const struct kv_config *c = &w->config;
    if (!b)
        return kv_fail(e, KV_ENV, "no memory for a backend");
    b->base.ops = &kv_backend_cuda;
    b->weights = w;
    b->config = *c;
    b->asked = *asked;
    *out = &b->base;
    bool good = kv_gpu_open(&b->gpu, e) && kv_cuda_load(b, e);
    enum kv_cuda_entry entry = entry_of(asked->dtype);
    int64_t page_bytes = 2 * asked->page * c->head_dim * kv_cuda_entry_bytes(entry);
    int64_t pool = !good || asked->pool_bytes ? asked->pool_bytes : kv_gpu_free_bytes(b->gpu) / 2;
    if (good && kv_cuda_pool_open(&b->pool, b->gpu, page_bytes, pool, e)) {
        b->shape = (struct kv_cuda_shape){.layers = (int32_t)c->layers,
                                          .q_heads = (int32_t)c->q_heads,
                                          .kv_heads = (int32_t)c->kv_heads,
                                          .d = (int32_t)c->head_dim,
                                          .page = (int32_t)asked->page,
                                          .pool = b->pool.base,
                                          .entry = entry};
        return true;
    }
    cuda_close(*out);
    *out = NULL;
    return false;
}

/* ---- what a pass begins with ---- */

static bool make_rows(struct kv_cuda *b, int64_t rows, struct kv_err *e)
{
    const struct kv_config *c = &b->config;
    int64_t d = c->head_dim;
    if (rows <= b->room)
        return true;
    drop_rows(b);
    static const char what[] = "activations";
    if (!kv_gpu_new_host(b->gpu, &b->token_host, rows, sizeof *b->token_host, what, e) ||
        !kv_gpu_new(b->gpu, &b->token, rows, sizeof *b->token, what, e) ||
        !kv_gpu_new(b->gpu, &b->x, rows * c->hidden, sizeof *b->x, what, e) ||
        !kv_gpu_new(b->gpu, &b->lse, rows * c->q_heads, sizeof *b->lse, what, e) ||
        !kv_gpu_new(b->gpu, &b->normed, rows * c->hidden, sizeof *b->normed, what, e) ||
        !kv_gpu_new(b->gpu, &b->qkv, rows * (c->q_heads + 2 * c->kv_heads) * d, sizeof *b->qkv, what, e) ||
        !kv_gpu_new(b->gpu, &b->q, rows * c->q_heads * d, sizeof *b->q, what, e) ||
        !kv_gpu_new(b->gpu, &b->attention, rows * c->q_heads * d, sizeof *b->attention, what, e) ||
        !kv_gpu_new(b->gpu, &b->gate_up, rows * 2 * c->intermediate, sizeof *b->gate_up, what, e) ||
        !kv_gpu_new(b->gpu, &b->act, rows * c->intermediate, sizeof *b->act, what, e))
        return false;
    b->room = rows;
    return true;
}

static bool make_parts(struct kv_cuda *b, int n, struct kv_err *e)
{
    if (n <= b->parts_room)
        return true;
    drop_parts(b);
    b->length_host = calloc((size_t)n, sizeof *b->length_host);
    b->first = calloc((size_t)n + 1, sizeof *b->first);
    if (!b->length_host || !b->first)
        return kv_fail(e, KV_ENV, "no memory for %d parts", n);
    if (!kv_gpu_new_host(b->gpu, &b->part_host, n, sizeof *b->part_host, "parts", e) ||
        !kv_gpu_new(b->gpu, &b->part_device, n, sizeof *b->part_device, "parts", e))
        return false;
    b->parts_room = n;
    return true;
}

static bool make_rope(struct kv_cuda *b, int64_t positions, struct kv_err *e)
{
    int64_t room = positions + positions / 4 + 256, half = b->config.head_dim / 2;
    if (positions <= b->rope_room)
        return true;
    float *host = malloc(sizeof *host * (size_t)(2 * room * half));
    kv_gpu_delete(b->gpu, b->rope);
    b->rope = NULL;
    b->rope_room = 0;
    bool good = host && kv_gpu_new(b->gpu, &b->rope, 2 * room * half, sizeof *b->rope, "rotations", e);
    if (good) {
        kv_config_rope(&b->config, 0, room, host, host + room * half);
        kv_gpu_put(b->gpu, b->rope, host, sizeof *host * (size_t)(2 * room * half));
        b->shape.cosine = b->rope;
        b->shape.sine = b->rope + room * half;
        b->rope_room = room;
    }
    bool memory = host != NULL;
    free(host);
    return good || (memory ? false : kv_fail(e, KV_ENV, "no memory for %lld rotations", (long long)room));
}

static void fill_part(struct kv_cuda *b, int p)
{
    const struct kv_part *part = &b->part[p];
    const struct kv_cuda_seq *own = part->seq->own;
    b->part_host[p] = (struct kv_cuda_part){.table = own->table,
                                            .length = own->length,
                                            .table_room = own->room,
                                            .heads = (int32_t)part->seq->store_heads,
                                            .first = (int32_t)b->first[p],
                                            .n_new = (int32_t)part->n_new,
                                            .n_patch = (int32_t)part->n_patch,
                                            .seen = part->seq->seen,
                                            .slot_positions = part->seq->slot_positions,
                                            .query = own->query,
                                            .window = (int32_t)part->seq->window};
    b->length_host[p] = own->host_length;
    memcpy(b->token_host + b->first[p], part->token, sizeof *part->token * (size_t)(part->n_new + part->n_patch));
}

/* Lists of all layers: while the device copies one, the host writes the next. */
static bool make_lists(struct kv_cuda *b, int64_t bytes, struct kv_err *e)
{
    int64_t room = bytes + bytes / 4;
    if (bytes <= b->list_bytes)
        return true;
    if (!kv_gpu_wait(b->gpu, e))
        return false;
    kv_gpu_delete_host(b->gpu, b->lists);
    b->lists = NULL;
    b->list_bytes = 0;
    if (!kv_gpu_new_host(b->gpu, &b->lists, b->config.layers, (size_t)room, "lists of work", e))
        return false;
    b->list_bytes = room;
    return true;
}

/* What attention of the pass's parts works with, in whatever layer. */
static bool make_work(struct kv_cuda *b, struct kv_err *e)
{
    int64_t list_bytes;
    b->work_bytes = kv_cuda_attention_work(&b->shape, b->part_host, b->length_host, b->n_parts,
                                           kv_gpu_about(b->gpu)->multiprocessors, &list_bytes);
    return make_lists(b, list_bytes, e) && kv_cuda_room(b, &b->work, b->work_bytes, "attention", e);
}

static bool begin(struct kv_cuda *b, struct kv_part *part, int n_parts, struct kv_err *e)
{
    b->part = part;
    b->n_parts = n_parts;
    b->late = (struct kv_err){0};
    if (!make_parts(b, n_parts, e))
        return false;
    int64_t last = kv_parts_rows(part, n_parts, b->first), rows = b->first[n_parts];
    b->rows = rows;
    if (!kv_config_reaches(&b->config, last, e) || !make_rows(b, rows, e) || !make_rope(b, last + 1, e))
        return false;
    for (int p = 0; p < n_parts; p++) {
        if (!kv_cuda_seq_begin(b, part[p].seq, part[p].n_new + part[p].n_patch, e))
            return false;
        fill_part(b, p);
    }
    if (!make_work(b, e))
        return false;
    kv_gpu_put(b->gpu, b->part_device, b->part_host, sizeof *b->part_host * (size_t)n_parts);
    kv_gpu_put(b->gpu, b->token, b->token_host, sizeof *b->token * (size_t)rows);
    kv_cuda_embed(b->gpu, b->embedding, b->token, rows, b->config.hidden, b->x);
    return true;
}

/* ---- layers ---- */

/* y (rows, outputs) = x w^T: bf16, or with `add` onto what is there, fp32. */
static void multiply(struct kv_cuda *b, const kv_bf16 *w, const kv_bf16 *x, int64_t rows, int64_t outputs,
                     int64_t inputs, void *y, bool wide, bool add)
{
    if (rows <= KV_CUDA_SKINNY)
        kv_cuda_skinny(b->gpu, w, x, rows, outputs, inputs, y, outputs, wide, add);
    else
        kv_gpu_multiply(b->gpu, w, x, rows, outputs, inputs, y, outputs, wide, add);
}

static void attend(struct kv_cuda *b, int64_t layer)
{
    kv_cuda_attention(b->gpu, &b->shape, b->part_device, b->part_host, b->length_host, b->n_parts, (int32_t)layer, b->q,
                      b->attention, b->lse, b->work.at, b->work_bytes, b->lists + layer * b->list_bytes, b->list_bytes);
}

static bool attention_layer(struct kv_cuda *b, int64_t layer, kv_layer_hook *hook, void *context, struct kv_err *e)
{
    const struct kv_config *c = &b->config;
    const struct kv_cuda_layer *w = &b->layer[layer];
    int64_t width = (c->q_heads + 2 * c->kv_heads) * c->head_dim;
    kv_cuda_rms_norm(b->gpu, b->x, w->attention_norm, (float)c->rms_eps, b->rows, c->hidden, b->normed);
    multiply(b, w->qkv, b->normed, b->rows, width, c->hidden, b->qkv, false, false);
    for (int p = 0; p < b->n_parts; p++)
        if (!kv_cuda_seq_grow(b, b->part[p].seq, layer, b->part[p].n_new + b->part[p].n_patch, e))
            return false;
    kv_cuda_append(b->gpu, &b->shape, b->part_device, b->n_parts, b->rows, (int32_t)layer, b->qkv, w->qkv_bias,
                   w->q_norm, w->k_norm, (float)c->rms_eps, b->q);
    attend(b, layer);
    if (hook && !hook(context, layer, e))
        return false;
    if (b->late.n)
        return kv_fail(e, b->late.status, "%s", b->late.text);
    for (int p = 0; p < b->n_parts; p++) {
        struct kv_cuda_seq *own = b->part[p].seq->own;
        if (own->query)
            kv_cuda_keep_queries(b->gpu, &b->shape, b->part_host + p, (int32_t)layer, b->q, own->query);
    }
    multiply(b, w->o, b->attention, b->rows, c->hidden, c->q_heads * c->head_dim, b->x, true, true);
    if (w->o_bias)
        kv_cuda_add_bias(b->gpu, w->o_bias, b->rows, c->hidden, b->x);
    return true;
}

static void mlp_layer(struct kv_cuda *b, int64_t layer)
{
    const struct kv_config *c = &b->config;
    const struct kv_cuda_layer *w = &b->layer[layer];
    kv_cuda_rms_norm(b->gpu, b->x, w->mlp_norm, (float)c->rms_eps, b->rows, c->hidden, b->normed);
    multiply(b, w->gate_up, b->normed, b->rows, 2 * c->intermediate, c->hidden, b->gate_up, false, false);
    kv_cuda_silu_times(b->gpu, b->gate_up, w->gate_bias, w->up_bias, b->rows, c->intermediate, b->act);
    multiply(b, w->down, b->act, b->rows, c->hidden, c->intermediate, b->x, true, true);
    if (w->down_bias)
        kv_cuda_add_bias(b->gpu, w->down_bias, b->rows, c->hidden, b->x);
}

/* Of a part's last tokens, some rows at a time. */
static bool part_logits(struct kv_cuda *b, int p, struct kv_err *e)
{
    const struct kv_part *part = &b->part[p];
    const struct kv_config *c = &b->config;
    int64_t row = b->first[p] + part->n_new - part->n_logits;
    for (int64_t i = 0, many; i < part->n_logits; i += many) {
        many = part->n_logits - i < LOGIT_ROWS ? part->n_logits - i : LOGIT_ROWS;
        if (!kv_cuda_room(b, &b->logits, many * c->vocab * (int64_t)sizeof(float), "logits", e))
            return false;
        kv_cuda_rms_norm(b->gpu, b->x + (row + i) * c->hidden, b->norm, (float)c->rms_eps, many, c->hidden, b->normed);
        multiply(b, b->head, b->normed, many, c->vocab, c->hidden, b->logits.at, true, false);
        kv_gpu_get(b->gpu, part->logits + i * c->vocab, b->logits.at, sizeof(float) * (size_t)(many * c->vocab));
    }
    return true;
}

static bool do_pass(struct kv_cuda *b, kv_layer_hook *hook, void *context, struct kv_err *e)
{
    for (int64_t layer = 0; layer < b->config.layers; layer++) {
        if (!attention_layer(b, layer, hook, context, e))
            return false;
        mlp_layer(b, layer);
    }
    for (int p = 0; p < b->n_parts; p++)
        if (!part_logits(b, p, e))
            return false;
    return kv_gpu_wait(b->gpu, e);
}

static bool cuda_forward(struct kv_backend *backend, struct kv_part *part, int n_parts, kv_layer_hook *hook,
                         void *context, struct kv_err *e)
{
    struct kv_cuda *b = kv_cuda_of(backend);
    for (int p = 0; p < n_parts; p++)
        KV_ASSERT(!part[p].seq->lost);
    if (!begin(b, part, n_parts, e))
        return false;
    bool good = do_pass(b, hook, context, e);
    struct kv_err ignored = {0};
    if (!good)
        kv_gpu_wait(b->gpu, &ignored); /* nothing may be under way when pages go back */
    kv_cuda_pool_trim(&b->pool);
    kv_parts_end(part, n_parts, good);
    return good;
}

static struct kv_backend_use cuda_use(const struct kv_backend *backend)
{
    const struct kv_cuda *b = (const struct kv_cuda *)(const void *)backend;
    return (struct kv_backend_use){.pages_live = b->pool.live,
                                   .pages_peak = b->pool.peak,
                                   .page_bytes = b->pool.page_bytes,
                                   .resident_bytes = b->pool.mapped * b->pool.slab_bytes,
                                   .weight_bytes = b->weight_bytes};
}

static const enum kv_dtype dtypes[] = {KV_BF16, KV_FP16, KV_FP8};

const struct kv_backend_ops kv_backend_cuda = {
    .name = "cuda",
    .computes = "bf16",
    .dtype = dtypes,
    .n_dtypes = sizeof dtypes / sizeof *dtypes,
    .open = cuda_open,
    .close = cuda_close,
    .seq_open = kv_cuda_seq_open,
    .seq_close = kv_cuda_seq_close,
    .forward = cuda_forward,
    .channel = kv_cuda_channel,
    .entries = kv_cuda_lane_entries,
    .compact = kv_cuda_compact_lane,
    .use = cuda_use,
};
