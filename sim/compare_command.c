/* SPDX-License-Identifier: GPL-3.0-or-later */
/* `kvsim compare`: two results, or a simulated run against a measured one. */
#include "sim/cli.h"
#include "sim/compare.h"
#include "sim/core/units.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct kv_option options[] = {
    {.name = "max-error",
     .value = "SHARE",
     .help = "status 1 when a mean or p99 of TPOT or E2E is off by more, such as 5 %; results without such times: any "
             "value"},
    {.name = "max-ttft-error", .value = "SHARE", .help = "the same of TTFT, from arrival"},
    {.name = "policy",
     .value = "NAME",
     .repeat = true,
     .help = "of a simulated run, against a measured one (default: the policies its config names)"},
    KV_OPTIONS_TABLE,
    KV_OPTIONS_COMMON,
};

static bool read_bound(const struct kv_args *args, const char *name, double *out, struct kv_arena *a, struct kv_err *e)
{
    const char *given = kv_arg_text(args, name, NULL), *why = NULL;
    *out = NAN;
    if (given)
        why = kv_read_share(a, given, out);
    return (!why && !(*out < 0)) || kv_fail(e, KV_USAGE, "--%s: %s", name, why ? why : "is less than nothing");
}

/* *result: a folder of ours, as policies.csv shows. */
static bool look_at(const char *path, bool *result, struct kv_arena *a, struct kv_err *e)
{
    struct stat st;
    *result = false;
    if (!strcmp(path, "-"))
        return true;
    if (stat(path, &st))
        return kv_fail(e, KV_DATA, "cannot compare '%s': %s", path, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return true;
    *result = !access(kv_format(a, "%s/policies.csv", path), F_OK);
    return *result || !access(kv_format(a, "%s/requests.csv", path), F_OK) ||
           kv_fail(e, KV_DATA,
                   "cannot compare '%s': it has neither policies.csv (a result of kvsim) nor requests.csv (a measured "
                   "run)",
                   path);
}

static bool results(const struct kv_args *args, const struct kv_tolerance *t, struct kv_arena *a, struct kv_err *e)
{
    struct kv_compared_results c;
    if (kv_arg_flag(args, "policy"))
        return kv_fail(e, KV_USAGE, "--policy chooses what is compared with a measured run; both of these are results");
    if (!kv_compare_results(&c, args->operand[0], args->operand[1], a, e))
        return false;
    if (kv_arg_flag(args, "csv")) {
        kv_table_csv(&c.table, stdout);
    } else if (kv_arg_flag(args, "json")) {
        json_t *root = kv_compare_results_json(&c);
        kv_json_print(root, stdout);
        json_decref(root);
    } else {
        kv_compare_results_print(&c, a);
    }
    return kv_compare_results_judge(&c, t, e);
}

static bool runs(const struct kv_args *args, const struct kv_tolerance *t, struct kv_arena *a, struct kv_err *e)
{
    struct kv_compared_runs c;
    int n = kv_arg_times(args, "policy");
    const char **only = KV_NEW_N(a, const char *, n + 1);
    for (int i = 0; i < n; i++)
        only[i] = kv_arg_nth(args, "policy", i);
    bool good = kv_compare_runs(&c, args->operand[0], args->operand[1], only, n, a, e);
    if (good && kv_arg_flag(args, "csv")) {
        kv_table_csv(&c.table, stdout);
    } else if (good && kv_arg_flag(args, "json")) {
        json_t *root = kv_compare_runs_json(&c);
        kv_json_print(root, stdout);
        json_decref(root);
    } else if (good) {
        kv_compare_runs_print(&c, a);
    }
    good = good && kv_compare_runs_judge(&c, t, e);
    kv_compare_runs_close(&c);
    return good;
}

static bool run(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    struct kv_tolerance t;
    bool result[2] = {false};
    if (!read_bound(args, "max-error", &t.error, a, e) || !read_bound(args, "max-ttft-error", &t.ttft_error, a, e))
        return false;
    for (int i = 0; i < 2; i++)
        look_at(args->operand[i], &result[i], a, e);
    if (e->n)
        return false;
    return result[0] && result[1] ? results(args, &t, a, e) : runs(args, &t, a, e);
}

const struct kv_command kv_command_compare = {
    .name = "compare",
    .operands = "A B",
    .summary = "Two results, or a simulated run against a measured one.",
    .about =
        "A and B are folders made by kvsim: each value of policies.csv that differs, from A to B. Or one of them is a\n"
        "measured run, a CSV or a folder with requests.csv: columns input_tokens, output_tokens, arrival_s,\n"
        "first_token_s, last_token_s and, if there, queued_s and scheduled_s, all in seconds; timeseries.csv beside\n"
        "it (t, running, waiting) gives the curves, else they come from the requests.\n"
        "\n"
        "TTFT and E2E are measured from arrival, by the client's clock, and from queued_s, when the engine's loop\n"
        "first knew of a request: what lies between is no part of a simulation. TPOT leaves out requests of one\n"
        "output token. Requests are matched by their lengths, in order of arrival.\n"
        "\n"
        "example: kvsim compare results/mine measured/run1 --max-error '5 %'",
    .least = 2,
    .most = 2,
    .option = options,
    .n_options = sizeof options / sizeof *options,
    .run = run,
};
