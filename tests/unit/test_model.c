/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Totals of parameters are those of the released checkpoints: as their Hugging Face pages (safetensors), Keras' presets
 * or, for DeepSeek, counts of the released tensors state them. KV bytes follow from layers, heads and widths by hand.
 * The table of the golden data is checked by its own test. */
#include "sim/core/model.h"
#include "sim/core/store.h"
#include "tests/unit/fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- a folder with a config.json ---- */

struct fixture {
    struct kv_arena *arena;
    const char *folder, *file;
    struct kv_err e;
    struct kv_model m;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->arena = kv_arena_open();
    f->folder = make_folder("model", f->arena);
    f->file = kv_format(f->arena, "%s/config.json", f->folder);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    unlink(f->file);
    rmdir(f->folder);
    kv_arena_close(f->arena);
    free(f);
    return 0;
}

static bool read_config(struct fixture *f, const char *json)
{
    FILE *file = fopen(f->file, "w");
    assert_non_null(file);
    fputs(json, file);
    assert_int_equal(fclose(file), 0);
    memset(&f->e, 0, sizeof f->e);
    return kv_model_from_hf(f->folder, &f->m, f->arena, &f->e);
}

static void must_read(struct fixture *f, const char *json)
{
    if (!read_config(f, json))
        fail_msg("%s", f->e.text);
}

/* `expected` starts behind "FOLDER/config.json". */
static void must_fail(struct fixture *f, const char *json, const char *expected)
{
    assert_false(read_config(f, json));
    assert_int_equal(f->e.status, KV_DATA);
    assert_memory_equal(f->e.text, f->file, strlen(f->file));
    assert_string_equal(f->e.text + strlen(f->file), expected);
}

/* ---- every family ---- */

/* Rows of one line each where the original has them: what does not change a size is left out. */
static const struct known {
    const char *name;
    int64_t parameters, kv_bytes; /* KV bytes of a token in bf16 */
    const char *json;
} known[] = {
    {"meta-llama/Llama-3.1-8B", 8030261248, 131072,
     "{'model_type':'llama','num_hidden_layers':32,'num_attention_heads':32,'num_key_value_heads':8,'hidden_size':4096,"
     "'intermediate_size':14336,'vocab_size':128256,'max_position_embeddings':131072,'rms_norm_eps':1e-05,"
     "'rope_theta':500000.0,'rope_scaling':{'factor':8.0,'high_freq_factor':4.0,'low_freq_factor':1.0,"
     "'original_max_position_embeddings':8192,'rope_type':'llama3'},'attention_bias':false,'mlp_bias':false,"
     "'tie_word_embeddings':false,'torch_dtype':'bfloat16'}"},
    {"meta-llama/Llama-3.2-1B", 1235814400, 32768,
     "{'model_type':'llama','num_hidden_layers':16,'num_attention_heads':32,'num_key_value_heads':8,'head_dim':64,"
     "'hidden_size':2048,'intermediate_size':8192,'vocab_size':128256,'max_position_embeddings':131072,"
     "'tie_word_embeddings':true,'torch_dtype':'bfloat16'}"},
    {"huggyllama/llama-7b", 6738415616, 524288, /* written before num_key_value_heads and rope_theta were */
     "{'model_type':'llama','num_hidden_layers':32,'num_attention_heads':32,'hidden_size':4096,"
     "'intermediate_size':11008,'vocab_size':32000,'max_position_embeddings':2048,'rms_norm_eps':1e-06,"
     "'torch_dtype':'float16'}"},
    {"mistralai/Mistral-7B-v0.1", 7241732096, 131072,
     "{'model_type':'mistral','num_hidden_layers':32,'num_attention_heads':32,'num_key_value_heads':8,"
     "'hidden_size':4096,'intermediate_size':14336,'vocab_size':32000,'max_position_embeddings':32768,"
     "'sliding_window':4096,'tie_word_embeddings':false,'torch_dtype':'bfloat16'}"},
    {"mistralai/Mixtral-8x7B-v0.1", 46702792704, 131072,
     "{'model_type':'mixtral','num_hidden_layers':32,'num_attention_heads':32,'num_key_value_heads':8,"
     "'hidden_size':4096,'intermediate_size':14336,'vocab_size':32000,'max_position_embeddings':32768,"
     "'num_local_experts':8,'num_experts_per_tok':2,'sliding_window':null,'rope_theta':1000000.0,"
     "'tie_word_embeddings':false,'torch_dtype':'bfloat16'}"},
    {"Qwen/Qwen2.5-7B", 7615616512, 57344,
     "{'model_type':'qwen2','num_hidden_layers':28,'num_attention_heads':28,'num_key_value_heads':4,'hidden_size':3584,"
     "'intermediate_size':18944,'vocab_size':152064,'max_position_embeddings':131072,'use_sliding_window':false,"
     "'sliding_window':131072,'max_window_layers':28,'tie_word_embeddings':false,'torch_dtype':'bfloat16'}"},
    {"Qwen/Qwen1.5-MoE-A2.7B", 14315784192, 196608,
     "{'model_type':'qwen2_moe','num_hidden_layers':24,'num_attention_heads':16,'num_key_value_heads':16,"
     "'hidden_size':2048,'intermediate_size':5632,'vocab_size':151936,'max_position_embeddings':8192,'num_experts':60,"
     "'num_experts_per_tok':4,'moe_intermediate_size':1408,'shared_expert_intermediate_size':5632,"
     "'decoder_sparse_step':1,'use_sliding_window':false,'sliding_window':32768,'max_window_layers':21,"
     "'tie_word_embeddings':false,'torch_dtype':'bfloat16'}"},
    {"Qwen/Qwen3-0.6B", 596049920, 114688,
     "{'model_type':'qwen3','num_hidden_layers':28,'num_attention_heads':16,'num_key_value_heads':8,'head_dim':128,"
     "'hidden_size':1024,'intermediate_size':3072,'vocab_size':151936,'max_position_embeddings':40960,"
     "'attention_bias':false,'use_sliding_window':false,'sliding_window':null,'max_window_layers':28,"
     "'tie_word_embeddings':true,'torch_dtype':'bfloat16'}"},
    {"Qwen/Qwen3-30B-A3B", 30532122624, 98304,
     "{'model_type':'qwen3_moe','num_hidden_layers':48,'num_attention_heads':32,'num_key_value_heads':4,'head_dim':128,"
     "'hidden_size':2048,'intermediate_size':6144,'vocab_size':151936,'max_position_embeddings':40960,"
     "'num_experts':128,'num_experts_per_tok':8,'moe_intermediate_size':768,'decoder_sparse_step':1,"
     "'mlp_only_layers':[],'use_sliding_window':false,'tie_word_embeddings':false,'torch_dtype':'bfloat16'}"},
    {"google/gemma-2-9b", 9241705984, 344064,
     "{'model_type':'gemma2','num_hidden_layers':42,'num_attention_heads':16,'num_key_value_heads':8,'head_dim':256,"
     "'hidden_size':3584,'intermediate_size':14336,'vocab_size':256000,'max_position_embeddings':8192,"
     "'sliding_window':4096,'attention_bias':false,'torch_dtype':'float32'}"},
    {"google/gemma-3-1b-it", 999885952, 26624,
     "{'model_type':'gemma3_text','num_hidden_layers':26,'num_attention_heads':4,'num_key_value_heads':1,"
     "'head_dim':256,'hidden_size':1152,'intermediate_size':6912,'vocab_size':262144,'max_position_embeddings':32768,"
     "'sliding_window':512,'sliding_window_pattern':6,'rope_theta':1000000,'torch_dtype':'bfloat16'}"},
    {"microsoft/Phi-3-mini-4k-instruct", 3821079552, 393216,
     "{'model_type':'phi3','num_hidden_layers':32,'num_attention_heads':32,'num_key_value_heads':32,'hidden_size':3072,"
     "'intermediate_size':8192,'vocab_size':32064,'max_position_embeddings':4096,'sliding_window':2047,"
     "'original_max_position_embeddings':4096,'rope_scaling':null,'tie_word_embeddings':false,"
     "'torch_dtype':'bfloat16'}"},
    {"deepseek-ai/DeepSeek-V2-Lite", 15706484224, 31104,
     "{'model_type':'deepseek_v2','num_hidden_layers':27,'num_attention_heads':16,'num_key_value_heads':16,"
     "'hidden_size':2048,'intermediate_size':10944,'vocab_size':102400,'max_position_embeddings':163840,"
     "'n_routed_experts':64,'n_shared_experts':2,'num_experts_per_tok':6,'moe_intermediate_size':1408,"
     "'first_k_dense_replace':1,'moe_layer_freq':1,'kv_lora_rank':512,'q_lora_rank':null,'qk_nope_head_dim':128,"
     "'qk_rope_head_dim':64,'v_head_dim':128,'topk_method':'greedy','tie_word_embeddings':false,"
     "'torch_dtype':'bfloat16'}"},
    {"deepseek-ai/DeepSeek-V3, main model", 671026419200, 70272,
     "{'model_type':'deepseek_v3','num_hidden_layers':61,'num_attention_heads':128,'num_key_value_heads':128,"
     "'hidden_size':7168,'intermediate_size':18432,'vocab_size':129280,'max_position_embeddings':163840,"
     "'n_routed_experts':256,'n_shared_experts':1,'num_experts_per_tok':8,'moe_intermediate_size':2048,"
     "'first_k_dense_replace':3,'moe_layer_freq':1,'num_nextn_predict_layers':1,'kv_lora_rank':512,'q_lora_rank':1536,"
     "'qk_nope_head_dim':128,'qk_rope_head_dim':64,'v_head_dim':128,'topk_method':'noaux_tc',"
     "'tie_word_embeddings':false,'torch_dtype':'bfloat16','quantization_config':{'quant_method':'fp8'}}"},
    {"openai/gpt-oss-20b", 20914757184, 49152,
     "{'model_type':'gpt_oss','num_hidden_layers':24,'num_attention_heads':64,'num_key_value_heads':8,'head_dim':64,"
     "'hidden_size':2880,'intermediate_size':2880,'vocab_size':201088,'max_position_embeddings':131072,"
     "'num_local_experts':32,'num_experts_per_tok':4,'sliding_window':128,'attention_bias':true,"
     "'tie_word_embeddings':false,'quantization_config':{'quant_method':'mxfp4'}}"},
    {"allenai/OLMo-2-1124-7B", 7298617344, 524288,
     "{'model_type':'olmo2','num_hidden_layers':32,'num_attention_heads':32,'num_key_value_heads':32,"
     "'hidden_size':4096,'intermediate_size':11008,'vocab_size':100352,'max_position_embeddings':4096,"
     "'tie_word_embeddings':false,'torch_dtype':'float32'}"},
};

/* The configs above use ' for ". */
static const char *json_of(struct fixture *f, const char *text)
{
    char *json = kv_copy_text(f->arena, text);
    for (char *c = json; *c; c++)
        if (*c == '\'')
            *c = '"';
    return json;
}

static const char *config_of(struct fixture *f, const char *name)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, name))
            return json_of(f, known[i].json);
    fail_msg("no config of %s", name);
    return NULL;
}

/* The config of `name` with its first `from` written `to` (both with '). */
static const char *changed(struct fixture *f, const char *name, const char *from, const char *to)
{
    const char *json = config_of(f, name), *old = json_of(f, from), *at = strstr(json, old);
    assert_non_null(at);
    return kv_format(f->arena, "%.*s%s%s", (int)(at - json), json, json_of(f, to), at + strlen(old));
}

static void totals_are_the_published_ones(void **state)
{
    struct fixture *f = *state;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const struct known *k = &known[i];
        must_read(f, json_of(f, k->json));
        int64_t kv_bytes = kv_store_token_bytes(&f->m, KV_BF16);
        if (f->m.parameters != k->parameters || kv_bytes != k->kv_bytes)
            fail_msg("%s: %lld parameters, %lld KV bytes; expected %lld, %lld", k->name, (long long)f->m.parameters,
                     (long long)kv_bytes, (long long)k->parameters, (long long)k->kv_bytes);
    }
}

static void every_family_has_a_known_total(void **state)
{
    (void)state;
    for (int i = 0; kv_model_families[i]; i++) {
        char type[64];
        bool found = false;
        snprintf(type, sizeof type, "'model_type':'%s'", kv_model_families[i]);
        for (size_t k = 0; k < sizeof known / sizeof *known; k++)
            found |= strstr(known[k].json, type) != NULL;
        if (!found)
            fail_msg("no total of a '%s' is checked", kv_model_families[i]);
        assert_true(!i || strcmp(kv_model_families[i - 1], kv_model_families[i]) < 0);
    }
}

/* ---- fields ---- */

static void fields_of_a_llama(void **state)
{
    struct fixture *f = *state;
    must_read(f, config_of(f, "meta-llama/Llama-3.1-8B"));
    assert_string_equal(f->m.type, "llama");
    assert_string_equal(f->m.origin, f->file);
    assert_string_equal(f->m.name, strrchr(f->folder, '/') + 1);
    assert_int_equal(f->m.head_dim, 128);
    assert_int_equal(f->m.sliding_window, 0);
    assert_true(f->m.rope_theta == 500000 && f->m.rope_factor == 8 && f->m.rope_low_freq_factor == 1);
    assert_true(f->m.rope_high_freq_factor == 4 && f->m.norm_eps == 1e-5);
    assert_string_equal(f->m.rope_scaling, "llama3");
    assert_int_equal(f->m.rope_original_max_positions, 8192);
    assert_int_equal(f->m.weight_bytes, 16060522496);
    assert_int_equal(kv_store_token_bytes(&f->m, KV_FP32), 262144);
    assert_int_equal(kv_store_token_bytes(&f->m, KV_FP8), 65536);
}

static void a_file_or_a_folder_with_slashes_may_be_given(void **state)
{
    struct fixture *f = *state;
    must_read(f, config_of(f, "meta-llama/Llama-3.1-8B"));
    const char *name = f->m.name;
    assert_true(kv_model_from_hf(f->file, &f->m, f->arena, &f->e));
    assert_string_equal(f->m.name, name);
    assert_true(kv_model_from_hf(kv_format(f->arena, "%s//", f->folder), &f->m, f->arena, &f->e));
    assert_string_equal(f->m.name, name);
    assert_string_equal(f->m.origin, f->file);
}

static void rope_as_release_5_writes_it(void **state)
{
    struct fixture *f = *state;
    must_read(f, changed(f, "google/gemma-3-1b-it", "'rope_theta':1000000,'torch_dtype'",
                         "'rope_parameters':{'sliding_attention':{'rope_theta':10000.0,'rope_type':'default'},"
                         "'full_attention':{'rope_theta':2000000.0,'rope_type':'linear','factor':8.0}},'dtype'"));
    assert_true(f->m.rope_theta == 2e6 && f->m.rope_factor == 8);
    assert_string_equal(f->m.rope_scaling, "linear");
    must_read(f, changed(f, "Qwen/Qwen3-0.6B", "'torch_dtype':'bfloat16'",
                         "'dtype':'float32','rope_parameters':{'rope_theta':1000000,'rope_type':'default'}"));
    assert_true(f->m.rope_theta == 1e6);
    assert_string_equal(f->m.rope_scaling, "none");
    assert_int_equal(f->m.dtype, KV_FP32);
}

static void weights_of_a_quantised_checkpoint_are_not_known(void **state)
{
    struct fixture *f = *state;
    must_read(f, config_of(f, "openai/gpt-oss-20b"));
    assert_true(f->m.quantised);
    assert_int_equal(f->m.weight_bytes, 0);
    assert_int_equal(f->m.dtype, KV_BF16);
    must_read(f, config_of(f, "google/gemma-2-9b"));
    assert_int_equal(f->m.weight_bytes, 4 * 9241705984);
}

static void latent_attention(void **state)
{
    struct fixture *f = *state;
    must_read(f, config_of(f, "deepseek-ai/DeepSeek-V3, main model"));
    assert_int_equal(f->m.head_dim, 192);
    assert_int_equal(f->m.kv_lora_rank, 512);
    assert_int_equal(f->m.rope_dim, 64);
    assert_int_equal(f->m.shared_intermediate, 2048);
    assert_int_equal(kv_store_token_bytes(&f->m, KV_BF16), 61 * (512 + 64) * 2);
    assert_int_equal(kv_store_token_bytes(&f->m, KV_FP8), 61 * (512 + 64));
}

/* ---- windows ---- */

/* `pattern`: one letter for each of the first layers, repeated: w has the window, - has full attention. */
static void check_windows(struct fixture *f, const char *json, int64_t window, const char *pattern)
{
    must_read(f, json);
    assert_int_equal(f->m.sliding_window, window);
    for (int64_t i = 0; i < f->m.layers; i++)
        assert_int_equal(f->m.window[i], pattern[(size_t)i % strlen(pattern)] == 'w' ? window : 0);
}

static void windows_of_each_layer(void **state)
{
    struct fixture *f = *state;
    const char *gemma3 = "google/gemma-3-1b-it", *pattern = ",'sliding_window_pattern':6";
    const char *qwen3 = "Qwen/Qwen3-0.6B";
    const char *off = "'use_sliding_window':false,'sliding_window':null,'max_window_layers':28";
    const char *from_25 = "'use_sliding_window':true,'sliding_window':64,'max_window_layers':25";
    const char *from_28 = "'use_sliding_window':true,'sliding_window':64,'max_window_layers':28";
    check_windows(f, config_of(f, "meta-llama/Llama-3.1-8B"), 0, "-");
    check_windows(f, config_of(f, "mistralai/Mistral-7B-v0.1"), 4096, "w");
    check_windows(f, changed(f, "mistralai/Mistral-7B-v0.1", ":4096,'tie", ":null,'tie"), 0, "-");
    check_windows(f, config_of(f, "microsoft/Phi-3-mini-4k-instruct"), 2047, "w");
    check_windows(f, config_of(f, "google/gemma-2-9b"), 4096, "w-");
    check_windows(f, config_of(f, gemma3), 512, "wwwww-");
    check_windows(f, changed(f, gemma3, pattern, ",'sliding_window_pattern':2"), 512, "w-");
    check_windows(f, changed(f, gemma3, pattern, ""), 512, "wwwww-");
    check_windows(f, config_of(f, "openai/gpt-oss-20b"), 128, "w-");
    check_windows(f, config_of(f, "Qwen/Qwen2.5-7B"), 0, "-");
    check_windows(f, changed(f, qwen3, off, from_25), 64, "-------------------------www");
    check_windows(f, changed(f, qwen3, off, from_28), 0, "-");
}

static const char *with_layer_types(struct fixture *f, const char *types)
{
    return json_of(f, kv_format(f->arena,
                                "{'model_type':'gemma3_text','num_hidden_layers':3,'num_attention_heads':4,"
                                "'num_key_value_heads':1,'head_dim':256,'hidden_size':1152,'intermediate_size':6912,"
                                "'vocab_size':262144,'max_position_embeddings':32768,'sliding_window':512,"
                                "'layer_types':%s}",
                                types));
}

static void layer_types_win(void **state)
{
    struct fixture *f = *state;
    check_windows(f, with_layer_types(f, "['full_attention','full_attention','sliding_attention']"), 512, "--w");
    check_windows(f, with_layer_types(f, "['full_attention','full_attention','full_attention']"), 0, "-");
    must_fail(f, with_layer_types(f, "['full_attention','linear_attention','full_attention']"),
              ": 'layer_types' entry 1, 'linear_attention', is not known; known: full_attention, sliding_attention");
    must_fail(f, with_layer_types(f, "['full_attention',7,'full_attention']"),
              ": 'layer_types' entry 1, 'not a text', is not known; known: full_attention, sliding_attention");
    must_fail(f, with_layer_types(f, "['full_attention']"),
              ": 'layer_types' has 1 entries; expected 3, one for each layer");
    must_fail(f, with_layer_types(f, "'full_attention'"), ": 'layer_types' is \"full_attention\"; expected a list");
}

/* ---- what is refused ---- */

static void a_folder_or_file_that_is_not_there(void **state)
{
    struct fixture *f = *state;
    const char *none = kv_format(f->arena, "%s/none", f->folder);
    assert_false(kv_model_from_hf(none, &f->m, f->arena, &f->e));
    assert_int_equal(f->e.status, KV_DATA);
    assert_string_equal(f->e.text, kv_format(f->arena,
                                             "cannot open '%s': No such file or directory; expected a "
                                             "Hugging Face folder or its config.json",
                                             none));
    memset(&f->e, 0, sizeof f->e);
    assert_false(kv_model_from_hf(f->folder, &f->m, f->arena, &f->e));
    assert_int_equal(f->e.status, KV_DATA);
    assert_string_equal(f->e.text, kv_format(f->arena,
                                             "no 'config.json' in '%s'; expected a folder as Hugging Face "
                                             "has them",
                                             f->folder));
}

static void text_that_is_not_json(void **state)
{
    struct fixture *f = *state;
    must_fail(f, "{\n  \"model_type\": \"llama\",\n  oops\n}\n", ":3:6: not JSON: string or '}' expected near 'oops'");
    must_fail(f, "", ":1:0: not JSON: '[' or '{' expected near end of file");
    must_fail(f, "[]", ": no text 'model_type'; expected the config.json of a Hugging Face model");
    must_fail(f, "{\"model_type\": 3}", ": no text 'model_type'; expected the config.json of a Hugging Face model");
    must_fail(f, "{\"a\": 1, \"a\": 2}", ":1:12: not JSON: duplicate object key near '\"a\"'");
}

static void unknown_families_are_refused_by_name(void **state)
{
    struct fixture *f = *state;
    must_fail(f, "{\"model_type\": \"qwen2_vl\"}",
              ": model_type 'qwen2_vl' is not known; known: deepseek_v2, deepseek_v3, gemma2, gemma3_text, gpt_oss, "
              "llama, mistral, mixtral, olmo2, phi3, qwen2, qwen2_moe, qwen3, qwen3_moe");
    static const char *const wrappers[] = {"gemma3", "mllama", "llama4", "mistral3", "kimi_k2", "Llama", ""};
    for (size_t i = 0; i < sizeof wrappers / sizeof *wrappers; i++)
        assert_false(read_config(f, kv_format(f->arena, "{\"model_type\": \"%s\"}", wrappers[i])));
}

static void all_mistakes_of_a_file_are_said(void **state)
{
    struct fixture *f = *state;
    const char *file = f->file;
    must_fail(f,
              json_of(f, "{'model_type':'llama','num_hidden_layers':-3,'hidden_size':'big','intermediate_size':0,"
                         "'vocab_size':32000.0,'max_position_embeddings':2000000000,'num_attention_heads':8,"
                         "'tie_word_embeddings':1,'torch_dtype':'float64','rope_theta':-1}"),
              kv_format(f->arena,
                        ": 'num_hidden_layers' is -3; expected at least 1\n"
                        "%s: 'hidden_size' is \"big\"; expected a whole number\n"
                        "%s: 'intermediate_size' is 0; expected at least 1\n"
                        "%s: 'vocab_size' is 32000.0; expected a whole number\n"
                        "%s: 'max_position_embeddings' is 2000000000; expected at most 1000000000\n"
                        "%s: 'tie_word_embeddings' is 1; expected true or false\n"
                        "%s: 'rope_theta' is -1; expected a number above 0\n"
                        "%s: 'torch_dtype' is \"float64\"; expected one of bfloat16, float16, float32, float8_e4m3fn",
                        file, file, file, file, file, file, file));
}

static void missing_keys_and_sizes_that_do_not_go_together(void **state)
{
    struct fixture *f = *state;
    const char *llama = "meta-llama/Llama-3.1-8B", *mistral = "mistralai/Mistral-7B-v0.1", *qwen3 = "Qwen/Qwen3-0.6B";
    must_fail(f, changed(f, llama, "'hidden_size':4096,", ""), ": 'hidden_size' is missing; a 'llama' needs it");
    must_fail(f, changed(f, llama, "'num_hidden_layers':32", "'num_hidden_layers':10001"),
              ": 'num_hidden_layers' is 10001; expected at most 10000");
    must_fail(f, changed(f, llama, "'num_key_value_heads':8", "'num_key_value_heads':5"),
              ": 32 query heads cannot share 5 KV heads evenly; expected a multiple");
    must_fail(f, changed(f, llama, "'num_attention_heads':32", "'num_attention_heads':24"),
              ": 'head_dim' is missing, and 'hidden_size' 4096 is not a multiple of 'num_attention_heads' 24");
    /* constants of a family that transformers would fill in */
    must_fail(f, changed(f, mistral, "'sliding_window':4096,", ""),
              ": 'sliding_window' is missing; a 'mistral' needs it");
    must_fail(f, changed(f, mistral, "'num_key_value_heads':8,", ""),
              ": 'num_key_value_heads' is missing; a 'mistral' needs it");
    must_fail(f, changed(f, qwen3, "'head_dim':128,", ""), ": 'head_dim' is missing; a 'qwen3' needs it");
    must_fail(f, changed(f, "mistralai/Mixtral-8x7B-v0.1", "'num_experts_per_tok':2", "'num_experts_per_tok':9"),
              ": 9 experts per token, but only 8 experts");
    must_fail(f, changed(f, "deepseek-ai/DeepSeek-V2-Lite", "'first_k_dense_replace':1", "'first_k_dense_replace':28"),
              ": 28 dense layers, but only 27 layers");
}

static void what_is_not_plain_is_refused(void **state)
{
    struct fixture *f = *state;
    must_fail(f, changed(f, "Qwen/Qwen3-30B-A3B", "'mlp_only_layers':[]", "'mlp_only_layers':[0,1]"),
              ": 'mlp_only_layers' is [0,1]; expected []: another 'qwen3_moe' is not sized here");
    must_fail(f, changed(f, "Qwen/Qwen3-30B-A3B", "'decoder_sparse_step':1", "'decoder_sparse_step':2"),
              ": 'decoder_sparse_step' is 2; expected 1: another 'qwen3_moe' is not sized here");
    must_fail(f, changed(f, "deepseek-ai/DeepSeek-V2-Lite", "'moe_layer_freq':1", "'moe_layer_freq':2"),
              ": 'moe_layer_freq' is 2; expected 1: another 'deepseek_v2' is not sized here");
}

/* ---- kv_model_finish: as a preset calls it ---- */

static struct kv_model small(void)
{
    return (struct kv_model){.name = "small",
                             .type = "llama",
                             .origin = "small.ini",
                             .layers = 6,
                             .q_heads = 4,
                             .kv_heads = 2,
                             .head_dim = 8,
                             .hidden = 32,
                             .intermediate = 64,
                             .vocab = 100,
                             .max_positions = 128,
                             .norms_per_layer = 2};
}

static void finish_fails(struct fixture *f, struct kv_model m, const char *expected)
{
    memset(&f->e, 0, sizeof f->e);
    assert_false(kv_model_finish(&m, f->arena, &f->e));
    assert_int_equal(f->e.status, KV_DATA);
    assert_string_equal(f->e.text, expected);
}

static void finish_counts_and_fills_windows(void **state)
{
    struct fixture *f = *state;
    struct kv_model m = small();
    m.sliding_window = 16;
    m.sliding_full_every = 3;
    assert_true(kv_model_finish(&m, f->arena, &f->e));
    /* embeddings 2 x 3200, six layers of q and o 2048, k and v 1024, MLP 6144, norms 64, and the last norm */
    assert_int_equal(m.parameters, 2 * 3200 + 6 * (2048 + 1024 + 6144 + 64) + 32);
    assert_int_equal(m.weight_bytes, 2 * m.parameters);
    for (int i = 0; i < 6; i++)
        assert_int_equal(m.window[i], i == 2 || i == 5 ? 0 : 16);

    m = small();
    m.sliding_window = 16;
    assert_true(kv_model_finish(&m, f->arena, &f->e));
    assert_int_equal(m.window[5], 16);

    m = small();
    m.quantised = true;
    m.weight_bytes = 12345;
    assert_true(kv_model_finish(&m, f->arena, &f->e));
    assert_int_equal(m.weight_bytes, 12345);
}

static void finish_refuses_wrong_sizes(void **state)
{
    struct fixture *f = *state;
    struct kv_model m = small();
    m.type = "lama";
    m.layers = 0;
    m.vocab = -5;
    m.hidden = INT64_MAX;
    finish_fails(f, m,
                 "small.ini: type 'lama' is not known; known: deepseek_v2, deepseek_v3, gemma2, gemma3_text, "
                 "gpt_oss, llama, mistral, mixtral, olmo2, phi3, qwen2, qwen2_moe, qwen3, qwen3_moe\n"
                 "small.ini: 'layers' is 0; expected at least 1\n"
                 "small.ini: 'hidden' is 9223372036854775807; expected at most 1000000000\n"
                 "small.ini: 'vocab' is -5; expected at least 1");
    m = small();
    m.q_heads = 3;
    m.sliding_full_every = 2;
    m.dtype = KV_INT4;
    finish_fails(f, m,
                 "small.ini: 3 query heads cannot share 2 KV heads evenly; expected a multiple\n"
                 "small.ini: 'sliding_full_every' is 2, but there is no 'sliding_window'\n"
                 "small.ini: 'dtype' is int4; expected bf16, fp16, fp32 or fp8, and 'quantised' where weights "
                 "are narrower than that");
    m = small();
    m.experts = 4;
    m.experts_per_token = 1;
    finish_fails(f, m, "small.ini: 'moe_intermediate' is 0; expected at least 1");
    m = small();
    m.type = "deepseek_v2";
    m.kv_lora_rank = 16;
    m.rope_dim = m.nope_dim = m.value_dim = 8;
    finish_fails(f, m, "small.ini: 'head_dim' is 8; expected nope_dim + rope_dim, 16");
    m = small();
    m.hidden = m.intermediate = KV_MODEL_MOST;
    m.experts = m.moe_intermediate = KV_MODEL_MOST;
    m.experts_per_token = 1;
    finish_fails(f, m, "small.ini: the sizes multiply to more than 64 bits can count; at least one is wrong");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(totals_are_the_published_ones),
        TEST(every_family_has_a_known_total),
        TEST(fields_of_a_llama),
        TEST(a_file_or_a_folder_with_slashes_may_be_given),
        TEST(rope_as_release_5_writes_it),
        TEST(weights_of_a_quantised_checkpoint_are_not_known),
        TEST(latent_attention),
        TEST(windows_of_each_layer),
        TEST(layer_types_win),
        TEST(a_folder_or_file_that_is_not_there),
        TEST(text_that_is_not_json),
        TEST(unknown_families_are_refused_by_name),
        TEST(all_mistakes_of_a_file_are_said),
        TEST(missing_keys_and_sizes_that_do_not_go_together),
        TEST(what_is_not_plain_is_refused),
        TEST(finish_counts_and_fills_windows),
        TEST(finish_refuses_wrong_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
