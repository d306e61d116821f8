/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/core/walk.h"

#include "sim/core/least.h"

#include <string.h>

/* ---- classes ---- */

static int64_t find_class(struct kv_classes *c, int64_t *group, int64_t number, int64_t window, int64_t layer,
                          int64_t head)
{
    for (int64_t i = c->n - 1; i >= 0; i--)
        if (group[i] == number && c->at[i].window == window)
            return i;
    group[c->n] = number;
    c->at[c->n] = (struct kv_class){.layer = layer, .head = head, .window = window};
    return c->n++;
}

static struct kv_member *find_member(struct kv_classes *c, int64_t layer, int64_t class_index)
{
    struct kv_member *m = c->member + c->first[layer];
    for (; m < c->member + c->first[layer + 1]; m++)
        if (m->class_index == class_index)
            return m;
    c->first[layer + 1]++;
    *m = (struct kv_member){.class_index = class_index};
    return m;
}

static bool same_members(const struct kv_classes *c, int64_t a, int64_t b)
{
    int64_t n = c->first[a + 1] - c->first[a];
    return n == c->first[b + 1] - c->first[b] &&
           !memcmp(c->member + c->first[a], c->member + c->first[b], (size_t)n * sizeof *c->member);
}

static void find_kinds(struct kv_classes *c)
{
    for (int64_t layer = 0; layer < c->layers; layer++) {
        int64_t kind = 0;
        while (kind < c->n_kinds && !same_members(c, c->kind_layer[kind], layer))
            kind++;
        if (kind == c->n_kinds)
            c->kind_layer[c->n_kinds++] = layer;
        c->kind[layer] = kind;
        c->kind_layers[kind]++;
    }
}

bool kv_classes_make(struct kv_classes *c, const struct kv_policy *p, const struct kv_shape *s, struct kv_arena *a,
                     struct kv_err *e)
{
    return kv_classes_make_share(c, p, s, 0, s->store_heads, 1, a, e);
}

bool kv_classes_make_share(struct kv_classes *c, const struct kv_policy *p, const struct kv_shape *s, int64_t first,
                           int64_t heads, int64_t times, struct kv_arena *a, struct kv_err *e)
{
    size_t lanes = (size_t)(s->layers * s->store_heads);
    *c = (struct kv_classes){.layers = s->layers};
    c->at = kv_alloc_many(a, lanes, sizeof *c->at, "lanes", e);
    c->member = kv_alloc_many(a, lanes, sizeof *c->member, "lanes", e);
    c->first = kv_alloc_many(a, (size_t)s->layers + 1, sizeof *c->first, "layers", e);
    int64_t *group = kv_alloc_many(a, lanes, sizeof *group, "lanes", e);
    int64_t *kinds = kv_alloc_many(a, 3 * (size_t)s->layers, sizeof *kinds, "layers", e);
    if (!c->at || !c->member || !c->first || !group || !kinds)
        return false;
    c->kind = kinds;
    c->kind_layer = kinds + s->layers;
    c->kind_layers = kinds + 2 * s->layers;
    for (int64_t layer = 0; layer < s->layers; layer++) {
        c->first[layer + 1] = c->first[layer];
        for (int64_t head = first; head < first + heads; head++) {
            int64_t number = p->law->group ? p->law->group(p, s, layer, head) : 0;
            int64_t i = find_class(c, group, number, s->window ? s->window[layer] : 0, layer, head);
            c->at[i].lanes += times;
            find_member(c, layer, i)->lanes += times;
        }
    }
    find_kinds(c);
    return true;
}

bool kv_classes_of_lanes(struct kv_classes *c, const struct kv_shape *s, struct kv_arena *a, struct kv_err *e)
{
    int64_t lanes = s->layers * s->store_heads;
    *c = (struct kv_classes){.n = lanes, .layers = s->layers, .n_kinds = s->layers};
    c->at = kv_alloc_many(a, (size_t)lanes, sizeof *c->at, "lanes", e);
    c->member = kv_alloc_many(a, (size_t)lanes, sizeof *c->member, "lanes", e);
    c->first = kv_alloc_many(a, 4 * (size_t)s->layers + 1, sizeof *c->first, "layers", e);
    if (!c->at || !c->member || !c->first)
        return false;
    c->kind = c->first + s->layers + 1;
    c->kind_layer = c->kind + s->layers;
    c->kind_layers = c->kind_layer + s->layers;
    for (int64_t layer = 0; layer < s->layers; layer++) {
        c->first[layer + 1] = (layer + 1) * s->store_heads;
        c->kind[layer] = c->kind_layer[layer] = layer;
        c->kind_layers[layer] = 1;
    }
    for (int64_t i = 0; i < lanes; i++) {
        int64_t layer = i / s->store_heads;
        c->at[i] = (struct kv_class){
            .layer = layer, .head = i % s->store_heads, .lanes = 1, .window = s->window ? s->window[layer] : 0};
        c->member[i] = (struct kv_member){.class_index = i, .lanes = 1};
    }
    return true;
}

/* ---- requests ---- */

int64_t kv_walk_most_tokens(const struct kv_shape *s)
{
    int64_t lanes = s->layers * s->store_heads, most = 1 << 30;
    while (most > 1 && most / 2 + 1 > (INT64_MAX / 4) / lanes / most) /* 4: patch tokens, page rounding */
        most /= 2;
    return most;
}

bool kv_request_check(const struct kv_request *r, const struct kv_shape *s, struct kv_err *e)
{
    int64_t most = kv_walk_most_tokens(s);
    if (r->prompt < 1)
        return kv_fail(e, KV_USAGE, "prompt of %lld tokens; it has at least 1", (long long)r->prompt);
    if (r->output < 0)
        return kv_fail(e, KV_USAGE, "output of %lld tokens is negative", (long long)r->output);
    if (r->prompt > most || r->output > most - r->prompt)
        return kv_fail(e, KV_USAGE,
                       "prompt of %lld and output of %lld tokens are more than the %lld that can be summed over "
                       "%lld lanes",
                       (long long)r->prompt, (long long)r->output, (long long)most,
                       (long long)(s->layers * s->store_heads));
    return true;
}

/* ---- walking ---- */

void kv_walk_start(struct kv_walk *w, const struct kv_policy *p, const struct kv_shape *s, const struct kv_classes *c,
                   const struct kv_request *r, struct kv_arena *a)
{
    *w = (struct kv_walk){.policy = p, .shape = s, .classes = c, .limit = INT64_MAX};
    w->held = KV_NEW_N(a, int64_t, c->n);
    w->now = KV_NEW_N(a, int64_t, c->n);
    w->gain = KV_NEW_N(a, int64_t, c->n);
    w->frozen = KV_NEW_N(a, int64_t, c->n);
    w->before = KV_NEW_N(a, int64_t, c->n);
    kv_walk_restart(w, r);
}

void kv_walk_restart(struct kv_walk *w, const struct kv_request *r)
{
    w->request = *r;
    w->index = w->seen = w->unit = 0;
    for (int64_t i = 0; i < w->classes->n; i++)
        w->held[i] = w->now[i] = 0;
}

/* Passes from this one on for which the class changes by the same amount, given that the passes themselves are alike.
 */
static int64_t steady_for(const struct kv_room *room, int64_t now, int64_t n_new)
{
    if (room->steady == KV_SAME_GAIN)
        return INT64_MAX;
    if (room->steady == KV_VARIES)
        return 1;
    if (room->keep == KV_NO_BOUND || now == room->keep)
        return INT64_MAX;
    return now < room->keep && room->keep - now >= n_new ? (room->keep - now) / n_new : 1;
}

bool kv_walk_next(struct kv_walk *w, int64_t most, struct kv_run *run)
{
    struct kv_pass *p = &run->pass;
    if (!kv_pass_next(&w->policy->when, &w->request, w->index, w->seen, w->unit, w->limit, p))
        return false;
    run->passes = kv_least(p->repeat, most);
    for (int64_t i = 0; i < w->classes->n; i++) {
        const struct kv_class *c = &w->classes->at[i];
        struct kv_lane lane = {.layer = c->layer, .head = c->head, .held = w->held[i]};
        struct kv_room room = kv_policy_room(w->policy, w->shape, &lane, c->window, p);
        int64_t loose = w->now[i] + p->n_new - room.frozen;
        w->before[i] = w->now[i];
        w->frozen[i] = room.frozen;
        w->gain[i] = room.frozen + kv_least(loose, room.keep) - w->now[i];
        run->passes = kv_least(run->passes, steady_for(&room, w->now[i], p->n_new));
    }
    for (int64_t i = 0; i < w->classes->n; i++) {
        w->now[i] += w->gain[i] * run->passes;
        if (p->evict)
            w->held[i] = w->now[i];
    }
    w->index += run->passes;
    w->seen += p->n_new * run->passes;
    w->unit = p->evict ? 0 : w->unit + p->n_new * run->passes;
    run->before = w->before;
    run->gain = w->gain;
    run->frozen = w->frozen;
    run->places = NULL;
    return true;
}

void kv_walk_shorten(struct kv_walk *w, struct kv_run *run, int64_t passes)
{
    int64_t back = run->passes - passes;
    for (int64_t i = 0; i < w->classes->n; i++) {
        w->now[i] -= w->gain[i] * back;
        if (run->pass.evict)
            w->held[i] = w->now[i];
    }
    w->index -= back;
    w->seen -= run->pass.n_new * back;
    w->unit = run->pass.evict ? 0 : w->unit - run->pass.n_new * back;
    run->passes = passes;
}
