/* SPDX-License-Identifier: GPL-3.0-or-later */
/* One replica of a serving engine: continuous batching step by step, under the rules of a real scheduler, over a pool
 * of KV pages that each sequence takes and gives back as its policy says.
 *
 * Decodes are not walked: all of them go on in each step, so what they add up to (lengths, pages taken at this step,
 * who changes when) is kept in sums, and a step costs the same for one sequence as for a thousand. Only when pages run
 * out are they walked in their order, to find who is preempted. */
#ifndef KV_ENGINE_H
#define KV_ENGINE_H

#include "sim/core/quantile.h"
#include "sim/serve/blocks.h"
#include "sim/serve/hold.h"
#include "sim/serve/timeline.h"
#include "sim/serve/timing.h"
#include "sim/workload/workload.h"

enum kv_scheduler { KV_SCHEDULER_VLLM, KV_SCHEDULER_SARATHI };

struct kv_engine_rules {
    enum kv_scheduler scheduler;
    enum kv_layout layout; /* of the pool; the others are counted beside it */
    int64_t pages;         /* in the pool, of one table */
    int64_t max_num_seqs, max_num_batched_tokens, max_model_len;
    int64_t long_prefill_token_threshold; /* 0: none */
    int64_t watermark;                    /* pages that an admission leaves free (sarathi) */
    bool prefix_caching, async_scheduling;
    bool reserve_prompt; /* vllm: a prompt is admitted only where all of it fits now */
    bool restart_bug;    /* sarathi: as Vidur has it, see docs/SERVING.md */
    const int64_t
        *graph_sizes; /* ascending: a step of up to the last of them computes as many tokens as the next one */
    int64_t n_graph_sizes;
    bool offload; /* entries of preempted requests go to the host and come back; else they are computed again */
    enum kv_between_turns between; /* under prefix caching entries of sessions are found by name, and this is drop */
    int64_t page_bytes;            /* of the layout */
};

/* One request in an engine. */
struct kv_job {
    struct kv_arrival is; /* its blocks must live as long as the job */
    int64_t session;      /* what its tokens are named by where `is.block` ends: turns of a session have it in common */
    double arrival_s;
    double scheduled_s, first_token_s, last_token_s, finish_s; /* NaN: not yet */
    int64_t generated, preemptions;
    int64_t recomputed_tokens, cached_tokens;
    double entry_steps, full_steps; /* their quotient is the KV footprint, accounting `actual` */
    int64_t peak_pages;
    /* The engine's. After a preemption the prompt and what was generated are computed again. */
    int64_t target, left;          /* tokens to compute before the next one, and those to generate then */
    int64_t generated_before;      /* the last preemption */
    int64_t recompute;             /* tokens that were computed once */
    int64_t prefill_peak, peak_of; /* pages of a prefill of so many tokens */
    int64_t on_host;               /* tokens whose entries wait there since it was preempted */
    struct kv_job *next;           /* in the queue */
};

enum kv_engine_event { KV_ADMITTED, KV_RESUMED, KV_RAN, KV_PREEMPTED, KV_FINISHED, KV_STEPPED, KV_REFUSED };

/* What others are told. `tokens`, `computed`: of KV_RAN the tokens run and those before them; of an admission those
 * found in the cache or kept of the turn before; of KV_STEPPED the tokens of the step and the sequences that run.
 * KV_STEPPED and KV_RAN are told only with `details`. */
struct kv_engine_watch {
    void *context;
    bool details;
    struct kv_timeline *timeline; /* what steps held and ran, or NULL */
    struct kv_quantiles *gaps;    /* between tokens of a request, seconds; or NULL */
    void (*tell)(void *context, enum kv_engine_event what, struct kv_job *job, int64_t tokens, int64_t computed);
};

/* What keeps those who wait from being admitted. */
enum kv_limit { KV_LIMIT_PAGES, KV_LIMIT_SEQUENCES, KV_LIMIT_TOKENS, KV_LIMITS };

/* Sums of a replica's life. Page counts by layout; areas in pages x seconds. */
struct kv_engine_sums {
    int64_t dropped_sessions; /* kept for a next turn, and given up for others */
    double offloaded_bytes;   /* to the host or from it */
    int64_t steps, preemptions, recomputed_tokens, cached_tokens, prompt_tokens, output_tokens;
    int64_t peak_pages[KV_LAYOUTS], returned_pages[KV_LAYOUTS];
    double page_area[KV_LAYOUTS];
    double held_area; /* entries, mean over lanes, x seconds */
    double busy_s, part_s[KV_TIME_PARTS], recompute_s;
    double limit_s[KV_LIMITS]; /* time in which somebody waited, by what held the first of them back */
    double waited_s;           /* waiting requests x seconds */
    double outside;            /* most of any step, as timing says */
};

struct kv_engine;

/* NULL after a message. */
struct kv_engine *kv_engine_open(const struct kv_engine_rules *rules, const struct kv_holder *holder,
                                 const struct kv_timing *timing, const struct kv_engine_watch *watch,
                                 struct kv_arena *a, struct kv_err *err);
/* Now the timeline tells of all layouts. */
void kv_engine_close(struct kv_engine *e);

/* A request arrives; the engine has the job until it is told as finished or refused. */
void kv_engine_add(struct kv_engine *e, struct kv_job *job);

/* No turn follows that the entries kept of the session would wait for. */
void kv_engine_forget(struct kv_engine *e, int64_t session);

/* When its next step begins: now, or +infinity when there is nothing to do. */
double kv_engine_clock(const struct kv_engine *e);

/* Steps that begin before `until`; stops early when a request ended, so that its next turn may arrive, and
 * when the program is interrupted. */
bool kv_engine_run(struct kv_engine *e, double until, struct kv_err *err);

/* Nothing arrives any more before `until`: what sessions keep is held up to then, if nothing runs. */
void kv_engine_rest(struct kv_engine *e, double until);

struct kv_engine_sums kv_engine_sums(const struct kv_engine *e); /* up to now */
/* Those of several replicas: peaks and `outside` are the largest of any, the rest adds up. */
void kv_engine_sums_add(struct kv_engine_sums *to, const struct kv_engine_sums *from);
int64_t kv_engine_waiting(const struct kv_engine *e);
int64_t kv_engine_running(const struct kv_engine *e);
/* Pages held within the step that is told of. */
int64_t kv_engine_pages(const struct kv_engine *e, enum kv_layout layout);
double kv_engine_now(const struct kv_engine *e);          /* when that step begins */
int64_t kv_engine_tokens_left(const struct kv_engine *e); /* to compute, of all its requests */
/* Blocks of the prompt that it would find in its cache. */
int64_t kv_engine_cached(const struct kv_engine *e, const struct kv_job *job);

#endif
