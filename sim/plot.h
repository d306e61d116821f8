/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A result's pictures, for whoever shows them elsewhere. */
#ifndef KV_PLOT_H
#define KV_PLOT_H

#include "sim/plot_data.h"

/* Pictures of a result that were drawn; names without ".svg". */
struct kv_drawn {
    enum kv_plot_result of;
    const char *name[KV_PLOT_KINDS];
    int n;
    bool missing; /* there is no gnuplot: scripts and data alone */
};

/* Draws what 'kvsim plot RESULT' draws, as SVG, into `folder`, silently; with `measured` (or NULL) what --measured
 * adds. Nothing to draw is no error. */
bool kv_plot_draw(struct kv_drawn *d, const char *result, const char *measured, const char *folder, struct kv_arena *a,
                  struct kv_err *e);

/* What kind of result lies at a path; *result becomes the file itself of a sweep. KV_DATA; `verb` begins the message.
 */
bool kv_plot_is_result(const char **result, enum kv_plot_result *of, const char *verb, struct kv_arena *a,
                       struct kv_err *e);

#endif
