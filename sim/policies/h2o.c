/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Heavy hitters: entries that gathered most attention so far, and the newest ones. */
#include "sim/policies/laws.h"

static const struct kv_score score_h2o = {
    .name = "h2o",
    .help = "attention an entry received so far, summed over all queries",
    .needs = "column sums of every pass, over the policy's own retained set",
};

const struct kv_kind kv_kind_h2o = {
    .name = "h2o",
    .title = "H2O: heavy-hitter oracle, entries really dropped",
    .source = "Zhang et al. 2023, arXiv 2306.14048; FMInference/H2O, real-drop cache",
    .differs =
        "attention is averaged over the query heads of a KV head, where upstream runs for one query head each only; "
        "a share is of the whole prompt, where upstream takes the first pass",
    .preset = "when=chunk+decode, tokens=2048, recent_size=1024",
    .also = "heavy_hitter, h2o_real_drop",
    .law = &kv_law_fixed,
    .score = &score_h2o,
};
