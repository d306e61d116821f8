/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Compaction against the pool as it was: who stays moves to its rank, everything else is left alone. */
#include "tests/gpu/lanes.h"

#include <vector>

enum pattern {
    ALL,
    NONE,
    EVERY_OTHER,
    ALL_BUT_FIRST,
    ALL_BUT_LAST,
    LAST_ONE,
    SINK_AND_RECENT,
    SCATTERED,
    FEW,
    PATTERNS
};

static bool stays(enum pattern pattern, int64_t i, int64_t n)
{
    switch (pattern) {
    case ALL:
        return true;
    case EVERY_OTHER:
        return i % 2;
    case ALL_BUT_FIRST:
        return i > 0;
    case ALL_BUT_LAST:
        return i < n - 1;
    case LAST_ONE:
        return i == n - 1;
    case SINK_AND_RECENT:
        return i < 4 || i >= n / 3;
    case SCATTERED:
        return number(51, (uint64_t)i) > 0;
    case FEW:
        return number(52, (uint64_t)i) > 1.5f;
    default:
        return false;
    }
}

static void compact_once(struct kv_gpu *g, int d, int page, int entries, enum pattern pattern)
{
    enum { LAYER = 1, HEAD = 2 };
    struct lanes l;
    lanes_open(&l, g, 3, 3, d, page, 2);
    lanes_add(&l, 3, 2, 0, 9, false, 0);
    lanes_add(&l, 3, 1, 2, entries, false, 0);
    const struct kv_cuda_part *p = &l.part[1];
    int64_t length = lane_length(p, LAYER, HEAD) + p->n_new + p->n_patch, n = 0;
    int32_t *keep = room<int32_t>(g, length);
    for (int64_t i = 0; i < length - p->n_patch; i++)
        if (stays(pattern, i, length - p->n_patch))
            keep[n++] = (int32_t)i;
    const kv_bf16 *was = l.shape.pool;
    std::vector<kv_bf16> expected(was, was + l.pool_elements);
    for (int64_t i = 0; i < n; i++) {
        memcpy(expected.data() + (lane_key(&l, 1, LAYER, HEAD, i) - was), lane_key(&l, 1, LAYER, HEAD, keep[i]),
               sizeof *was * (size_t)d);
        memcpy(expected.data() + (lane_value(&l, 1, LAYER, HEAD, i) - was), lane_value(&l, 1, LAYER, HEAD, keep[i]),
               sizeof *was * (size_t)d);
    }
    kv_cuda_compact(g, &l.shape, p, LAYER, HEAD, keep, n);
    wait_for(g);
    assert_memory_equal(expected.data(), l.shape.pool, sizeof *was * (size_t)l.pool_elements);
    drop(g, keep);
    lanes_close(&l);
}

static void test_patterns(void **state)
{
    const int shapes[][3] = {{64, 16, 300}, {128, 64, 400}, {8, 4, 500}, {10, 3, 130}, {6, 1, 90}, {24, 64, 20}};
    struct kv_gpu *g = open_device();
    (void)state;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int pattern = 0; pattern < PATTERNS; pattern++)
            compact_once(g, shapes[s][0], shapes[s][1], shapes[s][2], (enum pattern)pattern);
    kv_gpu_close(g);
}

/* Many batches, of which later ones overwrite what earlier ones read. */
static void test_long_lanes(void **state)
{
    struct kv_gpu *g = open_device();
    (void)state;
    for (int pattern = EVERY_OTHER; pattern < PATTERNS; pattern++) {
        compact_once(g, 16, 16, 9000, (enum pattern)pattern);
        compact_once(g, 18, 64, 2500, (enum pattern)pattern);
    }
    kv_gpu_close(g);
}

static void test_longest_lanes(void **state)
{
    only_where_long_is_quick();
    struct kv_gpu *g = open_device();
    (void)state;
    for (int pattern = EVERY_OTHER; pattern < PATTERNS; pattern++)
        compact_once(g, 128, 64, LONG - 3, (enum pattern)pattern);
    kv_gpu_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_patterns),
        cmocka_unit_test(test_long_lanes),
        cmocka_unit_test(test_longest_lanes),
    };
    need_device();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
