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
    kv_command_compare, kv_command_config, kv_command_critical, kv_command_fit, kv_command_replay, kv_command_report,
    kv_command_sweep, kv_command_trace, kv_command_workload;

static const struct kv_command *const commands[] = {&kv_command_footprint, &kv_command_plan,
                                                    &kv_command_sweep,     &kv_command_replay,
                                                    &kv_command_trace,     &kv_command_workload,
                                                    &kv_command_fit,       &kv_command_critical,
                                                    &kv_command_compare,   &kv_command_plot,
                                                    &kv_command_report,    &kv_command_policies,
                                                    &kv_command_config,    NULL};

static const char sections[] =
    ".Sh POLICIES\nA policy is given as\n.Ar kind Ns Op : Ns Ar key Ns = Ns Ar value , Ns ...\n"
    "on the command line, and as a section\n.Li [policy NAME]\nof a config with the same keys.\n"
    "A budget is exactly one of\n.Li keep ,\n.Li compression_ratio ,\n.Li tokens\nand\n.Li bytes ,\n"
    "for each lane, window included.\n"
    ".Sh BATCH FILES\n"
    "A CSV whose header names\n.Li prompt_len , response_len , prefill_chunk_size\nand either\n"
    ".Li sink_tokens , local_window_size , kv_sparsity , head_sparsity\nor\n"
    ".Li locret_sparsity , locret_local_len , locret_stabilizers ,\n"
    "in any order; other columns are kept.\n"
    "Each row comes back with\n.Li kv_footprint\nand\n.Li kv_peak\n"
    "of the paper's accounting behind it, as the shortest decimals that read back to the same number.\n"
    ".Sh ENVIRONMENT\n.Bl -tag -width Ds\n.It Ev KVSIM_DATA\n"
    "The folder that holds\n.Pa models ,\n.Pa configs\nand\n.Pa plots ,\nwhen it is neither beside the program "
    "nor above it.\n"
    ".It Ev NO_COLOR\nNo colour in plots on a terminal.\n.El\n";

static const struct kv_program kvsim = {
    .name = "kvsim",
    .version = KV_VERSION,
    .title = "what a KV cache costs",
    .command = commands,
    .description = "counts the KV cache of language models under eviction policies: entries held, bytes in pages,\n"
                   "bytes returned, peaks within forward passes, and how many requests fit on a device; and replays\n"
                   "recorded attention through them.\n",
    .sections = sections,
    .sibling = "kvengine",
};

int main(int argc, char **argv)
{
    gsl_set_error_handler_off(); /* GSL's own aborts; each call's status is looked at instead */
    return kv_program_main(&kvsim, argc, argv);
}
