/* SPDX-License-Identifier: GPL-3.0-or-later */
/* `kvsim trace check`: every row is read, and looked at. What is stored wrongly is damage and fails; what attention
 * cannot add up to is said, for a file made by hand may mean something of its own. */
#include "sim/core/select.h"
#include "sim/core/units.h"
#include "sim/progress.h"
#include "sim/table.h"
#include "sim/team.h"
#include "sim/trace_verbs.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { UNIT_NUMBERS = 1 << 20 };
static const double allowed = 0.01, least_half = 0x1p-14; /* of a sum; the smallest normal number of f16 */

/* What is known of the rows of one channel at one pass. */
struct place {
    int channel;
    int64_t tick;
    double wanted;   /* sum of each row; NaN: any */
    bool at_most;    /* or less */
    int64_t damaged; /* rows, the first of which is `stream` and says `text` */
    int64_t stream;
    char *text;
    int64_t off_sums, off_encoding; /* rows whose sum is not as it should be, is not what was encoded */
    int64_t off_stream;
    double off_sum;
    int64_t beyond; /* numbers that cannot be: cosines above 1 */
    int64_t tiny;   /* f16: numbers below its normal ones */
    double differ;  /* largest relative difference from `wanted` */
};

struct unit {
    struct place *place;
    int64_t first, end; /* streams */
};

struct checking {
    struct kv_trace *trace;
    const struct kv_trace_about *about;
    struct place *place;
    int n_places;
    struct unit *unit;
    int64_t n_units;
    float **row; /* (members,) */
    struct kv_trace_work **work;
    struct kv_err *error;
    pthread_mutex_t lock;
    atomic_llong next;
    struct kv_progress progress;
};

/* ---- what rows add up to ---- */

static double queries_of(const struct kv_trace_about *b, const struct kv_trace_channel *c, const struct kv_tick *t)
{
    int64_t tokens = t->end - t->begin, w = c->window, n;
    switch (c->what) {
    case KV_WINDOW_LOCAL:
        n = t->n_patch ? t->n_patch : tokens;
        return (double)(w < n ? w : n);
    case KV_WINDOW_SEEN:
        return (double)(w < t->end ? w : t->end);
    case KV_COLUMN_SUM:
        return (double)tokens;
    case KV_LAST_ROW:
        return 1;
    case KV_LATER_SUM: /* at most: those that ran, and some of theirs goes to later keys */
        return (double)(b->n_prompt + b->n_output - t->end);
    default:
        return NAN;
    }
}

static void expect(struct place *p, const struct kv_trace_about *b)
{
    const struct kv_trace_channel *c = &b->channel[p->channel];
    const struct kv_tick *t = &b->tick[p->tick];
    p->wanted = queries_of(b, c, t);
    p->at_most = c->what == KV_LATER_SUM || t->n_patch; /* what stays on the patch is not in the row */
    p->stream = p->off_stream = -1;
    if (!c->query_heads && c->reduce == KV_REDUCE_SUM)
        p->wanted *= (double)(b->q_heads / b->kv_heads);
    if (!c->query_heads && c->reduce == KV_REDUCE_MAX && b->q_heads != b->kv_heads)
        p->wanted = NAN; /* a row of maxima adds up to no number known beforehand */
}

/* ---- a row ---- */

/* What one row showed, to be added under the lock. */
struct finding {
    bool damaged, off_sum, off_encoding;
    const char *text;
    double sum, differ;
    int64_t beyond, tiny;
};

static void look(const struct checking *k, const struct place *p, int64_t stream, const float *row, int64_t n,
                 struct finding *f)
{
    const struct kv_trace_channel *c = &k->about->channel[p->channel];
    double exact = kv_trace_row_sum(k->trace, p->channel, p->tick, stream);
    if (c->what >= KV_WINDOW_LOGITS)
        return;
    f->sum = kv_select_best()->sum(row, NULL, n);
    if (!isnan(exact))
        f->off_encoding = kv_channels[c->what].attention && fabs(f->sum - exact) > allowed * fabs(exact);
    if (!isnan(p->wanted)) {
        double sum = isnan(exact) ? f->sum : exact, more = sum - p->wanted;
        f->sum = sum;
        f->differ = p->wanted > 0 ? (p->at_most && more < 0 ? 0 : fabs(more) / p->wanted) : fabs(more);
        f->off_sum = f->differ > allowed;
    }
    for (int64_t i = 0; c->what == KV_KEY_COSINE && i < n; i++)
        f->beyond += fabsf(row[i]) > 1.001f;
    for (int64_t i = 0; c->encoding == KV_ENC_F16 && kv_channels[c->what].attention && i < n; i++)
        f->tiny += (double)row[i] < least_half;
}

static void add(struct checking *k, struct place *p, int64_t stream, const struct finding *f)
{
    pthread_mutex_lock(&k->lock);
    if (f->damaged && (p->stream < 0 || stream < p->stream)) {
        free(p->text);
        p->text = strdup(f->text);
        p->stream = stream;
    }
    if ((f->off_sum || f->off_encoding) && (p->off_stream < 0 || stream < p->off_stream)) {
        p->off_stream = stream;
        p->off_sum = f->sum;
    }
    p->damaged += f->damaged;
    p->off_sums += f->off_sum;
    p->off_encoding += f->off_encoding;
    p->beyond += f->beyond;
    p->tiny += f->tiny;
    p->differ = f->differ > p->differ ? f->differ : p->differ;
    pthread_mutex_unlock(&k->lock);
}

/* A ragged row is as long as what its lane held. */
static bool check_lane(struct checking *k, const struct place *p, int64_t stream, int64_t n, struct kv_trace_work *w,
                       struct kv_err *e)
{
    const struct kv_trace_about *b = k->about;
    const struct kv_trace_channel *c = &b->channel[p->channel];
    int64_t heads = c->query_heads ? b->q_heads : b->kv_heads, lane = stream / c->rows, held;
    int64_t head = c->query_heads && !b->query_lanes ? lane % heads / (b->q_heads / b->kv_heads) : lane % heads;
    const int32_t *position;
    if (!c->ragged || stream % c->rows)
        return true;
    return kv_trace_slots(k->trace, p->tick, lane / heads, head, &position, &held, w, e) &&
           (held == n || kv_fail(e, KV_DATA, "channel '%s', tick %lld, row %lld: has %lld numbers; its lane held %lld",
                                 c->name, (long long)p->tick, (long long)stream, (long long)n, (long long)held));
}

static void check_rows(void *checking, int member)
{
    struct checking *k = checking;
    struct kv_err *e = &k->error[member];
    for (int64_t i; (i = atomic_fetch_add(&k->next, 1)) < k->n_units;) {
        struct place *p = k->unit[i].place;
        int64_t numbers = 0;
        for (int64_t s = k->unit[i].first; s < k->unit[i].end; s++) {
            int64_t positions = kv_trace_row_length(k->trace, p->channel, p->tick, s);
            int64_t n = positions * k->about->channel[p->channel].elements;
            struct finding f = {0};
            memset(e, 0, sizeof *e);
            f.damaged = !kv_trace_row(k->trace, p->channel, p->tick, s, k->row[member], k->work[member], e) ||
                        !check_lane(k, p, s, positions, k->work[member], e);
            f.text = e->text;
            if (!f.damaged)
                look(k, p, s, k->row[member], n, &f);
            add(k, p, s, &f);
            numbers += n;
        }
        kv_progress_add(&k->progress, numbers);
    }
}

/* ---- all of them ---- */

/* Rows in order, cut into pieces of about UNIT_NUMBERS; returns the numbers there are. */
static int64_t cut_units(struct checking *k, struct kv_arena *a)
{
    const struct kv_trace_about *b = k->about;
    int64_t total = 0, pieces = 0;
    k->place = KV_NEW_N(a, struct place, b->n_ticks * b->n_channels + 1);
    for (int pass = 0; pass < 2; pass++) {
        k->n_places = 0;
        for (int64_t t = 0; t < b->n_ticks; t++)
            for (int c = 0; c < b->n_channels; c++) {
                if (!b->channel[c].at[t])
                    continue;
                struct place *p = &k->place[k->n_places++];
                int64_t row = b->tick[t].end * b->channel[c].elements,
                        step = row < UNIT_NUMBERS ? UNIT_NUMBERS / row : 1;
                *p = (struct place){.channel = c, .tick = t};
                expect(p, b);
                for (int64_t s = 0; s < b->channel[c].streams; s += step) {
                    int64_t end = s + step < b->channel[c].streams ? s + step : b->channel[c].streams;
                    if (pass)
                        k->unit[k->n_units++] = (struct unit){p, s, end};
                    pieces += !pass;
                    for (int64_t i = s; pass && i < end; i++)
                        total += kv_trace_row_length(k->trace, c, t, i) * b->channel[c].elements;
                }
            }
        if (!pass)
            k->unit = KV_NEW_N(a, struct unit, pieces + 1);
    }
    return total;
}

static bool open_members(struct checking *k, int n, struct kv_arena *a, struct kv_err *e)
{
    int64_t most = 1;
    for (int i = 0; i < k->n_places; i++) {
        int64_t row = k->about->tick[k->place[i].tick].end * k->about->channel[k->place[i].channel].elements;
        most = row > most ? row : most;
    }
    k->row = KV_NEW_N(a, float *, n);
    k->work = KV_NEW_N(a, struct kv_trace_work *, n);
    k->error = KV_NEW_N(a, struct kv_err, n);
    for (int i = 0; i < n; i++)
        if (!(k->row[i] = malloc(((size_t)most + KV_SLACK) * sizeof **k->row)) ||
            !(k->work[i] = kv_trace_work_open(k->trace, e)))
            return e->n ? false : kv_fail(e, KV_ENV, "no memory for rows of %lld numbers", (long long)most);
    return true;
}

static bool check_all(struct checking *k, int threads, bool quiet, struct kv_arena *a, struct kv_err *e)
{
    int64_t total = cut_units(k, a);
    struct kv_team *team = kv_team_open(threads, a);
    int members = kv_team_members(team);
    bool good = open_members(k, members, a, e);
    pthread_mutex_init(&k->lock, NULL);
    if (good) {
        kv_progress_start(&k->progress, "numbers checked", total, quiet);
        kv_team_run(team, check_rows, k);
        kv_progress_end(&k->progress);
    }
    pthread_mutex_destroy(&k->lock);
    kv_team_close(team);
    for (int i = 0; i < members; i++) {
        kv_trace_work_close(k->work ? k->work[i] : NULL);
        free(k->row ? k->row[i] : NULL);
    }
    return good;
}

/* Positions that stayed, where the recording says which: a pass that evicted nothing need not. */
static bool check_kept(struct checking *k, struct kv_arena *a, struct kv_err *e)
{
    const struct kv_trace_about *b = k->about;
    struct kv_err *own = KV_NEW(a, struct kv_err);
    struct kv_trace_work *w = b->has_kept ? kv_trace_work_open(k->trace, e) : NULL;
    int64_t heads = b->query_lanes ? b->q_heads : b->kv_heads;
    for (int64_t t = 0; w && t < b->n_ticks; t++)
        for (int64_t i = 0; i < b->layers * heads; i++) {
            const int32_t *position;
            int64_t n;
            memset(own, 0, sizeof *own);
            if (kv_trace_kept(k->trace, t, i / heads, i % heads, &position, &n, w, own))
                continue;
            if (!strstr(own->text, "does not have tick"))
                kv_fail(e, own->status, "%s", own->text);
            break;
        }
    kv_trace_work_close(w);
    return !e->n;
}

static bool check_prompt(struct checking *k, struct kv_arena *a, struct kv_err *e)
{
    const struct kv_trace_about *b = k->about;
    if (b->has_ids) {
        int32_t *ids = kv_alloc_many(a, (size_t)(b->n_prompt + b->n_output), sizeof *ids, "token ids", e);
        if (!ids || !kv_trace_ids(k->trace, ids, e))
            return false;
    }
    if (b->has_log_probability) {
        float *lp = kv_alloc_many(a, (size_t)b->n_output + 1, sizeof *lp, "log-probabilities", e);
        if (!lp || !kv_trace_log_probability(k->trace, lp, e))
            return false;
    }
    return true;
}

/* ---- what is said of it ---- */

static const struct kv_column columns[] = {
    {"channel", "channel", KV_CELL_TEXT},
    {"passes", "passes", KV_CELL_COUNT},
    {"rows", "rows", KV_CELL_COUNT},
    {"damaged_rows", "damaged", KV_CELL_COUNT},
    {"sum_wanted", "sum of a row", KV_CELL_TEXT},
    {"sum_largest_difference", "largest\ndifference", KV_CELL_SHARE},
    {"sum_rows_off", "rows\noff", KV_CELL_COUNT},
};

static const char *wanted_text(const struct kv_trace_channel *c, const struct kv_trace_about *b, struct kv_arena *a)
{
    const char *sum = c->what == KV_LATER_SUM    ? "at most the later queries"
                      : c->what == KV_COLUMN_SUM ? "queries of the pass"
                      : c->what == KV_LAST_ROW   ? "1"
                      : kv_channels[c->what].attention && kv_channels[c->what].window && c->what != KV_WINDOW_LOGITS
                          ? kv_format(a, "%lld, or as many queries as there are", (long long)c->window)
                          : NULL;
    if (!sum || c->query_heads || c->reduce == KV_REDUCE_MEAN || b->q_heads == b->kv_heads)
        return sum;
    return c->reduce == KV_REDUCE_SUM
               ? kv_format(a, "%s, times %lld query heads", sum, (long long)(b->q_heads / b->kv_heads))
               : NULL;
}

static void fill(struct kv_table *t, const struct checking *k, struct kv_arena *a)
{
    const struct kv_trace_about *b = k->about;
    kv_table_open(t, columns, sizeof columns / sizeof *columns, a);
    for (int c = 0; c < b->n_channels; c++) {
        struct kv_cell *row = kv_table_row(t);
        int64_t passes = 0, damaged = 0, off = 0;
        double differ = 0;
        bool summed = false;
        for (int i = 0; i < k->n_places; i++) {
            const struct place *p = &k->place[i];
            if (p->channel != c)
                continue;
            passes++;
            damaged += p->damaged;
            off += p->off_sums;
            summed |= !isnan(p->wanted);
            differ = p->differ > differ ? p->differ : differ;
        }
        kv_set_text(t, row, "channel", b->channel[c].name);
        kv_set_whole(t, row, "passes", passes);
        kv_set_whole(t, row, "rows", passes * b->channel[c].streams);
        kv_set_whole(t, row, "damaged_rows", damaged);
        kv_set_text(t, row, "sum_wanted", wanted_text(&b->channel[c], b, a));
        if (summed) {
            kv_set_real(t, row, "sum_largest_difference", differ);
            kv_set_whole(t, row, "sum_rows_off", off);
        }
    }
}

/* Warnings of a place, each a line; those of a channel's later passes are counted only. */
static const char *warn(const struct checking *k, const struct place *p, struct kv_arena *a)
{
    const struct kv_trace_channel *c = &k->about->channel[p->channel];
    const char *at = kv_format(a, "%s, pass %lld", c->name, (long long)p->tick);
    if (p->off_sums)
        return kv_format(a, "%s: %lld of %lld rows do not add up to %s%g; row %lld adds up to %g", at,
                         (long long)p->off_sums, (long long)c->streams, p->at_most ? "at most " : "", p->wanted,
                         (long long)p->off_stream, p->off_sum);
    if (p->off_encoding)
        return kv_format(a, "%s: %lld of %lld rows do not add up to the sum stored beside them, as of row %lld: %g", at,
                         (long long)p->off_encoding, (long long)c->streams, (long long)p->off_stream, p->off_sum);
    if (p->beyond)
        return kv_format(a, "%s: %lld cosines are beyond -1 .. 1", at, (long long)p->beyond);
    if (p->tiny)
        return kv_format(
            a,
            "%s: %lld numbers are below 6e-5, where f16 rounds coarsely or to 0: the tail of the attention "
            "is lost; record f32, or log codes",
            at, (long long)p->tiny);
    return NULL;
}

static int collect(const struct checking *k, const char **warning, struct kv_arena *a)
{
    int n = 0;
    for (int c = 0; c < k->about->n_channels; c++) {
        int64_t more = 0;
        for (int i = 0; i < k->n_places; i++) {
            const char *text = k->place[i].channel == c ? warn(k, &k->place[i], a) : NULL;
            if (text && !more++)
                warning[n++] = text;
        }
        if (more > 1)
            warning[n - 1] = kv_format(a, "%s; so are, or do, %lld more passes", warning[n - 1], (long long)more - 1);
    }
    if (!k->about->complete)
        warning[n++] = "the recording was broken off: passes after these never were";
    return n;
}

static void print(const struct checking *k, const struct kv_args *args, struct kv_arena *a)
{
    struct kv_table t;
    const char **warning = KV_NEW_N(a, const char *, k->about->n_channels + 2);
    int n = collect(k, warning, a);
    fill(&t, k, a);
    if (kv_arg_flag(args, "json")) {
        json_t *o = json_object(), *all = json_array();
        for (int i = 0; i < n; i++)
            json_array_append_new(all, kv_json_text(warning[i]));
        json_object_set_new(o, "path", kv_json_text(args->operand[1]));
        json_object_set_new(o, "complete", json_boolean(k->about->complete));
        json_object_set_new(o, "channels", kv_table_json(&t));
        json_object_set_new(o, "warnings", all);
        kv_json_print(o, stdout);
        json_decref(o);
        return;
    }
    if (k->about->n_channels)
        kv_table_print(&t, stdout);
    for (int i = 0; i < n; i++)
        printf("%swarning: %s\n", i ? "" : "\n", warning[i]);
    printf("\n%s: every row was read and agrees with its checksum, where it has one%s\n", args->operand[1],
           k->about->has_ids ? "; token ids too" : "");
}

/* The first damaged row of each place, in order. */
static bool say_damage(struct checking *k, struct kv_err *e)
{
    for (int i = 0; i < k->n_places; i++) {
        struct place *p = &k->place[i];
        if (p->damaged > 1)
            kv_fail(e, KV_DATA, "%s (and %lld more rows of it)", p->text, (long long)p->damaged - 1);
        else if (p->damaged)
            kv_fail(e, KV_DATA, "%s", p->text);
        free(p->text);
        p->text = NULL;
    }
    return !e->n;
}

bool kv_trace_verb_check(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    struct kv_trace_about b;
    struct checking k = {.about = &b};
    int threads;
    if (!kv_trace_threads(args, &threads, a, e) || !kv_trace_open(&k.trace, args->operand[1], &b, a, e))
        return false;
    bool good =
        check_all(&k, threads, kv_arg_flag(args, "quiet"), a, e) && check_kept(&k, a, e) && check_prompt(&k, a, e);
    good &= say_damage(&k, e);
    if (good)
        print(&k, args, a);
    kv_trace_close(k.trace);
    return good;
}
