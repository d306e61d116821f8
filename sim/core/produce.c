/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/core/produce.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double dot(const float *a, const float *b, int64_t d)
{
    double sum = 0;
    for (int64_t i = 0; i < d; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

void kv_make_logits(const float *q, int64_t rows, const float *k, int64_t n, int64_t d, const int64_t *seen,
                    float *logits)
{
    double scale = 1 / sqrt((double)d);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < n; j++)
            logits[r * n + j] = j < seen[r] ? (float)(dot(q + r * d, k + j * d, d) * scale) : -INFINITY;
}

/* sum += softmax(x) */
static void add_softmax(const double *x, int64_t n, double *sum)
{
    double top = -INFINITY, total = 0;
    for (int64_t j = 0; j < n; j++)
        top = x[j] > top ? x[j] : top;
    if (top == -INFINITY)
        return;
    for (int64_t j = 0; j < n; j++)
        total += exp(x[j] - top);
    for (int64_t j = 0; j < n; j++)
        sum[j] += exp(x[j] - top) / total;
}

void kv_make_attention(const float *logits, int64_t rows, int64_t n, double *work, float *out)
{
    double *row = work, *sum = work + n;
    memset(sum, 0, sizeof *sum * (size_t)n);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t j = 0; j < n; j++)
            row[j] = logits[r * n + j];
        add_softmax(row, n, sum);
    }
    for (int64_t j = 0; j < n; j++)
        out[j] = (float)sum[j];
}

void kv_make_norms(const float *x, int64_t n, int64_t d, float *out)
{
    for (int64_t j = 0; j < n; j++)
        out[j] = (float)sqrt(dot(x + j * d, x + j * d, d));
}

void kv_make_cosines(const float *k, int64_t n, int64_t d, double *work, float *out)
{
    double length = 0;
    memset(work, 0, sizeof *work * (size_t)d);
    for (int64_t j = 0; j < n; j++) {
        double norm = sqrt(dot(k + j * d, k + j * d, d));
        for (int64_t i = 0; i < d && norm > 0; i++)
            work[i] += (double)k[j * d + i] / norm;
    }
    for (int64_t i = 0; i < d; i++)
        length += work[i] * work[i];
    length = sqrt(length);
    for (int64_t j = 0; j < n; j++) {
        double norm = sqrt(dot(k + j * d, k + j * d, d)), sum = 0;
        for (int64_t i = 0; i < d; i++)
            sum += (double)k[j * d + i] * work[i];
        out[j] = norm > 0 && length > 0 ? (float)(sum / (norm * length)) : 0;
    }
}

/* ---- LagKV ---- */

/* Adds half the softmax of the spreads of one block, scaled by the range of the next one, to score[lag]. */
static void add_spread(const float *x, int64_t lag, int64_t d, double *work, double *score)
{
    double *low = work, *range = work + d, *spread = work + 2 * d;
    const float *next = x + lag * d;
    for (int64_t i = 0; i < d; i++) {
        double least = (double)next[i], most = (double)next[i];
        for (int64_t j = 1; j < lag; j++) {
            double value = (double)next[j * d + i];
            least = value < least ? value : least;
            most = value > most ? value : most;
        }
        low[i] = least;
        range[i] = most - least;
    }
    double top = -INFINITY, total = 0;
    for (int64_t j = 0; j < lag; j++) {
        double sum = 0, squares = 0;
        for (int64_t i = 0; i < d; i++)
            sum += range[i] > 0 ? ((double)x[j * d + i] - low[i]) / range[i] : 0;
        for (int64_t i = 0; i < d; i++) {
            double off = (range[i] > 0 ? ((double)x[j * d + i] - low[i]) / range[i] : 0) - sum / (double)d;
            squares += off * off;
        }
        spread[j] = d > 1 ? sqrt(squares / (double)(d - 1)) : 0;
        top = spread[j] > top ? spread[j] : top;
    }
    for (int64_t j = 0; j < lag; j++)
        total += exp(spread[j] - top);
    for (int64_t j = 0; j < lag; j++)
        score[j] += exp(spread[j] - top) / total / 2;
}

void kv_make_lag(const float *k, const float *v, int64_t n, int64_t d, int64_t sinks, int64_t lag, double *work,
                 float *out)
{
    if (n < sinks + 2 * lag) {
        for (int64_t j = 0; j < n; j++)
            out[j] = j < sinks ? 1 : (float)((double)(j - sinks) / (double)(n - sinks));
        return;
    }
    double *score = work;
    int64_t blocks = (n - sinks) / lag, scored = sinks + (blocks - 1) * lag;
    for (int64_t j = 0; j < n; j++)
        out[j] = 1;
    for (int64_t from = sinks; from < scored; from += lag) {
        memset(score, 0, sizeof *score * (size_t)lag);
        add_spread(k + from * d, lag, d, work + lag, score);
        add_spread(v + from * d, lag, d, work + lag, score);
        for (int64_t j = 0; j < lag; j++) {
            int64_t rank = 0;
            for (int64_t i = 0; i < lag; i++)
                rank += score[i] < score[j] || (i < j && score[i] == score[j]);
            out[from + j] = (float)rank / (float)lag;
        }
    }
}

/* ---- Expected Attention ---- */

static double expected_logit(const float *mean, const float *covariance, const float *k, int64_t d)
{
    double quadratic = 0;
    for (int64_t i = 0; i < d; i++)
        quadratic += (double)k[i] * dot(covariance + i * d, k, d);
    return dot(mean, k, d) / sqrt((double)d) + quadratic / (2 * (double)d);
}

bool kv_make_of_keys(enum kv_channel what, const float *k, const float *v, int64_t n, int64_t d, float *out)
{
    enum { SINKS = 4, LAG = 128 };
    double *work = malloc(sizeof *work * (size_t)(2 * LAG + 2 * d));
    if (!work)
        return false;
    if (what == KV_KEY_NORM || what == KV_VALUE_NORM)
        kv_make_norms(what == KV_KEY_NORM ? k : v, n, d, out);
    else if (what == KV_KEY_COSINE)
        kv_make_cosines(k, n, d, work, out);
    else
        kv_make_lag(k, v, n, d, SINKS, LAG, work, out);
    free(work);
    return true;
}

void kv_make_expected(const float *mean, const float *covariance, int64_t rows, const float *k, const float *value_norm,
                      int64_t n, int64_t d, double *work, float *out)
{
    double *row = work, *sum = work + n;
    memset(sum, 0, sizeof *sum * (size_t)n);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t j = 0; j < n; j++)
            row[j] = expected_logit(mean + r * d, covariance + r * d * d, k + j * d, d);
        add_softmax(row, n, sum);
    }
    for (int64_t j = 0; j < n; j++)
        out[j] = (float)(sum[j] / (double)rows * (double)value_norm[j]);
}
