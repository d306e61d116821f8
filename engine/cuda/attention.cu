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
    CLOSE = 16, /* a chunk is as small as it can be but for one part in so many */
};

/* Of one layer. Lists of plain parts stand before those of parts with slot_positions. */
struct plan {
    int64_t tiles[2];
    int32_t heads; /* of a piece */
    int32_t chunk; /* entries a piece has at most, or a little less */
    struct kv_cuda_attention_counts *n;
    struct kv_attention_tile *tile;
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

/* Lanes of one layer's parts of one token, each as often as its query heads fill a piece: no layer has more merges. */
static int64_t merges_of(const struct asked *k, int32_t heads)
{
    int64_t n = 0;
    for (int p = 0; p < k->n_parts; p++)
        if (decodes(k, &k->part[p]))
            n += k->part[p].heads * per_piece(group_of(k, &k->part[p]), heads);
    return n;
}

/* Blocks that are there at once. */
static int64_t room_of(const struct asked *k, int32_t heads)
{
    return (int64_t)k->multiprocessors * (heads < KV_DECODE_HEADS ? 2 : 1);
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

/* The smallest chunk, nearly, whose pieces are all there at once, so that none is left for a second turn; where there
 * are too many lanes for that, a share of many turns, so that a last one that is not full costs little. */
static int32_t chunk_of(const struct asked *k, int32_t layer, int32_t heads)
{
    const int64_t least = SPLIT_LEAST;
    int64_t room = room_of(k, heads), merges = merges_of(k, heads), all, longest, low, high;
    count_pieces(k, layer, heads, least, &all, &longest);
    if (merges > room)
        return (int32_t)at_least(per_piece(all, TURNS * room), least);
    low = at_least(per_piece(all, room), least);
    high = at_least(longest, low); /* no lane is split: as many pieces as merges */
    if (merges < room && high > per_piece(all, room - merges))
        high = at_least(per_piece(all, room - merges), low); /* at most one piece a lane more than all / chunk */
    for (int64_t middle; high - low > low / CLOSE;) {
        middle = (low + high) / 2;
        if (count_pieces(k, layer, heads, middle, &all, &longest) > room)
            low = middle + 1;
        else
            high = middle;
    }
    return (int32_t)high;
}

/* Pieces of any layer, at most: what chunk_of allows. */
static int64_t most_pieces(const struct asked *k, int32_t heads)
{
    int64_t room = room_of(k, heads), merges = merges_of(k, heads);
    return merges > room ? merges + TURNS * room : merges ? room : 0;
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
            to->tile[to->tiles[0] + to->tiles[1]] = (struct kv_attention_tile){p, h, (int32_t)i, (int32_t)entries};
        }
}

static void add_pieces(const struct asked *k, int p, int32_t layer, struct plan *to, int slots)
{
    const struct kv_cuda_part *part = &k->part[p];
    for (int32_t h = 0; h < part->heads; h++)
        for (int32_t sub = 0; sub < group_of(k, part); sub += to->heads) {
            int64_t entries = old_of(k, p, layer, h) + 1, n = splits_of(entries, to->chunk);
            int32_t number = to->n->pieces[0] + to->n->pieces[1];
            to->merge[to->n->merges++] = (struct kv_attention_merge){p, h, sub, number, (int32_t)n};
            for (int64_t i = 0; i < n; i++) {
                int64_t first = entries * i / n, behind = entries * (i + 1) / n;
                to->piece[number + i] =
                    (struct kv_attention_piece){p, h, sub, (int32_t)first, (int32_t)(behind - first)};
            }
            to->n->pieces[slots] += (int32_t)n;
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

static void make_plan(const struct asked *k, int32_t layer, struct plan *to)
{
    to->tiles[0] = to->tiles[1] = 0;
    *to->n = (struct kv_cuda_attention_counts){{0, 0}, 0};
    to->heads = heads_of(k);
    to->chunk = chunk_of(k, layer, to->heads);
    for (int slots = 0; slots < 2; slots++)
        for (int p = 0; p < k->n_parts; p++) {
            if ((k->part[p].slot_positions != 0) != slots)
                continue;
            if (decodes(k, &k->part[p]))
                add_pieces(k, p, layer, to, slots);
            else
                add_tiles(k, p, layer, to, slots);
        }
    qsort(to->tile, (size_t)to->tiles[0], sizeof *to->tile, longest_first);
    qsort(to->tile + to->tiles[0], (size_t)to->tiles[1], sizeof *to->tile, longest_first);
}

static int64_t take(int64_t *bytes, int64_t n, size_t size)
{
    int64_t at = *bytes;
    *bytes += (n * (int64_t)size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return at;
}

/* Where a layer's lists lie, and how many bytes they take. */
struct layout {
    int64_t counts, tile, piece, merge, bytes;
};

static struct layout layout_of(const struct kv_cuda_attention_size *size)
{
    struct layout l = {0, 0, 0, 0, 0};
    l.counts = take(&l.bytes, 1, sizeof(struct kv_cuda_attention_counts));
    l.tile = take(&l.bytes, size->tiles[0] + size->tiles[1], sizeof(struct kv_attention_tile));
    l.piece = take(&l.bytes, size->pieces, sizeof(struct kv_attention_piece));
    l.merge = take(&l.bytes, size->merges, sizeof(struct kv_attention_merge));
    return l;
}

extern "C" void kv_cuda_attention_measure(const struct kv_cuda_shape *s, const struct kv_cuda_part *part_host,
                                          int n_parts, int multiprocessors, struct kv_cuda_attention_size *size)
{
    struct asked k = {s, part_host, NULL, n_parts, multiprocessors};
    int64_t a_tile = kv_attention_fast(s->d) ? KV_PREFILL_ROWS : KV_PLAIN_ROWS;
    *size = (struct kv_cuda_attention_size){};
    size->heads = heads_of(&k);
    size->merges = merges_of(&k, size->heads);
    size->pieces = most_pieces(&k, size->heads);
    for (int p = 0; p < n_parts; p++) {
        const struct kv_cuda_part *part = &part_host[p];
        int slots = part->slot_positions != 0;
        if (decodes(&k, part))
            size->splits[slots] = true;
        else
            size->tiles[slots] += part->heads * per_piece(tokens_of(part) * group_of(&k, part), a_tile);
    }
    size->list_bytes = layout_of(size).bytes;
    take(&size->work_bytes, size->pieces * size->heads * s->d, sizeof(float));
    take(&size->work_bytes, size->pieces * size->heads * 2, sizeof(float));
}

extern "C" void kv_cuda_attention_lists(const struct kv_cuda_shape *s, const struct kv_cuda_part *part_host,
                                        const int32_t *const *host_length, int n_parts, int multiprocessors,
                                        int32_t layer, const struct kv_cuda_attention_size *size, void *lists)
{
    struct asked k = {s, part_host, host_length, n_parts, multiprocessors};
    struct layout l = layout_of(size);
    char *at = (char *)lists;
    struct plan p = {{0, 0},
                     0,
                     0,
                     (struct kv_cuda_attention_counts *)(void *)(at + l.counts),
                     (struct kv_attention_tile *)(void *)(at + l.tile),
                     (struct kv_attention_piece *)(void *)(at + l.piece),
                     (struct kv_attention_merge *)(void *)(at + l.merge)};
    make_plan(&k, layer, &p);
    assert(p.heads == size->heads && p.n->merges == size->merges && p.n->pieces[0] + p.n->pieces[1] <= size->pieces);
    assert(p.tiles[0] == size->tiles[0] && p.tiles[1] == size->tiles[1]);
}

extern "C" void kv_cuda_attention(struct kv_gpu *g, const struct kv_cuda_shape *s, const struct kv_cuda_part *part,
                                  const struct kv_cuda_attention_size *size, int32_t layer, const kv_query *q,
                                  kv_bf16 *out, float *lse, const void *lists, void *work)
{
    struct kv_attention a = {*s, part, q, out, lse, layer};
    struct layout l = layout_of(size);
    const char *at = (const char *)lists;
    const struct kv_attention_tile *tile = (const struct kv_attention_tile *)(const void *)(at + l.tile);
    if (kv_attention_fast(s->d)) {
        if (!kv_attention_hopper(g, &a, tile, size->tiles[0]))
            kv_attention_prefill(g, &a, tile, size->tiles[0], false);
        kv_attention_prefill(g, &a, tile + size->tiles[0], size->tiles[1], true);
    } else
        kv_attention_plain(g, &a, tile, size->tiles[0] + size->tiles[1]);
    struct kv_attention_split split = {
        (const struct kv_cuda_attention_counts *)(const void *)(at + l.counts),
        (const struct kv_attention_piece *)(const void *)(at + l.piece),
        (const struct kv_attention_merge *)(const void *)(at + l.merge),
        (float *)work,
        NULL,
    };
    int64_t behind = 0;
    take(&behind, size->pieces * size->heads * s->d, sizeof(float));
    split.top_sum = (float *)(void *)((char *)work + behind);
    for (int slots = 0; slots < 2; slots++)
        if (size->splits[slots])
            kv_attention_decode(g, &a, &split, size->pieces, slots != 0, size->heads);
    kv_attention_merge_pieces(g, &a, &split, size->merges, size->heads);
}
