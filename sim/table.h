/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Rows that print as an aligned table for people, as CSV and as JSON: one list of columns, one place for the numbers.
 */
#ifndef KV_TABLE_H
#define KV_TABLE_H

#include "sim/core/arena.h"

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

enum kv_cell_kind { KV_CELL_TEXT, KV_CELL_COUNT, KV_CELL_BYTES, KV_CELL_SHARE, KV_CELL_REAL, KV_CELL_BOOL };

struct kv_column {
    const char *key;   /* CSV and JSON; units in it (peak_bytes, ttft_s) */
    const char *title; /* for people, '\n' starts its second line; NULL: not in their table */
    enum kv_cell_kind kind;
};

/* A count without bound is KV_CELL_ANY: "any" for people, unknown to programs. */
#define KV_CELL_ANY INT64_MAX

/* `whole` < 0 for bytes and counts, NaN for reals, NULL for text: unknown; "-" for people, empty in CSV, null in JSON.
 */
struct kv_cell {
    const char *text;
    int64_t whole;
    double real;
};

struct kv_table {
    const struct kv_column *column;
    int n_columns;
    struct kv_cell *cell; /* (rows, columns) */
    int n_rows, room;
    struct kv_arena *arena;
};

void kv_table_open(struct kv_table *t, const struct kv_column *column, int n_columns, struct kv_arena *a);
/* A new row, all of it unknown. */
struct kv_cell *kv_table_row(struct kv_table *t);
/* The cell of the column `key` in a row. */
struct kv_cell *kv_table_cell(const struct kv_table *t, struct kv_cell *row, const char *key);
void kv_set_text(const struct kv_table *t, struct kv_cell *row, const char *key, const char *text);
void kv_set_whole(const struct kv_table *t, struct kv_cell *row, const char *key, int64_t whole);
void kv_set_real(const struct kv_table *t, struct kv_cell *row, const char *key, double real);

/* One CSV cell, quoted when it must be. */
void kv_csv_put(const char *text, FILE *out);

void kv_table_print(const struct kv_table *t, FILE *out);
void kv_table_csv(const struct kv_table *t, FILE *out);
/* The parts, for a table that is written as it grows and emptied in between (n_rows = 0). */
void kv_table_csv_header(const struct kv_table *t, FILE *out);
void kv_table_csv_rows(const struct kv_table *t, FILE *out);
json_t *kv_table_json(const struct kv_table *t); /* array of objects; the caller decrefs */

/* A JSON string of text from files: bytes that are no UTF-8 become U+FFFD. NULL: null. */
json_t *kv_json_text(const char *text);

/* Indented, keys in the order they were put in, a line end behind. */
void kv_json_print(const json_t *json, FILE *out);

#endif
