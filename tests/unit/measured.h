/* SPDX-License-Identifier: GPL-3.0-or-later */
/* For tests on measured tables, which may lie beside the tree: an arena for all of them, and where tables are. */
#ifndef KV_TEST_MEASURED_H
#define KV_TEST_MEASURED_H

#include "sim/core/arena.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static struct kv_arena *arena;

static int set_up(void **state)
{
    (void)state;
    arena = kv_arena_open();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    kv_arena_close(arena);
    return 0;
}

/* NULL, with the reason, when it is not there. */
static const char *measured(const char *name)
{
    const char *root = getenv("MEASURED");
    const char *path = root && *root ? kv_format(arena, "%s/%s", root, name) : NULL;
    if (path && !access(path, F_OK))
        return path;
    print_message("skipped: no measured tables '%s'; MEASURED=DIR says where they are\n", name);
    return NULL;
}

#endif
