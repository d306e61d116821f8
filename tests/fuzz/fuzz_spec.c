/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Any text as a policy SPEC, fitted to a small model and walked through a short request. Six bytes choose model and
 * request, the rest is the text. A policy that is taken must print keys that read back the same; its walk in runs must
 * charge the ledger what the walk pass by pass does. A spec with a '/' names files and is left out. */
#include "sim/core/ledger.h"
#include "sim/core/paper.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER = 6, SPEC_MOST = 400 };

enum { GROUPED, SLIDING, SLIDING_IN_TURN, LATENT, ONE_LAYER, MODELS = 8 }; /* those behind are like the first */

static struct kv_model small_model(int which, struct kv_arena *a)
{
    struct kv_model m = {.name = "small",
                         .type = "llama",
                         .origin = "small.ini",
                         .layers = 5,
                         .q_heads = 4,
                         .kv_heads = 2,
                         .head_dim = 32,
                         .hidden = 64,
                         .intermediate = 128,
                         .vocab = 1000,
                         .max_positions = 4096,
                         .norms_per_layer = 2};
    struct kv_err e = {0};
    if (which == SLIDING || which == SLIDING_IN_TURN) {
        m.sliding_window = 48;
        m.sliding_full_every = which == SLIDING_IN_TURN ? 2 : 0;
    } else if (which == ONE_LAYER) {
        m.layers = 1;
        m.kv_heads = m.q_heads;
    } else if (which == LATENT) {
        m.type = "deepseek_v2";
        m.kv_lora_rank = 64;
        m.rope_dim = 16;
        m.nope_dim = 16;
        m.value_dim = 16;
    }
    if (!kv_model_finish(&m, a, &e))
        abort();
    return m;
}

/* ---- keys ---- */

static const char *keys_text(const struct kv_policy *p, struct kv_arena *a)
{
    const char *text = kv_format(a, "%s:", p->kind->name);
    for (int b = 0; b < p->n_binds; b++)
        for (int i = 0; i < p->bind[b].n; i++) {
            const struct kv_field *f = &p->bind[b].field[i];
            if (strcmp(f->key, "kind"))
                text = kv_format(a, "%s%s=%s,", text, f->key, kv_field_text(f, p->bind[b].base, a));
        }
    return text;
}

static void check_keys(const struct kv_policy *p, struct kv_arena *a)
{
    struct kv_policy again;
    struct kv_err e = {0};
    const char *text = keys_text(p, a);
    if (!kv_policy_from_spec(&again, text, a, &e))
        kv_bug(text, 0, e.text);
    KV_ASSERT(!strcmp(keys_text(&again, a), text));
    KV_ASSERT(again.law == p->law && again.score == p->score && again.budget == p->budget);
    KV_ASSERT(!memcmp(&again.when, &p->when, sizeof p->when));
}

/* ---- walks ---- */

static void check_pass(const struct kv_policy *p, const struct kv_classes *c, const struct kv_run *run)
{
    const struct kv_pass *pass = &run->pass;
    KV_ASSERT(run->passes >= 1 && pass->n_new >= 1 && pass->n_patch >= 0);
    for (int64_t i = 0; i < c->n; i++) {
        int64_t before = run->before[i], after = before + run->gain[i], window = c->at[i].window;
        KV_ASSERT(before >= 0 && before <= pass->seen && after >= 0 && run->gain[i] <= pass->n_new);
        KV_ASSERT(!window || after <= window);
        if (!pass->evict && !window)
            KV_ASSERT(run->gain[i] == pass->n_new);
        if (!window)
            KV_ASSERT(after >= p->floor || after == before + pass->n_new);
    }
}

/* Returns entries summed over query steps. */
static int64_t walk(struct kv_ledger *l, struct kv_walk *w, const struct kv_request *r, int64_t most)
{
    int64_t sum = 0, index = 0, seen = 0;
    struct kv_run run;
    kv_walk_restart(w, r);
    while (kv_walk_next(w, most, &run)) {
        check_pass(l->policy, l->classes, &run);
        KV_ASSERT(run.passes <= most && run.pass.index == index && run.pass.seen == seen);
        kv_ledger_add(l, &run);
        int64_t n = run.pass.n_new;
        for (int64_t i = 0; i < l->classes->n; i++)
            for (int64_t j = 0; j < run.passes; j++)
                sum += l->classes->at[i].lanes * (n * (run.before[i] + j * run.gain[i]) + n * (n + 1) / 2);
        index += run.passes;
        seen += n * run.passes;
    }
    KV_ASSERT(seen == kv_request_steps(r) && l->steps == seen && l->passes == index && l->entry_steps == sum);
    return sum;
}

static void same_peak(const struct kv_peak *a, const struct kv_peak *b)
{
    KV_ASSERT(a->value == b->value && a->pass == b->pass && a->seen == b->seen && a->layer == b->layer);
    KV_ASSERT(a->decode == b->decode && a->patched == b->patched);
}

static void same_ledger(const struct kv_ledger *a, const struct kv_ledger *b)
{
    KV_ASSERT(a->end_entries == b->end_entries && a->end_entries_peak == b->end_entries_peak);
    KV_ASSERT(a->in_place == b->in_place && a->end_bytes == b->end_bytes && a->scratch_entries == b->scratch_entries &&
              a->evictions == b->evictions);
    for (int scope = 0; scope < KV_SCOPES; scope++) {
        same_peak(&a->entries[scope], &b->entries[scope]);
        KV_ASSERT(a->pass_entries[scope] == b->pass_entries[scope]);
    }
    for (int layout = 0; layout < KV_LAYOUTS; layout++)
        for (int how = 0; how < KV_COMPACTIONS; how++) {
            const struct kv_page_count *x = &a->pages[layout][how], *y = &b->pages[layout][how];
            if (how == KV_IN_PLACE && !a->in_place)
                continue;
            KV_ASSERT(x->end == y->end && x->end_peak == y->end_peak && x->resident == y->resident);
            KV_ASSERT(x->returned == y->returned && x->steps == y->steps);
            for (int scope = 0; scope < KV_SCOPES; scope++)
                same_peak(&x->peak[scope], &y->peak[scope]);
        }
}

static void check_figures(const struct kv_policy *p, const struct kv_shape *s, const struct kv_request *r,
                          int64_t steps)
{
    const struct kv_reads *reads = p->kind->reads;
    if (reads)
        KV_ASSERT(reads->read_sum(p, r->prefill, steps) >= 0);
    KV_ASSERT(kv_summary_bytes(p, s, steps) >= 0 && kv_summary_entry_steps(p, s, steps) >= 0);
    struct kv_paper_form form = {0};
    if (p->law->paper)
        form = p->law->paper(p, r, p->when.chunk);
    if (!form.defined)
        return;
    struct kv_paper paper = kv_paper_count(&form, r->prompt, r->output);
    KV_ASSERT(paper.footprint > 0 && paper.footprint < 1 + 1e-12 && paper.peak > 0 && paper.peak < 1 + 1e-12);
}

static void check_walks(const struct kv_policy *p, const struct kv_shape *s, const struct kv_request *r, int64_t page,
                        struct kv_arena *a)
{
    struct kv_classes classes;
    struct kv_ledger runs, passes;
    struct kv_walk w;
    struct kv_err e = {0};
    if (!kv_classes_make(&classes, p, s, a, &e) || !kv_request_check(r, s, &e))
        abort();
    kv_walk_start(&w, p, s, &classes, r, a);
    kv_ledger_open(&runs, p, s, &classes, page, a);
    kv_ledger_open(&passes, p, s, &classes, page, a);
    KV_ASSERT(walk(&runs, &w, r, INT64_MAX) == walk(&passes, &w, r, 1));
    same_ledger(&runs, &passes);
    KV_ASSERT(kv_ledger_page_bytes(&runs, KV_SHARED) == page * runs.lanes * kv_store_entry_bytes(&p->store));
    KV_ASSERT(runs.end_bytes <= runs.end_entries * kv_store_entry_bytes(&p->store) + kv_ledger_buffer_bytes(&runs));
    kv_ledger_reset(&runs);
    walk(&runs, &w, r, 3);
    same_ledger(&runs, &passes);
    check_figures(p, s, r, passes.steps);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < HEADER || size > HEADER + SPEC_MOST || memchr(data, '/', size))
        return 0;
    struct kv_arena *a = kv_arena_open();
    struct kv_err e = {0};
    struct kv_model m = small_model(data[0] % MODELS, a);
    struct kv_request r = {.prompt = 1 + 4 * data[1] + data[2] / 2, .output = data[3]};
    r.prefill = r.prompt - data[2] % 2;
    struct kv_defaults run = {.chunk = 1 + 2 * data[5], .dtype = KV_BF16};
    const char *spec = kv_copy_part(a, (const char *)data + HEADER, size - HEADER);
    struct kv_policy p;
    struct kv_shape shape;

    if (!kv_policy_from_spec(&p, spec, a, &e)) {
        KV_ASSERT(e.n > 0 && e.status == KV_USAGE && e.length > 0);
    } else {
        KV_ASSERT(e.n == 0);
        check_keys(&p, a);
        if (kv_policy_prepare(&p, &m, &run, &shape, a, &e))
            check_walks(&p, &shape, &r, 1 + data[4] % 64, a);
        else
            KV_ASSERT(e.n > 0 && (e.status == KV_USAGE || e.status == KV_DATA) && e.length > 0);
    }
    kv_arena_close(a);
    return 0;
}
