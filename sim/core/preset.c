/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/core/preset.h"

#include "sim/core/schema.h"
#include "sim/core/store.h"

#include <ctype.h>
#include <dirent.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define AT(member) offsetof(struct kv_model, member)
#define SIZE(name, default_, text)                                                                                     \
    {                                                                                                                  \
        .key = #name, .type = KV_T_COUNT, .offset = AT(name), .def = default_, .min = 0, .max = 1e9, .help = text      \
    }
#define FLAG(name, text)                                                                                               \
    {                                                                                                                  \
        .key = #name, .type = KV_T_BOOL, .offset = AT(name), .def = "false", .help = text                              \
    }
static const struct kv_field model_fields[] = {
    {.key = "name", .type = KV_T_TEXT, .offset = AT(name), .help = "the name tables show"},
    {.key = "type", .type = KV_T_TEXT, .offset = AT(type), .help = "Hugging Face model_type"},
    SIZE(layers, "0", "transformer layers"),
    SIZE(q_heads, "0", "query heads"),
    SIZE(kv_heads, "0", "key and value heads"),
    SIZE(head_dim, "0", "size of a head"),
    SIZE(hidden, "0", "width of the residual stream"),
    SIZE(intermediate, "0", "width of the MLP"),
    SIZE(vocab, "0", "tokens of the vocabulary"),
    SIZE(max_positions, "0", "positions the model was made for"),
    SIZE(sliding_window, "0", "entries a sliding-window layer may hold"),
    SIZE(sliding_full_every, "0", "every n-th layer has full attention; 0: all have the window"),
    FLAG(tie_embeddings, "input and output embeddings are one"),
    FLAG(qkv_bias, "query, key and value projections have a bias"),
    FLAG(o_bias, "the output projection has a bias"),
    FLAG(mlp_bias, "the MLP has biases"),
    FLAG(qk_norm, "queries and keys are normalised per head"),
    SIZE(norms_per_layer, "2", "norm vectors in a layer"),
    SIZE(experts, "0", "experts of a mixture; 0: dense"),
    SIZE(experts_per_token, "0", "experts a token uses"),
    SIZE(moe_intermediate, "0", "width of one expert"),
    SIZE(shared_intermediate, "0", "width of the shared experts together"),
    FLAG(shared_gate, "the shared expert has a gate"),
    SIZE(dense_layers, "0", "first layers with a plain MLP"),
    SIZE(kv_lora_rank, "0", "latent size of MLA; 0: none"),
    SIZE(rope_dim, "0", "rotary part of an MLA key"),
    SIZE(q_lora_rank, "0", "latent size of MLA queries"),
    SIZE(nope_dim, "0", "part of an MLA key without rotation"),
    SIZE(value_dim, "0", "size of an MLA value"),
    {.key = "rope_theta", .type = KV_T_REAL, .offset = AT(rope_theta), .def = "10000", .help = "rotary base"},
    {.key = "rope_scaling", .type = KV_T_TEXT, .offset = AT(rope_scaling), .def = "none", .help = "rotary scaling"},
    {.key = "rope_factor", .type = KV_T_REAL, .offset = AT(rope_factor), .def = "1", .help = "scaling factor"},
    {.key = "rope_low_freq_factor",
     .type = KV_T_REAL,
     .offset = AT(rope_low_freq_factor),
     .def = "1",
     .help = "llama3"},
    {.key = "rope_high_freq_factor",
     .type = KV_T_REAL,
     .offset = AT(rope_high_freq_factor),
     .def = "4",
     .help = "llama3"},
    SIZE(rope_original_max_positions, "0", "positions before scaling"),
    {.key = "norm_eps", .type = KV_T_REAL, .offset = AT(norm_eps), .def = "1e-5", .help = "epsilon of the norms"},
    {.key = "dtype",
     .type = KV_T_CHOICE,
     .offset = AT(dtype),
     .def = "bf16",
     .choices = kv_dtype_names,
     .help = "element type of the weights"},
    FLAG(quantised, "some weights are narrower than dtype"),
};

static bool is_folder(const char *path)
{
    struct stat st;
    return !stat(path, &st) && S_ISDIR(st.st_mode);
}

static bool holds_data(const char *folder, struct kv_arena *a)
{
    return is_folder(kv_format(a, "%s/models", folder)) && is_folder(kv_format(a, "%s/configs/hardware", folder));
}

const char *kv_data_folder(struct kv_arena *a, struct kv_err *e)
{
    const char *set = getenv("KVSIM_DATA");
    if (set && *set) {
        if (holds_data(set, a))
            return set;
        kv_fail(e, KV_ENV, "KVSIM_DATA is '%s', which holds no 'models' and 'configs/hardware'", set);
        return NULL;
    }
    char program[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    const char *here = length > 0 ? kv_copy_part(a, program, (size_t)length) : ".";
    /* bin/kvsim -> share/kvsim; build/release/kvsim -> the source tree */
    for (char *folder = kv_copy_text(a, here), *slash; (slash = strrchr(folder, '/')) != NULL;) {
        *slash = '\0';
        const char *share = kv_format(a, "%s/share/kvsim", folder);
        if (holds_data(share, a))
            return share;
        if (*folder && holds_data(folder, a))
            return kv_copy_text(a, folder);
    }
    kv_fail(e, KV_ENV,
            "no presets found: neither above '%s' nor in share/kvsim beside it; set KVSIM_DATA to the folder that "
            "holds 'models' and 'configs'",
            here);
    return NULL;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool preset_names(const char *folder, const char ***names, int *n, struct kv_arena *a, struct kv_err *e)
{
    const char *data = kv_data_folder(a, e);
    if (!data)
        return false;
    const char *path = kv_format(a, "%s/%s", data, folder);
    DIR *dir = opendir(path);
    if (!dir)
        return kv_fail(e, KV_ENV, "cannot open the folder of presets '%s'", path);
    enum { MOST = 4096 };
    *names = KV_NEW_N(a, const char *, MOST);
    *n = 0;
    for (struct dirent *entry; (entry = readdir(dir)) && *n < MOST;) {
        size_t length = strlen(entry->d_name);
        if (length > 4 && !strcmp(entry->d_name + length - 4, ".ini"))
            (*names)[(*n)++] = kv_copy_part(a, entry->d_name, length - 4);
    }
    closedir(dir);
    qsort(*names, (size_t)*n, sizeof **names, by_text);
    return true;
}

const char *kv_preset_file(const char *folder, const char *noun, const char *what, struct kv_arena *a, struct kv_err *e)
{
    size_t length = strlen(what);
    if (length > 4 && !strcmp(what + length - 4, ".ini"))
        return what;
    const char **names, *all = "";
    int n;
    if (!preset_names(folder, &names, &n, a, e))
        return NULL;
    char *lower = kv_copy_text(a, what);
    for (char *c = lower; *c; c++)
        *c = (char)tolower((unsigned char)*c);
    for (int i = 0; i < n; i++) {
        if (!strcmp(names[i], lower))
            return kv_format(a, "%s/%s/%s.ini", kv_data_folder(a, e), folder, names[i]);
        all = kv_format(a, "%s%s%s", all, i ? ", " : "", names[i]);
    }
    const char *near = kv_nearest(lower, names, n);
    if (near)
        kv_fail(e, KV_USAGE, "%s '%s' is not known; did you mean '%s'?", noun, what, near);
    else
        kv_fail(e, KV_USAGE, "%s '%s' is not known; give a file, or one of: %s", noun, what, all);
    return NULL;
}

static bool from_preset(const char *path, struct kv_model *m, struct kv_arena *a, struct kv_err *e)
{
    struct kv_ini ini;
    if (!kv_ini_read(path, &ini, a, e))
        return false;
    const struct kv_ini_section *s = kv_ini_find(&ini, "model");
    if (!s || ini.n > 1)
        return kv_fail(e, KV_DATA, "%s: a model preset has one section, [model]", path);
    *m = (struct kv_model){0};
    struct kv_bind bind = {.field = model_fields, .n = sizeof model_fields / sizeof *model_fields, .base = m};
    if (!kv_bind(&bind, 1, NULL, 0, s->setting, s->n, a, e))
        return false;
    m->origin = path;
    if (!m->name || !m->type)
        return kv_fail(e, KV_DATA, "%s: [model] needs name and type", path);
    return kv_model_finish(m, a, e);
}

bool kv_model_find(const char *what, struct kv_model *m, struct kv_arena *a, struct kv_err *e)
{
    size_t length = strlen(what);
    bool json = length > 5 && !strcmp(what + length - 5, ".json");
    if (json || is_folder(what) || (strchr(what, '/') && !(length > 4 && !strcmp(what + length - 4, ".ini"))))
        return kv_model_from_hf(what, m, a, e);
    const char *path = kv_preset_file("models", "model", what, a, e);
    return path && from_preset(path, m, a, e);
}
