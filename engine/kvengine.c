/* SPDX-License-Identifier: GPL-3.0-or-later */
/* kvengine: the command table. */
#include "engine/cpu/blas.h"
#include "sim/program.h"

#include <stddef.h>

#ifndef KV_VERSION
#define KV_VERSION "unknown"
#endif

extern const struct kv_command kv_command_generate, kv_command_run, kv_command_record, kv_command_verify,
    kv_command_profile;

static const struct kv_command *const commands[] = {&kv_command_generate, &kv_command_run,     &kv_command_record,
                                                    &kv_command_verify,   &kv_command_profile, NULL};

static const struct kv_program kvengine = {
    .name = "kvengine",
    .version = KV_VERSION,
    .title = "a Llama engine that runs KV policies live and records attention",
    .command = commands,
    .description = "runs Llama-like models from Hugging Face folders, under KV eviction policies on a paged cache that "
                   "really frees\n"
                   "memory; records traces for\n.Xr kvsim 1 ,\nand verifies it.\n",
    .sections = ".Sh POLICIES\nAs in\n.Xr kvsim 1 ;\n.Ql kvsim policies\nlists them.\n"
                ".Sh ENVIRONMENT\n.Bl -tag -width Ds\n.It Ev KVSIM_SIMD\nportable, avx2 or avx512: the widest "
                "instructions that are "
                "used.\n.It Ev TMPDIR\nWhere\n.Cm verify\nputs its traces.\n.El\n",
    .sibling = "kvsim",
};

int main(int argc, char **argv)
{
    kv_blas_choose(argv);
    return kv_program_main(&kvengine, argc, argv);
}
