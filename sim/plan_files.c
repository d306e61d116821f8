/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A plan as a folder of plain files, for plots, scripts and later comparison. */
#include "sim/core/units.h"
#include "sim/output.h"
#include "sim/plan.h"
#include "sim/provenance.h"
#include "sim/table.h"

#include <math.h>
#include <string.h>

/* Rows of a policy in timeline.csv, about: enough for a picture, whatever the length. */
enum { TIMELINE_ROWS = 1000 };

typedef void write_file(const struct kv_plan *p, FILE *out, struct kv_arena *a);

static void write_policies(const struct kv_plan *p, FILE *out, struct kv_arena *a)
{
    struct kv_table t;
    kv_plan_table(p, &t, a);
    kv_table_csv(&t, out);
}

static void write_requests(const struct kv_plan *p, FILE *out, struct kv_arena *a)
{
    (void)a;
    fputs("request,prompt_tokens,output_tokens\n", out);
    for (int64_t i = 0; i < p->n_requests; i++)
        fprintf(out, "%lld,%lld,%lld\n", (long long)i, (long long)p->request[i].prompt,
                (long long)p->request[i].output);
}

/* The request with the most tokens: the one a picture should show. */
static const struct kv_request *longest_request(const struct kv_plan *p)
{
    const struct kv_request *longest = p->request;
    for (int64_t i = 1; i < p->n_requests; i++)
        if (p->request[i].prompt + p->request[i].output > longest->prompt + longest->output)
            longest = &p->request[i];
    return longest;
}

static const struct kv_column timeline_columns[] = {
    {"policy", NULL, KV_CELL_TEXT},           {"chunk_tokens", NULL, KV_CELL_COUNT},
    {"seen_tokens", NULL, KV_CELL_COUNT},     {"phase", NULL, KV_CELL_TEXT},
    {"entries_in_pass", NULL, KV_CELL_COUNT}, {"entries_end", NULL, KV_CELL_COUNT},
    {"in_pass_bytes", NULL, KV_CELL_BYTES},   {"end_bytes", NULL, KV_CELL_BYTES},
    {"held_end_bytes", NULL, KV_CELL_BYTES},
};

static void timeline_rows(const struct kv_plan *p, struct kv_counter *c, const struct kv_request *asked,
                          struct kv_table *t)
{
    const struct kv_request own = kv_counter_request(c, asked), *r = &own;
    int64_t prefill = r->prefill / c->policy.when.chunk / TIMELINE_ROWS + 1;
    int64_t decode = (kv_request_steps(r) - r->prefill) / TIMELINE_ROWS + 1;
    int64_t page = kv_ledger_page_bytes(&c->ledger, p->layout);
    kv_walk_restart(&c->walk, r);
    kv_ledger_reset(&c->ledger);
    for (struct kv_run run; kv_walk_next(&c->walk, c->walk.seen < r->prefill ? prefill : decode, &run);) {
        kv_ledger_add(&c->ledger, &run);
        struct kv_cell *row = kv_table_row(t);
        const struct kv_ledger *l = &c->ledger;
        int64_t beside = kv_summary_bytes(&c->policy, &c->shape, c->walk.seen) + kv_ledger_buffer_bytes(l);
        kv_set_text(t, row, "policy", c->policy.name);
        kv_set_whole(t, row, "chunk_tokens", c->policy.when.chunk);
        kv_set_whole(t, row, "seen_tokens", c->walk.seen);
        kv_set_text(t, row, "phase", run.pass.decode_step >= 0 ? "decode" : "prefill");
        kv_set_whole(t, row, "entries_in_pass", l->pass_entries[p->scope]);
        kv_set_whole(t, row, "entries_end", l->end_entries);
        kv_set_whole(t, row, "in_pass_bytes", l->pass_pages[p->layout][p->compaction][p->scope] * page + beside);
        kv_set_whole(t, row, "end_bytes", l->pages[p->layout][p->compaction].end * page + beside);
        kv_set_whole(t, row, "held_end_bytes", l->end_bytes + kv_summary_bytes(&c->policy, &c->shape, c->walk.seen));
    }
}

static void write_timeline(const struct kv_plan *p, FILE *out, struct kv_arena *a)
{
    struct kv_table t;
    kv_table_open(&t, timeline_columns, sizeof timeline_columns / sizeof *timeline_columns, a);
    for (int i = 0; i < p->n_rows && p->pool.bytes > 0; i++)
        timeline_rows(p, &p->row[i]->counter, longest_request(p), &t);
    kv_table_csv(&t, out);
}

static const struct kv_column chunk_columns[] = {
    {"policy", NULL, KV_CELL_TEXT},
    {"chunk_tokens", NULL, KV_CELL_COUNT},
    {"kv_footprint_paper", NULL, KV_CELL_REAL},
    {"kv_footprint_actual", NULL, KV_CELL_REAL},
    {"kv_peak_actual", NULL, KV_CELL_REAL},
    {"peak_bytes", NULL, KV_CELL_BYTES},
};

/* The longest request again, at every chunk of the sweep, once for each policy. */
static void write_chunks(const struct kv_plan *p, FILE *out, struct kv_arena *a)
{
    struct kv_table t;
    struct kv_count n;
    struct kv_err ignored = {0}; /* lengths and policies were counted before */
    const struct kv_counts *sweep = &p->settings->plan.chunk_sweep;
    kv_table_open(&t, chunk_columns, sizeof chunk_columns / sizeof *chunk_columns, a);
    for (int i = 0; i < p->n_rows && p->pool.bytes > 0; i++) {
        struct kv_counter *c = &p->row[i]->counter;
        bool again = false;
        for (int j = 0; j < i; j++)
            again |= p->row[j]->source == p->row[i]->source;
        int64_t chunk = c->policy.when.chunk;
        for (int k = 0; k < sweep->n && !again; k++) {
            c->policy.when.chunk = sweep->at[k];
            if (!kv_counter_run(c, longest_request(p), &n, &ignored))
                continue;
            struct kv_cell *row = kv_table_row(&t);
            kv_set_text(&t, row, "policy", c->policy.name);
            kv_set_whole(&t, row, "chunk_tokens", sweep->at[k]);
            kv_set_real(&t, row, "kv_footprint_paper", n.footprint_paper);
            kv_set_real(&t, row, "kv_footprint_actual", n.footprint_actual);
            kv_set_real(&t, row, "kv_peak_actual", n.peak_actual[p->scope]);
            kv_set_whole(&t, row, "peak_bytes", n.pages[p->layout][p->compaction][p->scope].bytes);
        }
        c->policy.when.chunk = chunk;
    }
    kv_table_csv(&t, out);
}

static json_t *pool_json(const struct kv_plan *p)
{
    const struct kv_pool *pool = &p->pool;
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:I}", "memory_bytes", (json_int_t)pool->memory,
                     "usable_bytes", (json_int_t)pool->usable, "weights_bytes", (json_int_t)pool->weights,
                     "activations_bytes", (json_int_t)pool->activations, "overhead_bytes", (json_int_t)pool->overhead,
                     "kv_pool_bytes", (json_int_t)pool->bytes, "kv_pool_origin",
                     pool->measured ? "as measured" : "estimated, not measured", "kv_bytes_per_token",
                     (json_int_t)pool->token_bytes);
}

json_t *kv_plan_json(const struct kv_plan *p, struct kv_arena *a)
{
    struct kv_table t;
    kv_plan_table(p, &t, a);
    json_t *root = json_object();
    json_object_set_new(root, "name", kv_json_text(p->settings->run.name));
    json_object_set_new(root, "model", kv_json_text(p->model.name));
    json_object_set_new(root, "device", kv_json_text(p->settings->hardware.device));
    json_object_set_new(root, "kv_cache_dtype", json_string(kv_dtype_names[p->dtype]));
    json_object_set_new(root, "layout", json_string(kv_layout_names[p->layout]));
    json_object_set_new(root, "block_size", json_integer(p->settings->engine.block_size));
    json_object_set_new(root, "compaction", json_boolean(p->compaction == KV_COMPACT));
    json_object_set_new(root, "evict_scope", json_string(kv_scope_names[p->scope]));
    json_object_set_new(root, "requests", json_integer(p->n_requests));
    json_object_set_new(root, "concurrency", json_integer(p->settings->workload.concurrency));
    json_object_set_new(root, "time", json_string("not calibrated"));
    json_object_set_new(root, "memory", pool_json(p));
    json_object_set_new(root, "fits", json_boolean(kv_plan_fits(p)));
    json_object_set_new(root, "policies", kv_table_json(&t));
    return root;
}

static void write_summary(const struct kv_plan *p, FILE *out, struct kv_arena *a)
{
    json_t *root = kv_plan_json(p, a);
    kv_json_print(root, out);
    json_decref(root);
}

static void write_config(const struct kv_plan *p, FILE *out, struct kv_arena *a)
{
    kv_write_config(p->settings, out, a);
}

static void write_provenance(const struct kv_plan *p, FILE *out, struct kv_arena *a)
{
    const char **input = KV_NEW_N(a, const char *, p->n_rows + 1);
    for (int i = 0, n = 0; i < p->n_rows; i++)
        if (p->row[i]->counter.policy.input)
            input[n++] = p->row[i]->counter.policy.input;
    kv_write_provenance(p->settings, &p->model, input, out, a);
}

bool kv_plan_write(const struct kv_plan *p, const char *folder, struct kv_arena *a, struct kv_err *e)
{
    /* provenance.json marks a folder as ours, so it comes first: a run cut off here can be run again */
    static const struct {
        const char *name;
        write_file *write;
    } files[] = {
        {"provenance.json", write_provenance}, {"config.resolved.ini", write_config}, {"requests.csv", write_requests},
        {"timeline.csv", write_timeline},      {"chunks.csv", write_chunks},          {"policies.csv", write_policies},
        {"summary.json", write_summary},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct kv_out out;
        if (!kv_out_open(&out, kv_format(a, "%s/%s", folder, files[i].name), a, e))
            return false;
        files[i].write(p, out.file, a);
        if (!kv_out_close(&out, e))
            return false;
    }
    return true;
}
