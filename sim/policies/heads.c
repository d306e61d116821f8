/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Head masks: some KV heads keep everything, the streaming ones keep sinks and recents. DuoAttention and PruLong train
 * such masks differently and use them alike. */
#include "sim/core/mask.h"
#include "sim/policies/laws.h"

#include <math.h>

static const char *const rules[] = {"auto", "quantile", "threshold", NULL};
enum { RULE_AUTO, RULE_QUANTILE, RULE_THRESHOLD };

struct mask_params {
    const char *mask;
    double sparsity, threshold;
    int rule;
    /* made by prepare */
    bool *full;     /* (layers, kv_heads) */
    double nominal; /* share of streaming heads that the paper's accounting charges */
};

#define AT(member) offsetof(struct mask_params, member)
static const struct kv_field mask_fields[] = {
    {.key = "mask",
     .type = KV_T_TEXT,
     .offset = AT(mask),
     .also = "masks, pattern, mask_file, attn_pattern",
     .help = "head mask: a .tsv of one row per layer and one column per KV head, or the folder it lies in; none: a "
             "synthetic one, good for counts only"},
    {.key = "sparsity",
     .type = KV_T_SHARE,
     .offset = AT(sparsity),
     .also = "head_sparsity",
     .help = "share of KV heads that are streaming heads"},
    {.key = "mask_rule",
     .type = KV_T_CHOICE,
     .offset = AT(rule),
     .def = "auto",
     .choices = rules,
     .help = "quantile: the `sparsity` lowest gates stream, as DuoAttention's loader has it; threshold: gates up to "
             "`threshold` do; auto: threshold for a file of zeros and ones or without sparsity, else quantile"},
    {.key = "threshold",
     .type = KV_T_SHARE,
     .offset = AT(threshold),
     .def = "0.5",
     .help = "gate above which a head is full, for mask_rule = threshold"},
};

static int64_t count_streaming(const struct mask_params *own, int64_t lanes)
{
    int64_t n = 0;
    for (int64_t i = 0; i < lanes; i++)
        n += !own->full[i];
    return n;
}

static bool use_file(struct kv_policy *p, struct mask_params *own, const struct kv_shape *s, struct kv_arena *a,
                     struct kv_err *e)
{
    struct kv_mask mask;
    int64_t lanes = s->layers * s->kv_heads, ties = 0;
    if (!kv_mask_read(own->mask, s->layers, s->kv_heads, s->q_heads, &mask, a, e))
        return false;
    bool given = !isnan(own->sparsity);
    int rule = own->rule != RULE_AUTO ? own->rule : mask.binary || !given ? RULE_THRESHOLD : RULE_QUANTILE;
    if (rule == RULE_QUANTILE && !given)
        return kv_fail(e, KV_USAGE, "%s mask_rule = quantile needs sparsity", p->where);
    if (rule == RULE_QUANTILE)
        kv_mask_by_quantile(&mask, own->sparsity, own->full, &ties, a);
    else
        kv_mask_by_threshold(&mask, own->threshold, own->full);
    int64_t streaming = count_streaming(own, lanes);
    double real = (double)streaming / (double)lanes;
    if (given && fabs(real - own->sparsity) * (double)lanes > 1.5)
        return kv_fail(e, KV_USAGE,
                       "%s the mask '%s' makes %lld of %lld KV heads streaming (%.1f %%), but sparsity is "
                       "%.1f %%; leave sparsity out, or set mask_rule = quantile",
                       p->where, own->mask, (long long)streaming, (long long)lanes, real * 100, own->sparsity * 100);
    own->nominal = given ? own->sparsity : real;
    p->input = mask.path;
    p->note = kv_format(
        a, "mask %s: %lld of %lld KV heads full%s", own->mask, (long long)(lanes - streaming), (long long)lanes,
        ties ? kv_format(a, ", %lld of them among equal gates, lower layer and head first", (long long)ties) : "");
    return true;
}

static bool prepare_mask(struct kv_policy *p, const struct kv_shape *s, struct kv_arena *a, struct kv_err *e)
{
    struct mask_params *own = p->law_params;
    int64_t lanes = s->layers * s->kv_heads;
    own->full = kv_alloc_many(a, (size_t)lanes, sizeof *own->full, "a head mask", e);
    if (!own->full)
        return false;
    if (p->keys.sink_size + p->keys.recent_size < 1)
        return kv_fail(e, KV_USAGE, "%s sink_size and recent_size are both 0: a streaming head would hold nothing",
                       p->where);
    if (own->mask)
        return use_file(p, own, s, a, e);
    if (isnan(own->sparsity))
        return kv_fail(e, KV_USAGE, "%s neither mask nor sparsity; give a mask file, or sparsity for a synthetic mask",
                       p->where);
    kv_mask_synthetic(s->layers, s->kv_heads, own->sparsity, own->full);
    own->nominal = own->sparsity;
    p->note = kv_format(a, "synthetic mask, counts only: %lld of %lld KV heads full, spread evenly",
                        (long long)(lanes - count_streaming(own, lanes)), (long long)lanes);
    return true;
}

static int64_t mask_group(const struct kv_policy *p, const struct kv_shape *s, int64_t layer, int64_t head)
{
    int64_t kv_head = s->store_heads == s->kv_heads ? head : head / (s->store_heads / s->kv_heads);
    return !((const struct mask_params *)p->law_params)->full[layer * s->kv_heads + kv_head];
}

static struct kv_room mask_room(const struct kv_policy *p, const struct kv_shape *s, const struct kv_lane *lane,
                                const struct kv_pass *pass)
{
    (void)pass;
    bool streams = mask_group(p, s, lane->layer, lane->head);
    return (struct kv_room){.keep = streams ? p->keys.sink_size + p->keys.recent_size : KV_NO_BOUND,
                            .steady = KV_SAME_TOTAL};
}

static struct kv_paper_form paper_mask(const struct kv_policy *p, const struct kv_request *r, int64_t chunk)
{
    (void)r;
    return (struct kv_paper_form){.defined = p->when.at == (KV_AT_CHUNK | KV_AT_DECODE) && p->when.every == 1,
                                  .chunk = chunk,
                                  .sinks = p->keys.sink_size,
                                  .recents = p->keys.recent_size,
                                  .head_sparsity = ((const struct mask_params *)p->law_params)->nominal};
}

static const struct kv_law law_mask = {
    .name = "mask",
    .help = "full heads keep everything, streaming heads sink_size + recent_size",
    .field = mask_fields,
    .n_fields = sizeof mask_fields / sizeof *mask_fields,
    .params_size = sizeof(struct mask_params),
    .at = KV_AT_CHUNK | KV_AT_POSTFILL | KV_AT_DECODE,
    .prepare = prepare_mask,
    .group = mask_group,
    .room = mask_room,
    .paper = paper_mask,
};

const struct kv_kind kv_kind_duo = {
    .name = "duo",
    .title = "DuoAttention: streaming heads found on passkeys",
    .source = "Xiao et al. 2024, arXiv 2410.10819; mit-han-lab/duo-attention",
    .differs =
        "equal gates are ordered by layer and head, where upstream adds random noise; sink and recent sizes are those "
        "of PruLong's evaluation (its authors use 64 and 256)",
    .preset = "when=chunk+decode, sink_size=128, recent_size=1024",
    .also = "duoattention, duo_attention, heads",
    .law = &law_mask,
    .score = &kv_score_recency,
};

const struct kv_kind kv_kind_prulong = {
    .name = "prulong",
    .title = "PruLong: streaming heads trained end to end",
    .source = "Bhaskar, Wettig et al. 2025, arXiv 2506.17121; princeton-pli/PruLong",
    .differs =
        "a file of zeros and ones is taken as it is, where upstream's quantile promotes one streaming head at random; "
        "trained masks are not published",
    .preset = "when=chunk+decode, sink_size=128, recent_size=1024",
    .also = "pru_long",
    .law = &law_mask,
    .score = &kv_score_recency,
};
