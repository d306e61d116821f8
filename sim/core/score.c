/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/core/score.h"

#include "sim/core/least.h"
#include "sim/core/policy.h"
#include "sim/core/select.h"

#include <string.h>

static const char *const poolings[] = {"none", "avg", "max", NULL};
static const char *const groups[] = {"mean", "sum", "max", NULL};
static const char *const orders[] = {"pool-first", "reduce-first", NULL};

#define AT(member) offsetof(struct kv_recipe_keys, member)
#define RECIPE_FIELDS(pooling_default)                                                                                 \
    {                                                                                                                  \
        {.key = "pooling",                                                                                             \
         .type = KV_T_CHOICE,                                                                                          \
         .offset = AT(pooling),                                                                                        \
         .def = pooling_default,                                                                                       \
         .choices = poolings,                                                                                          \
         .help = "what a score becomes of its neighbours'"},                                                           \
            {.key = "kernel_size",                                                                                     \
             .type = KV_T_COUNT,                                                                                       \
             .offset = AT(kernel_size),                                                                                \
             .def = "5",                                                                                               \
             .min = 1,                                                                                                 \
             .max = 4095,                                                                                              \
             .also = "kernel",                                                                                         \
             .help = "neighbours pooled, itself in the middle; odd"},                                                  \
            {.key = "group_reduce",                                                                                    \
             .type = KV_T_CHOICE,                                                                                      \
             .offset = AT(group_reduce),                                                                               \
             .def = "mean",                                                                                            \
             .choices = groups,                                                                                        \
             .also = "gqa_func, group_agg",                                                                            \
             .help = "how the query heads of a KV head become one"},                                                   \
        {                                                                                                              \
            .key = "reduce_order", .type = KV_T_CHOICE, .offset = AT(reduce_order), .def = "pool-first",               \
            .choices = orders, .help = "pool each query head's scores, then reduce them; or the other way round"       \
        }                                                                                                              \
    }
const struct kv_field kv_recipe_fields[] = RECIPE_FIELDS("none");
const struct kv_field kv_pooled_fields[] = RECIPE_FIELDS("avg");
#undef AT

/* ---- recipes ---- */

static void pool(const struct kv_view *v, const struct kv_recipe_keys *r, const float *in, int64_t n, float *out)
{
    if (r->pooling == KV_POOL_NONE)
        memcpy(out, in, sizeof *out * (size_t)n);
    else if (r->pooling == KV_POOL_AVG)
        v->select->pool_sum(in, n, (int)r->kernel_size, out);
    else
        v->select->pool_max(in, n, (int)r->kernel_size, out);
}

static void reduce(const struct kv_view *v, const struct kv_recipe_keys *r, const float *in, int64_t n, float *out)
{
    if (r->group_reduce == KV_GROUP_MAX)
        v->select->max(out, in, n);
    else
        v->select->add(out, in, n);
}

void kv_recipe_run(const struct kv_view *v, float *keep)
{
    const struct kv_policy *p = v->policy;
    const struct kv_recipe_keys *r = p->score_params;
    unsigned wants = kv_policy_wants(p, v->pass, true);
    int channel = __builtin_ctz(wants);
    const float *in = v->channel[channel];
    int64_t n = v->n - v->tail, stride = v->stride[channel];
    int rows = kv_channels[channel].attention ? v->rows : 1;
    if (rows == 1) {
        pool(v, r, in, n, keep);
    } else if (r->reduce_order == KV_POOL_FIRST) {
        pool(v, r, in, n, keep);
        for (int row = 1; row < rows; row++) {
            pool(v, r, in + row * stride, n, v->work);
            reduce(v, r, v->work, n, keep);
        }
    } else {
        memcpy(v->work, in, sizeof *keep * (size_t)n);
        for (int row = 1; row < rows; row++)
            reduce(v, r, in + row * stride, n, v->work);
        pool(v, r, v->work, n, keep);
    }
    if (p->score->sign < 0)
        for (int64_t i = 0; i < n; i++)
            keep[i] = -keep[i];
    for (int64_t i = n; i < v->n; i++) /* the newest, which stay */
        keep[i] = 0;
}

bool kv_score_simple(const struct kv_policy *p, int64_t rows, struct kv_simple_score *out)
{
    const struct kv_score *s = p->score;
    const struct kv_recipe_keys *r = p->score_params;
    const unsigned norms = KV_BIT(KV_KEY_NORM) | KV_BIT(KV_VALUE_NORM);
    bool plain = !p->law->share && !s->kept && !s->positions && !s->window && (!s->layer || s->adds_heads);
    if (!plain || (!s->recipe && !s->gathers))
        return false;
    *out = (struct kv_simple_score){.channel = KV_LAST_ROW, .sign = s->sign < 0 ? -1 : 1, .together = s->adds_heads};
    if (rows > 1 && r->group_reduce == KV_GROUP_MAX)
        return false;
    if (s->gathers) { /* of one token the column sums are its row */
        out->made = KV_MADE_GATHERED;
        return s->observes == KV_BIT(KV_COLUMN_SUM) && !s->needs;
    }
    if (r->pooling != KV_POOL_NONE || s->observes || s->columns)
        return false;
    if (s->needs != KV_BIT(KV_LAST_ROW) && s->needs != KV_BIT(KV_KEY_NORM) && s->needs != KV_BIT(KV_VALUE_NORM))
        return false;
    out->made = s->needs & norms ? KV_MADE_BROUGHT : KV_MADE_AFRESH;
    out->channel = (enum kv_channel)__builtin_ctz(s->needs);
    return true;
}

/* ---- what is asked for ---- */

unsigned kv_policy_wants(const struct kv_policy *p, const struct kv_pass *pass, bool evicts)
{
    const unsigned windows = KV_BIT(KV_WINDOW_LOCAL) | KV_BIT(KV_WINDOW_SEEN);
    unsigned needs = p->score->needs;
    if ((needs & windows) == windows) {
        bool local = pass->decode_step < 0 && p->when.at & KV_AT_CHUNK && p->law->freezes;
        needs &= ~(local ? KV_BIT(KV_WINDOW_SEEN) : KV_BIT(KV_WINDOW_LOCAL));
    }
    return (evicts ? needs : needs & KV_STATIC_CHANNELS) | p->score->observes;
}

const char *kv_score_needs(const struct kv_score *s, struct kv_arena *a)
{
    const char *text = "";
    unsigned all = s->needs | s->observes;
    for (int i = 0; i < KV_SCORE_CHANNELS; i++)
        if (all & KV_BIT(i))
            text = kv_format(a, "%s%s%s (%s)", text, *text ? "; " : "", kv_channels[i].name, kv_channels[i].help);
    return *text ? text : "nothing: lengths alone";
}

/* ---- how many, under the guard ---- */

/* Sinks among the candidates, the newest that the guard or the score's own window holds: they never leave, so all of
 * them are there, and lengths tell how many they are. */
static void guard(const struct kv_policy *p, const struct kv_pass *pass, struct kv_room *room)
{
    int64_t sinks = p->keys.sink_size, unit_start = pass->seen + pass->n_new - pass->n_unit;
    room->first = room->frozen ? sinks - kv_least(sinks, unit_start) : sinks;
    if (room->first && room->steady == KV_SAME_GAIN) /* the next chunk holds fewer of them */
        room->steady = KV_VARIES;
    room->newest = kv_most(room->newest, p->keys.recent_size);
    if (p->score->window)
        room->newest = kv_most(room->newest, p->keys.window_size - pass->n_patch);
    room->keep = kv_most(room->keep, room->first + room->newest);
}

struct kv_room kv_policy_room(const struct kv_policy *p, const struct kv_shape *s, const struct kv_lane *lane,
                              int64_t window, const struct kv_pass *pass)
{
    bool bound = pass->evict && p->law->room;
    struct kv_room room =
        bound ? p->law->room(p, s, lane, pass) : (struct kv_room){.keep = KV_NO_BOUND, .steady = KV_SAME_TOTAL};
    if (room.keep != KV_NO_BOUND)
        guard(p, pass, &room);
    /* A sliding-window layer holds no more than its window, whatever else; its sinks leave with the window, so a
     * policy of sinks and recents leaves recents alone (docs/DESIGN.md, "Sliding windows"). */
    if (window && pass->evict && room.keep != KV_NO_BOUND) {
        room.keep -= kv_least(room.keep, p->keys.sink_size);
        room.first = 0;
    }
    int64_t floor = p->floor - room.frozen;
    if (room.keep < floor) {
        room.keep = floor;
        if (room.steady == KV_SAME_GAIN) /* frozen grows, so the next pass is raised by less */
            room.steady = KV_VARIES;
    }
    if (window)
        room.keep = kv_least(room.keep, window);
    /* field by field: a copy in wider pieces would have to wait for them */
    return (struct kv_room){
        .frozen = room.frozen, .keep = room.keep, .first = room.first, .newest = room.newest, .steady = room.steady};
}
