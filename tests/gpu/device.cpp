/* SPDX-License-Identifier: GPL-3.0-or-later */
/* engine/cuda/gpu.h on the host: the device's memory is the host's, and every order is carried out at once; but what is
 * sent arrives when it is waited for and no sooner, so that it shows when its source was written again. Bytes of
 * the "device" are counted, what is not mapped cannot be read, and new memory is full of NaNs. KV_EMULATED_BYTES: what
 * the device has (default 1 GiB). */
#include "engine/cuda/gpu.h"

#include "tests/gpu/emulate_hopper.h"

#include <cassert>
#include <chrono>
#include <deque>
#include <map>
#include <sys/mman.h>
#include <vector>

extern "C" {
struct kv_err;
void kv_say(struct kv_err *e, int status, const char *format, ...);
}

enum { NO_MEMORY = 4, SLAB = 1 << 16 }; /* KV_ENV */

struct range {
    size_t bytes;
    std::vector<bool> mapped;
};

struct sent {
    void *device;
    const void *host;
    size_t bytes;
};

struct kv_gpu {
    struct kv_gpu_facts facts;
    int64_t taken;
    std::map<void *, size_t> made, pinned; /* and how many bytes were asked for */
    std::deque<sent> under_way;
    std::map<void *, range> ranges;
    std::chrono::steady_clock::time_point mark[KV_GPU_MARKS];
    struct kv_product_places products;
};

struct kv_gpu_graph {
    std::vector<std::function<void()>> orders;
};
static struct kv_gpu_graph *recorded;
extern "C" {
long kv_emulated_repeats; /* graphs that were run, so far */
}

/* What cannot be asked for while a graph is recorded. */
static void not_recorded()
{
    assert(!kv_emulated_recording);
}

bool kv_gpu_open(struct kv_gpu **out, struct kv_err *)
{
    const char *bytes = std::getenv("KV_EMULATED_BYTES");
    struct kv_gpu *g = new kv_gpu();
    std::snprintf(g->facts.name, sizeof g->facts.name, "emulated device");
    g->facts.major = 9;
    g->facts.multiprocessors = 4;
    g->facts.total_bytes = bytes ? std::atoll(bytes) : INT64_C(1) << 30;
    g->facts.shared_bytes = 232448;
    *out = g;
    return true;
}

void kv_gpu_close(struct kv_gpu *g)
{
    if (!g)
        return;
    while (!g->ranges.empty())
        kv_gpu_release(g, g->ranges.begin()->first);
    assert(g->made.empty() && g->taken == 0 && g->pinned.empty()); /* all was given back */
    delete g;
}

const struct kv_gpu_facts *kv_gpu_about(const struct kv_gpu *g)
{
    return &g->facts;
}

int64_t kv_gpu_free_bytes(struct kv_gpu *g)
{
    return g->facts.total_bytes - g->taken;
}

/* Not a byte more than was asked for: who reads or writes behind it is found out. */
static void *just(size_t bytes)
{
    void *made = nullptr;
    if (posix_memalign(&made, 256, bytes))
        return nullptr;
    return std::memset(made, 0xff, bytes);
}

bool kv_gpu_new(struct kv_gpu *g, void *out, int64_t n, size_t size, const char *what, struct kv_err *e)
{
    not_recorded();
    size_t asked = (size_t)(n ? n : 1) * size, bytes = (asked + 255) / 256 * 256;
    void *made = nullptr;
    if ((int64_t)bytes > kv_gpu_free_bytes(g))
        kv_say(e, NO_MEMORY, "%s: no memory for %lld x %zu bytes of %s; %lld bytes are free", g->facts.name,
               (long long)n, size, what, (long long)kv_gpu_free_bytes(g));
    else
        made = just(asked);
    std::memcpy(out, &made, sizeof made);
    if (!made)
        return false;
    g->made[made] = asked;
    g->taken += (int64_t)bytes;
    return true;
}

void kv_gpu_delete(struct kv_gpu *g, void *device)
{
    not_recorded();
    kv_gpu_arrived(g, 0);
    if (!device)
        return;
    auto at = g->made.find(device);
    assert(at != g->made.end());
    g->taken -= (int64_t)(at->second + 255) / 256 * 256;
    g->made.erase(at);
    std::free(device);
}

bool kv_gpu_new_host(struct kv_gpu *g, void *out, int64_t n, size_t size, const char *what, struct kv_err *e)
{
    not_recorded();
    size_t asked = (size_t)(n ? n : 1) * size;
    void *made = just(asked);
    std::memcpy(out, &made, sizeof made);
    if (!made)
        kv_say(e, NO_MEMORY, "%s: no memory for %lld x %zu bytes of %s", g->facts.name, (long long)n, size, what);
    else
        g->pinned[made] = asked;
    return made != nullptr;
}

void kv_gpu_delete_host(struct kv_gpu *g, void *host)
{
    not_recorded();
    kv_gpu_arrived(g, 0);
    size_t known = g->pinned.erase(host);
    assert(known || !host);
    (void)known;
    std::free(host);
}

/* Of one allocation, from its first byte to its last. */
static bool lies_in(const std::map<void *, size_t> &all, const void *at, size_t bytes)
{
    auto next = all.upper_bound((void *)(uintptr_t)at);
    if (next == all.begin())
        return false;
    --next;
    return (const char *)at + bytes <= (const char *)next->first + next->second;
}

void kv_gpu_send(struct kv_gpu *g, void *device, const void *host, size_t bytes)
{
    assert(lies_in(g->made, device, bytes) && lies_in(g->pinned, host, bytes));
    g->under_way.push_back(sent{device, host, bytes});
}

void kv_gpu_arrived(struct kv_gpu *g, int under_way)
{
    assert(under_way >= 0 && under_way < KV_GPU_SENDS);
    for (; g->under_way.size() > (size_t)under_way; g->under_way.pop_front())
        std::memcpy(g->under_way.front().device, g->under_way.front().host, g->under_way.front().bytes);
}

void kv_gpu_put(struct kv_gpu *, void *device, const void *host, size_t bytes)
{
    not_recorded();
    if (bytes)
        std::memcpy(device, host, bytes);
}

void kv_gpu_get(struct kv_gpu *, void *host, const void *device, size_t bytes)
{
    not_recorded();
    if (bytes)
        std::memcpy(host, device, bytes);
}

void kv_gpu_copy(struct kv_gpu *, void *to, const void *from, size_t bytes)
{
    if (kv_emulated_recording)
        kv_emulated_recording->push_back([=]() { kv_gpu_copy(nullptr, to, from, bytes); });
    else if (bytes)
        std::memcpy(to, from, bytes);
}

void kv_gpu_zero(struct kv_gpu *, void *device, size_t bytes)
{
    if (kv_emulated_recording)
        kv_emulated_recording->push_back([=]() { kv_gpu_zero(nullptr, device, bytes); });
    else if (bytes)
        std::memset(device, 0, bytes);
}

void kv_gpu_put_rows(struct kv_gpu *, void *device, size_t to_step, const void *host, size_t from_step, size_t bytes,
                     size_t rows)
{
    not_recorded();
    for (size_t i = 0; i < rows && bytes; i++)
        std::memcpy((char *)device + i * to_step, (const char *)host + i * from_step, bytes);
}

bool kv_gpu_wait(struct kv_gpu *g, struct kv_err *)
{
    not_recorded();
    kv_gpu_arrived(g, 0);
    return true;
}

bool kv_gpu_reserve(struct kv_gpu *g, int64_t bytes, void **base, int64_t *slab, struct kv_err *)
{
    size_t slabs = ((size_t)bytes + SLAB - 1) / SLAB;
    *base = mmap(nullptr, slabs * SLAB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert(*base != MAP_FAILED);
    g->ranges[*base] = range{slabs * SLAB, std::vector<bool>(slabs)};
    *slab = SLAB;
    return true;
}

void kv_gpu_release(struct kv_gpu *g, void *base)
{
    range &r = g->ranges.at(base);
    for (size_t i = 0; i < r.mapped.size(); i++)
        if (r.mapped[i])
            kv_gpu_unmap(g, base, (int64_t)i);
    munmap(base, r.bytes);
    g->ranges.erase(base);
}

bool kv_gpu_map(struct kv_gpu *g, void *base, int64_t slab, struct kv_err *e)
{
    not_recorded();
    range &r = g->ranges.at(base);
    char *at = (char *)base + slab * SLAB;
    assert(!r.mapped.at((size_t)slab));
    if (kv_gpu_free_bytes(g) < SLAB) {
        kv_say(e, NO_MEMORY, "%s: no memory for a slab of %d bytes; %lld bytes are free", g->facts.name, SLAB,
               (long long)kv_gpu_free_bytes(g));
        return false;
    }
    int done = mprotect(at, SLAB, PROT_READ | PROT_WRITE);
    assert(!done);
    (void)done;
    std::memset(at, 0xff, SLAB);
    r.mapped[(size_t)slab] = true;
    g->taken += SLAB;
    return true;
}

void kv_gpu_unmap(struct kv_gpu *g, void *base, int64_t slab)
{
    not_recorded();
    range &r = g->ranges.at(base);
    assert(r.mapped.at((size_t)slab));
    r.mapped[(size_t)slab] = false;
    g->taken -= SLAB;
    madvise((char *)base + slab * SLAB, SLAB, MADV_DONTNEED);
    mprotect((char *)base + slab * SLAB, SLAB, PROT_NONE);
}

static float widened(uint16_t x)
{
    return __uint_as_float((uint32_t)x << 16);
}

/* As cuBLASLt does it: columns first, from what it is told. */
void kv_gpu_multiply(struct kv_gpu *g, const void *w, const void *x, int64_t rows, int64_t outputs, int64_t inputs,
                     void *y, int64_t y_step, bool wide, bool add)
{
    const uint16_t *weight = (const uint16_t *)w, *in = (const uint16_t *)x;
    bool fresh;
    if (!rows || !outputs)
        return;
    if (kv_emulated_recording) {
        kv_emulated_recording->push_back(
            [=]() { kv_gpu_multiply(g, w, x, rows, outputs, inputs, y, y_step, wide, add); });
        return;
    }
    const struct kv_product product = kv_product_of(w, x, rows, outputs, inputs, y, y_step, wide, add);
    const struct kv_column_product c = kv_product_columns(&product);
    kv_product_place(&g->products, &product, &fresh);
    assert(c.w.rows == c.x.rows && c.y.rows == c.w.columns && c.y.columns == c.x.columns);
    for (int64_t j = 0; j < c.y.columns; j++)
        for (int64_t i = 0; i < c.y.rows; i++) {
            int64_t at = i + j * c.y.step;
            float sum = 0;
            for (int64_t l = 0; l < c.w.rows; l++)
                sum += widened(weight[l + i * c.w.step]) * widened(in[l + j * c.x.step]);
            if (wide)
                ((float *)y)[at] = (add ? ((float *)y)[at] : 0) + sum;
            else
                ((uint16_t *)y)[at] = kv_emulated_bf16(sum);
        }
}

void kv_gpu_graph_begin(struct kv_gpu *)
{
    not_recorded();
    recorded = new kv_gpu_graph();
    kv_emulated_recording = &recorded->orders;
}

struct kv_gpu_graph *kv_gpu_graph_end(struct kv_gpu *)
{
    kv_emulated_recording = nullptr;
    return recorded;
}

void kv_gpu_graph_run(struct kv_gpu *, const struct kv_gpu_graph *graph)
{
    not_recorded();
    kv_emulated_repeats++;
    for (const auto &order : graph->orders)
        order();
}

void kv_gpu_graph_delete(struct kv_gpu *, struct kv_gpu_graph *graph)
{
    delete graph;
}

bool kv_gpu_planned(struct kv_gpu *g, int i, struct kv_gpu_plan *plan)
{
    int place = kv_product_recent(&g->products, i);
    *plan = kv_gpu_plan();
    if (place >= 0)
        plan->product = g->products.product[place];
    return place >= 0;
}

bool kv_gpu_make_boxes(struct kv_gpu *, struct kv_gpu_boxes *boxes, const void *matrix, int64_t rows, int64_t columns,
                       int32_t box_rows, int32_t box_columns)
{
    struct kv_emulated_boxes b = {(const unsigned char *)matrix, rows, columns, box_rows, box_columns};
    /* what cuTensorMapEncodeTiled asks for with 128-byte swizzle */
    if ((uintptr_t)matrix % 16 || rows < 1 || rows > INT64_C(1) << 32 || columns < 1 || columns * 2 % 16 ||
        box_rows < 1 || box_rows > 256 || box_columns * 2 > 128 || box_columns * 2 % 16)
        return false;
    static_assert(sizeof b <= sizeof *boxes, "a map of boxes has room for the emulated one");
    std::memcpy(boxes, &b, sizeof b);
    return true;
}

void kv_gpu_mark(struct kv_gpu *g, int mark)
{
    not_recorded();
    g->mark[mark] = std::chrono::steady_clock::now();
}

double kv_gpu_between(struct kv_gpu *g, int from, int to)
{
    return std::chrono::duration<double, std::milli>(g->mark[to] - g->mark[from]).count();
}
