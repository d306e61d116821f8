/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Added tokens in a text. The tokens are few hundred, short and sorted: at each byte the range of those that match so
 * far is narrowed byte by byte, and nearly always it is empty at the first. */
#include "engine/tokenizer_parts.h"

#include <stdlib.h>
#include <string.h>

static int compare(const void *left, const void *right)
{
    const struct kv_added_token *a = left, *b = right;
    int order = memcmp(a->text, b->text, a->bytes < b->bytes ? a->bytes : b->bytes);
    return order ? order : (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

static int compare_ids(const void *left, const void *right)
{
    const struct kv_added_token *const *a = left, *const *b = right;
    return ((*a)->id > (*b)->id) - ((*a)->id < (*b)->id);
}

void kv_added_sort(struct kv_added *a)
{
    if (a->n)
        qsort(a->token, a->n, sizeof *a->token, compare);
    for (size_t k = 0; k < a->n; k++)
        a->by_id[k] = &a->token[k];
    if (a->n)
        qsort(a->by_id, a->n, sizeof(const struct kv_added_token *), compare_ids);
    uint32_t i = 0;
    for (unsigned c = 0; c <= 256; c++) {
        while (i < a->n && (unsigned char)a->token[i].text[0] < c)
            i++;
        a->first[c] = i;
    }
}

const struct kv_added_token *kv_added_find(const struct kv_added *a, int32_t id)
{
    size_t low = 0;
    for (size_t high = a->n; high - low > 1;) {
        size_t middle = low + (high - low) / 2;
        if (a->by_id[middle]->id <= id)
            low = middle;
        else
            high = middle;
    }
    return a->by_id[low];
}

/* The first of token[low..high), which agree up to `depth`, whose byte there is at least c; tokens that end come first.
 */
static uint32_t narrow(const struct kv_added *a, uint32_t low, uint32_t high, size_t depth, unsigned c)
{
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct kv_added_token *t = &a->token[middle];
        if (t->bytes <= depth || (unsigned char)t->text[depth] < c)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static const struct kv_added_token *longest_at(const struct kv_added *a, const char *text, size_t bytes)
{
    const struct kv_added_token *best = NULL;
    unsigned c = (unsigned char)text[0];
    uint32_t low = a->first[c], high = a->first[c + 1];
    for (size_t depth = 1; low < high; depth++) {
        if (a->token[low].bytes == depth)
            best = &a->token[low];
        if (depth == bytes)
            break;
        c = (unsigned char)text[depth];
        low = narrow(a, low, high, depth, c);
        high = narrow(a, low, high, depth, c + 1);
    }
    return best;
}

static size_t strip_left(const char *text, size_t from, size_t end)
{
    for (size_t at = end; at > from; end = at) {
        while (((unsigned char)text[--at] & 0xC0) == 0x80)
            ;
        if (!kv_is_space(kv_utf8_get(text + at)))
            break;
    }
    return end;
}

static size_t strip_right(const char *text, size_t bytes, size_t at)
{
    while (at < bytes && kv_is_space(kv_utf8_get(text + at)))
        at += kv_utf8_length(text[at]);
    return at;
}

const struct kv_added_token *kv_added_next(const struct kv_added *a, const char *text, size_t bytes, size_t from,
                                           size_t from_blank, bool special, size_t *begin, size_t *end, size_t *after)
{
    for (size_t at = a->n ? from : bytes; at < bytes; at++) {
        const struct kv_added_token *t = longest_at(a, text + at, bytes - at);
        if (!t)
            continue;
        *after = at + t->bytes;
        if (t->special && !special) {
            at = *after - 1;
            continue;
        }
        *begin = t->strip_left && at > from_blank ? strip_left(text, from_blank, at) : at;
        *end = t->strip_right ? strip_right(text, bytes, *after) : *after;
        return t;
    }
    return NULL;
}
