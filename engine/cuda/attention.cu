/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What is attended to in which block: the host knows all lengths, so it makes the lists of work and the kernels find
 * neither empty blocks nor lanes that are too long for one. */
#include "engine/cuda/attention.cuh"

#include <assert.h>
#include <stdlib.h>

enum {
    SPLIT_LEAST = 256, /* entries; shorter pieces cost more in merging than they gain */
    TURNS = 4,         /* blocks for each that there is room for, where there are more lanes than room */
    ALIGNMENT = 256,
};

/* Of one layer. Lists of plain parts stand before those of parts with slot_positions. */
struct plan {
    int64_t tiles[2], pieces[2], merges;
    int32_t heads;                  /* of a piece */
    int32_t chunk;                  /* entries a piece has at most, or a little less */
    struct kv_attention_tile *tile; /* NULL: count only */
    struct kv_attention_piece *piece;
    struct kv_attention_merge *merge;
};

struct asked {
    const struct kv_cuda_shape *s;
    const struct kv_cuda_part *part;
    const int32_t *const *length;
    int n_parts, multiprocessors;
};

static int64_t tokens_of(const struct kv_cuda_part *p)
{
    return (int64_t)p->n_new + p->n_patch;
}

static int32_t group_of(const struct asked *k, const struct kv_cuda_part *p)
{
    return k->s->q_heads / p->heads;
}

static bool decodes(const struct asked *k, const struct kv_cuda_part *p)
{
    return tokens_of(p) == 1 && kv_attention_fast(k->s->d);
}

static int64_t old_of(const struct asked *k, int p, int32_t layer, int32_t head)
{
    return k->length[p][(int64_t)layer * k->part[p].heads + head];
}

static int64_t per_piece(int64_t n, int64_t size)
{
    return (n + size - 1) / size;
}

/* Query heads a piece has room for: enough for the largest group, or for a share of it. */
static int32_t heads_of(const struct asked *k)
{
    int32_t most = 1, heads = 1;
    for (int p = 0; p < k->n_parts; p++)
        if (decodes(k, &k->part[p]) && group_of(k, &k->part[p]) > most)
            most = group_of(k, &k->part[p]);
    while (heads < most && heads < KV_DECODE_HEADS)
        heads *= 2;
    return heads;
}

static int64_t at_least(int64_t n, int64_t least)
{
    return n > least ? n : least;
}

static int64_t splits_of(int64_t entries, int64_t chunk)
{
    int64_t most = at_least(entries / SPLIT_LEAST, 1), n = per_piece(entries, chunk);
    return n < most ? n : most;
}

/* Pieces of the layer's lanes under a chunk; also all entries that they have, and the longest lane's. */
static int64_t count_pieces(const struct asked *k, int32_t layer, int32_t heads, int64_t chunk, int64_t *all,
                            int64_t *longest)
{
    int64_t n = 0;
    *all = *longest = 0;
    for (int p = 0; p < k->n_parts; p++)
        for (int32_t h = 0; decodes(k, &k->part[p]) && h < k->part[p].heads; h++) {
            int64_t entries = old_of(k, p, layer, h) + 1, subs = per_piece(group_of(k, &k->part[p]), heads);
            n += subs * splits_of(entries, chunk);
            *all += subs * entries;
            *longest = entries > *longest ? entries : *longest;
        }
    return n;
}

/* The smallest chunk whose pieces are all there at once, so that none is left for a second turn; where there are too
 * many lanes for that, a share of many turns, so that a last one that is not full costs little. */
static int32_t chunk_of(const struct asked *k, int32_t layer, int32_t heads)
{
    const int64_t least = SPLIT_LEAST;
    int64_t room = (int64_t)k->multiprocessors * (heads < KV_DECODE_HEADS ? 2 : 1), all, longest, low, high;
    count_pieces(k, layer, heads, least, &all, &longest);
    low = at_least(per_piece(all, room), least);
    high = at_least(longest, low);
    if (count_pieces(k, layer, heads, high, &all, &longest) > room)
        return (int32_t)at_least(per_piece(all, TURNS * room), least);
    for (int64_t middle; low < high;) {
        middle = (low + high) / 2;
        if (count_pieces(k, layer, heads, middle, &all, &longest) > room)
            low = middle + 1;
        else
            high = middle;
    }
    return (int32_t)low;
}

static void add_tiles(const struct asked *k, int p, int32_t layer, struct plan *to, int slots)
{
    const struct kv_cuda_part *part = &k->part[p];
    int64_t group = group_of(k, part), rows = tokens_of(part) * group;
    int64_t a_tile = kv_attention_fast(k->s->d) ? KV_PREFILL_ROWS : KV_PLAIN_ROWS;
    assert(rows + a_tile <= INT32_MAX); /* kernels number them so */
    for (int32_t h = 0; h < part->heads; h++)
        for (int64_t i = 0; i * a_tile < rows; i++, to->tiles[slots]++) {
            int64_t behind = (i + 1) * a_tile < rows ? (i + 1) * a_tile : rows;
            int64_t entries = old_of(k, p, layer, h) + (behind - 1) / group + 1;
            if (to->tile)
                to->tile[to->tiles[0] + to->tiles[1]] = (struct kv_attention_tile){p, h, (int32_t)i, (int32_t)entries};
        }
}

static void add_pieces(const struct asked *k, int p, int32_t layer, struct plan *to, int slots)
{
    const struct kv_cuda_part *part = &k->part[p];
    for (int32_t h = 0; h < part->heads; h++)
        for (int32_t sub = 0; sub < group_of(k, part); sub += to->heads, to->merges++) {
            int64_t entries = old_of(k, p, layer, h) + 1, n = splits_of(entries, to->chunk);
            int64_t number = to->pieces[0] + to->pieces[1];
            if (to->merge)
                to->merge[to->merges] = (struct kv_attention_merge){p, h, sub, (int32_t)number, (int32_t)n};
            for (int64_t i = 0; to->piece && i < n; i++) {
                int64_t first = entries * i / n, behind = entries * (i + 1) / n;
                to->piece[number + i] =
                    (struct kv_attention_piece){p, h, sub, (int32_t)first, (int32_t)(behind - first)};
            }
            to->pieces[slots] += n;
        }
}

static int longest_first(const void *a_, const void *b_)
{
    const struct kv_attention_tile *a = (const struct kv_attention_tile *)a_, *b = (const struct kv_attention_tile *)b_;
    if (a->entries != b->entries)
        return a->entries > b->entries ? -1 : 1;
    if (a->part != b->part)
        return a->part < b->part ? -1 : 1;
    if (a->head != b->head)
        return a->head < b->head ? -1 : 1;
    return a->number < b->number ? -1 : a->number > b->number;
}

/* Fills the lists of `to` that are there; counts in any case. */
static void make_plan(const struct asked *k, int32_t layer, struct plan *to)
{
    to->tiles[0] = to->tiles[1] = to->pieces[0] = to->pieces[1] = to->merges = 0;
    if (!to->chunk) { /* else it was counted before */
        to->heads = heads_of(k);
        to->chunk = chunk_of(k, layer, to->heads);
    }
    for (int slots = 0; slots < 2; slots++)
        for (int p = 0; p < k->n_parts; p++) {
            if ((k->part[p].slot_positions != 0) != slots)
                continue;
            if (decodes(k, &k->part[p]))
                add_pieces(k, p, layer, to, slots);
            else
                add_tiles(k, p, layer, to, slots);
        }
    if (to->tile) {
        qsort(to->tile, (size_t)to->tiles[0], sizeof *to->tile, longest_first);
        qsort(to->tile + to->tiles[0], (size_t)to->tiles[1], sizeof *to->tile, longest_first);
    }
}

/* Where lists and partial results lie in the work memory; `lists` bytes of it are the host's to fill. */
struct layout {
    int64_t tile, piece, merge, lists, o, top_sum, bytes;
};

static int64_t take(int64_t *bytes, int64_t n, size_t size)
{
    int64_t at = *bytes;
    *bytes += (n * (int64_t)size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return at;
}

static struct layout layout_of(const struct asked *k, const struct plan *p)
{
    struct layout l = {0, 0, 0, 0, 0, 0, 0};
    int64_t pieces = p->pieces[0] + p->pieces[1];
    l.tile = take(&l.bytes, p->tiles[0] + p->tiles[1], sizeof *p->tile);
    l.piece = take(&l.bytes, pieces, sizeof *p->piece);
    l.merge = take(&l.bytes, p->merges, sizeof *p->merge);
    l.lists = l.bytes;
    l.o = take(&l.bytes, pieces * p->heads * k->s->d, sizeof(float));
    l.top_sum = take(&l.bytes, pieces * p->heads * 2, sizeof(float));
    return l;
}

extern "C" int64_t kv_cuda_attention_work(const struct kv_cuda_shape *s, const struct kv_cuda_part *part_host,
                                          const int32_t *const *host_length, int n_parts, int multiprocessors,
                                          int64_t *list_bytes)
{
    struct asked k = {s, part_host, host_length, n_parts, multiprocessors};
    int64_t most = ALIGNMENT;
    *list_bytes = ALIGNMENT;
    for (int32_t layer = 0; layer < s->layers; layer++) {
        struct plan p = {};
        make_plan(&k, layer, &p);
        struct layout l = layout_of(&k, &p);
        most = at_least(l.bytes, most);
        *list_bytes = at_least(l.lists, *list_bytes);
    }
    return most;
}

static void launch_tiles(struct kv_gpu *g, const struct kv_attention *a, const struct plan *p,
                         const struct kv_attention_tile *tile)
{
    if (!kv_attention_fast(a->s.d)) {
        kv_attention_plain(g, a, tile, p->tiles[0] + p->tiles[1]);
        return;
    }
    kv_attention_prefill(g, a, tile, p->tiles[0], false);
    kv_attention_prefill(g, a, tile + p->tiles[0], p->tiles[1], true);
}

static void launch_pieces(struct kv_gpu *g, const struct kv_attention *a, const struct plan *p,
                          const struct kv_attention_piece *piece, const struct kv_attention_merge *merge,
                          const struct kv_attention_partial *partial)
{
    kv_attention_decode(g, a, piece, p->pieces[0], false, p->heads, 0, partial);
    kv_attention_decode(g, a, piece + p->pieces[0], p->pieces[1], true, p->heads, p->pieces[0], partial);
    kv_attention_merge_pieces(g, a, merge, p->merges, p->heads, partial);
}

extern "C" void kv_cuda_attention(struct kv_gpu *g, const struct kv_cuda_shape *s, const struct kv_cuda_part *part,
                                  const struct kv_cuda_part *part_host, const int32_t *const *host_length, int n_parts,
                                  int32_t layer, const kv_query *q, kv_bf16 *out, float *lse, void *work,
                                  int64_t work_bytes, void *lists, int64_t list_bytes)
{
    struct asked k = {s, part_host, host_length, n_parts, kv_gpu_about(g)->multiprocessors};
    struct kv_attention a = {*s, part, q, out, lse, layer};
    struct plan p = {};
    char *device = (char *)work, *host = (char *)lists;
    make_plan(&k, layer, &p);
    struct layout l = layout_of(&k, &p);
    assert(l.bytes <= work_bytes && l.lists <= list_bytes);
    p.tile = (struct kv_attention_tile *)(void *)(host + l.tile);
    p.piece = (struct kv_attention_piece *)(void *)(host + l.piece);
    p.merge = (struct kv_attention_merge *)(void *)(host + l.merge);
    make_plan(&k, layer, &p);
    kv_gpu_put(g, device, host, (size_t)l.lists);
    struct kv_attention_partial partial = {(float *)(void *)(device + l.o), (float *)(void *)(device + l.top_sum)};
    launch_tiles(g, &a, &p, (const struct kv_attention_tile *)(void *)(device + l.tile));
    launch_pieces(g, &a, &p, (const struct kv_attention_piece *)(void *)(device + l.piece),
                  (const struct kv_attention_merge *)(void *)(device + l.merge), &partial);
}
