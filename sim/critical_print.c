/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Critical footprints as a table for people, as CSV and JSON, and as a folder of plain files. */
#include "sim/core/units.h"
#include "sim/critical.h"
#include "sim/output.h"

#include <math.h>
#include <string.h>

#ifndef KV_VERSION
#define KV_VERSION "unknown"
#endif

static const char rule[] = "the first crossing going down from 100 %, interpolated between measured points";

static const struct kv_column columns[] = {
    {"task", NULL, KV_CELL_TEXT},
    {"policy", NULL, KV_CELL_TEXT},
    {"critical_footprint", NULL, KV_CELL_REAL},
    {"mark", NULL, KV_CELL_TEXT}, /* =, < or > */
    {"lowest_footprint", NULL, KV_CELL_REAL},
    {"lowest_mark", NULL, KV_CELL_TEXT},
    {"dips", NULL, KV_CELL_COUNT},
    {"monotone", NULL, KV_CELL_BOOL},
    {"points", NULL, KV_CELL_COUNT},
    {"rows", NULL, KV_CELL_COUNT},
    {"threshold", NULL, KV_CELL_REAL},
    {"full_score", NULL, KV_CELL_REAL},
    {"threshold_score", NULL, KV_CELL_REAL},
    {"published_footprint", NULL, KV_CELL_REAL},
    {"published_mark", NULL, KV_CELL_TEXT},
    {"published_source", NULL, KV_CELL_TEXT},
};

static const char *mark_text(const struct kv_bound *b)
{
    return b->mark == '<' ? "<" : b->mark == '>' ? ">" : b->mark ? "=" : NULL;
}

static void make_table(const struct kv_critical *c, struct kv_table *t, struct kv_arena *a)
{
    kv_table_open(t, columns, sizeof columns / sizeof *columns, a);
    for (const struct kv_curve *v = c->curve; v < c->curve + c->n_curves; v++) {
        struct kv_cell *row = kv_table_row(t);
        kv_set_text(t, row, "task", v->task->name);
        kv_set_text(t, row, "policy", v->policy);
        kv_set_real(t, row, "critical_footprint", v->at.critical.footprint);
        kv_set_text(t, row, "mark", mark_text(&v->at.critical));
        kv_set_real(t, row, "lowest_footprint", v->at.lowest.footprint);
        kv_set_text(t, row, "lowest_mark", mark_text(&v->at.lowest));
        kv_set_whole(t, row, "dips", v->at.dips);
        kv_set_whole(t, row, "monotone", v->at.monotone);
        kv_set_whole(t, row, "points", v->n);
        kv_set_whole(t, row, "rows", v->n_rows);
        kv_set_real(t, row, "threshold", c->threshold);
        kv_set_real(t, row, "full_score", v->task->full_score);
        kv_set_real(t, row, "threshold_score", v->task->wanted);
        kv_set_real(t, row, "published_footprint", v->published.mark ? v->published.footprint : NAN);
        kv_set_text(t, row, "published_mark", mark_text(&v->published));
        kv_set_text(t, row, "published_source", v->source);
    }
}

void kv_critical_csv(const struct kv_critical *c, FILE *out, struct kv_arena *a)
{
    struct kv_table t;
    make_table(c, &t, a);
    kv_table_csv(&t, out);
}

/* ---- for people ---- */

static const char *bound_text(const struct kv_bound *b, struct kv_arena *a)
{
    char number[KV_NUMBER_TEXT];
    if (!b->mark)
        return NULL;
    return kv_format(a, "%s%s", b->mark == '=' ? "" : mark_text(b), kv_print_share(number, b->footprint));
}

/* What a row's number alone does not tell. */
static const char *remark(const struct kv_curve *v, struct kv_arena *a)
{
    const char *text = "";
    int least = v->point[0].rows, most = least;
    for (int i = 1; i < v->n; i++) {
        least = v->point[i].rows < least ? v->point[i].rows : least;
        most = v->point[i].rows > most ? v->point[i].rows : most;
    }
    if (v->at.dips)
        text = kv_format(a, "%d dip%s, lowest crossing %s", v->at.dips, v->at.dips > 1 ? "s" : "",
                         bound_text(&v->at.lowest, a));
    else if (!v->at.monotone)
        text = "not monotone";
    if (most == 1)
        return text;
    const char *range = least < most ? kv_format(a, "%d to %d", least, most) : kv_format(a, "%d", most);
    return kv_format(a, "%s%smeans of %s rows", text, *text ? "; " : "", range);
}

/* The bounds are texts here: a mark belongs to its number. What no row has is no column. */
static void print_table(const struct kv_critical *c, struct kv_arena *a)
{
    struct kv_column shown[] = {
        {"task", "task", KV_CELL_TEXT},
        {"policy", "policy", KV_CELL_TEXT},
        {"critical", "critical\nfootprint", KV_CELL_TEXT},
        {"published", c->beside ? "\npublished" : NULL, KV_CELL_TEXT},
        {"points", "points", KV_CELL_COUNT},
        {"full", "full\nscore", KV_CELL_REAL},
        {"wanted", "score\nwanted", KV_CELL_REAL},
        {"remark", NULL, KV_CELL_TEXT},
    };
    enum { REMARK = sizeof shown / sizeof *shown - 1 };
    struct kv_table t;
    kv_table_open(&t, shown, REMARK + 1, a);
    for (const struct kv_curve *v = c->curve; v < c->curve + c->n_curves; v++) {
        struct kv_cell *row = kv_table_row(&t);
        row[REMARK].text = remark(v, a);
        shown[REMARK].title = *row[REMARK].text ? "" : shown[REMARK].title;
        kv_set_text(&t, row, "task", v->task->name);
        kv_set_text(&t, row, "policy", v->policy);
        kv_set_text(&t, row, "critical", bound_text(&v->at.critical, a));
        kv_set_text(&t, row, "published", bound_text(&v->published, a));
        kv_set_whole(&t, row, "points", v->n);
        kv_set_real(&t, row, "full", v->task->full_score);
        kv_set_real(&t, row, "wanted", v->task->wanted);
    }
    kv_table_print(&t, stdout);
}

static void print_notes(const struct kv_critical *c)
{
    for (const struct kv_task *t = c->task; t < c->task + c->n_tasks; t++)
        if (!t->n_curves)
            printf("%s: a full-cache score and no policy\n", t->name);
    if (!c->beside)
        return;
    printf("published: %d of %d values in %s have a curve here", c->n_matched, c->n_published, c->beside);
    if (!isnan(c->beside_threshold) && fabs(c->beside_threshold - c->threshold) > 1e-12)
        printf("; they are of %g %%, and those here of %g %%: not comparable", 100 * c->beside_threshold,
               100 * c->threshold);
    putchar('\n');
}

void kv_critical_print(const struct kv_critical *c, struct kv_arena *a)
{
    printf("Critical KV footprint: at least %g %% of the full-cache score of the task.\n"
           "It is %s;\n<: even the smallest measured footprint reaches the score; >: even the largest does not.\n\n",
           100 * c->threshold, rule);
    print_table(c, a);
    bool any = c->beside != NULL;
    for (int i = 0; i < c->n_tasks; i++)
        any |= !c->task[i].n_curves;
    if (any)
        putchar('\n');
    print_notes(c);
}

/* ---- for programs ---- */

json_t *kv_critical_json(const struct kv_critical *c, struct kv_arena *a)
{
    struct kv_table t;
    make_table(c, &t, a);
    json_t *root = json_pack("{s:s, s:f, s:s, s:o, s:o}", "result", "critical", "threshold", c->threshold, "rule", rule,
                             "full", kv_json_text(c->full), "averaged_by", kv_json_text(c->setting));
    json_t *tasks = json_array();
    for (const struct kv_task *k = c->task; k < c->task + c->n_tasks; k++)
        json_array_append_new(tasks, json_pack("{s:o, s:f, s:f, s:i}", "task", kv_json_text(k->name), "full_score",
                                               k->full_score, "threshold_score", k->wanted, "policies", k->n_curves));
    json_object_set_new(root, "tasks", tasks);
    if (c->beside) {
        json_t *beside = json_pack("{s:i, s:i}", "values", c->n_published, "matched", c->n_matched);
        json_object_set_new(beside, "threshold",
                            isnan(c->beside_threshold) ? json_null() : json_real(c->beside_threshold));
        json_object_set_new(root, "published", beside);
    }
    json_object_set_new(root, "critical", kv_table_json(&t));
    return root;
}

/* ---- the folder ---- */

static void write_critical(const struct kv_critical *c, FILE *out, struct kv_arena *a)
{
    kv_critical_csv(c, out, a);
}

static const struct kv_column curve_columns[] = {
    {"task", NULL, KV_CELL_TEXT},  {"policy", NULL, KV_CELL_TEXT},  {"footprint", NULL, KV_CELL_REAL},
    {"score", NULL, KV_CELL_REAL}, {"reached", NULL, KV_CELL_BOOL}, {"rows", NULL, KV_CELL_COUNT},
};

static void write_curves(const struct kv_critical *c, FILE *out, struct kv_arena *a)
{
    struct kv_table t;
    kv_table_open(&t, curve_columns, sizeof curve_columns / sizeof *curve_columns, a);
    for (const struct kv_curve *v = c->curve; v < c->curve + c->n_curves; v++)
        for (const struct kv_point *p = v->point; p < v->point + v->n; p++) {
            struct kv_cell *row = kv_table_row(&t);
            kv_set_text(&t, row, "task", v->task->name);
            kv_set_text(&t, row, "policy", v->policy);
            kv_set_real(&t, row, "footprint", p->footprint);
            kv_set_real(&t, row, "score", p->score);
            kv_set_whole(&t, row, "reached", kv_score_reaches(p->score, v->task->wanted));
            kv_set_whole(&t, row, "rows", p->rows);
        }
    kv_table_csv(&t, out);
}

static void write_summary(const struct kv_critical *c, FILE *out, struct kv_arena *a)
{
    json_t *root = kv_critical_json(c, a);
    kv_json_print(root, out);
    json_decref(root);
}

static json_t *input_json(const char *path, struct kv_arena *a)
{
    return json_pack("{s:o, s:s}", "path", kv_json_text(path), "hash", kv_file_hash(path, a));
}

static void write_provenance(const struct kv_critical *c, FILE *out, struct kv_arena *a)
{
    json_t *inputs = json_array();
    json_array_append_new(inputs, input_json(c->path, a));
    if (c->beside)
        json_array_append_new(inputs, input_json(c->beside, a));
    json_t *root = json_pack("{s:s, s:s, s:s, s:f, s:o, s:o, s:o}", "program", "kvsim", "version", KV_VERSION,
                             "command", "critical", "threshold", c->threshold, "full", kv_json_text(c->full),
                             "averaged_by", kv_json_text(c->setting), "inputs", inputs);
    kv_json_print(root, out);
    json_decref(root);
}

bool kv_critical_write(const struct kv_critical *c, const char *folder, struct kv_arena *a, struct kv_err *e)
{
    /* provenance.json marks a folder as ours, so it comes first; critical.csv, which a plot asks for, after its curves
     */
    static const struct {
        const char *name;
        void (*write)(const struct kv_critical *c, FILE *out, struct kv_arena *a);
    } files[] = {
        {"provenance.json", write_provenance},
        {"curves.csv", write_curves},
        {"critical.csv", write_critical},
        {"summary.json", write_summary},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct kv_out out;
        if (!kv_out_open(&out, kv_format(a, "%s/%s", folder, files[i].name), a, e))
            return false;
        files[i].write(c, out.file, a);
        if (!kv_out_close(&out, e))
            return false;
    }
    return true;
}
