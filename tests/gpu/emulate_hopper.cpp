/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "tests/gpu/emulate_hopper.h"

#include "tests/gpu/emulate_inside.h"

#include <map>
#include <vector>

namespace
{

enum { WARPGROUP = 128, NAMED = 16, ROW = 128 };

/* PTX ISA 9.7.13.15: a phase is over when no arrival and no byte is missing. */
struct barrier {
    int arrivals, missing, phase;
    int64_t bytes;
};

struct bulk_copy {
    unsigned char *to;
    kv_emulated_boxes from;
    int32_t column, row;
    uint64_t *counts;
};

struct named {
    int arrived, threads;
    long passed;
};

/* A thread's share of one product: two rows of the left side, and its sums' columns. */
struct product {
    float *sum;
    int n, group;
    float left[2][16];
    uint64_t left_at, right_at;
    bool in_shared, columns, add, read;
    const uint32_t *registers;
    uint32_t had[4];
    std::vector<float> result;
};

struct worker {
    std::vector<product> under_way;
    std::map<float *, std::vector<float>> was; /* sums that products under way add to */
    bool fenced;
    int groups, registers;
};

std::map<uint64_t *, barrier> barriers;
std::vector<bulk_copy> copies;
named nameds[NAMED];
std::vector<worker> workers(KV_EMULATED_THREADS_MOST);
std::vector<unsigned char> seen; /* shared memory, as products see it */
int threads_here;
long boxes;

worker &here()
{
    return workers[(size_t)kv_emulated_number()];
}

barrier &of(uint64_t *at)
{
    auto found = barriers.find(at);
    if (found == barriers.end())
        kv_emulated_stop("a barrier that nobody made");
    return found->second;
}

void count(uint64_t *at, int arrivals, int64_t bytes)
{
    barrier &b = of(at);
    b.missing -= arrivals;
    b.bytes += bytes;
    if (b.missing < 0)
        kv_emulated_stop("more arrivals than the barrier has a phase for");
    if (b.bytes > 0xfffff || b.bytes < -0xfffff)
        kv_emulated_stop("more bytes than a barrier counts");
    if (b.missing || b.bytes)
        return;
    b.phase++;
    b.missing = b.arrivals;
}

/* 5.5.6, 128-byte swizzle: bits 4 to 6 of an address are mixed with bits 7 to 9. */
uint32_t mixed(uint32_t at)
{
    return at ^ (at >> 7 & 7) << 4;
}

void carry_out(const bulk_copy &c)
{
    uint32_t to = (uint32_t)(c.to - kv_emulated_window());
    int64_t step = c.from.columns * 2;
    for (int64_t r = 0; r < c.from.box_rows; r++)
        for (int64_t chunk = 0; chunk < ROW / 16; chunk++) {
            const unsigned char *from = c.from.matrix + (c.row + r) * step + c.column * 2 + chunk * 16;
            uint32_t at = mixed(to + (uint32_t)(r * ROW + chunk * 16));
            std::memcpy(kv_emulated_window() + at, from, 16);
            std::memcpy(&seen[at], from, 16);
        }
    count(c.counts, 0, -(int64_t)c.from.box_rows * ROW);
}

float bf16_at(uint32_t at)
{
    uint16_t half;
    if (mixed(at) + 2 > seen.size())
        kv_emulated_stop("a product of what is not in shared memory");
    std::memcpy(&half, &seen[mixed(at)], sizeof half);
    return __uint_as_float((uint32_t)half << 16);
}

/* 9.7.15.5.1.2.2: a descriptor's start, steps and mode. */
struct layout {
    uint32_t start, leading, stride;
};

layout layout_of(uint64_t d)
{
    auto bytes = [&](int bit) { return (uint32_t)(d >> bit & 0x3fff) << 4; };
    if (d >> 62 != 1)
        kv_emulated_stop("a descriptor of another swizzle than 128 bytes");
    if (d & ~(UINT64_C(0x3fff) | UINT64_C(0x3fff) << 16 | UINT64_C(0x3fff) << 32 | UINT64_C(1) << 62))
        kv_emulated_stop("a descriptor with an offset of its base, or bits that mean nothing");
    if (bytes(0) >> 7 & 7)
        kv_emulated_stop("a matrix that begins within eight rows");
    return {bytes(0), bytes(16), bytes(32)};
}

/* 9.7.15.5.1.2, K-major: eight rows of 128 bytes are an atom, k goes along a row. */
float row_element(const layout &l, uint32_t row, uint32_t k)
{
    if (l.start % ROW + 32 > ROW)
        kv_emulated_stop("a product of 16 that leaves its row");
    return bf16_at(l.start + row / 8 * l.stride + row % 8 * ROW + k * 2);
}

/* MN-major: 64 of N go along a row, the next 64 are `leading` away; eight k are an atom. */
float column_element(const layout &l, uint32_t n, uint32_t k)
{
    if (l.start % ROW)
        kv_emulated_stop("columns that begin within a row");
    return bf16_at(l.start + n / 64 * l.leading + n % 64 * 2 + k / 8 * l.stride + k % 8 * ROW);
}

/* Reads what is in shared memory now. 9.7.15.5.1.1.1: whose sums are where. */
void read_now(product *p)
{
    uint32_t lane = (uint32_t)kv_emulated_lane_number(), warp = (uint32_t)kv_emulated_number() / 32 % 4;
    layout right = layout_of(p->right_at);
    if (p->in_shared) {
        layout left = layout_of(p->left_at);
        for (uint32_t half = 0; half < 2; half++)
            for (uint32_t k = 0; k < 16; k++)
                p->left[half][k] = row_element(left, 16 * warp + lane / 4 + 8 * half, k);
    }
    p->result.resize((size_t)p->n / 2);
    for (uint32_t i = 0; i < (uint32_t)p->n / 2; i += i % 4 == 1 ? 3 : 1) {
        float a = 0, b = 0;
        uint32_t n = i / 4 * 8 + lane % 4 * 2 + i % 2;
        for (uint32_t k = 0; k < 16; k++) {
            float x = p->columns ? column_element(right, n, k) : row_element(right, n, k);
            a += p->left[0][k] * x;
            b += p->left[1][k] * x;
        }
        p->result[i] = a;
        p->result[i + 2] = b;
    }
    p->read = true;
}

/* The 16 columns of the thread's two rows, of which each of four lanes has four. */
void gather_left(product *p, const uint32_t *left)
{
    int lane = kv_emulated_lane_number();
    std::memcpy(kv_emulated_lane(lane), left, 16);
    kv_emulated_warp_barrier();
    for (int k = 0; k < 16; k++)
        for (int half = 0; half < 2; half++) {
            uint32_t word;
            std::memcpy(&word, kv_emulated_lane(lane / 4 * 4 + k % 8 / 2) + 4 * (half + k / 8 * 2), sizeof word);
            p->left[half][k] = __uint_as_float(k % 2 ? word & 0xffff0000u : word << 16);
        }
    kv_emulated_turn();
}

void finish(worker *w, product *p)
{
    std::vector<float> &was = w->was[p->sum];
    if (!p->in_shared && std::memcmp(p->registers, p->had, sizeof p->had))
        kv_emulated_stop("registers that a product reads change before it is waited for");
    if (!p->read)
        read_now(p);
    for (size_t i = 0; i < was.size(); i++)
        was[i] = (p->add ? was[i] : 0) + p->result[i];
}

} // namespace

long kv_emulated_boxes_copied(void)
{
    return boxes;
}

uint32_t kv_shared_address(const void *shared)
{
    return (uint32_t)((const unsigned char *)shared - kv_emulated_window());
}

void kv_barrier_init(uint64_t *at, int arrivals)
{
    if ((uintptr_t)at % 8 || kv_shared_address(at) + 8 > kv_emulated_window_bytes())
        kv_emulated_stop("a barrier that is not in shared memory");
    barriers[at] = {arrivals, arrivals, 0, 0};
}

void kv_barriers_made(void)
{
}

void kv_barrier_arrive(uint64_t *at)
{
    count(at, 1, 0);
    kv_emulated_pause(); /* those whom it lets go may be faster */
}

void kv_barrier_arrive_expecting(uint64_t *at, int bytes)
{
    of(at).bytes += bytes;
    count(at, 1, 0);
    kv_emulated_pause();
}

void kv_barrier_wait(uint64_t *at, int phase)
{
    if (phase != 0 && phase != 1)
        kv_emulated_stop("a phase is 0 or 1");
    kv_emulated_until([=]() { return (of(at).phase & 1) != phase; });
}

void kv_copy_box(void *shared, const struct kv_gpu_boxes *map, int32_t column, int32_t row, uint64_t *counts)
{
    bulk_copy c = {(unsigned char *)shared, {}, column, row, counts};
    std::memcpy(&c.from, map, sizeof c.from);
    uint32_t to = kv_shared_address(shared);
    if (to % 1024 || to + (uint32_t)c.from.box_rows * ROW > kv_emulated_window_bytes())
        kv_emulated_stop("a bulk copy to where 128-byte swizzle does not begin");
    if (column < 0 || row < 0 || column + c.from.box_columns > c.from.columns || row + c.from.box_rows > c.from.rows)
        kv_emulated_stop("a box beyond its matrix");
    of(counts);
    boxes++;
    copies.push_back(c);
    if (kv_emulated_dice(2))
        return;
    carry_out(c);
    copies.pop_back();
}

void kv_fence_products(void)
{
    kv_emulated_pause(); /* what was written may lie there for long */
    std::memcpy(seen.data(), kv_emulated_window(), seen.size());
}

void kv_named_arrive(int number, int threads)
{
    if (number < 1 || number >= NAMED || threads % 32 || threads > threads_here)
        kv_emulated_stop("a named barrier that there is not");
    named &n = nameds[number];
    if (n.arrived && n.threads != threads)
        kv_emulated_stop("a named barrier of two sizes");
    n.threads = threads;
    if (++n.arrived < threads)
        return;
    n.arrived = 0;
    n.passed++;
}

void kv_named_wait(int number, int threads)
{
    long before = nameds[number & 15].passed;
    kv_named_arrive(number, threads);
    kv_emulated_until([=]() { return nameds[number].passed > before; });
}

void kv_emulated_registers(int n, bool more)
{
    int sum = 0;
    worker &w = here();
    if (n % 8 || n < 24 || n > 256 || (w.registers && more != (n > w.registers)))
        kv_emulated_stop("a number of registers that there is not");
    w.registers = n;
    for (int i = 0; i < threads_here; i++)
        sum += workers[(size_t)i].registers;
    if (sum > 65536)
        kv_emulated_stop("more registers than there are");
}

void kv_products_fence(void)
{
    here().fenced = true;
}

void kv_products_group(void)
{
    here().groups++;
}

void kv_emulated_product(float *sum, int n, const uint32_t *left, uint64_t left_at, uint64_t right_at, bool columns,
                         bool add)
{
    worker &w = here();
    if (!w.fenced)
        kv_emulated_stop("a product without a fence before it");
    product p = {};
    p.sum = sum;
    p.n = n;
    p.group = w.groups;
    p.left_at = left_at;
    p.right_at = right_at;
    p.in_shared = !left;
    p.columns = columns;
    p.add = add;
    p.registers = left;
    if (left) {
        std::memcpy(p.had, left, sizeof p.had);
        gather_left(&p, left);
    }
    if (!w.was.count(sum)) {
        w.was[sum].assign(sum, sum + n / 2);
        std::memset(sum, 0xff, sizeof *sum * (size_t)n / 2);
    }
    w.under_way.push_back(p);
    if (kv_emulated_dice(2))
        read_now(&w.under_way.back());
}

/* All lanes together: what one says behind it holds for them all. */
void kv_emulated_products_wait(int left)
{
    worker &w = here();
    std::vector<product> rest;
    kv_emulated_pause(); /* as long as they take */
    for (product &p : w.under_way) {
        if (p.group >= w.groups - left)
            rest.push_back(p);
        else
            finish(&w, &p);
    }
    w.under_way = rest;
    for (auto sum = w.was.begin(); sum != w.was.end();) {
        bool busy = false;
        for (const product &p : w.under_way)
            busy |= p.sum == sum->first;
        if (!busy)
            std::memcpy(sum->first, sum->second.data(), sizeof(float) * sum->second.size());
        sum = busy ? std::next(sum) : w.was.erase(sum);
    }
    w.fenced = w.fenced && left;
    kv_emulated_warp_barrier();
}

void kv_emulated_hopper_begins(int threads)
{
    threads_here = threads;
    barriers.clear();
    for (named &n : nameds)
        n = {0, 0, 0};
    for (int i = 0; i < threads; i++)
        workers[(size_t)i] = worker();
    seen.assign(kv_emulated_window_bytes(), 0xff);
}

void kv_emulated_hopper_thread_ends(void)
{
    if (!here().under_way.empty())
        kv_emulated_stop("ends with products that it did not wait for");
}

void kv_emulated_hopper_ends(void)
{
    if (!copies.empty())
        kv_emulated_stop("ends with bulk copies that nobody waited for");
    for (const auto &b : barriers)
        if (b.second.bytes)
            kv_emulated_stop("ends with bytes that a barrier still expects");
    for (const named &n : nameds)
        if (n.arrived)
            kv_emulated_stop("ends with a named barrier half full");
}

bool kv_emulated_hopper_arrives(void)
{
    if (copies.empty())
        return false;
    size_t i = kv_emulated_dice((unsigned)copies.size());
    bulk_copy c = copies[i];
    copies.erase(copies.begin() + (long)i);
    carry_out(c);
    return true;
}
