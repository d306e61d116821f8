/* SPDX-License-Identifier: GPL-3.0-or-later */
/* `kvsim plot`: a plan's folder in; for each plot its data, a gnuplot script that stands alone, and the pictures out.
 *
 * A script is a header of variables, written here, before templates of plots/, which decide how things look. What a
 * user named (policies, models, devices) reaches gnuplot only as quoted strings of the header; no shell is involved. */
#include "sim/cli.h"
#include "sim/core/preset.h"
#include "sim/core/units.h"
#include "sim/csv.h"
#include "sim/output.h"
#include "sim/table.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Beyond MOST_SERIES policies and chunks nobody reads a picture. */
enum { MOST_SERIES = 240, MOST_COLUMNS = 8, NAME_LETTERS = 44, TITLE_LETTERS = 40, KINDS = 4, FORMATS = 3 };
static const char *const format_names[FORMATS] = {"png", "svg", "pdf"};

/* One of the plots. */
struct kind {
    const char *name;
    const char *part[4];            /* templates of plots/, in this order */
    const char *file;               /* of the result */
    const struct kv_column *column; /* of the plot's data: line and chunk first, policy last */
    int n_columns;
    const char *const *source[2];   /* the file's names of columns 1 .., if not the same; two lists: a row gives two */
    bool by_chunk, by_row;          /* what starts a series besides another policy */
};

/* Rows first .. last of a plot's data that belong together: a policy at a chunk, a policy, or a single row. */
struct series {
    const char *policy;
    int64_t line, chunk, first, last; /* line: counts the policies from 1 */
    bool evicts, alone;               /* alone: its policy has no other series */
};

/* A plot being made. */
struct plot {
    const struct kind *kind;
    struct kv_table table;
    struct series *series;
    int n, n_lines;
    bool cut; /* the file has more */
    struct kv_arena *arena;
};

/* ---- the plots ---- */

/* The policy comes last: gnuplot does not know doubled quotes, and counts the cells behind such a name wrongly. */
static const struct kv_column memory_columns[] = {
    {"line", NULL, KV_CELL_COUNT},    {"chunk_tokens", NULL, KV_CELL_COUNT}, {"seen_tokens", NULL, KV_CELL_COUNT},
    {"entries", NULL, KV_CELL_COUNT}, {"bytes", NULL, KV_CELL_BYTES},        {"policy", NULL, KV_CELL_TEXT},
};
static const struct kv_column chunk_columns[] = {
    {"line", NULL, KV_CELL_COUNT},
    {"chunk_tokens", NULL, KV_CELL_COUNT},
    {"kv_footprint_paper", NULL, KV_CELL_REAL},
    {"kv_footprint_actual", NULL, KV_CELL_REAL},
    {"policy", NULL, KV_CELL_TEXT},
};
static const struct kv_column bars_columns[] = {
    {"row", NULL, KV_CELL_COUNT},
    {"chunk_tokens", NULL, KV_CELL_COUNT},
    {"kv_footprint_paper", NULL, KV_CELL_REAL},
    {"kv_footprint_actual", NULL, KV_CELL_REAL},
    {"kv_peak_actual", NULL, KV_CELL_REAL},
    {"policy", NULL, KV_CELL_TEXT},
};
static const struct kv_column pages_columns[] = {
    {"row", NULL, KV_CELL_COUNT},
    {"chunk_tokens", NULL, KV_CELL_COUNT},
    {"held_peak_bytes", NULL, KV_CELL_BYTES},
    {"per_head_peak_bytes", NULL, KV_CELL_BYTES},
    {"per_layer_peak_bytes", NULL, KV_CELL_BYTES},
    {"shared_peak_bytes", NULL, KV_CELL_BYTES},
    {"policy", NULL, KV_CELL_TEXT},
};
static const char *const in_pass[] = {"chunk_tokens", "seen_tokens", "entries_in_pass", "in_pass_bytes", "policy"};
static const char *const at_end[] = {"chunk_tokens", "seen_tokens", "entries_end", "end_bytes", "policy"};

#define COLUMNS(name) .column = name##_columns, .n_columns = sizeof name##_columns / sizeof *name##_columns
static const struct kind kinds[KINDS] = {
    {"memory", {"common", "memory"}, "timeline.csv", COLUMNS(memory), {in_pass, at_end}, .by_chunk = true},
    {"chunk", {"common", "chunk"}, "chunks.csv", COLUMNS(chunk)},
    {"bars", {"common", "bars", "groups"}, "policies.csv", COLUMNS(bars), .by_row = true},
    {"pages", {"common", "pages", "groups"}, "policies.csv", COLUMNS(pages), .by_row = true},
};

/* ---- text and numbers for gnuplot ---- */

/* Characters begin where no UTF-8 continuation does. */
static int letters(const char *text)
{
    int n = 0;
    for (; *text; text++)
        n += (*text & 0xC0) != 0x80;
    return n;
}

/* At most `most` letters of a text, with '?' for what cannot be drawn: controls, what is no UTF-8, and letters DejaVu
 * Sans lacks, for gnuplot fills the whole picture with the box that stands for such a letter. */
static const char *printable(const char *text, int most, struct kv_arena *a)
{
    static const unsigned drawn[][2] = {{0x20, 0x7E},     {0xA0, 0x2E9},    {0x384, 0x525},   {0x1E00, 0x1EFB},
                                        {0x2010, 0x2027}, {0x2030, 0x2052}, {0x2190, 0x2311}};
    json_t *valid = json_string(text); /* NULL when it is no UTF-8 */
    char *clean = kv_alloc(a, strlen(text) + 4), *out = clean, *cut = clean;
    int n = 0;
    for (int length; *text && n <= most; text += length, n++) {
        unsigned c = (unsigned char)*text;
        bool good = false;
        length = !valid || c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
        c = c < 0x80 ? c : length == 1 ? 0 : c & (0x7Fu >> length);
        for (int i = 1; i < length; i++)
            c = c << 6 | ((unsigned char)text[i] & 0x3F);
        for (size_t i = 0; i < sizeof drawn / sizeof *drawn; i++)
            good |= c >= drawn[i][0] && c <= drawn[i][1];
        cut = n == most - 3 ? out : cut;
        memcpy(out, good ? text : "?", good ? (size_t)length : 1);
        out += good ? length : 1;
    }
    if (n > most)
        memcpy(cut, "...", 4);
    json_decref(valid);
    return clean;
}

/* NAME = 'TEXT'. Within single quotes gnuplot takes all but the quote itself as it stands: `, $, \ and @ too. A quote is
 * added from a variable, for the doubled one of gnuplot's manual ends the string when it comes first in it. */
static void put_text(FILE *out, const char *name, const char *text)
{
    fprintf(out, "%s = '", name);
    for (; *text; text++)
        fprintf(out, *text == '\'' ? "' . quote . '" : "%c", *text);
    fputs("'\n", out);
}

static void put_whole(FILE *out, const char *name, int64_t value)
{
    fprintf(out, "%s = %lld\n", name, (long long)value);
}

/* ---- rows of a result ---- */

/* Binds columns of a file by name; each missing one is said. */
static bool bind(const struct kv_csv *c, const char *const *names, int n, int *column, struct kv_err *e)
{
    bool good = true;
    for (int i = 0; i < n; i++) {
        column[i] = kv_csv_column(c, names[i]);
        if (column[i] < 0)
            good = kv_fail(e, KV_DATA, "%s:1: no column '%s'; it is no file of 'kvsim plan'", c->path, names[i]);
    }
    return good;
}

/* The next row that is well formed; false at the end. Every other row is said. */
static bool next_row(struct kv_csv *c, struct kv_err *e)
{
    enum kv_next next;
    do
        next = kv_csv_next(c, e);
    while (next == KV_NEXT_BAD && e->n <= KV_ERR_LINES);
    return next == KV_NEXT_ROW;
}

/* A cell as its kind says; an empty one stays unknown. Shares may pass 1: metadata can hold more than a full cache. */
static bool copy_cell(const struct kv_csv *in, int from, struct kv_cell *cell, enum kv_cell_kind kind,
                      struct kv_arena *a, struct kv_err *e)
{
    const char *text = in->cell[from];
    char *end;
    if (kind == KV_CELL_TEXT)
        cell->text = kv_copy_text(a, text);
    else if (kind != KV_CELL_REAL)
        return !*text || kv_csv_count(in, from, 0, INT64_MAX, &cell->whole, e);
    else if (*text) {
        cell->real = strtod(text, &end);
        if (end == text || *end || !isfinite(cell->real) || cell->real < 0)
            return kv_csv_fail(in, from, e, "is no number of at least 0");
    }
    return true;
}

/* The series a row belongs to, a new one when need be; NULL when there are too many. */
static struct series *series_of(struct plot *p, const struct kv_cell *row)
{
    const char *policy = row[p->kind->n_columns - 1].text;
    int64_t chunk = row[1].whole, at = p->table.n_rows;
    KV_ASSERT(policy);
    if (p->n && !p->kind->by_row) {
        struct series *last = &p->series[p->n - 1];
        if (!strcmp(last->policy, policy) && (!p->kind->by_chunk || last->chunk == chunk))
            return last;
    }
    if (p->n == MOST_SERIES)
        return NULL;
    p->series[p->n] = (struct series){.policy = policy, .chunk = chunk, .first = at, .last = at};
    return &p->series[p->n++];
}

/* A row of the file becomes one of the data; false when it has no room. A pass becomes two at its last token: what is
 * held within it, and at its end, when what was evicted is gone; before its first pass a request holds nothing. */
static bool add_row(struct plot *p, const struct kv_csv *in, int column[2][MOST_COLUMNS], struct kv_err *e)
{
    int n = p->kind->n_columns, times = p->kind->source[1] ? 2 : 1, errors = e->n, before = p->n;
    struct kv_cell cell[2][MOST_COLUMNS] = {{{0}}};
    for (int m = 0; m < times; m++)
        for (int i = 1; i < n; i++) {
            cell[m][i] = m ? cell[0][i] : (struct kv_cell){.whole = -1, .real = NAN};
            if (!m || column[1][i] != column[0][i])
                copy_cell(in, column[m][i], &cell[m][i], p->table.column[i].kind, p->arena, e);
        }
    bool known = false;
    for (int i = 2; i < n - 1; i++)
        known |= cell[0][i].whole >= 0 || !isnan(cell[0][i].real);
    if (e->n > errors || !known) /* a mistake, or a policy that could not be counted: on to the next */
        return true;
    struct series *s = series_of(p, cell[0]);
    if (!s) {
        p->cut = true;
        return false;
    }
    for (int m = times == 2 && p->n > before ? -1 : 0; m < times; m++) {
        struct kv_cell *row = kv_table_row(&p->table);
        memcpy(&row[1], &cell[m < 0 ? 0 : m][1], sizeof *row * (size_t)(n - 1));
        for (int i = 2; i < n && m < 0; i++)
            row[i].whole = 0;
    }
    s->last = p->table.n_rows - 1;
    for (int i = 2; i < n - 1 && times == 2; i++)
        s->evicts |= cell[0][i].whole != cell[1][i].whole;
    return true;
}

static void number_lines(struct plot *p)
{
    for (struct series *s = p->series; s < p->series + p->n; s++) {
        s->alone = true;
        for (const struct series *other = p->series; other < p->series + p->n; other++)
            if (other != s && !strcmp(other->policy, s->policy)) {
                s->alone = false;
                s->line = other < s ? other->line : s->line;
            }
        s->line = s->line ? s->line : ++p->n_lines;
        for (int64_t r = s->first; r <= s->last; r++)
            p->table.cell[r * p->table.n_columns].whole = p->kind->by_row ? s - p->series + 1 : s->line;
    }
}

/* Reads what a plot draws; every mistake in the file is said. */
static bool read_rows(struct plot *p, const struct kind *kind, const char *result, struct kv_arena *a, struct kv_err *e)
{
    struct kv_csv in;
    const char *names[MOST_COLUMNS] = {NULL};
    int column[2][MOST_COLUMNS] = {{0}};
    *p = (struct plot){.kind = kind, .series = KV_NEW_N(a, struct series, MOST_SERIES), .arena = a};
    kv_table_open(&p->table, kind->column, kind->n_columns, a);
    if (!kv_csv_open(&in, kv_format(a, "%s/%s", result, kind->file), a, e))
        return false;
    for (int i = 1; i < kind->n_columns; i++)
        names[i] = kind->column[i].key;
    bool good = bind(&in, kind->source[0] ? kind->source[0] : &names[1], kind->n_columns - 1, &column[0][1], e) &&
                (!kind->source[1] || bind(&in, kind->source[1], kind->n_columns - 1, &column[1][1], e));
    while (good && next_row(&in, e) && add_row(p, &in, column, e))
        ;
    kv_csv_close(&in);
    number_lines(p);
    return !e->n;
}

/* ---- variables of a script ---- */

/* The names of the lines, for people, and how long the longest is. */
static void put_names(FILE *out, const struct plot *p)
{
    int longest = 0, done = 0, n = p->kind->by_row ? p->n : p->n_lines;
    bool chunks = false;
    for (int i = 1; i < p->n; i++)
        chunks |= p->kind->by_row && p->series[i].chunk != p->series[0].chunk;
    fprintf(out, "lines = %d\narray name[%d]\n", n, n);
    for (int i = 0; i < p->n; i++) {
        const struct series *s = &p->series[i];
        char number[KV_NUMBER_TEXT];
        const char *name = printable(s->policy, NAME_LETTERS, p->arena);
        if (!p->kind->by_row && s->line <= done)
            continue;
        if (chunks)
            name = kv_format(p->arena, "%s, chunk %s", name, kv_print_count(number, s->chunk));
        longest = letters(name) > longest ? letters(name) : longest;
        put_text(out, kv_format(p->arena, "name[%d]", ++done), name);
    }
    put_whole(out, "letters", longest);
    put_whole(out, "one_chunk", chunks ? 0 : p->series[0].chunk);
}

/* The series. What evicts nothing and was counted once is the same at every chunk. */
static void put_series(FILE *out, const struct plot *p)
{
    static const char *const names[] = {"line_of", "chunk_of", "first", "last", "same"};
    put_whole(out, "series", p->n);
    for (int k = 0; k < 5; k++) {
        fprintf(out, "array %s[%d] = [", names[k], p->n);
        for (const struct series *s = p->series; s < p->series + p->n; s++) {
            int64_t value[] = {s->line, s->chunk, s->first, s->last, !s->evicts && s->alone};
            fprintf(out, "%s%lld", s > p->series ? ", " : "", (long long)value[k]);
        }
        fputs("]\n", out);
    }
}

/* What titles say of the result, under the names of summary.json; `device` has a fuller name than it, or is NULL. */
static bool put_summary(FILE *out, const char *result, const char *device, struct kv_arena *a, struct kv_err *e)
{
    static const char *const keys[] = {"kv_pool_bytes", "kv_pool_origin", "model",      "device",     "kv_cache_dtype",
                                       "layout",        "block_size",     "compaction", "concurrency"};
    const char *path = kv_format(a, "%s/summary.json", result);
    json_error_t bad;
    FILE *in = fopen(path, "r");
    if (!in)
        return kv_fail(e, KV_DATA, "cannot open '%s': %s", path, strerror(errno));
    json_t *root = json_loadf(in, 0, &bad);
    fclose(in);
    if (!root)
        return kv_fail(e, KV_DATA, "%s:%d:%d: %s", path, bad.line, bad.column, bad.text);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json_t *value = json_object_get(i < 2 ? json_object_get(root, "memory") : root, keys[i]);
        const char *text = device && !strcmp(keys[i], "device") ? device : json_string_value(value);
        if (text)
            put_text(out, keys[i], printable(text, TITLE_LETTERS, a));
        else if (json_is_integer(value) || json_is_boolean(value))
            put_whole(out, keys[i], json_is_true(value) ? 1 : json_integer_value(value));
        else
            kv_fail(e, KV_DATA, "%s: no '%s'; it is no summary of 'kvsim plan'", path, keys[i]);
    }
    json_decref(root);
    return !e->n;
}

/* How many requests there are, and the one with the most tokens, which timeline.csv and chunks.csv are about. */
static bool put_requests(FILE *out, const char *result, struct kv_arena *a, struct kv_err *e)
{
    static const char *const names[] = {"prompt_tokens", "output_tokens"};
    enum { MOST_TOKENS = 1 << 30 };
    int64_t n = 0, longest[2] = {0}, v[2];
    int column[2];
    struct kv_csv in;
    if (!kv_csv_open(&in, kv_format(a, "%s/requests.csv", result), a, e))
        return false;
    bool good = bind(&in, names, 2, column, e);
    while (good && next_row(&in, e)) {
        if (!kv_csv_count(&in, column[0], 0, MOST_TOKENS, &v[0], e) ||
            !kv_csv_count(&in, column[1], 0, MOST_TOKENS, &v[1], e))
            continue;
        if (!n++ || v[0] + v[1] > longest[0] + longest[1])
            memcpy(longest, v, sizeof v);
    }
    kv_csv_close(&in);
    put_whole(out, "requests", n);
    put_whole(out, "prompt", longest[0]);
    put_whole(out, "output", longest[1]);
    return !e->n;
}

/* ---- gnuplot ---- */

/* What is asked for. */
struct request {
    const char *result, *folder;             /* folder: of the plots */
    bool kind[KINDS], format[FORMATS], term; /* term: to standard output instead */
    bool quiet, verbose;
    const char *part;                        /* what pictures end with while they are drawn */
    const char *facts;                       /* variables that every script begins with */
    struct kv_arena *arena;
};

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
static const char *make_script(const struct request *q, const struct plot *p, const char *data, struct kv_err *e)
{
    const char *folder = kv_data_folder(q->arena, e);
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    KV_ASSERT(out);
    fprintf(out, "# Written by 'kvsim plot', which replaces it when it is run again; keep changes under another name.\n"
                 "# 'gnuplot %s.gp' in this folder draws it again.\n\n", p->kind->name);
    fputs("quote = \"'\"\n", out);
    put_text(out, "base", p->kind->name);
    put_text(out, "data", data);
    fputs(q->facts, out);
    put_names(out, p);
    if (!p->kind->by_row)
        put_series(out, p);
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
        if (good)
            puts(path);
        else
            unlink(part);
    }
    return good;
}

static bool draw_files(const struct request *q, const struct plot *p, bool *missing, struct kv_err *e)
{
    struct kv_out out;
    const char *base = kv_format(q->arena, "%s/%s.", q->folder, p->kind->name);
    const char *script = make_script(q, p, kv_format(q->arena, "%s.csv", p->kind->name), e);
    if (!script || !kv_out_open(&out, kv_format(q->arena, "%sgp", base), q->arena, e))
        return false;
    fputs(script, out.file);
    if (!kv_out_close(&out, e) || !kv_out_open(&out, kv_format(q->arena, "%scsv", base), q->arena, e))
        return false;
    kv_table_csv(&p->table, out.file);
    if (!kv_out_close(&out, e))
        return false;
    bool good = *missing || run_gnuplot(q, kv_format(q->arena, "%s.gp", p->kind->name), stdout, missing, e);
    if (*missing)
        printf("gnuplot %s.gp\n", p->kind->name);
    return *missing || keep_pictures(q, base, good, e);
}

static bool draw_term(const struct request *q, const struct plot *p, struct kv_err *e)
{
    FILE *file[3] = {NULL}, **data = &file[0], **script = &file[1], **drawn = &file[2];
    bool good = true, missing = false;
    for (int i = 0; i < 3 && good; i++)
        good = (file[i] = nameless_file(e)) != NULL;
    const char *path = "/proc/self/fd/%d";
    const char *text = good ? make_script(q, p, kv_format(q->arena, path, fileno(*data)), e) : NULL;
    if (text) {
        kv_table_csv(&p->table, *data);
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
    {.name = "plots", .value = "LIST", .help = "of memory, chunk, bars, pages (default: [report] plots of the result)"},
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
    const char *path = kv_format(q->arena, "%s/config.resolved.ini", q->result), *kind_names[KINDS];
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
    for (int i = 0; i < KINDS; i++)
        kind_names[i] = kinds[i].name;
    for (int k = 0; k < 2; k++) {
        const char *given = kv_arg_text(args, keys[k][2], NULL), *otherwise = k ? "png" : "memory, chunk, bars, pages";
        const char *where = given    ? kv_format(q->arena, "--%s", keys[k][2])
                            : set[k] ? kv_format(q->arena, "%s %s", set[k]->where, keys[k][1])
                                     : keys[k][1];
        if (!choose(given ? given : set[k] ? set[k]->value : otherwise, where, k ? format_names : kind_names,
                    k ? FORMATS : KINDS, k ? q->format : q->kind, q->arena, e))
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

/* What titles say, and the size of a terminal. */
static bool make_facts(struct request *q, const char *device, struct kv_err *e)
{
    char *text = NULL;
    size_t length = 0;
    struct winsize size = {0};
    const char *columns = getenv("COLUMNS"), *plain = getenv("NO_COLOR");
    FILE *out = open_memstream(&text, &length);
    KV_ASSERT(out);
    bool good = put_summary(out, q->result, device, q->arena, e) && put_requests(out, q->result, q->arena, e);
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

static bool is_result(const char *path, struct kv_arena *a, struct kv_err *e)
{
    static const char *const what = "make one with 'kvsim plan CONFIG -o DIR'";
    struct stat st;
    if (stat(path, &st))
        return kv_fail(e, KV_DATA, "cannot plot '%s': %s; %s", path, strerror(errno), what);
    if (!S_ISDIR(st.st_mode))
        return kv_fail(e, KV_DATA, "cannot plot '%s': it is no folder of results; %s", path, what);
    return !access(kv_format(a, "%s/policies.csv", path), F_OK) ||
           kv_fail(e, KV_DATA, "cannot plot '%s': there is no policies.csv in it; %s", path, what);
}

/* The result's provenance goes along: it also marks the folder as ours, to write in again. */
static bool make_folder(const struct request *q, struct kv_err *e)
{
    struct kv_out out;
    bool made;
    if (!kv_result_folder(q->folder, &made, q->arena, e))
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

static bool draw_all(const struct request *q, struct kv_err *e)
{
    bool missing = false;
    int drawn = 0;
    struct plot *plot = KV_NEW_N(q->arena, struct plot, KINDS);
    for (int i = 0; i < KINDS; i++)
        if (q->kind[i] && !read_rows(&plot[i], &kinds[i], q->result, q->arena, e))
            return false;
    for (int i = 0; i < KINDS; i++)
        drawn += plot[i].n > 0;
    if (!drawn)
        return kv_fail(e, KV_NO, "nothing to draw: '%s' holds no rows, as when a model leaves no memory for KV",
                       q->result);
    if (!q->term && !make_folder(q, e))
        return false;
    for (int i = 0; i < KINDS; i++) {
        if (q->kind[i] && !plot[i].n && !q->quiet)
            fprintf(stderr, "kvsim: warning: no plot '%s': %s/%s has no rows\n", kinds[i].name, q->result,
                    kinds[i].file);
        if (plot[i].cut && !q->quiet)
            fprintf(stderr, "kvsim: warning: plot '%s' shows the first %d of the policies and chunks of %s/%s\n",
                    kinds[i].name, MOST_SERIES, q->result, kinds[i].file);
        if (plot[i].n && !(q->term ? draw_term(q, &plot[i], e) : draw_files(q, &plot[i], &missing, e)))
            return false;
    }
    if (missing && !q->quiet)
        fprintf(stderr, "kvsim: note: there is no gnuplot, so no pictures; install gnuplot-nox, then run these scripts "
                        "in '%s'\n", q->folder);
    return q->term || missing || q->quiet || warn_without_fonts(e);
}

static bool run(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    char *result = kv_copy_text(a, args->operand[0]);
    const char *device = NULL;
    for (size_t n = strlen(result); n > 1 && result[n - 1] == '/';)
        result[--n] = '\0';
    struct request q = {
        .result = result,
        .folder = kv_arg_text(args, "output", kv_format(a, "%s/plots", result)),
        .part = kv_format(a, ".%ld.part", (long)getpid()),
        .term = kv_arg_flag(args, "term"),
        .quiet = kv_arg_flag(args, "quiet"),
        .verbose = kv_arg_flag(args, "verbose"),
        .arena = a,
    };
    bool format = kv_arg_flag(args, "format");
    if (q.term && (format || kv_arg_flag(args, "output")))
        return kv_fail(e, KV_USAGE, "--term writes no files; leave out --%s", format ? "format" : "output");
    if (!is_result(result, a, e) || !read_choices(&q, args, &device, e) || !make_facts(&q, device, e))
        return false;
    setenv("TZ", "UTC0", 1); /* cairo's dates: see forget_time() */
    return draw_all(&q, e);
}

const struct kv_command kv_command_plot = {
    .name = "plot",
    .operands = "RESULT",
    .summary = "Draws a result: RESULT/plots gets the pictures, and for each its gnuplot script and data.",
    .about = "RESULT is a folder made by 'kvsim plan CONFIG -o RESULT'. To draw again after a change:\n"
             "'gnuplot NAME.gp' in the folder of the plots.",
    .least = 1,
    .most = 1,
    .option = options,
    .n_options = sizeof options / sizeof *options,
    .run = run,
};
