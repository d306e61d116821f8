/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What made-up heads are like, by the measures that recorded ones were described with. */
#include "sim/core/select.h"
#include "sim/synth.h"
#include "sim/team.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

struct lane_facts {
    double entropy, top, sinks, overlap;
};

struct bench {
    float *row, *later;
    uint64_t *mask, *other;
    struct kv_top_work top;
};

struct measuring {
    const struct kv_synth *s;
    struct kv_synth_shape window, later;
    int64_t streams, n;
    struct lane_facts *lane;
    struct bench *bench; /* (members,) */
    atomic_llong next;
};

static double entropy_of(const float *row, int64_t n, double sum)
{
    double bits = 0;
    for (int64_t j = 0; j < n; j++)
        if (row[j] > 0)
            bits -= (double)row[j] / sum * log2((double)row[j] / sum);
    return bits;
}

static struct lane_facts measure(const struct measuring *m, int64_t stream, struct bench *b)
{
    const struct kv_select *select = kv_select_best();
    struct lane_facts f = {.overlap = NAN};
    int64_t n = m->n, tenth = (n + 9) / 10, some = n * 3 / 10;
    kv_synth_row(m->s, &m->window, stream, b->row);
    double sum = select->sum(b->row, NULL, n);
    f.entropy = entropy_of(b->row, n, sum);
    select->top(b->row, n, tenth, b->mask, &b->top);
    f.top = select->sum(b->row, b->mask, n) / sum;
    f.sinks = select->sum(b->row, NULL, n < 4 ? n : 4) / sum;
    if (!(m->later.queries > 0) || !some)
        return f;
    kv_synth_row(m->s, &m->later, stream, b->later);
    select->top(b->row, n, some, b->mask, &b->top);
    select->top(b->later, n, some, b->other, &b->top);
    f.overlap = (double)kv_set_common(b->mask, b->other, n) / (double)some;
    return f;
}

static void measure_lanes(void *measuring, int member)
{
    struct measuring *m = measuring;
    for (int64_t i; (i = atomic_fetch_add(&m->next, 1)) < m->streams;)
        m->lane[i] = measure(m, i, &m->bench[member]);
}

static bool open_bench(struct bench *b, int64_t n, struct kv_err *e)
{
    size_t room = (size_t)n + KV_SLACK, words = (size_t)kv_words(n) + 1;
    *b = (struct bench){.row = malloc(room * sizeof *b->row),
                        .later = malloc(room * sizeof *b->later),
                        .mask = malloc(words * sizeof *b->mask),
                        .other = malloc(words * sizeof *b->other),
                        .top = {malloc(4 * 4096 * sizeof(uint32_t)), malloc(room * sizeof(uint32_t)), n}};
    return (b->row && b->later && b->mask && b->other && b->top.histogram && b->top.boundary) ||
           kv_fail(e, KV_ENV, "no memory to look at rows of %lld numbers", (long long)n);
}

static void close_bench(struct bench *b)
{
    free(b->row);
    free(b->later);
    free(b->mask);
    free(b->other);
    free(b->top.histogram);
    free(b->top.boundary);
}

/* In order of lane, whoever measured it. */
static void sum_up(const struct measuring *m, struct kv_synth_facts facts[KV_HEAD_KINDS])
{
    const struct kv_trace_about *b = kv_synth_about(m->s);
    int64_t lanes = b->layers * b->kv_heads, group = m->streams / lanes;
    for (int i = 0; i < KV_HEAD_KINDS; i++)
        facts[i] = (struct kv_synth_facts){.entropy_least = INFINITY, .top_least = INFINITY};
    for (int64_t i = 0; i < m->streams; i++) {
        struct kv_synth_facts *f = &facts[kv_synth_kind(m->s, i / group / b->kv_heads, i / group % b->kv_heads)];
        const struct lane_facts *l = &m->lane[i];
        f->lanes++;
        f->entropy += l->entropy;
        f->entropy_least = fmin(f->entropy_least, l->entropy);
        f->entropy_most = fmax(f->entropy_most, l->entropy);
        f->top += l->top;
        f->top_least = fmin(f->top_least, l->top);
        f->top_most = fmax(f->top_most, l->top);
        f->sinks += l->sinks;
        f->overlap += l->overlap;
    }
    for (int i = 0; i < KV_HEAD_KINDS; i++) {
        struct kv_synth_facts *f = &facts[i];
        double n = (double)f->lanes;
        if (!f->lanes)
            f->entropy_least = f->entropy_most = f->top_least = f->top_most = NAN;
        f->entropy /= n; /* NaN where there are none */
        f->top /= n;
        f->sinks /= n;
        f->overlap /= n;
    }
}

bool kv_synth_facts(const struct kv_synth *s, int threads, struct kv_synth_facts facts[KV_HEAD_KINDS],
                    struct kv_arena *a, struct kv_err *e)
{
    const struct kv_trace_about *b = kv_synth_about(s);
    int64_t tick = 0;
    while (b->tick[tick].end < b->n_prompt)
        tick++;
    struct kv_team *team = kv_team_open(threads, a);
    int members = kv_team_members(team);
    struct measuring m = {.s = s, .n = b->tick[tick].end};
    m.streams = kv_synth_streams(kv_synth_what(s), KV_WINDOW_SEEN);
    m.bench = KV_NEW_N(a, struct bench, members);
    bool good = kv_synth_shape_open(s, &m.window, e) && kv_synth_shape_open(s, &m.later, e);
    good = good && (m.lane = kv_alloc_many(a, (size_t)m.streams, sizeof *m.lane, "lanes", e)) != NULL;
    for (int i = 0; good && i < members; i++)
        good = open_bench(&m.bench[i], m.n, e);
    if (good) {
        kv_synth_turn(s, &m.window, KV_WINDOW_SEEN, tick);
        kv_synth_turn(s, &m.later, KV_LATER_SUM, tick);
        kv_team_run(team, measure_lanes, &m);
        sum_up(&m, facts);
    }
    kv_team_close(team);
    for (int i = 0; i < members; i++)
        close_bench(&m.bench[i]);
    kv_synth_shape_close(&m.window);
    kv_synth_shape_close(&m.later);
    return good;
}
