/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What the tokenizer's parts need to know of UTF-8, and room that grows. */
#ifndef KV_TOKENIZER_TEXT_H
#define KV_TOKENIZER_TEXT_H

#include "sim/core/error.h"

#include <stdint.h>

/* Bytes before the first that is not UTF-8 (overlong forms and surrogates are not); `bytes` when all is. */
size_t kv_utf8_valid(const char *text, size_t bytes);

/* Bytes of the character that this first byte of valid UTF-8 begins. */
size_t kv_utf8_length(char first);

/* Code point of the character at `text`, which is valid UTF-8. */
uint32_t kv_utf8_get(const char *text);

/* Writes at most 4 bytes; returns how many. */
size_t kv_utf8_put(uint32_t letter, char *out);

/* White_Space of Unicode. */
bool kv_is_space(uint32_t letter);

/* `items` with room for `need` (at least 1) of `size` bytes, as realloc: NULL and KV_ENV when there is none, `items`
 * stays. */
void *kv_grown(void *items, size_t *room, size_t need, size_t size, struct kv_err *e);

/* Text that grows; start from {0}, free data. Beyond KV_TEXT_MOST_BYTES: KV_DATA. */
struct kv_text {
    char *data;
    size_t n, room;
};
bool kv_text_add(struct kv_text *t, const char *data, size_t bytes, struct kv_err *e);

#endif
