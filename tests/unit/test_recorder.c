/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Traces of live runs. Full cache: every row against the double precision model, and replayed policies against a cache
 * that is fed with the recorded rows. With a policy on: replay chooses the same entries, at the same cost. */
#include "engine/recorder.h"
#include "engine/sample.h"
#include "sim/replay.h"
#include "tests/unit/engine_model.h"

enum { PROMPT = 50, OUTPUT = 12, ROOM = PROMPT + OUTPUT + 8, CHUNK = 20, WINDOW = 6, PAGE = 4 };

static const struct kv_config shape = {"r", LLAMA, 2, 32, 4, 2, 8, .tied = true};
static const struct kv_mark marks[] = {{"needle", 5, 9}, {"a second, \"quoted\" one", 40, 41}};

struct made {
    const char *path;
    int32_t token[PROMPT + OUTPUT];
    double log_probability[OUTPUT];
    struct kv_count count;
    uint64_t *set; /* (lanes,) of one word, at the end */
};

static struct kv_recorder_asked ask(unsigned channels, bool query_rows, enum kv_encoding encoding, int64_t decode_tick)
{
    return (struct kv_recorder_asked){.channels = channels,
                                      .query_rows = query_rows,
                                      .window = WINDOW,
                                      .decode_tick = decode_tick,
                                      .encoding = encoding,
                                      .filter = KV_FILTER_NONE,
                                      .model = "r",
                                      .mark = marks,
                                      .n_marks = 2};
}

/* Records `spec` to the file; after `passes` passes it is left where it is. */
static struct made record(struct fixture *f, const char *spec, const struct kv_recorder_asked *asked, int passes)
{
    struct made made = {.path = kv_format(f->a, "%s.kvt.h5", f->folder)};
    struct kv_live l, *one[] = {&l};
    struct kv_policy policy;
    struct kv_defaults run = {.chunk = CHUNK, .dtype = KV_FP32};
    struct kv_recorder *r;
    int32_t *token = draw_tokens(f, PROMPT, 3);
    int64_t made_tokens = 0;
    open_backend(f, PAGE, 1 << 24, 2);
    MUST(kv_policy_from_spec(&policy, spec, f->a, &f->e));
    if (!kv_live_open(&l, f->b, &f->w, &policy, &run, token, PROMPT, OUTPUT, WINDOW, PAGE, false, f->a, &f->e) ||
        !kv_recorder_open(&r, made.path, asked, &l, f->a, &f->e))
        fail_msg("%s: %s", spec, f->e.text);
    for (; passes && kv_live_next(&l); passes--) {
        if (!kv_live_step(one, 1, &f->e))
            fail_msg("%s: %s", spec, f->e.text);
        if (l.cache.seen == l.n_token && l.n_token < PROMPT + OUTPUT) {
            int32_t next = kv_live_greedy(&l);
            made.log_probability[made_tokens] = kv_log_probability(l.logits, f->w.config.vocab, next);
            kv_recorder_chose(r, next, made.log_probability[made_tokens++]);
            kv_live_add(&l, next);
        }
    }
    if (passes)
        MUST(kv_recorder_finish(r, &f->e));
    else
        kv_recorder_abandon(r);
    assert_null(l.watch);
    memcpy(made.token, l.token, sizeof made.token);
    kv_count_read(&made.count, &l.cache.ledger, &l.request);
    made.set = KV_NEW_N(f->a, uint64_t, l.cache.lanes);
    for (int64_t i = 0; i < l.cache.lanes; i++)
        made.set[i] = kv_cache_set(&l.cache, i / l.shape.store_heads, i % l.shape.store_heads)[0];
    kv_live_close(&l);
    return made;
}

/* ---- the full cache ---- */

struct reading {
    struct kv_trace *t;
    struct kv_trace_about about;
    struct kv_trace_work *work;
    float row[ROOM * 8 + KV_SLACK];
};

static void open_reading(struct fixture *f, struct reading *g, const char *path)
{
    MUST(kv_trace_open(&g->t, path, &g->about, f->a, &f->e));
    g->work = kv_trace_work_open(g->t, &f->e);
    assert_non_null(g->work);
}

static void close_reading(struct reading *g)
{
    kv_trace_work_close(g->work);
    kv_trace_close(g->t);
}

static int64_t read_row(struct fixture *f, struct reading *g, int channel, int64_t tick, int64_t stream)
{
    MUST(kv_trace_row(g->t, channel, tick, stream, g->row, g->work, &f->e));
    return kv_trace_row_length(g->t, channel, tick, stream);
}

/* What a recorded row must be: the tick's last pass, but for sums over its passes and numbers of each new token. */
static int64_t expect(struct fixture *f, struct truth *const *at, const struct kv_tick *tick, enum kv_channel what,
                      int64_t layer, int64_t q_head, double *out)
{
    struct truth *t = at[tick->end];
    int64_t news = tick->end - tick->begin;
    (void)f;
    if (what == KV_COLUMN_SUM) {
        double one[ROOM];
        memset(out, 0, sizeof one);
        for (int64_t end = tick->begin + 1; end <= tick->end; end++)
            if (at[end]) {
                int64_t n = truth_channel(at[end], layer, q_head, what, WINDOW, 0, one);
                for (int64_t i = 0; i < n; i++)
                    out[i] += one[i];
            }
        return tick->end;
    }
    if (what == KV_KEY_NORM || what == KV_VALUE_NORM) {
        int64_t kept = t->n_new;
        t->n_new = news;
        truth_channel(t, layer, q_head, what, WINDOW, 0, out);
        t->n_new = kept;
        return news;
    }
    return truth_channel(t, layer, q_head, what, WINDOW, news, out);
}

/* The sequence once more: one truth for each pass, by where it ends. */
static void follow(struct fixture *f, const struct made *made, struct truth **at)
{
    for (int64_t begin = 0, end; begin < PROMPT + OUTPUT - 1; begin = end) {
        end = begin >= PROMPT ? begin + 1 : begin + CHUNK < PROMPT ? begin + CHUNK : PROMPT;
        struct truth *t = at[end] = open_truth(f, f->w.config.kv_heads, ROOM);
        for (int64_t from = 0, to; from < end; from = to) {
            to = from >= PROMPT ? from + 1 : from + CHUNK < PROMPT ? from + CHUNK : PROMPT;
            truth_pass(t, made->token + from, to - from, 0);
        }
    }
}

static void check_entries_row(const struct truth *t, const struct kv_tick *tick, enum kv_channel what, int64_t layer,
                              int64_t head, const float *row)
{
    float *key = malloc(sizeof *key * (size_t)(2 * ROOM * t->d)), *value = key + ROOM * t->d;
    int64_t n = truth_keys(t, layer, head, tick->begin, key, value);
    for (int64_t i = 0; i < n * t->d; i++)
        if (!(fabsf(row[i] - (what == KV_KEYS ? key : value)[i]) < 1e-4f))
            fail_msg("%s of layer %d, head %d, position %d: %.9g, expected %.9g", kv_channels[what].name, (int)layer,
                     (int)head, (int)(tick->begin + i / t->d), (double)row[i],
                     (double)(what == KV_KEYS ? key : value)[i]);
    free(key);
}

static void check_row(struct fixture *f, struct reading *g, struct truth *const *at, int channel, int64_t tick,
                      int64_t stream)
{
    const struct kv_trace_channel *c = &g->about.channel[channel];
    const struct kv_tick *k = &g->about.tick[tick];
    int64_t heads = c->streams / g->about.layers, layer = stream / heads, head = stream % heads;
    int64_t group = g->about.q_heads / g->about.kv_heads, n = read_row(f, g, channel, tick, stream), rows = 1;
    double all[ROOM] = {0}, one[ROOM], loose = c->encoding == KV_ENC_F32 ? SCORE_GATE : 0.0056;
    if (c->what == KV_KEYS || c->what == KV_VALUES) {
        check_entries_row(at[k->end], k, c->what, layer, head, g->row);
        return;
    }
    if (kv_channels[c->what].attention && !c->query_heads)
        rows = group;
    for (int64_t q = 0; q < rows; q++) {
        int64_t expected = expect(f, at, k, c->what, layer, c->query_heads ? head : head * group + q, one);
        assert_int_equal(n, expected);
        for (int64_t i = 0; i < n; i++)
            all[i] += one[i];
    }
    double most = 0;
    for (int64_t i = 0; i < n; i++)
        most = fmax(most, fabs(all[i]));
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)g->row[i] - all[i]) <= loose * fabs(all[i]) + 3e-6 * most + 1e-6))
            fail_msg("%s (%s, ticks of %d): tick [%d, %d), stream %d, position %d of %d: %.9g, expected %.9g", c->name,
                     kv_encoding_names[c->encoding], (int)(k->end - k->begin), (int)k->begin, (int)k->end, (int)stream,
                     (int)i, (int)n, (double)g->row[i], all[i]);
}

/* later_sum of a tick and a position: column sums of all later ticks. */
static void check_later(struct fixture *f, struct reading *g, int later, int column)
{
    for (int64_t s = 0; s < g->about.channel[later].streams; s++) {
        double sum[ROOM] = {0}, loose = g->about.channel[later].encoding == KV_ENC_F32 ? 1e-5 : 0.012;
        for (int64_t t = g->about.n_ticks - 1; t >= 0; t--) {
            int64_t n = read_row(f, g, later, t, s);
            assert_int_equal(n, g->about.tick[t].end);
            for (int64_t i = 0; i < n; i++)
                if (!(fabs((double)g->row[i] - sum[i]) <= loose * sum[i] + 2e-3 * loose))
                    fail_msg("later_sum of tick %d, stream %d, position %d: %.9g, expected %.9g", (int)t, (int)s,
                             (int)i, (double)g->row[i], sum[i]);
            n = read_row(f, g, column, t, s);
            for (int64_t i = 0; i < n; i++)
                sum[i] += (double)g->row[i];
        }
    }
}

static void check_plan(struct fixture *f, struct reading *g, const struct made *made, int64_t decode_tick)
{
    const struct kv_trace_about *b = &g->about;
    int64_t at = 0;
    int32_t ids[PROMPT + OUTPUT];
    float lp[OUTPUT];
    assert_true(b->complete && b->has_ids && b->has_log_probability && !strcmp(b->policy, "full"));
    assert_int_equal(b->n_prompt, PROMPT);
    assert_int_equal(b->n_output, OUTPUT);
    assert_int_equal(b->n_marks, 2);
    assert_string_equal(b->mark[1].name, marks[1].name);
    assert_true(b->mark[0].begin == 5 && b->mark[0].end == 9);
    for (int64_t t = 0; t < b->n_ticks; t++) {
        const struct kv_tick *k = &b->tick[t];
        int64_t most = at < PROMPT ? PROMPT - at : PROMPT + OUTPUT - 1 - at, step = at < PROMPT ? CHUNK : decode_tick;
        assert_int_equal(k->kind, at < PROMPT ? KV_TICK_PREFILL : KV_TICK_DECODE);
        assert_int_equal(k->begin, at);
        at += step < most ? step : most;
        assert_int_equal(k->end, at);
        assert_int_equal(k->kv_bytes, 4 * ((at + PAGE - 1) / PAGE) * PAGE * 2 * 8 * 4);
        assert_true(k->end_ns >= k->start_ns);
    }
    assert_int_equal(at, PROMPT + OUTPUT - 1);
    MUST(kv_trace_ids(g->t, ids, &f->e));
    assert_memory_equal(ids, made->token, sizeof ids);
    MUST(kv_trace_log_probability(g->t, lp, &f->e));
    for (int i = 0; i < OUTPUT; i++)
        assert_true(lp[i] == (float)made->log_probability[i] && lp[i] < 0);
}

static void rows_are_the_references(void **state)
{
    struct fixture *f = *state;
    unsigned all = (1u << KV_CHANNELS) - 1;
    all &= ~(KV_BIT(KV_EXTERNAL) | KV_BIT(KV_EXPECTED) | KV_BIT(KV_WINDOW_LOGITS) | KV_BIT(KV_LAG));
    open_model(f, &shape, KV_TENSOR_F32, 5);
    for (int i = 0; i < 8; i++) {
        struct kv_recorder_asked asked = ask(all, i & 1, i & 2 ? KV_ENC_LOG12 : KV_ENC_F32, i & 4 ? 4 : 1);
        struct made made = record(f, "full", &asked, 1000);
        struct reading *g = KV_NEW(f->a, struct reading);
        struct truth *at[ROOM] = {NULL};
        int later = -1, column = -1, rows = 0;
        open_reading(f, g, made.path);
        check_plan(f, g, &made, asked.decode_tick);
        follow(f, &made, at);
        for (int c = 0; c < g->about.n_channels; c++) {
            const struct kv_trace_channel *about = &g->about.channel[c];
            later = about->what == KV_LATER_SUM ? c : later;
            column = about->what == KV_COLUMN_SUM ? c : column;
            for (int64_t t = 0; t < g->about.n_ticks; t++) {
                bool has = about->what != KV_WINDOW_LOCAL || g->about.tick[t].kind == KV_TICK_PREFILL;
                if (about->at[t] != has)
                    fail_msg("tick %d has %s rows of %s", (int)t, has ? "no" : "unasked", about->name);
                for (int64_t s = 0; has && c != later && s < about->streams; s++, rows++)
                    check_row(f, g, at, c, t, s);
            }
        }
        check_later(f, g, later, column);
        assert_int_equal(g->about.n_channels, 10);
        assert_true(rows > 200);
        close_reading(g);
        for (int t = 0; t < ROOM; t++)
            if (at[t])
                close_truth(at[t]);
        unlink(made.path);
    }
}

/* ---- replay ---- */

static void open_replay(struct fixture *f, struct kv_replay *r, const char *path, const char *spec)
{
    struct kv_replay_asked asked = {.page = PAGE, .threads = 1, .quiet = true};
    struct kv_policy policy;
    asked.run = (struct kv_defaults){.chunk = CHUNK, .dtype = KV_FP32};
    MUST(kv_policy_from_spec(&policy, spec, f->a, &f->e));
    bool good = kv_replay_open(r, path, &asked, f->a, &f->e);
    r->run = KV_NEW(f->a, struct kv_replay_run);
    if (!good || !kv_replay_add(r, &policy, f->a, &f->e) || !kv_replay_run(r, f->a, &f->e))
        fail_msg("%s: %s", spec, f->e.text);
}

/* A cache that is fed with the rows of a trace of the full cache, those of survivors. */
static void feed(struct fixture *f, struct reading *g, struct kv_cache *c, struct kv_cache_work *work, int64_t tick,
                 int64_t layer, int64_t head, unsigned wants)
{
    int64_t group = g->about.q_heads / g->about.kv_heads;
    struct kv_lane_in in = {.rows = 1};
    float *rows = calloc((size_t)(KV_SCORE_CHANNELS * group * ROOM), sizeof *rows);
    const uint64_t *set = kv_cache_set(c, layer, head);
    for (int i = 0; i < g->about.n_channels; i++) {
        const struct kv_trace_channel *a = &g->about.channel[i];
        int64_t many = a->query_heads ? group : 1, heads = a->streams / g->about.layers;
        if ((int)a->what >= KV_SCORE_CHANNELS || !(wants & KV_BIT(a->what)))
            continue;
        float *to = rows + (int)a->what * group * ROOM;
        in.channel[a->what] = to;
        in.stride[a->what] = ROOM;
        in.rows = kv_channels[a->what].attention ? (int)many : in.rows;
        for (int64_t q = 0; q < many; q++) {
            int64_t length = read_row(f, g, i, tick, layer * heads + head * many + q), n = 0;
            for (int64_t t = g->about.tick[tick].end - length, at = 0; at < length; t++, at++)
                if (kv_set_has(set, t))
                    to[q * ROOM + n++] = g->row[at];
        }
    }
    kv_cache_lane(c, layer, head, &in, work);
    free(rows);
}

static void replays_choose_from_the_recorded_rows(void **state)
{
    struct fixture *f = *state;
    static const char *const specs[] = {
        "tova:tokens=24",
        "h2o:tokens=30,recent_size=8",
        "snapkv:keep=40%,window_size=6",
        "snapkv:when=postfill,keep=40%,round_to=1,window_size=6,pooling=max,reduce_order=reduce-first",
        "adakv:tokens=24,window_size=6",
        "l2:tokens=24,recent_size=4,skip_layers=0",
        "keydiff:keep=40%",
        "streaming:sink_size=2,recent_size=12",
        "observed:keep=40%",
        "random:keep=30%",
    };
    unsigned all = (1u << KV_SCORE_CHANNELS) - 1;
    all &= ~(KV_BIT(KV_EXTERNAL) | KV_BIT(KV_EXPECTED) | KV_BIT(KV_LAG) | KV_BIT(KV_LATER_SUM));
    open_model(f, &shape, KV_TENSOR_F32, 6);
    for (int i = 0; i < 4; i++) {
        struct kv_recorder_asked asked = ask(all, i & 1, i & 2 ? KV_ENC_LOG12 : KV_ENC_F32, 1);
        struct made made = record(f, "full", &asked, 1000);
        struct reading *g = KV_NEW(f->a, struct reading);
        open_reading(f, g, made.path);
        for (size_t k = 0; k < sizeof specs / sizeof *specs; k++) {
            struct kv_replay r;
            struct kv_cache c;
            struct kv_cache_work work;
            struct kv_pass pass;
            open_replay(f, &r, made.path, specs[k]);
            const struct kv_replay_run *run = &r.run[0];
            MUST(kv_cache_open(&c, &run->policy, &run->shape, &r.request, PAGE, false, f->a, &f->e));
            MUST(kv_cache_work_open(&work, ROOM, 4, &f->e));
            for (int64_t t = 0; kv_cache_next(&c, INT64_MAX, &pass); t++) {
                assert_int_equal(pass.seen + pass.n_new, g->about.tick[t].end);
                MUST(kv_cache_begin(&c, &pass, 1, &f->e));
                for (int64_t l = 0; l < g->about.layers; l++) {
                    unsigned wants = kv_cache_wants(&c, l);
                    for (int64_t h = 0; h < run->shape.store_heads; h++)
                        feed(f, g, &c, &work, t, l, h, wants);
                    kv_cache_layer(&c, l, &work);
                }
                kv_cache_end(&c);
            }
            for (int64_t n = 0; n < c.lanes; n++)
                if (kv_cache_set(&c, n / 2, n % 2)[0] != kv_cache_set(&r.run[0].cache, n / 2, n % 2)[0])
                    fail_msg("%s: replay keeps other entries of lane %d than a cache fed with its rows", specs[k],
                             (int)n);
            if (!(run->count.footprint_actual < 1))
                fail_msg("%s: nothing left", specs[k]);
            kv_cache_close(&c);
            kv_cache_work_close(&work);
            kv_replay_close(&r);
        }
        close_reading(g);
        unlink(made.path);
    }
}

/* With the policy on: what it was fed with makes the same choices. */
static void closed_loops_are_repeated(void **state)
{
    struct fixture *f = *state;
    static const char *const specs[] = {
        "streaming:sink_size=2,recent_size=12",
        "tova:tokens=24",
        "h2o:tokens=30,recent_size=8",
        "h2o:tokens=30,recent_size=8,group_reduce=max",
        "h2o:tokens=30,recent_size=8,store=query-head",
        "snapkv:keep=40%,window_size=6",
        "snapkv:keep=40%,window_size=6,patch=6",
        "snapkv:keep=40%,window_size=6,pooling=max",
        "snapkv:when=postfill,keep=60%,round_to=1,window_size=25",
        "pyramidkv:when=postfill,keep=40%,round_to=1,window_size=6",
        "adakv:tokens=24,window_size=6",
        "ada-snapkv:keep=40%,window_size=6",
        "l2:tokens=24,recent_size=4,skip_layers=0",
        "l2-upstream:tokens=24,recent_size=4,skip_layers=0",
        "keydiff:keep=40%",
        "observed:keep=40%",
        "cur:keep=40%",
        "lagkv:keep=40%",
        "random:keep=30%",
        "duo:sparsity=50%,sink_size=2,recent_size=12",
        "prulong:sparsity=50%,sink_size=2,recent_size=12",
    };
    open_model(f, &shape, KV_TENSOR_F32, 7);
    for (size_t k = 0; k < sizeof specs / sizeof *specs; k++) {
        struct kv_recorder_asked asked = ask(KV_BIT(KV_WINDOW_SEEN), false, KV_ENC_LOG12, 4);
        struct made made = record(f, specs[k], &asked, 1000);
        struct kv_replay r;
        open_replay(f, &r, made.path, specs[k]);
        const struct kv_count *c = &r.run[0].count;
        if (r.run[0].differs)
            fail_msg("%s: %d kept sets differ", specs[k], (int)r.run[0].differs);
        for (int64_t n = 0; n < r.run[0].cache.lanes; n++) {
            int64_t heads = r.run[0].shape.store_heads;
            if (kv_cache_set(&r.run[0].cache, n / heads, n % heads)[0] != made.set[n])
                fail_msg("%s: lane %d of the replay holds other entries", specs[k], (int)n);
        }
        if (c->footprint_actual != made.count.footprint_actual || c->held_end != made.count.held_end ||
            c->peak_actual[0] != made.count.peak_actual[0] || c->peak_actual[1] != made.count.peak_actual[1] ||
            c->pages_end[0][0] != made.count.pages_end[0][0] ||
            c->pages[0][0][0].bytes != made.count.pages[0][0][0].bytes)
            fail_msg("%s: footprint %.9f replayed, %.9f live", specs[k], c->footprint_actual,
                     made.count.footprint_actual);
        if (!(c->footprint_actual < 1))
            fail_msg("%s: nothing left", specs[k]);
        kv_replay_close(&r);
        unlink(made.path);
    }
}

/* ---- interrupted ---- */

static void what_was_committed_can_be_recovered(void **state)
{
    struct fixture *f = *state;
    open_model(f, &shape, KV_TENSOR_F32, 8);
    for (int closed = 0; closed < 2; closed++) {
        struct kv_recorder_asked asked =
            ask(KV_BIT(KV_WINDOW_SEEN) | KV_BIT(KV_COLUMN_SUM) | KV_BIT(KV_LATER_SUM), false, KV_ENC_LOG12, 2);
        struct made made = record(f, closed ? "tova:tokens=24" : "full", &asked, 6); /* 3 of prefill, then 3 tokens */
        const char *part = kv_format(f->a, "%s.part", made.path), *saved = kv_format(f->a, "%s.saved", made.path);
        struct reading *g = KV_NEW(f->a, struct reading);
        assert_int_equal(access(made.path, F_OK), -1);
        assert_int_equal(access(part, F_OK), 0);
        MUST(kv_trace_copy(part, saved, KV_FILTER_ZSTD, -1, f->a, &f->e));
        open_reading(f, g, saved);
        assert_int_equal(g->about.n_ticks, closed ? 6 : 4); /* the second decode tick had not ended */
        assert_int_equal(g->about.tick[g->about.n_ticks - 1].end, PROMPT + (closed ? 3 : 2));
        for (int c = 0; c < g->about.n_channels; c++)
            for (int64_t t = 0; t < g->about.n_ticks; t++)
                if (g->about.channel[c].at[t])
                    read_row(f, g, c, t, 0);
        close_reading(g);
        unlink(part);
        unlink(saved);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, engine_set_up, engine_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(rows_are_the_references),
        TEST(replays_choose_from_the_recorded_rows),
        TEST(closed_loops_are_repeated),
        TEST(what_was_committed_can_be_recovered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
