/* SPDX-License-Identifier: GPL-3.0-or-later */
/* tokenizer.json: the vocabulary, the merges, the added tokens. */
#include "engine/tokenizer_json.h"

#include <stdlib.h>
#include <string.h>

/* ---- values ---- */

bool kv_token_json_fail(struct kv_token_json *r, const char *name, const json_t *value, const char *expected)
{
    enum { SHOWN = 60 };
    if (!value)
        return kv_fail(r->e, KV_DATA, "'%s' is missing; expected %s", name, expected);
    if (json_is_array(value) || json_is_object(value)) /* it may be of any size */
        return kv_fail(r->e, KV_DATA, "'%s' is %s; expected %s", name, json_is_array(value) ? "a list" : "an object",
                       expected);
    char *text = json_dumps(value, JSON_ENCODE_ANY);
    kv_fail(r->e, KV_DATA, "'%s' is %.*s%s; expected %s", name, SHOWN, text ? text : "?",
            text && strlen(text) > SHOWN ? "..." : "", expected);
    free(text);
    return false;
}

static bool is_word_of(const char *words, const char *word)
{
    size_t bytes = strlen(word);
    for (const char *at = words; bytes && (at = strstr(at, word)); at += bytes)
        if ((at == words || at[-1] == ' ') && (at[bytes] == ' ' || !at[bytes]))
            return true;
    return false;
}

bool kv_token_json_object(struct kv_token_json *r, const char *name, const json_t *value, const char *keys)
{
    const char *key;
    const json_t *member;
    if (!json_is_object(value))
        return kv_token_json_fail(r, name, value, "an object");
    json_object_foreach ((json_t *)(uintptr_t)value, key, member) {
        if (!is_word_of(keys, key))
            return kv_fail(r->e, KV_DATA, "'%s' has '%s', which is not known; known: %s", name, key, keys);
    }
    return true;
}

bool kv_token_json_bool(struct kv_token_json *r, const char *name, const json_t *object, const char *key, bool missing,
                        bool *out)
{
    const json_t *value = json_object_get(object, key);
    *out = value && !json_is_null(value) ? json_is_true(value) : missing;
    if (value && !json_is_null(value) && !json_is_boolean(value))
        return kv_fail(r->e, KV_DATA, "'%s' of '%s' is not true or false", key, name);
    return true;
}

bool kv_token_json_text(struct kv_token_json *r, const char *name, const json_t *object, const char *key,
                        const char **out)
{
    const json_t *value = json_object_get(object, key);
    *out = json_string_value(value);
    return *out ||
           kv_fail(r->e, KV_DATA, "'%s' of '%s' is %s; expected a text", key, name, value ? "not a text" : "missing");
}

const char *kv_token_json_type(const json_t *object)
{
    const char *type = json_string_value(json_object_get(object, "type"));
    return type ? type : "";
}

/* ---- the vocabulary ---- */

struct extent {
    int32_t size;
    size_t tokens, bytes;
};

static bool measure(struct kv_token_json *r, const char *text, const json_t *id, size_t most, struct extent *x)
{
    size_t bytes = strlen(text);
    json_int_t number = json_integer_value(id);
    if (!json_is_integer(id) || number < 0 || number >= KV_TOKEN_MOST)
        return kv_fail(r->e, KV_DATA, "the id of token '%s' is not a number from 0 to %d", text, KV_TOKEN_MOST - 1);
    if (bytes >= most)
        return kv_fail(r->e, KV_DATA, "token %lld has %zu bytes; at most %zu are taken", (long long)number, bytes,
                       most - 1);
    if (number >= x->size)
        x->size = (int32_t)number + 1;
    x->tokens++;
    x->bytes += bytes;
    return true;
}

static bool measure_all(struct kv_token_json *r, json_t *vocab, const json_t *added, struct extent *x)
{
    const char *text;
    const json_t *value;
    size_t i;
    json_object_foreach (vocab, text, value) {
        if (!measure(r, text, value, KV_TOKEN_MOST_BYTES, x))
            return false;
    }
    json_array_foreach (added, i, value) {
        if (!kv_token_json_object(r, "added_tokens", value,
                                  "id content single_word lstrip rstrip normalized special") ||
            !kv_token_json_text(r, "added_tokens", value, "content", &text) ||
            !measure(r, text, json_object_get(value, "id"), KV_ADDED_MOST_BYTES + 1, x))
            return false;
        if (!*text)
            return kv_fail(r->e, KV_DATA, "'added_tokens' has one without text");
    }
    return true;
}

static bool add_vocab(struct kv_token_json *r, json_t *vocab)
{
    const char *text;
    const json_t *value;
    json_object_foreach (vocab, text, value) {
        int32_t id = (int32_t)json_integer_value(value);
        if (!kv_bpe_add(&r->t->bpe, id, text, strlen(text), KV_TOKEN_MODEL))
            return kv_fail(r->e, KV_DATA, "two tokens have the id %d; one is '%s'", id, text);
    }
    return true;
}

/* ---- merges ---- */

/* The two texts of a merge, "a b" or ["a", "b"]. */
static bool merge_texts(const json_t *merge, const char **left, size_t *left_bytes, const char **right,
                        size_t *right_bytes)
{
    const char *text = json_string_value(merge), *blank = text ? strchr(text, ' ') : NULL;
    if (text) {
        *left = text;
        *right = blank ? blank + 1 : text;
        *left_bytes = blank ? (size_t)(blank - text) : 0;
        *right_bytes = strlen(*right);
        return blank && !strchr(blank + 1, ' ');
    }
    *left = json_string_value(json_array_get(merge, 0));
    *right = json_string_value(json_array_get(merge, 1));
    *left_bytes = *left ? strlen(*left) : 0;
    *right_bytes = *right ? strlen(*right) : 0;
    return json_array_size(merge) == 2 && *left && *right;
}

static bool add_merge(struct kv_token_json *r, const json_t *merge, uint32_t rank, struct kv_text *both)
{
    const char *left, *right;
    size_t left_bytes, right_bytes;
    const struct kv_bpe *b = &r->t->bpe;
    if (!merge_texts(merge, &left, &left_bytes, &right, &right_bytes))
        return kv_fail(r->e, KV_DATA, "merge %u is neither \"a b\" nor [\"a\", \"b\"]", rank);
    both->n = 0;
    if (!kv_text_add(both, left, left_bytes, r->e) || !kv_text_add(both, right, right_bytes, r->e))
        return false;
    int32_t left_id = kv_bpe_find(b, left, left_bytes, 0), right_id = kv_bpe_find(b, right, right_bytes, 0),
            into = kv_bpe_find(b, both->data, both->n, 0);
    if (left_id < 0 || right_id < 0 || into < 0)
        return kv_fail(r->e, KV_DATA, "merge %u of '%.*s' and '%s' uses a token that is not in the vocabulary", rank,
                       (int)left_bytes, left, right);
    kv_bpe_add_merge(&r->t->bpe, left_id, right_id, rank, into);
    return true;
}

static bool add_merges(struct kv_token_json *r, const json_t *merges)
{
    struct kv_text both = {0};
    uint32_t rank = 0;
    bool good = true;
    for (size_t i = 0; good && i < json_array_size(merges); i++) {
        const json_t *merge = json_array_get(merges, i);
        const char *text = json_string_value(merge);
        if (!text || strncmp(text, "#version", 8)) /* a line of the older merges.txt */
            good = add_merge(r, merge, rank++, &both);
    }
    free(both.data);
    return good;
}

/* ---- the model ---- */

/* Settings that are off when missing, null, zero or empty. */
static bool check_off(struct kv_token_json *r, const json_t *model)
{
    static const char *const keys[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json_t *value = json_object_get(model, keys[i]);
        const char *text = json_string_value(value);
        bool off = !value || json_is_null(value) || (text && !*text) ||
                   (json_is_number(value) && json_number_value(value) == 0);
        if (!off)
            return kv_token_json_fail(r, keys[i], value, "null: it is not supported");
    }
    return true;
}

static bool read_settings(struct kv_token_json *r, const json_t *model)
{
    struct kv_bpe *b = &r->t->bpe;
    const json_t *unk = json_object_get(model, "unk_token");
    const char *text = json_string_value(unk);
    if (unk && !json_is_null(unk) && !text)
        return kv_token_json_fail(r, "unk_token", unk, "a text or null");
    b->unk = text ? kv_bpe_find(b, text, strlen(text), 0) : -1;
    if (text && b->unk < 0)
        return kv_fail(r->e, KV_DATA, "'unk_token' is '%s', which is not in the vocabulary", text);
    return check_off(r, model) && kv_token_json_bool(r, "model", model, "fuse_unk", false, &b->fuse_unk) &&
           kv_token_json_bool(r, "model", model, "byte_fallback", false, &b->byte_fallback) &&
           kv_token_json_bool(r, "model", model, "ignore_merges", false, &b->ignore_merges);
}

static bool read_model(struct kv_token_json *r, const json_t *model, const json_t *added)
{
    struct extent x = {0};
    json_t *vocab = json_object_get(model, "vocab");
    const json_t *merges = json_object_get(model, "merges"), *type = json_object_get(model, "type");
    if (!json_is_object(model))
        return kv_token_json_fail(r, "model", model, "an object");
    if (strcmp(kv_token_json_type(model), "BPE"))
        return kv_token_json_fail(r, "model.type", type, "BPE: other kinds of model are not supported");
    if (!kv_token_json_object(
            r, "model", model,
            "type dropout unk_token continuing_subword_prefix end_of_word_suffix fuse_unk byte_fallback "
            "ignore_merges vocab merges"))
        return false;
    if (!json_is_object(vocab) || !json_object_size(vocab))
        return kv_token_json_fail(r, "model.vocab", vocab, "an object of tokens and their ids");
    if (!json_is_array(merges))
        return kv_token_json_fail(r, "model.merges", merges, "a list");
    return measure_all(r, vocab, added, &x) &&
           kv_bpe_make(&r->t->bpe, x.size, x.tokens, x.bytes, json_array_size(merges), r->t->a, r->e) &&
           add_vocab(r, vocab) && add_merges(r, merges) && read_settings(r, model);
}

/* ---- added tokens ---- */

/* Into the vocabulary, if it is not there. */
static bool know_added(struct kv_token_json *r, const char *text, int32_t id, bool special)
{
    struct kv_bpe *b = &r->t->bpe;
    unsigned flags = KV_TOKEN_ADDED | (special ? KV_TOKEN_SPECIAL : 0u);
    int32_t there = kv_bpe_find(b, text, strlen(text), 0);
    if (there >= 0 && there != id)
        return kv_fail(r->e, KV_DATA, "the added token '%s' has the id %d, in the vocabulary it is %d", text, id,
                       there);
    if (there >= 0 && b->token[id].flags & KV_TOKEN_ADDED)
        return kv_fail(r->e, KV_DATA, "the token '%s' is added twice", text);
    if (there >= 0)
        b->token[id].flags |= flags & 0xFF;
    else if (!kv_bpe_add(b, id, text, strlen(text), flags))
        return kv_fail(r->e, KV_DATA, "the added token '%s' has the id %d of another token", text, id);
    return true;
}

static bool read_added_token(struct kv_token_json *r, const json_t *value)
{
    const char *text = json_string_value(json_object_get(value, "content"));
    int32_t id = (int32_t)json_integer_value(json_object_get(value, "id"));
    bool single_word, normalized;
    struct kv_added_token token = {.text = text, .bytes = (uint32_t)strlen(text), .id = id};
    if (!kv_token_json_bool(r, text, value, "single_word", false, &single_word) ||
        !kv_token_json_bool(r, text, value, "lstrip", false, &token.strip_left) ||
        !kv_token_json_bool(r, text, value, "rstrip", false, &token.strip_right) ||
        !kv_token_json_bool(r, text, value, "special", false, &token.special) ||
        !kv_token_json_bool(r, text, value, "normalized", !token.special, &normalized))
        return false;
    if (single_word)
        return kv_fail(r->e, KV_DATA, "the added token '%s' has 'single_word', which is not supported", text);
    if (!know_added(r, text, id, token.special))
        return false;
    struct kv_added *list = normalized ? &r->t->normal : &r->t->raw;
    token.text = kv_copy_part(r->t->a, text, token.bytes);
    list->token[list->n++] = token;
    return true;
}

static bool read_added(struct kv_token_json *r, const json_t *added)
{
    size_t n = json_array_size(added);
    for (int i = 0; i < 2; i++) {
        struct kv_added *list = i ? &r->t->normal : &r->t->raw;
        list->token = kv_alloc_many(r->t->a, n, sizeof *list->token, "added tokens", r->e);
        list->by_id = list->token ? kv_alloc_many(r->t->a, n, sizeof(void *), "added tokens", r->e) : NULL;
        if (!list->by_id)
            return false;
    }
    for (size_t i = 0; i < n; i++)
        if (!read_added_token(r, json_array_get(added, i)))
            return false;
    return true;
}

/* What is to match normalized text is normalized itself. */
static bool normalize_added(struct kv_token_json *r)
{
    struct kv_text text = {0};
    struct kv_added *list = &r->t->normal;
    bool good = true;
    for (size_t i = 0; good && i < list->n; i++) {
        struct kv_added_token *token = &list->token[i];
        good = kv_normal_apply(&r->t->normalizer, token->text, token->bytes, &text, r->e);
        if (good && (!text.n || text.n > KV_ADDED_MOST_BYTES))
            good =
                kv_fail(r->e, KV_DATA, "the added token '%s' has %zu bytes once it is normalized", token->text, text.n);
        else if (good && (text.n != token->bytes || memcmp(text.data, token->text, text.n))) {
            token->text = kv_copy_part(r->t->a, text.data, text.n);
            token->bytes = (uint32_t)text.n;
            r->t->bpe.token[token->id].flags |= KV_TOKEN_CHANGED;
        }
    }
    free(text.data);
    kv_added_sort(&r->t->raw);
    kv_added_sort(list);
    return good;
}

/* ---- the file ---- */

static bool read_root(struct kv_token_json *r, const json_t *root)
{
    const json_t *added = json_object_get(root, "added_tokens");
    if (!kv_token_json_object(
            r, "tokenizer.json", root,
            "version truncation padding added_tokens normalizer pre_tokenizer post_processor decoder model"))
        return false;
    if (added && !json_is_null(added) && !json_is_array(added))
        return kv_token_json_fail(r, "added_tokens", added, "a list");
    if (!read_model(r, json_object_get(root, "model"), added) || !read_added(r, added) ||
        !kv_tokenizer_read_parts(r->t, root, r->e) || !normalize_added(r))
        return false;
    kv_bpe_finish(&r->t->bpe);
    return true;
}

bool kv_tokenizer_read(struct kv_tokenizer *t, const char *json, size_t bytes, struct kv_err *e)
{
    json_error_t mistake;
    struct kv_token_json r = {t, e};
    json_t *root = json_loadb(json, bytes, JSON_REJECT_DUPLICATES, &mistake);
    if (!root)
        return kv_fail(e, KV_DATA, "line %d, column %d: not JSON: %s", mistake.line, mistake.column, mistake.text);
    bool good = read_root(&r, root);
    json_decref(root);
    return good;
}
