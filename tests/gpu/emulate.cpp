/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "tests/gpu/emulate.h"

#include "tests/gpu/emulate_inside.h"

#include <map>
#include <string>
#include <ucontext.h>
#include <vector>

dim3 kv_emulated_thread, kv_emulated_block, kv_emulated_block_size, kv_emulated_grid;
long kv_emulated_conflicts;
std::vector<std::function<void()>> *kv_emulated_recording;

namespace
{

enum {
    STACK = 1 << 17,
    LANE_BYTES = 64,
    SHARED_MOST = KV_EMULATED_SHARED_MOST,
    MOST_THREADS = KV_EMULATED_THREADS_MOST,
    WINDOW = 1024,   /* what addresses of shared memory begin at is a multiple of */
    ALIGNMENT = 128, /* and what a kernel's part of it is */
    GUARD = 64,
};
enum state { READY, AT_WARP, AT_BLOCK, WAITING, DONE };

struct copy {
    void *to;
    const void *from;
    int group;
    bool there;
};

struct fiber {
    void *at[5];
    ucontext_t begin;
    bool born;
    dim3 thread;
    state is;
    int turn, groups;
    std::vector<copy> copies;
    const std::function<bool()> *so; /* what it waits for */
};

struct warp {
    unsigned char told[2][32][LANE_BYTES];
};

std::map<std::string, long> blocks_of;
fiber fibers[MOST_THREADS];
alignas(64) char stacks[MOST_THREADS][STACK];
std::vector<warp> warps;
std::vector<unsigned char> shared_bytes(SHARED_MOST + WINDOW + ALIGNMENT + GUARD);
void *scheduler[5];
int now, n_threads;
size_t shared_asked;
unsigned order;
const std::function<void()> *body;
const char *kernel_name;

[[noreturn]] void stop(const char *why)
{
    std::fprintf(stderr, "emulated kernel %s, block %u.%u, thread %d: %s\n", kernel_name, kv_emulated_block.x,
                 kv_emulated_block.y, now, why);
    std::abort();
}

/* The compiler's own jumps: the library's may be watched by a sanitizer, which knows nothing of fibers. A function that
 * comes back by one may have lost any register, whatever a compiler that looks into it thinks. */
[[noreturn]] __attribute__((noipa)) void go_on(void **at)
{
    __builtin_longjmp(at, 1);
}

__attribute__((noipa)) void wait_as(state s)
{
    fiber &f = fibers[(size_t)now];
    f.is = s;
    if (!__builtin_setjmp(f.at))
        go_on(scheduler);
    kv_emulated_thread = fibers[(size_t)now].thread;
}

/* A fiber lives on, block after block. */
void enter()
{
    for (;;) {
        (*body)();
        if (!fibers[(size_t)now].copies.empty())
            stop("ends with copies that nobody waited for");
        kv_emulated_hopper_thread_ends();
        wait_as(DONE);
    }
}

[[noreturn]] __attribute__((noipa)) void start(fiber &f)
{
    if (f.born)
        go_on(f.at);
    f.born = true;
    getcontext(&f.begin);
    f.begin.uc_stack.ss_sp = stacks[&f - fibers];
    f.begin.uc_stack.ss_size = STACK;
    f.begin.uc_link = nullptr;
    makecontext(&f.begin, enter, 0);
    setcontext(&f.begin);
    std::abort();
}

__attribute__((noipa)) void resume(int i)
{
    now = i;
    kv_emulated_thread = fibers[i].thread;
    if (!__builtin_setjmp(scheduler))
        start(fibers[i]);
}

/* Threads of the warp in a state. */
int count(int warp, state s)
{
    int n = 0;
    for (int i = 32 * warp; i < 32 * warp + 32; i++)
        n += fibers[i].is == s;
    return n;
}

void let_go(int from, int n, state s)
{
    for (int i = from; i < from + n; i++)
        if (fibers[i].is == s)
            fibers[i].is = READY;
}

/* A warp goes on when all its threads wait for it. */
void release_warp(int warp)
{
    int waiting = count(warp, AT_WARP), done = count(warp, DONE);
    if (waiting && done && waiting + done == 32)
        stop("a warp whose threads partly ended waits for all of them");
    if (waiting == 32)
        let_go(32 * warp, 32, AT_WARP);
}

/* Those for whom it is so go on. */
bool release_waiting()
{
    int n = 0;
    for (int i = 0; i < n_threads; i++)
        if (fibers[i].is == WAITING && (!fibers[i].so || (*fibers[i].so)())) {
            fibers[i].is = READY;
            n++;
        }
    return n > 0;
}

/* When nobody can run: a block goes on when all its threads that are not done wait for it. False: all are done. */
bool release_block()
{
    int waiting = 0, done = 0;
    for (int w = 0; w < n_threads / 32; w++) {
        waiting += count(w, AT_BLOCK);
        done += count(w, DONE);
    }
    if (waiting + done < n_threads)
        stop("its threads wait for each other at different barriers");
    let_go(0, n_threads, AT_BLOCK);
    return waiting > 0;
}

/* `warp` or the next behind it that can run; -1: none can. */
int next_ready(int warp)
{
    int warps_here = n_threads / 32;
    for (int i = 0; i < warps_here; i++)
        if (count((warp + i) % warps_here, READY))
            return (warp + i) % warps_here;
    return -1;
}

/* In an order that is never the same. */
void run_warp(int warp)
{
    int first = (int)(order >> 16) % 32, step = order >> 27 & 1 ? 1 : 31;
    for (int k = 0, i = first; k < 32; k++, i = (i + step) % 32)
        if (fibers[32 * warp + i].is == READY)
            resume(32 * warp + i);
    release_warp(warp);
}

/* One warp runs for a while, till it waits for others or another's turn comes: so some are far ahead. */
void run_block()
{
    unsigned char *behind = kv_emulated_shared() + shared_asked;
    std::memset(kv_emulated_window(), 0xff, ALIGNMENT + shared_asked);
    std::memset(behind, GUARD, GUARD);
    kv_emulated_hopper_begins(n_threads);
    for (int i = 0; i < n_threads; i++) {
        fiber &f = fibers[i];
        unsigned x = (unsigned)i;
        f.thread = dim3(x % kv_emulated_block_size.x, x / kv_emulated_block_size.x % kv_emulated_block_size.y,
                        x / kv_emulated_block_size.x / kv_emulated_block_size.y);
        f.is = READY;
        f.turn = f.groups = 0;
        f.copies.clear();
    }
    for (int warp = 0; warp >= 0 || release_waiting() || kv_emulated_hopper_arrives() || release_block();) {
        order = order * 1664525u + 1013904223u;
        if (order >> 28 == 1)
            release_waiting();
        if (warp < 0 || !count(warp, READY) || order >> 28 == 0)
            warp = next_ready((int)(order >> 8) % (n_threads / 32));
        if (warp >= 0)
            run_warp(warp);
    }
    kv_emulated_hopper_ends();
    for (int i = 0; i < GUARD; i++)
        if (behind[i] != GUARD)
            stop("writes behind its shared memory");
}

unsigned char *told(int lane)
{
    fiber &f = fibers[(size_t)now];
    return warps[(size_t)now / 32].told[f.turn & 1][lane];
}

float from_bf16(uint32_t half)
{
    return __uint_as_float(half << 16);
}

/* Rows of 16 bytes, 8 of which are in all banks together. */
void count_conflicts(int matrix)
{
    unsigned banks = 0;
    for (int r = 0; r < 8; r++) {
        uintptr_t at;
        std::memcpy(&at, told(8 * matrix + r), sizeof at);
        banks |= 1u << at / 16 % 8;
    }
    kv_emulated_conflicts += banks != 0xff;
}

/* Element (row, column) of an 8 x 8 matrix whose rows' addresses lanes gave. */
void load(uint32_t out[4], const void *row, bool transposed)
{
    std::memcpy(told(now % 32), &row, sizeof row);
    if ((uintptr_t)row % 16)
        stop("a matrix row that is not 16-byte aligned");
    kv_emulated_warp_barrier();
    int lane = now % 32;
    for (int m = 0; m < 4 && lane == 0; m++)
        count_conflicts(m);
    for (int m = 0; m < 4; m++) {
        uint16_t pair[2];
        for (int k = 0; k < 2; k++) {
            int r = lane / 4, c = 2 * (lane % 4) + k;
            const uint16_t *at;
            std::memcpy(&at, told(8 * m + (transposed ? c : r)), sizeof at);
            pair[k] = at[transposed ? r : c];
        }
        out[m] = (uint32_t)pair[1] << 16 | pair[0];
    }
    kv_emulated_turn();
}

} // namespace

void kv_emulate(const char *name, dim3 grid, dim3 block, size_t shared, const std::function<void()> &kernel)
{
    if (kv_emulated_recording) {
        kv_emulated_recording->push_back([=]() { kv_emulate(name, grid, block, shared, kernel); });
        return;
    }
    kernel_name = name;
    n_threads = (int)(block.x * block.y * block.z);
    if (n_threads % 32 || n_threads > MOST_THREADS || n_threads < 32)
        stop("a block of so many threads cannot be emulated");
    if (shared > SHARED_MOST)
        stop("more shared memory than a block may have");
    if (grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535 || !grid.x || !grid.y || !grid.z)
        stop("a grid that a device refuses");
    if ((int)warps.size() < n_threads / 32)
        warps.resize((size_t)n_threads / 32);
    shared_asked = shared;
    blocks_of[name] += (long)grid.x * grid.y * grid.z;
    kv_emulated_grid = grid;
    kv_emulated_block_size = block;
    body = &kernel;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                kv_emulated_block = dim3(x, y, z);
                run_block();
            }
}

long kv_emulated_blocks(const char *name)
{
    long n = 0;
    for (const auto &kernel : blocks_of)
        n += kernel.first.find(name) != std::string::npos ? kernel.second : 0;
    return n;
}

unsigned char *kv_emulated_shared(void)
{
    return kv_emulated_window() + ALIGNMENT;
}

unsigned char *kv_emulated_window(void)
{
    return (unsigned char *)(((uintptr_t)shared_bytes.data() + WINDOW - 1) / WINDOW * WINDOW);
}

size_t kv_emulated_window_bytes(void)
{
    return ALIGNMENT + shared_asked;
}

void kv_emulated_stop(const char *why)
{
    stop(why);
}

int kv_emulated_number(void)
{
    return now;
}

unsigned kv_emulated_dice(unsigned sides)
{
    order = order * 1664525u + 1013904223u;
    return (order >> 8) % sides;
}

void kv_emulated_pause(void)
{
    fibers[(size_t)now].so = nullptr;
    if (kv_emulated_dice(4) == 0)
        wait_as(WAITING);
}

void kv_emulated_until(const std::function<bool()> &so)
{
    if (so())
        return;
    fibers[(size_t)now].so = &so;
    wait_as(WAITING);
}

void kv_emulated_block_barrier(void)
{
    wait_as(AT_BLOCK);
}

void kv_emulated_warp_barrier(void)
{
    wait_as(AT_WARP);
}

unsigned char *kv_emulated_lane(int lane)
{
    return told(lane);
}

void kv_emulated_turn(void)
{
    fibers[(size_t)now].turn++;
}

int kv_emulated_lane_number(void)
{
    return now % 32;
}

/* PTX ISA, fragments of m16n8k16: group = lane / 4, in = lane % 4. A: rows group and group + 8, columns 2 in .. and
 * 8 + 2 in ..; B: rows 2 in .. and 8 + 2 in .., column group; C: rows group and group + 8, columns 2 in .. */
static void multiply(float c[4], const uint32_t a[4], const uint32_t b[2], float (*element)(uint32_t))
{
    int lane = now % 32, group = lane / 4, in = lane % 4;
    unsigned char *mine = told(lane);
    std::memcpy(mine, a, 16);
    std::memcpy(mine + 16, b, 8);
    kv_emulated_warp_barrier();
    for (int i = 0; i < 4; i++) {
        int row = group + 8 * (i / 2), column = 2 * in + i % 2;
        float sum = 0;
        for (int k = 0; k < 16; k++) {
            uint32_t has[4], with[2];
            std::memcpy(has, told(row % 8 * 4 + k % 8 / 2), sizeof has);
            std::memcpy(with, told(column * 4 + k % 8 / 2) + 16, sizeof with);
            uint32_t one = has[row / 8 + 2 * (k / 8)], other = with[k / 8];
            sum += element(k % 2 ? one >> 16 : one & 0xffff) * element(k % 2 ? other >> 16 : other & 0xffff);
        }
        c[i] += sum;
    }
    kv_emulated_turn();
}

void kv_mma(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    multiply(c, a, b, from_bf16);
}

void kv_mma_fp16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    multiply(c, a, b, kv_emulated_from_fp16);
}

void kv_load_matrices(uint32_t out[4], const void *row)
{
    load(out, row, false);
}

void kv_load_matrices_transposed(uint32_t out[4], const void *row)
{
    load(out, row, true);
}

void kv_emulated_copy_later(void *to, const void *from, bool there)
{
    fiber &f = fibers[(size_t)now];
    if ((uintptr_t)to % 16 || (there && (uintptr_t)from % 16))
        stop("a copy of 16 bytes that is not aligned to them");
    f.copies.push_back(copy{to, from, f.groups, there});
}

void kv_copy_group(void)
{
    fibers[(size_t)now].groups++;
}

void kv_emulated_copy_wait(int left)
{
    fiber &f = fibers[(size_t)now];
    std::vector<copy> rest;
    for (const copy &c : f.copies) {
        if (c.group >= f.groups - left)
            rest.push_back(c);
        else if (c.there)
            std::memcpy(c.to, c.from, 16);
        else
            std::memset(c.to, 0, 16);
    }
    f.copies = rest;
}
