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

/* A lane of which some stay. */
struct left {
    int part, head;
    enum pattern pattern;
};

enum { LAYER = 1 };

/* In one launch: the pool is as if entries had moved one by one. */
static void compact(struct lanes *l, const std::vector<left> &lanes)
{
    std::vector<std::vector<int32_t>> stay;
    const char *was = (const char *)l->shape.pool;
    int64_t size = kv_cuda_entry_bytes(l->shape.entry);
    std::vector<char> expected(was, was + l->pool_elements * size);
    size_t row = (size_t)(l->shape.d * size);
    int64_t all = 0, at = 0;
    for (const left &which : lanes) {
        const struct kv_cuda_part *p = &l->part[which.part];
        int64_t n = lane_length(p, LAYER, which.head) + p->n_new;
        stay.emplace_back();
        for (int64_t i = 0; i < n; i++)
            if (stays(which.pattern, i, n))
                stay.back().push_back((int32_t)i);
        all += (int64_t)stay.back().size();
        for (size_t i = 0; i < stay.back().size(); i++) {
            int64_t from = stay.back()[i], to = (int64_t)i;
            memcpy(expected.data() + lane_key(l, which.part, LAYER, which.head, to) * size,
                   was + lane_key(l, which.part, LAYER, which.head, from) * size, row);
            memcpy(expected.data() + lane_value(l, which.part, LAYER, which.head, to) * size,
                   was + lane_value(l, which.part, LAYER, which.head, from) * size, row);
        }
    }
    int32_t *keep = room<int32_t>(l->g, all + 1);
    struct kv_cuda_stay *list = room<struct kv_cuda_stay>(l->g, (int64_t)lanes.size());
    for (size_t i = 0; i < lanes.size(); at += (int64_t)stay[i].size(), i++) {
        if (!stay[i].empty())
            memcpy(keep + at, stay[i].data(), sizeof *keep * stay[i].size());
        list[i] = {at, lanes[i].part, lanes[i].head, (int32_t)stay[i].size()};
    }
    kv_cuda_compact(l->g, &l->shape, l->part, LAYER, list, (int64_t)lanes.size(), keep);
    wait_for(l->g);
    assert_memory_equal(expected.data(), l->shape.pool, expected.size());
    drop(l->g, keep, list);
}

static void compact_once(struct kv_gpu *g, enum kv_cuda_entry kind, int d, int page, int entries, enum pattern pattern)
{
    struct lanes l;
    lanes_open(&l, g, kind, 3, 3, d, page, 2);
    lanes_add(&l, 3, 2, 0, 9, false, 0);
    lanes_add(&l, 3, 1, 2, entries, false, 0);
    compact(&l, {{1, 2, pattern}});
    lanes_close(&l);
}

/* Lanes of several parts, some empty, each with a list of its own; others are left alone. */
static void test_many_lanes(void **state)
{
    struct kv_gpu *g = open_device();
    (void)state;
    for (int seed = 0; seed < 6; seed++) {
        struct lanes l;
        std::vector<left> lanes;
        lanes_open(&l, g, entry_kinds[seed % 3], 4, 4, seed % 2 ? 16 : 10, 4, 2);
        for (int part = 0; part < 3; part++)
            lanes_add(&l, 4, 1 + part, part % 2, 60 + 100 * part, false, 0);
        for (int i = 0; i < 12; i++)
            if (number(61, (uint64_t)(12 * seed + i)) > -0.5f)
                lanes.push_back({i / 4, i % 4, (enum pattern)((i + 5 * seed) % PATTERNS)});
        compact(&l, lanes);
        compact(&l, {});
        lanes_close(&l);
    }
    kv_gpu_close(g);
}

static void test_patterns(void **state)
{
    const int shapes[][3] = {{64, 16, 300}, {128, 64, 400}, {8, 4, 500}, {10, 3, 130}, {6, 1, 90}, {24, 64, 20}};
    struct kv_gpu *g = open_device();
    (void)state;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int pattern = 0; pattern < PATTERNS; pattern++)
            for (enum kv_cuda_entry kind : entry_kinds)
                compact_once(g, kind, shapes[s][0], shapes[s][1], shapes[s][2], (enum pattern)pattern);
    kv_gpu_close(g);
}

/* Many batches, of which later ones overwrite what earlier ones read. */
static void test_long_lanes(void **state)
{
    struct kv_gpu *g = open_device();
    (void)state;
    for (int pattern = EVERY_OTHER; pattern < PATTERNS; pattern++) {
        compact_once(g, KV_CUDA_BF16, 16, 16, 9000, (enum pattern)pattern);
        compact_once(g, KV_CUDA_BF16, 18, 64, 2500, (enum pattern)pattern);
        compact_once(g, KV_CUDA_FP8, 16, 16, 5000, (enum pattern)pattern);
        compact_once(g, KV_CUDA_FP8, 18, 64, 2500, (enum pattern)pattern);
    }
    kv_gpu_close(g);
}

static void test_longest_lanes(void **state)
{
    only_where_long_is_quick();
    struct kv_gpu *g = open_device();
    (void)state;
    for (int pattern = EVERY_OTHER; pattern < PATTERNS; pattern++)
        compact_once(g, KV_CUDA_BF16, 128, 64, LONG - 3, (enum pattern)pattern);
    kv_gpu_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_patterns),
        cmocka_unit_test(test_long_lanes),
        cmocka_unit_test(test_many_lanes),
        cmocka_unit_test(test_longest_lanes),
    };
    need_device();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
