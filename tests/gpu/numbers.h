/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Arrays that kernels and tests share, and the numbers in them. The arrays are pinned memory of the host, which a
 * device reads and writes where it is, and which is memory like any other to an emulated one. */
#ifndef KV_TESTS_NUMBERS_H
#define KV_TESTS_NUMBERS_H

#include "engine/cuda/kernels.h"
#include "tests/gpu/need_device.h"

#include <math.h>
#include <string.h>

extern "C" {
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
}

static inline struct kv_gpu *open_device(void)
{
    struct kv_gpu *g;
    struct kv_err e = {};
    if (!kv_gpu_open(&g, &e))
        fail_msg("%s", e.text);
    return g;
}

/* Kernels are done, and did not fail: the host may read what they left, and change what they read. */
static inline void wait_for(struct kv_gpu *g)
{
    struct kv_err e = {};
    if (!kv_gpu_wait(g, &e))
        fail_msg("%s", e.text);
}

/* n of T, as good as a device's own memory: 256-byte aligned. Full of NaNs. */
template <typename T> static inline T *room(struct kv_gpu *g, int64_t n)
{
    T *at;
    struct kv_err e = {};
    if (!kv_gpu_new_host(g, &at, n, sizeof(T), "a test's numbers", &e))
        fail_msg("%s", e.text);
    memset((void *)at, 0xff, (size_t)n * sizeof(T));
    return at;
}
template <typename... T> static inline void drop(struct kv_gpu *g, T *...at)
{
    (kv_gpu_delete_host(g, (void *)(uintptr_t)at), ...);
}

/* Lanes of 128K entries: what adds up over so many, or lies so far. An emulated device takes minutes for them, and
 * tries them with KV_TEST_LONG only; KV_TEST_SHORT leaves them out on a real one, for tools that make kernels slow. */
enum { LONG = 131072 };
static inline void only_where_long_is_quick(void)
{
#ifdef KV_EMULATED
    const bool slow = getenv("KV_TEST_LONG") == NULL;
#else
    const bool slow = getenv("KV_TEST_SHORT") != NULL;
#endif
    if (slow)
        skip();
}

static inline float from_bf16(kv_bf16 x)
{
    uint32_t bits = (uint32_t)x << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}
/* To the nearest, or the even one. */
static inline kv_bf16 to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return x != x ? 0x7fff : (kv_bf16)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

/* About normal: the sum of four even ones, x 2. */
static inline float number(uint64_t seed, uint64_t i)
{
    uint64_t x = (i + 1) * 0x9e3779b97f4a7c15u + seed * 0xda942042e4dd58b5u;
    x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
    x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
    x ^= x >> 32;
    int sum = (int)(x & 0xffff) + (int)(x >> 16 & 0xffff) + (int)(x >> 32 & 0xffff) + (int)(x >> 48);
    return (float)(sum - 2 * 65535) / 32768;
}
static inline void fill(float *x, int64_t n, uint64_t seed)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = number(seed, (uint64_t)i);
}
static inline void fill_bf16(kv_bf16 *x, int64_t n, uint64_t seed)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = to_bf16(number(seed, (uint64_t)i));
}

#endif
