/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Rows of a trace. What a thread reads from lies in its work: the planes of one channel and tick, and the chunk
 * unpacked last. */
#include "traces/inside.h"
#include "traces/codes.h"
#include "traces/half.h"
#include "traces/journal.h"
#include "traces/plane.h"
#include "sim/core/select.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct kv_trace_work {
    const struct kv_trace *t;
    int channel; /* -1: nothing is open */
    int64_t tick;
    enum kv_encoding encoding;
    struct kv_plane plane[2]; /* high and low halves of codes, or the numbers */
    struct kv_plane lanes;    /* positions */
    float *max;               /* (streams,) of codes */
    uint64_t *hash;           /* (streams,) or NULL */
    uint16_t *code;           /* (room,) of log codes, where they are wanted */
    int64_t room;
    int32_t *position;
    int64_t n_position;
    struct kv_packer *packer;
};

/* ---- the trace ---- */

/* The file, open; -1 with the reason. Whoever writes it has locked it. */
static int open_file(const char *path, int64_t *bytes, struct kv_err *e)
{
    struct stat st;
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0 || fstat(file, &st))
        kv_fail(e, KV_DATA, "cannot open '%s': %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        kv_fail(e, KV_DATA, "cannot open '%s': it is no file", path);
    else if (flock(file, LOCK_SH | LOCK_NB) && errno == EWOULDBLOCK)
        kv_fail(e, KV_DATA, "cannot open '%s': it is still being written", path);
    else {
        *bytes = st.st_size;
        return file;
    }
    if (file >= 0)
        close(file);
    return -1;
}

bool kv_trace_take(struct kv_trace **out, const char *path, int file, int64_t file_bytes, void *index, size_t size,
                   struct kv_trace_about *about, struct kv_arena *a, struct kv_err *e)
{
    struct kv_trace *t = KV_NEW(a, struct kv_trace);
    *out = NULL;
    t->path = kv_copy_text(a, path);
    t->own = a;
    t->file = file;
    pthread_mutex_init(&t->lock, NULL);
    if (!kv_index_open(&t->index, t->path, file_bytes, index, size, e) || !kv_trace_walk(t, e)) {
        kv_trace_close(t);
        return false;
    }
    *about = t->about;
    *out = t;
    return true;
}

bool kv_trace_open(struct kv_trace **out, const char *path, struct kv_trace_about *about, struct kv_arena *a,
                   struct kv_err *e)
{
    int64_t bytes;
    void *index;
    size_t size;
    *out = NULL;
    if (!kv_journal_replay(path, e))
        return false;
    int file = open_file(path, &bytes, e);
    if (file < 0)
        return false;
    if (kv_trace_probe(file, bytes, path, &index, &size, e))
        return kv_trace_take(out, path, file, bytes, index, size, about, a, e);
    close(file);
    return false;
}

void kv_trace_close(struct kv_trace *t)
{
    if (!t)
        return;
    close(t->file);
    for (int i = 0; i < t->about.n_channels; i++)
        free(t->rows[i].sum);
    kv_index_close(&t->index);
    pthread_mutex_destroy(&t->lock);
}

struct kv_trace_work *kv_trace_work_open(const struct kv_trace *t, struct kv_err *e)
{
    struct kv_trace_work *w = calloc(1, sizeof *w);
    if (w && (w->packer = kv_packer_open())) {
        w->t = t;
        w->channel = -1;
        return w;
    }
    free(w);
    kv_fail(e, KV_ENV, "trace '%s': no memory to read it", t->path);
    return NULL;
}

static void shut(struct kv_trace_work *w)
{
    free(w->max);
    free(w->hash);
    w->max = NULL;
    w->hash = NULL;
    w->channel = -1;
}

void kv_trace_work_close(struct kv_trace_work *w)
{
    if (!w)
        return;
    shut(w);
    kv_plane_free(&w->plane[0]);
    kv_plane_free(&w->plane[1]);
    kv_plane_free(&w->lanes);
    kv_packer_close(w->packer);
    free(w->code);
    free(w->position);
    free(w);
}

int64_t kv_trace_row_length(const struct kv_trace *t, int channel, int64_t tick, int64_t stream)
{
    const struct kv_trace_channel *c = &t->about.channel[channel];
    KV_ASSERT(channel >= 0 && channel < t->about.n_channels && tick >= 0 && tick < t->about.n_ticks && stream >= 0 &&
              stream < c->streams && c->at[tick]);
    if (!c->ragged)
        return kv_trace_positions(&t->about.tick[tick], c);
    const int64_t *begin = t->rows[channel].ragged[tick].begin + stream;
    return begin[1] - begin[0];
}

/* ---- the datasets of a channel at a tick ---- */

static bool find_form(const struct kv_index *x, int32_t g, bool ragged, enum kv_encoding *encoding, struct kv_err *e)
{
    static const char *const names[] = {"hi", "code", "f32", "f16"};
    for (int i = 0; i < 4; i++)
        if (kv_index_find(x, g, names[i]) >= 0) {
            *encoding = (enum kv_encoding)i;
            return !ragged || i == KV_ENC_F32 ||
                   kv_index_bad(x, g, e, "ragged rows are '%s'; expected 'f32'", names[i]);
        }
    return kv_index_bad(x, g, e, "there are no rows: none of 'hi', 'code', 'f32', 'f16'");
}

/* Opens one or two planes. */
static bool open_planes(const struct kv_trace *t, int channel, int64_t tick, enum kv_encoding encoding,
                        struct kv_plane plane[2], struct kv_err *e)
{
    const struct kv_trace_channel *c = &t->about.channel[channel];
    const struct kv_rows *r = &t->rows[channel];
    const struct kv_index *x = &t->index;
    int64_t n = kv_trace_positions(&t->about.tick[tick], c) * c->elements, s = c->streams;
    int32_t g = r->group[tick];
    switch (encoding) {
    case KV_ENC_LOG12:
        return kv_plane_open(&plane[0], x, t->file, g, "hi", KV_U8, 2, s, n, e) &&
               kv_plane_open(&plane[1], x, t->file, g, "lo", KV_U8, 2, s, (n + 1) / 2, e);
    case KV_ENC_CODE:
        return kv_plane_open(plane, x, t->file, g, "code", KV_U16, 2, s, n, e);
    case KV_ENC_F16:
        return kv_plane_open(plane, x, t->file, g, "f16", KV_F16, 2, s, n, e);
    default:
        break;
    }
    if (!c->ragged)
        return kv_plane_open(plane, x, t->file, g, "f32", KV_F32, 2, s, n, e);
    n = r->ragged[tick].begin[s] * c->elements;
    return kv_plane_open(plane, x, t->file, g, "f32", KV_F32, 1, 1, n, e);
}

static bool coded(enum kv_encoding encoding)
{
    return encoding == KV_ENC_LOG12 || encoding == KV_ENC_CODE;
}

/* The small arrays, NULL where they are not there and need not be. */
static bool read_small(const struct kv_trace *t, int channel, int64_t tick, enum kv_encoding encoding, float **max,
                       uint64_t **hash, struct kv_err *e)
{
    const struct kv_index *x = &t->index;
    int64_t s = t->about.channel[channel].streams, n;
    int32_t g = t->rows[channel].group[tick];
    if (coded(encoding) && !(*max = kv_index_numbers(x, t->file, g, "max", KV_F32, s, s, &n, e)))
        return false;
    for (int64_t i = 0; *max && i < s; i++)
        if (!((*max)[i] >= 0 && isfinite((*max)[i])))
            return kv_index_bad(x, g, e, "the maximum of row %lld is %g", (long long)i, (double)(*max)[i]);
    return kv_index_find(x, g, "xxh3") < 0 ||
           (*hash = kv_index_numbers(x, t->file, g, "xxh3", KV_U64, s, s, &n, e)) != NULL;
}

bool kv_rows_check(const struct kv_trace *t, int channel, int64_t tick, enum kv_encoding *encoding, struct kv_err *e)
{
    const struct kv_trace_channel *c = &t->about.channel[channel];
    const struct kv_index *x = &t->index;
    struct kv_plane plane[2] = {{0}};
    int32_t g = t->rows[channel].group[tick];
    int64_t s = c->streams;
    return find_form(x, g, c->ragged, encoding, e) && open_planes(t, channel, tick, *encoding, plane, e) &&
           (!coded(*encoding) || kv_plane_open(plane, x, t->file, g, "max", KV_F32, 1, 1, s, e)) &&
           (kv_index_find(x, g, "xxh3") < 0 || kv_plane_open(plane, x, t->file, g, "xxh3", KV_U64, 1, 1, s, e)) &&
           (kv_index_find(x, g, "sum") < 0 || kv_plane_open(plane, x, t->file, g, "sum", KV_F64, 1, 1, s, e));
}

/* Opens what the rows of a channel and tick are in, unless it is open. */
static bool turn_to(struct kv_trace_work *w, int channel, int64_t tick, struct kv_err *e)
{
    if (w->channel == channel && w->tick == tick)
        return true;
    const struct kv_trace *t = w->t;
    shut(w);
    if (!find_form(&t->index, t->rows[channel].group[tick], t->about.channel[channel].ragged, &w->encoding, e) ||
        !open_planes(t, channel, tick, w->encoding, w->plane, e) ||
        !read_small(t, channel, tick, w->encoding, &w->max, &w->hash, e)) {
        shut(w);
        return false;
    }
    w->channel = channel;
    w->tick = tick;
    return true;
}

/* ---- a row ---- */

/* Bits of float: no number at all, or of the sign that is not allowed. */
static bool all_good(const float *row, int64_t n, bool nonnegative, bool minus_infinity)
{
    uint32_t bad = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, row + i, 4);
        bad |= (uint32_t)((bits & 0x7f800000) == 0x7f800000) & (uint32_t) !(minus_infinity && bits == 0xff800000);
        bad |= (uint32_t)nonnegative & bits >> 31 & (uint32_t)(bits != 0x80000000);
    }
    return !bad;
}

static bool wrong_hash(const struct kv_trace_work *w, int64_t stream, struct kv_err *e)
{
    return kv_index_bad(&w->t->index, w->plane[0].node, e,
                        "row %lld does not agree with its checksum; the file is damaged", (long long)stream);
}

static const uint8_t *read_plane(struct kv_trace_work *w, int plane, int64_t stream, struct kv_err *e)
{
    return kv_plane_row(&w->plane[plane], stream, w->packer, e);
}

/* The row's codes as they are: a view. */
static const uint16_t *whole_codes(struct kv_trace_work *w, int64_t stream, int64_t n, struct kv_err *e)
{
    const uint16_t *code = kv_plane_row(&w->plane[0], stream, w->packer, e);
    uint16_t all = 0;
    for (int64_t i = 0; code && i < n; i++)
        all |= code[i];
    if (all <= 4095)
        return code;
    kv_index_bad(&w->t->index, w->plane[0].node, e, "row %lld holds a code above 4095", (long long)stream);
    return NULL;
}

/* The row's codes out of both planes: a view. */
static const uint16_t *joined_codes(struct kv_trace_work *w, int64_t stream, int64_t n, struct kv_err *e)
{
    const uint8_t *hi = read_plane(w, 0, stream, e), *lo = hi ? read_plane(w, 1, stream, e) : NULL;
    if (!lo)
        return NULL;
    if (n > w->room) {
        free(w->code);
        w->code = malloc(((size_t)n + KV_SLACK) * sizeof *w->code);
        w->room = w->code ? n : 0;
    }
    if (w->code)
        kv_codes_join(hi, lo, n, w->code);
    else
        kv_fail(e, KV_ENV, "trace '%s': no memory for a row", w->t->path);
    return w->code;
}

static const uint16_t *read_codes(struct kv_trace_work *w, int64_t stream, int64_t n, struct kv_err *e)
{
    const uint16_t *code = w->encoding == KV_ENC_LOG12 ? joined_codes(w, stream, n, e) : whole_codes(w, stream, n, e);
    if (code && w->hash && kv_codes_hash(code, n) != w->hash[stream])
        return wrong_hash(w, stream, e), NULL;
    return code;
}

/* From both planes to numbers at once: the codes never leave the first cache. */
static bool read_log12(struct kv_trace_work *w, int64_t stream, int64_t n, float *out, struct kv_err *e)
{
    const uint8_t *hi = read_plane(w, 0, stream, e), *lo = hi ? read_plane(w, 1, stream, e) : NULL;
    uint64_t hash;
    if (!lo)
        return false;
    kv_codes_decode_planes(hi, lo, n, w->t->about.channel[w->channel].steps_per_octave, w->max[stream], out,
                           w->hash ? &hash : NULL);
    return !w->hash || hash == w->hash[stream] || wrong_hash(w, stream, e);
}

static bool read_floats(struct kv_trace_work *w, int64_t stream, int64_t n, float *out, struct kv_err *e)
{
    const struct kv_trace_channel *c = &w->t->about.channel[w->channel];
    struct kv_plane *p = &w->plane[0];
    const void *stored = out;
    if (c->ragged) {
        int64_t begin = w->t->rows[w->channel].ragged[w->tick].begin[stream] * c->elements;
        if (!kv_plane_part(p, 0, begin, n, out, w->packer, e))
            return false;
    } else if (w->encoding == KV_ENC_F32 && kv_plane_flat(p) && p->band == 1) {
        if (!kv_plane_part(p, stream, 0, n, out, w->packer, e)) /* long: straight to where it is wanted */
            return false;
    } else if (!(stored = kv_plane_row(p, stream, w->packer, e))) {
        return false;
    }
    if (w->hash && kv_bytes_hash(stored, (size_t)n * p->item) != w->hash[stream])
        return wrong_hash(w, stream, e);
    if (w->encoding == KV_ENC_F16)
        for (int64_t i = 0; i < n; i++)
            out[i] = kv_half_to_float(((const uint16_t *)stored)[i]);
    else if (stored != out)
        memcpy(out, stored, (size_t)n * sizeof *out);
    if (all_good(out, n, kv_trace_nonnegative(c->what), c->what == KV_WINDOW_LOGITS))
        return true;
    return kv_index_bad(p->x, p->node, e, "row %lld holds what is no finite number%s", (long long)stream,
                        kv_trace_nonnegative(c->what) ? ", or a negative one" : "");
}

bool kv_trace_row_raw(struct kv_trace *t, int channel, int64_t tick, int64_t stream, float *out, struct kv_raw_row *r,
                      struct kv_trace_work *w, struct kv_err *e)
{
    int64_t n = kv_trace_row_length(t, channel, tick, stream) * t->about.channel[channel].elements;
    *r = (struct kv_raw_row){.sum = NAN};
    KV_ASSERT(w->t == t);
    if (!turn_to(w, channel, tick, e))
        return false;
    if (!coded(w->encoding))
        return read_floats(w, stream, n, out, e);
    r->code = read_codes(w, stream, n, e);
    r->max = w->max[stream];
    return r->code != NULL;
}

bool kv_trace_row(struct kv_trace *t, int channel, int64_t tick, int64_t stream, float *out, struct kv_trace_work *w,
                  struct kv_err *e)
{
    const struct kv_trace_channel *c = &t->about.channel[channel];
    int64_t n = kv_trace_row_length(t, channel, tick, stream) * c->elements;
    KV_ASSERT(w->t == t);
    if (!turn_to(w, channel, tick, e))
        return false;
    if (!coded(w->encoding))
        return read_floats(w, stream, n, out, e);
    if (w->encoding == KV_ENC_LOG12)
        return read_log12(w, stream, n, out, e);
    const uint16_t *code = read_codes(w, stream, n, e);
    if (code)
        kv_codes_decode(code, n, c->steps_per_octave, w->max[stream], out);
    return code != NULL;
}

/* ---- beside the rows ---- */

static double *read_sums(const struct kv_trace *t, int channel, int64_t tick)
{
    struct kv_err *ignored = calloc(1, sizeof *ignored);
    int64_t s = t->about.channel[channel].streams, n;
    int32_t g = t->rows[channel].group[tick];
    double *sum = NULL;
    if (ignored && kv_index_find(&t->index, g, "sum") >= 0)
        sum = kv_index_numbers(&t->index, t->file, g, "sum", KV_F64, s, s, &n, ignored);
    free(ignored);
    return sum;
}

double kv_trace_row_sum(const struct kv_trace *t, int channel, int64_t tick, int64_t stream)
{
    KV_ASSERT(kv_trace_row_length(t, channel, tick, stream) >= 0);
    struct kv_rows *r = &t->rows[channel];
    pthread_mutex_t *lock = &((struct kv_trace *)(uintptr_t)t)->lock;
    pthread_mutex_lock(lock);
    if (r->sum_tick != tick) {
        free(r->sum);
        r->sum = read_sums(t, channel, tick);
        r->sum_tick = tick;
    }
    double sum = r->sum ? r->sum[stream] : (double)NAN;
    pthread_mutex_unlock(lock);
    return sum;
}

static bool read_positions(struct kv_trace *t, const struct kv_lengths *l, int64_t tick, int64_t lane,
                           const int32_t **position, int64_t *n, struct kv_trace_work *w, struct kv_err *e)
{
    const int64_t *begin = l->begin + lane;
    struct kv_plane *p = &w->lanes;
    *n = begin[1] - begin[0];
    if (*n > w->n_position) {
        free(w->position);
        w->position = malloc((size_t)*n * sizeof *w->position);
        w->n_position = w->position ? *n : 0;
        if (!w->position)
            return kv_fail(e, KV_ENV, "trace '%s': no memory for positions", t->path);
    }
    if (!kv_plane_open(p, &t->index, t->file, l->group, "position", KV_I32, 1, 1, l->begin[l->n], e) ||
        !kv_plane_part(p, 0, begin[0], *n, w->position, w->packer, e))
        return false;
    for (int64_t i = 0; i < *n; i++)
        if (w->position[i] < (i ? w->position[i - 1] + 1 : 0) || w->position[i] >= t->about.tick[tick].end)
            return kv_index_bad(&t->index, p->node, e, "position %lld of lane %lld is %d; they ascend, below %lld",
                                (long long)i, (long long)lane, w->position[i], (long long)t->about.tick[tick].end);
    *position = w->position;
    return true;
}

static bool lane_positions(struct kv_trace *t, const char *group, const struct kv_lengths *all, int64_t tick,
                           int64_t layer, int64_t head, const int32_t **position, int64_t *n, struct kv_trace_work *w,
                           struct kv_err *e)
{
    const struct kv_trace_about *b = &t->about;
    int64_t heads = b->query_lanes ? b->q_heads : b->kv_heads;
    KV_ASSERT(tick >= 0 && tick < b->n_ticks && layer >= 0 && layer < b->layers && head >= 0 && head < heads);
    if (!all || !all[tick].n)
        return kv_fail(e, KV_DATA, "trace '%s': /%s does not have tick %lld", t->path, group, (long long)tick);
    return read_positions(t, &all[tick], tick, layer * heads + head, position, n, w, e);
}

bool kv_trace_slots(struct kv_trace *t, int64_t tick, int64_t layer, int64_t head, const int32_t **position, int64_t *n,
                    struct kv_trace_work *w, struct kv_err *e)
{
    return lane_positions(t, "slots", t->slots, tick, layer, head, position, n, w, e);
}

bool kv_trace_kept(struct kv_trace *t, int64_t tick, int64_t layer, int64_t head, const int32_t **position, int64_t *n,
                   struct kv_trace_work *w, struct kv_err *e)
{
    return lane_positions(t, "kept", t->kept, tick, layer, head, position, n, w, e);
}

static bool read_prompt_numbers(struct kv_trace *t, const char *name, enum kv_number want, int64_t n, void *out,
                                struct kv_err *e)
{
    int32_t g;
    int64_t found;
    if (!kv_index_group(&t->index, 0, "prompt", &g, e))
        return false;
    void *numbers = kv_index_numbers(&t->index, t->file, g, name, want, n, n, &found, e);
    if (numbers)
        memcpy(out, numbers, (size_t)n * kv_number_size(want));
    free(numbers);
    return numbers != NULL;
}

bool kv_trace_ids(struct kv_trace *t, int32_t *out, struct kv_err *e)
{
    return read_prompt_numbers(t, "ids", KV_I32, t->about.n_prompt + t->about.n_output, out, e);
}

bool kv_trace_log_probability(struct kv_trace *t, float *out, struct kv_err *e)
{
    return read_prompt_numbers(t, "log_probability", KV_F32, t->about.n_output, out, e);
}
