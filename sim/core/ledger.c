/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/core/ledger.h"

#include "sim/core/least.h"

#include <string.h>

const char *const kv_scope_names[] = {"layer", "pass", NULL};
const char *const kv_layout_names[] = {"per-head", "per-layer", "shared", NULL};

/* What one layer holds: entries, or pages of a layout. */
enum measure { ENTRIES, HEAD_PAGES, HEAD_PAGES_IN_PLACE, LAYER_PAGES, LAYER_PAGES_IN_PLACE, MEASURES };

/* One pass of a run: what each class holds, and what lies in place. A lane in place spans tokens [0, end) but for the
 * hole [sinks, hole_end) that its eviction left. */
struct line;
struct kv_snapshot {
    struct line *line[2];          /* (classes,) work space of sums */
    struct kv_member *all;         /* (classes,) every class once: the members of a shared table */
    int64_t *length[KV_MOMENTS];   /* (classes,) */
    int64_t *hole_end[KV_MOMENTS]; /* (classes,) */
    int64_t end[KV_MOMENTS];
    const struct kv_places *places;         /* of the run */
    int64_t (*value)[KV_MOMENTS][MEASURES]; /* (kinds of layers,) */
};

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* ---- sums over a run ---- */

int64_t kv_floor_sum(int64_t n, int64_t m, int64_t a, int64_t b)
{
    int64_t sum = 0;
    while (n > 0) {
        sum += n * (n - 1) / 2 * (a / m) + n * (b / m);
        a %= m;
        b %= m;
        int64_t top = a * n + b;
        if (top < m)
            break;
        n = top / m; /* count lattice points the other way round */
        b = top % m;
        int64_t swap = m;
        m = a;
        a = swap;
    }
    return sum;
}

/* value + slope x j */
struct line {
    int64_t value, slope;
};

/* The line that is largest from `j` on, and the first place beyond which another one is. */
static const struct line *upper_line(const struct line *line, int64_t n_lines, int64_t j, int64_t n, int64_t *until)
{
    const struct line *top = line;
    for (const struct line *l = line + 1; l < line + n_lines; l++) {
        int64_t a = l->value + l->slope * j, b = top->value + top->slope * j;
        if (a > b || (a == b && l->slope > top->slope))
            top = l;
    }
    *until = n;
    int64_t here = top->value + top->slope * j;
    for (const struct line *l = line; l < line + n_lines; l++)
        if (l->slope > top->slope)
            *until = kv_least(*until, j + (here - l->value - l->slope * j) / (l->slope - top->slope) + 1);
    return top;
}

/* ceil(largest line / page), summed over j = 0 .. n-1. */
static int64_t sum_pages(const struct line *line, int64_t n_lines, int64_t n, int64_t page)
{
    int64_t sum = 0;
    for (int64_t j = 0, until; j < n; j = until) {
        const struct line *top = upper_line(line, n_lines, j, n, &until);
        sum += kv_floor_sum(until - j, page, top->slope, top->value + top->slope * j + page - 1);
    }
    return sum;
}

/* Whole pages inside the hole that starts at `sinks` and ends at the lowest line: `line` holds minus that end. */
static int64_t sum_holes(const struct line *line, int64_t n_lines, int64_t n, int64_t page, int64_t sinks)
{
    int64_t sum = 0, first = ceil_div(sinks, page);
    for (int64_t j = 0, until; j < n; j = until) {
        const struct line *top = upper_line(line, n_lines, j, n, &until);
        int64_t end = -(top->value + top->slope * j), slope = -top->slope, from = j;
        if (end < (first + 1) * page) /* no whole page yet */
            from = slope ? j + ceil_div((first + 1) * page - end, slope) : until;
        if (from < until)
            sum += kv_floor_sum(until - from, page, slope, end + slope * (from - j)) - first * (until - from);
    }
    return sum;
}

/* ---- one pass of a run ---- */

static int64_t sinks_of(const struct kv_ledger *l, int64_t c)
{
    return l->classes->at[c].window ? 0 : l->policy->keys.sink_size;
}

static void take_snapshot(const struct kv_ledger *l, const struct kv_run *run, int64_t j)
{
    struct kv_snapshot *s = l->snap;
    const struct kv_pass *p = &run->pass;
    int64_t seen = p->seen + j * p->n_new;
    s->places = run->places;
    s->end[KV_BEFORE] = seen;
    s->end[KV_DURING] = seen + p->n_new + p->n_patch;
    s->end[KV_AFTER] = seen + p->n_new;
    for (int64_t c = 0; c < l->classes->n; c++) {
        int64_t before = run->before[c] + j * run->gain[c], after = before + run->gain[c];
        s->length[KV_BEFORE][c] = before;
        s->length[KV_DURING][c] = before + p->n_new + p->n_patch;
        s->length[KV_AFTER][c] = after;
        s->hole_end[KV_BEFORE][c] = s->hole_end[KV_DURING][c] = seen - before + sinks_of(l, c);
        s->hole_end[KV_AFTER][c] = seen + p->n_new - after + sinks_of(l, c);
    }
}

static int64_t pages_in_place(const struct kv_ledger *l, int64_t end, int64_t sinks, int64_t hole_end)
{
    /* a hole that reaches the end empties the last page too, full or not */
    int64_t last = hole_end == end ? ceil_div(end, l->page) : hole_end / l->page;
    return ceil_div(end, l->page) - kv_most(0, last - ceil_div(sinks, l->page));
}

static void measure_layer(const struct kv_ledger *l, int64_t layer, enum kv_moment at, int64_t value[MEASURES])
{
    const struct kv_snapshot *s = l->snap;
    int64_t longest = 0, sinks = 0, hole_end = INT64_MAX;
    memset(value, 0, sizeof(int64_t) * MEASURES);
    for (int64_t i = l->classes->first[layer]; i < l->classes->first[layer + 1]; i++) {
        int64_t c = l->classes->member[i].class_index, lanes = l->classes->member[i].lanes;
        int64_t length = s->length[at][c];
        value[ENTRIES] += lanes * length;
        value[HEAD_PAGES] += lanes * ceil_div(length, l->page);
        value[HEAD_PAGES_IN_PLACE] += s->places
                                          ? s->places->head[at][c]
                                          : lanes * pages_in_place(l, s->end[at], sinks_of(l, c), s->hole_end[at][c]);
        longest = kv_most(longest, length);
        sinks = kv_most(sinks, sinks_of(l, c));
        hole_end = kv_least(hole_end, s->hole_end[at][c]);
    }
    value[LAYER_PAGES] = ceil_div(longest, l->page);
    value[LAYER_PAGES_IN_PLACE] =
        s->places ? s->places->layer[at][layer] : pages_in_place(l, s->end[at], sinks, hole_end);
}

/* One table for all: there is no layer to run first. */
static int64_t shared_pages(const struct kv_ledger *l, enum kv_moment at, enum kv_compaction how)
{
    const struct kv_snapshot *s = l->snap;
    int64_t longest = 0, sinks = 0, hole_end = INT64_MAX;
    for (int64_t c = 0; c < l->classes->n; c++) {
        longest = kv_most(longest, s->length[at][c]);
        sinks = kv_most(sinks, sinks_of(l, c));
        hole_end = kv_least(hole_end, s->hole_end[at][c]);
    }
    if (how == KV_COMPACT)
        return ceil_div(longest, l->page);
    return s->places ? s->places->shared[at] : pages_in_place(l, s->end[at], sinks, hole_end);
}

struct moments {
    int64_t peak[MEASURES][KV_SCOPES], layer[MEASURES][KV_SCOPES];
    int64_t end[MEASURES];
    int64_t shared[KV_COMPACTIONS], shared_end[KV_COMPACTIONS];
};

/* The largest moments of the pass whose snapshot was taken, and what it leaves. */
static void find_moments(const struct kv_ledger *l, struct moments *m)
{
    const struct kv_classes *c = l->classes;
    int64_t(*value)[KV_MOMENTS][MEASURES] = l->snap->value;
    int64_t held[MEASURES] = {0};
    memset(m, 0, sizeof *m);
    for (int64_t kind = 0; kind < c->n_kinds; kind++)
        for (int at = KV_BEFORE; at < KV_MOMENTS; at++) {
            measure_layer(l, c->kind_layer[kind], (enum kv_moment)at, value[kind][at]);
            for (int i = 0; i < MEASURES; i++) {
                held[i] += at == KV_BEFORE ? c->kind_layers[kind] * value[kind][at][i] : 0;
                m->peak[i][KV_SCOPE_PASS] += at == KV_DURING ? c->kind_layers[kind] * value[kind][at][i] : 0;
            }
        }
    for (int64_t layer = 0; layer < c->layers; layer++) {
        int64_t(*v)[MEASURES] = value[c->kind[layer]];
        for (int i = 0; i < MEASURES; i++) {
            int64_t running = held[i] + v[KV_DURING][i] - v[KV_BEFORE][i];
            if (running > m->peak[i][KV_SCOPE_LAYER]) {
                m->peak[i][KV_SCOPE_LAYER] = running;
                m->layer[i][KV_SCOPE_LAYER] = layer;
            }
            held[i] += v[KV_AFTER][i] - v[KV_BEFORE][i];
        }
    }
    for (int i = 0; i < MEASURES; i++) {
        m->layer[i][KV_SCOPE_PASS] = c->layers - 1;
        m->end[i] = held[i];
    }
    for (int how = 0; how < KV_COMPACTIONS; how++) {
        m->shared[how] = shared_pages(l, KV_DURING, (enum kv_compaction)how);
        m->shared_end[how] = shared_pages(l, KV_AFTER, (enum kv_compaction)how);
    }
}

/* ---- peaks ---- */

static const int measure_of[2][KV_COMPACTIONS] = {{HEAD_PAGES, HEAD_PAGES_IN_PLACE},
                                                  {LAYER_PAGES, LAYER_PAGES_IN_PLACE}};

static int64_t peak_value(const struct moments *m, int measure, int scope)
{
    return measure < MEASURES ? m->peak[measure][scope] : m->shared[measure - MEASURES];
}

static bool is_in_place(int measure)
{
    return measure == HEAD_PAGES_IN_PLACE || measure == LAYER_PAGES_IN_PLACE || measure == MEASURES + KV_IN_PLACE;
}

/* Within a run lengths never fall, so entries and compacted pages are most in its last pass. Pages in place breathe as
 * a hole moves over page borders, but passes a whole number of pages apart never fall: the hole grows no faster than
 * the end. So the most is among the last `period` passes. */
static int64_t period_of(const struct kv_ledger *l, const struct kv_run *run)
{
    bool holes = false;
    for (int64_t c = 0; c < l->classes->n; c++)
        holes |= run->gain[c] < run->pass.n_new;
    if (!holes)
        return 1;
    int64_t a = l->page, b = run->pass.n_new;
    while (b) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return kv_least(l->page / a, run->passes);
}

static void moments_at(const struct kv_ledger *l, const struct kv_run *run, int64_t j, struct moments *m)
{
    take_snapshot(l, run, j);
    find_moments(l, m);
}

/* The first of the passes j, j - period, ... that has the value, which pass j has. */
static int64_t first_on_track(const struct kv_ledger *l, const struct kv_run *run, int measure, int scope,
                              int64_t value, int64_t j, int64_t period, struct moments *m)
{
    int64_t low = 0, high = j / period, offset = j % period;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        moments_at(l, run, middle * period + offset, m);
        if (peak_value(m, measure, scope) == value)
            high = middle;
        else
            low = middle + 1;
    }
    return low * period + offset;
}

/* The first pass of the run that has the value, its most; `m` becomes that pass's moments. */
static int64_t first_pass_with(const struct kv_ledger *l, const struct kv_run *run, int measure, int scope,
                               int64_t value, struct moments *m)
{
    int64_t period = is_in_place(measure) ? period_of(l, run) : 1, first = INT64_MAX;
    for (int64_t j = run->passes - period; j < run->passes; j++) {
        moments_at(l, run, j, m);
        if (peak_value(m, measure, scope) == value)
            first = kv_least(first, first_on_track(l, run, measure, scope, value, j, period, m));
    }
    moments_at(l, run, first, m);
    return first;
}

static int64_t bytes_at_moment(const struct kv_ledger *l, int64_t running, enum kv_scope scope)
{
    const struct kv_snapshot *s = l->snap;
    int64_t bytes = 0;
    for (int64_t layer = 0; layer < l->shape->layers; layer++) {
        enum kv_moment at = scope == KV_SCOPE_PASS || layer == running ? KV_DURING
                            : layer < running                          ? KV_AFTER
                                                                       : KV_BEFORE;
        for (int64_t i = l->classes->first[layer]; i < l->classes->first[layer + 1]; i++)
            bytes += l->classes->member[i].lanes *
                     kv_store_held_bytes(&l->policy->store, s->length[at][l->classes->member[i].class_index]);
    }
    return bytes;
}

static bool raise_peak(struct kv_ledger *l, const struct kv_run *run, int measure, int scope,
                       const struct moments *most_of, struct kv_peak *peak)
{
    int64_t value = peak_value(most_of, measure, scope);
    if (value <= peak->value)
        return false;
    struct moments m = *most_of;
    int64_t j = run->passes - 1;
    if (j > 0 && !l->skip_places)
        j = first_pass_with(l, run, measure, scope, value, &m);
    *peak = (struct kv_peak){
        .value = value,
        .pass = run->pass.index + j,
        .seen = run->pass.seen + j * run->pass.n_new,
        .layer = measure < MEASURES ? m.layer[measure][scope] : -1,
        .decode = run->pass.decode_step >= 0,
        .patched = run->pass.n_patch > 0,
    };
    return true;
}

static void raise_peaks(struct kv_ledger *l, const struct kv_run *run, const struct moments *most_of)
{
    for (int scope = 0; scope < KV_SCOPES; scope++) {
        if (raise_peak(l, run, ENTRIES, scope, most_of, &l->entries[scope])) {
            if (run->passes > 1) /* the snapshot may be of another pass by now */
                take_snapshot(l, run, l->entries[scope].pass - run->pass.index);
            l->peak_bytes[scope] = bytes_at_moment(l, l->entries[scope].layer, (enum kv_scope)scope);
        }
        for (int how = 0; how < KV_COMPACTIONS; how++) {
            if (how == KV_IN_PLACE && !l->in_place)
                continue;
            for (int layout = 0; layout < KV_SHARED; layout++)
                raise_peak(l, run, measure_of[layout][how], scope, most_of, &l->pages[layout][how].peak[scope]);
            raise_peak(l, run, MEASURES + how, scope, most_of, &l->pages[KV_SHARED][how].peak[scope]);
        }
    }
}

static void end_pages(struct kv_page_count *count, int64_t value, const struct kv_pass *p)
{
    count->end = value;
    count->end_peak = kv_most(count->end_peak, value);
    if (p->last || p->decode_step >= 0)
        count->resident = kv_most(count->resident, value);
}

static void end_all_pages(struct kv_ledger *l, const struct kv_pass *p, const struct moments *m)
{
    for (int how = 0; how < KV_COMPACTIONS; how++) {
        if (how == KV_IN_PLACE && !l->in_place)
            continue;
        for (int layout = 0; layout < KV_SHARED; layout++)
            end_pages(&l->pages[layout][how], m->end[measure_of[layout][how]], p);
        end_pages(&l->pages[KV_SHARED][how], m->shared_end[how], p);
    }
}

/* The run's passes before its last one can only matter to pages in place. */
static void add_breathing(struct kv_ledger *l, const struct kv_run *run, struct moments *most_of)
{
    static const int breathing[] = {HEAD_PAGES_IN_PLACE, LAYER_PAGES_IN_PLACE};
    int64_t period = period_of(l, run);
    for (int64_t j = run->passes - period; j < run->passes - 1; j++) {
        struct moments m;
        moments_at(l, run, j, &m);
        end_all_pages(l, &run->pass, &m);
        for (int i = 0; i < 2; i++)
            for (int scope = 0; scope < KV_SCOPES; scope++)
                if (m.peak[breathing[i]][scope] > most_of->peak[breathing[i]][scope]) {
                    most_of->peak[breathing[i]][scope] = m.peak[breathing[i]][scope];
                    most_of->layer[breathing[i]][scope] = m.layer[breathing[i]][scope];
                }
        most_of->shared[KV_IN_PLACE] = kv_most(most_of->shared[KV_IN_PLACE], m.shared[KV_IN_PLACE]);
    }
}

/* ---- sums ---- */

static void add_pages(struct kv_page_count *count, int64_t during, int64_t after, int64_t n_new, int64_t lanes)
{
    count->returned += (during - after) * lanes;
    count->steps += during * lanes * n_new;
}

/* Pages of a set of classes that share a table, summed over the run. */
static void add_table(const struct kv_ledger *l, const struct kv_run *run, const struct kv_member *member,
                      int64_t n_members, int64_t lanes, struct kv_page_count count[KV_COMPACTIONS])
{
    const struct kv_pass *p = &run->pass;
    struct line *d = l->snap->line[0], *f = l->snap->line[1];
    int64_t sinks = 0, n = run->passes, fresh = p->n_new + p->n_patch;
    for (int64_t i = 0; i < n_members; i++) {
        int64_t c = member[i].class_index;
        d[i] = (struct line){run->before[c] + fresh, run->gain[c]};
        f[i] = (struct line){run->before[c] + run->gain[c], run->gain[c]};
    }
    add_pages(&count[KV_COMPACT], sum_pages(d, n_members, n, l->page), sum_pages(f, n_members, n, l->page), p->n_new,
              lanes);
    if (!l->in_place || run->places)
        return;
    bool empty_end = true; /* every lane ends with sinks alone, so that the hole reaches the end after each pass */
    for (int64_t i = 0; i < n_members; i++) {
        int64_t c = member[i].class_index, slope = p->n_new - run->gain[c];
        int64_t hole_end = p->seen - run->before[c] + sinks_of(l, c);
        d[i] = (struct line){-hole_end, -slope};
        f[i] = (struct line){-hole_end - slope, -slope};
        sinks = kv_most(sinks, sinks_of(l, c));
        empty_end &= run->before[c] + run->gain[c] == sinks_of(l, c) && (n == 1 || !run->gain[c]);
    }
    for (int64_t i = 0; i < n_members && empty_end; i++)
        f[i].value -= l->page - 1; /* the end's page counts as whole */
    struct line end_during = {p->seen + fresh, p->n_new}, end_after = {p->seen + p->n_new, p->n_new};
    add_pages(&count[KV_IN_PLACE], sum_pages(&end_during, 1, n, l->page) - sum_holes(d, n_members, n, l->page, sinks),
              sum_pages(&end_after, 1, n, l->page) - sum_holes(f, n_members, n, l->page, sinks), p->n_new, lanes);
}

static void add_places(struct kv_ledger *l, const struct kv_run *run)
{
    const struct kv_places *at = run->places;
    int64_t n = run->pass.n_new;
    for (int64_t c = 0; c < l->classes->n; c++)
        add_pages(&l->pages[KV_PER_HEAD][KV_IN_PLACE], at->head[KV_DURING][c], at->head[KV_AFTER][c], n, 1);
    for (int64_t i = 0; i < l->classes->layers; i++)
        add_pages(&l->pages[KV_PER_LAYER][KV_IN_PLACE], at->layer[KV_DURING][i], at->layer[KV_AFTER][i], n, 1);
    add_pages(&l->pages[KV_SHARED][KV_IN_PLACE], at->shared[KV_DURING], at->shared[KV_AFTER], n, 1);
}

static void add_sums(struct kv_ledger *l, const struct kv_run *run)
{
    const struct kv_pass *p = &run->pass;
    const struct kv_classes *classes = l->classes;
    int64_t n = run->passes, w = p->n_new;
    for (int64_t c = 0; c < classes->n; c++) {
        int64_t begins = n * run->before[c] + run->gain[c] * (n * (n - 1) / 2);
        l->entry_steps += classes->at[c].lanes * (w * begins + n * (w * (w + 1) / 2));
        struct kv_member alone = {.class_index = c, .lanes = 1};
        add_table(l, run, &alone, 1, classes->at[c].lanes, l->pages[KV_PER_HEAD]);
    }
    for (int64_t kind = 0; kind < classes->n_kinds; kind++) {
        int64_t layer = classes->kind_layer[kind], first = classes->first[layer];
        add_table(l, run, classes->member + first, classes->first[layer + 1] - first, classes->kind_layers[kind],
                  l->pages[KV_PER_LAYER]);
    }
    add_table(l, run, l->snap->all, classes->n, 1, l->pages[KV_SHARED]);
    if (run->places)
        add_places(l, run);
    l->steps += n * w;
    l->passes += n;
    l->evictions += p->evict ? n : 0;
}

static int64_t layer_scratch(const struct kv_ledger *l, const struct kv_run *run, int64_t layer)
{
    int64_t moves = 0;
    for (int64_t i = l->classes->first[layer]; i < l->classes->first[layer + 1]; i++) {
        int64_t c = l->classes->member[i].class_index, gain = run->gain[c];
        if (gain < run->pass.n_new) /* something left, so what is behind it moves */
            moves += l->classes->member[i].lanes * (run->before[c] + gain - run->frozen[c]);
    }
    return moves;
}

/* ---- the ledger ---- */

void kv_ledger_open(struct kv_ledger *l, const struct kv_policy *p, const struct kv_shape *s,
                    const struct kv_classes *c, int64_t page, struct kv_arena *a)
{
    *l = (struct kv_ledger){.shape = s, .classes = c, .policy = p, .page = page, .in_place = kv_policy_in_place(p)};
    l->lanes = s->layers * s->store_heads;
    l->snap = KV_NEW(a, struct kv_snapshot);
    l->snap->line[0] = KV_NEW_N(a, struct line, c->n);
    l->snap->line[1] = KV_NEW_N(a, struct line, c->n);
    l->snap->value = kv_alloc(a, sizeof *l->snap->value * (size_t)c->n_kinds);
    l->snap->all = KV_NEW_N(a, struct kv_member, c->n);
    for (int64_t i = 0; i < c->n; i++)
        l->snap->all[i] = (struct kv_member){.class_index = i, .lanes = c->at[i].lanes};
    for (int at = 0; at < KV_MOMENTS; at++) {
        l->snap->length[at] = KV_NEW_N(a, int64_t, c->n);
        l->snap->hole_end[at] = KV_NEW_N(a, int64_t, c->n);
    }
}

void kv_ledger_reset(struct kv_ledger *l)
{
    *l = (struct kv_ledger){.shape = l->shape,
                            .classes = l->classes,
                            .policy = l->policy,
                            .page = l->page,
                            .lanes = l->lanes,
                            .in_place = l->in_place,
                            .skip_places = l->skip_places,
                            .snap = l->snap};
}

void kv_ledger_add(struct kv_ledger *l, const struct kv_run *run)
{
    struct moments last, most_of;
    moments_at(l, run, run->passes - 1, &last);
    most_of = last;
    l->end_entries = last.end[ENTRIES];
    l->end_bytes = 0;
    for (int64_t c = 0; c < l->classes->n; c++)
        l->end_bytes += l->classes->at[c].lanes * kv_store_held_bytes(&l->policy->store, l->snap->length[KV_AFTER][c]);
    if (l->end_entries > l->end_entries_peak) {
        l->end_entries_peak = l->end_entries;
        l->end_peak_bytes = l->end_bytes;
    }
    for (int scope = 0; scope < KV_SCOPES; scope++) {
        l->pass_entries[scope] = last.peak[ENTRIES][scope];
        for (int how = 0; how < KV_COMPACTIONS; how++) {
            for (int layout = 0; layout < KV_SHARED; layout++)
                l->pass_pages[layout][how][scope] = last.peak[measure_of[layout][how]][scope];
            l->pass_pages[KV_SHARED][how][scope] = last.shared[how];
        }
    }
    if (l->in_place)
        add_breathing(l, run, &most_of);
    end_all_pages(l, &run->pass, &last);
    raise_peaks(l, run, &most_of);
    add_sums(l, run);
    for (int64_t kind = 0; run->pass.evict && kind < l->classes->n_kinds; kind++)
        l->scratch_entries = kv_most(l->scratch_entries, layer_scratch(l, run, l->classes->kind_layer[kind]));
}

int64_t kv_ledger_page_bytes(const struct kv_ledger *l, enum kv_layout layout)
{
    int64_t lane = l->page * kv_store_entry_bytes(&l->policy->store);
    return layout == KV_PER_HEAD ? lane : layout == KV_PER_LAYER ? lane * l->shape->store_heads : lane * l->lanes;
}

int64_t kv_ledger_buffer_bytes(const struct kv_ledger *l)
{
    return l->lanes * kv_store_lane_buffer_bytes(&l->policy->store);
}

/* ---- summaries ---- */

int64_t kv_summary_bytes(const struct kv_policy *p, const struct kv_shape *s, int64_t entries)
{
    struct kv_summary sum = p->kind->reads ? p->kind->reads->summary(p) : (struct kv_summary){0};
    if (!sum.block)
        return 0;
    int64_t blocks = sum.whole ? entries / sum.block : ceil_div(entries, sum.block);
    return s->layers * s->store_heads * blocks * sum.vectors * kv_store_entry_bytes(&p->store) / 2;
}

double kv_summary_entry_steps(const struct kv_policy *p, const struct kv_shape *s, int64_t last)
{
    struct kv_summary sum = p->kind->reads ? p->kind->reads->summary(p) : (struct kv_summary){0};
    if (!sum.block)
        return 0;
    int64_t blocks = kv_floor_sum(last, sum.block, 1, sum.whole ? 1 : sum.block);
    return (double)(s->layers * s->store_heads) * (double)blocks * (double)sum.vectors / 2;
}
