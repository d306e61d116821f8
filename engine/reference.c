/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The model as its papers have it, written to be read. Everything is double but cos and sin of the rotary angles, which
 * are those of kv_config_rope: their rounding to f32 is part of what Hugging Face computes. */
#include "engine/reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Biases and head norms are NULL where the model has none. A linear layer's weight is (outputs, inputs). */
struct layer {
    double *attention_norm, *q, *k, *v, *o, *mlp_norm, *gate, *up, *down;
    double *q_bias, *k_bias, *v_bias, *o_bias, *gate_bias, *up_bias, *down_bias, *q_norm, *k_norm;
    /* Of all positions, and behind them of the last pass's patch: (room, H, D). */
    double *keys, *values;
    double *queries; /* of the last pass, after RoPE: (n + n_patch, Q, D), in its arena */
};

struct kv_reference {
    struct kv_config c;
    struct kv_arena *weights;
    double *embedding, *norm, *head;
    struct layer *layer;
    int64_t seen, room;

    /* The last pass: `first` positions came before its n tokens. All but the counts lies in its arena. */
    struct kv_arena *pass;
    int64_t first, n, n_patch;
    const uint8_t *held; /* a copy; NULL: all */
};

/* ---- weights ---- */

/* In doubles; NULL without memory, said in e. */
static double *read_tensor(struct kv_arena *a, const struct kv_tensor *t, struct kv_err *e)
{
    int64_t n = t->rows * t->columns;
    double *out = kv_alloc_many(a, (size_t)n, sizeof *out, t->name, e);
    float chunk[1024];
    for (int64_t at = 0; out && at < n; at += 1024) {
        int64_t some = n - at < 1024 ? n - at : 1024;
        kv_tensor_read(t, at, some, chunk);
        for (int64_t i = 0; i < some; i++)
            out[at + i] = (double)chunk[i];
    }
    return out;
}

static double *read_if_there(struct kv_arena *a, const struct kv_tensor *t, struct kv_err *e)
{
    return t ? read_tensor(a, t, e) : NULL;
}

static void read_layer(struct layer *to, const struct kv_layer_weights *w, struct kv_arena *a, struct kv_err *e)
{
    *to = (struct layer){
        .attention_norm = read_tensor(a, &w->attention_norm, e),
        .q = read_tensor(a, &w->q, e),
        .k = read_tensor(a, &w->k, e),
        .v = read_tensor(a, &w->v, e),
        .o = read_tensor(a, &w->o, e),
        .mlp_norm = read_tensor(a, &w->mlp_norm, e),
        .gate = read_tensor(a, &w->gate, e),
        .up = read_tensor(a, &w->up, e),
        .down = read_tensor(a, &w->down, e),
        .q_bias = read_if_there(a, w->q_bias, e),
        .k_bias = read_if_there(a, w->k_bias, e),
        .v_bias = read_if_there(a, w->v_bias, e),
        .o_bias = read_if_there(a, w->o_bias, e),
        .gate_bias = read_if_there(a, w->gate_bias, e),
        .up_bias = read_if_there(a, w->up_bias, e),
        .down_bias = read_if_there(a, w->down_bias, e),
        .q_norm = read_if_there(a, w->q_norm, e),
        .k_norm = read_if_there(a, w->k_norm, e),
    };
}

bool kv_reference_open(struct kv_reference **out, const struct kv_weights *w, struct kv_err *e)
{
    struct kv_arena *a = kv_arena_open();
    struct kv_reference *r = KV_NEW(a, struct kv_reference);
    int before = e->n;
    *out = NULL;
    r->c = w->config;
    r->weights = a;
    r->embedding = read_tensor(a, &w->embedding, e);
    r->norm = read_tensor(a, &w->norm, e);
    r->head = w->config.tied ? r->embedding : read_tensor(a, &w->head, e);
    r->layer = kv_alloc_many(a, (size_t)r->c.layers, sizeof *r->layer, "the layers", e);
    for (int64_t l = 0; l < r->c.layers && e->n == before; l++)
        read_layer(&r->layer[l], &w->layer[l], a, e);
    if (e->n > before)
        kv_arena_close(a);
    else
        *out = r;
    return e->n == before;
}

void kv_reference_close(struct kv_reference *r)
{
    if (!r)
        return;
    for (int64_t l = 0; l < r->c.layers; l++) {
        free(r->layer[l].keys);
        free(r->layer[l].values);
    }
    kv_arena_close(r->pass);
    kv_arena_close(r->weights); /* r itself lies there */
}

static void forget_pass(struct kv_reference *r)
{
    kv_arena_close(r->pass);
    r->pass = NULL;
    r->held = NULL;
    r->first = r->seen;
    r->n = r->n_patch = 0;
}

void kv_reference_reset(struct kv_reference *r)
{
    r->seen = 0;
    forget_pass(r);
}

/* ---- arithmetic ---- */

/* In four sums, which a processor can work on at the same time. */
static double dot(const double *x, const double *y, int64_t n)
{
    double sum[4] = {0};
    int64_t whole = n - n % 4;
    for (int64_t i = 0; i < whole; i += 4)
        for (int j = 0; j < 4; j++)
            sum[j] += x[i + j] * y[i + j];
    for (int64_t i = whole; i < n; i++)
        sum[0] += x[i] * y[i];
    return sum[0] + sum[1] + (sum[2] + sum[3]);
}

/* out = weight x + bias; bias NULL: none. */
static void linear(const double *weight, const double *bias, const double *x, int64_t inputs, int64_t outputs,
                   double *out)
{
    for (int64_t i = 0; i < outputs; i++)
        out[i] = dot(weight + i * inputs, x, inputs) + (bias ? bias[i] : 0);
}

static void rms_norm(const double *weight, const double *x, int64_t n, double eps, double *out)
{
    double scale = 1 / sqrt(dot(x, x, n) / (double)n + eps);
    for (int64_t i = 0; i < n; i++)
        out[i] = x[i] * scale * weight[i];
}

/* Element i turns with element i + D/2, as Hugging Face pairs them. */
static void rotate(double *x, int64_t head_dim, const float *cosine, const float *sine)
{
    int64_t half = head_dim / 2;
    for (int64_t i = 0; i < half; i++) {
        double a = x[i], b = x[i + half], c = (double)cosine[i], s = (double)sine[i];
        x[i] = a * c - b * s;
        x[i + half] = b * c + a * s;
    }
}

static double silu(double x)
{
    return x / (1 + exp(-x));
}

/* ---- attention ---- */

/* Whether the query at position `query` sees `position`, in a lane (layer x H + kv head) of the pass in hand. */
static bool sees(const struct kv_reference *r, int64_t lane, int64_t query, int64_t position)
{
    if (position > query || (r->c.sliding_window && position <= query - r->c.sliding_window))
        return false;
    return position >= r->first || !r->held || r->held[lane * r->first + position];
}

static const double *key_at(const struct kv_reference *r, int64_t layer, int64_t head, int64_t position)
{
    return r->layer[layer].keys + (position * r->c.kv_heads + head) * r->c.head_dim;
}

static const double *value_at(const struct kv_reference *r, int64_t layer, int64_t head, int64_t position)
{
    return r->layer[layer].values + (position * r->c.kv_heads + head) * r->c.head_dim;
}

/* Attention weights of the pass's query i over all first + n + n_patch positions; those it does not see get 0. */
static void weigh(const struct kv_reference *r, int64_t layer, int64_t q_head, int64_t i, double *out)
{
    const struct kv_config *c = &r->c;
    int64_t all = r->first + r->n + r->n_patch, kv_head = q_head / (c->q_heads / c->kv_heads);
    const double *query = r->layer[layer].queries + (i * c->q_heads + q_head) * c->head_dim;
    double most = -INFINITY, sum = 0;
    for (int64_t p = 0; p < all; p++) {
        bool seen = sees(r, layer * c->kv_heads + kv_head, r->first + i, p);
        out[p] = -INFINITY;
        if (seen)
            out[p] = dot(query, key_at(r, layer, kv_head, p), c->head_dim) / sqrt((double)c->head_dim);
        most = fmax(most, out[p]);
    }
    for (int64_t p = 0; p < all; p++)
        sum += out[p] = exp(out[p] - most);
    for (int64_t p = 0; p < all; p++)
        out[p] /= sum;
}

/* ---- a pass ---- */

struct pass {
    struct kv_reference *r;
    int64_t tokens; /* n + n_patch */
    double *x;      /* (tokens, hidden) the stream that layers add to */
    float *cosine, *sine;
    double *normed, *heads, *gate, *up, *out; /* (hidden,), (Q D,), (intermediate,) twice, (hidden,) */
    double *weights;                          /* (first + tokens,) */
};

/* Queries, keys and values of one token. */
static void project(struct pass *p, int64_t l, int64_t i)
{
    struct kv_reference *r = p->r;
    const struct kv_config *c = &r->c;
    const struct layer *w = &r->layer[l];
    int64_t d = c->head_dim, q_size = c->q_heads * d, kv_size = c->kv_heads * d;
    double *q = w->queries + i * q_size, *k = w->keys + (r->first + i) * kv_size;
    rms_norm(w->attention_norm, p->x + i * c->hidden, c->hidden, c->rms_eps, p->normed);
    linear(w->q, w->q_bias, p->normed, c->hidden, q_size, q);
    linear(w->k, w->k_bias, p->normed, c->hidden, kv_size, k);
    linear(w->v, w->v_bias, p->normed, c->hidden, kv_size, w->values + (r->first + i) * kv_size);
    for (int64_t h = 0; h < c->q_heads + c->kv_heads; h++) {
        bool is_query = h < c->q_heads;
        double *head = is_query ? q + h * d : k + (h - c->q_heads) * d;
        if (c->qk_norm)
            rms_norm(is_query ? w->q_norm : w->k_norm, head, d, c->rms_eps, head);
        rotate(head, d, p->cosine + i * d / 2, p->sine + i * d / 2);
    }
}

/* What one token gathers from those it sees. */
static void attend(struct pass *p, int64_t l, int64_t i)
{
    struct kv_reference *r = p->r;
    const struct kv_config *c = &r->c;
    int64_t d = c->head_dim, group = c->q_heads / c->kv_heads;
    memset(p->heads, 0, (size_t)(c->q_heads * d) * sizeof *p->heads);
    for (int64_t h = 0; h < c->q_heads; h++) {
        weigh(r, l, h, i, p->weights);
        for (int64_t at = 0; at < r->first + p->tokens; at++)
            for (int64_t j = 0; p->weights[at] > 0 && j < d; j++)
                p->heads[h * d + j] += p->weights[at] * value_at(r, l, h / group, at)[j];
    }
    linear(r->layer[l].o, r->layer[l].o_bias, p->heads, c->q_heads * d, c->hidden, p->out);
    for (int64_t j = 0; j < c->hidden; j++)
        p->x[i * c->hidden + j] += p->out[j];
}

/* SwiGLU. */
static void feed_forward(struct pass *p, int64_t l, int64_t i)
{
    const struct kv_config *c = &p->r->c;
    const struct layer *w = &p->r->layer[l];
    rms_norm(w->mlp_norm, p->x + i * c->hidden, c->hidden, c->rms_eps, p->normed);
    linear(w->gate, w->gate_bias, p->normed, c->hidden, c->intermediate, p->gate);
    linear(w->up, w->up_bias, p->normed, c->hidden, c->intermediate, p->up);
    for (int64_t j = 0; j < c->intermediate; j++)
        p->gate[j] = silu(p->gate[j]) * p->up[j];
    linear(w->down, w->down_bias, p->gate, c->intermediate, c->hidden, p->out);
    for (int64_t j = 0; j < c->hidden; j++)
        p->x[i * c->hidden + j] += p->out[j];
}

static void forward(struct pass *p, const int32_t *tokens, double *logits, int64_t n_logits)
{
    struct kv_reference *r = p->r;
    const struct kv_config *c = &r->c;
    for (int64_t i = 0; i < p->tokens; i++)
        memcpy(p->x + i * c->hidden, r->embedding + tokens[i] * c->hidden, (size_t)c->hidden * sizeof *p->x);
    for (int64_t l = 0; l < c->layers; l++) {
        for (int64_t i = 0; i < p->tokens; i++)
            project(p, l, i);
        for (int64_t i = 0; i < p->tokens; i++) {
            attend(p, l, i);
            feed_forward(p, l, i);
        }
    }
    for (int64_t i = 0; logits && i < n_logits; i++) {
        rms_norm(r->norm, p->x + (r->n - n_logits + i) * c->hidden, c->hidden, c->rms_eps, p->normed);
        linear(r->head, NULL, p->normed, c->hidden, c->vocab, logits + i * c->vocab);
    }
}

/* Room for keys and values of `positions` positions; at least doubled, as passes may be of one token. */
static bool make_room(struct kv_reference *r, int64_t positions, struct kv_err *e)
{
    int64_t room = positions > 2 * r->room ? positions : 2 * r->room;
    size_t bytes = (size_t)(r->c.kv_heads * r->c.head_dim) * sizeof(double);
    if (positions <= r->room)
        return true;
    for (int64_t l = 0; l < r->c.layers; l++) {
        double **kinds[] = {&r->layer[l].keys, &r->layer[l].values};
        for (int i = 0; i < 2; i++) {
            double *more = reallocarray(*kinds[i], (size_t)room, bytes);
            if (!more)
                return kv_fail(e, KV_ENV, "no memory for keys and values of %lld positions", (long long)room);
            *kinds[i] = more;
        }
    }
    r->room = room;
    return true;
}

static void *get_memory(struct kv_reference *r, int64_t n, int64_t each, size_t size, struct kv_err *e)
{
    size_t items;
    if (!__builtin_mul_overflow((size_t)n, (size_t)each, &items))
        return kv_alloc_many(r->pass, items, size, "a pass", e);
    kv_say(e, KV_ENV, "no memory for a pass of %lld tokens", (long long)n);
    return NULL;
}

static bool get_memories(struct pass *p, struct kv_err *e)
{
    struct kv_reference *r = p->r;
    const struct kv_config *c = &r->c;
    int before = e->n;
    p->x = get_memory(r, p->tokens, c->hidden, sizeof *p->x, e);
    p->cosine = get_memory(r, p->tokens, c->head_dim / 2, sizeof *p->cosine, e);
    p->sine = get_memory(r, p->tokens, c->head_dim / 2, sizeof *p->sine, e);
    p->normed = get_memory(r, 1, c->hidden, sizeof *p->normed, e);
    p->heads = get_memory(r, c->q_heads, c->head_dim, sizeof *p->heads, e);
    p->gate = get_memory(r, 1, c->intermediate, sizeof *p->gate, e);
    p->up = get_memory(r, 1, c->intermediate, sizeof *p->up, e);
    p->out = get_memory(r, 1, c->hidden, sizeof *p->out, e);
    p->weights = get_memory(r, 1, r->first + p->tokens, sizeof *p->weights, e);
    for (int64_t l = 0; l < c->layers; l++)
        r->layer[l].queries = get_memory(r, p->tokens, c->q_heads * c->head_dim, sizeof(double), e);
    return e->n == before;
}

static bool copy_held(struct kv_reference *r, const uint8_t *held, struct kv_err *e)
{
    int64_t lanes = r->c.layers * r->c.kv_heads;
    if (!held || !r->first)
        return true;
    uint8_t *copy = get_memory(r, r->first, lanes, 1, e);
    if (copy)
        memcpy(copy, held, (size_t)(r->first * lanes));
    r->held = copy;
    return copy != NULL;
}

static bool check_tokens(const struct kv_reference *r, const int32_t *tokens, int64_t n, struct kv_err *e)
{
    for (int64_t i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= r->c.vocab)
            return kv_fail(e, KV_DATA, "token %d is not in the vocabulary of %lld", tokens[i], (long long)r->c.vocab);
    return true;
}

bool kv_reference_pass(struct kv_reference *r, const int32_t *tokens, int64_t n, int64_t n_patch, const uint8_t *held,
                       double *logits, int64_t n_logits, struct kv_err *e)
{
    struct pass p = {.r = r, .tokens = n + n_patch};
    KV_ASSERT(n >= 0 && n_patch >= 0 && p.tokens > 0 && n_logits >= 0 && n_logits <= n);
    forget_pass(r);
    if (!check_tokens(r, tokens, p.tokens, e))
        return false;
    r->pass = kv_arena_open();
    if (!make_room(r, r->seen + p.tokens, e) || !get_memories(&p, e) || !copy_held(r, held, e)) {
        forget_pass(r);
        return false;
    }
    r->n = n;
    r->n_patch = n_patch;
    kv_config_rope(&r->c, r->first, p.tokens, p.cosine, p.sine);
    forward(&p, tokens, logits, n_logits);
    r->seen += n;
    return true;
}

/* ---- what a pass left ---- */

void kv_reference_attention(const struct kv_reference *r, int64_t layer, int64_t q_head, int64_t i, double *out)
{
    KV_ASSERT(layer >= 0 && layer < r->c.layers && q_head >= 0 && q_head < r->c.q_heads);
    KV_ASSERT(i >= 0 && i < r->n + r->n_patch);
    weigh(r, layer, q_head, i, out);
}

const double *kv_reference_key(const struct kv_reference *r, int64_t layer, int64_t kv_head, int64_t position)
{
    KV_ASSERT(layer >= 0 && layer < r->c.layers && kv_head >= 0 && kv_head < r->c.kv_heads && position >= 0 &&
              position < r->seen);
    return key_at(r, layer, kv_head, position);
}

const double *kv_reference_value(const struct kv_reference *r, int64_t layer, int64_t kv_head, int64_t position)
{
    KV_ASSERT(layer >= 0 && layer < r->c.layers && kv_head >= 0 && kv_head < r->c.kv_heads && position >= 0 &&
              position < r->seen);
    return value_at(r, layer, kv_head, position);
}
