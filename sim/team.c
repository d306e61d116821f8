/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/team.h"

#include <pthread.h>
#include <sched.h>

enum { MOST_MEMBERS = 256 };

struct member {
    struct kv_team *team;
    int number;
    pthread_t thread;
};

struct kv_team {
    int members;
    struct member member[MOST_MEMBERS];
    pthread_mutex_t lock;
    pthread_cond_t begins, ends;
    void (*work)(void *context, int member); /* NULL: go home */
    void *context;
    long round; /* a new number: there is work */
    int busy;
};

int kv_team_cores(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
    return n < 1 ? 1 : n > MOST_MEMBERS ? MOST_MEMBERS : n;
}

static void *member_life(void *member_)
{
    struct member *m = member_;
    struct kv_team *t = m->team;
    long seen = 0;
    for (;;) {
        pthread_mutex_lock(&t->lock);
        while (t->round == seen)
            pthread_cond_wait(&t->begins, &t->lock);
        seen = t->round;
        pthread_mutex_unlock(&t->lock);
        if (!t->work)
            return NULL;
        t->work(t->context, m->number);
        pthread_mutex_lock(&t->lock);
        if (--t->busy == 0)
            pthread_cond_signal(&t->ends);
        pthread_mutex_unlock(&t->lock);
    }
}

struct kv_team *kv_team_open(int members, struct kv_arena *a)
{
    struct kv_team *t = KV_NEW(a, struct kv_team);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->begins, NULL);
    pthread_cond_init(&t->ends, NULL);
    for (t->members = 1; t->members < members && t->members < MOST_MEMBERS; t->members++) {
        struct member *m = &t->member[t->members];
        *m = (struct member){.team = t, .number = t->members};
        if (pthread_create(&m->thread, NULL, member_life, m))
            break;
    }
    return t;
}

int kv_team_members(const struct kv_team *t)
{
    return t->members;
}

static void announce(struct kv_team *t, void (*work)(void *, int), void *context)
{
    pthread_mutex_lock(&t->lock);
    t->work = work;
    t->context = context;
    t->busy = t->members - 1;
    t->round++;
    pthread_cond_broadcast(&t->begins);
    pthread_mutex_unlock(&t->lock);
}

void kv_team_run(struct kv_team *t, void (*work)(void *context, int member), void *context)
{
    if (t->members > 1)
        announce(t, work, context);
    work(context, 0);
    pthread_mutex_lock(&t->lock);
    while (t->members > 1 && t->busy)
        pthread_cond_wait(&t->ends, &t->lock);
    pthread_mutex_unlock(&t->lock);
}

void kv_team_close(struct kv_team *t)
{
    if (t->members > 1)
        announce(t, NULL, NULL);
    for (int i = 1; i < t->members; i++)
        pthread_join(t->member[i].thread, NULL);
    pthread_cond_destroy(&t->begins);
    pthread_cond_destroy(&t->ends);
    pthread_mutex_destroy(&t->lock);
}
