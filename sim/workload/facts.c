/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/workload/facts.h"

#include "sim/core/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- lengths ---- */

static void add(struct kv_spread *s, int64_t value)
{
    kv_quantiles_add(&s->all, (double)value);
    if (value >= KV_SPREAD_EXACT)
        return;
    if (value >= s->room) {
        int64_t room = s->room ? s->room : 1024;
        while (room <= value)
            room *= 2;
        s->count = realloc(s->count, (size_t)room * sizeof *s->count);
        KV_ASSERT(s->count); /* at most 16 MiB */
        memset(s->count + s->room, 0, (size_t)(room - s->room) * sizeof *s->count);
        s->room = room;
    }
    s->count[value]++;
}

double kv_spread_mean(const struct kv_spread *s)
{
    return s->all.n ? s->all.sum / (double)s->all.n : NAN;
}

int64_t kv_spread_quantile(const struct kv_spread *s, double share)
{
    if (s->all.most >= KV_SPREAD_EXACT)
        return llrint(kv_quantile(&s->all, share));
    int64_t rank = (int64_t)ceil(share * (double)s->all.n), below = 0;
    for (int64_t i = 0; i < s->room; i++) {
        below += s->count[i];
        if (below >= rank && below)
            return i;
    }
    return 0;
}

const char *kv_spread_bins(const struct kv_spread *s, struct kv_arena *a)
{
    const char *text = "";
    size_t line = 0;
    if (s->all.most >= KV_SPREAD_EXACT)
        return NULL;
    for (int64_t least = 1, most; least <= (int64_t)s->all.most; least = most + 1) {
        int64_t octave = 1, n = 0;
        while (2 * octave <= least)
            octave *= 2;
        most = least + octave / 4 - (octave >= 4);
        for (int64_t i = least; i <= most && i < s->room; i++)
            n += s->count[i];
        if (!n)
            continue;
        const char *bin = least == most
                              ? kv_format(a, "%lld:%lld", (long long)least, (long long)n)
                              : kv_format(a, "%lld-%lld:%lld", (long long)least, (long long)most, (long long)n);
        bool wrap = line + strlen(bin) > 100;
        text = kv_format(a, "%s%s%s", text, !*text ? "" : wrap ? ",\n    " : ", ", bin);
        line = wrap ? strlen(bin) : line + strlen(bin) + 2;
    }
    return text;
}

/* ---- names seen before ---- */

struct names {
    uint64_t *slot; /* (room,) 0: free */
    int64_t n, room;
    bool zero;
};

/* Whether it was new. */
static bool put(struct names *s, uint64_t name)
{
    if (!name) {
        bool fresh = !s->zero;
        s->zero = true;
        return fresh;
    }
    if (2 * (s->n + 1) > s->room) {
        struct names more = {.room = s->room ? 2 * s->room : 4096, .zero = s->zero};
        more.slot = calloc((size_t)more.room, sizeof *more.slot);
        KV_ASSERT(more.slot); /* a few bytes for each block of the file */
        for (int64_t i = 0; i < s->room; i++)
            if (s->slot[i])
                put(&more, s->slot[i]);
        free(s->slot);
        *s = more;
    }
    uint64_t at = kv_mix(name), mask = (uint64_t)s->room - 1;
    for (; s->slot[at & mask]; at++)
        if (s->slot[at & mask] == name)
            return false;
    s->slot[at & mask] = name;
    s->n++;
    return true;
}

/* ---- all of it ---- */

struct sums {
    double last_s, gap, gap_square, wait;
    int64_t gaps, waits;
    struct names blocks, sessions;
    bool named;
};

static void take(struct kv_facts *f, struct sums *s, const struct kv_arrival *r)
{
    f->requests++;
    f->context += r->context;
    add(&f->prompt, r->prompt);
    add(&f->output, r->output);
    f->blocks += r->n_blocks;
    if (r->n_blocks)
        f->block_tokens = r->block_tokens;
    for (int64_t i = 0; i < r->n_blocks; i++)
        f->distinct += put(&s->blocks, r->block[i]);
    s->named |= r->session != KV_UNSET;
    if (r->session != KV_UNSET)
        put(&s->sessions, (uint64_t)r->session + 1);
}

static void take_first(struct kv_facts *f, struct sums *s, const struct kv_arrival *r)
{
    if (!f->first_turns++)
        f->first_s = r->arrival_s;
    else {
        double gap = r->arrival_s - s->last_s;
        s->gap += gap;
        s->gap_square += gap * gap;
        s->gaps++;
    }
    f->last_s = s->last_s = r->arrival_s;
}

bool kv_facts_gather(struct kv_facts *f, struct kv_workload *w, struct kv_err *e)
{
    struct sums s = {0};
    struct kv_arrival r;
    enum kv_next next;
    *f = (struct kv_facts){0};
    while ((next = kv_workload_next(w, &r, e)) != KV_NEXT_END) {
        if (next == KV_NEXT_BAD && e->n > KV_ERR_LINES)
            break;
        if (next == KV_NEXT_BAD)
            continue;
        int64_t turns = 1;
        take_first(f, &s, &r);
        take(f, &s, &r);
        while (r.follows && kv_workload_follow(w, &r, &r, e)) {
            take(f, &s, &r);
            s.wait += r.arrival_s;
            s.waits++;
            turns++;
        }
        add(&f->turns, turns);
    }
    double n = (double)s.gaps, mean = s.gap / n;
    f->skipped = kv_workload_skipped(w);
    f->gap_mean = s.gaps ? mean : NAN;
    f->gap_cv = s.gaps > 1 && mean > 0 ? sqrt(fmax(0, s.gap_square / n - mean * mean)) / mean : NAN;
    f->wait_mean = s.waits ? s.wait / (double)s.waits : NAN;
    f->sessions = s.named ? s.sessions.n : KV_UNSET;
    free(s.blocks.slot);
    free(s.sessions.slot);
    return !e->n;
}

void kv_facts_free(struct kv_facts *f)
{
    free(f->prompt.count);
    free(f->output.count);
    free(f->turns.count);
}
