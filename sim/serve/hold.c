/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/serve/hold.h"

#include <string.h>

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* ---- a policy ---- */

static void make_tables(struct kv_holder *h, struct kv_arena *a)
{
    const struct kv_classes *c = h->classes;
    struct kv_member *all = KV_NEW_N(a, struct kv_member, c->n);
    for (int layout = 0; layout < KV_LAYOUTS; layout++) {
        h->n_tables[layout] = layout == KV_PER_HEAD ? c->n : layout == KV_PER_LAYER ? c->n_kinds : 1;
        h->table[layout] = KV_NEW_N(a, struct kv_hold_table, h->n_tables[layout]);
    }
    for (int64_t i = 0; i < c->n; i++) {
        all[i] = (struct kv_member){.class_index = i, .lanes = c->at[i].lanes};
        h->table[KV_PER_HEAD][i] = (struct kv_hold_table){.tables = c->at[i].lanes, .member = &all[i], .n_members = 1};
    }
    for (int64_t k = 0; k < c->n_kinds; k++) {
        int64_t layer = c->kind_layer[k];
        h->table[KV_PER_LAYER][k] = (struct kv_hold_table){.tables = c->kind_layers[k],
                                                           .member = c->member + c->first[layer],
                                                           .n_members = c->first[layer + 1] - c->first[layer]};
    }
    h->table[KV_SHARED][0] = (struct kv_hold_table){.tables = 1, .member = all, .n_members = c->n};
    for (int layout = 0; layout < KV_LAYOUTS; layout++)
        for (int64_t i = 0; i < h->n_tables[layout]; i++)
            h->table[layout][i].in_layer =
                h->table[layout][i].tables / (h->alike && layout != KV_SHARED ? c->layers : 1);
}

void kv_holder_open(struct kv_holder *h, const struct kv_policy *p, const struct kv_shape *s,
                    const struct kv_classes *c, int64_t page, enum kv_scope scope, struct kv_arena *a)
{
    *h = (struct kv_holder){.policy = p,
                            .shape = s,
                            .classes = c,
                            .page = page,
                            .page_shift = page & (page - 1) ? -1 : __builtin_ctzll((unsigned long long)page),
                            .lanes = s->layers * s->store_heads,
                            .scope = scope,
                            .plain = !p->law->room && c->n == 1 && !c->at[0].window,
                            .entry_bytes = (double)kv_store_entry_bytes(&p->store),
                            .arena = a};
    h->counted = h->plain ? KV_SHARED : 0;
    h->alike = c->n_kinds == 1;
    make_tables(h, a);
}

/* ---- a sequence ---- */

void kv_hold_open(struct kv_hold *h, const struct kv_holder *holder)
{
    struct kv_request none = {.prompt = 1, .prefill = 1};
    *h = (struct kv_hold){.holder = holder};
    kv_walk_start(&h->walk, holder->policy, holder->shape, holder->classes, &none, holder->arena);
    for (int layout = 0; layout < KV_LAYOUTS; layout++) {
        h->line[layout] = KV_NEW_N(holder->arena, struct kv_hold_line, holder->n_tables[layout]);
        h->pass.line[layout] = h->line[layout];
    }
}

void kv_hold_start(struct kv_hold *h, const struct kv_request *r)
{
    kv_walk_restart(&h->walk, r);
}

/* The longest of a table's lanes in the first pass, and for how many passes it stays the longest. */
static struct kv_hold_line longest(const struct kv_hold_table *t, const struct kv_run *run, int64_t *passes)
{
    struct kv_hold_line top = {.value = -1};
    for (int64_t m = 0; m < t->n_members; m++) {
        int64_t c = t->member[m].class_index, value = run->before[c], gain = run->gain[c];
        if (value > top.value || (value == top.value && gain > top.gain))
            top = (struct kv_hold_line){.value = value, .gain = gain};
    }
    for (int64_t m = 0; m < t->n_members; m++) {
        int64_t c = t->member[m].class_index, gain = run->gain[c] - top.gain;
        if (gain > 0) /* it is overtaken */
            *passes = least(*passes, most(1, (top.value - run->before[c]) / gain));
    }
    return top;
}

/* After the pass: the longest then may be another lane than before. */
static int64_t longest_after(const struct kv_hold_table *t, const struct kv_run *run)
{
    int64_t longest = 0;
    for (int64_t m = 0; m < t->n_members; m++)
        longest = most(longest, run->before[t->member[m].class_index] + run->gain[t->member[m].class_index]);
    return longest;
}

/* Lower layers have evicted, one holds what it attends to, upper ones wait: the largest moment of the pass, in pages.
 */
static int64_t largest_moment(const struct kv_holder *h, enum kv_layout layout, const struct kv_run *run)
{
    const struct kv_classes *c = h->classes;
    int64_t grows = run->pass.n_new + run->pass.n_patch, peak = 0, now = 0, most_more = 0;
    bool still = true; /* no layer ends with another number of pages than it began with */
    int64_t before[c->n_kinds], during[c->n_kinds], after[c->n_kinds];
    for (int64_t k = 0; k < c->n_kinds; k++) {
        int64_t first = c->first[c->kind_layer[k]], last = c->first[c->kind_layer[k] + 1];
        int64_t top_before = 0, top_after = 0;
        before[k] = during[k] = after[k] = 0;
        for (int64_t m = first; m < last; m++) {
            int64_t i = c->member[m].class_index, lanes = c->member[m].lanes, length = run->before[i];
            before[k] += lanes * kv_pages_of(h, length);
            during[k] += lanes * kv_pages_of(h, length + grows);
            after[k] += lanes * kv_pages_of(h, length + run->gain[i]);
            top_before = most(top_before, length);
            top_after = most(top_after, length + run->gain[i]);
        }
        if (layout == KV_PER_LAYER) {
            before[k] = kv_pages_of(h, top_before);
            during[k] = kv_pages_of(h, top_before + grows);
            after[k] = kv_pages_of(h, top_after);
        }
        still &= before[k] == after[k];
        most_more = most(most_more, during[k] - before[k]);
        now += c->kind_layers[k] * (h->scope == KV_SCOPE_PASS ? during[k] : before[k]);
    }
    if (h->scope == KV_SCOPE_PASS)
        return now;
    if (still)
        return now + most_more;
    if (h->alike) /* a straight line from the first layer to the last */
        return during[0] + (c->layers - 1) * most(before[0], after[0]);
    if (c->n_kinds == 1) /* a straight line from the first layer to the last */
        return during[0] + (c->layers - 1) * most(before[0], after[0]);
    for (int64_t layer = 0; layer < c->layers; layer++) {
        int64_t k = c->kind[layer];
        now += during[k] - before[k];
        peak = most(peak, now);
        now += after[k] - during[k];
    }
    return peak;
}

/* Of layers that are all of one kind, each of which holds so many pages before, during and after its own attention. */
static int64_t largest_of_alike(const struct kv_holder *h, int64_t before, int64_t during, int64_t after)
{
    int64_t others = h->scope == KV_SCOPE_PASS ? during : most(before, after);
    return during + (h->classes->layers - 1) * others;
}

/* Pages of the layout before, during and after the first pass, and the lines of its tables. */
static void count_tables(struct kv_hold *h, enum kv_layout layout, const struct kv_run *run, struct kv_hold_pass *p)
{
    const struct kv_holder *holder = h->holder;
    int64_t before = 0, during = 0, after = 0,
            times = layout == KV_SHARED || !holder->alike ? 1 : holder->classes->layers;
    for (int64_t i = 0; i < holder->n_tables[layout]; i++) {
        const struct kv_hold_table *t = &holder->table[layout][i];
        int64_t c = t->member->class_index;
        bool alone = t->n_members == 1;
        struct kv_hold_line line =
            alone ? (struct kv_hold_line){.value = run->before[c], .gain = run->gain[c]} : longest(t, run, &p->passes);
        int64_t end = alone ? line.value + line.gain : longest_after(t, run);
        if (p->passes == 1)
            line.gain = end - line.value;
        h->line[layout][i] = line;
        before += t->in_layer * kv_pages_of(holder, line.value);
        during += t->in_layer * kv_pages_of(holder, line.value + p->n_new + p->n_patch);
        after += t->in_layer * kv_pages_of(holder, end);
    }
    p->before[layout] = times * before;
    p->after[layout] = times * after;
    if (layout != KV_SHARED)
        during = most(p->after[layout], holder->alike ? largest_of_alike(holder, before, during, after)
                                                      : largest_moment(holder, layout, run));
    p->during[layout] = during;
}

/* Where layers are alike, the table of each holds what the shared one does. */
static void count_layers_alike(struct kv_hold *h, struct kv_hold_pass *p)
{
    int64_t layers = h->holder->classes->layers, before = p->before[KV_SHARED], after = p->after[KV_SHARED];
    *h->line[KV_PER_LAYER] = *h->line[KV_SHARED];
    p->before[KV_PER_LAYER] = layers * before;
    p->after[KV_PER_LAYER] = layers * after;
    p->during[KV_PER_LAYER] = most(layers * after, largest_of_alike(h->holder, before, p->during[KV_SHARED], after));
}

static void count_entries(const struct kv_holder *h, const struct kv_run *run, struct kv_hold_pass *p)
{
    int64_t held = 0, gain = 0, moved = 0, scored = 0;
    for (int64_t i = 0; i < h->classes->n; i++) {
        int64_t lanes = h->classes->at[i].lanes, left = p->n_new - run->gain[i];
        held += lanes * run->before[i];
        gain += lanes * run->gain[i];
        if (left <= 0)
            continue;
        int64_t after = run->before[i] + run->gain[i] - run->frozen[i];
        moved += lanes * least(left, most(0, after)); /* the last ones fill the holes */
        scored += lanes * (after + left);
    }
    p->held = (double)held / (double)h->lanes;
    p->gain = (double)gain / (double)h->lanes;
    p->moved_bytes = (double)moved * h->entry_bytes;
    p->scored_bytes = h->policy->score->positional ? 0 : (double)scored * h->entry_bytes / 2;
}

/* Nothing ever leaves: no table of lanes is needed. */
static const struct kv_hold_pass *next_plain(struct kv_hold *h, int64_t limit)
{
    const struct kv_holder *holder = h->holder;
    struct kv_hold_pass *p = &h->pass;
    struct kv_walk *w = &h->walk;
    bool decode = w->seen >= w->request.prefill;
    int64_t left = decode ? kv_request_steps(&w->request) - w->seen : least(limit, w->request.prefill - w->seen);
    if (left <= 0)
        return NULL;
    p->n_new = decode ? 1 : left;
    p->n_patch = 0;
    p->passes = decode ? left : 1;
    p->decode = decode;
    p->last = !decode && w->seen + left == w->request.prefill;
    /* nothing rises: p->rise and p->dip stay 0 */
    *h->line[KV_SHARED] = (struct kv_hold_line){.value = w->seen, .gain = p->n_new};
    p->before[KV_SHARED] = kv_pages_of(holder, w->seen);
    p->during[KV_SHARED] = p->after[KV_SHARED] = kv_pages_of(holder, w->seen + p->n_new);
    p->held = (double)w->seen;
    p->gain = (double)p->n_new;
    w->seen += left;
    return p;
}

/* Pages after the pass. */
static int64_t pages_after(const struct kv_holder *h, enum kv_layout layout, const struct kv_run *run)
{
    int64_t after = 0;
    for (int64_t i = 0; i < h->n_tables[layout]; i++)
        after += h->table[layout][i].tables * kv_pages_of(h, longest_after(&h->table[layout][i], run));
    return after;
}

/* The same run with lanes that grow so much further. */
static void rise_further(const struct kv_holder *h, const struct kv_run *run, int64_t further, int64_t rise[KV_LAYOUTS])
{
    int64_t before[h->classes->n];
    struct kv_run there = *run;
    there.before = before;
    for (int64_t i = 0; i < h->classes->n; i++)
        before[i] = run->before[i] + further * run->gain[i];
    for (int layout = 0; layout < KV_SHARED; layout++) {
        int64_t after = pages_after(h, (enum kv_layout)layout, &there);
        rise[layout] = most(after, largest_moment(h, (enum kv_layout)layout, &there)) - after;
    }
}

/* Layers that have evicted beside one that grows: what a pass needs beyond what it leaves is less where lanes that grow
 * begin a page. Where all of these are the longest and begin their pages together two numbers say it; else the run ends
 * where it changes. */
static void count_rise(const struct kv_holder *h, const struct kv_run *run, struct kv_hold_pass *p)
{
    int64_t until = INT64_MAX, growing = 0, shortest = INT64_MAX, still = 0, page = h->page;
    bool together = true;
    for (int layout = 0; layout < KV_LAYOUTS; layout++) {
        p->rise[layout] = p->during[layout] - p->after[layout];
        p->dip[layout] = 0;
    }
    for (int64_t i = 0; i < h->classes->n; i++) {
        int64_t length = run->before[i], in_page = kv_in_page(h, length);
        if (run->gain[i] != 1) {
            still = most(still, length);
            continue;
        }
        together = together && (!growing || kv_in_page(h, p->grows_from) == in_page);
        p->grows_from = length;
        shortest = least(shortest, length);
        until = least(until, in_page ? page - in_page : 1);
        growing++;
    }
    if (p->passes == 1 || !growing || growing == h->classes->n || h->scope == KV_SCOPE_PASS)
        return;
    if (!together || shortest < still) {
        p->passes = least(p->passes, until);
        return;
    }
    int64_t in_page = kv_in_page(h, p->grows_from);
    rise_further(h, run, in_page == 0, p->rise);
    rise_further(h, run, in_page ? page - in_page : 0, p->dip);
    for (int layout = 0; layout < KV_SHARED; layout++)
        p->dip[layout] -= p->rise[layout];
}

const struct kv_hold_pass *kv_hold_next(struct kv_hold *h, int64_t limit)
{
    struct kv_hold_pass *p = &h->pass;
    struct kv_walk *w = &h->walk;
    if (h->holder->plain)
        return next_plain(h, limit);
    bool decode = w->seen >= w->request.prefill;
    w->limit = decode ? INT64_MAX : limit;
    if (!kv_walk_next(w, decode ? INT64_MAX : 1, &h->run))
        return NULL;
    p->n_new = h->run.pass.n_new;
    p->n_patch = h->run.pass.n_patch;
    p->passes = h->run.passes;
    p->decode = decode;
    p->last = h->run.pass.last;
    for (int64_t i = 0; i < h->holder->classes->n; i++)
        if (h->run.gain[i] < 0 || h->run.gain[i] > 1)
            p->passes = 1;
    count_tables(h, KV_PER_HEAD, &h->run, p);
    if (!h->holder->alike)
        count_tables(h, KV_PER_LAYER, &h->run, p);
    count_tables(h, KV_SHARED, &h->run, p);
    if (h->holder->alike)
        count_layers_alike(h, p);
    if (decode)
        count_rise(h->holder, &h->run, p);
    count_entries(h->holder, &h->run, p);
    for (int layout = 0; layout < KV_LAYOUTS; layout++)
        p->returned[layout] = most(0, p->during[layout] - p->after[layout]);
    if (p->passes < h->run.passes)
        kv_walk_shorten(w, &h->run, p->passes);
    return p;
}

int64_t kv_hold_pages(const struct kv_hold *h, enum kv_layout layout, int64_t j)
{
    const struct kv_holder *holder = h->holder;
    int64_t sum = 0;
    for (int64_t i = 0; i < holder->n_tables[layout]; i++) {
        const struct kv_hold_line *line = &h->line[layout][i];
        sum += holder->table[layout][i].tables * kv_pages_of(holder, line->value + line->gain * j);
    }
    return sum;
}

/* The longest of all lanes at any moment of the run: lanes change by the same in each pass of it, so it is longest at
 * one of its ends. */
static int64_t longest_of_run(const struct kv_holder *h, const struct kv_run *run)
{
    int64_t longest = 0, last = run->passes - 1;
    for (int64_t i = 0; i < h->classes->n; i++)
        longest = most(longest, run->before[i] + (run->gain[i] > 0 ? last * run->gain[i] : 0));
    return longest + run->pass.n_new + run->pass.n_patch;
}

int64_t kv_hold_prefill_peak(struct kv_hold *h, enum kv_layout layout, int64_t limit)
{
    int64_t peak = 0;
    do {
        if (layout == KV_SHARED && !h->holder->plain) {
            h->walk.limit = limit;
            bool more = kv_walk_next(&h->walk, INT64_MAX, &h->run);
            KV_ASSERT(more);
            peak = most(peak, kv_pages_of(h->holder, longest_of_run(h->holder, &h->run)));
        } else {
            peak = most(peak, kv_hold_next(h, limit)->during[layout]);
        }
    } while (h->walk.seen < h->walk.request.prefill);
    return peak;
}

static void seek_pass(struct kv_hold *h, int64_t tokens, int64_t limit)
{
    struct kv_walk *w = &h->walk;
    const struct kv_hold_pass *p = kv_hold_next(h, least(limit, most(1, tokens - w->seen)));
    int64_t passes = p->passes;
    if (w->seen > tokens) { /* of a run of decodes only the first ones */
        passes -= (w->seen - tokens) / p->n_new;
        kv_walk_shorten(w, &h->run, passes);
    }
    for (int layout = 0; layout < KV_LAYOUTS; layout++)
        h->pages[layout] = passes == 1 ? p->after[layout] : kv_hold_pages(h, (enum kv_layout)layout, passes);
    h->held = p->held + p->gain * (double)passes;
}

void kv_hold_seek(struct kv_hold *h, int64_t tokens, int64_t limit)
{
    const struct kv_holder *holder = h->holder;
    KV_ASSERT(!holder->policy->when.patch);
    memset(h->pages, 0, sizeof h->pages);
    h->held = 0;
    if (holder->plain) {
        h->walk.seen = tokens;
        h->held = (double)tokens;
        h->pages[KV_SHARED] = kv_pages_of(holder, tokens);
        return;
    }
    while (h->walk.seen < tokens)
        seek_pass(h, tokens, limit);
}
