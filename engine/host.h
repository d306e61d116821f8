/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What every command of kvengine begins with: a model, its tokenizer, a backend, prompts. */
#ifndef KV_HOST_H
#define KV_HOST_H

#include "engine/live.h"
#include "engine/sample.h"
#include "engine/tokenizer.h"
#include "sim/cli.h"

struct kv_prompt {
    const char *name;
    int32_t *id;
    int64_t n;
};

struct kv_host {
    const char *folder;
    struct kv_weights weights;
    struct kv_tokenizer *tokenizer; /* NULL: the folder has none, ids only */
    struct kv_backend *backend;
    const struct kv_backend_ops *ops;
    struct kv_backend_asked asked;
    struct kv_defaults run;
    struct kv_prompt *prompt;
    int n_prompts;
    int64_t output;
    struct kv_sampler sampler;
    bool quiet;
};

#define KV_HOST_DTYPE_HELP "element type of KV entries: with cuda bf16 (default), fp16 or fp8 (e4m3); with cpu fp32"

/* Options that these commands share; KV_HOST_OPTIONS goes into their tables. */
#define KV_HOST_OPTIONS                                                                                                \
    {.name = "prompt", .letter = 'p', .value = "TEXT", .repeat = true, .help = "a prompt"},                            \
        {.name = "prompt-file",                                                                                        \
         .value = "FILE",                                                                                              \
         .repeat = true,                                                                                               \
         .help = "a prompt from a file ('-': standard input)"},                                                        \
        {.name = "ids", .value = "LIST", .repeat = true, .help = "a prompt as token ids, commas between, or @FILE"},   \
        {.name = "chat", .help = "put prompts into the model's chat form (Llama 3)"},                                  \
        {.name = "output", .letter = 'n', .value = "N", .help = "tokens to generate (default 32)"},                    \
        {.name = "chunk", .letter = 'c', .value = "N", .help = "tokens of a prefill chunk (default 512)"},             \
        {.name = "block-size", .value = "N", .help = "entries of a page (default 64)"},                                \
        {.name = "pool", .value = "BYTES", .help = "most memory for KV pages (default: half of what is free)"},        \
        {.name = "backend", .value = "NAME", .help = "cpu (default), in f32; or cuda, in bf16, on an NVIDIA device"},  \
        {.name = "no-graph",                                                                                           \
         .help = "with --backend cuda: ask for each kernel of a decode step instead of repeating a recorded one"},     \
        {.name = "kv-cache-dtype", .value = "T", .help = KV_HOST_DTYPE_HELP},                                          \
    {                                                                                                                  \
        .name = "threads", .letter = 'j', .value = "N", .help = "threads (default: the cores there are)"               \
    }

/* For commands that run models of random weights in full size. */
#define KV_HOST_RANDOM                                                                                                 \
    {                                                                                                                  \
        .name = "random-weights", .value = "SEED",                                                                     \
        .help = "with --backend cuda: weights drawn on the device, in the shape of FOLDER's config.json"               \
    }

/* Opens the model in args->operand[0] and reads the options above; refuses before loading what does not fit into
 * memory. Prompts are encoded. */
bool kv_host_open(struct kv_host *h, const struct kv_args *args, bool needs_prompt, struct kv_arena *a,
                  struct kv_err *e);
void kv_host_close(struct kv_host *h);

bool kv_host_ends(const struct kv_host *h, int32_t token);

#endif
