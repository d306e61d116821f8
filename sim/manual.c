/* SPDX-License-Identifier: GPL-3.0-or-later */
/* kvsim(1), from the command table: `kvsim --man` prints it, `make docs` keeps it in docs/kvsim.1. */
#include "sim/cli.h"

#include <stdio.h>

/* Text as roff: its own characters made harmless. */
static void print_text(const char *text)
{
    for (const char *c = text; *c; c++) {
        if ((c == text || c[-1] == '\n') && (*c == '.' || *c == '\''))
            fputs("\\&", stdout);
        if (*c == '\\')
            fputs("\\e", stdout);
        else if (*c == '-')
            fputs("\\-", stdout);
        else
            putchar(*c);
    }
}

static void print_option(const struct kv_option *o)
{
    fputs(".It", stdout);
    if (o->letter)
        printf(" Fl %c ,", o->letter);
    printf(" Fl \\-%s", o->name);
    if (o->value) {
        fputs(" Ar ", stdout);
        print_text(o->value);
    }
    putchar('\n');
    print_text(o->help);
    fputs(o->repeat ? "; may be given again.\n" : ".\n", stdout);
}

static void print_command(const struct kv_command *c)
{
    printf(".Ss kvsim %s", c->name);
    if (*c->operands) {
        putchar(' ');
        print_text(c->operands);
    }
    putchar('\n');
    print_text(c->summary);
    putchar('\n');
    if (c->about) {
        fputs(".Bd -literal -offset indent\n", stdout);
        print_text(c->about);
        fputs("\n.Ed\n", stdout);
    }
    fputs(".Bl -tag -width Ds\n", stdout);
    for (int i = 0; i < c->n_options; i++)
        print_option(&c->option[i]);
    fputs(".El\n", stdout);
}

void kv_print_manual(void)
{
    fputs(".\\\" SPDX-License-Identifier: GPL-3.0-or-later\n"
          ".\\\" Made by 'kvsim --man'; do not edit.\n"
          ".Dd November 21, 2026\n.Dt KVSIM 1\n.Os\n.Sh NAME\n.Nm kvsim\n.Nd what a KV cache costs\n"
          ".Sh SYNOPSIS\n.Nm\n.Ar command\n.Op Ar option ...\n"
          ".Sh DESCRIPTION\n.Nm\ncounts the KV cache of language models under eviction policies: entries held, bytes "
          "in pages,\n"
          "bytes returned, peaks within forward passes, and how many requests fit on a device.\n"
          "Results go to standard output or into a folder, everything else to standard error.\n"
          ".Sh COMMANDS\n",
          stdout);
    for (int i = 0; kv_commands[i]; i++)
        print_command(kv_commands[i]);
    fputs(".Sh POLICIES\nA policy is given as\n.Ar kind Ns Op : Ns Ar key Ns = Ns Ar value , Ns ...\n"
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
          ".It Ev NO_COLOR\nNo colour in plots on a terminal.\n.El\n"
          ".Sh EXIT STATUS\n.Bl -tag -width Ds -compact\n.It 0\ndone\n.It 1\nthe answer is no: nothing fits\n"
          ".It 2\nwrong usage or config\n.It 3\na bad input file\n.It 4\nthe environment: no space, no memory, an "
          "unwritable folder\n"
          ".It 130 , 143\ninterrupted\n.El\n"
          ".Sh SEE ALSO\n.Xr gnuplot 1\n.Pp\n"
          "A. Bhaskar, A. Wettig, T. Gao, Y. Dong, D. Chen,\n.Em \"Cache Me If You Can: How Many KVs Do You Need for "
          "Effective Long-Context LMs?\" ,\narXiv 2506.17121, 2025.\n",
          stdout);
}
