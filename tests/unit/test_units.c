/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Every reader and printer of numbers: what is understood, what is refused and in which words. */
#include "sim/core/random.h"
#include "sim/core/units.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static int set_up(void **state)
{
    *state = kv_arena_open();
    return 0;
}

static int tear_down(void **state)
{
    kv_arena_close(*state);
    return 0;
}

/* ---- comparing ---- */

struct whole {
    const char *text;
    int64_t value;
};
struct real {
    const char *text;
    double value;
};
struct refusal {
    const char *text, *why;
};
typedef const char *read_whole(struct kv_arena *, const char *, int64_t *);
typedef const char *read_real(struct kv_arena *, const char *, double *);

static void check_wholes(struct kv_arena *a, read_whole *read, const struct whole *good, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int64_t value = -77;
        const char *why = read(a, good[i].text, &value);
        if (why || value != good[i].value)
            fail_msg("'%s' gives %lld, expected %lld (%s)", good[i].text, (long long)value, (long long)good[i].value,
                     why ? why : "understood");
    }
}

static void check_reals(struct kv_arena *a, read_real *read, const struct real *good, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double value = -77;
        const char *why = read(a, good[i].text, &value);
        if (why || value != good[i].value)
            fail_msg("'%s' gives %.17g, expected %.17g (%s)", good[i].text, value, good[i].value,
                     why ? why : "understood");
    }
}

static void check_why(const struct refusal *bad, const char *why)
{
    if (!why || strcmp(why, bad->why))
        fail_msg("'%s' is refused with\n  %s\nexpected\n  %s", bad->text, why ? why : "(understood)", bad->why);
}

static void check_whole_refusals(struct kv_arena *a, read_whole *read, const struct refusal *bad, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int64_t value = -77;
        check_why(&bad[i], read(a, bad[i].text, &value));
        assert_int_equal(value, -77); /* left alone */
    }
}

static void check_real_refusals(struct kv_arena *a, read_real *read, const struct refusal *bad, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double value = -77;
        check_why(&bad[i], read(a, bad[i].text, &value));
        assert_true(value == -77);
    }
}

#define N(table) table, sizeof table / sizeof *table

/* ---- counts ---- */

static void counts_are_read(void **state)
{
    static const struct whole good[] = {
        {"0", 0},
        {"4096", 4096},
        {"+5", 5},
        {"-5", -5},
        {"007", 7},
        {"128Ki", 131072},
        {"1Mi", 1048576},
        {"2Gi", 2147483648},
        {"-3Ki", -3072},
        {"9223372036854775807", INT64_MAX},
        {"-9223372036854775807", -INT64_MAX},
        {"9007199254740991Ki", INT64_MAX - 1023},
    };
    check_wholes(*state, kv_read_count, N(good));
}

static void ambiguous_counts_are_refused(void **state)
{
    static const struct refusal bad[] = {
        {"128k", "'128k': write 128000 or 131072 (k is ambiguous)"},
        {"128K", "'128K': write 128000 or 131072 (K is ambiguous)"},
        {"1m", "'1m': write 1000000 or 1048576 (m is ambiguous)"},
        {"1M", "'1M': write 1000000 or 1048576 (M is ambiguous)"},
        {"2g", "'2g': write 2000000000 or 2147483648 (g is ambiguous)"},
        {"16G", "'16G': write 16000000000 or 17179869184 (G is ambiguous)"},
    };
    check_whole_refusals(*state, kv_read_count, N(bad));
}

static void an_ambiguous_negative_count_keeps_its_sign(void **state)
{
    static const struct refusal bad[] = {{"-5k", "'-5k': write -5000 or -5120 (k is ambiguous)"}};
    check_whole_refusals(*state, kv_read_count, N(bad));
}

static void what_is_no_count_is_refused(void **state)
{
    static const struct refusal bad[] = {
        {"", "has no value"},
        {"many", "'many' is not a whole number"},
        {"1.5", "'1.5' is not a whole number"},
        {"1e3", "'1e3' is not a whole number"},
        {"0x10", "'0x10' is not a whole number"},
        {"1,000", "'1,000' is not a whole number"},
        {"--1", "'--1' is not a whole number"},
        {"-", "'-' is not a whole number"},
        {" 1", "' 1' is not a whole number"},
        {"1 ", "'1 ' is not a whole number"},
        {"64 tokens", "'64 tokens' is not a whole number"},
        {"128ki", "'128ki' is not a whole number"},
        {"128KiB", "'128KiB' is not a whole number"},
        {"128kB", "'128kB' is not a whole number"},
        {"inf", "'inf' is not a whole number"},
        {"nan", "'nan' is not a whole number"},
        {"2 # fast", "'2 # fast': '#' does not start a comment here, use ' ;'"},
        {"2#", "'2#': '#' does not start a comment here, use ' ;'"},
        {"2Ki # fast", "'2Ki # fast': '#' does not start a comment here, use ' ;'"},
        {"#2", "'#2': '#' does not start a comment here, use ' ;'"},
        {"9223372036854775808", "'9223372036854775808' is too large"},
        {"99999999999999999999", "'99999999999999999999' is too large"},
        {"18446744073709551616", "'18446744073709551616' is too large"}, /* 0 modulo 2^64 */
        {"-99999999999999999999", "'-99999999999999999999' is too large"},
        {"9007199254740992Ki", "'9007199254740992Ki' is too large"},
        {"9223372036854775807k", "'9223372036854775807k' is too large"},
        {"99999999999999999999k", "'99999999999999999999k' is too large"},
        {"99999999999999999999 # x", "'99999999999999999999 # x': '#' does not start a comment here, use ' ;'"},
    };
    check_whole_refusals(*state, kv_read_count, N(bad));
}

/* ---- bytes ---- */

static void bytes_are_read(void **state)
{
    static const struct whole good[] = {
        {"80 GiB", 85899345920},
        {"80GiB", 85899345920},
        {"80\tGiB", 85899345920},
        {"512 MB", 512000000},
        {"64 B", 64},
        {"0 B", 0},
        {"1.5 KiB", 1536},
        {"0.5 B", 0}, /* to even */
        {"1 kB", 1000},
        {"1 KB", 1000},
        {"3 MiB", 3145728},
        {"7 GB", 7000000000},
        {"1 TiB", 1099511627776},
        {"2 TB", 2000000000000},
        {"1 PiB", 1125899906842624},
        {"1 PB", 1000000000000000},
        {"1e3 B", 1000},
        {".5 KiB", 512},
        {"8191 PiB", 8191 * (INT64_C(1) << 50)},
        {"-1 KiB", -1024}, /* ranges are the schema's business */
    };
    check_wholes(*state, kv_read_bytes, N(good));
}

static void what_is_no_size_is_refused(void **state)
{
    static const struct refusal bad[] = {
        {"", "has no value"},
        {"GiB", "'GiB' is not a number with a unit, as in '80 GiB'"},
        {"80", "'80' has no unit: write it as in '80 GiB'"},
        {"80 ", "'80 ' has no unit: write it as in '80 GiB'"},
        {"16 G", "'16 G': unit 'G' is not one of 'B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'kB', 'KB', 'MB', 'GB', 'TB', "
                 "'PB'"},
        {"16 gib", "'16 gib': unit 'gib' is not one of 'B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'kB', 'KB', 'MB', 'GB', "
                   "'TB', 'PB'"},
        {"1 GiB/s", "'1 GiB/s': unit 'GiB/s' is not one of 'B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'kB', 'KB', 'MB', "
                    "'GB', 'TB', 'PB'"},
        {"1 000 B", "'1 000 B': unit '000 B' is not one of 'B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'kB', 'KB', 'MB', "
                    "'GB', 'TB', 'PB'"},
        {"0x10 B", "'0x10 B' is not a number with a unit, as in '80 GiB'"},
        {"inf B", "'inf B' is not a number with a unit, as in '80 GiB'"},
        {". B", "'. B' is not a number with a unit, as in '80 GiB'"},
        {"1e300 GiB", "'1e300 GiB' is too large"},
        {"1e999 B", "'1e999 B' is too large"},
        {"8192 PiB", "'8192 PiB' is too large"},
        {"-8192 PiB", "'-8192 PiB' is too large"}, /* that number means unset */
        {"99999999999999999999 B", "'99999999999999999999 B' is too large"},
        {"80 # x", "'80 # x': '#' does not start a comment here, use ' ;'"},
        {"# 80 GiB", "'# 80 GiB': '#' does not start a comment here, use ' ;'"},
    };
    check_whole_refusals(*state, kv_read_bytes, N(bad));
}

static void a_comment_sign_behind_the_unit_is_explained(void **state)
{
    static const struct refusal bad[] = {
        {"80 GiB # x", "'80 GiB # x': '#' does not start a comment here, use ' ;'"},
        {"80 GiB#", "'80 GiB#': '#' does not start a comment here, use ' ;'"},
    };
    check_whole_refusals(*state, kv_read_bytes, N(bad));
}

/* ---- times, rates, bandwidths, operations ---- */

static void times_are_read(void **state)
{
    static const struct real good[] = {
        {"30 ms", 30 * 1e-3}, {"1.5 s", 1.5},    {"2 h", 7200}, {"90 min", 5400}, {"1 d", 86400},
        {"5 us", 5 * 1e-6},   {"7ns", 7 * 1e-9}, {"0 s", 0},    {"-1 s", -1},     {"1e2 s", 100},
    };
    check_reals(*state, kv_read_seconds, N(good));
}

static void what_is_no_time_is_refused(void **state)
{
    static const struct refusal bad[] = {
        {"", "has no value"},
        {"30", "'30' has no unit: write it as in '30 s'"},
        {"5 m", "'5 m': unit 'm' is not one of 'ns', 'us', 'ms', 's', 'min', 'h', 'd'"},
        {"5 sec", "'5 sec': unit 'sec' is not one of 'ns', 'us', 'ms', 's', 'min', 'h', 'd'"},
        {"soon", "'soon' is not a number with a unit, as in '30 s'"},
        {"30 # s", "'30 # s': '#' does not start a comment here, use ' ;'"},
        {"1e999 s", "'1e999 s' is too large"},
    };
    check_real_refusals(*state, kv_read_seconds, N(bad));
}

static void rates_are_read(void **state)
{
    static const struct real good[] = {
        {"12 /s", 12}, {"12/s", 12}, {"120 /min", 120 * (1.0 / 60)}, {"3600 /h", 1}, {"0.5 /s", 0.5}, {"86400 /d", 1},
    };
    check_reals(*state, kv_read_rate, N(good));
}

static void what_is_no_rate_is_refused(void **state)
{
    static const struct refusal bad[] = {
        {"", "has no value"},
        {"12", "'12' has no unit: write it as in '12 /s'"},
        {"12 s", "'12 s': unit 's' is not one of '/s', '/min', '/h', '/d'"},
        {"12 per s", "'12 per s': unit 'per s' is not one of '/s', '/min', '/h', '/d'"},
        {"12 # x", "'12 # x': '#' does not start a comment here, use ' ;'"},
    };
    check_real_refusals(*state, kv_read_rate, N(bad));
}

static void bandwidths_are_read(void **state)
{
    static const struct real good[] = {
        {"4.8 TB/s", 4.8 * 1e12}, {"900 GB/s", 900e9}, {"1 GiB/s", 1073741824}, {"1 B/s", 1},
        {"2 kB/s", 2000},         {"2 KB/s", 2000},    {"3 MB/s", 3e6},         {"1 KiB/s", 1024},
        {"1 MiB/s", 1048576},     {"1 TiB/s", 0x1p40},
    };
    check_reals(*state, kv_read_bandwidth, N(good));
}

static void what_is_no_bandwidth_is_refused(void **state)
{
    static const struct refusal bad[] = {
        {"4.8", "'4.8' has no unit: write it as in '4.8 TB/s'"},
        {"4.8 TB", "'4.8 TB': unit 'TB' is not one of 'B/s', 'KB/s', 'kB/s', 'MB/s', 'GB/s', 'TB/s', 'KiB/s', 'MiB/s', "
                   "'GiB/s', 'TiB/s'"},
        {"100 Gb/s", "'100 Gb/s': unit 'Gb/s' is not one of 'B/s', 'KB/s', 'kB/s', 'MB/s', 'GB/s', 'TB/s', 'KiB/s', "
                     "'MiB/s', 'GiB/s', 'TiB/s'"},
        {"", "has no value"},
    };
    check_real_refusals(*state, kv_read_bandwidth, N(bad));
}

static void operations_are_read(void **state)
{
    static const struct real good[] = {
        {"989 TFLOP/s", 989e12}, {"1 PFLOP/s", 1e15}, {"5 GFLOP/s", 5e9}, {"6 MFLOP/s", 6e6}, {"7 FLOP/s", 7},
    };
    check_reals(*state, kv_read_flops, N(good));
}

static void what_are_no_operations_is_refused(void **state)
{
    static const struct refusal bad[] = {
        {"989", "'989' has no unit: write it as in '989 TFLOP/s'"},
        {"989 TFLOPS",
         "'989 TFLOPS': unit 'TFLOPS' is not one of 'FLOP/s', 'MFLOP/s', 'GFLOP/s', 'TFLOP/s', 'PFLOP/s'"},
        {"", "has no value"},
    };
    check_real_refusals(*state, kv_read_flops, N(bad));
}

static void a_number_that_its_unit_makes_infinite_is_refused(void **state)
{
    struct kv_arena *a = *state;
    static const struct refusal time = {"1e308 d", "'1e308 d' is too large"},
                                bandwidth = {"1e300 TB/s", "'1e300 TB/s' is too large"},
                                flops = {"1e300 PFLOP/s", "'1e300 PFLOP/s' is too large"};
    check_real_refusals(a, kv_read_seconds, &time, 1);
    check_real_refusals(a, kv_read_bandwidth, &bandwidth, 1);
    check_real_refusals(a, kv_read_flops, &flops, 1);
}

/* ---- shares, reals, bools ---- */

static void shares_are_read(void **state)
{
    static const struct real good[] = {
        {"30 %", 0.3}, {"30%", 0.3},      {"0.3", 0.3},  {"0", 0},        {"1", 1},       {"100 %", 1},
        {"0 %", 0},    {"36.5 %", 0.365}, {"1 %", 0.01}, {"1e-3", 0.001}, {"57 %", 0.57}, {"7 %", 0.07},
    };
    check_reals(*state, kv_read_share, N(good));
}

static void what_is_no_share_is_refused(void **state)
{
    static const struct refusal bad[] = {
        {"", "has no value"},
        {"30", "'30' is outside 0 .. 1: write '30 %' or a fraction"},
        {"1.5", "'1.5' is outside 0 .. 1: write '1.5 %' or a fraction"},
        {"100", "'100' is outside 0 .. 1: write '100 %' or a fraction"},
        {"101 %", "'101 %' is outside 0 % .. 100 %"},
        {"101", "'101' is outside 0 % .. 100 %"},
        {"-0.1", "'-0.1' is outside 0 % .. 100 %"},
        {"-1 %", "'-1 %' is outside 0 % .. 100 %"},
        {"1e999", "'1e999' is outside 0 % .. 100 %"},
        {"third", "'third' is not a share, as in '30 %' or '0.3'"},
        {"30 percent", "'30 percent' is not a share, as in '30 %' or '0.3'"},
        {"30 %%", "'30 %%' is not a share, as in '30 %' or '0.3'"},
        {"nan", "'nan' is not a share, as in '30 %' or '0.3'"},
        {"0.3 # x", "'0.3 # x': '#' does not start a comment here, use ' ;'"},
        {"30 % # x", "'30 % # x': '#' does not start a comment here, use ' ;'"},
    };
    check_real_refusals(*state, kv_read_share, N(bad));
}

static void reals_are_read(void **state)
{
    static const struct real good[] = {
        {"0.1", 0.1},       {"-2.5", -2.5}, {"1e9", 1e9}, {"+4", 4}, {"1.7976931348623157e308", 1.7976931348623157e308},
        {"5e-324", 5e-324},
    };
    check_reals(*state, kv_read_real, N(good));
}

static void what_is_no_real_is_refused(void **state)
{
    static const struct refusal bad[] = {
        {"", "has no value"},
        {"x", "'x' is not a number"},
        {"1.5 s", "'1.5 s' is not a number"},
        {"1 ", "'1 ' is not a number"},
        {"0x1p3", "'0x1p3' is not a number"},
        {"-0x1p3", "'-0x1p3' is not a number"},
        {"inf", "'inf' is not a number"},
        {"-inf", "'-inf' is not a number"},
        {"nan", "'nan' is not a number"},
        {"1e400", "'1e400' is too large"},
        {"-1e400", "'-1e400' is too large"},
        {"1 # one", "'1 # one': '#' does not start a comment here, use ' ;'"},
    };
    check_real_refusals(*state, kv_read_real, N(bad));
}

static void bools_are_read(void **state)
{
    struct kv_arena *a = *state;
    static const char *const yes[] = {"true", "yes", "on"}, *const no[] = {"false", "no", "off"};
    for (int i = 0; i < 3; i++) {
        bool value = false;
        assert_null(kv_read_bool(a, yes[i], &value));
        assert_true(value);
        assert_null(kv_read_bool(a, no[i], &value));
        assert_false(value);
    }
}

static void what_is_no_bool_is_refused(void **state)
{
    static const struct refusal bad[] = {
        {"", "has no value"},
        {"1", "'1' is not 'true' or 'false'"},
        {"True", "'True' is not 'true' or 'false'"},
        {"true # x", "'true # x': '#' does not start a comment here, use ' ;'"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        bool value = true;
        check_why(&bad[i], kv_read_bool(*state, bad[i].text, &value));
        assert_true(value);
    }
}

/* ---- printers ---- */

static void bytes_are_printed(void **state)
{
    (void)state;
    char text[KV_NUMBER_TEXT];
    assert_string_equal(kv_print_bytes(text, 0), "0 B");
    assert_string_equal(kv_print_bytes(text, 1023), "1023 B");
    assert_string_equal(kv_print_bytes(text, 1536), "1.50 KiB");
    assert_string_equal(kv_print_bytes(text, 16106127360), "15.00 GiB");
    assert_string_equal(kv_print_bytes(text, 42949672960), "40.00 GiB");
    assert_string_equal(kv_print_bytes(text, -1048576), "-1.00 MiB");
    assert_string_equal(kv_print_bytes(text, INT64_MAX), "8.00 EiB");
    assert_string_equal(kv_print_bytes(text, INT64_MIN), "-8.00 EiB");
    assert_ptr_equal(kv_print_bytes(text, 1), text);
}

static void counts_are_printed(void **state)
{
    (void)state;
    char text[KV_NUMBER_TEXT];
    assert_string_equal(kv_print_count(text, 0), "0");
    assert_string_equal(kv_print_count(text, 999), "999");
    assert_string_equal(kv_print_count(text, 1000), "1,000");
    assert_string_equal(kv_print_count(text, 131072), "131,072");
    assert_string_equal(kv_print_count(text, 12345678), "12,345,678");
    assert_string_equal(kv_print_count(text, -123), "-123");
    assert_string_equal(kv_print_count(text, -123456), "-123,456");
    assert_string_equal(kv_print_count(text, INT64_MAX), "9,223,372,036,854,775,807");
    assert_string_equal(kv_print_count(text, INT64_MIN), "-9,223,372,036,854,775,808");
}

static void shares_are_printed(void **state)
{
    (void)state;
    char text[KV_NUMBER_TEXT];
    assert_string_equal(kv_print_share(text, 0), "0.0 %");
    assert_string_equal(kv_print_share(text, 0.365), "36.5 %");
    assert_string_equal(kv_print_share(text, 1), "100.0 %");
    assert_string_equal(kv_print_share(text, 1.0313), "103.1 %");
}

static void reals_are_printed_shortest(void **state)
{
    (void)state;
    static const struct real known[] = {
        {"0.1", 0.1},
        {"1.0", 1.0},
        {"0.0", 0.0},
        {"-1.0", -1.0},
        {"0.3784485450226647", 0.3784485450226647},
        {"0.30000000000000004", 0.1 + 0.2},
        {"0.3333333333333333", 1.0 / 3},
        {"0.6666666666666666", 2.0 / 3},
        {"131072.0", 131072},
        {"123456.789", 123456.789},
        {"9007199254740992.0", 0x1p53},
        {"1e+300", 1e300},
        {"1.7976931348623157e+308", 1.7976931348623157e308},
        {"2.2250738585072014e-308", 2.2250738585072014e-308},
        {"1e-07", 1e-7},
    };
    char text[KV_NUMBER_TEXT];
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        assert_string_equal(kv_print_real(text, known[i].value), known[i].text);
    assert_string_equal(kv_print_real(text, -0.0), "-0.0");
}

static void subnormals_are_printed_shortest(void **state)
{
    (void)state;
    char text[KV_NUMBER_TEXT];
    assert_string_equal(kv_print_real(text, 5e-324), "5e-324");
    assert_string_equal(kv_print_real(text, 1e-310), "1e-310");
    assert_string_equal(kv_print_real(text, 1.5e-320), "1.5e-320");
}

static void printed_reals_read_back(void **state)
{
    struct kv_arena *a = *state;
    char text[KV_NUMBER_TEXT];
    for (uint64_t i = 0; i < 40000; i++) {
        uint64_t bits = kv_random(1, kv_purpose("units"), i % 4, i);
        if (i % 4 == 1)
            bits &= ~(UINT64_C(0x7ff) << 52); /* subnormal */
        else if (i % 4 == 2)
            bits = (bits & UINT64_C(0x800fffffffffffff)) | (1023 + bits % 60) << 52; /* whole or nearly */
        double value, back = NAN;
        memcpy(&value, &bits, sizeof value);
        if (i % 4 == 3)
            value = kv_uniform(bits);
        if (!isfinite(value))
            continue;
        const char *why = kv_read_real(a, kv_print_real(text, value), &back);
        if (why || memcmp(&back, &value, sizeof value))
            fail_msg("%a is printed as %s, which reads back as %a", value, text, back);
        if (strlen(text) >= 25)
            fail_msg("%a is printed as %s", value, text);
        if (!strpbrk(text, ".e"))
            fail_msg("%a is printed as %s, which looks like a count", value, text);
    }
}

static void decimals_of_few_digits_are_printed_as_they_were(void **state)
{
    (void)state;
    char text[KV_NUMBER_TEXT], wanted[KV_NUMBER_TEXT];
    for (uint64_t i = 0; i < 20000; i++) {
        uint64_t number = kv_random(2, 0, 0, i) % 1000000000000000; /* 15 digits always survive */
        snprintf(wanted, sizeof wanted, "0.%015llu", (unsigned long long)number);
        double value = strtod(wanted, NULL);
        size_t length = strlen(wanted);
        while (wanted[length - 1] == '0' && wanted[length - 2] != '.')
            wanted[--length] = '\0';
        if (value >= 1e-4)
            assert_string_equal(kv_print_real(text, value), wanted);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(counts_are_read),
        TEST(ambiguous_counts_are_refused),
        TEST(an_ambiguous_negative_count_keeps_its_sign),
        TEST(what_is_no_count_is_refused),
        TEST(bytes_are_read),
        TEST(what_is_no_size_is_refused),
        TEST(a_comment_sign_behind_the_unit_is_explained),
        TEST(times_are_read),
        TEST(what_is_no_time_is_refused),
        TEST(rates_are_read),
        TEST(what_is_no_rate_is_refused),
        TEST(bandwidths_are_read),
        TEST(what_is_no_bandwidth_is_refused),
        TEST(operations_are_read),
        TEST(what_are_no_operations_is_refused),
        TEST(a_number_that_its_unit_makes_infinite_is_refused),
        TEST(shares_are_read),
        TEST(what_is_no_share_is_refused),
        TEST(reals_are_read),
        TEST(what_is_no_real_is_refused),
        TEST(bools_are_read),
        TEST(what_is_no_bool_is_refused),
        TEST(bytes_are_printed),
        TEST(counts_are_printed),
        TEST(shares_are_printed),
        TEST(reals_are_printed_shortest),
        TEST(subnormals_are_printed_shortest),
        TEST(printed_reals_read_back),
        TEST(decimals_of_few_digits_are_printed_as_they_were),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
