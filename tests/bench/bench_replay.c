/* SPDX-License-Identifier: GPL-3.0-or-later */
/* How fast a trace is replayed: 128K prompt, 8K chunks, 32 x 8 lanes, window sums over all keys, made on the spot.
 * Whole processes, from warm files, median of several runs: kvsim with one and with eight budgets, and, where PYTHON
 * (python3) has numpy and h5py, the same decisions in numpy from the same file with as many processes as kvsim uses
 * threads. The trace is zstd where that Python has hdf5plugin, else gzip, for both. Then where the time goes, and
 * memory at a million tokens. */
#include "sim/core/cache.h"
#include "sim/synth.h"
#include "sim/team.h"
#include "tests/bench/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RUNS = 5, PROMPT = 131072, CHUNK = 8192, LAYERS = 32, HEADS = 8 };

static const char *const budgets[] = {"0.02", "0.05", "0.10", "0.20", "0.30", "0.40", "0.50", "0.70"};
enum { BUDGETS = 8, ONE = 4 };

static void fail(const struct kv_err *e)
{
    fprintf(stderr, "bench: %s\n", e->text);
    exit((int)e->status);
}

/* Seconds of a whole process; -1 when it fails. Its largest resident size in *mib. */
static double time_process(const char *command, double *mib)
{
    double start = now();
    struct rusage use;
    int status;
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    if (child < 0 || wait4(child, &status, 0, &use) != child || status != 0)
        return -1;
    *mib = (double)use.ru_maxrss / 1024;
    return now() - start;
}

static double median_process(const char *command, int runs, double *mib)
{
    double value[RUNS];
    for (int i = 0; i < runs; i++)
        if ((value[i] = time_process(command, mib)) < 0)
            return -1;
    return median(value, runs);
}

static void make_trace(const char *path, int64_t prompt, int64_t chunk, int64_t layers, enum kv_filter filter)
{
    static struct kv_err e;
    struct kv_arena *a = kv_arena_open();
    struct kv_synth_asked asked = {.model = "bench",
                                   .layers = layers,
                                   .q_heads = HEADS * 4,
                                   .kv_heads = HEADS,
                                   .head_dim = 128,
                                   .n_prompt = prompt,
                                   .chunk = chunk,
                                   .decode_tick = 1,
                                   .window = 64,
                                   .channels = 1u << KV_WINDOW_SEEN,
                                   .encoding = KV_ENC_LOG12,
                                   .seed = 1};
    double start = now();
    struct kv_synth *s = kv_synth_open(&asked, kv_team_cores(), a, &e);
    if (!s || !kv_synth_write(s, path, filter, kv_team_cores(), true, a, &e))
        fail(&e);
    kv_arena_close(a);
    printf("trace: %lld tokens, %lld lanes, ticks of %lld, %s: made in %.1f s\n", (long long)prompt,
           (long long)(layers * HEADS), (long long)chunk, kv_filter_names[filter], now() - start);
}

static const char *policies(int from, int n, char *text, size_t room)
{
    size_t length = 0;
    for (int i = from; i < from + n; i++)
        length += (size_t)snprintf(text + length, room - length,
                                   " --policy snapkv:law=growing,stabilizers=0,local_len=0,keep=%s", budgets[i]);
    return text;
}

static void compare(const char *program, const char *path, const char *python, int from, int n)
{
    char command[4096], specs[2048], keeps[256] = "";
    double mib = 0, peer_mib = 0;
    for (int i = from; i < from + n; i++)
        snprintf(keeps + strlen(keeps), sizeof keeps - strlen(keeps), " %s", budgets[i]);
    snprintf(command, sizeof command, "%s replay %s -q --csv%s >/dev/null", program, path,
             policies(from, n, specs, sizeof specs));
    double own = median_process(command, RUNS, &mib);
    if (own < 0) {
        fprintf(stderr, "bench: '%s' fails\n", command);
        exit(1);
    }
    printf("%d budget%s: %.2f s, %.0f MiB resident\n", n, n == 1 ? "" : "s", own, mib);
    if (!python)
        return;
    snprintf(command, sizeof command, "%s tests/bench/replay_numpy.py %s %d%s >/dev/null", python, path,
             kv_team_cores(), keeps);
    double peer = median_process(command, 1, &peer_mib);
    if (peer > 0)
        printf("  numpy + h5py, %d processes: %.1f s, %.1f times as long\n", kv_team_cores(), peer, peer / own);
}

/* Where the time of one thread goes, in ns a number. */
static void split(const char *path)
{
    static struct kv_err e;
    struct kv_arena *a = kv_arena_open();
    struct kv_trace *t;
    struct kv_trace_about about;
    if (!kv_trace_open(&t, path, &about, a, &e))
        fail(&e);
    struct kv_trace_work *w = kv_trace_work_open(t, &e);
    struct kv_cache_work c;
    float *row = kv_alloc(a, sizeof *row * (PROMPT + KV_SLACK)), *out = kv_alloc(a, sizeof *row * (PROMPT + KV_SLACK));
    int64_t last = about.n_ticks - 1, streams = 64;
    if (!w || !kv_cache_work_open(&c, PROMPT, 1, &e))
        fail(&e);
    uint64_t *set = kv_alloc(a, sizeof *set * (size_t)kv_words(PROMPT));
    double read = 0, compress = 0, pool = 0, top = 0, n = 0, held = 0;
    for (int64_t i = 0; i < PROMPT; i += 3)
        kv_set_fill(set, i, i + 1);
    for (int64_t s = 0; s < streams; s++) {
        double at[5] = {now()};
        if (!kv_trace_row(t, 0, last, s, row, w, &e))
            fail(&e);
        at[1] = now();
        int64_t count = c.select->compress(row, set, PROMPT, out);
        at[2] = now();
        c.select->pool_sum(out, count, 5, c.pool);
        at[3] = now();
        c.select->top(c.pool, count, count / 3, c.mask, &c.top);
        at[4] = now();
        read += at[1] - at[0];
        compress += at[2] - at[1];
        pool += at[3] - at[2];
        top += at[4] - at[3];
        n += PROMPT;
        held += (double)count;
    }
    printf("one thread, ns: read + unzip + check + decode %.2f a number; pick survivors %.2f a number; pool %.2f, "
           "select %.2f a "
           "candidate (%s)\n",
           read / n * 1e9, compress / n * 1e9, pool / held * 1e9, top / held * 1e9, c.select->name);
    kv_trace_work_close(w);
    kv_cache_work_close(&c);
    kv_trace_close(t);
    kv_arena_close(a);
}

int main(void)
{
    const char *python = getenv("PYTHON"), *program = "build/release/kvsim";
    char path[64], command[512];
    double mib;
    python = python ? python : "python3";
    snprintf(path, sizeof path, "/tmp/bench-replay-%ld.kvt.h5", (long)getpid());
    snprintf(command, sizeof command, "%s -c 'import numpy, h5py' 2>/dev/null", python);
    bool peer = time_process(command, &mib) >= 0;
    snprintf(command, sizeof command, "%s -c 'import hdf5plugin' 2>/dev/null", python);
    bool zstd = !peer || time_process(command, &mib) >= 0;
    if (!peer)
        puts("no numpy and h5py in PYTHON: kvsim alone");
    make_trace(path, PROMPT, CHUNK, LAYERS, zstd ? KV_FILTER_ZSTD : KV_FILTER_GZIP);
    compare(program, path, peer ? python : NULL, ONE, 1);
    compare(program, path, peer ? python : NULL, 0, BUDGETS);
    if (!zstd) {
        make_trace(path, PROMPT, CHUNK, LAYERS, KV_FILTER_ZSTD);
        compare(program, path, NULL, ONE, 1);
        compare(program, path, NULL, 0, BUDGETS);
    }
    split(path);
    make_trace(path, 1 << 20, 1 << 18, LAYERS, KV_FILTER_ZSTD);
    compare(program, path, NULL, ONE, 1);
    unlink(path);
    return 0;
}
