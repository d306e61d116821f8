/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Attention that an entry gathered over all queries so far: H2O's heavy hitters, and kvpress' observed attention, which
 * divides it by the queries that could see the entry. */
#include "sim/policies/laws.h"

#include "sim/core/select.h"

#include <string.h>

/* F += the pass's column sums, reduced over the query heads of the lane. Kept in f32, as upstream keeps it in the
 * model's type, where large sums stop growing. */
static void gather(const struct kv_view *v)
{
    const struct kv_recipe_keys *own = v->policy->score_params;
    const float *row = v->channel[KV_COLUMN_SUM];
    if (!row)
        return;
    if (own->group_reduce != KV_GROUP_MAX) {
        for (int r = 0; r < v->rows; r++)
            v->select->add(v->column[0], row + r * v->stride[KV_COLUMN_SUM], v->n);
        return;
    }
    memcpy(v->work, row, sizeof *row * (size_t)v->n);
    for (int r = 1; r < v->rows; r++)
        v->select->max(v->work, row + r * v->stride[KV_COLUMN_SUM], v->n);
    v->select->add(v->column[0], v->work, v->n);
}

static void gathered(const struct kv_view *v, float *keep)
{
    memcpy(keep, v->column[0], sizeof *keep * (size_t)v->n);
}

static void gathered_mean(const struct kv_view *v, float *keep)
{
    int64_t tokens = v->pass->seen + v->pass->n_new;
    for (int64_t i = 0; i < v->n; i++)
        keep[i] = v->column[0][i] / (float)(tokens - v->position[i]);
}

static const struct kv_score score_h2o = {
    .name = "h2o",
    .help = "attention an entry received so far, summed over all queries",
    .field = kv_recipe_fields + 2, /* group_reduce alone */
    .n_fields = 1,
    .params_size = sizeof(struct kv_recipe_keys),
    .observes = KV_BIT(KV_COLUMN_SUM),
    .columns = 1,
    .observe = gather,
    .lane = gathered,
    .gathers = true,
};

const struct kv_kind kv_kind_h2o = {
    .name = "h2o",
    .title = "H2O: heavy-hitter oracle, entries really dropped; once after prefill with when = postfill",
    .source = "Zhang et al. 2023, arXiv 2306.14048; FMInference/H2O, real-drop cache; post-fill: KVCache-Factory",
    .differs =
        "attention is averaged over the query heads of a KV head, where upstream runs for one query head each only; "
        "sums are kept in f32; a share is of the whole prompt, where upstream takes the first pass",
    .preset = "when=chunk+decode, tokens=2048, recent_size=1024",
    .also = "heavy_hitter, h2o_real_drop",
    .law = &kv_law_fixed,
    .score = &score_h2o,
};

static const struct kv_score score_observed = {
    .name = "observed",
    .help = "attention an entry received so far, divided by the queries that could see it",
    .field = kv_recipe_fields + 2,
    .n_fields = 1,
    .params_size = sizeof(struct kv_recipe_keys),
    .observes = KV_BIT(KV_COLUMN_SUM),
    .columns = 1,
    .positions = true,
    .observe = gather,
    .lane = gathered_mean,
};

const struct kv_kind kv_kind_observed = {
    .name = "observed",
    .title = "Observed attention: mean attention over the queries that saw an entry",
    .source = "NVIDIA/kvpress, ObservedAttentionPress",
    .differs = "",
    .preset = "when=postfill",
    .also = "observed_attention, observedattention",
    .law = &kv_law_fixed,
    .score = &score_observed,
};
