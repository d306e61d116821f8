/* SPDX-License-Identifier: GPL-3.0-or-later */
/* `kvsim trace repack` and `kvsim trace recover`: whole passes, in another file. */
#include "sim/trace_verbs.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static void say(const char *path, const struct kv_trace_about *b)
{
    struct stat st;
    long long bytes = stat(path, &st) ? 0 : (long long)st.st_size;
    int64_t tokens = b->n_ticks ? b->tick[b->n_ticks - 1].end : 0;
    printf("%s: %lld pass%s, %lld tokens, %lld bytes%s\n", path, (long long)b->n_ticks, b->n_ticks == 1 ? "" : "es",
           (long long)tokens, bytes, b->complete ? "" : "; the recording was broken off after the last of them");
}

/* Copies, and says what is in the copy: read from it. */
static bool copy(const char *from, const char *to, enum kv_filter filter, int encoding, struct kv_arena *a,
                 struct kv_err *e)
{
    struct kv_trace *t;
    struct kv_trace_about b;
    if (!kv_trace_copy(from, to, filter, encoding, a, e) || !kv_trace_open(&t, to, &b, a, e))
        return false;
    say(to, &b);
    kv_trace_close(t);
    return true;
}

bool kv_trace_verb_repack(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    const char *from = args->operand[1], *to = args->operand[2];
    enum kv_filter filter = KV_FILTER_ZSTD;
    int encoding = -1;
    return kv_trace_storage(args, &filter, &encoding, a, e) && kv_trace_may_write(args, to, a, e) &&
           copy(from, to, filter, encoding, a, e);
}

/* A trace's name without its .part. */
static const char *name_of(const char *path, struct kv_arena *a)
{
    size_t n = strlen(path);
    return n > 5 && !strcmp(path + n - 5, ".part") ? kv_copy_part(a, path, n - 5) : NULL;
}

bool kv_trace_verb_recover(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    const char *from = args->operand[1], *to = args->n_operands > 2 ? args->operand[2] : name_of(from, a);
    struct stat st;
    if (!to)
        return kv_fail(e, KV_USAGE, "'%s' does not end in .part: say where to, as in: kvsim trace recover %s OUT", from,
                       from);
    if (!kv_arg_flag(args, "force") && !stat(to, &st))
        return kv_fail(e, KV_USAGE, "'%s' is there already; give another name, or --force to overwrite it", to);
    return copy(from, to, KV_FILTER_ZSTD, -1, a, e);
}
