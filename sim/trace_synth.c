/* SPDX-License-Identifier: GPL-3.0-or-later */
/* `kvsim trace synth`. */
#include "sim/core/preset.h"
#include "sim/core/units.h"
#include "sim/synth.h"
#include "sim/table.h"
#include "sim/trace_verbs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_TOKENS = 1 << 24, MOST_HEADS = 10000, MOST_STREAMS = 1 << 20, MOST_NEEDLES = 16, MOST_TICKS = 100000 };

static const char *const axes[] = {"kv", "q", NULL};

static bool read_shape(const struct kv_args *args, struct kv_synth_asked *q, struct kv_arena *a, struct kv_err *e)
{
    int64_t group = 4;
    const char *name = kv_arg_text(args, "model", NULL);
    q->head_dim = 128;
    if (name) {
        struct kv_model m;
        if (!kv_model_find(name, &m, a, e))
            return false;
        if (m.kv_lora_rank)
            return kv_fail(e, KV_USAGE, "--model: '%s' caches a latent, not keys of heads; give another", name);
        q->model = m.name;
        q->layers = m.layers;
        q->kv_heads = m.kv_heads;
        q->head_dim = m.head_dim;
        group = m.q_heads / m.kv_heads;
    } else if (!kv_arg_flag(args, "layers") || !kv_arg_flag(args, "kv-heads")) {
        kv_fail(e, KV_USAGE, "no --model, nor --layers and --kv-heads; give a preset such as 'Llama-3.1-8B', or both");
    }
    kv_arg_count(args, "layers", 1, MOST_HEADS, &q->layers, a, e);
    kv_arg_count(args, "kv-heads", 1, MOST_HEADS, &q->kv_heads, a, e);
    kv_arg_count(args, "group", 1, MOST_HEADS, &group, a, e);
    kv_arg_count(args, "head-dim", 1, 65536, &q->head_dim, a, e);
    q->q_heads = q->kv_heads * group;
    if (!e->n && (q->q_heads > MOST_HEADS || q->layers * q->q_heads > MOST_STREAMS))
        kv_fail(e, KV_USAGE, "%lld layers of %lld query heads are too many; at most %d heads a layer and %d in all",
                (long long)q->layers, (long long)q->q_heads, MOST_HEADS, MOST_STREAMS);
    return !e->n;
}

static bool read_channels(const char *list, unsigned *channels, struct kv_arena *a, struct kv_err *e)
{
    const char *names[KV_SCORE_CHANNELS];
    for (int i = 0; i < KV_SCORE_CHANNELS; i++)
        names[i] = kv_channels[i].name;
    while (*(list += strspn(list, " ,"))) {
        size_t length = strcspn(list, " ,");
        const char *name = kv_copy_part(a, list, length), *near = kv_nearest(name, names, KV_SCORE_CHANNELS);
        int what = kv_channel_find(name);
        if (what >= KV_SCORE_CHANNELS)
            return kv_fail(e, KV_USAGE, "--channels: '%s' is not made up; record it", name);
        if (what < 0)
            return near ? kv_fail(e, KV_USAGE, "--channels: '%s' is not known; did you mean '%s'?", name, near)
                        : kv_fail(e, KV_USAGE, "--channels: '%s' is not known; see traces/FORMAT.md", name);
        *channels |= 1u << what;
        list += length;
    }
    return *channels || kv_fail(e, KV_USAGE, "--channels: names no channel; give one, as in 'window_seen'");
}

/* FIRST-LAST, both tokens included. */
static bool read_needles(const struct kv_args *args, struct kv_synth_asked *q, struct kv_arena *a, struct kv_err *e)
{
    int n = kv_arg_times(args, "needle");
    if (n > MOST_NEEDLES)
        return kv_fail(e, KV_USAGE, "%d needles are more than %d", n, MOST_NEEDLES);
    struct kv_mark *mark = KV_NEW_N(a, struct kv_mark, n + 1);
    for (int i = 0; i < n; i++) {
        const char *text = kv_arg_nth(args, "needle", i);
        size_t digits = strspn(text, "0123456789");
        char *behind = NULL;
        long long first = strtoll(text, &behind, 10), last = -1;
        if (digits && *behind == '-' && strspn(behind + 1, "0123456789"))
            last = strtoll(behind + 1, &behind, 10);
        if (last < first || *behind || last >= q->n_prompt)
            return kv_fail(e, KV_USAGE, "--needle '%s' is not FIRST-LAST with tokens from 0 to %lld", text,
                           (long long)q->n_prompt - 1);
        mark[i] = (struct kv_mark){.name = i ? kv_format(a, "needle%d", i + 1) : "needle", first, last + 1};
    }
    q->needle = mark;
    q->n_needles = n;
    return true;
}

static bool read_asked(const struct kv_args *args, struct kv_synth_asked *q, struct kv_arena *a, struct kv_err *e)
{
    int axis = 0;
    int64_t seed = 1;
    *q = (struct kv_synth_asked){.model = "synthetic", .chunk = 8192, .decode_tick = 64, .window = 64};
    read_shape(args, q, a, e);
    if (!kv_arg_flag(args, "prompt"))
        kv_fail(e, KV_USAGE, "no --prompt; give the prompt's tokens, as in --prompt 131072");
    kv_arg_count(args, "prompt", 1, MOST_TOKENS, &q->n_prompt, a, e);
    kv_arg_count(args, "output", 0, MOST_TOKENS, &q->n_output, a, e);
    kv_arg_count(args, "chunk", 1, MOST_TOKENS, &q->chunk, a, e);
    kv_arg_count(args, "decode-tick", 1, MOST_TOKENS, &q->decode_tick, a, e);
    kv_arg_count(args, "window", 1, 1 << 20, &q->window, a, e);
    kv_arg_count(args, "patch", 0, 1 << 20, &q->patch, a, e);
    kv_arg_count(args, "tail", 0, MOST_TOKENS, &q->tail, a, e);
    kv_arg_count(args, "seed", 0, INT64_MAX, &seed, a, e);
    kv_arg_choice(args, "head-axis", axes, &axis, a, e);
    read_channels(kv_arg_text(args, "channels", "window_seen"), &q->channels, a, e);
    q->query_heads = axis;
    q->seed = (uint64_t)seed;
    if (e->n)
        return false;
    if (q->n_prompt / q->chunk + q->n_output / q->decode_tick > MOST_TICKS)
        return kv_fail(e, KV_USAGE, "more than %d passes; give a larger --chunk or --decode-tick", MOST_TICKS);
    if (q->patch >= q->n_prompt)
        return kv_fail(e, KV_USAGE, "--patch: '%lld' are no last tokens of a prompt of %lld", (long long)q->patch,
                       (long long)q->n_prompt);
    if (q->tail >= q->n_prompt)
        return kv_fail(e, KV_USAGE, "--tail: '%lld' leave nothing of a prompt of %lld before them", (long long)q->tail,
                       (long long)q->n_prompt);
    return read_needles(args, q, a, e);
}

static const struct kv_column columns[] = {
    {"head_kind", "heads", KV_CELL_TEXT},
    {"lanes", "lanes", KV_CELL_COUNT},
    {"entropy_bits", "entropy\nbits", KV_CELL_REAL},
    {"entropy_least_bits", "least", KV_CELL_REAL},
    {"entropy_most_bits", "most", KV_CELL_REAL},
    {"top_tenth_mass", "mass of the\ntop 10 %", KV_CELL_SHARE},
    {"top_tenth_mass_least", "least", KV_CELL_SHARE},
    {"top_tenth_mass_most", "most", KV_CELL_SHARE},
    {"sink_mass", "mass of the\nfirst 4", KV_CELL_SHARE},
    {"overlap_later", "top 30 % in\nlater's", KV_CELL_SHARE},
};

static bool print_facts(const struct kv_synth *s, const struct kv_args *args, int threads, struct kv_arena *a,
                        struct kv_err *e)
{
    struct kv_synth_facts facts[KV_HEAD_KINDS];
    struct kv_table t;
    if (!kv_synth_facts(s, threads, facts, a, e))
        return false;
    kv_table_open(&t, columns, sizeof columns / sizeof *columns, a);
    for (int i = 0; i < KV_HEAD_KINDS; i++) {
        struct kv_cell *row = kv_table_row(&t);
        kv_set_text(&t, row, "head_kind", kv_head_kind_names[i]);
        kv_set_whole(&t, row, "lanes", facts[i].lanes);
        kv_set_real(&t, row, "entropy_bits", facts[i].entropy);
        kv_set_real(&t, row, "entropy_least_bits", facts[i].entropy_least);
        kv_set_real(&t, row, "entropy_most_bits", facts[i].entropy_most);
        kv_set_real(&t, row, "top_tenth_mass", facts[i].top);
        kv_set_real(&t, row, "top_tenth_mass_least", facts[i].top_least);
        kv_set_real(&t, row, "top_tenth_mass_most", facts[i].top_most);
        kv_set_real(&t, row, "sink_mass", facts[i].sinks);
        kv_set_real(&t, row, "overlap_later", facts[i].overlap);
    }
    if (!kv_table_as_asked(&t, args))
        kv_table_print(&t, stdout);
    return true;
}

bool kv_trace_verb_synth(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    struct kv_synth_asked asked;
    const char *path = args->n_operands > 1 ? args->operand[1] : NULL;
    enum kv_filter filter = KV_FILTER_ZSTD;
    int encoding = KV_ENC_LOG12, threads;
    bool statistics = kv_arg_flag(args, "statistics");
    kv_trace_threads(args, &threads, a, e);
    kv_trace_storage(args, &filter, &encoding, a, e);
    read_asked(args, &asked, a, e);
    if (!path && !statistics)
        kv_fail(e, KV_USAGE, "too little given: kvsim trace synth OUT, or --statistics");
    if (!statistics && (kv_arg_flag(args, "csv") || kv_arg_flag(args, "json")))
        kv_fail(e, KV_USAGE, "--csv and --json print --statistics; add it, or leave them out");
    if (e->n || (path && !kv_trace_may_write(args, path, a, e)))
        return false;
    asked.encoding = (enum kv_encoding)encoding;
    struct kv_synth *s = kv_synth_open(&asked, threads, a, e);
    if (!s)
        return false;
    if (path && !kv_synth_write(s, path, filter, threads, kv_arg_flag(args, "quiet"), a, e))
        return false;
    return !statistics || print_facts(s, args, threads, a, e);
}
