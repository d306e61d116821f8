/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/serve/serve.h"

#include "sim/core/paper.h"
#include "sim/core/random.h"
#include "sim/interrupt.h"
#include "sim/progress.h"
#include "sim/serve/requests.h"
#include "sim/serve/turns.h"
#include "sim/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

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
    struct replica *replica;
    int64_t replicas, next_replica;
    struct kv_arrival next; /* of the stream */
    bool more;              /* the stream has it */
    struct kv_turns turns;
    double last_counted_s; /* requests that arrive later are not counted */
    double first_s, last_s;
    double arrivals_end_s, last_finish_s;
    struct kv_jobs jobs;
    double footprint_sum, paper_sum;
    struct kv_progress progress;
    struct kv_arena *arena;
};

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* ---- what engines tell ---- */

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
    if (job->arrival_s < r->settings->run.warmup || job->arrival_s > r->last_counted_s)
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

static void refuse(struct run *r, struct kv_job *job, const char *why)
{
    struct kv_served *out = r->out;
    if (!out->refused++)
        out->refused_first =
            kv_format(r->arena, "request %lld (%lld prompt and %lld output tokens) %s", (long long)job->is.request,
                      (long long)job->is.prompt, (long long)job->is.output, why);
    kv_jobs_end(&r->jobs, job);
}

static void end_request(struct run *r, struct kv_job *job)
{
    r->out->finished++;
    if (job->finish_s > r->last_finish_s)
        r->last_finish_s = job->finish_s;
    count_request(r, job);
    if (job->is.follows) {
        struct kv_err error = {0};
        struct kv_arrival next;
        if (kv_workload_follow(r->workload, &job->is, &next, &error) &&
            !kv_turns_add(&r->turns, job->finish_s + next.arrival_s, &next))
            kv_bug(__FILE__, __LINE__, "no memory for the turns of sessions");
    }
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
        end_request(at->run, job);
    else if (what == KV_REFUSED)
        refuse(at->run, job, "can never be admitted: the free KV pool does not hold its prompt");
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
    kv_hold_open(&hold, &holder);
    kv_hold_start(&hold, &request);
    for (const struct kv_hold_pass *p; (p = kv_hold_next(&hold, request.prompt));)
        pages = p->passes > 1 ? kv_hold_pages(&hold, KV_PER_HEAD, p->passes) : p->after[KV_PER_HEAD];
    return pages;
}

/* Heads are dealt out to devices in order; the device that holds most decides what fits, so all count as if they held
 * as much. */
static bool open_fullest(struct run *r, struct kv_err *e)
{
    int64_t heads = r->shape.store_heads, devices = least(r->settings->engine.tensor_parallel_size, heads),
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
    /* a chunk nobody asked for is as long as the scheduler lets it be */
    int64_t chunk = r->rules.max_num_batched_tokens;
    struct kv_defaults run = {.chunk = s->plan.chunks.n ? s->plan.chunks.at[0] : chunk, .dtype = r->asked->dtype};
    out->policy = *r->asked->policy;
    if (!kv_policy_prepare(&out->policy, r->asked->model, &run, &r->shape, r->arena, e))
        return false;
    if (r->rules.max_num_batched_tokens <= out->policy.when.patch)
        return kv_fail(e, KV_USAGE,
                       "%s: [engine] max_num_batched_tokens = %lld leaves no room beside the patch of %lld tokens of "
                       "[policy %s]",
                       s->path, (long long)r->rules.max_num_batched_tokens, (long long)out->policy.when.patch,
                       r->asked->name);
    return open_fullest(r, e);
}

/* vLLM's default for a server goes by the device (vllm/engine/arg_utils.py, get_batch_defaults). */
static int64_t batched_tokens(const struct kv_settings *s)
{
    enum { LARGE = 8192, SMALL = 2048 };
    if (s->engine.max_num_batched_tokens != KV_UNSET)
        return s->engine.max_num_batched_tokens;
    bool a100 = s->hardware.device && !strncasecmp(s->hardware.device, "a100", 4);
    return s->hardware.memory != KV_UNSET && s->hardware.memory >= INT64_C(70) << 30 && !a100 ? LARGE : SMALL;
}

static bool make_pool(struct run *r, struct kv_err *e)
{
    const struct kv_settings *s = r->settings;
    struct kv_served *out = r->out;
    struct kv_engine_rules *rules = &r->rules;
    struct kv_ledger ledger;
    kv_ledger_open(&ledger, &out->policy, &r->shape, &r->classes, s->engine.block_size, r->arena);
    for (int layout = 0; layout < KV_LAYOUTS; layout++)
        out->page_bytes[layout] = kv_ledger_page_bytes(&ledger, (enum kv_layout)layout);
    kv_pool_derive(&out->pool, s, r->asked->model, r->asked->dtype, rules->max_num_batched_tokens);
    int64_t block_bytes = out->page_bytes[KV_SHARED];
    out->blocks = s->engine.num_gpu_blocks_override != KV_UNSET ? s->engine.num_gpu_blocks_override
                                                                : out->pool.bytes / block_bytes;
    if (out->blocks < 1 || out->pool.bytes <= 0) {
        if (s->engine.num_gpu_blocks_override == KV_UNSET)
            return kv_fail(e, KV_NO,
                           "the KV pool of '%s' has no block: weights, activations and overhead leave %lld bytes; use "
                           "more or larger devices, or a quantised checkpoint",
                           r->asked->model->name, (long long)out->pool.bytes);
    }
    if (s->engine.num_gpu_blocks_override != KV_UNSET) {
        out->pool.bytes = out->blocks * block_bytes;
        out->pool.measured = true;
    }
    rules->layout = (enum kv_layout)s->engine.kv_layout;
    /* one block of vLLM's pool is nobody's (block_pool.py, null_block) */
    int64_t usable = out->blocks - (rules->scheduler == KV_SCHEDULER_VLLM);
    int64_t share = block_bytes / out->page_bytes[rules->layout];
    if (__builtin_mul_overflow(usable, share, &rules->pages))
        return kv_fail(e, KV_USAGE, "%s: [engine] a pool of %lld blocks is too large to count", s->path,
                       (long long)out->blocks);
    rules->watermark =
        rules->scheduler == KV_SCHEDULER_SARATHI ? (int64_t)(s->engine.watermark * (double)out->blocks) * share : 0;
    rules->page_bytes = out->page_bytes[rules->layout];
    out->pages = rules->pages;
    return true;
}

/* Those vLLM captures when it is not told (vllm/config/vllm.py, _set_cudagraph_sizes). */
static void make_graph_sizes(struct run *r)
{
    enum { MOST = 512, FINE = 256 };
    const struct kv_counts *given = &r->settings->engine.cudagraph_capture_sizes;
    int64_t most = least(least(2 * r->rules.max_num_seqs, MOST), r->rules.max_num_batched_tokens), n = 0;
    int64_t *size = KV_NEW_N(r->arena, int64_t, MOST);
    r->rules.graph_sizes = given->n ? given->at : size;
    for (int64_t i = 1; i <= least(most, 4); i *= 2)
        size[n++] = i;
    for (int64_t i = 8; i <= least(most, FINE - 1); i += 8)
        size[n++] = i;
    for (int64_t i = FINE; i <= most; i += 16)
        size[n++] = i;
    r->rules.n_graph_sizes = given->n ? given->n : n;
}

static void make_rules(struct run *r)
{
    const struct kv_settings *s = r->settings;
    r->rules = (struct kv_engine_rules){
        .scheduler = (enum kv_scheduler)s->engine.scheduler,
        .max_num_seqs = s->engine.max_num_seqs,
        .max_num_batched_tokens = batched_tokens(s),
        .max_model_len = s->engine.max_model_len == KV_UNSET ? r->asked->model->max_positions : s->engine.max_model_len,
        .long_prefill_token_threshold = s->engine.long_prefill_token_threshold,
        .prefix_caching = r->asked->prefix_caching && s->engine.scheduler == KV_SCHEDULER_VLLM,
        .async_scheduling = s->engine.async_scheduling && s->engine.scheduler == KV_SCHEDULER_VLLM,
        .reserve_prompt = s->engine.reserve_full_prompt,
        .restart_bug = s->engine.restart_bug,
        .offload = s->engine.preemption,
        .between = (enum kv_between_turns)s->workload.between_turns,
    };
    if (s->engine.scheduler == KV_SCHEDULER_VLLM && !s->engine.enforce_eager)
        make_graph_sizes(r);
    r->out->prefix_caching = r->rules.prefix_caching;
}

static bool open_replicas(struct run *r, struct kv_err *e)
{
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
    r->last_counted_s = INFINITY;
    if (!(r->settings->run.drain > 0))
        return true;
    while ((next = kv_workload_next(r->workload, &last, e)) == KV_NEXT_ROW)
        ;
    r->last_counted_s = last.arrival_s / r->asked->rate - r->settings->run.drain;
    return next == KV_NEXT_END && kv_workload_rewind(r->workload, e);
}

static bool read_next(struct run *r, struct kv_err *e)
{
    kv_arrival_drop(&r->next);
    enum kv_next next = kv_workload_next(r->workload, &r->next, e);
    r->more = next == KV_NEXT_ROW;
    if (!r->more)
        r->next.n_blocks = 0;
    r->next.arrival_s /= r->asked->rate;
    if (!kv_arrival_own(&r->next))
        return kv_fail(e, KV_ENV, "no memory for the %lld blocks of a prompt", (long long)r->next.n_blocks);
    return next != KV_NEXT_BAD;
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

static int64_t scaled(int64_t tokens, double scale)
{
    double x = rint((double)tokens * scale);
    return x < 1 ? 1 : x > 0x1p53 ? INT64_C(1) << 53 : (int64_t)x;
}

static bool arrive(struct run *r, double at, const struct kv_arrival *arrival, struct kv_err *e)
{
    struct kv_job *job = kv_jobs_begin(&r->jobs, arrival);
    int64_t tokens;
    if (!job)
        return kv_fail(e, KV_ENV, "no memory for %lld requests at a time", (long long)r->jobs.n);
    job->arrival_s = at;
    job->is.output = kv_policy_output(&r->out->policy, job->is.output);
    if (r->asked->context != 1)
        job->is.prompt = scaled(job->is.prompt, r->asked->context);
    if (r->settings->workload.too_long && job->is.output < r->rules.max_model_len)
        job->is.prompt = least(job->is.prompt, r->rules.max_model_len - job->is.output);
    /* drawn names end with the prompt; behind what all share the engine's own go on through the answer */
    if (!kv_workload_has_blocks(r->workload) && job->is.n_blocks)
        job->is.n_blocks = least(job->is.n_blocks, r->settings->workload.shared_prefix / job->is.block_tokens);
    /* turns of a session have their tokens in common; what clients of a closed loop ask for has none */
    bool closed = r->settings->workload.arrivals == KV_CLOSED;
    job->session = closed ? ~r->out->arrived : arrival->turn || arrival->follows ? arrival->request : ~arrival->request;
    r->out->arrived++;
    if (r->out->arrived == 1)
        r->first_s = at;
    r->arrivals_end_s = at;
    if (__builtin_add_overflow(job->is.prompt, job->is.output, &tokens) || tokens > r->rules.max_model_len) {
        refuse(r, job, kv_format(r->arena, "is longer than max_model_len = %lld", (long long)r->rules.max_model_len));
        return true;
    }
    if (r->holder.plain && (tokens - 1 + r->holder.page - 1) / r->holder.page >
                               r->rules.pages / r->holder.table[r->rules.layout]->tables) {
        refuse(r, job, "can never fit: the whole KV pool is smaller");
        return true;
    }
    kv_engine_add(route(r, job)->engine, job);
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
        double stream = r->more ? r->next.arrival_s : INFINITY, turn = r->turns.n ? r->turns.turn[0].at : INFINITY;
        double until = fmin(fmin(stream, turn), horizon);
        if (!run_engines(r, until, &there, e))
            return false;
        if (!there)
            continue; /* answers may have brought turns */
        if (until >= horizon)
            break;
        if (turn <= stream) {
            struct kv_turn next = kv_turns_take(&r->turns);
            bool good = arrive(r, next.at, &next.arrival, e);
            kv_arrival_drop(&next.arrival);
            if (!good)
                return false;
        } else if (!arrive(r, stream, &r->next, e) || !read_next(r, e)) {
            return false;
        }
    }
    r->out->complete =
        !kv_interrupted() && !r->more && !r->turns.n && r->out->finished + r->out->refused == r->out->arrived;
    return true;
}

/* ---- what came of it ---- */

static void add_sums(struct kv_engine_sums *to, const struct kv_engine_sums *from)
{
    to->steps += from->steps;
    to->preemptions += from->preemptions;
    to->recomputed_tokens += from->recomputed_tokens;
    to->cached_tokens += from->cached_tokens;
    to->prompt_tokens += from->prompt_tokens;
    to->output_tokens += from->output_tokens;
    for (int layout = 0; layout < KV_LAYOUTS; layout++) {
        if (from->peak_pages[layout] > to->peak_pages[layout])
            to->peak_pages[layout] = from->peak_pages[layout];
        to->returned_pages[layout] += from->returned_pages[layout];
        to->page_area[layout] += from->page_area[layout];
    }
    to->held_area += from->held_area;
    to->busy_s += from->busy_s;
    for (int i = 0; i < KV_TIME_PARTS; i++)
        to->part_s[i] += from->part_s[i];
    to->recompute_s += from->recompute_s;
    for (int i = 0; i < KV_LIMITS; i++)
        to->limit_s[i] += from->limit_s[i];
    to->waited_s += from->waited_s;
    if (from->outside > to->outside)
        to->outside = from->outside;
}

/* Overloaded: after the last arrival it takes more than a tenth of the arrivals' time to answer who is left, beyond
 * what the longest answers take. Backlogged: one request in a hundred waited for longer than half an answer usually
 * takes. */
static enum kv_verdict judge(const struct run *r)
{
    const struct kv_served *out = r->out;
    double arrivals = r->arrivals_end_s - r->first_s, tail = r->last_finish_s - r->arrivals_end_s, waited = 0;
    for (int i = 0; i < KV_LIMITS; i++)
        waited += out->sums.limit_s[i];
    double usual = kv_quantile(&out->e2e, 0.5);
    if (out->unfinished || (arrivals > 0 && tail > 0.1 * arrivals + 3 * usual && waited > 0.5 * out->sums.busy_s))
        return KV_OVERLOADED;
    return kv_quantile(&out->queue, 0.99) > 0.5 * usual ? KV_BACKLOGGED : KV_STABLE;
}

static void finish(struct run *r)
{
    struct kv_served *out = r->out;
    for (int64_t i = 0; i < r->replicas; i++)
        add_sums(&out->sums, kv_engine_sums(r->replica[i].engine));
    out->unfinished = out->arrived - out->finished - out->refused;
    out->arrivals_s = r->arrivals_end_s - r->first_s;
    out->span_s = r->last_finish_s - r->first_s;
    out->footprint_actual = r->footprint_sum / (double)out->counted;
    out->footprint_paper = r->paper_sum / (double)out->counted;
    out->outside = out->sums.outside;
    out->verdict = judge(r);
}

bool kv_serve(struct kv_served *out, const struct kv_serve_asked *asked, struct kv_arena *a, struct kv_err *e)
{
    struct run *r = KV_NEW(a, struct run);
    *out = (struct kv_served){.name = asked->name, .gaps = KV_NEW(a, struct kv_quantiles)};
    *r = (struct run){.out = out, .asked = asked, .settings = asked->settings, .arena = a};
    make_rules(r);
    kv_jobs_open(&r->jobs, asked->requests, asked->name);
    bool good = make_policy(r, e) && make_pool(r, e) &&
                kv_workload_open(&r->workload, asked->settings, asked->seed, a, e) && find_drain(r, e) &&
                read_next(r, e) && open_replicas(r, e);
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
    kv_arrival_drop(&r->next);
    return good;
}
