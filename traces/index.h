/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What is in a trace file and where, as flat records. A child process that walks the file with the HDF5 library writes
 * them; the reader takes them as it would take any file from a stranger. Private to traces/. */
#ifndef KV_TRACE_INDEX_H
#define KV_TRACE_INDEX_H

#include "sim/core/arena.h"

#include <stdint.h>

/* ---- as it is written: KV_INDEX_MAGIC, then records, the byte order is the machine's ---- */

#define KV_INDEX_MAGIC "kvindex1"
enum { KV_INDEX_TEXT = 65536, KV_INDEX_FILTERS = 8 };

enum kv_record_kind {
    KV_RECORD_GROUP = 1, /* name; what follows is in it, up to KV_RECORD_UP */
    KV_RECORD_UP,
    KV_RECORD_SET,       /* struct kv_set, filters, chunks or bytes, name */
    KV_RECORD_LEFT,      /* name of a group not looked at: its pass was not committed */
    KV_RECORD_ELSEWHERE, /* name of a link that leads out of the file */
    KV_RECORD_OTHER,     /* name of something else */
    /* attributes of the group opened last, before anything in it */
    KV_RECORD_TEXT,  /* name, text */
    KV_RECORD_INT,   /* int64_t, name */
    KV_RECORD_VALUES /* int64_t: how many values (-1: text too long), name; neither of the above */
};

/* `bytes` follow, a multiple of 8. Names and texts end in a zero byte. */
struct kv_record {
    uint32_t kind, bytes;
};

enum kv_set_class { KV_CLASS_OTHER, KV_CLASS_SIGNED, KV_CLASS_UNSIGNED, KV_CLASS_FLOAT };
enum kv_set_layout { KV_LAYOUT_OTHER, KV_LAYOUT_FLAT, KV_LAYOUT_CHUNKS, KV_LAYOUT_COMPACT };

struct kv_set_filter {
    uint32_t id, value; /* of HDF5; the first of its values */
};

/* A dataset. Behind it: filter[n_filters]; chunks: uint64_t at[n], uint32_t bytes[n], uint32_t skipped[n], in row-major
 * order of the grid; compact: n bytes, padded to 8. */
struct kv_set {
    uint8_t class, size, big_endian, rank; /* size: bytes of a number */
    uint8_t layout, n_filters, unused[2];
    uint64_t extent[2], chunk[2];
    uint64_t n; /* flat: the place in the file; chunks: how many; compact: bytes */
};
#define KV_NOWHERE UINT64_MAX /* was never written */

/* ---- as it is read ---- */

struct kv_attribute {
    const char *name, *text; /* text NULL: a number, or `values` */
    int64_t value, values;
};

/* Preorder: children of node i begin at i + 1, the next child is at `end` of the one before. */
struct kv_node {
    const char *name;
    enum kv_record_kind kind; /* up to KV_RECORD_OTHER */
    int32_t end, up;
    int32_t attribute, n_attributes;
    const struct kv_set *set;
};

struct kv_index {
    const char *path;    /* of the trace */
    int64_t file_bytes;  /* of the trace */
    int64_t spent, most; /* bytes of memory that what it says made us take; and may */
    void *bytes;         /* the records; owned */
    struct kv_node *node;
    struct kv_attribute *attribute;
    int32_t n, n_attributes;
};

/* How many bytes of index a file of that size can need. */
int64_t kv_index_most(int64_t file_bytes);
/* Takes `bytes` (by malloc), whether it succeeds or not. KV_DATA. */
bool kv_index_open(struct kv_index *x, const char *path, int64_t file_bytes, void *bytes, size_t size,
                   struct kv_err *e);
void kv_index_close(struct kv_index *x);
/* Whether so much more memory may be taken on the word of the file; gives back when negative. */
bool kv_index_spend(struct kv_index *x, int64_t bytes, struct kv_err *e);

/* "trace 'PATH': NAME: ..." as KV_DATA; node 0 is the root. */
bool kv_index_bad(const struct kv_index *x, int32_t node, struct kv_err *e, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

int32_t kv_index_find(const struct kv_index *x, int32_t group, const char *name); /* -1: none */
/* A child, which must be there. */
bool kv_index_group(const struct kv_index *x, int32_t up, const char *name, int32_t *node, struct kv_err *e);
/* A dataset of `rank` axes whose numbers are in the file, all sizes bounded. *n: its numbers. */
bool kv_index_set(const struct kv_index *x, int32_t up, const char *name, int rank, int32_t *node, int64_t *n,
                  struct kv_err *e);
/* No more than the file can hold, compressed by deflate's best, 1 : 1032, or what is small anyway. */
bool kv_index_fits(const struct kv_index *x, uint64_t bytes);

/* Attributes. `fallback` NULL: it must be there. Text lives in the arena. */
bool kv_index_text(const struct kv_index *x, int32_t group, const char *name, const char *fallback, const char **out,
                   struct kv_arena *a, struct kv_err *e);
bool kv_index_int(const struct kv_index *x, int32_t group, const char *name, int64_t low, int64_t high,
                  const int64_t *fallback, int64_t *out, struct kv_err *e);

/* Parts of a dataset's record. */
const struct kv_set_filter *kv_set_filters(const struct kv_set *s);
const uint64_t *kv_set_chunks(const struct kv_set *s); /* places */
const uint32_t *kv_set_chunk_bytes(const struct kv_set *s);
const uint32_t *kv_set_chunk_skipped(const struct kv_set *s); /* filters, bits */
const uint8_t *kv_set_bytes(const struct kv_set *s);

#endif
