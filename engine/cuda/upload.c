/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Pieces have numbers, and piece i has buffer i % buffers. A reader takes the next number when its buffer is free,
 * which it is when the piece that had it last has arrived on the device. One thread, the caller's, asks the device: it
 * sends the pieces in order, and waits for each while the next one is under way. */
#include "engine/cuda/upload.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* Of pieces that were sent; so two buffers more than readers keep all of them and the device at work. */
enum { UNDER_WAY = 1, MORE_BUFFERS = 2, MOST_READERS = 64 };

struct piece {
    const struct kv_tensor *tensor;
    int64_t from, n; /* elements */
    kv_bf16 *to;
};

struct upload {
    const struct kv_weights *weights;
    struct piece *piece;
    int64_t n;
    char *buffer; /* (buffers, buffer_bytes) pinned */
    int64_t buffer_bytes;
    int buffers;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int64_t taken, allowed; /* pieces below `allowed` have a buffer, those below `taken` a reader */
    int64_t *holds;         /* (buffers,) the piece that is read and lies there */
    bool stop;
    struct kv_err e; /* what a reader failed of */
};

static int64_t size_of(const struct kv_tensor *t)
{
    return t->type == KV_TENSOR_F32 ? 4 : 2;
}

static kv_bf16 rounded(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x != x)
        return 0x7fff;
    return (kv_bf16)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

/* ---- readers ---- */

/* In place: element i is written no further on than where it was read. */
static void round_all(enum kv_tensor_type type, char *at, int64_t n)
{
    enum { SOME = 512 };
    const struct kv_tensor here = {.name = "a piece", .type = type, .rows = 1, .columns = n, .data = at};
    float wide[SOME];
    for (int64_t i = 0, many; i < n; i += many) {
        many = n - i < SOME ? n - i : SOME;
        kv_tensor_read(&here, i, many, wide);
        for (int64_t k = 0; k < many; k++) {
            kv_bf16 narrow = rounded(wide[k]);
            memcpy(at + (size_t)(i + k) * sizeof narrow, &narrow, sizeof narrow);
        }
    }
}

static bool read_piece(const struct upload *u, int64_t i, struct kv_err *e)
{
    const struct piece *p = &u->piece[i];
    char *at = u->buffer + i % u->buffers * u->buffer_bytes;
    if (!kv_weights_fetch(u->weights, p->tensor, p->from, p->n, at, e))
        return false;
    if (p->tensor->type != KV_TENSOR_BF16)
        round_all(p->tensor->type, at, p->n);
    return true;
}

static void *reader_life(void *upload)
{
    struct upload *u = upload;
    struct kv_err e = {0};
    pthread_mutex_lock(&u->lock);
    for (;;) {
        while (!u->stop && u->taken < u->n && u->taken >= u->allowed)
            pthread_cond_wait(&u->changed, &u->lock);
        if (u->stop || u->taken == u->n)
            break;
        int64_t i = u->taken++;
        pthread_mutex_unlock(&u->lock);
        bool good = read_piece(u, i, &e);
        pthread_mutex_lock(&u->lock);
        if (good)
            u->holds[i % u->buffers] = i;
        else if (!u->stop)
            u->e = e;
        u->stop |= !good;
        pthread_cond_broadcast(&u->changed);
    }
    pthread_mutex_unlock(&u->lock);
    return NULL;
}

/* ---- the device ---- */

static bool wait_for(struct upload *u, int64_t i)
{
    pthread_mutex_lock(&u->lock);
    while (!u->stop && u->holds[i % u->buffers] != i)
        pthread_cond_wait(&u->changed, &u->lock);
    bool good = !u->stop;
    pthread_mutex_unlock(&u->lock);
    return good;
}

static void allow(struct upload *u, int64_t pieces, bool stop)
{
    pthread_mutex_lock(&u->lock);
    u->allowed = pieces;
    u->stop |= stop;
    pthread_cond_broadcast(&u->changed);
    pthread_mutex_unlock(&u->lock);
}

static void send_all(struct upload *u, struct kv_gpu *g)
{
    for (int64_t i = 0; i < u->n && wait_for(u, i); i++) {
        const struct piece *p = &u->piece[i];
        kv_gpu_send(g, p->to, u->buffer + i % u->buffers * u->buffer_bytes, (size_t)p->n * sizeof *p->to);
        kv_gpu_arrived(g, UNDER_WAY);
        allow(u, i + 1 - UNDER_WAY + u->buffers, false);
    }
    kv_gpu_arrived(g, 0);
}

static bool run(struct upload *u, struct kv_gpu *g, int readers, struct kv_err *e)
{
    pthread_t reader[MOST_READERS];
    int started = 0;
    while (started < readers && started < u->n && !pthread_create(&reader[started], NULL, reader_life, u))
        started++;
    bool good = started || !u->n || kv_fail(e, KV_ENV, "no thread can be started to read weights");
    if (started)
        send_all(u, g);
    allow(u, u->allowed, true);
    for (int i = 0; i < started; i++)
        pthread_join(reader[i], NULL);
    return good && (!u->e.n || kv_fail(e, u->e.status, "%s", u->e.text));
}

/* ---- pieces ---- */

/* How many there are, and of which size; a small model needs small buffers, and few. */
static void measure(struct upload *u, const struct kv_cuda_matrix *matrix, int64_t n, int64_t piece_bytes, int readers,
                    int64_t *bytes)
{
    *bytes = 0;
    for (int64_t i = 0; i < n; i++) {
        const struct kv_tensor *t = matrix[i].tensor;
        int64_t size = t->rows * t->columns * size_of(t), most = size < piece_bytes ? size : piece_bytes;
        u->buffer_bytes = most > u->buffer_bytes ? most : u->buffer_bytes;
        u->n += (size + piece_bytes - 1) / piece_bytes;
        *bytes += size;
    }
    u->buffers = u->n < readers + MORE_BUFFERS ? (int)u->n : readers + MORE_BUFFERS;
    u->allowed = u->buffers;
}

static bool make(struct upload *u, struct kv_gpu *g, const struct kv_cuda_matrix *matrix, int64_t n,
                 int64_t piece_bytes, struct kv_err *e)
{
    struct piece *p = u->piece = calloc((size_t)u->n + 1, sizeof *u->piece);
    u->holds = calloc((size_t)u->buffers + 1, sizeof *u->holds);
    if (!u->piece || !u->holds)
        return kv_fail(e, KV_ENV, "no memory for a list of %lld pieces of weights", (long long)u->n);
    for (int64_t i = 0; i < n; i++) {
        const struct kv_tensor *t = matrix[i].tensor;
        int64_t elements = t->rows * t->columns, most = piece_bytes / size_of(t);
        for (int64_t from = 0; from < elements; from += most)
            *p++ = (struct piece){t, from, elements - from < most ? elements - from : most, matrix[i].to + from};
    }
    KV_ASSERT(p == u->piece + u->n);
    for (int i = 0; i < u->buffers; i++)
        u->holds[i] = -1;
    return kv_gpu_new_host(g, &u->buffer, u->buffers, (size_t)u->buffer_bytes, "weights on their way", e);
}

bool kv_cuda_upload(struct kv_gpu *g, const struct kv_weights *w, const struct kv_cuda_matrix *matrix, int64_t n,
                    int64_t piece_bytes, int readers, int64_t *bytes, struct kv_err *e)
{
    struct upload u = {.weights = w};
    KV_ASSERT(piece_bytes > 0 && piece_bytes % 4 == 0);
    readers = readers > MOST_READERS ? MOST_READERS : readers < 1 ? 1 : readers;
    measure(&u, matrix, n, piece_bytes, readers, bytes);
    pthread_mutex_init(&u.lock, NULL);
    pthread_cond_init(&u.changed, NULL);
    bool good = make(&u, g, matrix, n, piece_bytes, e) && run(&u, g, readers, e);
    kv_gpu_delete_host(g, u.buffer);
    free(u.holds);
    free(u.piece);
    pthread_cond_destroy(&u.changed);
    pthread_mutex_destroy(&u.lock);
    return good;
}
