/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Files that are whole or not there: written beside their place and renamed when all of it is on disk. */
#ifndef KV_OUTPUT_H
#define KV_OUTPUT_H

#include "sim/core/arena.h"

#include <stdio.h>

struct kv_out {
    FILE *file;
    const char *path, *part; /* part: NULL when path is no regular file and is written straight (/dev/stdout, a pipe) */
};

/* KV_ENV, with the reason, when it cannot be written. */
bool kv_out_open(struct kv_out *o, const char *path, struct kv_arena *a, struct kv_err *e);
bool kv_out_close(struct kv_out *o, struct kv_err *e);

/* Makes a result folder, and those above it; *made is the topmost one made, or NULL. KV_ENV when it cannot be written
 * in; KV_USAGE when it holds other things than results of ours (no provenance.json): nothing of a user's is ever
 * overwritten. */
bool kv_result_folder(const char *path, const char **made, struct kv_arena *a, struct kv_err *e);

/* Removes the folders that kv_result_folder made, as far as they are empty. */
void kv_result_folder_undo(const char *path, const char *made, struct kv_arena *a);

#endif
