/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Files of requests: read exactly, or refused with their place. */
#include "sim/workload/format.h"
#include "tests/unit/workload_case.h"

#include <zlib.h>
#include <zstd.h>

/* ---- files ---- */

struct row {
    double arrival_s;
    int64_t prompt, output;
};

static void check_rows(struct fixture *f, const char *file, const struct row *row, int n)
{
    assert_true(open_text(f, file, ""));
    for (int i = 0; i < n; i++)
        check_next(f, row[i].arrival_s, row[i].prompt, row[i].output);
    check_end(f);
    check_end(f);
}

static void azure_of_2023_is_read_exactly(void **state)
{
    static const struct row rows[] = {{0, 374, 44}, {0.31941, 396, 109}, {0.3194101, 7, 1}};
    check_rows(*state,
               "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
               "2023-11-16 23:59:59.6805900,374,44\r\n"
               "2023-11-17 00:00:00.0000000,396,109\r\n"
               "2023-11-17 00:00:00.0000001,7,1",
               rows, 3);
}

static void azure_of_2024_is_read_exactly(void **state)
{
    static const struct row rows[] = {{0, 2162, 5}, {0.000001, 2399, 6}, {86400.500001, 1, 1}};
    check_rows(*state,
               "TIMESTAMP,ContextTokens,GeneratedTokens\n"
               "2024-02-28 23:59:59.999999+00:00,2162,5\n"
               "2024-02-29 00:00:00+00:00,2399,6\n"
               "2024-03-01 02:00:00.5+02:00,1,1\n",
               rows, 3);
}

static void plain_csv_is_bound_by_its_header(void **state)
{
    static const struct row rows[] = {{0.25, 100, 5}, {1.000000001, 200, 7}};
    check_rows(*state,
               "note,output_tokens,\"prompt_tokens\",arrival_s\n"
               "\"a, \"\"b\"\"\", 5 ,100,0.25\n"
               "\n"
               ",7,200,1.000000001",
               rows, 2);
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

static void bad_cells_are_said_with_their_place(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *row, *message;
    } known[] = {
        {"0,12a4,1", ":2:3: prompt_tokens '12a4' is not a whole number"},
        {"0,-5,1", ":2:3: prompt_tokens '-5' is negative"},
        {"0,1,", ":2:5: output_tokens '' is not a whole number"},
        {"0,1,99999999999999999999999", ":2:5: output_tokens '99999999999999999999999' is too large"},
        {"0,1.5,1", ":2:3: prompt_tokens '1.5' is not a whole number"},
        {"0,0,1",
         ":2:3: prompt_tokens '0' is no request; leave such rows out with --skip-bad, or [workload] skip_bad = true"},
        {"0,1,0", ":2:5: output_tokens '0' is no answer (a request that failed?); leave such rows out with --skip-bad, "
                  "or [workload] skip_bad = true"},
        {"nan,1,1", ":2:1: arrival_s 'nan' is not a number"},
        {"inf,1,1", ":2:1: arrival_s 'inf' is not a number"},
        {"-1,1,1", ":2:1: arrival_s '-1' is negative"},
        {"1e99,1,1", ":2:1: arrival_s '1e99' is not a number, or is too large; times are at most 4e9 s"},
        {"99999999999,1,1", ":2:1: arrival_s '99999999999' is too large; times are at most 4e9 s"},
        {"2023-13-01 00:00:00,1,1",
         ":2:1: arrival_s '2023-13-01 00:00:00' is no date and time; write 2023-11-16 18:15:46.6805900, or seconds"},
        {"2023-12-01 00:61:00,1,1",
         ":2:1: arrival_s '2023-12-01 00:61:00' is no date and time; write 2023-11-16 18:15:46.6805900, or seconds"},
        {"1,1", ":2:3: 2 cells, but the header names 3 columns"},
        {"1,1,1,1", ":2:5: 4 cells, but the header names 3 columns"},
        {"\"1,1,1", ":2:1: a quote is not closed"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        check_refused(f, kv_format(f->arena, HEADER "%s\n9,1,1\n", known[i].row), "", known[i].message);
}

static void reading_goes_on_behind_a_bad_row(void **state)
{
    struct fixture *f = *state;
    assert_true(open_text(f, HEADER "0,1,1\n1,x,1\n2,2,2\n3,1,y\n", ""));
    check_next(f, 0, 1, 1);
    check_bad(f, ":3:3: prompt_tokens 'x' is not a whole number");
    check_next(f, 2, 2, 2);
    check_bad(f, ":5:5: output_tokens 'y' is not a whole number");
    check_end(f);
    assert_true(open_text(f, HEADER "0,1,1\n1,x,1\n2,2,2\n3,1,y\n", "skip_bad = true"));
    check_next(f, 0, 1, 1);
    check_next(f, 2, 2, 2);
    check_end(f);
    assert_int_equal(kv_workload_skipped(f->w), 2);
}

static void bad_headers_are_refused(void **state)
{
    struct fixture *f = *state;
    check_refused(f, "", "", ":1: the file is empty; expected a header line, or JSON");
    check_refused(f, "\n", "",
                  ":1:1: no column of prompt lengths; name it prompt_tokens (or input_tokens, ContextTokens, 'Request "
                  "tokens', ...)");
    check_refused(f, "arrival_s,prompt_tokens\n1,1\n", "",
                  ":1:1: no column of output lengths; name it output_tokens (or GeneratedTokens, 'Response tokens', "
                  "...)");
    check_refused(
        f, "prompt_tokens,output_tokens\n1,1\n", "",
        ":1: no times of arrival (a column arrival_s, timestamp, ...); give them, or set [workload] arrivals and rate");
    check_refused(f, "arrival_s,prompt_tokens,output_tokens,input_tokens\n", "",
                  ":1:39: columns 'prompt_tokens' and 'input_tokens' say the same; rename one");
    check_refused(f, HEADER, "format = azure",
                  ":1:1: not the header of azure, which has TIMESTAMP,ContextTokens,GeneratedTokens; write format = "
                  "auto");
    check_refused(f, "arrival_s,prompt_tokens,output_tokens,hashes\n", "",
                  ":1:1: hashes of how many tokens each? add a column block_tokens, or set [workload] block_tokens");
}

static void text_without_end_and_nuls_are_refused(void **state)
{
    struct fixture *f = *state;
    static const char nul[] = HEADER "0,1,1\n1,\0,1\n2,2,2\n";
    assert_true(open_bytes(f, nul, sizeof nul - 1, ""));
    check_next(f, 0, 1, 1);
    check_bad(f, ":3:1: not a line of text");
    check_next(f, 2, 2, 2);
    size_t n = (size_t)20 << 20;
    char *long_line = malloc(n);
    assert_non_null(long_line);
    memset(long_line, '1', n);
    memcpy(long_line, HEADER, strlen(HEADER));
    assert_true(open_bytes(f, long_line, n, "skip_bad = true"));
    check_bad(f, ":2: a line without end, of more than 16 MiB; this is no text file of requests");
    check_end(f);
    free(long_line);
}

static void burstgpt_is_read_and_its_failures_are_errors(void **state)
{
    struct fixture *f = *state;
    static const char text[] = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
                               "5,ChatGPT,472,18,490,Conversation log\n"
                               "45,ChatGPT,1087,0,1087,Conversation log\n"
                               "118,GPT-4,417,276,693,API log\n";
    assert_true(open_text(f, text, ""));
    assert_string_equal(kv_workload_format(f->w), "burstgpt");
    check_next(f, 5, 472, 18);
    check_bad(f, ":3:17: Response tokens '0' is no answer (a request that failed?); leave such rows out with "
                 "--skip-bad, or [workload] skip_bad = true");
    check_next(f, 118, 417, 276);
    check_end(f);
}

static void sessions_of_a_file_are_told(void **state)
{
    struct fixture *f = *state;
    struct kv_arrival r;
    assert_true(
        open_text(f,
                  "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
                  "5,17,1.5,ChatGPT,472,18,490,Conversation log\n"
                  "6,abc,1.5,ChatGPT,472,18,490,Conversation log\n"
                  "7,,1.5,ChatGPT,472,18,490,Conversation log\n",
                  ""));
    assert_int_equal(kv_workload_next(f->w, &r, &f->e), KV_NEXT_ROW);
    assert_int_equal(r.session, 17);
    assert_int_equal(kv_workload_next(f->w, &r, &f->e), KV_NEXT_ROW);
    assert_true(r.session > INT32_MAX);
    assert_int_equal(kv_workload_next(f->w, &r, &f->e), KV_NEXT_ROW);
    assert_true(r.session == KV_UNSET);
}

/* ---- compressed files ---- */

static size_t gzip(const char *text, size_t n, unsigned char *out, size_t room)
{
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (unsigned char *)(uintptr_t)text;
    z.avail_in = (uInt)n;
    z.next_out = out;
    z.avail_out = (uInt)room;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return room - z.avail_out;
}

static void gzip_and_zstd_are_read_through(void **state)
{
    struct fixture *f = *state;
    static const char first[] = HEADER "0,1,1\n0.5,", second[] = "2,3\n";
    unsigned char packed[1024];
    size_t n = gzip(first, sizeof first - 1, packed, sizeof packed);
    n += gzip(second, sizeof second - 1, packed + n, sizeof packed - n); /* two members are one file */
    assert_true(open_bytes(f, packed, n, ""));
    check_next(f, 0, 1, 1);
    check_next(f, 0.5, 2, 3);
    check_end(f);
    assert_true(kv_workload_rewind(f->w, &f->e));
    check_next(f, 0, 1, 1);
    check_next(f, 0.5, 2, 3);
    check_end(f);
    n = ZSTD_compress(packed, sizeof packed, first, sizeof first - 1, 3);
    n += ZSTD_compress(packed + n, sizeof packed - n, second, sizeof second - 1, 3);
    assert_true(open_bytes(f, packed, n, ""));
    check_next(f, 0, 1, 1);
    check_next(f, 0.5, 2, 3);
    check_end(f);
}

static void damaged_archives_are_refused(void **state)
{
    struct fixture *f = *state;
    unsigned char packed[1024];
    static const char text[] = HEADER "0,1,1\n0.5,2,3\n";
    for (int zstd = 0; zstd < 2; zstd++) {
        size_t n = zstd ? ZSTD_compress(packed, sizeof packed, text, sizeof text - 1, 3)
                        : gzip(text, sizeof text - 1, packed, sizeof packed);
        struct kv_arrival r;
        bool bad = !open_bytes(f, packed, n - 6, "skip_bad = true");
        for (enum kv_next next = KV_NEXT_ROW; !bad && next != KV_NEXT_END;) {
            next = kv_workload_next(f->w, &r, &f->e);
            bad = next == KV_NEXT_BAD;
        }
        assert_true(bad);
        assert_int_equal(f->e.status, KV_DATA);
        assert_non_null(strstr(f->e.text, "cannot read '"));
        assert_non_null(strstr(f->e.text, "it is cut short"));
    }
}

static void many_lines_cross_the_buffers(void **state)
{
    struct fixture *f = *state;
    enum { ROWS = 50000 };
    char *text = malloc((size_t)ROWS * 40), *end = text;
    unsigned char *packed = malloc((size_t)ROWS * 40);
    assert_true(text && packed);
    end += sprintf(end, HEADER);
    for (int i = 0; i < ROWS; i++)
        end += sprintf(end, "%d.%03d,%d,%d%s", i / 7, i % 7, i % 5000 + 1, i % 300 + 1, i + 1 < ROWS ? "\r\n" : "");
    size_t n = (size_t)(end - text);
    for (int packing = 0; packing < 3; packing++) {
        size_t size = packing == 0   ? n
                      : packing == 1 ? gzip(text, n, packed, (size_t)ROWS * 40)
                                     : ZSTD_compress(packed, (size_t)ROWS * 40, text, n, 3);
        assert_true(open_bytes(f, packing ? (char *)packed : text, size, ""));
        for (int i = 0; i < ROWS; i++)
            check_next(f, i / 7 + (i % 7) / 1000.0, i % 5000 + 1, i % 300 + 1);
        check_end(f);
    }
    free(text);
    free(packed);
}

/* ---- what is done with rows ---- */

static void rows_are_scaled_and_cut(void **state)
{
    struct fixture *f = *state;
    static const char text[] = HEADER "0,10,10\n1,100,1\n2,1000,3\n3,7,7\n4,1,1\n";
    assert_true(open_text(f, text, "rate_scale = 2\ncontext_scale = 1.5\noutput_scale = 0.1"));
    check_next(f, 0, 15, 1);
    check_next(f, 0.5, 150, 1);
    check_next(f, 1, 1500, 1);
    assert_true(open_text(f, text, "from = 1 s\nduration = 1 s\nrate_scale = 2"));
    check_next(f, 0, 100, 1);
    check_next(f, 0.5, 1000, 3);
    check_end(f);
    assert_true(open_text(f, text, "requests = 2"));
    check_next(f, 0, 10, 10);
    check_next(f, 1, 100, 1);
    check_end(f);
}

static void sorting_puts_rows_in_order_and_keeps_equals(void **state)
{
    struct fixture *f = *state;
    assert_true(open_text(f,
                          "arrival_s,prompt_tokens,output_tokens,block_tokens,hashes\n"
                          "2,1,1,4,7\n1,5,2,4,8 9\n1,3,3,4,1\nx,3,3,4,1\n0.5,4,4,4,18446744073709551615\n",
                          "skip_bad = true"));
    assert_true(kv_workload_sort(f->w, &f->e));
    static const uint64_t blocks[] = {8, 9};
    check_next(f, 0.5, 4, 4);
    check_blocks(f, 2, blocks, 4);
    check_next(f, 1, 3, 3);
    check_next(f, 2, 1, 1);
    check_end(f);
    assert_int_equal(kv_workload_skipped(f->w), 1);
}

static void a_trace_may_arrive_otherwise(void **state)
{
    struct fixture *f = *state;
    struct kv_arrival r;
    assert_true(open_text(f, "prompt_tokens,output_tokens\n5,6\n7,8\n", "arrivals = poisson\nrate = 1 /s"));
    assert_int_equal(kv_workload_next(f->w, &r, &f->e), KV_NEXT_ROW);
    assert_true(r.arrival_s > 0 && r.prompt == 5 && r.output == 6);
}

/* ---- numbers ---- */

static void decimals_are_exact(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t unit_ns, ns;
    } known[] = {
        {"0", 1000000000, 0},
        {"1", 1000000000, 1000000000},
        {"0.1", 1000000000, 100000000},
        {".5", 1000000000, 500000000},
        {"5.", 1000000000, 5000000000},
        {"1700000000.123456789", 1000000000, 1700000000123456789},
        {"0.0000000004", 1000000000, 0},
        {"0.0000000005", 1000000000, 1},
        {"0.12345678951", 1000000000, 123456790},
        {"3999999999.999999999", 1000000000, 3999999999999999999},
        {"27000", 1000000, 27000000000},
        {"0.0015", 1000000, 1500},
        {"46926808", 1, 46926808},
        {"1.5", 1, 2},
        {"1e-3", 1000000000, 1000000},
        {"-0", 1000000000, 0},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        int64_t ns = -1;
        const char *why = kv_decimal_ns(known[i].text, strlen(known[i].text), known[i].unit_ns, &ns);
        if (why || ns != known[i].ns)
            fail_msg("'%s' in units of %lld ns: %s, %lld; expected %lld", known[i].text, (long long)known[i].unit_ns,
                     why ? why : "read", (long long)ns, (long long)known[i].ns);
    }
    static const char *const bad[] = {"", "-", ".", "1 2", "0x10", "1,5", "1.2.3", "--1", "1e", "e5", "+1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int64_t ns;
        if (!kv_decimal_ns(bad[i], strlen(bad[i]), 1000000000, &ns))
            fail_msg("'%s' was read as a time", bad[i]);
    }
}

static void dates_are_exact(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t ns;
    } known[] = {
        {"1971-01-01 00:00:00", INT64_C(365) * 86400 * 1000000000},
        {"2023-11-16 18:15:46.6805900", 1700158546680590000},
        {"2023-11-16T18:15:46.6805900Z", 1700158546680590000},
        {"2024-05-10 00:00:00.009930+00:00", 1715299200009930000},
        {"2024-05-10 02:00:00.009930+02:00", 1715299200009930000},
        {"2024-05-09 17:00:00.009930-0700", 1715299200009930000},
        {"2024-02-29 00:00:00+00", 1709164800000000000},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        int64_t ns = -1;
        if (!kv_stamp_read(known[i].text, strlen(known[i].text), &ns) || ns != known[i].ns)
            fail_msg("'%s': %lld, expected %lld", known[i].text, (long long)ns, (long long)known[i].ns);
    }
    static const char *const bad[] = {
        "2023-02-29 00:00:00",   "2023-11-16",          "2023-11-16 24:00:00",  "2023-11-16 18:15:46.",
        "2023-11-16 18:15:46+1", "1969-01-01 00:00:00", "2023-11-16 18:15:46 x"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int64_t ns;
        if (kv_stamp_read(bad[i], strlen(bad[i]), &ns))
            fail_msg("'%s' was read as a date", bad[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(azure_of_2023_is_read_exactly, set_up, tear_down),
        cmocka_unit_test_setup_teardown(azure_of_2024_is_read_exactly, set_up, tear_down),
        cmocka_unit_test_setup_teardown(plain_csv_is_bound_by_its_header, set_up, tear_down),
        cmocka_unit_test_setup_teardown(rows_out_of_order_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bad_cells_are_said_with_their_place, set_up, tear_down),
        cmocka_unit_test_setup_teardown(reading_goes_on_behind_a_bad_row, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bad_headers_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(text_without_end_and_nuls_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(burstgpt_is_read_and_its_failures_are_errors, set_up, tear_down),
        cmocka_unit_test_setup_teardown(sessions_of_a_file_are_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(gzip_and_zstd_are_read_through, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damaged_archives_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(many_lines_cross_the_buffers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(rows_are_scaled_and_cut, set_up, tear_down),
        cmocka_unit_test_setup_teardown(sorting_puts_rows_in_order_and_keeps_equals, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_trace_may_arrive_otherwise, set_up, tear_down),
        cmocka_unit_test_setup_teardown(decimals_are_exact, set_up, tear_down),
        cmocka_unit_test_setup_teardown(dates_are_exact, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
