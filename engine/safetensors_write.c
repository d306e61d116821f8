/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Writes a safetensors file under a temporary name and renames it when it is whole. */
#include "engine/safetensors.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHUNK = 8192, ALIGNMENT = 8 };

static const char *const type_names[] = {[KV_TENSOR_F32] = "F32", [KV_TENSOR_BF16] = "BF16", [KV_TENSOR_F16] = "F16"};

static int64_t element_bytes(enum kv_tensor_type type)
{
    return type == KV_TENSOR_F32 ? 4 : 2;
}

static int64_t elements(const struct kv_tensor_out *t)
{
    return t->dims == 1 ? t->shape[0] : t->shape[0] * t->shape[1];
}

/* ---- rounding ---- */

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* The upper 16 bits, nearest, ties to even; a NaN stays one. */
static uint16_t to_bf16(float x)
{
    uint32_t bits = bits_of(x);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* x / 2^shift, nearest, ties to even. */
static uint32_t shift_even(uint32_t x, uint32_t shift)
{
    if (shift > 31)
        return 0;
    uint32_t half = 1u << (shift - 1), rest = x & ((1u << shift) - 1), whole = x >> shift;
    return whole + (rest > half || (rest == half && whole & 1));
}

/* 5 bits of exponent, 10 of fraction; too large becomes infinite. */
static uint16_t to_f16(float x)
{
    uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    uint32_t half;
    if (size > 0x7f800000)
        half = 0x7e00;
    else if (size >= 0x47800000) /* 2^16 */
        half = 0x7c00;
    else if (size >= 0x38800000) /* 2^-14: the exponent's bias goes from 127 to 15; rounding may carry into it */
        half = shift_even(size - ((127 - 15) << 23), 13);
    else /* subnormal: units of 2^-24 */
        half = size >> 23 ? shift_even((size & 0x7fffff) | 0x800000, 126 - (size >> 23)) : 0;
    return (uint16_t)(sign | half);
}

/* ---- the file ---- */

/* The order in the file: 4-byte elements come first, so that every tensor is aligned to its elements. */
static int in_order(const struct kv_tensor_out *tensor, int n, int *order)
{
    int m = 0;
    for (int narrow = 0; narrow < 2; narrow++)
        for (int i = 0; i < n; i++)
            if ((tensor[i].type != KV_TENSOR_F32) == narrow)
                order[m++] = i;
    return m;
}

/* malloc'd; NULL: no memory, or a name that is not UTF-8. */
static char *make_header(const struct kv_tensor_out *tensor, int n, const int *order, size_t *length)
{
    json_t *root = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    bool good = root != NULL;
    int64_t offset = 0;
    for (int i = 0; i < n; i++) {
        const struct kv_tensor_out *t = &tensor[order[i]];
        int64_t bytes = elements(t) * element_bytes(t->type);
        json_t *shape = json_pack("[I]", (json_int_t)t->shape[0]);
        if (t->dims == 2)
            json_array_append_new(shape, json_integer(t->shape[1]));
        good &= !json_object_set_new(root, t->name,
                                     json_pack("{s:s,s:o,s:[I,I]}", "dtype", type_names[t->type], "shape", shape,
                                               "data_offsets", (json_int_t)offset, (json_int_t)(offset + bytes)));
        offset += bytes;
    }
    KV_ASSERT(!good || json_object_size(root) == (size_t)n + 1); /* no name twice */
    char *text = good ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    *length = text ? strlen(text) : 0;
    return text;
}

/* Blanks at the header's end make the elements begin at a multiple of 8. */
static void write_header(FILE *file, const char *text, size_t length)
{
    size_t blanks = (ALIGNMENT - length % ALIGNMENT) % ALIGNMENT;
    for (int i = 0; i < 8; i++)
        putc((int)((uint64_t)(length + blanks) >> 8 * i & 0xff), file);
    fwrite(text, 1, length, file);
    for (size_t i = 0; i < blanks; i++)
        putc(' ', file);
}

static void write_floats(FILE *file, enum kv_tensor_type type, const float *x, size_t n)
{
    uint16_t narrow[CHUNK];
    if (type == KV_TENSOR_F32) {
        fwrite(x, sizeof *x, n, file);
        return;
    }
    for (size_t i = 0; i < n; i++)
        narrow[i] = type == KV_TENSOR_BF16 ? to_bf16(x[i]) : to_f16(x[i]);
    fwrite(narrow, sizeof *narrow, n, file);
}

static bool write_all(FILE *file, const struct kv_tensor_out *tensor, int n, kv_fill *fill, const void *context,
                      struct kv_arena *a)
{
    float chunk[CHUNK];
    size_t length;
    int *order = KV_NEW_N(a, int, n);
    KV_ASSERT(in_order(tensor, n, order) == n);
    char *header = make_header(tensor, n, order, &length);
    if (!header)
        return false;
    write_header(file, header, length);
    free(header);
    for (int i = 0; i < n && !ferror(file); i++) {
        int64_t all = elements(&tensor[order[i]]);
        for (int64_t from = 0; from < all && !ferror(file); from += CHUNK) {
            int64_t some = all - from < CHUNK ? all - from : CHUNK;
            fill(context, order[i], from, some, chunk);
            write_floats(file, tensor[order[i]].type, chunk, (size_t)some);
        }
    }
    return !ferror(file);
}

bool kv_safetensors_stream(const char *path, const struct kv_tensor_out *tensor, int n, kv_fill *fill,
                           const void *context, struct kv_arena *a, struct kv_err *e)
{
    const char *part = kv_format(a, "%s.part", path);
    for (int i = 0; i < n; i++)
        KV_ASSERT(tensor[i].dims >= 1 && tensor[i].dims <= 2 && elements(&tensor[i]) >= 0);
    FILE *file = fopen(part, "wb");
    if (!file)
        return kv_fail(e, KV_ENV, "cannot write '%s': %s", part, strerror(errno));
    errno = 0;
    bool good = write_all(file, tensor, n, fill, context, a);
    good &= fclose(file) == 0;
    if (good && rename(part, path) == 0)
        return true;
    int error = errno;
    unlink(part);
    return kv_fail(e, KV_ENV, "cannot write '%s': %s", path, strerror(error ? error : EIO));
}

static void copy_data(const void *context, int i, int64_t from, int64_t n, float *out)
{
    const struct kv_tensor_out *tensor = context;
    memcpy(out, tensor[i].data + from, (size_t)n * sizeof *out);
}

bool kv_safetensors_write(const char *path, const struct kv_tensor_out *tensor, int n, struct kv_arena *a,
                          struct kv_err *e)
{
    return kv_safetensors_stream(path, tensor, n, copy_data, tensor, a, e);
}
