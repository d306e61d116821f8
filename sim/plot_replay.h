/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The policies of a replay as its plots share them: families, which have a colour, and which of them a picture shows.
 */
#ifndef KV_PLOT_REPLAY_H
#define KV_PLOT_REPLAY_H

#include "sim/plot_data.h"

/* kvsim replays no more runs at once. */
enum { KV_PLOT_MOST_POLICIES = 1024 };

/* What policies.csv says in numbers: shares (NaN: unknown), then bytes (-1: unknown). */
enum kv_plot_share {
    KV_PLOT_FOOTPRINT,
    KV_PLOT_MASS_KEPT,
    KV_PLOT_MASS_INNER,
    KV_PLOT_MASS_LATER,
    KV_PLOT_MARKS_KEPT,
    KV_PLOT_KEEP,
    KV_PLOT_SHARES
};
enum { KV_PLOT_SIZES = 7 }; /* entries held at the end, and pages: layouts, then layouts in place */

struct kv_plot_policy {
    const char *name, *shown; /* as in the files; for people */
    int64_t chunk;
    double share[KV_PLOT_SHARES];
    int64_t size[KV_PLOT_SIZES];
    int family, rank; /* rank: its place in the family, the largest budget first */
    int line;         /* its number in the picture, from 1; 0: not in it */
};

struct kv_plot_family {
    const char *name, *shown; /* a SPEC without its keep; for people */
    int n;
};

struct kv_plot_policies {
    struct kv_plot_policy *policy; /* (n,) in the order of policies.csv */
    struct kv_plot_family *family; /* (n_families,) by their first policies */
    int n, n_families;
    int64_t one_chunk; /* 0: chunks differ */
};

/* Reads policies.csv of a replay. KV_DATA. */
bool kv_plot_read_policies(struct kv_plot_policies *s, struct kv_plot *p, const char *result, struct kv_err *e);
/* The policy of this name, or NULL. `near`: where to look first, or NULL. */
struct kv_plot_policy *kv_plot_policy(const struct kv_plot_policies *s, const char *name, struct kv_plot_policy *near);
/* Numbers at most `most` policies, of those that `may` (NULL: any): some of each family, budgets spread. How many. */
int kv_plot_choose(struct kv_plot_policies *s, const bool *may, int most);
/* Writes names and tones of those that were chosen. */
void kv_plot_put_policies(FILE *out, const struct kv_plot_policies *s, int most_letters, struct kv_arena *a);
/* The same of the first n families. */
void kv_plot_put_families(FILE *out, const struct kv_plot_policies *s, int n, int most_letters, struct kv_arena *a);

#endif
