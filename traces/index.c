/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The index, taken apart. Once it is, every pointer into it stays inside, and every text ends; what the numbers mean is
 * checked where they are used. */
#include "traces/index.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEEPEST = 8, LONGEST_NAME = 256 };
static const int64_t mib = 1 << 20, gib = 1 << 30;

/* A chunk takes 16 bytes of index, and no less than 9 of the file; a dataset or group of four names some 80, and some
 * 300 of the file unless several links share it. */
int64_t kv_index_most(int64_t file_bytes)
{
    return file_bytes < (gib - mib) / 4 ? mib + 4 * file_bytes : gib;
}

bool kv_index_spend(struct kv_index *x, int64_t bytes, struct kv_err *e)
{
    if (bytes > x->most - x->spent)
        return kv_fail(e, KV_DATA, "trace '%s': says to hold more than a file of %lld bytes can; the file is damaged",
                       x->path, (long long)x->file_bytes);
    x->spent += bytes;
    return true;
}

/* ---- messages ---- */

static void full_name(const struct kv_index *x, int32_t node, char *out, size_t room)
{
    int32_t up[DEEPEST + 1];
    int n = 0;
    size_t length = 0;
    for (; node > 0 && n <= DEEPEST; node = x->node[node].up)
        up[n++] = node;
    snprintf(out, room, "/");
    while (n > 0 && length < room) {
        int one = snprintf(out + length, room - length, "/%.100s", x->node[up[--n]].name);
        length += (size_t)one;
    }
}

bool kv_index_bad(const struct kv_index *x, int32_t node, struct kv_err *e, const char *format, ...)
{
    char what[512], name[LONGEST_NAME];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    full_name(x, node, name, sizeof name);
    return kv_fail(e, KV_DATA, "trace '%s': %s: %s", x->path, name, what);
}

static bool bad_child(const struct kv_index *x, int32_t up, const char *child, const char *what, const char *kind,
                      struct kv_err *e)
{
    char name[LONGEST_NAME];
    full_name(x, up, name, sizeof name);
    return kv_fail(e, KV_DATA, "trace '%s': %s/%s: %s %s; see traces/FORMAT.md", x->path, up ? name : "", child, what,
                   kind);
}

/* ---- taking apart ---- */

struct parser {
    struct kv_index *x;
    const uint8_t *at, *end;
    int32_t open[DEEPEST]; /* groups, the innermost last */
    int depth;
    bool fill; /* else: count */
    bool in_head;
};

/* The text at the front of [at, end), which must end there. */
static const char *take_text(const uint8_t **at, const uint8_t *end)
{
    const char *text = (const char *)*at;
    const uint8_t *zero = memchr(text, 0, (size_t)(end - *at));
    if (!zero)
        return NULL;
    *at = zero + 1;
    return text;
}

static uint64_t padded(uint64_t bytes)
{
    return (bytes + 7) / 8 * 8;
}

/* Whether all that the head promises is there; *at is moved behind. */
static const struct kv_set *take_set(const uint8_t **at, const uint8_t *end)
{
    const struct kv_set *s = (const void *)*at;
    uint64_t room = (uint64_t)(end - *at);
    if (room < sizeof *s)
        return NULL;
    uint64_t filters = s->n_filters * sizeof(struct kv_set_filter);
    room -= sizeof *s;
    if (s->n_filters > KV_INDEX_FILTERS || room < filters)
        return NULL;
    room -= filters;
    uint64_t tail = s->layout == KV_LAYOUT_CHUNKS && s->n <= room / 16 ? 16 * s->n
                    : s->layout == KV_LAYOUT_COMPACT && s->n <= room   ? padded(s->n)
                    : s->layout <= KV_LAYOUT_FLAT                      ? 0
                                                                       : UINT64_MAX;
    if (tail > room)
        return NULL;
    *at += sizeof *s + filters + tail;
    return s;
}

static bool take_node(struct parser *p, enum kv_record_kind kind, const uint8_t *at, const uint8_t *end)
{
    const struct kv_set *set = kind == KV_RECORD_SET ? take_set(&at, end) : NULL;
    const char *name = kind == KV_RECORD_SET && !set ? NULL : take_text(&at, end);
    int32_t own = p->x->n, up = p->depth ? p->open[p->depth - 1] : -1;
    if (!name || own == INT32_MAX || (up < 0 && (own > 0 || kind != KV_RECORD_GROUP)))
        return false;
    if (p->fill)
        p->x->node[own] = (struct kv_node){name, kind, own + 1, up, p->x->n_attributes, 0, set};
    p->x->n++;
    p->in_head = kind == KV_RECORD_GROUP;
    if (kind != KV_RECORD_GROUP)
        return true;
    if (p->depth == DEEPEST)
        return false;
    p->open[p->depth++] = own;
    return true;
}

static bool take_up(struct parser *p)
{
    if (p->depth == 0)
        return false;
    if (p->fill)
        p->x->node[p->open[p->depth - 1]].end = p->x->n;
    p->depth--;
    p->in_head = false;
    return true;
}

static bool take_attribute(struct parser *p, enum kv_record_kind kind, const uint8_t *at, const uint8_t *end)
{
    struct kv_attribute a = {.values = 1};
    if (!p->in_head)
        return false;
    if (kind != KV_RECORD_TEXT) {
        if (end - at < 8)
            return false;
        memcpy(kind == KV_RECORD_INT ? &a.value : &a.values, at, 8);
        at += 8;
        if (kind == KV_RECORD_VALUES && a.values == 1)
            a.values = 0; /* one, but of a kind that we do not read */
    }
    a.name = take_text(&at, end);
    if (!a.name || (kind == KV_RECORD_TEXT && !(a.text = take_text(&at, end))))
        return false;
    if (p->fill) {
        p->x->attribute[p->x->n_attributes] = a;
        p->x->node[p->open[p->depth - 1]].n_attributes++;
    }
    p->x->n_attributes++;
    return true;
}

static bool take_record(struct parser *p)
{
    struct kv_record r;
    if (p->end - p->at < (ptrdiff_t)sizeof r)
        return false;
    memcpy(&r, p->at, sizeof r);
    p->at += sizeof r;
    const uint8_t *body = p->at;
    if (r.bytes % 8 || r.bytes > (uint64_t)(p->end - body))
        return false;
    p->at += r.bytes;
    if (r.kind == KV_RECORD_UP)
        return take_up(p);
    if (r.kind >= KV_RECORD_GROUP && r.kind <= KV_RECORD_OTHER)
        return take_node(p, (enum kv_record_kind)r.kind, body, p->at);
    if (r.kind >= KV_RECORD_TEXT && r.kind <= KV_RECORD_VALUES)
        return take_attribute(p, (enum kv_record_kind)r.kind, body, p->at);
    return false;
}

static bool take_all(struct kv_index *x, size_t size, bool fill)
{
    struct parser p = {.x = x, .at = x->bytes, .fill = fill};
    p.end = p.at + size;
    p.at += 8;
    x->n = x->n_attributes = 0;
    while (p.at < p.end)
        if (!take_record(&p))
            return false;
    return p.depth == 0 && x->n > 0;
}

bool kv_index_open(struct kv_index *x, const char *path, int64_t file_bytes, void *bytes, size_t size, struct kv_err *e)
{
    *x = (struct kv_index){.path = path, .file_bytes = file_bytes, .bytes = bytes};
    x->most = file_bytes < gib / 32 ? 16 * mib + 32 * file_bytes : 2 * gib;
    bool good = bytes && size >= 8 && size <= (size_t)kv_index_most(file_bytes) && !memcmp(bytes, KV_INDEX_MAGIC, 8) &&
                take_all(x, size, false);
    if (good) {
        x->node = calloc((size_t)x->n, sizeof *x->node);
        x->attribute = calloc((size_t)x->n_attributes + 1, sizeof *x->attribute);
        if (!x->node || !x->attribute)
            kv_fail(e, KV_ENV, "trace '%s': no memory for %d datasets", path, x->n);
        else if (take_all(x, size, true))
            return true;
    } else {
        kv_fail(e, KV_DATA, "trace '%s' is damaged: the HDF5 library cannot read it", path);
    }
    kv_index_close(x);
    return false;
}

void kv_index_close(struct kv_index *x)
{
    free(x->bytes);
    free(x->node);
    free(x->attribute);
    x->bytes = x->node = NULL;
    x->attribute = NULL;
    x->n = x->n_attributes = 0;
}

/* ---- parts of a dataset ---- */

const struct kv_set_filter *kv_set_filters(const struct kv_set *s)
{
    return (const void *)(s + 1);
}

const uint64_t *kv_set_chunks(const struct kv_set *s)
{
    return (const void *)(kv_set_filters(s) + s->n_filters);
}

const uint32_t *kv_set_chunk_bytes(const struct kv_set *s)
{
    return (const void *)(kv_set_chunks(s) + s->n);
}

const uint32_t *kv_set_chunk_skipped(const struct kv_set *s)
{
    return kv_set_chunk_bytes(s) + s->n;
}

const uint8_t *kv_set_bytes(const struct kv_set *s)
{
    return (const void *)kv_set_chunks(s);
}

/* ---- groups and datasets ---- */

int32_t kv_index_find(const struct kv_index *x, int32_t group, const char *name)
{
    for (int32_t i = group + 1; i < x->node[group].end; i = x->node[i].end)
        if (!strcmp(x->node[i].name, name))
            return i;
    return -1;
}

static bool find_child(const struct kv_index *x, int32_t up, const char *name, enum kv_record_kind wanted,
                       int32_t *node, struct kv_err *e)
{
    const char *kind = wanted == KV_RECORD_GROUP ? "group" : "dataset";
    *node = kv_index_find(x, up, name);
    if (*node < 0)
        return bad_child(x, up, name, "there is no such", kind, e);
    for (int32_t i = x->node[*node].end; i < x->node[up].end; i = x->node[i].end)
        if (!strcmp(x->node[i].name, name))
            return kv_index_bad(x, *node, e, "is there twice; the file is damaged");
    if (x->node[*node].kind == KV_RECORD_ELSEWHERE)
        return kv_index_bad(x, *node, e, "is a link to elsewhere; a trace is one file");
    return x->node[*node].kind == wanted || kv_index_bad(x, *node, e, "is no %s; see traces/FORMAT.md", kind);
}

bool kv_index_group(const struct kv_index *x, int32_t up, const char *name, int32_t *node, struct kv_err *e)
{
    return find_child(x, up, name, KV_RECORD_GROUP, node, e);
}

bool kv_index_fits(const struct kv_index *x, uint64_t bytes)
{
    return bytes <= (uint64_t)mib || bytes / 2048 <= (uint64_t)x->file_bytes;
}

static bool check_chunks(const struct kv_index *x, int32_t node, uint64_t own, struct kv_err *e)
{
    const struct kv_set *s = x->node[node].set;
    uint64_t bytes = s->size, n = 1, file = (uint64_t)x->file_bytes;
    if (!s->chunk[0] || !s->chunk[1] || __builtin_mul_overflow(bytes, s->chunk[0], &bytes) ||
        __builtin_mul_overflow(bytes, s->chunk[1], &bytes) || (s->rank < 2 && s->chunk[1] != 1))
        return kv_index_bad(x, node, e, "its chunks have an impossible shape; the file is damaged");
    if (bytes > (uint64_t)gib || (bytes > own && bytes > (uint64_t)mib) || !kv_index_fits(x, bytes))
        return kv_index_bad(x, node, e, "its chunks of %llu bytes are larger than what it holds",
                            (unsigned long long)bytes);
    for (int i = 0; i < 2; i++)
        n *= s->extent[i] / s->chunk[i] + (s->extent[i] % s->chunk[i] > 0); /* at most the numbers, no overflow */
    if (n > file || s->n != n)
        return kv_index_bad(x, node, e, "has more chunks than the file can hold");
    for (uint64_t i = 0; i < n; i++) {
        uint64_t at = kv_set_chunks(s)[i], stored = kv_set_chunk_bytes(s)[i];
        if (at != KV_NOWHERE && (at > file || stored > file - at || stored > 2 * bytes + 4096))
            return kv_index_bad(x, node, e, "a chunk is larger than it can be, or ends behind the end of the file");
    }
    return true;
}

static bool check_filters(const struct kv_index *x, int32_t node, struct kv_err *e)
{
    static const struct {
        uint32_t id;
        const char *name;
    } others[] = {{4, "szip"}, {5, "nbit"}, {6, "scaleoffset"}};
    const struct kv_set *s = x->node[node].set;
    for (int i = 0; i < s->n_filters; i++) {
        uint32_t id = kv_set_filters(s)[i].id;
        if ((id >= 1 && id <= 3) || id == 32015)
            continue;
        const char *name = NULL;
        for (size_t k = 0; k < sizeof others / sizeof *others; k++)
            name = others[k].id == id ? others[k].name : name;
        if (name)
            return kv_index_bad(x, node, e, "its filter '%s' is not read; repack it: h5repack -f GZIP=1", name);
        return kv_index_bad(x, node, e, "its filter %u is not read; repack it: h5repack -f GZIP=1", id);
    }
    return true;
}

static bool check_place(const struct kv_index *x, int32_t node, uint64_t bytes, struct kv_err *e)
{
    const struct kv_set *s = x->node[node].set;
    uint64_t file = (uint64_t)x->file_bytes;
    if (s->layout == KV_LAYOUT_CHUNKS)
        return check_filters(x, node, e) && check_chunks(x, node, bytes, e);
    if (s->layout == KV_LAYOUT_OTHER)
        return kv_index_bad(x, node, e, "its numbers are not in the file; a trace is one file");
    if (bytes == 0)
        return true;
    if (s->layout == KV_LAYOUT_COMPACT)
        return s->n == bytes || kv_index_bad(x, node, e, "has fewer numbers than it says; the file is damaged");
    if (s->n == KV_NOWHERE)
        return kv_index_bad(x, node, e, "was made but never written");
    return (s->n <= file && bytes <= file - s->n) ||
           kv_index_bad(x, node, e, "ends behind the end of the file; the file is cut off");
}

bool kv_index_set(const struct kv_index *x, int32_t up, const char *name, int rank, int32_t *node, int64_t *n,
                  struct kv_err *e)
{
    uint64_t bytes;
    if (!find_child(x, up, name, KV_RECORD_SET, node, e))
        return false;
    const struct kv_set *s = x->node[*node].set;
    if (s->class < KV_CLASS_SIGNED || s->class > KV_CLASS_FLOAT ||
        (s->size != 1 && s->size != 2 && s->size != 4 && s->size != 8) || (s->class == KV_CLASS_FLOAT && s->size == 1))
        return kv_index_bad(x, *node, e, "holds no numbers, or of a kind that is not read");
    bool scalar = s->rank == 0 && rank == 1;
    if (s->rank != rank && !scalar)
        return kv_index_bad(x, *node, e, "has %d axes; expected %d", s->rank, rank);
    if (s->extent[0] > INT64_MAX || s->extent[1] > INT64_MAX || (rank == 1 && s->extent[1] != 1) ||
        __builtin_mul_overflow((int64_t)s->extent[0], (int64_t)s->extent[1], n) ||
        __builtin_mul_overflow((uint64_t)*n, s->size, &bytes))
        return kv_index_bad(x, *node, e, "its extent overflows; the file is damaged");
    uint64_t row = rank == 2 && s->extent[0] > 0 ? bytes / s->extent[0] : bytes;
    if (!kv_index_fits(x, row))
        return kv_index_bad(x, *node, e,
                            "says to have more numbers than the file can hold; the file is damaged, or cut off");
    return check_place(x, *node, bytes, e);
}

/* ---- attributes ---- */

static const struct kv_attribute *find_attribute(const struct kv_index *x, int32_t group, const char *name)
{
    const struct kv_attribute *a = x->attribute + x->node[group].attribute;
    for (int32_t i = 0; i < x->node[group].n_attributes; i++)
        if (!strcmp(a[i].name, name))
            return a + i;
    return NULL;
}

/* The attribute, which is of that kind, or NULL. */
static const struct kv_attribute *expect(const struct kv_index *x, int32_t group, const char *name, bool text,
                                         bool needed, struct kv_err *e)
{
    const struct kv_attribute *a = find_attribute(x, group, name);
    if (!a && needed)
        kv_index_bad(x, group, e, "there is no attribute '%s'; see traces/FORMAT.md", name);
    if (a && a->values == -1)
        kv_index_bad(x, group, e, "attribute '%s' cannot be read, or is longer than %d bytes", name, KV_INDEX_TEXT);
    else if (a && a->values > 1)
        kv_index_bad(x, group, e, "attribute '%s' has %lld values; expected one", name, (long long)a->values);
    else if (a && (a->values != 1 || text != (a->text != NULL)))
        kv_index_bad(x, group, e, "attribute '%s' is no %s", name, text ? "text" : "integer");
    else
        return a;
    return NULL;
}

bool kv_index_text(const struct kv_index *x, int32_t group, const char *name, const char *fallback, const char **out,
                   struct kv_arena *a, struct kv_err *e)
{
    *out = fallback;
    if (fallback && !find_attribute(x, group, name))
        return true;
    const struct kv_attribute *found = expect(x, group, name, true, true, e);
    if (found)
        *out = kv_copy_text(a, found->text);
    return found != NULL;
}

bool kv_index_int(const struct kv_index *x, int32_t group, const char *name, int64_t low, int64_t high,
                  const int64_t *fallback, int64_t *out, struct kv_err *e)
{
    *out = fallback ? *fallback : 0;
    if (fallback && !find_attribute(x, group, name))
        return true;
    const struct kv_attribute *found = expect(x, group, name, false, true, e);
    if (!found)
        return false;
    *out = found->value;
    return (*out >= low && *out <= high) || kv_index_bad(x, group, e, "attribute '%s' is %lld; expected %lld to %lld",
                                                         name, (long long)*out, (long long)low, (long long)high);
}
