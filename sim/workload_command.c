/* SPDX-License-Identifier: GPL-3.0-or-later */
/* `kvsim workload`: files of requests and drawn traffic, looked at, converted, written. */
#include "sim/core/units.h"
#include "sim/output.h"
#include "sim/workload/store.h"
#include "sim/workload_verbs.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

/* Options that are keys of [workload], for all verbs. */
static const struct key {
    const char *option, *key;
} keys[] = {
    {"format", "format"},
    {"block-tokens", "block_tokens"},
    {"skip-bad", "skip_bad"},
    {"rate-scale", "rate_scale"},
    {"context-scale", "context_scale"},
    {"output-scale", "output_scale"},
    {"from", "from"},
    {"limit", "requests"},
    {"arrivals", "arrivals"},
    {"rate", "rate"},
    {"cv", "cv"},
    {"requests", "requests"},
    {"duration", "duration"},
    {"prompt", "prompt_tokens"},
    {"output-tokens", "output_tokens"},
};

static const struct kv_option options[] = {
    {.name = "format",
     .value = "NAME",
     .help = "what a file is: azure, mooncake, burstgpt, sharegpt, vllm, csv (auto)"},
    {.name = "block-tokens", .value = "N", .help = "prompt tokens of a block hash"},
    {.name = "skip-bad", .help = "leave out rows that cannot be used, and say how many"},
    {.name = "rate-scale", .value = "X", .help = "arrivals X times as fast"},
    {.name = "context-scale", .value = "X", .help = "prompts X times as long"},
    {.name = "output-scale", .value = "X", .help = "outputs X times as long"},
    {.name = "from", .value = "TIME", .help = "leave out rows that arrive earlier, as in '600 s'"},
    {.name = "to", .value = "TIME", .help = "for convert and info: leave out rows that arrive then or later"},
    {.name = "limit", .letter = 'n', .value = "N", .help = "at most N requests"},
    {.name = "sort", .help = "for convert and info: put rows in order of arrival, in memory"},
    {.name = "histogram", .help = "for info: print lengths as [workload] keys that draw such"},
    {.name = "arrivals",
     .value = "NAME",
     .help = "for synth: poisson (with --rate the default), gamma, onoff, diurnal"},
    {.name = "rate", .letter = 'r', .value = "RATE", .help = "for synth: as in '2 /s'"},
    {.name = "cv", .value = "X", .help = "for synth: of gaps; with it arrivals are gamma"},
    {.name = "requests", .value = "N", .help = "for synth: how many"},
    {.name = "duration", .value = "TIME", .help = "for synth: for how long, as in '1 h'"},
    {.name = "prompt", .letter = 'p', .value = "N", .help = "for synth: prompt tokens, or their mean"},
    {.name = "output-tokens", .value = "N", .help = "for synth: output tokens, or their mean"},
    {.name = "seed", .value = "N", .help = "other numbers (default: the config's, or 1)"},
    {.name = "set",
     .value = "KEY=VALUE",
     .repeat = true,
     .help = "any key of [workload]; 'workload.' may stand before it"},
    {.name = "output", .letter = 'o', .value = "FILE", .help = "for synth: write there, not to standard output"},
    {.name = "force", .help = "for convert and synth: overwrite"},
    KV_OPTIONS_TABLE,
    KV_OPTIONS_COMMON,
};

#define OF_ALL "format, block-tokens, skip-bad, rate-scale, context-scale, output-scale, limit, seed, set, "
static const struct kv_verb verbs[] = {
    {"info", "FILE|CONFIG", 1, 1, OF_ALL "from, to, sort, histogram, json, csv", kv_workload_verb_info},
    {"convert", "IN OUT.csv", 2, 2, OF_ALL "from, to, sort, force", kv_workload_verb_convert},
    {"synth", "[CONFIG]", 0, 1, OF_ALL "arrivals, rate, cv, requests, duration, prompt, output-tokens, output, force",
     kv_workload_verb_synth},
};
enum { VERBS = sizeof verbs / sizeof *verbs };

/* ---- settings ---- */

struct settings {
    struct kv_setting *at;
    int n;
};

static void put(struct settings *s, const char *key, const char *value, const char *origin, struct kv_arena *a)
{
    for (int i = 0; i < s->n; i++)
        if (!strcmp(s->at[i].key, key)) {
            s->at[i].value = value;
            return;
        }
    s->at[s->n++] =
        (struct kv_setting){.key = key, .value = value, .where = kv_format(a, "%s:", origin), .origin = origin};
}

static bool put_set(struct settings *s, const char *text, struct kv_arena *a, struct kv_err *e)
{
    const char *equals = strchr(text, '=');
    if (!strncmp(text, "workload.", strlen("workload.")))
        text += strlen("workload.");
    if (!equals || equals <= text)
        return kv_fail(e, KV_USAGE, "--set '%s': expected KEY=VALUE, a key of [workload]", text);
    put(s, kv_copy_part(a, text, (size_t)(equals - text)), equals + 1, "--set", a);
    return true;
}

static bool gather(const struct kv_args *args, struct settings *s, struct kv_arena *a, struct kv_err *e)
{
    s->at = KV_NEW_N(a, struct kv_setting, args->n_given + 8);
    bool drawn = kv_arg_flag(args, "rate") || kv_arg_flag(args, "cv");
    if (drawn && !kv_arg_flag(args, "arrivals"))
        put(s, "arrivals", kv_arg_flag(args, "cv") ? "gamma" : "poisson", "--rate", a);
    for (int i = 0; i < args->n_given; i++) {
        const char *name = args->given[i].option->name, *value = args->given[i].value;
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
            if (!strcmp(name, keys[k].option))
                put(s, keys[k].key, value ? value : "true", kv_format(a, "--%s", name), a);
        if (!strcmp(name, "set"))
            put_set(s, value, a, e);
    }
    return !e->n;
}

static bool is_config(const char *path)
{
    size_t n = strlen(path);
    return n > 4 && !strcmp(path + n - 4, ".ini");
}

static bool read_settings(const struct kv_args *args, const char *operand, struct kv_settings *s, struct kv_arena *a,
                          struct kv_err *e)
{
    struct settings given = {0};
    if (!gather(args, &given, a, e))
        return false;
    if (!operand || !is_config(operand)) {
        if (operand)
            put(&given, "trace", operand, operand, a);
        return kv_settings_of_workload(given.at, given.n, s, a, e);
    }
    const char **set = KV_NEW_N(a, const char *, given.n + 1);
    for (int i = 0; i < given.n; i++)
        set[i] = kv_format(a, "workload.%s=%s", given.at[i].key, given.at[i].value);
    return kv_settings_read(operand, set, given.n, s, a, e);
}

/* --to is when a file's rows end, before rate_scale; `duration` is how long they take, behind it. Both: what comes
 * first. */
static bool cut_at(const struct kv_args *args, struct kv_settings *s, struct kv_arena *a, struct kv_err *e)
{
    const char *text = kv_arg_text(args, "to", NULL);
    double to = 0;
    const char *why = text ? kv_read_seconds(a, text, &to) : NULL;
    if (why)
        return kv_fail(e, KV_USAGE, "--to: %s", why);
    if (text && to <= s->workload.from)
        return kv_fail(e, KV_USAGE, "--to is not after --from");
    if (text)
        s->workload.duration = fmin(s->workload.duration, (to - s->workload.from) / s->workload.rate_scale);
    return true;
}

bool kv_workload_of_args(const struct kv_args *args, const char *operand, struct kv_settings *s, struct kv_workload **w,
                         bool *times, struct kv_arena *a, struct kv_err *e)
{
    int64_t seed = KV_UNSET;
    *w = NULL;
    if (!kv_arg_count(args, "seed", 0, INT64_C(1) << 53, &seed, a, e) || !read_settings(args, operand, s, a, e) ||
        !cut_at(args, s, a, e))
        return false;
    if (seed == KV_UNSET)
        seed = s->run.seed;
    bool (*open)(struct kv_workload **, const struct kv_settings *, uint64_t, struct kv_arena *, struct kv_err *) =
        operand && !is_config(operand) ? kv_workload_open_lengths : kv_workload_open;
    if (!open(w, s, (uint64_t)seed, a, e))
        return false;
    *times = kv_workload_has_times(*w);
    return !kv_arg_flag(args, "sort") || kv_workload_sort(*w, e);
}

/* ---- verbs that write ---- */

static bool store(const struct kv_args *args, struct kv_workload *w, bool times, const char *path, struct kv_arena *a,
                  struct kv_err *e)
{
    struct kv_out out = {.file = stdout};
    bool standard = !path || !strcmp(path, "-");
    int64_t written;
    if (!standard && !kv_arg_flag(args, "force") && !access(path, F_OK) && strncmp(path, "/dev/", 5) != 0)
        return kv_fail(e, KV_USAGE, "'%s' is there already; give another name, or --force to overwrite it", path);
    if (!standard && !kv_out_open(&out, path, a, e))
        return false;
    if (!kv_workload_store(w, times, out.file, &written, e)) {
        if (!standard)
            kv_out_drop(&out);
        return false;
    }
    if (!written) {
        if (!standard)
            kv_out_drop(&out);
        return kv_fail(e, KV_DATA, "there is no request to write");
    }
    if (!standard && !kv_out_close(&out, e))
        return false;
    if (kv_workload_skipped(w) && !kv_arg_flag(args, "quiet"))
        fprintf(stderr, "%lld bad rows were left out\n", (long long)kv_workload_skipped(w));
    return true;
}

bool kv_workload_verb_convert(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    struct kv_settings s;
    struct kv_workload *w;
    bool times, good = kv_workload_of_args(args, args->operand[1], &s, &w, &times, a, e) &&
                       store(args, w, times, args->operand[2], a, e);
    kv_workload_close(w);
    return good;
}

bool kv_workload_verb_synth(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    const char *operand = args->n_operands > 1 ? args->operand[1] : NULL;
    struct kv_settings s;
    struct kv_workload *w;
    bool times;
    if (operand && !is_config(operand))
        return kv_fail(e, KV_USAGE, "'%s' is no config (*.ini); 'kvsim workload convert' reads files of requests",
                       operand);
    bool good = kv_workload_of_args(args, operand, &s, &w, &times, a, e);
    if (good && (s.workload.arrivals == KV_CLOSED || kv_workload_has_turns(w)))
        good = kv_fail(e, KV_USAGE,
                       "%s: [workload] %s: when requests come depends on the answers, which no file can hold; let the "
                       "config draw them",
                       s.path, s.workload.arrivals == KV_CLOSED ? "arrivals = closed" : "turns");
    good = good && store(args, w, times, kv_arg_text(args, "output", NULL), a, e);
    kv_workload_close(w);
    return good;
}

/* ---- the command ---- */

static bool run(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    return kv_verb_run("workload", verbs, VERBS, "info, convert or synth", args, a, e);
}

const struct kv_command kv_command_workload = {
    .name = "workload",
    .operands = "info|convert|synth FILE",
    .summary = "Requests over time: what a file or a config holds, files converted, traffic made up.",
    .about = "info FILE|CONFIG     how many, how fast, how long, how much of the prompts is alike\n"
             "convert IN OUT.csv   any format as CSV: request, arrival_s, prompt_tokens, output_tokens, hashes\n"
             "synth [CONFIG]       what a config, or options alone, draw, as such a CSV\n"
             "\n"
             "Files: Azure, BurstGPT, ShareGPT-style and plain CSV, Mooncake JSON lines, vLLM benchmark results and\n"
             "logs; gzip and zstd are read through; '-' is standard input. docs/WORKLOADS.md has the columns.\n"
             "\n"
             "example: kvsim workload info AzureLLMInferenceTrace_conv.csv\n"
             "         kvsim workload convert trace.jsonl part.csv --from '10 min' --to '20 min' --rate-scale 2\n"
             "         kvsim workload synth --rate '4 /s' --duration '1 h' --prompt 2000 -o hour.csv",
    .least = 1,
    .most = 3,
    .option = options,
    .n_options = sizeof options / sizeof *options,
    .run = run,
};
