/* SPDX-License-Identifier: GPL-3.0-or-later */
/* `kvsim fit`: measured timings in; the coefficients of a model of a step's time, their intervals, and the error on
 * rows kept out of the fit. */
#include "sim/cli.h"
#include "sim/core/preset.h"
#include "sim/core/random.h"
#include "sim/core/units.h"
#include "sim/csv.h"
#include "sim/serve/fit.h"
#include "sim/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const struct kv_option options[] = {
    {.name = "output", .letter = 'o', .value = "FILE", .help = "write the model there, for [timing] profile"},
    {.name = "model",
     .letter = 'm',
     .value = "MODEL",
     .help = "a preset or folder, whose layers the tables are for (default: the one a kvengine profile names)"},
    {.name = "config", .value = "FILE", .help = "take model, hardware, engine and timing from this config"},
    {.name = "set", .value = "SECTION.KEY=VALUE", .repeat = true, .help = "a key of a config, such as hardware.device"},
    {.name = "holdout", .value = "SHARE", .help = "rows kept out of the fit, for its error (default 20 %)"},
    {.name = "seed", .value = "N", .help = "of the choice which rows (default 1)"},
    {.name = "max-error",
     .value = "SHARE",
     .help = "status 1 if the mean error on the rows kept out is more, as in 10 %"},
    KV_OPTIONS_TABLE,
    KV_OPTIONS_COMMON,
};

/* The model that the first row of a kvengine profile names, or NULL. */
static const char *model_of_profile(const char *path, struct kv_arena *a)
{
    struct kv_csv c;
    struct kv_err ignored = {0};
    struct stat file;
    const char *model = NULL;
    if (stat(path, &file) || S_ISDIR(file.st_mode) || !kv_csv_open(&c, path, a, &ignored))
        return NULL;
    int column = kv_csv_column(&c, "model");
    if (column >= 0 && kv_csv_next(&c, &ignored) == KV_NEXT_ROW)
        model = kv_copy_text(a, c.cell[column]);
    kv_csv_close(&c);
    return model;
}

static bool read_settings(const struct kv_args *args, struct kv_settings *s, struct kv_model *m, struct kv_arena *a,
                          struct kv_err *e)
{
    int n = kv_arg_times(args, "set"), n_set = 0;
    const char *config = kv_arg_text(args, "config", NULL), *model = kv_arg_text(args, "model", NULL);
    const char **set = KV_NEW_N(a, const char *, n + 1);
    for (int i = 0; i < n; i++) {
        set[n_set++] = kv_arg_nth(args, "set", i);
        if (!strncmp(set[i], "model.", 6) && !model)
            model = "";
    }
    for (int i = 0; i < args->n_operands && !model && !config; i++)
        model = model_of_profile(args->operand[i], a);
    if (!model && !config)
        return kv_fail(e, KV_USAGE, "'%s' does not say of which model it is; say it with --model", args->operand[0]);
    if (model && *model)
        set[n_set++] = kv_format(a, "model.name=%s", model);
    return kv_settings_read(config, set, n_set, s, a, e) && kv_settings_model(s, m, a, e);
}

static bool read_share(const struct kv_args *args, const char *name, const char *otherwise, double *out,
                       struct kv_arena *a, struct kv_err *e)
{
    const char *text = kv_arg_text(args, name, otherwise), *why = text ? kv_read_share(a, text, out) : NULL;
    return !why || kv_fail(e, KV_USAGE, "--%s: %s", name, why);
}

/* Which rows are kept out hangs on the seed, the source and the row's place alone. */
static void keep_out(struct kv_fit_row *row, int from, int n, int source, double share, int64_t seed)
{
    for (int i = from; i < n; i++)
        row[i].kept_out = kv_uniform(kv_random((uint64_t)seed, kv_purpose("holdout"), (uint64_t)source,
                                               (uint64_t)(i - from))) < share;
}

static const struct kv_column columns[] = {
    {"coefficient", NULL, KV_CELL_TEXT}, {"of", NULL, KV_CELL_TEXT},   {"value", NULL, KV_CELL_REAL},
    {"low", NULL, KV_CELL_REAL},         {"high", NULL, KV_CELL_REAL},
};

static void add_coefficient(const struct kv_table *t, struct kv_cell *row, const char *key, const char *of,
                            double value, double low, double high)
{
    kv_set_text(t, row, "coefficient", key);
    kv_set_text(t, row, "of", of);
    kv_set_real(t, row, "value", value);
    kv_set_real(t, row, "low", low);
    kv_set_real(t, row, "high", high);
}

static void fill_table(struct kv_table *t, const struct kv_fit *f, struct kv_arena *a)
{
    kv_table_open(t, columns, sizeof columns / sizeof *columns, a);
    for (int i = 0; i < KV_FIT_TERMS; i++)
        if (f->there[i])
            add_coefficient(t, kv_table_row(t), kv_fit_term_texts[i].key, kv_fit_term_texts[i].of, f->c[i], f->low[i],
                            f->high[i]);
    add_coefficient(t, kv_table_row(t), "knee_tokens", "fewer tokens take as long as these", f->knee, f->knee_low,
                    f->knee_high);
}

static void print_error(const char *name, const struct kv_fit_error *x)
{
    if (x->n)
        printf("  %-28s %6d rows   mean %6.1f %%   p90 %6.1f %%   max %6.1f %%   bias %+6.1f %%\n", name, x->n,
               100 * x->mean, 100 * x->p90, 100 * x->max, 100 * x->bias);
}

static const char *seconds(double s, struct kv_arena *a)
{
    static const struct {
        double least;
        const char *unit;
    } units[] = {{1, "s"}, {1e-3, "ms"}, {1e-6, "us"}, {1e-9, "ns"}, {0, "ps"}};
    int i = 0;
    if (!(s > 0))
        return "0";
    while (s < units[i].least)
        i++;
    return kv_format(a, "%.4g %s", s / (units[i].least > 0 ? units[i].least : 1e-12), units[i].unit);
}

static void print_fit(const struct kv_fit_file *f, struct kv_arena *a)
{
    const struct kv_fit *fit = &f->fit;
    printf("Seconds of a step of %s, fitted to %d rows:\n\n  %-14s %12s   %-24s  for\n", f->model, fit->rows,
           "coefficient", "", "95 % interval");
    for (int i = 0; i < KV_FIT_TERMS; i++)
        if (fit->there[i])
            printf("  %-14s %12s   %-24s  %s\n", kv_fit_term_texts[i].key, seconds(fit->c[i], a),
                   fit->high[i] > 0 ? kv_format(a, "%s .. %s", seconds(fit->low[i], a), seconds(fit->high[i], a))
                                    : "held at 0",
                   kv_fit_term_texts[i].of);
    printf("  %-14s %12.4g   %-24s  fewer tokens take as long as these\n\nError, |predicted / measured - 1|:\n",
           "knee_tokens", fit->knee, kv_format(a, "%.4g .. %.4g", fit->knee_low, fit->knee_high));
    print_error("rows of the fit", &fit->in);
    for (int i = 0; i <= KV_FIT_KINDS; i++)
        print_error(kv_format(a, "kept out: %s", kv_fit_kind_names[i]), &fit->out[i]);
    if (!fit->out[KV_FIT_KINDS].n)
        printf("  no rows were kept out: the error is not known\n");
}

static json_t *error_json(const struct kv_fit_error *x)
{
    return x->n ? json_pack("{s:i, s:f, s:f, s:f, s:f}", "rows", x->n, "mean_share", x->mean, "p90_share", x->p90,
                            "max_share", x->max, "bias_share", x->bias)
                : json_null();
}

static void print_json(const struct kv_fit_file *f, const struct kv_table *t)
{
    json_t *root = json_object(), *kept = json_object(), *sources = json_array();
    json_object_set_new(root, "model", kv_json_text(f->model));
    json_object_set_new(root, "rows", json_integer(f->fit.rows));
    json_object_set_new(root, "coefficients", kv_table_json(t));
    json_object_set_new(root, "error_on_fit", error_json(&f->fit.in));
    for (int i = 0; i <= KV_FIT_KINDS; i++)
        json_object_set_new(kept, kv_fit_kind_names[i], error_json(&f->fit.out[i]));
    json_object_set_new(root, "error_kept_out", kept);
    for (int i = 0; i < f->n_sources; i++) {
        json_t *source = json_object();
        json_object_set_new(source, "file", kv_json_text(f->source[i].path));
        json_object_set_new(source, "hash", kv_json_text(f->source[i].hash));
        json_object_set_new(source, "rows", json_integer(f->source[i].rows));
        json_array_append_new(sources, source);
    }
    json_object_set_new(root, "sources", sources);
    kv_json_print(root, stdout);
    json_decref(root);
}

static bool fit_all(const struct kv_args *args, struct kv_fit_file *f, const struct kv_settings *s,
                    const struct kv_model *m, struct kv_arena *a, struct kv_err *e)
{
    struct kv_fit_row *row = NULL;
    int n = 0;
    bool good = true;
    for (int i = 0; good && i < args->n_operands; i++) {
        int before = n;
        good = kv_fit_rows(args->operand[i], s, m, &f->source[f->n_sources++], &row, &n, a, e);
        if (good)
            keep_out(row, before, n, i, f->kept_out_share, f->seed);
    }
    good = good && kv_fit_solve(&f->fit, row, n, a, e);
    free(row);
    return good;
}

static bool check_error_asked(const struct kv_fit_file *f, double most, struct kv_err *e)
{
    return isinf(most) || f->kept_out_share > 0 ||
           kv_fail(e, KV_USAGE, "--max-error: no rows are kept out; give --holdout a share");
}

static bool run(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    struct kv_settings s;
    struct kv_model m = {0};
    struct kv_fit_file f = {.seed = 1, .source = KV_NEW_N(a, struct kv_fit_source, args->n_operands)};
    struct kv_table table;
    const char *output = kv_arg_text(args, "output", NULL);
    double most = INFINITY;
    kv_arg_count(args, "seed", 0, INT64_C(1) << 53, &f.seed, a, e);
    if (e->n || !read_share(args, "holdout", "20 %", &f.kept_out_share, a, e) ||
        !read_share(args, "max-error", NULL, &most, a, e) || !check_error_asked(&f, most, e) ||
        !read_settings(args, &s, &m, a, e) || !fit_all(args, &f, &s, &m, a, e))
        return false;
    f.model = m.name;
    fill_table(&table, &f.fit, a);
    if (output && !kv_fit_write(&f, output, a, e))
        return false;
    if (kv_arg_flag(args, "csv"))
        kv_table_csv(&table, stdout);
    else if (kv_arg_flag(args, "json"))
        print_json(&f, &table);
    else
        print_fit(&f, a);
    const struct kv_fit_error *out = &f.fit.out[KV_FIT_KINDS];
    return isinf(most) || (out->n && out->mean <= most) ||
           kv_fail(e, KV_NO, "the mean error on %d rows kept out is %.1f %%, more than %.1f %%", out->n,
                   100 * out->mean, 100 * most);
}

const struct kv_command kv_command_fit = {
    .name = "fit",
    .operands = "PROFILE...",
    .summary = "A model of a step's time from measured timings: coefficients, intervals, error on kept-out rows.",
    .about =
        "PROFILE is a table of 'kvengine profile', or a folder of measured tables that [timing] reads; several are\n"
        "fitted together. Tables of kernels and layers are asked for steps of many sizes, so the error beside the\n"
        "result is that of the formula, not that of the tables; whole passes are compared as measured.\n"
        "\n"
        "example: kvengine profile MODEL -o profile.csv && kvsim fit profile.csv -o timing.ini",
    .least = 1,
    .most = 64,
    .option = options,
    .n_options = sizeof options / sizeof *options,
    .run = run,
};
