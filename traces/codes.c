/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Codes in plain C, and the choice of path. With u = c + 1 and k steps an octave, 2^((c - 4095) / k) is
 * table[u % k] x 2^(u / k - 4096 / k). */
#include "traces/codes_paths.h"
#include "sim/core/error.h"
#include "sim/core/select.h"

#include <math.h>
#include <string.h>
#define XXH_STATIC_LINKING_ONLY /* for a state on the stack */
#include <xxhash.h>
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h> /* three times as fast where there is AVX-512 */
#endif

enum { BLOCK = 16, INFINITE = 0x7f800000, SMALLEST_NORMAL = 0x00800000 };

const uint32_t kv_codes_table32[32] = {
    0x3f800000, 0x3f82cd87, 0x3f85aac3, 0x3f88980f, 0x3f8b95c2, 0x3f8ea43a, 0x3f91c3d3, 0x3f94f4f0,
    0x3f9837f0, 0x3f9b8d3a, 0x3f9ef532, 0x3fa27043, 0x3fa5fed7, 0x3fa9a15b, 0x3fad583f, 0x3fb123f6,
    0x3fb504f3, 0x3fb8fbaf, 0x3fbd08a4, 0x3fc12c4d, 0x3fc5672a, 0x3fc9b9be, 0x3fce248c, 0x3fd2a81e,
    0x3fd744fd, 0x3fdbfbb8, 0x3fe0ccdf, 0x3fe5b907, 0x3feac0c7, 0x3fefe4ba, 0x3ff5257d, 0x3ffa83b3,
};
const uint32_t kv_codes_table64[64] = {
    0x3f800000, 0x3f8164d2, 0x3f82cd87, 0x3f843a29, 0x3f85aac3, 0x3f871f62, 0x3f88980f, 0x3f8a14d5,
    0x3f8b95c2, 0x3f8d1adf, 0x3f8ea43a, 0x3f9031dc, 0x3f91c3d3, 0x3f935a2b, 0x3f94f4f0, 0x3f96942d,
    0x3f9837f0, 0x3f99e046, 0x3f9b8d3a, 0x3f9d3eda, 0x3f9ef532, 0x3fa0b051, 0x3fa27043, 0x3fa43516,
    0x3fa5fed7, 0x3fa7cd94, 0x3fa9a15b, 0x3fab7a3a, 0x3fad583f, 0x3faf3b79, 0x3fb123f6, 0x3fb311c4,
    0x3fb504f3, 0x3fb6fd92, 0x3fb8fbaf, 0x3fbaff5b, 0x3fbd08a4, 0x3fbf179a, 0x3fc12c4d, 0x3fc346cd,
    0x3fc5672a, 0x3fc78d75, 0x3fc9b9be, 0x3fcbec15, 0x3fce248c, 0x3fd06334, 0x3fd2a81e, 0x3fd4f35b,
    0x3fd744fd, 0x3fd99d16, 0x3fdbfbb8, 0x3fde60f5, 0x3fe0ccdf, 0x3fe33f89, 0x3fe5b907, 0x3fe8396a,
    0x3feac0c7, 0x3fed4f30, 0x3fefe4ba, 0x3ff28177, 0x3ff5257d, 0x3ff7d0df, 0x3ffa83b3, 0x3ffd3e0c,
};
const uint32_t kv_codes_table128[128] = {
    0x3f800000, 0x3f80b1ed, 0x3f8164d2, 0x3f8218af, 0x3f82cd87, 0x3f838359, 0x3f843a29, 0x3f84f1f6, 0x3f85aac3,
    0x3f866491, 0x3f871f62, 0x3f87db35, 0x3f88980f, 0x3f8955ee, 0x3f8a14d5, 0x3f8ad4c6, 0x3f8b95c2, 0x3f8c57ca,
    0x3f8d1adf, 0x3f8ddf04, 0x3f8ea43a, 0x3f8f6a81, 0x3f9031dc, 0x3f90fa4d, 0x3f91c3d3, 0x3f928e72, 0x3f935a2b,
    0x3f9426ff, 0x3f94f4f0, 0x3f95c3ff, 0x3f96942d, 0x3f97657d, 0x3f9837f0, 0x3f990b88, 0x3f99e046, 0x3f9ab62b,
    0x3f9b8d3a, 0x3f9c6573, 0x3f9d3eda, 0x3f9e196e, 0x3f9ef532, 0x3f9fd228, 0x3fa0b051, 0x3fa18faf, 0x3fa27043,
    0x3fa3520f, 0x3fa43516, 0x3fa51958, 0x3fa5fed7, 0x3fa6e595, 0x3fa7cd94, 0x3fa8b6d5, 0x3fa9a15b, 0x3faa8d26,
    0x3fab7a3a, 0x3fac6897, 0x3fad583f, 0x3fae4934, 0x3faf3b79, 0x3fb02f0e, 0x3fb123f6, 0x3fb21a32, 0x3fb311c4,
    0x3fb40aaf, 0x3fb504f3, 0x3fb60094, 0x3fb6fd92, 0x3fb7fbf0, 0x3fb8fbaf, 0x3fb9fcd2, 0x3fbaff5b, 0x3fbc034a,
    0x3fbd08a4, 0x3fbe0f68, 0x3fbf179a, 0x3fc0213b, 0x3fc12c4d, 0x3fc238d2, 0x3fc346cd, 0x3fc4563f, 0x3fc5672a,
    0x3fc67991, 0x3fc78d75, 0x3fc8a2d8, 0x3fc9b9be, 0x3fcad226, 0x3fcbec15, 0x3fcd078c, 0x3fce248c, 0x3fcf4319,
    0x3fd06334, 0x3fd184df, 0x3fd2a81e, 0x3fd3ccf1, 0x3fd4f35b, 0x3fd61b5e, 0x3fd744fd, 0x3fd87039, 0x3fd99d16,
    0x3fdacb94, 0x3fdbfbb8, 0x3fdd2d82, 0x3fde60f5, 0x3fdf9613, 0x3fe0ccdf, 0x3fe2055b, 0x3fe33f89, 0x3fe47b6d,
    0x3fe5b907, 0x3fe6f85b, 0x3fe8396a, 0x3fe97c38, 0x3feac0c7, 0x3fec0719, 0x3fed4f30, 0x3fee9910, 0x3fefe4ba,
    0x3ff13231, 0x3ff28177, 0x3ff3d290, 0x3ff5257d, 0x3ff67a41, 0x3ff7d0df, 0x3ff9295a, 0x3ffa83b3, 0x3ffbdfed,
    0x3ffd3e0c, 0x3ffe9e11,
};

/* ---- encoding ---- */

static int32_t bits_of(float x)
{
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* As FORMAT.md has it. */
static uint16_t code_of(float x, float max, int steps)
{
    if (!(x > 0))
        return 0;
    double c = nearbyint(4095 + steps * log2((double)x / (double)max));
    return (uint16_t)(c < 1 ? 1 : c > 4095 ? 4095 : c);
}

/* log2 of m in [sqrt(1/2), sqrt(2)] within 3e-11: the series of atanh((m - 1) / (m + 1)). */
static inline __attribute__((always_inline)) double short_log2(double m)
{
    double s = (m - 1) / (m + 1), z = s * s;
    double tail = 0x1.484b13d7c02a9p-2 + z * (0x1.0c9a84994022dp-2);
    return s * (0x1.71547652b82fep+1 +
                z * (0x1.ec709dc3a03fdp-1 + z * (0x1.2776c50ef9bfep-1 + z * (0x1.a61762a7aded9p-2 + z * tail))));
}

/* Codes of BLOCK numbers; false when one lies so near to where two codes meet that this arithmetic, good to 1e-8,
 * cannot tell which it is, or is subnormal. `base` is 4095 - steps x log2(max). No conditions on doubles: gcc would not
 * make vectors of them. */
static inline __attribute__((always_inline)) bool encode_block(const float *row, double base, double steps,
                                                               uint16_t *code)
{
    enum { ROOT_HALF = 0x3f3504f3 };
    const double to_integer = 0x1.8p52, near_half = 1 / ((0.5 - 1e-7) * (0.5 - 1e-7));
    int32_t bits[BLOCK], exponent[BLOCK], c[BLOCK], doubt[BLOCK], any = 0;
    float m[BLOCK];
    memcpy(bits, row, sizeof bits);
    for (int l = 0; l < BLOCK; l++) {
        bits[l] = bits[l] < 0 ? 0 : bits[l]; /* -0 */
        exponent[l] = (bits[l] - ROOT_HALF) >> 23;
        c[l] = (int32_t)((uint32_t)bits[l] - ((uint32_t)exponent[l] << 23));
    }
    memcpy(m, c, sizeof m);
    for (int l = 0; l < BLOCK; l++) {
        double y = base + steps * ((double)exponent[l] + short_log2((double)m[l]));
        double whole = (y + to_integer) - to_integer, rest = y - whole;
        c[l] = (int32_t)whole;
        doubt[l] = (int32_t)(rest * rest * near_half);
    }
    for (int l = 0; l < BLOCK; l++) {
        int32_t own = c[l] < 1 ? 1 : c[l];
        code[l] = (uint16_t)(bits[l] ? own : 0);
        any |= bits[l] ? doubt[l] | (bits[l] < SMALLEST_NORMAL) : 0;
    }
    return !any;
}

static inline __attribute__((always_inline)) void encode_row(const float *row, int64_t n, int steps, float max,
                                                             uint16_t *code)
{
    double base = 4095 - steps * log2((double)max);
    int64_t i = 0;
    for (; i + BLOCK <= n; i += BLOCK)
        if (!encode_block(row + i, base, steps, code + i))
            for (int l = 0; l < BLOCK; l++)
                code[i + l] = code_of(row[i + l], max, steps);
    for (; i < n; i++)
        code[i] = code_of(row[i], max, steps);
}

static void encode_portable(const float *row, int64_t n, int steps, float max, uint16_t *code)
{
    encode_row(row, n, steps, max, code);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void encode_avx2(const float *row, int64_t n, int steps, float max,
                                                        uint16_t *code)
{
    encode_row(row, n, steps, max, code);
}

__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq"))) static void
encode_avx512(const float *row, int64_t n, int steps, float max, uint16_t *code)
{
    encode_row(row, n, steps, max, code);
}
#else
/* Never called: this machine has the portable path only. */
#define encode_avx2                 encode_portable
#define encode_avx512               encode_portable
#define kv_codes_split_avx2(...)    0
#define kv_codes_join_avx2(...)     0
#define kv_codes_decode_avx2(...)   0
#define kv_codes_decode_avx512(...) 0
#endif

/* The highest number, as its bits, and how many are not 0; -1 when one is negative or not finite. */
static int32_t highest(const float *row, int64_t n, int32_t *nnz)
{
    int32_t bits[BLOCK], most[BLOCK] = {0}, some[BLOCK] = {0}, bad[BLOCK] = {0}, any = 0, all = 0;
    for (int64_t i = 0; i < n; i += BLOCK) {
        if (n - i < BLOCK)
            memset(bits, 0, sizeof bits);
        memcpy(bits, row + i, (n - i < BLOCK ? (size_t)(n - i) : BLOCK) * sizeof *bits);
        for (int l = 0; l < BLOCK; l++) {
            most[l] = bits[l] > most[l] ? bits[l] : most[l];
            some[l] += bits[l] > 0;
            bad[l] |= (bits[l] < 0) & (bits[l] != INT32_MIN); /* -0 is 0 */
        }
    }
    *nnz = 0;
    for (int l = 0; l < BLOCK; l++) {
        all = most[l] > all ? most[l] : all;
        any |= bad[l];
        *nnz += some[l];
    }
    return any || all >= INFINITE ? -1 : all;
}

bool kv_codes_encode(const float *row, int64_t n, int steps, uint16_t *code, struct kv_row_facts *facts, int64_t *bad)
{
    KV_ASSERT(steps == 32 || steps == 64 || steps == 128);
    const struct kv_select *select = kv_select_best();
    *facts = (struct kv_row_facts){0};
    int32_t most = highest(row, n, &facts->nnz);
    if (most < 0) {
        for (*bad = 0; row[*bad] >= 0 && bits_of(row[*bad]) < INFINITE;)
            ++*bad;
        return false;
    }
    memcpy(&facts->max, &most, sizeof most);
    if (most == 0)
        memset(code, 0, (size_t)n * sizeof *code);
    else if (select->simd == KV_SIMD_AVX512)
        encode_avx512(row, n, steps, facts->max, code);
    else if (select->simd == KV_SIMD_AVX2)
        encode_avx2(row, n, steps, facts->max, code);
    else
        encode_portable(row, n, steps, facts->max, code);
    facts->sum = select->sum(row, NULL, n);
    facts->xxh3 = kv_codes_hash(code, n);
    return true;
}

uint64_t kv_codes_hash(const uint16_t *code, int64_t n)
{
    return kv_bytes_hash(code, (size_t)n * sizeof *code);
}

uint64_t kv_bytes_hash(const void *bytes, size_t n)
{
    return XXH3_64bits(bytes, n);
}

/* ---- planes ---- */

static bool wide(void)
{
    return kv_select_best()->simd != KV_SIMD_PORTABLE;
}

void kv_codes_split(const uint16_t *code, int64_t n, uint8_t *hi, uint8_t *lo)
{
    int64_t i = wide() ? kv_codes_split_avx2(code, n, hi, lo) : 0;
    for (; i + 1 < n; i += 2) {
        hi[i] = (uint8_t)(code[i] >> 4);
        hi[i + 1] = (uint8_t)(code[i + 1] >> 4);
        lo[i / 2] = (uint8_t)((code[i] & 15) | (code[i + 1] & 15) << 4);
    }
    if (i < n) {
        hi[i] = (uint8_t)(code[i] >> 4);
        lo[i / 2] = code[i] & 15;
    }
}

void kv_codes_join(const uint8_t *hi, const uint8_t *lo, int64_t n, uint16_t *code)
{
    int64_t i = wide() ? kv_codes_join_avx2(hi, lo, n, code) : 0;
    for (; i + 1 < n; i += 2) {
        code[i] = (uint16_t)(hi[i] << 4 | (lo[i / 2] & 15));
        code[i + 1] = (uint16_t)(hi[i + 1] << 4 | lo[i / 2] >> 4);
    }
    if (i < n)
        code[i] = (uint16_t)(hi[i] << 4 | (lo[i / 2] & 15));
}

/* ---- decoding ---- */

/* The factor is rounded to f32 where it is subnormal, which is at 32 steps only: the exponent goes down in two steps,
 * the second by a multiplication, that none of it wraps around. */
static inline __attribute__((always_inline)) void decode_row(const uint16_t *code, int64_t n, int steps,
                                                             const uint32_t *table, float max, float *out)
{
    enum { SAFE = 96 };
    uint32_t k = (uint32_t)steps, octaves = 4096 / k;
    for (int64_t i = 0; i < n; i++) {
        uint32_t c = code[i] & 4095u, u = c + 1, down = octaves - u / k, rest = down > SAFE ? down - SAFE : 0;
        uint32_t bits = table[u % k] - ((down - rest) << 23);
        float factor;
        memcpy(&factor, &bits, sizeof factor);
        if (octaves > SAFE)
            factor *= 1.0f / (float)(UINT64_C(1) << rest);
        float x = max * factor;
        out[i] = c ? x : 0;
    }
}

void kv_codes_decode(const uint16_t *code, int64_t n, int steps, float max, float *out)
{
    KV_ASSERT(steps == 32 || steps == 64 || steps == 128);
    enum kv_simd simd = kv_select_best()->simd;
    int64_t done = 0;
    if (simd == KV_SIMD_AVX512)
        done = kv_codes_decode_avx512(code, n, steps, max, out);
    else if (simd == KV_SIMD_AVX2)
        done = kv_codes_decode_avx2(code, n, steps, max, out);
    code += done;
    out += done;
    if (steps == 32)
        decode_row(code, n - done, 32, kv_codes_table32, max, out);
    else if (steps == 64)
        decode_row(code, n - done, 64, kv_codes_table64, max, out);
    else
        decode_row(code, n - done, 128, kv_codes_table128, max, out);
}

/* ---- both at once ---- */

/* A piece of a row; its codes stay in the first cache until they are hashed. */
static void decode_piece(const uint8_t *hi, const uint8_t *lo, int64_t n, int steps, float max, uint16_t *code,
                         float *out)
{
    int64_t done = 0;
    if (kv_select_best()->simd == KV_SIMD_AVX512)
        done = kv_codes_planes_avx512(hi, lo, n, steps, max, code, out);
    kv_codes_join(hi + done, lo + done / 2, n - done, code + done);
    kv_codes_decode(code + done, n - done, steps, max, out + done);
}

void kv_codes_decode_planes(const uint8_t *hi, const uint8_t *lo, int64_t n, int steps, float max, float *out,
                            uint64_t *hash)
{
    enum { PIECE = 4096 }; /* codes: 8 KB; even, so that a piece begins with a whole byte of `lo` */
    uint16_t code[PIECE] __attribute__((aligned(64)));
    XXH3_state_t state;
    KV_ASSERT(steps == 32 || steps == 64 || steps == 128);
    XXH3_64bits_reset(&state);
    for (int64_t i = 0; i < n; i += PIECE) {
        int64_t some = n - i < PIECE ? n - i : PIECE;
        decode_piece(hi + i, lo + i / 2, some, steps, max, code, out + i);
        if (hash)
            XXH3_64bits_update(&state, code, (size_t)some * sizeof *code);
    }
    if (hash)
        *hash = XXH3_64bits_digest(&state);
}
