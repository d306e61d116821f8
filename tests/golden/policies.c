/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Kept sets of upstream policies, "kvpolicy-golden-1": CASE.json beside raw little-endian arrays. Each upstream policy
 * is mapped to one SPEC of ours; channels are made from the case's queries, keys and values by sim/core/produce.c over
 * what the cache holds, as an engine would. Positions that the case calls ties may differ. */
#include "sim/core/cache.h"
#include "sim/core/least.h"
#include "sim/core/mask.h"
#include "sim/core/produce.h"
#include "tests/golden/golden.h"

#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DIMS = 4, TICKS = 128 };

struct array {
    int64_t shape[DIMS], n;
    int dims;
    const float *f32;
    const int32_t *i32;
};

struct golden {
    const char *folder, *name;
    json_t *head, *params;
    struct kv_arena *arena;
    struct kv_err *e;
    int64_t layers, q_heads, kv_heads, select_heads, d, q_len, prefill;
    int64_t tick[TICKS];
    int n_ticks;
    struct array q, k, v, score, kept, kept_len, tie, tie_len;
};

/* ---- the files ---- */

static int64_t whole_of(const json_t *o, const char *key, int64_t otherwise)
{
    const json_t *v = json_object_get(o, key);
    return json_is_integer(v) ? json_integer_value(v) : otherwise;
}

static double real_of(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

static const char *text_of(const json_t *o, const char *key)
{
    const char *text = json_string_value(json_object_get(o, key));
    return text ? text : "";
}

static bool read_bytes(struct golden *g, const char *file, int64_t n, const void **out)
{
    const char *path = kv_format(g->arena, "%s/%s", g->folder, file);
    FILE *in = fopen(path, "rb");
    char *bytes = kv_alloc(g->arena, (size_t)n * 4 + 1);
    bool good = in && fread(bytes, 4, (size_t)n, in) == (size_t)n && fgetc(in) == EOF;
    if (in)
        fclose(in);
    *out = bytes;
    return good || kv_fail(g->e, KV_DATA, "'%s' does not hold %lld numbers", path, (long long)n);
}

/* The first of the names that the case has; none: left empty. */
static bool read_array(struct golden *g, const char *name, const char *other, struct array *a)
{
    size_t i;
    json_t *at;
    json_array_foreach (json_object_get(g->head, "arrays"), i, at) {
        const char *own = text_of(at, "name");
        const json_t *shape = json_object_get(at, "shape");
        if (strcmp(own, name) && strcmp(own, other))
            continue;
        a->dims = (int)json_array_size(shape);
        if (a->dims < 1 || a->dims > DIMS)
            return kv_fail(g->e, KV_DATA, "array '%s' has %d dimensions", own, a->dims);
        a->n = 1;
        for (int d = 0; d < a->dims; d++) {
            a->shape[d] = json_integer_value(json_array_get(shape, (size_t)d));
            if (a->shape[d] < 0 || a->shape[d] > 1 << 24 || a->n > 1 << 28)
                return kv_fail(g->e, KV_DATA, "array '%s' has no size", own);
            a->n *= a->shape[d];
        }
        const void *bytes;
        if (!read_bytes(g, text_of(at, "file"), a->n, &bytes))
            return false;
        a->f32 = bytes;
        a->i32 = bytes;
        return true;
    }
    return true;
}

static bool read_case(struct golden *g)
{
    json_t *ticks = json_object_get(g->head, "ticks");
    g->params = json_object_get(g->head, "params");
    g->layers = whole_of(g->head, "layers", 1);
    g->kv_heads = whole_of(g->head, "kv_heads", 1);
    g->q_heads = whole_of(g->head, "q_heads", g->kv_heads);
    g->select_heads = whole_of(g->head, "select_heads", g->kv_heads);
    g->d = whole_of(g->head, "head_dim", 1);
    g->q_len = whole_of(g->head, "q_len", 0);
    g->n_ticks = ticks ? (int)json_array_size(ticks) : 1;
    if (g->n_ticks > TICKS)
        return kv_fail(g->e, KV_DATA, "%d ticks are more than %d", g->n_ticks, TICKS);
    int64_t sum = 0;
    for (int i = 0; i < g->n_ticks; i++)
        sum += g->tick[i] = ticks ? json_integer_value(json_array_get(ticks, (size_t)i)) : g->q_len;
    g->q_len = g->q_len ? g->q_len : sum;
    g->prefill = whole_of(g->head, "prefill_len", 0);
    for (int i = 0; i < g->n_ticks && !whole_of(g->head, "prefill_len", 0) && (i == 0 || g->tick[i] > 1); i++)
        g->prefill += g->tick[i];
    return read_array(g, "q", "q_window", &g->q) && read_array(g, "k", "k", &g->k) && read_array(g, "v", "v", &g->v) &&
           read_array(g, "score", "score", &g->score) && read_array(g, "kept", "kept", &g->kept) &&
           read_array(g, "kept_len", "kept_len", &g->kept_len) && read_array(g, "tie", "tie", &g->tie) &&
           read_array(g, "tie_len", "tie_len", &g->tie_len);
}

/* Numbers of token `t`: (layers?, heads, tokens, d), tokens from the end where the case has only the last. */
static const float *row_of(const struct golden *g, const struct array *a, int64_t layer, int64_t head, int64_t t)
{
    int64_t tokens = a->shape[a->dims - 2], heads = a->shape[a->dims - 3];
    int64_t from = tokens < g->q_len && a->dims == 3 ? g->q_len - tokens : 0; /* q_window */
    return a->f32 + (((a->dims == 4 ? layer * heads : 0) + head) * tokens + t - from) * a->shape[a->dims - 1];
}

/* ---- SPECs ---- */

static const char *pooling_of(const struct golden *g)
{
    return !strcmp(text_of(g->params, "pooling"), "maxpool") ? "max" : "avg";
}

static const char *window_keys(const struct golden *g)
{
    bool reduce_first = !strcmp(text_of(g->params, "group_order"), "group_then_pool");
    const char *agg = text_of(g->params, "group_agg");
    return kv_format(g->arena, "window_size=%lld,kernel_size=%lld,pooling=%s,group_reduce=%s,reduce_order=%s,store=%s",
                     (long long)whole_of(g->params, "window", 64), (long long)whole_of(g->params, "kernel", 5),
                     pooling_of(g), *agg ? agg : "mean", reduce_first ? "reduce-first" : "pool-first",
                     g->select_heads == g->kv_heads ? "kv-head" : "query-head");
}

/* SnapKV and PyramidKV: one call, PruLong's post-fill driver, PruLong's chunks. */
static const char *snapkv_spec(const struct golden *g, const char *policy)
{
    struct kv_arena *a = g->arena;
    const char *kind = strstr(policy, "pyramid") ? "pyramidkv" : "snapkv", *keys = window_keys(g);
    int64_t beta = whole_of(g->params, "beta", 20), window = whole_of(g->params, "window", 64);
    if (strstr(kind, "pyramid"))
        keys = kv_format(a, "%s,beta=%lld", keys, (long long)beta);
    if (strstr(policy, "_chunked"))
        return kv_format(a, "%s:when=chunk,compression_ratio=%.17g,patch=%lld,%s", kind, real_of(g->params, "sparsity"),
                         json_is_true(json_object_get(g->params, "patch")) ? (long long)window : 0LL, keys);
    int64_t budget = whole_of(g->params, "total_budget", 0);
    if (strstr(policy, "_postfill_driver") && budget)
        return kv_format(a, "%s:when=postfill,tokens=%lld,round_to=64,%s", kind, (long long)budget, keys);
    if (strstr(policy, "_postfill_driver"))
        return kv_format(a, "%s:when=postfill,compression_ratio=%.17g,round_to=64,%s", kind,
                         real_of(g->params, "sparsity"), keys);
    int64_t capacity = whole_of(g->params, "capacity_override", whole_of(g->params, "capacity", 0));
    return kv_format(a, "%s:when=postfill,tokens=%lld,round_to=1,%s", kind, (long long)capacity, keys);
}

static const char *kvpress_spec(const struct golden *g, const char *name)
{
    static const struct {
        const char *name, *spec;
    } known[] = {
        {"streamingllm", "streaming:when=postfill,recent_size=0,sink_size=4"},
        {"snapkv", "snapkv:when=postfill,law=fixed"},
        {"pyramidkv", "pyramidkv:when=postfill,schedule=kvpress"},
        {"adasnapkv", "ada-snapkv:when=postfill"},
        {"knorm", "l2:when=postfill,recent_size=0,skip_layers=0"},
        {"tova", "tova:when=postfill"},
        {"observed", "observed:when=postfill"},
        {"keydiff", "keydiff:when=postfill"},
        {"cur", "cur:when=postfill"},
        {"lagkv", "lagkv:when=postfill"},
    };
    int64_t window = whole_of(g->params, "window_size", 0);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, name))
            return kv_format(g->arena, "%s,compression_ratio=%.17g%s", known[i].spec,
                             real_of(g->params, "compression_ratio"),
                             window ? kv_format(g->arena, ",window_size=%lld", (long long)window) : "");
    return NULL;
}

static const char *kvfactory_spec(const struct golden *g, const char *policy)
{
    struct kv_arena *a = g->arena;
    long long capacity = whole_of(g->params, "capacity", 0), window = whole_of(g->params, "window", 0);
    if (!strcmp(policy, "adakv"))
        return kv_format(a, "adakv:tokens=%lld,floor_ratio=%.17g,normalize=%s,%s", capacity,
                         real_of(g->params, "floor"),
                         json_is_true(json_object_get(g->params, "normalize")) ? "true" : "false", window_keys(g));
    if (!strcmp(policy, "h2o_prefill"))
        return kv_format(a, "h2o:when=postfill,tokens=%lld,recent_size=%lld", capacity, window);
    if (!strcmp(policy, "l2norm"))
        return kv_format(a, "l2:when=postfill,tokens=%lld,recent_size=0,skip_layers=0", capacity);
    if (!strcmp(policy, "streamingllm"))
        return kv_format(a, "streaming:when=postfill,sink_size=%lld,recent_size=%lld", capacity - window, window);
    return !strcmp(policy, "snapkv") ? snapkv_spec(g, policy) : NULL;
}

/* Head 0 is full, head 1 streams. */
static const char *duo_spec(const struct golden *g, const char *mask_file)
{
    FILE *out = fopen(mask_file, "w");
    if (out) {
        fputs("1\t0\n", out);
        fclose(out);
    }
    return kv_format(g->arena, "duo:mask=%s,mask_rule=threshold,sink_size=%lld,recent_size=%lld", mask_file,
                     (long long)whole_of(g->params, "sink", 0), (long long)whole_of(g->params, "recent", 0));
}

/* NULL: a policy that is not known. */
static const char *spec_of(const struct golden *g, const char *mask_file)
{
    const char *policy = text_of(g->head, "policy"), *repo = text_of(g->head, "source_repo");
    struct kv_arena *a = g->arena;
    long long chunk = whole_of(g->params, "chunk", 8192);
    if (strstr(repo, "KVCache-Factory"))
        return kvfactory_spec(g, policy);
    if (!strncmp(policy, "kvpress_", 8))
        return kvpress_spec(g, policy + 8);
    if (strstr(policy, "snapkv") == policy || strstr(policy, "pyramidkv") == policy)
        return kv_format(a, "%s,chunk=%lld", snapkv_spec(g, policy), chunk);
    if (!strcmp(policy, "h2o"))
        return kv_format(a, "h2o:tokens=%lld,recent_size=%lld",
                         (long long)(whole_of(g->params, "heavy", 0) + whole_of(g->params, "recent", 0)),
                         (long long)whole_of(g->params, "recent", 0));
    if (!strcmp(policy, "l2_prulong")) {
        long long local = whole_of(g->params, "local", 0);
        return kv_format(a, "l2-upstream:tokens=%lld,local_size=%lld,skip_layers=%lld",
                         (long long)whole_of(g->params, "capacity", 0) + local, local,
                         (long long)whole_of(g->params, "skip_layers", 0));
    }
    if (!strcmp(policy, "locret_prulong"))
        return kv_format(a, "locret:compression_ratio=%.17g,stabilizers=%lld,local_len=%lld,chunk=%lld",
                         real_of(g->params, "sparsity"), (long long)whole_of(g->params, "stabilizers", 0),
                         (long long)whole_of(g->params, "local_len", 0), chunk);
    return !strcmp(policy, "duo_cache") ? duo_spec(g, mask_file) : NULL;
}

/* ---- channels over what a lane holds ---- */

struct held {
    const struct golden *g;
    int64_t layer, kv_head;
    int64_t n, *at; /* tokens whose keys are looked at, the patch behind them */
    int64_t n_patch;
    const float *key, *value;
};

static float *gather(const struct held *h, const struct array *from)
{
    struct kv_arena *a = h->g->arena;
    float *out = KV_NEW_N(a, float, h->n * h->g->d + 1);
    for (int64_t i = 0; i < h->n && from->n; i++)
        memcpy(out + i * h->g->d, row_of(h->g, from, h->layer, h->kv_head, h->at[i]), sizeof(float) * (size_t)h->g->d);
    return out;
}

static struct held hold(const struct golden *g, const struct kv_pass *p, const uint64_t *set, int64_t layer,
                        int64_t kv_head, int64_t from)
{
    int64_t end = p->seen + p->n_new;
    struct held h = {.g = g, .layer = layer, .kv_head = kv_head, .n_patch = p->n_patch};
    h.at = KV_NEW_N(g->arena, int64_t, end + p->n_patch + 1);
    for (int64_t t = from; t < end; t++)
        if (!set || kv_set_has(set, t))
            h.at[h.n++] = t;
    for (int64_t i = 0; i < p->n_patch; i++)
        h.at[h.n++] = p->prefill - p->n_patch + i;
    h.key = gather(&h, &g->k);
    h.value = gather(&h, &g->v);
    return h;
}

/* Attention of the last `rows` of the tokens [.., end) and the patch, one row for each query head. */
static const float *attention(const struct held *h, const struct kv_pass *p, int64_t rows, int64_t first_head,
                              int heads)
{
    const struct golden *g = h->g;
    int64_t end = p->seen + p->n_new, own = h->n - h->n_patch;
    float *out = KV_NEW_N(g->arena, float, h->n *heads + KV_SLACK), *q = KV_NEW_N(g->arena, float, rows * g->d);
    float *logits = KV_NEW_N(g->arena, float, rows * h->n);
    double *work = KV_NEW_N(g->arena, double, 2 * h->n);
    int64_t *seen = KV_NEW_N(g->arena, int64_t, rows);
    for (int r = 0; r < heads; r++) {
        for (int64_t i = 0; i < rows; i++) {
            int64_t back = rows - 1 - i; /* from the last query */
            bool patched = back < h->n_patch;
            int64_t token = patched ? p->prefill - 1 - back : end - 1 - (back - h->n_patch);
            seen[i] = h->n - back;
            if (!patched) { /* older queries of a lane that holds not all see those before them */
                seen[i] = 0;
                while (seen[i] < own && h->at[seen[i]] <= token)
                    seen[i]++;
            }
            memcpy(q + i * g->d, row_of(g, &g->q, h->layer, first_head + r, token), sizeof(float) * (size_t)g->d);
        }
        kv_make_logits(q, rows, h->key, h->n, g->d, seen, logits);
        kv_make_attention(logits, rows, h->n, work, out + r * h->n);
    }
    return out;
}

static void make_channels(const struct golden *g, struct kv_cache *c, int64_t cache_layer, int64_t layer, int64_t head,
                          unsigned wants, struct kv_lane_in *in)
{
    const struct kv_pass *p = &c->pass;
    int64_t g_size = g->q_heads / g->kv_heads, w = c->policy->keys.window_size;
    bool grouped = g->select_heads == g->kv_heads;
    int64_t kv_head = grouped ? head : head / g_size, q_head = grouped ? head * g_size : head;
    int rows = grouped ? (int)g_size : 1;
    struct held all = hold(g, p, kv_cache_set(c, cache_layer, head), layer, kv_head, 0);
    struct held unit = hold(g, p, NULL, layer, kv_head, p->seen + p->n_new - p->n_unit);
    struct held fresh = hold(g, p, NULL, layer, kv_head, p->seen);
    float *row = KV_NEW_N(g->arena, float, all.n + KV_SLACK);
    double *work = KV_NEW_N(g->arena, double, 2 * all.n + 1024 + 4 * g->d);
    *in = (struct kv_lane_in){.rows = rows};
    for (int k = 0; k < KV_SCORE_CHANNELS; k++)
        in->stride[k] = k == KV_WINDOW_LOCAL ? unit.n : all.n;
    if (wants & KV_BIT(KV_WINDOW_LOCAL))
        in->channel[KV_WINDOW_LOCAL] = attention(&unit, p, kv_least(w, unit.n), q_head, rows);
    if (wants & KV_BIT(KV_WINDOW_SEEN))
        in->channel[KV_WINDOW_SEEN] = attention(&all, p, kv_least(w, p->seen + p->n_new), q_head, rows);
    if (wants & KV_BIT(KV_COLUMN_SUM))
        in->channel[KV_COLUMN_SUM] = attention(&all, p, p->n_new, q_head, rows);
    if (wants & KV_BIT(KV_LAST_ROW))
        in->channel[KV_LAST_ROW] = attention(&all, p, 1, q_head, rows);
    if (wants & KV_BIT(KV_KEY_NORM)) {
        kv_make_norms(fresh.key, fresh.n, g->d, row);
        in->channel[KV_KEY_NORM] = row;
    }
    if (wants & KV_BIT(KV_VALUE_NORM)) {
        float *norm = KV_NEW_N(g->arena, float, fresh.n + 1);
        kv_make_norms(fresh.value, fresh.n, g->d, norm);
        in->channel[KV_VALUE_NORM] = norm;
    }
    if (wants & KV_BIT(KV_KEY_COSINE)) {
        kv_make_cosines(all.key, all.n, g->d, work, row);
        in->channel[KV_KEY_COSINE] = row;
    }
    if (wants & KV_BIT(KV_LAG)) {
        kv_make_lag(all.key, all.value, all.n, g->d, 4, 128, work, row);
        in->channel[KV_LAG] = row;
    }
    if (wants & KV_BIT(KV_EXTERNAL))
        in->channel[KV_EXTERNAL] = g->score.f32 + (layer * g->kv_heads + head) * g->q_len + p->seen;
}

/* ---- comparing ---- */

static bool in_list(const int32_t *list, int64_t n, int64_t x)
{
    for (int64_t i = 0; i < n; i++)
        if (list[i] == x)
            return true;
    return false;
}

/* The lane's positions, in the order upstream stores them where the case says that order matters. */
static int64_t list_lane(const struct golden *g, struct kv_cache *c, int64_t layer, int64_t head, int64_t *out)
{
    const uint64_t *set = kv_cache_set(c, layer, head);
    int64_t n = 0;
    for (int64_t t = 0; t < c->seen; t++)
        if (kv_set_has(set, t))
            out[n++] = t;
    const float *place =
        c->policy->score->columns && c->policy->score->kept ? kv_cache_column(c, layer, head, 0) : NULL;
    int64_t *stored = KV_NEW_N(g->arena, int64_t, n + 1);
    for (int64_t i = 0; place && i < n; i++)
        stored[place[i] > 0 ? (int64_t)place[i] - 1 : i] = out[i];
    if (place)
        memcpy(out, stored, sizeof *out * (size_t)n);
    return n;
}

static bool compare_lane(const struct golden *g, struct kv_cache *c, int64_t layer, int64_t head, int64_t list,
                         const int32_t *kept, const int32_t *tie)
{
    int64_t want = g->kept_len.i32[list], ties = g->tie_len.n ? g->tie_len.i32[list] : 0;
    int64_t *got = KV_NEW_N(g->arena, int64_t, g->q_len + TICKS), n = list_lane(g, c, layer, head, got), i = 0;
    if (n != want)
        return kv_fail(g->e, KV_NO, "list %lld keeps %lld entries, want %lld", (long long)list, (long long)n,
                       (long long)want);
    for (int64_t j = 0; j < want; j++) {
        if (in_list(tie, ties, kept[j]))
            continue;
        while (i < n && in_list(tie, ties, got[i]))
            i++;
        if (i >= n || got[i] != kept[j])
            return kv_fail(g->e, KV_NO, "list %lld holds %lld where %d is wanted", (long long)list,
                           i < n ? (long long)got[i] : -1LL, kept[j]);
        i++;
    }
    return true;
}

/* ---- running ---- */

/* Where the golden layer is in the model: a case may show a few layers of many. */
static int64_t model_layer(const struct golden *g, int64_t layer)
{
    const json_t *index = json_object_get(g->params, "layer_idx");
    if (json_is_integer(index))
        return json_integer_value(index);
    return index ? json_integer_value(json_array_get(index, (size_t)layer)) : layer;
}

static struct kv_pass pass_of(const struct golden *g, const struct kv_policy *p, const struct kv_cache *c, int tick)
{
    bool decodes = c->seen >= g->prefill;
    int64_t n = g->tick[tick];
    struct kv_pass pass = {.index = tick,
                           .seen = c->seen,
                           .prompt = g->q_len,
                           .prefill = g->prefill,
                           .n_new = n,
                           .n_unit = c->unit + n,
                           .decode_step = decodes ? c->seen - g->prefill : -1,
                           .repeat = 1,
                           .last = c->seen + n == g->prefill};
    pass.n_patch = !decodes && !pass.last ? p->when.patch : 0;
    pass.evict =
        decodes ? p->when.at & KV_AT_DECODE : p->when.at & KV_AT_CHUNK || (pass.last && p->when.at & KV_AT_POSTFILL);
    return pass;
}

static bool run_tick(struct golden *g, struct kv_cache *c, struct kv_cache_work *w, int tick, int64_t *list,
                     const int32_t **kept, const int32_t **tie)
{
    struct kv_pass pass = pass_of(g, c->policy, c, tick);
    if (!kv_cache_begin(c, &pass, 1, g->e))
        return false;
    for (int64_t l = 0; l < g->layers; l++) {
        int64_t layer = model_layer(g, l);
        unsigned wants = kv_cache_wants(c, layer);
        for (int64_t h = 0; wants && h < g->select_heads; h++) {
            struct kv_lane_in in;
            make_channels(g, c, layer, l, h, wants, &in);
            kv_cache_lane(c, layer, h, &in, w);
        }
        kv_cache_layer(c, layer, w);
    }
    kv_cache_end(c);
    bool good = true;
    for (int64_t l = 0; l < g->layers && good; l++)
        for (int64_t h = 0; h < g->select_heads && good; h++, (*list)++) {
            good = *list < g->kept_len.n && compare_lane(g, c, model_layer(g, l), h, *list, *kept, *tie);
            if (!good)
                break;
            *kept += g->kept_len.i32[*list];
            *tie += g->tie_len.n ? g->tie_len.i32[*list] : 0;
        }
    return good || kv_while(g->e, "tick %d", tick);
}

static bool run_cache(struct golden *g, const char *spec)
{
    struct kv_policy p;
    struct kv_shape shape;
    struct kv_cache c;
    struct kv_cache_work w;
    bool shown = json_object_get(g->params, "layer_idx") != NULL;
    struct kv_model m = {.name = "golden",
                         .layers = shown ? whole_of(g->params, "num_hidden_layers", g->layers) : g->layers,
                         .q_heads = g->q_heads,
                         .kv_heads = g->kv_heads,
                         .head_dim = g->d};
    struct kv_defaults run = {.chunk = g->tick[0], .dtype = KV_BF16};
    if (!kv_policy_from_spec(&p, spec, g->arena, g->e) || !kv_policy_prepare(&p, &m, &run, &shape, g->arena, g->e))
        return false;
    int64_t tokens = 0, list = 0;
    for (int i = 0; i < g->n_ticks; i++)
        tokens += g->tick[i];
    struct kv_request r = {.prompt = g->q_len, .prefill = g->prefill, .output = tokens - g->q_len + 1};
    r.output = r.output < 0 ? 0 : r.output;
    bool good = kv_cache_open(&c, &p, &shape, &r, 16, true, g->arena, g->e) &&
                kv_cache_work_open(&w, tokens + 4096, (int)shape.store_heads, g->e);
    const int32_t *kept = g->kept.i32, *tie = g->tie.i32;
    for (int i = 0; i < g->n_ticks && good; i++)
        good = run_tick(g, &c, &w, i, &list, &kept, &tie);
    kv_cache_work_close(&w);
    kv_cache_close(&c);
    return good || kv_while(g->e, "as '%s'", spec);
}

/* mit-han-lab/streaming-llm: (0, n) appends, (1, _) trims to the cache size, (2, n) makes room for n, which is a trim
 * to n fewer recent ones. */
static bool run_events(struct golden *g)
{
    struct array events = {0};
    struct kv_cache c;
    struct kv_cache_work w;
    struct kv_shape shape;
    struct kv_model m = {.name = "golden", .layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 1};
    struct kv_defaults run = {.chunk = 1, .dtype = KV_BF16};
    struct kv_request r = {.prompt = 4096, .prefill = 4096};
    const int32_t *kept = g->kept.i32;
    bool good = read_array(g, "events", "events", &events), open = false;
    for (int64_t i = 0; i < events.n / 2 && good; i++) {
        int32_t code = events.i32[2 * i], n = events.i32[2 * i + 1];
        int64_t recent = whole_of(g->params, "recent", 0) - (code == 2 ? n : 0);
        struct kv_policy *p = KV_NEW(g->arena, struct kv_policy);
        const char *spec = kv_format(g->arena, "streaming:sink_size=%lld,recent_size=%lld",
                                     (long long)whole_of(g->params, "sink", 0), recent > 0 ? (long long)recent : 0LL);
        good = kv_policy_from_spec(p, spec, g->arena, g->e) && kv_policy_prepare(p, &m, &run, &shape, g->arena, g->e) &&
               (open ||
                (kv_cache_open(&c, p, &shape, &r, 16, true, g->arena, g->e) && kv_cache_work_open(&w, 4096, 1, g->e)));
        open |= good;
        if (!good)
            break;
        c.policy = p;
        struct kv_pass pass = {.seen = c.seen, .prompt = 4096, .prefill = 4096, .n_new = code ? 0 : n, .repeat = 1};
        pass.n_unit = pass.n_new;
        pass.decode_step = -1;
        pass.evict = code != 0;
        good = kv_cache_begin(&c, &pass, 1, g->e);
        kv_cache_layer(&c, 0, &w);
        kv_cache_end(&c);
        g->q_len = c.seen;
        good = good && compare_lane(g, &c, 0, 0, i, kept, NULL);
        kept += g->kept_len.i32[i];
    }
    if (open) {
        kv_cache_work_close(&w);
        kv_cache_close(&c);
    }
    return good;
}

/* Upstream adds noise of up to 1e-6 to gates, and the masks say what 24 draws had in common: heads whose gates are that
 * near to the boundary are a matter of luck, also when all draws had the same. */
static bool is_tie(const struct kv_mask *mask, const bool *full, int64_t lanes, int64_t head)
{
    double least_full = 2, most_other = -1;
    for (int64_t i = 0; i < lanes; i++) {
        least_full = full[i] && mask->gate[i] < least_full ? mask->gate[i] : least_full;
        most_other = !full[i] && mask->gate[i] > most_other ? mask->gate[i] : most_other;
    }
    return fabs(mask->gate[head] - least_full) <= 1e-6 && fabs(mask->gate[head] - most_other) <= 1e-6;
}

/* Gates to heads: upstream breaks ties by noise, so any choice within the tie is one of its own. */
static bool run_masks(struct golden *g)
{
    struct array gate = {0}, always = {0}, never = {0};
    const json_t *sparsity = json_object_get(g->head, "sparsities");
    const json_t *count = json_object_get(g->head, "full_head_count_min_max");
    int64_t lanes = g->layers * g->kv_heads, ties;
    if (!read_array(g, "head_score", "head_score", &gate) || !read_array(g, "always_full", "always_full", &always) ||
        !read_array(g, "never_full", "never_full", &never))
        return false;
    struct kv_mask mask = {.path = g->name, .layers = g->layers, .heads = g->kv_heads};
    mask.gate = KV_NEW_N(g->arena, double, lanes);
    bool *full = KV_NEW_N(g->arena, bool, lanes);
    for (int64_t i = 0; i < lanes; i++)
        mask.gate[i] = (double)gate.f32[i];
    for (size_t s = 0; s < json_array_size(sparsity); s++) {
        const int32_t *full_always = always.i32 + (int64_t)s * lanes, *full_never = never.i32 + (int64_t)s * lanes;
        int64_t n = 0, wrong = 0, want = json_integer_value(json_array_get(json_array_get(count, s), 0));
        kv_mask_by_quantile(&mask, json_number_value(json_array_get(sparsity, s)), full, &ties, g->arena);
        for (int64_t i = 0; i < lanes; i++) {
            n += full[i];
            bool against = (full_always[i] && !full[i]) || (full_never[i] && full[i]);
            wrong += against && !is_tie(&mask, full, lanes, i);
        }
        if (n != want || wrong)
            return kv_fail(g->e, KV_NO, "sparsity %zu: %lld full heads, want %lld; %lld against upstream", s,
                           (long long)n, (long long)want, (long long)wrong);
    }
    return true;
}

static void run_case(struct tally *t, const char *folder, const char *file, const char *mask_file)
{
    static struct kv_err e;
    e = (struct kv_err){0};
    struct golden g = {.folder = folder, .name = file, .arena = kv_arena_open(), .e = &e};
    json_error_t where;
    const char *path = kv_format(g.arena, "%s/%s", folder, file), *spec = NULL;
    g.head = json_load_file(path, 0, &where);
    const char *policy = text_of(g.head, "policy");
    bool good = g.head || kv_fail(&e, KV_DATA, "no JSON: %s", where.text);
    good = good && (!strcmp(text_of(g.head, "format"), "kvpolicy-golden-1") || kv_fail(&e, KV_DATA, "unknown format"));
    good = good && read_case(&g);
    if (good && !strcmp(policy, "duo_sparsify"))
        good = run_masks(&g);
    else if (good && !strcmp(policy, "streamingllm") && !strcmp(text_of(g.head, "event_codes"), "") == 0)
        good = run_events(&g);
    else if (good && (spec = spec_of(&g, mask_file)))
        good = run_cache(&g, spec);
    else if (good)
        good = kv_fail(&e, KV_DATA, "policy '%s' of '%s' is not mapped to one of ours", policy,
                       text_of(g.head, "source_repo"));
    check(t, good, path, e.text);
    json_decref(g.head);
    kv_arena_close(g.arena);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

void run_policy_cases(struct tally *t, const char *folder)
{
    struct kv_arena *a = kv_arena_open();
    const char *tmp = getenv("KV_TMP"),
               *mask_file = kv_format(a, "%s/golden-%ld.tsv", tmp ? tmp : "/tmp", (long)getpid());
    const char **name = KV_NEW_N(a, const char *, 4096);
    size_t n = 0;
    DIR *d = opendir(folder);
    for (struct dirent *at; d && (at = readdir(d)) && n < 4096;)
        if (strlen(at->d_name) > 5 && !strcmp(at->d_name + strlen(at->d_name) - 5, ".json"))
            name[n++] = kv_copy_text(a, at->d_name);
    if (d)
        closedir(d);
    qsort(name, n, sizeof *name, by_name);
    for (size_t i = 0; i < n; i++)
        run_case(t, folder, name[i], mask_file);
    unlink(mask_file);
    kv_arena_close(a);
}
