/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/cli.h"

#include "sim/core/units.h"
#include "sim/table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *program(const struct kv_command *c)
{
    return c->program ? c->program : "kvsim";
}

static const struct kv_option *find_option(const struct kv_command *c, const char *name, size_t length)
{
    for (int i = 0; i < c->n_options; i++)
        if (strlen(c->option[i].name) == length && !strncmp(c->option[i].name, name, length))
            return &c->option[i];
    return NULL;
}

static const struct kv_option *find_letter(const struct kv_command *c, char letter)
{
    for (int i = 0; i < c->n_options; i++)
        if (c->option[i].letter == letter)
            return &c->option[i];
    return NULL;
}

static bool unknown_option(const struct kv_command *c, const char *word, size_t length, struct kv_arena *a,
                           struct kv_err *e)
{
    const char **names = KV_NEW_N(a, const char *, c->n_options);
    for (int i = 0; i < c->n_options; i++)
        names[i] = c->option[i].name;
    const char *near = kv_nearest(kv_copy_part(a, word, length), names, c->n_options);
    if (near)
        return kv_fail(e, KV_USAGE, "unknown option '--%.*s'; did you mean '--%s'?", (int)length, word, near);
    return kv_fail(e, KV_USAGE, "unknown option '--%.*s'; see '%s %s --help'", (int)length, word, program(c), c->name);
}

static bool give(struct kv_args *args, const struct kv_option *o, const char *value, struct kv_err *e)
{
    for (int i = 0; i < args->n_given && o->value && !o->repeat; i++)
        if (args->given[i].option == o)
            return kv_fail(e, KV_USAGE, "option '--%s' given twice", o->name);
    args->given[args->n_given++] = (struct kv_given){o, value};
    args->help |= !strcmp(o->name, "help");
    return true;
}

static bool parse_long(struct kv_args *args, char **argv, int argc, int *i, struct kv_arena *a, struct kv_err *e)
{
    const char *word = argv[*i] + 2;
    size_t length = strcspn(word, "=");
    const struct kv_option *o = find_option(args->command, word, length);
    if (!o)
        return unknown_option(args->command, word, length, a, e);
    const char *value = word[length] ? word + length + 1 : NULL;
    if (!o->value && value)
        return kv_fail(e, KV_USAGE, "option '--%s' takes no value", o->name);
    if (o->value && !value) {
        if (*i + 1 >= argc)
            return kv_fail(e, KV_USAGE, "option '--%s' needs a value: --%s %s", o->name, o->name, o->value);
        value = argv[++*i];
    }
    return give(args, o, value, e);
}

static bool parse_short(struct kv_args *args, char **argv, int argc, int *i, struct kv_err *e)
{
    for (const char *c = argv[*i] + 1; *c; c++) {
        const struct kv_option *o = find_letter(args->command, *c);
        if (!o)
            return kv_fail(e, KV_USAGE, "unknown option '-%c'; see '%s %s --help'", *c, program(args->command),
                           args->command->name);
        if (!o->value) {
            if (!give(args, o, NULL, e))
                return false;
            continue;
        }
        if (!c[1] && *i + 1 >= argc)
            return kv_fail(e, KV_USAGE, "option '-%c' needs a value: -%c %s", *c, *c, o->value);
        return give(args, o, c[1] ? c + 1 : argv[++*i], e);
    }
    return true;
}

bool kv_args_parse(struct kv_args *args, const struct kv_command *command, int argc, char **argv, struct kv_arena *a,
                   struct kv_err *e)
{
    int room = 1; /* a bundle of flags gives one for each letter */
    for (int i = 0; i < argc; i++)
        room += (int)strlen(argv[i]);
    *args = (struct kv_args){.command = command};
    args->operand = KV_NEW_N(a, const char *, argc + 1);
    args->given = KV_NEW_N(a, struct kv_given, room);
    bool options = true;
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];
        if (options && !strcmp(word, "--"))
            options = false;
        else if (options && !strncmp(word, "--", 2)) {
            if (!parse_long(args, argv, argc, &i, a, e))
                return false;
        } else if (options && word[0] == '-' && word[1]) {
            if (!parse_short(args, argv, argc, &i, e))
                return false;
        } else
            args->operand[args->n_operands++] = word;
    }
    if (args->help)
        return true;
    if (kv_arg_flag(args, "csv") && kv_arg_flag(args, "json"))
        return kv_fail(e, KV_USAGE, "--csv and --json are both given; keep one");
    if (args->n_operands < command->least)
        return kv_fail(e, KV_USAGE, "too little given: %s %s %s", program(command), command->name, command->operands);
    if (args->n_operands > command->most)
        return kv_fail(e, KV_USAGE, "'%s' is one operand too many: %s %s %s", args->operand[command->most],
                       program(command), command->name, command->operands);
    return true;
}

int kv_arg_times(const struct kv_args *args, const char *name)
{
    int n = 0;
    for (int i = 0; i < args->n_given; i++)
        n += !strcmp(args->given[i].option->name, name);
    return n;
}

const char *kv_arg_nth(const struct kv_args *args, const char *name, int nth)
{
    for (int i = 0; i < args->n_given; i++)
        if (!strcmp(args->given[i].option->name, name) && nth-- == 0)
            return args->given[i].value;
    return NULL;
}

bool kv_arg_flag(const struct kv_args *args, const char *name)
{
    return kv_arg_times(args, name) > 0;
}

bool kv_table_as_asked(const struct kv_table *t, const struct kv_args *args)
{
    if (kv_arg_flag(args, "csv")) {
        kv_table_csv(t, stdout);
        return true;
    }
    if (!kv_arg_flag(args, "json"))
        return false;
    json_t *rows = kv_table_json(t);
    kv_json_print(rows, stdout);
    json_decref(rows);
    return true;
}

const char *kv_arg_text(const struct kv_args *args, const char *name, const char *otherwise)
{
    int n = kv_arg_times(args, name);
    return n ? kv_arg_nth(args, name, n - 1) : otherwise;
}

bool kv_arg_count(const struct kv_args *args, const char *name, int64_t least, int64_t most, int64_t *out,
                  struct kv_arena *a, struct kv_err *e)
{
    const char *text = kv_arg_text(args, name, NULL);
    if (!text)
        return true;
    int64_t value;
    const char *why = kv_read_count(a, text, &value);
    if (why)
        return kv_fail(e, KV_USAGE, "--%s: %s", name, why);
    if (value < 0 && least >= 0)
        return kv_fail(e, KV_USAGE, "--%s: '%s' is negative", name, text);
    if (value < least || value > most)
        return kv_fail(e, KV_USAGE, "--%s: '%s' is outside %lld .. %lld", name, text, (long long)least,
                       (long long)most);
    *out = value;
    return true;
}

bool kv_arg_real(const struct kv_args *args, const char *name, double least, double most, double *out,
                 struct kv_arena *a, struct kv_err *e)
{
    const char *text = kv_arg_text(args, name, NULL);
    double value;
    if (!text)
        return true;
    if (kv_read_real(a, text, &value) || value < least || value > most)
        return kv_fail(e, KV_USAGE, "--%s '%s' is no number from %g to %g", name, text, least, most);
    *out = value;
    return true;
}

bool kv_arg_choice(const struct kv_args *args, const char *name, const char *const *choices, int *out,
                   struct kv_arena *a, struct kv_err *e)
{
    const char *text = kv_arg_text(args, name, NULL), *all = "";
    int n = 0;
    if (!text)
        return true;
    for (; choices[n]; n++) {
        if (!strcmp(choices[n], text)) {
            *out = n;
            return true;
        }
        all = kv_format(a, "%s%s%s", all, n ? ", " : "", choices[n]);
    }
    const char *near = kv_nearest(text, choices, n);
    if (near)
        return kv_fail(e, KV_USAGE, "--%s: '%s' is not known; did you mean '%s'?", name, text, near);
    return kv_fail(e, KV_USAGE, "--%s: '%s' is none of %s", name, text, all);
}

void kv_print_usage(const struct kv_command *c)
{
    printf("usage: %s %s %s%s[options]\n\n%s\n", program(c), c->name, c->operands, *c->operands ? " " : "", c->summary);
    if (c->about)
        printf("\n%s\n", c->about);
    printf("\noptions:\n");
    for (int i = 0; i < c->n_options; i++) {
        const struct kv_option *o = &c->option[i];
        char left[64];
        snprintf(left, sizeof left, "  %c%c%s--%s%s%s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ',
                 o->letter ? ", " : "  ", o->name, o->value ? " " : "", o->value ? o->value : "");
        printf("%-34s%s%s%s\n", left, strlen(left) > 33 ? "\n                                  " : "", o->help,
               o->repeat ? "; may be given again" : "");
    }
}

/* ---- verbs ---- */

static bool check_options(const char *command, const struct kv_args *args, const struct kv_verb *v, struct kv_err *e)
{
    for (int i = 0; i < args->n_given; i++) {
        const char *name = args->given[i].option->name;
        if (!kv_in_list("quiet, verbose, help", name) && !kv_in_list(v->options, name))
            kv_fail(e, KV_USAGE, "'%s %s' takes no --%s", command, v->name, name);
    }
    return !e->n;
}

bool kv_verb_run(const char *command, const struct kv_verb *verb, int n, const char *all, const struct kv_args *args,
                 struct kv_arena *a, struct kv_err *e)
{
    const char **names = KV_NEW_N(a, const char *, n), *asked = args->operand[0];
    for (int i = 0; i < n; i++) {
        const struct kv_verb *v = &verb[i];
        names[i] = v->name;
        if (strcmp(asked, v->name) != 0)
            continue;
        if (args->n_operands - 1 < v->least)
            return kv_fail(e, KV_USAGE, "too little given: kvsim %s %s %s", command, v->name, v->operands);
        if (args->n_operands - 1 > v->most)
            return kv_fail(e, KV_USAGE, "'%s' is one operand too many: kvsim %s %s %s", args->operand[v->most + 1],
                           command, v->name, v->operands);
        return check_options(command, args, v, e) && v->run(args, a, e);
    }
    const char *near = kv_nearest(asked, names, n);
    return near ? kv_fail(e, KV_USAGE, "unknown '%s %s'; did you mean '%s %s'?", command, asked, command, near)
                : kv_fail(e, KV_USAGE, "unknown '%s %s'; it is %s", command, asked, all);
}
