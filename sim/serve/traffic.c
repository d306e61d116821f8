/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/serve/traffic.h"

#include "sim/interrupt.h"
#include "sim/output.h"
#include "sim/team.h"

#include <gsl/gsl_cdf.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>

/* ---- rows ---- */

static bool has_kind(const struct kv_settings *s, const char *kind, enum kv_dtype run, enum kv_dtype dtype)
{
    bool has = false;
    for (int i = 0; i < s->n_policies; i++)
        has |= !strcmp(s->policy[i].kind->name, kind) &&
               kv_dtype_of_choice(s->policy[i].keys.kv_cache_dtype, run) == dtype;
    return has;
}

static struct kv_serve_asked *add_row(struct kv_traffic *t, const char *name, const struct kv_policy *policy,
                                      enum kv_dtype run)
{
    struct kv_serve_asked *row = &t->asked[t->n_rows++];
    *row = (struct kv_serve_asked){.settings = t->settings,
                                   .model = &t->model,
                                   .policy = policy,
                                   .name = name,
                                   .dtype = run,
                                   .prefix_caching = t->settings->engine.enable_prefix_caching,
                                   .seed = (uint64_t)t->settings->run.seed,
                                   .rate = 1,
                                   .context = 1,
                                   .replicas = t->settings->engine.replicas};
    return row;
}

static bool add_baseline(struct kv_traffic *t, const char *name, const char *spec, bool prefix_caching,
                         enum kv_dtype run, struct kv_arena *a, struct kv_err *e)
{
    struct kv_policy *policy = KV_NEW(a, struct kv_policy);
    if (!kv_policy_from_spec(policy, spec, a, e))
        return false;
    t->baseline[t->n_rows] = true;
    policy->name = name;
    add_row(t, name, policy, run)->prefix_caching |= prefix_caching;
    return true;
}

/* Beside every policy stand the full cache with prefix caching, and in fp8: what an engine can do without evicting. */
static bool make_rows(struct kv_traffic *t, enum kv_dtype dtype, struct kv_arena *a, struct kv_err *e)
{
    const struct kv_settings *s = t->settings;
    if (s->n_policies > KV_TRAFFIC_ROWS - 3)
        return kv_fail(e, KV_USAGE, "%s: %d policies; a plan with traffic serves up to %d", s->path, s->n_policies,
                       KV_TRAFFIC_ROWS - 3);
    t->asked = KV_NEW_N(a, struct kv_serve_asked, KV_TRAFFIC_ROWS);
    bool caching = s->engine.enable_prefix_caching && s->engine.scheduler == KV_SCHEDULER_VLLM;
    bool full = has_kind(s, "full", dtype, dtype), can_cache = s->engine.scheduler == KV_SCHEDULER_VLLM;
    if (s->plan.baselines && !full &&
        !add_baseline(t, caching ? "full + prefix caching" : "full", "full", false, dtype, a, e))
        return false;
    if (s->plan.baselines && !caching && can_cache &&
        !add_baseline(t, "full + prefix caching", "full", true, dtype, a, e))
        return false;
    if (s->plan.baselines && !has_kind(s, "full", dtype, KV_FP8) && dtype != KV_FP8 &&
        !add_baseline(t, "full + fp8", "full:kv_cache_dtype=fp8", false, dtype, a, e))
        return false;
    for (int i = 0; i < s->n_policies; i++)
        add_row(t, s->policy[i].name, &s->policy[i], dtype);
    if (!t->n_rows)
        return kv_fail(e, KV_USAGE, "%s: nothing to serve: no [policy NAME], and [plan] baselines = false", s->path);
    return true;
}

/* How long it takes to read entries depends on their type: rows of one type share a timing. */
static bool open_timing(struct kv_traffic *t, enum kv_dtype dtype, struct kv_arena *a, struct kv_err *e)
{
    struct kv_timing *timing[KV_INT4 + 1] = {0};
    if (!kv_timing_open(&t->timing, t->settings, &t->model, a, e))
        return false;
    timing[dtype] = t->timing;
    for (int i = 0; i < t->n_rows; i++) {
        enum kv_dtype own = kv_dtype_of_choice(t->asked[i].policy->keys.kv_cache_dtype, dtype);
        if (!timing[own]) {
            struct kv_settings *other = KV_NEW(a, struct kv_settings);
            *other = *t->settings;
            other->engine.kv_cache_dtype = (int)own + 1; /* choices begin with "auto" */
            if (!kv_timing_open(&timing[own], other, &t->model, a, e))
                return false;
        }
        t->asked[i].timing = timing[own];
    }
    return true;
}

/* ---- serving ---- */

struct work {
    struct kv_traffic *t;
    struct kv_arena **arena; /* (rows,) */
    struct kv_err *err;      /* (rows,) */
    bool *good;
    _Atomic int next;
};

/* The figures that intervals are given for. */
const char *const kv_spread_keys[KV_SPREAD] = {"ttft_p99_s",          "tpot_p99_s",      "e2e_p99_s",
                                               "output_tokens_per_s", "pool_peak_share", "slo_share"};

static void read_figures(const struct kv_served *r, enum kv_layout layout, double figure[KV_SPREAD])
{
    figure[0] = kv_quantile(&r->ttft, 0.99);
    figure[1] = kv_quantile(&r->tpot, 0.99);
    figure[2] = kv_quantile(&r->e2e, 0.99);
    figure[3] = r->span_s > 0 ? (double)r->sums.output_tokens / r->span_s : 0;
    figure[4] = (double)r->sums.peak_pages[layout] / (double)r->pages;
    figure[5] = r->counted + r->overdue ? kv_served_slo_share(r) : 0;
}

/* The other seeds, and what all of them come to. */
static bool serve_seeds(const struct kv_traffic *t, int row, struct kv_err *e)
{
    int64_t seeds = t->settings->run.seeds;
    enum kv_layout layout = (enum kv_layout)t->settings->engine.kv_layout;
    double sum[KV_SPREAD], squares[KV_SPREAD] = {0}, figure[KV_SPREAD], first[KV_SPREAD];
    struct kv_serve_asked asked = t->asked[row];
    asked.requests = asked.steps = NULL;
    asked.quiet = true;
    read_figures(&t->row[row], layout, first);
    memset(sum, 0, sizeof sum);
    int64_t served_seeds = 1;
    for (int64_t i = 1; i < seeds && !kv_interrupted(); i++) {
        struct kv_arena *a = kv_arena_open();
        struct kv_served *served = KV_NEW(a, struct kv_served);
        asked.seed = t->asked[row].seed + (uint64_t)i;
        bool good = kv_serve(served, &asked, a, e);
        if (good)
            read_figures(served, layout, figure);
        kv_arena_close(a);
        if (!good)
            return false;
        if (kv_interrupted())
            break; /* a part of a run is no draw */
        served_seeds++;
        for (int k = 0; k < KV_SPREAD; k++) {
            sum[k] += figure[k] - first[k];
            squares[k] += (figure[k] - first[k]) * (figure[k] - first[k]);
        }
    }
    double n = (double)served_seeds, t95 = n > 1 ? gsl_cdf_tdist_Pinv(0.975, n - 1) : NAN;
    for (int k = 0; k < KV_SPREAD; k++) {
        double variance = fmax(0, squares[k] - sum[k] * sum[k] / n) / (n - 1);
        t->spread[row].mean[k] = first[k] + sum[k] / n;
        t->spread[row].half[k] = t95 * sqrt(variance / n); /* NaN: of one there is no interval */
    }
    return true;
}

static void serve_rows(void *context, int member)
{
    struct work *w = context;
    const struct kv_traffic *t = w->t;
    (void)member;
    for (int i; (i = atomic_fetch_add(&w->next, 1)) < t->n_rows;)
        w->good[i] = kv_find(t, &t->asked[i], &t->found[i], &w->err[i]) &&
                     kv_serve(&t->row[i], &t->asked[i], w->arena[i], &w->err[i]) &&
                     (!t->spread || serve_seeds(t, i, &w->err[i]));
}

static bool open_files(struct kv_traffic *t, const char *folder, const char *steps, struct kv_arena *a,
                       struct kv_err *e)
{
    for (int i = 0; i < t->n_rows; i++)
        if ((folder && !(t->asked[i].requests = kv_out_scratch(folder, a, e))) ||
            (steps && !(t->asked[i].steps = kv_out_scratch(steps, a, e))))
            return false;
    return true;
}

/* Everything reads the requests from the start again, but what is no file cannot be read twice. */
static bool check_input(const struct kv_traffic *t, struct kv_err *e)
{
    const struct kv_settings *s = t->settings;
    const char *trace = s->workload.trace;
    struct stat st;
    bool once = trace && (!strcmp(trace, "-") || (!stat(trace, &st) && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)));
    if (once && (t->n_rows > 1 || s->plan.find || s->run.seeds > 1 || s->run.drain > 0))
        return kv_fail(e, KV_USAGE,
                       "%s: [workload] trace = %s can be read once only, and %s; write it to a file, and name that",
                       s->path, trace,
                       t->n_rows > 1      ? "each policy reads it ([plan] baselines add some)"
                       : s->run.drain > 0 ? "[run] drain needs to know its end"
                                          : "[plan] find and [run] seeds read it again");
    return true;
}

static bool check_find(const struct kv_settings *s, struct kv_err *e)
{
    bool rate = s->plan.find == KV_FIND_RATE || s->plan.find == KV_FIND_POLICY;
    return !rate || s->workload.arrivals != KV_CLOSED ||
           kv_fail(e, KV_USAGE,
                   "%s: [plan] find = %s searches a rate, and clients of arrivals = closed have none; set arrivals = "
                   "poisson",
                   s->path, s->plan.find == KV_FIND_RATE ? "max_rate" : "best_policy");
}

/* Of the policies whose quality is trusted the one that bears most. */
static void choose(struct kv_traffic *t)
{
    double floor = t->settings->plan.min_footprint;
    t->best = -1;
    for (int i = 0; i < t->n_rows; i++) {
        struct kv_found *f = &t->found[i];
        if (!t->settings->plan.scores && t->row[i].footprint_actual >= floor) {
            f->trusted = true;
            f->quality = "above min_footprint";
        } else if (!t->settings->plan.scores && t->row[i].footprint_actual < floor) {
            f->quality = "below min_footprint";
        }
        if (f->any && f->trusted && (t->best < 0 || f->rate > t->found[t->best].rate))
            t->best = i;
    }
}

static bool serve_all(struct kv_traffic *t, int jobs, struct kv_arena *a, struct kv_err *e)
{
    struct work work = {.t = t,
                        .arena = KV_NEW_N(a, struct kv_arena *, t->n_rows),
                        .err = KV_NEW_N(a, struct kv_err, t->n_rows),
                        .good = KV_NEW_N(a, bool, t->n_rows)};
    for (int i = 0; i < t->n_rows; i++)
        work.arena[i] = t->arena[i] = kv_arena_open();
    struct kv_team *team = kv_team_open(jobs < t->n_rows ? jobs : t->n_rows, a);
    kv_team_run(team, serve_rows, &work);
    kv_team_close(team);
    t->complete = true;
    for (int i = 0; i < t->n_rows; i++) {
        if (!work.good[i])
            return kv_fail(e, work.err[i].status, "%s", work.err[i].text);
        t->complete &= t->row[i].complete;
    }
    choose(t);
    return true;
}

/* Figures are of the requests between warm-up and drain: there must be some, if any was answered. */
static bool check_counted(const struct kv_traffic *t, struct kv_err *e)
{
    const struct kv_settings *s = t->settings;
    int64_t counted = 0, finished = 0;
    for (int i = 0; i < t->n_rows; i++) {
        counted += t->row[i].counted;
        finished += t->row[i].finished;
    }
    if (counted || !finished || kv_interrupted() || !(s->run.warmup > 0 || s->run.drain > 0))
        return true;
    return kv_fail(e, KV_USAGE,
                   "%s: [run] warmup = %g s and drain = %g s leave no answered request to count; requests arrive for "
                   "%.3g s",
                   s->path, s->run.warmup, s->run.drain, t->row[0].arrivals_s);
}

bool kv_traffic_compute(struct kv_traffic *t, const struct kv_settings *s, int jobs, const char *folder,
                        const char *steps, bool quiet, struct kv_arena *a, struct kv_err *e)
{
    *t = (struct kv_traffic){.settings = s};
    if (!kv_settings_model(s, &t->model, a, e))
        return false;
    enum kv_dtype dtype = kv_dtype_of_choice(s->engine.kv_cache_dtype, kv_cache_dtype_of(&t->model));
    if (!make_rows(t, dtype, a, e) || !open_timing(t, dtype, a, e))
        return false;
    t->row = KV_NEW_N(a, struct kv_served, t->n_rows);
    t->found = KV_NEW_N(a, struct kv_found, t->n_rows);
    if (s->run.seeds > 1)
        t->spread = KV_NEW_N(a, struct kv_spread, t->n_rows);
    if (!check_input(t, e) || !check_find(s, e) || !kv_find_quality(t, a, e))
        return false;
    for (int i = 0; i < t->n_rows; i++)
        t->asked[i].quiet = quiet || i;
    kv_catch_signals();
    return open_files(t, folder, steps, a, e) && serve_all(t, jobs, a, e) && check_counted(t, e);
}

void kv_traffic_close(struct kv_traffic *t)
{
    for (int i = 0; i < t->n_rows; i++) {
        if (t->asked[i].requests)
            fclose(t->asked[i].requests);
        if (t->asked[i].steps)
            fclose(t->asked[i].steps);
        if (t->arena[i])
            kv_arena_close(t->arena[i]);
    }
}
