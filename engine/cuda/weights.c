/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Weights on their way to the device: matrices that are multiplied by the same rows lie behind each other, so that one
 * product does for all of them. bf16 goes straight from the mapped file; other types are rounded to it, nearest even.
 */
#include "engine/cuda/inside.h"

#include "sim/core/random.h"

#include <stdlib.h>
#include <string.h>

enum { PIECE = 1 << 20 }; /* elements that are rounded at a time */

static const float drawn_scale = 0.02f; /* standard deviation, as models are initialised */

static kv_bf16 rounded(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x != x)
        return 0x7fff;
    return (kv_bf16)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

static bool put_matrix(struct kv_cuda *b, const struct kv_tensor *t, kv_bf16 *to, struct kv_err *e)
{
    int64_t n = t->rows * t->columns, most = n < PIECE ? n : PIECE;
    if (!t->data) {
        kv_cuda_random(b->gpu, to, n, false, b->weights->seed ^ kv_purpose(t->name), 0, drawn_scale);
        return true;
    }
    if (t->type == KV_TENSOR_BF16) {
        kv_gpu_put(b->gpu, to, t->data, (size_t)n * sizeof *to);
        return true;
    }
    float *wide = malloc(sizeof *wide * (size_t)most);
    kv_bf16 *narrow = malloc(sizeof *narrow * (size_t)most);
    for (int64_t i = 0, many; wide && narrow && i < n; i += many) {
        many = n - i < most ? n - i : most;
        kv_tensor_read(t, i, many, wide);
        for (int64_t k = 0; k < many; k++)
            narrow[k] = rounded(wide[k]);
        kv_gpu_put(b->gpu, to + i, narrow, (size_t)many * sizeof *to);
    }
    bool good = wide && narrow;
    free(wide);
    free(narrow);
    return good || kv_fail(e, KV_ENV, "no memory to round '%s'", t->name);
}

/* Several matrices of the same width, one behind the other. */
static bool put_matrices(struct kv_cuda *b, kv_bf16 **out, const struct kv_tensor *const *t, int n, struct kv_err *e)
{
    int64_t elements = 0;
    for (int i = 0; i < n; i++)
        elements += t[i]->rows * t[i]->columns;
    if (!kv_gpu_new(b->gpu, out, elements, sizeof **out, t[0]->name, e))
        return false;
    b->weight_bytes += elements * (int64_t)sizeof **out;
    kv_bf16 *at = *out;
    for (int i = 0; i < n; i++) {
        if (!put_matrix(b, t[i], at, e))
            return false;
        at += t[i]->rows * t[i]->columns;
    }
    return true;
}

/* Of drawn weights norms are 1 and biases 0. */
static void read_vector(const struct kv_tensor *t, float *out)
{
    bool norm = strstr(t->name, "norm.weight") != NULL;
    if (t->data)
        kv_tensor_read(t, 0, t->columns, out);
    for (int64_t i = 0; !t->data && i < t->columns; i++)
        out[i] = norm;
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
    if (!wide)
        return kv_fail(e, KV_ENV, "no memory for %lld numbers of a vector", (long long)all);
    for (int i = 0; i < n; at += length[i++])
        if (t[i])
            read_vector(t[i], at);
    bool good = kv_gpu_new(b->gpu, out, all, sizeof **out, "a vector", e);
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

static bool put_layer(struct kv_cuda *b, const struct kv_layer_weights *w, struct kv_cuda_layer *to, struct kv_err *e)
{
    const struct kv_config *c = &b->config;
    const struct kv_tensor *qkv[] = {&w->q, &w->k, &w->v}, *o = &w->o, *gate_up[] = {&w->gate, &w->up},
                           *down = &w->down, *bias[] = {w->q_bias, w->k_bias, w->v_bias};
    const int64_t length[] = {c->q_heads * c->head_dim, c->kv_heads * c->head_dim, c->kv_heads * c->head_dim};
    return put_matrices(b, &to->qkv, qkv, 3, e) && put_matrices(b, &to->o, &o, 1, e) &&
           put_matrices(b, &to->gate_up, gate_up, 2, e) && put_matrices(b, &to->down, &down, 1, e) &&
           put_vector(b, &to->attention_norm, &w->attention_norm, e) && put_vector(b, &to->mlp_norm, &w->mlp_norm, e) &&
           put_vectors(b, &to->qkv_bias, bias, length, 3, e) && put_vector(b, &to->o_bias, w->o_bias, e) &&
           put_vector(b, &to->gate_bias, w->gate_bias, e) && put_vector(b, &to->up_bias, w->up_bias, e) &&
           put_vector(b, &to->down_bias, w->down_bias, e) && put_vector(b, &to->q_norm, w->q_norm, e) &&
           put_vector(b, &to->k_norm, w->k_norm, e);
}

bool kv_cuda_load(struct kv_cuda *b, struct kv_err *e)
{
    const struct kv_weights *w = b->weights;
    const struct kv_tensor *embedding = &w->embedding, *head = &w->head;
    b->layer = calloc((size_t)b->config.layers, sizeof *b->layer);
    if (!b->layer)
        return kv_fail(e, KV_ENV, "no memory for %lld layers", (long long)b->config.layers);
    if (!put_matrices(b, &b->embedding, &embedding, 1, e) || !put_vector(b, &b->norm, &w->norm, e))
        return false;
    if (b->config.tied)
        b->head = b->embedding;
    else if (!put_matrices(b, &b->head, &head, 1, e))
        return false;
    for (int64_t i = 0; i < b->config.layers; i++)
        if (!put_layer(b, &w->layer[i], &b->layer[i], e))
            return false;
    return kv_gpu_wait(b->gpu, e);
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
