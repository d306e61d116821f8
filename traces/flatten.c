/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copies what FORMAT.md names, and nothing else, from the file's structure into flat records. What it makes of it is
 * not checked here: the reader does that, and believes nothing that comes from a process in which a damaged file and
 * the HDF5 library met. */
#include "traces/flatten.h"
#include "traces/h5.h"
#include "traces/index.h"
#include "traces/inside.h"
#include "traces/look.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PIECE = 65536, COMPACT_MOST = 65536 };

struct flat {
    const char *path;
    hid_t file;
    int64_t file_bytes, committed;
    bool eights; /* addresses are of 8 bytes, and from the file's beginning on */
    int out;
    int64_t written, most;
    size_t n;
    struct kv_err *e;
    uint8_t piece[PIECE];
};

/* ---- records ---- */

static bool flush(struct flat *f)
{
    for (size_t done = 0; done < f->n;) {
        ssize_t n = write(f->out, f->piece + done, f->n - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return kv_fail(f->e, KV_ENV, "cannot look at '%s': %s", f->path, strerror(n ? errno : ENOSPC));
        done += (size_t)n;
    }
    f->n = 0;
    return true;
}

static bool put(struct flat *f, const void *data, size_t size)
{
    f->written += (int64_t)size;
    if (f->written > f->most)
        return kv_fail(f->e, KV_DATA, "trace '%s': holds more groups, datasets and chunks than a file of its size can",
                       f->path);
    for (const uint8_t *from = data; size > 0;) {
        size_t n = size < PIECE - f->n ? size : PIECE - f->n;
        memcpy(f->piece + f->n, from, n);
        f->n += n;
        from += n;
        size -= n;
        if (f->n == PIECE && !flush(f))
            return false;
    }
    return true;
}

static bool pad(struct flat *f)
{
    static const uint8_t zeros[8];
    return put(f, zeros, (size_t)(-f->written & 7));
}

static bool put_head(struct flat *f, enum kv_record_kind kind, uint64_t bytes)
{
    struct kv_record r = {kind, (uint32_t)((bytes + 7) / 8 * 8)};
    return put(f, &r, sizeof r);
}

static bool put_named(struct flat *f, enum kv_record_kind kind, const char *name)
{
    size_t size = name ? strlen(name) + 1 : 0;
    return put_head(f, kind, size) && put(f, name, size) && pad(f);
}

/* ---- attributes ---- */

static bool put_number(struct flat *f, enum kv_record_kind kind, const char *name, int64_t value)
{
    size_t size = strlen(name) + 1;
    return put_head(f, kind, 8 + size) && put(f, &value, 8) && put(f, name, size) && pad(f);
}

static bool put_text(struct flat *f, const char *name, const char *text)
{
    size_t size = strlen(name) + 1, length = strlen(text) + 1;
    return put_head(f, KV_RECORD_TEXT, size + length) && put(f, name, size) && put(f, text, length) && pad(f);
}

/* By malloc; NULL when it is too long or cannot be read. Variable length: the library's own memory first. */
static char *read_text(hid_t attribute, hid_t type)
{
    size_t size = H5Tget_size(type);
    char *out = NULL, *text = NULL;
    if (H5Tis_variable_str(type) > 0) {
        hid_t memory = H5Tcopy(H5T_C_S1);
        H5Tset_size(memory, H5T_VARIABLE);
        H5Tset_cset(memory, H5Tget_cset(type));
        if (H5Aread(attribute, memory, &text) >= 0 && (!text || strnlen(text, KV_INDEX_TEXT) < KV_INDEX_TEXT))
            out = strdup(text ? text : "");
        H5Tclose(memory);
        H5free_memory(text);
    } else if (size > 0 && size <= KV_INDEX_TEXT && (out = calloc(1, size + 1))) {
        if (H5Aread(attribute, type, out) < 0) {
            free(out);
            return NULL;
        }
        for (size_t n = strlen(out); H5Tget_strpad(type) == H5T_STR_SPACEPAD && n && out[n - 1] == ' ';)
            out[--n] = '\0';
    }
    return out;
}

static bool put_attribute(struct flat *f, hid_t attribute, hid_t type, const char *name)
{
    hid_t space = H5Aget_space(attribute);
    int64_t n = H5Sget_simple_extent_npoints(space), value;
    H5T_class_t class = H5Tget_class(type);
    H5Sclose(space);
    if (n == 1 && class == H5T_INTEGER && H5Aread(attribute, H5T_NATIVE_INT64, &value) >= 0)
        return put_number(f, KV_RECORD_INT, name, value);
    if (n != 1 || class != H5T_STRING)
        return put_number(f, KV_RECORD_VALUES, name, n);
    char *text = read_text(attribute, type);
    bool good = text ? put_text(f, name, text) : put_number(f, KV_RECORD_VALUES, name, -1);
    free(text);
    return good;
}

static herr_t each_attribute(hid_t id, const char *name, const H5A_info_t *info, void *flat)
{
    hid_t attribute = H5Aopen(id, name, H5P_DEFAULT), type;
    (void)info;
    if (attribute < 0)
        return -1;
    type = H5Aget_type(attribute);
    bool good = type >= 0 && put_attribute(flat, attribute, type, name);
    H5Tclose(type);
    H5Aclose(attribute);
    return good ? 0 : -1;
}

/* ---- datasets ---- */

/* Only what memory has too: whole bytes, and IEEE's three floats. */
static void describe_type(hid_t type, struct kv_set *s)
{
    size_t size = H5Tget_size(type), sign, exponent, exponent_bits, mantissa, mantissa_bits;
    H5T_class_t class = H5Tget_class(type);
    if ((class != H5T_INTEGER && class != H5T_FLOAT) || size > 8 || H5Tget_precision(type) != 8 * size ||
        H5Tget_offset(type) != 0)
        return;
    H5T_order_t order = H5Tget_order(type);
    if (order != H5T_ORDER_LE && order != H5T_ORDER_BE)
        return;
    s->size = (uint8_t)size;
    s->big_endian = order == H5T_ORDER_BE && size > 1;
    if (class == H5T_INTEGER) {
        s->class = H5Tget_sign(type) == H5T_SGN_NONE ? KV_CLASS_UNSIGNED : KV_CLASS_SIGNED;
        return;
    }
    if (H5Tget_fields(type, &sign, &exponent, &exponent_bits, &mantissa, &mantissa_bits) < 0)
        return;
    size_t wanted = size == 2 ? 5 : size == 4 ? 8 : size == 8 ? 11 : 0;
    if (exponent_bits == wanted && wanted && mantissa == 0 && mantissa_bits == 8 * size - 1 - wanted &&
        exponent == mantissa_bits && sign == 8 * size - 1 && H5Tget_ebias(type) == (1u << (wanted - 1)) - 1 &&
        H5Tget_norm(type) == H5T_NORM_IMPLIED)
        s->class = KV_CLASS_FLOAT;
}

static void describe_extent(hid_t space, struct kv_set *s)
{
    hsize_t extent[2] = {1, 1};
    int rank = H5Sget_simple_extent_ndims(space);
    if (rank < 0 || H5Sget_simple_extent_type(space) == H5S_NULL)
        s->class = KV_CLASS_OTHER;
    s->rank = rank < 0 || rank > 255 ? 255 : (uint8_t)rank;
    if (rank >= 0 && rank <= 2)
        H5Sget_simple_extent_dims(space, extent, NULL);
    s->extent[0] = extent[0];
    s->extent[1] = extent[1];
}

/* The layout of what is not contiguous and there, filters among it. */
static void describe_layout(hid_t set, struct kv_set *s, struct kv_set_filter *filter, bool *whole_edges)
{
    hid_t plist = H5Dget_create_plist(set);
    H5D_layout_t layout = H5Pget_layout(plist);
    hsize_t chunk[32] = {1, 1};
    unsigned options = 0;
    if (layout == H5D_CONTIGUOUS && H5Pget_external_count(plist) == 0) {
        s->layout = KV_LAYOUT_FLAT;
        s->n = KV_NOWHERE;
    } else if (layout == H5D_COMPACT) {
        s->layout = KV_LAYOUT_COMPACT;
    } else if (layout == H5D_CHUNKED && H5Pget_chunk(plist, 32, chunk) <= 2) {
        int n = H5Pget_nfilters(plist);
        s->layout = KV_LAYOUT_CHUNKS;
        s->n_filters = n < 0 || n > KV_INDEX_FILTERS ? KV_INDEX_FILTERS : (uint8_t)n;
        s->chunk[0] = chunk[0];
        s->chunk[1] = s->rank == 2 ? chunk[1] : 1;
        for (unsigned i = 0; i < s->n_filters; i++) {
            unsigned flags, config, value[32] = {0};
            size_t values = 32;
            filter[i].id = (uint32_t)H5Pget_filter2(plist, i, &flags, &values, value, 0, NULL, &config);
            filter[i].value = value[0];
            if (n > KV_INDEX_FILTERS)
                filter[i].id = UINT32_MAX;
        }
        *whole_edges = H5Pget_chunk_opts(plist, &options) >= 0 && options & H5D_CHUNK_DONT_FILTER_PARTIAL_CHUNKS;
    }
    H5Pclose(plist);
}

/* How many chunks there are along an axis. */
static uint64_t along(const struct kv_set *s, int axis)
{
    return s->chunk[axis] ? s->extent[axis] / s->chunk[axis] + (s->extent[axis] % s->chunk[axis] > 0) : 0;
}

static bool put_chunks(struct flat *f, hid_t set, const struct kv_set *s, bool whole_edges)
{
    size_t n = s->n;
    uint64_t columns = along(s, 1);
    KV_ASSERT(!n || columns);
    uint64_t *at = malloc((n + 1) * 16);
    if (!at)
        return kv_fail(f->e, KV_ENV, "cannot look at '%s': no memory for %zu chunks", f->path, n);
    uint32_t *bytes = (uint32_t *)(at + n), *skipped = bytes + n;
    for (size_t i = 0; i < n; i++) {
        hsize_t first[2] = {i / columns * s->chunk[0], i % columns * s->chunk[1]};
        struct kv_look_chunk c;
        bool there = kv_look_chunk(set, first, &c) && c.bytes <= UINT32_MAX;
        bool edge = first[0] + s->chunk[0] > s->extent[0] || first[1] + s->chunk[1] > s->extent[1];
        at[i] = there ? c.at : KV_NOWHERE;
        bytes[i] = there ? (uint32_t)c.bytes : 0;
        skipped[i] = whole_edges && edge ? UINT32_MAX : c.skipped;
    }
    bool good = put(f, at, 16 * n);
    free(at);
    return good;
}

static bool put_compact(struct flat *f, hid_t set, const struct kv_set *s)
{
    uint8_t bytes[COMPACT_MOST];
    hid_t type = H5Dget_type(set);
    bool good = H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes) >= 0;
    H5Tclose(type);
    return good && put(f, bytes, s->n) && pad(f);
}

/* Counts chunks or bytes, and returns how many bytes of record they take. None where there are more than there can be:
 * the reader sees that there should be some. */
static uint64_t measure(struct kv_set *s, int64_t file_bytes)
{
    if (s->layout == KV_LAYOUT_CHUNKS) {
        if (__builtin_mul_overflow(along(s, 0), along(s, 1), &s->n) || s->n > (uint64_t)file_bytes)
            s->n = 0;
        return 16 * s->n;
    }
    if (s->layout != KV_LAYOUT_COMPACT)
        return 0;
    if (__builtin_mul_overflow(s->extent[0], s->extent[1], &s->n) || __builtin_mul_overflow(s->n, s->size, &s->n) ||
        s->n > COMPACT_MOST)
        s->n = 0;
    return (s->n + 7) / 8 * 8;
}

static bool put_set(struct flat *f, hid_t set, const char *name)
{
    struct kv_set s = {.extent = {1, 1}, .chunk = {1, 1}};
    struct kv_set_filter filter[KV_INDEX_FILTERS] = {{0}};
    bool whole_edges = false;
    hid_t type = H5Dget_type(set), space = H5Dget_space(set);
    describe_type(type, &s);
    describe_extent(space, &s);
    H5Sclose(space);
    H5Tclose(type);
    haddr_t at = s.class == KV_CLASS_OTHER || s.rank > 2 ? HADDR_UNDEF : H5Dget_offset(set);
    if (at != HADDR_UNDEF) { /* contiguous, in this file, written */
        s.layout = KV_LAYOUT_FLAT;
        s.n = at;
    } else if (s.class != KV_CLASS_OTHER && s.rank <= 2) {
        describe_layout(set, &s, filter, &whole_edges);
    }
    uint64_t tail = measure(&s, f->file_bytes);
    size_t filters = s.n_filters * sizeof *filter, size = strlen(name) + 1;
    uint64_t whole = sizeof s + filters + tail + size;
    if (whole > (uint64_t)f->most)
        return put(f, NULL, whole); /* says so */
    return put_head(f, KV_RECORD_SET, whole) && put(f, &s, sizeof s) && put(f, filter, filters) &&
           (s.layout != KV_LAYOUT_CHUNKS || put_chunks(f, set, &s, whole_edges)) &&
           (s.layout != KV_LAYOUT_COMPACT || s.n == 0 || put_compact(f, set, &s)) && put(f, name, size) && pad(f);
}

static bool put_plain(struct flat *f, const struct kv_set *s, const char *name)
{
    size_t size = strlen(name) + 1;
    return put_head(f, KV_RECORD_SET, sizeof *s + size) && put(f, s, sizeof *s) && put(f, name, size) && pad(f);
}

/* ---- groups ---- */

typedef bool put_members(struct flat *f, hid_t group);

/* A link of `up`: a group with attributes and members, or a dataset where `members` is NULL. */
static bool put_link(struct flat *f, hid_t up, const char *name, const H5L_info_t *info, put_members *members)
{
    if (info->type != H5L_TYPE_HARD)
        return put_named(f, KV_RECORD_ELSEWHERE, name);
    struct kv_set plain = {.extent = {1, 1}, .chunk = {1, 1}};
    if (!members && f->eights && kv_look_plain(info->u.address, &plain))
        return put_plain(f, &plain, name);
    hid_t id = H5Oopen(up, name, H5P_DEFAULT);
    bool good = id >= 0;
    if (!good)
        return false;
    H5I_type_t type = H5Iget_type(id);
    if (type == H5I_GROUP && members) {
        good = put_named(f, KV_RECORD_GROUP, name) &&
               H5Aiterate2(id, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, each_attribute, f) >= 0 && members(f, id) &&
               put_named(f, KV_RECORD_UP, NULL);
    } else if (type == H5I_DATASET && !members) {
        good = put_set(f, id, name);
    } else {
        good = put_named(f, KV_RECORD_OTHER, name);
    }
    H5Oclose(id);
    return good;
}

static bool put_child(struct flat *f, hid_t up, const char *name, put_members *members)
{
    H5L_info_t info;
    if (H5Lexists(up, name, H5P_DEFAULT) <= 0)
        return true;
    return H5Lget_info(up, name, &info, H5P_DEFAULT) >= 0 && put_link(f, up, name, &info, members);
}

/* The datasets that have one of these names. */
static bool is_one_of(const char *name, const char *const *names)
{
    while (*names && strcmp(*names, name))
        names++;
    return *names != NULL;
}

static herr_t each_rows(hid_t group, const char *name, const H5L_info_t *info, void *flat)
{
    static const char *const names[] = {"hi",  "lo",  "code", "f32",    "f16",      "max",
                                        "sum", "nnz", "xxh3", "length", "position", NULL};
    return !is_one_of(name, names) || put_link(flat, group, name, info, NULL) ? 0 : -1;
}

static bool put_rows(struct flat *f, hid_t group)
{
    return H5Literate(group, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, each_rows, f) >= 0;
}

static herr_t each_tick(hid_t group, const char *name, const H5L_info_t *info, void *flat)
{
    struct flat *f = flat;
    if (!kv_is_tick_name(name))
        return 0;
    if (strtoll(name + 1, NULL, 10) >= f->committed)
        return put_named(f, KV_RECORD_LEFT, name) ? 0 : -1;
    return put_link(f, group, name, info, put_rows) ? 0 : -1;
}

static bool put_ticks_of(struct flat *f, hid_t group)
{
    return H5Literate(group, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, each_tick, f) >= 0;
}

static herr_t each_channel(hid_t group, const char *name, const H5L_info_t *info, void *flat)
{
    return kv_trace_kind_of(name) < 0 || put_link(flat, group, name, info, put_ticks_of) ? 0 : -1;
}

static bool put_channels(struct flat *f, hid_t group)
{
    return H5Literate(group, H5_INDEX_NAME, H5_ITER_INC, NULL, each_channel, f) >= 0;
}

/* Those of /ticks, /prompt and /marks. */
static herr_t each_column(hid_t group, const char *name, const H5L_info_t *info, void *flat)
{
    static const char *const names[] = {"q_begin",  "q_end",    "kind",        "n_patch", "t_start_ns",
                                        "t_end_ns", "kv_bytes", "n_committed", "ids",     "log_probability",
                                        "begin",    "end",      NULL};
    return !is_one_of(name, names) || put_link(flat, group, name, info, NULL) ? 0 : -1;
}

static bool put_columns(struct flat *f, hid_t group)
{
    return H5Literate(group, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, each_column, f) >= 0;
}

static bool put_none(struct flat *f, hid_t group)
{
    (void)f, (void)group;
    return true;
}

/* How many passes count; what is behind them may be half written, and is not looked at. */
static void find_committed(struct flat *f)
{
    int64_t n;
    f->committed = INT64_MAX;
    if (H5Lexists(f->file, "ticks", H5P_DEFAULT) <= 0 || H5Lexists(f->file, "ticks/n_committed", H5P_DEFAULT) <= 0)
        return;
    hid_t set = H5Dopen2(f->file, "ticks/n_committed", H5P_DEFAULT), space = H5Dget_space(set);
    if (set >= 0 && H5Sget_simple_extent_npoints(space) == 1 &&
        H5Dread(set, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, &n) >= 0)
        f->committed = n;
    H5Sclose(space);
    H5Dclose(set);
}

static bool has_eights(hid_t file)
{
    hid_t plist = H5Fget_create_plist(file);
    size_t address = 0, length = 0;
    hsize_t before = 1;
    bool good = H5Pget_sizes(plist, &address, &length) >= 0 && H5Pget_userblock(plist, &before) >= 0;
    H5Pclose(plist);
    return good && address == 8 && length == 8 && before == 0;
}

static bool put_root(struct flat *f)
{
    return put(f, KV_INDEX_MAGIC, 8) && put_named(f, KV_RECORD_GROUP, "") &&
           H5Aiterate2(f->file, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, each_attribute, f) >= 0 &&
           put_child(f, f->file, "model", put_none) && put_child(f, f->file, "prompt", put_columns) &&
           put_child(f, f->file, "marks", put_columns) && put_child(f, f->file, "ticks", put_columns) &&
           put_child(f, f->file, "slots", put_ticks_of) && put_child(f, f->file, "kept", put_ticks_of) &&
           put_child(f, f->file, "channels", put_channels) && put_named(f, KV_RECORD_UP, NULL) && flush(f);
}

bool kv_flatten(int in, int64_t file_bytes, const char *path, int out, struct kv_err *e)
{
    static struct flat f;
    f = (struct flat){.path = path, .file_bytes = file_bytes, .out = out, .most = kv_index_most(file_bytes), .e = e};
    f.file = kv_look_open(in, file_bytes);
    if (f.file < 0)
        return kv_fail(e, KV_DATA, "trace '%s': is no HDF5 file, or damaged: %s", path, kv_h5_why());
    find_committed(&f);
    f.eights = has_eights(f.file);
    bool good = put_root(&f);
    if (!good && e->n == 0)
        kv_fail(e, KV_DATA, "trace '%s': cannot be read: %s; the file is damaged, or made otherwise", path,
                kv_h5_why());
    H5Fclose(f.file); /* a spoiled heap often shows only when it is freed */
    return good;
}
