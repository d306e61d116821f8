/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What [engine] says, as the rules of an engine: the defaults that go by the device, and the pool. */
#ifndef KV_SERVE_RULES_H
#define KV_SERVE_RULES_H

#include "sim/serve/serve.h"

/* All but the pool. */
void kv_serve_rules(struct kv_engine_rules *rules, const struct kv_serve_asked *asked, struct kv_arena *a);

/* The pool of a replica, for out->policy: `pages`, `layout`, `watermark`, `page_bytes` of the rules, and `pool`,
 * `pages`, `blocks`, `page_bytes` of what is served. KV_NO when there is nothing to serve from; KV_USAGE. */
bool kv_serve_pool(struct kv_served *out, struct kv_engine_rules *rules, const struct kv_serve_asked *asked,
                   const struct kv_shape *shape, const struct kv_classes *classes, struct kv_arena *a,
                   struct kv_err *e);

#endif
