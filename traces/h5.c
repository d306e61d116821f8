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

hid_t kv_h5_dataset(void)
{
    hid_t plist = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_obj_track_times(plist, false);
    return plist;
}

bool kv_h5_put_numbers(hid_t group, const char *name, hid_t stored, hid_t type, int rank, const hsize_t *extent,
                       const void *data)
{
    hid_t space = H5Screate_simple(rank, extent, NULL), plist = kv_h5_dataset();
    hid_t set = H5Dcreate2(group, name, stored, space, H5P_DEFAULT, plist, H5P_DEFAULT);
    H5Pclose(plist);
    bool good = set >= 0 && (H5Sget_simple_extent_npoints(space) == 0 ||
                             H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0);
    good &= set < 0 || H5Dclose(set) >= 0;
    H5Sclose(space);
    return good;
}
