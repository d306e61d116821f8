/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Sinks and recents in every lane; the law behind it, a fixed number of entries, also serves H2O and L2. */
#include "sim/policies/laws.h"

#include <math.h>

struct fixed_params {
    int64_t skip_layers;
};

static const struct kv_field fixed_fields[] = {
    {.key = "skip_layers",
     .type = KV_T_COUNT,
     .offset = offsetof(struct fixed_params, skip_layers),
     .def = "0",
     .min = 0,
     .max = 10000,
     .help = "first layers that are never pruned"},
};

int64_t kv_fixed_total(const struct kv_policy *p, int64_t prompt)
{
    if (p->kept >= 1) /* keep = 100 % keeps the output too */
        return KV_NO_BOUND;
    if (!isnan(p->kept))
        return kv_trunc_share(p->kept, prompt);
    return p->budget != KV_UNSET ? p->budget : p->keys.sink_size + p->keys.recent_size;
}

bool kv_fixed_prepare(struct kv_policy *p, const struct kv_shape *s, struct kv_arena *a, struct kv_err *e)
{
    (void)s;
    (void)a;
    int64_t guarded = p->keys.sink_size + p->keys.recent_size;
    if (p->budget != KV_UNSET && p->budget < guarded)
        return kv_fail(e, KV_USAGE,
                       "%s budget of %lld tokens is less than sink_size + recent_size = %lld, which never "
                       "leave; raise it or lower them",
                       p->where, (long long)p->budget, (long long)guarded);
    if (isnan(p->kept) && p->budget == KV_UNSET && !p->score->positional)
        return kv_fail(e, KV_USAGE, "%s no budget: give one of keep, compression_ratio, tokens, bytes", p->where);
    if (isnan(p->kept) && p->budget == KV_UNSET && !guarded)
        return kv_fail(e, KV_USAGE,
                       "%s no budget: give sink_size and recent_size, or one of keep, compression_ratio, "
                       "tokens, bytes",
                       p->where);
    return true;
}

static int64_t fixed_group(const struct kv_policy *p, const struct kv_shape *s, int64_t layer, int64_t head)
{
    (void)s;
    (void)head;
    return layer < ((const struct fixed_params *)p->law_params)->skip_layers;
}

static struct kv_room fixed_room(const struct kv_policy *p, const struct kv_shape *s, const struct kv_lane *lane,
                                 const struct kv_pass *pass)
{
    if (fixed_group(p, s, lane->layer, lane->head))
        return (struct kv_room){.keep = KV_NO_BOUND, .steady = KV_SAME_TOTAL};
    int64_t total = kv_fixed_total(p, pass->prompt), guarded = p->keys.sink_size + p->keys.recent_size;
    return (struct kv_room){.keep = total > guarded ? total : guarded, .steady = KV_SAME_TOTAL};
}

/* The released form covers sinks and recents evicted at every pass, in all layers. */
static struct kv_paper_form paper_fixed(const struct kv_policy *p, const struct kv_request *r, int64_t chunk)
{
    (void)r;
    bool streams = p->score->positional && p->when.at == (KV_AT_CHUNK | KV_AT_DECODE) && p->when.every == 1 &&
                   isnan(p->kept) && kv_fixed_total(p, 0) == p->keys.sink_size + p->keys.recent_size &&
                   !((const struct fixed_params *)p->law_params)->skip_layers;
    return (struct kv_paper_form){.defined = streams,
                                  .chunk = chunk,
                                  .sinks = p->keys.sink_size,
                                  .recents = p->keys.recent_size,
                                  .head_sparsity = 1};
}

const struct kv_law kv_law_fixed = {
    .name = "fixed",
    .help = "each lane keeps the budget, or sink_size + recent_size when no budget is given",
    .field = fixed_fields,
    .n_fields = sizeof fixed_fields / sizeof *fixed_fields,
    .params_size = sizeof(struct fixed_params),
    .budget = KV_BUDGET_SHARE | KV_BUDGET_TOKENS,
    .at = KV_AT_CHUNK | KV_AT_POSTFILL | KV_AT_DECODE,
    .prepare = kv_fixed_prepare,
    .group = fixed_group,
    .room = fixed_room,
    .paper = paper_fixed,
};

const struct kv_score kv_score_recency = {
    .name = "recency",
    .help = "sinks and the newest entries",
    .positional = true,
};

const struct kv_kind kv_kind_streaming = {
    .name = "streaming",
    .title = "StreamingLLM: attention sinks and a recent window",
    .source = "Xiao et al. 2023, arXiv 2309.17453; mit-han-lab/streaming-llm",
    .differs = "positions stay original; slot-numbered rotary positions change no count",
    .preset = "when=chunk+decode, sink_size=4, recent_size=2000",
    .also = "streamingllm, streaming_llm, sink, sliding",
    .law = &kv_law_fixed,
    .score = &kv_score_recency,
};
