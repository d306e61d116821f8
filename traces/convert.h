/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Numbers as they are stored, as numbers that we compute with. Private to traces/. */
#ifndef KV_TRACE_CONVERT_H
#define KV_TRACE_CONVERT_H

#include "traces/index.h"

enum kv_number { KV_U8, KV_U16, KV_F16, KV_I32, KV_I64, KV_U64, KV_F32, KV_F64 };

size_t kv_number_size(enum kv_number to);
bool kv_number_real(enum kv_number to);
/* Whether the stored bytes are such numbers already. */
bool kv_number_same(const struct kv_set *from, enum kv_number to);
/* Whole numbers that do not fit become the nearest that does; real numbers are rounded. Both are whole, or both real.
 */
void kv_convert(const uint8_t *from, const struct kv_set *set, int64_t n, enum kv_number to, void *out);

#endif
