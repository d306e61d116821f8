/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Bytes of entries. KIVI's (arXiv 2402.02750): of T tokens, keys are quantised in whole groups of R, R floor(T/R) of
 * them, values but for the last R; the rest is fp16. A quantised key or value weighs d b/8 + 4 d/G. */
#include "sim/core/store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static struct kv_store store_of(enum kv_dtype dtype, int64_t head_dim)
{
    return (struct kv_store){.dtype = dtype, .elements = 2 * head_dim, .group = 32, .residual = 32};
}

static void an_entry_of_128_weighs_what_its_type_says(void **state)
{
    (void)state;
    static const struct {
        enum kv_dtype dtype;
        int64_t bytes;
    } known[] = {
        {KV_BF16, 512}, {KV_FP16, 512}, {KV_FP32, 1024}, {KV_FP8, 256}, {KV_INT8, 288}, /* 2 x 128 x (1 + 4/32) */
        {KV_INT4, 160},                                                                 /* 2 x 128 x (1/2 + 4/32) */
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        struct kv_store s = store_of(known[i].dtype, 128);
        assert_int_equal(kv_store_entry_bytes(&s), known[i].bytes);
    }
}

static void a_latent_has_no_value_beside_it(void **state)
{
    (void)state;
    struct kv_store s = {.dtype = KV_BF16, .elements = 512 + 64, .group = 32, .residual = 32};
    assert_int_equal(kv_store_entry_bytes(&s), 1152);
    s.dtype = KV_FP8;
    assert_int_equal(kv_store_entry_bytes(&s), 576);
}

static void names_and_bits_go_with_the_types(void **state)
{
    (void)state;
    static const struct {
        enum kv_dtype dtype;
        const char *name;
        int64_t bits;
        bool quantised;
    } known[] = {
        {KV_BF16, "bf16", 16, false}, {KV_FP16, "fp16", 16, false}, {KV_FP32, "fp32", 32, false},
        {KV_FP8, "fp8", 8, false},    {KV_INT8, "int8", 8, true},   {KV_INT4, "int4", 4, true},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        struct kv_store s = store_of(known[i].dtype, 128);
        assert_string_equal(kv_dtype_names[known[i].dtype], known[i].name);
        assert_int_equal(kv_dtype_bits(known[i].dtype), known[i].bits);
        assert_int_equal(kv_store_quantised(&s), known[i].quantised);
    }
    assert_null(kv_dtype_names[6]);
}

static void plain_entries_weigh_as_much_each(void **state)
{
    (void)state;
    static const enum kv_dtype plain[] = {KV_BF16, KV_FP16, KV_FP32, KV_FP8};
    for (int i = 0; i < 4; i++) {
        struct kv_store s = store_of(plain[i], 64);
        assert_int_equal(kv_store_lane_buffer_bytes(&s), 0);
        for (int64_t n = 0; n < 100; n++)
            assert_int_equal(kv_store_held_bytes(&s, n), n * kv_store_entry_bytes(&s));
    }
}

static void quantised_entries_below_at_and_above_the_residual(void **state)
{
    (void)state;
    struct kv_store s = store_of(KV_INT4, 128); /* a packed key or value 80 bytes, an fp16 one 256 */
    static const struct {
        int64_t entries, bytes;
    } known[] = {
        {0, 0},
        {1, 512},
        {31, 31 * 512},
        {32, 32 * 80 + 32 * 256},            /* the keys are packed, the values are the newest 32 */
        {33, 32 * 80 + 256 + 80 + 32 * 256}, /* a new key, and a value leaves the newest */
        {63, 32 * 80 + 31 * 256 + 31 * 80 + 32 * 256},
        {64, 64 * 80 + 32 * 80 + 32 * 256},
        {1000, 992 * 80 + 8 * 256 + 968 * 80 + 32 * 256},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        assert_int_equal(kv_store_held_bytes(&s, known[i].entries), known[i].bytes);
    assert_int_equal(kv_store_lane_buffer_bytes(&s), 32 * 512);
    s.dtype = KV_INT8; /* 144 bytes packed */
    assert_int_equal(kv_store_held_bytes(&s, 31), 31 * 512);
    assert_int_equal(kv_store_held_bytes(&s, 33), 32 * 144 + 256 + 144 + 32 * 256);
    assert_int_equal(kv_store_lane_buffer_bytes(&s), 32 * 512);
}

/* Token by token, as the formula says it. */
static int64_t kivi_bytes(const struct kv_store *s, int64_t d, int64_t bits, int64_t entries)
{
    int64_t bytes = 0;
    for (int64_t t = 0; t < entries; t++) {
        bool key = t < entries / s->residual * s->residual, value = t < entries - s->residual;
        bytes += key ? d * bits / 8 + 4 * d / s->group : 2 * d;
        bytes += value ? d * bits / 8 + 4 * d / s->group : 2 * d;
    }
    return bytes;
}

static void quantised_entries_follow_kivi_token_by_token(void **state)
{
    (void)state;
    static const int64_t dims[] = {64, 96, 128, 256}, groups[] = {16, 32, 64}, residuals[] = {32, 64, 128};
    for (int d = 0; d < 4; d++)
        for (int g = 0; g < 3; g++)
            for (int r = 0; r < 3; r++)
                for (int bits = 4; bits <= 8; bits += 4) {
                    struct kv_store s = {.dtype = bits == 4 ? KV_INT4 : KV_INT8,
                                         .elements = 2 * dims[d],
                                         .group = groups[g],
                                         .residual = residuals[r]};
                    if (dims[d] % groups[g] || residuals[r] % groups[g])
                        continue;
                    assert_int_equal(kv_store_entry_bytes(&s), 2 * (dims[d] * bits / 8 + 4 * dims[d] / groups[g]));
                    for (int64_t n = 0; n < 600; n += 1 + n / 50)
                        if (kv_store_held_bytes(&s, n) != kivi_bytes(&s, dims[d], bits, n))
                            fail_msg("%d bits, head_dim %lld, group %lld, residual %lld: %lld entries are %lld bytes, "
                                     "expected %lld",
                                     bits, (long long)dims[d], (long long)groups[g], (long long)residuals[r],
                                     (long long)n, (long long)kv_store_held_bytes(&s, n),
                                     (long long)kivi_bytes(&s, dims[d], bits, n));
                }
}

static void pages_and_buffer_cover_what_is_held(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct kv_store s = store_of(i ? KV_INT4 : KV_INT8, 128);
        for (int64_t n = 0; n < 2000; n++) {
            int64_t held = kv_store_held_bytes(&s, n);
            assert_in_range(held, 0, n * kv_store_entry_bytes(&s) + kv_store_lane_buffer_bytes(&s));
            assert_in_range(n * kv_store_entry_bytes(&s), 0, held);
        }
    }
}

/* ---- mistakes ---- */

static void check(const struct kv_store *s, bool mla, const char *expected)
{
    struct kv_err e = {0};
    bool good = kv_store_check(s, mla, "a.ini:3: [policy p]", &e);
    assert_int_equal(good, !expected);
    assert_string_equal(e.text, expected ? expected : "");
    assert_int_equal(e.status, expected ? KV_USAGE : KV_OK);
}

static void sizes_that_go_together_are_fine(void **state)
{
    (void)state;
    struct kv_store s = store_of(KV_INT4, 128);
    check(&s, false, NULL);
    s.group = s.residual = 128;
    check(&s, false, NULL);
    s.group = 1;
    s.residual = 1;
    check(&s, false, NULL);
}

/* `said` must stand in the message, `unsaid` (unless NULL) must not. */
static void check_group(int64_t head_dim, int64_t residual, const char *said, const char *unsaid)
{
    struct kv_err e = {0};
    struct kv_store s = store_of(KV_INT8, head_dim);
    s.residual = residual;
    assert_false(kv_store_check(&s, false, "a.ini:3: [policy p]", &e));
    assert_int_equal(e.status, KV_USAGE);
    assert_memory_equal(e.text, "a.ini:3: [policy p] group_size 32 ", 34);
    if (!strstr(e.text, said) || (unsaid && strstr(e.text, unsaid)))
        fail_msg("%s", e.text);
}

static void a_group_must_divide_both(void **state)
{
    (void)state;
    check_group(80, 32, "head_dim 80", NULL);
    check_group(128, 40, "residual_length 40", NULL);
    check_group(80, 40, "head_dim 80", NULL);
}

static void what_a_group_divides_is_not_said_to_be_at_fault(void **state)
{
    (void)state;
    check_group(80, 32, "head_dim 80", "divides neither"); /* 32 divides 32 */
    check_group(128, 40, "residual_length 40", "divides neither");
}

static void a_latent_is_not_quantised(void **state)
{
    (void)state;
    struct kv_store s = {.dtype = KV_INT4, .elements = 576, .group = 32, .residual = 32};
    check(&s, true,
          "a.ini:3: [policy p] kv_cache_dtype 'int4' is not defined for a latent (MLA) cache; use bf16, fp16 or "
          "fp8");
    s.dtype = KV_FP8;
    check(&s, true, NULL);
}

static void groups_do_not_matter_to_plain_types(void **state)
{
    (void)state;
    struct kv_store s = store_of(KV_BF16, 80);
    s.residual = 7;
    check(&s, false, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_entry_of_128_weighs_what_its_type_says),
        cmocka_unit_test(a_latent_has_no_value_beside_it),
        cmocka_unit_test(names_and_bits_go_with_the_types),
        cmocka_unit_test(plain_entries_weigh_as_much_each),
        cmocka_unit_test(quantised_entries_below_at_and_above_the_residual),
        cmocka_unit_test(quantised_entries_follow_kivi_token_by_token),
        cmocka_unit_test(pages_and_buffer_cover_what_is_held),
        cmocka_unit_test(sizes_that_go_together_are_fine),
        cmocka_unit_test(a_group_must_divide_both),
        cmocka_unit_test(what_a_group_divides_is_not_said_to_be_at_fault),
        cmocka_unit_test(a_latent_is_not_quantised),
        cmocka_unit_test(groups_do_not_matter_to_plain_types),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
