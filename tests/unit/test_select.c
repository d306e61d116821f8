/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Every path of this machine against oracles that sort, count and add one element at a time, and against each other bit
 * for bit: sets, pooling, top-k and sums on random shapes. */
#include "sim/core/random.h"
#include "sim/core/select.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { LARGEST = 200000, KINDS = 12, GUARD = 7 };

struct fixture {
    float *score, *other, *out[KV_SIMDS], *expected;
    uint64_t *set, *mask[KV_SIMDS], *wanted;
    uint8_t *member;
    int64_t *order;
    struct kv_top_work work;
    const struct kv_select *path[KV_SIMDS];
    uint64_t drawn;
};

static void *room(size_t n, size_t size)
{
    void *p = calloc(n, size);
    assert_non_null(p);
    return p;
}

static int set_up(void **state)
{
    struct fixture *f = room(1, sizeof *f);
    size_t n = LARGEST + KV_SLACK, words = (size_t)kv_words(LARGEST) + 1;
    f->score = room(n, sizeof(float));
    f->other = room(n, sizeof(float));
    f->expected = room(n, sizeof(float));
    f->set = room(words, sizeof(uint64_t));
    f->wanted = room(words, sizeof(uint64_t));
    f->member = room(n, 1);
    f->order = room(n, sizeof(int64_t));
    f->work = (struct kv_top_work){room(4 * 4096, sizeof(uint32_t)), room(n, sizeof(uint32_t)), LARGEST};
    for (int p = 0; p < KV_SIMDS; p++) {
        f->path[p] = kv_select_of((enum kv_simd)p);
        f->out[p] = room(n, sizeof(float));
        f->mask[p] = room(words, sizeof(uint64_t));
    }
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    for (int p = 0; p < KV_SIMDS; p++) {
        free(f->out[p]);
        free(f->mask[p]);
    }
    free(f->score);
    free(f->other);
    free(f->expected);
    free(f->set);
    free(f->wanted);
    free(f->member);
    free(f->order);
    free(f->work.histogram);
    free(f->work.boundary);
    free(f);
    return 0;
}

/* ---- data ---- */

static uint64_t draw(struct fixture *f)
{
    return kv_random(1, kv_purpose("test_select"), 0, f->drawn++);
}

static int64_t below(struct fixture *f, int64_t n)
{
    return (int64_t)(draw(f) % (uint64_t)n);
}

static double normal(struct fixture *f)
{
    double u = kv_uniform(draw(f)), v = kv_uniform(draw(f));
    return sqrt(-2 * log(1 - u)) * cos(6.283185307179586 * v);
}

static float draw_score(struct fixture *f, int kind, int64_t i)
{
    static const float extremes[] = {INFINITY, -INFINITY, 0, -0.0f, 1e-44f, -1e-44f, 3e38f, -3e38f};
    double u = kv_uniform(draw(f));
    switch (kind) {
    case 0:
        return (float)u;
    case 1:
        return (float)exp(3 * normal(f));
    case 2:
        return 0.25f;
    case 3:
        return (float)below(f, 5);
    case 4:
        return u < 0.5 ? 0 : (float)exp(3 * normal(f));
    case 5:
        return (float)(u - 0.5);
    case 6:
        return u < 0.1 ? extremes[below(f, 8)] : (float)normal(f);
    case 7:
        return u < 0.3 ? 0.0f : u < 0.6 ? -0.0f : (float)normal(f);
    case 8:
        return 1 + (float)below(f, 1000) * 0x1p-23f; /* one bin of a first histogram */
    case 9:
        return i % 256 ? (float)exp(normal(f)) : 1000 + (float)u; /* a period that a sample could follow */
    case 10:
        return (float)i;
    default:
        return -(float)(i / 3);
    }
}

static void draw_scores(struct fixture *f, float *score, int64_t n, int kind)
{
    for (int64_t i = 0; i < n; i++)
        score[i] = draw_score(f, kind, i);
}

static void draw_set(struct fixture *f, int64_t n)
{
    double share = (double)below(f, 5) / 4;
    memset(f->set, 0, (size_t)(kv_words(n) + 1) * sizeof *f->set);
    for (int64_t i = 0; i < n; i++) {
        f->member[i] = kv_uniform(draw(f)) < share;
        f->set[i / 64] |= (uint64_t)f->member[i] << i % 64;
    }
}

/* All lengths up to 300, then some more. */
static int64_t next_length(struct fixture *f, int64_t n)
{
    return n < 300 ? n + 1 : n < 20000 ? n + 1 + below(f, 4000) : n + 1 + below(f, 120000);
}

static void same_words(const uint64_t *a, const uint64_t *b, int64_t n, const char *what, const char *path)
{
    for (int64_t w = 0; w < kv_words(n); w++)
        if (a[w] != b[w])
            fail_msg("%s, %s, n = %lld: word %lld is %016llx, expected %016llx", what, path, (long long)n, (long long)w,
                     (unsigned long long)a[w], (unsigned long long)b[w]);
}

static void same_floats(const float *a, const float *b, int64_t n, const char *what, const char *path)
{
    for (int64_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a))
            fail_msg("%s, %s, n = %lld: %lld is %a, expected %a", what, path, (long long)n, (long long)i, (double)a[i],
                     (double)b[i]);
}

#define EACH_PATH(f, p)                                                                                                \
    for (int p = 0; p < KV_SIMDS; p++)                                                                                 \
        if ((f)->path[p])

/* ---- top ---- */

static const float *sorted_by;

static int by_score(const void *a, const void *b)
{
    int64_t i = *(const int64_t *)a, j = *(const int64_t *)b;
    if (sorted_by[i] != sorted_by[j])
        return sorted_by[i] > sorted_by[j] ? -1 : 1;
    return i < j ? -1 : 1;
}

static int64_t ties_of(const struct fixture *f, int64_t n, int64_t k)
{
    if (k == 0 || k == n)
        return 0;
    float lowest = f->score[f->order[k - 1]];
    if (f->score[f->order[k]] != lowest)
        return 0;
    int64_t ties = 0;
    for (int64_t i = 0; i < n; i++)
        ties += f->score[i] == lowest;
    return ties;
}

static void check_top(struct fixture *f, int64_t n, int64_t k, int kind)
{
    memset(f->wanted, 0, (size_t)(kv_words(n) + 1) * sizeof *f->wanted);
    for (int64_t i = 0; i < k; i++)
        f->wanted[f->order[i] / 64] |= UINT64_C(1) << f->order[i] % 64;
    int64_t ties = ties_of(f, n, k);
    EACH_PATH(f, p)
    {
        char what[64];
        snprintf(what, sizeof what, "top %lld, kind %d", (long long)k, kind);
        memset(f->mask[p], 0xa5, (size_t)(kv_words(n) + 1) * sizeof **f->mask);
        assert_int_equal(f->path[p]->top(f->score, n, k, f->mask[p], &f->work), ties);
        same_words(f->mask[p], f->wanted, n, what, f->path[p]->name);
        assert_int_equal(f->mask[p][kv_words(n)], UINT64_C(0xa5a5a5a5a5a5a5a5));
    }
}

static void the_highest_are_chosen_and_ties_go_to_the_lower_index(void **state)
{
    struct fixture *f = *state;
    for (int64_t n = 0; n <= LARGEST; n = next_length(f, n))
        for (int kind = 0; kind < KINDS; kind++) {
            if (n > 300 && kind != (int)(n % KINDS) && kind != (int)(n / 16 % KINDS))
                continue;
            draw_scores(f, f->score, n, kind);
            for (int64_t i = 0; i < n; i++)
                f->order[i] = i;
            sorted_by = f->score;
            qsort(f->order, (size_t)n, sizeof *f->order, by_score);
            const int64_t some[] = {0, n, n / 100, n / 10, n / 2, n - n / 10, n > 0, n - (n > 0), below(f, n + 1)};
            for (size_t i = 0; i < sizeof some / sizeof *some; i++)
                check_top(f, n, some[i], kind);
        }
}

static void large_rows_of_every_kind(void **state)
{
    struct fixture *f = *state;
    for (int kind = 0; kind < KINDS; kind++) {
        int64_t n = 40000 + below(f, 1000);
        draw_scores(f, f->score, n, kind);
        for (int64_t i = 0; i < n; i++)
            f->order[i] = i;
        sorted_by = f->score;
        qsort(f->order, (size_t)n, sizeof *f->order, by_score);
        const int64_t some[] = {1, 2, n / 1000, n / 256, n / 100, n / 10, n / 3, n / 2, n * 7 / 10, n - 5, n - 1};
        for (size_t i = 0; i < sizeof some / sizeof *some; i++)
            check_top(f, n, some[i], kind);
    }
}

/* ---- pooling, rows ---- */

static void pool_oracle(const float *in, int64_t n, int64_t width, bool sum, float *out)
{
    for (int64_t i = 0; i < n; i++) {
        bool first = true;
        for (int64_t j = i - width / 2; j <= i + width / 2; j++) {
            if (j < 0 || j >= n)
                continue;
            if (first)
                out[i] = in[j];
            else if (sum)
                out[i] = out[i] + in[j];
            else if (in[j] > out[i])
                out[i] = in[j];
            first = false;
        }
    }
}

static void check_pools(struct fixture *f, int64_t n, int width)
{
    for (int sum = 0; sum < 2; sum++) {
        pool_oracle(f->score, n, width, sum, f->expected);
        EACH_PATH(f, p)
        {
            char what[64];
            snprintf(what, sizeof what, "%s %d", sum ? "pool_sum" : "pool_max", width);
            (sum ? f->path[p]->pool_sum : f->path[p]->pool_max)(f->score, n, width, f->out[p]);
            same_floats(f->out[p], f->expected, n, what, f->path[p]->name);
        }
    }
}

static void windows_are_pooled_from_left_to_right_and_cut_at_the_ends(void **state)
{
    struct fixture *f = *state;
    static const int kinds[] = {0, 1, 5, 7};
    for (int64_t n = 0; n <= LARGEST; n = next_length(f, n)) {
        draw_scores(f, f->score, n, kinds[n % 4]);
        for (int width = 1; width <= 9; width += 2)
            check_pools(f, n, width);
        check_pools(f, n, 63);
        check_pools(f, n, 2 * (int)below(f, n < 400 ? n + 9 : 40) + 1);
        if (n < 400) {
            check_pools(f, n, (int)n | 1);
            check_pools(f, n, 2 * (int)n + 33);
        }
    }
}

static void a_lone_minus_zero_stays_one(void **state)
{
    struct fixture *f = *state;
    for (int64_t i = 0; i < 100; i++)
        f->score[i] = -0.0f;
    for (int width = 1; width < 9; width += 2)
        check_pools(f, 100, width);
    assert_true(signbit(f->out[KV_SIMD_PORTABLE][50]));
}

static void rows_are_added_and_the_larger_taken(void **state)
{
    struct fixture *f = *state;
    for (int64_t n = 0; n <= LARGEST; n = next_length(f, n)) {
        draw_scores(f, f->score, n, n % 2 ? 7 : 1);
        draw_scores(f, f->other, n, n % 2 ? 7 : 5);
        for (int larger = 0; larger < 2; larger++) {
            for (int64_t i = 0; i < n; i++) {
                float x = f->score[i], y = f->other[i];
                f->expected[i] = !larger ? x + y : y > x ? y : x;
            }
            EACH_PATH(f, p)
            {
                memcpy(f->out[p], f->score, (size_t)n * sizeof(float));
                f->out[p][n] = GUARD;
                (larger ? f->path[p]->max : f->path[p]->add)(f->out[p], f->other, n);
                same_floats(f->out[p], f->expected, n, larger ? "max" : "add", f->path[p]->name);
                assert_true(f->out[p][n] == GUARD);
            }
        }
    }
}

/* ---- sets ---- */

static void members_are_compressed_in_order(void **state)
{
    struct fixture *f = *state;
    for (int64_t n = 0; n <= LARGEST; n = next_length(f, n)) {
        int64_t members = 0;
        draw_scores(f, f->score, n, 7);
        draw_set(f, n);
        for (int64_t i = 0; i < n; i++)
            if (f->member[i])
                f->expected[members++] = f->score[i];
        EACH_PATH(f, p)
        {
            for (int64_t i = 0; i <= KV_SLACK; i++)
                f->out[p][members + i < LARGEST + KV_SLACK ? members + i : 0] = GUARD;
            assert_int_equal(f->path[p]->compress(f->score, f->set, n, f->out[p]), members);
            same_floats(f->out[p], f->expected, members, "compress", f->path[p]->name);
            if (members + KV_SLACK < LARGEST)
                assert_true(f->out[p][members + KV_SLACK] == GUARD);
        }
    }
}

static void a_set_is_restricted_to_ranks(void **state)
{
    struct fixture *f = *state;
    for (int64_t n = 0; n <= LARGEST; n = next_length(f, n)) {
        draw_set(f, n);
        int64_t rank = 0;
        uint64_t *ranks = f->mask[KV_SIMD_PORTABLE];
        memset(ranks, 0, (size_t)(kv_words(n) + 1) * sizeof *ranks);
        memset(f->wanted, 0, (size_t)(kv_words(n) + 1) * sizeof *f->wanted);
        for (int64_t i = 0; i < n; i++)
            if (f->member[i]) {
                uint64_t stays = draw(f) % 3 > 0;
                ranks[rank / 64] |= stays << rank % 64;
                f->wanted[i / 64] |= stays << i % 64;
                rank++;
            }
        EACH_PATH(f, p)
        {
            /* As large as it must be and no larger: a sanitizer sees reads behind its end. */
            uint64_t *set = room((size_t)kv_words(n) + 1, sizeof *set), *exact = room((size_t)kv_words(rank) + 1, 8);
            uint64_t *own = exact + 1;
            memcpy(set, f->set, (size_t)kv_words(n) * sizeof *set);
            memcpy(own, ranks, (size_t)kv_words(rank) * sizeof *own);
            f->path[p]->restrict_to(set, n, own);
            same_words(set, f->wanted, n, "restrict_to", f->path[p]->name);
            free(set);
            free(exact);
        }
    }
}

static double sum_oracle(const struct fixture *f, int64_t n, bool all)
{
    double sum[32] = {0};
    for (int64_t i = 0; i < n; i++)
        if (all || f->member[i])
            sum[i % 32] += (double)f->score[i];
    for (int i = 0; i < 8; i++)
        sum[i] = (sum[i] + sum[i + 8]) + (sum[i + 16] + sum[i + 24]);
    for (int step = 1; step < 8; step *= 2)
        for (int i = 0; i < 8; i += 2 * step)
            sum[i] += sum[i + step];
    return sum[0];
}

static void sums_have_one_order(void **state)
{
    struct fixture *f = *state;
    static const int kinds[] = {1, 5, 7, 4};
    for (int64_t n = 0; n <= LARGEST; n = next_length(f, n)) {
        draw_scores(f, f->score, n, kinds[n % 4]);
        draw_set(f, n);
        for (int all = 0; all < 2; all++) {
            double expected = sum_oracle(f, n, all);
            EACH_PATH(f, p)
            {
                double sum = f->path[p]->sum(f->score, all ? NULL : f->set, n);
                if (memcmp(&sum, &expected, sizeof sum))
                    fail_msg("sum, %s, n = %lld: %a, expected %a", f->path[p]->name, (long long)n, sum, expected);
            }
        }
    }
}

static void what_is_not_a_member_may_be_infinite(void **state)
{
    struct fixture *f = *state;
    draw_set(f, 1000);
    for (int64_t i = 0; i < 1000; i++)
        f->score[i] = f->member[i] ? 1 : i % 2 ? INFINITY : -INFINITY;
    int64_t members = kv_set_count(f->set, 1000);
    EACH_PATH(f, p)
    assert_true(f->path[p]->sum(f->score, f->set, 1000) == (double)members);
}

/* ---- helpers ---- */

static void check_range(struct fixture *f, int64_t n, int64_t begin, int64_t end)
{
    uint64_t *filled = f->mask[0], *cleared = f->mask[1];
    int64_t in = 0;
    memcpy(filled, f->set, (size_t)(kv_words(n) + 1) * sizeof *filled);
    memcpy(cleared, f->set, (size_t)(kv_words(n) + 1) * sizeof *cleared);
    kv_set_fill(filled, begin, end);
    kv_set_clear(cleared, begin, end);
    for (int64_t i = 0; i < n; i++) {
        bool inside = i >= begin && i < end;
        in += inside && f->member[i];
        assert_int_equal(kv_set_has(filled, i), inside || f->member[i]);
        assert_int_equal(kv_set_has(cleared, i), !inside && f->member[i]);
    }
    assert_int_equal(kv_set_count_range(f->set, begin, end), in);
    assert_int_equal(filled[kv_words(n)], 0);
}

static void ranges_are_filled_cleared_and_counted(void **state)
{
    struct fixture *f = *state;
    static const int64_t places[] = {0, 1, 63, 64, 65, 100, 127, 128, 129, 191, 192, 300};
    for (int round = 0; round < 5; round++) {
        draw_set(f, 300);
        for (size_t i = 0; i < sizeof places / sizeof *places; i++)
            for (size_t j = 0; j < sizeof places / sizeof *places; j++)
                check_range(f, 300, places[i], places[j]);
    }
}

static int64_t pages_oracle(const struct fixture *f, int64_t n, int64_t page)
{
    int64_t pages = 0;
    for (int64_t begin = 0; begin < n; begin += page) {
        bool any = false;
        for (int64_t i = begin; i < n && i < begin + page; i++)
            any |= f->member[i];
        pages += any;
    }
    return pages;
}

static void members_and_pages_are_counted(void **state)
{
    struct fixture *f = *state;
    static const int64_t sizes[] = {1, 2, 3, 4, 8, 16, 17, 32, 64, 100, 128, 256, 5000};
    for (int64_t n = 0; n <= LARGEST; n = next_length(f, n)) {
        draw_set(f, n);
        if (n % 3 == 0) /* sparse ones, too */
            for (int64_t i = 0; i < n; i++)
                if (draw(f) % 64) {
                    f->member[i] = 0;
                    kv_set_clear(f->set, i, i + 1);
                }
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            assert_int_equal(kv_set_pages(f->set, n, sizes[i]), pages_oracle(f, n, sizes[i]));
        int64_t part = below(f, n + 1), members = 0, common = 0;
        kv_set_fill(f->wanted, 0, n);
        kv_set_clear(f->wanted, n / 3, n / 2);
        for (int64_t i = 0; i < part; i++) {
            members += f->member[i];
            common += (i < n / 3 || i >= n / 2) && f->member[i];
        }
        assert_int_equal(kv_set_count(f->set, part), members);
        assert_int_equal(kv_set_common(f->set, f->wanted, part), common);
    }
}

static void a_rank_has_its_position(void **state)
{
    struct fixture *f = *state;
    for (int64_t n = 0; n <= 300; n++) {
        draw_set(f, n);
        int64_t rank = 0;
        for (int64_t i = 0; i < n; i++)
            if (f->member[i])
                assert_int_equal(kv_set_position(f->set, n, rank++), i);
        assert_int_equal(kv_set_position(f->set, n, rank), n);
        assert_int_equal(kv_set_position(f->set, n, rank + 1000), n);
    }
}

/* ---- the choice ---- */

static void the_environment_chooses_the_path(void **state)
{
    struct fixture *f = *state;
    static const char *const names[] = {"portable", "avx2", "avx512"};
    const struct kv_select *widest = NULL;
    assert_non_null(f->path[KV_SIMD_PORTABLE]);
    EACH_PATH(f, p)
    {
        widest = f->path[p];
        assert_string_equal(widest->name, names[p]);
        assert_int_equal(widest->simd, p);
        setenv("KVSIM_SIMD", names[p], 1);
        assert_ptr_equal(kv_select_best(), widest);
    }
    setenv("KVSIM_SIMD", "abacus", 1);
    assert_ptr_equal(kv_select_best(), widest);
    unsetenv("KVSIM_SIMD");
    assert_ptr_equal(kv_select_best(), widest);
    print_message("# widest path here: %s\n", widest->name);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(the_highest_are_chosen_and_ties_go_to_the_lower_index),
        TEST(large_rows_of_every_kind),
        TEST(windows_are_pooled_from_left_to_right_and_cut_at_the_ends),
        TEST(a_lone_minus_zero_stays_one),
        TEST(rows_are_added_and_the_larger_taken),
        TEST(members_are_compressed_in_order),
        TEST(a_set_is_restricted_to_ranks),
        TEST(sums_have_one_order),
        TEST(what_is_not_a_member_may_be_infinite),
        TEST(ranges_are_filled_cleared_and_counted),
        TEST(members_and_pages_are_counted),
        TEST(a_rank_has_its_position),
        TEST(the_environment_chooses_the_path),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
