/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A plan with traffic as text: what was assumed, the table, and what it means. */
#include "sim/core/least.h"
#include "sim/core/units.h"
#include "sim/interrupt.h"
#include "sim/serve/traffic.h"
#include "sim/table.h"

#include <math.h>
#include <string.h>

static const struct kv_column columns[] = {
    {"policy", "policy", KV_CELL_TEXT},
    {"chunk_tokens", NULL, KV_CELL_COUNT},
    {"found_rate_per_s", "found\nrate /s", KV_CELL_REAL},
    {"found_rate_scale", NULL, KV_CELL_REAL},
    {"found_context_scale", "prompts\nx", KV_CELL_REAL},
    {"found_replicas", "replicas", KV_CELL_COUNT},
    {"kv_footprint_paper", "footprint\npaper", KV_CELL_SHARE},
    {"kv_footprint_actual", "footprint\nactual", KV_CELL_SHARE},
    {"request_peak_mean_bytes", NULL, KV_CELL_BYTES},
    {"request_peak_p99_bytes", "peak of one\nrequest, p99", KV_CELL_BYTES},
    {"kv_pool_bytes", NULL, KV_CELL_BYTES},
    {"pool_peak_bytes", "pool\npeak", KV_CELL_BYTES},
    {"pool_peak_share", "of the\npool", KV_CELL_SHARE},
    {"pool_mean_bytes", "mean", KV_CELL_BYTES},
    {"per_head_peak_bytes", NULL, KV_CELL_BYTES},
    {"per_layer_peak_bytes", NULL, KV_CELL_BYTES},
    {"shared_peak_bytes", NULL, KV_CELL_BYTES},
    {"returned_bytes", NULL, KV_CELL_BYTES},
    {"per_head_gib_s", NULL, KV_CELL_REAL},
    {"per_layer_gib_s", NULL, KV_CELL_REAL},
    {"shared_gib_s", NULL, KV_CELL_REAL},
    {"held_gib_s", NULL, KV_CELL_REAL},
    {"ttft_mean_s", NULL, KV_CELL_REAL},
    {"ttft_p50_s", "TTFT p50\ns", KV_CELL_REAL},
    {"ttft_p90_s", NULL, KV_CELL_REAL},
    {"ttft_p95_s", NULL, KV_CELL_REAL},
    {"ttft_p99_s", "p99\ns", KV_CELL_REAL},
    {"tpot_mean_s", NULL, KV_CELL_REAL},
    {"tpot_p50_s", "TPOT p50\ns", KV_CELL_REAL},
    {"tpot_p90_s", NULL, KV_CELL_REAL},
    {"tpot_p95_s", NULL, KV_CELL_REAL},
    {"tpot_p99_s", "p99\ns", KV_CELL_REAL},
    {"itl_mean_s", NULL, KV_CELL_REAL},
    {"itl_p50_s", NULL, KV_CELL_REAL},
    {"itl_p90_s", NULL, KV_CELL_REAL},
    {"itl_p95_s", NULL, KV_CELL_REAL},
    {"itl_p99_s", NULL, KV_CELL_REAL},
    {"e2e_mean_s", NULL, KV_CELL_REAL},
    {"e2e_p50_s", NULL, KV_CELL_REAL},
    {"e2e_p90_s", NULL, KV_CELL_REAL},
    {"e2e_p95_s", NULL, KV_CELL_REAL},
    {"e2e_p99_s", "E2E p99\ns", KV_CELL_REAL},
    {"queue_mean_s", NULL, KV_CELL_REAL},
    {"queue_p50_s", NULL, KV_CELL_REAL},
    {"queue_p90_s", NULL, KV_CELL_REAL},
    {"queue_p95_s", NULL, KV_CELL_REAL},
    {"queue_p99_s", NULL, KV_CELL_REAL},
    {"requests", NULL, KV_CELL_COUNT},
    {"counted_requests", NULL, KV_CELL_COUNT},
    {"refused_requests", NULL, KV_CELL_COUNT},
    {"unfinished_requests", NULL, KV_CELL_COUNT},
    {"overdue_requests", NULL, KV_CELL_COUNT},
    {"requests_per_s", NULL, KV_CELL_REAL},
    {"prompt_tokens_per_s", NULL, KV_CELL_REAL},
    {"output_tokens_per_s", "output\ntokens/s", KV_CELL_REAL},
    {"good_requests_per_s", NULL, KV_CELL_REAL},
    {"slo_share", "within\nSLO", KV_CELL_SHARE},
    {"preemptions", "preemp-\ntions", KV_CELL_COUNT},
    {"recomputed_tokens", NULL, KV_CELL_COUNT},
    {"cached_tokens", NULL, KV_CELL_COUNT},
    {"lost_hit_tokens", NULL, KV_CELL_COUNT},
    {"steps", NULL, KV_CELL_COUNT},
    {"span_s", NULL, KV_CELL_REAL},
    {"busy_s", NULL, KV_CELL_REAL},
    {"prefill_s", NULL, KV_CELL_REAL},
    {"decode_s", NULL, KV_CELL_REAL},
    {"eviction_s", NULL, KV_CELL_REAL},
    {"recompute_s", NULL, KV_CELL_REAL},
    {"offload_s", NULL, KV_CELL_REAL},
    {"offloaded_bytes", NULL, KV_CELL_BYTES},
    {"dropped_sessions", NULL, KV_CELL_COUNT},
    {"waiting_mean", NULL, KV_CELL_REAL},
    {"ttft_p99_s_ci95", NULL, KV_CELL_REAL},
    {"tpot_p99_s_ci95", NULL, KV_CELL_REAL},
    {"e2e_p99_s_ci95", NULL, KV_CELL_REAL},
    {"output_tokens_per_s_ci95", NULL, KV_CELL_REAL},
    {"pool_peak_share_ci95", NULL, KV_CELL_REAL},
    {"slo_share_ci95", NULL, KV_CELL_REAL},
    {"limit", "held back by", KV_CELL_TEXT},
    {"verdict", "verdict", KV_CELL_TEXT},
    {"cost_per_million_tokens", NULL, KV_CELL_REAL},
    {"outside_tables", NULL, KV_CELL_REAL},
    {"quality", "quality", KV_CELL_TEXT},
    {"pareto", NULL, KV_CELL_BOOL},
    {"complete", NULL, KV_CELL_BOOL},
    {"note", NULL, KV_CELL_TEXT},
};

static void fill_times(const struct kv_table *t, struct kv_cell *row, const char *what, const struct kv_quantiles *q,
                       struct kv_arena *a)
{
    static const struct {
        const char *name;
        double share;
    } at[] = {{"p50", 0.5}, {"p90", 0.9}, {"p95", 0.95}, {"p99", 0.99}};
    if (!q->n)
        return;
    kv_set_real(t, row, kv_format(a, "%s_mean_s", what), q->sum / (double)q->n);
    for (size_t i = 0; i < sizeof at / sizeof *at; i++)
        kv_set_real(t, row, kv_format(a, "%s_%s_s", what, at[i].name), kv_quantile(q, at[i].share));
}

/* What held back those who waited, most of the time; NULL when nobody waited. */
static const char *limit_of(const struct kv_served *r)
{
    int most = 0;
    for (int i = 1; i < KV_LIMITS; i++)
        if (r->sums.limit_s[i] > r->sums.limit_s[most])
            most = i;
    return r->sums.limit_s[most] > 0 ? kv_limit_names[most] : NULL;
}

static double gib_s(const struct kv_served *r, enum kv_layout layout)
{
    return r->sums.page_area[layout] * (double)r->page_bytes[layout] * 0x1p-30;
}

static double cost(const struct kv_traffic *t, const struct kv_served *r)
{
    const struct kv_settings *s = t->settings;
    double devices = (double)(r->replicas * s->engine.tensor_parallel_size);
    double tokens = (double)(r->sums.prompt_tokens + r->sums.output_tokens);
    return s->hardware.price * devices * r->span_s / 3600 / tokens * 1e6;
}

static bool promises(const struct kv_settings *s)
{
    return !isnan(s->slo.ttft) || !isnan(s->slo.tpot) || !isnan(s->slo.e2e);
}

static void fill_memory(const struct kv_traffic *t, const struct kv_served *r, const struct kv_table *table,
                        struct kv_cell *row, struct kv_arena *a)
{
    enum kv_layout own = (enum kv_layout)t->settings->engine.kv_layout;
    static const char *const names[] = {"per_head", "per_layer", "shared"};
    double pool = (double)r->pages * (double)r->page_bytes[own];
    int64_t peak = r->sums.peak_pages[own] * r->page_bytes[own];
    kv_set_real(table, row, "kv_footprint_paper", r->footprint_paper);
    kv_set_real(table, row, "kv_footprint_actual", r->footprint_actual);
    kv_set_whole(table, row, "kv_pool_bytes", r->pages * r->page_bytes[own]);
    kv_set_whole(table, row, "pool_peak_bytes", peak);
    kv_set_real(table, row, "pool_peak_share", (double)peak / pool);
    if (r->span_s > 0)
        kv_set_whole(table, row, "pool_mean_bytes",
                     llrint(r->sums.page_area[own] * (double)r->page_bytes[own] / r->span_s / (double)r->replicas));
    for (int layout = 0; layout < KV_LAYOUTS; layout++) {
        kv_set_whole(table, row, kv_format(a, "%s_peak_bytes", names[layout]),
                     r->sums.peak_pages[layout] * r->page_bytes[layout]);
        kv_set_real(table, row, kv_format(a, "%s_gib_s", names[layout]), gib_s(r, (enum kv_layout)layout));
    }
    kv_set_whole(table, row, "returned_bytes", r->sums.returned_pages[own] * r->page_bytes[own]);
    kv_set_real(table, row, "held_gib_s",
                r->sums.held_area * (double)r->page_bytes[KV_SHARED] / (double)t->settings->engine.block_size *
                    0x1p-30);
    if (r->peak_bytes.n) {
        kv_set_whole(table, row, "request_peak_mean_bytes", llrint(r->peak_bytes.sum / (double)r->peak_bytes.n));
        kv_set_whole(table, row, "request_peak_p99_bytes", llrint(kv_quantile(&r->peak_bytes, 0.99)));
    }
}

static void fill_rates(const struct kv_traffic *t, const struct kv_served *r, const struct kv_table *table,
                       struct kv_cell *row)
{
    kv_set_whole(table, row, "requests", r->arrived);
    kv_set_whole(table, row, "counted_requests", r->counted);
    kv_set_whole(table, row, "refused_requests", r->refused);
    kv_set_whole(table, row, "unfinished_requests", r->unfinished);
    if (promises(t->settings))
        kv_set_whole(table, row, "overdue_requests", r->overdue);
    if (promises(t->settings) && r->counted + r->overdue)
        kv_set_real(table, row, "slo_share", kv_served_slo_share(r));
    if (!(r->span_s > 0))
        return;
    kv_set_real(table, row, "requests_per_s", (double)r->finished / r->span_s);
    kv_set_real(table, row, "prompt_tokens_per_s", (double)r->sums.prompt_tokens / r->span_s);
    kv_set_real(table, row, "output_tokens_per_s", (double)r->sums.output_tokens / r->span_s);
    if (promises(t->settings) && r->counted)
        kv_set_real(table, row, "good_requests_per_s",
                    (double)r->good / (double)r->counted * (double)r->finished / r->span_s);
    kv_set_real(table, row, "cost_per_million_tokens", cost(t, r));
}

static const char *by_bytes(const struct kv_traffic *t, const struct kv_served *r)
{
    return kv_timing_by_bytes_note(t->asked[r - t->row].timing);
}

static const char *note_of(const struct kv_traffic *t, const struct kv_served *r, struct kv_arena *a)
{
    const char *times = by_bytes(t, r), *note = r->policy.note;
    if (r->policy.kind->reads && r->policy.kind->reads->trained)
        note = r->policy.kind->reads->trained;
    return note && times ? kv_format(a, "%s; %s", note, times) : times ? times : note;
}

/* What a search came to, and intervals over seeds. */
static void fill_found(const struct kv_traffic *t, int i, const struct kv_table *table, struct kv_cell *row,
                       struct kv_arena *a)
{
    const struct kv_found *f = &t->found[i];
    const struct kv_served *r = &t->row[i];
    int find = t->settings->plan.find;
    kv_set_text(table, row, "quality", f->quality);
    if (find == KV_FIND_RATE || find == KV_FIND_POLICY) {
        kv_set_real(table, row, "found_rate_per_s", f->any ? r->offered_per_s : 0);
        kv_set_real(table, row, "found_rate_scale", f->any ? f->rate * t->settings->workload.rate_scale : 0);
    }
    if (find == KV_FIND_CONTEXT)
        kv_set_real(table, row, "found_context_scale", f->any ? f->context : 0);
    if (find == KV_FIND_GPUS && f->any)
        kv_set_whole(table, row, "found_replicas", f->replicas);
    for (int k = 0; t->spread && k < KV_SPREAD; k++) {
        if (k == KV_SPREAD_SLO && !promises(t->settings))
            continue;
        kv_set_real(table, row, kv_spread_keys[k], t->spread[i].mean[k]);
        kv_set_real(table, row, kv_format(a, "%s_ci95", kv_spread_keys[k]), t->spread[i].half[k]);
    }
}

/* Whether no other policy gives more tokens a second with a smaller peak. */
static bool on_front(const struct kv_traffic *t, const struct kv_served *r)
{
    enum kv_layout own = (enum kv_layout)t->settings->engine.kv_layout;
    double rate = (double)r->sums.output_tokens / r->span_s;
    int64_t peak = r->sums.peak_pages[own] * r->page_bytes[own];
    for (int i = 0; i < t->n_rows; i++) {
        const struct kv_served *o = &t->row[i];
        double other = (double)o->sums.output_tokens / o->span_s;
        int64_t other_peak = o->sums.peak_pages[own] * o->page_bytes[own];
        if (other >= rate && other_peak <= peak && (other > rate || other_peak < peak))
            return false;
    }
    return true;
}

/* Tokens that the full cache finds by name in the same traffic, and this row computes; less than 0: nobody knows. */
static int64_t lost_hits(const struct kv_traffic *t, const struct kv_served *r)
{
    for (int i = 0; i < t->n_rows && t->settings->plan.find == KV_FIND_NONE; i++) {
        const struct kv_served *full = &t->row[i];
        if (full->prefix_caching && !full->policy.law->room)
            return kv_most(0, full->sums.cached_tokens - r->sums.cached_tokens);
    }
    return -1;
}

static void fill_row(const struct kv_traffic *t, const struct kv_served *r, struct kv_table *table, struct kv_arena *a)
{
    struct kv_cell *row = kv_table_row(table);
    kv_set_text(table, row, "policy", r->name);
    if (r->policy.law->room)
        kv_set_whole(table, row, "chunk_tokens", r->policy.when.chunk);
    fill_memory(t, r, table, row, a);
    fill_times(table, row, "ttft", &r->ttft, a);
    fill_times(table, row, "tpot", &r->tpot, a);
    fill_times(table, row, "itl", r->gaps, a);
    fill_times(table, row, "e2e", &r->e2e, a);
    fill_times(table, row, "queue", &r->queue, a);
    fill_rates(t, r, table, row);
    kv_set_whole(table, row, "preemptions", r->sums.preemptions);
    kv_set_whole(table, row, "recomputed_tokens", r->sums.recomputed_tokens);
    kv_set_whole(table, row, "cached_tokens", r->sums.cached_tokens);
    if (lost_hits(t, r) >= 0)
        kv_set_whole(table, row, "lost_hit_tokens", lost_hits(t, r));
    kv_set_whole(table, row, "steps", r->sums.steps);
    kv_set_real(table, row, "span_s", r->span_s);
    kv_set_real(table, row, "busy_s", r->sums.busy_s);
    kv_set_real(table, row, "prefill_s", r->sums.part_s[KV_TIME_PREFILL] - r->sums.recompute_s);
    kv_set_real(table, row, "decode_s", r->sums.part_s[KV_TIME_DECODE]);
    kv_set_real(table, row, "eviction_s", r->sums.part_s[KV_TIME_EVICT]);
    kv_set_real(table, row, "recompute_s", r->sums.recompute_s);
    kv_set_real(table, row, "offload_s", r->sums.part_s[KV_TIME_OFFLOAD]);
    kv_set_whole(table, row, "offloaded_bytes", llrint(r->sums.offloaded_bytes));
    kv_set_whole(table, row, "dropped_sessions", r->sums.dropped_sessions);
    if (r->span_s > 0)
        kv_set_real(table, row, "waiting_mean", r->sums.waited_s / r->span_s);
    kv_set_text(table, row, "limit", limit_of(r));
    kv_set_text(table, row, "verdict", kv_verdict_names[r->verdict]);
    kv_set_real(table, row, "outside_tables", r->sums.outside);
    fill_found(t, (int)(r - t->row), table, row, a);
    if (r->finished)
        kv_set_whole(table, row, "pareto", on_front(t, r));
    kv_set_whole(table, row, "complete", r->complete);
    kv_set_text(table, row, "note", note_of(t, r, a));
}

static bool is_shown(const struct kv_traffic *t, const char *key)
{
    int find = t->settings->plan.find;
    if (!strcmp(key, "found_rate_per_s"))
        return find == KV_FIND_RATE || find == KV_FIND_POLICY;
    if (!strcmp(key, "found_context_scale"))
        return find == KV_FIND_CONTEXT;
    if (!strcmp(key, "found_replicas"))
        return find == KV_FIND_GPUS;
    if (!strcmp(key, "slo_share"))
        return promises(t->settings);
    return true;
}

void kv_traffic_table(const struct kv_traffic *t, struct kv_table *table, struct kv_arena *a)
{
    int n = sizeof columns / sizeof *columns;
    struct kv_column *shown = KV_NEW_N(a, struct kv_column, n);
    memcpy(shown, columns, sizeof columns);
    for (int i = 0; i < n; i++) /* for people: only what was asked for */
        if (!is_shown(t, shown[i].key))
            shown[i].title = NULL;
    kv_table_open(table, shown, n, a);
    for (int i = 0; i < t->n_rows; i++)
        fill_row(t, &t->row[i], table, a);
}

bool kv_traffic_meets(const struct kv_traffic *t, const struct kv_served *r)
{
    if (r->refused || !r->counted)
        return false;
    return !promises(t->settings) || (double)r->good >= t->settings->slo.attainment * (double)(r->counted + r->overdue);
}

bool kv_traffic_answer(const struct kv_traffic *t)
{
    for (int i = 0; i < t->n_rows; i++)
        if (kv_traffic_meets(t, &t->row[i]) && t->row[i].verdict != KV_OVERLOADED)
            return true;
    return false;
}

const struct kv_served *kv_traffic_first(const struct kv_traffic *t)
{
    for (int i = 0; i < t->n_rows; i++)
        if (t->row[i].policy.store.dtype == t->asked[i].dtype)
            return &t->row[i];
    return &t->row[0];
}

/* ---- the reading ---- */

static const char *bytes_text(struct kv_arena *a, double bytes)
{
    char text[KV_NUMBER_TEXT];
    return kv_copy_text(a, kv_print_bytes(text, llrint(bytes)));
}

static const char *count_text(struct kv_arena *a, int64_t count)
{
    char text[KV_NUMBER_TEXT];
    return kv_copy_text(a, kv_print_count(text, count));
}

static void print_traffic(const struct kv_traffic *t, struct kv_arena *a)
{
    const struct kv_served *r = kv_traffic_first(t);
    double rate = r->span_s > 0 ? (double)r->arrived / r->span_s : 0;
    printf("Traffic: %s requests (%.3g /s), prompts of %s tokens and outputs of %s on average; %s replica%s\n",
           count_text(a, r->arrived), rate, count_text(a, r->counted ? r->prompt_tokens / r->counted : 0),
           count_text(a, r->counted ? r->output_tokens / r->counted : 0), count_text(a, r->replicas),
           r->replicas == 1 ? "" : "s");
    printf("Time: %s\n\n", kv_timing_stamp(t->timing));
}

static void say_memory(const struct kv_traffic *t, struct kv_arena *a)
{
    enum kv_layout own = (enum kv_layout)t->settings->engine.kv_layout;
    const struct kv_served *r = kv_traffic_first(t);
    double peak = (double)r->sums.peak_pages[own] / (double)r->pages;
    if (!r->finished || r->refused) /* who was refused, and why, is said below */
        return;
    if (r->sums.limit_s[KV_LIMIT_PAGES] > 0 || r->sums.preemptions)
        printf("  %s: the KV pool holds requests back for %.3g s, with %s preemptions; less memory per request is "
               "worth time here.\n",
               r->name, r->sums.limit_s[KV_LIMIT_PAGES], count_text(a, r->sums.preemptions));
    else
        printf("  %s: KV peaks at %s, %.3g %% of the pool: memory is not the limit of this traffic%s.\n", r->name,
               bytes_text(a, (double)r->sums.peak_pages[own] * (double)r->page_bytes[own]), 100 * peak,
               r->verdict == KV_STABLE || !limit_of(r) ? "" : kv_format(a, "; %s is", limit_of(r)));
}

static void say_layout(const struct kv_traffic *t, struct kv_arena *a)
{
    enum kv_layout own = (enum kv_layout)t->settings->engine.kv_layout;
    for (int i = 0; i < t->n_rows; i++) {
        const struct kv_served *r = &t->row[i];
        double here = (double)r->sums.peak_pages[own] * (double)r->page_bytes[own],
               per_head = (double)r->sums.peak_pages[KV_PER_HEAD] * (double)r->page_bytes[KV_PER_HEAD];
        if (r->policy.law->room && own != KV_PER_HEAD && per_head < 0.97 * here)
            printf("  %s: no known engine build frees what this evicts under '%s' page tables: %s at the peak, %s with "
                   "one "
                   "per head.\n",
                   r->name, kv_layout_names[own], bytes_text(a, here), bytes_text(a, per_head));
    }
}

static void say_found(const struct kv_traffic *t)
{
    const struct kv_settings *s = t->settings;
    static const char *const what[] = {NULL, "rate", "length of prompts", "number of replicas", "rate"};
    const char *does = promises(s) ? "keeps [slo]" : "is served without overload";
    for (int i = 0; s->plan.find && i < t->n_rows; i++) {
        const struct kv_found *f = &t->found[i];
        if (!f->any)
            printf("  %s: no %s that was tried %s; its row shows the config's.\n", t->row[i].name, what[s->plan.find],
                   does);
        else if (f->unbounded)
            printf("  %s: every %s that was tried %s; the row shows the largest.\n", t->row[i].name, what[s->plan.find],
                   does);
    }
    if (s->plan.find == KV_FIND_POLICY && t->best >= 0)
        printf("  Best: %s, by its rate, of the policies whose quality is trusted (%s).\n", t->row[t->best].name,
               t->found[t->best].quality);
    else if (s->plan.find == KV_FIND_POLICY)
        printf("  Best: none; no policy whose quality is trusted %s.\n",
               promises(s) ? "keeps [slo]" : "bears any rate");
}

static void say_flags(const struct kv_traffic *t)
{
    const struct kv_settings *s = t->settings;
    if (s->engine.scheduler != KV_SCHEDULER_VLLM)
        return;
    const struct kv_served *r = kv_traffic_first(t);
    printf("  What vLLM runs of this: vllm serve MODEL --max-num-seqs %lld --block-size %lld%s%s%s\n",
           (long long)r->max_num_seqs, (long long)s->engine.block_size,
           s->engine.tensor_parallel_size == 1
               ? ""
               : kv_format(t->arena[0], " --tensor-parallel-size %lld", (long long)s->engine.tensor_parallel_size),
           s->engine.max_num_batched_tokens == KV_UNSET
               ? ""
               : kv_format(t->arena[0], " --max-num-batched-tokens %lld", (long long)s->engine.max_num_batched_tokens),
           r->prefix_caching ? " --enable-prefix-caching" : " --no-enable-prefix-caching");
}

static void say_sessions(const struct kv_traffic *t)
{
    for (int i = 0; t->settings->workload.between_turns != KV_BETWEEN_DROP && i < t->n_rows; i++)
        if (t->row[i].prefix_caching && !t->row[i].policy.law->room)
            printf("  %s: prefix caching finds entries of earlier turns by name; between_turns does nothing for it.\n",
                   t->row[i].name);
}

/* What evictions cost in sharing: the pages of a policy that evicts are nobody else's. */
static void say_lost(const struct kv_traffic *t)
{
    for (int i = 0; i < t->n_rows; i++) {
        const struct kv_served *r = &t->row[i];
        int64_t lost = r->policy.law->room ? lost_hits(t, r) : 0;
        if (lost > 0)
            printf("  %s: its pages are not shared: it computes %lld tokens, %.3g %% of all prompts', that full with "
                   "prefix "
                   "caching finds.\n",
                   r->name, (long long)lost, 100 * (double)lost / (double)r->sums.prompt_tokens);
    }
}

static void say_refused(const struct kv_traffic *t, struct kv_arena *a)
{
    for (int i = 0; i < t->n_rows; i++) {
        const struct kv_served *r = &t->row[i];
        if (r->refused)
            printf("  %s: %lld request%s refused; %s%s.\n", r->name, (long long)r->refused,
                   r->refused == 1 ? " was" : "s were", r->refused_first, r->refused > 1 ? ", the first of them" : "");
        if (r->unfinished)
            printf("  %s: %lld request%s not finished: %s.%s\n", r->name, (long long)r->unfinished,
                   r->unfinished == 1 ? " was" : "s were",
                   kv_interrupted() ? "the run was interrupted" : "the horizon came first",
                   r->overdue ? kv_format(a, " %lld of them had missed [slo] by then.", (long long)r->overdue) : "");
        if (by_bytes(t, r))
            printf("  %s: %s.\n", r->name, by_bytes(t, r));
        if (r->sums.outside > 1)
            printf("  %s: times are extrapolated, up to %.2g times outside the tables.\n", r->name, r->sums.outside);
    }
}

void kv_traffic_print(const struct kv_traffic *t, struct kv_arena *a)
{
    struct kv_table table;
    const struct kv_served *r = kv_traffic_first(t);
    kv_print_model(&t->model, t->asked[0].dtype);
    kv_pool_print(&r->pool, t->settings, &t->model);
    print_traffic(t, a);
    kv_traffic_table(t, &table, a);
    kv_table_print(&table, stdout);
    printf("\nReading\n");
    say_memory(t, a);
    say_layout(t, a);
    say_refused(t, a);
    say_sessions(t);
    say_lost(t);
    say_found(t);
    say_flags(t);
    if (!t->settings->plan.scores && isnan(t->settings->plan.min_footprint))
        printf("  quality: unknown for every policy: no task scores were given.\n");
    if (!t->complete)
        printf("  These results are incomplete: %s.\n",
               kv_interrupted() ? "the run was interrupted" : "the horizon came before all requests were answered");
}
