/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Head masks in both published forms, how many heads each sparsity makes full, and what is said of a bad file. */
#include "sim/core/mask.h"
#include "tests/unit/fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { LAYERS = 32, HEADS = 8, LANES = LAYERS * HEADS };

struct fixture {
    struct kv_arena *a;
    struct kv_err e;
    const char *folder, *path;
    struct kv_mask mask;
    bool full[1024];
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->a = kv_arena_open();
    f->folder = make_folder("mask", f->a);
    f->path = kv_format(f->a, "%s/m.tsv", f->folder);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    static const char *const names[] = {"m.tsv", "masks.tsv", "full_attention_heads.tsv"};
    for (int i = 0; i < 3; i++)
        unlink(kv_format(f->a, "%s/%s", f->folder, names[i]));
    rmdir(f->folder);
    kv_arena_close(f->a);
    free(f);
    return 0;
}

static void write_file(const char *path, const char *text, size_t length)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
}

static bool read_text(struct fixture *f, const char *text, int64_t layers, int64_t heads, int64_t q_heads)
{
    write_file(f->path, text, strlen(text));
    memset(&f->e, 0, sizeof f->e);
    return kv_mask_read(f->path, layers, heads, q_heads, &f->mask, f->a, &f->e);
}

static void must_read(struct fixture *f, const char *text, int64_t layers, int64_t heads)
{
    if (!read_text(f, text, layers, heads, heads))
        fail_msg("%s", f->e.text);
}

/* `expected` starts behind the file's name. */
static void must_fail(struct fixture *f, const char *text, int64_t layers, int64_t heads, const char *expected)
{
    if (read_text(f, text, layers, heads, 4 * heads))
        fail_msg("'%s' is taken", text);
    assert_int_equal(f->e.status, KV_DATA);
    assert_string_equal(f->e.text, kv_format(f->a, "%s%s", f->path, expected));
}

static int64_t count(const bool *full, int64_t lanes)
{
    int64_t n = 0;
    for (int64_t i = 0; i < lanes; i++)
        n += full[i];
    return n;
}

/* ---- what is read ---- */

static void gates_are_read_as_duoattention_writes_them(void **state)
{
    struct fixture *f = *state;
    must_read(f,
              "6.054687500000000000e-01\t0.000000000000000000e+00\t9.687500000000000000e-01\n"
              "1.000000000000000000e+00\t2.490234375000000000e-02\t8.125000000000000000e-01\n",
              2, 3);
    static const double gate[] = {0.60546875, 0, 0.96875, 1, 0.02490234375, 0.8125};
    assert_int_equal(f->mask.layers, 2);
    assert_int_equal(f->mask.heads, 3);
    assert_memory_equal(f->mask.gate, gate, sizeof gate);
    assert_false(f->mask.binary);
}

static void zeros_and_ones_are_read_as_prulong_writes_them(void **state)
{
    struct fixture *f = *state;
    static const double gate[] = {1, 0, 0, 1};
    must_read(f, "1.0\t0.0\n0.0\t1.0\n", 2, 2);
    assert_memory_equal(f->mask.gate, gate, sizeof gate);
    assert_true(f->mask.binary);
    must_read(f, "1 0\n0 1\n", 2, 2);
    assert_memory_equal(f->mask.gate, gate, sizeof gate);
    assert_true(f->mask.binary);
}

static void gates_are_clipped(void **state)
{
    struct fixture *f = *state;
    static const double gate[] = {0, 1, 0.5, 1};
    must_read(f, "-0.1\t1.2\n0.5\t1\n", 2, 2);
    assert_memory_equal(f->mask.gate, gate, sizeof gate);
    assert_false(f->mask.binary);
}

static void line_ends_and_blanks_do_not_matter(void **state)
{
    struct fixture *f = *state;
    static const double gate[] = {0.25, 1, 0, 0.5};
    static const char *const texts[] = {
        "0.25\t1\n0\t0.5\n",     "0.25\t1\n0\t0.5",       "0.25\t1\r\n0\t0.5\r\n",
        "  0.25 1\t\n0  0.5 \n", "0.25\t1\n0\t0.5\n\n\n",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        must_read(f, texts[i], 2, 2);
        assert_memory_equal(f->mask.gate, gate, sizeof gate);
    }
}

static void a_folder_may_be_given(void **state)
{
    struct fixture *f = *state;
    write_file(kv_format(f->a, "%s/masks.tsv", f->folder), "1\t0\n", 4);
    assert_true(kv_mask_read(f->folder, 1, 2, 2, &f->mask, f->a, &f->e));
    assert_true(f->mask.gate[0] == 1);
    write_file(kv_format(f->a, "%s/full_attention_heads.tsv", f->folder), "0.5\t0\n", 6);
    assert_true(kv_mask_read(f->folder, 1, 2, 2, &f->mask, f->a, &f->e)); /* DuoAttention's name comes first */
    assert_true(f->mask.gate[0] == 0.5);
    must_read(f, "0.25\t0\n", 1, 2);
}

/* ---- mistakes ---- */

static void what_is_no_number_is_refused_with_its_place(void **state)
{
    struct fixture *f = *state;
    must_fail(f, "1\t0\n0.5\tx\n", 2, 2, ":2:5: 'x' is not a number");
    must_fail(f, "full\t0\n0\t0\n", 2, 2, ":1:1: 'full' is not a number");
    must_fail(f, "1\t0\n0\t0.5.5\n", 2, 2, ":2:3: '0.5.5' is not a number");
    must_fail(f, "1\tnan\n0\t0\n", 2, 2, ":1:3: 'nan' is not a number");
    must_fail(f, "1\t1e999\n0\t0\n", 2, 2, ":1:3: '1e999' is not a number");
    must_fail(f, "1,0\n0,0\n", 2, 2, ":1:1: '1,0' is not a number");
    must_fail(f, "1\t\v0\n0\t0\n", 2, 2, ":1:3: '?0' is not a number");
    must_fail(f, "1\t\r0\n0\t0\n", 2, 2, ":1:3: '?0' is not a number");
    must_fail(f, "1\t0123456789012345678901234567890123456789x\n0\t0\n", 2, 2,
              ":1:3: '0123456789012345678901234567890123456789' is not a number");
}

static void a_ragged_row_is_refused(void **state)
{
    struct fixture *f = *state;
    must_fail(f, "1\t0\n1\n", 2, 2, ":2: 1 columns, but the model has 2 KV heads; use the mask trained for this model");
    must_fail(f, "1\t0\n1\t0\t1\n", 2, 2,
              ":2: 3 columns, but the model has 2 KV heads; use the mask trained for this model");
}

static void another_number_of_rows_is_refused(void **state)
{
    struct fixture *f = *state;
    must_fail(f, "1\t0\n0\t1\n", 3, 2, ":2: 2 rows, but the model has 3 layers; use the mask trained for this model");
    must_fail(f, "1\t0\n0\t1\n1\t1\n1\t1\n", 3, 2,
              ":4: 4 rows, but the model has 3 layers; use the mask trained for this model");
}

static void an_empty_file_is_refused(void **state)
{
    struct fixture *f = *state;
    assert_false(read_text(f, "", 2, 2, 2));
    assert_non_null(strstr(f->e.text, "0 rows, but the model has 2 layers"));
    assert_false(read_text(f, "\n\n", 2, 2, 2));
}

static void a_gap_is_refused(void **state)
{
    struct fixture *f = *state;
    assert_false(read_text(f, "1\t0\n\n0\t1\n", 2, 2, 2));
}

static void a_mistake_behind_blank_lines_has_its_true_line(void **state)
{
    struct fixture *f = *state;
    assert_false(read_text(f, "1\t0\n\n\n0\tx\n", 2, 2, 2));
    assert_null(strstr(f->e.text, ":2:3: ")); /* the file's second line is blank */
}

static void text_behind_a_lone_carriage_return_is_not_lost(void **state)
{
    struct fixture *f = *state;
    assert_false(read_text(f, "1\t0\r0.5\t0.5\n", 1, 2, 2));
}

static void a_mask_of_query_heads_is_explained(void **state)
{
    must_fail(
        *state, "1 0 1 0 1 0 1 0\n", 1, 2,
        ":1: 8 columns, but the model has 2 KV heads; this looks like a mask of its 8 query heads: a KV head is full "
        "when one of its 4 query heads must be, so give one column for each group");
}

static void a_nul_byte_is_refused(void **state)
{
    struct fixture *f = *state;
    static const char text[] = "1\t0\n0\0\t1\n";
    write_file(f->path, text, sizeof text - 1);
    assert_false(kv_mask_read(f->path, 2, 2, 2, &f->mask, f->a, &f->e));
    assert_string_equal(f->e.text, kv_format(f->a, "%s:2: not a line of tab-separated numbers", f->path));
}

static void a_file_that_is_not_there_is_said(void **state)
{
    struct fixture *f = *state;
    assert_false(kv_mask_read(f->path, 2, 2, 2, &f->mask, f->a, &f->e));
    assert_int_equal(f->e.status, KV_DATA);
    assert_string_equal(f->e.text, kv_format(f->a, "cannot open mask '%s': No such file or directory", f->path));
}

static void a_folder_without_the_file_is_said(void **state)
{
    struct fixture *f = *state;
    assert_false(kv_mask_read(f->folder, 2, 2, 2, &f->mask, f->a, &f->e));
    assert_int_equal(f->e.status, KV_DATA);
    assert_string_equal(f->e.text, kv_format(f->a,
                                             "cannot open mask '%s/full_attention_heads.tsv': No such file or "
                                             "directory",
                                             f->folder));
}

/* ---- choosing by quantile ---- */

/* 256 different gates, in an order that has nothing to do with the lanes'. */
static struct kv_mask distinct_gates(struct fixture *f)
{
    struct kv_mask m = {.layers = LAYERS, .heads = HEADS, .gate = KV_NEW_N(f->a, double, LANES)};
    for (int i = 0; i < LANES; i++)
        m.gate[i] = (i * 101 + 7) % LANES / (double)LANES;
    return m;
}

/* As numpy has it: the linearly interpolated quantile of all gates, and which gates are not below it. */
static int64_t count_as_upstream(const struct kv_mask *m, double sparsity)
{
    int64_t lanes = m->layers * m->heads, n = 0;
    double at = sparsity * (double)(lanes - 1), below = -1, above = -1;
    for (int64_t i = 0; i < lanes; i++) {
        int64_t rank = 0;
        for (int64_t j = 0; j < lanes; j++)
            rank += m->gate[j] < m->gate[i];
        below = rank == (int64_t)floor(at) ? m->gate[i] : below;
        above = rank == (int64_t)ceil(at) ? m->gate[i] : above;
    }
    double threshold = below + (at - floor(at)) * (above - below);
    for (int64_t i = 0; i < lanes; i++)
        n += m->gate[i] >= threshold;
    return n;
}

/* The counts that upstream's loader gives for 32 x 8 heads. */
static const struct {
    double sparsity;
    int64_t full;
} published[] = {
    {0, 256},   {0.1, 230}, {0.2, 205}, {0.25, 192}, {0.3, 179}, {0.4, 154}, {0.5, 128},
    {0.6, 103}, {0.7, 77},  {0.75, 64}, {0.8, 52},   {0.9, 26},  {1, 0},
};
enum { N_PUBLISHED = sizeof published / sizeof *published };

static void as_many_heads_are_full_as_upstream_makes(void **state)
{
    struct fixture *f = *state;
    struct kv_mask m = distinct_gates(f);
    for (int i = 0; i < N_PUBLISHED; i++) {
        int64_t ties = -1;
        kv_mask_by_quantile(&m, published[i].sparsity, f->full, &ties, f->a);
        assert_int_equal(count(f->full, LANES), published[i].full);
        assert_int_equal(ties, 0);
        if (published[i].sparsity < 1)
            assert_int_equal(count_as_upstream(&m, published[i].sparsity), published[i].full);
    }
}

static void the_highest_gates_are_full(void **state)
{
    struct fixture *f = *state;
    struct kv_mask m = distinct_gates(f);
    int64_t ties;
    kv_mask_by_quantile(&m, 0.7, f->full, &ties, f->a);
    for (int i = 0; i < LANES; i++)
        assert_int_equal(f->full[i], m.gate[i] * LANES >= LANES - 77);
}

static void of_equal_gates_those_of_lower_layers_and_heads_are_full(void **state)
{
    struct fixture *f = *state;
    double gate[] = {0.5, 1, 0.5, 0, 0.5, 0.5, 0.2, 0.5}; /* 2 x 4 */
    static const bool expected[] = {1, 1, 1, 0, 0, 0, 0, 0};
    struct kv_mask m = {.layers = 2, .heads = 4, .gate = gate};
    int64_t ties;
    kv_mask_by_quantile(&m, 0.7, f->full, &ties, f->a); /* 8 - ceil(4.9) = 3 */
    assert_memory_equal(f->full, expected, sizeof expected);
    assert_int_equal(ties, 2);                          /* two full ones that five were equal to be */
    kv_mask_by_quantile(&m, 0.2, f->full, &ties, f->a); /* 8 - ceil(1.4) = 6: the five are full together */
    assert_int_equal(count(f->full, 8), 6);
    assert_false(f->full[3] || f->full[6]);
    assert_int_equal(ties, 0);
}

static void equal_gates_are_all_ties(void **state)
{
    struct fixture *f = *state;
    struct kv_mask m = distinct_gates(f);
    int64_t ties;
    for (int i = 0; i < LANES; i++)
        m.gate[i] = 1;
    kv_mask_by_quantile(&m, 0.5, f->full, &ties, f->a);
    assert_int_equal(ties, 128);
    for (int i = 0; i < LANES; i++)
        assert_int_equal(f->full[i], i < 128);
    kv_mask_by_quantile(&m, 0, f->full, &ties, f->a);
    assert_int_equal(count(f->full, LANES), LANES);
    assert_int_equal(ties, 0);
    kv_mask_by_quantile(&m, 1, f->full, &ties, f->a);
    assert_int_equal(count(f->full, LANES), 0);
    assert_int_equal(ties, 0);
}

static void one_head_alone_is_full_until_nothing_is(void **state)
{
    struct fixture *f = *state;
    double gate = 0.3;
    struct kv_mask m = {.layers = 1, .heads = 1, .gate = &gate};
    int64_t ties;
    kv_mask_by_quantile(&m, 0.99, f->full, &ties, f->a);
    assert_true(f->full[0]);
    kv_mask_by_quantile(&m, 1, f->full, &ties, f->a);
    assert_false(f->full[0]);
}

/* ---- by threshold, and without a file ---- */

static void a_file_of_zeros_and_ones_is_taken_as_it_is(void **state)
{
    struct fixture *f = *state;
    const char *text = "";
    for (int layer = 0; layer < LAYERS; layer++) /* 76 ones, as a file trained for 0.7 has */
        for (int head = 0; head < HEADS; head++)
            text = kv_format(f->a, "%s%d%c", text, (layer * HEADS + head) * 53 % LANES < 76,
                             head < HEADS - 1 ? '\t' : '\n');
    must_read(f, text, LAYERS, HEADS);
    assert_true(f->mask.binary);
    kv_mask_by_threshold(&f->mask, 0.5, f->full);
    assert_int_equal(count(f->full, LANES), 76);
    for (int i = 0; i < LANES; i++)
        assert_int_equal(f->full[i], i * 53 % LANES < 76);
    int64_t ties;
    kv_mask_by_quantile(&f->mask, 0.7, f->full, &ties, f->a); /* upstream promotes one */
    assert_int_equal(count(f->full, LANES), 77);
    assert_int_equal(ties, 1);
}

static void a_gate_at_the_threshold_streams(void **state)
{
    struct fixture *f = *state;
    static const bool expected[] = {0, 0, 1, 1};
    must_read(f, "0.25\t0.5\n0.50000001\t1\n", 2, 2);
    kv_mask_by_threshold(&f->mask, 0.5, f->full);
    assert_memory_equal(f->full, expected, sizeof expected);
    kv_mask_by_threshold(&f->mask, 1, f->full);
    assert_int_equal(count(f->full, 4), 0);
}

static void a_synthetic_mask_has_as_many_full_heads(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < N_PUBLISHED; i++) {
        kv_mask_synthetic(LAYERS, HEADS, published[i].sparsity, f->full);
        assert_int_equal(count(f->full, LANES), published[i].full);
    }
}

static void a_synthetic_mask_is_spread_evenly(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < N_PUBLISHED; i++) {
        kv_mask_synthetic(LAYERS, HEADS, published[i].sparsity, f->full);
        for (int layer = 0; layer < LAYERS; layer++) {
            int64_t n = count(f->full + layer * HEADS, HEADS), least = published[i].full / LAYERS;
            if (n < least || n > least + 1)
                fail_msg("sparsity %g: %lld full heads in layer %d, expected %lld or %lld", published[i].sparsity,
                         (long long)n, layer, (long long)least, (long long)least + 1);
        }
    }
}

/* ---- the published patterns, where they lie beside the project ---- */

static const struct pattern {
    const char *name;
    int64_t heads, ones, zeros; /* after clipping */
    double mean;
    double half; /* share of gates of at least 0.5 */
} patterns[] = {
    {"Meta-Llama-3.1-8B-Instruct", 8, 57, -1, 0.852, 0.91},
    {"Llama-3-8B-Instruct-Gradient-1048k", 8, 82, 18, 0.769, 0.81},
    {"Llama-3-8B-Instruct-Gradient-4194k", 8, 80, 15, NAN, NAN},
    {"Mistral-7B-Instruct-v0.2", 8, 110, 5, 0.923, 0.95},
    {"Mistral-7B-Instruct-v0.3", 8, 107, 8, NAN, NAN},
    {"Llama-2-7B-32K-Instruct", 32, 145, 274, 0.419, 0.44},
};

static bool read_pattern(struct fixture *f, const struct pattern *p)
{
    const char *folder = kv_format(f->a, "../shared/patterns/duo-attention/%s", p->name);
    if (access(kv_format(f->a, "%s/full_attention_heads.tsv", folder), R_OK)) {
        print_message("# no %s: the published patterns are not beside the project\n", folder);
        return false;
    }
    memset(&f->e, 0, sizeof f->e);
    if (!kv_mask_read(folder, LAYERS, p->heads, 32, &f->mask, f->a, &f->e))
        fail_msg("%s", f->e.text);
    return true;
}

static void published_patterns_are_what_their_authors_say(void **state)
{
    struct fixture *f = *state;
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        const struct pattern *p = &patterns[i];
        if (!read_pattern(f, p))
            skip();
        int64_t lanes = LAYERS * p->heads, ones = 0, zeros = 0, half = 0;
        double sum = 0;
        for (int64_t j = 0; j < lanes; j++) {
            sum += f->mask.gate[j];
            half += f->mask.gate[j] >= 0.5;
            ones += f->mask.gate[j] == 1;
            zeros += f->mask.gate[j] == 0;
        }
        assert_false(f->mask.binary);
        assert_int_equal(ones, p->ones);
        if (p->zeros >= 0)
            assert_int_equal(zeros, p->zeros);
        double mean = sum / (double)lanes, above = (double)half / (double)lanes;
        if (fabs(mean - p->mean) > 0.0006 || fabs(above - p->half) > 0.0051)
            fail_msg("%s: mean %.4f, %.4f of at least half; expected %g, %g", p->name, mean, above, p->mean, p->half);
    }
}

static void published_patterns_have_the_known_ties(void **state)
{
    struct fixture *f = *state;
    int64_t ties;
    if (!read_pattern(f, &patterns[0]))
        skip();
    for (int i = 0; i < N_PUBLISHED; i++) {
        kv_mask_by_quantile(&f->mask, published[i].sparsity, f->full, &ties, f->a);
        assert_int_equal(count(f->full, LANES), published[i].full);
    }
    kv_mask_by_quantile(&f->mask, 0.75, f->full, &ties, f->a);
    assert_int_equal(ties, 7);
    kv_mask_by_quantile(&f->mask, 0.9, f->full, &ties, f->a);
    assert_int_equal(ties, 26);
    if (!read_pattern(f, &patterns[3]))
        skip();
    kv_mask_by_quantile(&f->mask, 0.7, f->full, &ties, f->a);
    assert_int_equal(ties, 77);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(gates_are_read_as_duoattention_writes_them),
        TEST(zeros_and_ones_are_read_as_prulong_writes_them),
        TEST(gates_are_clipped),
        TEST(line_ends_and_blanks_do_not_matter),
        TEST(a_folder_may_be_given),
        TEST(what_is_no_number_is_refused_with_its_place),
        TEST(a_ragged_row_is_refused),
        TEST(another_number_of_rows_is_refused),
        TEST(an_empty_file_is_refused),
        TEST(a_gap_is_refused),
        TEST(a_mistake_behind_blank_lines_has_its_true_line),
        TEST(text_behind_a_lone_carriage_return_is_not_lost),
        TEST(a_mask_of_query_heads_is_explained),
        TEST(a_nul_byte_is_refused),
        TEST(a_file_that_is_not_there_is_said),
        TEST(a_folder_without_the_file_is_said),
        TEST(as_many_heads_are_full_as_upstream_makes),
        TEST(the_highest_gates_are_full),
        TEST(of_equal_gates_those_of_lower_layers_and_heads_are_full),
        TEST(equal_gates_are_all_ties),
        TEST(one_head_alone_is_full_until_nothing_is),
        TEST(a_file_of_zeros_and_ones_is_taken_as_it_is),
        TEST(a_gate_at_the_threshold_streams),
        TEST(a_synthetic_mask_has_as_many_full_heads),
        TEST(a_synthetic_mask_is_spread_evenly),
        TEST(published_patterns_are_what_their_authors_say),
        TEST(published_patterns_have_the_known_ties),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
