/* SPDX-License-Identifier: GPL-3.0-or-later */
/* AdaKV: the heads of a layer share its budget, and the scores say how. Two released forms. Lengths alone tell the mean
 * of a layer's lanes only. */
#include "sim/policies/laws.h"

#include "sim/core/select.h"

#include <math.h>
#include <string.h>

static struct kv_room shared_room(const struct kv_policy *p, const struct kv_shape *s, const struct kv_lane *lane,
                                  const struct kv_pass *pass)
{
    (void)s;
    (void)lane;
    return (struct kv_room){.keep = kv_fixed_total(p, pass->prompt), .steady = KV_SAME_TOTAL};
}

/* How many of the `total` highest of all heads' scores, put together in `work`, each head has. */
static void count_best(int heads, const int64_t *n, int64_t total, struct kv_share_work *work, int64_t *count)
{
    int64_t all = 0;
    for (int h = 0; h < heads; h++)
        all += n[h];
    work->select->top(work->score, all, total < all ? total : all, work->mask, work->top);
    int64_t from = 0;
    for (int h = 0; h < heads; from += n[h], h++)
        count[h] = kv_set_count_range(work->mask, from, from + n[h]);
}

static bool prepare_shared(struct kv_policy *p, const struct kv_shape *s, struct kv_arena *a, struct kv_err *e)
{
    p->note = "lengths tell the mean of a layer's lanes; which lane holds more depends on scores";
    return kv_fixed_prepare(p, s, a, e);
}

/* ---- KVCache-Factory ---- */

struct adaptive_params {
    double floor;
    bool normalize;
};

static const struct kv_field adaptive_fields[] = {
    {.key = "floor_ratio",
     .type = KV_T_SHARE,
     .offset = offsetof(struct adaptive_params, floor),
     .def = "0.2",
     .also = "floor_alpha, floor",
     .help = "share of the mean budget that every head keeps"},
    {.key = "normalize",
     .type = KV_T_BOOL,
     .offset = offsetof(struct adaptive_params, normalize),
     .def = "true",
     .help = "weigh a head's scores by the mass its own best would keep"},
};

/* The mass of the `base` highest as a share of all; 1 where scores below zero leave no mass. */
static float best_share(const float *score, int64_t n, int64_t base, struct kv_share_work *work)
{
    work->select->top(score, n, base < n ? base : n, work->mask, work->top);
    double best = work->select->sum(score, work->mask, n), all = work->select->sum(score, NULL, n);
    return all > 0 ? (float)(best / all) : 1;
}

/* A head's count among the layer's best, pulled to the mean by the floor; the rounded counts may miss the layer's total
 * by a few.
 * Source: Feng et al. 2024, arXiv 2407.11550; Zefan-Cai/KVCache-Factory c97f9d70, AdaKVCluster. */
static void share_adaptive(const struct kv_policy *p, int heads, const int64_t *n, const float *const *keep,
                           struct kv_room *room, struct kv_share_work *work)
{
    const struct adaptive_params *own = p->law_params;
    int64_t scored[heads], count[heads], from = 0, total = 0;
    scored[0] = 0;
    for (int h = 0; h < heads; from += scored[h], h++) {
        int64_t first = room[h].first, base = room[h].keep - first - room[h].newest;
        scored[h] = n[h] - first - room[h].newest;
        scored[h] = scored[h] < 0 ? 0 : scored[h];
        memcpy(work->score + from, keep[h] + (scored[h] ? first : 0), sizeof(float) * (size_t)scored[h]);
        if (own->normalize) {
            float weight = best_share(work->score + from, scored[h], base, work);
            for (int64_t i = 0; i < scored[h]; i++)
                work->score[from + i] *= weight;
        }
        total += base;
    }
    count_best(heads, scored, total, work, count);
    for (int h = 0; h < heads; h++) {
        int64_t fixed = room[h].first + room[h].newest, base = room[h].keep - fixed;
        int64_t floor = (int64_t)((double)base * own->floor);
        double shared = 1 - own->floor;
        if (floor < p->floor - fixed) { /* min_tokens, of which the others pay their part */
            floor = p->floor - fixed;
            shared = 1 - (double)floor / (double)base;
        }
        room[h].keep = fixed + (int64_t)rint((double)count[h] * shared + (double)floor);
    }
}

static const struct kv_law law_adaptive = {
    .name = "adaptive",
    .help = "the budget is the mean over a layer's lanes, shared out by scores; every lane keeps at least floor_ratio",
    .field = adaptive_fields,
    .n_fields = sizeof adaptive_fields / sizeof *adaptive_fields,
    .params_size = sizeof(struct adaptive_params),
    .budget = KV_BUDGET_SHARE | KV_BUDGET_TOKENS,
    .at = KV_AT_POSTFILL | KV_AT_CHUNK | KV_AT_DECODE,
    .needs_budget = true,
    .prepare = prepare_shared,
    .room = shared_room,
    .share = share_adaptive,
};

const struct kv_kind kv_kind_adakv = {
    .name = "adakv",
    .title = "AdaKV: SnapKV's scores, a layer's budget shared among its heads",
    .source = "Feng et al. 2024, arXiv 2407.11550; Zefan-Cai/KVCache-Factory",
    .differs = "",
    .preset = "when=postfill, window_size=32, pooling=max, kernel_size=7, reduce_order=reduce-first",
    .also = "ada_kv",
    .law = &law_adaptive,
    .score = &kv_score_window,
};

/* ---- kvpress ---- */

struct safeguard_params {
    double alpha;
};

static const struct kv_field safeguard_fields[] = {
    {.key = "alpha_safeguard",
     .type = KV_T_SHARE,
     .offset = offsetof(struct safeguard_params, alpha),
     .def = "0.2",
     .also = "alpha",
     .help = "share of the mean budget that is every head's own best"},
};

/* Each head's own best are safe; the rest of the layer's budget goes to the highest of all heads.
 * Source: NVIDIA/kvpress 8bb29b9c, AdaKVPress. */
static void share_safeguard(const struct kv_policy *p, int heads, const int64_t *n, const float *const *keep,
                            struct kv_room *room, struct kv_share_work *work)
{
    double alpha = ((const struct safeguard_params *)p->law_params)->alpha;
    int64_t count[heads], from = 0, total = 0;
    for (int h = 0; h < heads; from += n[h], h++) {
        int64_t safe = (int64_t)((double)room[h].keep * alpha);
        safe = safe < p->floor ? p->floor : safe;
        float *score = work->score + from;
        memcpy(score, keep[h], sizeof *score * (size_t)n[h]);
        work->select->top(score, n[h], safe < n[h] ? safe : n[h], work->mask, work->top);
        for (int64_t i = 0; i < n[h]; i++)
            if (kv_set_has(work->mask, i))
                score[i] = INFINITY;
        total += room[h].keep;
    }
    count_best(heads, n, total, work, count);
    for (int h = 0; h < heads; h++)
        room[h].keep = count[h];
}

static const struct kv_law law_safeguard = {
    .name = "safeguard",
    .help = "the budget is the mean over a layer's lanes: each lane's own best alpha_safeguard, then the layer's best",
    .field = safeguard_fields,
    .n_fields = sizeof safeguard_fields / sizeof *safeguard_fields,
    .params_size = sizeof(struct safeguard_params),
    .budget = KV_BUDGET_SHARE | KV_BUDGET_TOKENS,
    .at = KV_AT_POSTFILL | KV_AT_CHUNK | KV_AT_DECODE,
    .needs_budget = true,
    .prepare = prepare_shared,
    .room = shared_room,
    .share = share_safeguard,
};

const struct kv_kind kv_kind_ada_snapkv = {
    .name = "ada-snapkv",
    .title = "Ada-SnapKV as kvpress has it: each head's best are safe, the rest is the layer's",
    .source = "Feng et al. 2024, arXiv 2407.11550; NVIDIA/kvpress, AdaKVPress(SnapKVPress)",
    .differs = "",
    .preset = "when=postfill, window_size=64",
    .also = "ada_snapkv",
    .law = &law_safeguard,
    .score = &kv_score_window,
};
