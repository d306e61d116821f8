/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A program that is a table of commands: help, version, the command itself, and the one place that prints errors and
 * gives the exit status. */
#ifndef KV_PROGRAM_H
#define KV_PROGRAM_H

#include "sim/cli.h"

struct kv_program {
    const char *name, *version, *title;      /* "what a KV cache costs" */
    const struct kv_command *const *command; /* NULL at the end */
    /* Of the manual page, in mdoc: what it does (sentences, lines ended), sections behind the commands, the other
     * program. */
    const char *description, *sections, *sibling;
};

/* The page, from the command table. */
void kv_print_manual(const struct kv_program *p);

/* main() of a program. */
int kv_program_main(const struct kv_program *p, int argc, char **argv);

#endif
