/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A replay's result folder. */
#include "sim/output.h"
#include "sim/replay_print.h"

#include <math.h>

#ifndef KV_VERSION
#define KV_VERSION "unknown"
#endif

static const struct kv_column timeline_columns[] = {
    {"policy", NULL, KV_CELL_TEXT},
    {"chunk_tokens", NULL, KV_CELL_COUNT},
    {"tick", NULL, KV_CELL_COUNT},
    {"seen_tokens", NULL, KV_CELL_COUNT},
    {"phase", NULL, KV_CELL_TEXT},
    {"evicted", NULL, KV_CELL_BOOL},
    {"entries_in_pass", NULL, KV_CELL_COUNT},
    {"entries_end", NULL, KV_CELL_COUNT},
    {"in_pass_bytes", NULL, KV_CELL_BYTES},
    {"end_bytes", NULL, KV_CELL_BYTES},
    {"mass_held", NULL, KV_CELL_REAL},
    {"mass_kept", NULL, KV_CELL_REAL},
    {"mass_inner", NULL, KV_CELL_REAL},
    {"mass_later", NULL, KV_CELL_REAL},
    {"oracle_overlap", NULL, KV_CELL_REAL},
};

static double when(bool known, double x)
{
    return known ? x : NAN;
}

static void write_timeline(const struct kv_replay *r, const char *path, FILE *out, struct kv_arena *a)
{
    struct kv_table t;
    (void)path;
    kv_table_open(&t, timeline_columns, sizeof timeline_columns / sizeof *timeline_columns, a);
    for (int i = 0; i < r->n_runs; i++)
        for (int64_t p = 0; p < r->run[i].n_points; p++) {
            const struct kv_replay_point *at = &r->run[i].point[p];
            const struct kv_lane_mass *m = &at->mass;
            struct kv_cell *row = kv_table_row(&t);
            kv_set_text(&t, row, "policy", r->run[i].policy.name);
            kv_set_whole(&t, row, "chunk_tokens", r->run[i].policy.when.chunk);
            kv_set_whole(&t, row, "tick", at->tick);
            kv_set_whole(&t, row, "seen_tokens", at->seen);
            kv_set_text(&t, row, "phase", at->decode ? "decode" : "prefill");
            kv_set_whole(&t, row, "evicted", at->evicted);
            kv_set_whole(&t, row, "entries_in_pass", at->entries_in_pass);
            kv_set_whole(&t, row, "entries_end", at->entries_end);
            kv_set_whole(&t, row, "in_pass_bytes", at->in_pass_bytes);
            kv_set_whole(&t, row, "end_bytes", at->end_bytes);
            kv_set_real(&t, row, "mass_held", when(m->known, m->held));
            kv_set_real(&t, row, "mass_kept", when(m->known, m->kept));
            kv_set_real(&t, row, "mass_inner", when(m->known, m->inner));
            kv_set_real(&t, row, "mass_later", when(m->later_known, m->later));
            kv_set_real(&t, row, "oracle_overlap", when(m->later_known, m->overlap));
        }
    kv_table_csv(&t, out);
}

static const struct kv_column head_columns[] = {
    {"policy", NULL, KV_CELL_TEXT},         {"layer", NULL, KV_CELL_COUNT},     {"head", NULL, KV_CELL_COUNT},
    {"kept_entries", NULL, KV_CELL_COUNT},  {"kept_share", NULL, KV_CELL_REAL}, {"mass_held", NULL, KV_CELL_REAL},
    {"mass_kept", NULL, KV_CELL_REAL},      {"mass_inner", NULL, KV_CELL_REAL}, {"mass_later", NULL, KV_CELL_REAL},
    {"oracle_overlap", NULL, KV_CELL_REAL}, {"marks_kept", NULL, KV_CELL_REAL}, {"evictions", NULL, KV_CELL_COUNT},
    {"ties", NULL, KV_CELL_COUNT},          {"pages", NULL, KV_CELL_COUNT},     {"pages_in_place", NULL, KV_CELL_COUNT},
};

static double lane_marks(const struct kv_replay *r, const uint64_t *set)
{
    int64_t held = 0, all = 0;
    for (int m = 0; m < r->about.n_marks; m++) {
        int64_t end = r->about.mark[m].end < r->end ? r->about.mark[m].end : r->end;
        if (r->about.mark[m].begin < end)
            held += kv_set_count_range(set, r->about.mark[m].begin, end);
        all += r->about.mark[m].end - r->about.mark[m].begin;
    }
    return all ? (double)held / (double)all : NAN;
}

static void write_heads(const struct kv_replay *r, const char *path, FILE *out, struct kv_arena *a)
{
    struct kv_table t;
    (void)path;
    kv_table_open(&t, head_columns, sizeof head_columns / sizeof *head_columns, a);
    for (int i = 0; i < r->n_runs; i++)
        for (int64_t lane = 0; lane < r->run[i].cache.lanes; lane++) {
            struct kv_cache *c = &r->run[i].cache;
            const struct kv_replay_lane *l = &r->run[i].lane[lane];
            int64_t layer = lane / c->shape->store_heads, head = lane % c->shape->store_heads;
            const uint64_t *set = kv_cache_set(c, layer, head);
            int64_t held = kv_cache_held(c, layer, head);
            struct kv_cell *row = kv_table_row(&t);
            kv_set_text(&t, row, "policy", r->run[i].policy.name);
            kv_set_whole(&t, row, "layer", layer);
            kv_set_whole(&t, row, "head", head);
            kv_set_whole(&t, row, "kept_entries", held);
            kv_set_real(&t, row, "kept_share", (double)held / (double)c->seen);
            kv_set_real(&t, row, "mass_held", when(l->n_held, l->sum.held / (double)l->n_held));
            kv_set_real(&t, row, "mass_kept", when(l->n, l->sum.kept / (double)l->n));
            kv_set_real(&t, row, "mass_inner", when(l->n, l->sum.inner / (double)l->n));
            kv_set_real(&t, row, "mass_later", when(l->n_later, l->sum.later / (double)l->n_later));
            kv_set_real(&t, row, "oracle_overlap", when(l->n_later, l->sum.overlap / (double)l->n_later));
            kv_set_real(&t, row, "marks_kept", lane_marks(r, set));
            kv_set_whole(&t, row, "evictions", l->evictions);
            kv_set_whole(&t, row, "ties", c->lane[lane].ties);
            kv_set_whole(&t, row, "pages", (held + r->asked.page - 1) / r->asked.page);
            kv_set_whole(&t, row, "pages_in_place", kv_set_pages(set, c->seen, r->asked.page));
        }
    kv_table_csv(&t, out);
}

static void write_policies(const struct kv_replay *r, const char *path, FILE *out, struct kv_arena *a)
{
    (void)path;
    kv_replay_csv(r, out, a);
}

static const struct kv_column mark_columns[] = {
    {"policy", NULL, KV_CELL_TEXT},
    {"mark", NULL, KV_CELL_TEXT},
    {"first_token", NULL, KV_CELL_COUNT},
    {"last_token", NULL, KV_CELL_COUNT},
    {"kept_after_prefill", NULL, KV_CELL_REAL},
    {"kept_at_end", NULL, KV_CELL_REAL},
};

static void write_marks(const struct kv_replay *r, const char *path, FILE *out, struct kv_arena *a)
{
    struct kv_table t;
    (void)path;
    kv_table_open(&t, mark_columns, sizeof mark_columns / sizeof *mark_columns, a);
    for (int i = 0; i < r->n_runs; i++)
        for (int m = 0; m < r->about.n_marks; m++) {
            struct kv_cell *row = kv_table_row(&t);
            kv_set_text(&t, row, "policy", r->run[i].policy.name);
            kv_set_text(&t, row, "mark", r->about.mark[m].name);
            kv_set_whole(&t, row, "first_token", r->about.mark[m].begin);
            kv_set_whole(&t, row, "last_token", r->about.mark[m].end - 1);
            kv_set_real(&t, row, "kept_after_prefill", r->run[i].mark[2 * m]);
            kv_set_real(&t, row, "kept_at_end", r->run[i].mark[2 * m + 1]);
        }
    kv_table_csv(&t, out);
}

/* Kept positions at the end. */
static void write_kept(const struct kv_replay *r, const char *path, FILE *out, struct kv_arena *a)
{
    (void)path;
    (void)a;
    fputs("policy,layer,head,first_token,last_token\n", out);
    for (int i = 0; i < r->n_runs; i++)
        kv_replay_put_kept(&r->run[i], "", out);
}

/* At the end of each tick, as it was written down while the replay ran. */
static void write_kept_passes(const struct kv_replay *r, const char *path, FILE *out, struct kv_arena *a)
{
    char some[65536];
    (void)path;
    (void)a;
    fputs("policy,tick,seen_tokens,layer,head,first_token,last_token\n", out);
    rewind(r->asked.kept);
    for (size_t n; (n = fread(some, 1, sizeof some, r->asked.kept)) > 0;)
        fwrite(some, 1, n, out);
}

static void write_summary(const struct kv_replay *r, const char *path, FILE *out, struct kv_arena *a)
{
    json_t *root = kv_replay_json(r, path, a);
    kv_json_print(root, out);
    json_decref(root);
}

static void write_provenance(const struct kv_replay *r, const char *path, FILE *out, struct kv_arena *a)
{
    json_t *policies = json_array(),
           *inputs = json_pack("[{s:o, s:s}]", "path", kv_json_text(path), "hash", kv_file_hash(path, a));
    for (int i = 0; i < r->n_runs; i++) {
        json_array_append_new(policies, kv_json_text(r->run[i].policy.name));
        if (r->run[i].policy.input)
            json_array_append_new(inputs, json_pack("{s:o, s:s}", "path", kv_json_text(r->run[i].policy.input), "hash",
                                                    kv_file_hash(r->run[i].policy.input, a)));
    }
    json_t *root = json_pack("{s:s, s:s, s:s, s:o, s:o, s:o, s:o}", "program", "kvsim", "version", KV_VERSION,
                             "command", "replay", "trace_uuid", kv_json_text(r->about.uuid), "producer",
                             kv_json_text(r->about.producer), "policies", policies, "inputs", inputs);
    kv_json_print(root, out);
    json_decref(root);
}

bool kv_replay_write(const struct kv_replay *r, const char *path, const char *folder, bool kept, struct kv_arena *a,
                     struct kv_err *e)
{
    /* provenance.json marks a folder as ours, so it comes first */
    const struct {
        const char *name;
        void (*write)(const struct kv_replay *r, const char *path, FILE *out, struct kv_arena *a);
        bool wanted;
    } files[] = {
        {"provenance.json", write_provenance, true},
        {"timeline.csv", write_timeline, true},
        {"heads.csv", write_heads, true},
        {"marks.csv", write_marks, r->about.n_marks > 0},
        {"kept.csv", write_kept, kept},
        {"kept_passes.csv", write_kept_passes, r->asked.kept != NULL},
        {"policies.csv", write_policies, true},
        {"summary.json", write_summary, true},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct kv_out out;
        if (!files[i].wanted)
            continue;
        if (!kv_out_open(&out, kv_format(a, "%s/%s", folder, files[i].name), a, e))
            return false;
        files[i].write(r, path, out.file, a);
        if (!kv_out_close(&out, e))
            return false;
    }
    return true;
}
