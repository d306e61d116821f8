/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Everything of a trace but its rows, checked. */
#include "traces/inside.h"
#include "traces/plane.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const kv_encoding_names[] = {"log2anch", "code", "f32", "f16", NULL};
const char *const kv_filter_names[] = {"none", "zstd", "gzip", NULL};
const char *const kv_reduce_names[] = {"none", "sum", "mean", "max", NULL};

static const int64_t zero = 0, sixty_four = 64;

int64_t kv_trace_positions(const struct kv_tick *tick, const struct kv_trace_channel *c)
{
    return kv_channels[c->what].span == KV_SPAN_SEEN ? tick->end : tick->end - tick->begin;
}

bool kv_trace_nonnegative(enum kv_channel what)
{
    return what <= KV_VALUE_NORM;
}

int64_t kv_trace_lanes(const struct kv_trace_about *about)
{
    return about->layers * (about->query_lanes ? about->q_heads : about->kv_heads);
}

const char *kv_tick_name(int64_t tick, char text[24])
{
    snprintf(text, 24, "t%05lld", (long long)tick);
    return text;
}

bool kv_is_tick_name(const char *name)
{
    return *name == 't' && strspn(name + 1, "0123456789") == strlen(name + 1) && strlen(name) <= 12;
}

int kv_trace_kind_of(const char *name)
{
    char kind[64];
    size_t n = strcspn(name, ".");
    if (n >= sizeof kind)
        return -1;
    memcpy(kind, name, n);
    kind[n] = '\0';
    return kv_channel_find(kind);
}

/* ---- what it is about ---- */

static bool has(const struct kv_index *x, int32_t group, const char *name)
{
    return kv_index_find(x, group, name) >= 0;
}

/* Whole numbers, by malloc; what they take, once here and once where they stay, is taken from what the file may ask. */
static int64_t *read_whole(struct kv_trace *t, int32_t group, const char *name, int64_t least, int64_t most, int64_t *n,
                           struct kv_err *e)
{
    int64_t *out = kv_index_numbers(&t->index, t->file, group, name, KV_I64, least, most, n, e);
    if (!out || kv_index_spend(&t->index, 16 * *n, e))
        return out;
    free(out);
    return NULL;
}

/* Zeroed items in the trace's arena, n and one more. */
static void *keep(struct kv_trace *t, int64_t n, size_t size, const char *what, struct kv_err *e)
{
    if (!kv_index_spend(&t->index, n * (int64_t)size, e))
        return NULL;
    return kv_alloc_many(t->own, (size_t)n + 1, size, what, e);
}

static bool check_format(struct kv_trace *t, struct kv_err *e)
{
    struct kv_index *x = &t->index;
    const char *format;
    int64_t major, minor;
    if (!kv_index_text(x, 0, "format", NULL, &format, t->own, e))
        return false;
    if (strcmp(format, "kvtrace"))
        return kv_index_bad(x, 0, e, "attribute 'format' is '%.40s'; expected 'kvtrace'", format);
    if (!kv_index_int(x, 0, "version_major", 0, INT32_MAX, NULL, &major, e) ||
        !kv_index_int(x, 0, "version_minor", 0, INT32_MAX, &zero, &minor, e))
        return false;
    return major == 1 ||
           kv_index_bad(x, 0, e, "has version %lld.%lld; this program reads 1.x", (long long)major, (long long)minor);
}

static bool read_root(struct kv_trace *t, struct kv_trace_about *b, struct kv_err *e)
{
    struct kv_index *x = &t->index;
    int64_t complete;
    /* a file without a count of passes was not written pass by pass: it is what it is */
    int32_t ticks = kv_index_find(x, 0, "ticks");
    int64_t otherwise = ticks < 0 || kv_index_find(x, ticks, "n_committed") < 0;
    if (!kv_index_int(x, 0, "complete", 0, 1, &otherwise, &complete, e))
        return false;
    b->complete = complete;
    return kv_index_text(x, 0, "producer", "", &b->producer, t->own, e) &&
           kv_index_text(x, 0, "producer_version", "", &b->producer_version, t->own, e) &&
           kv_index_text(x, 0, "created_utc", "", &b->created_utc, t->own, e) &&
           kv_index_text(x, 0, "uuid", "", &b->uuid, t->own, e) &&
           kv_index_text(x, 0, "policy", "full", &b->policy, t->own, e);
}

static bool read_model(struct kv_trace *t, struct kv_trace_about *b, struct kv_err *e)
{
    struct kv_index *x = &t->index;
    int32_t g;
    if (!kv_index_group(x, 0, "model", &g, e))
        return false;
    bool good = kv_index_int(x, g, "n_layer", 1, 10000, NULL, &b->layers, e) &&
                kv_index_int(x, g, "n_q_head", 1, 10000, NULL, &b->q_heads, e) &&
                kv_index_int(x, g, "n_kv_head", 1, 10000, NULL, &b->kv_heads, e) &&
                kv_index_int(x, g, "head_dim", 1, 65536, NULL, &b->head_dim, e) &&
                kv_index_text(x, g, "name", "", &b->model, t->own, e) &&
                kv_index_text(x, g, "revision", "", &b->revision, t->own, e) &&
                kv_index_text(x, g, "compute_dtype", "", &b->compute_dtype, t->own, e) &&
                kv_index_text(x, g, "kv_dtype", "", &b->kv_dtype, t->own, e);
    if (good && b->q_heads % b->kv_heads)
        good = kv_index_bad(x, g, e, "%lld query heads do not share %lld KV heads evenly", (long long)b->q_heads,
                            (long long)b->kv_heads);
    return good;
}

static bool read_prompt(struct kv_trace *t, struct kv_trace_about *b, struct kv_err *e)
{
    struct kv_index *x = &t->index;
    int32_t g;
    if (!kv_index_group(x, 0, "prompt", &g, e))
        return false;
    bool good = kv_index_int(x, g, "n_prompt", 1, KV_TRACE_MOST_TOKENS, NULL, &b->n_prompt, e) &&
                kv_index_int(x, g, "n_output", 0, KV_TRACE_MOST_TOKENS - b->n_prompt, NULL, &b->n_output, e) &&
                kv_index_int(x, g, "n_prefill", 0, b->n_prompt + b->n_output, &b->n_prompt, &b->prefill, e) &&
                kv_index_text(x, g, "dataset", "", &b->dataset, t->own, e) &&
                kv_index_text(x, g, "item_id", "", &b->item, t->own, e);
    b->has_ids = good && has(x, g, "ids");
    b->has_log_probability = good && has(x, g, "log_probability");
    return good;
}

/* The range of a mark, and its name: a line of the names. */
static bool fill_mark(struct kv_trace *t, int32_t g, int i, int64_t begin, int64_t end, char **names, struct kv_err *e)
{
    struct kv_mark *m = &t->about.mark[i];
    char *name = strsep(names, "\n");
    *m = (struct kv_mark){name ? name : "", begin, end};
    if (!name)
        return kv_index_bad(&t->index, g, e, "has fewer names than marks");
    return (begin >= 0 && begin < end && end <= t->about.n_prompt + t->about.n_output) ||
           kv_index_bad(&t->index, g, e, "mark %d, '%.40s', covers [%lld, %lld); the request has %lld tokens", i, name,
                        (long long)begin, (long long)end, (long long)(t->about.n_prompt + t->about.n_output));
}

static bool read_marks(struct kv_trace *t, struct kv_trace_about *b, struct kv_err *e)
{
    struct kv_index *x = &t->index;
    int32_t g;
    int64_t n = 0;
    const char *names;
    if (!has(x, 0, "marks"))
        return true;
    if (!kv_index_group(x, 0, "marks", &g, e))
        return false;
    int64_t *begin = read_whole(t, g, "begin", 0, 65536, &n, e);
    int64_t *end = begin ? read_whole(t, g, "end", n, n, &n, e) : NULL;
    bool good = end && kv_index_text(x, g, "names", NULL, &names, t->own, e);
    if (good) {
        char *rest = kv_copy_text(t->own, names);
        b->mark = KV_NEW_N(t->own, struct kv_mark, n + 1);
        b->n_marks = (int)n;
        for (int i = 0; good && i < n; i++)
            good = fill_mark(t, g, i, begin[i], end[i], &rest, e);
    }
    free(begin);
    free(end);
    return good;
}

/* ---- ticks ---- */

/* The first n numbers of a dataset, into *out (none there: NULL). */
static bool tick_numbers(struct kv_trace *t, int32_t g, const char *name, bool needed, int64_t n, int64_t **out,
                         struct kv_err *e)
{
    int64_t found;
    *out = NULL;
    if (!needed && !has(&t->index, g, name))
        return true;
    *out = read_whole(t, g, name, n, KV_TRACE_MOST_TICKS, &found, e);
    return *out != NULL;
}

enum { Q_BEGIN, Q_END, KIND, N_PATCH, START, END, BYTES, COLUMNS };
static const char *const columns[COLUMNS] = {"q_begin",    "q_end",    "kind",    "n_patch",
                                             "t_start_ns", "t_end_ns", "kv_bytes"};

static bool fill_tick(struct kv_trace *t, int32_t g, int64_t i, int64_t *const column[COLUMNS], struct kv_err *e)
{
    const struct kv_trace_about *b = &t->about;
    int64_t begin = column[Q_BEGIN][i], end = column[Q_END][i], last = i ? column[Q_END][i - 1] : 0;
    int64_t kind = column[KIND] ? column[KIND][i] : begin < b->prefill ? KV_TICK_PREFILL : KV_TICK_DECODE;
    int64_t patch = column[N_PATCH] ? column[N_PATCH][i] : 0;
    if (begin != last)
        return kv_index_bad(&t->index, g, e, "tick %lld begins at token %lld; expected %lld, where the one before ends",
                            (long long)i, (long long)begin, (long long)last);
    if (end <= begin || end > b->n_prompt + b->n_output)
        return kv_index_bad(&t->index, g, e, "tick %lld covers tokens [%lld, %lld); the request has %lld", (long long)i,
                            (long long)begin, (long long)end, (long long)(b->n_prompt + b->n_output));
    if (kind < 0 || kind > KV_TICK_DECODE)
        return kv_index_bad(&t->index, g, e, "tick %lld is of kind %lld; expected 0 to 2", (long long)i,
                            (long long)kind);
    if (patch < 0 || patch > KV_TRACE_MOST_TOKENS)
        return kv_index_bad(&t->index, g, e, "tick %lld has %lld patch tokens", (long long)i, (long long)patch);
    b->tick[i] = (struct kv_tick){.kind = (enum kv_tick_kind)kind, .begin = begin, .end = end, .n_patch = patch};
    b->tick[i].start_ns = column[START] ? column[START][i] : -1;
    b->tick[i].end_ns = column[END] ? column[END][i] : -1;
    b->tick[i].kv_bytes = column[BYTES] ? column[BYTES][i] : -1;
    return true;
}

static bool count_ticks(struct kv_trace *t, int32_t g, int64_t *n, struct kv_err *e)
{
    int64_t found;
    int64_t *begin = read_whole(t, g, "q_begin", 0, KV_TRACE_MOST_TICKS, n, e);
    free(begin);
    if (!begin || !has(&t->index, g, "n_committed"))
        return begin != NULL;
    int64_t *committed = read_whole(t, g, "n_committed", 1, 1, &found, e);
    if (!committed)
        return false;
    bool good = (*committed >= 0 && *committed <= *n) ||
                kv_index_bad(&t->index, g, e, "n_committed is %lld, but q_begin has %lld ticks", (long long)*committed,
                             (long long)*n);
    *n = *committed;
    free(committed);
    return good;
}

static bool read_ticks(struct kv_trace *t, struct kv_trace_about *b, struct kv_err *e)
{
    struct kv_index *x = &t->index;
    int32_t g;
    int64_t *column[COLUMNS] = {NULL};
    if (!kv_index_group(x, 0, "ticks", &g, e))
        return false;
    bool good = count_ticks(t, g, &b->n_ticks, e);
    for (int i = 0; good && i < COLUMNS; i++)
        good = tick_numbers(t, g, columns[i], i <= Q_END, b->n_ticks, &column[i], e);
    if (good)
        good = (b->tick = keep(t, b->n_ticks, sizeof *b->tick, "ticks", e)) != NULL;
    for (int64_t i = 0; good && i < b->n_ticks; i++)
        good = fill_tick(t, g, i, column, e);
    for (int i = 0; i < COLUMNS; i++)
        free(column[i]);
    return good;
}

/* ---- lanes ---- */

/* Lengths one behind another; false when one is negative or longer than `most`. */
static bool add_up(struct kv_trace *t, int32_t group, int64_t lanes, int64_t most, struct kv_lengths *out,
                   struct kv_err *e)
{
    int64_t total = 0, n;
    int64_t *length = read_whole(t, group, "length", lanes, lanes, &n, e);
    *out = (struct kv_lengths){lanes, length ? keep(t, n, sizeof(int64_t), "lengths", e) : NULL, group};
    bool good = out->begin != NULL;
    for (int64_t i = 0; good && i < n; i++) {
        if (length[i] < 0 || length[i] > most)
            good = kv_index_bad(&t->index, group, e, "length %lld is %lld; expected 0 to %lld", (long long)i,
                                (long long)length[i], (long long)most);
        total += length[i]; /* n and most are bounded: no overflow */
        out->begin[i + 1] = total;
    }
    free(length);
    return good;
}

/* The number of a tick whose group that is, -1: none that counts. */
static bool tick_of(const struct kv_trace *t, int32_t node, int64_t *tick, struct kv_err *e)
{
    char canonical[24];
    const char *name = t->index.node[node].name;
    *tick = -1;
    if (!kv_is_tick_name(name))
        return true;
    int64_t number = strtoll(name + 1, NULL, 10);
    if (strcmp(kv_tick_name(number, canonical), name))
        return kv_index_bad(&t->index, t->index.node[node].up, e, "'%s' is no name of a tick; expected '%s'", name,
                            canonical);
    if (number >= t->about.n_ticks)
        return true;
    *tick = number;
    enum kv_record_kind kind = t->index.node[node].kind;
    return kind == KV_RECORD_GROUP ||
           kv_index_bad(&t->index, node, e,
                        kind == KV_RECORD_ELSEWHERE ? "is a link to elsewhere; a trace is one file"
                                                    : "is no group; see traces/FORMAT.md");
}

static bool read_lanes(struct kv_trace *t, int32_t group, int64_t tick, struct kv_lengths *out, struct kv_err *e)
{
    struct kv_plane p = {0};
    int64_t lanes = kv_trace_lanes(&t->about);
    return add_up(t, group, lanes, t->about.tick[tick].end, out, e) &&
           kv_plane_open(&p, &t->index, t->file, group, "position", KV_I32, 1, 1, out->begin[lanes], e);
}

/* /slots or /kept, where the file has it. */
static bool read_lane_group(struct kv_trace *t, const char *group, struct kv_lengths **out, struct kv_err *e)
{
    struct kv_index *x = &t->index;
    int32_t g;
    const char *axis;
    int64_t tick;
    if (!has(x, 0, group))
        return true;
    if (!kv_index_group(x, 0, group, &g, e) ||
        !kv_index_text(x, g, "head_axis", t->about.query_lanes ? "q" : "kv", &axis, t->own, e))
        return false;
    if (t->slots && t->about.query_lanes != !strcmp(axis, "q"))
        return kv_index_bad(x, g, e, "attribute 'head_axis' is '%.40s', which is not that of /slots", axis);
    t->about.query_lanes = !strcmp(axis, "q");
    if (!(*out = keep(t, t->about.n_ticks, sizeof **out, group, e)))
        return false;
    for (int32_t i = g + 1; i < x->node[g].end; i = x->node[i].end) {
        if (!tick_of(t, i, &tick, e))
            return false;
        if (tick >= 0 && (*out)[tick].n)
            return kv_index_bad(x, i, e, "is there twice; the file is damaged");
        if (tick >= 0 && !read_lanes(t, i, tick, *out + tick, e))
            return false;
    }
    return true;
}

/* ---- channels ---- */

static bool one_of(const struct kv_index *x, int32_t g, const char *name, const char *text, const char *const *names,
                   int *out, struct kv_err *e)
{
    for (*out = 0; names[*out]; ++*out)
        if (!strcmp(names[*out], text))
            return true;
    return kv_index_bad(x, g, e, "attribute '%s' is '%.40s', which is not known", name, text);
}

static bool read_heads(struct kv_trace *t, int32_t g, struct kv_trace_channel *c, struct kv_err *e)
{
    static const char *const axes[] = {"kv", "q", NULL};
    static const char *const precisions[] = {"f32", "bf16", "f16", NULL};
    const char *axis, *reduce;
    int query, how, ignored;
    if (!kv_index_text(&t->index, g, "head_axis", NULL, &axis, t->own, e) ||
        !one_of(&t->index, g, "head_axis", axis, axes, &query, e))
        return false;
    c->query_heads = query;
    bool reduced = kv_channels[c->what].attention && !query;
    if (!kv_index_text(&t->index, g, "group_reduce", reduced ? "mean" : "none", &reduce, t->own, e) ||
        !one_of(&t->index, g, "group_reduce", reduce, kv_reduce_names, &how, e))
        return false;
    c->reduce = reduced ? (enum kv_reduce)how : KV_REDUCE_NONE;
    return kv_index_text(&t->index, g, "precision_in", "f32", &c->precision, t->own, e) &&
           one_of(&t->index, g, "precision_in", c->precision, precisions, &ignored, e) &&
           kv_index_text(&t->index, g, "under_policy", "full", &c->under, t->own, e);
}

static bool read_shape(const struct kv_trace *t, int32_t g, struct kv_trace_channel *c, struct kv_err *e)
{
    int64_t steps, ragged;
    bool windowed = kv_channels[c->what].window;
    if (!kv_index_int(&t->index, g, "window", windowed, KV_TRACE_MOST_WINDOW, windowed ? NULL : &zero, &c->window, e) ||
        !kv_index_int(&t->index, g, "steps_per_octave", 32, 128, &sixty_four, &steps, e) ||
        !kv_index_int(&t->index, g, "ragged", 0, 1, &zero, &ragged, e))
        return false;
    if (steps != 32 && steps != 64 && steps != 128)
        return kv_index_bad(&t->index, g, e, "attribute 'steps_per_octave' is %lld; expected 32, 64 or 128",
                            (long long)steps);
    c->steps_per_octave = (int)steps;
    c->ragged = ragged;
    c->rows = c->what == KV_WINDOW_LOGITS ? c->window : 1;
    c->elements = c->what == KV_KEYS || c->what == KV_VALUES ? t->about.head_dim : 1;
    c->streams = t->about.layers * (c->query_heads ? t->about.q_heads : t->about.kv_heads) * c->rows;
    return c->streams <= KV_TRACE_MOST_STREAMS ||
           kv_index_bad(&t->index, g, e, "layers, heads and window make %lld rows; at most %d are read",
                        (long long)c->streams, KV_TRACE_MOST_STREAMS);
}

/* Lengths of a ragged channel's rows: those of the lanes they belong to. */
static bool read_ragged(struct kv_trace *t, int channel, int64_t tick, struct kv_err *e)
{
    struct kv_trace_channel *c = &t->about.channel[channel];
    const struct kv_index *x = &t->index;
    int32_t g = t->rows[channel].group[tick];
    struct kv_lengths *out = &t->rows[channel].ragged[tick];
    int64_t lanes = kv_trace_lanes(&t->about), rows_of_lane = c->streams / lanes;
    if (!t->slots || !t->slots[tick].n)
        return kv_index_bad(x, x->node[g].up, e, "tick %lld is ragged, but /slots does not have it", (long long)tick);
    if (c->streams % lanes)
        return kv_index_bad(x, g, e, "has rows for KV heads, but lanes are query heads");
    if (!add_up(t, g, c->streams, t->about.tick[tick].end, out, e))
        return false;
    for (int64_t s = 0; s < c->streams; s++) {
        const int64_t *lane = t->slots[tick].begin + s / rows_of_lane, *row = out->begin + s;
        if (row[1] - row[0] != lane[1] - lane[0])
            return kv_index_bad(x, g, e, "row %lld has %lld positions, its lane in /slots %lld", (long long)s,
                                (long long)(row[1] - row[0]), (long long)(lane[1] - lane[0]));
    }
    return true;
}

/* Which ticks a channel has. */
static bool find_ticks(struct kv_trace *t, struct kv_rows *r, int32_t g, struct kv_err *e)
{
    const struct kv_index *x = &t->index;
    for (int32_t i = g + 1; i < x->node[g].end; i = x->node[i].end) {
        int64_t tick;
        if (!tick_of(t, i, &tick, e))
            return false;
        if (tick >= 0) {
            if (r->at[tick])
                return kv_index_bad(x, i, e, "is there twice; the file is damaged");
            r->at[tick] = true;
            r->group[tick] = i;
        }
    }
    return true;
}

static bool read_rows(struct kv_trace *t, int channel, int32_t g, struct kv_err *e)
{
    struct kv_trace_channel *c = &t->about.channel[channel];
    struct kv_rows *r = &t->rows[channel];
    int64_t n = t->about.n_ticks;
    bool first = true;
    if (!(r->at = keep(t, n, sizeof *r->at, "ticks", e)) || !(r->group = keep(t, n, sizeof *r->group, "ticks", e)) ||
        (c->ragged && !(r->ragged = keep(t, n, sizeof *r->ragged, "ticks", e))))
        return false;
    c->at = r->at;
    r->sum_tick = -1;
    c->encoding = KV_ENC_F32;
    if (!find_ticks(t, r, g, e))
        return false;
    for (int64_t i = 0; i < n; i++) {
        enum kv_encoding encoding;
        if (!r->at[i])
            continue;
        if ((c->ragged && !read_ragged(t, channel, i, e)) || !kv_rows_check(t, channel, i, &encoding, e))
            return false;
        if (first)
            c->encoding = encoding;
        first = false;
    }
    return true;
}

static bool read_channel(struct kv_trace *t, int32_t node, struct kv_err *e)
{
    struct kv_trace_about *b = &t->about;
    const char *name = t->index.node[node].name;
    int what = kv_trace_kind_of(name), own = b->n_channels;
    int32_t g, up = t->index.node[node].up;
    if (what < 0)
        return true;
    if (own == KV_TRACE_MOST_CHANNELS || strlen(name) > 100)
        return kv_index_bad(&t->index, up, e, "has more than %d channels, or too long a name", KV_TRACE_MOST_CHANNELS);
    struct kv_trace_channel *c = &b->channel[own];
    *c = (struct kv_trace_channel){.what = (enum kv_channel)what, .name = kv_copy_text(t->own, name)};
    b->n_channels++;
    return kv_index_group(&t->index, up, name, &g, e) && read_heads(t, g, c, e) && read_shape(t, g, c, e) &&
           read_rows(t, own, g, e);
}

static bool read_channels(struct kv_trace *t, struct kv_err *e)
{
    const struct kv_index *x = &t->index;
    int32_t g;
    t->about.channel = KV_NEW_N(t->own, struct kv_trace_channel, KV_TRACE_MOST_CHANNELS);
    t->rows = KV_NEW_N(t->own, struct kv_rows, KV_TRACE_MOST_CHANNELS);
    if (!kv_index_group(x, 0, "channels", &g, e))
        return false;
    for (int32_t i = g + 1; i < x->node[g].end; i = x->node[i].end)
        if (!read_channel(t, i, e))
            return false;
    return true;
}

bool kv_trace_walk(struct kv_trace *t, struct kv_err *e)
{
    struct kv_trace_about *b = &t->about;
    bool good = check_format(t, e) && read_root(t, b, e) && read_model(t, b, e) && read_prompt(t, b, e) &&
                read_marks(t, b, e) && read_ticks(t, b, e) && read_lane_group(t, "slots", &t->slots, e) &&
                read_lane_group(t, "kept", &t->kept, e) && read_channels(t, e);
    b->has_kept = t->kept != NULL;
    return good;
}
