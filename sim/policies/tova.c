/* SPDX-License-Identifier: GPL-3.0-or-later */
/* TOVA: what the newest query attends to stays; one decision for all heads of a layer. */
#include "sim/policies/laws.h"

#include "sim/core/select.h"

#include <string.h>

/* The layer's heads hold the same entries, so ranks agree. */
static void sum_heads(const struct kv_view *v, int heads, float *const *keep)
{
    for (int h = 1; h < heads; h++)
        v->select->add(keep[0], keep[h], v->n);
    for (int h = 1; h < heads; h++)
        memcpy(keep[h], keep[0], sizeof *keep[0] * (size_t)v->n);
}

static const struct kv_score score_tova = {
    .name = "tova",
    .help = "attention of the newest query, averaged over all query heads of the layer",
    .field = kv_recipe_fields,
    .n_fields = KV_RECIPE_FIELDS,
    .params_size = sizeof(struct kv_recipe_keys),
    .needs = KV_BIT(KV_LAST_ROW),
    .recipe = true,
    .layer = sum_heads,
    .adds_heads = true,
};

const struct kv_kind kv_kind_tova = {
    .name = "tova",
    .title = "TOVA: token omission via attention, the same entries in all heads of a layer",
    .source = "Oren et al. 2024, arXiv 2401.06104; NVIDIA/kvpress, TOVAPress (when = postfill)",
    .differs = "",
    .preset = "when=chunk+decode, recent_size=1",
    .also = "",
    .law = &kv_law_fixed,
    .score = &score_tova,
};
