/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Measured tables, where they lie beside the tree: how far interpolation is off on points that are left out. These are
 * the figures of docs/TIMING.md; each test prints them and holds them to a bound. */
#include "sim/core/preset.h"
#include "sim/csv.h"
#include "sim/serve/layers.h"
#include "tests/unit/measured.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

/* Relative errors, in the order they came. */
struct errors {
    double *at, sum;
    int n, room;
};

static void add_error(struct errors *x, double got, double wanted)
{
    if (x->n == x->room)
        x->at = realloc(x->at, sizeof *x->at * (size_t)(x->room = x->room ? 2 * x->room : 1024));
    assert_non_null(x->at);
    x->at[x->n++] = fabs(got / wanted - 1);
    x->sum += got / wanted - 1;
}

static int by_value(const void *first, const void *second)
{
    const double *a = first, *b = second;
    return (*a > *b) - (*a < *b);
}

/* Prints mean, median, 90th and 99th percentile, largest, bias; returns the mean. */
static double report(const char *what, struct errors *x)
{
    double mean = 0, bias = x->sum / x->n;
    int n = x->n;
    assert_true(n > 0);
    qsort(x->at, (size_t)n, sizeof *x->at, by_value);
    for (int i = 0; i < n; i++)
        mean += x->at[i] / n;
    print_message(
        "%-58s %6d rows  mean %5.2f %%  p50 %5.2f %%  p90 %5.2f %%  p99 %6.2f %%  max %6.1f %%  bias %+.2f %%\n", what,
        n, 100 * mean, 100 * x->at[n / 2], 100 * x->at[n * 9 / 10], 100 * x->at[n * 99 / 100], 100 * x->at[n - 1],
        100 * bias);
    free(x->at);
    *x = (struct errors){0};
    return mean;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static struct kv_settings settings(const char *profile)
{
    struct kv_settings s = {.path = "test.ini"};
    s.timing.model = KV_TIMING_TABLE;
    s.timing.profile = profile;
    s.timing.attention_batching_overhead = 0.1;
    s.timing.bandwidth_efficiency = 0.8;
    s.hardware.memory_bandwidth = 2e12;
    s.hardware.link_bandwidth = 25e9;
    return s;
}

static struct kv_timing *opened(const char *profile)
{
    struct kv_settings *s = KV_NEW(arena, struct kv_settings);
    struct kv_model *m = KV_NEW(arena, struct kv_model);
    struct kv_timing *t = NULL;
    struct kv_err e = {0};
    *s = settings(profile);
    if (!kv_model_find("Llama-3.1-8B", m, arena, &e) || !kv_timing_open(&t, s, m, arena, &e))
        fail_msg("%s", e.text);
    return t;
}

/* Seconds a call, over steps of decodes with a chunk in each fourth. */
static void time_calls(const char *what, const struct kv_timing *t, int calls)
{
    enum { STEPS = 1024 };
    struct kv_step *step = KV_NEW_N(arena, struct kv_step, STEPS);
    struct kv_step_chunk chunk = {.tokens = 300, .prefix = 512};
    double sum = 0;
    for (int i = 0; i < STEPS; i++) {
        int64_t n = 1 + i % 127;
        double mean = 500 + i * 7 % 3000;
        step[i] = (struct kv_step){.tokens = n + 300 * (i % 4 == 0),
                                   .sequences = n,
                                   .decodes = n,
                                   .decode_kv = (double)n * mean,
                                   .decode_kv_squares = (double)n * mean * mean * 1.5,
                                   .chunk = &chunk,
                                   .n_chunks = i % 4 == 0};
    }
    double begun = now();
    for (int i = 0; i < calls; i++) {
        struct kv_step_time out;
        struct kv_err e;
        e.n = 0;
        if (!kv_timing_step(t, &step[i % STEPS], &out, &e))
            fail_msg("%s", e.text);
        sum += out.s;
    }
    print_message("%s: %.1f ns a step (mean %.3g s)\n", what, 1e9 * (now() - begun) / calls, sum / calls);
}

static void step_time(void **state)
{
    (void)state;
    const char *folder = measured("step_time_a100_llama3_8b");
    if (!folder)
        skip();
    double start = now();
    struct kv_timing *t = opened(folder);
    print_message("step-time tables: loaded in %.1f ms\n", 1e3 * (now() - start));
    struct kv_step step = {.tokens = 1, .sequences = 1, .decodes = 1, .decode_kv = 64};
    struct kv_step_time out;
    struct kv_err e = {0};
    assert_true(kv_timing_step(t, &step, &out, &e));
    assert_true(out.s == 32 * (0.31078999999999984 + 0.0129532796765366 + 0) * 1e-3);
    time_calls("step-time tables", t, 2000000);
}

/* ---- layers ---- */

/* The same correction from the longest length instead of the deviation, which no step carries: t_mean + alpha x (t_max
 * - t_mean), alpha by number of decodes and by whether a chunk is there. What it would be worth. */
struct longest {
    double xy[2][20], xx[2][20];
};

static void learn_longest(struct longest *l, bool mixed, int n, double mean_us, double max_us, double skew_us)
{
    double x = (max_us - mean_us) / skew_us;
    l->xy[mixed][n] += x * (skew_us - mean_us) / skew_us;
    l->xx[mixed][n] += x * x;
}

static double longest_us(const struct longest *l, bool mixed, int n, double mean_us, double max_us)
{
    double alpha = l->xx[mixed][n] > 0 ? fmax(0, l->xy[mixed][n] / l->xx[mixed][n]) : 0;
    return mean_us + alpha * (max_us - mean_us);
}

struct attention_row {
    int64_t key[4];
    double us;
    int64_t line;
};

static struct attention_row *read_attention(const char *path, int *n)
{
    static const char *const names[] = {"prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"};
    struct attention_row *row = KV_NEW_N(arena, struct attention_row, 20000);
    struct kv_csv c;
    struct kv_err e = {0};
    int column[5];
    *n = 0;
    assert_true(kv_csv_open(&c, path, arena, &e) && kv_csv_bind(&c, names, 5, 5, column, &e));
    while (kv_csv_next(&c, &e) == KV_NEXT_ROW) {
        assert_true(*n < 20000);
        for (int k = 0; k < 4; k++)
            assert_true(kv_csv_count(&c, column[k], 0, 1 << 20, &row[*n].key[k], &e));
        assert_true(kv_csv_real(&c, column[4], 0, 1e9, &row[*n].us, &e));
        row[(*n)++].line = c.line;
    }
    kv_csv_close(&c);
    return row;
}

/* Of the tables without the rows whose `axis` key is `value`. */
static struct kv_layer_attention without(const struct attention_row *row, int n, int axis, int64_t value)
{
    struct kv_layer_attention t = kv_layer_attention_empty();
    struct kv_err e = {0};
    for (int i = 0; i < n; i++) {
        const int64_t *key = row[i].key;
        if (axis >= 0 && key[axis] == value)
            continue;
        if (key[0] && key[2])
            kv_ragged_add(&t.mixed, key, row[i].us, row[i].line, &e);
        else if (key[0])
            kv_ragged_add(&t.prefill, key, row[i].us, row[i].line, &e);
        else
            kv_ragged_add(&t.decode, key + 2, row[i].us, row[i].line, &e);
    }
    if (!kv_layer_attention_build(&t, "test", arena, &e))
        fail_msg("%s", e.text);
    return t;
}

/* Each value of each axis left out in turn, everywhere, and asked for again; ends of axes are asked as extrapolation.
 */
static void leave_out(const char *gpu, const struct attention_row *row, int n)
{
    static const char *const axis_name[] = {"chunk", "prefix", "decodes", "decode length"};
    static const double bound[] = {0.2, 0.1, 0.2, 0.1};
    for (int axis = 0; axis < 4; axis++) {
        struct errors inside = {0}, beyond = {0};
        int64_t value[64], largest = 0;
        int values = 0;
        for (int i = 0; i < n; i++) {
            int j = 0;
            while (j < values && value[j] != row[i].key[axis])
                j++;
            if (j == values && row[i].key[axis])
                value[values++] = row[i].key[axis];
            largest = row[i].key[axis] > largest ? row[i].key[axis] : largest;
        }
        for (int j = 0; j < values; j++) {
            struct kv_layer_attention t = without(row, n, axis, value[j]);
            for (int i = 0; i < n; i++) {
                const int64_t *k = row[i].key;
                double outside = 1;
                if (k[axis] != value[j] || k[axis] == (axis == 2 ? 1 : 16))
                    continue;
                double us =
                    kv_layer_attention_us(&t, (double)k[0], (double)k[1], (double)k[2], (double)k[3], 0, &outside);
                add_error(value[j] == largest || outside > 1 ? &beyond : &inside, us, row[i].us);
            }
        }
        double mean = report(kv_format(arena, "%s attention, one %s left out", gpu, axis_name[axis]), &inside);
        report(kv_format(arena, "%s attention, largest %s left out, extrapolated", gpu, axis_name[axis]), &beyond);
        assert_true(mean < bound[axis]);
    }
}

static void skew(const char *gpu, const struct attention_row *row, int n, const char *path)
{
    static const char *const names[] = {"n", "nb", "pc", "kp", "kvs", "kv_big", "t_mean_us", "t_max_us", "t_skew_us"};
    enum { N, BIG, CHUNK, PREFIX, SHORT, LONG, MEAN_US, MAX_US, SKEW_US, COLUMNS };
    enum { FOLDS = 5 };
    struct errors plain = {0}, ours = {0}, ratio = {0}, by_longest = {0};
    for (int fold = 0; fold < FOLDS; fold++) {
        struct kv_layer_attention t = without(row, n, -1, 0);
        struct longest learnt = {0};
        struct kv_csv c;
        struct kv_err e = {0};
        int column[COLUMNS];
        assert_true(kv_layer_skew_read(&t, path, fold, FOLDS, arena, &e));
        for (int pass = 0; pass < 2; pass++) {
            assert_true(kv_csv_open(&c, path, arena, &e) && kv_csv_bind(&c, names, COLUMNS, COLUMNS, column, &e));
            while (kv_csv_next(&c, &e) == KV_NEXT_ROW) {
                double v[COLUMNS], outside = 1;
                for (int i = 0; i < COLUMNS; i++)
                    assert_true(kv_csv_real(&c, column[i], 0, 1e12, &v[i], &e));
                if ((c.line % FOLDS == fold) != pass)
                    continue;
                int n_log = (int)lround(log2(v[N]));
                if (!pass) {
                    learn_longest(&learnt, v[CHUNK] > 0, n_log, v[MEAN_US], v[MAX_US], v[SKEW_US]);
                    continue;
                }
                add_error(&by_longest, longest_us(&learnt, v[CHUNK] > 0, n_log, v[MEAN_US], v[MAX_US]), v[SKEW_US]);
                double share = v[BIG] / v[N], gap = v[LONG] - v[SHORT], mean = v[SHORT] + share * gap;
                double deviation = sqrt(share * (1 - share)) * gap;
                double at_mean = kv_layer_attention_us(&t, v[CHUNK], v[PREFIX], v[N], mean, 0, &outside);
                double us = kv_layer_attention_us(&t, v[CHUNK], v[PREFIX], v[N], mean, deviation, &outside);
                add_error(&ratio, v[MEAN_US] / at_mean, 1);
                add_error(&plain, v[MEAN_US], v[SKEW_US]);
                add_error(&ours, v[MEAN_US] * us / at_mean, v[SKEW_US]);
            }
            kv_csv_close(&c);
        }
    }
    double before = report(kv_format(arena, "%s unequal decodes, as their mean", gpu), &plain);
    double after = report(kv_format(arena, "%s unequal decodes, corrected, rows kept out", gpu), &ours);
    report(kv_format(arena, "%s the same by the longest, rows kept out", gpu), &by_longest);
    report(kv_format(arena, "%s the skew run's mean over the table's, - 1", gpu), &ratio);
    assert_true(after < 0.85 * before);
}

static void layers(void **state)
{
    (void)state;
    static const char *const gpus[] = {"rtxpro6000", "rtx4090"};
    int there = 0;
    for (int i = 0; i < 2; i++) {
        const char *folder = measured(kv_format(arena, "llmservingsim/%s_llama31_8b_tp1", gpus[i]));
        int n;
        if (!folder)
            continue;
        there++;
        double start = now();
        struct kv_timing *t = opened(folder);
        print_message("%s layers: loaded in %.1f ms\n", gpus[i], 1e3 * (now() - start));
        time_calls(gpus[i], t, 200000);
        struct attention_row *row = read_attention(kv_format(arena, "%s/attention.csv", folder), &n);
        leave_out(gpus[i], row, n);
        skew(gpus[i], row, n, kv_format(arena, "%s/skew_every4th.csv", folder));
    }
    if (!there)
        skip();
}

/* ---- kernels ---- */

struct kernel_row {
    int64_t key[3];
    double ms;
    int64_t line;
};

/* `text`: the column whose cells must be `wanted`, or NULL. */
static struct kernel_row *read_kernels(const char *path, const char *const *names, int keys, const char *text,
                                       const char *wanted, int *n)
{
    struct kernel_row *row = KV_NEW_N(arena, struct kernel_row, 5000);
    const char *columns[5] = {0};
    struct kv_csv c;
    struct kv_err e = {0};
    int column[5];
    for (int k = 0; k < keys; k++)
        columns[k] = names[k];
    columns[keys] = "latency_ms";
    columns[keys + 1] = text;
    *n = 0;
    assert_true(kv_csv_open(&c, path, arena, &e) && kv_csv_bind(&c, columns, keys + 1, keys + 2, column, &e));
    while (kv_csv_next(&c, &e) == KV_NEXT_ROW) {
        if (text && strcmp(c.cell[column[keys + 1]], wanted))
            continue;
        assert_true(*n < 5000);
        for (int k = 0; k < keys; k++)
            assert_true(kv_csv_count(&c, column[k], 0, 1 << 20, &row[*n].key[k], &e));
        assert_true(kv_csv_real(&c, column[keys], 0, 1e9, &row[*n].ms, &e));
        row[(*n)++].line = c.line;
    }
    kv_csv_close(&c);
    return row;
}

/* Each value of one axis left out in turn, ends apart. */
static void leave_kernels_out(const char *what, const struct kernel_row *row, int n, struct kv_ragged shape, int axis)
{
    struct errors inside = {0};
    int64_t least = INT64_MAX, most = 0, last = -1;
    for (int i = 0; i < n; i++) {
        least = row[i].key[axis] < least ? row[i].key[axis] : least;
        most = row[i].key[axis] > most ? row[i].key[axis] : most;
    }
    for (;;) {
        int64_t value = INT64_MAX;
        for (int i = 0; i < n; i++)
            if (row[i].key[axis] > last && row[i].key[axis] < value)
                value = row[i].key[axis];
        if (value == INT64_MAX)
            break;
        last = value;
        if (value == least || value == most)
            continue;
        struct kv_ragged r = shape;
        struct kv_err e = {0};
        for (int i = 0; i < n; i++)
            if (row[i].key[axis] != value)
                assert_true(kv_ragged_add(&r, row[i].key, row[i].ms, row[i].line, &e));
        assert_true(kv_ragged_build(&r, what, arena, &e));
        for (int i = 0; i < n; i++) {
            double outside = 1,
                   x[KV_RAGGED_KEYS] = {(double)row[i].key[0], (double)row[i].key[1], (double)row[i].key[2]};
            double got = row[i].key[axis] == value ? kv_ragged_at(&r, x, &outside) : 0;
            if (row[i].key[axis] == value && outside == 1)
                add_error(&inside, got, row[i].ms);
        }
    }
    assert_true(report(what, &inside) < 0.35);
}

static void kernels(void **state)
{
    (void)state;
    static const char *const folders[] = {"a100_vllm_0.14.0", "h200_vllm_0.24.0"};
    static const char *const gemm[] = {"n", "k", "m"}, *const decode[] = {"batch_size", "kv_len"},
                             *const prefill[] = {"batch_size", "isl"};
    int there = 0, n;
    for (int i = 0; i < 2; i++) {
        const char *folder = measured(kv_format(arena, "aiconfigurator/%s", folders[i]));
        if (!folder)
            continue;
        there++;
        double start = now();
        struct kv_timing *t = opened(folder);
        print_message("%s kernels: loaded in %.1f ms: %s\n", folders[i], 1e3 * (now() - start), kv_timing_stamp(t));
        time_calls(folders[i], t, 200000);
        struct kernel_row *row = read_kernels(kv_format(arena, "%s/gemm_bf16.csv", folder), gemm, 3, NULL, NULL, &n);
        for (int axis = 0; axis < 3; axis++)
            leave_kernels_out(kv_format(arena, "%s products, one %s left out", folders[i], gemm[axis]), row, n,
                              (struct kv_ragged){.keys = 3}, axis);
        row = read_kernels(kv_format(arena, "%s/attn_decode_h32_kv8_d128.csv", folder), decode, 2, "kv_cache_dtype",
                           "bfloat16", &n);
        for (int axis = 0; axis < 2; axis++)
            leave_kernels_out(kv_format(arena, "%s decode attention, one %s left out", folders[i], decode[axis]), row,
                              n, (struct kv_ragged){.keys = 2, .law = {KV_AXIS_BYTES, KV_AXIS_LINEAR}}, axis);
        row = read_kernels(kv_format(arena, "%s/attn_prefill_h32_kv8_d128.csv", folder), prefill, 2, "kv_cache_dtype",
                           "bfloat16", &n);
        for (int axis = 0; axis < 2; axis++)
            leave_kernels_out(kv_format(arena, "%s prompt attention, one %s left out", folders[i], prefill[axis]), row,
                              n, (struct kv_ragged){.keys = 2, .law = {KV_AXIS_LINEAR, KV_AXIS_SQUARES}}, axis);
    }
    if (!there)
        skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(step_time), cmocka_unit_test(layers),
                                       cmocka_unit_test(kernels)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
