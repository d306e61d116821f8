/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Weights on the device: matrices that are multiplied by the same rows lie behind each other, so that one product does
 * for all of them. First each has its place, then all elements go there together (upload.c). */
#include "engine/cuda/inside.h"
#include "engine/cuda/upload.h"

#include "sim/core/random.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A piece is long enough for a copy at full rate; some threads read faster than the device copies. */
enum { PIECE_BYTES = 16 << 20, READERS = 8, MATRICES = 7 };

static const float drawn_scale = 0.02f; /* standard deviation, as models are initialised */

/* Matrices whose elements are still in files. */
struct loading {
    struct kv_cuda *b;
    struct kv_cuda_matrix *matrix;
    int64_t n;
};

static void put_matrix(struct loading *l, const struct kv_tensor *t, kv_bf16 *to)
{
    const struct kv_weights *w = l->b->weights;
    if (t->data)
        l->matrix[l->n++] = (struct kv_cuda_matrix){t, to};
    else
        kv_cuda_random(l->b->gpu, to, t->rows * t->columns, false, w->seed ^ kv_purpose(t->name), 0, drawn_scale);
}

/* Several matrices of the same width, one behind the other. */
static bool put_matrices(struct loading *l, kv_bf16 **out, const struct kv_tensor *const *t, int n, struct kv_err *e)
{
    int64_t elements = 0;
    for (int i = 0; i < n; i++)
        elements += t[i]->rows * t[i]->columns;
    if (!kv_gpu_new(l->b->gpu, out, elements, sizeof **out, t[0]->name, e))
        return false;
    l->b->weight_bytes += elements * (int64_t)sizeof **out;
    kv_bf16 *at = *out;
    for (int i = 0; i < n; at += t[i]->rows * t[i]->columns, i++)
        put_matrix(l, t[i], at);
    return true;
}

/* Of drawn weights norms are 1 and biases 0. */
static bool read_vector(const struct kv_weights *w, const struct kv_tensor *t, float *out, struct kv_err *e)
{
    enum { SOME = 512 };
    char raw[SOME * sizeof(float)];
    const struct kv_tensor some = {.name = t->name, .type = t->type, .rows = 1, .columns = SOME, .data = raw};
    bool norm = strstr(t->name, "norm.weight") != NULL;
    for (int64_t i = 0; !t->data && i < t->columns; i++)
        out[i] = norm;
    for (int64_t i = 0, many; t->data && i < t->columns; i += many) {
        many = t->columns - i < SOME ? t->columns - i : SOME;
        if (!kv_weights_fetch(w, t, i, many, raw, e))
            return false;
        kv_tensor_read(&some, 0, many, out + i);
    }
    return true;
}

/* Vectors behind each other as fp32, zeros for one that is NULL; *out stays NULL when all are. */
static bool put_vectors(struct kv_cuda *b, float **out, const struct kv_tensor *const *t, const int64_t *length, int n,
                        struct kv_err *e)
{
    int64_t all = 0;
    bool any = false;
    for (int i = 0; i < n; i++) {
        all += length[i];
        any |= t[i] != NULL;
    }
    if (!any)
        return true;
    float *wide = calloc((size_t)all, sizeof *wide), *at = wide;
    bool good = wide || kv_fail(e, KV_ENV, "no memory for %lld numbers of a vector", (long long)all);
    for (int i = 0; good && i < n; at += length[i++])
        good = !t[i] || read_vector(b->weights, t[i], at, e);
    good = good && kv_gpu_new(b->gpu, out, all, sizeof **out, "a vector", e);
    if (good)
        kv_gpu_put(b->gpu, *out, wide, (size_t)all * sizeof *wide);
    b->weight_bytes += good ? all * (int64_t)sizeof *wide : 0;
    free(wide);
    return good;
}

static bool put_vector(struct kv_cuda *b, float **out, const struct kv_tensor *t, struct kv_err *e)
{
    int64_t length = t ? t->columns : 0;
    return put_vectors(b, out, &t, &length, 1, e);
}

static bool put_layer(struct loading *l, const struct kv_layer_weights *w, struct kv_cuda_layer *to, struct kv_err *e)
{
    struct kv_cuda *b = l->b;
    const struct kv_config *c = &b->config;
    const struct kv_tensor *qkv[] = {&w->q, &w->k, &w->v}, *o = &w->o, *gate_up[] = {&w->gate, &w->up},
                           *down = &w->down, *bias[] = {w->q_bias, w->k_bias, w->v_bias};
    const int64_t length[] = {c->q_heads * c->head_dim, c->kv_heads * c->head_dim, c->kv_heads * c->head_dim};
    return put_matrices(l, &to->qkv, qkv, 3, e) && put_matrices(l, &to->o, &o, 1, e) &&
           put_matrices(l, &to->gate_up, gate_up, 2, e) && put_matrices(l, &to->down, &down, 1, e) &&
           put_vector(b, &to->attention_norm, &w->attention_norm, e) && put_vector(b, &to->mlp_norm, &w->mlp_norm, e) &&
           put_vectors(b, &to->qkv_bias, bias, length, 3, e) && put_vector(b, &to->o_bias, w->o_bias, e) &&
           put_vector(b, &to->gate_bias, w->gate_bias, e) && put_vector(b, &to->up_bias, w->up_bias, e) &&
           put_vector(b, &to->down_bias, w->down_bias, e) && put_vector(b, &to->q_norm, w->q_norm, e) &&
           put_vector(b, &to->k_norm, w->k_norm, e);
}

static bool put_all(struct loading *l, struct kv_err *e)
{
    struct kv_cuda *b = l->b;
    const struct kv_weights *w = b->weights;
    const struct kv_tensor *embedding = &w->embedding, *head = &w->head;
    if (!put_matrices(l, &b->embedding, &embedding, 1, e) || !put_vector(b, &b->norm, &w->norm, e))
        return false;
    if (b->config.tied)
        b->head = b->embedding;
    else if (!put_matrices(l, &b->head, &head, 1, e))
        return false;
    for (int64_t i = 0; i < b->config.layers; i++)
        if (!put_layer(l, &w->layer[i], &b->layer[i], e))
            return false;
    return true;
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

bool kv_cuda_load(struct kv_cuda *b, struct kv_err *e)
{
    struct loading l = {.b = b};
    double start = now_s();
    int readers = b->asked.threads < READERS ? b->asked.threads : READERS;
    b->layer = calloc((size_t)b->config.layers, sizeof *b->layer);
    l.matrix = calloc((size_t)(2 + MATRICES * b->config.layers), sizeof *l.matrix);
    bool good = b->layer && l.matrix;
    if (!good)
        kv_fail(e, KV_ENV, "no memory for %lld layers", (long long)b->config.layers);
    good = good && put_all(&l, e) &&
           kv_cuda_upload(b->gpu, b->weights, l.matrix, l.n, PIECE_BYTES, readers, &b->load_bytes, e) &&
           kv_gpu_wait(b->gpu, e);
    b->load_s = now_s() - start;
    free(l.matrix);
    return good;
}

void kv_cuda_unload(struct kv_cuda *b)
{
    for (int64_t i = 0; b->layer && i < b->config.layers; i++) {
        struct kv_cuda_layer *l = &b->layer[i];
        void *all[] = {l->qkv,    l->o,         l->gate_up, l->down,      l->attention_norm, l->mlp_norm, l->qkv_bias,
                       l->o_bias, l->gate_bias, l->up_bias, l->down_bias, l->q_norm,         l->k_norm};
        for (size_t k = 0; k < sizeof all / sizeof *all; k++)
            kv_gpu_delete(b->gpu, all[k]);
    }
    if (b->head != b->embedding)
        kv_gpu_delete(b->gpu, b->head);
    kv_gpu_delete(b->gpu, b->embedding);
    kv_gpu_delete(b->gpu, b->norm);
    free(b->layer);
}
