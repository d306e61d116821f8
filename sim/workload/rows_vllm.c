/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What vLLM leaves behind. The result of `vllm bench serve --save-result --save-detailed`: one JSON object with lists
 * input_lens, output_lens and, since early 2026, start_times, an entry for each request. The server's log with
 * --enable-log-requests --enable-log-outputs: times to the second, prompts and answers as lists of token ids. */
#include "sim/workload/format.h"

#include "sim/core/hash.h"
#include "sim/core/random.h"

#include <ctype.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- results of the benchmark ---- */

struct result {
    json_t *json;
    const json_t *prompts, *outputs, *starts; /* borrowed */
    size_t at;
};

static void close_result(void *state)
{
    struct result *s = state;
    json_decref(s->json);
    free(s);
}

static bool check_result(struct kv_rows *r, struct result *s, struct kv_err *e)
{
    s->prompts = json_object_get(s->json, "input_lens");
    s->outputs = json_object_get(s->json, "output_lens");
    s->starts = json_object_get(s->json, "start_times");
    if (!json_is_array(s->prompts) || !json_is_array(s->outputs))
        return kv_row_fail(r, 1, 1, e,
                           "no lists input_lens and output_lens; write the result with vllm bench serve --save-result "
                           "--save-detailed");
    if (json_array_size(s->prompts) != json_array_size(s->outputs) ||
        (s->starts && json_array_size(s->starts) != json_array_size(s->prompts)))
        return kv_row_fail(r, 1, 1, e, "input_lens, output_lens and start_times are not equally long");
    r->times = s->starts != NULL;
    return true;
}

static void *open_result(struct kv_rows *r, struct kv_err *e)
{
    char *text;
    size_t length;
    json_error_t mistake;
    if (!kv_input_rest(r->in, &text, &length, (size_t)1 << 30, e))
        return NULL;
    struct result *s = calloc(1, sizeof *s);
    KV_ASSERT(s);
    s->json = json_loadb(text, length, 0, &mistake);
    if (s->json ? check_result(r, s, e)
                : kv_row_fail(r, mistake.line, mistake.column > 0 ? mistake.column : 1, e, "%s", mistake.text))
        return s;
    close_result(s);
    return NULL;
}

static bool result_count(struct kv_rows *r, const struct result *s, const json_t *list, const char *name, int64_t *out,
                         struct kv_err *e)
{
    const json_t *value = json_array_get(list, s->at);
    json_int_t n = json_integer_value(value);
    if (!json_is_integer(value) || n < 1 || n > KV_ROW_MOST_TOKENS)
        return kv_row_fail(
            r, 1, 1, e, "%s[%zu] is not 1 .. %d%s", name, s->at, KV_ROW_MOST_TOKENS,
            json_is_integer(value) && n == 0 ? " (a request that failed? leave such rows out with --skip-bad)" : "");
    *out = n;
    return true;
}

static enum kv_next next_result(struct kv_rows *r, void *state, struct kv_row *row, struct kv_err *e)
{
    struct result *s = state;
    if (s->at >= json_array_size(s->prompts))
        return KV_NEXT_END;
    row->line = row->column = 1;
    const json_t *start = json_array_get(s->starts, s->at);
    double seconds = json_number_value(start);
    bool good = !s->starts || (json_is_number(start) && seconds >= 0 && seconds <= 4e9) ||
                kv_row_fail(r, 1, 1, e, "start_times[%zu] is no time from 0 to 4e9 s", s->at);
    if (good && s->starts)
        row->arrival_ns = llrint(seconds * 1e9);
    good = good && result_count(r, s, s->prompts, "input_lens", &row->prompt, e) &&
           result_count(r, s, s->outputs, "output_lens", &row->output, e);
    s->at++;
    return good ? KV_NEXT_ROW : KV_NEXT_BAD;
}

const struct kv_row_reader kv_read_vllm_result = {.open = open_result, .next = next_result, .close = close_result};

/* ---- the server's log ---- */

/* Requests come out in the order in which they came in, each when its answer was seen. So those that stand behind one
 * without an answer are held, up to MOST_OPEN of them. */
enum { MOST_OPEN = 1 << 20 };

struct open_request {
    uint64_t id;
    int64_t ns, prompt, output, line;
    bool answered;
};

struct log {
    struct open_request *queue; /* ring of `room`, a power of two */
    int64_t *slot;              /* (4 room,) by id: number of the request, from 0; -1: free */
    int64_t room, first, last;  /* numbers first .. last - 1 are held */
    bool ended;
};

static void close_log(void *state)
{
    struct log *g = state;
    free(g->queue);
    free(g->slot);
    free(g);
}

static struct open_request *held(const struct log *g, int64_t number)
{
    return &g->queue[number & (g->room - 1)];
}

static void put_slot(struct log *g, int64_t number)
{
    uint64_t at = kv_mix(held(g, number)->id);
    while (g->slot[at & (uint64_t)(4 * g->room - 1)] >= 0)
        at++;
    g->slot[at & (uint64_t)(4 * g->room - 1)] = number;
}

/* The ring at another size, and the table made anew without those that left. */
static void rebuild(struct log *g, int64_t room)
{
    struct open_request *queue = calloc((size_t)room, sizeof *queue);
    KV_ASSERT(queue);
    for (int64_t i = g->first; i < g->last; i++)
        queue[i & (room - 1)] = *held(g, i);
    free(g->queue);
    free(g->slot);
    g->queue = queue;
    g->room = room;
    g->slot = malloc((size_t)(4 * room) * sizeof *g->slot);
    KV_ASSERT(g->slot);
    for (int64_t i = 0; i < 4 * room; i++)
        g->slot[i] = -1;
    for (int64_t i = g->first; i < g->last; i++)
        put_slot(g, i);
}

static struct open_request *find(const struct log *g, uint64_t id)
{
    for (uint64_t at = kv_mix(id); g->slot[at & (uint64_t)(4 * g->room - 1)] >= 0; at++) {
        int64_t number = g->slot[at & (uint64_t)(4 * g->room - 1)];
        if (number >= g->first && held(g, number)->id == id)
            return held(g, number);
    }
    return NULL;
}

static uint64_t id_of(const char *text)
{
    return kv_hash(KV_HASH_START, text, strcspn(text, ": ("));
}

/* The numbers of the list behind the last `key`, for prompts may hold anything; -1: there is none. */
static int64_t count_list(const char *text, const char *key)
{
    const char *found = NULL;
    for (const char *c = text; (c = strstr(c, key)); c++)
        found = c;
    if (!found)
        return -1;
    found += strlen(key);
    int64_t n = 0;
    bool in = false;
    for (; *found && *found != ']'; found++) {
        bool digit = isdigit((unsigned char)*found);
        n += digit && !in;
        in = digit;
    }
    return *found ? n : -1;
}

/* "INFO 02-13 11:33:33 ..." has no year: one with a 29 February. */
static bool log_time(const char *text, int64_t *ns)
{
    char stamp[32] = "2000-";
    for (const char *c = text; *c && *c != ']'; c++) {
        size_t n = strspn(c, "0123456789-: ");
        if (n < 14 || !isdigit((unsigned char)*c) || c[2] != '-' || c[5] != ' ')
            continue;
        memcpy(stamp + 5, c, 14);
        return kv_stamp_read(stamp, 19, ns);
    }
    return false;
}

static bool take_request(struct kv_rows *r, struct log *g, const struct kv_line *line, const char *id, struct kv_err *e)
{
    struct open_request q = {.id = id_of(id), .line = line->number, .output = 0};
    struct open_request *before = find(g, q.id);
    int64_t prompt = count_list(line->text, "prompt_token_ids: [");
    if (before && !before->answered) { /* its details came first, or come now */
        before->prompt = prompt > 0 ? prompt : before->prompt;
        return true;
    }
    if (!log_time(line->text, &q.ns))
        return kv_row_fail(r, line->number, 1, e, "no time before the request; expected INFO MM-DD HH:MM:SS");
    q.prompt = prompt;
    if (g->last - g->first == g->room)
        rebuild(g, g->room * 2);
    else if (g->last % g->room == 0) /* now and then the table is swept */
        rebuild(g, g->room);
    *held(g, g->last) = q;
    put_slot(g, g->last++);
    return true;
}

static void take_answer(struct log *g, const char *id)
{
    struct open_request *q = find(g, id_of(id));
    int64_t n = count_list(id, "output_token_ids: [");
    if (!q) /* completions are numbered within a call */
        q = find(g, kv_hash(id_of(id), "-0", 2));
    if (!q)
        return;
    if (n > 0)
        q->output += n;
    q->answered = !strstr(id, " (streaming delta): ");
}

static bool take_line(struct kv_rows *r, struct log *g, const struct kv_line *line, struct kv_err *e)
{
    const char *found = strstr(line->text, "] Received request ");
    if (found)
        return take_request(r, g, line, found + strlen("] Received request "), e);
    found = strstr(line->text, "] Generated response ");
    if (found)
        take_answer(g, found + strlen("] Generated response "));
    found = strstr(line->text, "] Request ");
    if (found && strstr(found, " details: prompt:")) /* at DEBUG, beside "Received request" */
        return take_request(r, g, line, found + strlen("] Request "), e);
    return true;
}

static enum kv_next give_first(struct kv_rows *r, struct log *g, struct kv_row *row, struct kv_err *e)
{
    const struct open_request *q = held(g, g->first++);
    row->line = q->line;
    row->column = 1;
    row->arrival_ns = q->ns;
    row->prompt = q->prompt;
    row->output = q->output;
    bool good =
        (q->prompt > 0 || kv_row_fail(r, q->line, 1, e,
                                      "the request's prompt_token_ids are not in the log; start vLLM with "
                                      "VLLM_LOGGING_LEVEL=DEBUG and --enable-log-requests")) &&
        (q->output > 0 ||
         kv_row_fail(r, q->line, 1, e,
                     q->answered ? "the request's answer has no output_token_ids"
                                 : "the request was not answered in the log; start vLLM with --enable-log-outputs, or "
                                   "leave such rows out with --skip-bad"));
    return good ? KV_NEXT_ROW : KV_NEXT_BAD;
}

static enum kv_next next_log(struct kv_rows *r, void *state, struct kv_row *row, struct kv_err *e)
{
    struct log *g = state;
    struct kv_line line;
    while (!g->ended && !(g->first < g->last && held(g, g->first)->answered) && g->last - g->first < MOST_OPEN) {
        enum kv_next next = kv_input_line(r->in, &line, e);
        r->broken = next == KV_NEXT_BAD;
        if (next == KV_NEXT_BAD)
            return next;
        g->ended = next == KV_NEXT_END;
        if (g->ended)
            break;
        row->line = line.number;
        if (!take_line(r, g, &line, e))
            return KV_NEXT_BAD;
    }
    if (g->first < g->last)
        return give_first(r, g, row, e);
    if (g->last)
        return KV_NEXT_END;
    r->broken = true;
    kv_fail(e, KV_DATA, "%s:1: no \"Received request\" in it; start vLLM with --enable-log-requests",
            kv_input_path(r->in));
    return KV_NEXT_BAD;
}

static void *open_log(struct kv_rows *r, struct kv_err *e)
{
    (void)e;
    struct log *g = calloc(1, sizeof *g);
    KV_ASSERT(g);
    rebuild(g, 256);
    r->times = true;
    return g;
}

const struct kv_row_reader kv_read_vllm_log = {.open = open_log, .next = next_log, .close = close_log};
