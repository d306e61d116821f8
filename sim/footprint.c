/* SPDX-License-Identifier: GPL-3.0-or-later */
/* `kvsim footprint`: one request from its lengths. */
#include "sim/batch.h"
#include "sim/cli.h"
#include "sim/core/preset.h"
#include "sim/core/units.h"
#include "sim/count.h"
#include "sim/output.h"
#include "sim/pool.h"
#include "sim/table.h"

#include <math.h>
#include <string.h>

static const char *const accountings[] = {"actual", "paper", NULL};
enum { ACTUAL, PAPER };
static const char *const switches[] = {"on", "off", NULL};
static const char *const prefills[] = {"prompt", "prompt-1", NULL};

static const struct kv_option options[] = {
    {.name = "model",
     .letter = 'm',
     .value = "M",
     .help = "a preset ('Llama-3.1-8B'), a preset file, or a Hugging Face folder"},
    {.name = "prompt", .letter = 'p', .value = "N", .help = "prompt tokens"},
    {.name = "output", .letter = 'n', .value = "N", .help = "output tokens (default 1)"},
    {.name = "chunk", .letter = 'c', .value = "N", .help = "tokens of a prefill chunk (default 8192)"},
    {.name = "policy",
     .value = "SPEC",
     .repeat = true,
     .help = "kind[:key=value,...], see 'kvsim policies' (default full)"},
    {.name = "accounting", .value = "A", .help = "actual (default): what is held; paper: the released closed forms"},
    {.name = "evict-scope",
     .value = "S",
     .help = "layer (default): each evicts as its attention ends; pass: all at its end"},
    {.name = "layout", .value = "L", .help = "page tables: per-head (default), per-layer, shared"},
    {.name = "compaction", .value = "on|off", .help = "off: a page goes when every entry in it went (default on)"},
    {.name = "block-size", .value = "N", .help = "entries of a page (default 16)"},
    {.name = "kv-cache-dtype", .value = "T", .help = "auto (default: the model's), bf16, fp16, fp8, int8 or int4"},
    {.name = "prefill", .value = "P", .help = "prompt (default), or prompt-1: its last token is the first decode step"},
    {.name = "disable-sliding-window", .help = "sliding-window layers hold everything"},
    {.name = "timeline", .value = "FILE", .help = "write entries and bytes at each pass and step as CSV"},
    {.name = "batch", .value = "FILE", .help = "cases from a CSV ('-': standard input), no model needed; see kvsim(1)"},
    KV_OPTIONS_TABLE,
    KV_OPTIONS_COMMON,
};

static const struct kv_column columns[] = {
    {"policy", "policy", KV_CELL_TEXT},
    {"chunk_tokens", "chunk", KV_CELL_COUNT},
    {"kv_footprint", "KV\nfootprint", KV_CELL_SHARE}, /* of the chosen accounting */
    {"kv_peak", "KV\npeak", KV_CELL_SHARE},
    {"held_peak_bytes", "held\nat peak", KV_CELL_BYTES},
    {"pages_peak_bytes", "in pages\nat peak", KV_CELL_BYTES}, /* of the chosen layout, compaction, scope */
    {"pages_end_peak_bytes", "at ends\nof passes", KV_CELL_BYTES},
    {"pages_end_bytes", "at the\nend", KV_CELL_BYTES},
    {"returned_bytes", "returned\nby eviction", KV_CELL_BYTES},
    {"active", "read /\nheld", KV_CELL_SHARE},
    {"peak_cause", "peak in", KV_CELL_TEXT},
    {"kv_footprint_actual", NULL, KV_CELL_REAL},
    {"kv_footprint_paper", NULL, KV_CELL_REAL},
    {"kv_peak_actual_scope_layer", NULL, KV_CELL_REAL},
    {"kv_peak_actual_scope_pass", NULL, KV_CELL_REAL},
    {"kv_peak_actual_pass_ends", NULL, KV_CELL_REAL},
    {"kv_peak_paper", NULL, KV_CELL_REAL},
    {"held_peak_scope_layer_bytes", NULL, KV_CELL_BYTES},
    {"held_peak_scope_pass_bytes", NULL, KV_CELL_BYTES},
    {"held_end_peak_bytes", NULL, KV_CELL_BYTES},
    {"held_end_bytes", NULL, KV_CELL_BYTES},
    {"peak_pass", NULL, KV_CELL_COUNT},
    {"peak_seen_tokens", NULL, KV_CELL_COUNT},
    {"peak_layer", NULL, KV_CELL_COUNT},
    {"per_head_peak_bytes", NULL, KV_CELL_BYTES},
    {"per_layer_peak_bytes", NULL, KV_CELL_BYTES},
    {"shared_peak_bytes", NULL, KV_CELL_BYTES},
    {"per_head_in_place_peak_bytes", NULL, KV_CELL_BYTES},
    {"per_layer_in_place_peak_bytes", NULL, KV_CELL_BYTES},
    {"shared_in_place_peak_bytes", NULL, KV_CELL_BYTES},
    {"pages_mean_bytes", NULL, KV_CELL_BYTES},
    {"summary_bytes", NULL, KV_CELL_BYTES},
    {"buffer_bytes", NULL, KV_CELL_BYTES},
    {"scratch_bytes", NULL, KV_CELL_BYTES},
    {"passes", NULL, KV_CELL_COUNT},
    {"evictions", NULL, KV_CELL_COUNT},
    {"note", NULL, KV_CELL_TEXT},
};

struct asked {
    struct kv_model model;
    struct kv_request request;
    struct kv_defaults run;
    int64_t page;
    int accounting, scope, layout, compaction;
    const char *timeline;
};

static bool needs(const struct kv_args *args, const char *name, const char *why, struct kv_err *e)
{
    return kv_arg_flag(args, name) || kv_fail(e, KV_USAGE, "no --%s; %s", name, why);
}

static bool read_asked(const struct kv_args *args, struct asked *q, struct kv_arena *a, struct kv_err *e)
{
    int prefill = 0;
    *q = (struct asked){.request = {.output = 1}, .run = {.chunk = 8192}, .page = 16, .layout = KV_PER_HEAD};
    needs(args, "model", "give a preset such as 'Llama-3.1-8B', or a folder with a config.json", e);
    needs(args, "prompt", "give the prompt's tokens, as in --prompt 131072", e);
    kv_arg_count(args, "prompt", 1, INT64_MAX, &q->request.prompt, a, e);
    kv_arg_count(args, "output", 0, INT64_MAX, &q->request.output, a, e);
    kv_arg_count(args, "chunk", 1, 1 << 30, &q->run.chunk, a, e);
    kv_arg_count(args, "block-size", 1, 65536, &q->page, a, e);
    kv_arg_choice(args, "accounting", accountings, &q->accounting, a, e);
    kv_arg_choice(args, "evict-scope", kv_scope_names, &q->scope, a, e);
    kv_arg_choice(args, "layout", kv_layout_names, &q->layout, a, e);
    kv_arg_choice(args, "compaction", switches, &q->compaction, a, e);
    kv_arg_choice(args, "prefill", prefills, &prefill, a, e);
    q->timeline = kv_arg_text(args, "timeline", NULL);
    if (e->n || !kv_model_find(kv_arg_text(args, "model", ""), &q->model, a, e))
        return false;
    int dtype = 0;
    kv_arg_choice(args, "kv-cache-dtype", kv_dtype_choices, &dtype, a, e);
    q->run.dtype = kv_dtype_of_choice(dtype, kv_cache_dtype_of(&q->model));
    if (kv_arg_flag(args, "disable-sliding-window"))
        q->model.sliding_window = 0;
    q->request.prefill = q->request.prompt - prefill;
    return !e->n;
}

static const char *cause(const struct kv_peak *p, struct kv_arena *a)
{
    char seen[KV_NUMBER_TEXT];
    return kv_format(a, "%s after %s tokens",
                     p->decode    ? "decode"
                     : p->patched ? "patched chunk"
                                  : "prefill chunk",
                     kv_print_count(seen, p->seen));
}

static void fill_row(struct kv_table *t, const struct asked *q, const struct kv_counter *c, const struct kv_count *n)
{
    struct kv_cell *row = kv_table_row(t);
    const struct kv_place *pages = &n->pages[q->layout][q->compaction][q->scope];
    bool paper = q->accounting == PAPER;
    kv_set_text(t, row, "policy", c->policy.name);
    kv_set_whole(t, row, "chunk_tokens", n->chunk);
    kv_set_real(t, row, "kv_footprint", paper ? n->footprint_paper : n->footprint_actual);
    kv_set_real(t, row, "kv_peak", paper ? n->peak_paper : n->peak_actual[q->scope]);
    kv_set_real(t, row, "kv_footprint_actual", n->footprint_actual);
    kv_set_real(t, row, "kv_footprint_paper", n->footprint_paper);
    kv_set_real(t, row, "kv_peak_actual_scope_layer", n->peak_actual[KV_SCOPE_LAYER]);
    kv_set_real(t, row, "kv_peak_actual_scope_pass", n->peak_actual[KV_SCOPE_PASS]);
    kv_set_real(t, row, "kv_peak_actual_pass_ends", n->end_peak_actual);
    kv_set_real(t, row, "kv_peak_paper", n->peak_paper);
    kv_set_whole(t, row, "held_peak_bytes", n->held[q->scope].bytes);
    kv_set_whole(t, row, "held_peak_scope_layer_bytes", n->held[KV_SCOPE_LAYER].bytes);
    kv_set_whole(t, row, "held_peak_scope_pass_bytes", n->held[KV_SCOPE_PASS].bytes);
    kv_set_whole(t, row, "held_end_peak_bytes", n->held_end_peak);
    kv_set_whole(t, row, "held_end_bytes", n->held_end);
    kv_set_whole(t, row, "pages_peak_bytes", pages->bytes);
    kv_set_whole(t, row, "pages_end_peak_bytes", n->pages_end_peak[q->layout][q->compaction]);
    kv_set_whole(t, row, "pages_end_bytes", n->pages_end[q->layout][q->compaction]);
    kv_set_whole(t, row, "returned_bytes", n->returned[q->layout][q->compaction]);
    kv_set_whole(t, row, "pages_mean_bytes", (int64_t)n->pages_mean[q->layout][q->compaction]);
    static const char *const peaks[KV_COMPACTIONS][KV_LAYOUTS] = {
        {"per_head_peak_bytes", "per_layer_peak_bytes", "shared_peak_bytes"},
        {"per_head_in_place_peak_bytes", "per_layer_in_place_peak_bytes", "shared_in_place_peak_bytes"}};
    for (int how = 0; how < KV_COMPACTIONS; how++)
        for (int layout = 0; layout < KV_LAYOUTS; layout++)
            kv_set_whole(t, row, peaks[how][layout], n->pages[layout][how][q->scope].bytes);
    kv_set_real(t, row, "active", n->active);
    kv_set_text(t, row, "peak_cause", cause(&n->held[q->scope].at, t->arena));
    kv_set_whole(t, row, "peak_pass", n->held[q->scope].at.pass);
    kv_set_whole(t, row, "peak_seen_tokens", n->held[q->scope].at.seen);
    kv_set_whole(t, row, "peak_layer", n->held[q->scope].at.layer);
    kv_set_whole(t, row, "summary_bytes", n->summary_bytes);
    kv_set_whole(t, row, "buffer_bytes", n->buffer_bytes);
    kv_set_whole(t, row, "scratch_bytes", n->scratch_bytes);
    kv_set_whole(t, row, "passes", n->passes);
    kv_set_whole(t, row, "evictions", n->evictions);
    const struct kv_reads *reads = c->policy.kind->reads;
    kv_set_text(t, row, "note", reads && reads->trained ? reads->trained : c->policy.note);
}

/* ---- timeline ---- */

static const struct kv_column timeline_columns[] = {
    {"policy", "", KV_CELL_TEXT},
    {"pass", "", KV_CELL_COUNT},
    {"phase", "", KV_CELL_TEXT},
    {"seen_tokens", "", KV_CELL_COUNT}, /* after the pass */
    {"new_tokens", "", KV_CELL_COUNT},
    {"patch_tokens", "", KV_CELL_COUNT},
    {"entries_in_pass", "", KV_CELL_COUNT}, /* largest moment, of the chosen scope */
    {"entries_end", "", KV_CELL_COUNT},
    {"held_end_bytes", "", KV_CELL_BYTES},
    {"per_head_in_pass_bytes", "", KV_CELL_BYTES},
    {"per_head_end_bytes", "", KV_CELL_BYTES},
    {"per_layer_in_pass_bytes", "", KV_CELL_BYTES},
    {"per_layer_end_bytes", "", KV_CELL_BYTES},
    {"shared_in_pass_bytes", "", KV_CELL_BYTES},
    {"shared_end_bytes", "", KV_CELL_BYTES},
    {"returned_bytes", "", KV_CELL_BYTES}, /* so far, of the chosen layout */
};

static void timeline_row(struct kv_table *t, const struct asked *q, const struct kv_counter *c, const struct kv_pass *p)
{
    static const char *const in_pass[] = {"per_head_in_pass_bytes", "per_layer_in_pass_bytes", "shared_in_pass_bytes"};
    static const char *const end[] = {"per_head_end_bytes", "per_layer_end_bytes", "shared_end_bytes"};
    const struct kv_ledger *l = &c->ledger;
    struct kv_cell *row = kv_table_row(t);
    int64_t seen = p->seen + p->n_new;
    int64_t beside = kv_summary_bytes(&c->policy, &c->shape, seen) + kv_ledger_buffer_bytes(l);
    kv_set_text(t, row, "policy", c->policy.name);
    kv_set_whole(t, row, "pass", p->index);
    kv_set_text(t, row, "phase", p->decode_step >= 0 ? "decode" : "prefill");
    kv_set_whole(t, row, "seen_tokens", seen);
    kv_set_whole(t, row, "new_tokens", p->n_new);
    kv_set_whole(t, row, "patch_tokens", p->n_patch);
    kv_set_whole(t, row, "entries_in_pass", l->pass_entries[q->scope]);
    kv_set_whole(t, row, "entries_end", l->end_entries);
    kv_set_whole(t, row, "held_end_bytes", l->end_bytes + kv_summary_bytes(&c->policy, &c->shape, seen));
    bool known = q->compaction == KV_COMPACT || l->in_place;
    for (int layout = 0; known && layout < KV_LAYOUTS; layout++) {
        int64_t page = kv_ledger_page_bytes(l, (enum kv_layout)layout);
        kv_set_whole(t, row, in_pass[layout], l->pass_pages[layout][q->compaction][q->scope] * page + beside);
        kv_set_whole(t, row, end[layout], l->pages[layout][q->compaction].end * page + beside);
    }
    if (known)
        kv_set_whole(t, row, "returned_bytes",
                     l->pages[q->layout][q->compaction].returned * kv_ledger_page_bytes(l, (enum kv_layout)q->layout));
}

static void walk_timeline(const struct asked *q, struct kv_counter *c, FILE *out, struct kv_arena *a)
{
    struct kv_table t; /* of one row, used again: a long request has millions */
    kv_table_open(&t, timeline_columns, sizeof timeline_columns / sizeof *timeline_columns, a);
    const struct kv_request r = kv_counter_request(c, &q->request);
    kv_walk_restart(&c->walk, &r);
    kv_ledger_reset(&c->ledger);
    for (struct kv_run run; kv_walk_next(&c->walk, 1, &run); t.n_rows = 0) {
        kv_ledger_add(&c->ledger, &run);
        timeline_row(&t, q, c, &run.pass);
        kv_table_csv_rows(&t, out);
    }
}

static bool write_timeline(const struct asked *q, struct kv_counter *const *counter, int n, struct kv_arena *a,
                           struct kv_err *e)
{
    struct kv_table t;
    struct kv_out out;
    if (!kv_out_open(&out, q->timeline, a, e))
        return false;
    kv_table_open(&t, timeline_columns, sizeof timeline_columns / sizeof *timeline_columns, a);
    kv_table_csv_header(&t, out.file);
    for (int i = 0; i < n; i++)
        walk_timeline(q, counter[i], out.file, a);
    return kv_out_close(&out, e);
}

/* ---- the command ---- */

static bool check_in_place(const struct asked *q, const struct kv_policy *p, struct kv_err *e)
{
    if (q->compaction == KV_COMPACT || kv_policy_in_place(p))
        return true;
    return kv_fail(e, KV_USAGE,
                   "%s compaction off needs to know which entries stay, and lengths do not tell for score '%s'; "
                   "replay a trace, or leave compaction on",
                   p->where, p->score->name);
}

static bool count_policies(const struct kv_args *args, const struct asked *q, struct kv_table *table,
                           struct kv_counter **counters, struct kv_arena *a, struct kv_err *e)
{
    int n = kv_arg_times(args, "policy");
    for (int i = 0; i < (n ? n : 1); i++) {
        struct kv_policy policy;
        struct kv_counter *counter = counters[i] = KV_NEW(a, struct kv_counter);
        struct kv_count count;
        if (!kv_policy_from_spec(&policy, n ? kv_arg_nth(args, "policy", i) : "full", a, e) ||
            !check_in_place(q, &policy, e) || !kv_counter_open(counter, &policy, &q->model, &q->run, q->page, a, e) ||
            !kv_counter_run(counter, &q->request, &count, e))
            continue; /* what is wrong with the others is said too */
        fill_row(table, q, counter, &count);
    }
    return !e->n;
}

static void print_heading(const struct asked *q)
{
    char prompt[KV_NUMBER_TEXT], output[KV_NUMBER_TEXT];
    kv_print_model(&q->model, q->run.dtype);
    printf("prompt %s, output %s tokens; accounting %s, evict scope %s, layout %s, pages of %lld, compaction %s\n\n",
           kv_print_count(prompt, q->request.prompt), kv_print_count(output, q->request.output),
           accountings[q->accounting], kv_scope_names[q->scope], kv_layout_names[q->layout], (long long)q->page,
           switches[q->compaction]);
}

static void print_notes(const struct kv_table *t)
{
    bool any = false;
    for (int r = 0; r < t->n_rows; r++) {
        struct kv_cell *row = &t->cell[r * t->n_columns];
        const char *note = kv_table_cell(t, row, "note")->text;
        if (note)
            printf("%s%s: %s\n", any ? "" : "\n", kv_table_cell(t, row, "policy")->text, note);
        any |= note != NULL;
    }
}

static bool run_batch(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    int accounting = PAPER;
    if (!kv_arg_choice(args, "accounting", accountings, &accounting, a, e))
        return false;
    if (accounting != PAPER)
        return kv_fail(e, KV_USAGE,
                       "--batch computes the paper's accounting; for --accounting actual give --model, "
                       "--prompt and --policy");
    for (int i = 0; i < args->n_given; i++) {
        const char *name = args->given[i].option->name;
        if (!kv_in_list("batch, accounting, csv, quiet, verbose", name))
            return kv_fail(e, KV_USAGE, "--batch takes every length and sparsity from its file; remove --%s", name);
    }
    return kv_batch(kv_arg_text(args, "batch", NULL), stdout, a, e);
}

static bool run(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    if (kv_arg_flag(args, "batch"))
        return run_batch(args, a, e);
    struct asked q;
    struct kv_table table;
    int n = kv_arg_times(args, "policy");
    struct kv_counter **counter = KV_NEW_N(a, struct kv_counter *, n + 1);
    if (!read_asked(args, &q, a, e))
        return false;
    kv_table_open(&table, columns, sizeof columns / sizeof *columns, a);
    if (!count_policies(args, &q, &table, counter, a, e))
        return false;
    if (kv_arg_flag(args, "verbose"))
        fprintf(stderr, "model from %s\n", q.model.origin);
    if (q.timeline && !write_timeline(&q, counter, n ? n : 1, a, e))
        return false;
    if (!kv_table_as_asked(&table, args)) {
        print_heading(&q);
        kv_table_print(&table, stdout);
        print_notes(&table);
    }
    return true;
}

const struct kv_command kv_command_footprint = {
    .name = "footprint",
    .operands = "",
    .summary = "What the KV cache of one request costs under some policies, from lengths alone.",
    .about = "example: kvsim footprint --model Llama-3.1-8B --prompt 131072 --output 100 --chunk 32768 \\\n"
             "             --policy full --policy duo:sparsity=0.7 --policy pyramidkv:keep=30%,patch=64",
    .option = options,
    .n_options = sizeof options / sizeof *options,
    .run = run,
};
