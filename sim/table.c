/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/table.h"

#include "sim/core/units.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void kv_table_open(struct kv_table *t, const struct kv_column *column, int n_columns, struct kv_arena *a)
{
    *t = (struct kv_table){.column = column, .n_columns = n_columns, .arena = a};
}

struct kv_cell *kv_table_row(struct kv_table *t)
{
    if (t->n_rows == t->room) {
        int room = t->room ? 2 * t->room : 16;
        struct kv_cell *more = KV_NEW_N(t->arena, struct kv_cell, room * t->n_columns);
        if (t->n_rows)
            memcpy(more, t->cell, sizeof *more * (size_t)(t->n_rows * t->n_columns));
        t->cell = more;
        t->room = room;
    }
    struct kv_cell *row = t->cell + t->n_rows++ * t->n_columns;
    for (int i = 0; i < t->n_columns; i++)
        row[i] = (struct kv_cell){.whole = -1, .real = NAN};
    return row;
}

struct kv_cell *kv_table_cell(const struct kv_table *t, struct kv_cell *row, const char *key)
{
    for (int i = 0; i < t->n_columns; i++)
        if (!strcmp(t->column[i].key, key))
            return &row[i];
    kv_bug(__FILE__, __LINE__, key);
}

void kv_set_text(const struct kv_table *t, struct kv_cell *row, const char *key, const char *text)
{
    kv_table_cell(t, row, key)->text = text;
}

void kv_set_whole(const struct kv_table *t, struct kv_cell *row, const char *key, int64_t whole)
{
    kv_table_cell(t, row, key)->whole = whole;
}

void kv_set_real(const struct kv_table *t, struct kv_cell *row, const char *key, double real)
{
    kv_table_cell(t, row, key)->real = real;
}

/* ---- for people ---- */

static const char *cell_text(const struct kv_table *t, const struct kv_column *c, const struct kv_cell *cell)
{
    char number[KV_NUMBER_TEXT];
    switch (c->kind) {
    case KV_CELL_TEXT:
        return cell->text ? cell->text : "-";
    case KV_CELL_COUNT:
        return cell->whole < 0              ? "-"
               : cell->whole == KV_CELL_ANY ? "any"
                                            : kv_copy_text(t->arena, kv_print_count(number, cell->whole));
    case KV_CELL_BYTES:
        return cell->whole < 0 ? "-" : kv_copy_text(t->arena, kv_print_bytes(number, cell->whole));
    case KV_CELL_BOOL:
        return cell->whole < 0 ? "-" : cell->whole ? "yes" : "no";
    case KV_CELL_SHARE:
        return isnan(cell->real) ? "-" : kv_copy_text(t->arena, kv_print_share(number, cell->real));
    case KV_CELL_REAL:
        return isnan(cell->real) ? "-" : kv_format(t->arena, "%.3g", cell->real);
    }
    return "-";
}

/* Line `line` of a title, and whether there is such a line. */
static const char *title_line(const struct kv_table *t, const struct kv_column *c, int line)
{
    const char *start = c->title;
    for (; line > 0; line--) {
        start = strchr(start, '\n');
        if (!start)
            return "";
        start++;
    }
    return kv_copy_part(t->arena, start, strcspn(start, "\n"));
}

/* Columns on a terminal, about: bytes that begin a character. */
static int width_of(const char *text)
{
    int n = 0;
    for (; *text; text++)
        n += ((unsigned char)*text & 0xC0) != 0x80;
    return n;
}

void kv_table_print(const struct kv_table *t, FILE *out)
{
    enum { TITLE_LINES = 2 };
    int *width = KV_NEW_N(t->arena, int, t->n_columns), last = 0;
    bool two = false;
    for (int c = 0; c < t->n_columns; c++) {
        const struct kv_column *column = &t->column[c];
        if (!column->title)
            continue;
        last = c;
        two |= strchr(column->title, '\n') != NULL;
        for (int line = 0; line < TITLE_LINES; line++) {
            int length = (int)strlen(title_line(t, column, line));
            width[c] = length > width[c] ? length : width[c];
        }
        for (int r = 0; r < t->n_rows; r++) {
            int length = width_of(cell_text(t, column, &t->cell[r * t->n_columns + c]));
            width[c] = length > width[c] ? length : width[c];
        }
    }
    for (int r = two ? -TITLE_LINES : -1; r < t->n_rows; r++) {
        for (int c = 0; c < t->n_columns; c++) {
            const struct kv_column *column = &t->column[c];
            if (!column->title)
                continue;
            const char *text = r < 0 ? title_line(t, column, (two ? TITLE_LINES : 1) + r)
                                     : cell_text(t, column, &t->cell[r * t->n_columns + c]);
            bool left = column->kind == KV_CELL_TEXT;
            if (left && c == last)
                fputs(text, out);
            else if (left)
                fprintf(out, "%s%*s  ", text, width[c] - width_of(text), "");
            else
                fprintf(out, "%*s%s", width[c], text, c == last ? "" : "  ");
        }
        fputc('\n', out);
    }
}

/* ---- for programs ---- */

void kv_csv_put(const char *text, FILE *out)
{
    if (!strpbrk(text, ",\"\r\n")) {
        fputs(text, out);
        return;
    }
    fputc('"', out);
    for (; *text; text++) {
        if (*text == '"')
            fputc('"', out);
        fputc(*text, out);
    }
    fputc('"', out);
}

void kv_table_csv_header(const struct kv_table *t, FILE *out)
{
    for (int c = 0; c < t->n_columns; c++)
        fprintf(out, "%s%s", c ? "," : "", t->column[c].key);
    fputc('\n', out);
}

void kv_table_csv(const struct kv_table *t, FILE *out)
{
    kv_table_csv_header(t, out);
    kv_table_csv_rows(t, out);
}

void kv_table_csv_rows(const struct kv_table *t, FILE *out)
{
    char number[KV_NUMBER_TEXT];
    for (int r = 0; r < t->n_rows; r++) {
        for (int c = 0; c < t->n_columns; c++) {
            const struct kv_cell *cell = &t->cell[r * t->n_columns + c];
            enum kv_cell_kind kind = t->column[c].kind;
            if (c)
                fputc(',', out);
            if (kind == KV_CELL_TEXT)
                kv_csv_put(cell->text ? cell->text : "", out);
            else if (kind == KV_CELL_SHARE || kind == KV_CELL_REAL)
                fputs(isnan(cell->real) ? "" : kv_print_real(number, cell->real), out);
            else if (cell->whole >= 0 && cell->whole != KV_CELL_ANY)
                fprintf(out, "%lld", (long long)cell->whole);
        }
        fputc('\n', out);
    }
}

json_t *kv_json_text(const char *text)
{
    if (!text)
        return json_null();
    json_t *whole = json_string(text);
    if (whole)
        return whole;
    /* one character after the other: jansson judges each */
    char *clean = NULL;
    size_t length;
    FILE *out = open_memstream(&clean, &length);
    KV_ASSERT(out);
    while (*text) {
        size_t n = 1;
        json_t *one = NULL;
        for (; n <= 4 && !one && text[n - 1]; n++)
            one = json_stringn(text, n);
        if (one)
            fwrite(text, 1, n - 1, out);
        else
            fputs("\xEF\xBF\xBD", out);
        text += one ? n - 1 : 1;
        json_decref(one);
    }
    fclose(out);
    whole = json_string(clean);
    free(clean);
    return whole;
}

json_t *kv_table_json(const struct kv_table *t)
{
    json_t *rows = json_array();
    for (int r = 0; r < t->n_rows; r++) {
        json_t *row = json_object();
        for (int c = 0; c < t->n_columns; c++) {
            const struct kv_cell *cell = &t->cell[r * t->n_columns + c];
            json_t *value = NULL;
            switch (t->column[c].kind) {
            case KV_CELL_TEXT:
                value = kv_json_text(cell->text);
                break;
            case KV_CELL_SHARE:
            case KV_CELL_REAL:
                value = isnan(cell->real) ? NULL : json_real(cell->real);
                break;
            case KV_CELL_BOOL:
                value = cell->whole < 0 ? NULL : json_boolean(cell->whole);
                break;
            default:
                value = cell->whole < 0 || cell->whole == KV_CELL_ANY ? NULL : json_integer(cell->whole);
            }
            json_object_set_new(row, t->column[c].key, value ? value : json_null());
        }
        json_array_append_new(rows, row);
    }
    return rows;
}

void kv_json_print(const json_t *json, FILE *out)
{
    json_dumpf(json, out, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17));
    fputc('\n', out);
}
