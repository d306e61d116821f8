/* SPDX-License-Identifier: GPL-3.0-or-later */
/* `kvsim trace head`: the first numbers of some rows. */
#include "sim/core/select.h"
#include "sim/table.h"
#include "sim/trace_verbs.h"

#include <stdlib.h>
#include <string.h>

static const struct kv_column columns[] = {
    {"channel", NULL, KV_CELL_TEXT},       {"tick", NULL, KV_CELL_COUNT},    {"layer", "layer", KV_CELL_COUNT},
    {"head", "head", KV_CELL_COUNT},       {"row", "row", KV_CELL_COUNT},    {"position", "position", KV_CELL_COUNT},
    {"element", "element", KV_CELL_COUNT}, {"value", "value", KV_CELL_REAL},
};

struct asked {
    int channel;
    int64_t tick, layer, head, numbers;
};

static bool find_channel(const struct kv_args *args, const struct kv_trace_about *b, int *channel, struct kv_arena *a,
                         struct kv_err *e)
{
    const char *name = kv_arg_text(args, "channel", NULL), *all = "";
    const char **names = KV_NEW_N(a, const char *, b->n_channels + 1);
    if (!b->n_channels)
        return kv_fail(e, KV_DATA, "trace '%s' has no channel", args->operand[1]);
    for (*channel = 0; *channel < b->n_channels; ++*channel) {
        names[*channel] = b->channel[*channel].name;
        all = kv_format(a, "%s%s%s", all, *all ? ", " : "", names[*channel]);
        if (!name || !strcmp(name, names[*channel]))
            return true;
    }
    const char *near = kv_nearest(name, names, b->n_channels);
    return near ? kv_fail(e, KV_USAGE, "--channel: the trace has no '%s'; did you mean '%s'?", name, near)
                : kv_fail(e, KV_USAGE, "--channel: the trace has no '%s'; it has %s", name, all);
}

static bool find_tick(const struct kv_args *args, const struct kv_trace_about *b, struct asked *q, struct kv_arena *a,
                      struct kv_err *e)
{
    const struct kv_trace_channel *c = &b->channel[q->channel];
    q->tick = b->n_ticks - 1;
    while (q->tick >= 0 && !c->at[q->tick])
        q->tick--;
    if (q->tick < 0)
        return kv_fail(e, KV_DATA, "trace '%s': channel '%s' was recorded at no pass", args->operand[1], c->name);
    if (!kv_arg_count(args, "tick", 0, b->n_ticks - 1, &q->tick, a, e))
        return false;
    return c->at[q->tick] ||
           kv_fail(e, KV_USAGE, "--tick: channel '%s' was not recorded at pass %lld", c->name, (long long)q->tick);
}

static bool read_asked(const struct kv_args *args, const struct kv_trace_about *b, struct asked *q, struct kv_arena *a,
                       struct kv_err *e)
{
    *q = (struct asked){.numbers = 10, .head = -1};
    if (!find_channel(args, b, &q->channel, a, e) || !find_tick(args, b, q, a, e))
        return false;
    const struct kv_trace_channel *c = &b->channel[q->channel];
    kv_arg_count(args, "layer", 0, b->layers - 1, &q->layer, a, e);
    kv_arg_count(args, "head", 0, (c->query_heads ? b->q_heads : b->kv_heads) - 1, &q->head, a, e);
    kv_arg_count(args, "numbers", 1, INT64_MAX, &q->numbers, a, e);
    return !e->n;
}

/* Where the numbers of a row lie: its own positions, or those that the lane held. */
static bool positions_of(struct kv_trace *t, const struct kv_trace_about *b, const struct asked *q, int64_t head,
                         const int32_t **position, struct kv_trace_work *w, struct kv_err *e)
{
    const struct kv_trace_channel *c = &b->channel[q->channel];
    int64_t n, lane = c->query_heads && !b->query_lanes ? head / (b->q_heads / b->kv_heads) : head;
    *position = NULL;
    return !c->ragged || kv_trace_slots(t, q->tick, q->layer, lane, position, &n, w, e);
}

/* The double whose shortest decimal is that of the float. */
static double shortest(float x)
{
    char text[32];
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)x);
        if (strtof(text, NULL) == x)
            break;
    }
    return strtod(text, NULL);
}

static bool add_row(struct kv_table *table, struct kv_trace *t, const struct kv_trace_about *b, const struct asked *q,
                    int64_t head, int64_t r, float *row, struct kv_trace_work *w, struct kv_err *e)
{
    const struct kv_trace_channel *c = &b->channel[q->channel];
    int64_t heads = c->query_heads ? b->q_heads : b->kv_heads, stream = (q->layer * heads + head) * c->rows + r;
    int64_t n = kv_trace_row_length(t, q->channel, q->tick, stream) * c->elements;
    int64_t first = kv_channels[c->what].span == KV_SPAN_NEW ? b->tick[q->tick].begin : 0;
    const int32_t *position;
    if (!kv_trace_row(t, q->channel, q->tick, stream, row, w, e) || !positions_of(t, b, q, head, &position, w, e))
        return false;
    for (int64_t i = 0; i < n && i < q->numbers; i++) {
        struct kv_cell *cell = kv_table_row(table);
        int64_t at = i / c->elements;
        kv_set_text(table, cell, "channel", c->name);
        kv_set_whole(table, cell, "tick", q->tick);
        kv_set_whole(table, cell, "layer", q->layer);
        kv_set_whole(table, cell, "head", head);
        kv_set_whole(table, cell, "row", r);
        kv_set_whole(table, cell, "position", position ? position[at] : first + at);
        kv_set_whole(table, cell, "element", i % c->elements);
        kv_set_real(table, cell, "value", shortest(row[i]));
    }
    return true;
}

static bool fill(struct kv_table *table, struct kv_trace *t, const struct kv_trace_about *b, const struct asked *q,
                 struct kv_arena *a, struct kv_err *e)
{
    const struct kv_trace_channel *c = &b->channel[q->channel];
    int64_t heads = c->query_heads ? b->q_heads : b->kv_heads;
    size_t most = (size_t)(b->tick[q->tick].end * c->elements) + KV_SLACK;
    float *row = kv_alloc_many(a, most, sizeof *row, "numbers", e);
    struct kv_trace_work *w = row ? kv_trace_work_open(t, e) : NULL;
    bool good = w != NULL;
    for (int64_t h = q->head < 0 ? 0 : q->head; good && h < (q->head < 0 ? heads : q->head + 1); h++)
        for (int64_t r = 0; good && r < c->rows; r++)
            good = add_row(table, t, b, q, h, r, row, w, e);
    kv_trace_work_close(w);
    return good;
}

bool kv_trace_verb_head(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    struct kv_trace *t;
    struct kv_trace_about b;
    struct asked q;
    struct kv_table table;
    if (!kv_trace_open(&t, args->operand[1], &b, a, e))
        return false;
    kv_table_open(&table, columns, sizeof columns / sizeof *columns, a);
    bool good = read_asked(args, &b, &q, a, e) && fill(&table, t, &b, &q, a, e);
    if (good && !kv_table_as_asked(&table, args)) {
        printf("%s, pass %lld: tokens [%lld, %lld)\n\n", b.channel[q.channel].name, (long long)q.tick,
               (long long)b.tick[q.tick].begin, (long long)b.tick[q.tick].end);
        kv_table_print(&table, stdout);
    }
    kv_trace_close(t);
    return good;
}
