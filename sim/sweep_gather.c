/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A sweep as tables: where its points stand, and all their policies in one file. Rows come in the order of the grid,
 * whoever ran them when. */
#include "sim/csv.h"
#include "sim/output.h"
#include "sim/sweep.h"
#include "sim/table.h"

#include <string.h>

void kv_sweep_table(const struct kv_sweep *s, struct kv_table *t, int count[KV_POINT_STATES], struct kv_arena *a)
{
    struct kv_column *column = KV_NEW_N(a, struct kv_column, s->n_axes + 2);
    column[0] = (struct kv_column){"hash", "hash", KV_CELL_TEXT};
    for (int i = 0; i < s->n_axes; i++)
        column[i + 1] = (struct kv_column){s->axis[i].key, s->axis[i].key, KV_CELL_TEXT};
    column[s->n_axes + 1] = (struct kv_column){"status", "status", KV_CELL_TEXT};
    kv_table_open(t, column, s->n_axes + 2, a);
    memset(count, 0, KV_POINT_STATES * sizeof *count);
    for (int point = 0; point < s->n_points; point++) {
        if (!kv_sweep_mine(s, point))
            continue;
        enum kv_point_state state = kv_sweep_state(s, point, a);
        struct kv_cell *row = kv_table_row(t);
        row[0].text = s->point[point].name;
        for (int i = 0; i < s->n_axes; i++)
            row[i + 1].text = kv_sweep_value(s, point, i);
        row[s->n_axes + 1].text = kv_point_states[state];
        count[state]++;
    }
}

bool kv_sweep_write_points(const struct kv_sweep *s, struct kv_arena *a, struct kv_err *e)
{
    struct kv_table t;
    struct kv_out out;
    int count[KV_POINT_STATES];
    if (!kv_out_open(&out, kv_format(a, "%s/points.csv", s->folder), a, e))
        return false;
    kv_sweep_table(s, &t, count, a);
    kv_table_csv(&t, out.file);
    return kv_out_close(&out, e);
}

/* ---- sweep.csv ---- */

/* Columns of all points, in the order they are met: plans with and without traffic have different ones. */
struct header {
    const char **name;
    int n, room;
    struct kv_arena *arena;
};

static int column_of(const struct header *h, const char *name)
{
    for (int i = 0; i < h->n; i++)
        if (!strcmp(h->name[i], name))
            return i;
    return -1;
}

static void add_columns(struct header *h, const struct kv_csv *c)
{
    for (int i = 0; i < c->n_columns; i++) {
        if (column_of(h, c->name[i]) >= 0)
            continue;
        if (h->n == h->room) {
            int room = h->room ? 2 * h->room : 32;
            const char **more = KV_NEW_N(h->arena, const char *, room);
            if (h->n)
                memcpy(more, h->name, sizeof *more * (size_t)h->n);
            h->name = more;
            h->room = room;
        }
        h->name[h->n++] = kv_copy_text(h->arena, c->name[i]);
    }
}

static bool add_header(const struct kv_sweep *s, int point, struct header *h, struct kv_arena *a, struct kv_err *e)
{
    struct kv_csv c;
    if (!kv_csv_open(&c, kv_sweep_path(s, point, "/policies.csv", a), a, e))
        return false;
    add_columns(h, &c);
    kv_csv_close(&c);
    return true;
}

static void write_header(const struct kv_sweep *s, const struct header *h, FILE *out)
{
    for (int i = 0; i < s->n_axes; i++) {
        fputs(i ? "," : "", out);
        kv_csv_put(s->axis[i].key, out);
    }
    for (int i = 0; i < h->n; i++) {
        fputc(',', out);
        kv_csv_put(h->name[i], out);
    }
    fputc('\n', out);
}

static bool write_rows(const struct kv_sweep *s, int point, const struct header *h, int64_t *rows, FILE *out,
                       struct kv_arena *a, struct kv_err *e)
{
    struct kv_csv c;
    enum kv_next next;
    if (!kv_csv_open(&c, kv_sweep_path(s, point, "/policies.csv", a), a, e))
        return false;
    int *from = KV_NEW_N(a, int, h->n + 1);
    for (int i = 0; i < h->n; i++)
        from[i] = kv_csv_column(&c, h->name[i]);
    while ((next = kv_csv_next(&c, e)) == KV_NEXT_ROW) {
        for (int i = 0; i < s->n_axes; i++) {
            fputs(i ? "," : "", out);
            kv_csv_put(kv_sweep_value(s, point, i), out);
        }
        for (int i = 0; i < h->n; i++) {
            fputc(',', out);
            if (from[i] >= 0)
                kv_csv_put(c.cell[from[i]], out);
        }
        fputc('\n', out);
        (*rows)++;
    }
    kv_csv_close(&c);
    return next == KV_NEXT_END;
}

bool kv_sweep_gather(const struct kv_sweep *s, int64_t *rows, struct kv_arena *a, struct kv_err *e)
{
    struct header header = {.arena = a};
    struct kv_out out;
    bool *done = KV_NEW_N(a, bool, s->n_points), good = true;
    *rows = 0;
    for (int i = 0; i < s->n_points && good; i++) {
        struct kv_arena *own = kv_arena_open();
        done[i] = kv_sweep_state(s, i, own) == KV_POINT_DONE;
        good = !done[i] || add_header(s, i, &header, own, e);
        kv_arena_close(own);
    }
    if (!good || !kv_out_open(&out, kv_format(a, "%s/sweep.csv", s->folder), a, e))
        return false;
    write_header(s, &header, out.file);
    for (int i = 0; i < s->n_points && good; i++) {
        struct kv_arena *own = kv_arena_open();
        good = !done[i] || write_rows(s, i, &header, rows, out.file, own, e);
        kv_arena_close(own);
    }
    if (good)
        return kv_out_close(&out, e);
    kv_out_drop(&out);
    return false;
}

/* ---- what is missing ---- */

static const char *first_line(const char *path, struct kv_arena *a)
{
    char text[256];
    FILE *in = fopen(path, "r");
    if (!in)
        return "";
    size_t n = fread(text, 1, sizeof text - 1, in);
    fclose(in);
    text[n] = '\0';
    return kv_copy_part(a, text, strcspn(text, "\n"));
}

bool kv_sweep_complete(const struct kv_sweep *s, struct kv_arena *a, struct kv_err *e)
{
    int errors = e->n;
    for (int i = 0; i < s->n_points; i++) {
        enum kv_point_state state = kv_sweep_mine(s, i) ? kv_sweep_state(s, i, a) : KV_POINT_DONE;
        const char *name = s->point[i].name, *text = kv_sweep_point_text(s, i, a);
        if (state == KV_POINT_FAILED)
            kv_fail(e, KV_NO, "point %s (%s) failed: %s; see %s/logs/%s.err", name, text,
                    first_line(kv_sweep_path(s, i, ".failed", a), a), s->folder, name);
        else if (state == KV_POINT_RUNNING)
            kv_fail(e, KV_NO, "point %s (%s) is run by process %s; its lock is %s", name, text,
                    first_line(kv_sweep_path(s, i, ".lock", a), a), kv_sweep_path(s, i, ".lock", a));
        else if (state == KV_POINT_LEFT)
            kv_fail(e, KV_NO, "point %s (%s) was not run", name, text);
    }
    return e->n == errors;
}
