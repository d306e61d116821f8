/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What the kinds of timing share: each gives the seconds of a step's terms, timing.c makes the answer of them. */
#ifndef KV_TIMING_KIND_H
#define KV_TIMING_KIND_H

#include "sim/csv.h"
#include "sim/serve/timing.h"

/* Seconds of a step's terms. `outside` is there as 1 when a kind is asked, `until` as -infinity. */
struct kv_step_cost {
    double sum;             /* of the three below, in the order of operations the kind prescribes */
    double prefill, decode; /* attention of the chunks, and of the decodes */
    double shared;          /* what all tokens go through together */
    double evict;           /* less than 0: the kind has no figure of its own */
    double outside;
    /* Of a step of decodes alone: with longer ones, up to this decode_kv in all, `decode` is per_kv x decode_kv, in
     * just this product, and sum = shared + decode; or, per_kv = 0, nothing changes. */
    double until, per_kv;
};

enum { KV_TIMING_FILES = 64, KV_TIMING_MOST_KEY = 1 << 26 };

struct kv_timing {
    void (*cost)(const struct kv_timing *t, const struct kv_step *step, struct kv_step_cost *out);
    const void *own; /* the kind's tables or coefficients */
    const struct kv_settings *settings;
    bool strict;            /* on_missing = error */
    bool knows_evictions;   /* the kind has figures of its own for them */
    double overhead;        /* seconds a step, with what does not depend on its tokens of all-reduces */
    double scale;           /* of all but evictions and transfers */
    double reduce_s;        /* of all-reduces, a token */
    double move_s_per_byte; /* of device memory; NaN: the hardware does not say */
    double link_s_per_byte;
    enum kv_dtype stored;         /* type of the entries that steps read */
    double kv_share;              /* their bytes, over those of the entries that the kind was measured with */
    const char *stamp, *by_bytes; /* NULL: nothing is */
    const char *file[KV_TIMING_FILES + 1];
    int n_files;
    struct kv_arena *arena;
};

/* Says with which entries the kind was measured: sets kv_share. A kind that goes by bytes itself need not. */
void kv_timing_measured_with(struct kv_timing *t, const struct kv_model *m, enum kv_dtype dtype);

/* Seconds of decodes whose entries are of another type than those measured, which take `s`: what that is beyond
 * `least`, the time over the shortest lengths measured, goes by bytes. */
static inline double kv_timing_by_bytes(const struct kv_timing *t, double least, double s)
{
    return t->kv_share == 1 || s <= least ? s : least + (s - least) * t->kv_share;
}

/* Notes a file that is read, for provenance. */
void kv_timing_reads(struct kv_timing *t, const char *path);

/* [timing] of a config, for messages. */
const char *kv_timing_where(const struct kv_timing *t);

/* What all chunks of a step come to: their tokens, pairs of a query and a key, prefixes, and the longest prefix. */
struct kv_step_chunks {
    double tokens, pairs, prefixes, longest;
};
static inline struct kv_step_chunks kv_step_chunks_of(const struct kv_step *step)
{
    struct kv_step_chunks all = {0};
    for (int64_t i = 0; i < step->n_chunks; i++) {
        double c = (double)step->chunk[i].tokens, prefix = step->chunk[i].prefix;
        all.tokens += c;
        all.pairs += c * (prefix + c / 2);
        all.prefixes += prefix;
        all.longest = prefix > all.longest ? prefix : all.longest;
    }
    return all;
}

/* The one chunk that stands for all of a step's: of as many tokens and as many pairs of a query and a key, or, where
 * even without prefix that has more pairs, the one without prefix that has as many. */
void kv_step_one_chunk(const struct kv_step *step, double *chunk, double *prefix);

/* Reads the rows of a table: `keys` columns of whole numbers, then one of times (0 .. 1e12), then, if `text`, one more
 * whose place `take` is given (-1: none). KV_DATA. */
bool kv_timing_rows(struct kv_timing *t, const char *path, const char *const *column, int keys, bool text,
                    bool (*take)(void *self, const struct kv_csv *c, int text_column, const int64_t *key, double time,
                                 struct kv_err *e),
                    void *self, struct kv_err *e);

/* Each fills cost, own, stamp and file. KV_USAGE, KV_DATA. */
bool kv_timing_open_roofline(struct kv_timing *t, const struct kv_model *m, struct kv_err *e);
bool kv_timing_open_step_time(struct kv_timing *t, const struct kv_model *m, const char *folder, struct kv_err *e);
bool kv_timing_open_kernels(struct kv_timing *t, const struct kv_model *m, const char *folder, struct kv_err *e);
bool kv_timing_open_passes(struct kv_timing *t, const struct kv_model *m, const char *path, struct kv_err *e);
bool kv_timing_open_fitted(struct kv_timing *t, const struct kv_model *m, const char *path, struct kv_err *e);
bool kv_timing_open_layers(struct kv_timing *t, const struct kv_model *m, const char *folder, struct kv_err *e);

#endif
