/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Ids into text. */
#include "engine/tokenizer_parts.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* The bytes that letters of the byte-level alphabet stand for; a token with any other letter is text as it is. */
static size_t from_letters(const char *text, size_t bytes, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < bytes; i += kv_utf8_length(text[i])) {
        int byte = kv_letter_byte(kv_utf8_get(text + i));
        if (byte < 0) {
            memcpy(out, text, bytes);
            return bytes;
        }
        out[n++] = (char)byte;
    }
    return n;
}

static int hex(char c)
{
    return isdigit((unsigned char)c) ? c - '0' : tolower((unsigned char)c) - 'a' + 10;
}

/* "<0xNN>" */
static bool is_byte(const char *text, size_t bytes)
{
    return bytes == 6 && !memcmp(text, "<0x", 3) && isxdigit((unsigned char)text[3]) &&
           isxdigit((unsigned char)text[4]) && text[5] == '>';
}

static size_t from_metaspace(const char *text, size_t bytes, const char *blank, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < bytes;) {
        bool meta = bytes - i >= KV_METASPACE_BYTES && !memcmp(text + i, KV_METASPACE, KV_METASPACE_BYTES);
        if (!meta)
            out[n++] = text[i];
        else if (*blank)
            out[n++] = *blank;
        i += meta ? KV_METASPACE_BYTES : 1;
    }
    return n;
}

/* What a token is decoded from: its text; normalized, if that is what it matched in a text (tokenizers 0.22 and before
 * take the plain one, and lose blanks by it). */
static const char *source_text(const struct kv_tokenizer *t, int32_t id, size_t *bytes)
{
    const struct kv_token *token = &t->bpe.token[id];
    if (token->flags & KV_TOKEN_CHANGED) {
        const struct kv_added_token *added = kv_added_find(&t->normal, id);
        *bytes = added->bytes;
        return added->text;
    }
    *bytes = token->bytes;
    return t->bpe.text + token->at;
}

/* Writes what a token adds to a text, at most as many bytes as it has itself. `begun`: the text has begun. */
static size_t token_text(const struct kv_tokenizer *t, int32_t id, bool *begun, char *out)
{
    size_t bytes, n;
    const char *text = source_text(t, id, &bytes);
    switch (t->decoder.kind) {
    case KV_DECODE_BYTE_LEVEL:
        return from_letters(text, bytes, out);
    case KV_DECODE_METASPACE:
        n = from_metaspace(text, bytes, t->decoder.strip && !*begun ? "" : " ", out);
        *begun = true;
        return n;
    default:
        if (is_byte(text, bytes)) {
            out[0] = (char)(hex(text[3]) * 16 + hex(text[4]));
            n = 1;
        } else {
            n = from_metaspace(text, bytes, " ", out);
        }
        if (t->decoder.strip && !*begun && n && out[0] == ' ')
            memmove(out, out + 1, n - 1), n--, *begun = true;
        *begun |= n > 0;
        return n;
    }
}

static bool check_id(const struct kv_tokenizer *t, int32_t id, struct kv_err *e)
{
    if (id < 0 || id >= t->bpe.size || !t->bpe.token[id].flags)
        return kv_fail(e, KV_DATA, "token id %d is not in the vocabulary of %d", id, t->bpe.size);
    return true;
}

static bool left_out(const struct kv_tokenizer *t, int32_t id, bool special)
{
    return !special && t->bpe.token[id].flags & KV_TOKEN_SPECIAL;
}

bool kv_tokenizer_decode(const struct kv_tokenizer *t, const int32_t *ids, int64_t n, bool special, char **text,
                         size_t *bytes, struct kv_err *e)
{
    size_t most = 1, used = 0, source;
    bool begun = false;
    for (int64_t i = 0; i < n; i++) {
        if (!check_id(t, ids[i], e))
            return false;
        source_text(t, ids[i], &source);
        most += source;
    }
    char *out = malloc(most);
    if (!out)
        return kv_fail(e, KV_ENV, "no memory for the text of %lld tokens: %zu bytes wanted", (long long)n, most);
    for (int64_t i = 0; i < n; i++)
        if (!left_out(t, ids[i], special))
            used += token_text(t, ids[i], &begun, out + used);
    out[used] = '\0';
    *text = out;
    *bytes = used;
    return true;
}

/* How many bytes at the end may be the begin of a character whose rest is to come. */
static size_t half_character(const char *text, size_t bytes)
{
    for (size_t back = 1; back <= 3 && back <= bytes; back++) {
        unsigned char c = (unsigned char)text[bytes - back];
        if ((c & 0xC0) != 0x80)
            return c >= 0xC2 && c <= 0xF4 && kv_utf8_length((char)c) > back ? back : 0;
    }
    return 0;
}

bool kv_tokenizer_next(const struct kv_tokenizer *t, struct kv_decode_state *state, int32_t id, char out[4097],
                       struct kv_err *e)
{
    enum { MOST = 4096 };
    char text[8 + KV_METASPACE_BYTES * MOST]; /* no token of more bytes than that could fit */
    bool begun = state->begun;
    out[0] = '\0';
    if (!check_id(t, id, e))
        return false;
    if (left_out(t, id, false))
        return true;
    size_t n = (size_t)state->n_pending, raw;
    source_text(t, id, &raw);
    memcpy(text, state->pending, n);
    if (raw <= KV_METASPACE_BYTES * MOST)
        n += token_text(t, id, &begun, text + n);
    size_t wait = half_character(text, n);
    if (raw > KV_METASPACE_BYTES * MOST || n - wait > MOST)
        return kv_fail(e, KV_DATA, "token %d is longer than %d bytes", id, MOST);
    memcpy(out, text, n - wait);
    out[n - wait] = '\0';
    memcpy(state->pending, text + n - wait, wait);
    state->n_pending = (int)wait;
    state->begun = begun;
    return true;
}
