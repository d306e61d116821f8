/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The config of a plan: every section and key kvsim knows. The tables in settings.c are the one place that says what a
 * key means; `config template|show|explain` and docs/CONFIG.md are printed from them. */
#ifndef KV_SETTINGS_H
#define KV_SETTINGS_H

#include "sim/core/policy.h"

enum kv_distribution { KV_FIXED, KV_UNIFORM, KV_LOGNORMAL, KV_HISTOGRAM };

/* The words of [timing], in the order of their tables. */
enum kv_timing_model { KV_TIMING_ROOFLINE, KV_TIMING_TABLE, KV_TIMING_FITTED };
enum kv_timing_format { KV_TABLES_AUTO, KV_TABLES_STEP_TIME, KV_TABLES_LAYERS, KV_TABLES_KERNELS, KV_TABLES_PASSES };
enum kv_timing_missing { KV_MISSING_EXTRAPOLATE, KV_MISSING_ERROR };
extern const char *const kv_timing_models[], *const kv_timing_formats[];

struct kv_lengths {
    int64_t tokens;             /* the length itself, or the mean */
    int distribution;           /* enum kv_distribution */
    double cv;                  /* lognormal: standard deviation / mean */
    int64_t least, most;        /* draws are held between them; KV_UNSET: 1, and what the model allows */
    struct kv_texts bins;       /* histogram, as written: LEAST-MOST:WEIGHT each */
    struct kv_histogram *shape; /* what they say (sim/draw.h); NULL when there are none */
};

enum kv_arrivals { KV_NO_ARRIVALS, KV_POISSON, KV_GAMMA, KV_ONOFF, KV_DIURNAL, KV_CLOSED };
enum kv_between_turns { KV_BETWEEN_DROP, KV_BETWEEN_HOLD, KV_BETWEEN_OFFLOAD };

enum kv_find { KV_FIND_NONE, KV_FIND_RATE, KV_FIND_CONTEXT, KV_FIND_GPUS, KV_FIND_POLICY };

struct kv_settings {
    struct {
        const char *name, *output;
        int64_t seed, seeds;
        double warmup, drain, horizon;
    } run;
    struct {
        const char *name, *path;
        int64_t weights;
        bool disable_sliding_window;
    } model;
    struct {
        const char *device, *title;
        int64_t memory, activations, overhead;
        double memory_bandwidth, peak_flops, link_bandwidth, peer_bandwidth, price;
    } hardware;
    struct {
        double gpu_memory_utilization;
        int64_t block_size, max_num_batched_tokens, max_num_seqs, max_model_len, kv_pool;
        int kv_cache_dtype, kv_layout, evict_scope, prefill;
        bool compaction;
        /* traffic */
        int scheduler, preemption, router;
        int64_t num_gpu_blocks_override, long_prefill_token_threshold, replicas, tensor_parallel_size;
        struct kv_counts cudagraph_capture_sizes;
        double watermark;
        bool enforce_eager, enable_prefix_caching, async_scheduling, reserve_full_prompt, restart_bug;
    } engine;
    struct {
        int64_t requests, concurrency, shared_prefix; /* requests: KV_UNSET is 1, or all there are of traffic */
        struct kv_lengths prompt, output;
        /* traffic; see sim/workload/workload.h */
        const char *trace;
        int64_t block_tokens;
        int format, arrivals, between_turns, too_long;
        bool skip_bad;
        double from, duration, rate_scale, context_scale, output_scale;
        double rate, cv, on_time, off_time, off_rate, period, amplitude;
        struct kv_lengths turns, turn_prompt, tool_prompt;
        double think_time, think_cv, tool_share, tool_wait, tool_cv;
    } workload;
    struct {
        double ttft, tpot, e2e, attainment;
    } slo;
    struct {
        struct kv_counts chunks, chunk_sweep;
        bool baselines;
        int find; /* enum kv_find */
        double precision, min_footprint, min_score;
        const char *scores;
    } plan;
    struct {
        int model, format, on_missing; /* enum kv_timing_model, kv_timing_format, kv_timing_missing */
        const char *profile;
        double step_overhead, scale, all_reduce_latency, attention_batching_overhead, compute_efficiency,
            bandwidth_efficiency;
    } timing;
    struct {
        struct kv_texts plots, formats;
    } report;

    struct kv_policy *policy; /* in file order */
    int n_policies;

    struct kv_bind *bind;    /* (kv_n_sections,) what was bound, for `config show` */
    const char *device_file; /* the preset of [hardware] */
    const char *path;
    uint64_t hash; /* of the config's bytes */
};

struct kv_section {
    const char *name, *help;
    const struct kv_field *field;
    int n;
    size_t offset; /* of its struct in kv_settings */
};
extern const struct kv_section kv_sections[];
extern const int kv_n_sections;

/* Reads CONFIG (NULL: none) and the `--set` assignments over it; hardware keys that the config leaves out come from the
 * device's preset. KV_USAGE with every mistake, `file:line` each. */
bool kv_settings_read(const char *path, const char *const *set, int n_set, struct kv_settings *s, struct kv_arena *a,
                      struct kv_err *e);

/* Without a config: defaults, and the settings of [workload] given on a command line. [model] and [hardware] are empty.
 */
bool kv_settings_of_workload(const struct kv_setting *setting, int n, struct kv_settings *s, struct kv_arena *a,
                             struct kv_err *e);
/* The same of a config that was read, and set over, already. */
bool kv_settings_bind(const struct kv_ini *ini, struct kv_settings *s, struct kv_arena *a, struct kv_err *e);

/* The model of the settings, read and with its overrides. */
bool kv_settings_model(const struct kv_settings *s, struct kv_model *m, struct kv_arena *a, struct kv_err *e);

#endif
