/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Messages that join, get context and run out of room. */
#include "sim/core/error.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static int set_up(void **state)
{
    *state = calloc(1, sizeof(struct kv_err));
    return 0;
}

static int tear_down(void **state)
{
    free(*state);
    return 0;
}

static int count_lines(const char *text)
{
    int n = 1;
    for (; *text; text++)
        n += *text == '\n';
    return n;
}

/* ---- messages ---- */

static void a_message_is_said_and_false_comes_back(void **state)
{
    struct kv_err *e = *state;
    assert_false(kv_fail(e, KV_DATA, "trace '%s' has %d layers", "a.kvt", 0));
    assert_string_equal(e->text, "trace 'a.kvt' has 0 layers");
    assert_int_equal(e->n, 1);
    assert_int_equal(e->length, strlen(e->text));
    assert_int_equal(e->status, KV_DATA);
}

static void messages_join_as_lines_and_the_first_decides_the_status(void **state)
{
    struct kv_err *e = *state;
    kv_fail(e, KV_ENV, "one");
    kv_fail(e, KV_USAGE, "two");
    kv_fail(e, KV_DATA, "three");
    assert_string_equal(e->text, "one\ntwo\nthree");
    assert_int_equal(e->status, KV_ENV);
    assert_int_equal(e->n, 3);
}

static void twenty_lines_are_kept_and_all_are_counted(void **state)
{
    struct kv_err *e = *state;
    for (int i = 1; i <= 25; i++)
        kv_fail(e, KV_USAGE, "mistake %d", i);
    assert_int_equal(e->n, 25);
    assert_int_equal(count_lines(e->text), KV_ERR_LINES);
    assert_string_equal(strrchr(e->text, '\n') + 1, "mistake 20");
}

/* ---- context ---- */

static void context_comes_before_a_message(void **state)
{
    struct kv_err *e = *state;
    kv_fail(e, KV_DATA, "no such file");
    assert_false(kv_while(e, "replaying request %d", 7));
    assert_string_equal(e->text, "replaying request 7: no such file");
    assert_int_equal(e->length, strlen(e->text));
    assert_int_equal(e->n, 1);
    assert_int_equal(e->status, KV_DATA);
}

static void context_comes_before_every_line(void **state)
{
    struct kv_err *e = *state;
    kv_fail(e, KV_USAGE, "one");
    kv_fail(e, KV_USAGE, "two");
    kv_fail(e, KV_USAGE, "three");
    kv_while(e, "b");
    kv_while(e, "a");
    assert_string_equal(e->text, "a: b: one\na: b: two\na: b: three");
    assert_int_equal(e->length, strlen(e->text));
    kv_fail(e, KV_USAGE, "four");
    assert_string_equal(e->text, "a: b: one\na: b: two\na: b: three\nfour");
}

static void context_of_no_message_says_nothing(void **state)
{
    struct kv_err *e = *state;
    kv_while(e, "nothing happened");
    assert_string_equal(e->text, "");
    assert_int_equal(e->n, 0);
    kv_fail(e, KV_USAGE, "now it did");
    assert_string_equal(e->text, "now it did");
}

/* ---- room ---- */

static void a_very_long_message_is_cut(void **state)
{
    struct kv_err *e = *state;
    char *name = malloc(100001);
    memset(name, 'n', 100000);
    name[100000] = '\0';
    kv_fail(e, KV_DATA, "'%s' is long", name);
    assert_in_range(e->length, 100, 2000);
    assert_non_null(strstr(e->text, " is long"));
    assert_int_equal(e->length, strlen(e->text));
    kv_while(e, "%s", name);
    assert_in_range(e->length, 100, 4000);
    assert_int_equal(e->length, strlen(e->text));
    free(name);
}

static void a_word_that_no_name_is_as_long_as_loses_its_middle(void **state)
{
    struct kv_err *e = *state;
    char name[3001];
    memset(name, 'n', 3000);
    memcpy(name, "first/", 6);
    strcpy(name + 2990, "/last.ini");
    kv_fail(e, KV_DATA, "cannot open '%s': no such file; record one", name);
    assert_memory_equal(e->text, "cannot open 'first/nnn", 22);
    assert_non_null(strstr(e->text, "nnn...nnn"));
    assert_non_null(strstr(e->text, "nnn/last.ini': no such file; record one"));
    assert_in_range(e->length, 100, 400);
}

static void text_ends_safely_where_the_room_ends(void **state)
{
    struct kv_err *e = *state;
    struct guarded {
        struct kv_err e;
        char behind[64];
    } *g = calloc(1, sizeof *g);
    memset(g->behind, 'x', sizeof g->behind);
    for (int i = 0; i < KV_ERR_LINES; i++)
        kv_fail(&g->e, KV_USAGE, "%02d %0997d", i, 0);
    assert_int_equal(g->e.length, KV_ERR_TEXT - 1);
    assert_int_equal(strlen(g->e.text), KV_ERR_TEXT - 1);
    for (int i = 0; i < 50; i++) {
        kv_while(&g->e, "in step %d of a long way up", i);
        assert_int_equal(g->e.length, KV_ERR_TEXT - 1);
        assert_int_equal(strlen(g->e.text), KV_ERR_TEXT - 1);
    }
    assert_memory_equal(g->e.text, "in step 49 of a long way up: in step 48", 39);
    for (size_t i = 0; i < sizeof g->behind; i++)
        assert_int_equal(g->behind[i], 'x');
    assert_int_equal(e->n, 0);
    free(g);
}

/* ---- characters ---- */

static void control_characters_reach_no_terminal(void **state)
{
    struct kv_err *e = *state;
    kv_fail(e, KV_DATA, "'%s'", "\x1b[31mred\nline\ttab\r\x7f");
    assert_string_equal(e->text, "'?[31mred?line?tab?\?'");
    kv_while(e, "file '%s'", "a\x1b]0;b\a\n");
    assert_string_equal(e->text, "file 'a?]0;b?\?': '?[31mred?line?tab?\?'");
}

static void control_characters_written_in_utf8_reach_no_terminal(void **state)
{
    struct kv_err *e = *state;
    kv_fail(e, KV_DATA, "'%s'",
            "\xC2\x9B"
            "31m");                     /* U+009B is what ESC [ is */
    assert_null(strchr(e->text, 0x9B)); /* alone it is the same in an 8-bit terminal */
    assert_non_null(strstr(e->text, "31m'"));
}

static void letters_of_other_languages_stay(void **state)
{
    struct kv_err *e = *state;
    kv_fail(e, KV_DATA, "'%s'",
            "gr\xC3\xB6\xC3\x9F"
            "e \xE2\x82\xAC\xC2\xA0");
    assert_string_equal(e->text, "'gr\xC3\xB6\xC3\x9F"
                                 "e \xE2\x82\xAC\xC2\xA0'");
}

/* ---- mistakes of ours ---- */

/* Runs `KV_ASSERT(one < two)` in a process of its own; what it says goes to `said`. */
static int assert_elsewhere(int one, int two, char *said, size_t size)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        dup2(ends[1], STDERR_FILENO);
        KV_ASSERT(one < two);
        _exit(0);
    }
    close(ends[1]);
    ssize_t n = read(ends[0], said, size - 1);
    said[n > 0 ? n : 0] = '\0';
    close(ends[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void a_broken_assertion_aborts_and_says_where(void **state)
{
    (void)state;
    char said[512];
    int status = assert_elsewhere(2, 1, said, sizeof said);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
    assert_memory_equal(said, "bug in kvsim: ", 14);
    assert_non_null(strstr(said, "test_error.c:"));
    assert_non_null(strstr(said, ": not true: one < two\n"));
}

static void a_true_assertion_does_nothing(void **state)
{
    (void)state;
    char said[512];
    int status = assert_elsewhere(1, 2, said, sizeof said);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_string_equal(said, "");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_message_is_said_and_false_comes_back),
        TEST(messages_join_as_lines_and_the_first_decides_the_status),
        TEST(twenty_lines_are_kept_and_all_are_counted),
        TEST(context_comes_before_a_message),
        TEST(context_comes_before_every_line),
        TEST(context_of_no_message_says_nothing),
        TEST(a_very_long_message_is_cut),
        TEST(a_word_that_no_name_is_as_long_as_loses_its_middle),
        TEST(text_ends_safely_where_the_room_ends),
        TEST(control_characters_reach_no_terminal),
        TEST(control_characters_written_in_utf8_reach_no_terminal),
        TEST(letters_of_other_languages_stay),
        TEST(a_broken_assertion_aborts_and_says_where),
        TEST(a_true_assertion_does_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
