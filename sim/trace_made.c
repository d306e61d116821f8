/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The file that made-up rows are written to. */
#include "sim/core/select.h"
#include "sim/progress.h"
#include "sim/synth.h"
#include "sim/team.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef KV_VERSION
#define KV_VERSION "unknown"
#endif

/* ---- what the file says of itself ---- */

int64_t kv_synth_tokens(const struct kv_synth_asked *q)
{
    return q->n_prompt + (q->n_output > 1 ? q->n_output - 1 : 0);
}

int64_t kv_synth_streams(const struct kv_synth_asked *q, enum kv_channel what)
{
    return q->layers * (kv_channels[what].attention && q->query_heads ? q->q_heads : q->kv_heads);
}

static void make_ticks(const struct kv_synth_asked *q, struct kv_trace_about *b, struct kv_arena *a)
{
    int64_t body = q->n_prompt - q->tail, chunks = (body + q->chunk - 1) / q->chunk + (q->tail > 0);
    int64_t tokens = kv_synth_tokens(q), steps = tokens - q->n_prompt,
            decodes = (steps + q->decode_tick - 1) / q->decode_tick;
    b->n_ticks = chunks + decodes;
    b->tick = KV_NEW_N(a, struct kv_tick, b->n_ticks);
    for (int64_t i = 0, begin = 0; i < b->n_ticks; i++) {
        bool decode = i >= chunks, patched = q->patch && i + 1 < chunks;
        int64_t end = begin + (decode ? q->decode_tick : begin < body ? q->chunk : q->tail);
        int64_t most = decode ? tokens : begin < body ? body : q->n_prompt;
        end = end < most ? end : most;
        b->tick[i] = (struct kv_tick){.kind = decode    ? KV_TICK_DECODE
                                              : patched ? KV_TICK_PATCHED
                                                        : KV_TICK_PREFILL,
                                      .begin = begin,
                                      .end = end,
                                      .n_patch = patched ? q->patch : 0,
                                      .start_ns = -1,
                                      .end_ns = -1,
                                      .kv_bytes = -1};
        begin = end;
    }
}

static bool nonnegative(enum kv_channel what)
{
    return what <= KV_VALUE_NORM;
}

static void make_channels(const struct kv_synth_asked *q, struct kv_trace_about *b, struct kv_arena *a)
{
    b->channel = KV_NEW_N(a, struct kv_trace_channel, KV_SCORE_CHANNELS);
    bool *at = KV_NEW_N(a, bool, b->n_ticks + 1);
    memset(at, true, (size_t)b->n_ticks);
    for (int i = 0; i < KV_SCORE_CHANNELS; i++) {
        const struct kv_channel_about *about = &kv_channels[i];
        bool query = about->attention && q->query_heads;
        if (!(q->channels & 1u << i))
            continue;
        b->channel[b->n_channels++] = (struct kv_trace_channel){
            .what = (enum kv_channel)i,
            .name = about->name,
            .query_heads = query,
            .reduce = about->attention && !query ? KV_REDUCE_MEAN : KV_REDUCE_NONE,
            .window = about->window ? q->window : 0,
            .rows = 1,
            .elements = 1,
            .encoding = q->encoding <= KV_ENC_CODE && !nonnegative((enum kv_channel)i) ? KV_ENC_F32 : q->encoding,
            .steps_per_octave = 64,
            .precision = "f32",
            .under = "full",
            .streams = kv_synth_streams(q, (enum kv_channel)i),
            .at = at};
    }
}

void kv_synth_describe(const struct kv_synth_asked *q, struct kv_trace_about *b, struct kv_arena *a)
{
    *b = (struct kv_trace_about){.producer = "kvsim trace synth",
                                 .producer_version = KV_VERSION,
                                 .complete = true,
                                 .model = q->model,
                                 .compute_dtype = "f32",
                                 .layers = q->layers,
                                 .q_heads = q->q_heads,
                                 .kv_heads = q->kv_heads,
                                 .head_dim = q->head_dim,
                                 .n_prompt = q->n_prompt,
                                 .n_output = q->n_output,
                                 .prefill = q->n_prompt,
                                 .policy = "full",
                                 .dataset = "synthetic",
                                 .item = kv_format(a, "seed %llu", (unsigned long long)q->seed),
                                 .n_marks = q->n_needles};
    b->mark = KV_NEW_N(a, struct kv_mark, q->n_needles + 1);
    for (int i = 0; i < q->n_needles; i++)
        b->mark[i] = q->needle[i];
    make_ticks(q, b, a);
    make_channels(q, b, a);
}

/* ---- its rows ---- */

struct making {
    const struct kv_synth *s;
    struct kv_synth_shape shape;
    float *rows;
    int64_t streams;
    atomic_llong next;
};

static void make_rows(void *making, int member)
{
    struct making *m = making;
    int64_t n = m->shape.end - m->shape.first;
    (void)member;
    for (int64_t i; (i = atomic_fetch_add(&m->next, 1)) < m->streams;)
        kv_synth_row(m->s, &m->shape, i, m->rows + i * n);
}

static int64_t numbers_at(const struct kv_trace_about *b, int channel, int64_t tick)
{
    const struct kv_trace_channel *c = &b->channel[channel];
    const struct kv_tick *t = &b->tick[tick];
    return c->streams * (t->end - (kv_channels[c->what].span == KV_SPAN_NEW ? t->begin : 0));
}

static bool write_tick(struct kv_trace_writer *w, struct making *m, int64_t tick, struct kv_team *team,
                       struct kv_progress *progress, struct kv_err *e)
{
    const struct kv_trace_about *b = kv_synth_about(m->s);
    if (!kv_trace_tick(w, &b->tick[tick], e))
        return false;
    for (int c = 0; c < b->n_channels; c++) {
        kv_synth_turn(m->s, &m->shape, b->channel[c].what, tick);
        m->streams = b->channel[c].streams;
        atomic_store(&m->next, 0);
        kv_team_run(team, make_rows, m);
        if (!kv_trace_put(w, c, m->rows, e))
            return false;
        kv_progress_add(progress, numbers_at(b, c, tick));
    }
    return kv_trace_commit(w, e);
}

static bool write_ticks(struct kv_trace_writer *w, struct making *m, int threads, bool quiet, struct kv_arena *a,
                        struct kv_err *e)
{
    const struct kv_trace_about *b = kv_synth_about(m->s);
    struct kv_progress progress;
    int64_t all = 0, most = 0;
    for (int64_t t = 0; t < b->n_ticks; t++)
        for (int c = 0; c < b->n_channels; c++) {
            int64_t n = numbers_at(b, c, t);
            most = n > most ? n : most;
            all += n;
        }
    if (!kv_synth_shape_open(m->s, &m->shape, e))
        return false;
    m->rows = malloc(((size_t)most + KV_SLACK) * sizeof *m->rows);
    bool good = m->rows || kv_fail(e, KV_ENV, "no memory for the %lld numbers of a pass", (long long)most);
    struct kv_team *team = kv_team_open(threads, a);
    kv_progress_start(&progress, "numbers made", all, quiet);
    for (int64_t t = 0; good && t < b->n_ticks; t++)
        good = write_tick(w, m, t, team, &progress, e);
    kv_progress_end(&progress);
    kv_team_close(team);
    free(m->rows);
    kv_synth_shape_close(&m->shape);
    return good;
}

bool kv_synth_write(const struct kv_synth *s, const char *path, enum kv_filter filter, int threads, bool quiet,
                    struct kv_arena *a, struct kv_err *e)
{
    struct kv_trace_writer *w;
    struct making m = {.s = s};
    if (!kv_trace_create(&w, path, kv_synth_about(s), filter, threads, e))
        return false;
    if (write_ticks(w, &m, threads, quiet, a, e))
        return kv_trace_finish(w, e);
    kv_trace_abandon(w);
    unlink(kv_format(a, "%s.part", path)); /* what was made up can be made up again */
    return false;
}
