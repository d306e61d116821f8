/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A row of attention is
 *
 *     total x normalised((content x importance[j] x causal[j] + recent x recency[j]) x noise[j] + sinks + needles)
 *
 * where importance is made once for each lane, causal and recency once for each channel and tick, and noise is looked
 * up from a hash: no exponential or logarithm is computed for a number. */
#include "sim/synth.h"
#include "sim/core/random.h"
#include "sim/core/select.h"
#include "sim/team.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { SINKS = 4, QUANTILES = 1024, DEVIATIONS = 40, EXPONENTS = 8, SPIKE_BLOCK = 2048, QUESTION = 64 };

const char *const kv_head_kind_names[] = {"sink", "recency", "retrieval", "diffuse", NULL};

/* What a lane is. Masses are shares of a query's attention; the rest of them is content. */
struct lane {
    enum kv_head_kind kind;
    uint64_t key;
    double sink[SINKS]; /* masses */
    double sinks, recent, content, needle;
    int exponent;             /* of recency: (8 + exponent) / 10 */
    double importance, noise; /* standard deviations of logarithms: lasting, of a row's own */
    double correlation;       /* of neighbours */
    double norm;
};

struct kv_synth {
    struct kv_synth_asked asked;
    struct kv_trace_about about;
    struct lane *lane;     /* (layers, KV heads) */
    uint16_t *importance;  /* (layers, KV heads, tokens) upper halves of floats */
    double *importance_to; /* (layers, KV heads, ticks + 1) sums up to where ticks begin */
    int64_t tokens;        /* that are fed */
    double *harmonic;      /* (tokens + 2,) sums of 1/i, i <= n */
    double *power;         /* (EXPONENTS, tokens + 2) sums of i^-a */
    float normal[QUANTILES];
    float (*factor)[QUANTILES]; /* (DEVIATIONS,) e^(z x deviation), of mean 1; deviations in tenths */
};

/* ---- numbers ---- */

static uint64_t row_key(const struct lane *l, const char *purpose, uint64_t id, uint64_t counter)
{
    return kv_random(l->key, kv_purpose(purpose), id, counter);
}

/* Sixteen bits of chance for position j: four positions share a hash. */
static inline uint64_t four(uint64_t key, int64_t j)
{
    /* cppcheck-suppress shiftNegativeLHS */
    return kv_mix(key + (uint64_t)(j >> 2) * UINT64_C(0x9e3779b97f4a7c15));
}

static inline unsigned place(uint64_t key, int64_t j)
{
    return (unsigned)(four(key, j) >> (16 * (j & 3))) % QUANTILES;
}

static inline float widen(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint16_t narrow(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x8000) >> 16);
}

/* e^x within 1e-6, without the library's: it is made of whole vectors and the same everywhere. */
static inline float exponential(float x)
{
    float y = x * 1.44269504f;
    y = y > 100 ? 100 : y < -100 ? -100 : y;
    float shifted = y + 12582912.0f, whole = shifted - 12582912.0f, t = (y - whole) * 0.693147181f;
    float m = 1 + t * (1 + t * (0.5f + t * (1.66666667e-1f + t * (4.16666667e-2f + t * 8.33333333e-3f))));
    uint32_t bits;
    memcpy(&bits, &m, sizeof bits);
    bits += (uint32_t)(int32_t)whole << 23;
    memcpy(&m, &bits, sizeof m);
    return m;
}

/* The z with that share of a normal distribution below it. */
static double normal_quantile(double share)
{
    double low = -9, high = 9;
    for (int i = 0; i < 60; i++) {
        double z = (low + high) / 2;
        *(erfc(-z / sqrt(2)) / 2 < share ? &low : &high) = z;
    }
    return (low + high) / 2;
}

static void make_factors(struct kv_synth *s)
{
    for (int i = 0; i < QUANTILES; i++)
        s->normal[i] = (float)normal_quantile((i + 0.5) / QUANTILES);
    for (int d = 0; d < DEVIATIONS; d++) {
        double sum = 0;
        for (int i = 0; i < QUANTILES; i++)
            sum += exp(0.1 * d * (double)s->normal[i]);
        for (int i = 0; i < QUANTILES; i++)
            s->factor[d][i] = (float)(exp(0.1 * d * (double)s->normal[i]) * QUANTILES / sum);
    }
}

static const float *factors_of(const struct kv_synth *s, double deviation)
{
    int d = (int)(10 * deviation + 0.5);
    return s->factor[d < DEVIATIONS ? d : DEVIATIONS - 1];
}

/* ---- lanes ---- */

struct draw {
    uint64_t key, n;
};

static double between(struct draw *d, double low, double high)
{
    return low + (high - low) * kv_uniform(kv_random(d->key, kv_purpose("lane"), 0, d->n++));
}

/* Kinds follow a sequence that fills their shares evenly, so that few lanes have all of them; the first layers of a
 * deep model look around. */
static enum kv_head_kind draw_kind(const struct kv_synth *s, int64_t layer, int64_t number)
{
    static const double mixed[] = {0.35, 0.6, 0.8}, low[] = {0.1, 0.35, 0.4};
    const double *share = layer < 2 && s->asked.layers > 4 ? low : mixed;
    double start = kv_uniform(kv_random(s->asked.seed, kv_purpose("kinds"), 0, 0));
    double u = fmod(start + (double)number * 0.6180339887498949, 1);
    return u < share[0]   ? KV_HEAD_SINK
           : u < share[1] ? KV_HEAD_RECENCY
           : u < share[2] ? KV_HEAD_RETRIEVAL
                          : KV_HEAD_DIFFUSE;
}

static void draw_lane(struct kv_synth *s, int64_t layer, int64_t number)
{
    static const struct {
        double sinks[2], recent[2], deviation[2]; /* recent: of what sinks leave */
        int exponents;
    } ranges[KV_HEAD_KINDS] = {
        [KV_HEAD_SINK] = {{0.60, 0.98}, {0.30, 0.60}, {1.0, 2.2}, EXPONENTS},
        [KV_HEAD_RECENCY] = {{0.02, 0.20}, {0.70, 0.97}, {0.6, 1.6}, EXPONENTS},
        [KV_HEAD_RETRIEVAL] = {{0.02, 0.25}, {0.03, 0.15}, {2.0, 3.2}, EXPONENTS},
        [KV_HEAD_DIFFUSE] = {{0.03, 0.15}, {0.15, 0.40}, {0.4, 1.1}, EXPONENTS / 2},
    };
    struct lane *l = &s->lane[number];
    l->kind = draw_kind(s, layer, number);
    l->key = kv_random(s->asked.seed, kv_purpose("synth"), (uint64_t)number, 0);
    struct draw d = {.key = l->key};
    l->sinks = between(&d, ranges[l->kind].sinks[0], ranges[l->kind].sinks[1]);
    l->recent = (1 - l->sinks) * between(&d, ranges[l->kind].recent[0], ranges[l->kind].recent[1]);
    l->content = 1 - l->sinks - l->recent;
    l->exponent = (int)between(&d, 0, ranges[l->kind].exponents);
    double deviation = between(&d, ranges[l->kind].deviation[0], ranges[l->kind].deviation[1]);
    double lasting = between(&d, 0.6, 0.9); /* of the variance */
    l->importance = deviation * sqrt(lasting);
    l->noise = deviation * sqrt(1 - lasting);
    l->correlation = between(&d, 0, 0.8);
    l->needle = between(&d, 0.15, 0.5);
    l->norm = between(&d, 7, 14);
    double rest = l->sinks;
    for (int i = 0; i < SINKS; i++) {
        l->sink[i] = i + 1 < SINKS ? rest * between(&d, 0.5, 0.9) : rest;
        rest -= l->sink[i];
    }
}

/* Spikes of retrieval heads: at most one in each block of positions. */
static bool find_spike(const struct kv_synth *s, const struct lane *l, int64_t block, int64_t *begin, int64_t *end,
                       float *height)
{
    uint64_t h = row_key(l, "spike", (uint64_t)block, 0);
    *begin = block * SPIKE_BLOCK + (int64_t)(h % (SPIKE_BLOCK - 8));
    *end = *begin + 2 + (int64_t)(h >> 32) % 5;
    *height = 2.0f + 3.0f * (float)kv_uniform(kv_mix(h));
    if (*end > s->tokens)
        *end = s->tokens;
    return l->kind == KV_HEAD_RETRIEVAL && h >> 60 < 12 && *begin < *end;
}

/* The importance of each position: lognormal, neighbours correlated. */
static void make_importance(struct kv_synth *s, int64_t number)
{
    const struct lane *l = &s->lane[number];
    uint16_t *out = s->importance + number * s->tokens;
    double *to = s->importance_to + number * (s->about.n_ticks + 1), sum = 0;
    float x = s->normal[place(l->key, -1)], r = (float)l->correlation;
    float fresh = sqrtf(1 - r * r), scale = (float)l->importance;
    int64_t tick = 0, begin, end;
    for (int64_t j = 0; j < s->tokens; j++) {
        x = r * x + fresh * s->normal[place(l->key, j)];
        out[j] = narrow(exponential(scale * x));
    }
    for (int64_t block = 0; block * SPIKE_BLOCK < s->tokens; block++) {
        float height;
        if (find_spike(s, l, block, &begin, &end, &height))
            for (int64_t j = begin; j < end; j++)
                out[j] = narrow(exponential(scale * height));
    }
    for (int64_t j = 0; j < s->tokens; j++) {
        if (tick < s->about.n_ticks && j == s->about.tick[tick].begin)
            to[tick++] = sum;
        sum += (double)widen(out[j]);
    }
    to[tick] = sum;
}

/* ---- opening ---- */

static void make_sums(struct kv_synth *s)
{
    s->harmonic[0] = 0;
    for (int64_t i = 1; i < s->tokens + 2; i++)
        s->harmonic[i] = s->harmonic[i - 1] + 1 / (double)i;
}

struct making {
    struct kv_synth *s;
    atomic_llong next;
};

/* Lanes, and behind them exponents of recency: each is one piece of work. */
static void make_pieces(void *making, int member)
{
    struct making *m = making;
    struct kv_synth *s = m->s;
    int64_t lanes = s->asked.layers * s->asked.kv_heads;
    (void)member;
    for (int64_t i; (i = atomic_fetch_add(&m->next, 1)) < lanes + EXPONENTS;) {
        if (i < lanes) {
            make_importance(s, i);
            continue;
        }
        double *power = s->power + (i - lanes) * (s->tokens + 2), a = 0.1 * (double)(8 + i - lanes);
        power[0] = 0;
        for (int64_t n = 1; n < s->tokens + 2; n++)
            power[n] = power[n - 1] + pow((double)n, -a);
    }
}

struct kv_synth *kv_synth_open(const struct kv_synth_asked *asked, int threads, struct kv_arena *a, struct kv_err *e)
{
    struct kv_synth *s = KV_NEW(a, struct kv_synth);
    struct making m = {.s = s};
    size_t lanes = (size_t)(asked->layers * asked->kv_heads);
    s->asked = *asked;
    s->tokens = kv_synth_tokens(asked);
    kv_synth_describe(&s->asked, &s->about, a);
    size_t tokens = (size_t)s->tokens, ticks = (size_t)s->about.n_ticks;
    s->factor = kv_alloc(a, DEVIATIONS * sizeof *s->factor);
    if (!(s->lane = kv_alloc_many(a, lanes, sizeof *s->lane, "lanes", e)) ||
        !(s->harmonic = kv_alloc_many(a, tokens + 2, sizeof(double), "tokens", e)) ||
        !(s->power = kv_alloc_many(a, (tokens + 2) * EXPONENTS, sizeof(double), "tokens", e)) ||
        !(s->importance_to = kv_alloc_many(a, lanes * (ticks + 1), sizeof(double), "sums of lanes", e)) ||
        !(s->importance = kv_alloc_many(a, lanes * tokens, sizeof(uint16_t), "positions of lanes", e)))
        return NULL;
    make_factors(s);
    make_sums(s);
    for (size_t i = 0; i < lanes; i++)
        draw_lane(s, (int64_t)i / asked->kv_heads, (int64_t)i);
    struct kv_team *team = kv_team_open(threads, a);
    kv_team_run(team, make_pieces, &m);
    kv_team_close(team);
    return s;
}

const struct kv_synth_asked *kv_synth_what(const struct kv_synth *s)
{
    return &s->asked;
}

const struct kv_trace_about *kv_synth_about(const struct kv_synth *s)
{
    return &s->about;
}

enum kv_head_kind kv_synth_kind(const struct kv_synth *s, int64_t layer, int64_t head)
{
    return s->lane[layer * s->asked.kv_heads + head].kind;
}

/* ---- shapes ---- */

bool kv_synth_shape_open(const struct kv_synth *s, struct kv_synth_shape *shape, struct kv_err *e)
{
    size_t n = (size_t)s->tokens + KV_SLACK;
    *shape = (struct kv_synth_shape){.recency = calloc(EXPONENTS, sizeof(float *)),
                                     .reach = calloc(EXPONENTS, sizeof(double)),
                                     .causal = calloc((1 + EXPONENTS) * n, sizeof(float))};
    if (!shape->recency || !shape->reach || !shape->causal) {
        kv_synth_shape_close(shape);
        return kv_fail(e, KV_ENV, "no memory for shapes of %lld tokens", (long long)s->tokens);
    }
    for (size_t i = 0; i < EXPONENTS; i++)
        shape->recency[i] = shape->causal + (i + 1) * n;
    return true;
}

void kv_synth_shape_close(struct kv_synth_shape *shape)
{
    free(shape->recency);
    free(shape->reach);
    free(shape->causal);
    *shape = (struct kv_synth_shape){0};
}

/* The queries [begin, end) whose attention a row sums. */
static void find_queries(const struct kv_synth *s, enum kv_channel what, const struct kv_tick *t, int64_t *begin,
                         int64_t *end)
{
    int64_t w = s->asked.window, local = w < t->end - t->begin ? w : t->end - t->begin;
    *end = t->end;
    if (what == KV_LATER_SUM) {
        *begin = t->end;
        *end = s->tokens;
    } else if (what == KV_COLUMN_SUM) {
        *begin = t->begin;
    } else if (what == KV_LAST_ROW) {
        *begin = t->end - 1;
    } else if (what == KV_WINDOW_LOCAL && t->n_patch) {
        *begin = t->end;
        *end = t->end + (w < t->n_patch ? w : t->n_patch);
    } else {
        *begin = what == KV_WINDOW_LOCAL ? t->end - local : w < t->end ? t->end - w : 0;
    }
}

/* Of what is behind a patched chunk, the patch sees the chunk's keys only: sums go to the end of what there is. */
static double sum_to(const double *sum, int64_t n, int64_t tokens)
{
    return sum[n < tokens + 1 ? n : tokens + 1];
}

static void turn_recency(const struct kv_synth *s, struct kv_synth_shape *shape, int exponent, int64_t begin,
                         int64_t end)
{
    const double *power = s->power + exponent * (s->tokens + 2);
    float *out = shape->recency[exponent];
    double sum = 0, all = 0;
    for (int64_t j = shape->first; j < shape->end; j++) {
        int64_t from = j < begin ? begin - j : 0;
        double x = sum_to(power, end - j, s->tokens) - sum_to(power, from, s->tokens);
        out[j] = (float)x;
        sum += x;
    }
    for (int64_t q = begin; q < end; q++)
        all += sum_to(power, q + 1 - shape->first, s->tokens);
    shape->reach[exponent] = all > 0 ? sum / all : 0;
    float scale = sum > 0 ? (float)(1 / sum) : 0;
    for (int64_t j = shape->first; j < shape->end; j++)
        out[j] *= scale;
}

/* A query's content is shared by all keys before it: each gets 1/q of it on average. */
static void turn_causal(const struct kv_synth *s, struct kv_synth_shape *shape, int64_t begin, int64_t end)
{
    const struct kv_tick *t = &s->about.tick[shape->tick];
    int64_t first = shape->first;
    double last = sum_to(s->harmonic, end - first, s->tokens), sum = 0;
    double all = last - sum_to(s->harmonic, begin - first, s->tokens);
    for (int64_t j = first; j < shape->end; j++) {
        double seen = j <= begin || !(all > 0) ? 1 : (last - s->harmonic[j - first]) / all;
        shape->causal[j] = (float)seen;
        sum += j >= t->begin ? seen : 0;
    }
    shape->mean_causal = sum / (double)(t->end - t->begin);
    shape->content_reach = end > begin ? all * (double)(shape->end - first) / (double)(end - begin) : 0;
}

void kv_synth_turn(const struct kv_synth *s, struct kv_synth_shape *shape, enum kv_channel what, int64_t tick)
{
    const struct kv_tick *t = &s->about.tick[tick];
    int64_t begin, end;
    shape->channel = (int)what;
    shape->tick = tick;
    shape->first = kv_channels[what].span == KV_SPAN_NEW ? t->begin : 0;
    shape->end = t->end;
    if (!kv_channels[what].attention)
        return;
    find_queries(s, what, t, &begin, &end);
    shape->queries = (double)(end - begin);
    turn_causal(s, shape, begin, end);
    for (int i = 0; i < EXPONENTS; i++)
        turn_recency(s, shape, i, begin, end);
}

/* ---- rows of attention ---- */

/* What one row multiplies its parts with. */
struct parts {
    float content, recent;
    const uint16_t *importance;
    const float *causal, *recency, *noise;
    uint64_t key;
};

static inline float number(const struct parts *p, int64_t j, unsigned noise)
{
    return (p->content * widen(p->importance[j]) * p->causal[j] + p->recent * p->recency[j]) * p->noise[noise];
}

static void mix(const struct parts *p, int64_t first, int64_t end, float *out)
{
    int64_t j = first;
    for (; j < end && j % 4; j++)
        *out++ = number(p, j, place(p->key, j));
    for (; j + 4 <= end; j += 4, out += 4) {
        uint64_t h = four(p->key, j);
        for (int i = 0; i < 4; i++)
            out[i] = number(p, j + i, (unsigned)(h >> (16 * i)) % QUANTILES);
    }
    for (; j < end; j++)
        *out++ = number(p, j, place(p->key, j));
}

/* What makes query heads of a group differ, for good. */
static void vary(const float *factor, uint64_t key, int64_t first, int64_t end, float *out)
{
    for (int64_t j = first; j < end; j++)
        out[j - first] *= factor[place(key, j)];
}

/* Spikes answer some queries and not others. */
static void quieten_spikes(const struct kv_synth *s, const struct kv_synth_shape *shape, const struct lane *l,
                           uint64_t key, float *out)
{
    int64_t begin, end;
    float height;
    if (l->kind != KV_HEAD_RETRIEVAL || shape->channel == KV_LATER_SUM)
        return;
    for (int64_t block = shape->first / SPIKE_BLOCK; block * SPIKE_BLOCK < shape->end; block++)
        if (kv_mix(key ^ (uint64_t)block) % 4 == 0 && find_spike(s, l, block, &begin, &end, &height))
            for (int64_t j = begin; j < end; j++)
                if (j >= shape->first && j < shape->end)
                    out[j - shape->first] *= 0.05f;
}

/* How much of the needle's own mass the queries of a row look for: all of it those that come after the question. */
static double asks(const struct kv_synth *s, const struct kv_synth_shape *shape)
{
    const struct kv_tick *t = &s->about.tick[shape->tick];
    bool asked = t->end >= s->asked.n_prompt || shape->channel == KV_LATER_SUM;
    if (t->n_patch && shape->channel == KV_WINDOW_LOCAL)
        return 1;
    if (asked && shape->channel == KV_COLUMN_SUM && shape->queries > QUESTION)
        return QUESTION / shape->queries;
    return asked ? 1 : 0.05;
}

static void add_needles(const struct kv_synth *s, const struct kv_synth_shape *shape, const struct lane *l,
                        const float *noise, uint64_t key, float *out)
{
    double mass = asks(s, shape) * l->needle;
    for (int i = 0; l->kind == KV_HEAD_RETRIEVAL && i < s->asked.n_needles; i++) {
        const struct kv_mark *m = &s->asked.needle[i];
        float each = (float)(mass / (double)((m->end - m->begin) * s->asked.n_needles));
        for (int64_t j = m->begin > shape->first ? m->begin : shape->first; j < m->end && j < shape->end; j++)
            out[j - shape->first] += each * noise[place(~key, j)];
    }
}

static double noise_of(const struct lane *l, enum kv_channel what)
{
    static const double times[] = {[KV_WINDOW_LOCAL] = 1.1,
                                   [KV_WINDOW_SEEN] = 1,
                                   [KV_COLUMN_SUM] = 0.7,
                                   [KV_LAST_ROW] = 1.3,
                                   [KV_LATER_SUM] = 0.5};
    return l->noise * times[what];
}

/* What the row adds up to: one for each query, but for what goes to keys that it does not have. */
static double total_of(const struct kv_synth_shape *shape, const struct lane *l, bool patched)
{
    if (patched)
        return shape->queries * 0.85; /* the rest stays on the patch */
    if (shape->channel != KV_LATER_SUM)
        return shape->queries;
    double reach = shape->reach[l->exponent];
    return shape->queries * (l->sinks + l->recent * reach + l->content * shape->content_reach);
}

static void attention_row(const struct kv_synth *s, const struct kv_synth_shape *shape, int64_t stream, bool query,
                          float *out)
{
    int64_t group = query ? s->asked.q_heads / s->asked.kv_heads : 1, number_of_lane = stream / group;
    int64_t n = shape->end - shape->first;
    const struct lane *l = &s->lane[number_of_lane];
    const double *to = s->importance_to + number_of_lane * (s->about.n_ticks + 1) + shape->tick;
    double total = total_of(shape, l, s->about.tick[shape->tick].n_patch && shape->channel == KV_WINDOW_LOCAL);
    if (!(total > 0)) {
        memset(out, 0, (size_t)n * sizeof *out);
        return;
    }
    double old = shape->first ? 0 : to[0], mass = old + (to[1] - to[0]) * shape->mean_causal;
    struct parts p = {
        .content = (float)(l->content / (mass > 0 ? mass : 1)),
        .recent = (float)l->recent,
        .importance = s->importance + number_of_lane * s->tokens,
        .causal = shape->causal,
        .recency = shape->recency[l->exponent],
        .noise = factors_of(s, noise_of(l, (enum kv_channel)shape->channel)),
        .key = row_key(l, kv_channels[shape->channel].name, (uint64_t)(stream % group), (uint64_t)shape->tick)};
    mix(&p, shape->first, shape->end, out);
    if (group > 1)
        vary(factors_of(s, l->importance * 0.4), row_key(l, "query head", (uint64_t)(stream % group), 0), shape->first,
             shape->end, out);
    quieten_spikes(s, shape, l, p.key, out);
    for (int64_t j = 0; j < SINKS && j < shape->end && !shape->first; j++)
        out[j] += (float)l->sink[j] * s->factor[1][place(~p.key, j)];
    add_needles(s, shape, l, s->factor[3], p.key, out);
    float scale = (float)(total / kv_select_best()->sum(out, NULL, n));
    for (int64_t j = 0; j < n; j++)
        out[j] *= scale;
}

/* ---- rows of keys and values ---- */

/* How important a position is, in standard deviations; the logarithm is a straight line from octave to octave. */
static float importance_at(const struct kv_synth *s, const struct lane *l, int64_t number_of_lane, int64_t j)
{
    float octaves = (float)s->importance[number_of_lane * s->tokens + j] / 128 - 127;
    float x = octaves * 0.693147181f / (float)l->importance;
    return x > 3 ? 3 : x < -3 ? -3 : x;
}

static float key_number(const struct kv_synth *s, const struct lane *l, enum kv_channel what, int64_t lane, int64_t j,
                        uint64_t key, uint64_t tick_key)
{
    float x = importance_at(s, l, lane, j), z = s->normal[place(key, j)];
    float sink = j < SINKS ? 1 : 0, norm = (float)l->norm, cosine;
    switch (what) {
    case KV_KEY_NORM: /* what is attended to has short keys, sinks the shortest */
        return norm * exponential(0.15f * z) * (1 - 0.06f * x) * (1 - 0.75f * sink);
    case KV_VALUE_NORM:
        return norm * exponential(0.3f * z) * (1 - 0.9f * sink);
    case KV_KEY_COSINE:
        cosine = 0.55f - 0.06f * x + 0.1f * z + 0.01f * s->normal[place(tick_key, j)] - 0.5f * sink;
        return cosine > 1 ? 1 : cosine < -1 ? -1 : cosine;
    case KV_LAG:
        return 0.001f * exponential(0.4f * z + 0.3f * x + 0.05f * s->normal[place(tick_key, j)]);
    case KV_EXPECTED:
        return widen(s->importance[lane * s->tokens + j]) * exponential(0.5f * z) * norm * 1e-4f + sink;
    default:
        return x + 0.5f * z;
    }
}

void kv_synth_row(const struct kv_synth *s, const struct kv_synth_shape *shape, int64_t stream, float *out)
{
    enum kv_channel what = (enum kv_channel)shape->channel;
    if (kv_channels[what].attention) {
        attention_row(s, shape, stream, s->asked.query_heads, out);
        return;
    }
    const struct lane *l = &s->lane[stream];
    uint64_t key = row_key(l, kv_channels[what].name, 0, 0);
    uint64_t tick_key = row_key(l, kv_channels[what].name, 1, (uint64_t)shape->tick);
    for (int64_t j = shape->first; j < shape->end; j++)
        out[j - shape->first] = key_number(s, l, what, stream, j, key, tick_key);
}
