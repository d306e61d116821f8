/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The stream: times from a file or a process, lengths from a file or draws, sessions drawn over both. */
#include "sim/workload/workload.h"

#include "sim/core/random.h"
#include "sim/workload/process.h"
#include "sim/workload/rows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double second_ns = 1e9;
static const int64_t clock_ns = INT64_C(100000000000000000); /* 1e8 s: times beyond are a clock's, not a trace's */

struct kv_workload {
    const struct kv_settings *s;
    uint64_t seed;
    struct kv_arena *arena;
    gsl_rng *rng;
    struct kv_rows *rows; /* NULL: drawn */
    struct kv_process process;
    bool by_row; /* times are the file's */
    bool lengths_do;
    bool sessions, closed;
    int64_t longest;      /* prompt and output, of draws */
    int64_t block_tokens; /* of names we make */

    int64_t n;           /* given, later turns of closed loops too */
    int64_t first_turns; /* given */
    int64_t skipped, last_ns, start_ns;
    bool ended;
    uint64_t *block;
    int64_t block_room;
    struct kv_err *scratch; /* of rows that are skipped */
};

bool kv_workload_has_traffic(const struct kv_settings *s)
{
    return s->workload.trace || s->workload.arrivals != KV_NO_ARRIVALS;
}

/* ---- opening ---- */

static bool only_of(const struct kv_settings *s, bool wrong, const char *key, const char *of, struct kv_err *e)
{
    return !wrong ||
           kv_fail(e, KV_USAGE, "%s: [workload] %s says nothing without %s; remove it, or set that", s->path, key, of);
}

static bool has_sessions(const struct kv_settings *s)
{
    return s->workload.turns.distribution != KV_FIXED || s->workload.turns.tokens > 1;
}

static bool check(const struct kv_settings *s, struct kv_err *e)
{
    int kind = s->workload.arrivals;
    bool drawn = kind != KV_NO_ARRIVALS && kind != KV_CLOSED;
    if (!kv_workload_has_traffic(s))
        return kv_fail(e, KV_USAGE,
                       "%s: [workload] has no traffic; set trace = FILE, or arrivals = poisson and rate = 2 /s",
                       s->path);
    if (drawn && isnan(s->workload.rate))
        kv_fail(e, KV_USAGE, "%s: [workload] arrivals needs a rate; write rate = 2 /s", s->path);
    if (!drawn && !isnan(s->workload.rate))
        kv_fail(e, KV_USAGE, "%s: [workload] rate says nothing here: %s", s->path,
                kind == KV_CLOSED ? "clients of a closed loop ask when they were answered"
                                  : "requests arrive at the trace's times; scale them by rate_scale, or set "
                                    "arrivals = poisson");
    only_of(s, !isnan(s->workload.cv) && (!drawn || (kind == KV_POISSON && s->workload.cv != 1)), "cv",
            "arrivals = gamma", e);
    if (kind == KV_GAMMA && isnan(s->workload.cv))
        kv_fail(e, KV_USAGE, "%s: [workload] arrivals = gamma needs a cv; write cv = 2", s->path);
    if (kind == KV_ONOFF && (isnan(s->workload.on_time) || isnan(s->workload.off_time)))
        kv_fail(e, KV_USAGE, "%s: [workload] arrivals = onoff needs on_time and off_time; write on_time = 10 s",
                s->path);
    only_of(s, kind != KV_ONOFF && (!isnan(s->workload.on_time) || !isnan(s->workload.off_time)), "on_time or off_time",
            "arrivals = onoff", e);
    only_of(s, kind != KV_ONOFF && s->workload.off_rate > 0, "off_rate", "arrivals = onoff", e);
    only_of(s, !has_sessions(s) && kind != KV_CLOSED && s->workload.think_time > 0, "think_time",
            "turns or arrivals = closed", e);
    only_of(s, !has_sessions(s) && s->workload.tool_share > 0, "tool_share", "turns", e);
    only_of(s, !has_sessions(s) && s->workload.between_turns != KV_BETWEEN_DROP, "between_turns", "turns", e);
    if (kind == KV_DIURNAL && !(s->workload.amplitude < 1))
        kv_fail(e, KV_USAGE, "%s: [workload] amplitude is below 100 %%", s->path);
    only_of(s, s->workload.from > 0 && (!s->workload.trace || kind != KV_NO_ARRIVALS), "from", "the times of a trace",
            e);
    bool endless = !s->workload.trace && s->workload.requests == KV_UNSET;
    if (endless && isnan(s->workload.duration))
        kv_fail(e, KV_USAGE, "%s: [workload] arrivals never end; set requests, or duration = 1 h", s->path);
    if (kind == KV_CLOSED && has_sessions(s))
        kv_fail(e, KV_USAGE,
                "%s: [workload] turns says nothing with arrivals = closed, whose clients ask anew; remove one",
                s->path);
    if (s->workload.turns.distribution == KV_FIXED && s->workload.turns.tokens < 1)
        kv_fail(e, KV_USAGE, "%s: [workload] turns is 0; a session has at least 1", s->path);
    return !e->n;
}

static bool check_rows(struct kv_workload *w, struct kv_err *e)
{
    const struct kv_settings *s = w->s;
    const char *path = kv_rows_path(w->rows);
    if (w->by_row && !kv_rows_have_times(w->rows) && w->lengths_do)
        w->by_row = false;
    else if (w->by_row && !kv_rows_have_times(w->rows))
        return kv_fail(e, KV_DATA,
                       "%s:1: no times of arrival (a column arrival_s, timestamp, ...); give them, or set [workload] "
                       "arrivals and rate",
                       path);
    if (kv_rows_have_blocks(w->rows) && (s->workload.shared_prefix || w->sessions))
        return kv_fail(e, KV_USAGE,
                       "%s: [workload] %s: '%s' has hashes of the prompts' blocks, which tell what is shared; remove "
                       "it",
                       s->path, s->workload.shared_prefix ? "shared_prefix" : "turns", path);
    return true;
}

static bool find_longest(struct kv_workload *w, struct kv_err *e)
{
    const struct kv_settings *s = w->s;
    struct kv_model m;
    w->longest = s->engine.max_model_len;
    if (w->longest != KV_UNSET)
        return true;
    w->longest = INT64_C(1) << 30;
    if (!s->model.name && !s->model.path)
        return true;
    if (!kv_settings_model(s, &m, w->arena, e))
        return false;
    if (m.max_positions)
        w->longest = m.max_positions;
    return true;
}

static void start(struct kv_workload *w)
{
    kv_process_start(&w->process, w->s, w->seed, w->rng);
    w->n = w->first_turns = w->skipped = 0;
    w->last_ns = w->start_ns = KV_UNSET;
    w->ended = false;
}

static bool open_workload(struct kv_workload **out, const struct kv_settings *s, uint64_t seed, bool lengths_do,
                          struct kv_arena *a, struct kv_err *e)
{
    struct kv_workload *w = *out = calloc(1, sizeof *w);
    KV_ASSERT(w);
    *w = (struct kv_workload){
        .s = s, .seed = seed, .arena = a, .rng = kv_draw_open(), .sessions = has_sessions(s), .lengths_do = lengths_do};
    w->closed = s->workload.arrivals == KV_CLOSED;
    w->by_row = s->workload.trace && s->workload.arrivals == KV_NO_ARRIVALS;
    w->block_tokens = s->workload.block_tokens != KV_UNSET ? s->workload.block_tokens : s->engine.block_size;
    w->scratch = calloc(1, sizeof *w->scratch);
    KV_ASSERT(w->scratch);
    start(w);
    if (!check(s, e) || !find_longest(w, e))
        return false;
    if (!s->workload.trace)
        return true;
    return kv_rows_open(&w->rows, s->workload.trace, (enum kv_format)s->workload.format, s->workload.block_tokens, a,
                        e) &&
           check_rows(w, e);
}

bool kv_workload_open(struct kv_workload **w, const struct kv_settings *s, uint64_t seed, struct kv_arena *a,
                      struct kv_err *e)
{
    return open_workload(w, s, seed, false, a, e);
}

bool kv_workload_open_lengths(struct kv_workload **w, const struct kv_settings *s, uint64_t seed, struct kv_arena *a,
                              struct kv_err *e)
{
    return open_workload(w, s, seed, true, a, e);
}

void kv_workload_close(struct kv_workload *w)
{
    if (!w)
        return;
    kv_rows_close(w->rows);
    gsl_rng_free(w->rng);
    free(w->scratch);
    free(w->block);
    free(w);
}

int64_t kv_workload_skipped(const struct kv_workload *w)
{
    return w->skipped;
}

bool kv_workload_sort(struct kv_workload *w, struct kv_err *e)
{
    return !w->rows || kv_rows_sort(w->rows, w->s->workload.skip_bad, &w->skipped, e);
}

bool kv_workload_has_times(const struct kv_workload *w)
{
    return w->by_row || (w->s->workload.arrivals != KV_NO_ARRIVALS && !w->closed);
}

bool kv_workload_has_turns(const struct kv_workload *w)
{
    return w->sessions;
}

bool kv_workload_has_blocks(const struct kv_workload *w)
{
    return w->rows && kv_rows_have_blocks(w->rows) && w->s->workload.context_scale == 1;
}

const char *kv_workload_format(const struct kv_workload *w)
{
    return w->rows ? kv_format_names[kv_rows_format(w->rows)] : "drawn";
}

bool kv_workload_rewind(struct kv_workload *w, struct kv_err *e)
{
    start(w);
    return !w->rows || kv_rows_rewind(w->rows, e);
}

/* ---- rows ---- */

static int64_t scaled(int64_t tokens, double scale)
{
    double value = (double)tokens * scale;
    return scale == 1 ? tokens : value < 1 ? 1 : value >= KV_ROW_MOST_TOKENS ? KV_ROW_MOST_TOKENS : llrint(value);
}

/* A row that can be used; those that cannot are counted and left out when the config says so. */
static enum kv_next next_row(struct kv_workload *w, struct kv_row *row, struct kv_err *e)
{
    bool skip = w->s->workload.skip_bad;
    for (;;) {
        struct kv_err *to = skip ? w->scratch : e;
        enum kv_next next = kv_rows_next(w->rows, row, to);
        if (next != KV_NEXT_BAD || !skip)
            return next;
        if (kv_rows_broken(w->rows)) {
            kv_fail(e, to->status, "%s", to->text);
            return KV_NEXT_BAD;
        }
        *w->scratch->text = '\0';
        w->scratch->length = 0;
        w->scratch->n = 0;
        w->scratch->status = KV_OK;
        w->skipped++;
    }
}

/* When the row arrives; false after a message. *before: it is left out. */
static bool row_time(struct kv_workload *w, const struct kv_row *row, double *arrival_s, bool *before, struct kv_err *e)
{
    if (row->arrival_ns == KV_UNSET)
        return kv_fail(e, KV_DATA, "%s:%lld:1: no time of arrival; give one, or set [workload] arrivals and rate",
                       kv_rows_path(w->rows), (long long)row->line);
    if (w->last_ns != KV_UNSET && row->arrival_ns < w->last_ns)
        return kv_fail(e, KV_DATA,
                       "%s:%lld:%d: arrives %.9g s before the row above it; sort the file: kvsim workload convert %s "
                       "sorted.csv --sort",
                       kv_rows_path(w->rows), (long long)row->line, row->column,
                       (double)(w->last_ns - row->arrival_ns) / second_ns, kv_rows_path(w->rows));
    w->last_ns = row->arrival_ns;
    if (w->start_ns == KV_UNSET)
        w->start_ns = row->arrival_ns > clock_ns || kv_rows_format(w->rows) == KV_FORMAT_VLLM ? row->arrival_ns : 0;
    double s = (double)(row->arrival_ns - w->start_ns) / second_ns;
    *before = s < w->s->workload.from;
    *arrival_s = (s - w->s->workload.from) / w->s->workload.rate_scale;
    return true;
}

static enum kv_next from_row(struct kv_workload *w, struct kv_arrival *out, struct kv_err *e)
{
    struct kv_row row;
    for (bool before = true; before;) {
        enum kv_next next = next_row(w, &row, e);
        if (next != KV_NEXT_ROW)
            return next;
        before = false;
        if (w->by_row && !row_time(w, &row, &out->arrival_s, &before, e))
            return KV_NEXT_BAD;
    }
    out->session = row.session;
    out->prompt = scaled(row.prompt, w->s->workload.context_scale);
    out->output = scaled(row.output, w->s->workload.output_scale);
    if (w->s->workload.context_scale == 1) { /* of a stretched prompt nothing is known */
        out->block = row.block;
        out->n_blocks = row.n_blocks;
        out->block_tokens = row.block_tokens;
    }
    return KV_NEXT_ROW;
}

/* ---- draws ---- */

/* The number of draws of a turn: that of the request for the first one, so that a plan's count and traffic draw alike.
 */
static uint64_t draw_id(int64_t request, int64_t turn)
{
    return turn ? kv_mix((uint64_t)request + 1) + (uint64_t)turn : (uint64_t)request;
}

static void seek(struct kv_workload *w, const char *purpose, int64_t request, int64_t turn)
{
    kv_draw_seek(w->rng, w->seed, purpose, draw_id(request, turn));
}

static void draw_lengths(struct kv_workload *w, struct kv_arrival *r)
{
    kv_draw_request(w->rng, w->s, w->seed, draw_id(r->request, r->turn), w->longest, &r->prompt, &r->output);
    r->prompt = scaled(r->prompt, w->s->workload.context_scale);
    r->output = scaled(r->output < 1 ? 1 : r->output, w->s->workload.output_scale);
}

static int64_t draw_turns(struct kv_workload *w, int64_t request)
{
    if (!w->sessions)
        return 1;
    seek(w, "turns", request, 0);
    int64_t n = kv_draw_length(w->rng, &w->s->workload.turns, INT64_C(1) << 30);
    return n < 1 ? 1 : n;
}

static double draw_think(struct kv_workload *w, int64_t request, int64_t turn)
{
    seek(w, "think time", request, turn);
    return kv_draw_time(w->rng, w->s->workload.think_time, w->s->workload.think_cv);
}

/* Names of a prompt's blocks: the shared prefix's are the same for all, the others the session's own. Without sessions
 * the latter occur once, and are left out. */
static void name_blocks(struct kv_workload *w, struct kv_arrival *r)
{
    int64_t shared = w->s->workload.shared_prefix < r->prompt ? w->s->workload.shared_prefix : r->prompt;
    int64_t all = w->sessions ? r->prompt / w->block_tokens : shared / w->block_tokens;
    if (r->n_blocks || !all)
        return;
    if (all > w->block_room) {
        w->block = realloc(w->block, (size_t)all * sizeof *w->block);
        KV_ASSERT(w->block); /* at most 2^30 / block_tokens */
        w->block_room = all;
    }
    static const uint64_t shared_names = 1, own_names = 2;
    for (int64_t i = 0; i < all; i++) {
        bool common = (i + 1) * w->block_tokens <= shared;
        w->block[i] =
            kv_random(w->seed, common ? shared_names : own_names, common ? 0 : (uint64_t)r->request, (uint64_t)i);
    }
    r->block = w->block;
    r->n_blocks = all;
    r->block_tokens = w->block_tokens;
}

/* ---- the stream ---- */

static bool budget_left(const struct kv_workload *w)
{
    return w->s->workload.requests == KV_UNSET || w->n < w->s->workload.requests;
}

enum kv_next kv_workload_next(struct kv_workload *w, struct kv_arrival *out, struct kv_err *e)
{
    const struct kv_settings *s = w->s;
    if (w->ended || !budget_left(w) || (w->closed && w->first_turns >= s->workload.concurrency))
        return KV_NEXT_END;
    *out = (struct kv_arrival){.request = w->first_turns, .session = KV_UNSET};
    if (w->rows) {
        enum kv_next next = from_row(w, out, e);
        if (next != KV_NEXT_ROW) {
            w->ended = next == KV_NEXT_END;
            return next;
        }
    } else
        draw_lengths(w, out);
    if (w->closed)
        out->arrival_s = 0;
    else if (!w->by_row && s->workload.arrivals != KV_NO_ARRIVALS)
        out->arrival_s = kv_process_next(&w->process) / s->workload.rate_scale;
    if (out->arrival_s >= s->workload.duration) { /* false when there is none: it is NaN */
        w->ended = true;
        return KV_NEXT_END;
    }
    w->n++;
    w->first_turns++;
    out->follows = w->closed ? budget_left(w) : draw_turns(w, out->request) > 1;
    name_blocks(w, out);
    return KV_NEXT_ROW;
}

/* ---- later turns ---- */

/* A client's next request has nothing in common with its last one. */
static bool ask_again(struct kv_workload *w, const struct kv_arrival *last, struct kv_arrival *next, struct kv_err *e)
{
    struct kv_arrival r = {.request = last->request, .turn = last->turn + 1, .session = KV_UNSET};
    if (w->ended || !budget_left(w))
        return false;
    if (w->rows) {
        enum kv_next got = from_row(w, &r, e);
        w->ended = got != KV_NEXT_ROW;
        if (got != KV_NEXT_ROW)
            return false;
    } else
        draw_lengths(w, &r);
    r.arrival_s = draw_think(w, r.request, r.turn);
    w->n++;
    r.follows = budget_left(w);
    name_blocks(w, &r);
    *next = r;
    return true;
}

/* A session's next turn brings its whole past, the last answer included. */
static bool go_on(struct kv_workload *w, const struct kv_arrival *last, struct kv_arrival *next)
{
    const struct kv_settings *s = w->s;
    int64_t turns = draw_turns(w, last->request);
    struct kv_arrival r = {.request = last->request,
                           .turn = last->turn + 1,
                           .context = last->prompt + last->output,
                           .output = 1,
                           .session = last->session};
    if (r.turn >= turns || r.context >= w->longest - 1)
        return false;
    seek(w, "tool", r.request, r.turn);
    bool tool = gsl_rng_uniform(w->rng) < s->workload.tool_share;
    if (tool) {
        seek(w, "tool wait", r.request, r.turn);
        r.arrival_s = kv_draw_time(w->rng, s->workload.tool_wait, s->workload.tool_cv);
    } else
        r.arrival_s = draw_think(w, r.request, r.turn);
    seek(w, "turn prompt", r.request, r.turn);
    int64_t added = kv_draw_length(w->rng, tool ? &s->workload.tool_prompt : &s->workload.turn_prompt, w->longest);
    seek(w, "output length", r.request, r.turn);
    int64_t output = kv_draw_length(w->rng, &s->workload.output, w->longest);
    added = scaled(added < 1 ? 1 : added, s->workload.context_scale);
    r.prompt = r.context + added;
    r.output = scaled(output < 1 ? 1 : output, s->workload.output_scale);
    if (r.prompt + r.output > w->longest) /* the conversation is full */
        return false;
    r.follows = r.turn + 1 < turns;
    name_blocks(w, &r);
    *next = r;
    return true;
}

bool kv_workload_follow(struct kv_workload *w, const struct kv_arrival *last, struct kv_arrival *next, struct kv_err *e)
{
    return w->closed ? ask_again(w, last, next, e) : w->sessions && go_on(w, last, next);
}
