/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The command line: one row per command and per option, from which parsing, `--help` and the man page's lists come. */
#ifndef KV_CLI_H
#define KV_CLI_H

#include "sim/core/schema.h"

struct kv_option {
    const char *name;  /* without the dashes */
    char letter;       /* 0: none */
    const char *value; /* what stands for the value in help; NULL: a flag */
    bool repeat;
    const char *help;
};

struct kv_args;

struct kv_command {
    const char *name, *operands, *summary;
    const char *about;   /* more lines for --help, or NULL */
    const char *program; /* whose command it is; NULL: kvsim */
    int least, most;     /* operands */
    const struct kv_option *option;
    int n_options;
    /* Results go to stdout; false with a message and the exit status. */
    bool (*run)(const struct kv_args *args, struct kv_arena *a, struct kv_err *e);
};

struct kv_given {
    const struct kv_option *option;
    const char *value;
};

struct kv_args {
    const struct kv_command *command;
    const char **operand;
    int n_operands;
    struct kv_given *given;
    int n_given;
    bool help;
};

bool kv_args_parse(struct kv_args *args, const struct kv_command *command, int argc, char **argv, struct kv_arena *a,
                   struct kv_err *e);

bool kv_arg_flag(const struct kv_args *args, const char *name);
const char *kv_arg_text(const struct kv_args *args, const char *name, const char *otherwise); /* the last one given */
int kv_arg_times(const struct kv_args *args, const char *name);
const char *kv_arg_nth(const struct kv_args *args, const char *name, int nth);
/* Leaves *out alone when the option was not given. */
bool kv_arg_count(const struct kv_args *args, const char *name, int64_t least, int64_t most, int64_t *out,
                  struct kv_arena *a, struct kv_err *e);
/* A finite number with nothing behind it. */
bool kv_arg_real(const struct kv_args *args, const char *name, double least, double most, double *out,
                 struct kv_arena *a, struct kv_err *e);
bool kv_arg_choice(const struct kv_args *args, const char *name, const char *const *choices, int *out,
                   struct kv_arena *a, struct kv_err *e);

void kv_print_usage(const struct kv_command *command);

/* Options every command has: help, quiet, verbose. Those with a table: json, csv. */
#define KV_OPTIONS_COMMON                                                                                              \
    {.name = "quiet", .letter = 'q', .help = "say nothing on stderr but errors"},                                      \
        {.name = "verbose", .letter = 'v', .help = "say more on stderr"},                                              \
    {                                                                                                                  \
        .name = "help", .letter = 'h', .help = "show this"                                                             \
    }
#define KV_OPTIONS_TABLE                                                                                               \
    {.name = "json", .help = "print JSON"},                                                                            \
    {                                                                                                                  \
        .name = "csv", .help = "print CSV"                                                                             \
    }
struct kv_table;
/* Prints a command's table as CSV or JSON when one of these was given; false: neither. */
bool kv_table_as_asked(const struct kv_table *t, const struct kv_args *args);

/* A command of several verbs: its first operand says which. */
struct kv_verb {
    const char *name, *operands;
    int least, most;     /* operands behind the verb */
    const char *options; /* it takes, comma separated, beside those that all have */
    bool (*run)(const struct kv_args *args, struct kv_arena *a, struct kv_err *e);
};
/* Runs the verb asked for. KV_USAGE for an unknown one, `all` being their list for people; for operands too few or too
 * many; and for options it does not take. */
bool kv_verb_run(const char *command, const struct kv_verb *verb, int n, const char *all, const struct kv_args *args,
                 struct kv_arena *a, struct kv_err *e);

#endif
