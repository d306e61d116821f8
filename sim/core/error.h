/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Errors that travel up. What can fail returns bool and takes `struct kv_err *` last; the message is made where the
 * fact is known, context is added on the way up, and the program's main alone prints it and exits with its status. */
#ifndef KV_ERROR_H
#define KV_ERROR_H

#include <stdbool.h>
#include <stddef.h>

/* The exit status, also for scripts: see kvsim(1). */
enum kv_status {
    KV_OK = 0,
    KV_NO = 1,            /* the answer is no: does not fit, outside tolerance */
    KV_USAGE = 2,         /* command line or config */
    KV_DATA = 3,          /* a bad input file */
    KV_ENV = 4,           /* the environment: no space, no memory, no device, unwritable folder */
    KV_INTERRUPTED = 130, /* SIGINT, after closing what was open */
    KV_TERMINATED = 143   /* SIGTERM */
};

enum { KV_ERR_LINES = 20, KV_ERR_TEXT = 16384 };

/* Up to KV_ERR_LINES messages, one a line; the status is the first one's. Start from `{0}`. */
struct kv_err {
    enum kv_status status;
    int n;                  /* messages said, those beyond KV_ERR_LINES counted too */
    size_t length;          /* of text */
    char text[KV_ERR_TEXT]; /* lines, each but the last ended by '\n' */
};

/* Always false, where every reader of the code can see it, compilers' analysers among them. */
static inline bool kv_false(int ignored)
{
    (void)ignored;
    return false;
}

/* Says one message and returns false, so that `return kv_fail(e, ...)` reads well. Later messages join earlier ones:
 * a reader that finds several mistakes says them all and fails at its end. A message is one line, without full stop:
 * subject in quotes, what failed, why, what to do. */
#define kv_fail(...) kv_false((kv_say(__VA_ARGS__), 0))
void kv_say(struct kv_err *e, enum kv_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Puts "CONTEXT: " before every message said so far, and returns false. */
#define kv_while(...) kv_false((kv_say_context(__VA_ARGS__), 0))
void kv_say_context(struct kv_err *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A mistake of ours, never of a user's: says so on stderr and aborts, in release builds too. */
void kv_bug(const char *file, int line, const char *what) __attribute__((noreturn));
#define KV_ASSERT(truth) ((truth) ? (void)0 : kv_bug(__FILE__, __LINE__, #truth))

#endif
