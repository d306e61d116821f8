/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/serve/ragged.h"

#include <math.h>
#include <stdlib.h>

enum { MOST_ROWS = 1 << 24, MOST_CURVE = 1 << 22 };

bool kv_ragged_add(struct kv_ragged *r, const int64_t *key, double value, int64_t line, struct kv_err *e)
{
    if (r->n_rows == r->room) {
        int64_t room = r->room ? 2 * r->room : 256;
        struct kv_ragged_row *grown = room <= MOST_ROWS ? realloc(r->row, (size_t)room * sizeof *grown) : NULL;
        if (!grown)
            return kv_fail(e, KV_ENV, "no memory for a table of %lld rows", (long long)room);
        r->row = grown;
        r->room = room;
    }
    struct kv_ragged_row *row = &r->row[r->n_rows++];
    *row = (struct kv_ragged_row){.value = value, .line = line};
    for (int k = 0; k < r->keys; k++)
        row->key[k] = key[k];
    return true;
}

void kv_ragged_drop(struct kv_ragged *r)
{
    free(r->row);
    r->row = NULL;
    r->room = 0;
}

/* The first key in which two rows differ, or KV_RAGGED_KEYS. */
static int differ(const struct kv_ragged_row *a, const struct kv_ragged_row *b)
{
    int k = 0;
    while (k < KV_RAGGED_KEYS && a->key[k] == b->key[k])
        k++;
    return k;
}

static int by_keys(const void *first, const void *second)
{
    const struct kv_ragged_row *a = first, *b = second;
    int k = differ(a, b);
    if (k == KV_RAGGED_KEYS)
        return a->line < b->line ? -1 : a->line > b->line;
    return a->key[k] < b->key[k] ? -1 : 1;
}

static bool make_levels(struct kv_ragged *r, struct kv_arena *a, struct kv_err *e)
{
    for (int k = 0; k < r->keys; k++) {
        size_t n = 0;
        for (int64_t i = 0; i < r->n_rows; i++)
            n += !i || differ(&r->row[i - 1], &r->row[i]) <= k;
        r->at[k] = kv_alloc_many(a, n, sizeof *r->at[k], "a table of times", e);
        r->child[k] = kv_alloc_many(a, n + 1, sizeof *r->child[k], "a table of times", e);
        r->least[k] = kv_alloc_many(a, n, sizeof *r->least[k], "a table of times", e);
        if (!r->at[k] || !r->child[k] || !r->least[k])
            return false;
    }
    r->value = kv_alloc_many(a, (size_t)r->n_rows, sizeof *r->value, "a table of times", e);
    return r->value;
}

/* Of the entries first .. end - 1 of a level, of which all but the ends can be passed over. */
static double greatest_least(const struct kv_ragged *r, int k, int64_t first, int64_t end)
{
    return k + 1 < r->keys ? fmax(r->least[k][first], r->least[k][end - 1]) : r->at[k][first];
}

bool kv_ragged_build(struct kv_ragged *r, const char *path, struct kv_arena *a, struct kv_err *e)
{
    bool good = r->n_rows > 0 || kv_fail(e, KV_DATA, "%s: no rows; a table needs at least one", path);
    if (good)
        qsort(r->row, (size_t)r->n_rows, sizeof *r->row, by_keys);
    good = good && make_levels(r, a, e);
    for (int64_t i = 0; good && i < r->n_rows; i++) {
        int from = i ? differ(&r->row[i - 1], &r->row[i]) : 0;
        if (from >= r->keys)
            good = kv_fail(e, KV_DATA, "%s:%lld: the keys of line %lld again", path, (long long)r->row[i].line,
                           (long long)r->row[i - 1].line);
        for (int k = from; good && k < r->keys; k++) {
            r->at[k][r->n[k]] = (double)r->row[i].key[k];
            r->child[k][r->n[k]++] = k + 1 < r->keys ? r->n[k + 1] : 0;
        }
        r->value[i] = r->row[i].value;
    }
    for (int k = r->keys - 2; good && k >= 0; k--) {
        r->child[k][r->n[k]] = r->n[k + 1];
        for (int64_t i = 0; i < r->n[k]; i++)
            r->least[k][i] = greatest_least(r, k + 1, r->child[k][i], r->child[k][i + 1]);
    }
    kv_ragged_drop(r);
    return good;
}

/* The last of at[first .. last] that is not above x; `first` when all are. */
static int64_t find(const double *at, int64_t first, int64_t last, double x)
{
    while (first < last) {
        int64_t middle = first + (last - first + 1) / 2;
        if (at[middle] <= x)
            first = middle;
        else
            last = middle - 1;
    }
    return first;
}

static double pairs(double chunk, double prefix)
{
    return chunk * (prefix + chunk / 2);
}

/* What an axis is linear in. `next`: what is asked of the key after it. */
static double measure(enum kv_axis_law law, double x, double next)
{
    return law == KV_AXIS_PAIRS ? pairs(x, next) : law == KV_AXIS_SQUARES ? x * x : x;
}

static double value_at(const struct kv_ragged *r, int k, int64_t entry, const double *x, double *outside);

/* Neighbours *i < *j that have last keys from x on, where there are such on either side. */
static void pass_over(const struct kv_ragged *r, int k, int64_t first, int64_t last, double x, int64_t *i, int64_t *j)
{
    int64_t low = *i, high = *j;
    while (low > first && r->least[k][low] > x)
        low--;
    while (high < last && r->least[k][high] > x)
        high++;
    *i = r->least[k][low] > x ? *i : low;
    *j = r->least[k][high] > x ? *j : high;
}

/* Beyond the only key of a slice: time in proportion, of pairs where it is the prefix of a chunk. */
static double alone(const struct kv_ragged *r, int k, double key, const double *x, double *outside)
{
    bool prefix = k > 0 && r->law[k - 1] == KV_AXIS_PAIRS;
    double more = prefix ? pairs(x[k - 1], x[k]) / pairs(x[k - 1], key)
                         : measure(r->law[k], x[k], 0) / measure(r->law[k], key, 0);
    *outside = fmax(*outside, more);
    return isfinite(more) ? more : 1;
}

static double at_level(const struct kv_ragged *r, int k, int64_t first, int64_t end, const double *x, double *outside)
{
    const double *at = r->at[k], next = k + 1 < r->keys ? x[k + 1] : 0;
    enum kv_axis_law law = r->law[k];
    int64_t last = end - 1, i = find(at, first, last, x[k]);
    if (x[k] <= at[i])
        return value_at(r, k, i, x, outside);
    if (i < last) {
        int64_t j = i + 1;
        if (k + 1 < r->keys)
            pass_over(r, k, first, last, x[r->keys - 1], &i, &j);
        double low = value_at(r, k, i, x, outside), high = value_at(r, k, j, x, outside),
               from = measure(law, at[i], next);
        return low + (measure(law, x[k], next) - from) / (measure(law, at[j], next) - from) * (high - low);
    }
    if (first == last && (law == KV_AXIS_LINEAR || law == KV_AXIS_SQUARES))
        return value_at(r, k, last, x, outside) * alone(r, k, at[last], x, outside);
    *outside = fmax(*outside, x[k] / at[last]);
    if (law == KV_AXIS_LINEAR || law == KV_AXIS_SQUARES) {
        int64_t half = find(at, first, last, at[last] / 2);
        double high = value_at(r, k, last, x, outside), run = measure(law, at[last], 0) - measure(law, at[half], 0);
        double slope = (high - value_at(r, k, half, x, outside)) / run;
        return high + fmax(slope, 0) * (measure(law, x[k], 0) - measure(law, at[last], 0));
    }
    double same[KV_RAGGED_KEYS] = {0}, ignored = 1, more = x[k] / at[last];
    for (int j = 0; j < r->keys; j++)
        same[j] = x[j];
    same[k] = at[last];
    same[k + 1] = law == KV_AXIS_BYTES ? x[k + 1] * more : more * (x[k + 1] + x[k] / 2) - at[last] / 2;
    value_at(r, k, last, x, outside); /* whether the next keys are beyond, too */
    return value_at(r, k, last, same, &ignored);
}

static double value_at(const struct kv_ragged *r, int k, int64_t entry, const double *x, double *outside)
{
    if (k + 1 == r->keys)
        return r->value[entry];
    return at_level(r, k + 1, r->child[k][entry], r->child[k][entry + 1], x, outside);
}

double kv_ragged_at(const struct kv_ragged *r, const double *x, double *outside)
{
    return at_level(r, 0, 0, r->n[0], x, outside);
}

bool kv_curve_build(struct kv_curve *c, const struct kv_ragged *r, struct kv_arena *a, struct kv_err *e)
{
    double last = r->at[0][r->n[0] - 1];
    KV_ASSERT(r->keys == 1);
    if (last >= MOST_CURVE)
        return kv_fail(e, KV_DATA, "a table goes up to %.0f; at most %d is read", last, MOST_CURVE - 1);
    c->n = (int64_t)last + 1;
    c->value = kv_alloc_many(a, (size_t)c->n, sizeof *c->value, "a table of times", e);
    for (int64_t i = 0; c->value && i < c->n; i++) {
        double x[KV_RAGGED_KEYS] = {(double)i}, outside = 1;
        c->value[i] = kv_ragged_at(r, x, &outside);
    }
    return c->value;
}

double kv_curve_at(const struct kv_curve *c, int64_t x, double *outside)
{
    int64_t last = c->n - 1, half = last / 2;
    if (x <= last)
        return c->value[x];
    *outside = fmax(*outside, (double)x / (double)(last ? last : 1));
    double slope = last ? (c->value[last] - c->value[half]) / (double)(last - half) : 0;
    return c->value[last] + fmax(slope, 0) * (double)(x - last);
}
