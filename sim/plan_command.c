/* SPDX-License-Identifier: GPL-3.0-or-later */
/* `kvsim plan`: a config in; a table, a reading and a result folder out. */
#include "sim/cli.h"
#include "sim/core/units.h"
#include "sim/interrupt.h"
#include "sim/output.h"
#include "sim/plan.h"
#include "sim/serve/traffic.h"
#include "sim/table.h"

#include <math.h>
#include <unistd.h>

static const struct kv_option options[] = {
    {.name = "set",
     .value = "S.KEY=VALUE",
     .repeat = true,
     .help = "set a key over the config: --set engine.block_size=32"},
    {.name = "output", .letter = 'o', .value = "DIR", .help = "write results there; 'kvsim plot DIR' draws them"},
    {.name = "seed", .value = "N", .help = "seed of drawn lengths, over [run] seed"},
    {.name = "jobs",
     .letter = 'j',
     .value = "N",
     .help = "rows of the table counted at a time (default: all cores); results do not depend on it"},
    {.name = "step-log", .value = "FILE", .help = "with traffic: a row for each thing a scheduler does, as CSV; large"},
    KV_OPTIONS_TABLE,
    KV_OPTIONS_COMMON,
};

/* The answer is no when nothing fits. */
static bool answer(const struct kv_plan *p, struct kv_err *e)
{
    char pool[KV_NUMBER_TEXT], weights[KV_NUMBER_TEXT], usable[KV_NUMBER_TEXT], wanted[KV_NUMBER_TEXT];
    const char *device = p->settings->hardware.device;
    if (p->pool.bytes <= 0)
        return kv_fail(e, KV_NO,
                       "'%s' does not fit on %s: weights %s, activations and overhead leave no KV pool of %s usable; "
                       "use more or larger devices, or a quantised checkpoint (weights = N GiB)",
                       p->model.name, device, kv_print_bytes(weights, p->pool.weights),
                       kv_print_bytes(usable, p->pool.usable));
    if (!kv_plan_fits(p))
        return kv_fail(e, KV_NO, "no policy fits %s request%s at the same time into a KV pool of %s",
                       kv_print_count(wanted, p->settings->workload.concurrency),
                       p->settings->workload.concurrency == 1 ? "" : "s", kv_print_bytes(pool, p->pool.bytes));
    return true;
}

/* What the run was asked for beside its config. */
struct asked {
    const struct kv_args *args;
    const char *folder;
    int jobs;
};

static void print_json(json_t *root)
{
    kv_json_print(root, stdout);
    json_decref(root);
}

static bool plan_traffic(const struct asked *asked, const struct kv_settings *s, struct kv_arena *a, struct kv_err *e)
{
    struct kv_traffic *t = KV_NEW(a, struct kv_traffic);
    struct kv_table table;
    const char *folder = asked->folder;
    bool good = (!folder || kv_result_folder(folder, a, e)) &&
                kv_traffic_compute(t, s, asked->jobs, folder, kv_arg_text(asked->args, "step-log", NULL),
                                   kv_arg_flag(asked->args, "quiet"), a, e) &&
                (!folder || kv_traffic_write(t, folder, a, e));
    if (good && kv_arg_flag(asked->args, "csv")) {
        kv_traffic_table(t, &table, a);
        kv_table_csv(&table, stdout);
    } else if (good && kv_arg_flag(asked->args, "json")) {
        print_json(kv_traffic_json(t, a));
    } else if (good) {
        kv_traffic_print(t, a);
        if (folder)
            printf("\nResults in %s; draw them with: kvsim plot %s\n", folder, folder);
    }
    if (good && kv_interrupted())
        good = kv_fail(e, kv_interrupt_status(), "interrupted; what was served until then is shown, marked incomplete");
    else if (good && !kv_traffic_answer(t))
        good = kv_fail(e, KV_NO, "no policy serves this traffic%s",
                       isnan(s->slo.ttft) && isnan(s->slo.tpot) && isnan(s->slo.e2e) ? "" : " within [slo]");
    kv_traffic_close(t);
    return good;
}

static bool plan_capacity(const struct asked *asked, const struct kv_settings *s, struct kv_arena *a, struct kv_err *e)
{
    struct kv_plan *plan = KV_NEW(a, struct kv_plan);
    const char *folder = asked->folder;
    if (kv_arg_text(asked->args, "step-log", NULL))
        return kv_fail(e, KV_USAGE, "--step-log is of traffic, and %s has none; see docs/WORKLOADS.md", s->path);
    if (!kv_plan_compute(plan, s, asked->jobs, kv_arg_flag(asked->args, "quiet"), a, e))
        return false;
    if (kv_arg_flag(asked->args, "verbose"))
        fprintf(stderr, "model from %s; %d rows of %lld requests counted on %d threads\n", plan->model.origin,
                plan->n_rows, (long long)plan->n_requests, asked->jobs);
    if (folder && !(kv_result_folder(folder, a, e) && kv_plan_write(plan, folder, a, e)))
        return false;
    if (kv_arg_flag(asked->args, "csv")) {
        struct kv_table t;
        kv_plan_table(plan, &t, a);
        kv_table_csv(&t, stdout);
    } else if (kv_arg_flag(asked->args, "json")) {
        print_json(kv_plan_json(plan, a));
    } else {
        kv_plan_print(plan, a);
        if (folder)
            printf("\nResults in %s; draw them with: kvsim plot %s\n", folder, folder);
    }
    return answer(plan, e);
}

static bool run(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    int n = kv_arg_times(args, "set");
    const char **set = KV_NEW_N(a, const char *, n + 2);
    for (int i = 0; i < n; i++)
        set[i] = kv_arg_nth(args, "set", i);
    int64_t seed = -1;
    if (!kv_arg_count(args, "seed", 0, INT64_C(1) << 53, &seed, a, e))
        return false;
    if (seed >= 0)
        set[n++] = kv_format(a, "run.seed=%lld", (long long)seed);
    int64_t jobs = sysconf(_SC_NPROCESSORS_ONLN);
    struct kv_settings settings;
    if (!kv_arg_count(args, "jobs", 1, 1024, &jobs, a, e) ||
        !kv_settings_read(args->operand[0], set, n, &settings, a, e))
        return false;
    struct asked asked = {.args = args, .folder = kv_arg_text(args, "output", settings.run.output), .jobs = (int)jobs};
    if (asked.folder && !kv_result_folder_check(asked.folder, a, e)) /* known before the work is done */
        return false;
    return kv_workload_has_traffic(&settings) ? plan_traffic(&asked, &settings, a, e)
                                              : plan_capacity(&asked, &settings, a, e);
}

const struct kv_command kv_command_plan = {
    .name = "plan",
    .operands = "CONFIG",
    .summary = "How many requests fit on a device, under which policy, and what to change when they do not.",
    .about = "'kvsim config template' prints a config with every key explained.",
    .least = 1,
    .most = 1,
    .option = options,
    .n_options = sizeof options / sizeof *options,
    .run = run,
};
