/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Any bytes as a folder's config.json; what stands behind the first '\0', if there is one, as its
 * generation_config.json. */
#include "engine/config.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[] = "/tmp/fuzz_configXXXXXX", config[64], generation[64];

static void remove_folder(void)
{
    unlink(config);
    unlink(generation);
    rmdir(folder);
}

static void make_folder(void)
{
    KV_ASSERT(mkdtemp(folder));
    snprintf(config, sizeof config, "%s/config.json", folder);
    snprintf(generation, sizeof generation, "%s/generation_config.json", folder);
    atexit(remove_folder);
}

static void write_file(const char *path, const uint8_t *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    KV_ASSERT(file && (size == 0 || fwrite(data, 1, size, file) == size));
    KV_ASSERT(fclose(file) == 0);
}

/* What every caller of kv_config_read takes for granted. */
static void check_config(const struct kv_config *c, struct kv_arena *a)
{
    struct kv_model m;
    struct kv_err e = {0};
    KV_ASSERT(c->name && c->architecture && c->layers >= 1 && c->layers <= KV_MODEL_MOST_LAYERS);
    KV_ASSERT(c->q_heads >= 1 && c->kv_heads >= 1 && c->q_heads % c->kv_heads == 0);
    KV_ASSERT(c->head_dim >= 2 && c->head_dim % 2 == 0 && c->hidden >= 1 && c->intermediate >= 1 && c->vocab >= 1);
    KV_ASSERT(c->max_positions >= 1 && c->sliding_window >= 0 && c->sliding_window < c->max_positions);
    KV_ASSERT(c->rms_eps > 0 && isfinite(c->rms_eps) && c->bos >= -1 && c->bos < c->vocab);
    KV_ASSERT(c->n_eos >= 0 && c->n_eos <= 8);
    for (int i = 0; i < c->n_eos; i++)
        KV_ASSERT(c->eos[i] >= 0 && c->eos[i] < c->vocab);
    kv_config_model(c, &m);
    KV_ASSERT(kv_model_finish(&m, a, &e) && m.parameters > 0);
    if (c->head_dim > 4096)
        return;
    float angle[2][2 * 2048];
    kv_config_rope(c, c->max_positions - 1, 2, angle[0], angle[1]);
    for (int64_t i = 0; i < c->head_dim; i++)
        KV_ASSERT(fabsf(angle[0][i]) <= 1 && fabsf(angle[1][i]) <= 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kv_arena *a = kv_arena_open();
    struct kv_err e = {0};
    struct kv_config c;
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    if (!*config)
        make_folder();
    write_file(config, data, nul ? (size_t)(nul - data) : size);
    if (nul)
        write_file(generation, nul + 1, size - (size_t)(nul - data) - 1);
    else
        unlink(generation);
    if (kv_config_read(&c, folder, a, &e))
        check_config(&c, a);
    KV_ASSERT(strlen(e.text) == e.length && (e.n == 0) == (e.length == 0));
    KV_ASSERT(e.n == 0 || e.status == KV_DATA || e.status == KV_ENV);
    kv_arena_close(a);
    return 0;
}
