/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Made-up traces: that they are like what was measured, that sums are those of attention, and that the order in which
 * rows are made changes nothing. */
#include "sim/core/select.h"
#include "sim/synth.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct fixture {
    struct kv_arena *a;
    struct kv_err e;
    struct kv_synth *s;
    struct kv_synth_shape shape;
    float *row;
};

static struct kv_synth_asked asked(void)
{
    static const struct kv_mark needle = {"needle", 3000, 3010};
    return (struct kv_synth_asked){.model = "synthetic",
                                   .layers = 8,
                                   .q_heads = 16,
                                   .kv_heads = 8,
                                   .head_dim = 128,
                                   .n_prompt = 20000,
                                   .n_output = 201,
                                   .chunk = 8192,
                                   .decode_tick = 64,
                                   .window = 64,
                                   .channels = (1u << KV_SCORE_CHANNELS) - 1,
                                   .n_needles = 1,
                                   .needle = &needle,
                                   .seed = 1};
}

static void open_synth(struct fixture *f, const struct kv_synth_asked *q, int threads)
{
    f->s = kv_synth_open(q, threads, f->a, &f->e);
    assert_non_null(f->s);
    kv_synth_shape_close(&f->shape);
    assert_true(kv_synth_shape_open(f->s, &f->shape, &f->e));
    free(f->row);
    f->row = malloc(((size_t)kv_synth_tokens(q) + KV_SLACK) * sizeof *f->row);
    assert_non_null(f->row);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct kv_synth_asked q = asked();
    assert_non_null(f);
    f->a = kv_arena_open();
    open_synth(f, &q, 2);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    kv_synth_shape_close(&f->shape);
    kv_arena_close(f->a);
    free(f->row);
    free(f);
    return 0;
}

static void between(const char *what, int kind, double value, double least, double most)
{
    if (!(value >= least && value <= most))
        fail_msg("%s of %s heads is %g; expected %g .. %g", what, kv_head_kind_names[kind], value, least, most);
}

/* The ranges that vectors of real attention were described with, over lanes of 20000 tokens. */
static void heads_are_as_they_were_measured(void **state)
{
    struct fixture *f = *state;
    struct kv_synth_facts facts[KV_HEAD_KINDS];
    assert_true(kv_synth_facts(f->s, 2, facts, f->a, &f->e));
    for (int k = 0; k < KV_HEAD_KINDS; k++) {
        between("number", k, (double)facts[k].lanes, 5, 40);
        between("lowest entropy", k, facts[k].entropy_least, k == KV_HEAD_SINK ? 0.5 : 4.5, 15);
        between("highest entropy", k, facts[k].entropy_most, 2, 15);
        between("overlap", k, facts[k].overlap, 0.5, 0.9);
    }
    between("mass of sinks", KV_HEAD_SINK, facts[KV_HEAD_SINK].sinks, 0.6, 0.98);
    between("mass of sinks", KV_HEAD_DIFFUSE, facts[KV_HEAD_DIFFUSE].sinks, 0.02, 0.15);
    between("top tenth", KV_HEAD_DIFFUSE, facts[KV_HEAD_DIFFUSE].top, 0.35, 0.53);
    between("top tenth", KV_HEAD_RETRIEVAL, facts[KV_HEAD_RETRIEVAL].top, 0.85, 0.99);
    between("top tenth", KV_HEAD_RECENCY, facts[KV_HEAD_RECENCY].top, 0.5, 0.98);
}

static double expected_sum(const struct kv_synth_asked *q, enum kv_channel what, const struct kv_tick *t)
{
    int64_t n = t->end - t->begin;
    switch (what) {
    case KV_WINDOW_LOCAL:
        return (double)(t->n_patch ? q->window : n < q->window ? n : q->window);
    case KV_WINDOW_SEEN:
        return (double)q->window;
    case KV_COLUMN_SUM:
        return (double)n;
    case KV_LAST_ROW:
        return 1;
    default:
        return (double)(kv_synth_tokens(q) - t->end);
    }
}

static void sums_are_those_of_attention(void **state)
{
    struct fixture *f = *state;
    for (int variant = 0; variant < 4; variant++) {
        struct kv_synth_asked q = asked();
        q.query_heads = variant & 1;
        q.patch = variant & 2 ? 64 : 0;
        q.layers = 2;
        open_synth(f, &q, 2);
        const struct kv_trace_about *b = kv_synth_about(f->s);
        for (int64_t t = 0; t < b->n_ticks; t++)
            for (int what = 0; what <= KV_LATER_SUM; what++) {
                double wanted = expected_sum(&q, (enum kv_channel)what, &b->tick[t]);
                bool less = what == KV_LATER_SUM || (what == KV_WINDOW_LOCAL && b->tick[t].n_patch);
                kv_synth_turn(f->s, &f->shape, (enum kv_channel)what, t);
                for (int64_t s = 0; s < kv_synth_streams(&q, (enum kv_channel)what); s++) {
                    kv_synth_row(f->s, &f->shape, s, f->row);
                    double sum = kv_select_best()->sum(f->row, NULL, f->shape.end - f->shape.first);
                    if (sum > wanted * 1.0001 || (!less && sum < wanted * 0.9999) || sum < wanted * 0.01)
                        fail_msg("%s, tick %lld, row %lld adds up to %g; expected %g", kv_channels[what].name,
                                 (long long)t, (long long)s, sum, wanted);
                }
            }
    }
}

static void all_numbers_are_ones_that_can_be(void **state)
{
    struct fixture *f = *state;
    const struct kv_trace_about *b = kv_synth_about(f->s);
    for (int64_t t = 0; t < b->n_ticks; t++)
        for (int what = 0; what < KV_SCORE_CHANNELS; what++) {
            kv_synth_turn(f->s, &f->shape, (enum kv_channel)what, t);
            for (int64_t s = 0; s < 64; s += 5) {
                kv_synth_row(f->s, &f->shape, s, f->row);
                for (int64_t j = 0; j < f->shape.end - f->shape.first; j++) {
                    float x = f->row[j];
                    assert_true(isfinite(x));
                    assert_true(what > KV_VALUE_NORM || x >= 0);
                    assert_true(what != KV_KEY_COSINE || fabsf(x) <= 1);
                    assert_true((what != KV_KEY_NORM && what != KV_VALUE_NORM) || (x > 0.1f && x < 200));
                }
            }
        }
}

static void sinks_have_short_keys(void **state)
{
    struct fixture *f = *state;
    kv_synth_turn(f->s, &f->shape, KV_KEY_NORM, 0);
    for (int64_t s = 0; s < 64; s++) {
        double sum = 0;
        kv_synth_row(f->s, &f->shape, s, f->row);
        for (int64_t j = 4; j < 8192; j++)
            sum += (double)f->row[j] / 8188;
        assert_true((double)f->row[0] < sum / 2);
        assert_true(sum > 6 && sum < 15);
    }
}

/* Which of its positions rank first, of a row of retrieval heads. */
static void needles_are_found_when_they_are_asked_for(void **state)
{
    struct fixture *f = *state;
    int64_t found = 0, lanes = 0;
    kv_synth_turn(f->s, &f->shape, KV_WINDOW_SEEN, 2); /* the prompt's end */
    for (int64_t s = 0; s < 64; s++) {
        if (kv_synth_kind(f->s, s / 8, s % 8) != KV_HEAD_RETRIEVAL)
            continue;
        double needle = 0;
        kv_synth_row(f->s, &f->shape, s, f->row);
        for (int64_t j = 3000; j < 3010; j++)
            needle += (double)f->row[j] / 64;
        lanes++;
        found += needle > 0.05;
    }
    assert_true(lanes > 5);
    assert_int_equal(found, lanes);
}

/* The order and the threads change nothing, nor do channels that are there besides. */
static void rows_depend_on_nothing_else(void **state)
{
    struct fixture *f = *state;
    struct kv_synth_asked q = asked();
    struct kv_synth_shape other;
    q.channels = 1u << KV_LAST_ROW;
    struct kv_synth *s = kv_synth_open(&q, 1, f->a, &f->e);
    float *row = malloc((size_t)(kv_synth_tokens(&q) + KV_SLACK) * sizeof *row);
    assert_non_null(s);
    assert_non_null(row);
    assert_true(kv_synth_shape_open(s, &other, &f->e));
    for (int64_t t = 4; t >= 0; t -= 2)
        for (int what = 0; what < KV_SCORE_CHANNELS; what++) {
            kv_synth_turn(f->s, &f->shape, KV_LAST_ROW, 1);
            kv_synth_turn(f->s, &f->shape, (enum kv_channel)what, t);
            kv_synth_turn(s, &other, (enum kv_channel)what, t);
            for (int64_t i = 0; i < 64; i += 9) {
                kv_synth_row(f->s, &f->shape, 63 - i, f->row);
                kv_synth_row(f->s, &f->shape, i, f->row);
                kv_synth_row(s, &other, i, row);
                assert_memory_equal(row, f->row, (size_t)(other.end - other.first) * sizeof *row);
            }
        }
    kv_synth_shape_close(&other);
    free(row);
}

/* What is at the edges: fewer tokens than sinks, a window longer than the prompt, passes of one token. */
static void short_requests_are_made(void **state)
{
    struct fixture *f = *state;
    for (int64_t prompt = 1; prompt < 8; prompt++)
        for (int64_t chunk = 1; chunk < 4; chunk++) {
            struct kv_synth_asked q = asked();
            q.n_prompt = prompt;
            q.n_output = 3;
            q.chunk = chunk;
            q.decode_tick = 1;
            q.n_needles = 0;
            q.layers = 3;
            q.patch = prompt > 2 ? 2 : 0;
            q.tail = prompt > 4 ? 2 : 0;
            open_synth(f, &q, 2);
            const struct kv_trace_about *b = kv_synth_about(f->s);
            assert_int_equal(b->tick[0].begin, 0);
            assert_int_equal(b->tick[b->n_ticks - 1].end, prompt + 2);
            for (int64_t t = 0; t < b->n_ticks; t++)
                for (int what = 0; what < KV_SCORE_CHANNELS; what++) {
                    kv_synth_turn(f->s, &f->shape, (enum kv_channel)what, t);
                    for (int64_t s = 0; s < 24; s++) {
                        kv_synth_row(f->s, &f->shape, s, f->row);
                        for (int64_t j = 0; j < f->shape.end - f->shape.first; j++)
                            assert_true(isfinite(f->row[j]));
                    }
                }
        }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(heads_are_as_they_were_measured),
        TEST(sums_are_those_of_attention),
        TEST(all_numbers_are_ones_that_can_be),
        TEST(sinks_have_short_keys),
        TEST(needles_are_found_when_they_are_asked_for),
        TEST(rows_depend_on_nothing_else),
        TEST(short_requests_are_made),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
