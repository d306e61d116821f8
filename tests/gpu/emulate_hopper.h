/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The words of engine/cuda/hopper.cuh on the host. What is asynchronous is late or early, as it comes: bulk copies
 * arrive when they are asked for, or when nobody can go on without them; products read shared memory at once or when
 * they are waited for, and their sums are NaNs till then. Products and bulk copies see shared memory as it was at the
 * last fence of a thread that wrote there. */
#ifndef KV_TESTS_EMULATE_HOPPER_H
#define KV_TESTS_EMULATE_HOPPER_H

#include "engine/cuda/gpu.h"
#include "tests/gpu/emulate.h"

#define __grid_constant__

/* What tests/gpu/device.cpp keeps in a kv_gpu_boxes. */
struct kv_emulated_boxes {
    const unsigned char *matrix;
    int64_t rows, columns;
    int32_t box_rows, box_columns;
};

/* So far. */
long kv_emulated_boxes_copied(void);

uint32_t kv_shared_address(const void *shared);
void kv_barrier_init(uint64_t *barrier, int arrivals);
void kv_barriers_made(void);
void kv_barrier_arrive(uint64_t *barrier);
void kv_barrier_arrive_expecting(uint64_t *barrier, int bytes);
void kv_barrier_wait(uint64_t *barrier, int phase);
void kv_copy_box(void *shared, const struct kv_gpu_boxes *map, int32_t column, int32_t row, uint64_t *barrier);
static inline void kv_prefetch_boxes(const struct kv_gpu_boxes *)
{
}
void kv_fence_products(void);
void kv_named_wait(int number, int threads);
void kv_named_arrive(int number, int threads);

void kv_emulated_registers(int n, bool more);
template <int n> static void kv_fewer_registers(void)
{
    kv_emulated_registers(n, false);
}
template <int n> static void kv_more_registers(void)
{
    kv_emulated_registers(n, true);
}

void kv_products_fence(void);
void kv_products_group(void);
void kv_emulated_products_wait(int left);
template <int n> static void kv_products_wait(void)
{
    kv_emulated_products_wait(n);
}
template <typename T, int n> static void kv_products_hold(T (&)[n])
{
}

/* sums (64, n) of a product of 16: the left side in registers, or (NULL) in shared memory. */
void kv_emulated_product(float *sum, int n, const uint32_t *left, uint64_t left_at, uint64_t right_at, bool columns,
                         bool add);
static inline void kv_multiply_rows_128(float (&d)[64], uint64_t a, uint64_t b, bool add)
{
    kv_emulated_product(d, 128, nullptr, a, b, false, add);
}
static inline void kv_multiply_columns(float (&d)[64], const uint32_t *a, uint64_t b)
{
    kv_emulated_product(d, 128, a, 0, b, true, true);
}
static inline void kv_multiply_columns(float (&d)[32], const uint32_t *a, uint64_t b)
{
    kv_emulated_product(d, 64, a, 0, b, true, true);
}

#endif
