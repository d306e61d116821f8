/* SPDX-License-Identifier: GPL-3.0-or-later */
/* One JSON line about the device; status 4 and why on stderr where there is none. */
#include "engine/cuda/gpu.h"

#include "sim/core/error.h"

#include <stdio.h>

int main(void)
{
    struct kv_gpu *g;
    static struct kv_err e;
    if (!kv_gpu_open(&g, &e)) {
        fprintf(stderr, "%s\n", e.text);
        return (int)e.status;
    }
    const struct kv_gpu_facts *f = kv_gpu_about(g);
    printf("{\"name\": \"%s\", \"capability\": \"%d.%d\", \"multiprocessors\": %d, \"bytes\": %lld, \"free_bytes\": "
           "%lld, \"driver\": %d, \"runtime\": %d, \"cublaslt\": %d}\n",
           f->name, f->major, f->minor, f->multiprocessors, (long long)f->total_bytes, (long long)kv_gpu_free_bytes(g),
           f->driver, f->runtime, f->blas);
    kv_gpu_close(g);
    return 0;
}
