/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A product of matrices as the backend means it: y (rows, outputs) = x (rows, inputs) w^T, w (outputs, inputs). What a
 * library that counts columns first is told of it, and which products' plans are kept. Nothing here asks a device. */
#ifndef KV_PRODUCT_H
#define KV_PRODUCT_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kv_product {
    int64_t rows, outputs, inputs, y_step;
    int32_t alignment; /* bytes: w, x and y begin at multiples of it; a power of two, 256 at most */
    bool wide, add;    /* as kv_gpu_multiply has them */
};

struct kv_product kv_product_of(const void *w, const void *x, int64_t rows, int64_t outputs, int64_t inputs,
                                const void *y, int64_t y_step, bool wide, bool add);

/* The same memory, columns first: element (i, j) lies at i + j x step. y = w^T x, y(i, j) = sum over l of w(l, i)
 * x(l, j): the first factor is turned, the second is not. */
struct kv_columns {
    int64_t rows, columns, step;
};
struct kv_column_product {
    struct kv_columns w, x, y;
};
struct kv_column_product kv_product_columns(const struct kv_product *p);

/* Products that were asked for last, each in a place of its own. Row counts vary with what is left of a prompt and with
 * who else is in a step: of five products a model has, some fifty row counts are kept. */
enum { KV_PRODUCT_PLACES = 256 };
struct kv_product_places {
    struct kv_product product[KV_PRODUCT_PLACES];
    int64_t taken; /* so far: the i-th took place i % KV_PRODUCT_PLACES */
};

/* The product's place. *fresh: it had none, and took that of the product whose turn was longest ago. */
int kv_product_place(struct kv_product_places *p, const struct kv_product *product, bool *fresh);

/* The place that was taken i-th last (0: last); -1: none. */
int kv_product_recent(const struct kv_product_places *p, int i);

#ifdef __cplusplus
}
#endif

#endif
