/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Lets the HDF5 library read one file that is open, and tells where a chunk lies. Private to traces/. */
#ifndef KV_TRACE_LOOK_H
#define KV_TRACE_LOOK_H

#include "traces/index.h"

#include <hdf5.h>

/* Opens a file of that many bytes. One at a time: the library's drivers are opened by name, and this has none. */
hid_t kv_look_open(int file, int64_t bytes);

struct kv_look_chunk {
    uint64_t at, bytes;
    uint32_t skipped; /* filters, bits */
};
/* The chunk that begins at the numbers `first` of the dataset, without reading it; false when it was never written.
 * The library's own calls for this go through all chunks before it: 110 us for each of 16,384, or 570 in files of the
 * latest format, where this takes 0.4. */
bool kv_look_chunk(hid_t set, const hsize_t *first, struct kv_look_chunk *chunk);

/* A dataset of the plainest kind, as nearly all are: contiguous, of one or two axes, its header at that address in one
 * piece, of the oldest version. False: anything else, for the library to look at. The library takes 16 us for each, and
 * a trace of 10,000 decode passes has 40,000. */
bool kv_look_plain(haddr_t header, struct kv_set *s);

#endif
