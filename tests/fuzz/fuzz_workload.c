/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Any bytes as a file of requests. The first byte chooses the format (0: by the first line), whether bad rows are
 * skipped and rows are sorted; the rest is the file. What was read is read again, and read back from our own CSV. */
#include "sim/workload/rows.h"
#include "sim/workload/store.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void check_arrival(const struct kv_arrival *r, double last_s)
{
    KV_ASSERT(isfinite(r->arrival_s) && r->arrival_s >= last_s && r->turn == 0 && r->context == 0 && !r->follows);
    KV_ASSERT(r->prompt >= 1 && r->prompt <= KV_ROW_MOST_TOKENS && r->output >= 1 && r->output <= KV_ROW_MOST_TOKENS);
    if (r->n_blocks) {
        int64_t whole = r->prompt / r->block_tokens;
        KV_ASSERT(r->block && (r->n_blocks == whole || r->n_blocks == whole + 1));
    }
}

/* A number that two readings of the same requests share. */
static uint64_t fingerprint(const struct kv_arrival *r, uint64_t h)
{
    int64_t words[] = {llrint(r->arrival_s * 1e9), r->prompt, r->output, r->n_blocks};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        h = (h ^ (uint64_t)words[i]) * UINT64_C(0x100000001b3);
    for (int64_t i = 0; i < r->n_blocks; i++)
        h = (h ^ r->block[i]) * UINT64_C(0x100000001b3);
    return h;
}

struct reading {
    int64_t rows, bad, skipped;
    uint64_t fingerprint;
};

static struct reading read_all(struct kv_workload *w, bool skip)
{
    struct reading all = {0};
    struct kv_err *e = calloc(1, sizeof *e);
    KV_ASSERT(e);
    struct kv_arrival r;
    double last_s = 0;
    for (enum kv_next next; (next = kv_workload_next(w, &r, e)) != KV_NEXT_END;) {
        if (next == KV_NEXT_BAD) {
            KV_ASSERT(e->n > 0 && e->status == KV_DATA && e->length > 0);
            all.bad++;
            continue;
        }
        check_arrival(&r, last_s);
        last_s = r.arrival_s;
        all.rows++;
        all.fingerprint = fingerprint(&r, all.fingerprint);
    }
    KV_ASSERT(all.bad == e->n);
    all.skipped = kv_workload_skipped(w);
    KV_ASSERT(skip || !all.skipped);
    free(e);
    return all;
}

static bool open_file(struct kv_workload **w, struct kv_settings *s, int file, const char *format, bool skip,
                      struct kv_arena *a, struct kv_err *e)
{
    struct kv_setting setting[] = {
        {.key = "trace", .value = kv_format(a, "/proc/self/fd/%d", file), .where = "fuzz:"},
        {.key = "format", .value = format, .where = "fuzz:"},
        {.key = "skip_bad", .value = skip ? "true" : "false", .where = "fuzz:"},
    };
    KV_ASSERT(kv_settings_of_workload(setting, 3, s, a, e));
    return kv_workload_open_lengths(w, s, 1, a, e);
}

/* Stored and read back: the same requests. */
static void check_stored(struct kv_workload *w, const struct reading *all, struct kv_arena *a)
{
    struct kv_err *e = KV_NEW(a, struct kv_err);
    struct kv_settings *s = KV_NEW(a, struct kv_settings);
    int64_t written;
    KV_ASSERT(kv_workload_rewind(w, e));
    int file = memfd_create("stored", 0);
    FILE *out = fdopen(file, "w");
    KV_ASSERT(out && kv_workload_store(w, kv_workload_has_times(w), out, &written, e) && fflush(out) == 0);
    KV_ASSERT(written == all->rows);
    struct kv_workload *back;
    KV_ASSERT(open_file(&back, s, file, "auto", false, a, e));
    struct reading again = read_all(back, false);
    KV_ASSERT(again.rows == all->rows && again.bad == 0 && again.fingerprint == all->fingerprint);
    kv_workload_close(back);
    fclose(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    unsigned choice = data[0];
    bool skip = choice & 8, sort = choice & 16;
    struct kv_arena *a = kv_arena_open();
    struct kv_err *e = KV_NEW(a, struct kv_err);
    struct kv_settings *s = KV_NEW(a, struct kv_settings);
    int file = memfd_create("workload", 0);
    if (file < 0 || write(file, data + 1, size - 1) != (ssize_t)(size - 1))
        abort();
    struct kv_workload *w;
    if (!open_file(&w, s, file, kv_format_names[(choice & 7) % KV_FORMATS], skip, a, e) ||
        (sort && !kv_workload_sort(w, e))) {
        KV_ASSERT(e->n > 0 && e->status == KV_DATA && e->length > 0);
    } else {
        struct reading all = read_all(w, skip);
        KV_ASSERT(!e->n && kv_workload_rewind(w, e));
        struct reading again = read_all(w, skip);
        KV_ASSERT(again.rows == all.rows && again.bad == all.bad && again.fingerprint == all.fingerprint);
        if (!all.bad && all.rows)
            check_stored(w, &all, a);
    }
    kv_workload_close(w);
    close(file);
    kv_arena_close(a);
    return 0;
}
