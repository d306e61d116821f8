/* SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef KV_CPU_BLAS_H
#define KV_CPU_BLAS_H

#include <stdbool.h>

/* Starts the program again, once, where OpenBLAS does not know this processor. First of all in main();
 * OPENBLAS_CORETYPE, where it is set, is left alone. */
void kv_blas_choose(char **argv);

#endif
