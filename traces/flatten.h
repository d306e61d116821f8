/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Walks a trace file with the HDF5 library and writes its index. Runs in a process of its own. Private to traces/. */
#ifndef KV_TRACE_FLATTEN_H
#define KV_TRACE_FLATTEN_H

#include "sim/core/error.h"

#include <stdint.h>

/* Reads the file `in` of that many bytes, called `path` in messages; writes the index to the file `out`, at most
 * kv_index_most bytes of it. KV_DATA, KV_ENV. */
bool kv_flatten(int in, int64_t file_bytes, const char *path, int out, struct kv_err *e);

#endif
