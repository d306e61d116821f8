/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "traces/look.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
    int file;
    int64_t bytes;
    bool catches; /* the next read of numbers is caught instead of done */
    bool caught;
    uint64_t at, size;
} look;

static H5FD_t *look_open(const char *name, unsigned flags, hid_t access, haddr_t most)
{
    (void)name, (void)access, (void)most;
    return flags & H5F_ACC_RDWR ? NULL : calloc(1, sizeof(H5FD_t));
}

static herr_t look_close(H5FD_t *driver)
{
    free(driver);
    return 0;
}

static herr_t look_query(const H5FD_t *driver, unsigned long *flags)
{
    (void)driver;
    *flags = H5FD_FEAT_ACCUMULATE_METADATA;
    return 0;
}

static haddr_t look_eoa(const H5FD_t *driver, H5FD_mem_t type)
{
    (void)driver, (void)type;
    return (haddr_t)look.bytes; /* set_eoa cannot make it longer, and nothing may be read behind it */
}

static herr_t look_set_eoa(H5FD_t *driver, H5FD_mem_t type, haddr_t eoa)
{
    (void)driver, (void)type, (void)eoa;
    return 0;
}

static haddr_t look_eof(const H5FD_t *driver, H5FD_mem_t type)
{
    (void)driver, (void)type;
    return (haddr_t)look.bytes;
}

static herr_t look_read(H5FD_t *driver, H5FD_mem_t type, hid_t list, haddr_t address, size_t size, void *out)
{
    (void)driver, (void)list;
    if (look.catches && type == H5FD_MEM_DRAW) {
        look.caught = true;
        look.at = address;
        look.size = size;
        return 0;
    }
    while (size > 0) {
        ssize_t n = pread(look.file, out, size, (off_t)address);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        out = (char *)out + n;
        address += (haddr_t)n;
        size -= (size_t)n;
    }
    return 0;
}

static herr_t look_write(H5FD_t *driver, H5FD_mem_t type, hid_t list, haddr_t address, size_t size, const void *data)
{
    (void)driver, (void)type, (void)list, (void)address, (void)size, (void)data;
    return -1;
}

hid_t kv_look_open(int file, int64_t bytes)
{
    static const H5FD_class_t class = {.name = "kvtrace look",
                                       .maxaddr = INT64_MAX,
                                       .fc_degree = H5F_CLOSE_WEAK,
                                       .open = look_open,
                                       .close = look_close,
                                       .query = look_query,
                                       .get_eoa = look_eoa,
                                       .set_eoa = look_set_eoa,
                                       .get_eof = look_eof,
                                       .read = look_read,
                                       .write = look_write,
                                       .fl_map = H5FD_FLMAP_DICHOTOMY};
    hid_t id = H5FDregister(&class), access = H5Pcreate(H5P_FILE_ACCESS), out = H5I_INVALID_HID;
    look.file = file;
    look.bytes = bytes;
    if (id >= 0 && H5Pset_driver(access, id, NULL) >= 0) {
        H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
        H5Pset_cache(access, 0, 521, 0, 0.75); /* no chunk is kept by the library */
        out = H5Fopen("trace", H5F_ACC_RDONLY, access);
    }
    H5Pclose(access);
    return out;
}

bool kv_look_chunk(hid_t set, const hsize_t *first, struct kv_look_chunk *chunk)
{
    static uint8_t nothing[1];
    uint32_t skipped = 0;
    look.caught = false;
    look.catches = true;
    bool good = H5Dread_chunk(set, H5P_DEFAULT, first, &skipped, nothing) >= 0;
    look.catches = false;
    *chunk = (struct kv_look_chunk){look.at, look.size, skipped};
    return good && look.caught;
}

/* ---- plain datasets ---- */

enum { HEADER_BYTES = 512, MESSAGE_SPACE = 1, MESSAGE_TYPE = 3, MESSAGE_LAYOUT = 8, SEEN_ALL = 7 };

static uint64_t number_at(const uint8_t *bytes, int size)
{
    uint64_t n = 0;
    memcpy(&n, bytes, (size_t)size); /* little endian, both */
    return n;
}

static bool plain_space(const uint8_t *m, size_t size, struct kv_set *s)
{
    size_t dims = m[0] == 1 ? 8 : 4;
    s->rank = m[1];
    if ((m[0] != 1 && (m[0] != 2 || m[3] != 1)) || s->rank < 1 || s->rank > 2 || size < dims + 8u * s->rank)
        return false;
    for (int i = 0; i < s->rank; i++)
        s->extent[i] = number_at(m + dims + 8 * i, 8);
    return true;
}

static bool plain_type(const uint8_t *m, size_t size, struct kv_set *s)
{
    static const uint8_t floats[2][4] = {{23, 8, 0, 23}, {52, 11, 0, 52}}; /* exponent at, bits; mantissa at, bits */
    uint64_t bytes = number_at(m + 4, 4);
    bool wide = bytes == 8;
    if (size < 12 || m[0] >> 4 < 1 || m[0] >> 4 > 3 || bytes < 1 || bytes > 8 || number_at(m + 8, 2) != 0 ||
        number_at(m + 10, 2) != 8 * bytes || (m[1] & 1)) /* no whole bytes, or big endian */
        return false;
    s->size = (uint8_t)bytes;
    s->class = m[1] & 8 ? KV_CLASS_SIGNED : KV_CLASS_UNSIGNED;
    if ((m[0] & 15) == 0)
        return !(m[1] & ~8);
    s->class = KV_CLASS_FLOAT;
    return (m[0] & 15) == 1 && size >= 20 && (bytes == 4 || wide) && m[1] == 0x20 && m[2] == 8 * bytes - 1 &&
           !memcmp(m + 12, floats[wide], 4) && number_at(m + 16, 4) == (wide ? 1023 : 127);
}

static bool plain_layout(const uint8_t *m, size_t size, struct kv_set *s, uint64_t *bytes)
{
    if (size < 18 || m[0] != 3 || m[1] != 1)
        return false;
    s->layout = KV_LAYOUT_FLAT;
    s->n = number_at(m + 2, 8);
    *bytes = number_at(m + 10, 8);
    return s->n != HADDR_UNDEF;
}

/* Fill value, times and attributes change nothing; what we do not know may. */
static bool changes_nothing(unsigned type)
{
    return type == 0 || type == 4 || type == 5 || type == 12 || type == 14 || type == 18;
}

bool kv_look_plain(haddr_t header, struct kv_set *s)
{
    uint8_t all[HEADER_BYTES];
    uint64_t bytes = 0;
    int seen = 0;
    ssize_t n = header < (haddr_t)look.bytes ? pread(look.file, all, sizeof all, (off_t)header) : -1;
    if (n < 16 || all[0] != 1 || number_at(all + 8, 4) > (uint64_t)n - 16)
        return false;
    const uint8_t *at = all + 16, *end = at + number_at(all + 8, 4);
    for (uint64_t i = number_at(all + 2, 2); i > 0; i--) {
        if (end - at < 8 || (uint64_t)(end - at) - 8 < number_at(at + 2, 2) || (at[4] & 2)) /* shared: elsewhere */
            return false;
        unsigned type = (unsigned)number_at(at, 2);
        size_t size = number_at(at + 2, 2);
        const uint8_t *m = at + 8;
        bool good = type == MESSAGE_SPACE    ? size >= 8 && plain_space(m, size, s)
                    : type == MESSAGE_TYPE   ? size >= 8 && plain_type(m, size, s)
                    : type == MESSAGE_LAYOUT ? size >= 8 && plain_layout(m, size, s, &bytes)
                                             : changes_nothing(type);
        int bit = type == MESSAGE_SPACE ? 1 : type == MESSAGE_TYPE ? 2 : type == MESSAGE_LAYOUT ? 4 : 0;
        if (!good || (seen & bit))
            return false;
        seen |= bit;
        at = m + size;
    }
    return seen == SEEN_ALL && s->extent[0] <= bytes && s->extent[1] <= bytes &&
           bytes == s->extent[0] * s->extent[1] * s->size; /* a product that wraps is refused by the reader */
}
