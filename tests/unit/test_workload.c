/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Workloads: files read exactly or refused with their place, draws that have the moments they should, sessions. */
#include "sim/workload/workload.h"

#include "sim/core/random.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
    struct kv_arena *arena;
    struct kv_err e;
    struct kv_settings s;
    struct kv_workload *w;
    int file;
};

static int set_up(void **state)
{
    struct fixture *f = *state = calloc(1, sizeof *f);
    f->arena = kv_arena_open();
    f->file = -1;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    kv_workload_close(f->w);
    if (f->file >= 0)
        close(f->file);
    kv_arena_close(f->arena);
    free(f);
    return 0;
}

/* The settings of a config whose [workload] has these lines. */
static void configure(struct fixture *f, const char *workload)
{
    int file = memfd_create("config", 0);
    assert_true(file >= 0);
    dprintf(file, "[model]\nname = Llama-3.1-8B\n[workload]\n%s\n", workload);
    f->e = (struct kv_err){0};
    bool good = kv_settings_read(kv_format(f->arena, "/proc/self/fd/%d", file), NULL, 0, &f->s, f->arena, &f->e);
    if (!good)
        fail_msg("%s", f->e.text);
    f->s.path = "plan.ini";
    close(file);
}

static bool open_drawn(struct fixture *f, const char *workload, uint64_t seed)
{
    kv_workload_close(f->w);
    configure(f, workload);
    return kv_workload_open(&f->w, &f->s, seed, f->arena, &f->e);
}

static bool open_bytes(struct fixture *f, const void *bytes, size_t n, const char *workload)
{
    kv_workload_close(f->w);
    f->w = NULL;
    if (f->file >= 0)
        close(f->file);
    f->file = memfd_create("trace", 0);
    assert_int_equal(write(f->file, bytes, n), n);
    configure(f, workload);
    f->s.workload.trace = kv_format(f->arena, "/proc/self/fd/%d", f->file);
    return kv_workload_open(&f->w, &f->s, 1, f->arena, &f->e);
}

static bool open_text(struct fixture *f, const char *text, const char *workload)
{
    return open_bytes(f, text, strlen(text), workload);
}

static void check_next(struct fixture *f, double arrival_s, int64_t prompt, int64_t output)
{
    struct kv_arrival r;
    enum kv_next next = kv_workload_next(f->w, &r, &f->e);
    if (next != KV_NEXT_ROW)
        fail_msg("expected a request, got %s: %s", next == KV_NEXT_END ? "the end" : "an error", f->e.text);
    if (fabs(r.arrival_s - arrival_s) > 1e-12 * fabs(arrival_s) || r.prompt != prompt || r.output != output)
        fail_msg("expected %.12g s, %lld, %lld; got %.12g s, %lld, %lld", arrival_s, (long long)prompt,
                 (long long)output, r.arrival_s, (long long)r.prompt, (long long)r.output);
}

static void check_end(struct fixture *f)
{
    struct kv_arrival r;
    enum kv_next next = kv_workload_next(f->w, &r, &f->e);
    if (next != KV_NEXT_END)
        fail_msg("expected the end, got %s: %s", next == KV_NEXT_ROW ? "a request" : "an error", f->e.text);
}

/* The message without the path before it. */
static void check_message(struct fixture *f, const char *expected)
{
    const char *got = f->e.text, *path = f->s.workload.trace;
    if (path && !strncmp(got, path, strlen(path)))
        got += strlen(path);
    assert_string_equal(got, expected);
}

static void check_bad(struct fixture *f, const char *message)
{
    struct kv_arrival r;
    f->e = (struct kv_err){0};
    enum kv_next next = kv_workload_next(f->w, &r, &f->e);
    if (next != KV_NEXT_BAD)
        fail_msg("expected an error, got %s", next == KV_NEXT_ROW ? "a request" : "the end");
    assert_int_equal(f->e.status, KV_DATA);
    check_message(f, message);
}

/* ---- files ---- */

static void azure_of_2023_is_read_exactly(void **state)
{
    struct fixture *f = *state;
    assert_true(open_text(f,
                          "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
                          "2023-11-16 23:59:59.6805900,374,44\r\n"
                          "2023-11-17 00:00:00.0000000,396,109\r\n"
                          "2023-11-17 00:00:00.0000001,7,1",
                          ""));
    check_next(f, 0, 374, 44);
    check_next(f, 0.31941, 396, 109);
    check_next(f, 0.3194101, 7, 1);
    check_end(f);
    check_end(f);
}

static void azure_of_2024_is_read_exactly(void **state)
{
    struct fixture *f = *state;
    assert_true(open_text(f,
                          "TIMESTAMP,ContextTokens,GeneratedTokens\n"
                          "2024-02-28 23:59:59.999999+00:00,2162,5\n"
                          "2024-02-29 00:00:00+00:00,2399,6\n"
                          "2024-03-01 02:00:00.5+02:00,1,1\n",
                          ""));
    check_next(f, 0, 2162, 5);
    check_next(f, 0.000001, 2399, 6);
    check_next(f, 86400.500001, 1, 1);
    check_end(f);
}

static void plain_csv_is_bound_by_its_header(void **state)
{
    struct fixture *f = *state;
    assert_true(open_text(f,
                          "note,output_tokens,\"prompt_tokens\",arrival_s\n"
                          "\"a, \"\"b\"\"\", 5 ,100,0.25\n"
                          "\n"
                          ",7,200,1.000000001",
                          ""));
    check_next(f, 0.25, 100, 5);
    check_next(f, 1.000000001, 200, 7);
    check_end(f);
}

static void rows_out_of_order_are_refused(void **state)
{
    struct fixture *f = *state;
    assert_true(open_text(f, "arrival_s,prompt_tokens,output_tokens\n1,1,1\n0.5,1,1\n", "skip_bad = true"));
    check_next(f, 1, 1, 1);
    check_bad(f, kv_format(f->arena,
                           ":3:1: arrives 0.5 s before the row above it; sort the file: kvsim workload convert %s "
                           "sorted.csv --sort",
                           f->s.workload.trace));
}

/* ---- draws ---- */

struct moments {
    double n, mean, cv;
};

static struct moments gaps(struct fixture *f)
{
    struct kv_arrival r;
    double last = 0, n = 0, sum = 0, square = 0;
    while (kv_workload_next(f->w, &r, &f->e) == KV_NEXT_ROW) {
        double gap = r.arrival_s - last;
        assert_true(gap >= 0);
        last = r.arrival_s;
        n++;
        sum += gap;
        square += gap * gap;
    }
    double mean = sum / n;
    return (struct moments){n, mean, sqrt(square / n - mean * mean) / mean};
}

/* 20,000 exponential gaps: the mean's standard error is 1/141 of it, the cv's about 1/141; five of them are allowed. */
static void poisson_gaps_have_their_moments(void **state)
{
    struct fixture *f = *state;
    assert_true(open_drawn(f, "arrivals = poisson\nrate = 4 /s\nrequests = 20000", 7));
    struct moments m = gaps(f);
    assert_true(m.n == 20000);
    assert_true(fabs(m.mean * 4 - 1) < 5 / sqrt(20000));
    assert_true(fabs(m.cv - 1) < 5 / sqrt(20000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(azure_of_2023_is_read_exactly, set_up, tear_down),
        cmocka_unit_test_setup_teardown(azure_of_2024_is_read_exactly, set_up, tear_down),
        cmocka_unit_test_setup_teardown(plain_csv_is_bound_by_its_header, set_up, tear_down),
        cmocka_unit_test_setup_teardown(rows_out_of_order_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(poisson_gaps_have_their_moments, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
