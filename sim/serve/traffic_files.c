/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A plan with traffic as a folder of plain files. */
#include "sim/output.h"
#include "sim/provenance.h"
#include "sim/serve/traffic.h"
#include "sim/table.h"

#include <errno.h>
#include <math.h>
#include <string.h>

typedef bool write_file(const struct kv_traffic *t, FILE *out, struct kv_arena *a, struct kv_err *e);

static bool write_policies(const struct kv_traffic *t, FILE *out, struct kv_arena *a, struct kv_err *e)
{
    (void)e;
    struct kv_table table;
    kv_traffic_table(t, &table, a);
    kv_table_csv(&table, out);
    return true;
}

static const struct kv_column timeline_columns[] = {
    {"policy", NULL, KV_CELL_TEXT},
    {"replica", NULL, KV_CELL_COUNT},
    {"start_s", NULL, KV_CELL_REAL},
    {"end_s", NULL, KV_CELL_REAL},
    {"peak_bytes", NULL, KV_CELL_BYTES},
    {"mean_bytes", NULL, KV_CELL_REAL},
    {"per_head_peak_bytes", NULL, KV_CELL_BYTES},
    {"per_layer_peak_bytes", NULL, KV_CELL_BYTES},
    {"shared_peak_bytes", NULL, KV_CELL_BYTES},
    {"running", NULL, KV_CELL_COUNT},
    {"waiting", NULL, KV_CELL_COUNT},
    {"steps", NULL, KV_CELL_COUNT},
    {"tokens", NULL, KV_CELL_COUNT},
    {"preemptions", NULL, KV_CELL_COUNT},
};

static void timeline_rows(const struct kv_traffic *t, const struct kv_served *r, int64_t replica,
                          struct kv_table *table)
{
    enum kv_layout own = (enum kv_layout)t->settings->engine.kv_layout;
    const struct kv_timeline *line = &r->timeline[replica];
    for (int64_t i = 0; i < line->n; i++) {
        const struct kv_stretch *s = &line->span[i];
        struct kv_cell *row = kv_table_row(table);
        double start = (double)i * line->width;
        kv_set_text(table, row, "policy", r->name);
        kv_set_whole(table, row, "replica", replica);
        kv_set_real(table, row, "start_s", start);
        kv_set_real(table, row, "end_s", start + line->width);
        kv_set_whole(table, row, "peak_bytes", s->peak[own] * r->page_bytes[own]);
        kv_set_real(table, row, "mean_bytes", s->area[own] * (double)r->page_bytes[own] / line->width);
        kv_set_whole(table, row, "per_head_peak_bytes", s->peak[KV_PER_HEAD] * r->page_bytes[KV_PER_HEAD]);
        kv_set_whole(table, row, "per_layer_peak_bytes", s->peak[KV_PER_LAYER] * r->page_bytes[KV_PER_LAYER]);
        kv_set_whole(table, row, "shared_peak_bytes", s->peak[KV_SHARED] * r->page_bytes[KV_SHARED]);
        kv_set_whole(table, row, "running", s->running);
        kv_set_whole(table, row, "waiting", s->waiting);
        kv_set_whole(table, row, "steps", s->steps);
        kv_set_whole(table, row, "tokens", s->tokens);
        kv_set_whole(table, row, "preemptions", s->preemptions);
    }
}

/* A table for each replica, for there may be thousands of them. */
static bool write_timeline(const struct kv_traffic *t, FILE *out, struct kv_arena *a, struct kv_err *e)
{
    struct kv_table table;
    int n = sizeof timeline_columns / sizeof *timeline_columns;
    (void)e;
    kv_table_open(&table, timeline_columns, n, a);
    kv_table_csv_header(&table, out);
    for (int i = 0; i < t->n_rows; i++)
        for (int64_t replica = 0; replica < t->row[i].replicas; replica++) {
            struct kv_arena *own = kv_arena_open();
            kv_table_open(&table, timeline_columns, n, own);
            timeline_rows(t, &t->row[i], replica, &table);
            kv_table_csv_rows(&table, out);
            kv_arena_close(own);
        }
    return true;
}

static bool write_requests(const struct kv_traffic *t, FILE *out, struct kv_arena *a, struct kv_err *e)
{
    bool good = true;
    (void)a;
    fputs(kv_serve_request_header, out);
    for (int i = 0; good && i < t->n_rows; i++)
        good = kv_out_gather(t->asked[i].requests, out, e);
    return good;
}

static bool write_steps(const struct kv_traffic *t, FILE *out, struct kv_arena *a, struct kv_err *e)
{
    bool good = true;
    (void)a;
    fputs(kv_serve_step_header, out);
    for (int i = 0; good && i < t->n_rows; i++)
        good = kv_out_gather(t->asked[i].steps, out, e);
    return good;
}

json_t *kv_traffic_json(const struct kv_traffic *t, struct kv_arena *a)
{
    struct kv_table table;
    const struct kv_settings *s = t->settings;
    const struct kv_served *r = kv_traffic_first(t);
    kv_traffic_table(t, &table, a);
    json_t *root = json_object();
    json_object_set_new(root, "name", kv_json_text(s->run.name));
    json_object_set_new(root, "model", kv_json_text(t->model.name));
    json_object_set_new(root, "device", kv_json_text(s->hardware.device));
    json_object_set_new(root, "kv_cache_dtype", json_string(kv_dtype_names[t->asked[0].dtype]));
    json_object_set_new(root, "layout", json_string(kv_layout_names[s->engine.kv_layout]));
    json_object_set_new(root, "block_size", json_integer(s->engine.block_size));
    json_object_set_new(root, "blocks", json_integer(r->blocks));
    json_object_set_new(root, "kv_pool_origin", json_string(r->pool.measured ? "as given" : "estimated, not measured"));
    json_object_set_new(root, "replicas", json_integer(r->replicas));
    json_object_set_new(root, "requests", json_integer(r->arrived));
    json_object_set_new(root, "time", kv_json_text(kv_timing_stamp(t->timing)));
    json_object_set_new(root, "complete", json_boolean(t->complete));
    json_object_set_new(root, "fits", json_boolean(kv_traffic_answer(t)));
    json_object_set_new(root, "policies", kv_table_json(&table));
    return root;
}

static bool write_summary(const struct kv_traffic *t, FILE *out, struct kv_arena *a, struct kv_err *e)
{
    (void)e;
    json_t *root = kv_traffic_json(t, a);
    kv_json_print(root, out);
    json_decref(root);
    return true;
}

static bool write_config(const struct kv_traffic *t, FILE *out, struct kv_arena *a, struct kv_err *e)
{
    (void)e;
    kv_write_config(t->settings, out, a);
    return true;
}

static bool write_provenance(const struct kv_traffic *t, FILE *out, struct kv_arena *a, struct kv_err *e)
{
    (void)e;
    const char *const *timing = kv_timing_files(t->timing);
    int n = 0, n_timing = 0;
    while (timing[n_timing])
        n_timing++;
    const char **input = KV_NEW_N(a, const char *, t->n_rows + n_timing + 2);
    if (t->settings->workload.trace)
        input[n++] = t->settings->workload.trace;
    for (int i = 0; i < n_timing; i++)
        input[n++] = timing[i];
    for (int i = 0; i < t->n_rows; i++)
        if (t->row[i].policy.input)
            input[n++] = t->row[i].policy.input;
    kv_write_provenance(t->settings, &t->model, input, out, a);
    return true;
}

static const struct {
    const char *name;
    write_file *write;
} files[] = {
    {"provenance.json", write_provenance}, {"config.resolved.ini", write_config}, {"timeline.csv", write_timeline},
    {"policies.csv", write_policies},      {"summary.json", write_summary},       {"requests.csv", write_requests},
};
enum { FILES = sizeof files / sizeof *files };

/* Written, but not under its name yet. */
static bool fill(struct kv_out *out, int *n, const char *path, write_file *write, const struct kv_traffic *t,
                 struct kv_arena *a, struct kv_err *e)
{
    if (!kv_out_open(&out[*n], path, a, e))
        return false;
    FILE *file = out[(*n)++].file;
    if (!write(t, file, a, e))
        return false;
    return (!fflush(file) && !ferror(file)) || kv_fail(e, KV_ENV, "cannot write '%s': %s", path, strerror(errno));
}

bool kv_traffic_write(const struct kv_traffic *t, const char *folder, const char *steps, struct kv_arena *a,
                      struct kv_err *e)
{
    struct kv_out out[FILES + 1];
    int n = 0;
    bool good = !folder || kv_result_folder(folder, a, e);
    for (int i = 0; good && folder && i < FILES; i++)
        good = fill(out, &n, kv_format(a, "%s/%s", folder, files[i].name), files[i].write, t, a, e);
    good = good && (!steps || fill(out, &n, steps, write_steps, t, a, e));
    for (int i = 0; i < n; i++)
        if (good)
            good = kv_out_close(&out[i], e);
        else
            kv_out_drop(&out[i]);
    return good;
}
