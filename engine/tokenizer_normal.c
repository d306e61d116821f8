/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "engine/tokenizer_parts.h"

#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

/* ---- NFC ---- */

/* Characters below U+0300 neither compose with one another nor change their order. */
static bool may_change(const struct kv_text *t)
{
    for (size_t i = 0; i < t->n; i++)
        if ((unsigned char)t->data[i] >= 0xCC)
            return true;
    return false;
}

/* Decomposes each character; NULL: no memory. Room for one character's whole decomposition is kept at the end. */
static utf8proc_int32_t *decompose(const struct kv_text *t, size_t *n, struct kv_err *e)
{
    enum { MOST = 32 }; /* code points of one character: 18 is the most, and that in NFKD */
    utf8proc_int32_t *letter = NULL;
    size_t room = 0;
    *n = 0;
    for (size_t at = 0; at < t->n; at += kv_utf8_length(t->data[at])) {
        void *grown = kv_grown(letter, &room, *n + MOST, sizeof *letter, e);
        if (!grown) {
            free(letter);
            return NULL;
        }
        letter = grown;
        int boundary = 0;
        utf8proc_ssize_t added = utf8proc_decompose_char((utf8proc_int32_t)kv_utf8_get(t->data + at), letter + *n, MOST,
                                                         UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, &boundary);
        KV_ASSERT(added > 0 && added <= MOST);
        *n += (size_t)added;
    }
    return letter;
}

static int class_of(utf8proc_int32_t letter)
{
    return letter < 0x300 ? 0 : utf8proc_get_property(letter)->combining_class;
}

/* A stable sort of marks by their class, in time that a run of a million marks does not make quadratic. */
static void order_marks(utf8proc_int32_t *mark, size_t n, utf8proc_int32_t *copy)
{
    size_t start[257] = {0};
    for (size_t i = 0; i < n; i++)
        start[class_of(mark[i]) + 1]++;
    for (int c = 0; c < 256; c++)
        start[c + 1] += start[c];
    memcpy(copy, mark, n * sizeof *mark);
    for (size_t i = 0; i < n; i++)
        mark[start[class_of(copy[i])]++] = copy[i];
}

static bool order_all(utf8proc_int32_t *letter, size_t n, struct kv_err *e)
{
    utf8proc_int32_t *copy = NULL;
    size_t room = 0;
    bool good = true;
    for (size_t i = 0, end; good && i < n; i = end) {
        for (end = i; end < n && class_of(letter[end]); end++)
            ;
        if (end - i > 1) {
            void *grown = kv_grown(copy, &room, end - i, sizeof *copy, e);
            good = grown != NULL;
            if (good) {
                copy = grown;
                order_marks(letter + i, end - i, copy);
            }
        }
        end += end == i;
    }
    free(copy);
    return good;
}

bool kv_normal_nfc(struct kv_text *t, struct kv_err *e)
{
    size_t n;
    if (!may_change(t))
        return true;
    utf8proc_int32_t *letter = decompose(t, &n, e);
    if (!letter)
        return false;
    bool good = order_all(letter, n, e);
    utf8proc_ssize_t left =
        good ? utf8proc_normalize_utf32(letter, (utf8proc_ssize_t)n, UTF8PROC_COMPOSE | UTF8PROC_STABLE) : 0;
    t->n = 0;
    for (utf8proc_ssize_t i = 0; good && i < left; i++) {
        char text[4];
        good = kv_text_add(t, text, kv_utf8_put((uint32_t)letter[i], text), e);
    }
    free(letter);
    return good;
}

/* ---- steps ---- */

static bool replace(const struct kv_normal_step *s, struct kv_text *t, struct kv_err *e)
{
    struct kv_text out = {0};
    const char *at = t->data, *end = t->data + t->n, *hit;
    bool good = true;
    while (good && (hit = memmem(at, (size_t)(end - at), s->pattern, s->pattern_bytes))) {
        good = kv_text_add(&out, at, (size_t)(hit - at), e) && kv_text_add(&out, s->content, s->content_bytes, e);
        at = hit + s->pattern_bytes;
    }
    good = good && kv_text_add(&out, at, (size_t)(end - at), e);
    free(t->data);
    *t = out;
    return good;
}

static bool prepend(const struct kv_normal_step *s, struct kv_text *t, struct kv_err *e)
{
    if (!kv_text_add(t, s->content, s->content_bytes, e)) /* the room */
        return false;
    memmove(t->data + s->content_bytes, t->data, t->n - s->content_bytes);
    memcpy(t->data, s->content, s->content_bytes);
    return true;
}

bool kv_normal_apply(const struct kv_normal *n, const char *text, size_t bytes, struct kv_text *out, struct kv_err *e)
{
    out->n = 0;
    bool good = kv_text_add(out, text, bytes, e);
    for (int i = 0; good && out->n && i < n->n; i++) {
        const struct kv_normal_step *s = &n->step[i];
        good = s->kind == KV_NORMAL_NFC       ? kv_normal_nfc(out, e)
               : s->kind == KV_NORMAL_PREPEND ? prepend(s, out, e)
                                              : replace(s, out, e);
    }
    return good;
}
