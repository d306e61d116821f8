/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Turns of sessions on their way: what will arrive at a time that is known, the earliest first. */
#ifndef KV_TURNS_H
#define KV_TURNS_H

#include "sim/workload/workload.h"

struct kv_turn {
    double at;
    int64_t order; /* of being added, among those at the same time */
    struct kv_arrival arrival;
};

struct kv_turns {
    struct kv_turn *turn; /* heap */
    int64_t n, room, orders;
};

/* A copy of what arrives, its names of blocks too; false when memory is out. */
bool kv_turns_add(struct kv_turns *t, double at, const struct kv_arrival *arrival);
/* The earliest of n > 0; its blocks are the caller's to drop. */
struct kv_turn kv_turns_take(struct kv_turns *t);
void kv_turns_close(struct kv_turns *t);

/* Makes names of blocks an arrival's own: the workload's are views, gone when it names the next ones. False when memory
 * is out. */
bool kv_arrival_own(struct kv_arrival *arrival);
void kv_arrival_drop(struct kv_arrival *arrival);

#endif
