/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Pages on the device: what is free there moves with what is taken. */
#include "tests/gpu/need_device.h"

#include <string.h>

extern "C" {
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "engine/cuda/pool.h"
}

static struct kv_err e;

static void forget(void)
{
    memset(&e, 0, sizeof e);
}

static struct kv_cuda_pool open_pool(struct kv_gpu **g, int64_t page_bytes, int64_t pages)
{
    struct kv_cuda_pool p;
    forget();
    assert_true(kv_gpu_open(g, &e));
    assert_true(kv_cuda_pool_open(&p, *g, page_bytes, page_bytes * pages, &e));
    assert_int_equal(p.most, pages);
    return p;
}

/* Slabs that hold the pages that are taken, counted one by one. */
static int64_t slabs_needed(const struct kv_cuda_pool *p, const bool *taken)
{
    int64_t n = 0, last = -1;
    for (int64_t i = 0; i < p->most; i++)
        for (int64_t s = i * p->page_bytes / p->slab_bytes; taken[i] && s * p->slab_bytes < (i + 1) * p->page_bytes;
             s++)
            if (s > last) {
                last = s;
                n++;
            }
    return n;
}

static void test_memory_follows_pages(void **state)
{
    static const int64_t sizes[] = {256, 4096, 32768, 40000, 131072};
    (void)state;
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        enum { PAGES = 200 };
        struct kv_gpu *g;
        struct kv_cuda_pool p = open_pool(&g, sizes[k], PAGES);
        int64_t before = kv_gpu_free_bytes(g);
        bool taken[PAGES] = {};
        uint32_t draw = 7;
        for (int step = 0; step < 600; step++) {
            draw = draw * 1664525u + 1013904223u;
            int32_t page = (int32_t)(draw >> 8) % PAGES;
            if (taken[page]) {
                taken[page] = false;
                kv_cuda_pool_give(&p, page);
            } else if (kv_cuda_pool_take(&p, &page, &e)) {
                for (int32_t i = 0; i < page; i++)
                    assert_true(taken[i]); /* the lowest one that is free */
                assert_false(taken[page]);
                taken[page] = true;
                kv_gpu_zero(g, p.base + page * p.page_bytes, (size_t)p.page_bytes); /* it is mapped */
            }
            if (step % 7)
                continue;
            kv_cuda_pool_trim(&p);
            assert_int_equal(p.mapped, slabs_needed(&p, taken));
            assert_int_equal(before - kv_gpu_free_bytes(g), p.mapped * p.slab_bytes);
        }
        for (int32_t i = 0; i < PAGES; i++)
            if (taken[i])
                kv_cuda_pool_give(&p, i);
        assert_int_equal(p.live, 0);
        kv_cuda_pool_trim(&p);
        assert_int_equal(kv_gpu_free_bytes(g), before);
        kv_cuda_pool_close(&p);
        kv_gpu_close(g);
    }
}

static void test_a_full_pool_is_said(void **state)
{
    struct kv_gpu *g;
    struct kv_cuda_pool p = open_pool(&g, 1000, 3);
    int32_t page;
    (void)state;
    for (int i = 0; i < 3; i++)
        assert_true(kv_cuda_pool_take(&p, &page, &e));
    assert_false(kv_cuda_pool_take(&p, &page, &e));
    assert_int_equal(e.status, KV_ENV);
    assert_non_null(strstr(e.text, "the KV pool is full: 3 pages of 1000 bytes"));
    assert_int_equal(p.live, 3);
    kv_cuda_pool_close(&p);
    kv_gpu_close(g);
}

static void test_a_full_device_is_said(void **state)
{
    struct kv_gpu *g;
    int32_t page;
    (void)state;
    setenv("KV_EMULATED_BYTES", "200000", 1);
    struct kv_cuda_pool p = open_pool(&g, 65536, 100);
    if (kv_gpu_about(g)->total_bytes != 200000) { /* a real one is not that small */
        kv_cuda_pool_close(&p);
        kv_gpu_close(g);
        skip();
    }
    assert_true(kv_cuda_pool_take(&p, &page, &e) && kv_cuda_pool_take(&p, &page, &e));
    assert_true(kv_cuda_pool_take(&p, &page, &e));
    assert_false(kv_cuda_pool_take(&p, &page, &e));
    assert_int_equal(e.status, KV_ENV);
    assert_int_equal(p.live, 3);
    kv_cuda_pool_give(&p, page); /* and it goes on */
    assert_true(kv_cuda_pool_take(&p, &page, &e));
    kv_cuda_pool_close(&p);
    kv_gpu_close(g);
    unsetenv("KV_EMULATED_BYTES");
}

static void test_sizes_are_checked(void **state)
{
    struct kv_gpu *g;
    struct kv_cuda_pool p;
    (void)state;
    forget();
    assert_true(kv_gpu_open(&g, &e));
    assert_false(kv_cuda_pool_open(&p, g, 1000, 999, &e));
    assert_int_equal(e.status, KV_USAGE);
    forget();
    assert_false(kv_cuda_pool_open(&p, g, 1, INT64_C(1) << 40, &e));
    assert_int_equal(e.status, KV_USAGE);
    kv_gpu_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory_follows_pages),
        cmocka_unit_test(test_a_full_pool_is_said),
        cmocka_unit_test(test_a_full_device_is_said),
        cmocka_unit_test(test_sizes_are_checked),
    };
    need_device();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
