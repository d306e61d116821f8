/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Logits of a backend, for others to compare with, and those of policies, to be compared bit by bit.
 *
 *     logits random FROM TO SEED SCALE        bf16 weights drawn for FROM/config.json, into the folder TO
 *     logits ids N VOCAB SEED                 token ids, on stdout
 *     logits all BACKEND MODEL IDS CHUNK OUT  of each token in the text file IDS: (tokens, vocab) f32
 *     logits agree A B VOCAB                  of two such files, against each other; status 1: not as bf16 should
 *     logits passes BACKEND MODEL IDS CHUNK STEPS SPEC OUT
 *                                             of the last token of each pass; the last STEPS tokens are decoded, one
 *                                             by one. SPEC none: no policy at all
 *
 * MODEL with "drawn:" before it: weights drawn on the device in the shape of its config.json. */
#include "engine/host.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_IDS = 1 << 17 };

/* Of bf16 weights and activations against fp32 ones: what a token must be ahead by to count, and how many of those must
 * be the same. */
static const double LEAST_GAP = 0.25, LEAST_SAME = 0.99;

struct model {
    struct kv_weights w;
    struct kv_backend *b;
    int32_t id[MOST_IDS];
    int64_t n, chunk;
    FILE *out;
};

static bool open_model(struct model *m, char **arg, struct kv_arena *a, struct kv_err *e)
{
    const struct kv_backend_ops *ops = strcmp(arg[0], "cpu") ? &kv_backend_cuda : &kv_backend_cpu;
    struct kv_backend_asked asked = {.dtype = ops->dtype[0],
                                     .page = 64,
                                     .pool_bytes = ops == &kv_backend_cpu ? INT64_C(1) << 32 : 0,
                                     .threads = (int)sysconf(_SC_NPROCESSORS_ONLN)};
    FILE *in = fopen(arg[2], "r");
    while (in && m->n < MOST_IDS && fscanf(in, "%d%*[ ,\n]", &m->id[m->n]) == 1)
        m->n++;
    if (in)
        fclose(in);
    m->chunk = atoll(arg[3]);
    if (!m->n || m->chunk < 1)
        return kv_fail(e, KV_USAGE, "no ids in '%s', or a chunk that is none", arg[2]);
    return (strncmp(arg[1], "drawn:", 6) ? kv_weights_open(&m->w, arg[1], NULL, a, e)
                                         : kv_weights_blank(&m->w, arg[1] + 6, 1, a, e)) &&
           ops->open(&m->b, &m->w, &asked, e);
}

static void close_model(struct model *m)
{
    if (m->b)
        m->b->ops->close(m->b);
    if (m->w.layer)
        kv_weights_close(&m->w);
}

static bool open_out(struct model *m, const char *path, struct kv_err *e)
{
    m->out = fopen(path, "wb");
    return m->out || kv_fail(e, KV_ENV, "cannot write '%s'", path);
}

static bool put(struct model *m, const float *logits, int64_t rows, struct kv_err *e)
{
    size_t n = (size_t)(rows * m->w.config.vocab);
    return fwrite(logits, sizeof *logits, n, m->out) == n || kv_fail(e, KV_ENV, "logits cannot be written");
}

/* The token at which the pass after one that ended at `at` ends: a chunk, or one of the last `steps`. */
static int64_t next_end(const struct model *m, int64_t at, int64_t steps)
{
    int64_t prompt = m->n - steps;
    return at >= prompt ? at + 1 : at + m->chunk < prompt ? at + m->chunk : prompt;
}

/* Without a policy; logits of all tokens, or of the last of each pass. */
static bool run_plain(struct model *m, int64_t steps, bool all, struct kv_err *e)
{
    struct kv_seq s = {.store_heads = m->w.config.kv_heads};
    int64_t rows = all ? m->chunk : 1;
    float *logits = malloc(sizeof *logits * (size_t)(rows * m->w.config.vocab));
    bool good = (logits || kv_fail(e, KV_ENV, "no memory for logits")) && m->b->ops->seq_open(m->b, &s, e);
    for (int64_t at = 0, end; good && at < m->n; at = end) {
        end = next_end(m, at, steps);
        struct kv_part part = {
            .seq = &s, .token = m->id + at, .n_new = end - at, .n_logits = all ? end - at : 1, .logits = logits};
        good = m->b->ops->forward(m->b, &part, 1, NULL, NULL, e) && put(m, logits, part.n_logits, e);
    }
    if (s.lane)
        m->b->ops->seq_close(m->b, &s);
    free(logits);
    return good;
}

static bool run_policy(struct model *m, int64_t steps, const char *spec, struct kv_arena *a, struct kv_err *e)
{
    struct kv_policy policy;
    struct kv_live l = {0};
    struct kv_live *one[] = {&l};
    struct kv_defaults run = {.chunk = m->chunk, .dtype = m->b->ops->dtype[0]};
    bool good = kv_policy_from_spec(&policy, spec, a, e) &&
                kv_live_open(&l, m->b, &m->w, &policy, &run, m->id, m->n - steps, steps + 1, 0, 64, false, a, e);
    while (good && l.cache.seen < m->n) {
        if (l.cache.seen == l.n_token)
            kv_live_add(&l, m->id[l.n_token]);
        good = kv_live_step(one, 1, e) && put(m, l.logits, 1, e);
    }
    if (l.backend)
        kv_live_close(&l);
    return good;
}

static bool run_all(char **arg, struct kv_arena *a, struct kv_err *e)
{
    static struct model m;
    bool good = open_model(&m, arg, a, e) && open_out(&m, arg[4], e) && run_plain(&m, 0, true, e);
    good = (!m.out || !fclose(m.out)) && good;
    close_model(&m);
    return good;
}

static bool run_passes(char **arg, struct kv_arena *a, struct kv_err *e)
{
    static struct model m;
    int64_t steps = atoll(arg[4]);
    bool good = open_model(&m, arg, a, e) && (steps < m.n || kv_fail(e, KV_USAGE, "more steps than ids")) &&
                open_out(&m, arg[6], e) &&
                (strcmp(arg[5], "none") ? run_policy(&m, steps, arg[5], a, e) : run_plain(&m, steps, false, e));
    good = (!m.out || !fclose(m.out)) && good;
    close_model(&m);
    return good;
}

static bool make_random(char **arg, struct kv_arena *a, struct kv_err *e)
{
    struct kv_config c;
    return kv_config_read(&c, arg[0], a, e) &&
           kv_weights_random(arg[1], &c, KV_TENSOR_BF16, strtoull(arg[2], NULL, 10), atof(arg[3]), a, e);
}

static void print_ids(char **arg)
{
    uint64_t x = strtoull(arg[2], NULL, 10) * 2 + 1, vocab = strtoull(arg[1], NULL, 10);
    for (int64_t i = atoll(arg[0]); i > 0 && vocab; i--) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        printf("%llu%s", (unsigned long long)((x >> 33) % vocab), i > 1 ? "," : "\n");
    }
}

/* ---- two files ---- */

struct agreement {
    int64_t rows, clear, same;
    double divergence, most, largest; /* mean KL; largest difference, and logit */
};

static void add_row(struct agreement *x, const float *a, const float *b, int64_t vocab)
{
    int64_t top[2] = {0, 0};
    double second = -INFINITY, sum[2] = {0, 0}, divergence = 0;
    for (int64_t i = 1; i < vocab; i++) {
        second = fmax(second, (double)(a[i] > a[top[0]] ? a[top[0]] : a[i]));
        top[0] = a[i] > a[top[0]] ? i : top[0];
        top[1] = b[i] > b[top[1]] ? i : top[1];
    }
    for (int64_t i = 0; i < vocab; i++) {
        sum[0] += exp((double)a[i] - (double)a[top[0]]);
        sum[1] += exp((double)b[i] - (double)b[top[1]]);
        x->most = fmax(x->most, fabs((double)a[i] - (double)b[i]));
        x->largest = fmax(x->largest, fabs((double)a[i]));
    }
    for (int64_t i = 0; i < vocab; i++) {
        double la = (double)a[i] - (double)a[top[0]] - log(sum[0]), lb = (double)b[i] - (double)b[top[1]] - log(sum[1]);
        divergence += exp(la) * (la - lb);
    }
    x->rows++;
    x->divergence += divergence;
    if ((double)a[top[0]] - second > LEAST_GAP) {
        x->clear++;
        x->same += top[0] == top[1];
    }
}

static bool agree(char **arg, struct kv_err *e)
{
    FILE *in[] = {fopen(arg[0], "rb"), fopen(arg[1], "rb")};
    size_t vocab = (size_t)atoll(arg[2]);
    float *row = malloc(sizeof *row * 2 * vocab);
    struct agreement x = {0};
    while (in[0] && in[1] && row && fread(row, sizeof *row, vocab, in[0]) == vocab &&
           fread(row + vocab, sizeof *row, vocab, in[1]) == vocab)
        add_row(&x, row, row + vocab, (int64_t)vocab);
    for (int i = 0; i < 2; i++)
        if (in[i])
            fclose(in[i]);
    free(row);
    if (!x.rows)
        return kv_fail(e, KV_DATA, "no logits in '%s' and '%s'", arg[0], arg[1]);
    printf("{\"bench\": \"logits\", \"rows\": %lld, \"kl\": %.3g, \"clear\": %lld, \"same\": %lld, \"most_off\": %.4g, "
           "\"largest\": %.4g}\n",
           (long long)x.rows, x.divergence / (double)x.rows, (long long)x.clear, (long long)x.same, x.most, x.largest);
    return (double)x.same >= LEAST_SAME * (double)x.clear ||
           kv_fail(e, KV_NO, "the same most likely token in %lld of %lld rows where it is ahead by %g",
                   (long long)x.same, (long long)x.clear, LEAST_GAP);
}

int main(int argc, char **argv)
{
    struct kv_arena *a = kv_arena_open();
    struct kv_err e = {0};
    const char *what = argc > 1 ? argv[1] : "";
    bool good = true;
    if (argc == 6 && !strcmp(what, "random"))
        good = make_random(argv + 2, a, &e);
    else if (argc == 5 && !strcmp(what, "ids"))
        print_ids(argv + 2);
    else if (argc == 7 && !strcmp(what, "all"))
        good = run_all(argv + 2, a, &e);
    else if (argc == 9 && !strcmp(what, "passes"))
        good = run_passes(argv + 2, a, &e);
    else if (argc == 5 && !strcmp(what, "agree"))
        good = agree(argv + 2, &e);
    else
        good = kv_fail(&e, KV_USAGE, "usage: see the top of logits.c");
    if (!good)
        fprintf(stderr, "logits: %s\n", e.n ? e.text : "cannot write");
    kv_arena_close(a);
    return good ? 0 : e.n ? (int)e.status : KV_ENV;
}
