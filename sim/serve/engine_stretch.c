/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Steps that run all decodes and nothing else are alike as long as nobody comes or goes: they are taken in a tight
 * loop, with what they change in local variables. Each sum adds up the same numbers in the same order as steps one by
 * one do: results are equal to the bit. */
#include "sim/serve/engine_inside.h"

#include <math.h>

/* What such steps change. */
struct stretch {
    double clock, begun, waited_s, limit_s, held_area, busy_s, part_s[KV_TIME_PARTS], outside;
    double held, gain_held, held_held;
    int64_t step, pages[KV_LAYOUTS], peak[KV_LAYOUTS];
    double area[KV_LAYOUTS];
    struct kv_step_time time;
};

/* Who waits, if anybody does, is not even asked, for lack of pages that only who ends gives back. */
static bool is_quiet(const struct kv_engine *e)
{
    return e->decodes.n && e->decodes.n == e->n_running && !e->n_ending && !e->blocks && !(e->offload_bytes > 0) &&
           (!e->first_waiting || (e->full && e->holder->plain)) && !(e->watch && e->watch->details);
}

static double *limit_of(struct kv_engine *e)
{
    return &e->sums.limit_s[e->full ? KV_LIMIT_PAGES : e->limit];
}

static void begin(struct kv_engine *e, struct stretch *s)
{
    const struct kv_engine_sums *sums = &e->sums;
    const struct kv_decodes *d = &e->decodes;
    s->clock = e->clock;
    s->begun = e->begun;
    s->step = e->step;
    s->held = d->held;
    s->gain_held = d->gain_held;
    s->held_held = d->held_held;
    s->limit_s = *limit_of(e);
    s->waited_s = sums->waited_s;
    s->held_area = sums->held_area;
    s->busy_s = sums->busy_s;
    s->outside = sums->outside;
    for (int layout = 0; layout < KV_LAYOUTS; layout++) {
        s->pages[layout] = e->pages[layout];
        s->peak[layout] = sums->peak_pages[layout];
        s->area[layout] = sums->page_area[layout];
    }
    for (int i = 0; i < KV_TIME_PARTS; i++)
        s->part_s[i] = sums->part_s[i];
    s->time.line.until = -INFINITY;
}

static void end(struct kv_engine *e, const struct stretch *s)
{
    struct kv_engine_sums *sums = &e->sums;
    struct kv_decodes *d = &e->decodes;
    int64_t steps = s->step - e->step;
    e->clock = s->clock;
    e->begun = s->begun;
    e->step = s->step;
    e->tokens_left -= steps * d->n;
    d->held = s->held;
    d->gain_held = s->gain_held;
    d->held_held = s->held_held;
    *limit_of(e) = s->limit_s;
    sums->waited_s = s->waited_s;
    sums->held_area = s->held_area;
    sums->busy_s = s->busy_s;
    sums->outside = s->outside;
    sums->steps += steps;
    sums->output_tokens += steps * d->n;
    for (int layout = 0; layout < KV_LAYOUTS; layout++) {
        e->pages[layout] = s->pages[layout];
        sums->peak_pages[layout] = s->peak[layout];
        sums->page_area[layout] = s->area[layout];
    }
    for (int i = 0; i < KV_TIME_PARTS; i++)
        sums->part_s[i] = s->part_s[i];
}

/* Lengths do not fall from here on: a pass that leaves a lane with less is a run of its own. */
static bool ask_time(struct kv_engine *e, struct stretch *s, double kv, struct kv_err *err)
{
    e->now.decode_kv = kv;
    e->now.decode_kv_squares = s->held_held + 2 * s->held + (double)e->decodes.n;
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
    const struct kv_decodes *d = &e->decodes;
    const struct kv_engine_watch *watch = e->watch;
    struct kv_timeline *line = watch ? watch->timeline : NULL;
    struct kv_quantiles *gaps = watch ? watch->gaps : NULL;
    struct kv_stretch *span = NULL;
    enum kv_layout own = e->rules.layout;
    int64_t page = e->holder->page, phase = kv_in_page(e->holder, e->step);
    double n = (double)d->n, waiting = (double)e->n_waiting, prefill_held = e->prefill_held, span_end = -INFINITY;
    struct stretch s;
    bool good = true;
    begin(e, &s);
    while (s.step < last && s.clock < until) {
        int64_t taken[KV_LAYOUTS];
        *enough = kv_engine_decodes_need(e, phase) <= e->rules.pages - s.pages[own];
        if (!*enough)
            break;
        double kv = s.held + n;
        if (!(kv <= s.time.line.until)) {
            good = ask_time(e, &s, kv, err);
            if (!good)
                break;
        } else if (s.time.line.per_kv > 0) {
            kv_timing_along(&s.time, kv);
        }
        double took = s.time.s, ends = s.clock + took;
        for (int layout = 0; layout < KV_LAYOUTS; layout++) {
            taken[layout] = s.pages[layout] + kv_decodes_take(d, (enum kv_layout)layout, phase);
            s.peak[layout] = s.peak[layout] > taken[layout] ? s.peak[layout] : taken[layout];
            s.area[layout] += (double)taken[layout] * took;
            s.pages[layout] += d->phase[layout][phase];
        }
        if (line) {
            struct kv_stretch *in = same_span(span, span_end, s.clock, ends);
            if (in)
                kv_stretch_hold(in, took, taken, e->n_running, e->n_waiting);
            else
                in = kv_timeline_hold(line, s.clock, took, taken, e->n_running, e->n_waiting);
            in->tokens += d->n;
            in->steps++;
            span = in;
            span_end = (double)(in - line->span + 1) * line->width;
        }
        s.held_area += (prefill_held + s.held + n) * took;
        s.limit_s += e->n_waiting ? took : 0;
        s.waited_s += waiting * took;
        s.busy_s += took;
        for (int i = 0; i < KV_TIME_PARTS; i++)
            s.part_s[i] += s.time.part[i];
        s.outside = s.time.outside > s.outside ? s.time.outside : s.outside;
        if (gaps)
            kv_quantiles_add_many(gaps, took, d->n);
        s.begun = s.clock;
        s.clock = ends;
        s.held_held += 2 * s.gain_held + d->gain_gain;
        s.gain_held += d->gain_gain;
        s.held += d->gain;
        s.step++;
        phase = phase + 1 < page ? phase + 1 : 0;
    }
    end(e, &s);
    return good;
}

bool kv_engine_take_stretches(struct kv_engine *e, double until, struct kv_err *err)
{
    bool enough = true;
    while (enough && !e->ended && e->clock < until && is_quiet(e)) {
        kv_engine_begin_decodes(e);
        e->now.tokens = kv_engine_padded(e, e->decodes.n);
        if (!take_steps(e, e->event[0].step, until, &enough, err))
            return false;
        kv_engine_end_runs(e);
    }
    return true;
}
