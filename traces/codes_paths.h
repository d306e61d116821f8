/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What codes.c leaves to wider instructions. Private to traces/codes*.c. */
#ifndef KV_TRACE_CODES_PATHS_H
#define KV_TRACE_CODES_PATHS_H

#include "traces/codes.h"

/* 2^(i / steps) as f32, rounded to nearest, for each number of steps there is. */
extern const uint32_t kv_codes_table32[32], kv_codes_table64[64], kv_codes_table128[128];

#if defined(__x86_64__)
/* Of n codes these do whole vectors and return how many codes that were; the rest is left to the caller. */
int64_t kv_codes_decode_avx2(const uint16_t *code, int64_t n, int steps, float max, float *out);
int64_t kv_codes_decode_avx512(const uint16_t *code, int64_t n, int steps, float max, float *out);
/* Joins and decodes; none at 32 steps, where factors can be subnormal. */
int64_t kv_codes_planes_avx512(const uint8_t *hi, const uint8_t *lo, int64_t n, int steps, float max, uint16_t *code,
                               float *out);
int64_t kv_codes_split_avx2(const uint16_t *code, int64_t n, uint8_t *hi, uint8_t *lo);
int64_t kv_codes_join_avx2(const uint8_t *hi, const uint8_t *lo, int64_t n, uint16_t *code);
#endif

#endif
