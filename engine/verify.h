/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The parts of `kvengine verify`. */
#ifndef KV_VERIFY_H
#define KV_VERIFY_H

#include "engine/host.h"
#include "sim/table.h"

#include <jansson.h>

struct kv_tally {
    int64_t passed, failed;
};

/* One prompt, and what the run with the full cache made of it. */
struct kv_verify {
    struct kv_host *host;
    const struct kv_prompt *prompt;
    const char *folder; /* of temporary files */
    const char *kvsim;
    double tolerance; /* of logits */
    bool reference, open_loop;
    const char *name;      /* of the policy in hand, for people */
    const char *mechanics; /* why this model and prompt show mechanics only, or NULL */
    FILE *closed, *open;   /* where each pass goes as CSV, or NULL */

    unsigned channels; /* that the full cache's trace has (KV_BIT), window sums over the last `window` queries */
    int64_t window;
    int32_t *token;   /* (prompt + output,) */
    double *token_lp; /* (output,) log-probabilities of its output */
    struct kv_arena *arena;
};

/* ---- kvsim beside this program ---- */

/* NULL: KV_ENV. */
const char *kv_verify_kvsim(struct kv_arena *a, struct kv_err *e);
/* The first row of the JSON of `kvsim replay`, results in the folder `out`; `more` options. NULL after a message;
 * the caller decrefs. */
json_t *kv_verify_replay(const struct kv_verify *c, const char *trace, const char *spec, const char *out,
                         const char *more, struct kv_err *e);

/* ---- the checks ---- */

/* The model's own word and the prompt's likelihood: a sentence, or NULL for weights that know something. KV_ENV. */
bool kv_verify_weights(const struct kv_verify *c, const char **mechanics, struct kv_err *e);

/* Opens a sequence of the prompt under a SPEC. */
bool kv_verify_live(const struct kv_verify *c, struct kv_live *l, const char *spec, int64_t window, struct kv_arena *a,
                    struct kv_err *e);
/* The full cache once, recorded as FOLDER/full.kvt.h5 with what n SPECs ask for: token and token_lp are made. */
bool kv_verify_full(struct kv_verify *c, const char *const *spec, int n, struct kv_err *e);

/* Same scores, and independent: the row says what came of it, *good whether it holds. False on an error. */
bool kv_verify_closed(const struct kv_verify *c, const char *spec, const struct kv_table *t, struct kv_cell *row,
                      bool *good, struct kv_err *e);
/* Open loop, teacher-forced and free-running. *good is cleared where a prediction from lengths alone is wrong. */
bool kv_verify_open(struct kv_verify *c, const char *spec, const struct kv_table *t, struct kv_cell *row, bool *good,
                    struct kv_err *e);
/* The lines that the two write into c->closed and c->open begin with these. */
void kv_verify_closed_header(FILE *out);
void kv_verify_open_header(FILE *out);

/* Every case of a folder of golden outputs; a line for each thing compared. */
bool kv_verify_golden(struct kv_host *h, const char *folder, struct kv_tally *t, struct kv_arena *a, struct kv_err *e);

#endif
