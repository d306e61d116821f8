/* SPDX-License-Identifier: GPL-3.0-or-later */
/* How fast entries are chosen, ns an element: each path of this machine on lognormal rows, beside a sort of indices and
 * a quickselect on a copy, which is what one would write otherwise. Rows are fresh in every run, or the branch
 * predictor would learn them. Median of several runs. */
#include "sim/core/random.h"
#include "sim/core/select.h"
#include "traces/codes.h"
#include "tests/bench/clock.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RUNS = 31, SHARES = 5, LARGEST = 131072, ROOM = LARGEST + KV_SLACK };

static const int shares[SHARES] = {1, 10, 30, 50, 70};

static float row[RUNS][ROOM], pooled[RUNS][ROOM], out[ROOM];
static uint64_t set[RUNS][LARGEST / 64], mask[LARGEST / 64], ranks[RUNS][LARGEST / 64];
static uint16_t code[RUNS][LARGEST];
static uint8_t hi[LARGEST], lo[LARGEST / 2];
static uint32_t histogram[4 * 4096], boundary[ROOM];
static int32_t order[LARGEST];
static struct kv_top_work work = {histogram, boundary, LARGEST};
static volatile double kept; /* what a run found, that it be not left out */

/* ---- what is measured: one run on row r ---- */

struct job {
    const struct kv_select *path;
    int64_t n, k;
    int width;
};

typedef void work_on(const struct job *j, int r);

static void compress(const struct job *j, int r)
{
    kept = (double)j->path->compress(row[r], set[r], j->n, out);
}

static void pool(const struct job *j, int r)
{
    j->path->pool_sum(row[r], j->n, j->width, out);
}

static void pool_max(const struct job *j, int r)
{
    j->path->pool_max(row[r], j->n, j->width, out);
}

static void top(const struct job *j, int r)
{
    kept = (double)j->path->top(pooled[r], j->n, j->k, mask, &work);
}

static void restrict_to(const struct job *j, int r)
{
    j->path->restrict_to(set[r], j->n, ranks[r]);
}

static void all_three(const struct job *j, int r)
{
    j->path->pool_sum(row[r], j->n, j->width, out);
    kept = (double)j->path->top(out, j->n, j->k, mask, &work);
    memset(set[r], 255, (size_t)j->n / 8);
    j->path->restrict_to(set[r], j->n, mask);
}

static void sum(const struct job *j, int r)
{
    kept = j->path->sum(row[r], set[r], j->n);
}

static void encode(const struct job *j, int r)
{
    struct kv_row_facts facts;
    int64_t bad;
    kept = kv_codes_encode(row[r], j->n, 64, code[r], &facts, &bad);
}

static void decode(const struct job *j, int r)
{
    kv_codes_decode(code[r], j->n, 64, 0.75f, out);
}

static void join(const struct job *j, int r)
{
    kv_codes_join(hi, lo, j->n, code[r]);
}

static int by_score(const void *a, const void *b)
{
    int32_t i = *(const int32_t *)a, k = *(const int32_t *)b;
    return out[i] > out[k] ? -1 : out[i] < out[k] ? 1 : i < k ? -1 : 1;
}

static void sort(const struct job *j, int r)
{
    memcpy(out, pooled[r], (size_t)j->n * sizeof *out);
    for (int32_t i = 0; i < j->n; i++)
        order[i] = i;
    qsort(order, (size_t)j->n, sizeof *order, by_score);
}

/* The threshold alone, by Hoare. */
static void quickselect(const struct job *j, int r)
{
    memcpy(out, pooled[r], (size_t)j->n * sizeof *out);
    for (int64_t low = 0, high = j->n - 1, k = j->n - j->k; low < high;) {
        float pivot = out[low + (high - low) / 2];
        int64_t a = low, b = high;
        while (a <= b) {
            while (out[a] < pivot)
                a++;
            while (out[b] > pivot)
                b--;
            if (a <= b) {
                float x = out[a];
                out[a++] = out[b];
                out[b--] = x;
            }
        }
        if (k <= b)
            high = b;
        else if (k >= a)
            low = a;
        else
            break;
    }
    kept = (double)out[j->n - j->k];
}

/* ---- rows ---- */

static uint64_t drawn;

static double uniform(void)
{
    return kv_uniform(kv_random(1, kv_purpose("bench_select"), 0, drawn++));
}

/* Neighbours are alike, as in attention. */
static void draw(int64_t n)
{
    const struct kv_select *path = kv_select_of(KV_SIMD_PORTABLE);
    for (int r = 0; r < RUNS; r++) {
        double at = 0;
        memset(set[r], 0, sizeof set[r]);
        for (int64_t i = 0; i < n; i++) {
            at = 0.5 * at + sqrt(-1.5 * log(1 - uniform())) * cos(6.283185307179586 * uniform());
            row[r][i] = (float)exp(1.5 * at);
            set[r][i / 64] |= (uint64_t)(uniform() < 0.7) << i % 64;
            ranks[r][i / 64] = kv_random(2, 0, (uint64_t)r, (uint64_t)i / 64);
        }
        path->pool_sum(row[r], n, 5, pooled[r]);
    }
}

static double measure(work_on *run, const struct job *j)
{
    double value[RUNS];
    for (int r = 0; r < RUNS; r++) {
        double start = now();
        run(j, r);
        value[r] = (now() - start) * 1e9 / (double)j->n;
    }
    return median(value, RUNS);
}

static void print_path(const struct kv_select *path, int64_t n)
{
    struct job j = {path, n, n * 3 / 10, 5};
    setenv("KVSIM_SIMD", path->name, 1);
    printf("%-8s %7lld  compress %5.2f  pool 5 %5.2f", path->name, (long long)n, measure(compress, &j),
           measure(pool, &j));
    j.width = 7;
    printf("  pool 7 %5.2f", measure(pool, &j));
    j.width = 5;
    printf("  max 5 %5.2f  top 1..70 %%", measure(pool_max, &j));
    for (int s = 0; s < SHARES; s++) {
        j.k = n * shares[s] / 100;
        printf(" %5.2f", measure(top, &j));
    }
    j.k = n * 3 / 10;
    double three = measure(all_three, &j);
    draw(n);
    printf("\n%17s restrict %5.2f  sum %5.2f", "", measure(restrict_to, &j), measure(sum, &j));
    printf("  encode %5.2f  decode %5.2f  join %5.2f  pool 5 + top 30 %% + restrict %5.2f\n", measure(encode, &j),
           measure(decode, &j), measure(join, &j), three);
}

static void print_others(int64_t n)
{
    printf("others   %7lld  quickselect of a copy 1..70 %%", (long long)n);
    for (int s = 0; s < SHARES; s++) {
        struct job j = {NULL, n, n * shares[s] / 100, 0};
        printf(" %5.2f", measure(quickselect, &j));
    }
    struct job j = {NULL, n, n, 0};
    printf("  qsort %5.1f\n", measure(sort, &j));
}

int main(void)
{
    static const int64_t lengths[] = {8192, 32768, LARGEST};
    printf("ns an element, lognormal rows, top of rows pooled by 5; encode and decode at 64 steps an octave\n");
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        for (int simd = 0; simd < KV_SIMDS; simd++)
            if (kv_select_of((enum kv_simd)simd)) {
                draw(lengths[i]);
                print_path(kv_select_of((enum kv_simd)simd), lengths[i]);
            }
        draw(lengths[i]);
        print_others(lengths[i]);
    }
    return 0;
}
