/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What the formats of rows.c share. */
#ifndef KV_WORKLOAD_FORMAT_H
#define KV_WORKLOAD_FORMAT_H

#include "sim/core/schema.h"
#include "sim/workload/rows.h"

/* One way to read rows. Its state is its own. */
struct kv_row_reader {
    /* Reads what stands before the first row. NULL after a message. */
    void *(*open)(struct kv_rows *r, struct kv_err *e);
    enum kv_next (*next)(struct kv_rows *r, void *state, struct kv_row *row, struct kv_err *e);
    void (*close)(void *state);
};
extern const struct kv_row_reader kv_read_csv, kv_read_mooncake, kv_read_vllm_result, kv_read_vllm_log, kv_read_sorted;

struct kv_rows {
    struct kv_input *in;
    enum kv_format format;
    const struct kv_row_reader *reader;
    void *state;
    int64_t block_tokens; /* KV_UNSET: not given */
    bool times, blocks;   /* the file has them */
    bool broken;          /* nothing more can be read */
    uint64_t *block;      /* (block_room,) of the row in hand */
    int64_t n_blocks, block_room;
    struct kv_arena *arena;
};

bool kv_sorted_rewind(void *state);

/* Says `FILE:LINE:COL: ...` and returns false. */
bool kv_row_fail(const struct kv_rows *r, int64_t line, int column, struct kv_err *e, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

void kv_row_add_block(struct kv_rows *r, uint64_t name);
/* There is a name for each block of the prompt: whole ones and one for what is left, or, if `whole_do`, whole ones
 * alone. */
bool kv_row_check_blocks(struct kv_rows *r, const struct kv_row *row, bool whole_do, struct kv_err *e);

/* A session's name as a number: itself when it is a small one, else a hash. */
int64_t kv_name_number(const char *text, size_t length);

/* Nanoseconds since 1970 of "2023-11-16 18:15:46.6805900", with 'T' or a blank, up to 9 decimals, and a zone "Z",
 * "+00:00", "-0700" or none (UTC). False when it is none. */
bool kv_stamp_read(const char *text, size_t length, int64_t *ns);
/* The same without the day: what stands behind its ten characters, which are not looked at. */
bool kv_stamp_within_day(const char *text, size_t length, int64_t *ns);

/* A decimal number of units of `unit_ns` nanoseconds, exactly; what is below a nanosecond is rounded. NULL, or why not.
 */
const char *kv_decimal_ns(const char *text, size_t length, int64_t unit_ns, int64_t *ns);

/* A whole number, 0 .. most. NULL, or why not. */
const char *kv_whole_read(const char *text, size_t length, int64_t most, int64_t *out);

#endif
