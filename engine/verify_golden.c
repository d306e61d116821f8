/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Golden outputs of a model: NAME.json (prompt, prompt_ids, greedy_ids) and beside it NAME.logits_first8.f32,
 * NAME.logits_last8.f32, NAME.att_colsum.f32, NAME.att_win32.f32, where they are there. */
#include "engine/sample.h"
#include "engine/verify.h"

#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What a correct f32 engine stays within, for models of this size. */
static const double logit_gate = 2e-4, column_gate = 2e-4, window_gate = 1e-4;
enum { EDGE = 8, WINDOW = 32 };

struct golden {
    struct kv_host *host;
    const char *folder, *name;
    struct kv_arena *arena;
    int64_t n_prompt, n_greedy, n; /* n: tokens fed */
    int32_t *id;                   /* prompt and greedy */
    float *logits;                 /* (n, vocab) */
    float *column, *window;        /* (layers, q heads, n_prompt) of the prompt */
    int64_t stride;
};

static int32_t *read_ids(const json_t *array, int64_t *n, int64_t room, struct kv_arena *a)
{
    *n = (int64_t)json_array_size(array);
    int32_t *id = KV_NEW_N(a, int32_t, *n + room + 1);
    for (int64_t i = 0; i < *n; i++)
        id[i] = (int32_t)json_integer_value(json_array_get(array, (size_t)i));
    return id;
}

/* Column and window sums of the prompt, as its pass goes by. */
static bool take_sums(void *golden_, int64_t layer, struct kv_err *e)
{
    struct golden *g = golden_;
    const struct kv_config *c = &g->host->weights.config;
    int64_t group = c->q_heads / c->kv_heads, at = layer * c->q_heads * g->stride;
    struct kv_backend *b = g->host->backend;
    return b->ops->channel(b, 0, layer, KV_COLUMN_SUM, 0, 0, true, g->column + at, group * g->stride, g->stride, e) &&
           b->ops->channel(b, 0, layer, KV_WINDOW_SEEN, WINDOW, 0, true, g->window + at, group * g->stride, g->stride,
                           e);
}

static bool run_tokens(struct golden *g, struct kv_err *e)
{
    struct kv_backend *b = g->host->backend;
    int64_t vocab = g->host->weights.config.vocab;
    struct kv_seq seq = {.store_heads = g->host->weights.config.kv_heads, .window = WINDOW};
    if (!b->ops->seq_open(b, &seq, e))
        return false;
    struct kv_part part = {
        .seq = &seq, .token = g->id, .n_new = g->n_prompt, .n_logits = g->n_prompt, .logits = g->logits};
    bool good = b->ops->forward(b, &part, 1, take_sums, g, e);
    for (int64_t t = g->n_prompt; good && t < g->n; t++) {
        part = (struct kv_part){
            .seq = &seq, .token = g->id + t, .n_new = 1, .n_logits = 1, .logits = g->logits + t * vocab};
        good = b->ops->forward(b, &part, 1, NULL, NULL, e);
    }
    b->ops->seq_close(b, &seq);
    return good;
}

/* Largest difference from a file of f32; -1: there is none. */
static double compare_file(const struct golden *g, const char *what, const float *got, int64_t n)
{
    FILE *in = fopen(kv_format(g->arena, "%s/%s.%s.f32", g->folder, g->name, what), "rb");
    double most = 0;
    float want;
    if (!in)
        return -1;
    for (int64_t i = 0; i < n; i++)
        most = fread(&want, sizeof want, 1, in) == 1 ? fmax(most, fabs((double)want - (double)got[i])) : INFINITY;
    fclose(in);
    return most;
}

static void say(struct kv_tally *t, const struct golden *g, const char *what, double most, double gate)
{
    if (most < 0)
        return;
    bool good = most <= gate;
    t->passed += good;
    t->failed += !good;
    printf("%s %s %s: largest difference %.2g, gate %.2g\n", good ? "ok  " : "FAIL", g->name, what, most, gate);
}

static void say_equal(struct kv_tally *t, const struct golden *g, const char *what, int64_t different, int64_t n)
{
    t->passed += !different;
    t->failed += different != 0;
    printf("%s %s %s: %lld of %lld differ\n", different ? "FAIL" : "ok  ", g->name, what, (long long)different,
           (long long)n);
}

/* Rows are `stride` apart; those of the files are not. */
static float *packed(const struct golden *g, const float *rows)
{
    const struct kv_config *c = &g->host->weights.config;
    float *out = KV_NEW_N(g->arena, float, c->layers * c->q_heads * g->n_prompt);
    for (int64_t i = 0; i < c->layers * c->q_heads; i++)
        memcpy(out + i * g->n_prompt, rows + i * g->stride, sizeof *out * (size_t)g->n_prompt);
    return out;
}

static void compare(struct kv_tally *t, const struct golden *g)
{
    const struct kv_config *c = &g->host->weights.config;
    int64_t wrong = 0, first = g->n < EDGE ? g->n : EDGE, last = g->n < EDGE ? g->n : EDGE;
    for (int64_t i = 0; i < g->n_greedy; i++) {
        const float *row = g->logits + (g->n_prompt - 1 + i) * c->vocab;
        wrong += kv_most_likely(row, c->vocab) != g->id[g->n_prompt + i];
    }
    say_equal(t, g, "greedy tokens", wrong, g->n_greedy);
    say(t, g, "first logits", compare_file(g, "logits_first8", g->logits, first * c->vocab), logit_gate);
    say(t, g, "last logits", compare_file(g, "logits_last8", g->logits + (g->n - last) * c->vocab, last * c->vocab),
        logit_gate);
    say(t, g, "column sums", compare_file(g, "att_colsum", packed(g, g->column), c->layers * c->q_heads * g->n_prompt),
        column_gate);
    say(t, g, "window sums", compare_file(g, "att_win32", packed(g, g->window), c->layers * c->q_heads * g->n_prompt),
        window_gate);
}

static bool compare_tokenizer(struct kv_tally *t, const struct golden *g, const char *text, struct kv_err *e)
{
    int32_t *id;
    int64_t n, wrong;
    if (!g->host->tokenizer)
        return true;
    if (!kv_tokenizer_encode(g->host->tokenizer, text, strlen(text), false, true, &id, &n, e))
        return false;
    wrong = n != g->n_prompt;
    for (int64_t i = 0; !wrong && i < n; i++)
        wrong += id[i] != g->id[i];
    free(id);
    say_equal(t, g, "token ids", wrong, g->n_prompt);
    return true;
}

static bool run_case(struct kv_tally *t, struct kv_host *h, const char *folder, const char *file, struct kv_err *e)
{
    struct golden g = {.host = h, .folder = folder, .arena = kv_arena_open()};
    json_error_t where;
    const char *path = kv_format(g.arena, "%s/%s", folder, file);
    json_t *root = json_load_file(path, 0, &where);
    g.name = kv_copy_part(g.arena, file, strlen(file) - strlen(".json"));
    int64_t n_greedy;
    int32_t *greedy = read_ids(json_object_get(root, "greedy_ids"), &n_greedy, 0, g.arena);
    g.id = read_ids(json_object_get(root, "prompt_ids"), &g.n_prompt, n_greedy, g.arena);
    bool good = (root && g.n_prompt && n_greedy) ||
                kv_fail(e, KV_DATA, "'%s' is no golden case: prompt_ids and greedy_ids are not there", path);
    const struct kv_config *c = &h->weights.config;
    if (good) {
        memcpy(g.id + g.n_prompt, greedy, sizeof *greedy * (size_t)n_greedy);
        g.n_greedy = n_greedy;
        g.n = g.n_prompt + n_greedy - 1;
        g.stride = (g.n_prompt + 32) / 16 * 16;
        for (int64_t i = 0; good && i < g.n + 1; i++)
            good = (g.id[i] >= 0 && g.id[i] < c->vocab) ||
                   kv_fail(e, KV_DATA, "'%s': token %d is not in the vocabulary", path, g.id[i]);
        g.logits = kv_alloc_many(g.arena, (size_t)(g.n * c->vocab), sizeof(float), "logits", e);
        g.column = kv_alloc_many(g.arena, (size_t)(c->layers * c->q_heads * g.stride), sizeof(float), "column sums", e);
        g.window = kv_alloc_many(g.arena, (size_t)(c->layers * c->q_heads * g.stride), sizeof(float), "window sums", e);
        good = good && g.logits && g.column && g.window && run_tokens(&g, e);
    }
    const char *text = json_string_value(json_object_get(root, "prompt"));
    if (good && text)
        good = compare_tokenizer(t, &g, text, e);
    if (good)
        compare(t, &g);
    json_decref(root);
    kv_arena_close(g.arena);
    return good;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

bool kv_verify_golden(struct kv_host *h, const char *folder, struct kv_tally *t, struct kv_arena *a, struct kv_err *e)
{
    enum { MOST = 1024 };
    const char **name = KV_NEW_N(a, const char *, MOST);
    size_t n = 0;
    DIR *d = opendir(folder);
    if (!d)
        return kv_fail(e, KV_DATA, "cannot open the folder '%s' of golden cases", folder);
    for (struct dirent *at; (at = readdir(d)) && n < MOST;)
        if (strlen(at->d_name) > 5 && !strcmp(at->d_name + strlen(at->d_name) - 5, ".json"))
            name[n++] = kv_copy_text(a, at->d_name);
    closedir(d);
    if (!n)
        return kv_fail(e, KV_DATA, "'%s' holds no NAME.json", folder);
    qsort(name, n, sizeof *name, by_name);
    for (size_t i = 0; i < n; i++)
        if (!run_case(t, h, folder, name[i], e))
            return false;
    return true;
}
