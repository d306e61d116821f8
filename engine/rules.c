/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "engine/rules.h"

#include <math.h>
#include <string.h>

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* ---- what a policy is ---- */

enum kv_rule kv_rule_of(const char *law)
{
    static const char *const names[] = {"all",  "fixed", "uniform",  "pyramid",  "growing",
                                        "mask", "heads", "adaptive", "safeguard"};
    int rule = 0;
    while (rule < KV_RULE_UNKNOWN && strcmp(names[rule], law) != 0)
        rule++;
    return (enum kv_rule)rule;
}

static bool score_is(const struct kv_rules *r, const char *name)
{
    return !strcmp(r->score, name);
}

/* The budget of n tokens: int((1-s)*n), upstream's. */
static int64_t share_of(const struct kv_rules *r, int64_t n)
{
    return isnan(r->share) ? r->tokens : (int64_t)(r->share * (double)n);
}

bool kv_rules_count_units(const struct kv_rules *r)
{
    return r->rule == KV_RULE_UNIFORM || r->rule == KV_RULE_PYRAMID;
}

int64_t kv_rules_window(const struct kv_rules *r, int64_t n_patch)
{
    return score_is(r, "window") ? larger(r->window_size - n_patch, 0) : 0;
}

void kv_rules_full_heads(const double *gate, int64_t lanes, double sparsity, bool *full)
{
    int64_t n = sparsity >= 1 ? 0 : lanes - (int64_t)ceil(sparsity * (double)(lanes - 1));
    for (int64_t i = 0; i < lanes; i++) {
        int64_t before = 0;
        for (int64_t j = 0; j < lanes; j++)
            before += gate[j] > gate[i] || (j < i && gate[j] >= gate[i]);
        full[i] = before < n;
    }
}

/* ---- passes ---- */

/* Chunks start at 0, n, 2n, ...; the last is the remainder. Locret's last `local` tokens are a chunk of their own, a
 * prompt of no more than that one chunk. Every chunk but the last is patched with the prompt's end. The last output is
 * never fed. */
bool kv_rules_next(const struct kv_rules *r, const struct kv_turn *before, struct kv_turn *turn)
{
    int64_t n = r->prefill, start = before ? before->start + before->n_new : 0,
            local = r->rule == KV_RULE_GROWING ? r->local : 0, chunked = n > local ? n - local : 0,
            fed = r->output ? r->prompt + r->output - 1 : 0, unit = before && !before->evict ? before->n_unit : 0;
    if (start >= n && start >= fed)
        return false;
    *turn = (struct kv_turn){.index = before ? before->index + 1 : 0, .start = start, .n_new = 1, .decode_step = -1};
    if (start < n) {
        turn->n_new = start < chunked ? smaller(r->chunk, chunked - start) : n - start;
        turn->last = start + turn->n_new == n;
        turn->n_patch = turn->last ? 0 : smaller(r->patch, n);
        turn->evict = r->at_chunks || (turn->last && r->at_postfill);
    } else {
        turn->decode_step = start - n;
        turn->evict = r->at_decode && (turn->decode_step + 1) % r->every == 0;
    }
    turn->n_unit = unit + turn->n_new;
    return true;
}

/* ---- how many stay ---- */

static int64_t next_multiple(int64_t n, int64_t of)
{
    return (n + of - 1) / of * of;
}

/* SnapKV (notes/policies.md 4.2) and PyramidKV (5): of T tokens with capacity C, window included. T <= w keeps all
 * (ours); one layer alone keeps the mean (ours). */
static int64_t snapkv_stay(const struct kv_rules *r, int64_t t, int64_t c, int64_t layer)
{
    int64_t w = r->window_size, b = c - w;
    if (t < c || t <= w)
        return t;
    if (c <= w)
        return w;
    if (r->rule == KV_RULE_UNIFORM || t < 2 * b || r->layers == 1)
        return smaller(b, t - w) + w;
    int64_t low = b / r->beta, high = 2 * b - low;
    if (high >= t - w) {
        high = t - w;
        low = 2 * b - high;
    }
    return smaller(high - layer * ((high - low) / (r->layers - 1)), t - w) + w;
}

/* kvpress' PyramidKV (5): real steps, of T tokens and a budget that the window is not part of. */
static int64_t kvpress_stay(const struct kv_rules *r, int64_t t, int64_t layer)
{
    double share = isnan(r->share) ? (double)r->tokens : (double)t * r->share, w = (double)r->window_size,
           low = share / (double)r->beta, high = 2 * share - low;
    if (high >= (double)t - w) {
        high = (double)t - w;
        low = 2 * share - high;
    }
    bool sloped = (double)t >= high && high >= low && low >= w && r->layers > 1;
    return (int64_t)rint(sloped ? high - (double)layer * ((high - low) / (double)(r->layers - 1)) : share);
}

/* HeadKV (9 and its source): base - base//beta is every head's, the rest is shared out by importance. */
static int64_t head_stay(const struct kv_rules *r, int64_t total, int64_t layer, int64_t kv_head)
{
    int64_t lanes = r->layers * r->kv_heads, window = kv_rules_window(r, 0);
    double all = 0, base = (double)larger(total - window, 0), pool = floor(base / r->head_beta);
    for (int64_t i = 0; i < lanes; i++)
        all += r->importance[i];
    return window +
           (int64_t)rint(r->importance[layer * r->kv_heads + kv_head] / all * pool * (double)lanes + (base - pool));
}

/* SnapKV and PyramidKV: chunks compete alone, patch included, and are then frozen (4.3); after prefill the whole lane
 * competes, capacity counted on the full prompt, at least the window, rounded up (4.2). While decoding, of which nobody
 * published anything, the whole lane competes for what the rules would leave of all tokens so far, never rounded. */
static void unit_room(const struct kv_rules *r, const struct kv_turn *p, int64_t n, int64_t last, int64_t layer,
                      struct kv_rules_room *room)
{
    bool kvpress = r->rule == KV_RULE_PYRAMID && r->kvpress;
    if (p->decode_step >= 0) {
        int64_t t = p->start + 1;
        room->keep =
            kvpress ? kvpress_stay(r, t, layer) : snapkv_stay(r, t, larger(share_of(r, t), r->window_size), layer);
    } else if (r->at_chunks) {
        room->from = last;
        room->keep =
            kvpress ? kvpress_stay(r, p->n_unit, layer)
                    : snapkv_stay(r, p->n_unit + p->n_patch, share_of(r, p->n_unit) + p->n_patch, layer) - p->n_patch;
    } else {
        int64_t c = next_multiple(larger(share_of(r, r->prompt), r->window_size), r->round_to);
        room->keep = kvpress ? kvpress_stay(r, n, layer) : snapkv_stay(r, n, c, layer);
    }
    room->keep = larger(room->keep, 0);
}

int64_t kv_rules_slide(const struct kv_rules *r, int64_t layer)
{
    return r->window ? r->window[layer] : 0;
}

/* Sinks and recents never leave, nor do the last queries where a window of them scores; they are part of the budget and
 * raise it where they are more. A sliding-window layer's sinks leave with the window, so that the recents alone stay
 * (docs/DESIGN.md). */
static void guard_room(const struct kv_rules *r, const struct kv_turn *p, const int32_t *at, int64_t n, int64_t layer,
                       struct kv_rules_room *room)
{
    for (int64_t i = room->from; i < n - p->n_patch && !kv_rules_slide(r, layer); i++)
        room->first += at[i] < r->sinks;
    room->newest = larger(room->newest, larger(r->recents, kv_rules_window(r, p->n_patch)));
    if (kv_rules_slide(r, layer))
        room->keep = larger(room->keep, r->sinks + room->newest) - r->sinks;
    room->keep = larger(room->keep, room->first + room->newest);
    room->keep = larger(room->keep, r->floor - room->from);
}

struct kv_rules_room kv_rules_room(const struct kv_rules *r, const struct kv_turn *p, const int32_t *at, int64_t n,
                                   int64_t last, int64_t layer, int64_t head)
{
    int64_t guarded = r->sinks + r->recents, seen = p->start + p->n_new,
            kv_head = head / larger(r->heads / r->kv_heads, 1),
            total = isnan(r->share) && !r->tokens ? guarded : larger(share_of(r, r->prompt), guarded);
    struct kv_rules_room room = {.bounded = p->evict && !(r->share >= 1)}; /* keeping everything is no policy */
    switch (r->rule) {
    case KV_RULE_FIXED: /* notes/policies.md 2, 3, 6 */
        room.bounded &= layer >= r->skip;
        room.keep = total;
        break;
    case KV_RULE_ADAPTIVE: /* 9: the mean of the layer's lanes */
    case KV_RULE_SAFEGUARD:
        room.keep = share_of(r, r->prompt);
        break;
    case KV_RULE_HEADS:
        room.keep = head_stay(r, share_of(r, r->prompt), layer, kv_head);
        break;
    case KV_RULE_MASK: /* 8.3 */
        room.bounded &= !r->full[layer * r->kv_heads + kv_head];
        room.keep = guarded;
        break;
    case KV_RULE_GROWING: /* 7 */
        room.keep = larger(next_multiple(share_of(r, seen), 64), r->stabilizers);
        room.newest = seen < r->prefill - r->local ? r->stabilizers : 0;
        break;
    case KV_RULE_UNIFORM:
    case KV_RULE_PYRAMID:
        unit_room(r, p, n, last, layer, &room);
        break;
    case KV_RULE_ALL:
    case KV_RULE_UNKNOWN:
        room.bounded = false;
    }
    if (!room.bounded)
        return (struct kv_rules_room){0};
    guard_room(r, p, at, n, layer, &room);
    return room;
}
