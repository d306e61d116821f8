/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Drawn channels for the independent selector (engine/selector.h): each number is a function of where it belongs.
 *
 * Exact draws hold small whole numbers, many of them equal, so that sums are exact in any order and sets must be equal
 * to the last entry. Others are spread over orders of magnitude: there a set is right when nothing that stayed scores
 * lower than what left, but for the rounding of sums, and the selector goes on from it. */
#ifndef KV_TESTS_PICK_H
#define KV_TESTS_PICK_H

#include "sim/core/cache.h"
#include "tests/laws/brute.h"

#include <stdlib.h>

enum { SETS_LANES = 36 };
static const double ROUNDING = 1e-5; /* of sums in f32, relative */

enum spread { WHOLE, HALVES, MOSTLY_ZERO, LOGNORMAL };

struct pick {
    uint64_t key;
    enum spread spread;
    bool exact;
    const struct brute *brute;
    struct kv_cache *subject; /* after the pass that is modelled */
};

/* ---- channels ---- */

static bool is_static(int channel)
{
    return channel == KV_KEY_NORM || channel == KV_VALUE_NORM || channel == KV_EXTERNAL;
}

static bool is_attention(int channel)
{
    return channel <= KV_LATER_SUM;
}

/* The number of a position; row: of all rows of the layer. */
static float number_of(const struct pick *p, int channel, int64_t layer, int64_t row, int64_t pass, int64_t position)
{
    const uint64_t odd = UINT64_C(0x9e3779b97f4a7c15);
    uint64_t place = (((uint64_t)channel * odd + (uint64_t)layer) * odd + (uint64_t)row) * odd +
                     (uint64_t)(is_static(channel) ? 0 : pass + 1);
    struct dice d = dice_for(p->key + place * odd, (uint64_t)position);
    bool falls = channel == KV_KEY_COSINE || channel == KV_EXTERNAL; /* below zero as well */
    int64_t offset = falls ? 1 : 0;
    switch (p->spread) {
    case WHOLE:
        return (float)(roll(&d, 0, 3) - offset);
    case HALVES:
        return (float)((int64_t)1 << roll(&d, 0, 4)) / 4 - (float)offset;
    case MOSTLY_ZERO:
        return one_in(&d, 6) ? (float)(roll(&d, 0, 2) - offset) : 0;
    case LOGNORMAL:
        break;
    }
    double normal = -6;
    for (int i = 0; i < 12; i++)
        normal += (double)(roll_bits(&d) >> 11) * 0x1p-53;
    double value = exp(1.5 * normal);
    return (float)(falls && one_in(&d, 2) ? -value : value);
}

/* For kv_selector.number. */
static double entry_number(void *pick, int channel, int64_t layer, int64_t head, int64_t row, int64_t i)
{
    const struct pick *p = pick;
    const struct brute *b = p->brute;
    int64_t rows = is_attention(channel) ? b->model.rows : 1;
    return (double)number_of(p, channel, layer, head * rows + row, b->model.turn.index,
                             b->model.lane[layer * b->heads + head].at[i]);
}

/* For kv_selector.stays. */
static bool subject_has(void *pick, int64_t layer, int64_t head, int64_t position)
{
    const struct pick *p = pick;
    return kv_set_has(kv_cache_set(p->subject, layer, head), position);
}

static void pick_start(struct pick *p, struct brute *b, const struct draw *d, const struct kv_rules *read,
                       struct kv_arena *a)
{
    struct dice r = dice_for(97, d->number);
    memset(p, 0, sizeof *p);
    p->brute = b;
    p->key = roll_bits(&r);
    p->spread = d->number % 2 ? LOGNORMAL : (enum spread)(d->number / 2 % 3);
    p->exact = p->spread != LOGNORMAL;
    brute_start(b, d, read, a);
    b->in_place = true;
    b->scored = true;
    b->model.context = p;
    b->model.number = entry_number;
    b->model.stays = subject_has;
    b->model.rows = d->kv_heads * d->group / b->heads;
    b->model.rounding = p->exact ? 0 : ROUNDING;
}

#endif
