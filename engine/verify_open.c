/* SPDX-License-Identifier: GPL-3.0-or-later */
/* `kvengine verify`, open loop: what a trace of the full cache predicts of a policy, against live runs of it: one fed
 * with the tokens of the full cache's run (teacher-forced), one with its own (free-running).
 *
 * A second sequence, with the full cache, is fed with the same tokens pass by pass, a step ahead. Its attention is what
 * mass is measured with: of the attention that the pass's queries pay to all positions, the share on what a lane held
 * while they paid it, their own tokens included; mean over lanes. Real: on what the live run held. Predicted: on what
 * the prediction held, of the teacher-forced run, which attends as the trace did. */
#include "engine/recorder.h"
#include "engine/verify.h"
#include "sim/interrupt.h"
#include "sim/csv.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the full cache ---- */

static bool run_full(struct kv_verify *c, struct kv_live *l, struct kv_recorder *r, struct kv_err *e)
{
    struct kv_live *one[] = {l};
    while (kv_live_next(l) && !kv_interrupted()) {
        if (!kv_live_step(one, 1, e))
            return false;
        if (l->cache.seen < l->n_token || l->n_token == c->prompt->n + c->host->output)
            continue;
        int32_t token = kv_live_greedy(l);
        double lp = kv_log_probability(l->logits, c->host->weights.config.vocab, token);
        c->token_lp[l->n_token - c->prompt->n] = lp;
        kv_recorder_chose(r, token, lp);
        kv_live_add(l, token);
    }
    memcpy(c->token, l->token, sizeof *c->token * (size_t)l->n_token);
    return !kv_interrupted() || kv_fail(e, kv_interrupt_status(), "interrupted");
}

static bool record_full(struct kv_verify *c, struct kv_err *e)
{
    struct kv_arena *a = kv_arena_open();
    struct kv_live l = {0};
    struct kv_recorder *r;
    struct kv_recorder_asked asked = {.channels = c->channels,
                                      .window = c->window,
                                      .query_rows = c->host->weights.config.q_heads > c->host->weights.config.kv_heads,
                                      .decode_tick = 1,
                                      .encoding = KV_ENC_F32,
                                      .filter = KV_FILTER_NONE,
                                      .model = c->host->folder};
    bool good = kv_verify_live(c, &l, "full", c->window, a, e) &&
                kv_recorder_open(&r, kv_format(a, "%s/full.kvt.h5", c->folder), &asked, &l, a, e);
    if (good && !run_full(c, &l, r, e)) {
        kv_recorder_abandon(r);
        good = false;
    } else if (good) {
        good = kv_recorder_finish(r, e);
    }
    if (l.backend)
        kv_live_close(&l);
    kv_arena_close(a);
    return good;
}

bool kv_verify_full(struct kv_verify *c, const char *const *spec, int n, struct kv_err *e)
{
    c->channels = KV_BIT(KV_COLUMN_SUM);
    c->window = 0;
    for (int i = 0; i < n; i++) {
        struct kv_policy p;
        if (!kv_policy_from_spec(&p, spec[i], c->arena, e))
            return false;
        c->channels |= (p.score->needs | p.score->observes) & ~(KV_BIT(KV_EXTERNAL) | KV_BIT(KV_EXPECTED));
        if (p.score->window && !c->window)
            c->window = p.keys.window_size;
    }
    c->window = c->window ? c->window : 64;
    c->token = KV_NEW_N(c->arena, int32_t, c->prompt->n + c->host->output + 1);
    c->token_lp = KV_NEW_N(c->arena, double, c->host->output + 1);
    return record_full(c, e);
}

/* A trace has sums over one window: a policy with another gets a trace of its own, of the same run. */
static bool record_window(struct kv_verify *c, const struct kv_policy *p, struct kv_err *e)
{
    if (!p->score->window || p->keys.window_size == c->window)
        return true;
    c->window = p->keys.window_size;
    return record_full(c, e);
}

/* ---- the prediction ---- */

struct span {
    int64_t seen, layer, head, first, last;
};

/* Kept positions at the end of each recorded pass, in their order. */
struct prediction {
    json_t *row; /* of the replay; NULL: there is none */
    struct span *span;
    int64_t n, room;
    double *mass; /* (passes, layers) made by the teacher-forced run */
};

static bool read_spans(struct prediction *p, const char *path, struct kv_arena *a, struct kv_err *e)
{
    static const char *const names[] = {"seen_tokens", "layer", "head", "first_token", "last_token"};
    struct kv_csv in;
    int column[5];
    int64_t value[5];
    enum kv_next next = KV_NEXT_END;
    if (!kv_csv_open(&in, path, a, e))
        return false;
    bool good = true;
    for (int k = 0; k < 5; k++)
        good &= (column[k] = kv_csv_column(&in, names[k])) >= 0 ||
                kv_fail(e, KV_ENV, "a replay's kept_passes.csv has no column %s", names[k]);
    while (good && (next = kv_csv_next(&in, e)) == KV_NEXT_ROW) {
        for (int k = 0; good && k < 5; k++)
            good = kv_csv_count(&in, column[k], 0, INT64_MAX, &value[k], e);
        if (good && p->n == p->room) {
            p->room = 2 * p->room + 1024;
            struct span *more = realloc(p->span, sizeof *more * (size_t)p->room);
            good = more || kv_fail(e, KV_ENV, "no memory for %lld spans of kept positions", (long long)p->room);
            p->span = more ? more : p->span;
        }
        if (good)
            p->span[p->n++] = (struct span){value[0], value[1], value[2], value[3], value[4]};
    }
    kv_csv_close(&in);
    return good && next != KV_NEXT_BAD;
}

/* ---- a run ---- */

struct mode_sums {
    double lp; /* of tokens, by the judge */
    int64_t agree, compared;
    double footprint, peak;
    double overlap_end, overlap_worst; /* NaN: no prediction */
    double mass_real, mass_predicted;
};

struct open {
    const struct kv_verify *c;
    const char *spec, *mode;
    bool forced;
    struct prediction *p;
    struct kv_live live, full;
    struct kv_live_watch watch; /* of the full cache's attention */
    int64_t n_passes, next_span;
    uint64_t *before, *after; /* (lanes, words) predicted sets, at the pass's begin and end */
    int64_t words;
    bool before_known, after_known;
    double *real, *predicted; /* (layers,) mass of the pass that is on */
    int64_t n_mass;
    struct mode_sums sum;
    struct kv_arena *arena;
};

static int64_t lane_at(const struct open *r, int64_t layer, int64_t head)
{
    return layer * r->live.shape.store_heads + head;
}

/* The sets that were predicted for the end of a pass after which `seen` tokens were through. */
static void predict(struct open *r, int64_t seen)
{
    int64_t lanes = r->live.cache.lanes;
    const struct prediction *p = r->p;
    memset(r->after, 0, sizeof *r->after * (size_t)(lanes * r->words));
    while (r->next_span < p->n && p->span[r->next_span].seen < seen)
        r->next_span++;
    r->after_known = r->next_span < p->n && p->span[r->next_span].seen == seen;
    for (; r->next_span < p->n && p->span[r->next_span].seen == seen; r->next_span++) {
        const struct span *s = &p->span[r->next_span];
        if (s->layer < r->live.shape.layers && s->head < r->live.shape.store_heads && s->last < seen)
            kv_set_fill(r->after + lane_at(r, s->layer, s->head) * r->words, s->first, s->last + 1);
    }
}

/* ---- mass ---- */

static unsigned full_wants(void *open, const struct kv_live *l, bool *query_rows)
{
    const struct open *r = open;
    (void)l;
    *query_rows = r->live.shape.store_heads != r->live.shape.kv_heads;
    return KV_BIT(KV_COLUMN_SUM);
}

/* Of one row, on the positions of a set and those from `seen` on, as a share of all. */
static double share_on(const float *row, const uint64_t *set, int64_t seen, int64_t end)
{
    double on = 0, all = 0;
    for (int64_t t = 0; t < end; t++) {
        all += (double)row[t];
        on += t >= seen || kv_set_has(set, t) ? (double)row[t] : 0;
    }
    return all > 0 ? on / all : 1;
}

static bool full_scores(void *open, struct kv_live *full, int64_t layer, struct kv_err *e)
{
    struct open *r = open;
    struct kv_live *l = &r->live;
    int64_t lanes = l->shape.store_heads, per = lanes / l->shape.kv_heads, seen = full->pass.seen,
            end = seen + full->pass.n_new;
    double real = 0, predicted = 0;
    (void)e;
    for (int64_t h = 0; h < lanes; h++) {
        const float *row = full->row[KV_COLUMN_SUM] + (h / per * full->rows + (per > 1 ? h % per : 0)) * full->stride;
        real += share_on(row, kv_cache_set(&l->cache, layer, h), seen, end);
        predicted += share_on(row, r->before + lane_at(r, layer, h) * r->words, seen, end);
    }
    r->real[layer] = real / (double)lanes;
    r->predicted[layer] = r->before_known ? predicted / (double)lanes : NAN;
    return true;
}

static bool full_ends(void *open, struct kv_live *full, struct kv_err *e)
{
    (void)open;
    (void)full;
    (void)e;
    return true;
}

/* ---- a pass ---- */

struct held {
    int64_t live, predicted, common;
};

static struct held count_layer(struct open *r, int64_t layer)
{
    struct held n = {0};
    int64_t seen = r->live.cache.seen;
    for (int64_t h = 0; h < r->live.shape.store_heads; h++) {
        const uint64_t *set = kv_cache_set(&r->live.cache, layer, h),
                       *predicted = r->after + lane_at(r, layer, h) * r->words;
        n.live += kv_cache_held(&r->live.cache, layer, h);
        n.predicted += kv_set_count(predicted, seen);
        n.common += kv_set_common(set, predicted, seen);
    }
    return n;
}

static double share(int64_t part, int64_t whole)
{
    return whole ? (double)part / (double)whole : 1;
}

static void put_number(FILE *out, double x)
{
    if (isnan(x))
        fputc(',', out);
    else
        fprintf(out, ",%.9g", x);
}

void kv_verify_open_header(FILE *out)
{
    fputs("policy,prompt,mode,pass,seen_tokens,new_tokens,phase,layer,held_entries,predicted_entries,overlap,mass_held,"
          "predicted_mass_held,token_log_probability,full_token_log_probability,same_next_token\n",
          out);
}

/* One line; layer -1: the whole pass. */
static void put_line(const struct open *r, int64_t layer, const struct held *n, double real, double predicted,
                     double lp, double full_lp, int same)
{
    FILE *out = r->c->open;
    const struct kv_pass *p = &r->live.pass;
    if (!out)
        return;
    kv_csv_put(r->c->name, out);
    fputc(',', out);
    kv_csv_put(r->c->prompt->name, out);
    fprintf(out, ",%s,%lld,%lld,%lld,%s,", r->mode, (long long)(r->n_passes - 1), (long long)r->live.cache.seen,
            (long long)p->n_new, p->decode_step < 0 ? "prefill" : "decode");
    if (layer >= 0)
        fprintf(out, "%lld", (long long)layer);
    fprintf(out, ",%lld,", (long long)n->live);
    if (r->after_known)
        fprintf(out, "%lld", (long long)n->predicted);
    put_number(out, r->after_known ? share(n->common, n->live) : NAN);
    put_number(out, real);
    put_number(out, predicted);
    put_number(out, lp);
    put_number(out, full_lp);
    fputs(same < 0 ? ",\n" : same ? ",1\n" : ",0\n", out);
}

/* The mass that was predicted is that of the tokens the trace was made with. */
static void settle_mass(struct open *r)
{
    double *made = r->p->mass + (r->n_passes - 1) * r->live.shape.layers;
    for (int64_t layer = 0; layer < r->live.shape.layers; layer++)
        if (r->forced)
            made[layer] = r->predicted[layer];
        else
            r->predicted[layer] = made[layer];
}

/* The pass has ended; `token`: what was chosen after it, or -1. */
static void sum_pass(struct open *r, bool evicted, double lp, double full_lp, int same)
{
    int64_t layers = r->live.shape.layers;
    struct held all = {0};
    double real = 0, predicted = 0;
    settle_mass(r);
    for (int64_t layer = 0; layer < layers; layer++) {
        struct held n = count_layer(r, layer);
        all.live += n.live;
        all.predicted += n.predicted;
        all.common += n.common;
        real += r->real[layer] / (double)layers;
        predicted += r->predicted[layer] / (double)layers;
        put_line(r, layer, &n, r->real[layer], r->predicted[layer], NAN, NAN, -1);
    }
    put_line(r, -1, &all, real, predicted, lp, full_lp, same);
    if (r->after_known) {
        r->sum.overlap_end = share(all.common, all.live);
        r->sum.overlap_worst =
            isnan(r->sum.overlap_worst) ? r->sum.overlap_end : fmin(r->sum.overlap_worst, r->sum.overlap_end);
    }
    if (evicted) { /* before this pass: else all of it is there, live and predicted */
        r->sum.mass_real += real;
        r->sum.mass_predicted += predicted;
        r->n_mass++;
    }
}

/* The next token, where one is wanted: the full cache's own, or what the policy's run finds most likely. */
static bool choose(struct open *r, double *lp, double *full_lp, int *same)
{
    struct kv_live *l = &r->live, *full = &r->full;
    int64_t vocab = l->weights->config.vocab, i = l->n_token - l->request.prompt;
    *lp = *full_lp = NAN;
    *same = -1;
    if (l->cache.seen < l->n_token || i >= l->request.output)
        return false;
    int32_t best = kv_live_greedy(l), wanted = r->c->token[l->n_token], token = r->forced ? wanted : best;
    *lp = kv_log_probability(l->logits, vocab, token);
    *full_lp = kv_log_probability(full->logits, vocab, token);
    *same = best == wanted;
    r->sum.lp += r->forced ? *lp : *full_lp;
    r->sum.agree += *same;
    r->sum.compared++;
    kv_live_add(l, token);
    kv_live_add(full, token);
    return true;
}

static bool run_passes(struct open *r, struct kv_err *e)
{
    struct kv_live *live = &r->live, *full = &r->full;
    while (kv_live_next(live) && !kv_interrupted()) {
        bool evicted = false;
        for (int64_t i = 0; i < live->cache.lanes && !evicted; i++)
            evicted = kv_cache_held(&live->cache, i / live->shape.store_heads, i % live->shape.store_heads) <
                      live->cache.seen;
        r->n_passes++;
        if (!kv_live_step(&full, 1, e) || !kv_live_step(&live, 1, e))
            return false;
        KV_ASSERT(live->cache.seen == full->cache.seen);
        double lp, full_lp;
        int same;
        predict(r, live->cache.seen);
        (void)choose(r, &lp, &full_lp, &same);
        sum_pass(r, evicted, lp, full_lp, same);
        uint64_t *old = r->before;
        r->before = r->after;
        r->after = old;
        r->before_known = r->after_known;
    }
    return !kv_interrupted() || kv_fail(e, kv_interrupt_status(), "interrupted");
}

static bool open_run(struct open *r, struct kv_err *e)
{
    struct kv_arena *a = r->arena;
    if (!kv_verify_live(r->c, &r->live, r->spec, 0, a, e))
        return false;
    /* the same passes, in which nothing leaves */
    if (!kv_verify_live(r->c, &r->full, kv_format(a, "full:chunk=%lld", (long long)r->live.policy.when.chunk), 0, a, e))
        return false;
    int64_t layers = r->live.shape.layers, tokens = r->live.request.prompt + r->live.request.output;
    r->words = kv_words(tokens);
    r->before = kv_alloc_many(a, (size_t)(r->live.cache.lanes * r->words), sizeof *r->before, "predicted sets", e);
    r->after = kv_alloc_many(a, (size_t)(r->live.cache.lanes * r->words), sizeof *r->after, "predicted sets", e);
    r->real = KV_NEW_N(a, double, layers);
    r->predicted = KV_NEW_N(a, double, layers);
    r->before_known = r->p->row != NULL;
    r->watch = (struct kv_live_watch){.context = r, .wants = full_wants, .scores = full_scores, .ends = full_ends};
    r->full.watch = &r->watch;
    r->sum = (struct mode_sums){.overlap_end = NAN, .overlap_worst = NAN};
    return r->before && r->after;
}

static bool run_mode(const struct kv_verify *c, const char *spec, bool forced, struct prediction *p,
                     struct mode_sums *sum, struct kv_err *e)
{
    struct open r = {
        .c = c, .spec = spec, .mode = forced ? "forced" : "free", .forced = forced, .p = p, .arena = kv_arena_open()};
    bool good = open_run(&r, e) && run_passes(&r, e);
    if (good) {
        const struct kv_ledger *g = &r.live.cache.ledger;
        double lanes = (double)g->lanes, steps = (double)g->steps;
        r.sum.footprint = (double)g->entry_steps / (lanes * steps * (steps + 1) / 2);
        r.sum.peak = (double)g->entries[KV_SCOPE_LAYER].value / (lanes * steps);
        r.sum.mass_real = r.n_mass ? r.sum.mass_real / (double)r.n_mass : 1;
        r.sum.mass_predicted = !p->row ? NAN : r.n_mass ? r.sum.mass_predicted / (double)r.n_mass : 1;
        *sum = r.sum;
    }
    if (r.live.backend)
        kv_live_close(&r.live);
    if (r.full.backend)
        kv_live_close(&r.full);
    kv_arena_close(r.arena);
    return good;
}

/* ---- the answer ---- */

static void set_mode(const struct kv_verify *c, const struct kv_table *t, struct kv_cell *row, const char *prefix,
                     const struct mode_sums *s)
{
    struct kv_arena *a = c->arena;
    double full_lp = 0, n = (double)s->compared;
    for (int64_t i = 0; i < s->compared; i++)
        full_lp += c->token_lp[i];
    kv_set_real(t, row, kv_format(a, "%skv_footprint", prefix), s->footprint);
    kv_set_real(t, row, kv_format(a, "%skv_peak", prefix), s->peak);
    kv_set_real(t, row, kv_format(a, "%soverlap", prefix), s->overlap_end);
    kv_set_real(t, row, kv_format(a, "%soverlap_worst", prefix), s->overlap_worst);
    kv_set_real(t, row, kv_format(a, "%smass_held", prefix), s->mass_real);
    kv_set_real(t, row, kv_format(a, "%slog_probability_loss", prefix), n > 0 ? (full_lp - s->lp) / n : NAN);
    kv_set_real(t, row, kv_format(a, "%snext_token_agreement", prefix), n > 0 ? (double)s->agree / n : NAN);
}

/* Lengths alone tell what a policy without scores holds, and which entries: there a prediction that is off is wrong.
 * Methods that store all and read less are predicted with their block summaries, which a live run, that reads all, does
 * not keep. */
static bool lengths_agree(const struct kv_verify *c, const struct kv_policy *policy, const struct prediction *p,
                          const struct mode_sums *s, const char *mode, const struct kv_table *t, struct kv_cell *row)
{
    double footprint = json_number_value(json_object_get(p->row, "kv_footprint")),
           peak = json_number_value(json_object_get(p->row, "kv_peak"));
    if ((policy->kind->reads || (fabs(s->footprint - footprint) <= 1e-12 && fabs(s->peak - peak) <= 1e-12)) &&
        (isnan(s->overlap_worst) || s->overlap_worst >= 1))
        return true;
    if (!kv_table_cell(t, row, "why")->text)
        kv_set_text(t, row, "why",
                    kv_format(c->arena,
                              "%s: needs no scores, and yet footprint %.9g, peak %.9g live, %.9g and %.9g predicted, "
                              "kept sets %.6g as predicted",
                              mode, s->footprint, s->peak, footprint, peak, s->overlap_worst));
    return false;
}

static bool read_prediction(const struct kv_verify *c, const char *spec, struct prediction *p, const struct kv_table *t,
                            struct kv_cell *row, struct kv_arena *a, struct kv_err *e)
{
    const char *out = kv_format(a, "%s/open", c->folder);
    struct kv_err *refused = KV_NEW(a, struct kv_err);
    p->row = kv_verify_replay(c, kv_format(a, "%s/full.kvt.h5", c->folder), spec, out, "--kept-passes", refused);
    if (p->row)
        return read_spans(p, kv_format(a, "%s/kept_passes.csv", out), a, e);
    if (!kv_table_cell(t, row, "why")->text) /* patched passes, for one, cannot be told from passes without the patch */
        kv_set_text(t, row, "why", kv_format(c->arena, "no prediction: %s", refused->text));
    return true;
}

bool kv_verify_open(struct kv_verify *c, const char *spec, const struct kv_table *t, struct kv_cell *row, bool *good,
                    struct kv_err *e)
{
    struct kv_arena *a = kv_arena_open();
    struct prediction p = {0};
    struct mode_sums forced, own;
    struct kv_policy policy = {0};
    int64_t steps = c->prompt->n + c->host->output;
    p.mass = kv_alloc_many(a, (size_t)(steps * c->host->weights.config.layers), sizeof *p.mass, "predicted mass", e);
    bool fine = p.mass && kv_policy_from_spec(&policy, spec, a, e) && record_window(c, &policy, e) &&
                read_prediction(c, spec, &p, t, row, a, e) && run_mode(c, spec, true, &p, &forced, e) &&
                run_mode(c, spec, false, &p, &own, e);
    if (fine) {
        set_mode(c, t, row, "", &forced);
        set_mode(c, t, row, "free_", &own);
        kv_set_real(t, row, "predicted_mass_held", forced.mass_predicted);
    }
    if (fine && p.row && !policy.kind->reads) {
        kv_set_real(t, row, "predicted_footprint", json_number_value(json_object_get(p.row, "kv_footprint")));
        kv_set_real(t, row, "predicted_peak", json_number_value(json_object_get(p.row, "kv_peak")));
    }
    if (fine && p.row && (policy.score->positional || !policy.law->room))
        *good &= lengths_agree(c, &policy, &p, &forced, "teacher-forced", t, row) &
                 lengths_agree(c, &policy, &p, &own, "free-running", t, row);
    json_decref(p.row);
    free(p.span);
    kv_arena_close(a);
    return fine;
}
