/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Reads the header of a safetensors file. It is JSON of a fixed form, read here in one pass over the mapping instead of
 * with a JSON library, so that a hostile header of 100 MB costs no more memory than a few times itself. As strict as
 * the format's own library: tensors leave no gaps and no bytes behind them, keys are not repeated. */
#include "engine/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LENGTH_BYTES = 8, MOST_HEADER = 100000000, MOST_DIMS = 64, MOST_NAME = 4096, MOST_DTYPE = 16 };

/* The shortest text of an entry: "":{"dtype":"","shape":[],"data_offsets":[0,0]} */
enum { LEAST_ENTRY = 47 };

/* ---- mappings ---- */

bool kv_mapping_open(struct kv_mapping *m, const char *path, struct kv_err *e)
{
    struct stat about;
    *m = (struct kv_mapping){.path = path};
    int file = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* a pipe must not be waited for */
    if (file < 0)
        return kv_fail(e, KV_DATA, "cannot open '%s': %s", path, strerror(errno));
    if (fstat(file, &about) || !S_ISREG(about.st_mode) || about.st_size < LENGTH_BYTES) {
        close(file);
        return kv_fail(e, KV_DATA, "'%s' is not a safetensors file: expected a file of %d bytes or more", path,
                       LENGTH_BYTES);
    }
    void *bytes = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    int error = errno;
    if (bytes == MAP_FAILED) {
        close(file);
        return kv_fail(e, KV_ENV, "cannot map '%s', %lld bytes: %s", path, (long long)about.st_size, strerror(error));
    }
    m->bytes = bytes;
    m->size = (size_t)about.st_size;
    m->file = file;
    return true;
}

void kv_mapping_close(struct kv_mapping *m)
{
    if (m->bytes) {
        munmap((void *)(uintptr_t)m->bytes, m->size);
        close(m->file);
    }
    m->bytes = NULL;
}

/* ---- JSON, as much of it as a header has ---- */

struct cursor {
    const char *path;
    const unsigned char *begin, *at, *end;
    const unsigned char *data; /* behind the header */
    int64_t data_bytes;
    struct kv_entry *entry;
    int64_t n, room;
    struct kv_arena *a;
    struct kv_err *e;
};

static bool damaged(struct cursor *c, const char *what)
{
    return kv_fail(c->e, KV_DATA, "'%s' is damaged: header, byte %lld: %s", c->path, (long long)(c->at - c->begin),
                   what);
}

static void skip_blanks(struct cursor *c)
{
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\n' || *c->at == '\r'))
        c->at++;
}

/* The next character that is not blank, taken if it is `wanted`. */
static bool take(struct cursor *c, char wanted)
{
    skip_blanks(c);
    if (c->at == c->end || *c->at != (unsigned char)wanted)
        return false;
    c->at++;
    return true;
}

static bool expect(struct cursor *c, char wanted)
{
    const char text[] = {'\'', wanted, '\'', ' ', 'e', 'x', 'p', 'e', 'c', 't', 'e', 'd', '\0'};
    return take(c, wanted) || damaged(c, text);
}

/* Behind an item: true at a comma, another follows; false at `close`, or with *good false. */
static bool another(struct cursor *c, char close, bool *good)
{
    if (take(c, ','))
        return true;
    *good = expect(c, close);
    return false;
}

static int hex_digit(unsigned char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* Four hexadecimal digits behind a backslash and u; -1: not. */
static int take_hex(struct cursor *c)
{
    int value = 0;
    for (int i = 0; i < 4; i++, c->at++) {
        int digit = c->at < c->end ? hex_digit(*c->at) : -1;
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* The code that stands behind a backslash; -1: none that JSON knows. */
static int take_escape(struct cursor *c)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (c->at == c->end)
        return -1;
    unsigned char kind = *c->at++;
    if (kind == 'u')
        return take_hex(c);
    const char *found = kind ? strchr(from, kind) : NULL;
    return found ? to[found - from] : -1;
}

/* A string into text, at most `room` - 1 bytes and '\0'; text NULL: it is only passed over. A text that is kept may
 * have no escapes outside printable ASCII: they are not needed, and no tensor's name has them. */
static bool read_string(struct cursor *c, char *text, int room)
{
    int n = 0;
    if (!expect(c, '"'))
        return false;
    while (c->at < c->end && *c->at != '"') {
        bool escaped = *c->at == '\\';
        int code = *c->at++;
        if (escaped)
            code = take_escape(c);
        if (code < 0 || (!escaped && code < ' ') || (escaped && text && (code < ' ' || code > '~')))
            return damaged(c, "a character that no text has");
        if (text && n == room - 1)
            return damaged(c, "the text is too long");
        if (text)
            text[n++] = (char)code;
    }
    if (text)
        text[n] = '\0';
    return c->at < c->end ? expect(c, '"') : damaged(c, "the text does not end");
}

/* A whole number, 0 or more, of 63 bits. */
static bool read_number(struct cursor *c, int64_t *out)
{
    int64_t value = 0;
    skip_blanks(c);
    const unsigned char *first = c->at;
    for (; c->at < c->end && *c->at >= '0' && *c->at <= '9'; c->at++)
        if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, *c->at - '0', &value))
            return damaged(c, "the number is too large");
    if (c->at == first || (c->at - first > 1 && *first == '0') ||
        (c->at < c->end && (*c->at == '.' || *c->at == 'e' || *c->at == 'E')))
        return damaged(c, "a whole number, 0 or more, expected");
    *out = value;
    return true;
}

/* ---- an entry ---- */

static int dtype_bits(const char *dtype)
{
    static const struct {
        const char *name;
        int bits;
    } known[] = {
        {"F32", 32},    {"BF16", 16},   {"F16", 16},    {"F64", 64},    {"I64", 64}, {"I32", 32}, {"I16", 16},
        {"I8", 8},      {"U64", 64},    {"U32", 32},    {"U16", 16},    {"U8", 8},   {"BOOL", 8}, {"F8_E4M3", 8},
        {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4},   {"C64", 64},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, dtype))
            return known[i].bits;
    return 0;
}

/* A list of numbers: the first `keep` go to out, the product of all to *product. */
static bool read_list(struct cursor *c, int64_t *out, int keep, int *n, int64_t *product)
{
    bool good = true;
    *n = 0;
    *product = 1;
    if (!expect(c, '['))
        return false;
    if (take(c, ']'))
        return true;
    do {
        int64_t value;
        if (!read_number(c, &value))
            return false;
        if (*n == MOST_DIMS)
            return damaged(c, "the list is too long");
        if (*n < keep)
            out[*n] = value;
        if (__builtin_mul_overflow(*product, value, product))
            return damaged(c, "the numbers' product is too large");
        ++*n;
    } while (another(c, ']', &good));
    return good;
}

static bool read_offsets(struct cursor *c, int64_t offset[2])
{
    bool good =
        expect(c, '[') && read_number(c, &offset[0]) && expect(c, ',') && read_number(c, &offset[1]) && expect(c, ']');
    if (good && (offset[0] > offset[1] || offset[1] > c->data_bytes))
        return damaged(c, "the offsets lie outside the file, or the first behind the second");
    return good;
}

/* The value of one of an entry's three keys. */
static bool read_field(struct cursor *c, struct kv_entry *t, const char *key, char dtype[MOST_DTYPE], int64_t offset[2],
                       int *seen)
{
    static const char *const keys[] = {"dtype", "shape", "data_offsets"};
    int which = 0;
    while (which < 3 && strcmp(keys[which], key))
        which++;
    if (which == 3 || *seen & 1 << which)
        return damaged(c, which == 3 ? "a key that no tensor has" : "a key twice");
    *seen |= 1 << which;
    switch (which) {
    case 0:
        return read_string(c, dtype, MOST_DTYPE);
    case 1:
        return read_list(c, t->shape, KV_ENTRY_SHAPE, &t->dims, &t->elements);
    default:
        return read_offsets(c, offset);
    }
}

/* product(shape) x size = bytes. */
static bool check_bytes(struct cursor *c, const struct kv_entry *t)
{
    int64_t bits, size = dtype_bits(t->dtype);
    if (!size)
        return true;
    if (__builtin_mul_overflow(t->elements, size, &bits) || bits % 8 || bits / 8 != t->bytes)
        return kv_fail(c->e, KV_DATA, "'%s' is damaged: tensor '%s' has %lld bytes, not those of %lld elements of %s",
                       c->path, t->name, (long long)t->bytes, (long long)t->elements, t->dtype);
    return true;
}

static bool read_entry(struct cursor *c, const char *name)
{
    struct kv_entry t = {.name = kv_copy_text(c->a, name), .path = c->path};
    char key[MOST_DTYPE], dtype[MOST_DTYPE];
    int64_t offset[2] = {0};
    int seen = 0;
    bool good = true;
    if (!expect(c, '{'))
        return false;
    do {
        if (!read_string(c, key, sizeof key) || !expect(c, ':') || !read_field(c, &t, key, dtype, offset, &seen))
            return false;
    } while (another(c, '}', &good));
    if (!good || seen != 7)
        return good ? damaged(c, "a tensor without dtype, shape or data_offsets") : false;
    t.dtype = kv_copy_text(c->a, dtype);
    t.data = c->data + offset[0];
    t.bytes = offset[1] - offset[0];
    KV_ASSERT(c->n < c->room);
    c->entry[c->n++] = t;
    return check_bytes(c, &t);
}

/* `__metadata__`: texts, of no use here. */
static bool read_metadata(struct cursor *c)
{
    bool good = true;
    if (!expect(c, '{'))
        return false;
    if (take(c, '}'))
        return true;
    do {
        if (!read_string(c, NULL, 0) || !expect(c, ':') || !read_string(c, NULL, 0))
            return false;
    } while (another(c, '}', &good));
    return good;
}

/* ---- the header ---- */

static bool read_header(struct cursor *c)
{
    char name[MOST_NAME];
    bool good = true, metadata = false;
    c->room = (c->end - c->begin) / LEAST_ENTRY + 1;
    c->entry = kv_alloc_many(c->a, (size_t)c->room, sizeof *c->entry, "the tensors of a file", c->e);
    if (!c->entry || !expect(c, '{'))
        return false;
    if (!take(c, '}')) {
        do {
            if (!read_string(c, name, sizeof name) || !expect(c, ':'))
                return false;
            bool is_metadata = !strcmp(name, "__metadata__");
            if (is_metadata && metadata)
                return damaged(c, "__metadata__ twice");
            metadata |= is_metadata;
            if (is_metadata ? !read_metadata(c) : !read_entry(c, name))
                return false;
        } while (another(c, '}', &good));
    }
    skip_blanks(c);
    return good && (c->at == c->end || damaged(c, "something behind the object"));
}

static int by_offset(const void *x, const void *y)
{
    const struct kv_entry *a = x, *b = y;
    if (a->data != b->data)
        return a->data < b->data ? -1 : 1;
    return a->bytes != b->bytes ? (a->bytes < b->bytes ? -1 : 1) : strcmp(a->name, b->name);
}

/* Each tensor begins where the one before ends, the last ends with the file. */
static bool check_layout(struct cursor *c)
{
    const unsigned char *end = c->data;
    qsort(c->entry, (size_t)c->n, sizeof *c->entry, by_offset);
    for (int64_t i = 0; i < c->n; end = c->entry[i].data + c->entry[i].bytes, i++)
        if (c->entry[i].data != end)
            return kv_fail(c->e, KV_DATA, "'%s' is damaged: tensor '%s' begins at %lld; expected %lld", c->path,
                           c->entry[i].name, (long long)(c->entry[i].data - c->data), (long long)(end - c->data));
    if (end != c->data + c->data_bytes)
        return kv_fail(c->e, KV_DATA, "'%s' is damaged: its tensors end at %lld, its data at %lld", c->path,
                       (long long)(end - c->data), (long long)c->data_bytes);
    return true;
}

bool kv_safetensors_read(const struct kv_mapping *m, struct kv_entry **entry, int64_t *n, struct kv_arena *a,
                         struct kv_err *e)
{
    uint64_t length = 0, behind = m->size - LENGTH_BYTES;
    for (int i = 0; i < LENGTH_BYTES; i++)
        length |= (uint64_t)m->bytes[i] << 8 * i;
    if (length > behind || length > MOST_HEADER || length < 2)
        return kv_fail(e, KV_DATA,
                       "'%s' is not a safetensors file, or cut short: a header of %llu bytes in %llu; the most is %d",
                       m->path, (unsigned long long)length, (unsigned long long)behind, MOST_HEADER);
    const unsigned char *begin = m->bytes + LENGTH_BYTES;
    struct cursor c = {.path = m->path,
                       .begin = begin,
                       .at = begin,
                       .end = begin + length,
                       .data = begin + length,
                       .data_bytes = (int64_t)(behind - length),
                       .a = a,
                       .e = e};
    if (!read_header(&c) || !check_layout(&c))
        return false;
    *entry = c.entry;
    *n = c.n;
    return true;
}
