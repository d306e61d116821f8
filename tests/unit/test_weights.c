/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Checkpoints: what is written is read back exactly, in one file and in shards; every kind of damage is refused. */
#include "engine/safetensors.h"
#include "sim/core/random.h"
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
    char *folder, *single;
    struct kv_weights w;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->a = kv_arena_open();
    f->folder = make_folder("weights", f->a);
    f->single = kv_format(f->a, "%s/model.safetensors", f->folder);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    static const char *const names[] = {"config.json", "model.safetensors", "model.safetensors.index.json",
                                        "a.safetensors", "b.safetensors"};
    struct fixture *f = *state;
    kv_weights_close(&f->w);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        unlink(kv_format(f->a, "%s/%s", f->folder, names[i]));
    assert_int_equal(rmdir(f->folder), 0); /* no file under a temporary name is left */
    kv_arena_close(f->a);
    free(f);
    return 0;
}

static const char *in_folder(struct fixture *f, const char *name)
{
    return kv_format(f->a, "%s/%s", f->folder, name);
}

static void write_bytes(const char *path, const void *bytes, size_t n)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

static bool open_again(struct fixture *f, int64_t *ignored)
{
    kv_weights_close(&f->w);
    memset(&f->e, 0, sizeof f->e);
    return kv_weights_open(&f->w, f->folder, ignored, f->a, &f->e);
}

/* `expected` is a part of what is said. */
static void must_fail(struct fixture *f, const char *expected)
{
    if (open_again(f, NULL))
        fail_msg("taken; expected '%s'", expected);
    assert_int_equal(f->e.status, KV_DATA);
    assert_int_equal(f->w.n_mappings, 0);
    if (!strstr(f->e.text, expected))
        fail_msg("'%s'; expected '%s'", f->e.text, expected);
}

/* ---- elements ---- */

/* The nearest of all finite 16-bit numbers, by search; ties to the even one. `decode` reads a pattern. */
static bool is_nearest(float x, uint16_t got, double (*decode)(uint16_t))
{
    double distance = fabs(decode(got) - (double)x);
    for (int step = -1; step <= 1; step += 2) {
        uint16_t other = (uint16_t)(got + step);
        double its = fabs(decode(other) - (double)x);
        if (isfinite(decode(other)) && (its < distance || (its == distance && got & 1)))
            return false;
    }
    return true;
}

static double decode_bf16(uint16_t bits)
{
    double size = (bits & 0x7f) / 128.0;
    int exponent = bits >> 7 & 0xff;
    if (exponent == 255)
        return size > 0 ? NAN : bits & 0x8000 ? -INFINITY : INFINITY;
    return (bits & 0x8000 ? -1 : 1) * ldexp(size + (exponent > 0), (exponent > 0 ? exponent : 1) - 127);
}

static double decode_f16(uint16_t bits)
{
    double size = (bits & 0x3ff) / 1024.0;
    int exponent = bits >> 10 & 0x1f;
    if (exponent == 31)
        return size > 0 ? NAN : bits & 0x8000 ? -INFINITY : INFINITY;
    return (bits & 0x8000 ? -1 : 1) * ldexp(size + (exponent > 0), (exponent > 0 ? exponent : 1) - 15);
}

static void every_16_bit_number_is_read_exactly(void **state)
{
    static uint16_t all[65536];
    static float out[65536];
    (void)state;
    for (int i = 0; i < 65536; i++)
        all[i] = (uint16_t)i;
    for (int kind = 0; kind < 2; kind++) {
        const struct kv_tensor t = {"t", kind ? KV_TENSOR_F16 : KV_TENSOR_BF16, 256, 256, all};
        kv_tensor_read(&t, 0, 65536, out);
        for (int i = 0; i < 65536; i++) {
            double expected = kind ? decode_f16(all[i]) : decode_bf16(all[i]);
            assert_true((isnan(expected) && isnan(out[i])) || (expected == (double)out[i]));
            assert_true(isnan(expected) || !signbit(out[i]) == !(i & 0x8000));
        }
        kv_tensor_read(&t, 17, 3, out); /* from anywhere */
        assert_true(kind || (double)out[1] == decode_bf16(18));
    }
}

/* Numbers of all sizes, halves between two neighbours among them. */
static float some_number(int i)
{
    uint32_t bits = (uint32_t)kv_random(3, kv_purpose("numbers"), 0, (uint64_t)i);
    float x;
    if (i % 3 == 0)
        bits = (bits & 0xffff0000) | 0x8000;
    if (i % 3 == 1)
        bits = (bits & 0x8fffffff) | 0x30000000; /* where F16 has its numbers */
    if (i % 6 == 4)
        bits = (bits & 0xffffe000) | 0x1000;
    memcpy(&x, &bits, sizeof x);
    return isfinite(x) && fabsf(x) < 60000 ? x : 1.5f;
}

static void what_is_written_is_the_nearest_and_read_back(void **state)
{
    enum { N = 20000 };
    static float x[N + 6], back[N + 6];
    static const float special[] = {INFINITY, -INFINITY, 0.0f, -0.0f, 65520, 1e38f};
    struct fixture *f = *state;
    for (int i = 0; i < N + 6; i++)
        x[i] = i < N ? some_number(i) : special[i - N];
    const struct kv_tensor_out tensor[] = {
        {"half \"quoted\"", KV_TENSOR_F16, 1, {N + 6}, x},
        {"brain", KV_TENSOR_BF16, 2, {2, N / 2 + 3}, x},
        {"single", KV_TENSOR_F32, 2, {N + 6, 1}, x},
        {"empty", KV_TENSOR_F32, 2, {0, 7}, x},
    };
    struct kv_mapping m;
    struct kv_entry *entry;
    int64_t n;
    MUST(kv_safetensors_write(f->single, tensor, 4, f->a, &f->e));
    MUST(kv_mapping_open(&m, f->single, &f->e));
    MUST(kv_safetensors_read(&m, &entry, &n, f->a, &f->e));
    assert_int_equal(n, 4);
    for (int i = 0; i < 4; i++) {
        int t = 0;
        while (strcmp(tensor[t].name, entry[i].name))
            t++;
        assert_int_equal(entry[i].dims, tensor[t].dims);
        assert_memory_equal(entry[i].shape, tensor[t].shape, (size_t)entry[i].dims * sizeof *entry[i].shape);
        assert_int_equal((uintptr_t)entry[i].data % (t < 2 ? 2 : 4), 0);
        if (t == 3)
            continue;
        const struct kv_tensor in = {"t", tensor[t].type, 1, N + 6, entry[i].data};
        kv_tensor_read(&in, 0, N + 6, back);
        if (t == 2)
            assert_memory_equal(back, x, sizeof x);
        for (int j = 0; j < N && t < 2; j++) {
            uint16_t bits;
            memcpy(&bits, entry[i].data + (ptrdiff_t)2 * j, 2);
            if (!is_nearest(x[j], bits, t ? decode_bf16 : decode_f16))
                fail_msg("%a is written as %04x", (double)x[j], bits);
        }
        assert_true(back[N] == INFINITY && back[N + 1] == -INFINITY && signbit(back[N + 3]));
        assert_true(t || (back[N + 4] == INFINITY && back[N + 5] == INFINITY));
    }
    kv_mapping_close(&m);
}

/* ---- models ---- */

static const struct kv_config small = {.name = "small",
                                       .architecture = "LlamaForCausalLM",
                                       .layers = 2,
                                       .hidden = 6,
                                       .q_heads = 2,
                                       .kv_heads = 1,
                                       .head_dim = 4,
                                       .intermediate = 5,
                                       .vocab = 11,
                                       .max_positions = 16,
                                       .rms_eps = 1e-5,
                                       .rope_theta = 10000,
                                       .bos = 1,
                                       .eos = {2, 3},
                                       .n_eos = 2};
enum { SMALL_LAYER = 6 + 2 * 8 * 6 + 2 * 4 * 6 + 6 + 3 * 5 * 6, SMALL = 2 * 11 * 6 + 6 + 2 * SMALL_LAYER };

static void a_model_is_bound_by_name(void **state)
{
    struct fixture *f = *state;
    int64_t ignored = -1;
    MUST(kv_weights_random(f->folder, &small, KV_TENSOR_BF16, 1, 0, f->a, &f->e));
    MUST(open_again(f, &ignored));
    assert_int_equal(ignored, 0);
    assert_int_equal(f->w.parameters, SMALL);
    assert_int_equal(f->w.bytes, 2 * SMALL);
    assert_int_equal(f->w.n_mappings, 1);
    const struct kv_layer_weights *l = &f->w.layer[1];
    assert_string_equal(l->down.name, "model.layers.1.mlp.down_proj.weight");
    assert_true(l->down.rows == 6 && l->down.columns == 5 && l->attention_norm.rows == 1 && l->q.rows == 8);
    assert_true(!l->q_bias && !l->o_bias && !l->gate_bias && !l->q_norm);
    assert_true(f->w.head.data != f->w.embedding.data);
    assert_string_equal(f->w.config.architecture, small.architecture);
    assert_true(f->w.config.random); /* it says so of itself */
    assert_true(f->w.config.n_eos == 2 && f->w.config.eos[1] == 3 && f->w.config.rope_theta == 10000);
}

static void biases_and_norms_are_bound(void **state)
{
    struct fixture *f = *state;
    struct kv_config c = small;
    c.qkv_bias = c.o_bias = c.mlp_bias = c.tied = true;
    MUST(kv_weights_random(f->folder, &c, KV_TENSOR_F32, 1, 0, f->a, &f->e));
    MUST(open_again(f, NULL));
    const struct kv_layer_weights *l = &f->w.layer[1];
    assert_true(l->q_bias->columns == 8 && l->k_bias->columns == 4 && l->v_bias->rows == 1 && l->o_bias->columns == 6);
    assert_true(l->gate_bias->columns == 5 && l->up_bias->columns == 5 && l->down_bias->columns == 6 && !l->q_norm);
    assert_true(f->w.head.data == f->w.embedding.data);
    assert_int_equal(f->w.parameters, SMALL - 66 + 2 * (8 + 4 + 4 + 6 + 5 + 5 + 6));
    c.architecture = "Qwen3ForCausalLM";
    c.qkv_bias = c.o_bias = c.mlp_bias = false;
    c.qk_norm = true;
    MUST(kv_weights_random(f->folder, &c, KV_TENSOR_F32, 1, 0, f->a, &f->e));
    MUST(open_again(f, NULL));
    assert_true(f->w.layer[0].q_norm->columns == 4 && f->w.layer[1].k_norm->rows == 1 && !f->w.layer[0].q_bias);
}

static void random_weights_are_normal_and_repeatable(void **state)
{
    struct fixture *f = *state;
    struct kv_config c = small;
    enum { N = 300 * 64 };
    static float x[N], y[N];
    double sum = 0, squares = 0, fourth = 0;
    c.vocab = 300;
    c.hidden = 64;
    MUST(kv_weights_random(f->folder, &c, KV_TENSOR_F32, 5, 0, f->a, &f->e));
    MUST(open_again(f, NULL));
    kv_tensor_read(&f->w.embedding, 0, N, x);
    for (int i = 0; i < N; i++) {
        sum += (double)x[i];
        squares += (double)x[i] * (double)x[i];
        fourth += pow((double)x[i], 4);
    }
    assert_true(fabs(sum / N) < 0.02 * 4 / sqrt(N));
    assert_true(fabs(squares / N / 0.0004 - 1) < 4 * sqrt(2.0 / N));
    assert_true(fabs(fourth / N / (3 * 0.0004 * 0.0004) - 1) < 0.1); /* of a normal distribution */
    kv_tensor_read(&f->w.norm, 0, 64, y);
    for (int i = 0; i < 64; i++)
        assert_true(fabsf(y[i] - 1) < 0.6f);
    c.layers = 1; /* fewer layers change no other tensor, another seed does */
    MUST(kv_weights_random(f->folder, &c, KV_TENSOR_F32, 5, 0, f->a, &f->e));
    MUST(open_again(f, NULL));
    kv_tensor_read(&f->w.embedding, 0, N, y);
    assert_memory_equal(x, y, sizeof x);
    MUST(kv_weights_random(f->folder, &c, KV_TENSOR_F32, 6, 0.04, f->a, &f->e));
    MUST(open_again(f, NULL));
    kv_tensor_read(&f->w.embedding, 0, N, y);
    assert_memory_not_equal(x, y, sizeof x);
}

static void what_cannot_be_written_is_said(void **state)
{
    struct fixture *f = *state;
    assert_false(kv_weights_random(in_folder(f, "no/such"), &small, KV_TENSOR_F32, 1, 0, f->a, &f->e));
    assert_int_equal(f->e.status, KV_ENV);
    const struct kv_tensor_out none = {"x", KV_TENSOR_F32, 1, {0}, NULL};
    assert_false(kv_safetensors_write("/dev/null/x", &none, 1, f->a, &f->e));
    if (access("/dev/full", W_OK))
        return;
    assert_int_equal(symlink("/dev/full", in_folder(f, "a.safetensors.part")), 0);
    static const float zeros[100000];
    const struct kv_tensor_out many = {"x", KV_TENSOR_F32, 1, {100000}, zeros};
    assert_false(kv_safetensors_write(in_folder(f, "a.safetensors"), &many, 1, f->a, &f->e));
    assert_non_null(strstr(f->e.text, "No space left"));
}

/* ---- tensors that are not as asked for ---- */

/* Rewrites the model with tensor `name` changed by one of these. */
enum change { LEAVE_OUT, RESHAPE, FLATTEN };

struct copied {
    struct kv_tensor_out *tensor;
    int n;
};

static struct copied copy_model(struct fixture *f)
{
    struct kv_entry *entry;
    int64_t n;
    MUST(kv_weights_random(f->folder, &small, KV_TENSOR_F32, 1, 0, f->a, &f->e));
    MUST(open_again(f, NULL));
    MUST(kv_safetensors_read(&f->w.mapping[0], &entry, &n, f->a, &f->e));
    struct copied c = {KV_NEW_N(f->a, struct kv_tensor_out, n + 1), (int)n};
    for (int i = 0; i < n; i++) {
        float *data = KV_NEW_N(f->a, float, entry[i].elements);
        memcpy(data, entry[i].data, (size_t)entry[i].bytes);
        c.tensor[i] = (struct kv_tensor_out){
            entry[i].name, KV_TENSOR_F32, entry[i].dims, {entry[i].shape[0], entry[i].shape[1]}, data};
    }
    return c;
}

static void change_model(struct fixture *f, const char *name, enum change change)
{
    struct copied c = copy_model(f);
    int at = 0;
    while (strcmp(c.tensor[at].name, name))
        at++;
    struct kv_tensor_out *t = &c.tensor[at];
    if (change == RESHAPE) {
        int64_t rows = t->shape[0];
        t->shape[0] = t->shape[1];
        t->shape[1] = rows;
    } else if (change == FLATTEN) {
        t->shape[0] *= t->shape[1];
        t->dims = 1;
    } else {
        *t = c.tensor[--c.n];
    }
    MUST(kv_safetensors_write(f->single, c.tensor, c.n, f->a, &f->e));
}

static void tensors_must_be_as_the_config_asks(void **state)
{
    struct fixture *f = *state;
    change_model(f, "model.norm.weight", LEAVE_OUT);
    must_fail(f, "no tensor 'model.norm.weight' in the checkpoint; expected shape (6,)");
    change_model(f, "model.layers.1.self_attn.k_proj.weight", LEAVE_OUT);
    must_fail(f, "no tensor 'model.layers.1.self_attn.k_proj.weight' in the checkpoint; expected shape (4, 6)");
    change_model(f, "model.layers.0.mlp.up_proj.weight", RESHAPE);
    must_fail(f, "tensor 'model.layers.0.mlp.up_proj.weight' has shape (6, 5); config.json asks for (5, 6)");
    change_model(f, "model.layers.0.mlp.up_proj.weight", FLATTEN);
    must_fail(f, "has shape (30,); config.json asks for (5, 6)");
    change_model(f, "lm_head.weight", LEAVE_OUT);
    must_fail(f, "no tensor 'lm_head.weight'");
    unlink(f->single);
    must_fail(f, "no 'model.safetensors' nor 'model.safetensors.index.json'");
}

static void a_tied_head_and_more_are_ignored(void **state)
{
    struct fixture *f = *state;
    static const float x[4];
    struct copied c = copy_model(f);
    struct kv_config tied = small;
    int64_t ignored;
    tied.tied = true;
    MUST(kv_weights_random(f->folder, &tied, KV_TENSOR_F32, 1, 0, f->a, &f->e)); /* the config */
    c.tensor[c.n++] = (struct kv_tensor_out){"model.layers.0.self_attn.rotary_emb.inv_freq", KV_TENSOR_F16, 1, {2}, x};
    MUST(kv_safetensors_write(f->single, c.tensor, c.n, f->a, &f->e));
    MUST(open_again(f, &ignored));
    assert_int_equal(ignored, 2);
    assert_true(f->w.head.data == f->w.embedding.data);
    assert_int_equal(f->w.parameters, SMALL - 66);
}

/* ---- shards ---- */

static void write_index(struct fixture *f, const char *first, const char *second)
{
    const char *text =
        kv_format(f->a, "{\"metadata\": {\"total_size\": 9}, \"weight_map\": {\"x\": %s, \"y\": %s, \"z\": %s}}", first,
                  second, first);
    write_bytes(in_folder(f, "model.safetensors.index.json"), text, strlen(text));
}

static void shards_are_one_checkpoint(void **state)
{
    struct fixture *f = *state;
    struct copied c = copy_model(f);
    float whole[6], parts[6];
    kv_tensor_read(&f->w.layer[1].attention_norm, 0, 6, whole);
    unlink(f->single);
    MUST(kv_safetensors_write(in_folder(f, "a.safetensors"), c.tensor, c.n / 2, f->a, &f->e));
    MUST(kv_safetensors_write(in_folder(f, "b.safetensors"), c.tensor + c.n / 2, c.n - c.n / 2, f->a, &f->e));
    write_index(f, "\"b.safetensors\"", "\"a.safetensors\"");
    MUST(open_again(f, NULL));
    assert_int_equal(f->w.n_mappings, 2);
    assert_int_equal(f->w.parameters, SMALL);
    kv_tensor_read(&f->w.layer[1].attention_norm, 0, 6, parts);
    assert_memory_equal(whole, parts, sizeof whole);

    MUST(kv_safetensors_write(in_folder(f, "b.safetensors"), c.tensor + c.n / 2 - 1, c.n - c.n / 2 + 1, f->a, &f->e));
    must_fail(f, "is twice in the checkpoint: in '");
    write_index(f, "\"a.safetensors\"", "\"c.safetensors\"");
    must_fail(f, "c.safetensors': No such file");
}

/* Read from the files themselves: what the mapping shows, and an error where a file has become shorter. */
static void elements_are_fetched_without_the_mapping(void **state)
{
    struct fixture *f = *state;
    struct copied c = copy_model(f);
    unlink(f->single);
    MUST(kv_safetensors_write(in_folder(f, "a.safetensors"), c.tensor, c.n / 2, f->a, &f->e));
    MUST(kv_safetensors_write(in_folder(f, "b.safetensors"), c.tensor + c.n / 2, c.n - c.n / 2, f->a, &f->e));
    write_index(f, "\"b.safetensors\"", "\"a.safetensors\"");
    MUST(open_again(f, NULL));
    for (int i = 0; i < 2; i++) {
        const struct kv_tensor *all[] = {&f->w.layer[i].q, &f->w.layer[i].mlp_norm, &f->w.layer[i].down, &f->w.head};
        for (int k = 0; k < 4; k++) {
            int64_t n = all[k]->rows * all[k]->columns, size = all[k]->type == KV_TENSOR_F32 ? 4 : 2;
            unsigned char got[400];
            assert_true(n * size <= (int64_t)sizeof got);
            MUST(kv_weights_fetch(&f->w, all[k], 0, n, got, &f->e));
            assert_memory_equal(got, all[k]->data, (size_t)(n * size));
            MUST(kv_weights_fetch(&f->w, all[k], n - 2, 2, got, &f->e));
            assert_memory_equal(got, (const char *)all[k]->data + (n - 2) * size, (size_t)(2 * size));
            MUST(kv_weights_fetch(&f->w, all[k], n, 0, got, &f->e));
        }
    }
    const float here[3] = {1, 2, 3};
    const struct kv_tensor own = {"mine", KV_TENSOR_F32, 1, 3, here};
    float got[400];
    MUST(kv_weights_fetch(&f->w, &own, 1, 2, got, &f->e));
    assert_true(got[0] == 2 && got[1] == 3);

    const struct kv_tensor *cut = &f->w.embedding;
    for (int i = 0; i < f->w.n_mappings; i++)
        assert_int_equal(truncate(f->w.mapping[i].path, 100), 0);
    assert_false(kv_weights_fetch(&f->w, cut, 0, cut->rows * cut->columns, got, &f->e));
    assert_int_equal(f->e.status, KV_DATA);
    assert_non_null(strstr(f->e.text, "was cut short while it was read: it ends before byte"));
    assert_non_null(strstr(f->e.text, "in tensor 'model.embed_tokens.weight'"));
    f->e = (struct kv_err){0};
}

static void an_index_stays_in_its_folder(void **state)
{
    static const char *const names[] = {
        "\"../a.safetensors\"", "\"/etc/passwd\"", "\"..\"", "\".\"", "\"\"", "\"sub/a.safetensors\"", "7", "null"};
    struct fixture *f = *state;
    struct copied c = copy_model(f);
    unlink(f->single);
    MUST(kv_safetensors_write(in_folder(f, "a.safetensors"), c.tensor, c.n, f->a, &f->e));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        write_index(f, "\"a.safetensors\"", names[i]);
        must_fail(f, "the file of tensor 'y' is not one of the same folder");
    }
    static const char *const texts[] = {"{\"weight_map\": {}}", "{\"weight_map\": []}", "[1, 2, 3]",
                                        "{\"weight_map\": "};
    for (int i = 0; i < 4; i++) {
        write_bytes(in_folder(f, "model.safetensors.index.json"), texts[i], strlen(texts[i]));
        must_fail(f, i < 3 ? "no object 'weight_map'" : "not JSON");
    }
}

/* ---- hostile files ---- */

/* A header, its length, and as many bytes behind it; `length` < 0: the true one. */
static void write_raw(struct fixture *f, const char *header, int64_t length, size_t data)
{
    size_t n = strlen(header), all = 8 + n + data;
    char *bytes = kv_alloc(f->a, all);
    uint64_t said = length < 0 ? n : (uint64_t)length;
    for (int i = 0; i < 8; i++)
        bytes[i] = (char)(said >> 8 * i & 0xff);
    for (size_t i = 0; i < n; i++)
        bytes[8 + i] = header[i];
    write_bytes(f->single, bytes, all);
}

#define T(dtype, shape, from, to) "{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" #from "," #to "]}"

static void damage_is_refused(void **state)
{
    static const struct {
        const char *header;
        int64_t length;
        size_t data;
        const char *expected;
    } cases[] = {
        {"{}", 3, 0, "cut short: a header of 3 bytes in 2"},
        {"{}", INT64_MAX, 0, "cut short: a header of 9223372036854775807 bytes"},
        {"{}", 0, 0, "cut short: a header of 0 bytes"},
        {"{}", -1, 4, "its tensors end at 0, its data at 4"},
        {"[]", -1, 0, "byte 0: '{' expected"},
        {"{}x", -1, 0, "byte 2: something behind the object"},
        {"{\"a\"}", -1, 0, "':' expected"},
        {"{\"a\":3}", -1, 0, "'{' expected"},
        {"{\"a\":{}}", -1, 0, "'\"' expected"},
        {"{\"a", -1, 0, "the text does not end"},
        {"{\"a\\q\":" T("F32", "1", 0, 4) "}", -1, 4, "a character that no text has"},
        {"{\"a\n\":" T("F32", "1", 0, 4) "}", -1, 4, "a character that no text has"},
        {"{\"a\\u0000\":" T("F32", "1", 0, 4) "}", -1, 4, "a character that no text has"},
        {"{\"a\\u00\":" T("F32", "1", 0, 4) "}", -1, 4, "a character that no text has"},
        {"{\"a\":" T("F32", "1", 0, 4) ",}", -1, 4, "'\"' expected"},
        {"{\"a\":" T("F32", "1", 0, 4), -1, 4, "'}' expected"},
        {"{\"a\":" T("F32", "1", 0, 8) "}", -1, 4, "the offsets lie outside the file"},
        {"{\"a\":" T("F32", "1", 4, 0) "}", -1, 4, "or the first behind the second"},
        {"{\"a\":" T("F32", "1", 0, 9223372036854775807) "}", -1, 4, "the offsets lie outside the file"},
        {"{\"a\":" T("F32", "1", 0, 9223372036854775808) "}", -1, 4, "the number is too large"},
        {"{\"a\":" T("F32", "1", -4, 0) "}", -1, 4, "a whole number, 0 or more"},
        {"{\"a\":" T("F32", "1.0", 0, 4) "}", -1, 4, "a whole number, 0 or more"},
        {"{\"a\":" T("F32", "01", 0, 4) "}", -1, 4, "a whole number, 0 or more"},
        {"{\"a\":" T("F32", "2", 0, 4) "}", -1, 4, "has 4 bytes, not those of 2 elements of F32"},
        {"{\"a\":" T("F32", "4294967296,4294967296", 0, 4) "}", -1, 4, "the numbers' product is too large"},
        {"{\"a\":" T("F32", "4611686018427387905", 0, 4) "}", -1, 4, "not those of 4611686018427387905 elements"},
        {"{\"a\":" T("F4", "3", 0, 1) "}", -1, 1, "not those of 3 elements of F4"},
        {"{\"a\":" T("F32", "1", 0, 4) ",\"b\":" T("F32", "1", 0, 4) "}", -1, 4, "'b' begins at 0; expected 4"},
        {"{\"a\":" T("F32", "2", 0, 8) ",\"b\":" T("F32", "2", 4, 12) "}", -1, 12, "'b' begins at 4; expected 8"},
        {"{\"a\":" T("F32", "1", 0, 4) ",\"b\":" T("F32", "1", 8, 12) "}", -1, 12, "'b' begins at 8; expected 4"},
        {"{\"a\":" T("F32", "1", 0, 4) "}", -1, 12, "its tensors end at 4, its data at 12"},
        {"{\"a\":" T("F32", "1", 0, 4) ",\"a\":" T("F32", "1", 4, 8) "}", -1, 8, "tensor 'a' is twice"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", -1, 4, "a tensor without dtype, shape or data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}", -1, 4, "a key twice"},
        {"{\"a\":{\"type\":\"F32\"}}", -1, 4, "a key that no tensor has"},
        {"{\"a\":{\"dtype\":\"F32FFFFFFFFFFFFFFFFF\"}}", -1, 4, "the text is too long"},
        {"{\"a\":{\"data_offsets\":[0,1,2]}}", -1, 4, "']' expected"},
        {"{\"__metadata__\":{\"a\":1}}", -1, 0, "'\"' expected"},
        {"{\"__metadata__\":{},\"__metadata__\":{}}", -1, 0, "__metadata__ twice"},
    };
    struct fixture *f = *state;
    MUST(kv_weights_random(f->folder, &small, KV_TENSOR_F32, 1, 0, f->a, &f->e));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_raw(f, cases[i].header, cases[i].length, cases[i].data);
        must_fail(f, cases[i].expected);
    }
    write_bytes(f->single, "1234567", 7);
    must_fail(f, "expected a file of 8 bytes or more");
    unlink(f->single);
    assert_int_equal(mkfifo(f->single, 0600), 0); /* nothing waits for a writer */
    must_fail(f, "is not a safetensors file");
}

static void what_is_odd_but_allowed_is_read(void **state)
{
    struct fixture *f = *state;
    struct kv_mapping m;
    struct kv_entry *entry;
    int64_t n;
    write_raw(
        f,
        " { \"b\\u0041\" : " T(
            "F99", "7", 3, 8) ",\n\"__metadata__\":{\"\\u00e9\\n\":\"\\\"\"},"
                              "\"c\":" T("I64", "", 8,
                                         16) ", \"a\":{\"shape\":[3, 1,1],\"data_offsets\":[ 0,3 ],\"dtype\":\"U8\"},"
                                             "\"e\":" T("F32", "0,5", 8, 8) "}  ",
        -1, 16);
    MUST(kv_mapping_open(&m, f->single, &f->e));
    MUST(kv_safetensors_read(&m, &entry, &n, f->a, &f->e));
    assert_int_equal(n, 4);
    assert_string_equal(entry[1].name, "bA");
    assert_true(entry[0].dims == 3 && entry[0].elements == 3 && entry[1].bytes == 5 && entry[3].elements == 1);
    kv_mapping_close(&m);
}

static void other_types_are_refused_only_when_needed(void **state)
{
    struct fixture *f = *state;
    struct kv_config c = small;
    c.vocab = 1;
    c.hidden = 8;
    MUST(kv_weights_random(f->folder, &c, KV_TENSOR_F32, 1, 0, f->a, &f->e));
    write_raw(f, "{\"model.embed_tokens.weight\":" T("F8_E4M3", "1,8", 0, 8) ",\"x\":" T("I64", "1", 8, 16) "}", -1,
              16);
    must_fail(f, "'model.embed_tokens.weight' has elements of type F8_E4M3; expected F32, BF16 or F16");
    assert_null(strstr(f->e.text, "I64"));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(every_16_bit_number_is_read_exactly),
        TEST(what_is_written_is_the_nearest_and_read_back),
        TEST(a_model_is_bound_by_name),
        TEST(biases_and_norms_are_bound),
        TEST(random_weights_are_normal_and_repeatable),
        TEST(what_cannot_be_written_is_said),
        TEST(tensors_must_be_as_the_config_asks),
        TEST(a_tied_head_and_more_are_ignored),
        TEST(shards_are_one_checkpoint),
        TEST(elements_are_fetched_without_the_mapping),
        TEST(an_index_stays_in_its_folder),
        TEST(damage_is_refused),
        TEST(what_is_odd_but_allowed_is_read),
        TEST(other_types_are_refused_only_when_needed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
