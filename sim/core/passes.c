/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The one place that shapes passes: chunks, the patch behind them, Locret's own last chunk, decode steps. */
#include "sim/core/policy.h"

#include "sim/core/least.h"

#include <math.h>

int64_t kv_policy_output(const struct kv_policy *p, int64_t output)
{
    static const int64_t most = 1 << 30;
    double scaled = (double)output * p->keys.output_scale;
    if (p->keys.output_scale == 1 || output < 1)
        return output;
    return scaled < 1 ? 1 : scaled < (double)most ? llrint(scaled) : most;
}

int64_t kv_request_steps(const struct kv_request *r)
{
    int64_t last_fed = r->output > 0 ? r->prompt + r->output - 1 : r->prefill;
    return last_fed > r->prefill ? last_fed : r->prefill;
}

/* Where the chunk that holds token `seen` ends. Chunks start at 0, C, 2C, ... in the region [0, region) before the
 * tail. */
static int64_t chunk_end(const struct kv_when *w, const struct kv_request *r, int64_t seen, int64_t *region)
{
    *region = r->prefill > w->tail ? r->prefill - w->tail : 0;
    if (seen >= *region)
        return r->prefill;
    int64_t start = seen < w->chunk ? 0 : seen / w->chunk * w->chunk; /* dividing takes as long as all the rest */
    return w->chunk < *region - start ? start + w->chunk : *region;
}

static void plan_prefill(const struct kv_when *w, const struct kv_request *r, int64_t limit, struct kv_pass *p)
{
    int64_t region, end = chunk_end(w, r, p->seen, &region), left = end - p->seen;
    int64_t patch = w->at & KV_AT_CHUNK && end < r->prefill ? kv_least(w->patch, r->prefill) : 0;
    p->n_new = kv_least(left, limit);
    if (p->n_new == left && left > limit - patch) /* the chunk's end needs room for its patch */
        p->n_new = limit - patch < 1 ? 1 : limit - patch;
    bool ends_chunk = p->n_new == left;
    p->n_patch = ends_chunk ? patch : 0;
    p->last = ends_chunk && end == r->prefill;
    p->evict = (ends_chunk && w->at & KV_AT_CHUNK) || (p->last && w->at & KV_AT_POSTFILL);
    p->decode_step = -1;
    p->repeat = p->n_new < left ? (left - 1) / limit : 1; /* pieces of a split chunk, but for those at its end */
    if (p->repeat < 1)
        p->repeat = 1;
    /* the whole chunks of the region are alike, but for one that ends the prefill */
    if (p->seen < region && p->n_new == w->chunk && !p->last)
        p->repeat = (region - p->seen) / w->chunk - (region == r->prefill && region % w->chunk == 0);
}

static void plan_decode(const struct kv_when *w, int64_t end, struct kv_pass *p)
{
    p->n_new = 1;
    p->n_patch = 0;
    p->last = false;
    p->decode_step = p->seen - p->prefill;
    bool evicts = w->at & KV_AT_DECODE;
    int64_t in_period = w->every > 1 ? p->decode_step % w->every : 0; /* of decoded tokens, from the first */
    p->evict = evicts && in_period == w->every - 1;
    p->repeat = end - p->seen;
    if (evicts && w->every > 1)
        p->repeat = p->evict ? 1 : kv_least(p->repeat, w->every - 1 - in_period);
}

bool kv_pass_next(const struct kv_when *w, const struct kv_request *r, int64_t index, int64_t seen, int64_t unit,
                  int64_t limit, struct kv_pass *pass)
{
    int64_t end = kv_request_steps(r);
    if (seen >= end)
        return false;
    *pass = (struct kv_pass){.index = index, .seen = seen, .prompt = r->prompt, .prefill = r->prefill};
    if (seen < r->prefill)
        plan_prefill(w, r, limit, pass);
    else
        plan_decode(w, end, pass);
    pass->n_unit = unit + pass->n_new;
    return true;
}
