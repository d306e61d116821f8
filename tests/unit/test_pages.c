/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Pages: who has which, how many there are, and what the system says is resident. */
#include "engine/pages.h"
#include "sim/core/random.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static int64_t system_page(void)
{
    return sysconf(_SC_PAGESIZE);
}

static void open_pages(struct kv_pages *p, int64_t page_bytes, int64_t most)
{
    struct kv_err e = {0};
    if (!kv_pages_open(p, page_bytes, page_bytes * most, &e))
        fail_msg("%s", e.text);
}

/* All pages are taken once, none twice; each keeps what was written to it. */
static void pages_are_taken_and_given(void **state)
{
    static const int64_t sizes[] = {16, 24, 256, 2048, 4096, 5000, 32768, 1 << 20};
    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        enum { MOST = 37 };
        struct kv_pages p;
        bool taken[MOST] = {false};
        open_pages(&p, sizes[s], MOST);
        assert_int_equal(kv_pages_resident(&p), 0);
        for (int i = 0; i < MOST; i++) {
            int32_t page = kv_pages_take(&p);
            assert_in_range(page, 0, MOST - 1);
            assert_false(taken[page]);
            taken[page] = true;
            memset(kv_pages_at(&p, page), page + 1, (size_t)sizes[s]);
        }
        assert_int_equal(kv_pages_take(&p), -1);
        assert_int_equal(p.live, MOST);
        assert_int_equal(p.peak, MOST);
        for (int i = 0; i < MOST; i += 2)
            kv_pages_give(&p, i);
        assert_int_equal(p.live, MOST / 2);
        assert_int_equal(p.peak, MOST);
        for (int i = 1; i < MOST; i += 2)
            for (int64_t j = 0; j < sizes[s]; j++)
                if (kv_pages_at(&p, i)[j] != i + 1)
                    fail_msg("page %d of %d bytes lost byte %d", i, (int)sizes[s], (int)j);
        for (int i = 0; i < MOST; i += 2)
            assert_int_equal(kv_pages_take(&p) % 2, 0);
        assert_int_equal(kv_pages_take(&p), -1);
        kv_pages_close(&p);
        assert_null(p.base);
    }
}

/* Takes and gives at random, against a list. Pages smaller than the system's leave when their neighbours have. */
static void resident_bytes_fall(void **state)
{
    int64_t system = system_page();
    const int64_t sizes[] = {16, 48, 512, system / 2, system, 3 * system / 2, 8 * system};
    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        enum { MOST = 3000 };
        struct kv_pages p;
        bool there[MOST] = {false};
        int32_t have[MOST];
        int n = 0;
        open_pages(&p, sizes[s], MOST);
        for (uint64_t i = 0; i < 12000; i++) {
            uint64_t dice = kv_random(1, s, i / 3000, i);
            bool takes = dice % 100 < (i / 3000 % 2 ? 20 : 80);
            if (takes && n < MOST) {
                int32_t page = kv_pages_take(&p);
                assert_true(page >= 0 && !there[page]);
                there[have[n++] = page] = true;
                memset(kv_pages_at(&p, page), page % 127 + 1, (size_t)sizes[s]);
            } else if (!takes && n) {
                int at = (int)(dice / 100 % (uint64_t)n);
                int32_t page = have[at];
                have[at] = have[--n];
                there[page] = false;
                for (int64_t j = 0; j < sizes[s]; j += sizes[s] / 3 + 1)
                    assert_int_equal(kv_pages_at(&p, page)[j], page % 127 + 1);
                kv_pages_give(&p, page);
            }
        }
        int64_t expected = 0;
        for (int64_t i = 0; i * system < MOST * sizes[s]; i++) {
            bool busy = false;
            for (int64_t page = i * system / sizes[s]; page < MOST && page * sizes[s] < (i + 1) * system; page++)
                busy |= there[page];
            expected += busy;
        }
        assert_int_equal(p.live, n);
        if (kv_pages_resident(&p) != expected * system)
            fail_msg("pages of %d bytes: %lld bytes are resident, expected %lld", (int)sizes[s],
                     (long long)kv_pages_resident(&p), (long long)(expected * system));
        while (n)
            kv_pages_give(&p, have[--n]);
        assert_int_equal(kv_pages_resident(&p), 0);
        assert_int_equal(p.live, 0);
        kv_pages_close(&p);
    }
}

/* Bytes of this process that are resident. */
static int64_t process_bytes(void)
{
    FILE *in = fopen("/proc/self/statm", "r");
    long long size, resident = 0;
    assert_non_null(in);
    assert_int_equal(fscanf(in, "%lld %lld", &size, &resident), 2);
    fclose(in);
    return resident * system_page();
}

static void memory_leaves_the_process(void **state)
{
    enum { MOST = 2048, BYTES = 32768 };
    struct kv_pages p;
    (void)state;
    open_pages(&p, BYTES, 100 * MOST); /* room that is not used costs nothing but its list */
    int64_t before = process_bytes();
    for (int i = 0; i < MOST; i++)
        memset(kv_pages_at(&p, kv_pages_take(&p)), 1, BYTES);
    int64_t full = process_bytes();
    for (int i = 0; i < MOST; i++)
        if (i % 10)
            kv_pages_give(&p, i);
    int64_t after = process_bytes(), all = (int64_t)MOST * BYTES;
    assert_true(full - before >= all && full - before < all + all / 10);
    assert_true(after - before < all / 8);
    assert_int_equal(kv_pages_resident(&p), p.live * BYTES);
    assert_true(p.peak == MOST && p.live == MOST / 10 + 1);
    kv_pages_close(&p);
}

static void *take_and_give(void *pages)
{
    struct kv_pages *p = pages;
    int32_t have[20];
    for (int i = 0; i < 300; i++) {
        int n = 0;
        while (n < 20 && (have[n] = kv_pages_take(p)) >= 0) {
            memset(kv_pages_at(p, have[n]), have[n] % 100, 200);
            n++;
        }
        while (n--) {
            for (int j = 0; j < 200; j++)
                if (kv_pages_at(p, have[n])[j] != have[n] % 100)
                    return "another thread wrote to a page";
            kv_pages_give(p, have[n]);
        }
    }
    return NULL;
}

static void threads_share_a_pool(void **state)
{
    struct kv_pages p;
    pthread_t thread[4];
    (void)state;
    open_pages(&p, 200, 50);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, take_and_give, &p), 0);
    for (int i = 0; i < 4; i++) {
        void *wrong;
        pthread_join(thread[i], &wrong);
        assert_null(wrong);
    }
    assert_int_equal(p.live, 0);
    assert_true(p.peak > 0 && p.peak <= 50);
    kv_pages_close(&p);
}

static void pools_that_cannot_be_are_refused(void **state)
{
    struct kv_pages p;
    struct kv_err e = {0};
    (void)state;
    assert_false(kv_pages_open(&p, 4096, 4095, &e));
    assert_int_equal(e.status, KV_USAGE);
    assert_string_equal(e.text, "a pool of 4095 bytes holds 0 pages of 4096 bytes; it must be 1 to 2147483647");
    e = (struct kv_err){0};
    assert_false(kv_pages_open(&p, 16, INT64_C(1) << 40, &e));
    assert_int_equal(e.status, KV_USAGE);
    kv_pages_close(&p);
    e = (struct kv_err){0};
    assert_false(kv_pages_open(&p, INT64_C(1) << 40, INT64_C(1) << 62, &e));
    assert_int_equal(e.status, KV_ENV);
    assert_non_null(strstr(e.text, "cannot map"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_are_taken_and_given),        cmocka_unit_test(resident_bytes_fall),
        cmocka_unit_test(memory_leaves_the_process),        cmocka_unit_test(threads_share_a_pool),
        cmocka_unit_test(pools_that_cannot_be_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
