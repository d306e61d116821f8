/* SPDX-License-Identifier: GPL-3.0-or-later */
/* `kvengine verify`: the simulator against live runs, policy by policy (verify_closed.c, verify_open.c), or a model
 * against golden outputs (verify_golden.c). */
#include "engine/verify.h"

#include "engine/recorder.h"
#include "sim/interrupt.h"
#include "sim/core/random.h"
#include "sim/output.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef KV_VERSION
#define KV_VERSION "unknown"
#endif

static const struct kv_option options[] = {
    {.name = "model", .letter = 'm', .value = "DIR", .help = "the model, where it is no operand"},
    {.name = "golden", .letter = 'g', .value = "DIR", .help = "check golden outputs of the model instead of policies"},
    {.name = "policy",
     .value = "SPEC",
     .repeat = true,
     .help = "policies to check (default: one of each that can run live)"},
    {.name = "tolerance",
     .value = "X",
     .help = "of logits against the reference, of their largest (default 0.0002; with cuda 0.05, of fp8 entries 0.25)"},
    {.name = "random-weights",
     .value = "SEED",
     .help = "weights drawn from this seed, with --backend cuda on the device, in place of the model's own, of which "
             "config.json and tokenizer.json are needed"},
    {.name = "no-reference",
     .help = "leave out the fp64 reference, which is slow for more than some million parameters"},
    {.name = "no-open-loop",
     .help = "leave out what the full cache's trace predicts, which takes four more runs of each policy"},
    {.name = "results", .letter = 'o', .value = "DIR", .help = "write each pass as CSV into this folder"},
    KV_HOST_OPTIONS,
    KV_OPTIONS_TABLE,
    KV_OPTIONS_COMMON,
};

/* A row for each policy and prompt. Those with a title are the first of two tables that people see. */
static const struct kv_column columns[] = {
    {"policy", "policy", KV_CELL_TEXT},
    {"prompt", NULL, KV_CELL_TEXT},
    {"mechanics_only", NULL, KV_CELL_BOOL},
    {"passes", "passes", KV_CELL_COUNT},
    {"same_scores", "same\nscores", KV_CELL_TEXT},
    {"selector", "independent\nselector", KV_CELL_TEXT},
    {"pages", "pages", KV_CELL_TEXT},
    {"logit_error", "logits against\nthe reference", KV_CELL_REAL},
    {"kv_footprint", NULL, KV_CELL_SHARE},
    {"predicted_footprint", NULL, KV_CELL_SHARE},
    {"kv_peak", NULL, KV_CELL_SHARE},
    {"predicted_peak", NULL, KV_CELL_SHARE},
    {"overlap", NULL, KV_CELL_SHARE},
    {"overlap_worst", NULL, KV_CELL_SHARE},
    {"mass_held", NULL, KV_CELL_SHARE},
    {"predicted_mass_held", NULL, KV_CELL_SHARE},
    {"log_probability_loss", NULL, KV_CELL_REAL},
    {"next_token_agreement", NULL, KV_CELL_SHARE},
    {"free_kv_footprint", NULL, KV_CELL_SHARE},
    {"free_kv_peak", NULL, KV_CELL_SHARE},
    {"free_overlap", NULL, KV_CELL_SHARE},
    {"free_overlap_worst", NULL, KV_CELL_SHARE},
    {"free_mass_held", NULL, KV_CELL_SHARE},
    {"free_log_probability_loss", NULL, KV_CELL_REAL},
    {"free_next_token_agreement", NULL, KV_CELL_SHARE},
    {"why", NULL, KV_CELL_TEXT},
};

/* The second: what was predicted in open loop, and what came. */
static const struct kv_column open_columns[] = {
    {"policy", "policy", KV_CELL_TEXT},
    {"tokens", "tokens", KV_CELL_TEXT},
    {"kv_footprint", "KV\nfootprint", KV_CELL_SHARE},
    {"footprint_off", "less\npredicted", KV_CELL_REAL},
    {"kv_peak", "KV\npeak", KV_CELL_SHARE},
    {"peak_off", "less\npredicted", KV_CELL_REAL},
    {"overlap", "kept sets as\npredicted: end", KV_CELL_SHARE},
    {"overlap_worst", "\nworst pass", KV_CELL_SHARE},
    {"mass_held", "mass\nheld", KV_CELL_SHARE},
    {"predicted_mass_held", "\npredicted", KV_CELL_SHARE},
    {"log_probability_loss", "loss of\nlog-probability", KV_CELL_REAL},
    {"next_token_agreement", "same next\ntoken", KV_CELL_SHARE},
};

/* ---- kvsim beside this program ---- */

const char *kv_verify_kvsim(struct kv_arena *a, struct kv_err *e)
{
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n > 0) {
        self[n] = '\0';
        char *slash = strrchr(self, '/');
        const char *path = slash ? kv_format(a, "%.*s/kvsim", (int)(slash - self), self) : "kvsim";
        if (!access(path, X_OK))
            return path;
    }
    kv_fail(e, KV_ENV, "there is no kvsim beside this program, which replays what it records; build or install both");
    return NULL;
}

/* One word for the shell, whatever is in it. */
static const char *quoted(const struct kv_verify *c, const char *text)
{
    const char *word = "'";
    for (size_t part; (part = strcspn(text, "'")), text[part]; text += part + 1)
        word = kv_format(c->arena, "%s%.*s'\\''", word, (int)part, text);
    return kv_format(c->arena, "%s%s'", word, text);
}

json_t *kv_verify_replay(const struct kv_verify *c, const char *trace, const char *spec, const char *out,
                         const char *more, struct kv_err *e)
{
    const char *command = kv_format(
        c->arena, "%s replay %s --json -q --block-size %lld --kv-cache-dtype %s --policy %s -o %s %s 2>%s",
        quoted(c, c->kvsim), quoted(c, trace), (long long)c->host->asked.page, kv_dtype_names[c->host->asked.dtype],
        quoted(c, spec), quoted(c, out), more, quoted(c, kv_format(c->arena, "%s/error", c->folder)));
    FILE *in = popen(command, "r");
    json_error_t where;
    json_t *root = in ? json_loadf(in, 0, &where) : NULL, *row = NULL;
    int status = in ? pclose(in) : -1;
    if (root && (status == 0 || WIFEXITED(status)))
        row = json_incref(json_array_get(json_object_get(root, "policies"), 0));
    json_decref(root);
    if (!row) {
        char line[512] = "";
        FILE *error = fopen(kv_format(c->arena, "%s/error", c->folder), "r");
        if (error && fgets(line, sizeof line, error))
            line[strcspn(line, "\n")] = '\0';
        if (error)
            fclose(error);
        kv_fail(e, KV_ENV, "kvsim replay fails: %s", line);
    }
    return row;
}

bool kv_verify_live(const struct kv_verify *c, struct kv_live *l, const char *spec, int64_t window, struct kv_arena *a,
                    struct kv_err *e)
{
    struct kv_policy p;
    struct kv_host *h = c->host;
    return kv_policy_from_spec(&p, spec, a, e) &&
           kv_live_open(l, h->backend, &h->weights, &p, &h->run, c->prompt->id, c->prompt->n, h->output, window,
                        h->asked.page, false, a, e);
}

/* ---- the command ---- */

/* Importance of heads, drawn: no file is published for models of any shape. */
static const char *write_heads(const struct kv_verify *c, struct kv_err *e)
{
    const struct kv_config *m = &c->host->weights.config;
    const char *path = kv_format(c->arena, "%s/heads.tsv", c->folder);
    FILE *out = fopen(path, "w");
    for (int64_t i = 0; out && i < m->layers * m->kv_heads; i++)
        fprintf(out, "%.3f%c", 0.05 + 0.9 * kv_uniform(kv_random(0, kv_purpose("verify heads"), 0, (uint64_t)i)),
                (i + 1) % m->kv_heads ? '\t' : '\n');
    if (out && !fclose(out))
        return path;
    kv_fail(e, KV_ENV, "cannot write '%s': %s", path, strerror(errno));
    return NULL;
}

enum { MOST_SPECS = 1024 };

/* A SPEC of each kind, with budgets that bite on the prompt. */
static int default_specs(const struct kv_verify *c, const char **spec, struct kv_err *e)
{
    struct kv_arena *a = c->arena;
    int64_t n = c->prompt->n, part = c->host->run.chunk < n ? c->host->run.chunk / 8 : n / 16;
    long long few = n / 3 > 16 ? n / 3 : 16,
              window = part > 4 ? part : 4; /* in a chunk's 40 % there is room for more */
    const char *keys = kv_format(a, "keep=40%%,window_size=%lld", window), *heads = write_heads(c, e);
    int i = 0;
    spec[i++] = "full";
    spec[i++] = kv_format(a, "streaming:sink_size=4,recent_size=%lld", few);
    spec[i++] = kv_format(a, "h2o:tokens=%lld,recent_size=%lld", few, few / 4);
    spec[i++] = kv_format(a, "tova:tokens=%lld", few);
    spec[i++] = kv_format(a, "snapkv:%s", keys);
    spec[i++] = kv_format(a, "snapkv:when=postfill,round_to=1,%s", keys);
    spec[i++] = kv_format(a, "pyramidkv:when=postfill,round_to=1,%s", keys);
    spec[i++] = kv_format(a, "adakv:%s", keys);
    spec[i++] = kv_format(a, "ada-snapkv:%s", keys);
    if (heads)
        spec[i++] = kv_format(a, "headkv:%s,head_scores=%s", keys, heads);
    spec[i++] = kv_format(a, "l2:tokens=%lld,recent_size=%lld", few, few / 4);
    spec[i++] = kv_format(a, "l2-upstream:tokens=%lld,local_size=%lld", few, few / 4);
    spec[i++] = "keydiff:keep=40%";
    spec[i++] = "observed:keep=40%";
    spec[i++] = "cur:keep=40%";
    spec[i++] = "lagkv:keep=40%";
    spec[i++] = "expected:keep=40%";
    spec[i++] = "locret:keep=40%";
    spec[i++] = "random:keep=40%";
    spec[i++] = kv_format(a, "duo:sparsity=50%%,sink_size=4,recent_size=%lld", few / 2);
    spec[i++] = kv_format(a, "prulong:sparsity=70%%,sink_size=4,recent_size=%lld", few / 2);
    spec[i++] = "minference";
    spec[i++] = "moba";
    spec[i++] = "nsa";
    spec[i++] = "quest";
    return heads ? i : 0;
}

/* Names of files of ours without their folder, which is gone afterwards. */
static const char *name_of(const struct kv_verify *c, const char *spec)
{
    const char *at = strstr(spec, c->folder);
    return at ? kv_format(c->arena, "%.*s%s", (int)(at - spec), spec, at + strlen(c->folder) + 1) : spec;
}

/* Why a default cannot run live: what it scores by must come from a trace. NULL: it can. */
static const char *cannot_run(const struct kv_verify *c, const char *spec)
{
    struct kv_arena *a = kv_arena_open();
    struct kv_err *refused = KV_NEW(a, struct kv_err);
    struct kv_live l = {0};
    const char *why = NULL;
    if (!kv_verify_live(c, &l, spec, 0, a, refused))
        why = kv_format(c->arena, "not run: %s", refused->text);
    if (l.backend)
        kv_live_close(&l);
    kv_arena_close(a);
    return why;
}

static bool check_prompt(struct kv_verify *c, const char *const *spec, int n, bool defaults, struct kv_table *t,
                         struct kv_tally *tally, struct kv_err *e)
{
    if (!kv_verify_weights(c, &c->mechanics, e) || (c->open_loop && !kv_verify_full(c, spec, n, e)))
        return false;
    for (int i = 0; i < n; i++) {
        bool good = false;
        struct kv_cell *row = kv_table_row(t);
        const char *why = defaults ? cannot_run(c, spec[i]) : NULL;
        c->name = name_of(c, spec[i]);
        kv_set_text(t, row, "policy", c->name);
        kv_set_text(t, row, "prompt", c->prompt->name);
        kv_set_whole(t, row, "mechanics_only", c->mechanics != NULL);
        kv_set_text(t, row, "why", why);
        if (why)
            continue;
        if (!kv_verify_closed(c, spec[i], t, row, &good, e) ||
            (c->open_loop && !kv_verify_open(c, spec[i], t, row, &good, e)))
            return kv_while(e, "%s", c->name);
        tally->passed += good;
        tally->failed += !good;
    }
    return true;
}

/* ---- what people see ---- */

static void add_open_row(const struct kv_table *t, struct kv_cell *from, const char *prefix, const char *tokens,
                         struct kv_table *to)
{
    static const char *const same[] = {"kv_footprint",        "kv_peak",   "overlap",
                                       "overlap_worst",       "mass_held", "log_probability_loss",
                                       "next_token_agreement"};
    struct kv_cell *row = kv_table_row(to);
    double real[sizeof same / sizeof *same];
    for (size_t k = 0; k < sizeof same / sizeof *same; k++) {
        char key[64];
        snprintf(key, sizeof key, "%s%s", prefix, same[k]);
        real[k] = kv_table_cell(t, from, key)->real;
        kv_set_real(to, row, same[k], real[k]);
    }
    kv_set_text(to, row, "policy", *prefix ? "" : kv_table_cell(t, from, "policy")->text);
    kv_set_text(to, row, "tokens", tokens);
    kv_set_real(to, row, "footprint_off", real[0] - kv_table_cell(t, from, "predicted_footprint")->real);
    kv_set_real(to, row, "peak_off", real[1] - kv_table_cell(t, from, "predicted_peak")->real);
    kv_set_real(to, row, "predicted_mass_held", kv_table_cell(t, from, "predicted_mass_held")->real);
}

static void print_open(const struct kv_table *t)
{
    struct kv_table open;
    kv_table_open(&open, open_columns, sizeof open_columns / sizeof *open_columns, t->arena);
    for (int i = 0; i < t->n_rows; i++) {
        struct kv_cell *row = &t->cell[i * t->n_columns];
        if (isnan(kv_table_cell(t, row, "kv_footprint")->real))
            continue;
        add_open_row(t, row, "", "the full cache's", &open);
        add_open_row(t, row, "free_", "its own", &open);
    }
    printf("\nPredicted from the full cache's trace (open loop), and what came:\n");
    kv_table_print(&open, stdout);
}

static void print_people(const struct kv_table *t, bool open_loop)
{
    kv_table_print(t, stdout);
    if (open_loop)
        print_open(t);
    for (int i = 0; i < t->n_rows; i++) {
        struct kv_cell *row = &t->cell[i * t->n_columns];
        if (kv_table_cell(t, row, "why")->text)
            printf("%s: %s\n", kv_table_cell(t, row, "policy")->text, kv_table_cell(t, row, "why")->text);
    }
}

static bool open_results(struct kv_verify *c, const char *folder, struct kv_out *closed, struct kv_out *open,
                         struct kv_err *e)
{
    struct kv_out about;
    struct kv_arena *a = c->arena;
    if (!kv_result_folder(folder, a, e) || !kv_out_open(&about, kv_format(a, "%s/provenance.json", folder), a, e))
        return false;
    json_t *root = json_pack("{s:s, s:s, s:s, s:o, s:s, s:s}", "program", "kvengine", "version", KV_VERSION, "command",
                             "verify", "model", kv_json_text(c->host->folder), "backend", c->host->ops->name,
                             "kv_dtype", kv_dtype_names[c->host->asked.dtype]);
    kv_json_print(root, about.file);
    json_decref(root);
    if (!kv_out_close(&about, e) || !kv_out_open(closed, kv_format(a, "%s/closed_loop.csv", folder), a, e) ||
        !kv_out_open(open, kv_format(a, "%s/open_loop.csv", folder), a, e))
        return false;
    c->closed = closed->file;
    c->open = open->file;
    kv_verify_closed_header(c->closed);
    kv_verify_open_header(c->open);
    return true;
}

static bool close_results(const struct kv_table *t, const char *folder, struct kv_out *closed, struct kv_out *open,
                          struct kv_err *e)
{
    struct kv_out all;
    if (!kv_out_close(closed, e) || !kv_out_close(open, e) ||
        !kv_out_open(&all, kv_format(t->arena, "%s/policies.csv", folder), t->arena, e))
        return false;
    kv_table_csv(t, all.file);
    return kv_out_close(&all, e);
}

static bool check_prompts(struct kv_verify *c, const struct kv_args *args, struct kv_table *t, struct kv_tally *tally,
                          struct kv_err *e)
{
    struct kv_host *h = c->host;
    int n = kv_arg_times(args, "policy");
    const char *spec[MOST_SPECS];
    if (n > MOST_SPECS)
        return kv_fail(e, KV_USAGE, "%d policies are more than %d; ask for fewer", n, MOST_SPECS);
    for (int p = 0; p < h->n_prompts; p++) {
        int specs = n;
        c->prompt = &h->prompt[p];
        for (int i = 0; i < n; i++)
            spec[i] = kv_arg_nth(args, "policy", i);
        if ((!n && !(specs = default_specs(c, spec, e))) || !check_prompt(c, spec, specs, !n, t, tally, e))
            return false;
        if (c->mechanics && !kv_arg_flag(args, "csv") && !kv_arg_flag(args, "json"))
            printf("mechanics only (%s): %s\n", c->prompt->name, c->mechanics);
    }
    return true;
}

static bool check_policies(struct kv_host *h, const struct kv_args *args, struct kv_tally *tally, struct kv_arena *a,
                           struct kv_err *e)
{
    const char *results = kv_arg_text(args, "results", NULL);
    struct kv_table t;
    struct kv_out closed, open;
    struct kv_verify c = {.host = h,
                          .arena = a,
                          .reference = !kv_arg_flag(args, "no-reference") && !h->weights.drawn,
                          .open_loop = !kv_arg_flag(args, "no-open-loop"),
                          .tolerance = h->asked.dtype == KV_FP32  ? 0.0002
                                       : h->asked.dtype == KV_FP8 ? 0.25
                                                                  : 0.05};
    if (!kv_arg_real(args, "tolerance", 0, 1, &c.tolerance, a, e) || !(c.kvsim = kv_verify_kvsim(a, e)) ||
        (results && !kv_result_folder_check(results, a, e)) || !(c.folder = kv_scratch_folder("kvengine-verify", a, e)))
        return false;
    kv_table_open(&t, columns, sizeof columns / sizeof *columns, a);
    bool opened = results && open_results(&c, results, &closed, &open, e),
         good = (opened || !results) && check_prompts(&c, args, &t, tally, e);
    kv_remove_tree(c.folder);
    if (!good && opened) {
        kv_out_drop(&closed);
        kv_out_drop(&open);
    } else if (opened) {
        good = close_results(&t, results, &closed, &open, e);
    }
    if (good && !kv_table_as_asked(&t, args))
        print_people(&t, c.open_loop);
    return good;
}

/* The arguments, but for one option. */
static void leave_out(struct kv_args *args, const char *name, struct kv_arena *a)
{
    const struct kv_given *given = args->given;
    int n = args->n_given;
    args->given = KV_NEW_N(a, struct kv_given, n + 1);
    args->n_given = 0;
    for (int i = 0; i < n; i++)
        if (strcmp(given[i].option->name, name))
            args->given[args->n_given++] = given[i];
}

/* A model of random weights in the shape and with the tokenizer of FOLDER, in a folder of its own: *made. The weights
 * are wide enough for attention to have peaks. A device draws its own instead. */
static bool draw_model(const char *folder, const struct kv_args *args, const char **made, struct kv_arena *a,
                       struct kv_err *e)
{
    char *whole = realpath(folder, NULL);
    const char *out = NULL;
    int64_t seed = 0;
    struct kv_config config;
    bool good = kv_arg_count(args, "random-weights", 0, INT64_MAX, &seed, a, e) &&
                kv_config_read(&config, folder, a, e) && (out = kv_scratch_folder("kvengine-random", a, e));
    if (good) {
        *made = out;
        good = kv_weights_random(out, &config, KV_TENSOR_F32, (uint64_t)seed, 1.2 / sqrt((double)config.hidden), a, e);
    }
    if (good && symlink(kv_format(a, "%s/tokenizer.json", whole), kv_format(a, "%s/tokenizer.json", out)))
        good = kv_fail(e, KV_ENV, "cannot make a link in '%s': %s", out, strerror(errno));
    free(whole);
    return good;
}

static bool run(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    struct kv_host h = {0};
    const char *made = NULL;
    struct kv_tally tally = {0};
    const char *golden = kv_arg_text(args, "golden", NULL), *model = kv_arg_text(args, "model", NULL);
    struct kv_args with = *args;
    if (!args->n_operands && !model)
        return kv_fail(e, KV_USAGE, "no model; give its folder");
    if (!args->n_operands) {
        with.operand = &model;
        with.n_operands = 1;
    }
    kv_catch_signals();
    bool drawn = kv_arg_text(args, "random-weights", NULL) && strcmp(kv_arg_text(args, "backend", "cpu"), "cuda");
    bool good = !drawn || draw_model(with.operand[0], args, &made, a, e);
    if (made) {
        with.operand = &made;
        with.n_operands = 1;
        leave_out(&with, "random-weights", a);
    }
    good = good && kv_host_open(&h, &with, !golden, a, e) &&
           (golden ? kv_verify_golden(&h, golden, &tally, a, e) : check_policies(&h, args, &tally, a, e));
    kv_host_close(&h);
    if (made)
        kv_remove_tree(made);
    if (good && !kv_arg_flag(args, "csv") && !kv_arg_flag(args, "json"))
        printf("%lld passed, %lld failed\n", (long long)tally.passed, (long long)tally.failed);
    return good && (!tally.failed || kv_fail(e, KV_NO, "%lld of %lld checks are outside tolerance",
                                             (long long)tally.failed, (long long)(tally.passed + tally.failed)));
}

const struct kv_command kv_command_verify = {
    .name = "verify",
    .program = "kvengine",
    .operands = "[MODEL]",
    .summary = "The simulator against live runs of a model; or a model against golden outputs.",
    .about =
        "For each policy: the trace recorded under it, replayed by kvsim, must come to the same kept sets, entries, "
        "pages and\n"
        "bytes at every pass; a selector that shares no code with the policies must leave the same entries, and the "
        "dense fp64\n"
        "reference with the kept sets masked must come to the same logits; and what a trace of the full cache predicts "
        "is shown\n"
        "beside what happened, fed with the full cache's tokens and with its own. A model of random weights, or one "
        "that finds the\n"
        "prompt no likelier than chance, is marked: it shows that the mechanics are right, and nothing more.",
    .least = 0,
    .most = 1,
    .option = options,
    .n_options = sizeof options / sizeof *options,
    .run = run,
};
