/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/core/policy.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define KV_KIND(name) extern const struct kv_kind kv_kind_##name;
#include "sim/policies/policies.def"
#undef KV_KIND
const struct kv_kind *const kv_kinds[] = {
#define KV_KIND(name) &kv_kind_##name,
#include "sim/policies/policies.def"
#undef KV_KIND
    NULL};

static const char *const when_words[] = {"never",        "chunk",           "postfill", "decode",
                                         "chunk+decode", "postfill+decode", NULL};
static const unsigned when_bits[] = {
    0, KV_AT_CHUNK, KV_AT_POSTFILL, KV_AT_DECODE, KV_AT_CHUNK | KV_AT_DECODE, KV_AT_POSTFILL | KV_AT_DECODE};
static const char *const store_words[] = {"kv-head", "query-head", NULL};
enum { TOKENS_MAX = 1 << 30 };

#define AT(member)           offsetof(struct kv_policy_keys, member)
#define NAMED(member, kind_) .key = #member, .type = kind_, .offset = AT(member)
const struct kv_field kv_policy_fields[] = {
    {.key = "kind",
     .type = KV_T_TEXT,
     .offset = AT(kind),
     .also = "method, type, name",
     .help = "the published method; a preset of the other keys"},
    {.key = "when",
     .type = KV_T_CHOICE,
     .offset = AT(when),
     .def = "never",
     .choices = when_words,
     .also = "evict",
     .help = "when it may evict: at the end of each prefill chunk, once after prefill, every N decoded tokens"},
    {.key = "chunk",
     .type = KV_T_COUNT,
     .offset = AT(chunk),
     .min = 1,
     .max = TOKENS_MAX,
     .also = "chunk_size, prefill_chunk_size",
     .help = "tokens of a prefill pass under this policy; auto: the run's"},
    {.key = "patch",
     .type = KV_T_COUNT,
     .offset = AT(patch),
     .def = "0",
     .min = 0,
     .max = TOKENS_MAX,
     .also = "patch_size",
     .help = "last prompt tokens appended to each chunk but the last, so that its scores come from "
             "the question; 0: plain chunks"},
    {.key = "every",
     .type = KV_T_COUNT,
     .offset = AT(every),
     .def = "1",
     .min = 1,
     .max = TOKENS_MAX,
     .also = "compression_interval",
     .help = "decoded tokens between evictions, where `when` has decode"},
    {.key = "keep",
     .type = KV_T_SHARE,
     .offset = AT(keep),
     .also = "budget, capacity, ratio, retention",
     .help = "budget: share of the tokens that stays"},
    {.key = "compression_ratio",
     .type = KV_T_SHARE,
     .offset = AT(compression_ratio),
     .also = "kv_sparsity",
     .help = "budget: share of the tokens removed (kvpress' word); keep = 1 - compression_ratio"},
    {.key = "tokens",
     .type = KV_T_COUNT,
     .offset = AT(tokens),
     .min = 1,
     .max = TOKENS_MAX,
     .also = "max_capacity_prompt, max_capacity_prompts, budget_size, target_size",
     .help = "budget: entries a lane may hold, window included; of each chunk under a law that freezes earlier chunks"},
    {.key = "bytes",
     .type = KV_T_BYTES,
     .offset = AT(bytes),
     .min = 1,
     .max = 0x1p50,
     .help = "budget: the same in bytes"},
    {.key = "sink_size",
     .type = KV_T_COUNT,
     .offset = AT(sink_size),
     .def = "0",
     .min = 0,
     .max = TOKENS_MAX,
     .also = "n_sink, sinks, sink, n_init, sink_tokens",
     .help = "first tokens that never leave"},
    {.key = "recent_size",
     .type = KV_T_COUNT,
     .offset = AT(recent_size),
     .def = "0",
     .min = 0,
     .max = TOKENS_MAX,
     .also = "recent, n_local, recents, local_window_size",
     .help = "newest tokens that never leave"},
    {.key = "window_size",
     .type = KV_T_COUNT,
     .offset = AT(window_size),
     .def = "64",
     .min = 0,
     .max = TOKENS_MAX,
     .also = "window, observation_window",
     .help = "last queries of a unit that score its keys; they stay themselves"},
    {.key = "min_tokens",
     .type = KV_T_COUNT,
     .offset = AT(min_tokens),
     .def = "0",
     .min = 0,
     .max = TOKENS_MAX,
     .also = "floor, min_tokens_per_head",
     .help = "no eviction leaves a lane with fewer entries"},
    {.key = "store",
     .type = KV_T_CHOICE,
     .offset = AT(store),
     .def = "kv-head",
     .choices = store_words,
     .help = "one set of entries for each KV head, or, as upstream without grouping, for each query head"},
    {.key = "kv_cache_dtype",
     .type = KV_T_CHOICE,
     .offset = AT(kv_cache_dtype),
     .def = "auto",
     .choices = kv_dtype_choices,
     .also = "dtype",
     .help = "element type of the entries; auto: the run's"},
    {NAMED(group_size, KV_T_COUNT), .def = "32", .min = 1, .max = 65536,
     .help = "int8, int4: elements that share a scale and a minimum (KIVI's G)"},
    {NAMED(residual_length, KV_T_COUNT), .def = "32", .min = 1, .max = 65536, .also = "residual",
     .help = "int8, int4: newest entries that stay in fp16 (KIVI's R)"},
    {NAMED(output_scale, KV_T_REAL), .def = "1.0", .min = 0.001, .max = 1000,
     .help = "answers under this policy are this many times as long, for models that evict may ramble: in counts and "
             "traffic, not in recorded or live runs"},
    {.key = "law", .type = KV_T_TEXT, .offset = AT(law), .help = "how many entries stay; auto: the kind's"},
    {.key = "score", .type = KV_T_TEXT, .offset = AT(score), .help = "which entries stay; auto: the kind's"},
};
const int kv_n_policy_fields = sizeof kv_policy_fields / sizeof *kv_policy_fields;
#undef NAMED
#undef AT

int64_t kv_trunc_share(double share, int64_t n)
{
    return (int64_t)(share * (double)n);
}

int64_t kv_round_up(int64_t n, int64_t step)
{
    return (n + step - 1) / step * step;
}

/* ---- names ---- */

const struct kv_kind *kv_kind_find(const char *name)
{
    for (int i = 0; kv_kinds[i]; i++)
        if (!strcmp(kv_kinds[i]->name, name))
            return kv_kinds[i];
    return NULL;
}

const char *kv_kind_default(const struct kv_kind *k, const struct kv_field *f, struct kv_arena *a)
{
    size_t length = strlen(f->key);
    for (const char *c = k->preset; *c; c += strspn(c, ", ")) {
        size_t part = strcspn(c, ",");
        if (part > length && !strncmp(c, f->key, length) && c[length] == '=')
            return kv_copy_part(a, c + length + 1, part - length - 1);
        c += part;
    }
    return f->def ? f->def : "auto";
}

static int n_kinds(void)
{
    int n = 0;
    while (kv_kinds[n])
        n++;
    return n;
}

/* "'x' is not known; did you mean 'y'?" over the names that `name_of` gives for each kind. */
static bool unknown_name(const char *where, const char *what, const char *word,
                         const char *(*name_of)(const struct kv_kind *), struct kv_arena *a, struct kv_err *e)
{
    const char **names = KV_NEW_N(a, const char *, n_kinds());
    const char *all = "";
    int n = 0;
    for (int i = 0; kv_kinds[i]; i++) {
        const char *name = name_of(kv_kinds[i]);
        bool seen = false;
        for (int j = 0; j < n; j++)
            seen |= !strcmp(names[j], name);
        if (seen)
            continue;
        names[n++] = name;
        all = kv_format(a, "%s%s%s", all, *all ? ", " : "", name);
    }
    const char *near = kv_nearest(word, names, n);
    for (int i = 0; !strcmp(what, "kind") && kv_kinds[i]; i++)
        if (kv_in_list(kv_kinds[i]->also, word))
            near = kv_kinds[i]->name;
    if (near)
        return kv_fail(e, KV_USAGE, "%s %s '%s' is not known; did you mean '%s'?", where, what, word, near);
    return kv_fail(e, KV_USAGE, "%s %s '%s' is not known; known: %s", where, what, word, all);
}

static const char *name_of_kind(const struct kv_kind *k)
{
    return k->name;
}
static const char *name_of_law(const struct kv_kind *k)
{
    return k->law->name;
}
static const char *name_of_score(const struct kv_kind *k)
{
    return k->score->name;
}

bool kv_kind_unknown(const char *where, const char *name, struct kv_arena *a, struct kv_err *e)
{
    return unknown_name(where, "kind", name, name_of_kind, a, e);
}

static const struct kv_setting *last_setting(const struct kv_setting *s, int n, const char *key)
{
    for (int i = n - 1; i >= 0; i--)
        if (!strcmp(s[i].key, key))
            return &s[i];
    return NULL;
}

/* The kind, then the law and the score, which keys may replace by those of another kind. */
static bool choose_parts(struct kv_policy *p, const struct kv_setting *s, int n, struct kv_arena *a, struct kv_err *e)
{
    const struct kv_setting *kind = last_setting(s, n, "kind"), *law = last_setting(s, n, "law"),
                            *score = last_setting(s, n, "score");
    if (!kind)
        return kv_fail(e, KV_USAGE, "%s no kind; add 'kind = full' or another of 'kvsim policies'", p->where);
    p->kind = kv_kind_find(kind->value);
    if (!p->kind)
        return kv_kind_unknown(kind->where, kind->value, a, e);
    p->law = p->kind->law;
    p->score = p->kind->score;
    if (law && strcmp(law->value, "auto")) {
        p->law = NULL;
        for (int i = 0; kv_kinds[i]; i++)
            if (!strcmp(kv_kinds[i]->law->name, law->value))
                p->law = kv_kinds[i]->law;
        if (!p->law)
            return unknown_name(law->where, "law", law->value, name_of_law, a, e);
    }
    if (score && strcmp(score->value, "auto")) {
        p->score = NULL;
        for (int i = 0; kv_kinds[i]; i++)
            if (!strcmp(kv_kinds[i]->score->name, score->value))
                p->score = kv_kinds[i]->score;
        if (!p->score)
            return unknown_name(score->where, "score", score->value, name_of_score, a, e);
    }
    return true;
}

/* ---- keys ---- */

/* Splits `key=value,key=value` into settings. */
static bool split_keys(const char *text, const char *where, struct kv_setting **out, int *n, struct kv_arena *a,
                       struct kv_err *e)
{
    int most = 1;
    for (const char *c = text; *c; c++)
        most += *c == ',';
    *out = KV_NEW_N(a, struct kv_setting, most);
    *n = 0;
    while (*text) {
        text += strspn(text, ", \t");
        size_t length = strcspn(text, ","), key = strcspn(text, "=");
        if (!length)
            break;
        if (key >= length)
            return kv_fail(e, KV_USAGE, "%s '%.*s' is no key=value", where, (int)length, text);
        const char *value = text + key + 1;
        size_t value_length = length - key - 1;
        while (key && isspace((unsigned char)text[key - 1]))
            key--;
        while (value_length && isspace((unsigned char)*value)) {
            value++;
            value_length--;
        }
        while (value_length && isspace((unsigned char)value[value_length - 1]))
            value_length--;
        (*out)[(*n)++] = (struct kv_setting){
            .key = kv_copy_part(a, text, key),
            .value = kv_copy_part(a, value, value_length),
            .where = where,
            .origin = where,
        };
        text += length;
    }
    return true;
}

static bool is_budget_key(const char *key)
{
    return !strcmp(key, "keep") || !strcmp(key, "compression_ratio") || !strcmp(key, "tokens") || !strcmp(key, "bytes");
}

static bool has_key(const struct kv_field *field, int n, const char *key)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(field[i].key, key))
            return true;
    return false;
}

/* Whether a key that a kind presets means anything to the law and the score, which may be other kinds'. */
static bool parts_read(const struct kv_policy *p, const char *key)
{
    if (is_budget_key(key))
        return p->law->budget != KV_BUDGET_NONE;
    if (!strcmp(key, "sink_size") || !strcmp(key, "recent_size"))
        return p->law->room != NULL;
    return has_key(kv_policy_fields, kv_n_policy_fields, key) || has_key(p->law->field, p->law->n_fields, key) ||
           has_key(p->score->field, p->score->n_fields, key);
}

/* The kind's own keys; its budget gives way to one of the user's. */
static int preset_settings(const struct kv_policy *p, const struct kv_setting *user, int n_user,
                           struct kv_setting **out, struct kv_arena *a, struct kv_err *e)
{
    bool own_budget = false;
    for (int i = 0; i < n_user; i++)
        own_budget |= is_budget_key(user[i].key) && strcmp(user[i].value, "auto");
    int n, kept = 0;
    const char *where = kv_format(a, "kind %s:", p->kind->name);
    if (!split_keys(p->kind->preset, where, out, &n, a, e))
        kv_bug(__FILE__, __LINE__, e->text);
    for (int i = 0; i < n; i++)
        if (parts_read(p, (*out)[i].key) && (!own_budget || !is_budget_key((*out)[i].key))) {
            (*out)[kept] = (*out)[i];
            (*out)[kept++].origin = kv_format(a, "kind %s", p->kind->name);
        }
    return kept;
}

/* Seen in what was written, so that another mistake of the section does not hide it. */
static void check_two_budgets(const struct kv_policy *p, const struct kv_setting *user, int n, struct kv_err *e)
{
    const char *first = NULL;
    for (int i = 0; i < n; i++) {
        if (!is_budget_key(user[i].key) || !strcmp(user[i].value, "auto"))
            continue;
        if (first)
            kv_fail(e, KV_USAGE, "%s two budgets, '%s' and '%s'; keep one", p->where, first, user[i].key);
        first = user[i].key;
    }
}

/* Exactly one budget, or none where the law knows its own number. */
static bool read_budget(struct kv_policy *p, struct kv_err *e)
{
    const struct kv_policy_keys *k = &p->keys;
    const char *said[4];
    int n = 0;
    if (!isnan(k->keep))
        said[n++] = "keep";
    if (!isnan(k->compression_ratio))
        said[n++] = "compression_ratio";
    if (k->tokens != KV_UNSET)
        said[n++] = "tokens";
    if (k->bytes != KV_UNSET)
        said[n++] = "bytes";
    if (!n && p->law->needs_budget)
        return kv_fail(e, KV_USAGE, "%s no budget: give %s", p->where,
                       p->law->budget & KV_BUDGET_TOKENS ? "one of keep, compression_ratio, tokens, bytes"
                                                         : "keep or compression_ratio");
    if (n && !p->law->budget)
        return kv_fail(e, KV_USAGE, "%s law '%s' takes no budget; remove '%s'", p->where, p->law->name, said[0]);
    bool share = n && (said[0][0] == 'k' || said[0][0] == 'c');
    if (share && !(p->law->budget & KV_BUDGET_SHARE))
        return kv_fail(e, KV_USAGE, "%s law '%s' takes no share; give 'tokens' or 'bytes'", p->where, p->law->name);
    if (n && !share && !(p->law->budget & KV_BUDGET_TOKENS))
        return kv_fail(e, KV_USAGE, "%s law '%s' takes a share; give 'keep' or 'compression_ratio'", p->where,
                       p->law->name);
    p->kept = !isnan(k->keep) ? k->keep : 1.0 - k->compression_ratio;
    p->budget = k->tokens;
    return true;
}

static bool check_guard(const struct kv_policy *p, struct kv_err *e)
{
    const char *key = p->keys.sink_size ? "sink_size" : p->keys.recent_size ? "recent_size" : NULL;
    if (p->law->room || !key)
        return true;
    return kv_fail(e, KV_USAGE, "%s law '%s' does not read '%s'; remove it", p->where, p->law->name, key);
}

static bool check_score(const struct kv_policy *p, struct kv_err *e)
{
    const struct kv_recipe_keys *recipe = p->score_params;
    if (p->score->recipe && recipe->kernel_size % 2 == 0)
        return kv_fail(e, KV_USAGE, "%s kernel_size = %lld has no middle; use %lld or %lld", p->where,
                       (long long)recipe->kernel_size, (long long)recipe->kernel_size - 1,
                       (long long)recipe->kernel_size + 1);
    if (p->score->kept && p->law->freezes)
        return kv_fail(e, KV_USAGE,
                       "%s score '%s' orders a whole lane, and law '%s' freezes parts of it; change one of them",
                       p->where, p->score->name, p->law->name);
    if (p->law->share && p->score->positional)
        return kv_fail(e, KV_USAGE, "%s law '%s' shares budgets by scores, and score '%s' has none; give another score",
                       p->where, p->law->name, p->score->name);
    return true;
}

static bool check_when(struct kv_policy *p, struct kv_err *e)
{
    p->when = (struct kv_when){.at = when_bits[p->keys.when],
                               .chunk = p->keys.chunk == KV_UNSET ? 0 : p->keys.chunk,
                               .patch = p->keys.patch,
                               .every = p->keys.every};
    if (p->when.at & ~p->law->at)
        return kv_fail(e, KV_USAGE, "%s law '%s' cannot act at '%s'", p->where, p->law->name, when_words[p->keys.when]);
    if (p->when.at && p->law->room && !strcmp(p->score->name, "none"))
        return kv_fail(e, KV_USAGE, "%s score 'none' chooses nothing, but law '%s' evicts; give a score", p->where,
                       p->law->name);
    if (p->when.patch && !(p->when.at & KV_AT_CHUNK))
        return kv_fail(e, KV_USAGE, "%s patch = %lld needs eviction at chunks; add 'when = chunk' or remove it",
                       p->where, (long long)p->when.patch);
    if (p->when.patch && p->score->positional)
        return kv_fail(e, KV_USAGE,
                       "%s patch = %lld changes nothing for score '%s', which reads positions alone; "
                       "remove it",
                       p->where, (long long)p->when.patch, p->score->name);
    if (p->when.patch && p->when.patch != p->keys.window_size)
        return kv_fail(e, KV_USAGE,
                       "%s patch = %lld must equal window_size = %lld: the patch is the window that scores "
                       "a chunk",
                       p->where, (long long)p->when.patch, (long long)p->keys.window_size);
    return true;
}

bool kv_policy_read(struct kv_policy *p, const char *name, const char *where, const struct kv_setting *setting, int n,
                    struct kv_arena *a, struct kv_err *e)
{
    *p = (struct kv_policy){.name = name, .where = where, .kept = NAN, .budget = KV_UNSET};
    if (!choose_parts(p, setting, n, a, e))
        return false;
    KV_ASSERT(p->law && p->score);
    p->bind[p->n_binds++] = (struct kv_bind){.field = kv_policy_fields, .n = kv_n_policy_fields, .base = &p->keys};
    if (p->law->n_fields) {
        p->law_params = kv_alloc(a, p->law->params_size);
        p->bind[p->n_binds++] = (struct kv_bind){.field = p->law->field, .n = p->law->n_fields, .base = p->law_params};
    }
    if (p->score->n_fields) {
        p->score_params = kv_alloc(a, p->score->params_size);
        p->bind[p->n_binds++] =
            (struct kv_bind){.field = p->score->field, .n = p->score->n_fields, .base = p->score_params};
    }
    if (p->kind->reads && p->kind->reads->n_fields) {
        p->reads_params = kv_alloc(a, p->kind->reads->params_size);
        p->bind[p->n_binds++] =
            (struct kv_bind){.field = p->kind->reads->field, .n = p->kind->reads->n_fields, .base = p->reads_params};
    }
    struct kv_setting *preset;
    int n_preset = preset_settings(p, setting, n, &preset, a, e);
    int errors = e->n;
    check_two_budgets(p, setting, n, e);
    kv_bind(p->bind, p->n_binds, preset, n_preset, setting, n, a, e);
    if (e->n > errors)
        return false;
    p->floor = p->keys.min_tokens;
    return read_budget(p, e) && check_guard(p, e) && check_score(p, e) && check_when(p, e);
}

bool kv_policy_from_spec(struct kv_policy *p, const char *spec, struct kv_arena *a, struct kv_err *e)
{
    const char *where = kv_format(a, "--policy '%s':", spec);
    size_t kind = strcspn(spec, ":");
    const char *keys = spec[kind] ? spec + kind + 1 : "";
    struct kv_setting *setting;
    int n;
    if (!kind)
        return kv_fail(e, KV_USAGE, "%s no kind; write it as kind:key=value,... with a kind of 'kvsim policies'",
                       where);
    if (!split_keys(keys, where, &setting, &n, a, e))
        return false;
    struct kv_setting *all = KV_NEW_N(a, struct kv_setting, n + 1);
    all[0] = (struct kv_setting){.key = "kind", .value = kv_copy_part(a, spec, kind), .where = where, .origin = where};
    for (int i = 0; i < n; i++) {
        for (int j = 0; j <= i; j++)
            if (!strcmp(all[j].key, setting[i].key))
                return kv_fail(e, KV_USAGE, "%s key '%s' again; keep one", where, setting[i].key);
        all[i + 1] = setting[i];
    }
    return kv_policy_read(p, kv_copy_text(a, spec), where, all, n + 1, a, e);
}

bool kv_policy_in_place(const struct kv_policy *p)
{
    return p->score->positional && !(p->law->freezes && p->when.at & KV_AT_CHUNK);
}

/* ---- fitting to a model ---- */

static bool check_window_layers(const struct kv_policy *p, const struct kv_model *m, struct kv_err *e)
{
    if (m->sliding_window == 0 || kv_policy_in_place(p))
        return true;
    return kv_fail(e, KV_USAGE,
                   "%s '%s' cannot be counted on '%s', which has sliding-window layers: which of its entries "
                   "leave the window is not known from lengths; use a policy of sinks and recents, or set "
                   "disable_sliding_window = true",
                   p->where, p->kind->name, m->name);
}

static bool check_mla(const struct kv_policy *p, const struct kv_model *m, struct kv_err *e)
{
    if (!m->kv_lora_rank || (p->when.at == 0 && !p->kind->reads))
        return true;
    return kv_fail(e, KV_USAGE,
                   "%s '%s' is not defined on '%s': its latent (MLA) cache has no KV heads; only 'full' is "
                   "counted",
                   p->where, p->kind->name, m->name);
}

/* A score that decides for a whole layer needs lanes that hold as much as each other. */
static bool check_layer_score(const struct kv_policy *p, const struct kv_shape *s, struct kv_err *e)
{
    if (!p->score->layer)
        return true;
    bool differ = p->law->share != NULL;
    for (int64_t layer = 0; p->law->group && layer < s->layers; layer++)
        for (int64_t head = 1; head < s->store_heads; head++)
            differ |= p->law->group(p, s, layer, head) != p->law->group(p, s, layer, 0);
    return !differ ||
           kv_fail(e, KV_USAGE,
                   "%s score '%s' chooses the same entries for all heads of a layer, and law '%s' gives heads "
                   "different budgets; change one of them",
                   p->where, p->score->name, p->law->name);
}

/* What preparing puts into the parameters is of one model: a copy of the policy, for another one, must not see it. */
static void own_params(struct kv_policy *p, struct kv_arena *a)
{
    if (p->law_params)
        p->law_params = memcpy(kv_alloc(a, p->law->params_size), p->law_params, p->law->params_size);
    if (p->score_params)
        p->score_params = memcpy(kv_alloc(a, p->score->params_size), p->score_params, p->score->params_size);
    if (p->reads_params)
        p->reads_params =
            memcpy(kv_alloc(a, p->kind->reads->params_size), p->reads_params, p->kind->reads->params_size);
}

bool kv_policy_prepare(struct kv_policy *p, const struct kv_model *m, const struct kv_defaults *run,
                       struct kv_shape *shape, struct kv_arena *a, struct kv_err *e)
{
    bool mla = m->kv_lora_rank > 0;
    own_params(p, a);
    *shape = (struct kv_shape){.layers = m->layers,
                               .q_heads = m->q_heads,
                               .kv_heads = mla ? 1 : m->kv_heads,
                               .store_heads = mla             ? 1
                                              : p->keys.store ? m->q_heads
                                                              : m->kv_heads,
                               .window = m->sliding_window ? m->window : NULL};
    p->store = (struct kv_store){.dtype = kv_dtype_of_choice(p->keys.kv_cache_dtype, run->dtype),
                                 .elements = mla ? m->kv_lora_rank + m->rope_dim : 2 * m->head_dim,
                                 .group = p->keys.group_size,
                                 .residual = p->keys.residual_length};
    if (!p->when.chunk)
        p->when.chunk = run->chunk;
    if (run->limit && p->when.patch >= run->limit)
        return kv_fail(e, KV_USAGE,
                       "%s patch = %lld leaves no room in passes of max_num_batched_tokens = %lld; raise it", p->where,
                       (long long)p->when.patch, (long long)run->limit);
    if (!kv_store_check(&p->store, mla, p->where, e) || !check_mla(p, m, e) || !check_window_layers(p, m, e))
        return false;
    if (p->keys.bytes != KV_UNSET) {
        p->budget = p->keys.bytes / kv_store_entry_bytes(&p->store);
        if (p->budget < 1)
            return kv_fail(e, KV_USAGE, "%s bytes = %lld holds no entry of %lld bytes", p->where,
                           (long long)p->keys.bytes, (long long)kv_store_entry_bytes(&p->store));
    }
    if ((p->law->prepare && !p->law->prepare(p, shape, a, e)) || !check_layer_score(p, shape, e))
        return false;
    return !p->kind->reads || !p->kind->reads->prepare || p->kind->reads->prepare(p, shape, a, e);
}
