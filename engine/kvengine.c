/* SPDX-License-Identifier: GPL-3.0-or-later */
/* kvengine: the command table. */
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
};

int main(int argc, char **argv)
{
    return kv_program_main(&kvengine, argc, argv);
}
