/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/source.h"

#include "sim/core/arena.h"

#include <string.h>

/* Whether query heads that were reduced when recorded are what the policy would have made of them: sums and means are
 * (no order depends on the scale), and pooled sums too, but for rounding; maxima are not. */
static bool reduced_alike(const struct kv_policy *p, const struct kv_trace_channel *c)
{
    const struct kv_recipe_keys *r = p->score_params;
    bool max = c->reduce == KV_REDUCE_MAX;
    int wanted = p->score->params_size >= sizeof *r ? r->group_reduce : KV_GROUP_MEAN;
    if (max != (wanted == KV_GROUP_MAX))
        return false;
    return !p->score->recipe || r->pooling == KV_POOL_NONE || r->reduce_order == KV_REDUCE_FIRST ||
           (r->pooling == KV_POOL_AVG && !max);
}

static bool fits(const struct kv_trace_channel *c, enum kv_channel what, const struct kv_policy *p,
                 const struct kv_shape *s)
{
    if (c->what != what || (kv_channels[what].window && c->window != p->keys.window_size))
        return false;
    if (!kv_channels[what].attention)
        return s->store_heads == s->kv_heads || !c->query_heads;
    return c->query_heads || s->q_heads == s->kv_heads || (s->store_heads == s->kv_heads && reduced_alike(p, c));
}

/* A row for each query head is exact whatever the policy does with them, so it is preferred. */
static int find(const struct kv_trace_about *t, enum kv_channel what, const struct kv_policy *p,
                const struct kv_shape *s)
{
    int found = -1;
    for (int i = 0; i < t->n_channels; i++)
        if (fits(&t->channel[i], what, p, s) && (found < 0 || t->channel[i].query_heads))
            found = i;
    return found;
}

static int find_any(const struct kv_trace_about *t, enum kv_channel what)
{
    for (int i = 0; i < t->n_channels; i++)
        if (t->channel[i].what == what)
            return i;
    return -1;
}

static const char *list_channels(const struct kv_trace_about *t, struct kv_arena *a)
{
    const char *text = "";
    for (int i = 0; i < t->n_channels; i++) {
        const struct kv_trace_channel *c = &t->channel[i];
        text = kv_format(
            a, "%s%s%s%s", text, *text ? ", " : "", c->name,
            c->window ? kv_format(a, " (window %lld, %s heads)", (long long)c->window, c->query_heads ? "query" : "KV")
                      : "");
    }
    return *text ? text : "no channel";
}

static bool from_logits(struct kv_source *s, enum kv_channel what, const struct kv_policy *p,
                        const struct kv_trace_about *t)
{
    bool window = what == KV_WINDOW_LOCAL || what == KV_WINDOW_SEEN;
    int i = find_any(t, KV_WINDOW_LOGITS);
    if (i < 0 || (!window && what != KV_LAST_ROW) || (window && t->channel[i].window < p->keys.window_size))
        return false;
    if (!t->channel[i].query_heads && t->q_heads != t->kv_heads)
        return false;
    *s = (struct kv_source){.way = KV_WAY_LOGITS, .channel = i, .values = -1, .query_heads = true};
    return true;
}

static bool from_keys(struct kv_source *s, enum kv_channel what, const struct kv_trace_about *t)
{
    int keys = find_any(t, KV_KEYS), values = find_any(t, KV_VALUES);
    bool needs_values = what == KV_VALUE_NORM || what == KV_LAG;
    bool made = what == KV_KEY_NORM || what == KV_VALUE_NORM || what == KV_KEY_COSINE || what == KV_LAG;
    if (!made || (keys < 0 && what != KV_VALUE_NORM) || (values < 0 && needs_values))
        return false;
    *s = (struct kv_source){.way = KV_WAY_KEYS, .channel = keys, .values = values};
    return true;
}

bool kv_source_find(struct kv_source *s, enum kv_channel what, const struct kv_policy *p, const struct kv_shape *shape,
                    const struct kv_trace_about *t, struct kv_arena *a, struct kv_err *e)
{
    int i = find(t, what, p, shape);
    /* exact among survivors: better than recorded rows; logits of a patched pass leave out the patch's own */
    if (((i < 0 || !p->when.patch) && from_logits(s, what, p, t)) || from_keys(s, what, t))
        return true;
    if (i >= 0) {
        *s = (struct kv_source){
            .way = KV_WAY_RECORDED, .channel = i, .values = -1, .query_heads = t->channel[i].query_heads};
        return true;
    }
    bool query = shape->store_heads != shape->kv_heads;
    for (int j = 0; j < t->n_channels; j++) /* there, but not in a form that serves */
        query |= t->channel[j].what == what && !t->channel[j].query_heads &&
                 (!kv_channels[what].window || t->channel[j].window == p->keys.window_size);
    const char *window =
        kv_channels[what].window ? kv_format(a, " with window = %lld", (long long)p->keys.window_size) : "";
    return kv_fail(e, KV_USAGE, "%s the trace lacks channel '%s'%s%s (%s): it has %s; record it%s", p->where,
                   kv_channels[what].name, window, query && kv_channels[what].attention ? " for each query head" : "",
                   kv_channels[what].help, list_channels(t, a),
                   kv_channels[what].window && find_any(t, what) >= 0 ? ", or set window_size to what was recorded"
                                                                      : "");
}

int kv_source_mass(const struct kv_trace_about *t)
{
    static const enum kv_channel order[] = {KV_COLUMN_SUM, KV_WINDOW_SEEN, KV_LAST_ROW};
    for (size_t i = 0; i < sizeof order / sizeof *order; i++)
        if (find_any(t, order[i]) >= 0)
            return find_any(t, order[i]);
    return -1;
}

int kv_source_later(const struct kv_trace_about *t)
{
    return find_any(t, KV_LATER_SUM);
}
