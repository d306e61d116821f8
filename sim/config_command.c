/* SPDX-License-Identifier: GPL-3.0-or-later */
/* `kvsim config`: what a config may say, printed from its tables. */
#include "sim/cli.h"
#include "sim/settings.h"

#include <stdio.h>
#include <string.h>

static const struct kv_option options[] = {
    {.name = "set", .value = "S.KEY=VALUE", .repeat = true, .help = "for show: set a key over the config"},
    {.name = "markdown", .help = "for template: print the reference as Markdown"},
    KV_OPTIONS_COMMON,
};

static const char *shown_default(const struct kv_field *f)
{
    return f->def ? f->def : "auto";
}

static const char *range_text(const struct kv_field *f, struct kv_arena *a)
{
    if (f->min == 0 && f->max == 0)
        return "";
    if (f->type == KV_T_BYTES)
        return f->min >= 1 ? "more than 0" : "0 or more";
    bool whole = f->type == KV_T_COUNT || f->type == KV_T_COUNTS;
    return kv_format(a, whole ? "%.0f .. %.0f" : "%.15g .. %.15g", f->min, f->max);
}

/* A comment, broken at blanks so that no line passes what a config may hold. */
static void print_comment(const char *text)
{
    enum { WIDTH = 110 };
    while (*text) {
        size_t n = strlen(text);
        if (n > WIDTH)
            for (n = WIDTH; n > 1 && text[n] != ' ';)
                n--;
        printf("; %.*s\n", (int)n, text);
        text += n;
        text += strspn(text, " ");
    }
}

static void template_field(const struct kv_field *f, const char *value, struct kv_arena *a)
{
    const char *range = range_text(f, a);
    print_comment(kv_format(a, "%s [%s%s%s]", f->help, kv_field_kind(f, a), *range ? ", " : "", range));
    printf("; %s = %s\n", f->key, value);
}

static bool print_template(struct kv_arena *a)
{
    printf("; Every key of a plan, with its default; remove the ';' before one to set it.\n"
           "; Numbers carry their units: 80 GiB, 30 %%, 1.5 s. A comment begins with ';'.\n");
    for (int i = 0; i < kv_n_sections; i++) {
        printf("\n; %s\n[%s]\n", kv_sections[i].help, kv_sections[i].name);
        if (!strcmp(kv_sections[i].name, "model"))
            printf("name = Llama-3.1-8B\n");
        for (int f = 0; f < kv_sections[i].n; f++)
            template_field(&kv_sections[i].field[f], shown_default(&kv_sections[i].field[f]), a);
    }
    printf("\n; one section for each policy; 'kvsim policies KIND' shows the keys of a kind\n[policy pyramidkv]\n"
           "kind = pyramidkv\nkeep = 30 %%\npatch = 64\n");
    const struct kv_kind *kind = kv_kind_find("pyramidkv");
    for (int f = 0; f < kv_n_policy_fields; f++)
        if (!kv_in_list("kind, keep, patch", kv_policy_fields[f].key))
            template_field(&kv_policy_fields[f], kv_kind_default(kind, &kv_policy_fields[f], a), a);
    printf("\n; keys of other sections with several values, or first:last:step; 'kvsim sweep' plans each combination\n"
           "[sweep]\n; policy pyramidkv.keep = 10 %%:50 %%:10 %%\n; policy pyramidkv.patch = 0, 64\n");
    return true;
}

static void markdown_field(const struct kv_field *f, struct kv_arena *a)
{
    const char *range = range_text(f, a);
    printf("| `%s` | %s%s%s | `%s` | %s%s%s%s |\n", f->key, kv_field_kind(f, a), *range ? "<br>" : "", range,
           shown_default(f), f->help, f->also && *f->also ? " (elsewhere: " : "", f->also && *f->also ? f->also : "",
           f->also && *f->also ? ")" : "");
}

static bool print_markdown(struct kv_arena *a)
{
    printf("# Configuration reference\n\nMade by `kvsim config template --markdown`; do not edit.\n\n"
           "A config is an INI file of at most 190 characters a line. `;` starts a comment. A list goes on over "
           "indented lines.\n"
           "Unknown and repeated keys are errors; keys that begin with `x_` are private notes. Everything can be set "
           "over it:\n"
           "`--set section.key=value`, `--set \"policy NAME.key=value\"`.\n");
    for (int i = 0; i < kv_n_sections; i++) {
        printf("\n## [%s]\n\n%s\n\n| key | value | default | meaning |\n|---|---|---|---|\n", kv_sections[i].name,
               kv_sections[i].help);
        for (int f = 0; f < kv_sections[i].n; f++)
            markdown_field(&kv_sections[i].field[f], a);
    }
    printf("\n## [policy NAME]\n\none section for each policy; more keys belong to each kind: docs/POLICIES.md\n\n"
           "| key | value | default | meaning |\n|---|---|---|---|\n");
    for (int f = 0; f < kv_n_policy_fields; f++)
        markdown_field(&kv_policy_fields[f], a);
    printf("\n## [sweep]\n\nkeys of other sections with several values, for `kvsim sweep`: docs/SWEEPS.md\n\n"
           "    policy duo.sparsity = 0.3:0.9:0.1\n    engine.block_size = 16, 32\n");
    return true;
}

static void show_bind(const struct kv_bind *b, struct kv_arena *a)
{
    for (int f = 0; f < b->n; f++) {
        const char *line = kv_format(a, "%s = %s", b->field[f].key, kv_field_text(&b->field[f], b->base, a));
        printf("%-58s ; %s\n", line, b->origin[f]);
    }
}

static bool show(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    int n = kv_arg_times(args, "set");
    const char **set = KV_NEW_N(a, const char *, n + 1);
    for (int i = 0; i < n; i++)
        set[i] = kv_arg_nth(args, "set", i);
    if (args->n_operands < 2)
        return kv_fail(e, KV_USAGE, "too little given: kvsim config show CONFIG");
    struct kv_settings s;
    if (!kv_settings_read(args->operand[1], set, n, &s, a, e))
        return false;
    for (int i = 0; i < kv_n_sections; i++) {
        printf("%s[%s]\n", i ? "\n" : "", kv_sections[i].name);
        show_bind(&s.bind[i], a);
    }
    for (int i = 0; i < s.n_policies; i++) {
        printf("\n[policy %s]\n", s.policy[i].name);
        for (int b = 0; b < s.policy[i].n_binds; b++)
            show_bind(&s.policy[i].bind[b], a);
    }
    return true;
}

static void explain_field(const char *section, const struct kv_field *f, const char *of, struct kv_arena *a)
{
    const char *range = range_text(f, a);
    printf("%s.%s%s%s\n  %s\n  value: %s\n", section, f->key, of ? ", of " : "", of ? of : "", f->help,
           kv_field_kind(f, a));
    if (*range)
        printf("  range: %s\n", range);
    printf("  default: %s\n", shown_default(f));
    if (f->also && *f->also)
        printf("  elsewhere: %s\n", f->also);
}

enum { MOST_NAMES = 1024 };

/* What `config explain` looks for, and what it saw on the way. */
struct search {
    const char *section, *key; /* section NULL: any */
    const char **name;         /* section.key of all, for a proposal */
    int n_names, found;
    struct kv_arena *arena;
};

static void search_fields(struct search *s, const char *section, const struct kv_field *field, int n, const char *of)
{
    for (int f = 0; f < n; f++) {
        bool match = !strcmp(field[f].key, s->key) || kv_in_list(field[f].also, s->key);
        KV_ASSERT(s->n_names < MOST_NAMES);
        s->name[s->n_names++] = kv_format(s->arena, "%s.%s", section, field[f].key);
        if (!match || (s->section && strcmp(s->section, section)))
            continue;
        explain_field(section, &field[f], of, s->arena);
        s->found++;
    }
}

/* Keys that single kinds have; a law that several share is said once, by its name. */
static void search_kinds(struct search *s)
{
    for (int i = 0; kv_kinds[i]; i++) {
        const struct kv_law *law = kv_kinds[i]->law;
        const struct kv_reads *reads = kv_kinds[i]->reads;
        bool again = false;
        for (int j = 0; j < i; j++)
            again |= kv_kinds[j]->law == law;
        if (!again)
            search_fields(s, "policy", law->field, law->n_fields, kv_format(s->arena, "law %s", law->name));
        if (reads)
            search_fields(s, "policy", reads->field, reads->n_fields, kv_kinds[i]->name);
    }
}

/* The nearest section.key: of the same key in another section first. */
static const char *propose(const struct search *s, const char *wanted)
{
    for (int i = 0; i < s->n_names; i++)
        if (!strcmp(strchr(s->name[i], '.') + 1, s->key))
            return s->name[i];
    const char *near = kv_nearest(wanted, s->name, s->n_names);
    const char **keys = KV_NEW_N(s->arena, const char *, s->n_names);
    for (int i = 0; i < s->n_names; i++)
        keys[i] = strchr(s->name[i], '.') + 1;
    return near ? near : kv_nearest(s->key, keys, s->n_names);
}

/* KEY or section.KEY; everywhere it is. */
static bool explain(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    if (args->n_operands < 2)
        return kv_fail(e, KV_USAGE, "too little given: kvsim config explain KEY, as in 'engine.kv_layout' or 'keep'");
    const char *wanted = args->operand[1], *dot = strrchr(wanted, '.');
    struct search s = {.section = dot ? kv_copy_part(a, wanted, (size_t)(dot - wanted)) : NULL,
                       .key = dot ? dot + 1 : wanted,
                       .name = KV_NEW_N(a, const char *, MOST_NAMES),
                       .arena = a};
    for (int i = 0; i < kv_n_sections; i++)
        search_fields(&s, kv_sections[i].name, kv_sections[i].field, kv_sections[i].n, NULL);
    search_fields(&s, "policy", kv_policy_fields, kv_n_policy_fields, NULL);
    search_kinds(&s);
    if (s.found)
        return true;
    const char *near = propose(&s, wanted);
    return near ? kv_fail(e, KV_USAGE, "unknown key '%s'; did you mean '%s'?", wanted, near)
                : kv_fail(e, KV_USAGE, "unknown key '%s'; 'kvsim config template' shows all", wanted);
}

static bool run(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    static const char *const verbs[] = {"template", "show", "explain"};
    const char *verb = args->operand[0];
    if (!strcmp(verb, "template") && args->n_operands > 1)
        return kv_fail(e, KV_USAGE, "'%s' is one operand too many: kvsim config template", args->operand[1]);
    if (!strcmp(verb, "template"))
        return kv_arg_flag(args, "markdown") ? print_markdown(a) : print_template(a);
    if (!strcmp(verb, "show"))
        return show(args, a, e);
    if (!strcmp(verb, "explain"))
        return explain(args, a, e);
    const char *near = kv_nearest(verb, verbs, 3);
    return near ? kv_fail(e, KV_USAGE, "unknown 'config %s'; did you mean 'config %s'?", verb, near)
                : kv_fail(e, KV_USAGE, "unknown 'config %s'; it is template, show CONFIG or explain KEY", verb);
}

const struct kv_command kv_command_config = {
    .name = "config",
    .operands = "template | show CONFIG | explain KEY",
    .summary = "A config with every key explained, what a config resolves to, or one key.",
    .least = 1,
    .most = 2,
    .option = options,
    .n_options = sizeof options / sizeof *options,
    .run = run,
};
