/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "traces/pack.h"
#include "traces/h5.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

struct kv_packer {
    ZSTD_CCtx *compress;
    ZSTD_DCtx *decompress;
};

struct kv_packer *kv_packer_open(void)
{
    struct kv_packer *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->compress = ZSTD_createCCtx();
    p->decompress = ZSTD_createDCtx();
    if (p->compress && p->decompress)
        return p;
    kv_packer_close(p);
    return NULL;
}

void kv_packer_close(struct kv_packer *p)
{
    if (!p)
        return;
    ZSTD_freeCCtx(p->compress);
    ZSTD_freeDCtx(p->decompress);
    free(p);
}

size_t kv_pack_bound(enum kv_filter filter, size_t bytes)
{
    return filter == KV_FILTER_ZSTD   ? ZSTD_compressBound(bytes)
           : filter == KV_FILTER_GZIP ? compressBound(bytes)
                                      : bytes;
}

size_t kv_pack(struct kv_packer *p, enum kv_filter filter, const void *from, size_t bytes, void *to, size_t room)
{
    if (filter == KV_FILTER_ZSTD) {
        size_t n = ZSTD_compressCCtx(p->compress, to, room, from, bytes, 1);
        return ZSTD_isError(n) ? 0 : n;
    }
    if (filter == KV_FILTER_GZIP) {
        uLongf n = room;
        return compress2(to, &n, from, bytes, 1) == Z_OK ? n : 0;
    }
    memcpy(to, from, bytes);
    return bytes;
}

bool kv_unpack(struct kv_packer *p, enum kv_filter filter, const void *from, size_t packed, void *to, size_t bytes)
{
    if (filter == KV_FILTER_ZSTD)
        return ZSTD_decompressDCtx(p->decompress, to, bytes, from, packed) == bytes;
    if (filter == KV_FILTER_GZIP) {
        uLongf n = bytes;
        return uncompress(to, &n, from, packed) == Z_OK && n == bytes;
    }
    if (packed != bytes)
        return false;
    memcpy(to, from, bytes);
    return true;
}

/* ---- the filter ---- */

/* A frame may say any size; no chunk that is read has more (h5.c, check_layout). */
static const unsigned long long chunk_bytes = 1ULL << 30;

static size_t unpack_chunk(size_t bytes, size_t *room, void **buffer)
{
    unsigned long long size = ZSTD_getFrameContentSize(*buffer, bytes);
    void *out = size && size <= chunk_bytes ? H5allocate_memory(size, false) : NULL;
    if (!out)
        return 0;
    size_t n = ZSTD_decompress(out, size, *buffer, bytes);
    if (ZSTD_isError(n)) {
        H5free_memory(out);
        return 0;
    }
    H5free_memory(*buffer);
    *buffer = out;
    *room = size;
    return n;
}

static size_t pack_chunk(size_t bytes, int level, size_t *room, void **buffer)
{
    size_t bound = ZSTD_compressBound(bytes);
    void *out = H5allocate_memory(bound, false);
    if (!out)
        return 0;
    size_t n = ZSTD_compress(out, bound, *buffer, bytes, level);
    if (ZSTD_isError(n)) {
        H5free_memory(out);
        return 0;
    }
    H5free_memory(*buffer);
    *buffer = out;
    *room = bound;
    return n;
}

static size_t filter_chunk(unsigned flags, size_t n_values, const unsigned values[], size_t bytes, size_t *room,
                           void **buffer)
{
    if (flags & H5Z_FLAG_REVERSE)
        return unpack_chunk(bytes, room, buffer);
    return pack_chunk(bytes, n_values ? (int)values[0] : 1, room, buffer);
}

void kv_zstd_register(void)
{
    static const H5Z_class2_t zstd = {
        .version = H5Z_CLASS_T_VERS,
        .id = KV_FILTER_ID_ZSTD,
        .encoder_present = 1,
        .decoder_present = 1,
        .name = "zstd",
        .filter = filter_chunk,
    };
    H5Zregister(&zstd);
}
