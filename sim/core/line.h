/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Lines of files that nobody vouches for: getline with a bound. */
#ifndef KV_LINE_H
#define KV_LINE_H

#include <stdio.h>
#include <stdlib.h>

enum { KV_LINE_END = -1, KV_LINE_NO_MEMORY = -2 };

/* Reads up to a line end or `most` + 1 bytes into *buffer (grown as getline does, to be freed) and closes the text with
 * a NUL. Returns its length, more than `most` when the line goes on, or one of the above. */
static inline long kv_read_line(FILE *in, char **buffer, size_t *room, size_t most)
{
    size_t n = 0;
    for (int c; n <= most && (c = getc_unlocked(in)) != EOF;) {
        if (n + 2 > *room) {
            size_t more = *room ? 2 * *room : 256;
            char *grown = realloc(*buffer, more);
            if (!grown)
                return KV_LINE_NO_MEMORY;
            *buffer = grown;
            *room = more;
        }
        (*buffer)[n++] = (char)c;
        if (c == '\n')
            break;
    }
    if (!n)
        return KV_LINE_END;
    (*buffer)[n] = '\0';
    return (long)n;
}

#endif
