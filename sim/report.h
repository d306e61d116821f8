/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Results as one HTML page that needs nothing else: no script, no file, no network. */
#ifndef KV_REPORT_H
#define KV_REPORT_H

#include "sim/core/arena.h"

#include <stdio.h>

struct kv_report {
    const char *const *result; /* (n,) folders, or CSVs of sweeps */
    int n;
    const char *measured; /* a run to compare traffic with, or NULL */
    bool missing;         /* out: there was no gnuplot, so there are no pictures */
};

/* The same results give the same bytes. KV_DATA, KV_ENV. */
bool kv_report_write(struct kv_report *r, FILE *out, struct kv_arena *a, struct kv_err *e);

#endif
