/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A text file line by line, gzip and zstd read through, in bounded memory. What the bytes are is told by their
 * beginning, never by the name. */
#ifndef KV_INPUT_H
#define KV_INPUT_H

#include "sim/csv.h"

struct kv_input;

/* Opens PATH ("-": standard input). KV_DATA. */
bool kv_input_open(struct kv_input **in, const char *path, struct kv_err *e);
void kv_input_close(struct kv_input *in);
const char *kv_input_path(const struct kv_input *in); /* for messages */

struct kv_line {
    char *text; /* without its end, closed by a NUL that may be overwritten; view: until the next line */
    size_t length;
    int64_t number; /* from 1 */
};

/* BAD after a message when the bytes cannot be read or a line does not end within 16 MiB; nothing follows then. NULs
 * are the caller's to find. */
enum kv_next kv_input_line(struct kv_input *in, struct kv_line *line, struct kv_err *e);

/* Up to `most` bytes of the first line, before any is read: to see what the file is. False after a message. */
bool kv_input_peek(struct kv_input *in, char *out, size_t most, struct kv_err *e);

/* All that follows, as one text closed by a NUL; for formats that are one JSON document. KV_DATA beyond `most`. */
bool kv_input_rest(struct kv_input *in, char **text, size_t *length, size_t most, struct kv_err *e);

/* Back to the first byte. False, without a message, when the file cannot be read twice. */
bool kv_input_rewind(struct kv_input *in);

#endif
