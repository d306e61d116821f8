/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Codes against FORMAT.md's formulas computed one number at a time, on every path; and what choosing by codes costs. */
#include "sim/core/random.h"
#include "sim/core/select.h"
#include "traces/codes.h"
#include "traces/codes_paths.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { LARGEST = 65536, SCALES = 3 };

static const int scales[SCALES] = {32, 64, 128};
static const char *const paths[] = {"portable", "avx2", "avx512"};

struct fixture {
    float *row, *back, *pooled;
    uint16_t *code, *again;
    uint8_t *hi, *lo;
    uint64_t *mask, *other;
    struct kv_top_work work;
    struct kv_row_facts facts;
    uint64_t drawn;
};

static void *room(size_t size)
{
    void *p = calloc(LARGEST + KV_SLACK, size);
    assert_non_null(p);
    return p;
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->row = room(sizeof(float));
    f->back = room(sizeof(float));
    f->pooled = room(sizeof(float));
    f->code = room(sizeof(uint16_t));
    f->again = room(sizeof(uint16_t));
    f->hi = room(1);
    f->lo = room(1);
    f->mask = room(1);
    f->other = room(1);
    f->work = (struct kv_top_work){room(sizeof(uint32_t)), room(sizeof(uint32_t)), LARGEST};
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    unsetenv("KVSIM_SIMD");
    free(f->row);
    free(f->back);
    free(f->pooled);
    free(f->code);
    free(f->again);
    free(f->hi);
    free(f->lo);
    free(f->mask);
    free(f->other);
    free(f->work.histogram);
    free(f->work.boundary);
    free(f);
    return 0;
}

/* The paths this machine has, one after the other: what kv_select_best returns. */
static bool use_path(int p)
{
    setenv("KVSIM_SIMD", paths[p], 1);
    return kv_select_of((enum kv_simd)p) != NULL;
}

static uint64_t draw(struct fixture *f)
{
    return kv_random(1, kv_purpose("test_codes"), 0, f->drawn++);
}

static double uniform(struct fixture *f)
{
    return kv_uniform(draw(f));
}

static double normal(struct fixture *f)
{
    return sqrt(-2 * log(1 - uniform(f))) * cos(6.283185307179586 * uniform(f));
}

static bool encode(struct fixture *f, int64_t n, int steps, int64_t *bad)
{
    return kv_codes_encode(f->row, n, steps, f->code, &f->facts, bad);
}

/* ---- formulas, as written in FORMAT.md ---- */

static long expected_code(float x, float max, int steps)
{
    if (x == 0)
        return 0;
    long c = lrint(4095 + steps * log2((double)x / (double)max));
    return c < 1 ? 1 : c > 4095 ? 4095 : c;
}

static float expected_number(int c, int steps, float max)
{
    if (c == 0)
        return 0;
    const uint32_t *table = steps == 32 ? kv_codes_table32 : steps == 64 ? kv_codes_table64 : kv_codes_table128;
    int d = 4095 - c;
    float entry;
    memcpy(&entry, &table[(steps - d % steps) % steps], sizeof entry);
    volatile float factor = ldexpf(entry, -((d + steps - 1) / steps));
    return max * factor;
}

static void tables_are_powers_of_two_rounded(void **state)
{
    (void)state;
    static const uint32_t *const tables[SCALES] = {kv_codes_table32, kv_codes_table64, kv_codes_table128};
    for (int s = 0; s < SCALES; s++)
        for (int i = 0; i < scales[s]; i++) {
            float expected = (float)exp2l((long double)i / scales[s]), found;
            memcpy(&found, &tables[s][i], sizeof found);
            if (memcmp(&found, &expected, sizeof found))
                fail_msg("2^(%d/%d) is %a, expected %a", i, scales[s], (double)found, (double)expected);
        }
}

static void check_codes(struct fixture *f, int64_t n, int steps, const char *path)
{
    float max = 0;
    int32_t nnz = 0;
    int64_t bad = -1;
    for (int64_t i = 0; i < n; i++) {
        max = f->row[i] > max ? f->row[i] : max;
        nnz += f->row[i] != 0;
    }
    assert_true(encode(f, n, steps, &bad));
    assert_int_equal(bad, -1);
    assert_memory_equal(&f->facts.max, &max, sizeof max);
    assert_int_equal(f->facts.nnz, nnz);
    assert_true(f->facts.sum == kv_select_of(KV_SIMD_PORTABLE)->sum(f->row, NULL, n));
    assert_int_equal(f->facts.xxh3, kv_codes_hash(f->code, n));
    for (int64_t i = 0; i < n; i++)
        if (f->code[i] != expected_code(f->row[i], max, steps))
            fail_msg("%s, %d steps: %a of maximum %a is %d, expected %ld", path, steps, (double)f->row[i], (double)max,
                     f->code[i], expected_code(f->row[i], max, steps));
}

/* Numbers within a few units in the last place of where two codes meet. */
static void draw_meetings(struct fixture *f, int64_t n, int steps)
{
    float max = f->row[0];
    for (int64_t i = 1; i < n; i++) {
        float x = (float)((double)max * exp2(-((double)(draw(f) % 4200) + 0.5) / steps));
        for (uint64_t j = draw(f) % 4; j > 0; j--)
            x = nextafterf(x, draw(f) % 2 ? 0 : max);
        f->row[i] = x;
    }
}

static void draw_row(struct fixture *f, int64_t n, int kind, int steps)
{
    static const float maxima[] = {1, 0.85f, 3e38f, 1e-30f, 1e-40f, 1.17549435e-38f};
    for (int64_t i = 0; i < n; i++)
        f->row[i] = kind == 0   ? (float)uniform(f)
                    : kind == 1 ? (float)exp(3 * normal(f))
                    : kind == 2 ? (float)ldexp(uniform(f), -(int)(draw(f) % 140))
                    : kind == 3 ? (draw(f) % 3 ? draw(f) % 2 ? 0.0f : -0.0f : (float)uniform(f))
                                : 0.0f;
    if (n > 0 && kind == 5) {
        f->row[0] = maxima[draw(f) % 6];
        draw_meetings(f, n, steps);
    }
}

static void codes_are_those_of_the_formula(void **state)
{
    struct fixture *f = *state;
    for (int64_t n = 0; n <= LARGEST; n += n < 70 ? 1 : n / 3)
        for (int kind = 0; kind < 6; kind++)
            for (int s = 0; s < SCALES; s++) {
                draw_row(f, n, kind, scales[s]);
                for (int p = 0; p < KV_SIMDS; p++)
                    if (use_path(p))
                        check_codes(f, n, scales[s], paths[p]);
            }
}

static void the_first_bad_number_is_found(void **state)
{
    struct fixture *f = *state;
    static const float bad[] = {-1, -1e-45f, INFINITY, -INFINITY, NAN, -NAN};
    for (int p = 0; p < KV_SIMDS; p++)
        for (size_t i = 0; use_path(p) && i < sizeof bad / sizeof *bad; i++)
            for (int64_t at = 0; at < 100; at += 7) {
                int64_t found = -1;
                draw_row(f, 100, 1, 64);
                f->row[99] = f->row[at] = bad[i];
                assert_false(encode(f, 100, 64, &found));
                assert_int_equal(found, at);
            }
}

/* ---- back ---- */

static void every_code_has_its_number(void **state)
{
    struct fixture *f = *state;
    static const float maxima[] = {0, 1, 0.85f, FLT_MAX, 1.17549435e-38f, 1e-41f, 1e-45f, 1e-20f};
    static const int64_t lengths[] = {0, 1, 7, 8, 15, 16, 17, 33, 4096};
    for (int c = 0; c < 4096; c++)
        f->code[c] = (uint16_t)(4095 - c);
    for (size_t m = 0; m < sizeof maxima / sizeof *maxima; m++)
        for (int s = 0; s < SCALES; s++)
            for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
                for (int p = 0; p < KV_SIMDS; p++) {
                    int64_t n = lengths[i];
                    if (!use_path(p))
                        continue;
                    kv_codes_decode(f->code + 4096 - n, n, scales[s], maxima[m], f->back);
                    for (int64_t j = 0; j < n; j++) {
                        float expected = expected_number((int)(n - 1 - j), scales[s], maxima[m]);
                        if (memcmp(f->back + j, &expected, sizeof expected))
                            fail_msg("%s, %d steps, maximum %a: code %d is %a, expected %a", paths[p], scales[s],
                                     (double)maxima[m], (int)(n - 1 - j), (double)f->back[j], (double)expected);
                    }
                }
}

static void the_error_is_half_a_step(void **state)
{
    struct fixture *f = *state;
    int64_t bad;
    for (int s = 0; s < SCALES; s++) {
        double worst = 0, bound = exp2(0.5 / scales[s]) - 1 + 1e-6;
        draw_row(f, LARGEST, 1, 64);
        assert_true(encode(f, LARGEST, scales[s], &bad));
        kv_codes_decode(f->code, LARGEST, scales[s], f->facts.max, f->back);
        for (int64_t i = 0; i < LARGEST; i++)
            if (f->code[i] > 1) /* 1 stands for all that is below the range, too */
                worst = fmax(worst, fabs((double)f->back[i] / (double)f->row[i] - 1));
        if (worst > bound || worst < 0.95 * bound)
            fail_msg("%d steps: error %g, expected %g", scales[s], worst, bound);
        if (scales[s] == 64)
            assert_true(worst < 0.00544);
    }
}

static void codes_of_numbers_that_were_codes_stay(void **state)
{
    struct fixture *f = *state;
    int64_t bad;
    for (int s = 0; s < SCALES; s++) {
        draw_row(f, 10000, 1, 64);
        assert_true(encode(f, 10000, scales[s], &bad));
        memcpy(f->again, f->code, 10000 * sizeof *f->code);
        kv_codes_decode(f->code, 10000, scales[s], f->facts.max, f->row);
        assert_true(encode(f, 10000, scales[s], &bad));
        assert_memory_equal(f->again, f->code, 10000 * sizeof *f->code);
    }
}

/* ---- planes ---- */

static void planes_are_split_and_joined(void **state)
{
    struct fixture *f = *state;
    for (int64_t n = 0; n < 1000; n += n < 200 ? 1 : 97)
        for (int p = 0; p < KV_SIMDS; p++) {
            if (!use_path(p))
                continue;
            for (int64_t i = 0; i < n; i++)
                f->code[i] = draw(f) & 4095;
            f->hi[n] = f->lo[(n + 1) / 2] = 0xa5;
            f->again[n] = 0xa5a5;
            kv_codes_split(f->code, n, f->hi, f->lo);
            for (int64_t i = 0; i < n; i++) {
                assert_int_equal(f->hi[i], f->code[i] >> 4);
                assert_int_equal(f->lo[i / 2] >> i % 2 * 4 & 15, f->code[i] & 15);
            }
            if (n % 2)
                assert_int_equal(f->lo[n / 2] >> 4, 0);
            kv_codes_join(f->hi, f->lo, n, f->again);
            assert_memory_equal(f->code, f->again, (size_t)n * sizeof *f->code);
            assert_int_equal(f->hi[n], 0xa5);
            assert_int_equal(f->lo[(n + 1) / 2], 0xa5);
            assert_int_equal(f->again[n], 0xa5a5);
        }
}

static void planes_become_numbers_at_once(void **state)
{
    struct fixture *f = *state;
    static const float maxima[] = {1, 0.85f, FLT_MAX, 1e-41f, 1e-30f};
    for (int64_t n = 0; n < 20000; n += n < 300 ? 1 : n / 3 + 1)
        for (int s = 0; s < SCALES; s++)
            for (int p = 0; p < KV_SIMDS; p++) {
                uint64_t hash = 0;
                float max = maxima[draw(f) % 5];
                if (!use_path(p))
                    continue;
                for (int64_t i = 0; i < n; i++)
                    f->code[i] = draw(f) % 8 ? draw(f) & 4095 : 0;
                f->back[n] = -1;
                kv_codes_split(f->code, n, f->hi, f->lo);
                kv_codes_decode_planes(f->hi, f->lo, n, scales[s], max, f->back, &hash);
                assert_int_equal(hash, kv_codes_hash(f->code, n));
                assert_true(f->back[n] == -1);
                for (int64_t i = 0; i < n; i++) {
                    float expected = expected_number(f->code[i], scales[s], max);
                    if (memcmp(f->back + i, &expected, sizeof expected))
                        fail_msg("%s, %d steps, maximum %a: code %d is %a, expected %a", paths[p], scales[s],
                                 (double)max, f->code[i], (double)f->back[i], (double)expected);
                }
                memset(f->pooled, 0, (size_t)n * sizeof *f->pooled);
                kv_codes_decode_planes(f->hi, f->lo, n, scales[s], max, f->pooled, NULL);
                assert_memory_equal(f->pooled, f->back, (size_t)n * sizeof *f->back);
            }
}

static void hashes_are_those_of_the_format(void **state)
{
    (void)state;
    static const uint16_t code[] = {0x0001, 0x0fff, 0x0123};
    assert_int_equal(kv_codes_hash(NULL, 0), UINT64_C(0x2d06800538d394c2)); /* published for no bytes, seed 0 */
    assert_int_not_equal(kv_codes_hash(code, 3), kv_codes_hash(code, 2));
}

/* ---- what choosing by codes costs ---- */

/* Heads as they are found: most mass on the first tokens, on the last ones, in narrow spikes, or spread. */
static void draw_head(struct fixture *f, int head)
{
    double at = 0, correlation = head / 4 % 4 * 0.25, spread = sqrt(1 - correlation * correlation);
    double sigma = head % 4 == 2 ? 2 + 0.3 * (head / 4) : head % 4 == 3 ? 0.4 + 0.2 * (head / 4) : 1;
    for (int64_t i = 0; i < LARGEST; i++) {
        at = correlation * at + spread * normal(f);
        double x = exp(sigma * at);
        if (head % 4 == 1)
            x *= pow((double)(LARGEST - i), -0.8 - 0.15 * (head / 4));
        f->row[i] = (float)x;
    }
    for (int i = 0; i < 4 && head % 4 == 0; i++)
        f->row[i] = (float)(LARGEST * (0.5 + head / 4));
}

static double mass(const float *row, const uint64_t *mask)
{
    return kv_select_best()->sum(row, mask, LARGEST) / kv_select_best()->sum(row, NULL, LARGEST);
}

static void choices_by_codes_are_nearly_those_by_numbers(void **state)
{
    struct fixture *f = *state;
    enum { HEADS = 16, BUDGETS = 3 };
    static const int budgets[BUDGETS] = {10, 40, 70};
    double recall[2][BUDGETS] = {{0}}, lost[2][BUDGETS] = {{0}};
    const struct kv_select *select = kv_select_best();
    for (int head = 0; head < HEADS; head++) {
        int64_t bad;
        draw_head(f, head);
        assert_true(encode(f, LARGEST, 64, &bad));
        kv_codes_decode(f->code, LARGEST, 64, f->facts.max, f->back);
        for (int pooled = 0; pooled < 2; pooled++)
            for (int b = 0; b < BUDGETS; b++) {
                int64_t k = LARGEST * (int64_t)budgets[b] / 100;
                select->pool_sum(f->row, LARGEST, pooled ? 5 : 1, f->pooled);
                select->top(f->pooled, LARGEST, k, f->mask, &f->work);
                select->pool_sum(f->back, LARGEST, pooled ? 5 : 1, f->pooled);
                select->top(f->pooled, LARGEST, k, f->other, &f->work);
                recall[pooled][b] += (double)kv_set_common(f->mask, f->other, LARGEST) / (double)k / HEADS;
                lost[pooled][b] += fabs(mass(f->back, f->other) - mass(f->row, f->mask)) / HEADS;
            }
    }
    for (int pooled = 0; pooled < 2; pooled++)
        for (int b = 0; b < BUDGETS; b++) {
            print_message("# keep %d %%%s: recall %.3f %%, error of the mass %.4f %%\n", budgets[b],
                          pooled ? ", pooled" : "", 100 * recall[pooled][b], 100 * lost[pooled][b]);
            assert_true(recall[pooled][b] >= 0.995);
            assert_true(lost[pooled][b] < 0.001);
        }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(tables_are_powers_of_two_rounded), TEST(codes_are_those_of_the_formula),
        TEST(the_first_bad_number_is_found),    TEST(every_code_has_its_number),
        TEST(the_error_is_half_a_step),         TEST(codes_of_numbers_that_were_codes_stay),
        TEST(planes_are_split_and_joined),      TEST(planes_become_numbers_at_once),
        TEST(hashes_are_those_of_the_format),   TEST(choices_by_codes_are_nearly_those_by_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
