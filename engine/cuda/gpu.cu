/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "engine/cuda/gpu_inside.h"

extern "C" {
#include "sim/core/error.h"
}

#include <cuda.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct range {
    CUdeviceptr base;
    size_t bytes;
    CUmemGenericAllocationHandle *slab; /* 0: not mapped */
    struct range *next;
};

/* The driver's own functions, found at run time: so a program with kernels starts where there is no driver. */
struct driver {
    CUresult (*reserve)(CUdeviceptr *, size_t, size_t, CUdeviceptr, unsigned long long);
    CUresult (*release)(CUdeviceptr, size_t);
    CUresult (*create)(CUmemGenericAllocationHandle *, size_t, const CUmemAllocationProp *, unsigned long long);
    CUresult (*drop)(CUmemGenericAllocationHandle);
    CUresult (*map)(CUdeviceptr, size_t, size_t, CUmemGenericAllocationHandle, unsigned long long);
    CUresult (*unmap)(CUdeviceptr, size_t);
    CUresult (*access)(CUdeviceptr, size_t, const CUmemAccessDesc *, size_t);
    CUresult (*granularity)(size_t *, const CUmemAllocationProp *, CUmemAllocationGranularity_flags);
    CUresult (*name)(CUresult, const char **);
    CUresult (*boxes)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *, const cuuint64_t *,
                      const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                      CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
};

struct kv_gpu {
    struct kv_gpu_facts facts;
    int device;
    cudaStream_t stream, sender;
    cudaEvent_t arrived[KV_GPU_SENDS];
    int64_t sent, waited; /* sends so far; and those that are known to have arrived */
    struct kv_products *products;
    cudaEvent_t mark[KV_GPU_MARKS];
    struct driver driver;
    struct range *ranges;
    size_t slab; /* bytes; 0: not asked yet */
    bool failed;
    char why[512]; /* the first failure */
};

/* ---- failures ---- */

static void remember(struct kv_gpu *g, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void remember(struct kv_gpu *g, const char *format, ...)
{
    va_list args;
    if (g->failed)
        return;
    g->failed = true;
    va_start(args, format);
    vsnprintf(g->why, sizeof g->why, format, args);
    va_end(args);
}

static bool good(struct kv_gpu *g, cudaError_t status, const char *call)
{
    if (status != cudaSuccess)
        remember(g, "%s: %s", call, cudaGetErrorString(status));
    return status == cudaSuccess;
}

static bool driven(struct kv_gpu *g, CUresult status, const char *call, size_t bytes)
{
    const char *name = "an error without a name";
    if (status == CUDA_SUCCESS)
        return true;
    g->driver.name(status, &name);
    remember(g, "%s of %zu bytes: %s; %lld bytes of %s are free", call, bytes, name, (long long)kv_gpu_free_bytes(g),
             g->facts.name);
    return false;
}

static bool say(struct kv_gpu *g, struct kv_err *e)
{
    return !g->failed || kv_fail(e, KV_ENV, "%s: %s", g->facts.name, g->why);
}

/* ---- the device ---- */

static bool ask_driver(struct kv_gpu *g, const char *name, void **found)
{
    cudaDriverEntryPointQueryResult how = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    cudaError_t status = cudaGetDriverEntryPointByVersion(name, found, 12000, cudaEnableDefault, &how);
#else
    cudaError_t status = cudaGetDriverEntryPoint(name, found, cudaEnableDefault, &how);
#endif
    if (good(g, status, name) && how != cudaDriverEntryPointSuccess)
        remember(g, "the driver has no %s; it is too old", name);
    return !g->failed;
}

static bool find_driver(struct kv_gpu *g)
{
    static const struct {
        const char *name;
        size_t at;
    } wanted[] = {
        {"cuMemAddressReserve", offsetof(struct driver, reserve)},
        {"cuMemAddressFree", offsetof(struct driver, release)},
        {"cuMemCreate", offsetof(struct driver, create)},
        {"cuMemRelease", offsetof(struct driver, drop)},
        {"cuMemMap", offsetof(struct driver, map)},
        {"cuMemUnmap", offsetof(struct driver, unmap)},
        {"cuMemSetAccess", offsetof(struct driver, access)},
        {"cuMemGetAllocationGranularity", offsetof(struct driver, granularity)},
        {"cuGetErrorName", offsetof(struct driver, name)},
        {"cuTensorMapEncodeTiled", offsetof(struct driver, boxes)},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        void *found = NULL;
        if (!ask_driver(g, wanted[i].name, &found))
            return false;
        memcpy((char *)&g->driver + wanted[i].at, &found, sizeof found);
    }
    return true;
}

static bool read_facts(struct kv_gpu *g)
{
    struct cudaDeviceProp p;
    if (!good(g, cudaGetDeviceProperties(&p, g->device), "cudaGetDeviceProperties"))
        return false;
    snprintf(g->facts.name, sizeof g->facts.name, "%.127s", p.name);
    g->facts.major = p.major;
    g->facts.minor = p.minor;
    g->facts.multiprocessors = p.multiProcessorCount;
    g->facts.total_bytes = (int64_t)p.totalGlobalMem;
    g->facts.shared_bytes = (int64_t)p.sharedMemPerBlockOptin;
    g->facts.blas = kv_products_version();
    if (p.major < 8)
        remember(g, "its compute capability is %d.%d; matrix units for bf16 begin with 8.0", p.major, p.minor);
    return !g->failed && good(g, cudaDriverGetVersion(&g->facts.driver), "cudaDriverGetVersion") &&
           good(g, cudaRuntimeGetVersion(&g->facts.runtime), "cudaRuntimeGetVersion");
}

bool kv_gpu_open(struct kv_gpu **out, struct kv_err *e)
{
    struct kv_gpu *g = (struct kv_gpu *)calloc(1, sizeof *g);
    int devices = 0;
    *out = g;
    if (!g)
        return kv_fail(e, KV_ENV, "no memory for a device");
    snprintf(g->facts.name, sizeof g->facts.name, "CUDA");
    bool opened = good(g, cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
    if (opened && !devices)
        remember(g, "there is no device");
    opened = opened && devices && good(g, cudaSetDevice(g->device), "cudaSetDevice") && read_facts(g) &&
             good(g, cudaStreamCreateWithFlags(&g->stream, cudaStreamNonBlocking), "cudaStreamCreate") &&
             good(g, cudaStreamCreateWithFlags(&g->sender, cudaStreamNonBlocking), "cudaStreamCreate") &&
             find_driver(g) && (g->products = kv_products_open(g)) != NULL;
    for (int i = 0; opened && i < KV_GPU_MARKS; i++)
        opened = good(g, cudaEventCreate(&g->mark[i]), "cudaEventCreate");
    for (int i = 0; opened && i < KV_GPU_SENDS; i++) /* who waits leaves his core to those who read */
        opened = good(g, cudaEventCreateWithFlags(&g->arrived[i], cudaEventDisableTiming | cudaEventBlockingSync),
                      "cudaEventCreate");
    if (opened)
        return true;
    say(g, e);
    kv_gpu_close(g);
    *out = NULL;
    return false;
}

void kv_gpu_close(struct kv_gpu *g)
{
    if (!g)
        return;
    if (g->stream)
        cudaStreamSynchronize(g->stream);
    if (g->sender)
        cudaStreamSynchronize(g->sender);
    while (g->ranges)
        kv_gpu_release(g, (void *)(uintptr_t)g->ranges->base);
    for (int i = 0; i < KV_GPU_MARKS; i++)
        if (g->mark[i])
            cudaEventDestroy(g->mark[i]);
    for (int i = 0; i < KV_GPU_SENDS; i++)
        if (g->arrived[i])
            cudaEventDestroy(g->arrived[i]);
    kv_products_close(g->products);
    if (g->sender)
        cudaStreamDestroy(g->sender);
    if (g->stream)
        cudaStreamDestroy(g->stream);
    free(g);
}

const struct kv_gpu_facts *kv_gpu_about(const struct kv_gpu *g)
{
    return &g->facts;
}

int64_t kv_gpu_free_bytes(struct kv_gpu *g)
{
    size_t unused = 0, total;
    good(g, cudaMemGetInfo(&unused, &total), "cudaMemGetInfo");
    return (int64_t)unused;
}

/* ---- memory ---- */

static bool sized(int64_t n, size_t size, size_t *bytes)
{
    return n >= 0 && !__builtin_mul_overflow((size_t)(n ? n : 1), size, bytes);
}

static bool make(struct kv_gpu *g, bool host, void *out, int64_t n, size_t size, const char *what, struct kv_err *e)
{
    void *made = NULL;
    size_t bytes = 0;
    cudaError_t status = !sized(n, size, &bytes) ? cudaErrorMemoryAllocation
                         : host                  ? cudaMallocHost(&made, bytes)
                                                 : cudaMalloc(&made, bytes);
    memcpy(out, &made, sizeof made);
    if (status == cudaSuccess)
        return true;
    cudaGetLastError(); /* that memory is out is no failure of what was asked before */
    return kv_fail(e, KV_ENV, "%s: %s of %lld x %zu bytes of %s: %s; %lld bytes are free on the device", g->facts.name,
                   host ? "cudaMallocHost" : "cudaMalloc", (long long)n, size, what, cudaGetErrorString(status),
                   (long long)kv_gpu_free_bytes(g));
}

bool kv_gpu_new(struct kv_gpu *g, void *out, int64_t n, size_t size, const char *what, struct kv_err *e)
{
    return make(g, false, out, n, size, what, e);
}

bool kv_gpu_new_host(struct kv_gpu *g, void *out, int64_t n, size_t size, const char *what, struct kv_err *e)
{
    return make(g, true, out, n, size, what, e);
}

/* Until nothing is under way. */
static void settle(struct kv_gpu *g)
{
    kv_gpu_arrived(g, 0);
    good(g, cudaStreamSynchronize(g->stream), "what was asked of the device");
}

void kv_gpu_delete(struct kv_gpu *g, void *device)
{
    settle(g);
    good(g, cudaFree(device), "cudaFree");
}

void kv_gpu_delete_host(struct kv_gpu *g, void *host)
{
    settle(g);
    if (host)
        good(g, cudaFreeHost(host), "cudaFreeHost");
}

void kv_gpu_put(struct kv_gpu *g, void *device, const void *host, size_t bytes)
{
    if (bytes)
        good(g, cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, g->stream), "cudaMemcpy to the device");
}

void kv_gpu_get(struct kv_gpu *g, void *host, const void *device, size_t bytes)
{
    if (bytes)
        good(g, cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, g->stream), "cudaMemcpy to the host");
    good(g, cudaStreamSynchronize(g->stream), "what was asked of the device");
}

void kv_gpu_copy(struct kv_gpu *g, void *to, const void *from, size_t bytes)
{
    if (bytes)
        good(g, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, g->stream), "cudaMemcpy within the device");
}

void kv_gpu_zero(struct kv_gpu *g, void *device, size_t bytes)
{
    if (bytes)
        good(g, cudaMemsetAsync(device, 0, bytes, g->stream), "cudaMemset");
}

void kv_gpu_put_rows(struct kv_gpu *g, void *device, size_t to_step, const void *host, size_t from_step, size_t bytes,
                     size_t rows)
{
    if (bytes && rows)
        good(g, cudaMemcpy2DAsync(device, to_step, host, from_step, bytes, rows, cudaMemcpyHostToDevice, g->stream),
             "cudaMemcpy2D to the device");
}

void kv_gpu_send(struct kv_gpu *g, void *device, const void *host, size_t bytes)
{
    good(g, cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, g->sender), "cudaMemcpy to the device");
    good(g, cudaEventRecord(g->arrived[g->sent++ % KV_GPU_SENDS], g->sender), "cudaEventRecord");
}

void kv_gpu_arrived(struct kv_gpu *g, int under_way)
{
    int64_t last = g->sent - under_way;
    KV_ASSERT(under_way >= 0 && under_way < KV_GPU_SENDS);
    if (last <= g->waited)
        return;
    good(g, cudaEventSynchronize(g->arrived[(last - 1) % KV_GPU_SENDS]), "cudaMemcpy to the device");
    g->waited = last;
}

bool kv_gpu_wait(struct kv_gpu *g, struct kv_err *e)
{
    settle(g);
    return say(g, e);
}

/* ---- addresses that memory comes to and goes from ---- */

static CUmemAllocationProp properties(const struct kv_gpu *g)
{
    CUmemAllocationProp p;
    memset(&p, 0, sizeof p);
    p.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    p.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    p.location.id = g->device;
    return p;
}

bool kv_gpu_reserve(struct kv_gpu *g, int64_t bytes, void **base, int64_t *slab, struct kv_err *e)
{
    CUmemAllocationProp p = properties(g);
    struct range *r = (struct range *)calloc(1, sizeof *r);
    *base = NULL;
    if (!r)
        return kv_fail(e, KV_ENV, "no memory for a range of addresses");
    if (!g->slab && !driven(g, g->driver.granularity(&g->slab, &p, CU_MEM_ALLOC_GRANULARITY_MINIMUM),
                            "cuMemGetAllocationGranularity", 0)) {
        free(r);
        return say(g, e);
    }
    size_t slabs = ((size_t)bytes + g->slab - 1) / g->slab;
    r->bytes = (slabs ? slabs : 1) * g->slab;
    r->slab = (CUmemGenericAllocationHandle *)calloc(slabs ? slabs : 1, sizeof *r->slab);
    if (!r->slab || !driven(g, g->driver.reserve(&r->base, r->bytes, 0, 0, 0), "cuMemAddressReserve", r->bytes)) {
        free(r->slab);
        free(r);
        return say(g, e) && kv_fail(e, KV_ENV, "no memory for a list of %zu slabs", slabs);
    }
    r->next = g->ranges;
    g->ranges = r;
    *base = (void *)(uintptr_t)r->base;
    *slab = (int64_t)g->slab;
    return true;
}

static struct range *find(struct kv_gpu *g, const void *base)
{
    struct range *r = g->ranges;
    while (r && r->base != (CUdeviceptr)(uintptr_t)base)
        r = r->next;
    KV_ASSERT(r);
    return r;
}

void kv_gpu_release(struct kv_gpu *g, void *base)
{
    struct range *r = find(g, base), **from = &g->ranges;
    for (size_t i = 0; i < r->bytes / g->slab; i++)
        if (r->slab[i])
            kv_gpu_unmap(g, base, (int64_t)i);
    driven(g, g->driver.release(r->base, r->bytes), "cuMemAddressFree", r->bytes);
    while (*from != r)
        from = &(*from)->next;
    *from = r->next;
    free(r->slab);
    free(r);
}

bool kv_gpu_map(struct kv_gpu *g, void *base, int64_t slab, struct kv_err *e)
{
    struct range *r = find(g, base);
    CUmemAllocationProp p = properties(g);
    CUmemAccessDesc access;
    CUmemGenericAllocationHandle made = 0;
    CUdeviceptr at = r->base + (CUdeviceptr)slab * g->slab;
    memset(&access, 0, sizeof access);
    access.location = p.location;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    KV_ASSERT(!r->slab[slab]);
    CUresult created = g->driver.create(&made, g->slab, &p, 0);
    if (created == CUDA_ERROR_OUT_OF_MEMORY) /* the pool is full; nothing is wrong with the device */
        return kv_fail(e, KV_ENV, "%s: cuMemCreate of %zu bytes: no memory; %lld bytes are free", g->facts.name,
                       g->slab, (long long)kv_gpu_free_bytes(g));
    if (!driven(g, created, "cuMemCreate", g->slab))
        return say(g, e);
    if (!driven(g, g->driver.map(at, g->slab, 0, made, 0), "cuMemMap", g->slab)) {
        g->driver.drop(made);
        return say(g, e);
    }
    r->slab[slab] = made;
    return driven(g, g->driver.access(at, g->slab, &access, 1), "cuMemSetAccess", g->slab) || say(g, e);
}

void kv_gpu_unmap(struct kv_gpu *g, void *base, int64_t slab)
{
    struct range *r = find(g, base);
    good(g, cudaStreamSynchronize(g->stream), "what was asked of the device");
    driven(g, g->driver.unmap(r->base + (CUdeviceptr)slab * g->slab, g->slab), "cuMemUnmap", g->slab);
    driven(g, g->driver.drop(r->slab[slab]), "cuMemRelease", g->slab);
    r->slab[slab] = 0;
}

/* ---- graphs ---- */

struct kv_gpu_graph {
    cudaGraphExec_t made;
};

void kv_gpu_graph_begin(struct kv_gpu *g)
{
    if (!g->failed)
        good(g, cudaStreamBeginCapture(g->stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
}

struct kv_gpu_graph *kv_gpu_graph_end(struct kv_gpu *g)
{
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    cudaGraph_t graph = NULL;
    if (!good(g, cudaStreamIsCapturing(g->stream, &status), "cudaStreamIsCapturing") ||
        status == cudaStreamCaptureStatusNone || /* it never began */
        !good(g, cudaStreamEndCapture(g->stream, &graph), "cudaStreamEndCapture"))
        return NULL;
    struct kv_gpu_graph *out = (struct kv_gpu_graph *)calloc(1, sizeof *out);
    if (!out)
        remember(g, "no memory for a graph");
    else if (g->failed || !good(g, cudaGraphInstantiate(&out->made, graph, 0), "cudaGraphInstantiate")) {
        free(out);
        out = NULL;
    }
    good(g, cudaGraphDestroy(graph), "cudaGraphDestroy");
    return out;
}

void kv_gpu_graph_run(struct kv_gpu *g, const struct kv_gpu_graph *graph)
{
    if (!g->failed)
        good(g, cudaGraphLaunch(graph->made, g->stream), "cudaGraphLaunch");
}

void kv_gpu_graph_delete(struct kv_gpu *g, struct kv_gpu_graph *graph)
{
    if (!graph)
        return;
    good(g, cudaStreamSynchronize(g->stream), "what was asked of the device");
    good(g, cudaGraphExecDestroy(graph->made), "cudaGraphExecDestroy");
    free(graph);
}

/* ---- launches and time ---- */

bool kv_gpu_make_boxes(struct kv_gpu *g, struct kv_gpu_boxes *boxes, const void *matrix, int64_t rows, int64_t columns,
                       int32_t box_rows, int32_t box_columns)
{
    const cuuint64_t sizes[2] = {(cuuint64_t)columns, (cuuint64_t)rows}, step[1] = {(cuuint64_t)columns * 2};
    const cuuint32_t box[2] = {(cuuint32_t)box_columns, (cuuint32_t)box_rows}, every[2] = {1, 1};
    CUtensorMap map;
    if (g->facts.major < 9 ||
        g->driver.boxes(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void *>(matrix), sizes, step, box, every,
                        CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) != CUDA_SUCCESS)
        return false;
    static_assert(sizeof map == sizeof *boxes, "a map of boxes is as large as the driver's");
    memcpy(boxes, &map, sizeof map);
    return true;
}

cudaStream_t kv_gpu_stream(struct kv_gpu *g)
{
    return g->stream;
}

struct kv_products *kv_gpu_products(struct kv_gpu *g)
{
    return g->failed ? NULL : g->products;
}

bool kv_gpu_shared(struct kv_gpu *g, const void *kernel, const char *name, size_t bytes)
{
    enum { WITHOUT_ASKING = 48 << 10 };
    if (g->failed)
        return false;
    if (bytes <= WITHOUT_ASKING)
        return true;
    cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (status != cudaSuccess)
        remember(g, "%s with %zu bytes of shared memory: %s", name, bytes, cudaGetErrorString(status));
    return status == cudaSuccess;
}

void kv_gpu_launched(struct kv_gpu *g, const char *name)
{
    cudaError_t status = cudaGetLastError();
    if (status != cudaSuccess)
        remember(g, "launching %s: %s", name, cudaGetErrorString(status));
}

void kv_gpu_remember(struct kv_gpu *g, const char *why)
{
    remember(g, "%s", why);
}

void kv_gpu_mark(struct kv_gpu *g, int mark)
{
    good(g, cudaEventRecord(g->mark[mark], g->stream), "cudaEventRecord");
}

double kv_gpu_between(struct kv_gpu *g, int from, int to)
{
    float ms = 0;
    good(g, cudaEventSynchronize(g->mark[to]), "cudaEventSynchronize");
    good(g, cudaEventElapsedTime(&ms, g->mark[from], g->mark[to]), "cudaEventElapsedTime");
    return (double)ms;
}
