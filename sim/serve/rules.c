/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/serve/rules.h"

#include "sim/core/least.h"
#include "sim/core/units.h"

#include <strings.h>

/* vLLM's default for a server goes by the device (vllm/engine/arg_utils.py, get_batch_defaults). */
static int64_t batched_tokens(const struct kv_settings *s)
{
    enum { LARGE = 8192, SMALL = 2048 };
    if (s->engine.max_num_batched_tokens != KV_UNSET)
        return s->engine.max_num_batched_tokens;
    bool a100 = s->hardware.device && !strncasecmp(s->hardware.device, "a100", 4);
    return s->hardware.memory != KV_UNSET && s->hardware.memory >= INT64_C(70) << 30 && !a100 ? LARGE : SMALL;
}

static bool too_many_blocks(const struct kv_settings *s, int64_t blocks, struct kv_err *e)
{
    return kv_fail(e, KV_USAGE, "%s: [engine] a pool of %lld blocks is too large to count", s->path, (long long)blocks);
}

static bool no_blocks(const struct kv_served *out, const struct kv_serve_asked *asked, int64_t block_bytes,
                      struct kv_err *e)
{
    const struct kv_settings *s = asked->settings;
    char pool[KV_NUMBER_TEXT], block[KV_NUMBER_TEXT];
    if (out->pool.bytes <= 0)
        return kv_fail(e, KV_NO,
                       "'%s' does not fit on %s: weights, activations and overhead leave nothing for a KV pool; use "
                       "more or larger devices, or a quantised checkpoint (weights = N GiB)",
                       asked->model->name, s->hardware.device);
    kv_print_bytes(pool, out->pool.bytes);
    kv_print_bytes(block, block_bytes);
    return kv_fail(e, KV_NO,
                   "the KV pool of %s holds %lld block%s of %lld tokens (%s each)%s; use a larger pool, or a smaller "
                   "[engine] block_size",
                   pool, (long long)out->blocks, out->blocks == 1 ? "" : "s", (long long)s->engine.block_size, block,
                   out->blocks ? ", and vLLM keeps one for itself" : "");
}

bool kv_serve_pool(struct kv_served *out, struct kv_engine_rules *rules, const struct kv_serve_asked *asked,
                   const struct kv_shape *shape, const struct kv_classes *classes, struct kv_arena *a, struct kv_err *e)
{
    const struct kv_settings *s = asked->settings;
    struct kv_ledger ledger;
    kv_ledger_open(&ledger, &out->policy, shape, classes, s->engine.block_size, a);
    for (int layout = 0; layout < KV_LAYOUTS; layout++)
        out->page_bytes[layout] = kv_ledger_page_bytes(&ledger, (enum kv_layout)layout);
    kv_pool_derive(&out->pool, s, asked->model, asked->dtype, rules->max_num_batched_tokens);
    int64_t block_bytes = out->page_bytes[KV_SHARED], given = s->engine.num_gpu_blocks_override;
    if (given != KV_UNSET) {
        /* blocks of the run's type: beside them entries of another get the same bytes */
        int64_t own = kv_store_token_bytes(asked->model, out->policy.store.dtype);
        if (out->policy.store.dtype != asked->dtype)
            given = (int64_t)((double)given * (double)kv_store_token_bytes(asked->model, asked->dtype) / (double)own);
        if (__builtin_mul_overflow(given, block_bytes, &out->pool.bytes))
            return too_many_blocks(s, given, e);
        out->pool.measured = true;
    }
    out->blocks = given != KV_UNSET ? given : out->pool.bytes / block_bytes;
    /* one block of vLLM's pool is nobody's (block_pool.py, null_block) */
    int64_t nobodys = rules->scheduler == KV_SCHEDULER_VLLM;
    if (out->blocks <= nobodys)
        return no_blocks(out, asked, block_bytes, e);
    rules->layout = (enum kv_layout)s->engine.kv_layout;
    int64_t share = block_bytes / out->page_bytes[rules->layout];
    if (__builtin_mul_overflow(out->blocks - nobodys, share, &rules->pages))
        return too_many_blocks(s, out->blocks, e);
    rules->watermark =
        rules->scheduler == KV_SCHEDULER_SARATHI ? (int64_t)(s->engine.watermark * (double)out->blocks) * share : 0;
    rules->page_bytes = out->page_bytes[rules->layout];
    out->pages = rules->pages;
    return true;
}

/* Those vLLM captures when it is not told (vllm/config/vllm.py, _set_cudagraph_sizes). */
static void make_graph_sizes(struct kv_engine_rules *rules, const struct kv_settings *s, struct kv_arena *a)
{
    enum { MOST = 512, FINE = 256 };
    const struct kv_counts *given = &s->engine.cudagraph_capture_sizes;
    int64_t most = kv_least(kv_least(2 * rules->max_num_seqs, MOST), rules->max_num_batched_tokens), n = 0;
    int64_t *size = KV_NEW_N(a, int64_t, MOST);
    rules->graph_sizes = given->n ? given->at : size;
    for (int64_t i = 1; i <= kv_least(most, 4); i *= 2)
        size[n++] = i;
    for (int64_t i = 8; i <= kv_least(most, FINE - 1); i += 8)
        size[n++] = i;
    for (int64_t i = FINE; i <= most; i += 16)
        size[n++] = i;
    rules->n_graph_sizes = given->n ? given->n : n;
}

void kv_serve_rules(struct kv_engine_rules *rules, const struct kv_serve_asked *asked, struct kv_arena *a)
{
    const struct kv_settings *s = asked->settings;
    int64_t positions = asked->model->max_positions ? asked->model->max_positions : INT64_C(1) << 30; /* not said */
    *rules = (struct kv_engine_rules){
        .scheduler = (enum kv_scheduler)s->engine.scheduler,
        .max_num_seqs = s->engine.max_num_seqs,
        .max_num_batched_tokens = batched_tokens(s),
        .max_model_len = s->engine.max_model_len == KV_UNSET ? positions : s->engine.max_model_len,
        .prefix_caching = asked->prefix_caching && s->engine.scheduler == KV_SCHEDULER_VLLM,
        .async_scheduling = s->engine.async_scheduling && s->engine.scheduler == KV_SCHEDULER_VLLM,
        .reserve_prompt = s->engine.reserve_full_prompt,
        .restart_bug = s->engine.restart_bug,
        .offload = s->engine.preemption,
        .between = (enum kv_between_turns)s->workload.between_turns,
    };
    if (s->engine.scheduler == KV_SCHEDULER_VLLM) { /* which does not start with more, and takes less when not told */
        rules->max_num_seqs = kv_least(rules->max_num_seqs, rules->max_num_batched_tokens);
        rules->long_prefill_token_threshold = s->engine.long_prefill_token_threshold;
    }
    if (s->engine.scheduler == KV_SCHEDULER_VLLM && !s->engine.enforce_eager)
        make_graph_sizes(rules, s, a);
}
