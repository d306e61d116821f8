/* SPDX-License-Identifier: GPL-3.0-or-later */
/* MInference: prefill computes a pattern of each head's attention; every entry stays, and decode reads all of them. */
#include "sim/policies/laws.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <string.h>

struct minference_params {
    const char *pattern;
    int64_t vertical, slash;
    int64_t *bound; /* made by prepare: (n_heads,) entries at most a prefill query of a head reads */
    int64_t n_heads;
};
#define AT(member) offsetof(struct minference_params, member)

static const struct kv_field minference_fields[] = {
    {.key = "pattern",
     .type = KV_T_TEXT,
     .offset = AT(pattern),
     .also = "patterns",
     .help = "the published JSON: a list over layers of {query head: [type, vertical, slash, score]}"},
    {.key = "vertical",
     .type = KV_T_COUNT,
     .offset = AT(vertical),
     .def = "1000",
     .min = 0,
     .max = 1 << 30,
     .help = "columns a head reads, where no pattern file is given"},
    {.key = "slash",
     .type = KV_T_COUNT,
     .offset = AT(slash),
     .def = "6096",
     .min = 0,
     .max = 1 << 30,
     .help = "diagonals a head reads, where no pattern file is given"},
};

enum { BLOCK_SPARSE_TOKENS = 100 * 64, FEWEST_VERTICAL = 30, FEWEST_SLASH = 50 };

/* Both numbers of ["vertical_and_slash", 1000, 6096, 0.96] as a bound; false when it is none of the known types. */
static bool head_bound(const json_t *head, int64_t *bound)
{
    const char *type = json_string_value(json_array_get(head, 0));
    const json_t *first = json_array_get(head, 1), *second = json_array_get(head, 2);
    if (!type || !json_is_integer(first) || !json_is_integer(second))
        return false;
    int64_t a = json_integer_value(first), b = json_integer_value(second);
    if (a < 0 || b < 0 || a > 1 << 30 || b > 1 << 30)
        return false;
    if (!strcmp(type, "block_sparse"))
        *bound = BLOCK_SPARSE_TOKENS;
    else if (!strcmp(type, "stream_llm"))
        *bound = a + b;
    else if (!strcmp(type, "vertical_and_slash"))
        *bound = (a > FEWEST_VERTICAL ? a : FEWEST_VERTICAL) + (b > FEWEST_SLASH ? b : FEWEST_SLASH);
    else
        return false;
    return true;
}

static bool take_pattern(struct minference_params *own, const json_t *root, const struct kv_shape *s, struct kv_err *e)
{
    if (!json_is_array(root) || (int64_t)json_array_size(root) != s->layers)
        return kv_fail(e, KV_DATA, "%s: not a list of %lld layers; use the pattern made for this model", own->pattern,
                       (long long)s->layers);
    for (int64_t layer = 0; layer < s->layers; layer++) {
        const json_t *heads = json_array_get(root, (size_t)layer);
        if ((int64_t)json_object_size(heads) != s->q_heads)
            return kv_fail(e, KV_DATA, "%s: layer %lld: not an object of %lld query heads", own->pattern,
                           (long long)layer, (long long)s->q_heads);
        const char *name;
        json_t *head;
        int64_t i = layer * s->q_heads;
        json_object_foreach ((json_t *)(uintptr_t)heads, name, head) {
            if (!head_bound(head, &own->bound[i++]))
                return kv_fail(e, KV_DATA, "%s: layer %lld: head '%s' is no [type, vertical, slash, score]",
                               own->pattern, (long long)layer, name);
        }
    }
    return true;
}

static bool prepare_minference(struct kv_policy *p, const struct kv_shape *s, struct kv_arena *a, struct kv_err *e)
{
    struct minference_params *own = p->reads_params;
    own->n_heads = own->pattern ? s->layers * s->q_heads : 1;
    own->bound = kv_alloc_many(a, (size_t)own->n_heads, sizeof *own->bound, "an attention pattern", e);
    if (!own->bound)
        return false;
    own->bound[0] = own->vertical + own->slash;
    if (!own->pattern)
        return true;
    json_error_t why;
    p->input = own->pattern;
    FILE *in = fopen(own->pattern, "r");
    if (!in)
        return kv_fail(e, KV_DATA, "cannot open pattern '%s': %s", own->pattern, strerror(errno));
    json_t *root = json_loadf(in, 0, &why);
    fclose(in);
    if (!root)
        return kv_fail(e, KV_DATA, "%s:%d:%d: not JSON: %s", own->pattern, why.line, why.column, why.text);
    bool good = take_pattern(own, root, s, e);
    json_decref(root);
    return good;
}

static struct kv_summary no_summary(const struct kv_policy *p)
{
    (void)p;
    return (struct kv_summary){0};
}

static double minference_read_sum(const struct kv_policy *p, int64_t prefill, int64_t last)
{
    const struct minference_params *own = p->reads_params;
    double sum = 0, n = (double)prefill, all = (double)last * ((double)last + 1) / 2 - n * (n + 1) / 2;
    for (int64_t i = 0; i < own->n_heads; i++) {
        double knee = (double)(own->bound[i] < prefill ? own->bound[i] : prefill);
        sum += knee * (knee + 1) / 2 + (n - knee) * (double)own->bound[i];
    }
    return sum / (double)own->n_heads + all;
}

static const struct kv_reads reads_minference = {
    .field = minference_fields,
    .n_fields = sizeof minference_fields / sizeof *minference_fields,
    .params_size = sizeof(struct minference_params),
    .prepare = prepare_minference,
    .summary = no_summary,
    .read_sum = minference_read_sum,
};

const struct kv_kind kv_kind_minference = {
    .name = "minference",
    .title = "MInference: sparse prefill, full memory",
    .source = "Jiang et al. 2024, arXiv 2407.02490; microsoft/MInference",
    .differs = "columns and diagonals are counted as if they never overlapped",
    .preset = "when=never",
    .law = &kv_law_all,
    .score = &kv_score_none,
    .reads = &reads_minference,
};
