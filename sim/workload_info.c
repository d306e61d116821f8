/* SPDX-License-Identifier: GPL-3.0-or-later */
/* `kvsim workload info`. */
#include "sim/core/units.h"
#include "sim/table.h"
#include "sim/workload/facts.h"
#include "sim/workload_verbs.h"

#include <math.h>
#include <string.h>

static const struct kv_column columns[] = {
    {"workload", NULL, KV_CELL_TEXT},
    {"format", NULL, KV_CELL_TEXT},
    {"requests", NULL, KV_CELL_COUNT},
    {"skipped", NULL, KV_CELL_COUNT},
    {"span_s", NULL, KV_CELL_REAL},
    {"rate_per_s", NULL, KV_CELL_REAL},
    {"gap_mean_s", NULL, KV_CELL_REAL},
    {"gap_cv", NULL, KV_CELL_REAL},
    {"prompt_mean_tokens", NULL, KV_CELL_REAL},
    {"prompt_p50_tokens", NULL, KV_CELL_COUNT},
    {"prompt_p90_tokens", NULL, KV_CELL_COUNT},
    {"prompt_p99_tokens", NULL, KV_CELL_COUNT},
    {"prompt_max_tokens", NULL, KV_CELL_COUNT},
    {"output_mean_tokens", NULL, KV_CELL_REAL},
    {"output_p50_tokens", NULL, KV_CELL_COUNT},
    {"output_p90_tokens", NULL, KV_CELL_COUNT},
    {"output_p99_tokens", NULL, KV_CELL_COUNT},
    {"output_max_tokens", NULL, KV_CELL_COUNT},
    {"sessions", NULL, KV_CELL_COUNT},
    {"turns_mean", NULL, KV_CELL_REAL},
    {"turns_max", NULL, KV_CELL_COUNT},
    {"wait_mean_s", NULL, KV_CELL_REAL},
    {"block_tokens", NULL, KV_CELL_COUNT},
    {"blocks", NULL, KV_CELL_COUNT},
    {"distinct_blocks", NULL, KV_CELL_COUNT},
    {"block_hits", NULL, KV_CELL_SHARE},
};

static void set_lengths(const struct kv_table *t, struct kv_cell *row, const char *what, const struct kv_spread *s,
                        struct kv_arena *a)
{
    kv_set_real(t, row, kv_format(a, "%s_mean_tokens", what), kv_spread_mean(s));
    kv_set_whole(t, row, kv_format(a, "%s_p50_tokens", what), kv_spread_quantile(s, 0.5));
    kv_set_whole(t, row, kv_format(a, "%s_p90_tokens", what), kv_spread_quantile(s, 0.9));
    kv_set_whole(t, row, kv_format(a, "%s_p99_tokens", what), kv_spread_quantile(s, 0.99));
    kv_set_whole(t, row, kv_format(a, "%s_max_tokens", what), (int64_t)s->all.most);
}

static double span(const struct kv_facts *f)
{
    return f->last_s - f->first_s;
}

static double hits(const struct kv_facts *f)
{
    return f->blocks ? 1 - (double)f->distinct / (double)f->blocks : NAN;
}

static int64_t sessions(const struct kv_facts *f)
{
    return f->sessions != KV_UNSET ? f->sessions : f->requests > f->first_turns ? f->first_turns : -1;
}

static void fill(struct kv_table *t, const struct kv_facts *f, const char *name, const char *format, bool times,
                 struct kv_arena *a)
{
    kv_table_open(t, columns, sizeof columns / sizeof *columns, a);
    struct kv_cell *row = kv_table_row(t);
    kv_set_text(t, row, "workload", name);
    kv_set_text(t, row, "format", format);
    kv_set_whole(t, row, "requests", f->requests);
    kv_set_whole(t, row, "skipped", f->skipped);
    if (times) {
        kv_set_real(t, row, "span_s", span(f));
        kv_set_real(t, row, "rate_per_s", span(f) > 0 ? (double)f->first_turns / span(f) : NAN);
        kv_set_real(t, row, "gap_mean_s", f->gap_mean);
        kv_set_real(t, row, "gap_cv", f->gap_cv);
    }
    set_lengths(t, row, "prompt", &f->prompt, a);
    set_lengths(t, row, "output", &f->output, a);
    kv_set_whole(t, row, "sessions", sessions(f));
    if (f->requests > f->first_turns) {
        kv_set_real(t, row, "turns_mean", kv_spread_mean(&f->turns));
        kv_set_whole(t, row, "turns_max", (int64_t)f->turns.all.most);
        kv_set_real(t, row, "wait_mean_s", f->wait_mean);
    }
    if (f->blocks) {
        kv_set_whole(t, row, "block_tokens", f->block_tokens);
        kv_set_whole(t, row, "blocks", f->blocks);
        kv_set_whole(t, row, "distinct_blocks", f->distinct);
        kv_set_real(t, row, "block_hits", hits(f));
    }
}

/* ---- for people ---- */

static const char *count(struct kv_arena *a, int64_t n)
{
    char text[KV_NUMBER_TEXT];
    return kv_copy_text(a, kv_print_count(text, n));
}

static const char *seconds(struct kv_arena *a, double s)
{
    if (s >= 7200)
        return kv_format(a, "%.2f h", s / 3600);
    if (s >= 120)
        return kv_format(a, "%.1f min", s / 60);
    return s >= 1 ? kv_format(a, "%.2f s", s) : kv_format(a, "%.3g ms", s * 1e3);
}

static void print_lengths(const char *what, const struct kv_spread *s, struct kv_arena *a)
{
    printf("%-7s %10.1f %9s %9s %9s %9s\n", what, kv_spread_mean(s), count(a, kv_spread_quantile(s, 0.5)),
           count(a, kv_spread_quantile(s, 0.9)), count(a, kv_spread_quantile(s, 0.99)), count(a, (int64_t)s->all.most));
}

static void print(const struct kv_facts *f, const char *name, const char *format, bool times, struct kv_arena *a)
{
    printf("%s (%s)\n", name, format);
    printf("%s requests", count(a, f->requests));
    if (f->requests > f->first_turns)
        printf(" in %s sessions", count(a, f->first_turns));
    if (times && span(f) > 0)
        printf(" in %s: %.4g a second%s", seconds(a, span(f)), (double)f->first_turns / span(f),
               f->requests > f->first_turns ? " begin" : "");
    else
        printf("; no arrivals over time");
    putchar('\n');
    if (times && !isnan(f->gap_cv))
        printf("gaps: mean %s, cv %.3g%s\n", seconds(a, f->gap_mean), f->gap_cv, f->gap_cv > 2 ? " (bursts)" : "");
    printf("\n%-7s %10s %9s %9s %9s %9s\n", "tokens", "mean", "p50", "p90", "p99", "max");
    print_lengths("prompt", &f->prompt, a);
    print_lengths("output", &f->output, a);
    if (f->requests > f->first_turns) {
        print_lengths("turns", &f->turns, a);
        printf("\nlater turns come %s after the answer on average; %.1f %% of prompt tokens were said before\n",
               seconds(a, f->wait_mean), 100 * (double)f->context / f->prompt.all.sum);
    }
    if (f->sessions != KV_UNSET)
        printf("\n%s sessions are named; their requests arrive at their times all the same\n", count(a, f->sessions));
    if (f->blocks)
        printf("\nprefixes: %.1f %% of %s blocks of %s prompt tokens would be found in a cache without limit (%s are "
               "distinct)\n",
               100 * hits(f), count(a, f->blocks), count(a, f->block_tokens), count(a, f->distinct));
    if (f->skipped)
        printf("\n%s bad rows were left out\n", count(a, f->skipped));
}

static bool print_histogram(const struct kv_facts *f, struct kv_arena *a, struct kv_err *e)
{
    const char *prompt = kv_spread_bins(&f->prompt, a), *output = kv_spread_bins(&f->output, a);
    if (!prompt || !output)
        return kv_fail(e, KV_DATA, "lengths of %d and more make no histogram", KV_SPREAD_EXACT);
    printf("prompt_distribution = histogram\nprompt_histogram = %s\noutput_distribution = histogram\n"
           "output_histogram = %s\n",
           prompt, output);
    return true;
}

static bool show(const struct kv_args *args, const struct kv_facts *f, const char *format, bool times,
                 struct kv_arena *a, struct kv_err *e)
{
    const char *name = args->operand[1];
    struct kv_table t;
    if (!f->requests)
        return kv_fail(e, KV_DATA, "%s: there is no request in it", name);
    if (kv_arg_flag(args, "histogram"))
        return print_histogram(f, a, e);
    fill(&t, f, name, format, times, a);
    if (kv_arg_flag(args, "csv"))
        kv_table_csv(&t, stdout);
    else if (kv_arg_flag(args, "json")) {
        json_t *rows = kv_table_json(&t);
        kv_json_print(json_array_get(rows, 0), stdout);
        json_decref(rows);
    } else
        print(f, name, format, times, a);
    return true;
}

bool kv_workload_verb_info(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    struct kv_settings s;
    struct kv_workload *w;
    struct kv_facts *f = KV_NEW(a, struct kv_facts);
    bool times, good = kv_workload_of_args(args, args->operand[1], &s, &w, &times, a, e);
    if (good && s.workload.arrivals == KV_CLOSED && !s.workload.trace && s.workload.requests == KV_UNSET)
        good = kv_fail(e, KV_USAGE, "%s: [workload] a closed loop never ends by itself; give --limit N", s.path);
    good = good && kv_facts_gather(f, w, e) && show(args, f, kv_workload_format(w), times, a, e);
    kv_facts_free(f);
    kv_workload_close(w);
    return good;
}
