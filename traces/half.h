/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Half precision, without the compiler's or the machine's help. Private to traces/. */
#ifndef KV_TRACE_HALF_H
#define KV_TRACE_HALF_H

#include <stdint.h>
#include <string.h>

static inline float kv_half_to_float(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff, bits;
    float out;
    if (rest >= 0x7c00) {
        bits = sign | 0x7f800000 | (rest & 0x3ff) << 13;
    } else if (rest >= 0x400) {
        bits = sign | ((rest << 13) + ((127 - 15) << 23));
    } else { /* a whole number of 2^-24 */
        out = (float)rest * 0x1p-24f;
        memcpy(&bits, &out, 4);
        bits |= sign;
    }
    memcpy(&out, &bits, 4);
    return out;
}

/* Rounded to the nearest, ties to even; what is too large becomes infinite. */
static inline uint16_t kv_half_from_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    bits &= 0x7fffffff;
    if (bits > 0x7f800000)
        return sign | 0x7e00;
    if (bits >= 0x477ff000) /* 65520 rounds up to infinity */
        return sign | 0x7c00;
    if (bits < 0x38800000) { /* below the smallest normal number: the addition rounds */
        float small;
        memcpy(&small, &bits, 4);
        small += 0.5f;
        memcpy(&bits, &small, 4);
        return (uint16_t)(sign | (bits - 0x3f000000));
    }
    bits += 0xfff + (bits >> 13 & 1);
    return (uint16_t)(sign | ((bits - ((127 - 15) << 23)) >> 13));
}

#endif
