/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Tokenizers made here, one for each thing a tokenizer.json can say, and two that come with golden ids. Whether ids are
 * those of Hugging Face for hard texts is what tests/peers/compare_tokenizer.py asks. */
#include "engine/tokenizer.h"
#include "engine/tokenizer_parts.h"

#include <jansson.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
    struct kv_arena *a;
    struct kv_err e;
    const char *folder, *path;
    struct kv_tokenizer *t;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    const char *tmp = getenv("KV_TMP");
    f->a = kv_arena_open();
    char *folder = kv_format(f->a, "%s/tokenizerXXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(folder));
    f->folder = folder;
    f->path = kv_format(f->a, "%s/tokenizer.json", folder);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    kv_tokenizer_close(f->t);
    unlink(f->path);
    rmdir(f->folder);
    kv_arena_close(f->a);
    free(f);
    return 0;
}

/* ---- tokenizers made here ---- */

/* Parts of a file as JSON with ' for ". NULL: what stands in defaults. */
struct parts {
    const char *vocab, *merges, *model, *added, *normalizer, *pre, *post, *decoder, *more;
};

static const struct parts byte_defaults = {
    .vocab = "'ab':256,'abc':257,'bc':258,'\u0120a':259",
    .merges = "['a b','b c',['ab','c'],'\u0120 a']",
    .model = "'unk_token':null",
    .added = "[]",
    .normalizer = "null",
    .pre = "{'type':'ByteLevel','add_prefix_space':false,'trim_offsets':true,'use_regex':true}",
    .post = "null",
    .decoder = "{'type':'ByteLevel'}",
    .more = "'version':'1.0'",
};

static const struct parts piece_defaults = {
    .vocab = "'<unk>':256,'<s>':257,'</s>':258,'\u2581':259,'a':260,'b':261,'ab':262,'\u2581a':263,'\u2581ab':264,"
             "'\u2581\u2581':265,'\u00e9':266",
    .merges = "['\u2581 a','a b','\u2581 ab','\u2581a b','\u2581 \u2581']",
    .model = "'unk_token':'<unk>','fuse_unk':true,'byte_fallback':true",
    .added = "[]",
    .normalizer = "{'type':'Sequence','normalizers':[{'type':'Prepend','prepend':'\u2581'},"
                  "{'type':'Replace','pattern':{'String':' '},'content':'\u2581'}]}",
    .pre = "null",
    .post = "null",
    .decoder = "{'type':'Sequence','decoders':[{'type':'Replace','pattern':{'String':'\u2581'},'content':' '},"
               "{'type':'ByteFallback'},{'type':'Fuse'},{'type':'Strip','content':' ','start':1,'stop':0}]}",
    .more = "'version':'1.0'",
};

static const char * or (const char *text, const char *missing)
{
    return text ? text : missing;
}

/* The 256 letters of bytes with the ids 0 .. 255, or "<0xNN>" with the same. */
static const char *byte_vocab(struct fixture *f, bool letters)
{
    char *all = kv_alloc(f->a, 1 << 14), *at = all;
    for (int i = 0; i < 256; i++) {
        char letter[8] = {0};
        kv_utf8_put(kv_byte_letter((unsigned char)i), letter);
        if (!letters)
            at += sprintf(at, "'<0x%02X>':%d,", (unsigned)i, i);
        else if (i == '\'' || i == '"' || i == '\\')
            at += sprintf(at, "'\\u%04x':%d,", (unsigned)i, i);
        else
            at += sprintf(at, "'%s':%d,", letter, i);
    }
    return all;
}

static const char *compose(struct fixture *f, bool letters, struct parts p)
{
    const struct parts *d = letters ? &byte_defaults : &piece_defaults;
    char *text = kv_format(f->a,
                           "{%s,'added_tokens':%s,'normalizer':%s,'pre_tokenizer':%s,'post_processor':%s,'decoder':%s,"
                           "'model':{'type':'BPE',%s,'merges':%s,'vocab':{%s%s}}}",
                           or (p.more, d->more), or (p.added, d->added), or (p.normalizer, d->normalizer),
                           or (p.pre, d->pre), or (p.post, d->post), or (p.decoder, d->decoder), or (p.model, d->model),
                           or (p.merges, d->merges), byte_vocab(f, letters), or (p.vocab, d->vocab));
    for (char *c = text; *c; c++)
        if (*c == '\'')
            *c = '"';
    return text;
}

static bool open_text(struct fixture *f, const char *text, size_t bytes)
{
    FILE *file = fopen(f->path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
    kv_tokenizer_close(f->t);
    memset(&f->e, 0, sizeof f->e);
    bool good = kv_tokenizer_open(&f->t, f->path, &f->e);
    assert_true(good == (f->t != NULL) && good == (f->e.n == 0));
    return good;
}

static void must_open(struct fixture *f, bool letters, struct parts p)
{
    const char *text = compose(f, letters, p);
    if (!open_text(f, text, strlen(text)))
        fail_msg("%s", f->e.text);
}

/* `says` is some part of the message. */
static void must_refuse(struct fixture *f, bool letters, struct parts p, const char *says)
{
    const char *text = compose(f, letters, p);
    if (open_text(f, text, strlen(text)))
        fail_msg("'%s' is not refused", says);
    assert_int_equal(f->e.status, KV_DATA);
    if (!strstr(f->e.text, says) || strncmp(f->e.text, f->path, strlen(f->path)))
        fail_msg("expected '%s', got '%s'", says, f->e.text);
}

/* ---- asking ---- */

static void encode_bytes(struct fixture *f, const char *text, size_t bytes, bool special, bool begin, int32_t **ids,
                         int64_t *n)
{
    if (!kv_tokenizer_encode(f->t, text, bytes, special, begin, ids, n, &f->e))
        fail_msg("'%s': %s", text, f->e.text);
}

/* `expected` is ids between blanks. */
static void same_ids(struct fixture *f, const char *text, bool special, bool begin, const char *expected)
{
    int32_t *ids;
    int64_t n;
    const char *got = "";
    encode_bytes(f, text, strlen(text), special, begin, &ids, &n);
    for (int64_t i = 0; i < n; i++)
        got = kv_format(f->a, "%s%s%d", got, i ? " " : "", ids[i]);
    free(ids);
    if (strcmp(got, expected))
        fail_msg("'%s' is %s; expected %s", text, got, expected);
}

static void has_ids(struct fixture *f, const char *text, const char *expected)
{
    same_ids(f, text, true, false, expected);
}

static void same_text(struct fixture *f, const int32_t *ids, int64_t n, bool special, const char *expected,
                      size_t bytes)
{
    char *text;
    size_t got;
    if (!kv_tokenizer_decode(f->t, ids, n, special, &text, &got, &f->e))
        fail_msg("%s", f->e.text);
    if (got != bytes || memcmp(text, expected, got))
        fail_msg("'%s'; expected '%s'", text, expected);
    assert_int_equal(text[got], 0);
    free(text);
}

#define HAS_TEXT(f, special, expected, ...)                                                                            \
    do {                                                                                                               \
        const int32_t ids_[] = {__VA_ARGS__};                                                                          \
        same_text(f, ids_, (int64_t)(sizeof ids_ / sizeof *ids_), special, expected, strlen(expected));                \
    } while (0)

static const char special_tokens[] =
    "[{'id':300,'content':'<s>','special':true,'normalized':false},"
    "{'id':301,'content':'<s>s','special':true,'normalized':false},"
    "{'id':302,'content':'[x]','special':false,'normalized':false},"
    "{'id':303,'content':'|L','special':false,'normalized':false,'lstrip':true},"
    "{'id':304,'content':'R|','special':false,'normalized':false,'rstrip':true,'single_word':false}]";

/* ---- byte level ---- */

static void merges_are_taken_by_rank(void **state)
{
    struct fixture *f = *state;
    must_open(f, true, (struct parts){0});
    assert_int_equal(kv_tokenizer_size(f->t), 260);
    has_ids(f, "", "");
    has_ids(f, "abc", "257");
    has_ids(f, "bc", "258");
    has_ids(f, "abcbcab", "257 258 256");
    has_ids(f, "ab a ab", "256 259 32 256");
    assert_int_equal(kv_tokenizer_id(f->t, "abc"), 257);
    assert_int_equal(kv_tokenizer_id(f->t, "abd"), -1);
    must_open(f, true, (struct parts){.merges = "['b c','a b',['ab','c']]"});
    has_ids(f, "abc", "97 258");
    must_open(f, true, (struct parts){.merges = "['#version: 0.2','a b','b c','ab c','a b']"}); /* now rank 3 */
    has_ids(f, "abc", "97 258");
}

static void a_whole_piece_can_be_a_token(void **state)
{
    struct fixture *f = *state;
    must_open(f, true, (struct parts){.model = "'ignore_merges':true", .merges = "['b c']"});
    has_ids(f, "abc", "257");
    has_ids(f, "abcb", "97 258 98");
    has_ids(f, "abc a", "257 259");
    must_open(f, true, (struct parts){.model = "'ignore_merges':false", .merges = "['b c']"});
    has_ids(f, "abc", "97 258");
}

static void pieces_are_those_of_gpt2(void **state)
{
    struct fixture *f = *state;
    must_open(f, true,
              (struct parts){.vocab = "'12':256,'\u0120\u0120':257,'\u010a\u010a':258,'a1':259",
                             .merges = "['1 2','\u0120 \u0120','\u010a \u010a','a 1']"});
    has_ids(f, "a12", "97 256");
    has_ids(f, "a   b", "97 257 32 98");
    has_ids(f, "a\n\n", "97 258");
}

static void byte_level_can_put_a_blank_before(void **state)
{
    struct fixture *f = *state;
    must_open(f, true, (struct parts){.pre = "{'type':'ByteLevel','add_prefix_space':true}"});
    has_ids(f, "a", "259");
    has_ids(f, " a", "259");
    has_ids(f, "\na", "32 10 97");
    must_open(f, true,
              (struct parts){.pre = "{'type':'Sequence','pretokenizers':[{'type':'Split','pattern':{'Regex':'a'},"
                                    "'behavior':'Isolated','invert':false},{'type':'ByteLevel','use_regex':false}]}"});
    has_ids(f, "aab", "259 259 32 98");
}

static void patterns_split(void **state)
{
    static const struct {
        const char *pattern, *text, *ids;
    } rows[] = {
        {"[a-b]c?", "abcabc", "97 258 97 258"},
        {"", "abc", "97 98 99"}, /* an empty match parts too */
        {"x", "abc", "257"},
        {"x*|(?<=x)", "xxxab", "120 120 120 97 98"}, /* but not right behind another match */
        {"(?i:B)", "abc", "97 98 99"},
        {"\\\\s", "ab\u3000ab", "256 227 128 128 256"},
        {"[\\\\S\\\\s]", "abc", "97 98 99"},
        {"[^\\\\s\\\\p{L}]|\\\\p{N}{1,2}", "ab1bc", "256 49 258"},
        {"\\\\u0062|\\\\x{63}|\\\\x64", "abcd", "97 98 99 100"},
        {"b(?=c)", "abcb", "97 98 99 98"},
        {"(?<=a)b", "abcb", "97 98 99 98"},
    };
    struct fixture *f = *state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        must_open(f, true,
                  (struct parts){.pre = kv_format(f->a,
                                                  "{'type':'Sequence','pretokenizers':[{'type':'Split','pattern':"
                                                  "{'Regex':'%s'},'behavior':'Isolated','invert':false},{'type':"
                                                  "'ByteLevel','add_prefix_space':false,'use_regex':false}]}",
                                                  rows[i].pattern)});
        has_ids(f, rows[i].text, rows[i].ids);
    }
}

static void patterns_that_mean_something_else_are_refused(void **state)
{
    static const char *const patterns[] = {
        "^a",          "a$",          "\\\\h",
        "\\\\w+",      "\\\\bx",      "\\\\Ga",
        "(?R)",        "(?<n>a)",     "(*LIMIT_MATCH=9)a",
        "a{1}+",       "a{1,2}?",     "a{,3}",
        "[a&&b]",      "[[:alpha:]]", "[]a]",
        "(?m)a",       "\\\\K",       "\\\\1",
        "[",           "(a",          "*",
        "\\\\p{Nope}", "[b-\\\\s]",   "[\\\\s-b]",
        "a**",         "\\\\xe9",     "(?#x)",
        "\\\\Qa",      "\\\\",        "\\\\x{110000}",
        "(?<=a*)b",
    };
    struct fixture *f = *state;
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++)
        must_refuse(f, true,
                    (struct parts){.pre = kv_format(f->a,
                                                    "{'type':'Split','pattern':{'Regex':'%s'},"
                                                    "'behavior':'Isolated','invert':false}",
                                                    patterns[i])},
                    "pattern");
}

static void a_hostile_pattern_does_not_hang(void **state)
{
    static const char *const patterns[] = {"(?:a+)+b", "(a|a)*b", "(?:a?){40}a{40}b", "(?:(?:(?:a*)*)*)*b"};
    struct fixture *f = *state;
    char text[5001];
    memset(text, 'a', 5000);
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        int32_t *ids;
        int64_t n;
        must_open(f, true,
                  (struct parts){.pre = kv_format(f->a,
                                                  "{'type':'Split','pattern':{'Regex':'%s'},"
                                                  "'behavior':'Isolated','invert':false}",
                                                  patterns[i]),
                                 .model = "'unk_token':'ab'"});
        if (kv_tokenizer_encode(f->t, text, 5000, true, false, &ids, &n, &f->e))
            free(ids); /* the compiler saw through it */
        else
            assert_non_null(strstr(f->e.text, "pattern of the pre_tokenizer"));
        memset(&f->e, 0, sizeof f->e);
    }
}

static void nfc_composes(void **state)
{
    struct fixture *f = *state;
    char marks[2 * 2 * 1000 + 2] = "a";
    must_open(f, true,
              (struct parts){.normalizer = "{'type':'NFC'}",
                             .pre = "{'type':'ByteLevel','use_regex':false,"
                                    "'add_prefix_space':false}"});
    has_ids(f, "e\u0301", "195 169");
    has_ids(f, "abc", "257");
    has_ids(f, "a\u0301\u0323", "225 186 161 204 129");
    has_ids(f, "\u1112\u1161\u11ab", "237 149 156");
    has_ids(f, "\u212b", "195 133");
    has_ids(f, "\u0958", "224 164 149 224 164 188"); /* never composed */
    for (int i = 0; i < 1000; i++)
        strcpy(marks + 1 + 4 * i, "\u0301\u0327");
    int32_t *ids;
    int64_t n;
    encode_bytes(f, marks, 4001, true, false, &ids, &n);
    assert_int_equal(n, 2 + 2000 + 1998); /* a with acute, 1000 cedillas, 999 acutes */
    assert_int_equal(ids[2], 0xCC);
    assert_int_equal(ids[3], 0xA7);
    free(ids);
}

/* ---- added tokens ---- */

static void added_tokens_are_cut_out(void **state)
{
    struct fixture *f = *state;
    must_open(f, true, (struct parts){.added = special_tokens});
    assert_int_equal(kv_tokenizer_size(f->t), 305);
    assert_int_equal(kv_tokenizer_id(f->t, "<s>s"), 301);
    has_ids(f, "<s>", "300");
    has_ids(f, "ab<s>ab", "256 300 256");
    has_ids(f, "<s>s<s><s>", "301 300 300"); /* the longest */
    has_ids(f, "<s", "60 115");
    has_ids(f, "a[x]b[x", "97 302 98 91 120");
    same_ids(f, "<s>[x]", false, false, "60 115 62 302"); /* special ones are text, others are not */
    has_ids(f, "a \t\u3000|L b", "97 303 32 98");
    has_ids(f, "a R| \n b", "97 32 304 98");
    has_ids(f, "R| |L", "304 303"); /* the blank is the first one's */
    has_ids(f, "R|  ", "304");
}

static void added_tokens_may_match_normalized_text(void **state)
{
    struct fixture *f = *state;
    must_open(f, false,
              (struct parts){.added = "[{'id':300,'content':'a b','special':false,'normalized':true},"
                                      "{'id':261,'content':'b','special':false,'normalized':false}]"});
    has_ids(f, "a b", "263 259 261"); /* 'b' is cut out first: what is left is "a " */
    has_ids(f, "bab", "261 263 261");
    must_open(f, false, (struct parts){.added = "[{'id':300,'content':'a b','special':false,'normalized':true}]"});
    has_ids(f, "a b", "300");
    has_ids(f, "ba b", "259 261 260 259 261");
    has_ids(f, "b a b", "259 261 300");
    HAS_TEXT(f, true, "b a b", 259, 261, 300);
}

static void ids_before_a_text_are_those_of_the_template(void **state)
{
    static const char post[] =
        "{'type':'Sequence','processors':[{'type':'ByteLevel','trim_offsets':false},{'type':'TemplateProcessing',"
        "'single':[{'SpecialToken':{'id':'B','type_id':0}},{'Sequence':{'id':'A','type_id':0}},{'SpecialToken':{'id':"
        "'E','type_id':0}}],'pair':[],'special_tokens':{'B':{'id':'B','ids':[300,97],'tokens':['<s>','a']},"
        "'E':{'id':'E','ids':[301],'tokens':['E']}}}]}";
    struct fixture *f = *state;
    must_open(f, true, (struct parts){.added = special_tokens, .post = post});
    same_ids(f, "ab", true, true, "300 97 256");
    same_ids(f, "ab", true, false, "256");
    same_ids(f, "", true, true, "300 97");
    must_open(f, true, (struct parts){.post = "{'type':'ByteLevel'}"});
    same_ids(f, "ab", true, true, "256");
}

/* ---- SentencePiece's kind ---- */

static void blanks_are_metaspaces(void **state)
{
    struct fixture *f = *state;
    must_open(f, false, (struct parts){0});
    has_ids(f, "", "");
    has_ids(f, "a", "263");
    has_ids(f, "ab", "264");      /* _a is the first merge; then b */
    has_ids(f, " ab", "259 264"); /* the blank before it comes too late */
    has_ids(f, "\n\u20ac", "259 10 226 130 172");
    has_ids(f, "\u00e9", "259 266");
    has_ids(f, "<0x41>", "259 60 48 120 52 49 62");
    must_open(f, false,
              (struct parts){.added = special_tokens, .vocab = "'<unk>':256,'\u2581':257,'a':258", .merges = "[]"});
    has_ids(f, "a<s>a", "257 258 300 257 258"); /* each part is normalized for itself */
}

static void unknown_characters_become_unk(void **state)
{
    struct fixture *f = *state;
    must_open(f, false, (struct parts){.model = "'unk_token':'<unk>','fuse_unk':true"});
    has_ids(f, "xyzax", "259 256 260 256");
    must_open(f, false, (struct parts){.model = "'unk_token':'<unk>','fuse_unk':false"});
    has_ids(f, "xyzax", "259 256 256 256 260 256");
    must_open(f, false, (struct parts){.model = "'unk_token':null"});
    int32_t *ids;
    int64_t n;
    assert_false(kv_tokenizer_encode(f->t, "ab\u20ac", 5, true, false, &ids, &n, &f->e));
    assert_int_equal(f->e.status, KV_DATA);
    assert_non_null(strstr(f->e.text, "U+20AC"));
}

static void metaspace_prepends_by_its_scheme(void **state)
{
    static const struct {
        const char *more, *a, *blank_a, *a_s_a;
    } rows[] = {
        {"'prepend_scheme':'always','split':false", "263", "263", "263 300 263"},
        {"'prepend_scheme':'first','split':false", "263", "263", "263 300 260"},
        {"'prepend_scheme':'never','split':false", "260", "263", "260 300 260"},
        {"'add_prefix_space':true", "263", "263", "263 300 263"},
        {"'add_prefix_space':false", "260", "263", "260 300 260"},
        {"'add_prefix_space':true,'prepend_scheme':'first'", "263", "263", "263 300 260"},
    };
    struct fixture *f = *state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        must_open(f, false,
                  (struct parts){.pre = kv_format(f->a, "{'type':'Metaspace','replacement':'\u2581',%s}", rows[i].more),
                                 .normalizer = "null",
                                 .added = special_tokens,
                                 .vocab = "'<unk>':256,'\u2581':259,'a':260,'\u2581a':263,'\u2581\u2581':265",
                                 .merges = "['\u2581 a','\u2581 \u2581']"});
        has_ids(f, "a", rows[i].a);
        has_ids(f, " a", rows[i].blank_a);
        has_ids(f, "a<s>a", rows[i].a_s_a);
        has_ids(f, "a  ", i == 0 || i == 1 ? "263 265" : i == 2 ? "260 265" : i == 4 ? "260 259 259" : "263 259 259");
    }
}

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

/* The pieces put together, with what still waits. */
static void same_pieces(struct fixture *f, const int32_t *ids, int64_t n)
{
    struct kv_decode_state s = {0};
    char out[4097], *text, *all = NULL;
    size_t bytes, used = 0;
    assert_true(kv_tokenizer_decode(f->t, ids, n, false, &text, &bytes, &f->e));
    all = calloc(bytes + 16, 1);
    for (int64_t i = 0; i < n; i++) {
        if (!kv_tokenizer_next(f->t, &s, ids[i], out, &f->e))
            fail_msg("%s", f->e.text);
        used += (size_t)snprintf(all + used, bytes + 16 - used, "%s", out);
    }
    memcpy(all + used, s.pending, (size_t)s.n_pending);
    assert_int_equal(used + (size_t)s.n_pending, bytes);
    assert_memory_equal(all, text, bytes);
    free(text);
    free(all);
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

/* ---- files that are refused ---- */

static void what_would_change_ids_is_refused_by_name(void **state)
{
    static const struct {
        struct parts p;
        const char *says;
    } rows[] = {
        {{.normalizer = "{'type':'NFKC'}"}, "NFKC"},
        {{.normalizer = "{'type':'Lowercase'}"}, "Lowercase"},
        {{.normalizer = "{'type':'NFC','x':1}"}, "'x'"},
        {{.normalizer = "{'type':'Replace','pattern':{'Regex':'a'},'content':''}"}, "Regex"},
        {{.normalizer = "{'type':'Replace','pattern':{'String':''},'content':'a'}"}, "replaces nothing"},
        {{.normalizer = "[]"}, "normalizer"},
        {{.pre = "{'type':'Whitespace'}"}, "Whitespace"},
        {{.pre = "{'type':'Digits','individual_digits':true}"}, "Digits"},
        {{.pre = "{'type':'Split','pattern':{'String':' '},'behavior':'Isolated','invert':false}"}, "String"},
        {{.pre = "{'type':'Split','pattern':{'Regex':'a'},'behavior':'Removed','invert':false}"}, "Removed"},
        {{.pre = "{'type':'Split','pattern':{'Regex':'a'},'behavior':'Isolated','invert':true}"}, "inverted"},
        {{.pre = "{'type':'Sequence','pretokenizers':[{'type':'ByteLevel'},{'type':'ByteLevel'}]}"},
         "behind ByteLevel"},
        {{.pre = "{'type':'Metaspace','replacement':'_'}"}, "replacement"},
        {{.pre = "{'type':'Metaspace','replacement':'\u2581','prepend_scheme':'last'}"}, "prepend_scheme"},
        {{.pre = "{'type':'ByteLevel','use_regex':1}"}, "use_regex"},
        {{.post = "{'type':'BertProcessing','sep':['a',1],'cls':['b',2]}"}, "BertProcessing"},
        {{.post = "{'type':'TemplateProcessing','single':[],'pair':[],'special_tokens':{}}"}, "leaves the text out"},
        {{.post = "{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'B'}},{'Sequence':{'id':'A'}}],"
                  "'special_tokens':{}}"},
         "no ids for 'B'"},
        {{.post = "{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'B'}},{'Sequence':{'id':'A'}}],"
                  "'special_tokens':{'B':{'ids':[999]}}}"},
         "not in the vocabulary"},
        {{.decoder = "null"}, "decoder"},
        {{.decoder = "{'type':'WordPiece'}"}, "WordPiece"},
        {{.decoder = "{'type':'Sequence','decoders':[{'type':'Fuse'}]}"}, "decoder"},
        {{.model = "'dropout':0.1"}, "dropout"},
        {{.model = "'continuing_subword_prefix':'##'"}, "continuing_subword_prefix"},
        {{.model = "'end_of_word_suffix':'</w>'"}, "end_of_word_suffix"},
        {{.model = "'unk_token':'<none>'"}, "<none>"},
        {{.model = "'unk_token':3"}, "unk_token"},
        {{.model = "'byte_fallback':true"}, "byte_fallback"},
        {{.model = "'fuse_unk':1"}, "fuse_unk"},
        {{.model = "'new_thing':1"}, "new_thing"},
        {{.more = "'truncation':{'max_length':5}"}, "truncation"},
        {{.more = "'padding':{'strategy':'BatchLongest'}"}, "padding"},
        {{.more = "'surprise':1"}, "surprise"},
        {{.added = "{}"}, "added_tokens"},
        {{.added = "[{'id':400,'content':'w','single_word':true}]"}, "single_word"},
        {{.added = "[{'id':400,'content':''}]"}, "without text"},
        {{.added = "[{'id':400}]"}, "content"},
        {{.added = "[{'id':-1,'content':'w'}]"}, "not a number"},
        {{.added = "[{'id':16777216,'content':'w'}]"}, "not a number"},
        {{.added = "[{'id':256,'content':'w2'}]"}, "of another token"},
        {{.added = "[{'id':400,'content':'ab'}]"}, "in the vocabulary it is 256"},
        {{.added = "[{'id':400,'content':'ww'},{'id':400,'content':'ww'}]"}, "twice"},
        {{.vocab = "'ab':97"}, "two tokens have the id 97"},
        {{.vocab = "'ab':-5"}, "'ab'"},
        {{.vocab = "'ab':'x'"}, "'ab'"},
        {{.vocab = "'ab':1.5"}, "'ab'"},
        {{.vocab = "'ab':99999999"}, "'ab'"},
        {{.merges = "['a b','x y']"}, "merge 1 of 'x' and 'y'"},
        {{.merges = "['abx']"}, "merge 0 is neither"},
        {{.merges = "['a b c']"}, "merge 0 is neither"},
        {{.merges = "[['a']]"}, "merge 0 is neither"},
        {{.merges = "[['a',1]]"}, "merge 0 is neither"},
        {{.merges = "[7]"}, "merge 0 is neither"},
        {{.merges = "{}"}, "merges"},
        {{.merges = "null"}, "merges"},
    };
    struct fixture *f = *state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        must_refuse(f, true, rows[i].p, rows[i].says);
    static const char unigram[] = "{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}";
    assert_false(open_text(f, unigram, sizeof unigram - 1));
    assert_non_null(strstr(f->e.text, "Unigram"));
    assert_false(open_text(f, "{}", 2));
    assert_false(open_text(f, "[]", 2));
    assert_false(open_text(f, "", 0));
}

/* Merges cannot go in circles: each makes a text longer. A token without text is the nearest there is. */
static void circles_end(void **state)
{
    struct fixture *f = *state;
    must_open(f, false,
              (struct parts){.vocab = "'':256,'a':260,'aa':261",
                             .merges = "[['','a'],['a',''],['',''],['a','a']]",
                             .model = "'unk_token':'','fuse_unk':false",
                             .normalizer = "null"});
    has_ids(f, "xxaxxaa", "261 260");
}

static void cut_files_are_refused(void **state)
{
    struct fixture *f = *state;
    const char *text = compose(f, true, (struct parts){.added = special_tokens});
    size_t bytes = strlen(text);
    assert_true(open_text(f, text, bytes));
    for (size_t n = 0; n < bytes; n += n + 400 < bytes ? 37 : 1)
        if (open_text(f, text, n))
            fail_msg("the first %zu of %zu bytes are taken", n, bytes);
}

/* Every byte in turn becomes another: it is taken or refused, without harm. */
static void damaged_files_do_no_harm(void **state)
{
    static const char others[] = "\"[]{},:0-x\\n \xFF";
    struct fixture *f = *state;
    char *text = kv_copy_text(f->a, compose(f, false, (struct parts){.added = special_tokens}));
    for (size_t i = 0, bytes = strlen(text); i<bytes; i += i> 700 && i + 700 < bytes ? 97 : 3) {
        char old = text[i];
        text[i] = others[i % (sizeof others - 1)];
        if (open_text(f, text, bytes)) {
            int32_t *ids;
            int64_t n;
            if (kv_tokenizer_encode(f->t, "ab <s> x", 8, true, true, &ids, &n, &f->e))
                free(ids);
        } else {
            assert_true(f->e.status == KV_DATA);
        }
        text[i] = old;
    }
}

static void garbage_is_refused(void **state)
{
    struct fixture *f = *state;
    enum { N = 10 << 20 };
    char *text = malloc(N);
    for (int i = 0; i < N; i++)
        text[i] = "[{\"a\":1,"[i % 8];
    assert_false(open_text(f, text, N));
    for (unsigned i = 0, seed = 1; i < N; i++)
        text[i] = (char)((seed = seed * 1664525u + 1013904223u) >> 24);
    assert_false(open_text(f, text, N));
    memset(text, '[', N);
    assert_false(open_text(f, text, N));
    free(text);
    assert_int_equal(f->e.status, KV_DATA);
    memset(&f->e, 0, sizeof f->e);
    assert_false(kv_tokenizer_open(&f->t, kv_format(f->a, "%s/none", f->folder), &f->e));
    assert_int_equal(f->e.status, KV_DATA);
}

static void a_folder_may_be_given(void **state)
{
    struct fixture *f = *state;
    must_open(f, true, (struct parts){0});
    kv_tokenizer_close(f->t);
    assert_true(kv_tokenizer_open(&f->t, f->folder, &f->e));
    has_ids(f, "abc", "257");
}

/* ---- golden ids ---- */

static const char *models(struct fixture *f, const char *file)
{
    const char *folder = getenv("MODELS");
    const char *path = kv_format(f->a, "%s/%s", folder ? folder : "../shared/models", file);
    if (access(path, R_OK)) {
        print_message("# skipped: no '%s'; MODELS=DIR says where the models are\n", path);
        skip();
    }
    return path;
}

static void check_text(struct fixture *f, const json_t *one, const char *ids_key)
{
    const char *prompt = json_string_value(json_object_get(one, "prompt"));
    const json_t *list = json_object_get(one, ids_key);
    int32_t *ids = calloc(json_array_size(list) + 1, sizeof *ids);
    int64_t n = (int64_t)json_array_size(list);
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, (size_t)i));
    same_text(f, ids, n, false, prompt, strlen(prompt));
    same_pieces(f, ids, n);
    free(ids);
}

static void check_ids(struct fixture *f, const json_t *one, const char *ids_key, bool begin)
{
    const char *prompt = json_string_value(json_object_get(one, "prompt"));
    const json_t *expected = json_object_get(one, ids_key);
    int32_t *ids;
    int64_t n;
    assert_non_null(prompt);
    encode_bytes(f, prompt, strlen(prompt), true, begin, &ids, &n);
    assert_int_equal(n, json_array_size(expected));
    for (int64_t i = 0; i < n; i++)
        assert_int_equal(ids[i], json_integer_value(json_array_get(expected, (size_t)i)));
    free(ids);
}

static json_t *read_json(const char *path)
{
    json_error_t mistake;
    json_t *root = json_load_file(path, 0, &mistake);
    if (!root)
        fail_msg("%s: %s", path, mistake.text);
    return root;
}

static void golden_prompts_of_stories260k(void **state)
{
    static const char *const names[] = {"p0_bos", "p1_once", "p2_zara", "p3_bytes", "p4_long"};
    struct fixture *f = *state;
    const char *folder = models(f, "stories260k");
    assert_true(kv_tokenizer_open(&f->t, folder, &f->e));
    assert_int_equal(kv_tokenizer_size(f->t), 512);
    assert_int_equal(kv_tokenizer_id(f->t, "</s>"), 2);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        json_t *one = read_json(kv_format(f->a, "%s/golden/%s.json", folder, names[i]));
        check_ids(f, one, "prompt_ids", true);
        check_text(f, one, "prompt_ids");
        json_decref(one);
    }
}

static void golden_prompts_of_recall_870k(void **state)
{
    struct fixture *f = *state;
    const char *folder = "models/recall-870k"; /* ours, in the tree */
    assert_true(kv_tokenizer_open(&f->t, folder, &f->e));
    json_t *all = read_json(kv_format(f->a, "%s/golden.json", folder));
    assert_true(json_array_size(all) > 0);
    for (size_t i = 0; i < json_array_size(all); i++) {
        const json_t *one = json_array_get(all, i);
        check_text(f, one, "ids");
        if (json_is_true(json_object_get(one, "reencodes"))) /* others were put together from parts */
            check_ids(f, one, "ids", false);
    }
    json_decref(all);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(merges_are_taken_by_rank),
        TEST(a_whole_piece_can_be_a_token),
        TEST(pieces_are_those_of_gpt2),
        TEST(byte_level_can_put_a_blank_before),
        TEST(patterns_split),
        TEST(patterns_that_mean_something_else_are_refused),
        TEST(a_hostile_pattern_does_not_hang),
        TEST(nfc_composes),
        TEST(added_tokens_are_cut_out),
        TEST(added_tokens_may_match_normalized_text),
        TEST(ids_before_a_text_are_those_of_the_template),
        TEST(blanks_are_metaspaces),
        TEST(unknown_characters_become_unk),
        TEST(metaspace_prepends_by_its_scheme),
        TEST(text_of_byte_level_ids),
        TEST(text_begins_without_the_blank_that_was_put_there),
        TEST(ids_that_are_none_are_refused),
        TEST(text_grows_by_whole_characters),
        TEST(a_piece_of_more_than_4096_bytes_is_refused),
        TEST(text_that_is_not_utf8_is_refused),
        TEST(random_texts_come_back),
        TEST(threads_may_share_one),
        TEST(merging_is_near_linear),
        TEST(what_would_change_ids_is_refused_by_name),
        TEST(circles_end),
        TEST(cut_files_are_refused),
        TEST(damaged_files_do_no_harm),
        TEST(garbage_is_refused),
        TEST(a_folder_may_be_given),
        TEST(golden_prompts_of_stories260k),
        TEST(golden_prompts_of_recall_870k),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
