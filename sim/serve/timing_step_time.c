/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Step times from three tables of milliseconds per layer, whose keys are rounded as their headers say:
 *
 *     dense_ms_per_layer.csv         tokens_rounded_up_to_8, ms_per_layer
 *     attn_decode_ms_per_layer.csv   decode_requests, avg_kv_rounded_up_to_64, ms_per_layer
 *     attn_prefill_ms_per_layer.csv  sum_kv_rounded_up_to_64, rms_chunk, ms_per_layer
 *
 * seconds = layers x ((dense + decode) + prefill) x 1e-3, in doubles and in this order:
 *     dense    at the step's tokens, rounded up
 *     decode   at (decodes, whole part of decode_kv / decodes, rounded up); x 1.1 if more than one
 *     prefill  at (sum of each chunk's prefix rounded up, round(sqrt(sum of chunk x chunk))); x 1.1 if more than one
 * and a term without requests is 0. The lengths of decodes are those of `decode_kv`, the step's own entry included.
 * 1.1 is 1 + attention_batching_overhead. The tables are grids without gaps, indexed straight; longer chunks may have
 * fewer prefixes.
 *
 * Beyond them: dense goes on along the line through its half and its end. Attention of more decodes than the table has
 * is that of the most it has over the same KV bytes (longer ones); a longer chunk is the longest one on the prefix that
 * makes the same number of (query, key) pairs; and along lengths both go on along the line through half and end. */
#include "sim/serve/timing_kind.h"

#include "sim/csv.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_KEY = 1 << 24, MOST_CELLS = 1 << 24 };

/* (rows, columns) milliseconds at row x row_step, column x column_step. */
struct grid {
    double *ms;
    int64_t *width; /* (rows,) columns that a row has, from 0 on; never more than the row before */
    int64_t rows, columns, row_step, column_step;
    int64_t full;     /* the last row that has them all */
    int column_shift; /* column_step is 2 to it; less than 0: it is no power of two */
};

struct step_time {
    struct grid dense, decode, prefill; /* rows: tokens; (requests, length); (chunk, prefix) */
    double layers, batching;
};

/* ---- asking ---- */

/* How many steps of columns a length is, rounded up. */
static int64_t columns_up(const struct grid *g, int64_t length)
{
    int64_t all = length + g->column_step - 1;
    return g->column_shift < 0 ? all / g->column_step : all >> g->column_shift;
}

static int64_t whole_up(double x)
{
    int64_t below = (int64_t)x;
    return below + ((double)below < x);
}

/* Along a line through the row's half and its end; lengths are never cut off. */
static double beyond(const double *ms, int64_t n, double at)
{
    int64_t half = (n - 1) / 2;
    double slope = half < n - 1 ? (ms[n - 1] - ms[half]) / (double)(n - 1 - half) : 0;
    return ms[n - 1] + fmax(slope, 0) * (at - (double)(n - 1));
}

/* At a whole row of the grid. `at`: place in the row, in steps. */
static double along(const struct grid *g, int64_t row, double at)
{
    const double *ms = g->ms + row * g->columns;
    if (at > (double)(g->width[row] - 1))
        return beyond(ms, g->width[row], at);
    double below = floor(at);
    int64_t i = (int64_t)below;
    return at > below ? ms[i] + (at - below) * (ms[i + 1] - ms[i]) : ms[i];
}

static double times(double asked, int64_t steps)
{
    return asked / (double)(steps > 1 ? steps - 1 : 1);
}

static double dense_ms(const struct step_time *s, int64_t tokens, double *outside)
{
    const struct grid *g = &s->dense;
    int64_t row = (tokens + g->row_step - 1) / g->row_step;
    if (row < g->rows)
        return g->ms[row];
    *outside = fmax(*outside, times((double)row, g->rows));
    return beyond(g->ms, g->rows, (double)row);
}

/* *until: of whole lengths, the sum of those up to which the mean is rounded up alike. */
static double decode_ms(const struct step_time *s, int64_t decodes, double kv, double *outside, double *until)
{
    const struct grid *g = &s->decode;
    int64_t at = columns_up(g, (int64_t)(kv / (double)decodes)), row = decodes;
    *until = (double)((at * g->column_step + 1) * decodes - 1);
    if (decodes < g->rows && at < g->width[decodes])
        return g->ms[decodes * g->columns + at];
    if (decodes > g->full) {
        *outside = fmax(*outside, times((double)decodes, g->full + 1));
        row = g->full;
    }
    *outside = fmax(*outside, times((double)at, g->width[row]));
    return along(g, row, (double)at * (double)decodes / (double)row);
}

/* Of the longest chunk that was measured on all prefixes, on the prefix (in steps) that makes it as many pairs as
 * `size` tokens on `prefix` steps have: size x (prefix + size / 2). */
static double same_pairs_ms(const struct grid *g, double size, double prefix)
{
    double full = (double)g->full, step = (double)g->column_step;
    return along(g, g->full, size / full * (prefix + size / 2 / step) - full / 2 / step);
}

static double prefill_ms(const struct step_time *s, const struct kv_step_chunk *chunk, int64_t n, double *outside)
{
    const struct grid *g = &s->prefill;
    int64_t prefix = 0;
    double squares = 0;
    for (int64_t i = 0; i < n; i++) {
        prefix += columns_up(g, whole_up(chunk[i].prefix));
        squares += (double)chunk[i].tokens * (double)chunk[i].tokens;
    }
    int64_t size = chunk->tokens;
    if (n > 1) {
        double root = sqrt(squares);
        size = (int64_t)root;
        size += root - (double)size >= 0.5;
    }
    if (size < g->rows && prefix < g->width[size])
        return g->ms[size * g->columns + prefix];
    int64_t row = size < g->rows ? size : g->rows - 1;
    if (size <= g->full) {
        *outside = fmax(*outside, times((double)prefix, g->width[row]));
        return along(g, row, (double)prefix);
    }
    /* from the nearest cell there is, by what the pairs add */
    int64_t column = prefix < g->width[row] ? prefix : g->width[row] - 1;
    *outside = fmax(*outside, times((double)size, (prefix > column ? g->full : row) + 1));
    *outside = fmax(*outside, times((double)prefix, g->columns));
    return g->ms[row * g->columns + column] + same_pairs_ms(g, (double)size, (double)prefix) -
           same_pairs_ms(g, (double)row, (double)column);
}

static void cost(const struct kv_timing *t, const struct kv_step *step, struct kv_step_cost *out)
{
    const struct step_time *s = t->own;
    double dense = dense_ms(s, step->tokens, &out->outside), decode = 0, prefill = 0, until = 0;
    if (step->decodes > 0)
        decode =
            decode_ms(s, step->decodes, step->decode_kv, &out->outside, &until) * (step->decodes > 1 ? s->batching : 1);
    out->until = until;
    if (step->n_chunks > 0)
        prefill = prefill_ms(s, step->chunk, step->n_chunks, &out->outside) * (step->n_chunks > 1 ? s->batching : 1);
    out->sum = s->layers * (dense + decode + prefill) * 1e-3;
    out->shared = s->layers * dense * 1e-3;
    out->decode = s->layers * decode * 1e-3;
    out->prefill = s->layers * prefill * 1e-3;
}

/* ---- reading ---- */

struct row {
    int64_t key[2];
    double ms;
};

/* A column whose name begins so; the number its name ends with is what its values are multiples of. */
static int find_key(const struct kv_csv *c, const char *begin, int64_t *step, struct kv_err *e)
{
    static const char rounded[] = "_rounded_up_to_";
    *step = 1;
    for (int i = 0; i < c->n_columns; i++) {
        if (strncmp(c->name[i], begin, strlen(begin)))
            continue;
        const char *tail = strstr(c->name[i], rounded);
        long long value = tail ? atoll(tail + sizeof rounded - 1) : 1;
        *step = value;
        if (value >= 1 && value <= MOST_KEY)
            return i;
        kv_fail(e, KV_DATA, "%s:1:%d: column '%s' does not end in what its values are rounded to", c->path, c->at[i],
                c->name[i]);
        return -1;
    }
    kv_fail(e, KV_DATA, "%s:1: no column that begins with '%s'; the header must name it", c->path, begin);
    return -1;
}

static bool read_rows(struct kv_csv *c, const int *key, const int64_t *step, int keys, int value, struct row **rows,
                      int64_t *n, struct kv_err *e)
{
    int64_t room = 0;
    for (;;) {
        enum kv_next next = kv_csv_next(c, e);
        if (next != KV_NEXT_ROW)
            return next == KV_NEXT_END;
        if (*n == room) {
            room = room ? 2 * room : 1024;
            struct row *grown = room <= MOST_CELLS ? realloc(*rows, (size_t)room * sizeof **rows) : NULL;
            if (!grown)
                return kv_fail(e, KV_ENV, "no memory for %lld rows of '%s'", (long long)room, c->path);
            *rows = grown;
        }
        struct row *row = &(*rows)[(*n)++];
        *row = (struct row){.key = {0, 0}};
        for (int i = 0; i < keys; i++)
            if (!kv_csv_count(c, key[i], 0, MOST_KEY, &row->key[i], e))
                return false;
        for (int i = 0; i < keys; i++)
            if (row->key[i] % step[i])
                return kv_csv_fail(c, key[i], e, "is no multiple of what the column's name says");
        if (!kv_csv_real(c, value, 0, 1e12, &row->ms, e))
            return false;
    }
}

/* How many columns each row has; gaps are refused. */
static bool find_widths(struct grid *g, const char *path, int64_t least, struct kv_arena *a, struct kv_err *e)
{
    g->width = kv_alloc_many(a, (size_t)g->rows, sizeof *g->width, "a table of times", e);
    if (!g->width)
        return false;
    for (int64_t i = 0; i < g->rows; i++) {
        const double *ms = g->ms + i * g->columns;
        int64_t n = 0, beyond_gap;
        while (n < g->columns && !isnan(ms[n]))
            n++;
        for (beyond_gap = n; beyond_gap < g->columns && isnan(ms[beyond_gap]);)
            beyond_gap++;
        if (beyond_gap < g->columns || !n || (i > least && n > g->width[i - 1])) {
            int64_t column = beyond_gap < g->columns || !n ? n : g->width[i - 1], row = n > column ? i - 1 : i;
            return kv_fail(e, KV_DATA, "%s: no row for the keys %lld, %lld; every cell must be there", path,
                           (long long)(row * g->row_step), (long long)(column * g->column_step));
        }
        g->width[i] = i < least ? 0 : n;
        g->full = n == g->columns ? i : g->full;
    }
    return true;
}

/* The rows as a grid from 0 on in the second key, and from `least` steps on in the first. */
static bool fill(struct grid *g, const char *path, const struct row *row, int64_t n, int64_t least, struct kv_arena *a,
                 struct kv_err *e)
{
    int64_t largest[2] = {0, 0};
    for (int64_t i = 0; i < n; i++)
        for (int k = 0; k < 2; k++)
            largest[k] = row[i].key[k] > largest[k] ? row[i].key[k] : largest[k];
    g->rows = largest[0] / g->row_step + 1;
    g->columns = largest[1] / g->column_step + 1;
    if (g->rows < 2)
        return kv_fail(e, KV_DATA, "%s: no row with a key above 0; there must be at least one", path);
    if (g->rows > MOST_CELLS / g->columns)
        return kv_fail(e, KV_DATA, "%s: a grid of %lld x %lld; at most %d cells are read", path, (long long)g->rows,
                       (long long)g->columns, MOST_CELLS);
    double *ms = kv_alloc_many(a, (size_t)(g->rows * g->columns), sizeof *ms, "a table of times", e);
    if (!ms)
        return false;
    for (int64_t i = 0; i < g->rows * g->columns; i++)
        ms[i] = i / g->columns < least ? 0 : NAN;
    for (int64_t i = 0; i < n; i++) {
        double *cell = &ms[row[i].key[0] / g->row_step * g->columns + row[i].key[1] / g->column_step];
        if (row[i].key[0] / g->row_step < least)
            continue;
        if (!isnan(*cell))
            return kv_fail(e, KV_DATA, "%s: two rows for the keys %lld, %lld", path, (long long)row[i].key[0],
                           (long long)row[i].key[1]);
        *cell = row[i].ms;
    }
    g->ms = ms;
    return find_widths(g, path, least, a, e);
}

/* `first` and `second` (NULL: none) begin the names of the columns that become rows and columns of the grid. */
static bool read_grid(struct grid *g, struct kv_timing *t, const char *folder, const char *file, const char *first,
                      const char *second, struct kv_err *e)
{
    struct kv_csv c;
    struct row *row = NULL;
    int64_t n = 0, step[2] = {1, 1};
    int errors = e->n;
    const char *path = kv_format(t->arena, "%s/%s", folder, file);
    if (!kv_csv_open(&c, path, t->arena, e))
        return false;
    kv_timing_reads(t, path);
    int key[2] = {find_key(&c, first, &step[0], e), second ? find_key(&c, second, &step[1], e) : 0};
    int value = kv_csv_column(&c, "ms_per_layer");
    if (value < 0)
        kv_fail(e, KV_DATA, "%s:1: no column 'ms_per_layer'; the header must name it", path);
    bool good = e->n == errors && read_rows(&c, key, step, second ? 2 : 1, value, &row, &n, e);
    g->row_step = step[0];
    g->column_step = step[1];
    g->column_shift = step[1] & (step[1] - 1) ? -1 : __builtin_ctzll((unsigned long long)step[1]);
    good = good && fill(g, path, row, n, 1, t->arena, e);
    kv_csv_close(&c);
    free(row);
    return good;
}

/* Decodes over entries of another type: all lengths of a row at once. */
static void go_by_bytes(const struct kv_timing *t, struct grid *g)
{
    for (int64_t row = 0; row < g->rows; row++)
        for (int64_t i = g->width[row] - 1; i > 0; i--) {
            double *ms = &g->ms[row * g->columns];
            ms[i] = kv_timing_by_bytes(t, ms[0], ms[i]);
        }
}

bool kv_timing_open_step_time(struct kv_timing *t, const struct kv_model *m, const char *folder, struct kv_err *e)
{
    struct step_time *s = KV_NEW(t->arena, struct step_time);
    s->layers = (double)m->layers;
    s->batching = 1 + t->settings->timing.attention_batching_overhead;
    t->own = s;
    t->cost = cost;
    kv_timing_measured_with(t, m, KV_BF16);
    t->stamp =
        kv_format(t->arena, "table '%s': step times per layer as given, for %lld layers", folder, (long long)m->layers);
    if (!read_grid(&s->dense, t, folder, "dense_ms_per_layer.csv", "tokens", NULL, e) ||
        !read_grid(&s->decode, t, folder, "attn_decode_ms_per_layer.csv", "decode_requests", "avg_kv", e) ||
        !read_grid(&s->prefill, t, folder, "attn_prefill_ms_per_layer.csv", "rms_chunk", "sum_kv", e))
        return false;
    go_by_bytes(t, &s->decode);
    return true;
}
