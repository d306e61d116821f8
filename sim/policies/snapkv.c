/* SPDX-License-Identifier: GPL-3.0-or-later */
/* SnapKV: the last queries of a unit score its keys; the same number stays in every layer. A unit is the whole prompt,
 * a prefill chunk, or what was decoded since the last eviction. */
#include "sim/policies/laws.h"

#include "sim/core/least.h"

#include <math.h>

struct uniform_params {
    int64_t round_to;
};

static const struct kv_field uniform_fields[] = {
    {.key = "round_to",
     .type = KV_T_COUNT,
     .offset = offsetof(struct uniform_params, round_to),
     .def = "64",
     .min = 1,
     .max = 65536,
     .help = "the capacity after prefill is rounded up to a multiple of this; chunks are never rounded"},
};

static int64_t capacity_of(const struct kv_policy *p, int64_t tokens)
{
    return isnan(p->kept) ? p->budget : kv_trunc_share(p->kept, tokens);
}

struct kv_capacity kv_unit_capacity(const struct kv_policy *p, const struct kv_lane *lane, const struct kv_pass *pass,
                                    int64_t round_to)
{
    struct kv_capacity c = {.window = p->keys.window_size, .steady = KV_VARIES};
    if (pass->decode_step >= 0) {
        c.decode = true;
        c.total = pass->seen + pass->n_new; /* not what the lane holds: the rule must not feed on its own result */
        c.capacity = kv_most(capacity_of(p, c.total), c.window);
        c.steady = isnan(p->kept) ? KV_SAME_TOTAL : KV_VARIES;
    } else if (p->when.at & KV_AT_CHUNK) {
        c.chunk = true;
        c.total = pass->n_unit + pass->n_patch;
        c.capacity = capacity_of(p, pass->n_unit) + pass->n_patch;
        c.steady = KV_SAME_GAIN;
    } else {
        c.total = lane->held + pass->n_unit;
        c.capacity = kv_round_up(kv_most(capacity_of(p, pass->prompt), c.window), round_to);
    }
    return c;
}

int64_t kv_snapkv_keeps(const struct kv_capacity *c)
{
    if (c->decode) /* also an answer for a lane that holds less */
        return c->capacity;
    if (c->total < c->capacity || c->total <= c->window)
        return c->total;
    return c->capacity <= c->window ? c->window : c->capacity;
}

struct kv_room kv_unit_room(const struct kv_capacity *c, const struct kv_lane *lane, const struct kv_pass *pass,
                            int64_t keeps)
{
    return (struct kv_room){
        .frozen = c->chunk ? lane->held : 0,
        .keep = kv_most(keeps - pass->n_patch, 0),
        .steady = c->steady,
    };
}

static struct kv_room uniform_room(const struct kv_policy *p, const struct kv_shape *s, const struct kv_lane *lane,
                                   const struct kv_pass *pass)
{
    (void)s;
    if (p->kept >= 1)
        return (struct kv_room){.keep = KV_NO_BOUND, .steady = KV_SAME_TOTAL};
    struct kv_capacity c = kv_unit_capacity(p, lane, pass, ((const struct uniform_params *)p->law_params)->round_to);
    return kv_unit_room(&c, lane, pass, kv_snapkv_keeps(&c));
}

struct kv_paper_form kv_paper_chunked(const struct kv_policy *p, const struct kv_request *r, int64_t chunk)
{
    bool postfill = p->when.at == KV_AT_POSTFILL;
    return (struct kv_paper_form){.defined = !isnan(p->kept) && (postfill || p->when.at == KV_AT_CHUNK),
                                  .chunk = postfill ? r->prompt : chunk,
                                  .kv_sparsity =
                                      isnan(p->keys.compression_ratio) ? 1.0 - p->kept : p->keys.compression_ratio};
}

static const struct kv_law law_uniform = {
    .name = "uniform",
    .help = "each unit keeps the budget, window included, the same in all layers; earlier chunks are never rescored",
    .field = uniform_fields,
    .n_fields = sizeof uniform_fields / sizeof *uniform_fields,
    .params_size = sizeof(struct uniform_params),
    .freezes = true,
    .budget = KV_BUDGET_SHARE | KV_BUDGET_TOKENS,
    .at = KV_AT_CHUNK | KV_AT_POSTFILL | KV_AT_DECODE,
    .needs_budget = true,
    .room = uniform_room,
    .paper = kv_paper_chunked,
};

const struct kv_score kv_score_window = {
    .name = "window",
    .help = "attention of the last window_size queries of the unit, pooled",
    .field = kv_pooled_fields,
    .n_fields = KV_RECIPE_FIELDS,
    .params_size = sizeof(struct kv_recipe_keys),
    .needs = KV_BIT(KV_WINDOW_LOCAL) | KV_BIT(KV_WINDOW_SEEN),
    .window = true,
    .recipe = true,
};

const struct kv_kind kv_kind_snapkv = {
    .name = "snapkv",
    .title = "SnapKV, in each chunk or after prefill; patched with patch = 64",
    .source =
        "Li et al. 2024, arXiv 2404.14469; chunked and patched: arXiv 2506.17121, section 4, princeton-pli/PruLong",
    .differs =
        "a chunk of at most the window keeps all, where upstream fails; one set per KV head, where upstream without "
        "grouping keeps one per query head (store = query-head)",
    .preset = "when=chunk, window_size=64",
    .also = "snap_kv, snap",
    .law = &law_uniform,
    .score = &kv_score_window,
};
