/* SPDX-License-Identifier: GPL-3.0-or-later */
/* How close the device's limits are: bytes over its bandwidth, operations over its rate, both measured here first. One
 * JSON line a figure: {"bench": .., "case": .., "ms": .., ...}. What the device has no memory for is left out, which
 * stderr says.
 *
 *     bench [--small]                              kernels alone, in the shape of Llama-3.1-8B
 *     bench [--small] --model FOLDER CASE...       a model of drawn weights, in the shape of FOLDER/config.json; a case
 *                                                  is LENGTHxBATCH/CHUNK
 *     bench --load FOLDER                          weights from files to the device: the checkpoint in FOLDER, or where
 *                                                  there is none, a file of that size that is all zeros and takes no
 *                                                  room; twice, as the system then has the file in memory
 *     --small                                      sizes for an emulated device */
#include "engine/cuda/inside.h"
#include "sim/team.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { RUNS = 5, PARTS = 64, PAGE = 64 };

struct bench {
    struct kv_gpu *gpu;
    struct kv_arena *a;
    struct kv_err e;
    struct kv_cuda_shape shape;
    struct kv_cuda_pool pool;
    bool small;
    double copy_bytes_s; /* bytes read and written a second */
};

static void must(struct bench *b, bool good)
{
    if (good)
        return;
    fprintf(stderr, "bench: %s\n", b->e.text);
    exit((int)b->e.status);
}

static void *device(struct bench *b, int64_t n, size_t size)
{
    void *at;
    must(b, kv_gpu_new(b->gpu, &at, n, size, "a benchmark's data", &b->e));
    return at;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Milliseconds of what `work` asks for: median of RUNS after one that warms up. Each is waited for, as it may write
 * lists that the device copies. */
static double time_ms(struct bench *b, void (*work)(struct bench *b, const void *what), const void *what)
{
    double ms[RUNS];
    work(b, what);
    must(b, kv_gpu_wait(b->gpu, &b->e));
    for (int i = 0; i < RUNS; i++) {
        kv_gpu_mark(b->gpu, 0);
        work(b, what);
        kv_gpu_mark(b->gpu, 1);
        ms[i] = kv_gpu_between(b->gpu, 0, 1);
    }
    must(b, kv_gpu_wait(b->gpu, &b->e));
    qsort(ms, RUNS, sizeof *ms, by_value);
    return ms[RUNS / 2];
}

/* ---- the device ---- */

struct copy {
    char *to, *from;
    size_t bytes;
};

static void copy(struct bench *b, const void *what)
{
    const struct copy *c = what;
    kv_gpu_copy(b->gpu, c->to, c->from, c->bytes);
}

static void bench_copy(struct bench *b)
{
    size_t bytes = (size_t)1 << (b->small ? 16 : 32);
    struct copy c = {device(b, (int64_t)bytes, 1), device(b, (int64_t)bytes, 1), bytes};
    kv_gpu_zero(b->gpu, c.from, bytes);
    double ms = time_ms(b, copy, &c);
    b->copy_bytes_s = 2e3 * (double)bytes / ms;
    printf("{\"bench\": \"copy\", \"bytes\": %zu, \"ms\": %.4f, \"gb_s\": %.1f}\n", bytes, ms, b->copy_bytes_s / 1e9);
    kv_gpu_delete(b->gpu, c.to);
    kv_gpu_delete(b->gpu, c.from);
}

struct product {
    const void *w, *x;
    void *y;
    int64_t rows, outputs, inputs;
};

static void multiply(struct bench *b, const void *what)
{
    const struct product *p = what;
    kv_gpu_multiply(b->gpu, p->w, p->x, p->rows, p->outputs, p->inputs, p->y, p->outputs, false, false);
}

static void bench_products(struct bench *b)
{
    static const struct {
        const char *name;
        int64_t outputs, inputs;
    } shapes[] = {{"qkv", 6144, 4096},
                  {"o", 4096, 4096},
                  {"gate_up", 28672, 4096},
                  {"down", 4096, 14336},
                  {"head", 128256, 4096}};
    static const int64_t rows[] = {1, 8, 64, 512, 8192};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
            int64_t by = b->small ? 64 : 1, most = b->small ? 4 : rows[r];
            struct product p = {.rows = most, .outputs = shapes[s].outputs / by, .inputs = shapes[s].inputs / by};
            if (s == 4 && rows[r] > 64)
                continue;
            kv_bf16 *w = device(b, p.outputs * p.inputs, 2), *x = device(b, p.rows * p.inputs, 2);
            kv_cuda_random(b->gpu, w, p.outputs * p.inputs, false, 1, 0, 0.02f);
            kv_cuda_random(b->gpu, x, p.rows * p.inputs, false, 2, 0, 1);
            p.w = w;
            p.x = x;
            p.y = device(b, p.rows * p.outputs, 2);
            double ms = time_ms(b, multiply, &p), flops = 2.0 * (double)p.rows * (double)p.outputs * (double)p.inputs;
            double bytes = 2.0 * (double)(p.outputs * p.inputs + p.rows * (p.inputs + p.outputs));
            printf("{\"bench\": \"product\", \"case\": \"%s\", \"rows\": %lld, \"ms\": %.4f, \"tflop_s\": %.1f, "
                   "\"gb_s\": %.1f, \"of_copy\": %.3f}\n",
                   shapes[s].name, (long long)p.rows, ms, flops / ms / 1e9, bytes / ms / 1e6,
                   bytes * 1e3 / ms / b->copy_bytes_s);
            kv_gpu_delete(b->gpu, w);
            kv_gpu_delete(b->gpu, x);
            kv_gpu_delete(b->gpu, p.y);
        }
}

/* By which algorithms, so that a figure can be told from another library's. */
static void print_plans(struct kv_gpu *g)
{
    struct kv_gpu_plan p;
    for (int i = 0; kv_gpu_planned(g, i, &p); i++)
        printf("{\"bench\": \"plan\", \"rows\": %lld, \"outputs\": %lld, \"inputs\": %lld, \"algorithm\": %d, "
               "\"tile\": %d, \"stages\": %d, \"splits\": %d, \"reduction\": %d, \"swizzle\": %d, \"option\": %d, "
               "\"inner\": %d, \"cluster\": %d, \"rank\": %d, \"workspace_bytes\": %lld}\n",
               (long long)p.product.rows, (long long)p.product.outputs, (long long)p.product.inputs, p.algorithm,
               p.tile, p.stages, p.splits, p.reduction, p.swizzle, p.option, p.inner, p.cluster, p.rank,
               (long long)p.workspace_bytes);
}

/* ---- attention ---- */

/* Sequences whose lanes of one layer hold `length` entries of random keys and values. */
struct lanes {
    struct kv_cuda_part part[PARTS], *device;
    const int32_t *length_host[PARTS];
    int n;
    int64_t rows;
    int32_t *table, *length;
    kv_bf16 *q, *out;
    float *lse;
    void *work, *lists;
    struct kv_cuda_attention_size size;
};

/* False: the pool is too small for them. */
static bool open_lanes(struct bench *b, struct lanes *l, int n, int64_t length, int64_t tokens)
{
    const struct kv_cuda_shape *s = &b->shape;
    int64_t heads = s->kv_heads, pages = (length + tokens + s->page - 1) / s->page, at = 0;
    if (n * heads * pages > b->pool.most) {
        fprintf(stderr, "bench: %d x %lld entries are left out: the pool holds %lld pages\n", n,
                (long long)(length + tokens), (long long)b->pool.most);
        return false;
    }
    int32_t *table = malloc(sizeof *table * (size_t)(n * heads * pages)),
            *lengths = malloc(sizeof *lengths * (size_t)(n * heads));
    *l = (struct lanes){.n = n, .rows = n * tokens};
    for (int64_t i = 0; i < n * heads * pages; i++)
        must(b, kv_cuda_pool_take(&b->pool, &table[i], &b->e));
    for (int64_t i = 0; i < n * heads; i++)
        lengths[i] = (int32_t)length;
    l->table = device(b, n * heads * pages, sizeof *table);
    l->length = device(b, n * heads, sizeof *lengths);
    kv_gpu_put(b->gpu, l->table, table, sizeof *table * (size_t)(n * heads * pages));
    kv_gpu_put(b->gpu, l->length, lengths, sizeof *lengths * (size_t)(n * heads));
    for (int i = 0; i < n; i++, at += tokens) {
        l->part[i] = (struct kv_cuda_part){.table = l->table + i * heads * pages,
                                           .length = l->length + i * heads,
                                           .table_room = pages,
                                           .heads = (int32_t)heads,
                                           .first = (int32_t)at,
                                           .n_new = (int32_t)tokens,
                                           .seen = length};
        l->length_host[i] = lengths; /* all alike */
    }
    l->device = device(b, n, sizeof *l->part);
    kv_gpu_put(b->gpu, l->device, l->part, sizeof *l->part * (size_t)n);
    /* the pages taken are the pool's first ones */
    kv_cuda_random(b->gpu, s->pool, n * heads * pages * 2 * s->page * s->d, false, 3, 0, 1);
    l->q = device(b, l->rows * s->q_heads * s->d, 2);
    l->out = device(b, l->rows * s->q_heads * s->d, 2);
    l->lse = device(b, l->rows * s->q_heads, sizeof *l->lse);
    kv_cuda_random(b->gpu, l->q, l->rows * s->q_heads * s->d, false, 4, 0, 1);
    int multiprocessors = kv_gpu_about(b->gpu)->multiprocessors;
    kv_cuda_attention_measure(s, l->part, n, multiprocessors, &l->size);
    l->work = device(b, l->size.work_bytes, 1);
    l->lists = device(b, l->size.list_bytes, 1);
    void *lists = malloc((size_t)l->size.list_bytes);
    kv_cuda_attention_lists(s, l->part, l->length_host, n, multiprocessors, 0, &l->size, lists);
    kv_gpu_put(b->gpu, l->lists, lists, (size_t)l->size.list_bytes);
    must(b, kv_gpu_wait(b->gpu, &b->e));
    free(lists);
    free(table);
    return true;
}

static void close_lanes(struct bench *b, struct lanes *l)
{
    void *all[] = {l->table, l->length, l->device, l->q, l->out, l->lse, l->work, l->lists};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        kv_gpu_delete(b->gpu, all[i]);
    free((void *)(uintptr_t)l->length_host[0]);
    for (int32_t page = 0; b->pool.live; page++)
        if (b->pool.taken[page / 64] >> page % 64 & 1)
            kv_cuda_pool_give(&b->pool, page);
    kv_cuda_pool_trim(&b->pool);
}

static void attend(struct bench *b, const void *what)
{
    const struct lanes *l = what;
    kv_cuda_attention(b->gpu, &b->shape, l->device, &l->size, 0, l->q, l->out, l->lse, l->lists, l->work);
}

/* Of one layer; what one layer takes times layers is a step's. */
static void bench_decode(struct bench *b)
{
    static const int64_t lengths[] = {8192, 32768, 131072}, batches[] = {1, 8, 32};
    for (size_t i = 0; i < 3; i++)
        for (size_t k = 0; k < 3; k++) {
            struct lanes l;
            int64_t length = b->small ? 100 + (int64_t)i : lengths[i] - 1, n = b->small ? 2 : batches[k];
            if (!open_lanes(b, &l, (int)n, length, 1))
                continue;
            double ms = time_ms(b, attend, &l),
                   bytes = 4.0 * (double)(n * (length + 1) * b->shape.kv_heads * b->shape.d);
            printf("{\"bench\": \"decode attention\", \"entries\": %lld, \"batch\": %lld, \"ms\": %.4f, \"gb_s\": "
                   "%.1f, \"of_copy\": %.3f}\n",
                   (long long)length + 1, (long long)n, ms, bytes / ms / 1e6, bytes * 1e3 / ms / b->copy_bytes_s);
            close_lanes(b, &l);
        }
}

static void bench_prefill(struct bench *b)
{
    static const int64_t prefixes[] = {0, 8192, 32768, 122880};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        struct lanes l;
        int64_t tokens = b->small ? 40 : 8192, prefix = b->small ? 10 * (int64_t)i : prefixes[i];
        if (!open_lanes(b, &l, 1, prefix, tokens))
            continue;
        double pairs = (double)tokens * ((double)prefix + (double)(tokens + 1) / 2),
               flops = 4 * pairs * b->shape.q_heads * b->shape.d;
        const int64_t pages = b->shape.pages;
        /* A pool of unknown size is left to mma.sync. */
        for (int sync = 0; sync < 2; sync++, b->shape.pages = sync ? 0 : pages) {
            double ms = time_ms(b, attend, &l);
            printf("{\"bench\": \"prefill attention%s\", \"chunk\": %lld, \"prefix\": %lld, \"ms\": %.4f, \"tflop_s\": "
                   "%.1f}\n",
                   sync ? ", mma.sync" : "", (long long)tokens, (long long)prefix, ms, flops / ms / 1e9);
        }
        b->shape.pages = pages;
        close_lanes(b, &l);
    }
}

/* ---- scores and compaction ---- */

struct sums {
    struct lanes *l;
    int64_t queries, most;
    int32_t *from;
    float *out, *scratch;
};

static void add_up(struct bench *b, const void *what)
{
    const struct sums *s = what;
    kv_cuda_window_sums(b->gpu, &b->shape, s->l->device, s->l->part, 0, s->l->q, s->queries, 0, s->from, s->most, false,
                        s->out, s->most, s->most, s->scratch);
}

static void bench_scores(struct bench *b)
{
    static const struct {
        const char *name;
        int64_t tokens, prefix, queries;
    } cases[] = {{"window of 64", 8192, 122880, 64}, {"window of 64", 8192, 24576, 64}, {"columns", 8192, 24576, 8192}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct lanes l;
        int64_t tokens = b->small ? 70 : cases[i].tokens, prefix = b->small ? 30 : cases[i].prefix,
                queries = cases[i].queries < tokens ? cases[i].queries : tokens, heads = b->shape.kv_heads;
        if (!open_lanes(b, &l, 1, prefix, tokens))
            continue;
        struct sums s = {.l = &l, .queries = queries, .most = prefix + tokens};
        s.from = device(b, heads, sizeof *s.from);
        s.out = device(b, heads * s.most, sizeof *s.out);
        s.scratch = device(b, kv_cuda_window_scratch(&b->shape, queries), sizeof *s.scratch);
        kv_gpu_zero(b->gpu, s.from, sizeof *s.from * (size_t)heads);
        double ms = time_ms(b, add_up, &s), attention_ms = time_ms(b, attend, &l);
        printf("{\"bench\": \"scores\", \"case\": \"%s\", \"chunk\": %lld, \"prefix\": %lld, \"ms\": %.4f, "
               "\"of_attention\": %.4f}\n",
               cases[i].name, (long long)tokens, (long long)prefix, ms, ms / attention_ms);
        kv_gpu_delete(b->gpu, s.from);
        kv_gpu_delete(b->gpu, s.out);
        kv_gpu_delete(b->gpu, s.scratch);
        close_lanes(b, &l);
    }
}

/* ---- a whole model ---- */

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

struct model {
    struct kv_weights w;
    struct kv_backend *backend;
    int32_t *token;
    float *logits;
};

enum { STEPS = 16 };

static bool feed(struct bench *b, struct model *m, struct kv_seq *s, int n, int64_t tokens)
{
    struct kv_part part[PARTS];
    for (int i = 0; i < n; i++)
        part[i] =
            (struct kv_part){.seq = &s[i], .token = m->token, .n_new = tokens, .n_logits = 1, .logits = m->logits};
    return m->backend->ops->forward(m->backend, part, n, NULL, NULL, &b->e);
}

/* A sequence of that many tokens, in chunks; *seconds: how long the prefill took. */
static bool prefill(struct bench *b, struct model *m, struct kv_seq *s, int64_t length, int64_t chunk, double *seconds)
{
    double start = now_s();
    for (int64_t at = 0; at < length; at += chunk)
        if (!feed(b, m, s, 1, length - at < chunk ? length - at : chunk))
            return false;
    *seconds = now_s() - start;
    return true;
}

/* Prefill, then steps of all sequences together that end with `length` tokens in each. */
static bool time_context(struct bench *b, struct model *m, struct kv_seq *s, int64_t length, int n, int64_t chunk,
                         double *prefill_s, double step_s[STEPS])
{
    for (int i = 0; i < n; i++)
        if (!prefill(b, m, &s[i], length - STEPS, chunk, prefill_s))
            return false;
    for (int i = 0; i < STEPS; i++) {
        double start = now_s();
        if (!feed(b, m, s, n, 1))
            return false;
        step_s[i] = now_s() - start;
    }
    qsort(step_s, STEPS, sizeof *step_s, by_value);
    return true;
}

/* Against bytes of weights and entries over the copy's rate. */
static void print_context(struct bench *b, struct model *m, int64_t length, int n, int64_t chunk, double prefill_s,
                          double step_s)
{
    const struct kv_config *c = &m->w.config;
    struct kv_backend_use use = m->backend->ops->use(m->backend);
    double kv = 4.0 * (double)(n * length * c->layers * c->kv_heads * c->head_dim),
           unread = c->tied ? 0 : 2.0 * (double)m->w.embedding.rows * (double)m->w.embedding.columns,
           bytes = (double)use.weight_bytes - unread + kv, prompt = (double)(length - STEPS),
           linear = (double)c->hidden * (double)(2 * (c->q_heads + c->kv_heads) * c->head_dim + 3 * c->intermediate),
           layers = (double)c->layers, pairs = prompt * (prompt + 1) / 2;
    printf("{\"bench\": \"model\", \"context\": %lld, \"batch\": %d, \"chunk\": %lld, \"prefill_s\": %.4f, "
           "\"prefill_tokens_s\": %.0f, \"linear_tflop\": %.4g, \"attention_tflop\": %.4g, \"step_ms\": %.3f, "
           "\"step_bytes\": %.0f, \"tokens_s\": %.1f, \"gb_s\": %.1f, \"of_copy\": %.3f, \"pages\": %lld, "
           "\"mapped_bytes\": %lld}\n",
           (long long)length, n, (long long)chunk, prefill_s, prompt / prefill_s, 2e-12 * prompt * layers * linear,
           4e-12 * pairs * layers * (double)(c->q_heads * c->head_dim), 1e3 * step_s, bytes, n / step_s,
           bytes / step_s / 1e9, bytes / step_s / b->copy_bytes_s, (long long)use.pages_live,
           (long long)use.resident_bytes);
}

/* One that is not timed finds memory and kernels for the others, or no memory. */
static bool warm_up(struct bench *b, struct model *m, int64_t tokens)
{
    struct kv_seq s = {.store_heads = m->w.config.kv_heads};
    double ignored;
    must(b, m->backend->ops->seq_open(m->backend, &s, &b->e));
    bool good = prefill(b, m, &s, tokens, tokens, &ignored) && feed(b, m, &s, 1, 1);
    m->backend->ops->seq_close(m->backend, &s);
    return good;
}

/* Whether the device has room for the entries: found out before minutes of prefill, not by them. */
static bool has_room(const struct model *m, int64_t length, int n)
{
    const struct kv_config *c = &m->w.config;
    const struct kv_cuda *cuda = kv_cuda_of(m->backend);
    int64_t pages = (length + PAGE - 1) / PAGE * c->layers * c->kv_heads * n;
    if (pages <= cuda->pool.most)
        return true;
    fprintf(stderr, "bench: %lldx%d is left out: %lld pages, of which %lld fit\n", (long long)length, n,
            (long long)pages, (long long)cuda->pool.most);
    return false;
}

static void bench_context(struct bench *b, struct model *m, int64_t length, int n, int64_t chunk)
{
    struct kv_seq s[PARTS];
    if (!has_room(m, length, n))
        return;
    double prefill_s = 0, step_s[STEPS];
    for (int i = 0; i < n; i++) {
        s[i] = (struct kv_seq){.store_heads = m->w.config.kv_heads};
        must(b, m->backend->ops->seq_open(m->backend, &s[i], &b->e));
    }
    bool good =
        warm_up(b, m, length < chunk ? length : chunk) && time_context(b, m, s, length, n, chunk, &prefill_s, step_s);
    if (good)
        print_context(b, m, length, n, chunk, prefill_s, step_s[STEPS / 2]);
    for (int i = 0; i < n; i++)
        m->backend->ops->seq_close(m->backend, &s[i]);
    if (good)
        return;
    struct kv_err why = b->e;
    b->e = (struct kv_err){0};
    must(b, warm_up(b, m, 1)); /* memory was out, or it fails again */
    fprintf(stderr, "bench: %lldx%d/%lld is left out: %s\n", (long long)length, n, (long long)chunk, why.text);
}

static void bench_model(struct bench *b, const char *folder, int n_cases, char **cases)
{
    struct model m = {.token = NULL};
    struct kv_backend_asked asked = {.dtype = KV_BF16, .page = PAGE, .threads = 1};
    must(b, kv_weights_blank(&m.w, folder, 1, b->a, &b->e));
    must(b, kv_backend_cuda.open(&m.backend, &m.w, &asked, &b->e));
    m.token = calloc(1 << 17, sizeof *m.token);
    m.logits = calloc((size_t)m.w.config.vocab, sizeof *m.logits);
    for (int i = 0; i < 1 << 17; i++)
        m.token[i] = (int32_t)((uint32_t)i * 2654435761u % (uint32_t)m.w.config.vocab);
    for (int i = 0; i < n_cases; i++) {
        long long length, chunk;
        int n;
        if (sscanf(cases[i], "%lldx%d/%lld", &length, &n, &chunk) != 3 || length <= STEPS || n < 1 || n > PARTS ||
            chunk < 1 || chunk > 1 << 17) {
            fprintf(stderr, "bench: '%s' is not LENGTHxBATCH/CHUNK with more than %d tokens\n", cases[i], STEPS);
            exit(KV_USAGE);
        }
        bench_context(b, &m, length, n, chunk);
    }
    print_plans(kv_cuda_of(m.backend)->gpu);
    m.backend->ops->close(m.backend);
    free(m.token);
    free(m.logits);
}

/* ---- weights on their way ---- */

/* The header of a checkpoint as it is made. */
struct header {
    char *text;
    size_t n;
    int64_t end; /* of its tensors */
};

enum { MOST_ENTRY = 256 };

static void add_tensor(struct header *h, const struct kv_tensor *t)
{
    int64_t begin = h->end;
    char rows[32] = "";
    h->end += 2 * t->rows * t->columns;
    if (t->rows > 1)
        snprintf(rows, sizeof rows, "%lld,", (long long)t->rows);
    h->n += (size_t)snprintf(
        h->text + h->n, MOST_ENTRY, "%c\"%s\":{\"dtype\":\"BF16\",\"shape\":[%s%lld],\"data_offsets\":[%lld,%lld]}",
        h->n ? ',' : '{', t->name, rows, (long long)t->columns, (long long)begin, (long long)h->end);
}

/* A checkpoint without a byte of weights on disk, for models without biases. */
static void write_holes(const struct kv_weights *w, const char *path)
{
    enum { PER_LAYER = 9 };
    struct header h = {.text = malloc((size_t)(4 + PER_LAYER * w->config.layers) * MOST_ENTRY)};
    add_tensor(&h, &w->embedding);
    add_tensor(&h, &w->norm);
    if (!w->config.tied)
        add_tensor(&h, &w->head);
    for (int64_t i = 0; i < w->config.layers; i++) {
        const struct kv_layer_weights *l = &w->layer[i];
        const struct kv_tensor *all[PER_LAYER] = {&l->attention_norm, &l->q,    &l->k,  &l->v,   &l->o,
                                                  &l->mlp_norm,       &l->gate, &l->up, &l->down};
        for (int k = 0; k < PER_LAYER; k++)
            add_tensor(&h, all[k]);
    }
    h.text[h.n++] = '}';
    uint64_t length = h.n;
    FILE *out = fopen(path, "wb");
    if (!out || fwrite(&length, sizeof length, 1, out) != 1 || fwrite(h.text, 1, h.n, out) != h.n || fflush(out) ||
        ftruncate(fileno(out), (off_t)(sizeof length + length) + h.end) || fclose(out)) {
        fprintf(stderr, "bench: cannot write '%s'\n", path);
        exit(KV_ENV);
    }
    free(h.text);
}

static void load(struct bench *b, const char *folder, const char *what)
{
    struct kv_backend_asked asked = {.dtype = KV_BF16, .page = PAGE, .threads = kv_team_cores(), .pool_bytes = 1 << 20};
    struct kv_backend *backend;
    struct kv_weights w;
    must(b, kv_weights_open(&w, folder, NULL, b->a, &b->e));
    must(b, kv_backend_cuda.open(&backend, &w, &asked, &b->e));
    struct kv_backend_use use = backend->ops->use(backend);
    printf("{\"bench\": \"load\", \"case\": \"%s\", \"bytes\": %lld, \"seconds\": %.4f, \"gb_s\": %.2f}\n", what,
           (long long)use.load_bytes, use.load_s, (double)use.load_bytes / use.load_s / 1e9);
    backend->ops->close(backend);
    kv_weights_close(&w);
}

static void bench_load(struct bench *b, const char *folder)
{
    char made[] = "/tmp/kv-bench-XXXXXX";
    struct kv_weights w;
    const char *config = kv_format(b->a, "%s/config.json", folder), *file, *link;
    if (!access(kv_format(b->a, "%s/model.safetensors", folder), F_OK) ||
        !access(kv_format(b->a, "%s/model.safetensors.index.json", folder), F_OK)) {
        load(b, folder, "a checkpoint");
        load(b, folder, "a checkpoint, again");
        return;
    }
    must(b, kv_weights_blank(&w, folder, 1, b->a, &b->e));
    char *whole = realpath(config, NULL);
    if (!mkdtemp(made) || !whole || symlink(whole, link = kv_format(b->a, "%s/config.json", made))) {
        fprintf(stderr, "bench: cannot write to '%s'\n", made);
        exit(KV_ENV);
    }
    free(whole);
    write_holes(&w, file = kv_format(b->a, "%s/model.safetensors", made));
    load(b, made, "a file of holes");
    load(b, made, "a file of holes, again");
    unlink(file);
    unlink(link);
    rmdir(made);
}

int main(int argc, char **argv)
{
    static struct bench b;
    setvbuf(stdout, NULL, _IOLBF, 0); /* figures stay whole beside what stderr says */
    b.a = kv_arena_open();
    b.small = argc > 1 && !strcmp(argv[1], "--small");
    argc -= b.small;
    argv += b.small;
    const char *model = argc > 2 && !strcmp(argv[1], "--model") ? argv[2] : NULL;
    if (argc > 2 && !strcmp(argv[1], "--load")) {
        bench_load(&b, argv[2]);
        kv_arena_close(b.a);
        return 0;
    }
    must(&b, kv_gpu_open(&b.gpu, &b.e));
    b.shape = (struct kv_cuda_shape){.layers = 1, .q_heads = 32, .kv_heads = 8, .d = 128, .page = 64};
    if (b.small)
        b.shape.q_heads = 4, b.shape.kv_heads = 1, b.shape.d = 64;
    bench_copy(&b);
    if (model) {
        kv_gpu_close(b.gpu);
        bench_model(&b, model, argc - 3, argv + 3);
        kv_arena_close(b.a);
        return 0;
    }
    must(&b, kv_cuda_pool_open(&b.pool, b.gpu, 4 * (int64_t)b.shape.page * b.shape.d,
                               b.small ? 1 << 24 : kv_gpu_free_bytes(b.gpu) / 2, &b.e));
    b.shape.pool = (kv_bf16 *)(void *)b.pool.base;
    b.shape.pages = b.pool.most;
    bench_products(&b);
    print_plans(b.gpu);
    bench_decode(&b);
    bench_prefill(&b);
    bench_scores(&b);
    must(&b, kv_gpu_wait(b.gpu, &b.e));
    kv_cuda_pool_close(&b.pool);
    kv_gpu_close(b.gpu);
    kv_arena_close(b.a);
    return 0;
}
