/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The smaller and the larger of two whole numbers. */
#ifndef KV_LEAST_H
#define KV_LEAST_H

#include <stdint.h>

static inline int64_t kv_least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t kv_most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

#endif
