/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Elements of entries and of queries in doubles, one code after the other: what kernels round and widen is held
 * against this. */
#ifndef KV_TESTS_ENTRIES_H
#define KV_TESTS_ENTRIES_H

#include "tests/gpu/numbers.h"

enum { ENTRY_KINDS = 3 };
static const enum kv_cuda_entry entry_kinds[ENTRY_KINDS] = {KV_CUDA_BF16, KV_CUDA_FP16, KV_CUDA_FP8};
static const char *const entry_names[ENTRY_KINDS] = {"bf16", "fp16", "fp8"};

/* A sign, bits of exponent, bits behind the point. */
struct element_form {
    int exponent, fraction;
    bool infinite; /* the highest exponent means infinity or NaN; else all ones mean NaN, and what is too large is the
                      largest */
};
static inline struct element_form form_of(enum kv_cuda_entry kind)
{
    const struct element_form forms[ENTRY_KINDS] = {{8, 7, true}, {5, 10, true}, {4, 3, false}};
    return forms[kind];
}

/* That queries are of. */
static inline enum kv_cuda_entry query_kind(enum kv_cuda_entry kind)
{
    return kind == KV_CUDA_BF16 ? KV_CUDA_BF16 : KV_CUDA_FP16;
}

static inline double value_of_code(enum kv_cuda_entry kind, uint32_t code)
{
    struct element_form f = form_of(kind);
    int exponent = (int)(code >> f.fraction & ((1u << f.exponent) - 1)), all = (1 << f.exponent) - 1;
    int fraction = (int)(code & ((1u << f.fraction) - 1)), bias = all / 2;
    double sign = code >> (f.exponent + f.fraction) ? -1 : 1, one = 1 << f.fraction;
    if (exponent == all && (f.infinite || fraction == (1 << f.fraction) - 1))
        return fraction ? NAN : sign * INFINITY;
    return sign * (exponent ? ldexp(1 + fraction / one, exponent - bias) : ldexp(fraction / one, 1 - bias));
}

/* By halving the codes until two are left, whose nearer one it is, or whose even one. */
static inline uint32_t code_of_value(enum kv_cuda_entry kind, double x)
{
    struct element_form f = form_of(kind);
    uint32_t sign = (uint32_t)(signbit(x) != 0) << (f.exponent + f.fraction), below = 0, above = sign;
    uint32_t infinite = ((1u << f.exponent) - 1) << f.fraction;
    uint32_t top = f.infinite ? infinite : (1u << (f.exponent + f.fraction)) - 2; /* infinity, or the largest */
    above = top;
    x = fabs(x);
    if (x != x)
        return f.infinite ? infinite | ((1u << f.fraction) - 1) : top + 1;
    while (above - below > 1) {
        uint32_t middle = (below + above) / 2;
        if (value_of_code(kind, middle) <= x)
            below = middle;
        else
            above = middle;
    }
    double low = value_of_code(kind, below), step = low - value_of_code(kind, below ? below - 1 : 1);
    double high = value_of_code(kind, above) < INFINITY ? value_of_code(kind, above) : low + fabs(step);
    if (x - low < high - x || (x - low == high - x && below % 2 == 0))
        return sign | below;
    return sign | above;
}

/* The same, trying all of them: of the finite ones. */
static inline uint32_t code_by_search(enum kv_cuda_entry kind, double x)
{
    struct element_form f = form_of(kind);
    uint32_t codes = 1u << (f.exponent + f.fraction), best = 0;
    if (x != x)
        return code_of_value(kind, x);
    for (uint32_t c = 1; c < codes; c++) {
        double at = value_of_code(kind, c), now = fabs(fabs(x) - at), was = fabs(fabs(x) - value_of_code(kind, best));
        if (isfinite(at) && (now < was || (now == was && c % 2 == 0)))
            best = c;
    }
    return best | (signbit(x) ? codes : 0);
}

static inline double rounded_to(enum kv_cuda_entry kind, double x)
{
    return value_of_code(kind, code_of_value(kind, x));
}

static inline uint32_t code_at(enum kv_cuda_entry kind, const void *all, int64_t i)
{
    return kind == KV_CUDA_FP8 ? ((const uint8_t *)all)[i] : ((const uint16_t *)all)[i];
}
static inline double element_at(enum kv_cuda_entry kind, const void *all, int64_t i)
{
    return value_of_code(kind, code_at(kind, all, i));
}
static inline void put_element(enum kv_cuda_entry kind, void *all, int64_t i, double x)
{
    uint32_t code = code_of_value(kind, x);
    if (kind == KV_CUDA_FP8)
        ((uint8_t *)all)[i] = (uint8_t)code;
    else
        ((uint16_t *)all)[i] = (uint16_t)code;
}

static inline void fill_elements(enum kv_cuda_entry kind, void *all, int64_t n, uint64_t seed)
{
    for (int64_t i = 0; i < n; i++)
        put_element(kind, all, i, (double)number(seed, (uint64_t)i));
}

/* What was computed otherwise may have been rounded to the other side: `about` either way, no further. */
static inline void assert_element(enum kv_cuda_entry kind, double got, double expected, double about)
{
    double least = rounded_to(kind, expected - about), most = rounded_to(kind, expected + about);
    if (!(got >= least && got <= most))
        fail_msg("%s: got %.9g, expected %.9g, as %.9g or %.9g", entry_names[kind], got, expected, least, most);
}

#endif
