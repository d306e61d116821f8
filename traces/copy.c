/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A trace, written anew: rows that stay as they are encoded keep their bits, and every row its exact sum. */
#include "traces/write.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Channels in the encoding asked for, where they can have it: codes are for numbers >= 0, ragged rows are f32. */
static struct kv_trace_channel *choose(const struct kv_trace_about *b, int encoding, struct kv_arena *a)
{
    struct kv_trace_channel *channel = KV_NEW_N(a, struct kv_trace_channel, b->n_channels + 1);
    for (int i = 0; i < b->n_channels; i++) {
        channel[i] = b->channel[i];
        bool can =
            encoding >= 0 && !channel[i].ragged && (encoding > KV_ENC_CODE || kv_trace_nonnegative(channel[i].what));
        if (can)
            channel[i].encoding = (enum kv_encoding)encoding;
        else if (channel[i].encoding <= KV_ENC_CODE && !kv_trace_nonnegative(channel[i].what))
            channel[i].encoding = KV_ENC_F32; /* codes where the format has none */
    }
    return channel;
}

/* Attributes that we have no field for: text and whole numbers go along. */
static bool copy_attributes(struct kv_trace *t, struct kv_trace_writer *w, const char *group, struct kv_err *e)
{
    const struct kv_index *x = &t->index;
    int32_t g = 0;
    if (*group && !kv_index_group(x, 0, group, &g, e))
        return false;
    const struct kv_attribute *a = x->attribute + x->node[g].attribute;
    kv_h5_lock();
    hid_t to = *group ? H5Gopen2(w->file, group, H5P_DEFAULT) : w->file;
    bool good = to >= 0;
    for (int32_t i = 0; good && i < x->node[g].n_attributes; i++)
        if (a[i].values == 1 && H5Aexists(to, a[i].name) <= 0)
            good = a[i].text ? kv_h5_put_text(to, a[i].name, a[i].text) : kv_h5_put_int(to, a[i].name, a[i].value);
    if (!good)
        kv_writer_failed(w, e);
    if (*group && to >= 0)
        H5Gclose(to);
    kv_h5_unlock();
    return good;
}

/* Positions of all lanes, one behind another. */
static bool copy_lanes(struct kv_trace *t, const struct kv_lengths *all, int64_t tick, bool kept,
                       struct kv_trace_writer *w, struct kv_trace_work *work, struct kv_err *e)
{
    const struct kv_lengths *l = all ? &all[tick] : NULL;
    if (!l || !l->n)
        return true;
    int64_t heads = l->n / t->about.layers, n;
    int64_t *length = calloc((size_t)l->n, sizeof *length);
    int32_t *position = calloc((size_t)l->begin[l->n] + 1, sizeof *position);
    const int32_t *lane;
    bool good = (length && position) || kv_fail(e, KV_ENV, "cannot write '%s': no memory for positions", w->path);
    for (int64_t i = 0; good && i < l->n; i++) {
        good = kept ? kv_trace_kept(t, tick, i / heads, i % heads, &lane, &n, work, e)
                    : kv_trace_slots(t, tick, i / heads, i % heads, &lane, &n, work, e);
        if (good) {
            length[i] = n;
            memcpy(position + l->begin[i], lane, (size_t)n * sizeof *lane);
        }
    }
    good = good && (kept ? kv_trace_put_kept(w, length, position, e) : kv_trace_put_slots(w, length, position, e));
    free(length);
    free(position);
    return good;
}

static bool copy_ticks(struct kv_trace *t, struct kv_trace_writer *w, struct kv_trace_work *work, struct kv_err *e)
{
    bool good = true;
    for (int64_t i = 0; good && i < t->about.n_ticks; i++) {
        good = kv_trace_tick(w, &t->about.tick[i], e) && copy_lanes(t, t->slots, i, false, w, work, e);
        for (int c = 0; good && c < t->about.n_channels; c++) {
            struct kv_row_source source = {.from = t, .channel = c};
            good = !t->about.channel[c].at[i] || kv_writer_put(w, c, i, &source, e);
        }
        good = good && copy_lanes(t, t->kept, i, true, w, work, e) && kv_trace_commit(w, e);
    }
    return good;
}

static bool copy_prompt(struct kv_trace *t, struct kv_trace_writer *w, struct kv_err *e)
{
    const struct kv_trace_about *b = &t->about;
    bool good = true;
    if (b->has_ids) {
        int32_t *ids = calloc((size_t)(b->n_prompt + b->n_output), sizeof *ids);
        good = ids ? kv_trace_ids(t, ids, e) && kv_trace_put_ids(w, ids, b->n_prompt + b->n_output, e)
                   : kv_fail(e, KV_ENV, "cannot write '%s': no memory for token ids", w->path);
        free(ids);
    }
    if (good && b->has_log_probability) {
        float *lp = calloc((size_t)b->n_output + 1, sizeof *lp);
        good = lp ? kv_trace_log_probability(t, lp, e) && kv_trace_put_log_probability(w, lp, b->n_output, e)
                  : kv_fail(e, KV_ENV, "cannot write '%s': no memory for log-probabilities", w->path);
        free(lp);
    }
    return good;
}

/* The unfinished copy, apart from what a recording of that name may have left, which is perhaps what is copied. */
static bool copy_all(struct kv_trace *t, const char *to, const struct kv_trace_about *b, enum kv_filter filter,
                     struct kv_arena *a, struct kv_err *e)
{
    struct kv_trace_writer *w;
    const char *part = kv_format(a, "%s.copy.part", to);
    if (!kv_writer_create(&w, to, part, b->complete, b, filter, (int)sysconf(_SC_NPROCESSORS_ONLN), e))
        return false;
    struct kv_trace_work *work = kv_trace_work_open(t, e);
    bool good = work && copy_attributes(t, w, "", e) && copy_attributes(t, w, "model", e) &&
                copy_attributes(t, w, "prompt", e) && copy_ticks(t, w, work, e) && copy_prompt(t, w, e);
    kv_trace_work_close(work);
    if (good)
        return kv_trace_finish(w, e);
    kv_trace_abandon(w);
    unlink(part);
    return false;
}

bool kv_trace_copy(const char *from, const char *to, enum kv_filter filter, int encoding, struct kv_arena *a,
                   struct kv_err *e)
{
    struct kv_trace *t;
    struct kv_trace_about b;
    struct stat one, other;
    if (!stat(from, &one) && !stat(to, &other) && one.st_dev == other.st_dev && one.st_ino == other.st_ino)
        return kv_fail(e, KV_DATA, "cannot copy '%s' onto itself; give another name", from);
    if (!kv_trace_open(&t, from, &b, a, e))
        return false;
    bool good = b.n_ticks > 0 || kv_fail(e, KV_DATA, "trace '%s' holds no whole pass; there is nothing to copy", from);
    b.channel = choose(&b, encoding, a);
    good = good && copy_all(t, to, &b, filter, a, e);
    kv_trace_close(t);
    return good;
}
