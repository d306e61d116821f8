/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "traces/h5.h"
#include "traces/pack.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The library is one for the whole program, so is its lock. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static char reason[200]; /* why a call failed first, since the lock was taken */

static void begin(void)
{
    H5open();
    H5PLset_loading_state(0);
    kv_zstd_register();
}

static herr_t take_first(unsigned n, const H5E_error2_t *error, void *ignored)
{
    (void)n, (void)ignored;
    kv_h5_note(error->desc);
    return 0;
}

/* Instead of printing. Here, because the library forgets an error at the next call of it. */
static herr_t note_error(hid_t stack, void *ignored)
{
    return H5Ewalk2(stack, H5E_WALK_UPWARD, take_first, ignored);
}

void kv_h5_lock(void)
{
    pthread_mutex_lock(&lock);
    pthread_once(&once, begin);
    H5Eset_auto2(H5E_DEFAULT, note_error, NULL);
    *reason = '\0';
}

void kv_h5_unlock(void)
{
    pthread_mutex_unlock(&lock);
}

/* ---- messages ---- */

bool kv_h5_bad(const struct kv_place *p, struct kv_err *e, const char *format, ...)
{
    char what[512];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return kv_fail(e, KV_DATA, "trace '%s': %s: %s", p->path, *p->name ? p->name : "/", what);
}

void kv_h5_note(const char *why)
{
    if (!why || *reason)
        return;
    snprintf(reason, sizeof reason, "%s", why);
    for (char *c = reason; *c; c++)
        if (*c == '\n')
            *c = ' ';
}

const char *kv_h5_why(void)
{
    return *reason ? reason : "the HDF5 library does not say why";
}

bool kv_h5_damaged(const struct kv_place *p, const char *verb, const char *child, struct kv_err *e)
{
    return kv_fail(e, KV_DATA, "trace '%s': cannot %s %s%s%s: %s; the file is damaged, or made otherwise", p->path,
                   verb, p->name, child ? "/" : "", child ? child : "", kv_h5_why());
}

/* ---- groups ---- */

static bool name_child(const struct kv_place *p, const char *name, struct kv_place *child)
{
    *child = (struct kv_place){.path = p->path, .bytes = p->bytes, .id = H5I_INVALID_HID};
    size_t up = strlen(p->name), length = strlen(name);
    if (up + 1 + length >= sizeof child->name)
        return false;
    memcpy(child->name, p->name, up);
    child->name[up] = '/';
    memcpy(child->name + up + 1, name, length + 1);
    return true;
}

bool kv_h5_has(const struct kv_place *p, const char *name)
{
    return H5Lexists(p->id, name, H5P_DEFAULT) > 0;
}

/* The object behind a link of this file; `wanted` H5I_GROUP or H5I_DATASET. */
static bool open_child(const struct kv_place *p, const char *name, H5I_type_t wanted, struct kv_place *child,
                       struct kv_err *e)
{
    const char *kind = wanted == H5I_GROUP ? "group" : "dataset";
    H5L_info_t link;
    if (!name_child(p, name, child))
        return kv_h5_bad(p, e, "the name of one of its members is too long");
    if (!kv_h5_has(p, name))
        return kv_h5_bad(child, e, "there is no such %s; see traces/FORMAT.md", kind);
    if (H5Lget_info(p->id, name, &link, H5P_DEFAULT) < 0)
        return kv_h5_damaged(p, "read", name, e);
    if (link.type != H5L_TYPE_HARD)
        return kv_h5_bad(child, e, "is a link to elsewhere; a trace is one file");
    child->id = H5Oopen(p->id, name, H5P_DEFAULT);
    if (child->id < 0)
        return kv_h5_damaged(p, "open", name, e);
    if (H5Iget_type(child->id) == wanted)
        return true;
    H5Oclose(child->id);
    return kv_h5_bad(child, e, "is no %s; see traces/FORMAT.md", kind);
}

bool kv_h5_group(const struct kv_place *p, const char *name, struct kv_place *g, struct kv_err *e)
{
    return open_child(p, name, H5I_GROUP, g, e);
}

/* ---- attributes ---- */

struct attribute {
    hid_t id, type;
};

/* An open attribute of one value of that class. */
static bool open_attribute(const struct kv_place *p, const char *name, H5T_class_t wanted, struct attribute *a,
                           struct kv_err *e)
{
    *a = (struct attribute){H5Aopen(p->id, name, H5P_DEFAULT), H5I_INVALID_HID};
    if (a->id < 0)
        return kv_h5_damaged(p, "read attribute", name, e);
    hid_t space = H5Aget_space(a->id);
    hssize_t n = H5Sget_simple_extent_npoints(space);
    H5Sclose(space);
    a->type = H5Aget_type(a->id);
    if (n != 1)
        kv_h5_bad(p, e, "attribute '%s' has %lld values; expected one", name, (long long)n);
    else if (H5Tget_class(a->type) != wanted)
        kv_h5_bad(p, e, "attribute '%s' is no %s", name, wanted == H5T_STRING ? "text" : "integer");
    else
        return true;
    H5Tclose(a->type);
    H5Aclose(a->id);
    return false;
}

static void close_attribute(struct attribute *a)
{
    H5Tclose(a->type);
    H5Aclose(a->id);
}

/* Variable length: the library's own memory. Fixed: a buffer of the type's size. */
static const char *read_text(const struct attribute *a, struct kv_arena *arena)
{
    size_t size = H5Tget_size(a->type);
    const char *out = NULL;
    if (H5Tis_variable_str(a->type) > 0) {
        char *text = NULL;
        hid_t type = H5Tcopy(H5T_C_S1);
        H5Tset_size(type, H5T_VARIABLE);
        H5Tset_cset(type, H5Tget_cset(a->type));
        if (H5Aread(a->id, type, &text) >= 0 && (!text || strnlen(text, KV_H5_TEXT) < KV_H5_TEXT))
            out = kv_copy_text(arena, text ? text : "");
        H5Tclose(type);
        H5free_memory(text);
    } else if (size > 0 && size <= KV_H5_TEXT) {
        char *text = calloc(1, size + 1);
        if (text && H5Aread(a->id, a->type, text) >= 0) {
            size_t n = strlen(text);
            while (H5Tget_strpad(a->type) == H5T_STR_SPACEPAD && n && text[n - 1] == ' ')
                n--;
            out = kv_copy_part(arena, text, n);
        }
        free(text);
    }
    return out;
}

bool kv_h5_text(const struct kv_place *p, const char *name, const char *fallback, const char **out, struct kv_arena *a,
                struct kv_err *e)
{
    struct attribute attribute;
    *out = fallback;
    if (H5Aexists(p->id, name) <= 0)
        return fallback || kv_h5_bad(p, e, "there is no attribute '%s'; see traces/FORMAT.md", name);
    if (!open_attribute(p, name, H5T_STRING, &attribute, e))
        return false;
    *out = read_text(&attribute, a);
    close_attribute(&attribute);
    return *out || kv_h5_bad(p, e, "attribute '%s' cannot be read, or is longer than %d bytes", name, KV_H5_TEXT);
}

bool kv_h5_int(const struct kv_place *p, const char *name, int64_t low, int64_t high, const int64_t *fallback,
               int64_t *out, struct kv_err *e)
{
    struct attribute attribute;
    *out = fallback ? *fallback : 0;
    if (H5Aexists(p->id, name) <= 0)
        return fallback || kv_h5_bad(p, e, "there is no attribute '%s'; see traces/FORMAT.md", name);
    if (!open_attribute(p, name, H5T_INTEGER, &attribute, e))
        return false;
    bool good = H5Aread(attribute.id, H5T_NATIVE_INT64, out) >= 0;
    close_attribute(&attribute);
    if (!good)
        return kv_h5_damaged(p, "read attribute", name, e);
    return (*out >= low && *out <= high) || kv_h5_bad(p, e, "attribute '%s' is %lld; expected %lld to %lld", name,
                                                      (long long)*out, (long long)low, (long long)high);
}

/* ---- datasets ---- */

/* No more than the file can hold, compressed by deflate's best, 1 : 1032, or what is small anyway. */
static bool fits_the_file(const struct kv_place *p, uint64_t bytes)
{
    return bytes <= 1048576 || bytes / 2048 <= (uint64_t)p->bytes;
}

static bool check_layout(struct kv_dataset *d, int rank, struct kv_err *e)
{
    hid_t plist = H5Dget_create_plist(d->at.id);
    d->layout = H5Pget_layout(plist);
    int external = H5Pget_external_count(plist);
    int chunk_rank = d->layout == H5D_CHUNKED ? H5Pget_chunk(plist, 2, d->chunk) : rank;
    H5Pclose(plist);
    if (external != 0 || d->layout == H5D_VIRTUAL || d->layout == H5D_LAYOUT_ERROR)
        return kv_h5_bad(&d->at, e, "its numbers are not in the file; a trace is one file");
    if (d->layout != H5D_CHUNKED)
        return true;
    uint64_t bytes = H5Tget_size(d->type), own = bytes * (uint64_t)d->items;
    if (chunk_rank != rank || __builtin_mul_overflow(bytes, d->chunk[0], &bytes) ||
        (rank == 2 && __builtin_mul_overflow(bytes, d->chunk[1], &bytes)) || bytes == 0)
        return kv_h5_bad(&d->at, e, "its chunks have an impossible shape; the file is damaged");
    if (bytes > 1 << 30 || (bytes > own && bytes > 1048576) || !fits_the_file(&d->at, bytes))
        return kv_h5_bad(&d->at, e, "its chunks of %llu bytes are larger than what it holds",
                         (unsigned long long)bytes);
    return true;
}

static bool check_extent(struct kv_dataset *d, int rank, struct kv_err *e)
{
    hid_t space = H5Dget_space(d->at.id);
    int found = H5Sget_simple_extent_ndims(space);
    bool simple = found >= 0 && found <= 2 && H5Sget_simple_extent_type(space) != H5S_NULL;
    d->extent[0] = d->extent[1] = 1;
    if (simple)
        H5Sget_simple_extent_dims(space, d->extent, NULL);
    H5Sclose(space);
    bool scalar = simple && found == 0 && rank == 1;
    if (!simple || (found != rank && !scalar))
        return kv_h5_bad(&d->at, e, "has %d axes; expected %d", found, rank);
    uint64_t bytes;
    if (d->extent[0] > INT64_MAX || d->extent[1] > INT64_MAX ||
        __builtin_mul_overflow((int64_t)d->extent[0], (int64_t)d->extent[1], &d->items) ||
        __builtin_mul_overflow((uint64_t)d->items, (uint64_t)H5Tget_size(d->type), &bytes))
        return kv_h5_bad(&d->at, e, "its extent overflows; the file is damaged");
    if (rank == 2 && d->extent[0] > 0)
        bytes /= d->extent[0];
    if (!fits_the_file(&d->at, bytes))
        return kv_h5_bad(&d->at, e,
                         "says to have more numbers than the file can hold; the file is damaged, or cut off");
    return scalar || check_layout(d, rank, e);
}

bool kv_h5_dataset(const struct kv_place *p, const char *name, int rank, struct kv_dataset *d, struct kv_err *e)
{
    *d = (struct kv_dataset){.type = H5I_INVALID_HID};
    if (!open_child(p, name, H5I_DATASET, &d->at, e))
        return false;
    d->type = H5Dget_type(d->at.id);
    H5T_class_t class = H5Tget_class(d->type);
    size_t size = H5Tget_size(d->type);
    d->real = class == H5T_FLOAT;
    if ((class == H5T_INTEGER || class == H5T_FLOAT) && size >= 1 && size <= 16
            ? check_extent(d, rank, e)
            : kv_h5_bad(&d->at, e, "holds no numbers"))
        return true;
    kv_h5_dataset_close(d);
    return false;
}

void kv_h5_dataset_close(struct kv_dataset *d)
{
    if (d->type >= 0)
        H5Tclose(d->type);
    if (d->at.id >= 0)
        H5Dclose(d->at.id);
    d->type = d->at.id = H5I_INVALID_HID;
}

bool kv_h5_walk_chunks(const struct kv_dataset *d, int rank, struct kv_err *e)
{
    if (d->layout != H5D_CHUNKED)
        return true;
    hsize_t n[2] = {1, 1};
    for (int i = 0; i < rank; i++)
        n[i] = (d->extent[i] + d->chunk[i] - 1) / d->chunk[i];
    if (n[0] * n[1] > (hsize_t)d->at.bytes / 8) /* neither overflows: check_extent */
        return kv_h5_bad(&d->at, e, "has more chunks than the file can hold");
    for (hsize_t i = 0; i < n[0]; i++)
        for (hsize_t j = 0; j < n[1]; j++) {
            hsize_t offset[2] = {i * d->chunk[0], rank == 2 ? j * d->chunk[1] : 0}, bytes = 0;
            if (H5Dget_chunk_storage_size(d->at.id, offset, &bytes) >= 0 && bytes > (hsize_t)d->at.bytes)
                return kv_h5_bad(&d->at, e, "a chunk is larger than the file; the file is damaged");
            *reason = '\0'; /* what was never written is no error here */
        }
    return true;
}

void *kv_h5_numbers(const struct kv_place *p, const char *name, hid_t type, int64_t least, int64_t most, int64_t *n,
                    struct kv_err *e)
{
    struct kv_dataset d;
    void *out = NULL;
    if (!kv_h5_dataset(p, name, 1, &d, e))
        return NULL;
    *n = d.items;
    size_t size = H5Tget_size(type);
    if (d.items < least || d.items > most)
        kv_h5_bad(&d.at, e, "has %lld numbers; expected %s%lld", (long long)d.items,
                  least == most     ? ""
                  : d.items < least ? "at least "
                                    : "at most ",
                  (long long)(d.items < least ? least : most));
    else if (d.real != (H5Tget_class(type) == H5T_FLOAT))
        kv_h5_bad(&d.at, e, "holds %s", d.real ? "real numbers; expected integers" : "integers; expected real numbers");
    else if (!fits_the_file(p, size * (uint64_t)d.items))
        kv_h5_bad(&d.at, e, "says to have more numbers than the file can hold");
    else if (!(out = calloc((size_t)d.items + 1, size)))
        kv_fail(e, KV_ENV, "trace '%s': no memory for %s", p->path, d.at.name);
    else if (H5Dread(d.at.id, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, out) < 0) {
        free(out);
        out = NULL;
        kv_h5_damaged(&d.at, "read", NULL, e);
    }
    kv_h5_dataset_close(&d);
    return out;
}

hid_t kv_h5_half(void)
{
    hid_t half = H5Tcopy(H5T_IEEE_F32LE);
    H5Tset_fields(half, 15, 10, 5, 0, 10);
    H5Tset_precision(half, 16);
    H5Tset_ebias(half, 15);
    H5Tset_size(half, 2);
    return half;
}

/* ---- writing ---- */

bool kv_h5_put_text(hid_t id, const char *name, const char *text)
{
    if (!text)
        return true;
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
    H5Tset_size(type, *text ? strlen(text) : 1);
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    H5Tset_cset(type, H5T_CSET_UTF8);
    hid_t attribute = H5Acreate2(id, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    bool good = attribute >= 0 && H5Awrite(attribute, type, text) >= 0;
    good &= attribute < 0 || H5Aclose(attribute) >= 0;
    H5Sclose(space);
    H5Tclose(type);
    return good;
}

bool kv_h5_put_int(hid_t id, const char *name, int64_t value)
{
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attribute = H5Aexists(id, name) > 0 ? H5Aopen(id, name, H5P_DEFAULT)
                                              : H5Acreate2(id, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT);
    bool good = attribute >= 0 && H5Awrite(attribute, H5T_NATIVE_INT64, &value) >= 0;
    good &= attribute < 0 || H5Aclose(attribute) >= 0;
    H5Sclose(space);
    return good;
}

bool kv_h5_put_numbers(hid_t group, const char *name, hid_t stored, hid_t type, int rank, const hsize_t *extent,
                       const void *data)
{
    hid_t space = H5Screate_simple(rank, extent, NULL);
    hid_t set = H5Dcreate2(group, name, stored, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    bool good = set >= 0 && (H5Sget_simple_extent_npoints(space) == 0 ||
                             H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0);
    good &= set < 0 || H5Dclose(set) >= 0;
    H5Sclose(space);
    return good;
}
