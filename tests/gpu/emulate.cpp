/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "tests/gpu/emulate.h"

#include <ucontext.h>
#include <vector>

dim3 kv_emulated_thread, kv_emulated_block, kv_emulated_block_size, kv_emulated_grid;
long kv_emulated_conflicts;

namespace
{

enum { STACK = 1 << 17, LANE_BYTES = 64, SHARED_MOST = 232448, MOST_THREADS = 1024 };
enum state { READY, AT_WARP, AT_BLOCK, DONE };

struct copy {
    void *to;
    const void *from;
    int group;
    bool there;
};

struct fiber {
    void *at[5];
    ucontext_t begin;
    dim3 thread;
    state is;
    int turn, groups;
    std::vector<copy> copies;
};

struct warp {
    unsigned char told[2][32][LANE_BYTES];
};

std::vector<fiber> fibers;
alignas(64) char stacks[MOST_THREADS][STACK];
std::vector<warp> warps;
std::vector<unsigned char> shared_bytes(SHARED_MOST);
void *scheduler[5];
int now, n_threads;
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

void enter()
{
    (*body)();
    fiber &f = fibers[(size_t)now];
    if (!f.copies.empty())
        stop("ends with copies that nobody waited for");
    f.is = DONE;
    go_on(scheduler);
}

__attribute__((noipa)) void wait_as(state s)
{
    fiber &f = fibers[(size_t)now];
    f.is = s;
    if (!__builtin_setjmp(f.at))
        go_on(scheduler);
    kv_emulated_thread = fibers[(size_t)now].thread;
}

[[noreturn]] __attribute__((noipa)) void start(fiber &f, bool begun)
{
    if (begun)
        go_on(f.at);
    setcontext(&f.begin);
    std::abort();
}

__attribute__((noipa)) void resume(int i, bool *begun)
{
    now = i;
    fiber &f = fibers[(size_t)i];
    bool was = begun[i];
    begun[i] = true;
    kv_emulated_thread = f.thread;
    if (!__builtin_setjmp(scheduler))
        start(f, was);
}

/* A warp goes on when all its threads that are not done wait for it, a block likewise. */
bool release()
{
    bool any = false, all = true;
    for (int w = 0; w < n_threads / 32; w++) {
        int waiting = 0, done = 0;
        for (int i = 32 * w; i < 32 * w + 32; i++) {
            waiting += fibers[(size_t)i].is == AT_WARP;
            done += fibers[(size_t)i].is == DONE;
        }
        if (waiting && waiting + done < 32)
            continue;
        if (waiting && done)
            stop("a warp whose threads partly ended waits for all of them");
        for (int i = 32 * w; waiting && i < 32 * w + 32; i++) {
            fibers[(size_t)i].is = READY;
            any = true;
        }
    }
    if (any)
        return true;
    for (int i = 0; i < n_threads; i++)
        all = all && (fibers[(size_t)i].is == AT_BLOCK || fibers[(size_t)i].is == DONE);
    for (int i = 0; all && i < n_threads; i++)
        if (fibers[(size_t)i].is == AT_BLOCK) {
            fibers[(size_t)i].is = READY;
            any = true;
        }
    return any;
}

void run_block()
{
    static bool begun[MOST_THREADS];
    std::memset(shared_bytes.data(), 0xff, shared_bytes.size());
    for (int i = 0; i < n_threads; i++) {
        fiber &f = fibers[(size_t)i];
        unsigned x = (unsigned)i;
        f.thread = dim3(x % kv_emulated_block_size.x, x / kv_emulated_block_size.x % kv_emulated_block_size.y,
                        x / kv_emulated_block_size.x / kv_emulated_block_size.y);
        f.is = READY;
        f.turn = f.groups = 0;
        f.copies.clear();
        getcontext(&f.begin);
        f.begin.uc_stack.ss_sp = stacks[i];
        f.begin.uc_stack.ss_size = STACK;
        f.begin.uc_link = nullptr;
        makecontext(&f.begin, enter, 0);
        begun[i] = false;
    }
    for (;;) {
        bool ran = false;
        order = order * 1664525u + 1013904223u;
        int first = (int)(order >> 8) % n_threads, step = order >> 30 & 1 ? 1 : n_threads - 1;
        for (int k = 0, i = first; k < n_threads; k++, i = (i + step) % n_threads)
            if (fibers[(size_t)i].is == READY) {
                resume(i, begun);
                ran = true;
            }
        bool done = true;
        for (int i = 0; i < n_threads; i++)
            done = done && fibers[(size_t)i].is == DONE;
        if (done)
            return;
        if (!release() && !ran)
            stop("its threads wait for each other at different barriers");
    }
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
    kernel_name = name;
    n_threads = (int)(block.x * block.y * block.z);
    if (n_threads % 32 || n_threads > MOST_THREADS || n_threads < 32)
        stop("a block of so many threads cannot be emulated");
    if (shared > SHARED_MOST)
        stop("more shared memory than a block may have");
    if (grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535 || !grid.x || !grid.y || !grid.z)
        stop("a grid that a device refuses");
    if ((int)fibers.size() < n_threads)
        fibers.resize((size_t)n_threads);
    if ((int)warps.size() < n_threads / 32)
        warps.resize((size_t)n_threads / 32);
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

unsigned char *kv_emulated_shared(void)
{
    return (unsigned char *)(((uintptr_t)shared_bytes.data() + 127) / 128 * 128);
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
void kv_mma(float c[4], const uint32_t a[4], const uint32_t b[2])
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
            sum += from_bf16(k % 2 ? one >> 16 : one & 0xffff) * from_bf16(k % 2 ? other >> 16 : other & 0xffff);
        }
        c[i] += sum;
    }
    kv_emulated_turn();
}

void kv_load_matrices(uint32_t out[4], const void *row)
{
    load(out, row, false);
}

void kv_load_matrices_transposed(uint32_t out[4], const void *row)
{
    load(out, row, true);
}

void kv_copy_later(void *to, const void *from, bool there)
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
