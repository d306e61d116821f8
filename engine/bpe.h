/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Byte pair encoding as Hugging Face's tokenizers 0.23 does it (models/bpe): a vocabulary, its merges, and the ids of
 * one piece of text. Tokens that merging never makes (added ones) live in the same tables, told apart by a flag. */
#ifndef KV_BPE_H
#define KV_BPE_H

#include "sim/core/arena.h"

#include <stdint.h>

enum {
    KV_TOKEN_MODEL = 1, /* of the model's own vocabulary: what pieces are made of */
    KV_TOKEN_ADDED = 2,
    KV_TOKEN_SPECIAL = 4,
    KV_TOKEN_CHANGED = 8, /* decoded from other text than its own */

    KV_TOKEN_MOST = 1 << 24,       /* ids */
    KV_TOKEN_MOST_BYTES = 1 << 16, /* of one token's text */
    KV_TEXT_MOST_BYTES = 1 << 30,  /* of a text to encode, also once it is normalized */
};

struct kv_token {
    uint32_t at; /* first byte in kv_bpe.text */
    uint32_t bytes : 24;
    uint32_t flags : 8; /* 0: no token has this id */
};

struct kv_bpe_merge {
    uint64_t pair; /* left id << 32 | right id */
    uint32_t rank;
    int32_t into; /* -1: free */
};

struct kv_bpe {
    int32_t size;           /* one more than the largest id */
    struct kv_token *token; /* (size,) */
    char *text;             /* of all tokens, end to end */
    uint32_t text_bytes;
    int32_t *slot; /* hash table of ids by text; -1: free */
    uint32_t slot_mask;
    struct kv_bpe_merge *merge; /* hash table */
    uint32_t merge_mask;
    uint64_t seed;     /* of both tables: a file must not be able to choose what collides */
    uint32_t longest;  /* bytes of the longest token of the model */
    int32_t byte[256]; /* byte level: the ids of the bytes' letters; byte fallback: of "<0xNN>"; -1: none */
    int32_t unk;       /* -1: none */
    bool byte_level, byte_fallback, fuse_unk, ignore_merges;
};

/* Empty tables for ids below `size`, `tokens` texts that have `text_bytes` together, `merges` merges. */
bool kv_bpe_make(struct kv_bpe *b, int32_t size, size_t tokens, size_t text_bytes, size_t merges, struct kv_arena *a,
                 struct kv_err *e);

/* False, and nothing done, when the id or the text is taken. */
bool kv_bpe_add(struct kv_bpe *b, int32_t id, const char *text, size_t bytes, unsigned flags);

/* Of a pair that is there already the later one counts, as it does upstream. */
void kv_bpe_add_merge(struct kv_bpe *b, int32_t left, int32_t right, uint32_t rank, int32_t into);

/* To be called when all tokens are there: finds the ids of the bytes. */
void kv_bpe_finish(struct kv_bpe *b);

/* -1: no such token, or none that has all of `flags`. */
int32_t kv_bpe_find(const struct kv_bpe *b, const char *text, size_t bytes, unsigned flags);

/* Ids that grow; start from {0}, free id. */
struct kv_ids {
    int32_t *id;
    size_t n, room;
};
bool kv_ids_add(struct kv_ids *ids, int32_t id, struct kv_err *e);

/* Room that encoding needs, kept from piece to piece; start from {0}. */
struct kv_bpe_work {
    struct kv_symbol *symbol;
    struct kv_candidate *heap;
    size_t n_symbols, symbol_room, n_heap, heap_room;
    uint64_t steps; /* looks at the heap and at the merges, for tests */
};
void kv_bpe_work_free(struct kv_bpe_work *w);

/* Appends the ids of a piece of valid UTF-8, of which nothing is empty. Time: bytes * log(bytes). */
bool kv_bpe_encode(const struct kv_bpe *b, const char *piece, size_t bytes, struct kv_bpe_work *w, struct kv_ids *ids,
                   struct kv_err *e);

/* The byte-level alphabet gives each byte a printable letter: its code point, below 324; and back, -1 when it is none.
 */
uint32_t kv_byte_letter(unsigned char byte);
int kv_letter_byte(uint32_t letter);

#endif
