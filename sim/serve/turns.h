/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Turns of sessions whose time has not come: the earliest first, of equal ones the one that was added first. */
#ifndef KV_TURNS_H
#define KV_TURNS_H

#include "sim/workload/workload.h"

struct kv_turn {
    double at;
    int64_t order;
    int64_t replica; /* that served the turn before it */
    struct kv_arrival arrival;
    uint64_t *block; /* what arrival.block points to: whoever takes the turn frees it */
};

/* Start from {0}. */
struct kv_turns {
    struct kv_turn *turn; /* heap */
    int64_t n, room, orders;
};

/* Copies what arrives. False when memory is out. */
bool kv_turns_add(struct kv_turns *t, double at, int64_t replica, const struct kv_arrival *arrival);
double kv_turns_next(const struct kv_turns *t); /* +infinity: there is none */
struct kv_turn kv_turns_take(struct kv_turns *t);
void kv_turns_close(struct kv_turns *t);

#endif
