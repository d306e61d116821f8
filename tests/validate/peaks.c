/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The memory model against the world: the peak GiB that the authors of arXiv 2506.17121 measured (tables 7 to 12: ten
 * methods, six tasks, Llama-3.1-8B in bf16, chunks of 32,768) beside weights + the ledger's KV peak + activations of
 * the longest pass + a fixed rest. The two constants, bytes per pass token and rest, are fitted by least squares on
 * Recall and Travel alone, once for each family of implementation and each evict scope; the other four tasks are
 * predicted.
 *
 *     make validate               prints Markdown tables */
#include "sim/core/preset.h"
#include "sim/count.h"

#include <gsl/gsl_errno.h>
#include <gsl/gsl_multifit.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define GIB 1073741824.0
enum { TASKS = 6, METHODS = 10, CHUNK = 32768 };
enum { RECALL, RAG, RERANK, ICL, HTML, TRAVEL };

static const char *const task_names[TASKS] = {"Recall", "RAG", "Rerank", "ICL", "HTML", "Travel"};
static bool fitted_on(int task)
{
    return task == RECALL || task == TRAVEL;
}

/* Mean prompt and output tokens of each dataset: table 4. A task's peak is the mean over its datasets. */
static const struct {
    int task;
    int64_t prompt, output;
} datasets[] = {
    {RECALL, 91000, 100}, {RECALL, 95000, 6},   {RECALL, 93000, 40},  {RECALL, 117000, 50}, {RAG, 121000, 20},
    {RAG, 121000, 20},    {RAG, 113000, 20},    {RAG, 121000, 20},    {RERANK, 85000, 200}, {ICL, 106000, 20},
    {ICL, 104000, 20},    {ICL, 107000, 20},    {ICL, 108000, 20},    {ICL, 106000, 20},    {HTML, 12000, 1000},
    {HTML, 24000, 3000},  {HTML, 38000, 10000}, {TRAVEL, 6000, 3000},
};

static const char *const family_names[] = {"head masks", "chunked eviction"};
static const struct {
    const char *name, *spec;
    int family;
    double gib[TASKS]; /* tables 7 to 12 */
} methods[METHODS] = {
    {"DuoAttention", "duo:sparsity=0.7", 0, {26.6, 28.8, 24.5, 27.4, 17.0, 16.1}},
    {"PruLong", "prulong:sparsity=0.7", 0, {26.3, 28.6, 24.3, 27.1, 16.9, 16.1}},
    {"PyramidKV", "pyramidkv:compression_ratio=0.7,store=query-head", 1, {43.8, 46.4, 40.5, 45.3, 22.0, 18.9}},
    {"PyramidKV +C", "pyramidkv:compression_ratio=0.7", 1, {33.7, 34.5, 33.3, 34.5, 16.9, 17.1}},
    {"PyramidKV +P",
     "pyramidkv:compression_ratio=0.7,patch=64,store=query-head",
     1,
     {43.8, 46.4, 40.6, 45.4, 22.0, 18.9}},
    {"PyramidKV +P+C", "pyramidkv:compression_ratio=0.7,patch=64", 1, {33.7, 34.6, 33.4, 34.6, 16.9, 17.1}},
    {"SnapKV", "snapkv:compression_ratio=0.7,store=query-head", 1, {43.7, 46.4, 40.5, 45.3, 22.0, 18.9}},
    {"SnapKV +C", "snapkv:compression_ratio=0.7", 1, {33.7, 34.5, 33.3, 34.5, 19.0, 17.1}},
    {"SnapKV +P", "snapkv:compression_ratio=0.7,patch=64,store=query-head", 1, {43.8, 46.4, 40.6, 45.4, 22.0, 18.9}},
    {"SnapKV +P+C", "snapkv:compression_ratio=0.7,patch=64", 1, {33.7, 34.6, 33.4, 34.6, 19.0, 17.1}},
};

struct point {
    double kv_gib, pass_tokens; /* mean over the task's datasets */
};

static void fail(const struct kv_err *e)
{
    fprintf(stderr, "validate: %s\n", e->text);
    exit((int)e->status);
}

static struct point count_task(const struct kv_model *m, int method, int task, enum kv_scope scope, struct kv_arena *a)
{
    static struct kv_err e;
    struct kv_policy policy;
    struct kv_counter *counter = KV_NEW(a, struct kv_counter);
    struct kv_defaults run = {.chunk = CHUNK, .dtype = KV_BF16};
    struct point mean = {0};
    int n = 0;
    if (!kv_policy_from_spec(&policy, methods[method].spec, a, &e) ||
        !kv_counter_open(counter, &policy, m, &run, 1, a, &e))
        fail(&e);
    for (size_t i = 0; i < sizeof datasets / sizeof *datasets; i++) {
        /* upstream prefills all but the last prompt token */
        struct kv_request r = {
            .prompt = datasets[i].prompt, .output = datasets[i].output, .prefill = datasets[i].prompt - 1};
        struct kv_count count;
        if (datasets[i].task != task)
            continue;
        if (!kv_counter_run(counter, &r, &count, &e))
            fail(&e);
        bool patched = policy.when.patch && r.prefill > CHUNK;
        mean.kv_gib += (double)count.held[scope].bytes / GIB;
        mean.pass_tokens += (double)(r.prefill < CHUNK ? r.prefill : CHUNK) + (patched ? (double)policy.when.patch : 0);
        n++;
    }
    mean.kv_gib /= n;
    mean.pass_tokens /= n;
    return mean;
}

struct constants {
    double gib_per_token, rest_gib;
};

static struct constants fit_family(int family, struct point point[METHODS][TASKS], double weights)
{
    size_t n = 0;
    for (int m = 0; m < METHODS; m++)
        n += methods[m].family == family ? 2 : 0;
    gsl_matrix *x = gsl_matrix_alloc(n, 2), *covariance = gsl_matrix_alloc(2, 2);
    gsl_vector *y = gsl_vector_alloc(n), *c = gsl_vector_alloc(2);
    gsl_multifit_linear_workspace *work = gsl_multifit_linear_alloc(n, 2);
    double chi;
    size_t row = 0;
    for (int m = 0; m < METHODS; m++)
        for (int t = 0; t < TASKS && methods[m].family == family; t++) {
            if (!fitted_on(t))
                continue;
            gsl_matrix_set(x, row, 0, point[m][t].pass_tokens);
            gsl_matrix_set(x, row, 1, 1);
            gsl_vector_set(y, row++, methods[m].gib[t] - weights - point[m][t].kv_gib);
        }
    gsl_multifit_linear(x, y, c, covariance, &chi, work);
    struct constants fitted = {gsl_vector_get(c, 0), gsl_vector_get(c, 1)};
    gsl_multifit_linear_free(work);
    gsl_matrix_free(x);
    gsl_matrix_free(covariance);
    gsl_vector_free(y);
    gsl_vector_free(c);
    return fitted;
}

static void print_scope(const struct kv_model *m, enum kv_scope scope, struct kv_arena *a)
{
    static struct point point[METHODS][TASKS];
    double weights = (double)m->weight_bytes / GIB, squares[2] = {0}, worst = 0;
    struct constants fitted[2];
    int n[2] = {0};
    for (int i = 0; i < METHODS; i++)
        for (int t = 0; t < TASKS; t++)
            point[i][t] = count_task(m, i, t, scope, a);
    printf("**evict scope %s**\n\n", kv_scope_names[scope]);
    for (int f = 0; f < 2; f++) {
        fitted[f] = fit_family(f, point, weights);
        printf("- %s: %.0f KiB per token of the longest pass, rest %.2f GiB\n", family_names[f],
               fitted[f].gib_per_token * GIB / 1024, fitted[f].rest_gib);
    }
    printf("\n| method |");
    for (int t = 0; t < TASKS; t++)
        printf(" %s%s |", task_names[t], fitted_on(t) ? " (fit)" : "");
    printf("\n|---|");
    for (int t = 0; t < TASKS; t++)
        printf("---|");
    printf("\n");
    for (int i = 0; i < METHODS; i++) {
        printf("| %s |", methods[i].name);
        for (int t = 0; t < TASKS; t++) {
            const struct constants *c = &fitted[methods[i].family];
            double predicted = weights + point[i][t].kv_gib + c->gib_per_token * point[i][t].pass_tokens + c->rest_gib;
            double residual = predicted - methods[i].gib[t];
            printf(" %.1f, %+.1f |", methods[i].gib[t], residual);
            squares[!fitted_on(t)] += residual * residual;
            n[!fitted_on(t)]++;
            if (!fitted_on(t) && fabs(residual) > fabs(worst))
                worst = residual;
        }
        printf("\n");
    }
    printf("\nRoot mean square error: %.2f GiB on the fitted tasks, %.2f GiB on the predicted ones; largest %+.1f "
           "GiB.\n\n",
           sqrt(squares[0] / n[0]), sqrt(squares[1] / n[1]), worst);
}

/* Constants cancel in the difference between query-head and KV-head storage of the same method, where chunks are whole.
 */
static void print_difference(const struct kv_model *m, struct kv_arena *a)
{
    enum { EXPANDED = 2, GROUPED = 3 };
    printf("**PyramidKV, query-head minus KV-head storage: activations cancel**\n\n"
           "| | Recall | RAG | Rerank | ICL |\n|---|---|---|---|---|\n| measured |");
    for (int t = RECALL; t <= ICL; t++)
        printf(" %.1f |", methods[EXPANDED].gib[t] - methods[GROUPED].gib[t]);
    for (int scope = 0; scope < KV_SCOPES; scope++) {
        printf("\n| scope %s |", kv_scope_names[scope]);
        for (int t = RECALL; t <= ICL; t++)
            printf(" %.1f |", count_task(m, EXPANDED, t, (enum kv_scope)scope, a).kv_gib -
                                  count_task(m, GROUPED, t, (enum kv_scope)scope, a).kv_gib);
    }
    printf("\n\n");
}

int main(void)
{
    static struct kv_err e;
    struct kv_arena *a = kv_arena_open();
    struct kv_model m;
    gsl_set_error_handler_off();
    if (!kv_model_find("Llama-3.1-8B", &m, a, &e))
        fail(&e);
    printf("Cells: measured GiB, predicted minus measured.\n\n");
    for (int scope = 0; scope < KV_SCOPES; scope++)
        print_scope(&m, (enum kv_scope)scope, a);
    print_difference(&m, a);
    kv_arena_close(a);
    return 0;
}
