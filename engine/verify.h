/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The parts of `kvengine verify`. */
#ifndef KV_VERIFY_H
#define KV_VERIFY_H

#include "engine/host.h"

struct kv_tally {
    int64_t passed, failed;
};

/* Every case of a folder of golden outputs; a line for each thing compared. */
bool kv_verify_golden(struct kv_host *h, const char *folder, struct kv_tally *t, struct kv_arena *a, struct kv_err *e);

#endif
