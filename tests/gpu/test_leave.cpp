/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Steps whose lanes close up: who is found against a search one by one, what moves against the pool as it was. */
#include "tests/gpu/lanes.h"

#include <cmath>
#include <vector>

enum { LAYER = 1 };

struct step {
    struct lanes l;
    int heads, stride;
    std::vector<float> made, column; /* (heads, stride), as they were */
    std::vector<struct kv_cuda_leave> leave;
};

static int below(uint64_t stream, uint64_t i, int n)
{
    return (int)(fabsf(number(stream, i)) * 1000.0f) % n;
}

/* Few different numbers, so that many scores are equal. */
static float coarse(uint64_t stream, uint64_t i)
{
    return roundf(number(stream, i) * 3);
}

static int32_t entries_of(const struct step *s, int head)
{
    return (int32_t)lane_length(&s->l.part[1], LAYER, head) + s->l.part[1].n_new;
}

/* Part 1 of two; its last lane has `longest` entries before the step, the one before none. */
static void open_step(struct step *s, struct kv_gpu *g, enum kv_cuda_entry kind, int d, int page, int heads, int longest, int run, float sign,
                      uint64_t seed)
{
    lanes_open(&s->l, g, kind, heads, heads, d, page, 2);
    lanes_add(&s->l, heads, 2, 0, 9, false, 0);
    lanes_add(&s->l, heads, 1, 0, longest, false, 0);
    struct kv_cuda_part *p = &s->l.part[1];
    s->heads = heads;
    s->stride = longest + 3;
    p->column_room = s->stride;
    p->column = room<float>(g, 2 * heads * p->column_room);
    p->left = room<struct kv_cuda_left>(g, 2 * heads);
    struct kv_cuda_leave *leave = room<struct kv_cuda_leave>(g, 2 * heads);
    p->leave = leave;
    for (int h = 0; h < heads; h++) {
        int32_t n = entries_of(s, h), first = n > 9 ? below(seed, (uint64_t)h, 5) : 0;
        leave[LAYER * heads + h] = {first, n > 9 ? n - 1 - below(seed + 1, (uint64_t)h, 4) : n, h == 1 ? 0 : run};
        p->left[LAYER * heads + h] = {-1, -1};
    }
    for (int i = 0; i < heads * s->stride; i++) {
        s->made.push_back(coarse(seed + 2, (uint64_t)i));
        s->column.push_back(coarse(seed + 3, (uint64_t)i));
    }
    const struct kv_cuda_leave &first = leave[LAYER * heads]; /* it is the very first that leaves, and none before it */
    for (std::vector<float> *x : {&s->made, &s->column}) {
        (*x)[(size_t)first.first] = -20 * sign;
        (*x)[(size_t)first.behind] = -30 * sign;
        for (int32_t i = 0; i < first.first; i++)
            (*x)[(size_t)i] = -30 * sign;
    }
    memcpy(p->column + LAYER * heads * s->stride, s->column.data(), sizeof(float) * s->column.size());
    s->leave.assign(leave + LAYER * heads, leave + (LAYER + 1) * heads);
}

static void close_step(struct step *s)
{
    drop(s->l.g, s->l.part[1].column, s->l.part[1].left, (struct kv_cuda_leave *)(uintptr_t)s->l.part[1].leave);
    lanes_close(&s->l);
}

/* The numbers of a lane after the step, before anything left. */
static std::vector<float> numbers_of(const struct step *s, int head, const struct kv_cuda_rule &rule)
{
    int32_t n = entries_of(s, head);
    std::vector<float> x;
    for (int32_t i = 0; i < n; i++) {
        float made = 0, before = i == n - 1 ? 0 : s->column[(size_t)(head * s->stride + i)];
        if (rule.brought)
            made = i == n - 1 ? s->made[(size_t)head] : before;
        for (int h = rule.together ? 0 : head; !rule.brought && h <= (rule.together ? s->heads - 1 : head); h++)
            made += s->made[(size_t)(h * s->stride + i)];
        x.push_back(rule.gathered ? made + before : made);
    }
    return x;
}

/* The lane without [first, first + n). */
static void check_lane(const struct step *s, const std::vector<char> &was, int32_t layer, int head, int32_t end,
                       int32_t first, int32_t n)
{
    const struct lanes *l = &s->l;
    int64_t size = kv_cuda_entry_bytes(l->shape.entry);
    const char *is = (const char *)l->shape.pool;
    size_t row = (size_t)(l->shape.d * size);
    for (int32_t i = 0; i < end - n; i++) {
        int32_t from = i < first ? i : i + n;
        if (memcmp(is + lane_key(l, 1, layer, head, i) * size, was.data() + lane_key(l, 1, layer, head, from) * size, row) ||
            memcmp(is + lane_value(l, 1, layer, head, i) * size, was.data() + lane_value(l, 1, layer, head, from) * size, row))
            fail_msg("head %d of %d entries, without %d from %d on: entry %d is not what %d was", head, end, n, first, i,
                     from);
    }
}

static void run_step(struct kv_gpu *g, enum kv_cuda_entry kind, int d, int page, int longest, const struct kv_cuda_rule *rule, int run,
                     uint64_t seed)
{
    struct step s;
    open_step(&s, g, kind, d, page, 3, longest, run, rule ? rule->sign : 1, seed);
    struct kv_cuda_part *p = &s.l.part[1];
    const char *pool = (const char *)s.l.shape.pool;
    std::vector<char> was(pool, pool + s.l.pool_elements * kv_cuda_entry_bytes(kind));
    int64_t most = longest + 1 + 700, chunks = kv_cuda_chunks(most);
    struct kv_cuda_lowest *lowest = room<struct kv_cuda_lowest>(g, s.heads * chunks);
    float *made = room<float>(g, s.heads * s.stride);
    memcpy(made, s.made.data(), sizeof *made * s.made.size());
    if (rule)
        kv_cuda_weigh(g, &s.l.shape, p, p, LAYER, rule, made, s.stride, most, lowest);
    kv_cuda_close_up(g, &s.l.shape, p, p, LAYER, rule ? lowest : NULL, chunks);
    wait_for(g);
    for (int h = 0; h < s.heads; h++) {
        const struct kv_cuda_leave &leave = s.leave[(size_t)h];
        int32_t first = leave.first, n = leave.n, many = 0;
        std::vector<float> x;
        if (rule)
            x = numbers_of(&s, h, *rule);
        else
            x.assign(s.column.begin() + h * s.stride, s.column.begin() + h * s.stride + entries_of(&s, h));
        if (rule && n) {
            for (int32_t i = first = leave.first; i < leave.behind; i++)
                if (rule->sign * x[(size_t)i] <= rule->sign * x[(size_t)first])
                    first = i;
            for (int32_t i = leave.first; i < leave.behind; i++)
                many += x[(size_t)i] == x[(size_t)first];
            const struct kv_cuda_left &left = p->left[LAYER * s.heads + h];
            assert_int_equal(left.rank, first);
            assert_int_equal(left.ties, many > 1 ? many : 0);
        }
        if (!n || !rule)
            assert_int_equal(p->left[LAYER * s.heads + h].rank, -1);
        check_lane(&s, was, LAYER, h, entries_of(&s, h), first, n);
        bool kept = !rule || rule->gathered || rule->brought;
        for (int32_t i = 0; i < entries_of(&s, h) - n && kept; i++) {
            float got = p->column[(LAYER * s.heads + h) * s.stride + i];
            if (got != x[(size_t)(i < first ? i : i + n)])
                fail_msg("head %d: the number of entry %d is %g", h, i, (double)got);
        }
    }
    for (int h = 0; h < s.heads; h++) /* other lanes have what they had */
        check_lane(&s, was, 0, h, (int32_t)lane_length(p, 0, h), 0, 0);
    drop(g, lowest, made);
    close_step(&s);
}

static void who_has_the_lowest_score_leaves(void **)
{
    struct kv_gpu *g = open_device();
    const struct kv_cuda_rule rules[] = {
        {false, false, false, 1}, {true, false, false, 1}, {false, true, false, -1}, {false, false, true, 1}};
    const int lengths[] = {12, 63, 64, 300, KV_CUDA_CHUNK - 1, KV_CUDA_CHUNK, 2 * KV_CUDA_CHUNK + 5};
    uint64_t seed = 100;
    for (const struct kv_cuda_rule &rule : rules)
        for (int longest : lengths)
            run_step(g, entry_kinds[longest % 3], longest > 400 ? 16 : 32, longest % 2 ? 4 : 64, longest, &rule, 1, seed += 10);
    run_step(g, KV_CUDA_FP8, 10, 3, 70, &rules[1], 1, 7); /* rows of no 16 bytes */
    kv_gpu_close(g);
}

static void runs_leave_by_place(void **)
{
    struct kv_gpu *g = open_device();
    for (int run : {1, 2, 17, 40})
        for (int longest : {60, 257, 1400})
            run_step(g, entry_kinds[run % 3], longest == 60 ? 128 : 24, run % 2 ? 64 : 5, longest, NULL, run, (uint64_t)(run * longest));
    kv_gpu_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(who_has_the_lowest_score_leaves),
                                       cmocka_unit_test(runs_leave_by_place)};
    need_device();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
