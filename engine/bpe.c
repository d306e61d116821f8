/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "engine/bpe.h"
#include "engine/tokenizer_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* ---- tables ---- */

static uint64_t mix(uint64_t h)
{
    h ^= h >> 32;
    h *= UINT64_C(0x9E3779B97F4A7C15);
    h ^= h >> 29;
    h *= UINT64_C(0xD6E8FEB86659FD93);
    return h ^ h >> 32;
}

static uint64_t hash_text(uint64_t seed, const char *text, size_t bytes)
{
    uint64_t h = seed ^ bytes, word;
    for (; bytes >= 8; text += 8, bytes -= 8) {
        memcpy(&word, text, 8);
        h = mix(h ^ word) + seed;
    }
    word = 0;
    if (bytes)
        memcpy(&word, text, bytes);
    return mix(h ^ word);
}

/* A power of two that n items fill to 2/3 at most. */
static size_t table_size(size_t n)
{
    size_t size = 16;
    while (size < n + n / 2)
        size *= 2;
    return size;
}

bool kv_bpe_make(struct kv_bpe *b, int32_t size, size_t tokens, size_t text_bytes, size_t merges, struct kv_arena *a,
                 struct kv_err *e)
{
    size_t slots = table_size(tokens), pairs = table_size(merges);
    *b = (struct kv_bpe){.size = size, .unk = -1};
    if (getrandom(&b->seed, sizeof b->seed, GRND_NONBLOCK) != sizeof b->seed)
        b->seed = (uint64_t)(uintptr_t)b; /* early in boot: an address is chance enough */
    b->slot_mask = (uint32_t)(slots - 1);
    b->merge_mask = (uint32_t)(pairs - 1);
    b->token = kv_alloc_many(a, (size_t)size, sizeof *b->token, "the vocabulary", e);
    b->text = b->token ? kv_alloc_many(a, text_bytes + 1, 1, "the text of the vocabulary", e) : NULL;
    b->slot = b->text ? kv_alloc_many(a, slots, sizeof *b->slot, "the table of the vocabulary", e) : NULL;
    b->merge = b->slot ? kv_alloc_many(a, pairs, sizeof *b->merge, "the table of merges", e) : NULL;
    if (!b->merge)
        return false;
    memset(b->slot, -1, slots * sizeof *b->slot);
    for (size_t i = 0; i < pairs; i++)
        b->merge[i].into = -1;
    return true;
}

static bool is_token(const struct kv_bpe *b, int32_t id, const char *text, size_t bytes)
{
    const struct kv_token *t = &b->token[id];
    return t->bytes == bytes && !memcmp(b->text + t->at, text, bytes);
}

/* The slot that has the text, or the free one where it would go. */
static uint32_t find_slot(const struct kv_bpe *b, const char *text, size_t bytes)
{
    uint32_t i = (uint32_t)hash_text(b->seed, text, bytes) & b->slot_mask;
    while (b->slot[i] >= 0 && !is_token(b, b->slot[i], text, bytes))
        i = (i + 1) & b->slot_mask;
    return i;
}

bool kv_bpe_add(struct kv_bpe *b, int32_t id, const char *text, size_t bytes, unsigned flags)
{
    uint32_t i = find_slot(b, text, bytes);
    if (b->slot[i] >= 0 || b->token[id].flags)
        return false;
    memcpy(b->text + b->text_bytes, text, bytes);
    b->token[id] = (struct kv_token){b->text_bytes, (uint32_t)bytes & 0xFFFFFF, flags & 0xFF};
    b->text_bytes += (uint32_t)bytes;
    b->slot[i] = id;
    if (flags & KV_TOKEN_MODEL && bytes > b->longest)
        b->longest = (uint32_t)bytes;
    return true;
}

int32_t kv_bpe_find(const struct kv_bpe *b, const char *text, size_t bytes, unsigned flags)
{
    int32_t id = b->slot[find_slot(b, text, bytes)];
    return id >= 0 && (b->token[id].flags & flags) == flags ? id : -1;
}

static struct kv_bpe_merge *find_merge(const struct kv_bpe *b, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint32_t i = (uint32_t)mix(pair ^ b->seed) & b->merge_mask;
    while (b->merge[i].into >= 0 && b->merge[i].pair != pair)
        i = (i + 1) & b->merge_mask;
    return &b->merge[i];
}

void kv_bpe_add_merge(struct kv_bpe *b, int32_t left, int32_t right, uint32_t rank, int32_t into)
{
    struct kv_bpe_merge *m = find_merge(b, left, right);
    *m = (struct kv_bpe_merge){(uint64_t)(uint32_t)left << 32 | (uint32_t)right, rank, into};
}

/* Printable bytes stand for themselves; the 33 + 34 + 1 others follow, in their order, from 256 on. */
uint32_t kv_byte_letter(unsigned char byte)
{
    if (byte <= 32)
        return 256u + byte;
    if (byte >= 127 && byte <= 160)
        return 289u + (byte - 127u);
    return byte == 173 ? 323u : byte;
}

int kv_letter_byte(uint32_t letter)
{
    if (letter >= 256)
        return letter <= 288 ? (int)letter - 256 : letter <= 322 ? (int)letter - 289 + 127 : letter == 323 ? 173 : -1;
    return kv_byte_letter((unsigned char)letter) == letter ? (int)letter : -1;
}

void kv_bpe_finish(struct kv_bpe *b)
{
    for (int i = 0; i < 256; i++) {
        char text[8];
        size_t bytes = 6;
        if (b->byte_level)
            bytes = kv_utf8_put(kv_byte_letter((unsigned char)i), text);
        else
            snprintf(text, sizeof text, "<0x%02X>", (unsigned)i);
        b->byte[i] = kv_bpe_find(b, text, bytes, KV_TOKEN_MODEL);
    }
}

/* ---- a piece's first symbols ---- */

/* A piece is a chain of symbols. Merging makes the left one the whole and takes the right one out (id -1). */
struct kv_symbol {
    int32_t id, left, right; /* neighbours, -1: none */
};

/* Two neighbours that merge. Ordered by rank, then position: the two halves of `order`. */
struct kv_candidate {
    uint64_t order;
    int32_t into;
};

bool kv_ids_add(struct kv_ids *ids, int32_t id, struct kv_err *e)
{
    int32_t *grown = kv_grown(ids->id, &ids->room, ids->n + 1, sizeof *grown, e);
    if (!grown)
        return false;
    ids->id = grown;
    ids->id[ids->n++] = id;
    return true;
}

void kv_bpe_work_free(struct kv_bpe_work *w)
{
    free(w->symbol);
    free(w->heap);
}

/* There is room: no byte begins more than one symbol. */
static void add_symbol(struct kv_bpe_work *w, int32_t id)
{
    int32_t at = (int32_t)w->n_symbols++;
    w->symbol[at] = (struct kv_symbol){id, at - 1, at + 1};
}

static bool has_bytes(const struct kv_bpe *b, const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (b->byte[(unsigned char)text[i]] < 0)
            return false;
    return true;
}

static bool no_token(const char *text, size_t bytes, bool byte_level, struct kv_err *e)
{
    if (byte_level)
        return kv_fail(e, KV_DATA, "byte 0x%02X has no token, and there is no unk_token", (unsigned char)*text);
    return kv_fail(e, KV_DATA, "'%.*s' (U+%04X) has no token, and there is no unk_token", (int)bytes, text,
                   (unsigned)kv_utf8_get(text));
}

/* Characters, or bytes at byte level. An unknown one waits for the next known one, so that several can become one
 * token. Upstream lets it wait over bytes of the fallback too, which then come before it: the same is done here. */
static bool start_symbols(const struct kv_bpe *b, const char *piece, size_t bytes, struct kv_bpe_work *w,
                          struct kv_err *e)
{
    bool waits = false;
    w->n_symbols = 0;
    for (size_t i = 0, length; i < bytes; i += length) {
        const char *c = piece + i;
        length = b->byte_level ? 1 : kv_utf8_length(*c);
        int32_t id = b->byte_level ? b->byte[(unsigned char)*c] : kv_bpe_find(b, c, length, KV_TOKEN_MODEL);
        if (id >= 0) {
            if (waits)
                add_symbol(w, b->unk);
            waits = false;
            add_symbol(w, id);
        } else if (b->byte_fallback && has_bytes(b, c, length)) {
            for (size_t k = 0; k < length; k++)
                add_symbol(w, b->byte[(unsigned char)c[k]]);
        } else if (b->unk >= 0) {
            if (waits && !b->fuse_unk)
                add_symbol(w, b->unk);
            waits = true;
        } else {
            return no_token(c, length, b->byte_level, e);
        }
    }
    if (waits)
        add_symbol(w, b->unk);
    w->symbol[w->n_symbols - 1].right = -1;
    return true;
}

/* ---- merging ---- */

static void sink(struct kv_candidate *heap, size_t n, size_t at, struct kv_bpe_work *w)
{
    struct kv_candidate c = heap[at];
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && heap[child + 1].order < heap[child].order)
            child++;
        w->steps++;
        if (c.order <= heap[child].order)
            break;
        heap[at] = heap[child];
    }
    heap[at] = c;
}

static void rise(struct kv_candidate *heap, size_t at, struct kv_bpe_work *w)
{
    struct kv_candidate c = heap[at];
    for (size_t parent; at > 0 && heap[parent = (at - 1) / 2].order > c.order; at = parent) {
        heap[at] = heap[parent];
        w->steps++;
    }
    heap[at] = c;
}

/* Puts the merge of symbol `at` and its right neighbour, if there is one, at the end of the heap. */
static bool add_candidate(const struct kv_bpe *b, struct kv_bpe_work *w, int32_t at)
{
    const struct kv_symbol *s = &w->symbol[at];
    if (s->right < 0)
        return false;
    const struct kv_bpe_merge *m = find_merge(b, s->id, w->symbol[s->right].id);
    w->steps++;
    if (m->into < 0)
        return false;
    w->heap[w->n_heap++] = (struct kv_candidate){(uint64_t)m->rank << 32 | (uint32_t)at, m->into};
    return true;
}

/* What was in the heap may be of symbols that have changed since. Upstream takes it as long as the pair that stands
 * there now makes the same token, be it by a later merge: so the same is asked here. */
static bool still_merges(const struct kv_bpe *b, const struct kv_bpe_work *w, const struct kv_candidate *c)
{
    const struct kv_symbol *s = &w->symbol[(uint32_t)c->order];
    return s->id >= 0 && s->right >= 0 && find_merge(b, s->id, w->symbol[s->right].id)->into == c->into;
}

static void merge_pair(struct kv_symbol *symbol, int32_t at, int32_t into)
{
    struct kv_symbol *left = &symbol[at], *right = &symbol[left->right];
    left->id = into;
    left->right = right->right;
    right->id = -1;
    if (left->right >= 0)
        symbol[left->right].left = at;
}

static void merge_all(const struct kv_bpe *b, struct kv_bpe_work *w)
{
    w->n_heap = 0;
    for (size_t i = 0; i + 1 < w->n_symbols; i++)
        add_candidate(b, w, (int32_t)i);
    for (size_t i = w->n_heap / 2; i-- > 0;)
        sink(w->heap, w->n_heap, i, w);
    while (w->n_heap) {
        struct kv_candidate c = w->heap[0];
        w->heap[0] = w->heap[--w->n_heap];
        if (w->n_heap)
            sink(w->heap, w->n_heap, 0, w);
        if (!still_merges(b, w, &c))
            continue;
        int32_t at = (int32_t)(uint32_t)c.order, before = w->symbol[at].left;
        merge_pair(w->symbol, at, c.into);
        if (before >= 0 && add_candidate(b, w, before))
            rise(w->heap, w->n_heap - 1, w);
        if (add_candidate(b, w, at))
            rise(w->heap, w->n_heap - 1, w);
    }
}

/* ---- a piece ---- */

/* -1, or the token that is the whole piece. */
static int32_t find_whole(const struct kv_bpe *b, const char *piece, size_t bytes)
{
    char letters[2 * KV_TOKEN_MOST_BYTES];
    if (bytes > b->longest)
        return -1;
    if (!b->byte_level)
        return kv_bpe_find(b, piece, bytes, KV_TOKEN_MODEL);
    size_t n = 0;
    for (size_t i = 0; i < bytes; i++)
        n += kv_utf8_put(kv_byte_letter((unsigned char)piece[i]), letters + n);
    return kv_bpe_find(b, letters, n, KV_TOKEN_MODEL);
}

/* A merge takes one symbol away and adds two candidates at most, for the one it was: so there are never more than two
 * for each symbol. */
static bool make_room(struct kv_bpe_work *w, size_t bytes, struct kv_err *e)
{
    struct kv_symbol *symbol = kv_grown(w->symbol, &w->symbol_room, bytes, sizeof *symbol, e);
    if (symbol)
        w->symbol = symbol;
    struct kv_candidate *heap = symbol ? kv_grown(w->heap, &w->heap_room, 2 * bytes, sizeof *heap, e) : NULL;
    if (heap)
        w->heap = heap;
    return heap != NULL;
}

bool kv_bpe_encode(const struct kv_bpe *b, const char *piece, size_t bytes, struct kv_bpe_work *w, struct kv_ids *ids,
                   struct kv_err *e)
{
    int32_t whole = b->ignore_merges ? find_whole(b, piece, bytes) : -1;
    if (whole >= 0)
        return kv_ids_add(ids, whole, e);
    if (!make_room(w, bytes, e) || !start_symbols(b, piece, bytes, w, e))
        return false;
    merge_all(b, w);
    for (int32_t i = 0; i >= 0; i = w->symbol[i].right)
        if (!kv_ids_add(ids, w->symbol[i].id, e))
            return false;
    return true;
}
