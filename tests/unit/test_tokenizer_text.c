/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Text of ids, as a whole and token by token; texts at random, of threads, and long ones. */
#include "tests/unit/tokenizer_made.h"

/* ---- text of ids ---- */

static void text_of_byte_level_ids(void **state)
{
    struct fixture *f = *state;
    must_open(f, true, (struct parts){.added = special_tokens, .vocab = "'ab':256,'\u20ac\u0120':257", .merges = "[]"});
    HAS_TEXT(f, true, "ab \xC3\xA9", 256, 32, 0xC3, 0xA9);
    HAS_TEXT(f, true, "\xC3", 0xC3); /* half a character, as it is */
    HAS_TEXT(f, true, "<s>ab[x]", 300, 256, 302);
    HAS_TEXT(f, false, "ab[x]", 300, 256, 302);
    HAS_TEXT(f, true, "\u20ac\u0120", 257); /* not all letters of bytes: as it is */
    static const int32_t nul[] = {97, 0, 98};
    same_text(f, nul, 3, true, "a\0b", 3);
    same_text(f, nul, 0, true, "", 0);
}

static void text_begins_without_the_blank_that_was_put_there(void **state)
{
    struct fixture *f = *state;
    must_open(f, false, (struct parts){0});
    HAS_TEXT(f, true, "a a", 263, 263);
    HAS_TEXT(f, true, " a", 265, 260);
    HAS_TEXT(f, true, "a", 32, 260); /* a blank as a byte too */
    HAS_TEXT(f, true, "\u20ac a", 226, 130, 172, 263);
    HAS_TEXT(f, true, "<s> a", 257, 263);
    must_open(f, false, (struct parts){.added = "[{'id':257,'content':'<s>','special':true}]"});
    HAS_TEXT(f, false, "a", 257, 263);
    must_open(f, false,
              (struct parts){.decoder = "{'type':'Sequence','decoders':[{'type':'Replace','pattern':{'String'"
                                        ":'\u2581'},'content':' '},{'type':'ByteFallback'},{'type':'Fuse'}]}"});
    HAS_TEXT(f, true, " a a", 263, 263);
    must_open(f, false, (struct parts){.decoder = "{'type':'Metaspace','replacement':'\u2581'}"});
    HAS_TEXT(f, true, "a a", 263, 263);
    HAS_TEXT(f, true, " a", 265, 263);
    must_open(f, false,
              (struct parts){.decoder = "{'type':'Metaspace','replacement':'\u2581','prepend_scheme':'never'}"});
    HAS_TEXT(f, true, " a<0x41>", 263, 65);
}

static void ids_that_are_none_are_refused(void **state)
{
    struct fixture *f = *state;
    static const int32_t bad[] = {-1, 260, 1 << 24, INT32_MAX, INT32_MIN, 299};
    char *text, out[4097];
    size_t bytes;
    must_open(f, true, (struct parts){.added = special_tokens});
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct kv_decode_state s = {0};
        memset(&f->e, 0, sizeof f->e);
        assert_false(kv_tokenizer_decode(f->t, &bad[i], 1, true, &text, &bytes, &f->e));
        assert_int_equal(f->e.status, KV_DATA);
        assert_false(kv_tokenizer_next(f->t, &s, bad[i], out, &f->e));
    }
}

static void text_grows_by_whole_characters(void **state)
{
    struct fixture *f = *state;
    struct kv_decode_state s = {0};
    static const struct {
        int32_t id;
        const char *text;
    } rows[] = {{0xE2, ""},
                {0x82, ""},
                {300, ""},
                {0xAC, "\u20ac"},
                {0xC3, ""},
                {97, "\xC3"
                     "a"},
                {0xF0, ""},
                {0x9F, ""},
                {0x98, ""},
                {0x80, "\U0001F600"},
                {0x80, "\x80"},
                {0xFF, "\xFF"},
                {302, "[x]"},
                {0xF4, ""},
                {0xE2, "\xF4"}};
    char out[4097];
    must_open(f, true, (struct parts){.added = special_tokens});
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_true(kv_tokenizer_next(f->t, &s, rows[i].id, out, &f->e));
        assert_string_equal(out, rows[i].text);
    }
    assert_int_equal(s.n_pending, 1);

    unsigned seed = 7;
    int32_t ids[400];
    for (int round = 0; round < 50; round++) {
        for (int i = 0; i < 400; i++) {
            seed = seed * 1664525u + 1013904223u;
            ids[i] = (int32_t)(1 + (seed >> 10) % 259u); /* no NUL: pieces are C texts */
        }
        same_pieces(f, ids, 400);
    }
    must_open(f, false, (struct parts){0});
    static const int32_t pieces[] = {265, 257, 32, 226, 130, 172, 263, 10, 255, 262};
    same_pieces(f, pieces, 10);
}

static void a_piece_of_more_than_4096_bytes_is_refused(void **state)
{
    struct fixture *f = *state;
    char out[4097], *text = kv_alloc(f->a, 4099);
    struct kv_decode_state s = {0};
    memset(text, 'x', 4096);
    must_open(f, true, (struct parts){.vocab = kv_format(f->a, "'%s':256,'%sy':257", text, text), .merges = "[]"});
    assert_true(kv_tokenizer_next(f->t, &s, 256, out, &f->e));
    assert_string_equal(out, text);
    assert_false(kv_tokenizer_next(f->t, &s, 257, out, &f->e));
    assert_int_equal(f->e.status, KV_DATA);
    assert_true(kv_tokenizer_next(f->t, &s, 97, out, &f->e)); /* and goes on */
    assert_string_equal(out, "a");
}

/* ---- texts ---- */

static void text_that_is_not_utf8_is_refused(void **state)
{
    static const struct {
        const char *text;
        int at;
    } rows[] = {
        {"\x80", 0},           {"ab\xFF", 2},           {"ab\xC3", 2},           {"\xC0\x80", 0},
        {"a\xE0\x80\x80", 1},  {"\xED\xA0\x80", 0},     {"\xF4\x90\x80\x80", 0}, {"\xF0\x8F\xBF\xBF", 0},
        {"\u20ac\xE2\x82", 3}, {"\xF5\x80\x80\x80", 0}, {"\xC3\xC3", 0},
    };
    struct fixture *f = *state;
    must_open(f, true, (struct parts){0});
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int32_t *ids;
        int64_t n;
        memset(&f->e, 0, sizeof f->e);
        assert_false(kv_tokenizer_encode(f->t, rows[i].text, strlen(rows[i].text), true, true, &ids, &n, &f->e));
        assert_int_equal(f->e.status, KV_DATA);
        assert_non_null(strstr(f->e.text, kv_format(f->a, "byte %d of the text", rows[i].at)));
        assert_null(ids);
    }
}

static size_t random_text(unsigned *seed, char *out, int letters)
{
    static const uint32_t most[] = {0x80, 0x80, 0x100, 0x500, 0x3000, 0xA000, 0x20000, 0x110000};
    size_t n = 0;
    for (int i = 0; i < letters; i++) {
        *seed = *seed * 1664525u + 1013904223u;
        uint32_t letter = (*seed >> 8) % most[*seed >> 29];
        if ((*seed & 0xF00) == 0x100)
            letter = ' ';
        if (letter < 0xD800 || letter > 0xDFFF)
            n += kv_utf8_put(letter, out + n);
    }
    return n;
}

static void random_texts_come_back(void **state)
{
    static const char no_s[] = "'<unk>':256,'\u2581':259,'a':260,'b':261,'ab':262,'\u2581a':263,'\u2581ab':264,"
                               "'\u2581\u2581':265,'\u00e9':266";
    struct fixture *f = *state;
    unsigned seed = 1;
    char text[4 * 100];
    for (int kind = 0; kind < 2; kind++) {
        must_open(f, kind == 0, (struct parts){.added = special_tokens, .vocab = kind ? no_s : NULL});
        for (int i = 0; i < 500; i++) {
            size_t bytes = random_text(&seed, text, 1 + i % 100);
            int32_t *ids;
            int64_t n;
            if (memmem(text, bytes, "\u2581", 3)) /* becomes a blank */
                continue;
            encode_bytes(f, text, bytes, true, false, &ids, &n);
            same_text(f, ids, n, true, text, bytes);
            free(ids);
        }
    }
}

struct job {
    const struct kv_tokenizer *t;
    const char *text;
    size_t bytes;
    int64_t n[20];
};

static void *encode_often(void *argument)
{
    struct job *j = argument;
    for (int i = 0; i < 20; i++) {
        struct kv_err e = {0};
        int32_t *ids;
        if (kv_tokenizer_encode(j->t, j->text, j->bytes, true, true, &ids, &j->n[i], &e))
            free(ids);
    }
    return NULL;
}

static void threads_may_share_one(void **state)
{
    struct fixture *f = *state;
    enum { THREADS = 4 };
    struct job jobs[THREADS];
    pthread_t thread[THREADS];
    unsigned seed = 3;
    char text[4 * 1000];
    size_t bytes = random_text(&seed, text, 1000);
    must_open(f, true, (struct parts){.added = special_tokens});
    for (int i = 0; i < THREADS; i++) {
        jobs[i] = (struct job){f->t, text, bytes, {0}};
        assert_int_equal(pthread_create(&thread[i], NULL, encode_often, &jobs[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(thread[i], NULL), 0);
    for (int i = 0; i < THREADS * 20; i++)
        assert_true(jobs[i / 20].n[i % 20] == jobs[0].n[0] && jobs[0].n[0] > 0);
}

/* Steps, for clocks lie: twice the text, about twice the steps. */
static void merging_is_near_linear(void **state)
{
    struct fixture *f = *state;
    enum { N = 200000 };
    const char *vocab = "'aa':256", *merges = "'a a'";
    char *token = kv_copy_text(f->a, "aa"), *text = kv_alloc(f->a, 2 * N + 1);
    for (int i = 2; i < 10; i++) { /* a^2 .. a^512: every level merges again */
        char *next = kv_format(f->a, "%s%s", token, token);
        vocab = kv_format(f->a, "%s,'%s':%d", vocab, next, 255 + i);
        merges = kv_format(f->a, "%s,'%s %s'", merges, token, token);
        token = next;
    }
    must_open(f, true, (struct parts){.vocab = vocab, .merges = kv_format(f->a, "[%s]", merges)});
    for (int i = 0; i < 2 * N; i++)
        text[i] = i % 1001 ? 'a' : 'b';
    uint64_t steps[2];
    for (int i = 0; i < 2; i++) {
        struct kv_bpe_work w = {0};
        struct kv_ids ids = {0};
        assert_true(kv_bpe_encode(&f->t->bpe, text, (size_t)N * (size_t)(i + 1), &w, &ids, &f->e));
        assert_true(ids.n > N / 1001 && ids.n < N / 20);
        steps[i] = w.steps;
        kv_bpe_work_free(&w);
        free(ids.id);
    }
    assert_true(steps[0] < (uint64_t)N * 60 && steps[1] * 10 < steps[0] * 23);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(text_of_byte_level_ids),
        TEST(text_begins_without_the_blank_that_was_put_there),
        TEST(ids_that_are_none_are_refused),
        TEST(text_grows_by_whole_characters),
        TEST(a_piece_of_more_than_4096_bytes_is_refused),
        TEST(text_that_is_not_utf8_is_refused),
        TEST(random_texts_come_back),
        TEST(threads_may_share_one),
        TEST(merging_is_near_linear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
