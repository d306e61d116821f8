/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/batch.h"

#include "sim/core/paper.h"
#include "sim/core/schema.h"
#include "sim/core/units.h"
#include "sim/csv.h"
#include "sim/table.h"

#include <stdlib.h>
#include <string.h>

enum column {
    PROMPT,
    OUTPUT,
    CHUNK,
    SINKS,
    WINDOW,
    KV_SPARSITY,
    HEAD_SPARSITY,
    LOCRET_SPARSITY,
    LOCRET_LOCAL,
    LOCRET_STABILIZERS,
    COLUMNS
};
static const char *const names[COLUMNS] = {
    "prompt_len",  "response_len",  "prefill_chunk_size", "sink_tokens",      "local_window_size",
    "kv_sparsity", "head_sparsity", "locret_sparsity",    "locret_local_len", "locret_stabilizers",
};

struct cases {
    int column[COLUMNS]; /* in the file; -1: not there */
    bool locret;
    bool result; /* the file already has result columns, which are left out of what is written again */
};

static bool is_result(const char *name)
{
    return !strcmp(name, "kv_footprint") || !strcmp(name, "kv_peak");
}

static bool missing(const struct kv_csv *csv, const char *name, struct kv_err *e)
{
    const char *near = kv_nearest(name, csv->name, csv->n_columns);
    return near ? kv_fail(e, KV_DATA, "%s:1: no column '%s'; is it '%s'?", csv->path, name, near)
                : kv_fail(e, KV_DATA, "%s:1: no column '%s'; the header must name it", csv->path, name);
}

static bool bind_columns(const struct kv_csv *csv, struct cases *c, struct kv_err *e)
{
    int errors = e->n;
    for (int i = 0; i < COLUMNS; i++)
        c->column[i] = kv_csv_column(csv, names[i]);
    for (int i = LOCRET_SPARSITY; i < COLUMNS; i++)
        c->locret |= c->column[i] >= 0;
    for (int i = 0; i < COLUMNS; i++) {
        bool needed = i <= CHUNK || (c->locret ? i >= LOCRET_SPARSITY : i < LOCRET_SPARSITY);
        if (needed && c->column[i] < 0)
            missing(csv, names[i], e);
    }
    for (int i = 0; i < csv->n_columns; i++)
        c->result |= is_result(csv->name[i]);
    return e->n == errors;
}

static bool read_case(const struct kv_csv *csv, const struct cases *c, struct kv_paper_form *f, int64_t *prompt,
                      int64_t *output, struct kv_err *e)
{
    const int *at = c->column;
    bool good = kv_csv_count(csv, at[PROMPT], 1, KV_PAPER_TOKENS / 2, prompt, e);
    good &= kv_csv_count(csv, at[OUTPUT], 0, KV_PAPER_TOKENS / 2, output, e);
    good &= kv_csv_count(csv, at[CHUNK], 1, INT64_MAX / 4, &f->chunk, e);
    if (c->locret) {
        good &= kv_csv_share(csv, at[LOCRET_SPARSITY], &f->kv_sparsity, e);
        good &= kv_csv_count(csv, at[LOCRET_LOCAL], 0, KV_PAPER_TOKENS, &f->local, e);
        good &= kv_csv_count(csv, at[LOCRET_STABILIZERS], 0, KV_PAPER_TOKENS, &f->stabilizers, e);
    } else {
        good &= kv_csv_count(csv, at[SINKS], 0, KV_PAPER_TOKENS, &f->sinks, e);
        good &= kv_csv_count(csv, at[WINDOW], 0, KV_PAPER_TOKENS, &f->recents, e);
        good &= kv_csv_share(csv, at[KV_SPARSITY], &f->kv_sparsity, e);
        good &= kv_csv_share(csv, at[HEAD_SPARSITY], &f->head_sparsity, e);
    }
    return good;
}

static void put_cell(const char *text, FILE *out)
{
    kv_csv_put(text, out);
    fputc(',', out);
}

/* The row as it came; without its result columns when it has some. */
static void write_row(const struct kv_csv *csv, const struct cases *c, const char *const *cell, const char *whole,
                      FILE *out)
{
    if (!c->result) {
        fprintf(out, "%s,", whole);
        return;
    }
    for (int i = 0; i < csv->n_columns; i++)
        if (!is_result(csv->name[i]))
            put_cell(cell[i], out);
}

static void write_header(const struct kv_csv *csv, FILE *out)
{
    for (int i = 0; i < csv->n_columns; i++)
        if (!is_result(csv->name[i]))
            put_cell(csv->name[i], out);
    fputs("kv_footprint,kv_peak\n", out);
}

static void run_cases(struct kv_csv *csv, const struct cases *c, FILE *out, struct kv_err *e)
{
    char footprint[KV_NUMBER_TEXT], peak[KV_NUMBER_TEXT];
    write_header(csv, out);
    for (enum kv_next next; (next = kv_csv_next(csv, e)) != KV_NEXT_END;) {
        struct kv_paper_form form = {.defined = true, .locret = c->locret};
        int64_t prompt, output;
        if (next == KV_NEXT_BAD && ferror(csv->in))
            return;
        if (next == KV_NEXT_BAD || !read_case(csv, c, &form, &prompt, &output, e) || e->n)
            continue;
        struct kv_paper paper = kv_paper_count(&form, prompt, output);
        write_row(csv, c, (const char *const *)csv->cell, csv->raw, out);
        fprintf(out, "%s,%s\n", kv_print_real(footprint, paper.footprint), kv_print_real(peak, paper.peak));
    }
}

bool kv_batch(const char *path, FILE *out, struct kv_arena *a, struct kv_err *e)
{
    struct kv_csv csv;
    struct cases cases = {0};
    if (!kv_csv_open(&csv, path, a, e))
        return false;
    char *text = NULL;
    size_t length = 0;
    FILE *held = open_memstream(&text, &length);
    KV_ASSERT(held);
    if (bind_columns(&csv, &cases, e))
        run_cases(&csv, &cases, held, e);
    fclose(held);
    kv_csv_close(&csv);
    if (!e->n)
        fwrite(text, 1, length, out);
    free(text);
    return !e->n;
}
