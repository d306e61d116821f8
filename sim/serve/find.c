/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Searches over a plan with traffic. Each try serves the same draws, so that tries differ in what is searched alone:
 * doubled until it will not do, then halved in. */
#include "sim/csv.h"
#include "sim/interrupt.h"
#include "sim/serve/traffic.h"

#include <math.h>
#include <string.h>

enum { MOST_DOUBLINGS = 24, MOST_REPLICAS = 4096 };

struct search {
    const struct kv_traffic *t;
    struct kv_serve_asked asked;
    int find;
    int64_t requests; /* of the last try */
};

static void set(struct search *s, double x)
{
    if (s->find == KV_FIND_GPUS)
        s->asked.replicas = (int64_t)x;
    else if (s->find == KV_FIND_CONTEXT)
        s->asked.context = x;
    else
        s->asked.rate = x;
}

/* Whether the traffic is served within [slo] and without a backlog that grows. */
static bool serves(struct search *s, double x, bool *good, struct kv_err *e)
{
    struct kv_arena *a = kv_arena_open();
    struct kv_served *served = KV_NEW(a, struct kv_served);
    set(s, x);
    bool fine = kv_serve(served, &s->asked, a, e);
    *good = fine && kv_traffic_meets(s->t, served) && served->verdict != KV_OVERLOADED;
    s->requests = served->arrived;
    kv_arena_close(a);
    return fine;
}

/* The largest x that serves, from 1 on; *any false when none does. */
static bool find_most(struct search *s, double *x, bool *any, bool *unbounded, struct kv_err *e)
{
    double low = 0, high = 1, precision = s->t->settings->plan.precision;
    bool good;
    int tries = 0;
    for (;; high *= 2) {
        if (!serves(s, high, &good, e))
            return false;
        if (!good || kv_interrupted())
            break;
        low = high;
        if (++tries > MOST_DOUBLINGS) {
            *unbounded = true;
            break;
        }
    }
    for (tries = 0; !low && tries < MOST_DOUBLINGS && !kv_interrupted(); tries++) { /* not even once */
        if (!serves(s, high / 2, &good, e))
            return false;
        if (good)
            low = high / 2;
        else
            high /= 2;
    }
    while (low > 0 && !*unbounded && high > low * (1 + precision) && !kv_interrupted()) {
        double middle = sqrt(low * high);
        if (!serves(s, middle, &good, e))
            return false;
        if (good)
            low = middle;
        else
            high = middle;
    }
    *any = low > 0;
    *x = low;
    return true;
}

static bool find_fewest(struct search *s, double *x, bool *any, struct kv_err *e)
{
    int64_t low = 0, high = 1;
    bool good;
    for (; high <= MOST_REPLICAS; high *= 2) {
        if (!serves(s, (double)high, &good, e))
            return false;
        if (good || kv_interrupted())
            break;
        low = high;
        if (high >= s->requests) { /* each has a replica of its own */
            *any = false;
            return true;
        }
    }
    *any = high <= MOST_REPLICAS;
    while (*any && high - low > 1 && !kv_interrupted()) {
        int64_t middle = (low + high) / 2;
        if (!serves(s, (double)middle, &good, e))
            return false;
        if (good)
            high = middle;
        else
            low = middle;
    }
    *x = (double)high;
    return true;
}

bool kv_find(const struct kv_traffic *t, struct kv_serve_asked *asked, struct kv_found *found, struct kv_err *e)
{
    struct search s = {.t = t, .asked = *asked, .find = t->settings->plan.find};
    double x = 1;
    bool good = true;
    s.asked.requests = s.asked.steps = NULL;
    s.asked.quiet = true;
    found->any = true;
    if (s.find == KV_FIND_GPUS)
        good = find_fewest(&s, &x, &found->any, e);
    else if (s.find != KV_FIND_NONE)
        good = find_most(&s, &x, &found->any, &found->unbounded, e);
    if (good && found->any && s.find != KV_FIND_NONE) {
        set(&s, x);
        asked->rate = s.asked.rate;
        asked->context = s.asked.context;
        asked->replicas = s.asked.replicas;
    }
    found->rate = asked->rate;
    found->context = asked->context;
    found->replicas = asked->replicas;
    return good;
}

/* ---- quality ---- */

struct score {
    const char *policy, *task;
    double score;
};

static bool read_scores(const char *path, struct score *score, int *n, int room, struct kv_arena *a, struct kv_err *e)
{
    struct kv_csv c;
    if (!kv_csv_open(&c, path, a, e))
        return false;
    int policy = kv_csv_column(&c, "policy"), task = kv_csv_column(&c, "task"), value = kv_csv_column(&c, "score");
    bool good = policy >= 0 && task >= 0 && value >= 0;
    if (!good)
        kv_fail(e, KV_DATA, "%s:1: the header must name policy, task and score", path);
    for (enum kv_next next; good && (next = kv_csv_next(&c, e)) != KV_NEXT_END;) {
        if (*n == room)
            good = kv_fail(e, KV_DATA, "%s:%lld: more than %d scores", path, (long long)c.line, room);
        else
            good = next == KV_NEXT_ROW && kv_csv_real(&c, value, 0, 1e12, &score[*n].score, e);
        if (!good)
            break;
        score[*n].policy = kv_copy_text(a, c.cell[policy]);
        score[(*n)++].task = kv_copy_text(a, c.cell[task]);
    }
    kv_csv_close(&c);
    return good;
}

static const struct score *score_of(const struct score *score, int n, const char *policy, const char *task)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(score[i].policy, policy) && !strcmp(score[i].task, task))
            return &score[i];
    return NULL;
}

/* The least share of full's score that the policy keeps on a task. */
static bool judge(const struct kv_traffic *t, int row, const struct score *score, int n, struct kv_arena *a)
{
    struct kv_found *found = &t->found[row];
    const char *name = t->asked[row].name, *worst = NULL;
    double least = INFINITY;
    if (!strcmp(t->asked[row].policy->kind->name, "full")) {
        found->trusted = true;
        found->quality = t->asked[row].policy->keys.kv_cache_dtype ? "full, in another type" : "full";
        return true;
    }
    for (int i = 0; i < n; i++) {
        const struct score *own = strcmp(score[i].policy, "full") ? NULL : score_of(score, n, name, score[i].task);
        if (strcmp(score[i].policy, "full"))
            continue;
        if (!own) {
            found->quality = kv_format(a, "no score on %s", score[i].task);
            return false;
        }
        double share = score[i].score > 0 ? own->score / score[i].score : 1;
        if (share < least) {
            least = share;
            worst = score[i].task;
        }
    }
    if (!worst)
        return false;
    found->trusted = least >= t->settings->plan.min_score;
    found->quality = kv_format(a, "%.3g %% of full on %s", 100 * least, worst);
    return true;
}

bool kv_find_quality(struct kv_traffic *t, struct kv_arena *a, struct kv_err *e)
{
    enum { MOST_SCORES = 65536 };
    const struct kv_settings *s = t->settings;
    struct score *score = KV_NEW_N(a, struct score, s->plan.scores ? MOST_SCORES : 1);
    int n = 0;
    for (int i = 0; i < t->n_rows; i++)
        t->found[i].quality = "unknown";
    if (s->plan.find == KV_FIND_POLICY && !s->plan.scores && isnan(s->plan.min_footprint))
        return kv_fail(e, KV_USAGE,
                       "%s: [plan] find = best_policy needs to know what policies do to quality: give scores (a CSV of "
                       "policy,task,score) or min_footprint",
                       s->path);
    if (s->plan.scores) {
        if (!read_scores(s->plan.scores, score, &n, MOST_SCORES, a, e))
            return false;
        bool full = false;
        for (int i = 0; i < n; i++)
            full |= !strcmp(score[i].policy, "full");
        if (!full)
            return kv_fail(e, KV_DATA, "%s: no row of policy 'full', which the others are compared with",
                           s->plan.scores);
        for (int i = 0; i < t->n_rows; i++)
            judge(t, i, score, n, a);
    }
    return true;
}
