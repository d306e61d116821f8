/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The seam between the engine and what computes: a forward pass over parts of several sequences, with a call back as
 * each layer's attention ends, so that a layer evicts then and there. Scores are made where the keys are; only what was
 * asked for comes out. */
#ifndef KV_BACKEND_H
#define KV_BACKEND_H

#include "engine/weights.h"
#include "sim/core/cache.h"

/* The pages of one lane, entries in order of position: entry i is row i % page of page[i / page]. */
struct kv_lane_pages {
    int32_t *page;
    int64_t n_pages, room;
    int64_t length; /* entries, those of the pass that is on included */
};

/* One sequence in a backend. Lanes are (layers, store heads); a store head is a KV head, or a query head where caches
 * that expand K and V first are reproduced. */
struct kv_seq {
    int64_t store_heads;
    int64_t seen;        /* tokens of the passes that ended */
    bool lost;           /* a pass of it stopped midway: it can only be closed */
    bool slot_positions; /* keys are kept raw and rotated by their place in the lane (StreamingLLM) */
    struct kv_lane_pages *lane;
    int64_t window;  /* last queries kept, for scores over them; 0: none */
    float *query;    /* backend's: the last `window` queries of each layer */
    void *own;       /* backend's */
    int64_t n_query; /* how many queries of the window there are */
};

/* Who left a lane by its score, and how many scores that decided were equal (kv_select's top). */
struct kv_left {
    int32_t rank, ties;
};

/* A sequence's share of a forward pass: n_new tokens at positions seen .., and n_patch behind them that leave nothing.
 */
struct kv_part {
    struct kv_seq *seq;
    const int32_t *token; /* (n_new + n_patch,) */
    int64_t n_new, n_patch;
    int64_t n_logits; /* of the last of the n_new tokens */
    float *logits;    /* (n_logits, vocab) */

    /* Where the backend can: who leaves each lane as its layer's attention ends, without a hook being asked. (layers,
     * store heads); NULL: the hook sees to it. Parts of one token without a patch. */
    const struct kv_leave *leave;
    const struct kv_simple_score *by; /* NULL: by place, from `first` on */
    struct kv_left *left;             /* (layers, store heads) with `by`: who left, where anyone did */
};

/* Rows of a pass are its tokens, part after part: first[p] is part p's first one, first[n] how many there are. Returns
 * how many tokens the longest sequence then has, patch included. */
static inline int64_t kv_parts_rows(const struct kv_part *part, int n, int64_t *first)
{
    int64_t longest = 0;
    first[0] = 0;
    for (int p = 0; p < n; p++) {
        int64_t tokens = part[p].n_new + part[p].n_patch, end = part[p].seq->seen + tokens;
        first[p + 1] = first[p] + tokens;
        longest = end > longest ? end : longest;
    }
    return longest;
}

/* A pass of the parts has ended; if not well, its sequences are lost. */
static inline void kv_parts_end(struct kv_part *part, int n, bool good)
{
    for (int p = 0; p < n; p++) {
        part[p].seq->lost = !good;
        part[p].seq->seen += good ? part[p].n_new : 0;
        part[p].seq->n_query += good ? part[p].n_new : 0;
    }
}

/* Called when a layer's attention has ended for all parts; NULL where nobody asks. False stops the pass. */
typedef bool kv_layer_hook(void *context, int64_t layer, struct kv_err *e);

struct kv_backend_asked {
    enum kv_dtype dtype; /* of entries: one that the backend has */
    int64_t page;        /* entries of a page */
    int64_t pool_bytes;  /* of pages at most; 0: half of what is free (a device's) */
    int threads;
    bool no_graph; /* a device's steps of decodes are asked for launch by launch */
};

struct kv_backend_use {
    int64_t pages_live, pages_peak, page_bytes;
    int64_t resident_bytes; /* of the pool, as the system says */
    int64_t weight_bytes;
    int64_t device_bytes; /* that the driver says were taken since the backend began to open; 0: there is no driver */
    int64_t load_bytes; /* of matrices, read from files when it was opened; 0: where they are read as they are needed */
    double load_s;      /* until all weights were where they are computed with */
};

struct kv_backend;

struct kv_backend_ops {
    const char *name, *computes; /* computes: the type of weights and activations, as traces say it */
    const enum kv_dtype *dtype;  /* (n_dtypes,) that entries can be; the first, where nothing else is asked */
    int n_dtypes;
    bool (*open)(struct kv_backend **b, const struct kv_weights *w, const struct kv_backend_asked *asked,
                 struct kv_err *e);
    void (*close)(struct kv_backend *b);

    bool (*seq_open)(struct kv_backend *b, struct kv_seq *s, struct kv_err *e);
    void (*seq_close)(struct kv_backend *b, struct kv_seq *s); /* its pages go back */

    /* False before the first layer, when the pass itself cannot be (KV_USAGE, or KV_ENV without memory for it): the
     * sequences are as they were. False later, when the pool has no page left (KV_ENV) or the hook says so: its
     * sequences are lost, for lower layers have grown and evicted, and what was evicted is gone. They keep their pages
     * until seq_close; the backend and its other sequences go on. */
    bool (*forward)(struct kv_backend *b, struct kv_part *part, int n_parts, kv_layer_hook *hook, void *context,
                    struct kv_err *e);

    /* Within the hook: a channel of all lanes of the layer, lane h at out + h x lane_stride: over its entries, new
     * tokens and patch; window_local over the last `unit` tokens and the patch; norms over the new tokens. One row, of
     * the sums over the lane's query heads, or with query_rows one for each, row_stride apart. `queries`: of window
     * sums; column_sum takes those of the pass, last_row its last one; the patch is in neither. */
    bool (*channel)(struct kv_backend *b, int part, int64_t layer, enum kv_channel what, int64_t queries, int64_t unit,
                    bool query_rows, float *out, int64_t lane_stride, int64_t row_stride, struct kv_err *e);
    /* Within the hook: keys (after RoPE) and values of the lane's entries [first, first + n), (n, head_dim). */
    void (*entries)(struct kv_backend *b, int part, int64_t layer, int64_t head, int64_t first, int64_t n, float *keys,
                    float *values);

    /* Within the hook: of the lane's entries and patch those stay whose bit is set in `stay` (by rank; NULL: all). The
     * patch never stays. Pages that are free then go back. */
    void (*compact)(struct kv_backend *b, int part, int64_t layer, int64_t head, const uint64_t *stay);

    /* Numbers of a lane's entries, which scores of parts with `leave` are gathered in: set before the first such pass,
     * and got back where the host is to decide again. Both NULL: parts with `leave` are not taken. KV_ENV. */
    bool (*set_column)(struct kv_backend *b, struct kv_seq *s, int64_t layer, int64_t head, const float *column,
                       struct kv_err *e);
    bool (*get_column)(struct kv_backend *b, struct kv_seq *s, int64_t layer, int64_t head, float *column,
                       struct kv_err *e);

    struct kv_backend_use (*use)(const struct kv_backend *b);
};

struct kv_backend {
    const struct kv_backend_ops *ops;
};

extern const struct kv_backend_ops kv_backend_cpu;
/* Where kvengine is built with CUDA. Weights and activations are bf16, sums fp32; entries bf16, fp16 or fp8. */
extern const struct kv_backend_ops kv_backend_cuda;

#endif
