/* SPDX-License-Identifier: GPL-3.0-or-later */
/* `kvengine generate` prints text; `kvengine run` also what the policy held, freed and cost. */
#include "engine/host.h"

#include "sim/interrupt.h"
#include "sim/output.h"
#include "sim/progress.h"
#include "sim/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct kv_option generate_options[] = {
    KV_HOST_OPTIONS,
    KV_HOST_RANDOM,
    {.name = "temperature", .letter = 't', .value = "X", .help = "of sampling; 0 (default): the most likely token"},
    {.name = "top-p", .value = "X", .help = "share of probability that is sampled from (default 1)"},
    {.name = "seed", .letter = 's', .value = "N", .help = "of sampling (default 0)"},
    {.name = "no-stop", .help = "go on after the end-of-text token"},
    {.name = "max-num-seqs",
     .value = "N",
     .help = "prompts in the batch at most (default all); the next one joins when one has ended"},
    {.name = "print-ids", .help = "print token ids instead of text"},
    KV_OPTIONS_COMMON,
};

static const struct kv_option run_options[] = {
    KV_HOST_OPTIONS,
    KV_HOST_RANDOM,
    {.name = "policy",
     .value = "SPEC",
     .repeat = true,
     .help = "kind[:key=value,...], see 'kvsim policies' (default full); each runs on all prompts"},
    {.name = "temperature", .letter = 't', .value = "X", .help = "of sampling; 0 (default): the most likely token"},
    {.name = "top-p", .value = "X", .help = "share of probability that is sampled from (default 1)"},
    {.name = "seed", .letter = 's', .value = "N", .help = "of sampling (default 0)"},
    {.name = "no-stop", .help = "go on after the end-of-text token"},
    {.name = "max-num-seqs",
     .value = "N",
     .help = "prompts in the batch at most (default all); the next one joins when one has ended"},
    {.name = "slot-positions",
     .help = "rotate keys by their place in the cache, as StreamingLLM does; policies of sinks and recents only"},
    {.name = "timeline", .value = "FILE", .help = "write entries, pages and bytes at each pass as CSV"},
    KV_OPTIONS_TABLE,
    KV_OPTIONS_COMMON,
};

/* One sequence and what became of it. */
struct sequence {
    struct kv_live live;
    struct kv_sampler sampler;
    bool ended;
    int64_t generated;
    double prefill_s;          /* when the prompt was through; NaN: not yet */
    struct kv_backend_use use; /* as it ended, its pages included */
    const char *prompt;
};

/* All prompts under one policy. */
struct batch {
    struct kv_host *h;
    struct kv_arena *a;
    const struct kv_policy *policy;
    struct sequence *s;        /* (prompts,) the first `joined` were opened */
    struct kv_table *timeline; /* or NULL */
    int joined, going, most;   /* at most `most` go at a time */
    bool stops, slots;
    struct kv_progress progress;
};

static bool read_sampling(struct kv_host *h, const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    int64_t seed = 0;
    h->sampler.top_p = 1;
    if (!kv_arg_real(args, "temperature", 0, 100, &h->sampler.temperature, a, e) ||
        !kv_arg_real(args, "top-p", 0, 1, &h->sampler.top_p, a, e) ||
        !kv_arg_count(args, "seed", 0, INT64_C(1) << 53, &seed, a, e))
        return e->n == 0;
    h->sampler.seed = (uint64_t)seed;
    return !e->n;
}

/* The token after the last pass, once the prompt is through. */
static void choose(const struct kv_host *h, struct sequence *s, bool stops)
{
    struct kv_live *l = &s->live;
    if (s->ended || l->cache.seen < l->n_token)
        return;
    if (s->generated == l->request.output) {
        s->ended = true;
        return;
    }
    int32_t token = kv_sample(&s->sampler, l->logits, h->weights.config.vocab, (uint64_t)s->generated++);
    kv_live_add(l, token);
    s->ended = s->generated == l->request.output || (stops && kv_host_ends(h, token));
}

static const struct kv_column timeline_columns[] = {
    {"policy", NULL, KV_CELL_TEXT},       {"prompt", NULL, KV_CELL_TEXT},
    {"pass", NULL, KV_CELL_COUNT},        {"seen_tokens", NULL, KV_CELL_COUNT},
    {"phase", NULL, KV_CELL_TEXT},        {"entries_in_pass", NULL, KV_CELL_COUNT},
    {"entries_end", NULL, KV_CELL_COUNT}, {"in_pass_bytes", NULL, KV_CELL_BYTES},
    {"end_bytes", NULL, KV_CELL_BYTES},   {"resident_bytes", NULL, KV_CELL_BYTES},
    {"pass_s", NULL, KV_CELL_REAL},
};

/* What the last pass of a sequence left. */
static void add_timeline(const struct kv_host *h, const struct sequence *s, double seconds, struct kv_table *t)
{
    const struct kv_live *l = &s->live;
    const struct kv_ledger *g = &l->cache.ledger;
    int64_t page = kv_ledger_page_bytes(g, KV_PER_HEAD);
    struct kv_cell *row = kv_table_row(t);
    kv_set_text(t, row, "policy", l->policy.name);
    kv_set_text(t, row, "prompt", s->prompt);
    kv_set_whole(t, row, "pass", l->pass.index);
    kv_set_whole(t, row, "seen_tokens", l->cache.seen);
    kv_set_text(t, row, "phase", l->pass.decode_step >= 0 ? "decode" : "prefill");
    kv_set_whole(t, row, "entries_in_pass", g->pass_entries[KV_SCOPE_LAYER]);
    kv_set_whole(t, row, "entries_end", g->end_entries);
    kv_set_whole(t, row, "in_pass_bytes", g->pass_pages[KV_PER_HEAD][KV_COMPACT][KV_SCOPE_LAYER] * page);
    kv_set_whole(t, row, "end_bytes", g->pages[KV_PER_HEAD][KV_COMPACT].end * page);
    kv_set_whole(t, row, "resident_bytes", h->backend->ops->use(h->backend).resident_bytes);
    kv_set_real(t, row, "pass_s", seconds);
}

/* Prompts join in their order while there is place. */
static bool join(struct batch *b, struct kv_err *e)
{
    struct kv_host *h = b->h;
    for (; b->joined < h->n_prompts && b->going < b->most; b->joined++, b->going++) {
        const struct kv_prompt *p = &h->prompt[b->joined];
        struct sequence *s = &b->s[b->joined];
        *s = (struct sequence){.sampler = h->sampler, .prefill_s = NAN, .prompt = p->name};
        s->sampler.stream = (uint64_t)b->joined;
        if (!kv_live_open(&s->live, h->backend, &h->weights, b->policy, &h->run, p->id, p->n, h->output, 0,
                          h->asked.page, false, b->a, e))
            return kv_while(e, "%s", p->name);
        s->live.seq.slot_positions = b->slots;
    }
    return true;
}

/* What a pass of a sequence leaves behind; when it was the last, its place. */
static void after_pass(struct batch *b, struct sequence *s, double seconds)
{
    struct kv_live *l = &s->live;
    if (isnan(s->prefill_s) && l->cache.seen >= l->request.prefill)
        s->prefill_s = l->pass_s;
    if (b->timeline)
        add_timeline(b->h, s, seconds, b->timeline);
    choose(b->h, s, b->stops);
    if (!s->ended)
        return;
    s->use = b->h->backend->ops->use(b->h->backend);
    kv_live_leave(l);
    b->going--;
}

/* One pass of all sequences that go, together. */
static bool step(struct batch *b, struct kv_err *e)
{
    KV_ASSERT(b->going > 0);
    struct sequence *who[b->going];
    struct kv_live *live[b->going];
    double before[b->going];
    int64_t seen = 0;
    int n = 0;
    for (int i = 0; i < b->joined; i++)
        if (!b->s[i].ended) {
            who[n] = &b->s[i];
            live[n] = &who[n]->live;
            before[n] = live[n]->pass_s;
            seen -= live[n++]->cache.seen;
        }
    if (!kv_live_step(live, n, e))
        return false;
    for (int i = 0; i < n; i++) {
        seen += live[i]->cache.seen;
        after_pass(b, who[i], live[i]->pass_s - before[i]);
    }
    kv_progress_add(&b->progress, seen);
    return true;
}

/* Until each prompt has ended. */
static bool run_all(struct batch *b, struct kv_err *e)
{
    int64_t tokens = 0;
    bool good = true;
    for (int i = 0; i < b->h->n_prompts; i++)
        tokens += kv_request_steps(
            &(struct kv_request){.prompt = b->h->prompt[i].n, .output = b->h->output, .prefill = b->h->prompt[i].n});
    kv_progress_start(&b->progress, "tokens run", tokens, b->h->quiet);
    while (good && (b->going || b->joined < b->h->n_prompts) && !kv_interrupted())
        good = join(b, e) && step(b, e);
    kv_progress_end(&b->progress);
    return good && (!kv_interrupted() || kv_fail(e, kv_interrupt_status(), "interrupted"));
}

static bool open_batch(struct batch *b, struct kv_host *h, const struct kv_args *args, const struct kv_policy *policy,
                       struct kv_arena *a, struct kv_err *e)
{
    int64_t most = h->n_prompts;
    *b = (struct batch){.h = h, .a = a, .policy = policy, .stops = !kv_arg_flag(args, "no-stop")};
    kv_arg_count(args, "max-num-seqs", 1, INT32_MAX, &most, a, e);
    b->most = (int)most;
    b->s = KV_NEW_N(a, struct sequence, h->n_prompts);
    return !e->n;
}

static void close_batch(struct batch *b)
{
    for (int i = 0; b->s && i < b->h->n_prompts; i++)
        if (b->s[i].live.backend)
            kv_live_close(&b->s[i].live);
}

/* ---- generate ---- */

static bool print_text(const struct kv_host *h, const struct sequence *s, bool ids, struct kv_err *e)
{
    const struct kv_live *l = &s->live;
    const int32_t *token = l->token + l->request.prompt;
    char *text;
    size_t bytes;
    if (ids || !h->tokenizer) {
        for (int64_t i = 0; i < s->generated; i++)
            printf("%s%d", i ? "," : "", token[i]);
        putchar('\n');
        return true;
    }
    if (!kv_tokenizer_decode(h->tokenizer, token, s->generated, false, &text, &bytes, e))
        return false;
    fwrite(text, 1, bytes, stdout);
    putchar('\n');
    free(text);
    return true;
}

static bool generate(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    struct kv_host h;
    struct kv_policy full;
    struct batch b = {0};
    bool good = kv_host_open(&h, args, true, a, e) && read_sampling(&h, args, a, e) &&
                kv_policy_from_spec(&full, "full", a, e) && open_batch(&b, &h, args, &full, a, e);
    kv_catch_signals();
    good = good && run_all(&b, e);
    for (int i = 0; good && i < h.n_prompts; i++)
        good = print_text(&h, &b.s[i], kv_arg_flag(args, "print-ids"), e);
    close_batch(&b);
    kv_host_close(&h);
    return good;
}

const struct kv_command kv_command_generate = {
    .name = "generate",
    .program = "kvengine",
    .operands = "MODEL",
    .summary = "Text from a model, with the full cache.",
    .about = "MODEL is a Hugging Face folder: config.json, model.safetensors, tokenizer.json.",
    .least = 1,
    .most = 1,
    .option = generate_options,
    .n_options = sizeof generate_options / sizeof *generate_options,
    .run = generate,
};

/* ---- run ---- */

static const struct kv_column columns[] = {
    {"policy", "policy", KV_CELL_TEXT},
    {"prompt", "prompt", KV_CELL_TEXT},
    {"kv_dtype", NULL, KV_CELL_TEXT},
    {"prompt_tokens", "prompt\ntokens", KV_CELL_COUNT},
    {"generated_tokens", "generated", KV_CELL_COUNT},
    {"kv_footprint", "KV\nfootprint", KV_CELL_SHARE},
    {"kv_peak", "KV\npeak", KV_CELL_SHARE},
    {"held_peak_bytes", "held\nat peak", KV_CELL_BYTES},
    {"pages_peak_bytes", "in pages\nat peak", KV_CELL_BYTES},
    {"pages_end_bytes", "at the\nend", KV_CELL_BYTES},
    {"pool_pages", NULL, KV_CELL_COUNT},
    {"resident_bytes", "resident", KV_CELL_BYTES},
    {"device_bytes", NULL, KV_CELL_BYTES},
    {"ties", NULL, KV_CELL_COUNT},
    {"passes", NULL, KV_CELL_COUNT},
    {"prefill_s", "prefill\ns", KV_CELL_REAL},
    {"score_s", "scores\ns", KV_CELL_REAL},
    {"evict_s", "eviction\ns", KV_CELL_REAL},
    {"pass_s", "all\ns", KV_CELL_REAL},
    {"text", NULL, KV_CELL_TEXT},
};

static const char *text_of(const struct kv_host *h, const struct sequence *s, struct kv_arena *a)
{
    char *text;
    size_t bytes;
    struct kv_err ignored = {0};
    if (!h->tokenizer || !kv_tokenizer_decode(h->tokenizer, s->live.token + s->live.request.prompt, s->generated, false,
                                              &text, &bytes, &ignored))
        return NULL;
    const char *copy = kv_copy_part(a, text, bytes);
    free(text);
    return copy;
}

static void fill_row(const struct kv_host *h, const struct sequence *s, struct kv_table *t, struct kv_arena *a)
{
    const struct kv_live *l = &s->live;
    const struct kv_ledger *g = &l->cache.ledger;
    double lanes = (double)g->lanes, steps = (double)g->steps;
    int64_t page = kv_ledger_page_bytes(g, KV_PER_HEAD), ties = 0;
    for (int64_t i = 0; i < l->cache.lanes; i++)
        ties += l->cache.lane[i].ties;
    struct kv_cell *row = kv_table_row(t);
    kv_set_text(t, row, "policy", l->policy.name);
    kv_set_text(t, row, "prompt", s->prompt);
    kv_set_text(t, row, "kv_dtype", kv_dtype_names[h->asked.dtype]);
    kv_set_whole(t, row, "prompt_tokens", l->request.prompt);
    kv_set_whole(t, row, "generated_tokens", s->generated);
    kv_set_real(t, row, "kv_footprint", (double)g->entry_steps / (lanes * steps * (steps + 1) / 2));
    kv_set_real(t, row, "kv_peak", (double)g->entries[KV_SCOPE_LAYER].value / (lanes * steps));
    kv_set_whole(t, row, "held_peak_bytes", g->peak_bytes[KV_SCOPE_LAYER]);
    kv_set_whole(t, row, "pages_peak_bytes", g->pages[KV_PER_HEAD][KV_COMPACT].peak[KV_SCOPE_LAYER].value * page);
    kv_set_whole(t, row, "pages_end_bytes", g->pages[KV_PER_HEAD][KV_COMPACT].end * page);
    kv_set_whole(t, row, "pool_pages", s->use.pages_live);
    kv_set_whole(t, row, "resident_bytes", s->use.resident_bytes);
    if (s->use.device_bytes)
        kv_set_whole(t, row, "device_bytes", s->use.device_bytes);
    kv_set_whole(t, row, "ties", ties);
    kv_set_whole(t, row, "passes", g->passes);
    kv_set_real(t, row, "prefill_s", s->prefill_s);
    kv_set_real(t, row, "score_s", l->score_s);
    kv_set_real(t, row, "evict_s", l->evict_s);
    kv_set_real(t, row, "pass_s", l->pass_s);
    kv_set_text(t, row, "text", text_of(h, s, a));
}

static bool run_policy(struct kv_host *h, const char *spec, const struct kv_args *args, struct kv_table *t,
                       struct kv_table *timeline, struct kv_arena *a, struct kv_err *e)
{
    struct kv_policy policy;
    struct batch b;
    bool slots = kv_arg_flag(args, "slot-positions");
    if (!kv_policy_from_spec(&policy, spec, a, e))
        return false;
    if (slots && !policy.score->positional)
        return kv_fail(e, KV_USAGE, "%s --slot-positions goes with policies of sinks and recents only", policy.where);
    bool good = open_batch(&b, h, args, &policy, a, e);
    b.slots = slots;
    b.timeline = timeline;
    good = good && run_all(&b, e);
    for (int i = 0; good && i < h->n_prompts; i++)
        fill_row(h, &b.s[i], t, a);
    close_batch(&b);
    return good;
}

static void print(const struct kv_table *t, const struct kv_args *args)
{
    if (kv_table_as_asked(t, args))
        return;
    kv_table_print(t, stdout);
    for (int i = 0; i < t->n_rows; i++) {
        const char *text = t->cell[(i + 1) * t->n_columns - 1].text;
        if (text)
            printf("\n%s, %s:\n%s\n", t->cell[i * t->n_columns].text, t->cell[i * t->n_columns + 1].text, text);
    }
}

static bool write_timeline(const struct kv_table *t, const char *path, struct kv_arena *a, struct kv_err *e)
{
    struct kv_out out;
    if (!kv_out_open(&out, path, a, e))
        return false;
    kv_table_csv(t, out.file);
    return kv_out_close(&out, e);
}

static bool run(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    struct kv_host h;
    struct kv_table t, timeline;
    const char *path = kv_arg_text(args, "timeline", NULL);
    int n = kv_arg_times(args, "policy");
    kv_table_open(&timeline, timeline_columns, sizeof timeline_columns / sizeof *timeline_columns, a);
    bool good = kv_host_open(&h, args, true, a, e) && read_sampling(&h, args, a, e);
    kv_catch_signals();
    kv_table_open(&t, columns, sizeof columns / sizeof *columns, a);
    for (int i = 0; good && i < (n ? n : 1); i++)
        good = run_policy(&h, n ? kv_arg_nth(args, "policy", i) : "full", args, &t, path ? &timeline : NULL, a, e);
    if (good && path)
        good = write_timeline(&timeline, path, a, e);
    if (good)
        print(&t, args);
    kv_host_close(&h);
    return good;
}

const struct kv_command kv_command_run = {
    .name = "run",
    .program = "kvengine",
    .operands = "MODEL",
    .summary = "Prompts under eviction policies: text, footprint, pages, resident bytes, time.",
    .least = 1,
    .most = 1,
    .option = run_options,
    .n_options = sizeof run_options / sizeof *run_options,
    .run = run,
};
