/* SPDX-License-Identifier: GPL-3.0-or-later */
/* `kvsim trace info`. */
#include "sim/core/units.h"
#include "sim/table.h"
#include "sim/trace_verbs.h"

#include <math.h>
#include <string.h>
#include <sys/stat.h>

static const struct kv_column columns[] = {
    {"name", "channel", KV_CELL_TEXT},
    {"head_axis", "heads", KV_CELL_TEXT},
    {"group_reduce", NULL, KV_CELL_TEXT},
    {"window", "window", KV_CELL_COUNT},
    {"encoding", "encoding", KV_CELL_TEXT},
    {"precision_in", NULL, KV_CELL_TEXT},
    {"under_policy", NULL, KV_CELL_TEXT},
    {"ragged", NULL, KV_CELL_BOOL},
    {"passes", "passes", KV_CELL_COUNT},
    {"rows", "rows\nof each", KV_CELL_COUNT},
    {"numbers", "numbers", KV_CELL_COUNT},
    {"stored_bytes", "stored", KV_CELL_BYTES},
    {"bytes_per_number", "bytes a\nnumber", KV_CELL_REAL},
};

struct info {
    const char *path;
    int64_t file_bytes;
    struct kv_trace_about about;
    int64_t *numbers, *bytes; /* (channels,) */
    struct kv_trace_kind *kind;
    int n_kinds;
};

static int64_t count_numbers(const struct kv_trace *t, const struct kv_trace_about *b, int channel)
{
    const struct kv_trace_channel *c = &b->channel[channel];
    int64_t n = 0;
    for (int64_t i = 0; i < b->n_ticks; i++) {
        if (!c->at[i])
            continue;
        if (!c->ragged)
            n += c->streams * kv_trace_row_length(t, channel, i, 0) * c->elements;
        for (int64_t s = 0; c->ragged && s < c->streams; s++)
            n += kv_trace_row_length(t, channel, i, s) * c->elements;
    }
    return n;
}

static bool look(struct info *f, const char *path, struct kv_arena *a, struct kv_err *e)
{
    struct kv_trace *t;
    struct stat st;
    *f = (struct info){.path = path};
    if (!kv_trace_open(&t, path, &f->about, a, e))
        return false;
    f->file_bytes = stat(path, &st) ? 0 : (int64_t)st.st_size;
    f->numbers = KV_NEW_N(a, int64_t, f->about.n_channels + 1);
    f->bytes = KV_NEW_N(a, int64_t, f->about.n_channels + 1);
    for (int i = 0; i < f->about.n_channels; i++)
        f->numbers[i] = count_numbers(t, &f->about, i);
    for (int i = 0; i < f->about.n_channels; i++)
        f->bytes[i] = kv_trace_stored_bytes(t, i);
    kv_trace_close(t);
    return !f->about.n_ticks || kv_trace_kinds(path, &f->kind, &f->n_kinds, a, e);
}

static void fill(struct kv_table *t, const struct info *f, struct kv_arena *a)
{
    kv_table_open(t, columns, sizeof columns / sizeof *columns, a);
    for (int i = 0; i < f->about.n_channels; i++) {
        const struct kv_trace_channel *c = &f->about.channel[i];
        struct kv_cell *row = kv_table_row(t);
        int64_t passes = 0;
        for (int64_t k = 0; k < f->about.n_ticks; k++)
            passes += c->at[k];
        kv_set_text(t, row, "name", c->name);
        kv_set_text(t, row, "head_axis", c->query_heads ? "query" : "KV");
        kv_set_text(t, row, "group_reduce",
                    kv_channels[c->what].attention && !c->query_heads ? kv_reduce_names[c->reduce] : NULL);
        kv_set_whole(t, row, "window", c->window ? c->window : -1);
        kv_set_text(t, row, "encoding", kv_encoding_names[c->encoding]);
        kv_set_text(t, row, "precision_in", c->precision);
        kv_set_text(t, row, "under_policy", c->under);
        kv_set_whole(t, row, "ragged", c->ragged);
        kv_set_whole(t, row, "passes", passes);
        kv_set_whole(t, row, "rows", c->streams);
        kv_set_whole(t, row, "numbers", f->numbers[i]);
        kv_set_whole(t, row, "stored_bytes", f->bytes[i]);
        if (f->numbers[i])
            kv_set_real(t, row, "bytes_per_number", (double)f->bytes[i] / (double)f->numbers[i]);
    }
}

/* ---- for people ---- */

/* Text of a file, for a terminal: nothing in it moves the cursor. */
static void put_clean(const char *text)
{
    for (; *text; text++)
        putchar((unsigned char)*text < ' ' || *text == 127 ? '?' : *text);
}

static void line(const char *what, const char *text)
{
    if (!text || !*text)
        return;
    printf("  %-11s", what);
    put_clean(text);
    putchar('\n');
}

static const char *passes_text(const struct kv_trace_about *b, struct kv_arena *a)
{
    static const char *const names[] = {"prefill", "patched prefill", "decode"};
    const char *text = "";
    for (int kind = 0; kind < 3; kind++) {
        int64_t n = 0, least = INT64_MAX, most = 0;
        for (int64_t i = 0; i < b->n_ticks; i++) {
            int64_t tokens = b->tick[i].end - b->tick[i].begin;
            if ((int)b->tick[i].kind != kind)
                continue;
            n++;
            least = tokens < least ? tokens : least;
            most = tokens > most ? tokens : most;
        }
        if (n)
            text = kv_format(a, "%s%s%lld %s of %s%lld tokens", text, *text ? "; " : "", (long long)n, names[kind],
                             least < most ? kv_format(a, "%lld to ", (long long)least) : "", (long long)most);
    }
    return *text ? text : "none";
}

static void print_head(const struct info *f, struct kv_arena *a)
{
    const struct kv_trace_about *b = &f->about;
    char bytes[KV_NUMBER_TEXT];
    bool closed = strcmp(b->policy, "full") != 0;
    int64_t tokens = b->n_ticks ? b->tick[b->n_ticks - 1].end : 0;
    printf("%s: %s%s\n", f->path, kv_print_bytes(bytes, f->file_bytes),
           b->complete ? "" : ", not complete: the passes below are whole, later ones never were");
    line("model", kv_format(a, "%s%s%s%s%lld layers, %lld query heads, %lld KV heads of %lld", b->model,
                            *b->revision ? " " : "", b->revision, *b->model ? ": " : "", (long long)b->layers,
                            (long long)b->q_heads, (long long)b->kv_heads, (long long)b->head_dim));
    line("computed", b->compute_dtype);
    line("KV entries", b->kv_dtype);
    line("request", kv_format(a, "prompt %lld, output %lld tokens%s", (long long)b->n_prompt, (long long)b->n_output,
                              b->prefill != b->n_prompt
                                  ? kv_format(a, "; %lld before the first decode pass", (long long)b->prefill)
                                  : ""));
    line("passes", kv_format(a, "%s; %lld tokens in all", passes_text(b, a), (long long)tokens));
    line("policy", closed ? kv_format(a, "%s (closed loop: says nothing about another one)", b->policy)
                          : "full (open loop: the whole cache was there)");
    line("dataset", kv_format(a, "%s%s%s", b->dataset, *b->dataset && *b->item ? ", " : "", b->item));
    line("producer", kv_format(a, "%s%s%s%s%s", b->producer, *b->producer_version ? " " : "", b->producer_version,
                               *b->created_utc ? ", " : "", b->created_utc));
    line("also", kv_format(a, "%s%s%s%s%s", b->has_ids ? "token ids" : "", b->has_ids && b->has_kept ? ", " : "",
                           b->has_kept ? "kept positions" : "",
                           (b->has_ids || b->has_kept) && b->has_log_probability ? ", " : "",
                           b->has_log_probability ? "log-probabilities" : ""));
    for (int i = 0; i < b->n_marks; i++)
        line(i ? "" : "marks", kv_format(a, "%s: tokens %lld to %lld", b->mark[i].name, (long long)b->mark[i].begin,
                                         (long long)b->mark[i].end - 1));
}

static void print_kinds(const struct info *f)
{
    bool none = true;
    for (int pass = 0; pass < 2; pass++) {
        printf("\n%s\n", pass ? "cannot replay" : "can replay");
        none = true;
        for (int i = 0; i < f->n_kinds; i++) {
            const struct kv_trace_kind *k = &f->kind[i];
            if ((k->why != NULL) != pass)
                continue;
            none = false;
            if (pass)
                printf("  %-14s ", k->kind);
            else
                printf("  ");
            put_clean(pass ? k->why : k->spec);
            putchar('\n');
        }
        if (none)
            printf("  nothing\n");
    }
}

static void print(const struct info *f, struct kv_arena *a)
{
    struct kv_table t;
    fill(&t, f, a);
    print_head(f, a);
    printf("\n");
    if (f->about.n_channels)
        kv_table_print(&t, stdout);
    else
        printf("no channels\n");
    print_kinds(f);
}

/* ---- for programs ---- */

static void put_text(json_t *o, const char *key, const char *text)
{
    json_object_set_new(o, key, kv_json_text(text && *text ? text : NULL));
}

static void put_whole(json_t *o, const char *key, int64_t value)
{
    json_object_set_new(o, key, value < 0 ? json_null() : json_integer(value));
}

static json_t *json_ticks(const struct kv_trace_about *b)
{
    static const char *const names[] = {"prefill", "patched", "decode"};
    json_t *all = json_array();
    for (int64_t i = 0; i < b->n_ticks; i++) {
        json_t *o = json_object();
        put_whole(o, "begin", b->tick[i].begin);
        put_whole(o, "end", b->tick[i].end);
        put_text(o, "kind", names[b->tick[i].kind]);
        put_whole(o, "patch_tokens", b->tick[i].n_patch);
        put_whole(o, "start_ns", b->tick[i].start_ns);
        put_whole(o, "end_ns", b->tick[i].end_ns);
        put_whole(o, "kv_bytes", b->tick[i].kv_bytes);
        json_array_append_new(all, o);
    }
    return all;
}

static json_t *json_kinds(const struct info *f)
{
    json_t *all = json_array();
    for (int i = 0; i < f->n_kinds; i++) {
        json_t *o = json_object();
        put_text(o, "kind", f->kind[i].kind);
        put_text(o, "spec", f->kind[i].spec);
        json_object_set_new(o, "can", json_boolean(!f->kind[i].why));
        put_text(o, "why", f->kind[i].why);
        json_array_append_new(all, o);
    }
    return all;
}

static json_t *json_marks(const struct kv_trace_about *b)
{
    json_t *all = json_array();
    for (int i = 0; i < b->n_marks; i++) {
        json_t *o = json_object();
        put_text(o, "name", b->mark[i].name);
        put_whole(o, "begin", b->mark[i].begin);
        put_whole(o, "end", b->mark[i].end);
        json_array_append_new(all, o);
    }
    return all;
}

static void print_json(const struct info *f, struct kv_arena *a)
{
    const struct kv_trace_about *b = &f->about;
    struct kv_table t;
    json_t *o = json_object();
    fill(&t, f, a);
    put_text(o, "path", f->path);
    put_whole(o, "file_bytes", f->file_bytes);
    json_object_set_new(o, "complete", json_boolean(b->complete));
    put_text(o, "producer", b->producer);
    put_text(o, "producer_version", b->producer_version);
    put_text(o, "created_utc", b->created_utc);
    put_text(o, "uuid", b->uuid);
    put_text(o, "policy", b->policy);
    put_text(o, "model", b->model);
    put_text(o, "revision", b->revision);
    put_text(o, "compute_dtype", b->compute_dtype);
    put_text(o, "kv_dtype", b->kv_dtype);
    put_whole(o, "layers", b->layers);
    put_whole(o, "q_heads", b->q_heads);
    put_whole(o, "kv_heads", b->kv_heads);
    put_whole(o, "head_dim", b->head_dim);
    put_whole(o, "prompt_tokens", b->n_prompt);
    put_whole(o, "output_tokens", b->n_output);
    put_whole(o, "prefill_tokens", b->prefill);
    put_text(o, "dataset", b->dataset);
    put_text(o, "item", b->item);
    json_object_set_new(o, "has_ids", json_boolean(b->has_ids));
    json_object_set_new(o, "has_log_probability", json_boolean(b->has_log_probability));
    json_object_set_new(o, "has_kept", json_boolean(b->has_kept));
    json_object_set_new(o, "marks", json_marks(b));
    json_object_set_new(o, "passes", json_ticks(b));
    json_object_set_new(o, "channels", kv_table_json(&t));
    json_object_set_new(o, "policies", json_kinds(f));
    kv_json_print(o, stdout);
    json_decref(o);
}

bool kv_trace_verb_info(const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    struct info f;
    if (!look(&f, args->operand[1], a, e))
        return false;
    if (kv_arg_flag(args, "json"))
        print_json(&f, a);
    else
        print(&f, a);
    return true;
}
