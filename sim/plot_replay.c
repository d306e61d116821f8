/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What the plots of a replay share: its policies, their families and colours, and what titles say. */
#include "sim/plot_replay.h"

#include "sim/core/units.h"
#include "sim/csv.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TITLE_LETTERS = 40, MOST_CHUNK = 1 << 30 };

/* ---- names ---- */

static const char *skip_letters(const char *text, int n)
{
    while (*text && (n > 0 || (*text & 0xC0) == 0x80)) {
        text++;
        n -= (*text & 0xC0) != 0x80;
    }
    return text;
}

static bool is_keep(const char *key)
{
    key += strspn(key, " \t");
    return !strncmp(key, "keep", 4) && key[4 + strspn(key + 4, " \t")] == '=';
}

/* A SPEC, kind:key=value,..., without its keep: what policies that are points of one curve have in common. */
static const char *without_keep(const char *spec, const char **keep, struct kv_arena *a)
{
    *keep = "";
    for (const char *at = spec + strcspn(spec, ":"); *at; at += 1 + strcspn(at + 1, ",")) {
        size_t length = strcspn(at + 1, ",");
        const char *behind = at + 1 + length, *before = kv_copy_part(a, spec, (size_t)(at - spec));
        if (!is_keep(at + 1))
            continue;
        *keep = kv_copy_part(a, at + 1, length);
        return *at == ':' && *behind ? kv_format(a, "%s:%s", before, behind + 1) : kv_format(a, "%s%s", before, behind);
    }
    return spec;
}

/* At most `most` letters: what goes is from the middle, at commas if there are any near. A budget stays: it tells the
 * policies of a family apart. */
static const char *shorten(const char *text, int most, struct kv_arena *a)
{
    const char *clean = kv_plot_printable(text, 1 << 20, a), *keep, *tail;
    if (kv_plot_letters(clean) <= most)
        return clean;
    const char *rest = without_keep(clean, &keep, a);
    if (*keep && kv_plot_letters(keep) <= most / 2)
        return kv_format(a, "%s%c%s", shorten(rest, most - kv_plot_letters(keep) - 1, a), strchr(rest, ':') ? ',' : ':',
                         keep);
    int n = kv_plot_letters(clean);
    tail = strchr(skip_letters(clean, n - most / 2), ',');
    tail = tail ? tail : skip_letters(clean, n - most / 3);
    const char *head = kv_copy_part(a, clean, (size_t)(skip_letters(clean, most - kv_plot_letters(tail) - 3) - clean));
    const char *comma = strrchr(head, ',');
    if (comma && comma - head > most / 4)
        head = kv_copy_part(a, head, (size_t)(comma + 1 - head));
    return kv_format(a, "%s...%s", head, tail);
}

/* ---- policies ---- */

struct kv_plot_policy *kv_plot_policy(const struct kv_plot_policies *s, const char *name, struct kv_plot_policy *near)
{
    if (near && !strcmp(near->name, name))
        return near;
    for (struct kv_plot_policy *q = s->policy; q < s->policy + s->n; q++)
        if (!strcmp(q->name, name))
            return q;
    return NULL;
}

static void join_family(struct kv_plot_policies *s, struct kv_plot_policy *q, struct kv_arena *a)
{
    const char *keep, *name = without_keep(q->name, &keep, a);
    q->family = 0;
    while (q->family < s->n_families && strcmp(s->family[q->family].name, name))
        q->family++;
    if (q->family == s->n_families)
        s->family[s->n_families++] = (struct kv_plot_family){.name = name};
    s->family[q->family].n++;
}

static double budget(const struct kv_plot_policy *q)
{
    return isnan(q->share[KV_PLOT_KEEP]) ? q->share[KV_PLOT_FOOTPRINT] : q->share[KV_PLOT_KEEP];
}

static void rank(struct kv_plot_policies *s)
{
    for (struct kv_plot_policy *q = s->policy; q < s->policy + s->n; q++)
        for (const struct kv_plot_policy *other = s->policy; other < s->policy + s->n; other++)
            q->rank +=
                other->family == q->family && (budget(other) > budget(q) || (other < q && budget(other) >= budget(q)));
}

static bool read_policy(const struct kv_csv *in, const int *column, struct kv_plot_policy *q, struct kv_arena *a,
                        struct kv_err *e)
{
    static const double most[KV_PLOT_SHARES] = {1e6, 1.001, 1.001, 1.001, 1.001, 1e6}; /* metadata can pass 1 */
    int errors = e->n, c = 2;
    *q = (struct kv_plot_policy){.name = kv_copy_text(a, in->cell[column[0]])};
    if (!*q->name)
        kv_csv_fail(in, column[0], e, "is empty");
    kv_csv_count(in, column[1], 0, MOST_CHUNK, &q->chunk, e);
    for (int i = 0; i < KV_PLOT_SHARES; i++, c++)
        kv_plot_number(in, column[c], 0, most[i], i != KV_PLOT_FOOTPRINT, &q->share[i], e);
    for (int i = 0; i < KV_PLOT_SIZES; i++, c++) {
        q->size[i] = -1;
        if (*in->cell[column[c]])
            kv_csv_count(in, column[c], 0, INT64_MAX, &q->size[i], e);
    }
    return e->n == errors;
}

/* A policy that was asked for twice has two rows, which are the same. */
bool kv_plot_read_policies(struct kv_plot_policies *s, struct kv_plot *p, const char *result, struct kv_err *e)
{
    static const char *const names[] = {
        "policy",
        "chunk_tokens",
        "kv_footprint",
        "mass_kept",
        "mass_inner",
        "mass_later",
        "marks_kept",
        "keep",
        "held_end_bytes",
        "per_head_end_bytes",
        "per_layer_end_bytes",
        "shared_end_bytes",
        "per_head_in_place_end_bytes",
        "per_layer_in_place_end_bytes",
        "shared_in_place_end_bytes",
    };
    enum { COLUMNS = sizeof names / sizeof *names };
    struct kv_arena *a = p->arena;
    struct kv_csv in;
    int column[COLUMNS];
    const char *path = kv_format(a, "%s/policies.csv", result);
    *s = (struct kv_plot_policies){.policy = KV_NEW_N(a, struct kv_plot_policy, KV_PLOT_MOST_POLICIES + 1),
                                   .family = KV_NEW_N(a, struct kv_plot_family, KV_PLOT_MOST_POLICIES + 1)};
    if (!kv_csv_open(&in, path, a, e))
        return false;
    bool good = kv_plot_bind(&in, names, COLUMNS, column, "replay", e);
    while (good && kv_plot_next_row(&in, e)) {
        struct kv_plot_policy *q = &s->policy[s->n];
        if (!read_policy(&in, column, q, a, e) || kv_plot_policy(s, q->name, NULL))
            continue;
        if (s->n == KV_PLOT_MOST_POLICIES) {
            p->note = kv_format(a, "shows the first %d policies of %s", KV_PLOT_MOST_POLICIES, path);
            break;
        }
        join_family(s, q, a);
        s->one_chunk = s->n && q->chunk != s->one_chunk ? 0 : q->chunk;
        s->n++;
    }
    kv_csv_close(&in);
    rank(s);
    return !e->n;
}

/* ---- which of them a picture shows ---- */

/* Of n things, which `of` evenly spread ones are taken: the j-th. */
static int spread(int j, int of, int n)
{
    return of == 1 ? n / 2 : (int)(((int64_t)j * (n - 1) + (of - 1) / 2) / (of - 1));
}

/* A family's policies that may be shown, by rank. */
static int members(const struct kv_plot_policies *s, const bool *may, int family, int *member)
{
    int n = 0;
    for (int rank = 0; rank < s->family[family].n; rank++)
        for (int i = 0; i < s->n; i++)
            if (s->policy[i].family == family && s->policy[i].rank == rank && (!may || may[i]))
                member[n++] = i;
    return n;
}

int kv_plot_choose(struct kv_plot_policies *s, const bool *may, int most)
{
    int member[KV_PLOT_MOST_POLICIES], room[KV_PLOT_MOST_POLICIES], quota[KV_PLOT_MOST_POLICIES] = {0}, lines = 0;
    for (int f = 0; f < s->n_families; f++)
        room[f] = members(s, may, f, member);
    for (int more = 1; more && (!lines || lines + more <= most);) { /* whole rounds: one more of each that has more */
        for (int f = more = 0; f < s->n_families && lines < most; f++)
            if (quota[f] < room[f]) {
                quota[f]++;
                lines++;
            }
        for (int f = 0; f < s->n_families; f++)
            more += quota[f] < room[f];
    }
    for (int i = 0; i < s->n; i++)
        s->policy[i].line = 0;
    for (int f = 0; f < s->n_families; f++) {
        int n = quota[f] ? members(s, may, f, member) : 0;
        for (int j = 0; j < quota[f]; j++)
            s->policy[member[spread(j, quota[f], n)]].line = 1;
    }
    lines = 0;
    for (int i = 0; i < s->n; i++)
        s->policy[i].line = s->policy[i].line ? ++lines : 0;
    return lines;
}

/* ---- variables of a script ---- */

/* Names that were shortened to the same text get their numbers. */
static const char *shown_name(const struct kv_plot_policies *s, const struct kv_plot_policy *q, int most,
                              struct kv_arena *a)
{
    char chunk[KV_NUMBER_TEXT];
    const char *name = shorten(q->name, most, a);
    for (const struct kv_plot_policy *other = s->policy; other < q; other++)
        if (other->line && !strcmp(other->shown, name))
            return kv_format(a, "%s (%d)", name, q->line);
    return s->one_chunk ? name : kv_format(a, "%s, chunk %s", name, kv_print_count(chunk, q->chunk));
}

static const char *shown_family(const struct kv_plot_policies *s, const struct kv_plot_family *f, int most,
                                struct kv_arena *a)
{
    const char *name = shorten(f->name, most, a);
    for (const struct kv_plot_family *other = s->family; other < f; other++)
        if (!strcmp(other->shown, name))
            return kv_format(a, "%s (%d)", name, (int)(f - s->family) + 1);
    return name;
}

void kv_plot_put_policies(FILE *out, const struct kv_plot_policies *s, int most_letters, struct kv_arena *a)
{
    int n = 0, longest = 0;
    int64_t family[KV_PLOT_MOST_POLICIES], number[KV_PLOT_MOST_POLICIES], of[KV_PLOT_MOST_POLICIES];
    for (struct kv_plot_policy *q = s->policy; q < s->policy + s->n; q++) {
        if (!q->line)
            continue;
        q->shown = shown_name(s, q, most_letters, a);
        longest = kv_plot_letters(q->shown) > longest ? kv_plot_letters(q->shown) : longest;
        family[n] = q->family + 1;
        number[n] = q->rank;
        of[n++] = s->family[q->family].n;
    }
    fprintf(out, "policies = %d\none_chunk = %lld\nlines = %d\narray name[%d]\n", s->n, (long long)s->one_chunk, n, n);
    for (const struct kv_plot_policy *q = s->policy; q < s->policy + s->n; q++)
        if (q->line)
            kv_plot_put_text(out, kv_format(a, "name[%d]", q->line), q->shown);
    kv_plot_put_wholes(out, "family_of", family, n);
    kv_plot_put_wholes(out, "rank_of", number, n);
    kv_plot_put_wholes(out, "ranks_of", of, n);
    fprintf(out, "letters = %d\n", longest);
}

void kv_plot_put_families(FILE *out, const struct kv_plot_policies *s, int n, int most_letters, struct kv_arena *a)
{
    int longest = 0;
    int64_t ranks[KV_PLOT_MOST_POLICIES];
    fprintf(out, "families = %d\none_chunk = %lld\nlines = %d\narray name[%d]\n", s->n_families,
            (long long)s->one_chunk, n, n);
    for (int i = 0; i < n; i++) {
        struct kv_plot_family *f = &s->family[i];
        f->shown = shown_family(s, f, most_letters, a);
        longest = kv_plot_letters(f->shown) > longest ? kv_plot_letters(f->shown) : longest;
        kv_plot_put_text(out, kv_format(a, "name[%d]", i + 1), f->shown);
        ranks[i] = f->n;
    }
    kv_plot_put_wholes(out, "ranks", ranks, n);
    fprintf(out, "letters = %d\n", longest);
}

/* ---- what titles say ---- */

/* Facts under the names of summary.json. */
bool kv_plot_put_replay_facts(FILE *out, const char *result, struct kv_arena *a, struct kv_err *e)
{
    static const char *const keys[] = {"model",           "loop",       "layers",   "kv_heads", "tokens",
                                       "recorded_passes", "block_size", "complete", "mass_of"};
    const char *path;
    json_t *root = kv_plot_read_summary(result, &path, a, e);
    if (!root)
        return false;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json_t *value = json_object_get(root, keys[i]);
        bool text = i < 2 || i == 8, good = text ? json_is_string(value) : json_is_integer(value);
        if ((i == 7 && json_is_boolean(value)) || (i == 8 && json_is_null(value)))
            good = true;
        if (!good)
            kv_fail(e, KV_DATA, "%s: no '%s'; it is no summary of 'kvsim replay'", path, keys[i]);
        else if (text)
            kv_plot_put_text(
                out, keys[i],
                kv_plot_printable(value && json_is_string(value) ? json_string_value(value) : "", TITLE_LETTERS, a));
        else
            fprintf(out, "%s = %lld\n", keys[i],
                    json_is_integer(value) ? json_integer_value(value) : json_is_true(value));
    }
    json_decref(root);
    return !e->n;
}
