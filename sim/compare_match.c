/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Which requests of two runs are the same, and what ran and waited at a moment. */
#include "sim/compare.h"
#include "sim/csv.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- pairs ---- */

static int by_arrival(const struct kv_request_times *a, const struct kv_request_times *b)
{
    int order = (a->arrival_s > b->arrival_s) - (a->arrival_s < b->arrival_s);
    return order ? order : (a > b) - (a < b);
}

static int by_lengths(const struct kv_request_times *a, const struct kv_request_times *b)
{
    if (a->prompt != b->prompt)
        return a->prompt < b->prompt ? -1 : 1;
    return (a->output > b->output) - (a->output < b->output);
}

static int row_order(const void *x, const void *y)
{
    const struct kv_request_times *a = *(const struct kv_request_times *const *)x,
                                  *b = *(const struct kv_request_times *const *)y;
    int order = by_lengths(a, b);
    return order ? order : by_arrival(a, b);
}

static int pair_order(const void *x, const void *y)
{
    return by_arrival(((const struct kv_pair *)x)->b, ((const struct kv_pair *)y)->b);
}

/* Rows of a policy (-1: all) by lengths, then arrival. */
static const struct kv_request_times **sorted_rows(const struct kv_run_times *run, int policy, int64_t *n,
                                                   struct kv_err *e)
{
    const struct kv_request_times **row = malloc(sizeof(const struct kv_request_times *) * (size_t)(run->n + 1));
    *n = 0;
    if (!row) {
        kv_fail(e, KV_ENV, "no memory for the %lld requests of '%s'", (long long)run->n, run->path);
        return NULL;
    }
    for (int64_t i = 0; i < run->n; i++)
        if (policy < 0 || run->row[i].policy == policy)
            row[(*n)++] = &run->row[i];
    qsort(row, (size_t)*n, sizeof(const struct kv_request_times *), row_order);
    return row;
}

struct kv_pair *kv_match_requests(const struct kv_run_times *a, int policy, const struct kv_run_times *b, int64_t *n,
                                  struct kv_err *e)
{
    int64_t n_a = 0, n_b = 0;
    const struct kv_request_times **in_a = sorted_rows(a, policy, &n_a, e), **in_b = sorted_rows(b, -1, &n_b, e);
    struct kv_pair *pair = malloc(sizeof *pair * (size_t)(n_b + 1));
    bool good = in_a && in_b && pair;
    *n = 0;
    if (!pair)
        kv_fail(e, KV_ENV, "no memory for %lld pairs of requests", (long long)n_b);
    for (int64_t i = 0, j = 0; good && i < n_a && j < n_b;) {
        int order = by_lengths(in_a[i], in_b[j]);
        if (!order)
            pair[(*n)++] = (struct kv_pair){in_a[i], in_b[j]};
        i += order <= 0;
        j += order >= 0;
    }
    free(in_a);
    free(in_b);
    if (!good) {
        free(pair);
        return NULL;
    }
    qsort(pair, (size_t)*n, sizeof *pair, pair_order);
    return pair;
}

/* ---- moments ---- */

/* How many of n ascending times are not behind t. */
static int64_t until(const double *time, int64_t n, double t)
{
    int64_t low = 0, high = n;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (time[middle] <= t)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool kv_moments_of_run(const struct kv_run_times *run, int policy, const struct kv_moments *when, struct kv_moment *out,
                       struct kv_err *e)
{
    enum { CAME, BEGAN, ENDED, KINDS };
    double *time[KINDS] = {NULL};
    int64_t n[KINDS] = {0};
    for (int k = 0; k < KINDS; k++)
        time[k] = malloc(sizeof *time[k] * (size_t)(run->n + 1));
    bool good = time[CAME] && time[BEGAN] && time[ENDED];
    if (!good)
        kv_fail(e, KV_ENV, "no memory for the %lld requests of '%s'", (long long)run->n, run->path);
    for (int64_t i = 0; good && i < run->n; i++) {
        const struct kv_request_times *r = &run->row[i];
        double at[KINDS] = {r->arrival_s, r->arrival_s + r->queue_s, r->arrival_s + r->e2e_s};
        if ((policy >= 0 && r->policy != policy) || (isnan(r->queue_s) && isnan(r->e2e_s)))
            continue; /* it was refused, or nothing is known of it */
        if (isnan(at[BEGAN]))
            at[BEGAN] = r->arrival_s;
        for (int k = 0; k < KINDS; k++)
            if (!isnan(at[k]))
                time[k][n[k]++] = at[k];
    }
    for (int k = 0; good && k < KINDS; k++)
        kv_sort_values(time[k], n[k]);
    for (int64_t i = 0; good && i < when->n; i++) {
        double t = when->at[i].t_s;
        int64_t began = until(time[BEGAN], n[BEGAN], t);
        out[i] = (struct kv_moment){t, began - until(time[ENDED], n[ENDED], t), until(time[CAME], n[CAME], t) - began};
    }
    for (int k = 0; k < KINDS; k++)
        free(time[k]);
    return good;
}

static bool add_moment(struct kv_moments *m, struct kv_moment moment, int64_t *room, struct kv_err *e)
{
    if (m->n == *room) {
        int64_t more = *room ? 2 * *room : 256;
        struct kv_moment *at = realloc(m->at, sizeof *at * (size_t)more);
        if (!at)
            return kv_fail(e, KV_ENV, "no memory for the %lld moments of '%s'", (long long)more, m->path);
        m->at = at;
        *room = more;
    }
    m->at[m->n++] = moment;
    return true;
}

static bool read_series(struct kv_moments *m, struct kv_arena *a, struct kv_err *e)
{
    static const char *const names[] = {"t", "running", "waiting"};
    struct kv_csv in;
    int column[3];
    int64_t room = 0;
    enum kv_next next;
    if (!kv_csv_open(&in, m->path, a, e))
        return false;
    bool good = kv_csv_bind(&in, names, 3, 3, column, e);
    while (good && e->n <= KV_ERR_LINES && (next = kv_csv_next(&in, e)) != KV_NEXT_END) {
        struct kv_moment at = {0};
        if (next == KV_NEXT_ROW && kv_csv_real(&in, column[0], -1e12, 1e12, &at.t_s, e) &&
            kv_csv_count(&in, column[1], 0, INT32_MAX, &at.running, e) &&
            kv_csv_count(&in, column[2], 0, INT32_MAX, &at.waiting, e)) {
            if (m->n && at.t_s < m->at[m->n - 1].t_s)
                kv_csv_fail(&in, column[0], e, "is before the row above");
            else
                good = add_moment(m, at, &room, e);
        }
    }
    kv_csv_close(&in);
    return !e->n;
}

bool kv_moments_read(struct kv_moments *m, const char *path, const struct kv_run_times *run, struct kv_arena *a,
                     struct kv_err *e)
{
    enum { MOST_SECONDS = 1000000 };
    int64_t room = 0;
    double last = 0;
    *m = (struct kv_moments){.path = kv_format(a, "%s/timeseries.csv", path)};
    if (!access(m->path, F_OK))
        return read_series(m, a, e);
    m->path = run->path;
    for (int64_t i = 0; i < run->n; i++)
        last = fmax(last, run->row[i].arrival_s + run->row[i].e2e_s);
    double step = last > MOST_SECONDS ? ceil(last / MOST_SECONDS) : 1;
    for (int64_t i = 1; (double)i * step <= last + step; i++)
        if (!add_moment(m, (struct kv_moment){.t_s = (double)i * step}, &room, e))
            return false;
    return kv_moments_of_run(run, -1, m, m->at, e);
}
