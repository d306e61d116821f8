/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "engine/selector.h"

#include "sim/core/channel.h"
#include "sim/core/random.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static struct kv_selector_lane *lane_of(const struct kv_selector *s, int64_t layer, int64_t head)
{
    return &s->lane[layer * s->rules.heads + head];
}

static bool score_is(const struct kv_rules *r, const char *name)
{
    return !strcmp(r->score, name);
}

/* The lanes of a layer have one budget together. */
static bool shares(const struct kv_rules *r)
{
    return r->rule == KV_RULE_ADAPTIVE || r->rule == KV_RULE_SAFEGUARD;
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

static const struct recipe *recipe_of(const struct kv_rules *r)
{
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++)
        if (score_is(r, recipes[i].score))
            return &recipes[i];
    return NULL;
}

static bool gathers(const struct kv_rules *r)
{
    return score_is(r, "h2o") || score_is(r, "observed");
}

static bool is_known(const struct kv_rules *r)
{
    return recipe_of(r) || gathers(r) || score_is(r, "cur") || score_is(r, "random") || score_is(r, "l2-upstream") ||
           r->positional;
}

static int64_t rows_of(const struct kv_selector *s, int channel)
{
    return channel <= KV_LATER_SUM ? s->rows : 1;
}

static double number(const struct kv_selector *s, int channel, int64_t layer, int64_t head, int64_t row, int64_t i)
{
    return s->number(s->context, channel, layer, head, row, i);
}

/* Of n numbers, what number i becomes of its neighbours'; averages as sums, which are in the same order. */
static double pooled(const struct kv_rules *r, const double *x, int64_t n, int64_t i)
{
    int64_t half = r->pools_mean || r->pools_max ? r->kernel / 2 : 0;
    double value = x[i], sum = 0;
    for (int64_t j = larger(i - half, 0); j <= i + half && j < n; j++) {
        sum += x[j];
        value = x[j] > value ? x[j] : value;
    }
    return r->pools_mean ? sum : value;
}

static void reduce_into(const struct kv_rules *r, double *all, double value, bool first)
{
    if (first)
        *all = value;
    else if (r->reduces_max)
        *all = value > *all ? value : *all;
    else
        *all += value;
}

/* The candidates' scores; the window's own tokens are not scored (4.1). */
static void score_by_recipe(const struct kv_selector *s, int64_t layer, int64_t head, const struct recipe *recipe,
                            int64_t n, double *out)
{
    const struct kv_rules *r = &s->rules;
    int64_t from = s->room[head].from, scored = larger(n - kv_rules_window(r, s->turn.n_patch), 0);
    int channel = recipe->channel;
    if (score_is(r, "window") && kv_rules_count_units(r) && r->at_chunks && s->turn.decode_step < 0)
        channel = KV_WINDOW_LOCAL; /* 4.3 */
    double *x = s->row, *all = s->sum;
    for (int64_t i = 0; i < n; i++)
        out[i] = all[i] = 0;
    for (int64_t row = 0; row < rows_of(s, channel); row++) {
        for (int64_t i = 0; i < scored; i++)
            x[i] = number(s, channel, layer, head, row, from + i);
        for (int64_t i = 0; i < scored; i++)
            reduce_into(r, &all[i], r->reduce_first ? x[i] : pooled(r, x, scored, i), row == 0);
    }
    for (int64_t i = 0; i < scored; i++)
        out[i] = recipe->sign * (r->reduce_first ? pooled(r, all, scored, i) : all[i]);
}

/* ---- other scores ---- */

static void gather(const struct kv_selector *s, int64_t layer, int64_t head)
{
    const struct kv_selector_lane *l = lane_of(s, layer, head);
    for (int64_t i = 0; i < l->n - s->turn.n_patch; i++) {
        double sum = 0;
        for (int64_t row = 0; row < rows_of(s, KV_COLUMN_SUM); row++)
            reduce_into(&s->rules, &sum, number(s, KV_COLUMN_SUM, layer, head, row, i), row == 0);
        l->gathered[l->at[i]] += sum;
    }
}

/* Squared norms as shares of their block, of keys and of values (9). */
static void score_by_leverage(const struct kv_selector *s, int64_t layer, int64_t head, int64_t n, double *out)
{
    int64_t from = s->room[head].from, block = s->rules.block;
    for (int64_t start = 0; start < n; start += block) {
        double keys = 0, values = 0;
        for (int64_t i = start; i < n && i < start + block; i++) {
            keys += pow(number(s, KV_KEY_NORM, layer, head, 0, from + i), 2);
            values += pow(number(s, KV_VALUE_NORM, layer, head, 0, from + i), 2);
        }
        for (int64_t i = start; i < n && i < start + block; i++) {
            double own = pow(number(s, KV_KEY_NORM, layer, head, 0, from + i), 2) *
                         pow(number(s, KV_VALUE_NORM, layer, head, 0, from + i), 2);
            out[i] = keys * values > 0 ? own / (keys * values) : 0;
        }
    }
}

/* The last slots of the storage stay, sinks and recents before them; of the others the shortest keys (6). */
static void score_by_slot(const struct kv_selector *s, int64_t layer, int64_t head, int64_t n, double *out)
{
    const struct kv_selector_lane *l = lane_of(s, layer, head);
    for (int64_t i = 0; i < n; i++) {
        out[i] = -number(s, KV_KEY_NORM, layer, head, 0, i);
        for (int64_t slot = larger(n - s->rules.local_size, 0); slot < n; slot++)
            if (l->stored[slot] == l->at[i])
                out[i] = FLT_MAX;
    }
}

static void score_lane(const struct kv_selector *s, int64_t layer, int64_t head, int64_t n, double *out)
{
    const struct kv_rules *r = &s->rules;
    const struct recipe *recipe = recipe_of(r);
    const struct kv_selector_lane *l = lane_of(s, layer, head);
    int64_t tokens = s->turn.start + s->turn.n_new;
    const int32_t *at = l->at + s->room[head].from;
    if (recipe)
        score_by_recipe(s, layer, head, recipe, n, out);
    else if (score_is(r, "cur"))
        score_by_leverage(s, layer, head, n, out);
    else if (score_is(r, "l2-upstream"))
        score_by_slot(s, layer, head, n, out);
    else
        memset(out, 0, sizeof *out * (size_t)n);
    for (int64_t i = 0; i < n; i++) {
        if (gathers(r))
            out[i] = l->gathered[at[i]] / (score_is(r, "observed") ? (double)(tokens - at[i]) : 1);
        if (score_is(r, "random"))
            out[i] = kv_uniform(kv_random((uint64_t)r->seed, kv_purpose("random policy"),
                                          (uint64_t)layer << 32 | (uint64_t)head, (uint64_t)at[i]));
        out[i] = (double)(float)out[i];
    }
}

/* ---- order ---- */

static int by_score(const void *a, const void *b)
{
    const struct kv_selector_item *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->head != y->head ? (x->head > y->head) - (x->head < y->head) : (x->i > y->i) - (x->i < y->i);
}

static void sort_scores(struct kv_selector *s, int64_t head, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        s->item[i] = (struct kv_selector_item){s->score[head * s->capacity + i], head, i};
    qsort(s->item, (size_t)n, sizeof *s->item, by_score);
}

static double slack_at(const struct kv_selector *s, double cut)
{
    return isinf(cut) ? 0 : s->rounding * fabs(cut);
}

/* ---- budgets of a layer that scores share out (notes/policies.md 9) ---- */

/* How many of the `total` highest each head has; items are those of all heads. Returns how many are about as high as
 * the lowest of these, so that rounding may exchange them; 0 when they are of one head, whose number is the same then.
 */
static int64_t count_best(struct kv_selector *s, int64_t n, int64_t total, int64_t *count)
{
    const struct kv_selector_item *item = s->item;
    int64_t near = 0;
    bool one_head = true;
    total = smaller(total, n);
    qsort(s->item, (size_t)n, sizeof *s->item, by_score);
    for (int64_t i = 0; i < total; i++)
        count[item[i].head]++;
    for (int64_t i = 0; i < n && total && s->rounding > 0; i++) {
        if (!(fabs(item[i].score - item[total - 1].score) <= 4 * slack_at(s, item[total - 1].score)))
            continue;
        near++;
        one_head &= item[i].head == item[total - 1].head;
    }
    return one_head ? 0 : near;
}

/* AdaKV of KVCache-Factory. Every head keeps a share of the mean, and at least what min_tokens says. */
static int64_t share_adaptive(struct kv_selector *s, const int64_t *n, int64_t *keep)
{
    const struct kv_rules *r = &s->rules;
    int64_t items = 0, total = 0;
    memset(s->count, 0, sizeof *s->count * (size_t)r->heads);
    for (int64_t h = 0; h < r->heads; h++) {
        int64_t first = s->room[h].first, end = n[h] - s->room[h].newest, base = keep[h] - first - s->room[h].newest;
        double best = 0, all = 0;
        struct kv_selector_item *own = s->item + items;
        for (int64_t i = first; i < end; i++) {
            own[i - first] = (struct kv_selector_item){s->score[h * s->capacity + i], h, i};
            all += own[i - first].score;
        }
        int64_t scored = larger(end - first, 0);
        qsort(own, (size_t)scored, sizeof *own, by_score);
        for (int64_t i = 0; i < smaller(base, scored); i++)
            best += own[i].score;
        for (int64_t i = 0; i < scored && r->normalize && all > 0; i++)
            own[i].score = (double)(float)(own[i].score * (double)(float)(best / all));
        items += scored;
        total += base;
    }
    int64_t near = count_best(s, items, total, s->count);
    for (int64_t h = 0; h < r->heads; h++) {
        int64_t fixed = s->room[h].first + s->room[h].newest, base = keep[h] - fixed;
        double held_back = r->held_back;
        int64_t own = (int64_t)((double)base * held_back);
        if (own < r->floor - fixed) {
            own = r->floor - fixed;
            held_back = (double)own / (double)base;
        }
        keep[h] = fixed + (int64_t)rint((double)s->count[h] * (1 - held_back) + (double)own);
    }
    return near;
}

/* AdaKV of kvpress: each head's own best are safe. */
static int64_t share_safeguard(struct kv_selector *s, const int64_t *n, int64_t *keep)
{
    const struct kv_rules *r = &s->rules;
    int64_t items = 0, total = 0;
    for (int64_t h = 0; h < r->heads; h++) {
        int64_t safe = larger((int64_t)((double)keep[h] * r->held_back), r->floor);
        struct kv_selector_item *own = s->item + items;
        for (int64_t i = 0; i < n[h]; i++)
            own[i] = (struct kv_selector_item){s->score[h * s->capacity + i], h, i};
        qsort(own, (size_t)n[h], sizeof *own, by_score);
        for (int64_t i = 0; i < n[h] && i < safe; i++)
            own[i].score = INFINITY;
        items += n[h];
        total += keep[h];
    }
    memset(keep, 0, sizeof *keep * (size_t)r->heads);
    return count_best(s, items, total, keep);
}

/* ---- one layer ---- */

static void note_problem(struct kv_selector *s, int64_t layer, int64_t head, const char *text)
{
    if (!*s->problem)
        snprintf(s->problem, sizeof s->problem, "pass %lld, layer %lld, head %lld: %s", (long long)s->turn.index,
                 (long long)layer, (long long)head, text);
}

/* The `keep` best stay; where sums are rounded, those that the code under test kept, when they are as good. */
static void pick_lane(struct kv_selector *s, int64_t layer, int64_t head, int64_t n, int64_t keep)
{
    struct kv_selector_lane *l = lane_of(s, layer, head);
    int64_t from = s->room[head].from, stay = 0, equal = 0, chosen = 0;
    char text[160];
    sort_scores(s, head, n);
    double cut = keep ? s->item[keep - 1].score : INFINITY, slack = slack_at(s, cut);
    for (int64_t rank = 0; rank < n; rank++) {
        const struct kv_selector_item *item = &s->item[rank];
        bool stays = rank < keep;
        if (s->rounding > 0 || !s->known) {
            stays = s->stays(s->context, layer, head, l->at[from + item->i]);
            if (s->known && (stays ? item->score < cut - slack : item->score > cut + slack)) {
                snprintf(text, sizeof text, "position %d of score %.9g %s, the cut is %.9g", l->at[from + item->i],
                         item->score, stays ? "stays" : "leaves", cut);
                note_problem(s, layer, head, text);
            }
        }
        l->keep[from + item->i] = stays;
        stay += stays;
        equal += item->score == cut;
        chosen += item->score == cut && stays;
    }
    if (keep && equal > chosen)
        l->ties += equal;
    if (stay != keep) {
        snprintf(text, sizeof text, "%lld candidates stay, expected %lld", (long long)stay, (long long)keep);
        note_problem(s, layer, head, text);
    }
}

/* Storage after the pass: what was local, in its order, then the others, shortest key first. */
static void store_again(struct kv_selector *s, int64_t layer, int64_t head, int64_t n)
{
    struct kv_selector_lane *l = lane_of(s, layer, head);
    int64_t stored = 0, others = 0;
    memcpy(s->old, l->stored, sizeof *s->old * (size_t)n);
    for (int64_t slot = 0; slot < n; slot++) {
        int64_t i = 0;
        while (l->at[i] != s->old[slot])
            i++;
        if (!l->keep[i])
            continue;
        if (slot >= n - s->rules.local_size)
            l->stored[stored++] = s->old[slot];
        else
            s->item[others++] = (struct kv_selector_item){-number(s, KV_KEY_NORM, layer, head, 0, i), 0, i};
    }
    qsort(s->item, (size_t)others, sizeof *s->item, by_score);
    for (int64_t i = 0; i < others; i++)
        l->stored[stored++] = l->at[s->item[i].i];
    l->n_stored = stored;
}

/* Scores of all heads, protected ones above all. */
static void score_layer(struct kv_selector *s, int64_t layer)
{
    const struct kv_rules *r = &s->rules;
    bool together = score_is(r, "tova"); /* one decision for all heads of a layer */
    for (int64_t h = 0; h < r->heads; h++)
        score_lane(s, layer, h, s->n[h], s->score + h * s->capacity);
    for (int64_t h = 1; h < r->heads && together; h++)
        for (int64_t i = 0; i < s->n[0]; i++)
            s->score[i] += s->score[h * s->capacity + i];
    for (int64_t h = r->heads - 1; h >= 0; h--)
        for (int64_t i = 0; i < s->n[h]; i++) {
            double *score = &s->score[h * s->capacity + i];
            if (together)
                *score = s->score[i];
            if (i < s->room[h].first || i >= s->n[h] - s->room[h].newest)
                *score = INFINITY;
        }
}

static void share_out(struct kv_selector *s, int64_t layer)
{
    int64_t near =
        s->rules.rule == KV_RULE_ADAPTIVE ? share_adaptive(s, s->n, s->left) : share_safeguard(s, s->n, s->left);
    for (int64_t h = 0; h < s->rules.heads; h++) {
        const struct kv_selector_lane *l = lane_of(s, layer, h);
        int64_t held = 0;
        for (int64_t i = 0; i < s->n[h]; i++)
            held += s->stays(s->context, layer, h, l->at[i]);
        if (!s->known || llabs(held - smaller(s->left[h], s->n[h])) <= near)
            s->left[h] = held;
    }
}

void kv_selector_by_position(struct kv_selector *s, int64_t layer, int64_t head)
{
    const struct kv_rules_room *room = &s->room[head];
    struct kv_selector_lane *l = lane_of(s, layer, head);
    int64_t end = l->n - s->turn.n_patch, keep = smaller(room->keep, end - room->from),
            first = smaller(room->first, keep);
    for (int64_t i = room->from; i < end && room->bounded; i++)
        l->keep[i] = i < room->from + first || i >= end - (keep - first);
}

static void decide(struct kv_selector *s, int64_t layer)
{
    const struct kv_rules *r = &s->rules;
    int64_t all = 0, total = 0;
    bool any = false, slots = score_is(r, "l2-upstream");
    for (int64_t h = 0; h < r->heads; h++) {
        struct kv_selector_lane *l = lane_of(s, layer, h);
        s->n[h] = l->n - s->turn.n_patch - s->room[h].from;
        s->left[h] = s->room[h].bounded ? s->room[h].keep : s->n[h];
        any |= s->n[h] > s->left[h];
        all += s->n[h];
        total += s->left[h];
        if (gathers(r))
            gather(s, layer, h);
        for (; slots && s->room[h].bounded && l->n_stored < s->n[h]; l->n_stored++)
            l->stored[l->n_stored] = l->at[l->n_stored];
    }
    if (shares(r))
        any = all > total;
    if (any)
        score_layer(s, layer);
    if (any && shares(r))
        share_out(s, layer);
    for (int64_t h = 0; h < r->heads; h++) {
        if (any && s->n[h] > s->left[h])
            pick_lane(s, layer, h, s->n[h], s->left[h]);
        if (slots && s->room[h].bounded)
            store_again(s, layer, h, s->n[h]);
    }
}

void kv_selector_rooms(struct kv_selector *s, int64_t layer)
{
    for (int64_t head = 0; head < s->rules.heads; head++) {
        struct kv_selector_lane *l = lane_of(s, layer, head);
        s->room[head] = kv_rules_room(&s->rules, &s->turn, l->at, l->n, l->last, layer, head);
        l->frozen = s->room[head].from;
        for (int64_t i = 0; i < l->n; i++)
            l->keep[i] = true;
    }
}

/* The policy, then the window above it; then the patch goes. */
void kv_selector_apply(struct kv_selector *s, int64_t layer)
{
    for (int64_t head = 0; head < s->rules.heads; head++) {
        struct kv_selector_lane *l = lane_of(s, layer, head);
        int64_t end = l->n - s->turn.n_patch, kept = 0, n = 0;
        for (int64_t i = 0; i < end; i++)
            kept += l->keep[i];
        int64_t too_many = kv_rules_slide(&s->rules, layer) ? kept - kv_rules_slide(&s->rules, layer) : 0;
        for (int64_t i = 0; i < end; i++) {
            l->keep[i] &= !(l->keep[i] && too_many-- > 0);
            if (l->keep[i])
                l->at[n++] = l->at[i];
        }
        l->n = n;
        if (s->turn.evict)
            l->last = n;
    }
}

/* Entry for entry, also where nothing had to be chosen. */
static void compare_lane(struct kv_selector *s, int64_t layer, int64_t head)
{
    const struct kv_selector_lane *l = lane_of(s, layer, head);
    int64_t tokens = s->turn.start + s->turn.n_new, i = 0;
    char text[80];
    for (int64_t position = 0; position < tokens && !*s->problem; position++) {
        bool expected = i < l->n && l->at[i] == position, stays = s->stays(s->context, layer, head, position);
        i += expected;
        if (stays == expected)
            continue;
        snprintf(text, sizeof text, "position %lld %s and should not have", (long long)position,
                 stays ? "stayed" : "left");
        note_problem(s, layer, head, text);
    }
}

void kv_selector_begin(struct kv_selector *s, const struct kv_turn *turn)
{
    s->turn = *turn;
    for (int64_t i = 0; i < s->lanes && !*s->problem; i++) {
        struct kv_selector_lane *l = &s->lane[i];
        KV_ASSERT(l->n + turn->n_new + turn->n_patch <= s->capacity);
        for (int64_t j = 0; j < turn->n_new + turn->n_patch; j++) /* a patch takes the positions behind (4.3) */
            l->at[l->n++] = (int32_t)(turn->start + j);
    }
}

void kv_selector_layer(struct kv_selector *s, int64_t layer)
{
    if (*s->problem)
        return;
    kv_selector_rooms(s, layer);
    if (s->rules.positional)
        for (int64_t head = 0; head < s->rules.heads; head++)
            kv_selector_by_position(s, layer, head);
    else
        decide(s, layer);
    kv_selector_apply(s, layer);
    for (int64_t head = 0; head < s->rules.heads; head++)
        compare_lane(s, layer, head);
}

/* ---- open ---- */

static bool open_lane(struct kv_selector *s, struct kv_selector_lane *l, struct kv_arena *a, struct kv_err *e)
{
    size_t n = (size_t)s->capacity;
    bool slots = score_is(&s->rules, "l2-upstream");
    l->at = kv_alloc_many(a, n, sizeof *l->at, "positions of a lane", e);
    l->keep = kv_alloc_many(a, n, sizeof *l->keep, "entries of a lane", e);
    if (gathers(&s->rules))
        l->gathered = kv_alloc_many(a, n, sizeof *l->gathered, "sums of a lane", e);
    if (slots)
        l->stored = kv_alloc_many(a, n, sizeof *l->stored, "slots of a lane", e);
    return l->at && l->keep && (l->gathered || !gathers(&s->rules)) && (l->stored || !slots);
}

bool kv_selector_open(struct kv_selector *s, const struct kv_rules *rules, struct kv_arena *a, struct kv_err *e)
{
    int64_t heads = rules->heads;
    *s = (struct kv_selector){.rules = *rules,
                              .known = is_known(rules),
                              .rows = 1,
                              .lanes = rules->layers * heads,
                              .capacity = rules->prompt + rules->output + rules->patch + 1};
    size_t n = (size_t)s->capacity;
    s->lane = kv_alloc_many(a, (size_t)s->lanes, sizeof *s->lane, "lanes", e);
    s->room = KV_NEW_N(a, struct kv_rules_room, heads);
    s->n = KV_NEW_N(a, int64_t, heads);
    s->left = KV_NEW_N(a, int64_t, heads);
    s->count = KV_NEW_N(a, int64_t, heads);
    s->score = kv_alloc_many(a, (size_t)heads * n, sizeof *s->score, "scores of a layer", e);
    s->item = kv_alloc_many(a, (size_t)heads * n, sizeof *s->item, "scores of a layer", e);
    s->row = kv_alloc_many(a, n, sizeof *s->row, "scores of a lane", e);
    s->sum = kv_alloc_many(a, n, sizeof *s->sum, "scores of a lane", e);
    s->old = kv_alloc_many(a, n, sizeof *s->old, "slots of a lane", e);
    bool good = s->lane && s->score && s->item && s->row && s->sum && s->old;
    for (int64_t i = 0; good && i < s->lanes; i++)
        good = open_lane(s, &s->lane[i], a, e);
    return good;
}
