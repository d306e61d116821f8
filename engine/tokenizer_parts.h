/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The stages of a tokenizer, in the order in which a text passes them:
 *   added tokens are cut out -> the rest is normalized -> added tokens that match normalized text are cut out ->
 *   the rest is split into pieces -> each piece becomes ids (bpe.h).
 * All of them are read by tokenizer_read.c and are only read from after that. Behaviour follows tokenizers 0.23. */
#ifndef KV_TOKENIZER_PARTS_H
#define KV_TOKENIZER_PARTS_H

#include "engine/bpe.h"
#include "engine/tokenizer.h"
#include "engine/tokenizer_text.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

enum { KV_STAGES = 8, KV_ADDED_MOST_BYTES = 1024 };

/* ---- added tokens ---- */

struct kv_added_token {
    const char *text; /* as it matches, and as it is decoded: normalized if it is to match normalized text */
    uint32_t bytes;
    int32_t id;
    bool special, strip_left, strip_right;
};

/* Sorted by text, so that those that begin alike stand together. */
struct kv_added {
    struct kv_added_token *token;
    size_t n;
    const struct kv_added_token **by_id; /* the same, sorted by id */
    uint32_t first[257];                 /* those that begin with byte c: token[first[c]] .. token[first[c + 1] - 1] */
};
void kv_added_sort(struct kv_added *a);
const struct kv_added_token *kv_added_find(const struct kv_added *a, int32_t id); /* which is there */

/* The next token in text[from..], and the text it takes: *begin .. *end with the blanks it strips, *after where to look
 * on. NULL: none. Leftmost, then longest. Blanks before `from_blank` are not stripped: another token has them. With
 * !special the special ones take their place but are text. */
const struct kv_added_token *kv_added_next(const struct kv_added *a, const char *text, size_t bytes, size_t from,
                                           size_t from_blank, bool special, size_t *begin, size_t *end, size_t *after);

/* ---- normalizer ---- */

struct kv_normal_step {
    enum { KV_NORMAL_NFC, KV_NORMAL_PREPEND, KV_NORMAL_REPLACE } kind;
    const char *pattern; /* replace */
    const char *content; /* replace, prepend */
    size_t pattern_bytes, content_bytes;
};

struct kv_normal {
    struct kv_normal_step step[KV_STAGES];
    int n;
};

/* The normalized text, in `out`, whose old content is lost. */
bool kv_normal_apply(const struct kv_normal *n, const char *text, size_t bytes, struct kv_text *out, struct kv_err *e);
bool kv_normal_nfc(struct kv_text *t, struct kv_err *e);

/* ---- pieces ---- */

enum kv_prepend { KV_PREPEND_NEVER, KV_PREPEND_FIRST, KV_PREPEND_ALWAYS };

struct kv_split_step {
    enum { KV_SPLIT_REGEX, KV_SPLIT_PREFIX, KV_SPLIT_METASPACE } kind; /* PREFIX: a blank before, if none is there */
    pcre2_code *code;                                                  /* of REGEX */
    enum kv_prepend prepend;                                           /* of METASPACE */
    bool cut;                                                          /* METASPACE: before each U+2581 */
};

struct kv_split {
    struct kv_split_step step[KV_STAGES];
    int n;
};

/* Adds a split by a pattern that is written for Oniguruma. What means something else to PCRE2 is refused by name. */
bool kv_split_add_regex(struct kv_split *s, const char *pattern, struct kv_err *e);
void kv_split_close(struct kv_split *s);

/* A call's own room. */
struct kv_encoding {
    const struct kv_bpe *bpe;
    struct kv_ids *ids;
    struct kv_bpe_work work;
    pcre2_match_data *match;
    pcre2_match_context *limits;
    uint64_t steps_left; /* of matching: what patterns may waste */
};

/* Appends the ids of a text; `first`: it begins the whole text. */
bool kv_split_encode(const struct kv_split *s, const char *text, size_t bytes, bool first, struct kv_encoding *c,
                     struct kv_err *e);

/* ---- decoder ---- */

struct kv_decoder {
    enum {
        KV_DECODE_BYTE_LEVEL,
        KV_DECODE_FALLBACK, /* U+2581 is a blank, <0xNN> a byte */
        KV_DECODE_METASPACE /* U+2581 is a blank; nothing in the first token, if `strip` */
    } kind;
    bool strip; /* FALLBACK: one blank at the begin of the text is left out */
};

struct kv_tokenizer {
    struct kv_arena *a;
    struct kv_bpe bpe;
    struct kv_added raw, normal; /* matched before and after normalizing */
    struct kv_normal normalizer;
    struct kv_split split;
    struct kv_decoder decoder;
    int32_t *begin; /* ids before a text */
    size_t n_begin;
};

#define KV_METASPACE       "\xE2\x96\x81" /* U+2581 */
#define KV_METASPACE_BYTES 3

/* The two halves of reading; the file's name is put before messages by the caller. */
struct json_t;
bool kv_tokenizer_read(struct kv_tokenizer *t, const char *json, size_t bytes, struct kv_err *e);
bool kv_tokenizer_read_parts(struct kv_tokenizer *t, const struct json_t *root, struct kv_err *e);

#endif
