/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Random numbers: known values stay for good, and every bit of every argument changes everything. */
#include "sim/core/random.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdbool.h>
#include <stdlib.h>

#include <cmocka.h>

/* The first two numbers of SplitMix64 seeded with 0, as its authors' code gives them. */
static void the_mixer_is_that_of_splitmix64(void **state)
{
    (void)state;
    assert_int_equal(kv_mix(UINT64_C(0x9e3779b97f4a7c15)), UINT64_C(0xe220a8397b1dcdaf));
    assert_int_equal(kv_mix(2 * UINT64_C(0x9e3779b97f4a7c15)), UINT64_C(0x6e789e6aa1b965f4));
}

/* Published test vectors of 64-bit FNV-1a. */
static void purposes_are_fnv_1a(void **state)
{
    (void)state;
    assert_int_equal(kv_purpose(""), UINT64_C(0xcbf29ce484222325));
    assert_int_equal(kv_purpose("a"), UINT64_C(0xaf63dc4c8601ec8c));
    assert_int_equal(kv_purpose("foobar"), UINT64_C(0x85944171f73967e8));
}

/* Made by a second statement of the same rule, in another language: results of earlier versions must not change. */
static void known_values_stay(void **state)
{
    (void)state;
    static const struct {
        uint64_t seed, purpose, id, counter, value;
    } known[] = {
        {0, 0, 0, 0, UINT64_C(0xfc7fc72112101494)},
        {1, 0, 0, 0, UINT64_C(0x8a00d2e044d644fd)},
        {0, 1, 0, 0, UINT64_C(0xabecfccaa9eb2d4c)},
        {0, 0, 1, 0, UINT64_C(0x51471836ce3d4f14)},
        {0, 0, 0, 1, UINT64_C(0x35ff3e012f2861aa)},
        {42, UINT64_C(0xb10bc22ca203cc53), 7, 1000, UINT64_C(0x17af5151807ce2cb)}, /* purpose "arrivals" */
        {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_C(0x1d22085f8ebf7b06)},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        assert_int_equal(kv_random(known[i].seed, known[i].purpose, known[i].id, known[i].counter), known[i].value);
    assert_int_equal(kv_purpose("arrivals"), known[5].purpose);
}

static void one_bit_of_any_argument_changes_half_the_bits(void **state)
{
    (void)state;
    enum { SAMPLES = 400 };
    for (int argument = 0; argument < 4; argument++)
        for (int bit = 0; bit < 64; bit++) {
            int changed = 0, least = 64;
            for (uint64_t i = 0; i < SAMPLES; i++) {
                uint64_t word[4] = {i % 5, i % 7, i, 3 * i};
                uint64_t before = kv_random(word[0], word[1], word[2], word[3]);
                word[argument] ^= UINT64_C(1) << bit;
                int n = __builtin_popcountll(before ^ kv_random(word[0], word[1], word[2], word[3]));
                changed += n;
                least = n < least ? n : least;
            }
            double mean = (double)changed / SAMPLES; /* standard error 0.2 */
            if (mean < 31 || mean > 33 || least < 8)
                fail_msg("bit %d of argument %d changes %.2f bits on average, at least %d", bit, argument, mean, least);
        }
}

static void every_bit_of_a_sequence_is_fair(void **state)
{
    (void)state;
    enum { SAMPLES = 100000 };
    int ones[64] = {0};
    for (uint64_t i = 0; i < SAMPLES; i++) {
        uint64_t bits = kv_random(1, kv_purpose("fair"), 0, i);
        for (int bit = 0; bit < 64; bit++)
            ones[bit] += (int)(bits >> bit & 1);
    }
    for (int bit = 0; bit < 64; bit++)
        if (abs(ones[bit] - SAMPLES / 2) > 800) /* five standard errors */
            fail_msg("bit %d is set in %d of %d", bit, ones[bit], SAMPLES);
}

static void arguments_are_not_interchangeable(void **state)
{
    (void)state;
    uint64_t value[24], word[4] = {1, 2, 3, 4};
    int n = 0;
    for (int a = 0; a < 4; a++)
        for (int b = 0; b < 4; b++)
            for (int c = 0; c < 4; c++)
                if (a != b && a != c && b != c)
                    value[n++] = kv_random(word[a], word[b], word[c], word[6 - a - b - c]);
    assert_int_equal(n, 24);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < i; j++)
            assert_int_not_equal(value[i], value[j]);
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void small_arguments_never_collide(void **state)
{
    (void)state;
    enum { SIDE = 18, N = SIDE * SIDE * SIDE * SIDE };
    uint64_t *value = malloc(sizeof *value * N);
    assert_non_null(value);
    for (uint64_t i = 0; i < N; i++)
        value[i] = kv_random(i % SIDE, i / SIDE % SIDE, i / SIDE / SIDE % SIDE, i / SIDE / SIDE / SIDE);
    qsort(value, N, sizeof *value, by_value);
    for (int i = 1; i < N; i++)
        assert_int_not_equal(value[i], value[i - 1]);
    free(value);
}

static void uniform_has_its_ends(void **state)
{
    (void)state;
    assert_true(kv_uniform(0) == 0);
    assert_true(kv_uniform(UINT64_MAX) < 1);
    assert_true(kv_uniform(UINT64_MAX) == 1 - 0x1p-53);
    assert_true(kv_uniform(UINT64_C(1) << 63) == 0.5);
    assert_true(kv_uniform(2047) == 0);
    assert_true(kv_uniform(2048) == 0x1p-53); /* all 53 bits */
}

static void uniform_is_uniform(void **state)
{
    (void)state;
    enum { SAMPLES = 1000000, CELLS = 1000 };
    int cell[CELLS] = {0};
    double sum = 0, squares = 0, neighbours = 0, last = 0.5;
    for (uint64_t i = 0; i < SAMPLES; i++) {
        double x = kv_uniform(kv_random(7, kv_purpose("uniform"), i % 10, i));
        if (!(x >= 0 && x < 1))
            fail_msg("%.17g is outside 0 .. 1", x);
        cell[(int)(x * CELLS)]++;
        sum += x;
        squares += x * x;
        neighbours += (x - 0.5) * (last - 0.5);
        last = x;
    }
    double chi = 0, expected = (double)SAMPLES / CELLS;
    for (int i = 0; i < CELLS; i++)
        chi += (cell[i] - expected) * (cell[i] - expected) / expected;
    if (chi < 775 || chi > 1223) /* 999 degrees of freedom, five standard deviations */
        fail_msg("chi squared over %d cells is %.1f", CELLS, chi);
    double mean = sum / SAMPLES, second = squares / SAMPLES, related = neighbours / SAMPLES;
    if (fabs(mean - 0.5) > 0.0015 || fabs(second - 1.0 / 3) > 0.0015 || fabs(related) > 0.0005)
        fail_msg("mean %.5f, mean square %.5f, of neighbours %.6f", mean, second, related);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_mixer_is_that_of_splitmix64),
        cmocka_unit_test(purposes_are_fnv_1a),
        cmocka_unit_test(known_values_stay),
        cmocka_unit_test(one_bit_of_any_argument_changes_half_the_bits),
        cmocka_unit_test(every_bit_of_a_sequence_is_fair),
        cmocka_unit_test(arguments_are_not_interchangeable),
        cmocka_unit_test(small_arguments_never_collide),
        cmocka_unit_test(uniform_has_its_ends),
        cmocka_unit_test(uniform_is_uniform),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
