/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Files that are no tokenizer, or one whose ids would not be right: refused by name, and never any harm. */
#include "tests/unit/tokenizer_made.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_would_change_ids_is_refused_by_name),
        TEST(circles_end),
        TEST(cut_files_are_refused),
        TEST(damaged_files_do_no_harm),
        TEST(garbage_is_refused),
        TEST(a_folder_may_be_given),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
