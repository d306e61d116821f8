/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The safetensors container: 8 bytes little-endian length of a header, the header (JSON: name -> dtype, shape,
 * offsets), then the elements of all tensors back to back. This file knows bytes, kv_weights (engine/weights.h) what
 * they mean. */
#ifndef KV_SAFETENSORS_H
#define KV_SAFETENSORS_H

#include "engine/weights.h"

/* A file, mapped read-only. The mapping is of the file and not of its content at some time: if another program cuts the
 * file short while it is mapped, a read behind its new end kills this one with SIGBUS. Nothing is done about that here;
 * kv_weights_fetch reads without the mapping. */
struct kv_mapping {
    const char *path;
    const unsigned char *bytes;
    size_t size;
    int file; /* open for as long as it is mapped */
};

enum { KV_ENTRY_SHAPE = 2 };

/* One tensor of a file; checked: `bytes` bytes at `data` lie in the file and are as many as dtype and shape say. */
struct kv_entry {
    const char *name, *path; /* path: of the file */
    const char *dtype;       /* as the file has it; one that is not known is not checked against the shape */
    int dims;
    int64_t shape[KV_ENTRY_SHAPE]; /* the first dimensions */
    int64_t elements, bytes;
    const unsigned char *data; /* in the mapping */
};

/* KV_DATA: no such file, or not a plain one; KV_ENV: cannot be mapped. `path` is kept. */
bool kv_mapping_open(struct kv_mapping *m, const char *path, struct kv_err *e);
void kv_mapping_close(struct kv_mapping *m);

/* All tensors of a mapped file, in the order of their offsets, in the arena. KV_DATA: damaged, and where. */
bool kv_safetensors_read(const struct kv_mapping *m, struct kv_entry **entry, int64_t *n, struct kv_arena *a,
                         struct kv_err *e);

/* Elements `from` .. `from` + n - 1 of tensor `i`. */
typedef void kv_fill(const void *context, int i, int64_t from, int64_t n, float *out);

/* As kv_safetensors_write, but the elements come from `fill`, some thousand at a time; `data` is not looked at. */
bool kv_safetensors_stream(const char *path, const struct kv_tensor_out *tensor, int n, kv_fill *fill,
                           const void *context, struct kv_arena *a, struct kv_err *e);

#endif
