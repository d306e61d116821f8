/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What [sweep] says, before its points are resolved. */
#ifndef KV_SWEEP_GRID_H
#define KV_SWEEP_GRID_H

#include "sim/sweep.h"

/* Fills the axes and the number of points; KV_USAGE with every mistake that shows without resolving a point. Wrong keys
 * are left out, so that the others can be looked at: false when there is nothing to look at. */
bool kv_sweep_grid(struct kv_sweep *s, const struct kv_ini *ini, struct kv_arena *a, struct kv_err *e);

#endif
