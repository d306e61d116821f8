/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/count.h"

#include <math.h>

bool kv_counter_open(struct kv_counter *c, const struct kv_policy *policy, const struct kv_model *m,
                     const struct kv_defaults *run, int64_t page, struct kv_arena *a, struct kv_err *e)
{
    *c = (struct kv_counter){.model = m, .policy = *policy};
    if (!kv_policy_prepare(&c->policy, m, run, &c->shape, a, e) ||
        !kv_classes_make(&c->classes, &c->policy, &c->shape, a, e))
        return false;
    struct kv_request none = {.prompt = 1, .prefill = 1};
    kv_walk_start(&c->walk, &c->policy, &c->shape, &c->classes, &none, a);
    if (run->limit)
        c->walk.limit = run->limit;
    kv_ledger_open(&c->ledger, &c->policy, &c->shape, &c->classes, page, a);
    return true;
}

static void read_paper(const struct kv_policy *p, const struct kv_request *r, struct kv_count *out)
{
    struct kv_paper_form form = {0};
    if (p->law->paper)
        form = p->law->paper(p, r, p->when.chunk);
    out->footprint_paper = out->peak_paper = NAN;
    if (!form.defined || r->prompt > KV_PAPER_TOKENS - r->output)
        return;
    struct kv_paper paper = kv_paper_count(&form, r->prompt, r->output);
    out->footprint_paper = paper.footprint;
    out->peak_paper = paper.peak;
}

static void read_pages(const struct kv_ledger *l, struct kv_count *out)
{
    int64_t beside = out->buffer_bytes + out->summary_bytes;
    for (int layout = 0; layout < KV_LAYOUTS; layout++)
        for (int how = 0; how < KV_COMPACTIONS; how++) {
            const struct kv_page_count *count = &l->pages[layout][how];
            bool known = how == KV_COMPACT || l->in_place;
            int64_t page = kv_ledger_page_bytes(l, (enum kv_layout)layout);
            for (int scope = 0; scope < KV_SCOPES; scope++)
                out->pages[layout][how][scope] = (struct kv_place){
                    .bytes = known ? count->peak[scope].value * page + beside : -1, .at = count->peak[scope]};
            out->pages_end[layout][how] = known ? count->end * page + beside : -1;
            out->pages_end_peak[layout][how] = known ? count->end_peak * page + beside : -1;
            out->pages_resident[layout][how] = known ? count->resident * page + beside : -1;
            if (!known || __builtin_mul_overflow(count->returned, page, &out->returned[layout][how]))
                out->returned[layout][how] = -1; /* chunks of a token with patches of millions return exabytes */
            out->pages_mean[layout][how] =
                known && l->steps ? (double)count->steps / (double)l->steps * (double)page + (double)beside : -1;
        }
}

void kv_count_read(struct kv_count *out, const struct kv_ledger *l, const struct kv_request *r)
{
    const struct kv_policy *p = l->policy;
    double lanes = (double)l->lanes, steps = (double)l->steps, full = lanes * (steps * (steps + 1) / 2);
    *out = (struct kv_count){.prompt = r->prompt,
                             .output = r->output,
                             .chunk = p->when.chunk,
                             .entry_bytes = kv_store_entry_bytes(&p->store),
                             .summary_bytes = kv_summary_bytes(p, l->shape, l->steps),
                             .buffer_bytes = kv_ledger_buffer_bytes(l),
                             .passes = l->passes,
                             .evictions = l->evictions};
    double summary = kv_summary_entry_steps(p, l->shape, l->steps);
    double summary_end = (double)out->summary_bytes / (double)out->entry_bytes;
    out->footprint_actual = ((double)l->entry_steps + summary) / full;
    for (int scope = 0; scope < KV_SCOPES; scope++) {
        out->peak_actual[scope] = ((double)l->entries[scope].value + summary_end) / (lanes * steps);
        out->held[scope] =
            (struct kv_place){.bytes = l->peak_bytes[scope] + out->summary_bytes, .at = l->entries[scope]};
    }
    out->end_peak_actual = ((double)l->end_entries_peak + summary_end) / (lanes * steps);
    out->active = 1;
    const struct kv_reads *reads = p->kind->reads;
    if (reads)
        out->active = reads->read_sum(p, r->prefill, l->steps) / (steps * (steps + 1) / 2);
    out->held_end = l->end_bytes + out->summary_bytes;
    out->held_end_peak = l->end_peak_bytes + out->summary_bytes;
    out->scratch_bytes = l->scratch_entries * out->entry_bytes;
    read_pages(l, out);
    read_paper(p, r, out);
}

struct kv_request kv_counter_request(const struct kv_counter *c, const struct kv_request *r)
{
    struct kv_request own = *r;
    own.output = kv_policy_output(&c->policy, r->output);
    return own;
}

bool kv_counter_run(struct kv_counter *c, const struct kv_request *asked, struct kv_count *out, struct kv_err *e)
{
    const struct kv_request r = kv_counter_request(c, asked);
    if (!kv_request_check(&r, &c->shape, e))
        return false;
    kv_walk_restart(&c->walk, &r);
    kv_ledger_reset(&c->ledger);
    for (struct kv_run run; kv_walk_next(&c->walk, INT64_MAX, &run);)
        kv_ledger_add(&c->ledger, &run);
    kv_count_read(out, &c->ledger, &r);
    return true;
}
