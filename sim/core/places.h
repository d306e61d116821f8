/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Pages of a cache without compaction: a page goes when every entry in it went. A part of the cache; nobody else asks.
 */
#ifndef KV_PLACES_H
#define KV_PLACES_H

#include "sim/core/cache.h"

bool kv_places_open(struct kv_cache *c, struct kv_arena *a, struct kv_err *e);
/* Pages with the tokens up to `until` added to what was held before the pass. Before anything of the pass is in a set.
 */
void kv_places_grow(struct kv_cache *c, int64_t until, enum kv_moment to);
/* Pages after the pass, from the sets, which hold all its tokens that stay. */
void kv_places_count(struct kv_cache *c);
/* What is after this pass is before the next. */
void kv_places_next(struct kv_cache *c);

#endif
