/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What plots of traffic share: a policy is a line, wherever its rows stand in a file. */
#ifndef KV_PLOT_TRAFFIC_H
#define KV_PLOT_TRAFFIC_H

#include "sim/plot_data.h"

struct kv_plot_lines {
    const char *name[KV_PLOT_MOST_SERIES];
    int n, last; /* last: the one asked for before, where rows of a policy stand together */
};
/* The line of this name, from 0, a new one if need be; -1 when there are too many. */
int kv_plot_line(struct kv_plot_lines *l, const char *name, struct kv_arena *a);
/* lines, name[] and letters, for a script. */
void kv_plot_put_lines(FILE *out, const struct kv_plot_lines *l, struct kv_arena *a);
/* The same, with first[] and last[]: which rows of the data each of n series has. */
void kv_plot_put_series(FILE *out, const struct kv_plot_lines *l, const int64_t *first, const int64_t *last, int n,
                        struct kv_arena *a);
/* These are all that the plot's script is told. */
void kv_plot_set_series(struct kv_plot *p, const struct kv_plot_lines *l, const int64_t *first, const int64_t *last,
                        int n);

#endif
