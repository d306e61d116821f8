/* SPDX-License-Identifier: GPL-3.0-or-later */
/* kvsim: the command table, and the only file that prints errors or exits. */
#include "sim/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <gsl/gsl_errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

static void print_help(void)
{
    printf("kvsim " KV_VERSION ": what a KV cache costs\n\nusage: kvsim COMMAND ...\n\n");
    for (int i = 0; kv_commands[i]; i++)
        printf("  %-10s %s\n", kv_commands[i]->name, kv_commands[i]->summary);
    printf("\n'kvsim COMMAND --help' shows a command's options.\n"
           "exit status: 0 done; 1 the answer is no; 2 wrong usage or config; 3 bad input file; 4 the environment\n");
}

static const struct kv_command *find_command(const char *name, struct kv_err *e)
{
    const char *names[32];
    int n = 0;
    for (; kv_commands[n]; n++) {
        if (!strcmp(kv_commands[n]->name, name))
            return kv_commands[n];
        names[n] = kv_commands[n]->name;
    }
    const char *near = kv_nearest(name, names, n);
    if (near)
        kv_fail(e, KV_USAGE, "unknown command '%s'; did you mean '%s'?", name, near);
    else
        kv_fail(e, KV_USAGE, "unknown command '%s'; see 'kvsim --help'", name);
    return NULL;
}

static bool run(int argc, char **argv, struct kv_arena *a, struct kv_err *e)
{
    if (argc < 2)
        return kv_fail(e, KV_USAGE, "no command given; see 'kvsim --help'");
    bool help = !strcmp(argv[1], "help");
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || (help && argc < 3)) {
        print_help();
        return true;
    }
    if (help) {
        const struct kv_command *about = find_command(argv[2], e);
        if (about)
            kv_print_usage(about);
        return about != NULL;
    }
    if (!strcmp(argv[1], "--version")) {
        puts("kvsim " KV_VERSION);
        return true;
    }
    if (!strcmp(argv[1], "--man")) {
        kv_print_manual();
        return true;
    }
    const struct kv_command *command = find_command(argv[1], e);
    struct kv_args args;
    if (!command || !kv_args_parse(&args, command, argc - 2, argv + 2, a, e))
        return false;
    if (args.help) {
        kv_print_usage(command);
        return true;
    }
    return command->run(&args, a, e);
}

/* A file opened later must not become standard output or error because that one was closed. */
static bool hold_streams(struct kv_err *e)
{
    bool closed = fcntl(STDOUT_FILENO, F_GETFD) < 0;
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd ? O_WRONLY : O_RDONLY) != fd)
            return kv_fail(e, KV_ENV, "cannot open /dev/null: %s", strerror(errno));
    return !closed || kv_fail(e, KV_ENV, "standard output is closed");
}

int main(int argc, char **argv)
{
    static struct kv_err e;
    struct kv_arena *a = kv_arena_open();
    gsl_set_error_handler_off(); /* GSL's own aborts; each call's status is looked at instead */
    bool good = hold_streams(&e) && run(argc, argv, a, &e);
    if (fflush(stdout) || ferror(stdout)) {
        good = kv_fail(&e, KV_ENV, "cannot write to standard output: %s", strerror(errno));
        e.status = KV_ENV; /* an answer that could not be printed is none */
    }
    if (!good) {
        for (char *line = e.text, *next; line; line = next) {
            next = strchr(line, '\n');
            fprintf(stderr, "kvsim: %.*s\n", (int)(next ? next - line : (long)strlen(line)), line);
            next = next ? next + 1 : NULL;
        }
        if (e.n > KV_ERR_LINES)
            fprintf(stderr, "kvsim: ... and %d more\n", e.n - KV_ERR_LINES);
    }
    kv_arena_close(a);
    return good ? KV_OK : (int)e.status;
}
