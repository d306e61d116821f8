/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Numbers with units, read and printed. A reader returns NULL when it understood, else why not and what to write (a
 * sentence in the arena or a constant), and leaves *out alone. Nothing is guessed: `128k` and `16 G` are refused. */
#ifndef KV_UNITS_H
#define KV_UNITS_H

#include "sim/core/arena.h"

#include <stdint.h>

const char *kv_read_count(struct kv_arena *a, const char *text, int64_t *out);    /* 4096, 128Ki, 1Mi */
const char *kv_read_bytes(struct kv_arena *a, const char *text, int64_t *out);    /* 80 GiB, 512 MB, 64 B */
const char *kv_read_seconds(struct kv_arena *a, const char *text, double *out);   /* 30 ms, 1.5 s, 2 h */
const char *kv_read_rate(struct kv_arena *a, const char *text, double *out);      /* 12 /s -> per second */
const char *kv_read_bandwidth(struct kv_arena *a, const char *text, double *out); /* 4.8 TB/s -> bytes per second */
const char *kv_read_flops(struct kv_arena *a, const char *text, double *out);     /* 989 TFLOP/s -> per second */
const char *kv_read_share(struct kv_arena *a, const char *text, double *out);     /* 30 % or 0.3 -> 0.3 */
const char *kv_read_real(struct kv_arena *a, const char *text, double *out);      /* any finite number */
const char *kv_read_bool(struct kv_arena *a, const char *text, bool *out);        /* true false yes no on off */

enum { KV_NUMBER_TEXT = 48 };

/* Each fills `text` and returns it. */
const char *kv_print_bytes(char text[KV_NUMBER_TEXT], int64_t bytes); /* 15.00 GiB */
const char *kv_print_count(char text[KV_NUMBER_TEXT], int64_t count); /* 131,072 */
const char *kv_print_share(char text[KV_NUMBER_TEXT], double share);  /* 36.5 % */
/* The shortest decimal that reads back to the same double, with ".0" behind a whole number. */
const char *kv_print_real(char text[KV_NUMBER_TEXT], double value);

#endif
