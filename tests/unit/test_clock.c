/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Simulated time: rounding happens once, from the running total. */
#include "sim/core/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void check_ns(const struct kv_clock *c, int64_t expected)
{
    int64_t got = kv_clock_ns(c);
    if (got != expected)
        fail_msg("%lld ns, expected %lld", (long long)got, (long long)expected);
}

static void time_begins_at_zero(void **state)
{
    (void)state;
    struct kv_clock c = {0};
    check_ns(&c, 0);
}

static void seconds_become_nanoseconds(void **state)
{
    (void)state;
    struct kv_clock c = {0};
    kv_clock_advance(&c, 1.5);
    check_ns(&c, 1500000000);
    kv_clock_advance(&c, 30e-3);
    check_ns(&c, 1530000000);
    kv_clock_advance(&c, 0);
    check_ns(&c, 1530000000);
}

static void half_nanoseconds_are_rounded_to_the_nearest(void **state)
{
    (void)state;
    struct kv_clock c = {0};
    kv_clock_advance(&c, 0.4e-9);
    check_ns(&c, 0);
    kv_clock_advance(&c, 0.4e-9);
    check_ns(&c, 1);
    kv_clock_advance(&c, 0.8e-9);
    check_ns(&c, 2);
}

/* Each step alone is 0 ns; rounded steps would never move, and a plain sum is off by its own rounding. */
static void ten_million_steps_of_a_tenth_of_a_nanosecond(void **state)
{
    (void)state;
    struct kv_clock c = {0};
    for (int i = 1; i <= 10000000; i++) {
        kv_clock_advance(&c, 1e-10);
        if (i % 10 == 0 && kv_clock_ns(&c) != i / 10)
            fail_msg("after %d steps %lld ns", i, (long long)kv_clock_ns(&c));
    }
    check_ns(&c, 1000000);
}

static void many_steps_after_days_lose_nothing(void **state)
{
    (void)state;
    struct kv_clock c = {0};
    kv_clock_advance(&c, 3 * 86400.0);
    for (int i = 0; i < 10000000; i++)
        kv_clock_advance(&c, 1e-10); /* far below the last bit of three days */
    check_ns(&c, INT64_C(259200001000000));
}

static void a_long_step_after_short_ones_loses_nothing(void **state)
{
    (void)state;
    struct kv_clock c = {0};
    for (int i = 0; i < 1000; i++)
        kv_clock_advance(&c, 1e-9);
    kv_clock_advance(&c, 1e5);
    for (int i = 0; i < 1000; i++)
        kv_clock_advance(&c, 1e-9);
    check_ns(&c, INT64_C(100000000002000));
}

static void time_never_goes_back(void **state)
{
    (void)state;
    struct kv_clock c = {0};
    int64_t last = 0;
    double step = 1e-12;
    for (int i = 0; i < 1000000; i++) {
        kv_clock_advance(&c, step);
        step = step * 1.7 > 0.3 ? 1e-12 : step * 1.7;
        int64_t now = kv_clock_ns(&c);
        if (now < last)
            fail_msg("step %d leads from %lld to %lld ns", i, (long long)last, (long long)now);
        last = now;
    }
}

/* A double holds no nanoseconds beyond some hundred days: the total must not be put together in one. */
static void nanoseconds_count_after_years(void **state)
{
    (void)state;
    struct kv_clock c = {0};
    kv_clock_advance(&c, 1e9);
    check_ns(&c, INT64_C(1000000000000000000));
    for (int i = 0; i < 5; i++)
        kv_clock_advance(&c, 1e-9);
    check_ns(&c, INT64_C(1000000000000000005));
    kv_clock_advance(&c, 8e9); /* 285 years in all */
    check_ns(&c, INT64_C(9000000000000000005));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(time_begins_at_zero),
        cmocka_unit_test(seconds_become_nanoseconds),
        cmocka_unit_test(half_nanoseconds_are_rounded_to_the_nearest),
        cmocka_unit_test(ten_million_steps_of_a_tenth_of_a_nanosecond),
        cmocka_unit_test(many_steps_after_days_lose_nothing),
        cmocka_unit_test(a_long_step_after_short_ones_loses_nothing),
        cmocka_unit_test(time_never_goes_back),
        cmocka_unit_test(nanoseconds_count_after_years),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
