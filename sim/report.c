/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/report.h"

#include "sim/compare.h"
#include "sim/core/units.h"
#include "sim/csv.h"
#include "sim/output.h"
#include "sim/plot.h"
#include "sim/report_html.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char style[] =
    "body{font:16px/1.45 system-ui,sans-serif;color:#1a1a1a;background:#fff;max-width:78rem;margin:2rem auto;padding:0 "
    "1rem}"
    "h1{font-size:1.6rem;margin:.2rem 0}h2{font-size:1.25rem;margin:2rem 0 .5rem}section{border-top:2px solid "
    "#ddd;margin-top:2rem}"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}"
    "th,td{padding:.25rem .6rem;border-bottom:1px solid "
    "#e4e4e4;text-align:left;vertical-align:bottom}td.n{text-align:right;"
    "white-space:nowrap}"
    "pre{background:#f6f6f6;padding:.8rem;overflow-x:auto;font-size:.8rem}figure{margin:1rem "
    "0}svg{max-width:100%;height:auto}"
    "figcaption{font-size:.85rem;color:#555}.yes{color:#00603a}.no{color:#a33a00}details{margin:.5rem 0}"
    "summary{cursor:pointer}@media print{details{display:block}}";

/* ---- what a picture shows ---- */

static const char *caption_of(enum kv_plot_result of, const char *name)
{
    static const struct {
        enum kv_plot_result of;
        const char *name, *text;
    } captions[] = {
        {KV_PLOT_TRAFFIC, "memory", "KV memory over time, a panel for each policy; the dashed line is the pool."},
        {KV_PLOT_TRAFFIC, "latency", "Share of requests that are as fast."},
        {KV_PLOT_TRAFFIC, "pareto", "Output tokens a second against the peak of the pool."},
        {KV_PLOT_TRAFFIC, "clocks", "Footprint in tokens, as the paper counts it, against GiB s on the wall."},
        {KV_PLOT_TRAFFIC, "measured", "Each request of the measured run against the simulated one; errors below."},
        {KV_PLOT_TRAFFIC, "curves", "Requests that run and wait, simulated and measured."},
        {KV_PLOT_SWEEP, "rate", "p99 of latencies against the rate of requests, with the knee."},
        {KV_PLOT_PLAN, "memory", "Bytes of one request while its tokens are seen."},
        {KV_PLOT_PLAN, "entries", "Entries of one request while its tokens are seen."},
        {KV_PLOT_PLAN, "chunk", "Footprint against the prefill chunk."},
        {KV_PLOT_PLAN, "bars", "Footprint and peak of each policy."},
        {KV_PLOT_PLAN, "pages", "What page tables cost beside the entries held."},
        {KV_PLOT_CRITICAL, "critical", "Score against KV footprint; where a curve first falls below the threshold."},
        {KV_PLOT_REPLAY, "heads", "Entries kept, by layer and head."},
        {KV_PLOT_REPLAY, "heads_mass", "Attention mass kept, by layer and head."},
        {KV_PLOT_REPLAY, "mass", "Attention mass kept against footprint. Mass is no task score."},
        {KV_PLOT_REPLAY, "pages", "What page tables cost beside the entries held."},
        {KV_PLOT_REPLAY, "timeline", "What is held while tokens are seen."},
    };
    for (size_t i = 0; i < sizeof captions / sizeof *captions; i++)
        if (captions[i].of == of && !strcmp(captions[i].name, name))
            return captions[i].text;
    return name;
}

static bool put_pictures(struct kv_report *r, int which, FILE *out, struct kv_arena *a, struct kv_err *e)
{
    struct kv_drawn drawn;
    const char *folder = kv_scratch_folder("kvsim-report", a, e);
    if (!folder)
        return false;
    bool good = kv_plot_draw(&drawn, r->result[which], r->measured, folder, a, e);
    r->missing |= good && drawn.missing;
    if (good && drawn.n)
        fputs("<h2>Pictures</h2>\n", out);
    for (int i = 0; good && i < drawn.n; i++) {
        const char *caption = caption_of(drawn.of, drawn.name[i]);
        fputs("<figure>\n", out);
        good = kv_html_svg(out, kv_format(a, "%s/%s.svg", folder, drawn.name[i]), kv_format(a, "r%dp%d-", which, i),
                           caption, e);
        fputs("\n<figcaption>", out);
        kv_html_text(out, caption);
        fputs("</figcaption></figure>\n", out);
    }
    if (good && drawn.missing)
        fputs("<p>There is no gnuplot here, so there are no pictures.</p>\n", out);
    kv_remove_tree(folder);
    return good;
}

/* ---- verdict and reading ---- */

static const char *text_of(const json_t *root, const char *key)
{
    const char *text = json_string_value(json_object_get(root, key));
    return text ? text : "";
}

static void put_paragraph(FILE *out, const char *text)
{
    fputs("<li>", out);
    kv_html_text(out, text);
    fputs("</li>\n", out);
}

static const char *bytes_of(double bytes, struct kv_arena *a)
{
    char text[KV_NUMBER_TEXT];
    return kv_copy_text(a, kv_print_bytes(text, fabs(bytes) < 9e18 ? llrint(bytes) : 0));
}

/* NaN when it is not there. */
static double number_of(const json_t *row, const char *key)
{
    const json_t *value = json_object_get(row, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static void read_row(const json_t *row, FILE *out, struct kv_arena *a)
{
    const char *name = text_of(row, "policy"), *verdict = text_of(row, "verdict"), *limit = text_of(row, "limit");
    double peak = number_of(row, "pool_peak_bytes"), share = number_of(row, "pool_peak_share");
    double preemptions = number_of(row, "preemptions"), outside = number_of(row, "outside_tables");
    double refused = number_of(row, "refused_requests"), unfinished = number_of(row, "unfinished_requests");
    double within = number_of(row, "slo_share");
    if (*verdict)
        put_paragraph(out, kv_format(a, "%s: %s%s%s; KV peaks at %s, %.3g %% of the pool%s.", name, verdict,
                                     *limit ? ", held back by " : "", limit, bytes_of(peak, a), 100 * share,
                                     preemptions > 0 ? kv_format(a, ", with %.0f preemptions", preemptions) : ""));
    if (!isnan(within))
        put_paragraph(out, kv_format(a, "%s: %.1f %% of requests keep what [slo] promises.", name, 100 * within));
    if (refused > 0 || unfinished > 0)
        put_paragraph(out,
                      kv_format(a, "%s: %.0f requests were refused, %.0f not finished.", name, refused, unfinished));
    if (outside > 1)
        put_paragraph(out,
                      kv_format(a, "%s: times are extrapolated, up to %.2g times outside the tables.", name, outside));
    if (*text_of(row, "note"))
        put_paragraph(out, kv_format(a, "%s: %s", name, text_of(row, "note")));
}

static void put_reading(const json_t *root, enum kv_plot_result of, FILE *out, struct kv_arena *a)
{
    const json_t *rows = json_object_get(root, "policies"), *fits = json_object_get(root, "fits");
    bool unknown = false;
    if (json_is_boolean(fits))
        fprintf(out, "<p><strong class=\"%s\">%s</strong></p>\n", json_is_true(fits) ? "yes" : "no",
                of == KV_PLOT_TRAFFIC
                    ? json_is_true(fits) ? "Some policy serves this traffic." : "No policy serves this traffic."
                : json_is_true(fits) ? "Some policy fits."
                                     : "No policy fits.");
    fputs("<ul>\n", out);
    for (size_t i = 0; i < json_array_size(rows); i++) {
        read_row(json_array_get(rows, i), out, a);
        unknown |= !strcmp(text_of(json_array_get(rows, i), "quality"), "unknown");
    }
    if (*text_of(root, "time"))
        put_paragraph(out, kv_format(a, "Time: %s", text_of(root, "time")));
    if (unknown)
        put_paragraph(
            out, "Quality: unknown. No task scores were given; memory and time rank no policies by their answers.");
    if (json_is_false(json_object_get(root, "complete")))
        put_paragraph(out, "These results are incomplete.");
    fputs("</ul>\n", out);
}

/* ---- a result ---- */

static const char *const *main_columns(enum kv_plot_result of)
{
    static const char *const traffic[] = {"policy",
                                          "kv_footprint_paper",
                                          "kv_footprint_actual",
                                          "request_peak_p99_bytes",
                                          "pool_peak_bytes",
                                          "pool_peak_share",
                                          "pool_mean_bytes",
                                          "ttft_p50_s",
                                          "ttft_p99_s",
                                          "tpot_p50_s",
                                          "tpot_p99_s",
                                          "e2e_p99_s",
                                          "output_tokens_per_s",
                                          "slo_share",
                                          "preemptions",
                                          "limit",
                                          "verdict",
                                          "quality",
                                          NULL};
    static const char *const plan[] = {"policy",
                                       "chunk_tokens",
                                       "kv_footprint_paper",
                                       "kv_footprint_actual",
                                       "kv_peak_actual",
                                       "request_peak_bytes",
                                       "request_resident_bytes",
                                       "pool_share",
                                       "fit_requests",
                                       "fit_per_head_requests",
                                       "largest_context_tokens",
                                       "quality",
                                       NULL};
    static const char *const replay[] = {
        "policy",    "chunk_tokens", "kv_footprint", "kv_peak", "pages_peak_bytes", "pages_end_bytes", "mass_held",
        "mass_kept", "mass_later",   "marks_kept",   NULL};
    static const char *const critical[] = {
        "task",       "policy",          "mark",           "critical_footprint",  "points",
        "full_score", "threshold_score", "published_mark", "published_footprint", NULL};
    return of == KV_PLOT_TRAFFIC    ? traffic
           : of == KV_PLOT_PLAN     ? plan
           : of == KV_PLOT_REPLAY   ? replay
           : of == KV_PLOT_CRITICAL ? critical
                                    : NULL;
}

static bool put_tables(const char *path, enum kv_plot_result of, FILE *out, struct kv_arena *a, struct kv_err *e)
{
    int n;
    const char *const *wanted = main_columns(of);
    fputs("<h2>Table</h2>\n", out);
    if (!kv_html_csv(out, path, wanted, &n, a, e))
        return false;
    if (wanted)
        fputs("<details><summary>All columns</summary>\n", out);
    bool good = !wanted || kv_html_csv(out, path, NULL, &n, a, e);
    if (wanted)
        fputs("</details>\n", out);
    return good;
}

static bool put_comparison(const struct kv_report *r, const char *result, FILE *out, struct kv_arena *a,
                           struct kv_err *e)
{
    struct kv_compared_runs c;
    bool good = kv_compare_runs(&c, result, r->measured, NULL, 0, a, e);
    if (good) {
        fputs("<h2>Simulated against measured</h2>\n<div class=\"wide\"><table>\n<thead><tr>", out);
        for (int k = 0; k < c.table.n_columns; k++) {
            fputs("<th scope=\"col\">", out);
            kv_html_text(out, c.table.column[k].key);
            fputs("</th>", out);
        }
        fputs("</tr></thead>\n<tbody>\n", out);
        for (int i = 0; i < c.table.n_rows; i++) {
            const struct kv_cell *cell = &c.table.cell[i * c.table.n_columns];
            fputs("<tr>", out);
            for (int k = 0; k < c.table.n_columns; k++) {
                bool text = c.table.column[k].kind == KV_CELL_TEXT;
                bool share = c.table.column[k].kind == KV_CELL_SHARE;
                fputs(text ? "<td>" : "<td class=\"n\">", out);
                kv_html_text(out, text ? cell[k].text
                                  : isnan(cell[k].real)
                                      ? "-"
                                      : kv_format(a, share ? "%+.1f %%" : "%.4g", (share ? 100 : 1) * cell[k].real));
                fputs("</td>", out);
            }
            fputs("</tr>\n", out);
        }
        fputs("</tbody></table></div>\n<p>Measured: ", out);
        kv_html_text(out, c.b.path);
        fputs("</p>\n", out);
    }
    kv_compare_runs_close(&c);
    return good;
}

static bool put_result(struct kv_report *r, int which, FILE *out, struct kv_arena *a, struct kv_err *e)
{
    const char *result = r->result[which], *path = result;
    enum kv_plot_result of;
    if (!kv_plot_is_result(&path, &of, "report", a, e))
        return false;
    json_t *root = json_load_file(kv_format(a, "%s/summary.json", result), 0, NULL);
    const char *name = text_of(root, "name"), *model = text_of(root, "model"), *device = text_of(root, "device");
    fputs("<section>\n<h1>", out);
    kv_html_text(out, *name ? name : result);
    fputs("</h1>\n<p>", out);
    kv_html_text(out, kv_format(a, "%s%s%s%s%s", result, *model ? ": " : "", model, *device ? " on " : "", device));
    fputs("</p>\n", out);
    if (root)
        put_reading(root, of, out, a);
    json_decref(root);
    const char *table = of == KV_PLOT_SWEEP      ? path
                        : of == KV_PLOT_CRITICAL ? kv_format(a, "%s/critical.csv", result)
                                                 : kv_format(a, "%s/policies.csv", result);
    if (!put_tables(table, of, out, a, e) || (r->measured && !put_comparison(r, result, out, a, e)) ||
        !put_pictures(r, which, out, a, e))
        return false;
    fputs("<h2>Where it comes from</h2>\n", out);
    kv_html_file(out, "Configuration, every value that is set", kv_format(a, "%s/config.resolved.ini", result));
    kv_html_file(out, "Provenance: versions, inputs and their hashes", kv_format(a, "%s/provenance.json", result));
    fputs("</section>\n", out);
    return true;
}

bool kv_report_write(struct kv_report *r, FILE *out, struct kv_arena *a, struct kv_err *e)
{
    fputs("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
          /* Should anything slip through, a browser loads and runs nothing. */
          "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
          "<title>kvsim: ",
          out);
    kv_html_text(out, r->result[0]);
    fprintf(out, "%s</title>\n<style>%s</style>\n</head>\n<body>\n", r->n > 1 ? " and others" : "", style);
    for (int i = 0; i < r->n; i++)
        if (!put_result(r, i, out, a, e))
            return false;
    fputs("</body>\n</html>\n", out);
    return true;
}
