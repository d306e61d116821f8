/* SPDX-License-Identifier: GPL-3.0-or-later */
/* `kvsim policies`: the kinds, from their tables. */
#include "sim/cli.h"
#include "sim/core/policy.h"
#include "sim/table.h"

#include <stdio.h>
#include <string.h>

static const struct kv_option options[] = {
    {.name = "markdown", .help = "print the reference as Markdown"},
    KV_OPTIONS_TABLE,
    KV_OPTIONS_COMMON,
};

static const struct kv_column columns[] = {
    {"kind", "kind", KV_CELL_TEXT},   {"how_many", "how many", KV_CELL_TEXT}, {"which", "which", KV_CELL_TEXT},
    {"defaults", NULL, KV_CELL_TEXT}, {"title", "what it is", KV_CELL_TEXT},
};

static void print_kinds(const struct kv_args *args, struct kv_arena *a)
{
    struct kv_table t;
    kv_table_open(&t, columns, sizeof columns / sizeof *columns, a);
    for (int i = 0; kv_kinds[i]; i++) {
        struct kv_cell *row = kv_table_row(&t);
        kv_set_text(&t, row, "kind", kv_kinds[i]->name);
        kv_set_text(&t, row, "how_many", kv_kinds[i]->law->name);
        kv_set_text(&t, row, "which", kv_kinds[i]->score->name);
        kv_set_text(&t, row, "defaults", kv_kinds[i]->preset);
        kv_set_text(&t, row, "title", kv_kinds[i]->title);
    }
    if (!kv_table_as_asked(&t, args)) {
        kv_table_print(&t, stdout);
        printf("\n'kvsim policies KIND' shows its keys; a SPEC is KIND:key=value,...\n");
    }
}

static void print_fields(const struct kv_kind *k, const struct kv_field *field, int n, bool markdown,
                         struct kv_arena *a)
{
    for (int i = 0; i < n; i++) {
        const char *value = kv_kind_default(k, &field[i], a);
        if (markdown)
            printf("| `%s` | %s | `%s` | %s |\n", field[i].key, kv_field_kind(&field[i], a), value, field[i].help);
        else
            printf("  %-18s %-12s %s\n", field[i].key, value, field[i].help);
    }
}

static const char *budget_text(const struct kv_law *law)
{
    switch (law->budget) {
    case KV_BUDGET_SHARE | KV_BUDGET_TOKENS:
        return "one of keep, compression_ratio, tokens, bytes";
    case KV_BUDGET_SHARE:
        return "keep or compression_ratio";
    case KV_BUDGET_TOKENS:
        return "tokens or bytes";
    }
    return "none";
}

static void print_kind(const struct kv_kind *k, struct kv_arena *a)
{
    printf("%s: %s\n\n", k->name, k->title);
    printf("  source     %s\n", k->source);
    if (*k->differs)
        printf("  differs    %s\n", k->differs);
    printf("  how many   %s: %s\n", k->law->name, k->law->help);
    printf("  which      %s: %s\n", k->score->name, k->score->help);
    printf("  recorded   %s\n", kv_score_needs(k->score, a));
    printf("  budget     %s\n", budget_text(k->law));
    if (k->reads)
        printf("  reads      less than it stores: no memory is saved%s%s\n", k->reads->trained ? "; " : "",
               k->reads->trained ? k->reads->trained : "");
    printf("\nkeys of this kind, with their defaults\n");
    print_fields(k, k->law->field, k->law->n_fields, false, a);
    print_fields(k, k->score->field, k->score->n_fields, false, a);
    if (k->reads)
        print_fields(k, k->reads->field, k->reads->n_fields, false, a);
    printf("\nkeys of every kind\n");
    print_fields(k, kv_policy_fields, kv_n_policy_fields, false, a);
}

static void print_markdown(struct kv_arena *a)
{
    printf("# Policies\n\nMade by `kvsim policies --markdown`; do not edit.\n\n"
           "A policy is *when* it may evict x *how many* entries a lane may hold then x *which* ones stay, and a "
           "guard. A kind is a\n"
           "preset of all of it; keys replace its parts. On the command line: `--policy KIND:key=value,...`; in a "
           "config:\n"
           "`[policy NAME]` with `kind = KIND`. Keys that every kind has are in docs/CONFIG.md.\n");
    for (int i = 0; kv_kinds[i]; i++) {
        const struct kv_kind *k = kv_kinds[i];
        printf("\n## %s\n\n%s.\n\n- Source: %s.\n", k->name, k->title, k->source);
        if (*k->differs)
            printf("- Differs: %s.\n", k->differs);
        printf("- How many (`%s`): %s.\n- Which (`%s`): %s.\n- To replay it, record: %s.\n- Budget: %s.\n- Defaults: "
               "`%s`.\n",
               k->law->name, k->law->help, k->score->name, k->score->help, kv_score_needs(k->score, a),
               budget_text(k->law), k->preset);
        if (k->reads)
            printf("- Reads less than it stores: no memory is saved%s%s.\n", k->reads->trained ? "; " : "",
                   k->reads->trained ? k->reads->trained : "");
        if (k->law->n_fields || k->score->n_fields || k->reads)
            printf("\n| key | value | default | meaning |\n|---|---|---|---|\n");
        print_fields(k, k->law->field, k->law->n_fields, true, a);
        print_fields(k, k->score->field, k->score->n_fields, true, a);
        if (k->reads)
            print_fields(k, k->reads->field, k->reads->n_fields, true, a);
    }
}

static bool run(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    if (kv_arg_flag(args, "markdown")) {
        print_markdown(a);
        return true;
    }
    if (!args->n_operands) {
        print_kinds(args, a);
        return true;
    }
    const struct kv_kind *k = kv_kind_find(args->operand[0]);
    if (k && (kv_arg_flag(args, "csv") || kv_arg_flag(args, "json")))
        return kv_fail(e, KV_USAGE, "--csv and --json list all kinds; leave out '%s'", k->name);
    if (k) {
        print_kind(k, a);
        return true;
    }
    return kv_kind_unknown("policies:", args->operand[0], a, e);
}

const struct kv_command kv_command_policies = {
    .name = "policies",
    .operands = "[KIND]",
    .summary = "The policies: what they keep, their keys, defaults and sources.",
    .least = 0,
    .most = 1,
    .option = options,
    .n_options = sizeof options / sizeof *options,
    .run = run,
};
