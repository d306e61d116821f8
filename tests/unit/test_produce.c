/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Channels made from queries, keys and values, against the formulas written out in long double (notes of each source in
 * produce.h), and the corners: nothing to look at, one entry, one number, rows that see nothing. */
#include "sim/core/produce.h"
#include "sim/core/random.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { ROUNDS = 400, MOST = 4096 };

struct room {
    float q[MOST], k[MOST], v[MOST], covariance[MOST], in[MOST], out[MOST];
    double work[MOST];
    long double want[MOST];
};

static int set_up(void **state)
{
    *state = calloc(1, sizeof(struct room));
    return *state ? 0 : -1;
}

static int tear_down(void **state)
{
    free(*state);
    return 0;
}

static uint64_t roll(uint64_t round, uint64_t id, uint64_t n)
{
    return kv_random(7, kv_purpose("produce"), round, id) % n;
}

/* Numbers around zero, up to about `size`. */
static void fill(float *x, int64_t n, uint64_t round, const char *name, double size)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(size * (2 * kv_uniform(kv_random(11, kv_purpose(name), round, (uint64_t)i)) - 1));
}

static long double dot(const float *a, const float *b, int64_t d)
{
    long double sum = 0;
    for (int64_t i = 0; i < d; i++)
        sum += (long double)a[i] * (long double)b[i];
    return sum;
}

static void must_be(const char *what, uint64_t round, const float *got, const long double *want, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        long double off = fabsl((long double)got[i] - want[i]);
        if (!(off <= 1e-6L * fabsl(want[i]) + 1e-7L) && !(isinf(got[i]) && (long double)got[i] == want[i]))
            fail_msg("%s, round %llu: number %lld of %lld is %.9g, expected %.9Lg", what, (unsigned long long)round,
                     (long long)i, (long long)n, (double)got[i], want[i]);
    }
}

/* sum += softmax (x), the straightforward way; nothing where all are minus infinity. */
static void add_softmax(const long double *x, int64_t n, long double scale, long double *sum)
{
    long double top = -INFINITY, total = 0;
    for (int64_t j = 0; j < n; j++)
        top = fmaxl(top, x[j]);
    for (int64_t j = 0; j < n && top > -INFINITY; j++)
        total += expl(x[j] - top);
    for (int64_t j = 0; j < n && top > -INFINITY; j++)
        sum[j] += scale * expl(x[j] - top) / total;
}

/* ---- attention ---- */

static void test_logits(void **state)
{
    struct room *r = *state;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        int64_t rows = (int64_t)roll(round, 0, 5), n = (int64_t)roll(round, 1, 40), d = 1 + (int64_t)roll(round, 2, 17);
        int64_t seen[5];
        fill(r->q, rows * d, round, "q", 2);
        fill(r->k, n * d, round, "k", 2);
        for (int64_t i = 0; i < rows; i++)
            seen[i] = (int64_t)roll(round, 10 + (uint64_t)i, (uint64_t)n + 1);
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < n; j++)
                r->want[i * n + j] =
                    j < seen[i] ? dot(r->q + i * d, r->k + j * d, d) / sqrtl((long double)d) : -(long double)INFINITY;
        r->out[rows * n] = 77;
        kv_make_logits(r->q, rows, r->k, n, d, seen, r->out);
        must_be("logits", round, r->out, r->want, rows * n);
        assert_true(r->out[rows * n] == 77);
    }
}

static void test_attention(void **state)
{
    struct room *r = *state;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        int64_t rows = (int64_t)roll(round, 0, 6), n = (int64_t)roll(round, 1, 60);
        long double row[60];
        fill(r->in, rows * n, round, "logits", round % 3 ? 5 : 400); /* exp of these alone would overflow */
        memset(r->want, 0, sizeof r->want);
        for (int64_t i = 0; i < rows; i++) {
            int64_t seen =
                roll(round, 20 + (uint64_t)i, 4) ? (int64_t)roll(round, 30 + (uint64_t)i, (uint64_t)n + 1) : 0;
            for (int64_t j = 0; j < n; j++) {
                if (j >= seen)
                    r->in[i * n + j] = -INFINITY;
                row[j] = (long double)r->in[i * n + j];
            }
            add_softmax(row, n, 1, r->want);
        }
        kv_make_attention(r->in, rows, n, r->work, r->out);
        must_be("attention", round, r->out, r->want, n);
    }
}

static void test_attention_corners(void **state)
{
    struct room *r = *state;
    const float masked[] = {-INFINITY, -INFINITY}, one[] = {-1000};
    r->out[0] = 5;
    kv_make_attention(masked, 0, 0, r->work, r->out);
    assert_true(r->out[0] == 5);
    kv_make_attention(masked, 1, 2, r->work, r->out);
    assert_true(r->out[0] == 0 && r->out[1] == 0);
    kv_make_attention(one, 1, 1, r->work, r->out);
    assert_true(r->out[0] == 1);
}

/* ---- keys and values alone ---- */

static void test_norms(void **state)
{
    struct room *r = *state;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        int64_t n = (int64_t)roll(round, 0, 50), d = 1 + (int64_t)roll(round, 1, 20);
        fill(r->k, n * d, round, "k", round % 2 ? 3 : 1e25); /* squares beyond what floats hold */
        for (int64_t j = 0; j < n; j++)
            r->want[j] = sqrtl(dot(r->k + j * d, r->k + j * d, d));
        kv_make_norms(r->k, n, d, r->out);
        must_be("norms", round, r->out, r->want, n);
    }
    const float line[] = {3, -4, 0, 0};
    kv_make_norms(line, 2, 2, r->out);
    assert_true(r->out[0] == 5 && r->out[1] == 0);
}

static void test_cosines(void **state)
{
    struct room *r = *state;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        int64_t n = (int64_t)roll(round, 0, 40), d = 1 + (int64_t)roll(round, 1, 16);
        long double mean[16] = {0}, length = 0;
        fill(r->k, n * d, round, "k", 2);
        if (n)
            memset(r->k, 0, sizeof *r->k * (size_t)d); /* the first key has no direction */
        for (int64_t j = 1; j < n; j++)
            for (int64_t i = 0; i < d; i++)
                mean[i] += (long double)r->k[j * d + i] / sqrtl(dot(r->k + j * d, r->k + j * d, d)) / (long double)n;
        for (int64_t i = 0; i < d; i++)
            length += mean[i] * mean[i];
        for (int64_t j = 0; j < n; j++) {
            long double sum = 0;
            for (int64_t i = 0; i < d; i++)
                sum += (long double)r->k[j * d + i] * mean[i];
            r->want[j] = j && length > 1e-20L ? sum / sqrtl(dot(r->k + j * d, r->k + j * d, d)) / sqrtl(length) : 0;
        }
        kv_make_cosines(r->k, n, d, r->work, r->out);
        must_be("cosines", round, r->out, r->want, n);
    }
}

/* Keys that cancel have no mean direction; one key is its own. */
static void test_cosine_corners(void **state)
{
    struct room *r = *state;
    const float opposite[] = {3, 4, -3, -4}, one[] = {-2, 0};
    kv_make_cosines(opposite, 2, 2, r->work, r->out);
    assert_true(r->out[0] == 0 && r->out[1] == 0);
    kv_make_cosines(one, 1, 2, r->work, r->out);
    assert_true(r->out[0] == 1);
    r->out[0] = 5;
    kv_make_cosines(one, 0, 2, r->work, r->out);
    assert_true(r->out[0] == 5);
}

/* ---- LagKV ---- */

/* Spread over the d numbers of token `at`, scaled by least and most of the block behind its own. */
static long double spread(const float *x, int64_t at, int64_t block_end, int64_t lag, int64_t d)
{
    long double scaled[16], sum = 0, squares = 0;
    for (int64_t i = 0; i < d; i++) {
        long double least = INFINITY, most = -INFINITY;
        for (int64_t j = block_end; j < block_end + lag; j++) {
            least = fminl(least, (long double)x[j * d + i]);
            most = fmaxl(most, (long double)x[j * d + i]);
        }
        scaled[i] = most > least ? ((long double)x[at * d + i] - least) / (most - least) : 0;
        sum += scaled[i];
    }
    for (int64_t i = 0; i < d; i++)
        squares += (scaled[i] - sum / (long double)d) * (scaled[i] - sum / (long double)d);
    return d > 1 ? sqrtl(squares / (long double)(d - 1)) : 0;
}

static void naive_lag(const struct room *r, int64_t n, int64_t d, int64_t sinks, int64_t lag, long double *want)
{
    for (int64_t j = 0; j < n; j++)
        want[j] = n >= sinks + 2 * lag || j < sinks ? 1 : (long double)(j - sinks) / (long double)(n - sinks);
    for (int64_t from = sinks; n >= sinks + 2 * lag && from + 2 * lag <= n; from += lag) {
        long double key[32], value[32], score[32] = {0};
        for (int64_t j = 0; j < lag; j++) {
            key[j] = spread(r->k, from + j, from + lag, lag, d);
            value[j] = spread(r->v, from + j, from + lag, lag, d);
        }
        add_softmax(key, lag, 0.5L, score);
        add_softmax(value, lag, 0.5L, score);
        for (int64_t j = 0; j < lag; j++) {
            int64_t lower = 0;
            for (int64_t i = 0; i < lag; i++)
                lower += score[i] < score[j];
            want[from + j] = (long double)lower / (long double)lag;
        }
    }
}

static void test_lag(void **state)
{
    struct room *r = *state;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        int64_t sinks = (int64_t)roll(round, 0, 6), lag = 1 + (int64_t)roll(round, 1, 24),
                d = 2 + (int64_t)roll(round, 2, 14);
        int64_t edge = sinks + 2 * lag + (int64_t)roll(round, 4, 3) - 1; /* about where the ramp ends */
        int64_t n = roll(round, 3, 2) ? (int64_t)roll(round, 5, 120) : edge;
        fill(r->k, n * d, round, "k", 2);
        fill(r->v, n * d, round, "v", 2);
        naive_lag(r, n, d, sinks, lag, r->want);
        kv_make_lag(r->k, r->v, n, d, sinks, lag, r->work, r->out);
        must_be("lag", round, r->out, r->want, n);
    }
}

/* Equal tokens rank by position; numbers without a range, or one number only, have no spread. */
static void test_lag_corners(void **state)
{
    struct room *r = *state;
    const long double want[] = {1, 0, 0.25L, 0.5L, 0.75L, 1, 1, 1, 1, 1}, ramp[] = {1, 1, 0, 0.25L, 0.5L, 0.75L};
    for (int i = 0; i < 32; i++)
        r->k[i] = r->v[i] = 3;
    kv_make_lag(r->k, r->v, 10, 2, 1, 4, r->work, r->out);
    must_be("equal tokens", 0, r->out, want, 10);
    fill(r->k, 10, 0, "k", 2);
    kv_make_lag(r->k, r->v, 10, 1, 1, 4, r->work, r->out);
    must_be("one number a token", 0, r->out, want, 10);
    kv_make_lag(r->k, r->v, 6, 1, 2, 4, r->work, r->out);
    must_be("shorter than two blocks", 0, r->out, ramp, 6);
    r->out[0] = 5;
    kv_make_lag(r->k, r->v, 0, 1, 2, 4, r->work, r->out);
    assert_true(r->out[0] == 5);
    kv_make_lag(r->k, r->v, 1, 1, 2, 4, r->work, r->out);
    assert_true(r->out[0] == 1);
}

/* ---- Expected Attention ---- */

static void test_expected(void **state)
{
    struct room *r = *state;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        int64_t rows = 1 + (int64_t)roll(round, 0, 4), n = (int64_t)roll(round, 1, 40),
                d = 1 + (int64_t)roll(round, 2, 9);
        long double x[40];
        fill(r->q, rows * d, round, "mean", 1);
        fill(r->covariance, rows * d * d, round, "covariance", 1);
        fill(r->k, n * d, round, "k", 2);
        fill(r->in, n, round, "norm", 3);
        memset(r->want, 0, sizeof r->want);
        for (int64_t row = 0; row < rows; row++) {
            for (int64_t j = 0; j < n; j++) {
                const float *k = r->k + j * d;
                x[j] = dot(r->q + row * d, k, d) / sqrtl((long double)d);
                for (int64_t i = 0; i < d; i++)
                    x[j] += (long double)k[i] * dot(r->covariance + (row * d + i) * d, k, d) / (2 * (long double)d);
            }
            add_softmax(x, n, 1 / (long double)rows, r->want);
        }
        for (int64_t j = 0; j < n; j++)
            r->want[j] *= (long double)r->in[j];
        kv_make_expected(r->q, r->covariance, rows, r->k, r->in, n, d, r->work, r->out);
        must_be("expected", round, r->out, r->want, n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits), cmocka_unit_test(test_attention),   cmocka_unit_test(test_attention_corners),
        cmocka_unit_test(test_norms),  cmocka_unit_test(test_cosines),     cmocka_unit_test(test_cosine_corners),
        cmocka_unit_test(test_lag),    cmocka_unit_test(test_lag_corners), cmocka_unit_test(test_expected),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
