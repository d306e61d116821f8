/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A policy of your own. Copy this file to sim/policies/NAME.c, change `mine` to your name in it, add the line
 * KV_KIND(NAME) to sim/policies/policies.def, and run make. `kvsim policies NAME` then shows it, its keys are known to
 * configs and SPECs, and tests/laws run it against the laws that hold for all.
 *
 * A policy is when x how many x which, and each part may be somebody else's: here *when* is a preset that users may
 * override, *how many* is the fixed law that most policies use, and *which* is new: attention times the norm of the
 * value, for an entry that is looked at matters little when its value is short. */
#include "sim/policies/laws.h"

#include "sim/core/select.h"

#include <math.h>
#include <string.h>

/* ---- its keys ---- */

/* What users may set. A key is one row: name, type, place, default, range, meaning. Help, docs and checks follow. */
struct mine_params {
    double power;
};

static const struct kv_field mine_fields[] = {
    {.key = "value_power",
     .type = KV_T_REAL,
     .offset = offsetof(struct mine_params, power),
     .def = "1",
     .min = 0,
     .max = 8,
     .help = "power of the value's norm that the attention is multiplied by"},
};

/* ---- which entries stay ---- */

/* Scores the candidates of one lane: keep[0 .. v->n), higher stays. No need to think of sinks, recents, ties, order or
 * budgets: the cache does. v->channel[...] holds what `needs` below asks for; the patch is not among the candidates.
 * The newest v->tail candidates are the window's own queries: they stay, whatever is written for them.
 *
 * If the score were a channel as it is, pooled over neighbours and query heads, no function would be needed:
 *     .field = kv_pooled_fields, .n_fields = KV_RECIPE_FIELDS, .params_size = sizeof(struct kv_recipe_keys),
 *     .needs = KV_BIT(KV_LAST_ROW), .recipe = true,
 * and it would run on a GPU too. See sim/policies/tova.c. */
static void mine_lane(const struct kv_view *v, float *keep)
{
    const struct mine_params *own = v->policy->score_params;
    const float *attention = v->channel[KV_WINDOW_SEEN], *norm = v->channel[KV_VALUE_NORM];
    memcpy(keep, attention, sizeof *keep * (size_t)v->n);
    for (int row = 1; row < v->rows; row++) /* the query heads that share this KV head */
        v->select->add(keep, attention + row * v->stride[KV_WINDOW_SEEN], v->n);
    for (int64_t i = 0; i < v->n; i++)
        keep[i] *= powf(norm[i], (float)own->power);
}

static const struct kv_score score_mine = {
    .name = "mine",
    .help = "attention of the last window_size queries, times the value's norm",
    .field = mine_fields,
    .n_fields = sizeof mine_fields / sizeof *mine_fields,
    .params_size = sizeof(struct mine_params),
    .needs = KV_BIT(KV_WINDOW_SEEN) | KV_BIT(KV_VALUE_NORM), /* what must be recorded, or made live */
    .window = true, /* scored by the last window_size queries, which stay themselves */
    .lane = mine_lane,
};

/* ---- the kind: a preset of all parts ---- */

const struct kv_kind kv_kind_mine = {
    .name = "mine",
    .title = "Mine: attention times the value's norm",
    .source = "where it was published, and whose code it follows",
    .differs = "how it differs from that; empty when it does not",
    .preset = "when=postfill, window_size=64", /* the keys that a user would write */
    .also = "",                                /* other names people know it by */
    .law = &kv_law_fixed,
    .score = &score_mine,
};
