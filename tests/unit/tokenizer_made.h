/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Tokenizers made for a test, one for each thing a tokenizer.json can say; what they make of a text, and of ids. */
#ifndef KV_TOKENIZER_MADE_H
#define KV_TOKENIZER_MADE_H

#include "engine/tokenizer.h"
#include "engine/tokenizer_parts.h"
#include "tests/unit/fixture.h"

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

static inline int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->a = kv_arena_open();
    f->folder = make_folder("tokenizer", f->a);
    f->path = kv_format(f->a, "%s/tokenizer.json", f->folder);
    *state = f;
    return 0;
}

static inline int tear_down(void **state)
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

static inline const char * or (const char *text, const char *missing)
{
    return text ? text : missing;
}

/* The 256 letters of bytes with the ids 0 .. 255, or "<0xNN>" with the same. */
static inline const char *byte_vocab(struct fixture *f, bool letters)
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

static inline const char *compose(struct fixture *f, bool letters, struct parts p)
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

static inline bool open_text(struct fixture *f, const char *text, size_t bytes)
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

static inline void must_open(struct fixture *f, bool letters, struct parts p)
{
    const char *text = compose(f, letters, p);
    if (!open_text(f, text, strlen(text)))
        fail_msg("%s", f->e.text);
}

/* `says` is some part of the message. */
static inline void must_refuse(struct fixture *f, bool letters, struct parts p, const char *says)
{
    const char *text = compose(f, letters, p);
    if (open_text(f, text, strlen(text)))
        fail_msg("'%s' is not refused", says);
    assert_int_equal(f->e.status, KV_DATA);
    if (!strstr(f->e.text, says) || strncmp(f->e.text, f->path, strlen(f->path)))
        fail_msg("expected '%s', got '%s'", says, f->e.text);
}

/* ---- asking ---- */

static inline void encode_bytes(struct fixture *f, const char *text, size_t bytes, bool special, bool begin,
                                int32_t **ids, int64_t *n)
{
    if (!kv_tokenizer_encode(f->t, text, bytes, special, begin, ids, n, &f->e))
        fail_msg("'%s': %s", text, f->e.text);
}

/* `expected` is ids between blanks. */
static inline void same_ids(struct fixture *f, const char *text, bool special, bool begin, const char *expected)
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

static inline void has_ids(struct fixture *f, const char *text, const char *expected)
{
    same_ids(f, text, true, false, expected);
}

static inline void same_text(struct fixture *f, const int32_t *ids, int64_t n, bool special, const char *expected,
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

/* The pieces put together, with what still waits. */
static inline void same_pieces(struct fixture *f, const int32_t *ids, int64_t n)
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

static const char special_tokens[] =
    "[{'id':300,'content':'<s>','special':true,'normalized':false},"
    "{'id':301,'content':'<s>s','special':true,'normalized':false},"
    "{'id':302,'content':'[x]','special':false,'normalized':false},"
    "{'id':303,'content':'|L','special':false,'normalized':false,'lstrip':true},"
    "{'id':304,'content':'R|','special':false,'normalized':false,'rstrip':true,'single_word':false}]";

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

#endif
