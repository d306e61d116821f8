/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The plots of a replay: their rows, and the variables that tell scripts about them. */
#include "sim/csv.h"
#include "sim/plot_replay.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What fits into a picture: maps, bars and lines of policies, curves of families. A line of passes has no more points
 * than a picture has columns of pixels. */
enum { MOST_MAPS = 6, MOST_GROUPS = 12, MOST_LINES = 12, MOST_CURVES = 14, MOST_POINTS = 1000 };
enum { MAP_LETTERS = 46, NAME_LETTERS = 54, MOST_LANES = 1 << 16 };
static const double most_share = 1.001; /* a mean may be rounded */

/* The policy a row is about. In a file that was cut short after too many of them, the others are passed over. */
static struct kv_plot_policy *policy_of(const struct kv_plot_policies *s, const struct kv_plot *p,
                                        const struct kv_csv *in, int column, struct kv_plot_policy *near,
                                        struct kv_err *e)
{
    struct kv_plot_policy *q = kv_plot_policy(s, in->cell[column], near);
    if (!q && !p->note)
        kv_csv_fail(in, column, e, "has no row in policies.csv");
    return q;
}

/* in_NAME = ' 1 3': the numbers, from 1, of the lines that have any of it. */
static void put_list(FILE *out, const char *name, const bool *has, int n)
{
    fprintf(out, "in_%s = '", name);
    for (int i = 0; i < n; i++)
        if (has[i])
            fprintf(out, " %d", i + 1);
    fputs("'\n", out);
}

/* Room for one more of n things of `size` bytes. */
static void *more_room(void *list, int64_t n, int64_t *room, size_t size, struct kv_arena *a)
{
    if (n < *room)
        return list;
    void *more = kv_alloc(a, (size_t)(*room = *room ? 2 * *room : 256) * size);
    if (n)
        memcpy(more, list, (size_t)n * size);
    return more;
}

/* ---- heads: a map of lanes for each policy ---- */

struct lane {
    struct kv_plot_policy *policy;
    int64_t layer, head;
    double kept, mass;
};

struct lanes {
    struct lane *lane; /* (n,) in the order of heads.csv */
    int64_t n, room, layers, heads;
};

static bool read_lanes(struct lanes *all, const struct kv_plot_policies *s, struct kv_plot *p, const char *result,
                       struct kv_err *e)
{
    static const char *const names[] = {"policy", "layer", "head", "kept_share", "mass_kept"};
    struct kv_plot_policy *near = NULL;
    struct kv_csv in;
    int column[5];
    if (!kv_csv_open(&in, kv_format(p->arena, "%s/heads.csv", result), p->arena, e))
        return false;
    bool good = kv_plot_bind(&in, names, 5, column, "replay", e);
    while (good && kv_plot_next_row(&in, e)) {
        struct lane lane = {.policy = near = policy_of(s, p, &in, column[0], near, e)};
        int errors = e->n;
        kv_csv_count(&in, column[1], 0, MOST_LANES - 1, &lane.layer, e);
        kv_csv_count(&in, column[2], 0, MOST_LANES - 1, &lane.head, e);
        kv_plot_number(&in, column[3], 0, most_share, false, &lane.kept, e);
        kv_plot_number(&in, column[4], 0, most_share, true, &lane.mass, e);
        if (e->n > errors || !lane.policy)
            continue;
        all->lane = more_room(all->lane, all->n, &all->room, sizeof lane, p->arena);
        all->lane[all->n++] = lane;
        all->layers = lane.layer >= all->layers ? lane.layer + 1 : all->layers;
        all->heads = lane.head >= all->heads ? lane.head + 1 : all->heads;
    }
    kv_csv_close(&in);
    return !e->n;
}

/* The shown number of the lanes of each policy in the picture. */
static void put_extents(FILE *out, const struct lanes *all, bool mass, int n)
{
    double sum[MOST_MAPS] = {0}, least[MOST_MAPS] = {0}, most[MOST_MAPS] = {0};
    int64_t known[MOST_MAPS] = {0};
    for (const struct lane *l = all->lane; l < all->lane + all->n; l++) {
        int i = l->policy->line - 1;
        double x = mass ? l->mass : l->kept;
        if (i < 0 || isnan(x))
            continue;
        least[i] = !known[i] || x < least[i] ? x : least[i];
        most[i] = !known[i] || x > most[i] ? x : most[i];
        sum[i] += x;
        known[i]++;
    }
    fprintf(out, "map_layers = %lld\nmap_heads = %lld\narray mean[%d]\narray least[%d]\narray most[%d]\n",
            (long long)all->layers, (long long)all->heads, n, n, n);
    for (int i = 0; i < n; i++)
        fprintf(out, "mean[%d] = %.17g\nleast[%d] = %.17g\nmost[%d] = %.17g\n", i + 1,
                known[i] ? sum[i] / (double)known[i] : 0., i + 1, least[i], i + 1, most[i]);
}

/* A map of a policy that keeps everything in every lane is one colour: such have none while others have one. */
bool kv_plot_read_heads(struct kv_plot *p, const char *result, struct kv_err *e)
{
    struct kv_plot_policies s;
    struct lanes all = {0};
    struct kv_plot_variables v;
    bool mass = !strcmp(p->kind->shown, "mass_kept");
    bool any[KV_PLOT_MOST_POLICIES] = {false}, evicts[KV_PLOT_MOST_POLICIES] = {false};
    int n_any = 0, n_evict = 0;
    if (!kv_plot_read_policies(&s, p, result, e) || !read_lanes(&all, &s, p, result, e))
        return false;
    for (const struct lane *l = all.lane; l < all.lane + all.n; l++) {
        any[l->policy - s.policy] |= !mass || !isnan(l->mass);
        evicts[l->policy - s.policy] |= l->kept < 1 && (!mass || !isnan(l->mass));
    }
    for (int i = 0; i < s.n; i++) {
        n_any += any[i];
        n_evict += evicts[i];
    }
    p->n = kv_plot_choose(&s, n_evict ? evicts : any, MOST_MAPS);
    if (all.n && !p->n)
        p->nothing = kv_format(p->arena,
                               "mass_kept of %s/heads.csv is empty: no attention was recorded, or none evicts", result);
    if (!p->n)
        return true;
    for (const struct lane *l = all.lane; l < all.lane + all.n; l++) {
        struct kv_cell *row = l->policy->line ? kv_table_row(&p->table) : NULL;
        if (!row)
            continue;
        kv_set_whole(&p->table, row, "line", l->policy->line);
        kv_set_whole(&p->table, row, "layer", l->layer);
        kv_set_whole(&p->table, row, "head", l->head);
        kv_set_real(&p->table, row, "kept_share", l->kept);
        kv_set_real(&p->table, row, "mass_kept", l->mass);
        kv_set_text(&p->table, row, "policy", l->policy->name);
    }
    kv_plot_begin_variables(&v);
    kv_plot_put_policies(v.out, &s, MAP_LETTERS, p->arena);
    fprintf(v.out, "evicting = %d\nkeeping = %d\n", n_evict, n_any - n_evict);
    put_extents(v.out, &all, mass, p->n);
    kv_plot_end_variables(&v, p);
    return true;
}

/* ---- mass: shares against footprints, a curve for each family ---- */

/* The next of a family by footprint, the largest first, from `after` on; NULL at the end. Equal ones by rank. */
static const struct kv_plot_policy *next_point(const struct kv_plot_policies *s, int family,
                                               const struct kv_plot_policy *after)
{
    const struct kv_plot_policy *best = NULL;
    for (const struct kv_plot_policy *q = s->policy; q < s->policy + s->n; q++) {
        double x = q->share[KV_PLOT_FOOTPRINT], from = after ? after->share[KV_PLOT_FOOTPRINT] : INFINITY;
        if (q->family != family || x > from || (after && x >= from && q->rank <= after->rank))
            continue;
        if (!best || x > best->share[KV_PLOT_FOOTPRINT] ||
            (x >= best->share[KV_PLOT_FOOTPRINT] && q->rank < best->rank))
            best = q;
    }
    return best;
}

bool kv_plot_read_mass(struct kv_plot *p, const char *result, struct kv_err *e)
{
    static const char *const names[] = {"kv_footprint", "mass_kept", "mass_inner", "mass_later", "marks_kept"};
    struct kv_plot_policies s;
    struct kv_plot_variables v;
    bool known[5] = {false};
    int64_t first[MOST_CURVES], last[MOST_CURVES];
    if (!kv_plot_read_policies(&s, p, result, e))
        return false;
    for (int i = 0; i < s.n; i++)
        for (int k = 1; k < 5; k++)
            known[k] |= !isnan(s.policy[i].share[k]);
    if (s.n && !known[1] && !known[4])
        p->nothing = kv_format(p->arena,
                               "mass_kept and marks_kept of %s/policies.csv are empty: neither attention "
                               "over all keys nor marks were recorded",
                               result);
    if (!s.n || p->nothing)
        return true;
    p->n = s.n_families < MOST_CURVES ? s.n_families : MOST_CURVES;
    for (int f = 0; f < p->n; f++) {
        first[f] = p->table.n_rows;
        for (const struct kv_plot_policy *q = NULL; (q = next_point(&s, f, q));) {
            struct kv_cell *row = kv_table_row(&p->table);
            kv_set_whole(&p->table, row, "line", f + 1);
            kv_set_whole(&p->table, row, "rank", q->rank);
            for (int k = 0; k < 5; k++)
                kv_set_real(&p->table, row, names[k], q->share[k]);
            kv_set_text(&p->table, row, "policy", q->name);
        }
        last[f] = p->table.n_rows - 1;
    }
    kv_plot_begin_variables(&v);
    kv_plot_put_families(v.out, &s, p->n, NAME_LETTERS, p->arena);
    kv_plot_put_wholes(v.out, "first", first, p->n);
    kv_plot_put_wholes(v.out, "last", last, p->n);
    for (int k = 1; k < 5; k++) {
        bool knows[MOST_CURVES] = {false};
        for (const struct kv_plot_policy *q = s.policy; q < s.policy + s.n; q++)
            if (q->family < p->n)
                knows[q->family] |= !isnan(q->share[k]);
        put_list(v.out, names[k], knows, p->n);
    }
    kv_plot_end_variables(&v, p);
    return true;
}

/* ---- pages: bytes at the end, a group of bars for each policy ---- */

bool kv_plot_read_tax(struct kv_plot *p, const char *result, struct kv_err *e)
{
    struct kv_plot_policies s;
    struct kv_plot_variables v;
    bool may[KV_PLOT_MOST_POLICIES] = {false}, in_place = false;
    if (!kv_plot_read_policies(&s, p, result, e))
        return false;
    for (int i = 0; i < s.n; i++) {
        for (int k = 0; k < 4; k++)
            may[i] |= s.policy[i].size[k] >= 0;
        for (int k = 4; k < KV_PLOT_SIZES; k++)
            in_place |= s.policy[i].size[k] >= 0;
    }
    p->n = kv_plot_choose(&s, may, MOST_GROUPS);
    if (s.n && !p->n)
        p->nothing = kv_format(p->arena, "held_end_bytes and bytes in pages of %s/policies.csv are empty", result);
    if (!p->n)
        return true;
    for (const struct kv_plot_policy *q = s.policy; q < s.policy + s.n; q++) {
        struct kv_cell *row = q->line ? kv_table_row(&p->table) : NULL;
        if (!row)
            continue;
        row[0].whole = q->line;
        for (int k = 0; k < KV_PLOT_SIZES; k++)
            row[1 + k].whole = q->size[k];
        kv_set_text(&p->table, row, "policy", q->name);
    }
    kv_plot_begin_variables(&v);
    kv_plot_put_policies(v.out, &s, NAME_LETTERS, p->arena);
    fprintf(v.out, "in_place = %d\n", in_place);
    kv_plot_end_variables(&v, p);
    return true;
}

/* ---- timeline: what is held over tokens, a line for each policy ---- */

struct pass {
    struct kv_plot_policy *policy;
    int64_t seen, within, end;
    double held, kept;
};

struct passes {
    struct pass *pass; /* (n,) in the order of timeline.csv */
    int64_t n, room, prompt;
    bool bytes; /* known */
};

/* A pass that does not go on where its policy's last one ended is one of a policy that was asked for twice. */
static bool read_passes(struct passes *all, const struct kv_plot_policies *s, struct kv_plot *p, const char *result,
                        struct kv_err *e)
{
    static const char *const names[] = {"policy",    "seen_tokens", "in_pass_bytes", "end_bytes",
                                        "mass_held", "mass_kept",   "phase"};
    struct kv_plot_policy *near = NULL;
    struct kv_csv in;
    int column[7];
    int64_t *seen = KV_NEW_N(p->arena, int64_t, KV_PLOT_MOST_POLICIES);
    if (!kv_csv_open(&in, kv_format(p->arena, "%s/timeline.csv", result), p->arena, e))
        return false;
    bool good = kv_plot_bind(&in, names, 7, column, "replay", e);
    while (good && kv_plot_next_row(&in, e)) {
        struct pass pass = {.policy = near = policy_of(s, p, &in, column[0], near, e), .within = -1, .end = -1};
        int errors = e->n;
        kv_csv_count(&in, column[1], 1, INT64_MAX, &pass.seen, e);
        if (*in.cell[column[2]])
            kv_csv_count(&in, column[2], 0, INT64_MAX, &pass.within, e);
        if (*in.cell[column[3]])
            kv_csv_count(&in, column[3], 0, INT64_MAX, &pass.end, e);
        kv_plot_number(&in, column[4], 0, most_share, true, &pass.held, e);
        kv_plot_number(&in, column[5], 0, most_share, true, &pass.kept, e);
        if (e->n > errors || !pass.policy || pass.seen <= seen[pass.policy - s->policy])
            continue;
        seen[pass.policy - s->policy] = pass.seen;
        if (!strcmp(in.cell[column[6]], "prefill") && pass.seen > all->prompt)
            all->prompt = pass.seen;
        all->bytes |= pass.within >= 0 && pass.end >= 0;
        all->pass = more_room(all->pass, all->n, &all->room, sizeof pass, p->arena);
        all->pass[all->n++] = pass;
    }
    kv_csv_close(&in);
    return !e->n;
}

static void add_point(struct kv_plot *p, const struct pass *at, int64_t bytes)
{
    struct kv_cell *row = kv_table_row(&p->table);
    kv_set_whole(&p->table, row, "line", at->policy->line);
    kv_set_whole(&p->table, row, "seen_tokens", at->seen);
    kv_set_whole(&p->table, row, "bytes", bytes);
    kv_set_real(&p->table, row, "mass_held", at->held);
    kv_set_real(&p->table, row, "mass_kept", at->kept);
    kv_set_text(&p->table, row, "policy", at->policy->name);
}

/* Several passes as one: the most within them, what the last left, means of shares over those that know them. */
struct several {
    struct pass pass;
    int64_t n, held, kept;
};

static void join(struct several *s, const struct pass *pass)
{
    int64_t within = s->n && s->pass.within > pass->within ? s->pass.within : pass->within;
    double held = s->held ? s->pass.held : 0, kept = s->kept ? s->pass.kept : 0;
    s->pass = *pass;
    s->pass.within = within;
    s->held += !isnan(pass->held);
    s->kept += !isnan(pass->kept);
    held += isnan(pass->held) ? 0 : (pass->held - held) / (double)s->held;
    kept += isnan(pass->kept) ? 0 : (pass->kept - kept) / (double)s->kept;
    s->pass.held = s->held ? held : NAN;
    s->pass.kept = s->kept ? kept : NAN;
    s->n++;
}

/* A policy's passes, each as two points at its last token; before the first nothing is held. How many are one. */
static int64_t add_line(struct kv_plot *p, const struct passes *all, const struct kv_plot_policy *q)
{
    const struct pass *begin = all->pass, *end = all->pass + all->n;
    struct several s = {0};
    int64_t n = 0, left;
    for (const struct pass *at = begin; at < end; at++)
        n += at->policy == q;
    int64_t each = (n + MOST_POINTS - 1) / MOST_POINTS;
    left = n;
    for (const struct pass *at = begin; at < end; at++) {
        if (at->policy != q)
            continue;
        if (left == n)
            add_point(p, &(struct pass){.policy = at->policy, .held = NAN, .kept = NAN}, 0);
        join(&s, at);
        if (s.n == each || left == 1) {
            add_point(p, &s.pass, s.pass.within);
            add_point(p, &s.pass, s.pass.end);
            s.n = s.held = s.kept = 0;
        }
        left--;
    }
    return each;
}

bool kv_plot_read_timeline(struct kv_plot *p, const char *result, struct kv_err *e)
{
    struct kv_plot_policies s;
    struct passes all = {0};
    struct kv_plot_variables v;
    bool may[KV_PLOT_MOST_POLICIES] = {false};
    int64_t first[MOST_LINES], last[MOST_LINES], each = 1;
    if (!kv_plot_read_policies(&s, p, result, e) || !read_passes(&all, &s, p, result, e))
        return false;
    for (const struct pass *at = all.pass; at < all.pass + all.n; at++)
        may[at->policy - s.policy] = true;
    if (all.n && !all.bytes)
        p->nothing = kv_format(p->arena, "in_pass_bytes and end_bytes of %s/timeline.csv are empty", result);
    p->n = p->nothing ? 0 : kv_plot_choose(&s, may, MOST_LINES);
    if (!p->n)
        return true;
    for (const struct kv_plot_policy *q = s.policy; q < s.policy + s.n; q++) {
        if (!q->line)
            continue;
        first[q->line - 1] = p->table.n_rows;
        int64_t of_one = add_line(p, &all, q);
        each = of_one > each ? of_one : each;
        last[q->line - 1] = p->table.n_rows - 1;
    }
    kv_plot_begin_variables(&v);
    kv_plot_put_policies(v.out, &s, NAME_LETTERS, p->arena);
    kv_plot_put_wholes(v.out, "first", first, p->n);
    kv_plot_put_wholes(v.out, "last", last, p->n);
    fprintf(v.out, "prompt = %lld\neach = %lld\n", (long long)all.prompt, (long long)each);
    for (int k = 0; k < 3; k++) {
        static const char *const names[] = {"bytes", "mass_held", "mass_kept"};
        bool has[MOST_LINES] = {false};
        for (const struct pass *at = all.pass; at < all.pass + all.n; at++)
            if (at->policy->line)
                has[at->policy->line - 1] |= k ? !isnan(k == 1 ? at->held : at->kept) : at->within >= 0 && at->end >= 0;
        put_list(v.out, names[k], has, p->n);
    }
    kv_plot_end_variables(&v, p);
    return true;
}
