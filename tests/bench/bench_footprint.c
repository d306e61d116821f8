/* SPDX-License-Identifier: GPL-3.0-or-later */
/* How fast lengths are counted: a batch of 300 cases, and one request of a million tokens under each policy. Beside the
 * batch, when PRULONG names a checkout of princeton-pli/PruLong and python3 has numpy, the released Python on the same
 * cases, in this run, as a ratio. Median of several runs. */
#include "sim/batch.h"
#include "sim/core/preset.h"
#include "sim/core/random.h"
#include "sim/count.h"
#include "tests/bench/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CASES = 300, RUNS = 15 };

static void fail(const struct kv_err *e)
{
    fprintf(stderr, "bench: %s\n", e->text);
    exit((int)e->status);
}

/* Cases of the paper's kind: 6K to 131K prompts, the evaluated chunks and sparsities. */
static void write_cases(const char *path)
{
    static const int chunks[] = {128, 8192, 32768, 131072}, outputs[] = {6, 20, 100, 1000, 10000};
    FILE *out = fopen(path, "w");
    if (!out)
        exit(KV_ENV);
    fputs("prompt_len,response_len,prefill_chunk_size,sink_tokens,local_window_size,kv_sparsity,head_sparsity\n", out);
    for (uint64_t i = 0; i < CASES; i++) {
        uint64_t r = kv_random(1, kv_purpose("bench"), i, 0);
        fprintf(out, "%d,%d,%d,128,1024,0.%d,0.%d\n", (int)(6000 + r % 125000), outputs[(r >> 20) % 5],
                chunks[(r >> 24) % 4], (int)((r >> 28) % 10), (int)((r >> 32) % 10));
    }
    fclose(out);
}

static double time_batch(const char *path)
{
    static struct kv_err e;
    double value[RUNS];
    for (int i = 0; i < RUNS; i++) {
        struct kv_arena *a = kv_arena_open();
        FILE *out = fopen("/dev/null", "w");
        double start = now();
        if (!kv_batch(path, out, a, &e))
            fail(&e);
        value[i] = now() - start;
        fclose(out);
        kv_arena_close(a);
    }
    return median(value, RUNS);
}

/* Seconds for all cases in the released Python, its cache emptied; 0 when it cannot be run. */
static double time_python(const char *path)
{
    static const char script[] =
        "import csv, importlib.util, os, sys, time, types\n"
        "sys.modules['torch'] = types.ModuleType('torch')\n"
        "spec = importlib.util.spec_from_file_location('f', os.environ['PRULONG'] + '/eval/viz/kv_footprint.py')\n"
        "f = importlib.util.module_from_spec(spec); spec.loader.exec_module(f)\n"
        "rows = [[int(x) for x in r[:5]] + [float(x) for x in r[5:]] for r in "
        "list(csv.reader(open(sys.argv[1])))[1:]]\n"
        "def run():\n"
        "    f.get_kv_footprint.cache_clear(); t = time.perf_counter()\n"
        "    for r in rows: f.get_kv_footprint(*r)\n"
        "    return time.perf_counter() - t\n"
        "print(sorted(run() for _ in range(5))[2])\n";
    if (!getenv("PRULONG"))
        return 0;
    char command[4096];
    const char *python = getenv("PYTHON");
    double seconds = 0;
    snprintf(command, sizeof command, "%s - '%s' <<'END' 2>/dev/null\n%sEND\n", python ? python : "python3", path,
             script);
    FILE *pipe = popen(command, "r");
    if (pipe) {
        if (fscanf(pipe, "%lf", &seconds) != 1)
            seconds = 0;
        pclose(pipe);
    }
    return seconds;
}

static void bench_batch(void)
{
    char path[] = "/tmp/kvsim-bench-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0)
        exit(KV_ENV);
    write_cases(path);
    double ours = time_batch(path), theirs = time_python(path);
    printf("batch of %d cases, read and printed: %.2f ms, %.1f us a case\n", CASES, ours * 1e3, ours * 1e6 / CASES);
    if (theirs > 0)
        printf("released Python, computing alone: %.1f ms, %.0f us a case; ratio %.0f\n", theirs * 1e3,
               theirs * 1e6 / CASES, theirs / ours);
    else
        printf("released Python: skipped; set PRULONG to a checkout of princeton-pli/PruLong, with numpy in python3\n");
    remove(path);
}

static void bench_request(const struct kv_model *m, const char *spec)
{
    static struct kv_err e;
    struct kv_arena *a = kv_arena_open();
    struct kv_counter *counter = KV_NEW(a, struct kv_counter);
    struct kv_policy policy;
    struct kv_defaults run = {.chunk = 8192, .dtype = KV_BF16};
    struct kv_request request = {.prompt = 1000000, .output = 10000, .prefill = 1000000};
    struct kv_count count;
    double value[RUNS];
    if (!kv_policy_from_spec(&policy, spec, a, &e) || !kv_counter_open(counter, &policy, m, &run, 16, a, &e))
        fail(&e);
    for (int i = 0; i < RUNS; i++) {
        double start = now();
        if (!kv_counter_run(counter, &request, &count, &e))
            fail(&e);
        value[i] = now() - start;
    }
    printf("%-34s %8.3f ms for %lld passes\n", spec, median(value, RUNS) * 1e3, (long long)count.passes);
    kv_arena_close(a);
}

int main(void)
{
    static const char *const specs[] = {
        "full",
        "streaming",
        "h2o",
        "l2",
        "duo:sparsity=0.7",
        "snapkv:keep=0.3,patch=64",
        "pyramidkv:keep=0.3",
        "pyramidkv:keep=0.3,store=query-head",
        "locret:keep=0.3",
        "quest",
        "pyramidkv:tokens=4096,when=chunk+decode,every=512",
    };
    static struct kv_err e;
    struct kv_arena *a = kv_arena_open();
    struct kv_model m;
    bench_batch();
    if (!kv_model_find("Llama-3.1-8B", &m, a, &e))
        fail(&e);
    printf("\none request of 1,000,000 prompt and 10,000 output tokens, 32 x 8 lanes, chunks of 8,192\n");
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++)
        bench_request(&m, specs[i]);
    kv_arena_close(a);
    return 0;
}
