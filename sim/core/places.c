/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/core/places.h"

#include <string.h>

bool kv_places_open(struct kv_cache *c, struct kv_arena *a, struct kv_err *e)
{
    int64_t *place = kv_alloc_many(a, KV_MOMENTS * (size_t)(c->lanes + c->shape->layers), sizeof *place, "lanes", e);
    c->unions = kv_alloc_many(a, 2 * (size_t)kv_words(c->tokens), sizeof *c->unions, "sets of positions", e);
    if (!place || !c->unions)
        return false;
    c->places = KV_NEW(a, struct kv_places);
    for (int at = 0; at < KV_MOMENTS; at++, place += c->lanes + c->shape->layers) {
        c->places->head[at] = place;
        c->places->layer[at] = place + c->lanes;
    }
    return true;
}

/* Pages of [end, until) that begin anew, and one more when the page `end` lies in had lost all its entries. */
static int64_t new_pages(const struct kv_cache *c, int64_t end, int64_t until, bool tail_empty)
{
    int64_t page = c->ledger.page, more = (until + page - 1) / page - (end + page - 1) / page;
    return until > end && end % page && tail_empty ? more + 1 : more;
}

/* Whether a lane holds nothing in the page that token `seen` falls into. */
static bool tail_empty(const struct kv_cache *c, int64_t i)
{
    const struct kv_cache_lane *lane = &c->lane[i];
    int64_t page = c->ledger.page;
    return lane->end == c->seen && !kv_set_count_range(lane->set, c->seen / page * page, c->seen);
}

/* Pages at the end of the last pass, and with the tokens up to `until`. */
void kv_places_grow(struct kv_cache *c, int64_t until, enum kv_moment to)
{
    struct kv_places *at = c->places;
    bool all_empty = true;
    for (int64_t layer = 0, i = 0; layer < c->shape->layers; layer++) {
        bool layer_empty = true;
        for (int64_t h = 0; h < c->shape->store_heads; h++, i++) {
            bool empty = tail_empty(c, i);
            at->head[to][i] = at->head[KV_BEFORE][i] + new_pages(c, c->seen, until, empty);
            layer_empty &= empty;
        }
        at->layer[to][layer] = at->layer[KV_BEFORE][layer] + new_pages(c, c->seen, until, layer_empty);
        all_empty &= layer_empty;
    }
    at->shared[to] = at->shared[KV_BEFORE] + new_pages(c, c->seen, until, all_empty);
}

/* Pages of the sets as they are. */
void kv_places_count(struct kv_cache *c)
{
    struct kv_places *at = c->places;
    int64_t end = c->seen + c->pass.n_new, page = c->ledger.page, words = kv_words(end);
    uint64_t *layer_union = c->unions, *all_union = c->unions + kv_words(c->tokens);
    memset(all_union, 0, sizeof *all_union * (size_t)words);
    for (int64_t layer = 0, i = 0; layer < c->shape->layers; layer++) {
        memset(layer_union, 0, sizeof *layer_union * (size_t)words);
        for (int64_t h = 0; h < c->shape->store_heads; h++, i++) {
            at->head[KV_AFTER][i] = kv_set_pages(c->lane[i].set, end, page);
            for (int64_t w = 0; w < words; w++)
                layer_union[w] |= c->lane[i].set[w];
        }
        at->layer[KV_AFTER][layer] = kv_set_pages(layer_union, end, page);
        for (int64_t w = 0; w < words; w++)
            all_union[w] |= layer_union[w];
    }
    at->shared[KV_AFTER] = kv_set_pages(all_union, end, page);
}

void kv_places_next(struct kv_cache *c)
{
    struct kv_places *at = c->places;
    memcpy(at->head[KV_BEFORE], at->head[KV_AFTER], sizeof(int64_t) * (size_t)(c->lanes + c->shape->layers));
    at->shared[KV_BEFORE] = at->shared[KV_AFTER];
}
