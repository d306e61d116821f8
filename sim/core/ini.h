/* SPDX-License-Identifier: GPL-3.0-or-later */
/* INI files with line numbers. inih parses; this layer judges each line first, because the library itself drops what is
 * beyond 199 characters, cannot say where it is, stops being told of errors after the first, and makes an indented
 * `key = value` part of the value above. Every mistake of a file is said, as `FILE:LINE: what; what to do`. */
#ifndef KV_INI_H
#define KV_INI_H

#include "sim/core/arena.h"

#include <stdint.h>
#include <stdio.h>

/* One `key = value`, wherever it was written: a file's line, a policy SPEC, `--set`. */
struct kv_setting {
    const char *key, *value;
    const char *where;  /* "configs/plan.ini:14: [engine]", "--set": how a message about it begins */
    const char *origin; /* "configs/plan.ini:14", "--set": where `config show` says it comes from */
    bool continued;     /* some of the value stood on indented lines below: fine for lists only */
};

struct kv_ini_section {
    const char *name;  /* "engine", "policy duo" */
    const char *where; /* "configs/plan.ini:12" */
    struct kv_setting *setting;
    int n;
};

struct kv_ini {
    const char *path;
    struct kv_ini_section *section; /* in file order; names are unique */
    int n;
    uint64_t hash; /* FNV-1a of the bytes read */
};

/* Reads PATH ("-": standard input). KV_DATA if it cannot be opened, KV_USAGE with every mistake otherwise; all objects
 * are the arena's. */
bool kv_ini_read(const char *path, struct kv_ini *ini, struct kv_arena *a, struct kv_err *e);

/* Adds, or replaces, `section.key=value` as `--set` gives it; makes the section when there is none. The last '.' before
 * the '=' ends the section's name. `from`: the line of a file it stands on instead, "sweep.ini:14: [sweep]"; NULL:
 * `--set`. */
bool kv_ini_set(struct kv_ini *ini, const char *assignment, const char *from, struct kv_arena *a, struct kv_err *e);

/* NULL when there is none. */
const struct kv_ini_section *kv_ini_find(const struct kv_ini *ini, const char *section);

#endif
