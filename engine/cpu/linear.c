/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Linear layers, for rows that belong to several parts. A part of many rows goes through OpenBLAS in blocks of one
 * size, weights narrower than f32 widened a block at a time; rows of small parts, as in decode, go together: each row
 * of the weights is read from memory once, as it is stored. How a part is computed depends on the part alone, neither
 * on the others beside it nor on the number of threads: so a sequence comes to the same bits alone and in any batch. */
#include "engine/cpu/inside.h"
#include "sim/core/least.h"

#include <cblas.h>
#include <stdatomic.h>

enum { FEW_ROWS = 8, PIECE = 64, BLOCK_ROWS = 256 };

struct linear {
    struct kv_cpu *b;
    const struct kv_cpu_rows *rows;
    const float *x;
    int64_t inputs;
    const struct kv_cpu_product *product;
    int n_products;
    bool few;      /* there are rows of small parts */
    int64_t piece; /* outputs of them at a time */
    atomic_llong next;
};

static int64_t element(enum kv_tensor_type type)
{
    return type == KV_TENSOR_F32 ? 4 : 2;
}

static int64_t rows_of(const struct linear *l, int part)
{
    return l->rows->first[part + 1] - l->rows->first[part];
}

/* Where a part's row of a product lies, from output `from` on. */
static float *out_row(const struct linear *l, const struct kv_cpu_product *p, int part, int64_t row, int64_t from)
{
    float *y = p->part_y ? p->part_y[part] : p->y + l->rows->first[part] * p->w->rows;
    return y + row * p->w->rows + from;
}

static const float *in_row(const struct linear *l, int part, int64_t row)
{
    return l->x + (l->rows->first[part] + row) * l->inputs;
}

/* ---- rows of small parts ---- */

struct place {
    int part;
    int64_t row;
};

/* The next rows of small parts, at most as many as are multiplied at once. */
static int next_rows(const struct linear *l, struct place *at, struct place *found)
{
    int n = 0;
    for (; at->part < l->rows->n_parts && n < KV_MOST_VECTORS; at->part++, at->row = 0) {
        int64_t rows = rows_of(l, at->part);
        if (rows > FEW_ROWS)
            continue;
        while (at->row < rows && n < KV_MOST_VECTORS) {
            found[n++] = *at;
            at->row++;
        }
        if (at->row < rows)
            break;
    }
    return n;
}

static void multiply_few(const struct linear *l, const struct kv_cpu_product *p, int64_t from, int64_t n)
{
    const char *weights = (const char *)p->w->data + from * l->inputs * element(p->w->type);
    struct place at = {0}, found[KV_MOST_VECTORS];
    float sum[KV_MOST_VECTORS * PIECE], bias[PIECE] = {0};
    if (p->bias)
        kv_tensor_read(p->bias, from, n, bias);
    for (int rows; (rows = next_rows(l, &at, found)) > 0;) {
        const float *x[KV_MOST_VECTORS];
        for (int r = 0; r < rows; r++)
            x[r] = in_row(l, found[r].part, found[r].row);
        l->b->k->multiply(weights, p->w->type, l->inputs, n, x, rows, sum, PIECE);
        for (int r = 0; r < rows; r++) {
            float *y = out_row(l, p, found[r].part, found[r].row, from);
            for (int64_t o = 0; o < n; o++)
                y[o] = sum[r * PIECE + o] + bias[o] + (p->add ? y[o] : 0);
        }
    }
}

/* ---- parts of many rows ---- */

/* y (rows, n) of a part from one block of weights, columns a few at a time where they must be widened. */
static void multiply_block(const struct linear *l, const struct kv_cpu_product *p, int part, int64_t row, int64_t rows,
                           int64_t from, int64_t n, float *wide)
{
    const struct kv_tensor *w = p->w;
    const float *x = in_row(l, part, row);
    float *y = out_row(l, p, part, row, from), bias[KV_CPU_BLOCK_OUTPUTS];
    bool there = w->type == KV_TENSOR_F32 && (uintptr_t)w->data % sizeof(float) == 0;
    int64_t columns = there ? l->inputs : KV_CPU_BLOCK_INPUTS;
    for (int64_t c = 0, many; c < l->inputs; c += many) {
        many = kv_least(columns, l->inputs - c);
        const float *block = (const float *)w->data + from * l->inputs;
        for (int64_t o = 0; o < n && !there; o++)
            l->b->k->widen((const char *)w->data + ((from + o) * l->inputs + c) * element(w->type), w->type, many,
                           wide + o * many);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)n, (int)many, 1, x + c, (int)l->inputs,
                    there ? block : wide, (int)many, p->add || c ? 1 : 0, y, (int)w->rows);
    }
    if (!p->bias)
        return;
    kv_tensor_read(p->bias, from, n, bias);
    for (int64_t r = 0; r < rows; r++)
        l->b->k->axpy(y + r * w->rows, 1, bias, n);
}

/* ---- all of it, in numbered tasks ---- */

static int64_t blocks(int64_t n, int64_t size)
{
    return (n + size - 1) / size;
}

/* Task `number` of those that are left; false: there is none. */
static bool do_task(const struct linear *l, int64_t number, float *wide)
{
    for (int k = 0; k < l->n_products; k++) {
        const struct kv_cpu_product *p = &l->product[k];
        int64_t outputs = p->w->rows, across = blocks(outputs, KV_CPU_BLOCK_OUTPUTS);
        for (int part = 0; part < l->rows->n_parts; part++) {
            int64_t rows = rows_of(l, part), n = rows > FEW_ROWS ? blocks(rows, BLOCK_ROWS) * across : 0;
            if (number < n) {
                int64_t row = number / across * BLOCK_ROWS, from = number % across * KV_CPU_BLOCK_OUTPUTS;
                multiply_block(l, p, part, row, kv_least(BLOCK_ROWS, rows - row), from,
                               kv_least(KV_CPU_BLOCK_OUTPUTS, outputs - from), wide);
                return true;
            }
            number -= n;
        }
        int64_t pieces = l->few ? blocks(outputs, l->piece) : 0;
        if (number < pieces) {
            multiply_few(l, p, number * l->piece, kv_least(l->piece, outputs - number * l->piece));
            return true;
        }
        number -= pieces;
    }
    return false;
}

static void do_tasks(void *linear_, int member)
{
    struct linear *l = linear_;
    while (do_task(l, atomic_fetch_add(&l->next, 1), l->b->work[member].weight))
        ;
}

void kv_cpu_linear(struct kv_cpu *b, const struct kv_cpu_rows *rows, const float *x, int64_t inputs,
                   const struct kv_cpu_product *product, int n_products)
{
    struct linear l = {
        .b = b, .rows = rows, .x = x, .inputs = inputs, .product = product, .n_products = n_products, .piece = PIECE};
    int64_t outputs = 0;
    for (int part = 0; part < rows->n_parts; part++)
        l.few |= rows_of(&l, part) > 0 && rows_of(&l, part) <= FEW_ROWS;
    for (int k = 0; k < n_products; k++)
        outputs += product[k].w->rows;
    while (l.piece > 16 && outputs / l.piece < 4 * kv_team_members(b->team))
        l.piece /= 2;
    kv_team_run(b->team, do_tasks, &l);
}
