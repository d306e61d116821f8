/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Tables of keys bound to a struct: every type, its default, its range, its text, and the nearest known word. */
#include "sim/core/schema.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A struct with one of each, away from offset 0 and with members between that no field may touch. */
struct thing {
    int64_t untouched;
    const char *text;
    bool flag;
    char between[3];
    int64_t count, bytes;
    double real, share, seconds, rate, bandwidth, flops;
    int choice;
    int between_too;
    struct kv_counts counts;
    struct kv_texts texts;
};

static const char *const colours[] = {"auto", "red", "green", "blue", NULL};

#define AT(member) offsetof(struct thing, member)
static const struct kv_field fields[] = {
    {.key = "text", .type = KV_T_TEXT, .offset = AT(text), .also = "words, name"},
    {.key = "flag", .type = KV_T_BOOL, .offset = AT(flag), .def = "true"},
    {.key = "count",
     .type = KV_T_COUNT,
     .offset = AT(count),
     .def = "16",
     .min = 1,
     .max = 4096,
     .also = "block_count"},
    {.key = "bytes", .type = KV_T_BYTES, .offset = AT(bytes), .def = "80 GiB", .min = 1024, .max = 0x1p50},
    {.key = "real", .type = KV_T_REAL, .offset = AT(real), .def = "0.5", .min = -2, .max = 2},
    {.key = "share", .type = KV_T_SHARE, .offset = AT(share), .def = "30 %"},
    {.key = "seconds", .type = KV_T_SECONDS, .offset = AT(seconds), .def = "30 ms", .min = 0, .max = 86400},
    {.key = "rate", .type = KV_T_RATE, .offset = AT(rate), .def = "12 /s"},
    {.key = "bandwidth", .type = KV_T_BANDWIDTH, .offset = AT(bandwidth), .def = "4.8 TB/s"},
    {.key = "flops", .type = KV_T_FLOPS, .offset = AT(flops), .def = "989 TFLOP/s"},
    {.key = "choice", .type = KV_T_CHOICE, .offset = AT(choice), .def = "green", .choices = colours},
    {.key = "counts", .type = KV_T_COUNTS, .offset = AT(counts), .def = "1, 2Ki", .min = 1, .max = 9999},
    {.key = "texts", .type = KV_T_TEXTS, .offset = AT(texts), .def = "full, duo:keep=0.5"},
};
enum { N_FIELDS = sizeof fields / sizeof *fields };

/* The same keys, all unset by default. */
static struct kv_field unset_fields[N_FIELDS];

struct fixture {
    struct kv_arena *a;
    struct kv_err e;
    struct thing thing;
    struct kv_bind bind;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->a = kv_arena_open();
    memset(&f->thing, 0x5a, sizeof f->thing);
    f->bind = (struct kv_bind){.field = fields, .n = N_FIELDS, .base = &f->thing};
    memcpy(unset_fields, fields, sizeof fields);
    for (int i = 0; i < N_FIELDS; i++)
        unset_fields[i].def = i % 2 ? "auto" : NULL;
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

static struct kv_setting said(const char *key, const char *value)
{
    return (struct kv_setting){.key = key, .value = value, .where = "a.ini:7: [thing]", .origin = "a.ini:7"};
}

static bool bind_one(struct fixture *f, const char *key, const char *value)
{
    struct kv_setting s = said(key, value);
    memset(&f->e, 0, sizeof f->e);
    return kv_bind(&f->bind, 1, NULL, 0, &s, 1, f->a, &f->e);
}

static void must_bind(struct fixture *f, const char *key, const char *value)
{
    if (!bind_one(f, key, value))
        fail_msg("%s", f->e.text);
}

static void must_refuse(struct fixture *f, const char *key, const char *value, const char *expected)
{
    if (bind_one(f, key, value))
        fail_msg("%s = %s is taken", key, value);
    assert_string_equal(f->e.text, expected);
    assert_int_equal(f->e.status, KV_USAGE);
}

static int place(const char *key)
{
    for (int i = 0; i < N_FIELDS; i++)
        if (!strcmp(fields[i].key, key))
            return i;
    fail_msg("no field %s", key);
    return -1;
}

static void check_real(double got, double expected)
{
    if (got != expected)
        fail_msg("%.17g, expected %.17g", got, expected);
}

/* ---- binding ---- */

static void defaults_are_put_in(void **state)
{
    struct fixture *f = *state;
    assert_true(kv_bind(&f->bind, 1, NULL, 0, NULL, 0, f->a, &f->e));
    assert_null(f->thing.text);
    assert_true(f->thing.flag);
    assert_int_equal(f->thing.count, 16);
    assert_int_equal(f->thing.bytes, INT64_C(80) << 30);
    check_real(f->thing.real, 0.5);
    check_real(f->thing.share, 0.3);
    check_real(f->thing.seconds, 30 * 1e-3);
    check_real(f->thing.rate, 12);
    check_real(f->thing.bandwidth, 4.8 * 1e12);
    check_real(f->thing.flops, 989e12);
    assert_int_equal(f->thing.choice, 2);
    assert_int_equal(f->thing.counts.n, 2);
    assert_int_equal(f->thing.counts.at[0], 1);
    assert_int_equal(f->thing.counts.at[1], 2048);
    assert_int_equal(f->thing.texts.n, 2);
    assert_string_equal(f->thing.texts.at[0], "full");
    assert_string_equal(f->thing.texts.at[1], "duo:keep=0.5");
    for (int i = 0; i < N_FIELDS; i++)
        assert_string_equal(f->bind.origin[i], "default");
}

static void nothing_between_the_fields_is_touched(void **state)
{
    struct fixture *f = *state;
    must_bind(f, "flag", "false");
    assert_int_equal(f->thing.untouched, 0x5a5a5a5a5a5a5a5a);
    assert_memory_equal(f->thing.between, "ZZZ", 3);
    assert_int_equal(f->thing.between_too, 0x5a5a5a5a);
}

static void fields_without_default_are_unset(void **state)
{
    struct fixture *f = *state;
    f->bind.field = unset_fields;
    assert_true(kv_bind(&f->bind, 1, NULL, 0, NULL, 0, f->a, &f->e));
    assert_null(f->thing.text);
    assert_false(f->thing.flag);
    assert_int_equal(f->thing.count, KV_UNSET);
    assert_int_equal(f->thing.bytes, KV_UNSET);
    assert_true(isnan(f->thing.real));
    assert_true(isnan(f->thing.share));
    assert_true(isnan(f->thing.seconds));
    assert_true(isnan(f->thing.rate));
    assert_true(isnan(f->thing.bandwidth));
    assert_true(isnan(f->thing.flops));
    assert_int_equal(f->thing.choice, 0);
    assert_int_equal(f->thing.counts.n, 0);
    assert_int_equal(f->thing.texts.n, 0);
    for (int i = 0; i < N_FIELDS; i++) {
        bool always = fields[i].type == KV_T_BOOL || fields[i].type == KV_T_CHOICE;
        if (kv_field_is_set(&unset_fields[i], &f->thing) != always)
            fail_msg("%s is %s", fields[i].key, always ? "unset" : "set");
        if (!always)
            assert_string_equal(kv_field_text(&unset_fields[i], &f->thing, f->a), "auto");
    }
}

static void settings_are_put_in_with_their_origin(void **state)
{
    struct fixture *f = *state;
    struct kv_setting s[] = {
        said("text", "hello there"), said("flag", "no"),         said("count", "4Ki"),   said("bytes", "512 MB"),
        said("real", "-2"),          said("share", "0.25"),      said("seconds", "2 h"), said("rate", "60 /min"),
        said("bandwidth", "1 GB/s"), said("flops", "1 PFLOP/s"), said("choice", "blue"), said("counts", " 3 ,4,5 "),
        said("texts", "a b,  c"),
    };
    assert_true(kv_bind(&f->bind, 1, NULL, 0, s, N_FIELDS, f->a, &f->e));
    assert_string_equal(f->thing.text, "hello there");
    assert_false(f->thing.flag);
    assert_int_equal(f->thing.count, 4096);
    assert_int_equal(f->thing.bytes, 512000000);
    check_real(f->thing.real, -2);
    check_real(f->thing.share, 0.25);
    check_real(f->thing.seconds, 7200);
    check_real(f->thing.rate, 60 * (1.0 / 60));
    check_real(f->thing.bandwidth, 1e9);
    check_real(f->thing.flops, 1e15);
    assert_int_equal(f->thing.choice, 3);
    assert_int_equal(f->thing.counts.n, 3);
    assert_int_equal(f->thing.counts.at[2], 5);
    assert_int_equal(f->thing.texts.n, 2);
    assert_string_equal(f->thing.texts.at[0], "a b");
    assert_string_equal(f->thing.texts.at[1], "c");
    for (int i = 0; i < N_FIELDS; i++)
        assert_string_equal(f->bind.origin[i], "a.ini:7");
}

static void auto_unsets_where_nothing_else_is_the_default(void **state)
{
    struct fixture *f = *state;
    f->bind.field = unset_fields;
    must_bind(f, "count", "auto");
    assert_int_equal(f->thing.count, KV_UNSET);
    must_bind(f, "share", "auto");
    assert_true(isnan(f->thing.share));
    must_bind(f, "choice", "auto");
    assert_int_equal(f->thing.choice, 0);
    f->bind.field = fields;
    must_refuse(f, "count", "auto", "a.ini:7: [thing] count: 'auto' is not a whole number");
    must_bind(f, "choice", "auto"); /* a word of its own */
    assert_int_equal(f->thing.choice, 0);
}

static void a_preset_comes_before_the_user(void **state)
{
    struct fixture *f = *state;
    struct kv_setting preset[] = {said("count", "7"), said("share", "0.7")}, own[] = {said("share", "0.9")};
    preset[0].origin = preset[1].origin = "kind duo";
    assert_true(kv_bind(&f->bind, 1, preset, 2, own, 1, f->a, &f->e));
    assert_int_equal(f->thing.count, 7);
    assert_string_equal(f->bind.origin[place("count")], "kind duo");
    check_real(f->thing.share, 0.9);
    assert_string_equal(f->bind.origin[place("share")], "a.ini:7");
    assert_string_equal(f->bind.origin[place("real")], "default");
}

static void a_later_setting_wins(void **state)
{
    struct fixture *f = *state;
    struct kv_setting s[] = {said("count", "7"), said("count", "8")};
    s[1].origin = "--set";
    assert_true(kv_bind(&f->bind, 1, NULL, 0, s, 2, f->a, &f->e));
    assert_int_equal(f->thing.count, 8);
    assert_string_equal(f->bind.origin[place("count")], "--set");
}

static void several_tables_are_one_set_of_keys(void **state)
{
    struct fixture *f = *state;
    static const struct kv_field more[] = {{.key = "depth", .type = KV_T_COUNT, .def = "3"}};
    int64_t depth = 0;
    struct kv_bind bind[] = {{.field = fields, .n = N_FIELDS, .base = &f->thing},
                             {.field = more, .n = 1, .base = &depth}};
    struct kv_setting s[] = {said("depth", "5"), said("count", "6"), said("dept", "7")};
    assert_false(kv_bind(bind, 2, NULL, 0, s, 3, f->a, &f->e));
    assert_string_equal(f->e.text, "a.ini:7: [thing] unknown key 'dept'; did you mean 'depth'?");
    assert_int_equal(depth, 5);
    assert_int_equal(f->thing.count, 6);
    assert_string_equal(bind[1].origin[0], "a.ini:7");
}

static void private_notes_are_left_alone(void **state)
{
    struct fixture *f = *state;
    must_bind(f, "x_why", "because");
    must_refuse(f, "xwhy", "because",
                "a.ini:7: [thing] unknown key 'xwhy'; known: text, flag, count, bytes, real, share, "
                "seconds, rate, bandwidth, flops, choice, counts, texts");
}

/* ---- what is refused ---- */

static void wrong_units_are_refused(void **state)
{
    struct fixture *f = *state;
    must_refuse(f, "count", "128k", "a.ini:7: [thing] count: '128k': write 128000 or 131072 (k is ambiguous)");
    must_refuse(f, "bytes", "80", "a.ini:7: [thing] bytes: '80' has no unit: write it as in '80 GiB'");
    must_refuse(f, "seconds", "30", "a.ini:7: [thing] seconds: '30' has no unit: write it as in '30 s'");
    must_refuse(f, "rate", "12", "a.ini:7: [thing] rate: '12' has no unit: write it as in '12 /s'");
    must_refuse(f, "bandwidth", "4 TB",
                "a.ini:7: [thing] bandwidth: '4 TB': unit 'TB' is not one of 'B/s', 'KB/s', 'kB/s', 'MB/s', 'GB/s', "
                "'TB/s', 'KiB/s', 'MiB/s', 'GiB/s', 'TiB/s'");
    must_refuse(f, "flops", "9", "a.ini:7: [thing] flops: '9' has no unit: write it as in '989 TFLOP/s'");
    must_refuse(f, "share", "30", "a.ini:7: [thing] share: '30' is outside 0 .. 1: write '30 %' or a fraction");
    must_refuse(f, "real", "x", "a.ini:7: [thing] real: 'x' is not a number");
    must_refuse(f, "flag", "maybe", "a.ini:7: [thing] flag: 'maybe' is not 'true' or 'false'");
}

static void an_empty_value_is_refused(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < N_FIELDS; i++)
        must_refuse(f, fields[i].key, "", kv_format(f->a, "a.ini:7: [thing] %s: has no value", fields[i].key));
}

static void values_out_of_range_are_refused(void **state)
{
    struct fixture *f = *state;
    must_bind(f, "count", "1");
    must_bind(f, "count", "4096");
    must_refuse(f, "count", "0", "a.ini:7: [thing] count: '0' is outside 1 .. 4096");
    must_refuse(f, "count", "4097", "a.ini:7: [thing] count: '4097' is outside 1 .. 4096");
    must_refuse(f, "count", "-5", "a.ini:7: [thing] count: '-5' is negative");
    must_bind(f, "bytes", "1 KiB");
    must_bind(f, "bytes", "1 PiB");
    must_refuse(f, "bytes", "1023 B", "a.ini:7: [thing] bytes: '1023 B' is outside 1.00 KiB .. 1.00 PiB");
    must_refuse(f, "bytes", "2 PiB", "a.ini:7: [thing] bytes: '2 PiB' is outside 1.00 KiB .. 1.00 PiB");
    must_refuse(f, "bytes", "-1 KiB", "a.ini:7: [thing] bytes: '-1 KiB' is negative");
    must_bind(f, "real", "-2");
    must_refuse(f, "real", "-2.5", "a.ini:7: [thing] real: '-2.5' is outside -2 .. 2");
    must_refuse(f, "real", "2.5", "a.ini:7: [thing] real: '2.5' is outside -2 .. 2");
    must_refuse(f, "seconds", "2 d", "a.ini:7: [thing] seconds: '2 d' is outside 0 .. 86400");
    must_refuse(f, "seconds", "-1 s", "a.ini:7: [thing] seconds: '-1 s' is negative");
    must_refuse(f, "counts", "1, 0, 3", "a.ini:7: [thing] counts: '0' is outside 1 .. 9999");
    must_refuse(f, "counts", "1, x", "a.ini:7: [thing] counts: 'x' is not a whole number");
}

static void a_refused_value_leaves_the_default(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *key, *value;
    } bad[] = {{"count", "5000"},  {"bytes", "1 B"},   {"real", "9"},   {"share", "7"},
               {"seconds", "3 d"}, {"choice", "pink"}, {"counts", "0"}, {"flag", "ja"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_false(bind_one(f, bad[i].key, bad[i].value));
        struct thing other;
        struct kv_bind plain = {.field = fields, .n = N_FIELDS, .base = &other};
        assert_true(kv_bind(&plain, 1, NULL, 0, NULL, 0, f->a, &(struct kv_err){0}));
        const struct kv_field *field = &fields[place(bad[i].key)];
        assert_string_equal(kv_field_text(field, &f->thing, f->a), kv_field_text(field, &other, f->a));
    }
}

static void unknown_keys_get_the_nearest_known_one(void **state)
{
    struct fixture *f = *state;
    must_refuse(f, "cuont", "3", "a.ini:7: [thing] unknown key 'cuont'; did you mean 'count'?");
    must_refuse(f, "band_width", "3", "a.ini:7: [thing] unknown key 'band_width'; did you mean 'bandwidth'?");
    must_refuse(f, "Seconds", "3", "a.ini:7: [thing] unknown key 'Seconds'; did you mean 'seconds'?");
    must_refuse(f, "", "3",
                "a.ini:7: [thing] unknown key ''; known: text, flag, count, bytes, real, share, seconds, rate, "
                "bandwidth, flops, choice, counts, texts");
}

static void unknown_keys_get_the_one_that_others_call_so(void **state)
{
    struct fixture *f = *state;
    must_refuse(f, "block_count", "3", "a.ini:7: [thing] unknown key 'block_count'; did you mean 'count'?");
    must_refuse(f, "name", "3", "a.ini:7: [thing] unknown key 'name'; did you mean 'text'?");
    must_refuse(f, "words", "3", "a.ini:7: [thing] unknown key 'words'; did you mean 'text'?");
}

static void unknown_choices_get_the_nearest_or_all(void **state)
{
    struct fixture *f = *state;
    must_refuse(f, "choice", "grene", "a.ini:7: [thing] choice: 'grene' is not known; did you mean 'green'?");
    must_refuse(f, "choice", "Blue", "a.ini:7: [thing] choice: 'Blue' is not known; did you mean 'blue'?");
    must_refuse(f, "choice", "purple", "a.ini:7: [thing] choice: 'purple' is none of auto, red, green, blue");
}

static void a_single_value_is_not_continued(void **state)
{
    struct fixture *f = *state;
    struct kv_setting s = said("count", "1, 2");
    s.continued = true;
    assert_false(kv_bind(&f->bind, 1, NULL, 0, &s, 1, f->a, &f->e));
    assert_string_equal(f->e.text, "a.ini:7: [thing] 'count' takes one value, and an indented line below continues it");
    s = said("text", "one, two");
    s.continued = true;
    assert_false(kv_bind(&f->bind, 1, NULL, 0, &s, 1, f->a, &f->e));
    memset(&f->e, 0, sizeof f->e);
    s = said("counts", "1, 2, 3");
    s.continued = true;
    assert_true(kv_bind(&f->bind, 1, NULL, 0, &s, 1, f->a, &f->e));
    assert_int_equal(f->thing.counts.n, 3);
    s = said("texts", ", a, b"); /* a key without value, continued below */
    s.continued = true;
    assert_true(kv_bind(&f->bind, 1, NULL, 0, &s, 1, f->a, &f->e));
    assert_int_equal(f->thing.texts.n, 2);
}

static void all_mistakes_are_said_at_once(void **state)
{
    struct fixture *f = *state;
    struct kv_setting s[] = {said("count", "0"), said("bytse", "1"), said("flag", "x"), said("real", "1")};
    assert_false(kv_bind(&f->bind, 1, NULL, 0, s, 4, f->a, &f->e));
    assert_string_equal(f->e.text, "a.ini:7: [thing] count: '0' is outside 1 .. 4096\n"
                                   "a.ini:7: [thing] unknown key 'bytse'; did you mean 'bytes'?\n"
                                   "a.ini:7: [thing] flag: 'x' is not 'true' or 'false'");
    assert_int_equal(f->e.n, 3);
    check_real(f->thing.real, 1);
}

static void earlier_mistakes_are_not_its_own(void **state)
{
    struct fixture *f = *state;
    kv_fail(&f->e, KV_DATA, "of somebody else");
    assert_true(kv_bind(&f->bind, 1, NULL, 0, NULL, 0, f->a, &f->e));
}

/* ---- texts ---- */

static void check_text(struct fixture *f, const char *key, const char *value, const char *text)
{
    const struct kv_field *field = &f->bind.field[place(key)];
    must_bind(f, key, value);
    const char *first = kv_field_text(field, &f->thing, f->a);
    assert_string_equal(first, text);
    must_bind(f, key, first);
    assert_string_equal(kv_field_text(field, &f->thing, f->a), text);
}

static void values_are_printed_as_a_config_writes_them(void **state)
{
    struct fixture *f = *state;
    check_text(f, "text", "hello there", "hello there");
    check_text(f, "flag", "yes", "true");
    check_text(f, "flag", "off", "false");
    check_text(f, "count", "2Ki", "2048");
    check_text(f, "bytes", "1.5 GiB", "1536 MiB");
    check_text(f, "bytes", "80 GiB", "80 GiB");
    check_text(f, "bytes", "1025 B", "1025 B");
    check_text(f, "bytes", "512 MB", "500000 KiB");
    check_text(f, "bytes", "1 PiB", "1024 TiB");
    check_text(f, "real", "-0.1", "-0.1");
    check_text(f, "share", "30 %", "0.3");
    check_text(f, "seconds", "1 h", "3600.0 s");
    check_text(f, "rate", "12 /min", "0.2 /s");
    check_text(f, "bandwidth", "4.8 TB/s", "4800000000000.0 B/s");
    check_text(f, "flops", "1 MFLOP/s", "1000000.0 FLOP/s");
    check_text(f, "choice", "red", "red");
    check_text(f, "counts", "7,8Ki,9", "7, 8192, 9");
    check_text(f, "texts", "x , y z,w", "x, y z, w");
}

static void defaults_read_back_from_their_texts(void **state)
{
    struct fixture *f = *state;
    assert_true(kv_bind(&f->bind, 1, NULL, 0, NULL, 0, f->a, &f->e));
    struct kv_setting s[N_FIELDS];
    const char *text[N_FIELDS];
    for (int i = 0; i < N_FIELDS; i++) {
        text[i] = kv_field_text(&fields[i], &f->thing, f->a);
        s[i] = said(fields[i].key, text[i]);
    }
    if (!kv_bind(&f->bind, 1, NULL, 0, s, N_FIELDS, f->a, &f->e))
        fail_msg("%s", f->e.text);
    for (int i = 0; i < N_FIELDS; i++)
        assert_string_equal(kv_field_text(&fields[i], &f->thing, f->a), text[i]);
}

static void kinds_are_named(void **state)
{
    struct fixture *f = *state;
    assert_string_equal(kv_field_kind(&fields[place("choice")], f->a), "one of auto, red, green, blue");
    for (int i = 0; i < N_FIELDS; i++)
        assert_true(strlen(kv_field_kind(&fields[i], f->a)) > 3);
}

/* ---- words ---- */

static void the_nearest_word_is_found(void **state)
{
    (void)state;
    static const char *const words[] = {"budget", "window", "sink_size", "keep", "at", "max_num_batched_tokens"};
    static const struct {
        const char *word, *nearest;
    } cases[] = {
        {"buget", "budget"},   /* one left out */
        {"budgett", "budget"}, /* one too many */
        {"bugdet", "budget"},  /* two swapped */
        {"badger", "budget"},  /* two others */
        {"badgers", NULL},     /* three */
        {"wnidwo", "window"},  /* swapped twice */
        {"BUDGET", "budget"},
        {"keeps", "keep"},
        {"kep", "keep"},
        {"kp", NULL},   /* two of a short word */
        {"kxxp", NULL}, /* two of four letters */
        {"kepe", "keep"},
        {"keeepp", "keep"}, /* two of six */
        {"ta", "at"},
        {"max_num_batch_tokens", "max_num_batched_tokens"},
        {"budget", "budget"},
        {"", NULL},
        {"completely_different", NULL},
        {"a_word_that_is_longer_than_any_key_of_any_table_could_be", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *near = kv_nearest(cases[i].word, words, 6);
        if (!near != !cases[i].nearest || (near && strcmp(near, cases[i].nearest)))
            fail_msg("nearest to '%s' is %s, expected %s", cases[i].word, near ? near : "none",
                     cases[i].nearest ? cases[i].nearest : "none");
    }
    assert_null(kv_nearest("budget", words, 0));
}

static void of_equally_near_words_the_first_is_taken(void **state)
{
    (void)state;
    static const char *const words[] = {"blocks", "blocky", "block"};
    assert_string_equal(kv_nearest("blockx", words, 3), "blocks");
    assert_string_equal(kv_nearest("bloc", words, 3), "block");
}

static void words_stand_in_lists(void **state)
{
    (void)state;
    assert_true(kv_in_list("a", "a"));
    assert_true(kv_in_list("sink, recent,window", "sink"));
    assert_true(kv_in_list("sink, recent,window", "recent"));
    assert_true(kv_in_list("sink, recent,window", "window"));
    assert_false(kv_in_list("sink, recent,window", "win"));
    assert_false(kv_in_list("sink, recent,window", "windows"));
    assert_false(kv_in_list("", "a"));
    assert_false(kv_in_list(NULL, "a"));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(defaults_are_put_in),
        TEST(nothing_between_the_fields_is_touched),
        TEST(fields_without_default_are_unset),
        TEST(settings_are_put_in_with_their_origin),
        TEST(auto_unsets_where_nothing_else_is_the_default),
        TEST(a_preset_comes_before_the_user),
        TEST(a_later_setting_wins),
        TEST(several_tables_are_one_set_of_keys),
        TEST(private_notes_are_left_alone),
        TEST(wrong_units_are_refused),
        TEST(an_empty_value_is_refused),
        TEST(values_out_of_range_are_refused),
        TEST(a_refused_value_leaves_the_default),
        TEST(unknown_keys_get_the_nearest_known_one),
        TEST(unknown_keys_get_the_one_that_others_call_so),
        TEST(unknown_choices_get_the_nearest_or_all),
        TEST(a_single_value_is_not_continued),
        TEST(all_mistakes_are_said_at_once),
        TEST(earlier_mistakes_are_not_its_own),
        TEST(values_are_printed_as_a_config_writes_them),
        TEST(defaults_read_back_from_their_texts),
        TEST(kinds_are_named),
        TEST(the_nearest_word_is_found),
        TEST(of_equally_near_words_the_first_is_taken),
        TEST(words_stand_in_lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
