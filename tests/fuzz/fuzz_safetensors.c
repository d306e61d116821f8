/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Any bytes as the model.safetensors of a small model; those that begin with '{' as the index of a sharded one, whose
 * folder holds the whole model in the file `a`. */
#include "engine/weights.h"
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[] = "/tmp/fuzz_safetensorsXXXXXX", single[64], shard[64], sharded[64], config[64];

static const struct kv_config small = {.name = "small",
                                       .architecture = "LlamaForCausalLM",
                                       .layers = 1,
                                       .hidden = 2,
                                       .q_heads = 1,
                                       .kv_heads = 1,
                                       .head_dim = 2,
                                       .intermediate = 1,
                                       .vocab = 2,
                                       .max_positions = 4,
                                       .rms_eps = 1e-5,
                                       .rope_theta = 10000,
                                       .tied = true,
                                       .bos = -1};

static void remove_folder(void)
{
    unlink(single);
    unlink(shard);
    unlink(sharded);
    unlink(config);
    rmdir(folder);
}

static void make_folder(struct kv_arena *a)
{
    struct kv_err e = {0};
    KV_ASSERT(mkdtemp(folder));
    snprintf(single, sizeof single, "%s/model.safetensors", folder);
    snprintf(shard, sizeof shard, "%s/a", folder);
    snprintf(sharded, sizeof sharded, "%s/model.safetensors.index.json", folder);
    snprintf(config, sizeof config, "%s/config.json", folder);
    atexit(remove_folder);
    KV_ASSERT(kv_weights_random(folder, &small, KV_TENSOR_F32, 1, 0, a, &e));
    KV_ASSERT(rename(single, shard) == 0);
}

static void write_file(const char *path, const uint8_t *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    KV_ASSERT(file && (size == 0 || fwrite(data, 1, size, file) == size));
    KV_ASSERT(fclose(file) == 0);
}

/* Reads every element. */
static int64_t check_tensor(const struct kv_tensor *t, int64_t rows, int64_t columns)
{
    float x[4];
    KV_ASSERT(t->rows == rows && t->columns == columns && rows * columns <= 4);
    kv_tensor_read(t, 0, rows * columns, x);
    return rows * columns;
}

static void check_weights(const struct kv_weights *w)
{
    const struct kv_layer_weights *l = w->layer;
    int64_t n = check_tensor(&w->embedding, 2, 2) + check_tensor(&w->norm, 1, 2) + check_tensor(&l->q, 2, 2) +
                check_tensor(&l->k, 2, 2) + check_tensor(&l->v, 2, 2) + check_tensor(&l->o, 2, 2) +
                check_tensor(&l->gate, 1, 2) + check_tensor(&l->up, 1, 2) + check_tensor(&l->down, 2, 1) +
                check_tensor(&l->attention_norm, 1, 2) + check_tensor(&l->mlp_norm, 1, 2);
    KV_ASSERT(w->parameters == n && w->bytes >= 2 * n && w->bytes <= 4 * n && w->head.data == w->embedding.data);
    KV_ASSERT(!l->q_bias && !l->o_bias && !l->q_norm && w->n_mappings == 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kv_arena *a = kv_arena_open();
    struct kv_err e = {0};
    struct kv_weights w;
    int64_t ignored = -1;
    bool is_index = size && *data == '{';
    if (!*single)
        make_folder(a);
    unlink(single);
    unlink(sharded);
    write_file(is_index ? sharded : single, data, size);
    if (kv_weights_open(&w, folder, &ignored, a, &e)) {
        KV_ASSERT(e.n == 0 && ignored >= 0);
        check_weights(&w);
        kv_weights_close(&w);
    } else {
        KV_ASSERT(e.n > 0 && (e.status == KV_DATA || e.status == KV_ENV) && strlen(e.text) == e.length && e.length > 0);
    }
    kv_arena_close(a);
    return 0;
}
