/* SPDX-License-Identifier: GPL-3.0-or-later */
/* How far a long computation is: a bar with rate and time left on a terminal, from one second on; a line every 30 s
 * when standard error is no terminal; nothing with -q. Any thread may report. */
#ifndef KV_PROGRESS_H
#define KV_PROGRESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Nanoseconds that only ever grow, since some moment. */
int64_t kv_clock_ns(void);

struct kv_progress {
    const char *what; /* "requests counted" */
    int64_t total;
    _Atomic int64_t done, next_ns; /* next_ns: when somebody says it next */
    int64_t start_ns;
    bool quiet, terminal;
};

void kv_progress_start(struct kv_progress *p, const char *what, int64_t total, bool quiet);
void kv_progress_add(struct kv_progress *p, int64_t n);
void kv_progress_end(struct kv_progress *p); /* erases the bar */

#endif
