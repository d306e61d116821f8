/* SPDX-License-Identifier: GPL-3.0-or-later */
/* kvsim: the command table, and the only file that prints errors or exits. */
#include "sim/program.h"

#include <gsl/gsl_errno.h>
#include <stdio.h>
#include <stdlib.h>

#ifndef KV_VERSION
#define KV_VERSION "unknown"
#endif

extern const struct kv_command kv_command_footprint, kv_command_plan, kv_command_plot, kv_command_policies,
    kv_command_config, kv_command_critical, kv_command_replay, kv_command_trace;

const struct kv_command *const kv_commands[] = {&kv_command_footprint,
                                                &kv_command_plan,
                                                &kv_command_replay,
                                                &kv_command_trace,
                                                &kv_command_critical,
                                                &kv_command_plot,
                                                &kv_command_policies,
                                                &kv_command_config,
                                                NULL};

static const struct kv_program kvsim = {
    .name = "kvsim",
    .version = KV_VERSION,
    .title = "what a KV cache costs",
    .command = kv_commands,
    .manual = kv_print_manual,
};

int main(int argc, char **argv)
{
    gsl_set_error_handler_off(); /* GSL's own aborts; each call's status is looked at instead */
    return kv_program_main(&kvsim, argc, argv);
}
