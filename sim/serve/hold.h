/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What a sequence under a policy occupies, pass by pass, in pages of each layout. A run of decode steps that go on
 * alike comes at once: each page table then grows by no or by one entry a step, so that whoever batches many sequences
 * can count steps instead of sequences. */
#ifndef KV_HOLD_H
#define KV_HOLD_H

#include "sim/core/ledger.h"
#include "sim/core/walk.h"

/* Tables of a layout that always hold as much as each other: lanes of a class, layers of a kind, or the shared one. */
struct kv_hold_table {
    int64_t tables, in_layer;       /* in_layer: of each layer where layers are alike; else all */
    const struct kv_member *member; /* classes that lie in it, the longest of which decides */
    int64_t n_members;
};

/* A policy on a model, for any number of sequences. */
struct kv_holder {
    const struct kv_policy *policy;
    const struct kv_shape *shape;
    const struct kv_classes *classes;
    int64_t page, lanes;
    int page_shift; /* page is 2 to it; less than 0: it is no power of two */
    enum kv_scope scope;
    bool alike;  /* layers are all of one kind */
    bool plain;  /* nothing ever leaves, and all lanes are alike */
    int counted; /* the first layout whose pages are counted: of a plain policy KV_SHARED alone, for each table of the
                  * others holds as much as that one */
    struct kv_hold_table *table[KV_LAYOUTS];
    int64_t n_tables[KV_LAYOUTS];
    int64_t page_bytes[KV_LAYOUTS]; /* of one table */
    double entry_bytes;             /* of one lane */
    struct kv_arena *arena;
};

/* Pages of so many entries, and where in its page the entry behind them lies. */
static inline int64_t kv_pages_of(const struct kv_holder *h, int64_t length)
{
    int64_t up = length + h->page - 1;
    return h->page_shift < 0 ? up / h->page : up >> h->page_shift;
}

static inline int64_t kv_in_page(const struct kv_holder *h, int64_t length)
{
    int64_t rest = h->page_shift < 0 ? length % h->page : length & (h->page - 1);
    return rest < 0 ? rest + h->page : rest;
}

void kv_holder_open(struct kv_holder *h, const struct kv_policy *p, const struct kv_shape *s,
                    const struct kv_classes *c, int64_t page, enum kv_scope scope, struct kv_arena *a);

/* A page table's length: value + gain x j in the j-th pass of the run before it, one gain more after it. */
struct kv_hold_line {
    int64_t value, gain;
};

/* `passes` passes that go on alike. */
struct kv_hold_pass {
    int64_t n_new, n_patch, passes;
    bool decode, last; /* last: of the prefill */
    /* Pages of the first pass, in layouts that are counted; during: at most, new and patch tokens included. */
    int64_t before[KV_LAYOUTS], during[KV_LAYOUTS], after[KV_LAYOUTS];
    const struct kv_hold_line *line[KV_LAYOUTS]; /* (n_tables,) views: until the next pass */
    double held, gain;                           /* entries, mean over lanes: before, and a pass */
    double moved_bytes, scored_bytes;            /* by the eviction of each pass */
    int64_t returned[KV_LAYOUTS];                /* pages an eviction gives back, in the first pass */
    /* Of a run of decodes: pages that each pass needs within it and gives back at its end; the last number is added (it
     * is negative) where the lanes that grow, `grows_from` entries long before the first pass, begin a page. */
    int64_t rise[KV_LAYOUTS], dip[KV_LAYOUTS], grows_from;
};

struct kv_hold {
    const struct kv_holder *holder;
    struct kv_walk walk;
    struct kv_hold_line *line[KV_LAYOUTS];
    struct kv_hold_pass pass;
    struct kv_run run;
    int64_t pages[KV_LAYOUTS]; /* where kv_hold_seek came to */
    double held;               /* entries, mean over lanes */
};

void kv_hold_open(struct kv_hold *h, const struct kv_holder *holder);
void kv_hold_start(struct kv_hold *h, const struct kv_request *r);

/* The first tokens are there already, decoded ones too: goes on behind them. A policy that evicts holds of them what
 * passes of `limit` tokens would have left. Not for policies with a patch. */
void kv_hold_seek(struct kv_hold *h, int64_t tokens, int64_t limit);

/* The next pass, of at most `limit` tokens in prefill, patch included; NULL at the end of the request. View. */
const struct kv_hold_pass *kv_hold_next(struct kv_hold *h, int64_t limit);

/* From its start to the end of prefill in passes of at most `limit` tokens: the most pages that any of them needs.
 * There is no kv_hold_next after it, but for a new start. */
int64_t kv_hold_prefill_peak(struct kv_hold *h, enum kv_layout layout, int64_t limit);

/* What the j-th pass of a run of decodes needs within it. */
static inline int64_t kv_hold_rise(const struct kv_holder *h, const struct kv_hold_pass *p, enum kv_layout layout,
                                   int64_t j)
{
    return p->rise[layout] + (kv_in_page(h, p->grows_from + j) ? 0 : p->dip[layout]);
}

/* Pages of the line's tables in the layout, which is counted, after j passes. */
int64_t kv_hold_pages(const struct kv_hold *h, enum kv_layout layout, int64_t j);

#endif
