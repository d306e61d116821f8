/* SPDX-License-Identifier: GPL-3.0-or-later */
/* How fast kvengine computes on this machine, beside what the machine can do, measured in the same run: prefill beside
 * OpenBLAS' sgemm in the same shapes, decode beside reading memory, what window sums and eviction add to prefill, and
 * whether evicted memory leaves. Random weights of 100M parameters in /tmp. Where PYTHON has torch and transformers,
 * the same weights there. Best of several runs each. */
#include "engine/cpu/blas.h"
#include "engine/live.h"
#include "sim/core/random.h"
#include "sim/team.h"
#include "tests/bench/clock.h"

#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { PROMPT = 1024, CHUNK = 512, STEPS = 16, TIMES = 4, RUNS = 2, WINDOW = 64, PAGE = 64 };

static const struct kv_config shape = {.name = "bench",
                                       .architecture = "LlamaForCausalLM",
                                       .layers = 12,
                                       .hidden = 768,
                                       .q_heads = 12,
                                       .kv_heads = 4,
                                       .head_dim = 64,
                                       .intermediate = 3072,
                                       .vocab = 32000,
                                       .max_positions = 1 << 20,
                                       .rms_eps = 1e-5,
                                       .rope_theta = 10000,
                                       .tied = true,
                                       .bos = -1};

struct bench {
    struct kv_arena *a;
    struct kv_err e;
    char folder[64];
    struct kv_weights w;
    struct kv_backend *b;
    int threads;
    int32_t *token;
};

static void must(struct bench *b, bool good)
{
    if (good)
        return;
    fprintf(stderr, "bench: %s\n", b->e.text);
    exit((int)b->e.status);
}

static void open_model(struct bench *b, const struct kv_config *c, enum kv_tensor_type type, int64_t pool)
{
    struct kv_backend_asked asked = {.dtype = KV_FP32, .page = PAGE, .pool_bytes = pool, .threads = b->threads};
    must(b, kv_weights_random(b->folder, c, type, 1, 0, b->a, &b->e));
    must(b, kv_weights_open(&b->w, b->folder, NULL, b->a, &b->e));
    must(b, kv_backend_cpu.open(&b->b, &b->w, &asked, &b->e));
}

static void close_model(struct bench *b)
{
    b->b->ops->close(b->b);
    kv_weights_close(&b->w);
    unlink(kv_format(b->a, "%s/config.json", b->folder));
    unlink(kv_format(b->a, "%s/model.safetensors", b->folder));
}

/* ---- what the machine can do ---- */

/* GFLOP/s of sgemm in the shapes of the linear layers of a chunk, weighted as they occur. */
static double gemm_limit(const struct bench *b)
{
    const int outs[] = {768, 256, 256, 768, 3072, 3072, 768}, ins[] = {768, 768, 768, 768, 768, 768, 3072};
    float *x = calloc((size_t)CHUNK * 3072, 4), *w = calloc((size_t)3072 * 3072, 4),
          *y = calloc((size_t)CHUNK * 3072, 4);
    double best = 0;
    openblas_set_num_threads(b->threads);
    for (int run = 0; run < 10; run++) {
        double start = now(), flops = 0;
        for (int i = 0; i < 7; i++) {
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, CHUNK, outs[i], ins[i], 1, x, ins[i], w, ins[i], 0, y,
                        outs[i]);
            flops += 2.0 * CHUNK * outs[i] * ins[i];
        }
        double rate = flops / (now() - start) * 1e-9;
        best = rate > best ? rate : best;
    }
    free(x);
    free(w);
    free(y);
    return best;
}

struct reader {
    const uint64_t *x;
    int64_t n;
    int members;
    uint64_t sum[64];
};

static void read_part(void *reader_, int member)
{
    struct reader *r = reader_;
    const uint64_t *x = r->x + r->n / r->members * member;
    uint64_t s[16] = {0};
    for (int64_t i = 0; i + 16 <= r->n / r->members; i += 16) {
        __builtin_prefetch(x + i + 1536, 0, 2); /* as far ahead as pays; it need not be there */
        __builtin_prefetch(x + i + 1544, 0, 2);
        for (int j = 0; j < 16; j++)
            s[j] += x[i + j];
    }
    for (int j = 1; j < 16; j++)
        s[0] += s[j];
    r->sum[member] = s[0];
}

/* GB/s of reading as much memory as the weights are. */
static double memory_limit(struct bench *b, int64_t bytes)
{
    struct kv_team *team = kv_team_open(b->threads, b->a);
    uint64_t *x = malloc((size_t)bytes);
    memset(x, 1, (size_t)bytes);
    struct reader r = {.x = x, .n = bytes / 8, .members = kv_team_members(team)};
    double best = 0;
    for (int run = 0; run < 10; run++) {
        double start = now();
        kv_team_run(team, read_part, &r);
        double rate = (double)bytes / (now() - start) * 1e-9;
        best = rate > best ? rate : best;
    }
    kv_team_close(team);
    free(x);
    return r.sum[0] ? best : 0;
}

/* ---- runs ---- */

struct took {
    double prefill, score, evict; /* seconds */
    double decode;                /* of STEPS tokens, the fastest of TIMES */
};

static unsigned want_windows(void *context, const struct kv_live *l, bool *query_rows)
{
    (void)context;
    (void)l;
    *query_rows = false;
    return KV_BIT(KV_WINDOW_SEEN);
}

static bool take_scores(void *context, struct kv_live *l, int64_t layer, struct kv_err *e)
{
    (void)context;
    (void)l;
    (void)layer;
    (void)e;
    return true;
}

static bool take_end(void *context, struct kv_live *l, struct kv_err *e)
{
    (void)context;
    (void)l;
    (void)e;
    return true;
}

static struct took run_once(struct bench *b, const char *spec, bool windows)
{
    struct kv_live l, *one[] = {&l};
    struct kv_live_watch watch = {.wants = want_windows, .scores = take_scores, .ends = take_end};
    struct kv_policy policy;
    struct kv_defaults run = {.chunk = CHUNK, .dtype = KV_FP32};
    struct took took = {0};
    must(b, kv_policy_from_spec(&policy, spec, b->a, &b->e));
    must(b, kv_live_open(&l, b->b, &b->w, &policy, &run, b->token, PROMPT, TIMES * STEPS + 1, WINDOW, PAGE, false, b->a,
                         &b->e));
    l.watch = windows ? &watch : NULL;
    while (kv_live_next(&l))
        must(b, kv_live_step(one, 1, &b->e));
    took.prefill = l.pass_s;
    took.score = l.score_s;
    took.evict = l.evict_s;
    took.decode = INFINITY;
    for (int times = 0; times < TIMES; times++) {
        double before = l.pass_s;
        for (int i = 0; i < STEPS; i++) {
            kv_live_add(&l, kv_live_greedy(&l));
            must(b, kv_live_step(one, 1, &b->e));
        }
        took.decode = fmin(took.decode, l.pass_s - before);
    }
    kv_live_close(&l);
    return took;
}

/* Of each time the least. */
static struct took best_run(struct bench *b, const char *spec, bool windows)
{
    struct took best = run_once(b, spec, windows);
    for (int i = 1; i < RUNS; i++) {
        struct took t = run_once(b, spec, windows);
        best.prefill = t.prefill < best.prefill ? t.prefill : best.prefill;
        best.score = t.score < best.score ? t.score : best.score;
        best.evict = t.evict < best.evict ? t.evict : best.evict;
        best.decode = t.decode < best.decode ? t.decode : best.decode;
    }
    return best;
}

static double linear_flops(const struct kv_config *c)
{
    double kv = (double)(c->kv_heads * c->head_dim), q = (double)(c->q_heads * c->head_dim), h = (double)c->hidden;
    return 2.0 * (double)c->layers * (h * (2 * q + 2 * kv) + 3 * h * (double)c->intermediate);
}

/* ---- transformers on the same weights ---- */

static const char peer[] =
    "import sys, time, torch\n"
    "from transformers import AutoModelForCausalLM\n"
    "folder, threads, prompt, chunk, steps = sys.argv[1], *map(int, sys.argv[2:])\n"
    "torch.set_num_threads(threads)\n"
    "model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype='auto').eval()\n"
    "ids = torch.randint(0, 32000, (1, prompt + steps))\n"
    "best = [1e9, 1e9]\n"
    "with torch.no_grad():\n"
    "    for run in range(2):\n"
    "        past, start = None, time.time()\n"
    "        for at in range(0, prompt, chunk):\n"
    "            past = model(ids[:, at:at + chunk], past_key_values=past, use_cache=True).past_key_values\n"
    "        best[0] = min(best[0], time.time() - start)\n"
    "        start = time.time()\n"
    "        for i in range(steps):\n"
    "            past = model(ids[:, prompt + i:prompt + i + 1], past_key_values=past, "
    "use_cache=True).past_key_values\n"
    "        best[1] = min(best[1], time.time() - start)\n"
    "print(prompt / best[0], steps / best[1])\n";

static void beside_transformers(struct bench *b, double our_prefill, double our_decode)
{
    const char *python = getenv("PYTHON"), *script = kv_format(b->a, "%s/peer.py", b->folder);
    FILE *file = fopen(script, "w");
    if (file) {
        fputs(peer, file);
        fclose(file);
    }
    FILE *answer = popen(kv_format(b->a, "HF_HUB_OFFLINE=1 %s %s %s %d %d %d %d 2>/dev/null",
                                   python ? python : "python3", script, b->folder, b->threads, PROMPT, CHUNK, STEPS),
                         "r");
    double prefill = 0, decode = 0;
    if (answer && fscanf(answer, "%lf %lf", &prefill, &decode) == 2)
        printf("  transformers: prefill %.0f tok/s, ours %.2f x; decode %.1f tok/s, ours %.2f x\n", prefill,
               our_prefill / prefill, decode, our_decode / decode);
    else
        puts("  no torch and transformers in PYTHON: kvengine alone");
    if (answer)
        pclose(answer);
    unlink(script);
}

static void measure_speed(struct bench *b, enum kv_tensor_type type, const char *name)
{
    open_model(b, &shape, type, INT64_C(1) << 31);
    const struct kv_config *c = &b->w.config;
    double attention = 4.0 * (double)(c->layers * c->q_heads * c->head_dim) * PROMPT * PROMPT / 2;
    double flops = linear_flops(c) * PROMPT + attention, gemm = gemm_limit(b);
    double memory = memory_limit(b, b->w.bytes);
    struct took full = best_run(b, "full", false), windows = best_run(b, "full", true);
    struct took evicts = best_run(b, "l2:keep=30%,when=chunk,skip_layers=0,recent_size=0", false);
    gemm = fmax(gemm, gemm_limit(b)); /* the machine may have been busy then */
    memory = fmax(memory, memory_limit(b, b->w.bytes));
    double rate = flops / full.prefill * 1e-9, step = full.decode / STEPS;
    double kv = 2.0 * (double)(c->layers * c->kv_heads * c->head_dim) * (PROMPT + TIMES * STEPS / 2) * 4;
    double reads = ((double)b->w.bytes + kv) / step * 1e-9;
    printf("%s, %d threads, %lld M parameters\n", name, b->threads, (long long)(b->w.parameters / 1000000));
    printf("  prefill %d tokens in chunks of %d: %.0f tok/s, %.1f GFLOP/s; sgemm %.1f: %.0f %% (goal 70)\n", PROMPT,
           CHUNK, PROMPT / full.prefill, rate, gemm, 100 * rate / gemm);
    printf("  decode: %.1f tok/s, %.2f GB/s; reading memory %.2f: %.0f %% (goal 80)\n", 1 / step, reads, memory,
           100 * reads / memory);
    printf("  window sums of %d queries: %.1f %% of prefill (goal 5)\n", WINDOW, 100 * windows.score / windows.prefill);
    printf("  eviction at each chunk: %.1f %% of prefill (goal 3); its norms %.1f %%\n",
           100 * evicts.evict / evicts.prefill, 100 * evicts.score / evicts.prefill);
    beside_transformers(b, PROMPT / full.prefill, 1 / step);
    close_model(b);
}

/* ---- memory ---- */

/* Resident, page by page of the system: the counter in statm is kept in batches. */
static double process_mib(void)
{
    FILE *in = fopen("/proc/self/smaps_rollup", "r");
    char line[256];
    long long kib = 0;
    while (in && fgets(line, sizeof line, in) && sscanf(line, "Rss: %lld kB", &kib) != 1)
        ;
    if (in)
        fclose(in);
    return (double)kib / 1024;
}

/* A cache of more than 1 GiB of which 30 % stay: what the process gives back when the sequence's pages go is what the
 * ledger, which is the simulator's, said it held; to a page for each thread, the slab of this backend. */
static bool measure_memory(struct bench *b)
{
    enum { LONG = 5120 };
    struct kv_config c = shape;
    c.layers = 64;
    c.hidden = 64;
    c.q_heads = c.kv_heads = 8;
    c.intermediate = 64;
    c.vocab = 100;
    open_model(b, &c, KV_TENSOR_F32, INT64_C(3) << 30);
    int32_t *token = KV_NEW_N(b->a, int32_t, LONG);
    struct kv_live l, *one[] = {&l};
    struct kv_policy policy;
    struct kv_defaults run = {.chunk = CHUNK, .dtype = KV_FP32};
    double most = 0;
    must(b, kv_policy_from_spec(&policy, "l2:when=postfill,keep=30%,skip_layers=0", b->a, &b->e));
    must(b, kv_live_open(&l, b->b, &b->w, &policy, &run, token, LONG, 1, 0, PAGE, false, b->a, &b->e));
    while (kv_live_next(&l)) {
        must(b, kv_live_step(one, 1, &b->e));
        most = process_mib() > most ? process_mib() : most;
    }
    double page = (double)kv_ledger_page_bytes(&l.cache.ledger, KV_PER_HEAD) / 1048576, after = process_mib();
    const struct kv_page_count *g = &l.cache.ledger.pages[KV_PER_HEAD][KV_COMPACT];
    double said = (double)g->end * page;
    kv_live_leave(&l);
    double list = said / page * sizeof(int32_t) / 1048576; /* of free pages, which grows as they come back */
    double held = after - process_mib() + list;
    bool good = held - said <= page * b->threads && said - held <= page * b->threads;
    printf("memory: 30 %% of a cache of %.0f MiB stay; pages of %.0f MiB at their peak\n",
           (double)(2 * c.layers * c.kv_heads * c.head_dim * LONG * 4) / 1048576,
           (double)g->peak[KV_SCOPE_LAYER].value * page);
    printf("  resident: %.0f MiB at most at ends of passes, %.0f after eviction, of which pages %.3f; the ledger says "
           "%.3f%s\n",
           most, after, held, said, good ? "" : ": more than a page for each thread apart");
    kv_live_close(&l);
    close_model(b);
    return good;
}

int main(int argc, char **argv)
{
    kv_blas_choose(argv);
    struct bench b = {.a = kv_arena_open(), .folder = "/tmp/kvbenchXXXXXX"};
    b.threads = argc > 1 ? atoi(argv[1]) : kv_team_cores();
    if (b.threads < 1 || b.threads > 64 || !mkdtemp(b.folder)) {
        fprintf(stderr, "bench: threads are 1 to 64, and /tmp must be writable\n");
        return 4;
    }
    b.token = KV_NEW_N(b.a, int32_t, PROMPT);
    for (uint64_t i = 0; i < PROMPT; i++)
        b.token[i] = (int32_t)(kv_random(1, 2, 3, i) % 32000);
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("%s\n", openblas_get_config());
    measure_speed(&b, KV_TENSOR_F32, "f32");
    measure_speed(&b, KV_TENSOR_BF16, "bf16");
    bool good = measure_memory(&b);
    rmdir(b.folder);
    kv_arena_close(b.a);
    return good ? 0 : 1;
}
