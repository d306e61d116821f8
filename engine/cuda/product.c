/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "engine/cuda/product.h"

#include "sim/core/error.h"

struct kv_product kv_product_of(const void *w, const void *x, int64_t rows, int64_t outputs, int64_t inputs,
                                const void *y, int64_t y_step, bool wide, bool add)
{
    enum { MOST = 256 };
    uintptr_t all = (uintptr_t)w | (uintptr_t)x | (uintptr_t)y | MOST;
    struct kv_product p = {.rows = rows,
                           .outputs = outputs,
                           .inputs = inputs,
                           .y_step = y_step,
                           .alignment = (int32_t)(all & -all),
                           .wide = wide,
                           .add = add};
    KV_ASSERT(rows > 0 && outputs > 0 && inputs > 0 && y_step >= outputs && (wide || !add));
    KV_ASSERT(p.alignment >= 2 && (uintptr_t)y % (wide ? 4 : 2) == 0);
    return p;
}

/* What is a row to us is a column to it: so all three are turned, and y^T (outputs, rows) = w x^T. */
struct kv_column_product kv_product_columns(const struct kv_product *p)
{
    return (struct kv_column_product){.w = {p->inputs, p->outputs, p->inputs},
                                      .x = {p->inputs, p->rows, p->inputs},
                                      .y = {p->outputs, p->rows, p->y_step}};
}

static bool same(const struct kv_product *a, const struct kv_product *b)
{
    return a->rows == b->rows && a->outputs == b->outputs && a->inputs == b->inputs && a->y_step == b->y_step &&
           a->alignment == b->alignment && a->wide == b->wide && a->add == b->add;
}

int kv_product_place(struct kv_product_places *p, const struct kv_product *product, bool *fresh)
{
    int place;
    *fresh = false;
    for (int i = 0; (place = kv_product_recent(p, i)) >= 0; i++)
        if (same(&p->product[place], product))
            return place;
    *fresh = true;
    place = (int)(p->taken++ % KV_PRODUCT_PLACES);
    p->product[place] = *product;
    return place;
}

int kv_product_recent(const struct kv_product_places *p, int i)
{
    return i < KV_PRODUCT_PLACES && i < p->taken ? (int)((p->taken - 1 - i) % KV_PRODUCT_PLACES) : -1;
}
