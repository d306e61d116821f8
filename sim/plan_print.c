/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A plan as text: what was assumed, the table, and what it means. */
#include "sim/core/units.h"
#include "sim/plan.h"
#include "sim/table.h"

#include <math.h>
#include <string.h>

static const struct kv_column columns[] = {
    {"policy", "policy", KV_CELL_TEXT},
    {"chunk_tokens", "chunk", KV_CELL_COUNT},
    {"kv_footprint_paper", "footprint\npaper", KV_CELL_SHARE},
    {"kv_footprint_actual", "footprint\nactual", KV_CELL_SHARE},
    {"kv_peak_paper", NULL, KV_CELL_REAL},
    {"kv_peak_actual", "KV\npeak", KV_CELL_SHARE},
    {"held_peak_bytes", NULL, KV_CELL_BYTES}, /* of the largest request */
    {"request_peak_bytes", "peak of one\nrequest", KV_CELL_BYTES},
    {"request_peak_mean_bytes", NULL, KV_CELL_BYTES},
    {"request_peak_p50_bytes", NULL, KV_CELL_BYTES},
    {"request_peak_p90_bytes", NULL, KV_CELL_BYTES},
    {"request_peak_p99_bytes", NULL, KV_CELL_BYTES},
    {"request_resident_bytes", "while it\ndecodes", KV_CELL_BYTES},
    {"kv_pool_bytes", NULL, KV_CELL_BYTES},
    {"pool_share", "of the\npool", KV_CELL_SHARE},
    {"fit_requests", "fit", KV_CELL_COUNT},
    {"fit_at_peak_requests", NULL, KV_CELL_COUNT},
    {"fit_per_head_requests", "fit\nper-head", KV_CELL_COUNT},
    {"largest_context_tokens", "largest\ncontext", KV_CELL_COUNT},
    {"largest_context_per_head_tokens", NULL, KV_CELL_COUNT},
    {"per_head_peak_bytes", NULL, KV_CELL_BYTES},
    {"per_layer_peak_bytes", NULL, KV_CELL_BYTES},
    {"shared_peak_bytes", NULL, KV_CELL_BYTES},
    {"returned_bytes", NULL, KV_CELL_BYTES},
    {"active", NULL, KV_CELL_REAL},
    {"quality", "quality", KV_CELL_TEXT},
    {"fits", "fits", KV_CELL_BOOL},
    {"note", NULL, KV_CELL_TEXT},
};

static const char *row_note(const struct kv_plan_row *r)
{
    const struct kv_policy *p = &r->counter.policy;
    return p->kind->reads && p->kind->reads->trained ? p->kind->reads->trained : p->note;
}

static void fill_row(const struct kv_plan *p, const struct kv_plan_row *r, struct kv_table *t)
{
    struct kv_cell *row = kv_table_row(t);
    const struct kv_count *n = &r->largest;
    kv_set_text(t, row, "policy", r->counter.policy.name);
    kv_set_whole(t, row, "chunk_tokens", r->counter.policy.when.chunk);
    kv_set_text(t, row, "quality", "unknown");
    kv_set_text(t, row, "note", row_note(r));
    if (p->pool.bytes <= 0)
        return;
    kv_set_real(t, row, "kv_footprint_paper", r->footprint_paper);
    kv_set_real(t, row, "kv_footprint_actual", r->footprint_actual);
    kv_set_real(t, row, "kv_peak_paper", r->peak_paper);
    kv_set_real(t, row, "kv_peak_actual", r->peak_actual);
    kv_set_real(t, row, "active", r->active);
    kv_set_whole(t, row, "held_peak_bytes", n->held[p->scope].bytes);
    kv_set_whole(t, row, "request_peak_bytes", r->peak[p->layout]);
    kv_set_whole(t, row, "request_peak_mean_bytes", llrint(r->peak_bytes.sum / (double)r->peak_bytes.n));
    kv_set_whole(t, row, "request_peak_p50_bytes", llrint(kv_quantile(&r->peak_bytes, 0.50)));
    kv_set_whole(t, row, "request_peak_p90_bytes", llrint(kv_quantile(&r->peak_bytes, 0.90)));
    kv_set_whole(t, row, "request_peak_p99_bytes", llrint(kv_quantile(&r->peak_bytes, 0.99)));
    kv_set_whole(t, row, "request_resident_bytes", llrint(r->resident[p->layout]));
    kv_set_whole(t, row, "kv_pool_bytes", r->pool.bytes > 0 ? r->pool.bytes : 0);
    kv_set_real(t, row, "pool_share", r->pool.bytes > 0 ? (double)r->peak[p->layout] / (double)r->pool.bytes : NAN);
    kv_set_whole(t, row, "fit_requests", r->fit[p->layout]);
    kv_set_whole(t, row, "fit_at_peak_requests", r->fit_at_peak);
    kv_set_whole(t, row, "fit_per_head_requests", r->fit[KV_PER_HEAD]);
    kv_set_whole(t, row, "largest_context_tokens", r->context[p->layout]);
    kv_set_whole(t, row, "largest_context_per_head_tokens", r->context[KV_PER_HEAD]);
    kv_set_whole(t, row, "per_head_peak_bytes", n->pages[KV_PER_HEAD][p->compaction][p->scope].bytes);
    kv_set_whole(t, row, "per_layer_peak_bytes", n->pages[KV_PER_LAYER][p->compaction][p->scope].bytes);
    kv_set_whole(t, row, "shared_peak_bytes", n->pages[KV_SHARED][p->compaction][p->scope].bytes);
    kv_set_whole(t, row, "returned_bytes", n->returned[p->layout][p->compaction]);
    kv_set_whole(t, row, "fits", r->fits);
}

void kv_plan_table(const struct kv_plan *p, struct kv_table *t, struct kv_arena *a)
{
    kv_table_open(t, columns, sizeof columns / sizeof *columns, a);
    for (int i = 0; i < p->n_rows; i++)
        fill_row(p, p->row[i], t);
}

/* ---- heading ---- */

static void print_lengths(const char *what, const struct kv_quantiles *q)
{
    char low[KV_NUMBER_TEXT], middle[KV_NUMBER_TEXT], high[KV_NUMBER_TEXT];
    if (q->least == q->most)
        printf("%s %s", what, kv_print_count(low, llrint(q->least)));
    else
        printf("%s p50 %s p99 %s max %s", what, kv_print_count(middle, llrint(kv_quantile(q, 0.5))),
               kv_print_count(high, llrint(kv_quantile(q, 0.99))), kv_print_count(low, llrint(q->most)));
}

/* Longer passes need more activations. */
static void print_other_pools(const struct kv_plan *p)
{
    char pool[KV_NUMBER_TEXT], tokens[KV_NUMBER_TEXT];
    for (int i = 0; i < p->n_rows; i++) {
        const struct kv_pool *own = &p->row[i]->pool;
        bool said = own->bytes == p->pool.bytes;
        for (int j = 0; j < i; j++)
            said |= own->bytes == p->row[j]->pool.bytes;
        if (!said)
            printf("    %-20s %12s  at passes of %s tokens\n", "", kv_print_bytes(pool, own->bytes),
                   kv_print_count(tokens, own->batched_tokens));
    }
}

static void print_heading(const struct kv_plan *p)
{
    char requests[KV_NUMBER_TEXT], wanted[KV_NUMBER_TEXT];
    kv_print_model(&p->model, p->dtype);
    kv_pool_print(&p->pool, p->settings, &p->model);
    print_other_pools(p);
    printf("Workload: %s request%s, ", kv_print_count(requests, p->n_requests), p->n_requests == 1 ? "" : "s");
    print_lengths("prompt", &p->prompts);
    print_lengths(", output", &p->outputs);
    printf(" tokens; %s at the same time\n", kv_print_count(wanted, p->settings->workload.concurrency));
    printf("Layout %s, pages of %lld, compaction %s, evict scope %s; time: not calibrated, none is shown\n\n",
           kv_layout_names[p->layout], (long long)p->settings->engine.block_size,
           p->compaction == KV_COMPACT ? "on" : "off", kv_scope_names[p->scope]);
}

/* ---- what it means ---- */

static const struct kv_plan_row *find_full(const struct kv_plan *p)
{
    for (int i = 0; i < p->n_rows; i++)
        if (!strcmp(p->row[i]->counter.policy.kind->name, "full") && p->row[i]->baseline != KV_PREFIX_CACHING &&
            p->row[i]->counter.policy.store.dtype == p->dtype)
            return p->row[i];
    return NULL;
}

static const char *count_text(struct kv_arena *a, int64_t n)
{
    char text[KV_NUMBER_TEXT];
    return kv_copy_text(a, kv_print_count(text, n));
}

static const char *bytes_text(struct kv_arena *a, int64_t n)
{
    char text[KV_NUMBER_TEXT];
    return kv_copy_text(a, kv_print_bytes(text, n));
}

static void say_full(const struct kv_plan *p, struct kv_arena *a)
{
    const struct kv_plan_row *full = find_full(p);
    if (!full)
        return;
    if (full->pool.bytes <= 0) {
        printf("  The full cache does not fit: passes of %s tokens leave it no pool.\n",
               count_text(a, full->pool.batched_tokens));
        return;
    }
    double share = kv_plan_wanted_bytes(p, full) / (double)full->pool.bytes;
    int64_t n = p->settings->workload.concurrency;
    const char *wanted = n == 1 ? "one request" : kv_format(a, "%s requests", count_text(a, n));
    if (full->fits && share <= 0.5)
        printf("  KV is not your limit here: the full cache of %s takes %.0f %% of the pool; it would be the limit "
               "from %s "
               "requests on.\n",
               wanted, share * 100, count_text(a, full->fit[p->layout] + 1));
    else if (full->fits)
        printf("  The full cache fits: %s would fill %.0f %% of the pool.\n", wanted, share * 100);
    else
        printf("  The full cache does not fit %s: %.0f %% of the pool; %s fit%s.\n", wanted, share * 100,
               count_text(a, full->fit[p->layout]), full->fit[p->layout] == 1 ? "s" : "");
}

/* The same policy at another chunk: the paper's hidden lever. */
static void say_chunks(const struct kv_plan *p, struct kv_arena *a)
{
    const struct kv_plan_row *high = NULL, *low = NULL;
    for (int i = 0; i < p->n_rows; i++)
        for (int j = 0; j < p->n_rows; j++) {
            const struct kv_plan_row *x = p->row[i], *y = p->row[j];
            double gain = x->footprint_actual - y->footprint_actual;
            bool same = x->source == y->source && i != j;
            if (same && (!high || gain > high->footprint_actual - low->footprint_actual)) {
                high = x;
                low = y;
            }
        }
    if (high && high->footprint_actual - low->footprint_actual > 0.02)
        printf("  The chunk is a lever: %s has a footprint of %.1f %% at chunks of %s, and %.1f %% at %s.\n",
               high->counter.policy.name, high->footprint_actual * 100, count_text(a, high->counter.policy.when.chunk),
               low->footprint_actual * 100, count_text(a, low->counter.policy.when.chunk));
}

/* Lanes of different lengths in one page table. */
static void say_layout(const struct kv_plan *p, struct kv_arena *a)
{
    const struct kv_plan_row *worst = NULL;
    double tax = 1.1;
    for (int i = 0; i < p->n_rows; i++) {
        const struct kv_plan_row *r = p->row[i];
        double own = (double)r->peak[p->layout] / (double)r->peak[KV_PER_HEAD];
        if (r->peak[KV_PER_HEAD] && own > tax) {
            tax = own;
            worst = r;
        }
    }
    if (worst)
        printf("  The layout costs: under '%s' page tables %s needs %s a request, with one table per head %s.\n",
               kv_layout_names[p->layout], worst->counter.policy.name, bytes_text(a, worst->peak[p->layout]),
               bytes_text(a, worst->peak[KV_PER_HEAD]));
}

static const char *fit_text(struct kv_arena *a, int64_t fit)
{
    return fit == KV_PLAN_ANY ? "any number" : count_text(a, fit);
}

/* No policy is put before another: that would be a ranking without answers. */
static void say_range(const struct kv_plan *p, struct kv_arena *a)
{
    int64_t low = KV_PLAN_ANY, high = 0;
    for (int i = 0; i < p->n_rows; i++) {
        int64_t fit = p->row[i]->fit[p->layout];
        low = fit < low ? fit : low;
        high = fit > high ? fit : high;
    }
    if (low < high)
        printf("  From %s to %s requests fit, depending on the row; what a row costs in answers is unknown here.\n",
               fit_text(a, low), fit_text(a, high));
}

static void print_changes(const struct kv_plan *p, struct kv_arena *a)
{
    const struct kv_settings *s = p->settings;
    const struct kv_plan_row *best = p->row[0];
    for (int i = 1; i < p->n_rows; i++) {
        const struct kv_plan_row *r = p->row[i];
        int64_t more = r->fit[p->layout] - best->fit[p->layout];
        if (more > 0 || (more == 0 && r->context[p->layout] > best->context[p->layout]))
            best = r;
    }
    printf("\nNo policy of this plan fits. Nearest is %s at chunks of %s; what would help:\n",
           best->counter.policy.name, count_text(a, best->counter.policy.when.chunk));
    if (best->fit[p->layout] > 0)
        printf("  [workload] concurrency = %lld\n", (long long)best->fit[p->layout]);
    if (best->fitting_prompt >= (s->workload.shared_prefix > 1 ? s->workload.shared_prefix : 1) &&
        s->workload.prompt.distribution == KV_FIXED)
        printf("  [workload] prompt_tokens = %lld\n", (long long)best->fitting_prompt);
    double missing = kv_plan_wanted_bytes(p, best) - (double)best->pool.bytes;
    double share = (missing + (double)best->pool.usable) / (double)best->pool.memory;
    if (!p->pool.measured && share <= 0.98)
        printf("  [engine] gpu_memory_utilization = %.2f\n", ceil(share * 100) / 100);
    if (best->baseline == KV_OWN_POLICY && !kv_store_quantised(&best->counter.policy.store) &&
        best->counter.policy.store.dtype != KV_FP8)
        printf("  [policy %s] kv_cache_dtype = fp8\n", best->counter.policy.name);
    if (p->pool.measured)
        printf("  a KV pool of %.0f GiB\n", ceil((missing + (double)best->pool.bytes) / 0x1p30));
    else
        printf("  a device with %.0f GiB more memory than %s\n",
               ceil(missing / s->engine.gpu_memory_utilization / 0x1p30),
               s->hardware.title ? s->hardware.title : s->hardware.device);
}

/* Where lengths are drawn: peaks over the requests, which the table above shows the largest of. */
static const struct kv_column request_columns[] = {
    {"policy", "policy", KV_CELL_TEXT},
    {"chunk", "chunk", KV_CELL_COUNT},
    {"mean", "peak of a request\nmean", KV_CELL_BYTES},
    {"p50", "p50", KV_CELL_BYTES},
    {"p90", "p90", KV_CELL_BYTES},
    {"p99", "p99", KV_CELL_BYTES},
    {"max", "max", KV_CELL_BYTES},
    {"fit", "fit with all\nat max", KV_CELL_COUNT},
};

static void print_requests(const struct kv_plan *p, struct kv_arena *a)
{
    static const struct {
        const char *key;
        double share;
    } quantile[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"max", 1}};
    struct kv_table t;
    kv_table_open(&t, request_columns, sizeof request_columns / sizeof *request_columns, a);
    for (int i = 0; i < p->n_rows; i++) {
        const struct kv_plan_row *r = p->row[i];
        struct kv_cell *row = kv_table_row(&t);
        kv_set_text(&t, row, "policy", r->counter.policy.name);
        kv_set_whole(&t, row, "chunk", r->counter.policy.when.chunk);
        kv_set_whole(&t, row, "mean", llrint(r->peak_bytes.sum / (double)r->peak_bytes.n));
        for (int q = 0; q < 4; q++)
            kv_set_whole(&t, row, quantile[q].key, llrint(kv_quantile(&r->peak_bytes, quantile[q].share)));
        kv_set_whole(&t, row, "fit", r->fit_at_peak);
    }
    printf("\nOver all %s requests; above, footprints and 'while it decodes' are means, the peak is the largest\n",
           count_text(a, p->n_requests));
    kv_table_print(&t, stdout);
}

void kv_plan_print(const struct kv_plan *p, struct kv_arena *a)
{
    struct kv_table t;
    print_heading(p);
    if (p->pool.bytes <= 0)
        return;
    kv_plan_table(p, &t, a);
    kv_table_print(&t, stdout);
    if (p->n_requests > 1)
        print_requests(p, a);
    printf("\nReading\n");
    say_full(p, a);
    say_range(p, a);
    say_chunks(p, a);
    say_layout(p, a);
    if (p->settings->workload.concurrency > p->settings->engine.max_num_seqs)
        printf("  The engine runs at most %s requests at the same time (max_num_seqs).\n",
               count_text(a, p->settings->engine.max_num_seqs));
    for (int i = 0; i < p->n_rows; i++) {
        const char *note = row_note(p->row[i]);
        bool again = false;
        for (int j = 0; j < i; j++)
            again |= p->row[j]->source == p->row[i]->source;
        if (note && !again)
            printf("  %s: %s\n", p->row[i]->counter.policy.name, note);
    }
    printf("  quality: unknown for every policy: no task scores were given. fit: the largest request in "
           "prefill, the others decoding%s.\n",
           p->n_requests > 1 ? " at their mean" : "");
    if (!kv_plan_fits(p))
        print_changes(p, a);
}
