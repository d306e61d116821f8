/* SPDX-License-Identifier: GPL-3.0-or-later */
/* CSV files read row by row, columns bound by the names in the header. Cells may be quoted. Messages are
 * `FILE:LINE:COL: what; what to do`, COL counted in bytes from 1. */
#ifndef KV_CSV_H
#define KV_CSV_H

#include "sim/core/arena.h"

#include <stdint.h>
#include <stdio.h>

struct kv_csv {
    const char *path;
    FILE *in;
    int64_t line; /* of the row read last */
    int n_columns;
    const char **name; /* (n_columns,) from the header */
    const char *raw;   /* the row as it stands in the file, without its line end; view */
    char **cell;       /* (n_columns,) the row's cells, unquoted; views */
    int *at;           /* (n_columns,) where each begins, for messages */
    char *buffer, *cells;
    size_t room, cells_room;
    bool ended; /* a line was without end: nothing more is read */
    struct kv_arena *arena;
};

/* Opens PATH ("-": standard input) and reads the header. KV_DATA. */
bool kv_csv_open(struct kv_csv *c, const char *path, struct kv_arena *a, struct kv_err *e);
void kv_csv_close(struct kv_csv *c);

/* The place of a column, or -1. */
int kv_csv_column(const struct kv_csv *c, const char *name);

/* The places of `n` columns, the first `needed` of which must be there (the others: -1; NULL: not asked for). KV_DATA,
 * with the nearest name there is. */
bool kv_csv_bind(const struct kv_csv *c, const char *const *names, int needed, int n, int *column, struct kv_err *e);

enum kv_next { KV_NEXT_ROW, KV_NEXT_END, KV_NEXT_BAD };
/* The next row that is not blank; BAD after a message, and the row after it can still be read. */
enum kv_next kv_csv_next(struct kv_csv *c, struct kv_err *e);

/* Cells as numbers; false after a message. */
bool kv_csv_count(const struct kv_csv *c, int column, int64_t least, int64_t most, int64_t *out, struct kv_err *e);
bool kv_csv_real(const struct kv_csv *c, int column, double least, double most, double *out, struct kv_err *e);
bool kv_csv_share(const struct kv_csv *c, int column, double *out, struct kv_err *e);
bool kv_csv_fail(const struct kv_csv *c, int column, struct kv_err *e, const char *what);

#endif
