/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Memory of a run: zeroed, aligned, never overlapping, and refused when a user wants too much. */
#include "sim/core/arena.h"

#include <setjmp.h>
#include <stdalign.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
    struct kv_arena *a;
    struct kv_err e;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->a = kv_arena_open();
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    kv_arena_close(f->a);
    free(f);
    return 0;
}

static void check_zeroed(const unsigned char *p, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (p[i])
            fail_msg("byte %zu of %zu is %d, expected 0", i, bytes, p[i]);
}

static void memory_is_zeroed_and_aligned_for_any_type(void **state)
{
    struct fixture *f = *state;
    for (size_t bytes = 0; bytes < 3000; bytes++) {
        unsigned char *p = kv_alloc(f->a, bytes);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % alignof(max_align_t), 0);
        check_zeroed(p, bytes);
        memset(p, 0xa5, bytes); /* the next one must not see it */
    }
}

static void sizes_around_those_of_blocks_are_zeroed_and_aligned(void **state)
{
    struct fixture *f = *state;
    static const size_t around[] = {16 << 10, 64 << 10, 1 << 20};
    for (size_t i = 0; i < sizeof around / sizeof *around; i++)
        for (size_t bytes = around[i] - 40; bytes <= around[i] + 40; bytes++) {
            unsigned char *p = kv_alloc(f->a, bytes);
            assert_int_equal((uintptr_t)p % alignof(max_align_t), 0);
            check_zeroed(p, bytes);
            memset(p, 0xa5, bytes);
        }
}

static void many_blocks_never_overlap(void **state)
{
    struct fixture *f = *state;
    enum { N = 20000 };
    static struct {
        uint32_t *at;
        size_t n;
    } piece[N];
    uint32_t random = 1;
    for (uint32_t i = 0; i < N; i++) {
        random = random * 1664525 + 1013904223;
        size_t most = i % 1000 == 999 ? 50000 : i % 50 == 49 ? 3000 : 40; /* some have blocks of their own */
        piece[i].n = 1 + (random >> 8) % most;
        piece[i].at = KV_NEW_N(f->a, uint32_t, piece[i].n);
        for (size_t j = 0; j < piece[i].n; j++) {
            if (piece[i].at[j])
                fail_msg("piece %u is not zeroed", i);
            piece[i].at[j] = i + 1;
        }
    }
    for (uint32_t i = 0; i < N; i++)
        for (size_t j = 0; j < piece[i].n; j++)
            if (piece[i].at[j] != i + 1)
                fail_msg("piece %u holds what was written to piece %u", i, piece[i].at[j] - 1);
}

static void small_pieces_go_on_filling_a_block_behind_a_large_one(void **state)
{
    struct fixture *f = *state;
    char *first = kv_alloc(f->a, 16);
    kv_alloc(f->a, 1 << 20);
    char *second = kv_alloc(f->a, 16);
    assert_in_range((uintptr_t)second, (uintptr_t)first + 16, (uintptr_t)first + 64);
}

static void texts_are_copied(void **state)
{
    struct fixture *f = *state;
    char text[] = "llama";
    char *all = kv_copy_text(f->a, text), *part = kv_copy_part(f->a, text + 1, 2), *none = kv_copy_part(f->a, text, 0);
    text[1] = 'x';
    assert_string_equal(all, "llama");
    assert_string_equal(part, "la");
    assert_string_equal(none, "");
    assert_string_equal(kv_copy_text(f->a, ""), "");
}

static void texts_are_formatted_at_any_length(void **state)
{
    struct fixture *f = *state;
    assert_string_equal(kv_format(f->a, "%s:%d", "a.ini", 14), "a.ini:14");
    char *text = kv_format(f->a, "%0200000d|%s", 7, "end");
    assert_int_equal(strlen(text), 200004);
    assert_string_equal(text + 199999, "7|end");
}

static void items_a_user_sizes_are_zeroed(void **state)
{
    struct fixture *f = *state;
    int64_t *item = kv_alloc_many(f->a, 100000, sizeof *item, "items", &f->e);
    assert_non_null(item);
    check_zeroed((unsigned char *)item, 100000 * sizeof *item);
    assert_int_equal(f->e.n, 0);
}

static void no_items_are_no_error(void **state)
{
    struct fixture *f = *state;
    assert_non_null(kv_alloc_many(f->a, 0, 8, "items", &f->e));
    assert_non_null(kv_alloc_many(f->a, 8, 0, "items", &f->e));
    assert_int_equal(f->e.n, 0);
}

static void a_product_that_overflows_is_refused(void **state)
{
    struct fixture *f = *state;
    assert_null(kv_alloc_many(f->a, SIZE_MAX / 4, 8, "a head mask", &f->e));
    assert_int_equal(f->e.status, KV_ENV);
    assert_string_equal(f->e.text, "no memory for a head mask: 4611686018427387903 items of 8 bytes wanted");
}

static void more_than_half_of_all_addresses_is_refused(void **state)
{
    struct fixture *f = *state;
    assert_null(kv_alloc_many(f->a, SIZE_MAX, 1, "items", &f->e));
    assert_null(kv_alloc_many(f->a, SIZE_MAX - 31, 1, "items", &f->e));
    assert_null(kv_alloc_many(f->a, SIZE_MAX / 2 + 1, 1, "items", &f->e));
    assert_int_equal(f->e.n, 3);
    assert_int_equal(f->e.status, KV_ENV);
}

static void more_than_there_is_is_refused(void **state)
{
    struct fixture *f = *state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    print_message("# sanitizers stop the program at such a size\n");
    skip();
#endif
    assert_null(kv_alloc_many(f->a, (size_t)1 << 47, 1024, "lanes", &f->e));
    assert_int_equal(f->e.status, KV_ENV);
    assert_string_equal(f->e.text, "no memory for lanes: 140737488355328 items of 1024 bytes wanted");
    assert_non_null(kv_alloc_many(f->a, 10, 10, "lanes", &f->e)); /* the arena lives on */
}

static void a_size_of_our_own_choosing_stops_the_program_when_memory_is_out(void **state)
{
    struct fixture *f = *state;
    char said[256];
    int ends[2], status;
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        kv_alloc(f->a, SIZE_MAX - 7);
        _exit(0);
    }
    close(ends[1]);
    ssize_t n = read(ends[0], said, sizeof said - 1);
    said[n > 0 ? n : 0] = '\0';
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), KV_ENV);
    assert_string_equal(said, "out of memory: 18446744073709551608 bytes wanted\n");
}

static void two_arenas_are_independent(void **state)
{
    struct fixture *f = *state;
    struct kv_arena *other = kv_arena_open();
    char *here = kv_copy_text(f->a, "here");
    kv_copy_text(other, "there");
    kv_arena_close(other);
    assert_string_equal(here, "here");
}

static void closing_nothing_is_fine(void **state)
{
    (void)state;
    kv_arena_close(NULL);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(memory_is_zeroed_and_aligned_for_any_type),
        TEST(sizes_around_those_of_blocks_are_zeroed_and_aligned),
        TEST(many_blocks_never_overlap),
        TEST(small_pieces_go_on_filling_a_block_behind_a_large_one),
        TEST(texts_are_copied),
        TEST(texts_are_formatted_at_any_length),
        TEST(items_a_user_sizes_are_zeroed),
        TEST(no_items_are_no_error),
        TEST(a_product_that_overflows_is_refused),
        TEST(more_than_half_of_all_addresses_is_refused),
        TEST(more_than_there_is_is_refused),
        TEST(a_size_of_our_own_choosing_stops_the_program_when_memory_is_out),
        TEST(two_arenas_are_independent),
        TEST(closing_nothing_is_fine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
