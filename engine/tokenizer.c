/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "engine/tokenizer_parts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- open, close ---- */

enum { FILE_MOST_BYTES = 256 << 20 };

/* The whole file, ended by '\0'. It may be a pipe, so its size is what is read. */
static bool read_whole(FILE *file, struct kv_text *text, struct kv_err *e)
{
    size_t got = 1;
    while (got && text->n <= FILE_MOST_BYTES) {
        char *grown = kv_grown(text->data, &text->room, text->n + (64 << 10) + 1, 1, e);
        if (!grown)
            return false;
        text->data = grown;
        got = fread(text->data + text->n, 1, text->room - text->n - 1, file);
        text->n += got;
    }
    if (ferror(file))
        return kv_fail(e, KV_ENV, "cannot read: %s", strerror(errno));
    if (text->n > FILE_MOST_BYTES)
        return kv_fail(e, KV_DATA, "more than %d MiB; expected a tokenizer.json", FILE_MOST_BYTES >> 20);
    return true;
}

static bool read_file(struct kv_tokenizer *t, const char *name, struct kv_err *e)
{
    struct kv_text text = {0};
    FILE *file = fopen(name, "r");
    if (!file)
        return kv_fail(e, KV_DATA, "cannot open '%s': %s; expected the tokenizer.json of a Hugging Face model", name,
                       strerror(errno));
    bool good = read_whole(file, &text, e) && kv_tokenizer_read(t, text.data, text.n, e);
    fclose(file);
    free(text.data);
    return good || kv_while(e, "%s", name);
}

bool kv_tokenizer_open(struct kv_tokenizer **out, const char *path, struct kv_err *e)
{
    struct stat about;
    struct kv_arena *a = kv_arena_open();
    struct kv_tokenizer *t = KV_NEW(a, struct kv_tokenizer);
    t->a = a;
    bool folder = stat(path, &about) == 0 && S_ISDIR(about.st_mode);
    *out = NULL;
    if (read_file(t, folder ? kv_format(a, "%s/tokenizer.json", path) : path, e))
        *out = t;
    else
        kv_tokenizer_close(t);
    return *out != NULL;
}

void kv_tokenizer_close(struct kv_tokenizer *t)
{
    if (!t)
        return;
    kv_split_close(&t->split);
    kv_arena_close(t->a);
}

int32_t kv_tokenizer_size(const struct kv_tokenizer *t)
{
    return t->bpe.size;
}

int32_t kv_tokenizer_id(const struct kv_tokenizer *t, const char *token)
{
    return kv_bpe_find(&t->bpe, token, strlen(token), 0);
}

/* ---- encode ---- */

typedef bool text_between(const struct kv_tokenizer *t, const char *text, size_t bytes, bool special, bool first,
                          struct kv_encoding *c, struct kv_err *e);

static bool encode_between(const struct kv_tokenizer *t, const char *text, size_t bytes, bool special, bool first,
                           struct kv_encoding *c, struct kv_err *e)
{
    (void)special;
    return kv_split_encode(&t->split, text, bytes, first, c, e);
}

/* Ids of the added tokens in a text, and what `between` makes of the text between them. */
static bool cut_added(const struct kv_tokenizer *t, const struct kv_added *added, text_between *between,
                      const char *text, size_t bytes, bool special, bool first, struct kv_encoding *c, struct kv_err *e)
{
    size_t done = 0, begin, end, after = 0;
    const struct kv_added_token *token;
    while ((token = kv_added_next(added, text, bytes, after, done, special, &begin, &end, &after))) {
        if (done < begin && !between(t, text + done, begin - done, special, first && done == 0, c, e))
            return false;
        if (!kv_ids_add(c->ids, token->id, e))
            return false;
        done = end;
    }
    return done >= bytes || between(t, text + done, bytes - done, special, first && done == 0, c, e);
}

static bool normalize_between(const struct kv_tokenizer *t, const char *text, size_t bytes, bool special, bool first,
                              struct kv_encoding *c, struct kv_err *e)
{
    struct kv_text normal = {0};
    if (!t->normalizer.n)
        return cut_added(t, &t->normal, encode_between, text, bytes, special, first, c, e);
    bool good = kv_normal_apply(&t->normalizer, text, bytes, &normal, e) &&
                cut_added(t, &t->normal, encode_between, normal.data, normal.n, special, first, c, e);
    free(normal.data);
    return good;
}

static bool open_encoding(struct kv_encoding *c, size_t bytes, struct kv_err *e)
{
    enum { HEAP_KIB = 64 << 10, STEPS = 10000000, STEPS_A_BYTE = 100 };
    c->match = pcre2_match_data_create(1, NULL);
    c->limits = pcre2_match_context_create(NULL);
    c->steps_left = STEPS + (uint64_t)bytes * STEPS_A_BYTE;
    if (!c->match || !c->limits)
        return kv_fail(e, KV_ENV, "no memory for matching patterns");
    pcre2_set_heap_limit(c->limits, HEAP_KIB);
    return true;
}

static void close_encoding(struct kv_encoding *c)
{
    pcre2_match_data_free(c->match);
    pcre2_match_context_free(c->limits);
    kv_bpe_work_free(&c->work);
}

static bool check_text(const char *text, size_t bytes, struct kv_err *e)
{
    if (bytes > KV_TEXT_MOST_BYTES)
        return kv_fail(e, KV_DATA, "the text has %zu bytes; at most %d are taken", bytes, KV_TEXT_MOST_BYTES);
    size_t valid = kv_utf8_valid(text, bytes);
    if (valid < bytes)
        return kv_fail(e, KV_DATA, "byte %zu of the text, 0x%02X, is not UTF-8", valid, (unsigned char)text[valid]);
    return true;
}

bool kv_tokenizer_encode(const struct kv_tokenizer *t, const char *text, size_t bytes, bool special, bool begin,
                         int32_t **out, int64_t *n, struct kv_err *e)
{
    struct kv_ids ids = {0};
    struct kv_encoding c = {.bpe = &t->bpe, .ids = &ids};
    *out = NULL;
    *n = 0;
    if (!check_text(text, bytes, e))
        return false;
    bool good = open_encoding(&c, bytes, e);
    for (size_t i = 0; good && begin && i < t->n_begin; i++)
        good = kv_ids_add(&ids, t->begin[i], e);
    good = good && (!bytes || cut_added(t, &t->raw, normalize_between, text, bytes, special, true, &c, e));
    if (good && !ids.id) { /* never NULL: no ids are a result too */
        ids.id = calloc(1, sizeof *ids.id);
        good = ids.id || kv_fail(e, KV_ENV, "no memory for a text's tokens");
    }
    close_encoding(&c);
    if (!good) {
        free(ids.id);
        return false;
    }
    *out = ids.id;
    *n = (int64_t)ids.n;
    return true;
}
