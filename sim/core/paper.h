/* SPDX-License-Identifier: GPL-3.0-or-later */
/* KV footprint and KV peak as the paper's authors compute them: closed forms over passes, rounding and quirks included.
 *
 * Source: Bhaskar, Wettig et al. 2025, arXiv 2506.17121, section 3 and appendix A; the released code of its evaluation.
 * What they charge is not what runs: +64 entries per chunk whatever is kept, the nominal share of heads, T(n+m) query
 * steps. For what runs see ledger.h. */
#ifndef KV_PAPER_H
#define KV_PAPER_H

#include "sim/core/policy.h"

struct kv_paper {
    double footprint; /* un-evicted entries summed over all queries / the same for full causal attention */
    double peak;      /* most entries at the end of a pass or of decoding / (n + m) */
};

/* prompt >= 1, output >= 0, form->chunk >= 1, sparsities in 0..1, prompt + output <= KV_PAPER_TOKENS. */
struct kv_paper kv_paper_count(const struct kv_paper_form *form, int64_t prompt, int64_t output);

/* Sums up to here stay exact in int64 and in double's 53 bits where the paper's tables lie; above, rounding is
 * double's. */
#define KV_PAPER_TOKENS ((int64_t)1 << 30)

#endif
