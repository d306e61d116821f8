/* SPDX-License-Identifier: GPL-3.0-or-later */
/* HeadKV: budgets shared out over all heads of the model by a file of their importance. */
#include "sim/core/mask.h"
#include "sim/policies/laws.h"

#include <math.h>

struct headkv_params {
    const char *heads;
    double beta;
    double *share; /* (layers, kv_heads) made by prepare: the head's share of all importance */
};

#define AT(member) offsetof(struct headkv_params, member)
static const struct kv_field headkv_fields[] = {
    {.key = "head_scores",
     .type = KV_T_TEXT,
     .offset = AT(heads),
     .also = "heads, head_score_file",
     .help = "importance of each KV head, 0 .. 1: a .tsv of one row per layer and one column per KV head"},
    {.key = "head_beta",
     .type = KV_T_REAL,
     .offset = AT(beta),
     .def = "1.2",
     .min = 1,
     .max = 1e6,
     .help = "1/head_beta of the budget is shared out by importance; every head keeps the rest"},
};
#undef AT

static bool prepare_headkv(struct kv_policy *p, const struct kv_shape *s, struct kv_arena *a, struct kv_err *e)
{
    struct headkv_params *own = p->law_params;
    int64_t lanes = s->layers * s->kv_heads;
    struct kv_mask file;
    double sum = 0;
    if (!own->heads)
        return kv_fail(e, KV_USAGE, "%s no head_scores; give a .tsv of the heads' importance", p->where);
    if (!kv_fixed_prepare(p, s, a, e) || !kv_mask_read(own->heads, s->layers, s->kv_heads, s->q_heads, &file, a, e))
        return false;
    own->share = kv_alloc_many(a, (size_t)lanes, sizeof *own->share, "head shares", e);
    if (!own->share)
        return false;
    for (int64_t i = 0; i < lanes; i++)
        sum += file.gate[i];
    if (!(sum > 0))
        return kv_fail(e, KV_DATA, "%s all heads of '%s' have importance 0; there is nothing to share by", p->where,
                       own->heads);
    for (int64_t i = 0; i < lanes; i++)
        own->share[i] = file.gate[i] / sum;
    p->input = file.path;
    return true;
}

static int64_t headkv_group(const struct kv_policy *p, const struct kv_shape *s, int64_t layer, int64_t head)
{
    (void)p;
    return layer * s->kv_heads + head / (s->store_heads / s->kv_heads);
}

/* Source: Fu et al. 2024, arXiv 2410.19258; Zefan-Cai/KVCache-Factory, HeadKV: of the budget without window, base -
 * floor(base / beta) is every head's, floor(base / beta) x heads is shared by importance, rounded half to even. */
static struct kv_room headkv_room(const struct kv_policy *p, const struct kv_shape *s, const struct kv_lane *lane,
                                  const struct kv_pass *pass)
{
    const struct headkv_params *own = p->law_params;
    int64_t total = kv_fixed_total(p, pass->prompt), window = p->score->window ? p->keys.window_size : 0;
    if (total == KV_NO_BOUND)
        return (struct kv_room){.keep = KV_NO_BOUND, .steady = KV_SAME_TOTAL};
    double base = (double)(total > window ? total - window : 0), pool = floor(base / own->beta);
    double share = own->share[headkv_group(p, s, lane->layer, lane->head)];
    double scored = rint(share * pool * (double)(s->layers * s->kv_heads) + (base - pool));
    return (struct kv_room){.keep = window + (scored < (double)KV_NO_BOUND / 4 ? (int64_t)scored : KV_NO_BOUND / 4),
                            .steady = KV_SAME_TOTAL};
}

static const struct kv_law law_headkv = {
    .name = "heads",
    .help = "the budget is the mean over all lanes, shared out by each head's importance",
    .field = headkv_fields,
    .n_fields = sizeof headkv_fields / sizeof *headkv_fields,
    .params_size = sizeof(struct headkv_params),
    .budget = KV_BUDGET_SHARE | KV_BUDGET_TOKENS,
    .at = KV_AT_POSTFILL | KV_AT_CHUNK | KV_AT_DECODE,
    .needs_budget = true,
    .prepare = prepare_headkv,
    .group = headkv_group,
    .room = headkv_room,
};

const struct kv_kind kv_kind_headkv = {
    .name = "headkv",
    .title = "HeadKV: important heads keep more",
    .source = "Fu et al. 2024, arXiv 2410.19258; Zefan-Cai/KVCache-Factory, HeadKV",
    .differs = "importance comes as a table of KV heads; upstream's file is of query heads",
    .preset = "when=postfill, window_size=32, pooling=max, kernel_size=7, reduce_order=reduce-first",
    .also = "head_kv",
    .law = &law_headkv,
    .score = &kv_score_window,
};
