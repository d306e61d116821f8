/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What we use of the HDF5 library, each size bounded before it is believed. The library takes one caller at a time:
 * every call of it, and every function here, runs between kv_h5_lock and kv_h5_unlock. Private to traces/. */
#ifndef KV_TRACE_H5_H
#define KV_TRACE_H5_H

#include "sim/core/arena.h"

#include <hdf5.h>
#include <stdint.h>

enum { KV_H5_TEXT = 65536, KV_FILTER_ID_ZSTD = 32015 };

/* Makes the library silent in this thread, keeps it from loading plugins that a file names, and knows zstd. */
void kv_h5_lock(void);
void kv_h5_unlock(void);

/* An open group or dataset, and how messages name it. */
struct kv_place {
    const char *path; /* of the file */
    int64_t bytes;    /* of the file */
    hid_t id;
    char name[256]; /* "" is the root */
};

/* "trace 'PATH': NAME: ..." as KV_DATA. */
bool kv_h5_bad(const struct kv_place *p, struct kv_err *e, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same with what the library says last: "cannot VERB NAME/CHILD: why; the file is damaged". */
bool kv_h5_damaged(const struct kv_place *p, const char *verb, const char *child, struct kv_err *e);
/* Why the library failed first since the lock was taken; what our own driver has to say to that. */
const char *kv_h5_why(void);
void kv_h5_note(const char *why);

/* Whether there is a link of that name. */
bool kv_h5_has(const struct kv_place *p, const char *name);
/* Links to other files are refused. Whoever opens closes: H5Oclose(g->id). */
bool kv_h5_group(const struct kv_place *p, const char *name, struct kv_place *g, struct kv_err *e);

/* Attributes. `fallback` NULL: it must be there. Text lives in the arena. */
bool kv_h5_text(const struct kv_place *p, const char *name, const char *fallback, const char **out, struct kv_arena *a,
                struct kv_err *e);
bool kv_h5_int(const struct kv_place *p, const char *name, int64_t low, int64_t high, const int64_t *fallback,
               int64_t *out, struct kv_err *e);

/* A dataset of numbers, checked: stored in this file, of `rank` axes, not larger than the file can hold. */
struct kv_dataset {
    struct kv_place at;
    hid_t type; /* in the file; closed with it */
    H5D_layout_t layout;
    hsize_t extent[2], chunk[2];
    int64_t items;
    bool real; /* floating point */
};
bool kv_h5_dataset(const struct kv_place *p, const char *name, int rank, struct kv_dataset *d, struct kv_err *e);
void kv_h5_dataset_close(struct kv_dataset *d);
/* Looks up every chunk, so that a damaged index shows. */
bool kv_h5_walk_chunks(const struct kv_dataset *d, int rank, struct kv_err *e);

/* All numbers of a dataset of one axis, as `type` in memory, at least `least` and at most `most`. By malloc. */
void *kv_h5_numbers(const struct kv_place *p, const char *name, hid_t type, int64_t least, int64_t most, int64_t *n,
                    struct kv_err *e);

/* The 16-bit type of half precision, little endian. The caller closes it. */
hid_t kv_h5_half(void);

/* ---- writing; false: the library failed, kv_h5_why says why ---- */

bool kv_h5_put_text(hid_t id, const char *name, const char *text); /* NULL: nothing is written */
bool kv_h5_put_int(hid_t id, const char *name, int64_t value);     /* an older value is overwritten */
bool kv_h5_put_numbers(hid_t group, const char *name, hid_t stored, hid_t type, int rank, const hsize_t *extent,
                       const void *data);

#endif
