/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Linear layers. Many rows: OpenBLAS, weights narrower than f32 widened a block at a time. Few rows, as in decode: each
 * row of the weights is read once, as it is stored, and multiplied with all of them. */
#include "engine/cpu/inside.h"

#include <cblas.h>
#include <stdatomic.h>

enum { FEW_ROWS = 8, BLOCK_OUTPUTS = 1024, PIECE = 16 };

struct skinny {
    struct kv_cpu *b;
    const struct kv_tensor *w;
    const float *x;
    float *y;
    int64_t rows;
    bool add;
    atomic_llong next;
};

static int64_t element(enum kv_tensor_type type)
{
    return type == KV_TENSOR_F32 ? 4 : 2;
}

static void skinny_piece(const struct skinny *s, int64_t from, int64_t to)
{
    const struct kv_tensor *w = s->w;
    float sum[FEW_ROWS];
    for (int64_t o = from; o < to; o++) {
        const char *row = (const char *)w->data + o * w->columns * element(w->type);
        s->b->k->dot_rows(row, w->type, w->columns, s->x, w->columns, (int)s->rows, sum);
        for (int64_t r = 0; r < s->rows; r++) {
            float *y = s->y + r * w->rows + o;
            *y = sum[r] + (s->add ? *y : 0);
        }
    }
}

static void skinny_rows(void *skinny_, int member)
{
    struct skinny *s = skinny_;
    (void)member;
    for (int64_t i; (i = atomic_fetch_add(&s->next, PIECE)) < s->w->rows;)
        skinny_piece(s, i, i + PIECE < s->w->rows ? i + PIECE : s->w->rows);
}

static void add_bias(const struct kv_cpu *b, const struct kv_tensor *bias, int64_t rows, int64_t outputs, float *y)
{
    kv_tensor_read(bias, 0, outputs, b->weight);
    for (int64_t r = 0; r < rows; r++)
        b->k->axpy(y + r * outputs, 1, b->weight, outputs);
}

void kv_cpu_linear(struct kv_cpu *b, const struct kv_tensor *w, const struct kv_tensor *bias, const float *x,
                   int64_t rows, float *y, bool add)
{
    if (rows <= FEW_ROWS) {
        struct skinny s = {.b = b, .w = w, .x = x, .y = y, .rows = rows, .add = add};
        kv_team_run(b->team, skinny_rows, &s);
    } else {
        for (int64_t from = 0; from < w->rows; from += BLOCK_OUTPUTS) {
            int64_t n = w->rows - from < BLOCK_OUTPUTS ? w->rows - from : BLOCK_OUTPUTS;
            const float *block = (const float *)w->data + from * w->columns;
            if (w->type != KV_TENSOR_F32 || (uintptr_t)w->data % sizeof(float)) {
                b->k->widen((const char *)w->data + from * w->columns * element(w->type), w->type, n * w->columns,
                            b->weight);
                block = b->weight;
            }
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)n, (int)w->columns, 1, x,
                        (int)w->columns, block, (int)w->columns, add ? 1 : 0, y + from, (int)w->rows);
        }
    }
    if (bias)
        add_bias(b, bias, rows, w->rows, y);
}
