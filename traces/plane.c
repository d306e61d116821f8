/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Three ways to a row: straight from the file; a view of the chunk unpacked last; or put together from chunks and
 * converted. */
#include "traces/plane.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BAND_BYTES = 65536, PIECE = 4096, OTHER_BYTES = 64 << 20 };
enum { FILTER_DEFLATE = 1, FILTER_SHUFFLE = 2, FILTER_FLETCHER32 = 3 };

/* Chunks hold whole rows, in the form that we want. */
static bool whole_rows(const struct kv_plane *p)
{
    return p->same && p->set->layout == KV_LAYOUT_CHUNKS && (int64_t)p->set->chunk[1] == p->columns;
}

bool kv_plane_flat(const struct kv_plane *p)
{
    return p->same && p->set->layout == KV_LAYOUT_FLAT;
}

static void choose_band(struct kv_plane *p)
{
    int64_t row_bytes = p->columns * (int64_t)p->item, chunk = (int64_t)p->set->chunk[0];
    int64_t most = kv_plane_flat(p) ? BAND_BYTES : OTHER_BYTES;
    p->band = row_bytes > 0 && row_bytes < most ? most / row_bytes : 1;
    if (p->set->layout != KV_LAYOUT_CHUNKS)
        return;
    if (whole_rows(p) || chunk < p->band)
        p->band = chunk; /* every chunk is unpacked once */
}

bool kv_plane_open(struct kv_plane *p, const struct kv_index *x, int file, int32_t group, const char *name,
                   enum kv_number want, int rank, int64_t rows, int64_t columns, struct kv_err *e)
{
    int64_t items;
    p->x = x;
    p->file = file;
    p->n_held = 0;
    p->chunk = -1;
    if (!kv_index_set(x, group, name, rank, &p->node, &items, e))
        return false;
    const struct kv_set *s = p->set = x->node[p->node].set;
    bool real = s->class == KV_CLASS_FLOAT;
    p->want = want;
    p->item = kv_number_size(want);
    p->same = kv_number_same(s, want);
    p->rows = rows;
    p->columns = columns;
    if (rank == 2 && (s->extent[0] != (uint64_t)rows || s->extent[1] != (uint64_t)columns))
        return kv_index_bad(x, p->node, e, "has %lld x %lld numbers; expected %lld x %lld", (long long)s->extent[0],
                            (long long)s->extent[1], (long long)rows, (long long)columns);
    if (rank == 1 && s->extent[0] != (uint64_t)columns)
        return kv_index_bad(x, p->node, e, "has %lld numbers; expected %lld", (long long)s->extent[0],
                            (long long)columns);
    if (real != kv_number_real(want))
        return kv_index_bad(x, p->node, e, "holds %s",
                            real ? "real numbers; expected integers" : "integers; expected real numbers");
    choose_band(p);
    return true;
}

void kv_plane_free(struct kv_plane *p)
{
    free(p->packed.bytes);
    free(p->unpacked[0].bytes);
    free(p->unpacked[1].bytes);
    free(p->numbers.bytes);
}

/* ---- bytes ---- */

#define MAKE_ROOM(p, buffer, size, e) make_room(p, &(buffer).bytes, &(buffer).room, size, e)

/* Lines of the cache begin where the buffer does. */
static bool make_room(const struct kv_plane *p, uint8_t **bytes, size_t *room, uint64_t size, struct kv_err *e)
{
    if (size <= *room)
        return true;
    free(*bytes);
    *bytes = size < SIZE_MAX / 2 ? aligned_alloc(64, (size + 63) / 64 * 64) : NULL;
    *room = *bytes ? size : 0;
    return *bytes ||
           kv_fail(e, KV_ENV, "trace '%s': no memory for %llu bytes of a row", p->x->path, (unsigned long long)size);
}

static bool read_at(const struct kv_plane *p, uint64_t at, uint64_t bytes, void *out, struct kv_err *e)
{
    for (uint64_t done = 0; done < bytes;) {
        ssize_t n = pread(p->file, (char *)out + done, bytes - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return kv_index_bad(p->x, p->node, e, "cannot be read: %s",
                                n ? strerror(errno) : "the file became shorter");
        done += (uint64_t)n;
    }
    return true;
}

/* ---- chunks ---- */

static bool bad_chunk(const struct kv_plane *p, int64_t chunk, struct kv_err *e)
{
    return kv_index_bad(p->x, p->node, e, "chunk %lld cannot be unpacked; the file is damaged", (long long)chunk);
}

/* Undoes the filters, the last one first, from the packed bytes on. Sets p->raw. */
static bool undo_filters(struct kv_plane *p, int64_t chunk, size_t bytes, size_t whole, struct kv_packer *packer,
                         struct kv_err *e)
{
    const struct kv_set_filter *filter = kv_set_filters(p->set);
    uint32_t skipped = kv_set_chunk_skipped(p->set)[chunk];
    const uint8_t *from = p->packed.bytes;
    size_t room = whole + whole / 8 + 4096; /* packed twice, it can be larger in between */
    int which = 0;
    for (int i = p->set->n_filters - 1; i >= 0; i--) {
        if (skipped >> i & 1)
            continue;
        if (filter[i].id == FILTER_FLETCHER32) {
            if (bytes < 4)
                return bad_chunk(p, chunk, e);
            bytes -= 4;
            continue;
        }
        if (!MAKE_ROOM(p, p->unpacked[which], room, e))
            return false;
        uint8_t *to = p->unpacked[which].bytes;
        if (filter[i].id == FILTER_SHUFFLE)
            kv_unshuffle(from, bytes < room ? bytes : room, filter[i].value, to);
        else
            bytes = kv_unpack(packer, filter[i].id == FILTER_DEFLATE ? KV_FILTER_GZIP : KV_FILTER_ZSTD, from, bytes, to,
                              room);
        from = to;
        which ^= 1;
    }
    p->raw = from;
    return bytes == whole || bad_chunk(p, chunk, e);
}

static bool unpack_chunk(struct kv_plane *p, int64_t chunk, struct kv_packer *packer, struct kv_err *e)
{
    size_t whole = (size_t)(p->set->size * p->set->chunk[0] * p->set->chunk[1]);
    uint64_t at = kv_set_chunks(p->set)[chunk], bytes = kv_set_chunk_bytes(p->set)[chunk];
    if (p->chunk == chunk)
        return true;
    p->chunk = -1;
    if (at == KV_NOWHERE)
        return kv_index_bad(p->x, p->node, e, "chunk %lld was never written", (long long)chunk);
    if (!MAKE_ROOM(p, p->packed, bytes, e) || !read_at(p, at, bytes, p->packed.bytes, e) ||
        !undo_filters(p, chunk, bytes, whole, packer, e))
        return false;
    p->chunk = chunk;
    return true;
}

/* ---- numbers ---- */

/* n numbers that follow each other in the file, converted. */
static bool convert_flat(const struct kv_plane *p, uint64_t first, int64_t n, uint8_t *out, struct kv_err *e)
{
    uint8_t piece[PIECE * 8];
    uint64_t at = p->set->n + first * p->set->size;
    if (p->same)
        return read_at(p, at, (uint64_t)n * p->item, out, e);
    while (n > 0) {
        int64_t some = n < PIECE ? n : PIECE;
        if (!read_at(p, at, (uint64_t)some * p->set->size, piece, e))
            return false;
        kv_convert(piece, p->set, some, p->want, out);
        at += (uint64_t)some * p->set->size;
        out += (size_t)some * p->item;
        n -= some;
    }
    return true;
}

/* Numbers [begin, begin + n) of rows [row, row + n_rows), out of the chunks they are in; `out` is (n_rows, n). */
static bool gather(struct kv_plane *p, int64_t row, int64_t n_rows, int64_t begin, int64_t n, uint8_t *out,
                   struct kv_packer *packer, struct kv_err *e)
{
    bool flip = p->set->rank < 2; /* of one axis: numbers go along the first */
    int64_t high = flip ? 1 : (int64_t)p->set->chunk[0], wide = (int64_t)p->set->chunk[flip ? 0 : 1];
    int64_t across = (p->columns - 1) / wide + 1;
    for (int64_t r = row; r < row + n_rows;) {
        int64_t below = r - r % high + high, last = below < row + n_rows ? below : row + n_rows;
        for (int64_t c = begin; c < begin + n;) {
            int64_t beside = c - c % wide + wide, end = beside < begin + n ? beside : begin + n;
            if (!unpack_chunk(p, r / high * across + c / wide, packer, e))
                return false;
            for (int64_t k = r; k < last; k++)
                kv_convert(p->raw + (size_t)(k % high * wide + c % wide) * p->set->size, p->set, end - c, p->want,
                           out + (size_t)((k - row) * n + c - begin) * p->item);
            c = end;
        }
        r = last;
    }
    return true;
}

static bool fetch(struct kv_plane *p, int64_t row, int64_t n_rows, int64_t begin, int64_t n, uint8_t *out,
                  struct kv_packer *packer, struct kv_err *e)
{
    int64_t first = row * p->columns + begin; /* n_rows > 1: whole rows */
    if (p->set->layout == KV_LAYOUT_CHUNKS)
        return gather(p, row, n_rows, begin, n, out, packer, e);
    if (p->set->layout == KV_LAYOUT_FLAT)
        return convert_flat(p, (uint64_t)first, n_rows * n, out, e);
    kv_convert(kv_set_bytes(p->set) + (size_t)first * p->set->size, p->set, n_rows * n, p->want, out);
    return true;
}

const void *kv_plane_row(struct kv_plane *p, int64_t row, struct kv_packer *packer, struct kv_err *e)
{
    int64_t row_bytes = p->columns * (int64_t)p->item;
    if (row < p->held || row >= p->held + p->n_held) {
        int64_t first = row - row % p->band;
        int64_t n = p->rows - first < p->band ? p->rows - first : p->band;
        p->n_held = 0;
        if (whole_rows(p)) {
            if (!unpack_chunk(p, first / p->band, packer, e))
                return NULL;
            p->view = p->raw;
        } else {
            if (!MAKE_ROOM(p, p->numbers, (uint64_t)(n * row_bytes) + 1, e) ||
                !fetch(p, first, n, 0, p->columns, p->numbers.bytes, packer, e))
                return NULL;
            p->view = p->numbers.bytes;
        }
        p->held = first;
        p->n_held = n;
    }
    return p->view + (row - p->held) * row_bytes;
}

bool kv_plane_part(struct kv_plane *p, int64_t row, int64_t begin, int64_t n, void *out, struct kv_packer *packer,
                   struct kv_err *e)
{
    return n == 0 || fetch(p, row, 1, begin, n, out, packer, e);
}

void *kv_index_numbers(const struct kv_index *x, int file, int32_t group, const char *name, enum kv_number want,
                       int64_t least, int64_t most, int64_t *n, struct kv_err *e)
{
    struct kv_plane p = {0};
    void *out = NULL;
    int32_t node;
    if (!kv_index_set(x, group, name, 1, &node, n, e))
        return NULL;
    if (*n < least || *n > most) {
        kv_index_bad(x, node, e, "has %lld numbers; expected %s%lld", (long long)*n,
                     least == most ? ""
                     : *n < least  ? "at least "
                                   : "at most ",
                     (long long)(*n < least ? least : most));
        return NULL;
    }
    if (!kv_plane_open(&p, x, file, group, name, want, 1, 1, *n, e))
        return NULL;
    struct kv_packer *packer = p.set->layout == KV_LAYOUT_CHUNKS ? kv_packer_open() : NULL;
    if (!kv_index_fits(x, p.item * (uint64_t)*n))
        kv_index_bad(x, node, e, "says to have more numbers than the file can hold");
    else if ((p.set->layout == KV_LAYOUT_CHUNKS && !packer) || !(out = calloc((size_t)*n + 1, p.item)))
        kv_fail(e, KV_ENV, "trace '%s': no memory for %lld numbers", x->path, (long long)*n);
    else if (!kv_plane_part(&p, 0, 0, *n, out, packer, e)) {
        free(out);
        out = NULL;
    }
    kv_packer_close(packer);
    kv_plane_free(&p);
    return out;
}
