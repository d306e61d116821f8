/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Where there is no device its tests are skipped, which is said; an emulated one is always there. C and C++. */
#ifndef KV_TESTS_NEED_DEVICE_H
#define KV_TESTS_NEED_DEVICE_H

#ifdef __cplusplus
extern "C" {
#endif
#include "engine/cuda/gpu.h"
#include "sim/core/error.h"
#ifdef __cplusplus
}
#endif

#include <stdio.h>
#include <stdlib.h>

static inline void need_device(void)
{
    static struct kv_err e;
    struct kv_gpu *g;
    if (kv_gpu_open(&g, &e)) {
        kv_gpu_close(g);
        return;
    }
    printf("no device: %s\n", e.text);
    exit(77);
}

#endif
