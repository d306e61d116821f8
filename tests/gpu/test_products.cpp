/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Products of many rows: what a library that counts columns first is told is checked by multiplying as it would, in
 * doubles; what the device makes of it, against x w^T; and which plans are kept. */
#include "tests/gpu/numbers.h"

#include <vector>

struct shape {
    int64_t rows, outputs, inputs, gap, shift; /* shift: elements that w, x and y begin behind an aligned address */
    bool wide, add;
};

/* As models have them; then vocabularies and widths that are no multiple of 8, and addresses of any kind. */
static const struct shape shapes[] = {
    {9, 64, 64, 0, 0, false, false},   {33, 96, 128, 0, 0, true, true},  {128, 256, 64, 0, 0, true, false},
    {17, 261, 64, 0, 0, true, false},  {12, 257, 72, 0, 0, true, true},  {40, 31, 33, 0, 0, false, false},
    {21, 64, 35, 5, 0, true, true},    {16, 40, 64, 24, 0, false, false}, {1, 1, 1, 0, 0, true, false},
    {10, 7, 5, 2, 0, false, false},    {19, 64, 64, 0, 8, false, false}, {11, 24, 40, 3, 2, true, true},
    {70, 130, 514, 14, 1, false, false}, {65, 72, 2048, 0, 0, false, false},
};

/* y in doubles, rows first. */
static double exact(const kv_bf16 *w, const kv_bf16 *x, const struct shape *s, int64_t r, int64_t o, double *size)
{
    double sum = *size = 0;
    for (int64_t i = 0; i < s->inputs; i++) {
        double term = (double)from_bf16(x[r * s->inputs + i]) * (double)from_bf16(w[o * s->inputs + i]);
        sum += term;
        *size += fabs(term);
    }
    return sum;
}

/* The three fields of a column-major product, as the manuals of BLAS define them: op(A) (m, k), B (k, n), C (m, n). */
static void test_columns(void **state)
{
    (void)state;
    for (const struct shape &s : shapes) {
        int64_t step = s.outputs + s.gap;
        std::vector<kv_bf16> w(s.outputs * s.inputs), x(s.rows * s.inputs);
        std::vector<double> y(s.rows * step, 1.5), was = y;
        alignas(256) static const char address[1] = {0};
        fill_bf16(w.data(), (int64_t)w.size(), 1);
        fill_bf16(x.data(), (int64_t)x.size(), 2);
        const struct kv_product p =
            kv_product_of(address, address, s.rows, s.outputs, s.inputs, address, step, s.wide, s.add);
        const struct kv_column_product c = kv_product_columns(&p);
        int64_t m = c.w.columns, k = c.w.rows, n = c.x.columns;
        assert_true(c.x.rows == k && c.y.rows == m && c.y.columns == n);
        assert_true(c.w.step >= c.w.rows && c.x.step >= c.x.rows && c.y.step >= c.y.rows);
        for (int64_t j = 0; j < n; j++)
            for (int64_t i = 0; i < m; i++) {
                double sum = s.add ? y.at(i + j * c.y.step) : 0;
                for (int64_t l = 0; l < k; l++)
                    sum += (double)from_bf16(w.at(l + i * c.w.step)) * (double)from_bf16(x.at(l + j * c.x.step));
                y.at(i + j * c.y.step) = sum;
            }
        for (int64_t r = 0; r < s.rows; r++)
            for (int64_t o = 0; o < step; o++) {
                double size, wanted = o < s.outputs ? exact(w.data(), x.data(), &s, r, o, &size) : was[0];
                wanted += o < s.outputs && s.add ? was[0] : 0;
                assert_float_equal(y[r * step + o], wanted, 1e-9 * (1 + fabs(wanted)));
            }
    }
}

static void test_alignment(void **state)
{
    alignas(256) static const char at[1024] = {0};
    (void)state;
    assert_int_equal(kv_product_of(at, at, 9, 8, 8, at, 8, false, false).alignment, 256);
    assert_int_equal(kv_product_of(at + 512, at + 256, 9, 8, 8, at, 8, true, false).alignment, 256);
    assert_int_equal(kv_product_of(at, at + 16, 9, 8, 8, at + 64, 8, true, true).alignment, 16);
    assert_int_equal(kv_product_of(at + 4, at, 9, 8, 8, at, 8, false, false).alignment, 4);
    assert_int_equal(kv_product_of(at, at, 9, 8, 8, at + 130, 8, false, false).alignment, 2);
}

/* In the device's own memory: w and x as they are on the host, y as the device leaves it. */
struct factors {
    kv_bf16 *w, *x;
    char *y;
};

static void *device_room(struct kv_gpu *g, size_t bytes)
{
    struct kv_err e = {};
    void *at;
    if (!kv_gpu_new(g, &at, (int64_t)bytes, 1, "a test's numbers", &e))
        fail_msg("%s", e.text);
    return at;
}

static struct factors open_factors(struct kv_gpu *g, const struct shape &s, const std::vector<kv_bf16> &w,
                                   const std::vector<kv_bf16> &x)
{
    size_t shift = (size_t)s.shift, y = (size_t)(s.rows * (s.outputs + s.gap) + s.shift) * sizeof(float);
    struct factors f = {(kv_bf16 *)device_room(g, (w.size() + shift) * 2),
                        (kv_bf16 *)device_room(g, (x.size() + shift) * 2), (char *)device_room(g, y)};
    kv_gpu_put(g, f.w + shift, w.data(), w.size() * 2);
    kv_gpu_put(g, f.x + shift, x.data(), x.size() * 2);
    wait_for(g);
    return f;
}

static void close_factors(struct kv_gpu *g, struct factors *f)
{
    kv_gpu_delete(g, f->w);
    kv_gpu_delete(g, f->x);
    kv_gpu_delete(g, f->y);
}

/* What lies between the rows of y included. */
static std::vector<char> multiply(struct kv_gpu *g, const struct shape &s, const struct factors &f)
{
    size_t size = s.wide ? sizeof(float) : sizeof(kv_bf16), n = (size_t)(s.rows * (s.outputs + s.gap));
    std::vector<char> y(n * size);
    char *to = f.y + (size_t)s.shift * size;
    for (size_t i = 0; i < n; i++) {
        float wide = (float)(i % 7);
        kv_bf16 narrow = to_bf16(wide);
        memcpy(y.data() + i * size, s.wide ? (void *)&wide : (void *)&narrow, size);
    }
    kv_gpu_put(g, to, y.data(), y.size());
    kv_gpu_multiply(g, f.w + s.shift, f.x + s.shift, s.rows, s.outputs, s.inputs, to, s.outputs + s.gap, s.wide, s.add);
    kv_gpu_get(g, y.data(), to, y.size());
    wait_for(g);
    return y;
}

/* Sums in fp32 are off by some of their terms' sizes, bf16 by half of its last place. */
static void test_products(void **state)
{
    struct kv_gpu *g = open_device();
    (void)state;
    for (const struct shape &s : shapes) {
        int64_t step = s.outputs + s.gap;
        std::vector<kv_bf16> w((size_t)(s.outputs * s.inputs)), x((size_t)(s.rows * s.inputs));
        fill_bf16(w.data(), (int64_t)w.size(), 3);
        fill_bf16(x.data(), (int64_t)x.size(), 4);
        struct factors f = open_factors(g, s, w, x);
        std::vector<char> once = multiply(g, s, f), twice = multiply(g, s, f);
        assert_memory_equal(once.data(), twice.data(), once.size());
        for (int64_t at = 0; at < s.rows * step; at++) {
            double size = 0, was = (double)(at % 7), wanted = was, got;
            float wide;
            kv_bf16 narrow;
            memcpy(&wide, once.data() + (s.wide ? (size_t)at * sizeof wide : 0), sizeof wide);
            memcpy(&narrow, once.data() + (s.wide ? 0 : (size_t)at * sizeof narrow), sizeof narrow);
            got = s.wide ? (double)wide : (double)from_bf16(narrow);
            if (at % step < s.outputs)
                wanted = exact(w.data(), x.data(), &s, at / step, at % step, &size) + (s.add ? was : 0);
            assert_float_equal(got, wanted, 1e-5 * (size + fabs(was)) + (s.wide || !size ? 0 : fabs(wanted) / 256));
        }
        close_factors(g, &f);
    }
    kv_gpu_close(g);
}

/* More row counts than plans are kept: what was dropped and is made again is the same, in bits and by name. */
static void test_plans(void **state)
{
    const struct shape first = {16, 64, 64, 0, 0, true, false};
    struct kv_gpu *g = open_device();
    struct kv_gpu_plan plan = {}, again = {};
    const struct shape most = {400, 64, 64, 0, 0, true, false};
    std::vector<kv_bf16> w(64 * 64), x(400 * 64);
    (void)state;
    fill_bf16(w.data(), (int64_t)w.size(), 5);
    fill_bf16(x.data(), (int64_t)x.size(), 6);
    struct factors f = open_factors(g, most, w, x);
    assert_false(kv_gpu_planned(g, 0, &plan));
    std::vector<char> was = multiply(g, first, f);
    assert_true(kv_gpu_planned(g, 0, &plan));
    assert_int_equal(plan.product.rows, 16);
    assert_int_equal(plan.product.outputs, 64);
    assert_true(plan.product.wide && !plan.product.add);
    multiply(g, first, f);
    assert_false(kv_gpu_planned(g, 1, &plan)); /* the same product has one plan */
    struct shape other = first;
    for (other.rows = 17; other.rows < 17 + KV_PRODUCT_PLACES; other.rows++) {
        multiply(g, other, f);
        assert_true(kv_gpu_planned(g, 0, &again));
        assert_int_equal(again.product.rows, other.rows);
    }
    assert_true(kv_gpu_planned(g, KV_PRODUCT_PLACES - 1, &again));
    assert_int_equal(again.product.rows, 17); /* 16 was the oldest */
    assert_false(kv_gpu_planned(g, KV_PRODUCT_PLACES, &again));
    std::vector<char> now = multiply(g, first, f);
    assert_memory_equal(was.data(), now.data(), was.size());
    assert_true(kv_gpu_planned(g, 0, &again));
    assert_int_equal(again.product.rows, 16);
    assert_int_equal(again.algorithm, plan.algorithm);
    assert_int_equal(again.tile, plan.tile);
    assert_int_equal(again.stages, plan.stages);
    assert_int_equal(again.splits, plan.splits);
    assert_int_equal(again.cluster, plan.cluster);
    close_factors(g, &f);
    kv_gpu_close(g);
}

/* Every field tells products apart, and a place is found again. */
static void test_places(void **state)
{
    static struct kv_product_places places;
    const struct kv_product p = {10, 20, 30, 20, 256, true, false};
    struct kv_product other[7] = {p, p, p, p, p, p, p};
    bool fresh;
    (void)state;
    memset(&places, 0, sizeof places);
    other[0].rows++;
    other[1].outputs++;
    other[2].inputs++;
    other[3].y_step++;
    other[4].alignment = 16;
    other[5].wide = false;
    other[6].add = true;
    assert_int_equal(kv_product_recent(&places, 0), -1);
    assert_int_equal(kv_product_place(&places, &p, &fresh), 0);
    assert_true(fresh);
    for (int i = 0; i < 7; i++) {
        assert_int_equal(kv_product_place(&places, &other[i], &fresh), i + 1);
        assert_true(fresh);
    }
    for (int i = 0; i < 7; i++) {
        assert_int_equal(kv_product_place(&places, &other[i], &fresh), i + 1);
        assert_false(fresh);
    }
    assert_int_equal(kv_product_recent(&places, 0), 7);
    assert_int_equal(kv_product_recent(&places, 7), 0);
    assert_int_equal(kv_product_recent(&places, 8), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_columns), cmocka_unit_test(test_alignment), cmocka_unit_test(test_products),
        cmocka_unit_test(test_plans),   cmocka_unit_test(test_places),
    };
    need_device();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
