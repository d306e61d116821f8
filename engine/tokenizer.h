/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Text to token ids and back, from a Hugging Face `tokenizer.json`: byte-level BPE (Llama 3, Qwen, GPT-2's kind) and
 * SentencePiece-style BPE with byte fallback (Llama 2, Mistral). Anything else in the file that would change ids is
 * refused by name. */
#ifndef KV_TOKENIZER_H
#define KV_TOKENIZER_H

#include "sim/core/arena.h"

#include <stdint.h>

struct kv_tokenizer;

/* PATH is the tokenizer.json, or the folder it lies in. KV_DATA: damaged, or of a kind that is not supported (named);
 * KV_ENV. Open/close; many threads may use one. */
bool kv_tokenizer_open(struct kv_tokenizer **t, const char *path, struct kv_err *e);
void kv_tokenizer_close(struct kv_tokenizer *t);

/* One more than the largest id. */
int32_t kv_tokenizer_size(const struct kv_tokenizer *t);

/* The id of a token by its text as in the file ("<|eot_id|>"), or -1. */
int32_t kv_tokenizer_id(const struct kv_tokenizer *t, const char *token);

/* Ids of `bytes` bytes of UTF-8. Special tokens in the text become their ids where `special`, else they are text.
 * `begin`: what the post-processor puts before a text (BOS) is put there. *ids is malloc'd, the caller frees it.
 * KV_DATA: not UTF-8 (says where), a piece that has no id; KV_ENV. Time is near linear, for text without spaces too. */
bool kv_tokenizer_encode(const struct kv_tokenizer *t, const char *text, size_t bytes, bool special, bool begin,
                         int32_t **ids, int64_t *n, struct kv_err *e);

/* Text of ids, malloc'd, ended by '\0', *bytes without it. Special tokens are left out unless `special`. Ids outside
 * the vocabulary: KV_DATA. Bytes that are no UTF-8 (half a character) are given as they are. */
bool kv_tokenizer_decode(const struct kv_tokenizer *t, const int32_t *ids, int64_t n, bool special, char **text,
                         size_t *bytes, struct kv_err *e);

/* Text as it grows: the new bytes of id `n` in a sequence, so that pieces put together are the text of the whole. Half
 * characters wait for their rest. `state` starts as {0}. Writes at most 4096 bytes and '\0' to out; longer tokens are
 * cut into no pieces: KV_DATA. */
struct kv_decode_state {
    char pending[8];
    int n_pending;
    bool begun;
};
bool kv_tokenizer_next(const struct kv_tokenizer *t, struct kv_decode_state *state, int32_t id, char out[4097],
                       struct kv_err *e);

#endif
