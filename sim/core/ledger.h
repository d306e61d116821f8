/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What a walk costs in memory: entries held, pages under three layouts with and without compaction, what eviction
 * returns, and the peaks within passes. Every pass of every request goes through kv_ledger_add, and balances change
 * nowhere else.
 *
 * Within a pass the layers run one after another. Pages are taken as a layer runs; with scope `layer` it evicts when
 * its own attention ends, with scope `pass` all layers evict when the pass ends. So the largest moment of a pass is,
 * over its layers: lower layers after their eviction, this one with its old, new and patch entries, upper ones as
 * before. */
#ifndef KV_LEDGER_H
#define KV_LEDGER_H

#include "sim/core/walk.h"

enum kv_scope { KV_SCOPE_LAYER, KV_SCOPE_PASS, KV_SCOPES };
enum kv_layout {
    KV_PER_HEAD,  /* each lane has a page table of its own */
    KV_PER_LAYER, /* all heads of a layer share one: its longest lane decides */
    KV_SHARED,    /* one table for all heads and layers, as vLLM has it: the longest lane decides */
    KV_LAYOUTS
};
enum kv_compaction {
    KV_COMPACT,  /* survivors move together: pages = ceil(longest lane / page) */
    KV_IN_PLACE, /* a page goes when every entry in it went; known from lengths for sinks and recents only */
    KV_COMPACTIONS
};
extern const char *const kv_scope_names[];
extern const char *const kv_layout_names[];

struct kv_peak {
    int64_t value;
    int64_t pass, seen; /* the first pass it happened in, and the tokens before that pass; under skip_places the last of
                         * that pass's run */
    int64_t layer;      /* that ran at the moment; -1: all layers at once */
    bool decode, patched;
};

/* In pages of the layout: of a lane, of a layer, of the model. */
struct kv_page_count {
    struct kv_peak peak[KV_SCOPES];
    int64_t end_peak; /* largest value at the end of a pass */
    int64_t end;      /* after the last pass so far */
    int64_t
        resident; /* largest value at the end of prefill or of a decode step: what a request holds while it decodes */
    int64_t returned; /* given back by evictions, in all */
    int64_t steps;    /* pages held from each pass's start to its end x its tokens, summed */
};

struct kv_ledger {
    const struct kv_shape *shape;
    const struct kv_classes *classes;
    const struct kv_policy *policy;
    int64_t page; /* entries of a page */
    int64_t lanes;
    bool in_place;    /* KV_IN_PLACE is counted; kv_ledger_open sets it for positional policies, whoever brings
                       * kv_places with each run may set it for others */
    bool skip_places; /* set by those who want peaks but not where they were: costs less */

    int64_t steps;       /* query steps so far */
    int64_t entry_steps; /* entries not evicted, summed over query steps and lanes; a pass's own tokens as a ramp */
    struct kv_peak entries[KV_SCOPES];
    int64_t peak_bytes[KV_SCOPES];         /* that the entries at that peak are */
    int64_t end_entries_peak, end_entries; /* at the ends of passes */
    int64_t end_peak_bytes, end_bytes;     /* that those entries are */
    struct kv_page_count pages[KV_LAYOUTS][KV_COMPACTIONS];
    int64_t scratch_entries; /* most survivors of one layer that one eviction may have to move */
    int64_t passes, evictions;

    /* the last pass alone, for timelines */
    int64_t pass_entries[KV_SCOPES];
    int64_t pass_pages[KV_LAYOUTS][KV_COMPACTIONS][KV_SCOPES];

    struct kv_snapshot *snap; /* work space */
};

void kv_ledger_open(struct kv_ledger *l, const struct kv_policy *p, const struct kv_shape *s,
                    const struct kv_classes *c, int64_t page, struct kv_arena *a);
void kv_ledger_reset(struct kv_ledger *l);
void kv_ledger_add(struct kv_ledger *l, const struct kv_run *run);

/* Bytes of one page of the layout, and of the buffers no page counts (int8, int4). */
int64_t kv_ledger_page_bytes(const struct kv_ledger *l, enum kv_layout layout);
int64_t kv_ledger_buffer_bytes(const struct kv_ledger *l);

/* Bytes of the block summaries that Quest, MoBA and NSA keep beside `entries` entries in each lane. */
int64_t kv_summary_bytes(const struct kv_policy *p, const struct kv_shape *s, int64_t entries);
/* The same in entries, summed over 1 .. last query steps and all lanes. */
double kv_summary_entry_steps(const struct kv_policy *p, const struct kv_shape *s, int64_t last);

/* floor((a x i + b) / m) summed over i = 0 .. n-1; n, a, b >= 0, m >= 1. */
int64_t kv_floor_sum(int64_t n, int64_t m, int64_t a, int64_t b);

#endif
