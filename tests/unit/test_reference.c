/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The double precision model: against recorded outputs of other programs, where those lie beside the project, and
 * against itself on random models: passes in pieces, evicted positions, patches. */
#include "engine/reference.h"
#include "sim/core/random.h"
#include "tests/unit/fixture.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* The tolerances of golden/README.md; faults must exceed that of logits. */
#define LOGIT_GATE  2e-4
#define COLUMN_GATE 2e-4
#define WINDOW_GATE 1e-4

struct fixture {
    struct kv_arena *a;
    struct kv_err e;
    char *folder; /* of random models */
    struct kv_weights w;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->a = kv_arena_open();
    f->folder = make_folder("reference", f->a);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    kv_weights_close(&f->w);
    unlink(kv_format(f->a, "%s/config.json", f->folder));
    unlink(kv_format(f->a, "%s/model.safetensors", f->folder));
    rmdir(f->folder);
    kv_arena_close(f->a);
    free(f);
    return 0;
}

static struct kv_reference *open_reference(struct fixture *f, const struct kv_weights *w)
{
    struct kv_reference *r;
    MUST(kv_reference_open(&r, w, &f->e));
    return r;
}

/* ---- recorded outputs ---- */

/* FOLDER of a model beside the project; NULL, and said so, where it is not there. */
static const char *find_model(struct fixture *f, const char *name)
{
    const char *models = getenv("MODELS");
    const char *folder = kv_format(f->a, "%s/%s", models ? models : "../shared/models", name);
    if (access(kv_format(f->a, "%s/config.json", folder), R_OK) == 0)
        return folder;
    print_message("# no %s: recorded outputs are not beside the project; MODELS says where they are\n", folder);
    return NULL;
}

static const char *need_model(struct fixture *f, const char *name)
{
    const char *folder = find_model(f, name);
    if (!folder)
        skip();
    MUST(kv_weights_open(&f->w, folder, NULL, f->a, &f->e));
    return folder;
}

static float *read_floats(struct fixture *f, const char *path, size_t n)
{
    float *x = KV_NEW_N(f->a, float, n);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fread(x, sizeof *x, n, file), n);
    fclose(file);
    return x;
}

static int32_t *read_ids(struct fixture *f, const json_t *list, int64_t *n)
{
    *n = (int64_t)json_array_size(list);
    int32_t *id = KV_NEW_N(f->a, int32_t, *n);
    for (size_t i = 0; i < (size_t)*n; i++)
        id[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return id;
}

static int64_t best(const double *logits, int64_t n)
{
    int64_t at = 0;
    for (int64_t i = 1; i < n; i++)
        if (logits[i] > logits[at])
            at = i;
    return at;
}

static double farthest(const double *x, const float *y, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++)
        most = fmax(most, fabs(x[i] - (double)y[i]));
    return most;
}

/* A prompt of stories260k/golden. */
struct story {
    const char *base; /* of the file names */
    int32_t *tokens;  /* the prompt, then what follows it */
    int64_t prompt, all;
};

struct distance {
    double logits, columns, window;
    int wrong; /* greedy tokens */
};

static struct story read_story(struct fixture *f, const char *folder, const char *name)
{
    struct story s = {.base = kv_format(f->a, "%s/golden/%s", folder, name)};
    json_error_t mistake;
    json_t *root = json_load_file(kv_format(f->a, "%s.json", s.base), 0, &mistake);
    int64_t more;
    assert_non_null(root);
    int32_t *first = read_ids(f, json_object_get(root, "prompt_ids"), &s.prompt);
    int32_t *rest = read_ids(f, json_object_get(root, "greedy_ids"), &more);
    s.all = s.prompt + more;
    s.tokens = KV_NEW_N(f->a, int32_t, s.all);
    memcpy(s.tokens, first, (size_t)s.prompt * sizeof *first);
    memcpy(s.tokens + s.prompt, rest, (size_t)more * sizeof *rest);
    json_decref(root);
    return s;
}

/* Column sums of the prompt's attention, (layers, query heads, prompt), over the queries from `from` on. */
static double *sum_columns(struct fixture *f, const struct kv_reference *r, const struct story *s, int64_t from)
{
    const struct kv_config *c = &f->w.config;
    double *sum = KV_NEW_N(f->a, double, c->layers * c->q_heads * s->prompt), *row = KV_NEW_N(f->a, double, s->all);
    for (int64_t lane = 0; lane < c->layers * c->q_heads; lane++)
        for (int64_t i = from; i < s->prompt; i++) {
            kv_reference_attention(r, lane / c->q_heads, lane % c->q_heads, i, row);
            for (int64_t p = 0; p < s->prompt; p++)
                sum[lane * s->prompt + p] += row[p];
        }
    return sum;
}

static void compare_attention(struct fixture *f, const struct kv_reference *r, const struct story *s,
                              struct distance *d)
{
    int64_t n = f->w.config.layers * f->w.config.q_heads * s->prompt;
    if (s->prompt < 33)
        return;
    const float *columns = read_floats(f, kv_format(f->a, "%s.att_colsum.f32", s->base), (size_t)n);
    const float *window = read_floats(f, kv_format(f->a, "%s.att_win32.f32", s->base), (size_t)n);
    d->columns = farthest(sum_columns(f, r, s, 0), columns, n);
    d->window = farthest(sum_columns(f, r, s, s->prompt - 32), window, n);
}

/* The recorded tokens are fed; each but the prompt's must be the one with the highest logit before it: so these are the
 * tokens that greedy decoding makes. `step`: tokens of a pass behind the prompt's. */
static struct distance compare_story(struct fixture *f, const struct kv_weights *w, const struct story *s, int64_t step)
{
    struct kv_reference *r = open_reference(f, w);
    int64_t vocab = w->config.vocab, fed = s->all - 1;
    struct distance d = {0};
    double *logits = KV_NEW_N(f->a, double, fed *vocab);
    MUST(kv_reference_pass(r, s->tokens, s->prompt, 0, NULL, logits, s->prompt, &f->e));
    compare_attention(f, r, s, &d);
    for (int64_t at = s->prompt; at < fed; at += step) {
        int64_t n = fed - at < step ? fed - at : step;
        MUST(kv_reference_pass(r, s->tokens + at, n, 0, NULL, logits + at * vocab, n, &f->e));
    }
    for (int64_t at = s->prompt; at < s->all; at++)
        d.wrong += best(logits + (at - 1) * vocab, vocab) != s->tokens[at];
    const float *first = read_floats(f, kv_format(f->a, "%s.logits_first8.f32", s->base), (size_t)(8 * vocab));
    const float *last = read_floats(f, kv_format(f->a, "%s.logits_last8.f32", s->base), (size_t)(8 * vocab));
    d.logits = fmax(farthest(logits, first, 8 * vocab), farthest(logits + (fed - 8) * vocab, last, 8 * vocab));
    kv_reference_close(r);
    return d;
}

static void stories_are_those_of_llama2_c(void **state)
{
    static const char *const names[] = {"p0_bos", "p1_once", "p2_zara", "p3_bytes", "p4_long"};
    struct fixture *f = *state;
    const char *folder = need_model(f, "stories260k");
    for (int i = 0; i < 5; i++) {
        struct story s = read_story(f, folder, names[i]);
        struct distance d = compare_story(f, &f->w, &s, i == 4 ? 50 : 1);
        print_message("# %s: logits %.1e, column sums %.1e, window sums %.1e, %d tokens wrong\n", names[i], d.logits,
                      d.columns, d.window, d.wrong);
        assert_int_equal(d.wrong, 0);
        assert_true(d.logits <= LOGIT_GATE && d.columns <= COLUMN_GATE && d.window <= WINDOW_GATE);
    }
}

/* ---- faults that the gate must catch ---- */

/* A copy of a tensor whose row i is row from[i] of it (rows) or whose column i is its column from[i]. */
static void permute(struct fixture *f, struct kv_tensor *t, const int64_t *from, bool rows)
{
    int64_t all = t->rows * t->columns;
    float *old = KV_NEW_N(f->a, float, all), *new = KV_NEW_N(f->a, float, all);
    kv_tensor_read(t, 0, all, old);
    for (int64_t i = 0; i < all; i++) {
        int64_t row = i / t->columns, column = i % t->columns;
        new[i] = rows ? old[from[row] * t->columns + column] : old[row * t->columns + from[column]];
    }
    t->data = new;
    t->type = KV_TENSOR_F32;
}

static struct kv_weights copy_weights(struct fixture *f)
{
    struct kv_weights w = f->w;
    w.layer = KV_NEW_N(f->a, struct kv_layer_weights, w.config.layers);
    memcpy(w.layer, f->w.layer, (size_t)w.config.layers * sizeof *w.layer);
    return w;
}

/* As a program that turns element 2i with 2i + 1 computes it. */
static struct kv_weights with_wrong_pairs(struct fixture *f)
{
    struct kv_weights w = copy_weights(f);
    int64_t d = w.config.head_dim, from[1024];
    for (int64_t i = 0; i < w.config.q_heads * d; i++)
        from[i] = i / d * d + (i % d < d / 2 ? i % d * 2 : (i % d - d / 2) * 2 + 1);
    for (int64_t l = 0; l < w.config.layers; l++) {
        permute(f, &w.layer[l].q, from, true);
        permute(f, &w.layer[l].k, from, true);
    }
    return w;
}

/* As a program whose query head h reads KV head h % H computes it. */
static struct kv_weights with_wrong_groups(struct fixture *f)
{
    struct kv_weights w = copy_weights(f);
    int64_t d = w.config.head_dim, h = w.config.kv_heads, group = w.config.q_heads / h, from[1024];
    for (int64_t i = 0; i < w.config.q_heads * d; i++) {
        int64_t head = i / d;
        from[i] = (head / group + head % group * h) * d + i % d;
    }
    for (int64_t l = 0; l < w.config.layers; l++) {
        permute(f, &w.layer[l].q, from, true);
        permute(f, &w.layer[l].o, from, false);
    }
    return w;
}

static void the_gate_catches_faults(void **state)
{
    struct fixture *f = *state;
    const char *folder = need_model(f, "stories260k");
    struct story s = read_story(f, folder, "p3_bytes");
    struct kv_weights eps = f->w, theta = f->w, pairs = with_wrong_pairs(f), groups = with_wrong_groups(f);
    eps.config.rms_eps = 1e-6;
    theta.config.rope_theta *= 1.001;
    const struct {
        const char *name;
        const struct kv_weights *w;
        double least;
    } faults[] = {
        {"eps 1e-6", &eps, LOGIT_GATE},
        {"theta + 0.1 %", &theta, LOGIT_GATE},
        {"rotary pairs", &pairs, 1},
        {"groups", &groups, 1},
    };
    for (int i = 0; i < 4; i++) {
        struct distance d = compare_story(f, faults[i].w, &s, 250);
        print_message("# %s: logits %.1e, %d tokens wrong\n", faults[i].name, d.logits, d.wrong);
        assert_true(d.logits > faults[i].least);
    }
}

/* ---- recall-870k ---- */

/* Returns the largest distance of the recorded three logits; *answered: the whole answer was made. */
static double compare_recall(struct fixture *f, const json_t *item, bool *answered)
{
    int64_t n, n_answer, vocab = f->w.config.vocab;
    int32_t *ids = read_ids(f, json_object_get(item, "ids"), &n);
    int32_t *answer = read_ids(f, json_object_get(item, "answer_ids"), &n_answer);
    const json_t *top = json_object_get(item, "last_top3_ids"), *value = json_object_get(item, "last_top3_logits");
    const json_t *highest = json_object_get(item, "argmax_ids");
    struct kv_reference *r = open_reference(f, &f->w);
    double *logits = KV_NEW_N(f->a, double, n *vocab), most = 0, *last = logits + (n - 1) * vocab;
    MUST(kv_reference_pass(r, ids, n, 0, NULL, logits, n, &f->e));
    for (int64_t i = 0; i < n; i++)
        assert_int_equal(best(logits + i * vocab, vocab), json_integer_value(json_array_get(highest, (size_t)i)));
    for (size_t i = 0; i < 3; i++)
        most = fmax(most,
                    fabs(last[json_integer_value(json_array_get(top, i))] - json_real_value(json_array_get(value, i))));
    *answered = true;
    for (int64_t i = 0; i < n_answer && *answered; i++) {
        int32_t made = (int32_t)best(last, vocab);
        *answered = made == answer[i];
        MUST(kv_reference_pass(r, &made, 1, 0, NULL, last, 1, &f->e));
    }
    kv_reference_close(r);
    return most;
}

static void recall_is_as_recorded(void **state)
{
    struct fixture *f = *state;
    const char *folder = "models/recall-870k"; /* ours, in the tree */
    MUST(kv_weights_open(&f->w, folder, NULL, f->a, &f->e));
    json_error_t mistake;
    json_t *root = json_load_file(kv_format(f->a, "%s/golden.json", folder), 0, &mistake), *item;
    size_t i;
    assert_non_null(root);
    json_array_foreach (root, i, item) {
        bool answered;
        const char *task = json_string_value(json_object_get(item, "task"));
        double most = compare_recall(f, item, &answered);
        print_message("# %s: logits %.1e, answer %s\n", task, most, answered ? "made" : "not made");
        assert_true(most <= LOGIT_GATE);
        assert_true(answered || !strcmp(task, "multi")); /* several values: the model is not trained well enough */
    }
    json_decref(root);
}

/* ---- random models ---- */

#define LLAMA "LlamaForCausalLM"
/* Name, architecture; layers, hidden, query heads, KV heads, head size */
static const struct kv_config shapes[] = {
    {"r", LLAMA, 2, 32, 4, 4, 8, .tied = true},
    {"r", LLAMA, 3, 64, 4, 2, 32, .rope = KV_ROPE_PLAIN},
    {"r", LLAMA, 2, 48, 8, 2, 16, .o_bias = true, .qkv_bias = true, .mlp_bias = true},
    {"r", LLAMA, 2, 64, 8, 1, 64, .rope = KV_ROPE_LLAMA3, .rope_factor = 8, .rope_low = 1, .rope_high = 4,
     .rope_original = 16, .tied = true},
    {"r", "Qwen3ForCausalLM", 2, 40, 2, 1, 128, .qk_norm = true},
    {"r", "Qwen2ForCausalLM", 2, 32, 4, 2, 8, .qkv_bias = true, .rope = KV_ROPE_LINEAR, .rope_factor = 4},
    {"r", "MistralForCausalLM", 3, 32, 4, 1, 10, .sliding_window = 5},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes, TOKENS = 30, VOCAB = 61 };

static void make_model(struct fixture *f, const struct kv_config *shape, enum kv_tensor_type type)
{
    struct kv_config c = *shape;
    c.intermediate = 50;
    c.vocab = VOCAB;
    c.max_positions = 128;
    c.rms_eps = 1e-5;
    c.rope_theta = 10000;
    c.bos = -1;
    kv_weights_close(&f->w);
    MUST(kv_weights_random(f->folder, &c, type, 7, 0.3, f->a, &f->e));
    MUST(kv_weights_open(&f->w, f->folder, NULL, f->a, &f->e));
}

static void draw_tokens(int32_t *token, int n)
{
    for (int i = 0; i < n; i++)
        token[i] = (int32_t)(kv_random(1, kv_purpose("tokens"), 0, (uint64_t)i) % VOCAB);
}

static void passes_in_pieces_are_one_pass(void **state)
{
    struct fixture *f = *state;
    int32_t token[TOKENS];
    double whole[TOKENS * VOCAB], pieces[TOKENS * VOCAB], attention[TOKENS], again[TOKENS];
    draw_tokens(token, TOKENS);
    for (int i = 0; i < N_SHAPES; i++) {
        make_model(f, &shapes[i], i % 2 ? KV_TENSOR_BF16 : KV_TENSOR_F32);
        struct kv_reference *r = open_reference(f, &f->w), *q = open_reference(f, &f->w);
        MUST(kv_reference_pass(r, token, TOKENS, 0, NULL, whole, TOKENS, &f->e));
        for (int at = 0, n = 1; at < TOKENS; at += n, n = n % 7 + 3) {
            n = n < TOKENS - at ? n : TOKENS - at;
            MUST(kv_reference_pass(q, token + at, n, 0, NULL, pieces + at * VOCAB, n, &f->e));
        }
        assert_memory_equal(whole, pieces, sizeof whole);
        const struct kv_config *c = &f->w.config;
        kv_reference_attention(r, c->layers - 1, c->q_heads - 1, TOKENS - 1, attention);
        MUST(kv_reference_pass(q, token, 1, 0, NULL, NULL, 0, &f->e));
        kv_reference_reset(q);
        MUST(kv_reference_pass(q, token, TOKENS - 1, 0, NULL, NULL, 0, &f->e));
        MUST(kv_reference_pass(q, token + TOKENS - 1, 1, 0, NULL, pieces, 1, &f->e));
        kv_reference_attention(q, c->layers - 1, c->q_heads - 1, 0, again);
        assert_memory_equal(attention, again, sizeof again);
        assert_memory_equal(pieces, whole + (TOKENS - 1) * VOCAB, VOCAB * sizeof *pieces);
        assert_memory_equal(kv_reference_key(r, c->layers - 1, 0, 3), kv_reference_key(q, c->layers - 1, 0, 3),
                            (size_t)c->head_dim * sizeof(double));
        kv_reference_close(r);
        kv_reference_close(q);
    }
}

/* Attention of one query is what the softmax over the held positions gives. */
static void check_lane(const double *full, const double *masked, const uint8_t *held, int seen, int n)
{
    double kept = 0;
    for (int p = 0; p < n; p++)
        kept += p >= seen || held[p] ? full[p] : 0;
    for (int p = 0; p < n; p++) {
        double expected = p >= seen || held[p] ? full[p] / kept : 0;
        if (fabs(masked[p] - expected) > 1e-12)
            fail_msg("position %d: %.17g, expected %.17g", p, masked[p], expected);
    }
}

/* In the first layer, whose queries do not depend on what was evicted, lane by lane. */
static void positions_not_held_are_not_seen(void **state)
{
    struct fixture *f = *state;
    enum { SEEN = 20 };
    int32_t token[TOKENS];
    double full[TOKENS], masked[TOKENS];
    draw_tokens(token, TOKENS);
    for (int i = 0; i < N_SHAPES; i++) {
        make_model(f, &shapes[i], KV_TENSOR_F32);
        const struct kv_config *c = &f->w.config;
        struct kv_reference *r = open_reference(f, &f->w), *q = open_reference(f, &f->w);
        uint8_t *held = KV_NEW_N(f->a, uint8_t, c->layers * c->kv_heads * SEEN);
        for (int64_t j = 0; j < c->layers * c->kv_heads * SEEN; j++)
            held[j] = kv_random(2, kv_purpose("held"), 0, (uint64_t)j) % 3 > 0;
        MUST(kv_reference_pass(r, token, SEEN, 0, NULL, NULL, 0, &f->e));
        MUST(kv_reference_pass(q, token, SEEN, 0, NULL, NULL, 0, &f->e));
        MUST(kv_reference_pass(r, token + SEEN, TOKENS - SEEN, 0, NULL, NULL, 0, &f->e));
        MUST(kv_reference_pass(q, token + SEEN, TOKENS - SEEN, 0, held, NULL, 0, &f->e));
        for (int64_t h = 0; h < c->q_heads; h++)
            for (int64_t at = 0; at < TOKENS - SEEN; at++) {
                kv_reference_attention(r, 0, h, at, full);
                kv_reference_attention(q, 0, h, at, masked);
                check_lane(full, masked, held + h / (c->q_heads / c->kv_heads) * SEEN, SEEN, TOKENS);
            }
        kv_reference_close(r);
        kv_reference_close(q);
    }
}

/* What is dropped from all lanes before anything saw it is as if it had never been read: rotary embedding is relative.
 * The angles' rounding to f32 makes a small difference. */
static void a_dropped_beginning_was_never_read(void **state)
{
    struct fixture *f = *state;
    enum { DROPPED = 6 };
    int32_t token[TOKENS];
    double with[VOCAB], without[VOCAB];
    static const uint8_t held[64 * DROPPED];
    draw_tokens(token, TOKENS);
    for (int i = 0; i < N_SHAPES; i++) {
        make_model(f, &shapes[i], KV_TENSOR_F32);
        struct kv_reference *r = open_reference(f, &f->w), *q = open_reference(f, &f->w);
        MUST(kv_reference_pass(r, token, DROPPED, 0, NULL, NULL, 0, &f->e));
        MUST(kv_reference_pass(r, token + DROPPED, TOKENS - DROPPED, 0, held, with, 1, &f->e));
        MUST(kv_reference_pass(q, token + DROPPED, TOKENS - DROPPED, 0, NULL, without, 1, &f->e));
        for (int j = 0; j < VOCAB; j++)
            assert_true(fabs(with[j] - without[j]) < 1e-4);
        kv_reference_close(r);
        kv_reference_close(q);
    }
}

/* Token by token, a window is an eviction of what has left it. */
static void a_window_is_an_eviction(void **state)
{
    struct fixture *f = *state;
    const struct kv_config *shape = &shapes[N_SHAPES - 1];
    int32_t token[TOKENS];
    double windowed[VOCAB], evicted[VOCAB];
    draw_tokens(token, TOKENS);
    make_model(f, shape, KV_TENSOR_F32);
    struct kv_weights no_window = f->w;
    no_window.config.sliding_window = 0;
    struct kv_reference *r = open_reference(f, &f->w), *q = open_reference(f, &no_window);
    for (int64_t at = 0; at < TOKENS; at++) {
        int64_t lanes = shape->layers * shape->kv_heads;
        uint8_t *held = KV_NEW_N(f->a, uint8_t, lanes * TOKENS);
        for (int64_t j = 0; j < lanes * at; j++)
            held[j] = at - j % at < shape->sliding_window;
        MUST(kv_reference_pass(r, token + at, 1, 0, NULL, windowed, 1, &f->e));
        MUST(kv_reference_pass(q, token + at, 1, 0, held, evicted, 1, &f->e));
        assert_memory_equal(windowed, evicted, sizeof windowed);
    }
    kv_reference_close(r);
    kv_reference_close(q);
}

/* A patch attends as tokens would, and leaves nothing. */
static void a_patch_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    enum { SEEN = 12, N = 5, PATCH = 4, ALL = SEEN + N + PATCH };
    int32_t token[TOKENS];
    double with[2 * VOCAB], without[2 * VOCAB], patch[ALL], tokens[ALL];
    draw_tokens(token, TOKENS);
    for (int i = 0; i < N_SHAPES; i++) {
        make_model(f, &shapes[i], KV_TENSOR_F32);
        const struct kv_config *c = &f->w.config;
        struct kv_reference *r = open_reference(f, &f->w), *q = open_reference(f, &f->w);
        MUST(kv_reference_pass(r, token, SEEN, 0, NULL, NULL, 0, &f->e));
        MUST(kv_reference_pass(q, token, SEEN, 3, NULL, NULL, 0, &f->e));
        MUST(kv_reference_pass(r, token + SEEN, N + PATCH, 0, NULL, NULL, 0, &f->e));
        MUST(kv_reference_pass(q, token + SEEN, N, PATCH, NULL, with, 2, &f->e));
        for (int64_t at = 0; at < N + PATCH; at++) {
            kv_reference_attention(r, c->layers - 1, 0, at, tokens);
            kv_reference_attention(q, c->layers - 1, 0, at, patch);
            assert_memory_equal(tokens, patch, sizeof patch);
        }
        kv_reference_reset(r);
        MUST(kv_reference_pass(r, token, SEEN + N, 0, NULL, without, 2, &f->e));
        assert_memory_equal(with, without, sizeof with);
        MUST(kv_reference_pass(r, token + ALL, 2, 0, NULL, without, 2, &f->e));
        MUST(kv_reference_pass(q, token + ALL, 2, 0, NULL, with, 2, &f->e));
        assert_memory_equal(with, without, sizeof with);
        kv_reference_close(r);
        kv_reference_close(q);
    }
}

static void a_token_outside_the_vocabulary_is_refused(void **state)
{
    struct fixture *f = *state;
    static const int32_t good[] = {3}, bad[] = {1, VOCAB}, negative[] = {-1};
    double before[VOCAB], after[VOCAB];
    make_model(f, &shapes[0], KV_TENSOR_F16);
    struct kv_reference *r = open_reference(f, &f->w);
    MUST(kv_reference_pass(r, good, 1, 0, NULL, before, 1, &f->e));
    assert_false(kv_reference_pass(r, bad, 1, 1, NULL, NULL, 0, &f->e));
    assert_false(kv_reference_pass(r, negative, 1, 0, NULL, NULL, 0, &f->e));
    assert_int_equal(f->e.status, KV_DATA);
    assert_string_equal(f->e.text, "token 61 is not in the vocabulary of 61\ntoken -1 is not in the vocabulary of 61");
    kv_reference_reset(r);
    MUST(kv_reference_pass(r, good, 1, 0, NULL, after, 1, &f->e));
    assert_memory_equal(before, after, sizeof before);
    kv_reference_close(r);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(stories_are_those_of_llama2_c),
        TEST(the_gate_catches_faults),
        TEST(recall_is_as_recorded),
        TEST(passes_in_pieces_are_one_pass),
        TEST(positions_not_held_are_not_seen),
        TEST(a_dropped_beginning_was_never_read),
        TEST(a_window_is_an_eviction),
        TEST(a_patch_leaves_nothing),
        TEST(a_token_outside_the_vocabulary_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
