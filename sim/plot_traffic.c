/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Plots of a plan with traffic: what the pool held over time, how long requests took, and what a policy gives for its
 * memory. */
#include "sim/plot_traffic.h"

#include "sim/core/ledger.h"
#include "sim/csv.h"
#include "sim/request_times.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_LETTERS = 44, TITLE_LETTERS = 130, SPANS = 400, RANKS = 300 };
static const double most_value = 1e30;

/* ---- what readers share ---- */

int kv_plot_line(struct kv_plot_lines *l, const char *name, struct kv_arena *a)
{
    if (l->n && !strcmp(l->name[l->last], name))
        return l->last;
    for (int i = 0; i < l->n; i++)
        if (!strcmp(l->name[i], name))
            return l->last = i;
    if (l->n == KV_PLOT_MOST_SERIES)
        return -1;
    l->name[l->n] = kv_copy_text(a, name);
    return l->last = l->n++;
}

void kv_plot_put_lines(FILE *out, const struct kv_plot_lines *l, struct kv_arena *a)
{
    int longest = 0;
    fprintf(out, "lines = %d\narray name[%d]\n", l->n, l->n > 0 ? l->n : 1);
    for (int i = 0; i < l->n; i++) {
        const char *name = kv_plot_printable(l->name[i], NAME_LETTERS, a);
        longest = kv_plot_letters(name) > longest ? kv_plot_letters(name) : longest;
        kv_plot_put_text(out, kv_format(a, "name[%d]", i + 1), name);
    }
    fprintf(out, "letters = %d\n", longest);
}

void kv_plot_put_series(FILE *out, const struct kv_plot_lines *l, const int64_t *first, const int64_t *last, int n,
                        struct kv_arena *a)
{
    kv_plot_put_lines(out, l, a);
    kv_plot_put_wholes(out, "first", first, n);
    kv_plot_put_wholes(out, "last", last, n);
}

void kv_plot_set_series(struct kv_plot *p, const struct kv_plot_lines *l, const int64_t *first, const int64_t *last,
                        int n)
{
    struct kv_plot_variables v;
    kv_plot_begin_variables(&v);
    kv_plot_put_series(v.out, l, first, last, n, p->arena);
    kv_plot_end_variables(&v, p);
}

bool kv_plot_put_traffic_facts(FILE *out, const char *result, const char *device, struct kv_arena *a, struct kv_err *e)
{
    static const char *const texts[] = {"model", "device", "kv_cache_dtype", "layout", "time", "kv_pool_origin"},
                             *const wholes[] = {"requests", "replicas", "block_size"};
    const char *path;
    json_t *root = kv_plot_read_summary(result, &path, a, e);
    if (!root)
        return false;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const char *text = json_string_value(json_object_get(root, texts[i]));
        text = device && !strcmp(texts[i], "device") ? device : text;
        if (text)
            kv_plot_put_text(out, texts[i], kv_plot_printable(text, TITLE_LETTERS, a));
        else
            kv_fail(e, KV_DATA, "%s: no '%s'; it is no summary of 'kvsim plan' with traffic", path, texts[i]);
    }
    for (size_t i = 0; i < sizeof wholes / sizeof *wholes; i++) {
        const json_t *value = json_object_get(root, wholes[i]);
        if (json_is_integer(value))
            fprintf(out, "%s = %lld\n", wholes[i], (long long)json_integer_value(value));
        else
            kv_fail(e, KV_DATA, "%s: no '%s'; it is no summary of 'kvsim plan' with traffic", path, wholes[i]);
    }
    json_decref(root);
    return !e->n;
}

/* The column of GiB s under the result's own page tables. */
static const char *gib_s_column(const char *result, struct kv_arena *a, struct kv_err *e)
{
    const char *path, *column = NULL;
    json_t *root = kv_plot_read_summary(result, &path, a, e);
    const char *layout = json_string_value(json_object_get(root, "layout"));
    for (int i = 0; layout && i < KV_LAYOUTS; i++)
        if (!strcmp(layout, kv_layout_names[i]))
            column = (const char *const[]){"per_head_gib_s", "per_layer_gib_s", "shared_gib_s"}[i];
    json_decref(root);
    if (root && !column)
        kv_fail(e, KV_DATA, "%s: no 'layout' of ours; it is no summary of 'kvsim plan' with traffic", path);
    return column;
}

/* ---- the pool over time ---- */

/* A policy's timeline on at most SPANS spans of one width, which holds whole ones of each replica. */
struct held {
    double width, pool, end;
    int n;
    double peak[SPANS + 1], area[SPANS + 1];
    int64_t replicas;
};

enum { T_POLICY, T_REPLICA, T_START, T_END, T_PEAK, T_MEAN, T_COLUMNS };
static const char *const timeline[T_COLUMNS] = {"policy", "replica", "start_s", "end_s", "peak_bytes", "mean_bytes"};

/* Calls visit for each row that is well formed. */
struct span {
    const char *policy;
    double value[T_COLUMNS];
};
static bool each_span(struct kv_plot *p, const char *path, void (*visit)(void *, const struct span *), void *context,
                      struct kv_err *e)
{
    struct kv_csv in;
    int column[T_COLUMNS];
    if (!kv_csv_open(&in, path, p->arena, e))
        return false;
    bool good = kv_plot_bind(&in, timeline, T_COLUMNS, column, "plan", e);
    while (good && kv_plot_next_row(&in, e)) {
        struct span s = {.policy = in.cell[column[T_POLICY]]};
        bool known = true;
        for (int i = T_REPLICA; i < T_COLUMNS; i++)
            known &= kv_plot_number(&in, column[i], 0, most_value, false, &s.value[i], e);
        if (known && !(s.value[T_END] > s.value[T_START]))
            known = kv_csv_fail(&in, column[T_END], e, "is not behind start_s");
        if (known && s.value[T_REPLICA] >= 4096)
            known = kv_csv_fail(&in, column[T_REPLICA], e, "is no replica of ours");
        if (known)
            visit(context, &s);
    }
    kv_csv_close(&in);
    return !e->n;
}

struct memory {
    struct kv_plot_lines lines;
    struct held *held;
    struct kv_arena *arena;
    bool cut;
};

static struct held *held_of(struct memory *m, const struct span *s)
{
    int i = kv_plot_line(&m->lines, s->policy, m->arena);
    m->cut |= i < 0;
    return i < 0 ? NULL : &m->held[i];
}

static void measure_span(void *context, const struct span *s)
{
    struct held *h = held_of(context, s);
    if (!h)
        return;
    h->width = fmax(h->width, s->value[T_END] - s->value[T_START]);
    h->end = fmax(h->end, s->value[T_END]);
    h->replicas = s->value[T_REPLICA] + 1 > (double)h->replicas ? (int64_t)s->value[T_REPLICA] + 1 : h->replicas;
}

static void add_span(void *context, const struct span *s)
{
    struct held *h = held_of(context, s);
    if (!h)
        return;
    int at = (int)(s->value[T_START] / h->width);
    h->n = at + 1 > h->n ? at + 1 : h->n;
    h->peak[at] = fmax(h->peak[at], s->value[T_PEAK]);
    h->area[at] += s->value[T_MEAN] * (s->value[T_END] - s->value[T_START]);
}

/* The pool of each policy, which lies in policies.csv. */
static bool read_pools(struct memory *m, const char *path, struct kv_err *e)
{
    static const char *const names[] = {"policy", "kv_pool_bytes"};
    struct kv_csv in;
    int column[2];
    double pool;
    if (!kv_csv_open(&in, path, m->arena, e))
        return false;
    bool good = kv_plot_bind(&in, names, 2, column, "plan", e);
    while (good && kv_plot_next_row(&in, e)) {
        int i = kv_plot_line(&m->lines, in.cell[column[0]], m->arena);
        if (kv_plot_number(&in, column[1], 0, most_value, false, &pool, e) && i >= 0)
            m->held[i].pool = pool;
    }
    kv_csv_close(&in);
    return !e->n;
}

bool kv_plot_read_traffic_memory(struct kv_plot *p, const char *result, struct kv_err *e)
{
    struct memory m = {.arena = p->arena, .held = KV_NEW_N(p->arena, struct held, KV_PLOT_MOST_SERIES)};
    const char *path = kv_format(p->arena, "%s/timeline.csv", result);
    int64_t first[KV_PLOT_MOST_SERIES], last[KV_PLOT_MOST_SERIES];
    if (!read_pools(&m, kv_format(p->arena, "%s/policies.csv", result), e) || !each_span(p, path, measure_span, &m, e))
        return false;
    for (int i = 0; i < m.lines.n; i++) {
        struct held *h = &m.held[i];
        h->width = h->width > 0 ? h->width * ceil(h->end / h->width / SPANS) : 1;
    }
    if (!each_span(p, path, add_span, &m, e))
        return false;
    for (int i = 0; i < m.lines.n; i++) {
        struct held *h = &m.held[i];
        first[i] = p->table.n_rows;
        for (int k = 0; k <= h->n && h->n; k++) {
            struct kv_cell *row = kv_table_row(&p->table);
            double mean = k < h->n ? h->area[k] / h->width / (double)h->replicas : 0;
            kv_set_whole(&p->table, row, "line", i + 1);
            kv_set_real(&p->table, row, "start_s", (double)k * h->width);
            kv_set_whole(&p->table, row, "peak_bytes", k < h->n ? llrint(fmin(h->peak[k], 9e18)) : 0);
            kv_set_whole(&p->table, row, "mean_bytes", llrint(fmin(mean, 9e18)));
            kv_set_text(&p->table, row, "policy", m.lines.name[i]);
        }
        last[i] = p->table.n_rows - 1;
        p->n += h->n > 0;
    }
    p->n_lines = m.lines.n;
    p->cut = m.cut;
    if (!p->n)
        return true;
    struct kv_plot_variables v;
    kv_plot_begin_variables(&v);
    kv_plot_put_series(v.out, &m.lines, first, last, m.lines.n, p->arena);
    fprintf(v.out, "array pool[%d]\n", m.lines.n > 0 ? m.lines.n : 1);
    for (int i = 0; i < m.lines.n; i++)
        fprintf(v.out, "pool[%d] = %.17g\n", i + 1, m.held[i].pool);
    kv_plot_end_variables(&v, p);
    return true;
}

/* ---- latencies ---- */

bool kv_plot_read_traffic_latency(struct kv_plot *p, const char *result, struct kv_err *e)
{
    static const enum kv_latency shown[] = {KV_LATENCY_TTFT, KV_LATENCY_TPOT, KV_LATENCY_E2E};
    enum { PANELS = 3 };
    struct kv_run_times run;
    struct kv_plot_lines lines = {0};
    bool good = kv_run_times_read(&run, kv_format(p->arena, "%s/requests.csv", result), p->arena, e);
    int n = good ? run.n_policies < KV_PLOT_MOST_SERIES ? run.n_policies : KV_PLOT_MOST_SERIES : 0;
    int64_t *first = KV_NEW_N(p->arena, int64_t, PANELS * n + 1), *last = KV_NEW_N(p->arena, int64_t, PANELS * n + 1);
    for (int i = 0; i < n; i++)
        kv_plot_line(&lines, run.policy[i], p->arena);
    p->cut = good && n < run.n_policies;
    for (int s = 0; s < PANELS * n && !e->n; s++) {
        int64_t known = 0, at = 0;
        double *value = kv_run_sorted(&run, s % n, shown[s / n], &known, e);
        first[s] = p->table.n_rows;
        for (int k = 0; value && k <= RANKS && known; k++) {
            int64_t rank = k ? (known * k + RANKS - 1) / RANKS : 1;
            if (rank == at)
                continue;
            at = rank;
            struct kv_cell *row = kv_table_row(&p->table);
            kv_set_whole(&p->table, row, "line", s % n + 1);
            kv_set_whole(&p->table, row, "panel", s / n + 1);
            kv_set_real(&p->table, row, "seconds", value[rank - 1]);
            kv_set_real(&p->table, row, "share", (double)rank / (double)known);
            kv_set_text(&p->table, row, "policy", lines.name[s % n]);
        }
        last[s] = p->table.n_rows - 1;
        p->n += last[s] >= first[s];
        free(value);
    }
    kv_run_times_close(&run);
    p->n_lines = n;
    kv_plot_set_series(p, &lines, first, last, PANELS * n);
    return !e->n;
}

/* ---- a point for each policy ---- */

/* Nothing takes no more memory and gives more, or less and gives no less. */
static void mark_frontier(const struct kv_table *t)
{
    for (int i = 0; i < t->n_rows; i++) {
        const struct kv_cell *row = &t->cell[i * t->n_columns];
        bool best = true;
        for (int j = 0; j < t->n_rows; j++) {
            const struct kv_cell *other = &t->cell[j * t->n_columns];
            best &= !((other[1].real < row[1].real && other[2].real >= row[2].real) ||
                      (other[1].real <= row[1].real && other[2].real > row[2].real));
        }
        t->cell[i * t->n_columns + 3].whole = best;
    }
}

/* "pareto": pool_peak_bytes and output_tokens_per_s; "clocks": the footprint in tokens and GiB s on the wall. */
bool kv_plot_read_traffic_points(struct kv_plot *p, const char *result, struct kv_err *e)
{
    enum { POLICY, PEAK, RATE, PAPER, ACTUAL, HELD, NEEDED };
    const char *const names[NEEDED] = {"policy",
                                       "pool_peak_bytes",
                                       "output_tokens_per_s",
                                       "kv_footprint_paper",
                                       "kv_footprint_actual",
                                       gib_s_column(result, p->arena, e)};
    bool pareto = !strcmp(p->kind->shown, "pareto"), paper = true;
    struct kv_plot_lines lines = {0};
    struct kv_csv in;
    int column[NEEDED];
    double value[NEEDED];
    if (!names[HELD] || !kv_csv_open(&in, kv_format(p->arena, "%s/policies.csv", result), p->arena, e))
        return false;
    bool good = kv_plot_bind(&in, names, NEEDED, column, "plan", e);
    while (good && kv_plot_next_row(&in, e)) {
        bool known = true;
        for (int i = PEAK; i < NEEDED; i++)
            known &= kv_plot_number(&in, column[i], 0, most_value, true, &value[i], e);
        double x = pareto ? value[PEAK] : isnan(value[PAPER]) ? value[ACTUAL] : value[PAPER];
        double y = pareto ? value[RATE] : value[HELD];
        if (!known || isnan(x) || isnan(y))
            continue;
        int line = kv_plot_line(&lines, in.cell[column[POLICY]], p->arena);
        p->cut = line < 0;
        if (line < 0)
            break;
        paper &= !isnan(value[PAPER]);
        struct kv_cell *row = kv_table_row(&p->table);
        row[0].whole = line + 1;
        row[1].real = x;
        row[2].real = y;
        row[3].whole = !pareto && isnan(value[PAPER]);
        row[4].text = lines.name[line];
    }
    kv_csv_close(&in);
    if (pareto)
        mark_frontier(&p->table);
    p->n = p->n_lines = lines.n;
    struct kv_plot_variables v;
    kv_plot_begin_variables(&v);
    kv_plot_put_lines(v.out, &lines, p->arena);
    fprintf(v.out, "all_paper = %d\n", paper);
    kv_plot_end_variables(&v, p);
    return !e->n;
}
