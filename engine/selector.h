/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The independent selector: which entries must stay, by the published rules applied to lists of positions. Scores are
 * doubles and are sorted; higher first, then lower heads, then lower positions. It shares no code with sim/policies nor
 * with what decides in sim/core (policy, cache, selection), but the documented hash of random numbers: so where it and
 * a cache agree, two programs do.
 *
 * It is told the numbers of a policy (struct kv_rules), the passes one after the other, and gives each layer's lanes;
 * the channels it asks for, a number at a time. */
#ifndef KV_SELECTOR_H
#define KV_SELECTOR_H

#include "engine/rules.h"
#include "sim/core/arena.h"

struct kv_selector_lane {
    int64_t n, last, frozen; /* entries; those the last eviction left; those of them that can no longer leave */
    int32_t *at;             /* positions, ascending */
    bool *keep;              /* of the layer decided last */
    double *gathered;        /* H2O: attention so far, by position */
    int32_t *stored;         /* L2 as released: positions in the order they lie in storage */
    int64_t n_stored;
    int64_t ties; /* entries that the order of positions chose */
};

struct kv_selector_item {
    double score;
    int64_t head, i;
};

struct kv_selector {
    struct kv_rules rules;
    struct kv_turn turn;
    int64_t lanes, capacity;
    struct kv_selector_lane *lane; /* (layers, heads) */

    /* The caller's, set after opening. */
    void *context;
    int64_t rows; /* of attention channels: query heads of a lane, or 1 where they come as their sum */
    /* A channel (enum kv_channel) of entry i of a lane in the pass that is on. */
    double (*number)(void *context, int channel, int64_t layer, int64_t head, int64_t row, int64_t i);
    /* Whether the code under test let a position of the pass that is on stay. */
    bool (*stays)(void *context, int64_t layer, int64_t head, int64_t position);
    /* Of sums made in f32, relative. 0: numbers are so small and whole that sums are exact in any order, and sets must
     * be equal to the last entry. Else a set is right when nothing that stayed scores lower than what left, but for
     * this; the selector then goes on from it. */
    double rounding;

    bool known;        /* the rule of the score is: else any set of the right size will do */
    char problem[240]; /* the first difference, "" while there is none; nothing is decided any more after it */

    /* Of the layer that is decided. */
    struct kv_rules_room *room;    /* (heads,) */
    int64_t *n, *left, *count;     /* (heads,) candidates, those that stay, a share of them */
    double *score, *row, *sum;     /* (heads, capacity), (capacity,), (capacity,) */
    int32_t *old;                  /* (capacity,) */
    struct kv_selector_item *item; /* (heads x capacity,) */
};

/* `rules` are copied; what they point to is the caller's. KV_ENV. */
bool kv_selector_open(struct kv_selector *s, const struct kv_rules *rules, struct kv_arena *a, struct kv_err *e);

/* A pass begins: its tokens and its patch get into every lane. */
void kv_selector_begin(struct kv_selector *s, const struct kv_turn *turn);
/* A layer decides. Its channels, and what it let stay, are asked for. */
void kv_selector_layer(struct kv_selector *s, int64_t layer);

/* The parts of it, for a caller that has an entry's fate decided otherwise: rooms; keep[] of the lanes by position
 * alone; those that go leave the lists, with what a sliding window drops and the patch. */
void kv_selector_rooms(struct kv_selector *s, int64_t layer);
void kv_selector_by_position(struct kv_selector *s, int64_t layer, int64_t head);
void kv_selector_apply(struct kv_selector *s, int64_t layer);

#endif
