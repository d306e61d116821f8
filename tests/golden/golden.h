/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What the suites of the golden runner share. */
#ifndef KV_GOLDEN_H
#define KV_GOLDEN_H

#include "sim/core/arena.h"

struct tally {
    int passed, failed, skipped;
    bool tap;
};

void check(struct tally *t, bool good, const char *name, const char *why);
void skip(struct tally *t, const char *name, const char *why);

/* Every CASE.json of FOLDER: kept sets of upstream policies. */
void run_policy_cases(struct tally *t, const char *folder);

#endif
