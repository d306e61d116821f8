/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Matrices of all types reach the device as bf16, whatever the pieces and however many read; a file that ends too early
 * is an error. An emulated device copies what was sent when it is waited for: a buffer that is written too early shows.
 */
#include "tests/gpu/numbers.h"

#include <unistd.h>
#include <vector>

extern "C" {
#include "engine/cuda/upload.h"
#include "engine/safetensors.h"
}

enum { MATRICES = 5 };

struct checkpoint {
    char path[64];
    struct kv_arena *a;
    struct kv_mapping file;
    struct kv_weights w;
    struct kv_tensor tensor[MATRICES];
    std::vector<float> number;
};

static const char *const names[MATRICES] = {"a", "b", "c", "d", "e"};
static const int64_t shapes[MATRICES][2] = {{3, 5}, {64, 40}, {31, 33}, {1, 4096}, {50, 64}};
static const enum kv_tensor_type types[MATRICES] = {KV_TENSOR_BF16, KV_TENSOR_F32, KV_TENSOR_F16, KV_TENSOR_BF16,
                                                    KV_TENSOR_F32};

static void write_checkpoint(struct checkpoint *c)
{
    struct kv_tensor_out out[MATRICES];
    struct kv_err e = {};
    struct kv_entry *entry;
    int64_t n, at = 0;
    c->a = kv_arena_open();
    strcpy(c->path, "/tmp/kv-upload-XXXXXX");
    int file = mkstemp(c->path);
    assert_true(file >= 0);
    close(file);
    c->number.resize(20000);
    fill(c->number.data(), (int64_t)c->number.size(), 7);
    for (int i = 0; i < MATRICES; at += shapes[i][0] * shapes[i][1], i++)
        out[i] = {names[i], types[i], 2, {shapes[i][0], shapes[i][1]}, c->number.data() + at};
    if (!kv_safetensors_write(c->path, out, MATRICES, c->a, &e) || !kv_mapping_open(&c->file, c->path, &e) ||
        !kv_safetensors_read(&c->file, &entry, &n, c->a, &e))
        fail_msg("%s", e.text);
    assert_int_equal(n, MATRICES);
    for (int64_t k = 0; k < n; k++) {
        int i = entry[k].name[0] - 'a';
        c->tensor[i] = {names[i], types[i], shapes[i][0], shapes[i][1], entry[k].data};
    }
    memset(&c->w, 0, sizeof c->w);
    c->w.mapping = &c->file;
    c->w.n_mappings = 1;
}

static void close_checkpoint(struct checkpoint *c)
{
    kv_mapping_close(&c->file);
    unlink(c->path);
    kv_arena_close(c->a);
}

/* Uploads the matrices `times` times, one behind the other. */
static bool upload(struct kv_gpu *g, struct checkpoint *c, int times, int64_t piece_bytes, int readers,
                   std::vector<kv_bf16> *back, int64_t *bytes, struct kv_err *e)
{
    std::vector<struct kv_cuda_matrix> matrix;
    kv_bf16 *to;
    int64_t n = 0;
    for (int i = 0; i < MATRICES * times; i++)
        n += shapes[i % MATRICES][0] * shapes[i % MATRICES][1];
    assert_true(kv_gpu_new(g, &to, n, sizeof *to, "a test", e));
    back->assign((size_t)n, 0);
    n = 0;
    for (int i = 0; i < MATRICES * times; n += shapes[i % MATRICES][0] * shapes[i % MATRICES][1], i++)
        matrix.push_back({&c->tensor[i % MATRICES], to + n});
    bool good = kv_cuda_upload(g, &c->w, matrix.data(), (int64_t)matrix.size(), piece_bytes, readers, bytes, e);
    kv_gpu_get(g, back->data(), to, back->size() * sizeof *to);
    wait_for(g);
    kv_gpu_delete(g, to);
    return good;
}

static void test_elements(void **state)
{
    static const int64_t pieces[] = {4, 64, 1000, 1 << 20};
    static const int readers[] = {1, 2, 7};
    struct kv_gpu *g = open_device();
    struct checkpoint c;
    (void)state;
    write_checkpoint(&c);
    for (int64_t piece : pieces)
        for (int many : readers) {
            std::vector<kv_bf16> back;
            struct kv_err e = {};
            int64_t bytes, at = 0, wanted_bytes = 0, times = piece == 4 ? 1 : 3;
            if (!upload(g, &c, (int)times, piece, many, &back, &bytes, &e))
                fail_msg("%s", e.text);
            for (int i = 0; i < MATRICES * times; i++) {
                const struct kv_tensor *t = &c.tensor[i % MATRICES];
                std::vector<float> wide((size_t)(t->rows * t->columns));
                kv_tensor_read(t, 0, (int64_t)wide.size(), wide.data());
                wanted_bytes += (int64_t)wide.size() * (t->type == KV_TENSOR_F32 ? 4 : 2);
                for (float x : wide)
                    if (back[(size_t)at++] != to_bf16(x))
                        fail_msg("matrix %d, pieces of %lld bytes, %d readers", i, (long long)piece, many);
            }
            assert_int_equal(bytes, wanted_bytes);
        }
    close_checkpoint(&c);
    kv_gpu_close(g);
}

/* Half of the file goes while it is open. */
static void test_cut_short(void **state)
{
    struct kv_gpu *g = open_device();
    struct checkpoint c;
    (void)state;
    write_checkpoint(&c);
    assert_int_equal(truncate(c.path, (off_t)c.file.size / 2), 0);
    for (int readers = 1; readers < 5; readers++) {
        std::vector<kv_bf16> back;
        struct kv_err e = {};
        int64_t bytes;
        assert_false(upload(g, &c, 3, 64, readers, &back, &bytes, &e));
        assert_int_equal(e.status, KV_DATA);
        assert_int_equal(e.n, 1);
        assert_non_null(strstr(e.text, "cut short while it was read"));
    }
    close_checkpoint(&c);
    kv_gpu_close(g);
}

static void test_nothing(void **state)
{
    struct kv_gpu *g = open_device();
    struct kv_weights w = {};
    struct kv_err e = {};
    int64_t bytes = 1;
    (void)state;
    assert_true(kv_cuda_upload(g, &w, NULL, 0, 64, 3, &bytes, &e));
    assert_int_equal(bytes, 0);
    kv_gpu_close(g);
}

/* What is in no file is taken from where it lies. */
static void test_memory(void **state)
{
    const kv_bf16 number[6] = {1, 2, 3, 4, 5, 6};
    const struct kv_tensor t = {"a tensor", KV_TENSOR_BF16, 2, 3, number};
    struct kv_gpu *g = open_device();
    struct kv_weights w = {};
    struct kv_err e = {};
    kv_bf16 back[6], *to;
    int64_t bytes;
    (void)state;
    assert_true(kv_gpu_new(g, &to, 6, sizeof *to, "a test", &e));
    const struct kv_cuda_matrix matrix = {&t, to};
    assert_true(kv_cuda_upload(g, &w, &matrix, 1, 4, 2, &bytes, &e));
    kv_gpu_get(g, back, to, sizeof back);
    assert_memory_equal(back, number, sizeof back);
    kv_gpu_delete(g, to);
    kv_gpu_close(g);
}

/* Sends arrive in order, and as they are when they arrive. */
static void test_sends(void **state)
{
    struct kv_gpu *g = open_device();
    struct kv_err e = {};
    int32_t *to, *from = room<int32_t>(g, 8), back[8];
    (void)state;
    assert_true(kv_gpu_new(g, &to, 8, sizeof *to, "a test", &e));
    for (int i = 0; i < 8; i++) {
        from[i] = i;
        kv_gpu_send(g, to + i, from + i, sizeof *to);
        kv_gpu_arrived(g, i % KV_GPU_SENDS);
    }
    kv_gpu_arrived(g, 0);
    memset(from, 0xff, 8 * sizeof *from);
    kv_gpu_get(g, back, to, sizeof back);
    for (int i = 0; i < 8; i++)
        assert_int_equal(back[i], i);
    for (int i = 0; i < 8; i++) {
        from[i] = 10 + i;
        kv_gpu_send(g, to, from + i, sizeof *to);
    }
    wait_for(g); /* for these too */
    kv_gpu_get(g, back, to, sizeof *back);
    assert_int_equal(back[0], 17);
    kv_gpu_delete(g, to);
    drop(g, from);
    kv_gpu_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_elements), cmocka_unit_test(test_cut_short), cmocka_unit_test(test_nothing),
        cmocka_unit_test(test_memory),   cmocka_unit_test(test_sends),
    };
    need_device();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
