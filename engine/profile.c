/* SPDX-License-Identifier: GPL-3.0-or-later */
/* `kvengine profile`: how long passes take, as the table that a cost model is fitted to. One row is one kind of step:
 *
 *     kind            prefill | decode | scores | evict
 *     batch           sequences in the pass
 *     new_tokens      of each
 *     prefix_tokens   that each holds in every lane before it
 *     seconds         of the whole pass (scores, evict: of what they add to it), median
 *     least_s, most_s, runs
 *     model, backend, threads, block_size, parameters, layers, kv_heads, head_dim, kv_dtype
 */
#include "engine/host.h"

#include "sim/interrupt.h"
#include "sim/core/random.h"
#include "sim/output.h"
#include "sim/progress.h"
#include "sim/table.h"

#include <stdlib.h>
#include <string.h>

static const struct kv_option options[] = {
    {.name = "output-file", .letter = 'o', .value = "FILE", .help = "the table, as CSV (default: standard output)"},
    {.name = "longest", .value = "N", .help = "longest context that is measured (default 2048)"},
    {.name = "runs", .value = "N", .help = "measurements of each step; the median counts (default 3)"},
    {.name = "chunk", .letter = 'c', .value = "N", .help = "largest prefill chunk (default 512)"},
    {.name = "batch", .value = "N", .help = "most sequences that decode together (default 4)"},
    {.name = "block-size", .value = "N", .help = "entries of a page (default 64)"},
    {.name = "pool", .value = "BYTES", .help = "most memory for KV pages (default: half of what is free)"},
    {.name = "threads", .letter = 'j', .value = "N", .help = "threads (default: the cores there are)"},
    {.name = "backend", .value = "NAME", .help = "cpu (default), in f32; or cuda, in bf16, on an NVIDIA device"},
    {.name = "kv-cache-dtype", .value = "T", .help = KV_HOST_DTYPE_HELP},
    KV_HOST_RANDOM,
    KV_OPTIONS_COMMON,
};

static const struct kv_column columns[] = {
    {"kind", NULL, KV_CELL_TEXT},           {"batch", NULL, KV_CELL_COUNT},   {"new_tokens", NULL, KV_CELL_COUNT},
    {"prefix_tokens", NULL, KV_CELL_COUNT}, {"seconds", NULL, KV_CELL_REAL},  {"least_s", NULL, KV_CELL_REAL},
    {"most_s", NULL, KV_CELL_REAL},         {"runs", NULL, KV_CELL_COUNT},    {"model", NULL, KV_CELL_TEXT},
    {"backend", NULL, KV_CELL_TEXT},        {"threads", NULL, KV_CELL_COUNT}, {"block_size", NULL, KV_CELL_COUNT},
    {"parameters", NULL, KV_CELL_COUNT},    {"layers", NULL, KV_CELL_COUNT},  {"kv_heads", NULL, KV_CELL_COUNT},
    {"head_dim", NULL, KV_CELL_COUNT},      {"kv_dtype", NULL, KV_CELL_TEXT},
};

enum { MOST_RUNS = 64, MOST_BATCH = 64, DECODE_STEPS = 8 };

struct profile {
    struct kv_host *host;
    struct kv_table table;
    int64_t longest, runs, batch;
    int32_t *token; /* (longest,) at random */
    float *logits;  /* (batch, vocab) */
    struct kv_progress progress;
};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void add_row(struct profile *p, const char *kind, int64_t batch, int64_t new_tokens, int64_t prefix,
                    double *second, int64_t n)
{
    const struct kv_host *h = p->host;
    struct kv_cell *row = kv_table_row(&p->table);
    const struct kv_table *t = &p->table;
    qsort(second, (size_t)n, sizeof *second, by_value);
    kv_set_text(t, row, "kind", kind);
    kv_set_whole(t, row, "batch", batch);
    kv_set_whole(t, row, "new_tokens", new_tokens);
    kv_set_whole(t, row, "prefix_tokens", prefix);
    kv_set_real(t, row, "seconds", second[n / 2]);
    kv_set_real(t, row, "least_s", second[0]);
    kv_set_real(t, row, "most_s", second[n - 1]);
    kv_set_whole(t, row, "runs", n);
    kv_set_text(t, row, "model", h->folder);
    kv_set_text(t, row, "backend", h->backend->ops->name);
    kv_set_whole(t, row, "threads", h->asked.threads);
    kv_set_whole(t, row, "block_size", h->asked.page);
    kv_set_whole(t, row, "parameters", h->weights.parameters);
    kv_set_whole(t, row, "layers", h->weights.config.layers);
    kv_set_whole(t, row, "kv_heads", h->weights.config.kv_heads);
    kv_set_whole(t, row, "head_dim", h->weights.config.head_dim);
    kv_set_text(t, row, "kv_dtype", kv_dtype_names[h->asked.dtype]);
}

static bool pass(struct profile *p, struct kv_seq *seq, int batch, int64_t n, double *second, struct kv_err *e)
{
    struct kv_backend *b = p->host->backend;
    struct kv_part part[MOST_BATCH];
    for (int i = 0; i < batch; i++)
        part[i] = (struct kv_part){.seq = &seq[i],
                                   .token = p->token + seq[i].seen % (p->longest - n + 1),
                                   .n_new = n,
                                   .n_logits = 1,
                                   .logits = p->logits + i * p->host->weights.config.vocab};
    int64_t start = kv_clock_ns();
    bool good = b->ops->forward(b, part, batch, NULL, NULL, e);
    *second = (double)(kv_clock_ns() - start) * 1e-9;
    return good;
}

static bool open_sequences(struct profile *p, struct kv_seq *seq, int batch, struct kv_err *e)
{
    struct kv_backend *b = p->host->backend;
    for (int i = 0; i < batch; i++) {
        seq[i] = (struct kv_seq){.store_heads = p->host->weights.config.kv_heads};
        if (!b->ops->seq_open(b, &seq[i], e))
            return false;
    }
    return true;
}

static void close_sequences(struct profile *p, struct kv_seq *seq, int batch)
{
    for (int i = 0; i < batch; i++)
        if (seq[i].lane)
            p->host->backend->ops->seq_close(p->host->backend, &seq[i]);
}

/* Chunk after chunk up to the longest context; some prefixes of each are shown. */
static bool profile_prefill(struct profile *p, int64_t chunk, struct kv_err *e)
{
    int64_t passes = p->longest / chunk;
    double(*second)[MOST_RUNS] = calloc((size_t)passes, sizeof *second);
    bool good = second || kv_fail(e, KV_ENV, "no memory for %lld measurements", (long long)passes);
    for (int64_t run = 0; good && run < p->runs; run++) {
        struct kv_seq seq = {0};
        good = open_sequences(p, &seq, 1, e);
        for (int64_t i = 0; good && i < passes && !kv_interrupted(); i++)
            good = pass(p, &seq, 1, chunk, &second[i][run], e);
        close_sequences(p, &seq, 1);
        kv_progress_add(&p->progress, 1);
    }
    for (int64_t i = 0; good && i < passes; i = i < 4 ? i + 1 : i * 5 / 4)
        add_row(p, "prefill", 1, chunk, i * chunk, second[i], p->runs);
    free(second);
    return good;
}

static bool profile_decode(struct profile *p, int batch, int64_t context, struct kv_err *e)
{
    struct kv_seq seq[MOST_BATCH] = {{0}};
    double second[MOST_RUNS * DECODE_STEPS];
    int64_t n = 0;
    bool good = open_sequences(p, seq, batch, e);
    double ignored;
    for (int64_t seen = 0; good && seen < context; seen += 256)
        good = pass(p, seq, batch, context - seen < 256 ? context - seen : 256, &ignored, e);
    for (int i = 0; good && i < DECODE_STEPS && n < MOST_RUNS * DECODE_STEPS; i++)
        good = pass(p, seq, batch, 1, &second[n++], e);
    close_sequences(p, seq, batch);
    if (good)
        add_row(p, "decode", batch, 1, context, second, n);
    kv_progress_add(&p->progress, 1);
    return good;
}

/* What window scores and compaction add to passes, under SnapKV in chunks. */
static bool profile_eviction(struct profile *p, int64_t chunk, struct kv_arena *a, struct kv_err *e)
{
    struct kv_live l = {0};
    struct kv_policy policy;
    double score[MOST_RUNS], evict[MOST_RUNS];
    struct kv_host *h = p->host;
    struct kv_defaults run = h->run;
    run.chunk = chunk;
    int64_t n = 0;
    if (!kv_policy_from_spec(&policy, "snapkv:law=fixed,when=chunk,keep=30%", a, e) ||
        !kv_live_open(&l, h->backend, &h->weights, &policy, &run, p->token, p->longest, 0, 0, h->asked.page, false, a,
                      e))
        return false;
    bool good = true;
    while (good && kv_live_next(&l) && n < MOST_RUNS && !kv_interrupted()) {
        struct kv_live *one[] = {&l};
        int64_t held = kv_cache_held(&l.cache, 0, 0);
        double before_score = l.score_s, before_evict = l.evict_s;
        good = kv_live_step(one, 1, e);
        if (good && kv_cache_held(&l.cache, 0, 0) < held + chunk) { /* passes that evict, at about the same length */
            score[n] = l.score_s - before_score;
            evict[n++] = l.evict_s - before_evict;
        }
    }
    kv_live_close(&l);
    if (good && n) {
        add_row(p, "scores", 1, chunk, p->longest * 3 / 10, score, n);
        add_row(p, "evict", 1, chunk, p->longest * 3 / 10, evict, n);
    }
    kv_progress_add(&p->progress, 1);
    return good;
}

static int64_t count_steps(const struct profile *p, int64_t most_chunk)
{
    int64_t n = 0;
    for (int64_t chunk = 32; chunk <= most_chunk && chunk <= p->longest; chunk *= 2)
        n += p->runs + (chunk >= 128);
    for (int batch = 1; batch <= p->batch; batch *= 2)
        for (int64_t context = 64; context <= p->longest; context *= 4)
            n++;
    return n;
}

static bool measure(struct profile *p, int64_t most_chunk, struct kv_arena *a, struct kv_err *e)
{
    bool good = true;
    for (int64_t chunk = 32; good && chunk <= most_chunk && chunk <= p->longest; chunk *= 2)
        good = profile_prefill(p, chunk, e);
    for (int batch = 1; good && batch <= p->batch; batch *= 2)
        for (int64_t context = 64; good && context <= p->longest; context *= 4)
            good = profile_decode(p, batch, context, e);
    for (int64_t chunk = 128; good && chunk <= most_chunk && chunk <= p->longest; chunk *= 2)
        good = profile_eviction(p, chunk, a, e);
    return good && (!kv_interrupted() || kv_fail(e, kv_interrupt_status(), "interrupted"));
}

static bool write_table(const struct profile *p, const char *path, struct kv_arena *a, struct kv_err *e)
{
    struct kv_out out;
    if (!path) {
        kv_table_csv(&p->table, stdout);
        return true;
    }
    if (!kv_out_open(&out, path, a, e))
        return false;
    kv_table_csv(&p->table, out.file);
    return kv_out_close(&out, e);
}

static bool run(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    struct kv_host h = {0};
    struct profile p = {.host = &h, .longest = 2048, .runs = 3, .batch = 4};
    int64_t chunk = 512;
    kv_arg_count(args, "longest", 64, 1 << 20, &p.longest, a, e);
    kv_arg_count(args, "runs", 1, MOST_RUNS, &p.runs, a, e);
    kv_arg_count(args, "batch", 1, MOST_BATCH, &p.batch, a, e);
    kv_arg_count(args, "chunk", 32, 1 << 20, &chunk, a, e);
    bool good = !e->n && kv_host_open(&h, args, false, a, e);
    kv_catch_signals();
    if (good) {
        kv_table_open(&p.table, columns, sizeof columns / sizeof *columns, a);
        p.token = kv_alloc_many(a, (size_t)p.longest, sizeof *p.token, "tokens", e);
        p.logits = kv_alloc_many(a, (size_t)(p.batch * h.weights.config.vocab), sizeof *p.logits, "logits", e);
        good = p.token && p.logits;
    }
    for (int64_t i = 0; good && i < p.longest; i++)
        p.token[i] = (int32_t)(kv_random(0, kv_purpose("profile"), 0, (uint64_t)i) % (uint64_t)h.weights.config.vocab);
    if (good) {
        kv_progress_start(&p.progress, "steps measured", count_steps(&p, chunk), h.quiet);
        good = measure(&p, chunk, a, e);
        kv_progress_end(&p.progress);
    }
    good = good && write_table(&p, kv_arg_text(args, "output-file", NULL), a, e);
    kv_host_close(&h);
    return good;
}

const struct kv_command kv_command_profile = {
    .name = "profile",
    .program = "kvengine",
    .operands = "MODEL",
    .summary = "How long passes take: prefill by chunk and prefix, decode by batch and context, scores, eviction.",
    .least = 1,
    .most = 1,
    .option = options,
    .n_options = sizeof options / sizeof *options,
    .run = run,
};
