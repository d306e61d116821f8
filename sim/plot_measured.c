/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Plots of a simulated run against a measured one, request by request and over time, and of latency against rate. */
#include "sim/compare.h"
#include "sim/core/units.h"
#include "sim/csv.h"
#include "sim/plot_traffic.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_POINTS = 1000, PANELS = 3 };

/* ---- request by request ---- */

static void add_pairs(struct kv_plot *p, const struct kv_pair *pair, int64_t n, int line, int panel, const char *policy)
{
    static const enum kv_latency shown[PANELS] = {KV_LATENCY_TTFT, KV_LATENCY_TPOT, KV_LATENCY_E2E};
    int64_t each = (n + MOST_POINTS - 1) / MOST_POINTS;
    for (int64_t i = 0; i < n; i += each) {
        double a = kv_latency_of(pair[i].a, shown[panel]), b = kv_latency_of(pair[i].b, shown[panel]);
        if (isnan(a) || isnan(b))
            continue;
        struct kv_cell *row = kv_table_row(&p->table);
        kv_set_whole(&p->table, row, "line", line);
        kv_set_whole(&p->table, row, "panel", panel + 1);
        kv_set_real(&p->table, row, "measured_s", b);
        kv_set_real(&p->table, row, "simulated_s", a);
        kv_set_real(&p->table, row, "relative_error", b > 0 ? (a - b) / b : NAN);
        kv_set_text(&p->table, row, "policy", policy);
    }
    if (each > 1)
        p->note = kv_format(p->arena, "shows each %lldth request", (long long)each);
}

static const char *policy_name(const struct kv_compared_runs *c, int i)
{
    return c->policy[i] ? c->policy[i] : "simulated";
}

static bool put_pairs(struct kv_plot *p, const struct kv_compared_runs *c, struct kv_err *e)
{
    int n = c->n_policies < KV_PLOT_MOST_SERIES ? c->n_policies : KV_PLOT_MOST_SERIES;
    int64_t *first = KV_NEW_N(p->arena, int64_t, PANELS * n), *last = KV_NEW_N(p->arena, int64_t, PANELS * n);
    struct kv_plot_lines lines = {0};
    for (int i = 0; i < n; i++)
        kv_plot_line(&lines, policy_name(c, i), p->arena);
    for (int s = 0; s < PANELS * n; s++) {
        int64_t pairs = 0;
        const char *name = c->policy[s % n];
        struct kv_pair *pair = kv_match_requests(&c->a, name ? kv_run_policy(&c->a, name) : -1, &c->b, &pairs, e);
        first[s] = p->table.n_rows;
        if (pair)
            add_pairs(p, pair, pairs, s % n + 1, s / n, policy_name(c, s % n));
        last[s] = p->table.n_rows - 1;
        free(pair);
    }
    p->n = p->table.n_rows > 0 ? n : 0;
    p->n_lines = n;
    p->nothing = p->n ? NULL : "no request of the measured run has the lengths of a simulated one";
    kv_plot_set_series(p, &lines, first, last, PANELS * n);
    return !e->n;
}

bool kv_plot_read_measured(struct kv_plot *p, const char *result, struct kv_err *e)
{
    struct kv_compared_runs c;
    bool good = kv_compare_runs(&c, result, p->measured, NULL, 0, p->arena, e) && put_pairs(p, &c, e);
    kv_compare_runs_close(&c);
    return good;
}

/* ---- over time ---- */

static void add_moments(struct kv_plot *p, const struct kv_moment *at, int64_t n, int line, const char *policy)
{
    int64_t each = (n + MOST_POINTS - 1) / MOST_POINTS;
    for (int64_t i = 0; i < n; i += each) {
        struct kv_cell *row = kv_table_row(&p->table);
        kv_set_whole(&p->table, row, "line", line);
        kv_set_real(&p->table, row, "t_s", at[i].t_s);
        kv_set_whole(&p->table, row, "running", at[i].running);
        kv_set_whole(&p->table, row, "waiting", at[i].waiting);
        kv_set_text(&p->table, row, "policy", policy);
    }
}

static bool put_curves(struct kv_plot *p, const struct kv_compared_runs *c, struct kv_err *e)
{
    const struct kv_moments *m = &c->measured;
    int n = c->n_policies < KV_PLOT_MOST_SERIES - 1 ? c->n_policies : KV_PLOT_MOST_SERIES - 1;
    int64_t *first = KV_NEW_N(p->arena, int64_t, n + 1), *last = KV_NEW_N(p->arena, int64_t, n + 1);
    struct kv_plot_lines lines = {0};
    struct kv_moment *at = malloc(sizeof *at * (size_t)(m->n + 1));
    if (!at)
        return kv_fail(e, KV_ENV, "no memory for %lld moments", (long long)m->n);
    for (int i = 0; i <= n && !e->n; i++) {
        const char *name = i ? c->policy[i - 1] : NULL;
        const char *shown = i ? kv_format(p->arena, "%s, simulated", policy_name(c, i - 1)) : "measured";
        if (i)
            kv_moments_of_run(&c->a, name ? kv_run_policy(&c->a, name) : -1, m, at, e);
        first[i] = p->table.n_rows;
        add_moments(p, i ? at : m->at, m->n, i + 1, shown);
        last[i] = p->table.n_rows - 1;
        kv_plot_line(&lines, shown, p->arena);
    }
    free(at);
    p->n = p->table.n_rows > 0 ? n + 1 : 0;
    p->n_lines = n + 1;
    kv_plot_set_series(p, &lines, first, last, n + 1);
    return !e->n;
}

bool kv_plot_read_curves(struct kv_plot *p, const char *result, struct kv_err *e)
{
    struct kv_compared_runs c;
    bool good = kv_compare_runs(&c, result, p->measured, NULL, 0, p->arena, e) && put_curves(p, &c, e);
    kv_compare_runs_close(&c);
    return good;
}

/* ---- latency against rate ---- */

enum { RATE, TTFT, TPOT, E2E, VALUES };
struct at_rate {
    int line;
    double value[VALUES];
};

static int by_line(const void *x, const void *y)
{
    const struct at_rate *a = x, *b = y;
    if (a->line != b->line)
        return a->line < b->line ? -1 : 1;
    return (a->value[RATE] > b->value[RATE]) - (a->value[RATE] < b->value[RATE]);
}

/* The row at which a line, scaled to a unit square, is farthest below its chord: its knee (Satopaa et al. 2011). -1
 * when it does not bend: fewer than three rates, or a p99 that does not even double. */
static int64_t knee_of(const struct at_rate *row, int64_t first, int64_t last, int what)
{
    const struct at_rate *from = &row[first], *to = &row[last];
    double wide = to->value[RATE] - from->value[RATE], high = to->value[what] - from->value[what], most = 0;
    int64_t knee = -1;
    if (last - first < 2 || !(wide > 0) || !(high > from->value[what]))
        return -1;
    for (int64_t i = first; i <= last; i++) {
        double below =
            (row[i].value[RATE] - from->value[RATE]) / wide - (row[i].value[what] - from->value[what]) / high;
        if (below > most) {
            most = below;
            knee = i;
        }
    }
    return knee;
}

static void put_rates(struct kv_plot *p, struct at_rate *row, int64_t n, const struct kv_plot_lines *lines)
{
    struct kv_plot_variables v;
    int64_t *first = KV_NEW_N(p->arena, int64_t, lines->n), *last = KV_NEW_N(p->arena, int64_t, lines->n),
            *knee = KV_NEW_N(p->arena, int64_t, PANELS * lines->n);
    qsort(row, (size_t)n, sizeof *row, by_line);
    for (int64_t i = 0; i < n; i++) {
        struct kv_cell *cell = kv_table_row(&p->table);
        int line = row[i].line;
        cell[0].whole = line + 1;
        for (int k = 0; k < VALUES; k++)
            cell[1 + k].real = row[i].value[k];
        cell[1 + VALUES].text = lines->name[line];
        first[line] = !i || row[i - 1].line != line ? i : first[line];
        last[line] = i;
    }
    for (int s = 0; s < PANELS * lines->n; s++)
        knee[s] = knee_of(row, first[s % lines->n], last[s % lines->n], TTFT + s / lines->n);
    p->n = p->n_lines = lines->n;
    kv_plot_begin_variables(&v);
    kv_plot_put_series(v.out, lines, first, last, lines->n, p->arena);
    kv_plot_put_wholes(v.out, "knee", knee, PANELS * lines->n);
    kv_plot_end_variables(&v, p);
}

/* 12 or 12 /s */
static bool read_rate(const struct kv_plot *p, const struct kv_csv *in, int column, double *out, struct kv_err *e)
{
    return !kv_read_rate(p->arena, in->cell[column], out) || kv_plot_number(in, column, 0, 1e12, false, out, e);
}

bool kv_plot_read_rate(struct kv_plot *p, const char *result, struct kv_err *e)
{
    enum { POLICY = VALUES, COLUMNS, MOST_ROWS = 100000 };
    static const char *const names[COLUMNS] = {"workload.rate", "ttft_p99_s", "tpot_p99_s", "e2e_p99_s", "policy"};
    struct kv_plot_lines lines = {0};
    struct at_rate *row = kv_alloc_many(p->arena, MOST_ROWS, sizeof *row, "rows of the sweep", e);
    struct kv_csv in;
    int column[COLUMNS];
    int64_t n = 0;
    if (!row || !kv_csv_open(&in, result, p->arena, e))
        return false;
    bool good = kv_plot_bind(&in, names, COLUMNS, column, "sweep", e);
    while (good && n < MOST_ROWS && kv_plot_next_row(&in, e)) {
        struct at_rate *at = &row[n];
        bool known = read_rate(p, &in, column[RATE], &at->value[RATE], e);
        for (int k = TTFT; k < VALUES; k++)
            known &= kv_plot_number(&in, column[k], 0, 1e12, true, &at->value[k], e) && !isnan(at->value[k]);
        at->line = known ? kv_plot_line(&lines, in.cell[column[POLICY]], p->arena) : -1;
        p->cut |= known && at->line < 0;
        n += at->line >= 0;
    }
    kv_csv_close(&in);
    if (!e->n && n)
        put_rates(p, row, n, &lines);
    return !e->n;
}
