/* SPDX-License-Identifier: GPL-3.0-or-later */
/* INI files from disk: what is read, where it says it comes from, and that no mistake is passed over in silence. */
#include "sim/core/ini.h"
#include "tests/unit/fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
    struct kv_arena *a;
    const char *folder, *path;
    struct kv_err e;
    struct kv_ini ini;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->a = kv_arena_open();
    f->folder = make_folder("ini", f->a);
    f->path = kv_format(f->a, "%s/a.ini", f->folder);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    unlink(f->path);
    rmdir(f->folder);
    kv_arena_close(f->a);
    free(f);
    return 0;
}

static bool read_bytes(struct fixture *f, const char *text, size_t length)
{
    FILE *file = fopen(f->path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
    memset(&f->e, 0, sizeof f->e);
    return kv_ini_read(f->path, &f->ini, f->a, &f->e);
}

static void must_read(struct fixture *f, const char *text)
{
    if (!read_bytes(f, text, strlen(text)))
        fail_msg("%s", f->e.text);
}

/* `expected` has a line for each mistake, without the file's name: "3: what". */
static void check_mistakes(struct fixture *f, const char *expected)
{
    const char *all = "";
    for (const char *line = expected; *line;) {
        size_t length = strcspn(line, "\n");
        all = kv_format(f->a, "%s%s%s:%.*s", all, *all ? "\n" : "", f->path, (int)length, line);
        line += length + (line[length] == '\n');
    }
    assert_string_equal(f->e.text, all);
    assert_int_equal(f->e.status, KV_USAGE);
}

static void must_fail(struct fixture *f, const char *text, const char *expected)
{
    assert_false(read_bytes(f, text, strlen(text)));
    check_mistakes(f, expected);
}

static const struct kv_setting *setting(struct fixture *f, const char *section, const char *key)
{
    const struct kv_ini_section *s = kv_ini_find(&f->ini, section);
    for (int i = 0; s && i < s->n; i++)
        if (!strcmp(s->setting[i].key, key))
            return &s->setting[i];
    fail_msg("no '%s' in [%s]", key, section);
    return NULL;
}

static void check_value(struct fixture *f, const char *section, const char *key, const char *value, int line)
{
    const struct kv_setting *s = setting(f, section, key);
    assert_string_equal(s->value, value);
    assert_string_equal(s->origin, kv_format(f->a, "%s:%d", f->path, line));
    assert_string_equal(s->where, kv_format(f->a, "%s:%d: [%s]", f->path, line, section));
}

static const char *repeat(struct fixture *f, char c, size_t n)
{
    char *text = kv_alloc(f->a, n + 1);
    memset(text, c, n);
    return text;
}

/* ---- what is read ---- */

static void sections_and_keys_know_their_lines(void **state)
{
    struct fixture *f = *state;
    must_read(f, "; a comment\n"
                 "\n"
                 "[engine]\n"
                 "block_size = 16\n"
                 "# another\n"
                 "   \n"
                 "limit=80 GiB\n"
                 "\n"
                 "[policy duo]\n"
                 "kind\t=\tduo\n"
                 "[empty]\n");
    assert_string_equal(f->ini.path, f->path);
    assert_int_equal(f->ini.n, 3);
    assert_string_equal(f->ini.section[0].name, "engine");
    assert_string_equal(f->ini.section[0].where, kv_format(f->a, "%s:3", f->path));
    assert_int_equal(f->ini.section[0].n, 2);
    assert_string_equal(f->ini.section[1].name, "policy duo");
    assert_string_equal(f->ini.section[1].where, kv_format(f->a, "%s:9", f->path));
    assert_string_equal(f->ini.section[2].name, "empty");
    assert_int_equal(f->ini.section[2].n, 0);
    check_value(f, "engine", "block_size", "16", 4);
    check_value(f, "engine", "limit", "80 GiB", 7);
    check_value(f, "policy duo", "kind", "duo", 10);
    assert_false(setting(f, "engine", "limit")->continued);
    assert_null(kv_ini_find(&f->ini, "Engine"));
    assert_null(kv_ini_find(&f->ini, ""));
}

static void settings_stay_in_the_order_of_the_file(void **state)
{
    struct fixture *f = *state;
    must_read(f, "[b]\nz = 1\ny = 2\nx = 3\nw = 4\nv = 5\n[a]\n");
    assert_string_equal(f->ini.section[0].name, "b");
    assert_string_equal(f->ini.section[1].name, "a");
    for (int i = 0; i < 5; i++)
        assert_int_equal(f->ini.section[0].setting[i].key[0], 'z' - i);
}

static void an_empty_file_is_fine(void **state)
{
    struct fixture *f = *state;
    must_read(f, "");
    assert_int_equal(f->ini.n, 0);
    must_read(f, "\n\n; nothing\n");
    assert_int_equal(f->ini.n, 0);
}

static void a_last_line_needs_no_line_end(void **state)
{
    struct fixture *f = *state;
    must_read(f, "[a]\nk = 1");
    check_value(f, "a", "k", "1", 2);
}

static void dos_line_ends_are_read(void **state)
{
    struct fixture *f = *state;
    must_read(f, "[a]\r\nk = 1\r\n\r\nl = 2 3\r\n");
    check_value(f, "a", "k", "1", 2);
    check_value(f, "a", "l", "2 3", 4);
}

static void a_byte_order_mark_is_skipped(void **state)
{
    struct fixture *f = *state;
    must_read(f, "\xEF\xBB\xBF[a]\nk = 1\n");
    check_value(f, "a", "k", "1", 2);
    must_read(f, "\xEF\xBB\xBF; comment\r\n[a]\r\nk = 1\r\n");
    check_value(f, "a", "k", "1", 3);
}

static void trailing_comments_are_left_out(void **state)
{
    struct fixture *f = *state;
    must_read(f, "[a] ; of a\n"
                 "k = 1 ; one\n"
                 "l = x;y\n"
                 "m = ; nothing\n"
                 "n = 2 # two\n");
    check_value(f, "a", "k", "1", 2);
    check_value(f, "a", "l", "x;y", 3);
    check_value(f, "a", "m", "", 4);
    check_value(f, "a", "n", "2 # two", 5); /* the readers of values say that '#' starts no comment */
}

static void only_the_first_equals_sign_divides(void **state)
{
    struct fixture *f = *state;
    must_read(f, "[a]\nk = b=c\nurl = http://x:1\n");
    check_value(f, "a", "k", "b=c", 2);
    check_value(f, "a", "url", "http://x:1", 3);
}

static void indented_lines_continue_a_value(void **state)
{
    struct fixture *f = *state;
    must_read(f, "[a]\n"
                 "list = 1, 2\n"
                 "  3\n"
                 "\n"
                 "\t4, 5 ; comment\n"
                 "  ; a comment of its own\n"
                 "   six:6\n"
                 "k = 1\n");
    check_value(f, "a", "list", "1, 2, 3, 4, 5, six:6", 2);
    assert_true(setting(f, "a", "list")->continued);
    check_value(f, "a", "k", "1", 8);
    assert_false(setting(f, "a", "k")->continued);
}

static void only_a_semicolon_behind_a_blank_starts_a_comment_on_a_continued_line(void **state)
{
    struct fixture *f = *state;
    must_read(f, "[a]\nlist = x;1\n  y;2 ; comment\n");
    check_value(f, "a", "list", "x;1, y;2", 2);
}

static void a_line_of_just_the_most_characters_is_read_whole(void **state)
{
    struct fixture *f = *state;
    const char *value = repeat(f, 'v', 186); /* "k = " and 186 */
    must_read(f, kv_format(f->a, "[a]\nk = %s\nl = 1\n", value));
    check_value(f, "a", "k", value, 2);
    check_value(f, "a", "l", "1", 3);
    must_read(f, kv_format(f->a, "[a]\r\nk = %s\r\nl = 1\r\n", value));
    check_value(f, "a", "k", value, 2);
}

static void a_comment_may_be_of_any_length(void **state)
{
    struct fixture *f = *state;
    must_read(f, kv_format(f->a, "; %s k = 1\n[a]\n  # %s\nk = 1\n", repeat(f, 'x', 5000), repeat(f, 'y', 250)));
    check_value(f, "a", "k", "1", 4);
}

static void names_of_just_the_most_characters_are_read(void **state)
{
    struct fixture *f = *state;
    const char *name = repeat(f, 'n', 48);
    must_read(f, kv_format(f->a, "[%s]\n%s = 1\n  2\n", name, name));
    check_value(f, name, name, "1, 2", 2);
}

/* ---- mistakes ---- */

static void a_line_without_equals_sign(void **state)
{
    must_fail(*state, "[a]\nblock_size 16\nk: 3\n",
              "2: 'block_size 16' is neither '[section]' nor 'key = value'\n"
              "3: 'k: 3' is neither '[section]' nor 'key = value'");
}

static void a_comment_before_the_equals_sign(void **state)
{
    must_fail(*state, "[a]\nkey ; note = 1\n", "2: 'key ; note = 1' is neither '[section]' nor 'key = value'");
}

static void no_key_before_the_equals_sign(void **state)
{
    must_fail(*state, "[a]\n= 1\n", "2: no key before '='");
}

static void a_section_that_is_not_closed(void **state)
{
    must_fail(*state, "[a]\n[open\n", "2: '[' without ']'");
}

static void text_behind_a_section(void **state)
{
    must_fail(*state, "[a]\n[b] k = 1\n", "2: 'k = 1' behind ']'; write it on a line of its own");
}

static void a_key_set_twice(void **state)
{
    struct fixture *f = *state;
    must_fail(f, "[a]\nk = 1\n[b]\nk = 2\nk = 3\n",
              kv_format(f->a, "5: [b] key 'k' again (first set at %s:4); keep one", f->path));
}

static void a_section_that_comes_again(void **state)
{
    struct fixture *f = *state;
    must_fail(f, "[a]\nk = 1\n\n[a]\n",
              kv_format(f->a, "4: section [a] again (first at %s:1); put its keys together", f->path));
}

static void a_key_before_any_section(void **state)
{
    must_fail(*state, "k = 1\n[a]\n", "1: 'k' stands before the first [section]");
}

static void an_indented_key(void **state)
{
    must_fail(*state, "[policy duo]\nsparsity = 0.5\n  sink_size = 128\n",
              "3: indented 'sink_size = 128' would become part of 'sparsity' (line 2); remove the indent");
    must_fail(*state, "[a]\n  k = 1\n", "2: indented 'k = 1'; remove the indent");
    must_fail(*state, "[a]\nk = 1\n[b]\n  l=1\n", "4: indented 'l=1'; remove the indent");
}

static void an_indented_section(void **state)
{
    must_fail(*state, "[a]\nk = 1\n [b]\n", "3: indented '[b]'; remove the indent");
}

static void an_indented_line_that_continues_nothing(void **state)
{
    must_fail(*state, "[a]\n  1, 2\n", "2: indented '1, 2' continues no value; remove the indent");
}

static void a_line_that_is_too_long_is_no_two_lines(void **state)
{
    struct fixture *f = *state;
    const char *text = kv_format(f->a, "[a]\nk = %s tail = 5\nl = 1\nnone\n", repeat(f, 'v', 300));
    must_fail(f, text,
              "2: line longer than 190 characters; continue it on an indented next line\n"
              "4: 'none' is neither '[section]' nor 'key = value'");
    assert_int_equal(f->ini.section[0].n, 1); /* neither k nor tail */
    check_value(f, "a", "l", "1", 3);
    must_fail(f, kv_format(f->a, "[a]\nk = %s\n", repeat(f, 'v', 187)),
              "2: line longer than 190 characters; continue it on an indented next line");
    must_fail(f, kv_format(f->a, "[a]\n%s = 1\nx\n", repeat(f, 'k', 100000)),
              "2: line longer than 190 characters; continue it on an indented next line\n"
              "3: 'x' is neither '[section]' nor 'key = value'");
}

static void a_carriage_return_inside_does_not_shorten_a_line(void **state)
{
    struct fixture *f = *state;
    must_fail(f, kv_format(f->a, "[a]\nk = %s\rtail that would be lost\n", repeat(f, 'v', 186)),
              "2: line longer than 190 characters; continue it on an indented next line");
}

static void blanks_do_not_hide_what_follows_them(void **state)
{
    struct fixture *f = *state;
    const char *text = kv_format(f->a, "[a]\n%sk = 1\n", repeat(f, ' ', 200));
    must_fail(f, text, "2: line longer than 190 characters; continue it on an indented next line");
}

static void a_nul_byte(void **state)
{
    struct fixture *f = *state;
    static const char text[] = "[a]\nk = 1\0 2\nnone\n";
    assert_false(read_bytes(f, text, sizeof text - 1));
    check_mistakes(f, "2: a NUL byte: this is no text file\n"
                      "3: 'none' is neither '[section]' nor 'key = value'");
}

static void a_control_character(void **state)
{
    must_fail(*state, "[a]\nk = 1\x1b[31m\nl = 1\rm = 2\n; \a\nn = 1\t2\n",
              "2: a control character; remove it\n"
              "3: a control character; remove it\n"
              "4: a control character; remove it");
}

static void a_byte_order_mark_does_not_shorten_the_first_line(void **state)
{
    struct fixture *f = *state;
    const char *blanks = repeat(f, ' ', 200);
    must_fail(f, kv_format(f->a, "\xEF\xBB\xBF[a]%s k = 1\n", blanks),
              "1: line longer than 190 characters; continue it on an indented next line");
    must_read(f, kv_format(f->a, "\xEF\xBB\xBF[a] ; %s\nk = 1\n", repeat(f, 'c', 184)));
    check_value(f, "a", "k", "1", 2);
}

static void names_that_are_too_long(void **state)
{
    struct fixture *f = *state;
    const char *name = repeat(f, 'n', 49);
    must_fail(f, kv_format(f->a, "[a]\n%s = 1\n", name), "2: key longer than 48 characters");
    must_fail(f, kv_format(f->a, "[%s]\n", name), "1: section name longer than 48 characters");
}

static void other_white_space_before_a_section_loses_no_key(void **state)
{
    struct fixture *f = *state;
    static const char *const text[] = {"[a]\n\f[x]=3\nk = 1\n", "[a]\n\v[x]=3\nk = 1\n", "[a]\n\f[x] = [3]\nk = 1\n"};
    for (int i = 0; i < 3; i++)
        if (read_bytes(f, text[i], strlen(text[i])))
            fail_msg("text %d is read, and [a] has %d settings", i, f->ini.section[0].n);
}

static void the_keys_of_a_refused_section_are_those_of_no_other(void **state)
{
    struct fixture *f = *state;
    must_fail(f, "[a]\nk = 1\n[b\nk = 2\n", "3: '[' without ']'");
    must_fail(f, "[a]\nk = 1\n [b]\nk = 2\n", "3: indented '[b]'; remove the indent");
    must_fail(f, kv_format(f->a, "[a]\nk = 1\n[%s]\nk = 2\n", repeat(f, 's', 200)),
              "3: line longer than 190 characters; continue it on an indented next line");
    must_fail(f, "[a]\nk = 1\n[b]\nl = 2\n[a]\nl = 3\n",
              kv_format(f->a, "5: section [a] again (first at %s:1); put its keys together", f->path));
}

static void all_mistakes_are_said_at_once(void **state)
{
    struct fixture *f = *state;
    must_fail(f, "top = 1\n[a]\nnone\nk = 1\nk = 2\n[a]\n",
              kv_format(f->a,
                        "1: 'top' stands before the first [section]\n"
                        "3: 'none' is neither '[section]' nor 'key = value'\n"
                        "5: [a] key 'k' again (first set at %s:4); keep one\n"
                        "6: section [a] again (first at %s:2); put its keys together",
                        f->path, f->path));
    assert_int_equal(f->e.n, 4);
}

static void at_most_twenty_are_shown_and_all_are_counted(void **state)
{
    struct fixture *f = *state;
    const char *text = "[a]\n";
    for (int i = 0; i < 33; i++)
        text = kv_format(f->a, "%snone%d\n", text, i);
    assert_false(read_bytes(f, text, strlen(text)));
    assert_int_equal(f->e.n, 33);
    int lines = 1;
    for (const char *c = f->e.text; *c; c++)
        lines += *c == '\n';
    assert_int_equal(lines, 20);
    assert_string_equal(strrchr(f->e.text, '\n') + 1,
                        kv_format(f->a, "%s:21: 'none19' is neither '[section]' nor 'key = value'", f->path));
}

static void earlier_mistakes_are_not_its_own(void **state)
{
    struct fixture *f = *state;
    must_read(f, "[a]\nk = 1\n");
    kv_fail(&f->e, KV_USAGE, "of somebody else");
    assert_true(kv_ini_read(f->path, &f->ini, f->a, &f->e));
    assert_string_equal(f->e.text, "of somebody else");
}

static void a_file_that_is_not_there(void **state)
{
    struct fixture *f = *state;
    assert_false(kv_ini_read(f->path, &f->ini, f->a, &f->e));
    assert_int_equal(f->e.status, KV_DATA);
    assert_string_equal(f->e.text, kv_format(f->a, "cannot open '%s': No such file or directory", f->path));
}

static void a_folder_instead_of_a_file(void **state)
{
    struct fixture *f = *state;
    assert_false(kv_ini_read(f->folder, &f->ini, f->a, &f->e));
    assert_int_equal(f->e.status, KV_DATA);
    assert_string_equal(f->e.text, kv_format(f->a, "cannot read '%s': Is a directory", f->folder));
}

/* ---- --set ---- */

static void check_set(struct fixture *f, const char *assignment, const char *section, const char *key,
                      const char *value)
{
    if (!kv_ini_set(&f->ini, assignment, NULL, f->a, &f->e))
        fail_msg("%s", f->e.text);
    const struct kv_setting *s = setting(f, section, key);
    assert_string_equal(s->value, value);
    assert_string_equal(s->origin, "--set");
    assert_string_equal(s->where, kv_format(f->a, "--set %s: [%s]", assignment, section));
    assert_false(s->continued);
}

static void set_replaces_and_adds(void **state)
{
    struct fixture *f = *state;
    must_read(f, "[engine]\nblock_size = 16\nsizes = 1\n  2\nlimit = 80 GiB\n");
    check_set(f, "engine.block_size=32", "engine", "block_size", "32");
    check_set(f, "engine.sizes=7", "engine", "sizes", "7");
    check_set(f, "engine.new=1", "engine", "new", "1");
    assert_int_equal(kv_ini_find(&f->ini, "engine")->n, 4);
    check_value(f, "engine", "limit", "80 GiB", 5);
    check_set(f, "policy duo.keep=30 %", "policy duo", "keep", "30 %");
    check_set(f, "policy duo.keep=40 %", "policy duo", "keep", "40 %");
    assert_int_equal(f->ini.n, 2);
    assert_string_equal(kv_ini_find(&f->ini, "policy duo")->where, "--set");
    assert_int_equal(kv_ini_find(&f->ini, "policy duo")->n, 1);
}

static void set_divides_at_the_last_dot_before_the_first_equals_sign(void **state)
{
    struct fixture *f = *state;
    must_read(f, "");
    check_set(f, "policy llama-3.1.keep=0.5", "policy llama-3.1", "keep", "0.5");
    check_set(f, "a.b = c=d.e", "a", "b", "c=d.e");
    check_set(f, "a.empty=", "a", "empty", "");
}

static void set_leaves_blanks_out(void **state)
{
    struct fixture *f = *state;
    must_read(f, "");
    check_set(f, "a.k =  3", "a", "k", "3");
    check_set(f, "a.l= 3 s ", "a", "l", "3 s");
}

static void set_refuses_what_is_no_assignment(void **state)
{
    struct fixture *f = *state;
    static const char *const bad[] = {"", "=", "a", "a.b", "k=1", ".k=1", "a.=1", "=a.b", ".=1", "a. =1"};
    must_read(f, "");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        memset(&f->e, 0, sizeof f->e);
        if (kv_ini_set(&f->ini, bad[i], NULL, f->a, &f->e))
            fail_msg("'%s' is taken", bad[i]);
        assert_string_equal(f->e.text, kv_format(f->a, "--set '%s': write it as section.key=value", bad[i]));
        assert_int_equal(f->e.status, KV_USAGE);
        assert_int_equal(f->ini.n, 0);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(sections_and_keys_know_their_lines),
        TEST(settings_stay_in_the_order_of_the_file),
        TEST(an_empty_file_is_fine),
        TEST(a_last_line_needs_no_line_end),
        TEST(dos_line_ends_are_read),
        TEST(a_byte_order_mark_is_skipped),
        TEST(trailing_comments_are_left_out),
        TEST(only_the_first_equals_sign_divides),
        TEST(indented_lines_continue_a_value),
        TEST(only_a_semicolon_behind_a_blank_starts_a_comment_on_a_continued_line),
        TEST(a_line_of_just_the_most_characters_is_read_whole),
        TEST(a_comment_may_be_of_any_length),
        TEST(names_of_just_the_most_characters_are_read),
        TEST(a_line_without_equals_sign),
        TEST(a_comment_before_the_equals_sign),
        TEST(no_key_before_the_equals_sign),
        TEST(a_section_that_is_not_closed),
        TEST(text_behind_a_section),
        TEST(a_key_set_twice),
        TEST(a_section_that_comes_again),
        TEST(a_key_before_any_section),
        TEST(an_indented_key),
        TEST(an_indented_section),
        TEST(an_indented_line_that_continues_nothing),
        TEST(a_line_that_is_too_long_is_no_two_lines),
        TEST(a_carriage_return_inside_does_not_shorten_a_line),
        TEST(blanks_do_not_hide_what_follows_them),
        TEST(a_nul_byte),
        TEST(a_control_character),
        TEST(a_byte_order_mark_does_not_shorten_the_first_line),
        TEST(names_that_are_too_long),
        TEST(other_white_space_before_a_section_loses_no_key),
        TEST(the_keys_of_a_refused_section_are_those_of_no_other),
        TEST(all_mistakes_are_said_at_once),
        TEST(at_most_twenty_are_shown_and_all_are_counted),
        TEST(earlier_mistakes_are_not_its_own),
        TEST(a_file_that_is_not_there),
        TEST(a_folder_instead_of_a_file),
        TEST(set_replaces_and_adds),
        TEST(set_divides_at_the_last_dot_before_the_first_equals_sign),
        TEST(set_leaves_blanks_out),
        TEST(set_refuses_what_is_no_assignment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
