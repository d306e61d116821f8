/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Any bytes as a head mask. The first two choose layers and heads, the third the sparsity; the rest is the file. */
#include "sim/core/mask.h"
#include "tests/fuzz/fuzz.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Rows are lines with something in them, cells are parted by blanks and tabs: as many as were asked for. */
static void check_shape(const struct kv_mask *m, const char *text, struct kv_arena *a)
{
    int64_t rows = 0;
    while (*text) {
        size_t length = strcspn(text, "\n");
        size_t end = length;
        while (end && text[end - 1] == '\r')
            end--;
        char *line = kv_copy_part(a, text, end), *rest;
        int64_t cells = 0;
        for (char *cell = strtok_r(line, " \t", &rest); cell; cell = strtok_r(NULL, " \t", &rest), cells++) {
            char *stop;
            double gate = strtod(cell, &stop);
            KV_ASSERT(!isspace((unsigned char)*cell) && !*stop && rows < m->layers && cells < m->heads);
            KV_ASSERT(m->gate[rows * m->heads + cells] == (gate < 0 ? 0 : gate > 1 ? 1 : gate));
        }
        KV_ASSERT(cells == 0 || cells == m->heads);
        rows += cells > 0;
        text += length + (text[length] == '\n');
    }
    KV_ASSERT(rows == m->layers);
}

static int64_t count(const bool *full, int64_t lanes)
{
    int64_t n = 0;
    for (int64_t i = 0; i < lanes; i++)
        n += full[i];
    return n;
}

static void check_choice(const struct kv_mask *m, double sparsity, struct kv_arena *a)
{
    int64_t lanes = m->layers * m->heads, ties = -1, ones = 0;
    bool *full = KV_NEW_N(a, bool, lanes);
    kv_mask_by_quantile(m, sparsity, full, &ties, a);
    int64_t n = count(full, lanes);
    KV_ASSERT(n == (sparsity >= 1 ? 0 : sparsity <= 0 ? lanes : lanes - (int64_t)ceil(sparsity * (double)(lanes - 1))));
    KV_ASSERT(ties >= 0 && ties <= n);
    for (int64_t i = 0; i < lanes; i++)
        for (int64_t j = 0; j < lanes; j++)
            /* cppcheck-suppress arrayIndexThenCheck -- i < j is an order of lanes */
            KV_ASSERT(!(full[i] && !full[j]) || m->gate[i] > m->gate[j] || (m->gate[i] == m->gate[j] && i < j));
    kv_mask_synthetic(m->layers, m->heads, sparsity, full);
    KV_ASSERT(count(full, lanes) == n);
    kv_mask_by_threshold(m, 0.5, full);
    for (int64_t i = 0; i < lanes; i++)
        ones += m->gate[i] > 0.5;
    KV_ASSERT(count(full, lanes) == ones);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3)
        return 0;
    struct kv_arena *a = kv_arena_open();
    struct kv_err e = {0};
    struct kv_mask mask;
    int64_t layers = 1 + data[0] % 8, heads = 1 + data[1] % 8;
    const char *text = kv_copy_part(a, (const char *)data + 3, size - 3);
    int file = memfd_create("mask", 0);
    if (file < 0 || write(file, data + 3, size - 3) != (ssize_t)(size - 3))
        abort();
    if (kv_mask_read(kv_format(a, "/proc/self/fd/%d", file), layers, heads, 4 * heads, &mask, a, &e)) {
        KV_ASSERT(e.n == 0 && mask.layers == layers && mask.heads == heads && strlen(text) == size - 3);
        check_shape(&mask, text, a);
        check_choice(&mask, data[2] / 200.0, a);
    } else {
        KV_ASSERT(e.n == 1 && e.status == KV_DATA && e.length > 0);
    }
    close(file);
    kv_arena_close(a);
    return 0;
}
