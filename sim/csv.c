/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/csv.h"

#include "sim/core/line.h"
#include "sim/core/schema.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_COLUMNS = 4096, MOST_LINE_BYTES = 1 << 24 };

/* One physical line without its end into c->buffer; quoted line breaks are not supported and say so by their cell. */
static enum kv_next read_line(struct kv_csv *c, struct kv_err *e)
{
    long length = c->ended ? KV_LINE_END : kv_read_line(c->in, &c->buffer, &c->room, MOST_LINE_BYTES);
    if (length == KV_LINE_NO_MEMORY) {
        kv_fail(e, KV_ENV, "no memory for a line of '%s'", c->path);
        c->ended = true;
        return KV_NEXT_BAD;
    }
    if (length < 0) {
        if (ferror(c->in)) {
            kv_fail(e, KV_DATA, "cannot read '%s': %s", c->path, strerror(errno));
            return KV_NEXT_BAD;
        }
        return KV_NEXT_END;
    }
    c->line++;
    if (memchr(c->buffer, 0, (size_t)length) || length > MOST_LINE_BYTES) {
        kv_fail(e, KV_DATA, "%s:%lld: not a line of text", c->path, (long long)c->line);
        c->ended |= length > MOST_LINE_BYTES;
        return KV_NEXT_BAD;
    }
    while (length && (c->buffer[length - 1] == '\n' || c->buffer[length - 1] == '\r'))
        c->buffer[--length] = '\0';
    return KV_NEXT_ROW;
}

/* Cuts c->buffer into at most `most` cells in c->cells; the number there are, or -1 after a message. */
static int split(struct kv_csv *c, char **cell, int *at, int most, struct kv_err *e)
{
    char *out = c->cells;
    const char *in = c->buffer;
    int n = 0;
    for (;;) {
        if (n < most) {
            cell[n] = out;
            at[n] = (int)(in - c->buffer) + 1;
        }
        n++;
        if (*in == '"') {
            for (in++; *in && !(*in == '"' && in[1] != '"'); in++) {
                in += *in == '"';
                *out++ = *in;
            }
            if (!*in) {
                kv_fail(e, KV_DATA, "%s:%lld: a quote is not closed", c->path, (long long)c->line);
                return -1;
            }
            in++;
        }
        while (*in && *in != ',')
            *out++ = *in++;
        *out++ = '\0';
        if (!*in)
            return n;
        in++;
    }
}

static void trim(char **cell)
{
    *cell += strspn(*cell, " \t");
    for (size_t n = strlen(*cell); n && ((*cell)[n - 1] == ' ' || (*cell)[n - 1] == '\t'); n--)
        (*cell)[n - 1] = '\0';
}

static void make_room(struct kv_csv *c)
{
    size_t needed = strlen(c->buffer) + 2;
    if (c->cells && needed <= c->cells_room)
        return;
    free(c->cells);
    c->cells = malloc(2 * needed);
    KV_ASSERT(c->cells);
    c->cells_room = 2 * needed;
}

static bool read_header(struct kv_csv *c, struct kv_err *e)
{
    enum kv_next next = read_line(c, e);
    if (next == KV_NEXT_BAD)
        return false;
    if (next == KV_NEXT_END || !*c->buffer)
        return kv_fail(e, KV_DATA, "%s:1: no header line; write the column names there", c->path);
    if (!strncmp(c->buffer, "\xEF\xBB\xBF", 3))
        memmove(c->buffer, c->buffer + 3, strlen(c->buffer + 3) + 1);
    char **cell = KV_NEW_N(c->arena, char *, MOST_COLUMNS);
    c->at = KV_NEW_N(c->arena, int, MOST_COLUMNS);
    make_room(c);
    c->n_columns = split(c, cell, c->at, MOST_COLUMNS, e);
    if (c->n_columns < 0)
        return false;
    if (c->n_columns > MOST_COLUMNS)
        return kv_fail(e, KV_DATA, "%s:1: %d columns; at most %d are read", c->path, c->n_columns, MOST_COLUMNS);
    c->name = KV_NEW_N(c->arena, const char *, c->n_columns);
    c->cell = cell;
    for (int i = 0; i < c->n_columns; i++) {
        trim(&cell[i]);
        if (kv_csv_column(c, cell[i]) >= 0)
            return kv_fail(e, KV_DATA, "%s:1:%d: column '%s' again", c->path, c->at[i], cell[i]);
        c->name[i] = kv_copy_text(c->arena, cell[i]);
    }
    return true;
}

bool kv_csv_open(struct kv_csv *c, const char *path, struct kv_arena *a, struct kv_err *e)
{
    bool standard = !strcmp(path, "-");
    *c = (struct kv_csv){.path = standard ? "standard input" : path, .arena = a};
    c->in = standard ? stdin : fopen(path, "r");
    if (!c->in)
        return kv_fail(e, KV_DATA, "cannot open '%s': %s", path, strerror(errno));
    if (read_header(c, e))
        return true;
    kv_csv_close(c);
    return false;
}

void kv_csv_close(struct kv_csv *c)
{
    if (c->in && c->in != stdin)
        fclose(c->in);
    free(c->buffer);
    free(c->cells);
    c->in = NULL;
    c->buffer = c->cells = NULL;
}

int kv_csv_column(const struct kv_csv *c, const char *name)
{
    for (int i = 0; i < c->n_columns && c->name[i]; i++)
        if (!strcmp(c->name[i], name))
            return i;
    return -1;
}

bool kv_csv_bind(const struct kv_csv *csv, const char *const *names, int needed, int n, int *column, struct kv_err *e)
{
    int errors = e->n;
    for (int i = 0; i < n; i++) {
        column[i] = names[i] ? kv_csv_column(csv, names[i]) : -1;
        if (column[i] >= 0 || i >= needed)
            continue;
        const char *near = kv_nearest(names[i], csv->name, csv->n_columns);
        kv_fail(e, KV_DATA, "%s:1: no column '%s'; %s%s%s", csv->path, names[i],
                near ? "is it '" : "the header must name it", near ? near : "", near ? "'?" : "");
    }
    return e->n == errors;
}

enum kv_next kv_csv_next(struct kv_csv *c, struct kv_err *e)
{
    enum kv_next next;
    do {
        next = read_line(c, e);
        if (next != KV_NEXT_ROW)
            return next;
    } while (!c->buffer[strspn(c->buffer, " \t")]);
    c->raw = c->buffer;
    make_room(c);
    int n = split(c, c->cell, c->at, c->n_columns, e);
    if (n < 0)
        return KV_NEXT_BAD;
    if (n != c->n_columns) {
        kv_fail(e, KV_DATA, "%s:%lld:%d: %d cells, but the header names %d columns", c->path, (long long)c->line,
                c->at[(n < c->n_columns ? n : c->n_columns) - 1], n, c->n_columns);
        return KV_NEXT_BAD;
    }
    for (int i = 0; i < n; i++)
        trim(&c->cell[i]);
    return KV_NEXT_ROW;
}

bool kv_csv_fail(const struct kv_csv *c, int column, struct kv_err *e, const char *what)
{
    return kv_fail(e, KV_DATA, "%s:%lld:%d: %s '%.60s' %s", c->path, (long long)c->line, c->at[column], c->name[column],
                   c->cell[column], what);
}

bool kv_csv_count(const struct kv_csv *c, int column, int64_t least, int64_t most, int64_t *out, struct kv_err *e)
{
    const char *text = c->cell[column];
    char *end, what[96];
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end)
        return kv_csv_fail(c, column, e, "is not a whole number");
    if (errno == ERANGE || value < least || value > most) {
        snprintf(what, sizeof what, "is outside %lld .. %lld", (long long)least, (long long)most);
        return kv_csv_fail(c, column, e, what);
    }
    *out = value;
    return true;
}

static bool read_real(const struct kv_csv *c, int column, double *out, struct kv_err *e)
{
    const char *text = c->cell[column];
    char *end;
    *out = strtod(text, &end);
    return (end != text && !*end && isfinite(*out)) || kv_csv_fail(c, column, e, "is not a number");
}

bool kv_csv_real(const struct kv_csv *c, int column, double least, double most, double *out, struct kv_err *e)
{
    double value;
    char what[96];
    if (!read_real(c, column, &value, e))
        return false;
    if (value < least || value > most) {
        snprintf(what, sizeof what, "is outside %.6g .. %.6g", least, most);
        return kv_csv_fail(c, column, e, what);
    }
    *out = value;
    return true;
}

bool kv_csv_share(const struct kv_csv *c, int column, double *out, struct kv_err *e)
{
    double value;
    if (!read_real(c, column, &value, e))
        return false;
    if (value < 0 || value > 1)
        return kv_csv_fail(c, column, e, "is outside 0 .. 1");
    *out = value;
    return true;
}
