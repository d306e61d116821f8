/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/core/mask.h"

#include "sim/core/line.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* A line holds at most this; a row of 128 heads printed with 18 decimals takes 3.3 kB. */
enum { LINE_BYTES = 1 << 20 };

static const char *find_file(const char *path, struct kv_arena *a)
{
    static const char *const names[] = {"full_attention_heads.tsv", "masks.tsv"};
    struct stat st;
    if (stat(path, &st) || !S_ISDIR(st.st_mode))
        return path;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *file = kv_format(a, "%s/%s", path, names[i]);
        if (!stat(file, &st))
            return file;
    }
    return kv_format(a, "%s/%s", path, names[0]);
}

/* One row; `row` is the layer, for messages the line is row + 1. */
static bool read_row(const char *path, char *line, int64_t row, int64_t q_heads, struct kv_mask *m, struct kv_err *e)
{
    long number = (long)row + 1;
    int64_t n = 0;
    for (char *c = line + strspn(line, " \t"); *c; c += strspn(c, " \t")) {
        char *end;
        double gate = strtod(c, &end);
        size_t cell = strcspn(c, " \t");
        if (isspace((unsigned char)*c) || end != c + cell || !isfinite(gate)) /* strtod passes over \v and the like */
            return kv_fail(e, KV_DATA, "%s:%ld:%ld: '%.*s' is not a number", path, number, (long)(c - line) + 1,
                           (int)(cell < 40 ? cell : 40), c);
        if (n < m->heads && row < m->layers)
            m->gate[row * m->heads + n] = gate < 0 ? 0 : gate > 1 ? 1 : gate;
        n++;
        c += cell;
    }
    if (n == m->heads)
        return true;
    if (n == q_heads)
        return kv_fail(
            e, KV_DATA,
            "%s:%ld: %lld columns, but the model has %lld KV heads; this looks like a mask of its %lld "
            "query heads: a KV head is full when one of its %lld query heads must be, so give one column for "
            "each group",
            path, number, (long long)n, (long long)m->heads, (long long)q_heads, (long long)(q_heads / m->heads));
    return kv_fail(e, KV_DATA,
                   "%s:%ld: %lld columns, but the model has %lld KV heads; use the mask trained for this model", path,
                   number, (long long)n, (long long)m->heads);
}

bool kv_mask_read(const char *path, int64_t layers, int64_t heads, int64_t q_heads, struct kv_mask *mask,
                  struct kv_arena *a, struct kv_err *e)
{
    path = find_file(path, a);
    *mask = (struct kv_mask){.path = path, .layers = layers, .heads = heads, .binary = true};
    mask->gate = kv_alloc_many(a, (size_t)(layers * heads), sizeof *mask->gate, "a head mask", e);
    if (!mask->gate)
        return false;
    FILE *in = fopen(path, "r");
    if (!in)
        return kv_fail(e, KV_DATA, "cannot open mask '%s': %s", path, strerror(errno));
    char *line = NULL;
    size_t room = 0;
    int64_t rows = 0;
    long number = 0, gap = 0;
    bool good = true;
    for (long length; good && (length = kv_read_line(in, &line, &room, LINE_BYTES)) != KV_LINE_END;) {
        if (length == KV_LINE_NO_MEMORY) {
            good = kv_fail(e, KV_ENV, "no memory for a line of mask '%s'", path);
            break;
        }
        if (length > LINE_BYTES || memchr(line, 0, (size_t)length)) {
            good = kv_fail(e, KV_DATA, "%s:%ld: not a line of tab-separated numbers", path, number + 1);
            break;
        }
        while (length && (line[length - 1] == '\n' || line[length - 1] == '\r'))
            line[--length] = '\0';
        number++;
        if (!line[strspn(line, " \t")]) { /* fine at the end, where editors leave them */
            gap = gap ? gap : number;
            continue;
        }
        good = gap ? kv_fail(e, KV_DATA, "%s:%ld: an empty line among the rows; remove it", path, gap)
                   : read_row(path, line, rows++, q_heads, mask, e);
    }
    if (good && ferror(in))
        good = kv_fail(e, KV_DATA, "cannot read mask '%s': %s", path, strerror(errno));
    free(line);
    fclose(in);
    if (good && rows != layers)
        good =
            kv_fail(e, KV_DATA, "%s%s: %lld rows, but the model has %lld layers; use the mask trained for this model",
                    path, rows ? kv_format(a, ":%lld", (long long)rows) : "", (long long)rows, (long long)layers);
    for (int64_t i = 0; good && i < layers * heads; i++)
        mask->binary &= mask->gate[i] == 0 || mask->gate[i] == 1;
    return good;
}

/* Lanes and their gates, to be sorted: highest gate, then lower lane. */
struct ranked {
    double gate;
    int64_t lane;
};

static int by_rank(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->gate != y->gate)
        return x->gate > y->gate ? -1 : 1;
    return x->lane < y->lane ? -1 : x->lane > y->lane;
}

static int64_t full_heads(int64_t lanes, double sparsity)
{
    if (sparsity >= 1)
        return 0;
    if (sparsity <= 0)
        return lanes;
    return lanes - (int64_t)ceil(sparsity * (double)(lanes - 1));
}

void kv_mask_by_quantile(const struct kv_mask *mask, double sparsity, bool *full, int64_t *ties, struct kv_arena *a)
{
    int64_t lanes = mask->layers * mask->heads, n = full_heads(lanes, sparsity);
    struct ranked *order = KV_NEW_N(a, struct ranked, lanes);
    for (int64_t i = 0; i < lanes; i++)
        order[i] = (struct ranked){mask->gate[i], i};
    qsort(order, (size_t)lanes, sizeof *order, by_rank);
    for (int64_t i = 0; i < lanes; i++)
        full[order[i].lane] = i < n;
    *ties = 0;
    if (n > 0 && n < lanes && order[n - 1].gate == order[n].gate)
        for (int64_t i = n - 1; i >= 0 && order[i].gate == order[n].gate; i--)
            ++*ties;
}

void kv_mask_by_threshold(const struct kv_mask *mask, double threshold, bool *full)
{
    for (int64_t i = 0; i < mask->layers * mask->heads; i++)
        full[i] = mask->gate[i] > threshold;
}

void kv_mask_synthetic(int64_t layers, int64_t heads, double sparsity, bool *full)
{
    int64_t lanes = layers * heads, n = full_heads(lanes, sparsity);
    for (int64_t i = 0; i < lanes; i++)
        full[i] = (i + 1) * n / lanes > i * n / lanes;
}
