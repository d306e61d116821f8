/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What holds of every kind of timing: more of anything never takes less, nothing jumps where a table ends, and far
 * beyond it time goes by bytes and pairs. On rooflines, and on measured tables where they lie beside the tree. */
#include "sim/core/preset.h"
#include "sim/serve/timing.h"
#include "tests/unit/measured.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct sizes {
    int64_t chunk, n_chunks, decodes;
    double prefix, length;
};

/* Longer decodes on the step's line: to the bit what the step takes itself. */
static void check_line(const struct kv_timing *t, struct kv_step step, const struct kv_step_time *out)
{
    struct kv_step_time along = *out, there;
    struct kv_err e = {0};
    double from = step.decode_kv, until = fmin(out->line.until, 1.7 * from + 3);
    for (int i = 0; i <= 4 && until >= from; i++) {
        step.decode_kv = floor(from + (until - from) * i / 4);
        if (out->line.per_kv > 0)
            kv_timing_along(&along, step.decode_kv);
        assert_true(kv_timing_step(t, &step, &there, &e));
        assert_true(along.s == there.s);
        assert_memory_equal(along.part, there.part, sizeof there.part);
    }
}

static double seconds(const struct kv_timing *t, const struct sizes *z, double *outside)
{
    struct kv_step_chunk chunk[4];
    struct kv_step_time out;
    struct kv_err e = {0};
    struct kv_step step = {.tokens = z->decodes,
                           .sequences = z->decodes + z->n_chunks,
                           .decodes = z->decodes,
                           .decode_kv = (double)z->decodes * z->length,
                           .decode_kv_squares = (double)z->decodes * z->length * z->length,
                           .chunk = chunk,
                           .n_chunks = z->n_chunks};
    for (int64_t i = 0; i < z->n_chunks; i++) {
        chunk[i] = (struct kv_step_chunk){z->chunk, z->prefix};
        step.tokens += z->chunk;
    }
    if (!kv_timing_step(t, &step, &out, &e))
        fail_msg("%s", e.text);
    double sum = 0;
    for (int i = 0; i < KV_TIME_PARTS; i++) {
        if (!(out.part[i] >= -1e-12 * out.s))
            fail_msg("a part of a step is %g of %g s", out.part[i], out.s);
        sum += out.part[i];
    }
    if (!isfinite(out.s) || out.s <= 0 || !(out.outside >= 1) || fabs(sum / out.s - 1) > 1e-12)
        fail_msg("a step takes %g s, of parts that add up to %g, %g outside", out.s, sum, out.outside);
    check_line(t, step, &out);
    *outside = out.outside;
    return out.s;
}

/* From inside to far outside along one size; `from` outside on by factors, nothing may fall. `least` is how much of the
 * growth of bytes or pairs must be seen in the end (0: none asked for). */
static void check_along(const char *what, const struct kv_timing *t, struct sizes *z, void *size, bool whole,
                        double begin, double least)
{
    double before = 0, asked = 1, x = begin, outside_before = 1;
    for (int i = 0; i < 64; i++, x *= 1.4142135623730951) {
        if (whole)
            *(int64_t *)size = (int64_t)x;
        else
            *(double *)size = x;
        double outside, s = seconds(t, z, &outside);
        /* measured tables may fall inside, by their noise; beyond the end nothing is measured */
        if (outside_before > 1.01 && s < before * (1 - 1e-12))
            fail_msg("%s: at %g the step takes %.9g s, less than %.9g s before it", what, x, s, before);
        if (outside_before > 1.01 && outside < outside_before * (1 - 1e-12))
            fail_msg("%s: at %g it is %g outside, but %g before", what, x, outside, outside_before);
        if (outside > 100 && least > 0) {
            if (s < before * least)
                fail_msg("%s: at %g, %gx outside, a step takes %g s after %g", what, x, outside, s, before);
            return;
        }
        before = s;
        outside_before = outside;
        asked = x;
    }
    if (least > 0)
        fail_msg("%s: never far outside, up to %g", what, asked);
}

/* Where `outside` leaves 1, the step before and the one after are neighbours. */
static void check_edge(const char *what, const struct kv_timing *t, struct sizes *z, double *size, double low,
                       double high, double jump)
{
    double outside;
    for (int i = 0; i < 60; i++) {
        double middle = (low + high) / 2;
        *size = middle;
        seconds(t, z, &outside);
        if (outside > 1)
            high = middle;
        else
            low = middle;
    }
    *size = low;
    double inside_s = seconds(t, z, &outside);
    *size = high;
    double beyond_s = seconds(t, z, &outside);
    if (outside <= 1 || fabs(beyond_s / inside_s - 1) > jump)
        fail_msg("%s: %.9g s at %g, but %.9g s at %g", what, inside_s, low, beyond_s, high);
}

static void check_timing(const char *what, const struct kv_timing *t, bool table, double step_of_table)
{
    struct sizes z = {.decodes = 8, .length = 256};
    check_along(kv_format(arena, "%s, decode length", what), t, &z, &z.length, false, 128, table ? 1.3 : 0);
    z = (struct sizes){.decodes = 8, .length = 256};
    check_along(kv_format(arena, "%s, decodes", what), t, &z, &z.decodes, true, 1, 0);
    z = (struct sizes){.chunk = 128, .n_chunks = 1};
    check_along(kv_format(arena, "%s, prefix", what), t, &z, &z.prefix, false, 64, table ? 1.3 : 0);
    z = (struct sizes){.chunk = 128, .n_chunks = 1, .prefix = 512};
    check_along(kv_format(arena, "%s, chunk", what), t, &z, &z.chunk, true, 16, 0);
    z = (struct sizes){.chunk = 128, .n_chunks = 1, .prefix = 512, .decodes = 8, .length = 256};
    check_along(kv_format(arena, "%s, decodes beside a chunk", what), t, &z, &z.decodes, true, 1, 0);
    z = (struct sizes){.chunk = 128, .n_chunks = 1, .prefix = 512, .decodes = 8, .length = 256};
    check_along(kv_format(arena, "%s, length beside a chunk", what), t, &z, &z.length, false, 64, 0);
    z = (struct sizes){.chunk = 64, .n_chunks = 3, .prefix = 512, .decodes = 8, .length = 256};
    check_along(kv_format(arena, "%s, three chunks", what), t, &z, &z.chunk, true, 16, 0);
    if (!table)
        return;
    z = (struct sizes){.decodes = 8, .length = 256};
    check_edge(kv_format(arena, "%s, the longest decodes", what), t, &z, &z.length, 512, 1e7, step_of_table);
    z = (struct sizes){.chunk = 128, .n_chunks = 1};
    check_edge(kv_format(arena, "%s, the longest prefix", what), t, &z, &z.prefix, 64, 1e7, step_of_table);
}

static struct kv_timing *opened(struct kv_settings *s, const struct kv_model *m)
{
    struct kv_timing *t;
    struct kv_err e = {0};
    s->path = "test.ini";
    s->timing.attention_batching_overhead = 0.1;
    s->timing.compute_efficiency = 0.7;
    s->timing.bandwidth_efficiency = 0.8;
    s->hardware.memory_bandwidth = 2e12;
    s->hardware.peak_flops = 300e12;
    s->hardware.link_bandwidth = 25e9;
    if (!kv_timing_open(&t, s, m, arena, &e))
        fail_msg("%s", e.text);
    return t;
}

static void rooflines(void **state)
{
    (void)state;
    static const char *const models[] = {"Llama-3.1-8B", "Llama-3.2-1B", "Mixtral-8x7B", "DeepSeek-V3", "Gemma-2-9B"};
    for (int i = 0; i < 5; i++) {
        struct kv_model m;
        struct kv_err e = {0};
        struct kv_settings s = {.timing = {.model = KV_TIMING_ROOFLINE}};
        if (!kv_model_find(models[i], &m, arena, &e))
            fail_msg("%s", e.text);
        check_timing(models[i], opened(&s, &m), false, 0);
    }
}

static void tables(void **state)
{
    (void)state;
    /* one step of the table (64 tokens) may lie between both sides of an edge; the others are continuous */
    static const struct {
        const char *folder;
        double step;
    } all[] = {{"step_time_a100_llama3_8b", 0.05},
               {"llmservingsim/rtxpro6000_llama31_8b_tp1", 1e-6},
               {"llmservingsim/rtx4090_llama31_8b_tp1", 1e-6},
               {"aiconfigurator/a100_vllm_0.14.0", 1e-6},
               {"aiconfigurator/h200_vllm_0.24.0", 1e-6}};
    int there = 0;
    struct kv_model m;
    struct kv_err e = {0};
    if (!kv_model_find("Llama-3.1-8B", &m, arena, &e))
        fail_msg("%s", e.text);
    for (int i = 0; i < 5; i++) {
        const char *path = measured(all[i].folder);
        struct kv_settings s = {.timing = {.model = KV_TIMING_TABLE, .profile = path}};
        if (!path)
            continue;
        there++;
        check_timing(all[i].folder, opened(&s, &m), true, all[i].step);
    }
    if (!there)
        skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rooflines), cmocka_unit_test(tables)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
