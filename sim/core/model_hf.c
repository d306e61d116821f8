/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A model from the config.json of a Hugging Face folder. The families differ in which keys they have and what a key
 * means; all of that stands in the tables below. Written after transformers 5.23 (src/transformers/models/FAMILY).
 * Files of its release 4 (rope_scaling, torch_dtype) and of release 5 (rope_parameters, dtype) both occur. */
#include "sim/core/model.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MOST_LAYERS = KV_MODEL_MOST_LAYERS, MOST = KV_MODEL_MOST, SHOWN = 60 };

/* ---- tables ---- */

const char *const kv_model_families[] = {
    "deepseek_v2", "deepseek_v3", "gemma2", "gemma3_text", "gpt_oss", "llama",     "mistral", "mixtral",
    "olmo2",       "phi3",        "qwen2",  "qwen2_moe",   "qwen3",   "qwen3_moe", NULL,
};

/* Sets of families; the bits are in the order of the names. */
enum {
    DEEPSEEK_V2 = 1 << 0,
    DEEPSEEK_V3 = 1 << 1,
    GEMMA2 = 1 << 2,
    GEMMA3 = 1 << 3,
    GPT_OSS = 1 << 4,
    LLAMA = 1 << 5,
    MISTRAL = 1 << 6,
    MIXTRAL = 1 << 7,
    OLMO2 = 1 << 8,
    PHI3 = 1 << 9,
    QWEN2 = 1 << 10,
    QWEN2_MOE = 1 << 11,
    QWEN3 = 1 << 12,
    QWEN3_MOE = 1 << 13,

    EVERY = (1 << 14) - 1,
    DEEPSEEK = DEEPSEEK_V2 | DEEPSEEK_V3,
    GEMMA = GEMMA2 | GEMMA3,
    QWEN_MOE = QWEN2_MOE | QWEN3_MOE,
    MOE = DEEPSEEK | GPT_OSS | MIXTRAL | QWEN_MOE,

    /* transformers would fill in a constant of the family: too easily wrong, so the key must be written */
    WRITES_HEAD_DIM = GEMMA | GPT_OSS | QWEN3,
    WRITES_KV_HEADS = EVERY & ~(DEEPSEEK | LLAMA | OLMO2 | PHI3),

    BIAS_IN_O_TOO = GEMMA | GPT_OSS | LLAMA | OLMO2 | QWEN3 | QWEN3_MOE, /* `attention_bias` is of q, k, v and o */
    SLIDES_IN_ALL = MISTRAL | MIXTRAL | PHI3,
    SLIDES_IN_EVEN = GEMMA2 | GPT_OSS,
    SLIDES_LATE = QWEN2 | QWEN3,
};
_Static_assert(sizeof kv_model_families / sizeof *kv_model_families == 15, "one bit for each family");

#define AT(field) offsetof(struct kv_model, field)

enum presence {
    NEEDED,
    MAY_BE_NULL, /* the key must be there; null: 0 */
    MAY_MISS,    /* missing or null: 0 */
};

struct size {
    const char *key, *also; /* `also`: another name of the same; NULL: none */
    size_t offset;          /* of an int64_t of struct kv_model */
    int families;
    enum presence presence;
    int64_t least, most;
};

static const struct size sizes[] = {
    {"num_hidden_layers", NULL, AT(layers), EVERY, NEEDED, 1, MOST_LAYERS},
    {"num_attention_heads", NULL, AT(q_heads), EVERY, NEEDED, 1, MOST},
    {"num_key_value_heads", NULL, AT(kv_heads), EVERY & ~WRITES_KV_HEADS, MAY_MISS, 1, MOST},
    {"num_key_value_heads", NULL, AT(kv_heads), WRITES_KV_HEADS, MAY_BE_NULL, 1, MOST},
    {"head_dim", NULL, AT(head_dim), EVERY & ~(DEEPSEEK | WRITES_HEAD_DIM), MAY_MISS, 1, MOST},
    {"head_dim", NULL, AT(head_dim), WRITES_HEAD_DIM, NEEDED, 1, MOST},
    {"hidden_size", NULL, AT(hidden), EVERY, NEEDED, 1, MOST},
    {"intermediate_size", NULL, AT(intermediate), EVERY, NEEDED, 1, MOST},
    {"vocab_size", NULL, AT(vocab), EVERY, NEEDED, 1, MOST},
    {"max_position_embeddings", NULL, AT(max_positions), EVERY, NEEDED, 1, MOST},

    {"num_local_experts", "num_experts", AT(experts), GPT_OSS | MIXTRAL, NEEDED, 1, MOST},
    {"num_experts", "num_local_experts", AT(experts), QWEN_MOE, NEEDED, 1, MOST},
    {"n_routed_experts", NULL, AT(experts), DEEPSEEK, NEEDED, 1, MOST},
    {"num_experts_per_tok", NULL, AT(experts_per_token), MOE, NEEDED, 1, MOST},
    {"moe_intermediate_size", NULL, AT(moe_intermediate), DEEPSEEK | QWEN_MOE, NEEDED, 1, MOST},
    {"shared_expert_intermediate_size", NULL, AT(shared_intermediate), QWEN2_MOE, NEEDED, 1, MOST},
    {"n_shared_experts", NULL, AT(shared_intermediate), DEEPSEEK, MAY_BE_NULL, 0, MOST},
    {"first_k_dense_replace", NULL, AT(dense_layers), DEEPSEEK, NEEDED, 0, MOST_LAYERS},

    {"kv_lora_rank", NULL, AT(kv_lora_rank), DEEPSEEK, NEEDED, 1, MOST},
    {"q_lora_rank", NULL, AT(q_lora_rank), DEEPSEEK, MAY_BE_NULL, 1, MOST},
    {"qk_rope_head_dim", NULL, AT(rope_dim), DEEPSEEK, NEEDED, 1, MOST},
    {"qk_nope_head_dim", NULL, AT(nope_dim), DEEPSEEK, NEEDED, 1, MOST},
    {"v_head_dim", NULL, AT(value_dim), DEEPSEEK, NEEDED, 1, MOST},
};

/* Read only where a window is used; the second may not be null. */
static const struct size window_or_null = {"sliding_window", NULL, AT(sliding_window), EVERY, MAY_BE_NULL, 1, MOST};
static const struct size window_or_none = {"sliding_window", NULL, AT(sliding_window), EVERY, MAY_MISS, 1, MOST};
static const struct size window_needed = {"sliding_window", NULL, AT(sliding_window), EVERY, NEEDED, 1, MOST};
static const struct size gemma3_pattern = {
    "sliding_window_pattern", "_sliding_window_pattern", AT(sliding_full_every), GEMMA3, MAY_MISS, 1, MOST_LAYERS};

struct flag {
    const char *key; /* NULL: no key, always so in these families */
    size_t offset;   /* of a bool of struct kv_model */
    int families;
    bool missing; /* what a missing key means */
};

static const struct flag flags[] = {
    {"tie_word_embeddings", AT(tie_embeddings), EVERY & ~GEMMA, false},
    {"tie_word_embeddings", AT(tie_embeddings), GEMMA, true},
    {"attention_bias", AT(qkv_bias), BIAS_IN_O_TOO & ~GPT_OSS, false},
    {"attention_bias", AT(qkv_bias), GPT_OSS, true},
    {"qkv_bias", AT(qkv_bias), QWEN2_MOE, true},
    {NULL, AT(qkv_bias), QWEN2, true},
    {"mlp_bias", AT(mlp_bias), LLAMA, false},
    {NULL, AT(qk_norm), GEMMA3 | OLMO2 | QWEN3 | QWEN3_MOE, true},
    {NULL, AT(shared_gate), QWEN2_MOE, true},
};

/* What transformers can do but this file does not size: the key must have this one value, or be missing. */
static const struct plain {
    const char *key;
    int families;
    const char *json;
} plains[] = {
    {"mlp_only_layers", QWEN_MOE, "[]"},
    {"decoder_sparse_step", QWEN_MOE, "1"},
    {"use_sliding_window", QWEN_MOE, "false"}, /* which layers it means changed between releases */
    {"moe_layer_freq", DEEPSEEK, "1"},
    {"attention_bias", DEEPSEEK, "false"},
    {"mlp_bias", DEEPSEEK_V2, "false"},
    {"topk_method", DEEPSEEK_V3, "\"noaux_tc\""}, /* the one that has a bias for each expert */
    {"use_bidirectional_attention", GEMMA, "false"},
};

static const struct {
    const char *name;
    enum kv_dtype dtype;
} dtypes[] = {
    {"bfloat16", KV_BF16},
    {"float16", KV_FP16},
    {"float32", KV_FP32},
    {"float8_e4m3fn", KV_FP8},
};

/* ---- values ---- */

struct reader {
    const char *path; /* of config.json */
    const json_t *root;
    int family; /* its bit */
    struct kv_model *m;
    struct kv_arena *a;
    struct kv_err *e;
    bool bad; /* a mistake was said */
};

static void *field(struct reader *r, size_t offset)
{
    return (char *)r->m + offset;
}

/* NULL when missing or null. */
static const json_t *get(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

/* A value as the file has it, cut when long. */
static const char *shown(struct reader *r, const json_t *value)
{
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_ENSURE_ASCII);
    if (!text)
        return "?";
    size_t length = strlen(text);
    const char *copy = length <= SHOWN ? kv_copy_text(r->a, text) : kv_format(r->a, "%.*s...", SHOWN, text);
    free(text);
    return copy;
}

static void fail_value(struct reader *r, const char *key, const json_t *value, const char *expected)
{
    r->bad = true;
    kv_fail(r->e, KV_DATA, "%s: '%s' is %s; expected %s", r->path, key, shown(r, value), expected);
}

static void fail_missing(struct reader *r, const char *key)
{
    r->bad = true;
    kv_fail(r->e, KV_DATA, "%s: '%s' is missing; a '%s' needs it", r->path, key, r->m->type);
}

/* Leaves *out alone when the key is missing or null and may be so. */
static void read_size_into(struct reader *r, const struct size *s, const json_t *object, int64_t *out)
{
    bool renamed = s->also && !json_object_get(object, s->key) && json_object_get(object, s->also);
    const char *key = renamed ? s->also : s->key;
    const json_t *value = json_object_get(object, key);
    if (!value && s->presence != MAY_MISS) {
        fail_missing(r, key);
        return;
    }
    if (!value || (json_is_null(value) && s->presence != NEEDED))
        return;
    if (!json_is_integer(value))
        fail_value(r, key, value, "a whole number");
    else if (json_integer_value(value) < s->least)
        fail_value(r, key, value, kv_format(r->a, "at least %lld", (long long)s->least));
    else if (json_integer_value(value) > s->most)
        fail_value(r, key, value, kv_format(r->a, "at most %lld", (long long)s->most));
    else
        *out = json_integer_value(value);
}

static void read_size(struct reader *r, const struct size *s, const json_t *object)
{
    read_size_into(r, s, object, field(r, s->offset));
}

static bool read_bool(struct reader *r, const char *key, bool missing)
{
    const json_t *value = get(r->root, key);
    if (value && !json_is_boolean(value))
        fail_value(r, key, value, "true or false");
    return value ? json_is_true(value) : missing;
}

/* A positive number. */
static double read_real(struct reader *r, const json_t *object, const char *key, double missing)
{
    const json_t *value = get(object, key);
    if (!value)
        return missing;
    double number = json_number_value(value);
    if (!json_is_number(value) || !(number > 0) || !isfinite(number))
        fail_value(r, key, value, "a number above 0");
    return number;
}

static const char *read_text(struct reader *r, const json_t *object, const char *key)
{
    const json_t *value = get(object, key);
    if (value && !json_is_string(value))
        fail_value(r, key, value, "a text");
    return json_string_value(value);
}

/* ---- parts of a config ---- */

static void read_sizes(struct reader *r)
{
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].families & r->family)
            read_size(r, &sizes[i], r->root);
}

static void read_flags(struct reader *r)
{
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (flags[i].families & r->family)
            *(bool *)field(r, flags[i].offset) = flags[i].key ? read_bool(r, flags[i].key, flags[i].missing) : true;
    r->m->o_bias = r->m->qkv_bias && (r->family & BIAS_IN_O_TOO);
}

static void check_plain(struct reader *r)
{
    for (size_t i = 0; i < sizeof plains / sizeof *plains; i++) {
        const json_t *value = plains[i].families & r->family ? get(r->root, plains[i].key) : NULL;
        if (value && strcmp(shown(r, value), plains[i].json))
            fail_value(r, plains[i].key, value,
                       kv_format(r->a, "%s: another '%s' is not sized here", plains[i].json, r->m->type));
    }
}

/* Sizes that follow from others. */
static void derive_sizes(struct reader *r)
{
    struct kv_model *m = r->m;
    m->norms_per_layer = r->family & GEMMA ? 4 : 2;
    if (!m->kv_heads)
        m->kv_heads = m->q_heads;
    if (r->family & (GPT_OSS | MIXTRAL))
        m->moe_intermediate = m->intermediate;
    if (r->family & DEEPSEEK) {
        m->shared_intermediate *= m->moe_intermediate; /* was read as a number of experts */
        m->head_dim = m->nope_dim + m->rope_dim;
    }
    if (!m->head_dim && m->q_heads && m->hidden % m->q_heads) {
        r->bad = true;
        kv_fail(r->e, KV_DATA,
                "%s: 'head_dim' is missing, and 'hidden_size' %lld is not a multiple of "
                "'num_attention_heads' %lld",
                r->path, (long long)m->hidden, (long long)m->q_heads);
    } else if (!m->head_dim && m->q_heads) {
        m->head_dim = m->hidden / m->q_heads;
    }
}

/* ---- windows ---- */

static bool new_windows(struct reader *r)
{
    r->m->window = kv_alloc_many(r->a, (size_t)r->m->layers, sizeof *r->m->window, "the window of each layer", r->e);
    r->bad |= !r->m->window;
    return r->m->window != NULL;
}

/* NULL when it is one of the two known kinds. */
static const char *unknown_layer_type(const json_t *list, size_t i, bool *slides)
{
    const char *kind = json_string_value(json_array_get(list, i));
    *slides = kind && !strcmp(kind, "sliding_attention");
    if (!kind)
        return "not a text";
    return *slides || !strcmp(kind, "full_attention") ? NULL : kind;
}

static void read_layer_types(struct reader *r, const json_t *list)
{
    struct kv_model *m = r->m;
    bool any = false, slides;
    if (!json_is_array(list)) {
        fail_value(r, "layer_types", list, "a list");
        return;
    }
    if (m->layers && json_array_size(list) != (size_t)m->layers) {
        r->bad = true;
        kv_fail(r->e, KV_DATA, "%s: 'layer_types' has %zu entries; expected %lld, one for each layer", r->path,
                json_array_size(list), (long long)m->layers);
        return;
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *kind = unknown_layer_type(list, i, &slides);
        any |= slides;
        if (kind) {
            r->bad = true;
            kv_fail(r->e, KV_DATA,
                    "%s: 'layer_types' entry %zu, '%s', is not known; known: full_attention, "
                    "sliding_attention",
                    r->path, i, kind);
            return;
        }
    }
    if (any)
        read_size(r, &window_needed, r->root);
    if (r->bad || !new_windows(r))
        return;
    for (size_t i = 0; i < (size_t)m->layers; i++) {
        unknown_layer_type(list, i, &slides);
        m->window[i] = slides ? m->sliding_window : 0;
    }
}

/* Qwen: the layers from `max_window_layers` on have the window. */
static void read_late_windows(struct reader *r)
{
    const struct size first = {"max_window_layers", NULL, 0, EVERY, NEEDED, 0, MOST};
    int64_t full_layers = 0;
    read_size(r, &window_needed, r->root);
    read_size_into(r, &first, r->root, &full_layers);
    if (r->bad || !new_windows(r))
        return;
    for (int64_t i = full_layers; i < r->m->layers; i++)
        r->m->window[i] = r->m->sliding_window;
}

static void read_windows(struct reader *r)
{
    const json_t *list = get(r->root, "layer_types");
    if (list) {
        read_layer_types(r, list);
    } else if (r->family & SLIDES_IN_ALL) {
        read_size(r, r->family & MISTRAL ? &window_or_null : &window_or_none, r->root);
    } else if (r->family & SLIDES_IN_EVEN) {
        r->m->sliding_full_every = 2;
        read_size(r, &window_needed, r->root);
    } else if (r->family & GEMMA3) {
        r->m->sliding_full_every = 6;
        read_size(r, &gemma3_pattern, r->root);
        read_size(r, &window_needed, r->root);
    } else if (r->family & SLIDES_LATE && read_bool(r, "use_sliding_window", false)) {
        read_late_windows(r);
    }
}

/* ---- rotary embedding, element type ---- */

static void read_rope(struct reader *r)
{
    const char *key = get(r->root, "rope_parameters") ? "rope_parameters" : "rope_scaling";
    const json_t *rope = get(r->root, key), *full = get(rope, "full_attention");
    if (rope && !json_is_object(rope)) {
        fail_value(r, key, rope, "an object or null");
        return;
    }
    if (json_is_object(full)) /* Gemma 3 has one for each kind of layer */
        rope = full;
    struct kv_model *m = r->m;
    double theta = r->family & (GEMMA3 | MIXTRAL) ? 1e6 : r->family & GPT_OSS ? 150000 : 10000;
    theta = read_real(r, r->root, "rope_theta", theta);
    m->rope_theta = read_real(r, rope, "rope_theta", theta);
    m->rope_factor = read_real(r, rope, "factor", 1);
    m->rope_low_freq_factor = read_real(r, rope, "low_freq_factor", 1);
    m->rope_high_freq_factor = read_real(r, rope, "high_freq_factor", 4);

    const struct size original = {
        "original_max_position_embeddings", NULL, AT(rope_original_max_positions), EVERY, MAY_MISS, 1, MOST};
    read_size(r, &original, r->root); /* Phi 3 */
    if (rope)
        read_size(r, &original, rope);

    const char *type = read_text(r, rope, "rope_type");
    if (!type)
        type = read_text(r, rope, "type");
    m->rope_scaling = type && strcmp(type, "default") ? kv_copy_text(r->a, type) : "none";
}

static void read_dtype(struct reader *r)
{
    const char *key = get(r->root, "dtype") ? "dtype" : "torch_dtype";
    const char *text = read_text(r, r->root, key);
    const char *known = "";
    r->m->quantised = get(r->root, "quantization_config") != NULL;
    r->m->dtype = KV_BF16;
    if (!text)
        return;
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        if (!strcmp(text, dtypes[i].name)) {
            r->m->dtype = dtypes[i].dtype;
            return;
        }
        known = kv_format(r->a, "%s%s%s", known, i ? ", " : "one of ", dtypes[i].name);
    }
    fail_value(r, key, get(r->root, key), known);
}

/* ---- the file ---- */

static bool find_family(struct reader *r)
{
    const char *type = json_is_object(r->root) ? json_string_value(get(r->root, "model_type")) : NULL;
    const char *known = "";
    for (int i = 0; kv_model_families[i]; i++) {
        if (type && !strcmp(type, kv_model_families[i])) {
            r->m->type = kv_model_families[i];
            r->family = 1 << i;
            return true;
        }
        known = kv_format(r->a, "%s%s%s", known, i ? ", " : "", kv_model_families[i]);
    }
    if (!type)
        return kv_fail(r->e, KV_DATA, "%s: no text 'model_type'; expected the config.json of a Hugging Face model",
                       r->path);
    return kv_fail(r->e, KV_DATA, "%s: model_type '%s' is not known; known: %s", r->path, type, known);
}

static bool read_model(struct reader *r)
{
    if (!find_family(r))
        return false;
    read_sizes(r);
    read_flags(r);
    check_plain(r);
    derive_sizes(r);
    read_windows(r);
    read_rope(r);
    read_dtype(r);
    double eps = r->family & (GPT_OSS | MIXTRAL | OLMO2 | PHI3) ? 1e-5 : 1e-6;
    r->m->norm_eps = read_real(r, r->root, "rms_norm_eps", eps);
    return !r->bad;
}

/* PATH without '/' at its end, and the last name in it. */
static const char *trimmed(const char *path, struct kv_arena *a, const char **last)
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        length--;
    const char *copy = kv_copy_part(a, path, length), *slash = strrchr(copy, '/');
    *last = slash && slash[1] ? slash + 1 : copy;
    return copy;
}

/* Opens PATH or PATH/config.json; fills in the model's origin and name (of the folder). */
static FILE *open_config(const char *path, struct kv_model *m, struct kv_arena *a, struct kv_err *e)
{
    struct stat status;
    const char *last, *trim = trimmed(path, a, &last);
    if (stat(path, &status)) {
        kv_fail(e, KV_DATA, "cannot open '%s': %s; expected a Hugging Face folder or its config.json", path,
                strerror(errno));
        return NULL;
    }
    bool folder = S_ISDIR(status.st_mode);
    m->origin = folder ? kv_format(a, "%s/config.json", trim) : trim;
    m->name = last;
    if (!folder && last > trim + 1) /* the folder's name says more than the file's */
        trimmed(kv_copy_part(a, trim, (size_t)(last - trim)), a, &m->name);
    FILE *file = fopen(m->origin, "r");
    if (!file && folder && errno == ENOENT)
        kv_fail(e, KV_DATA, "no 'config.json' in '%s'; expected a folder as Hugging Face has them", path);
    else if (!file)
        kv_fail(e, KV_DATA, "cannot open '%s': %s", m->origin, strerror(errno));
    return file;
}

bool kv_model_from_hf(const char *path, struct kv_model *m, struct kv_arena *a, struct kv_err *e)
{
    json_error_t mistake;
    *m = (struct kv_model){0};
    FILE *file = open_config(path, m, a, e);
    if (!file)
        return false;
    json_t *root = json_loadf(file, JSON_REJECT_DUPLICATES, &mistake);
    fclose(file);
    if (!root)
        return kv_fail(e, KV_DATA, "%s:%d:%d: not JSON: %s", m->origin, mistake.line, mistake.column, mistake.text);
    struct reader r = {.path = m->origin, .root = root, .m = m, .a = a, .e = e};
    bool good = read_model(&r);
    json_decref(root);
    return good && kv_model_finish(m, a, e);
}
