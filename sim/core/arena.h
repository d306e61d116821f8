/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Memory that is freed together. A run's objects live in one arena; nothing in it is freed alone. */
#ifndef KV_ARENA_H
#define KV_ARENA_H

#include "sim/core/error.h"

struct kv_arena;

struct kv_arena *kv_arena_open(void);
void kv_arena_close(struct kv_arena *a); /* frees everything; NULL is fine */

/* Zeroed, aligned for any type. Small sizes of our own choosing: never NULL, the program stops when memory is out. */
void *kv_alloc(struct kv_arena *a, size_t bytes) __attribute__((returns_nonnull));
char *kv_copy_text(struct kv_arena *a, const char *text) __attribute__((returns_nonnull));
char *kv_copy_part(struct kv_arena *a, const char *text, size_t length) __attribute__((returns_nonnull));
char *kv_format(struct kv_arena *a, const char *format, ...) __attribute__((returns_nonnull, format(printf, 2, 3)));

/* Zeroed `n` items of `size` bytes whose number a user chose. NULL and KV_ENV, with the size wanted, when there is no
 * room or the product overflows. `what` names the thing in the message. */
void *kv_alloc_many(struct kv_arena *a, size_t n, size_t size, const char *what, struct kv_err *e);

#define KV_NEW(arena, type)      ((type *)kv_alloc(arena, sizeof(type)))
#define KV_NEW_N(arena, type, n) ((type *)kv_alloc(arena, sizeof(type) * (size_t)(n)))

#endif
