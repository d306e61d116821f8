/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Kernels over rows against plain sums in double precision: widths of all kinds, several parts, ragged lanes. */
#include "tests/gpu/lanes.h"

#include <vector>

/* bf16 of a number computed another way may fall on its neighbour: half a step of each, and a little. */
static void assert_bf16(kv_bf16 got, double expected, double about)
{
    double step = fabs(expected) / 256 + about;
    if (!(fabs(from_bf16(got) - expected) <= step))
        fail_msg("got %.9g, expected %.9g", from_bf16(got), expected);
}

static const int64_t widths[] = {1, 3, 8, 31, 32, 40, 250, 257, 2048, 2056, 2500};
enum { WIDTHS = sizeof widths / sizeof *widths };

static void test_embed(void **state)
{
    enum { VOCAB = 7, ROWS = 5 };
    const int32_t tokens[ROWS] = {6, 0, 3, 3, 1};
    struct kv_gpu *g = open_device();
    int32_t *token = room<int32_t>(g, ROWS);
    (void)state;
    memcpy(token, tokens, sizeof tokens);
    for (int w = 0; w < WIDTHS; w++) {
        int64_t width = widths[w];
        kv_bf16 *table = room<kv_bf16>(g, VOCAB * width);
        float *x = room<float>(g, ROWS * width);
        fill_bf16(table, VOCAB * width, 1);
        kv_cuda_embed(g, table, token, ROWS, width, x);
        wait_for(g);
        for (int64_t i = 0; i < ROWS * width; i++)
            assert_true(x[i] == from_bf16(table[token[i / width] * width + i % width]));
        drop(g, table, x);
    }
    drop(g, token);
    kv_gpu_close(g);
}

static void test_rms_norm(void **state)
{
    enum { ROWS = 3 };
    const float eps = 1e-2f;
    struct kv_gpu *g = open_device();
    (void)state;
    for (int w = 0; w < WIDTHS; w++) {
        int64_t width = widths[w];
        float *x = room<float>(g, ROWS * width), *weight = room<float>(g, width);
        kv_bf16 *out = room<kv_bf16>(g, ROWS * width), *again = room<kv_bf16>(g, ROWS * width);
        fill(x, ROWS * width, 2);
        fill(weight, width, 3);
        for (int64_t i = 0; i < width; i++)
            x[i] *= 0.05f; /* a row for which eps counts */
        kv_cuda_rms_norm(g, x, weight, eps, ROWS, width, out);
        kv_cuda_rms_norm(g, x, weight, eps, ROWS, width, again);
        wait_for(g);
        assert_memory_equal(out, again, sizeof *out * (size_t)(ROWS * width));
        for (int64_t r = 0; r < ROWS; r++) {
            double sum = 0;
            for (int64_t i = 0; i < width; i++)
                sum += (double)x[r * width + i] * x[r * width + i];
            for (int64_t i = 0; i < width; i++) {
                double normed = x[r * width + i] / sqrt(sum / (double)width + eps);
                /* rounded twice */
                assert_bf16(out[r * width + i], normed * weight[i], fabs(normed * weight[i]) / 256);
            }
        }
        drop(g, x, weight, out, again);
    }
    kv_gpu_close(g);
}

/* A little less than 1 + 1/256, which is halfway between two bf16, goes to the lower one, 1: a weight that were
 * multiplied first would show. */
static void test_rms_norm_rounds_first(void **state)
{
    enum { WIDTH = 16 };
    const float near = 1 + 1 / 256.0f - 0x1p-17f;
    struct kv_gpu *g = open_device();
    float *x = room<float>(g, WIDTH), *weight = room<float>(g, WIDTH);
    kv_bf16 *out = room<kv_bf16>(g, WIDTH);
    (void)state;
    for (int i = 0; i < WIDTH; i++) {
        x[i] = i % 2 ? near : sqrtf(2 - near * near);
        weight[i] = 1 + 1 / 64.0f;
    }
    kv_cuda_rms_norm(g, x, weight, 0, 1, WIDTH, out);
    wait_for(g);
    for (int i = 1; i < WIDTH; i += 2)
        assert_true(from_bf16(out[i]) == 1 + 1 / 64.0f);
    drop(g, x, weight, out);
    kv_gpu_close(g);
}

static void test_silu_times(void **state)
{
    enum { ROWS = 3 };
    struct kv_gpu *g = open_device();
    (void)state;
    for (int w = 0; w < WIDTHS; w++)
        for (int biases = 0; biases < 4; biases++) {
            int64_t width = widths[w];
            kv_bf16 *in = room<kv_bf16>(g, 2 * ROWS * width), *out = room<kv_bf16>(g, ROWS * width);
            float *bias = room<float>(g, width), *other = room<float>(g, width);
            fill_bf16(in, 2 * ROWS * width, 4);
            fill(bias, width, 5);
            fill(other, width, 6);
            in[0] = to_bf16(-100); /* exp overflows */
            kv_cuda_silu_times(g, in, biases & 1 ? bias : NULL, biases & 2 ? other : NULL, ROWS, width, out);
            wait_for(g);
            for (int64_t r = 0; r < ROWS; r++)
                for (int64_t i = 0; i < width; i++) {
                    double gate = from_bf16(in[2 * r * width + i]) + (biases & 1 ? (double)bias[i] : 0);
                    double up = from_bf16(in[(2 * r + 1) * width + i]) + (biases & 2 ? (double)other[i] : 0);
                    assert_bf16(out[r * width + i], gate / (1 + exp(-gate)) * up, 1e-6);
                }
            drop(g, in, out, bias, other);
        }
    kv_gpu_close(g);
}

static void test_add_bias(void **state)
{
    enum { ROWS = 3 };
    struct kv_gpu *g = open_device();
    (void)state;
    for (int w = 0; w < WIDTHS; w++) {
        int64_t width = widths[w];
        float *x = room<float>(g, ROWS * width), *bias = room<float>(g, width);
        fill(x, ROWS * width, 7);
        fill(bias, width, 8);
        const std::vector<float> was(x, x + ROWS * width);
        kv_cuda_add_bias(g, bias, ROWS, width, x);
        wait_for(g);
        for (int64_t i = 0; i < ROWS * width; i++)
            assert_true(x[i] == was[(size_t)i] + bias[i % width]);
        drop(g, x, bias);
    }
    kv_gpu_close(g);
}

/* ---- append ---- */

struct append_case {
    enum kv_cuda_entry kind;
    int q_heads, kv_heads, expand, d, page, parts, slot_positions;
    bool bias, q_norm, k_norm;
    int longest = 0; /* entries of the longest lane; 0: a few */
};

/* A head after bias, norm and rotation. */
static void expected_head(const struct lanes *l, const kv_bf16 *x, const float *bias, const float *norm, double eps,
                          int64_t position, double *out)
{
    int d = l->shape.d;
    double sum = 0;
    for (int i = 0; i < d; i++) {
        out[i] = from_bf16(x[i]) + (bias ? (double)bias[i] : 0);
        sum += out[i] * out[i];
    }
    for (int i = 0; norm && i < d; i++)
        out[i] = out[i] / sqrt(sum / d + eps) * norm[i];
    if (position >= 0)
        rotate_double(l, out, position);
}

static void compare_head(enum kv_cuda_entry kind, const void *all, int64_t at, const double *expected, int d)
{
    for (int i = 0; i < d; i++)
        assert_element(kind, element_at(kind, all, at + i), expected[i], fabs(expected[i]) * 1e-5 + 2e-6);
}

static void append_once(struct kv_gpu *g, const struct append_case *c)
{
    struct lanes l;
    const float eps = 1e-3f;
    lanes_open(&l, g, c->kind, c->q_heads, c->kv_heads, c->d, c->page, 2, c->longest + LANES_POSITIONS);
    for (int p = 0; p < c->parts; p++)
        lanes_add(&l, c->kv_heads * (p == 1 ? c->expand : 1), (p * 5 + 3) % 7, p % 3 == 2 ? 2 : 0,
                  p == 1 && c->longest ? c->longest
                  : p == 2             ? 0
                                       : 30 * p,
                  c->slot_positions && p % 2 == 0, 0);
    int heads = c->q_heads + 2 * c->kv_heads, d = c->d;
    int64_t width = (int64_t)heads * d;
    kv_bf16 *qkv = room<kv_bf16>(g, l.rows * width);
    kv_query *q = room<kv_query>(g, l.rows * c->q_heads * d);
    float *bias = room<float>(g, width), *q_norm = room<float>(g, d), *k_norm = room<float>(g, d);
    double expected[256];
    fill_bf16(qkv, l.rows * width, 11);
    fill(bias, width, 12);
    fill(q_norm, d, 13);
    fill(k_norm, d, 14);
    for (int32_t layer = 0; layer < l.shape.layers; layer++) {
        std::vector<uint32_t> before;
        for (int64_t i = 0; i < l.pool_elements; i++)
            before.push_back(code_at(c->kind, l.shape.pool, i));
        kv_cuda_append(g, &l.shape, l.part, l.parts, l.rows, layer, qkv, c->bias ? bias : NULL,
                       c->q_norm ? q_norm : NULL, c->k_norm ? k_norm : NULL, eps, q);
        wait_for(g);
        int64_t changed = 0, written = 0;
        for (int p = 0; p < l.parts; p++)
            for (int64_t t = 0; t < l.part[p].n_new + l.part[p].n_patch; t++) {
                const struct kv_cuda_part *part = &l.part[p];
                const kv_bf16 *row = qkv + (part->first + t) * width;
                int64_t position = part->slot_positions ? -1 : part->seen + t;
                for (int h = 0; h < c->q_heads; h++) {
                    expected_head(&l, row + h * d, c->bias ? bias + h * d : NULL, c->q_norm ? q_norm : NULL, eps,
                                  position, expected);
                    compare_head(query_kind(c->kind), q, ((part->first + t) * c->q_heads + h) * d, expected, d);
                }
                for (int h = 0; h < part->heads; h++) {
                    int key = c->q_heads + h * c->kv_heads / part->heads, value = key + c->kv_heads;
                    int64_t at = lane_length(part, layer, h) + t;
                    expected_head(&l, row + key * d, c->bias ? bias + key * d : NULL, c->k_norm ? k_norm : NULL, eps,
                                  position, expected);
                    compare_head(c->kind, l.shape.pool, lane_key(&l, p, layer, h, at), expected, d);
                    expected_head(&l, row + value * d, c->bias ? bias + value * d : NULL, NULL, eps, -1, expected);
                    compare_head(c->kind, l.shape.pool, lane_value(&l, p, layer, h, at), expected, d);
                    written += 2 * d;
                }
            }
        for (int64_t i = 0; i < l.pool_elements; i++)
            changed += before[(size_t)i] != code_at(c->kind, l.shape.pool, i);
        assert_true(changed <= written && changed > written / 2); /* and nothing else was touched */
    }
    drop(g, qkv, q, bias, q_norm, k_norm);
    lanes_close(&l);
}

static void test_append(void **state)
{
    const enum kv_cuda_entry any = KV_CUDA_BF16;
    struct append_case cases[] = {
        {any, 4, 2, 1, 64, 4, 1, 0, false, false, false},  {any, 8, 2, 4, 128, 16, 3, 0, true, false, false},
        {any, 6, 3, 2, 64, 64, 4, 1, false, true, true},   {any, 4, 4, 1, 128, 4, 5, 0, true, true, false},
        {any, 3, 1, 3, 6, 16, 4, 1, true, false, true},    {any, 4, 2, 2, 10, 3, 4, 0, false, true, true},
        {any, 2, 1, 2, 256, 16, 3, 0, true, true, true},   {any, 2, 2, 1, 2, 1, 3, 0, true, true, true},
        {any, 12, 4, 3, 80, 16, 4, 1, false, false, true}, {any, 2, 1, 1, 254, 7, 2, 0, true, true, true},
    };
    struct kv_gpu *g = open_device();
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (enum kv_cuda_entry kind : entry_kinds) {
            cases[i].kind = kind;
            append_once(g, &cases[i]);
        }
    kv_gpu_close(g);
}

/* A value of each bias, to itself: elements of heads of d, all of one token. */
static void round_once(struct kv_gpu *g, enum kv_cuda_entry kind, int d, const std::vector<float> &x)
{
    struct lanes l;
    int heads = (int)x.size() / d, width = 3 * heads * d;
    lanes_open(&l, g, kind, heads, heads, d, 4, 1);
    lanes_add(&l, heads, 1, 0, 0, false, 0);
    kv_bf16 *qkv = room<kv_bf16>(g, width);
    kv_query *q = room<kv_query>(g, heads * d);
    float *bias = room<float>(g, width);
    for (int i = 0; i < width; i++) {
        qkv[i] = 0x8000; /* -0, to which all that is added stays what it is */
        bias[i] = i < 2 * heads * d ? 0 : x[(size_t)(i - 2 * heads * d)];
    }
    kv_cuda_append(g, &l.shape, l.part, 1, 1, 0, qkv, bias, NULL, NULL, 0, q);
    wait_for(g);
    for (int i = 0; i < heads * d; i++) {
        uint32_t got = code_at(kind, l.shape.pool, lane_value(&l, 0, 0, i / d, 0) + i % d);
        uint32_t expected = code_of_value(kind, (double)x[(size_t)i]);
        bool both = value_of_code(kind, got) != value_of_code(kind, got) && x[(size_t)i] != x[(size_t)i];
        if (kind == KV_CUDA_FP8 && expected != code_by_search(kind, (double)x[(size_t)i]))
            fail_msg("the tests disagree about %.9g", (double)x[(size_t)i]);
        if (got != expected && !both)
            fail_msg("%s of %.9g: got 0x%x, expected 0x%x", entry_names[kind], (double)x[(size_t)i], got, expected);
    }
    drop(g, qkv, q, bias);
    lanes_close(&l);
}

/* All bf16 and fp16 there are, and what lies halfway between two fp8 or fp16, or a little off. */
static void test_rounding(void **state)
{
    struct kv_gpu *g = open_device();
    std::vector<float> x;
    (void)state;
    for (enum kv_cuda_entry kind : {KV_CUDA_BF16, KV_CUDA_FP16})
        for (uint32_t code = 0; code < 65536; code++)
            x.push_back((float)value_of_code(kind, code));
    for (enum kv_cuda_entry kind : {KV_CUDA_FP16, KV_CUDA_FP8})
        for (uint32_t code = 0; code + 1 < (kind == KV_CUDA_FP8 ? 128u : 32768u); code++) {
            float middle = (float)((value_of_code(kind, code) + value_of_code(kind, code + 1)) / 2);
            for (float near : {middle, nextafterf(middle, 0), nextafterf(middle, 1e30f)})
                x.push_back(code % 3 ? near : -near);
        }
    for (float large : {448.0f, 463.99997f, 464.0f, 480.0f, 65504.0f, 65519.996f, 65520.0f, 3e38f})
        for (float sign : {1.0f, -1.0f})
            x.push_back(sign * large);
    for (int d : {128, 254})
        for (size_t at = 0; at < x.size(); at += (size_t)(d * 16)) {
            std::vector<float> some((size_t)(d * 16), 0.0f);
            for (size_t i = 0; i < some.size() && at + i < x.size(); i++)
                some[i] = x[at + i];
            round_once(g, KV_CUDA_FP16, d, some);
            round_once(g, KV_CUDA_FP8, d, some);
        }
    kv_gpu_close(g);
}

/* Behind 128K entries, at positions as far. */
static void test_append_far(void **state)
{
    const struct append_case cases[] = {
        {KV_CUDA_BF16, 4, 1, 1, 128, 64, 2, 0, false, false, false, LONG - 8},
        {KV_CUDA_FP8, 2, 1, 2, 64, 16, 3, 1, true, true, true, LONG - 8},
    };
    only_where_long_is_quick();
    struct kv_gpu *g = open_device();
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        append_once(g, &cases[i]);
    kv_gpu_close(g);
}

/* ---- queries kept ---- */

static void keep_once(struct kv_gpu *g, int q_heads, int d, int window, const int *n_new, int passes)
{
    enum { LAYERS = 3 };
    struct kv_cuda_shape s = {};
    s.layers = LAYERS;
    s.q_heads = q_heads;
    s.d = d;
    int64_t width = (int64_t)q_heads * d, seen = 0, first = 2, patch = 1;
    kv_bf16 *kept = room<kv_bf16>(g, LAYERS * window * width);
    fill_bf16(kept, LAYERS * window * width, 21);
    const std::vector<kv_bf16> untouched(kept, kept + LAYERS * window * width);
    for (int p = 0; p < passes; seen += n_new[p++]) {
        struct kv_cuda_part part = {};
        part.first = (int32_t)first;
        part.n_new = n_new[p];
        part.n_patch = (int32_t)patch;
        part.window = window;
        kv_bf16 *q = room<kv_bf16>(g, (first + n_new[p] + patch) * width);
        for (int64_t i = 0; i < (first + n_new[p] + patch) * width; i++)
            q[i] = (kv_bf16)((seen + i / width - first) * 131 + i % width); /* says which token's, and which element */
        kv_cuda_keep_queries(g, &s, &part, 1, q, kept);
        wait_for(g);
        drop(g, q);
    }
    for (int64_t i = 0; i < LAYERS * window * width; i++) {
        int64_t layer = i / (window * width), token = seen - window + i / width % window;
        if (layer == 1 && token >= 0)
            assert_int_equal(kept[i], (kv_bf16)(token * 131 + i % width));
        else if (layer != 1)
            assert_int_equal(kept[i], untouched[(size_t)i]);
    }
    drop(g, kept);
}

static void test_keep_queries(void **state)
{
    const int some[] = {5, 1, 0, 1, 3, 17, 2}, one[] = {1, 1, 1, 1}, many[] = {90, 1}, full[] = {70, 64, 7};
    struct kv_gpu *g = open_device();
    (void)state;
    keep_once(g, 3, 6, 8, some, 7);
    keep_once(g, 8, 128, 64, some, 7);
    keep_once(g, 8, 128, 64, many, 2);
    keep_once(g, 4, 64, 37, full, 3);
    keep_once(g, 4, 64, 1, one, 4);
    kv_gpu_close(g);
}

/* ---- random numbers ---- */

static void test_random(void **state)
{
    enum { N = 20000 };
    struct kv_gpu *g = open_device();
    float *x = room<float>(g, N), *some = room<float>(g, N);
    kv_bf16 *narrow = room<kv_bf16>(g, N);
    double sum = 0, square = 0, fourth = 0, beside = 0;
    int beyond = 0;
    (void)state;
    kv_cuda_random(g, x, N, true, 42, 0, 1);
    kv_cuda_random(g, some, 777, true, 42, 0.5f, 3);
    kv_cuda_random(g, narrow, N, false, 42, 0, 1);
    wait_for(g);
    for (int i = 0; i < N; i++) {
        sum += x[i];
        square += (double)x[i] * x[i];
        fourth += pow(x[i], 4);
        beside += i ? (double)x[i] * x[i - 1] : 0;
        beyond += fabsf(x[i]) > 2;
        assert_int_equal(narrow[i], to_bf16(x[i]));
        if (i < 777)
            assert_true(fabsf(some[i] - (x[i] * 3 + 0.5f)) <= 1e-6f); /* a device rounds once */
    }
    /* Four standard errors: of N numbers, 1, 2 and 96 for x, x^2 and x^4. */
    assert_true(fabs(sum / N) < 4 / sqrt((double)N));
    assert_true(fabs(square / N - 1) < 4 * sqrt(2.0 / N));
    assert_true(fabs(fourth / N - 3) < 4 * sqrt(96.0 / N));
    assert_true(fabs(beside / N) < 4 / sqrt((double)N));
    assert_true(fabs(beyond / (double)N - 0.0455) < 4 * sqrt(0.0455 / N));
    kv_cuda_random(g, some, N, true, 43, 0, 1);
    wait_for(g);
    for (int i = 0; i < N; i++)
        beside += (double)x[i] * some[i];
    assert_true(fabs(beside / N) < 6 / sqrt((double)N));
    drop(g, x, some, narrow);
    kv_gpu_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_embed),        cmocka_unit_test(test_rms_norm),
        cmocka_unit_test(test_silu_times),   cmocka_unit_test(test_rms_norm_rounds_first),
        cmocka_unit_test(test_add_bias),     cmocka_unit_test(test_append),
        cmocka_unit_test(test_rounding),     cmocka_unit_test(test_random),
        cmocka_unit_test(test_keep_queries), cmocka_unit_test(test_append_far),
    };
    need_device();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
