/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The full cache: nothing leaves before the request does. */
#include "sim/policies/laws.h"

static struct kv_paper_form paper_full(const struct kv_policy *p, const struct kv_request *r, int64_t chunk)
{
    (void)p;
    (void)r;
    return (struct kv_paper_form){.defined = true, .chunk = chunk};
}

const struct kv_law kv_law_all = {
    .name = "all",
    .help = "every entry stays",
    .paper = paper_full,
};

const struct kv_score kv_score_none = {
    .name = "none",
    .help = "nothing is ever chosen",
    .positional = true,
};

const struct kv_kind kv_kind_full = {
    .name = "full",
    .title = "Full cache",
    .source = "the model itself",
    .differs = "",
    .preset = "when=never",
    .also = "none, baseline, dense",
    .law = &kv_law_all,
    .score = &kv_score_none,
};
