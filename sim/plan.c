/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/plan.h"

#include "sim/core/least.h"
#include "sim/draw.h"
#include "sim/progress.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

/* ---- requests ---- */

static bool check_lengths(const struct kv_settings *s, int64_t longest, struct kv_err *e)
{
    const struct kv_lengths *lengths[] = {&s->workload.prompt, &s->workload.output};
    for (int i = 0; i < 2; i++) {
        const char *name = i ? "output" : "prompt";
        if (lengths[i]->most != KV_UNSET && lengths[i]->most > longest)
            kv_fail(e, KV_USAGE,
                    "%s: [workload] %s_max = %lld exceeds max_model_len = %lld; lower it, or set [engine] "
                    "max_model_len",
                    s->path, name, (long long)lengths[i]->most, (long long)longest);
        if (lengths[i]->least != KV_UNSET && lengths[i]->least > longest)
            kv_fail(e, KV_USAGE,
                    "%s: [workload] %s_min = %lld exceeds max_model_len = %lld; lower it, or set [engine] "
                    "max_model_len",
                    s->path, name, (long long)lengths[i]->least, (long long)longest);
    }
    int64_t prompt = kv_lengths_mean(&s->workload.prompt) ? s->workload.prompt.tokens : 1;
    int64_t output = kv_lengths_mean(&s->workload.output) ? s->workload.output.tokens : 0;
    if (s->workload.prompt.distribution == KV_FIXED && prompt < 1)
        kv_fail(e, KV_USAGE, "%s: [workload] prompt_tokens is 0; a request has at least 1", s->path);
    if (prompt + output > longest)
        kv_fail(e, KV_USAGE,
                "%s: [workload] a prompt of %lld and an output of %lld tokens exceed max_model_len = %lld; "
                "shorten them, or set [engine] max_model_len",
                s->path, (long long)prompt, (long long)output, (long long)longest);
    return !e->n;
}

static bool draw_requests(struct kv_plan *p, int64_t longest, struct kv_arena *a, struct kv_err *e)
{
    const struct kv_settings *s = p->settings;
    if (!check_lengths(s, longest, e))
        return false;
    p->n_requests = s->workload.requests == KV_UNSET ? 1 : s->workload.requests;
    p->request = kv_alloc_many(a, (size_t)p->n_requests, sizeof *p->request, "the requests", e);
    if (!p->request)
        return false;
    gsl_rng *rng = kv_draw_open();
    for (int64_t i = 0; i < p->n_requests; i++) {
        struct kv_request *r = &p->request[i];
        kv_draw_request(rng, s, (uint64_t)s->run.seed, (uint64_t)i, longest, &r->prompt, &r->output);
        r->prefill = r->prompt - s->engine.prefill;
        kv_quantiles_add(&p->prompts, (double)r->prompt);
        kv_quantiles_add(&p->outputs, (double)r->output);
    }
    gsl_rng_free(rng);
    if ((double)s->workload.shared_prefix > p->prompts.least)
        return kv_fail(e, KV_USAGE,
                       "%s: [workload] shared_prefix = %lld is longer than the shortest prompt of %.0f tokens", s->path,
                       (long long)s->workload.shared_prefix, p->prompts.least);
    return true;
}

/* ---- rows ---- */

static bool add_row(struct kv_plan *p, const struct kv_policy *policy, int source, int64_t chunk,
                    enum kv_baseline baseline, struct kv_arena *a, struct kv_err *e)
{
    struct kv_plan_row *row = KV_NEW(a, struct kv_plan_row);
    int64_t limit = p->settings->engine.max_num_batched_tokens;
    struct kv_defaults run = {.chunk = chunk, .dtype = p->dtype, .limit = limit == KV_UNSET ? 0 : limit};
    row->baseline = baseline;
    row->source = source;
    if (!kv_counter_open(&row->counter, policy, &p->model, &run, p->settings->engine.block_size, a, e))
        return false;
    row->counter.ledger.skip_places = true;
    row->counter.ledger.in_place &= p->compaction == KV_IN_PLACE; /* what is not shown need not be counted */
    if (p->compaction == KV_IN_PLACE && !kv_policy_in_place(&row->counter.policy))
        return kv_fail(e, KV_USAGE,
                       "%s compaction = false needs to know which entries stay, and lengths do not tell for score "
                       "'%s'; set [engine] compaction = true",
                       policy->where, policy->score->name);
    const struct kv_when *when = &row->counter.policy.when;
    kv_pool_derive(&row->pool, p->settings, &p->model, p->dtype, kv_least(when->chunk + when->patch, p->longest));
    if (!p->n_rows || row->pool.bytes > p->pool.bytes)
        p->pool = row->pool;
    p->row[p->n_rows++] = row;
    return true;
}

static bool has_full(const struct kv_plan *p, enum kv_dtype dtype)
{
    bool has = false;
    for (int i = 0; i < p->settings->n_policies; i++) {
        const struct kv_policy *own = &p->settings->policy[i];
        has |= !strcmp(own->kind->name, "full") && kv_dtype_of_choice(own->keys.kv_cache_dtype, p->dtype) == dtype;
    }
    return has;
}

/* A baseline's name, unless a policy of the config already has it. */
static const char *free_name(const struct kv_plan *p, const char *name, struct kv_arena *a)
{
    for (int i = 0; i < p->settings->n_policies; i++)
        if (!strcmp(p->settings->policy[i].name, name))
            return free_name(p, kv_format(a, "%s (baseline)", name), a);
    return name;
}

static bool add_baseline(struct kv_plan *p, const char *name, const char *spec, enum kv_baseline baseline,
                         struct kv_arena *a, struct kv_err *e)
{
    struct kv_policy *policy = KV_NEW(a, struct kv_policy);
    if (!kv_policy_from_spec(policy, spec, a, e))
        return false;
    policy->name = free_name(p, name, a);
    return add_row(p, policy, -1 - p->n_rows, p->settings->plan.chunks.at[0], baseline, a, e);
}

/* The full cache and its fp8 form stand beside every plan, and prefix caching where requests share one. They do not
 * depend on the chunk. */
static bool add_baselines(struct kv_plan *p, struct kv_arena *a, struct kv_err *e)
{
    const struct kv_settings *s = p->settings;
    if (!s->plan.baselines)
        return true;
    return (has_full(p, p->dtype) || add_baseline(p, "full", "full", KV_BASELINE, a, e)) &&
           (has_full(p, KV_FP8) || add_baseline(p, "full + fp8", "full:kv_cache_dtype=fp8", KV_BASELINE, a, e)) &&
           (!s->workload.shared_prefix || add_baseline(p, "full + prefix caching", "full", KV_PREFIX_CACHING, a, e));
}

static bool make_rows(struct kv_plan *p, struct kv_arena *a, struct kv_err *e)
{
    const struct kv_settings *s = p->settings;
    p->row = KV_NEW_N(a, struct kv_plan_row *, s->n_policies * s->plan.chunks.n + 3);
    add_baselines(p, a, e);
    for (int c = 0; c < s->plan.chunks.n && !e->n; c++) /* what is wrong at one chunk is wrong at all */
        for (int i = 0; i < s->n_policies; i++) {
            if (c == 0 || !s->policy[i].when.chunk) /* else the chunk is its own */
                add_row(p, &s->policy[i], i, s->plan.chunks.at[c], KV_OWN_POLICY, a, e);
        }
    return !e->n;
}

/* ---- counting ---- */

static int64_t request_bytes(const struct kv_plan *p, const struct kv_count *n, enum kv_layout layout)
{
    return n->pages[layout][p->compaction][p->scope].bytes;
}

/* Bytes of the full blocks that all requests share. */
static int64_t shared_bytes(const struct kv_plan *p, const struct kv_plan_row *row)
{
    int64_t block = p->settings->engine.block_size;
    return row->baseline == KV_PREFIX_CACHING
               ? p->settings->workload.shared_prefix / block * block * row->pool.token_bytes
               : 0;
}

static int64_t how_many_fit(const struct kv_plan *p, const struct kv_plan_row *row, int64_t peak, double resident)
{
    double own = resident - (double)shared_bytes(p, row);
    if (peak > row->pool.bytes)
        return 0;
    return own < 1 ? KV_PLAN_ANY : (int64_t)(((double)row->pool.bytes - (double)peak) / own) + 1;
}

double kv_plan_wanted_bytes(const struct kv_plan *p, const struct kv_plan_row *row)
{
    double own = row->resident[p->layout] - (double)shared_bytes(p, row);
    return (double)row->peak[p->layout] + (double)(p->settings->workload.concurrency - 1) * own;
}

static void finish_row(const struct kv_plan *p, struct kv_plan_row *row)
{
    double n = (double)p->n_requests;
    row->footprint_actual /= n;
    row->footprint_paper /= n;
    row->peak_actual /= n;
    row->peak_paper /= n;
    row->active /= n;
    for (enum kv_layout layout = 0; layout < KV_LAYOUTS; layout++) {
        row->resident[layout] /= n;
        row->fit[layout] = how_many_fit(p, row, row->peak[layout], row->resident[layout]);
    }
    row->fit_at_peak = row->peak[p->layout] && row->pool.bytes > 0 ? row->pool.bytes / row->peak[p->layout] : 0;
    row->fits = row->fit[p->layout] >= p->settings->workload.concurrency;
}

static bool they_fit(const struct kv_plan *p, struct kv_plan_row *row, int64_t prompt, int64_t output,
                     enum kv_layout layout, int64_t wanted)
{
    struct kv_request r = {.prompt = prompt, .output = output, .prefill = prompt - p->settings->engine.prefill};
    struct kv_count n;
    return kv_counter_run(&row->counter, &r, &n, &row->err) &&
           how_many_fit(p, row, request_bytes(p, &n, layout), (double)n.pages_resident[layout][p->compaction]) >=
               wanted;
}

static int64_t largest_tried(const struct kv_plan_row *row, int64_t output)
{
    return kv_least(KV_PLAN_MOST_TOKENS, kv_walk_most_tokens(&row->counter.shape)) - output;
}

/* The longest prompt, with the mean output behind it, of which `wanted` fit together: doubled until they do not, then
 * halved in. */
static int64_t largest_prompt(const struct kv_plan *p, struct kv_plan_row *row, enum kv_layout layout, int64_t wanted)
{
    int64_t output = llrint(p->outputs.sum / (double)p->outputs.n), low = 0, high = 1;
    int64_t bound = largest_tried(row, output);
    if (bound < 1)
        return 0;
    while (high < bound && they_fit(p, row, high, output, layout, wanted)) {
        low = high;
        high *= 2;
    }
    if (high >= bound) {
        if (they_fit(p, row, bound, output, layout, wanted))
            return bound;
        high = bound;
    }
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (they_fit(p, row, middle, output, layout, wanted))
            low = middle;
        else
            high = middle;
    }
    return low;
}

static void count_row(const struct kv_plan *p, struct kv_plan_row *row, struct kv_progress *progress)
{
    struct kv_count n;
    int64_t same = 1;
    for (int64_t i = 0; i < p->n_requests; i += same) {
        const struct kv_request *r = &p->request[i];
        for (same = 1; i + same < p->n_requests && !memcmp(r, &r[same], sizeof *r);)
            same++;
        if (!kv_counter_run(&row->counter, r, &n, &row->err))
            return;
        int64_t bytes = request_bytes(p, &n, p->layout);
        double times = (double)same;
        row->footprint_actual += times * n.footprint_actual;
        row->footprint_paper += times * n.footprint_paper;
        row->peak_actual += times * n.peak_actual[p->scope];
        row->peak_paper += times * n.peak_paper;
        row->active += times * n.active;
        if (i == 0 || bytes > request_bytes(p, &row->largest, p->layout))
            row->largest = n;
        for (int64_t j = 0; j < same; j++)
            kv_quantiles_add(&row->peak_bytes, (double)bytes);
        for (enum kv_layout layout = 0; layout < KV_LAYOUTS; layout++) {
            row->resident[layout] += times * (double)n.pages_resident[layout][p->compaction];
            row->peak[layout] = kv_most(row->peak[layout], request_bytes(p, &n, layout));
        }
        kv_progress_add(progress, same);
    }
    finish_row(p, row);
    int64_t output = llrint(p->outputs.sum / (double)p->outputs.n);
    for (enum kv_layout layout = 0; layout < KV_LAYOUTS; layout++) {
        if (layout != p->layout && layout != KV_PER_HEAD) /* not shown */
            continue;
        int64_t prompt = largest_prompt(p, row, layout, 1);
        row->context[layout] = prompt && prompt == largest_tried(row, output) ? KV_PLAN_ANY
                               : prompt                                       ? prompt + output
                                                                              : 0;
    }
    if (!row->fits)
        row->fitting_prompt = largest_prompt(p, row, p->layout, p->settings->workload.concurrency);
}

struct work {
    const struct kv_plan *plan;
    atomic_int next;
    struct kv_progress progress;
};

static void *count_rows(void *work_)
{
    struct work *work = work_;
    for (int i; (i = atomic_fetch_add(&work->next, 1)) < work->plan->n_rows;)
        count_row(work->plan, work->plan->row[i], &work->progress);
    return NULL;
}

static void count_all(const struct kv_plan *p, int jobs, bool quiet)
{
    enum { MOST_JOBS = 256 };
    pthread_t thread[MOST_JOBS];
    struct work work = {.plan = p};
    int started = 0;
    kv_progress_start(&work.progress, "requests counted", p->n_requests * p->n_rows, quiet);
    while (started < jobs - 1 && started < MOST_JOBS && started < p->n_rows - 1 &&
           !pthread_create(&thread[started], NULL, count_rows, &work))
        started++;
    count_rows(&work); /* with no thread to be had, this one does it all */
    for (int i = 0; i < started; i++)
        pthread_join(thread[i], NULL);
    kv_progress_end(&work.progress);
}

/* ---- the plan ---- */

bool kv_plan_compute(struct kv_plan *p, const struct kv_settings *s, int jobs, bool quiet, struct kv_arena *a,
                     struct kv_err *e)
{
    *p = (struct kv_plan){.settings = s,
                          .layout = (enum kv_layout)s->engine.kv_layout,
                          .scope = (enum kv_scope)s->engine.evict_scope,
                          .compaction = s->engine.compaction ? KV_COMPACT : KV_IN_PLACE};
    if (!kv_settings_model(s, &p->model, a, e))
        return false;
    p->dtype = kv_dtype_of_choice(s->engine.kv_cache_dtype, kv_cache_dtype_of(&p->model));
    int64_t longest = s->engine.max_model_len != KV_UNSET ? s->engine.max_model_len
                      : p->model.max_positions            ? p->model.max_positions
                                                          : INT64_C(1) << 30;
    p->longest = longest;
    if (!draw_requests(p, longest, a, e) || !make_rows(p, a, e))
        return false;
    if (!p->n_rows)
        return kv_fail(e, KV_USAGE,
                       "%s: no policy to plan; add a section [policy NAME], or set [plan] baselines = true", s->path);
    if (p->pool.bytes <= 0)
        return true;
    count_all(p, jobs, quiet);
    for (int i = 0; i < p->n_rows; i++)
        if (p->row[i]->err.n) {
            *e = p->row[i]->err;
            return kv_while(e, "policy '%s'", p->row[i]->counter.policy.name);
        }
    return true;
}

bool kv_plan_fits(const struct kv_plan *p)
{
    for (int i = 0; i < p->n_rows; i++)
        if (p->row[i]->fits)
            return true;
    return false;
}
