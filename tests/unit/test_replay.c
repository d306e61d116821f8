/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Replays of traces made here, against a cache that is fed by hand with the same numbers, pass by pass, against counts
 * from lengths alone, and against plain loops over positions for masses, overlaps and marks. Every kind that a trace
 * can support is run in each draw; shapes, ticks, chunks and the policies' keys are drawn. */
#include "sim/replay.h"
#include "sim/replay_print.h"
#include "sim/synth.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { DRAWS = 28, MOST_TICKS = 128, MOST_SPECS = 40, MOST_END = 512, HEAD_DIM = 8 };

struct fixture {
    char path[256], heads[256];
    int ran[64]; /* of each kind: runs that were compared */
};

/* A request, and what is recorded of it. */
struct plan {
    uint64_t draw, seed;
    int64_t layers, kv_heads, group, prompt, prefill, end, tick, chunk, decode_tick, patch, tail, window, page;
    bool query_heads, ties;
    unsigned channels; /* 1 << enum kv_channel */
    struct kv_tick at[MOST_TICKS];
    int64_t n_ticks;
    struct kv_mark mark[2];
};

/* ---- numbers ---- */

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static int64_t roll(uint64_t *dice, int64_t least, int64_t most)
{
    *dice += UINT64_C(0x9e3779b97f4a7c15);
    return least + (int64_t)(mix(*dice) % (uint64_t)(most - least + 1));
}

static bool is_static(int what)
{
    return what == KV_KEY_NORM || what == KV_VALUE_NORM || what == KV_EXTERNAL;
}

/* The number of a position in a row of a head; where ties are wanted, one of few. */
static float number(const struct plan *p, int what, int64_t tick, int64_t layer, int64_t row, int64_t i)
{
    uint64_t x = p->seed;
    int64_t of[] = {what, is_static(what) ? 0 : tick + 1, layer, row, i};
    for (int k = 0; k < 5; k++)
        x = mix(x + (uint64_t)of[k] * UINT64_C(0x9e3779b97f4a7c15) + 1);
    double u = p->ties ? (double)(x >> 61) / 8 : (double)(x >> 11) * 0x1p-53;
    if (what == KV_LATER_SUM && p->at[tick].end == p->end)
        return 0;
    if (kv_channels[what].attention)
        return p->ties ? (float)u : (float)exp2(-12 * u);
    return what == KV_KEY_NORM || what == KV_VALUE_NORM ? (float)u : (float)(2 * u - 1);
}

static void add_ticks(struct plan *p, int64_t from, int64_t to, int64_t step, enum kv_tick_kind kind)
{
    for (int64_t begin = from; begin < to; begin += step) {
        int64_t end = begin + step < to ? begin + step : to;
        bool patched = p->patch && kind == KV_TICK_PREFILL && end < p->prefill;
        p->at[p->n_ticks++] =
            (struct kv_tick){patched ? KV_TICK_PATCHED : kind, begin, end, patched ? p->patch : 0, -1, -1, -1};
    }
}

static void draw_plan(struct plan *p, uint64_t number_)
{
    uint64_t d = mix(number_ + 77);
    *p = (struct plan){.draw = number_, .seed = mix(number_ + 5)};
    p->layers = roll(&d, 1, 3);
    p->kv_heads = roll(&d, 1, 3);
    p->group = roll(&d, 1, 3);
    p->prompt = number_ == 0 ? 1 : roll(&d, 2, number_ % 6 == 1 ? 5 : 400);
    p->prefill = p->prompt - (p->prompt > 1 && roll(&d, 0, 3) == 0);
    p->end = p->prompt + (roll(&d, 0, 2) ? roll(&d, 0, 50) : 0);
    p->tick = number_ % 9 == 2 ? 1 : roll(&d, 8, 90);
    if (p->tick == 1)
        p->prefill = p->prompt = p->end = 60;
    p->chunk = p->tick * (roll(&d, 0, 2) ? 1 : roll(&d, 2, 3));
    p->decode_tick = roll(&d, 0, 1) ? 8 : 1;
    p->tail = roll(&d, 0, 2) ? 0 : roll(&d, 1, 30);
    p->window = roll(&d, 1, 16);
    p->patch = roll(&d, 0, 3) == 0 && p->window <= p->prefill ? p->window : 0;
    p->page = roll(&d, 1, 17);
    p->query_heads = roll(&d, 0, 1);
    p->ties = roll(&d, 0, 3) == 0;
    p->channels = (1u << KV_SCORE_CHANNELS) - 1;
    for (int what = 0; what < KV_WINDOW_LOGITS; what++) /* now and then, masses are of another channel */
        if (kv_channels[what].attention && roll(&d, 0, 7) == 0)
            p->channels &= ~(1u << what);
    int64_t region = p->prefill > p->tail ? p->prefill - p->tail : 0;
    add_ticks(p, 0, region, p->tick, KV_TICK_PREFILL);
    add_ticks(p, region, p->prefill, p->prefill, KV_TICK_PREFILL);
    add_ticks(p, p->prefill, p->end, p->decode_tick, KV_TICK_DECODE);
    int64_t first = roll(&d, 0, p->end - 1), second = roll(&d, 0, p->end - 1);
    p->mark[0] = (struct kv_mark){"needle", first, roll(&d, first, p->end - 1) + 1};
    p->mark[1] = (struct kv_mark){"second", second, second + 1};
}

/* A SPEC of the kind, as far as the plan goes; what it cannot support is left for replay to refuse. */
static const char *draw_spec(const struct fixture *f, const struct plan *p, const struct kv_kind *k, uint64_t *d,
                             struct kv_arena *a)
{
    static const char *const whens[] = {"chunk", "postfill", "chunk+decode", "decode"};
    static const unsigned ats[] = {KV_AT_CHUNK, KV_AT_POSTFILL, KV_AT_CHUNK | KV_AT_DECODE, KV_AT_DECODE};
    const struct kv_law *law = k->law;
    if (!strcmp(law->name, "all"))
        return k->name;
    const char *text = kv_format(a, "%s:sink_size=%d,recent_size=%d,window_size=%lld", k->name, (int)roll(d, 0, 5),
                                 (int)roll(d, 0, 20), (long long)p->window);
    if (!strcmp(law->name, "mask"))
        text = kv_format(a, "%s,sparsity=%d%%", text, (int)roll(d, 0, 100));
    else if (law->budget & KV_BUDGET_TOKENS && roll(d, 0, 2) == 0)
        text = kv_format(a, "%s,tokens=%d", text, (int)roll(d, 40, 200));
    else if (law->budget & KV_BUDGET_SHARE)
        text = kv_format(a, "%s,keep=%d%%", text, (int)roll(d, 1, 80));
    if (!strcmp(law->name, "heads"))
        text = kv_format(a, "%s,head_scores=%s", text, f->heads);
    else if (!strcmp(law->name, "growing"))
        text = kv_format(a, "%s,stabilizers=%d,local_len=%d", text, (int)roll(d, 0, 40), (int)p->tail);
    else if (!strncmp(k->name, "l2", 2))
        text = kv_format(a, "%s,skip_layers=%d", text, (int)roll(d, 0, 1));
    int64_t i = roll(d, 0, 3);
    const char *patch =
        ats[i] & KV_AT_CHUNK && p->patch && k->score->window ? kv_format(a, ",patch=%d", (int)p->patch) : "";
    if (law->budget && !(ats[i] & ~law->at))
        text = kv_format(a, "%s,when=%s%s", text, whens[i], patch);
    text = kv_format(a, "%s,every=%d", text,
                     k->score->positional ? (int)roll(d, 1, 9) : (int)(p->decode_tick * roll(d, 1, 2)));
    if (k->score->recipe)
        text = kv_format(a, "%s,pooling=%s,kernel_size=%d,reduce_order=%s", text,
                         (const char *[]){"none", "avg", "max"}[roll(d, 0, 2)], (int)(1 + 2 * roll(d, 0, 3)),
                         roll(d, 0, 1) && p->query_heads ? "pool-first" : "reduce-first");
    if ((k->score->recipe || k->score->observes) && p->query_heads)
        text = kv_format(a, "%s,group_reduce=%s", text, (const char *[]){"mean", "sum", "max"}[roll(d, 0, 2)]);
    if (p->query_heads && roll(d, 0, 3) == 0)
        text = kv_format(a, "%s,store=query-head", text);
    return text;
}

/* ---- the trace ---- */

static bool put_rows(struct kv_trace_writer *w, const struct kv_trace_about *b, const struct plan *p, int channel,
                     int64_t tick, struct kv_err *e)
{
    const struct kv_trace_channel *c = &b->channel[channel];
    int64_t heads = c->streams / p->layers, end = p->at[tick].end, n = 0;
    float *row = malloc(sizeof *row * (size_t)(c->streams * end));
    for (int64_t s = 0; s < c->streams; s++)
        for (int64_t i = kv_channels[c->what].span == KV_SPAN_NEW ? p->at[tick].begin : 0; i < end; i++)
            row[n++] = number(p, (int)c->what, tick, s / heads, s % heads, i);
    bool good = kv_trace_put(w, channel, row, e);
    free(row);
    return good;
}

static void write_trace(const char *path, const struct plan *p, struct kv_arena *a)
{
    struct kv_trace_about b;
    struct kv_trace_writer *w;
    struct kv_err e = {0};
    struct kv_synth_asked like = {.layers = p->layers, .q_heads = p->kv_heads * p->group, .kv_heads = p->kv_heads};
    like.head_dim = HEAD_DIM;
    like.n_prompt = p->prompt;
    like.n_output = p->end > p->prompt ? p->end - p->prompt + 1 : 0;
    like.chunk = like.decode_tick = like.window = p->window;
    like.channels = p->channels;
    like.query_heads = p->query_heads;
    like.encoding = KV_ENC_F32;
    like.n_needles = 2, like.needle = p->mark;
    kv_synth_describe(&like, &b, a);
    b.prefill = p->prefill;
    bool good = kv_trace_create(&w, path, &b, KV_FILTER_NONE, 1, &e);
    for (int64_t t = 0; good && t < p->n_ticks; t++) {
        good = kv_trace_tick(w, &p->at[t], &e);
        for (int c = 0; good && c < b.n_channels; c++)
            good = put_rows(w, &b, p, c, t, &e);
        good = good && kv_trace_commit(w, &e);
    }
    if (!good || !kv_trace_finish(w, &e))
        fail_msg("%s", e.text);
}

/* ---- a cache fed by hand ---- */

struct direct {
    const struct plan *p;
    const char *spec;
    struct kv_model model;
    struct kv_request request;
    struct kv_policy policy;
    struct kv_shape shape;
    struct kv_cache c;
    struct kv_cache_work w;
    double held, kept, inner, later, over; /* sums */
    int64_t n_held, n, n_later, decisions;
    double mark[2][2];
};

#define refuse(d, why) fail_msg("draw %d: %s\n%s", (int)(d)->p->draw, (d)->spec, why)

/* Rows of attention that belong to a lane, and the number of a position in one of them; others have one. */
static int64_t rows_of(const struct direct *d)
{
    return d->p->query_heads ? d->p->kv_heads * d->p->group / d->shape.store_heads : 1;
}

static float entry(const struct direct *d, int what, int64_t tick, int64_t layer, int64_t head, int64_t row, int64_t t)
{
    int64_t per = d->shape.store_heads / d->p->kv_heads;
    bool query = d->p->query_heads && kv_channels[what].attention;
    return number(d->p, what, tick, layer, query ? head * rows_of(d) + row : head / per, t);
}

static void hand_lane(struct direct *d, int64_t tick, int64_t layer, int64_t head, unsigned wants)
{
    const struct kv_tick *at = &d->p->at[tick];
    const uint64_t *set = kv_cache_set(&d->c, layer, head);
    struct kv_lane_in in = {.rows = 1};
    float *made = calloc((size_t)(KV_SCORE_CHANNELS * rows_of(d) * at->end), sizeof *made), *out = made;
    for (int k = 0; k < KV_SCORE_CHANNELS; k++) {
        int64_t rows = kv_channels[k].attention ? rows_of(d) : 1;
        if (!(wants & KV_BIT(k)))
            continue;
        in.rows = rows > in.rows ? (int)rows : in.rows;
        in.channel[k] = out;
        in.stride[k] = at->end;
        for (int64_t row = 0; row < rows; row++) {
            int64_t n = 0;
            for (int64_t t = kv_channels[k].span == KV_SPAN_NEW ? at->begin : 0; t < at->end; t++)
                if (kv_set_has(set, t))
                    out[row * at->end + n++] = entry(d, k, tick, layer, head, row, t);
        }
        out += rows * at->end;
    }
    kv_cache_lane(&d->c, layer, head, &in, &d->w);
    free(made);
}

struct ranked {
    float score;
    int at;
};

static int by_rank(const void *a_, const void *b_)
{
    const struct ranked *a = a_, *b = b_;
    return a->score != b->score ? (a->score < b->score) - (a->score > b->score) : a->at - b->at;
}

/* Of the positions of `set` (NULL: all) within [from, to). */
static double mass_of(const struct direct *d, int what, int64_t tick, int64_t layer, int64_t head, const uint64_t *set,
                      int64_t from, int64_t to)
{
    double sum = 0;
    for (int64_t t = from; t < to; t++)
        for (int64_t row = 0; row < rows_of(d) && (!set || kv_set_has(set, t)); row++)
            sum += (double)entry(d, what, tick, layer, head, row, t);
    return sum;
}

static double overlap_of(const struct direct *d, int64_t tick, int64_t layer, int64_t head, const uint64_t *set,
                         int64_t held)
{
    struct ranked all[MOST_END];
    int64_t end = d->p->at[tick].end, both = 0;
    for (int64_t t = 0; t < end; t++) {
        all[t] = (struct ranked){0, (int)t};
        for (int64_t row = 0; row < rows_of(d); row++)
            all[t].score += entry(d, KV_LATER_SUM, tick, layer, head, row, t);
    }
    qsort(all, (size_t)end, sizeof *all, by_rank);
    for (int64_t i = 0; i < held; i++)
        both += kv_set_has(set, all[i].at);
    return held ? (double)both / (double)held : 1;
}

static void measure(struct direct *d, int64_t tick, int64_t layer, int64_t head, const uint64_t *before)
{
    static const int order[] = {KV_COLUMN_SUM, KV_WINDOW_SEEN, KV_LAST_ROW};
    const struct plan *p = d->p;
    int64_t end = p->at[tick].end, from = end < 4 ? end : 4, to = end - 64 > from ? end - 64 : from;
    const uint64_t *set = kv_cache_set(&d->c, layer, head);
    bool left = kv_set_count(before, end) != kv_set_count(set, end);
    int what = -1;
    for (int i = 2; i >= 0; i--)
        what = p->channels >> order[i] & 1 ? order[i] : what;
    d->decisions += left;
    if (what >= 0) { /* rows of numbers above 0, but where ties are wanted */
        double all = mass_of(d, what, tick, layer, head, NULL, 0, end);
        double middle = mass_of(d, what, tick, layer, head, NULL, from, to);
        d->n_held++;
        d->held += all > 0 ? mass_of(d, what, tick, layer, head, before, 0, end) / all : 1;
        d->n += left;
        d->kept += !left ? 0 : all > 0 ? mass_of(d, what, tick, layer, head, set, 0, end) / all : 1;
        d->inner += !left ? 0 : middle > 0 ? mass_of(d, what, tick, layer, head, set, from, to) / middle : 1;
    }
    double later = p->channels >> KV_LATER_SUM & 1 ? mass_of(d, KV_LATER_SUM, tick, layer, head, NULL, 0, end) : 0;
    if (left && later > 0) {
        d->n_later++;
        d->later += mass_of(d, KV_LATER_SUM, tick, layer, head, set, 0, end) / later;
        d->over += overlap_of(d, tick, layer, head, set, kv_set_count(set, end));
    }
}

static void run_layers(struct direct *d, int64_t tick, bool recorded)
{
    int64_t heads = d->shape.store_heads, words = kv_words(d->p->end);
    uint64_t before[heads * words];
    for (int64_t layer = 0; layer < d->shape.layers; layer++) {
        unsigned wants = recorded ? kv_cache_wants(&d->c, layer) : 0;
        for (int64_t head = 0; head < heads; head++) {
            memcpy(before + head * words, kv_cache_set(&d->c, layer, head), sizeof *before * (size_t)words);
            if (wants)
                hand_lane(d, tick, layer, head, wants);
        }
        kv_cache_layer(&d->c, layer, &d->w);
        for (int64_t head = 0; head < heads && recorded; head++)
            measure(d, tick, layer, head, before + head * words);
    }
}

static void look_at_marks(struct direct *d, int when)
{
    int64_t heads = d->shape.store_heads;
    for (int m = 0; m < 2; m++) {
        const struct kv_mark *mark = &d->p->mark[m];
        int64_t held = 0;
        for (int64_t i = 0; i < d->c.lanes; i++)
            for (int64_t t = mark->begin; t < mark->end && t < d->c.seen; t++)
                held += kv_set_has(kv_cache_set(&d->c, i / heads, i % heads), t);
        d->mark[m][when] = (double)held / (double)((mark->end - mark->begin) * d->c.lanes);
    }
}

/* Passes of a tick: those of the policy, cut at its end; only the last one knows scores. */
static void run_tick(struct direct *d, int64_t tick)
{
    struct kv_err e = {0};
    struct kv_pass pass;
    int64_t end = d->p->at[tick].end;
    while (d->c.seen < end && kv_cache_next(&d->c, INT64_MAX, &pass)) {
        int64_t over = pass.seen + pass.n_new - end;
        if (over > 0) {
            pass.n_new -= over;
            pass.n_unit -= over;
            pass.n_patch = 0;
            pass.evict = pass.last = false;
        }
        bool recorded = pass.seen + pass.n_new == end;
        KV_ASSERT(kv_cache_begin(&d->c, &pass, 1, &e));
        if (recorded || pass.evict)
            run_layers(d, tick, recorded);
        kv_cache_end(&d->c);
    }
    if (end == d->p->prefill)
        look_at_marks(d, 0);
}

static void open_direct(struct direct *d, const struct plan *p, const char *spec, bool in_place, struct kv_arena *a)
{
    struct kv_err e = {0};
    struct kv_defaults run = {.chunk = p->chunk, .dtype = KV_BF16};
    *d = (struct direct){.p = p, .spec = spec};
    d->model = (struct kv_model){.layers = p->layers, .q_heads = p->kv_heads * p->group, .kv_heads = p->kv_heads};
    d->model.head_dim = HEAD_DIM;
    d->request = (struct kv_request){
        .prompt = p->prompt, .prefill = p->prefill, .output = p->end >= p->prompt ? p->end - p->prompt + 1 : 0};
    if (!kv_policy_from_spec(&d->policy, spec, a, &e) ||
        !kv_policy_prepare(&d->policy, &d->model, &run, &d->shape, a, &e) ||
        !kv_cache_open(&d->c, &d->policy, &d->shape, &d->request, p->page, in_place, a, &e) ||
        !kv_cache_work_open(&d->w, p->end, (int)d->shape.store_heads, &e))
        refuse(d, e.text);
}

static void same(const struct direct *d, const char *what, double got, double wanted, double within)
{
    char text[200];
    snprintf(text, sizeof text, "%s: %.17g, expected %.17g", what, got, wanted);
    if (isnan(got) != isnan(wanted) || fabs(got - wanted) > within)
        refuse(d, text);
}

static char *csv_of(const struct kv_replay *r, struct kv_arena *a)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    kv_replay_csv(r, out, a);
    fclose(out);
    char *copy = kv_copy_part(a, text, size);
    free(text);
    return copy;
}

/* The table, with this count in place of what a run made: the same text. What only one of them knows is left out. */
static void compare_counts(const struct direct *d, struct kv_replay *r, struct kv_replay_run *run, struct kv_count *own,
                           struct kv_arena *a)
{
    struct kv_count was = run->count;
    for (int layout = 0; layout < KV_LAYOUTS; layout++)
        if (was.pages_end[layout][KV_IN_PLACE] < 0 || own->pages_end[layout][KV_IN_PLACE] < 0) {
            memcpy(own->pages[layout][KV_IN_PLACE], was.pages[layout][KV_IN_PLACE], sizeof was.pages[0][0]);
            own->pages_end[layout][KV_IN_PLACE] = was.pages_end[layout][KV_IN_PLACE];
            own->returned[layout][KV_IN_PLACE] = was.returned[layout][KV_IN_PLACE];
        }
    char *got = csv_of(r, a);
    run->count = *own;
    char *wanted = csv_of(r, a);
    run->count = was;
    if (strcmp(got, wanted) != 0)
        refuse(d, kv_format(a, "got\n%s\nexpected\n%s", got, wanted));
}

/* Lengths alone, in whole where passes are the same; lanes that share a budget are not known from them. */
static void compare_lengths(const struct direct *d, struct kv_replay *r, struct kv_replay_run *run, struct kv_arena *a)
{
    const struct plan *p = d->p;
    struct kv_policy policy;
    struct kv_counter c;
    struct kv_count count;
    struct kv_err e = {0};
    struct kv_defaults defaults = {.chunk = p->chunk, .dtype = KV_BF16, .limit = p->chunk > p->tick ? p->tick : 0};
    if (d->policy.law->share)
        return;
    if (!kv_policy_from_spec(&policy, d->spec, a, &e) ||
        !kv_counter_open(&c, &policy, &d->model, &defaults, p->page, a, &e) ||
        !kv_counter_run(&c, &d->request, &count, &e))
        refuse(d, e.text);
    same(d, "footprint", run->count.footprint_actual, count.footprint_actual, 0);
    same(d, "bytes at the end", (double)run->count.held_end, (double)count.held_end, 0);
    if (!(defaults.limit && p->patch) && (!p->tail || (p->tail == d->policy.when.tail && !defaults.limit)))
        compare_counts(d, r, run, &count, a);
}

static void compare_run(struct direct *d, struct kv_replay *r, struct kv_replay_run *run, struct kv_arena *a)
{
    struct kv_count count;
    int64_t heads = d->shape.store_heads, ties = 0;
    for (int64_t i = 0; i < d->c.lanes; i++) {
        const uint64_t *got = kv_cache_set(&run->cache, i / heads, i % heads);
        const uint64_t *wanted = kv_cache_set(&d->c, i / heads, i % heads);
        ties += d->c.lane[i].ties;
        if (memcmp(got, wanted, sizeof *got * (size_t)kv_words(d->p->end)))
            refuse(d, kv_format(a, "layer %d, head %d: another set is kept", (int)(i / heads), (int)(i % heads)));
    }
    kv_count_read(&count, &d->c.ledger, &d->request);
    compare_counts(d, r, run, &count, a);
    compare_lengths(d, r, run, a);
    same(d, "ties", (double)run->ties, (double)ties, 0);
    same(d, "decisions", (double)run->decisions, (double)d->decisions, 0);
    for (int m = 0; m < 4; m++)
        same(d, "a mark", run->mark[m], d->mark[m / 2][m % 2], 0);
    bool nothing_left = !d->n && d->n_held, later = d->p->channels >> KV_LATER_SUM & 1;
    same(d, "mass held", run->mass_held, d->n_held ? d->held / (double)d->n_held : NAN, 1e-9);
    same(d, "mass kept", run->mass_kept, nothing_left ? 1 : d->n ? d->kept / (double)d->n : NAN, 1e-9);
    same(d, "mass kept inside", run->mass_inner, nothing_left ? 1 : d->n ? d->inner / (double)d->n : NAN, 1e-9);
    if (d->n_later || later)
        same(d, "later mass", run->mass_later, nothing_left ? 1 : d->later / (double)d->n_later, 1e-9);
    same(d, "overlap", run->overlap, d->n_later ? d->over / (double)d->n_later : NAN, 1e-9);
}

static void open_replay(struct kv_replay *r, const struct fixture *f, const struct plan *p, int threads, bool in_place,
                        struct kv_arena *a)
{
    static struct kv_err e;
    struct kv_replay_asked asked = {.page = p->page, .in_place = in_place, .mass_sinks = 4, .mass_recents = 64};
    asked.threads = threads;
    asked.quiet = true;
    asked.run = (struct kv_defaults){.chunk = p->chunk, .dtype = KV_BF16};
    KV_ASSERT(kv_replay_open(r, f->path, &asked, a, &e));
    r->run = KV_NEW_N(a, struct kv_replay_run, MOST_SPECS);
}

static bool add(struct kv_replay *r, const char *spec, struct kv_arena *a, struct kv_err *e)
{
    struct kv_policy policy;
    return kv_policy_from_spec(&policy, spec, a, e) && kv_replay_add(r, &policy, a, e);
}

/* The same runs, or one of them alone, on so many threads and that path of the arithmetic: the same text. */
static void compare_again(const struct fixture *f, const struct plan *p, const char **spec, int n, int threads,
                          const char *simd, bool in_place, const char *wanted)
{
    struct kv_arena *a = kv_arena_open();
    struct kv_replay r;
    struct kv_err e = {0};
    bool good = !setenv("KVSIM_SIMD", simd, 1); /* one this machine lacks: the widest it has */
    open_replay(&r, f, p, threads, in_place, a);
    for (int i = 0; i < n && good; i++)
        good = add(&r, spec[i], a, &e);
    if (!good || !kv_replay_run(&r, a, &e))
        fail_msg("%s", e.text);
    char *text = csv_of(&r, a), *row = strchr(text, '\n') + 1;
    if (n == 1 ? !strstr(wanted, row) : strcmp(text, wanted) != 0)
        fail_msg("draw %d, %d policies, %d threads, %s:\n%s\nexpected\n%s", (int)p->draw, n, threads, simd, text,
                 wanted);
    unsetenv("KVSIM_SIMD");
    kv_replay_close(&r);
    kv_arena_close(a);
}

static void check_draw(struct fixture *f, uint64_t draw)
{
    static const char *const simds[] = {"portable", "avx2", "avx512"};
    struct kv_arena *a = kv_arena_open();
    struct plan p;
    struct kv_replay r;
    struct kv_err e;
    const char *spec[MOST_SPECS];
    uint64_t dice = draw;
    draw_plan(&p, draw);
    write_trace(f->path, &p, a);
    FILE *heads = fopen(f->heads, "w");
    for (int64_t i = 0; i < p.layers * p.kv_heads; i++)
        fprintf(heads, "%g%c", (double)roll(&dice, 1, 9) / 10, (i + 1) % p.kv_heads ? '\t' : '\n');
    fclose(heads);
    bool in_place = draw % 2;
    open_replay(&r, f, &p, 1 + (int)draw % 3, in_place, a);
    for (int k = 0; kv_kinds[k]; k++) {
        const char *text = draw_spec(f, &p, kv_kinds[k], &dice, a);
        e = (struct kv_err){0};
        if (add(&r, text, a, &e)) {
            spec[r.n_runs - 1] = text;
            f->ran[k]++;
        } else if (e.status != KV_USAGE || e.n != 1 || !strstr(e.text, kv_kinds[k]->name)) {
            fail_msg("%s: status %d, %d messages: %s", text, (int)e.status, e.n, e.text);
        }
    }
    KV_ASSERT(kv_replay_run(&r, a, &(struct kv_err){0}));
    char *table = csv_of(&r, a);
    for (int i = 0; i < r.n_runs; i++) {
        struct direct d;
        open_direct(&d, &p, spec[i], in_place, a);
        for (int64_t tick = 0; tick < p.n_ticks; tick++)
            run_tick(&d, tick);
        look_at_marks(&d, 1);
        compare_run(&d, &r, &r.run[i], a);
        kv_cache_work_close(&d.w);
        kv_cache_close(&d.c);
    }
    compare_again(f, &p, spec, r.n_runs, 1 + (int)(draw % 5), simds[draw % 3], in_place, table);
    compare_again(f, &p, spec + draw % (uint64_t)r.n_runs, 1, 2, simds[(draw + 1) % 3], in_place, table);
    kv_replay_close(&r);
    kv_arena_close(a);
}

static void every_kind_keeps_what_it_should(void **state)
{
    struct fixture *f = *state;
    for (uint64_t draw = 0; draw < DRAWS; draw++)
        check_draw(f, draw);
    for (int k = 0; kv_kinds[k]; k++)
        if (f->ran[k] < 4)
            fail_msg("'%s' was replayed %d times only", kv_kinds[k]->name, f->ran[k]);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    const char *tmp = getenv("KV_TMP") ? getenv("KV_TMP") : "/tmp";
    snprintf(f->path, sizeof f->path, "%s/replay-%ld.kvt.h5", tmp, (long)getpid());
    snprintf(f->heads, sizeof f->heads, "%s/replay-%ld.tsv", tmp, (long)getpid());
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    unlink(f->path);
    unlink(f->heads);
    free(f);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_keeps_what_it_should),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
