/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Trace files: what is written is read; files as h5py makes them are read; what is said of others. */
#include "tests/unit/fixture.h"
#include "tests/unit/trace_sample.h"

#include <hdf5.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
    struct kv_arena *a;
    struct kv_err e;
    const char *folder, *path, *other;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->a = kv_arena_open();
    f->folder = make_folder("trace", f->a);
    f->path = kv_format(f->a, "%s/t.kvt.h5", f->folder);
    f->other = kv_format(f->a, "%s/u.kvt.h5", f->folder);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    unlink(f->path);
    unlink(f->other);
    unlink(kv_format(f->a, "%s.part", f->path));
    rmdir(f->folder);
    kv_arena_close(f->a);
    free(f);
    return 0;
}

static void must(struct fixture *f, bool good)
{
    if (!good)
        fail_msg("%s", f->e.text);
}

/* ---- round trips ---- */

static void what_is_written_is_read(void **state)
{
    struct fixture *f = *state;
    for (int filter = KV_FILTER_NONE; filter <= KV_FILTER_GZIP; filter++)
        for (int closed = 0; closed < 2; closed++) {
            must(f, sample_write(f->path, closed, 4, 5, (enum kv_filter)filter, f->a, &f->e));
            must(f, sample_check(f->path, 4, f->a, &f->e));
            assert_int_equal(access(kv_format(f->a, "%s.part", f->path), F_OK), -1);
        }
}

static void long_rows_and_few_of_them(void **state)
{
    struct fixture *f = *state;
    must(f, sample_write(f->path, false, 2, 20001, KV_FILTER_ZSTD, f->a, &f->e)); /* several bands, odd lengths */
    must(f, sample_check(f->path, 2, f->a, &f->e));
}

static void what_it_is_about_is_read(void **state)
{
    struct fixture *f = *state;
    struct kv_trace *t;
    struct kv_trace_about b;
    must(f, sample_write(f->path, false, 4, 5, KV_FILTER_ZSTD, f->a, &f->e));
    must(f, kv_trace_open(&t, f->path, &b, f->a, &f->e));
    assert_string_equal(b.producer, "test");
    assert_string_equal(b.model, "tiny");
    assert_string_equal(b.policy, "full");
    assert_true(b.complete && b.has_ids && b.has_log_probability && !b.has_kept);
    assert_int_equal(b.layers * 1000 + b.q_heads * 100 + b.kv_heads * 10 + b.head_dim, 2424);
    assert_int_equal(b.n_prompt, 19);
    assert_int_equal(b.n_output, 2);
    assert_int_equal(b.n_ticks, 4);
    assert_int_equal(b.tick[3].begin, 15);
    assert_int_equal(b.tick[3].end, 20);
    assert_int_equal(b.tick[3].kind, KV_TICK_PREFILL);
    assert_int_equal(b.tick[3].end_ns, 35);
    assert_int_equal(b.tick[3].kv_bytes, 2000);
    assert_int_equal(b.n_marks, 2);
    assert_string_equal(b.mark[0].name, "first needle");
    assert_int_equal(b.mark[1].end, 3);
    assert_int_equal(b.n_channels, SAMPLE_CHANNELS);
    const struct kv_trace_channel *c = &b.channel[4]; /* in order of their names */
    assert_string_equal(c->name, "later_sum");
    assert_int_equal(c->steps_per_octave, 128);
    assert_int_equal(c->reduce, KV_REDUCE_SUM);
    assert_string_equal(c->precision, "bf16");
    int32_t ids[21];
    float lp[2];
    must(f, kv_trace_ids(t, ids, &f->e) && kv_trace_log_probability(t, lp, &f->e));
    assert_int_equal(ids[20], 140);
    assert_true(lp[1] == -1);
    kv_trace_close(t);
}

static void sums_are_those_before_encoding(void **state)
{
    struct fixture *f = *state;
    struct kv_trace *t;
    struct kv_trace_about b, s;
    must(f, sample_write(f->path, false, 2, 500, KV_FILTER_ZSTD, f->a, &f->e));
    must(f, kv_trace_copy(f->path, f->other, KV_FILTER_GZIP, KV_ENC_F32, f->a, &f->e));
    for (int copy = 0; copy < 2; copy++) {
        must(f, kv_trace_open(&t, copy ? f->other : f->path, &b, f->a, &f->e));
        sample_about(&s, b.n_prompt, b.n_output, false, f->a);
        int c = 0;
        while (strcmp(b.channel[c].name, "window_seen"))
            c++;
        for (int64_t i = 0; i < 8; i++) {
            double sum = 0;
            for (int64_t k = 0; k < 500 * (i % 2 + 1); k++)
                sum += (double)sample_value(&s, 0, i % 2, i / 2, k);
            assert_true(fabs(kv_trace_row_sum(t, c, i % 2, i / 2) - sum) < 1e-9 * sum);
        }
        kv_trace_close(t);
    }
}

static herr_t add_storage(hid_t group, const char *name, const H5L_info_t *link, void *bytes)
{
    (void)link;
    hid_t what = H5Oopen(group, name, H5P_DEFAULT);
    if (H5Iget_type(what) == H5I_DATASET)
        *(int64_t *)bytes += (int64_t)H5Dget_storage_size(what);
    return H5Oclose(what);
}

static void stored_bytes_are_those_of_the_hdf5_library(void **state)
{
    struct fixture *f = *state;
    struct kv_trace *t;
    struct kv_trace_about b;
    for (int filter = KV_FILTER_NONE; filter <= KV_FILTER_GZIP; filter++) {
        must(f, sample_write(f->path, false, 3, 5000, (enum kv_filter)filter, f->a, &f->e));
        must(f, kv_trace_open(&t, f->path, &b, f->a, &f->e));
        hid_t file = H5Fopen(f->path, H5F_ACC_RDONLY, H5P_DEFAULT);
        for (int i = 0; i < b.n_channels; i++) {
            int64_t bytes = 0;
            hid_t group = H5Gopen2(file, kv_format(f->a, "channels/%s", b.channel[i].name), H5P_DEFAULT);
            assert_true(H5Lvisit(group, H5_INDEX_NAME, H5_ITER_NATIVE, add_storage, &bytes) >= 0);
            H5Gclose(group);
            assert_true(bytes > 5000);
            assert_int_equal(kv_trace_stored_bytes(t, i), bytes);
        }
        H5Fclose(file);
        kv_trace_close(t);
    }
}

static void slots_and_kept_are_read(void **state)
{
    struct fixture *f = *state;
    struct kv_trace *t;
    struct kv_trace_about b;
    must(f, sample_write(f->path, true, 3, 40, KV_FILTER_ZSTD, f->a, &f->e));
    must(f, kv_trace_copy(f->path, f->other, KV_FILTER_NONE, -1, f->a, &f->e));
    for (int copy = 0; copy < 2; copy++) {
        must(f, kv_trace_open(&t, copy ? f->other : f->path, &b, f->a, &f->e));
        assert_true(b.has_kept && !b.query_lanes);
        struct kv_trace_work *w = kv_trace_work_open(t, &f->e);
        for (int64_t i = 0; i < 12; i++) {
            int32_t expected[120];
            const int32_t *position;
            int64_t n, tick = i / 4, lane = i % 4;
            must(f, kv_trace_slots(t, tick, lane / 2, lane % 2, &position, &n, w, &f->e));
            assert_int_equal(n, sample_lane(tick, lane, 40 * tick, 40 * tick + 40, false, expected));
            assert_memory_equal(position, expected, (size_t)n * sizeof *position);
            must(f, kv_trace_kept(t, tick, lane / 2, lane % 2, &position, &n, w, &f->e));
            assert_int_equal(n, sample_lane(tick, lane, 40 * tick, 40 * tick + 40, true, expected));
            assert_memory_equal(position, expected, (size_t)n * sizeof *position);
        }
        kv_trace_work_close(w);
        kv_trace_close(t);
    }
}

static void copies_have_the_same_bits(void **state)
{
    struct fixture *f = *state;
    for (int closed = 0; closed < 2; closed++)
        for (int filter = KV_FILTER_NONE; filter <= KV_FILTER_GZIP; filter++)
            for (int encoding = -1; encoding <= KV_ENC_F32; encoding++) {
                if (encoding == KV_ENC_LOG12 || encoding == KV_ENC_CODE)
                    continue; /* these round what was f32 */
                must(f, sample_write(f->path, closed, 3, 7, KV_FILTER_ZSTD, f->a, &f->e));
                must(f, kv_trace_copy(f->path, f->other, (enum kv_filter)filter, encoding, f->a, &f->e));
                must(f, sample_check(f->other, 3, f->a, &f->e));
            }
    assert_false(kv_trace_copy(f->path, f->path, KV_FILTER_ZSTD, -1, f->a, &f->e));
}

struct reader {
    pthread_t thread;
    const char *path;
    bool good;
    struct kv_err e;
    struct kv_trace *t;
    const struct kv_trace_about *b;
    int first;
};

static void *read_some(void *reader)
{
    struct reader *r = reader;
    struct kv_arena *a = kv_arena_open();
    struct kv_trace_about s;
    sample_about(&s, r->b->n_prompt, r->b->n_output, false, a);
    struct kv_trace_work *w = kv_trace_work_open(r->t, &r->e);
    r->good = true;
    for (int pass = 0; r->good && pass < 3; pass++)
        for (int c = 0; r->good && c < r->b->n_channels; c++) {
            int own = 0;
            while (strcmp(s.channel[own].name, r->b->channel[c].name))
                own++;
            for (int64_t row = r->first; r->good && row < s.channel[own].streams; row += 2) {
                int64_t n = kv_trace_row_length(r->t, c, 0, row) * s.channel[own].elements;
                float *read = malloc((size_t)(n + KV_SLACK) * 8), *expected = read + n + KV_SLACK;
                sample_expected(&s, own, 0, row, n, expected);
                r->good = kv_trace_row(r->t, c, 0, row, read, w, &r->e) && !memcmp(read, expected, (size_t)n * 4);
                free(read);
            }
        }
    kv_trace_work_close(w);
    kv_arena_close(a);
    return NULL;
}

static void several_threads_read(void **state)
{
    struct fixture *f = *state;
    struct kv_trace *t;
    struct kv_trace_about b;
    static struct reader r[4];
    must(f, sample_write(f->path, false, 1, 3000, KV_FILTER_ZSTD, f->a, &f->e));
    must(f, kv_trace_open(&t, f->path, &b, f->a, &f->e));
    for (int i = 0; i < 4; i++) {
        r[i] = (struct reader){.t = t, .b = &b, .first = i / 2};
        assert_int_equal(pthread_create(&r[i].thread, NULL, read_some, &r[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(r[i].thread, NULL);
        assert_true(r[i].good);
    }
    kv_trace_close(t);
}

static void numbers_that_cannot_be_are_not_written(void **state)
{
    struct fixture *f = *state;
    struct kv_trace_about b;
    struct kv_trace_writer *w;
    static const float bad[] = {-1, NAN, INFINITY};
    for (int c = 0; c < 2; c++)
        for (int i = 0; i < 3; i++) {
            sample_about(&b, 10, 0, false, f->a);
            must(f, kv_trace_create(&w, f->path, &b, KV_FILTER_ZSTD, 2, &f->e));
            struct kv_tick tick = sample_tick(&b, 0, 5);
            float *rows = sample_rows(&b, c, &tick, 0, NULL);
            rows[7] = bad[i];
            must(f, kv_trace_tick(w, &tick, &f->e));
            memset(&f->e, 0, sizeof f->e);
            assert_false(kv_trace_put(w, c, rows, &f->e));
            assert_string_equal(f->e.text, kv_format(f->a,
                                                     "cannot write '%s': channel '%s', tick 0, row 1: number 2 is %g, "
                                                     "which it cannot be",
                                                     f->path, b.channel[c].name, (double)bad[i]));
            memset(&f->e, 0, sizeof f->e);
            free(rows);
            kv_trace_abandon(w);
        }
}

/* ---- files of others ---- */

static void put_int(hid_t id, const char *name, hid_t type, int rank, int value)
{
    hsize_t one = 1;
    hid_t space = rank ? H5Screate_simple(1, &one, NULL) : H5Screate(H5S_SCALAR);
    hid_t attribute = H5Acreate2(id, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    assert_true(H5Awrite(attribute, H5T_NATIVE_INT, &value) >= 0);
    H5Aclose(attribute);
    H5Sclose(space);
}

/* As h5py writes a str. */
static void put_text(hid_t id, const char *name, const char *text)
{
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
    H5Tset_size(type, H5T_VARIABLE);
    H5Tset_cset(type, H5T_CSET_UTF8);
    hid_t attribute = H5Acreate2(id, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    assert_true(H5Awrite(attribute, type, &text) >= 0);
    H5Aclose(attribute);
    H5Sclose(space);
    H5Tclose(type);
}

static hid_t group(hid_t up, const char *name)
{
    return H5Gcreate2(up, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
}

enum { PLAIN, DOUBLE, COMPACT, CHUNKED, SHUFFLED, CHECKED, EDGES, TWICE, LATEST, HOWS, SCALED, NBIT };

static void put_numbers(hid_t up, const char *name, hid_t stored, hid_t type, hsize_t rows, hsize_t n, int how,
                        const void *data)
{
    hsize_t extent[2] = {rows, n}, chunk[2] = {rows > 2 ? 3 : 1, n > 4 ? n - 3 : n};
    hid_t plist = H5Pcreate(H5P_DATASET_CREATE);
    hid_t space = rows ? H5Screate_simple(2, extent, NULL) : H5Screate_simple(1, &n, NULL);
    if (how == CHECKED)
        chunk[1] = n;
    if (how == COMPACT)
        H5Pset_layout(plist, H5D_COMPACT);
    if (how >= CHUNKED)
        H5Pset_chunk(plist, rows ? 2 : 1, rows ? chunk : chunk + 1);
    if (how == SHUFFLED)
        H5Pset_shuffle(plist);
    if (how == TWICE)
        H5Pset_fletcher32(plist);
    if (how >= CHUNKED && how < SCALED)
        H5Pset_deflate(plist, 4);
    if (how == TWICE)
        H5Pset_deflate(plist, 1);
    if (how == CHECKED)
        H5Pset_fletcher32(plist);
    if (how == EDGES)
        H5Pset_chunk_opts(plist, H5D_CHUNK_DONT_FILTER_PARTIAL_CHUNKS);
    if (how == SCALED)
        H5Pset_scaleoffset(plist, H5Z_SO_FLOAT_DSCALE, 2);
    if (how == NBIT)
        H5Pset_nbit(plist);
    hid_t set = H5Dcreate2(up, name, stored, space, H5P_DEFAULT, plist, H5P_DEFAULT);
    assert_true(set >= 0 && H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0);
    H5Dclose(set);
    H5Sclose(space);
    H5Pclose(plist);
}

/* What a file made by hand says; tests change one thing. */
struct plain {
    const char *format, *axis, *channel, *tick;
    int major, layers, q_heads, kv_heads, n_prompt, rows, columns, how, committed;
    int64_t begin[2], end[2];
    float value;
};
static const struct plain good_plain = {.format = "kvtrace",
                                        .axis = "q",
                                        .channel = "last_row",
                                        .tick = "t00001",
                                        .major = 1,
                                        .layers = 2,
                                        .q_heads = 4,
                                        .kv_heads = 2,
                                        .n_prompt = 20,
                                        .rows = 8,
                                        .columns = 20,
                                        .committed = -1,
                                        .begin = {0, 10},
                                        .end = {10, 20},
                                        .value = 0.5f};

static void write_plain(struct fixture *f, const struct plain *p)
{
    hid_t create = H5Pcreate(H5P_FILE_CREATE), access = H5Pcreate(H5P_FILE_ACCESS);
    if (p->how == LATEST || p->how == EDGES)
        H5Pset_libver_bounds(access, H5F_LIBVER_LATEST, H5F_LIBVER_LATEST);
    if (p->how == LATEST)
        H5Pset_userblock(create, 1024);
    hid_t file = H5Fcreate(f->path, H5F_ACC_TRUNC, create, access);
    H5Pclose(create);
    H5Pclose(access);
    put_text(file, "format", p->format);
    put_int(file, "version_major", H5T_STD_I32LE, 0, p->major);
    put_int(file, "version_minor", H5T_STD_U8LE, 1, 0);
    hid_t id = group(file, "model");
    put_int(id, "n_layer", H5T_STD_I64LE, 0, p->layers);
    put_int(id, "n_q_head", H5T_STD_U16BE, 0, p->q_heads);
    put_int(id, "n_kv_head", H5T_STD_I64LE, 1, p->kv_heads);
    put_int(id, "head_dim", H5T_STD_I32LE, 0, 4);
    H5Gclose(id);
    id = group(file, "prompt");
    put_int(id, "n_prompt", H5T_STD_I64LE, 0, p->n_prompt);
    put_int(id, "n_output", H5T_STD_I64LE, 0, 0);
    H5Gclose(id);
    id = group(file, "ticks");
    put_numbers(id, "q_begin", H5T_STD_I32LE, H5T_NATIVE_INT64, 0, 2, p->how % SCALED, p->begin);
    put_numbers(id, "q_end", H5T_STD_U64LE, H5T_NATIVE_INT64, 0, 2, p->how % SCALED, p->end);
    if (p->committed >= 0)
        put_numbers(id, "n_committed", H5T_STD_I64LE, H5T_NATIVE_INT, 0, 1, PLAIN, &p->committed);
    H5Gclose(id);
    hid_t up = group(file, "channels");
    id = group(up, p->channel);
    put_text(id, "head_axis", p->axis);
    hid_t tick = group(id, p->tick);
    float *rows = malloc((size_t)(p->rows * p->columns) * sizeof *rows);
    for (int i = 0; i < p->rows * p->columns; i++)
        rows[i] = i == 25 ? p->value : (float)i;
    put_numbers(tick, "f32", p->how == DOUBLE ? H5T_IEEE_F64BE : H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, (hsize_t)p->rows,
                (hsize_t)p->columns, p->how, rows);
    free(rows);
    H5Gclose(tick);
    H5Gclose(id);
    H5Gclose(up);
    H5Fclose(file);
}

/* Opens and reads all rows. */
static bool read_plain(struct fixture *f)
{
    struct kv_trace *t;
    struct kv_trace_about b;
    memset(&f->e, 0, sizeof f->e);
    if (!kv_trace_open(&t, f->path, &b, f->a, &f->e))
        return false;
    struct kv_trace_work *w = kv_trace_work_open(t, &f->e);
    bool good = b.n_channels == 1;
    for (int64_t i = 0; good && i < b.n_ticks; i++)
        for (int64_t s = 0; good && b.channel[0].at[i] && s < b.channel[0].streams; s++) {
            float row[20 + KV_SLACK];
            good = kv_trace_row(t, 0, i, s, row, w, &f->e);
            for (int k = 0; good && k < 20; k++)
                assert_true(row[k] == (s * 20 + k == 25 ? 0.5f : (float)(s * 20 + k)));
            assert_true(isnan(kv_trace_row_sum(t, 0, i, s)));
        }
    kv_trace_work_close(w);
    kv_trace_close(t);
    return good;
}

static void files_made_by_hand_are_read(void **state)
{
    struct fixture *f = *state;
    for (int how = PLAIN; how < HOWS; how++) {
        struct plain p = good_plain;
        p.how = how;
        write_plain(f, &p);
        if (!read_plain(f))
            fail_msg("storage %d: %s", how, f->e.text);
    }
}

/* `expected` follows "trace 'PATH': ". */
static void must_refuse(struct fixture *f, const struct plain *p, const char *expected)
{
    write_plain(f, p);
    if (read_plain(f))
        fail_msg("is taken: %s", expected);
    assert_int_equal(f->e.status, KV_DATA);
    assert_string_equal(f->e.text, kv_format(f->a, "trace '%s': %s", f->path, expected));
}

#define REFUSE(change, expected)                                                                                       \
    do {                                                                                                               \
        struct plain p = good_plain;                                                                                   \
        change;                                                                                                        \
        must_refuse(f, &p, expected);                                                                                  \
    } while (0)

static void what_is_wrong_is_said(void **state)
{
    struct fixture *f = *state;
    REFUSE(p.format = "other", "/: attribute 'format' is 'other'; expected 'kvtrace'");
    REFUSE(p.major = 2, "/: has version 2.0; this program reads 1.x");
    REFUSE(p.layers = 0, "/model: attribute 'n_layer' is 0; expected 1 to 10000");
    REFUSE(p.layers = 10001, "/model: attribute 'n_layer' is 10001; expected 1 to 10000");
    REFUSE(p.q_heads = 5, "/model: 5 query heads do not share 2 KV heads evenly");
    REFUSE(p.n_prompt = -4, "/prompt: attribute 'n_prompt' is -4; expected 1 to 1073741824");
    REFUSE(p.n_prompt = 19, "/ticks: tick 1 covers tokens [10, 20); the request has 19");
    REFUSE(p.begin[1] = 11, "/ticks: tick 1 begins at token 11; expected 10, where the one before ends");
    REFUSE(p.end[1] = 10, "/ticks: tick 1 covers tokens [10, 10); the request has 20");
    REFUSE(p.committed = 3, "/ticks: n_committed is 3, but q_begin has 2 ticks");
    REFUSE(p.axis = "x", "/channels/last_row: attribute 'head_axis' is 'x', which is not known");
    REFUSE(p.axis = "kv", "/channels/last_row/t00001/f32: has 8 x 20 numbers; expected 4 x 20");
    REFUSE(p.columns = 21, "/channels/last_row/t00001/f32: has 8 x 21 numbers; expected 8 x 20");
    REFUSE(p.rows = 7, "/channels/last_row/t00001/f32: has 7 x 20 numbers; expected 8 x 20");
    REFUSE(p.tick = "t1", "/channels/last_row: 't1' is no name of a tick; expected 't00001'");
    REFUSE(p.channel = "window_seen", "/channels/window_seen: there is no attribute 'window'; see traces/FORMAT.md");
    REFUSE(p.value = -1, "/channels/last_row/t00001/f32: row 1 holds what is no finite number, or a negative one");
    REFUSE(p.value = NAN, "/channels/last_row/t00001/f32: row 1 holds what is no finite number, or a negative one");
    REFUSE(p.how = SCALED, "/channels/last_row/t00001/f32: its filter 'scaleoffset' is not read; repack it: "
                           "h5repack -f GZIP=1");
    REFUSE(p.how = NBIT, "/channels/last_row/t00001/f32: its filter 'nbit' is not read; repack it: h5repack -f GZIP=1");
    REFUSE((p.q_heads = 10000, p.layers = 10000),
           "/channels/last_row: layers, heads and window make 100000000 rows; at most 67108864 are read");
}

static void what_was_not_committed_is_not_there(void **state)
{
    struct fixture *f = *state;
    struct kv_trace *t;
    struct kv_trace_about b;
    struct plain p = good_plain;
    p.committed = 1;
    write_plain(f, &p);
    must(f, kv_trace_open(&t, f->path, &b, f->a, &f->e));
    assert_int_equal(b.n_ticks, 1);
    assert_false(b.complete);
    assert_false(b.channel[0].at[0]);
    kv_trace_close(t);
}

static void what_is_no_trace_is_said(void **state)
{
    struct fixture *f = *state;
    struct kv_trace *t;
    struct kv_trace_about b;
    assert_false(kv_trace_open(&t, f->path, &b, f->a, &f->e));
    assert_int_equal(f->e.status, KV_DATA);
    assert_string_equal(f->e.text, kv_format(f->a, "cannot open '%s': No such file or directory", f->path));
    memset(&f->e, 0, sizeof f->e);
    assert_false(kv_trace_open(&t, f->folder, &b, f->a, &f->e));
    assert_string_equal(f->e.text, kv_format(f->a, "cannot open '%s': it is no file", f->folder));
    memset(&f->e, 0, sizeof f->e);
    FILE *file = fopen(f->path, "w");
    fputs("no trace", file);
    fclose(file);
    assert_false(kv_trace_open(&t, f->path, &b, f->a, &f->e));
    assert_string_equal(f->e.text,
                        kv_format(f->a, "trace '%s': is no HDF5 file, or damaged: file signature not found", f->path));
}

static void a_wrong_checksum_is_said(void **state)
{
    struct fixture *f = *state;
    uint64_t hash[4] = {1, 2, 3, 4};
    must(f, sample_write(f->path, false, 3, 5, KV_FILTER_ZSTD, f->a, &f->e));
    hid_t file = H5Fopen(f->path, H5F_ACC_RDWR, H5P_DEFAULT);
    hid_t set = H5Dopen2(file, "channels/window_seen/t00001/xxh3", H5P_DEFAULT);
    assert_true(H5Dwrite(set, H5T_NATIVE_UINT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, hash) >= 0);
    H5Dclose(set);
    H5Fclose(file);
    assert_false(sample_check(f->path, 3, f->a, &f->e));
    assert_int_equal(f->e.status, KV_DATA);
    assert_string_equal(f->e.text, kv_format(f->a,
                                             "trace '%s': /channels/window_seen/t00001/hi: row 0 does not agree with "
                                             "its checksum; the file is damaged",
                                             f->path));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(what_is_written_is_read),
        TEST(long_rows_and_few_of_them),
        TEST(what_it_is_about_is_read),
        TEST(sums_are_those_before_encoding),
        TEST(stored_bytes_are_those_of_the_hdf5_library),
        TEST(slots_and_kept_are_read),
        TEST(copies_have_the_same_bits),
        TEST(several_threads_read),
        TEST(numbers_that_cannot_be_are_not_written),
        TEST(files_made_by_hand_are_read),
        TEST(what_is_wrong_is_said),
        TEST(what_was_not_committed_is_not_there),
        TEST(what_is_no_trace_is_said),
        TEST(a_wrong_checksum_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
