/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Which entries stay, by the published rules (notes/policies.md 2-9) applied to lists of positions: scores in double,
 * sorted, lower positions first among equals. It shares no code with sim/ but the documented hash of random numbers.
 * Channels are drawn: each number is a function of where it belongs.
 *
 * Exact draws hold small whole numbers, many of them equal, so that sums are exact in any order and sets must be equal
 * to the last entry. Others are spread over orders of magnitude: there a set is right when nothing that stayed scores
 * lower than what left, but for the rounding of sums, and the model goes on from it. */
#ifndef KV_TESTS_PICK_H
#define KV_TESTS_PICK_H

#include "sim/core/cache.h"
#include "sim/core/random.h"
#include "tests/laws/brute.h"

#include <float.h>
#include <stdlib.h>

enum { SETS_LANES = 36, SETS_HEADS = 12, MOST_SCORED = SETS_HEADS * MOST_HELD };
static const double ROUNDING = 1e-5; /* of sums in f32, relative */

enum spread { WHOLE, HALVES, MOSTLY_ZERO, LOGNORMAL };

struct item {
    double score;
    int64_t head, i;
};

struct pick {
    uint64_t key;
    enum spread spread;
    bool exact;
    bool known;                             /* the rule of the score: else any set of the right size will do */
    struct kv_cache *subject;               /* after the pass that is modelled */
    int64_t total;                          /* entries of the layer that may stay together, where lanes share */
    double gathered[SETS_LANES][MOST_HELD]; /* H2O: attention so far, by position */
    int stored[SETS_LANES][MOST_HELD];      /* L2 as released: positions in the order they lie in storage */
    int64_t n_stored[SETS_LANES];
    int64_t ties[SETS_LANES]; /* entries that the order of positions chose */
    double score[SETS_HEADS][MOST_HELD];
    struct item item[MOST_SCORED];
    char problem[200];
};

/* ---- channels ---- */

static bool is_static(int channel)
{
    return channel == KV_KEY_NORM || channel == KV_VALUE_NORM || channel == KV_EXTERNAL;
}

static bool is_attention(int channel)
{
    return channel <= KV_LATER_SUM;
}

/* The number of a position; row: of all rows of the layer. */
static float number_of(const struct pick *p, int channel, int64_t layer, int64_t row, int64_t pass, int64_t position)
{
    const uint64_t odd = UINT64_C(0x9e3779b97f4a7c15);
    uint64_t place = (((uint64_t)channel * odd + (uint64_t)layer) * odd + (uint64_t)row) * odd +
                     (uint64_t)(is_static(channel) ? 0 : pass + 1);
    struct dice d = dice_for(p->key + place * odd, (uint64_t)position);
    bool falls = channel == KV_KEY_COSINE || channel == KV_EXTERNAL; /* below zero as well */
    int64_t offset = falls ? 1 : 0;
    switch (p->spread) {
    case WHOLE:
        return (float)(roll(&d, 0, 3) - offset);
    case HALVES:
        return (float)((int64_t)1 << roll(&d, 0, 4)) / 4 - (float)offset;
    case MOSTLY_ZERO:
        return one_in(&d, 6) ? (float)(roll(&d, 0, 2) - offset) : 0;
    case LOGNORMAL:
        break;
    }
    double normal = -6;
    for (int i = 0; i < 12; i++)
        normal += (double)(roll_bits(&d) >> 11) * 0x1p-53;
    double value = exp(1.5 * normal);
    return (float)(falls && one_in(&d, 2) ? -value : value);
}

/* Query heads of a lane. */
static int64_t rows_of(const struct brute *b)
{
    return b->d->kv_heads * b->d->group / b->heads;
}

/* The number of entry `i` of a lane in one of its rows. */
static double entry_number(const struct brute *b, const struct step *s, int channel, int64_t layer, int64_t head,
                           int64_t row, int64_t i)
{
    int64_t rows = is_attention(channel) ? rows_of(b) : 1;
    return (double)number_of(b->own, channel, layer, head * rows + row, s - b->step,
                             b->lane[layer * b->heads + head].at[i]);
}

/* ---- recipes ---- */

static const struct recipe {
    const char *score;
    int channel;
    double sign;
} recipes[] = {
    {"window", KV_WINDOW_SEEN, 1},  {"tova", KV_LAST_ROW, 1},     {"l2", KV_KEY_NORM, -1}, {"external", KV_EXTERNAL, 1},
    {"keydiff", KV_KEY_COSINE, -1}, {"expected", KV_EXPECTED, 1}, {"lagkv", KV_LAG, 1},
};

static const struct recipe *recipe_of(const struct draw *d)
{
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++)
        if (!strcmp(recipes[i].score, d->score->name))
            return &recipes[i];
    return NULL;
}

static bool score_is(const struct draw *d, const char *name)
{
    return !strcmp(d->score->name, name);
}

static bool gathers(const struct draw *d)
{
    return score_is(d, "h2o") || score_is(d, "observed");
}

static bool is_known(const struct draw *d)
{
    return recipe_of(d) || gathers(d) || score_is(d, "cur") || score_is(d, "random") || score_is(d, "l2-upstream") ||
           d->score->positional;
}

/* Of n numbers, what number i becomes of its neighbours'; averages as sums, which are in the same order. */
static double pooled(const struct draw *d, const double *x, int64_t n, int64_t i)
{
    int64_t half = d->pooling == POOL_NONE ? 0 : d->kernel / 2;
    double value = x[i], sum = 0;
    for (int64_t j = larger(i - half, 0); j <= i + half && j < n; j++) {
        sum += x[j];
        value = x[j] > value ? x[j] : value;
    }
    return d->pooling == POOL_AVG ? sum : value;
}

static void reduce_into(const struct draw *d, double *all, double value, bool first)
{
    if (first)
        *all = value;
    else if (d->reduce == REDUCE_MAX)
        *all = value > *all ? value : *all;
    else
        *all += value;
}

/* The candidates' scores; the window's own tokens are not scored (notes 4.1). */
static void score_by_recipe(const struct brute *b, const struct step *s, int64_t layer, int64_t head,
                            const struct recipe *recipe, int64_t n, double *out)
{
    const struct draw *d = b->d;
    int64_t from = b->room[head].from, scored = larger(n - draw_window(d, s->n_patch), 0), channel = recipe->channel;
    if (score_is(d, "window") && draw_counts_units(d) && d->at & KV_AT_CHUNK && s->decode_step < 0)
        channel = KV_WINDOW_LOCAL; /* notes 4.3 */
    int64_t rows = is_attention((int)channel) ? rows_of(b) : 1;
    double x[MOST_HELD], all[MOST_HELD];
    for (int64_t i = 0; i < n; i++)
        out[i] = all[i] = 0;
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t i = 0; i < scored; i++)
            x[i] = entry_number(b, s, (int)channel, layer, head, row, from + i);
        for (int64_t i = 0; i < scored; i++)
            reduce_into(d, &all[i], d->reduce_first ? x[i] : pooled(d, x, scored, i), row == 0);
    }
    for (int64_t i = 0; i < scored; i++)
        out[i] = recipe->sign * (d->reduce_first ? pooled(d, all, scored, i) : all[i]);
}

/* ---- other scores ---- */

static void gather(const struct brute *b, const struct step *s, int64_t layer, int64_t head)
{
    struct pick *p = b->own;
    int64_t lane = layer * b->heads + head;
    const struct lane *l = &b->lane[lane];
    for (int64_t i = 0; i < l->n - s->n_patch; i++) {
        double sum = 0;
        for (int64_t row = 0; row < rows_of(b); row++)
            reduce_into(b->d, &sum, entry_number(b, s, KV_COLUMN_SUM, layer, head, row, i), row == 0);
        p->gathered[lane][l->at[i]] += sum;
    }
}

/* Squared norms as shares of their block, of keys and of values (notes 9). */
static void score_by_leverage(const struct brute *b, const struct step *s, int64_t layer, int64_t head, int64_t n,
                              double *out)
{
    int64_t from = b->room[head].from;
    for (int64_t start = 0; start < n; start += b->d->block) {
        double keys = 0, values = 0;
        for (int64_t i = start; i < n && i < start + b->d->block; i++) {
            keys += pow(entry_number(b, s, KV_KEY_NORM, layer, head, 0, from + i), 2);
            values += pow(entry_number(b, s, KV_VALUE_NORM, layer, head, 0, from + i), 2);
        }
        for (int64_t i = start; i < n && i < start + b->d->block; i++) {
            double own = pow(entry_number(b, s, KV_KEY_NORM, layer, head, 0, from + i), 2) *
                         pow(entry_number(b, s, KV_VALUE_NORM, layer, head, 0, from + i), 2);
            out[i] = keys * values > 0 ? own / (keys * values) : 0;
        }
    }
}

/* The last slots of the storage stay, sinks and recents before them; of the others the shortest keys (notes 6). */
static void score_by_slot(const struct brute *b, const struct step *s, int64_t layer, int64_t head, int64_t n,
                          double *out)
{
    const struct pick *p = b->own;
    int64_t lane = layer * b->heads + head;
    const struct lane *l = &b->lane[lane];
    for (int64_t i = 0; i < n; i++) {
        out[i] = -entry_number(b, s, KV_KEY_NORM, layer, head, 0, i);
        for (int64_t slot = larger(n - b->d->local_size, 0); slot < n; slot++)
            if (p->stored[lane][slot] == l->at[i])
                out[i] = FLT_MAX;
    }
}

static void score_lane(const struct brute *b, const struct step *s, int64_t layer, int64_t head, int64_t n, double *out)
{
    const struct draw *d = b->d;
    const struct pick *p = b->own;
    const struct recipe *recipe = recipe_of(d);
    int64_t lane = layer * b->heads + head, tokens = s->start + s->n_new;
    const int *at = b->lane[lane].at + b->room[head].from;
    if (recipe)
        score_by_recipe(b, s, layer, head, recipe, n, out);
    else if (score_is(d, "cur"))
        score_by_leverage(b, s, layer, head, n, out);
    else if (score_is(d, "l2-upstream"))
        score_by_slot(b, s, layer, head, n, out);
    for (int64_t i = 0; i < n; i++) {
        if (gathers(d))
            out[i] = p->gathered[lane][at[i]] / (score_is(d, "observed") ? (double)(tokens - at[i]) : 1);
        if (score_is(d, "random"))
            out[i] = kv_uniform(kv_random((uint64_t)d->seed, kv_purpose("random policy"),
                                          (uint64_t)layer << 32 | (uint64_t)head, (uint64_t)at[i]));
        out[i] = (double)(float)out[i];
    }
}

/* ---- order ---- */

/* Highest first, then lower heads, then lower positions. */
static int by_score(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->head != y->head ? (x->head > y->head) - (x->head < y->head) : (x->i > y->i) - (x->i < y->i);
}

static void sort_scores(struct pick *p, int64_t head, int64_t from, int64_t to)
{
    for (int64_t i = from; i < to; i++)
        p->item[i - from] = (struct item){p->score[head][i], head, i};
    qsort(p->item, (size_t)(to - from), sizeof *p->item, by_score);
}

static double slack_at(const struct pick *p, double cut)
{
    return p->exact || isinf(cut) ? 0 : ROUNDING * fabs(cut);
}

/* ---- budgets of a layer that scores share out (notes 9) ---- */

/* How many of the `total` highest each head has; items are those of all heads. Returns how many are about as high as
 * the lowest of these. */
static int64_t count_best(struct pick *p, int64_t n, int64_t total, int64_t *count)
{
    int64_t near = 0;
    total = smaller(total, n);
    qsort(p->item, (size_t)n, sizeof *p->item, by_score);
    for (int64_t i = 0; i < total; i++)
        count[p->item[i].head]++;
    for (int64_t i = 0; i < n && total && !p->exact; i++)
        near += fabs(p->item[i].score - p->item[total - 1].score) <= 4 * slack_at(p, p->item[total - 1].score);
    return near;
}

/* AdaKV of KVCache-Factory. Every head keeps a share of the mean, and at least what min_tokens says. */
static int64_t share_adaptive(struct brute *b, const int64_t *n, int64_t *keep)
{
    struct pick *p = b->own;
    int64_t count[SETS_HEADS] = {0}, items = 0, total = 0, near;
    for (int64_t h = 0; h < b->heads; h++) {
        int64_t first = b->room[h].first, end = n[h] - b->room[h].newest, base = keep[h] - first - b->room[h].newest;
        double best = 0, all = 0;
        struct item *own = p->item + items;
        for (int64_t i = first; i < end; i++) {
            own[i - first] = (struct item){p->score[h][i], h, i};
            all += p->score[h][i];
        }
        int64_t scored = larger(end - first, 0);
        qsort(own, (size_t)scored, sizeof *own, by_score);
        for (int64_t i = 0; i < smaller(base, scored); i++)
            best += own[i].score;
        for (int64_t i = 0; i < scored && b->d->normalize && all > 0; i++)
            own[i].score = (double)(float)(own[i].score * (double)(float)(best / all));
        items += scored;
        total += base;
    }
    near = count_best(p, items, total, count);
    for (int64_t h = 0; h < b->heads; h++) {
        int64_t fixed = b->room[h].first + b->room[h].newest, base = keep[h] - fixed;
        double held_back = b->d->held_back;
        int64_t own = (int64_t)((double)base * held_back);
        if (own < b->d->floor - fixed) {
            own = b->d->floor - fixed;
            held_back = (double)own / (double)base;
        }
        keep[h] = fixed + (int64_t)rint((double)count[h] * (1 - held_back) + (double)own);
    }
    return near;
}

/* AdaKV of kvpress: each head's own best are safe. */
static int64_t share_safeguard(struct brute *b, const int64_t *n, int64_t *keep)
{
    struct pick *p = b->own;
    int64_t items = 0, total = 0;
    for (int64_t h = 0; h < b->heads; h++) {
        int64_t safe = larger((int64_t)((double)keep[h] * b->d->held_back), b->d->floor);
        struct item *own = p->item + items;
        for (int64_t i = 0; i < n[h]; i++)
            own[i] = (struct item){p->score[h][i], h, i};
        qsort(own, (size_t)n[h], sizeof *own, by_score);
        for (int64_t i = 0; i < n[h] && i < safe; i++)
            own[i].score = INFINITY;
        items += n[h];
        total += keep[h];
    }
    memset(keep, 0, sizeof *keep * (size_t)b->heads);
    return count_best(p, items, total, keep);
}

/* ---- one layer ---- */

static bool subject_has(const struct brute *b, int64_t layer, int64_t head, int64_t position)
{
    const struct pick *p = b->own;
    return kv_set_has(kv_cache_set(p->subject, layer, head), position);
}

/* The `keep` best stay; where sums are rounded, those that the code under test kept, when they are as good. */
static void pick_lane(struct brute *b, int64_t layer, int64_t head, int64_t n, int64_t keep)
{
    struct pick *p = b->own;
    struct lane *l = &b->lane[layer * b->heads + head];
    int64_t from = b->room[head].from, stay = 0, equal = 0, chosen = 0;
    sort_scores(p, head, 0, n);
    double cut = keep ? p->item[keep - 1].score : INFINITY, slack = slack_at(p, cut);
    for (int64_t rank = 0; rank < n; rank++) {
        const struct item *item = &p->item[rank];
        bool stays = rank < keep;
        if (!p->exact || !p->known) {
            stays = subject_has(b, layer, head, l->at[from + item->i]);
            if (p->known && (stays ? item->score < cut - slack : item->score > cut + slack) && !*p->problem)
                snprintf(p->problem, sizeof p->problem,
                         "layer %d, head %d: position %d of score %.9g %s, the cut is %.9g", (int)layer, (int)head,
                         l->at[from + item->i], item->score, stays ? "stays" : "leaves", cut);
        }
        l->keep[from + item->i] = stays;
        stay += stays;
        equal += item->score == cut;
        chosen += item->score == cut && stays;
    }
    if (keep && equal > chosen)
        p->ties[layer * b->heads + head] += equal;
    if (stay != keep && !*p->problem)
        snprintf(p->problem, sizeof p->problem, "layer %d, head %d: %lld candidates stay, expected %lld", (int)layer,
                 (int)head, (long long)stay, (long long)keep);
}

/* Storage after the pass: what was local, in its order, then the others, shortest key first. */
static void store_again(struct brute *b, const struct step *s, int64_t layer, int64_t head, int64_t n)
{
    struct pick *p = b->own;
    int64_t lane = layer * b->heads + head, m = b->d->local_size, stored = 0, others = 0;
    const struct lane *l = &b->lane[lane];
    int old[MOST_HELD];
    memcpy(old, p->stored[lane], sizeof old);
    for (int64_t slot = 0; slot < n; slot++) {
        int64_t i = 0;
        while (l->at[i] != old[slot])
            i++;
        if (!l->keep[i])
            continue;
        if (slot >= n - m)
            p->stored[lane][stored++] = old[slot];
        else
            p->item[others++] = (struct item){-entry_number(b, s, KV_KEY_NORM, layer, head, 0, i), 0, i};
    }
    qsort(p->item, (size_t)others, sizeof *p->item, by_score);
    for (int64_t i = 0; i < others; i++)
        p->stored[lane][stored++] = l->at[p->item[i].i];
    p->n_stored[lane] = stored;
}

static void append_stored(struct brute *b, int64_t lane, int64_t n)
{
    struct pick *p = b->own;
    for (int64_t i = p->n_stored[lane]; i < n; i++)
        p->stored[lane][i] = b->lane[lane].at[i];
}

/* Scores of all heads, protected ones above all. */
static void score_layer(struct brute *b, const struct step *s, int64_t layer, const int64_t *n)
{
    struct pick *p = b->own;
    for (int64_t h = 0; h < b->heads; h++)
        score_lane(b, s, layer, h, n[h], p->score[h]);
    for (int64_t h = 1; h < b->heads && draw_by_layer(b->d); h++)
        for (int64_t i = 0; i < n[0]; i++)
            p->score[0][i] += p->score[h][i];
    for (int64_t h = 0; h < b->heads; h++)
        for (int64_t i = 0; i < n[h]; i++) {
            if (draw_by_layer(b->d))
                p->score[h][i] = p->score[0][i];
            if (i < b->room[h].first || i >= n[h] - b->room[h].newest)
                p->score[h][i] = INFINITY;
        }
}

static void share_out(struct brute *b, int64_t layer, const int64_t *n, int64_t *keep)
{
    struct pick *p = b->own;
    int64_t near = b->d->rule == RULE_ADAPTIVE ? share_adaptive(b, n, keep) : share_safeguard(b, n, keep);
    for (int64_t h = 0; h < b->heads; h++) {
        int64_t held = kv_cache_held(p->subject, layer, h);
        if (!p->known || llabs(held - smaller(keep[h], n[h])) <= near)
            keep[h] = held;
    }
}

/* For brute.decide. */
static void decide_by_scores(struct brute *b, const struct step *s, int64_t layer)
{
    const struct draw *d = b->d;
    int64_t n[SETS_HEADS], keep[SETS_HEADS], all = 0, total = 0;
    bool any = false, slots = score_is(d, "l2-upstream");
    for (int64_t h = 0; h < b->heads; h++) {
        n[h] = b->lane[layer * b->heads + h].n - s->n_patch - b->room[h].from;
        keep[h] = b->room[h].bounded ? b->room[h].keep : n[h];
        any |= n[h] > keep[h];
        all += n[h];
        total += keep[h];
        if (gathers(d))
            gather(b, s, layer, h);
        if (slots && b->room[h].bounded)
            append_stored(b, layer * b->heads + h, n[h]);
    }
    if (draw_shares(d))
        any = all > total;
    if (d->score->positional) {
        choose_by_lot(b, s, layer);
        return;
    }
    if (any)
        score_layer(b, s, layer, n);
    if (any && draw_shares(d))
        share_out(b, layer, n, keep);
    for (int64_t h = 0; h < b->heads; h++) {
        if (any && n[h] > keep[h])
            pick_lane(b, layer, h, n[h], keep[h]);
        if (slots && b->room[h].bounded)
            store_again(b, s, layer, h, n[h]);
    }
}

static void pick_start(struct pick *p, struct brute *b, const struct draw *d)
{
    struct dice r = dice_for(97, d->number);
    memset(p, 0, sizeof *p);
    p->key = roll_bits(&r);
    p->spread = d->number % 2 ? LOGNORMAL : (enum spread)(d->number / 2 % 3);
    p->exact = p->spread != LOGNORMAL;
    p->known = is_known(d);
    brute_start(b, d);
    b->in_place = true;
    b->decide = decide_by_scores;
    b->own = p;
}

#endif
