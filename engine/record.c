/* SPDX-License-Identifier: GPL-3.0-or-later */
/* `kvengine record`: a trace of a live run. */
#include "engine/host.h"
#include "engine/recorder.h"

#include "sim/interrupt.h"
#include "sim/core/units.h"
#include "sim/progress.h"

#include <string.h>
#include <unistd.h>

static const struct kv_option options[] = {
    KV_HOST_OPTIONS,
    KV_HOST_RANDOM,
    {.name = "output-file", .letter = 'o', .value = "FILE", .help = "the trace (default trace.kvt.h5)"},
    {.name = "channels",
     .value = "LIST",
     .help = "what to record (default window_seen,column_sum,last_row,key_norm,value_norm); see 'kvsim trace --help'"},
    {.name = "window", .letter = 'w', .value = "N", .help = "queries of window sums (default 64)"},
    {.name = "head-axis",
     .value = "A",
     .help = "kv (default): rows for KV heads; q: for query heads, four times the bytes"},
    {.name = "decode-tick", .value = "N", .help = "decoded tokens of a recorded pass (default 1)"},
    {.name = "policy", .value = "SPEC", .help = "record with this policy on (closed loop): its scores and kept sets"},
    {.name = "encoding", .value = "E", .help = "log2anch (default: 12-bit logarithms), code or f32"},
    {.name = "filter", .value = "F", .help = "zstd (default), gzip or none"},
    {.name = "mark", .value = "NAME=FIRST-LAST", .repeat = true, .help = "tokens whose survival matters"},
    {.name = "dry-run", .help = "say how large the trace will be, and record nothing"},
    KV_OPTIONS_COMMON,
};

static const char *const axes[] = {"kv", "q", NULL};

/* What no live run makes: it comes with a trace, or is another form of what is made. */
static bool is_made(int channel)
{
    return channel != KV_EXTERNAL && channel != KV_EXPECTED && channel != KV_WINDOW_LOGITS;
}

static bool deny_channel(const char *name, bool known, struct kv_arena *a, struct kv_err *e)
{
    const char *names[KV_CHANNELS], *all = "", *near;
    int n = 0;
    for (int k = 0; k < KV_CHANNELS; k++)
        if (is_made(k)) {
            all = kv_format(a, "%s%s%s", all, n ? ", " : "", kv_channels[k].name);
            names[n++] = kv_channels[k].name;
        }
    near = known ? NULL : kv_nearest(name, names, n);
    return kv_fail(e, KV_USAGE, "--channels: '%s' is %s%s%s%s makes %s", name,
                   known ? "not made by a live run" : "no channel", near ? "; did you mean '" : "", near ? near : "",
                   near    ? "'? a live run"
                   : known ? "; it"
                           : "; a live run",
                   all);
}

static bool read_channels(const char *list, unsigned *out, struct kv_arena *a, struct kv_err *e)
{
    *out = 0;
    while (*list) {
        list += strspn(list, ", ");
        size_t length = strcspn(list, ", ");
        if (!length)
            break;
        const char *name = kv_copy_part(a, list, length);
        int k = kv_channel_find(name);
        if (k < 0 || !is_made(k))
            return deny_channel(name, k >= 0, a, e);
        *out |= KV_BIT(k);
        list += length;
    }
    return *out || kv_fail(e, KV_USAGE, "--channels names no channel");
}

static bool read_marks(const struct kv_args *args, int64_t tokens, struct kv_recorder_asked *q, struct kv_arena *a,
                       struct kv_err *e)
{
    int n = kv_arg_times(args, "mark");
    struct kv_mark *mark = KV_NEW_N(a, struct kv_mark, n + 1);
    for (int i = 0; i < n; i++)
        if (!kv_mark_read(&mark[i], kv_arg_nth(args, "mark", i), tokens, a, e))
            return false;
    q->mark = mark;
    q->n_marks = n;
    return true;
}

static bool read_asked(const struct kv_args *args, struct kv_recorder_asked *q, struct kv_arena *a, struct kv_err *e)
{
    int axis = 0, encoding = KV_ENC_LOG12, filter = KV_FILTER_ZSTD;
    *q = (struct kv_recorder_asked){.window = 64, .decode_tick = 1};
    kv_arg_count(args, "window", 1, 1 << 20, &q->window, a, e);
    kv_arg_count(args, "decode-tick", 1, 1 << 20, &q->decode_tick, a, e);
    kv_arg_choice(args, "head-axis", axes, &axis, a, e);
    kv_arg_choice(args, "encoding", kv_encoding_names, &encoding, a, e);
    kv_arg_choice(args, "filter", kv_filter_names, &filter, a, e);
    q->query_rows = axis == 1;
    q->encoding = (enum kv_encoding)encoding;
    q->filter = (enum kv_filter)filter;
    return read_channels(kv_arg_text(args, "channels", "window_seen,column_sum,last_row,key_norm,value_norm"),
                         &q->channels, a, e) &&
           !e->n;
}

static bool record_all(const struct kv_host *h, struct kv_live *l, struct kv_recorder *r, struct kv_err *e)
{
    struct kv_progress progress;
    kv_progress_start(&progress, "tokens run and recorded", l->request.prompt + l->request.output - 1, h->quiet);
    bool good = true;
    while (good && kv_live_next(l) && !kv_interrupted()) {
        int64_t before = l->cache.seen;
        struct kv_live *one[] = {l};
        good = kv_live_step(one, 1, e);
        kv_progress_add(&progress, l->cache.seen - before);
        if (good && l->cache.seen == l->n_token && l->n_token < l->request.prompt + l->request.output) {
            int32_t token = kv_live_greedy(l);
            kv_recorder_chose(r, token, kv_log_probability(l->logits, h->weights.config.vocab, token));
            kv_live_add(l, token);
        }
    }
    kv_progress_end(&progress);
    return good && (!kv_interrupted() ||
                    kv_fail(e, kv_interrupt_status(),
                            "interrupted; what was recorded lies in the .part file: 'kvsim trace recover' saves it"));
}

static bool say_size(const struct kv_recorder_asked *q, const struct kv_live *l, const struct kv_host *h)
{
    char bytes[KV_NUMBER_TEXT], tokens[KV_NUMBER_TEXT];
    printf("%s tokens of prompt in passes of %lld, %lld tokens of output: about %s\n",
           kv_print_count(tokens, l->request.prompt), (long long)l->policy.when.chunk, (long long)h->output,
           kv_print_bytes(bytes, kv_recorder_bytes(q, l, l->policy.when.chunk, h->output)));
    if (q->channels & (KV_BIT(KV_COLUMN_SUM) | KV_BIT(KV_LATER_SUM)))
        puts("column sums look at all keys a second time with all queries: attention takes about twice as long");
    return true;
}

static bool record(struct kv_host *h, const struct kv_args *args, struct kv_recorder_asked *q, struct kv_live *l,
                   struct kv_arena *a, struct kv_err *e)
{
    const char *path = kv_arg_text(args, "output-file", "trace.kvt.h5");
    struct kv_policy policy;
    struct kv_recorder *r;
    if (h->n_prompts != 1)
        return kv_fail(e, KV_USAGE, "a trace is of one prompt, and %d were given", h->n_prompts);
    if (!read_marks(args, h->prompt[0].n + h->output, q, a, e) ||
        !kv_policy_from_spec(&policy, kv_arg_text(args, "policy", "full"), a, e) ||
        !kv_live_open(l, h->backend, &h->weights, &policy, &h->run, h->prompt[0].id, h->prompt[0].n, h->output,
                      q->window, h->asked.page, false, a, e))
        return false;
    if (kv_arg_flag(args, "dry-run"))
        return say_size(q, l, h);
    if (!kv_recorder_open(&r, path, q, l, a, e))
        return false;
    kv_catch_signals();
    if (!record_all(h, l, r, e)) {
        kv_recorder_abandon(r);
        return false;
    }
    if (!kv_recorder_finish(r, e))
        return false;
    if (!h->quiet)
        printf("%s: %lld passes of %lld tokens\n", path, (long long)l->cache.ledger.passes, (long long)l->cache.seen);
    return true;
}

static bool run(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    struct kv_host h = {0};
    struct kv_live live = {0};
    struct kv_recorder_asked asked;
    bool good = read_asked(args, &asked, a, e) && kv_host_open(&h, args, true, a, e);
    if (good) {
        asked.model = h.folder;
        good = record(&h, args, &asked, &live, a, e);
    }
    if (live.backend)
        kv_live_close(&live);
    kv_host_close(&h);
    return good;
}

const struct kv_command kv_command_record = {
    .name = "record",
    .program = "kvengine",
    .operands = "MODEL",
    .summary = "A trace of a live run, for kvsim replay.",
    .about = "The trace grows in FILE.part and gets its name when it is whole; an interrupt leaves what was committed.",
    .least = 1,
    .most = 1,
    .option = options,
    .n_options = sizeof options / sizeof *options,
    .run = run,
};
