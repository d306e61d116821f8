/* SPDX-License-Identifier: GPL-3.0-or-later */
/* How a request is cut into passes: chunks, patches, Locret's tail, decode steps, limits, and passes that repeat. */
#include "sim/core/policy.h"
#include "sim/core/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define NO_LIMIT INT64_MAX
enum { MOST_PASSES = 4096 };

struct passes {
    int n;
    struct kv_pass at[MOST_PASSES];
};

static int set_up(void **state)
{
    *state = calloc(1, sizeof(struct passes));
    return !*state;
}

static int tear_down(void **state)
{
    free(*state);
    return 0;
}

/* Asks pass by pass, whatever `repeat` says. */
static void enumerate(struct passes *all, const struct kv_when *w, const struct kv_request *r, int64_t limit)
{
    int64_t seen = 0, unit = 0;
    all->n = 0;
    for (struct kv_pass p; kv_pass_next(w, r, all->n, seen, unit, limit, &p);) {
        assert_true(all->n < MOST_PASSES);
        assert_int_equal(p.index, all->n);
        assert_int_equal(p.seen, seen);
        assert_int_equal(p.prompt, r->prompt);
        assert_int_equal(p.prefill, r->prefill);
        assert_int_equal(p.n_unit, unit + p.n_new);
        all->at[all->n++] = p;
        seen += p.n_new;
        unit = p.evict ? 0 : unit + p.n_new;
    }
    assert_int_equal(seen, kv_request_steps(r));
}

static struct kv_request request(int64_t prompt, int64_t output)
{
    return (struct kv_request){.prompt = prompt, .output = output, .prefill = prompt};
}

/* What is expected of one pass; decode passes are not listed. */
struct expected {
    int64_t seen, n_new, n_patch;
    bool evict, last;
};

static void check_prefill(struct passes *all, const struct kv_when *w, const struct kv_request *r, int64_t limit,
                          const struct expected *expected, int n)
{
    enumerate(all, w, r, limit);
    for (int i = 0; i < n; i++) {
        const struct kv_pass *p = &all->at[i];
        const struct expected *x = &expected[i];
        if (i >= all->n || p->seen != x->seen || p->n_new != x->n_new || p->n_patch != x->n_patch ||
            p->evict != x->evict || p->last != x->last || p->decode_step != -1)
            fail_msg(
                "pass %d of %d: seen %lld, new %lld, patch %lld, evict %d, last %d, decode step %lld; expected %lld, "
                "%lld, %lld, %d, %d, -1",
                i, all->n, (long long)p->seen, (long long)p->n_new, (long long)p->n_patch, p->evict, p->last,
                (long long)p->decode_step, (long long)x->seen, (long long)x->n_new, (long long)x->n_patch, x->evict,
                x->last);
    }
    if (n < all->n)
        assert_true(all->at[n].decode_step >= 0);
}

#define CHECK_PREFILL(w, r, limit, ...)                                                                                \
    do {                                                                                                               \
        const struct expected wanted_[] = {__VA_ARGS__};                                                               \
        check_prefill(*state, &(w), &(r), limit, wanted_, (int)(sizeof wanted_ / sizeof *wanted_));                    \
    } while (0)

/* ---- steps ---- */

static void the_last_output_is_never_fed(void **state)
{
    (void)state;
    static const struct {
        int64_t prompt, output, prefill, steps;
    } known[] = {
        {100, 0, 100, 100}, {100, 1, 100, 100}, {100, 2, 100, 101}, {100, 50, 100, 149}, {100, 0, 99, 99},
        {100, 1, 99, 100},  {100, 50, 99, 149}, {1, 1, 0, 1},       {1, 0, 1, 1},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        struct kv_request r = {known[i].prompt, known[i].output, known[i].prefill};
        assert_int_equal(kv_request_steps(&r), known[i].steps);
    }
}

/* ---- chunks ---- */

static void chunks_start_at_multiples_and_the_last_is_the_remainder(void **state)
{
    struct kv_when w = {.at = KV_AT_CHUNK, .chunk = 100, .every = 1};
    struct kv_request r = request(250, 3);
    CHECK_PREFILL(w, r, NO_LIMIT, {0, 100, 0, true, false}, {100, 100, 0, true, false}, {200, 50, 0, true, true});
}

static void an_exact_multiple_has_no_remainder(void **state)
{
    struct kv_when w = {.at = KV_AT_CHUNK, .chunk = 100, .every = 1};
    struct kv_request r = request(200, 3);
    CHECK_PREFILL(w, r, NO_LIMIT, {0, 100, 0, true, false}, {100, 100, 0, true, true});
}

static void a_remainder_of_one_is_a_chunk(void **state)
{
    struct kv_when w = {.at = KV_AT_CHUNK, .chunk = 100, .every = 1};
    struct kv_request r = request(101, 0);
    CHECK_PREFILL(w, r, NO_LIMIT, {0, 100, 0, true, false}, {100, 1, 0, true, true});
}

static void a_chunk_of_the_prompt_or_more_is_one_pass(void **state)
{
    static const int64_t chunks[] = {200, 201, 131072, INT64_MAX};
    for (int i = 0; i < 4; i++) {
        struct kv_when w = {.at = KV_AT_CHUNK, .chunk = chunks[i], .every = 1};
        struct kv_request r = request(200, 3);
        CHECK_PREFILL(w, r, NO_LIMIT, {0, 200, 0, true, true});
    }
}

static void eviction_waits_for_what_when_says(void **state)
{
    struct kv_when w = {.at = 0, .chunk = 100, .every = 1};
    struct kv_request r = request(250, 3);
    CHECK_PREFILL(w, r, NO_LIMIT, {0, 100, 0, false, false}, {100, 100, 0, false, false}, {200, 50, 0, false, true});
    w.at = KV_AT_POSTFILL;
    CHECK_PREFILL(w, r, NO_LIMIT, {0, 100, 0, false, false}, {100, 100, 0, false, false}, {200, 50, 0, true, true});
    w.at = KV_AT_DECODE;
    CHECK_PREFILL(w, r, NO_LIMIT, {0, 100, 0, false, false}, {100, 100, 0, false, false}, {200, 50, 0, false, true});
    w.at = KV_AT_CHUNK | KV_AT_DECODE;
    CHECK_PREFILL(w, r, NO_LIMIT, {0, 100, 0, true, false}, {100, 100, 0, true, false}, {200, 50, 0, true, true});
}

/* ---- patches ---- */

static void all_chunks_but_the_last_are_patched(void **state)
{
    struct kv_when w = {.at = KV_AT_CHUNK, .chunk = 100, .patch = 64, .every = 1};
    struct kv_request r = request(250, 3);
    CHECK_PREFILL(w, r, NO_LIMIT, {0, 100, 64, true, false}, {100, 100, 64, true, false}, {200, 50, 0, true, true});
    r = request(200, 3);
    CHECK_PREFILL(w, r, NO_LIMIT, {0, 100, 64, true, false}, {100, 100, 0, true, true});
    r = request(100, 3);
    CHECK_PREFILL(w, r, NO_LIMIT, {0, 100, 0, true, true});
}

static void a_patch_is_at_most_the_prompt(void **state)
{
    struct kv_when w = {.at = KV_AT_CHUNK, .chunk = 10, .patch = 64, .every = 1};
    struct kv_request r = request(25, 3);
    CHECK_PREFILL(w, r, NO_LIMIT, {0, 10, 25, true, false}, {10, 10, 25, true, false}, {20, 5, 0, true, true});
}

static void patches_come_with_eviction_only(void **state)
{
    struct kv_when w = {.at = KV_AT_POSTFILL, .chunk = 100, .patch = 64, .every = 1};
    struct kv_request r = request(250, 3);
    CHECK_PREFILL(w, r, NO_LIMIT, {0, 100, 0, false, false}, {100, 100, 0, false, false}, {200, 50, 0, true, true});
}

/* ---- Locret's tail ---- */

static void the_tail_is_a_chunk_of_its_own(void **state)
{
    struct kv_when w = {.at = KV_AT_CHUNK, .chunk = 100, .tail = 30, .every = 1};
    struct kv_request r = request(250, 3);
    CHECK_PREFILL(w, r, NO_LIMIT, {0, 100, 0, true, false}, {100, 100, 0, true, false}, {200, 20, 0, true, false},
                  {220, 30, 0, true, true});
    r = request(230, 3);
    CHECK_PREFILL(w, r, NO_LIMIT, {0, 100, 0, true, false}, {100, 100, 0, true, false}, {200, 30, 0, true, true});
    r = request(330, 3);
    CHECK_PREFILL(w, r, NO_LIMIT, {0, 100, 0, true, false}, {100, 100, 0, true, false}, {200, 100, 0, true, false},
                  {300, 30, 0, true, true});
}

static void a_prompt_of_at_most_the_tail_is_one_chunk(void **state)
{
    struct kv_when w = {.at = KV_AT_CHUNK, .chunk = 10, .tail = 30, .every = 1};
    struct kv_request r = request(30, 3);
    CHECK_PREFILL(w, r, NO_LIMIT, {0, 30, 0, true, true});
    r = request(7, 3);
    CHECK_PREFILL(w, r, NO_LIMIT, {0, 7, 0, true, true});
    r = request(31, 3);
    CHECK_PREFILL(w, r, NO_LIMIT, {0, 1, 0, true, false}, {1, 30, 0, true, true});
}

static void a_tail_longer_than_a_chunk_is_not_cut(void **state)
{
    struct kv_when w = {.at = KV_AT_CHUNK, .chunk = 10, .tail = 25, .every = 1};
    struct kv_request r = request(45, 3);
    CHECK_PREFILL(w, r, NO_LIMIT, {0, 10, 0, true, false}, {10, 10, 0, true, false}, {20, 25, 0, true, true});
}

/* ---- the last prompt token ---- */

static void the_last_prompt_token_may_be_the_first_decode_step(void **state)
{
    struct passes *all = *state;
    struct kv_when w = {.at = KV_AT_CHUNK, .chunk = 100, .patch = 64, .every = 1};
    struct kv_request r = {.prompt = 201, .output = 3, .prefill = 200};
    CHECK_PREFILL(w, r, NO_LIMIT, {0, 100, 64, true, false}, {100, 100, 0, true, true});
    assert_int_equal(all->n, 5); /* the last prompt token and two of three outputs */
    for (int i = 2; i < 5; i++) {
        assert_int_equal(all->at[i].decode_step, i - 2);
        assert_int_equal(all->at[i].seen, 198 + i);
        assert_int_equal(all->at[i].n_new, 1);
    }
}

static void a_prompt_of_one_token_may_have_no_prefill(void **state)
{
    struct passes *all = *state;
    struct kv_when w = {.at = KV_AT_CHUNK, .chunk = 100, .every = 1};
    struct kv_request r = {.prompt = 1, .output = 2, .prefill = 0};
    enumerate(all, &w, &r, NO_LIMIT);
    assert_int_equal(all->n, 2);
    assert_int_equal(all->at[0].decode_step, 0);
    r.output = 0;
    enumerate(all, &w, &r, NO_LIMIT);
    assert_int_equal(all->n, 0);
}

/* ---- decoding ---- */

static void decode_steps_take_one_token_each(void **state)
{
    struct passes *all = *state;
    struct kv_when w = {.at = KV_AT_CHUNK, .chunk = 100, .patch = 64, .tail = 10, .every = 1};
    struct kv_request r = request(150, 5);
    enumerate(all, &w, &r, NO_LIMIT);
    assert_int_equal(all->n, 3 + 4);
    for (int i = 3; i < all->n; i++) {
        assert_int_equal(all->at[i].n_new, 1);
        assert_int_equal(all->at[i].n_patch, 0);
        assert_int_equal(all->at[i].decode_step, i - 3);
        assert_int_equal(all->at[i].seen, 150 + i - 3);
        assert_false(all->at[i].last);
        assert_false(all->at[i].evict);
        assert_int_equal(all->at[i].n_unit, i - 2); /* since the prefill's eviction */
    }
}

static void decoding_evicts_every_so_many_tokens(void **state)
{
    struct passes *all = *state;
    for (int64_t every = 1; every <= 6; every++) {
        struct kv_when w = {.at = KV_AT_POSTFILL | KV_AT_DECODE, .chunk = 10, .every = every};
        struct kv_request r = request(10, 20);
        enumerate(all, &w, &r, NO_LIMIT);
        assert_int_equal(all->n, 1 + 19);
        for (int i = 1; i < all->n; i++) {
            assert_int_equal(all->at[i].evict, i % every == 0); /* the i-th decoded token */
            if (all->at[i].evict)
                assert_int_equal(all->at[i].n_unit, every);
        }
    }
}

static void no_output_means_no_decoding(void **state)
{
    struct passes *all = *state;
    struct kv_when w = {.at = KV_AT_CHUNK | KV_AT_DECODE, .chunk = 100, .every = 1};
    for (int64_t output = 0; output <= 1; output++) { /* the first output comes of the prefill itself */
        struct kv_request r = request(250, output);
        enumerate(all, &w, &r, NO_LIMIT);
        assert_int_equal(all->n, 3);
        assert_true(all->at[2].last);
    }
}

/* ---- limits ---- */

static void a_limit_splits_a_chunk_and_its_end_evicts(void **state)
{
    struct kv_when w = {.at = KV_AT_CHUNK, .chunk = 100, .every = 1};
    struct kv_request r = request(150, 2);
    CHECK_PREFILL(w, r, 40, {0, 40, 0, false, false}, {40, 40, 0, false, false}, {80, 20, 0, true, false},
                  {100, 40, 0, false, false}, {140, 10, 0, true, true});
    w.at = KV_AT_POSTFILL;
    CHECK_PREFILL(w, r, 75, {0, 75, 0, false, false}, {75, 25, 0, false, false}, {100, 50, 0, true, true});
}

static void a_patch_comes_with_the_end_of_a_split_chunk(void **state)
{
    struct kv_when w = {.at = KV_AT_CHUNK, .chunk = 100, .patch = 30, .every = 1};
    struct kv_request r = request(150, 2);
    CHECK_PREFILL(w, r, 60, {0, 60, 0, false, false}, {60, 30, 0, false, false}, {90, 10, 30, true, false},
                  {100, 50, 0, true, true});
    CHECK_PREFILL(w, r, 100, {0, 70, 0, false, false}, {70, 30, 30, true, false}, {100, 50, 0, true, true});
    CHECK_PREFILL(w, r, 130, {0, 100, 30, true, false}, {100, 50, 0, true, true});
    CHECK_PREFILL(w, r, 129, {0, 99, 0, false, false}, {99, 1, 30, true, false}, {100, 50, 0, true, true});
}

static void the_tail_may_be_split(void **state)
{
    struct kv_when w = {.at = KV_AT_CHUNK, .chunk = 50, .tail = 30, .every = 1};
    struct kv_request r = request(80, 2);
    CHECK_PREFILL(w, r, 20, {0, 20, 0, false, false}, {20, 20, 0, false, false}, {40, 10, 0, true, false},
                  {50, 20, 0, false, false}, {70, 10, 0, true, true});
}

static void the_parts_of_a_split_tail_do_not_repeat(void **state)
{
    struct passes *all = *state;
    struct kv_when w = {.at = KV_AT_CHUNK, .chunk = 10, .tail = 20, .every = 1};
    struct kv_request r = request(45, 1);
    enumerate(all, &w, &r, 10);
    assert_int_equal(all->n, 5);
    assert_int_equal(all->at[3].n_new, 10); /* as long as a chunk, but not one */
    assert_int_equal(all->at[3].repeat, 1); /* the next one is the last and evicts */
    r = request(30, 1);
    enumerate(all, &w, &r, 10);
    assert_int_equal(all->n, 3);
    assert_int_equal(all->at[1].repeat, 1);
}

/* ---- any plan ---- */

static int64_t draw(uint64_t id, uint64_t n)
{
    return (int64_t)(kv_random(5, kv_purpose("plan"), id, 0) % n);
}

static void random_plan(uint64_t i, struct kv_when *w, struct kv_request *r, int64_t *limit)
{
    static const unsigned at[] = {
        0, KV_AT_CHUNK, KV_AT_POSTFILL, KV_AT_DECODE, KV_AT_CHUNK | KV_AT_DECODE, KV_AT_POSTFILL | KV_AT_DECODE};
    uint64_t id = 20 * i;
    *w = (struct kv_when){.at = at[draw(id, 6)],
                          .chunk = 1 + draw(id + 1, i % 3 ? 12 : 200),
                          .tail = draw(id + 2, 3) ? 0 : draw(id + 3, 40),
                          .patch = draw(id + 4, 2) ? 0 : draw(id + 5, 20),
                          .every = 1 + draw(id + 6, 5)};
    *r = request(1 + draw(id + 7, 150), draw(id + 8, 40));
    r->prefill -= draw(id + 9, 2);
    *limit = draw(id + 10, 3) ? w->patch + 1 + draw(id + 11, 30) : NO_LIMIT;
}

/* Where chunks may end: at multiples of the chunk before the tail, before the tail, and at the end. */
static bool ends_chunk(const struct kv_when *w, const struct kv_request *r, int64_t end)
{
    int64_t region = r->prefill > w->tail ? r->prefill - w->tail : 0;
    return end == r->prefill || (end <= region && (end % w->chunk == 0 || end == region));
}

static void every_plan_keeps_the_rules(void **state)
{
    struct passes *all = *state;
    for (uint64_t i = 0; i < 20000; i++) {
        struct kv_when w;
        struct kv_request r;
        int64_t limit;
        random_plan(i, &w, &r, &limit);
        enumerate(all, &w, &r, limit);
        int64_t last_end = 0;
        for (int j = 0; j < all->n; j++) {
            const struct kv_pass *p = &all->at[j];
            int64_t end = p->seen + p->n_new;
            bool prefill = p->seen < r.prefill, whole = prefill && ends_chunk(&w, &r, end);
            bool evict = prefill ? whole && (w.at & KV_AT_CHUNK || (w.at & KV_AT_POSTFILL && end == r.prefill))
                                 : w.at & KV_AT_DECODE && (end - r.prefill) % w.every == 0;
            bool patched = whole && w.at & KV_AT_CHUNK && end < r.prefill;
            int64_t patch = patched ? (w.patch < r.prefill ? w.patch : r.prefill) : 0;
            if (p->n_new < 1 || (prefill && (end > r.prefill || p->n_new + p->n_patch > limit)) ||
                p->last != (prefill && end == r.prefill) || p->evict != evict || p->n_patch != patch ||
                p->decode_step != (prefill ? -1 : p->seen - r.prefill) || (!prefill && p->n_new != 1))
                fail_msg("plan %llu, pass %d: seen %lld, new %lld, patch %lld (expected %lld), evict %d (%d), last %d",
                         (unsigned long long)i, j, (long long)p->seen, (long long)p->n_new, (long long)p->n_patch,
                         (long long)patch, p->evict, evict, p->last);
            for (int64_t inside = last_end + 1; prefill && inside < end; inside++)
                if (inside > p->seen && ends_chunk(&w, &r, inside))
                    fail_msg("plan %llu, pass %d goes past the end of a chunk at %lld", (unsigned long long)i, j,
                             (long long)inside);
            last_end = end;
        }
    }
}

/* Passes that `repeat` calls alike; what came before a run's first eviction may make that one's unit longer. */
static bool alike(const struct kv_pass *first, const struct kv_pass *p, int64_t j)
{
    bool units = !first->evict || first->decode_step >= 0 || p->n_unit == first->n_unit;
    return p->seen == first->seen + j * first->n_new && p->n_new == first->n_new && p->n_patch == first->n_patch &&
           p->evict == first->evict && p->last == first->last && units &&
           (first->decode_step < 0 ? p->decode_step == -1 : p->decode_step == first->decode_step + j);
}

static void passes_repeat_as_often_as_is_said(void **state)
{
    struct passes *all = *state;
    for (uint64_t i = 0; i < 20000; i++) {
        struct kv_when w;
        struct kv_request r;
        int64_t limit;
        random_plan(i, &w, &r, &limit);
        enumerate(all, &w, &r, limit);
        for (int j = 0; j < all->n; j++) {
            int64_t repeat = all->at[j].repeat;
            if (repeat < 1 || repeat > all->n - j)
                fail_msg("plan %llu, pass %d of %d is said to come %lld times", (unsigned long long)i, j, all->n,
                         (long long)repeat);
            for (int64_t k = 1; k < repeat; k++)
                if (!alike(&all->at[j], &all->at[j + k], k))
                    fail_msg("plan %llu: pass %d is said to come %lld times, but pass %lld differs",
                             (unsigned long long)i, j, (long long)repeat, (long long)(j + k));
        }
    }
}

static void whole_chunks_and_decode_steps_repeat_to_their_end(void **state)
{
    struct passes *all = *state;
    for (uint64_t i = 0; i < 20000; i++) {
        struct kv_when w;
        struct kv_request r;
        int64_t limit;
        random_plan(i, &w, &r, &limit);
        enumerate(all, &w, &r, NO_LIMIT);
        for (int j = 0; j < all->n; j++) {
            const struct kv_pass *p = &all->at[j], *next = p + p->repeat;
            bool more = j + p->repeat < all->n && (next->decode_step >= 0) == (p->decode_step >= 0);
            if (more && alike(p, next, p->repeat) && next->n_new == (p->decode_step < 0 ? w.chunk : 1))
                fail_msg("plan %llu: pass %d is said to come %lld times, but it goes on", (unsigned long long)i, j,
                         (long long)p->repeat);
        }
    }
}

static void long_requests_take_few_questions(void **state)
{
    (void)state;
    struct kv_when w = {.at = KV_AT_CHUNK | KV_AT_DECODE, .chunk = 512, .patch = 64, .every = 1};
    struct kv_request r = request(INT64_C(1) << 29, (INT64_C(1) << 29) - 1);
    int64_t seen = 0, questions = 0;
    for (struct kv_pass p; kv_pass_next(&w, &r, 0, seen, 0, NO_LIMIT, &p); questions++)
        seen += p.n_new * p.repeat;
    assert_int_equal(seen, kv_request_steps(&r));
    assert_int_equal(questions, 3); /* whole chunks, the last one, decode steps */
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(the_last_output_is_never_fed),
        TEST(chunks_start_at_multiples_and_the_last_is_the_remainder),
        TEST(an_exact_multiple_has_no_remainder),
        TEST(a_remainder_of_one_is_a_chunk),
        TEST(a_chunk_of_the_prompt_or_more_is_one_pass),
        TEST(eviction_waits_for_what_when_says),
        TEST(all_chunks_but_the_last_are_patched),
        TEST(a_patch_is_at_most_the_prompt),
        TEST(patches_come_with_eviction_only),
        TEST(the_tail_is_a_chunk_of_its_own),
        TEST(a_prompt_of_at_most_the_tail_is_one_chunk),
        TEST(a_tail_longer_than_a_chunk_is_not_cut),
        TEST(the_last_prompt_token_may_be_the_first_decode_step),
        TEST(a_prompt_of_one_token_may_have_no_prefill),
        TEST(decode_steps_take_one_token_each),
        TEST(decoding_evicts_every_so_many_tokens),
        TEST(no_output_means_no_decoding),
        TEST(a_limit_splits_a_chunk_and_its_end_evicts),
        TEST(a_patch_comes_with_the_end_of_a_split_chunk),
        TEST(the_tail_may_be_split),
        TEST(the_parts_of_a_split_tail_do_not_repeat),
        TEST(every_plan_keeps_the_rules),
        TEST(passes_repeat_as_often_as_is_said),
        TEST(whole_chunks_and_decode_steps_repeat_to_their_end),
        TEST(long_requests_take_few_questions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
