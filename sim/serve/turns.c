/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/serve/turns.h"

#include <stdlib.h>
#include <string.h>

bool kv_arrival_own(struct kv_arrival *arrival)
{
    uint64_t *block = NULL;
    if (!arrival->n_blocks)
        return true;
    if (!(block = malloc(sizeof *block * (size_t)arrival->n_blocks))) {
        arrival->n_blocks = 0; /* nothing of ours */
        return false;
    }
    memcpy(block, arrival->block, sizeof *block * (size_t)arrival->n_blocks);
    arrival->block = block;
    return true;
}

void kv_arrival_drop(struct kv_arrival *arrival)
{
    if (arrival->n_blocks)
        free((void *)(uintptr_t)arrival->block);
    arrival->n_blocks = 0;
}

static bool sooner(const struct kv_turn *a, const struct kv_turn *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

bool kv_turns_add(struct kv_turns *t, double at, const struct kv_arrival *arrival)
{
    if (t->n == t->room) {
        int64_t room = t->room ? 2 * t->room : 64;
        struct kv_turn *grown = realloc(t->turn, sizeof *grown * (size_t)room);
        if (!grown)
            return false;
        t->turn = grown;
        t->room = room;
    }
    struct kv_turn turn = {.at = at, .order = t->orders++, .arrival = *arrival};
    if (!kv_arrival_own(&turn.arrival))
        return false;
    int64_t i = t->n++;
    for (; i && sooner(&turn, &t->turn[(i - 1) / 2]); i = (i - 1) / 2)
        t->turn[i] = t->turn[(i - 1) / 2];
    t->turn[i] = turn;
    return true;
}

struct kv_turn kv_turns_take(struct kv_turns *t)
{
    struct kv_turn top = t->turn[0], last = t->turn[--t->n];
    int64_t i = 0;
    for (int64_t child; (child = 2 * i + 1) < t->n; i = child) {
        if (child + 1 < t->n && sooner(&t->turn[child + 1], &t->turn[child]))
            child++;
        if (!sooner(&t->turn[child], &last))
            break;
        t->turn[i] = t->turn[child];
    }
    t->turn[i] = last;
    return top;
}

void kv_turns_close(struct kv_turns *t)
{
    for (int64_t i = 0; i < t->n; i++)
        kv_arrival_drop(&t->turn[i].arrival);
    free(t->turn);
    *t = (struct kv_turns){0};
}
