/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Ids of texts: of tokenizers made here, and of two that come with golden ids. Whether ids are those of Hugging Face
 * for hard texts is what tests/peers/compare_tokenizer.py asks. */
#include "tests/unit/tokenizer_made.h"

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
        TEST(golden_prompts_of_stories260k),
        TEST(golden_prompts_of_recall_870k),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
