/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Products of few rows against sums in doubles, and the same bits whatever the other rows. */
#include "tests/gpu/numbers.h"

static struct kv_err e;

static kv_bf16 draw(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (kv_bf16)(0x3c00 + (*state >> 9 & 0x83ff)); /* some sign, size from 0.008 to 2 */
}

static void *to_device(struct kv_gpu *g, const void *host, size_t bytes)
{
    void *at;
    assert_true(kv_gpu_new(g, &at, (int64_t)bytes, 1, "a test", &e));
    kv_gpu_put(g, at, host, bytes);
    return at;
}

struct shape {
    int64_t rows, outputs, inputs, gap;
    bool wide, add;
};

/* y as fp32, (rows, outputs). */
static void run(struct kv_gpu *g, const struct shape *s, const kv_bf16 *w, const kv_bf16 *x, float *y)
{
    int64_t step = s->outputs + s->gap, n = s->rows * step;
    float *start = (float *)calloc((size_t)n, sizeof *start);
    for (int64_t i = 0; i < n; i++)
        start[i] = (float)(i % 5);
    void *dw = to_device(g, w, sizeof *w * (size_t)(s->outputs * s->inputs)),
         *dx = to_device(g, x, sizeof *x * (size_t)(s->rows * s->inputs)),
         *dy = to_device(g, start, sizeof *start * (size_t)n);
    kv_cuda_skinny(g, (kv_bf16 *)dw, (kv_bf16 *)dx, s->rows, s->outputs, s->inputs, dy, step, s->wide, s->add);
    kv_gpu_get(g, start, dy, sizeof *start * (size_t)n);
    assert_true(kv_gpu_wait(g, &e));
    for (int64_t r = 0; r < s->rows; r++)
        for (int64_t o = 0; o < s->outputs; o++)
            y[r * s->outputs + o] = s->wide ? start[r * step + o] : from_bf16(((kv_bf16 *)start)[r * step + o]);
    kv_gpu_delete(g, dw);
    kv_gpu_delete(g, dx);
    kv_gpu_delete(g, dy);
    free(start);
}

static void check(struct kv_gpu *g, const struct shape *s)
{
    uint32_t state = (uint32_t)(s->rows * 31 + s->outputs * 7 + s->inputs);
    int64_t step = s->outputs + s->gap;
    kv_bf16 *w = (kv_bf16 *)malloc(sizeof *w * (size_t)(s->outputs * s->inputs)),
            *x = (kv_bf16 *)malloc(sizeof *x * (size_t)(s->rows * s->inputs));
    float *y = (float *)malloc(sizeof *y * (size_t)(s->rows * s->outputs)),
          *alone = (float *)malloc(sizeof *y * (size_t)s->outputs);
    for (int64_t i = 0; i < s->outputs * s->inputs; i++)
        w[i] = draw(&state);
    for (int64_t i = 0; i < s->rows * s->inputs; i++)
        x[i] = draw(&state);
    run(g, s, w, x, y);
    for (int64_t r = 0; r < s->rows; r++)
        for (int64_t o = 0; o < s->outputs; o++) {
            double sum = s->add ? (double)((r * step + o) % 5) : 0, size = 0.1;
            for (int64_t i = 0; i < s->inputs; i++) {
                double one = (double)from_bf16(w[o * s->inputs + i]) * (double)from_bf16(x[r * s->inputs + i]);
                sum += one;
                size += fabs(one);
            }
            double gate = s->wide ? 1e-5 * size : 1e-5 * size + fabs(sum) / 256;
            if (!(fabs((double)y[r * s->outputs + o] - sum) <= gate))
                fail_msg("%d x %d x %d, row %d, output %d: %g, expected %g", (int)s->rows, (int)s->outputs,
                         (int)s->inputs, (int)r, (int)o, (double)y[r * s->outputs + o], sum);
        }
    struct shape one = *s;
    one.rows = 1;
    one.gap = s->add ? 0 : s->gap;
    for (int64_t r = 0; r < s->rows && !s->add; r++) {
        run(g, &one, w, x + r * s->inputs, alone);
        assert_memory_equal(alone, y + r * s->outputs, sizeof *alone * (size_t)s->outputs);
    }
    free(w);
    free(x);
    free(y);
    free(alone);
}

static void test_products(void **state)
{
    static const struct shape shapes[] = {
        {1, 1, 8, 0, true, false},      {1, 17, 264, 3, true, false}, {2, 40, 2048, 0, true, true},
        {3, 33, 2056, 1, false, false}, {4, 9, 4104, 0, true, false}, {5, 70, 24, 0, true, true},
        {8, 31, 520, 2, false, false},  {8, 300, 64, 0, true, true},  {7, 13, 33, 0, true, false},
        {1, 5, 7, 4, false, false},
    };
    struct kv_gpu *g;
    (void)state;
    assert_true(kv_gpu_open(&g, &e));
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        check(g, &shapes[i]);
    kv_gpu_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_products)};
    need_device();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
