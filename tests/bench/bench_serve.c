/* SPDX-License-Identifier: GPL-3.0-or-later */
/* How fast traffic is served: the Azure conversation trace (WORKLOADS=DIR; else a drawn stream of as many requests)
 * under Sarathi's rules with chunks of 512 and 30,208 blocks, on step-time tables (MEASURED=DIR; else the roofline) and
 * on a fit of them, then under vLLM's rules with prefix caching, and with an eviction policy on every sequence. First
 * the engine alone, of requests in memory and with the percentiles of its gaps; then all of serving, which reads the
 * trace and keeps times and memory; then whole processes with CSV output, and of the trace fifty times over.
 *
 * Each figure is the median and the best of several runs; ratios are of medians. Engine and serving are one thread's
 * CPU time, processes what passes. By what a target is missed depends on the machine: nothing fails here. */
#include "sim/serve/serve.h"
#include "tests/bench/clock.h"

#include <fcntl.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { RUNS = 11, PROCESS_RUNS = 7, FOLD_RUNS = 3, FOLD = 50, SET = 32 };

/* Vidur's own loop on this trace with these settings: one replica, no outputs, on two shared cores elsewhere, not here
 * (microsoft/vidur 7d475133, Python 3.11; measured once for its comparison with step-time tables). */
static const double rival_loop_s = 23.9;

struct bench {
    struct kv_arena *arena;
    struct kv_err e;
    const char *program, *folder, *trace, *tables, *fitted; /* trace, tables: NULL: not there */
    struct kv_arrival *request;                             /* (n,) */
    int64_t n;
    double span_s;
};

struct times {
    double best, median;
    int64_t steps;
};

static struct times times_of(double *value, int n, int64_t steps)
{
    qsort(value, (size_t)n, sizeof *value, by_value);
    return (struct times){value[0], value[n / 2], steps};
}

static void fail(const struct kv_err *e)
{
    fprintf(stderr, "bench: %s\n", e->text);
    exit((int)e->status);
}

/* ---- the scenario ---- */

static const char *const sarathi[] = {"engine.scheduler=sarathi", "engine.watermark=1 %", NULL};
static const char *const vllm[] = {"engine.scheduler=vllm", "engine.enable_prefix_caching=true", NULL};

static int collect(struct bench *b, const char **set, const char *const *rules, const char *fitted)
{
    static const char *const common[] = {"model.name=Llama-3-8B",
                                         "hardware.device=a100-80g",
                                         "engine.max_num_batched_tokens=512",
                                         "engine.max_num_seqs=128",
                                         "engine.num_gpu_blocks_override=30208",
                                         "engine.max_model_len=4096",
                                         "workload.too_long=shorten",
                                         "plan.baselines=false",
                                         "policy full.kind=full"};
    /* of the trace's size, rate and means */
    static const char *const drawn[] = {"workload.arrivals=poisson",
                                        "workload.rate=5.53 /s",
                                        "workload.requests=19366",
                                        "workload.prompt_tokens=1155",
                                        "workload.prompt_distribution=lognormal",
                                        "workload.prompt_cv=0.95",
                                        "workload.output_tokens=211",
                                        "workload.output_distribution=lognormal",
                                        "workload.output_cv=0.78"};
    int n = 0;
    for (size_t i = 0; i < sizeof common / sizeof *common; i++)
        set[n++] = common[i];
    for (int i = 0; rules[i]; i++)
        set[n++] = rules[i];
    if (b->trace)
        set[n++] = kv_format(b->arena, "workload.trace=%s", b->trace);
    for (size_t i = 0; !b->trace && i < sizeof drawn / sizeof *drawn; i++)
        set[n++] = drawn[i];
    if (fitted || b->tables) {
        set[n++] = fitted ? "timing.model=fitted" : "timing.model=table";
        set[n++] = kv_format(b->arena, "timing.profile=%s", fitted ? fitted : b->tables);
    }
    KV_ASSERT(n <= SET);
    return n;
}

static struct kv_settings *settings(struct bench *b, const char *const *rules, const char *fitted)
{
    const char *set[SET];
    struct kv_settings *s = KV_NEW(b->arena, struct kv_settings);
    if (!kv_settings_read(NULL, set, collect(b, set, rules, fitted), s, b->arena, &b->e))
        fail(&b->e);
    return s;
}

/* All requests, as long as they are served. */
static void read_requests(struct bench *b, const struct kv_settings *s)
{
    struct kv_workload *w;
    struct kv_arrival next;
    int64_t room = 0;
    if (!kv_workload_open(&w, s, 1, b->arena, &b->e))
        fail(&b->e);
    while (kv_workload_next(w, &next, &b->e) == KV_NEXT_ROW) {
        if (b->n == room) {
            room = room ? 2 * room : 1 << 15;
            b->request = realloc(b->request, sizeof *b->request * (size_t)room);
            KV_ASSERT(b->request);
        }
        if (next.prompt > s->engine.max_model_len - next.output)
            next.prompt = s->engine.max_model_len - next.output;
        b->request[b->n++] = next;
    }
    kv_workload_close(w);
    if (!b->n)
        fail(&b->e);
    b->span_s = b->request[b->n - 1].arrival_s - b->request[0].arrival_s;
}

/* ---- the engine alone ---- */

static void count(void *context, enum kv_engine_event what, struct kv_job *job, int64_t tokens, int64_t computed)
{
    int64_t *finished = context;
    (void)job, (void)tokens, (void)computed;
    *finished += what == KV_FINISHED;
}

static double run_engine(struct bench *b, const struct kv_settings *s, const struct kv_policy *policy,
                         const struct kv_model *m, const struct kv_timing *timing, struct kv_job *job, int64_t *steps)
{
    struct kv_arena *a = kv_arena_open();
    struct kv_quantiles *gaps = KV_NEW(a, struct kv_quantiles);
    struct kv_policy own = *policy;
    struct kv_shape shape;
    struct kv_classes classes;
    struct kv_holder holder;
    int64_t finished = 0;
    bool is_vllm = s->engine.scheduler == KV_SCHEDULER_VLLM;
    struct kv_defaults run = {.chunk = s->engine.max_num_batched_tokens, .dtype = KV_BF16};
    if (!kv_policy_prepare(&own, m, &run, &shape, a, &b->e) || !kv_classes_make(&classes, &own, &shape, a, &b->e))
        fail(&b->e);
    kv_holder_open(&holder, &own, &shape, &classes, s->engine.block_size, KV_SCOPE_LAYER, a);
    struct kv_engine_rules rules = {.scheduler = (enum kv_scheduler)s->engine.scheduler,
                                    .layout = KV_SHARED,
                                    .pages = s->engine.num_gpu_blocks_override - is_vllm,
                                    .max_num_seqs = s->engine.max_num_seqs,
                                    .max_num_batched_tokens = s->engine.max_num_batched_tokens,
                                    .max_model_len = s->engine.max_model_len,
                                    .watermark = is_vllm ? 0 : s->engine.num_gpu_blocks_override / 100,
                                    .prefix_caching = is_vllm,
                                    .async_scheduling = is_vllm,
                                    .reserve_prompt = true};
    struct kv_engine_watch watch = {.context = &finished, .gaps = gaps, .tell = count};
    for (int64_t i = 0; i < b->n; i++)
        job[i] = (struct kv_job){.is = b->request[i], .session = i, .arrival_s = b->request[i].arrival_s};
    struct kv_engine *e = kv_engine_open(&rules, &holder, timing, &watch, a, &b->e);
    if (!e)
        fail(&b->e);
    double start = seconds(CLOCK_THREAD_CPUTIME_ID);
    for (int64_t i = 0; i <= b->n; i++) {
        double until = i < b->n ? job[i].arrival_s : INFINITY;
        while (kv_engine_clock(e) < until)
            if (!kv_engine_run(e, until, &b->e))
                fail(&b->e);
        if (i < b->n)
            kv_engine_add(e, &job[i]);
    }
    double s_all = seconds(CLOCK_THREAD_CPUTIME_ID) - start;
    *steps = kv_engine_sums(e).steps;
    if (finished != b->n) {
        kv_fail(&b->e, KV_NO, "%lld of %lld requests finished", (long long)finished, (long long)b->n);
        fail(&b->e);
    }
    kv_engine_close(e);
    kv_arena_close(a);
    return s_all;
}

static struct times time_engine(struct bench *b, const char *const *rules, const char *fitted, const char *spec)
{
    double value[RUNS];
    int64_t steps;
    struct kv_settings *s = settings(b, rules, fitted);
    struct kv_model m;
    struct kv_timing *timing;
    struct kv_policy policy;
    struct kv_job *job = calloc((size_t)b->n, sizeof *job);
    KV_ASSERT(job);
    if (!kv_settings_model(s, &m, b->arena, &b->e) || !kv_timing_open(&timing, s, &m, b->arena, &b->e) ||
        !kv_policy_from_spec(&policy, spec, b->arena, &b->e))
        fail(&b->e);
    for (int i = 0; i < RUNS; i++)
        value[i] = run_engine(b, s, &policy, &m, timing, job, &steps);
    free(job);
    return times_of(value, RUNS, steps);
}

/* ---- all of serving, within this process ---- */

static struct times time_serving(struct bench *b, const char *const *rules, const char *fitted)
{
    double value[RUNS];
    int64_t steps = 0;
    struct kv_settings *s = settings(b, rules, fitted);
    struct kv_model m;
    struct kv_timing *timing;
    if (!kv_settings_model(s, &m, b->arena, &b->e) || !kv_timing_open(&timing, s, &m, b->arena, &b->e))
        fail(&b->e);
    struct kv_serve_asked asked = {.settings = s,
                                   .model = &m,
                                   .timing = timing,
                                   .policy = &s->policy[0],
                                   .name = "full",
                                   .dtype = KV_BF16,
                                   .prefix_caching = s->engine.enable_prefix_caching,
                                   .seed = 1,
                                   .rate = 1,
                                   .context = 1,
                                   .replicas = 1,
                                   .quiet = true};
    for (int i = 0; i < RUNS; i++) {
        struct kv_arena *a = kv_arena_open();
        struct kv_served *out = KV_NEW(a, struct kv_served);
        double start = seconds(CLOCK_THREAD_CPUTIME_ID);
        if (!kv_serve(out, &asked, a, &b->e))
            fail(&b->e);
        value[i] = seconds(CLOCK_THREAD_CPUTIME_ID) - start;
        steps = out->sums.steps;
        kv_arena_close(a);
    }
    return times_of(value, RUNS, steps);
}

/* ---- processes ---- */

struct process {
    struct times wall;
    double cpu_s, mib; /* of the median; the largest */
};

static struct process time_process(struct bench *b, char *const *command, int runs)
{
    double wall[RUNS], cpu[RUNS];
    struct process p = {0};
    for (int i = 0; i < runs; i++) {
        struct rusage use;
        int status;
        double start = seconds(CLOCK_MONOTONIC);
        pid_t child = fork();
        if (child == 0) {
            int nowhere = open("/dev/null", O_WRONLY);
            if (nowhere < 0 || dup2(nowhere, STDOUT_FILENO) < 0)
                _exit(127);
            execv(command[0], command);
            _exit(127);
        }
        if (child < 0 || wait4(child, &status, 0, &use) != child || status != 0) {
            kv_fail(&b->e, KV_ENV, "'%s %s' fails", command[0], command[1]);
            fail(&b->e);
        }
        wall[i] = seconds(CLOCK_MONOTONIC) - start;
        cpu[i] = (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
                 1e-6 * (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec);
        p.mib = fmax(p.mib, (double)use.ru_maxrss / 1024);
    }
    p.wall = times_of(wall, runs, 0);
    p.cpu_s = times_of(cpu, runs, 0).median;
    return p;
}

static struct process time_plan(struct bench *b, const char *const *rules, const char *fitted, const char *trace,
                                bool files, int runs)
{
    const char *set[SET], *command[2 * SET + 8], *config = kv_format(b->arena, "%s/empty.ini", b->folder);
    int n = 0, n_set = collect(b, set, rules, fitted);
    FILE *empty = fopen(config, "w");
    KV_ASSERT(empty);
    fclose(empty);
    command[n++] = b->program;
    command[n++] = "plan";
    command[n++] = config;
    command[n++] = "-q";
    for (int i = 0; i < n_set; i++) {
        command[n++] = "--set";
        command[n++] =
            trace && !strncmp(set[i], "workload.trace=", 15) ? kv_format(b->arena, "workload.trace=%s", trace) : set[i];
    }
    if (files) {
        command[n++] = "-o";
        command[n++] = kv_format(b->arena, "%s/out", b->folder);
    }
    command[n] = NULL;
    return time_process(b, (char *const *)(const void *)command, runs);
}

/* The requests over and over, each time later by as long as they take to arrive. */
static const char *write_fold(struct bench *b)
{
    const char *path = kv_format(b->arena, "%s/fold.csv", b->folder);
    FILE *out = fopen(path, "w");
    KV_ASSERT(out);
    fputs("request,arrival_s,prompt_tokens,output_tokens\n", out);
    for (int64_t fold = 0; fold < FOLD; fold++)
        for (int64_t i = 0; i < b->n; i++)
            fprintf(out, "%lld,%.9f,%lld,%lld\n", (long long)(fold * b->n + i),
                    b->request[i].arrival_s + (double)fold * b->span_s, (long long)b->request[i].prompt,
                    (long long)b->request[i].output);
    fclose(out);
    return path;
}

static void make_fit(struct bench *b)
{
    b->fitted = kv_format(b->arena, "%s/fit.ini", b->folder);
    const char *command[] = {b->program, "fit", b->tables, "--model", "Llama-3-8B", "-o", b->fitted, "-q", NULL};
    time_process(b, (char *const *)(const void *)command, 1);
}

/* ---- what is printed ---- */

static void print(const char *what, struct times t, double target_s)
{
    printf("%-44s %8.2f ms, best %.2f", what, t.median * 1e3, t.best * 1e3);
    if (t.steps)
        printf("; %lld steps, %.1f ns each", (long long)t.steps, t.median * 1e9 / (double)t.steps);
    if (target_s > 0)
        printf(" (target %g ms)", target_s * 1e3);
    puts("");
}

static void print_process(const char *what, struct process p, const char *target)
{
    printf("%-44s %8.2f ms, best %.2f; CPU %.2f ms; %.0f MiB resident%s\n", what, p.wall.median * 1e3,
           p.wall.best * 1e3, p.cpu_s * 1e3, p.mib, target);
}

static void compare_policies(struct bench *b, struct times full)
{
    static const char *const specs[] = {"snapkv:keep=30%", "streaming:sink_size=4,recent_size=1000",
                                        "prulong:sparsity=50%"};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        struct times t = time_engine(b, sarathi, NULL, specs[i]);
        print(kv_format(b->arena, "  %s", specs[i]), t, 0);
        printf("%-44s %8.2f times full's, %.2f a step (target 3)\n", "", t.median / full.median,
               t.median / (double)t.steps / (full.median / (double)full.steps));
    }
}

static const char *find(struct bench *b, const char *variable, const char *usual, const char *file)
{
    const char *root = getenv(variable), *path;
    path = kv_format(b->arena, "%s/%s", root && *root ? root : usual, file);
    if (!access(path, R_OK))
        return path;
    printf("%s is not there; %s=DIR says where it is\n", path, variable);
    return NULL;
}

static void bench(struct bench *b)
{
    struct times loop = time_engine(b, sarathi, NULL, "full");
    print("engine, sarathi", loop, 25e-3);
    printf("%-44s %8.0f times Vidur's loop, 23.9 s (measured elsewhere)%s\n", "", rival_loop_s / loop.median,
           b->trace && b->tables ? "" : "; of other requests or times");
    if (b->fitted) {
        struct times fitted = time_engine(b, sarathi, b->fitted, "full");
        print("engine, sarathi, fitted", fitted, 5e-3);
        printf("%-44s %8.0f times Vidur's loop\n", "", rival_loop_s / fitted.median);
    }
    print("engine, vllm with prefix caching", time_engine(b, vllm, NULL, "full"), 0);
    compare_policies(b, loop);
    print("serving", time_serving(b, sarathi, NULL), 0);
    if (b->fitted)
        print("serving, fitted", time_serving(b, sarathi, b->fitted), 0);
    print_process("process, with CSV", time_plan(b, sarathi, NULL, NULL, true, PROCESS_RUNS), " (target 60 ms)");
    if (b->fitted)
        print_process("process, fitted, with CSV", time_plan(b, sarathi, b->fitted, NULL, true, PROCESS_RUNS), "");
    if (!b->trace)
        return;
    const char *fold = write_fold(b);
    print_process("process, 50 times the trace", time_plan(b, sarathi, NULL, fold, false, FOLD_RUNS),
                  " (target 500 ms, 190 MiB)");
    if (b->fitted)
        print_process("process, 50 times the trace, fitted", time_plan(b, sarathi, b->fitted, fold, false, FOLD_RUNS),
                      "");
}

int main(void)
{
    static struct bench b;
    char folder[] = "/tmp/bench-serve-XXXXXX";
    gsl_set_error_handler_off();
    setvbuf(stdout, NULL, _IOLBF, 0);
    b.arena = kv_arena_open();
    b.program = "build/release/kvsim";
    b.folder = mkdtemp(folder);
    KV_ASSERT(b.folder);
    b.trace = find(&b, "WORKLOADS", "../shared/workloads", "azure-llm-2023/AzureLLMInferenceTrace_conv.csv");
    b.tables = find(&b, "MEASURED", "../shared/measured", "step_time_a100_llama3_8b");
    if (!b.trace)
        puts("a drawn stream of as many requests instead, and no trace fifty times over");
    if (b.tables)
        make_fit(&b);
    else
        puts("the roofline instead, and no fit");
    read_requests(&b, settings(&b, sarathi, NULL));
    printf("%lld requests in %.0f s\n", (long long)b.n, b.span_s);
    bench(&b);
    free(b.request);
    const char *command[] = {"/bin/rm", "-r", b.folder, NULL};
    time_process(&b, (char *const *)(const void *)command, 1);
    kv_arena_close(b.arena);
    return 0;
}
