/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Keep the entries whose keys are shortest: long keys tend to be ignored. */
#include "sim/policies/laws.h"

static const struct kv_score score_l2 = {
    .name = "l2",
    .help = "minus the norm of the key",
    .needs = "key norms",
};

const struct kv_kind kv_kind_l2 = {
    .name = "l2",
    .title = "L2: shortest keys, after every pass",
    .source = "Devoto et al. 2024, arXiv 2406.11430; as cached by princeton-pli/PruLong",
    .differs =
        "the newest 64 are the true newest ones; upstream's storage order loses them while decoding; counts agree",
    .preset = "when=chunk+decode, tokens=4160, recent_size=64, skip_layers=2",
    .also = "knorm, l2norm, l2_norm",
    .law = &kv_law_fixed,
    .score = &score_l2,
};
