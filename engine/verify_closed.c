/* SPDX-License-Identifier: GPL-3.0-or-later */
/* `kvengine verify`: a run under a policy, watched at every pass. Same scores: the trace recorded of it, replayed by
 * the kvsim beside this program, comes to the same kept sets, entries, pages and bytes at every pass, and the pages of
 * the pool are those of the ledger. Independent: the selector that sorts by the published rules (engine/selector.h)
 * leaves the same entries, and the dense fp64 reference, told only what each lane still held, comes to the same logits.
 */
#include "engine/recorder.h"
#include "engine/reference.h"
#include "engine/verify.h"
#include "engine/witness.h"
#include "sim/interrupt.h"
#include "sim/csv.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What a pass came to, live or replayed. The names are those of a replay's timeline.csv. */
enum { SEEN, IN_PASS, END, IN_PASS_BYTES, END_BYTES, SUMS };
static const char *const sum_names[SUMS] = {"seen_tokens", "entries_in_pass", "entries_end", "in_pass_bytes",
                                            "end_bytes"};

struct pass_sums {
    int64_t of[SUMS];
    int64_t pool_bytes; /* of the backend */
};

struct closed {
    const struct kv_verify *c;
    struct kv_live live;
    struct kv_recorder *recorder;
    struct kv_witness witness;
    struct kv_reference *reference; /* or NULL */
    uint8_t *held;
    double *logits;
    double logit_error; /* NaN: no reference */
    bool pages_agree;
    struct pass_sums *pass; /* (n_passes,) malloc */
    int64_t n_passes, room;
    struct kv_arena *arena;
};

/* ---- the reference ---- */

static void fill_held(struct closed *r)
{
    const struct kv_cache *c = &r->live.cache;
    for (int64_t i = 0; i < c->lanes; i++)
        for (int64_t t = 0; t < c->seen; t++)
            r->held[i * c->seen + t] = t >= c->lane[i].end || kv_set_has(c->lane[i].set, t);
}

/* The pass that the live run took. */
static bool ask_reference(struct closed *r, struct kv_err *e)
{
    const struct kv_live *l = &r->live;
    int64_t vocab = l->weights->config.vocab;
    double most = 1, off = 0;
    if (!kv_reference_pass(r->reference, l->pass_token, l->pass.n_new, l->pass.n_patch, r->held, r->logits, 1, e))
        return false;
    for (int64_t i = 0; i < vocab; i++) {
        most = fmax(most, fabs(r->logits[i]));
        off = fmax(off, fabs(r->logits[i] - (double)l->logits[i]));
    }
    r->logit_error = fmax(isnan(r->logit_error) ? 0 : r->logit_error, off / most);
    return true;
}

/* It knows KV heads only: policies that hold a set for each query head go without. */
static bool open_reference(struct closed *r, struct kv_err *e)
{
    const struct kv_live *l = &r->live;
    int64_t tokens = l->request.prompt + l->request.output;
    if (!r->c->reference || l->shape.store_heads != l->shape.kv_heads)
        return true;
    if (!kv_reference_open(&r->reference, l->weights, e))
        return false;
    r->held = malloc((size_t)(l->cache.lanes * tokens) + 1);
    r->logits = malloc(sizeof *r->logits * (size_t)l->weights->config.vocab);
    return (r->held && r->logits) || kv_fail(e, KV_ENV, "no memory for the reference's masks");
}

/* ---- the run ---- */

static bool note_pass(struct closed *r, struct kv_err *e)
{
    const struct kv_ledger *g = &r->live.cache.ledger;
    const struct kv_page_count *pages = &g->pages[KV_PER_HEAD][KV_COMPACT];
    struct kv_backend_use use = r->live.backend->ops->use(r->live.backend);
    int64_t page = kv_ledger_page_bytes(g, KV_PER_HEAD), beside = kv_ledger_buffer_bytes(g);
    if (r->n_passes == r->room) {
        r->room = 2 * r->room + 64;
        struct pass_sums *more = realloc(r->pass, sizeof *more * (size_t)r->room);
        if (!more)
            return kv_fail(e, KV_ENV, "no memory for %lld passes", (long long)r->room);
        r->pass = more;
    }
    r->pass[r->n_passes++] = (struct pass_sums){
        .of = {[SEEN] = r->live.cache.seen,
               [IN_PASS] = g->pass_entries[KV_SCOPE_LAYER],
               [END] = g->end_entries,
               [IN_PASS_BYTES] = g->pass_pages[KV_PER_HEAD][KV_COMPACT][KV_SCOPE_LAYER] * page + beside,
               [END_BYTES] = pages->end * page + beside},
        .pool_bytes = use.pages_live * use.page_bytes};
    r->pages_agree &= use.pages_live == pages->end;
    return true;
}

static bool step(struct closed *r, struct kv_err *e)
{
    struct kv_live *one[] = {&r->live};
    if (r->reference)
        fill_held(r);
    return kv_live_step(one, 1, e) && (!r->reference || ask_reference(r, e)) && note_pass(r, e);
}

static bool run(struct closed *r, struct kv_err *e)
{
    struct kv_live *l = &r->live;
    int64_t all = l->request.prompt + l->request.output;
    while (kv_live_next(l) && !kv_interrupted()) {
        if (!step(r, e))
            return false;
        if (l->cache.seen < l->n_token || l->n_token == all)
            continue;
        int32_t token = kv_live_greedy(l);
        kv_recorder_chose(r->recorder, token, kv_log_probability(l->logits, l->weights->config.vocab, token));
        kv_live_add(l, token);
    }
    return !kv_interrupted() || kv_fail(e, kv_interrupt_status(), "interrupted");
}

static bool record(struct closed *r, const char *spec, const char *trace, struct kv_err *e)
{
    struct kv_recorder_asked asked = {
        .decode_tick = 1, .encoding = KV_ENC_F32, .filter = KV_FILTER_NONE, .model = r->c->host->folder};
    if (!kv_verify_live(r->c, &r->live, spec, 0, r->arena, e) ||
        !kv_recorder_open(&r->recorder, trace, &asked, &r->live, r->arena, e))
        return false;
    bool known = kv_rule_of(r->live.policy.law->name) != KV_RULE_UNKNOWN;
    bool good = (!known || kv_witness_open(&r->witness, &r->live, r->arena, e)) && open_reference(r, e) && run(r, e);
    if (known)
        kv_witness_close(&r->witness);
    if (good)
        return kv_recorder_finish(r->recorder, e);
    kv_recorder_abandon(r->recorder);
    return false;
}

/* ---- against the replay ---- */

/* Both in one line of CSV each pass; the first difference goes to *why. */
static bool compare_pass(struct closed *r, int64_t i, const int64_t *replayed, const char **why)
{
    const struct pass_sums *live = &r->pass[i];
    FILE *out = r->c->closed;
    bool same = true;
    if (out) {
        kv_csv_put(r->c->name, out);
        fputc(',', out);
        kv_csv_put(r->c->prompt->name, out);
        fprintf(out, ",%lld,%lld", (long long)i, (long long)live->of[SEEN]);
    }
    for (int k = 0; k < SUMS; k++) {
        same &= live->of[k] == replayed[k];
        if (live->of[k] != replayed[k] && !**why)
            *why = kv_format(r->c->arena, "pass %lld: %s: %lld live, %lld replayed", (long long)i, sum_names[k],
                             (long long)live->of[k], (long long)replayed[k]);
        if (out && k != SEEN)
            fprintf(out, ",%lld,%lld", (long long)live->of[k], (long long)replayed[k]);
    }
    if (out)
        fprintf(out, ",%lld\n", (long long)live->pool_bytes);
    return same;
}

void kv_verify_closed_header(FILE *out)
{
    fputs("policy,prompt,pass,seen_tokens", out);
    for (int k = 0; k < SUMS; k++)
        if (k != SEEN)
            fprintf(out, ",%s,replayed_%s", sum_names[k], sum_names[k]);
    fputs(",pool_bytes\n", out);
}

static bool compare_passes(struct closed *r, const char *folder, bool *same, const char **why, struct kv_err *e)
{
    struct kv_csv in;
    int column[SUMS];
    int64_t n = 0, value[SUMS];
    enum kv_next next = KV_NEXT_END;
    if (!kv_csv_open(&in, kv_format(r->arena, "%s/timeline.csv", folder), r->arena, e))
        return false;
    bool good = true;
    for (int k = 0; k < SUMS; k++)
        good &= (column[k] = kv_csv_column(&in, sum_names[k])) >= 0 ||
                kv_fail(e, KV_ENV, "a replay's timeline.csv has no column %s", sum_names[k]);
    while (good && (next = kv_csv_next(&in, e)) == KV_NEXT_ROW) {
        for (int k = 0; good && k < SUMS; k++)
            good = kv_csv_count(&in, column[k], 0, INT64_MAX, &value[k], e);
        if (good && n < r->n_passes)
            *same &= compare_pass(r, n, value, why);
        n++;
    }
    kv_csv_close(&in);
    if (n != r->n_passes && !**why)
        *why = kv_format(r->c->arena, "%lld passes live, %lld replayed", (long long)r->n_passes, (long long)n);
    *same &= n == r->n_passes;
    return good && next != KV_NEXT_BAD;
}

static bool equal_whole(const json_t *row, const char *key, int64_t want, const char **why, struct kv_arena *a)
{
    int64_t got = json_integer_value(json_object_get(row, key));
    if (got != want && !**why)
        *why = kv_format(a, "%s: %lld live, %lld replayed", key, (long long)want, (long long)got);
    return got == want;
}

static bool compare_replay(struct closed *r, const char *spec, const char *trace, bool *same, const char **why,
                           struct kv_err *e)
{
    const char *folder = kv_format(r->arena, "%s/closed", r->c->folder);
    const struct kv_ledger *g = &r->live.cache.ledger;
    const struct kv_page_count *pages = &g->pages[KV_PER_HEAD][KV_COMPACT];
    int64_t page = kv_ledger_page_bytes(g, KV_PER_HEAD);
    json_t *row = kv_verify_replay(r->c, trace, spec, folder, "", e);
    if (!row)
        return false;
    int64_t differ = json_integer_value(json_object_get(row, "kept_sets_differ"));
    *same = !r->live.policy.law->room || !differ;
    if (!*same)
        *why = kv_format(r->c->arena, "kept sets differ in %lld lanes and passes", (long long)differ);
    if (!r->live.policy.kind->reads) { /* counted with block summaries, which a live run, that reads all, lacks */
        *same &= equal_whole(row, "held_peak_bytes", g->peak_bytes[KV_SCOPE_LAYER], why, r->c->arena);
        *same &= equal_whole(row, "per_head_peak_bytes", pages->peak[KV_SCOPE_LAYER].value * page, why, r->c->arena);
        *same &= equal_whole(row, "per_head_end_bytes", pages->end * page, why, r->c->arena);
    }
    json_decref(row);
    return compare_passes(r, folder, same, why, e);
}

/* ---- the answer ---- */

static void close_all(struct closed *r)
{
    if (r->reference)
        kv_reference_close(r->reference);
    free(r->held);
    free(r->logits);
    free(r->pass);
    if (r->live.backend)
        kv_live_close(&r->live);
    kv_arena_close(r->arena);
}

bool kv_verify_closed(const struct kv_verify *c, const char *spec, const struct kv_table *t, struct kv_cell *row,
                      bool *good, struct kv_err *e)
{
    struct kv_arena *a = kv_arena_open();
    struct closed r = {.c = c, .arena = a, .logit_error = NAN, .pages_agree = true};
    const char *trace = kv_format(a, "%s/closed.kvt.h5", c->folder), *why = "";
    bool same = true, fine = record(&r, spec, trace, e) && compare_replay(&r, spec, trace, &same, &why, e);
    if (fine) {
        const char *problem = kv_witness_problem(&r.witness), *selector = "yes";
        int64_t layers = r.live.shape.layers;
        if (!r.witness.live)
            selector = NULL; /* a law that is not written there */
        else if (!*problem && r.witness.checked != r.n_passes * layers)
            problem = kv_format(c->arena, "it looked at %lld of %lld layers and passes", (long long)r.witness.checked,
                                (long long)(r.n_passes * layers));
        bool logits = isnan(r.logit_error) || r.logit_error <= c->tolerance, selected = !*problem;
        if (r.witness.live && !r.witness.selector.known)
            selector = "sizes"; /* nor is its score: any set of the right size will do */
        if (*problem && !*why)
            why = kv_format(c->arena, "selector: %s", problem);
        if (!r.pages_agree && !*why)
            why = "pages of the pool are not those of the ledger";
        if (!logits && !*why)
            why = "logits are off";
        *good = same && selected && r.pages_agree && logits;
        kv_set_whole(t, row, "passes", r.n_passes);
        kv_set_text(t, row, "same_scores", same ? "yes" : "NO");
        kv_set_text(t, row, "selector", selected ? selector : "NO");
        kv_set_text(t, row, "pages", r.pages_agree ? "yes" : "NO");
        kv_set_real(t, row, "logit_error", r.logit_error);
        kv_set_text(t, row, "why", *why ? why : NULL);
    }
    unlink(trace);
    close_all(&r);
    return fine;
}
