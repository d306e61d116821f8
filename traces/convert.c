/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "traces/convert.h"
#include "traces/half.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers of a file are taken as they are");

size_t kv_number_size(enum kv_number to)
{
    static const size_t sizes[] = {1, 2, 2, 4, 8, 8, 4, 8};
    return sizes[to];
}

bool kv_number_real(enum kv_number to)
{
    return to == KV_F16 || to == KV_F32 || to == KV_F64;
}

bool kv_number_same(const struct kv_set *from, enum kv_number to)
{
    enum kv_set_class class = kv_number_real(to)             ? KV_CLASS_FLOAT
                              : to == KV_I32 || to == KV_I64 ? KV_CLASS_SIGNED
                                                             : KV_CLASS_UNSIGNED;
    return from->class == class && from->size == kv_number_size(to) && !from->big_endian;
}

/* The bits of a number, in the low bytes. */
static uint64_t bits_at(const uint8_t *from, const struct kv_set *set)
{
    uint64_t bits = 0;
    for (int i = 0; i < set->size; i++)
        bits |= (uint64_t)from[set->big_endian ? set->size - 1 - i : i] << 8 * i;
    return bits;
}

static double real_of(uint64_t bits, int size)
{
    double wide;
    float narrow;
    uint32_t half = (uint32_t)bits;
    if (size == 2)
        return (double)kv_half_to_float((uint16_t)bits);
    if (size == 4) {
        memcpy(&narrow, &half, 4);
        return (double)narrow;
    }
    memcpy(&wide, &bits, 8);
    return wide;
}

static void put_real(double x, enum kv_number to, uint8_t *out)
{
    float narrow = (float)x;
    uint16_t half;
    if (to == KV_F64) {
        memcpy(out, &x, 8);
    } else if (to == KV_F32) {
        memcpy(out, &narrow, 4);
    } else {
        half = kv_half_from_float(narrow);
        memcpy(out, &half, 2);
    }
}

/* A whole number, its sign extended; `huge`: it is 2^63 or more. */
static int64_t whole_of(uint64_t bits, const struct kv_set *set, bool *huge)
{
    int unused = 64 - 8 * set->size;
    KV_ASSERT(unused >= 0 && unused < 64);
    *huge = set->class == KV_CLASS_UNSIGNED && bits >> 63;
    if (set->class == KV_CLASS_UNSIGNED)
        return (int64_t)bits;
    return (int64_t)(bits << unused) >> unused;
}

static void put_whole(int64_t x, bool huge, enum kv_number to, uint8_t *out)
{
    static const int64_t least[] = {0, 0, 0, INT32_MIN, INT64_MIN, 0},
                         most[] = {UINT8_MAX, UINT16_MAX, 0, INT32_MAX, INT64_MAX, INT64_MAX};
    KV_ASSERT(to <= KV_U64);
    uint64_t bits = (uint64_t)x;
    if (!huge || to != KV_U64)
        bits = (uint64_t)(huge || x > most[to] ? most[to] : x < least[to] ? least[to] : x);
    memcpy(out, &bits, kv_number_size(to)); /* little endian: the low bytes are first */
}

void kv_convert(const uint8_t *from, const struct kv_set *set, int64_t n, enum kv_number to, void *out)
{
    uint8_t *at = out;
    size_t size = kv_number_size(to);
    if (kv_number_same(set, to)) {
        memcpy(out, from, (size_t)n * size);
        return;
    }
    for (int64_t i = 0; i < n; i++, from += set->size, at += size) {
        uint64_t bits = bits_at(from, set);
        bool huge;
        if (set->class == KV_CLASS_FLOAT) {
            put_real(real_of(bits, set->size), to, at);
        } else {
            int64_t x = whole_of(bits, set, &huge);
            put_whole(x, huge, to, at);
        }
    }
}
