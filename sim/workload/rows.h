/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Files of requests, row by row, whatever their format. A format is one entry of the table in rows.c. */
#ifndef KV_ROWS_H
#define KV_ROWS_H

#include "sim/workload/input.h"

enum kv_format {
    KV_FORMAT_AUTO,
    KV_FORMAT_AZURE,
    KV_FORMAT_MOONCAKE,
    KV_FORMAT_BURSTGPT,
    KV_FORMAT_SHAREGPT,
    KV_FORMAT_VLLM,
    KV_FORMAT_CSV,
    KV_FORMATS
};
extern const char *const kv_format_names[]; /* (KV_FORMATS + 1,) NULL at the end */

enum { KV_ROW_MOST_TOKENS = 1 << 30 };

struct kv_row {
    int64_t arrival_ns; /* as the file has it; of dates since 1970. KV_UNSET: the file has no times */
    int64_t prompt, output;
    int64_t session; /* as the file numbers it, or by a hash of its name; KV_UNSET: the file has none */
    /* Names of the prompt's blocks, each of which tells all tokens up to its end; the last may stand for less than a
     * whole block. n_blocks = 0: none given. View: until the next row. */
    const uint64_t *block;
    int64_t n_blocks, block_tokens;
    int64_t line;
    int column; /* of the time, for messages */
};

struct kv_rows;

/* Opens PATH as `format`, or as what its first line looks like. `block_tokens` is what a hash stands for, KV_UNSET:
 * what the format says. KV_DATA, KV_USAGE. Close it even then. */
bool kv_rows_open(struct kv_rows **r, const char *path, enum kv_format format, int64_t block_tokens, struct kv_arena *a,
                  struct kv_err *e);
void kv_rows_close(struct kv_rows *r);

/* BAD after a message of file, line and column; the row after it can still be read, unless kv_rows_broken. */
enum kv_next kv_rows_next(struct kv_rows *r, struct kv_row *row, struct kv_err *e);
bool kv_rows_broken(const struct kv_rows *r);

/* Reads all that follows and gives it in order of arrival, rows of the same time as they stood: the one thing here
 * whose memory grows with the file. With `skip` bad rows are counted; else they fail, all of them said. */
bool kv_rows_sort(struct kv_rows *r, bool skip, int64_t *skipped, struct kv_err *e);

/* From the first row again. False when the file cannot be read twice. */
bool kv_rows_rewind(struct kv_rows *r, struct kv_err *e);

enum kv_format kv_rows_format(const struct kv_rows *r);
const char *kv_rows_path(const struct kv_rows *r);
bool kv_rows_have_times(const struct kv_rows *r);
bool kv_rows_have_blocks(const struct kv_rows *r);

#endif
