/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Whether a model knows anything of a prompt: with random weights, or on text it finds no likelier than chance,
 * attention says nothing of what it would be elsewhere, and a comparison shows that the mechanics are right, and no
 * more. */
#include "engine/verify.h"
#include "sim/interrupt.h"

#include <math.h>
#include <stdlib.h>

enum { CHUNK = 64 };

/* What is needed to call it knowledge: nats a token above a uniform guess, and so many times the error of their mean.
 */
static const double LEAST_GAIN = 0.1, ERRORS = 3;

static bool forward(const struct kv_verify *c, struct kv_seq *seq, int64_t first, int64_t n, float *logits,
                    struct kv_err *e)
{
    struct kv_part part = {.seq = seq, .token = c->prompt->id + first, .n_new = n, .n_logits = n, .logits = logits};
    struct kv_backend *b = c->host->backend;
    return b->ops->forward(b, &part, 1, NULL, NULL, e);
}

/* Mean of the log-probability of the prompt's tokens, each by those before it, above that of a uniform guess; and the
 * standard error of the mean. */
static bool measure(const struct kv_verify *c, double *gain, double *error, struct kv_err *e)
{
    int64_t vocab = c->host->weights.config.vocab, n = c->prompt->n;
    struct kv_backend *b = c->host->backend;
    struct kv_seq seq = {.store_heads = c->host->weights.config.kv_heads};
    float *logits = malloc(sizeof *logits * (size_t)(vocab * CHUNK));
    double sum = 0, squares = 0, count = (double)(n - 1);
    if (!logits)
        return kv_fail(e, KV_ENV, "no memory for the logits of %d tokens", CHUNK);
    bool good = b->ops->seq_open(b, &seq, e);
    for (int64_t first = 0; good && first < n - 1 && !kv_interrupted(); first += CHUNK) {
        int64_t many = n - 1 - first < CHUNK ? n - 1 - first : CHUNK;
        good = forward(c, &seq, first, many, logits, e);
        for (int64_t i = 0; good && i < many; i++) {
            double x = kv_log_probability(logits + i * vocab, vocab, c->prompt->id[first + i + 1]) + log((double)vocab);
            sum += x;
            squares += x * x;
        }
    }
    if (seq.lane)
        b->ops->seq_close(b, &seq);
    free(logits);
    *gain = sum / count;
    *error = sqrt(fmax(squares / count - *gain * *gain, 0) / fmax(count - 1, 1));
    return good && (!kv_interrupted() || kv_fail(e, kv_interrupt_status(), "interrupted"));
}

bool kv_verify_weights(const struct kv_verify *c, const char **mechanics, struct kv_err *e)
{
    double gain, error;
    *mechanics = NULL;
    if (c->host->weights.drawn) {
        *mechanics = "its weights are drawn";
        return true;
    }
    if (c->host->weights.config.random) {
        *mechanics = "its config.json says that its weights are random";
        return true;
    }
    if (c->prompt->n < 2)
        return true;
    if (!measure(c, &gain, &error, e))
        return false;
    if (!(gain > LEAST_GAIN && gain > ERRORS * error))
        *mechanics = kv_format(c->arena,
                               "it finds the prompt no likelier than chance (%+.3f nats a token against a uniform "
                               "guess, standard error %.3f), as random weights would",
                               gain, error);
    return true;
}
