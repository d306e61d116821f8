/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Any bytes as a trace file: opened, and every row read that is not too long. Bytes that begin with KV_INDEX_MAGIC are
 * an index, as a child process would have sent it, its size in the 8 bytes behind the magic, and the file it is of: so
 * the reader's own code is reached without a process for each input. */
#include "sim/core/select.h"
#include "tests/fuzz/fuzz.h"
#include "traces/inside.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MOST_NUMBERS = 1 << 20, MOST_ROWS = 2048, MOST_PROMPT = 1 << 20 };

static bool read_rows(struct kv_trace *t, const struct kv_trace_about *b, struct kv_trace_work *w, struct kv_err *e)
{
    int64_t numbers = 0, rows = 0;
    for (int c = 0; c < b->n_channels; c++)
        for (int64_t i = 0; i < b->n_ticks; i++)
            for (int64_t s = 0; b->channel[c].at[i] && s < b->channel[c].streams; s++) {
                int64_t n = kv_trace_row_length(t, c, i, s) * b->channel[c].elements;
                numbers += n;
                if (numbers > MOST_NUMBERS || rows++ > MOST_ROWS)
                    return true;
                float *row = malloc((size_t)(n + KV_SLACK) * sizeof *row);
                bool good = kv_trace_row(t, c, i, s, row, w, e);
                for (int64_t k = 0; good && k < n; k++)
                    KV_ASSERT(!isnan(row[k]));
                free(row);
                if (!good)
                    return false;
                kv_trace_row_sum(t, c, i, s);
            }
    return true;
}

static bool read_lanes(struct kv_trace *t, const struct kv_trace_about *b, struct kv_trace_work *w, struct kv_err *e)
{
    const int32_t *position;
    int64_t n;
    for (int64_t i = 0; b->has_kept && i < b->n_ticks && i < 64; i++)
        for (int64_t layer = 0; layer < b->layers && layer < 16; layer++)
            if (!kv_trace_slots(t, i, layer, 0, &position, &n, w, e) ||
                !kv_trace_kept(t, i, layer, 0, &position, &n, w, e))
                return false;
    return true;
}

static bool read_prompt(struct kv_trace *t, const struct kv_trace_about *b, struct kv_err *e)
{
    int64_t n = b->n_prompt + b->n_output;
    if (n > MOST_PROMPT)
        return true;
    float *numbers = malloc((size_t)n * sizeof *numbers);
    bool good = (!b->has_ids || kv_trace_ids(t, (int32_t *)numbers, e)) &&
                (!b->has_log_probability || kv_trace_log_probability(t, numbers, e));
    free(numbers);
    return good;
}

static int file_of(const uint8_t *data, size_t size)
{
    int file = memfd_create("trace", MFD_CLOEXEC);
    if (file < 0 || (size && write(file, data, size) != (ssize_t)size))
        abort();
    return file;
}

/* An index and its file. */
static bool take(struct kv_trace **t, const uint8_t *data, size_t size, struct kv_trace_about *about,
                 struct kv_arena *a, struct kv_err *e)
{
    uint64_t n;
    memcpy(&n, data + 8, 8);
    n = n > size - 16 ? size - 16 : n;
    uint8_t *index = malloc(n + 8);
    memcpy(index, KV_INDEX_MAGIC, 8);
    memcpy(index + 8, data + 16, n);
    size_t rest = size - 16 - n;
    return kv_trace_take(t, "fuzz", file_of(data + 16 + n, rest), (int64_t)rest, index, n + 8, about, a, e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    struct kv_arena *a = kv_arena_open();
    struct kv_err e = {0};
    struct kv_trace *t;
    struct kv_trace_about about;
    int file = -1;
    bool good;
    if (size >= 16 && !memcmp(data, KV_INDEX_MAGIC, 8)) {
        good = take(&t, data, size, &about, a, &e);
    } else {
        file = file_of(data, size);
        snprintf(path, sizeof path, "/proc/self/fd/%d", file);
        good = kv_trace_open(&t, path, &about, a, &e);
    }
    if (good) {
        struct kv_trace_work *w = kv_trace_work_open(t, &e);
        good = w && read_rows(t, &about, w, &e) && read_lanes(t, &about, w, &e) && read_prompt(t, &about, &e);
        kv_trace_work_close(w);
        kv_trace_close(t);
    }
    KV_ASSERT(good ? e.n == 0 : e.n == 1 && e.status == KV_DATA);
    if (file >= 0)
        close(file);
    kv_arena_close(a);
    return 0;
}
