/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Rows of one dataset. The HDF5 library decompresses under its one lock; so where the pipeline is one we know, chunks
 * are read as they are and unpacked outside the lock, and what is not packed is read with pread, past the library. */
#include "traces/inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BAND_BYTES = 65536, OTHER_BYTES = 64 << 20 };

/* The steps of the pipeline, or false where we do not know one of them. */
static bool learn_filters(struct kv_plane *p)
{
    hid_t plist = H5Dget_create_plist(p->set.at.id);
    int n = H5Pget_nfilters(plist);
    bool known = n >= 0 && n <= 3;
    p->n_filters = n;
    for (int i = 0; known && i < n; i++) {
        unsigned flags, config;
        size_t values = 0;
        H5Z_filter_t id = H5Pget_filter2(plist, (unsigned)i, &flags, &values, NULL, 0, NULL, &config);
        known = id == KV_FILTER_ID_ZSTD || id == H5Z_FILTER_DEFLATE || id == H5Z_FILTER_FLETCHER32;
        p->filter[i] = id == KV_FILTER_ID_ZSTD    ? KV_STEP_ZSTD
                       : id == H5Z_FILTER_DEFLATE ? KV_STEP_GZIP
                                                  : KV_STEP_CHECKSUM;
        known &= (p->filter[i] == KV_STEP_CHECKSUM) == (i == n - 1 && i > 0) || n == 1; /* at most one that packs */
    }
    H5Pclose(plist);
    return known && n <= 2;
}

static bool learn_layout(struct kv_plane *p, int rank, struct kv_err *e)
{
    bool same = H5Tequal(p->set.type, p->type) > 0;
    int64_t row_bytes = p->columns * (int64_t)p->item;
    p->how = KV_PLANE_OTHER;
    p->band = row_bytes > 0 && row_bytes < OTHER_BYTES ? OTHER_BYTES / row_bytes : 1;
    if (same && p->set.layout == H5D_CONTIGUOUS && p->set.items > 0) {
        haddr_t offset = H5Dget_offset(p->set.at.id);
        if (offset == HADDR_UNDEF)
            return kv_h5_bad(&p->set.at, e, "was made but never written");
        if (offset > (haddr_t)p->set.at.bytes || row_bytes * p->rows > p->set.at.bytes - (int64_t)offset)
            return kv_h5_bad(&p->set.at, e, "ends behind the end of the file; the file is cut off");
        p->how = KV_PLANE_FLAT;
        p->offset = (int64_t)offset;
        p->band = row_bytes < BAND_BYTES ? BAND_BYTES / row_bytes : 1;
    } else if (p->set.layout == H5D_CHUNKED) {
        if (same && rank == 2 && (int64_t)p->set.chunk[1] == p->columns && learn_filters(p))
            p->how = KV_PLANE_CHUNKS, p->band = (int64_t)p->set.chunk[0];
        else if (rank == 2 && (int64_t)p->set.chunk[0] < p->band) /* every chunk is unpacked once */
            p->band -= p->band % (int64_t)p->set.chunk[0];
    }
    return true;
}

bool kv_plane_open(struct kv_plane *p, const struct kv_place *up, const char *name, hid_t type, int rank, int64_t rows,
                   int64_t columns, struct kv_err *e)
{
    struct kv_plane old = *p;
    *p = (struct kv_plane){.type = type,
                           .item = H5Tget_size(type),
                           .rows = rows,
                           .columns = columns,
                           .buffer = old.buffer,
                           .packed = old.packed,
                           .room = old.room,
                           .packed_room = old.packed_room};
    if (!kv_h5_dataset(up, name, rank, &p->set, e)) {
        H5Tclose(type);
        p->type = H5I_INVALID_HID;
        return false;
    }
    const hsize_t *n = p->set.extent;
    bool good = false;
    if (rank == 2 && (n[0] != (hsize_t)rows || n[1] != (hsize_t)columns))
        kv_h5_bad(&p->set.at, e, "has %lld x %lld numbers; expected %lld x %lld", (long long)n[0], (long long)n[1],
                  (long long)rows, (long long)columns);
    else if (rank == 1 && n[0] != (hsize_t)columns)
        kv_h5_bad(&p->set.at, e, "has %lld numbers; expected %lld", (long long)n[0], (long long)columns);
    else if (p->set.real != (H5Tget_class(type) == H5T_FLOAT))
        kv_h5_bad(&p->set.at, e, "holds %s",
                  p->set.real ? "real numbers; expected integers" : "integers; expected real numbers");
    else
        good = learn_layout(p, rank, e);
    if (!good)
        kv_plane_close(p);
    return good;
}

void kv_plane_close(struct kv_plane *p)
{
    if (p->type > 0)
        H5Tclose(p->type);
    if (p->type > 0)
        kv_h5_dataset_close(&p->set);
    p->type = H5I_INVALID_HID;
    p->n_held = 0;
}

void kv_plane_free(struct kv_plane *p)
{
    free(p->buffer);
    free(p->packed);
    p->buffer = p->packed = NULL;
}

/* ---- reading ---- */

static bool make_room(uint8_t **buffer, size_t *room, uint64_t bytes, const struct kv_plane *p, struct kv_err *e)
{
    if (bytes <= *room)
        return true;
    free(*buffer);
    *buffer = bytes < SIZE_MAX ? malloc(bytes) : NULL;
    *room = *buffer ? bytes : 0;
    return *buffer || kv_fail(e, KV_ENV, "trace '%s': no memory for %llu bytes of %s", p->set.at.path,
                              (unsigned long long)bytes, p->set.at.name);
}

static bool read_flat(const struct kv_plane *p, int64_t offset, int64_t bytes, void *out, int file, struct kv_err *e)
{
    for (int64_t done = 0; done < bytes;) {
        ssize_t n = pread(file, (char *)out + done, (size_t)(bytes - done), p->offset + offset + done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return kv_h5_bad(&p->set.at, e, "cannot be read: %s", n ? strerror(errno) : "the file became shorter");
        done += n;
    }
    return true;
}

static bool read_by_library(const struct kv_plane *p, int rank, hsize_t first, hsize_t n, void *out, struct kv_err *e)
{
    hsize_t start[2] = {first, 0}, count[2] = {n, (hsize_t)p->columns};
    kv_h5_lock();
    hid_t from = H5Dget_space(p->set.at.id), to = H5Screate_simple(rank, count, NULL);
    bool good = H5Sget_simple_extent_ndims(from) != rank || /* a scalar */
                H5Sselect_hyperslab(from, H5S_SELECT_SET, start, NULL, count, NULL) >= 0;
    good = good && H5Dread(p->set.at.id, p->type, to, from, H5P_DEFAULT, out) >= 0;
    if (!good)
        kv_h5_damaged(&p->set.at, "read", NULL, e);
    H5Sclose(from);
    H5Sclose(to);
    kv_h5_unlock();
    return good;
}

/* A chunk as it is stored, into p->packed. */
static bool fetch_chunk(struct kv_plane *p, int64_t row, size_t *packed, uint32_t *skipped, struct kv_err *e)
{
    hsize_t offset[2] = {(hsize_t)row, 0}, bytes = 0;
    uint64_t whole = (uint64_t)p->band * (uint64_t)p->columns * p->item;
    kv_h5_lock();
    bool good = H5Dget_chunk_storage_size(p->set.at.id, offset, &bytes) >= 0 && bytes > 0;
    if (!good)
        kv_h5_bad(&p->set.at, e, "row %lld was never written", (long long)row);
    else if (bytes > (hsize_t)p->set.at.bytes || bytes > 2 * whole + 4096)
        good = kv_h5_bad(&p->set.at, e, "the chunk of row %lld is larger than it can be; the file is damaged",
                         (long long)row);
    else if ((good = make_room(&p->packed, &p->packed_room, bytes, p, e)) &&
             H5Dread_chunk(p->set.at.id, H5P_DEFAULT, offset, skipped, p->packed) < 0)
        good = kv_h5_damaged(&p->set.at, "read", NULL, e);
    kv_h5_unlock();
    *packed = bytes;
    return good;
}

static bool read_chunk(struct kv_plane *p, int64_t row, struct kv_packer *packer, struct kv_err *e)
{
    size_t whole = (size_t)p->band * (size_t)p->columns * p->item, packed;
    uint32_t skipped;
    enum kv_filter filter = KV_FILTER_NONE;
    if (!fetch_chunk(p, row, &packed, &skipped, e) || !make_room(&p->buffer, &p->room, whole, p, e))
        return false;
    for (int i = p->n_filters - 1; i >= 0; i--) {
        if (skipped >> i & 1)
            continue;
        if (p->filter[i] == KV_STEP_CHECKSUM)
            packed -= packed >= 4 ? 4 : packed;
        else
            filter = p->filter[i] == KV_STEP_ZSTD ? KV_FILTER_ZSTD : KV_FILTER_GZIP;
    }
    return kv_unpack(packer, filter, p->packed, packed, p->buffer, whole) ||
           kv_h5_bad(&p->set.at, e, "the chunk of row %lld cannot be unpacked; the file is damaged", (long long)row);
}

const void *kv_plane_row(struct kv_plane *p, int64_t row, int file, struct kv_packer *packer, struct kv_err *e)
{
    int64_t row_bytes = p->columns * (int64_t)p->item;
    if (row < p->held || row >= p->held + p->n_held) {
        int64_t first = row - row % p->band;
        int64_t n = p->rows - first < p->band ? p->rows - first : p->band;
        p->n_held = 0;
        if (p->how == KV_PLANE_CHUNKS) {
            if (!read_chunk(p, first, packer, e))
                return NULL;
        } else if (!make_room(&p->buffer, &p->room, (uint64_t)(n * row_bytes), p, e)) {
            return NULL;
        } else if (p->how == KV_PLANE_FLAT) {
            if (!read_flat(p, first * row_bytes, n * row_bytes, p->buffer, file, e))
                return NULL;
        } else {
            memset(p->buffer, 0, (size_t)(n * row_bytes)); /* the library may leave what was never written */
            if (!read_by_library(p, 2, (hsize_t)first, (hsize_t)n, p->buffer, e))
                return NULL;
        }
        p->held = first;
        p->n_held = n;
    }
    return p->buffer + (row - p->held) * row_bytes;
}

bool kv_plane_part(struct kv_plane *p, int64_t begin, int64_t n, void *out, int file, struct kv_err *e)
{
    if (n == 0)
        return true;
    if (p->how == KV_PLANE_FLAT)
        return read_flat(p, begin * (int64_t)p->item, n * (int64_t)p->item, out, file, e);
    memset(out, 0, (size_t)n * p->item);
    struct kv_plane part = *p;
    part.columns = n;
    return read_by_library(&part, 1, (hsize_t)begin, (hsize_t)n, out, e);
}
