/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Rows as 12-bit logarithms: code c > 0 is max x 2^((c - 4095) / steps), c = 0 is 0. FORMAT.md, "Codes". */
#ifndef KV_TRACE_CODES_H
#define KV_TRACE_CODES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kv_row_facts {
    float max;
    double sum; /* of the row before encoding, in the order of kv_select's `sum` */
    int32_t nnz;
    uint64_t xxh3; /* XXH3-64 of the codes, 16-bit little endian */
};

/* Encodes n numbers >= 0. False when one is negative or not finite: `*bad` is its place. */
bool kv_codes_encode(const float *row, int64_t n, int steps, uint16_t *code, struct kv_row_facts *facts, int64_t *bad);

/* The high eight bits (n bytes) and the low four, two to a byte, the even position in the low nibble ((n+1)/2 bytes).
 */
void kv_codes_split(const uint16_t *code, int64_t n, uint8_t *hi, uint8_t *lo);
void kv_codes_join(const uint8_t *hi, const uint8_t *lo, int64_t n, uint16_t *code);

/* The same bits on every path (sim/core/select.h); out has KV_SLACK floats of room behind n. */
void kv_codes_decode(const uint16_t *code, int64_t n, int steps, float max, float *out);

/* Both planes to numbers, as kv_codes_join and kv_codes_decode would, without a row of codes in between. */
void kv_codes_decode_planes(const uint8_t *hi, const uint8_t *lo, int64_t n, int steps, float max, float *out,
                            uint64_t *hash); /* of the codes; NULL: not wanted */

uint64_t kv_codes_hash(const uint16_t *code, int64_t n);
uint64_t kv_bytes_hash(const void *bytes, size_t n); /* XXH3-64, seed 0 */

#endif
