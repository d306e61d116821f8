/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Any bytes as a CSV, row by row, and as the measured scores of `kvsim critical`. The first byte chooses whether rows
 * are pooled and what is wanted; the rest is the file. */
#include "sim/critical.h"
#include "sim/csv.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Cells lie in the row's line, are trimmed, and numbers among them are within what was asked for. */
static void check_row(const struct kv_csv *c, struct kv_arena *a)
{
    size_t length = strlen(c->raw);
    KV_ASSERT(length == strcspn(c->raw, "\n"));
    for (int i = 0; i < c->n_columns; i++) {
        struct kv_err *e = KV_NEW(a, struct kv_err);
        int64_t count = -1;
        double share = -1;
        size_t n = strlen(c->cell[i]);
        KV_ASSERT(c->at[i] >= 1 && (size_t)c->at[i] <= length + 1 && n <= length);
        KV_ASSERT(!n || (!strchr(" \t", c->cell[i][0]) && !strchr(" \t", c->cell[i][n - 1])));
        bool counted = kv_csv_count(c, i, -5, 1000, &count, e);
        KV_ASSERT(counted ? count >= -5 && count <= 1000 && e->n == 0 : e->n == 1 && e->status == KV_DATA);
        *e = (struct kv_err){0};
        bool shared = kv_csv_share(c, i, &share, e);
        KV_ASSERT(shared ? share >= 0 && share <= 1 && e->n == 0 : e->n == 1 && e->status == KV_DATA);
    }
}

static void check_rows(const char *path, int64_t lines, struct kv_arena *a)
{
    struct kv_err *e = KV_NEW(a, struct kv_err);
    struct kv_csv c;
    if (!kv_csv_open(&c, path, a, e)) {
        KV_ASSERT(e->n == 1 && e->status == KV_DATA);
        return;
    }
    KV_ASSERT(c.n_columns > 0 && e->n == 0);
    for (int i = 0; i < c.n_columns; i++)
        KV_ASSERT(kv_csv_column(&c, c.name[i]) == i);
    int64_t last = c.line;
    for (enum kv_next next; (next = kv_csv_next(&c, e)) != KV_NEXT_END;) {
        KV_ASSERT(c.line > last && c.line <= lines);
        last = c.line;
        KV_ASSERT(next != KV_NEXT_BAD || e->n > 0);
        if (next == KV_NEXT_ROW)
            check_row(&c, a);
    }
    kv_csv_close(&c);
}

static void check_curve(const struct kv_curve *c)
{
    KV_ASSERT(c->n > 0 && c->n_rows >= c->n && c->task && c->policy);
    for (int i = 0; i < c->n; i++) {
        KV_ASSERT(isfinite(c->point[i].footprint) && isfinite(c->point[i].score) && c->point[i].rows > 0);
        KV_ASSERT(!i || c->point[i - 1].footprint < c->point[i].footprint);
    }
    KV_ASSERT(!c->at.critical.mark || strchr("=<>", c->at.critical.mark));
    if (c->at.critical.mark == '=' && c->at.lowest.mark == '=')
        KV_ASSERT(c->at.lowest.footprint <= c->at.critical.footprint);
    KV_ASSERT(c->at.dips >= 0 && c->at.dips <= c->n);
}

static void check_critical(const char *path, unsigned choice, struct kv_arena *a)
{
    struct kv_err *e = KV_NEW(a, struct kv_err);
    struct kv_critical c;
    struct kv_critical_request q = {.path = path, .threshold = choice & 1 ? 0.9 : 0.5};
    q.setting = choice & 2 ? "seed" : NULL;
    q.beside = choice & 4 ? path : NULL;
    q.full = choice & 8 ? "full" : NULL;
    if (!kv_critical_read(&c, &q, a, e)) {
        KV_ASSERT(e->n > 0 && (e->status == KV_DATA || e->status == KV_USAGE) && e->length > 0);
        return;
    }
    KV_ASSERT(e->n == 0 && c.n_tasks > 0 && c.n_rows > 0);
    for (int i = 0; i < c.n_curves; i++)
        check_curve(&c.curve[i]);
    FILE *out = fopen("/dev/null", "w");
    KV_ASSERT(out);
    kv_critical_csv(&c, out, a);
    fclose(out);
    json_t *root = kv_critical_json(&c, a);
    KV_ASSERT(root);
    json_decref(root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int64_t lines = 1;
    if (size < 1)
        return 0;
    for (size_t i = 1; i < size; i++)
        lines += data[i] == '\n';
    struct kv_arena *a = kv_arena_open();
    int file = memfd_create("csv", 0);
    if (file < 0 || write(file, data + 1, size - 1) != (ssize_t)(size - 1))
        abort();
    const char *path = kv_format(a, "/proc/self/fd/%d", file);
    check_rows(path, lines, a);
    check_critical(path, data[0], a);
    close(file);
    kv_arena_close(a);
    return 0;
}
