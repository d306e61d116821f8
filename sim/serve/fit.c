/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/request_times.h"
#include "sim/serve/fit.h"
#include "sim/serve/timing_kind.h"

#include <gsl/gsl_cdf.h>
#include <gsl/gsl_multifit.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const struct kv_fit_term_text kv_fit_term_texts[KV_FIT_TERMS] = {
    [KV_FIT_BASE] = {"base_s", "a step"},
    [KV_FIT_TOKEN] = {"token_s", "a token, or knee_tokens if it has fewer"},
    [KV_FIT_DECODE_KV] = {"decode_kv_s", "an entry that a decode reads"},
    [KV_FIT_BESIDE_KV] = {"beside_kv_s", "the same, more, if a chunk is in the step"},
    [KV_FIT_PAIR] = {"pair_s", "a query and a key of a chunk"},
    [KV_FIT_PREFIX] = {"prefix_kv_s", "an entry that a chunk is on top of"},
    [KV_FIT_SEQUENCE] = {"sequence_s", "a request in the step"},
    [KV_FIT_MOVED] = {"moved_byte_s", "a byte that an eviction moves"},
    [KV_FIT_SCORED] = {"scored_byte_s", "a byte of keys that are scored"},
};
const char *const kv_fit_kind_names[] = {"prefill", "decode", "mixed", "eviction", "all", NULL};

void kv_fit_row_of(struct kv_fit_row *row, const struct kv_step *step, double s)
{
    struct kv_step_chunks chunks = kv_step_chunks_of(step);
    *row = (struct kv_fit_row){.s = s};
    row->kind = !step->n_chunks ? KV_FIT_DECODE_STEP : step->decodes ? KV_FIT_MIXED_STEP : KV_FIT_PREFILL_STEP;
    row->x[KV_FIT_BASE] = 1;
    row->x[KV_FIT_TOKEN] = (double)step->tokens;
    row->x[KV_FIT_DECODE_KV] = step->decode_kv;
    row->x[KV_FIT_BESIDE_KV] = step->n_chunks ? step->decode_kv : 0;
    row->x[KV_FIT_PAIR] = chunks.pairs;
    row->x[KV_FIT_PREFIX] = chunks.prefixes;
    row->x[KV_FIT_SEQUENCE] = (double)step->sequences;
    row->x[KV_FIT_MOVED] = step->moved_bytes;
    row->x[KV_FIT_SCORED] = step->scored_bytes;
    row->sizes = (struct kv_fit_sizes){(double)step->tokens, (double)step->decodes,
                                       step->decodes ? step->decode_kv / (double)step->decodes : 0, chunks.tokens,
                                       chunks.longest};
}

/* What a row has of a term: the knee counts where there is a pass at all. */
static double part(const double *x, int term, double knee)
{
    return term == KV_FIT_TOKEN && x[KV_FIT_BASE] > 0 ? fmax(knee, x[term]) : x[term];
}

double kv_fit_seconds(const struct kv_fit *f, const double *x)
{
    double s = 0;
    for (int i = 0; i < KV_FIT_TERMS; i++)
        s += f->there[i] ? f->c[i] * part(x, i, f->knee) : 0;
    return s;
}

/* ---- linear, at a knee ---- */

enum { KNEE = KV_FIT_TERMS, COLUMNS };

struct problem {
    const struct kv_fit_row **row; /* (n,) of the fit */
    int n;
    bool there[KV_FIT_TERMS];
    double *x, *ones; /* (n, columns) scaled by 1 / s; (n,) what they are to add up to */
};

struct solution {
    double c[COLUMNS], variance[COLUMNS];
    int free; /* coefficients that are not held at 0 */
    double mean_error;
};

static double cell(const struct kv_fit_row *row, int term, double knee, double token_s)
{
    if (term == KNEE)
        return row->x[KV_FIT_BASE] > 0 && row->x[KV_FIT_TOKEN] < knee ? token_s / row->s : 0;
    return part(row->x, term, knee) / row->s;
}

/* Robust least squares with the columns of `in`; false when GSL could not. The last column, if `in` has it, is what a
 * larger knee adds, at `token_s` a token: for the covariance. */
static bool solve_columns(const struct problem *p, const bool *in, double knee, double token_s, struct solution *s)
{
    int term[COLUMNS], m = 0;
    *s = (struct solution){0};
    for (int i = 0; i < COLUMNS; i++)
        if (in[i])
            term[m++] = i;
    if (!m)
        return false;
    double scale[COLUMNS] = {0};
    for (int j = 0; j < m; j++) {
        for (int i = 0; i < p->n; i++)
            scale[j] = fmax(scale[j], cell(p->row[i], term[j], knee, token_s));
        for (int i = 0; i < p->n; i++)
            p->x[i * m + j] = cell(p->row[i], term[j], knee, token_s) / scale[j];
    }
    gsl_matrix_const_view x = gsl_matrix_const_view_array(p->x, (size_t)p->n, (size_t)m);
    gsl_vector_const_view y = gsl_vector_const_view_array(p->ones, (size_t)p->n);
    double c[COLUMNS], covariance[COLUMNS * COLUMNS];
    gsl_vector_view c_view = gsl_vector_view_array(c, (size_t)m);
    gsl_matrix_view covariance_view = gsl_matrix_view_array(covariance, (size_t)m, (size_t)m);
    gsl_multifit_robust_workspace *w = gsl_multifit_robust_alloc(gsl_multifit_robust_bisquare, (size_t)p->n, (size_t)m);
    KV_ASSERT(w);
    int status = gsl_multifit_robust(&x.matrix, &y.vector, &c_view.vector, &covariance_view.matrix, w);
    bool good = status == GSL_SUCCESS || status == GSL_EMAXITER;
    for (int j = 0; good && j < m; j++) {
        s->c[term[j]] = c[j] / scale[j];
        s->variance[term[j]] = covariance[j * m + j] / scale[j] / scale[j];
        good = isfinite(c[j]) && isfinite(covariance[j * m + j]);
    }
    gsl_multifit_robust_free(w);
    s->free = m;
    return good;
}

static double mean_error(const struct problem *p, const double *c, double knee)
{
    double sum = 0;
    for (int i = 0; i < p->n; i++) {
        double s = 0;
        for (int k = 0; k < KV_FIT_TERMS; k++)
            s += c[k] * part(p->row[i]->x, k, knee);
        sum += fabs(s / p->row[i]->s - 1);
    }
    return sum / p->n;
}

/* With no coefficient below 0: the worst one is held at 0 and the rest solved again; then each held one is tried once
 * more. */
static bool solve_at(const struct problem *p, double knee, struct solution *out)
{
    bool in[COLUMNS] = {false};
    memcpy(in, p->there, sizeof p->there);
    for (;;) {
        int worst = -1;
        double below = 0;
        if (!solve_columns(p, in, knee, 0, out))
            return false;
        for (int i = 0; i < KV_FIT_TERMS; i++)
            if (in[i] && out->c[i] < 0 && out->c[i] / sqrt(out->variance[i] + 1e-300) < below) {
                below = out->c[i] / sqrt(out->variance[i] + 1e-300);
                worst = i;
            }
        if (worst < 0)
            break;
        in[worst] = false;
    }
    out->mean_error = mean_error(p, out->c, knee);
    for (int i = 0; i < KV_FIT_TERMS; i++) {
        struct solution with;
        if (in[i] || !p->there[i])
            continue;
        in[i] = true;
        bool better = solve_columns(p, in, knee, 0, &with);
        for (int k = 0; k < KV_FIT_TERMS; k++)
            better = better && with.c[k] >= 0;
        with.mean_error = better ? mean_error(p, with.c, knee) : INFINITY;
        in[i] = with.mean_error < out->mean_error;
        if (in[i])
            *out = with;
    }
    return solve_columns(p, in, knee, 0, out) && ((out->mean_error = mean_error(p, out->c, knee)), true);
}

/* ---- the knee ---- */

enum { KNEES = 24, NARROWER = 8, MOST_KNEES = KNEES + 2 * NARROWER + 2 };

struct knee {
    double at, error;
};

static bool try_knee(const struct problem *p, double at, struct knee *tried, int *n, int *best)
{
    struct solution s;
    for (int i = 0; i < *n; i++)
        if (tried[i].at == at)
            return true;
    if (!solve_at(p, at, &s))
        return false;
    tried[*n] = (struct knee){at, s.mean_error};
    if (*best < 0 || s.mean_error < tried[*best].error)
        *best = *n;
    ++*n;
    return true;
}

/* From none to half the most tokens, then narrower around the best. */
static bool find_knee(const struct problem *p, double most_tokens, double *knee)
{
    struct knee tried[MOST_KNEES];
    int best = -1, n = 0;
    bool any = try_knee(p, 0, tried, &n, &best);
    double step = pow(fmax(2, most_tokens / 2), 1. / (KNEES - 1));
    for (int i = 1; i < KNEES; i++)
        any |= try_knee(p, rint(pow(step, i) * 64) / 64, tried, &n, &best);
    for (int i = 0; any && i < NARROWER && tried[best].at > 0; i++) {
        step = sqrt(step);
        double at = tried[best].at;
        try_knee(p, at * step, tried, &n, &best);
        try_knee(p, at / step, tried, &n, &best);
    }
    *knee = any ? tried[best].at : 0;
    return any;
}

/* Variances with the knee as one more coefficient. Where no row has fewer tokens, anything up to the fewest is as good.
 */
static void find_intervals(const struct problem *p, const struct solution *at_knee, struct kv_fit *f)
{
    struct solution with;
    bool in[COLUMNS] = {false}, below = false;
    double fewest = INFINITY;
    for (int i = 0; i < p->n; i++)
        if (p->row[i]->x[KV_FIT_BASE] > 0) {
            fewest = fmin(fewest, p->row[i]->x[KV_FIT_TOKEN]);
            below |= p->row[i]->x[KV_FIT_TOKEN] < f->knee;
        }
    for (int k = 0; k < KV_FIT_TERMS; k++)
        in[k] = at_knee->c[k] > 0;
    in[KNEE] = below && at_knee->c[KV_FIT_TOKEN] > 0;
    const struct solution *s = at_knee;
    if (in[KNEE] && solve_columns(p, in, f->knee, at_knee->c[KV_FIT_TOKEN], &with))
        s = &with;
    double t = gsl_cdf_tdist_Pinv(0.975, fmax(1, p->n - s->free)), half;
    for (int k = 0; k < KV_FIT_TERMS; k++) {
        half = t * sqrt(s->variance[k]);
        f->low[k] = fmax(0, f->c[k] - half);
        f->high[k] = f->c[k] + half;
    }
    half = t * sqrt(s->variance[KNEE]);
    f->knee_low = below ? fmax(0, f->knee - half) : 0;
    f->knee_high = below ? f->knee + half : fmax(f->knee, fewest);
}

/* ---- all of it ---- */

/* Of rows of a kind (KV_FIT_KINDS: any), kept out or not. */
static void measure(const struct kv_fit *f, const struct kv_fit_row *row, int n, int kind, bool kept_out, double *error,
                    struct kv_fit_error *out)
{
    *out = (struct kv_fit_error){0};
    for (int i = 0; i < n; i++) {
        if (row[i].kept_out != kept_out || (kind != KV_FIT_KINDS && (int)row[i].kind != kind))
            continue;
        double off = kv_fit_seconds(f, row[i].x) / row[i].s - 1;
        error[out->n++] = fabs(off);
        out->mean += fabs(off);
        out->bias += off;
    }
    if (!out->n)
        return;
    kv_sort_values(error, out->n);
    out->mean /= out->n;
    out->bias /= out->n;
    out->p90 = kv_at_rank(error, out->n, 0.9);
    out->max = error[out->n - 1];
}

static bool prepare(struct problem *p, struct kv_fit *f, const struct kv_fit_row *row, int n, struct kv_arena *a,
                    struct kv_err *e)
{
    int kinds[KV_FIT_KINDS] = {0}, columns = 1;
    p->row = kv_alloc_many(a, (size_t)n, sizeof(const struct kv_fit_row *), "rows", e);
    p->x = kv_alloc_many(a, (size_t)n * COLUMNS, sizeof *p->x, "rows", e);
    p->ones = kv_alloc_many(a, (size_t)n, sizeof *p->ones, "rows", e);
    if (!p->row || !p->x || !p->ones)
        return false;
    for (int i = 0; i < n; i++) {
        struct kv_fit_sizes *most = &f->largest;
        const struct kv_fit_sizes *own = &row[i].sizes;
        f->kept_out += row[i].kept_out;
        if (row[i].kept_out)
            continue;
        *most = (struct kv_fit_sizes){fmax(most->tokens, own->tokens), fmax(most->decodes, own->decodes),
                                      fmax(most->length, own->length), fmax(most->chunk, own->chunk),
                                      fmax(most->prefix, own->prefix)};
        kinds[row[i].kind]++;
        for (int k = 0; k < KV_FIT_TERMS; k++)
            p->there[k] |= row[i].x[k] > 0;
        p->ones[p->n] = 1;
        p->row[p->n++] = &row[i];
    }
    f->rows = p->n;
    for (int k = 0; k < KV_FIT_TERMS; k++)
        columns += p->there[k];
    if (!(kinds[KV_FIT_PREFILL_STEP] + kinds[KV_FIT_MIXED_STEP]) ||
        !(kinds[KV_FIT_DECODE_STEP] + kinds[KV_FIT_MIXED_STEP]))
        return kv_fail(e, KV_DATA, "no rows of %s; a model of steps needs chunks and decodes",
                       kinds[KV_FIT_DECODE_STEP] ? "chunks" : "decodes");
    return p->n >= 2 * columns || kv_fail(e, KV_DATA, "%d rows for a fit of %d coefficients; at least %d are needed",
                                          p->n, columns, 2 * columns);
}

bool kv_fit_solve(struct kv_fit *f, const struct kv_fit_row *row, int n, struct kv_arena *a, struct kv_err *e)
{
    struct problem p = {0};
    struct solution s;

    *f = (struct kv_fit){0};
    if (!prepare(&p, f, row, n, a, e))
        return false;
    if (!find_knee(&p, f->largest.tokens, &f->knee))
        return kv_fail(e, KV_DATA, "the fit did not come to an end; are the rows of one kind of step only?");
    bool good = solve_at(&p, f->knee, &s);
    KV_ASSERT(good);
    memcpy(f->there, p.there, sizeof f->there);
    memcpy(f->c, s.c, sizeof f->c);
    find_intervals(&p, &s, f);
    for (int k = 0; k <= KV_FIT_KINDS; k++)
        measure(f, row, n, k, true, p.x, &f->out[k]);
    measure(f, row, n, KV_FIT_KINDS, false, p.x, &f->in);
    return true;
}
