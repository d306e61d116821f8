/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Trace files that survive the program that writes them: rows are flushed before the tick that they belong to counts.
 */
#include "traces/write.h"
#include "traces/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TICK_CHUNK = 64 };

enum { Q_BEGIN, Q_END, KIND, N_PATCH, START, END, BYTES, COLUMNS };
static const char *const columns[COLUMNS] = {"q_begin",    "q_end",    "kind",    "n_patch",
                                             "t_start_ns", "t_end_ns", "kv_bytes"};

bool kv_writer_failed(const struct kv_trace_writer *w, struct kv_err *e)
{
    return kv_fail(e, KV_ENV, "cannot write '%s': %s", w->part, kv_h5_why());
}

/* ---- the head of the file ---- */

static hid_t make_group(hid_t up, const char *name)
{
    return H5Gcreate2(up, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
}

static bool put_root(hid_t id, const struct kv_trace_about *b)
{
    return kv_h5_put_text(id, "format", "kvtrace") && kv_h5_put_int(id, "version_major", 1) &&
           kv_h5_put_int(id, "version_minor", 0) && kv_h5_put_int(id, "complete", 0) &&
           kv_h5_put_text(id, "producer", b->producer) && kv_h5_put_text(id, "producer_version", b->producer_version) &&
           kv_h5_put_text(id, "created_utc", b->created_utc) && kv_h5_put_text(id, "uuid", b->uuid) &&
           kv_h5_put_text(id, "policy", b->policy ? b->policy : "full");
}

static bool put_model(hid_t file, const struct kv_trace_about *b)
{
    hid_t id = make_group(file, "model");
    bool good = id >= 0 && kv_h5_put_int(id, "n_layer", b->layers) && kv_h5_put_int(id, "n_q_head", b->q_heads) &&
                kv_h5_put_int(id, "n_kv_head", b->kv_heads) && kv_h5_put_int(id, "head_dim", b->head_dim) &&
                kv_h5_put_text(id, "name", b->model) && kv_h5_put_text(id, "revision", b->revision) &&
                kv_h5_put_text(id, "compute_dtype", b->compute_dtype) && kv_h5_put_text(id, "kv_dtype", b->kv_dtype);
    return id >= 0 && H5Gclose(id) >= 0 && good;
}

static bool put_prompt(hid_t file, const struct kv_trace_about *b)
{
    hid_t id = make_group(file, "prompt");
    bool good = id >= 0 && kv_h5_put_int(id, "n_prompt", b->n_prompt) && kv_h5_put_int(id, "n_output", b->n_output) &&
                kv_h5_put_int(id, "n_prefill", b->prefill) && kv_h5_put_text(id, "dataset", b->dataset) &&
                kv_h5_put_text(id, "item_id", b->item);
    return id >= 0 && H5Gclose(id) >= 0 && good;
}

static bool put_marks(hid_t file, const struct kv_trace_about *b, struct kv_arena *a)
{
    if (!b->n_marks)
        return true;
    hsize_t n = (hsize_t)b->n_marks;
    int64_t *begin = KV_NEW_N(a, int64_t, n), *end = KV_NEW_N(a, int64_t, n);
    const char *names = "";
    for (int i = 0; i < b->n_marks; i++) {
        begin[i] = b->mark[i].begin;
        end[i] = b->mark[i].end;
        names = kv_format(a, "%s%s%s", names, i ? "\n" : "", b->mark[i].name);
    }
    hid_t id = make_group(file, "marks");
    bool good = id >= 0 && kv_h5_put_numbers(id, "begin", H5T_STD_I64LE, H5T_NATIVE_INT64, 1, &n, begin) &&
                kv_h5_put_numbers(id, "end", H5T_STD_I64LE, H5T_NATIVE_INT64, 1, &n, end) &&
                kv_h5_put_text(id, "names", names);
    return id >= 0 && H5Gclose(id) >= 0 && good;
}

static bool put_channel(struct kv_trace_writer *w, int i)
{
    const struct kv_trace_channel *c = &w->about->channel[i];
    hid_t id = w->channel[i] = make_group(w->channels, c->name ? c->name : kv_channels[c->what].name);
    bool reduced = kv_channels[c->what].attention && !c->query_heads;
    return id >= 0 && kv_h5_put_text(id, "head_axis", c->query_heads ? "q" : "kv") &&
           (!reduced || kv_h5_put_text(id, "group_reduce", kv_reduce_names[c->reduce])) &&
           (!kv_channels[c->what].window || kv_h5_put_int(id, "window", c->window)) &&
           (c->encoding > KV_ENC_CODE || kv_h5_put_int(id, "steps_per_octave", c->steps_per_octave)) &&
           kv_h5_put_text(id, "precision_in", c->precision) && kv_h5_put_text(id, "under_policy", c->under) &&
           (!c->ragged || kv_h5_put_int(id, "ragged", 1));
}

static bool make_ticks(struct kv_trace_writer *w)
{
    hsize_t nothing = 0, endless = H5S_UNLIMITED, chunk = TICK_CHUNK, one = 1;
    int64_t zero = 0;
    bool good = (w->ticks = make_group(w->file, "ticks")) >= 0 &&
                kv_h5_put_numbers(w->ticks, "n_committed", H5T_STD_I64LE, H5T_NATIVE_INT64, 1, &one, &zero);
    hid_t plist = kv_h5_dataset(), space = H5Screate_simple(1, &nothing, &endless);
    H5Pset_chunk(plist, 1, &chunk);
    for (int i = 0; good && i < COLUMNS; i++) {
        hid_t type = i == KIND ? H5T_STD_U8LE : H5T_STD_I64LE;
        hid_t set = H5Dcreate2(w->ticks, columns[i], type, space, H5P_DEFAULT, plist, H5P_DEFAULT);
        good = set >= 0 && H5Dclose(set) >= 0;
    }
    H5Sclose(space);
    H5Pclose(plist);
    return good;
}

static bool make_head(struct kv_trace_writer *w)
{
    const struct kv_trace_about *b = w->about;
    bool good = put_root(w->file, b) && put_model(w->file, b) && put_prompt(w->file, b) &&
                put_marks(w->file, b, w->own) && make_ticks(w) && (w->channels = make_group(w->file, "channels")) >= 0;
    for (int i = 0; good && i < b->n_channels; i++)
        good = put_channel(w, i);
    return good && H5Fflush(w->file, H5F_SCOPE_LOCAL) >= 0;
}

static void check_about(const struct kv_trace_about *b)
{
    KV_ASSERT(b->layers > 0 && b->kv_heads > 0 && b->q_heads % b->kv_heads == 0 && b->head_dim > 0 && b->n_prompt > 0);
    for (int i = 0; i < b->n_channels; i++) {
        const struct kv_trace_channel *c = &b->channel[i];
        bool coded = c->encoding == KV_ENC_LOG12 || c->encoding == KV_ENC_CODE;
        KV_ASSERT(c->streams == b->layers * (c->query_heads ? b->q_heads : b->kv_heads) * c->rows);
        KV_ASSERT(c->elements == (c->what == KV_KEYS || c->what == KV_VALUES ? b->head_dim : 1));
        KV_ASSERT(c->rows == (c->what == KV_WINDOW_LOGITS ? c->window : 1) &&
                  (c->window > 0 || !kv_channels[c->what].window));
        KV_ASSERT(!coded || (kv_trace_nonnegative(c->what) && !c->ragged));
        KV_ASSERT(!c->ragged || (c->encoding == KV_ENC_F32 && (c->query_heads || !b->query_lanes)));
    }
}

bool kv_writer_create(struct kv_trace_writer **out, const char *path, const char *part, bool complete,
                      const struct kv_trace_about *about, enum kv_filter filter, int threads, struct kv_err *e)
{
    check_about(about);
    *out = NULL;
    struct kv_arena *a = kv_arena_open();
    struct kv_trace_writer *w = KV_NEW(a, struct kv_trace_writer);
    *w = (struct kv_trace_writer){
        .own = a, .path = kv_copy_text(a, path), .part = kv_copy_text(a, part), .about = about};
    w->filter = filter;
    w->threads = threads > 0 ? threads : 1;
    w->complete = complete;
    w->n_output = about->n_output;
    w->ticks = w->channels = w->slots = w->kept = H5I_INVALID_HID;
    w->channel = KV_NEW_N(a, hid_t, about->n_channels + 1);
    w->put = KV_NEW_N(a, bool, about->n_channels + 1);
    w->lengths = KV_NEW_N(a, int64_t, kv_trace_lanes(about));
    int probe = open(part, O_WRONLY | O_CREAT | O_CLOEXEC, 0666); /* for a reason in the system's words */
    if (probe < 0) {
        kv_fail(e, KV_ENV, "cannot write '%s': %s", part, strerror(errno));
        kv_arena_close(a);
        return false;
    }
    close(probe);
    kv_h5_lock();
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
    w->file = !kv_journal_set(access) ? H5I_INVALID_HID : H5Fcreate(part, H5F_ACC_TRUNC, H5P_DEFAULT, access);
    H5Pclose(access);
    bool good = (w->file >= 0 && make_head(w)) || kv_writer_failed(w, e);
    kv_h5_unlock();
    if (good)
        *out = w;
    else
        kv_trace_abandon(w);
    return good;
}

bool kv_trace_create(struct kv_trace_writer **w, const char *path, const struct kv_trace_about *about,
                     enum kv_filter filter, int threads, struct kv_err *e)
{
    struct kv_arena *a = kv_arena_open();
    bool good = kv_writer_create(w, path, kv_format(a, "%s.part", path), true, about, filter, threads, e);
    kv_arena_close(a);
    return good;
}

/* ---- a tick ---- */

bool kv_trace_tick(struct kv_trace_writer *w, const struct kv_tick *tick, struct kv_err *e)
{
    const struct kv_trace_about *b = w->about;
    KV_ASSERT(!w->in_tick && tick->begin == (w->n_ticks ? w->tick[w->n_ticks - 1].end : 0) && tick->end > tick->begin);
    KV_ASSERT(tick->end <= b->n_prompt + b->n_output);
    if (w->n_ticks == w->room) {
        int64_t room = w->room ? 2 * w->room : 64;
        struct kv_tick *more = realloc(w->tick, (size_t)room * sizeof *more);
        if (!more)
            return kv_fail(e, KV_ENV, "cannot write '%s': no memory for %lld ticks", w->part, (long long)room);
        w->tick = more;
        w->room = room;
    }
    w->tick[w->n_ticks] = *tick;
    memset(w->put, 0, (size_t)b->n_channels * sizeof *w->put);
    w->has_slots = w->has_kept = false;
    w->in_tick = true;
    return true;
}

bool kv_trace_put(struct kv_trace_writer *w, int channel, const float *rows, struct kv_err *e)
{
    struct kv_row_source source = {.rows = rows};
    KV_ASSERT(w->in_tick && channel >= 0 && channel < w->about->n_channels && !w->put[channel]);
    KV_ASSERT(!w->about->channel[channel].ragged || w->has_slots);
    w->put[channel] = true;
    return kv_writer_put(w, channel, w->n_ticks, &source, e);
}

bool kv_trace_put_later(struct kv_trace_writer *w, int channel, int64_t tick, const float *rows, struct kv_err *e)
{
    struct kv_row_source source = {.rows = rows};
    KV_ASSERT(!w->in_tick && tick >= 0 && tick < w->n_ticks && !w->about->channel[channel].ragged);
    return kv_writer_put(w, channel, tick, &source, e);
}

/* The group is made by the first tick that has such lanes. */
static bool put_lanes(struct kv_trace_writer *w, const char *group, hid_t *up, const int64_t *length,
                      const int32_t *position, struct kv_err *e)
{
    hsize_t lanes = (hsize_t)kv_trace_lanes(w->about), total = 0;
    char name[24];
    KV_ASSERT(w->in_tick);
    for (hsize_t i = 0; i < lanes; i++)
        total += (hsize_t)length[i];
    kv_h5_lock();
    bool good = *up >= 0 || ((*up = make_group(w->file, group)) >= 0 &&
                             kv_h5_put_text(*up, "head_axis", w->about->query_lanes ? "q" : "kv"));
    hid_t id = good ? make_group(*up, kv_tick_name(w->n_ticks, name)) : H5I_INVALID_HID;
    good = id >= 0 && kv_h5_put_numbers(id, "length", H5T_STD_I64LE, H5T_NATIVE_INT64, 1, &lanes, length) &&
           kv_h5_put_numbers(id, "position", H5T_STD_I32LE, H5T_NATIVE_INT32, 1, &total, position);
    good = id >= 0 && H5Gclose(id) >= 0 && good;
    if (!good)
        kv_writer_failed(w, e);
    kv_h5_unlock();
    return good;
}

bool kv_trace_put_slots(struct kv_trace_writer *w, const int64_t *length, const int32_t *position, struct kv_err *e)
{
    memcpy(w->lengths, length, (size_t)kv_trace_lanes(w->about) * sizeof *length);
    w->has_slots = true;
    return put_lanes(w, "slots", &w->slots, length, position, e);
}

bool kv_trace_put_kept(struct kv_trace_writer *w, const int64_t *length, const int32_t *position, struct kv_err *e)
{
    KV_ASSERT(!w->has_kept);
    w->has_kept = true;
    return put_lanes(w, "kept", &w->kept, length, position, e);
}

/* ---- committing ---- */

static bool append(struct kv_trace_writer *w, const char *name, int64_t value)
{
    hsize_t at = (hsize_t)w->n_ticks, size = at + 1, one = 1;
    hid_t set = H5Dopen2(w->ticks, name, H5P_DEFAULT);
    if (set < 0 || H5Dset_extent(set, &size) < 0)
        return false;
    hid_t to = H5Dget_space(set), from = H5Screate_simple(1, &one, NULL);
    bool good = H5Sselect_hyperslab(to, H5S_SELECT_SET, &at, NULL, &one, NULL) >= 0 &&
                H5Dwrite(set, H5T_NATIVE_INT64, from, to, H5P_DEFAULT, &value) >= 0;
    H5Sclose(from);
    H5Sclose(to);
    return H5Dclose(set) >= 0 && good;
}

static bool raise_committed(struct kv_trace_writer *w)
{
    int64_t n = w->n_ticks + 1;
    hid_t set = H5Dopen2(w->ticks, "n_committed", H5P_DEFAULT);
    bool good = set >= 0 && H5Dwrite(set, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, &n) >= 0;
    return set >= 0 && H5Dclose(set) >= 0 && good;
}

bool kv_trace_commit(struct kv_trace_writer *w, struct kv_err *e)
{
    KV_ASSERT(w->in_tick);
    const struct kv_tick *t = &w->tick[w->n_ticks];
    int64_t value[COLUMNS] = {t->begin, t->end, t->kind, t->n_patch, t->start_ns, t->end_ns, t->kv_bytes};
    kv_h5_lock();
    bool good = true;
    for (int i = 0; good && i < COLUMNS; i++)
        good = append(w, columns[i], value[i]);
    good = good && H5Fflush(w->file, H5F_SCOPE_LOCAL) >= 0 && raise_committed(w) &&
           H5Fflush(w->file, H5F_SCOPE_LOCAL) >= 0;
    if (!good)
        kv_writer_failed(w, e);
    kv_h5_unlock();
    w->n_ticks++;
    w->in_tick = false;
    return good;
}

/* ---- the end ---- */

static bool put_prompt_numbers(struct kv_trace_writer *w, const char *name, hid_t stored, hid_t type, int64_t n,
                               const void *numbers, struct kv_err *e)
{
    hsize_t extent = (hsize_t)n;
    kv_h5_lock();
    hid_t id = H5Gopen2(w->file, "prompt", H5P_DEFAULT);
    bool good = id >= 0 && kv_h5_put_numbers(id, name, stored, type, 1, &extent, numbers) &&
                kv_h5_put_int(id, "n_output", w->n_output);
    good = id >= 0 && H5Gclose(id) >= 0 && good;
    if (!good)
        kv_writer_failed(w, e);
    kv_h5_unlock();
    return good;
}

bool kv_trace_put_ids(struct kv_trace_writer *w, const int32_t *ids, int64_t n, struct kv_err *e)
{
    const struct kv_trace_about *b = w->about;
    KV_ASSERT(n >= b->n_prompt && n <= b->n_prompt + b->n_output && (!w->n_ticks || n >= w->tick[w->n_ticks - 1].end));
    w->n_output = n - b->n_prompt;
    return put_prompt_numbers(w, "ids", H5T_STD_I32LE, H5T_NATIVE_INT32, n, ids, e);
}

bool kv_trace_put_log_probability(struct kv_trace_writer *w, const float *lp, int64_t n, struct kv_err *e)
{
    KV_ASSERT(n == w->n_output);
    return put_prompt_numbers(w, "log_probability", H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, n, lp, e);
}

static bool sync_path(const char *path)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    bool good = file >= 0 && !fsync(file);
    int why = errno;
    if (file >= 0)
        close(file);
    errno = why;
    return good || why == EINVAL || why == ENOTSUP; /* file systems that cannot */
}

static bool settle(const struct kv_trace_writer *w, struct kv_err *e)
{
    char *folder = kv_copy_text(w->own, w->path), *slash = strrchr(folder, '/');
    if (slash)
        slash[slash == folder] = '\0';
    if (sync_path(w->part) && !rename(w->part, w->path) && sync_path(slash ? folder : "."))
        return true;
    return kv_fail(e, KV_ENV, "cannot write '%s': %s", w->path, strerror(errno));
}

bool kv_trace_finish(struct kv_trace_writer *w, struct kv_err *e)
{
    KV_ASSERT(!w->in_tick);
    kv_h5_lock();
    bool good = H5Fflush(w->file, H5F_SCOPE_LOCAL) >= 0 && kv_h5_put_int(w->file, "complete", w->complete) &&
                H5Fclose(w->file) >= 0;
    if (good)
        w->file = H5I_INVALID_HID;
    else
        kv_writer_failed(w, e);
    kv_h5_unlock();
    good = good && settle(w, e);
    kv_trace_abandon(w);
    return good;
}

void kv_trace_abandon(struct kv_trace_writer *w)
{
    if (!w)
        return;
    kv_h5_lock();
    if (w->file >= 0)
        H5Fclose(w->file);
    kv_h5_unlock();
    free(w->tick);
    kv_arena_close(w->own);
}
