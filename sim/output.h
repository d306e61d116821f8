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
void kv_out_drop(struct kv_out *o); /* nothing is left of it */

/* A file without a name, to be written and read back, where `path` will be: in the nearest folder that is there, or in
 * TMPDIR when `path` is a device or a pipe. NULL after KV_ENV. */
FILE *kv_out_scratch(const char *path, struct kv_arena *a, struct kv_err *e);

/* Copies what was written to a scratch file behind what `out` has. KV_ENV, also when it could not be written. */
bool kv_out_gather(FILE *scratch, FILE *out, struct kv_err *e);

/* A new folder PURPOSE-XXXXXX where temporary files go. NULL: KV_ENV. The caller removes it. */
const char *kv_scratch_folder(const char *purpose, struct kv_arena *a, struct kv_err *e);
/* With all that is in it. */
void kv_remove_tree(const char *path);

/* FNV-1a of a file's bytes, in hexadecimal: enough to tell that an input changed. */
const char *kv_file_hash(const char *path, struct kv_arena *a);

/* Makes a result folder, and those above it. KV_ENV when it cannot be written in; KV_USAGE when it holds other things
 * than results of ours (a provenance.json that says so): nothing of a user's is ever overwritten. */
bool kv_result_folder(const char *path, struct kv_arena *a, struct kv_err *e);

/* The same questions before any work is done; makes nothing. */
bool kv_result_folder_check(const char *path, struct kv_arena *a, struct kv_err *e);

#endif
