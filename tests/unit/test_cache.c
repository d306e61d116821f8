/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The cache by hand: requests of a few tokens whose kept sets can be worked out on paper. Every kind against a model of
 * the rules: tests/laws/test_sets.c. */
#include "sim/core/cache.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { TOKENS = 64, LANES = 8 };

struct example {
    struct kv_arena *arena;
    struct kv_err e;
    struct kv_policy policy;
    struct kv_shape shape;
    struct kv_cache c;
    struct kv_cache_work work;
    float number[LANES][TOKENS]; /* of every channel, by lane and position */
    int64_t fed[LANES];
};

static void open_example(struct example *x, const char *spec, int64_t layers, int64_t heads, int64_t chunk,
                         int64_t prompt, int64_t output)
{
    memset(x, 0, sizeof *x);
    x->arena = kv_arena_open();
    struct kv_model m = {.name = "small", .layers = layers, .q_heads = heads, .kv_heads = heads, .head_dim = 8};
    struct kv_defaults run = {.chunk = chunk, .dtype = KV_BF16};
    struct kv_request r = {.prompt = prompt, .prefill = prompt, .output = output};
    if (!kv_policy_from_spec(&x->policy, spec, x->arena, &x->e) ||
        !kv_policy_prepare(&x->policy, &m, &run, &x->shape, x->arena, &x->e) ||
        !kv_cache_open(&x->c, &x->policy, &x->shape, &r, 4, true, x->arena, &x->e) ||
        !kv_cache_work_open(&x->work, TOKENS, (int)heads, &x->e))
        fail_msg("%s", x->e.text);
}

static void close_example(struct example *x)
{
    kv_cache_work_close(&x->work);
    kv_cache_close(&x->c);
    kv_arena_close(x->arena);
}

static void set_numbers(struct example *x, int lane, const char *digits)
{
    for (int i = 0; digits[i]; i++)
        x->number[lane][i] = (float)(digits[i] - '0');
}

static void hand_in(struct example *x, int64_t layer, int64_t head, unsigned wants)
{
    int64_t i = layer * x->shape.store_heads + head, end = x->c.pass.seen + x->c.pass.n_new, n = 0, news = 0;
    float all[TOKENS], unit[TOKENS], fresh[TOKENS];
    const uint64_t *set = kv_cache_set(&x->c, layer, head);
    for (int64_t t = 0; t < end; t++) {
        if (kv_set_has(set, t))
            all[n++] = x->number[i][t];
        if (t >= x->fed[i])
            fresh[news++] = x->number[i][t];
        if (t >= end - x->c.pass.n_unit)
            unit[t - end + x->c.pass.n_unit] = x->number[i][t];
    }
    struct kv_lane_in in = {.rows = 1};
    for (int k = 0; k < KV_SCORE_CHANNELS; k++)
        if (wants & KV_BIT(k))
            in.channel[k] = KV_BIT(k) & KV_STATIC_CHANNELS ? fresh : k == KV_WINDOW_LOCAL ? unit : all;
    kv_cache_lane(&x->c, layer, head, &in, &x->work);
    x->fed[i] = end;
}

/* The next pass; false at the end of the request. */
static bool step(struct example *x)
{
    struct kv_pass pass;
    if (!kv_cache_next(&x->c, INT64_MAX, &pass))
        return false;
    if (!kv_cache_begin(&x->c, &pass, 1, &x->e))
        fail_msg("%s", x->e.text);
    for (int64_t layer = 0; layer < x->shape.layers; layer++) {
        unsigned wants = kv_cache_wants(&x->c, layer);
        for (int64_t head = 0; wants && head < x->shape.store_heads; head++)
            hand_in(x, layer, head, wants);
        kv_cache_layer(&x->c, layer, &x->work);
    }
    kv_cache_end(&x->c);
    return true;
}

/* want: one character a token, '.' where it left. */
static void must_hold(struct example *x, int64_t layer, int64_t head, const char *want)
{
    char got[TOKENS + 1] = "";
    const uint64_t *set = kv_cache_set(&x->c, layer, head);
    int64_t n = 0;
    for (int64_t t = 0; t < x->c.seen; t++) {
        got[t] = "#."[!kv_set_has(set, t)];
        n += got[t] == '#';
    }
    if (strcmp(got, want))
        fail_msg("%s: layer %d, head %d holds '%s', expected '%s'", x->policy.name, (int)layer, (int)head, got, want);
    assert_int_equal(kv_cache_held(&x->c, layer, head), n);
}

/* ---- sinks, recents, draws ---- */

static void test_streaming(void **state)
{
    struct example x;
    (void)state;
    open_example(&x, "streaming:sink_size=2,recent_size=3", 1, 1, 8, 8, 3);
    assert_true(step(&x));
    must_hold(&x, 0, 0, "##...###");
    assert_true(step(&x));
    must_hold(&x, 0, 0, "##....###");
    assert_true(step(&x));
    must_hold(&x, 0, 0, "##.....###");
    assert_false(step(&x));
    /* 0 1 | 7 | 8 9 lie in three pages of 4, and fit two */
    assert_int_equal(x.c.ledger.pages[KV_PER_HEAD][KV_IN_PLACE].peak[KV_SCOPE_LAYER].value, 3);
    assert_int_equal(x.c.ledger.pages[KV_PER_HEAD][KV_IN_PLACE].end, 3);
    assert_int_equal(x.c.ledger.pages[KV_PER_HEAD][KV_COMPACT].end, 2);
    close_example(&x);
}

/* A score that nothing is handed in for decides all the same. */
static void test_random(void **state)
{
    struct example x, y;
    (void)state;
    open_example(&x, "random:tokens=5,sink_size=1,recent_size=1", 2, 2, 16, 32, 1);
    open_example(&y, "adakv:score=random,tokens=5", 2, 2, 16, 32, 1);
    while (step(&x) && step(&y))
        continue;
    for (int64_t lane = 0; lane < 4; lane++)
        assert_int_equal(kv_cache_held(&x.c, lane / 2, lane % 2), 5);
    for (int64_t layer = 0; layer < 2; layer++)
        assert_in_range(kv_cache_held(&y.c, layer, 0) + kv_cache_held(&y.c, layer, 1), 9, 11);
    close_example(&x);
    close_example(&y);
}

/* ---- one lane at a time ---- */

/* Chunks compete alone; among equals the earlier stay; the chunk's last token is the window. */
static void test_snapkv(void **state)
{
    struct example x;
    (void)state;
    open_example(&x, "snapkv:tokens=3,window_size=1,pooling=none", 1, 1, 6, 14, 0);
    set_numbers(&x, 0,
                "131310"
                "000009"
                "40");
    assert_true(step(&x));
    must_hold(&x, 0, 0, ".#.#.#");
    assert_true(step(&x));
    must_hold(&x, 0, 0, ".#.#.###...#");
    assert_true(step(&x));
    must_hold(&x, 0, 0, ".#.#.###...###");
    assert_int_equal(x.c.lane[0].ties, 5);
    close_example(&x);
}

static void test_sinks_under_every_law(void **state)
{
    static const struct {
        const char *spec, *want;
    } cases[] = {
        {"snapkv:tokens=2,window_size=0,pooling=none,sink_size=8,recent_size=1", "########...#"},
        {"pyramidkv:tokens=2,window_size=0,pooling=none,sink_size=3,recent_size=1", "###..#....##"},
        {"locret:keep=0,stabilizers=0,local_len=0,sink_size=3,recent_size=2", "###.......##"},
        {"adakv:tokens=4,window_size=0,pooling=none,when=chunk,sink_size=3,recent_size=1", "###........#"},
        {"tova:tokens=4,sink_size=2,recent_size=1", "##........##"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct example x;
        open_example(&x, cases[i].spec, 1, 1, 6, 12, 0);
        set_numbers(&x, 0, "000000000090");
        while (step(&x))
            continue;
        must_hold(&x, 0, 0, cases[i].want);
        close_example(&x);
    }
}

/* What an entry gathered moves with it: token 1 leads after the first pass and again after the second. */
static void test_h2o(void **state)
{
    struct example x;
    (void)state;
    open_example(&x, "h2o:tokens=3,recent_size=1", 1, 1, 4, 4, 3);
    set_numbers(&x, 0, "2501");
    assert_true(step(&x));
    must_hold(&x, 0, 0, "##.#");
    set_numbers(&x, 0, "60001");
    assert_true(step(&x));
    must_hold(&x, 0, 0, "##..#");
    const float *gathered = kv_cache_column(&x.c, 0, 0, 0);
    assert_true(gathered[0] == 8 && gathered[1] == 5 && gathered[2] == 1);
    assert_true(step(&x));
    must_hold(&x, 0, 0, "##...#");
    close_example(&x);
}

static void must_lie(struct example *x, const char *digits)
{
    const float *place = kv_cache_column(&x->c, 0, 0, 0);
    for (int i = 0; digits[i]; i++)
        if (place[i] != (float)(digits[i] - '0'))
            fail_msg("entry %d lies in slot %g, expected %c", i, (double)place[i], digits[i]);
}

/* Storage: the last two slots, then the others, shortest key first; so when a token is decoded, it and the longest of
 * the others are what counts as local. */
static void test_l2_upstream(void **state)
{
    struct example x;
    (void)state;
    open_example(&x, "l2-upstream:tokens=4,local_size=2,skip_layers=0", 1, 1, 6, 6, 3);
    set_numbers(&x, 0, "53819217");
    assert_true(step(&x));
    must_hold(&x, 0, 0, ".#.###"); /* local 4, 5; shortest 3 (1), 1 (3) */
    must_lie(&x, "4312");          /* 4, 5, 3, 1 */
    assert_true(step(&x));
    must_hold(&x, 0, 0, ".#.#.##"); /* local 1 and 6; shortest 3 (1), 5 (2); 4 (9) leaves, recent or not */
    must_lie(&x, "1342");
    assert_true(step(&x));
    must_hold(&x, 0, 0, "...#.###"); /* local 5 and 7; shortest 3 (1), 6 (1); 1 (3) leaves */
    must_lie(&x, "3142");
    close_example(&x);
}

/* ---- a layer at once ---- */

static void test_tova(void **state)
{
    struct example x;
    (void)state;
    open_example(&x, "tova:tokens=3", 1, 2, 5, 5, 0);
    set_numbers(&x, 0, "90050");
    set_numbers(&x, 1, "06030");
    assert_true(step(&x));
    must_hold(&x, 0, 0, "#..##");
    must_hold(&x, 0, 1, "#..##");
    close_example(&x);
}

/* The layer's budget is shared: a lane above the mean stays so while decoding, and only the layer's worst leaves. */
static void test_sharing_while_decoding(void **state)
{
    struct example x;
    (void)state;
    open_example(&x, "ada-snapkv:when=postfill+decode,law=safeguard,score=l2,tokens=3,alpha_safeguard=0", 1, 2, 6, 6,
                 3);
    set_numbers(&x, 0, "11111199");
    set_numbers(&x, 1, "55555577");
    assert_true(step(&x));
    must_hold(&x, 0, 0, "######");
    must_hold(&x, 0, 1, "......");
    assert_true(step(&x));
    must_hold(&x, 0, 0, "######.");
    must_hold(&x, 0, 1, ".......");
    close_example(&x);
}

static void test_floor_of_shared_budgets(void **state)
{
    static const char *const spec[] = {
        "adakv:score=l2,pooling=none,tokens=3,floor_ratio=0,normalize=false,min_tokens=2",
        "ada-snapkv:score=l2,tokens=3,alpha_safeguard=0,min_tokens=2",
    };
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct example x;
        open_example(&x, spec[i], 1, 2, 6, 6, 0);
        set_numbers(&x, 0, "123456");
        set_numbers(&x, 1, "999987");
        assert_true(step(&x));
        must_hold(&x, 0, 0, "####..");
        must_hold(&x, 0, 1, "....##");
        close_example(&x);
    }
}

/* A patch protects nothing of its chunk, the last chunk's own window does: a lane may hold less than that window. */
static void test_sharing_with_a_lane_below_the_window(void **state)
{
    struct example x;
    (void)state;
    open_example(&x, "adakv:when=chunk,window_size=4,patch=4,tokens=4,floor_ratio=0,normalize=false,pooling=none", 1, 2,
                 8, 9, 0);
    set_numbers(&x, 0, "999999999");
    set_numbers(&x, 1, "111111111");
    assert_true(step(&x));
    must_hold(&x, 0, 0, "########");
    must_hold(&x, 0, 1, "........");
    assert_true(step(&x));
    must_hold(&x, 0, 0, ".....####");
    must_hold(&x, 0, 1, "........#");
    close_example(&x);
}

/* ---- passes told at once ---- */

static void test_passes_at_once(void **state)
{
    struct example x;
    struct kv_pass pass;
    (void)state;
    open_example(&x, "l2:when=postfill,tokens=4,recent_size=0,skip_layers=0", 1, 1, 8, 8, 41);
    set_numbers(&x, 0, "98765432");
    assert_true(step(&x));
    must_hold(&x, 0, 0, "....####");
    assert_true(kv_cache_next(&x.c, INT64_MAX, &pass) && pass.repeat == 40);
    assert_true(kv_cache_begin(&x.c, &pass, 40, &x.e));
    kv_cache_end(&x.c);
    must_hold(&x, 0, 0, "....############################################");
    assert_int_equal(x.c.ledger.end_entries, 44);
    assert_int_equal(x.c.ledger.pages[KV_SHARED][KV_IN_PLACE].end, 11);
    assert_false(kv_cache_next(&x.c, INT64_MAX, &pass));
    close_example(&x);
}

static void test_needs(void **state)
{
    struct kv_arena *a = kv_arena_open();
    (void)state;
    assert_int_equal(strncmp(kv_score_needs(kv_kind_find("random")->score, a), "nothing", 7), 0);
    assert_non_null(strstr(kv_score_needs(kv_kind_find("cur")->score, a), "key_norm"));
    assert_non_null(strstr(kv_score_needs(kv_kind_find("cur")->score, a), "value_norm"));
    assert_non_null(strstr(kv_score_needs(kv_kind_find("h2o")->score, a), "column_sum"));
    kv_arena_close(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_streaming),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_snapkv),
        cmocka_unit_test(test_sinks_under_every_law),
        cmocka_unit_test(test_h2o),
        cmocka_unit_test(test_l2_upstream),
        cmocka_unit_test(test_tova),
        cmocka_unit_test(test_sharing_while_decoding),
        cmocka_unit_test(test_floor_of_shared_budgets),
        cmocka_unit_test(test_sharing_with_a_lane_below_the_window),
        cmocka_unit_test(test_passes_at_once),
        cmocka_unit_test(test_needs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
