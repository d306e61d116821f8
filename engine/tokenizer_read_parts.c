/* SPDX-License-Identifier: GPL-3.0-or-later */
/* tokenizer.json: normalizer, pre_tokenizer, post_processor, decoder. */
#include "engine/tokenizer_json.h"

#include <string.h>

static bool is_none(const json_t *value)
{
    return !value || json_is_null(value);
}

static bool is_type(const json_t *value, const char *type)
{
    return !strcmp(kv_token_json_type(value), type);
}

static bool unknown_type(struct kv_token_json *r, const char *name, const json_t *value, const char *known)
{
    if (!json_is_object(value))
        return kv_token_json_fail(r, name, value, "an object or null");
    return kv_fail(r->e, KV_DATA, "'%s' has the type '%s', which is not supported; supported: %s", name,
                   kv_token_json_type(value), known);
}

/* ---- normalizer ---- */

static bool add_normal(struct kv_token_json *r, struct kv_normal_step step)
{
    struct kv_normal *n = &r->t->normalizer;
    if (n->n == KV_STAGES)
        return kv_fail(r->e, KV_DATA, "'normalizer' has more than %d steps", KV_STAGES);
    if (step.content) {
        step.content_bytes = strlen(step.content);
        step.content = kv_copy_text(r->t->a, step.content);
    }
    if (step.pattern) {
        step.pattern_bytes = strlen(step.pattern);
        step.pattern = kv_copy_text(r->t->a, step.pattern);
    }
    n->step[n->n++] = step;
    return true;
}

static bool read_replace(struct kv_token_json *r, const json_t *value)
{
    struct kv_normal_step step = {.kind = KV_NORMAL_REPLACE};
    const json_t *pattern = json_object_get(value, "pattern");
    if (!kv_token_json_object(r, "normalizer", value, "type pattern content") ||
        !kv_token_json_object(r, "pattern of normalizer", pattern, "String") ||
        !kv_token_json_text(r, "pattern of normalizer", pattern, "String", &step.pattern) ||
        !kv_token_json_text(r, "normalizer", value, "content", &step.content))
        return false;
    if (!*step.pattern)
        return kv_fail(r->e, KV_DATA, "'normalizer' replaces nothing by something");
    return add_normal(r, step);
}

static bool read_normalizer(struct kv_token_json *r, const json_t *value)
{
    struct kv_normal_step step = {.kind = KV_NORMAL_PREPEND};
    if (is_none(value))
        return true;
    if (is_type(value, "NFC"))
        return kv_token_json_object(r, "normalizer", value, "type") &&
               add_normal(r, (struct kv_normal_step){.kind = KV_NORMAL_NFC});
    if (is_type(value, "Prepend"))
        return kv_token_json_object(r, "normalizer", value, "type prepend") &&
               kv_token_json_text(r, "normalizer", value, "prepend", &step.content) && add_normal(r, step);
    if (is_type(value, "Replace"))
        return read_replace(r, value);
    if (!is_type(value, "Sequence"))
        return unknown_type(r, "normalizer", value, "NFC, Prepend, Replace of a String, Sequence of these");
    const json_t *list = json_object_get(value, "normalizers");
    bool good = kv_token_json_object(r, "normalizer", value, "type normalizers") &&
                (json_is_array(list) || kv_token_json_fail(r, "normalizers", list, "a list"));
    for (size_t i = 0; good && i < json_array_size(list); i++)
        good = read_normalizer(r, json_array_get(list, i));
    return good;
}

/* ---- pre_tokenizer ---- */

/* ByteLevel's own, which GPT-2 brought. */
static const char gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static bool add_split(struct kv_token_json *r, struct kv_split_step step)
{
    struct kv_split *s = &r->t->split;
    if (s->n == KV_STAGES)
        return kv_fail(r->e, KV_DATA, "'pre_tokenizer' has more than %d steps", KV_STAGES);
    s->step[s->n++] = step;
    return true;
}

static bool read_byte_level(struct kv_token_json *r, const json_t *value)
{
    bool prefix, regex;
    r->t->bpe.byte_level = true;
    return kv_token_json_object(r, "pre_tokenizer", value, "type add_prefix_space trim_offsets use_regex") &&
           kv_token_json_bool(r, "pre_tokenizer", value, "add_prefix_space", true, &prefix) &&
           kv_token_json_bool(r, "pre_tokenizer", value, "use_regex", true, &regex) &&
           (!prefix || add_split(r, (struct kv_split_step){.kind = KV_SPLIT_PREFIX})) &&
           (!regex || kv_split_add_regex(&r->t->split, gpt2, r->e));
}

static bool read_split(struct kv_token_json *r, const json_t *value)
{
    const char *regex, *behavior;
    bool invert;
    const json_t *pattern = json_object_get(value, "pattern");
    if (!kv_token_json_object(r, "pre_tokenizer", value, "type pattern behavior invert") ||
        !kv_token_json_object(r, "pattern of pre_tokenizer", pattern, "Regex") ||
        !kv_token_json_text(r, "pattern of pre_tokenizer", pattern, "Regex", &regex) ||
        !kv_token_json_text(r, "pre_tokenizer", value, "behavior", &behavior) ||
        !kv_token_json_bool(r, "pre_tokenizer", value, "invert", false, &invert))
        return false;
    if (strcmp(behavior, "Isolated") || invert)
        return kv_fail(r->e, KV_DATA, "'pre_tokenizer' splits with the behavior '%s'%s; supported: Isolated", behavior,
                       invert ? ", inverted" : "");
    return kv_split_add_regex(&r->t->split, regex, r->e);
}

/* Older files have add_prefix_space instead of prepend_scheme, or both. */
static bool read_scheme(struct kv_token_json *r, const json_t *value, enum kv_prepend *prepend)
{
    const json_t *scheme = json_object_get(value, "prepend_scheme");
    const char *text = scheme ? json_string_value(scheme) : "always";
    bool prefix;
    *prepend = KV_PREPEND_NEVER;
    if (!kv_token_json_bool(r, "Metaspace", value, "add_prefix_space", true, &prefix))
        return false;
    if (!text || (strcmp(text, "always") && strcmp(text, "first") && strcmp(text, "never")))
        return kv_token_json_fail(r, "prepend_scheme", scheme, "always, first or never");
    *prepend = *text == 'a' ? KV_PREPEND_ALWAYS : *text == 'f' ? KV_PREPEND_FIRST : KV_PREPEND_NEVER;
    if (!prefix && scheme && *prepend != KV_PREPEND_NEVER)
        return kv_fail(r->e, KV_DATA, "'prepend_scheme' and 'add_prefix_space' of 'Metaspace' contradict each other");
    if (!prefix)
        *prepend = KV_PREPEND_NEVER;
    return true;
}

static bool check_metaspace(struct kv_token_json *r, const char *name, const json_t *value)
{
    const char *replacement;
    if (!kv_token_json_object(r, name, value, "type replacement add_prefix_space prepend_scheme split str_rep") ||
        !kv_token_json_text(r, name, value, "replacement", &replacement))
        return false;
    return !strcmp(replacement, KV_METASPACE) ||
           kv_fail(r->e, KV_DATA, "'replacement' of '%s' is '%s'; supported: U+2581", name, replacement);
}

static bool read_metaspace(struct kv_token_json *r, const json_t *value)
{
    struct kv_split_step step = {.kind = KV_SPLIT_METASPACE};
    if (!check_metaspace(r, "pre_tokenizer", value) || !read_scheme(r, value, &step.prepend) ||
        !kv_token_json_bool(r, "pre_tokenizer", value, "split", true, &step.cut))
        return false;
    if (r->t->split.n)
        return kv_fail(r->e, KV_DATA, "'pre_tokenizer' has other steps before Metaspace, which is not supported");
    return add_split(r, step);
}

static bool read_pre_tokenizer(struct kv_token_json *r, const json_t *value)
{
    if (is_none(value))
        return true;
    if (r->t->bpe.byte_level)
        return kv_fail(r->e, KV_DATA, "'pre_tokenizer' has steps behind ByteLevel, which is not supported");
    if (is_type(value, "ByteLevel"))
        return read_byte_level(r, value);
    if (is_type(value, "Split"))
        return read_split(r, value);
    if (is_type(value, "Metaspace"))
        return read_metaspace(r, value);
    if (!is_type(value, "Sequence"))
        return unknown_type(r, "pre_tokenizer", value, "ByteLevel, Split by a Regex, Metaspace, Sequence of these");
    const json_t *list = json_object_get(value, "pretokenizers");
    bool good = kv_token_json_object(r, "pre_tokenizer", value, "type pretokenizers") &&
                (json_is_array(list) || kv_token_json_fail(r, "pretokenizers", list, "a list"));
    for (size_t i = 0; good && i < json_array_size(list); i++)
        good = read_pre_tokenizer(r, json_array_get(list, i));
    return good;
}

/* ---- post_processor ---- */

enum { BEGIN_MOST = 64 };

/* The ids that a template's special token stands for, put before a text unless `after`. */
static bool read_special(struct kv_token_json *r, const json_t *special, const json_t *table, bool after)
{
    struct kv_tokenizer *t = r->t;
    const char *name;
    if (!kv_token_json_text(r, "SpecialToken", special, "id", &name))
        return false;
    const json_t *ids = json_object_get(json_object_get(table, name), "ids");
    if (!json_is_array(ids))
        return kv_fail(r->e, KV_DATA, "'post_processor' has no ids for '%s'", name);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        json_int_t number = json_is_integer(id) ? json_integer_value(id) : -1;
        if (number < 0 || number >= t->bpe.size || !t->bpe.token[number].flags)
            return kv_fail(r->e, KV_DATA, "'post_processor' has an id for '%s' that is not in the vocabulary", name);
        if (!after && t->n_begin == BEGIN_MOST)
            return kv_fail(r->e, KV_DATA, "'post_processor' puts more than %d tokens before a text", BEGIN_MOST);
        if (!after)
            t->begin[t->n_begin++] = (int32_t)number;
    }
    return true;
}

/* A template for one text: what stands behind the text is read but not used, for a prompt is to be gone on with. */
static bool read_template(struct kv_token_json *r, const json_t *value)
{
    const json_t *single = json_object_get(value, "single");
    bool after = false, good = kv_token_json_object(r, "post_processor", value, "type single pair special_tokens");
    if (good && (!json_is_array(single) || r->t->begin))
        return kv_token_json_fail(r, "post_processor.single", single, "one list");
    r->t->begin = KV_NEW_N(r->t->a, int32_t, BEGIN_MOST);
    for (size_t i = 0; good && i < json_array_size(single); i++) {
        const json_t *piece = json_array_get(single, i), *special = json_object_get(piece, "SpecialToken"),
                     *text = json_object_get(piece, "Sequence");
        const char *id = json_string_value(json_object_get(text, "id"));
        if (special && !text)
            good = read_special(r, special, json_object_get(value, "special_tokens"), after);
        else if (!special && id && !strcmp(id, "A") && !after)
            after = true;
        else
            return kv_fail(r->e, KV_DATA, "'post_processor.single' is not special tokens and one text A");
    }
    if (good && !after)
        return kv_fail(r->e, KV_DATA, "'post_processor.single' leaves the text out");
    return good;
}

static bool read_post_processor(struct kv_token_json *r, const json_t *value)
{
    if (is_none(value) || is_type(value, "ByteLevel")) /* the latter concerns offsets only */
        return true;
    if (is_type(value, "TemplateProcessing"))
        return read_template(r, value);
    if (!is_type(value, "Sequence"))
        return unknown_type(r, "post_processor", value, "ByteLevel, TemplateProcessing, Sequence of these");
    const json_t *list = json_object_get(value, "processors");
    bool good = kv_token_json_object(r, "post_processor", value, "type processors") &&
                (json_is_array(list) || kv_token_json_fail(r, "processors", list, "a list"));
    for (size_t i = 0; good && i < json_array_size(list); i++)
        good = read_post_processor(r, json_array_get(list, i));
    return good;
}

/* ---- decoder ---- */

/* U+2581 becomes a blank. */
static bool is_unreplace(const json_t *value)
{
    const char *pattern = json_string_value(json_object_get(json_object_get(value, "pattern"), "String"));
    const char *content = json_string_value(json_object_get(value, "content"));
    return is_type(value, "Replace") && pattern && content && !strcmp(pattern, KV_METASPACE) && !strcmp(content, " ");
}

static bool is_strip(const json_t *value)
{
    const char *content = json_string_value(json_object_get(value, "content"));
    const json_t *start = json_object_get(value, "start"), *stop = json_object_get(value, "stop");
    return is_type(value, "Strip") && content && !strcmp(content, " ") && json_is_integer(start) &&
           json_integer_value(start) == 1 && json_is_integer(stop) && json_integer_value(stop) == 0;
}

static bool read_fallback(struct kv_token_json *r, const json_t *value)
{
    const json_t *list = json_object_get(value, "decoders");
    size_t n = json_array_size(list);
    bool known = (n == 3 || n == 4) && is_unreplace(json_array_get(list, 0)) &&
                 is_type(json_array_get(list, 1), "ByteFallback") && is_type(json_array_get(list, 2), "Fuse") &&
                 (n == 3 || is_strip(json_array_get(list, 3)));
    if (!known)
        return kv_fail(r->e, KV_DATA,
                       "'decoder' is a Sequence that is not supported; supported: Replace U+2581 by ' ', ByteFallback, "
                       "Fuse, with or without Strip of one ' ' at the start");
    r->t->decoder = (struct kv_decoder){KV_DECODE_FALLBACK, n == 4};
    return true;
}

static bool read_decoder(struct kv_token_json *r, const json_t *value)
{
    enum kv_prepend prepend;
    if (is_type(value, "ByteLevel")) {
        r->t->decoder = (struct kv_decoder){KV_DECODE_BYTE_LEVEL, false};
        return true;
    }
    if (is_type(value, "Sequence"))
        return read_fallback(r, value);
    if (!is_type(value, "Metaspace"))
        return is_none(value) ? kv_fail(r->e, KV_DATA, "there is no 'decoder'; expected ByteLevel, Metaspace, Sequence")
                              : unknown_type(r, "decoder", value, "ByteLevel, Metaspace, Sequence with ByteFallback");
    if (!check_metaspace(r, "decoder", value) || !read_scheme(r, value, &prepend))
        return false;
    r->t->decoder = (struct kv_decoder){KV_DECODE_METASPACE, prepend != KV_PREPEND_NEVER};
    return true;
}

/* ---- all ---- */

/* They would cut or fill up what is encoded. */
static bool check_none(struct kv_token_json *r, const json_t *root, const char *key)
{
    const json_t *value = json_object_get(root, key);
    return is_none(value) || kv_token_json_fail(r, key, value, "null: it is not supported");
}

bool kv_tokenizer_read_parts(struct kv_tokenizer *t, const struct json_t *root, struct kv_err *e)
{
    struct kv_token_json r = {t, e};
    if (!check_none(&r, root, "truncation") || !check_none(&r, root, "padding") ||
        !read_normalizer(&r, json_object_get(root, "normalizer")) ||
        !read_pre_tokenizer(&r, json_object_get(root, "pre_tokenizer")))
        return false;
    if (t->bpe.byte_level && t->bpe.byte_fallback)
        return kv_fail(e, KV_DATA, "'byte_fallback' together with ByteLevel is not supported");
    return read_post_processor(&r, json_object_get(root, "post_processor")) &&
           read_decoder(&r, json_object_get(root, "decoder"));
}
