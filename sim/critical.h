/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The critical KV footprint: the smallest at which a policy keeps a share (90 %) of a task's full-cache score.
 * Source: arXiv 2506.17121, its table 2: interpolated linearly between measured points. What it leaves open is decided
 * here: of a curve that is not monotone the first crossing counts, going down from 100 %; dips below it are counted. */
#ifndef KV_CRITICAL_H
#define KV_CRITICAL_H

#include "sim/table.h"

struct kv_point {
    double footprint, score; /* footprint: a share */
    int rows;                /* whose means they are */
};

/* '=': between measured points; '<': even the smallest measured footprint, which stands here, reaches the score; '>':
 * even the largest does not; 0: unknown. */
struct kv_bound {
    double footprint;
    char mark;
};

struct kv_crossing {
    struct kv_bound critical; /* the first, going down from 100 %: above it every point reaches the score */
    struct kv_bound lowest;   /* the last: below it none does */
    int dips;                 /* stretches below the score with a point that reaches it below them */
    bool monotone;            /* no smaller footprint has a higher score */
};

/* Whether a score is at least `wanted`, but for rounding. */
bool kv_score_reaches(double score, double wanted);

/* `point`: (n,) by ascending footprint, none twice; n > 0. */
struct kv_crossing kv_crossing_find(const struct kv_point *point, int n, double wanted);

/* ---- scores of tasks, from a file ---- */

struct kv_task {
    const char *name;
    double full_score, wanted; /* wanted: the threshold's share of it */
    int n_curves;
};

struct kv_curve {
    const struct kv_task *task;
    const char *policy;
    const struct kv_point *point; /* (n,) as above */
    int n, n_rows;
    struct kv_crossing at;
    struct kv_bound published; /* by --beside */
    const char *source;        /* who says so, or NULL */
};

struct kv_critical {
    const char *path, *full, *setting, *beside;
    double threshold, beside_threshold; /* beside_threshold: NaN when its file does not say */
    struct kv_task *task;               /* (n_tasks,) in the order of their first rows */
    struct kv_curve *curve;             /* (n_curves,) likewise */
    int n_tasks, n_curves, n_rows;
    int n_published, n_matched; /* rows of `beside`, and those with a curve here */
};

/* What is asked for. */
struct kv_critical_request {
    const char *path;    /* columns task, policy, footprint, score; "-": standard input */
    const char *full;    /* the policy that evicts nothing; NULL: 'full', else whatever has footprint 1 */
    const char *setting; /* a column: rows that share it become one point, the mean of them; or NULL */
    const char *beside;  /* columns task, policy, critical_footprint, maybe mark, threshold, source; or NULL */
    double threshold;
};

/* KV_DATA; every mistake in the files is said. All in the arena. */
bool kv_critical_read(struct kv_critical *c, const struct kv_critical_request *q, struct kv_arena *a, struct kv_err *e);

/* ---- what is shown of them ---- */

void kv_critical_print(const struct kv_critical *c, struct kv_arena *a);
void kv_critical_csv(const struct kv_critical *c, FILE *out, struct kv_arena *a);
json_t *kv_critical_json(const struct kv_critical *c, struct kv_arena *a); /* the caller decrefs */

/* Into a folder of kv_result_folder(): provenance.json, curves.csv, critical.csv, summary.json. KV_ENV. */
bool kv_critical_write(const struct kv_critical *c, const char *folder, struct kv_arena *a, struct kv_err *e);

#endif
