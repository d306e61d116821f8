/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Traffic over several replicas (sim/serve/serve.h) against slow engines and a router over them that looks at
 * everything: which replica serves what, when turns of sessions and requests of a closed loop's clients arrive there,
 * who is refused, who is in flight at the horizon. Random scenarios go in as a config and a trace, and come out as rows
 * of requests.csv and sums.
 *
 * KV_CASES=N tries more or fewer; KV_SEED=N begins with case N, and is that one alone without KV_CASES. */
#include "sim/serve/serve.h"
#include "tests/laws/serve_case.h"

#include <stddef.h>

enum { CASES = 400, FOR_ROUTING = 78, MOST_REPLICAS = 4, MOST_SETS = 60, MOST_ROWS = 12, MOST_TURNS = 4 };
enum { ROUND_ROBIN, LEAST_TOKENS, PREFIX, ROUTERS };
enum traffic { SINGLE, SESSIONS, CLIENTS, TRAFFICS };

static const char *const routers[] = {"round-robin", "least-tokens", "prefix"};
static const double long_tick_s = 0x1p-9; /* whole nanoseconds, as traces have them */
static const double link_s_per_byte = 0x1p-24;

/* ---- a case ---- */

struct route_case {
    struct serve_case serve;
    const char *set[MOST_SETS];
    int n_set, router;
    int64_t replicas, shared_prefix;
    enum traffic traffic;
    double duration_s;            /* no client asks any more; INFINITY: none */
    struct kv_workload *workload; /* of clients: what they ask next is known when they do */
    char trace[300];
    struct kv_settings settings;
};

static void put(struct route_case *c, const char *text)
{
    KV_ASSERT(c->n_set < MOST_SETS);
    c->set[c->n_set++] = text;
}

static void put_number(struct route_case *c, const char *key, int64_t value)
{
    put(c, kv_format(c->serve.subject.arena, "%s=%lld", key, (long long)value));
}

static void put_word(struct route_case *c, const char *key, const char *value)
{
    put(c, kv_format(c->serve.subject.arena, "%s=%s", key, value));
}

static void put_time(struct route_case *c, const char *key, double s)
{
    put(c, kv_format(c->serve.subject.arena, "%s=%.9f s", key, s));
}

static void roll_engine(struct route_case *c, struct dice *r)
{
    struct kv_engine_rules *rules = &c->serve.rules;
    roll_rules(&c->serve, r);
    rules->n_graph_sizes = 0;
    rules->max_model_len = one_in(r, 3) ? roll(r, 2, CASE_PROMPT + CASE_OUTPUT) : 4 * (CASE_PROMPT + CASE_OUTPUT);
    put_word(c, "engine.scheduler", rules->scheduler == KV_SCHEDULER_SARATHI ? "sarathi" : "vllm");
    put_word(c, "engine.kv_layout", kv_layout_names[rules->layout]);
    put_word(c, "engine.evict_scope", kv_scope_names[c->serve.holder.scope]);
    put_word(c, "engine.async_scheduling", rules->async_scheduling ? "true" : "false");
    put_word(c, "engine.reserve_full_prompt", rules->reserve_prompt ? "true" : "false");
    put_word(c, "engine.restart_bug", rules->restart_bug ? "true" : "false");
    put_word(c, "engine.preemption", rules->offload ? "offload" : "recompute");
    put_word(c, "engine.enforce_eager", "true");
    put_number(c, "engine.block_size", c->serve.holder.page);
    put_number(c, "engine.max_num_seqs", rules->max_num_seqs);
    put_number(c, "engine.max_num_batched_tokens", rules->max_num_batched_tokens);
    put_number(c, "engine.max_model_len", rules->max_model_len);
    put_number(c, "engine.long_prefill_token_threshold", rules->long_prefill_token_threshold);
    put_number(c, "plan.chunks", c->serve.subject.draw.run_chunk);
}

/* From too small for the largest request to room for several, in blocks of all tables. */
static void roll_blocks(struct route_case *c, struct dice *r)
{
    struct kv_engine_rules *rules = &c->serve.rules;
    const struct kv_shape *s = &c->serve.subject.shape;
    const int64_t unit[KV_LAYOUTS] = {
        [KV_PER_HEAD] = s->layers * s->store_heads, [KV_PER_LAYER] = s->layers, [KV_SHARED] = 1};
    bool vllm = rules->scheduler == KV_SCHEDULER_VLLM;
    int64_t one = slow_ceil(CASE_PROMPT + CASE_OUTPUT, c->serve.holder.page), percent = roll(r, 0, 10);
    /* turns that the pool is too small for are refused as they come, and what was kept for them goes then, for which
     * a step scheduled ahead comes too early */
    int64_t least = rules->async_scheduling && c->traffic == SESSIONS ? 3 * one
                    : one_in(r, 6)                                    ? larger(one / 2, 1)
                                                                      : one;
    int64_t blocks = vllm + roll(r, least, least + roll_size(r, 0, 2 * one));
    put_number(c, "engine.num_gpu_blocks_override", blocks);
    put(c, kv_format(c->serve.subject.arena, "engine.watermark=%lld %%", (long long)percent));
    rules->pages = (blocks - vllm) * unit[rules->layout]; /* vLLM keeps a block for itself */
    rules->watermark = vllm ? 0 : (int64_t)((double)percent / 100 * (double)blocks) * unit[rules->layout];
}

/* Gamma gaps, all alike or spread. */
static void roll_gap(struct route_case *c, struct dice *r, const char *time, const char *cv)
{
    static const char *const spread[] = {"0", "0.5", "1", "2"};
    put_time(c, time, (double)roll_size(r, 0, 300) * long_tick_s);
    put_word(c, cv, spread[roll(r, 0, 3)]);
}

static void roll_sessions(struct route_case *c, struct dice *r)
{
    static const char *const between[] = {"drop", "hold", "offload"};
    c->serve.rules.between = (enum kv_between_turns)roll(r, KV_BETWEEN_DROP, KV_BETWEEN_OFFLOAD);
    put_word(c, "workload.between_turns", between[c->serve.rules.between]);
    put_word(c, "workload.turns_distribution", "uniform");
    put_number(c, "workload.turns_min", 1);
    put_number(c, "workload.turns_max", MOST_TURNS);
    roll_gap(c, r, "workload.think_time", "workload.think_cv");
    put_number(c, "workload.turn_prompt_tokens", roll_size(r, 1, 40));
    put_number(c, "workload.output_tokens", roll_size(r, 1, CASE_OUTPUT));
    if (one_in(r, 2))
        return;
    put(c, kv_format(c->serve.subject.arena, "workload.tool_share=%lld %%", (long long)roll(r, 1, 100)));
    roll_gap(c, r, "workload.tool_wait", "workload.tool_cv");
    put_number(c, "workload.tool_prompt_tokens", roll_size(r, 1, 40));
}

/* Clients draw what they ask, or take rows of the trace. */
static void roll_clients(struct route_case *c, struct dice *r)
{
    put_word(c, "workload.arrivals", "closed");
    put_number(c, "workload.concurrency", roll_size(r, 1, 12));
    put_number(c, "workload.requests", roll(r, 1, SLOW_REQUESTS));
    roll_gap(c, r, "workload.think_time", "workload.think_cv");
    if (one_in(r, 4))
        put_time(c, "workload.duration", c->duration_s = (double)roll_size(r, 1, 4000) * long_tick_s);
    if (one_in(r, 2))
        return;
    *c->trace = '\0';
    put_word(c, "workload.prompt_distribution", "uniform");
    put_number(c, "workload.prompt_min", 1);
    put_number(c, "workload.prompt_max", roll_size(r, 1, CASE_PROMPT));
    put_word(c, "workload.output_distribution", "uniform");
    put_number(c, "workload.output_min", 1);
    put_number(c, "workload.output_max", roll_size(r, 1, CASE_OUTPUT));
}

static void roll_workload(struct route_case *c, struct dice *r)
{
    c->shared_prefix = one_in(r, 2) ? roll_size(r, 1, CASE_PROMPT) : 0;
    c->router = (int)roll(r, 0, ROUTERS - 1);
    c->replicas = roll(r, 1, MOST_REPLICAS);
    put_word(c, "engine.router", routers[c->router]);
    if (c->shared_prefix)
        put_number(c, "workload.shared_prefix", c->shared_prefix);
    put_number(c, "workload.block_tokens", roll_size(r, 1, 40));
    c->serve.rules.between = KV_BETWEEN_DROP;
    c->duration_s = INFINITY;
    if (c->traffic == SESSIONS)
        roll_sessions(c, r);
    if (c->traffic == CLIENTS)
        roll_clients(c, r);
    if (*c->trace)
        put_word(c, "workload.trace", c->trace);
}

/* Returns when the first request arrives. */
static double write_trace(struct route_case *c, struct dice *r)
{
    int64_t rows = roll(r, 1, c->traffic == SESSIONS ? MOST_ROWS : SLOW_REQUESTS), ticks = 0, first = 0,
            spread = roll_size(r, 0, 200), block = roll_size(r, 1, 40);
    bool named = c->traffic != SESSIONS && c->shared_prefix == 0;
    if (!*c->trace)
        return 0;
    FILE *f = fopen(c->trace, "w");
    fprintf(f, "arrival_s,prompt_tokens,output_tokens%s\n", named ? ",block_tokens,hashes" : "");
    for (int64_t i = 0; i < rows; i++) {
        int64_t prompt = roll(r, 1, CASE_PROMPT), common = roll(r, 0, 20), family = roll(r, 1, 3);
        ticks += one_in(r, 3) ? 0 : roll(r, 0, spread);
        first = i == 0 ? ticks : first;
        fprintf(f, "%.9f,%lld,%lld", (double)ticks * long_tick_s, (long long)prompt,
                (long long)roll(r, 1, CASE_OUTPUT));
        for (int64_t j = 0; named && j < prompt / block; j++) {
            int64_t name = 1000000 * (j < common ? family : 10 + i) + j;
            fprintf(f, j ? " %lld" : ",%lld,%lld", (long long)(j ? name : block), (long long)name);
        }
        fprintf(f, named && prompt < block ? ",%lld,\n" : "\n", (long long)block);
    }
    fclose(f);
    return c->traffic == CLIENTS ? 0 : (double)first * long_tick_s;
}

static void roll_horizon(struct route_case *c, struct dice *r, double first_s)
{
    c->serve.horizon = INFINITY;
    if (!one_in(r, 3))
        return;
    c->serve.horizon = first_s + (double)roll_size(r, 1, 6000) * long_tick_s;
    put_time(c, "run.horizon", c->serve.horizon);
}

static void roll_slo(struct route_case *c, struct dice *r)
{
    static const double between_ticks = 0.4837; /* no time is just what is promised */
    if (one_in(r, 2))
        put_time(c, "slo.ttft", ((double)roll_size(r, 1, 2000) + between_ticks) * long_tick_s);
    if (one_in(r, 2))
        put_time(c, "slo.tpot", ((double)roll_size(r, 1, 200) + between_ticks) * long_tick_s);
    if (one_in(r, 2))
        put_time(c, "slo.e2e", ((double)roll_size(r, 1, 6000) + between_ticks) * long_tick_s);
    if (one_in(r, 4))
        put_time(c, "run.warmup", (double)roll_size(r, 1, 1000) * long_tick_s);
}

/* ---- the requests, sessions with all their turns ---- */

static struct slow_request *read_request(struct route_case *c, const struct kv_arrival *is, int64_t after)
{
    struct serve_case *s = &c->serve;
    KV_ASSERT(s->n < SLOW_REQUESTS);
    struct slow_request *q = &s->request[s->n];
    bool session = c->traffic == SESSIONS && (is->turn > 0 || is->follows);
    *q = (struct slow_request){.is = *is, .after = after, .arrival_s = is->arrival_s};
    q->session = session ? is->request : 1000 + s->n;
    if (session && after >= 0) { /* what was named of its session's first prompt */
        q->is.block = s->request[after].is.block;
        q->is.n_blocks = s->request[after].is.n_blocks;
        q->is.block_tokens = s->request[after].is.block_tokens;
    } else if (is->n_blocks > 0) {
        uint64_t *block = KV_NEW_N(s->subject.arena, uint64_t, is->n_blocks);
        memcpy(block, is->block, sizeof *block * (size_t)is->n_blocks);
        q->is.block = block;
        if (session) /* behind what all share */
            q->is.n_blocks = smaller(is->n_blocks, c->shared_prefix / is->block_tokens);
    }
    s->n++;
    return q;
}

static bool read_requests(struct route_case *c)
{
    struct serve_case *s = &c->serve;
    struct kv_arrival is;
    bool good = kv_workload_open(&c->workload, &c->settings, 1, s->subject.arena, &s->e);
    while (good && !(c->traffic == CLIENTS && s->n > 0) && kv_workload_next(c->workload, &is, &s->e) == KV_NEXT_ROW) {
        read_request(c, &is, -1);
        while (c->traffic == SESSIONS && is.follows) {
            struct kv_arrival next;
            if (!kv_workload_follow(c->workload, &is, &next, &s->e))
                break;
            read_request(c, &next, s->n - 1);
            is = next;
        }
    }
    return good && !s->e.n;
}

static void route_case_make(struct route_case *c, const struct bench *b, uint64_t number)
{
    struct dice r = dice_for(FOR_ROUTING, number);
    struct serve_case *s = &c->serve;
    *c = (struct route_case){.serve = {.number = number}};
    snprintf(c->trace, sizeof c->trace, "%s.csv", b->mask_file);
    c->traffic = (enum traffic)roll(&r, 0, TRAFFICS - 1);
    roll_serving_policy(s, b, &r);
    roll_engine(c, &r);
    roll_blocks(c, &r);
    roll_workload(c, &r);
    roll_horizon(c, &r, write_trace(c, &r));
    roll_slo(c, &r);
    double move_s_per_byte = roll_move_s_per_byte(s, &r);
    put(c, "model.name=Llama-3-8B"); /* a config has a model; what is served is the drawn one */
    put(c, "policy x.kind=full");
    if (!kv_settings_read(NULL, c->set, c->n_set, &c->settings, s->subject.arena, &s->e) || !read_requests(c))
        fail_msg("case %llu: %s", (unsigned long long)number, s->e.text);
    for (int side = 0; side < 2; side++) {
        s->log[side] = (struct step_log){.arena = s->subject.arena,
                                         .lanes = s->subject.shape.layers * s->subject.shape.store_heads};
        s->timing[side] = (struct kv_timing){.cost = log_step,
                                             .scale = long_tick_s / tick_s,
                                             .move_s_per_byte = move_s_per_byte,
                                             .link_s_per_byte = link_s_per_byte,
                                             .settings = &c->settings,
                                             .own = &s->log[side]};
    }
}

static const char *route_text(const struct route_case *c)
{
    const char *text = case_text(&c->serve);
    text =
        kv_format(c->serve.subject.arena, "%s\n%lld replicas, requests in %s", text, (long long)c->replicas, c->trace);
    for (int i = 0; i < c->n_set; i++)
        text = kv_format(c->serve.subject.arena, "%s\n  --set '%s'", text, c->set[i]);
    return text;
}

/* ---- the slow one ---- */

struct slow_replicas {
    const struct route_case *c;
    struct slow_engine engine[MOST_REPLICAS];
    bool idle[MOST_REPLICAS];
    int64_t routed, n_arrived, refused;
    struct slow_request *arrived[SLOW_REQUESTS];
    int64_t n_turns;
    struct slow_request *turn[SLOW_REQUESTS]; /* whose time is known, those known first at first */
    int64_t scratch[4 * (CASE_PROMPT + CASE_OUTPUT) + 1];
};

/* The first of those whose next step begins first; NULL: none has anything to do. */
static struct slow_engine *slow_first(struct slow_replicas *s)
{
    struct slow_engine *first = NULL;
    for (int64_t i = 0; i < s->c->replicas; i++)
        if (!s->idle[i] && (!first || s->engine[i].now < first->now))
            first = &s->engine[i];
    return first;
}

/* Turns of a session come before the stream's requests of the same time. */
static struct slow_request *slow_first_arrival(struct slow_replicas *s, struct slow_request *request, int64_t n)
{
    struct slow_request *first = NULL;
    for (int64_t i = 0; i < s->n_turns; i++)
        if (s->turn[i]->state == SLOW_NOT_THERE && (!first || s->turn[i]->arrived_s < first->arrived_s))
            first = s->turn[i];
    for (int64_t i = 0; i < n; i++)
        if (request[i].after < 0 && request[i].state == SLOW_NOT_THERE &&
            (!first || request[i].arrived_s < first->arrived_s))
            first = &request[i];
    return first;
}

static int64_t slow_left(const struct slow_engine *e)
{
    int64_t left = 0;
    for (int64_t i = 0; i < e->n_requests; i++) {
        const struct slow_request *r = &e->request[i];
        if (r->at == e && (r->state == SLOW_WAITING || r->state == SLOW_RUNNING))
            left += r->is.prompt + r->is.output - 1 - r->begun;
    }
    return left;
}

static struct slow_request *slow_add_request(struct slow_replicas *s, struct route_case *c, const struct kv_arrival *is,
                                             int64_t after)
{
    struct slow_request *r = read_request(c, is, after);
    slow_request_open(&s->engine[0], r);
    for (int64_t i = 0; i < c->replicas; i++)
        s->engine[i].n_requests = c->serve.n;
    return r;
}

/* When a client has asked for the first time it is the next one's turn. */
static void slow_next_client(struct slow_replicas *s, struct route_case *c)
{
    struct kv_arrival next;
    if (kv_workload_next(c->workload, &next, &c->serve.e) == KV_NEXT_ROW)
        slow_add_request(s, c, &next, -1);
}

/* A client that was answered, or refused, asks anew when it has thought. */
static void slow_ask_again(struct slow_replicas *s, struct route_case *c, struct slow_request *last, double at)
{
    struct serve_case *o = &c->serve;
    struct kv_arrival next;
    last->is.follows = false;
    if (kv_workload_follow(c->workload, &last->is, &next, &o->e) && at + next.arrival_s < c->duration_s)
        slow_add_request(s, c, &next, last - o->request)->arrived_s = at + next.arrival_s;
}

/* Clients whose requests ended with the last step, in the order in which these were admitted; or who was refused. */
static void slow_note_clients(struct slow_replicas *s, struct route_case *c)
{
    struct serve_case *o = &c->serve;
    for (;;) {
        struct slow_request *first = NULL;
        for (int64_t i = 0; i < o->n; i++) {
            struct slow_request *r = &o->request[i];
            bool done = r->state == SLOW_ENDED || r->state == SLOW_REFUSED;
            if (done && r->is.follows && (!first || r->admitted < first->admitted))
                first = r;
        }
        if (!first)
            return;
        slow_ask_again(s, c, first, first->state == SLOW_ENDED ? first->finish_s : first->refused_s);
    }
}

static struct slow_engine *slow_route(struct slow_replicas *s, const struct slow_request *r)
{
    int64_t turn = s->routed++ % s->c->replicas, most = -1, least = INT64_MAX;
    struct slow_engine *best = &s->engine[turn];
    for (int64_t i = 0; s->c->router != ROUND_ROBIN && i < s->c->replicas; i++) {
        struct slow_engine *e = &s->engine[i];
        int64_t found = s->c->router == PREFIX ? slow_hits(e, &e->begun, r, s->scratch) : 0, left = slow_left(e);
        if (found > most || (found == most && left < least)) {
            best = e;
            most = found;
            least = left;
        }
    }
    return best;
}

/* Too long; larger than the pool where nothing is evicted; or, of an engine that serves nothing else, refused. */
static bool slow_can_never_run(const struct slow_engine *e, const struct slow_request *r)
{
    int64_t tokens = r->is.prompt + r->is.output;
    if (tokens > e->rules->max_model_len)
        return true;
    if (e->plain)
        return slow_ceil(tokens - 1, e->holder->page) > e->pool.n;
    struct kv_engine_rules rules = *e->rules;
    struct slow_request one = {.is = {.prompt = r->is.prompt, .output = r->is.output}, .after = -1};
    struct slow_engine *alone = KV_NEW(e->arena, struct slow_engine);
    rules.watermark = 0;
    slow_open(alone, &rules, e->holder, e->timing, &one, 1, e->arena);
    slow_run(alone, INFINITY);
    return one.state == SLOW_REFUSED;
}

static void slow_arrives(struct slow_replicas *s, struct slow_request *r)
{
    struct slow_engine *home = r->after < 0 ? NULL : s->c->serve.request[r->after].at;
    s->arrived[s->n_arrived++] = r;
    if (slow_can_never_run(&s->engine[0], r)) {
        struct slow_request *kept = home ? slow_kept_for(home, r) : NULL;
        if (kept)
            slow_forget(home, kept);
        r->state = SLOW_REFUSED;
        r->refused_s = r->arrived_s;
        s->refused++;
        return;
    }
    struct slow_engine *e = home && home->rules->between != KV_BETWEEN_DROP ? home : slow_route(s, r);
    if (s->idle[e - s->engine] && r->arrived_s > e->now)
        slow_idle(e, r->arrived_s);
    s->idle[e - s->engine] = false;
    slow_arrive(e, r);
}

/* Turns that answers of the last step brought, in the order in which the requests before them were admitted. */
static void slow_note_turns(struct slow_replicas *s, struct slow_request *request, int64_t n)
{
    int64_t from = s->n_turns;
    for (int64_t i = 0; i < n; i++) {
        struct slow_request *r = &request[i];
        bool known = r->after < 0 || isnan(r->arrived_s);
        for (int64_t j = 0; j < s->n_turns; j++)
            known = known || s->turn[j] == r;
        if (known)
            continue;
        int64_t at = s->n_turns++;
        for (; at > from && request[s->turn[at - 1]->after].admitted > request[r->after].admitted; at--)
            s->turn[at] = s->turn[at - 1];
        s->turn[at] = r;
    }
}

static void slow_serve(struct slow_replicas *s, struct route_case *c)
{
    struct serve_case *o = &c->serve;
    s->c = c;
    for (int64_t i = 0; i < c->replicas; i++) {
        slow_open(&s->engine[i], &o->rules, &o->holder, &o->timing[1], o->request, o->n, o->subject.arena);
        s->idle[i] = true;
    }
    for (;;) {
        struct slow_engine *e = slow_first(s);
        struct slow_request *r = slow_first_arrival(s, o->request, o->n);
        if (r && r->arrived_s < o->horizon && (!e || r->arrived_s <= e->now))
            slow_arrives(s, r);
        else if (e && e->now < o->horizon) {
            r = NULL;
            s->idle[e - s->engine] = !slow_go_on(e);
        } else
            break;
        if (e && e->wrong)
            fail_msg("the slow one: %s\n%s", e->wrong, route_text(c));
        if (c->traffic == CLIENTS && r && r->after < 0)
            slow_next_client(s, c);
        if (c->traffic == CLIENTS)
            slow_note_clients(s, c);
        slow_note_turns(s, o->request, o->n);
    }
    for (int64_t i = 0; i < c->replicas && isfinite(o->horizon); i++)
        if (s->idle[i] && s->engine[i].now < o->horizon) /* what sessions keep is held to the end */
            slow_idle(&s->engine[i], o->horizon);
}

/* ---- comparing ---- */

struct comparison {
    char text[400];
};

static void same(struct comparison *d, const char *name, double fast, double slow)
{
    bool equal = fast == slow || (isnan(fast) && isnan(slow)) || fabs(fast - slow) <= 1e-9 * (1 + fabs(slow));
    if (!equal && !*d->text)
        snprintf(d->text, sizeof d->text, "%s: %.17g, expected %.17g", name, fast, slow);
}

/* A cell of a row: an empty one is NaN, times have nine decimals, the footprint six. */
static void same_cell(struct comparison *d, const char *name, char **row, double slow, double off)
{
    char *cell = strsep(row, ",");
    double fast = cell && *cell ? strtod(cell, NULL) : NAN;
    bool equal = (isnan(fast) && isnan(slow)) || fabs(fast - slow) <= off + 1e-9 * fabs(slow);
    if (!equal && !*d->text)
        snprintf(d->text, sizeof d->text, "%s: %.17g, expected %.17g", name, fast, slow);
}

static void same_row(struct comparison *d, int64_t i, char *row, const struct slow_request *r, int64_t page_bytes)
{
    struct comparison inner = {""};
    bool ended = r->state == SLOW_ENDED;
    double tpot = !ended ? NAN : r->is.output > 1 ? (r->finish_s - r->first_token_s) / (double)(r->is.output - 1) : 0;
    same_cell(&inner, "request", &row, (double)i, 0);
    same_cell(&inner, "arrival_s", &row, r->arrived_s, 1e-9);
    same_cell(&inner, "prompt_tokens", &row, (double)r->is.prompt, 0);
    same_cell(&inner, "output_tokens", &row, (double)r->is.output, 0);
    same_cell(&inner, "queue_s", &row, r->scheduled_s - r->arrived_s, 1e-9);
    same_cell(&inner, "ttft_s", &row, r->first_token_s - r->arrived_s, 1e-9);
    same_cell(&inner, "tpot_s", &row, tpot, 1e-9);
    same_cell(&inner, "e2e_s", &row, r->finish_s - r->arrived_s, 1e-9);
    if (ended)
        same_cell(&inner, "preemptions", &row, (double)r->preemptions, 0);
    else
        strsep(&row, ",");
    same_cell(&inner, "kv_footprint", &row, ended ? r->entry_steps / r->full_steps : NAN, 1e-6);
    same_cell(&inner, "kv_peak_bytes", &row, ended ? (double)(r->peak_pages * page_bytes) : NAN, 0);
    if (*inner.text && !*d->text)
        snprintf(d->text, sizeof d->text, "request %lld: %.300s", (long long)i, inner.text);
}

static void same_rows(struct comparison *d, char *rows, const struct slow_replicas *s, int64_t page_bytes)
{
    int64_t n = 0;
    for (char *row; (row = strsep(&rows, "\n")) && *row; n++)
        if (n < s->n_arrived)
            same_row(d, n, row, s->arrived[n], page_bytes);
    same(d, "requests", (double)n, (double)s->n_arrived);
}

static void same_sums(struct comparison *d, const struct kv_served *f, const struct slow_replicas *s)
{
    struct kv_engine_sums sum = {0};
    int64_t refused = s->refused, ended = 0;
    for (int64_t i = 0; i < s->n_arrived; i++)
        ended += s->arrived[i]->state == SLOW_ENDED;
    for (int64_t i = 0; i < s->c->replicas; i++) {
        const struct kv_engine_sums *one = &s->engine[i].sums;
        const struct slow_decisions *decided = &s->engine[i].decided;
        refused += s->engine[i].refused;
        sum.steps += one->steps;
        sum.busy_s += one->busy_s;
        for (int j = 0; j < KV_TIME_PARTS; j++)
            sum.part_s[j] += one->part_s[j];
        sum.recompute_s += one->recompute_s;
        for (int j = 0; j < KV_LIMITS; j++)
            sum.limit_s[j] += one->limit_s[j];
        sum.waited_s += one->waited_s;
        sum.preemptions += decided->preemptions;
        sum.cached_tokens += decided->cached_tokens;
        sum.prompt_tokens += decided->prompt_tokens;
        sum.output_tokens += one->output_tokens;
        sum.recomputed_tokens += one->recomputed_tokens;
        sum.offloaded_bytes += one->offloaded_bytes;
        sum.dropped_sessions += decided->dropped_sessions;
        sum.held_area += one->held_area;
        sum.page_area[KV_SHARED] += one->page_area[KV_SHARED];
        sum.returned_pages[KV_SHARED] += one->returned_pages[KV_SHARED];
        sum.peak_pages[KV_SHARED] = larger(sum.peak_pages[KV_SHARED], one->peak_pages[KV_SHARED]);
    }
    same(d, "refused", (double)f->refused, (double)refused);
    same(d, "finished", (double)f->finished, (double)ended);
    same(d, "unfinished", (double)f->unfinished, (double)(s->n_arrived - ended - refused));
    for (int i = 0; i < KV_TIME_PARTS; i++)
        same(d, "a part of busy_s", f->sums.part_s[i], sum.part_s[i]);
    same(d, "recompute_s", f->sums.recompute_s, sum.recompute_s);
    for (int i = 0; i < KV_LIMITS; i++)
        same(d, kv_limit_names[i], f->sums.limit_s[i], sum.limit_s[i]);
    same(d, "waited_s", f->sums.waited_s, sum.waited_s);
    same(d, "prompt_tokens", (double)f->sums.prompt_tokens, (double)sum.prompt_tokens);
    same(d, "output_tokens", (double)f->sums.output_tokens, (double)sum.output_tokens);
    same(d, "returned_pages", (double)f->sums.returned_pages[KV_SHARED], (double)sum.returned_pages[KV_SHARED]);
    same(d, "steps", (double)f->sums.steps, (double)sum.steps);
    same(d, "busy_s", f->sums.busy_s, sum.busy_s);
    same(d, "preemptions", (double)f->sums.preemptions, (double)sum.preemptions);
    same(d, "cached_tokens", (double)f->sums.cached_tokens, (double)sum.cached_tokens);
    same(d, "recomputed_tokens", (double)f->sums.recomputed_tokens, (double)sum.recomputed_tokens);
    same(d, "offloaded_bytes", f->sums.offloaded_bytes, sum.offloaded_bytes);
    same(d, "dropped_sessions", (double)f->sums.dropped_sessions, (double)sum.dropped_sessions);
    same(d, "held_area", f->sums.held_area, sum.held_area);
    same(d, "page_area", f->sums.page_area[KV_SHARED], sum.page_area[KV_SHARED]);
    same(d, "peak_pages", (double)f->sums.peak_pages[KV_SHARED], (double)sum.peak_pages[KV_SHARED]);
}

/* What is promised, of those who arrived behind the warm-up. A promise is missed when its time has gone by, whether the
 * token it is for came too late or, up to the horizon, did not come. */
static void same_promises(struct comparison *d, const struct kv_served *f, const struct slow_replicas *s)
{
    const struct kv_settings *k = &s->c->settings;
    double horizon = s->c->serve.horizon;
    int64_t counted = 0, good = 0, overdue = 0;
    for (int64_t i = 0; i < s->n_arrived; i++) {
        const struct slow_request *r = s->arrived[i];
        bool ended = r->state == SLOW_ENDED;
        if (r->arrived_s < k->run.warmup || r->state == SLOW_REFUSED)
            continue;
        double first_by = r->arrived_s + k->slo.ttft, last_by = r->arrived_s + k->slo.e2e,
               from_first_by =
                   (isnan(r->first_token_s) ? INFINITY : r->first_token_s) + k->slo.tpot * (double)(r->is.output - 1);
        double first = isnan(r->first_token_s) ? horizon : r->first_token_s, last = ended ? r->finish_s : horizon;
        bool missed = first > first_by || last > last_by || (r->is.output > 1 && last > from_first_by);
        counted += ended;
        good += ended && !missed;
        overdue += !ended && missed;
    }
    same(d, "counted", (double)f->counted, (double)counted);
    same(d, "good", (double)f->good, (double)good);
    same(d, "overdue", (double)f->overdue, (double)overdue);
}

/* Who served what: replicas alike in all else differ in their numbers. */
static void same_replicas(struct comparison *d, const struct kv_served *f, const struct slow_replicas *s)
{
    for (int64_t i = 0; i < s->c->replicas; i++) {
        int64_t tokens = 0;
        for (int64_t j = 0; j < f->timeline[i].n; j++)
            tokens += f->timeline[i].span[j].tokens;
        same(d, "tokens of a replica", (double)tokens, (double)s->engine[i].tokens);
    }
}

static void check_case(struct route_case *c)
{
    struct serve_case *o = &c->serve;
    struct kv_arena *a = o->subject.arena;
    struct kv_policy policy;
    struct kv_served *f = KV_NEW(a, struct kv_served);
    struct slow_replicas *s = KV_NEW(a, struct slow_replicas);
    struct comparison d = {""};
    char *rows = NULL;
    size_t size = 0;
    struct kv_serve_asked asked = {.settings = &c->settings,
                                   .model = &o->subject.model,
                                   .timing = &o->timing[0],
                                   .policy = &policy,
                                   .name = "x",
                                   .dtype = o->subject.policy.store.dtype,
                                   .prefix_caching = o->rules.prefix_caching,
                                   .seed = 1,
                                   .rate = 1,
                                   .context = 1,
                                   .replicas = c->replicas,
                                   .requests = open_memstream(&rows, &size),
                                   .quiet = true};
    bool good = kv_policy_from_spec(&policy, draw_spec(&o->subject.draw, a), a, &o->e) && kv_serve(f, &asked, a, &o->e);
    fclose(asked.requests);
    if (!good)
        fail_msg("%s\n%s", o->e.text, route_text(c));
    o->rules.page_bytes = f->page_bytes[o->rules.layout];
    slow_serve(s, c);
    same_rows(&d, rows, s, o->rules.page_bytes);
    same_sums(&d, f, s);
    same_promises(&d, f, s);
    same_replicas(&d, f, s);
    free(rows);
    if (*d.text) {
        print_error("%s\n", d.text);
        fputs(route_text(c), stderr); /* a message of cmocka's is cut off */
        fail_msg("case %llu", (unsigned long long)o->number);
    }
}

static void test_against_slow(void **state)
{
    const char *cases = getenv("KV_CASES"), *seed = getenv("KV_SEED");
    uint64_t first = seed ? strtoull(seed, NULL, 10) : 0, n = cases ? strtoull(cases, NULL, 10) : seed ? 1 : CASES;
    struct route_case *c = calloc(1, sizeof *c);
    for (uint64_t i = first; i < first + n; i++) {
        route_case_make(c, *state, i);
        check_case(c);
        kv_workload_close(c->workload);
        if (*c->trace)
            unlink(c->trace);
        done(&c->serve.subject);
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
