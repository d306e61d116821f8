/* SPDX-License-Identifier: GPL-3.0-or-later */
/* One request through one policy, by lengths. Lanes that always hold as much as each other are one class; passes that
 * go on alike are one run, so that a walk jumps from change to change and its cost is that of the changes. */
#ifndef KV_WALK_H
#define KV_WALK_H

#include "sim/core/policy.h"

struct kv_class {
    int64_t layer, head; /* one of its lanes, to ask the law about */
    int64_t lanes;
    int64_t window; /* of its layers; 0: full attention */
};

/* Lanes of one class in one layer. */
struct kv_member {
    int64_t class_index, lanes;
};

struct kv_classes {
    int64_t n, layers;
    struct kv_class *at;
    int64_t *first; /* (layers + 1,) where each layer's members begin */
    struct kv_member *member;
    /* Layers made of the same members are of one kind: what holds for one holds for all of them. */
    int64_t n_kinds;
    int64_t *kind;        /* (layers,) */
    int64_t *kind_layer;  /* (n_kinds,) one layer of the kind */
    int64_t *kind_layers; /* (n_kinds,) how many there are */
};

/* Finds the classes. KV_ENV when memory is out. */
bool kv_classes_make(struct kv_classes *c, const struct kv_policy *p, const struct kv_shape *s, struct kv_arena *a,
                     struct kv_err *e);
/* Of `heads` store heads from `first` on alone, each of whose lanes counts `times`: a device's share of them, as if all
 * devices held as much. */
bool kv_classes_make_share(struct kv_classes *c, const struct kv_policy *p, const struct kv_shape *s, int64_t first,
                           int64_t heads, int64_t times, struct kv_arena *a, struct kv_err *e);
/* One class for each lane, in order of layer and head: where scores may make any two differ. */
bool kv_classes_of_lanes(struct kv_classes *c, const struct kv_shape *s, struct kv_arena *a, struct kv_err *e);

struct kv_walk {
    const struct kv_policy *policy;
    const struct kv_shape *shape;
    const struct kv_classes *classes;
    struct kv_request request;
    int64_t limit; /* of new and patch tokens in a pass; kv_walk_start sets none */
    int64_t index, seen, unit;
    int64_t *held;                   /* (classes,) after the last eviction */
    int64_t *now;                    /* (classes,) entries at this point */
    int64_t *gain, *frozen, *before; /* of the run handed out last */
};

/* Pages of which an entry is in, before a pass, during it (new and patch entries there) and after it. A class is one
 * lane then, and the run one pass. */
enum kv_moment { KV_BEFORE, KV_DURING, KV_AFTER, KV_MOMENTS };
struct kv_places {
    int64_t *head[KV_MOMENTS];  /* (lanes,) */
    int64_t *layer[KV_MOMENTS]; /* (layers,) of the union of a layer's lanes */
    int64_t shared[KV_MOMENTS]; /* of the union of all */
};

/* `passes` passes that go on alike, the first of which is `pass`. In the j-th of them class c begins with before[c] +
 * j x gain[c] entries, holds n_new + n_patch more while it attends, and ends with gain[c] more than it began. */
struct kv_run {
    struct kv_pass pass;
    int64_t passes;
    const int64_t *before, *gain;   /* (classes,) views: until the next call */
    const int64_t *frozen;          /* (classes,) entries of the first pass that an eviction need not move */
    const struct kv_places *places; /* pages without compaction, where sets told; NULL: lengths do, or nothing does */
};

/* The most tokens of a request: sums over lanes and steps then fit 63 bits. */
int64_t kv_walk_most_tokens(const struct kv_shape *s);

/* KV_USAGE when the request is outside 1 <= prompt, 0 <= output, prompt + output <= kv_walk_most_tokens. */
bool kv_request_check(const struct kv_request *r, const struct kv_shape *s, struct kv_err *e);

void kv_walk_start(struct kv_walk *w, const struct kv_policy *p, const struct kv_shape *s, const struct kv_classes *c,
                   const struct kv_request *r, struct kv_arena *a);
/* Again from the start, with another request: a walk's memory is used again. */
void kv_walk_restart(struct kv_walk *w, const struct kv_request *r);

/* The next run, of at most `most` passes (1: pass by pass). False at the end of the request. */
bool kv_walk_next(struct kv_walk *w, int64_t most, struct kv_run *run);

/* Takes back all but the first `passes` >= 1 of the run handed out last: the walk goes on behind them. */
void kv_walk_shorten(struct kv_walk *w, struct kv_run *run, int64_t passes);

#endif
