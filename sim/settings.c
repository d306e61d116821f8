/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/settings.h"

#include "sim/core/ledger.h"
#include "sim/core/preset.h"
#include "sim/draw.h"
#include "sim/workload/rows.h"

#include <math.h>
#include <string.h>

enum { TOKENS_MAX = 1 << 30, REQUESTS_MAX = 1000000000, MANY = 10000000 };
static const char *const plot_words[] = {"memory", "entries", "chunk", "bars", "pages", NULL};
static const char *const format_words[] = {"png", "svg", "pdf", NULL};
static const char *const scheduler_words[] = {"vllm", "sarathi", NULL};
static const char *const preemption_words[] = {"recompute", "offload", NULL};
static const char *const router_words[] = {"round-robin", "least-tokens", "prefix", NULL};
static const char *const prefill_words[] = {"prompt", "prompt-1", NULL};
static const char *const missing_words[] = {"extrapolate", "error", NULL};
const char *const kv_timing_models[] = {"roofline", "table", "fitted", NULL};
const char *const kv_timing_formats[] = {"auto", "step-time", "llmservingsim", "aiconfigurator", "kvengine", NULL};
static const char *const distribution_words[] = {"fixed", "uniform", "lognormal", "histogram", NULL};
static const char *const find_words[] = {"none", "max_rate", "max_context", "min_gpus", "best_policy", NULL};
static const char *const too_long_words[] = {"refuse", "shorten", NULL};
static const char *const arrival_words[] = {"none", "poisson", "gamma", "onoff", "diurnal", "closed", NULL};
static const char *const between_words[] = {"drop", "hold", "offload", NULL};

#define AT(section, member)          (offsetof(struct kv_settings, section.member) - offsetof(struct kv_settings, section))
#define FIELD(section, member, kind) .key = #member, .type = kind, .offset = AT(section, member)

static const struct kv_field run_fields[] = {
    {FIELD(run, name, KV_T_TEXT), .def = "plan", .help = "name shown in results"},
    {FIELD(run, output, KV_T_TEXT), .also = "output_dir, out",
     .help = "folder for results; -o says it too; auto: none are kept"},
    {FIELD(run, seed, KV_T_COUNT), .def = "1", .min = 0, .max = 0x1p53, .help = "same seed and files, same bytes"},
    {FIELD(run, seeds, KV_T_COUNT), .def = "1", .min = 1, .max = 10000, .also = "repeats",
     .help = "traffic is drawn again with so many seeds from `seed` on, and means come with 95 % intervals"},
    {FIELD(run, warmup, KV_T_SECONDS), .def = "0 s", .min = 0, .max = 1e10,
     .help = "requests that arrive before this are served but not counted; a search for a rate scales it along"},
    {FIELD(run, drain, KV_T_SECONDS), .def = "0 s", .min = 0, .max = 1e10,
     .help = "requests that arrive within this before the last one are served but not counted"},
    {FIELD(run, horizon, KV_T_SECONDS), .min = 1e-9, .max = 1e10, .also = "time_limit",
     .help = "the simulation stops then, finished or not; auto: when all is served"},
};
static const struct kv_field model_fields[] = {
    {FIELD(model, name, KV_T_TEXT), .also = "preset, model", .help = "a preset of models/, such as Llama-3.1-8B"},
    {FIELD(model, path, KV_T_TEXT), .also = "folder, file",
     .help = "instead: a Hugging Face folder with config.json, or a preset file"},
    {FIELD(model, weights, KV_T_BYTES), .min = 1, .max = 0x1p60, .also = "weight_bytes",
     .help = "memory of the weights; auto: parameters x element size"},
    {FIELD(model, disable_sliding_window, KV_T_BOOL), .def = "false", .also = "sliding_window",
     .help = "sliding-window layers hold everything (vLLM's name)"},
};
static const struct kv_field hardware_fields[] = {
    {FIELD(hardware, device, KV_T_TEXT), .def = "h200", .also = "gpu, name",
     .help = "a preset of configs/hardware/, or a file; keys below override it"},
    {FIELD(hardware, title, KV_T_TEXT), .help = "its full name"},
    {FIELD(hardware, memory, KV_T_BYTES), .min = 1, .max = 0x1p60, .also = "vram, gpu_memory, memory_size",
     .help = "device memory"},
    {FIELD(hardware, peer_bandwidth, KV_T_BANDWIDTH), .min = 1, .max = 1e18, .also = "nvlink_bandwidth",
     .help = "bytes a second from a device to the others that share a model with it, one way; auto: link_bandwidth"},
    {FIELD(hardware, price, KV_T_REAL), .min = 0, .max = 1e9, .also = "cost, price_per_hour",
     .help = "of one device for an hour, in any currency: for cost per million tokens"},
    {FIELD(hardware, memory_bandwidth, KV_T_BANDWIDTH), .min = 1, .max = 1e18,
     .help = "bytes a second to device memory; for times"},
    {FIELD(hardware, peak_flops, KV_T_FLOPS), .min = 1, .max = 1e21, .also = "flops",
     .help = "dense bf16 operations a second; for times"},
    {FIELD(hardware, link_bandwidth, KV_T_BANDWIDTH), .min = 1, .max = 1e18, .also = "pcie_bandwidth",
     .help = "bytes a second to the host, one way; for times"},
    {FIELD(hardware, activations, KV_T_BYTES), .min = 0, .max = 0x1p60,
     .help = "memory of a pass beside weights and KV; auto: estimated from the model and max_num_batched_tokens; "
             "prefer a measured value"},
    {FIELD(hardware, overhead, KV_T_BYTES), .def = "1 GiB", .min = 0, .max = 0x1p60,
     .help = "driver context, libraries, graphs; the default is an assumption"},
};
static const struct kv_field engine_fields[] = {
    {FIELD(engine, gpu_memory_utilization, KV_T_SHARE), .def = "0.9",
     .also = "utilization, utilisation, mem_fraction_static",
     .help = "share of device memory the engine may use (vLLM)"},
    {FIELD(engine, block_size, KV_T_COUNT), .def = "16", .min = 1, .max = 65536, .also = "page_size, page",
     .help = "entries of a page (vLLM)"},
    {FIELD(engine, max_num_batched_tokens, KV_T_COUNT), .min = 1, .max = TOKENS_MAX,
     .help = "longest forward pass (vLLM): chunks are split to fit, activations are estimated for it; auto: each "
             "policy's chunk and patch"},
    {FIELD(engine, max_num_seqs, KV_T_COUNT), .def = "256", .min = 1, .max = MANY,
     .help = "sequences of a pass (vLLM); scheduler = vllm runs no more than max_num_batched_tokens"},
    {FIELD(engine, max_model_len, KV_T_COUNT), .min = 1, .max = TOKENS_MAX, .also = "max_len, max_context",
     .help = "longest prompt and output together (vLLM); auto: the model's positions"},
    {FIELD(engine, kv_pool, KV_T_BYTES), .min = 1, .max = 0x1p60, .also = "pool, num_gpu_blocks_override",
     .help = "memory for KV; auto: memory x utilization - weights - activations - overhead; prefer a measured value"},
    {FIELD(engine, kv_cache_dtype, KV_T_CHOICE), .def = "auto", .choices = kv_dtype_choices,
     .help = "element type of entries (vLLM); auto: the model's"},
    {FIELD(engine, kv_layout, KV_T_CHOICE), .def = "shared", .choices = kv_layout_names, .also = "layout",
     .help = "page tables: shared by all heads and layers as in vLLM, one per layer, or one per head; per-head is "
             "always shown beside it"},
    {FIELD(engine, compaction, KV_T_BOOL), .def = "true",
     .help = "survivors of an eviction move together; false: a page goes when every entry in it went"},
    {FIELD(engine, evict_scope, KV_T_CHOICE), .def = "layer", .choices = kv_scope_names,
     .help = "each layer evicts as its own attention ends, or all at the end of the pass"},
    {FIELD(engine, prefill, KV_T_CHOICE), .def = "prompt", .choices = prefill_words,
     .help = "prompt-1: the last prompt token is the first decode step; traffic is always served with prompt"},

    /* what only traffic asks about */
    {FIELD(engine, scheduler, KV_T_CHOICE), .def = "vllm", .choices = scheduler_words,
     .help = "whose rules batch requests: vLLM's V1 scheduler, or Sarathi's as Vidur has it (docs/SERVING.md)"},
    {FIELD(engine, num_gpu_blocks_override, KV_T_COUNT), .min = 1, .max = 1 << 30, .also = "num_gpu_blocks, blocks",
     .help =
         "blocks of the pool (vLLM), of the run's element type: policies with another get the same bytes; auto: what "
         "the pool's bytes hold"},
    {FIELD(engine, long_prefill_token_threshold, KV_T_COUNT), .def = "0", .min = 0, .max = TOKENS_MAX,
     .help = "prompt tokens of one request in a step, at most (vLLM); 0: no limit"},
    {FIELD(engine, enable_prefix_caching, KV_T_BOOL), .def = "true", .also = "prefix_caching",
     .help = "full blocks are found again by their tokens (vLLM); of policies that evict none are"},
    {FIELD(engine, async_scheduling, KV_T_BOOL), .def = "true",
     .help = "a step is scheduled while the one before it runs (vLLM)"},
    {FIELD(engine, reserve_full_prompt, KV_T_BOOL), .def = "true", .also = "scheduler_reserve_full_isl",
     .help = "a request is admitted only when its whole prompt fits into free blocks (vLLM's "
             "scheduler_reserve_full_isl)"},
    {FIELD(engine, cudagraph_capture_sizes, KV_T_COUNTS), .min = 1, .max = TOKENS_MAX, .also = "graph_sizes",
     .help =
         "a step computes as many tokens as the next of these (vLLM); auto: what vLLM captures for max_num_seqs and "
         "max_num_batched_tokens"},
    {FIELD(engine, enforce_eager, KV_T_BOOL), .def = "false",
     .help = "no graphs: a step computes the tokens it has (vLLM); so under sarathi, always"},
    {FIELD(engine, watermark, KV_T_SHARE), .def = "1 %", .help = "sarathi: blocks that an admission leaves free"},
    {FIELD(engine, restart_bug, KV_T_BOOL), .def = "false",
     .help = "sarathi: a request restarted within its prompt turns the rest of the prompt into output, as Vidur does; "
             "to compare, not to plan"},
    {FIELD(engine, preemption, KV_T_CHOICE), .def = "recompute", .choices = preemption_words, .also = "preemption_mode",
     .help = "what happens to entries of a preempted request: computed again, or moved to the host and back over "
             "link_bandwidth"},
    {FIELD(engine, replicas, KV_T_COUNT), .def = "1", .min = 1, .max = 4096, .also = "data_parallel_size, num_replicas",
     .help = "engines that share the traffic"},
    {FIELD(engine, router, KV_T_CHOICE), .def = "round-robin", .choices = router_words,
     .help =
         "which replica a request goes to: each in turn, the one with the fewest tokens left to compute, or the one "
         "that served the longest beginning of its prompt"},
    {FIELD(engine, tensor_parallel_size, KV_T_COUNT), .def = "1", .min = 1, .max = 1024, .also = "tp, tp_size",
     .help =
         "devices that share each layer of a replica (vLLM); KV heads are dealt out in order, and each device holds "
         "at least one"},
};
static const struct kv_field slo_fields[] = {
    {FIELD(slo, ttft, KV_T_SECONDS), .min = 1e-9, .max = 1e9, .also = "ttft_p99",
     .help = "time to first token that a request must keep"},
    {FIELD(slo, tpot, KV_T_SECONDS), .min = 1e-9, .max = 1e9, .also = "tpot_p99, tbt",
     .help = "time per output token behind the first that a request must keep"},
    {FIELD(slo, e2e, KV_T_SECONDS), .min = 1e-9, .max = 1e9, .also = "latency",
     .help = "time from arrival to the last token that a request must keep"},
    {FIELD(slo, attainment, KV_T_SHARE), .def = "99 %", .also = "percentile",
     .help = "requests that must keep all of these for the plan to meet them"},
};
/* The keys of a struct kv_lengths, which draws whole numbers. */
#define DRAWN(member, key_, default_, also_, help_, unit, most_help)                                                   \
    {.key = key_,                                                                                                      \
     .type = KV_T_COUNT,                                                                                               \
     .offset = AT(workload, member.tokens),                                                                            \
     .def = default_,                                                                                                  \
     .min = 0,                                                                                                         \
     .max = TOKENS_MAX,                                                                                                \
     .also = also_,                                                                                                    \
     .help = help_},                                                                                                   \
        {.key = #member "_distribution",                                                                               \
         .type = KV_T_CHOICE,                                                                                          \
         .offset = AT(workload, member.distribution),                                                                  \
         .def = "fixed",                                                                                               \
         .choices = distribution_words,                                                                                \
         .help = "how " unit " are drawn"},                                                                            \
        {.key = #member "_cv",                                                                                         \
         .type = KV_T_REAL,                                                                                            \
         .offset = AT(workload, member.cv),                                                                            \
         .def = "0.5",                                                                                                 \
         .min = 0.001,                                                                                                 \
         .max = 100,                                                                                                   \
         .help = "lognormal: standard deviation / mean"},                                                              \
        {.key = #member "_min",                                                                                        \
         .type = KV_T_COUNT,                                                                                           \
         .offset = AT(workload, member.least),                                                                         \
         .min = 0,                                                                                                     \
         .max = TOKENS_MAX,                                                                                            \
         .help = "least draw; auto: 1; the lower end of uniform"},                                                     \
        {.key = #member "_max",                                                                                        \
         .type = KV_T_COUNT,                                                                                           \
         .offset = AT(workload, member.most),                                                                          \
         .min = 0,                                                                                                     \
         .max = TOKENS_MAX,                                                                                            \
         .help = "largest draw; auto: " most_help "; the upper end of uniform"},                                       \
    {                                                                                                                  \
        .key = #member "_histogram", .type = KV_T_TEXTS, .offset = AT(workload, member.bins),                          \
        .help = "histogram: LEAST-MOST:WEIGHT, ...; 'kvsim workload info FILE --histogram' prints one"                 \
    }
#define LENGTHS(member, default_)                                                                                      \
    DRAWN(member, #member "_tokens", default_, #member ", " #member "_len, " #member "_length",                        \
          #member " tokens of a request, or their mean", #member " lengths", "what max_model_len leaves")
static const struct kv_field workload_fields[] = {
    {FIELD(workload, requests, KV_T_COUNT), .min = 1, .max = REQUESTS_MAX, .also = "num_requests, num_prompts",
     .help = "requests; auto: 1 without traffic, all rows of a trace, as many as arrive within duration"},
    {FIELD(workload, concurrency, KV_T_COUNT), .def = "1", .min = 1, .max = MANY,
     .also = "concurrent, batch, batch_size, max_concurrency, clients, users",
     .help = "requests that must fit at the same time; of arrivals = closed the clients"},
    {FIELD(workload, shared_prefix, KV_T_COUNT), .def = "0", .min = 0, .max = TOKENS_MAX,
     .also = "prefix_len, common_prefix_num_tokens",
     .help = "first prompt tokens all requests share; a row 'full + prefix caching' then counts them once"},
    LENGTHS(prompt, "32768"),
    LENGTHS(output, "256"),
    {FIELD(workload, trace, KV_T_TEXT), .also = "file, trace_file, dataset_path, input_file",
     .help = "traffic: a file of requests (docs/WORKLOADS.md); '-': standard input; gzip and zstd are read through"},
    {FIELD(workload, format, KV_T_CHOICE), .def = "auto", .choices = kv_format_names, .also = "dataset_name",
     .help = "what the trace is; auto: by its first line"},
    {FIELD(workload, arrivals, KV_T_CHOICE), .def = "none", .choices = arrival_words, .also = "arrival, process",
     .help = "when requests arrive; none: at the trace's times; without a trace none: no traffic, a count of capacity; "
             "closed: concurrency clients, each of which asks again after its answer"},
    {FIELD(workload, rate, KV_T_RATE), .min = 1e-9, .max = 1e9, .also = "qps, request_rate, arrival_rate",
     .help = "requests (first turns) that arrive; onoff: while on; diurnal: the mean of a period"},
    {FIELD(workload, cv, KV_T_REAL), .min = 0.01, .max = 100, .also = "burstiness",
     .help = "gamma: standard deviation / mean of the gaps (1 is poisson; vLLM's burstiness is 1 / cv^2)"},
    {FIELD(workload, on_time, KV_T_SECONDS), .min = 1e-6, .max = 1e9, .also = "on_s, on",
     .help = "onoff: mean length of a burst; lengths are exponential"},
    {FIELD(workload, off_time, KV_T_SECONDS), .min = 1e-6, .max = 1e9, .also = "off_s, off",
     .help = "onoff: mean length of what is between bursts"},
    {FIELD(workload, off_rate, KV_T_RATE), .def = "0 /s", .min = 0, .max = 1e9,
     .help = "onoff: requests that arrive between bursts"},
    {FIELD(workload, period, KV_T_SECONDS), .def = "24 h", .min = 1e-3, .max = 1e9,
     .help = "diurnal: one wave; it starts at the lowest rate"},
    {FIELD(workload, amplitude, KV_T_SHARE), .def = "50 %",
     .help = "diurnal: how far the rate swings around its mean: 50 % is from half to one and a half"},
    {FIELD(workload, from, KV_T_SECONDS), .def = "0 s", .min = 0, .max = 1e10, .also = "start, offset",
     .help = "rows of the trace before this time are left out, and what follows arrives that much earlier"},
    {FIELD(workload, duration, KV_T_SECONDS), .min = 1e-9, .max = 1e10, .also = "horizon, length",
     .help = "requests that arrive later are left out"},
    {FIELD(workload, rate_scale, KV_T_REAL), .def = "1.0", .min = 1e-9, .max = 1e9, .also = "speedup",
     .help = "arrivals come this many times as fast (vidur: 1 / time_scale_factor)"},
    {FIELD(workload, context_scale, KV_T_REAL), .def = "1.0", .min = 1e-9, .max = 1e6,
     .also = "prompt_scale, prefill_scale_factor", .help = "prompts are this many times as long, rounded, at least 1"},
    {FIELD(workload, output_scale, KV_T_REAL), .def = "1.0", .min = 1e-9, .max = 1e6, .also = "decode_scale_factor",
     .help = "outputs are this many times as long, rounded, at least 1"},
    {FIELD(workload, block_tokens, KV_T_COUNT), .min = 1, .max = TOKENS_MAX,
     .also = "hash_block_size, trace_block_size",
     .help = "prompt tokens that one block hash of the trace stands for; auto: what the trace says, 512 in mooncake's"},
    {FIELD(workload, too_long, KV_T_CHOICE), .def = "refuse", .choices = too_long_words,
     .also = "truncate_prompt_tokens",
     .help = "requests of more than max_model_len tokens: refused, as vLLM does, or served with a shorter prompt"},
    {FIELD(workload, skip_bad, KV_T_BOOL), .def = "false", .also = "ignore_errors",
     .help = "rows that cannot be used are counted and left out; false: they are errors"},
    DRAWN(turns, "turns", "1", "num_turns, session_turns, session_turns_mean, conversation_turn_mean",
          "requests of a session, or their mean; each but the first holds what was said before it", "numbers of turns",
          "any"),
    DRAWN(turn_prompt, "turn_prompt_tokens", "512", "turn_prompt, turn_tokens",
          "new prompt tokens of a later turn, or their mean", "what later turns add", "what max_model_len leaves"),
    {FIELD(workload, think_time, KV_T_SECONDS), .def = "0 s", .min = 0, .max = 1e9,
     .also = "session_turn_delay_mean, conversation_turn_delay_mean, turn_delay",
     .help = "mean time from an answer to the next turn, or to the next request of a closed loop's client"},
    {FIELD(workload, think_cv, KV_T_REAL), .def = "1.0", .min = 0, .max = 100,
     .help = "standard deviation / mean of think times (gamma; 1: exponential, 0: all alike)"},
    {FIELD(workload, tool_share, KV_T_SHARE), .def = "0 %", .also = "tool_rate",
     .help = "agents: later turns that bring what a tool found, not what a user said"},
    {FIELD(workload, tool_wait, KV_T_SECONDS), .def = "0 s", .min = 0, .max = 1e9, .also = "tool_time",
     .help = "agents: mean time a tool takes"},
    {FIELD(workload, tool_cv, KV_T_REAL), .def = "1.0", .min = 0, .max = 100,
     .help = "standard deviation / mean of tool waits (gamma; 1: exponential, 0: all alike)"},
    DRAWN(tool_prompt, "tool_prompt_tokens", "2048", "tool_tokens, tool_result_tokens",
          "new prompt tokens of a turn that brings what a tool found, or their mean", "what tools add",
          "what max_model_len leaves"),
    {FIELD(workload, between_turns, KV_T_CHOICE), .def = "drop", .choices = between_words,
     .help = "the cache of a session that waits for its next turn: given back, kept, or moved to the host; what prefix "
             "caching finds by name is not"},
};
static const struct kv_field plan_fields[] = {
    {FIELD(plan, chunks, KV_T_COUNTS), .def = "8192", .min = 1, .max = TOKENS_MAX,
     .also = "chunk, prefill_chunk_size, chunk_size",
     .help = "prefill chunks to plan with; a policy's own `chunk` replaces them"},
    {FIELD(plan, chunk_sweep, KV_T_COUNTS), .def = "512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072", .min = 1,
     .max = TOKENS_MAX, .help = "chunks of the footprint-against-chunk plot"},
    {FIELD(plan, find, KV_T_CHOICE), .def = "none", .choices = find_words, .also = "search, goal",
     .help =
         "with traffic, for each policy within [slo] and without overload (without [slo]: without overload): the "
         "highest "
         "rate, the longest prompts, the fewest replicas; or the policy of good quality that bears the highest rate"},
    {FIELD(plan, precision, KV_T_SHARE), .def = "2 %", .also = "tolerance",
     .help = "how close a rate or a scale of prompts is found"},
    {FIELD(plan, min_footprint, KV_T_SHARE), .also = "footprint_floor, floor",
     .help =
         "best_policy: the KV footprint (actual) below which a policy's quality is not trusted, from measured critical "
         "footprints"},
    {FIELD(plan, scores, KV_T_TEXT), .also = "task_scores, quality",
     .help = "best_policy: a CSV of policy,task,score with the scores of 'full' among them"},
    {FIELD(plan, min_score, KV_T_SHARE), .def = "90 %", .also = "threshold",
     .help = "best_policy: share of full's score that a policy must keep on each task"},
    {FIELD(plan, baselines, KV_T_BOOL), .def = "true",
     .help = "add rows for the full cache, in fp8 too, when no policy has them"},
};
static const struct kv_field timing_fields[] = {
    {FIELD(timing, model, KV_T_CHOICE), .def = "roofline", .choices = kv_timing_models,
     .help = "what a step takes: from hardware figures, measured tables, or a fit of them ('kvsim fit')"},
    {FIELD(timing, profile, KV_T_TEXT), .also = "table, file, folder",
     .help = "table: a folder of measured tables, or a file of 'kvengine profile'; fitted: a file of 'kvsim fit'"},
    {FIELD(timing, format, KV_T_CHOICE), .def = "auto", .choices = kv_timing_formats,
     .help = "of the tables; auto: told by the files that are there"},
    {FIELD(timing, on_missing, KV_T_CHOICE), .def = "extrapolate", .choices = missing_words,
     .help = "outside the tables: go on by the physical law, and say how far; or stop"},
    {FIELD(timing, step_overhead, KV_T_SECONDS), .def = "0 s", .min = 0, .max = 3600, .also = "cpu_overhead",
     .help = "time of a step that is in no table (the engine's CPU work); take it from another run or device than the "
             "one predicted"},
    {FIELD(timing, scale, KV_T_REAL), .def = "1", .min = 0.001, .max = 1000, .also = "time_scale",
     .help =
         "steps take this many times as long, but for evictions and what goes to the host: to see what an error of the "
         "times does to results"},
    {FIELD(timing, all_reduce_latency, KV_T_SECONDS), .def = "10 us", .min = 0, .max = 1,
     .help =
         "tensor_parallel_size > 1: time of each of a layer's two all-reduces beside that of its bytes; an assumption"},
    {FIELD(timing, attention_batching_overhead, KV_T_SHARE), .def = "10 %",
     .help = "step-time tables: added to an attention term that more than one request takes part in (Vidur's)"},
    {FIELD(timing, compute_efficiency, KV_T_SHARE), .def = "70 %",
     .help = "roofline: share of peak_flops that is reached; an assumption"},
    {FIELD(timing, bandwidth_efficiency, KV_T_SHARE), .def = "80 %",
     .help = "share of memory_bandwidth that is reached, by the roofline and by evictions; an assumption"},
};
static const struct kv_field report_fields[] = {
    {FIELD(report, plots, KV_T_TEXTS), .def = "memory, entries, chunk, bars, pages",
     .help = "plots that 'kvsim plot' draws of the result"},
    {FIELD(report, formats, KV_T_TEXTS), .def = "png", .also = "format", .help = "png, svg, pdf"},
};

#define SECTION(member, text)                                                                                          \
    {                                                                                                                  \
        .name = #member, .help = text, .field = member##_fields,                                                       \
        .n = sizeof member##_fields / sizeof *member##_fields, .offset = offsetof(struct kv_settings, member)          \
    }
const struct kv_section kv_sections[] = {
    SECTION(run, "the run itself"),
    SECTION(model, "the model, whose shape decides what an entry weighs"),
    SECTION(hardware, "the device"),
    SECTION(engine, "the serving engine; vLLM's names and meanings where it has one"),
    SECTION(workload, "the requests"),
    SECTION(slo, "what is promised to a request"),
    SECTION(plan, "what to plan"),
    SECTION(timing, "how long steps take"),
    SECTION(report, "pictures"),
};
const int kv_n_sections = sizeof kv_sections / sizeof *kv_sections;

static bool is_policy(const char *name)
{
    return !strncmp(name, "policy ", 7) || !strcmp(name, "policy");
}

static bool known_section(const struct kv_ini_section *s, struct kv_arena *a, struct kv_err *e)
{
    const char *names[32], *all = "";
    int n = 0;
    for (; n < kv_n_sections; n++) {
        if (!strcmp(kv_sections[n].name, s->name))
            return true;
        names[n] = kv_sections[n].name;
        all = kv_format(a, "%s[%s], ", all, names[n]);
    }
    names[n++] = "sweep"; /* its keys are of other sections: sim/sweep_grid.c */
    if (!strcmp(s->name, "sweep"))
        return true;
    size_t word = strcspn(s->name, " ");
    const char *policy = "policy", *near = kv_nearest(kv_copy_part(a, s->name, word), &policy, 1);
    if (near && s->name[word])
        return kv_fail(e, KV_USAGE, "%s: unknown section [%s]; did you mean [policy%s]?", s->where, s->name,
                       s->name + word);
    near = kv_nearest(s->name, names, n);
    if (near)
        return kv_fail(e, KV_USAGE, "%s: unknown section [%s]; did you mean [%s]?", s->where, s->name, near);
    return kv_fail(e, KV_USAGE, "%s: unknown section [%s]; known: %s[sweep], and [policy NAME]", s->where, s->name,
                   all);
}

static const struct kv_setting *find(const struct kv_ini_section *s, const char *key)
{
    for (int i = 0; s && i < s->n; i++)
        if (!strcmp(s->setting[i].key, key))
            return &s->setting[i];
    return NULL;
}

/* The settings of the device's preset, as defaults of [hardware]. */
static bool device_settings(struct kv_settings *out, const struct kv_ini_section *user, struct kv_setting **setting,
                            int *n, struct kv_arena *a, struct kv_err *e)
{
    const struct kv_setting *device = find(user, "device");
    const char *name = device ? device->value : "h200";
    const char *file = kv_preset_file("configs/hardware", "device", name, a, e);
    struct kv_ini ini;
    *n = 0;
    if (!file)
        return device ? kv_while(e, "%s", device->origin) : false;
    if (!kv_ini_read(file, &ini, a, e))
        return false;
    const struct kv_ini_section *s = kv_ini_find(&ini, "hardware");
    if (!s)
        return kv_fail(e, KV_DATA, "%s: a hardware preset has a section [hardware]", file);
    out->device_file = file;
    *setting = s->setting;
    *n = s->n;
    return true;
}

static void read_policies(const struct kv_ini *ini, struct kv_settings *s, struct kv_arena *a, struct kv_err *e)
{
    s->policy = KV_NEW_N(a, struct kv_policy, ini->n + 1);
    for (int i = 0; i < ini->n; i++) {
        const struct kv_ini_section *section = &ini->section[i];
        if (!is_policy(section->name))
            continue;
        const char *name = section->name + strlen("policy");
        name += strspn(name, " \t");
        if (!*name) {
            kv_fail(e, KV_USAGE, "%s: [policy] has no name; write [policy NAME]", section->where);
            continue;
        }
        const char *where = kv_format(a, "%s: [%s]", section->where, section->name);
        if (kv_policy_read(&s->policy[s->n_policies], name, where, section->setting, section->n, a, e))
            s->n_policies++;
    }
}

static void check_words(const struct kv_settings *s, const char *key, const struct kv_texts *given,
                        const char *const *known, struct kv_err *e)
{
    int n = 0;
    while (known[n])
        n++;
    for (int i = 0; i < given->n; i++) {
        bool found = false;
        for (int j = 0; j < n; j++)
            found |= !strcmp(given->at[i], known[j]);
        const char *near = kv_nearest(given->at[i], known, n);
        if (!found && near)
            kv_fail(e, KV_USAGE, "%s: [report] %s: '%s' is not known; did you mean '%s'?", s->path, key, given->at[i],
                    near);
        else if (!found)
            kv_fail(e, KV_USAGE, "%s: [report] %s: '%s' is not known; known are %s, %s, %s ...", s->path, key,
                    given->at[i], known[0], known[1], known[2]);
    }
}

static void check_drawn(struct kv_settings *s, struct kv_arena *a, struct kv_err *e)
{
    const struct {
        const char *name;
        struct kv_lengths *lengths;
    } drawn[] = {{"prompt", &s->workload.prompt},
                 {"output", &s->workload.output},
                 {"turns", &s->workload.turns},
                 {"turn_prompt", &s->workload.turn_prompt},
                 {"tool_prompt", &s->workload.tool_prompt}};
    for (size_t i = 0; i < sizeof drawn / sizeof *drawn; i++) {
        struct kv_lengths *l = drawn[i].lengths;
        const char *name = drawn[i].name;
        bool both = l->least != KV_UNSET && l->most != KV_UNSET;
        if (both && l->least > l->most)
            kv_fail(e, KV_USAGE, "%s: [workload] %s_min is more than %s_max", s->path, name, name);
        if (l->distribution == KV_UNIFORM && !both)
            kv_fail(e, KV_USAGE, "%s: [workload] %s_distribution = uniform needs %s_min and %s_max", s->path, name,
                    name, name);
        const char *why = NULL;
        if (l->distribution == KV_HISTOGRAM && !l->bins.n)
            why = "is missing, and the distribution is one; write LEAST-MOST:WEIGHT, ...";
        else if (l->bins.n)
            why = kv_histogram_read(&l->shape, &l->bins, a);
        if (why)
            kv_fail(e, KV_USAGE, "%s: [workload] %s_histogram %s", s->path, name, why);
    }
}

static bool check(struct kv_settings *s, struct kv_arena *a, struct kv_err *e)
{
    if ((s->model.name != NULL) == (s->model.path != NULL))
        kv_fail(e, KV_USAGE, "%s: [model] %s", s->path,
                s->model.name ? "name and path are both given; keep one"
                              : "needs name (a preset) or path (a Hugging Face folder)");
    if (s->hardware.memory == KV_UNSET && s->engine.kv_pool == KV_UNSET)
        kv_fail(e, KV_USAGE, "%s: [hardware] needs memory, or a device whose preset has it", s->path);
    if (!s->plan.chunks.n)
        kv_fail(e, KV_USAGE, "%s: [plan] chunks is empty; give at least one", s->path);
    for (int i = 1; i < s->engine.cudagraph_capture_sizes.n; i++)
        if (s->engine.cudagraph_capture_sizes.at[i] <= s->engine.cudagraph_capture_sizes.at[i - 1]) {
            kv_fail(e, KV_USAGE, "%s: [engine] cudagraph_capture_sizes must ascend; %lld stands behind %lld", s->path,
                    (long long)s->engine.cudagraph_capture_sizes.at[i],
                    (long long)s->engine.cudagraph_capture_sizes.at[i - 1]);
            break;
        }
    check_words(s, "plots", &s->report.plots, plot_words, e);
    check_words(s, "formats", &s->report.formats, format_words, e);
    check_drawn(s, a, e);
    return !e->n;
}

bool kv_settings_read(const char *path, const char *const *set, int n_set, struct kv_settings *s, struct kv_arena *a,
                      struct kv_err *e)
{
    struct kv_ini ini = {.path = "--set"};
    if (path)
        kv_ini_read(path, &ini, a, e);
    if (e->status == KV_DATA)
        return false;
    for (int i = 0; i < n_set; i++)
        kv_ini_set(&ini, set[i], NULL, a, e);
    return kv_settings_bind(&ini, s, a, e);
}

bool kv_settings_bind(const struct kv_ini *ini, struct kv_settings *s, struct kv_arena *a, struct kv_err *e)
{
    *s = (struct kv_settings){.path = ini->path, .hash = ini->hash};
    for (int i = 0; i < ini->n; i++)
        if (!is_policy(ini->section[i].name))
            known_section(&ini->section[i], a, e);
    s->bind = KV_NEW_N(a, struct kv_bind, kv_n_sections);
    for (int i = 0; i < kv_n_sections; i++) {
        const struct kv_section *section = &kv_sections[i];
        const struct kv_ini_section *given = kv_ini_find(ini, section->name);
        struct kv_setting *preset = NULL;
        int n_preset = 0;
        if (!strcmp(section->name, "hardware"))
            device_settings(s, given, &preset, &n_preset, a, e);
        s->bind[i] = (struct kv_bind){.field = section->field, .n = section->n, .base = (char *)s + section->offset};
        kv_bind(&s->bind[i], 1, preset, n_preset, given ? given->setting : NULL, given ? given->n : 0, a, e);
    }
    read_policies(ini, s, a, e);
    return !e->n && check(s, a, e);
}

bool kv_settings_of_workload(const struct kv_setting *setting, int n, struct kv_settings *s, struct kv_arena *a,
                             struct kv_err *e)
{
    *s = (struct kv_settings){.path = "command line", .bind = KV_NEW_N(a, struct kv_bind, kv_n_sections)};
    for (int i = 0; i < kv_n_sections; i++) {
        const struct kv_section *section = &kv_sections[i];
        bool mine = !strcmp(section->name, "workload");
        s->bind[i] = (struct kv_bind){.field = section->field, .n = section->n, .base = (char *)s + section->offset};
        kv_bind(&s->bind[i], 1, NULL, 0, mine ? setting : NULL, mine ? n : 0, a, e);
    }
    check_drawn(s, a, e);
    return !e->n;
}

bool kv_settings_model(const struct kv_settings *s, struct kv_model *m, struct kv_arena *a, struct kv_err *e)
{
    if (!kv_model_find(s->model.path ? s->model.path : s->model.name, m, a, e))
        return kv_while(e, "%s: [model]", s->path);
    if (s->model.disable_sliding_window)
        m->sliding_window = 0;
    if (s->model.weights != KV_UNSET)
        m->weight_bytes = s->model.weights;
    struct kv_model share;
    if (!kv_model_share(m, s->engine.tensor_parallel_size, &share, e))
        return kv_while(e, "%s: [engine]", s->path);
    if (!m->weight_bytes && s->engine.kv_pool == KV_UNSET)
        return kv_fail(e, KV_USAGE,
                       "%s: [model] '%s' is a quantised checkpoint, whose weight bytes are not known; add "
                       "'weights = N GiB' to [model]",
                       s->path, m->name);
    return true;
}
