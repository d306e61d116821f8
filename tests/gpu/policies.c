/* SPDX-License-Identifier: GPL-3.0-or-later */
/* One request under policies, for real: how long its prefill and its decode steps take, what scores and eviction take
 * of that, and what of the device's memory is gone at the largest moment, as the driver says.
 *
 *     policies BACKEND MODEL LENGTH/CHUNK TIMELINE SPEC...
 *
 * LENGTH tokens, of which the last ones are decode steps. BACKEND cuda: weights drawn in the shape of
 * MODEL/config.json; cpu: those of the folder. +SPEC: window sums are recorded as well, as `kvengine record` does. One
 * JSON line a SPEC; the file TIMELINE gets each pass as CSV, its columns named as those of `kvsim footprint
 * --timeline`. */
#include "engine/cuda/inside.h"
#include "engine/recorder.h"
#include "sim/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STEPS = 16, PAGE = 64, WINDOW = 64 };

struct run {
    struct kv_arena *a;
    struct kv_err e;
    struct kv_weights w;
    struct kv_backend *b;
    struct kv_cuda *cuda; /* NULL: the backend is another */
    int64_t length, chunk;
    int32_t *token;       /* (length,) */
    int64_t before_bytes; /* free before weights and all */
    int64_t library_bytes;
    FILE *timeline;
};

/* One SPEC. */
struct measured {
    struct run *r;
    const char *spec;
    struct kv_live live;
    struct kv_live_watch watch;
    double prefill_s, prefill_score_s, prefill_evict_s, step_s[STEPS];
    int64_t step_evictions; /* in the steps but the first, at which what gathered in prefill may leave */
    /* Of the device at its largest; of work space, and the sequence's tables and queries, at that moment. */
    int64_t taken_peak, work_bytes, list_bytes;
    int64_t step_entries; /* held before the step in the middle */
    int64_t trace_bytes;
};

static void must(struct run *r, bool good)
{
    if (good)
        return;
    fprintf(stderr, "policies: %s\n", r->e.text);
    exit((int)r->e.status);
}

static double now_s(void)
{
    return (double)kv_clock_ns() * 1e-9;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* ---- memory ---- */

/* Of the device, since before the weights. */
static int64_t taken_bytes(const struct run *r)
{
    return r->cuda ? r->before_bytes - kv_gpu_free_bytes(r->cuda->gpu) : 0;
}

/* Activations and work space, as large as they have grown. */
static int64_t work_bytes(const struct run *r)
{
    const struct kv_cuda *b = r->cuda;
    if (!b)
        return 0;
    const struct kv_config *c = &b->config;
    const struct kv_cuda_buffer *buffer[] = {&b->lists, &b->work, &b->logits, &b->scores,       &b->scratch, &b->from,
                                             &b->keep,  &b->made, &b->none,   &b->made_scratch, &b->lowest};
    int64_t d = c->head_dim,
            row = 4 + 4 * c->hidden + 4 * c->q_heads + /* token, x, lse */
                  2 * (c->hidden + (c->q_heads + 2 * c->kv_heads) * d + 2 * c->q_heads * d + 3 * c->intermediate),
            bytes = b->room * row + 4 * b->rope_room * d;
    for (size_t i = 0; i < sizeof buffer / sizeof *buffer; i++)
        bytes += buffer[i]->bytes;
    return bytes;
}

/* Tables of pages, lengths and kept queries of a sequence. */
static int64_t list_bytes(const struct run *r, const struct kv_seq *s)
{
    if (!r->cuda)
        return 0;
    const struct kv_config *c = &r->w.config;
    const struct kv_cuda_seq *own = s->own;
    int64_t lanes = c->layers * s->store_heads;
    int64_t leaving = own->leave ? lanes * (int64_t)(sizeof *own->leave + sizeof *own->left) : 0;
    return 4 * lanes * (own->room + 1 + own->column_room) + leaving +
           2 * c->layers * s->window * c->q_heads * c->head_dim;
}

/* Slabs are mapped as layers take pages and unmapped when the pass ends, so the last layer's moment is the largest. */
static bool look(void *measured, struct kv_live *l, int64_t layer, struct kv_err *e)
{
    struct measured *m = measured;
    (void)e;
    int64_t taken = layer + 1 == l->shape.layers && l->pass.decode_step <= 0 ? taken_bytes(m->r) : 0;
    if (taken > m->taken_peak) {
        m->taken_peak = taken;
        m->work_bytes = work_bytes(m->r);
        m->list_bytes = list_bytes(m->r, &l->seq);
    }
    return true;
}

static unsigned wants_nothing(void *measured, const struct kv_live *l, bool *query_rows)
{
    (void)measured;
    (void)l;
    (void)query_rows;
    return 0;
}

static bool ends(void *measured, struct kv_live *l, struct kv_err *e)
{
    (void)measured;
    (void)l;
    (void)e;
    return true;
}

/* ---- the run ---- */

static void note_pass(struct measured *m)
{
    const struct kv_live *l = &m->live;
    const struct kv_ledger *g = &l->cache.ledger;
    struct kv_backend_use use = l->backend->ops->use(l->backend);
    int64_t page = kv_ledger_page_bytes(g, KV_PER_HEAD);
    const char *spec = m->spec + (*m->spec == '+');
    fprintf(m->r->timeline, "\"%s\",%lld,%lld,%lld,%lld,%lld,%lld,%lld,%lld\n", spec, (long long)l->pass.index,
            (long long)l->cache.seen, (long long)g->pass_entries[KV_SCOPE_LAYER], (long long)g->end_entries,
            (long long)(g->pass_pages[KV_PER_HEAD][KV_COMPACT][KV_SCOPE_LAYER] * page),
            (long long)(g->pages[KV_PER_HEAD][KV_COMPACT].end * page), (long long)(use.pages_live * use.page_bytes),
            (long long)use.resident_bytes);
}

static void pass(struct measured *m, double *seconds)
{
    struct kv_live *one[] = {&m->live};
    double start = now_s();
    must(m->r, kv_live_step(one, 1, &m->r->e));
    *seconds = now_s() - start;
    note_pass(m);
}

static void run_passes(struct measured *m)
{
    struct kv_live *l = &m->live;
    double seconds;
    int64_t evictions = 0;
    while (l->cache.seen < l->request.prompt) {
        pass(m, &seconds);
        m->prefill_s += seconds;
    }
    m->prefill_score_s = l->score_s;
    m->prefill_evict_s = l->evict_s;
    for (int i = 0; i < STEPS; i++) {
        if (i == STEPS / 2)
            m->step_entries = l->cache.ledger.end_entries;
        kv_live_add(l, m->r->token[l->request.prompt + i]);
        pass(m, &m->step_s[i]);
        if (i > 0)
            continue;
        evictions = l->cache.ledger.evictions;
        if (l->watch == &m->watch)
            l->watch = NULL; /* steps are as they are when nobody looks */
    }
    m->step_evictions = l->cache.ledger.evictions - evictions;
    qsort(m->step_s, STEPS, sizeof *m->step_s, by_value);
}

static void print(const struct measured *m)
{
    const struct run *r = m->r;
    const struct kv_config *c = &r->w.config;
    const struct kv_ledger *g = &m->live.cache.ledger;
    struct kv_backend_use use = r->b->ops->use(r->b);
    int64_t page = kv_ledger_page_bytes(g, KV_PER_HEAD), entry = page / PAGE,
            unread = c->tied ? 0 : (r->cuda ? 2 : 4) * r->w.embedding.rows * r->w.embedding.columns,
            mapped = r->cuda ? r->cuda->pool.mapped_peak * r->cuda->pool.slab_bytes : use.resident_bytes;
    printf("{\"bench\": \"policy\", \"policy\": \"%s\", \"recorded\": %s, \"context\": %lld, \"prompt\": %lld, "
           "\"output\": %d, \"chunk\": %lld, \"prefill_s\": %.4f, \"score_s\": %.4f, \"evict_s\": %.4f, "
           "\"step_ms\": %.4f, \"step_evictions\": %lld, \"step_bytes\": %lld, \"kv_footprint\": %.6f, "
           "\"pages_peak_bytes\": %lld, \"pages_end_bytes\": %lld, \"mapped_peak_bytes\": %lld, "
           "\"mapped_end_bytes\": %lld, \"slab_bytes\": %lld, \"weight_bytes\": %lld, \"work_bytes\": %lld, "
           "\"list_bytes\": %lld, "
           "\"library_bytes\": %lld, \"device_peak_bytes\": %lld, \"trace_bytes\": %lld}\n",
           m->spec + (*m->spec == '+'), *m->spec == '+' ? "true" : "false", (long long)r->length,
           (long long)m->live.request.prompt, STEPS + 1, (long long)r->chunk, m->prefill_s, m->prefill_score_s,
           m->prefill_evict_s, 1e3 * m->step_s[STEPS / 2], (long long)m->step_evictions,
           (long long)(use.weight_bytes - unread + m->step_entries * entry),
           (double)g->entry_steps / ((double)g->lanes * (double)g->steps * (double)(g->steps + 1) / 2),
           (long long)(g->pages[KV_PER_HEAD][KV_COMPACT].peak[KV_SCOPE_LAYER].value * page),
           (long long)(g->pages[KV_PER_HEAD][KV_COMPACT].end * page), (long long)mapped, (long long)use.resident_bytes,
           r->cuda ? (long long)r->cuda->pool.slab_bytes : 0LL, (long long)use.weight_bytes, (long long)m->work_bytes,
           (long long)m->list_bytes, (long long)r->library_bytes, (long long)m->taken_peak, (long long)m->trace_bytes);
}

static void measure(struct run *r, const char *spec)
{
    bool recorded = *spec == '+';
    struct kv_arena *a = kv_arena_open();
    struct measured m = {.r = r, .spec = spec};
    m.watch = (struct kv_live_watch){.context = &m, .wants = wants_nothing, .scores = look, .ends = ends};
    struct kv_defaults run = {.chunk = r->chunk, .dtype = r->b->ops->dtype[0]};
    struct kv_recorder_asked asked = {.channels = KV_BIT(KV_WINDOW_SEEN),
                                      .window = WINDOW,
                                      .decode_tick = 2 * STEPS, /* prefill is what is compared */
                                      .encoding = KV_ENC_LOG12,
                                      .filter = KV_FILTER_ZSTD,
                                      .model = "drawn"};
    struct kv_recorder *recorder = NULL;
    struct kv_policy policy;
    const char *trace =
        kv_format(a, "%s/policies.%ld.kvt.h5", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp", (long)getpid());
    if (r->cuda)
        r->cuda->pool.mapped_peak = r->cuda->pool.mapped;
    must(r, kv_policy_from_spec(&policy, spec + recorded, a, &r->e) &&
                kv_live_open(&m.live, r->b, &r->w, &policy, &run, r->token, r->length - STEPS, STEPS + 1,
                             recorded ? WINDOW : 0, PAGE, false, a, &r->e));
    m.live.watch = &m.watch;
    if (recorded)
        must(r, kv_recorder_open(&recorder, trace, &asked, &m.live, a, &r->e));
    run_passes(&m);
    if (recorded) {
        must(r, kv_recorder_finish(recorder, &r->e));
        FILE *in = fopen(trace, "rb");
        if (in && !fseek(in, 0, SEEK_END))
            m.trace_bytes = ftell(in);
        if (in)
            fclose(in);
        unlink(trace);
    }
    print(&m);
    kv_live_close(&m.live);
    kv_arena_close(a);
}

/* A chunk and a step that are not timed find memory and kernels for the others. What is gone then beside weights and
 * work space is the libraries'. */
static void warm_up(struct run *r)
{
    float *logits = calloc((size_t)r->w.config.vocab, sizeof *logits);
    struct kv_seq s = {.store_heads = r->w.config.kv_heads};
    struct kv_part part = {.seq = &s, .token = r->token, .n_new = r->chunk, .n_logits = 1, .logits = logits};
    must(r, r->b->ops->seq_open(r->b, &s, &r->e) && r->b->ops->forward(r->b, &part, 1, NULL, NULL, &r->e));
    part.n_new = 1;
    must(r, r->b->ops->forward(r->b, &part, 1, NULL, NULL, &r->e));
    r->b->ops->seq_close(r->b, &s);
    free(logits);
    if (r->cuda)
        r->library_bytes = taken_bytes(r) - r->cuda->weight_bytes - work_bytes(r);
}

static void open_model(struct run *r, const char *backend, const char *folder)
{
    struct kv_backend_asked asked = {.dtype = KV_BF16, .page = PAGE, .threads = (int)sysconf(_SC_NPROCESSORS_ONLN)};
    if (!strcmp(backend, "cpu")) {
        asked.pool_bytes = INT64_C(1) << 30;
        asked.dtype = KV_FP32;
        must(r, kv_weights_open(&r->w, folder, NULL, r->a, &r->e) && kv_backend_cpu.open(&r->b, &r->w, &asked, &r->e));
        return;
    }
    struct kv_gpu *gpu;
    must(r, kv_gpu_open(&gpu, &r->e));
    r->before_bytes = kv_gpu_free_bytes(gpu);
    must(r, kv_weights_blank(&r->w, folder, 1, r->a, &r->e) && kv_backend_cuda.open(&r->b, &r->w, &asked, &r->e));
    kv_gpu_close(gpu);
    r->cuda = kv_cuda_of(r->b);
}

int main(int argc, char **argv)
{
    static struct run r;
    long long length, chunk;
    if (argc < 6 || sscanf(argv[3], "%lld/%lld", &length, &chunk) != 2 || chunk < 1 || length <= chunk + STEPS) {
        fprintf(stderr, "usage: policies BACKEND MODEL LENGTH/CHUNK TIMELINE SPEC...\n");
        return KV_USAGE;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    r.a = kv_arena_open();
    r.length = length;
    r.chunk = chunk;
    open_model(&r, argv[1], argv[2]);
    r.timeline = fopen(argv[4], "w");
    must(&r, r.timeline || kv_fail(&r.e, KV_ENV, "cannot write '%s'", argv[4]));
    fputs("policy,pass,seen_tokens,entries_in_pass,entries_end,per_head_in_pass_bytes,per_head_end_bytes,pool_bytes,"
          "mapped_bytes\n",
          r.timeline);
    r.token = kv_alloc_many(r.a, (size_t)length, sizeof *r.token, "tokens", &r.e);
    must(&r, r.token != NULL);
    for (int64_t i = 0; i < length; i++)
        r.token[i] = (int32_t)((uint32_t)i * 2654435761u % (uint32_t)r.w.config.vocab);
    warm_up(&r);
    for (int i = 5; i < argc; i++)
        measure(&r, argv[i]);
    bool written = !ferror(r.timeline) && !fclose(r.timeline);
    must(&r, written || kv_fail(&r.e, KV_ENV, "cannot write '%s'", argv[4]));
    r.b->ops->close(r.b);
    if (r.w.layer)
        kv_weights_close(&r.w);
    kv_arena_close(r.a);
    return 0;
}
