/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Hides buffers and compression. Lines are views into one buffer, which grows only for a line that does not fit. */
#include "sim/workload/input.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

enum { BLOCK = 1 << 16, MOST_LINE = 1 << 24 };
enum packing { PLAIN, GZIP, ZSTD };

struct kv_input {
    const char *path;
    char *name; /* path's copy */
    int file;
    bool ended, failed;

    enum packing packing;
    bool open_frame; /* a compressed part has begun and not ended */
    z_stream gzip;
    ZSTD_DStream *zstd;
    unsigned char *packed; /* (BLOCK,) */
    size_t packed_at, packed_end;
    bool packed_ended;

    char *buffer; /* (room + 1,) */
    size_t room, at, end;
    int64_t line;
};

/* ---- bytes ---- */

static bool fail_read(struct kv_input *in, struct kv_err *e, const char *why)
{
    in->failed = true;
    return kv_fail(e, KV_DATA, "cannot read '%s': %s", in->path, why);
}

/* Up to `room` bytes; *got = 0 at the end. */
static bool read_bytes(struct kv_input *in, void *out, size_t room, size_t *got, struct kv_err *e)
{
    ssize_t n;
    do
        n = read(in->file, out, room);
    while (n < 0 && errno == EINTR);
    *got = n < 0 ? 0 : (size_t)n;
    return n >= 0 || fail_read(in, e, strerror(errno));
}

static bool more_packed(struct kv_input *in, struct kv_err *e)
{
    if (in->packed_at < in->packed_end || in->packed_ended)
        return true;
    in->packed_at = 0;
    if (!read_bytes(in, in->packed, BLOCK, &in->packed_end, e))
        return false;
    in->packed_ended = in->packed_end == 0;
    return true;
}

static bool inflate_some(struct kv_input *in, void *out, size_t room, size_t *got, struct kv_err *e)
{
    if (!in->open_frame && inflateReset(&in->gzip) != Z_OK)
        return fail_read(in, e, "gzip does not start again");
    in->open_frame = true;
    in->gzip.next_in = in->packed + in->packed_at;
    in->gzip.avail_in = (uInt)(in->packed_end - in->packed_at);
    in->gzip.next_out = out;
    in->gzip.avail_out = (uInt)room;
    int rc = inflate(&in->gzip, Z_NO_FLUSH);
    in->packed_at = in->packed_end - in->gzip.avail_in;
    *got = room - in->gzip.avail_out;
    if (rc == Z_STREAM_END)
        in->open_frame = false;
    else if (rc != Z_OK && rc != Z_BUF_ERROR)
        return fail_read(in, e, in->gzip.msg ? in->gzip.msg : "damaged gzip");
    return true;
}

static bool unpack_zstd(struct kv_input *in, void *out, size_t room, size_t *got, struct kv_err *e)
{
    ZSTD_inBuffer from = {in->packed + in->packed_at, in->packed_end - in->packed_at, 0};
    ZSTD_outBuffer to = {out, room, 0};
    size_t rc = ZSTD_decompressStream(in->zstd, &to, &from);
    if (ZSTD_isError(rc))
        return fail_read(in, e, ZSTD_getErrorName(rc));
    in->packed_at += from.pos;
    in->open_frame = rc != 0;
    *got = to.pos;
    return true;
}

/* Up to `room` bytes of text; *got = 0 at the end. */
static bool read_text(struct kv_input *in, void *out, size_t room, size_t *got, struct kv_err *e)
{
    if (in->packing == PLAIN)
        return read_bytes(in, out, room, got, e);
    *got = 0;
    while (!*got) {
        if (!more_packed(in, e))
            return false;
        bool (*unpack)(struct kv_input *, void *, size_t, size_t *, struct kv_err *) =
            in->packing == GZIP ? inflate_some : unpack_zstd;
        if (in->packed_ended) { /* what the library still holds */
            if (!in->open_frame)
                return true;
            if (!unpack(in, out, room, got, e))
                return false;
            return *got || !in->open_frame || fail_read(in, e, "it is cut short");
        }
        if (!unpack(in, out, room, got, e))
            return false;
    }
    return true;
}

/* Looks at the first bytes and sets up what reads the rest. */
static bool begin(struct kv_input *in, struct kv_err *e)
{
    size_t n = 0;
    while (n < 4) {
        size_t got;
        if (!read_bytes(in, in->packed + n, BLOCK - n, &got, e))
            return false;
        n += got;
        if (!got)
            break;
    }
    in->packed_at = 0;
    in->packed_end = n;
    in->packed_ended = n == 0;
    in->open_frame = false;
    in->packing = n >= 3 && !memcmp(in->packed, "\x1f\x8b\x08", 3)       ? GZIP
                  : n >= 4 && !memcmp(in->packed, "\x28\xb5\x2f\xfd", 4) ? ZSTD
                                                                         : PLAIN;
    in->at = in->end = 0;
    in->line = 0;
    in->ended = in->failed = false;
    if (in->packing == PLAIN) {
        memcpy(in->buffer, in->packed, n);
        in->end = n;
    } else if (in->packing == GZIP && !in->gzip.state) {
        if (inflateInit2(&in->gzip, 15 + 16) != Z_OK)
            return fail_read(in, e, "no memory for gzip");
    } else if (in->packing == ZSTD) {
        if (!in->zstd)
            in->zstd = ZSTD_createDStream();
        if (!in->zstd || ZSTD_isError(ZSTD_initDStream(in->zstd)))
            return fail_read(in, e, "no memory for zstd");
    }
    return true;
}

bool kv_input_open(struct kv_input **out, const char *path, struct kv_err *e)
{
    bool standard = !strcmp(path, "-");
    struct kv_input *in = *out = calloc(1, sizeof *in);
    KV_ASSERT(in);
    in->room = 2 * BLOCK;
    in->name = strdup(standard ? "standard input" : path);
    in->packed = malloc(BLOCK);
    in->buffer = malloc(in->room + 1);
    KV_ASSERT(in->name && in->packed && in->buffer);
    in->path = in->name;
    in->file = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (in->file < 0)
        return kv_fail(e, KV_DATA, "cannot open '%s': %s", path, strerror(errno));
    return begin(in, e);
}

void kv_input_close(struct kv_input *in)
{
    if (!in)
        return;
    if (in->file > STDIN_FILENO)
        close(in->file);
    if (in->gzip.state)
        inflateEnd(&in->gzip);
    ZSTD_freeDStream(in->zstd);
    free(in->packed);
    free(in->buffer);
    free(in->name);
    free(in);
}

const char *kv_input_path(const struct kv_input *in)
{
    return in->path;
}

bool kv_input_rewind(struct kv_input *in)
{
    struct kv_err *e = calloc(1, sizeof *e);
    KV_ASSERT(e);
    bool good = in->file >= 0 && lseek(in->file, 0, SEEK_SET) == 0 && begin(in, e);
    free(e);
    return good;
}

/* ---- lines ---- */

/* More text behind what the buffer holds, which moves to its front. */
static bool fill(struct kv_input *in, struct kv_err *e)
{
    size_t got, kept = in->end - in->at;
    memmove(in->buffer, in->buffer + in->at, kept);
    in->at = 0;
    in->end = kept;
    if (in->room - kept < BLOCK) {
        char *grown = realloc(in->buffer, 2 * in->room + 1);
        if (!grown)
            return fail_read(in, e, "no memory for a line of it");
        in->buffer = grown;
        in->room *= 2;
    }
    if (!read_text(in, in->buffer + in->end, in->room - in->end, &got, e))
        return false;
    in->end += got;
    in->ended = got == 0;
    return true;
}

enum kv_next kv_input_line(struct kv_input *in, struct kv_line *line, struct kv_err *e)
{
    size_t looked = 0;
    char *found = NULL;
    if (in->failed)
        return KV_NEXT_END;
    while (!(found = memchr(in->buffer + in->at + looked, '\n', in->end - in->at - looked)) && !in->ended) {
        looked = in->end - in->at;
        if (looked > MOST_LINE) {
            in->failed = true;
            kv_fail(e, KV_DATA, "%s:%lld: a line without end, of more than 16 MiB; this is no text file of requests",
                    in->path, (long long)in->line + 1);
            return KV_NEXT_BAD;
        }
        if (!fill(in, e))
            return KV_NEXT_BAD;
    }
    if (!found && in->at == in->end)
        return KV_NEXT_END;
    line->text = in->buffer + in->at;
    line->length = (size_t)((found ? found : in->buffer + in->end) - line->text);
    in->at += line->length + (found != NULL);
    line->number = ++in->line;
    if (line->length && line->text[line->length - 1] == '\r')
        line->length--;
    line->text[line->length] = '\0';
    return KV_NEXT_ROW;
}

bool kv_input_peek(struct kv_input *in, char *out, size_t most, struct kv_err *e)
{
    while (!in->ended && in->end - in->at < most && !memchr(in->buffer + in->at, '\n', in->end - in->at))
        if (!fill(in, e))
            return false;
    size_t n = in->end - in->at < most ? in->end - in->at : most;
    memcpy(out, in->buffer + in->at, n);
    out[n] = '\0';
    out[strcspn(out, "\r\n")] = '\0';
    return true;
}

bool kv_input_rest(struct kv_input *in, char **text, size_t *length, size_t most, struct kv_err *e)
{
    if (in->failed)
        return false;
    while (!in->ended && in->end - in->at <= most)
        if (!fill(in, e))
            return false;
    if (in->end - in->at > most)
        return kv_fail(e, KV_DATA, "%s: more than %zu MiB; that is too long for one JSON document", in->path,
                       most >> 20);
    *text = in->buffer + in->at;
    *length = in->end - in->at;
    (*text)[*length] = '\0';
    in->at = in->end;
    return true;
}
