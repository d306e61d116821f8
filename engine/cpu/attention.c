/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Attention over ragged pages, lane by lane: queries of a KV head's group together, keys a tile at a time, softmax kept
 * running, so that no row of scores is ever whole. */
#include "engine/cpu/inside.h"

#include <cblas.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

void kv_cpu_rotate(const struct kv_cpu *b, float *x, int64_t heads, int64_t position)
{
    int64_t half = kv_cpu_d(b) / 2;
    const float *cosine = b->cosine + position * half, *sine = b->sine + position * half;
    for (int64_t h = 0; h < heads; h++, x += 2 * half)
        for (int64_t i = 0; i < half; i++) {
            float first = x[i], second = x[i + half];
            x[i] = first * cosine[i] - second * sine[i];
            x[i + half] = second * cosine[i] + first * sine[i];
        }
}

/* How many of n entries from one on lie in its page. */
static int64_t in_page(int64_t page, int64_t first, int64_t n)
{
    int64_t left = page - first % page;
    return left < n ? left : n;
}

void kv_cpu_tile(const struct kv_cpu *b, const struct kv_seq *s, const struct kv_lane_pages *lane, int64_t first,
                 int64_t n, float *keys, float *values)
{
    int64_t d = kv_cpu_d(b), page = b->asked.page;
    for (int64_t i = 0, many; i < n; i += many) {
        many = in_page(page, first + i, n - i);
        memcpy(keys + i * d, kv_cpu_key(b, lane, first + i), sizeof(float) * (size_t)(many * d));
        if (values)
            memcpy(values + i * d, kv_cpu_value(b, lane, first + i), sizeof(float) * (size_t)(many * d));
    }
    for (int64_t i = 0; s->slot_positions && i < n; i++)
        kv_cpu_rotate(b, keys + i * d, 1, first + i);
}

/* One block of a lane's queries. */
struct block {
    const struct kv_part *part;
    const struct kv_lane_pages *lane;
    int64_t row;   /* of the part's first token in the buffers */
    int64_t old;   /* entries from before the pass */
    int64_t head;  /* first query head */
    int64_t group; /* query heads */
    int64_t first, tokens;
};

/* Query rows: token after token, the group's heads within. */
static void load_queries(const struct kv_cpu *b, const struct block *k, struct kv_cpu_work *w)
{
    int64_t d = kv_cpu_d(b), heads = b->config.q_heads;
    float scale = 1 / sqrtf((float)d);
    for (int64_t t = 0; t < k->tokens; t++)
        for (int64_t h = 0; h < k->group; h++) {
            float *q = w->q + (t * k->group + h) * d;
            memcpy(q, b->q + ((k->row + k->first + t) * heads + k->head + h) * d, sizeof *q * (size_t)d);
            if (k->part->seq->slot_positions)
                kv_cpu_rotate(b, q, 1, k->old + k->first + t);
            b->k->scale(q, scale, d);
        }
}

/* How many of the tile's keys [first, first + n) a token of the block sees. */
static int64_t seen_in_tile(const struct block *k, int64_t token, int64_t first, int64_t n)
{
    int64_t seen = k->old + k->first + token + 1 - first;
    return seen < 0 ? 0 : seen < n ? seen : n;
}

/* A row's scores become weights under its highest one so far; what was summed under a lower one shrinks. */
static void take_weights(const struct kv_cpu *b, struct kv_cpu_work *w, int64_t row, int64_t n)
{
    int64_t d = kv_cpu_d(b);
    float *s = w->s + row * KV_CPU_TILE, top = b->k->max(s, n);
    if (top > w->top[row]) {
        float shrink = w->top[row] == -INFINITY ? 0 : expf(w->top[row] - top);
        w->sum[row] *= shrink;
        b->k->scale(w->o + row * d, shrink, d);
        w->top[row] = top;
    }
    w->sum[row] += b->k->softmax(s, n, w->top[row]);
}

static void add_tile(const struct kv_cpu *b, const struct block *k, int64_t first, int64_t n, struct kv_cpu_work *w)
{
    int64_t d = kv_cpu_d(b), rows = k->tokens * k->group;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)n, (int)d, 1, w->q, (int)d, w->keys, (int)d, 0,
                w->s, KV_CPU_TILE);
    for (int64_t r = 0; r < rows; r++) {
        float *s = w->s + r * KV_CPU_TILE;
        int64_t seen = seen_in_tile(k, r / k->group, first, n);
        memset(s + seen, 0, sizeof *s * (size_t)(n - seen));
        if (seen)
            take_weights(b, w, r, seen);
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)d, (int)n, 1, w->s, KV_CPU_TILE, w->values,
                (int)d, 1, w->o, (int)d);
}

/* A token alone reads the pages where they are. */
static void add_tile_alone(const struct kv_cpu *b, const struct block *k, int64_t first, int64_t n,
                           struct kv_cpu_work *w)
{
    int64_t d = kv_cpu_d(b), page = b->asked.page;
    for (int64_t i = 0, many; i < n; i += many) {
        many = in_page(page, first + i, n - i);
        for (int64_t r = 0; r < k->group; r += KV_MOST_VECTORS) {
            int heads = (int)(k->group - r < KV_MOST_VECTORS ? k->group - r : KV_MOST_VECTORS);
            const float *q[KV_MOST_VECTORS];
            for (int h = 0; h < heads; h++)
                q[h] = w->q + (r + h) * d;
            b->k->multiply(kv_cpu_key(b, k->lane, first + i), KV_TENSOR_F32, d, many, q, heads,
                           w->s + r * KV_CPU_TILE + i, KV_CPU_TILE);
        }
    }
    for (int64_t r = 0; r < k->group; r++)
        take_weights(b, w, r, n);
    for (int64_t i = 0, many; i < n; i += many) {
        many = in_page(page, first + i, n - i);
        for (int64_t r = 0; r < k->group; r++)
            b->k->add_rows(w->o + r * d, w->s + r * KV_CPU_TILE + i, kv_cpu_value(b, k->lane, first + i), d, many);
    }
}

static void attend(struct kv_cpu *b, const struct block *k, struct kv_cpu_work *w)
{
    int64_t d = kv_cpu_d(b), rows = k->tokens * k->group, heads = b->config.q_heads;
    int64_t end = k->old + k->first + k->tokens;
    bool alone = k->part->n_new + k->part->n_patch == 1 && !k->part->seq->slot_positions;
    load_queries(b, k, w);
    memset(w->o, 0, sizeof *w->o * (size_t)(rows * d));
    for (int64_t r = 0; r < rows; r++) {
        w->top[r] = -INFINITY;
        w->sum[r] = 0;
    }
    for (int64_t first = 0; first < end; first += KV_CPU_TILE) {
        int64_t n = end - first < KV_CPU_TILE ? end - first : KV_CPU_TILE;
        if (alone) {
            add_tile_alone(b, k, first, n, w);
            continue;
        }
        kv_cpu_tile(b, k->part->seq, k->lane, first, n, w->keys, w->values);
        add_tile(b, k, first, n, w);
    }
    for (int64_t r = 0; r < rows; r++) {
        int64_t row = k->row + k->first + r / k->group, head = k->head + r % k->group;
        float *out = b->attention + (row * heads + head) * d;
        memcpy(out, w->o + r * d, sizeof *out * (size_t)d);
        b->k->scale(out, 1 / w->sum[r], d);
        b->lse[row * heads + head] = w->top[r] + logf(w->sum[r]);
    }
}

/* Blocks of all parts and lanes of the layer, numbered; a block's work grows with its place in the lane, so the last
 * come first. */
struct attention {
    struct kv_cpu *b;
    int64_t layer, blocks;
    atomic_llong next;
};

static int64_t blocks_of(const struct kv_cpu *b, const struct kv_part *p, int64_t *per_block)
{
    int64_t group = b->config.q_heads / p->seq->store_heads, tokens = p->n_new + p->n_patch;
    *per_block = KV_CPU_QUERY_ROWS / group > 0 ? KV_CPU_QUERY_ROWS / group : 1;
    return (tokens + *per_block - 1) / *per_block;
}

static bool find_block(const struct kv_cpu *b, int64_t layer, int64_t number, struct block *k)
{
    for (int p = 0; p < b->n_parts; p++) {
        const struct kv_part *part = &b->part[p];
        int64_t heads = part->seq->store_heads, per_block, blocks = blocks_of(b, part, &per_block);
        if (number >= heads * blocks) {
            number -= heads * blocks;
            continue;
        }
        int64_t tokens = part->n_new + part->n_patch, head = number % heads, block = blocks - 1 - number / heads;
        *k = (struct block){.part = part,
                            .lane = kv_cpu_lane(part->seq, layer, head),
                            .row = b->first[p],
                            .group = b->config.q_heads / heads,
                            .first = block * per_block};
        k->head = head * k->group;
        k->old = k->lane->length - tokens;
        k->tokens = tokens - k->first < per_block ? tokens - k->first : per_block;
        return true;
    }
    return false;
}

static void attend_blocks(void *attention_, int member)
{
    struct attention *a = attention_;
    struct block k;
    while (find_block(a->b, a->layer, atomic_fetch_add(&a->next, 1), &k))
        attend(a->b, &k, &a->b->work[member]);
}

void kv_cpu_attention(struct kv_cpu *b, int64_t layer)
{
    struct attention a = {.b = b, .layer = layer};
    kv_team_run(b->team, attend_blocks, &a);
}
