/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Rows of one channel at one tick, into the file. Threads encode and pack bands of rows; they write in order, so that
 * the same rows make the same file. */
#include "traces/write.h"
#include "traces/half.h"
#include "sim/core/select.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_NUMBERS = 131072 };

struct job {
    struct kv_trace_writer *w;
    const struct kv_row_source *source;
    const struct kv_trace_channel *c;
    int channel;
    int64_t tick, n, band, n_bands; /* numbers of a row, rows of a band */
    const int64_t *begin;           /* ragged: where rows begin, in positions */
    enum kv_filter filter;          /* of the first plane */
    hid_t group, plane[2];
    float *max;
    double *sum;
    int32_t *nnz;
    uint64_t *hash;
    pthread_mutex_t lock;
    pthread_cond_t turn;
    int64_t next, written; /* bands */
    bool failed;
    struct kv_err *e;
};

struct worker {
    struct job *job;
    pthread_t thread;
    struct kv_trace_work *work;
    struct kv_packer *packer;
    struct kv_err e;
    uint16_t *code;          /* one row */
    float *values;           /* one row, of a trace */
    uint8_t *first, *second; /* a band of each plane */
    uint8_t *packed;
    size_t packed_bytes, packed_room;
};

static bool coded(const struct job *j)
{
    return j->c->encoding == KV_ENC_LOG12 || j->c->encoding == KV_ENC_CODE;
}

static size_t item_size(const struct job *j)
{
    static const size_t sizes[] = {1, 2, 4, 2};
    return sizes[j->c->encoding];
}

static int64_t row_numbers(const struct job *j, int64_t row)
{
    return j->begin ? (j->begin[row + 1] - j->begin[row]) * j->c->elements : j->n;
}

static bool refuse(const struct job *j, int64_t row, int64_t place, double value, struct kv_err *e)
{
    return kv_fail(e, KV_DATA,
                   "cannot write '%s': channel '%s', tick %lld, row %lld: number %lld is %g, which it cannot be",
                   j->w->path, j->c->name, (long long)j->tick, (long long)row, (long long)place, value);
}

static bool check_values(const struct job *j, const float *values, int64_t n, int64_t row, struct kv_err *e)
{
    bool nonnegative = kv_trace_nonnegative(j->c->what), logits = j->c->what == KV_WINDOW_LOGITS;
    for (int64_t i = 0; i < n; i++)
        if ((!isfinite(values[i]) && !(logits && values[i] < 0)) || (nonnegative && values[i] < 0))
            return refuse(j, row, i, (double)values[i], e);
    return true;
}

/* ---- one row ---- */

static bool encode_codes(struct worker *t, int64_t row, const float *values, const struct kv_raw_row *raw,
                         int64_t in_band, struct kv_err *e)
{
    struct job *j = t->job;
    const uint16_t *code = raw->code;
    struct kv_row_facts facts = {.max = raw->max, .sum = raw->sum};
    int64_t n = j->n, bad;
    if (code) {
        for (int64_t i = 0; i < n; i++)
            facts.nnz += code[i] != 0;
        facts.xxh3 = kv_codes_hash(code, n);
    } else {
        if (!kv_codes_encode(values, n, j->c->steps_per_octave, t->code, &facts, &bad))
            return refuse(j, row, bad, (double)values[bad], e);
        code = t->code;
    }
    if (j->c->encoding == KV_ENC_LOG12)
        kv_codes_split(code, n, t->first + in_band * n, t->second + in_band * ((n + 1) / 2));
    else
        memcpy(t->first + in_band * n * 2, code, (size_t)n * 2);
    j->max[row] = facts.max;
    j->nnz[row] = facts.nnz;
    j->hash[row] = facts.xxh3;
    j->sum[row] = isnan(raw->sum) ? facts.sum : raw->sum;
    return true;
}

static bool encode_floats(struct worker *t, int64_t row, const float *values, double sum, uint8_t *out,
                          struct kv_err *e)
{
    struct job *j = t->job;
    int64_t n = row_numbers(j, row);
    if (!check_values(j, values, n, row, e))
        return false;
    if (j->c->encoding == KV_ENC_F16)
        for (int64_t i = 0; i < n; i++) {
            uint16_t half = kv_half_from_float(values[i]);
            if ((half & 0x7fff) == 0x7c00 && isfinite(values[i]))
                return refuse(j, row, i, (double)values[i], e);
            memcpy(out + 2 * i, &half, 2);
        }
    else
        memcpy(out, values, (size_t)n * 4);
    j->hash[row] = kv_bytes_hash(out, (size_t)n * item_size(j));
    if (j->c->what < KV_WINDOW_LOGITS)
        j->sum[row] = isnan(sum) ? kv_select_best()->sum(values, NULL, n) : sum;
    return true;
}

static bool encode_row(struct worker *t, int64_t row, int64_t in_band, struct kv_err *e)
{
    struct job *j = t->job;
    const struct kv_row_source *s = j->source;
    struct kv_raw_row raw = {.sum = NAN};
    const float *values = t->values;
    if (s->rows) {
        values = s->rows + (j->begin ? j->begin[row] * j->c->elements : row * j->n);
    } else {
        const struct kv_trace_channel *from = &s->from->about.channel[s->channel];
        bool as_is = coded(j) && from->steps_per_octave == j->c->steps_per_octave;
        if (!kv_trace_row_raw(s->from, s->channel, j->tick, row, t->values, &raw, t->work, e))
            return false;
        if (raw.code && !as_is) {
            kv_codes_decode(raw.code, j->n, from->steps_per_octave, raw.max, t->values);
            raw.code = NULL;
        }
        raw.sum = kv_trace_row_sum(s->from, s->channel, j->tick, row);
    }
    if (coded(j))
        return encode_codes(t, row, values, &raw, in_band, e);
    return encode_floats(t, row, values, raw.sum, t->first + in_band * j->n * (int64_t)item_size(j), e);
}

/* ---- bands ---- */

static bool write_part(hid_t set, hid_t type, int rank, hsize_t first, hsize_t n, hsize_t columns, const void *data)
{
    hsize_t start[2] = {first, 0}, count[2] = {n, columns};
    if (n * columns == 0)
        return true;
    hid_t to = H5Dget_space(set), from = H5Screate_simple(rank, count, NULL);
    bool good = H5Sselect_hyperslab(to, H5S_SELECT_SET, start, NULL, count, NULL) >= 0 &&
                H5Dwrite(set, type, from, to, H5P_DEFAULT, data) >= 0;
    H5Sclose(from);
    H5Sclose(to);
    return good;
}

static hid_t memory_type(const struct job *j)
{
    switch (j->c->encoding) {
    case KV_ENC_LOG12:
        return H5Tcopy(H5T_STD_U8LE);
    case KV_ENC_CODE:
        return H5Tcopy(H5T_STD_U16LE);
    case KV_ENC_F32:
        return H5Tcopy(H5T_IEEE_F32LE);
    default:
        return kv_h5_half();
    }
}

/* Under the library's lock. */
static bool write_band(struct worker *t, int64_t band)
{
    struct job *j = t->job;
    hsize_t first = (hsize_t)(band * j->band), rows = (hsize_t)j->band, n = (hsize_t)j->n;
    if (first + rows > (hsize_t)j->c->streams)
        rows = (hsize_t)j->c->streams - first;
    hid_t type = memory_type(j);
    bool good;
    if (j->begin)
        good = write_part(j->plane[0], type, 1, (hsize_t)(j->begin[band] * j->c->elements),
                          (hsize_t)row_numbers(j, band), 1, t->first);
    else if (j->filter == KV_FILTER_NONE)
        good = write_part(j->plane[0], type, 2, first, rows, n, t->first);
    else
        good = H5Dwrite_chunk(j->plane[0], H5P_DEFAULT, 0, (hsize_t[2]){first, 0}, t->packed_bytes, t->packed) >= 0;
    if (good && j->plane[1] >= 0)
        good = write_part(j->plane[1], H5T_STD_U8LE, 2, first, rows, (n + 1) / 2, t->second);
    H5Tclose(type);
    return good;
}

static bool do_band(struct worker *t, int64_t band, struct kv_err *e)
{
    struct job *j = t->job;
    int64_t first = band * j->band, last = first + j->band < j->c->streams ? first + j->band : j->c->streams;
    size_t bytes = (size_t)(j->band * j->n) * item_size(j);
    if (last - first < j->band)
        memset(t->first, 0, bytes); /* a chunk is whole, also the last one */
    for (int64_t row = first; row < last; row++)
        if (!encode_row(t, row, row - first, e))
            return false;
    if (j->filter == KV_FILTER_NONE)
        return true;
    t->packed_bytes = kv_pack(t->packer, j->filter, t->first, bytes, t->packed, t->packed_room);
    return t->packed_bytes || kv_fail(e, KV_ENV, "cannot write '%s': rows cannot be packed", j->w->path);
}

static void *work_on(void *worker)
{
    struct worker *t = worker;
    struct job *j = t->job;
    struct kv_err *e = &t->e;
    for (;;) {
        pthread_mutex_lock(&j->lock);
        int64_t band = j->failed ? j->n_bands : j->next++;
        pthread_mutex_unlock(&j->lock);
        if (band >= j->n_bands)
            break;
        bool good = do_band(t, band, e);
        pthread_mutex_lock(&j->lock);
        while (j->written < band && !j->failed)
            pthread_cond_wait(&j->turn, &j->lock);
        if (good && !j->failed) {
            kv_h5_lock();
            good = write_band(t, band) || kv_writer_failed(j->w, e);
            kv_h5_unlock();
        }
        if (!good && !j->failed) {
            j->failed = true;
            kv_fail(j->e, e->status, "%s", e->text);
        }
        j->written++;
        pthread_cond_broadcast(&j->turn);
        pthread_mutex_unlock(&j->lock);
    }
    return NULL;
}

/* ---- workers ---- */

static void close_worker(struct worker *t)
{
    kv_trace_work_close(t->work);
    kv_packer_close(t->packer);
    free(t->code);
    free(t->values);
    free(t->first);
    free(t->second);
    free(t->packed);
}

static bool open_worker(struct worker *t, struct job *j, struct kv_err *e)
{
    size_t numbers = (size_t)j->n; /* of a row, the longest one */
    for (int64_t s = 0; j->begin && s < j->c->streams; s++)
        if ((size_t)row_numbers(j, s) > numbers)
            numbers = (size_t)row_numbers(j, s);
    size_t bytes = (size_t)j->band * numbers * item_size(j) + 64;
    t->job = j;
    t->packed_room = kv_pack_bound(j->filter, bytes);
    t->packer = kv_packer_open();
    t->code = malloc((numbers + KV_SLACK) * sizeof *t->code);
    t->values = j->source->rows ? NULL : malloc((numbers + KV_SLACK) * sizeof *t->values);
    t->first = calloc(1, bytes);
    t->second = calloc(1, (size_t)j->band * (numbers / 2 + 1) + 64);
    t->packed = malloc(t->packed_room);
    if (!t->packer || !t->code || (!t->values && !j->source->rows) || !t->first || !t->second || !t->packed)
        return kv_fail(e, KV_ENV, "cannot write '%s': no memory for %zu bytes", j->w->path, bytes);
    return j->source->rows || (t->work = kv_trace_work_open(j->source->from, e));
}

static bool run(struct job *j, struct kv_err *e)
{
    int n = j->w->threads, started = 1;
    if (n > j->n_bands)
        n = (int)j->n_bands;
    KV_ASSERT(n > 0);
    struct worker *t = calloc((size_t)n, sizeof *t);
    bool good = true;
    if (!t)
        return kv_fail(e, KV_ENV, "cannot write '%s': no memory", j->w->path);
    for (int i = 0; good && i < n; i++)
        good = open_worker(&t[i], j, e);
    if (good) {
        while (started < n && !pthread_create(&t[started].thread, NULL, work_on, &t[started]))
            started++;
        work_on(&t[0]);
        for (int i = 1; i < started; i++)
            pthread_join(t[i].thread, NULL);
    }
    for (int i = 0; i < n; i++)
        close_worker(&t[i]);
    free(t);
    return good && !j->failed;
}

/* ---- datasets ---- */

static hid_t make_plane(struct job *j, const char *name, hid_t type, int rank, const hsize_t *extent,
                        enum kv_filter filter)
{
    hid_t plist = kv_h5_dataset(), space = H5Screate_simple(rank, extent, NULL);
    hsize_t chunk[2] = {(hsize_t)j->band, extent[1]};
    H5Pset_fill_time(plist, H5D_FILL_TIME_NEVER);
    if (filter != KV_FILTER_NONE)
        H5Pset_chunk(plist, 2, chunk);
    if (filter == KV_FILTER_ZSTD)
        H5Pset_filter(plist, KV_FILTER_ID_ZSTD, H5Z_FLAG_MANDATORY, 1, (const unsigned[]){1});
    if (filter == KV_FILTER_GZIP)
        H5Pset_deflate(plist, 1);
    hid_t set = H5Dcreate2(j->group, name, type, space, H5P_DEFAULT, plist, H5P_DEFAULT);
    H5Sclose(space);
    H5Pclose(plist);
    return set;
}

static bool make_planes(struct job *j)
{
    static const char *const names[] = {"hi", "code", "f32", "f16"};
    hsize_t extent[2] = {(hsize_t)j->c->streams, (hsize_t)j->n};
    hid_t type = memory_type(j);
    int rank = 2;
    if (j->begin) {
        extent[0] = (hsize_t)(j->begin[j->c->streams] * j->c->elements);
        rank = 1;
    }
    j->plane[0] = make_plane(j, names[j->c->encoding], type, rank, extent, j->filter);
    H5Tclose(type);
    if (j->c->encoding != KV_ENC_LOG12)
        return j->plane[0] >= 0;
    extent[1] = (hsize_t)(j->n + 1) / 2;
    j->plane[1] = make_plane(j, "lo", H5T_STD_U8LE, 2, extent, KV_FILTER_NONE);
    return j->plane[0] >= 0 && j->plane[1] >= 0;
}

static bool write_small(struct job *j)
{
    hsize_t s = (hsize_t)j->c->streams;
    bool good = kv_h5_put_numbers(j->group, "xxh3", H5T_STD_U64LE, H5T_NATIVE_UINT64, 1, &s, j->hash);
    if (coded(j))
        good = good && kv_h5_put_numbers(j->group, "max", H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, 1, &s, j->max) &&
               kv_h5_put_numbers(j->group, "nnz", H5T_STD_I32LE, H5T_NATIVE_INT32, 1, &s, j->nnz);
    if (j->c->what < KV_WINDOW_LOGITS)
        good = good && kv_h5_put_numbers(j->group, "sum", H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, 1, &s, j->sum);
    if (!good || !j->begin)
        return good;
    int64_t *length = malloc(s * sizeof *length);
    for (hsize_t i = 0; length && i < s; i++)
        length[i] = j->begin[i + 1] - j->begin[i];
    good = length && kv_h5_put_numbers(j->group, "length", H5T_STD_I64LE, H5T_NATIVE_INT64, 1, &s, length);
    free(length);
    return good;
}

/* Where the rows of a ragged channel begin: each as long as its lane. */
static int64_t *ragged_begins(const struct job *j)
{
    int64_t *begin = calloc((size_t)j->c->streams + 1, sizeof *begin);
    int64_t rows_of_lane = j->c->streams / kv_trace_lanes(j->w->about);
    for (int64_t s = 0; begin && s < j->c->streams; s++)
        begin[s + 1] = begin[s] + j->w->lengths[s / rows_of_lane];
    return begin;
}

static bool fill(struct job *j, struct kv_err *e)
{
    char name[24];
    kv_h5_lock();
    j->group =
        H5Gcreate2(j->w->channel[j->channel], kv_tick_name(j->tick, name), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    bool good = (j->group >= 0 && make_planes(j)) || kv_writer_failed(j->w, e);
    kv_h5_unlock();
    good = good && run(j, e);
    kv_h5_lock();
    good = good && (write_small(j) || kv_writer_failed(j->w, e));
    for (int i = 0; i < 2; i++)
        if (j->plane[i] >= 0)
            good &= H5Dclose(j->plane[i]) >= 0 || kv_writer_failed(j->w, e);
    if (j->group >= 0)
        H5Gclose(j->group);
    kv_h5_unlock();
    return good;
}

bool kv_writer_put(struct kv_trace_writer *w, int channel, int64_t tick, const struct kv_row_source *source,
                   struct kv_err *e)
{
    const struct kv_trace_channel *c = &w->about->channel[channel];
    size_t s = (size_t)c->streams;
    struct job j = {
        .w = w, .source = source, .c = c, .channel = channel, .tick = tick, .e = e, .group = -1, .plane = {-1, -1}};
    j.n = c->ragged ? 0 : kv_trace_positions(&w->tick[tick], c) * c->elements;
    j.band = c->ragged || j.n > CHUNK_NUMBERS ? 1 : CHUNK_NUMBERS / j.n < c->streams ? CHUNK_NUMBERS / j.n : c->streams;
    j.n_bands = (c->streams + j.band - 1) / j.band;
    j.filter = c->encoding == KV_ENC_LOG12 || c->encoding == KV_ENC_CODE ? w->filter : KV_FILTER_NONE;
    j.begin = c->ragged ? ragged_begins(&j) : NULL;
    j.max = calloc(s, sizeof *j.max);
    j.sum = calloc(s, sizeof *j.sum);
    j.nnz = calloc(s, sizeof *j.nnz);
    j.hash = calloc(s, sizeof *j.hash);
    pthread_mutex_init(&j.lock, NULL);
    pthread_cond_init(&j.turn, NULL);
    bool good = j.max && j.sum && j.nnz && j.hash && (j.begin || !c->ragged);
    good = good ? fill(&j, e) : kv_fail(e, KV_ENV, "cannot write '%s': no memory for %zu rows", w->path, s);
    pthread_mutex_destroy(&j.lock);
    pthread_cond_destroy(&j.turn);
    free((void *)(uintptr_t)j.begin);
    free(j.max);
    free(j.sum);
    free(j.nnz);
    free(j.hash);
    return good;
}
