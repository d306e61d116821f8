/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A simulated run against a measured one: percentiles from all of both, errors request by request, and how many ran and
 * waited over time. */
#include "sim/compare.h"
#include "sim/core/ini.h"
#include "sim/core/schema.h"
#include "sim/core/units.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { POLICY, METRIC, STATISTIC, A, B, DIFFERENCE, ERROR, COLUMNS };
#define TABLE(a, b)                                                                                                    \
    {                                                                                                                  \
        {"policy", NULL, KV_CELL_TEXT}, {"metric", NULL, KV_CELL_TEXT}, {"statistic", NULL, KV_CELL_TEXT},             \
            {a, NULL, KV_CELL_REAL}, {b, NULL, KV_CELL_REAL}, {"difference", NULL, KV_CELL_REAL},                      \
            {"relative_error", NULL, KV_CELL_SHARE},                                                                   \
    }
static const struct kv_column against[COLUMNS] = TABLE("simulated", "measured"), beside[COLUMNS] = TABLE("a", "b");
static const char by_request[] = "error_", curve[] = "abs_difference_";

static const struct {
    const char *name;
    double share;
} statistics[] = {{"mean", NAN}, {"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}};
enum { STATISTICS = sizeof statistics / sizeof *statistics };

static double statistic_of(const double *sorted, int64_t n, int which)
{
    double sum = 0;
    if (!n)
        return NAN;
    if (!isnan(statistics[which].share))
        return kv_at_rank(sorted, n, statistics[which].share);
    for (int64_t i = 0; i < n; i++)
        sum += sorted[i];
    return sum / (double)n;
}

/* ---- the rows ---- */

static struct kv_cell *add_row(struct kv_compared_runs *c, int policy, const char *metric, const char *statistic)
{
    struct kv_cell *row = kv_table_row(&c->table);
    row[POLICY].text = c->policy[policy];
    row[METRIC].text = metric;
    row[STATISTIC].text = statistic;
    return row;
}

static void put_both(struct kv_cell *row, double a, double b)
{
    row[A].real = a;
    row[B].real = b;
    row[DIFFERENCE].real = a - b;
    row[ERROR].real = b > 0 ? (a - b) / b : a == b ? 0 : NAN;
}

static int place_of(const struct kv_compared_runs *c, int policy)
{
    return c->policy[policy] ? kv_run_policy(&c->a, c->policy[policy]) : -1;
}

static bool add_latencies(struct kv_compared_runs *c, int policy, struct kv_err *e)
{
    bool good = true;
    for (int what = 0; good && what < KV_LATENCIES; what++) {
        int64_t n_a = 0, n_b = 0;
        double *in_a = kv_run_sorted(&c->a, place_of(c, policy), (enum kv_latency)what, &n_a, e),
               *in_b = kv_run_sorted(&c->b, -1, (enum kv_latency)what, &n_b, e);
        bool seen = what == KV_LATENCY_TTFT_SEEN || what == KV_LATENCY_E2E_SEEN;
        good = in_a && in_b;
        for (int s = 0; good && s < STATISTICS && !(seen && !c->b.knows_seen); s++)
            put_both(add_row(c, policy, kv_latency_keys[what], statistics[s].name), statistic_of(in_a, n_a, s),
                     statistic_of(in_b, n_b, s));
        if (what == KV_LATENCY_E2E) {
            c->a_ended[policy] = n_a;
            c->b_ended = n_b;
        }
        free(in_a);
        free(in_b);
    }
    return good;
}

/* |error| of each pair, in seconds and as a share of b. */
static bool add_errors(struct kv_compared_runs *c, int policy, struct kv_err *e)
{
    static const enum kv_latency shown[] = {KV_LATENCY_TTFT, KV_LATENCY_TPOT, KV_LATENCY_E2E};
    int64_t n = 0;
    struct kv_pair *pair = kv_match_requests(&c->a, place_of(c, policy), &c->b, &n, e);
    double *off = malloc(sizeof *off * (size_t)(n + 1)), *share = malloc(sizeof *share * (size_t)(n + 1));
    bool good = pair && off && share;
    if (pair && !good)
        kv_fail(e, KV_ENV, "no memory for the errors of %lld requests", (long long)n);
    c->matched[policy] = n;
    for (size_t k = 0; good && n && k < sizeof shown / sizeof *shown; k++) {
        int64_t n_off = 0, n_share = 0;
        for (int64_t i = 0; i < n; i++) {
            double a = kv_latency_of(pair[i].a, shown[k]), b = kv_latency_of(pair[i].b, shown[k]);
            if (isnan(a) || isnan(b))
                continue;
            off[n_off++] = fabs(a - b);
            if (b > 0)
                share[n_share++] = fabs(a - b) / b;
        }
        kv_sort_values(off, n_off);
        kv_sort_values(share, n_share);
        for (int s = 0; s < STATISTICS - 1; s++) {
            struct kv_cell *row = add_row(c, policy, kv_latency_keys[shown[k]],
                                          kv_format(c->table.arena, "%s%s", by_request, statistics[s].name));
            row[DIFFERENCE].real = statistic_of(off, n_off, s);
            row[ERROR].real = statistic_of(share, n_share, s);
        }
    }
    free(pair);
    free(off);
    free(share);
    return good;
}

static bool add_curves(struct kv_compared_runs *c, int policy, struct kv_err *e)
{
    static const char *const names[] = {"running", "waiting"};
    const struct kv_moments *m = &c->measured;
    struct kv_moment *at = malloc(sizeof *at * (size_t)(m->n + 1));
    if (!at)
        return kv_fail(e, KV_ENV, "no memory for %lld moments", (long long)m->n);
    bool good = kv_moments_of_run(&c->a, place_of(c, policy), m, at, e);
    for (int k = 0; good && k < 2 && m->n; k++) {
        double sum_a = 0, sum_b = 0, sum = 0, most = 0, n = (double)m->n;
        for (int64_t i = 0; i < m->n; i++) {
            double a = (double)(k ? at[i].waiting : at[i].running),
                   b = (double)(k ? m->at[i].waiting : m->at[i].running);
            sum_a += a;
            sum_b += b;
            sum += fabs(a - b);
            most = fmax(most, fabs(a - b));
        }
        put_both(add_row(c, policy, names[k], "mean"), sum_a / n, sum_b / n);
        add_row(c, policy, names[k], "abs_difference_mean")[DIFFERENCE].real = sum / n;
        add_row(c, policy, names[k], "abs_difference_max")[DIFFERENCE].real = most;
    }
    free(at);
    return good;
}

/* ---- which policies ---- */

/* Those named by the config that lies beside; a baseline added to it is not asked about. */
static bool in_config(const struct kv_ini *ini, const char *policy)
{
    for (int i = 0; i < ini->n; i++) {
        const char *name = ini->section[i].name;
        if (!strncmp(name, "policy ", 7) && !strcmp(name + 7 + strspn(name + 7, " "), policy))
            return true;
    }
    return false;
}

static bool choose(struct kv_compared_runs *c, const char *path, const char *const *only, int n_only,
                   struct kv_arena *a, struct kv_err *e)
{
    int n = c->a.n_policies;
    c->policy = KV_NEW_N(a, const char *, n + n_only + 1);
    for (int i = 0; i < n_only; i++) {
        const char *near = kv_nearest(only[i], c->a.policy, n);
        if (kv_run_policy(&c->a, only[i]) < 0)
            kv_fail(e, KV_USAGE, "--policy: '%s' is not in %s%s%s%s", only[i], c->a.path,
                    near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
        c->policy[c->n_policies++] = only[i];
    }
    if (!n_only && n) {
        struct kv_err ignored = {0};
        struct kv_ini ini = {0};
        kv_ini_read(kv_format(a, "%s/config.resolved.ini", path), &ini, a, &ignored);
        for (int i = 0; i < n; i++)
            if (in_config(&ini, c->a.policy[i]))
                c->policy[c->n_policies++] = c->a.policy[i];
        for (int i = 0; i < n && !c->n_policies; i++)
            c->policy[i] = c->a.policy[i];
    }
    if (!c->n_policies)
        c->n_policies = n ? n : 1; /* a run without policies is one, without a name */
    return !e->n;
}

bool kv_compare_runs(struct kv_compared_runs *c, const char *a_path, const char *b_path, const char *const *only,
                     int n_only, struct kv_arena *a, struct kv_err *e)
{
    *c = (struct kv_compared_runs){0};
    bool good = kv_run_times_read(&c->a, a_path, a, e);
    good = kv_run_times_read(&c->b, b_path, a, e) && good;
    if (good && c->a.measured && !c->b.measured) { /* whichever way they are given, the measured one is right */
        struct kv_run_times swapped = c->a;
        const char *path = a_path;
        c->a = c->b;
        c->b = swapped;
        a_path = b_path;
        b_path = path;
    }
    if (good && c->b.n_policies > 1)
        good = kv_fail(e, KV_USAGE,
                       "'%s' holds %d policies, so it is no run to compare with; compare two results as "
                       "folders, or give a measured run",
                       c->b.path, c->b.n_policies);
    if (!good || !choose(c, a_path, only, n_only, a, e) || !kv_moments_read(&c->measured, b_path, &c->b, a, e))
        return false;
    c->matched = KV_NEW_N(a, int64_t, c->n_policies);
    c->a_ended = KV_NEW_N(a, int64_t, c->n_policies);
    c->a_all = KV_NEW_N(a, int64_t, c->n_policies);
    kv_table_open(&c->table, c->b.measured && !c->a.measured ? against : beside, COLUMNS, a);
    for (int i = 0; i < c->n_policies && good; i++) {
        for (int64_t r = 0; r < c->a.n; r++)
            c->a_all[i] += place_of(c, i) < 0 || c->a.row[r].policy == place_of(c, i);
        good = add_latencies(c, i, e) && add_errors(c, i, e) && add_curves(c, i, e);
    }
    return good;
}

void kv_compare_runs_close(struct kv_compared_runs *c)
{
    kv_run_times_close(&c->a);
    kv_run_times_close(&c->b);
    free(c->measured.at);
    c->measured.at = NULL;
}

/* ---- for people ---- */

static const char *title_of(const char *metric)
{
    for (int i = 0; i < KV_LATENCIES; i++)
        if (!strcmp(kv_latency_keys[i], metric))
            return kv_latency_titles[i];
    return metric;
}

static const char *signed_share(double share, bool with_sign, struct kv_arena *a)
{
    return isnan(share) ? "-" : kv_format(a, with_sign ? "%+.1f %%" : "%.1f %%", 100 * share);
}

static const char *real_text(double value, struct kv_arena *a)
{
    return isnan(value) ? "-" : kv_format(a, "%.4g", value);
}

/* Which of the three tables a row is of. */
enum part { LATENCIES, ERRORS, CURVES, PARTS };
static enum part part_of(const struct kv_cell *row)
{
    bool is_curve = !strcmp(row[METRIC].text, "running") || !strcmp(row[METRIC].text, "waiting");
    return is_curve ? CURVES : !strncmp(row[STATISTIC].text, by_request, sizeof by_request - 1) ? ERRORS : LATENCIES;
}

static void print_part(const struct kv_compared_runs *c, int policy, enum part part, struct kv_arena *a)
{
    bool both = c->b.measured && !c->a.measured;
    const struct kv_column columns[] = {
        {"metric",
         part == LATENCIES ? "seconds"
         : part == ERRORS  ? "|error| by request"
                           : "requests",
         KV_CELL_TEXT},
        {"statistic", "", KV_CELL_TEXT},
        {"a",
         part == ERRORS ? NULL
         : both         ? "simulated"
                        : "A",
         KV_CELL_REAL},
        {"b",
         part == ERRORS ? NULL
         : both         ? "measured"
                        : "B",
         KV_CELL_REAL},
        {"difference",
         part == LATENCIES ? NULL
         : part == ERRORS  ? "seconds"
                           : "difference",
         KV_CELL_REAL},
        {"error", part == ERRORS ? "of measured" : "error", KV_CELL_REAL},
    };
    struct kv_column shown[6];
    struct kv_table table;
    const char *last = "";
    memcpy(shown, columns, sizeof shown);
    for (int i = 2; i < 6; i++)
        shown[i].kind = KV_CELL_TEXT;
    kv_table_open(&table, shown, 6, a);
    for (int r = 0; r < c->table.n_rows; r++) {
        const struct kv_cell *from = &c->table.cell[r * COLUMNS];
        const char *statistic = from[STATISTIC].text;
        if (from[POLICY].text != c->policy[policy] || part_of(from) != part)
            continue;
        struct kv_cell *row = kv_table_row(&table);
        row[0].text = strcmp(last, from[METRIC].text) ? title_of(from[METRIC].text) : "";
        row[1].text = part == ERRORS ? statistic + sizeof by_request - 1
                      : !strncmp(statistic, curve, sizeof curve - 1)
                          ? kv_format(a, "|difference|, %s", statistic + sizeof curve - 1)
                          : statistic;
        row[2].text = real_text(from[A].real, a);
        row[3].text = real_text(from[B].real, a);
        row[4].text = real_text(from[DIFFERENCE].real, a);
        row[5].text = signed_share(from[ERROR].real, part != ERRORS, a);
        last = from[METRIC].text;
    }
    if (table.n_rows) {
        kv_table_print(&table, stdout);
        putchar('\n');
    }
}

static const char *count(int64_t n, struct kv_arena *a)
{
    char text[KV_NUMBER_TEXT];
    return kv_copy_text(a, kv_print_count(text, n));
}

void kv_compare_runs_print(const struct kv_compared_runs *c, struct kv_arena *a)
{
    bool both = c->b.measured && !c->a.measured;
    printf("%s: %s\n%s: %s, %s of %s requests ended\n", both ? "simulated" : "A", c->a.path, both ? "measured " : "B",
           c->b.path, count(c->b_ended, a), count(c->b.n, a));
    for (int i = 0; i < c->n_policies; i++) {
        printf("\n%s%s%s of %s requests ended; %s matched by lengths and order\n\n", c->policy[i] ? c->policy[i] : "",
               c->policy[i] ? ": " : "", count(c->a_ended[i], a), count(c->a_all[i], a), count(c->matched[i], a));
        for (int part = 0; part < PARTS; part++)
            print_part(c, i, (enum part)part, a);
    }
    printf("Errors are (%s; percentiles are values at rank ceil(p n).\n",
           both ? "simulated - measured) / measured" : "A - B) / B");
    if (c->b.knows_seen)
        printf(
            "A simulated request is known to the engine when it arrives, so both measured TTFTs stand beside one.\n");
    printf("Running and waiting: measured by %s, simulated at these times.\n", c->measured.path);
}

json_t *kv_compare_runs_json(const struct kv_compared_runs *c)
{
    bool both = c->b.measured && !c->a.measured;
    json_t *root = json_object(), *policies = json_array();
    json_object_set_new(root, both ? "simulated" : "a", kv_json_text(c->a.path));
    json_object_set_new(root, both ? "measured" : "b", kv_json_text(c->b.path));
    json_object_set_new(root, "moments", kv_json_text(c->measured.path));
    json_object_set_new(root, both ? "measured_requests" : "b_requests", json_integer(c->b.n));
    for (int i = 0; i < c->n_policies; i++) {
        json_t *row = json_object();
        json_object_set_new(row, "policy", kv_json_text(c->policy[i]));
        json_object_set_new(row, "requests", json_integer(c->a_all[i]));
        json_object_set_new(row, "ended_requests", json_integer(c->a_ended[i]));
        json_object_set_new(row, "matched_requests", json_integer(c->matched[i]));
        json_array_append_new(policies, row);
    }
    json_object_set_new(root, "policies", policies);
    json_object_set_new(root, "values", kv_table_json(&c->table));
    return root;
}

bool kv_compare_runs_judge(const struct kv_compared_runs *c, const struct kv_tolerance *t, struct kv_err *e)
{
    for (int r = 0; r < c->table.n_rows; r++) {
        const struct kv_cell *row = &c->table.cell[r * COLUMNS];
        const char *metric = row[METRIC].text, *statistic = row[STATISTIC].text, *name = row[POLICY].text;
        bool ttft = !strcmp(metric, "ttft_s"), other = !strcmp(metric, "tpot_s") || !strcmp(metric, "e2e_s");
        double bound = ttft ? t->ttft_error : t->error;
        if ((!ttft && !other) || isnan(bound) || (strcmp(statistic, "mean") && strcmp(statistic, "p99")))
            continue;
        const char *who = name ? kv_format(c->table.arena, "policy '%s': ", name) : "";
        if (isnan(row[ERROR].real))
            kv_fail(e, KV_NO, "%s%s, %s, cannot be judged: there are no requests it is known of", who, title_of(metric),
                    statistic);
        else if (fabs(row[ERROR].real) > bound)
            kv_fail(e, KV_NO, "%s%s, %s, is off by %+.1f %%, more than --max-%serror %g %%", who, title_of(metric),
                    statistic, 100 * row[ERROR].real, ttft ? "ttft-" : "", 100 * bound);
    }
    return !e->n;
}
