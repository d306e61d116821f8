/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The next token: ties, where top-p ends, the same draws again, and how often each token comes. */
#include "engine/sample.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct kv_sampler open_sampler(struct kv_arena *a, int64_t vocab, double temperature, double top_p)
{
    struct kv_sampler s = {.temperature = temperature, .top_p = top_p, .seed = 7};
    struct kv_err e = {0};
    assert_true(kv_sampler_open(&s, vocab, a, &e));
    return s;
}

static void greedy_takes_the_lowest_of_equals(void **state)
{
    struct kv_arena *a = kv_arena_open();
    struct kv_sampler s = open_sampler(a, 6, 0, 1);
    (void)state;
    assert_int_equal(kv_sample(&s, (float[]){1, 3, 2, 3, 3, 0}, 6, 0), 1);
    assert_int_equal(kv_sample(&s, (float[]){0, 0, 0, 0, 0, 0}, 6, 1), 0);
    assert_int_equal(kv_sample(&s, (float[]){-1, -2, -3, -1, -2, -0.5f}, 6, 2), 5);
    assert_int_equal(kv_sample(&s, (float[]){-INFINITY, -3e38f}, 2, 2), 1);
    s.temperature = 1;
    s.top_p = 0; /* one token is always there */
    for (uint64_t i = 0; i < 50; i++)
        assert_int_equal(kv_sample(&s, (float[]){1, 3, 2, 3, 3, 0}, 6, i), 1);
    s.top_p = 1;
    s.temperature = 1e-9;
    for (uint64_t i = 0; i < 50; i++)
        assert_int_equal(kv_sample(&s, (float[]){1, 3, 2, 2, 2.9f, 0}, 6, i), 1);
    kv_arena_close(a);
}

/* Which tokens of 0.5, 0.25, 0.125, 0.125 are ever drawn; bits. */
static unsigned drawn(struct kv_arena *a, double top_p)
{
    struct kv_sampler s = open_sampler(a, 4, 1, top_p);
    const float logits[] = {-2 * 0.69314718f, -0.69314718f, -3 * 0.69314718f, -3 * 0.69314718f};
    unsigned seen = 0;
    for (uint64_t i = 0; i < 400; i++)
        seen |= 1u << kv_sample(&s, logits, 4, i);
    return seen;
}

static void top_p_is_the_least_set(void **state)
{
    struct kv_arena *a = kv_arena_open();
    (void)state;
    assert_int_equal(drawn(a, 0.3), 2);
    assert_int_equal(drawn(a, 0.4999), 2);
    assert_int_equal(drawn(a, 0.51), 3);
    assert_int_equal(drawn(a, 0.7499), 3);
    assert_int_equal(drawn(a, 0.76), 7); /* of equals the lower id */
    assert_int_equal(drawn(a, 0.9), 15);
    assert_int_equal(drawn(a, 1), 15);
    kv_arena_close(a);
}

static void draws_depend_on_seed_stream_and_step(void **state)
{
    struct kv_arena *a = kv_arena_open();
    struct kv_sampler s = open_sampler(a, 100, 1, 1), again = open_sampler(a, 100, 1, 1);
    float logits[100] = {0};
    int as_stream = 0, as_seed = 0;
    (void)state;
    for (uint64_t i = 0; i < 200; i++) {
        int32_t token = kv_sample(&s, logits, 100, i);
        assert_int_equal(kv_sample(&again, logits, 100, i), token);
        again.stream = 1;
        as_stream += kv_sample(&again, logits, 100, i) == token;
        again.stream = 0;
        again.seed = 8;
        as_seed += kv_sample(&again, logits, 100, i) == token;
        again.seed = 7;
    }
    assert_true(as_stream < 12 && as_seed < 12); /* 2 of 200 are expected */
    kv_arena_close(a);
}

/* Chi-square with 9 degrees of freedom: above 33.7 once in 10000 times. */
static void tokens_come_as_often_as_they_are_likely(void **state)
{
    enum { DRAWS = 60000, VOCAB = 10 };
    static const double temperatures[] = {0.5, 1, 3};
    struct kv_arena *a = kv_arena_open();
    const float logits[VOCAB] = {0.3f, -1, 2, 0.3f, 1.5f, -2, 0, 0.7f, 1, -0.5f};
    (void)state;
    for (int t = 0; t < 3; t++) {
        struct kv_sampler s = open_sampler(a, VOCAB, temperatures[t], 1);
        int count[VOCAB] = {0};
        double sum = 0, chi = 0;
        for (int i = 0; i < VOCAB; i++)
            sum += exp((double)logits[i] / temperatures[t]);
        for (uint64_t i = 0; i < DRAWS; i++)
            count[kv_sample(&s, logits, VOCAB, i)]++;
        for (int i = 0; i < VOCAB; i++) {
            double expected = DRAWS * exp((double)logits[i] / temperatures[t]) / sum;
            chi += (count[i] - expected) * (count[i] - expected) / expected;
        }
        print_message("# temperature %g: chi-square %.1f\n", temperatures[t], chi);
        assert_true(chi < 33.7);
    }
    kv_arena_close(a);
}

static void log_probabilities(void **state)
{
    const float logits[] = {1, 2, 3, -500, 700};
    (void)state;
    double sum = 0;
    for (int i = 0; i < 5; i++)
        sum += exp((double)logits[i] - 700);
    for (int i = 0; i < 5; i++)
        assert_true(fabs(kv_log_probability(logits, 5, i) - ((double)logits[i] - 700 - log(sum))) < 1e-12);
    assert_true(fabs(kv_log_probability(logits, 3, 0) + log(1 + exp(1) + exp(2))) < 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_lowest_of_equals),
        cmocka_unit_test(top_p_is_the_least_set),
        cmocka_unit_test(draws_depend_on_seed_stream_and_step),
        cmocka_unit_test(tokens_come_as_often_as_they_are_likely),
        cmocka_unit_test(log_probabilities),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
