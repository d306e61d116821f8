/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Which format a file has, and its reader. */
#include "sim/workload/format.h"

#include "sim/core/hash.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

const char *const kv_format_names[] = {[KV_FORMAT_AUTO] = "auto",         [KV_FORMAT_AZURE] = "azure",
                                       [KV_FORMAT_MOONCAKE] = "mooncake", [KV_FORMAT_BURSTGPT] = "burstgpt",
                                       [KV_FORMAT_SHAREGPT] = "sharegpt", [KV_FORMAT_VLLM] = "vllm",
                                       [KV_FORMAT_CSV] = "csv",           [KV_FORMATS] = NULL};

/* By its first line. Which of the CSV formats a header is, its reader finds out. */
static enum kv_format look(const char *text)
{
    if (*text == '{')
        return strstr(text, "\"input_length\"") || strstr(text, "\"hash_ids\"") ? KV_FORMAT_MOONCAKE : KV_FORMAT_VLLM;
    static const char *const log[] = {"INFO ", "DEBUG ", "WARNING ", "(APIServer", "(EngineCore"};
    for (size_t i = 0; i < sizeof log / sizeof *log; i++)
        if (!strncmp(text, log[i], strlen(log[i])))
            return KV_FORMAT_VLLM;
    return strstr(text, "Received request ") ? KV_FORMAT_VLLM : KV_FORMAT_CSV;
}

static bool begin(struct kv_rows *r, struct kv_err *e)
{
    enum { LOOK = 4096 };
    char first[LOOK + 1], *text = first;
    if (!kv_input_peek(r->in, first, LOOK, e))
        return false;
    if (!strncmp(text, "\xEF\xBB\xBF", 3))
        text += 3;
    text += strspn(text, " \t");
    if (r->format == KV_FORMAT_AUTO)
        r->format = look(text);
    r->reader = r->format == KV_FORMAT_MOONCAKE ? &kv_read_mooncake
                : r->format != KV_FORMAT_VLLM   ? &kv_read_csv
                : *text == '{'                  ? &kv_read_vllm_result
                                                : &kv_read_vllm_log;
    r->broken = false;
    r->state = r->reader->open(r, e);
    return r->state;
}

bool kv_rows_open(struct kv_rows **out, const char *path, enum kv_format format, int64_t block_tokens,
                  struct kv_arena *a, struct kv_err *e)
{
    struct kv_rows *r = *out = calloc(1, sizeof *r);
    KV_ASSERT(r);
    r->arena = a;
    r->format = format;
    r->block_tokens = block_tokens;
    return kv_input_open(&r->in, path, e) && begin(r, e);
}

void kv_rows_close(struct kv_rows *r)
{
    if (!r)
        return;
    if (r->state)
        r->reader->close(r->state);
    kv_input_close(r->in);
    free(r->block);
    free(r);
}

enum kv_next kv_rows_next(struct kv_rows *r, struct kv_row *row, struct kv_err *e)
{
    if (r->broken)
        return KV_NEXT_END;
    *row = (struct kv_row){.arrival_ns = KV_UNSET, .session = KV_UNSET};
    r->n_blocks = 0;
    enum kv_next next = r->reader->next(r, r->state, row, e);
    row->block = r->block;
    row->n_blocks = r->n_blocks;
    return next;
}

bool kv_rows_broken(const struct kv_rows *r)
{
    return r->broken;
}

bool kv_rows_rewind(struct kv_rows *r, struct kv_err *e)
{
    if (r->reader == &kv_read_sorted)
        return kv_sorted_rewind(r->state);
    if (!kv_input_rewind(r->in))
        return kv_fail(e, KV_DATA, "'%s' cannot be read twice; write it to a regular file first", kv_input_path(r->in));
    if (r->state)
        r->reader->close(r->state);
    r->state = NULL;
    return begin(r, e);
}

enum kv_format kv_rows_format(const struct kv_rows *r)
{
    return r->format;
}

const char *kv_rows_path(const struct kv_rows *r)
{
    return kv_input_path(r->in);
}

bool kv_rows_have_times(const struct kv_rows *r)
{
    return r->times;
}

bool kv_rows_have_blocks(const struct kv_rows *r)
{
    return r->blocks;
}

bool kv_row_fail(const struct kv_rows *r, int64_t line, int column, struct kv_err *e, const char *format, ...)
{
    char text[512]; /* no arena: bad rows may be many */
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return kv_fail(e, KV_DATA, "%s:%lld:%d: %s", kv_input_path(r->in), (long long)line, column, text);
}

void kv_row_add_block(struct kv_rows *r, uint64_t name)
{
    if (r->n_blocks == r->block_room) {
        r->block_room = r->block_room ? 2 * r->block_room : 256;
        r->block = realloc(r->block, (size_t)r->block_room * sizeof *r->block);
        KV_ASSERT(r->block); /* at most as many as fit in a line */
    }
    r->block[r->n_blocks++] = name;
}

bool kv_row_check_blocks(struct kv_rows *r, const struct kv_row *row, bool whole_do, struct kv_err *e)
{
    int64_t whole = row->prompt / row->block_tokens, all = whole + (row->prompt % row->block_tokens != 0);
    if (r->n_blocks == all || (r->n_blocks == whole && whole_do))
        return true;
    return kv_row_fail(
        r, row->line, 1, e,
        "%lld block hashes for a prompt of %lld tokens, which in blocks of %lld takes %lld; if the blocks "
        "are of another size, set [workload] block_tokens (--block-tokens)",
        (long long)r->n_blocks, (long long)row->prompt, (long long)row->block_tokens, (long long)all);
}

int64_t kv_name_number(const char *text, size_t length)
{
    int64_t number;
    if (!kv_whole_read(text, length, INT32_MAX, &number))
        return number;
    uint64_t h = kv_hash(KV_HASH_START, text, length);
    return (int64_t)(h >> 2 | UINT64_C(1) << 40);
}
