/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Step times: tables made by hand against sums made by hand, and what holds beyond the tables. */
#include "sim/core/preset.h"
#include "sim/serve/timing.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static struct kv_arena *arena;
static char folder[] = "/tmp/kv_timing_XXXXXX";

static int set_up(void **state)
{
    (void)state;
    arena = kv_arena_open();
    return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", folder);
    kv_arena_close(arena);
    return system(command);
}

static const char *write_file(const char *name, const char *text)
{
    const char *path = kv_format(arena, "%s/%s", folder, name);
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    fputs(text, out);
    fclose(out);
    return path;
}

static struct kv_settings settings(enum kv_timing_model model, const char *profile)
{
    struct kv_settings s = {.path = "test.ini"};
    s.timing.model = (int)model;
    s.timing.profile = profile;
    s.timing.attention_batching_overhead = 0.1;
    s.timing.compute_efficiency = 0.7;
    s.timing.bandwidth_efficiency = 0.8;
    s.hardware.memory_bandwidth = 2e12;
    s.hardware.peak_flops = 300e12;
    s.hardware.link_bandwidth = 25e9;
    return s;
}

static struct kv_model model(const char *name)
{
    struct kv_model m;
    struct kv_err e = {0};
    if (!kv_model_find(name, &m, arena, &e))
        fail_msg("%s", e.text);
    return m;
}

static struct kv_timing *opened(const struct kv_settings *s, const struct kv_model *m)
{
    struct kv_timing *t = NULL;
    struct kv_err e = {0};
    if (!kv_timing_open(&t, s, m, arena, &e))
        fail_msg("%s", e.text);
    return t;
}

static struct kv_step_time answer(const struct kv_timing *t, const struct kv_step *step)
{
    struct kv_step_time out;
    struct kv_err e = {0};
    if (!kv_timing_step(t, step, &out, &e))
        fail_msg("%s", e.text);
    double sum = 0;
    for (int i = 0; i < KV_TIME_PARTS; i++) {
        assert_true(out.part[i] >= -1e-15);
        sum += out.part[i];
    }
    assert_true(fabs(sum - out.s) <= 1e-12 * out.s + 1e-15);
    assert_true(out.outside >= 1);
    return out;
}

static struct kv_step decodes(int64_t n, double kv)
{
    return (struct kv_step){.tokens = n,
                            .sequences = n,
                            .decodes = n,
                            .decode_kv = (double)n * kv,
                            .decode_kv_squares = (double)n * kv * kv};
}

static struct kv_step prompt(const struct kv_step_chunk *chunk, int64_t n)
{
    struct kv_step s = {.sequences = n, .chunk = chunk, .n_chunks = n};
    for (int64_t i = 0; i < n; i++)
        s.tokens += chunk[i].tokens;
    return s;
}

static void check_s(double got, double wanted, const char *what)
{
    if (!(fabs(got - wanted) <= 1e-12 * fabs(wanted)))
        fail_msg("%s takes %.17g s, expected %.17g", what, got, wanted);
}

/* ---- step-time tables ---- */

/* dense = 1 + tokens / 8 ms; decode = requests + length / 64; prefill = chunk + prefix / 64, all per layer. */
static const char *step_time_tables(void)
{
    char text[4096];
    size_t n = (size_t)snprintf(text, sizeof text, "tokens_rounded_up_to_8,ms_per_layer\n");
    for (int i = 1; i <= 8; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%d,%d\n", 8 * i, 1 + i);
    write_file("dense_ms_per_layer.csv", text);
    n = (size_t)snprintf(text, sizeof text, "decode_requests,avg_kv_rounded_up_to_64,ms_per_layer\n");
    for (int b = 1; b <= 4; b++)
        for (int k = 0; k <= 4; k++)
            n += (size_t)snprintf(text + n, sizeof text - n, "%d,%d,%d\n", b, 64 * k, b + b * k);
    write_file("attn_decode_ms_per_layer.csv", text);
    n = (size_t)snprintf(text, sizeof text, "sum_kv_rounded_up_to_64,rms_chunk,ms_per_layer\n");
    for (int k = 0; k <= 4; k++)
        for (int c = 1; c <= 16; c++)
            n += (size_t)snprintf(text + n, sizeof text - n, "%d,%d,%g\n", 64 * k, c, 0.25 + c * (64 * k + c / 2.));
    write_file("attn_prefill_ms_per_layer.csv", text);
    return folder;
}

static void step_time_by_the_rule(void **state)
{
    (void)state;
    struct kv_settings s = settings(KV_TIMING_TABLE, step_time_tables());
    struct kv_model m = model("Llama-3.1-8B");
    struct kv_timing *t = opened(&s, &m);
    struct kv_step step = decodes(1, 64);
    check_s(answer(t, &step).s, 32 * (2 + 2.) * 1e-3, "one decode at 64");
    step = decodes(1, 65);
    check_s(answer(t, &step).s, 32 * (2 + 3.) * 1e-3, "one decode at 65");
    step = (struct kv_step){.tokens = 3, .decodes = 3, .decode_kv = 64 + 64 + 66}; /* mean 64.67, of which 64 counts */
    check_s(answer(t, &step).s, 32 * (2 + 6 * 1.1) * 1e-3, "three decodes, integer mean");
    struct kv_step_chunk chunk[] = {{3, 65}, {4, 1}}; /* prefixes 128 + 64, sqrt(9 + 16) = 5 */
    step = prompt(chunk, 2);
    check_s(answer(t, &step).s, 32 * (2 + (0.25 + 5 * (192 + 2.5)) * 1.1) * 1e-3, "two chunks");
    step = prompt(chunk, 1);
    check_s(answer(t, &step).s, 32 * (2 + (0.25 + 3 * (128 + 1.5))) * 1e-3, "one chunk");
    step.tokens += 2, step.decodes = 2, step.decode_kv = 20;
    struct kv_step_time out = answer(t, &step);
    check_s(out.s, 32 * (2 + 4 * 1.1 + (0.25 + 3 * (128 + 1.5))) * 1e-3, "a chunk and two decodes");
    check_s(out.part[KV_TIME_DECODE], 32 * (4 * 1.1 + 2 * 2 / 5.) * 1e-3, "its decodes");
    assert_true(out.outside == 1);
    assert_int_equal(kv_timing_files(t)[3] == NULL, true);
}

/* What the hand-made laws say must come out beyond the tables too: they are the physical ones. */
static void step_time_beyond(void **state)
{
    (void)state;
    struct kv_settings s = settings(KV_TIMING_TABLE, step_time_tables());
    struct kv_model m = model("Llama-3.1-8B");
    struct kv_timing *t = opened(&s, &m);
    struct kv_step step = decodes(2, 64 * 12);
    struct kv_step_time out = answer(t, &step);
    check_s(out.s, 32 * (2 + (2 + 2 * 12) * 1.1) * 1e-3, "decodes three times as long");
    check_s(out.outside, 3, "how far outside");
    step = decodes(8, 64 * 3); /* as 4 over the same bytes: 4 of 6 pages each */
    out = answer(t, &step);
    check_s(out.s, 32 * (2 + (4 + 4 * 6) * 1.1) * 1e-3, "twice the decodes");
    check_s(out.outside, 2, "how far outside");
    struct kv_step_chunk chunk = {48, 64};
    step = prompt(&chunk, 1);
    out = answer(t, &step);
    check_s(out.s, 32 * (7 + 0.25 + 48 * (64 + 24.)) * 1e-3, "a chunk three times as long");
    check_s(out.outside, 3, "how far outside");
    chunk = (struct kv_step_chunk){16, 64 * 8};
    step = prompt(&chunk, 1);
    check_s(answer(t, &step).s, 32 * (3 + 0.25 + 16 * (512 + 8.)) * 1e-3, "a prefix twice as long");
    /* chunks beyond 16 on no prefix but 0, as the table of the Azure run has them */
    char text[4096];
    size_t n = (size_t)snprintf(text, sizeof text, "rms_chunk,sum_kv_rounded_up_to_64,ms_per_layer\n");
    for (int c = 1; c <= 32; c++)
        for (int k = 0; k <= (c <= 16 ? 4 : 0); k++)
            n += (size_t)snprintf(text + n, sizeof text - n, "%d,%d,%g\n", c, 64 * k, 0.25 + c * (64 * k + c / 2.));
    write_file("attn_prefill_ms_per_layer.csv", text);
    t = opened(&s, &m);
    for (int c = 31; c <= 64; c += 11)
        for (int k = 0; k <= 12; k += 4) {
            chunk = (struct kv_step_chunk){c, 64 * k};
            step = prompt(&chunk, 1);
            out = answer(t, &step);
            check_s(out.s, 32 * (1 + (c + 7) / 8 + 0.25 + c * (64 * k + c / 2.)) * 1e-3, "a chunk on few prefixes");
            assert_true((out.outside > 1) == (k > 0 || c > 32));
        }
    step = decodes(1, 1);
    step.tokens = 640;
    out = answer(t, &step);
    check_s(out.s, 32 * (81 + 2.) * 1e-3, "ten times the tokens");
    check_s(out.outside, 10, "how far outside");
    s.timing.on_missing = KV_MISSING_ERROR;
    struct kv_err e = {0};
    assert_false(kv_timing_step(opened(&s, &m), &step, &out, &e));
    assert_int_equal(e.status, KV_NO);
}

static void extras(void **state)
{
    (void)state;
    struct kv_settings s = settings(KV_TIMING_TABLE, step_time_tables());
    struct kv_model m = model("Llama-3.1-8B");
    s.timing.step_overhead = 0.5;
    struct kv_timing *t = opened(&s, &m);
    struct kv_step step = decodes(1, 64);
    double plain = 32 * (2 + 2.) * 1e-3 + 0.5;
    check_s(answer(t, &step).s, plain, "a step with overhead");
    step.moved_bytes = 1.6e12;
    step.scored_bytes = 0.8e12;
    step.offload_bytes = 25e9;
    struct kv_step_time out = answer(t, &step);
    check_s(out.part[KV_TIME_EVICT], 2.5, "moving and scoring at 1.6 TB/s");
    check_s(out.part[KV_TIME_OFFLOAD], 1, "offloading at 25 GB/s");
    check_s(out.s, plain + 3.5, "all of it");
    s.hardware.memory_bandwidth = NAN;
    struct kv_err e = {0};
    assert_false(kv_timing_step(opened(&s, &m), &step, &out, &e));
    assert_non_null(strstr(e.text, "memory_bandwidth"));
}

static void refused(const char *file, const char *text, const char *message)
{
    step_time_tables();
    write_file(file, text);
    struct kv_settings s = settings(KV_TIMING_TABLE, folder);
    struct kv_model m = model("Llama-3.1-8B");
    struct kv_timing *t;
    struct kv_err e = {0};
    assert_false(kv_timing_open(&t, &s, &m, arena, &e));
    assert_int_equal(e.status, KV_DATA);
    if (!strstr(e.text, message))
        fail_msg("the message is '%s', expected '%s' in it", e.text, message);
}

static void step_time_refuses(void **state)
{
    (void)state;
    refused("dense_ms_per_layer.csv", "tokens_rounded_up_to_8,ms_per_layer\n8,1\n24,2\n", "no row for the keys 16");
    refused("dense_ms_per_layer.csv", "tokens_rounded_up_to_8,ms_per_layer\n8,1\n8,2\n", "two rows for the keys 8");
    refused("dense_ms_per_layer.csv", "tokens_rounded_up_to_8,ms_per_layer\n12,1\n",
            ":2:1: tokens_rounded_up_to_8 '12'");
    refused("dense_ms_per_layer.csv", "tokens_rounded_up_to_8,ms_per_layer\n8,nan\n", ":2:3: ms_per_layer 'nan'");
    refused("dense_ms_per_layer.csv", "tokens_rounded_up_to_8,ms_per_layer\n8,-1\n", "is outside 0");
    refused("dense_ms_per_layer.csv", "tokens_rounded_up_to_8,ms_per_layer\n", "no row with a key above 0");
    refused("dense_ms_per_layer.csv", "tokens_rounded_up_to_0,ms_per_layer\n0,1\n", "does not end in");
    refused("dense_ms_per_layer.csv", "batch,ms\n8,1\n", "no column that begins with 'tokens'");
    refused("attn_decode_ms_per_layer.csv",
            "decode_requests,avg_kv_rounded_up_to_64,ms_per_layer\n2,0,1\n1,0,1\n1,128,1\n",
            "no row for the keys 1, 64");
    refused("attn_decode_ms_per_layer.csv",
            "decode_requests,avg_kv_rounded_up_to_64,ms_per_layer\n16000000,6400000,1\n",
            "a grid of 16000001 x 100001");
}

/* ---- measured layers ---- */

/* Operators take 1 us a token and 10 us; attention 5 us and 0.001 us a pair, 0.01 us an entry that decodes read; skew:
 * as if half a deviation more were read. */
static double attention_us(double chunk, double prefix, double n, double kv)
{
    return 5 + 0.001 * chunk * (prefix + chunk / 2) + 0.01 * n * kv;
}

static const char *layer_tables(void)
{
    static const char *const dense[] = {"qkv_proj",  "rotary_emb", "o_proj",    "gate_up_proj",   "act_fn",
                                        "down_proj", "layernorm",  "embedding", "final_layernorm"};
    static const int chunks[] = {0, 16, 64, 256}, prefixes[] = {0, 64, 512}, counts[] = {0, 1, 2, 8},
                     lengths[] = {16, 128, 1024};
    char text[16384];
    size_t at = (size_t)snprintf(text, sizeof text, "layer,tokens,time_us\n");
    for (int i = 0; i < 9; i++)
        for (int n = 1; n <= 64; n *= 4)
            at += (size_t)snprintf(text + at, sizeof text - at, "%s,%d,%d\n", dense[i], n, 10 + n);
    write_file("dense.csv", text);
    write_file("per_sequence.csv",
               "layer,sequences,time_us\nlm_head,1,101\nlm_head,8,108\nsampler,1,11\nsampler,4,14\n");
    at = (size_t)snprintf(text, sizeof text, "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n");
    for (int c = 0; c < 4; c++)
        for (int p = 0; p < (c ? 3 : 1); p++)
            for (int n = !c; n < 4; n++)
                for (int k = 0; k < (n ? 3 : 1); k++)
                    at += (size_t)snprintf(text + at, sizeof text - at, "%d,%d,%d,%d,%.9g\n", chunks[c], prefixes[p],
                                           counts[n], n ? lengths[k] : 0,
                                           attention_us(chunks[c], prefixes[p], counts[n], n ? lengths[k] : 0));
    write_file("attention.csv", text);
    at = (size_t)snprintf(text, sizeof text, "n,nb,pc,kp,kvs,kv_big,t_mean_us,t_skew_us\n");
    for (int c = 0; c < 2; c++)
        for (int n = 2; n <= 8; n *= 2)
            for (int b = 1; b < n; b++) {
                double mean = 128 + 512. * b / n, more = 512 * sqrt((double)b / n * (1 - (double)b / n)) / 2;
                at += (size_t)snprintf(text + at, sizeof text - at, "%d,%d,%d,0,128,640,%.12g,%.12g\n", n, b, 64 * c,
                                       attention_us(64 * c, 0, n, mean), attention_us(64 * c, 0, n, mean + more));
            }
    write_file("skew.csv", text);
    return folder;
}

static void layers_by_hand(void **state)
{
    (void)state;
    struct kv_settings s = settings(KV_TIMING_TABLE, layer_tables());
    s.timing.format = KV_TABLES_LAYERS; /* other tables lie in the folder, too */
    struct kv_model m = model("Llama-3.1-8B");
    struct kv_timing *t = opened(&s, &m);
    struct kv_step step = decodes(2, 200);
    check_s(answer(t, &step).s, 1e-6 * (32 * (8 * 12 + 5 + 0.01 * 400) + 2 * 12 + 102 + 12), "two decodes");
    step.decode_kv_squares = 100 * 100 + 300 * 300; /* of 100 and 300: deviation 100 */
    struct kv_step_time out = answer(t, &step);
    if (fabs(out.s * 1e6 - (32 * (8 * 12 + 5 + 0.01 * 500) + 2 * 12 + 102 + 12)) > 1e-6)
        fail_msg("unequal decodes take %.17g s", out.s);
    struct kv_step_chunk chunk[] = {{40, 100}, {40, 300}};
    step = prompt(chunk, 1);
    step.tokens = 40;
    check_s(answer(t, &step).s, 1e-6 * (32 * (8 * 50 + attention_us(40, 100, 0, 0)) + 2 * 50 + 101 + 11), "a chunk");
    step = prompt(chunk, 2); /* as 80 on 180: 16,000 + 1,600 pairs */
    double wanted = 1e-6 * (32 * (8 * 90. + 5 + 0.001 * (40 * 120 + 40 * 320)) + 2 * 90 + 102 + 12);
    check_s(answer(t, &step).s, wanted, "two chunks");
    assert_true(answer(t, &step).outside == 80. / 64);
    chunk[0].prefix = chunk[1].prefix = 0;
    wanted = 1e-6 * (32 * (8 * 90. + 5 + 0.001 * 1600) + 2 * 90 + 102 + 12);
    check_s(answer(t, &step).s, wanted, "two chunks without prefix");
    step = prompt(chunk, 1);
    step.tokens += 2, step.decodes = 2, step.decode_kv = 400, step.decode_kv_squares = 80000;
    check_s(answer(t, &step).s, 1e-6 * (32 * (8 * 52. + attention_us(40, 0, 2, 200)) + 2 * 52 + 101 + 11), "both");
    /* beyond: the law of the tables is the physical one, so it must come out */
    step = decodes(32, 4096);
    out = answer(t, &step);
    check_s(out.s, 1e-6 * (32 * (8 * 42. + 5 + 0.01 * 32 * 4096) + 2 * 42 + 132 + 42), "many long decodes");
    assert_true(out.outside == 8);
    chunk[0] = (struct kv_step_chunk){1024, 2048};
    step = prompt(chunk, 1);
    check_s(answer(t, &step).s, 1e-6 * (32 * (8 * 1034. + attention_us(1024, 2048, 0, 0)) + 2 * 1034 + 101 + 11),
            "a long chunk");
}

/* ---- measured kernels ---- */

/* A product takes n k (1 + m / 64) 1e-9 ms; decodes 0.01 + 1e-6 b kv, prompts 0.02 + 1e-8 b isl^2. */
static const char *kernel_tables(void)
{
    char text[8192];
    size_t at = (size_t)snprintf(text, sizeof text, "m,n,k,latency_ms\n");
    for (int n = 2048; n <= 32768; n *= 4)
        for (int k = 4096; k <= 16384; k *= 4)
            for (int m = 1; m <= 256; m *= 16)
                at += (size_t)snprintf(text + at, sizeof text - at, "%d,%d,%d,%.12g\n", m, n, k,
                                       1e-9 * n * k * (1 + m / 64.));
    write_file("gemm_bf16.csv", text);
    at = (size_t)snprintf(text, sizeof text, "batch_size,kv_len,kv_cache_dtype,latency_ms\n");
    for (int b = 1; b <= 16; b *= 4)
        for (int k = 2; k <= 2048 / b; k *= 4)
            at += (size_t)snprintf(text + at, sizeof text - at, "%d,%d,bfloat16,%.12g\n%d,%d,fp8,9\n", b, k,
                                   0.01 + 1e-6 * b * k, b, k);
    write_file("attn_decode_h32_kv8_d128.csv", text);
    at = (size_t)snprintf(text, sizeof text, "batch_size,isl,kv_cache_dtype,latency_ms\n");
    for (int b = 1; b <= 4; b *= 2)
        for (int k = 1; k <= 1024; k *= 4)
            at +=
                (size_t)snprintf(text + at, sizeof text - at, "%d,%d,bfloat16,%.12g\n", b, k, 0.02 + 1e-8 * b * k * k);
    write_file("attn_prefill_h32_kv8_d128.csv", text);
    return folder;
}

static void kernels_by_hand(void **state)
{
    (void)state;
    struct kv_settings s = settings(KV_TIMING_TABLE, kernel_tables());
    s.timing.format = KV_TABLES_KERNELS;
    struct kv_model m = model("Llama-3.1-8B");
    struct kv_timing *t = opened(&s, &m);
    double layer = 4096. * (6144 + 4096 + 3 * 14336), last = 4096. * 128256;
    double element = 64. * (8 * 4096 + 2 * 6144 + 3 * 14336) / 1.6e12;
    struct kv_step step = decodes(3, 300);
    check_s(answer(t, &step).s,
            1e-3 * (1e-9 * (32 * layer + last) * (1 + 3 / 64.) + 32 * (0.01 + 1e-6 * 900)) + 3 * element,
            "three decodes");
    step = decodes(64, 4096);
    check_s(answer(t, &step).s, 1e-3 * (1e-9 * (32 * layer + last) * 2 + 32 * (0.01 + 1e-6 * 64 * 4096)) + 64 * element,
            "many long ones");
    struct kv_step_chunk chunk[] = {{100, 0}, {100, 500}, {56, 10}};
    step = prompt(chunk, 3);
    double pairs = 100 * 50 + 100 * 550 + 56 * 38;
    check_s(answer(t, &step).s,
            1e-3 * (1e-9 * (32 * layer * 5 + last * (1 + 3 / 64.)) + 32 * (0.02 + 2e-8 * pairs)) + 256 * element,
            "three chunks");
    chunk[0] = (struct kv_step_chunk){200, 4000};
    step = prompt(chunk, 1);
    check_s(answer(t, &step).s,
            1e-3 * (1e-9 * (32 * layer * (1 + 200 / 64.) + last * (1 + 1 / 64.)) + 32 * (0.02 + 2e-8 * 200 * 4100)) +
                200 * element,
            "a chunk on a long prefix");
    assert_true(answer(t, &step).outside > 1.2);
    assert_non_null(strstr(kv_timing_stamp(t), "lm_head extrapolated 3.9x"));
    struct kv_err e = {0};
    m = model("Llama-3.2-1B");
    assert_false(kv_timing_open(&t, &s, &m, arena, &e));
    assert_non_null(strstr(e.text, "attn_decode_h32_kv8_d64.csv"));
    e = (struct kv_err){0};
    m = model("Qwen3-4B");
    assert_false(kv_timing_open(&t, &s, &m, arena, &e));
    assert_non_null(strstr(e.text, "qkv is a product of n = 6144, k = 2560, below the smallest measured"));
}

/* ---- whole passes ---- */

/* A prompt takes 1 + 0.01 s a token + 1e-6 s a pair; decodes 1 + 0.01 s each + 1e-5 s an entry. */
static const char *pass_table(void)
{
    char text[8192];
    static const char tail[] = "m,cpu,2,64,1000,32,8,128";
    size_t at =
        (size_t)snprintf(text, sizeof text,
                         "kind,batch,new_tokens,prefix_tokens,seconds,least_s,most_s,runs,model,backend,threads,"
                         "block_size,parameters,layers,kv_heads,head_dim\n");
    for (int c = 32; c <= 128; c *= 2)
        for (int p = 0; p <= 512; p += 128)
            at += (size_t)snprintf(text + at, sizeof text - at, "prefill,1,%d,%d,%.12g,1,1,3,%s\n", c, p,
                                   1 + 0.01 * c + 1e-6 * c * (p + c / 2.), tail);
    for (int b = 1; b <= 4; b *= 2)
        for (int k = 64; k <= 1024; k *= 4)
            at += (size_t)snprintf(text + at, sizeof text - at, "decode,%d,1,%d,%.12g,1,1,8,%s\n", b, k,
                                   1 + 0.01 * b + 1e-5 * b * (k + 5), tail);
    at += (size_t)snprintf(text + at, sizeof text - at, "scores,1,100,300,0.4,1,1,3,%s\nevict,1,100,300,0.6,1,1,3,%s\n",
                           tail, tail);
    snprintf(text + at, sizeof text - at, "prefill,1,256,0,3.5,1,1,3,%s\n", tail); /* without prefixes */
    return write_file("profile.csv", text);
}

static void passes_by_hand(void **state)
{
    (void)state;
    struct kv_settings s = settings(KV_TIMING_TABLE, pass_table());
    struct kv_model m = model("Llama-3.1-8B");
    struct kv_timing *t = opened(&s, &m);
    struct kv_step step = decodes(3, 500);
    check_s(answer(t, &step).s, 1 + 0.03 + 1e-5 * 1500, "three decodes");
    struct kv_step_chunk chunk = {64, 200};
    step = prompt(&chunk, 1);
    check_s(answer(t, &step).s, 1 + 0.64 + 1e-6 * 64 * 232, "a chunk");
    struct kv_step_chunk long_chunk = {256, 384};
    struct kv_step long_step = prompt(&long_chunk, 1);
    check_s(answer(t, &long_step).s, 3.5 * (384 + 128) / 128, "a chunk on a prefix that was never measured");
    assert_true(answer(t, &long_step).outside == 4);
    step.tokens += 3, step.decodes = 3, step.decode_kv = 1500;
    double base = 1 + 0.01 + 1e-5 * 69;
    check_s(answer(t, &step).s, 1 + 0.64 + 1e-6 * 64 * 232 + 1 + 0.03 + 1e-5 * 1500 - base, "both");
    step = decodes(3, 500);
    step.moved_bytes = 3 * 131072; /* three tokens' entries of 300 */
    step.scored_bytes = 8 * 65536; /* eight keys of 400 */
    check_s(answer(t, &step).part[KV_TIME_EVICT], 0.6 * 3 / 300 + 0.4 * 8 / 400, "an eviction");
    m = model("Llama-3.2-1B");
    struct kv_err e = {0};
    assert_false(kv_timing_open(&t, &s, &m, arena, &e));
    assert_non_null(strstr(e.text, "profile.csv:2:"));
    assert_non_null(strstr(e.text, "layers '32' is not that of the model, 16"));
}

/* ---- entries of other types than the tables' ---- */

static struct kv_timing *opened_for(enum kv_timing_format format, const char *profile, enum kv_dtype dtype)
{
    struct kv_settings s = settings(KV_TIMING_TABLE, profile);
    struct kv_model m = model("Llama-3.1-8B");
    s.timing.format = (int)format;
    s.engine.kv_cache_dtype = (int)dtype + 1; /* choices begin with "auto" */
    return opened(&s, &m);
}

static double half_way(double least, double s)
{
    return least + (s - least) / 2;
}

static void check_stamp(const struct kv_timing *t, const char *what)
{
    const char *note = kv_timing_by_bytes_note(t);
    if (!what)
        assert_null(note);
    else if (!note || strcmp(note, what) || !strstr(kv_timing_stamp(t), what))
        fail_msg("stamped '%s', expected '%s' in it", kv_timing_stamp(t), what);
}

/* fp8 has half the bytes: attention beyond that of the shortest lengths takes half as long. */
static void other_types(void **state)
{
    (void)state;
    static const char fp8[] = "decodes over fp8 entries extrapolated from bf16 by bytes";
    struct kv_timing *t = opened_for(KV_TABLES_STEP_TIME, step_time_tables(), KV_FP8);
    struct kv_step step = decodes(3, 128);
    check_s(answer(t, &step).s, 32 * (2 + half_way(3, 9) * 1.1) * 1e-3, "decodes of step-time tables");
    struct kv_step_chunk chunk = {3, 64};
    step = prompt(&chunk, 1);
    check_s(answer(t, &step).s, 32 * (2 + 0.25 + 3 * (64 + 1.5)) * 1e-3, "a chunk of step-time tables");
    check_stamp(t, fp8);
    check_stamp(opened_for(KV_TABLES_STEP_TIME, folder, KV_FP16), NULL);

    t = opened_for(KV_TABLES_LAYERS, layer_tables(), KV_FP8);
    step = decodes(2, 200);
    double least = attention_us(0, 0, 2, 16), alone = attention_us(0, 0, 2, 200);
    check_s(answer(t, &step).s, 1e-6 * (32 * (8 * 12. + half_way(least, alone)) + 2 * 12 + 102 + 12), "of layers");
    chunk = (struct kv_step_chunk){40, 0};
    step = prompt(&chunk, 1);
    step.tokens += 2, step.decodes = 2, step.decode_kv = 400, step.decode_kv_squares = 80000;
    double saved = alone - half_way(least, alone);
    check_s(answer(t, &step).s, 1e-6 * (32 * (8 * 52. + attention_us(40, 0, 2, 200) - saved) + 2 * 52 + 101 + 11),
            "of layers, beside a chunk");
    check_stamp(t, fp8);

    double products = 1e-9 * (32 * 4096. * (6144 + 4096 + 3 * 14336) + 4096. * 128256) * (1 + 4 / 64.);
    double element = 4 * 64. * (8 * 4096 + 2 * 6144 + 3 * 14336) / 1.6e12;
    t = opened_for(KV_TABLES_KERNELS, kernel_tables(), KV_FP8);
    step = decodes(4, 300);
    check_s(answer(t, &step).s, 1e-3 * (products + 32 * 9.) + element, "kernels with rows of fp8");
    check_stamp(t, NULL);
    struct kv_model m = model("Llama-3.1-8B");
    double share = (double)kv_store_token_bytes(&m, KV_INT8) / (double)kv_store_token_bytes(&m, KV_BF16);
    double shortest = 0.01 + 1e-6 * 4 * 2, taken = 0.01 + 1e-6 * 4 * 300;
    t = opened_for(KV_TABLES_KERNELS, folder, KV_INT8);
    check_s(answer(t, &step).s, 1e-3 * (products + 32 * (shortest + share * (taken - shortest))) + element,
            "kernels without rows of int8");
    check_stamp(t, "decodes over int8 entries extrapolated from bf16 by bytes");

    t = opened_for(KV_TABLES_PASSES, pass_table(), KV_FP8);
    step = decodes(3, 500);
    check_s(answer(t, &step).s, half_way(1.03 + 1e-5 * 3 * 69, 1.03 + 1e-5 * 1500), "of passes");
    check_stamp(t, fp8);
}

/* ---- roofline ---- */

static void roofline_by_hand(void **state)
{
    (void)state;
    struct kv_settings s = settings(KV_TIMING_ROOFLINE, NULL);
    s.hardware.memory_bandwidth = 1e12;
    s.hardware.peak_flops = 1e14;
    s.timing.compute_efficiency = s.timing.bandwidth_efficiency = 1;
    struct kv_model m = model("Llama-3.1-8B");
    struct kv_timing *t = opened(&s, &m);
    /* one decode: every weight but the embedding's rows and the norms once, 131,072 bytes an entry */
    double weights = 2. * (32 * (4096. * (6144 + 4096 + 3 * 14336)) + 4096. * 128256);
    double rows = 2. * (32 * (6144 + 4096 + 2 * 4096 + 2 * 14336 + 4096 + 14336 + 4096.) + 4096 + 128256);
    double element = 64. * (8 * 4096 + 2 * 6144 + 3 * 14336);
    struct kv_step step = decodes(1, 1000);
    check_s(answer(t, &step).s, (weights + rows + element + 131072e3) / 1e12, "one decode");
    /* a long chunk: bound by compute */
    struct kv_step_chunk chunk = {8192, 4096};
    step = prompt(&chunk, 1);
    double flops = 2. * 8192 * (weights / 2 - 4096. * 128256), pairs = 8192 * (4096 + 4096.);
    double head = (2 * 4096. * 128256 + 2 * (4096 + 128256.)) / 1e12;
    check_s(answer(t, &step).s, (flops + pairs * 4 * 4096 * 32) / 1e14 + head + 8192 * element / 1e12, "a long chunk");
    assert_true(answer(t, &step).part[KV_TIME_DECODE] == 0);
    assert_non_null(strstr(kv_timing_stamp(t), "not calibrated"));
    assert_null(kv_timing_files(t)[0]);
    s.hardware.peak_flops = NAN;
    struct kv_err e = {0};
    assert_false(kv_timing_open(&t, &s, &m, arena, &e));
    assert_non_null(strstr(e.text, "peak_flops"));
}

/* Of experts, one token reads those it chooses, many tokens all of them. */
static void roofline_of_experts(void **state)
{
    (void)state;
    struct kv_settings s = settings(KV_TIMING_ROOFLINE, NULL);
    struct kv_model m = model("Llama-3.1-8B"), moe = m;
    moe.experts = 8, moe.experts_per_token = 2, moe.moe_intermediate = m.intermediate;
    struct kv_err e = {0};
    assert_true(kv_model_finish(&moe, arena, &e));
    struct kv_timing *dense = opened(&s, &m), *sparse = opened(&s, &moe);
    struct kv_step one = decodes(1, 1), many = decodes(64, 1);
    double mlp = 32 * 3 * 4096. * 14336 * 2 / 1.6e12;
    double more = answer(sparse, &one).s - answer(dense, &one).s;
    if (fabs(more / mlp - 1) > 0.01)
        fail_msg("two experts for one take %g s more, expected about %g", more, mlp);
    more = answer(sparse, &many).s - answer(dense, &many).s;
    if (fabs(more / (7 * mlp) - 1) > 0.1)
        fail_msg("all experts take %g s more, expected about %g", more, 7 * mlp);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(step_time_by_the_rule), cmocka_unit_test(step_time_beyond), cmocka_unit_test(extras),
        cmocka_unit_test(step_time_refuses),     cmocka_unit_test(layers_by_hand),   cmocka_unit_test(kernels_by_hand),
        cmocka_unit_test(passes_by_hand),        cmocka_unit_test(other_types),      cmocka_unit_test(roofline_by_hand),
        cmocka_unit_test(roofline_of_experts),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
