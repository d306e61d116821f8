/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A time measured at points with up to four keys, whose grid need not be full: which second keys there are may depend
 * on the first, and so on. Between points it is multilinear, each of two neighbouring slices on its own grid; a slice
 * whose last keys begin above what is asked is passed over where one beyond it has smaller ones. Below an axis' least
 * key it is what it is there. Beyond its largest it goes on by the law of the axis, never cut off; beyond the only
 * key of a slice in proportion. */
#ifndef KV_RAGGED_H
#define KV_RAGGED_H

#include "sim/core/arena.h"

#include <stdint.h>

enum { KV_RAGGED_KEYS = 4 };

enum kv_axis_law {
    KV_AXIS_LINEAR,  /* along the line through half of the largest key and the largest; never falling */
    KV_AXIS_BYTES,   /* a number of requests, the next key their length: as the largest number, equally long together */
    KV_AXIS_SQUARES, /* the length of prompts without prefix: linear in its square, the pairs, between and beyond */
    KV_AXIS_PAIRS,   /* a chunk's tokens, the next key their prefix: as the largest chunk, with equally many pairs of a
                      * query and a key: chunk x (prefix + chunk / 2). Between two chunks it goes by pairs, too. */
};

struct kv_ragged_row {
    int64_t key[KV_RAGGED_KEYS];
    double value;
    int64_t line; /* of its file, for messages */
};

struct kv_ragged {
    int keys;
    enum kv_axis_law law[KV_RAGGED_KEYS];
    struct kv_ragged_row *row; /* malloc'ed while rows are added */
    int64_t n_rows, room;
    /* Level k holds the different values of keys 0 .. k; below entry i of it lie child[k][i] .. child[k][i + 1] - 1 of
     * level k + 1. */
    int64_t n[KV_RAGGED_KEYS];
    double *at[KV_RAGGED_KEYS];
    int64_t *child[KV_RAGGED_KEYS];
    double *least[KV_RAGGED_KEYS]; /* of an entry: from which last key on it need not be passed over */
    double *value;                 /* (n[keys - 1],) */
};

bool kv_ragged_add(struct kv_ragged *r, const int64_t *key, double value, int64_t line, struct kv_err *e);
/* Sorts what was added into the arena. KV_DATA for no rows and for two of the same keys, naming PATH. */
bool kv_ragged_build(struct kv_ragged *r, const char *path, struct kv_arena *a, struct kv_err *e);
/* Frees what was added; after kv_ragged_build it has been done. */
void kv_ragged_drop(struct kv_ragged *r);

/* `outside` is raised to asked / largest where the table was left. */
double kv_ragged_at(const struct kv_ragged *r, const double *x, double *outside);

/* A curve of one key at every whole number from 0 to its largest, for a look-up without search. */
struct kv_curve {
    double *value; /* (n,) */
    int64_t n;
};
bool kv_curve_build(struct kv_curve *c, const struct kv_ragged *r, struct kv_arena *a, struct kv_err *e);
double kv_curve_at(const struct kv_curve *c, int64_t x, double *outside);

#endif
