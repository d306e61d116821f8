/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Mooncake's JSON lines: {"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [...]}, one hash for each
 * 512 tokens of the prompt and what is left. "arrival_ns" or "arrival_s" may stand for the time, hashes may be missing.
 */
#include "sim/workload/format.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOONCAKE_BLOCK = 512 };

struct mooncake {
    bool asked; /* whether rows have times and hashes is known */
};

static const struct {
    const char *key;
    double unit_ns;
} times[] = {{"timestamp", 1e6}, {"arrival_ns", 1}, {"arrival_s", 1e9}};

/* The place of a key in the line, from 1; 1 when it is not found as written. */
static int column_of(const struct kv_line *line, const char *key)
{
    char quoted[32];
    snprintf(quoted, sizeof quoted, "\"%s\"", key);
    const char *found = strstr(line->text, quoted);
    return found ? (int)(found - line->text) + 1 : 1;
}

static bool read_count(struct kv_rows *r, const struct kv_line *line, const json_t *row, const char *key, int64_t *out,
                       struct kv_err *e)
{
    const json_t *value = json_object_get(row, key);
    double number = json_number_value(value);
    int column = column_of(line, key);
    if (!value)
        return kv_row_fail(r, line->number, 1, e, "no \"%s\"", key);
    if (!json_is_number(value) || number != floor(number))
        return kv_row_fail(r, line->number, column, e, "\"%s\" is not a whole number", key);
    if (number < 1 || number > KV_ROW_MOST_TOKENS)
        return kv_row_fail(r, line->number, column, e, "\"%s\" is %.15g; expected 1 .. %d tokens%s", key, number,
                           KV_ROW_MOST_TOKENS,
                           number == 0 ? " (a request that failed? leave such rows out with --skip-bad)" : "");
    *out = (int64_t)number;
    return true;
}

/* *found: the row has one. */
static bool read_time(struct kv_rows *r, const struct kv_line *line, const json_t *row, int64_t *ns, bool *found,
                      struct kv_err *e)
{
    *found = false;
    for (size_t i = 0; i < sizeof times / sizeof *times && !*found; i++) {
        const json_t *value = json_object_get(row, times[i].key);
        if (!value)
            continue;
        double number = json_number_value(value), seconds = number * (times[i].unit_ns / 1e9);
        if (!json_is_number(value) || !(seconds >= 0 && seconds <= 4e9))
            return kv_row_fail(r, line->number, column_of(line, times[i].key), e, "\"%s\" is no time from 0 to 4e9 s",
                               times[i].key);
        *ns = json_is_integer(value) ? (int64_t)json_integer_value(value) * (int64_t)times[i].unit_ns
                                     : llrint(number * times[i].unit_ns);
        *found = true;
    }
    return true;
}

static bool read_hashes(struct kv_rows *r, const struct kv_line *line, const json_t *hashes, struct kv_row *row,
                        struct kv_err *e)
{
    size_t i;
    const json_t *value;
    if (!json_is_array(hashes))
        return kv_row_fail(r, line->number, column_of(line, "hash_ids"), e, "\"hash_ids\" is no list");
    row->block_tokens = r->block_tokens != KV_UNSET ? r->block_tokens : MOONCAKE_BLOCK;
    json_array_foreach (hashes, i, value) {
        if (!json_is_integer(value) || json_integer_value(value) < 0)
            return kv_row_fail(r, line->number, column_of(line, "hash_ids"), e,
                               "\"hash_ids\" holds, as number %zu, what is no whole number from 0 on", i + 1);
        kv_row_add_block(r, (uint64_t)json_integer_value(value));
    }
    return kv_row_check_blocks(r, row, r->block_tokens != KV_UNSET, e);
}

static bool same_as_first(struct kv_rows *r, const struct kv_line *line, const char *what, bool first, bool now,
                          struct kv_err *e)
{
    return first == now ||
           kv_row_fail(r, line->number, 1, e, "%s %s, unlike the first row", now ? "has" : "has no", what);
}

static bool read_row(struct kv_rows *r, struct mooncake *m, const struct kv_line *line, const json_t *json,
                     struct kv_row *row, struct kv_err *e)
{
    const json_t *hashes = json_object_get(json, "hash_ids");
    bool timed;
    if (!json_is_object(json))
        return kv_row_fail(r, line->number, 1, e, "no JSON object; expected {\"timestamp\": ...}");
    if (!read_time(r, line, json, &row->arrival_ns, &timed, e) ||
        !read_count(r, line, json, "input_length", &row->prompt, e) ||
        !read_count(r, line, json, "output_length", &row->output, e))
        return false;
    if (!m->asked) {
        r->times = timed;
        r->blocks = hashes != NULL;
        m->asked = true;
    }
    return same_as_first(r, line, "\"timestamp\"", r->times, timed, e) &&
           same_as_first(r, line, "\"hash_ids\"", r->blocks, hashes != NULL, e) &&
           (!hashes || read_hashes(r, line, hashes, row, e));
}

/* ---- lines as Mooncake writes them ---- */

static const char *skip(const char *c)
{
    while (*c == ' ')
        c++;
    return c;
}

/* A whole number of at most 18 digits that ends as one; NULL: something else. */
static const char *plain_number(const char *c, int64_t *out)
{
    const char *start = c;
    for (*out = 0; *c >= '0' && *c <= '9'; c++)
        *out = (int64_t)((uint64_t)*out * 10 + (uint64_t)(*c - '0'));
    bool zero_first = *start == '0' && c - start > 1;
    c = c == start || c - start > 18 || zero_first ? NULL : skip(c);
    return c && (*c == ',' || *c == '}' || *c == ']') ? c : NULL;
}

static const char *plain_list(struct kv_rows *r, const char *c)
{
    int64_t number;
    if (*c != '[')
        return NULL;
    do {
        c = plain_number(skip(c + 1), &number);
        if (!c)
            return NULL;
        kv_row_add_block(r, (uint64_t)number);
    } while (*c == ',');
    return *c == ']' ? skip(c + 1) : NULL;
}

/* The same as jansson reads, some ten times as fast: the four keys once each and in this order, whole numbers, nothing
 * else. False: any other line, right or wrong, which jansson then reads. */
static bool plain_row(struct kv_rows *r, const struct kv_line *line, struct kv_row *row)
{
    static const char *const keys[] = {"\"timestamp\"", "\"input_length\"", "\"output_length\"", "\"hash_ids\""};
    int64_t value[3];
    const char *c = line->text;
    for (int i = 0; i < 4; i++) {
        size_t n = strlen(keys[i]);
        if (*c != (i ? ',' : '{') || strncmp(c = skip(c + 1), keys[i], n) != 0 || *(c = skip(c + n)) != ':')
            return false;
        c = skip(c + 1);
        c = i < 3 ? plain_number(c, &value[i]) : plain_list(r, c);
        if (!c)
            return false;
    }
    if (*c != '}' || *skip(c + 1) || skip(c + 1) != line->text + line->length)
        return false;
    row->prompt = value[1];
    row->output = value[2];
    if (value[0] > INT64_C(4000000000000))
        return false;
    row->arrival_ns = value[0] * 1000000;
    row->block_tokens = r->block_tokens != KV_UNSET ? r->block_tokens : MOONCAKE_BLOCK;
    return row->prompt >= 1 && row->prompt <= KV_ROW_MOST_TOKENS && row->output >= 1 &&
           row->output <= KV_ROW_MOST_TOKENS;
}

static enum kv_next next_mooncake(struct kv_rows *r, void *state, struct kv_row *row, struct kv_err *e)
{
    struct kv_line line;
    do {
        enum kv_next next = kv_input_line(r->in, &line, e);
        r->broken = next == KV_NEXT_BAD;
        if (next != KV_NEXT_ROW)
            return next;
        if (line.number == 1 && line.length >= 3 && !memcmp(line.text, "\xEF\xBB\xBF", 3)) {
            line.text += 3;
            line.length -= 3;
        }
    } while (strspn(line.text, " \t") == line.length);
    row->line = line.number;
    row->column = 1;
    const struct mooncake *m = state;
    if (m->asked && r->times && r->blocks && plain_row(r, &line, row))
        return kv_row_check_blocks(r, row, r->block_tokens != KV_UNSET, e) ? KV_NEXT_ROW : KV_NEXT_BAD;
    r->n_blocks = 0;
    json_error_t mistake;
    json_t *json = json_loadb(line.text, line.length, JSON_REJECT_DUPLICATES, &mistake);
    if (!json) {
        kv_row_fail(r, line.number, mistake.position > 0 ? mistake.position : 1, e, "%s", mistake.text);
        return KV_NEXT_BAD;
    }
    bool good = read_row(r, state, &line, json, row, e);
    json_decref(json);
    return good ? KV_NEXT_ROW : KV_NEXT_BAD;
}

/* Whether there are times and hashes must be known before the first row is asked for, so the line is looked at; rows
 * are then held to it. */
static void *open_mooncake(struct kv_rows *r, struct kv_err *e)
{
    enum { LOOK = 1 << 20 };
    struct mooncake *m = calloc(1, sizeof *m);
    char *first = malloc(LOOK + 1);
    KV_ASSERT(m && first);
    bool good = kv_input_peek(r->in, first, LOOK, e);
    r->times = r->blocks = true; /* a blank line: until the first row tells */
    if (good && strchr(first, '{')) {
        r->blocks = strstr(first, "\"hash_ids\"");
        r->times = false;
        for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
            char key[32];
            snprintf(key, sizeof key, "\"%s\"", times[i].key);
            r->times |= strstr(first, key) != NULL;
        }
        m->asked = true;
    }
    free(first);
    if (good)
        return m;
    free(m);
    return NULL;
}

const struct kv_row_reader kv_read_mooncake = {.open = open_mooncake, .next = next_mooncake, .close = free};
