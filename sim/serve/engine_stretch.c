/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Steps are alike as long as nobody comes or goes: those that run all decodes and nothing else, and, where nothing ever
 * leaves, those in which a prefill takes all tokens that decodes leave. They are taken in a tight loop, with what they
 * change in local variables. Each sum adds up the same numbers in the same order as steps one by one do: results are
 * equal to the bit. */
#include "sim/core/least.h"
#include "sim/serve/engine_inside.h"

#include <math.h>
#include <string.h>

/* What such steps change. */
struct stretch {
    struct kv_engine_sums sums;
    struct kv_decodes decodes;
    double clock, begun;
    int64_t step, pages[KV_LAYOUTS];
    struct kv_step_time time;
};

/* The prefill that takes all tokens which decodes leave, in this step and not as its last, or NULL. */
static struct kv_slot *steady_prefill(const struct kv_engine *e)
{
    int64_t left = e->rules.max_num_batched_tokens - e->decodes.n, threshold = e->rules.long_prefill_token_threshold;
    struct kv_slot *s = e->n_prefill ? e->slot[e->prefill[0]] : NULL;
    bool takes_all = s && e->holder->plain && left > e->holder->policy->when.patch && s->target - s->seen > left;
    return takes_all && !(threshold && threshold < left) && s->job->recompute <= s->seen ? s : NULL;
}

/* Who waits, if anybody does, is not even asked: for lack of pages that only who ends gives back, or of tokens. */
static bool is_quiet(const struct kv_engine *e, struct kv_slot **prefill)
{
    if (e->decodes.n + e->n_prefill != e->n_running || e->n_ending || e->blocks || e->offload_bytes > 0 ||
        (e->watch && e->watch->details))
        return false;
    *prefill = steady_prefill(e);
    return *prefill || (!e->n_prefill && e->decodes.n && (!e->first_waiting || (e->full && e->holder->plain)));
}

static void begin(const struct kv_engine *e, struct stretch *s)
{
    s->sums = e->sums;
    s->decodes = e->decodes;
    s->clock = e->clock;
    s->begun = e->begun;
    s->step = e->step;
    memcpy(s->pages, e->pages, sizeof s->pages);
    s->time.line.until = -INFINITY;
}

static void end(struct kv_engine *e, const struct stretch *s)
{
    int64_t steps = s->step - e->step;
    e->sums = s->sums;
    e->sums.steps += steps;
    e->sums.output_tokens += steps * s->decodes.n;
    e->tokens_left -= steps * s->decodes.n;
    e->decodes = s->decodes;
    e->clock = s->clock;
    e->begun = s->begun;
    e->step = s->step;
    memcpy(e->pages, s->pages, sizeof s->pages);
}

/* Lengths do not fall from here on: a pass that leaves a lane with less is a run of its own. */
static bool ask_time(struct kv_engine *e, struct stretch *s, double kv, struct kv_err *err)
{
    e->now.decode_kv = kv;
    e->now.decode_kv_squares = s->decodes.held_held + 2 * s->decodes.held + (double)s->decodes.n;
    return kv_timing_step(e->timing, &e->now, &s->time, err);
}

/* The span that all of the step's time lies in, or NULL. */
static struct kv_stretch *same_span(struct kv_stretch *span, double end_s, double from, double until)
{
    return from < end_s && until <= end_s ? span : NULL;
}

/* Steps before step `last`, at whose beginning a run ends. *enough: there were pages for all of them. */
static bool take_steps(struct kv_engine *e, int64_t last, double until, bool *enough, struct kv_err *err)
{
    const struct kv_engine_watch *watch = e->watch;
    struct kv_timeline *line = watch ? watch->timeline : NULL;
    struct kv_quantiles *gaps = watch ? watch->gaps : NULL;
    struct kv_stretch *span = NULL;
    enum kv_layout own = e->rules.layout;
    int64_t page = e->holder->page, phase = kv_in_page(e->holder, e->step);
    double n = (double)e->decodes.n, waiting = (double)e->n_waiting, span_end = -INFINITY;
    enum kv_limit limit = e->full ? KV_LIMIT_PAGES : e->limit;
    struct stretch s;
    struct kv_decodes *d = &s.decodes;
    struct kv_engine_sums *sums = &s.sums;
    bool good = true;
    begin(e, &s);
    while (s.step < last && s.clock < until) {
        int64_t taken[KV_LAYOUTS];
        *enough = kv_engine_decodes_need(e, phase) <= e->rules.pages - s.pages[own];
        if (!*enough)
            break;
        double kv = d->held + n;
        if (!(kv <= s.time.line.until)) {
            good = ask_time(e, &s, kv, err);
            if (!good)
                break;
        } else if (s.time.line.per_kv > 0) {
            kv_timing_along(&s.time, kv);
        }
        double took = s.time.s, ends = s.clock + took;
        for (int layout = e->holder->counted; layout < KV_LAYOUTS; layout++) {
            taken[layout] = s.pages[layout] + kv_decodes_take(d, (enum kv_layout)layout, phase);
            sums->peak_pages[layout] = kv_most(sums->peak_pages[layout], taken[layout]);
            sums->page_area[layout] += (double)taken[layout] * took;
            s.pages[layout] += d->phase[layout][phase];
        }
        if (line) {
            struct kv_stretch *in = same_span(span, span_end, s.clock, ends);
            if (in)
                kv_stretch_hold(in, line->counted, took, taken, e->n_running, e->n_waiting);
            else
                in = kv_timeline_hold(line, s.clock, took, taken, e->n_running, e->n_waiting);
            in->tokens += d->n;
            in->steps++;
            span = in;
            span_end = (double)(in - line->span + 1) * line->width;
        }
        sums->held_area += (e->prefill_held + d->held + n) * took;
        sums->limit_s[limit] += e->n_waiting ? took : 0;
        sums->waited_s += waiting * took;
        sums->busy_s += took;
        for (int i = 0; i < KV_TIME_PARTS; i++)
            sums->part_s[i] += s.time.part[i];
        sums->outside = s.time.outside > sums->outside ? s.time.outside : sums->outside;
        if (gaps)
            kv_quantiles_add_many(gaps, took, d->n);
        s.begun = s.clock;
        s.clock = ends;
        d->held_held += 2 * d->gain_held + d->gain_gain;
        d->gain_held += d->gain_gain;
        d->held += d->gain;
        s.step++;
        phase = phase + 1 < page ? phase + 1 : 0;
    }
    end(e, &s);
    return good;
}

/* ---- where nothing ever leaves ---- */

/* Gaps that do not fall, until they come into another bucket. */
struct row {
    double least, most, end;
    int64_t steps;
};

static void count_row(struct kv_quantiles *gaps, struct row *r, int64_t n)
{
    if (r->steps)
        kv_quantiles_count(gaps, r->least, r->most, r->steps * n);
    r->steps = 0;
}

static inline void add_gaps(struct kv_quantiles *gaps, struct row *r, double s, int64_t n)
{
    if (!(s < r->end && s >= r->most)) {
        count_row(gaps, r, n);
        r->least = s;
        r->end = kv_quantiles_bucket_end(s);
    }
    r->most = s;
    r->steps++;
}

/* The squares after j steps: whole numbers, so that it does not matter how they are summed up. */
static double squares_after(const struct kv_decodes *d, double j)
{
    return d->held_held + 2 * j * d->gain_held + j * j * d->gain_gain;
}

static void end_decodes(struct kv_engine *e, int64_t steps)
{
    struct kv_decodes *d = &e->decodes;
    double j = (double)steps;
    d->held_held = squares_after(d, j);
    d->gain_held += j * d->gain_gain;
    d->held += j * d->gain;
    e->step += steps;
    e->sums.steps += steps;
    e->sums.output_tokens += steps * d->n;
    e->tokens_left -= steps * d->n;
}

static void end_chunks(struct kv_engine *e, struct kv_slot *s, int64_t steps, int64_t chunk)
{
    int64_t tokens = steps * chunk, peak;
    double n = (double)tokens, ramp = n * (n + 1) / 2;
    if (!steps)
        return;
    s->job->entry_steps += n * (double)s->seen + ramp;
    s->job->full_steps += n * (double)s->seen + ramp;
    s->seen += tokens;
    s->hold.walk.seen = s->seen;
    s->held += n;
    e->prefill_held += n;
    e->tokens_left -= tokens;
    peak = kv_pages_of(e->holder, s->seen);
    s->pages[KV_SHARED] = kv_most(s->pages[KV_SHARED], peak);
    s->job->peak_pages = kv_most(s->job->peak_pages, peak * e->own_pages);
}

/* The same: each decode is an entry longer with every step, one layout is counted, and nothing but time and pages taken
 * for good changes. `s`: a prefill that has all other tokens, or NULL. */
static bool take_plain_steps(struct kv_engine *e, struct kv_slot *s, int64_t last, double until, bool *enough,
                             struct kv_err *err)
{
    const struct kv_engine_watch *watch = e->watch;
    const struct kv_decodes *d = &e->decodes;
    struct kv_engine_sums *sums = &e->sums;
    struct kv_timeline *line = watch ? watch->timeline : NULL;
    struct kv_quantiles *gaps = watch && d->n ? watch->gaps : NULL;
    struct kv_stretch *span = NULL;
    int64_t phase = kv_in_page(e->holder, e->step), chunk = s ? e->rules.max_num_batched_tokens - d->n : 0;
    int64_t left = last - e->step, steps = 0, pages = e->pages[KV_SHARED], seen = s ? s->seen : 0;
    int64_t in_prefill = s ? s->pages[KV_SHARED] : 0; /* of `pages` */
    int64_t most_pages = e->rules.pages - (e->rules.scheduler == KV_SCHEDULER_SARATHI);
    double n = (double)d->n, c = (double)chunk, kv = d->held + n, held = e->prefill_held + kv + c;
    double clock = e->clock, begun = e->begun, span_end = -INFINITY, gap_sum = gaps ? gaps->sum : 0;
    double area = sums->page_area[KV_SHARED], held_area = sums->held_area, busy = sums->busy_s,
           prefill = sums->part_s[KV_TIME_PREFILL], decode = sums->part_s[KV_TIME_DECODE];
    struct row row = {.end = -INFINITY};
    struct kv_step_time time;
    bool good = true;
    time.line.until = -INFINITY;
    if (s) {
        left = kv_least(left, (s->target - seen - 1) / chunk);
        e->now.n_chunks = 1;
        e->chunk->tokens = chunk;
    }
    while (steps < left && clock < until) {
        int64_t taken = pages + d->phase[KV_SHARED][phase];
        if (s) {
            int64_t more = kv_most(0, kv_pages_of(e->holder, seen + chunk) - in_prefill);
            taken += more;
            in_prefill += more;
        }
        *enough = taken <= most_pages;
        if (!*enough)
            break;
        if (!(kv <= time.line.until)) {
            e->now.decode_kv = kv;
            e->now.decode_kv_squares = squares_after(d, (double)steps) + 2 * (kv - n) + n;
            if (s)
                e->chunk->prefix = (double)seen;
            good = kv_timing_step(e->timing, &e->now, &time, err);
            if (!good)
                break;
            sums->outside = time.outside > sums->outside ? time.outside : sums->outside;
        } else if (time.line.per_kv > 0) {
            kv_timing_along(&time, kv);
        }
        double took = time.s, ends = clock + took;
        pages = taken;
        area += (double)taken * took;
        held_area += held * took;
        busy += took;
        prefill += time.part[KV_TIME_PREFILL];
        decode += time.part[KV_TIME_DECODE];
        if (line) {
            const int64_t all[KV_LAYOUTS] = {[KV_SHARED] = taken};
            struct kv_stretch *in = same_span(span, span_end, clock, ends);
            if (in)
                kv_stretch_hold(in, KV_SHARED, took, all, e->n_running, e->n_waiting);
            else
                in = kv_timeline_hold(line, clock, took, all, e->n_running, e->n_waiting);
            in->tokens += d->n + chunk;
            in->steps++;
            span = in;
            span_end = (double)(in - line->span + 1) * line->width;
        }
        if (gaps) {
            add_gaps(gaps, &row, took, d->n);
            gap_sum += took * n;
        }
        if (e->n_waiting) {
            sums->limit_s[e->full ? KV_LIMIT_PAGES : e->limit] += took;
            sums->waited_s += (double)e->n_waiting * took;
        }
        begun = clock;
        clock = ends;
        kv += n;
        held += n + c;
        seen += chunk;
        steps++;
        phase = kv_in_page(e->holder, phase + 1);
    }
    sums->peak_pages[KV_SHARED] = kv_most(sums->peak_pages[KV_SHARED], pages);
    sums->page_area[KV_SHARED] = area;
    sums->held_area = held_area;
    sums->busy_s = busy;
    sums->part_s[KV_TIME_PREFILL] = prefill;
    sums->part_s[KV_TIME_DECODE] = decode;
    if (gaps) {
        count_row(gaps, &row, d->n);
        gaps->sum = gap_sum;
    }
    e->pages[KV_SHARED] = pages;
    e->clock = clock;
    e->begun = begun;
    end_decodes(e, steps);
    if (s)
        end_chunks(e, s, steps, chunk);
    return good;
}

bool kv_engine_take_stretches(struct kv_engine *e, double until, struct kv_err *err)
{
    struct kv_slot *prefill;
    bool enough = true, good = true;
    while (good && enough && !e->ended && e->clock < until && is_quiet(e, &prefill)) {
        int64_t last = e->n_events ? e->event[0].step : INT64_MAX;
        kv_engine_begin_decodes(e);
        e->now.sequences += prefill != NULL;
        e->now.tokens = kv_engine_padded(e, prefill ? e->rules.max_num_batched_tokens : e->decodes.n);
        good = e->holder->plain ? take_plain_steps(e, prefill, last, until, &enough, err)
                                : take_steps(e, last, until, &enough, err);
        kv_engine_end_runs(e);
    }
    return good;
}
