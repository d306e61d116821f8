/* SPDX-License-Identifier: GPL-3.0-or-later */
/* `kvsim sweep`: a config with [sweep] in; a folder of plans and one table of all of them out. */
#include "sim/cli.h"
#include "sim/sweep.h"
#include "sim/table.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

static const struct kv_option options[] = {
    {.name = "set",
     .value = "S.KEY=VALUE",
     .repeat = true,
     .help = "set a key over the config, for all points; keys of [sweep] win"},
    {.name = "output", .letter = 'o', .value = "DIR", .help = "the sweep's folder (default: output in [run])"},
    {.name = "seed", .value = "N", .help = "seed of drawn lengths, over [run] seed"},
    {.name = "jobs",
     .letter = 'j',
     .value = "N",
     .help = "points at a time, each a process (default: all cores); results do not depend on it"},
    {.name = "shard", .value = "I/N", .help = "only every N-th point, from point I on: 0/4 .. 3/4; gathers nothing"},
    {.name = "status", .help = "how many points are done, failed, running and left, and each of them; runs nothing"},
    {.name = "retry-failed", .help = "run failed points again too"},
    {.name = "gather", .help = "write sweep.csv from the points that are done; runs nothing"},
    {.name = "emit",
     .value = "slurm|parallel|make",
     .help = "print a script that runs the sweep in shards, and gathers"},
    {.name = "shards", .value = "N", .help = "for --emit: how many (default: one for each point, at most 1000)"},
    {.name = "json", .help = "with --status: print JSON"},
    {.name = "csv", .help = "with --status: print CSV"},
    KV_OPTIONS_COMMON,
};

static const char *const emitters[] = {"slurm", "parallel", "make", NULL};

static bool read_shard(const struct kv_args *args, struct kv_sweep *s, struct kv_err *e)
{
    const char *text = kv_arg_text(args, "shard", NULL);
    int end = 0;
    s->shards = 1;
    if (!text)
        return true;
    if (strspn(text, "0123456789/") != strlen(text) ||
        sscanf(text, "%9d/%9d%n", &s->shard, &s->shards, &end) != 2 || text[end])
        return kv_fail(e, KV_USAGE, "--shard: '%s' is not I/N; write 0/4 for the first of four", text);
    if (s->shards < 1 || s->shard >= s->shards)
        return kv_fail(e, KV_USAGE, "--shard: '%s' is none of 0/%d .. %d/%d", text, s->shards,
                       s->shards ? s->shards - 1 : 0, s->shards);
    return true;
}

static bool status(const struct kv_args *args, const struct kv_sweep *s, struct kv_arena *a)
{
    struct kv_table t;
    int count[KV_POINT_STATES];
    kv_sweep_table(s, &t, count, a);
    if (kv_arg_flag(args, "csv")) {
        kv_table_csv(&t, stdout);
    } else if (kv_arg_flag(args, "json")) {
        json_t *root = json_object();
        for (int i = 0; i < KV_POINT_STATES; i++)
            json_object_set_new(root, kv_point_states[i], json_integer(count[i]));
        json_object_set_new(root, "points", kv_table_json(&t));
        kv_json_print(root, stdout);
        json_decref(root);
    } else {
        printf("%d points: %d done, %d failed, %d running, %d left\n\n", t.n_rows, count[KV_POINT_DONE],
               count[KV_POINT_FAILED], count[KV_POINT_RUNNING], count[KV_POINT_LEFT]);
        kv_table_print(&t, stdout);
    }
    return true;
}

static int count_done(const struct kv_sweep *s, struct kv_arena *a)
{
    int n = 0;
    for (int i = 0; i < s->n_points; i++)
        n += kv_sweep_state(s, i, a) == KV_POINT_DONE;
    return n;
}

/* Another sweep that ends meanwhile gathers too, and its files must not be replaced by ours, which know of less: so
 * ours are written again until nothing was done while they were. */
static bool gather(const struct kv_sweep *s, struct kv_arena *a, struct kv_err *e)
{
    int64_t rows;
    int done;
    do {
        done = count_done(s, a);
        if (!kv_sweep_write_points(s, a, e) || !kv_sweep_gather(s, &rows, a, e))
            return false;
    } while (count_done(s, a) != done);
    printf("%lld rows of %d points in %s/sweep.csv\n", (long long)rows, s->n_points, s->folder);
    return kv_sweep_complete(s, a, e);
}

static bool sweep(const struct kv_sweep *s, const struct kv_sweep_how *how, struct kv_arena *a, struct kv_err *e)
{
    bool good = kv_sweep_run(s, how, a, e);
    if (s->shards > 1)
        return good && kv_sweep_complete(s, a, e);
    return good ? gather(s, a, e) : (kv_sweep_write_points(s, a, e), false);
}

static bool emit(const struct kv_args *args, const struct kv_sweep *s, int kind, struct kv_arena *a, struct kv_err *e)
{
    enum { MOST_SHARDS = 1000 }; /* what Slurm takes unless told otherwise is 1001 */
    int64_t shards = s->n_points < MOST_SHARDS ? s->n_points : MOST_SHARDS, jobs = 0;
    return kv_arg_count(args, "shards", 1, KV_SWEEP_MOST, &shards, a, e) &&
           kv_arg_count(args, "jobs", 1, 1024, &jobs, a, e) &&
           kv_sweep_emit(s, (enum kv_emit)kind, (int)shards, (int)jobs, kv_arg_flag(args, "retry-failed"), stdout, a,
                         e);
}

/* What excludes each other, said before anything is read. */
static bool check_options(const struct kv_args *args, struct kv_err *e)
{
    static const char *const verbs[] = {"status", "gather", "emit"};
    const char *verb = NULL;
    for (int i = 0; i < 3; i++) {
        if (kv_arg_times(args, verbs[i]) && verb)
            return kv_fail(e, KV_USAGE, "--%s and --%s are both given; keep one", verb, verbs[i]);
        verb = kv_arg_times(args, verbs[i]) ? verbs[i] : verb;
    }
    bool is_status = verb && !strcmp(verb, "status"), is_emit = verb && !strcmp(verb, "emit");
    if (kv_arg_text(args, "shard", NULL) && verb && !is_status)
        return kv_fail(e, KV_USAGE, "--shard and --%s are both given; keep one", verb);
    if (kv_arg_text(args, "shards", NULL) && !is_emit)
        return kv_fail(e, KV_USAGE, "--shards is of --emit; a run takes one shard: --shard I/N");
    if (kv_arg_flag(args, "retry-failed") && verb && !is_emit)
        return kv_fail(e, KV_USAGE, "--retry-failed and --%s are both given; keep one", verb);
    if ((kv_arg_flag(args, "csv") || kv_arg_flag(args, "json")) && !is_status)
        return kv_fail(e, KV_USAGE, "--csv and --json are of --status; the results are in sweep.csv");
    return true;
}

static bool run(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    struct kv_sweep s = {.config = args->operand[0]};
    int n = kv_arg_times(args, "set"), kind = -1;
    const char **set = KV_NEW_N(a, const char *, n + 1);
    for (; s.n_set < n; s.n_set++)
        set[s.n_set] = kv_arg_nth(args, "set", s.n_set);
    s.set = set;
    cpu_set_t cores;
    int64_t seed = -1, jobs = sched_getaffinity(0, sizeof cores, &cores) ? 1 : CPU_COUNT(&cores);
    if (!check_options(args, e) || !read_shard(args, &s, e) || !kv_arg_choice(args, "emit", emitters, &kind, a, e) ||
        !kv_arg_count(args, "jobs", 1, 1024, &jobs, a, e) ||
        !kv_arg_count(args, "seed", 0, INT64_C(1) << 53, &seed, a, e))
        return false;
    if (seed >= 0)
        set[s.n_set++] = kv_format(a, "run.seed=%lld", (long long)seed);
    if (!kv_sweep_read(&s, kv_arg_text(args, "output", NULL), a, e))
        return false;
    if (kv_arg_flag(args, "status"))
        return status(args, &s, a);
    struct kv_sweep_how how = {.jobs = (int)jobs,
                               .retry = kv_arg_flag(args, "retry-failed"),
                               .quiet = kv_arg_flag(args, "quiet"),
                               .verbose = kv_arg_flag(args, "verbose")};
    if (kv_arg_flag(args, "gather") && !kv_sweep_begun(&s, a))
        return kv_fail(e, KV_NO, "there is no sweep in '%s'; run it first", s.folder);
    if (!kv_sweep_folder(&s, a, e))
        return false;
    return kind >= 0                     ? emit(args, &s, kind, a, e)
           : kv_arg_flag(args, "gather") ? gather(&s, a, e)
                                         : sweep(&s, &how, a, e);
}

const struct kv_command kv_command_sweep = {
    .name = "sweep",
    .operands = "CONFIG",
    .summary = "A plan at every point of a grid over keys, in processes; resumed by running it again.",
    .about = "The grid stands in [sweep]: engine.block_size = 16, 32 or policy duo.sparsity = 0.3:0.9:0.1.\n"
             "The folder gets points/, points.csv, sweep.csv and logs/; see docs/SWEEPS.md.",
    .least = 1,
    .most = 1,
    .option = options,
    .n_options = sizeof options / sizeof *options,
    .run = run,
};
