/* SPDX-License-Identifier: GPL-3.0-or-later */
/* One recorded request through policies, all of them in one read of the trace. */
#ifndef KV_REPLAY_H
#define KV_REPLAY_H

#include "sim/core/cache.h"
#include "sim/count.h"
#include "sim/source.h"

#include <stdio.h>

struct kv_replay_asked {
    int64_t page;
    bool in_place; /* count pages without compaction */
    enum kv_scope scope;
    enum kv_layout layout;
    int64_t mass_sinks, mass_recents; /* left out of the inner mass */
    int threads;
    bool quiet;
    FILE *kept; /* NULL, or where kept positions go at the end of each tick, as kept_passes.csv has them */
    struct kv_defaults run;
};

/* Attention of a lane at one tick, as shares of the row's sum. */
struct kv_lane_mass {
    bool known, later_known;
    double held;    /* on what was held while the pass attended, its own tokens included */
    double kept;    /* on what stayed after it */
    double inner;   /* the same, first and newest tokens left out of both */
    double later;   /* of all later queries, on what stayed */
    double overlap; /* of what stayed with as many entries chosen by later attention */
};

/* A run at the end of a tick. */
struct kv_replay_point {
    int64_t tick, passes, seen, tokens;
    bool decode, evicted;
    int64_t entries_in_pass, entries_end, in_pass_bytes, end_bytes;
    struct kv_lane_mass mass; /* means over lanes */
};

struct kv_replay_lane {
    struct kv_lane_mass last, sum; /* of the last tick; sums over ticks that evicted (held: over all ticks) */
    int64_t n, n_held, n_inner, n_later;
    int64_t evictions, approximate, differs;
    int64_t held; /* before the pass that is on evicts */
};

struct kv_replay_run {
    struct kv_policy policy;
    struct kv_shape shape;
    struct kv_cache cache;
    bool open; /* the cache */
    struct kv_source source[KV_SCORE_CHANNELS];
    struct kv_replay_lane *lane; /* (layers, store heads) */
    struct kv_replay_point *point;
    int64_t n_points;
    struct kv_count count;
    /* means over lanes and evicting ticks, NaN where nothing told */
    double mass_held, mass_kept, mass_inner, mass_later, overlap;
    double *mark; /* (marks, 2) share of a marked span's entries left after prefill, and at the end */
    int64_t ties, decisions, approximate;
    int64_t differs; /* closed loop: lanes and passes whose kept set is not the recorded one */
};

struct kv_replay {
    struct kv_replay_asked asked;
    struct kv_trace *trace;
    struct kv_trace_about about;
    struct kv_model model;
    struct kv_request request;
    int64_t end; /* tokens that were recorded */
    struct kv_replay_run *run;
    int n_runs;
    int mass, later; /* channels of the trace, or -1 */
    bool closed;     /* recorded under the policy */
};

/* Opens the trace; policies may then be added. KV_DATA. */
bool kv_replay_open(struct kv_replay *r, const char *path, const struct kv_replay_asked *asked, struct kv_arena *a,
                    struct kv_err *e);
/* What the trace cannot support is refused, with what to record. `policy` was read, and is copied. */
bool kv_replay_add(struct kv_replay *r, const struct kv_policy *policy, struct kv_arena *a, struct kv_err *e);
bool kv_replay_run(struct kv_replay *r, struct kv_arena *a, struct kv_err *e);
void kv_replay_close(struct kv_replay *r);

/* Kept positions of a run as spans of neighbours, a line each: policy, `before`, layer, head, first and last token. */
void kv_replay_put_kept(struct kv_replay_run *run, const char *before, FILE *out);

#endif
