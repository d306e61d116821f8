/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Threads that do the same work again and again, the caller among them. */
#ifndef KV_TEAM_H
#define KV_TEAM_H

#include "sim/core/arena.h"

struct kv_team;

/* Cores that this process may use. */
int kv_team_cores(void);

/* A team of `members` (at least 1); fewer when no more threads are to be had. */
struct kv_team *kv_team_open(int members, struct kv_arena *a);
int kv_team_members(const struct kv_team *t);
void kv_team_close(struct kv_team *t);

/* work(context, member) on each member, 0 being the caller; returns when all are done. */
void kv_team_run(struct kv_team *t, void (*work)(void *context, int member), void *context);

#endif
