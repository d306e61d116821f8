/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Random models, a backend over them, and the truth about one sequence: kv_reference with what each lane holds, and
 * every number that a backend is asked for, in doubles, from the reference's own attention. */
#ifndef KV_ENGINE_MODEL_H
#define KV_ENGINE_MODEL_H

#include "engine/live.h"
#include "engine/reference.h"
#include "sim/core/produce.h"
#include "sim/core/random.h"
#include "sim/core/select.h"
#include "tests/unit/fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* Distances allowed from the reference in doubles: of the largest logit, or of 1; of each score, and SCORE_NOISE for
 * each query; of the largest key or value. With KV_TESTED_CUDA the CUDA backend is tested, which computes in bf16:
 * eight bits of each activation; and of entries eight, eleven, or in fp8 four. */
#ifdef KV_TESTED_CUDA
#define TESTED      kv_backend_cuda
#define TYPE(type)  ((void)(type), KV_TENSOR_BF16)
#define NARROW(f)   ((f)->dtype == KV_FP8)
#define LOGIT_GATE  (NARROW(f) ? 0.35 : 0.2)
#define SCORE_GATE  (NARROW(f) ? 0.6 : 0.25)
#define SCORE_NOISE (NARROW(f) ? 8e-2 : 2e-2)
#define KEY_GATE    (NARROW(f) ? 0.12 : 6e-2)
#ifdef KV_ON_DEVICE
enum { TYPES = 1, FIRST_SHAPE = 0, NEXT_SHAPE = 1, FIRST_CHUNK = 0 };
#else /* an emulated one is slow */
enum { TYPES = 1, FIRST_SHAPE = 1, NEXT_SHAPE = 2, FIRST_CHUNK = 1 };
#endif
#else
#define TESTED      kv_backend_cpu
#define TYPE(type)  type
#define LOGIT_GATE  2e-4
#define SCORE_GATE  1e-4
#define SCORE_NOISE 1e-6
#define KEY_GATE    2e-5
enum { TYPES = 3, FIRST_SHAPE = 0, NEXT_SHAPE = 1, FIRST_CHUNK = 0 };
#endif

struct fixture {
    struct kv_arena *a;
    struct kv_err e;
    char *folder; /* of a random model, and other files */
    struct kv_weights w;
    struct kv_backend *b;
    enum kv_dtype dtype; /* of entries */
};

/* The state a test begins with: the type of entries; NULL: the backend's first. */
static inline int engine_set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->a = kv_arena_open();
    f->dtype = *state ? *(const enum kv_dtype *)*state : TESTED.dtype[0];
    f->folder = make_folder("engine", f->a);
    *state = f;
    return 0;
}

static inline void close_backend(struct fixture *f)
{
    if (f->b)
        f->b->ops->close(f->b);
    f->b = NULL;
}

static inline int engine_tear_down(void **state)
{
    struct fixture *f = *state;
    close_backend(f);
    kv_weights_close(&f->w);
    unlink(kv_format(f->a, "%s/config.json", f->folder));
    unlink(kv_format(f->a, "%s/model.safetensors", f->folder));
    rmdir(f->folder);
    kv_arena_close(f->a);
    free(f);
    return 0;
}

#define LLAMA "LlamaForCausalLM"

/* What the shape leaves open is filled in. Weights are wide enough for attention to have peaks. */
static inline void open_model(struct fixture *f, const struct kv_config *shape, enum kv_tensor_type type, uint64_t seed)
{
    struct kv_config c = *shape;
    c.name = "r";
    c.intermediate = c.intermediate ? c.intermediate : 50;
    c.vocab = c.vocab ? c.vocab : 61;
    c.max_positions = 1 << 20;
    c.rms_eps = 1e-5;
    c.rope_theta = 10000;
    c.bos = -1;
    close_backend(f);
    kv_weights_close(&f->w);
    MUST(kv_weights_random(f->folder, &c, TYPE(type), seed, 1.2 / sqrt((double)c.hidden), f->a, &f->e));
    MUST(kv_weights_open(&f->w, f->folder, NULL, f->a, &f->e));
}

/* The shipped model; the test is skipped where it is not there. */
static inline void open_recall(struct fixture *f)
{
    const char *folder = "models/recall-870k";
    close_backend(f);
    kv_weights_close(&f->w);
    if (access(kv_format(f->a, "%s/config.json", folder), R_OK)) {
        print_message("# no %s here: run from the repository's root\n", folder);
        skip();
    }
    MUST(kv_weights_open(&f->w, folder, NULL, f->a, &f->e));
}

static inline void open_backend(struct fixture *f, int64_t page, int64_t pool_bytes, int threads)
{
    struct kv_backend_asked asked = {.dtype = f->dtype, .page = page, .pool_bytes = pool_bytes, .threads = threads};
    close_backend(f);
    MUST(TESTED.open(&f->b, &f->w, &asked, &f->e));
}

static inline int32_t *draw_tokens(struct fixture *f, int64_t n, uint64_t seed)
{
    int32_t *token = KV_NEW_N(f->a, int32_t, n + 1);
    for (int64_t i = 0; i < n; i++)
        token[i] = (int32_t)(kv_random(seed, kv_purpose("tokens"), 0, (uint64_t)i) % (uint64_t)f->w.config.vocab);
    return token;
}

/* ---- the truth ---- */

struct truth {
    struct kv_weights w; /* with as many KV heads as a layer has lanes */
    struct kv_reference *r;
    struct kv_err e;
    int64_t layers, q_heads, heads, group, d, vocab, room;
    int64_t begin, end, n_new, n_patch; /* of the last pass */
    uint8_t *held;                      /* (lanes, room) what the lane holds, tokens of the last pass included */
    uint8_t *mask;
    double *past; /* (layers, q heads, room, room) attention of each token's query when it was read */
    double *logits;
    int64_t *at; /* (room,) work */
    double *row;
};

/* Rows of the heads h / per for each of the new heads. */
static inline void expand_rows(struct kv_arena *a, struct kv_tensor *t, int64_t heads, int64_t per, int64_t d,
                               bool vector)
{
    int64_t width = vector ? d : d * t->columns;
    float *old = KV_NEW_N(a, float, heads *width), *new = KV_NEW_N(a, float, heads *per *width);
    kv_tensor_read(t, 0, heads * width, old);
    for (int64_t h = 0; h < heads * per; h++)
        memcpy(new + h *width, old + h / per * width, sizeof *new *(size_t)width);
    t->type = KV_TENSOR_F32;
    t->data = new;
    if (vector)
        t->columns *= per;
    else
        t->rows *= per;
}

static inline const struct kv_tensor *expand_bias(struct kv_arena *a, const struct kv_tensor *bias, int64_t heads,
                                                  int64_t per, int64_t d)
{
    if (!bias)
        return NULL;
    struct kv_tensor *t = KV_NEW(a, struct kv_tensor);
    *t = *bias;
    expand_rows(a, t, heads, per, d, true);
    return t;
}

/* The same model whose KV heads are repeated, one for each query head: what a store of query heads computes. */
static inline struct kv_weights expand_weights(struct kv_arena *a, const struct kv_weights *from)
{
    struct kv_weights w = *from;
    int64_t heads = w.config.kv_heads, per = w.config.q_heads / heads, d = w.config.head_dim;
    w.layer = KV_NEW_N(a, struct kv_layer_weights, w.config.layers);
    for (int64_t l = 0; l < w.config.layers; l++) {
        w.layer[l] = from->layer[l];
        expand_rows(a, &w.layer[l].k, heads, per, d, false);
        expand_rows(a, &w.layer[l].v, heads, per, d, false);
        w.layer[l].k_bias = expand_bias(a, w.layer[l].k_bias, heads, per, d);
        w.layer[l].v_bias = expand_bias(a, w.layer[l].v_bias, heads, per, d);
    }
    w.config.kv_heads = w.config.q_heads;
    return w;
}

static inline struct truth *open_truth(struct fixture *f, int64_t heads, int64_t room)
{
    struct truth *t = KV_NEW(f->a, struct truth);
    const struct kv_config *c = &f->w.config;
    t->w = heads == c->kv_heads ? f->w : expand_weights(f->a, &f->w);
    t->layers = c->layers;
    t->q_heads = c->q_heads;
    t->heads = heads;
    t->group = c->q_heads / heads;
    t->d = c->head_dim;
    t->vocab = c->vocab;
    t->room = room;
    t->held = calloc((size_t)(t->layers * heads * room), 1);
    t->mask = calloc((size_t)(t->layers * heads * room), 1);
    t->past = calloc((size_t)(t->layers * t->q_heads * room * room), sizeof(double));
    t->logits = calloc((size_t)(room * t->vocab), sizeof(double));
    t->at = calloc((size_t)room, sizeof *t->at);
    t->row = calloc((size_t)room, sizeof *t->row);
    MUST(kv_reference_open(&t->r, &t->w, &f->e));
    return t;
}

static inline void close_truth(struct truth *t)
{
    kv_reference_close(t->r);
    free(t->held);
    free(t->mask);
    free(t->past);
    free(t->logits);
    free(t->at);
    free(t->row);
}

static inline uint8_t *truth_held(const struct truth *t, int64_t layer, int64_t head)
{
    return t->held + (layer * t->heads + head) * t->room;
}

/* A pass with what the lanes hold; logits of all n tokens. */
static inline void truth_pass(struct truth *t, const int32_t *token, int64_t n, int64_t n_patch)
{
    int64_t lanes = t->layers * t->heads;
    t->begin = t->end;
    t->end += n;
    t->n_new = n;
    t->n_patch = n_patch;
    if (t->end + n_patch > t->room)
        fail_msg("the truth has room for %d tokens only", (int)t->room);
    for (int64_t i = 0; i < lanes; i++)
        memcpy(t->mask + i * t->begin, t->held + i * t->room, (size_t)t->begin);
    if (!kv_reference_pass(t->r, token, n, n_patch, t->mask, t->logits, n, &t->e))
        fail_msg("reference: %s", t->e.text);
    for (int64_t i = 0; i < lanes; i++)
        memset(t->held + i * t->room + t->begin, 1, (size_t)n);
    for (int64_t h = 0; h < t->layers * t->q_heads; h++)
        for (int64_t i = 0; i < n; i++) {
            kv_reference_attention(t->r, h / t->q_heads, h % t->q_heads, i, t->row);
            memcpy(t->past + (h * t->room + t->begin + i) * t->room, t->row, sizeof(double) * (size_t)t->end);
        }
}

/* Entries of a lane: positions that it holds, then the patch as positions behind the end. */
static inline int64_t truth_entries(const struct truth *t, int64_t layer, int64_t head)
{
    int64_t n = 0;
    for (int64_t i = 0; i < t->end; i++)
        if (truth_held(t, layer, head)[i])
            t->at[n++] = i;
    for (int64_t i = 0; i < t->n_patch; i++)
        t->at[n++] = t->end + i;
    return n;
}

/* Attention of the query that is `back` from the newest (1), the patch's included, to t->row. */
static inline void truth_query(const struct truth *t, int64_t layer, int64_t q_head, int64_t back)
{
    int64_t i = t->n_new + t->n_patch - back;
    memset(t->row, 0, sizeof *t->row * (size_t)(t->end + t->n_patch));
    if (i >= t->n_new)
        kv_reference_attention(t->r, layer, q_head, i, t->row);
    else
        memcpy(t->row, t->past + ((layer * t->q_heads + q_head) * t->room + t->begin + i) * t->room,
               sizeof *t->row * (size_t)(t->begin + i + 1));
}

/* A channel of attention of one query head over its lane's entries from *from on; how many they are. What the lane has
 * lost since a query was read is no part of its softmax any more. */
static inline int64_t truth_attention(const struct truth *t, int64_t layer, int64_t q_head, enum kv_channel what,
                                      int64_t window, int64_t unit, double *out)
{
    int64_t n = truth_entries(t, layer, q_head / t->group), from = 0, newest = 1, queries = window;
    if (what == KV_WINDOW_LOCAL) {
        from = n - t->n_patch - unit;
        queries = window < n - from ? window : n - from;
    } else if (what != KV_WINDOW_SEEN) {
        newest = t->n_patch + 1;
        queries = what == KV_LAST_ROW ? 1 : t->n_new;
    } else if (queries > t->end + t->n_patch) {
        queries = t->end + t->n_patch;
    }
    memset(out, 0, sizeof *out * (size_t)(n - from));
    for (int64_t back = newest; back < newest + queries; back++) {
        double sum = 0;
        truth_query(t, layer, q_head, back);
        for (int64_t i = from; i < n; i++)
            sum += t->row[t->at[i]];
        for (int64_t i = from; i < n && sum > 0; i++)
            out[i - from] += t->row[t->at[i]] / sum;
    }
    return n - from;
}

/* Keys and values of the lane's entries [first, n), without the patch, as f32. */
static inline int64_t truth_keys(const struct truth *t, int64_t layer, int64_t head, int64_t first, float *key,
                                 float *value)
{
    int64_t n = truth_entries(t, layer, head) - t->n_patch;
    for (int64_t i = first; i < n; i++)
        for (int64_t j = 0; j < t->d; j++) {
            key[(i - first) * t->d + j] = (float)kv_reference_key(t->r, layer, head, t->at[i])[j];
            value[(i - first) * t->d + j] = (float)kv_reference_value(t->r, layer, head, t->at[i])[j];
        }
    return n - first;
}

/* One row of a channel as a cache wants it: attention of a query head, or what keys and values give. */
static inline int64_t truth_channel(const struct truth *t, int64_t layer, int64_t q_head, enum kv_channel what,
                                    int64_t window, int64_t unit, double *out)
{
    if (kv_channels[what].attention)
        return truth_attention(t, layer, q_head, what, window, unit, out);
    int64_t head = q_head / t->group, all = truth_entries(t, layer, head) - t->n_patch;
    int64_t first = what == KV_KEY_NORM || what == KV_VALUE_NORM ? all - t->n_new : 0, n = all - first;
    float *key = malloc(sizeof *key * (size_t)(2 * n * t->d + n + 1)), *value = key + n * t->d,
          *made = value + n * t->d;
    double *work = malloc(sizeof *work * (size_t)(256 + 4 * t->d));
    truth_keys(t, layer, head, first, key, value);
    if (what == KV_KEY_COSINE)
        kv_make_cosines(key, n, t->d, work, made);
    else if (what == KV_LAG)
        kv_make_lag(key, value, n, t->d, 4, 128, work, made);
    else
        kv_make_norms(what == KV_KEY_NORM ? key : value, n, t->d, made);
    for (int64_t i = 0; i < n; i++)
        out[i] = (double)made[i];
    free(key);
    free(work);
    return n;
}

/* ---- comparing ---- */

static inline double logit_distance(const float *logits, const double *expected, int64_t n)
{
    double most = 0, size = 1;
    for (int64_t i = 0; i < n; i++) {
        size = fmax(size, fabs(expected[i]));
        most = fmax(most, isfinite(logits[i]) ? fabs((double)logits[i] - expected[i]) : INFINITY);
    }
    return most / size;
}

static inline void check_logits(const struct fixture *f, const char *what, const float *logits, const double *expected,
                                int64_t n, double *worst)
{
    (void)f;
    double d = logit_distance(logits, expected, n);
    *worst = fmax(*worst, d);
    if (d > LOGIT_GATE)
        fail_msg("%s: logits are %.2e from the reference's, %.0e are allowed", what, d, LOGIT_GATE);
}

/* `queries`: that were summed, at most. */
static inline void check_scores(const struct fixture *f, const char *what, const char *channel, int64_t layer,
                                int64_t head, const float *got, const double *expected, int64_t n, double queries)
{
    (void)f;
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - expected[i]) <= SCORE_GATE * fabs(expected[i]) + SCORE_NOISE * queries))
            fail_msg("%s: %s of layer %d, head %d, entry %d of %d: %.9g, expected %.9g", what, channel, (int)layer,
                     (int)head, (int)i, (int)n, (double)got[i], expected[i]);
}

/* Keys and values of the whole lane, asked from the backend within its hook. */
static inline void check_entries(const struct fixture *f, const char *what, int part, const struct truth *t,
                                 int64_t layer, int64_t head)
{
    int64_t n = truth_entries(t, layer, head) - t->n_patch, d = t->d;
    float *got = malloc(sizeof *got * (size_t)(4 * n * d)), *key = got + 2 * n * d, *value = key + n * d;
    double size = 1;
    truth_keys(t, layer, head, 0, key, value);
    f->b->ops->entries(f->b, part, layer, head, 0, n, got, got + n * d);
    for (int64_t i = 0; i < 2 * n * d; i++)
        size = fmax(size, fabs((double)key[i]));
    for (int64_t i = 0; i < 2 * n * d; i++)
        if (!(fabs((double)got[i] - (double)key[i]) <= KEY_GATE * size))
            fail_msg("%s: %s of layer %d, head %d, entry %d (position %d), element %d: %.9g, expected %.9g", what,
                     i < n * d ? "key" : "value", (int)layer, (int)head, (int)(i / d % n), (int)t->at[i / d % n],
                     (int)(i % d), (double)got[i], (double)key[i]);
    free(got);
}

#endif
