/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Footprint and peak as published: known rows, the paper's picture, and a loop over single queries. Known rows are
 * values of the functions that the authors released (princeton-pli/PruLong, eval/viz/kv_footprint.py), of which the
 * golden data have hundreds more. */
#include "sim/core/paper.h"
#include "sim/core/least.h"
#include "sim/core/random.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

static void check_close(struct kv_paper got, double footprint, double peak, const char *what)
{
    if (!(fabs(got.footprint - footprint) <= 1e-12) || !(fabs(got.peak - peak) <= 1e-12))
        fail_msg("%s: footprint %.17g, peak %.17g; expected %.17g, %.17g", what, got.footprint, got.peak, footprint,
                 peak);
}

/* ---- known rows ---- */

static const struct row {
    int64_t prompt, output, chunk, sinks, recents;
    double kv_sparsity, head_sparsity, footprint, peak;
} rows[] = {
    {91000, 100, 8192, 128, 1024, 0.0, 0.7, 0.3784485450226647, 0.3685444566410539},
    {38000, 10240, 32768, 128, 1024, 0.0, 0.7, 0.6419532706209767, 0.6792703150912106},
    {131072, 1, 128, 128, 1024, 0.0, 0.1, 0.9018476197544169, 0.9009696886467846},
    {131072, 1, 128, 128, 1024, 0.0, 1.0, 0.018476197544168335, 0.009765550494762461},
    {131072, 64, 131071, 128, 1024, 0.0, 0.7, 0.9993123398753873, 0.9995043313811616},
    {32768, 512, 4096, 0, 0, 0.0, 0.75, 0.3409077251284517, 0.3384615384615385},
    {32768, 512, 4096, 131072, 128, 0.0, 0.75, 1.0, 1.0},
    {1, 10240, 128, 128, 1024, 0.0, 0.5, 0.6062439057800925, 0.556293330729421},
    {110000, 20, 32768, 0, 0, 0.3, 0.0, 0.7846486827180574, 0.7335211779676423},
    {110000, 20, 32768, 0, 0, 0.9, 0.0, 0.3511011833223735, 0.35857116887838575},
    {6000, 3072, 131072, 0, 0, 0.5, 0.0, 0.7808440299347387, 0.6763668430335097},
    {50001, 333, 65537, 64, 256, 0.5, 0.5, 0.990170726794442, 0.9933841935868399},
    {65536, 2048, 8192, 128, 1024, 0.6, 0.65, 0.26317873564377964, 0.25340687144886365},
    {1000, 17, 25, 4, 60, 0.9, 0.3, 0.7435697272110854, 0.719174041297935},
    {2000, 17, 165, 4, 60, 0.7, 0.3, 0.5429133829250185, 0.526524541398116},
    {8192, 17, 203, 4, 60, 0.5, 0.3, 0.5875234290993115, 0.579120477524668},
    {129, 1, 128, 0, 0, 0.5, 0.0, 1.0, 1.0},
    /* without output: what the released code answers outside its domain, a stale peak that is the last pass's */
    {1000, 0, 128, 4, 60, 0.0, 0.5, 0.6189410589410589, 0.584},
    {1024, 0, 1024, 128, 1024, 0.0, 1.0, 1.0, 1.0},
    {5000, 0, 4096, 128, 1024, 0.0, 1.0, 0.7871324935012998, 0.8192},
};

static void known_rows_are_met(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct row *r = &rows[i];
        struct kv_paper_form form = {.defined = true,
                                     .chunk = r->chunk,
                                     .sinks = r->sinks,
                                     .recents = r->recents,
                                     .kv_sparsity = r->kv_sparsity,
                                     .head_sparsity = r->head_sparsity};
        char what[32];
        snprintf(what, sizeof what, "row %zu", i);
        check_close(kv_paper_count(&form, r->prompt, r->output), r->footprint, r->peak, what);
    }
}

static const struct locret_row {
    int64_t prompt, output, chunk;
    double kv_sparsity;
    int64_t local, stabilizers;
    double footprint, peak;
} locret_rows[] = {
    {110000, 20, 8192, 0.5, 100, 2500, 0.8194191074107068, 0.8114161061625159},
    {24000, 3072, 32768, 0.9, 100, 2500, 0.8354535312501992, 0.8828309692671394},
    {6000, 3072, 8192, 0.9, 100, 2500, 0.7834214001229689, 0.6902557319223986},
    {99, 1, 128, 0.5, 100, 2500, 1.0, 1.0}, /* at most the tail: one pass */
    {100, 1, 128, 0.5, 100, 2500, 1.0, 1.0},
    {101, 1, 128, 0.5, 100, 2500, 1.0, 1.0},
    {50, 10, 16, 0.5, 0, 0, 0.6273224043715847, 0.5833333333333334},
    {4096, 16, 1024, 1.0, 100, 10, 0.24480791189745715, 0.2538910505836576},
    {4196, 16, 1024, 0.5, 100, 10, 0.626055020310895, 0.6149097815764483},
    {4197, 16, 1024, 0.5, 100, 10, 0.6260062898856129, 0.6147638262520769},
    {5000, 7, 25, 0.9, 3, 0, 0.084766949274211, 0.0840822848012782},
    {65536, 64, 3000, 0.35, 1000, 10, 0.6688370529747278, 0.6580487804878049},
};

static void known_rows_of_locret_are_met(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof locret_rows / sizeof *locret_rows; i++) {
        const struct locret_row *r = &locret_rows[i];
        struct kv_paper_form form = {.defined = true,
                                     .chunk = r->chunk,
                                     .kv_sparsity = r->kv_sparsity,
                                     .locret = true,
                                     .stabilizers = r->stabilizers,
                                     .local = r->local};
        char what[32];
        snprintf(what, sizeof what, "row %zu", i);
        check_close(kv_paper_count(&form, r->prompt, r->output), r->footprint, r->peak, what);
    }
}

/* 1 + 2 + 3 + 4 x 5 of 1 + 2 + ... + 8: a head that may hold three past entries, 4 prompt tokens in chunks of 2, 4
 * output tokens. */
static void the_picture_of_the_paper(void **state)
{
    (void)state;
    struct kv_paper_form form = {.defined = true, .chunk = 2, .sinks = 1, .recents = 2, .head_sparsity = 1};
    check_close(kv_paper_count(&form, 4, 4), 26.0 / 36, 4.0 / 8, "the picture");
}

/* ---- by hand ---- */

static void a_full_cache_is_one(void **state)
{
    (void)state;
    static const int64_t prompts[] = {1, 2, 127, 128, 129, 10000, KV_PAPER_TOKENS - 10000};
    for (int i = 0; i < 7; i++)
        for (int64_t output = 0; output < 10000; output = 7 * output + 1) {
            struct kv_paper_form form = {.defined = true, .chunk = 1 << 20};
            check_close(kv_paper_count(&form, prompts[i], output), 1, 1, "the full cache");
        }
}

static void the_cut_of_a_chunk_is_rounded_to_even(void **state)
{
    (void)state;
    /* 0.5 x 325 = 162.5 entries of each whole chunk stay, which is 162, and 64 more: 226; then 226 again */
    struct kv_paper_form form = {.defined = true, .chunk = 325, .kv_sparsity = 0.5};
    double triangle = 325 * 326 / 2.0, sum = 2 * triangle + 325 * 226 + 1 * (226 + 226 + 1);
    check_close(kv_paper_count(&form, 650, 1), sum / (651 * 652 / 2.0), 551.0 / 651, "two chunks of 325");
    /* 0.5 x 327 = 163.5 is 164, and 64 more: 228 */
    form.chunk = 327;
    triangle = 327 * 328 / 2.0;
    sum = 2 * triangle + 327 * 228 + 1 * (228 + 228 + 1);
    check_close(kv_paper_count(&form, 654, 1), sum / (655 * 656 / 2.0), 555.0 / 655, "two chunks of 327");
}

static void small_chunks_lose_nothing(void **state)
{
    (void)state;
    struct kv_paper_form form = {.defined = true, .chunk = 91, .kv_sparsity = 0.7};
    check_close(kv_paper_count(&form, 9100, 10), 1, 1, "chunks of 64 / 0.7 tokens");
    form.chunk = 93;
    assert_true(kv_paper_count(&form, 9300, 10).footprint < 1);
}

/* ---- a loop over single queries ---- */

/* The peak of a mix is that of the mixed points: they are kept for both heads. */
enum { MOST_POINTS = 4000 };
struct points {
    double at[MOST_POINTS];
    int n;
};

static double streaming_head(const struct kv_paper_form *f, int64_t prompt, int64_t output, struct points *points)
{
    double active = 0;
    points->n = 0;
    for (int64_t start = 0; start < prompt; start += f->chunk) {
        int64_t past = kv_least(start, f->sinks + f->recents), position = start;
        for (; position < prompt && position < start + f->chunk; position++)
            active += (double)(past + position - start + 1);
        points->at[points->n++] = (double)(past + position - start);
    }
    double last = 0;
    for (int64_t position = prompt; position < prompt + output; position++) {
        last = (double)(kv_least(position, f->sinks + f->recents) + 1);
        active += last;
    }
    if (output)
        points->at[points->n++] = last;
    return active;
}

static double other_head(const struct kv_paper_form *f, int64_t prompt, int64_t output, struct points *points)
{
    double active = 0;
    int64_t past = 0, start = 0, local = f->locret ? kv_least(f->local, prompt) : 0;
    points->n = 0;
    while (start < prompt) {
        int64_t end = start < prompt - local ? kv_least(start + f->chunk, prompt - local) : prompt;
        for (int64_t position = start; position < end; position++)
            active += (double)(past + position - start + 1);
        points->at[points->n++] = (double)(past + end - start);
        double stays = nearbyint((1.0 - f->kv_sparsity) * (double)(end - start));
        past += kv_least((int64_t)stays + (f->locret ? f->stabilizers : 64), end - start);
        start = end;
    }
    for (int64_t i = 1; i <= output; i++)
        active += (double)(past + i);
    if (output)
        points->at[points->n++] = (double)(past + output);
    return active;
}

static struct kv_paper query_by_query(const struct kv_paper_form *f, int64_t prompt, int64_t output)
{
    static struct points streaming, other;
    double h = f->head_sparsity, all = 0, peak = 0;
    for (int64_t i = 1; i <= prompt + output; i++)
        all += (double)i;
    double other_active = other_head(f, prompt, output, &other);
    double streaming_active = f->locret ? 0 : streaming_head(f, prompt, output, &streaming);
    if (f->locret)
        streaming = other; /* weighs nothing */
    assert_int_equal(streaming.n, other.n);
    for (int i = 0; i < other.n; i++)
        peak = fmax(peak, h * streaming.at[i] + (1.0 - h) * other.at[i]);
    return (struct kv_paper){.footprint = h * streaming_active / all + (1.0 - h) * other_active / all,
                             .peak = peak / (double)(prompt + output)};
}

static uint64_t draw(uint64_t id, uint64_t n)
{
    return kv_random(11, kv_purpose("paper"), id, 0) % n;
}

static void check_against_queries(bool locret)
{
    static const double dyadic[] = {0, 0.25, 0.5, 0.75, 1};
    for (uint64_t i = 0; i < 1500; i++) {
        uint64_t id = 20 * i + (locret ? 1000000 : 0);
        int64_t most = (int64_t[]){10, 100, 3000}[i % 3];
        int64_t prompt = 1 + (int64_t)draw(id, (uint64_t)most), output = (int64_t)draw(id + 1, (uint64_t)most);
        int64_t chunk = 1 + (int64_t)draw(id + 2, i % 5 ? (uint64_t)prompt + 3 : 8);
        struct kv_paper_form form = {
            .defined = true,
            .chunk = chunk,
            .kv_sparsity = i % 2 ? dyadic[draw(id + 3, 5)] : (double)draw(id + 3, 101) / 100,
            .locret = locret,
        };
        if (locret) {
            form.stabilizers = (int64_t)draw(id + 4, 100);
            form.local = (int64_t)draw(id + 5, 150);
        } else {
            form.sinks = (int64_t)draw(id + 4, 10);
            form.recents = (int64_t)draw(id + 5, (uint64_t)most);
            form.head_sparsity = i % 7 ? (double)draw(id + 6, 101) / 100 : 1;
        }
        struct kv_paper expected = query_by_query(&form, prompt, output);
        char what[160];
        snprintf(what, sizeof what,
                 "prompt %lld, output %lld, chunk %lld, sinks %lld, recents %lld, stabilizers %lld, "
                 "local %lld, kv %g, heads %g",
                 (long long)prompt, (long long)output, (long long)chunk, (long long)form.sinks, (long long)form.recents,
                 (long long)form.stabilizers, (long long)form.local, form.kv_sparsity, form.head_sparsity);
        check_close(kv_paper_count(&form, prompt, output), expected.footprint, expected.peak, what);
    }
}

static void random_cases_agree_with_a_loop_over_queries(void **state)
{
    (void)state;
    check_against_queries(false);
}

static void random_cases_of_locret_agree_with_a_loop_over_queries(void **state)
{
    (void)state;
    check_against_queries(true);
}

static void the_largest_request_is_counted_without_overflow(void **state)
{
    (void)state;
    struct kv_paper_form form = {.defined = true, .chunk = 1 << 20, .sinks = 128, .recents = 1024, .head_sparsity = 1};
    struct kv_paper p = kv_paper_count(&form, KV_PAPER_TOKENS - 1000, 1000);
    double tokens = (double)KV_PAPER_TOKENS, chunk = 1 << 20;
    /* each query sees half a chunk and the window */
    assert_true(fabs(p.footprint * tokens / (chunk + 2 * 1152) - 1) < 1e-3);
    assert_true(fabs(p.peak * tokens / (chunk + 1152) - 1) < 1e-9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_rows_are_met),
        cmocka_unit_test(known_rows_of_locret_are_met),
        cmocka_unit_test(the_picture_of_the_paper),
        cmocka_unit_test(a_full_cache_is_one),
        cmocka_unit_test(the_cut_of_a_chunk_is_rounded_to_even),
        cmocka_unit_test(small_chunks_lose_nothing),
        cmocka_unit_test(random_cases_agree_with_a_loop_over_queries),
        cmocka_unit_test(random_cases_of_locret_agree_with_a_loop_over_queries),
        cmocka_unit_test(the_largest_request_is_counted_without_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
