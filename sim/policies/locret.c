/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Locret: scores from a trained head, one global budget that grows with the tokens seen, the newest ones protected. */
#include "sim/policies/laws.h"

#include <math.h>

struct locret_params {
    int64_t stabilizers, local_len;
};

static const struct kv_field locret_fields[] = {
    {.key = "stabilizers",
     .type = KV_T_COUNT,
     .offset = offsetof(struct locret_params, stabilizers),
     .def = "2500",
     .min = 0,
     .max = 1 << 30,
     .help = "newest entries protected while prefill goes on; also the least budget"},
    {.key = "local_len",
     .type = KV_T_COUNT,
     .offset = offsetof(struct locret_params, local_len),
     .def = "100",
     .min = 0,
     .max = 1 << 30,
     .help = "last prompt tokens that are a chunk of their own"},
};

static bool prepare_locret(struct kv_policy *p, const struct kv_shape *s, struct kv_arena *a, struct kv_err *e)
{
    (void)s;
    (void)a;
    (void)e;
    p->when.tail = ((const struct locret_params *)p->law_params)->local_len;
    return true;
}

static struct kv_room locret_room(const struct kv_policy *p, const struct kv_shape *s, const struct kv_lane *lane,
                                  const struct kv_pass *pass)
{
    (void)s;
    (void)lane;
    int64_t share = kv_round_up(kv_trunc_share(p->kept, pass->seen + pass->n_new), 64);
    int64_t least = ((const struct locret_params *)p->law_params)->stabilizers;
    int64_t local = ((const struct locret_params *)p->law_params)->local_len;
    bool goes_on = pass->seen + pass->n_new < pass->prefill - local; /* the last chunks protect nothing */
    return (struct kv_room){.keep = share > least ? share : least, .newest = goes_on ? least : 0, .steady = KV_VARIES};
}

/* The paper charges each pass alone and never less than `stabilizers`, which is not what the method does. */
static struct kv_paper_form paper_locret(const struct kv_policy *p, const struct kv_request *r, int64_t chunk)
{
    (void)r;
    const struct locret_params *own = p->law_params;
    return (struct kv_paper_form){.defined = true,
                                  .chunk = chunk,
                                  .locret = true,
                                  .kv_sparsity =
                                      isnan(p->keys.compression_ratio) ? 1.0 - p->kept : p->keys.compression_ratio,
                                  .stabilizers = own->stabilizers,
                                  .local = own->local_len};
}

static const struct kv_law law_locret = {
    .name = "growing",
    .help = "the share of all tokens seen so far, rounded up to 64, at least `stabilizers`; all entries compete anew",
    .field = locret_fields,
    .n_fields = sizeof locret_fields / sizeof *locret_fields,
    .params_size = sizeof(struct locret_params),
    .budget = KV_BUDGET_SHARE,
    .at = KV_AT_CHUNK,
    .needs_budget = true,
    .prepare = prepare_locret,
    .room = locret_room,
    .paper = paper_locret,
};

static const struct kv_score score_external = {
    .name = "external",
    .help = "one score per entry, from a trained head",
    .field = kv_recipe_fields,
    .n_fields = KV_RECIPE_FIELDS,
    .params_size = sizeof(struct kv_recipe_keys),
    .needs = KV_BIT(KV_EXTERNAL),
    .recipe = true,
};

const struct kv_kind kv_kind_locret = {
    .name = "locret",
    .title = "Locret: trained retaining heads",
    .source = "Huang et al. 2024, arXiv 2410.01805; as cached by princeton-pli/PruLong",
    .differs = "",
    .preset = "when=chunk",
    .also = "",
    .law = &law_locret,
    .score = &score_external,
};
