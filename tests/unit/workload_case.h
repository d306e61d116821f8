/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A workload of a config's lines, or of a file's bytes, and what comes out of it. */
#ifndef KV_WORKLOAD_CASE_H
#define KV_WORKLOAD_CASE_H

#include "sim/workload/workload.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
    struct kv_arena *arena;
    struct kv_err e;
    struct kv_settings s;
    struct kv_workload *w;
    int file;
};

static inline int set_up(void **state)
{
    struct fixture *f = *state = calloc(1, sizeof *f);
    f->arena = kv_arena_open();
    f->file = -1;
    return 0;
}

static inline int tear_down(void **state)
{
    struct fixture *f = *state;
    kv_workload_close(f->w);
    if (f->file >= 0)
        close(f->file);
    kv_arena_close(f->arena);
    free(f);
    return 0;
}

/* The settings of a config whose [workload] has these lines. */
static inline void configure(struct fixture *f, const char *workload)
{
    int file = memfd_create("config", 0);
    assert_true(file >= 0);
    dprintf(file, "[model]\nname = Llama-3.1-8B\n[workload]\n%s\n", workload);
    f->e = (struct kv_err){0};
    bool good = kv_settings_read(kv_format(f->arena, "/proc/self/fd/%d", file), NULL, 0, &f->s, f->arena, &f->e);
    if (!good)
        fail_msg("%s", f->e.text);
    f->s.path = "plan.ini";
    close(file);
}

static inline bool open_drawn(struct fixture *f, const char *workload, uint64_t seed)
{
    kv_workload_close(f->w);
    configure(f, workload);
    return kv_workload_open(&f->w, &f->s, seed, f->arena, &f->e);
}

static inline bool open_bytes(struct fixture *f, const void *bytes, size_t n, const char *workload)
{
    kv_workload_close(f->w);
    f->w = NULL;
    if (f->file >= 0)
        close(f->file);
    f->file = memfd_create("trace", 0);
    assert_int_equal(write(f->file, bytes, n), n);
    configure(f, workload);
    f->s.workload.trace = kv_format(f->arena, "/proc/self/fd/%d", f->file);
    return kv_workload_open(&f->w, &f->s, 1, f->arena, &f->e);
}

static inline bool open_text(struct fixture *f, const char *text, const char *workload)
{
    return open_bytes(f, text, strlen(text), workload);
}

static inline void check_next(struct fixture *f, double arrival_s, int64_t prompt, int64_t output)
{
    struct kv_arrival r;
    enum kv_next next = kv_workload_next(f->w, &r, &f->e);
    if (next != KV_NEXT_ROW)
        fail_msg("expected a request, got %s: %s", next == KV_NEXT_END ? "the end" : "an error", f->e.text);
    if (fabs(r.arrival_s - arrival_s) > 1e-12 * fabs(arrival_s) || r.prompt != prompt || r.output != output)
        fail_msg("expected %.12g s, %lld, %lld; got %.12g s, %lld, %lld", arrival_s, (long long)prompt,
                 (long long)output, r.arrival_s, (long long)r.prompt, (long long)r.output);
}

static inline void check_end(struct fixture *f)
{
    struct kv_arrival r;
    enum kv_next next = kv_workload_next(f->w, &r, &f->e);
    if (next != KV_NEXT_END)
        fail_msg("expected the end, got %s: %s", next == KV_NEXT_ROW ? "a request" : "an error", f->e.text);
}

/* The message without the path before it. */
static inline void check_message(struct fixture *f, const char *expected)
{
    const char *got = f->e.text, *path = f->s.workload.trace;
    if (path && !strncmp(got, path, strlen(path)))
        got += strlen(path);
    assert_string_equal(got, expected);
}

static inline void check_bad(struct fixture *f, const char *message)
{
    struct kv_arrival r;
    f->e = (struct kv_err){0};
    enum kv_next next = kv_workload_next(f->w, &r, &f->e);
    if (next != KV_NEXT_BAD)
        fail_msg("expected an error, got %s", next == KV_NEXT_ROW ? "a request" : "the end");
    assert_int_equal(f->e.status, KV_DATA);
    check_message(f, message);
}

#define HEADER "arrival_s,prompt_tokens,output_tokens\n"

/* Each text is refused with this message, when it is opened or at its first row. */
static inline void check_refused(struct fixture *f, const char *text, const char *workload, const char *message)
{
    struct kv_arrival r;
    if (open_text(f, text, workload))
        assert_int_equal(kv_workload_next(f->w, &r, &f->e), KV_NEXT_BAD);
    assert_int_equal(f->e.status, KV_DATA);
    check_message(f, message);
}

static inline void check_blocks(struct fixture *f, int64_t n, const uint64_t *block, int64_t block_tokens)
{
    struct kv_arrival r;
    assert_int_equal(kv_workload_next(f->w, &r, &f->e), KV_NEXT_ROW);
    assert_int_equal(r.n_blocks, n);
    assert_int_equal(r.block_tokens, block_tokens);
    for (int64_t i = 0; i < n; i++)
        assert_true(r.block[i] == block[i]);
}

#endif
