/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Where curves cross a score: between points, below and above all of them, at ties, and when they come back. */
#include "sim/core/random.h"
#include "sim/critical.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { MOST = 12 };

/* The crossing of scores at 10 %, 20 %, ... of a full-cache score of 100 whose threshold is 90. */
static struct kv_crossing crossing(const double *score, int n)
{
    struct kv_point point[MOST];
    for (int i = 0; i < n; i++)
        point[i] = (struct kv_point){.footprint = (i + 1) / 10., .score = score[i], .rows = 1};
    return kv_crossing_find(point, n, 90);
}

static void check_bound(struct kv_bound got, char mark, double footprint, const char *what)
{
    if (got.mark != mark || !(fabs(got.footprint - footprint) < 1e-12))
        fail_msg("%s is %c %.17g, expected %c %.17g", what, got.mark, got.footprint, mark, footprint);
}

#define SCORES(...) (const double[]){__VA_ARGS__}, (int)(sizeof(double[]){__VA_ARGS__} / sizeof(double))

static void check(const double *score, int n, char mark, double critical, char lowest_mark, double lowest, int dips,
                  bool monotone)
{
    struct kv_crossing c = crossing(score, n);
    check_bound(c.critical, mark, critical, "the critical footprint");
    check_bound(c.lowest, lowest_mark, lowest, "the lowest crossing");
    assert_int_equal(c.dips, dips);
    assert_int_equal(c.monotone, monotone);
}

static void between_points(void **state)
{
    (void)state;
    check(SCORES(0, 80, 100, 100), '=', 0.25, '=', 0.25, 0, true);
    check(SCORES(50, 60, 70, 110), '=', 0.35, '=', 0.35, 0, true);
    check(SCORES(-90, 180), '=', 0.1 + 2. / 30, '=', 0.1 + 2. / 30, 0, true);
}

static void below_and_above_all(void **state)
{
    (void)state;
    check(SCORES(95, 97, 100), '<', 0.1, '<', 0.1, 0, true);
    check(SCORES(10, 20, 89), '>', 0.3, '>', 0.3, 0, true);
    check(SCORES(95), '<', 0.1, '<', 0.1, 0, true);
    check(SCORES(5), '>', 0.1, '>', 0.1, 0, true);
}

static void ties(void **state)
{
    (void)state;
    check(SCORES(80, 90, 100), '=', 0.2, '=', 0.2, 0, true);     /* on a point */
    check(SCORES(80, 90, 90, 100), '=', 0.2, '=', 0.2, 0, true); /* the lower end of a flat stretch */
    check(SCORES(90, 90), '<', 0.1, '<', 0.1, 0, true);
    check(SCORES(80, 80, 90), '=', 0.3, '=', 0.3, 0, true);
    /* 0.9 x 95.2 is a little more than the double 85.68: rounding must not fail who is at 90 % exactly */
    struct kv_point exact = {.footprint = 0.5, .score = 85.68, .rows = 1};
    check_bound(kv_crossing_find(&exact, 1, 0.9 * 95.2).critical, '<', 0.5, "a score at the threshold");
    assert_true(kv_score_reaches(85.68, 0.9 * 95.2));
    assert_false(kv_score_reaches(85.6799, 0.9 * 95.2));
    exact.score = 90 - 80e-12; /* which counts as 90 */
    struct kv_point both[] = {{0.1, 0, 1}, exact};
    double at = kv_crossing_find(both, 2, 90).critical.footprint;
    if (at != 0.5)
        fail_msg("the crossing is %.17g, beyond its upper point", at);
}

static void dips(void **state)
{
    (void)state;
    check(SCORES(80, 100, 80, 100), '=', 0.35, '=', 0.15, 1, false);       /* falls and comes back */
    check(SCORES(0, 180, 0, 180, 0, 180), '=', 0.55, '=', 0.15, 2, false); /* twice */
    check(SCORES(95, 80, 100), '=', 0.25, '<', 0.1, 1, false);             /* back at the smallest */
    check(SCORES(80, 100, 70), '>', 0.3, '=', 0.15, 1, false);             /* the largest fails */
    check(SCORES(95, 70), '>', 0.2, '<', 0.1, 1, false);                   /* only the smallest passes */
    check(SCORES(80, 100, 95, 100), '=', 0.15, '=', 0.15, 0, false);       /* wavers above the threshold */
    check(SCORES(40, 20, 100), '=', 0.2 + 0.1 * 70 / 80, '=', 0.2 + 0.1 * 70 / 80, 0, false); /* and below it */
}

static double draw(int trial, int i)
{
    return floor(12 * kv_uniform(kv_random(5, kv_purpose("critical"), (uint64_t)trial, (uint64_t)i))) * 10;
}

/* The line through the points. */
static double value_at(const double *score, int n, double footprint)
{
    int i = (int)floor(footprint * 10) - 1;
    i = i < 0 ? 0 : i > n - 2 ? n - 2 : i;
    return score[i] + (footprint * 10 - 1 - i) * (score[i + 1] - score[i]);
}

/* Against a walk over a fine grid, which shares no code with it. */
static void random_curves(void **state)
{
    (void)state;
    enum { STEPS = 3600 };
    for (int trial = 0; trial < 3000; trial++) {
        double score[MOST] = {0}, first = NAN, last = NAN;
        int n = 2 + (int)(draw(trial, MOST) / 120 * (MOST - 2));
        for (int i = 0; i < n; i++)
            score[i] = draw(trial, i) + 5; /* never at the threshold itself */
        struct kv_crossing c = crossing(score, n);
        bool below = false;
        int back = 0;
        for (int s = STEPS; s >= 0; s--) {
            double x = 0.1 + (n - 1) / 10. * s / STEPS, y = value_at(score, n, x);
            first = y < 90 && isnan(first) ? x : first;
            last = y >= 90 ? x : last;
            back += below && y >= 90;
            below = y < 90;
        }
        double fine = (n - 1) / 10. / STEPS + 1e-9;
        double critical = isnan(first) ? 0.1 : first, lowest = isnan(last) ? n / 10. : last;
        if (fabs(c.critical.footprint - critical) > fine || fabs(c.lowest.footprint - lowest) > fine || c.dips != back)
            fail_msg("curve %d of %d points: %c %g, lowest %c %g, %d dips; expected %g, %g, %d", trial, n,
                     c.critical.mark, c.critical.footprint, c.lowest.mark, c.lowest.footprint, c.dips, critical, lowest,
                     back);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(between_points), cmocka_unit_test(below_and_above_all), cmocka_unit_test(ties),
        cmocka_unit_test(dips),           cmocka_unit_test(random_curves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
