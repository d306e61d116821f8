/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Hides which keys a config.json may have, what transformers (release 5.2; release 4 where it writes other keys) takes
 * a missing one for, and which settings cannot be computed here. Whatever is not known to leave the result alone is
 * refused. */
#include "engine/config.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_FILE_BYTES = 1 << 20, SHOWN = 60, MOST_EOS = sizeof((struct kv_config *)0)->eos / sizeof(int32_t) };

/* ---- tables ---- */

enum window_rule {
    NO_WINDOW,
    IN_ALL_LAYERS,  /* `sliding_window` not null */
    IN_LATE_LAYERS, /* `use_sliding_window`, from layer `max_window_layers` on */
};

/* What transformers fills in for a missing key is a constant of the class; `tie_word_embeddings` is false in all. */
static const struct class
{
    const char *architecture, *type; /* `model_type` */
    int64_t kv_heads, head_dim;      /* 0: as many as query heads, hidden / query heads */
    int64_t max_positions;
    enum window_rule windows;
    int32_t bos, eos;
    bool attention_bias, mlp_bias; /* the class reads these keys */
    bool qkv_bias, qk_norm;        /* always so in this class */
} classes[] = {
    {"LlamaForCausalLM", "llama", 0, 0, 2048, NO_WINDOW, 1, 2, true, true, false, false},
    {"MistralForCausalLM", "mistral", 8, 0, 131072, IN_ALL_LAYERS, 1, 2, false, false, false, false},
    {"Qwen2ForCausalLM", "qwen2", 32, 0, 32768, IN_LATE_LAYERS, -1, -1, false, false, true, false},
    {"Qwen3ForCausalLM", "qwen3", 32, 128, 32768, IN_LATE_LAYERS, -1, -1, true, false, false, true},
};
enum { N_CLASSES = sizeof classes / sizeof *classes };

static const char known_classes[] = "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM";

/* Keys that say that something else is computed than what is known here. Missing, null, false and 0 are harmless. */
static const struct {
    const char *key, *advice;
} refused[] = {
    {"quantization_config", "the checkpoint is quantised; use one with BF16, F16 or F32 weights"},
    {"compression_config", "the checkpoint is compressed; use one with BF16, F16 or F32 weights"},
    {"num_experts", "mixtures of experts are not computed here; use a dense model"},
    {"num_local_experts", "mixtures of experts are not computed here; use a dense model"},
    {"n_routed_experts", "mixtures of experts are not computed here; use a dense model"},
    {"auto_map", "the model brings code of its own; use one that transformers has built in"},
    {"use_mrope", "rotary embedding in three dimensions is not computed here; use a text model"},
    {"attn_logit_softcapping", "capped logits are not computed here; use another model"},
    {"final_logit_softcapping", "capped logits are not computed here; use another model"},
};

/* ---- values ---- */

struct reader {
    const char *path; /* of config.json */
    const json_t *root;
    const struct class *class;
    struct kv_config *c;
    struct kv_arena *a;
    struct kv_err *e;
    bool bad; /* a mistake was said */
};

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
    bool fits = strlen(text) <= SHOWN;
    const char *copy = fits ? kv_copy_text(r->a, text) : kv_format(r->a, "%.*s...", SHOWN, text);
    free(text);
    return copy;
}

static void fail_value(struct reader *r, const char *key, const json_t *value, const char *expected)
{
    r->bad = true;
    kv_fail(r->e, KV_DATA, "%s: '%s' is %s; expected %s", r->path, key, value ? shown(r, value) : "missing", expected);
}

/* A whole number of 1 to `most`. A missing key or null means `missing`; 0 there: it must be written. */
static int64_t read_size(struct reader *r, const json_t *object, const char *key, int64_t missing, int64_t most)
{
    const json_t *value = get(object, key);
    if (!value && missing)
        return missing;
    if (json_is_integer(value) && json_integer_value(value) >= 1 && json_integer_value(value) <= most)
        return json_integer_value(value);
    fail_value(r, key, value, kv_format(r->a, "a whole number, 1 to %lld", (long long)most));
    return 0;
}

static bool read_bool(struct reader *r, const char *key)
{
    const json_t *value = get(r->root, key);
    if (value && !json_is_boolean(value))
        fail_value(r, key, value, "true or false");
    return json_is_true(value);
}

/* A number above 0 that f32 arithmetic can take to any power below 1; `missing` 0: it must be written. */
static double read_real(struct reader *r, const json_t *object, const char *key, double missing)
{
    const json_t *value = get(object, key);
    if (!value && missing > 0)
        return missing;
    double number = json_number_value(value);
    if (number >= 1e-12 && number <= 1e12)
        return number;
    fail_value(r, key, value, "a number above 0, 1e-12 to 1e12");
    return 1;
}

/* ---- class, sizes ---- */

static const char *architecture_of(const json_t *root)
{
    const json_t *list = get(root, "architectures");
    return json_is_array(list) && json_array_size(list) == 1 ? json_string_value(json_array_get(list, 0)) : NULL;
}

/* Release 4 of transformers may leave out `architectures`: then `model_type` says it. */
static bool find_class(struct reader *r)
{
    const char *architecture = architecture_of(r->root), *type = json_string_value(get(r->root, "model_type"));
    if (!json_is_object(r->root))
        return kv_fail(r->e, KV_DATA, "%s: not an object; expected the config.json of a Hugging Face model", r->path);
    if (!architecture && (get(r->root, "architectures") || !type))
        return kv_fail(r->e, KV_DATA, "%s: 'architectures' is %s; expected a list of one of %s", r->path,
                       get(r->root, "architectures") ? shown(r, get(r->root, "architectures")) : "missing",
                       known_classes);
    for (int i = 0; i < N_CLASSES && !r->class; i++)
        if (!strcmp(architecture ? architecture : type, architecture ? classes[i].architecture : classes[i].type))
            r->class = &classes[i];
    if (!r->class)
        return kv_fail(r->e, KV_DATA, "%s: '%s' is not an architecture that runs here; use a model that is one of %s",
                       r->path, architecture ? architecture : type, known_classes);
    if (get(r->root, "model_type") && (!type || strcmp(type, r->class->type)))
        fail_value(r, "model_type", get(r->root, "model_type"),
                   kv_format(r->a, "'%s', as '%s' has it", r->class->type, r->class->architecture));
    r->c->architecture = r->class->architecture;
    return true;
}

static void refuse_unknown(struct reader *r)
{
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        const json_t *value = get(r->root, refused[i].key);
        if (!value || json_is_false(value) || (json_is_number(value) && json_number_value(value) == 0))
            continue;
        r->bad = true;
        kv_fail(r->e, KV_DATA, "%s: '%s' is there: %s", r->path, refused[i].key, refused[i].advice);
    }
    const json_t *act = json_object_get(r->root, "hidden_act");
    const char *name = json_string_value(act);
    if (act && (!name || (strcmp(name, "silu") && strcmp(name, "swish"))))
        fail_value(r, "hidden_act", act, "\"silu\", the one activation that is computed here");
}

static void read_sizes(struct reader *r)
{
    struct kv_config *c = r->c;
    const json_t *root = r->root;
    c->layers = read_size(r, root, "num_hidden_layers", 0, KV_MODEL_MOST_LAYERS);
    c->hidden = read_size(r, root, "hidden_size", 0, KV_MODEL_MOST);
    c->intermediate = read_size(r, root, "intermediate_size", 0, KV_MODEL_MOST);
    c->vocab = read_size(r, root, "vocab_size", 0, KV_MODEL_MOST);
    c->q_heads = read_size(r, root, "num_attention_heads", 0, KV_MODEL_MOST);
    c->max_positions = read_size(r, root, "max_position_embeddings", r->class->max_positions, KV_MODEL_MOST);
    if (r->bad || c->q_heads < 1)
        return;
    bool null = json_is_null(json_object_get(root, "num_key_value_heads")) || !r->class->kv_heads;
    c->kv_heads = read_size(r, root, "num_key_value_heads", null ? c->q_heads : r->class->kv_heads, KV_MODEL_MOST);
    null = json_is_null(json_object_get(root, "head_dim")) || !r->class->head_dim;
    c->head_dim = read_size(r, root, "head_dim", null ? c->hidden / c->q_heads : r->class->head_dim, KV_MODEL_MOST);
    if (null && !get(root, "head_dim") && c->hidden % c->q_heads) {
        r->bad = true;
        kv_fail(r->e, KV_DATA, "%s: 'head_dim' is missing, and 'hidden_size' %lld is not a multiple of %lld heads",
                r->path, (long long)c->hidden, (long long)c->q_heads);
    } else if (!r->bad && c->head_dim % 2) {
        r->bad = true;
        kv_fail(r->e, KV_DATA, "%s: heads of %lld elements; expected an even number, for rotary pairs", r->path,
                (long long)c->head_dim);
    }
}

/* A key that a class does not read must not ask for what other programs would then compute. */
static bool read_bias(struct reader *r, const char *key, bool reads)
{
    bool bias = read_bool(r, key);
    if (bias && !reads && !r->class->qkv_bias)
        fail_value(r, key, get(r->root, key),
                   kv_format(r->a, "false: transformers' %s has no such bias", r->class->architecture));
    return bias && reads;
}

static void read_flags(struct reader *r)
{
    struct kv_config *c = r->c;
    c->tied = read_bool(r, "tie_word_embeddings");
    c->random = read_bool(r, "random_weights");
    c->o_bias = read_bias(r, "attention_bias", r->class->attention_bias);
    c->qkv_bias = c->o_bias || r->class->qkv_bias;
    c->mlp_bias = read_bias(r, "mlp_bias", r->class->mlp_bias);
    c->qk_norm = r->class->qk_norm;
    c->rms_eps = read_real(r, r->root, "rms_norm_eps", 1e-6);
}

/* ---- windows ---- */

/* `layer_types`: 1 all slide, 0 none does, -1 not written; a mixture is refused. */
static int read_layer_types(struct reader *r)
{
    const json_t *list = get(r->root, "layer_types");
    size_t n = json_array_size(list), full = 0, sliding = 0;
    if (!list)
        return -1;
    for (size_t i = 0; i < n; i++) {
        const char *kind = json_string_value(json_array_get(list, i));
        full += kind && !strcmp(kind, "full_attention");
        sliding += kind && !strcmp(kind, "sliding_attention");
    }
    if (n != (size_t)r->c->layers || (full < n && sliding < n)) {
        fail_value(r, "layer_types", list,
                   kv_format(r->a, "%lld times \"full_attention\", or as often \"sliding_attention\"",
                             (long long)r->c->layers));
        return 0;
    }
    return sliding == n;
}

/* Whether layers of the Qwen classes slide. */
static bool late_layers_slide(struct reader *r, int types)
{
    bool use = read_bool(r, "use_sliding_window") && json_object_get(r->root, "sliding_window") != json_null();
    if (types >= 0 || !use)
        return use && types == 1;
    const json_t *first = get(r->root, "max_window_layers");
    int64_t from = first ? json_integer_value(first) : 28;
    if ((first && !json_is_integer(first)) || from < 0)
        fail_value(r, "max_window_layers", first, "a whole number, 0 or more");
    else if (from > 0 && from < r->c->layers)
        fail_value(r, "max_window_layers", first,
                   kv_format(r->a, "0 or at least %lld: a window in some layers only does not run here",
                             (long long)r->c->layers));
    return from == 0;
}

/* A window that no position can leave is none. */
static void read_window(struct reader *r)
{
    const json_t *value = json_object_get(r->root, "sliding_window");
    int types = read_layer_types(r);
    bool slides = r->class->windows == IN_ALL_LAYERS && !json_is_null(value);
    if (r->class->windows == IN_LATE_LAYERS)
        slides = late_layers_slide(r, types);
    if (types >= 0 && types != slides && !r->bad)
        fail_value(r, "layer_types", get(r->root, "layer_types"), "what the window's own keys say");
    if (!slides || r->bad)
        return;
    int64_t window = read_size(r, r->root, "sliding_window", 4096, KV_MODEL_MOST);
    r->c->sliding_window = window < r->c->max_positions ? window : 0;
}

/* ---- rotary embedding ---- */

/* All of the head must turn. */
static void check_partial(struct reader *r, const json_t *object)
{
    const json_t *part = get(object, "partial_rotary_factor");
    if (part && json_number_value(part) != 1)
        fail_value(r, "partial_rotary_factor", part, "1: heads that turn in part do not run here");
}

static void read_llama3(struct reader *r, const json_t *rope)
{
    struct kv_config *c = r->c;
    c->rope = KV_ROPE_LLAMA3;
    c->rope_factor = read_real(r, rope, "factor", 0);
    c->rope_low = read_real(r, rope, "low_freq_factor", 0);
    c->rope_high = read_real(r, rope, "high_freq_factor", 0);
    c->rope_original = read_size(r, rope, "original_max_position_embeddings", c->max_positions, KV_MODEL_MOST);
    if (!r->bad && c->rope_high <= c->rope_low)
        fail_value(r, "high_freq_factor", get(rope, "high_freq_factor"), "more than 'low_freq_factor'");
}

static void read_rope_type(struct reader *r, const json_t *rope)
{
    const char *key = get(rope, "rope_type") ? "rope_type" : "type";
    const json_t *value = get(rope, key);
    const char *type = value ? json_string_value(value) : "default";
    if (type && !strcmp(type, "llama3")) {
        read_llama3(r, rope);
    } else if (type && !strcmp(type, "linear")) {
        r->c->rope = KV_ROPE_LINEAR;
        r->c->rope_factor = read_real(r, rope, "factor", 0);
    } else if (!type || strcmp(type, "default")) {
        fail_value(r, key, value, "default, linear or llama3; use a checkpoint without the longer context's scaling");
    }
}

/* Release 4 writes rope_theta and rope_scaling, release 5 rope_parameters with both. As in transformers, a rope_scaling
 * that says something comes first, and in it its own rope_theta. */
static void read_rope(struct reader *r)
{
    const json_t *scaling = get(r->root, "rope_scaling");
    const char *key = json_is_object(scaling) && !json_object_size(scaling) ? "rope_parameters"
                      : scaling                                             ? "rope_scaling"
                                                                            : "rope_parameters";
    const json_t *rope = get(r->root, key);
    if (rope && !json_is_object(rope)) {
        fail_value(r, key, rope, "an object or null");
        return;
    }
    if (get(rope, "full_attention") || get(rope, "sliding_attention")) {
        fail_value(r, key, rope, "one for all layers");
        return;
    }
    check_partial(r, r->root);
    check_partial(r, rope);
    r->c->rope_theta = read_real(r, rope, "rope_theta", read_real(r, r->root, "rope_theta", 10000));
    read_rope_type(r, rope);
}

/* ---- first and last tokens ---- */

/* An id beyond the vocabulary never occurs: small test models carry such. */
static void add_eos(struct reader *r, const char *path, const json_t *value)
{
    struct kv_config *c = r->c;
    json_int_t id = json_integer_value(value);
    bool known = false;
    if (!json_is_integer(value) || id < 0 || id > INT32_MAX) {
        r->bad = true;
        kv_fail(r->e, KV_DATA, "%s: 'eos_token_id' has %s; expected token ids", path, shown(r, value));
        return;
    }
    for (int i = 0; i < c->n_eos; i++)
        known |= c->eos[i] == id;
    if (known || id >= c->vocab)
        return;
    if (c->n_eos == MOST_EOS) {
        r->bad = true;
        kv_fail(r->e, KV_DATA, "%s: 'eos_token_id' has more than %d ids", path, MOST_EOS);
        return;
    }
    c->eos[c->n_eos++] = (int32_t)id;
}

/* False when the object says nothing about it. */
static bool read_eos(struct reader *r, const char *path, const json_t *object)
{
    const json_t *value = get(object, "eos_token_id");
    if (!json_is_array(value) && value)
        add_eos(r, path, value);
    for (size_t i = 0; i < json_array_size(value) && !r->bad; i++)
        add_eos(r, path, json_array_get(value, i));
    return json_object_get(object, "eos_token_id") != NULL;
}

static void read_bos(struct reader *r)
{
    const json_t *value = json_object_get(r->root, "bos_token_id");
    json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
    if (!value)
        id = r->class->bos;
    else if (!json_is_null(value) && (!json_is_integer(value) || id < 0 || id > INT32_MAX))
        fail_value(r, "bos_token_id", value, "a token id or null");
    r->c->bos = id >= 0 && id < r->c->vocab ? (int32_t)id : -1;
}

/* ---- files ---- */

/* The text of a file of at most `most` bytes. A pipe or a device is no config: nothing waits for one. Not there: *text
 * NULL and false without a message. */
static bool read_file(const char *path, size_t *size, char **text, struct kv_arena *a, struct kv_err *e)
{
    struct stat about;
    ssize_t n = 0;
    *text = NULL;
    *size = 0;
    int file = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (file < 0)
        return errno == ENOENT ? false : kv_fail(e, KV_DATA, "cannot open '%s': %s", path, strerror(errno));
    if (fstat(file, &about) || !S_ISREG(about.st_mode) || about.st_size > MOST_FILE_BYTES) {
        close(file);
        return kv_fail(e, KV_DATA, "'%s' is not a file of at most %d bytes", path, MOST_FILE_BYTES);
    }
    *text = kv_alloc(a, (size_t)about.st_size + 1);
    while (*size < (size_t)about.st_size && (n = read(file, *text + *size, (size_t)about.st_size - *size)) > 0)
        *size += (size_t)n;
    close(file);
    return n < 0 ? kv_fail(e, KV_DATA, "cannot read '%s': %s", path, strerror(errno)) : true;
}

/* NULL and no message: there is no such file. The caller releases it. */
static json_t *load(const char *path, struct kv_arena *a, struct kv_err *e)
{
    json_error_t mistake;
    size_t size;
    char *text;
    if (!read_file(path, &size, &text, a, e))
        return NULL;
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &mistake);
    if (!root)
        kv_fail(e, KV_DATA, "%s:%d:%d: not JSON: %s", path, mistake.line, mistake.column, mistake.text);
    return root;
}

/* PATH without '/' at its end. */
static const char *trimmed(const char *path, struct kv_arena *a)
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        length--;
    return kv_copy_part(a, path, length);
}

static void read_tokens(struct reader *r, const char *folder)
{
    const char *path = kv_format(r->a, "%s/generation_config.json", folder);
    int before = r->e->n;
    json_t *more = load(path, r->a, r->e);
    r->bad |= r->e->n > before;
    read_bos(r);
    bool said = read_eos(r, r->path, r->root);
    said |= read_eos(r, path, more);
    if (!said && r->class->eos >= 0 && r->class->eos < r->c->vocab)
        r->c->eos[r->c->n_eos++] = r->class->eos;
    json_decref(more);
}

/* Heads that do not divide, products of sizes that overflow. */
static bool check_model(struct reader *r)
{
    struct kv_model m;
    kv_config_model(r->c, &m);
    m.origin = r->path;
    return kv_model_finish(&m, r->a, r->e);
}

static bool read_config(struct reader *r, const char *folder)
{
    if (!find_class(r))
        return false;
    refuse_unknown(r);
    read_sizes(r);
    if (r->bad)
        return false;
    read_flags(r);
    read_window(r);
    read_rope(r);
    read_tokens(r, folder);
    return !r->bad && check_model(r);
}

bool kv_config_read(struct kv_config *c, const char *folder, struct kv_arena *a, struct kv_err *e)
{
    const char *trim = trimmed(folder, a), *slash = strrchr(trim, '/');
    const char *path = kv_format(a, "%s/config.json", trim);
    int before = e->n;
    *c = (struct kv_config){.name = slash && slash[1] ? slash + 1 : trim};
    json_t *root = load(path, a, e);
    if (!root)
        return e->n > before ? false
                             : kv_fail(e, KV_DATA,
                                       "no 'config.json' in '%s'; expected a folder as Hugging Face has them", folder);
    struct reader r = {.path = path, .root = root, .c = c, .a = a, .e = e};
    bool good = read_config(&r, trim);
    json_decref(root);
    return good;
}

/* ---- for others ---- */

void kv_config_model(const struct kv_config *c, struct kv_model *m)
{
    static const char *const scalings[] = {
        [KV_ROPE_PLAIN] = "none", [KV_ROPE_LLAMA3] = "llama3", [KV_ROPE_LINEAR] = "linear"};
    const char *type = "llama";
    for (int i = 0; i < N_CLASSES; i++)
        if (!strcmp(classes[i].architecture, c->architecture))
            type = classes[i].type;
    *m = (struct kv_model){
        .name = c->name,
        .type = type,
        .origin = c->name,
        .layers = c->layers,
        .q_heads = c->q_heads,
        .kv_heads = c->kv_heads,
        .head_dim = c->head_dim,
        .hidden = c->hidden,
        .intermediate = c->intermediate,
        .vocab = c->vocab,
        .max_positions = c->max_positions,
        .sliding_window = c->sliding_window,
        .tie_embeddings = c->tied,
        .qkv_bias = c->qkv_bias,
        .o_bias = c->o_bias,
        .mlp_bias = c->mlp_bias,
        .qk_norm = c->qk_norm,
        .norms_per_layer = 2,
        .rope_theta = c->rope_theta,
        .rope_scaling = scalings[c->rope],
        .rope_factor = c->rope == KV_ROPE_PLAIN ? 1 : c->rope_factor,
        .rope_low_freq_factor = c->rope_low,
        .rope_high_freq_factor = c->rope_high,
        .rope_original_max_positions = c->rope_original,
        .norm_eps = c->rms_eps,
        .dtype = KV_BF16,
    };
}

/* As transformers' _compute_llama3_parameters, each operation rounded to f32 as torch does: a number divided by a
 * tensor is the tensor's reciprocal times the number, and what Python computes alone is a double rounded once. */
static float llama3_frequency(const struct kv_config *c, float frequency)
{
    float factor = (float)c->rope_factor, low = (float)c->rope_low, original = (float)c->rope_original;
    float longest = (float)((double)c->rope_original / c->rope_low);
    float shortest = (float)((double)c->rope_original / c->rope_high);
    float wave = 1 / frequency * (float)6.283185307179586;
    if (wave < shortest)
        return frequency;
    if (wave > longest)
        return frequency / factor;
    float smooth = (1 / wave * original - low) / (float)(c->rope_high - c->rope_low);
    return (1 - smooth) * frequency / factor + smooth * frequency;
}

static float inverse_frequency(const struct kv_config *c, int64_t i)
{
    float frequency = 1 / powf((float)c->rope_theta, (float)(2 * i) / (float)c->head_dim);
    if (c->rope == KV_ROPE_LLAMA3)
        return llama3_frequency(c, frequency);
    return c->rope == KV_ROPE_LINEAR ? frequency / (float)c->rope_factor : frequency;
}

bool kv_config_reaches(const struct kv_config *c, int64_t tokens, struct kv_err *e)
{
    return !c->sliding_window || tokens <= c->sliding_window ||
           kv_fail(e, KV_USAGE,
                   "the model attends over a sliding window of %lld tokens, which is not computed here; prompt and "
                   "output must fit into the window, and one has %lld tokens",
                   (long long)c->sliding_window, (long long)tokens);
}

void kv_config_rope(const struct kv_config *c, int64_t first, int64_t positions, float *cosine, float *sine)
{
    int64_t half = c->head_dim / 2;
    for (int64_t i = 0; i < half; i++) {
        float frequency = inverse_frequency(c, i);
        for (int64_t p = 0; p < positions; p++) {
            float angle = (float)(first + p) * frequency;
            cosine[p * half + i] = (float)cos((double)angle);
            sine[p * half + i] = (float)sin((double)angle);
        }
    }
}
