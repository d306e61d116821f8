/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A parametric model of a step's seconds, and its fit to measured steps:
 *
 *     base_s + token_s x max(knee_tokens, tokens) + sequence_s x sequences + decode_kv_s x decode_kv
 *     + beside_kv_s x (decode_kv, if a chunk is with them) + pair_s x sum of chunk x (prefix + chunk / 2)
 *     + prefix_kv_s x sum of prefix + moved_byte_s x moved_bytes + scored_byte_s x scored_bytes
 *
 * with no coefficient below 0. Below knee_tokens the weights' bytes are what takes the time, above it their products.
 */
#ifndef KV_FIT_H
#define KV_FIT_H

#include "sim/serve/timing.h"

enum kv_fit_term {
    KV_FIT_BASE,
    KV_FIT_TOKEN,
    KV_FIT_DECODE_KV,
    KV_FIT_BESIDE_KV,
    KV_FIT_PAIR,
    KV_FIT_PREFIX,
    KV_FIT_SEQUENCE,
    KV_FIT_MOVED,
    KV_FIT_SCORED,
    KV_FIT_TERMS
};
extern const struct kv_fit_term_text {
    const char *key, *of; /* "pair_s"; what it is multiplied by */
} kv_fit_term_texts[KV_FIT_TERMS];

enum kv_fit_kind { KV_FIT_PREFILL_STEP, KV_FIT_DECODE_STEP, KV_FIT_MIXED_STEP, KV_FIT_EVICTION, KV_FIT_KINDS };
extern const char *const kv_fit_kind_names[];

/* Sizes of a step; of a model, the largest in its rows: beyond them it is extrapolated. */
struct kv_fit_sizes {
    double tokens, decodes, length, chunk, prefix;
};

struct kv_fit_row {
    double x[KV_FIT_TERMS]; /* of each term; of TOKEN the tokens, without the knee */
    double s;
    enum kv_fit_kind kind;
    struct kv_fit_sizes sizes;
    bool kept_out;
};

/* Relative errors |predicted / measured - 1|; n = 0: no rows. */
struct kv_fit_error {
    int n;
    double mean, p90, max, bias;
};

struct kv_fit {
    bool there[KV_FIT_TERMS]; /* in the rows at all; else the coefficient is not known */
    double c[KV_FIT_TERMS], low[KV_FIT_TERMS], high[KV_FIT_TERMS]; /* 95 % */
    double knee, knee_low, knee_high;
    struct kv_fit_sizes largest;
    int rows, kept_out;
    struct kv_fit_error out[KV_FIT_KINDS + 1]; /* on rows kept out, by kind and (last) on all of them */
    struct kv_fit_error in;                    /* on the rows of the fit */
};

void kv_fit_row_of(struct kv_fit_row *row, const struct kv_step *step, double s);

/* Robust (bisquare) least squares of relative errors with an active set for c >= 0, for each of many knees; that with
 * the least mean error wins. 95 % intervals from the robust covariance there, with the knee as one more coefficient.
 * KV_DATA: too few rows, or kinds of rows that are needed and missing. */
bool kv_fit_solve(struct kv_fit *f, const struct kv_fit_row *row, int n, struct kv_arena *a, struct kv_err *e);

double kv_fit_seconds(const struct kv_fit *f, const double *x);

/* Files: INI, read back exactly. */
struct kv_fit_source {
    const char *path, *hash;
    int rows;
};
struct kv_fit_file {
    struct kv_fit fit;
    const char *model;
    struct kv_fit_source *source; /* (n_sources,) */
    int n_sources;
    double kept_out_share;
    int64_t seed;
};
bool kv_fit_write(const struct kv_fit_file *f, const char *path, struct kv_arena *a, struct kv_err *e);
bool kv_fit_read(struct kv_fit_file *f, const char *path, struct kv_arena *a, struct kv_err *e);

/* The rows of a profile: a file of `kvengine profile`, or tables that [timing] reads, asked for steps of many sizes
 * within them. Appends to *row, malloc'ed; `source` becomes its path, the hash of what was read, and how many rows. */
bool kv_fit_rows(const char *path, const struct kv_settings *s, const struct kv_model *m, struct kv_fit_source *source,
                 struct kv_fit_row **row, int *n, struct kv_arena *a, struct kv_err *e);

#endif
