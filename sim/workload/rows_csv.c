/* SPDX-License-Identifier: GPL-3.0-or-later */
/* CSV of requests: Azure, BurstGPT, ShareGPT-style lengths and anything whose header names its columns as somebody
 * does. Cells are cut in place; nothing is copied. */
#include "sim/workload/format.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum role { TIME, PROMPT, OUTPUT, SESSION, BLOCK_TOKENS, HASHES, ROLES };
static const char *const role_help[] = {
    [TIME] = "arrivals (arrival_s, timestamp, arrival_ns, ...)",
    [PROMPT] = "prompt lengths; name it prompt_tokens (or input_tokens, ContextTokens, 'Request tokens', ...)",
    [OUTPUT] = "output lengths; name it output_tokens (or GeneratedTokens, 'Response tokens', ...)",
};

/* Names as they stand after fold(): lower case, words joined by '_'. */
static const struct name {
    const char *name;
    enum role role;
    int64_t unit_ns; /* of times that are numbers */
} names[] = {
    {"arrival_s", TIME, 1000000000},
    {"timestamp", TIME, 1000000000},
    {"arrival_time", TIME, 1000000000},
    {"arrived_at", TIME, 1000000000},
    {"request_arrived_at", TIME, 1000000000},
    {"start_time", TIME, 1000000000},
    {"time", TIME, 1000000000},
    {"time_s", TIME, 1000000000},
    {"arrival_ms", TIME, 1000000},
    {"timestamp_ms", TIME, 1000000},
    {"arrival_us", TIME, 1000},
    {"arrival_ns", TIME, 1},
    {"prompt_tokens", PROMPT, 0},
    {"contexttokens", PROMPT, 0},
    {"context_tokens", PROMPT, 0},
    {"request_tokens", PROMPT, 0},
    {"input_tokens", PROMPT, 0},
    {"input_length", PROMPT, 0},
    {"input_len", PROMPT, 0},
    {"prompt_len", PROMPT, 0},
    {"prompt_length", PROMPT, 0},
    {"num_prefill_tokens", PROMPT, 0},
    {"request_num_prefill_tokens", PROMPT, 0},
    {"input_toks", PROMPT, 0},
    {"output_tokens", OUTPUT, 0},
    {"generatedtokens", OUTPUT, 0},
    {"generated_tokens", OUTPUT, 0},
    {"response_tokens", OUTPUT, 0},
    {"completion_tokens", OUTPUT, 0},
    {"output_length", OUTPUT, 0},
    {"output_len", OUTPUT, 0},
    {"response_len", OUTPUT, 0},
    {"num_decode_tokens", OUTPUT, 0},
    {"request_num_decode_tokens", OUTPUT, 0},
    {"output_toks", OUTPUT, 0},
    {"session", SESSION, 0},
    {"session_id", SESSION, 0},
    {"conversation_id", SESSION, 0},
    {"block_tokens", BLOCK_TOKENS, 0},
    {"hashes", HASHES, 0},
    {"hash_ids", HASHES, 0},
    {"block_hashes", HASHES, 0},
};

struct cell {
    char *text;
    size_t length;
    int at; /* column in the line, from 1 */
};

struct csv {
    int n_columns;
    char **name;       /* (n_columns,) as the file has them */
    struct cell *cell; /* (n_columns + 1,) of the row in hand */
    int column[ROLES]; /* -1: none */
    int64_t time_unit_ns;
    /* dates come in order: the day is that of the row above, nearly always */
    char day[10];
    int64_t day_ns;
};

static void close_csv(void *state)
{
    struct csv *c = state;
    for (int i = 0; c->name && i < c->n_columns; i++)
        free(c->name[i]);
    free(c->name);
    free(c->cell);
    free(c);
}

/* Cuts a line with quotes in it, dropping them. Returns the number of cells, -1: a quote does not end. */
static int cut_quoted(struct cell *cell, int most, char *text)
{
    char *in = text, *out;
    int n = 0;
    for (;;) {
        struct cell here = {.text = in, .at = (int)(in - text) + 1};
        out = in;
        if (*in == '"') {
            for (in++; *in && !(*in == '"' && in[1] != '"'); in++) {
                in += *in == '"';
                *out++ = *in;
            }
            if (!*in)
                return -1;
            in++;
        }
        while (*in && *in != ',')
            *out++ = *in++;
        here.length = (size_t)(out - here.text);
        if (n < most)
            cell[n] = here;
        n++;
        if (!*in)
            return n;
        in++;
    }
}

/* The number of cells, of which at most `most` are kept; -1: an open quote, -2: a NUL. */
static int cut(struct cell *cell, int most, const struct kv_line *line)
{
    char *start = line->text;
    int n = 0;
    for (char *c = line->text, *end = c + line->length;; c++) {
        if (*c > ',') /* digits, letters, '.', '-' */
            continue;
        if (*c == '"')
            return memchr(c, 0, (size_t)(end - c)) ? -2 : cut_quoted(cell, most, line->text);
        if (*c != ',' && c != end) {
            if (!*c)
                return -2;
            continue;
        }
        if (n < most)
            cell[n] = (struct cell){start, (size_t)(c - start), (int)(start - line->text) + 1};
        n++;
        if (c == end)
            return n;
        start = c + 1;
    }
}

static bool blank(char c)
{
    return c == ' ' || c == '\t';
}

static struct cell trimmed(struct cell c)
{
    while (c.length && blank(c.text[0])) {
        c.text++;
        c.length--;
    }
    while (c.length && blank(c.text[c.length - 1]))
        c.length--;
    return c;
}

/* ---- the header ---- */

static void fold(char *out, size_t room, const char *name)
{
    size_t n = 0;
    for (; *name && n + 1 < room; name++)
        out[n++] = *name == ' ' || *name == '-' ? '_' : (char)tolower((unsigned char)*name);
    out[n] = '\0';
}

static bool bind_column(struct kv_rows *r, struct csv *c, int i, struct kv_err *e)
{
    char name[64];
    fold(name, sizeof name, c->name[i]);
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        if (strcmp(name, names[k].name))
            continue;
        int *column = &c->column[names[k].role];
        if (*column >= 0)
            return kv_row_fail(r, 1, c->cell[i].at, e, "columns '%.60s' and '%.60s' say the same; rename one",
                               c->name[*column], c->name[i]);
        *column = i;
        if (names[k].role == TIME)
            c->time_unit_ns = names[k].unit_ns;
    }
    return true;
}

static bool named(const struct csv *c, enum role role, const char *name)
{
    char folded[64];
    if (c->column[role] < 0)
        return false;
    fold(folded, sizeof folded, c->name[c->column[role]]);
    return !strcmp(folded, name);
}

/* What the header looks like. */
static enum kv_format header_format(const struct csv *c)
{
    if (named(c, TIME, "timestamp") && named(c, PROMPT, "contexttokens") && named(c, OUTPUT, "generatedtokens"))
        return KV_FORMAT_AZURE;
    if (named(c, TIME, "timestamp") && named(c, PROMPT, "request_tokens") && named(c, OUTPUT, "response_tokens"))
        return KV_FORMAT_BURSTGPT;
    if (named(c, PROMPT, "input_tokens") && named(c, OUTPUT, "output_tokens"))
        return KV_FORMAT_SHAREGPT;
    return KV_FORMAT_CSV;
}

static bool check_header(struct kv_rows *r, struct csv *c, struct kv_err *e)
{
    static const char *const wanted[KV_FORMATS] = {
        [KV_FORMAT_AZURE] = "TIMESTAMP,ContextTokens,GeneratedTokens",
        [KV_FORMAT_BURSTGPT] = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
        [KV_FORMAT_SHAREGPT] = "input_tokens,output_tokens",
    };
    for (int role = PROMPT; role <= OUTPUT; role++)
        if (c->column[role] < 0)
            return kv_row_fail(r, 1, 1, e, "no column of %s", role_help[role]);
    enum kv_format found = header_format(c);
    if (r->format != KV_FORMAT_CSV && r->format != found)
        return kv_row_fail(r, 1, 1, e, "not the header of %s, which has %s; write format = auto",
                           kv_format_names[r->format], wanted[r->format]);
    r->format = found;
    r->times = c->column[TIME] >= 0;
    r->blocks = c->column[HASHES] >= 0;
    if (r->blocks && c->column[BLOCK_TOKENS] < 0 && r->block_tokens == KV_UNSET)
        return kv_row_fail(r, 1, 1, e,
                           "hashes of how many tokens each? add a column block_tokens, or set [workload] block_tokens");
    return true;
}

static bool read_header(struct kv_rows *r, struct kv_line *first, struct kv_err *e)
{
    enum kv_next next = kv_input_line(r->in, first, e);
    if (next == KV_NEXT_END)
        return kv_fail(e, KV_DATA, "%s:1: the file is empty; expected a header line, or JSON", kv_input_path(r->in));
    if (next == KV_NEXT_BAD)
        return false;
    if (first->length >= 3 && !memcmp(first->text, "\xEF\xBB\xBF", 3)) {
        first->text += 3;
        first->length -= 3;
    }
    return !memchr(first->text, 0, first->length) ||
           kv_fail(e, KV_DATA, "%s:1: not a line of text; expected a header line, or JSON", kv_input_path(r->in));
}

static void *open_csv(struct kv_rows *r, struct kv_err *e)
{
    struct kv_line line, *first = &line;
    if (!read_header(r, first, e))
        return NULL;
    struct csv *c = calloc(1, sizeof *c);
    KV_ASSERT(c);
    int most = 1;
    for (size_t i = 0; i < first->length; i++)
        most += first->text[i] == ',';
    c->cell = calloc((size_t)most + 1, sizeof *c->cell);
    c->name = calloc((size_t)most + 1, sizeof *c->name);
    KV_ASSERT(c->cell && c->name);
    for (int i = 0; i < ROLES; i++)
        c->column[i] = -1;
    int n = cut(c->cell, most, first);
    if (n < 0)
        kv_row_fail(r, 1, 1, e, "a quote is not closed");
    bool good = n >= 0;
    c->n_columns = n < 0 ? 0 : n;
    for (int i = 0; i < c->n_columns; i++) {
        struct cell cell = trimmed(c->cell[i]);
        c->name[i] = strndup(cell.text, cell.length);
        KV_ASSERT(c->name[i]);
    }
    for (int i = 0; good && i < c->n_columns; i++)
        good = bind_column(r, c, i, e);
    if (good && check_header(r, c, e))
        return c;
    close_csv(c);
    return NULL;
}

/* ---- rows ---- */

static bool fail_cell(struct kv_rows *r, const struct csv *c, int64_t line, int column, struct kv_err *e,
                      const char *why)
{
    struct cell cell = trimmed(c->cell[column]);
    return kv_row_fail(r, line, cell.at, e, "%.60s '%.*s' %s", c->name[column],
                       (int)(cell.length < 60 ? cell.length : 60), cell.text, why);
}

static const char *read_time(struct csv *c, const struct cell *cell, int64_t *ns)
{
    if (cell->length < 19 || cell->text[4] != '-')
        return kv_decimal_ns(cell->text, cell->length, c->time_unit_ns, ns);
    /* the day, and what goes by within it */
    char text[20];
    int64_t within;
    if (memcmp(cell->text, c->day, sizeof c->day) != 0 || !c->day_ns) {
        snprintf(text, sizeof text, "%.10s 00:00:00", cell->text);
        if (!kv_stamp_read(text, 19, &c->day_ns)) {
            c->day_ns = 0;
            return "is no date and time; write 2023-11-16 18:15:46.6805900, or seconds";
        }
        memcpy(c->day, cell->text, sizeof c->day);
    }
    if (!kv_stamp_within_day(cell->text, cell->length, &within))
        return "is no date and time; write 2023-11-16 18:15:46.6805900, or seconds";
    *ns = c->day_ns + within;
    return NULL;
}

static bool read_count(struct kv_rows *r, const struct csv *c, const struct kv_line *line, int column, int64_t *out,
                       struct kv_err *e)
{
    struct cell cell = trimmed(c->cell[column]);
    const char *why = kv_whole_read(cell.text, cell.length, KV_ROW_MOST_TOKENS, out);
    if (!why && *out < 1)
        why = column == c->column[OUTPUT]
                  ? "is no answer (a request that failed?); leave such rows out with --skip-bad, or [workload] "
                    "skip_bad = true"
                  : "is no request; leave such rows out with --skip-bad, or [workload] skip_bad = true";
    return !why || fail_cell(r, c, line->number, column, e, why);
}

/* Numbers apart by blanks. */
static bool read_hashes(struct kv_rows *r, const struct csv *c, const struct kv_line *line, struct kv_row *row,
                        struct kv_err *e)
{
    struct cell cell = trimmed(c->cell[c->column[HASHES]]);
    const char *at = cell.text, *end = at + cell.length;
    row->block_tokens = r->block_tokens;
    if (c->column[BLOCK_TOKENS] >= 0 && !read_count(r, c, line, c->column[BLOCK_TOKENS], &row->block_tokens, e))
        return false;
    while (at < end) {
        uint64_t name = 0;
        const char *start = at;
        for (; at < end && *at >= '0' && *at <= '9'; at++) {
            uint64_t more = 10 * name + (uint64_t)(*at - '0');
            if (name > UINT64_MAX / 10 || more < 10 * name)
                return fail_cell(r, c, line->number, c->column[HASHES], e, "holds a number above 2^64 - 1");
            name = more;
        }
        if (at == start)
            return fail_cell(r, c, line->number, c->column[HASHES], e, "is no list of whole numbers apart by blanks");
        kv_row_add_block(r, name);
        while (at < end && blank(*at))
            at++;
    }
    return true;
}

static enum kv_next next_csv(struct kv_rows *r, void *state, struct kv_row *row, struct kv_err *e)
{
    struct csv *c = state;
    struct kv_line line;
    int n;
    do {
        enum kv_next next = kv_input_line(r->in, &line, e);
        r->broken = next == KV_NEXT_BAD;
        if (next != KV_NEXT_ROW)
            return next;
        n = cut(c->cell, c->n_columns, &line);
    } while (n == 1 && !trimmed(c->cell[0]).length);
    row->line = line.number;
    if (n < 0) {
        kv_row_fail(r, line.number, 1, e, n == -2 ? "not a line of text" : "a quote is not closed");
        return KV_NEXT_BAD;
    }
    if (n != c->n_columns) {
        kv_row_fail(r, line.number, c->cell[(n < c->n_columns ? n : c->n_columns) - 1].at, e,
                    "%d cells, but the header names %d columns", n, c->n_columns);
        return KV_NEXT_BAD;
    }
    bool good = true;
    if (c->column[TIME] >= 0) {
        struct cell cell = trimmed(c->cell[c->column[TIME]]);
        const char *why = read_time(c, &cell, &row->arrival_ns);
        row->column = cell.at;
        good = !why || fail_cell(r, c, line.number, c->column[TIME], e, why);
    }
    good = good && read_count(r, c, &line, c->column[PROMPT], &row->prompt, e) &&
           read_count(r, c, &line, c->column[OUTPUT], &row->output, e) &&
           (c->column[HASHES] < 0 || (read_hashes(r, c, &line, row, e) && kv_row_check_blocks(r, row, true, e)));
    if (good && c->column[SESSION] >= 0) {
        struct cell cell = trimmed(c->cell[c->column[SESSION]]);
        row->session = cell.length ? kv_name_number(cell.text, cell.length) : KV_UNSET;
    }
    return good ? KV_NEXT_ROW : KV_NEXT_BAD;
}

const struct kv_row_reader kv_read_csv = {.open = open_csv, .next = next_csv, .close = close_csv};
