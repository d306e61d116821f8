/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Rows for a fit. Whole passes are rows as they are. Tables of parts (kernels, layers) are no steps: there, steps of
 * many sizes are asked for, and those that lie within the tables are the rows. A model fitted to them has the tables'
 * error on top of its own. */
#include "sim/serve/fit.h"
#include "sim/core/hash.h"
#include "sim/output.h"
#include "sim/serve/timed_pass.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MOST_FIT_ROWS = 1 << 20 };

struct rows {
    struct kv_fit_row **row;
    int *n;
};

static bool add(struct rows *r, const struct kv_fit_row *row, struct kv_err *e)
{
    if (!(*r->n & (*r->n - 1))) { /* at 0 and at powers of two: twice the room */
        size_t room = *r->n ? 2 * (size_t)*r->n : 1;
        struct kv_fit_row *grown = *r->n < MOST_FIT_ROWS ? realloc(*r->row, room * sizeof *grown) : NULL;
        if (!grown)
            return kv_fail(e, KV_ENV, "no memory for %zu rows", room);
        *r->row = grown;
    }
    (*r->row)[(*r->n)++] = *row;
    return true;
}

static bool add_passes(struct rows *r, const char *path, const struct kv_model *m, struct kv_arena *a, struct kv_err *e)
{
    struct kv_timed_pass *pass = NULL;
    int n;
    bool good = kv_timed_passes_read(path, m, &pass, &n, a, e);
    for (int i = 0; good && i < n; i++) {
        struct kv_step_chunk chunk = {pass[i].tokens, (double)pass[i].prefix};
        struct kv_step step = {.tokens = pass[i].batch * pass[i].tokens, .sequences = pass[i].batch, .chunk = &chunk};
        struct kv_fit_row row;
        kv_timed_pass_evicted(&pass[i], m, &step.moved_bytes, &step.scored_bytes);
        step.n_chunks = pass[i].kind == KV_TIMED_PREFILL;
        if (pass[i].kind == KV_TIMED_DECODE) {
            step.decodes = pass[i].batch;
            step.decode_kv = (double)(pass[i].batch * kv_timed_pass_length(&pass[i]));
        }
        kv_fit_row_of(&row, &step, pass[i].seconds);
        if (pass[i].kind == KV_TIMED_SCORES || pass[i].kind == KV_TIMED_EVICT) {
            double moved = row.x[KV_FIT_MOVED], scored = row.x[KV_FIT_SCORED];
            row = (struct kv_fit_row){.s = pass[i].seconds, .kind = KV_FIT_EVICTION};
            row.x[KV_FIT_MOVED] = moved; /* what it adds to a pass: no base, no tokens */
            row.x[KV_FIT_SCORED] = scored;
        }
        good = add(r, &row, e);
    }
    return good;
}

static bool add_step(struct rows *r, const struct kv_timing *t, const struct kv_step *step, struct kv_err *e)
{
    struct kv_step_time out;
    struct kv_fit_row row;
    if (!kv_timing_step(t, step, &out, e))
        return false;
    if (out.outside > 1)
        return true;
    kv_fit_row_of(&row, step, out.s);
    return add(r, &row, e);
}

/* Geometric sizes: 0 or `from` first, up to `most`. */
struct sizes {
    int64_t from, most;
    double ratio;
    bool none; /* 0 comes before the first */
};

static int64_t first_size(const struct sizes *s)
{
    return s->none ? 0 : s->from;
}

static int64_t next_size(const struct sizes *s, int64_t at)
{
    return at ? llrint((double)at * s->ratio) : s->from;
}

static bool add_grid(struct rows *r, const struct kv_timing *t, const struct sizes size[4], struct kv_err *e)
{
    const struct sizes *chunks = &size[0], *prefixes = &size[1], *decodes = &size[2], *lengths = &size[3];
    bool good = true;
    for (int64_t c = first_size(chunks); good && c <= chunks->most; c = next_size(chunks, c))
        for (int64_t p = first_size(prefixes); good && p <= prefixes->most; p = next_size(prefixes, p))
            for (int64_t n = first_size(decodes); good && n <= decodes->most; n = next_size(decodes, n))
                for (int64_t k = first_size(lengths); good && k <= lengths->most; k = next_size(lengths, k)) {
                    struct kv_step_chunk chunk = {c, (double)p};
                    struct kv_step step = {.tokens = c + n,
                                           .sequences = n + !!c,
                                           .decodes = n,
                                           .decode_kv = (double)(n * k),
                                           .decode_kv_squares = (double)(n * k) * (double)k,
                                           .chunk = &chunk,
                                           .n_chunks = !!c};
                    good = add_step(r, t, &step, e);
                }
    return good;
}

/* Decodes, chunks, and both, in numbers of the same order: rows are the weights of a fit. */
static bool add_steps(struct rows *r, const struct kv_timing *t, struct kv_err *e)
{
    static const struct sizes grid[3][4] = {
        {{1, 0, 2, true}, {1, 0, 2, true}, {1, 1024, 2, false}, {64, 1 << 17, 1.4142135623730951, false}},
        {{16, 8192, 1.4142135623730951, false}, {256, 1 << 17, 2, true}, {1, 0, 2, true}, {1, 0, 2, true}},
        {{16, 8192, 4, false}, {512, 1 << 17, 8, true}, {1, 512, 4, false}, {128, 1 << 17, 8, false}},
    };
    bool good = true;
    for (int i = 0; good && i < 3; i++)
        good = add_grid(r, t, grid[i], e);
    return good;
}

/* A path that an INI file can hold: one line, no comment in it, its end where it is too long. */
static const char *ini_path(const char *path, struct kv_arena *a)
{
    enum { MOST = 150 };
    size_t n = strlen(path);
    char *copy = kv_format(a, "%s%s", n > MOST ? "..." : "", n > MOST ? path + n - MOST : path);
    for (char *c = copy; *c; c++)
        if ((unsigned char)*c < ' ' || *c == ';')
            *c = '?';
    return copy;
}

static const char *hash_of_all(const char *const *file, struct kv_arena *a)
{
    uint64_t h = KV_HASH_START;
    for (; *file; file++) {
        const char *own = kv_file_hash(*file, a);
        h = kv_hash(h, own, strlen(own));
    }
    return kv_format(a, "%016llx", (unsigned long long)h);
}

bool kv_fit_rows(const char *path, const struct kv_settings *s, const struct kv_model *m, struct kv_fit_source *source,
                 struct kv_fit_row **row, int *n, struct kv_arena *a, struct kv_err *e)
{
    struct rows r = {row, n};
    struct stat file;
    struct kv_timing *t;
    int before = *n;
    struct kv_settings *own = KV_NEW(a, struct kv_settings);
    bool folder = !stat(path, &file) && S_ISDIR(file.st_mode), good;
    *source = (struct kv_fit_source){.path = ini_path(path, a)};
    if (folder) {
        *own = *s;
        own->timing.model = KV_TIMING_TABLE;
        own->timing.profile = path;
        own->timing.on_missing = KV_MISSING_EXTRAPOLATE;
        own->timing.step_overhead = 0; /* added when the fitted model is used */
        good = kv_timing_open(&t, own, m, a, e) && add_steps(&r, t, e);
        source->hash = good ? hash_of_all(kv_timing_files(t), a) : NULL;
    } else {
        good = add_passes(&r, path, m, a, e);
        source->hash = kv_file_hash(path, a);
    }
    source->rows = *n - before;
    return good;
}
