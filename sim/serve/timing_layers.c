/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Step times from measured layers, in the tables of LLMServingSim's profiler (microseconds of kernels):
 *
 *     dense.csv         layer, tokens, time_us            operators of a decoder layer, against tokens in the step
 *     per_sequence.csv  layer, sequences, time_us         lm_head and sampler, against rows of logits
 *     attention.csv     prefill_chunk, kv_prefill, n_decode, kv_decode, time_us      one call on one chunk on top of
 * its prefix and n_decode requests of equal lengths skew.csv, or skew_every4th.csv, may be there: the same with unequal
 * lengths
 *
 * step = layers x (operators, of which the norm twice, + attention) + embedding, last norm, lm_head and sampler once.
 *
 * Several chunks in a step are asked for as the one chunk with as many tokens and as many (query, key) pairs, or, where
 * even without a prefix that has more pairs, as the chunk without prefix that has as many.
 * A chunk shorter than the shortest measured takes as long as that one: kernels work on tiles.
 *
 * Decodes of unequal lengths take t(mean) + alpha x (t(mean + deviation) - t(mean)), where alpha depends on how many
 * decodes there are and on whether a chunk is with them; it is fitted to the skew table (relative errors, least
 * squares) when that is read. LLMServingSim takes the longest length where we take mean + deviation, which a step
 * carries. */
#include "sim/serve/timing_kind.h"

#include "sim/csv.h"
#include "sim/serve/layers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_COUNTS = 64 };

static const double us = 1e-6;

/* How often an operator runs, by its name in the tables. */
static const struct {
    const char *name;
    int per_layer, per_step;
} operators[] = {
    {"qkv_proj", 1, 0},  {"rotary_emb", 1, 0}, {"o_proj", 1, 0},    {"gate_up_proj", 1, 0},    {"act_fn", 1, 0},
    {"down_proj", 1, 0}, {"layernorm", 2, 0},  {"embedding", 0, 1}, {"final_layernorm", 0, 1},
};
enum { OPERATORS = sizeof operators / sizeof *operators };
static const char *const heads[] = {"lm_head", "sampler"};
enum { HEADS = 2 };

struct layers {
    struct kv_curve dense, heads; /* microseconds of a step */
    struct kv_layer_attention attention;
    double layers;
};

/* ---- asking ---- */

static double attention(const struct kv_layer_attention *t, double chunk, double prefix, double n, double kv,
                        double *outside)
{
    if (n <= 0)
        return chunk > 0 ? kv_ragged_at(&t->prefill, (double[]){chunk, prefix}, outside) : 0;
    if (chunk <= 0)
        return kv_ragged_at(&t->decode, (double[]){n, kv}, outside);
    return kv_ragged_at(&t->mixed, (double[]){chunk, prefix, n, kv}, outside);
}

static double alpha_of(const struct kv_layer_attention *t, bool mixed, double n)
{
    const struct kv_skew *s = &t->skew[mixed];
    if (!s->n)
        return 0;
    int i = 0;
    while (i < s->n && s->decodes[i] < n)
        i++;
    if (i == s->n || !i)
        return s->alpha[i ? s->n - 1 : 0];
    double share = log(n / s->decodes[i - 1]) / log(s->decodes[i] / s->decodes[i - 1]);
    return s->alpha[i - 1] + share * (s->alpha[i] - s->alpha[i - 1]);
}

double kv_layer_attention_us(const struct kv_layer_attention *t, double chunk, double prefix, double n, double kv,
                             double deviation, double *outside)
{
    double mean = attention(t, chunk, prefix, n, kv, outside);
    double alpha = n > 1 && deviation > 0 ? alpha_of(t, chunk > 0, n) : 0, ignored = 1;
    if (alpha <= 0)
        return mean;
    return mean + alpha * fmax(0, attention(t, chunk, prefix, n, kv + deviation, &ignored) - mean);
}

static void cost(const struct kv_timing *t, const struct kv_step *step, struct kv_step_cost *out)
{
    const struct layers *s = t->own;
    double n = (double)step->decodes, chunk, prefix, mean = 0, deviation = 0;
    kv_step_one_chunk(step, &chunk, &prefix);
    if (n > 0) {
        mean = step->decode_kv / n;
        deviation = sqrt(fmax(0, step->decode_kv_squares / n - mean * mean));
    }
    double all = s->layers * kv_layer_attention_us(&s->attention, chunk, prefix, n, mean, deviation, &out->outside);
    double ignored = 1, alone = n > 0 && chunk > 0 ? s->layers * attention(&s->attention, 0, 0, n, mean, &ignored) : 0;
    if (n > 0 && t->kv_share != 1) {
        double least = s->layers * attention(&s->attention, 0, 0, n, 0, &ignored), decodes = chunk > 0 ? alone : all,
               by_bytes = kv_timing_by_bytes(t, least, decodes);
        all = fmax(all + (by_bytes - decodes), by_bytes);
        alone = by_bytes;
    }
    out->shared =
        (kv_curve_at(&s->dense, step->tokens, &out->outside) + kv_curve_at(&s->heads, step->sequences, &out->outside)) *
        us;
    out->decode = (chunk > 0 ? fmin(alone, all) : all) * us;
    out->prefill = all * us - out->decode;
    out->sum = out->shared + all * us;
}

/* ---- reading ---- */

struct by_name {
    const char *const *name; /* (n,) */
    int n;
    struct kv_ragged *table; /* (n,) */
};

static bool take_named(void *self, const struct kv_csv *c, int name, const int64_t *key, double value, struct kv_err *e)
{
    struct by_name *b = self;
    for (int i = 0; i < b->n; i++)
        if (!strcmp(b->name[i], c->cell[name]))
            return kv_ragged_add(&b->table[i], key, value, c->line, e);
    return kv_csv_fail(c, name, e, "is no operator that is known; it would be left out of the sum");
}

/* sum of times[i] x operator i, at every whole number. */
static bool read_curve(struct kv_timing *t, struct kv_curve *out, const char *folder, const char *file, const char *key,
                       const char *const *name, const double *times, int n, struct kv_err *e)
{
    const char *const column[] = {key, "time_us", "layer"};
    const char *path = kv_format(t->arena, "%s/%s", folder, file);
    struct kv_ragged *table = KV_NEW_N(t->arena, struct kv_ragged, n);
    struct by_name b = {name, n, table};
    for (int i = 0; i < n; i++)
        table[i].keys = 1;
    bool good = kv_timing_rows(t, path, column, 1, true, take_named, &b, e);
    for (int i = 0; i < n; i++) {
        struct kv_curve one;
        if (good && !table[i].n_rows)
            good = kv_fail(e, KV_DATA, "%s: no rows of '%s'", path, name[i]);
        good = good && kv_ragged_build(&table[i], path, t->arena, e) && kv_curve_build(&one, &table[i], t->arena, e);
        kv_ragged_drop(&table[i]);
        if (!good)
            continue;
        if (!i) {
            *out = one;
            for (int64_t x = 0; x < one.n; x++)
                out->value[x] *= times[0];
            continue;
        }
        out->n = one.n < out->n ? one.n : out->n; /* as far as all of them go */
        for (int64_t x = 0; x < out->n; x++)
            out->value[x] += times[i] * one.value[x];
    }
    return good;
}

static bool take_attention(void *self, const struct kv_csv *c, int name, const int64_t *key, double value,
                           struct kv_err *e)
{
    struct kv_layer_attention *t = self;
    (void)name;
    if (key[0] && key[2])
        return kv_ragged_add(&t->mixed, key, value, c->line, e);
    if (key[0])
        return kv_ragged_add(&t->prefill, key, value, c->line, e);
    if (key[2])
        return kv_ragged_add(&t->decode, key + 2, value, c->line, e);
    return kv_fail(e, KV_DATA, "%s:%lld: neither a chunk nor decodes", c->path, (long long)c->line);
}

bool kv_layer_attention_build(struct kv_layer_attention *t, const char *path, struct kv_arena *a, struct kv_err *e)
{
    struct kv_ragged *table[] = {&t->prefill, &t->decode, &t->mixed};
    static const char *const of[] = {"chunks alone", "decodes alone", "both together"};
    bool good = true;
    for (int i = 0; i < 3; i++) {
        good = good && (table[i]->n_rows || kv_fail(e, KV_DATA, "%s: no rows of %s", path, of[i])) &&
               kv_ragged_build(table[i], path, a, e);
        kv_ragged_drop(table[i]);
    }
    return good;
}

struct kv_layer_attention kv_layer_attention_empty(void)
{
    return (struct kv_layer_attention){
        .prefill = {.keys = 2, .law = {KV_AXIS_PAIRS, KV_AXIS_LINEAR}},
        .decode = {.keys = 2, .law = {KV_AXIS_BYTES, KV_AXIS_LINEAR}},
        .mixed = {.keys = 4, .law = {KV_AXIS_PAIRS, KV_AXIS_LINEAR, KV_AXIS_BYTES, KV_AXIS_LINEAR}},
    };
}

/* Sums of the fit of alpha for one number of decodes. */
struct skew_sum {
    double n, xy, xx;
};
struct skew_fit {
    struct kv_layer_attention *t;
    struct skew_sum sum[2][MOST_COUNTS];
    int n[2];
};

static bool take_skew(struct skew_fit *f, const struct kv_csv *c, const int *column, struct kv_err *e)
{
    enum { N, BIG, CHUNK, PREFIX, SHORT, LONG, MEAN_US, SKEW_US };
    int64_t v[LONG + 1];
    double mean_us, skew_us, outside = 1;
    for (int i = 0; i <= LONG; i++)
        if (!kv_csv_count(c, column[i], i == N, KV_TIMING_MOST_KEY, &v[i], e))
            return false;
    if (!kv_csv_real(c, column[MEAN_US], 1e-9, 1e12, &mean_us, e) ||
        !kv_csv_real(c, column[SKEW_US], 1e-9, 1e12, &skew_us, e))
        return false;
    if (v[BIG] > v[N])
        return kv_csv_fail(c, column[BIG], e, "is more than n");
    double n = (double)v[N], share = (double)v[BIG] / n, gap = (double)(v[LONG] - v[SHORT]);
    double mean = (double)v[SHORT] + share * gap, deviation = sqrt(share * (1 - share)) * fabs(gap);
    int m = v[CHUNK] > 0, i = 0;
    while (i < f->n[m] && f->sum[m][i].n != n)
        i++;
    if (i == MOST_COUNTS)
        return kv_csv_fail(c, column[N], e, "is one number of decodes too many; 64 are read");
    f->n[m] += i == f->n[m];
    f->sum[m][i].n = n;
    /* as shares of the mean's time: the two runs may count in different units */
    double at_mean = attention(f->t, (double)v[CHUNK], (double)v[PREFIX], n, mean, &outside);
    double more = attention(f->t, (double)v[CHUNK], (double)v[PREFIX], n, mean + deviation, &outside);
    double x = (more - at_mean) / at_mean * mean_us / skew_us;
    f->sum[m][i].xy += x * (skew_us - mean_us) / skew_us;
    f->sum[m][i].xx += x * x;
    return true;
}

static int by_decodes(const void *first, const void *second)
{
    const struct skew_sum *a = first, *b = second;
    return (a->n > b->n) - (a->n < b->n);
}

bool kv_layer_skew_read(struct kv_layer_attention *t, const char *path, int fold, int folds, struct kv_arena *a,
                        struct kv_err *e)
{
    static const char *const names[] = {"n", "nb", "pc", "kp", "kvs", "kv_big", "t_mean_us", "t_skew_us"};
    enum { COLUMNS = sizeof names / sizeof *names };
    struct skew_fit *f = KV_NEW(a, struct skew_fit);
    struct kv_csv c;
    int column[COLUMNS];
    f->t = t;
    if (!kv_csv_open(&c, path, a, e))
        return false;
    bool good = kv_csv_bind(&c, names, COLUMNS, COLUMNS, column, e);
    enum kv_next next = KV_NEXT_ROW;
    while (good && (next = kv_csv_next(&c, e)) == KV_NEXT_ROW)
        if (!folds || c.line % folds != fold)
            good = take_skew(f, &c, column, e);
    kv_csv_close(&c);
    for (int m = 0; m < 2; m++) {
        struct kv_skew *s = &t->skew[m];
        qsort(f->sum[m], (size_t)f->n[m], sizeof *f->sum[m], by_decodes);
        s->n = f->n[m];
        s->decodes = KV_NEW_N(a, double, s->n);
        s->alpha = KV_NEW_N(a, double, s->n);
        for (int i = 0; i < s->n; i++) {
            s->decodes[i] = f->sum[m][i].n;
            s->alpha[i] = f->sum[m][i].xx > 0 ? fmax(0, f->sum[m][i].xy / f->sum[m][i].xx) : 0;
        }
    }
    return good && next == KV_NEXT_END;
}

static bool read_skew(struct kv_timing *t, struct layers *s, const char *folder, bool *there, struct kv_err *e)
{
    static const char *const names[] = {"skew.csv", "skew_every4th.csv"};
    *there = false;
    for (int i = 0; i < 2 && !*there; i++) {
        const char *path = kv_format(t->arena, "%s/%s", folder, names[i]);
        *there = !access(path, F_OK);
        if (*there && !kv_layer_skew_read(&s->attention, path, 0, 0, t->arena, e))
            return false;
        if (*there)
            kv_timing_reads(t, path);
    }
    return true;
}

static bool read_layers(struct kv_timing *t, struct layers *s, const char *folder, struct kv_err *e)
{
    static const char *const columns[] = {"prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"};
    const char *name[OPERATORS];
    double times[OPERATORS];
    const char *path = kv_format(t->arena, "%s/attention.csv", folder);
    for (int i = 0; i < OPERATORS; i++) {
        name[i] = operators[i].name;
        times[i] = operators[i].per_layer * s->layers + operators[i].per_step;
    }
    s->attention = kv_layer_attention_empty();
    bool good = read_curve(t, &s->dense, folder, "dense.csv", "tokens", name, times, OPERATORS, e) &&
                read_curve(t, &s->heads, folder, "per_sequence.csv", "sequences", heads, (double[]){1, 1}, HEADS, e) &&
                kv_timing_rows(t, path, columns, 4, false, take_attention, &s->attention, e);
    if (good)
        return kv_layer_attention_build(&s->attention, path, t->arena, e);
    kv_ragged_drop(&s->attention.prefill);
    kv_ragged_drop(&s->attention.decode);
    kv_ragged_drop(&s->attention.mixed);
    return false;
}

bool kv_timing_open_layers(struct kv_timing *t, const struct kv_model *m, const char *folder, struct kv_err *e)
{
    struct layers *s = KV_NEW(t->arena, struct layers);
    bool skew;
    s->layers = (double)m->layers;
    t->own = s;
    t->cost = cost;
    kv_timing_measured_with(t, m, KV_BF16);
    if (m->experts)
        return kv_fail(e, KV_USAGE, "%s '%s' is a mixture of experts, whose operators these tables do not have",
                       kv_timing_where(t), m->name);
    if (!read_layers(t, s, folder, e) || !read_skew(t, s, folder, &skew, e))
        return false;
    t->stamp = kv_format(t->arena, "table '%s': measured layers, for %lld of them%s%s", folder, (long long)m->layers,
                         skew ? "" : "; decodes of unequal lengths taken as equal (no skew.csv)",
                         t->overhead > 0 ? "" : "; no CPU time (step_overhead = 0)");
    return true;
}
