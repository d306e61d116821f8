/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Flushes that happen whole or not at all. The HDF5 library overwrites its tables in place, and a program killed
 * between two of these writes leaves a file whose older ticks cannot be found any more (seen in 4 of 100 kills). This
 * driver lets new bytes through, behind what was there at the last flush, where nothing looks for them yet. What is to
 * be overwritten waits in memory; a flush writes it behind the end of the file first, with a checksum, then in its
 * place, then cuts the end off. A program killed in between leaves that end, and who opens the file puts it in place.
 * Private to traces/. */
#ifndef KV_TRACE_JOURNAL_H
#define KV_TRACE_JOURNAL_H

#include "sim/core/error.h"

#include <hdf5.h>

/* Makes files that are opened with this access list be written so. Under kv_h5_lock. */
bool kv_journal_set(hid_t access);

/* Finishes the flush in which the writer of the file was killed, if it was; of files named *.part only. */
bool kv_journal_replay(const char *path, struct kv_err *e);

#endif
