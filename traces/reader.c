/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Rows of a trace. What a thread reads from lies in its work: the datasets of one channel and tick, open, and the chunk
 * unpacked last. */
#include "traces/inside.h"
#include "traces/half.h"
#include "traces/journal.h"
#include "sim/core/select.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

struct kv_trace_work {
    const struct kv_trace *t;
    int channel; /* -1: nothing is open */
    int64_t tick;
    enum kv_encoding encoding;
    struct kv_plane plane[2]; /* high and low halves of codes, or the numbers */
    float *max;               /* (streams,) of codes */
    uint64_t *hash;           /* (streams,) or NULL */
    uint16_t *code;           /* (room,) of log codes */
    int64_t room;
    int32_t *position;
    int64_t n_position;
    struct kv_packer *packer;
};

/* ---- the trace ---- */

bool kv_trace_open(struct kv_trace **out, const char *path, struct kv_trace_about *about, struct kv_arena *a,
                   struct kv_err *e)
{
    *out = NULL;
    if (!kv_journal_replay(path, e) || !kv_trace_probe(path, e))
        return false;
    struct kv_trace *t = KV_NEW(a, struct kv_trace);
    t->own = a;
    t->file = -1;
    t->root.id = H5I_INVALID_HID;
    kv_h5_lock();
    bool good = kv_trace_walk(t, path, false, e);
    kv_h5_unlock();
    if (!good) {
        kv_trace_close(t);
        return false;
    }
    *about = t->about;
    *out = t;
    return true;
}

void kv_trace_close(struct kv_trace *t)
{
    if (!t)
        return;
    kv_h5_lock();
    if (t->root.id >= 0)
        H5Fclose(t->root.id);
    kv_h5_unlock();
    if (t->file >= 0)
        close(t->file);
    for (int i = 0; i < t->about.n_channels; i++)
        free(t->rows[i].sum);
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
    kv_fail(e, KV_ENV, "trace '%s': no memory to read it", t->root.path);
    return NULL;
}

static void shut(struct kv_trace_work *w)
{
    if (w->channel >= 0) {
        kv_plane_close(&w->plane[0]);
        kv_plane_close(&w->plane[1]);
    }
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
    kv_h5_lock();
    shut(w);
    kv_h5_unlock();
    kv_plane_free(&w->plane[0]);
    kv_plane_free(&w->plane[1]);
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

static bool open_group(const struct kv_trace *t, int channel, int64_t tick, struct kv_place *g, struct kv_err *e)
{
    struct kv_place up, c;
    char name[24];
    if (!kv_h5_group(&t->root, "channels", &up, e))
        return false;
    bool good = kv_h5_group(&up, t->about.channel[channel].name, &c, e);
    if (good) {
        good = kv_h5_group(&c, kv_tick_name(tick, name), g, e);
        H5Oclose(c.id);
    }
    H5Oclose(up.id);
    return good;
}

static bool find_form(const struct kv_place *g, bool ragged, enum kv_encoding *encoding, struct kv_err *e)
{
    static const char *const names[] = {"hi", "code", "f32", "f16"};
    for (int i = 0; i < 4; i++)
        if (kv_h5_has(g, names[i])) {
            *encoding = (enum kv_encoding)i;
            return !ragged || i == KV_ENC_F32 || kv_h5_bad(g, e, "ragged rows are '%s'; expected 'f32'", names[i]);
        }
    return kv_h5_bad(g, e, "there are no rows: none of 'hi', 'code', 'f32', 'f16'");
}

/* Opens one or two planes; both closed when it fails. */
static bool open_planes(const struct kv_trace *t, int channel, int64_t tick, const struct kv_place *g,
                        enum kv_encoding encoding, struct kv_plane plane[2], struct kv_err *e)
{
    const struct kv_trace_channel *c = &t->about.channel[channel];
    int64_t n = kv_trace_positions(&t->about.tick[tick], c) * c->elements, s = c->streams;
    switch (encoding) {
    case KV_ENC_LOG12:
        if (!kv_plane_open(&plane[0], g, "hi", H5Tcopy(H5T_STD_U8LE), 2, s, n, e))
            return false;
        if (kv_plane_open(&plane[1], g, "lo", H5Tcopy(H5T_STD_U8LE), 2, s, (n + 1) / 2, e))
            return true;
        kv_plane_close(&plane[0]);
        return false;
    case KV_ENC_CODE:
        return kv_plane_open(plane, g, "code", H5Tcopy(H5T_STD_U16LE), 2, s, n, e);
    case KV_ENC_F16:
        return kv_plane_open(plane, g, "f16", kv_h5_half(), 2, s, n, e);
    default:
        break;
    }
    if (!c->ragged)
        return kv_plane_open(plane, g, "f32", H5Tcopy(H5T_IEEE_F32LE), 2, s, n, e);
    n = t->rows[channel].ragged[tick].begin[s] * c->elements;
    return kv_plane_open(plane, g, "f32", H5Tcopy(H5T_IEEE_F32LE), 1, 1, n, e);
}

static bool coded(enum kv_encoding encoding)
{
    return encoding == KV_ENC_LOG12 || encoding == KV_ENC_CODE;
}

/* The small arrays, NULL where they are not there and need not be. */
static bool read_small(const struct kv_trace *t, int channel, const struct kv_place *g, enum kv_encoding encoding,
                       float **max, uint64_t **hash, struct kv_err *e)
{
    int64_t s = t->about.channel[channel].streams, n;
    *max = NULL;
    *hash = NULL;
    if (coded(encoding) && !(*max = kv_h5_numbers(g, "max", H5T_NATIVE_FLOAT, s, s, &n, e)))
        return false;
    for (int64_t i = 0; *max && i < s; i++)
        if (!((*max)[i] >= 0 && isfinite((*max)[i])))
            return kv_h5_bad(g, e, "the maximum of row %lld is %g", (long long)i, (double)(*max)[i]);
    return !kv_h5_has(g, "xxh3") || (*hash = kv_h5_numbers(g, "xxh3", H5T_NATIVE_UINT64, s, s, &n, e)) != NULL;
}

bool kv_rows_check(const struct kv_trace *t, int channel, int64_t tick, enum kv_encoding *encoding, bool deep,
                   struct kv_err *e)
{
    const struct kv_trace_channel *c = &t->about.channel[channel];
    struct kv_place g;
    struct kv_plane plane[2] = {{.type = H5I_INVALID_HID}, {.type = H5I_INVALID_HID}};
    float *max = NULL;
    uint64_t *hash = NULL;
    double *sum = NULL;
    int64_t n;
    if (!open_group(t, channel, tick, &g, e))
        return false;
    bool good = find_form(&g, c->ragged, encoding, e) && open_planes(t, channel, tick, &g, *encoding, plane, e);
    for (int i = 0; good && deep && i < 1 + (*encoding == KV_ENC_LOG12); i++)
        good = kv_h5_walk_chunks(&plane[i].set, c->ragged ? 1 : 2, e);
    if (good && deep)
        good = read_small(t, channel, &g, *encoding, &max, &hash, e) &&
               (!kv_h5_has(&g, "sum") ||
                (sum = kv_h5_numbers(&g, "sum", H5T_NATIVE_DOUBLE, c->streams, c->streams, &n, e)));
    kv_plane_close(&plane[0]);
    kv_plane_close(&plane[1]);
    free(max);
    free(hash);
    free(sum);
    H5Oclose(g.id);
    return good;
}

/* Opens what the rows of a channel and tick are in, unless it is open. */
static bool turn_to(struct kv_trace_work *w, int channel, int64_t tick, struct kv_err *e)
{
    if (w->channel == channel && w->tick == tick)
        return true;
    struct kv_place g;
    kv_h5_lock();
    shut(w);
    bool good = open_group(w->t, channel, tick, &g, e);
    if (good) {
        w->plane[1].type = H5I_INVALID_HID;
        if (find_form(&g, w->t->about.channel[channel].ragged, &w->encoding, e) &&
            open_planes(w->t, channel, tick, &g, w->encoding, w->plane, e))
            w->channel = channel;
        good = w->channel >= 0 && read_small(w->t, channel, &g, w->encoding, &w->max, &w->hash, e);
        H5Oclose(g.id);
    }
    if (!good)
        shut(w);
    w->tick = tick;
    kv_h5_unlock();
    return good;
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
    return kv_h5_bad(&w->plane[0].set.at, e, "row %lld does not agree with its checksum; the file is damaged",
                     (long long)stream);
}

/* The row's codes: a view. */
static const uint16_t *read_codes(struct kv_trace_work *w, int64_t stream, int64_t n, struct kv_err *e)
{
    const uint16_t *code;
    if (w->encoding == KV_ENC_LOG12) {
        const uint8_t *hi = kv_plane_row(&w->plane[0], stream, w->t->file, w->packer, e);
        const uint8_t *lo = hi ? kv_plane_row(&w->plane[1], stream, w->t->file, w->packer, e) : NULL;
        if (!lo)
            return NULL;
        if (n > w->room) {
            free(w->code);
            w->code = malloc(((size_t)n + KV_SLACK) * sizeof *w->code);
            w->room = w->code ? n : 0;
        }
        if (!w->code)
            return kv_fail(e, KV_ENV, "trace '%s': no memory for a row", w->t->root.path), NULL;
        kv_codes_join(hi, lo, n, w->code);
        code = w->code;
    } else {
        code = kv_plane_row(&w->plane[0], stream, w->t->file, w->packer, e);
        uint16_t all = 0;
        for (int64_t i = 0; code && i < n; i++)
            all |= code[i];
        if (all > 4095)
            return kv_h5_bad(&w->plane[0].set.at, e, "row %lld holds a code above 4095", (long long)stream), NULL;
    }
    if (code && w->hash && kv_codes_hash(code, n) != w->hash[stream])
        return wrong_hash(w, stream, e), NULL;
    return code;
}

static bool read_floats(struct kv_trace_work *w, int64_t stream, int64_t n, float *out, struct kv_err *e)
{
    const struct kv_trace_channel *c = &w->t->about.channel[w->channel];
    struct kv_plane *p = &w->plane[0];
    const void *stored = out;
    if (c->ragged) {
        int64_t begin = w->t->rows[w->channel].ragged[w->tick].begin[stream] * c->elements;
        if (!kv_plane_part(p, begin, n, out, w->t->file, e))
            return false;
    } else if (w->encoding == KV_ENC_F32 && p->how == KV_PLANE_FLAT && p->band == 1) {
        if (!kv_plane_part(p, stream * n, n, out, w->t->file, e)) /* long: straight to where it is wanted */
            return false;
    } else if (!(stored = kv_plane_row(p, stream, w->t->file, w->packer, e))) {
        return false;
    }
    if (w->hash && XXH3_64bits(stored, (size_t)n * p->item) != w->hash[stream])
        return wrong_hash(w, stream, e);
    if (w->encoding == KV_ENC_F16)
        for (int64_t i = 0; i < n; i++)
            out[i] = kv_half_to_float(((const uint16_t *)stored)[i]);
    else if (stored != out)
        memcpy(out, stored, (size_t)n * sizeof *out);
    if (all_good(out, n, kv_trace_nonnegative(c->what), c->what == KV_WINDOW_LOGITS))
        return true;
    return kv_h5_bad(&p->set.at, e, "row %lld holds what is no finite number%s", (long long)stream,
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
    struct kv_raw_row r;
    if (!kv_trace_row_raw(t, channel, tick, stream, out, &r, w, e))
        return false;
    const struct kv_trace_channel *c = &t->about.channel[channel];
    if (r.code)
        kv_codes_decode(r.code, kv_trace_row_length(t, channel, tick, stream) * c->elements, c->steps_per_octave, r.max,
                        out);
    return true;
}

/* ---- beside the rows ---- */

static double *read_sums(const struct kv_trace *t, int channel, int64_t tick)
{
    struct kv_err *ignored = calloc(1, sizeof *ignored);
    struct kv_place g;
    double *sum = NULL;
    int64_t s = t->about.channel[channel].streams, n;
    if (ignored && open_group(t, channel, tick, &g, ignored)) {
        if (kv_h5_has(&g, "sum"))
            sum = kv_h5_numbers(&g, "sum", H5T_NATIVE_DOUBLE, s, s, &n, ignored);
        H5Oclose(g.id);
    }
    free(ignored);
    return sum;
}

double kv_trace_row_sum(const struct kv_trace *t, int channel, int64_t tick, int64_t stream)
{
    KV_ASSERT(kv_trace_row_length(t, channel, tick, stream) >= 0);
    struct kv_rows *r = &t->rows[channel];
    kv_h5_lock();
    if (r->sum_tick != tick) {
        free(r->sum);
        r->sum = read_sums(t, channel, tick);
        r->sum_tick = tick;
    }
    double sum = r->sum ? r->sum[stream] : (double)NAN;
    kv_h5_unlock();
    return sum;
}

static bool read_positions(struct kv_trace *t, const char *group, const struct kv_lengths *all, int64_t tick,
                           int64_t lane, const int32_t **position, int64_t *n, struct kv_trace_work *w,
                           struct kv_err *e)
{
    struct kv_place up, g;
    struct kv_plane p = {0};
    char name[24];
    const int64_t *begin = all[tick].begin + lane;
    *n = begin[1] - begin[0];
    if (*n > w->n_position) {
        free(w->position);
        w->position = malloc((size_t)*n * sizeof *w->position);
        w->n_position = w->position ? *n : 0;
        if (!w->position)
            return kv_fail(e, KV_ENV, "trace '%s': no memory for positions", t->root.path);
    }
    kv_h5_lock();
    bool good = kv_h5_group(&t->root, group, &up, e);
    if (good) {
        good = kv_h5_group(&up, kv_tick_name(tick, name), &g, e);
        H5Oclose(up.id);
    }
    if (good) {
        good = kv_plane_open(&p, &g, "position", H5Tcopy(H5T_STD_I32LE), 1, 1, all[tick].begin[all[tick].n], e);
        H5Oclose(g.id);
    }
    kv_h5_unlock();
    if (!good)
        return false;
    good = kv_plane_part(&p, begin[0], *n, w->position, t->file, e);
    for (int64_t i = 0; good && i < *n; i++)
        if (w->position[i] < (i ? w->position[i - 1] + 1 : 0) || w->position[i] >= t->about.tick[tick].end)
            good = kv_h5_bad(&p.set.at, e, "position %lld of lane %lld is %d; they ascend, below %lld", (long long)i,
                             (long long)lane, w->position[i], (long long)t->about.tick[tick].end);
    kv_h5_lock();
    kv_plane_close(&p);
    kv_h5_unlock();
    *position = w->position;
    return good;
}

static bool lane_positions(struct kv_trace *t, const char *group, const struct kv_lengths *all, int64_t tick,
                           int64_t layer, int64_t head, const int32_t **position, int64_t *n, struct kv_trace_work *w,
                           struct kv_err *e)
{
    const struct kv_trace_about *b = &t->about;
    int64_t heads = b->query_lanes ? b->q_heads : b->kv_heads;
    KV_ASSERT(tick >= 0 && tick < b->n_ticks && layer >= 0 && layer < b->layers && head >= 0 && head < heads);
    if (!all || !all[tick].n)
        return kv_fail(e, KV_DATA, "trace '%s': /%s does not have tick %lld", t->root.path, group, (long long)tick);
    return read_positions(t, group, all, tick, layer * heads + head, position, n, w, e);
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

static bool read_prompt_numbers(struct kv_trace *t, const char *name, hid_t type, int64_t n, size_t size, void *out,
                                struct kv_err *e)
{
    struct kv_place g;
    int64_t found;
    kv_h5_lock();
    void *numbers = NULL;
    if (kv_h5_group(&t->root, "prompt", &g, e)) {
        numbers = kv_h5_numbers(&g, name, type, n, n, &found, e);
        H5Oclose(g.id);
    }
    kv_h5_unlock();
    if (numbers)
        memcpy(out, numbers, (size_t)n * size);
    free(numbers);
    return numbers != NULL;
}

bool kv_trace_ids(struct kv_trace *t, int32_t *out, struct kv_err *e)
{
    return read_prompt_numbers(t, "ids", H5T_NATIVE_INT32, t->about.n_prompt + t->about.n_output, sizeof *out, out, e);
}

bool kv_trace_log_probability(struct kv_trace *t, float *out, struct kv_err *e)
{
    return read_prompt_numbers(t, "log_probability", H5T_NATIVE_FLOAT, t->about.n_output, sizeof *out, out, e);
}
