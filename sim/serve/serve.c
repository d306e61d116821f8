/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/serve/serve.h"

#include "sim/core/least.h"
#include "sim/core/paper.h"
#include "sim/interrupt.h"
#include "sim/progress.h"
#include "sim/serve/alone.h"
#include "sim/serve/requests.h"
#include "sim/serve/rules.h"
#include "sim/serve/turns.h"
#include "sim/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const kv_verdict_names[] = {"stable", "backlogged", "overloaded", NULL};
const char *const kv_limit_names[] = {"KV pool", "max_num_seqs", "max_num_batched_tokens", NULL};

const char kv_serve_step_header[] = "policy,replica,step,start_s,what,request,tokens,computed,free_pages,waiting\n";

struct replica {
    struct run *run;
    struct kv_engine *engine;
    struct kv_engine_watch watch;
    struct kv_timeline *timeline;
    int64_t step; /* of the log of steps */
};

struct run {
    struct kv_served *out;
    const struct kv_serve_asked *asked;
    const struct kv_settings *settings;
    struct kv_workload *workload;
    struct kv_shape shape;
    struct kv_classes classes;
    struct kv_holder holder;
    struct kv_engine_rules rules;
    struct kv_alone alone;
    struct replica *replica;
    int64_t replicas, next_replica;
    struct kv_arrival next; /* of the stream, which is asked for later turns before this one arrives */
    uint64_t *next_block;
    int64_t next_room;
    bool more; /* the stream has it */
    struct kv_turns turns;
    double first_counted_s, last_counted_s; /* requests that arrive earlier or later are not counted */
    double first_s;
    double arrivals_end_s, stream_end_s, last_finish_s;
    int64_t from_stream;
    struct kv_jobs jobs;
    double footprint_sum, paper_sum;
    struct kv_quantiles *service; /* seconds of an answer, from when it is scheduled */
    struct kv_err follow_error;   /* of a turn that could not be read */
    bool asks_again;              /* the client of the request refused last */
    struct kv_arrival refused;
    struct kv_progress progress;
    struct kv_arena *arena;
};

/* ---- what engines tell ---- */

static int64_t scaled(int64_t tokens, double scale)
{
    double x = rint((double)tokens * scale);
    return x < 1 ? 1 : x > 0x1p53 ? INT64_C(1) << 53 : (int64_t)x;
}

static double paper_footprint(const struct run *r, const struct kv_job *job)
{
    const struct kv_policy *p = &r->out->policy;
    struct kv_request request = {.prompt = job->is.prompt, .output = job->is.output, .prefill = job->is.prompt};
    struct kv_paper_form form = {0};
    if (r->holder.plain)
        return 1;
    if (p->law->paper)
        form = p->law->paper(p, &request, p->when.chunk);
    return form.defined ? kv_paper_count(&form, request.prompt, request.output).footprint : NAN;
}

static bool meets_slo(const struct kv_settings *s, double ttft, double tpot, double e2e)
{
    return !(ttft > s->slo.ttft) && !(tpot > s->slo.tpot) && !(e2e > s->slo.e2e);
}

static void count_request(struct run *r, const struct kv_job *job)
{
    struct kv_served *out = r->out;
    double ttft = job->first_token_s - job->arrival_s, e2e = job->finish_s - job->arrival_s;
    double tpot = job->is.output > 1 ? (job->finish_s - job->first_token_s) / (double)(job->is.output - 1) : 0;
    kv_quantiles_add(r->service, job->finish_s - job->scheduled_s);
    if (job->arrival_s < r->first_counted_s || job->arrival_s > r->last_counted_s)
        return;
    out->counted++;
    out->good += meets_slo(r->settings, ttft, tpot, e2e);
    out->prompt_tokens += job->is.prompt;
    out->output_tokens += job->is.output;
    kv_quantiles_add(&out->ttft, ttft);
    kv_quantiles_add(&out->e2e, e2e);
    kv_quantiles_add(&out->queue, job->scheduled_s - job->arrival_s);
    if (job->is.output > 1)
        kv_quantiles_add(&out->tpot, tpot);
    kv_quantiles_add(&out->peak_bytes, (double)job->peak_pages * (double)out->page_bytes[r->rules.layout]);
    r->footprint_sum += job->entry_steps / job->full_steps;
    r->paper_sum += paper_footprint(r, job);
}

/* In flight at that time: what it takes is at least what it took until then. */
static void count_in_flight(struct run *r, const struct kv_job *job, double now)
{
    double first = isnan(job->first_token_s) ? now : job->first_token_s;
    double tpot = job->is.output > 1 ? (now - first) / (double)(job->is.output - 1) : 0;
    if (job->arrival_s < r->first_counted_s || job->arrival_s > r->last_counted_s)
        return;
    r->out->overdue += !meets_slo(r->settings, first - job->arrival_s, tpot, now - job->arrival_s);
}

double kv_served_slo_share(const struct kv_served *s)
{
    return (double)s->good / (double)(s->counted + s->overdue);
}

static bool is_closed(const struct run *r)
{
    return r->settings->workload.arrivals == KV_CLOSED;
}

/* The turn after this one, whose answer ended then, or whose client was told then that there is none. */
static bool add_next(struct run *r, const struct kv_arrival *is, double at, int64_t replica)
{
    struct kv_arrival next;
    if (r->follow_error.n || !kv_workload_follow(r->workload, is, &next, &r->follow_error))
        return false;
    at += next.arrival_s;
    if (is_closed(r) && at >= r->settings->workload.duration) /* false when there is none: it is NaN */
        return false;
    if (!is_closed(r)) { /* a session's prompts begin alike: what was named of one is named so in the next */
        next.block = is->block;
        next.n_blocks = is->n_blocks;
        next.block_tokens = is->block_tokens;
    }
    return kv_turns_add(&r->turns, at, replica, &next) ||
           kv_fail(&r->follow_error, KV_ENV, "no memory for the turns of %lld sessions", (long long)r->turns.n);
}

/* A closed loop's client asks anew after a refusal as after an answer; a session has ended. */
static void refuse(struct run *r, struct kv_job *job, const char *why)
{
    struct kv_served *out = r->out;
    r->asks_again = is_closed(r) && job->is.follows;
    r->refused = job->is;
    if (!out->refused++)
        out->refused_first =
            kv_format(r->arena, "request %lld (%lld prompt and %lld output tokens) %s", (long long)job->is.request,
                      (long long)job->is.prompt, (long long)job->is.output, why);
    kv_jobs_end(&r->jobs, job);
}

/* A later turn brings what was said, which is as long as it is; what it adds is stretched. */
static void stretch(const struct run *r, struct kv_arrival *arrival)
{
    if (r->asked->context == 1)
        return;
    int64_t added = scaled(arrival->prompt - arrival->context, r->asked->context);
    if (r->asked->context > 1 && arrival->n_blocks && arrival->n_blocks > arrival->prompt / arrival->block_tokens)
        arrival->n_blocks = arrival->prompt / arrival->block_tokens; /* the last, partial one goes on otherwise */
    arrival->prompt = arrival->context + added;
}

static void ask_again(struct run *r, double at)
{
    if (r->asks_again)
        add_next(r, &r->refused, at, -1);
    r->asks_again = false;
}

static bool is_session(const struct run *r, const struct kv_arrival *arrival)
{
    return !is_closed(r) && (arrival->turn || arrival->follows);
}

static void end_request(struct replica *at, struct kv_job *job)
{
    struct run *r = at->run;
    r->out->finished++;
    if (job->finish_s > r->last_finish_s)
        r->last_finish_s = job->finish_s;
    count_request(r, job);
    if (job->is.follows && !add_next(r, &job->is, job->finish_s, at - r->replica))
        kv_engine_forget(at->engine, job->is.request);
    kv_progress_add(&r->progress, 1);
    kv_jobs_end(&r->jobs, job);
}

static void log_event(struct replica *at, enum kv_engine_event what, const struct kv_job *job, int64_t tokens,
                      int64_t computed)
{
    static const char *const names[] = {"admit", "resume", "run", "preempt", "finish", "step", "refuse"};
    kv_csv_put(at->run->asked->name, at->run->asked->steps);
    int64_t step = what == KV_FINISHED ? at->step - 1 : at->step;
    fprintf(at->run->asked->steps, ",%lld,%lld,%.9f,%s,%lld,%lld,%lld,%lld,%lld\n", (long long)(at - at->run->replica),
            (long long)step, kv_engine_now(at->engine), names[what], job ? (long long)job->is.request : -1,
            (long long)tokens, (long long)computed,
            (long long)(at->run->rules.pages - kv_engine_pages(at->engine, at->run->rules.layout)),
            (long long)kv_engine_waiting(at->engine));
}

static void told(void *context, enum kv_engine_event what, struct kv_job *job, int64_t tokens, int64_t computed)
{
    struct replica *at = context;
    if (at->run->asked->steps)
        log_event(at, what, job, tokens, computed);
    if (what == KV_STEPPED)
        at->step++;
    else if (what == KV_PREEMPTED)
        kv_timeline_at(at->timeline, kv_engine_now(at->engine))->preemptions++;
    else if (what == KV_FINISHED)
        end_request(at, job);
    else if (what == KV_REFUSED) {
        refuse(at->run, job,
               job->generated ? "grew beyond the whole KV pool"
                              : "can never be admitted: the free KV pool does not hold its prompt");
        ask_again(at->run, kv_engine_now(at->engine));
    }
}

/* ---- open ---- */

static void open_holder(struct run *r, struct kv_holder *holder, const struct kv_classes *classes)
{
    kv_holder_open(holder, &r->out->policy, &r->shape, classes, r->settings->engine.block_size,
                   (enum kv_scope)r->settings->engine.evict_scope, r->arena);
}

/* Pages, one table a head, at the end of a request. */
static int64_t pages_at_end(struct run *r, const struct kv_classes *classes)
{
    const struct kv_request request = {.prompt = 32768, .output = 512, .prefill = 32768};
    struct kv_holder holder;
    struct kv_hold hold;
    int64_t pages = 0;
    open_holder(r, &holder, classes);
    enum kv_layout layout = holder.plain ? KV_SHARED : KV_PER_HEAD;
    kv_hold_open(&hold, &holder);
    kv_hold_start(&hold, &request);
    for (const struct kv_hold_pass *p; (p = kv_hold_next(&hold, request.prompt));)
        pages = p->passes > 1 ? kv_hold_pages(&hold, layout, p->passes) : p->after[layout];
    return holder.plain ? pages * holder.table[KV_PER_HEAD]->tables : pages;
}

/* Heads are dealt out to devices in order; the device that holds most decides what fits, so all count as if they held
 * as much. */
static bool open_fullest(struct run *r, struct kv_err *e)
{
    int64_t heads = r->shape.store_heads, devices = kv_least(r->settings->engine.tensor_parallel_size, heads),
            fullest = -1;
    for (int64_t i = 0; i < devices; i++) {
        struct kv_classes classes;
        if (!kv_classes_make_share(&classes, &r->out->policy, &r->shape, i * heads / devices, heads / devices, devices,
                                   r->arena, e))
            return false;
        int64_t pages = devices > 1 ? pages_at_end(r, &classes) : 0;
        if (pages > fullest)
            r->classes = classes;
        fullest = pages > fullest ? pages : fullest;
    }
    open_holder(r, &r->holder, &r->classes);
    return true;
}

static bool make_policy(struct run *r, struct kv_err *e)
{
    const struct kv_settings *s = r->settings;
    struct kv_served *out = r->out;
    struct kv_defaults run = {.chunk = s->plan.chunks.at[0], .dtype = r->asked->dtype};
    out->policy = *r->asked->policy;
    if (!kv_policy_prepare(&out->policy, r->asked->model, &run, &r->shape, r->arena, e))
        return false;
    if (r->rules.max_num_batched_tokens <= out->policy.when.patch)
        return kv_fail(e, KV_USAGE,
                       "%s: [engine] max_num_batched_tokens = %lld leaves no room beside the patch of %lld tokens of "
                       "[policy %s]",
                       s->path, (long long)r->rules.max_num_batched_tokens, (long long)out->policy.when.patch,
                       r->asked->name);
    if (r->rules.long_prefill_token_threshold && r->rules.long_prefill_token_threshold <= out->policy.when.patch)
        return kv_fail(
            e, KV_USAGE,
            "%s: [engine] long_prefill_token_threshold = %lld leaves no room beside the patch of %lld tokens "
            "of [policy %s]",
            s->path, (long long)r->rules.long_prefill_token_threshold, (long long)out->policy.when.patch,
            r->asked->name);
    return open_fullest(r, e);
}

static bool open_replicas(struct run *r, struct kv_err *e)
{
    kv_alone_open(&r->alone, &r->holder, &r->rules);
    r->replicas = r->out->replicas = r->asked->replicas;
    r->replica = KV_NEW_N(r->arena, struct replica, r->replicas);
    r->out->timeline = kv_alloc_many(r->arena, (size_t)r->replicas, sizeof *r->out->timeline, "timelines", e);
    if (!r->out->timeline)
        return false;
    for (int64_t i = 0; i < r->replicas; i++) {
        struct replica *at = &r->replica[i];
        at->run = r;
        at->timeline = &r->out->timeline[i];
        kv_timeline_start(at->timeline);
        at->watch = (struct kv_engine_watch){.context = at,
                                             .details = r->asked->steps != NULL,
                                             .timeline = at->timeline,
                                             .gaps = r->out->gaps,
                                             .tell = told};
        at->engine = kv_engine_open(&r->rules, &r->holder, r->asked->timing, &at->watch, r->arena, e);
        if (!at->engine)
            return false;
    }
    return true;
}

/* When the last request that counts arrives: only a look at the whole stream tells. */
static bool find_drain(struct run *r, struct kv_err *e)
{
    struct kv_arrival last = {0};
    enum kv_next next;
    r->first_counted_s = r->settings->run.warmup / r->asked->rate; /* a search counts the same requests each time */
    r->last_counted_s = INFINITY;
    if (!(r->settings->run.drain > 0))
        return true;
    while ((next = kv_workload_next(r->workload, &last, e)) == KV_NEXT_ROW)
        ;
    r->last_counted_s = (last.arrival_s - r->settings->run.drain) / r->asked->rate;
    return next == KV_NEXT_END && kv_workload_rewind(r->workload, e);
}

static bool keep_blocks(struct run *r, struct kv_err *e)
{
    if (r->next.n_blocks > r->next_room) {
        uint64_t *grown = realloc(r->next_block, sizeof *grown * (size_t)r->next.n_blocks);
        if (!grown)
            return kv_fail(e, KV_ENV, "no memory for the names of %lld blocks", (long long)r->next.n_blocks);
        r->next_block = grown;
        r->next_room = r->next.n_blocks;
    }
    if (r->next.n_blocks)
        memcpy(r->next_block, r->next.block, sizeof *r->next_block * (size_t)r->next.n_blocks);
    r->next.block = r->next_block;
    return true;
}

static bool read_next(struct run *r, struct kv_err *e)
{
    enum kv_next next = kv_workload_next(r->workload, &r->next, e);
    r->more = next == KV_NEXT_ROW;
    if (!r->more)
        r->next.n_blocks = 0;
    r->next.arrival_s /= r->asked->rate;
    return next != KV_NEXT_BAD && (!r->more || keep_blocks(r, e));
}

/* A run without requests has no answer. */
static bool check_first(const struct run *r, struct kv_err *e)
{
    const struct kv_settings *s = r->settings;
    bool cut = s->workload.from > 0 || !isnan(s->workload.duration);
    if (kv_interrupted())
        return true;
    if (!r->more && s->workload.trace)
        return kv_fail(e, KV_DATA, "'%s' has no request%s", s->workload.trace,
                       cut ? " that [workload] from and duration leave" : "");
    if (!r->more)
        return kv_fail(e, KV_USAGE, "%s: [workload] no request arrives within duration", s->path);
    if (s->run.horizon <= r->next.arrival_s)
        return kv_fail(e, KV_USAGE, "%s: [run] horizon = %g s is before the first request, which arrives at %g s",
                       s->path, s->run.horizon, r->next.arrival_s);
    return true;
}

/* ---- the run ---- */

static struct replica *route(struct run *r, const struct kv_job *job)
{
    enum { ROUND_ROBIN, LEAST_TOKENS, PREFIX };
    int router = r->settings->engine.router;
    struct replica *best = &r->replica[r->next_replica++ % r->replicas];
    int64_t best_cached = -1, best_left = INT64_MAX;
    for (int64_t i = 0; router != ROUND_ROBIN && i < r->replicas; i++) {
        struct replica *at = &r->replica[i];
        int64_t cached = router == PREFIX ? kv_engine_cached(at->engine, job) : 0,
                left = kv_engine_tokens_left(at->engine);
        if (cached > best_cached || (cached == best_cached && left < best_left)) {
            best = at;
            best_cached = cached;
            best_left = left;
        }
    }
    return best;
}

/* What was kept for a turn that is refused. */
static void give_up_session(const struct run *r, int64_t home, const struct kv_job *job)
{
    if (home >= 0)
        kv_engine_forget(r->replica[home].engine, job->is.request);
}

/* `home`: the replica that served the turn before, -1: none. */
static bool arrive(struct run *r, double at, int64_t home, const struct kv_arrival *arrival, struct kv_err *e)
{
    struct kv_job *job = kv_jobs_begin(&r->jobs, arrival);
    int64_t tokens;
    if (!job)
        return kv_fail(e, KV_ENV, "no memory for %lld requests at a time", (long long)r->jobs.n);
    job->arrival_s = at;
    job->is.output = kv_policy_output(&r->out->policy, job->is.output);
    stretch(r, &job->is);
    if (r->settings->workload.too_long && job->is.output < r->rules.max_model_len)
        job->is.prompt = kv_least(job->is.prompt, r->rules.max_model_len - job->is.output);
    /* turns of a session have their tokens in common, requests of a closed loop's client do not */
    bool session = is_session(r, arrival);
    job->session = session ? arrival->request : ~r->out->arrived;
    if (session && !arrival->turn && arrival->n_blocks) /* behind what all share the engine names them, answers too */
        job->is.n_blocks = kv_least(arrival->n_blocks, r->settings->workload.shared_prefix / arrival->block_tokens);
    r->out->arrived++;
    if (r->out->arrived == 1)
        r->first_s = at;
    r->arrivals_end_s = at;
    if (!arrival->turn) {
        r->stream_end_s = at;
        r->from_stream++;
    }
    if (__builtin_add_overflow(job->is.prompt, job->is.output, &tokens) || tokens > r->rules.max_model_len) {
        give_up_session(r, home, job);
        refuse(r, job, "is longer than max_model_len");
        return true;
    }
    if (!kv_alone_fits(&r->alone, job->is.prompt, job->is.output)) {
        give_up_session(r, home, job);
        refuse(r, job, "can never fit: the whole KV pool is smaller");
        return true;
    }
    bool held = home >= 0 && r->rules.between != KV_BETWEEN_DROP;
    kv_engine_add((held ? &r->replica[home] : route(r, job))->engine, job);
    return true;
}

/* Steps that begin before the next arrival, of the replica that is behind the others. */
static bool run_engines(struct run *r, double until, bool *all_there, struct kv_err *e)
{
    struct replica *first = &r->replica[0];
    double clock = kv_engine_clock(first->engine), second = INFINITY;
    for (int64_t i = 1; i < r->replicas; i++) {
        double other = kv_engine_clock(r->replica[i].engine);
        if (other < clock) {
            second = clock;
            clock = other;
            first = &r->replica[i];
        } else if (other < second) {
            second = other;
        }
    }
    *all_there = clock >= until;
    if (*all_there)
        return true;
    /* an answer of another replica may bring a turn; it cannot come before that one's next step */
    bool follow = r->next.follows || r->turns.n || r->jobs.follow;
    if (follow && second < until)
        until = second > clock ? second : nextafter(clock, INFINITY);
    return kv_engine_run(first->engine, until, e);
}

static bool run_all(struct run *r, struct kv_err *e)
{
    double horizon = isnan(r->settings->run.horizon) ? INFINITY : r->settings->run.horizon;
    bool there;
    while (!kv_interrupted()) {
        double stream = r->more ? r->next.arrival_s : INFINITY, turn = kv_turns_next(&r->turns);
        double until = fmin(fmin(stream, turn), horizon);
        if (!run_engines(r, until, &there, e))
            return false;
        if (r->follow_error.n)
            return kv_fail(e, r->follow_error.status, "%s", r->follow_error.text);
        if (!there)
            continue; /* answers may have brought turns */
        if (until >= horizon) {
            for (int64_t i = 0; i < r->replicas && isfinite(horizon); i++)
                kv_engine_rest(r->replica[i].engine, horizon);
            break;
        }
        if (turn <= stream) {
            struct kv_turn next = kv_turns_take(&r->turns);
            bool good = arrive(r, next.at, next.replica, &next.arrival, e);
            free(next.block);
            if (!good)
                return false;
        } else if (!arrive(r, stream, -1, &r->next, e) || !read_next(r, e)) {
            return false;
        }
        ask_again(r, fmin(turn, stream)); /* behind those who ask for the first time */
    }
    r->out->complete =
        !kv_interrupted() && !r->more && !r->turns.n && r->out->finished + r->out->refused == r->out->arrived;
    return true;
}

/* ---- what came of it ---- */

/* How long it takes after the last arrival until who is left was answered; when the run was cut off, how long those who
 * wait would take at the rate at which others were answered. */
static double tail_s(const struct run *r)
{
    const struct kv_served *out = r->out;
    int64_t waiting = 0;
    if (!out->unfinished)
        return r->last_finish_s - r->arrivals_end_s;
    for (int64_t i = 0; i < r->replicas; i++)
        waiting += kv_engine_waiting(r->replica[i].engine);
    return !waiting ? 0 : (double)waiting * out->span_s / (double)out->finished;
}

/* Overloaded: after the last arrival it takes more than a tenth of the arrivals' time to answer who is left, beyond
 * what the longest answers take. Backlogged: one request in a hundred waited for longer than half an answer usually
 * takes. */
static enum kv_verdict judge(const struct run *r)
{
    const struct kv_served *out = r->out;
    double waited = 0, usual = kv_quantile(r->service, 0.5);
    for (int i = 0; i < KV_LIMITS; i++)
        waited += out->sums.limit_s[i];
    if (out->arrivals_s > 0 && tail_s(r) > 0.1 * out->arrivals_s + 3 * usual && waited > 0.5 * out->sums.busy_s)
        return KV_OVERLOADED;
    return kv_quantile(&out->queue, 0.99) > 0.5 * usual ? KV_BACKLOGGED : KV_STABLE;
}

/* When the run was cut off: at the horizon, or where the replica that is furthest behind is. */
static double cut_off_s(const struct run *r)
{
    double behind = INFINITY;
    if (!kv_interrupted())
        return r->settings->run.horizon;
    for (int64_t i = 0; i < r->replicas; i++)
        behind = fmin(behind, kv_engine_clock(r->replica[i].engine));
    return isinf(behind) ? r->arrivals_end_s : behind;
}

static void finish(struct run *r)
{
    struct kv_served *out = r->out;
    for (const struct kv_job *job = NULL; (job = kv_jobs_in_flight(&r->jobs, job));)
        count_in_flight(r, job, cut_off_s(r));
    for (int64_t i = 0; i < r->replicas; i++) {
        struct kv_engine_sums sums = kv_engine_sums(r->replica[i].engine);
        kv_engine_sums_add(&out->sums, &sums);
    }
    out->unfinished = out->arrived - out->finished - out->refused;
    out->arrivals_s = r->arrivals_end_s - r->first_s;
    out->span_s = out->finished ? r->last_finish_s - r->first_s : 0;
    double stream = r->stream_end_s - r->first_s;
    out->offered_per_s = stream > 0 ? (double)(r->from_stream - 1) / stream : NAN;
    out->footprint_actual = r->footprint_sum / (double)out->counted;
    out->footprint_paper = r->paper_sum / (double)out->counted;
    out->verdict = judge(r);
}

bool kv_serve(struct kv_served *out, const struct kv_serve_asked *asked, struct kv_arena *a, struct kv_err *e)
{
    struct run *r = KV_NEW(a, struct run);
    *out = (struct kv_served){.name = asked->name, .gaps = KV_NEW(a, struct kv_quantiles)};
    *r = (struct run){
        .out = out, .asked = asked, .settings = asked->settings, .service = KV_NEW(a, struct kv_quantiles), .arena = a};
    kv_serve_rules(&r->rules, asked, a);
    out->prefix_caching = r->rules.prefix_caching;
    out->max_num_seqs = r->rules.max_num_seqs;
    kv_jobs_open(&r->jobs, asked->requests, asked->name);
    bool good = make_policy(r, e) && kv_serve_pool(out, &r->rules, asked, &r->shape, &r->classes, a, e) &&
                kv_workload_open(&r->workload, asked->settings, asked->seed, a, e) && find_drain(r, e) &&
                read_next(r, e) && check_first(r, e) && open_replicas(r, e);
    if (good) {
        r->jobs.page_bytes = out->page_bytes[r->rules.layout];
        kv_progress_start(&r->progress, asked->name, asked->settings->workload.requests, asked->quiet);
        good = run_all(r, e);
        kv_progress_end(&r->progress);
        finish(r);
    }
    for (int64_t i = 0; r->replica && i < r->replicas; i++)
        kv_engine_close(r->replica[i].engine);
    if (r->workload)
        kv_workload_close(r->workload);
    kv_jobs_close(&r->jobs);
    kv_turns_close(&r->turns);
    free(r->next_block);
    return good;
}
