/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The serving engine against a slow one that shares none of its code (slow_serve.h), on random scenarios: every
 * request's times and counts, every step, every sum. Then what must hold whatever the scheduler does: tokens in are
 * tokens out, pages taken are given back, and the time-integral of pages is the sum over the requests that held them.
 *
 * KV_CASES=N tries more or fewer; KV_SEED=N begins with case N, and is that one alone without KV_CASES. */
#include "tests/laws/serve_case.h"

#include <signal.h>
#include <stddef.h>

enum { CASES = 1500 };

/* ---- the fast one ---- */

struct fast_request {
    struct kv_job job;
    double arrived_s;
    bool added, refused;
};

struct fast_run {
    const struct serve_case *c;
    struct fast_request request[SLOW_REQUESTS];
    struct kv_quantiles gaps;
    struct kv_timeline timeline;
    int64_t told[KV_REFUSED + 1], tokens, tokens_of_requests, found;
    int64_t pages[KV_LAYOUTS]; /* of the last step */
    struct kv_engine_watch watch;
    struct kv_engine *engine;
};

static bool has_next_turn(const struct serve_case *c, int64_t request)
{
    for (int64_t i = 0; i < c->n; i++)
        if (c->request[i].after == request)
            return true;
    return false;
}

static void hear(void *context, enum kv_engine_event what, struct kv_job *job, int64_t tokens, int64_t computed)
{
    struct fast_run *f = context;
    f->told[what]++;
    f->tokens += what == KV_STEPPED ? tokens : 0;
    f->tokens_of_requests += what == KV_RAN ? tokens : 0;
    f->found += what == KV_ADMITTED || what == KV_RESUMED ? computed : 0;
    for (int layout = 0; what == KV_STEPPED && layout < KV_LAYOUTS; layout++)
        f->pages[layout] = kv_engine_pages(f->engine, (enum kv_layout)layout);
    if (what == KV_REFUSED)
        ((struct fast_request *)job)->refused = true;
    if (what == KV_FINISHED && job->is.follows && !has_next_turn(f->c, (struct fast_request *)job - f->request))
        kv_engine_forget(f->engine, job->is.request);
}

static struct fast_request *next_to_add(struct fast_run *f)
{
    struct fast_request *first = NULL;
    for (int64_t i = 0; i < f->c->n; i++) {
        struct fast_request *q = &f->request[i];
        int64_t after = f->c->request[i].after;
        if (after >= 0)
            q->arrived_s = f->request[after].job.finish_s + f->c->request[i].arrival_s;
        if (!q->added && !isnan(q->arrived_s) && (!first || q->arrived_s < first->arrived_s))
            first = q;
    }
    return first;
}

static void run_fast(struct fast_run *f, struct serve_case *c, bool details, struct kv_err *e)
{
    kv_timeline_start(&f->timeline);
    f->watch = (struct kv_engine_watch){
        .context = f, .details = details, .timeline = &f->timeline, .gaps = &f->gaps, .tell = hear};
    f->c = c;
    for (int64_t i = 0; i < c->n; i++) {
        f->request[i].arrived_s = c->request[i].after < 0 ? c->request[i].arrival_s : NAN;
        f->request[i].job = (struct kv_job){.is = c->request[i].is, .session = c->request[i].session, .finish_s = NAN};
    }
    f->engine = kv_engine_open(&c->rules, &c->holder, &c->timing[0], &f->watch, c->subject.arena, e);
    if (!f->engine)
        return;
    for (;;) {
        struct fast_request *q = next_to_add(f);
        double clock = kv_engine_clock(f->engine);
        if (q && q->arrived_s >= c->horizon)
            q = NULL;
        if (q && q->arrived_s <= clock) {
            q->added = true;
            q->job.arrival_s = q->arrived_s;
            kv_engine_add(f->engine, &q->job);
        } else if (!q && clock >= c->horizon)
            break;
        else if (!kv_engine_run(f->engine, q ? q->arrived_s : c->horizon, e))
            break;
    }
    if (isfinite(c->horizon))
        kv_engine_rest(f->engine, c->horizon);
}

/* ---- comparing ---- */

struct comparison {
    char text[400];
};

static void same(struct comparison *d, const char *name, double fast, double slow)
{
    bool equal = fast == slow || (isnan(fast) && isnan(slow)) ||
                 fabs(fast - slow) <= 1e-9 * (1 + fabs(slow)); /* exact for counts of this size */
    if (!equal && !*d->text)
        snprintf(d->text, sizeof d->text, "%s: %.17g, expected %.17g", name, fast, slow);
}

static void same_steps(struct serve_case *c, struct comparison *d)
{
    const struct step_log *fast = &c->log[0], *slow = &c->log[1];
    int64_t i = 0, n = smaller(fast->n, slow->n);
    while (i < n && !strcmp(fast->line[i], slow->line[i]))
        i++;
    if (*d->text || (i == fast->n && i == slow->n))
        return;
    const char *text = kv_format(c->subject.arena, "step %lld differs; fast, then slow:", (long long)i);
    for (int64_t j = i > 4 ? i - 4 : 0; j <= i; j++)
        text = kv_format(c->subject.arena, "%s\n  %lld: %s\n  %lld: %s", text, (long long)j,
                         j < fast->n ? fast->line[j] : "none", (long long)j, j < slow->n ? slow->line[j] : "none");
    print_error("%s\n", text); /* a message of cmocka's is cut off */
    fail_msg("%s", case_text(c));
}

static void same_request(struct comparison *d, int64_t i, const struct fast_request *f, const struct slow_request *s)
{
    struct comparison inner = {""};
    const struct kv_job *job = &f->job;
    same(&inner, "refused", f->refused, s->state == SLOW_REFUSED);
    if (f->added && !f->refused && !*inner.text) {
        same(&inner, "scheduled_s", job->scheduled_s, s->scheduled_s);
        same(&inner, "first_token_s", job->first_token_s, s->first_token_s);
        same(&inner, "finish_s", job->finish_s, s->finish_s);
    }
    if (s->state == SLOW_ENDED && !*inner.text) {
        same(&inner, "last_token_s", job->last_token_s, s->last_token_s);
        same(&inner, "preemptions", (double)job->preemptions, (double)s->preemptions);
        same(&inner, "cached_tokens", (double)job->cached_tokens, (double)s->cached_tokens);
        same(&inner, "peak_pages", (double)job->peak_pages, (double)s->peak_pages);
        same(&inner, "entry_steps", job->entry_steps, s->entry_steps);
        same(&inner, "full_steps", job->full_steps, s->full_steps);
        same(&inner, "generated", (double)job->generated, (double)s->generated);
    }
    if (*inner.text && !*d->text)
        snprintf(d->text, sizeof d->text, "request %lld: %.300s", (long long)i, inner.text);
}

static void same_sums(struct comparison *d, const struct kv_engine_sums *f, const struct slow_engine *slow)
{
    static const char *const parts[KV_TIME_PARTS] = {"prefill_s", "decode_s", "evict_s", "offload_s"};
    static const char *const limits[KV_LIMITS] = {"limited by pages", "limited by sequences", "limited by tokens"};
    const struct kv_engine_sums *s = &slow->sums;
    same(d, "steps", (double)f->steps, (double)s->steps);
    same(d, "busy_s", f->busy_s, s->busy_s);
    same(d, "preemptions", (double)f->preemptions, (double)slow->decided.preemptions);
    same(d, "cached_tokens", (double)f->cached_tokens, (double)slow->decided.cached_tokens);
    same(d, "output_tokens", (double)f->output_tokens, (double)s->output_tokens);
    same(d, "prompt_tokens", (double)f->prompt_tokens, (double)slow->decided.prompt_tokens);
    same(d, "recomputed_tokens", (double)f->recomputed_tokens, (double)s->recomputed_tokens);
    same(d, "offloaded_bytes", f->offloaded_bytes, s->offloaded_bytes);
    same(d, "dropped_sessions", (double)f->dropped_sessions, (double)slow->decided.dropped_sessions);
    same(d, "held_area", f->held_area, s->held_area);
    for (int i = 0; i < KV_TIME_PARTS; i++)
        same(d, parts[i], f->part_s[i], s->part_s[i]);
    same(d, "recompute_s", f->recompute_s, s->recompute_s);
    same(d, "waited_s", f->waited_s, s->waited_s);
    for (int i = 0; i < KV_LIMITS; i++)
        same(d, limits[i], f->limit_s[i], s->limit_s[i]);
    for (int layout = 0; layout < KV_LAYOUTS; layout++) {
        same(d, "peak pages of a layout", (double)f->peak_pages[layout], (double)s->peak_pages[layout]);
        same(d, "returned pages of a layout", (double)f->returned_pages[layout], (double)s->returned_pages[layout]);
        same(d, "page area of a layout", f->page_area[layout], s->page_area[layout]);
    }
}

/* ---- laws ---- */

/* Of the fast one's own figures, the requests that were asked for, and those who hold pages in the slow one. */
static void check_laws(const struct serve_case *c, const struct fast_run *f, struct comparison *d)
{
    const struct kv_engine_sums whole = kv_engine_sums(f->engine), *sums = &whole;
    int64_t prompts = 0, outputs = 0, steps = 0, finished = 0, preemptions = 0;
    double area = 0;
    for (int64_t i = 0; i < c->n; i++) {
        const struct slow_request *r = &c->request[i];
        area += r->own_area;
        steps += r->lost_tokens - r->cached_tokens;
        preemptions += r->preemptions;
        if (!f->request[i].added || f->request[i].refused)
            continue;
        finished++;
        prompts += r->is.prompt;
        outputs += r->is.output;
        steps += r->is.prompt + r->is.output - 1;
    }
    same(d, "tokens of requests and of steps", (double)f->tokens_of_requests, (double)f->tokens);
    same(d, "tokens found", (double)f->found, (double)sums->cached_tokens);
    same(d, "page area, summed over requests", sums->page_area[c->rules.layout], area);
    if (isfinite(c->horizon))
        return;
    same(d, "requests that ended", (double)f->told[KV_FINISHED], (double)finished);
    same(d, "tokens left", (double)kv_engine_tokens_left(f->engine), 0);
    same(d, "preemptions told", (double)f->told[KV_PREEMPTED], (double)preemptions);
    if (f->told[KV_REFUSED])
        return;
    same(d, "gaps of tokens", (double)f->gaps.n, (double)(sums->output_tokens - finished));
    same(d, "tokens in", (double)sums->prompt_tokens, (double)prompts);
    if (c->rules.restart_bug) /* makes output of prompts */
        return;
    same(d, "tokens out", (double)sums->output_tokens, (double)outputs);
    if (f->watch.details && !c->subject.policy.when.patch)
        same(d, "tokens computed", (double)f->tokens, (double)steps);
}

/* All pages are back: a request of one token then holds what it holds alone, and nothing else does. */
static void check_pages_back(struct serve_case *c, struct fast_run *f, struct comparison *d)
{
    struct kv_request one = {.prompt = 1, .output = 1, .prefill = 1};
    struct fast_request last = {.job = {.is = {.prompt = 1, .output = 1}, .session = -1, .arrival_s = 1e6}};
    struct slow_hold alone = {.page = c->holder.page, .scope = c->holder.scope};
    kv_walk_start(&alone.walk, c->holder.policy, c->holder.shape, c->holder.classes, &one, c->subject.arena);
    if (!slow_hold_next(&alone, 1))
        fail_msg("a walk of no passes");
    kv_engine_add(f->engine, &last.job);
    while (isfinite(kv_engine_clock(f->engine)))
        if (!kv_engine_run(f->engine, INFINITY, &c->e))
            fail_msg("%s\n%s", c->e.text, case_text(c));
    for (int layout = 0; layout < KV_LAYOUTS && f->watch.details && !last.refused; layout++)
        same(d, "pages of one token alone", (double)f->pages[layout], (double)alone.most[layout]);
}

/* Who is told of every step takes each by itself; else stretches of decodes are run through at once. It must not show
 * in a single bit. */
static void check_stretches(struct serve_case *c, const struct fast_run *f)
{
    struct fast_run *other = calloc(1, sizeof *other);
    run_fast(other, c, !f->watch.details, &c->e);
    struct kv_engine_sums sums = kv_engine_sums(f->engine), others = kv_engine_sums(other->engine);
    bool equal = !memcmp(&sums, &others, sizeof sums) && !memcmp(&f->gaps, &other->gaps, sizeof f->gaps) &&
                 !memcmp(&f->timeline, &other->timeline, sizeof f->timeline);
    for (int64_t i = 0; i < c->n; i++) {
        const struct kv_job *a = &f->request[i].job, *b = &other->request[i].job;
        equal = equal && !memcmp(&a->arrival_s, &b->arrival_s, sizeof a->arrival_s) &&
                !memcmp(&a->scheduled_s, &b->scheduled_s,
                        offsetof(struct kv_job, target) - offsetof(struct kv_job, scheduled_s));
    }
    if (!equal)
        fail_msg("steps one by one and stretches of them differ\n%s", case_text(c));
    kv_engine_close(other->engine);
    free(other);
}

static void check_case(struct serve_case *c)
{
    struct fast_run *f = calloc(1, sizeof *f);
    struct slow_engine s;
    struct comparison d = {""};
    run_fast(f, c, c->number % 2, &c->e);
    slow_open(&s, &c->rules, &c->holder, &c->timing[1], c->request, c->n, c->subject.arena);
    slow_run(&s, c->horizon);
    if (s.wrong)
        fail_msg("the slow one: %s\n%s", s.wrong, case_text(c));
    same_steps(c, &d);
    if (*c->e.text)
        fail_msg("%s\n%s", c->e.text, case_text(c));
    for (int64_t i = 0; i < c->n; i++)
        same_request(&d, i, &f->request[i], &c->request[i]);
    struct kv_engine_sums sums = kv_engine_sums(f->engine);
    same_sums(&d, &sums, &s);
    same(&d, "tokens of steps", (double)f->tokens, f->watch.details ? (double)s.tokens : 0);
    same(&d, "refused", (double)f->told[KV_REFUSED], (double)s.refused);
    same(&d, "gaps", (double)f->gaps.n, (double)s.gaps);
    same(&d, "sum of gaps", f->gaps.sum, s.gap_sum);
    same(&d, "longest gap", f->gaps.most, s.gap_most);
    check_laws(c, f, &d);
    check_stretches(c, f);
    if (isinf(c->horizon))
        check_pages_back(c, f, &d);
    if (*d.text)
        fail_msg("%s\n%s", d.text, case_text(c));
    kv_engine_close(f->engine);
    free(f);
}

static volatile sig_atomic_t case_tried;

/* An assertion of the code under test: the case is all that is missing. */
static void say_case(int signal_number)
{
    char line[64];
    int n = snprintf(line, sizeof line, "case %d\n", (int)case_tried);
    (void)!write(STDERR_FILENO, line, (size_t)n);
    signal(signal_number, SIG_DFL);
}

static void test_against_slow(void **state)
{
    const char *cases = getenv("KV_CASES"), *seed = getenv("KV_SEED");
    uint64_t first = seed ? strtoull(seed, NULL, 10) : 0, n = cases ? strtoull(cases, NULL, 10) : seed ? 1 : CASES;
    struct serve_case *c = calloc(1, sizeof *c);
    signal(SIGABRT, say_case);
    for (uint64_t i = first; i < first + n; i++) {
        case_tried = (sig_atomic_t)i;
        case_make(c, *state, i);
        check_case(c);
        done(&c->subject);
    }
    free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_against_slow, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
