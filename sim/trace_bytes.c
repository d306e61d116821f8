/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What a channel's rows take in the file, as the HDF5 library counts it. The file was opened as a trace before, and so
 * is known to be one. */
#include "sim/trace_verbs.h"
#include "traces/h5.h"

#include <stdio.h>

static int64_t bytes_of_rows(const struct kv_place *g)
{
    static const char *const names[] = {"hi", "lo", "code", "f32", "f16", "max", "sum", "nnz", "xxh3", "length"};
    int64_t bytes = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        hid_t set = kv_h5_has(g, names[i]) ? H5Dopen2(g->id, names[i], H5P_DEFAULT) : H5I_INVALID_HID;
        if (set >= 0) {
            bytes += (int64_t)H5Dget_storage_size(set);
            H5Dclose(set);
        }
    }
    return bytes;
}

static bool add_ticks(const struct kv_place *channels, const struct kv_trace_channel *c, int64_t ticks, int64_t *bytes,
                      struct kv_err *e)
{
    struct kv_place g, tick;
    if (!kv_h5_group(channels, c->name, &g, e))
        return false;
    bool good = true;
    for (int64_t i = 0; good && i < ticks; i++) {
        char name[24];
        if (!c->at[i])
            continue;
        snprintf(name, sizeof name, "t%05lld", (long long)i);
        good = kv_h5_group(&g, name, &tick, e);
        if (good) {
            *bytes += bytes_of_rows(&tick);
            H5Oclose(tick.id);
        }
    }
    H5Oclose(g.id);
    return good;
}

bool kv_trace_bytes(const char *path, const struct kv_trace_about *b, int64_t *bytes, struct kv_err *e)
{
    struct kv_place root = {.path = path}, channels;
    kv_h5_lock();
    root.id = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    bool good = root.id >= 0 || kv_fail(e, KV_DATA, "cannot open '%s': %s", path, kv_h5_why());
    if (good && b->n_channels && (good = kv_h5_group(&root, "channels", &channels, e))) {
        for (int c = 0; good && c < b->n_channels; c++) {
            bytes[c] = 0;
            good = add_ticks(&channels, &b->channel[c], b->n_ticks, &bytes[c], e);
        }
        H5Oclose(channels.id);
    }
    if (root.id >= 0)
        H5Fclose(root.id);
    kv_h5_unlock();
    return good;
}
