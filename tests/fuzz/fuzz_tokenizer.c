/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Any bytes as a tokenizer.json, up to the first NUL, and as a text to encode, behind it. */
#include "engine/tokenizer.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MOST_TEXT = 2048 }; /* a hostile pattern may cost a thousand steps for each byte */

static void check_failure(const struct kv_err *e)
{
    KV_ASSERT(e->n > 0 && (e->status == KV_DATA || e->status == KV_ENV) && strlen(e->text) == e->length &&
              e->length > 0);
}

/* Pieces put together, with what waits for its rest, are the text: as far as a piece, which ends at a NUL, can tell. */
static void check_pieces(const struct kv_tokenizer *t, const int32_t *ids, int64_t n, const char *text, size_t bytes)
{
    struct kv_decode_state state = {0};
    struct kv_err e = {0};
    size_t used = 0;
    char piece[4097];
    if (memchr(text, '\0', bytes))
        return;
    for (int64_t i = 0; i < n; i++) {
        if (!kv_tokenizer_next(t, &state, ids[i], piece, &e)) {
            check_failure(&e); /* it is long */
            return;
        }
        size_t length = strlen(piece);
        KV_ASSERT(length <= 4096 && length <= bytes - used && !memcmp(text + used, piece, length));
        used += length;
    }
    KV_ASSERT(bytes - used == (size_t)state.n_pending && !memcmp(text + used, state.pending, bytes - used));
}

static void check_ids(const struct kv_tokenizer *t, const int32_t *ids, int64_t n)
{
    for (int special = 0; special < 2; special++) {
        struct kv_err e = {0};
        char *text;
        size_t bytes;
        KV_ASSERT(kv_tokenizer_decode(t, ids, n, special, &text, &bytes, &e) && e.n == 0);
        KV_ASSERT(text[bytes] == '\0');
        if (!special)
            check_pieces(t, ids, n, text, bytes);
        free(text);
    }
}

static void check_tokenizer(const struct kv_tokenizer *t, const char *text, size_t bytes)
{
    KV_ASSERT(kv_tokenizer_size(t) > 0 && kv_tokenizer_id(t, "<s>") < kv_tokenizer_size(t));
    for (int way = 0; way < 4; way++) {
        struct kv_err e = {0};
        int32_t *ids;
        int64_t n;
        if (!kv_tokenizer_encode(t, text, bytes, way & 1, way & 2, &ids, &n, &e)) {
            KV_ASSERT(!ids && n == 0);
            check_failure(&e);
            continue;
        }
        KV_ASSERT(ids && n >= 0 && e.n == 0);
        check_ids(t, ids, n);
        free(ids);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kv_arena *a = kv_arena_open();
    struct kv_err e = {0};
    struct kv_tokenizer *t;
    const char *json = data ? (const char *)data : "", *nul = memchr(json, '\0', size);
    size_t bytes = nul ? (size_t)(nul - json) : size, rest = nul ? size - bytes - 1 : 0;
    int file = memfd_create("tokenizer", 0);
    if (file < 0 || write(file, json, bytes) != (ssize_t)bytes)
        abort();
    if (kv_tokenizer_open(&t, kv_format(a, "/proc/self/fd/%d", file), &e)) {
        KV_ASSERT(e.n == 0);
        check_tokenizer(t, nul ? nul + 1 : "", rest < MOST_TEXT ? rest : MOST_TEXT);
        kv_tokenizer_close(t);
    } else {
        KV_ASSERT(!t);
        check_failure(&e);
    }
    close(file);
    kv_arena_close(a);
    return 0;
}
