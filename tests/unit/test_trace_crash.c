/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Traces whose writer was killed, files cut off anywhere and files with a wrong bit: what was committed is read as it
 * was written, the rest is refused in bounded time. */
#include "tests/unit/fixture.h"
#include "tests/unit/trace_sample.h"
#include "traces/inside.h"

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

struct fixture {
    struct kv_arena *a;
    struct kv_err e;
    const char *folder, *path, *part, *other;
    uint64_t seed;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->a = kv_arena_open();
    f->folder = make_folder("trace", f->a);
    f->path = kv_format(f->a, "%s/t.kvt.h5", f->folder);
    f->part = kv_format(f->a, "%s.part", f->path);
    f->other = kv_format(f->a, "%s/copy.kvt.h5", f->folder);
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
    long longest = 40000; /* microseconds; more where the machine has not come to a tick by then */
    const char *kills = getenv("KV_KILLS");
    int n_kills = kills ? atoi(kills) : KILLS;
    for (int i = 0; i < n_kills; i++) {
        struct kv_arena *a = kv_arena_open();
        struct kv_err e = {0};
        int n = kill_a_writer(f, 1000 + (long)(draw(f) % (uint64_t)longest), i % 4 == 0);
        if (!n && longest < 2000000)
            longest += longest / 4;
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

/* Which of the sample's channels that is; -1: none, its name is damaged. */
static int own_channel(const struct kv_trace_about *s, const char *name)
{
    for (int i = 0; i < s->n_channels; i++)
        if (!strcmp(s->channel[i].name, name))
            return i;
    return -1;
}

enum verdict { REFUSED, RIGHT, SCALED, WRONG };

/* A row of n numbers, read: as it was written; or its codes are, but not the maximum, which no checksum covers. */
static enum verdict judge(const struct kv_trace_about *s, int own, int64_t tick, int64_t row, const float *read,
                          const struct kv_raw_row *raw, int64_t n)
{
    const struct kv_trace_channel *c = &s->channel[own];
    struct kv_row_facts facts;
    float *expected = malloc((size_t)(n + KV_SLACK) * sizeof *expected);
    uint16_t *code = malloc((size_t)(n + KV_SLACK) * sizeof *code);
    int64_t bad;
    enum verdict v = WRONG;
    for (int64_t i = 0; i < n; i++)
        expected[i] = sample_value(s, own, tick, row, i);
    if (c->encoding > KV_ENC_CODE) {
        sample_expected(s, own, tick, row, n, expected);
        v = !raw->code && !memcmp(read, expected, (size_t)n * sizeof *read) ? RIGHT : WRONG;
    } else if (raw->code && kv_codes_encode(expected, n, c->steps_per_octave, code, &facts, &bad) &&
               !memcmp(raw->code, code, (size_t)n * sizeof *code)) {
        v = !memcmp(&raw->max, &facts.max, sizeof facts.max) ? RIGHT : SCALED;
    }
    free(expected);
    free(code);
    return v;
}

/* Both ways to read a row must agree. */
static bool read_both(struct kv_trace *t, int c, int64_t tick, int64_t row, float *out, struct kv_raw_row *raw,
                      int64_t n, struct kv_trace_work *w, struct kv_err *e)
{
    float *other = malloc((size_t)(n + KV_SLACK) * sizeof *other);
    bool good = kv_trace_row(t, c, tick, row, out, w, e) && kv_trace_row_raw(t, c, tick, row, other, raw, w, e);
    if (good && raw->code)
        kv_codes_decode(raw->code, n, t->about.channel[c].steps_per_octave, raw->max, other);
    if (good)
        assert_memory_equal(out, other, (size_t)n * sizeof *out);
    free(other);
    return good;
}

static enum verdict read_rows(struct kv_trace *t, const struct kv_trace_about *b, const struct kv_trace_about *s, int c,
                              struct kv_trace_work *w, struct kv_err *e)
{
    enum verdict worst = RIGHT;
    int own = own_channel(s, b->channel[c].name);
    for (int64_t i = 0; i < b->n_ticks; i++)
        for (int64_t r = 0; b->channel[c].at[i] && r < b->channel[c].streams; r++) {
            int64_t n = kv_trace_row_length(t, c, i, r) * b->channel[c].elements;
            struct kv_raw_row raw;
            float *row = malloc((size_t)(n + KV_SLACK) * sizeof *row);
            bool good = read_both(t, c, i, r, row, &raw, n, w, e);
            enum verdict v = own >= 0 && good ? judge(s, own, i, r, row, &raw, n) : good ? RIGHT : REFUSED;
            kv_trace_row_sum(t, c, i, r);
            free(row);
            if (!good)
                return REFUSED;
            worst = v > worst ? v : worst;
        }
    return worst;
}

static bool read_lanes(struct kv_trace *t, const struct kv_trace_about *b, struct kv_trace_work *w, struct kv_err *e)
{
    const int32_t *position;
    int64_t n, heads = b->query_lanes ? b->q_heads : b->kv_heads;
    for (int64_t i = 0; b->has_kept && i < b->n_ticks; i++)
        for (int64_t lane = 0; lane < b->layers * heads; lane++)
            if (!kv_trace_slots(t, i, lane / heads, lane % heads, &position, &n, w, e) ||
                !kv_trace_kept(t, i, lane / heads, lane % heads, &position, &n, w, e))
                return false;
    return true;
}

static bool read_prompt(struct kv_trace *t, const struct kv_trace_about *b, struct kv_err *e)
{
    int32_t *ids = calloc((size_t)(b->n_prompt + b->n_output), sizeof *ids);
    float *lp = calloc((size_t)b->n_output + 1, sizeof *lp);
    bool good =
        (!b->has_ids || kv_trace_ids(t, ids, e)) && (!b->has_log_probability || kv_trace_log_probability(t, lp, e));
    free(ids);
    free(lp);
    return good;
}

/* Reads all there is; what is refused is refused with one line. */
static enum verdict read_all(const char *path, bool closed)
{
    struct kv_arena *a = kv_arena_open();
    struct kv_err *e = calloc(1, sizeof *e);
    struct kv_trace *t;
    struct kv_trace_about b, s;
    enum verdict worst = REFUSED;
    sample_about(&s, 1, 0, closed, a);
    if (kv_trace_open(&t, path, &b, a, e)) {
        struct kv_trace_work *w = kv_trace_work_open(t, e);
        worst = read_lanes(t, &b, w, e) && read_prompt(t, &b, e) ? RIGHT : REFUSED;
        for (int c = 0; worst != REFUSED && c < b.n_channels; c++) {
            enum verdict v = read_rows(t, &b, &s, c, w, e);
            worst = v == REFUSED || v > worst ? v : worst;
        }
        kv_trace_work_close(w);
        kv_trace_close(t);
    }
    if (worst == REFUSED ? e->n != 1 || e->status != KV_DATA : e->n != 0)
        fail_msg("%d messages, status %d: %s", e->n, (int)e->status, e->text);
    free(e);
    kv_arena_close(a);
    return worst;
}

/* Bytes are drawn, so that it takes seconds. KV_EVERY=1 takes all of them; KV_TICKS=1 makes the files smaller, and
 * KV_ONLY chooses a test: an hour with address sanitizer. */
static size_t every(size_t size)
{
    const char *text = getenv("KV_EVERY");
    return text ? (size_t)atoi(text) : size / 300 + 1;
}

static void damage(struct fixture *f, bool closed, bool cut)
{
    size_t size, count[4] = {0};
    struct kv_err e = {0};
    const char *ticks = getenv("KV_TICKS");
    if (!sample_write(f->path, closed, ticks ? atoi(ticks) : TICKS, STEP, closed ? KV_FILTER_GZIP : KV_FILTER_ZSTD,
                      f->a, &e))
        fail_msg("%s", e.text);
    uint8_t *data = read_file(f->path, &size);
    size_t step = every(size);
    for (size_t i = draw(f) % step; i < size; i += step) {
        uint8_t bit = (uint8_t)(1 << draw(f) % 8);
        data[i] ^= cut ? 0 : bit;
        write_file(f->other, data, cut ? i : size);
        enum verdict v = read_all(f->other, closed);
        count[v]++;
        if (v == WRONG)
            print_message("# byte %zu, bits %02x: a row is not what was written\n", i, bit);
        data[i] ^= cut ? 0 : bit;
    }
    print_message("# %zu bytes: %zu refused, %zu right, %zu of another maximum, %zu wrong\n", size, count[REFUSED],
                  count[RIGHT], count[SCALED], count[WRONG]);
    free(data);
    assert_int_equal(count[WRONG], 0);
    if (cut)
        assert_int_equal(count[RIGHT] + count[SCALED], 0);
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
    if (getenv("KV_ONLY"))
        cmocka_set_test_filter(getenv("KV_ONLY"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
