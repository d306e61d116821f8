/* SPDX-License-Identifier: GPL-3.0-or-later */
/* `tokenize TOKENIZER.json`: what compare_tokenizer.py asks our tokenizer. A request on stdin is three u32 (bit 0:
 * special, bit 1: begin; bytes; 0) and the text. An answer on stdout is a u32 status, then on 0 the number of ids, the
 * ids, and three texts, each after its number of bytes: of the ids, of the ids with special tokens, of the ids one by
 * one; else one text, the message. */
#include "engine/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void put(const void *data, size_t bytes)
{
    if (bytes && fwrite(data, 1, bytes, stdout) != bytes)
        exit(KV_ENV);
}

static void put_text(const char *text, size_t bytes)
{
    uint32_t n = (uint32_t)bytes;
    put(&n, sizeof n);
    put(text, bytes);
}

static void put_failure(const struct kv_err *e)
{
    uint32_t status = e->status;
    put(&status, sizeof status);
    put_text(e->text, e->length);
}

/* NUL bytes end a piece early: those texts are compared by decode alone. */
static void put_pieces(const struct kv_tokenizer *t, const int32_t *ids, int64_t n, size_t room)
{
    struct kv_decode_state state = {0};
    struct kv_err e = {0};
    char piece[4097], *all = calloc(room + 64, 1);
    char *end = all;
    for (int64_t i = 0; all && i < n && kv_tokenizer_next(t, &state, ids[i], piece, &e); i++)
        end = stpcpy(end, piece);
    put_text(all, (size_t)(end - all));
    free(all);
}

static void answer(const struct kv_tokenizer *t, const char *text, size_t bytes, uint32_t flags)
{
    struct kv_err e = {0};
    int32_t *ids = NULL;
    int64_t n = 0;
    char *plain = NULL, *full = NULL;
    size_t plain_bytes = 0, full_bytes = 0;
    if (!kv_tokenizer_encode(t, text, bytes, flags & 1, flags & 2, &ids, &n, &e) ||
        !kv_tokenizer_decode(t, ids, n, false, &plain, &plain_bytes, &e) ||
        !kv_tokenizer_decode(t, ids, n, true, &full, &full_bytes, &e)) {
        put_failure(&e);
    } else {
        uint32_t head[2] = {0, (uint32_t)n};
        put(head, sizeof head);
        put(ids, (size_t)n * sizeof *ids);
        put_text(plain, plain_bytes);
        put_text(full, full_bytes);
        put_pieces(t, ids, n, plain_bytes);
    }
    free(ids);
    free(plain);
    free(full);
}

int main(int argc, char **argv)
{
    struct kv_tokenizer *t;
    struct kv_err e = {0};
    uint32_t head[3];
    if (argc != 2)
        return KV_USAGE;
    if (!kv_tokenizer_open(&t, argv[1], &e)) {
        fprintf(stderr, "%s\n", e.text);
        return (int)e.status;
    }
    while (fread(head, sizeof head, 1, stdin) == 1) {
        char *text = malloc(head[1] + 1u);
        if (!text || fread(text, 1, head[1], stdin) != head[1])
            return KV_ENV;
        answer(t, text, head[1], head[0]);
        fflush(stdout);
        free(text);
    }
    kv_tokenizer_close(t);
    return 0;
}
