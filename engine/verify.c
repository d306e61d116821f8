/* SPDX-License-Identifier: GPL-3.0-or-later */
/* `kvengine verify`: the simulator against live runs.
 *
 * Same scores: the trace recorded under a policy, replayed by the kvsim beside this program, comes to the same kept
 * sets, entries, pages and bytes; and the pages of the pool are those of the ledger at the end of every pass.
 * Independent: the dense fp64 reference, which is told what each lane still held, comes to the live run's logits. Open
 * loop: kept sets, footprint and peak predicted from a trace of the full cache, against the live run fed with the same
 * tokens; and what eviction did to the log-probability of these tokens. */
#include "engine/verify.h"

#include "engine/recorder.h"
#include "engine/reference.h"
#include "sim/table.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct kv_option options[] = {
    {.name = "model", .letter = 'm', .value = "DIR", .help = "the model, where it is no operand"},
    {.name = "golden", .letter = 'g', .value = "DIR", .help = "check golden outputs of the model instead of policies"},
    {.name = "policy",
     .value = "SPEC",
     .repeat = true,
     .help = "policies to check (default: one of each that can run live)"},
    {.name = "tolerance", .value = "X", .help = "of logits against the reference, of their largest (default 0.0002)"},
    {.name = "no-reference",
     .help = "leave out the fp64 reference, which is slow for more than some million parameters"},
    KV_HOST_OPTIONS,
    KV_OPTIONS_TABLE,
    KV_OPTIONS_COMMON,
};

static const struct kv_column columns[] = {
    {"policy", "policy", KV_CELL_TEXT},
    {"prompt", "prompt", KV_CELL_TEXT},
    {"passes", "passes", KV_CELL_COUNT},
    {"same_scores", "same\nscores", KV_CELL_TEXT},
    {"pages", "pages", KV_CELL_TEXT},
    {"logit_error", "logits against\nthe reference", KV_CELL_REAL},
    {"kv_footprint", "KV\nfootprint", KV_CELL_SHARE},
    {"predicted_footprint", "\npredicted", KV_CELL_SHARE},
    {"kv_peak", "KV\npeak", KV_CELL_SHARE},
    {"predicted_peak", "\npredicted", KV_CELL_SHARE},
    {"overlap", "kept sets\nas predicted", KV_CELL_SHARE},
    {"log_probability_loss", "loss of\nlog-probability", KV_CELL_REAL},
    {"next_token_agreement", "same next\ntoken", KV_CELL_SHARE},
    {"why", NULL, KV_CELL_TEXT},
};

struct check {
    struct kv_host *host;
    const struct kv_prompt *prompt;
    const char *folder; /* of temporary files */
    const char *kvsim;
    double tolerance;
    bool reference;
    /* Of the run with the full cache. */
    int32_t *token; /* (prompt + output,) */
    double full_lp; /* log-probability of its output */
    int32_t *full_next;
    struct kv_arena *arena;
};

/* ---- kvsim beside this program ---- */

static const char *find_kvsim(struct kv_arena *a, struct kv_err *e)
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

/* The first row of a replay's JSON; NULL after a message. */
static json_t *replay(const struct check *c, const char *trace, const char *spec, const char *out, struct kv_err *e)
{
    const char *command = kv_format(
        c->arena, "'%s' replay '%s' --json -q --block-size %lld --kv-cache-dtype fp32 --policy '%s' %s 2>'%s/error'",
        c->kvsim, trace, (long long)c->host->asked.page, spec, out ? kv_format(c->arena, "-o '%s' --kept", out) : "",
        c->folder);
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

/* ---- a live run, checked pass by pass ---- */

struct outcome {
    bool pages_agree, kept_all;
    double logit_error; /* NaN: no reference */
    double lp;
    int64_t agree, compared;
    double footprint, peak;
    uint64_t **set; /* (lanes,) at the end */
    int64_t held_peak_bytes, peak_bytes, end_bytes, passes;
};

static void fill_held(const struct kv_live *l, uint8_t *held, int64_t seen)
{
    for (int64_t i = 0; i < l->cache.lanes; i++) {
        const uint64_t *set = l->cache.lane[i].set;
        for (int64_t t = 0; t < seen; t++)
            held[i * seen + t] = t >= l->cache.lane[i].end || kv_set_has(set, t);
    }
}

/* The reference takes the pass that the live run took. */
static bool ask_reference(const struct check *c, struct kv_reference *r, const struct kv_live *l, const uint8_t *held,
                          const struct kv_pass *pass, double *logits, struct outcome *o, struct kv_err *e)
{
    int64_t vocab = c->host->weights.config.vocab;
    double most = 0, off = 0;
    if (!kv_reference_pass(r, l->pass_token, pass->n_new, pass->n_patch, held, logits, 1, e))
        return false;
    for (int64_t i = 0; i < vocab; i++) {
        most = fmax(most, fabs(logits[i]));
        off = fmax(off, fabs(logits[i] - (double)l->logits[i]));
    }
    o->logit_error = fmax(isnan(o->logit_error) ? 0 : o->logit_error, off / fmax(most, 1));
    return true;
}

static bool step(const struct check *c, struct kv_live *l, struct kv_reference *r, uint8_t *held, double *logits,
                 struct outcome *o, struct kv_err *e)
{
    struct kv_live *one[] = {l};
    int64_t seen = l->cache.seen;
    if (r)
        fill_held(l, held, seen);
    if (!kv_live_step(one, 1, e))
        return false;
    struct kv_backend_use use = l->backend->ops->use(l->backend);
    o->pages_agree &= use.pages_live == l->cache.ledger.pages[KV_PER_HEAD][KV_COMPACT].end;
    return !r || ask_reference(c, r, l, held, &l->pass, logits, o, e);
}

/* Feeds the prompt and then the tokens of the full cache's run (`forced`), or its own. */
static bool run_live(const struct check *c, struct kv_live *l, bool forced, struct kv_recorder *record, bool reference,
                     struct outcome *o, struct kv_err *e)
{
    int64_t vocab = c->host->weights.config.vocab, all = l->request.prompt + l->request.output,
            next = l->request.prompt;
    struct kv_reference *r = NULL;
    uint8_t *held = NULL;
    double *logits = NULL;
    *o = (struct outcome){.pages_agree = true, .logit_error = NAN};
    bool good = !reference || l->shape.store_heads != l->shape.kv_heads || kv_reference_open(&r, &c->host->weights, e);
    if (r) {
        held = malloc((size_t)(l->cache.lanes * all) + 1);
        logits = malloc(sizeof *logits * (size_t)vocab);
        good = (held && logits) || kv_fail(e, KV_ENV, "no memory for the reference's masks");
    }
    while (good && kv_live_next(l) && !kv_host_interrupted()) {
        good = step(c, l, r, held, logits, o, e);
        if (!good || l->cache.seen < l->n_token || next == all)
            continue;
        int32_t best = kv_live_greedy(l), token = forced ? c->token[next] : best;
        o->lp += kv_log_probability(l->logits, vocab, token);
        o->agree += best == c->token[next];
        o->compared++;
        if (record)
            kv_recorder_chose(record, token, kv_log_probability(l->logits, vocab, token));
        kv_live_add(l, token);
        next++;
    }
    if (r)
        kv_reference_close(r);
    free(held);
    free(logits);
    const struct kv_ledger *g = &l->cache.ledger;
    double lanes = (double)g->lanes, steps = (double)g->steps;
    o->footprint = (double)g->entry_steps / (lanes * steps * (steps + 1) / 2);
    o->peak = (double)g->entries[KV_SCOPE_LAYER].value / (lanes * steps);
    o->held_peak_bytes = g->peak_bytes[KV_SCOPE_LAYER];
    o->peak_bytes = g->pages[KV_PER_HEAD][KV_COMPACT].peak[KV_SCOPE_LAYER].value * kv_ledger_page_bytes(g, KV_PER_HEAD);
    o->end_bytes = g->pages[KV_PER_HEAD][KV_COMPACT].end * kv_ledger_page_bytes(g, KV_PER_HEAD);
    o->passes = g->passes;
    return good && (!kv_host_interrupted() || kv_fail(e, kv_host_signal_status(), "interrupted"));
}

static bool open_live(const struct check *c, struct kv_live *l, const char *spec, int64_t window, struct kv_arena *a,
                      struct kv_err *e)
{
    struct kv_policy p;
    struct kv_host *h = c->host;
    return kv_policy_from_spec(&p, spec, a, e) &&
           kv_live_open(l, h->backend, &h->weights, &p, &h->run, c->prompt->id, c->prompt->n, h->output, window,
                        h->asked.page, false, a, e);
}

/* ---- the three checks ---- */

static bool equal_whole(const json_t *row, const char *key, int64_t want, const char **why, struct kv_arena *a)
{
    int64_t got = json_integer_value(json_object_get(row, key));
    if (got != want && !**why)
        *why = kv_format(a, "%s: %lld live, %lld replayed", key, (long long)want, (long long)got);
    return got == want;
}

/* (a) and (b): recorded under the policy, replayed, and against the reference. Returns false on an error; the answer is
 * in the row. */
static bool check_closed(const struct check *c, const char *spec, const struct kv_table *t, struct kv_cell *row,
                         bool *good, struct kv_err *e)
{
    struct kv_arena *a = kv_arena_open();
    struct kv_live l = {0};
    struct kv_recorder *r = NULL;
    struct kv_recorder_asked asked = {
        .decode_tick = 1, .encoding = KV_ENC_F32, .filter = KV_FILTER_NONE, .model = c->host->folder};
    struct outcome o;
    const char *path = kv_format(a, "%s/closed.kvt.h5", c->folder), *why = "";
    bool fine = open_live(c, &l, spec, 0, a, e) && kv_recorder_open(&r, path, &asked, &l, a, e);
    if (fine && !run_live(c, &l, false, r, c->reference, &o, e)) {
        kv_recorder_abandon(r);
        fine = false;
    } else if (fine) {
        fine = kv_recorder_finish(r, e);
    }
    json_t *replayed = fine ? replay(c, path, spec, NULL, e) : NULL;
    if (replayed) {
        bool closed = l.policy.law->room != NULL,
             same = !closed || !json_integer_value(json_object_get(replayed, "kept_sets_differ"));
        if (!same)
            why = "kept sets differ";
        same &= equal_whole(replayed, "held_peak_bytes", o.held_peak_bytes, &why, c->arena);
        same &= equal_whole(replayed, "per_head_peak_bytes", o.peak_bytes, &why, c->arena);
        same &= equal_whole(replayed, "per_head_end_bytes", o.end_bytes, &why, c->arena);
        bool logits = isnan(o.logit_error) || o.logit_error <= c->tolerance;
        if (!logits && !*why)
            why = "logits are off";
        *good = same && o.pages_agree && logits;
        kv_set_whole(t, row, "passes", o.passes);
        kv_set_text(t, row, "same_scores", same ? "yes" : "NO");
        kv_set_text(t, row, "pages", o.pages_agree ? "yes" : "NO");
        kv_set_real(t, row, "logit_error", o.logit_error);
        kv_set_text(t, row, "why", *why ? kv_copy_text(t->arena, why) : NULL);
    }
    json_decref(replayed);
    unlink(path);
    if (l.backend)
        kv_live_close(&l);
    kv_arena_close(a);
    return replayed != NULL;
}

/* Positions that both kept at the end, as a share of what the live run kept. kept.csv: policy,layer,head,first,last. */
static double read_overlap(const struct check *c, const struct kv_live *l, const char *folder)
{
    FILE *in = fopen(kv_format(c->arena, "%s/kept.csv", folder), "r");
    char line[8192];
    int64_t common = 0, held = 0;
    for (int64_t i = 0; i < l->cache.lanes; i++)
        held += kv_cache_held(&l->cache, i / l->shape.store_heads, i % l->shape.store_heads);
    while (in && fgets(line, sizeof line, in)) {
        char *at = line + strlen(line);
        long long number[4]; /* from the end: last, first, head, layer */
        int n = 0;
        while (n < 4 && at > line) {
            while (at > line && *at != ',')
                at--;
            number[n++] = strtoll(at + 1, NULL, 10);
            *at = '\0';
        }
        if (n < 4 || number[3] < 0 || number[3] >= l->shape.layers || number[2] >= l->shape.store_heads ||
            !strchr(line, ':'))
            continue;
        const uint64_t *set = kv_cache_set((struct kv_cache *)&l->cache, number[3], number[2]);
        for (long long p = number[1]; p <= number[0] && p < l->cache.seen; p++)
            common += kv_set_has(set, p);
    }
    if (in)
        fclose(in);
    return held ? (double)common / (double)held : 1;
}

/* (c): predicted from the full cache's trace, against the run with the policy on, fed with the same tokens. */
static bool check_open(const struct check *c, const char *spec, const struct kv_table *t, struct kv_cell *row,
                       struct kv_err *e)
{
    struct kv_arena *a = kv_arena_open();
    struct kv_live l = {0};
    struct outcome o;
    const char *out = kv_format(a, "%s/open", c->folder);
    struct kv_err *refused = KV_NEW(a, struct kv_err);
    json_t *predicted = replay(c, kv_format(a, "%s/full.kvt.h5", c->folder), spec, out, refused);
    if (!predicted) { /* patched passes, for one, cannot be told from passes without the patch */
        kv_set_text(t, row, "why", kv_format(t->arena, "no prediction: %s", refused->text));
        kv_arena_close(a);
        return true;
    }
    bool fine = open_live(c, &l, spec, 0, a, e) && run_live(c, &l, true, NULL, false, &o, e);
    if (fine) {
        kv_set_real(t, row, "kv_footprint", o.footprint);
        kv_set_real(t, row, "predicted_footprint", json_number_value(json_object_get(predicted, "kv_footprint")));
        kv_set_real(t, row, "kv_peak", o.peak);
        kv_set_real(t, row, "predicted_peak", json_number_value(json_object_get(predicted, "kv_peak")));
        kv_set_real(t, row, "overlap", strchr(spec, ':') ? read_overlap(c, &l, out) : 1);
        kv_set_real(t, row, "log_probability_loss", o.compared ? (c->full_lp - o.lp) / (double)o.compared : NAN);
        kv_set_real(t, row, "next_token_agreement", o.compared ? (double)o.agree / (double)o.compared : NAN);
    }
    json_decref(predicted);
    if (l.backend)
        kv_live_close(&l);
    (void)!system(kv_format(a, "rm -rf '%s'", out));
    kv_arena_close(a);
    return fine;
}

/* The full cache once: its tokens are those that every policy is fed with, its trace what predictions are made from. */
static bool run_full(struct check *c, const char *const *spec, int n, struct kv_err *e)
{
    struct kv_arena *a = c->arena;
    struct kv_live l = {0};
    struct kv_recorder *r;
    struct kv_recorder_asked asked = {
        .decode_tick = 1, .encoding = KV_ENC_F32, .filter = KV_FILTER_NONE, .model = c->host->folder};
    struct outcome o;
    int64_t all = c->prompt->n + c->host->output;
    asked.query_rows = c->host->weights.config.q_heads > c->host->weights.config.kv_heads;
    for (int i = 0; i < n; i++) {
        struct kv_policy p;
        if (!kv_policy_from_spec(&p, spec[i], a, e))
            return false;
        asked.channels |= (p.score->needs | p.score->observes) & ~(KV_BIT(KV_EXTERNAL) | KV_BIT(KV_EXPECTED));
        if (p.score->window)
            asked.window = p.keys.window_size;
    }
    asked.channels |= KV_BIT(KV_COLUMN_SUM);
    asked.window = asked.window ? asked.window : 64;
    c->token = KV_NEW_N(a, int32_t, all + 1);
    if (!open_live(c, &l, "full", asked.window, a, e))
        return false;
    bool good = kv_recorder_open(&r, kv_format(a, "%s/full.kvt.h5", c->folder), &asked, &l, a, e);
    if (good && !run_live(c, &l, false, r, false, &o, e)) {
        kv_recorder_abandon(r);
        good = false;
    } else if (good) {
        good = kv_recorder_finish(r, e);
    }
    if (good) {
        memcpy(c->token, l.token, sizeof *c->token * (size_t)l.n_token);
        c->full_lp = o.lp;
    }
    kv_live_close(&l);
    return good;
}

/* ---- the command ---- */

/* A SPEC of each kind that evicts and can run live, with budgets that bite on a prompt of n tokens. */
static int default_specs(const char **spec, int64_t n, struct kv_arena *a)
{
    long long few = n / 3 > 16 ? n / 3 : 16, window = n / 16 > 4 ? n / 16 : 4;
    const char *keys = kv_format(a, "keep=40%%,window_size=%lld", window);
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
    spec[i++] = kv_format(a, "l2:tokens=%lld,recent_size=%lld", few, few / 4);
    spec[i++] = kv_format(a, "l2-upstream:tokens=%lld,local_size=%lld", few, few / 4);
    spec[i++] = "keydiff:keep=40%";
    spec[i++] = "observed:keep=40%";
    spec[i++] = "cur:keep=40%";
    spec[i++] = "lagkv:keep=40%";
    spec[i++] = "random:keep=40%";
    spec[i++] = kv_format(a, "duo:sparsity=50%%,sink_size=4,recent_size=%lld", few / 2);
    return i;
}
enum { DEFAULT_SPECS = 32 };

static bool check_prompt(struct check *c, const char *const *spec, int n, struct kv_table *t, struct kv_tally *tally,
                         struct kv_err *e)
{
    if (!run_full(c, spec, n, e))
        return false;
    for (int i = 0; i < n; i++) {
        bool good = false;
        struct kv_cell *row = kv_table_row(t);
        kv_set_text(t, row, "policy", spec[i]);
        kv_set_text(t, row, "prompt", c->prompt->name);
        if (!check_closed(c, spec[i], t, row, &good, e) || !check_open(c, spec[i], t, row, e))
            return kv_while(e, "%s", spec[i]);
        tally->passed += good;
        tally->failed += !good;
    }
    return true;
}

static bool check_policies(struct kv_host *h, const struct kv_args *args, struct kv_tally *tally, struct kv_arena *a,
                           struct kv_err *e)
{
    const char *tolerance = kv_arg_text(args, "tolerance", "0.0002"), *tmp = getenv("TMPDIR");
    char *folder = kv_format(a, "%s/kvengine-verify-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    int n = kv_arg_times(args, "policy");
    struct kv_table t;
    struct check c = {
        .host = h, .arena = a, .reference = !kv_arg_flag(args, "no-reference"), .tolerance = strtod(tolerance, NULL)};
    if (!(c.tolerance > 0))
        return kv_fail(e, KV_USAGE, "--tolerance '%s' is no number above 0", tolerance);
    if (!(c.kvsim = find_kvsim(a, e)))
        return false;
    if (!mkdtemp(folder))
        return kv_fail(e, KV_ENV, "cannot make a folder '%s': %s", folder, strerror(errno));
    c.folder = folder;
    kv_table_open(&t, columns, sizeof columns / sizeof *columns, a);
    bool good = true;
    for (int p = 0; good && p < h->n_prompts; p++) {
        const char *spec[DEFAULT_SPECS + 1024];
        int specs = n < 1024 ? n : 1024;
        for (int i = 0; i < specs; i++)
            spec[i] = kv_arg_nth(args, "policy", i);
        if (!specs)
            specs = default_specs(spec, h->prompt[p].n, a);
        c.prompt = &h->prompt[p];
        good = check_prompt(&c, spec, specs, &t, tally, e);
    }
    (void)!system(kv_format(a, "rm -rf '%s'", folder));
    if (good && kv_arg_flag(args, "csv")) {
        kv_table_csv(&t, stdout);
    } else if (good && kv_arg_flag(args, "json")) {
        json_t *root = kv_table_json(&t);
        kv_json_print(root, stdout);
        json_decref(root);
    } else if (good) {
        kv_table_print(&t, stdout);
        for (int i = 0; i < t.n_rows; i++)
            if (kv_table_cell(&t, &t.cell[i * t.n_columns], "why")->text)
                printf("%s: %s\n", t.cell[i * t.n_columns].text,
                       kv_table_cell(&t, &t.cell[i * t.n_columns], "why")->text);
    }
    return good;
}

static bool run(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    struct kv_host h = {0};
    struct kv_tally tally = {0};
    const char *golden = kv_arg_text(args, "golden", NULL), *model = kv_arg_text(args, "model", NULL);
    struct kv_args with = *args;
    if (!args->n_operands && !model)
        return kv_fail(e, KV_USAGE, "no model; give its folder");
    if (!args->n_operands) {
        with.operand = &model;
        with.n_operands = 1;
    }
    kv_host_catch_signals();
    bool good = kv_host_open(&h, &with, !golden, a, e) &&
                (golden ? kv_verify_golden(&h, golden, &tally, a, e) : check_policies(&h, args, &tally, a, e));
    kv_host_close(&h);
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
        "For each policy: the trace recorded under it, replayed by kvsim, must come to the same kept sets, pages and "
        "bytes; the\n"
        "dense fp64 reference with the kept sets masked must come to the same logits; and what a trace of the full "
        "cache predicts\n"
        "is shown beside what happened. On random weights this says that the mechanics are right, and nothing more.",
    .least = 0,
    .most = 1,
    .option = options,
    .n_options = sizeof options / sizeof *options,
    .run = run,
};
