/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Traces whose writer was killed, files cut off anywhere and files with a wrong bit: what was committed is read as it
 * was written, the rest is refused in bounded time. */
#include "tests/unit/trace_sample.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { KILLS = 100, STEP = 3, TICKS = 3, ENDLESS = 400 };

/* What the HDF5 library loses of a damaged file is not ours. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libhdf5\n";
}

struct fixture {
    struct kv_arena *a;
    struct kv_err e;
    const char *folder, *path, *part, *other;
    uint64_t seed;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    const char *tmp = getenv("KV_TMP");
    f->a = kv_arena_open();
    char *folder = kv_format(f->a, "%s/traceXXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(folder));
    f->folder = folder;
    f->path = kv_format(f->a, "%s/t.kvt.h5", folder);
    f->part = kv_format(f->a, "%s.part", f->path);
    f->other = kv_format(f->a, "%s/copy.kvt.h5", folder);
    f->seed = 20260101;
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    unlink(f->path);
    unlink(f->part);
    unlink(f->other);
    rmdir(f->folder);
    kv_arena_close(f->a);
    free(f);
    return 0;
}

static uint64_t draw(struct fixture *f)
{
    f->seed = f->seed * 6364136223846793005 + 1442695040888963407;
    return f->seed >> 33;
}

/* ---- killed writers ---- */

/* Says the number of committed ticks after each. */
static _Noreturn void write_until_killed(struct fixture *f, int out, bool closed)
{
    static struct kv_err e;
    struct kv_trace_about b;
    struct kv_trace_writer *w;
    sample_about(&b, ENDLESS * STEP, 0, closed, f->a);
    if (!kv_trace_create(&w, f->path, &b, KV_FILTER_ZSTD, 1, &e))
        _exit(1);
    for (int64_t t = 0; t < ENDLESS; t++) {
        struct kv_tick tick = sample_tick(&b, t, STEP);
        if (!sample_put_tick(w, &b, &tick, t, &e) || (t % 3 == 2 && !sample_put_later(w, &b, t - 2, STEP, &e)))
            _exit(1);
        char one = 1;
        if (write(out, &one, 1) != 1)
            _exit(1);
    }
    _exit(0);
}

/* Starts a writer, kills it after `microseconds`; returns how many ticks it said to have committed. */
static int kill_a_writer(struct fixture *f, long microseconds, bool closed)
{
    int pipes[2], n = 0;
    char text[64];
    unlink(f->part);
    assert_int_equal(pipe(pipes), 0);
    pid_t child = fork();
    if (child == 0)
        write_until_killed(f, pipes[1], closed);
    close(pipes[1]);
    struct timespec pause = {microseconds / 1000000, microseconds % 1000000 * 1000};
    nanosleep(&pause, NULL);
    kill(child, SIGKILL);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    for (ssize_t got; (got = read(pipes[0], text, sizeof text)) > 0;)
        n += (int)got;
    close(pipes[0]);
    return n;
}

static void what_was_committed_survives_a_kill(void **state)
{
    struct fixture *f = *state;
    int with_ticks = 0, lost = 0;
    const char *kills = getenv("KV_KILLS");
    int n_kills = kills ? atoi(kills) : KILLS;
    for (int i = 0; i < n_kills; i++) {
        struct kv_arena *a = kv_arena_open();
        struct kv_err e = {0};
        int n = kill_a_writer(f, 1000 + (long)(draw(f) % 40000), i % 4 == 0);
        if (n > 0) {
            with_ticks++;
            if (!sample_check(f->part, n, a, &e)) {
                print_message("kill %d, %d ticks: %s\n", i, n, e.text);
                lost++;
            } else if (!kv_trace_copy(f->part, f->other, KV_FILTER_ZSTD, -1, a, &e) ||
                       !sample_check(f->other, n, a, &e)) {
                print_message("kill %d, %d ticks, copied: %s\n", i, n, e.text);
                lost++;
            }
        }
        kv_arena_close(a);
    }
    assert_int_equal(lost, 0);
    assert_true(with_ticks > n_kills / 2);
}

/* ---- damaged files ---- */

static uint8_t *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    uint8_t *data = malloc(*size);
    assert_int_equal(fread(data, 1, *size, file), *size);
    fclose(file);
    return data;
}

static void write_file(const char *path, const uint8_t *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

/* Reads all there is; what is refused is refused with one line. */
static bool read_all(const char *path)
{
    struct kv_arena *a = kv_arena_open();
    struct kv_err *e = calloc(1, sizeof *e);
    struct kv_trace *t;
    struct kv_trace_about b;
    bool good = kv_trace_open(&t, path, &b, a, e);
    if (good) {
        struct kv_trace_work *w = kv_trace_work_open(t, e);
        for (int c = 0; good && c < b.n_channels; c++)
            for (int64_t i = 0; good && i < b.n_ticks; i++)
                for (int64_t s = 0; good && b.channel[c].at[i] && s < b.channel[c].streams; s++) {
                    int64_t n = kv_trace_row_length(t, c, i, s) * b.channel[c].elements;
                    float *row = malloc((size_t)(n + KV_SLACK) * sizeof *row);
                    good = kv_trace_row(t, c, i, s, row, w, e);
                    free(row);
                }
        kv_trace_work_close(w);
        kv_trace_close(t);
    }
    if (!good && (e->n != 1 || e->status != KV_DATA))
        fail_msg("%d messages, status %d: %s", e->n, (int)e->status, e->text);
    free(e);
    kv_arena_close(a);
    return good;
}

/* Bytes are drawn, so that it takes seconds; KV_EVERY=1 takes all of them, which takes an hour. */
static size_t every(size_t size)
{
    const char *text = getenv("KV_EVERY");
    return text ? (size_t)atoi(text) : size / 300 + 1;
}

static void damage(struct fixture *f, bool closed, bool cut)
{
    size_t size;
    struct kv_err e = {0};
    if (!sample_write(f->path, closed, TICKS, STEP, closed ? KV_FILTER_GZIP : KV_FILTER_ZSTD, f->a, &e))
        fail_msg("%s", e.text);
    uint8_t *data = read_file(f->path, &size);
    size_t refused = 0, step = every(size);
    for (size_t i = draw(f) % step; i < size; i += step) {
        uint8_t bit = (uint8_t)(1 << draw(f) % 8);
        data[i] ^= cut ? 0 : bit;
        write_file(f->other, data, cut ? i : size);
        refused += !read_all(f->other);
        data[i] ^= cut ? 0 : bit;
    }
    print_message("# %zu bytes, %zu refused\n", size, refused);
    free(data);
}

static void a_file_cut_off_anywhere_is_refused(void **state)
{
    damage(*state, false, true);
    damage(*state, true, true);
}

static void a_wrong_bit_anywhere_does_no_harm(void **state)
{
    damage(*state, false, false);
    damage(*state, true, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_was_committed_survives_a_kill, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_file_cut_off_anywhere_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_wrong_bit_anywhere_does_no_harm, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
