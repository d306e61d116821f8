/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A sweep: a grid over keys of a config, each point a plan of its own.
 *
 * A point is named by the hash of what decides its results: the resolved config, the bytes of the files it reads, the
 * version. So a folder can hold points of several grids, and running again does what is not there yet. On disk:
 *   points/HASH/         the results of `kvsim plan`, renamed from HASH.part when complete: such a point is done
 *   points/HASH.failed   why it failed; it is not run again unless asked for
 *   points/HASH.lock     who runs it: process, its start, host
 *   logs/HASH.out, .err  what the plan printed
 *   points.csv, sweep.csv, provenance.json
 * Nothing else is remembered, so sweeps on several machines can share the folder. */
#ifndef KV_SWEEP_H
#define KV_SWEEP_H

#include "sim/settings.h"

#include <stdio.h>

enum { KV_SWEEP_MOST = 100000, KV_POINT_NAME = 17 };

/* One key of [sweep]. */
struct kv_axis {
    const char *key;    /* "engine.block_size", "policy duo.sparsity" */
    const char *where;  /* "sweep.ini:14: [sweep]" */
    const char **value; /* (n,) as written; of a range as a config would write them */
    int n;
};

struct kv_point {
    char name[KV_POINT_NAME];   /* the hash, in hexadecimal */
    char config[KV_POINT_NAME]; /* hash of its config.resolved.ini */
};

struct kv_sweep {
    const char *config;     /* the file */
    const char *const *set; /* (n_set,) what stands over it, for all points */
    int n_set;
    const char *folder;
    struct kv_axis *axis; /* (n_axes,) in the order of the config */
    int n_axes;
    struct kv_point *point; /* (n_points,) the last key fastest */
    int n_points;
    int shard, shards; /* points whose number leaves the remainder `shard`; 0 of 1: all */
    uint64_t hash;     /* of the config's bytes */
};

/* Reads [sweep], resolves every point and names it. KV_USAGE with every mistake of any point, each once; `folder` NULL:
 * [run] output. Nothing is written. */
bool kv_sweep_read(struct kv_sweep *s, const char *folder, struct kv_arena *a, struct kv_err *e);

/* The value of an axis at a point. */
const char *kv_sweep_value(const struct kv_sweep *s, int point, int axis);
/* "engine.block_size = 16, workload.rate = 1 /s" */
const char *kv_sweep_point_text(const struct kv_sweep *s, int point, struct kv_arena *a);
/* Whether the point is of this shard. */
bool kv_sweep_mine(const struct kv_sweep *s, int point);
/* FOLDER/points/HASH and the suffix. */
const char *kv_sweep_path(const struct kv_sweep *s, int point, const char *suffix, struct kv_arena *a);

/* ---- points on disk ---- */

enum kv_point_state { KV_POINT_DONE, KV_POINT_FAILED, KV_POINT_RUNNING, KV_POINT_LEFT, KV_POINT_STATES };
extern const char *const kv_point_states[];

enum kv_point_state kv_sweep_state(const struct kv_sweep *s, int point, struct kv_arena *a);

/* FOLDER with provenance.json, points/ and logs/. */
bool kv_sweep_folder(const struct kv_sweep *s, struct kv_arena *a, struct kv_err *e);
bool kv_sweep_begun(const struct kv_sweep *s, struct kv_arena *a); /* whether it is there */

/* Takes the point for this process; *taken is false when a living one has it. A lock of a process of this host that
 * died is taken over. */
bool kv_sweep_lock(const struct kv_sweep *s, int point, bool *taken, struct kv_arena *a, struct kv_err *e);
void kv_sweep_unlock(const struct kv_sweep *s, int point, struct kv_arena *a);

struct kv_sweep_how {
    int jobs;            /* processes at a time */
    bool retry;          /* failed points too */
    bool quiet, verbose; /* on stderr */
};

/* Runs what is left of this shard. False on a signal, after the points in hand were told to end, and when the folder
 * cannot be written; points that fail do not stop it. */
bool kv_sweep_run(const struct kv_sweep *s, const struct kv_sweep_how *how, struct kv_arena *a, struct kv_err *e);

/* ---- what is shown of them ---- */

struct kv_table;
/* hash, the swept keys, status: a row for each point of this shard. */
void kv_sweep_table(const struct kv_sweep *s, struct kv_table *t, int count[KV_POINT_STATES], struct kv_arena *a);
/* points.csv */
bool kv_sweep_write_points(const struct kv_sweep *s, struct kv_arena *a, struct kv_err *e);
/* sweep.csv: the swept keys beside the rows of every point's policies.csv, in grid order, of the points that are
 * done. */
bool kv_sweep_gather(const struct kv_sweep *s, int64_t *rows, struct kv_arena *a, struct kv_err *e);
/* True when all points of this shard are done; else KV_NO with each that is not, and why. */
bool kv_sweep_complete(const struct kv_sweep *s, struct kv_arena *a, struct kv_err *e);

enum kv_emit { KV_EMIT_SLURM, KV_EMIT_PARALLEL, KV_EMIT_MAKE };
/* A script that runs the sweep in `shards` parts and gathers; `jobs` 0: not said. */
bool kv_sweep_emit(const struct kv_sweep *s, enum kv_emit kind, int shards, int jobs, bool retry, FILE *out,
                   struct kv_arena *a, struct kv_err *e);

#endif
