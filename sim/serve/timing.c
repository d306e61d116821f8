/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/serve/timing_kind.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void kv_timing_reads(struct kv_timing *t, const char *path)
{
    KV_ASSERT(t->n_files < KV_TIMING_FILES);
    t->file[t->n_files++] = kv_copy_text(t->arena, path);
}

const char *kv_timing_where(const struct kv_timing *t)
{
    return kv_format(t->arena, "%s: [timing]", t->settings->path ? t->settings->path : "config");
}

void kv_timing_measured_with(struct kv_timing *t, const struct kv_model *m, enum kv_dtype dtype)
{
    t->kv_share = (double)kv_store_token_bytes(m, t->stored) / (double)kv_store_token_bytes(m, dtype);
    if (t->kv_share != 1)
        t->by_bytes = kv_format(t->arena, "decodes over %s entries extrapolated from %s by bytes",
                                kv_dtype_names[t->stored], kv_dtype_names[dtype]);
}

bool kv_timing_rows(struct kv_timing *t, const char *path, const char *const *column, int keys, bool text,
                    bool (*take)(void *self, const struct kv_csv *c, int text_column, const int64_t *key, double time,
                                 struct kv_err *e),
                    void *self, struct kv_err *e)
{
    enum { MOST = 8 };
    struct kv_csv c;
    int at[MOST + 2], n = keys + 1 + text;
    KV_ASSERT(keys <= MOST);
    if (!kv_csv_open(&c, path, t->arena, e))
        return false;
    kv_timing_reads(t, path);
    bool good = kv_csv_bind(&c, column, n, n, at, e);
    enum kv_next next = KV_NEXT_ROW;
    while (good && (next = kv_csv_next(&c, e)) == KV_NEXT_ROW) {
        int64_t key[MOST] = {0};
        double time;
        for (int k = 0; good && k < keys; k++)
            good = kv_csv_count(&c, at[k], 0, KV_TIMING_MOST_KEY, &key[k], e);
        good = good && kv_csv_real(&c, at[keys], 0, 1e12, &time, e) &&
               take(self, &c, text ? at[keys + 1] : -1, key, time, e);
    }
    kv_csv_close(&c);
    return good && next == KV_NEXT_END;
}

void kv_step_one_chunk(const struct kv_step *step, double *chunk, double *prefix)
{
    struct kv_step_chunks all = kv_step_chunks_of(step);
    *chunk = all.tokens;
    *prefix = step->n_chunks == 1 ? all.longest : all.tokens > 0 ? all.pairs / all.tokens - all.tokens / 2 : 0;
    if (*prefix < 0) {
        *chunk = sqrt(2 * all.pairs);
        *prefix = 0;
    }
}

/* Two all-reduces a layer, behind attention and behind the MLP, each of tokens x hidden elements of 2 bytes: a ring
 * sends 2 (n - 1) / n of them from every device. */
static bool open_all_reduce(struct kv_timing *t, const struct kv_model *m, struct kv_err *e)
{
    const struct kv_settings *s = t->settings;
    double n = (double)s->engine.tensor_parallel_size, layers = (double)m->layers;
    double bandwidth = isnan(s->hardware.peer_bandwidth) ? s->hardware.link_bandwidth : s->hardware.peer_bandwidth;
    if (n <= 1)
        return true;
    if (!(bandwidth > 0))
        return kv_fail(e, KV_USAGE, "%s: [hardware] needs peer_bandwidth for tensor_parallel_size = %.0f", s->path, n);
    t->overhead += 2 * layers * s->timing.all_reduce_latency;
    t->reduce_s = 2 * layers * 2 * (n - 1) / n * (double)m->hidden * 2 / bandwidth;
    return true;
}

/* The formats, told apart by a file that each has. */
static const struct {
    enum kv_timing_format format;
    const char *file;
    bool (*open)(struct kv_timing *t, const struct kv_model *m, const char *folder, struct kv_err *e);
} formats[] = {
    {KV_TABLES_STEP_TIME, "dense_ms_per_layer.csv", kv_timing_open_step_time},
    {KV_TABLES_LAYERS, "attention.csv", kv_timing_open_layers},
    {KV_TABLES_KERNELS, "gemm_bf16.csv", kv_timing_open_kernels},
};

/* Measured layers and passes are those of one device; kernels go by their shapes. */
static bool open_table(struct kv_timing *t, const struct kv_model *m, const struct kv_model *share, struct kv_err *e)
{
    int64_t devices = t->settings->engine.tensor_parallel_size;
    const char *path = t->settings->timing.profile, *known = "";
    int format = t->settings->timing.format, n = sizeof formats / sizeof *formats;
    struct stat s;
    if (stat(path, &s))
        return kv_fail(e, KV_DATA, "%s cannot open profile '%s': %s", kv_timing_where(t), path, strerror(errno));
    if (format == KV_TABLES_PASSES || (format == KV_TABLES_AUTO && !S_ISDIR(s.st_mode)))
        return kv_timing_open_passes(t, m, path, e);
    for (int i = 0; i < n; i++) {
        bool there = !access(kv_format(t->arena, "%s/%s", path, formats[i].file), F_OK);
        if (format == (int)formats[i].format || (format == KV_TABLES_AUTO && there))
            return devices <= 1 || formats[i].format == KV_TABLES_KERNELS
                       ? formats[i].open(t, share, path, e)
                       : kv_fail(e, KV_USAGE,
                                 "%s profile '%s' was measured on one device, and tensor_parallel_size = %lld; use "
                                 "tables of kernels, or model = roofline",
                                 kv_timing_where(t), path, (long long)devices);
        known = kv_format(t->arena, "%s%s%s", known, i ? ", " : "", formats[i].file);
    }
    return kv_fail(e, KV_DATA, "%s profile '%s' has no tables that are known; one of these lies in such a folder: %s",
                   kv_timing_where(t), path, known);
}

bool kv_timing_open(struct kv_timing **out, const struct kv_settings *s, const struct kv_model *m, struct kv_arena *a,
                    struct kv_err *e)
{
    struct kv_timing *t = KV_NEW(a, struct kv_timing);
    t->arena = a;
    t->settings = s;
    t->stored = kv_dtype_of_choice(s->engine.kv_cache_dtype, kv_cache_dtype_of(m));
    t->kv_share = 1;
    t->strict = s->timing.on_missing == KV_MISSING_ERROR;
    t->overhead = s->timing.step_overhead;
    t->scale = s->timing.scale > 0 ? s->timing.scale : 1; /* a config says 0.001 at least */
    t->move_s_per_byte = 1 / (s->hardware.memory_bandwidth * s->timing.bandwidth_efficiency);
    t->link_s_per_byte = 1 / s->hardware.link_bandwidth;
    if (s->timing.model != KV_TIMING_ROOFLINE && !s->timing.profile)
        return kv_fail(e, KV_USAGE, "%s model = %s needs profile: %s", kv_timing_where(t),
                       kv_timing_models[s->timing.model],
                       s->timing.model == KV_TIMING_TABLE ? "a folder of measured tables" : "a file of 'kvsim fit'");
    *out = t;
    struct kv_model share; /* of one device */
    if (!kv_model_share(m, s->engine.tensor_parallel_size, &share, e) || !open_all_reduce(t, m, e))
        return false;
    bool good = s->timing.model == KV_TIMING_ROOFLINE ? kv_timing_open_roofline(t, &share, e)
                : s->timing.model == KV_TIMING_FITTED ? kv_timing_open_fitted(t, m, s->timing.profile, e)
                                                      : open_table(t, m, &share, e);
    if (good && !t->knows_evictions)
        t->stamp = kv_format(a, "%s; evictions by bytes", t->stamp);
    if (good && t->by_bytes)
        t->stamp = kv_format(a, "%s; %s", t->stamp, t->by_bytes);
    return good;
}

static bool missing(const struct kv_step *step, double outside, struct kv_err *e)
{
    return kv_fail(e, KV_NO,
                   "a step of %lld tokens, %lld decodes over %.0f entries and %lld chunks is %.2f times outside the "
                   "tables, and on_missing = error; measure it, or let it be extrapolated",
                   (long long)step->tokens, (long long)step->decodes, step->decode_kv, (long long)step->n_chunks,
                   outside);
}

/* Compaction reads and writes what it moves, scores read keys again; nothing of it runs beside the pass. */
static bool add_memory(const struct kv_timing *t, const struct kv_step *step, double *evict, double *offload,
                       struct kv_err *e)
{
    if (*evict < 0)
        *evict = (2 * step->moved_bytes + step->scored_bytes) * t->move_s_per_byte;
    *offload = step->offload_bytes > 0 ? step->offload_bytes * t->link_s_per_byte : 0;
    return (isfinite(*evict) && isfinite(*offload)) ||
           kv_fail(e, KV_USAGE, "%s: [hardware] needs %s for the time of bytes that %s", t->settings->path,
                   isfinite(*evict) ? "link_bandwidth" : "memory_bandwidth",
                   isfinite(*evict) ? "go to the host" : "evictions move and read");
}

bool kv_timing_step(const struct kv_timing *t, const struct kv_step *step, struct kv_step_time *out, struct kv_err *e)
{
    struct kv_step_cost c = {.evict = -1, .outside = 1, .until = -INFINITY};
    t->cost(t, step, &c);
    double evict = 0, offload = 0;
    if (step->moved_bytes + step->scored_bytes + step->offload_bytes > 0) {
        evict = c.evict;
        if (!add_memory(t, step, &evict, &offload, e))
            return false;
    }
    if (c.outside > 1 && t->strict)
        return missing(step, c.outside, e);
    double reduce = t->overhead + t->reduce_s * (double)step->tokens, own = (c.sum + reduce) * t->scale;
    bool alone = step->decodes == step->tokens; /* decodes are all there is */
    double to_decode = alone ? 1 : (double)step->decodes / (double)step->tokens;
    out->part[KV_TIME_DECODE] = (c.decode + (c.shared + reduce) * to_decode) * t->scale;
    out->part[KV_TIME_PREFILL] = own - out->part[KV_TIME_DECODE];
    out->part[KV_TIME_EVICT] = evict;
    out->part[KV_TIME_OFFLOAD] = offload;
    out->s = own + evict + offload;
    out->outside = c.outside;
    if (step->n_chunks)
        out->line.until = -INFINITY;
    else
        out->line = (struct kv_step_line){.until = c.until,
                                          .per_kv = c.per_kv,
                                          .shared = c.shared,
                                          .all = reduce,
                                          .scale = t->scale,
                                          .to_decode = to_decode};
    return true;
}

const char *kv_timing_stamp(const struct kv_timing *t)
{
    return t->stamp;
}

const char *kv_timing_by_bytes_note(const struct kv_timing *t)
{
    return t->by_bytes;
}

const char *const *kv_timing_files(const struct kv_timing *t)
{
    return t->file;
}
