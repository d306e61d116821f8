/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What we use of the HDF5 library. It takes one caller at a time: every call of it, and every function here, runs
 * between kv_h5_lock and kv_h5_unlock. Private to traces/. */
#ifndef KV_TRACE_H5_H
#define KV_TRACE_H5_H

#include "sim/core/arena.h"

#include <hdf5.h>
#include <stdint.h>

enum { KV_FILTER_ID_ZSTD = 32015 };

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

/* The 16-bit type of half precision, little endian. The caller closes it. */
hid_t kv_h5_half(void);

/* ---- writing; false: the library failed, kv_h5_why says why ---- */

/* How datasets are made: without the time, or the same numbers would not be the same bytes. The caller closes it. */
hid_t kv_h5_dataset(void);
bool kv_h5_put_text(hid_t id, const char *name, const char *text); /* NULL: nothing is written */
bool kv_h5_put_int(hid_t id, const char *name, int64_t value);     /* an older value is overwritten */
bool kv_h5_put_numbers(hid_t group, const char *name, hid_t stored, hid_t type, int rank, const hsize_t *extent,
                       const void *data);

#endif
