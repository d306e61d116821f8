/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "traces/journal.h"
#include "traces/h5.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { PAGE = 4096 };

/* A page to be overwritten, as it lies in the file's end too. */
struct page {
    int64_t offset;
    uint8_t bytes[PAGE];
};

/* The last bytes of a file whose flush was not finished: pages before it, and what they must hash to. */
struct tail {
    char magic[16];
    int64_t n_pages, size; /* size: of the file when done */
    uint64_t hash;
};
static const char magic[16] = "kvtrace journal";

struct driver {
    H5FD_t library; /* the library's own, first */
    int file;
    haddr_t eoa, eof;
    int64_t flushed;    /* bytes that the file had at the last flush */
    struct page **page; /* ascending */
    int64_t n_pages, room;
};

/* ---- bytes ---- */

static bool write_all(int file, const void *data, size_t size, int64_t offset)
{
    for (const char *from = data; size > 0;) {
        ssize_t n = pwrite(file, from, size, offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            kv_h5_note(strerror(n ? errno : ENOSPC));
            return false;
        }
        from += n;
        size -= (size_t)n;
        offset += n;
    }
    return true;
}

/* Behind the end there are zeros. */
static bool read_all(int file, void *data, size_t size, int64_t offset)
{
    for (char *to = data; size > 0;) {
        ssize_t n = pread(file, to, size, offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return false;
        if (n == 0) {
            memset(to, 0, size);
            return true;
        }
        to += n;
        size -= (size_t)n;
        offset += n;
    }
    return true;
}

/* ---- pages ---- */

/* The place of the first page at or behind the offset. */
static int64_t find(const struct driver *d, int64_t offset)
{
    int64_t low = 0, high = d->n_pages;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (d->page[middle]->offset < offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct page *touch(struct driver *d, int64_t offset)
{
    int64_t i = find(d, offset);
    if (i < d->n_pages && d->page[i]->offset == offset)
        return d->page[i];
    if (d->n_pages == d->room) {
        int64_t room = d->room ? 2 * d->room : 64;
        struct page **more = realloc(d->page, (size_t)room * sizeof(struct page *));
        if (!more)
            return NULL;
        d->page = more;
        d->room = room;
    }
    struct page *p = malloc(sizeof *p);
    if (!p || !read_all(d->file, p->bytes, PAGE, offset)) {
        free(p);
        return NULL;
    }
    p->offset = offset;
    memmove(d->page + i + 1, d->page + i, (size_t)(d->n_pages - i) * sizeof(struct page *));
    d->page[i] = p;
    d->n_pages++;
    return p;
}

/* Where the pages lie in the end: behind the last page of the file itself, which is put in place whole. */
static int64_t pages_at(int64_t size)
{
    return (size + PAGE - 1) / PAGE * PAGE;
}

/* A page can reach beyond what was flushed: no more of it is put in place than is not written by others. */
static size_t page_size(int64_t offset, int64_t flushed)
{
    return flushed - offset < PAGE ? (size_t)(flushed - offset) : PAGE;
}

static bool finish(struct driver *d)
{
    int64_t size = (int64_t)(d->eof > d->eoa ? d->eof : d->eoa), at = pages_at(size);
    struct tail tail = {.n_pages = d->n_pages, .size = size};
    XXH3_state_t *hash = XXH3_createState();
    bool good = hash && XXH3_64bits_reset(hash) == XXH_OK;
    memcpy(tail.magic, magic, sizeof magic);
    for (int64_t i = 0; good && d->n_pages && i < d->n_pages; i++, at += (int64_t)sizeof **d->page) {
        struct page *p = d->page[i];
        size_t own = page_size(p->offset, d->flushed);
        if (own < PAGE) /* what lies behind went to the file itself */
            good = read_all(d->file, p->bytes + own, PAGE - own, p->offset + (int64_t)own);
        XXH3_64bits_update(hash, p, sizeof *p);
        good = good && write_all(d->file, p, sizeof *p, at);
    }
    if (hash)
        tail.hash = XXH3_64bits_digest(hash);
    XXH3_freeState(hash);
    if (d->n_pages)
        good = good && write_all(d->file, &tail, sizeof tail, at);
    for (int64_t i = 0; good && i < d->n_pages; i++)
        good = write_all(d->file, d->page[i]->bytes, PAGE, d->page[i]->offset);
    good = good && !ftruncate(d->file, size);
    for (int64_t i = 0; good && i < d->n_pages; i++)
        free(d->page[i]);
    if (!good)
        return false;
    d->n_pages = 0;
    d->flushed = size;
    return true;
}

/* ---- the driver ---- */

static H5FD_t *driver_open(const char *name, unsigned flags, hid_t access, haddr_t most)
{
    struct stat st;
    (void)access, (void)most;
    int how = O_RDWR | O_CLOEXEC | (flags & H5F_ACC_CREAT ? O_CREAT : 0) | (flags & H5F_ACC_TRUNC ? O_TRUNC : 0);
    struct driver *d = calloc(1, sizeof *d);
    if (!d)
        return NULL;
    d->file = open(name, how, 0666);
    if (d->file < 0 || fstat(d->file, &st)) {
        if (d->file >= 0)
            close(d->file);
        free(d);
        return NULL;
    }
    d->eof = (haddr_t)st.st_size;
    d->flushed = st.st_size;
    return &d->library;
}

/* Not flushed: the library flushes before, or it failed and the file is left as it was. */
static herr_t driver_close(H5FD_t *driver)
{
    struct driver *d = (struct driver *)driver;
    for (int64_t i = 0; i < d->n_pages; i++)
        free(d->page[i]);
    free(d->page);
    bool good = !close(d->file);
    free(d);
    return good ? 0 : -1;
}

static herr_t driver_query(const H5FD_t *driver, unsigned long *flags)
{
    (void)driver;
    *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE |
             H5FD_FEAT_AGGREGATE_SMALLDATA;
    return 0;
}

static haddr_t driver_eoa(const H5FD_t *driver, H5FD_mem_t type)
{
    (void)type;
    return ((const struct driver *)driver)->eoa;
}

static herr_t driver_set_eoa(H5FD_t *driver, H5FD_mem_t type, haddr_t eoa)
{
    (void)type;
    ((struct driver *)driver)->eoa = eoa;
    return 0;
}

static haddr_t driver_eof(const H5FD_t *driver, H5FD_mem_t type)
{
    (void)type;
    return ((const struct driver *)driver)->eof;
}

static herr_t driver_read(H5FD_t *driver, H5FD_mem_t type, hid_t list, haddr_t address, size_t size, void *out)
{
    struct driver *d = (struct driver *)driver;
    int64_t begin = (int64_t)address, end = begin + (int64_t)size;
    (void)type, (void)list;
    if (!read_all(d->file, out, size, begin))
        return -1;
    for (int64_t i = find(d, begin - begin % PAGE); i < d->n_pages && d->page[i]->offset < end; i++) {
        const struct page *p = d->page[i];
        int64_t last = p->offset + (int64_t)page_size(p->offset, d->flushed);
        int64_t from = p->offset > begin ? p->offset : begin, to = last < end ? last : end;
        if (from < to)
            memcpy((char *)out + (from - begin), p->bytes + (from - p->offset), (size_t)(to - from));
    }
    return 0;
}

static herr_t driver_write(H5FD_t *driver, H5FD_mem_t type, hid_t list, haddr_t address, size_t size, const void *data)
{
    struct driver *d = (struct driver *)driver;
    const char *from = data;
    int64_t at = (int64_t)address, end = at + (int64_t)size;
    (void)type, (void)list;
    while (at < end && at < d->flushed) {
        int64_t offset = at - at % PAGE, last = offset + (int64_t)page_size(offset, d->flushed);
        int64_t n = (end < last ? end : last) - at;
        struct page *p = touch(d, offset);
        if (!p)
            return -1;
        memcpy(p->bytes + (at - offset), from, (size_t)n);
        from += n;
        at += n;
    }
    if (at < end && !write_all(d->file, from, (size_t)(end - at), at))
        return -1;
    if ((haddr_t)end > d->eof)
        d->eof = (haddr_t)end;
    return 0;
}

static herr_t driver_flush(H5FD_t *driver, hid_t list, hbool_t closing)
{
    (void)list, (void)closing;
    return finish((struct driver *)driver) ? 0 : -1;
}

/* Asked for in the middle of a flush: the file may become longer, but shorter only when the flush is done. */
static herr_t driver_truncate(H5FD_t *driver, hid_t list, hbool_t closing)
{
    struct driver *d = (struct driver *)driver;
    (void)list, (void)closing;
    if (d->eoa > d->eof && (int64_t)d->eoa > d->flushed && ftruncate(d->file, (off_t)d->eoa))
        return -1;
    d->eof = d->eoa;
    return 0;
}

static herr_t driver_lock(H5FD_t *driver, hbool_t write)
{
    return !flock(((struct driver *)driver)->file, (write ? LOCK_EX : LOCK_SH) | LOCK_NB) || errno == ENOSYS ? 0 : -1;
}

static herr_t driver_unlock(H5FD_t *driver)
{
    return !flock(((struct driver *)driver)->file, LOCK_UN) || errno == ENOSYS ? 0 : -1;
}

bool kv_journal_set(hid_t access)
{
    static const H5FD_class_t class = {.name = "kvtrace",
                                       .maxaddr = INT64_MAX,
                                       .fc_degree = H5F_CLOSE_WEAK,
                                       .open = driver_open,
                                       .close = driver_close,
                                       .query = driver_query,
                                       .get_eoa = driver_eoa,
                                       .set_eoa = driver_set_eoa,
                                       .get_eof = driver_eof,
                                       .read = driver_read,
                                       .write = driver_write,
                                       .flush = driver_flush,
                                       .truncate = driver_truncate,
                                       .lock = driver_lock,
                                       .unlock = driver_unlock,
                                       .fl_map = H5FD_FLMAP_DICHOTOMY};
    hid_t id = H5FDregister(&class);
    bool good = id >= 0 && H5Pset_driver(access, id, NULL) >= 0;
    H5FDunregister(id); /* the list holds it */
    return good;
}

/* ---- replay ---- */

/* What the end of the file says of pages before it; false when that is no such end. */
static bool read_tail(int file, int64_t bytes, struct tail *tail)
{
    int64_t at = bytes - (int64_t)sizeof *tail, most = at / (int64_t)sizeof(struct page);
    return at >= 0 && read_all(file, tail, sizeof *tail, at) && !memcmp(tail->magic, magic, sizeof magic) &&
           tail->n_pages >= 1 && tail->n_pages <= most && tail->size >= 0 && tail->size <= at &&
           pages_at(tail->size) == at - tail->n_pages * (int64_t)sizeof(struct page);
}

/* One after the other, for there may be more than there is memory. A file that lies can change itself only. */
static bool read_page(int file, const struct tail *tail, int64_t i, struct page *page)
{
    return read_all(file, page, sizeof *page, pages_at(tail->size) + i * (int64_t)sizeof *page) && page->offset >= 0 &&
           page->offset < tail->size;
}

/* Whether the pages are what the tail says. */
static bool pages_are_whole(int file, const struct tail *tail)
{
    struct page page;
    XXH3_state_t *hash = XXH3_createState();
    bool good = hash && XXH3_64bits_reset(hash) == XXH_OK;
    for (int64_t i = 0; good && i < tail->n_pages; i++)
        good = read_page(file, tail, i, &page) && XXH3_64bits_update(hash, &page, sizeof page) == XXH_OK;
    good = good && XXH3_64bits_digest(hash) == tail->hash;
    XXH3_freeState(hash);
    return good;
}

static bool put_pages(int file, const struct tail *tail)
{
    struct page page;
    for (int64_t i = 0; i < tail->n_pages; i++)
        if (!read_page(file, tail, i, &page) || !write_all(file, page.bytes, PAGE, page.offset))
            return false;
    return !ftruncate(file, tail->size);
}

static bool ends_in_pages(int file, struct tail *tail)
{
    struct stat st;
    return !fstat(file, &st) && S_ISREG(st.st_mode) && read_tail(file, st.st_size, tail);
}

/* The file, open and locked, when it ends in pages; -1: it does not, or somebody else has it. Looked at again under the
 * lock, for another reader may have put the pages in place meanwhile. */
static int open_unfinished(const char *path, struct tail *tail)
{
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    bool found = file >= 0 && ends_in_pages(file, tail) && (!flock(file, LOCK_EX | LOCK_NB) || errno != EWOULDBLOCK) &&
                 ends_in_pages(file, tail) && pages_are_whole(file, tail);
    if (found)
        return file;
    if (file >= 0)
        close(file); /* whoever opens it next says what is wrong */
    return -1;
}

bool kv_journal_replay(const char *path, struct kv_err *e)
{
    struct tail tail;
    char same[64];
    size_t length = strlen(path);
    if (length < 5 || strcmp(path + length - 5, ".part"))
        return true;
    int file = open_unfinished(path, &tail);
    if (file < 0)
        return true;
    snprintf(same, sizeof same, "/proc/self/fd/%d", file);
    int again = open(same, O_RDWR | O_CLOEXEC); /* this file, whatever the path leads to by now */
    bool good = (again >= 0 && put_pages(again, &tail)) ||
                kv_fail(e, KV_ENV, "cannot finish writing '%s', whose writer was killed: %s", path, strerror(errno));
    if (again >= 0)
        close(again);
    close(file);
    return good;
}
