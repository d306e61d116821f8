/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Runs every suite it knows in a folder of golden data: footprint/ (values computed with the released footprint
 * functions of arXiv 2506.17121), model_geometry.csv (public model shapes) and policies/ (kept sets of upstream code).
 * Other names are ignored. One row of a file, one case of policies/, is one test.
 *
 *     golden [--tap] DIR          closes with 'N passed, N failed, N skipped'; status 1 when one failed */
#include "sim/core/paper.h"
#include "sim/core/preset.h"
#include "sim/core/store.h"
#include "sim/core/units.h"
#include "sim/csv.h"
#include "tests/golden/golden.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define TOLERANCE 1e-12

void check(struct tally *t, bool good, const char *name, const char *why)
{
    t->passed += good;
    t->failed += !good;
    if (t->tap)
        printf("%sok %d - %s\n", good ? "" : "not ", t->passed + t->failed + t->skipped, name);
    if (!good)
        printf("%s%s: %s\n", t->tap ? "# " : "", name, why);
}

void skip(struct tally *t, const char *name, const char *why)
{
    t->skipped++;
    if (t->tap)
        printf("ok %d - %s # SKIP %s\n", t->passed + t->failed + t->skipped, name, why);
    else
        printf("%s: skipped: %s\n", name, why);
}

static bool is_there(const char *path)
{
    struct stat st;
    return !stat(path, &st);
}

static double real(const struct kv_csv *csv, const char *name)
{
    int column = kv_csv_column(csv, name);
    return column < 0 ? NAN : strtod(csv->cell[column], NULL);
}

static int64_t whole(const struct kv_csv *csv, const char *name)
{
    int column = kv_csv_column(csv, name);
    return column < 0 ? INT64_MIN : strtoll(csv->cell[column], NULL, 10);
}

static const char *text(const struct kv_csv *csv, const char *name)
{
    int column = kv_csv_column(csv, name);
    return column < 0 ? "" : csv->cell[column];
}

static bool near(double a, double b)
{
    return fabs(a - b) <= TOLERANCE;
}

/* ---- footprint/ ---- */

static void check_pair(struct tally *t, const struct kv_csv *csv, struct kv_paper got, const char *footprint,
                       const char *peak, struct kv_arena *a)
{
    double want_footprint = real(csv, footprint), want_peak = real(csv, peak);
    check(t, near(got.footprint, want_footprint) && near(got.peak, want_peak),
          kv_format(a, "%s:%lld", csv->path, (long long)csv->line),
          kv_format(a, "footprint %.17g, want %.17g; peak %.17g, want %.17g", got.footprint, want_footprint, got.peak,
                    want_peak));
}

static struct kv_paper_form read_form(const struct kv_csv *csv, bool locret)
{
    return (struct kv_paper_form){
        .defined = true,
        .locret = locret,
        .chunk = whole(csv, "prefill_chunk_size"),
        .kv_sparsity = real(csv, locret ? "locret_sparsity" : "kv_sparsity"),
        .sinks = locret ? 0 : whole(csv, "sink_tokens"),
        .recents = locret ? 0 : whole(csv, "local_window_size"),
        .head_sparsity = locret ? 0 : real(csv, "head_sparsity"),
        .local = locret ? whole(csv, "locret_local_len") : 0,
        .stabilizers = locret ? whole(csv, "locret_stabilizers") : 0,
    };
}

static void case_row(struct tally *t, const struct kv_csv *csv, struct kv_arena *a)
{
    bool locret = kv_csv_column(csv, "locret_sparsity") >= 0;
    struct kv_paper_form form = read_form(csv, locret);
    check_pair(t, csv, kv_paper_count(&form, whole(csv, "prompt_len"), whole(csv, "response_len")), "kv_footprint",
               "kv_peak", a);
}

/* Lists of examples, ';' between: the plain mean of each example's own values. */
static void average_row(struct tally *t, const struct kv_csv *csv, struct kv_arena *a)
{
    struct kv_paper_form form = read_form(csv, false);
    struct kv_paper mean = {0};
    const char *prompt = text(csv, "prompt_lens"), *output = text(csv, "response_lens");
    int n = 0;
    for (; *prompt && *output; n++) {
        char *next_prompt, *next_output;
        struct kv_paper one =
            kv_paper_count(&form, strtoll(prompt, &next_prompt, 10), strtoll(output, &next_output, 10));
        mean.footprint += one.footprint;
        mean.peak += one.peak;
        prompt = next_prompt + (*next_prompt == ';');
        output = next_output + (*next_output == ';');
    }
    mean.footprint /= n;
    mean.peak /= n;
    check_pair(t, csv, mean, "mean_kv_footprint", "mean_kv_peak", a);
}

/* ---- model_geometry.csv ---- */

static void geometry_row(struct tally *t, const struct kv_csv *csv, struct kv_arena *a)
{
    static struct kv_err e;
    e = (struct kv_err){0};
    struct kv_model m;
    const char *name = kv_format(a, "%s:%lld: %s", csv->path, (long long)csv->line, text(csv, "model"));
    if (!kv_model_find(text(csv, "model"), &m, a, &e)) {
        check(t, false, name, e.text);
        return;
    }
    const struct {
        const char *column;
        int64_t got;
    } want[] = {
        {"layers", m.layers},
        {"q_heads", m.q_heads},
        {"kv_heads", m.kv_heads},
        {"head_dim", m.head_dim},
        {"hidden", m.hidden},
        {"vocab", m.vocab},
        {"max_positions", m.max_positions},
        {"sliding_window", m.sliding_window},
        {"experts", m.experts},
        {"parameters", m.parameters},
        {"kv_bytes_per_token_bf16", kv_store_token_bytes(&m, KV_BF16)},
        {"kv_bytes_131072_bf16", kv_store_token_bytes(&m, KV_BF16) * 131072},
    };
    const char *why = "";
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        if (want[i].got != whole(csv, want[i].column))
            why = kv_format(a, "%s %s is %lld, want %s", why, want[i].column, (long long)want[i].got,
                            text(csv, want[i].column));
    check(t, !*why, name, why);
}

/* ---- suites ---- */

static const struct {
    const char *file;
    void (*row)(struct tally *t, const struct kv_csv *csv, struct kv_arena *a);
} suites[] = {
    {"footprint/footprint.csv", case_row},
    {"footprint/footprint_locret.csv", case_row},
    {"footprint/footprint_averages.csv", average_row},
    {"model_geometry.csv", geometry_row},
};

static void run_suite(struct tally *t, size_t suite, const char *folder)
{
    static struct kv_err e;
    e = (struct kv_err){0};
    struct kv_arena *a = kv_arena_open();
    const char *path = kv_format(a, "%s/%s", folder, suites[suite].file);
    struct kv_csv csv;
    if (!is_there(path)) {
        skip(t, suites[suite].file, "not in the folder");
    } else if (!kv_csv_open(&csv, path, a, &e)) {
        check(t, false, path, e.text);
    } else {
        enum kv_next next;
        while ((next = kv_csv_next(&csv, &e)) == KV_NEXT_ROW)
            suites[suite].row(t, &csv, a);
        if (next == KV_NEXT_BAD)
            check(t, false, path, e.text);
        kv_csv_close(&csv);
    }
    kv_arena_close(a);
}

static void run_policies(struct tally *t, const char *folder)
{
    struct kv_arena *a = kv_arena_open();
    const char *path = kv_format(a, "%s/policies", folder);
    if (is_there(path))
        run_policy_cases(t, path);
    else
        skip(t, "policies", "not in the folder");
    kv_arena_close(a);
}

int main(int argc, char **argv)
{
    struct tally t = {.tap = argc > 1 && !strcmp(argv[1], "--tap")};
    const char *folder = argc > 1 + t.tap ? argv[1 + t.tap] : NULL;
    if (!folder || !is_there(folder)) {
        fprintf(stderr, folder ? "golden: no folder '%s'\n" : "usage: golden [--tap] DIR%.0s\n", folder ? folder : "");
        return KV_USAGE;
    }
    for (size_t i = 0; i < sizeof suites / sizeof *suites; i++)
        run_suite(&t, i, folder);
    run_policies(&t, folder);
    if (t.tap)
        printf("1..%d\n", t.passed + t.failed + t.skipped);
    else
        printf("%d passed, %d failed, %d skipped\n", t.passed, t.failed, t.skipped);
    return t.failed ? KV_NO : KV_OK;
}
