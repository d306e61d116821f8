/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Numbers of one dataset, read past the HDF5 library: the index says where they are. Private to traces/. */
#ifndef KV_TRACE_PLANE_H
#define KV_TRACE_PLANE_H

#include "traces/convert.h"
#include "traces/pack.h"

/* Opening takes no memory and no lock: a plane can be opened again for another dataset. Buffers stay. */
struct kv_plane {
    const struct kv_index *x;
    int32_t node;
    const struct kv_set *set;
    enum kv_number want;
    size_t item; /* bytes of one, in memory */
    bool same;   /* as in the file */
    int file;
    int64_t rows, columns, band; /* rows read at a time */
    int64_t held, n_held;        /* the rows at `view` */
    const uint8_t *view;
    int64_t chunk; /* what is unpacked, at `raw`; -1: none */
    const uint8_t *raw;
    struct {
        uint8_t *bytes;
        size_t room;
    } packed, unpacked[2], numbers;
};

/* Rank 2, (rows, columns); or rank 1, one row of `columns`. */
bool kv_plane_open(struct kv_plane *p, const struct kv_index *x, int file, int32_t group, const char *name,
                   enum kv_number want, int rank, int64_t rows, int64_t columns, struct kv_err *e);
void kv_plane_free(struct kv_plane *p);
/* A row of a rank 2 plane, until the next call. */
const void *kv_plane_row(struct kv_plane *p, int64_t row, struct kv_packer *packer, struct kv_err *e);
/* Items [begin, begin + n) of a rank 1 plane, or of row `row`. */
bool kv_plane_part(struct kv_plane *p, int64_t row, int64_t begin, int64_t n, void *out, struct kv_packer *packer,
                   struct kv_err *e);
/* Whether parts come straight from the file. */
bool kv_plane_flat(const struct kv_plane *p);

/* All numbers of a dataset of one axis, at least `least` and at most `most`. By malloc. */
void *kv_index_numbers(const struct kv_index *x, int file, int32_t group, const char *name, enum kv_number want,
                       int64_t least, int64_t most, int64_t *n, struct kv_err *e);

#endif
