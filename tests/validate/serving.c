/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The serving model against measured servers: the rows of aiconfigurator's end-to-end table (Llama-3.1-8B on one GPU, a
 * fixed number of clients, mean TTFT and TPOT) beside plans with closed-loop clients. Each row is asked of three
 * timings: in 16 bits, of the kernel tables of its device, or where there are none of its roofline; of the roofline
 * with weights of 8 bits (half the bytes, twice the peak); and with KV of 8 bits too. Rows are grouped by what of them
 * the tables match. Nothing is fitted.
 *
 *     make validate               prints a Markdown table; MEASURED=DIR says where the data are */
#include "sim/csv.h"
#include "sim/serve/traffic.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROWS = 256, SET = 32, ROUNDS = 20, WARM_ROUNDS = 3 };
enum { BITS_16, WEIGHTS_8, ALL_8, TIMINGS };
static const char *const timing_names[TIMINGS] = {"16 bits", "8-bit weights", "and KV"};

/* What a row's device is to us. */
static const struct device {
    const char *system, *preset, *tables, *version; /* tables: NULL: none measured there */
} devices[] = {
    {"h100_sxm", "h100", NULL, NULL},
    {"h200_sxm", "h200", "h200_vllm_0.24.0", "0.24.0"},
    {"a100_sxm", "a100-80g", "a100_vllm_0.14.0", "0.14.0"},
};

enum group { MATCHES, PRECISION, ENGINE, DEVICE, GROUPS };
static const char *const group_names[GROUPS] = {
    "Headline: device, engine and precision are those of the kernel tables",
    "Apart: vLLM on a device with tables, in a precision that they do not have",
    "Apart: another engine, in a precision that the tables do not have",
    "Apart: a device without tables, another engine, precision not told",
};

struct row {
    const char *system, *backend, *version, *precision;
    const struct device *device;
    enum group group;
    int64_t prompt, output, clients;
    double ttft, tpot; /* seconds, measured */
    double peak_share;
    struct {
        double ttft, tpot;
    } told[TIMINGS];
};

static void fail(const struct kv_err *e)
{
    fprintf(stderr, "validate: %s\n", e->text);
    exit((int)e->status);
}

/* ---- rows ---- */

static enum group group_of(const struct row *r)
{
    bool vllm = !strcmp(r->backend, "vllm"), bf16 = !strcmp(r->precision, "bf16") || !strcmp(r->precision, "bfloat16");
    if (!r->device->tables)
        return DEVICE;
    return !vllm ? ENGINE : bf16 ? MATCHES : PRECISION;
}

static int read_rows(struct row *row, const char *path, struct kv_arena *a, struct kv_err *e)
{
    static const char *const names[] = {"system",      "backend", "backend_version", "precision",      "isl", "osl",
                                        "concurrency", "tp_size", "silicon_ttft_ms", "silicon_tpot_ms"};
    enum { SYSTEM, BACKEND, VERSION, PRECISION_, ISL, OSL, CLIENTS, TP, TTFT, TPOT, COLUMNS };
    struct kv_csv c;
    int at[COLUMNS], n = 0;
    if (!kv_csv_open(&c, path, a, e) || !kv_csv_bind(&c, names, COLUMNS, COLUMNS, at, e))
        fail(e);
    for (enum kv_next next; (next = kv_csv_next(&c, e)) != KV_NEXT_END;) {
        struct row *r = &row[n++];
        double clients, devices_of_a_replica;
        if (next == KV_NEXT_BAD || n == ROWS || !kv_csv_count(&c, at[ISL], 1, 1 << 20, &r->prompt, e) ||
            !kv_csv_count(&c, at[OSL], 2, 1 << 20, &r->output, e) ||
            !kv_csv_real(&c, at[CLIENTS], 1, 1 << 20, &clients, e) ||
            !kv_csv_real(&c, at[TP], 1, 1, &devices_of_a_replica, e) ||
            !kv_csv_real(&c, at[TTFT], 0, 1e9, &r->ttft, e) || !kv_csv_real(&c, at[TPOT], 1e-3, 1e9, &r->tpot, e))
            fail(e);
        r->clients = (int64_t)clients;
        r->ttft *= 1e-3;
        r->tpot *= 1e-3;
        r->system = kv_copy_text(a, c.cell[at[SYSTEM]]);
        r->backend = kv_copy_text(a, c.cell[at[BACKEND]]);
        r->version = kv_copy_text(a, c.cell[at[VERSION]]);
        r->precision = kv_copy_text(a, c.cell[at[PRECISION_]]);
        for (size_t i = 0; i < sizeof devices / sizeof *devices; i++)
            if (!strcmp(r->system, devices[i].system))
                r->device = &devices[i];
        if (!r->device) {
            kv_fail(e, KV_DATA, "%s:%lld: system '%s' is not known", path, (long long)c.line, r->system);
            fail(e);
        }
        r->group = group_of(r);
    }
    kv_csv_close(&c);
    return n;
}

/* ---- plans ---- */

struct plan {
    struct kv_arena *arena;
    const char *set[SET];
    int n;
};

static void set(struct plan *p, const char *key, const char *value)
{
    KV_ASSERT(p->n < SET);
    p->set[p->n++] = kv_format(p->arena, "%s=%s", key, value);
}

static void set_whole(struct plan *p, const char *key, int64_t value)
{
    set(p, key, kv_format(p->arena, "%lld", (long long)value));
}

/* vLLM's rules for all; what is known of the row's engine beside them. */
static void set_engine(struct plan *p, const struct row *r)
{
    /* on by default since 0.14; TensorRT-LLM and SGLang overlap as well */
    bool overlaps = strcmp(r->backend, "vllm") || strncmp(r->version, "0.1", 3) || atoi(r->version + 2) >= 14;
    set(p, "engine.scheduler", "vllm");
    set(p, "engine.async_scheduling", overlaps ? "true" : "false");
    set(p, "engine.enable_prefix_caching", "false"); /* prompts that have nothing in common */
    set(p, "engine.max_num_batched_tokens", "8192"); /* the default of all three on these devices */
    set_whole(p, "engine.max_num_seqs", 1024);
}

static void set_timing(struct plan *p, const struct row *r, int timing, const char *folder)
{
    struct kv_settings *s = KV_NEW(p->arena, struct kv_settings);
    struct kv_model m;
    struct kv_err *e = KV_NEW(p->arena, struct kv_err);
    if (timing == BITS_16 && r->device->tables) {
        set(p, "timing.model", "table");
        set(p, "timing.format", "aiconfigurator");
        set(p, "timing.profile", kv_format(p->arena, "%s/%s", folder, r->device->tables));
        return;
    }
    set(p, "timing.model", "roofline");
    if (timing == BITS_16)
        return;
    if (timing == ALL_8)
        set(p, "engine.kv_cache_dtype", "fp8");
    if (!kv_settings_read(NULL, p->set, p->n, s, p->arena, e) || !kv_settings_model(s, &m, p->arena, e))
        fail(e);
    set(p, "model.weights", kv_format(p->arena, "%lld B", (long long)(m.weight_bytes / 2)));
    set(p, "hardware.peak_flops", kv_format(p->arena, "%.17g TFLOP/s", 2 * s->hardware.peak_flops / 1e12));
}

static void serve(const struct plan *p, double *ttft, double *tpot, double *e2e)
{
    struct kv_err *e = KV_NEW(p->arena, struct kv_err);
    struct kv_settings *s = KV_NEW(p->arena, struct kv_settings);
    struct kv_traffic *t = KV_NEW(p->arena, struct kv_traffic);
    if (!kv_settings_read(NULL, p->set, p->n, s, p->arena, e) ||
        !kv_traffic_compute(t, s, 1, NULL, NULL, true, p->arena, e))
        fail(e);
    const struct kv_served *out = &t->row[0];
    if (!out->complete || out->refused || !out->counted) {
        kv_fail(e, KV_NO, "a plan of %s served %lld requests, refused %lld", s->hardware.device,
                (long long)out->counted, (long long)out->refused);
        fail(e);
    }
    *ttft = out->ttft.sum / (double)out->ttft.n;
    *tpot = out->tpot.sum / (double)out->tpot.n;
    *e2e = out->e2e.sum / (double)out->e2e.n;
    kv_traffic_close(t);
}

/* Served twice: first to learn how long a round of all clients takes, then without the first of them. */
static void predict(struct row *r, int timing, const char *folder)
{
    struct plan p = {.arena = kv_arena_open()};
    double e2e;
    set(&p, "model.name", "Llama-3.1-8B");
    set(&p, "hardware.device", r->device->preset);
    set(&p, "policy full.kind", "full");
    set(&p, "plan.baselines", "false");
    set(&p, "workload.arrivals", "closed");
    set_whole(&p, "workload.concurrency", r->clients);
    set_whole(&p, "workload.requests", ROUNDS * r->clients);
    set_whole(&p, "workload.prompt_tokens", r->prompt);
    set_whole(&p, "workload.output_tokens", r->output);
    set_engine(&p, r);
    set_timing(&p, r, timing, folder);
    serve(&p, &r->told[timing].ttft, &r->told[timing].tpot, &e2e);
    set(&p, "run.warmup", kv_format(p.arena, "%.9f s", WARM_ROUNDS * e2e));
    serve(&p, &r->told[timing].ttft, &r->told[timing].tpot, &e2e);
    kv_arena_close(p.arena);
}

/* The operations of the layers' products on the prompts that were answered in a second, as a share of the device's peak
 * in the row's precision: what the row says the server did, whatever ours says. */
static void find_peak_share(struct row *r)
{
    struct plan p = {.arena = kv_arena_open()};
    struct kv_err *e = KV_NEW(p.arena, struct kv_err);
    struct kv_settings *s = KV_NEW(p.arena, struct kv_settings);
    struct kv_model m;
    set(&p, "model.name", "Llama-3.1-8B");
    set(&p, "hardware.device", r->device->preset);
    if (!kv_settings_read(NULL, p.set, p.n, s, p.arena, e) || !kv_settings_model(s, &m, p.arena, e))
        fail(e);
    double products = (double)(m.parameters - 2 * m.vocab * m.hidden); /* neither embedding nor logits */
    double seconds = r->ttft + r->tpot * (double)(r->output - 1);
    double answered = (double)r->clients / seconds;
    r->peak_share =
        2 * products * (double)r->prompt * answered / (s->hardware.peak_flops * (strcmp(r->precision, "fp8") ? 1 : 2));
    kv_arena_close(p.arena);
}

/* ---- tables ---- */

static double off(double told, double measured)
{
    return 100 * (told / measured - 1);
}

static void print_row(const struct row *r)
{
    printf("| %s, %s %s, %s | %lld / %lld, %lld | %.2f |", r->device->preset, r->backend, r->version,
           *r->precision ? r->precision : "-", (long long)r->prompt, (long long)r->output, (long long)r->clients,
           r->tpot * 1e3);
    for (int i = 0; i < TIMINGS; i++)
        printf(" %.2f, %+.0f %% |", r->told[i].tpot * 1e3, off(r->told[i].tpot, r->tpot));
    printf(" %.0f |", r->ttft * 1e3);
    for (int i = 0; i < TIMINGS; i++)
        printf(" %.0f, %+.0f %% |", r->told[i].ttft * 1e3, off(r->told[i].ttft, r->ttft));
    printf(" %.0f %% |\n", 100 * r->peak_share);
}

static void print_errors(const struct row *row, int n, enum group group)
{
    for (int i = 0; i < TIMINGS; i++) {
        double sum[2] = {0}, all[2] = {0}, worst[2] = {0};
        int count = 0;
        for (int j = 0; j < n; j++) {
            if (row[j].group != group)
                continue;
            double error[2] = {off(row[j].told[i].tpot, row[j].tpot), off(row[j].told[i].ttft, row[j].ttft)};
            for (int k = 0; k < 2; k++) {
                sum[k] += error[k];
                all[k] += fabs(error[k]);
                worst[k] = fabs(error[k]) > fabs(worst[k]) ? error[k] : worst[k];
            }
            count++;
        }
        printf(
            "- %s: TPOT off by %.0f %% in the mean of absolutes (mean %+.0f, worst %+.0f); TTFT %.0f %% (mean %+.0f, "
            "worst %+.0f)\n",
            timing_names[i], all[0] / count, sum[0] / count, worst[0], all[1] / count, sum[1] / count, worst[1]);
    }
}

static void print_group(const struct row *row, int n, enum group group)
{
    int count = 0;
    for (int i = 0; i < n; i++)
        count += row[i].group == group;
    printf("**%s**: %d of %d rows\n\n", group_names[group], count, n);
    if (!count)
        return;
    printf("| device, engine, precision | prompt / output, clients |");
    for (int k = 0; k < 2; k++) {
        printf(k ? " TTFT |" : " TPOT |");
        for (int i = 0; i < TIMINGS; i++)
            printf(" %s |", timing_names[i]);
    }
    printf(" share of peak |\n|");
    for (int i = 0; i < 2 * TIMINGS + 5; i++)
        printf("---|");
    printf("\n");
    for (int i = 0; i < n; i++)
        if (row[i].group == group)
            print_row(&row[i]);
    printf("\n");
    print_errors(row, n, group);
    printf("\n");
}

int main(void)
{
    static struct row row[ROWS];
    static struct kv_err e;
    struct kv_arena *a = kv_arena_open();
    const char *measured = getenv("MEASURED");
    const char *folder = kv_format(a, "%s/aiconfigurator", measured ? measured : "");
    const char *path = kv_format(a, "%s/e2e_llama31_8b_tp1_calibration.csv", folder);
    gsl_set_error_handler_off();
    if (!measured || !*measured || access(path, R_OK)) {
        printf("Measured servers: skipped, %s%s; MEASURED=DIR says where measured times are.\n",
               measured && *measured ? "there is no " : "MEASURED is not set", measured && *measured ? path : "");
        return 0;
    }
    int n = read_rows(row, path, a, &e);
    for (int i = 0; i < n; i++) {
        for (int timing = 0; timing < TIMINGS; timing++)
            predict(&row[i], timing, folder);
        find_peak_share(&row[i]);
    }
    printf("Cells: milliseconds measured; predicted, and how far off.\n\n");
    for (int group = 0; group < GROUPS; group++)
        print_group(row, n, (enum group)group);
    kv_arena_close(a);
    return 0;
}
