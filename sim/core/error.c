/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/core/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A control character in a name from a file must not reach a terminal. */
static void make_printable(char *text)
{
    for (unsigned char *c = (unsigned char *)text; *c; c++)
        if (*c < ' ' || *c == 127)
            *c = '?';
}

static void add_text(struct kv_err *e, const char *text)
{
    size_t room = sizeof e->text - 1 - e->length, length = strlen(text);
    if (length > room)
        length = room;
    memcpy(e->text + e->length, text, length);
    e->length += length;
    e->text[e->length] = '\0';
}

bool kv_fail(struct kv_err *e, enum kv_status status, const char *format, ...)
{
    char line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    make_printable(line);

    if (!e->n)
        e->status = status;
    e->n++;
    if (e->n > KV_ERR_LINES)
        return false;
    if (e->n > 1)
        add_text(e, "\n");
    add_text(e, line);
    return false;
}

bool kv_while(struct kv_err *e, const char *format, ...)
{
    struct kv_err old = *e;
    char context[512];
    va_list args;
    va_start(args, format);
    vsnprintf(context, sizeof context, format, args);
    va_end(args);
    make_printable(context);

    e->length = 0;
    e->text[0] = '\0';
    for (char *line = old.text, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        add_text(e, context);
        add_text(e, ": ");
        add_text(e, line);
        if (next)
            add_text(e, "\n");
    }
    return false;
}

void kv_bug(const char *file, int line, const char *what)
{
    fprintf(stderr, "bug in kvsim: %s:%d: not true: %s\n", file, line, what);
    abort();
}
