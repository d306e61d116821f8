/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What a config may say, as tables. A field's row is the one place that knows its key, type, unit, default, range and
 * meaning; the reader, the checks, `config template|show|explain` and docs/CONFIG.md all come from it. */
#ifndef KV_SCHEMA_H
#define KV_SCHEMA_H

#include "sim/core/ini.h"

#include <stdint.h>

/* Of a value; behind each how it is stored. */
enum kv_type {
    KV_T_TEXT,  /* const char * (arena); NULL: unset */
    KV_T_BOOL,  /* bool */
    KV_T_COUNT, /* int64_t; KV_UNSET: unset */
    KV_T_BYTES, /* int64_t; KV_UNSET: unset */
    KV_T_REAL,  /* double; NaN: unset; so for the next five */
    KV_T_SHARE, /* 0 .. 1 */
    KV_T_SECONDS,
    KV_T_RATE,
    KV_T_BANDWIDTH,
    KV_T_FLOPS,
    KV_T_CHOICE, /* int: the place in `choices` */
    KV_T_COUNTS, /* struct kv_counts: comma separated, or on indented lines */
    KV_T_TEXTS,  /* struct kv_texts: the same */
};

#define KV_UNSET INT64_MIN

struct kv_counts {
    int64_t *at;
    int n;
};
struct kv_texts {
    const char **at;
    int n;
};

struct kv_field {
    const char *key;
    enum kv_type type;
    size_t offset;              /* in the struct it fills */
    const char *def;            /* as a config would write it; NULL or "auto": unset */
    double min, max;            /* of counts, bytes and reals, both 0: any */
    const char *const *choices; /* of KV_T_CHOICE, NULL at the end */
    const char *also;           /* what others call it, comma separated: for "did you mean" and the docs */
    const char *help;           /* one sentence */
};

/* One table bound to the struct it fills. `origin` is filled by kv_bind: (n,) where each value comes from. */
struct kv_bind {
    const struct kv_field *field;
    int n;
    void *base;
    const char **origin;
};

/* Puts defaults, then `n` settings, into the structs of the binds. Later settings win over earlier ones of other
 * origin. Every unknown key (with the nearest known one), wrong unit or value out of range is said. `preset` settings
 * (n_preset of them, may be NULL) are defaults of a kind: they are put in before the user's. */
bool kv_bind(struct kv_bind *bind, int n_binds, const struct kv_setting *preset, int n_preset,
             const struct kv_setting *setting, int n, struct kv_arena *a, struct kv_err *e);

/* The value as a config would write it. */
const char *kv_field_text(const struct kv_field *f, const void *base, struct kv_arena *a);
/* "count", "bytes (with unit)", "one of a, b, c", ... */
const char *kv_field_kind(const struct kv_field *f, struct kv_arena *a);
bool kv_field_is_set(const struct kv_field *f, const void *base);

/* The nearest of `n` words at a Damerau-Levenshtein distance of at most 2 (1 for words of up to 4 letters), or NULL. */
const char *kv_nearest(const char *word, const char *const *words, int n);

/* Whether `word` stands in a comma-separated list, which may be NULL. */
bool kv_in_list(const char *list, const char *word);

#endif
