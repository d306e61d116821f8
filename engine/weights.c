/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Hides the names that Hugging Face gives to tensors, and in which files they lie. */
#include "engine/safetensors.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sim/core/random.h"

enum { MOST_INDEX_BYTES = 1 << 24 };

/* ---- which tensors a model has ---- */

enum extent { ONE, HIDDEN, QUERIES, KEYS, INTERMEDIATE, HEAD, VOCAB, N_EXTENTS };
enum use { ALWAYS, QKV_BIAS, O_BIAS, MLP_BIAS, QK_NORM, UNTIED, N_USES };

struct wanted {
    const char *name;
    size_t offset; /* of a tensor; where not ALWAYS and of a layer, of a pointer to one */
    enum extent rows, columns;
    enum use use;
};

#define AT(field) offsetof(struct kv_layer_weights, field)
static const struct wanted of_layer[] = {
    {"input_layernorm.weight", AT(attention_norm), ONE, HIDDEN, ALWAYS},
    {"self_attn.q_proj.weight", AT(q), QUERIES, HIDDEN, ALWAYS},
    {"self_attn.k_proj.weight", AT(k), KEYS, HIDDEN, ALWAYS},
    {"self_attn.v_proj.weight", AT(v), KEYS, HIDDEN, ALWAYS},
    {"self_attn.o_proj.weight", AT(o), HIDDEN, QUERIES, ALWAYS},
    {"post_attention_layernorm.weight", AT(mlp_norm), ONE, HIDDEN, ALWAYS},
    {"mlp.gate_proj.weight", AT(gate), INTERMEDIATE, HIDDEN, ALWAYS},
    {"mlp.up_proj.weight", AT(up), INTERMEDIATE, HIDDEN, ALWAYS},
    {"mlp.down_proj.weight", AT(down), HIDDEN, INTERMEDIATE, ALWAYS},
    {"self_attn.q_proj.bias", AT(q_bias), ONE, QUERIES, QKV_BIAS},
    {"self_attn.k_proj.bias", AT(k_bias), ONE, KEYS, QKV_BIAS},
    {"self_attn.v_proj.bias", AT(v_bias), ONE, KEYS, QKV_BIAS},
    {"self_attn.o_proj.bias", AT(o_bias), ONE, HIDDEN, O_BIAS},
    {"mlp.gate_proj.bias", AT(gate_bias), ONE, INTERMEDIATE, MLP_BIAS},
    {"mlp.up_proj.bias", AT(up_bias), ONE, INTERMEDIATE, MLP_BIAS},
    {"mlp.down_proj.bias", AT(down_bias), ONE, HIDDEN, MLP_BIAS},
    {"self_attn.q_norm.weight", AT(q_norm), ONE, HEAD, QK_NORM},
    {"self_attn.k_norm.weight", AT(k_norm), ONE, HEAD, QK_NORM},
};
#undef AT
#define AT(field) offsetof(struct kv_weights, field)
static const struct wanted of_model[] = {
    {"model.embed_tokens.weight", AT(embedding), VOCAB, HIDDEN, ALWAYS},
    {"model.norm.weight", AT(norm), ONE, HIDDEN, ALWAYS},
    {"lm_head.weight", AT(head), VOCAB, HIDDEN, UNTIED},
};
#undef AT
enum { N_OF_LAYER = sizeof of_layer / sizeof *of_layer, N_OF_MODEL = sizeof of_model / sizeof *of_model };

static void fill_extents(const struct kv_config *c, int64_t extent[N_EXTENTS])
{
    extent[ONE] = 1;
    extent[HIDDEN] = c->hidden;
    extent[QUERIES] = c->q_heads * c->head_dim;
    extent[KEYS] = c->kv_heads * c->head_dim;
    extent[INTERMEDIATE] = c->intermediate;
    extent[HEAD] = c->head_dim;
    extent[VOCAB] = c->vocab;
}

static bool has(const struct kv_config *c, enum use use)
{
    const bool uses[N_USES] = {[ALWAYS] = true,          [QKV_BIAS] = c->qkv_bias, [O_BIAS] = c->o_bias,
                               [MLP_BIAS] = c->mlp_bias, [QK_NORM] = c->qk_norm,   [UNTIED] = !c->tied};
    return uses[use];
}

/* ---- elements ---- */

static float from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static float from_f16(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, size = half & 0x7fff;
    if (size >= 0x7c00) /* infinite, or no number */
        return from_bits(sign | 0x7f800000 | (size & 0x3ff) << 13);
    if (size >= 0x400) /* the exponent's bias goes from 15 to 127 */
        return from_bits(sign | ((size << 13) + ((127u - 15) << 23)));
    return from_bits(sign | 0x3f800000) * (float)size * 0x1p-24f;
}

void kv_tensor_read(const struct kv_tensor *t, int64_t from, int64_t n, float *out)
{
    KV_ASSERT(from >= 0 && n >= 0 && from <= t->rows * t->columns - n);
    if (t->type == KV_TENSOR_F32) {
        memcpy(out, (const char *)t->data + from * 4, (size_t)n * 4);
        return;
    }
    const char *at = (const char *)t->data + from * 2;
    for (int64_t i = 0; i < n; i++) {
        uint16_t narrow;
        memcpy(&narrow, at + i * 2, sizeof narrow);
        out[i] = t->type == KV_TENSOR_BF16 ? from_bits((uint32_t)narrow << 16) : from_f16(narrow);
    }
}

static const struct kv_mapping *file_of(const struct kv_weights *w, const unsigned char *data)
{
    for (int i = 0; i < w->n_mappings; i++)
        if (data >= w->mapping[i].bytes && data < w->mapping[i].bytes + w->mapping[i].size)
            return &w->mapping[i];
    return NULL;
}

bool kv_weights_fetch(const struct kv_weights *w, const struct kv_tensor *t, int64_t from, int64_t n, void *out,
                      struct kv_err *e)
{
    int64_t size = t->type == KV_TENSOR_F32 ? 4 : 2;
    const unsigned char *data = (const unsigned char *)t->data + from * size;
    const struct kv_mapping *m = file_of(w, t->data);
    size_t bytes = (size_t)(n * size), done = 0;
    KV_ASSERT(from >= 0 && n >= 0 && from <= t->rows * t->columns - n);
    if (!m && bytes)
        memcpy(out, data, bytes);
    while (m && done < bytes) {
        ssize_t got = pread(m->file, (char *)out + done, bytes - done, data - m->bytes + (ptrdiff_t)done);
        if (got < 0 && errno != EINTR)
            return kv_fail(e, KV_ENV, "cannot read '%s': %s", m->path, strerror(errno));
        if (!got)
            return kv_fail(e, KV_DATA,
                           "'%s' was cut short while it was read: it ends before byte %lld, in tensor '%s'; it had %zu "
                           "bytes when it was opened",
                           m->path, (long long)(data - m->bytes) + (long long)done + 1, t->name, m->size);
        done += got > 0 ? (size_t)got : 0;
    }
    return true;
}

/* ---- files ---- */

static bool open_one(struct kv_weights *w, const char *path, struct kv_err *e)
{
    if (!kv_mapping_open(&w->mapping[w->n_mappings], path, e))
        return false;
    w->n_mappings++;
    return true;
}

static int by_text(const void *x, const void *y)
{
    return strcmp(*(const char *const *)x, *(const char *const *)y);
}

/* A file of the same folder, and not the folder or its parent. */
static bool stays_in_folder(const char *name)
{
    return *name && !strchr(name, '/') && strcmp(name, ".") && strcmp(name, "..");
}

/* The names of files in the index, sorted, each once; 0: said why. */
static size_t list_shards(const json_t *root, const char *path, const char ***shards, struct kv_arena *a,
                          struct kv_err *e)
{
    json_t *map = json_object_get(root, "weight_map"), *value;
    const char *key;
    size_t n = 0, once = 0;
    if (!json_object_size(map)) {
        kv_fail(e, KV_DATA, "%s: no object 'weight_map'; expected the index of a sharded checkpoint", path);
        return 0;
    }
    const char **name = kv_alloc_many(a, json_object_size(map), sizeof *name, "the index of a checkpoint", e);
    json_object_foreach (map, key, value) {
        if (name && (!json_is_string(value) || !stays_in_folder(json_string_value(value)))) {
            kv_fail(e, KV_DATA, "%s: the file of tensor '%s' is not one of the same folder", path, key);
            return 0;
        }
        if (name)
            name[n++] = json_string_value(value);
    }
    if (name)
        qsort(name, n, sizeof *name, by_text);
    for (size_t i = 0; i < n; i++)
        if (!i || strcmp(name[i], name[i - 1]))
            name[once++] = name[i];
    *shards = name;
    return once;
}

static bool open_shards(struct kv_weights *w, const json_t *root, const char *folder, const char *path,
                        struct kv_arena *a, struct kv_err *e)
{
    const char **shards = NULL;
    size_t n = list_shards(root, path, &shards, a, e);
    w->mapping = n ? kv_alloc_many(a, n, sizeof *w->mapping, "the files of a checkpoint", e) : NULL;
    for (size_t i = 0; i < n && w->mapping; i++)
        if (!open_one(w, kv_format(a, "%s/%s", folder, shards[i]), e))
            return kv_while(e, "%s", path);
    return n && w->mapping;
}

/* The index, of KV_DATA when it is damaged. */
static bool open_index(struct kv_weights *w, const char *folder, const char *path, struct kv_arena *a, struct kv_err *e)
{
    struct kv_mapping index;
    json_error_t mistake;
    if (!kv_mapping_open(&index, path, e))
        return false;
    if (index.size > MOST_INDEX_BYTES) {
        kv_mapping_close(&index);
        return kv_fail(e, KV_DATA, "'%s' is not an index: it has more than %d bytes", path, MOST_INDEX_BYTES);
    }
    json_t *root = json_loadb((const char *)index.bytes, index.size, JSON_REJECT_DUPLICATES, &mistake);
    kv_mapping_close(&index);
    if (!root)
        return kv_fail(e, KV_DATA, "%s:%d:%d: not JSON: %s", path, mistake.line, mistake.column, mistake.text);
    bool good = open_shards(w, root, folder, path, a, e);
    json_decref(root);
    return good;
}

static bool open_files(struct kv_weights *w, const char *folder, struct kv_arena *a, struct kv_err *e)
{
    const char *single = kv_format(a, "%s/model.safetensors", folder);
    const char *index = kv_format(a, "%s/model.safetensors.index.json", folder);
    if (access(single, F_OK) == 0) {
        w->mapping = KV_NEW(a, struct kv_mapping);
        return open_one(w, single, e);
    }
    if (access(index, F_OK) == 0)
        return open_index(w, folder, index, a, e);
    return kv_fail(
        e, KV_DATA,
        "no 'model.safetensors' nor 'model.safetensors.index.json' in '%s'; a checkpoint in another format must be "
        "converted to safetensors first",
        folder);
}

/* ---- tensors by name ---- */

struct table {
    struct kv_entry *entry; /* sorted by name */
    int64_t n, bound;
    const char *folder;
    bool blank; /* every tensor is there, without data */
};

static int by_name(const void *x, const void *y)
{
    const struct kv_entry *a = x, *b = y;
    return strcmp(a->name, b->name);
}

static bool read_table(struct table *t, const struct kv_weights *w, struct kv_arena *a, struct kv_err *e)
{
    struct kv_entry **part = KV_NEW_N(a, struct kv_entry *, w->n_mappings);
    int64_t *count = KV_NEW_N(a, int64_t, w->n_mappings), at = 0;
    for (int i = 0; i < w->n_mappings; t->n += count[i++])
        if (!kv_safetensors_read(&w->mapping[i], &part[i], &count[i], a, e))
            return false;
    t->entry = kv_alloc_many(a, (size_t)t->n, sizeof *t->entry, "the tensors of a checkpoint", e);
    if (!t->entry)
        return false;
    for (int i = 0; i < w->n_mappings; at += count[i++])
        memcpy(t->entry + at, part[i], (size_t)count[i] * sizeof *t->entry);
    qsort(t->entry, (size_t)t->n, sizeof *t->entry, by_name);
    for (int64_t i = 1; i < t->n; i++)
        if (!strcmp(t->entry[i].name, t->entry[i - 1].name))
            return kv_fail(e, KV_DATA, "tensor '%s' is twice in the checkpoint: in '%s' and in '%s'", t->entry[i].name,
                           t->entry[i - 1].path, t->entry[i].path);
    return true;
}

static const char *shape_text(const struct kv_entry *t, struct kv_arena *a)
{
    if (t->dims > 2)
        return kv_format(a, "of %d dimensions", t->dims);
    return t->dims == 2   ? kv_format(a, "(%lld, %lld)", (long long)t->shape[0], (long long)t->shape[1])
           : t->dims == 1 ? kv_format(a, "(%lld,)", (long long)t->shape[0])
                          : "()";
}

/* Fills in *out from the tensor of this name: there, of the right shape, of a type that can be read. */
static bool bind(struct table *t, const char *name, int64_t rows, int64_t columns, bool vector, struct kv_tensor *out,
                 struct kv_arena *a, struct kv_err *e)
{
    static const char *const types[] = {[KV_TENSOR_F32] = "F32", [KV_TENSOR_BF16] = "BF16", [KV_TENSOR_F16] = "F16"};
    const struct kv_entry wanted = {.name = name, .dims = vector ? 1 : 2, .shape = {vector ? columns : rows, columns}};
    const struct kv_entry *found = NULL;
    if (t->blank) {
        *out = (struct kv_tensor){name, KV_TENSOR_BF16, rows, columns, NULL};
        return true;
    }
    if (t->n)
        found = bsearch(&wanted, t->entry, (size_t)t->n, sizeof wanted, by_name);
    if (!found)
        return kv_fail(e, KV_DATA, "%s: no tensor '%s' in the checkpoint; expected shape %s", t->folder, name,
                       shape_text(&wanted, a));
    if (found->dims != wanted.dims || found->shape[0] != wanted.shape[0] || (!vector && found->shape[1] != columns))
        return kv_fail(e, KV_DATA, "%s: tensor '%s' has shape %s; config.json asks for %s", found->path, name,
                       shape_text(found, a), shape_text(&wanted, a));
    for (int i = 0; i < 3; i++)
        if (!strcmp(found->dtype, types[i])) {
            *out = (struct kv_tensor){found->name, (enum kv_tensor_type)i, rows, columns, found->data};
            t->bound++;
            return true;
        }
    return kv_fail(e, KV_DATA, "%s: tensor '%s' has elements of type %s; expected F32, BF16 or F16", found->path, name,
                   found->dtype);
}

/* Binds one wanted tensor into `object`, a layer or the model. */
static bool bind_wanted(struct kv_weights *w, struct table *t, const struct wanted *want, const char *name,
                        void *object, struct kv_arena *a, struct kv_err *e)
{
    int64_t extent[N_EXTENTS];
    bool pointer = want->use != ALWAYS && want->use != UNTIED;
    void *field = (char *)object + want->offset;
    struct kv_tensor *tensor = pointer ? KV_NEW(a, struct kv_tensor) : field;
    fill_extents(&w->config, extent);
    if (!bind(t, name, extent[want->rows], extent[want->columns], want->rows == ONE, tensor, a, e))
        return false;
    if (pointer)
        *(const struct kv_tensor **)field = tensor;
    int64_t elements = tensor->rows * tensor->columns;
    w->parameters += elements;
    w->bytes += elements * (tensor->type == KV_TENSOR_F32 ? 4 : 2);
    return true;
}

static bool bind_all(struct kv_weights *w, struct table *t, struct kv_arena *a, struct kv_err *e)
{
    const struct kv_config *c = &w->config;
    int before = e->n;
    for (int i = 0; i < N_OF_MODEL; i++)
        if (has(c, of_model[i].use))
            bind_wanted(w, t, &of_model[i], of_model[i].name, w, a, e);
    if (c->tied)
        w->head = w->embedding;
    for (int64_t layer = 0; layer < c->layers && e->n - before < KV_ERR_LINES; layer++)
        for (int i = 0; i < N_OF_LAYER; i++)
            if (has(c, of_layer[i].use))
                bind_wanted(w, t, &of_layer[i],
                            kv_format(a, "model.layers.%lld.%s", (long long)layer, of_layer[i].name), &w->layer[layer],
                            a, e);
    return e->n == before;
}

static bool open_weights(struct kv_weights *w, const char *folder, int64_t *ignored, struct kv_arena *a,
                         struct kv_err *e)
{
    struct table t = {.folder = folder};
    if (!kv_config_read(&w->config, folder, a, e) || !open_files(w, folder, a, e) || !read_table(&t, w, a, e))
        return false;
    w->layer = kv_alloc_many(a, (size_t)w->config.layers, sizeof *w->layer, "the weights of each layer", e);
    if (!w->layer || !bind_all(w, &t, a, e))
        return false;
    if (ignored)
        *ignored = t.n - t.bound;
    return true;
}

bool kv_weights_open(struct kv_weights *w, const char *folder, int64_t *ignored, struct kv_arena *a, struct kv_err *e)
{
    *w = (struct kv_weights){0};
    bool good = open_weights(w, folder, ignored, a, e);
    if (!good)
        kv_weights_close(w);
    return good;
}

bool kv_weights_blank(struct kv_weights *w, const char *folder, uint64_t seed, struct kv_arena *a, struct kv_err *e)
{
    struct table t = {.folder = folder, .blank = true};
    *w = (struct kv_weights){.drawn = true, .seed = seed};
    if (!kv_config_read(&w->config, folder, a, e))
        return false;
    w->config.random = true;
    w->layer = kv_alloc_many(a, (size_t)w->config.layers, sizeof *w->layer, "the weights of each layer", e);
    return w->layer && bind_all(w, &t, a, e);
}

void kv_weights_close(struct kv_weights *w)
{
    for (int i = 0; i < w->n_mappings; i++)
        kv_mapping_close(&w->mapping[i]);
    w->n_mappings = 0;
}

/* ---- random checkpoints ---- */

struct random_weights {
    const struct kv_tensor_out *tensor;
    uint64_t seed;
    double scale;
};

/* Standard normal numbers, two from each draw of two uniform ones (Box and Muller 1958). */
static double normal(uint64_t seed, uint64_t purpose, uint64_t id, uint64_t i)
{
    double u = kv_uniform(kv_random(seed, purpose, id, i & ~UINT64_C(1)));
    double v = kv_uniform(kv_random(seed, purpose, id, i | 1));
    double radius = sqrt(-2 * log1p(-u)), angle = 6.283185307179586 * v;
    return radius * (i & 1 ? sin(angle) : cos(angle));
}

/* An element is a function of seed, tensor's name and place: layers more or fewer change no other. */
static void fill_random(const void *context, int tensor, int64_t from, int64_t n, float *out)
{
    const struct random_weights *r = context;
    const char *name = r->tensor[tensor].name;
    uint64_t purpose = kv_purpose("weights"), id = kv_purpose(name);
    bool norm = strstr(name, "norm.weight") != NULL;
    for (int64_t i = 0; i < n; i++) {
        double x = normal(r->seed, purpose, id, (uint64_t)(from + i));
        out[i] = (float)(norm ? 1 + 0.1 * x : r->scale * x);
    }
}

static struct kv_tensor_out make_out(const struct kv_config *c, const struct wanted *want, const char *name,
                                     enum kv_tensor_type type)
{
    int64_t extent[N_EXTENTS];
    fill_extents(c, extent);
    struct kv_tensor_out t = {.name = name, .type = type, .dims = want->rows == ONE ? 1 : 2};
    t.shape[0] = extent[want->rows == ONE ? want->columns : want->rows];
    t.shape[1] = extent[want->columns];
    return t;
}

/* All tensors of a model; returns how many. */
static int list_tensors(const struct kv_config *c, enum kv_tensor_type type, struct kv_tensor_out *out,
                        struct kv_arena *a)
{
    int n = 0;
    for (int i = 0; i < N_OF_MODEL; i++)
        if (has(c, of_model[i].use))
            out[n++] = make_out(c, &of_model[i], of_model[i].name, type);
    for (int64_t layer = 0; layer < c->layers; layer++)
        for (int i = 0; i < N_OF_LAYER; i++)
            if (has(c, of_layer[i].use))
                out[n++] = make_out(c, &of_layer[i],
                                    kv_format(a, "model.layers.%lld.%s", (long long)layer, of_layer[i].name), type);
    return n;
}

static json_t *pack_rope(const struct kv_config *c)
{
    if (c->rope == KV_ROPE_LLAMA3)
        return json_pack("{s:s,s:f,s:f,s:f,s:I}", "rope_type", "llama3", "factor", c->rope_factor, "low_freq_factor",
                         c->rope_low, "high_freq_factor", c->rope_high, "original_max_position_embeddings",
                         (json_int_t)c->rope_original);
    if (c->rope == KV_ROPE_LINEAR)
        return json_pack("{s:s,s:f}", "rope_type", "linear", "factor", c->rope_factor);
    return json_null();
}

static json_t *pack_eos(const struct kv_config *c)
{
    json_t *list = json_array();
    for (int i = 0; i < c->n_eos; i++)
        json_array_append_new(list, json_integer(c->eos[i]));
    return list;
}

/* As release 4 of transformers writes it, which release 5 reads too. */
static json_t *pack_config(const struct kv_config *c, enum kv_tensor_type type)
{
    static const char *const types[] = {
        [KV_TENSOR_F32] = "float32", [KV_TENSOR_BF16] = "bfloat16", [KV_TENSOR_F16] = "float16"};
    struct kv_model m;
    kv_config_model(c, &m);
    json_t *root =
        json_pack("{s:[s],s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:f,s:f,s:o,s:b,s:b,s:b,s:o}", "architectures",
                  c->architecture, "model_type", m.type, "torch_dtype", types[type], "hidden_act", "silu",
                  "hidden_size", (json_int_t)c->hidden, "intermediate_size", (json_int_t)c->intermediate,
                  "num_hidden_layers", (json_int_t)c->layers, "num_attention_heads", (json_int_t)c->q_heads,
                  "num_key_value_heads", (json_int_t)c->kv_heads, "head_dim", (json_int_t)c->head_dim, "vocab_size",
                  (json_int_t)c->vocab, "max_position_embeddings", (json_int_t)c->max_positions, "rms_norm_eps",
                  c->rms_eps, "rope_theta", c->rope_theta, "rope_scaling", pack_rope(c), "tie_word_embeddings", c->tied,
                  "attention_bias", c->o_bias, "mlp_bias", c->mlp_bias, "eos_token_id", pack_eos(c));
    json_object_set_new(root, "random_weights", json_true());
    json_object_set_new(root, "bos_token_id", c->bos >= 0 ? json_integer(c->bos) : json_null());
    json_object_set_new(root, "sliding_window", c->sliding_window ? json_integer(c->sliding_window) : json_null());
    if (!strncmp(m.type, "qwen", 4)) {
        json_object_set_new(root, "use_sliding_window", json_boolean(c->sliding_window));
        json_object_set_new(root, "max_window_layers", json_integer(c->sliding_window ? 0 : c->layers));
    }
    return root;
}

static bool write_config(const char *path, const struct kv_config *c, enum kv_tensor_type type, struct kv_arena *a,
                         struct kv_err *e)
{
    const char *part = kv_format(a, "%s.part", path);
    json_t *root = pack_config(c, type);
    errno = 0;
    bool good = root && json_dump_file(root, part, JSON_INDENT(2) | JSON_REAL_PRECISION(17)) == 0;
    json_decref(root);
    if (good && rename(part, path) == 0)
        return true;
    int error = errno;
    unlink(part);
    return kv_fail(e, KV_ENV, "cannot write '%s': %s", path, strerror(error ? error : EIO));
}

bool kv_weights_random(const char *folder, const struct kv_config *c, enum kv_tensor_type type, uint64_t seed,
                       double scale, struct kv_arena *a, struct kv_err *e)
{
    size_t most = (size_t)(N_OF_MODEL + c->layers * N_OF_LAYER);
    struct kv_tensor_out *tensor = kv_alloc_many(a, most, sizeof *tensor, "the tensors of a model", e);
    struct random_weights r = {.tensor = tensor, .seed = seed, .scale = scale > 0 ? scale : 0.02};
    if (!tensor)
        return false;
    if (mkdir(folder, 0777) && errno != EEXIST)
        return kv_fail(e, KV_ENV, "cannot make folder '%s': %s", folder, strerror(errno));
    int n = list_tensors(c, type, tensor, a);
    return kv_safetensors_stream(kv_format(a, "%s/model.safetensors", folder), tensor, n, fill_random, &r, a, e) &&
           write_config(kv_format(a, "%s/config.json", folder), c, type, a, e);
}
