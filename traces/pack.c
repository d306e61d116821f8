/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "traces/pack.h"
#include "traces/h5.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

struct kv_packer {
    ZSTD_CCtx *compress;
    ZSTD_DCtx *decompress;
    z_stream inflate;
    bool inflates; /* it was set up */
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
    if (p->inflates)
        inflateEnd(&p->inflate);
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

static size_t inflate_all(struct kv_packer *p, const void *from, size_t packed, void *to, size_t room)
{
    z_stream *z = &p->inflate;
    if (!p->inflates && inflateInit(z) != Z_OK)
        return 0;
    p->inflates = true;
    if (packed > UINT_MAX || room > UINT_MAX || inflateReset(z) != Z_OK)
        return 0;
    z->next_in = (void *)(uintptr_t)from; /* is not written to */
    z->avail_in = (uInt)packed;
    z->next_out = to;
    z->avail_out = (uInt)room;
    return inflate(z, Z_FINISH) == Z_STREAM_END ? room - z->avail_out : 0;
}

size_t kv_unpack(struct kv_packer *p, enum kv_filter filter, const void *from, size_t packed, void *to, size_t room)
{
    if (filter == KV_FILTER_GZIP)
        return inflate_all(p, from, packed, to, room);
    size_t n = ZSTD_decompressDCtx(p->decompress, to, room, from, packed);
    return ZSTD_isError(n) ? 0 : n;
}

void kv_unshuffle(const uint8_t *from, size_t bytes, size_t item, uint8_t *to)
{
    size_t n = item > 1 ? bytes / item : 0;
    for (size_t k = 0; k < item && n > 0; k++)
        for (size_t i = 0; i < n; i++)
            to[i * item + k] = from[k * n + i];
    memcpy(to + n * item, from + n * item, bytes - n * item);
}

/* ---- the filter ---- */

/* A frame may say any size; no chunk that is read has more (index.c, check_chunks). */
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
