/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "engine/tokenizer_text.h"
#include "engine/bpe.h"

#include <stdlib.h>
#include <string.h>

/* Bytes of the well-formed character at `s`, of which `bytes` are there; 0: none. Unicode 14, table 3-7. */
static size_t valid_character(const unsigned char *s, size_t bytes)
{
    if (s[0] < 0x80)
        return 1;
    if (s[0] < 0xC2 || s[0] > 0xF4)
        return 0;
    size_t length = kv_utf8_length((char)s[0]);
    if (bytes < length)
        return 0;
    unsigned char low = s[0] == 0xE0 ? 0xA0 : s[0] == 0xF0 ? 0x90 : 0x80;
    unsigned char high = s[0] == 0xED ? 0x9F : s[0] == 0xF4 ? 0x8F : 0xBF;
    if (s[1] < low || s[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++)
        if ((s[i] & 0xC0) != 0x80)
            return 0;
    return length;
}

size_t kv_utf8_valid(const char *text, size_t bytes)
{
    size_t at = 0;
    while (at < bytes) {
        size_t length = valid_character((const unsigned char *)text + at, bytes - at);
        if (!length)
            break;
        at += length;
    }
    return at;
}

size_t kv_utf8_length(char first)
{
    unsigned char c = (unsigned char)first;
    return c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}

uint32_t kv_utf8_get(const char *text)
{
    const unsigned char *s = (const unsigned char *)text;
    switch (kv_utf8_length(text[0])) {
    case 1:
        return s[0];
    case 2:
        return (s[0] & 31u) << 6 | (s[1] & 63u);
    case 3:
        return (s[0] & 15u) << 12 | (s[1] & 63u) << 6 | (s[2] & 63u);
    default:
        return (s[0] & 7u) << 18 | (s[1] & 63u) << 12 | (s[2] & 63u) << 6 | (s[3] & 63u);
    }
}

size_t kv_utf8_put(uint32_t letter, char *out)
{
    if (letter < 0x80) {
        out[0] = (char)letter;
        return 1;
    }
    size_t length = letter < 0x800 ? 2 : letter < 0x10000 ? 3 : 4;
    for (size_t i = length - 1; i > 0; i--, letter >>= 6)
        out[i] = (char)(0x80 | (letter & 63));
    out[0] = (char)(((0xF00u >> length) & 0xFF) | letter);
    return length;
}

bool kv_is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
           c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

void *kv_grown(void *items, size_t *room, size_t need, size_t size, struct kv_err *e)
{
    if (need <= *room)
        return items;
    size_t more = *room + *room / 2 > need ? *room + *room / 2 : need;
    if (more < 64)
        more = 64;
    void *grown = reallocarray(items, more, size);
    if (grown)
        *room = more;
    else
        kv_fail(e, KV_ENV, "no memory for a text's tokens: %zu items of %zu bytes wanted", more, size);
    return grown;
}

bool kv_text_add(struct kv_text *t, const char *data, size_t bytes, struct kv_err *e)
{
    if (bytes > KV_TEXT_MOST_BYTES - t->n)
        return kv_fail(e, KV_DATA, "the text has more than %d bytes once it is normalized", KV_TEXT_MOST_BYTES);
    char *grown = kv_grown(t->data, &t->room, t->n + bytes + 1, 1, e);
    if (!grown)
        return false;
    t->data = grown;
    if (bytes)
        memcpy(t->data + t->n, data, bytes);
    t->n += bytes;
    t->data[t->n] = '\0';
    return true;
}
