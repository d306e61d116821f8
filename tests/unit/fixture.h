/* SPDX-License-Identifier: GPL-3.0-or-later */
/* For fixtures: a folder of a test's own, and what must come true or else says the mistake in f->e. */
#ifndef KV_TEST_FIXTURE_H
#define KV_TEST_FIXTURE_H

#include "sim/core/arena.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#define MUST(truth)                                                                                                    \
    do {                                                                                                               \
        if (!(truth))                                                                                                  \
            fail_msg("%s: %s", #truth, f->e.text);                                                                     \
    } while (0)

/* Empty; who asks for it removes it. */
static inline char *make_folder(const char *name, struct kv_arena *a)
{
    const char *tmp = getenv("KV_TMP");
    char *folder = kv_format(a, "%s/%sXXXXXX", tmp ? tmp : "/tmp", name);
    assert_non_null(mkdtemp(folder));
    return folder;
}

#endif
