/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Sums of softmax weights, norms and entries against plain sums in double precision over the same numbers, whatever
 * they are stored as. */
#include "tests/gpu/lanes.h"

#include <vector>

enum { LAYERS = 2, LAYER = 1, MARGIN = 5 };
static const float UNTOUCHED = -77;

/* Of a sum. A device's matrix units cut off where others round. */
#ifdef KV_EMULATED
static const double GATE = 2e-5;
#else
static const double GATE = 1e-4;
#endif

enum from { WHOLE, LAST_ONES, SOMEWHERE };

struct sums_case {
    int q_heads, kv_heads, store_heads, d, page, longest, n_new, n_patch, window, queries, skip;
    enum from from;
    bool query_rows, slot_positions;
};

/* As attention sees it from its place: turned and rounded, in the very arithmetic of the kernels, or now and then it
 * were rounded to the other side. */
static void seen_at(const struct lanes *l, bool slot_positions, enum kv_cuda_entry kind, const void *x, int64_t at,
                    int64_t place, float *out)
{
    int half = l->shape.d / 2;
    enum kv_cuda_entry turned = query_kind(kind);
    for (int i = 0; i < half; i++) {
        float low = (float)element_at(kind, x, at + i), high = (float)element_at(kind, x, at + i + half);
        out[i] = low;
        out[i + half] = high;
        if (!slot_positions)
            continue;
        float c = l->cosine[place * half + i], s = l->sine[place * half + i];
        out[i] = (float)rounded_to(turned, (double)fmaf(low, c, -(high * s)));
        out[i + half] = (float)rounded_to(turned, (double)fmaf(high, c, low * s));
    }
}

struct expected {
    const struct sums_case *c;
    const struct lanes *l;
    const struct kv_cuda_part *p;
    const kv_query *q;
    const float *keys; /* (end, d) of the lane */
    int64_t from, end;
    int head;
};

/* Adds the weights of the query that came `back` before the end, 1 the last. */
static void add_query(const struct expected *x, int back, double *weight, double *sum)
{
    int64_t d = x->c->d, width = x->c->q_heads * d, tokens = x->p->n_new + x->p->n_patch, seen = x->end - back + 1;
    const kv_query *row = back <= tokens ? x->q + (x->p->first + tokens - back) * width
                                         : x->p->query + ((LAYER + 1) * x->p->window - (back - tokens)) * width;
    float q[256];
    double top = -INFINITY, total = 0;
    if (seen <= x->from)
        return;
    seen_at(x->l, x->p->slot_positions, query_kind(x->l->shape.entry), row, x->head * d, seen - 1, q);
    for (int64_t i = x->from; i < seen; i++) {
        weight[i] = 0;
        for (int64_t e = 0; e < d; e++)
            weight[i] += (double)q[e] * x->keys[i * d + e];
        weight[i] /= sqrt((double)d);
        top = weight[i] > top ? weight[i] : top;
    }
    for (int64_t i = x->from; i < seen; i++)
        total += exp(weight[i] - top);
    for (int64_t i = x->from; i < seen; i++)
        sum[i - x->from] += exp(weight[i] - top) / total;
}

static int32_t from_of(const struct sums_case *c, int64_t length, int head)
{
    int64_t end = length + c->n_new + c->n_patch;
    if (c->from == WHOLE)
        return 0;
    if (c->from == LAST_ONES)
        return (int32_t)(end - c->n_patch - 3 > 0 ? end - c->n_patch - 3 : 0);
    return (int32_t)(end * (head % 3) / 4);
}

static void compare_lane(const struct expected *x, const float *out, int64_t row_stride)
{
    const struct sums_case *c = x->c;
    int64_t n = x->end - x->from, group = c->q_heads / c->store_heads, first = x->head;
    std::vector<double> weight((size_t)x->end + 1), sum((size_t)n + 1);
    struct expected one = *x;
    for (int64_t h = 0; h < group; h++) {
        if (h == 0 || c->query_rows)
            sum.assign(sum.size(), 0);
        one.head = (int)(first + h);
        for (int i = 1; i <= c->queries; i++)
            add_query(&one, i + c->skip, weight.data(), sum.data());
        if (!c->query_rows && h + 1 < group)
            continue;
        const float *row = out + (c->query_rows ? h * row_stride : 0);
        for (int64_t i = 0; i < n; i++) {
            double is = row[i], expected = sum[(size_t)i];
            if (!(fabs(is - expected) <= 1e-6 + GATE * expected))
                fail_msg("head %d, entry %d of %d: got %.9g, expected %.9g", one.head, (int)i, (int)n, is, expected);
        }
        for (int64_t i = n; i < row_stride; i++)
            assert_true(row[i] == UNTOUCHED);
    }
}

static void sums_once(struct kv_gpu *g, enum kv_cuda_entry kind, const struct sums_case *c)
{
    struct lanes l;
    lanes_open(&l, g, kind, c->q_heads, c->kv_heads, c->d, c->page, LAYERS);
    lanes_add(&l, c->kv_heads, 2, 0, 5, false, 0);
    lanes_add(&l, c->store_heads, c->n_new, c->n_patch, c->longest, c->slot_positions, c->window);
    const struct kv_cuda_part *p = &l.part[1];
    int64_t width = (int64_t)c->q_heads * c->d, most = 0, group = c->q_heads / c->store_heads;
    int32_t *from = room<int32_t>(g, c->store_heads);
    for (int h = 0; h < c->store_heads; h++) {
        int64_t length = lane_length(p, LAYER, h), n = length + c->n_new + c->n_patch;
        from[h] = from_of(c, length, h);
        most = n - from[h] > most ? n - from[h] : most;
    }
    int64_t row_stride = most + MARGIN, lane_stride = row_stride * (c->query_rows ? group : 1);
    int64_t n_scratch = kv_cuda_window_scratch(&l.shape, c->queries);
    kv_query *q = room<kv_query>(g, l.rows * width);
    float *out = room<float>(g, lane_stride * c->store_heads), *again = room<float>(g, lane_stride * c->store_heads);
    float *scratch = room<float>(g, n_scratch + MARGIN);
    for (int64_t i = 0; i < l.rows * width; i++) /* some weights near 1, some near 0 */
        put_element(query_kind(kind), q, i, 2 * (double)number(61, (uint64_t)i));
    for (int64_t i = 0; i < lane_stride * c->store_heads; i++)
        out[i] = again[i] = UNTOUCHED;
    for (int i = 0; i < MARGIN; i++)
        scratch[n_scratch + i] = UNTOUCHED;
    kv_cuda_window_sums(g, &l.shape, p, p, LAYER, q, c->queries, c->skip, from, most, c->query_rows, out, lane_stride,
                        row_stride, scratch);
    kv_cuda_window_sums(g, &l.shape, p, p, LAYER, q, c->queries, c->skip, from, most, c->query_rows, again, lane_stride,
                        row_stride, scratch);
    wait_for(g);
    for (int i = 0; i < MARGIN; i++)
        assert_true(scratch[n_scratch + i] == UNTOUCHED);
    assert_memory_equal(out, again, sizeof *out * (size_t)(lane_stride * c->store_heads));
    for (int h = 0; h < c->store_heads; h++) {
        struct expected x = {c, &l, p, q, NULL, from[h], lane_length(p, LAYER, h) + c->n_new + c->n_patch, 0};
        std::vector<float> keys((size_t)(x.end * c->d));
        for (int64_t i = 0; i < x.end; i++)
            seen_at(&l, c->slot_positions, kind, l.shape.pool, lane_key(&l, 1, LAYER, h, i), i, keys.data() + i * c->d);
        x.keys = keys.data();
        x.head = (int)(h * group);
        compare_lane(&x, out + h * lane_stride, row_stride);
    }
    drop(g, from, q, out, again, scratch);
    lanes_close(&l);
}

static void sums_of(struct kv_gpu *g, const struct sums_case *c, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (enum kv_cuda_entry kind : entry_kinds)
            sums_once(g, kind, &c[i]);
}

/* The last queries of a pass, of which the lanes hold what came before, or some of it. */
static void test_windows(void **state)
{
    const struct sums_case cases[] = {
        {4, 2, 2, 64, 16, 200, 40, 0, 0, 32, 0, WHOLE, false, false},
        {4, 2, 2, 128, 64, 150, 70, 0, 0, 64, 0, WHOLE, false, false},
        {8, 2, 2, 64, 4, 131, 9, 3, 0, 5, 0, WHOLE, true, false},
        {6, 3, 6, 64, 16, 90, 17, 2, 0, 11, 0, SOMEWHERE, false, false}, /* K and V expanded */
        {4, 2, 4, 128, 4, 90, 17, 2, 0, 19, 0, WHOLE, true, false},
        {3, 1, 1, 128, 7, 60, 8, 0, 0, 8, 0, SOMEWHERE, true, false},
        {2, 1, 1, 64, 16, 0, 33, 0, 0, 33, 0, WHOLE, false, false}, /* a prompt's first */
        {10, 2, 2, 64, 16, 70, 6, 0, 0, 6, 0, SOMEWHERE, false, false},
    };
    struct kv_gpu *g = open_device();
    (void)state;
    sums_of(g, cases, sizeof cases / sizeof *cases);
    kv_gpu_close(g);
}

/* Windows longer than the pass: queries that were kept, some of them older than all that a lane still holds. */
static void test_kept_queries(void **state)
{
    const struct sums_case cases[] = {
        {4, 2, 2, 64, 16, 100, 1, 0, 32, 32, 0, WHOLE, false, false},
        {4, 2, 2, 128, 16, 40, 3, 2, 64, 64, 0, WHOLE, true, false},
        {6, 3, 6, 64, 4, 50, 1, 0, 16, 17, 0, SOMEWHERE, false, false},
        {4, 4, 4, 64, 16, 20, 1, 1, 100, 90, 0, WHOLE, false, true},
    };
    struct kv_gpu *g = open_device();
    (void)state;
    sums_of(g, cases, sizeof cases / sizeof *cases);
    kv_gpu_close(g);
}

/* All queries of a pass but the patch; its last one. */
static void test_columns(void **state)
{
    const struct sums_case cases[] = {
        {4, 2, 2, 64, 16, 120, 200, 0, 0, 200, 0, WHOLE, false, false},
        {4, 2, 2, 128, 64, 70, 130, 5, 0, 130, 5, WHOLE, false, false},
        {4, 2, 2, 64, 16, 33, 140, 5, 0, 140, 5, WHOLE, true, false},
        {4, 2, 2, 64, 16, 260, 10, 3, 0, 1, 3, WHOLE, false, false},
        {8, 2, 2, 128, 4, 260, 1, 0, 0, 1, 0, WHOLE, false, false},
        {4, 2, 2, 64, 16, 30, 2, 200, 0, 2, 200, WHOLE, false, false}, /* blocks that nobody sees */
        {4, 2, 2, 64, 16, 30, 2, 200, 0, 2, 200, WHOLE, true, false},
        {2, 2, 2, 64, 16, 1, 200, 0, 0, 200, 0, WHOLE, false, false}, /* the last of a tile sees one key of a block */
        {1, 1, 1, 2, 16, 600, 1100, 0, 0, 1100, 0, WHOLE, false, false}, /* as many splits as there is scratch for */
    };
    struct kv_gpu *g = open_device();
    (void)state;
    sums_of(g, cases, sizeof cases / sizeof *cases);
    kv_gpu_close(g);
}

/* Over the last tokens and the patch alone. */
static void test_local_windows(void **state)
{
    const struct sums_case cases[] = {
        {4, 2, 2, 64, 16, 100, 20, 0, 0, 3, 0, LAST_ONES, false, false},
        {4, 2, 2, 128, 16, 100, 1, 6, 8, 9, 0, LAST_ONES, false, false},
        {4, 2, 2, 64, 4, 50, 20, 9, 0, 12, 0, LAST_ONES, true, true},
    };
    struct kv_gpu *g = open_device();
    (void)state;
    sums_of(g, cases, sizeof cases / sizeof *cases);
    kv_gpu_close(g);
}

static void test_slot_positions(void **state)
{
    const struct sums_case cases[] = {
        {4, 2, 2, 64, 16, 150, 20, 3, 0, 15, 0, WHOLE, false, true},
        {4, 2, 2, 128, 4, 140, 20, 0, 0, 15, 0, SOMEWHERE, true, true},
        {4, 2, 4, 128, 16, 50, 2, 0, 30, 25, 0, WHOLE, false, true},
        {4, 2, 2, 20, 16, 50, 5, 2, 30, 25, 2, WHOLE, false, true},
    };
    struct kv_gpu *g = open_device();
    (void)state;
    sums_of(g, cases, sizeof cases / sizeof *cases);
    kv_gpu_close(g);
}

/* Lanes so long that several blocks share their first pass. */
static void test_splits(void **state)
{
    const struct sums_case cases[] = {
        {2, 1, 1, 64, 16, 1300, 40, 0, 0, 40, 0, WHOLE, false, false},
        {4, 1, 1, 128, 64, 1100, 1, 0, 0, 1, 0, WHOLE, true, false},
        {4, 2, 2, 64, 4, 1040, 2, 1, 8, 8, 1, SOMEWHERE, false, false},
        {2, 1, 1, 12, 16, 700, 3, 0, 0, 3, 0, WHOLE, true, false},
    };
    struct kv_gpu *g = open_device();
    (void)state;
    sums_of(g, cases, sizeof cases / sizeof *cases);
    kv_gpu_close(g);
}

/* Windows over 128K entries, which a pass ends; sums of all its queries; its last one. */
static void test_long_lanes(void **state)
{
    const struct sums_case cases[] = {
        {4, 2, 2, 128, 64, LONG - 40, 40, 0, 0, 32, 0, WHOLE, false, false},
        {2, 1, 1, 128, 64, LONG - 1, 1, 0, 16, 16, 0, WHOLE, true, false},
        {1, 1, 1, 128, 64, LONG - 130, 130, 0, 0, 130, 0, WHOLE, false, false},
        {4, 1, 1, 64, 16, LONG - 1, 1, 0, 0, 1, 0, WHOLE, true, false},
    };
    only_where_long_is_quick();
    struct kv_gpu *g = open_device();
    (void)state;
    sums_of(g, cases, sizeof cases / sizeof *cases);
    kv_gpu_close(g);
}

static void test_other_widths(void **state)
{
    const struct sums_case cases[] = {
        {4, 2, 2, 80, 16, 60, 20, 2, 0, 18, 2, WHOLE, false, false},
        {4, 2, 4, 6, 3, 140, 20, 0, 10, 30, 0, SOMEWHERE, true, false},
        {3, 1, 1, 256, 16, 30, 4, 0, 0, 4, 0, LAST_ONES, false, false},
        {2, 2, 2, 2, 1, 20, 6, 1, 0, 6, 0, WHOLE, true, false},
    };
    struct kv_gpu *g = open_device();
    (void)state;
    sums_of(g, cases, sizeof cases / sizeof *cases);
    kv_gpu_close(g);
}

/* ---- norms and entries ---- */

static void norms_of(struct kv_gpu *g, enum kv_cuda_entry kind, int kv_heads, int store_heads, int d, int page,
                     int n_new, int n_patch)
{
    struct lanes l;
    lanes_open(&l, g, kind, kv_heads * 2, kv_heads, d, page, LAYERS);
    lanes_add(&l, kv_heads, 2, 0, 5, false, 0);
    lanes_add(&l, store_heads, n_new, n_patch, 37, true, 0);
    const struct kv_cuda_part *p = &l.part[1];
    int64_t stride = n_new + MARGIN;
    float *out = room<float>(g, stride * store_heads);
    for (int values = 0; values < 2; values++) {
        for (int64_t i = 0; i < stride * store_heads; i++)
            out[i] = UNTOUCHED;
        kv_cuda_norms(g, &l.shape, p, p, LAYER, values, out, stride);
        wait_for(g);
        for (int h = 0; h < store_heads; h++)
            for (int64_t t = 0; t < stride; t++) {
                double sum = 0;
                int64_t at = lane_length(p, LAYER, h) + t;
                for (int e = 0; t < n_new && e < d; e++)
                    sum += pow(lane_element(&l, (values ? lane_value : lane_key)(&l, 1, LAYER, h, at) + e), 2);
                if (t < n_new)
                    assert_true(fabs(out[h * stride + t] - sqrt(sum)) <= 1e-6 * sqrt(sum));
                else
                    assert_true(out[h * stride + t] == UNTOUCHED);
            }
    }
    drop(g, out);
    lanes_close(&l);
}

static void norms_once(struct kv_gpu *g, int kv_heads, int store_heads, int d, int page, int n_new, int n_patch)
{
    for (enum kv_cuda_entry kind : entry_kinds)
        norms_of(g, kind, kv_heads, store_heads, d, page, n_new, n_patch);
}

static void test_norms(void **state)
{
    struct kv_gpu *g = open_device();
    (void)state;
    norms_once(g, 2, 2, 64, 16, 9, 2);
    norms_once(g, 2, 4, 128, 4, 1, 0);
    norms_once(g, 3, 3, 6, 3, 7, 1);
    norms_once(g, 1, 1, 256, 64, 30, 0);
    kv_gpu_close(g);
}

static void entries_of(struct kv_gpu *g, enum kv_cuda_entry kind, int d, int page, bool slot_positions, int64_t first,
                       int64_t n)
{
    struct lanes l;
    lanes_open(&l, g, kind, 2, 2, d, page, LAYERS);
    lanes_add(&l, 2, 2, 0, 5, false, 0);
    lanes_add(&l, 2, 3, 1, 60, slot_positions, 0);
    const struct kv_cuda_part *p = &l.part[1];
    float *keys = room<float>(g, n * d), *values = room<float>(g, n * d), expected[256];
    assert_true(first + n <= lane_length(p, LAYER, 1) + 4);
    kv_cuda_entries(g, &l.shape, p, LAYER, 1, first, n, keys, NULL);
    wait_for(g);
    memset(keys, 0xff, sizeof *keys * (size_t)(n * d));
    kv_cuda_entries(g, &l.shape, p, LAYER, 1, first, n, keys, values);
    wait_for(g);
    for (int64_t i = 0; i < n; i++) {
        seen_at(&l, slot_positions, kind, l.shape.pool, lane_key(&l, 1, LAYER, 1, first + i), first + i, expected);
        assert_memory_equal(keys + i * d, expected, sizeof *expected * (size_t)d);
        for (int e = 0; e < d; e++)
            assert_true(values[i * d + e] == lane_element(&l, lane_value(&l, 1, LAYER, 1, first + i) + e));
    }
    drop(g, keys, values);
    lanes_close(&l);
}

static void entries_once(struct kv_gpu *g, int d, int page, bool slot_positions, int64_t first, int64_t n)
{
    for (enum kv_cuda_entry kind : entry_kinds)
        entries_of(g, kind, d, page, slot_positions, first, n);
}

/* All codes there are, widened: a page of keys and values in which they stand in order. */
static void test_every_code(void **state)
{
    enum { D = 128, PAGE = 256 };
    struct kv_gpu *g = open_device();
    int32_t *table = room<int32_t>(g, 1), *length = room<int32_t>(g, 1);
    struct kv_cuda_part *p = room<struct kv_cuda_part>(g, 1);
    uint16_t *pool = room<uint16_t>(g, 2 * PAGE * D);
    float *x = room<float>(g, 2 * PAGE * D);
    (void)state;
    *table = *length = 0;
    *p = {table, length, 1, 1, 0, 0, 0, 0, 0, NULL, 0, NULL, NULL, NULL, 0};
    for (enum kv_cuda_entry kind : entry_kinds) {
        struct kv_cuda_shape s = {1, 1, 1, D, PAGE, pool, NULL, NULL, kind, 0};
        for (int i = 0; i < 2 * PAGE * D; i++)
            if (kind == KV_CUDA_FP8)
                ((uint8_t *)pool)[i] = (uint8_t)i;
            else
                pool[i] = (uint16_t)i;
        kv_cuda_entries(g, &s, p, 0, 0, 0, PAGE, x, x + PAGE * D);
        wait_for(g);
        for (int i = 0; i < 2 * PAGE * D; i++) {
            double expected = element_at(kind, pool, i), is = (double)x[i];
            if (!(is == expected && signbit(is) == signbit(expected)) && !(is != is && expected != expected))
                fail_msg("%s 0x%x: got %.9g, expected %.9g", entry_names[kind], code_at(kind, pool, i), is, expected);
        }
    }
    drop(g, table, length, p, pool, x);
    kv_gpu_close(g);
}

static void test_entries(void **state)
{
    struct kv_gpu *g = open_device();
    (void)state;
    for (int slots = 0; slots < 2; slots++) {
        entries_once(g, 64, 16, slots, 0, 50);
        entries_once(g, 128, 4, slots, 13, 30);
        entries_once(g, 6, 3, slots, 7, 1);
        entries_once(g, 256, 64, slots, 1, 40);
    }
    kv_gpu_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_windows),       cmocka_unit_test(test_kept_queries),   cmocka_unit_test(test_columns),
        cmocka_unit_test(test_local_windows), cmocka_unit_test(test_slot_positions), cmocka_unit_test(test_splits),
        cmocka_unit_test(test_other_widths),  cmocka_unit_test(test_norms),          cmocka_unit_test(test_entries),
        cmocka_unit_test(test_every_code),
        cmocka_unit_test(test_long_lanes),
    };
    need_device();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
