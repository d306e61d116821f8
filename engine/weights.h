/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Weights of a Hugging Face folder: safetensors, one file or sharded, mapped read-only. Every size and offset is
 * checked before anything is looked at. */
#ifndef KV_WEIGHTS_H
#define KV_WEIGHTS_H

#include "engine/config.h"

enum kv_tensor_type { KV_TENSOR_F32, KV_TENSOR_BF16, KV_TENSOR_F16 };

struct kv_tensor {
    const char *name;
    enum kv_tensor_type type;
    int64_t rows, columns; /* a vector has one row; a linear layer's weight is (outputs, inputs) */
    const void *data;      /* in the mapping, aligned to its element or not */
};

/* Of one layer; biases and norms are NULL where the model has none. */
struct kv_layer_weights {
    struct kv_tensor attention_norm, q, k, v, o, mlp_norm, gate, up, down;
    const struct kv_tensor *q_bias, *k_bias, *v_bias, *o_bias, *gate_bias, *up_bias, *down_bias, *q_norm, *k_norm;
};

struct kv_weights {
    struct kv_config config;
    struct kv_tensor embedding, norm, head; /* head: the embedding where tied */
    struct kv_layer_weights *layer;
    int64_t bytes, parameters;
    bool drawn; /* no element is here: a backend draws them, bf16, from `seed` (kv_weights_blank) */
    uint64_t seed;
    struct kv_mapping *mapping; /* the files */
    int n_mappings;
};

/* FOLDER/model.safetensors, or the files that model.safetensors.index.json names. All tensors that the config asks for
 * must be there in the right shape; others are ignored, said in *ignored (may be NULL). KV_DATA: file, tensor, what was
 * expected; KV_ENV. */
bool kv_weights_open(struct kv_weights *w, const char *folder, int64_t *ignored, struct kv_arena *a, struct kv_err *e);
void kv_weights_close(struct kv_weights *w);

/* Weights in the shape of FOLDER/config.json that only a device will have: `data` of all tensors is NULL. KV_DATA,
 * KV_ENV. */
bool kv_weights_blank(struct kv_weights *w, const char *folder, uint64_t seed, struct kv_arena *a, struct kv_err *e);

/* n elements from `from` on, as f32 (exact). */
void kv_tensor_read(const struct kv_tensor *t, int64_t from, int64_t n, float *out);

/* The same elements as they lie in the file, n x 2 or 4 bytes, from any thread. They are read from the file and not
 * through the mapping, so that a file that was cut short is an error. A tensor that is in no file is copied. KV_DATA;
 * KV_ENV. */
bool kv_weights_fetch(const struct kv_weights *w, const struct kv_tensor *t, int64_t from, int64_t n, void *out,
                      struct kv_err *e);

/* Writes one safetensors file (F32, BF16 or F16 from f32 data, nearest even); for tests and tools. KV_ENV. */
struct kv_tensor_out {
    const char *name;
    enum kv_tensor_type type;
    int dims;
    int64_t shape[2];
    const float *data;
};
bool kv_safetensors_write(const char *path, const struct kv_tensor_out *tensor, int n, struct kv_arena *a,
                          struct kv_err *e);

/* A checkpoint of seeded random weights (normal, standard deviation 0.02 unless `scale` says otherwise, norms near 1)
 * in the shape of `c`: FOLDER, made if it is not there, gets config.json, which says that they are random, and
 * model.safetensors. KV_ENV. */
bool kv_weights_random(const char *folder, const struct kv_config *c, enum kv_tensor_type type, uint64_t seed,
                       double scale, struct kv_arena *a, struct kv_err *e);

#endif
