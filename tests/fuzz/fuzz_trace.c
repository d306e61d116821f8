/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Any bytes as a trace file: opened, and every row read that is not too long. */
#include "sim/core/select.h"
#include "tests/fuzz/fuzz.h"
#include "traces/trace.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MOST_NUMBERS = 1 << 20, MOST_ROWS = 2048 };

/* What the HDF5 library loses of a damaged file is not ours. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libhdf5\n";
}

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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    struct kv_arena *a = kv_arena_open();
    struct kv_err e = {0};
    struct kv_trace *t;
    struct kv_trace_about about;
    int file = memfd_create("trace", 0);
    if (file < 0 || (size && write(file, data, size) != (ssize_t)size))
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    bool good = kv_trace_open(&t, path, &about, a, &e);
    if (good) {
        struct kv_trace_work *w = kv_trace_work_open(t, &e);
        good = w && read_rows(t, &about, w, &e) && read_lanes(t, &about, w, &e);
        kv_trace_work_close(w);
        kv_trace_close(t);
    }
    KV_ASSERT(good ? e.n == 0 : e.n == 1 && e.status == KV_DATA);
    close(file);
    kv_arena_close(a);
    return 0;
}
