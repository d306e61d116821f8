/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/request_times.h"

#include "sim/core/schema.h"
#include "sim/csv.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MOST_TOKENS = 1 << 30, MOST_POLICIES = 1024 };
static const double longest_s = 1e12; /* seconds since 1970 are fine as well */

const char *const kv_latency_keys[KV_LATENCIES] = {"ttft_s", "ttft_seen_s", "tpot_s", "e2e_s", "e2e_seen_s", "queue_s"};
const char *const kv_latency_titles[KV_LATENCIES] = {
    "TTFT from arrival", "TTFT from engine queue", "TPOT",
    "E2E from arrival",  "E2E from engine queue",  "waiting for a schedule"};

double kv_latency_of(const struct kv_request_times *r, enum kv_latency what)
{
    switch (what) {
    case KV_LATENCY_TTFT:
        return r->ttft_s;
    case KV_LATENCY_TTFT_SEEN:
        return r->ttft_s - r->seen_s;
    case KV_LATENCY_TPOT:
        return r->output > 1 ? (r->e2e_s - r->ttft_s) / (double)(r->output - 1) : NAN;
    case KV_LATENCY_E2E:
        return r->e2e_s;
    case KV_LATENCY_E2E_SEEN:
        return r->e2e_s - r->seen_s;
    case KV_LATENCY_QUEUE:
        return r->queue_s;
    case KV_LATENCIES:
        break;
    }
    return NAN;
}

/* ---- reading ---- */

/* A file's columns, needed ones first. */
enum { OURS_ARRIVAL, OURS_PROMPT, OURS_OUTPUT, OURS_QUEUE, OURS_TTFT, OURS_E2E, OURS_POLICY, OURS };
static const char *const ours[OURS] = {"arrival_s", "prompt_tokens", "output_tokens", "queue_s",
                                       "ttft_s",    "e2e_s",         "policy"};
enum { THEIRS_ARRIVAL, THEIRS_PROMPT, THEIRS_OUTPUT, THEIRS_FIRST, THEIRS_LAST, THEIRS_NEEDED };
enum { THEIRS_QUEUED = THEIRS_NEEDED, THEIRS_SCHEDULED, THEIRS };
static const char *const theirs[THEIRS] = {"arrival_s",    "input_tokens", "output_tokens", "first_token_s",
                                           "last_token_s", "queued_s",     "scheduled_s"};

/* Seconds; NaN when there is no such column or nothing in it. */
static double seconds(const struct kv_csv *in, int column, double least, struct kv_err *e)
{
    double value = NAN;
    if (column >= 0 && *in->cell[column])
        kv_csv_real(in, column, least, longest_s, &value, e);
    return value;
}

static void policy_of(struct kv_run_times *run, const struct kv_csv *in, int column, int *last, struct kv_err *e)
{
    const char *name = in->cell[column];
    if (run->n_policies && !strcmp(run->policy[*last], name))
        return;
    int i = kv_run_policy(run, name);
    if (i < 0 && run->n_policies == MOST_POLICIES) {
        kv_csv_fail(in, column, e, "is one policy too many; 1024 are read");
        return;
    }
    if (i < 0)
        run->policy[i = run->n_policies++] = kv_copy_text(run->arena, name);
    *last = i;
}

static void read_ours(const struct kv_csv *in, const int *column, struct kv_request_times *r, struct kv_err *e)
{
    r->arrival_s = seconds(in, column[OURS_ARRIVAL], 0, e);
    r->queue_s = seconds(in, column[OURS_QUEUE], 0, e);
    r->ttft_s = seconds(in, column[OURS_TTFT], 0, e);
    r->e2e_s = seconds(in, column[OURS_E2E], 0, e);
}

/* A request that failed has no times. The clocks of client and engine may differ, so no order is asked for between
 * them. */
static void read_theirs(const struct kv_csv *in, const int *column, struct kv_request_times *r, struct kv_err *e)
{
    double first = seconds(in, column[THEIRS_FIRST], -longest_s, e),
           last = seconds(in, column[THEIRS_LAST], -longest_s, e);
    double queued = seconds(in, column[THEIRS_QUEUED], -longest_s, e);
    r->arrival_s = seconds(in, column[THEIRS_ARRIVAL], -longest_s, e);
    r->queue_s = seconds(in, column[THEIRS_SCHEDULED], -longest_s, e) - r->arrival_s;
    r->ttft_s = first - r->arrival_s;
    r->e2e_s = last - r->arrival_s;
    r->seen_s = queued - r->arrival_s;
    if (last < first)
        kv_csv_fail(in, column[THEIRS_LAST], e, "is before first_token_s");
}

static bool read_row(struct kv_run_times *run, const struct kv_csv *in, const int *column, int *last, struct kv_err *e)
{
    struct kv_request_times *r = &run->row[run->n];
    int errors = e->n;
    *r = (struct kv_request_times){.policy = run->measured ? -1 : 0};
    kv_csv_count(in, column[run->measured ? THEIRS_PROMPT : OURS_PROMPT], 0, MOST_TOKENS, &r->prompt, e);
    kv_csv_count(in, column[run->measured ? THEIRS_OUTPUT : OURS_OUTPUT], 0, MOST_TOKENS, &r->output, e);
    if (run->measured) {
        read_theirs(in, column, r, e);
    } else {
        policy_of(run, in, column[OURS_POLICY], last, e);
        read_ours(in, column, r, e);
        r->policy = *last;
    }
    if (e->n == errors && isnan(r->arrival_s))
        kv_csv_fail(in, column[0], e, "is no time; every request arrives");
    return e->n == errors;
}

/* Which of the two kinds a header is of. */
static bool bind(struct kv_run_times *run, const struct kv_csv *in, int *column, struct kv_err *e)
{
    bool is_ours = kv_csv_column(in, "ttft_s") >= 0 || kv_csv_column(in, "e2e_s") >= 0;
    run->measured = !is_ours && (kv_csv_column(in, "first_token_s") >= 0 || kv_csv_column(in, "last_token_s") >= 0);
    if (!is_ours && !run->measured)
        return kv_fail(e, KV_DATA,
                       "%s:1: no times of requests; a simulated run has columns ttft_s and e2e_s ('kvsim plan' with "
                       "traffic writes them), a measured one first_token_s and last_token_s",
                       in->path);
    return is_ours ? kv_csv_bind(in, ours, OURS, OURS, column, e)
                   : kv_csv_bind(in, theirs, THEIRS_NEEDED, THEIRS, column, e);
}

static bool grow(struct kv_run_times *run, int64_t *room, struct kv_err *e)
{
    if (run->n < *room)
        return true;
    int64_t more = *room ? 2 * *room : 1024;
    struct kv_request_times *row = realloc(run->row, sizeof *row * (size_t)more);
    if (!row)
        return kv_fail(e, KV_ENV, "no memory for the %lld requests of '%s'", (long long)more, run->path);
    run->row = row;
    *room = more;
    return true;
}

static void from_first_arrival(struct kv_run_times *run)
{
    double first = INFINITY;
    for (int64_t i = 0; i < run->n; i++)
        first = fmin(first, run->row[i].arrival_s);
    for (int64_t i = 0; i < run->n; i++)
        run->row[i].arrival_s -= first;
}

bool kv_run_times_read(struct kv_run_times *run, const char *path, struct kv_arena *a, struct kv_err *e)
{
    struct stat st;
    struct kv_csv in;
    int column[OURS + THEIRS], last = 0;
    int64_t room = 0;
    *run = (struct kv_run_times){.path = path, .arena = a, .policy = KV_NEW_N(a, const char *, MOST_POLICIES)};
    if (!stat(path, &st) && S_ISDIR(st.st_mode))
        run->path = kv_format(a, "%s/requests.csv", path);
    if (!kv_csv_open(&in, run->path, a, e))
        return false;
    bool good = bind(run, &in, column, e);
    enum kv_next next = KV_NEXT_ROW;
    run->knows_seen = good && run->measured && column[THEIRS_QUEUED] >= 0;
    while (good && e->n <= KV_ERR_LINES && (next = kv_csv_next(&in, e)) != KV_NEXT_END) {
        good = grow(run, &room, e);
        if (good && next == KV_NEXT_ROW && read_row(run, &in, column, &last, e))
            run->n++;
    }
    kv_csv_close(&in);
    if (good && !e->n && !run->n)
        kv_fail(e, KV_DATA, "%s: no requests in it", run->path);
    from_first_arrival(run);
    return !e->n;
}

void kv_run_times_close(struct kv_run_times *run)
{
    free(run->row);
    run->row = NULL;
    run->n = 0;
}

int kv_run_policy(const struct kv_run_times *run, const char *name)
{
    for (int i = 0; i < run->n_policies; i++)
        if (!strcmp(run->policy[i], name))
            return i;
    return -1;
}

/* ---- values in order ---- */

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void kv_sort_values(double *value, int64_t n)
{
    if (n > 1)
        qsort(value, (size_t)n, sizeof *value, ascending);
}

double *kv_run_sorted(const struct kv_run_times *run, int policy, enum kv_latency what, int64_t *n, struct kv_err *e)
{
    double *value = malloc(sizeof *value * (size_t)(run->n + 1));
    *n = 0;
    if (!value) {
        kv_fail(e, KV_ENV, "no memory for the %lld values of '%s'", (long long)run->n, run->path);
        return NULL;
    }
    for (int64_t i = 0; i < run->n; i++) {
        double x = kv_latency_of(&run->row[i], what);
        if ((policy < 0 || run->row[i].policy == policy) && !isnan(x))
            value[(*n)++] = x;
    }
    kv_sort_values(value, *n);
    return value;
}

double kv_at_rank(const double *sorted, int64_t n, double share)
{
    int64_t rank = (int64_t)ceil(share * (double)n - 1e-9); /* 0.07 x 100 is a little more than 7 */
    return sorted[rank < 1 ? 0 : rank > n ? n - 1 : rank - 1];
}
