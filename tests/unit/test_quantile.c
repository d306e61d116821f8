/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Percentiles in buckets against those of the sorted values. */
#include "sim/core/quantile.h"
#include "sim/core/random.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { SAMPLES = 50000 };

struct fixture {
    struct kv_quantiles q, other, all;
    double value[SAMPLES];
};

static int set_up(void **state)
{
    *state = calloc(1, sizeof(struct fixture));
    return !*state;
}

static int tear_down(void **state)
{
    free(*state);
    return 0;
}

static void check_equal(double got, double expected, const char *what)
{
    if (got != expected)
        fail_msg("%s is %.17g, expected %.17g", what, got, expected);
}

/* ---- streams ---- */

static double draw(int n)
{
    return kv_uniform(kv_random(3, kv_purpose("quantile"), 0, (uint64_t)n));
}

static double uniform(int i)
{
    return draw(i);
}
static double exponential(int i)
{
    return -0.03 * log1p(-draw(i));
}
static double lognormal(int i)
{
    return exp(3 * sqrt(-2 * log1p(-draw(2 * i))) * cos(6.283185307179586 * draw(2 * i + 1)));
}
static double over_many_decades(int i)
{
    return pow(10, 30 * draw(i) - 12);
}
static double small_whole_numbers(int i)
{
    return floor(5 * draw(i) * draw(i + 1));
}
static double token_counts(int i)
{
    return floor(200000 * pow(draw(i), 4));
}
static double two_values(int i)
{
    return draw(i) < 0.95 ? 0.02 : 1.7;
}
static double one_value(int i)
{
    (void)i;
    return 123.456;
}
static double falling(int i)
{
    return SAMPLES - i;
}
static double mostly_nothing(int i)
{
    return draw(i) < 0.6 ? 0 : draw(i);
}

static double (*const streams[])(int) = {
    uniform,      exponential, lognormal, over_many_decades, small_whole_numbers,
    token_counts, two_values,  one_value, falling,           mostly_nothing,
};
enum { N_STREAMS = sizeof streams / sizeof *streams };

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void fill(struct fixture *f, int stream, int n)
{
    memset(&f->q, 0, sizeof f->q);
    for (int i = 0; i < n; i++) {
        f->value[i] = streams[stream](i);
        kv_quantiles_add(&f->q, f->value[i]);
    }
}

/* ---- against sorted values ---- */

static void check_against_sorted(struct fixture *f, int stream, int n)
{
    static const double share[] = {0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999};
    fill(f, stream, n);
    qsort(f->value, (size_t)n, sizeof *f->value, by_value);
    for (size_t i = 0; i < sizeof share / sizeof *share; i++) {
        double exact = f->value[(int)ceil(share[i] * n) - 1], got = kv_quantile(&f->q, share[i]);
        if (fabs(got - exact) > 0.004 * exact)
            fail_msg("stream %d of %d values: quantile %g is %.17g, exactly %.17g", stream, n, share[i], got, exact);
    }
}

static void quantiles_are_within_four_tenths_of_a_percent(void **state)
{
    for (int stream = 0; stream < N_STREAMS; stream++)
        check_against_sorted(*state, stream, SAMPLES);
}

static void so_are_those_of_few_values(void **state)
{
    for (int stream = 0; stream < N_STREAMS; stream++)
        for (int n = 1; n < 40; n++)
            check_against_sorted(*state, stream, n);
}

static void quantiles_never_fall(void **state)
{
    struct fixture *f = *state;
    for (int stream = 0; stream < N_STREAMS; stream++) {
        fill(f, stream, 1000);
        double last = 0;
        for (int i = 0; i <= 2000; i++) {
            double now = kv_quantile(&f->q, i / 2000.0);
            if (now < last)
                fail_msg("stream %d: quantile %g is %.17g, after %.17g", stream, i / 2000.0, now, last);
            last = now;
        }
    }
}

/* ---- extremes ---- */

static void the_ends_are_exact(void **state)
{
    struct fixture *f = *state;
    for (int stream = 0; stream < N_STREAMS; stream++) {
        fill(f, stream, SAMPLES);
        qsort(f->value, SAMPLES, sizeof *f->value, by_value);
        check_equal(kv_quantile(&f->q, 0), f->value[0], "the least");
        check_equal(kv_quantile(&f->q, 1), f->value[SAMPLES - 1], "the most");
        check_equal(f->q.least, f->value[0], "least");
        check_equal(f->q.most, f->value[SAMPLES - 1], "most");
        assert_int_equal(f->q.n, SAMPLES);
    }
}

static void nothing_added_gives_nothing(void **state)
{
    struct fixture *f = *state;
    check_equal(kv_quantile(&f->q, 0), 0, "the least");
    check_equal(kv_quantile(&f->q, 0.5), 0, "the median");
    check_equal(kv_quantile(&f->q, 1), 0, "the most");
}

static void one_value_is_every_quantile(void **state)
{
    struct fixture *f = *state;
    kv_quantiles_add(&f->q, 0.7);
    for (int i = 0; i <= 10; i++)
        check_equal(kv_quantile(&f->q, i / 10.0), 0.7, "a quantile");
    check_equal(f->q.sum, 0.7, "the sum");
}

static void zeros_count(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 6; i++)
        kv_quantiles_add(&f->q, 0);
    check_equal(kv_quantile(&f->q, 1), 0, "the most of zeros");
    for (int i = 0; i < 4; i++)
        kv_quantiles_add(&f->q, 5);
    assert_int_equal(f->q.zeros, 6);
    check_equal(kv_quantile(&f->q, 0.6), 0, "the sixth");
    check_equal(kv_quantile(&f->q, 0.61), 5, "the seventh");
}

static void values_beyond_the_buckets_stay_between_the_ends(void **state)
{
    struct fixture *f = *state;
    kv_quantiles_add(&f->q, 5e-324);
    kv_quantiles_add(&f->q, 1e-300);
    kv_quantiles_add(&f->q, 1e-30);
    check_equal(kv_quantile(&f->q, 0), 5e-324, "the least");
    assert_true(kv_quantile(&f->q, 0.5) <= 1e-30);
    check_equal(kv_quantile(&f->q, 1), 1e-30, "the most");
    for (int i = 0; i < 10; i++)
        kv_quantiles_add(&f->q, 1.7e308);
    assert_true(kv_quantile(&f->q, 0.9) <= 1.7e308);
    assert_true(kv_quantile(&f->q, 0.9) >= 0x1p83);
    check_equal(kv_quantile(&f->q, 1), 1.7e308, "the most");
}

static void every_start_of_a_bucket_is_within_reach(void **state)
{
    struct fixture *f = *state;
    for (int exponent = KV_QUANTILE_LOW; exponent < KV_QUANTILE_LOW + KV_QUANTILE_OCTAVES; exponent++)
        for (int i = 0; i < KV_QUANTILE_SUB; i += 9)
            for (int side = -1; side <= 1; side++) {
                double value = ldexp(1 + i / (double)KV_QUANTILE_SUB, exponent);
                value = side < 0 ? nextafter(value, 0) : side > 0 ? nextafter(value, INFINITY) : value;
                memset(&f->q, 0, sizeof f->q);
                kv_quantiles_add(&f->q, 0x1p-1000);
                kv_quantiles_add(&f->q, value);
                kv_quantiles_add(&f->q, 0x1p1000);
                double got = kv_quantile(&f->q, 0.5);
                if (fabs(got - value) > 0.004 * value)
                    fail_msg("%.17g is found as %.17g", value, got);
            }
}

/* ---- order and splitting ---- */

static void check_same(const struct kv_quantiles *a, const struct kv_quantiles *b)
{
    assert_int_equal(a->n, b->n);
    assert_int_equal(a->zeros, b->zeros);
    check_equal(a->least, b->least, "the least");
    check_equal(a->most, b->most, "the most");
    assert_memory_equal(a->bucket, b->bucket, sizeof a->bucket);
    for (int i = 0; i <= 100; i++)
        check_equal(kv_quantile(a, i / 100.0), kv_quantile(b, i / 100.0), "a quantile");
    if (fabs(a->sum - b->sum) > 1e-12 * b->sum)
        fail_msg("the sum is %.17g, expected %.17g", a->sum, b->sum);
}

static void merged_is_as_if_taken_together(void **state)
{
    struct fixture *f = *state;
    for (int stream = 0; stream < N_STREAMS; stream++) {
        memset(f, 0, sizeof *f);
        for (int i = 0; i < 3000; i++) {
            double value = streams[stream](i);
            kv_quantiles_add(i % 3 ? &f->q : &f->other, value);
            kv_quantiles_add(&f->all, value);
        }
        kv_quantiles_merge(&f->q, &f->other);
        check_same(&f->q, &f->all);
    }
}

static void merging_with_nothing_changes_nothing(void **state)
{
    struct fixture *f = *state;
    fill(f, 1, 500);
    f->all = f->q;
    kv_quantiles_merge(&f->q, &f->other);
    check_same(&f->q, &f->all);
    kv_quantiles_merge(&f->other, &f->q);
    check_same(&f->other, &f->all);
}

static void order_changes_nothing(void **state)
{
    struct fixture *f = *state;
    fill(f, 2, 3000);
    f->all = f->q;
    memset(&f->q, 0, sizeof f->q);
    for (int i = 0; i < 3000; i++)
        kv_quantiles_add(&f->q, f->value[2999 - i]);
    check_same(&f->q, &f->all);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(quantiles_are_within_four_tenths_of_a_percent),
        TEST(so_are_those_of_few_values),
        TEST(quantiles_never_fall),
        TEST(the_ends_are_exact),
        TEST(nothing_added_gives_nothing),
        TEST(one_value_is_every_quantile),
        TEST(zeros_count),
        TEST(values_beyond_the_buckets_stay_between_the_ends),
        TEST(every_start_of_a_bucket_is_within_reach),
        TEST(merged_is_as_if_taken_together),
        TEST(merging_with_nothing_changes_nothing),
        TEST(order_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
