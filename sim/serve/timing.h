/* SPDX-License-Identifier: GPL-3.0-or-later */
/* How long a step of an engine takes: from hardware figures (roofline), measured tables, or a fitted model. Each says
 * on what it was calibrated and how far off it was on rows kept out of the fit, and how far outside its tables it was
 * asked. */
#ifndef KV_TIMING_H
#define KV_TIMING_H

#include "sim/settings.h"

/* Tokens of one prompt in a step, on top of what its lanes hold already (mean over lanes). */
struct kv_step_chunk {
    int64_t tokens;
    double prefix;
};

/* What a step computes. KV lengths count entries attended to, the step's own included, as the mean over lanes: with the
 * full cache they are whole numbers. */
struct kv_step {
    int64_t tokens;    /* of decodes, chunks and patches together */
    int64_t sequences; /* requests in it: rows of logits */
    int64_t decodes;
    double decode_kv;         /* summed over the decodes */
    double decode_kv_squares; /* of each decode's length, summed: tells how unequal they are */
    const struct kv_step_chunk *chunk;
    int64_t n_chunks;
    double moved_bytes;  /* by evictions that compact: read and written once each */
    double scored_bytes; /* keys read again for scores of evictions */
    double offload_bytes;
};

enum kv_part_of_step { KV_TIME_PREFILL, KV_TIME_DECODE, KV_TIME_EVICT, KV_TIME_OFFLOAD, KV_TIME_PARTS };

/* How the time of a step of decodes alone follows from its lengths. */
struct kv_step_line {
    /* the rest is not there where it is -infinity */
    double until;              /* of decode_kv: as long as it does not fall, and rises no further; -infinity: never */
    double per_kv;             /* seconds an entry; 0: the time stays as it is */
    double shared, all, scale; /* seconds of what all tokens go through together; of what is added to any step; times */
    double to_decode;          /* the decodes' part of both */
};

struct kv_step_time {
    double s;                   /* of the step: what the clock goes on by */
    double part[KV_TIME_PARTS]; /* add up to it; what both prefill and decode need is shared out by tokens */
    double outside;             /* 1: inside the tables; 3: asked at three times their largest length or batch */
    struct kv_step_line line;
};

/* The same step with longer decodes, on its line: to the bit what kv_timing_step says of it. */
static inline void kv_timing_along(struct kv_step_time *time, double decode_kv)
{
    const struct kv_step_line *l = &time->line;
    double decode = l->per_kv * decode_kv, own = (l->shared + decode + l->all) * l->scale;
    time->part[KV_TIME_DECODE] = (decode + (l->shared + l->all) * l->to_decode) * l->scale;
    time->part[KV_TIME_PREFILL] = own - time->part[KV_TIME_DECODE];
    time->s = own + time->part[KV_TIME_EVICT] + time->part[KV_TIME_OFFLOAD];
}

struct kv_timing;

/* From [timing], for the model on the device. KV_USAGE, KV_DATA with file and line. */
bool kv_timing_open(struct kv_timing **t, const struct kv_settings *s, const struct kv_model *m, struct kv_arena *a,
                    struct kv_err *e);

/* KV_NO when it is outside the tables and on_missing = error. Called once a step: fast, no allocation. */
bool kv_timing_step(const struct kv_timing *t, const struct kv_step *step, struct kv_step_time *out, struct kv_err *e);

/* "roofline, not calibrated"; "table of A100 ..., measured"; "fitted to ..., mean error 3.1 % on 12 rows kept out". */
const char *kv_timing_stamp(const struct kv_timing *t);
/* What of it was measured with entries of another type than those read, and is reckoned by their bytes; NULL: nothing.
 * It is in the stamp too. */
const char *kv_timing_by_bytes_note(const struct kv_timing *t);
/* Files it read, for provenance.json; NULL at the end. */
const char *const *kv_timing_files(const struct kv_timing *t);

#endif
