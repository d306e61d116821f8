/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What policies and traces ask of a lane, made where its keys are: a second look at the keys with the queries that
 * count, from the logarithms that attention kept. No more than a tile of scores is ever there. */
#include "engine/cpu/inside.h"

#include "sim/core/produce.h"

#include <cblas.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct look {
    const struct kv_cpu *b;
    const struct kv_part *part;
    struct kv_lane_pages *lane;
    int64_t layer, old; /* entries from before the pass */
    int64_t head;       /* query head */
    int64_t row;        /* of the part's first token */
    int64_t skip;       /* newest queries that do not count: the patch, where it is not asked for */
};

void kv_cpu_keep_queries(struct kv_cpu *b, int part, int64_t layer)
{
    const struct kv_part *p = &b->part[part];
    struct kv_seq *s = p->seq;
    int64_t width = b->config.q_heads * kv_cpu_d(b), n = p->n_new < s->window ? p->n_new : s->window;
    if (!s->window)
        return;
    float *all = s->query + layer * s->window * width;
    memmove(all, all + n * width, sizeof *all * (size_t)((s->window - n) * width));
    memcpy(all + (s->window - n) * width, b->q + (b->first[part] + p->n_new - n) * width,
           sizeof *all * (size_t)(n * width));
}

/* Query i of the last `queries` ones, the patch at their end where there is one, scaled; and how many entries it sees.
 */
static int64_t load_query(const struct look *l, int64_t i, int64_t queries, float *q)
{
    const struct kv_part *p = l->part;
    const struct kv_cpu *b = l->b;
    const struct kv_seq *s = p->seq;
    int64_t d = kv_cpu_d(b), heads = b->config.q_heads, tokens = p->n_new + p->n_patch;
    int64_t back = queries - i + l->skip; /* 1: the newest */
    const float *from;
    if (back <= tokens)
        from = b->q + ((l->row + tokens - back) * heads + l->head) * d;
    else /* of an earlier pass */
        from = s->query + ((l->layer * s->window + s->window - (back - tokens)) * heads + l->head) * d;
    /* Older queries than the pass's see what is left of the entries before them: all but those that came after. */
    int64_t place = l->lane->length - back;
    memcpy(q, from, sizeof *q * (size_t)d);
    if (s->slot_positions && place >= 0)
        kv_cpu_rotate(b, q, 1, place);
    b->k->scale(q, 1 / sqrtf((float)d), d);
    return place >= 0 ? place + 1 : 0;
}

/* Adds softmax weights of `queries` query rows over entries [from, length) to out: one pass for the sums of
 * exponentials, one for the weights. */
static bool sum_weights(const struct look *l, int64_t queries, int64_t from, float *out, struct kv_cpu_work *w)
{
    enum { ROWS = KV_CPU_QUERY_ROWS };
    const struct kv_cpu *b = l->b;
    int64_t d = kv_cpu_d(b), n = l->lane->length, seen[ROWS] = {0};
    for (int64_t first_query = 0; first_query < queries; first_query += ROWS) {
        int64_t rows = queries - first_query < ROWS ? queries - first_query : ROWS;
        for (int64_t i = 0; i < rows; i++) {
            seen[i] = load_query(l, first_query + i, queries, w->q + i * d);
            w->top[i] = -INFINITY;
            w->sum[i] = 0;
        }
        for (int again = 0; again < 2; again++)
            for (int64_t first = from; first < n; first += KV_CPU_TILE) {
                int64_t many = n - first < KV_CPU_TILE ? n - first : KV_CPU_TILE;
                kv_cpu_tile(b, l->part->seq, l->lane, first, many, w->keys, NULL);
                cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)many, (int)d, 1, w->q, (int)d,
                            w->keys, (int)d, 0, w->s, KV_CPU_TILE);
                for (int64_t i = 0; i < rows; i++) {
                    float *s = w->s + i * KV_CPU_TILE;
                    int64_t in = seen[i] - first < 0 ? 0 : seen[i] - first < many ? seen[i] - first : many;
                    if (!in)
                        continue;
                    if (again) {
                        b->k->add_exp(out + first - from, s, in, w->top[i] + logf(w->sum[i]));
                        continue;
                    }
                    float top = b->k->max(s, in);
                    if (top > w->top[i]) {
                        w->sum[i] *= w->top[i] == -INFINITY ? 0 : expf(w->top[i] - top);
                        w->top[i] = top;
                    }
                    w->sum[i] += b->k->softmax(s, in, w->top[i]);
                }
            }
    }
    return true;
}

static void add_heads(const struct kv_cpu *b, float *out, const float *row, int64_t n)
{
    b->k->axpy(out, 1, row, n);
}

/* Window sums, column sums and last rows: of each query head, or summed over the lane's. */
static bool attention_channel(struct kv_cpu *b, const struct look *first, int64_t group, int64_t queries, int64_t from,
                              bool query_rows, float *out, int64_t stride, struct kv_cpu_work *w, struct kv_err *e)
{
    int64_t n = first->lane->length - from;
    float *row = malloc(sizeof *row * (size_t)(n + 1));
    if (!row)
        return kv_fail(e, KV_ENV, "no memory for a row of %lld scores", (long long)n);
    for (int64_t h = 0; h < group; h++) {
        struct look l = *first;
        l.head += h;
        memset(row, 0, sizeof *row * (size_t)n);
        sum_weights(&l, queries, from, row, w);
        if (query_rows || h == 0)
            memcpy(out + (query_rows ? h * stride : 0), row, sizeof *out * (size_t)n);
        else
            add_heads(b, out, row, n);
    }
    free(row);
    return true;
}

/* Norms, cosines and LagKV's scores of entries [from, n). */
static bool key_channel(const struct look *l, enum kv_channel what, int64_t from, float *out, struct kv_err *e)
{
    int64_t d = kv_cpu_d(l->b), n = l->lane->length - l->part->n_patch - from;
    float *keys = malloc(sizeof *keys * (size_t)(2 * n * d + 1)), *values = keys ? keys + n * d : NULL;
    bool good = keys != NULL;
    if (good) {
        kv_cpu_tile(l->b, l->part->seq, l->lane, from, n, keys, values);
        good = kv_make_of_keys(what, keys, values, n, d, out);
    }
    free(keys);
    return good || kv_fail(e, KV_ENV, "no memory for the keys of %lld entries", (long long)n);
}

struct layer_channel {
    struct kv_cpu *b;
    const struct kv_part *part;
    int64_t layer, row, queries, unit, lane_stride, row_stride;
    enum kv_channel what;
    bool query_rows;
    float *out;
    atomic_llong next;
    atomic_bool failed;
};

static bool one_lane(const struct layer_channel *c, int64_t head, struct kv_cpu_work *w, struct kv_err *e)
{
    const struct kv_part *p = c->part;
    int64_t group = c->b->config.q_heads / p->seq->store_heads, tokens = p->n_new + p->n_patch;
    struct look l = {.b = c->b,
                     .part = p,
                     .lane = kv_cpu_lane(p->seq, c->layer, head),
                     .layer = c->layer,
                     .head = head * group,
                     .row = c->row};
    int64_t length = l.lane->length, before = p->seq->n_query < p->seq->window ? p->seq->n_query : p->seq->window;
    int64_t queries = c->queries < tokens + before ? c->queries : tokens + before, from = 0;
    float *out = c->out + head * c->lane_stride;
    l.old = length - tokens;
    switch (c->what) {
    case KV_WINDOW_LOCAL:
        from = length - p->n_patch - c->unit;
        queries = queries < length - from ? queries : length - from;
        break;
    case KV_COLUMN_SUM:
    case KV_LAST_ROW:
        l.skip = p->n_patch;
        queries = c->what == KV_LAST_ROW ? 1 : p->n_new;
        break;
    case KV_KEY_NORM:
    case KV_VALUE_NORM:
        return key_channel(&l, c->what, l.old, out, e);
    case KV_KEY_COSINE:
    case KV_LAG:
        return key_channel(&l, c->what, 0, out, e);
    default:
        break;
    }
    return attention_channel(c->b, &l, group, queries, from, c->query_rows, out, c->row_stride, w, e);
}

static void some_lanes(void *channel_, int member)
{
    struct layer_channel *c = channel_;
    struct kv_err e = {0};
    for (int64_t head; (head = atomic_fetch_add(&c->next, 1)) < c->part->seq->store_heads;)
        if (!one_lane(c, head, &c->b->work[member], &e))
            atomic_store(&c->failed, true);
}

bool kv_cpu_channel(struct kv_backend *backend, int part, int64_t layer, enum kv_channel what, int64_t queries,
                    int64_t unit, bool query_rows, float *out, int64_t lane_stride, int64_t row_stride,
                    struct kv_err *e)
{
    struct kv_cpu *b = (struct kv_cpu *)(void *)backend;
    struct layer_channel c = {.b = b,
                              .part = &b->part[part],
                              .layer = layer,
                              .row = b->first[part],
                              .queries = queries,
                              .unit = unit,
                              .lane_stride = lane_stride,
                              .row_stride = row_stride,
                              .what = what,
                              .query_rows = query_rows,
                              .out = out};
    if (what == KV_EXTERNAL || what == KV_EXPECTED || what == KV_LATER_SUM || (int)what >= KV_SCORE_CHANNELS)
        return kv_fail(e, KV_USAGE, "channel '%s' cannot be made in a live run", kv_channels[what].name);
    kv_team_run(b->team, some_lanes, &c);
    return !atomic_load(&c.failed) || kv_fail(e, KV_ENV, "no memory for the scores of a layer");
}
