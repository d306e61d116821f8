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
    b->moved++;
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
        struct kv_cuda_buffer *buffers[] = {&b->lists, &b->work, &b->logits, &b->scores,       &b->scratch, &b->from,
                                            &b->keep,  &b->made, &b->none,   &b->made_scratch, &b->lowest};
        for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
            kv_gpu_delete(b->gpu, buffers[i]->at);
        drop_rows(b);
        drop_parts(b);
        kv_gpu_delete_host(b->gpu, b->scores_host);
        kv_gpu_delete_host(b->gpu, b->lists_host);
        kv_gpu_graph_delete(b->gpu, b->graph);
        kv_gpu_delete(b->gpu, b->rope);
        kv_cuda_unload(b);
        kv_cuda_pool_close(&b->pool);
        kv_gpu_close(b->gpu);
    }
    free(b->step);
    free(b->step_before);
    free(b->moves.lane);
    free(b->moves.keep);
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
    bool good = kv_gpu_open(&b->gpu, e);
    b->free_before = good ? kv_gpu_free_bytes(b->gpu) : 0;
    good = good && kv_cuda_load(b, e);
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
                                          .entry = entry,
                                          .pages = b->pool.most};
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
    b->moved++;
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
    b->moved++;
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
    b->moved++;
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
                                            .window = (int32_t)part->seq->window,
                                            .leave = part->leave ? own->leave : NULL,
                                            .left = own->left,
                                            .column = own->column,
                                            .column_room = own->column_room};
    b->length_host[p] = own->host_length;
    memcpy(b->token_host + b->first[p], part->token, sizeof *part->token * (size_t)(part->n_new + part->n_patch));
}

/* Lists of what attention is to do, of all layers: which entries a layer holds before the pass is known. */
static bool make_lists(struct kv_cuda *b, struct kv_err *e)
{
    int multiprocessors = kv_gpu_about(b->gpu)->multiprocessors;
    kv_cuda_attention_measure(&b->shape, b->part_host, b->n_parts, multiprocessors, &b->attention_size);
    int64_t one = b->attention_size.list_bytes, all = b->config.layers * one;
    if (all > b->lists_room) {
        kv_gpu_delete_host(b->gpu, b->lists_host);
        b->lists_host = NULL;
        b->lists_room = 0;
        if (!kv_gpu_new_host(b->gpu, &b->lists_host, all + all / 4, 1, "lists of work", e))
            return false;
        b->lists_room = all + all / 4;
    }
    if (!kv_cuda_room(b, &b->lists, all, "lists of work", e) ||
        !kv_cuda_room(b, &b->work, b->attention_size.work_bytes, "attention", e))
        return false;
    for (int64_t layer = 0; layer < b->config.layers; layer++)
        kv_cuda_attention_lists(&b->shape, b->part_host, b->length_host, b->n_parts, multiprocessors, (int32_t)layer,
                                &b->attention_size, b->lists_host + layer * one);
    kv_gpu_put(b->gpu, b->lists.at, b->lists_host, (size_t)all);
    return true;
}

/* What parts whose lanes lose entries by score work with. */
static bool make_leaving(struct kv_cuda *b, struct kv_err *e)
{
    int64_t most = 0, heads = 0;
    for (int p = 0; p < b->n_parts; p++)
        if (b->part[p].leave && b->part[p].by) {
            int64_t lanes = b->config.layers * b->part_host[p].heads;
            heads = b->part_host[p].heads > heads ? b->part_host[p].heads : heads;
            for (int64_t i = 0; i < lanes; i++)
                most = b->length_host[p][i] + 1 > most ? b->length_host[p][i] + 1 : most;
        }
    b->most_entries = most = kv_cuda_round_entries(most);
    if (!heads)
        return true;
    int64_t none = (int64_t)sizeof(int32_t) * heads;
    bool fresh = b->none.bytes < none;
    if (!kv_cuda_room(b, &b->made, heads * most * (int64_t)sizeof(float), "scores", e) ||
        !kv_cuda_room(b, &b->made_scratch, kv_cuda_window_scratch(&b->shape, 1) * (int64_t)sizeof(float), "sums", e) ||
        !kv_cuda_room(b, &b->none, none, "lanes", e) ||
        !kv_cuda_room(b, &b->lowest, heads * kv_cuda_chunks(most) * (int64_t)sizeof(struct kv_cuda_lowest),
                      "lowest scores", e))
        return false;
    if (fresh)
        kv_gpu_zero(b->gpu, b->none.at, (size_t)none);
    return true;
}

static bool begin(struct kv_cuda *b, struct kv_part *part, int n_parts, struct kv_err *e)
{
    b->part = part;
    b->n_parts = n_parts;
    b->late = (struct kv_err){0};
    b->moves.n = b->moves.kept = 0; /* of a pass that stopped within a hook */
    if (!make_parts(b, n_parts, e))
        return false;
    int64_t last = kv_parts_rows(part, n_parts, b->first), rows = b->first[n_parts];
    b->rows = rows;
    if (!kv_config_reaches(&b->config, last, e) || !make_rows(b, rows, e) || !make_rope(b, last + 1, e))
        return false;
    for (int p = 0; p < n_parts; p++) {
        if (!kv_cuda_seq_begin(b, part[p].seq, part[p].n_new + part[p].n_patch, e) || !kv_cuda_seq_plan(b, &part[p], e))
            return false;
        fill_part(b, p);
    }
    int64_t most_logits = 0;
    for (int p = 0; p < n_parts; p++)
        most_logits += part[p].n_logits;
    most_logits = most_logits < LOGIT_ROWS ? most_logits : LOGIT_ROWS;
    if (!make_lists(b, e) || !make_leaving(b, e) ||
        !kv_cuda_room(b, &b->logits, most_logits * b->config.vocab * (int64_t)sizeof(float), "logits", e))
        return false;
    kv_gpu_put(b->gpu, b->part_device, b->part_host, sizeof *b->part_host * (size_t)n_parts);
    kv_gpu_put(b->gpu, b->token, b->token_host, sizeof *b->token * (size_t)rows);
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

/* Pages of the layer's lanes for the pass. */
static bool grow(struct kv_cuda *b, int64_t layer, struct kv_err *e)
{
    for (int p = 0; p < b->n_parts; p++)
        if (!kv_cuda_seq_grow(b, b->part[p].seq, layer, b->part[p].n_new + b->part[p].n_patch, e))
            return false;
    return true;
}

/* What leaves without a hook, as far as pages go: what uses them is asked for in order. */
static void shrink(struct kv_cuda *b, int64_t layer)
{
    for (int p = 0; p < b->n_parts; p++)
        kv_cuda_seq_shrink(b, &b->part[p], layer);
}

static void embed(struct kv_cuda *b)
{
    kv_cuda_embed(b->gpu, b->embedding, b->token, b->rows, b->config.hidden, b->x);
}

static void attention_layer(struct kv_cuda *b, int64_t layer)
{
    const struct kv_config *c = &b->config;
    const struct kv_cuda_layer *w = &b->layer[layer];
    int64_t width = (c->q_heads + 2 * c->kv_heads) * c->head_dim;
    kv_cuda_rms_norm(b->gpu, b->x, w->attention_norm, (float)c->rms_eps, b->rows, c->hidden, b->normed);
    multiply(b, w->qkv, b->normed, b->rows, width, c->hidden, b->qkv, false, false);
    kv_cuda_append(b->gpu, &b->shape, b->part_device, b->n_parts, b->rows, (int32_t)layer, b->qkv, w->qkv_bias,
                   w->q_norm, w->k_norm, (float)c->rms_eps, b->q);
    kv_cuda_attention(b->gpu, &b->shape, b->part_device, &b->attention_size, (int32_t)layer, b->q, b->attention, b->lse,
                      (const char *)b->lists.at + layer * b->attention_size.list_bytes, b->work.at);
}

/* Who leaves without a hook: the part's lanes close up. */
static void leave_lanes(struct kv_cuda *b, int p, int64_t layer)
{
    const struct kv_cuda_part *device = b->part_device + p, *host = b->part_host + p;
    const struct kv_simple_score *by = b->part[p].by;
    int64_t stride = b->most_entries;
    struct kv_cuda_lowest *lowest = b->lowest.at;
    if (by) {
        struct kv_cuda_rule rule = {.gathered = by->made == KV_MADE_GATHERED,
                                    .brought = by->made == KV_MADE_BROUGHT,
                                    .together = by->together,
                                    .sign = by->sign};
        if (rule.brought)
            kv_cuda_norms(b->gpu, &b->shape, device, host, (int32_t)layer, by->channel == KV_VALUE_NORM, b->made.at, 1);
        else
            kv_cuda_window_sums(b->gpu, &b->shape, device, host, (int32_t)layer, b->q, 1, 0, b->none.at, stride, false,
                                b->made.at, stride, stride, b->made_scratch.at);
        kv_cuda_weigh(b->gpu, &b->shape, device, host, (int32_t)layer, &rule, b->made.at, stride, stride, lowest);
    }
    kv_cuda_close_up(b->gpu, &b->shape, device, host, (int32_t)layer, by ? lowest : NULL, kv_cuda_chunks(stride));
}

/* What is left of the layer's attention once nobody asks for scores of it. */
static void leave_attention(struct kv_cuda *b, int64_t layer)
{
    const struct kv_config *c = &b->config;
    const struct kv_cuda_layer *w = &b->layer[layer];
    for (int p = 0; p < b->n_parts; p++) {
        struct kv_cuda_seq *own = b->part[p].seq->own;
        if (b->part[p].leave)
            leave_lanes(b, p, layer);
        if (own->query)
            kv_cuda_keep_queries(b->gpu, &b->shape, b->part_host + p, (int32_t)layer, b->q, own->query);
    }
    multiply(b, w->o, b->attention, b->rows, c->hidden, c->q_heads * c->head_dim, b->x, true, true);
    if (w->o_bias)
        kv_cuda_add_bias(b->gpu, w->o_bias, b->rows, c->hidden, b->x);
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

static void make_logits(struct kv_cuda *b, int64_t row, int64_t rows)
{
    const struct kv_config *c = &b->config;
    kv_cuda_rms_norm(b->gpu, b->x + row * c->hidden, b->norm, (float)c->rms_eps, rows, c->hidden, b->normed);
    multiply(b, b->head, b->normed, rows, c->vocab, c->hidden, b->logits.at, true, false);
}

/* Rows whose logits are wanted and that lie side by side share a product. */
static void all_logits(struct kv_cuda *b)
{
    int64_t vocab = b->config.vocab, made = 0, many = 0; /* rows [made, made + many) are in b->logits */
    for (int p = 0; p < b->n_parts; p++) {
        const struct kv_part *part = &b->part[p];
        int64_t behind = b->first[p] + part->n_new;
        for (int64_t row = behind - part->n_logits; row < behind; row++) {
            if (row >= made + many || row < made) {
                int64_t end = behind;
                for (int next = p + 1;
                     next < b->n_parts && b->part[next].n_new == b->part[next].n_logits && b->first[next] == end;
                     next++)
                    end = b->first[next] + b->part[next].n_new;
                made = row;
                many = end - row < LOGIT_ROWS ? end - row : LOGIT_ROWS;
                make_logits(b, made, many);
            }
            kv_gpu_get(b->gpu, part->logits + (row - behind + part->n_logits) * vocab,
                       (const float *)b->logits.at + (row - made) * vocab, sizeof(float) * (size_t)vocab);
        }
    }
}

static bool pass_ends(struct kv_cuda *b, struct kv_err *e)
{
    for (int p = 0; p < b->n_parts; p++)
        kv_cuda_seq_told(b, &b->part[p]);
    return kv_gpu_wait(b->gpu, e);
}

static bool do_pass(struct kv_cuda *b, kv_layer_hook *hook, void *context, struct kv_err *e)
{
    embed(b);
    for (int64_t layer = 0; layer < b->config.layers; layer++) {
        if (!grow(b, layer, e))
            return false;
        attention_layer(b, layer);
        shrink(b, layer);
        if (hook && !hook(context, layer, e))
            return false;
        kv_cuda_compact_all(b);
        if (b->late.n)
            return kv_fail(e, b->late.status, "%s", b->late.text);
        leave_attention(b, layer);
        mlp_layer(b, layer);
    }
    all_logits(b);
    return pass_ends(b, e);
}

/* ---- steps of decodes ---- */

/* What launches of a step have in them: a recorded one stands for another in which all of this is the same. */
struct kv_cuda_step {
    int64_t moved, most_entries;
    int n_parts;
    struct {
        const kv_bf16 *query;
        int32_t window, heads, slot_positions;
        bool leaves, by_score;
        struct kv_simple_score by;
    } part[];
};

/* Into b->step; what was there is in b->step_before. */
static bool describe_step(struct kv_cuda *b, struct kv_err *e)
{
    struct kv_cuda_step *s = b->step_before;
    size_t bytes = sizeof *s + sizeof *s->part * (size_t)b->n_parts;
    b->step_before = b->step;
    b->step = s = realloc(s, bytes);
    if (!s)
        return kv_fail(e, KV_ENV, "no memory for %d parts", b->n_parts);
    memset(s, 0, bytes);
    s->moved = b->moved;
    s->most_entries = b->most_entries;
    s->n_parts = b->n_parts;
    for (int p = 0; p < b->n_parts; p++) {
        s->part[p].query = b->part_host[p].query;
        s->part[p].window = b->part_host[p].window;
        s->part[p].heads = b->part_host[p].heads;
        s->part[p].slot_positions = b->part_host[p].slot_positions;
        s->part[p].leaves = b->part[p].leave != NULL;
        s->part[p].by_score = b->part[p].by != NULL;
        if (b->part[p].by) { /* field by field: what lies between them is compared as well */
            s->part[p].by.channel = b->part[p].by->channel;
            s->part[p].by.made = b->part[p].by->made;
            s->part[p].by.sign = b->part[p].by->sign;
            s->part[p].by.together = b->part[p].by->together;
        }
    }
    return true;
}

static bool same_step(const struct kv_cuda_step *a, const struct kv_cuda_step *b)
{
    return a && b && a->n_parts == b->n_parts && !memcmp(a, b, sizeof *a + sizeof *a->part * (size_t)a->n_parts);
}

/* One token of each part, all logits wanted, and nobody asks for scores. */
static bool only_decodes(const struct kv_cuda *b)
{
    bool only = b->rows <= LOGIT_ROWS;
    for (int p = 0; p < b->n_parts && only; p++)
        only = b->part[p].n_new == 1 && !b->part[p].n_patch && b->part[p].n_logits == 1;
    return only;
}

static void ask_step(struct kv_cuda *b)
{
    embed(b);
    for (int64_t layer = 0; layer < b->config.layers; layer++) {
        attention_layer(b, layer);
        leave_attention(b, layer);
        mlp_layer(b, layer);
    }
    make_logits(b, 0, b->rows);
}

/* A step like the one before is recorded and from then on repeated: its hundreds of launches are one. */
static bool do_step(struct kv_cuda *b, struct kv_err *e)
{
    for (int64_t layer = 0; layer < b->config.layers; layer++) {
        if (!grow(b, layer, e))
            return false;
        shrink(b, layer);
    }
    if (!describe_step(b, e))
        return false;
    bool same = same_step(b->step, b->step_before);
    if (b->graph && !same) {
        kv_gpu_graph_delete(b->gpu, b->graph);
        b->graph = NULL;
    }
    if (same && !b->graph && !b->asked.no_graph) {
        kv_gpu_graph_begin(b->gpu);
        ask_step(b);
        b->graph = kv_gpu_graph_end(b->gpu);
    }
    if (b->graph)
        kv_gpu_graph_run(b->gpu, b->graph);
    else
        ask_step(b);
    for (int p = 0; p < b->n_parts; p++)
        kv_gpu_get(b->gpu, b->part[p].logits, (const float *)b->logits.at + p * b->config.vocab,
                   sizeof(float) * (size_t)b->config.vocab);
    return pass_ends(b, e);
}

static bool cuda_forward(struct kv_backend *backend, struct kv_part *part, int n_parts, kv_layer_hook *hook,
                         void *context, struct kv_err *e)
{
    struct kv_cuda *b = kv_cuda_of(backend);
    for (int p = 0; p < n_parts; p++)
        KV_ASSERT(!part[p].seq->lost);
    if (!begin(b, part, n_parts, e))
        return false;
    bool good = !hook && only_decodes(b) ? do_step(b, e) : do_pass(b, hook, context, e);
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
                                   .weight_bytes = b->weight_bytes,
                                   .device_bytes = b->free_before - kv_gpu_free_bytes(b->gpu),
                                   .load_bytes = b->load_bytes,
                                   .load_s = b->load_s};
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
    .set_column = kv_cuda_set_column,
    .get_column = kv_cuda_get_column,
    .use = cuda_use,
};
