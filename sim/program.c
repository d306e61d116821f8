/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/program.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void print_help(const struct kv_program *p)
{
    printf("%s %s: %s\n\nusage: %s COMMAND ...\n\n", p->name, p->version, p->title, p->name);
    for (int i = 0; p->command[i]; i++)
        printf("  %-10s %s\n", p->command[i]->name, p->command[i]->summary);
    printf("\n'%s COMMAND --help' shows a command's options.\n"
           "exit status: 0 done; 1 the answer is no; 2 wrong usage or config; 3 bad input file; 4 the environment\n",
           p->name);
}

static const struct kv_command *find_command(const struct kv_program *p, const char *name, struct kv_err *e)
{
    const char *names[32];
    int n = 0;
    for (; p->command[n]; n++) {
        if (!strcmp(p->command[n]->name, name))
            return p->command[n];
        names[n] = p->command[n]->name;
    }
    const char *near = kv_nearest(name, names, n);
    if (near)
        kv_fail(e, KV_USAGE, "unknown command '%s'; did you mean '%s'?", name, near);
    else
        kv_fail(e, KV_USAGE, "unknown command '%s'; see '%s --help'", name, p->name);
    return NULL;
}

static bool run(const struct kv_program *p, int argc, char **argv, struct kv_arena *a, struct kv_err *e)
{
    if (argc < 2)
        return kv_fail(e, KV_USAGE, "no command given; see '%s --help'", p->name);
    bool help = !strcmp(argv[1], "help");
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || (help && argc < 3)) {
        print_help(p);
        return true;
    }
    if (help) {
        const struct kv_command *about = find_command(p, argv[2], e);
        if (about)
            kv_print_usage(about);
        return about != NULL;
    }
    if (!strcmp(argv[1], "--version")) {
        printf("%s %s\n", p->name, p->version);
        return true;
    }
    if (!strcmp(argv[1], "--man")) {
        kv_print_manual(p);
        return true;
    }
    const struct kv_command *command = find_command(p, argv[1], e);
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

int kv_program_main(const struct kv_program *p, int argc, char **argv)
{
    static struct kv_err e;
    struct kv_arena *a = kv_arena_open();
    bool good = hold_streams(&e) && run(p, argc, argv, a, &e);
    if (fflush(stdout) || ferror(stdout)) {
        good = kv_fail(&e, KV_ENV, "cannot write to standard output: %s", strerror(errno));
        e.status = KV_ENV; /* an answer that could not be printed is none */
    }
    if (!good) {
        for (char *line = e.text, *next; line; line = next) {
            next = strchr(line, '\n');
            fprintf(stderr, "%s: %.*s\n", p->name, (int)(next ? next - line : (long)strlen(line)), line);
            next = next ? next + 1 : NULL;
        }
        if (e.n > KV_ERR_LINES)
            fprintf(stderr, "%s: ... and %d more\n", p->name, e.n - KV_ERR_LINES);
    }
    kv_arena_close(a);
    return good ? KV_OK : (int)e.status;
}
