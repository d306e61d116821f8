/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A request under a policy that evicts may be larger than the pool and yet fit into it, or fit at first and outgrow it
 * while it decodes. Then it preempts itself: what is offloaded never fits again, what is computed again may, since a
 * prompt and answer together are a prompt, which the policy may make smaller than they were. */
#include "sim/serve/alone.h"

#include "sim/core/least.h"

void kv_alone_open(struct kv_alone *a, const struct kv_holder *holder, const struct kv_engine_rules *rules)
{
    int64_t tables = 0;
    *a = (struct kv_alone){.holder = holder, .rules = rules};
    kv_hold_open(&a->hold, holder);
    for (int64_t i = 0; i < holder->n_tables[rules->layout]; i++)
        tables += holder->table[rules->layout][i].tables;
    a->whole = rules->pages / tables * holder->page - (holder->plain ? 0 : holder->policy->when.patch);
}

static bool offloads(const struct kv_alone *a)
{
    return a->rules->offload && !a->holder->policy->when.patch;
}

/* The j-th decode of a run has the pages it asks for. Sarathi's asks for a free one before it looks whether it needs
 * it; that much the way to the host and back gives it. */
static bool decode_fits(const struct kv_alone *a, const struct kv_hold_pass *p, int64_t j)
{
    enum kv_layout layout = a->rules->layout;
    int64_t before = p->before[layout], during = p->during[layout];
    if (p->passes > 1) {
        before = kv_hold_pages(&a->hold, layout, j);
        during = kv_hold_pages(&a->hold, layout, j + 1) + kv_hold_rise(a->holder, p, layout, j);
    }
    if (a->rules->scheduler == KV_SCHEDULER_SARATHI && !offloads(a))
        during = kv_most(during, before + a->holder->table[layout]->tables);
    return during <= a->rules->pages;
}

/* How many decodes of the run fit, the first ones: lengths do not fall from one to the next. */
static int64_t decodes_that_fit(const struct kv_alone *a, const struct kv_hold_pass *p)
{
    int64_t low = 0, high = p->passes;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (decode_fits(a, p, middle))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool comes_through(struct kv_alone *a, int64_t prompt, int64_t output)
{
    const struct kv_engine_rules *r = a->rules;
    const struct kv_hold_pass *p;
    int64_t threshold = r->long_prefill_token_threshold, budget = r->max_num_batched_tokens;
    for (;;) {
        struct kv_request request = {.prompt = prompt, .output = output, .prefill = prompt};
        int64_t generated = 1, fit;
        kv_hold_start(&a->hold, &request);
        do {
            p = kv_hold_next(&a->hold, threshold ? kv_least(threshold, budget) : budget);
            if (p->during[r->layout] > r->pages)
                return false;
        } while (!p->last);
        while ((p = kv_hold_next(&a->hold, INT64_MAX)) && (fit = decodes_that_fit(a, p)) == p->passes)
            generated += fit;
        if (!p)
            return true;
        if (offloads(a))
            return false;
        prompt += generated + fit;
        output -= generated + fit;
    }
}

bool kv_alone_walk(struct kv_alone *a, int64_t prompt, int64_t output)
{
    if (a->holder->plain)
        return false;
    if (prompt != a->prompt || output != a->output) {
        a->fits = comes_through(a, prompt, output);
        a->prompt = prompt;
        a->output = output;
    }
    return a->fits;
}
