/* SPDX-License-Identifier: GPL-3.0-or-later */
/* PyramidKV: SnapKV's scores, but the lower layers keep more than the upper ones. */
#include "sim/policies/laws.h"

#include <math.h>

struct pyramid_params {
    int64_t round_to, beta;
    int schedule;
};
static const char *const schedules[] = {"released", "kvpress", NULL};
enum { RELEASED, KVPRESS };

static const struct kv_field pyramid_fields[] = {
    {.key = "round_to",
     .type = KV_T_COUNT,
     .offset = offsetof(struct pyramid_params, round_to),
     .def = "64",
     .min = 1,
     .max = 65536,
     .help = "the capacity after prefill is rounded up to a multiple of this; chunks are never rounded"},
    {.key = "beta",
     .type = KV_T_COUNT,
     .offset = offsetof(struct pyramid_params, beta),
     .def = "20",
     .min = 1,
     .max = 10000,
     .help = "slope: the last layer keeps about 1/beta of the mean"},
    {.key = "schedule",
     .type = KV_T_CHOICE,
     .offset = offsetof(struct pyramid_params, schedule),
     .def = "released",
     .choices = schedules,
     .help = "released: whole steps between layers, the budget rounded to round_to; kvpress: real steps, each layer's "
             "share rounded half to even, of all tokens"},
};

static int64_t pyramid_group(const struct kv_policy *p, const struct kv_shape *s, int64_t layer, int64_t head)
{
    (void)p;
    (void)s;
    (void)head;
    return layer;
}

/* Scored entries layer `layer` keeps of a mean of `mean`, out of `scored`.
 * Source: Cai et al. 2024, arXiv 2406.02069; the released schedule, whose floored step only ever flattens the slope, so
 * the layers together may keep a little more than their mean. Ours: one layer alone keeps the mean, where upstream
 * divides by zero. */
static int64_t layer_keeps(int64_t layer, int64_t layers, int64_t mean, int64_t scored, int64_t beta)
{
    if (layers < 2)
        return mean;
    int64_t low = mean / beta, high = 2 * mean - low;
    if (high >= scored) {
        high = scored;
        low = 2 * mean - high;
    }
    return high - layer * ((high - low) / (layers - 1));
}

/* kvpress' schedule: the capacity is what the share leaves of all tokens, window included and once more on top.
 * Source: NVIDIA/kvpress 8bb29b9c, PyramidKVPress. */
static int64_t kvpress_keeps(const struct kv_policy *p, int64_t layer, int64_t layers, int64_t tokens, int64_t beta)
{
    double share = isnan(p->kept) ? (double)p->budget : (double)tokens * p->kept, total = (double)tokens;
    double window = (double)p->keys.window_size;
    double low = share / (double)beta, high = 2 * share - low;
    if (high >= total - window) {
        high = total - window;
        low = 2 * share - high;
    }
    if (!(total >= high && high >= low && low >= window) || layers < 2)
        return (int64_t)rint(share);
    return (int64_t)rint(high - (double)layer * ((high - low) / (double)(layers - 1)));
}

static struct kv_room pyramid_room(const struct kv_policy *p, const struct kv_shape *s, const struct kv_lane *lane,
                                   const struct kv_pass *pass)
{
    const struct pyramid_params *own = p->law_params;
    if (p->kept >= 1)
        return (struct kv_room){.keep = KV_NO_BOUND, .steady = KV_SAME_TOTAL};
    struct kv_capacity c = kv_unit_capacity(p, lane, pass, own->round_to);
    if (own->schedule == KVPRESS) {
        c.steady = c.chunk ? KV_SAME_GAIN : KV_VARIES;
        int64_t tokens = c.total - pass->n_patch;
        return kv_unit_room(&c, lane, pass,
                            kvpress_keeps(p, lane->layer, s->layers, tokens, own->beta) + pass->n_patch);
    }
    int64_t keeps = kv_snapkv_keeps(&c), mean = c.capacity - c.window, scored = c.total - c.window;
    bool sloped = mean > 0 && scored > 0 && c.total >= c.capacity && c.total >= 2 * mean;
    if (c.decode && scored < 2 * mean) /* the slope is not whole yet and changes with each token */
        c.steady = KV_VARIES;
    if (sloped) {
        int64_t own_share = layer_keeps(lane->layer, s->layers, mean, scored, own->beta);
        keeps = (own_share < scored ? own_share : scored) + c.window;
    }
    return kv_unit_room(&c, lane, pass, keeps);
}

static const struct kv_law law_pyramid = {
    .name = "pyramid",
    .help =
        "the budget is the mean over layers: many entries in the first, few in the last; a unit shorter than twice the "
        "scored budget is shared evenly, so keeping more than about half is SnapKV",
    .field = pyramid_fields,
    .n_fields = sizeof pyramid_fields / sizeof *pyramid_fields,
    .params_size = sizeof(struct pyramid_params),
    .freezes = true,
    .budget = KV_BUDGET_SHARE | KV_BUDGET_TOKENS,
    .at = KV_AT_CHUNK | KV_AT_POSTFILL | KV_AT_DECODE,
    .needs_budget = true,
    .group = pyramid_group,
    .room = pyramid_room,
    .paper = kv_paper_chunked,
};

const struct kv_kind kv_kind_pyramidkv = {
    .name = "pyramidkv",
    .title = "PyramidKV, in each chunk or after prefill; patched with patch = 64",
    .source =
        "Cai et al. 2024, arXiv 2406.02069; chunked and patched: arXiv 2506.17121, section 4, princeton-pli/PruLong",
    .differs = "as snapkv; a model of one layer keeps the mean, where upstream divides by zero",
    .preset = "when=chunk, window_size=64",
    .also = "pyramid, pyramid_kv",
    .law = &law_pyramid,
    .score = &kv_score_window,
};
