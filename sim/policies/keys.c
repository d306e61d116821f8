/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Scores made of keys and values alone. */
#include "sim/policies/laws.h"

#include "sim/core/random.h"

#define RECIPE                                                                                                         \
    .field = kv_recipe_fields, .n_fields = KV_RECIPE_FIELDS, .params_size = sizeof(struct kv_recipe_keys),             \
    .recipe = true

static const struct kv_score score_keydiff = {
    .name = "keydiff",
    .help = "how far the key's direction is from the mean of all",
    .needs = KV_BIT(KV_KEY_COSINE),
    .sign = -1,
    RECIPE,
};

const struct kv_kind kv_kind_keydiff = {
    .name = "keydiff",
    .title = "KeyDiff: keys unlike the others",
    .source = "Park et al. 2025, arXiv 2504.15364; NVIDIA/kvpress, KeyDiffPress",
    .differs = "from a trace of a full cache the mean is that of all keys, not of those still held",
    .preset = "when=postfill",
    .also = "key_diff",
    .law = &kv_law_fixed,
    .score = &score_keydiff,
};

static const struct kv_score score_lag = {
    .name = "lagkv",
    .help = "spread of keys and values, scaled by the range of the tokens that follow, ranked within blocks",
    .needs = KV_BIT(KV_LAG),
    RECIPE,
};

const struct kv_kind kv_kind_lagkv = {
    .name = "lagkv",
    .title = "LagKV: tokens unlike those that follow them",
    .source = "Liang et al. 2025, arXiv 2504.04704; NVIDIA/kvpress, LagKVPress",
    .differs = "the recorded score holds its parameters (4 sinks, blocks of 128)",
    .preset = "when=postfill, sink_size=4",
    .also = "lag_kv",
    .law = &kv_law_fixed,
    .score = &score_lag,
};

static const struct kv_score score_expected = {
    .name = "expected",
    .help = "attention expected from the queries to come, times the value's norm",
    .needs = KV_BIT(KV_EXPECTED),
    RECIPE,
};

const struct kv_kind kv_kind_expected = {
    .name = "expected",
    .title = "Expected Attention: as future queries are likely to attend",
    .source = "Devoto et al. 2025, arXiv 2510.00636; NVIDIA/kvpress, ExpectedAttentionPress",
    .differs = "the recorded score holds its parameters (4 sinks, 512 future positions)",
    .preset = "when=postfill, sink_size=4",
    .also = "expected_attention, expectedattention",
    .law = &kv_law_fixed,
    .score = &score_expected,
};

/* ---- CUR ---- */

struct cur_params {
    int64_t local_block;
};

static const struct kv_field cur_fields[] = {
    {.key = "local_block",
     .type = KV_T_COUNT,
     .offset = offsetof(struct cur_params, local_block),
     .def = "16",
     .min = 1,
     .max = 1 << 20,
     .also = "local_window_size",
     .help = "tokens of a block within which leverages add up to 1"},
};

static double block_sum(const float *norm, int64_t from, int64_t to)
{
    double sum = 0;
    for (int64_t i = from; i < to; i++)
        sum += (double)norm[i] * (double)norm[i];
    return sum;
}

static void cur_lane(const struct kv_view *v, float *keep)
{
    const float *k = v->channel[KV_KEY_NORM], *value = v->channel[KV_VALUE_NORM];
    int64_t block = ((const struct cur_params *)v->policy->score_params)->local_block;
    for (int64_t from = 0; from < v->n; from += block) {
        int64_t to = from + block < v->n ? from + block : v->n;
        double all = block_sum(k, from, to) * block_sum(value, from, to);
        for (int64_t i = from; i < to; i++) {
            double own = (double)k[i] * (double)k[i] * ((double)value[i] * (double)value[i]);
            keep[i] = all > 0 ? (float)(own / all) : 0;
        }
    }
}

static const struct kv_score score_cur = {
    .name = "cur",
    .help = "leverage of key times that of value: squared norms, as shares of their block",
    .field = cur_fields,
    .n_fields = sizeof cur_fields / sizeof *cur_fields,
    .params_size = sizeof(struct cur_params),
    .needs = KV_BIT(KV_KEY_NORM) | KV_BIT(KV_VALUE_NORM),
    .lane = cur_lane,
};

const struct kv_kind kv_kind_cur = {
    .name = "cur",
    .title = "CUR: leverage of keys and values",
    .source = "Sengupta et al. 2025, arXiv 2509.15038; NVIDIA/kvpress, CURPress",
    .differs = "blocks are of the entries held, in order of position",
    .preset = "when=postfill, sink_size=4",
    .also = "curdkv",
    .law = &kv_law_fixed,
    .score = &score_cur,
};

/* ---- random ---- */

struct random_params {
    int64_t seed;
};

static const struct kv_field random_fields[] = {
    {.key = "seed",
     .type = KV_T_COUNT,
     .offset = offsetof(struct random_params, seed),
     .def = "0",
     .min = 0,
     .max = 1 << 30,
     .help = "of the draw"},
};

/* One number for each entry, for good: an entry that survived once tends to survive again. */
static void random_lane(const struct kv_view *v, float *keep)
{
    uint64_t seed = (uint64_t)((const struct random_params *)v->policy->score_params)->seed;
    uint64_t lane = (uint64_t)v->layer << 32 | (uint64_t)v->head;
    for (int64_t i = 0; i < v->n; i++)
        keep[i] = (float)kv_uniform(kv_random(seed, kv_purpose("random policy"), lane, (uint64_t)v->position[i]));
}

static const struct kv_score score_random = {
    .name = "random",
    .help = "a number drawn for each entry",
    .field = random_fields,
    .n_fields = sizeof random_fields / sizeof *random_fields,
    .params_size = sizeof(struct random_params),
    .positions = true,
    .lane = random_lane,
};

const struct kv_kind kv_kind_random = {
    .name = "random",
    .title = "Random: the baseline that any score must beat",
    .source = "ours; NVIDIA/kvpress, RandomPress",
    .differs = "the draws are a hash of seed, layer, head and position",
    .preset = "when=postfill",
    .also = "",
    .law = &kv_law_fixed,
    .score = &score_random,
};
