/* SPDX-License-Identifier: GPL-3.0-or-later */
/* `kvsim replay`: one recorded request through policies. */
#include "sim/cli.h"
#include "sim/core/units.h"
#include "sim/output.h"
#include "sim/replay_print.h"
#include "sim/team.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char *const switches[] = {"on", "off", NULL};

static const struct kv_option options[] = {
    {.name = "policy",
     .value = "SPEC",
     .repeat = true,
     .help = "kind[:key=value,...], see 'kvsim policies' (default: the one it was recorded under, or full)"},
    {.name = "keep", .value = "LIST", .help = "budgets for every policy, as in '5 %,10 %,20 %': a curve of each"},
    {.name = "chunk",
     .letter = 'c',
     .value = "N",
     .help = "tokens of a prefill chunk (default: the first recorded pass)"},
    {.name = "evict-scope",
     .value = "S",
     .help = "layer (default): each evicts as its attention ends; pass: all at its end"},
    {.name = "layout", .value = "L", .help = "page tables: per-head (default), per-layer, shared"},
    {.name = "compaction", .value = "on|off", .help = "off: a page goes when every entry in it went (default on)"},
    {.name = "block-size", .value = "N", .help = "entries of a page (default 16)"},
    {.name = "kv-cache-dtype", .value = "T", .help = "bf16 (default), fp16, fp8, int8 or int4"},
    {.name = "inner-sinks", .value = "N", .help = "first tokens left out of the mass kept inside (default 4)"},
    {.name = "inner-recents", .value = "N", .help = "newest tokens left out of it (default 64)"},
    {.name = "mark",
     .value = "NAME=FIRST-LAST",
     .repeat = true,
     .help = "tokens whose survival is looked at, besides those the trace marks"},
    {.name = "output", .letter = 'o', .value = "DIR", .help = "write a result folder, for 'kvsim plot' and scripts"},
    {.name = "kept", .help = "with -o: write the kept positions too (kept.csv)"},
    {.name = "kept-passes", .help = "with -o: write those after each recorded pass (kept_passes.csv)"},
    {.name = "jobs", .letter = 'j', .value = "N", .help = "threads (default: the cores there are)"},
    KV_OPTIONS_TABLE,
    KV_OPTIONS_COMMON,
};

static bool read_asked(const struct kv_args *args, struct kv_replay_asked *q, struct kv_arena *a, struct kv_err *e)
{
    int scope = 0, layout = 0, off = 0, dtype = 0;
    int64_t jobs = kv_team_cores();
    *q = (struct kv_replay_asked){.page = 16, .mass_sinks = 4, .mass_recents = 64, .quiet = kv_arg_flag(args, "quiet")};
    kv_arg_count(args, "chunk", 1, 1 << 30, &q->run.chunk, a, e);
    kv_arg_count(args, "block-size", 1, 65536, &q->page, a, e);
    kv_arg_count(args, "inner-sinks", 0, 1 << 30, &q->mass_sinks, a, e);
    kv_arg_count(args, "inner-recents", 0, 1 << 30, &q->mass_recents, a, e);
    kv_arg_count(args, "jobs", 1, 256, &jobs, a, e);
    kv_arg_choice(args, "evict-scope", kv_scope_names, &scope, a, e);
    kv_arg_choice(args, "layout", kv_layout_names, &layout, a, e);
    kv_arg_choice(args, "compaction", switches, &off, a, e);
    kv_arg_choice(args, "kv-cache-dtype", kv_dtype_choices, &dtype, a, e);
    q->scope = (enum kv_scope)scope;
    q->layout = (enum kv_layout)layout;
    q->in_place = off;
    q->threads = (int)jobs;
    q->run.dtype = kv_dtype_of_choice(dtype, KV_BF16);
    if (kv_arg_flag(args, "kept") && !kv_arg_flag(args, "output"))
        kv_fail(e, KV_USAGE, "--kept needs -o DIR, the folder to write kept.csv into");
    if (kv_arg_flag(args, "kept-passes") && !kv_arg_flag(args, "output"))
        kv_fail(e, KV_USAGE, "--kept-passes needs -o DIR, the folder to write kept_passes.csv into");
    return !e->n;
}

/* The items of a comma-separated list: how many, of which `most` are put into `item`. */
static int split(const char *list, const char **item, int most, struct kv_arena *a)
{
    int n = 0;
    while (list && *list) {
        list += strspn(list, " ,");
        size_t length = strcspn(list, ","), end = length;
        while (end && list[end - 1] == ' ')
            end--;
        if (end && n++ < most)
            item[n - 1] = kv_copy_part(a, list, end);
        list += length;
    }
    return n;
}

enum { MOST_RUNS = 1024, MOST_BUDGETS = 64, MOST_MARKS = 64 };

static bool add_spec(struct kv_replay *r, const char *spec, const char *budget, struct kv_arena *a, struct kv_err *e)
{
    struct kv_policy policy;
    const char *text = spec;
    if (budget)
        text = kv_format(a, "%s%skeep=%s", spec, strchr(spec, ':') ? "," : ":", budget);
    if (!kv_policy_from_spec(&policy, text, a, e))
        return false;
    return kv_replay_add(r, &policy, a, e);
}

/* Every SPEC with every budget; those that keep everything need none. All mistakes are said at once. */
static bool add_policies(struct kv_replay *r, const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    const char *budget[MOST_BUDGETS];
    int n_budgets = split(kv_arg_text(args, "keep", NULL), budget, MOST_BUDGETS, a);
    int n = kv_arg_times(args, "policy"), all = (n ? n : 1) * (n_budgets ? n_budgets : 1);
    if (n_budgets > MOST_BUDGETS)
        return kv_fail(e, KV_USAGE, "--keep: %d budgets are more than %d", n_budgets, MOST_BUDGETS);
    if (!n_budgets && kv_arg_text(args, "keep", NULL))
        return kv_fail(e, KV_USAGE, "--keep '%s' holds no budget; give shares as in '5 %%,10 %%'",
                       kv_arg_text(args, "keep", NULL));
    if (all > MOST_RUNS)
        return kv_fail(e, KV_USAGE, "%d policies with %d budgets are more than %d runs; ask for fewer", n, n_budgets,
                       MOST_RUNS);
    r->run = KV_NEW_N(a, struct kv_replay_run, all);
    for (int i = 0; i < (n ? n : 1); i++) {
        const char *spec = n ? kv_arg_nth(args, "policy", i) : r->closed ? r->about.policy : "full";
        bool full = !strcmp(spec, "full");
        if (!n_budgets || full)
            add_spec(r, spec, NULL, a, e);
        for (int b = 0; b < n_budgets && !full; b++)
            add_spec(r, spec, budget[b], a, e);
    }
    return !e->n;
}

static bool add_marks(struct kv_replay *r, const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    int n = kv_arg_times(args, "mark"), old = r->about.n_marks;
    if (n > MOST_MARKS)
        return kv_fail(e, KV_USAGE, "%d marks are more than %d", n, MOST_MARKS);
    struct kv_mark *mark = KV_NEW_N(a, struct kv_mark, old + n + 1);
    if (old)
        memcpy(mark, r->about.mark, sizeof *mark * (size_t)old);
    for (int i = 0; i < n; i++)
        if (!kv_mark_read(&mark[old + i], kv_arg_nth(args, "mark", i), r->end, a, e))
            return false;
    r->about.mark = mark;
    r->about.n_marks = old + n;
    return true;
}

static void print(const struct kv_replay *r, const struct kv_args *args, const char *folder, struct kv_arena *a)
{
    if (kv_arg_flag(args, "csv")) {
        kv_replay_csv(r, stdout, a);
    } else if (kv_arg_flag(args, "json")) {
        json_t *root = kv_replay_json(r, args->operand[0], a);
        kv_json_print(root, stdout);
        json_decref(root);
    } else {
        kv_replay_print(r, args->operand[0], a);
        if (folder)
            printf("\nResults in %s; draw them with: kvsim plot %s\n", folder, folder);
    }
}

static bool replay(struct kv_replay *r, const struct kv_args *args, const struct kv_replay_asked *asked,
                   struct kv_arena *a, struct kv_err *e)
{
    const char *path = args->operand[0], *folder = kv_arg_text(args, "output", NULL);
    if (!kv_replay_open(r, path, asked, a, e) || !add_marks(r, args, a, e) || !add_policies(r, args, a, e) ||
        !kv_replay_run(r, a, e))
        return false;
    if (folder &&
        !(kv_result_folder(folder, a, e) && kv_replay_write(r, path, folder, kv_arg_flag(args, "kept"), a, e)))
        return false;
    print(r, args, folder, a);
    for (int i = 0; i < r->n_runs; i++)
        if (r->run[i].differs)
            return kv_fail(e, KV_NO, "'%s' keeps other entries than were recorded, in %lld lanes and passes",
                           r->run[i].policy.name, (long long)r->run[i].differs);
    return true;
}

static bool run(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    struct kv_replay_asked asked;
    struct kv_replay r = {0};
    const char *folder = kv_arg_text(args, "output", NULL);
    if (!read_asked(args, &asked, a, e) || (folder && !kv_result_folder_check(folder, a, e)))
        return false;
    if (kv_arg_flag(args, "kept-passes") && !(asked.kept = tmpfile()))
        return kv_fail(e, KV_ENV, "cannot make a temporary file for kept positions: %s", strerror(errno));
    bool good = replay(&r, args, &asked, a, e);
    kv_replay_close(&r);
    if (asked.kept)
        fclose(asked.kept);
    return good;
}

const struct kv_command kv_command_replay = {
    .name = "replay",
    .operands = "TRACE",
    .summary = "One recorded request through policies: what stays, what it costs, how much attention is lost.",
    .about =
        "All policies are replayed in one read of the trace. What it cannot support is refused, with what to record.\n"
        "'kvsim trace info TRACE' says what it holds.",
    .least = 1,
    .most = 1,
    .option = options,
    .n_options = sizeof options / sizeof *options,
    .run = run,
};
