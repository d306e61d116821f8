/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Any bytes as the config.json of a Hugging Face model. */
#include "sim/core/model.h"
#include "sim/core/store.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* What every caller of kv_model_from_hf takes for granted. */
static void check_model(struct kv_model *m, struct kv_arena *a)
{
    KV_ASSERT(m->name && m->type && m->origin && m->rope_scaling);
    KV_ASSERT(m->layers >= 1 && m->q_heads >= 1 && m->kv_heads >= 1 && m->head_dim >= 1 &&
              m->q_heads % m->kv_heads == 0);
    KV_ASSERT(m->parameters > 0 && m->weight_bytes >= 0 && (m->quantised || m->weight_bytes >= m->parameters));
    bool slides = false;
    for (int64_t i = 0; i < m->layers; i++) {
        KV_ASSERT(m->window[i] == 0 || m->window[i] == m->sliding_window);
        slides |= m->window[i] > 0;
    }
    KV_ASSERT(slides == (m->sliding_window > 0));
    int64_t bytes = kv_store_token_bytes(m, KV_BF16);
    KV_ASSERT(bytes > 0 && kv_store_token_bytes(m, KV_FP32) == 2 * bytes);
    KV_ASSERT(kv_store_token_bytes(m, KV_FP8) == bytes / 2);

    struct kv_model again = *m; /* finishing a second time changes nothing */
    struct kv_err e = {0};
    KV_ASSERT(kv_model_finish(&again, a, &e));
    KV_ASSERT(again.parameters == m->parameters && again.weight_bytes == m->weight_bytes);
    KV_ASSERT(again.sliding_window == m->sliding_window && again.window == m->window);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kv_arena *a = kv_arena_open();
    struct kv_err e = {0};
    struct kv_model m;
    int file = memfd_create("config", 0);
    if (file < 0 || write(file, data ? (const char *)data : "", size) != (ssize_t)size)
        abort();
    if (kv_model_from_hf(kv_format(a, "/proc/self/fd/%d", file), &m, a, &e)) {
        KV_ASSERT(e.n == 0);
        check_model(&m, a);
    } else {
        KV_ASSERT(e.n > 0 && (e.status == KV_DATA || e.status == KV_ENV) && strlen(e.text) == e.length && e.length > 0);
    }
    close(file);
    kv_arena_close(a);
    return 0;
}
