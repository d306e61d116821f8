/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Keep the entries whose keys are shortest: long keys tend to be ignored. */
#include "sim/policies/laws.h"

#include <float.h>
#include <stdlib.h>

static const struct kv_score score_l2 = {
    .name = "l2",
    .help = "minus the norm of the key",
    .field = kv_recipe_fields,
    .n_fields = KV_RECIPE_FIELDS,
    .params_size = sizeof(struct kv_recipe_keys),
    .needs = KV_BIT(KV_KEY_NORM),
    .recipe = true,
    .sign = -1,
};

const struct kv_kind kv_kind_l2 = {
    .name = "l2",
    .title = "L2: shortest keys, after every pass",
    .source = "Devoto et al. 2024, arXiv 2406.11430; as cached by princeton-pli/PruLong; kvpress KnormPress and "
              "KVCache-Factory: when = postfill, recent_size = 0, skip_layers = 0",
    .differs =
        "the newest 64 are the true newest ones; upstream's storage order loses them while decoding (l2-upstream); "
        "counts agree",
    .preset = "when=chunk+decode, tokens=4160, recent_size=64, skip_layers=2",
    .also = "knorm, l2norm, l2_norm",
    .law = &kv_law_fixed,
    .score = &score_l2,
};

/* ---- as released, storage order and all ---- */

/* Upstream stores [the last local_size slots | the others, shortest key first] after each pass, and takes the last
 * slots for the newest at the next one. Column 0 is an entry's place in storage, from 1; 0: not stored yet. */
struct upstream_params {
    int64_t local_size;
};

static const struct kv_field upstream_fields[] = {
    {.key = "local_size",
     .type = KV_T_COUNT,
     .offset = offsetof(struct upstream_params, local_size),
     .def = "64",
     .min = 0,
     .max = 1 << 30,
     .help = "last slots of the storage, which stay"},
};

static void append_new(const struct kv_view *v)
{
    int64_t stored = 0;
    for (int64_t i = 0; i < v->n; i++)
        stored += v->column[0][i] > 0;
    for (int64_t i = 0; i < v->n; i++)
        if (!(v->column[0][i] > 0))
            v->column[0][i] = (float)++stored;
}

static int64_t local_of(const struct kv_view *v)
{
    return ((const struct upstream_params *)v->policy->score_params)->local_size;
}

/* Below INFINITY: a guard comes first where the budget is less than both. */
static void upstream_lane(const struct kv_view *v, float *keep)
{
    int64_t others = v->n - local_of(v);
    append_new(v);
    for (int64_t i = 0; i < v->n; i++)
        keep[i] = v->column[0][i] > (float)others ? FLT_MAX : -v->channel[KV_KEY_NORM][i];
}

struct slot {
    float key; /* place in storage, or norm */
    int32_t rank;
};

static int by_key(const void *a, const void *b)
{
    const struct slot *x = a, *y = b;
    return x->key != y->key ? (x->key > y->key) - (x->key < y->key) : (x->rank > y->rank) - (x->rank < y->rank);
}

/* Appends the chosen candidates to the new storage in order of key. */
static int64_t store(const struct kv_view *v, const uint64_t *stay, bool local, int64_t place)
{
    struct slot *slot = (struct slot *)v->work; /* two floats' room a candidate */
    int64_t others = v->n - local_of(v);
    size_t n = 0;
    for (int64_t i = 0; i < v->n; i++)
        if (stay[i / 64] >> (i % 64) & 1 && v->column[0][i] > 0 && (v->column[0][i] > (float)others) == local)
            slot[n++] = (struct slot){local ? v->column[0][i] : v->channel[KV_KEY_NORM][i], (int32_t)i};
    qsort(slot, n, sizeof *slot, by_key);
    for (size_t i = 0; i < n; i++)
        slot[i].key = (float)++place;
    /* places of the others are told from the old ones, so those are written last */
    for (size_t i = 0; i < n; i++)
        v->column[0][slot[i].rank] = local ? -slot[i].key : slot[i].key;
    return place;
}

static void upstream_kept(const struct kv_view *v, const uint64_t *stay)
{
    append_new(v);
    int64_t locals = store(v, stay, true, 0);
    /* what was local is negative now, so the rest is what is still in its old place */
    store(v, stay, false, locals);
    for (int64_t i = 0; i < v->n; i++)
        if (v->column[0][i] < 0)
            v->column[0][i] = -v->column[0][i];
}

static const struct kv_score score_upstream = {
    .name = "l2-upstream",
    .help = "minus the norm of the key; the last slots of the storage, which is sorted by norm, stay",
    .field = upstream_fields,
    .n_fields = sizeof upstream_fields / sizeof *upstream_fields,
    .params_size = sizeof(struct upstream_params),
    .needs = KV_BIT(KV_KEY_NORM),
    .columns = 1,
    .lane = upstream_lane,
    .kept = upstream_kept,
};

const struct kv_kind kv_kind_l2_upstream = {
    .name = "l2-upstream",
    .title = "L2 as released: the local window is lost while decoding",
    .source = "Devoto et al. 2024, arXiv 2406.11430; princeton-pli/PruLong, its cache slot for slot",
    .differs = "",
    .preset = "when=chunk+decode, tokens=4160, local_size=64, skip_layers=2",
    .also = "l2_upstream",
    .law = &kv_law_fixed,
    .score = &score_upstream,
};
