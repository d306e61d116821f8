/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Two results of ours: policies.csv of both, policy by policy and column by column. What the columns mean does not
 * matter here, so results of plans, with traffic or without, and of replays are compared alike. */
#include "sim/compare.h"
#include "sim/core/units.h"
#include "sim/csv.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_ROWS = 100000 };
enum { POLICY, COLUMN, A, B, DIFFERENCE, ERROR, COLUMNS };
static const struct kv_column columns[COLUMNS] = {
    {"policy", NULL, KV_CELL_TEXT}, {"column", NULL, KV_CELL_TEXT},     {"a", NULL, KV_CELL_TEXT},
    {"b", NULL, KV_CELL_TEXT},      {"difference", NULL, KV_CELL_REAL}, {"relative_difference", NULL, KV_CELL_SHARE},
};

struct side {
    const char *path, **column, ***row; /* column: (n_columns,); row: (n, n_columns) cells */
    int n_columns, policy, chunk;       /* places of the columns, or -1 */
    int n;
};

static bool read_side(struct side *s, const char *folder, struct kv_arena *a, struct kv_err *e)
{
    struct kv_csv in;
    int room = 0;
    enum kv_next next;
    *s = (struct side){.path = kv_format(a, "%s/policies.csv", folder)};
    if (!kv_csv_open(&in, s->path, a, e))
        return false;
    s->n_columns = in.n_columns;
    s->column = in.name;
    s->policy = kv_csv_column(&in, "policy");
    s->chunk = kv_csv_column(&in, "chunk_tokens");
    if (s->policy < 0)
        kv_fail(e, KV_DATA, "%s:1: no column 'policy'; it is no result of kvsim", s->path);
    while (!e->n && (next = kv_csv_next(&in, e)) != KV_NEXT_END) {
        if (next == KV_NEXT_BAD || s->n == MOST_ROWS)
            continue;
        if (s->n == room) {
            const char ***more = KV_NEW_N(a, const char **, room ? 2 * room : 64);
            if (s->n)
                memcpy(more, s->row, sizeof *more * (size_t)s->n);
            s->row = more;
            room = room ? 2 * room : 64;
        }
        const char **cell = s->row[s->n++] = KV_NEW_N(a, const char *, s->n_columns);
        for (int i = 0; i < s->n_columns; i++)
            cell[i] = kv_copy_text(a, in.cell[i]);
    }
    kv_csv_close(&in);
    return !e->n;
}

static const char *chunk_of(const struct side *s, int row)
{
    return s->chunk < 0 ? "" : s->row[row][s->chunk];
}

static bool same_key(const struct side *s, int i, const struct side *t, int j)
{
    return !strcmp(s->row[i][s->policy], t->row[j][t->policy]) && !strcmp(chunk_of(s, i), chunk_of(t, j));
}

/* The row of t that is row i of s: the k-th of its policy and chunk is the k-th there; -1: none. */
static int counterpart(const struct side *s, int i, const struct side *t)
{
    int k = 0;
    for (int j = 0; j < i; j++)
        k += same_key(s, i, s, j);
    for (int j = 0; j < t->n; j++)
        if (same_key(s, i, t, j) && !k--)
            return j;
    return -1;
}

static const char *name_of(const struct side *s, int row, struct kv_arena *a)
{
    const char *chunk = chunk_of(s, row);
    bool alone = true;
    for (int i = 0; i < s->n; i++)
        alone &= i == row || strcmp(s->row[i][s->policy], s->row[row][s->policy]);
    return *chunk && !alone ? kv_format(a, "%s, chunk %s", s->row[row][s->policy], chunk) : s->row[row][s->policy];
}

static int find_column(const struct side *s, const char *name)
{
    for (int i = 0; i < s->n_columns; i++)
        if (!strcmp(s->column[i], name))
            return i;
    return -1;
}

static double number_of(const char *text)
{
    char *end;
    double value = strtod(text, &end);
    return *text && !*end && isfinite(value) ? value : NAN;
}

static void add_row(struct kv_compared_results *c, const char *policy, const char *column, const char *a, const char *b)
{
    struct kv_cell *row = kv_table_row(&c->table);
    double x = number_of(a), y = number_of(b);
    row[POLICY].text = policy;
    row[COLUMN].text = column;
    row[A].text = a;
    row[B].text = b;
    row[DIFFERENCE].real = strcmp(a, b) ? y - x : isnan(x) ? NAN : 0;
    row[ERROR].real = strcmp(a, b) ? x != 0 ? (y - x) / fabs(x) : y == 0 ? 0 : NAN : isnan(x) ? NAN : 0;
    c->n_differ += strcmp(a, b) && row[DIFFERENCE].real != 0;
}

static const char *listed(const char *list, const char *name, struct kv_arena *a)
{
    return kv_format(a, "%s%s%s", list, *list ? ", " : "", name);
}

bool kv_compare_results(struct kv_compared_results *c, const char *a_path, const char *b_path, struct kv_arena *a,
                        struct kv_err *e)
{
    struct side x, y;
    bool good = read_side(&x, a_path, a, e);
    *c = (struct kv_compared_results){
        .a = a_path, .b = b_path, .only_a = "", .only_b = "", .columns_a = "", .columns_b = ""};
    if (!read_side(&y, b_path, a, e) || !good)
        return false;
    kv_table_open(&c->table, columns, COLUMNS, a);
    for (int i = 0; i < x.n; i++) {
        int j = counterpart(&x, i, &y);
        const char *name = name_of(&x, i, a);
        c->n_policies += j >= 0;
        if (j < 0)
            c->only_a = listed(c->only_a, name, a);
        for (int k = 0; j >= 0 && k < x.n_columns; k++) {
            int at = find_column(&y, x.column[k]);
            if (at >= 0 && k != x.policy && k != x.chunk)
                add_row(c, name, x.column[k], x.row[i][k], y.row[j][at]);
        }
    }
    for (int j = 0; j < y.n; j++)
        if (counterpart(&y, j, &x) < 0)
            c->only_b = listed(c->only_b, name_of(&y, j, a), a);
    for (int k = 0; k < x.n_columns; k++)
        if (find_column(&y, x.column[k]) < 0)
            c->columns_a = listed(c->columns_a, x.column[k], a);
    for (int k = 0; k < y.n_columns; k++)
        if (find_column(&x, y.column[k]) < 0)
            c->columns_b = listed(c->columns_b, y.column[k], a);
    if (c->n_policies)
        return true;
    return kv_fail(e, KV_DATA, "'%s' and '%s' have no policy in common, at the same chunk", a_path, b_path);
}

/* ---- for people ---- */

static const char *shown(const char *column, const char *text, struct kv_arena *a)
{
    char number[KV_NUMBER_TEXT];
    size_t n = strlen(column);
    double value = number_of(text);
    if (!*text)
        return "-";
    if (isnan(value))
        return text;
    if (n > 6 && !strcmp(column + n - 6, "_bytes") && fabs(value) < 9e18)
        return kv_copy_text(a, kv_print_bytes(number, llrint(value)));
    return value == floor(value) && fabs(value) < 1e15 ? kv_format(a, "%.0f", value) : kv_format(a, "%.4g", value);
}

void kv_compare_results_print(const struct kv_compared_results *c, struct kv_arena *a)
{
    static const struct kv_column for_people[] = {
        {"policy", "policy", KV_CELL_TEXT}, {"column", "what", KV_CELL_TEXT}, {"a", "A", KV_CELL_TEXT},
        {"b", "B", KV_CELL_TEXT},           {"error", "B - A", KV_CELL_TEXT},
    };
    struct kv_table table;
    const char *last = "";
    printf("A: %s\nB: %s\n", c->a, c->b);
    kv_table_open(&table, for_people, sizeof for_people / sizeof *for_people, a);
    for (int r = 0; r < c->table.n_rows; r++) {
        const struct kv_cell *from = &c->table.cell[r * COLUMNS];
        if (!strcmp(from[A].text, from[B].text) || from[DIFFERENCE].real == 0)
            continue;
        struct kv_cell *row = kv_table_row(&table);
        row[0].text = strcmp(last, from[POLICY].text) ? from[POLICY].text : "";
        row[1].text = from[COLUMN].text;
        row[2].text = shown(row[1].text, from[A].text, a);
        row[3].text = shown(row[1].text, from[B].text, a);
        row[4].text = isnan(from[ERROR].real) ? "-" : kv_format(a, "%+.1f %%", 100 * from[ERROR].real);
        last = from[POLICY].text;
    }
    if (table.n_rows) {
        putchar('\n');
        kv_table_print(&table, stdout);
    }
    printf("\n%lld of %d values differ, of %d polic%s in both%s\n", (long long)c->n_differ, c->table.n_rows,
           c->n_policies, c->n_policies == 1 ? "y" : "ies",
           c->n_differ ? "; those that do not are in --csv and --json" : "");
    if (*c->only_a)
        printf("Policies in A alone: %s\n", c->only_a);
    if (*c->only_b)
        printf("Policies in B alone: %s\n", c->only_b);
    if (*c->columns_a)
        printf("Columns in A alone: %s\n", c->columns_a);
    if (*c->columns_b)
        printf("Columns in B alone: %s\n", c->columns_b);
}

json_t *kv_compare_results_json(const struct kv_compared_results *c)
{
    json_t *root = json_object();
    json_object_set_new(root, "a", kv_json_text(c->a));
    json_object_set_new(root, "b", kv_json_text(c->b));
    json_object_set_new(root, "policies", json_integer(c->n_policies));
    json_object_set_new(root, "differ", json_integer(c->n_differ));
    json_object_set_new(root, "policies_in_a_alone", kv_json_text(c->only_a));
    json_object_set_new(root, "policies_in_b_alone", kv_json_text(c->only_b));
    json_object_set_new(root, "columns_in_a_alone", kv_json_text(c->columns_a));
    json_object_set_new(root, "columns_in_b_alone", kv_json_text(c->columns_b));
    json_object_set_new(root, "values", kv_table_json(&c->table));
    return root;
}

/* ---- the answer ---- */

/* The bound of a column, NAN: none. Results that know no times are judged by all they know. */
static double bound_of(const struct kv_compared_results *c, const char *column, const struct kv_tolerance *t)
{
    static const char *const judged[] = {"tpot_mean_s", "tpot_p99_s", "e2e_mean_s", "e2e_p99_s"}, *const first[] = {
                                                                                                      "ttft_mean_s",
                                                                                                      "ttft_p99_s"};
    bool times = false;
    for (int r = 0; r < c->table.n_rows && !times; r++)
        times = !strcmp(c->table.cell[r * COLUMNS + COLUMN].text, judged[0]);
    for (size_t i = 0; i < sizeof judged / sizeof *judged; i++)
        if (!strcmp(column, judged[i]))
            return t->error;
    for (size_t i = 0; i < sizeof first / sizeof *first; i++)
        if (!strcmp(column, first[i]))
            return t->ttft_error;
    return times ? NAN : t->error;
}

bool kv_compare_results_judge(const struct kv_compared_results *c, const struct kv_tolerance *t, struct kv_err *e)
{
    bool asked = !isnan(t->error) || !isnan(t->ttft_error);
    for (int r = 0; r < c->table.n_rows; r++) {
        const struct kv_cell *row = &c->table.cell[r * COLUMNS];
        double bound = bound_of(c, row[COLUMN].text, t);
        if (isnan(bound) || !strcmp(row[A].text, row[B].text) || fabs(row[ERROR].real) <= bound)
            continue;
        if (isnan(row[ERROR].real))
            kv_fail(e, KV_NO, "policy '%s': %s is '%s' in A and '%s' in B", row[POLICY].text, row[COLUMN].text,
                    row[A].text, row[B].text);
        else
            kv_fail(e, KV_NO, "policy '%s': %s differs by %+.1f %%, more than %g %%", row[POLICY].text,
                    row[COLUMN].text, 100 * row[ERROR].real, 100 * bound);
    }
    if (asked && (*c->only_a || *c->only_b))
        kv_fail(e, KV_NO, "policies of one alone: %s%s%s", c->only_a, *c->only_a && *c->only_b ? ", " : "", c->only_b);
    return !e->n;
}
