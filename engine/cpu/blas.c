/* SPDX-License-Identifier: GPL-3.0-or-later */
/* OpenBLAS chooses its kernels by the processor's name, once, when it is loaded. Processors newer than itself it takes
 * for one of 2004: 79 instead of 321 GFLOP/s where this was seen (0.3.21, Sapphire Rapids under a hypervisor). Only an
 * environment variable that is there before it is loaded tells it better. */
#include "engine/cpu/blas.h"

#include <cblas.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void kv_blas_choose(char **argv)
{
#if defined(__x86_64__)
    bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    bool known = strcmp(openblas_get_corename(), "Prescott") && strcmp(openblas_get_corename(), "Generic");
    const char *core = wide ? "SkylakeX" : __builtin_cpu_supports("avx2") ? "Haswell" : NULL;
    if (known || !core || getenv("OPENBLAS_CORETYPE") || setenv("OPENBLAS_CORETYPE", core, 1))
        return;
    execv("/proc/self/exe", argv); /* again, with the variable; where that cannot be, slowly */
#else
    (void)argv;
#endif
}
