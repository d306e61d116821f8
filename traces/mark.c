/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "traces/trace.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* Reads a token's number; NULL when there is none. */
static const char *read_token(const char *text, long long *out)
{
    char *behind;
    *out = strtoll(text, &behind, 10);
    return isdigit((unsigned char)*text) ? behind : NULL;
}

bool kv_mark_read(struct kv_mark *m, const char *text, int64_t tokens, struct kv_arena *a, struct kv_err *e)
{
    const char *is = strchr(text, '='), *behind = NULL;
    long long first = -1, last;
    if (is && is > text)
        behind = read_token(is + 1, &first);
    last = first;
    if (behind && *behind == '-')
        behind = read_token(behind + 1, &last);
    if (!behind || *behind || last < first || last >= tokens)
        return kv_fail(e, KV_USAGE, "--mark '%s' is not NAME=FIRST-LAST with tokens from 0 to %lld", text,
                       (long long)tokens - 1);
    *m = (struct kv_mark){.name = kv_copy_part(a, text, (size_t)(is - text)), .begin = first, .end = last + 1};
    return true;
}
