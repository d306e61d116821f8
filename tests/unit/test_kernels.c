/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The inner loops of the CPU backend, each instruction set that this machine has, against plain loops in double, for
 * lengths that vectors do not divide; and how exact the exponential is. */
#include "engine/cpu/kernels.h"
#include "sim/core/random.h"
#include "traces/half.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MOST = 261 };

static const int64_t lengths[] = {1, 2, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 80, 100, 127, 128, 129, 255, 256, 260};
enum { LENGTHS = sizeof lengths / sizeof *lengths };

/* The sets that there are, each once. */
static int find_sets(const struct kv_kernels *set[3])
{
    static const char *const names[] = {"portable", "avx2", "avx512"};
    int n = 0;
    for (int i = 0; i < 3; i++) {
        setenv("KVSIM_SIMD", names[i], 1);
        set[n] = kv_kernels_best();
        if (!strcmp(set[n]->name, names[i]))
            n++;
        else
            print_message("# no %s here\n", names[i]);
    }
    unsetenv("KVSIM_SIMD");
    assert_true(n > 0 && kv_kernels_best() == set[n - 1]);
    return n;
}

static void at_each_length(void (*check_one)(const struct kv_kernels *k, int64_t n, uint64_t seed))
{
    const struct kv_kernels *sets[3];
    int n_sets = find_sets(sets);
    for (int s = 0; s < n_sets; s++)
        for (uint64_t l = 0; l < LENGTHS; l++)
            check_one(sets[s], lengths[l], l);
}

static void draw(float *x, int64_t n, uint64_t seed, double scale)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(scale * (2 * kv_uniform(kv_random(seed, 1, 0, (uint64_t)i)) - 1));
}

static void check(const char *set, const char *what, int64_t n, double got, double expected, double tolerance)
{
    if (!(fabs(got - expected) <= tolerance))
        fail_msg("%s, %s of %d: %.9g, expected %.9g", set, what, (int)n, got, expected);
}

/* What lies behind a row must stay. */
static void check_behind(const char *set, const char *what, const float *row, int64_t n)
{
    if (row[n] != 123)
        fail_msg("%s, %s of %d writes behind its end", set, what, (int)n);
}

static void check_sums_and_rows(const struct kv_kernels *k, int64_t n, uint64_t seed)
{
    float x[MOST], y[MOST], z[MOST];
    double dot = 0, squares = 0, most = -INFINITY;
    draw(x, n, seed, 2);
    draw(y, n, seed + 50, 2);
    for (int64_t i = 0; i < n; i++) {
        dot += (double)x[i] * (double)y[i];
        squares += (double)x[i] * (double)x[i];
        most = fmax(most, (double)x[i]);
    }
    check(k->name, "dot", n, (double)k->dot(x, y, n), dot, 1e-6 * (double)n);
    check(k->name, "max", n, (double)k->max(x, n), most, 0);
    memcpy(z, y, sizeof z);
    z[n] = 123;
    k->axpy(z, 0.7f, x, n);
    check_behind(k->name, "axpy", z, n);
    for (int64_t i = 0; i < n; i++)
        check(k->name, "axpy", n, (double)z[i], (double)y[i] + (double)0.7f * (double)x[i], 4e-7);
    memcpy(z, y, sizeof z);
    z[n] = 123;
    k->scale(z, 0.3f, n);
    check_behind(k->name, "scale", z, n);
    for (int64_t i = 0; i < n; i++)
        check(k->name, "scale", n, (double)z[i], (double)(0.3f * y[i]), 0);
    z[n] = 123;
    k->rms_norm(x, y, n, 1e-5f, z);
    check_behind(k->name, "rms_norm", z, n);
    for (int64_t i = 0; i < n; i++)
        check(k->name, "rms_norm", n, (double)z[i],
              (double)x[i] / sqrt(squares / (double)n + (double)1e-5f) * (double)y[i], 2e-6);
    draw(x, n, seed, 30);
    memcpy(z, x, sizeof z);
    z[n] = 123;
    k->silu_times(z, y, n);
    check_behind(k->name, "silu_times", z, n);
    for (int64_t i = 0; i < n; i++) {
        double expected = (double)x[i] / (1 + exp(-(double)x[i])) * (double)y[i];
        check(k->name, "silu_times", n, (double)z[i], expected, 1e-6 * fabs(expected) + 1e-12);
    }
}

static void sums_and_rows(void **state)
{
    (void)state;
    at_each_length(check_sums_and_rows);
}

static void maxima_of_odd_numbers(void **state)
{
    const struct kv_kernels *sets[3];
    int n_sets = find_sets(sets);
    (void)state;
    for (int s = 0; s < n_sets; s++)
        for (int64_t at = 0; at < 40; at++) {
            float x[40];
            for (int i = 0; i < 40; i++)
                x[i] = -INFINITY;
            x[at] = -3e38f;
            check(sets[s]->name, "max", 40, (double)sets[s]->max(x, 40), (double)-3e38f, 0);
            assert_true(sets[s]->max(x, 0) == -INFINITY);
        }
}

/* ---- exponentials ---- */

static double ulp(double x)
{
    float f = (float)x;
    return (double)(nextafterf(f, INFINITY) - f);
}

static void exponentials_are_exact_to_3_ulp(void **state)
{
    const struct kv_kernels *sets[3];
    int n_sets = find_sets(sets);
    (void)state;
    for (int s = 0; s < n_sets; s++) {
        double worst = 0;
        for (int64_t from = 0; from < 4000000; from += 250) {
            float x[250], e[250];
            for (int64_t i = 0; i < 250; i++)
                e[i] = x[i] = -87.0f * (float)(from + i) / 4000000.0f;
            sets[s]->softmax(e, 250, 0);
            for (int i = 0; i < 250; i++)
                worst = fmax(worst, fabs((double)e[i] - exp((double)x[i])) / ulp(exp((double)x[i])));
        }
        print_message("# %s: exp is within %.2f ulp\n", sets[s]->name, worst);
        assert_true(worst <= 3);
        float edge[] = {0, -87, -88, -1000, -INFINITY, -1e-38f};
        float sum = sets[s]->softmax(edge, 6, 0);
        assert_true(edge[0] == 1 && edge[1] > 0 && edge[2] == 0 && edge[3] == 0 && edge[4] == 0 && edge[5] == 1);
        check(sets[s]->name, "softmax", 6, (double)sum, 2, 1e-6);
    }
}

static void check_softmax(const struct kv_kernels *k, int64_t n, uint64_t seed)
{
    float x[MOST], y[MOST], add[MOST];
    double sum = 0;
    draw(x, n, seed, 20);
    float top = k->max(x, n);
    for (int64_t i = 0; i < n; i++)
        sum += exp((double)x[i] - (double)top);
    memcpy(y, x, sizeof y);
    y[n] = add[n] = 123;
    check(k->name, "softmax", n, (double)k->softmax(y, n, top), sum, 1e-6 * sum);
    check_behind(k->name, "softmax", y, n);
    draw(add, n, 3, 1);
    float before[MOST];
    memcpy(before, add, sizeof before);
    k->add_exp(add, x, n, top + 1);
    check_behind(k->name, "add_exp", add, n);
    for (int64_t i = 0; i < n; i++) {
        double e = exp((double)x[i] - (double)top);
        check(k->name, "softmax", n, (double)y[i], e, 3e-6 * e);
        check(k->name, "add_exp", n, (double)add[i], (double)before[i] + e * exp(-1), 2e-7 + 3e-6 * e);
    }
}

static void softmax_rows(void **state)
{
    (void)state;
    at_each_length(check_softmax);
}

/* ---- rows of weights ---- */

/* n numbers in the type, from an address that is not aligned; their values in `exact`. */
static const void *encode(enum kv_tensor_type type, const float *x, int64_t n, char *bytes, float *exact)
{
    char *out = bytes + 1;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        uint16_t half;
        memcpy(&bits, &x[i], 4);
        exact[i] = x[i];
        if (type == KV_TENSOR_F32) {
            memcpy(out + 4 * i, &x[i], 4);
            continue;
        }
        if (type == KV_TENSOR_BF16) {
            half = (uint16_t)(bits >> 16);
            bits &= 0xffff0000;
            memcpy(&exact[i], &bits, 4);
        } else {
            half = kv_half_from_float(x[i]);
            exact[i] = kv_half_to_float(half);
        }
        memcpy(out + 2 * i, &half, 2);
    }
    return out;
}

/* Rows that no set of registers divides, at an address that is not aligned; and each sum has the same bits whatever is
 * multiplied beside it. */
static void check_products(const struct kv_kernels *k, const char *name, enum kv_tensor_type type, int64_t n)
{
    enum { ROWS = 11, STRIDE = ROWS + 2, VECTORS = KV_MOST_VECTORS };
    static char bytes[4 * ROWS * MOST + 8];
    static float w[ROWS * MOST], exact[ROWS * MOST], x[VECTORS * MOST];
    const float *vector[VECTORS];
    float alone[ROWS * VECTORS];
    draw(w, ROWS * n, (uint64_t)n, 1);
    draw(x, VECTORS * n, (uint64_t)n + 9, 1);
    const char *rows = encode(type, w, ROWS * n, bytes, exact);
    for (int m = 0; m < VECTORS; m++)
        vector[m] = x + m * n;
    for (int m = 0; m < VECTORS; m++)
        for (int64_t j = 0; j < ROWS; j++) {
            double dot = 0;
            for (int64_t i = 0; i < n; i++)
                dot += (double)exact[j * n + i] * (double)x[m * n + i];
            k->multiply(rows + j * n * (type == KV_TENSOR_F32 ? 4 : 2), type, n, 1, vector + m, 1, &alone[m * ROWS + j],
                        1);
            check(k->name, name, n, (double)alone[m * ROWS + j], dot, 2e-7 * (double)n);
        }
    for (int many = 1; many <= VECTORS; many++)
        for (int64_t n_rows = 1; n_rows <= ROWS; n_rows++) {
            float y[VECTORS * STRIDE];
            for (int i = 0; i < VECTORS * STRIDE; i++)
                y[i] = 123;
            k->multiply(rows, type, n, n_rows, vector, many, y, STRIDE);
            for (int m = 0; m < VECTORS; m++) {
                check_behind(k->name, name, y + m * STRIDE, m < many ? n_rows : 0);
                if (m < many && memcmp(y + m * STRIDE, alone + m * ROWS, sizeof *y * (size_t)n_rows))
                    fail_msg("%s, %s of %d: other bits beside %d rows and %d vectors", k->name, name, (int)n,
                             (int)n_rows, many);
            }
        }
}

static void check_types(const struct kv_kernels *k, int64_t n, uint64_t seed)
{
    static const char *const names[] = {"multiply by f32", "multiply by bf16", "multiply by f16"};
    for (int type = KV_TENSOR_F32; type <= KV_TENSOR_F16; type++) {
        char bytes[4 * MOST + 8];
        float w[MOST], exact[MOST], wide[MOST];
        draw(w, n, seed, 1);
        w[0] = 1e-6f; /* subnormal as a half */
        const void *row = encode((enum kv_tensor_type)type, w, n, bytes, exact);
        wide[n] = 123;
        k->widen(row, (enum kv_tensor_type)type, n, wide);
        check_behind(k->name, "widen", wide, n);
        assert_memory_equal(wide, exact, sizeof *wide * (size_t)n);
        check_products(k, names[type], (enum kv_tensor_type)type, n);
    }
}

static void rows_of_every_type(void **state)
{
    (void)state;
    at_each_length(check_types);
}

static void check_sums_of_rows(const struct kv_kernels *k, int64_t n, uint64_t seed)
{
    (void)seed;
    enum { ROWS = 5 };
    static float rows[ROWS * MOST];
    float y[MOST], again[MOST], by[ROWS];
    draw(rows, ROWS * n, 1, 2);
    draw(by, ROWS, 2, 1);
    draw(y, n, 3, 1);
    memcpy(again, y, sizeof *y * (size_t)n);
    y[n] = 123;
    k->add_rows(y, by, rows, n, ROWS);
    check_behind(k->name, "add_rows", y, n);
    for (int64_t i = 0; i < n; i++) {
        double sum = (double)again[i];
        for (int j = 0; j < ROWS; j++)
            sum += (double)by[j] * (double)rows[j * n + i];
        check(k->name, "add_rows", n, (double)y[i], sum, 2e-6);
    }
    k->add_rows(again, by, rows, n, 2); /* a page, then the next */
    k->add_rows(again, by + 2, rows + 2 * n, n, ROWS - 2);
    assert_memory_equal(again, y, sizeof *y * (size_t)n);
}

static void sums_of_rows(void **state)
{
    (void)state;
    at_each_length(check_sums_of_rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_and_rows),
        cmocka_unit_test(maxima_of_odd_numbers),
        cmocka_unit_test(exponentials_are_exact_to_3_ulp),
        cmocka_unit_test(softmax_rows),
        cmocka_unit_test(rows_of_every_type),
        cmocka_unit_test(sums_of_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
