/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A program's manual page, from its command table: `--man` prints it, `make docs` keeps it in docs/. */
#include "sim/program.h"

#include <ctype.h>
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

static void print_command(const struct kv_program *p, const struct kv_command *c)
{
    printf(".Ss %s %s", p->name, c->name);
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

void kv_print_manual(const struct kv_program *p)
{
    printf(".\\\" SPDX-License-Identifier: GPL-3.0-or-later\n"
           ".\\\" Made by '%s --man'; do not edit.\n"
           ".Dd November 21, 2026\n.Dt ",
           p->name);
    for (const char *c = p->name; *c; c++)
        putchar(toupper((unsigned char)*c));
    printf(" 1\n.Os\n.Sh NAME\n.Nm %s\n.Nd %s\n.Sh SYNOPSIS\n.Nm\n.Ar command\n.Op Ar option ...\n"
           ".Sh DESCRIPTION\n.Nm\n%s"
           "Results go to standard output or into files, everything else to standard error.\n"
           ".Sh COMMANDS\n",
           p->name, p->title, p->description);
    for (int i = 0; p->command[i]; i++)
        print_command(p, p->command[i]);
    fputs(p->sections, stdout);
    fputs(".Sh EXIT STATUS\n.Bl -tag -width Ds -compact\n.It 0\ndone\n.It 1\nthe answer is no: nothing fits, outside "
          "tolerance\n"
          ".It 2\nwrong usage or config\n.It 3\na bad input file\n.It 4\nthe environment: no space, no memory, an "
          "unwritable folder\n"
          ".It 130 , 143\ninterrupted\n.El\n"
          ".Sh SEE ALSO\n",
          stdout);
    printf(".Xr gnuplot 1 ,\n.Xr %s 1\n.Pp\n"
           "A. Bhaskar, A. Wettig, T. Gao, Y. Dong, D. Chen,\n.Em \"Cache Me If You Can: How Many KVs Do You Need for "
           "Effective Long-Context LMs?\" ,\narXiv 2506.17121, 2025.\n",
           p->sibling);
}
