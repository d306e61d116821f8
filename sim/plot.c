/* SPDX-License-Identifier: GPL-3.0-or-later */
/* `kvsim plot`: a result's folder in; for each plot its data, a gnuplot script that stands alone, and the pictures out.
 *
 * A script is a header of variables, from plot_data.c, before templates of plots/, which decide how things look. What a
 * user named (policies, models, devices) reaches gnuplot only as quoted strings of the header; no shell is involved. */
#include "sim/cli.h"
#include "sim/core/preset.h"
#include "sim/csv.h"
#include "sim/output.h"
#include "sim/plot.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FORMATS = 3 };
static const char *const format_names[FORMATS] = {"png", "svg", "pdf"};

/* What is asked for. */
struct request {
    const char *result, *folder; /* folder: of the plots */
    const char *measured;        /* a run beside the result, or NULL */
    bool kind[KV_PLOT_KINDS], format[FORMATS];
    enum kv_plot_result of;
    bool term, quiet, verbose; /* term: to standard output instead */
    bool silent;               /* nothing on standard output */
    const char *part;          /* what pictures end with while they are drawn */
    const char *facts;         /* variables that every script begins with */
    struct kv_arena *arena;
};

/* ---- gnuplot ---- */

/* A file without a name, which other programs open as /proc/self/fd/N: nothing of it is left behind. */
static FILE *nameless_file(struct kv_err *e)
{
    int fd = memfd_create("plot", 0);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "w+");
    if (!file)
        kv_fail(e, KV_ENV, "cannot make a file in memory: %s", strerror(errno));
    return file;
}

static void copy(FILE *from, FILE *to)
{
    for (int c; (c = getc(from)) != EOF;)
        fputc(c, to);
}

/* Runs a program found by PATH in FOLDER, without input. Its status, 128 + N when signal N ended it, or -1 with errno
 * when it cannot be run. */
static int run_program(const char *const *argv, const char *folder, FILE *out, FILE *said)
{
    posix_spawn_file_actions_t files;
    pid_t pid;
    int status;
    fflush(out);
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&files, fileno(out), STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&files, fileno(said), STDERR_FILENO);
    posix_spawn_file_actions_addchdir_np(&files, folder);
    setenv("LC_ALL", "C.UTF-8", 1); /* in a locale without letters gnuplot complains of a degree sign at each picture */
    errno = posix_spawnp(&pid, argv[0], &files, NULL, (char *const *)argv, environ);
    posix_spawn_file_actions_destroy(&files);
    if (errno)
        return -1;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -1;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* What gnuplot says is shown when it fails. *missing: there is no gnuplot. */
static bool run_gnuplot(const struct request *q, const char *script, FILE *out, bool *missing, struct kv_err *e)
{
    const char *set = kv_format(q->arena, "part = '%s'", q->part);
    const char *const argv[] = {"gnuplot", "-d", "-e", set, script, NULL};
    const char *folder = q->term ? "." : q->folder;
    FILE *said = nameless_file(e);
    if (!said)
        return false;
    if (q->verbose)
        fprintf(stderr, "kvsim: in '%s': gnuplot %s\n", folder, script);
    int status = run_program(argv, folder, out, said), why = errno;
    *missing = status < 0 && why == ENOENT;
    rewind(said);
    if (status > 0 || q->verbose)
        copy(said, stderr);
    fclose(said);
    if (status < 0 && !*missing)
        return kv_fail(e, KV_ENV, "cannot run gnuplot: %s", strerror(why));
    return status <= 0 || kv_fail(e, KV_ENV, "gnuplot failed on '%s' in '%s' with status %d; what it said stands above",
                                  script, folder, status);
}

static bool add_template(FILE *out, const char *path, struct kv_err *e)
{
    FILE *in = fopen(path, "r");
    if (!in)
        return kv_fail(e, KV_ENV, "cannot open the plot template '%s': %s", path, strerror(errno));
    fputc('\n', out);
    copy(in, out);
    fclose(in);
    return true;
}

/* The script of a plot: variables, then templates. NULL when there are no templates. */
static const char *make_script(const struct request *q, const struct kv_plot *p, const char *data, struct kv_err *e)
{
    const char *folder = kv_data_folder(q->arena, e);
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    KV_ASSERT(out);
    fprintf(out,
            "# Written by 'kvsim plot', which replaces it when it is run again; keep changes under another name.\n"
            "# 'gnuplot %s.gp' in this folder draws it again.\n\n",
            p->kind->name);
    kv_plot_put_variables(out, p, data, q->facts);
    bool good = folder != NULL;
    for (int i = 0; good && p->kind->part[i]; i++)
        good = add_template(out, kv_format(q->arena, "%s/plots/%s.gp", folder, p->kind->part[i]), e);
    fclose(out);
    const char *script = good ? kv_copy_text(q->arena, text) : NULL;
    free(text);
    return script;
}

/* Cairo writes the time of day into a PDF; the same result must give the same bytes. */
static void forget_time(const char *path)
{
    static const char key[] = "/CreationDate (D:";
    FILE *file = fopen(path, "r+");
    size_t matched = 0;
    for (int c; file && matched < sizeof key - 1 && (c = getc(file)) != EOF;)
        matched = c == key[matched] ? matched + 1 : c == key[0];
    if (file && matched == sizeof key - 1 && !fseek(file, 0, SEEK_CUR)) /* between reading and writing */
        fputs("20000101000000", file);
    if (file)
        fclose(file);
}

/* Puts the pictures gnuplot drew beside their places into them. */
static bool keep_pictures(const struct request *q, const char *base, bool good, struct kv_err *e)
{
    for (int f = 0; f < FORMATS; f++) {
        const char *path = kv_format(q->arena, "%s%s", base, format_names[f]);
        const char *part = kv_format(q->arena, "%s%s", path, q->part);
        if (!q->format[f])
            continue;
        if (good && !strcmp(format_names[f], "pdf"))
            forget_time(part);
        if (good && rename(part, path))
            good = kv_fail(e, KV_ENV, "cannot write '%s': %s", path, strerror(errno));
        if (!good)
            unlink(part);
        else if (!q->silent)
            puts(path);
    }
    return good;
}

static bool draw_files(const struct request *q, const struct kv_plot *p, bool *missing, struct kv_err *e)
{
    struct kv_out out;
    const char *base = kv_format(q->arena, "%s/%s.", q->folder, p->kind->name);
    const char *script = make_script(q, p, kv_format(q->arena, "%s.csv", p->kind->name), e);
    if (!script || !kv_out_open(&out, kv_format(q->arena, "%sgp", base), q->arena, e))
        return false;
    fputs(script, out.file);
    if (!kv_out_close(&out, e) || !kv_out_open(&out, kv_format(q->arena, "%scsv", base), q->arena, e))
        return false;
    kv_plot_put_data(out.file, p);
    if (!kv_out_close(&out, e))
        return false;
    bool good = *missing || run_gnuplot(q, kv_format(q->arena, "%s.gp", p->kind->name), stdout, missing, e);
    if (*missing && !q->silent)
        printf("gnuplot %s.gp\n", p->kind->name);
    return *missing || keep_pictures(q, base, good, e);
}

static bool draw_term(const struct request *q, const struct kv_plot *p, struct kv_err *e)
{
    FILE *file[3] = {NULL}, **data = &file[0], **script = &file[1], **drawn = &file[2];
    bool good = true, missing = false;
    for (int i = 0; i < 3 && good; i++)
        good = (file[i] = nameless_file(e)) != NULL;
    const char *path = "/proc/self/fd/%d";
    const char *text = good ? make_script(q, p, kv_format(q->arena, path, fileno(*data)), e) : NULL;
    if (text) {
        kv_plot_put_data(*data, p);
        fputs(text, *script);
        good = !fflush(*data) && !fflush(*script);
        good = good && run_gnuplot(q, kv_format(q->arena, path, fileno(*script)), *drawn, &missing, e);
        rewind(*drawn);
        for (int c; good && (c = getc(*drawn)) != EOF;)
            if (c != '\f') /* which gnuplot begins each picture with */
                putchar(c);
    }
    for (int i = 0; i < 3; i++)
        if (file[i])
            fclose(file[i]);
    if (missing)
        return kv_fail(e, KV_ENV, "--term needs gnuplot, and there is none; install gnuplot-nox");
    return text && good;
}

/* ---- the command ---- */

static const struct kv_option options[] = {
    {.name = "plots",
     .value = "LIST",
     .help =
         "of a plan: memory, entries, chunk, bars, pages (default: its [report] plots); of traffic: memory, latency, "
         "pareto, clocks; with --measured: measured, curves; of a sweep: rate; of scores: critical; of a replay: "
         "heads, heads_mass, mass, pages, timeline (default: all)"},
    {.name = "measured",
     .value = "RUN",
     .help = "of traffic: draw it against this measured run (what 'kvsim compare' reads), each request and over time"},
    {.name = "format", .value = "LIST", .help = "of png, svg, pdf (default: [report] formats of the result)"},
    {.name = "output", .letter = 'o', .value = "DIR", .help = "folder for the plots (default: RESULT/plots)"},
    {.name = "term", .help = "draw with letters on standard output, and write no files"},
    KV_OPTIONS_COMMON,
};

/* Marks the names of a comma-separated list. `where` begins the message about one that is not known. */
static bool choose(const char *list, const char *where, const char *const *names, int n, bool *chosen,
                   struct kv_arena *a, struct kv_err *e)
{
    const char *all = "";
    bool any = false;
    for (int i = 0; i < n; i++)
        all = kv_format(a, "%s%s%s", all, i ? ", " : "", names[i]);
    for (size_t length; *(list += strspn(list, ", \t")); list += length) {
        length = strcspn(list, ", \t");
        const char *word = kv_copy_part(a, list, length), *near = kv_nearest(word, names, n);
        int i = 0;
        while (i < n && strcmp(word, names[i]))
            i++;
        if (i == n)
            return near ? kv_fail(e, KV_USAGE, "%s: '%s' is not known; did you mean '%s'?", where, word, near)
                        : kv_fail(e, KV_USAGE, "%s: '%s' is none of %s", where, word, all);
        any = chosen[i] = true;
    }
    return any || kv_fail(e, KV_USAGE, "%s: the list is empty; choose of %s", where, all);
}

/* What the command line says, else the config of the result. *device: its full name there, or NULL. */
static bool read_choices(struct request *q, const struct kv_args *args, const char **device, struct kv_err *e)
{
    const char *path = kv_format(q->arena, "%s/config.resolved.ini", q->result), *kind_names[KV_PLOT_KINDS];
    const struct kv_setting *set[3] = {NULL};
    static const char *const keys[3][3] = {
        {"report", "plots", "plots"}, {"report", "formats", "format"}, {"hardware", "title"}};
    struct kv_err passed = {0}; /* what else is wrong with the file does not matter here */
    struct kv_ini ini;
    kv_ini_read(path, &ini, q->arena, &passed);
    for (int k = 0; k < 3; k++) {
        const struct kv_ini_section *s = kv_ini_find(&ini, keys[k][0]);
        for (int i = 0; s && i < s->n; i++)
            set[k] = !strcmp(s->setting[i].key, keys[k][1]) ? &s->setting[i] : set[k];
    }
    *device = set[2] ? set[2]->value : NULL;
    const char *all = "";
    int from = 0, n = 0;
    while (kv_plot_kinds[from].of != q->of)
        from++;
    for (; from + n < KV_PLOT_KINDS && kv_plot_kinds[from + n].of == q->of; n++) {
        kind_names[n] = kv_plot_kinds[from + n].name;
        all = kv_format(q->arena, "%s%s%s", all, n ? ", " : "", kind_names[n]);
    }
    for (int k = 0; k < 2; k++) {
        const char *otherwise = k ? "png" : all;
        const char *given = args ? kv_arg_text(args, keys[k][2], NULL) : k ? "svg" : NULL;
        if (!k && q->of != KV_PLOT_PLAN)
            set[k] = NULL; /* the config's list is of other plots */
        const char *where = given    ? kv_format(q->arena, "--%s", keys[k][2])
                            : set[k] ? kv_format(q->arena, "%s %s", set[k]->where, keys[k][1])
                                     : keys[k][1];
        if (!choose(given    ? given
                    : set[k] ? set[k]->value
                             : otherwise,
                    where, k ? format_names : kind_names, k ? FORMATS : n, k ? q->format : &q->kind[from], q->arena, e))
            return false;
    }
    return true;
}

/* Without any, gnuplot draws pictures without letters and says nothing. */
static bool warn_without_fonts(struct kv_err *e)
{
    const char *const argv[] = {"fc-list", NULL};
    FILE *list = nameless_file(e);
    if (!list)
        return false;
    int status = run_program(argv, ".", list, list);
    rewind(list);
    if (status || getc(list) == EOF)
        fputs("kvsim: warning: fc-list finds no fonts, so pictures may be without text; install fonts-dejavu-core\n",
              stderr);
    fclose(list);
    return true;
}

static bool put_facts(const struct request *q, FILE *out, const char *device, struct kv_err *e)
{
    switch (q->of) {
    case KV_PLOT_PLAN:
        return kv_plot_put_facts(out, q->result, device, q->arena, e);
    case KV_PLOT_REPLAY:
        return kv_plot_put_replay_facts(out, q->result, q->arena, e);
    case KV_PLOT_TRAFFIC:
    case KV_PLOT_MEASURED:
        return kv_plot_put_traffic_facts(out, q->result, device, q->arena, e);
    case KV_PLOT_CRITICAL:
    case KV_PLOT_SWEEP:
        break;
    }
    return true;
}

/* What titles say, and the size of a terminal. */
static bool make_facts(struct request *q, const char *device, struct kv_err *e)
{
    char *text = NULL;
    size_t length = 0;
    struct winsize size = {0};
    const char *columns = getenv("COLUMNS"), *plain = getenv("NO_COLOR");
    FILE *out = open_memstream(&text, &length);
    KV_ASSERT(out);
    bool good = put_facts(q, out, device, e);
    if (q->term) {
        bool tty = isatty(STDOUT_FILENO);
        bool known = tty && !ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
        long wide = columns ? strtol(columns, NULL, 10) : known ? size.ws_col : 0;
        fprintf(out, "formats = 'dumb'\ncolumns = %ld\nrows = 30\nansi = %d\n", wide >= 60 && wide <= 1000 ? wide : 100,
                tty && !(plain && *plain));
    } else {
        fputs("if (!exists('part')) part = ''\nif (!exists('formats')) formats = '", out);
        for (int f = 0; f < FORMATS; f++)
            fputs(q->format[f] ? kv_format(q->arena, "%s ", format_names[f]) : "", out);
        fputs("'\n", out);
    }
    fclose(out);
    q->facts = kv_copy_text(q->arena, text);
    free(text);
    return good;
}

/* Whether the header of a CSV names this column. */
static bool has_column(const char *path, const char *column, struct kv_arena *a)
{
    struct kv_err ignored = {0};
    struct kv_csv in;
    if (!kv_csv_open(&in, path, a, &ignored))
        return false;
    bool has = kv_csv_column(&in, column) >= 0;
    kv_csv_close(&in);
    return has;
}

/* Plans and replays both have policies.csv; only a replay says what it kept of heads, only traffic how long requests
 * took. *result becomes the file itself of a sweep. */
bool kv_plot_is_result(const char **result, enum kv_plot_result *of, const char *verb, struct kv_arena *a,
                       struct kv_err *e)
{
    static const char *const what = "make one with 'kvsim plan CONFIG -o DIR'";
    const char *path = *result, *sweep = kv_format(a, "%s/sweep.csv", path);
    struct stat st;
    if (stat(path, &st))
        return kv_fail(e, KV_DATA, "cannot %s '%s': %s; %s", verb, path, strerror(errno), what);
    if (!S_ISDIR(st.st_mode) && !has_column(path, "workload.rate", a))
        return kv_fail(e, KV_DATA, "cannot %s '%s': it is no folder of results; %s", verb, path, what);
    bool plan = !access(kv_format(a, "%s/policies.csv", path), F_OK);
    bool critical = !plan && !access(kv_format(a, "%s/critical.csv", path), F_OK);
    bool replay = plan && !access(kv_format(a, "%s/heads.csv", path), F_OK);
    bool traffic = plan && !replay && has_column(kv_format(a, "%s/requests.csv", path), "e2e_s", a);
    bool swept = !S_ISDIR(st.st_mode) || (!plan && !critical && !access(sweep, F_OK));
    *of = critical  ? KV_PLOT_CRITICAL
          : replay  ? KV_PLOT_REPLAY
          : traffic ? KV_PLOT_TRAFFIC
          : swept   ? KV_PLOT_SWEEP
                    : KV_PLOT_PLAN;
    *result = swept && S_ISDIR(st.st_mode) ? sweep : path;
    return plan || critical || swept ||
           kv_fail(e, KV_DATA, "cannot %s '%s': there is no policies.csv in it; %s", verb, path, what);
}

/* Pictures beside what they show: in a result's folder, or in that of a sweep's file. */
static const char *default_folder(const struct request *q)
{
    const char *slash = strrchr(q->result, '/');
    if (q->of != KV_PLOT_SWEEP)
        return kv_format(q->arena, "%s/plots", q->result);
    return slash ? kv_format(q->arena, "%.*s/plots", (int)(slash - q->result), q->result) : "plots";
}

static bool make_folder(const struct request *q, struct kv_err *e)
{
    struct kv_out out;
    if (!kv_result_folder(q->folder, q->arena, e))
        return false;
    FILE *in = fopen(kv_format(q->arena, "%s/provenance.json", q->result), "r");
    bool good = kv_out_open(&out, kv_format(q->arena, "%s/provenance.json", q->folder), q->arena, e);
    if (good && in)
        copy(in, out.file);
    else if (good)
        fputs("{\n  \"program\": \"kvsim\"\n}\n", out.file);
    if (in)
        fclose(in);
    return good && kv_out_close(&out, e);
}

static void say_what_is_left_out(const struct request *q, const struct kv_plot *p)
{
    const char *name = p->kind->name, *file = p->kind->file;
    if (p->note)
        fprintf(stderr, "kvsim: warning: plot '%s' %s\n", name, p->note);
    if (p->nothing)
        fprintf(stderr, "kvsim: warning: no plot '%s': %s\n", name, p->nothing);
    else if (!p->n)
        fprintf(stderr, "kvsim: warning: no plot '%s': %s/%s has no rows\n", name, q->result, file);
    if (p->cut)
        fprintf(stderr, "kvsim: warning: plot '%s' shows the first %d of the policies and %s of %s/%s\n", name,
                KV_PLOT_MOST_SERIES, q->of == KV_PLOT_CRITICAL ? "tasks" : "chunks", q->result, file);
}

static bool draw_all(const struct request *q, struct kv_err *e)
{
    bool missing = false;
    int drawn = 0;
    const char *why = kv_format(q->arena, "'%s' holds no rows%s", q->result,
                                q->of == KV_PLOT_PLAN ? ", as when a model leaves no memory for KV" : "");
    struct kv_plot *plot = KV_NEW_N(q->arena, struct kv_plot, KV_PLOT_KINDS);
    for (int i = 0; i < KV_PLOT_KINDS; i++)
        if (q->kind[i] && !kv_plot_read(&plot[i], &kv_plot_kinds[i], q->result, q->measured, q->arena, e))
            return false;
    for (int i = 0; i < KV_PLOT_KINDS; i++) {
        drawn += plot[i].n > 0;
        why = plot[i].nothing ? plot[i].nothing : why;
    }
    if (!drawn)
        return kv_fail(e, KV_NO, "nothing to draw: %s", why);
    for (int i = 0; i < KV_PLOT_KINDS && !q->quiet; i++)
        if (q->kind[i])
            say_what_is_left_out(q, &plot[i]);
    if (!q->term && !make_folder(q, e))
        return false;
    for (int i = 0; i < KV_PLOT_KINDS; i++)
        if (plot[i].n && !(q->term ? draw_term(q, &plot[i], e) : draw_files(q, &plot[i], &missing, e)))
            return false;
    if (missing && !q->quiet)
        fprintf(stderr,
                "kvsim: note: there is no gnuplot, so no pictures; install gnuplot-nox, then run these scripts "
                "in '%s'\n",
                q->folder);
    return q->term || missing || q->quiet || warn_without_fonts(e);
}

static void open_request(struct request *q, const char *result, struct kv_arena *a)
{
    char *path = kv_copy_text(a, result);
    for (size_t n = strlen(path); n > 1 && path[n - 1] == '/';)
        path[--n] = '\0';
    *q = (struct request){.result = path, .part = kv_format(a, ".%ld.part", (long)getpid()), .arena = a};
    setenv("TZ", "UTC0", 1); /* cairo's dates: see forget_time() */
}

/* A measured run makes plots of its own of a result. */
static bool set_measured(struct request *q, const char *measured, struct kv_err *e)
{
    q->measured = measured;
    if (measured && q->of != KV_PLOT_TRAFFIC)
        return kv_fail(e, KV_USAGE, "--measured: '%s' is no result of traffic, so it has no times to compare",
                       q->result);
    q->of = measured ? KV_PLOT_MEASURED : q->of;
    return true;
}

static bool run(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    struct request q;
    const char *device = NULL;
    bool format = kv_arg_flag(args, "format");
    open_request(&q, args->operand[0], a);
    q.term = kv_arg_flag(args, "term");
    q.quiet = kv_arg_flag(args, "quiet");
    q.verbose = kv_arg_flag(args, "verbose");
    if (q.term && (format || kv_arg_flag(args, "output")))
        return kv_fail(e, KV_USAGE, "--term writes no files; leave out --%s", format ? "format" : "output");
    if (!kv_plot_is_result(&q.result, &q.of, "plot", a, e) || !set_measured(&q, kv_arg_text(args, "measured", NULL), e))
        return false;
    q.folder = kv_arg_text(args, "output", default_folder(&q));
    return read_choices(&q, args, &device, e) && make_facts(&q, device, e) && draw_all(&q, e);
}

/* Whether q's plots were drawn; nothing to draw, KV_NO, is no failure here. */
static bool draw_silently(struct request *q, struct kv_err *e)
{
    const char *device = NULL;
    if (!read_choices(q, NULL, &device, e) || !make_facts(q, device, e))
        return false;
    bool drawn = draw_all(q, e);
    if (!drawn && e->status == KV_NO)
        *e = (struct kv_err){0};
    return drawn || !e->n;
}

bool kv_plot_draw(struct kv_drawn *d, const char *result, const char *measured, const char *folder, struct kv_arena *a,
                  struct kv_err *e)
{
    struct request q;
    open_request(&q, result, a);
    q.folder = folder;
    q.quiet = q.silent = true;
    *d = (struct kv_drawn){0};
    if (!kv_plot_is_result(&q.result, &q.of, "draw", a, e) || !draw_silently(&q, e))
        return false;
    d->of = q.of;
    if (measured) {
        memset(q.kind, 0, sizeof q.kind);
        if (!set_measured(&q, measured, e) || !draw_silently(&q, e))
            return false;
    }
    for (int i = 0; i < KV_PLOT_KINDS; i++) {
        const char *name = kv_plot_kinds[i].name, *path = kv_format(a, "%s/%s.", folder, name);
        bool mine = kv_plot_kinds[i].of == d->of || (measured && kv_plot_kinds[i].of == KV_PLOT_MEASURED);
        if (mine && !access(kv_format(a, "%ssvg", path), F_OK))
            d->name[d->n++] = name;
        d->missing |= mine && !access(kv_format(a, "%sgp", path), F_OK) && access(kv_format(a, "%ssvg", path), F_OK);
    }
    return true;
}

const struct kv_command kv_command_plot = {
    .name = "plot",
    .operands = "RESULT",
    .summary = "Draws a result: RESULT/plots gets the pictures, and for each its gnuplot script and data.",
    .about =
        "RESULT is a folder made by 'kvsim plan CONFIG -o RESULT', 'kvsim replay TRACE -o RESULT' or 'kvsim critical\n"
        "SCORES.csv -o RESULT', or a sweep's CSV with a column workload.rate. To draw again after a change: 'gnuplot\n"
        "NAME.gp' in the folder of the plots.",
    .least = 1,
    .most = 1,
    .option = options,
    .n_options = sizeof options / sizeof *options,
    .run = run,
};
