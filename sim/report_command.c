/* SPDX-License-Identifier: GPL-3.0-or-later */
/* `kvsim report`: results as one page. */
#include "sim/cli.h"
#include "sim/output.h"
#include "sim/report.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const struct kv_option options[] = {
    {.name = "output",
     .letter = 'o',
     .value = "FILE",
     .help = "the page (default: report.html in the first RESULT; '-': standard output)"},
    {.name = "measured",
     .value = "RUN",
     .help = "of traffic: compare it with this measured run, as 'kvsim compare' does"},
    KV_OPTIONS_COMMON,
};

/* Only whole pages are written: the text is made before its file. */
static bool run(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    struct kv_report r = {
        .result = args->operand, .n = args->n_operands, .measured = kv_arg_text(args, "measured", NULL)};
    const char *first = args->operand[0];
    struct stat st;
    bool folder = !stat(first, &st) && S_ISDIR(st.st_mode);
    const char *path = kv_arg_text(args, "output", folder ? kv_format(a, "%s/report.html", first) : "report.html");
    char *text = NULL;
    size_t length = 0;
    struct kv_out out;
    FILE *page = open_memstream(&text, &length);
    KV_ASSERT(page);
    bool good = kv_report_write(&r, page, a, e);
    fclose(page);
    if (good && !strcmp(path, "-")) {
        fwrite(text, 1, length, stdout);
    } else if (good && (good = kv_out_open(&out, path, a, e))) {
        fwrite(text, 1, length, out.file);
        good = kv_out_close(&out, e);
        if (good)
            puts(path);
    }
    free(text);
    if (good && r.missing && !kv_arg_flag(args, "quiet"))
        fputs("kvsim: note: there is no gnuplot, so no pictures; install gnuplot-nox\n", stderr);
    return good;
}

const struct kv_command kv_command_report = {
    .name = "report",
    .operands = "RESULT...",
    .summary = "Results as one HTML page: verdict, tables, pictures, config and where it all comes from.",
    .about =
        "RESULT is what 'kvsim plot' draws. The page holds all that it shows: it opens without a network, and nothing\n"
        "in it is run. The same results give the same bytes.",
    .least = 1,
    .most = 64,
    .option = options,
    .n_options = sizeof options / sizeof *options,
    .run = run,
};
