/* SPDX-License-Identifier: GPL-3.0-or-later */
/* `kvsim trace`: recorded requests looked at, checked, stored anew, saved, made up. */
#include "sim/team.h"
#include "sim/trace_verbs.h"

#include <string.h>
#include <unistd.h>

static const struct kv_option options[] = {
    {.name = "channel", .value = "NAME", .help = "for head: the channel (default: the first one)"},
    {.name = "tick", .value = "N", .help = "for head: the recorded pass (default: the last one the channel has)"},
    {.name = "layer", .value = "N", .help = "for head: the layer (default 0)"},
    {.name = "head", .value = "N", .help = "for head: the head, of the channel's axis (default: all)"},
    {.name = "numbers", .letter = 'n', .value = "N", .help = "for head: numbers of a row (default 10)"},
    {.name = "model", .letter = 'm', .value = "M", .help = "for synth: the shape of a preset ('Llama-3.1-8B')"},
    {.name = "layers", .value = "N", .help = "for synth: layers (default: the model's)"},
    {.name = "kv-heads", .value = "N", .help = "for synth: KV heads of a layer (default: the model's)"},
    {.name = "group", .value = "N", .help = "for synth: query heads of a KV head (default: the model's, or 4)"},
    {.name = "head-dim", .value = "N", .help = "for synth: numbers of a key (default: the model's, or 128)"},
    {.name = "prompt", .letter = 'p', .value = "N", .help = "for synth: prompt tokens"},
    {.name = "output", .value = "N", .help = "for synth: output tokens (default 0)"},
    {.name = "chunk", .letter = 'c', .value = "N", .help = "for synth: tokens of a prefill pass (default 8192)"},
    {.name = "tail", .value = "N", .help = "for synth: last prompt tokens, a pass of their own (default 0)"},
    {.name = "decode-tick", .value = "N", .help = "for synth: decode steps recorded together (default 64)"},
    {.name = "channels",
     .value = "LIST",
     .help = "for synth: what is recorded, as in 'window_seen,later_sum' (default window_seen)"},
    {.name = "head-axis", .value = "kv|q", .help = "for synth: attention of KV heads (default) or of query heads"},
    {.name = "window", .value = "N", .help = "for synth: queries of window channels (default 64)"},
    {.name = "patch", .value = "N", .help = "for synth: last prompt tokens behind each chunk but the last (default 0)"},
    {.name = "needle",
     .value = "FIRST-LAST",
     .repeat = true,
     .help = "for synth: tokens that retrieval heads look for, marked in the file"},
    {.name = "seed", .value = "N", .help = "for synth: other numbers (default 1)"},
    {.name = "statistics", .help = "for synth: print what kinds of heads it has (without OUT: only that)"},
    {.name = "filter", .value = "F", .help = "for synth and repack: zstd (default), gzip or none"},
    {.name = "encoding",
     .value = "E",
     .help = "for synth and repack: log2anch, code, f32 or f16, where a channel can have it (synth: log2anch; repack: "
             "as it was)"},
    {.name = "force", .help = "for synth, repack and recover: overwrite"},
    {.name = "jobs",
     .letter = 'j',
     .value = "N",
     .help = "for synth and check: threads (default: the cores there are)"},
    KV_OPTIONS_TABLE,
    KV_OPTIONS_COMMON,
};

static const struct kv_verb verbs[] = {
    {"info", "TRACE", 1, 1, "json", kv_trace_verb_info},
    {"check", "TRACE", 1, 1, "json, jobs", kv_trace_verb_check},
    {"head", "TRACE", 1, 1, "channel, tick, layer, head, numbers, csv, json", kv_trace_verb_head},
    {"repack", "TRACE OUT", 2, 2, "filter, encoding, force", kv_trace_verb_repack},
    {"recover", "TRACE.part [OUT]", 1, 2, "force", kv_trace_verb_recover},
    {"synth", "[OUT]", 0, 1,
     "model, layers, kv-heads, group, head-dim, prompt, output, chunk, tail, decode-tick, channels, head-axis, window, "
     "patch, needle, seed, statistics, filter, encoding, force, jobs, csv, json",
     kv_trace_verb_synth},
};
enum { VERBS = sizeof verbs / sizeof *verbs };

bool kv_trace_may_write(const struct kv_args *args, const char *path, struct kv_arena *a, struct kv_err *e)
{
    const char *part = kv_format(a, "%s.part", path);
    if (kv_arg_flag(args, "force"))
        return true;
    if (!access(path, F_OK))
        return kv_fail(e, KV_USAGE, "'%s' is there already; give another name, or --force to overwrite it", path);
    return access(part, F_OK) ||
           kv_fail(e, KV_USAGE,
                   "'%s' is there: a recording that goes on, or was broken off; save it with 'kvsim trace recover', "
                   "give another name, or --force to overwrite it",
                   part);
}

bool kv_trace_threads(const struct kv_args *args, int *threads, struct kv_arena *a, struct kv_err *e)
{
    int64_t n = kv_team_cores();
    bool good = kv_arg_count(args, "jobs", 1, 256, &n, a, e);
    *threads = (int)n;
    return good;
}

bool kv_trace_storage(const struct kv_args *args, enum kv_filter *filter, int *encoding, struct kv_arena *a,
                      struct kv_err *e)
{
    int f = (int)*filter;
    bool good = kv_arg_choice(args, "filter", kv_filter_names, &f, a, e);
    good &= kv_arg_choice(args, "encoding", kv_encoding_names, encoding, a, e);
    *filter = (enum kv_filter)f;
    return good;
}

static bool run(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    return kv_verb_run("trace", verbs, VERBS, "info, check, head, repack, recover or synth", args, a, e);
}

const struct kv_command kv_command_trace = {
    .name = "trace",
    .operands = "info|check|head|repack|recover|synth FILE",
    .summary = "Recorded requests: what they hold, whether they are whole, stored anew, saved, made up.",
    .about =
        "info TRACE               what it is, what it holds, and which policies can be replayed with it\n"
        "check TRACE              reads every row: checksums, finite numbers, sums that attention must have\n"
        "head TRACE               the first numbers of some rows\n"
        "repack TRACE OUT         the same rows, with another filter or encoding\n"
        "recover TRACE.part [OUT] whole passes of a recording that was broken off\n"
        "synth OUT                a made-up request: heads of four kinds, as measured on trained models; for tests\n"
        "                         and benchmarks of the program, no statement about any model\n"
        "\n"
        "example: kvsim trace synth a.kvt.h5 --model Llama-3.1-8B --prompt 131072 --channels window_seen,later_sum\n"
        "         kvsim trace info a.kvt.h5 && kvsim trace check a.kvt.h5",
    .least = 1,
    .most = 3,
    .option = options,
    .n_options = sizeof options / sizeof *options,
    .run = run,
};
