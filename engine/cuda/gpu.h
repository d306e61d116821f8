/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What the CUDA backend needs of a device: memory, copies, a range of addresses that is mapped slab by slab, matrix
 * products. Work is asked for in order on one stream and done later. The first failure is remembered and said by
 * kv_gpu_wait: the call, what was wanted, what was free. gpu.cu has it for NVIDIA devices; tests/gpu/ has another that
 * does the same on the host, so that all of the backend runs where there is no device. */
#ifndef KV_GPU_H
#define KV_GPU_H

#include "engine/cuda/product.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kv_err;
struct kv_gpu;

struct kv_gpu_facts {
    char name[128];
    int major, minor; /* compute capability */
    int multiprocessors;
    int64_t total_bytes;
    int64_t shared_bytes; /* that a block may have at most */
    int driver, runtime;  /* versions, as CUDA numbers them */
    int blas;             /* version of what multiplies, as it numbers itself */
};

/* KV_ENV: there is no device, none that can multiply bf16 (compute capability 8.0), or no driver. */
bool kv_gpu_open(struct kv_gpu **g, struct kv_err *e);
void kv_gpu_close(struct kv_gpu *g); /* NULL is fine; what was made with it must be gone */
const struct kv_gpu_facts *kv_gpu_about(const struct kv_gpu *g);
int64_t kv_gpu_free_bytes(struct kv_gpu *g); /* as the driver says */

/* n x size bytes of the device's memory, 256-byte aligned; `what` names them. *out is a pointer of any type. KV_ENV. */
bool kv_gpu_new(struct kv_gpu *g, void *out, int64_t n, size_t size, const char *what, struct kv_err *e);
void kv_gpu_delete(struct kv_gpu *g, void *device); /* waits; NULL is fine */
/* The same of the host's, which copies reach without a detour, and kernels by the same pointer. KV_ENV. */
bool kv_gpu_new_host(struct kv_gpu *g, void *out, int64_t n, size_t size, const char *what, struct kv_err *e);
void kv_gpu_delete_host(struct kv_gpu *g, void *host);

/* In order with all else. `host` of kv_gpu_put must stay as it is until kv_gpu_wait, unless it is pageable (it was read
 * when the call returns). kv_gpu_get waits. */
void kv_gpu_put(struct kv_gpu *g, void *device, const void *host, size_t bytes);
void kv_gpu_get(struct kv_gpu *g, void *host, const void *device, size_t bytes);
void kv_gpu_copy(struct kv_gpu *g, void *to, const void *from, size_t bytes); /* within the device, not overlapping */
void kv_gpu_zero(struct kv_gpu *g, void *device, size_t bytes);
/* `rows` rows of `bytes`, `to_step` and `from_step` bytes apart. */
void kv_gpu_put_rows(struct kv_gpu *g, void *device, size_t to_step, const void *host, size_t from_step, size_t bytes,
                     size_t rows);

/* To the device beside all else, in the order of these calls. `host` is pinned, and must stay as it is until it has
 * arrived; what it brings may be used then. */
void kv_gpu_send(struct kv_gpu *g, void *device, const void *host, size_t bytes);
/* Waits until no more than `under_way` of the newest that were sent have not arrived: less than KV_GPU_SENDS. */
enum { KV_GPU_SENDS = 4 };
void kv_gpu_arrived(struct kv_gpu *g, int under_way);

/* Until all that was asked for is done. KV_ENV: the first thing that failed since the device was opened. */
bool kv_gpu_wait(struct kv_gpu *g, struct kv_err *e);

/* Addresses without memory: `bytes` of them (rounded up), of which slabs of *slab bytes are mapped and unmapped one by
 * one. KV_ENV. Unmapping waits. */
bool kv_gpu_reserve(struct kv_gpu *g, int64_t bytes, void **base, int64_t *slab, struct kv_err *e);
void kv_gpu_release(struct kv_gpu *g, void *base); /* with all slabs */
bool kv_gpu_map(struct kv_gpu *g, void *base, int64_t slab, struct kv_err *e);
void kv_gpu_unmap(struct kv_gpu *g, void *base, int64_t slab);

/* y (rows, outputs) = x (rows, inputs) w^T, w (outputs, inputs): x and w bf16, sums in fp32; y bf16, or fp32 where
 * `wide`; added to what is there where `add` (wide only). Rows of y are y_step elements apart. The same numbers give
 * the same bits each time; other row counts may add up in another order. */
void kv_gpu_multiply(struct kv_gpu *g, const void *w, const void *x, int64_t rows, int64_t outputs, int64_t inputs,
                     void *y, int64_t y_step, bool wide, bool add);

/* Kernels, copies within the device and products that are asked for between begin and end are not done but recorded;
 * what was asked for before them is. Then they can be repeated as often as wanted, with the arguments that they had.
 * Nothing else may be asked for in between. end: NULL when something failed. */
struct kv_gpu_graph;
void kv_gpu_graph_begin(struct kv_gpu *g);
struct kv_gpu_graph *kv_gpu_graph_end(struct kv_gpu *g);
void kv_gpu_graph_run(struct kv_gpu *g, const struct kv_gpu_graph *graph);
void kv_gpu_graph_delete(struct kv_gpu *g, struct kv_gpu_graph *graph); /* NULL is fine */

/* How a product was made, in the library's own numbers (-1: not known to it): its algorithm, how that is set, which
 * one of its list, best first, it was. */
struct kv_gpu_plan {
    struct kv_product product;
    int algorithm, tile, stages, splits, reduction, swizzle, option, inner, cluster, rank;
    int64_t workspace_bytes;
};
/* The i-th of the plans that are kept, newest first. False: there are no more. */
bool kv_gpu_planned(struct kv_gpu *g, int i, struct kv_gpu_plan *plan);

/* A matrix of the device as bulk copies see it, which take boxes of it: `rows` rows of `columns` bf16, side by side;
 * box_rows x box_columns at a time, whose 16-byte chunks come to lie mixed within 128 bytes (hopper.cuh). Its memory
 * need not be mapped yet. False: this device has none such, or not for this matrix; nothing failed. */
struct kv_gpu_boxes {
    uint64_t opaque[16];
} __attribute__((aligned(64)));
bool kv_gpu_make_boxes(struct kv_gpu *g, struct kv_gpu_boxes *boxes, const void *matrix, int64_t rows, int64_t columns,
                       int32_t box_rows, int32_t box_columns);

/* Milliseconds of the device between two marks; a mark is one of KV_GPU_MARKS. Waits for the later one. */
enum { KV_GPU_MARKS = 16 };
void kv_gpu_mark(struct kv_gpu *g, int mark);
double kv_gpu_between(struct kv_gpu *g, int from, int to);

#ifdef __cplusplus
}
#endif

#endif
