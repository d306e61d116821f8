/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Everything of a trace but its rows, checked. */
#include "traces/inside.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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

/* ---- the file and what it is about ---- */

static bool open_file(struct kv_trace *t, const char *path, struct kv_err *e)
{
    struct stat st;
    t->root = (struct kv_place){.path = kv_copy_text(t->own, path), .id = H5I_INVALID_HID};
    t->file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (t->file < 0 || fstat(t->file, &st))
        return kv_fail(e, KV_DATA, "cannot open '%s': %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return kv_fail(e, KV_DATA, "cannot open '%s': it is no file", path);
    t->root.bytes = st.st_size;
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
    H5Pset_cache(access, 0, 521, 0, 0.75); /* no chunk is kept by the library */
    t->root.id = H5Fopen(path, H5F_ACC_RDONLY, access);
    H5Pclose(access);
    return t->root.id >= 0 || kv_fail(e, KV_DATA, "trace '%s': is no HDF5 file, or damaged: %s", path, kv_h5_why());
}

static bool check_format(struct kv_trace *t, struct kv_err *e)
{
    const char *format;
    int64_t major, minor;
    if (!kv_h5_text(&t->root, "format", NULL, &format, t->own, e))
        return false;
    if (strcmp(format, "kvtrace"))
        return kv_h5_bad(&t->root, e, "attribute 'format' is '%.40s'; expected 'kvtrace'", format);
    if (!kv_h5_int(&t->root, "version_major", 0, INT32_MAX, NULL, &major, e) ||
        !kv_h5_int(&t->root, "version_minor", 0, INT32_MAX, &zero, &minor, e))
        return false;
    return major == 1 ||
           kv_h5_bad(&t->root, e, "has version %lld.%lld; this program reads 1.x", (long long)major, (long long)minor);
}

static bool read_root(struct kv_trace *t, struct kv_trace_about *b, struct kv_err *e)
{
    int64_t complete;
    if (!kv_h5_int(&t->root, "complete", 0, 1, &zero, &complete, e))
        return false;
    b->complete = complete;
    return kv_h5_text(&t->root, "producer", "", &b->producer, t->own, e) &&
           kv_h5_text(&t->root, "producer_version", "", &b->producer_version, t->own, e) &&
           kv_h5_text(&t->root, "created_utc", "", &b->created_utc, t->own, e) &&
           kv_h5_text(&t->root, "uuid", "", &b->uuid, t->own, e) &&
           kv_h5_text(&t->root, "policy", "full", &b->policy, t->own, e);
}

static bool read_model(struct kv_trace *t, struct kv_trace_about *b, struct kv_err *e)
{
    struct kv_place g;
    if (!kv_h5_group(&t->root, "model", &g, e))
        return false;
    bool good = kv_h5_int(&g, "n_layer", 1, 10000, NULL, &b->layers, e) &&
                kv_h5_int(&g, "n_q_head", 1, 10000, NULL, &b->q_heads, e) &&
                kv_h5_int(&g, "n_kv_head", 1, 10000, NULL, &b->kv_heads, e) &&
                kv_h5_int(&g, "head_dim", 1, 65536, NULL, &b->head_dim, e) &&
                kv_h5_text(&g, "name", "", &b->model, t->own, e) &&
                kv_h5_text(&g, "revision", "", &b->revision, t->own, e) &&
                kv_h5_text(&g, "compute_dtype", "", &b->compute_dtype, t->own, e);
    if (good && b->q_heads % b->kv_heads)
        good = kv_h5_bad(&g, e, "%lld query heads do not share %lld KV heads evenly", (long long)b->q_heads,
                         (long long)b->kv_heads);
    H5Oclose(g.id);
    return good;
}

static bool read_prompt(struct kv_trace *t, struct kv_trace_about *b, struct kv_err *e)
{
    struct kv_place g;
    if (!kv_h5_group(&t->root, "prompt", &g, e))
        return false;
    bool good = kv_h5_int(&g, "n_prompt", 1, KV_TRACE_MOST_TOKENS, NULL, &b->n_prompt, e) &&
                kv_h5_int(&g, "n_output", 0, KV_TRACE_MOST_TOKENS - b->n_prompt, NULL, &b->n_output, e) &&
                kv_h5_int(&g, "n_prefill", 0, b->n_prompt + b->n_output, &b->n_prompt, &b->prefill, e) &&
                kv_h5_text(&g, "dataset", "", &b->dataset, t->own, e) &&
                kv_h5_text(&g, "item_id", "", &b->item, t->own, e);
    b->has_ids = good && kv_h5_has(&g, "ids");
    b->has_log_probability = good && kv_h5_has(&g, "log_probability");
    H5Oclose(g.id);
    return good;
}

/* The range of a mark, and its name: a line of the names. */
static bool fill_mark(struct kv_trace *t, const struct kv_place *g, int i, int64_t begin, int64_t end, char **names,
                      struct kv_err *e)
{
    struct kv_mark *m = &t->about.mark[i];
    char *name = strsep(names, "\n");
    *m = (struct kv_mark){name ? name : "", begin, end};
    if (!name)
        return kv_h5_bad(g, e, "has fewer names than marks");
    return (begin >= 0 && begin < end && end <= t->about.n_prompt + t->about.n_output) ||
           kv_h5_bad(g, e, "mark %d, '%.40s', covers [%lld, %lld); the request has %lld tokens", i, name,
                     (long long)begin, (long long)end, (long long)(t->about.n_prompt + t->about.n_output));
}

static bool read_marks(struct kv_trace *t, struct kv_trace_about *b, struct kv_err *e)
{
    struct kv_place g;
    int64_t n = 0;
    const char *names;
    if (!kv_h5_has(&t->root, "marks"))
        return true;
    if (!kv_h5_group(&t->root, "marks", &g, e))
        return false;
    int64_t *begin = kv_h5_numbers(&g, "begin", H5T_NATIVE_INT64, 0, 65536, &n, e);
    int64_t *end = begin ? kv_h5_numbers(&g, "end", H5T_NATIVE_INT64, n, n, &n, e) : NULL;
    bool good = end && kv_h5_text(&g, "names", NULL, &names, t->own, e);
    if (good) {
        char *rest = kv_copy_text(t->own, names);
        b->mark = KV_NEW_N(t->own, struct kv_mark, n + 1);
        b->n_marks = (int)n;
        for (int i = 0; good && i < n; i++)
            good = fill_mark(t, &g, i, begin[i], end[i], &rest, e);
    }
    free(begin);
    free(end);
    H5Oclose(g.id);
    return good;
}

/* ---- ticks ---- */

/* The first n numbers of a dataset, into *out (none there: NULL). */
static bool tick_numbers(const struct kv_place *g, const char *name, bool needed, int64_t n, int64_t **out,
                         struct kv_err *e)
{
    int64_t found;
    *out = NULL;
    if (!needed && !kv_h5_has(g, name))
        return true;
    *out = kv_h5_numbers(g, name, H5T_NATIVE_INT64, n, KV_TRACE_MOST_TICKS, &found, e);
    return *out != NULL;
}

enum { Q_BEGIN, Q_END, KIND, N_PATCH, START, END, BYTES, COLUMNS };
static const char *const columns[COLUMNS] = {"q_begin",    "q_end",    "kind",    "n_patch",
                                             "t_start_ns", "t_end_ns", "kv_bytes"};

static bool fill_tick(struct kv_trace *t, const struct kv_place *g, int64_t i, int64_t *const column[COLUMNS],
                      struct kv_err *e)
{
    const struct kv_trace_about *b = &t->about;
    int64_t begin = column[Q_BEGIN][i], end = column[Q_END][i], last = i ? column[Q_END][i - 1] : 0;
    int64_t kind = column[KIND] ? column[KIND][i] : begin < b->prefill ? KV_TICK_PREFILL : KV_TICK_DECODE;
    int64_t patch = column[N_PATCH] ? column[N_PATCH][i] : 0;
    if (begin != last)
        return kv_h5_bad(g, e, "tick %lld begins at token %lld; expected %lld, where the one before ends", (long long)i,
                         (long long)begin, (long long)last);
    if (end <= begin || end > b->n_prompt + b->n_output)
        return kv_h5_bad(g, e, "tick %lld covers tokens [%lld, %lld); the request has %lld", (long long)i,
                         (long long)begin, (long long)end, (long long)(b->n_prompt + b->n_output));
    if (kind < 0 || kind > KV_TICK_DECODE)
        return kv_h5_bad(g, e, "tick %lld is of kind %lld; expected 0 to 2", (long long)i, (long long)kind);
    if (patch < 0 || patch > KV_TRACE_MOST_TOKENS)
        return kv_h5_bad(g, e, "tick %lld has %lld patch tokens", (long long)i, (long long)patch);
    b->tick[i] = (struct kv_tick){.kind = (enum kv_tick_kind)kind, .begin = begin, .end = end, .n_patch = patch};
    b->tick[i].start_ns = column[START] ? column[START][i] : -1;
    b->tick[i].end_ns = column[END] ? column[END][i] : -1;
    b->tick[i].kv_bytes = column[BYTES] ? column[BYTES][i] : -1;
    return true;
}

static bool count_ticks(const struct kv_place *g, int64_t *n, struct kv_err *e)
{
    int64_t found;
    int64_t *begin = kv_h5_numbers(g, "q_begin", H5T_NATIVE_INT64, 0, KV_TRACE_MOST_TICKS, n, e);
    free(begin);
    if (!begin || !kv_h5_has(g, "n_committed"))
        return begin != NULL;
    int64_t *committed = kv_h5_numbers(g, "n_committed", H5T_NATIVE_INT64, 1, 1, &found, e);
    if (!committed)
        return false;
    bool good =
        (*committed >= 0 && *committed <= *n) ||
        kv_h5_bad(g, e, "n_committed is %lld, but q_begin has %lld ticks", (long long)*committed, (long long)*n);
    *n = *committed;
    free(committed);
    return good;
}

static bool read_ticks(struct kv_trace *t, struct kv_trace_about *b, struct kv_err *e)
{
    struct kv_place g;
    int64_t *column[COLUMNS] = {NULL};
    if (!kv_h5_group(&t->root, "ticks", &g, e))
        return false;
    bool good = count_ticks(&g, &b->n_ticks, e);
    for (int i = 0; good && i < COLUMNS; i++)
        good = tick_numbers(&g, columns[i], i <= Q_END, b->n_ticks, &column[i], e);
    if (good)
        good = (b->tick = kv_alloc_many(t->own, (size_t)b->n_ticks + 1, sizeof *b->tick, "ticks", e)) != NULL;
    for (int64_t i = 0; good && i < b->n_ticks; i++)
        good = fill_tick(t, &g, i, column, e);
    for (int i = 0; i < COLUMNS; i++)
        free(column[i]);
    H5Oclose(g.id);
    return good;
}

/* ---- lanes ---- */

/* Lengths one behind another; false when one is negative or longer than `most`, or they are more than the file has. */
static bool add_up(const struct kv_place *g, const int64_t *length, int64_t n, int64_t most, struct kv_lengths *out,
                   struct kv_arena *a, struct kv_err *e)
{
    int64_t total = 0;
    *out = (struct kv_lengths){n, kv_alloc_many(a, (size_t)n + 1, sizeof(int64_t), "lengths", e)};
    if (!out->begin)
        return false;
    for (int64_t i = 0; i < n; i++) {
        if (length[i] < 0 || length[i] > most)
            return kv_h5_bad(g, e, "length %lld is %lld; expected 0 to %lld", (long long)i, (long long)length[i],
                             (long long)most);
        total += length[i]; /* n and most are bounded: no overflow */
        out->begin[i + 1] = total;
    }
    return true;
}

static bool read_lanes(struct kv_trace *t, const struct kv_place *up, int64_t tick, struct kv_lengths *out, bool deep,
                       struct kv_err *e)
{
    struct kv_place g;
    char name[24];
    int64_t n, lanes = kv_trace_lanes(&t->about);
    if (!kv_h5_group(up, kv_tick_name(tick, name), &g, e))
        return false;
    int64_t *length = kv_h5_numbers(&g, "length", H5T_NATIVE_INT64, lanes, lanes, &n, e);
    bool good = length && add_up(&g, length, n, t->about.tick[tick].end, out, t->own, e);
    free(length);
    if (good) {
        struct kv_plane p = {0};
        good = kv_plane_open(&p, &g, "position", H5Tcopy(H5T_STD_I32LE), 1, 1, out->begin[n], e);
        good = good && (!deep || kv_h5_walk_chunks(&p.set, 1, e));
        kv_plane_close(&p);
    }
    H5Oclose(g.id);
    return good;
}

/* /slots or /kept, where the file has it. */
static bool read_lane_group(struct kv_trace *t, const char *group, struct kv_lengths **out, bool deep, struct kv_err *e)
{
    struct kv_place g;
    char name[24];
    const char *axis;
    int64_t n = t->about.n_ticks;
    if (!kv_h5_has(&t->root, group))
        return true;
    if (!kv_h5_group(&t->root, group, &g, e))
        return false;
    bool good = kv_h5_text(&g, "head_axis", t->about.query_lanes ? "q" : "kv", &axis, t->own, e);
    t->about.query_lanes = good && !strcmp(axis, "q");
    good = good && (*out = kv_alloc_many(t->own, (size_t)n + 1, sizeof **out, group, e)) != NULL;
    for (int64_t i = 0; good && i < n; i++)
        if (kv_h5_has(&g, kv_tick_name(i, name)))
            good = read_lanes(t, &g, i, *out + i, deep, e);
    H5Oclose(g.id);
    return good;
}

/* ---- channels ---- */

struct visit {
    struct kv_trace *t;
    const struct kv_place *at;
    struct kv_err *e;
    int channel;
};

/* The kind of channel a group is for: its name up to a dot; -1: none we know. */
static int kind_of(const char *name)
{
    char kind[64];
    size_t n = strcspn(name, ".");
    if (n >= sizeof kind)
        return -1;
    memcpy(kind, name, n);
    kind[n] = '\0';
    return kv_channel_find(kind);
}

static herr_t list_channel(hid_t id, const char *name, const H5L_info_t *info, void *visit)
{
    struct visit *v = visit;
    struct kv_trace_about *b = &v->t->about;
    (void)id, (void)info;
    int what = kind_of(name);
    if (what < 0)
        return 0;
    if (b->n_channels == KV_TRACE_MOST_CHANNELS || strlen(name) > 100)
        return kv_h5_bad(v->at, v->e, "has more than %d channels, or too long a name", KV_TRACE_MOST_CHANNELS) - 1;
    b->channel[b->n_channels++] =
        (struct kv_trace_channel){.what = (enum kv_channel)what, .name = kv_copy_text(v->t->own, name)};
    return 0;
}

static herr_t list_tick(hid_t id, const char *name, const H5L_info_t *info, void *visit)
{
    struct visit *v = visit;
    (void)id, (void)info;
    if (*name != 't' || strspn(name + 1, "0123456789") != strlen(name + 1) || strlen(name) > 12)
        return 0;
    char canonical[24];
    long long tick = strtoll(name + 1, NULL, 10);
    if (strcmp(kv_tick_name(tick, canonical), name))
        return kv_h5_bad(v->at, v->e, "'%s' is no name of a tick; expected '%s'", name, canonical) - 1;
    if (tick < v->t->about.n_ticks)
        v->t->rows[v->channel].at[tick] = true;
    return 0;
}

static bool one_of(const struct kv_place *g, const char *name, const char *text, const char *const *names, int *out,
                   struct kv_err *e)
{
    for (*out = 0; names[*out]; ++*out)
        if (!strcmp(names[*out], text))
            return true;
    return kv_h5_bad(g, e, "attribute '%s' is '%.40s', which is not known", name, text);
}

static bool read_heads(struct kv_trace *t, const struct kv_place *g, struct kv_trace_channel *c, struct kv_err *e)
{
    static const char *const axes[] = {"kv", "q", NULL};
    static const char *const precisions[] = {"f32", "bf16", "f16", NULL};
    const char *axis, *reduce;
    int query, how, ignored;
    if (!kv_h5_text(g, "head_axis", NULL, &axis, t->own, e) || !one_of(g, "head_axis", axis, axes, &query, e))
        return false;
    c->query_heads = query;
    bool reduced = kv_channels[c->what].attention && !query;
    if (!kv_h5_text(g, "group_reduce", reduced ? "mean" : "none", &reduce, t->own, e) ||
        !one_of(g, "group_reduce", reduce, kv_reduce_names, &how, e))
        return false;
    c->reduce = reduced ? (enum kv_reduce)how : KV_REDUCE_NONE;
    return kv_h5_text(g, "precision_in", "f32", &c->precision, t->own, e) &&
           one_of(g, "precision_in", c->precision, precisions, &ignored, e) &&
           kv_h5_text(g, "under_policy", "full", &c->under, t->own, e);
}

static bool read_shape(const struct kv_trace *t, const struct kv_place *g, struct kv_trace_channel *c, struct kv_err *e)
{
    int64_t steps, ragged;
    bool windowed = kv_channels[c->what].window;
    if (!kv_h5_int(g, "window", windowed, KV_TRACE_MOST_WINDOW, windowed ? NULL : &zero, &c->window, e) ||
        !kv_h5_int(g, "steps_per_octave", 32, 128, &sixty_four, &steps, e) ||
        !kv_h5_int(g, "ragged", 0, 1, &zero, &ragged, e))
        return false;
    if (steps != 32 && steps != 64 && steps != 128)
        return kv_h5_bad(g, e, "attribute 'steps_per_octave' is %lld; expected 32, 64 or 128", (long long)steps);
    c->steps_per_octave = (int)steps;
    c->ragged = ragged;
    c->rows = c->what == KV_WINDOW_LOGITS ? c->window : 1;
    c->elements = c->what == KV_KEYS || c->what == KV_VALUES ? t->about.head_dim : 1;
    c->streams = t->about.layers * (c->query_heads ? t->about.q_heads : t->about.kv_heads) * c->rows;
    return c->streams <= KV_TRACE_MOST_STREAMS ||
           kv_h5_bad(g, e, "layers, heads and window make %lld rows; at most %d are read", (long long)c->streams,
                     KV_TRACE_MOST_STREAMS);
}

/* Lengths of a ragged channel's rows: those of the lanes they belong to. */
static bool read_ragged(struct kv_trace *t, int channel, int64_t tick, const struct kv_place *up, struct kv_err *e)
{
    struct kv_trace_channel *c = &t->about.channel[channel];
    struct kv_place g;
    char name[24];
    int64_t n;
    if (!t->slots || !t->slots[tick].n)
        return kv_h5_bad(up, e, "tick %lld is ragged, but /slots does not have it", (long long)tick);
    if (!kv_h5_group(up, kv_tick_name(tick, name), &g, e))
        return false;
    struct kv_lengths *out = &t->rows[channel].ragged[tick];
    int64_t *length = kv_h5_numbers(&g, "length", H5T_NATIVE_INT64, c->streams, c->streams, &n, e);
    bool good = length && add_up(&g, length, n, t->about.tick[tick].end, out, t->own, e);
    int64_t rows_of_lane = c->streams / kv_trace_lanes(&t->about);
    if (good && c->streams % kv_trace_lanes(&t->about))
        good = kv_h5_bad(&g, e, "has rows for KV heads, but lanes are query heads");
    for (int64_t s = 0; good && s < n; s++) {
        const int64_t *lane = t->slots[tick].begin + s / rows_of_lane;
        if (length[s] != lane[1] - lane[0])
            good = kv_h5_bad(&g, e, "row %lld has %lld positions, its lane in /slots %lld", (long long)s,
                             (long long)length[s], (long long)(lane[1] - lane[0]));
    }
    free(length);
    H5Oclose(g.id);
    return good;
}

static bool read_rows(struct kv_trace *t, int channel, const struct kv_place *g, bool deep, struct kv_err *e)
{
    struct kv_trace_channel *c = &t->about.channel[channel];
    struct kv_rows *r = &t->rows[channel];
    size_t n = (size_t)t->about.n_ticks + 1;
    struct visit v = {t, g, e, channel};
    if (!(r->at = kv_alloc_many(t->own, n, sizeof *r->at, "ticks", e)) ||
        (c->ragged && !(r->ragged = kv_alloc_many(t->own, n, sizeof *r->ragged, "ticks", e))))
        return false;
    c->at = r->at;
    r->sum_tick = -1;
    c->encoding = KV_ENC_F32;
    int before = e->n;
    if (H5Literate(g->id, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, list_tick, &v) < 0)
        return e->n > before ? false : kv_h5_damaged(g, "list", NULL, e);
    bool first = true;
    for (int64_t i = 0; i < t->about.n_ticks; i++) {
        enum kv_encoding encoding;
        if (!r->at[i])
            continue;
        if (c->ragged && !read_ragged(t, channel, i, g, e))
            return false;
        if ((first || deep) && !kv_rows_check(t, channel, i, &encoding, deep, e))
            return false;
        if (first)
            c->encoding = encoding;
        first = false;
    }
    return true;
}

static bool read_channels(struct kv_trace *t, bool deep, struct kv_err *e)
{
    struct kv_place up, g;
    struct kv_trace_about *b = &t->about;
    b->channel = KV_NEW_N(t->own, struct kv_trace_channel, KV_TRACE_MOST_CHANNELS);
    t->rows = KV_NEW_N(t->own, struct kv_rows, KV_TRACE_MOST_CHANNELS);
    if (!kv_h5_group(&t->root, "channels", &up, e))
        return false;
    struct visit v = {t, &up, e, 0};
    int before = e->n;
    bool good = H5Literate(up.id, H5_INDEX_NAME, H5_ITER_INC, NULL, list_channel, &v) >= 0;
    if (!good && e->n == before)
        kv_h5_damaged(&up, "list", NULL, e);
    for (int i = 0; good && i < b->n_channels; i++) {
        good = kv_h5_group(&up, b->channel[i].name, &g, e);
        if (!good)
            break;
        good = read_heads(t, &g, &b->channel[i], e) && read_shape(t, &g, &b->channel[i], e) &&
               read_rows(t, i, &g, deep, e);
        H5Oclose(g.id);
    }
    H5Oclose(up.id);
    return good;
}

bool kv_trace_walk(struct kv_trace *t, const char *path, bool deep, struct kv_err *e)
{
    struct kv_trace_about *b = &t->about;
    bool good = open_file(t, path, e) && check_format(t, e) && read_root(t, b, e) && read_model(t, b, e) &&
                read_prompt(t, b, e) && read_marks(t, b, e) && read_ticks(t, b, e) &&
                read_lane_group(t, "slots", &t->slots, deep, e) && read_lane_group(t, "kept", &t->kept, deep, e) &&
                read_channels(t, deep, e);
    b->has_kept = t->kept != NULL;
    return good;
}
