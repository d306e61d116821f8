/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The pages that one pass of a sequence needs, counted lane by lane and moment by moment (sim/core/ledger.h says which
 * moments there are). How many entries a lane holds is the walk's, which is checked against tokens elsewhere. */
#ifndef KV_TESTS_SLOW_HOLD_H
#define KV_TESTS_SLOW_HOLD_H

#include "sim/core/ledger.h"

struct slow_hold {
    struct kv_walk walk;
    struct kv_run run;
    int64_t page;
    enum kv_scope scope;
    int64_t most[KV_LAYOUTS], after[KV_LAYOUTS]; /* pages within the pass and at its end */
    double before, left;                         /* entries, mean over lanes; left: after the pass */
    int64_t n_tokens;                            /* patch included */
    double moved_bytes, scored_bytes;            /* by its eviction */
};

/* What a lane of the class holds in layer `layer` while layer `at` runs; at < 0: all layers run at once; at = layers:
 * all have ended. */
static int64_t slow_entries(const struct slow_hold *h, int64_t c, int64_t layer, int64_t at)
{
    const struct kv_run *r = &h->run;
    if (at >= 0 && layer < at)
        return r->before[c] + r->gain[c];
    return r->before[c] + (at < 0 || layer == at ? r->pass.n_new + r->pass.n_patch : 0);
}

static int64_t slow_ceil(int64_t n, int64_t page)
{
    return n / page + (n % page > 0);
}

static int64_t slow_pages(const struct slow_hold *h, enum kv_layout layout, int64_t at)
{
    const struct kv_classes *c = h->walk.classes;
    int64_t sum = 0, longest = 0;
    for (int64_t layer = 0; layer < c->layers; layer++) {
        int64_t in_layer = 0;
        for (int64_t i = c->first[layer]; i < c->first[layer + 1]; i++) {
            int64_t n = slow_entries(h, c->member[i].class_index, layer, at);
            in_layer = n > in_layer ? n : in_layer;
            if (layout == KV_PER_HEAD)
                sum += c->member[i].lanes * slow_ceil(n, h->page);
        }
        if (layout == KV_PER_LAYER)
            sum += slow_ceil(in_layer, h->page);
        longest = in_layer > longest ? in_layer : longest;
    }
    return layout == KV_SHARED ? slow_ceil(longest, h->page) : sum;
}

/* An eviction ranks all entries of a lane that could go, reading their keys unless the score is their place; those that
 * stay move into the holes of those that go, as long as there are any. */
static void slow_count_eviction(struct slow_hold *h)
{
    const struct kv_classes *c = h->walk.classes;
    const struct kv_policy *p = h->walk.policy;
    int64_t moved = 0, scored = 0, entry = kv_store_entry_bytes(&p->store);
    for (int64_t i = 0; i < c->n; i++) {
        int64_t go = h->run.pass.n_new - h->run.gain[i], stay = h->run.before[i] + h->run.gain[i] - h->run.frozen[i];
        if (go <= 0)
            continue;
        moved += c->at[i].lanes * (stay < 0 ? 0 : stay < go ? stay : go);
        scored += c->at[i].lanes * (stay + go);
    }
    h->moved_bytes = (double)(moved * entry);
    h->scored_bytes = p->score->positional ? 0 : (double)(scored * entry) / 2;
}

/* The next pass, of at most `limit` tokens. False: there is none. */
static bool slow_hold_next(struct slow_hold *h, int64_t limit)
{
    const struct kv_classes *c = h->walk.classes;
    h->walk.limit = limit;
    if (!kv_walk_next(&h->walk, 1, &h->run))
        return false;
    int64_t lanes = 0, entries = 0, gain = 0;
    for (int64_t i = 0; i < c->n; i++) {
        lanes += c->at[i].lanes;
        entries += c->at[i].lanes * h->run.before[i];
        gain += c->at[i].lanes * h->run.gain[i];
    }
    h->before = (double)entries / (double)lanes;
    h->left = (double)(entries + gain) / (double)lanes;
    h->n_tokens = h->run.pass.n_new + h->run.pass.n_patch;
    for (int layout = 0; layout < KV_LAYOUTS; layout++) {
        h->after[layout] = slow_pages(h, (enum kv_layout)layout, c->layers);
        h->most[layout] = 0;
        for (int64_t at = h->scope == KV_SCOPE_PASS ? -1 : 0; at < (h->scope == KV_SCOPE_PASS ? 0 : c->layers); at++) {
            int64_t pages = slow_pages(h, (enum kv_layout)layout, at);
            h->most[layout] = pages > h->most[layout] ? pages : h->most[layout];
        }
    }
    slow_count_eviction(h);
    return true;
}

/* The most pages of any pass of a request's prefill. */
static int64_t slow_hold_peak(struct slow_hold *h, const struct kv_request *r, int64_t limit, enum kv_layout layout)
{
    int64_t peak = 0;
    kv_walk_restart(&h->walk, r);
    while (slow_hold_next(h, limit) && h->run.pass.decode_step < 0)
        peak = h->most[layout] > peak ? h->most[layout] : peak;
    kv_walk_restart(&h->walk, r);
    return peak;
}

#endif
