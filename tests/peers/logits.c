/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What compare_transformers.py asks of our side:
 *   logits run FOLDER IDS OUT      logits of the tokens in the text file IDS, (tokens, vocab) doubles
 *   logits rope FOLDER FIRST N OUT cos, then sin, of N positions from FIRST on, (N, head_dim / 2) floats each
 *   logits random FROM TO TYPE SEED SCALE   random weights for FROM's config.json into the folder TO; TYPE: 0 F32, 1
 * BF16, 2 F16 */
#include "engine/reference.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool write_all(const char *path, const void *data, size_t bytes, struct kv_err *e)
{
    FILE *file = fopen(path, "wb");
    bool good = file && fwrite(data, 1, bytes, file) == bytes;
    good = file && fclose(file) == 0 && good;
    return good || kv_fail(e, KV_ENV, "cannot write '%s'", path);
}

static int64_t read_ids(const char *path, int32_t *id, int64_t most)
{
    FILE *file = fopen(path, "r");
    int64_t n = 0;
    while (file && n < most && fscanf(file, "%d", &id[n]) == 1)
        n++;
    if (file)
        fclose(file);
    return n;
}

/* In passes of 1, 2, 3, ... tokens. */
static bool run_passes(struct kv_reference *r, const int32_t *id, int64_t n, int64_t vocab, double *logits,
                       struct kv_err *e)
{
    for (int64_t at = 0, step = 1; at < n; at += step++) {
        step = step < n - at ? step : n - at;
        if (!kv_reference_pass(r, id + at, step, 0, NULL, logits + at * vocab, step, e))
            return false;
    }
    return true;
}

static bool run(char **arg, struct kv_arena *a, struct kv_err *e)
{
    static int32_t id[4096];
    struct kv_weights w;
    struct kv_reference *r;
    int64_t n = read_ids(arg[1], id, 4096), ignored;
    if (!kv_weights_open(&w, arg[0], &ignored, a, e))
        return false;
    size_t vocab = (size_t)w.config.vocab;
    double *logits = kv_alloc_many(a, (size_t)n * vocab, sizeof *logits, "logits", e);
    bool good = logits && kv_reference_open(&r, &w, e);
    if (good) {
        good = run_passes(r, id, n, w.config.vocab, logits, e) &&
               write_all(arg[2], logits, (size_t)n * vocab * sizeof *logits, e);
        kv_reference_close(r);
    }
    kv_weights_close(&w);
    printf("%lld %lld\n", (long long)w.parameters, (long long)ignored);
    return good;
}

static bool rope(char **arg, struct kv_arena *a, struct kv_err *e)
{
    struct kv_config c;
    int64_t first = atoll(arg[1]), n = atoll(arg[2]);
    if (!kv_config_read(&c, arg[0], a, e))
        return false;
    size_t each = (size_t)(n * c.head_dim / 2);
    float *x = kv_alloc_many(a, 2 * each, sizeof *x, "angles", e);
    if (!x)
        return false;
    kv_config_rope(&c, first, n, x, x + each);
    return write_all(arg[3], x, 2 * each * sizeof *x, e);
}

static bool make_random(char **arg, struct kv_arena *a, struct kv_err *e)
{
    struct kv_config c;
    return kv_config_read(&c, arg[0], a, e) && kv_weights_random(arg[1], &c, (enum kv_tensor_type)atoi(arg[2]),
                                                                 strtoull(arg[3], NULL, 10), atof(arg[4]), a, e);
}

int main(int argc, char **argv)
{
    struct kv_arena *a = kv_arena_open();
    struct kv_err e = {0};
    bool good = argc == 5 && !strcmp(argv[1], "run")      ? run(argv + 2, a, &e)
                : argc == 6 && !strcmp(argv[1], "rope")   ? rope(argv + 2, a, &e)
                : argc == 7 && !strcmp(argv[1], "random") ? make_random(argv + 2, a, &e)
                                                          : kv_fail(&e, KV_USAGE, "usage: see the top of logits.c");
    if (!good)
        fprintf(stderr, "%s\n", e.text);
    kv_arena_close(a);
    return (int)e.status;
}
