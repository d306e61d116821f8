/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The plot of critical footprints: curves and crossings of a result as rows that gnuplot draws by their places. */
#include "sim/csv.h"
#include "sim/plot_data.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_LETTERS = 44, TASK_LETTERS = 32 };
static const double most_score = 1e15; /* as in sim/critical.c: gnuplot counts tics up to there */

struct curve {
    const char *task, *policy;
    int panel, line;
    double full, wanted;
    double at[2]; /* its crossing, the published one; NaN: none */
    const char *mark[2];
    int64_t first, last, row[2]; /* places in the data; row: -1 for none */
};

struct point {
    int curve;
    double footprint, score;
};

struct reader {
    struct kv_plot *p;
    struct curve *curve; /* (n,) */
    int n, panels;
    struct point *point; /* (n_points,) in the order of the file */
    int n_points, room;
};

static struct curve *find(const struct reader *r, const char *task, const char *policy)
{
    for (struct curve *c = r->curve; c < r->curve + r->n; c++)
        if (!strcmp(c->task, task) && !strcmp(c->policy, policy))
            return c;
    return NULL;
}

/* A task has a panel, a policy a line: each by its first row. */
static void number(struct reader *r, struct curve *c)
{
    c->panel = c->line = 0;
    for (const struct curve *other = r->curve; other < r->curve + r->n; other++) {
        c->panel = strcmp(other->task, c->task) ? c->panel : other->panel;
        c->line = strcmp(other->policy, c->policy) ? c->line : other->line;
    }
    c->panel = c->panel ? c->panel : ++r->panels;
    c->line = c->line ? c->line : ++r->p->n_lines;
}

static bool read_curves(struct reader *r, const char *path, struct kv_err *e)
{
    enum { TASK, POLICY, CRITICAL, MARK, PUBLISHED, PUBLISHED_MARK, FULL, WANTED, COLUMNS };
    static const char *const names[COLUMNS] = {
        "task",           "policy",     "critical_footprint", "mark", "published_footprint",
        "published_mark", "full_score", "threshold_score"};
    struct kv_arena *a = r->p->arena;
    struct kv_csv in;
    int column[COLUMNS];
    if (!kv_csv_open(&in, path, a, e))
        return false;
    bool good = kv_plot_bind(&in, names, COLUMNS, column, "critical", e);
    while (good && kv_plot_next_row(&in, e)) {
        struct curve *c = &r->curve[r->n];
        if (find(r, in.cell[column[TASK]], in.cell[column[POLICY]])) {
            kv_csv_fail(&in, column[POLICY], e, "again for its task");
            continue;
        }
        r->p->cut = r->n == KV_PLOT_MOST_SERIES;
        if (r->p->cut)
            break;
        *c = (struct curve){
            .task = kv_copy_text(a, in.cell[column[TASK]]),
            .policy = kv_copy_text(a, in.cell[column[POLICY]]),
            .mark = {kv_copy_text(a, in.cell[column[MARK]]), kv_copy_text(a, in.cell[column[PUBLISHED_MARK]])}};
        kv_plot_number(&in, column[CRITICAL], 0, 1, false, &c->at[0], e);
        kv_plot_number(&in, column[PUBLISHED], 0, 1, true, &c->at[1], e);
        kv_plot_number(&in, column[FULL], -most_score, most_score, false, &c->full, e);
        kv_plot_number(&in, column[WANTED], -most_score, most_score, false, &c->wanted, e);
        number(r, c);
        r->n++;
    }
    kv_csv_close(&in);
    return !e->n;
}

static bool read_points(struct reader *r, const char *path, struct kv_err *e)
{
    enum { TASK, POLICY, FOOTPRINT, SCORE, COLUMNS };
    static const char *const names[COLUMNS] = {"task", "policy", "footprint", "score"};
    struct kv_csv in;
    int column[COLUMNS];
    if (!kv_csv_open(&in, path, r->p->arena, e))
        return false;
    bool good = kv_plot_bind(&in, names, COLUMNS, column, "critical", e);
    while (good && kv_plot_next_row(&in, e)) {
        const struct curve *c = find(r, in.cell[column[TASK]], in.cell[column[POLICY]]);
        struct point point = {.curve = c ? (int)(c - r->curve) : 0};
        if (!c && !r->p->cut)
            kv_csv_fail(&in, column[POLICY], e, "has no row for its task in critical.csv");
        if (!kv_plot_number(&in, column[FOOTPRINT], 0, 1, false, &point.footprint, e) ||
            !kv_plot_number(&in, column[SCORE], -most_score, most_score, false, &point.score, e) || !c)
            continue;
        if (r->n_points == r->room) {
            struct point *more = KV_NEW_N(r->p->arena, struct point, r->room ? 2 * r->room : 256);
            if (r->n_points)
                memcpy(more, r->point, sizeof *more * (size_t)r->n_points);
            r->point = more;
            r->room = r->room ? 2 * r->room : 256;
        }
        r->point[r->n_points++] = point;
    }
    kv_csv_close(&in);
    return !e->n;
}

static void add_row(struct kv_plot *p, const struct curve *c, double footprint, double score, const char *what,
                    const char *mark)
{
    struct kv_cell *row = kv_table_row(&p->table);
    kv_set_whole(&p->table, row, "line", c->line);
    kv_set_whole(&p->table, row, "panel", c->panel);
    kv_set_real(&p->table, row, "footprint", footprint);
    kv_set_real(&p->table, row, "score", score);
    kv_set_text(&p->table, row, "what", what);
    kv_set_text(&p->table, row, "mark", mark);
    kv_set_text(&p->table, row, "task", c->task);
    kv_set_text(&p->table, row, "policy", c->policy);
}

/* Each curve's points, then where it crosses, then where it was published to. */
static void make_rows(struct reader *r)
{
    static const char *const what[] = {"crossing", "published"};
    struct kv_plot *p = r->p;
    for (struct curve *c = r->curve; c < r->curve + r->n; c++) {
        c->first = p->table.n_rows;
        for (const struct point *at = r->point; at < r->point + r->n_points; at++)
            if (at->curve == c - r->curve)
                add_row(p, c, at->footprint, at->score, "measured", NULL);
        c->last = p->table.n_rows - 1;
        for (int k = 0; k < 2; k++) {
            bool drawn = !isnan(c->at[k]) && (k || !strcmp(c->mark[k], "=")); /* ours below or above has its points */
            c->row[k] = drawn ? p->table.n_rows : -1;
            if (drawn)
                add_row(p, c, c->at[k], c->wanted, what[k], c->mark[k]);
        }
    }
}

static void put_names(const struct reader *r, FILE *out)
{
    int longest = 0, panels = 0, lines = 0;
    fprintf(out, "panels = %d\narray panel_name[%d]\narray full_score[%d]\narray wanted[%d]\n", r->panels, r->panels,
            r->panels, r->panels);
    for (const struct curve *c = r->curve; c < r->curve + r->n; c++) {
        if (c->panel <= panels)
            continue;
        kv_plot_put_text(out, kv_format(r->p->arena, "panel_name[%d]", ++panels),
                         kv_plot_printable(c->task, TASK_LETTERS, r->p->arena));
        fprintf(out, "full_score[%d] = %.17g\nwanted[%d] = %.17g\n", panels, c->full, panels, c->wanted);
    }
    fprintf(out, "lines = %d\narray name[%d]\n", r->p->n_lines, r->p->n_lines);
    for (const struct curve *c = r->curve; c < r->curve + r->n; c++) {
        const char *name = kv_plot_printable(c->policy, NAME_LETTERS, r->p->arena);
        if (c->line <= lines)
            continue;
        longest = kv_plot_letters(name) > longest ? kv_plot_letters(name) : longest;
        kv_plot_put_text(out, kv_format(r->p->arena, "name[%d]", ++lines), name);
    }
    fprintf(out, "letters = %d\n", longest);
}

static void put_series(const struct reader *r, FILE *out)
{
    static const char *const names[] = {"panel_of", "line_of", "first", "last", "crossing", "published"};
    fprintf(out, "series = %d\n", r->n);
    for (int k = 0; k < 6; k++) {
        fprintf(out, "array %s[%d] = [", names[k], r->n);
        for (const struct curve *c = r->curve; c < r->curve + r->n; c++) {
            int64_t value[] = {c->panel, c->line, c->first, c->last, c->row[0], c->row[1]};
            fprintf(out, "%s%lld", c > r->curve ? ", " : "", (long long)value[k]);
        }
        fputs("]\n", out);
    }
}

bool kv_plot_read_critical(struct kv_plot *p, const char *result, struct kv_err *e)
{
    struct reader r = {.p = p, .curve = KV_NEW_N(p->arena, struct curve, KV_PLOT_MOST_SERIES + 1)};
    char *text = NULL;
    size_t length = 0;
    bool good = read_curves(&r, kv_format(p->arena, "%s/critical.csv", result), e);
    if (!good || !read_points(&r, kv_format(p->arena, "%s/curves.csv", result), e))
        return false;
    p->n = r.n;
    make_rows(&r);
    FILE *out = open_memstream(&text, &length);
    KV_ASSERT(out);
    put_names(&r, out);
    put_series(&r, out);
    fclose(out);
    p->variables = kv_copy_text(p->arena, text);
    free(text);
    return true;
}
