/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Products by cuBLASLt. What is asked for again and again is planned once: a plan is the first algorithm of the
 * library's own list, which it makes from shapes and the device alone, that adds up in a fixed order and in fp32. So a
 * product is made by the same algorithm whatever ran before, whatever runs beside it, and also when its plan was
 * dropped and made again. All work on one stream shares one workspace. */
#include "engine/cuda/gpu_inside.h"

extern "C" {
#include "sim/core/error.h"
}

#include <cublasLt.h>
#include <stdio.h>
#include <stdlib.h>

/* What the library's manual advises on Hopper; a plan may use less. */
enum { WORKSPACE_BYTES = 32 << 20 };

/* Of the library's list, looked at for one that will do. */
enum { CANDIDATES = 16 };

/* Nothing in it owns anything: a dropped plan is one that is overwritten. */
struct plan {
    cublasLtMatrixLayoutOpaque_t w, x, y;
    cublasLtMatmulAlgo_t algorithm;
    struct kv_gpu_plan facts;
};

struct kv_products {
    cublasLtHandle_t blas;
    cublasLtMatmulDescOpaque_t turned; /* y = w^T x, in fp32 */
    void *workspace;
    struct kv_product_places places;
    struct plan plan[KV_PRODUCT_PLACES];
};

static void cannot_open(struct kv_gpu *g, const char *call, const char *why)
{
    char text[256];
    snprintf(text, sizeof text, "%s: %s; %lld bytes are free", call, why, (long long)kv_gpu_free_bytes(g));
    kv_gpu_remember(g, text);
}

static bool open_library(struct kv_gpu *g, struct kv_products *p)
{
    const cublasOperation_t turn = CUBLAS_OP_T;
    const char *call = "cublasLtCreate";
    cublasStatus_t status = cublasLtCreate(&p->blas);
    if (status == CUBLAS_STATUS_SUCCESS) {
        call = "cublasLtMatmulDescInit";
        status = cublasLtMatmulDescInit(&p->turned, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        call = "cublasLtMatmulDescSetAttribute";
        status = cublasLtMatmulDescSetAttribute(&p->turned, CUBLASLT_MATMUL_DESC_TRANSA, &turn, sizeof turn);
    }
    if (status != CUBLAS_STATUS_SUCCESS)
        cannot_open(g, call, cublasLtGetStatusString(status));
    return status == CUBLAS_STATUS_SUCCESS;
}

struct kv_products *kv_products_open(struct kv_gpu *g)
{
    struct kv_products *p = (struct kv_products *)calloc(1, sizeof *p);
    cudaError_t status = p ? cudaMalloc(&p->workspace, WORKSPACE_BYTES) : cudaErrorMemoryAllocation;
    if (status != cudaSuccess)
        cannot_open(g, "cudaMalloc of 32 MiB for products", cudaGetErrorString(status));
    if (status == cudaSuccess && open_library(g, p))
        return p;
    kv_products_close(p);
    return NULL;
}

void kv_products_close(struct kv_products *p)
{
    if (!p)
        return;
    if (p->blas)
        cublasLtDestroy(p->blas);
    cudaFree(p->workspace);
    free(p);
}

int kv_products_version(void)
{
    return (int)cublasLtGetVersion();
}

/* ---- plans ---- */

static void cannot(struct kv_gpu *g, const struct kv_product *p, const char *call, const char *why)
{
    char text[400];
    snprintf(text, sizeof text,
             "%s of (%lld, %lld) by (%lld, %lld) in bf16, %s %s in rows %lld apart, at multiples of %d bytes: %s; %lld "
             "bytes are free",
             call, (long long)p->rows, (long long)p->inputs, (long long)p->outputs, (long long)p->inputs,
             p->add ? "added to" : "into", p->wide ? "fp32" : "bf16", (long long)p->y_step, p->alignment, why,
             (long long)kv_gpu_free_bytes(g));
    kv_gpu_remember(g, text);
}

static bool set_layout(cublasLtMatrixLayoutOpaque_t *to, cudaDataType type, const struct kv_columns *c)
{
    return cublasLtMatrixLayoutInit(to, type, (uint64_t)c->rows, (uint64_t)c->columns, c->step) ==
           CUBLAS_STATUS_SUCCESS;
}

/* Partial sums of a divided product meet in the workspace, in fp32, by a step of their own; other ways round them to
 * the type of y. */
static bool set_preference(cublasLtMatmulPreferenceOpaque_t *to, const struct kv_product *p)
{
    const uint64_t most = WORKSPACE_BYTES;
    const uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, alignment = (uint32_t)p->alignment;
    static const cublasLtMatmulPreferenceAttributes_t aligned[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    bool good = cublasLtMatmulPreferenceInit(to) == CUBLAS_STATUS_SUCCESS &&
                cublasLtMatmulPreferenceSetAttribute(to, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most,
                                                     sizeof most) == CUBLAS_STATUS_SUCCESS &&
                cublasLtMatmulPreferenceSetAttribute(to, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction,
                                                     sizeof reduction) == CUBLAS_STATUS_SUCCESS;
    for (size_t i = 0; good && i < sizeof aligned / sizeof *aligned; i++)
        good =
            cublasLtMatmulPreferenceSetAttribute(to, aligned[i], &alignment, sizeof alignment) == CUBLAS_STATUS_SUCCESS;
    return good;
}

/* Some attributes have 16 bits, the others 32. */
static int ask(const cublasLtMatmulAlgo_t *algorithm, cublasLtMatmulAlgoConfigAttributes_t what)
{
    uint32_t wide = 0;
    uint16_t narrow = 0;
    if (cublasLtMatmulAlgoConfigGetAttribute(algorithm, what, &wide, sizeof wide, NULL) == CUBLAS_STATUS_SUCCESS)
        return (int)wide;
    if (cublasLtMatmulAlgoConfigGetAttribute(algorithm, what, &narrow, sizeof narrow, NULL) == CUBLAS_STATUS_SUCCESS)
        return (int)narrow;
    return -1;
}

static struct kv_gpu_plan read_facts(const struct kv_product *p, const cublasLtMatmulHeuristicResult_t *found, int rank)
{
    struct kv_gpu_plan f;
    f.product = *p;
    f.rank = rank;
    f.algorithm = ask(&found->algo, CUBLASLT_ALGO_CONFIG_ID);
    f.tile = ask(&found->algo, CUBLASLT_ALGO_CONFIG_TILE_ID);
    f.stages = ask(&found->algo, CUBLASLT_ALGO_CONFIG_STAGES_ID);
    f.splits = ask(&found->algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM);
    f.reduction = ask(&found->algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME);
    f.swizzle = ask(&found->algo, CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING);
    f.option = ask(&found->algo, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION);
    f.inner = ask(&found->algo, CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID);
    f.cluster = ask(&found->algo, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID);
    f.workspace_bytes = (int64_t)found->workspaceSize;
    return f;
}

static bool will_do(const cublasLtMatmulHeuristicResult_t *found)
{
    int reduction = ask(&found->algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME);
    return found->state == CUBLAS_STATUS_SUCCESS && found->workspaceSize <= WORKSPACE_BYTES &&
           (reduction == CUBLASLT_REDUCTION_SCHEME_NONE || reduction == CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
}

static bool make_plan(struct kv_gpu *g, struct kv_products *p, const struct kv_product *product, struct plan *plan)
{
    struct kv_column_product c = kv_product_columns(product);
    cublasLtMatmulPreferenceOpaque_t preference;
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    int n = 0;
    if (!set_layout(&plan->w, CUDA_R_16BF, &c.w) || !set_layout(&plan->x, CUDA_R_16BF, &c.x) ||
        !set_layout(&plan->y, product->wide ? CUDA_R_32F : CUDA_R_16BF, &c.y) ||
        !set_preference(&preference, product)) {
        cannot(g, product, "cublasLt's descriptions", "refused");
        return false;
    }
    cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(p->blas, &p->turned, &plan->w, &plan->x, &plan->y, &plan->y,
                                                           &preference, CANDIDATES, found, &n);
    for (int i = 0; status == CUBLAS_STATUS_SUCCESS && i < n; i++)
        if (will_do(&found[i])) {
            plan->algorithm = found[i].algo;
            plan->facts = read_facts(product, &found[i], i);
            return true;
        }
    cannot(g, product, "cublasLtMatmulAlgoGetHeuristic",
           status == CUBLAS_STATUS_SUCCESS ? "no algorithm that adds up in a fixed order"
                                           : cublasLtGetStatusString(status));
    return false;
}

void kv_gpu_multiply(struct kv_gpu *g, const void *w, const void *x, int64_t rows, int64_t outputs, int64_t inputs,
                     void *y, int64_t y_step, bool wide, bool add)
{
    const float one = 1, kept = add ? 1 : 0;
    struct kv_products *p = kv_gpu_products(g);
    bool fresh;
    if (!rows || !outputs || !p)
        return;
    struct kv_product product = kv_product_of(w, x, rows, outputs, inputs, y, y_step, wide, add);
    struct plan *plan = &p->plan[kv_product_place(&p->places, &product, &fresh)];
    if (fresh && !make_plan(g, p, &product, plan))
        return; /* and the device multiplies no more: a place without a plan is never found */
    cublasStatus_t status = cublasLtMatmul(p->blas, &p->turned, &one, w, &plan->w, x, &plan->x, &kept, y, &plan->y, y,
                                           &plan->y, &plan->algorithm, p->workspace, WORKSPACE_BYTES, kv_gpu_stream(g));
    if (status != CUBLAS_STATUS_SUCCESS)
        cannot(g, &product, "cublasLtMatmul", cublasLtGetStatusString(status));
}

bool kv_gpu_planned(struct kv_gpu *g, int i, struct kv_gpu_plan *plan)
{
    struct kv_products *p = kv_gpu_products(g);
    int place = p ? kv_product_recent(&p->places, i) : -1;
    if (place >= 0)
        *plan = p->plan[place].facts;
    return place >= 0;
}
