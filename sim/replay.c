/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Time goes by the trace's ticks. Each policy makes its own passes within a tick, of its own chunk; the last of them
 * ends with the tick, and what it needs is read then, once for all policies, layer by layer on several threads. */
#include "sim/replay.h"

#include "sim/progress.h"
#include "sim/replay_feed.h"
#include "sim/table.h"
#include "sim/team.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* ---- the trace ---- */

bool kv_replay_open(struct kv_replay *r, const char *path, const struct kv_replay_asked *asked, struct kv_arena *a,
                    struct kv_err *e)
{
    *r = (struct kv_replay){.asked = *asked};
    if (!kv_trace_open(&r->trace, path, &r->about, a, e))
        return false;
    const struct kv_trace_about *t = &r->about;
    if (!t->n_ticks)
        return kv_fail(e, KV_DATA, "trace '%s' holds no complete pass; there is nothing to replay", path);
    r->end = t->tick[t->n_ticks - 1].end;
    r->model = (struct kv_model){.name = t->model && *t->model ? t->model : "recorded model",
                                 .layers = t->layers,
                                 .q_heads = t->q_heads,
                                 .kv_heads = t->kv_heads,
                                 .head_dim = t->head_dim};
    r->request = (struct kv_request){.prompt = t->n_prompt, .prefill = t->prefill};
    r->request.output = r->end >= t->n_prompt ? r->end - t->n_prompt + 1 : 0; /* the last one is never fed */
    if (!r->asked.run.chunk)
        r->asked.run.chunk = t->tick[0].end;
    r->closed = t->policy && strcmp(t->policy, "full") != 0;
    r->mass = r->closed ? -1 : kv_source_mass(t);
    r->later = r->closed ? -1 : kv_source_later(t);
    return true;
}

void kv_replay_close(struct kv_replay *r)
{
    for (int i = 0; i < r->n_runs; i++)
        if (r->run[i].open)
            kv_cache_close(&r->run[i].cache);
    if (r->trace)
        kv_trace_close(r->trace);
    r->trace = NULL;
}

/* ---- what it can support ---- */

static bool bind_sources(const struct kv_replay *r, struct kv_replay_run *run, unsigned wants, struct kv_arena *a,
                         struct kv_err *e)
{
    for (int k = 0; k < KV_SCORE_CHANNELS; k++)
        if (wants & KV_BIT(k) && run->source[k].way == KV_WAY_NONE &&
            !kv_source_find(&run->source[k], (enum kv_channel)k, &run->policy, &run->shape, &r->about, a, e))
            return false;
    return true;
}

static const char *tick_text(const struct kv_tick *t, struct kv_arena *a)
{
    return kv_format(a, "[%lld, %lld)", (long long)t->begin, (long long)t->end);
}

/* A pass that ends with a tick: its channels must be there, and of the same queries. */
static bool check_channels(const struct kv_replay *r, struct kv_replay_run *run, const struct kv_pass *pass,
                           int64_t tick, int64_t *keyed, struct kv_arena *a, struct kv_err *e)
{
    const struct kv_tick *t = &r->about.tick[tick];
    unsigned wants = kv_policy_wants(&run->policy, pass, pass->evict);
    if (!bind_sources(r, run, wants, a, e))
        return false;
    for (int k = 0; k < KV_SCORE_CHANNELS; k++) {
        const struct kv_source *s = &run->source[k];
        if (!(wants & KV_BIT(k)))
            continue;
        if (s->way == KV_WAY_KEYS) {
            *keyed = tick;
            continue;
        }
        if (!r->about.channel[s->channel].at[tick])
            return kv_fail(e, KV_USAGE, "%s channel '%s' was not recorded for the pass %s; record it there",
                           run->policy.where, kv_channels[k].name, tick_text(t, a));
        if (kv_channels[k].window && t->n_patch != pass->n_patch)
            return kv_fail(
                e, KV_USAGE,
                "%s pass %s was recorded with a patch of %lld tokens, and the policy has patch = %lld; record "
                "it that way, or change patch",
                run->policy.where, tick_text(t, a), (long long)t->n_patch, (long long)pass->n_patch);
        if (k == KV_WINDOW_LOCAL && t->begin != pass->seen + pass->n_new - pass->n_unit)
            return kv_fail(e, KV_USAGE,
                           "%s chunks of %lld tokens need window_local recorded for such chunks; the trace has %s; set "
                           "chunk to what was recorded, or record window_seen",
                           run->policy.where, (long long)run->policy.when.chunk, tick_text(t, a));
        if (s->way == KV_WAY_LOGITS && pass->n_patch)
            return kv_fail(e, KV_USAGE, "%s logits of a patched pass leave out the patch's own; record %s",
                           run->policy.where, kv_channels[k].name);
    }
    return true;
}

/* Keys and values of all ticks up to `last`, for those sources that are made of them. */
static bool check_history(const struct kv_replay *r, const struct kv_replay_run *run, int64_t last, struct kv_arena *a,
                          struct kv_err *e)
{
    for (int k = 0; k < KV_SCORE_CHANNELS; k++) {
        const struct kv_source *s = &run->source[k];
        for (int64_t i = 0; s->way == KV_WAY_KEYS && i <= last; i++)
            if ((s->channel >= 0 && !r->about.channel[s->channel].at[i]) ||
                (s->values >= 0 && !r->about.channel[s->values].at[i]))
                return kv_fail(e, KV_USAGE, "%s keys or values were not recorded for the pass %s; record them there",
                               run->policy.where, tick_text(&r->about.tick[i], a));
    }
    return true;
}

/* A chunk is split where the tick ends; its eviction and patch wait for its own end. */
static void clip(struct kv_pass *pass, int64_t end)
{
    int64_t beyond = pass->seen + pass->n_new - end;
    if (beyond > 0) {
        pass->n_new -= beyond;
        pass->n_unit -= beyond;
    }
}

/* Follows the passes that the policy will make. */
static bool check_passes(const struct kv_replay *r, struct kv_replay_run *run, struct kv_arena *a, struct kv_err *e)
{
    int64_t seen = 0, unit = 0, index = 0, tick = 0, keyed = -1; /* keyed: last tick that needs keys or values */
    struct kv_pass pass;
    bool scored = (run->policy.score->needs | run->policy.score->observes) && run->policy.law->room;
    while (scored && tick < r->about.n_ticks) {
        const struct kv_tick *t = &r->about.tick[tick];
        if (!kv_pass_next(&run->policy.when, &r->request, index, seen, unit, t->end - seen + run->policy.when.patch,
                          &pass))
            break;
        clip(&pass, t->end);
        if (seen + pass.n_new == t->end && !check_channels(r, run, &pass, tick, &keyed, a, e))
            return false;
        if (pass.evict && seen + pass.n_new < t->end)
            return kv_fail(
                e, KV_USAGE,
                "%s it would evict after token %lld, within the recorded pass %s: scores are known at its end "
                "only; use a chunk (or every) that is a multiple of the recorded passes, or record shorter ones",
                run->policy.where, (long long)(seen + pass.n_new), tick_text(t, a));
        seen += pass.n_new;
        unit = pass.evict ? 0 : unit + pass.n_new;
        index++;
        tick += seen == t->end;
    }
    return check_history(r, run, keyed, a, e);
}

/* The lanes that were recorded must be those of the policy. */
static bool check_lanes(const struct kv_replay *r, const struct kv_replay_run *run, struct kv_err *e)
{
    int64_t heads = r->about.query_lanes ? r->about.q_heads : r->about.kv_heads;
    return !r->closed || heads == run->shape.store_heads ||
           kv_fail(e, KV_DATA, "%s it has %lld lanes in a layer, and the trace recorded %lld", run->policy.where,
                   (long long)run->shape.store_heads, (long long)heads);
}

static bool check_closed(const struct kv_replay *r, const struct kv_policy *p, struct kv_err *e)
{
    return !r->closed || !strcmp(p->name, r->about.policy) ||
           kv_fail(e, KV_USAGE,
                   "%s the trace was recorded under '%s' (closed loop), and says nothing about another policy; replay "
                   "that one, or record with the full cache",
                   p->where, r->about.policy);
}

bool kv_replay_add(struct kv_replay *r, const struct kv_policy *policy, struct kv_arena *a, struct kv_err *e)
{
    struct kv_replay_run *run = &r->run[r->n_runs];
    *run = (struct kv_replay_run){.policy = *policy};
    struct kv_policy *p = &run->policy;
    if (!check_closed(r, p, e) || !kv_policy_prepare(p, &r->model, &r->asked.run, &run->shape, a, e) ||
        !check_lanes(r, run, e) || !check_passes(r, run, a, e))
        return false;
    size_t lanes = (size_t)(run->shape.layers * run->shape.store_heads);
    run->lane = kv_alloc_many(a, lanes, sizeof *run->lane, "lanes", e);
    run->point = kv_alloc_many(a, (size_t)r->about.n_ticks, sizeof *run->point, "ticks", e);
    run->mark = KV_NEW_N(a, double, 2 * r->about.n_marks + 1);
    r->n_runs++; /* from here on it has something to close */
    if (!run->lane || !run->point)
        return false;
    run->open = true;
    return kv_cache_open(&run->cache, p, &run->shape, &r->request, r->asked.page, r->asked.in_place, a, e);
}

/* ---- passes ---- */

/* Passes of this policy that end within the tick, without scores; the last one, which ends with it, is left begun. */
static bool begin_tick(struct kv_replay_run *run, int64_t end, struct kv_cache_work *w, struct kv_err *e)
{
    struct kv_cache *c = &run->cache;
    struct kv_pass pass;
    int64_t patch = run->policy.when.patch;
    while (kv_cache_next(c, end - c->seen + patch, &pass)) {
        clip(&pass, end);
        int64_t passes = 1, rest = (end - c->seen) / pass.n_new;
        if (!pass.evict && pass.decode_step >= 0 && rest > 1)
            passes = pass.repeat < rest ? pass.repeat : rest - 1;
        if (!kv_cache_begin(c, &pass, passes, e))
            return false;
        if (c->seen + pass.n_new * passes == end)
            return true;
        for (int64_t layer = 0; pass.evict && layer < run->shape.layers; layer++)
            kv_cache_layer(c, layer, w);
        kv_cache_end(c);
    }
    return true;
}

static void add_mass(struct kv_lane_mass *sum, const struct kv_lane_mass *m)
{
    sum->held += m->held;
    sum->kept += m->kept;
    sum->inner += m->inner;
    sum->later += m->later;
    sum->overlap += m->overlap;
    sum->known |= m->known;
    sum->later_known |= m->later_known;
}

static void scale_mass(struct kv_lane_mass *m, double n)
{
    m->held /= n;
    m->kept /= n;
    m->inner /= n;
    m->later /= n;
    m->overlap /= n;
}

/* The run at the end of a tick; lanes are summed in their order. */
static void add_point(struct kv_replay *r, struct kv_replay_run *run, int64_t tick)
{
    const struct kv_replay_asked *q = &r->asked;
    struct kv_replay_point *at = &run->point[run->n_points++];
    *at = (struct kv_replay_point){.tick = tick,
                                   .tokens = r->about.tick[tick].end - r->about.tick[tick].begin,
                                   .decode = run->cache.pass.decode_step >= 0,
                                   .evicted = run->cache.pass.evict};
    int64_t lanes = run->shape.layers * run->shape.store_heads;
    for (int64_t i = 0; i < lanes; i++)
        add_mass(&at->mass, &run->lane[i].last);
    scale_mass(&at->mass, (double)lanes);
    kv_cache_end(&run->cache);
    const struct kv_ledger *l = &run->cache.ledger;
    int64_t page = kv_ledger_page_bytes(l, q->layout), beside = kv_ledger_buffer_bytes(l);
    int how = q->in_place ? KV_IN_PLACE : KV_COMPACT;
    at->passes = l->passes;
    at->seen = run->cache.seen;
    at->entries_in_pass = l->pass_entries[q->scope];
    at->entries_end = l->end_entries;
    at->in_pass_bytes = l->pass_pages[q->layout][how][q->scope] * page + beside;
    at->end_bytes = l->pages[q->layout][how].end * page + beside;
}

/* Kept positions as spans of neighbours; `before` begins each line. */
void kv_replay_put_kept(struct kv_replay_run *run, const char *before, FILE *out)
{
    for (int64_t lane = 0; lane < run->cache.lanes; lane++) {
        struct kv_cache *c = &run->cache;
        int64_t layer = lane / c->shape->store_heads, head = lane % c->shape->store_heads, begin = -1;
        const uint64_t *set = kv_cache_set(c, layer, head);
        for (int64_t t = 0; t <= c->seen; t++) {
            bool in = t < c->seen && kv_set_has(set, t);
            if (in && begin < 0)
                begin = t;
            if (in || begin < 0)
                continue;
            kv_csv_put(run->policy.name, out);
            fprintf(out, "%s,%lld,%lld,%lld,%lld\n", before, (long long)layer, (long long)head, (long long)begin,
                    (long long)t - 1);
            begin = -1;
        }
    }
}

static void put_tick(const struct kv_replay *r, struct kv_replay_run *run, int64_t tick)
{
    char before[64];
    snprintf(before, sizeof before, ",%lld,%lld", (long long)tick, (long long)run->cache.seen);
    kv_replay_put_kept(run, before, r->asked.kept);
}

/* Shares of the marked tokens that lanes still hold. */
static void look_at_marks(const struct kv_replay *r, struct kv_replay_run *run, int place)
{
    int64_t lanes = run->shape.layers * run->shape.store_heads;
    for (int m = 0; m < r->about.n_marks; m++) {
        const struct kv_mark *mark = &r->about.mark[m];
        int64_t held = 0, end = mark->end < run->cache.seen ? mark->end : run->cache.seen;
        for (int64_t layer = 0; layer < run->shape.layers && mark->begin < end; layer++)
            for (int64_t h = 0; h < run->shape.store_heads; h++)
                held += kv_set_count_range(kv_cache_set(&run->cache, layer, h), mark->begin, end);
        run->mark[2 * m + place] = (double)held / (double)((mark->end - mark->begin) * lanes);
    }
}

/* ---- ticks ---- */

struct replay_work {
    struct kv_replay *replay;
    struct kv_feed **feed; /* (threads,) */
    struct kv_err *error;  /* (threads,) */
    int64_t tick;
    atomic_llong next;
};

static void feed_layers(void *work_, int member)
{
    struct replay_work *w = work_;
    for (int64_t layer; (layer = atomic_fetch_add(&w->next, 1)) < w->replay->about.layers;)
        if (!w->error[member].n && !kv_feed_layer(w->feed[member], w->tick, layer, &w->error[member]))
            return;
}

static bool run_tick(struct kv_replay *r, struct kv_team *team, struct replay_work *w, struct kv_cache_work *alone,
                     int64_t tick, struct kv_err *e)
{
    const struct kv_tick *t = &r->about.tick[tick];
    for (int i = 0; i < r->n_runs; i++)
        if (!begin_tick(&r->run[i], t->end, alone, e))
            return false;
    w->tick = tick;
    atomic_store(&w->next, 0);
    kv_team_run(team, feed_layers, w);
    for (int i = 0; i < kv_team_members(team); i++)
        if (w->error[i].n) { /* the first in order of thread; all of them say the same of a damaged file */
            *e = w->error[i];
            return false;
        }
    for (int i = 0; i < r->n_runs; i++)
        if (r->run[i].cache.passes) {
            add_point(r, &r->run[i], tick);
            if (r->asked.kept)
                put_tick(r, &r->run[i], tick);
            if (t->end == r->about.prefill)
                look_at_marks(r, &r->run[i], 0);
        }
    return true;
}

static bool open_history(const struct kv_replay *r, struct kv_history *h, struct kv_err *e)
{
    int64_t numbers, bytes;
    *h = (struct kv_history){.keys_channel = -1, .values_channel = -1};
    for (int i = 0; i < r->n_runs; i++)
        for (int k = 0; k < KV_SCORE_CHANNELS; k++) {
            const struct kv_source *s = &r->run[i].source[k];
            if (s->way == KV_WAY_KEYS) {
                h->keys_channel = s->channel >= 0 ? s->channel : h->keys_channel;
                h->values_channel = s->values >= 0 ? s->values : h->values_channel;
            }
        }
    if (h->keys_channel < 0 && h->values_channel < 0)
        return true;
    if (__builtin_mul_overflow(r->about.layers * r->about.kv_heads * r->about.head_dim, r->end + KV_SLACK, &numbers) ||
        __builtin_mul_overflow(numbers, (int64_t)sizeof(float), &bytes))
        return kv_fail(e, KV_ENV, "the keys of %lld tokens are more than memory can be", (long long)r->end);
    h->keys = h->keys_channel < 0 ? NULL : malloc((size_t)bytes);
    h->values = h->values_channel < 0 ? NULL : malloc((size_t)bytes);
    if ((h->keys_channel < 0 || h->keys) && (h->values_channel < 0 || h->values))
        return true;
    free(h->keys);
    free(h->values);
    return kv_fail(e, KV_ENV, "no memory for %lld bytes of recorded keys or values", (long long)bytes);
}

/* ---- results ---- */

static double mean(double sum, int64_t n)
{
    return n ? sum / (double)n : NAN;
}

static void sum_up(const struct kv_replay *r, struct kv_replay_run *run)
{
    struct kv_lane_mass sum = {0};
    int64_t lanes = run->shape.layers * run->shape.store_heads, n = 0, n_held = 0, n_later = 0;
    for (int64_t i = 0; i < lanes; i++) {
        const struct kv_replay_lane *l = &run->lane[i];
        add_mass(&sum, &l->sum);
        n += l->n;
        n_held += l->n_held;
        n_later += l->n_later;
        run->decisions += l->evictions;
        run->approximate += l->approximate;
        run->differs += l->differs;
        run->ties += run->cache.lane[i].ties;
    }
    /* nothing ever left: all of it is kept */
    bool nothing_left = r->mass >= 0 && !n && n_held;
    run->mass_held = mean(sum.held, n_held);
    run->mass_kept = nothing_left ? 1 : mean(sum.kept, n);
    run->mass_inner = nothing_left ? 1 : mean(sum.inner, n);
    run->mass_later = r->later >= 0 && !n_later ? (nothing_left ? 1 : NAN) : mean(sum.later, n_later);
    run->overlap = mean(sum.overlap, n_later);
    struct kv_request done = r->request;
    kv_count_read(&run->count, &run->cache.ledger, &done);
    look_at_marks(r, run, 1);
    if (r->end < r->about.prefill) /* the prompt's end was not recorded */
        look_at_marks(r, run, 0);
}

/* Buffers for passes within ticks. Positions need none, nor does what is refused there. */
static bool open_alone(const struct kv_replay *r, struct kv_cache_work *w, struct kv_err *e)
{
    int64_t heads = 1, entries = 0;
    for (int i = 0; i < r->n_runs; i++) {
        const struct kv_score *score = r->run[i].policy.score;
        if (score->positional || score->needs || score->observes)
            continue;
        entries = r->end + KV_SLACK;
        heads = r->run[i].shape.store_heads > heads ? r->run[i].shape.store_heads : heads;
    }
    return kv_cache_work_open(w, entries, (int)heads, e);
}

static bool run_ticks(struct kv_replay *r, struct kv_team *team, struct replay_work *w, struct kv_err *e)
{
    struct kv_cache_work alone;
    struct kv_progress progress;
    bool good = open_alone(r, &alone, e);
    kv_progress_start(&progress, "recorded tokens replayed", r->end, r->asked.quiet);
    for (int64_t tick = 0; good && tick < r->about.n_ticks; tick++) {
        good = run_tick(r, team, w, &alone, tick, e);
        kv_progress_add(&progress, r->about.tick[tick].end - r->about.tick[tick].begin);
    }
    kv_progress_end(&progress);
    kv_cache_work_close(&alone);
    return good;
}

bool kv_replay_run(struct kv_replay *r, struct kv_arena *a, struct kv_err *e)
{
    struct kv_history history;
    if (!open_history(r, &history, e))
        return false;
    int threads = r->asked.threads < r->about.layers ? r->asked.threads : (int)r->about.layers;
    struct kv_team *team = kv_team_open(threads, a);
    int n = kv_team_members(team), opened = 0;
    struct replay_work w = {.replay = r};
    w.feed = KV_NEW_N(a, struct kv_feed *, n);
    w.error = KV_NEW_N(a, struct kv_err, n);
    bool good = true;
    for (; opened < n && good; opened++)
        good = (w.feed[opened] = kv_feed_open(r, &history, a, e)) != NULL;
    good = good && run_ticks(r, team, &w, e);
    kv_team_close(team);
    for (int i = 0; i < opened && w.feed[i]; i++)
        kv_feed_close(w.feed[i]);
    free(history.keys);
    free(history.values);
    for (int i = 0; good && i < r->n_runs; i++)
        sum_up(r, &r->run[i]);
    return good;
}
