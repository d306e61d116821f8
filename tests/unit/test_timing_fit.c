/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The fitted model: coefficients that are known come back from rows with noise and outliers, within their intervals;
 * what is not in the rows is not known; files read back exactly; and the time of steps is the formula's. */
#include "sim/core/preset.h"
#include "sim/core/random.h"
#include "sim/serve/fit.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static struct kv_arena *arena;
static char file[] = "/tmp/kv_timing_fit_XXXXXX";

static int set_up(void **state)
{
    (void)state;
    gsl_set_error_handler_off();
    arena = kv_arena_open();
    int fd = mkstemp(file);
    return fd < 0 ? -1 : close(fd);
}

static int tear_down(void **state)
{
    (void)state;
    kv_arena_close(arena);
    return unlink(file);
}

/* Coefficients like a GPU's: 2 ms, 20 us a token, never fewer than 170. */
static const double known[KV_FIT_TERMS] = {
    [KV_FIT_BASE] = 2e-3,        [KV_FIT_TOKEN] = 2e-5,  [KV_FIT_DECODE_KV] = 3e-8,
    [KV_FIT_BESIDE_KV] = 1.5e-8, [KV_FIT_PAIR] = 1e-9,   [KV_FIT_PREFIX] = 2e-8,
    [KV_FIT_SEQUENCE] = 1e-5,    [KV_FIT_MOVED] = 6e-13, [KV_FIT_SCORED] = 4e-13,
};
enum { MOST_ROWS = 2000, KNEE = 170 };

static double uniform(uint64_t seed, uint64_t i)
{
    return (double)(kv_random(seed, kv_purpose("test"), 0, i) >> 11) * 0x1p-53;
}

/* Steps of all kinds, `noise` the deviation of their error; a share of `outliers` takes 1.5 to 3 times as long. */
static int make_rows(struct kv_fit_row *row, uint64_t seed, const double *c, double knee, double noise, double outliers,
                     double kept_out)
{
    static const int64_t chunks[] = {0, 16, 64, 256, 1024, 2048}, decodes[] = {0, 1, 4, 16, 64, 256};
    struct kv_fit truth = {.knee = knee};
    int n = 0;
    uint64_t draw = 0;
    for (int i = 0; i < KV_FIT_TERMS; i++) {
        truth.there[i] = true;
        truth.c[i] = c[i];
    }
    for (int ci = 0; ci < 6; ci++)
        for (int64_t p = 0; p <= (ci ? 8192 : 0); p = p ? 8 * p : 128)
            for (int d = !ci; d < 6; d++)
                for (int64_t k = 128; k <= (decodes[d] ? 32768 : 128); k *= 4) {
                    struct kv_step_chunk chunk = {chunks[ci], (double)p};
                    struct kv_step step = {.tokens = chunks[ci] + decodes[d],
                                           .sequences = decodes[d] + !!ci,
                                           .decodes = decodes[d],
                                           .decode_kv = (double)(decodes[d] * k),
                                           .chunk = &chunk,
                                           .n_chunks = !!ci};
                    assert_true(n < MOST_ROWS - 20);
                    kv_fit_row_of(&row[n++], &step, 1);
                }
    for (int i = 0; i < 20; i++) {
        row[n] = (struct kv_fit_row){.kind = KV_FIT_EVICTION};
        row[n++].x[i % 2 ? KV_FIT_MOVED : KV_FIT_SCORED] = 1e8 * (1 + i);
    }
    for (int i = 0; i < n; i++) {
        /* the sum of twelve uniform draws is nearly normal */
        double z = -6;
        for (int j = 0; j < 12; j++)
            z += uniform(seed, draw++);
        row[i].s = kv_fit_seconds(&truth, row[i].x) * (1 + noise * z);
        if (uniform(seed, draw++) < outliers)
            row[i].s *= 1.5 + 1.5 * uniform(seed, draw++);
        row[i].kept_out = uniform(seed, draw++) < kept_out;
    }
    return n;
}

static struct kv_fit fitted(const struct kv_fit_row *row, int n)
{
    struct kv_fit f;
    struct kv_err e = {0};
    if (!kv_fit_solve(&f, row, n, arena, &e))
        fail_msg("%s", e.text);
    return f;
}

static void known_coefficients_come_back(void **state)
{
    (void)state;
    static struct kv_fit_row row[MOST_ROWS];
    int n = make_rows(row, 7, known, KNEE, 0, 0, 0);
    struct kv_fit f = fitted(row, n);
    for (int i = 0; i < KV_FIT_TERMS; i++)
        if (fabs(f.c[i] / known[i] - 1) > 0.05)
            fail_msg("without noise %s is %g, expected %g", kv_fit_term_texts[i].key, f.c[i], known[i]);
    assert_true(f.in.mean < 0.002); /* the knee is found to a few parts in a thousand */

    /* 95 % intervals, ten of each fit, hold what they should in about so many of twenty */
    enum { FITS = 20 };
    int missed = 0, of[KV_FIT_TERMS + 1] = {0};
    for (uint64_t seed = 0; seed < FITS; seed++) {
        n = make_rows(row, seed, known, KNEE, 0.03, 0.05, 0.2);
        f = fitted(row, n);
        for (int i = 0; i < KV_FIT_TERMS; i++) {
            of[i] += known[i] < f.low[i] || known[i] > f.high[i];
            if (fabs(f.c[i] / known[i] - 1) > (i == KV_FIT_PREFIX || i == KV_FIT_BESIDE_KV ? 2.5 : 0.3))
                fail_msg("with noise %s is %g, expected %g", kv_fit_term_texts[i].key, f.c[i], known[i]);
        }
        of[KV_FIT_TERMS] += f.knee_low > KNEE || f.knee_high < KNEE;
        assert_true(fabs(f.knee / KNEE - 1) < 0.1);
        const struct kv_fit_error *out = &f.out[KV_FIT_KINDS];
        assert_int_equal(out->n, f.kept_out);
        assert_int_equal(f.rows + f.kept_out, n);
        assert_true(out->n > n / 8 && out->n < n / 3);
        assert_true(out->mean > 0.02 && out->mean < 0.08); /* 2.4 % of noise, and 5 % of outliers */
    }
    for (int i = 0; i <= KV_FIT_TERMS; i++) {
        print_message("%-14s outside its interval in %d of %d\n",
                      i < KV_FIT_TERMS ? kv_fit_term_texts[i].key : "knee_tokens", of[i], FITS);
        missed += of[i];
    }
    assert_true(missed <= FITS * 10 * 3 / 20);
    n = make_rows(row, 0, known, KNEE, 0.03, 0.05, 0.2);
    f = fitted(row, n);
    struct kv_fit_row other[MOST_ROWS];
    make_rows(other, 0, known, KNEE, 0.03, 0.05, 0.2);
    struct kv_fit again = fitted(other, n);
    assert_memory_equal(&f, &again, sizeof f);
}

/* A coefficient that noise would push below 0 is held there. */
static void never_below_zero(void **state)
{
    (void)state;
    static struct kv_fit_row row[MOST_ROWS];
    double c[KV_FIT_TERMS];
    memcpy(c, known, sizeof c);
    c[KV_FIT_SEQUENCE] = c[KV_FIT_PREFIX] = c[KV_FIT_BASE] = 0;
    int n = make_rows(row, 7, c, 0, 0.05, 0.02, 0);
    for (int i = 0; i < n; i++)
        if (row[i].x[KV_FIT_SEQUENCE] > 100)
            row[i].s *= 0.9;
    struct kv_fit f = fitted(row, n);
    for (int i = 0; i < KV_FIT_TERMS; i++)
        assert_true(f.c[i] >= 0 && f.low[i] >= 0 && f.high[i] >= f.c[i]);
    assert_true(f.c[KV_FIT_SEQUENCE] == 0);
    assert_true(fabs(f.c[KV_FIT_DECODE_KV] / known[KV_FIT_DECODE_KV] - 1) < 0.2);
    assert_int_equal(f.out[KV_FIT_KINDS].n, 0);
}

static void what_is_not_there(void **state)
{
    (void)state;
    static struct kv_fit_row row[MOST_ROWS];
    int n = make_rows(row, 7, known, KNEE, 0.01, 0, 0), kept = 0;
    struct kv_fit f;
    struct kv_err e = {0};
    for (int i = 0; i < n; i++)
        if (row[i].kind == KV_FIT_PREFILL_STEP || row[i].kind == KV_FIT_DECODE_STEP)
            row[kept++] = row[i];
    f = fitted(row, kept);
    assert_false(f.there[KV_FIT_MOVED] || f.there[KV_FIT_SCORED] || f.there[KV_FIT_BESIDE_KV]);
    assert_true(f.there[KV_FIT_PAIR]);
    int decodes = 0;
    for (int i = 0; i < kept; i++)
        if (row[i].kind == KV_FIT_DECODE_STEP)
            row[decodes++] = row[i];
    assert_false(kv_fit_solve(&f, row, decodes, arena, &e));
    assert_non_null(strstr(e.text, "no rows of chunks"));
    e = (struct kv_err){0};
    make_rows(row, 7, known, KNEE, 0.01, 0, 0);
    assert_false(kv_fit_solve(&f, row, 8, arena, &e));
    e = (struct kv_err){0};
    assert_false(kv_fit_solve(&f, row, 0, arena, &e));
}

static void files_read_back(void **state)
{
    (void)state;
    static struct kv_fit_row row[MOST_ROWS];
    int n = make_rows(row, 7, known, KNEE, 0.03, 0.05, 0.2);
    struct kv_fit_source source[] = {{"a folder/profile.csv", "0123456789abcdef", n}};
    struct kv_fit_file f = {.fit = fitted(row, n),
                            .model = "Llama-3.1-8B",
                            .source = source,
                            .n_sources = 1,
                            .kept_out_share = 0.2,
                            .seed = 7},
                       back;
    struct kv_err e = {0};
    if (!kv_fit_write(&f, file, arena, &e) || !kv_fit_read(&back, file, arena, &e))
        fail_msg("%s", e.text);
    assert_memory_equal(back.fit.c, f.fit.c, sizeof f.fit.c);
    assert_memory_equal(back.fit.low, f.fit.low, sizeof f.fit.low);
    assert_memory_equal(back.fit.high, f.fit.high, sizeof f.fit.high);
    assert_memory_equal(&back.fit.largest, &f.fit.largest, sizeof f.fit.largest);
    assert_true(back.fit.knee == f.fit.knee && back.fit.rows == f.fit.rows);
    assert_string_equal(back.source->path, "a folder/profile.csv");
    assert_string_equal(back.source->hash, "0123456789abcdef");

    struct kv_settings s = {.path = "test.ini"};
    struct kv_model m;
    struct kv_timing *t;
    s.timing.model = KV_TIMING_FITTED;
    s.timing.profile = file;
    s.timing.bandwidth_efficiency = 0.8;
    s.hardware.memory_bandwidth = 2e12;
    if (!kv_model_find("Llama-3.1-8B", &m, arena, &e) || !kv_timing_open(&t, &s, &m, arena, &e))
        fail_msg("%s", e.text);
    assert_non_null(strstr(kv_timing_stamp(t), "fitted to profile.csv, mean error "));
    assert_non_null(strstr(kv_timing_stamp(t), " rows kept out"));
    struct kv_step decodes = {.tokens = 4, .sequences = 4, .decodes = 4, .decode_kv = 2000};
    struct kv_step_time own, half;
    struct kv_timing *fp8;
    s.engine.kv_cache_dtype = KV_FP8 + 1; /* choices begin with "auto" */
    if (!kv_timing_open(&fp8, &s, &m, arena, &e) || !kv_timing_step(t, &decodes, &own, &e) ||
        !kv_timing_step(fp8, &decodes, &half, &e))
        fail_msg("%s", e.text);
    assert_true(fabs(own.s - half.s - f.fit.c[KV_FIT_DECODE_KV] * 1000) <= 1e-12 * own.s);
    assert_non_null(strstr(kv_timing_stamp(fp8), "decodes over fp8 entries extrapolated from bf16 by bytes"));
    int on_line = 0;
    for (int i = 0; i < n; i++) {
        const double *x = row[i].x;
        if (row[i].kind == KV_FIT_EVICTION)
            continue;
        struct kv_step_chunk chunk = {(int64_t)row[i].sizes.chunk, row[i].sizes.prefix};
        struct kv_step step = {.tokens = (int64_t)x[KV_FIT_TOKEN],
                               .sequences = (int64_t)x[KV_FIT_SEQUENCE],
                               .decodes = (int64_t)row[i].sizes.decodes,
                               .decode_kv = x[KV_FIT_DECODE_KV],
                               .chunk = &chunk,
                               .n_chunks = row[i].sizes.chunk > 0,
                               .moved_bytes = 1e6,
                               .scored_bytes = 1e6};
        struct kv_step_time out;
        assert_true(kv_timing_step(t, &step, &out, &e));
        double wanted = kv_fit_seconds(&f.fit, x) + 1e6 * (f.fit.c[KV_FIT_MOVED] + f.fit.c[KV_FIT_SCORED]);
        if (fabs(out.s / wanted - 1) > 1e-12)
            fail_msg("a step takes %.17g s, expected %.17g", out.s, wanted);
        assert_true(row[i].kept_out || out.outside == 1);
        if (!(out.line.until > step.decode_kv))
            continue;
        struct kv_step_time there; /* on the line, to the bit */
        step.decode_kv = out.line.until;
        kv_timing_along(&out, step.decode_kv);
        assert_true(kv_timing_step(t, &step, &there, &e) && there.s == out.s);
        assert_memory_equal(there.part, out.part, sizeof out.part);
        on_line++;
    }
    assert_true(on_line > 0);
    struct kv_step far = {.tokens = 1024, .sequences = 1024, .decodes = 1024, .decode_kv = 1024};
    struct kv_step_time out;
    assert_true(kv_timing_step(t, &far, &out, &e) && out.outside == 4);
    assert_true(kv_model_find("Llama-3.2-1B", &m, arena, &e));
    assert_false(kv_timing_open(&t, &s, &m, arena, &e));
    assert_non_null(strstr(e.text, "was fitted to Llama-3.1-8B, but the model is Llama-3.2-1B"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_coefficients_come_back),
        cmocka_unit_test(never_below_zero),
        cmocka_unit_test(what_is_not_there),
        cmocka_unit_test(files_read_back),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
