/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Which recorded channel serves a policy, and traces that are exact: keys, values and logits of the full cache, and
 * what was recorded with the policy on (closed loop). Both must give the sets of a cache that is fed by hand with
 * softmaxes and scores over what is still held. */
#include "sim/core/produce.h"
#include "sim/replay.h"
#include "sim/synth.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { LAYERS = 2, KV_HEADS = 2, GROUP = 2, DIM = 8, PROMPT = 150, END = 166, TICK = 48, WINDOW = 6, DECODE = 4 };

struct fixture {
    char open[256], closed[256];
    struct kv_arena *a;
    struct kv_err e;
};

/* ---- numbers ---- */

static float number(int what, int64_t layer, int64_t head, int64_t i)
{
    uint64_t x = (uint64_t)what * 31 + 1;
    int64_t of[] = {layer, head, i};
    for (int k = 0; k < 3; k++) {
        x = (x + (uint64_t)of[k] + 1) * UINT64_C(0x9e3779b97f4a7c15);
        x ^= x >> 29;
    }
    return (float)((double)(x >> 11) * 0x1p-52 - 1);
}

/* Of the query at token `query`. */
static float logit(int64_t layer, int64_t head, int64_t query, int64_t i)
{
    return i > query || query < 0 ? -INFINITY : 8 * number(KV_WINDOW_LOGITS, layer, head, query * 1000 + i);
}

static struct kv_tick tick_at(int64_t t)
{
    int64_t n = (PROMPT + TICK - 1) / TICK, begin = t < n ? t * TICK : PROMPT + (t - n) * DECODE;
    int64_t end = t < n ? (begin + TICK < PROMPT ? begin + TICK : PROMPT) : begin + DECODE;
    return (struct kv_tick){t < n ? KV_TICK_PREFILL : KV_TICK_DECODE, begin, end, 0, -1, -1, -1};
}
enum { TICKS = (PROMPT + TICK - 1) / TICK + (END - PROMPT) / DECODE };

/* A row of a channel over `n` positions of a lane, from logits, keys and values; false: it is not made of them. */
static bool make_row(int what, int64_t layer, int64_t q_head, int64_t end, int64_t w, const int64_t *at, int64_t n,
                     float *out)
{
    double work[2 * END + 4 * DIM + 1024];
    float x[2][END * DIM];
    for (int64_t i = 0; i < n * DIM; i++)
        for (int k = 0; k < 2; k++)
            x[k][i] = number(k ? KV_VALUES : KV_KEYS, layer, q_head / GROUP, at[i / DIM] * DIM + i % DIM);
    if (what == KV_KEY_NORM || what == KV_VALUE_NORM) {
        kv_make_norms(x[what == KV_VALUE_NORM], n, DIM, out);
    } else if (what == KV_KEY_COSINE) {
        kv_make_cosines(x[0], n, DIM, work, out);
    } else if (what == KV_LAG) {
        kv_make_lag(x[0], x[1], n, DIM, 4, 128, work, out);
    } else if (what == KV_WINDOW_LOCAL || what == KV_WINDOW_SEEN || what == KV_LAST_ROW) {
        float logits[WINDOW * END];
        w = what == KV_LAST_ROW ? 1 : w;
        for (int64_t i = 0; i < w * n; i++)
            logits[i] = logit(layer, q_head, end - w + i / n, at[i % n]);
        kv_make_attention(logits, w, n, work, out);
    } else {
        return false;
    }
    return true;
}

/* ---- traces ---- */

static void describe(struct kv_trace_about *b, const char *policy, unsigned channels, struct kv_arena *a)
{
    struct kv_synth_asked like = {.layers = LAYERS, .q_heads = KV_HEADS * GROUP, .kv_heads = KV_HEADS, .head_dim = DIM};
    like.n_prompt = PROMPT;
    like.n_output = END - PROMPT + 1;
    like.chunk = TICK;
    like.decode_tick = DECODE;
    like.window = WINDOW;
    like.query_heads = true;
    like.encoding = KV_ENC_F32;
    like.channels = channels & ((1u << KV_SCORE_CHANNELS) - 1);
    kv_synth_describe(&like, b, a);
    struct kv_trace_channel *all = KV_NEW_N(a, struct kv_trace_channel, KV_CHANNELS);
    for (int i = 0; i < b->n_channels; i++)
        all[i] = b->channel[i];
    for (int what = KV_WINDOW_LOGITS; what < KV_CHANNELS; what++) {
        struct kv_trace_channel *c = &all[b->n_channels];
        if (!(channels >> what & 1))
            continue;
        *c = (struct kv_trace_channel){
            .what = (enum kv_channel)what, .name = kv_channels[what].name, .precision = "f32"};
        c->query_heads = what == KV_WINDOW_LOGITS;
        c->window = c->query_heads ? WINDOW : 0;
        c->rows = c->query_heads ? WINDOW : 1;
        c->elements = c->query_heads ? 1 : DIM;
        c->encoding = KV_ENC_F32;
        c->streams = LAYERS * (c->query_heads ? KV_HEADS * GROUP : KV_HEADS) * c->rows;
        b->n_channels++;
    }
    for (int i = 0; i < b->n_channels; i++) {
        all[i].under = policy;
        all[i].ragged =
            strcmp(policy, "full") != 0 && kv_channels[all[i].what].attention && all[i].what != KV_WINDOW_LOCAL;
    }
    b->channel = all;
    b->policy = policy;
}

/* Rows of a channel, as they are recorded; ragged ones over what the lanes of `cache` hold. */
static void put_rows(struct kv_trace_writer *w, const struct kv_trace_channel *c, int channel, int64_t tick,
                     struct kv_cache *cache, struct kv_err *e)
{
    struct kv_tick t = tick_at(tick);
    int64_t heads = c->streams / c->rows / LAYERS, n = 0, at[END];
    float *row = malloc(sizeof *row * (size_t)(c->streams * t.end * c->elements + END));
    for (int64_t s = 0; s < c->streams; s++) {
        int64_t layer = s / c->rows / heads, head = s / c->rows % heads, m = 0;
        const uint64_t *set = c->ragged ? kv_cache_set(cache, layer, head * cache->shape->store_heads / heads) : NULL;
        for (int64_t i = kv_channels[c->what].span == KV_SPAN_NEW && !set ? t.begin : 0; i < t.end; i++)
            if (!set || kv_set_has(set, i))
                at[m++] = i;
        if (c->what >= KV_WINDOW_LOGITS)
            for (int64_t i = 0; i < m * c->elements; i++)
                row[n + i] = c->query_heads ? logit(layer, head, t.end - WINDOW + s % WINDOW, at[i])
                                            : number((int)c->what, layer, head, at[i / DIM] * DIM + i % DIM);
        else if (!make_row((int)c->what, layer, c->query_heads ? head : head * GROUP, t.end, WINDOW, at, m, row + n))
            fail_msg("channel %s", c->name);
        n += m * c->elements;
    }
    assert_true(kv_trace_put(w, channel, row, e));
    free(row);
}

static void put_lanes(struct kv_trace_writer *w, struct kv_cache *c, int64_t end, bool kept, bool tampered)
{
    struct kv_err e = {0};
    int64_t length[LAYERS * KV_HEADS * GROUP] = {0}, n = 0, heads = c->shape->store_heads;
    int32_t position[LAYERS * KV_HEADS * GROUP * END];
    for (int64_t i = 0; i < c->lanes; i++)
        for (int64_t t = 0; t < end; t++)
            if (kv_set_has(kv_cache_set(c, i / heads, i % heads), t)) {
                position[n++] = (int32_t)t;
                length[i]++;
            }
    length[c->lanes - 1] -= tampered;
    assert_true(kept ? kv_trace_put_kept(w, length, position, &e) : kv_trace_put_slots(w, length, position, &e));
}

/* Of ticks from `keys` on, all but logits is left out. */
static void write_open(struct fixture *f, unsigned channels, int64_t keys)
{
    struct kv_trace_about b;
    struct kv_trace_writer *w;
    describe(&b, "full", channels, f->a);
    assert_true(kv_trace_create(&w, f->open, &b, KV_FILTER_NONE, 1, &f->e));
    for (int64_t t = 0; t < TICKS; t++) {
        struct kv_tick tick = tick_at(t);
        assert_true(kv_trace_tick(w, &tick, &f->e));
        for (int c = 0; c < b.n_channels; c++)
            if (t < keys || b.channel[c].what == KV_WINDOW_LOGITS)
                put_rows(w, &b.channel[c], c, t, NULL, &f->e);
        assert_true(kv_trace_commit(w, &f->e));
    }
    assert_true(kv_trace_finish(w, &f->e));
}

/* ---- a cache fed by hand, recorded as it goes ---- */

struct live {
    struct kv_model model;
    struct kv_policy policy;
    struct kv_shape shape;
    struct kv_cache c;
    struct kv_cache_work w;
};

static void hand_lane(struct live *l, int64_t layer, int64_t head, int64_t end, unsigned wants)
{
    int64_t per = l->shape.store_heads / KV_HEADS, rows = GROUP / per, at[END];
    const uint64_t *set = kv_cache_set(&l->c, layer, head);
    static float made[KV_SCORE_CHANNELS][GROUP * END];
    struct kv_lane_in in = {.rows = 1};
    for (int k = 0; k < KV_SCORE_CHANNELS; k++) {
        int64_t n = 0, own = kv_channels[k].attention ? rows : 1;
        int64_t from = kv_channels[k].span == KV_SPAN_SEEN ? 0
                       : k == KV_WINDOW_LOCAL              ? end - l->c.pass.n_unit
                                                           : l->c.seen;
        for (int64_t t = from; t < end; t++)
            if (kv_set_has(set, t))
                at[n++] = t;
        if (!(wants & KV_BIT(k)))
            continue;
        for (int64_t row = 0; row < own; row++)
            assert_true(make_row(k, layer, per == 1 ? head * GROUP + row : head, end, l->policy.keys.window_size, at, n,
                                 made[k] + row * END));
        in.rows = own > in.rows ? (int)own : in.rows;
        in.channel[k] = made[k];
        in.stride[k] = END;
    }
    kv_cache_lane(&l->c, layer, head, &in, &l->w);
}

static void run_pass(struct live *l, int64_t end)
{
    for (int64_t layer = 0; layer < LAYERS; layer++) {
        unsigned wants = kv_cache_wants(&l->c, layer);
        for (int64_t head = 0; head < l->shape.store_heads && wants; head++)
            hand_lane(l, layer, head, end, wants);
        kv_cache_layer(&l->c, layer, &l->w);
    }
}

/* Runs the policy, and writes what a recorder would: `channels`; at tick `tampered`, kept sets are not what was kept.
 */
static void write_closed(struct fixture *f, struct live *l, const char *spec, unsigned channels, int64_t tampered)
{
    struct kv_request request = {.prompt = PROMPT, .output = END - PROMPT + 1, .prefill = PROMPT};
    struct kv_defaults run = {.chunk = TICK, .dtype = KV_BF16};
    struct kv_trace_about b;
    struct kv_trace_writer *w;
    struct kv_pass pass;
    *l = (struct live){.model = {.layers = LAYERS, .q_heads = KV_HEADS * GROUP, .kv_heads = KV_HEADS, .head_dim = DIM}};
    describe(&b, spec, channels, f->a);
    b.has_kept = true;
    if (!kv_policy_from_spec(&l->policy, spec, f->a, &f->e) ||
        !kv_policy_prepare(&l->policy, &l->model, &run, &l->shape, f->a, &f->e) ||
        !kv_cache_open(&l->c, &l->policy, &l->shape, &request, 16, false, f->a, &f->e) ||
        !kv_cache_work_open(&l->w, END, KV_HEADS * GROUP, &f->e))
        fail_msg("%s", f->e.text);
    b.query_lanes = l->shape.store_heads != KV_HEADS;
    assert_true(kv_trace_create(&w, f->closed, &b, KV_FILTER_NONE, 1, &f->e));
    for (int64_t t = 0; t < TICKS; t++) {
        struct kv_tick tick = tick_at(t);
        assert_true(kv_trace_tick(w, &tick, &f->e));
        while (l->c.seen < tick.end && kv_cache_next(&l->c, INT64_MAX, &pass)) {
            bool last = pass.seen + pass.n_new == tick.end;
            assert_true(kv_cache_begin(&l->c, &pass, 1, &f->e));
            if (last)
                put_lanes(w, &l->c, tick.end, false, false);
            for (int c = 0; c < b.n_channels && last; c++)
                put_rows(w, &b.channel[c], c, t, &l->c, &f->e);
            run_pass(l, pass.seen + pass.n_new);
            if (last)
                put_lanes(w, &l->c, tick.end, true, t == tampered);
            kv_cache_end(&l->c);
        }
        assert_true(kv_trace_commit(w, &f->e));
    }
    assert_true(kv_trace_finish(w, &f->e));
}

static void close_live(struct live *l)
{
    kv_cache_work_close(&l->w);
    kv_cache_close(&l->c);
}

/* ---- replays ---- */

static bool replay(struct fixture *f, struct kv_replay *r, const char *path, const char *spec)
{
    struct kv_replay_asked asked = {.page = 16, .threads = 2, .quiet = true, .run = {.chunk = TICK, .dtype = KV_BF16}};
    struct kv_policy policy;
    f->e = (struct kv_err){0};
    *r = (struct kv_replay){0};
    if (!kv_replay_open(r, path, &asked, f->a, &f->e))
        return false;
    r->run = KV_NEW(f->a, struct kv_replay_run);
    return kv_policy_from_spec(&policy, spec, f->a, &f->e) && kv_replay_add(r, &policy, f->a, &f->e) &&
           kv_replay_run(r, f->a, &f->e);
}

static void compare(struct live *l, struct kv_replay *r, const char *what, const char *spec)
{
    for (int64_t i = 0; i < l->c.lanes; i++) {
        int64_t layer = i / l->shape.store_heads, head = i % l->shape.store_heads;
        if (memcmp(kv_cache_set(&l->c, layer, head), kv_cache_set(&r->run->cache, layer, head),
                   8 * (size_t)kv_words(END)))
            fail_msg("%s, %s: layer %d, head %d keeps another set", what, spec, (int)layer, (int)head);
    }
    if (r->run->differs || r->run->approximate)
        fail_msg("%s, %s: %d sets differ, %d decisions are approximate", what, spec, (int)r->run->differs,
                 (int)r->run->approximate);
}

#define LOGITS  (1u << KV_WINDOW_LOGITS)
#define ALL_RAW (LOGITS | 1u << KV_KEYS | 1u << KV_VALUES)
static const struct {
    const char *spec;
    unsigned channels; /* recorded in closed loop */
} exact[] = {
    {"snapkv:keep=30%,window_size=6", 1u << KV_WINDOW_LOCAL},
    {"snapkv:keep=30%,window_size=4", LOGITS},
    {"snapkv:law=fixed,keep=20%,window_size=6,when=chunk+decode,every=4", 1u << KV_WINDOW_SEEN},
    {"snapkv:law=fixed,keep=20%,window_size=6,when=chunk+decode,every=4,store=query-head", 1u << KV_WINDOW_SEEN},
    {"snapkv:law=fixed,keep=20%,window_size=3,group_reduce=max,pooling=max", LOGITS},
    {"adakv:keep=25%,window_size=6", 1u << KV_WINDOW_SEEN},
    {"tova:tokens=40,every=4", 1u << KV_LAST_ROW},
    {"tova:tokens=40,every=4,recent_size=3", LOGITS},
    {"l2:tokens=70,every=4,skip_layers=0", 1u << KV_KEY_NORM},
    {"cur:tokens=40,when=chunk+decode,every=4", 1u << KV_KEY_NORM | 1u << KV_VALUE_NORM},
    {"cur:tokens=40,when=chunk+decode,every=4,sink_size=2", 1u << KV_KEYS | 1u << KV_VALUES},
    {"keydiff:tokens=40,when=chunk+decode,every=4", 1u << KV_KEYS},
    {"lagkv:keep=30%,when=chunk+decode,every=4", 1u << KV_KEYS | 1u << KV_VALUES},
    {"streaming:tokens=40,sink_size=4,recent_size=20", 0},
};

static void exact_traces_give_exact_sets(void **state)
{
    struct fixture *f = *state;
    for (size_t i = 0; i < sizeof exact / sizeof *exact; i++) {
        struct live l;
        struct kv_replay r;
        write_closed(f, &l, exact[i].spec, exact[i].channels, -1);
        if (!replay(f, &r, f->closed, exact[i].spec))
            fail_msg("closed loop, %s: %s", exact[i].spec, f->e.text);
        assert_true(r.closed && r.about.has_kept);
        compare(&l, &r, "closed loop", exact[i].spec);
        kv_replay_close(&r);
        write_open(f, ALL_RAW, TICKS);
        if (!replay(f, &r, f->open, exact[i].spec))
            fail_msg("keys, values and logits, %s: %s", exact[i].spec, f->e.text);
        compare(&l, &r, "keys, values and logits", exact[i].spec);
        kv_replay_close(&r);
        close_live(&l);
    }
}

static void what_was_tampered_with_is_found(void **state)
{
    struct fixture *f = *state;
    const char *spec = exact[2].spec;
    struct live l;
    struct kv_replay r;
    for (int64_t t = 0; t < TICKS; t++) {
        write_closed(f, &l, spec, exact[2].channels, t);
        assert_true(replay(f, &r, f->closed, spec));
        if (r.run->differs != 1)
            fail_msg("kept sets of tick %d are not what was kept; %d differ, expected 1", (int)t, (int)r.run->differs);
        kv_replay_close(&r);
        close_live(&l);
    }
}

static void refused(struct fixture *f, const char *path, const char *spec, enum kv_status status, const char *message)
{
    struct kv_replay r;
    bool good = replay(f, &r, path, spec);
    kv_replay_close(&r);
    if (good || f->e.status != status || !strstr(f->e.text, message))
        fail_msg("%s: %s, status %d: %s\nexpected %d: %s", spec, good ? "went well" : "refused", (int)f->e.status,
                 f->e.text, (int)status, message);
}

static void closed_loops_say_nothing_of_others(void **state)
{
    struct fixture *f = *state;
    const char *spec = "snapkv:law=fixed,keep=20%,window_size=6,when=chunk+decode,every=4";
    struct live l;
    write_closed(f, &l, spec, 1u << KV_WINDOW_SEEN, -1);
    close_live(&l);
    refused(f, f->closed, "full", KV_USAGE, "closed loop), and says nothing about another policy; replay that one");
    refused(f, f->closed, "snapkv:law=fixed,keep=21%,window_size=6,when=chunk+decode,every=4", KV_USAGE, "closed loop");
}

static void what_is_missing_is_said(void **state)
{
    struct fixture *f = *state;
    struct kv_replay r;
    write_open(f, ALL_RAW, 3);
    refused(f, f->open, "keydiff:tokens=40", KV_USAGE, "keys or values were not recorded for the pass [144, 150)");
    refused(f, f->open, "l2:tokens=70,every=4", KV_USAGE, "keys or values were not recorded for the pass [144, 150)");
    refused(f, f->open, "snapkv:keep=30%,window_size=7", KV_USAGE,
            "lacks channel 'window_local' with window = 7 (attention of the last queries of each chunk, over the "
            "chunk's own keys): it has keys, values, window_logits (window 6, query heads); record it");
    refused(f, f->open, "h2o:tokens=40,recent_size=5", KV_USAGE, "lacks channel 'column_sum'");
    refused(f, f->open, "locret:keep=30%,local_len=0", KV_USAGE, "lacks channel 'external'");
    write_open(f, 1u << KV_LAST_ROW, 3);
    refused(f, f->open, "tova:tokens=40,every=4", KV_USAGE,
            "channel 'last_row' was not recorded for the pass [144, 150); record it there");
    write_open(f, ALL_RAW, 4); /* all of the prompt, and none of what was generated */
    if (!replay(f, &r, f->open, "keydiff:tokens=40"))
        fail_msg("keys of the prompt suffice after prefill: %s", f->e.text);
    kv_replay_close(&r);
    refused(f, f->open, "keydiff:tokens=40,when=decode,every=4", KV_USAGE, "not recorded for the pass [150, 154)");
    refused(f, f->open, "keydiff:tokens=40,when=chunk+decode,every=3", KV_USAGE,
            "it would evict after token 153, within the recorded pass [150, 154): scores are known at its end only");
}

/* A score of several channels at once: each has rows of its own. */
static void sum_lane(const struct kv_view *v, float *keep)
{
    for (int64_t i = 0; i < v->n; i++) {
        keep[i] = v->channel[KV_KEY_NORM][i] / 4 + v->channel[KV_VALUE_NORM][i] / 4 + v->channel[KV_KEY_COSINE][i] / 8;
        for (int row = 0; row < v->rows; row++)
            keep[i] += v->channel[KV_WINDOW_SEEN][row * v->stride[KV_WINDOW_SEEN] + i] +
                       v->channel[KV_LAST_ROW][row * v->stride[KV_LAST_ROW] + i];
    }
}

static void channels_do_not_mix(void **state)
{
    static const struct kv_score sum = {.name = "sum",
                                        .help = "of all",
                                        .needs = KV_BIT(KV_KEY_NORM) | KV_BIT(KV_VALUE_NORM) | KV_BIT(KV_KEY_COSINE) |
                                                 KV_BIT(KV_WINDOW_SEEN) | KV_BIT(KV_LAST_ROW),
                                        .lane = sum_lane};
    struct fixture *f = *state;
    unsigned derived = sum.needs;
    struct kv_replay r[2];
    struct kv_policy policy;
    for (int i = 0; i < 2; i++) {
        struct kv_replay_asked asked = {.page = 16, .threads = 1, .quiet = true, .run = {.chunk = TICK}};
        write_open(f, i ? ALL_RAW : derived, TICKS);
        assert_true(kv_replay_open(&r[i], f->open, &asked, f->a, &f->e));
        r[i].run = KV_NEW(f->a, struct kv_replay_run);
        assert_true(kv_policy_from_spec(&policy, "random:keep=30%,window_size=6", f->a, &f->e));
        policy.score = &sum; /* once, after prefill: nothing has left before, so that rows as recorded are exact */
        if (!kv_replay_add(&r[i], &policy, f->a, &f->e) || !kv_replay_run(&r[i], f->a, &f->e))
            fail_msg("%s", f->e.text);
    }
    for (int64_t lane = 0; lane < LAYERS * KV_HEADS; lane++)
        if (memcmp(kv_cache_set(&r[0].run->cache, lane / KV_HEADS, lane % KV_HEADS),
                   kv_cache_set(&r[1].run->cache, lane / KV_HEADS, lane % KV_HEADS), 8 * (size_t)kv_words(END)))
            fail_msg("lane %d: recorded channels and those made of keys, values and logits keep different sets",
                     (int)lane);
    kv_replay_close(&r[0]);
    kv_replay_close(&r[1]);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    const char *tmp = getenv("KV_TMP") ? getenv("KV_TMP") : "/tmp";
    snprintf(f->open, sizeof f->open, "%s/source-%ld.kvt.h5", tmp, (long)getpid());
    snprintf(f->closed, sizeof f->closed, "%s/closed-%ld.kvt.h5", tmp, (long)getpid());
    f->a = kv_arena_open();
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    unlink(f->open);
    unlink(f->closed);
    kv_arena_close(f->a);
    free(f);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exact_traces_give_exact_sets),
        cmocka_unit_test(what_was_tampered_with_is_found),
        cmocka_unit_test(closed_loops_say_nothing_of_others),
        cmocka_unit_test(what_is_missing_is_said),
        cmocka_unit_test(channels_do_not_mix),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
