/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/critical.h"

#include "sim/core/schema.h"
#include "sim/core/units.h"
#include "sim/csv.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Scores that are beyond these are mistakes, and their sums stay finite. */
enum { MOST_ROWS = 100000, NAME_BYTES = 200 };
static const double most_score = 1e15;

/* ---- crossings ---- */

bool kv_score_reaches(double score, double wanted)
{
    return score >= wanted - 1e-12 * fabs(wanted);
}

/* Where the line from `low`, which does not reach the score, to `high`, which does, crosses it. */
static struct kv_bound between(const struct kv_point *low, const struct kv_point *high, double wanted)
{
    double share = fmin(1, (wanted - low->score) / (high->score - low->score));
    return (struct kv_bound){low->footprint + share * (high->footprint - low->footprint), '='};
}

struct kv_crossing kv_crossing_find(const struct kv_point *point, int n, double wanted)
{
    KV_ASSERT(n > 0);
    struct kv_bound none = {point[n - 1].footprint, '>'}, all = {point[0].footprint, '<'};
    bool top = kv_score_reaches(point[n - 1].score, wanted), bottom = kv_score_reaches(point[0].score, wanted);
    struct kv_crossing c = {.critical = top ? all : none, .lowest = bottom ? all : none, .monotone = true};
    bool crossed = !top;
    for (int i = n - 2; i >= 0; i--) {
        bool here = kv_score_reaches(point[i].score, wanted), above = kv_score_reaches(point[i + 1].score, wanted);
        c.monotone &= point[i].score <= point[i + 1].score;
        c.dips += here && !above;
        if (here || !above)
            continue;
        struct kv_bound at = between(&point[i], &point[i + 1], wanted);
        if (!crossed)
            c.critical = at;
        crossed = true;
        if (!bottom)
            c.lowest = at;
    }
    return c;
}

/* ---- rows ---- */

struct row {
    const char *task, *policy, *setting; /* setting: "" without such a column */
    struct kv_point point;
    int64_t line;
    int column, order; /* column: of the score, in bytes */
};

static int by_curve(const struct row *a, const struct row *b)
{
    int way = strcmp(a->task, b->task);
    return way ? way : strcmp(a->policy, b->policy);
}

static int by_setting(const void *first, const void *second)
{
    const struct row *a = first, *b = second;
    int way = by_curve(a, b);
    way = way ? way : strcmp(a->setting, b->setting);
    return way ? way : a->order - b->order;
}

static int by_footprint(const void *first, const void *second)
{
    const struct row *a = first, *b = second;
    int way = by_curve(a, b);
    way = way ? way : (a->point.footprint > b->point.footprint) - (a->point.footprint < b->point.footprint);
    return way ? way : a->order - b->order;
}

static bool same_setting(const struct row *a, const struct row *b)
{
    return !by_curve(a, b) && !strcmp(a->setting, b->setting);
}

/* 93.3 % and 0.933 are the same, though they may be read one rounding apart. */
static bool same_footprint(const struct row *a, const struct row *b)
{
    return !by_curve(a, b) && fabs(a->point.footprint - b->point.footprint) < 1e-12;
}

/* Neighbours that are the same become their mean, in the place of the first; how many are left. */
static int average(struct row *row, int n, bool (*same)(const struct row *, const struct row *))
{
    int kept = 0;
    for (int i = 0, next; i < n; i = next) {
        double footprint = 0, score = 0;
        struct row mean = row[i];
        for (next = i + 1; next < n && same(&row[i], &row[next]); next++) {
            footprint += row[next].point.footprint - row[i].point.footprint; /* equal ones stay what they are */
            score += row[next].point.score - row[i].point.score;
            mean.point.rows += row[next].point.rows;
            mean.order = row[next].order < mean.order ? row[next].order : mean.order;
        }
        mean.point.footprint += footprint / (next - i);
        mean.point.score += score / (next - i);
        row[kept++] = mean;
    }
    return kept;
}

/* ---- files ---- */

enum { TASK, POLICY, FOOTPRINT, SCORE, NEEDED, SETTING = NEEDED, MARK = NEEDED, THRESHOLD, SOURCE, COLUMNS };

static const char *read_name(const struct kv_csv *csv, int column, struct kv_arena *a, struct kv_err *e)
{
    const char *text = csv->cell[column];
    if (strlen(text) > NAME_BYTES)
        kv_csv_fail(csv, column, e, "is longer than 200 bytes; give it a shorter name");
    for (const unsigned char *c = (const unsigned char *)text; *c; c++)
        if (*c < ' ' || *c == 127) {
            kv_csv_fail(csv, column, e, "has a control character; remove it");
            break;
        }
    if (!*text)
        kv_fail(e, KV_DATA, "%s:%lld:%d: %s is empty; write a name", csv->path, (long long)csv->line, csv->at[column],
                csv->name[column]);
    return kv_copy_text(a, text);
}

/* What a reader of sim/core/units.h says about a cell, with its place. */
static bool said(const struct kv_csv *csv, int column, const char *why, struct kv_err *e)
{
    return !why || kv_fail(e, KV_DATA, "%s:%lld:%d: %s %s", csv->path, (long long)csv->line, csv->at[column],
                           csv->name[column], why);
}

static void read_score(const struct kv_csv *csv, int column, double *out, struct kv_arena *a, struct kv_err *e)
{
    if (said(csv, column, kv_read_real(a, csv->cell[column], out), e) && fabs(*out) > most_score)
        kv_csv_fail(csv, column, e, "is outside -1e15 .. 1e15");
}

static struct row *next_place(struct row **row, int *room, int n, struct kv_arena *a)
{
    if (n == *room) {
        *room = *room ? 2 * *room : 64;
        struct row *more = KV_NEW_N(a, struct row, *room);
        if (n)
            memcpy(more, *row, sizeof *more * (size_t)n);
        *row = more;
    }
    return &(*row)[n];
}

/* Nothing is read beyond so many rows, or after the file cannot be read. */
static bool too_many(const struct kv_csv *csv, int seen, struct kv_err *e)
{
    if (seen == MOST_ROWS)
        kv_fail(e, KV_DATA, "%s:%lld: more than %d rows; give means of what belongs together", csv->path,
                (long long)csv->line, MOST_ROWS);
    return seen == MOST_ROWS || ferror(csv->in);
}

/* The rows of the scores as they stand; the number of them, or -1. */
static int read_rows(struct row **row, const struct kv_critical_request *q, struct kv_csv *csv, struct kv_arena *a,
                     struct kv_err *e)
{
    const char *names[] = {"task", "policy", "footprint", "score", q->setting};
    int column[NEEDED + 1], n = 0, room = 0;
    enum kv_next next;
    if (!kv_csv_bind(csv, names, q->setting ? NEEDED + 1 : NEEDED, NEEDED + 1, column, e))
        return -1;
    for (int seen = 0; (next = kv_csv_next(csv, e)) != KV_NEXT_END && !too_many(csv, seen, e); seen++) {
        if (next == KV_NEXT_BAD)
            continue;
        struct row *r = next_place(row, &room, n, a);
        *r = (struct row){.order = n, .line = csv->line, .column = csv->at[column[SCORE]], .point.rows = 1};
        r->task = read_name(csv, column[TASK], a, e);
        r->policy = read_name(csv, column[POLICY], a, e);
        r->setting = q->setting ? kv_copy_text(a, csv->cell[column[SETTING]]) : "";
        said(csv, column[FOOTPRINT], kv_read_share(a, csv->cell[column[FOOTPRINT]], &r->point.footprint), e);
        read_score(csv, column[SCORE], &r->point.score, a, e);
        n++;
    }
    if (!n && !e->n)
        kv_fail(e, KV_DATA, "%s: no rows; give one for each task, policy and footprint, and the full cache's",
                csv->path);
    return e->n ? -1 : n;
}

/* ---- curves ---- */

static bool is_full(const struct row *r)
{
    return r->point.footprint > 1 - 1e-12;
}

/* The full-cache score among the rows of one task: that of the policy named, else what all at footprint 1 agree on. */
static bool find_full(const struct kv_critical *c, const struct kv_critical_request *q, const struct row *row, int n,
                      bool *named, double *score, struct kv_err *e)
{
    const struct row *full = NULL, *other = NULL;
    *named = false;
    for (int i = 0; i < n; i++) {
        if (!is_full(&row[i]))
            continue;
        if (!strcmp(row[i].policy, c->full)) {
            full = &row[i];
            *named = true;
            break;
        }
        if (full && fabs(row[i].point.score - full->point.score) > 1e-9 * fabs(full->point.score))
            other = &row[i];
        full = full ? full : &row[i];
    }
    if (!full || (q->full && !*named))
        return kv_fail(
            e, KV_DATA,
            "%s: task '%s' has no full-cache score%s%s%s; add a row of policy '%s' with footprint 1, or name "
            "the policy that evicts nothing with --full",
            c->path, row->task, q->full ? " of '" : "", q->full ? q->full : "", q->full ? "'" : "", c->full);
    if (!*named && other)
        return kv_fail(e, KV_DATA,
                       "%s:%lld:%d: task '%s' has two scores at footprint 1, of '%s' and '%s'; name the full cache "
                       "with --full",
                       c->path, (long long)other->line, other->column, row->task, full->policy, other->policy);
    if (full->point.score <= 0)
        return kv_fail(e, KV_DATA,
                       "%s:%lld:%d: task '%s' has a full-cache score of %g, and a share of it means nothing; use a "
                       "score that is above 0, or leave the task out",
                       c->path, (long long)full->line, full->column, row->task, full->point.score);
    *score = full->point.score;
    return true;
}

struct draft {
    struct kv_curve curve;
    int order, task; /* of the first row; task: counted as they are sorted */
};

/* The curves of one task, without what is nothing but its full cache. */
static int add_curves(struct draft *draft, const struct kv_critical *c, bool named, const struct row *row, int n,
                      struct kv_arena *a)
{
    int made = 0;
    for (int i = 0, next; i < n; i = next) {
        struct draft *d = &draft[made];
        *d = (struct draft){.curve.policy = row[i].policy, .order = row[i].order};
        for (next = i; next < n && !by_curve(&row[i], &row[next]); next++) {
            d->order = row[next].order < d->order ? row[next].order : d->order;
            d->curve.n_rows += row[next].point.rows;
        }
        d->curve.n = next - i;
        if (d->curve.n == 1 && is_full(&row[i]) && (!named || !strcmp(row[i].policy, c->full)))
            continue;
        struct kv_point *point = KV_NEW_N(a, struct kv_point, d->curve.n);
        for (int k = i; k < next; k++)
            point[k - i] = row[k].point;
        d->curve.point = point;
        made++;
    }
    return made;
}

static int by_order(const void *first, const void *second)
{
    const struct draft *a = first, *b = second;
    return a->order - b->order;
}

static int first_order(const struct row *row, int n)
{
    int first = row->order;
    for (int i = 1; i < n; i++)
        first = row[i].order < first ? row[i].order : first;
    return first;
}

/* The tasks and curves of rows sorted by task, policy and footprint, back in the order of the file. */
static bool make_curves(struct kv_critical *c, const struct kv_critical_request *q, const struct row *row, int n,
                        struct kv_arena *a, struct kv_err *e)
{
    struct draft *curve = KV_NEW_N(a, struct draft, n), *task = KV_NEW_N(a, struct draft, n);
    struct kv_task *sorted = KV_NEW_N(a, struct kv_task, n);
    int *place = KV_NEW_N(a, int, n);
    for (int i = 0, next; i < n; i = next) {
        bool named;
        for (next = i + 1; next < n && !strcmp(row[i].task, row[next].task);)
            next++;
        struct kv_task *t = &sorted[c->n_tasks];
        t->name = row[i].task;
        if (!find_full(c, q, &row[i], next - i, &named, &t->full_score, e))
            continue;
        t->wanted = c->threshold * t->full_score;
        t->n_curves = add_curves(&curve[c->n_curves], c, named, &row[i], next - i, a);
        for (int k = 0; k < t->n_curves; k++)
            curve[c->n_curves++].task = c->n_tasks;
        task[c->n_tasks] = (struct draft){.order = first_order(&row[i], next - i), .task = c->n_tasks};
        c->n_tasks++;
    }
    if (!e->n && !c->n_curves)
        kv_fail(e, KV_DATA, "%s: only full-cache scores; add rows of the policies to compare with them", c->path);
    qsort(task, (size_t)c->n_tasks, sizeof *task, by_order);
    qsort(curve, (size_t)c->n_curves, sizeof *curve, by_order);
    c->task = KV_NEW_N(a, struct kv_task, n);
    c->curve = KV_NEW_N(a, struct kv_curve, n);
    for (int i = 0; i < c->n_tasks; i++) {
        place[task[i].task] = i;
        c->task[i] = sorted[task[i].task];
    }
    for (int i = 0; i < c->n_curves; i++) {
        struct kv_curve *to = &c->curve[i];
        *to = curve[i].curve;
        to->task = &c->task[place[curve[i].task]];
        to->at = kv_crossing_find(to->point, to->n, to->task->wanted);
    }
    return !e->n;
}

/* ---- published values ---- */

struct published {
    const char *task, *policy, *source;
    struct kv_bound at;
    int64_t line;
};

static int by_names(const void *first, const void *second)
{
    const struct published *a = first, *b = second;
    int way = strcmp(a->task, b->task);
    return way ? way : strcmp(a->policy, b->policy);
}

/* '<34 %', or 34 % with the mark in a column of its own. */
static void read_bound(const struct kv_csv *csv, const int *column, struct kv_bound *out, struct kv_arena *a,
                       struct kv_err *e)
{
    const char *text = csv->cell[column[FOOTPRINT]], *mark = column[MARK] < 0 ? "" : csv->cell[column[MARK]];
    out->mark = *text && strchr("<>=", *text) ? *text : *mark ? *mark : '=';
    text += *text && strchr("<>=", *text);
    text += strspn(text, " ");
    if (*mark && (strlen(mark) > 1 || !strchr("<>=", *mark)))
        kv_csv_fail(csv, column[MARK], e, "is none of <, =, >");
    else if (*mark && *mark != out->mark)
        kv_csv_fail(csv, column[MARK], e, "is not the mark of its footprint; keep one");
    said(csv, column[FOOTPRINT], kv_read_share(a, text, &out->footprint), e);
}

static void read_threshold(const struct kv_csv *csv, const int *column, double *out, struct kv_arena *a,
                           struct kv_err *e)
{
    double value = *out;
    if (column[THRESHOLD] < 0 || !*csv->cell[column[THRESHOLD]])
        return;
    said(csv, column[THRESHOLD], kv_read_share(a, csv->cell[column[THRESHOLD]], &value), e);
    if (!isnan(*out) && *out != value)
        kv_csv_fail(csv, column[THRESHOLD], e, "is not that of the rows above; keep rows of one threshold");
    *out = value;
}

static int read_published(struct kv_critical *c, struct published **out, struct kv_csv *csv, struct kv_arena *a,
                          struct kv_err *e)
{
    static const char *const names[COLUMNS] = {"task",      "policy", "critical_footprint", NULL, "mark",
                                               "threshold", "source"};
    struct published *p = KV_NEW_N(a, struct published, MOST_ROWS);
    int column[COLUMNS], n = 0;
    enum kv_next next;
    if (!kv_csv_bind(csv, names, SCORE, COLUMNS, column, e))
        return -1;
    for (int seen = 0; (next = kv_csv_next(csv, e)) != KV_NEXT_END && !too_many(csv, seen, e); seen++) {
        if (next == KV_NEXT_BAD || !*csv->cell[column[FOOTPRINT]]) /* not published */
            continue;
        p[n] = (struct published){.line = csv->line};
        p[n].task = read_name(csv, column[TASK], a, e);
        p[n].policy = read_name(csv, column[POLICY], a, e);
        p[n].source = column[SOURCE] < 0 || !*csv->cell[column[SOURCE]] ? NULL : read_name(csv, column[SOURCE], a, e);
        read_bound(csv, column, &p[n].at, a, e);
        read_threshold(csv, column, &c->beside_threshold, a, e);
        n++;
    }
    *out = p;
    return e->n ? -1 : n;
}

static bool put_beside(struct kv_critical *c, struct kv_arena *a, struct kv_err *e)
{
    struct kv_csv csv;
    struct published *p = NULL;
    if (!kv_csv_open(&csv, c->beside, a, e))
        return false;
    c->n_published = read_published(c, &p, &csv, a, e);
    kv_csv_close(&csv);
    if (c->n_published < 0)
        return false;
    qsort(p, (size_t)c->n_published, sizeof *p, by_names);
    for (int i = 1; i < c->n_published; i++)
        if (!by_names(&p[i - 1], &p[i])) {
            int64_t one = p[i - 1].line, two = p[i].line;
            kv_fail(e, KV_DATA, "%s:%lld: '%s' on '%s' again; line %lld has it too; keep one", csv.path,
                    (long long)(one > two ? one : two), p[i].policy, p[i].task, (long long)(one > two ? two : one));
        }
    for (int i = 0; i < c->n_curves; i++) {
        struct published key = {.task = c->curve[i].task->name, .policy = c->curve[i].policy};
        const struct published *found = bsearch(&key, p, (size_t)c->n_published, sizeof *p, by_names);
        if (!found)
            continue;
        c->curve[i].published = found->at;
        c->curve[i].source = found->source;
        c->n_matched++;
    }
    return !e->n;
}

bool kv_critical_read(struct kv_critical *c, const struct kv_critical_request *q, struct kv_arena *a, struct kv_err *e)
{
    struct kv_csv csv;
    struct row *row = NULL;
    *c = (struct kv_critical){.full = q->full ? q->full : "full",
                              .setting = q->setting,
                              .beside = q->beside,
                              .threshold = q->threshold,
                              .beside_threshold = NAN};
    if (!kv_csv_open(&csv, q->path, a, e))
        return false;
    c->path = csv.path;
    int n = read_rows(&row, q, &csv, a, e);
    kv_csv_close(&csv);
    if (n < 0)
        return false;
    KV_ASSERT(row); /* there is at least one */
    c->n_rows = n;
    if (q->setting) {
        qsort(row, (size_t)n, sizeof *row, by_setting);
        n = average(row, n, same_setting);
    }
    qsort(row, (size_t)n, sizeof *row, by_footprint);
    n = average(row, n, same_footprint);
    return make_curves(c, q, row, n, a, e) && (!q->beside || put_beside(c, a, e));
}
