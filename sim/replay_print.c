/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/replay_print.h"

#include "sim/core/units.h"
#include "sim/output.h"

#include <math.h>
#include <string.h>

#ifndef KV_VERSION
#define KV_VERSION "unknown"
#endif

static const struct kv_column columns[] = {
    {"policy", "policy", KV_CELL_TEXT},
    {"chunk_tokens", "chunk", KV_CELL_COUNT},
    {"kv_footprint", "KV\nfootprint", KV_CELL_SHARE},
    {"kv_peak", "KV\npeak", KV_CELL_SHARE},
    {"pages_peak_bytes", "in pages\nat peak", KV_CELL_BYTES},
    {"pages_end_bytes", "at the\nend", KV_CELL_BYTES},
    {"mass_held", "mass\nheld", KV_CELL_SHARE},
    {"mass_kept", "mass\nkept", KV_CELL_SHARE},
    {"mass_inner", "kept\ninside", KV_CELL_SHARE},
    {"mass_later", "later\nmass", KV_CELL_SHARE},
    {"oracle_overlap", "like the\noracle", KV_CELL_SHARE},
    {"marks_kept", "marks\nkept", KV_CELL_SHARE},
    {"ties", "ties", KV_CELL_COUNT},
    {"decisions", NULL, KV_CELL_COUNT},
    {"approximate_decisions", NULL, KV_CELL_COUNT},
    {"loop", NULL, KV_CELL_TEXT},
    {"kept_sets_differ", NULL, KV_CELL_COUNT},
    {"keep", NULL, KV_CELL_REAL},
    {"kv_footprint_paper", NULL, KV_CELL_REAL},
    {"kv_peak_scope_layer", NULL, KV_CELL_REAL},
    {"kv_peak_scope_pass", NULL, KV_CELL_REAL},
    {"held_peak_bytes", NULL, KV_CELL_BYTES},
    {"held_end_bytes", NULL, KV_CELL_BYTES},
    {"returned_bytes", NULL, KV_CELL_BYTES},
    {"per_head_peak_bytes", NULL, KV_CELL_BYTES},
    {"per_layer_peak_bytes", NULL, KV_CELL_BYTES},
    {"shared_peak_bytes", NULL, KV_CELL_BYTES},
    {"per_head_in_place_peak_bytes", NULL, KV_CELL_BYTES},
    {"per_layer_in_place_peak_bytes", NULL, KV_CELL_BYTES},
    {"shared_in_place_peak_bytes", NULL, KV_CELL_BYTES},
    {"per_head_end_bytes", NULL, KV_CELL_BYTES},
    {"per_layer_end_bytes", NULL, KV_CELL_BYTES},
    {"shared_end_bytes", NULL, KV_CELL_BYTES},
    {"per_head_in_place_end_bytes", NULL, KV_CELL_BYTES},
    {"per_layer_in_place_end_bytes", NULL, KV_CELL_BYTES},
    {"shared_in_place_end_bytes", NULL, KV_CELL_BYTES},
    {"lane_entries_least", NULL, KV_CELL_COUNT},
    {"lane_entries_most", NULL, KV_CELL_COUNT},
    {"passes", NULL, KV_CELL_COUNT},
    {"evictions", NULL, KV_CELL_COUNT},
    {"note", NULL, KV_CELL_TEXT},
};

static double marks_kept(const struct kv_replay *r, const struct kv_replay_run *run)
{
    double sum = 0;
    for (int m = 0; m < r->about.n_marks; m++)
        sum += run->mark[2 * m + 1];
    return r->about.n_marks ? sum / r->about.n_marks : NAN;
}

static void set_pages(const struct kv_table *t, struct kv_cell *row, const struct kv_replay_run *run,
                      const struct kv_replay_asked *q)
{
    static const char *const layouts[] = {"per_head", "per_layer", "shared"};
    static const char *const hows[] = {"", "_in_place"};
    char key[64];
    for (int layout = 0; layout < KV_LAYOUTS; layout++)
        for (int how = 0; how < KV_COMPACTIONS; how++) {
            snprintf(key, sizeof key, "%s%s_peak_bytes", layouts[layout], hows[how]);
            kv_set_whole(t, row, key, run->count.pages[layout][how][q->scope].bytes);
            snprintf(key, sizeof key, "%s%s_end_bytes", layouts[layout], hows[how]);
            kv_set_whole(t, row, key, run->count.pages_end[layout][how]);
        }
    int how = q->in_place ? KV_IN_PLACE : KV_COMPACT;
    kv_set_whole(t, row, "pages_peak_bytes", run->count.pages[q->layout][how][q->scope].bytes);
    kv_set_whole(t, row, "pages_end_bytes", run->count.pages_end[q->layout][how]);
    kv_set_whole(t, row, "returned_bytes", run->count.returned[q->layout][how]);
}

static void fill_row(const struct kv_replay *r, const struct kv_replay_run *run, const struct kv_table *t,
                     struct kv_cell *row)
{
    const struct kv_replay_asked *q = &r->asked;
    const struct kv_count *n = &run->count;
    int64_t least = INT64_MAX, most = 0;
    for (int64_t i = 0; i < run->cache.lanes; i++) {
        int64_t held = kv_cache_held(&run->cache, i / run->shape.store_heads, i % run->shape.store_heads);
        least = held < least ? held : least;
        most = held > most ? held : most;
    }
    kv_set_text(t, row, "policy", run->policy.name);
    kv_set_whole(t, row, "chunk_tokens", run->policy.when.chunk);
    kv_set_real(t, row, "kv_footprint", n->footprint_actual);
    kv_set_real(t, row, "kv_footprint_paper", n->footprint_paper);
    kv_set_real(t, row, "kv_peak", n->peak_actual[q->scope]);
    kv_set_real(t, row, "kv_peak_scope_layer", n->peak_actual[KV_SCOPE_LAYER]);
    kv_set_real(t, row, "kv_peak_scope_pass", n->peak_actual[KV_SCOPE_PASS]);
    kv_set_whole(t, row, "held_peak_bytes", n->held[q->scope].bytes);
    kv_set_whole(t, row, "held_end_bytes", n->held_end);
    set_pages(t, row, run, q);
    kv_set_real(t, row, "keep", run->policy.kept);
    kv_set_real(t, row, "mass_held", run->mass_held);
    kv_set_real(t, row, "mass_kept", run->mass_kept);
    kv_set_real(t, row, "mass_inner", run->mass_inner);
    kv_set_real(t, row, "mass_later", run->mass_later);
    kv_set_real(t, row, "oracle_overlap", run->overlap);
    kv_set_real(t, row, "marks_kept", marks_kept(r, run));
    kv_set_whole(t, row, "ties", run->ties);
    kv_set_whole(t, row, "decisions", run->decisions);
    kv_set_whole(t, row, "approximate_decisions", run->approximate);
    kv_set_text(t, row, "loop", r->closed ? "closed" : "open");
    kv_set_whole(t, row, "kept_sets_differ", r->closed && r->about.has_kept ? run->differs : -1);
    kv_set_whole(t, row, "lane_entries_least", least);
    kv_set_whole(t, row, "lane_entries_most", most);
    kv_set_whole(t, row, "passes", n->passes);
    kv_set_whole(t, row, "evictions", n->evictions);
    kv_set_text(t, row, "note", run->policy.note);
}

static void make_table(const struct kv_replay *r, struct kv_table *t, struct kv_arena *a)
{
    kv_table_open(t, columns, sizeof columns / sizeof *columns, a);
    for (int i = 0; i < r->n_runs; i++)
        fill_row(r, &r->run[i], t, kv_table_row(t));
}

void kv_replay_csv(const struct kv_replay *r, FILE *out, struct kv_arena *a)
{
    struct kv_table t;
    make_table(r, &t, a);
    kv_table_csv(&t, out);
}

/* ---- for people ---- */

/* Columns in which no policy has a number are left out. */
static void print_table(const struct kv_replay *r, struct kv_arena *a)
{
    enum { N = sizeof columns / sizeof *columns };
    struct kv_column shown[N];
    struct kv_table t;
    make_table(r, &t, a);
    memcpy(shown, columns, sizeof columns);
    for (int c = 0; c < N; c++) {
        bool any = false;
        for (int i = 0; i < t.n_rows; i++) {
            const struct kv_cell *cell = &t.cell[i * N + c];
            any |= columns[c].kind == KV_CELL_TEXT                                       ? cell->text != NULL
                   : columns[c].kind == KV_CELL_SHARE || columns[c].kind == KV_CELL_REAL ? !isnan(cell->real)
                                                                                         : cell->whole >= 0;
        }
        if (!any || (!strcmp(columns[c].key, "mass_held") && isnan(t.cell[c].real)))
            shown[c].title = NULL;
    }
    t.column = shown;
    kv_table_print(&t, stdout);
}

static void print_loop(const struct kv_replay *r)
{
    int64_t decisions = 0, approximate = 0, differs = 0;
    for (int i = 0; i < r->n_runs; i++) {
        decisions += r->run[i].decisions;
        approximate += r->run[i].approximate;
        differs += r->run[i].differs;
    }
    if (r->closed) {
        printf("\nclosed loop: recorded under '%s'; ", r->about.policy);
        if (r->about.has_kept)
            printf("kept sets %s the recorded ones (%lld lanes and passes differ)\n", differs ? "are not" : "are",
                   (long long)differs);
        else
            puts("no kept sets were recorded to compare with");
        return;
    }
    if (!approximate)
        printf(
            "\nopen loop: the full cache was on while recording; none of %lld evictions of a lane used attention that "
            "was\nrecorded with entries in it that had left\n",
            (long long)decisions);
    else
        printf(
            "\nopen loop: the full cache was on while recording; %lld of %lld evictions of a lane used attention that "
            "was recorded\nwith entries in it that had left. How far they are off is unknown for this model.\n",
            (long long)approximate, (long long)decisions);
}

static void print_marks(const struct kv_replay *r)
{
    for (int m = 0; m < r->about.n_marks; m++) {
        const struct kv_mark *mark = &r->about.mark[m];
        char begin[KV_NUMBER_TEXT], end[KV_NUMBER_TEXT];
        printf("\n%s, tokens %s to %s: held by lanes after prefill, and at the end\n", mark->name,
               kv_print_count(begin, mark->begin), kv_print_count(end, mark->end - 1));
        for (int i = 0; i < r->n_runs; i++)
            printf("  %6.1f %% %6.1f %%  %s\n", 100 * r->run[i].mark[2 * m], 100 * r->run[i].mark[2 * m + 1],
                   r->run[i].policy.name);
    }
}

void kv_replay_print(const struct kv_replay *r, const char *path, struct kv_arena *a)
{
    char tokens[KV_NUMBER_TEXT];
    const struct kv_trace_about *t = &r->about;
    printf("%s: %s, %lld layers x %lld KV heads (%lld query heads), %s tokens in %lld recorded passes%s\n\n", path,
           r->model.name, (long long)t->layers, (long long)t->kv_heads, (long long)t->q_heads,
           kv_print_count(tokens, r->end), (long long)t->n_ticks, t->complete ? "" : " (incomplete)");
    print_table(r, a);
    print_marks(r);
    if (r->mass >= 0)
        printf(
            "\nmass: shares of '%s', means over lanes and passes: held, on what queries found (all passes); kept, on "
            "what stayed\n(passes that evict); kept inside, the same without the first %lld and newest %lld tokens\n",
            t->channel[r->mass].name, (long long)r->asked.mass_sinks, (long long)r->asked.mass_recents);
    else if (!r->closed)
        puts("\nno attention over all keys was recorded (column_sum, window_seen, last_row): mass is unknown");
    if (r->later >= 0)
        puts("later mass: share of all later queries' attention on what stayed; like the oracle: share of what stayed "
             "that "
             "an oracle\nwould keep that ranks by that attention; -: nothing left while queries followed");
    print_loop(r);
    for (int i = 0; i < r->n_runs; i++)
        if (r->run[i].policy.note && !r->run[i].policy.law->share) /* that note is of lengths; here sets are known */
            printf("%s: %s\n", r->run[i].policy.name, r->run[i].policy.note);
}

/* ---- for programs ---- */

json_t *kv_replay_json(const struct kv_replay *r, const char *path, struct kv_arena *a)
{
    struct kv_table t;
    make_table(r, &t, a);
    const struct kv_trace_about *about = &r->about;
    json_t *marks = json_array();
    for (int m = 0; m < about->n_marks; m++)
        for (int i = 0; i < r->n_runs; i++)
            json_array_append_new(marks, json_pack("{s:o, s:o, s:f, s:f}", "mark", kv_json_text(about->mark[m].name),
                                                   "policy", kv_json_text(r->run[i].policy.name), "kept_after_prefill",
                                                   r->run[i].mark[2 * m], "kept_at_end", r->run[i].mark[2 * m + 1]));
    return json_pack("{s:s, s:o, s:o, s:s, s:I, s:I, s:I, s:I, s:I, s:b, s:o, s:o, s:o}", "result", "replay", "trace",
                     kv_json_text(path), "model", kv_json_text(r->model.name), "loop", r->closed ? "closed" : "open",
                     "layers", (json_int_t)about->layers, "kv_heads", (json_int_t)about->kv_heads, "tokens",
                     (json_int_t)r->end, "recorded_passes", (json_int_t)about->n_ticks, "block_size",
                     (json_int_t)r->asked.page, "complete", about->complete, "mass_of",
                     r->mass < 0 ? json_null() : kv_json_text(about->channel[r->mass].name), "policies",
                     kv_table_json(&t), "marks", marks);
}
