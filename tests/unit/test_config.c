/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Configs as Hugging Face has them: what is read, what a missing key means, what is refused and in which words; and the
 * rotary angles. */
#include "engine/config.h"
#include "tests/unit/fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
    struct kv_arena *a;
    struct kv_err e;
    char *folder, *path, *generation;
    struct kv_config c;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->a = kv_arena_open();
    f->folder = make_folder("config", f->a);
    f->path = kv_format(f->a, "%s/config.json", f->folder);
    f->generation = kv_format(f->a, "%s/generation_config.json", f->folder);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    unlink(f->path);
    unlink(f->generation);
    rmdir(f->folder);
    kv_arena_close(f->a);
    free(f);
    return 0;
}

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static bool read_text(struct fixture *f, const char *text)
{
    write_text(f->path, text);
    memset(&f->e, 0, sizeof f->e);
    return kv_config_read(&f->c, f->folder, f->a, &f->e);
}

/* The keys every model has, and `more` (", ..."). */
static bool read_model(struct fixture *f, const char *class, const char *more)
{
    return read_text(f, kv_format(f->a,
                                  "{\"architectures\": [\"%sForCausalLM\"], \"hidden_size\": 64, \"vocab_size\": 200, "
                                  "\"intermediate_size\": 96, \"num_hidden_layers\": 4, \"num_attention_heads\": 8%s}",
                                  class, more));
}

static void must_read(struct fixture *f, const char *class, const char *more)
{
    if (!read_model(f, class, more))
        fail_msg("%s%s: %s", class, more, f->e.text);
}

/* `expected` is a part of what is said, behind the file's name. */
static void must_fail(struct fixture *f, const char *class, const char *more, const char *expected)
{
    if (read_model(f, class, more))
        fail_msg("%s%s is taken", class, more);
    assert_int_equal(f->e.status, KV_DATA);
    if (strncmp(f->e.text, f->path, strlen(f->path)) || !strstr(f->e.text, expected))
        fail_msg("%s%s: '%s'; expected '%s'", class, more, f->e.text, expected);
}

/* ---- models as they are published (keys that do not matter left out) ---- */

static const char llama2[] =
    "{\"_name_or_path\":\"meta-llama/Llama-2-7b-hf\",\"architectures\":[\"LlamaForCausalLM\"],\"bos_token_id\":1,"
    "\"eos_token_id\":2,\"hidden_act\":\"silu\",\"hidden_size\":4096,\"initializer_range\":0.02,"
    "\"intermediate_size\":11008,\"max_position_embeddings\":4096,\"model_type\":\"llama\",\"num_attention_heads\":32,"
    "\"num_hidden_layers\":32,\"num_key_value_heads\":32,\"pretraining_tp\":1,\"rms_norm_eps\":1e-05,"
    "\"rope_scaling\":null,\"tie_word_embeddings\":false,\"torch_dtype\":\"float16\",\"use_cache\":true,"
    "\"vocab_size\":32000}";

static const char llama32[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"attention_bias\":false,\"attention_dropout\":0.0,"
    "\"bos_token_id\":128000,\"eos_token_id\":[128001,128008,128009],\"head_dim\":64,\"hidden_act\":\"silu\","
    "\"hidden_size\":2048,\"intermediate_size\":8192,\"max_position_embeddings\":131072,\"mlp_bias\":false,"
    "\"model_type\":\"llama\",\"num_attention_heads\":32,\"num_hidden_layers\":16,\"num_key_value_heads\":8,"
    "\"rms_norm_eps\":1e-05,\"rope_scaling\":{\"factor\":32.0,\"high_freq_factor\":4.0,\"low_freq_factor\":1.0,"
    "\"original_max_position_embeddings\":8192,\"rope_type\":\"llama3\"},\"rope_theta\":500000.0,"
    "\"tie_word_embeddings\":true,\"vocab_size\":128256}";

static const char mistral[] =
    "{\"architectures\":[\"MistralForCausalLM\"],\"bos_token_id\":1,\"eos_token_id\":2,\"hidden_act\":\"silu\","
    "\"hidden_size\":4096,\"intermediate_size\":14336,\"max_position_embeddings\":32768,\"model_type\":\"mistral\","
    "\"num_attention_heads\":32,\"num_hidden_layers\":32,\"num_key_value_heads\":8,\"rms_norm_eps\":1e-05,"
    "\"rope_theta\":1000000.0,\"sliding_window\":null,\"tie_word_embeddings\":false,\"vocab_size\":32768}";

static const char qwen25[] =
    "{\"architectures\":[\"Qwen2ForCausalLM\"],\"attention_dropout\":0.0,\"bos_token_id\":151643,"
    "\"eos_token_id\":151645,\"hidden_act\":\"silu\",\"hidden_size\":896,\"intermediate_size\":4864,"
    "\"max_position_embeddings\":32768,\"max_window_layers\":21,\"model_type\":\"qwen2\",\"num_attention_heads\":14,"
    "\"num_hidden_layers\":24,\"num_key_value_heads\":2,\"rms_norm_eps\":1e-06,\"rope_theta\":1000000.0,"
    "\"sliding_window\":32768,\"tie_word_embeddings\":true,\"use_mrope\":false,\"use_sliding_window\":false,"
    "\"vocab_size\":151936}";

static const char qwen3[] =
    "{\"architectures\":[\"Qwen3ForCausalLM\"],\"attention_bias\":false,\"bos_token_id\":151643,"
    "\"eos_token_id\":151645,\"head_dim\":128,\"hidden_act\":\"silu\",\"hidden_size\":1024,"
    "\"intermediate_size\":3072,\"max_position_embeddings\":40960,\"max_window_layers\":28,\"model_type\":\"qwen3\","
    "\"num_attention_heads\":16,\"num_hidden_layers\":28,\"num_key_value_heads\":8,\"rms_norm_eps\":1e-06,"
    "\"rope_scaling\":null,\"rope_theta\":1000000,\"sliding_window\":null,\"tie_word_embeddings\":true,"
    "\"use_sliding_window\":false,\"vocab_size\":151936}";

static const struct {
    const char *text;
    struct kv_config c;
} published[] = {
    {llama2,
     {.architecture = "LlamaForCausalLM",
      .layers = 32,
      .hidden = 4096,
      .q_heads = 32,
      .kv_heads = 32,
      .head_dim = 128,
      .intermediate = 11008,
      .vocab = 32000,
      .max_positions = 4096,
      .rms_eps = 1e-5,
      .rope_theta = 10000,
      .bos = 1,
      .eos = {2},
      .n_eos = 1}},
    {llama32,
     {.architecture = "LlamaForCausalLM",
      .layers = 16,
      .hidden = 2048,
      .q_heads = 32,
      .kv_heads = 8,
      .head_dim = 64,
      .intermediate = 8192,
      .vocab = 128256,
      .max_positions = 131072,
      .rms_eps = 1e-5,
      .rope_theta = 500000,
      .rope = KV_ROPE_LLAMA3,
      .rope_factor = 32,
      .rope_low = 1,
      .rope_high = 4,
      .rope_original = 8192,
      .tied = true,
      .bos = 128000,
      .eos = {128001, 128008, 128009},
      .n_eos = 3}},
    {mistral,
     {.architecture = "MistralForCausalLM",
      .layers = 32,
      .hidden = 4096,
      .q_heads = 32,
      .kv_heads = 8,
      .head_dim = 128,
      .intermediate = 14336,
      .vocab = 32768,
      .max_positions = 32768,
      .rms_eps = 1e-5,
      .rope_theta = 1000000,
      .bos = 1,
      .eos = {2},
      .n_eos = 1}},
    {qwen25,
     {.architecture = "Qwen2ForCausalLM",
      .layers = 24,
      .hidden = 896,
      .q_heads = 14,
      .kv_heads = 2,
      .head_dim = 64,
      .intermediate = 4864,
      .vocab = 151936,
      .max_positions = 32768,
      .rms_eps = 1e-6,
      .rope_theta = 1000000,
      .tied = true,
      .qkv_bias = true,
      .bos = 151643,
      .eos = {151645},
      .n_eos = 1}},
    {qwen3,
     {.architecture = "Qwen3ForCausalLM",
      .layers = 28,
      .hidden = 1024,
      .q_heads = 16,
      .kv_heads = 8,
      .head_dim = 128,
      .intermediate = 3072,
      .vocab = 151936,
      .max_positions = 40960,
      .rms_eps = 1e-6,
      .rope_theta = 1000000,
      .tied = true,
      .qk_norm = true,
      .bos = 151643,
      .eos = {151645},
      .n_eos = 1}},
};

static void must_equal(const struct kv_config *c, const struct kv_config *expected)
{
    assert_string_equal(c->architecture, expected->architecture);
    assert_int_equal(c->layers, expected->layers);
    assert_memory_equal(&c->layers, &expected->layers, 8 * sizeof c->layers); /* the sizes, up to max_positions */
    assert_true(c->rms_eps == expected->rms_eps && c->rope_theta == expected->rope_theta);
    assert_int_equal(c->rope, expected->rope);
    assert_true(c->rope_factor == expected->rope_factor && c->rope_low == expected->rope_low &&
                c->rope_high == expected->rope_high && c->rope_original == expected->rope_original);
    assert_int_equal(c->tied, expected->tied);
    assert_int_equal(c->qkv_bias, expected->qkv_bias);
    assert_int_equal(c->o_bias, expected->o_bias);
    assert_int_equal(c->mlp_bias, expected->mlp_bias);
    assert_int_equal(c->qk_norm, expected->qk_norm);
    assert_int_equal(c->sliding_window, expected->sliding_window);
    assert_int_equal(c->bos, expected->bos);
    assert_int_equal(c->n_eos, expected->n_eos);
    assert_memory_equal(c->eos, expected->eos, sizeof c->eos);
}

static void published_models_are_read(void **state)
{
    struct fixture *f = *state;
    for (size_t i = 0; i < sizeof published / sizeof *published; i++) {
        if (!read_text(f, published[i].text))
            fail_msg("%s", f->e.text);
        must_equal(&f->c, &published[i].c);
        assert_string_equal(f->c.name, strrchr(f->folder, '/') + 1);
    }
}

static void the_core_is_told_the_same(void **state)
{
    struct fixture *f = *state;
    static const int64_t parameters[] = {6738415616, 1235814400, 7248023552, 494032768, 596049920}; /* as published */
    for (size_t i = 0; i < sizeof published / sizeof *published; i++) {
        struct kv_model ours, its;
        assert_true(read_text(f, published[i].text));
        kv_config_model(&f->c, &ours);
        assert_true(kv_model_finish(&ours, f->a, &f->e));
        assert_true(kv_model_from_hf(f->folder, &its, f->a, &f->e));
        assert_int_equal(ours.parameters, parameters[i]);
        assert_int_equal(its.parameters, parameters[i]);
        assert_string_equal(ours.type, its.type);
        assert_string_equal(ours.rope_scaling, its.rope_scaling);
        assert_true(ours.rope_theta == its.rope_theta && ours.rope_factor == its.rope_factor);
    }
}

/* ---- what a missing key means ---- */

static void missing_keys_are_what_transformers_has(void **state)
{
    struct fixture *f = *state;
    must_read(f, "Llama", "");
    struct kv_config c = {.architecture = "LlamaForCausalLM",
                          .layers = 4,
                          .hidden = 64,
                          .q_heads = 8,
                          .kv_heads = 8,
                          .head_dim = 8,
                          .intermediate = 96,
                          .vocab = 200,
                          .max_positions = 2048,
                          .rms_eps = 1e-6,
                          .rope_theta = 10000,
                          .bos = 1,
                          .eos = {2},
                          .n_eos = 1};
    must_equal(&f->c, &c);
    must_read(f, "Mistral", "");
    c.architecture = "MistralForCausalLM";
    c.max_positions = 131072;
    c.sliding_window = 4096;
    must_equal(&f->c, &c);
    must_read(f, "Qwen2", ", \"num_key_value_heads\": null");
    struct kv_config q = {.architecture = "Qwen2ForCausalLM",
                          .layers = 4,
                          .hidden = 64,
                          .q_heads = 8,
                          .kv_heads = 8,
                          .head_dim = 8,
                          .intermediate = 96,
                          .vocab = 200,
                          .max_positions = 32768,
                          .rms_eps = 1e-6,
                          .rope_theta = 10000,
                          .qkv_bias = true,
                          .bos = -1};
    must_equal(&f->c, &q);
    must_read(f, "Qwen3", ", \"num_key_value_heads\": 2");
    assert_int_equal(f->c.head_dim, 128);
    must_fail(f, "Qwen2", "", "32 KV heads"); /* the class's default */
    must_read(f, "Mistral", ", \"head_dim\": null, \"num_key_value_heads\": null");
    assert_int_equal(f->c.head_dim, 8);
}

static void the_class_may_come_from_model_type(void **state)
{
    struct fixture *f = *state;
    const char *rest = "\"hidden_size\":8,\"vocab_size\":9,\"intermediate_size\":5,\"num_hidden_layers\":1,"
                       "\"num_attention_heads\":2,\"num_key_value_heads\":1}";
    assert_true(read_text(f, kv_format(f->a, "{\"model_type\": \"mistral\", %s", rest)));
    assert_string_equal(f->c.architecture, "MistralForCausalLM");
    assert_false(read_text(f, kv_format(f->a, "{%s", rest)));
    assert_non_null(strstr(f->e.text, "'architectures' is missing; expected a list of one of LlamaForCausalLM"));
    must_fail(f, "Llama", ", \"model_type\": \"mistral\"", "'model_type' is \"mistral\"; expected 'llama'");
}

static void biases_are_of_the_class(void **state)
{
    struct fixture *f = *state;
    must_read(f, "Llama", ", \"attention_bias\": true, \"mlp_bias\": true");
    assert_true(f->c.qkv_bias && f->c.o_bias && f->c.mlp_bias && !f->c.qk_norm);
    must_read(f, "Qwen3", ", \"attention_bias\": true, \"num_key_value_heads\": 4");
    assert_true(f->c.qkv_bias && f->c.o_bias && !f->c.mlp_bias && f->c.qk_norm);
    must_fail(f, "Mistral", ", \"attention_bias\": true", "'attention_bias' is true; expected false");
    must_fail(f, "Llama", ", \"mlp_bias\": 1", "'mlp_bias' is 1; expected true or false");
}

/* ---- windows ---- */

static void windows_are_those_of_the_class(void **state)
{
    static const struct {
        const char *class, *more;
        int64_t window;
    } cases[] = {
        {"Llama", "\"sliding_window\": 7", 0},
        {"Mistral", "\"sliding_window\": 7", 7},
        {"Mistral", "\"sliding_window\": null", 0},
        {"Mistral", "\"sliding_window\": 300", 0},
        {"Mistral", "\"sliding_window\": 299", 299},
        {"Qwen2", "\"sliding_window\": 7", 0},
        {"Qwen2", "\"sliding_window\": 7, \"use_sliding_window\": true", 0}, /* from layer 28 on */
        {"Qwen2", "\"sliding_window\": 7, \"use_sliding_window\": true, \"max_window_layers\": 4", 0},
        {"Qwen2", "\"sliding_window\": 7, \"use_sliding_window\": true, \"max_window_layers\": 0", 7},
        {"Qwen2", "\"sliding_window\": null, \"use_sliding_window\": true, \"max_window_layers\": 0", 0},
        {"Qwen3",
         "\"sliding_window\": 7, \"use_sliding_window\": true, \"layer_types\": [\"sliding_attention\", "
         "\"sliding_attention\", \"sliding_attention\", \"sliding_attention\"]",
         7},
        {"Qwen3",
         "\"use_sliding_window\": false, \"layer_types\": [\"full_attention\", \"full_attention\", "
         "\"full_attention\", \"full_attention\"]",
         0},
    };
    struct fixture *f = *state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        must_read(f, cases[i].class,
                  kv_format(f->a, ", \"num_key_value_heads\": 4, \"max_position_embeddings\": 300, %s", cases[i].more));
        assert_int_equal(f->c.sliding_window, cases[i].window);
    }
}

static void a_window_in_some_layers_is_refused(void **state)
{
    struct fixture *f = *state;
    must_fail(f, "Qwen2", ", \"num_key_value_heads\": 4, \"use_sliding_window\": true, \"max_window_layers\": 2",
              "'max_window_layers' is 2; expected 0 or at least 4");
    must_fail(f, "Qwen3",
              ", \"num_key_value_heads\": 4, \"layer_types\": [\"full_attention\", \"full_attention\", "
              "\"full_attention\", \"sliding_attention\"]",
              "expected 4 times \"full_attention\"");
    must_fail(f, "Qwen3", ", \"num_key_value_heads\": 4, \"layer_types\": [\"full_attention\"]",
              "'layer_types' is [\"full_attention\"]; expected 4 times");
    must_fail(f, "Llama",
              ", \"layer_types\": [\"sliding_attention\", \"sliding_attention\", \"sliding_attention\", "
              "\"sliding_attention\"]",
              "expected what the window's own keys say");
    must_fail(f, "Mistral", ", \"sliding_window\": 0", "'sliding_window' is 0; expected a whole number, 1 to");
}

/* ---- rotary embedding ---- */

static void all_spellings_of_rope_are_read(void **state)
{
    static const char rest[] = "\"factor\": 8.0, \"low_freq_factor\": 1, \"high_freq_factor\": 4.0, "
                               "\"original_max_position_embeddings\": 16}";
    static const char *const forms[] = {
        ", \"rope_theta\": 5e5, \"rope_scaling\": {\"rope_type\": \"llama3\", %s",
        ", \"rope_theta\": 5e5, \"rope_scaling\": {\"type\": \"llama3\", %s",
        ", \"rope_scaling\": null, \"rope_parameters\": {\"rope_theta\": 5e5, \"rope_type\": \"llama3\", %s",
        ", \"rope_theta\": 1, \"rope_parameters\": {\"rope_theta\": 500000, \"rope_type\": \"llama3\", %s",
    };
    struct fixture *f = *state;
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        const char *rope = kv_format(f->a, "%s%s", kv_copy_part(f->a, forms[i], strlen(forms[i]) - 2), rest);
        must_read(f, "Llama", rope);
        assert_int_equal(f->c.rope, KV_ROPE_LLAMA3);
        assert_true(f->c.rope_theta == 5e5 && f->c.rope_factor == 8 && f->c.rope_low == 1 && f->c.rope_high == 4);
        assert_int_equal(f->c.rope_original, 16);
    }
    must_read(f, "Llama", ", \"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 77}");
    assert_true(f->c.rope == KV_ROPE_PLAIN && f->c.rope_theta == 77);
    must_read(f, "Llama", ", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}");
    assert_true(f->c.rope == KV_ROPE_LINEAR && f->c.rope_factor == 2);
}

static void other_ropes_are_refused(void **state)
{
    static const char *const kinds[] = {"dynamic", "yarn", "longrope", "su", "mrope", "LLAMA3"};
    struct fixture *f = *state;
    for (int i = 0; i < 6; i++) {
        must_fail(f, "Llama", kv_format(f->a, ", \"rope_scaling\": {\"type\": \"%s\", \"factor\": 2.0}", kinds[i]),
                  kv_format(f->a, "'type' is \"%s\"; expected default, linear or llama3", kinds[i]));
        must_fail(
            f, "Qwen2",
            kv_format(f->a, ", \"num_key_value_heads\": 4, \"rope_parameters\": {\"rope_type\": \"%s\"}", kinds[i]),
            kv_format(f->a, "'rope_type' is \"%s\"; expected default, linear or llama3", kinds[i]));
    }
    must_fail(f, "Llama", ", \"partial_rotary_factor\": 0.5", "'partial_rotary_factor' is 0.5; expected 1");
    must_fail(f, "Llama", ", \"rope_parameters\": {\"partial_rotary_factor\": 0.25}",
              "'partial_rotary_factor' is 0.25");
    must_fail(f, "Llama", ", \"rope_scaling\": {\"type\": \"llama3\", \"factor\": 2.0}",
              "'low_freq_factor' is missing");
    must_fail(f, "Llama",
              ", \"rope_scaling\": {\"type\": \"llama3\", \"factor\": 2.0, \"low_freq_factor\": 4, "
              "\"high_freq_factor\": 4}",
              "'high_freq_factor' is 4; expected more than 'low_freq_factor'");
    must_fail(f, "Llama", ", \"rope_parameters\": {\"full_attention\": {\"rope_theta\": 1}}", "one for all layers");
    must_fail(f, "Llama", ", \"rope_scaling\": 3", "'rope_scaling' is 3; expected an object or null");
    must_fail(f, "Llama", ", \"rope_theta\": 0", "'rope_theta' is 0; expected a number above 0");
}

/* The formulas in doubles; f32 arithmetic is that near. */
static double frequency(const struct kv_config *c, int64_t i)
{
    double f = pow(c->rope_theta, -2.0 * (double)i / (double)c->head_dim), wave = 6.283185307179586 / f;
    double original = (double)c->rope_original;
    if (c->rope == KV_ROPE_LINEAR)
        return f / c->rope_factor;
    if (c->rope == KV_ROPE_PLAIN || wave < original / c->rope_high)
        return f;
    if (wave > original / c->rope_low)
        return f / c->rope_factor;
    double s = (original / wave - c->rope_low) / (c->rope_high - c->rope_low);
    return (1 - s) * f / c->rope_factor + s * f;
}

static void angles_are_those_of_the_formulas(void **state)
{
    static const enum kv_rope kinds[] = {KV_ROPE_PLAIN, KV_ROPE_LINEAR, KV_ROPE_LLAMA3};
    enum { N = 100, HALF = 64 };
    static float cosine[N * HALF], sine[N * HALF], one_cosine[HALF], one_sine[HALF];
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        struct kv_config c = {.head_dim = 2 * HALF,
                              .rope_theta = 5e5,
                              .rope = kinds[kind],
                              .rope_factor = 8,
                              .rope_low = 1,
                              .rope_high = 4,
                              .rope_original = 8192};
        for (int64_t first = 0; first < 100000; first += 50000) {
            kv_config_rope(&c, first, N, cosine, sine);
            for (int64_t i = 0; i < N * HALF; i++) {
                double angle = (double)(first + i / HALF) * frequency(&c, i % HALF);
                double near = 1e-7 + angle * 4e-7; /* a few units in the last place of the angle */
                assert_true(fabs((double)cosine[i] - cos(angle)) <= near && fabs((double)sine[i] - sin(angle)) <= near);
            }
            kv_config_rope(&c, first + 17, 1, one_cosine, one_sine);
            assert_memory_equal(one_cosine, cosine + (ptrdiff_t)17 * HALF, sizeof one_cosine);
            assert_memory_equal(one_sine, sine + (ptrdiff_t)17 * HALF, sizeof one_sine);
        }
    }
}

/* ---- first and last tokens ---- */

static void ends_come_from_both_files(void **state)
{
    struct fixture *f = *state;
    write_text(f->generation, "{\"eos_token_id\": [5, 7, 5], \"bos_token_id\": 9}");
    must_read(f, "Llama", ", \"eos_token_id\": 7, \"bos_token_id\": 3");
    assert_int_equal(f->c.n_eos, 2);
    assert_true(f->c.eos[0] == 7 && f->c.eos[1] == 5 && f->c.bos == 3);
    must_read(f, "Llama", "");
    assert_true(f->c.n_eos == 2 && f->c.eos[0] == 5 && f->c.bos == 1);
    write_text(f->generation, "{\"temperature\": 0.6}");
    must_read(f, "Llama", "");
    assert_true(f->c.n_eos == 1 && f->c.eos[0] == 2);
    must_read(f, "Llama", ", \"eos_token_id\": null, \"bos_token_id\": null");
    assert_true(f->c.n_eos == 0 && f->c.bos == -1);
    must_read(f, "Llama", ", \"eos_token_id\": [1000000, 199], \"bos_token_id\": 200"); /* outside the vocabulary */
    assert_true(f->c.n_eos == 1 && f->c.eos[0] == 199 && f->c.bos == -1);
    must_fail(f, "Llama", ", \"eos_token_id\": [1, -1]", "'eos_token_id' has -1; expected token ids");
    must_fail(f, "Llama", ", \"eos_token_id\": \"</s>\"", "'eos_token_id' has \"</s>\"");
    must_fail(f, "Llama", ", \"bos_token_id\": 1.5", "'bos_token_id' is 1.5; expected a token id or null");
    must_fail(f, "Llama", ", \"eos_token_id\": [1, 2, 3, 4, 5, 6, 7, 8, 9]", "more than 8 ids");
    write_text(f->generation, "{");
    assert_false(read_model(f, "Llama", ""));
    assert_non_null(strstr(f->e.text, "generation_config.json:1:1: not JSON"));
}

/* ---- refusals ---- */

static void what_would_change_the_result_is_refused(void **state)
{
    static const struct {
        const char *more, *expected;
    } cases[] = {
        {"\"hidden_act\": \"gelu\"", "'hidden_act' is \"gelu\"; expected \"silu\""},
        {"\"quantization_config\": {\"bits\": 4}", "'quantization_config' is there: the checkpoint is quantised; use"},
        {"\"num_local_experts\": 8", "mixtures of experts are not computed here; use a dense model"},
        {"\"auto_map\": {\"AutoModelForCausalLM\": \"x.Y\"}", "the model brings code of its own"},
        {"\"use_mrope\": true", "use a text model"},
        {"\"final_logit_softcapping\": 30.0", "capped logits"},
        {"\"num_key_value_heads\": 3", "KV heads"},
        {"\"num_key_value_heads\": 0", "'num_key_value_heads' is 0; expected a whole number, 1 to"},
        {"\"head_dim\": 7", "heads of 7 elements; expected an even number"},
        {"\"max_position_embeddings\": 1e3", "'max_position_embeddings' is 1000.0; expected a whole number"},
        {"\"rms_norm_eps\": -1", "'rms_norm_eps' is -1; expected a number above 0"},
        {"\"rms_norm_eps\": 1e300", "expected a number above 0, 1e-12 to 1e12"},
        {"\"tie_word_embeddings\": \"yes\"", "'tie_word_embeddings' is \"yes\"; expected true or false"},
    };
    struct fixture *f = *state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        must_fail(f, "Llama", kv_format(f->a, ", %s", cases[i].more), cases[i].expected);
    must_read(f, "Llama", ", \"hidden_act\": \"swish\", \"quantization_config\": null, \"num_experts\": 0");
    must_fail(f, "Mixtral", "",
              "'MixtralForCausalLM' is not an architecture that runs here; use a model that is one of");
}

static void missing_sizes_are_all_said(void **state)
{
    struct fixture *f = *state;
    assert_false(read_text(f, "{\"architectures\": [\"LlamaForCausalLM\"]}"));
    assert_int_equal(f->e.n, 5);
    assert_non_null(strstr(f->e.text, "'vocab_size' is missing; expected a whole number, 1 to 1000000000"));
}

static void what_is_no_config_is_refused(void **state)
{
    static const char *const texts[] = {"",
                                        "[]",
                                        "3",
                                        "nul",
                                        "{\"a\":1,\"a\":2}",
                                        "{\"architectures\": 7}",
                                        "{\"architectures\": [\"LlamaForCausalLM\", \"LlamaForCausalLM\"]}",
                                        "{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 1e999}"};
    struct fixture *f = *state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        assert_false(read_text(f, texts[i]));
        assert_int_equal(f->e.status, KV_DATA);
    }
    unlink(f->path);
    memset(&f->e, 0, sizeof f->e);
    assert_false(kv_config_read(&f->c, f->folder, f->a, &f->e));
    assert_non_null(strstr(f->e.text, "no 'config.json' in '"));
    assert_int_equal(mkfifo(f->path, 0600), 0); /* nothing waits for a writer */
    assert_false(kv_config_read(&f->c, f->folder, f->a, &f->e));
    unlink(f->path);
    assert_int_equal(symlink("/dev/zero", f->path), 0);
    assert_false(kv_config_read(&f->c, f->folder, f->a, &f->e));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(published_models_are_read),
        TEST(the_core_is_told_the_same),
        TEST(missing_keys_are_what_transformers_has),
        TEST(the_class_may_come_from_model_type),
        TEST(biases_are_of_the_class),
        TEST(windows_are_those_of_the_class),
        TEST(a_window_in_some_layers_is_refused),
        TEST(all_spellings_of_rope_are_read),
        TEST(other_ropes_are_refused),
        TEST(angles_are_those_of_the_formulas),
        TEST(ends_come_from_both_files),
        TEST(what_would_change_the_result_is_refused),
        TEST(missing_sizes_are_all_said),
        TEST(what_is_no_config_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
