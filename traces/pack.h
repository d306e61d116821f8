/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Packing and unpacking of chunks, outside the HDF5 library, so that threads do it at the same time; and the zstd
 * filter for the library's own use. Private to traces/. */
#ifndef KV_TRACE_PACK_H
#define KV_TRACE_PACK_H

#include "traces/trace.h"

/* Must be called under kv_h5_lock. */
void kv_zstd_register(void);

struct kv_packer;                       /* of one thread */
struct kv_packer *kv_packer_open(void); /* NULL: no memory */
void kv_packer_close(struct kv_packer *p);

/* Room for what `bytes` bytes can become. */
size_t kv_pack_bound(enum kv_filter filter, size_t bytes);
/* Packs at the lowest level; 0 when it fails. */
size_t kv_pack(struct kv_packer *p, enum kv_filter filter, const void *from, size_t bytes, void *to, size_t room);
/* The bytes that it becomes, at most `room`; 0 when it fails. zstd or gzip. */
size_t kv_unpack(struct kv_packer *p, enum kv_filter filter, const void *from, size_t packed, void *to, size_t room);
/* Bytes k, k + n, ... of n items back in their places; what is no whole item follows as it is. */
void kv_unshuffle(const uint8_t *from, size_t bytes, size_t item, uint8_t *to);

#endif
