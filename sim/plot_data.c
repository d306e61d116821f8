/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/plot_data.h"

#include "sim/core/units.h"
#include "sim/csv.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_COLUMNS = 8, NAME_LETTERS = 44, TITLE_LETTERS = 40 };

/* Rows first .. last of a plot's data that belong together: a policy at a chunk, a policy, or a single row. */
struct kv_plot_series {
    const char *policy;
    int64_t line, chunk, first, last; /* line: counts the policies from 1 */
    bool evicts, alone;               /* alone: its policy has no other series */
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
/* A row is a point of a curve, its crossing, or a published one. */
static const struct kv_column critical_columns[] = {
    {"line", NULL, KV_CELL_COUNT}, {"panel", NULL, KV_CELL_COUNT}, {"footprint", NULL, KV_CELL_REAL},
    {"score", NULL, KV_CELL_REAL}, {"what", NULL, KV_CELL_TEXT},   {"mark", NULL, KV_CELL_TEXT},
    {"task", NULL, KV_CELL_TEXT},  {"policy", NULL, KV_CELL_TEXT},
};
/* Of a replay: a row is a policy's lane, a policy, or a pass of it; `line` counts the policies of the picture. */
static const struct kv_column heads_columns[] = {
    {"line", NULL, KV_CELL_COUNT},      {"layer", NULL, KV_CELL_COUNT},    {"head", NULL, KV_CELL_COUNT},
    {"kept_share", NULL, KV_CELL_REAL}, {"mass_kept", NULL, KV_CELL_REAL}, {"policy", NULL, KV_CELL_TEXT},
};
static const struct kv_column mass_columns[] = {
    {"line", NULL, KV_CELL_COUNT},      {"rank", NULL, KV_CELL_COUNT},      {"kv_footprint", NULL, KV_CELL_REAL},
    {"mass_kept", NULL, KV_CELL_REAL},  {"mass_inner", NULL, KV_CELL_REAL}, {"mass_later", NULL, KV_CELL_REAL},
    {"marks_kept", NULL, KV_CELL_REAL}, {"policy", NULL, KV_CELL_TEXT},
};
static const struct kv_column tax_columns[] = {
    {"row", NULL, KV_CELL_COUNT},
    {"held_end_bytes", NULL, KV_CELL_BYTES},
    {"per_head_end_bytes", NULL, KV_CELL_BYTES},
    {"per_layer_end_bytes", NULL, KV_CELL_BYTES},
    {"shared_end_bytes", NULL, KV_CELL_BYTES},
    {"per_head_in_place_end_bytes", NULL, KV_CELL_BYTES},
    {"per_layer_in_place_end_bytes", NULL, KV_CELL_BYTES},
    {"shared_in_place_end_bytes", NULL, KV_CELL_BYTES},
    {"policy", NULL, KV_CELL_TEXT},
};
static const struct kv_column timeline_columns[] = {
    {"line", NULL, KV_CELL_COUNT},     {"seen_tokens", NULL, KV_CELL_COUNT}, {"bytes", NULL, KV_CELL_BYTES},
    {"mass_held", NULL, KV_CELL_REAL}, {"mass_kept", NULL, KV_CELL_REAL},    {"policy", NULL, KV_CELL_TEXT},
};
/* Of traffic: a row is a span of time, a rank, a policy, a request, a moment, a rate. */
static const struct kv_column held_columns[] = {
    {"line", NULL, KV_CELL_COUNT},       {"start_s", NULL, KV_CELL_REAL}, {"peak_bytes", NULL, KV_CELL_BYTES},
    {"mean_bytes", NULL, KV_CELL_BYTES}, {"policy", NULL, KV_CELL_TEXT},
};
static const struct kv_column latency_columns[] = {
    {"line", NULL, KV_CELL_COUNT}, {"panel", NULL, KV_CELL_COUNT}, {"seconds", NULL, KV_CELL_REAL},
    {"share", NULL, KV_CELL_REAL}, {"policy", NULL, KV_CELL_TEXT},
};
static const struct kv_column pareto_columns[] = {
    {"line", NULL, KV_CELL_COUNT},
    {"pool_peak_bytes", NULL, KV_CELL_REAL},
    {"output_tokens_per_s", NULL, KV_CELL_REAL},
    {"undominated", NULL, KV_CELL_BOOL},
    {"policy", NULL, KV_CELL_TEXT},
};
static const struct kv_column clocks_columns[] = {
    {"line", NULL, KV_CELL_COUNT},  {"kv_footprint", NULL, KV_CELL_REAL}, {"held_gib_s", NULL, KV_CELL_REAL},
    {"actual", NULL, KV_CELL_BOOL}, {"policy", NULL, KV_CELL_TEXT},
};
static const struct kv_column measured_columns[] = {
    {"line", NULL, KV_CELL_COUNT},       {"panel", NULL, KV_CELL_COUNT},         {"measured_s", NULL, KV_CELL_REAL},
    {"simulated_s", NULL, KV_CELL_REAL}, {"relative_error", NULL, KV_CELL_REAL}, {"policy", NULL, KV_CELL_TEXT},
};
static const struct kv_column curves_columns[] = {
    {"line", NULL, KV_CELL_COUNT},    {"t_s", NULL, KV_CELL_REAL},    {"running", NULL, KV_CELL_COUNT},
    {"waiting", NULL, KV_CELL_COUNT}, {"policy", NULL, KV_CELL_TEXT},
};
static const struct kv_column rate_columns[] = {
    {"line", NULL, KV_CELL_COUNT},      {"rate", NULL, KV_CELL_REAL},      {"ttft_p99_s", NULL, KV_CELL_REAL},
    {"tpot_p99_s", NULL, KV_CELL_REAL}, {"e2e_p99_s", NULL, KV_CELL_REAL}, {"policy", NULL, KV_CELL_TEXT},
};
static const char *const in_pass[] = {"chunk_tokens", "seen_tokens", "entries_in_pass", "in_pass_bytes", "policy"};
static const char *const at_end[] = {"chunk_tokens", "seen_tokens", "entries_end", "end_bytes", "policy"};

#define COLUMNS(name) .column = name##_columns, .n_columns = sizeof name##_columns / sizeof *name##_columns
#define MEMORY(shown)                                                                                                  \
    {"common", "plan", "memory"}, "timeline.csv", shown, COLUMNS(memory), {in_pass, at_end}, .by_chunk = true
#define REPLAY(script)                                                                                                 \
    {                                                                                                                  \
        "common", "replay", "replay_" script                                                                           \
    }
#define TRAFFIC(script, file) {"common", "traffic", "traffic_" script, "traffic_page", "traffic_" script "_draw"}, file
const struct kv_plot_kind kv_plot_kinds[KV_PLOT_KINDS] = {
    {"memory", MEMORY("bytes")},
    {"entries", MEMORY("entries")},
    {"chunk", {"common", "plan", "chunk"}, "chunks.csv", COLUMNS(chunk)},
    {"bars", {"common", "plan", "bars", "groups"}, "policies.csv", COLUMNS(bars), .by_row = true},
    {"pages", {"common", "plan", "pages", "groups"}, "policies.csv", COLUMNS(pages), .by_row = true},
    {"critical",
     {"common", "critical"},
     "critical.csv",
     COLUMNS(critical),
     .read = kv_plot_read_critical,
     .of = KV_PLOT_CRITICAL},
    {"heads", REPLAY("heads"), "heads.csv", "kept_share", COLUMNS(heads), .read = kv_plot_read_heads,
     .of = KV_PLOT_REPLAY},
    {"heads_mass", REPLAY("heads"), "heads.csv", "mass_kept", COLUMNS(heads), .read = kv_plot_read_heads,
     .of = KV_PLOT_REPLAY},
    {"mass", REPLAY("mass"), "policies.csv", COLUMNS(mass), .read = kv_plot_read_mass, .of = KV_PLOT_REPLAY},
    {"pages",
     {"common", "replay", "replay_pages", "groups"},
     "policies.csv",
     COLUMNS(tax),
     .read = kv_plot_read_tax,
     .of = KV_PLOT_REPLAY},
    {"timeline", REPLAY("timeline"), "timeline.csv", COLUMNS(timeline), .read = kv_plot_read_timeline,
     .of = KV_PLOT_REPLAY},
    {"memory", TRAFFIC("memory", "timeline.csv"), COLUMNS(held), .read = kv_plot_read_traffic_memory,
     .of = KV_PLOT_TRAFFIC},
    {"latency", TRAFFIC("latency", "requests.csv"), COLUMNS(latency), .read = kv_plot_read_traffic_latency,
     .of = KV_PLOT_TRAFFIC},
    {"pareto", TRAFFIC("points", "policies.csv"), "pareto", COLUMNS(pareto), .read = kv_plot_read_traffic_points,
     .of = KV_PLOT_TRAFFIC},
    {"clocks", TRAFFIC("points", "policies.csv"), "clocks", COLUMNS(clocks), .read = kv_plot_read_traffic_points,
     .of = KV_PLOT_TRAFFIC},
    {"measured", TRAFFIC("measured", "requests.csv"), COLUMNS(measured), .read = kv_plot_read_measured,
     .of = KV_PLOT_MEASURED},
    {"curves", TRAFFIC("curves", "requests.csv"), COLUMNS(curves), .read = kv_plot_read_curves, .of = KV_PLOT_MEASURED},
    {"rate",
     {"common", "traffic_rate", "traffic_page", "traffic_rate_draw"},
     "sweep.csv",
     COLUMNS(rate),
     .read = kv_plot_read_rate,
     .of = KV_PLOT_SWEEP},
};

/* ---- text and numbers for gnuplot ---- */

/* Characters begin where no UTF-8 continuation does. */
int kv_plot_letters(const char *text)
{
    int n = 0;
    for (; *text; text++)
        n += (*text & 0xC0) != 0x80;
    return n;
}

/* At most `most` letters of a text, with '?' for what cannot be drawn: controls, what is no UTF-8, and letters DejaVu
 * Sans lacks, for gnuplot fills the whole picture with the box that stands for such a letter. */
const char *kv_plot_printable(const char *text, int most, struct kv_arena *a)
{
    static const unsigned drawn[][2] = {{0x20, 0x7E},     {0xA0, 0x2E9},    {0x384, 0x525},  {0x1E00, 0x1EFB},
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

/* NAME = 'TEXT'. Within single quotes gnuplot takes all but the quote itself as it stands: `, $, \ and @ too. A quote
 * is added from a variable, for the doubled one of gnuplot's manual ends the string when it comes first in it. */
void kv_plot_put_text(FILE *out, const char *name, const char *text)
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

bool kv_plot_bind(const struct kv_csv *c, const char *const *names, int n, int *column, const char *command,
                  struct kv_err *e)
{
    bool good = true;
    for (int i = 0; i < n; i++) {
        column[i] = kv_csv_column(c, names[i]);
        if (column[i] < 0)
            good = kv_fail(e, KV_DATA, "%s:1: no column '%s'; it is no file of 'kvsim %s'", c->path, names[i], command);
    }
    return good;
}

bool kv_plot_next_row(struct kv_csv *c, struct kv_err *e)
{
    enum kv_next next;
    do
        next = kv_csv_next(c, e);
    while (next == KV_NEXT_BAD && e->n <= KV_ERR_LINES);
    return next == KV_NEXT_ROW;
}

bool kv_plot_number(const struct kv_csv *in, int column, double least, double most, bool empty, double *out,
                    struct kv_err *e)
{
    const char *text = in->cell[column];
    char *end, what[80];
    *out = NAN;
    if (!*text && empty)
        return true;
    double value = strtod(text, &end);
    if (end == text || *end || isnan(value))
        return kv_csv_fail(in, column, e, "is not a number");
    if (value < least || value > most) {
        snprintf(what, sizeof what, "is outside %g .. %g", least, most);
        return kv_csv_fail(in, column, e, what);
    }
    *out = value;
    return true;
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
static struct kv_plot_series *series_of(struct kv_plot *p, const struct kv_cell *row)
{
    const char *policy = row[p->kind->n_columns - 1].text;
    int64_t chunk = row[1].whole, at = p->table.n_rows;
    KV_ASSERT(policy);
    if (p->n && !p->kind->by_row) {
        struct kv_plot_series *last = &p->series[p->n - 1];
        if (!strcmp(last->policy, policy) && (!p->kind->by_chunk || last->chunk == chunk))
            return last;
    }
    if (p->n == KV_PLOT_MOST_SERIES)
        return NULL;
    p->series[p->n] = (struct kv_plot_series){.policy = policy, .chunk = chunk, .first = at, .last = at};
    return &p->series[p->n++];
}

/* A row of the file becomes one of the data; false when it has no room. A pass becomes two at its last token: what is
 * held within it, and at its end, when what was evicted is gone; before its first pass a request holds nothing. */
static bool add_row(struct kv_plot *p, const struct kv_csv *in, int column[2][MOST_COLUMNS], struct kv_err *e)
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
    struct kv_plot_series *s = series_of(p, cell[0]);
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

static void number_lines(struct kv_plot *p)
{
    for (struct kv_plot_series *s = p->series; s < p->series + p->n; s++) {
        s->alone = true;
        for (const struct kv_plot_series *other = p->series; other < p->series + p->n; other++)
            if (other != s && !strcmp(other->policy, s->policy)) {
                s->alone = false;
                s->line = other < s ? other->line : s->line;
            }
        s->line = s->line ? s->line : ++p->n_lines;
        for (int64_t r = s->first; r <= s->last; r++)
            p->table.cell[r * p->table.n_columns].whole = p->kind->by_row ? s - p->series + 1 : s->line;
    }
}

bool kv_plot_read(struct kv_plot *p, const struct kv_plot_kind *kind, const char *result, const char *measured,
                  struct kv_arena *a, struct kv_err *e)
{
    struct kv_csv in;
    const char *names[MOST_COLUMNS] = {NULL};
    int column[2][MOST_COLUMNS] = {{0}};
    *p = (struct kv_plot){.kind = kind,
                          .measured = measured,
                          .series = KV_NEW_N(a, struct kv_plot_series, KV_PLOT_MOST_SERIES),
                          .arena = a};
    kv_table_open(&p->table, kind->column, kind->n_columns, a);
    if (kind->read)
        return kind->read(p, result, e);
    if (!kv_csv_open(&in, kv_format(a, "%s/%s", result, kind->file), a, e))
        return false;
    for (int i = 1; i < kind->n_columns; i++)
        names[i] = kind->column[i].key;
    bool good = kv_plot_bind(&in, kind->source[0] ? kind->source[0] : &names[1], kind->n_columns - 1, &column[0][1],
                             "plan", e) &&
                (!kind->source[1] || kv_plot_bind(&in, kind->source[1], kind->n_columns - 1, &column[1][1], "plan", e));
    while (good && kv_plot_next_row(&in, e) && add_row(p, &in, column, e))
        ;
    kv_csv_close(&in);
    number_lines(p);
    return !e->n;
}

/* ---- variables of a script ---- */

void kv_plot_begin_variables(struct kv_plot_variables *v)
{
    *v = (struct kv_plot_variables){0};
    v->out = open_memstream(&v->text, &v->length);
    KV_ASSERT(v->out);
}

void kv_plot_end_variables(struct kv_plot_variables *v, struct kv_plot *p)
{
    fclose(v->out);
    p->variables = kv_copy_text(p->arena, v->text);
    free(v->text);
}

void kv_plot_put_wholes(FILE *out, const char *name, const int64_t *value, int n)
{
    fprintf(out, "array %s[%d] = [", name, n);
    for (int i = 0; i < n; i++)
        fprintf(out, "%s%lld", i ? ", " : "", (long long)value[i]);
    fputs("]\n", out);
}

/* The names of the lines, for people, and how long the longest is. */
static void put_names(FILE *out, const struct kv_plot *p)
{
    int longest = 0, done = 0, n = p->kind->by_row ? p->n : p->n_lines;
    bool chunks = false;
    for (int i = 1; i < p->n; i++)
        chunks |= p->kind->by_row && p->series[i].chunk != p->series[0].chunk;
    fprintf(out, "lines = %d\narray name[%d]\n", n, n);
    for (int i = 0; i < p->n; i++) {
        const struct kv_plot_series *s = &p->series[i];
        char number[KV_NUMBER_TEXT];
        const char *name = kv_plot_printable(s->policy, NAME_LETTERS, p->arena);
        if (!p->kind->by_row && s->line <= done)
            continue;
        if (chunks)
            name = kv_format(p->arena, "%s, chunk %s", name, kv_print_count(number, s->chunk));
        longest = kv_plot_letters(name) > longest ? kv_plot_letters(name) : longest;
        kv_plot_put_text(out, kv_format(p->arena, "name[%d]", ++done), name);
    }
    put_whole(out, "letters", longest);
    put_whole(out, "one_chunk", chunks ? 0 : p->series[0].chunk);
}

/* The series. What evicts nothing and was counted once is the same at every chunk. */
static void put_series(FILE *out, const struct kv_plot *p)
{
    static const char *const names[] = {"line_of", "chunk_of", "first", "last", "same"};
    put_whole(out, "series", p->n);
    for (int k = 0; k < 5; k++) {
        fprintf(out, "array %s[%d] = [", names[k], p->n);
        for (const struct kv_plot_series *s = p->series; s < p->series + p->n; s++) {
            int64_t value[] = {s->line, s->chunk, s->first, s->last, !s->evicts && s->alone};
            fprintf(out, "%s%lld", s > p->series ? ", " : "", (long long)value[k]);
        }
        fputs("]\n", out);
    }
}

void kv_plot_put_data(FILE *out, const struct kv_plot *p)
{
    kv_table_csv(&p->table, out);
}

void kv_plot_put_variables(FILE *out, const struct kv_plot *p, const char *data, const char *facts)
{
    fputs("quote = \"'\"\n", out);
    kv_plot_put_text(out, "base", p->kind->name);
    kv_plot_put_text(out, "data", data);
    if (p->kind->shown)
        kv_plot_put_text(out, "shown", p->kind->shown);
    fputs(facts, out);
    if (p->variables) {
        fputs(p->variables, out);
        return;
    }
    put_names(out, p);
    if (!p->kind->by_row)
        put_series(out, p);
}

json_t *kv_plot_read_summary(const char *result, const char **path, struct kv_arena *a, struct kv_err *e)
{
    json_error_t bad;
    *path = kv_format(a, "%s/summary.json", result);
    FILE *in = fopen(*path, "r");
    if (!in) {
        kv_fail(e, KV_DATA, "cannot open '%s': %s", *path, strerror(errno));
        return NULL;
    }
    json_t *root = json_loadf(in, 0, &bad);
    fclose(in);
    if (!root)
        kv_fail(e, KV_DATA, "%s:%d:%d: %s", *path, bad.line, bad.column, bad.text);
    return root;
}

/* Facts under the names of summary.json. */
static bool put_summary(FILE *out, const char *result, const char *device, struct kv_arena *a, struct kv_err *e)
{
    static const char *const keys[] = {"kv_pool_bytes", "kv_pool_origin", "model",      "device",     "kv_cache_dtype",
                                       "layout",        "block_size",     "compaction", "concurrency"};
    const char *path;
    json_t *root = kv_plot_read_summary(result, &path, a, e);
    if (!root)
        return false;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json_t *value = json_object_get(i < 2 ? json_object_get(root, "memory") : root, keys[i]);
        const char *text = device && !strcmp(keys[i], "device") ? device : json_string_value(value);
        if (text)
            kv_plot_put_text(out, keys[i], kv_plot_printable(text, TITLE_LETTERS, a));
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
    bool good = kv_plot_bind(&in, names, 2, column, "plan", e);
    while (good && kv_plot_next_row(&in, e)) {
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

bool kv_plot_put_facts(FILE *out, const char *result, const char *device, struct kv_arena *a, struct kv_err *e)
{
    return put_summary(out, result, device, a, e) && put_requests(out, result, a, e);
}
