/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/core/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_BYTES = 64 * 1024 };

struct block {
    struct block *next;
    size_t used, size;
    max_align_t data[];
};

struct kv_arena {
    struct block *first;
};

struct kv_arena *kv_arena_open(void)
{
    struct kv_arena *a = calloc(1, sizeof *a);
    if (!a) {
        fputs("out of memory\n", stderr);
        exit(KV_ENV);
    }
    return a;
}

void kv_arena_close(struct kv_arena *a)
{
    if (!a)
        return;
    for (struct block *b = a->first, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    free(a);
}

static void *take(struct kv_arena *a, size_t bytes)
{
    size_t align = sizeof(max_align_t);
    if (bytes > SIZE_MAX / 2)
        return NULL;
    bytes = (bytes + align - 1) / align * align;
    struct block *b = a->first;
    if (!b || b->size - b->used < bytes) {
        size_t size = bytes > BLOCK_BYTES / 4 ? bytes : BLOCK_BYTES;
        b = calloc(1, sizeof *b + size);
        if (!b)
            return NULL;
        b->size = size;
        if (size == bytes && a->first) { /* a block of its own: the half-full first one stays first */
            b->next = a->first->next;
            a->first->next = b;
        } else {
            b->next = a->first;
            a->first = b;
        }
    }
    void *p = (char *)b->data + b->used;
    b->used += bytes;
    return p;
}

void *kv_alloc(struct kv_arena *a, size_t bytes)
{
    void *p = take(a, bytes ? bytes : 1);
    if (!p) {
        fprintf(stderr, "out of memory: %zu bytes wanted\n", bytes);
        exit(KV_ENV);
    }
    return p;
}

void *kv_alloc_many(struct kv_arena *a, size_t n, size_t size, const char *what, struct kv_err *e)
{
    size_t bytes;
    void *p = __builtin_mul_overflow(n, size, &bytes) ? NULL : take(a, bytes ? bytes : 1);
    if (!p)
        kv_fail(e, KV_ENV, "no memory for %s: %zu items of %zu bytes wanted", what, n, size);
    return p;
}

char *kv_copy_part(struct kv_arena *a, const char *text, size_t length)
{
    char *copy = kv_alloc(a, length + 1);
    memcpy(copy, text, length);
    return copy;
}

char *kv_copy_text(struct kv_arena *a, const char *text)
{
    return kv_copy_part(a, text, strlen(text));
}

char *kv_format(struct kv_arena *a, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    KV_ASSERT(length >= 0);
    char *text = kv_alloc(a, (size_t)length + 1);
    vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    return text;
}
