/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/core/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A control character in a name from a file must not reach a terminal, nor one of U+0080 .. U+009F in UTF-8. */
static void make_printable(char *text)
{
    for (unsigned char *c = (unsigned char *)text; *c; c++)
        if (*c == 0xC2 && c[1] >= 0x80 && c[1] < 0xA0)
            c[0] = c[1] = '?';
        else if (*c < ' ' || *c == 127)
            *c = '?';
}

enum { LINE_MAX_BYTES = 1024, WORD_HEAD = 96, WORD_TAIL = 24 };

/* Words that no name is as long as lose their middle, so that what is said about them is still seen. */
static void shorten_words(char *text)
{
    char *out = text;
    for (const char *in = text; *in;) {
        size_t blanks = strspn(in, " "), word = strcspn(in + blanks, " ");
        size_t head = word > WORD_HEAD + WORD_TAIL + 3 ? WORD_HEAD : word;
        memmove(out, in, blanks + head);
        out += blanks + head;
        if (head < word) {
            memcpy(out, "...", 3);
            memmove(out + 3, in + blanks + word - WORD_TAIL, WORD_TAIL);
            out += 3 + WORD_TAIL;
        }
        in += blanks + word;
    }
    *out = '\0';
}

static void make_line(char line[LINE_MAX_BYTES], const char *format, va_list args)
{
    va_list again;
    va_copy(again, args);
    int length = vsnprintf(line, LINE_MAX_BYTES, format, args);
    char *all = length >= LINE_MAX_BYTES ? malloc((size_t)length + 1) : NULL;
    if (all) { /* it quotes something endless */
        vsnprintf(all, (size_t)length + 1, format, again);
        shorten_words(all);
        snprintf(line, LINE_MAX_BYTES, "%s", all);
        free(all);
    }
    va_end(again);
    make_printable(line);
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

void kv_say(struct kv_err *e, enum kv_status status, const char *format, ...)
{
    char line[LINE_MAX_BYTES];
    va_list args;
    va_start(args, format);
    make_line(line, format, args);
    va_end(args);

    if (!e->n)
        e->status = status;
    e->n++;
    if (e->n > KV_ERR_LINES)
        return;
    if (e->n > 1)
        add_text(e, "\n");
    add_text(e, line);
}

void kv_say_context(struct kv_err *e, const char *format, ...)
{
    struct kv_err old = *e;
    char context[512];
    va_list args;
    va_start(args, format);
    vsnprintf(context, sizeof context, format, args);
    va_end(args);
    make_printable(context);
    if (!e->n)
        return;

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
}

void kv_bug(const char *file, int line, const char *what)
{
    fprintf(stderr, "bug in kvsim: %s:%d: not true: %s\n", file, line, what);
    abort();
}
