/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Rows of any format, held in memory and given in order of arrival. */
#include "sim/workload/format.h"

#include <stdlib.h>
#include <string.h>

struct held {
    struct kv_row row;
    int64_t number; /* in the file: rows of the same time keep their order */
    int64_t block;  /* of row.n_blocks, in `blocks` */
};

struct sorted {
    struct held *row;
    int64_t n, room, at;
    uint64_t *blocks;
    int64_t n_blocks, block_room;
};

static void close_sorted(void *state)
{
    struct sorted *s = state;
    free(s->row);
    free(s->blocks);
    free(s);
}

static int by_arrival(const void *a_, const void *b_)
{
    const struct held *a = a_, *b = b_;
    if (a->row.arrival_ns != b->row.arrival_ns)
        return a->row.arrival_ns < b->row.arrival_ns ? -1 : 1;
    return (a->number > b->number) - (a->number < b->number);
}

static bool make_room(void **at, int64_t *room, int64_t wanted, size_t size, struct kv_err *e)
{
    if (wanted <= *room)
        return true;
    int64_t more = 2 * wanted + 1024;
    void *grown = realloc(*at, (size_t)more * size);
    if (!grown)
        return kv_fail(e, KV_ENV, "no memory to sort %lld rows; split the file", (long long)wanted);
    *at = grown;
    *room = more;
    return true;
}

static bool hold(struct sorted *s, const struct kv_row *row, struct kv_err *e)
{
    void *rows = s->row, *blocks = s->blocks;
    bool good = make_room(&rows, &s->room, s->n + 1, sizeof *s->row, e) &&
                make_room(&blocks, &s->block_room, s->n_blocks + row->n_blocks, sizeof *s->blocks, e);
    s->row = rows;
    s->blocks = blocks;
    if (!good)
        return false;
    s->row[s->n] = (struct held){.row = *row, .number = s->n, .block = s->n_blocks};
    if (row->n_blocks && s->blocks)
        memcpy(s->blocks + s->n_blocks, row->block, (size_t)row->n_blocks * sizeof *s->blocks);
    s->n_blocks += row->n_blocks;
    s->n++;
    return true;
}

bool kv_rows_sort(struct kv_rows *r, bool skip, int64_t *skipped, struct kv_err *e)
{
    struct sorted *s = calloc(1, sizeof *s);
    struct kv_err *ignored = calloc(1, sizeof *ignored);
    KV_ASSERT(s && ignored);
    struct kv_row row;
    *skipped = 0;
    for (enum kv_next next; (next = kv_rows_next(r, &row, skip ? ignored : e)) != KV_NEXT_END;) {
        if (next == KV_NEXT_ROW && !hold(s, &row, e))
            break;
        if (next == KV_NEXT_BAD && kv_rows_broken(r) && skip)
            kv_fail(e, ignored->status, "%s", ignored->text);
        *skipped += next == KV_NEXT_BAD;
        ignored->n = 0;
        ignored->length = 0;
    }
    free(ignored);
    if (s->n)
        qsort(s->row, (size_t)s->n, sizeof *s->row, by_arrival);
    r->reader->close(r->state);
    r->reader = &kv_read_sorted;
    r->state = s;
    r->broken = false;
    return !e->n;
}

static enum kv_next next_sorted(struct kv_rows *r, void *state, struct kv_row *row, struct kv_err *e)
{
    (void)e;
    struct sorted *s = state;
    if (s->at >= s->n)
        return KV_NEXT_END;
    const struct held *held = &s->row[s->at++];
    *row = held->row;
    for (int64_t i = 0; i < held->row.n_blocks; i++)
        kv_row_add_block(r, s->blocks[held->block + i]);
    return KV_NEXT_ROW;
}

bool kv_sorted_rewind(void *state)
{
    ((struct sorted *)state)->at = 0;
    return true;
}

const struct kv_row_reader kv_read_sorted = {.next = next_sorted, .close = close_sorted};
