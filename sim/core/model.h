/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The shape of a model: all that decides what its KV cache and its weights weigh. From a preset (models/NAME.ini) or
 * from a Hugging Face `config.json`. A family this file does not know is refused by name: it is never sized wrongly. */
#ifndef KV_MODEL_H
#define KV_MODEL_H

#include "sim/core/arena.h"

#include <stdint.h>

/* Bits of one stored element; the scales of the quantised ones are the business of kv_store (sim/core/store.h). */
enum kv_dtype { KV_BF16, KV_FP16, KV_FP32, KV_FP8, KV_INT8, KV_INT4 };

/* The most layers, and the most of any other size: beyond lies a mistake. */
enum { KV_MODEL_MOST_LAYERS = 10000, KV_MODEL_MOST = 1000000000 };

struct kv_model {
    const char *name;
    const char *type;   /* Hugging Face `model_type`: decides which weights a layer has */
    const char *origin; /* the file it came from */

    int64_t layers, q_heads, kv_heads, head_dim; /* MLA: head_dim is that of a query, nope_dim + rope_dim */
    int64_t hidden, intermediate, vocab, max_positions;
    int64_t sliding_window;     /* entries a sliding-window layer may hold; 0: no such layer */
    int64_t sliding_full_every; /* n: every n-th layer (n - 1, 2n - 1, ... from 0) has full attention, the others the
                                 * window; 0: all layers have the window. Gemma 2: 2; Gemma 3: 6 */
    int64_t *window;            /* (layers,) sliding_window for each layer: 0 in layers with full attention */

    bool tie_embeddings, qkv_bias, o_bias, mlp_bias, qk_norm; /* qk_norm: per head; olmo2: over all heads at once */
    int64_t norms_per_layer; /* norm vectors of `hidden` in a layer: 2; Gemma 2 and 3: 4 */

    /* Mixture of experts; experts = 0: dense. */
    int64_t experts, experts_per_token, moe_intermediate; /* moe_intermediate: width of one expert */
    int64_t shared_intermediate;                          /* width of the experts every token uses, together; 0: none */
    bool shared_gate;                                     /* Qwen2-MoE: a gate vector on the shared expert */
    int64_t dense_layers; /* the first layers that have a plain MLP of `intermediate` instead */

    /* Multi-head latent attention: one latent of kv_lora_rank + rope_dim per token and layer is all that is cached.
     * kv_lora_rank = 0: none. */
    int64_t kv_lora_rank, rope_dim, q_lora_rank, nope_dim, value_dim;

    /* Rotary embedding; only kept for the engine and for printing. scaling: "none", "llama3", "yarn", ... */
    double rope_theta;
    const char *rope_scaling;
    double rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    int64_t rope_original_max_positions;
    double norm_eps;

    enum kv_dtype dtype;  /* of the weights; default of the KV cache */
    bool quantised;       /* the checkpoint stores (some) weights narrower than `dtype` */
    int64_t parameters;   /* computed by kv_model_finish; without multi-token prediction layers */
    int64_t weight_bytes; /* parameters x element size; quantised: left as it was given, 0: unknown */
};

/* Checks every size (each >= 1 where it must be, none absurd, q_heads a multiple of kv_heads, no product overflows),
 * fills in `window` if it is NULL (from sliding_window and sliding_full_every), `parameters` and `weight_bytes`;
 * sliding_window becomes 0 when no layer slides. `origin` must be there. Errors, all at once: KV_DATA naming
 * `origin` and the field. */
bool kv_model_finish(struct kv_model *m, struct kv_arena *a, struct kv_err *e);

/* Reads PATH (a folder holding config.json, or the file) as Hugging Face writes it, and finishes the model. Errors:
 * KV_DATA with file:line:col for malformed JSON, the key's name for each missing or wrong value, and the known families
 * for an unknown model_type. A missing key has the value transformers gives it, except where sizes depend on it and
 * that value is a constant of the family (head_dim of Gemma, Mistral's window): there the key must be written. */
bool kv_model_from_hf(const char *path, struct kv_model *m, struct kv_arena *a, struct kv_err *e);

/* What one of `devices` holds of a model whose layers they share, as vLLM deals it out: query heads, widths of the MLP
 * and the vocabulary in equal parts; KV heads too, or one each where there are more devices than KV heads. KV_USAGE when
 * they cannot be dealt out. */
bool kv_model_share(const struct kv_model *m, int64_t devices, struct kv_model *share, struct kv_err *e);

/* The families kv_model_from_hf knows, in alphabetical order, NULL at the end. */
extern const char *const kv_model_families[];

#endif
