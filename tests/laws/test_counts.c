/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The counting core against enumeration: walks that jump against walks that do not, and both against a token-level
 * model of the same request (brute.h). Then examples whose numbers the publications give, and sums against loops. */
#include "sim/core/paper.h"
#include "tests/laws/brute.h"
#include "tests/laws/subject.h"

enum { FOR_JUMPS = 1, FOR_LONG, FOR_BRUTE, FOR_SMALLEST, FOR_SUMS };
enum { JUMP_DRAWS = 6000, LONG_DRAWS = 40, BRUTE_DRAWS = 6000, SUM_DRAWS = 20000 };

/* ---- jumps ---- */

static void forget_places(struct kv_ledger *l)
{
    for (int scope = 0; scope < KV_SCOPES; scope++) {
        l->entries[scope] = (struct kv_peak){.value = l->entries[scope].value};
        for (int layout = 0; layout < KV_LAYOUTS; layout++)
            for (int how = 0; how < KV_COMPACTIONS; how++) {
                struct kv_peak *peak = &l->pages[layout][how].peak[scope];
                *peak = (struct kv_peak){.value = peak->value};
            }
    }
}

static void check_jumps(struct subject *s)
{
    struct kv_ledger single = count(s, 1), jumps = count(s, INT64_MAX), some = count(s, 0);
    must_agree(s, "jumps against pass by pass", &jumps, &single, single.in_place);
    must_agree(s, "short jumps against pass by pass", &some, &single, single.in_place);
    s->skip_places = true;
    jumps = count(s, INT64_MAX);
    s->skip_places = false;
    forget_places(&jumps);
    forget_places(&single);
    must_agree(s, "jumps that skip places", &jumps, &single, single.in_place);
}

static void test_jumps(void **state)
{
    for (uint64_t i = 0; i < JUMP_DRAWS; i++) {
        struct subject s = {0};
        prepare_draw(&s, *state, FOR_JUMPS, i, NULL);
        check_jumps(&s);
        done(&s);
    }
}

/* Longer than what can be enumerated token by token: many more passes to jump over, and crossings of lanes that grow.
 */
static void test_long_jumps(void **state)
{
    for (uint64_t i = 0; i < LONG_DRAWS; i++) {
        struct subject s = {0};
        struct dice r = dice_for(FOR_LONG, i);
        draw_make(&s.draw, FOR_LONG, i, NULL);
        s.draw.run_chunk = roll_size(&r, 1, 5000);
        s.draw.request.prompt = s.draw.run_chunk * roll(&r, 1, 700) + roll(&r, 0, 100);
        s.draw.request.prefill = s.draw.request.prompt - roll(&r, 0, 1);
        s.draw.request.output = roll_size(&r, 0, 5000);
        s.draw.chunk = 0;
        prepare(&s, *state);
        check_jumps(&s);
        done(&s);
    }
}

/* ---- the token-level model ---- */

static void compare_pass(const struct subject *s, const struct kv_pass *p, const struct kv_turn *step, int64_t index)
{
    struct difference d = {""};
    compare(&d, "index", p->index, index);
    compare(&d, "seen", p->seen, step->start);
    compare(&d, "n_new", p->n_new, step->n_new);
    compare(&d, "n_patch", p->n_patch, step->n_patch);
    compare(&d, "n_unit", p->n_unit, step->n_unit);
    compare(&d, "decode_step", p->decode_step, step->decode_step);
    compare(&d, "evict", p->evict, step->evict);
    compare(&d, "last", p->last, step->last);
    if (*d.text)
        fail_draw(s, kv_format(s->arena, "pass %lld: %s", (long long)index, d.text));
}

/* Lanes of one class hold as much, and what the walk says of it. */
static void compare_classes(const struct subject *s, const struct brute *b, const struct kv_run *run, int64_t index)
{
    const struct kv_law *law = s->policy.law;
    for (int64_t c = 0; c < s->classes.n; c++) {
        const struct kv_class *k = &s->classes.at[c];
        int64_t lanes = 0, number = law->group ? law->group(&s->policy, &s->shape, k->layer, k->head) : 0;
        struct difference d = {""};
        for (int64_t i = 0; i < b->lanes; i++) {
            int64_t layer = i / b->heads, head = i % b->heads;
            if ((law->group ? law->group(&s->policy, &s->shape, layer, head) : 0) != number ||
                (draw_layer_slides(&s->draw, layer) ? s->draw.window : 0) != k->window)
                continue;
            lanes++;
            compare(&d, "before", run->before[c], b->count[BEFORE][i]);
            compare(&d, "after", run->before[c] + run->gain[c], b->count[AFTER][i]);
        }
        compare(&d, "lanes", k->lanes, lanes);
        if (*d.text)
            fail_draw(s, kv_format(s->arena, "pass %lld, class of layer %lld, head %lld: %s", (long long)index,
                                   (long long)k->layer, (long long)k->head, d.text));
    }
}

static void check_against_brute(struct subject *s, struct brute *b)
{
    struct kv_ledger l;
    struct kv_run run;
    brute_start(b, &s->draw, NULL, s->arena);
    kv_walk_restart(&s->walk, &s->draw.request);
    kv_ledger_open(&l, &s->policy, &s->shape, &s->classes, s->draw.page, s->arena);
    if (l.in_place != b->in_place)
        fail_draw(s, b->in_place ? "pages in place are not counted" : "pages in place are counted");
    for (int64_t i = 0; i < b->n_steps; i++) {
        if (!kv_walk_next(&s->walk, 1, &run))
            fail_draw(s, kv_format(s->arena, "the walk ends before pass %lld", (long long)i));
        kv_ledger_add(&l, &run);
        brute_step(b, &b->step[i]);
        compare_pass(s, &run.pass, &b->step[i], i);
        compare_classes(s, b, &run, i);
        must_agree(s, kv_format(s->arena, "pass %lld against tokens", (long long)i), &l, &b->sum, b->in_place);
    }
    if (kv_walk_next(&s->walk, 1, &run))
        fail_draw(s, "the walk goes on after the last pass");
    struct kv_ledger jumps = count(s, INT64_MAX);
    must_agree(s, "jumps against tokens", &jumps, &b->sum, b->in_place);
}

static void test_brute(void **state)
{
    struct brute *b = calloc(1, sizeof *b);
    for (uint64_t i = 0; i < BRUTE_DRAWS; i++) {
        struct subject s = {0};
        prepare_draw(&s, *state, FOR_BRUTE, i, NULL);
        if (s.draw.rule == KV_RULE_UNKNOWN)
            fail_msg("law '%s' has no rule in engine/rules.h; add one", s.draw.law->name);
        check_against_brute(&s, b);
        done(&s);
    }
    free(b);
}

/* The corners: one layer, one token of prompt, nothing in prefill, nothing decoded. */
static void test_smallest(void **state)
{
    struct brute *b = calloc(1, sizeof *b);
    for (int k = 0; kv_kinds[k]; k++)
        for (int64_t i = 0; i < 160; i++) {
            struct subject s = {0};
            draw_make(&s.draw, FOR_SMALLEST, (uint64_t)i, kv_kinds[k]);
            s.draw.layers = 1 + (i & 1);
            s.draw.request.prompt = 1 + (i >> 1 & 1);
            s.draw.request.prefill = s.draw.request.prompt - (i >> 2 & 1);
            s.draw.request.output = i >> 3 & 3;
            if (s.draw.mask_form == MASK_GATES)
                mask_by_quantile(&s.draw);
            prepare(&s, *state);
            check_jumps(&s);
            if (s.draw.rule != KV_RULE_UNKNOWN)
                check_against_brute(&s, b);
            done(&s);
        }
    free(b);
}

/* ---- worked examples ---- */

/* Presets with the sizes their authors give (notes/policies.md 2-8): entries of each lane after 10000 + 500 tokens. */
static void test_defaults(void **state)
{
    static const struct {
        const char *spec;
        int64_t layer[3];
    } cases[] = {
        {"full", {10500, 10500, 10500}},
        {"streaming", {2004, 2004, 2004}},
        {"h2o", {2048, 2048, 2048}},
        {"l2", {10500, 10500, 4160}},
        {"duo:sparsity=100%", {1152, 1152, 1152}},
        {"prulong:sparsity=100%", {1152, 1152, 1152}},
        {"locret:keep=10%", {3000, 3000, 3000}},               /* 2500 stabilizers + 500 decoded */
        {"locret:keep=40%", {4532, 4532, 4532}},               /* ceil64(4000) + 500 */
        {"snapkv:keep=30%", {3500, 3500, 3500}},               /* 3 x 1200 - 1800 of three chunks of 4000, 4000, 2000 */
        {"snapkv:keep=1%", {692, 692, 692}},                   /* 3 x 64 */
        {"snapkv:keep=1%,patch=64", {644, 644, 644}},          /* 40 + 40 + 64 */
        {"snapkv:keep=30%,when=postfill", {3508, 3508, 3508}}, /* ceil64(3000) */
        {"snapkv:tokens=10,when=postfill", {564, 564, 564}},
        /* B = 2048 - 64, lo = 1984 // 20 = 99, hi = 3869, step = 1885 */
        {"pyramidkv:tokens=2048,when=postfill", {3869 + 564, 1984 + 564, 99 + 564}},
        {"pyramidkv:compression_ratio=0.4", {6500, 6500, 6500}}, /* a budget of more than half is SnapKV */
        /* kvpress: 1000 / 20 = 50 in the last layer, 1950 in the first; below the window all have the mean */
        {"pyramidkv:keep=10%,when=postfill,schedule=kvpress,window_size=16", {2450, 1500, 550}},
        {"pyramidkv:keep=10%,when=postfill,schedule=kvpress,window_size=64", {1500, 1500, 1500}},
        {"adakv:tokens=2048", {2548, 2548, 2548}}, /* the mean */
        {"h2o:when=postfill", {2548, 2548, 2548}},
        {"tova:tokens=100", {100, 100, 100}},
        {"snapkv:keep=1%,sink_size=5000", {5628, 5628, 5628}}, /* 4000 sinks, 1000 and a window, a window */
        {"l2:keep=1%,recent_size=300,when=chunk", {10500, 10500, 800}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct subject s = {.draw = {.layers = 3,
                                     .kv_heads = 1,
                                     .group = 2,
                                     .head_dim = 16,
                                     .request = {.prompt = 10000, .prefill = 10000, .output = 501}}};
        struct kv_defaults run = {.chunk = 4000, .dtype = KV_BF16};
        struct kv_run walked;
        s.arena = kv_arena_open();
        s.model = draw_model(&s.draw, s.arena);
        if (!kv_policy_from_spec(&s.policy, cases[i].spec, s.arena, &s.e) ||
            !kv_policy_prepare(&s.policy, &s.model, &run, &s.shape, s.arena, &s.e) ||
            !kv_classes_make(&s.classes, &s.policy, &s.shape, s.arena, &s.e))
            fail_msg("%s", s.e.text);
        kv_walk_start(&s.walk, &s.policy, &s.shape, &s.classes, &s.draw.request, s.arena);
        while (kv_walk_next(&s.walk, INT64_MAX, &walked))
            continue;
        for (int64_t layer = 0; layer < 3; layer++) {
            int64_t held = s.walk.now[s.classes.member[s.classes.first[layer]].class_index];
            if (held != cases[i].layer[layer])
                fail_msg("%s: layer %lld holds %lld, expected %lld", cases[i].spec, (long long)layer, (long long)held,
                         (long long)cases[i].layer[layer]);
        }
        done(&s);
    }
}

/* The paper's worked picture, arXiv 2506.17121, section 3: a head that may hold three past entries, 26 of 36. Its sum
 * has n + m query steps; what runs has one fewer, so one more output makes the same sum. */
static void test_worked_example(void **state)
{
    struct kv_paper_form form = {.defined = true, .chunk = 2, .sinks = 1, .recents = 2, .head_sparsity = 1};
    (void)state;
    assert_true(kv_paper_count(&form, 4, 4).footprint == 26.0 / 36.0);

    struct subject s = {.draw = {.layers = 1,
                                 .kv_heads = 1,
                                 .group = 1,
                                 .head_dim = 16,
                                 .page = 4,
                                 .request = {.prompt = 4, .prefill = 4, .output = 5}}};
    struct kv_defaults run = {.chunk = 2, .dtype = KV_BF16};
    s.arena = kv_arena_open();
    s.model = draw_model(&s.draw, s.arena);
    assert_true(kv_policy_from_spec(&s.policy, "streaming:sink_size=1,recent_size=2", s.arena, &s.e));
    assert_true(kv_policy_prepare(&s.policy, &s.model, &run, &s.shape, s.arena, &s.e));
    assert_true(kv_classes_make(&s.classes, &s.policy, &s.shape, s.arena, &s.e));
    kv_walk_start(&s.walk, &s.policy, &s.shape, &s.classes, &s.draw.request, s.arena);
    struct kv_ledger l = count(&s, INT64_MAX);
    assert_int_equal(l.steps, 8);
    assert_int_equal(l.entry_steps, 26);
    struct kv_paper_form own = s.policy.law->paper(&s.policy, &s.draw.request, 2);
    assert_true(own.defined);
    assert_true(kv_paper_count(&own, 4, 4).footprint == 26.0 / 36.0);
    done(&s);
}

/* ---- sums ---- */

static void test_floor_sum(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < SUM_DRAWS; i++) {
        struct dice r = dice_for(FOR_SUMS, i);
        int64_t n = roll_size(&r, 0, 300), m = roll_size(&r, 1, 1000), a = roll_size(&r, 0, 5000),
                b = roll_size(&r, 0, 5000), sum = 0;
        for (int64_t j = 0; j < n; j++)
            sum += (a * j + b) / m;
        if (kv_floor_sum(n, m, a, b) != sum)
            fail_msg("kv_floor_sum(%lld, %lld, %lld, %lld) is %lld, expected %lld", (long long)n, (long long)m,
                     (long long)a, (long long)b, (long long)kv_floor_sum(n, m, a, b), (long long)sum);
    }
}

/* Summaries beside the entries, from what the methods store (notes/policies.md 9): Quest two vectors for each block
 * begun, MoBA one, NSA a compressed key and value for each whole block. */
static void test_summaries(void **state)
{
    static const struct {
        const char *spec;
        int64_t block, halves;
        bool whole;
    } cases[] = {{"quest:block_size=16", 16, 2, false},
                 {"moba:block_size=7", 7, 1, false},
                 {"nsa:block_size=5", 5, 2, true},
                 {"full", 1, 0, false},
                 {"minference", 1, 0, false}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct subject s = {.draw = {.layers = 3, .kv_heads = 2, .group = 2, .head_dim = 16}};
        struct kv_defaults run = {.chunk = 64, .dtype = KV_BF16};
        s.arena = kv_arena_open();
        s.model = draw_model(&s.draw, s.arena);
        assert_true(kv_policy_from_spec(&s.policy, cases[i].spec, s.arena, &s.e));
        assert_true(kv_policy_prepare(&s.policy, &s.model, &run, &s.shape, s.arena, &s.e));
        int64_t halves = 0;
        for (int64_t n = 1; n <= 200; n++) {
            int64_t blocks = 0;
            for (int64_t start = 0; start < n; start += cases[i].block)
                blocks += !cases[i].whole || start + cases[i].block <= n;
            int64_t now = 3 * 2 * blocks * cases[i].halves;
            halves += now;
            assert_int_equal(kv_summary_bytes(&s.policy, &s.shape, n), now * 16 * 2);
            assert_true(kv_summary_entry_steps(&s.policy, &s.shape, n) == (double)halves / 2);
        }
        done(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_worked_example),
        cmocka_unit_test(test_floor_sum),
        cmocka_unit_test(test_summaries),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test_setup_teardown(test_jumps, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_long_jumps, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_brute, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_smallest, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
