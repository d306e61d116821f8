/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What a Llama-like model is, from a Hugging Face `config.json`: Llama 2, 3, 3.1, 3.2, Mistral, Qwen2.5, Qwen3 (dense).
 * Other architectures are refused by name, and so is every setting that would change what is computed and is not known
 * here. */
#ifndef KV_ENGINE_CONFIG_H
#define KV_ENGINE_CONFIG_H

#include "sim/core/model.h"

enum kv_rope { KV_ROPE_PLAIN, KV_ROPE_LLAMA3, KV_ROPE_LINEAR };

struct kv_config {
    const char *name;         /* of the folder */
    const char *architecture; /* "LlamaForCausalLM", ... */
    int64_t layers, hidden, q_heads, kv_heads, head_dim, intermediate, vocab, max_positions;
    double rms_eps, rope_theta;
    enum kv_rope rope;
    double rope_factor, rope_low, rope_high; /* llama3: factor, low_freq_factor, high_freq_factor; linear: factor */
    int64_t rope_original;                   /* llama3: original_max_position_embeddings */
    bool tied;                               /* lm_head is the embedding */
    bool qkv_bias;                           /* Qwen2: q, k, v have biases */
    bool o_bias, mlp_bias;                   /* attention_bias, mlp_bias of Llama */
    bool qk_norm;                            /* Qwen3: RMS norm of each head's q and k before RoPE */
    int64_t sliding_window;                  /* 0: none */
    int32_t bos;                             /* -1: none */
    int32_t eos[8];                          /* config.json and generation_config.json */
    int n_eos;
    bool random; /* "random_weights": they were drawn, not trained (kv_weights_random says so of its own) */
};

/* FOLDER/config.json (and generation_config.json). KV_DATA with the file and what to do. */
bool kv_config_read(struct kv_config *c, const char *folder, struct kv_arena *a, struct kv_err *e);

/* Geometry as kvsim's core knows it, for policies; kv_model_finish fills in what follows from it. */
void kv_config_model(const struct kv_config *c, struct kv_model *m);

/* Whether so many tokens of a sequence can be computed: not beyond a sliding window. KV_USAGE. */
bool kv_config_reaches(const struct kv_config *c, int64_t tokens, struct kv_err *e);

/* cos and sin of every position's angles, (positions, head_dim / 2) each, in f32 as Hugging Face computes them: inverse
 * frequencies in f32, their product with the position in f32. */
void kv_config_rope(const struct kv_config *c, int64_t first, int64_t positions, float *cosine, float *sine);

#endif
