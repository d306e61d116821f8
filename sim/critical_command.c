/* SPDX-License-Identifier: GPL-3.0-or-later */
/* `kvsim critical`: scores of tasks at some footprints in; the critical KV footprint of each policy out. */
#include "sim/cli.h"
#include "sim/core/units.h"
#include "sim/critical.h"
#include "sim/output.h"

#include <unistd.h>

static const struct kv_option options[] = {
    {.name = "threshold", .value = "SHARE", .help = "of the full-cache score that must be kept (default 90 %)"},
    {.name = "full", .value = "NAME", .help = "the policy whose rows at footprint 1 are the full cache (default full)"},
    {.name = "setting",
     .value = "COLUMN",
     .help = "rows that share it become one point, their mean, as the paper makes one of a category's datasets"},
    {.name = "beside",
     .value = "FILE",
     .help = "published values: columns task, policy, critical_footprint (58 %, <34 %), or critical.csv of a result"},
    {.name = "output", .letter = 'o', .value = "DIR", .help = "write results there; 'kvsim plot DIR' draws them"},
    KV_OPTIONS_TABLE,
    KV_OPTIONS_COMMON,
};

static bool read_request(const struct kv_args *args, struct kv_critical_request *q, struct kv_arena *a,
                         struct kv_err *e)
{
    *q = (struct kv_critical_request){
        .path = args->operand[0],
        .full = kv_arg_text(args, "full", NULL),
        .setting = kv_arg_text(args, "setting", NULL),
        .beside = kv_arg_text(args, "beside", NULL),
        .threshold = 0.9,
    };
    const char *share = kv_arg_text(args, "threshold", "90 %"), *why = kv_read_share(a, share, &q->threshold);
    if (why)
        return kv_fail(e, KV_USAGE, "--threshold: %s", why);
    return q->threshold > 0 ||
           kv_fail(e, KV_USAGE, "--threshold: '%s' is a score that everything reaches; give more than 0", share);
}

/* One summary.json and one provenance a folder: a plan's is not made half into ours. */
static bool check_folder(const char *folder, struct kv_arena *a, struct kv_err *e)
{
    return kv_result_folder_check(folder, a, e) &&
           (access(kv_format(a, "%s/policies.csv", folder), F_OK) ||
            kv_fail(e, KV_USAGE, "'%s' holds the results of a plan; give an empty folder or a new name", folder));
}

static bool run(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    struct kv_critical_request q;
    struct kv_critical c;
    const char *folder = kv_arg_text(args, "output", NULL);
    if (!read_request(args, &q, a, e) || (folder && !check_folder(folder, a, e)) || !kv_critical_read(&c, &q, a, e))
        return false;
    if (kv_arg_flag(args, "verbose"))
        fprintf(stderr, "%d rows, %d tasks, %d curves from %s\n", c.n_rows, c.n_tasks, c.n_curves, c.path);
    if (folder && !(kv_result_folder(folder, a, e) && kv_critical_write(&c, folder, a, e)))
        return false;
    if (kv_arg_flag(args, "csv"))
        kv_critical_csv(&c, stdout, a);
    else if (kv_arg_flag(args, "json")) {
        json_t *root = kv_critical_json(&c, a);
        kv_json_print(root, stdout);
        json_decref(root);
    } else {
        kv_critical_print(&c, a);
        if (folder)
            printf("\nResults in %s; draw them with: kvsim plot %s\n", folder, folder);
    }
    return true;
}

const struct kv_command kv_command_critical = {
    .name = "critical",
    .operands = "SCORES.csv",
    .summary = "The critical KV footprint of each task and policy, from scores at some footprints.",
    .about = "SCORES.csv has columns task, policy, footprint (0.3 or 30 %) and score, which are found by name; '-' is\n"
             "standard input. Scores are those of a task, as an evaluation gives them: attention mass or the survival\n"
             "of needles has no critical footprint. Each task needs its full-cache score: a row of policy 'full' with\n"
             "footprint 1, or a policy named with --full; without either, what all rows at footprint 1 agree on.\n"
             "\n"
             "The critical footprint is the first crossing of the threshold, going down from 100 %, interpolated\n"
             "linearly between measured points; the full cache's score is no point of a curve. '<34 %' says that even\n"
             "34 %, the smallest measured, keeps the score, '>93 %' that even 93 %, the largest, does not. Where a\n"
             "curve falls below the threshold and comes back, it has dips, and the lowest crossing stands beside.\n"
             "Rows of one task, policy and footprint are averaged, and said to be.\n"
             "\n"
             "example: kvsim critical scores.csv --beside published.csv -o results/scores && kvsim plot results/scores",
    .least = 1,
    .most = 1,
    .option = options,
    .n_options = sizeof options / sizeof *options,
    .run = run,
};
