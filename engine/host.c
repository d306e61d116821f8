/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "engine/host.h"

#include "sim/core/units.h"
#include "sim/team.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

bool kv_host_ends(const struct kv_host *h, int32_t token)
{
    for (int i = 0; i < h->weights.config.n_eos; i++)
        if (h->weights.config.eos[i] == token)
            return true;
    return false;
}

/* ---- prompts ---- */

static bool read_all(const char *path, char **text, size_t *bytes, struct kv_arena *a, struct kv_err *e)
{
    enum { MOST = 1 << 28 };
    FILE *in = strcmp(path, "-") ? fopen(path, "rb") : stdin;
    size_t room = 1 << 16, n = 0;
    char *all = in ? malloc(room) : NULL;
    if (!in)
        return kv_fail(e, KV_DATA, "cannot open '%s': %s", path, strerror(errno));
    for (size_t got; all && n < MOST && (got = fread(all + n, 1, room - n, in)) > 0;)
        if ((n += got) == room) {
            char *more = realloc(all, room *= 2);
            if (!more)
                free(all);
            all = more;
        }
    bool bad = ferror(in);
    if (in != stdin)
        fclose(in);
    if (!all || bad || n >= MOST) {
        free(all);
        return kv_fail(e, bad ? KV_DATA : KV_ENV, bad ? "cannot read '%s'" : "'%s' is more text than fits", path);
    }
    *text = kv_alloc(a, n + 1);
    memcpy(*text, all, n);
    *bytes = n;
    free(all);
    return true;
}

static bool add_text(struct kv_host *h, const char *name, const char *text, size_t bytes, bool chat, struct kv_arena *a,
                     struct kv_err *e)
{
    struct kv_prompt *p = &h->prompt[h->n_prompts];
    if (!h->tokenizer)
        return kv_fail(e, KV_USAGE, "'%s' has no tokenizer.json; give token ids with --ids", h->folder);
    if (chat && kv_tokenizer_id(h->tokenizer, "<|start_header_id|>") < 0)
        return kv_fail(e, KV_USAGE, "'%s' has no chat form that is known (Llama 3's header tokens); leave out --chat",
                       h->folder);
    if (chat) {
        text = kv_format(a,
                         "<|start_header_id|>user<|end_header_id|>\n\n%s<|eot_id|><|start_header_id|>assistant"
                         "<|end_header_id|>\n\n",
                         text);
        bytes = strlen(text);
    }
    int32_t *id;
    *p = (struct kv_prompt){.name = name};
    if (!kv_tokenizer_encode(h->tokenizer, text, bytes, chat, true, &id, &p->n, e))
        return kv_while(e, "%s", name);
    p->id = kv_alloc_many(a, (size_t)p->n + 1, sizeof *p->id, "tokens", e);
    if (p->id)
        memcpy(p->id, id, sizeof *id * (size_t)p->n);
    free(id);
    h->n_prompts += p->id != NULL;
    return p->id != NULL;
}

/* Ids with commas, blanks or brackets between. */
static bool add_ids(struct kv_host *h, const char *name, const char *list, struct kv_arena *a, struct kv_err *e)
{
    static const char between[] = ", \t\r\n[]";
    struct kv_prompt *p = &h->prompt[h->n_prompts];
    size_t most = strlen(list) / 2 + 1; /* an id and what follows it are two bytes at least */
    *p = (struct kv_prompt){.name = name};
    p->id = kv_alloc_many(a, most, sizeof *p->id, "tokens", e);
    for (const char *c = list + strspn(list, between); p->id && *c; c += strspn(c, between)) {
        char *behind;
        long long id = strtoll(c, &behind, 10);
        if (behind == c || (*behind && !strchr(between, *behind)) || id < 0 || id >= h->weights.config.vocab)
            return kv_fail(e, KV_USAGE, "%s: '%.12s' is no token id below %lld", name, c,
                           (long long)h->weights.config.vocab);
        p->id[p->n++] = (int32_t)id;
        c = behind;
    }
    h->n_prompts += p->id != NULL;
    return p->id != NULL;
}

static bool read_prompts(struct kv_host *h, const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    bool chat = kv_arg_flag(args, "chat");
    int texts = kv_arg_times(args, "prompt"), files = kv_arg_times(args, "prompt-file"),
        lists = kv_arg_times(args, "ids");
    char *text;
    size_t bytes;
    h->prompt = KV_NEW_N(a, struct kv_prompt, texts + files + lists + 1);
    for (int i = 0; i < texts; i++)
        if (!add_text(h, kv_format(a, "--prompt %d", i + 1), kv_arg_nth(args, "prompt", i),
                      strlen(kv_arg_nth(args, "prompt", i)), chat, a, e))
            return false;
    for (int i = 0; i < files; i++)
        if (!read_all(kv_arg_nth(args, "prompt-file", i), &text, &bytes, a, e) ||
            !add_text(h, kv_arg_nth(args, "prompt-file", i), text, bytes, chat, a, e))
            return false;
    for (int i = 0; i < lists; i++) {
        const char *list = kv_arg_nth(args, "ids", i);
        if (*list == '@' && (!read_all(list + 1, &text, &bytes, a, e) || (list = text, false)))
            return false;
        if (!add_ids(h, kv_format(a, "--ids %d", i + 1), list, a, e))
            return false;
    }
    for (int i = 0; i < h->n_prompts; i++)
        if (h->prompt[i].n < 1)
            return kv_fail(e, KV_USAGE, "%s is empty; a prompt has at least one token", h->prompt[i].name);
    return true;
}

/* ---- opening ---- */

static int64_t free_bytes(void)
{
    struct sysinfo info;
    FILE *in = fopen("/proc/meminfo", "r");
    char line[128];
    long long kib = -1;
    while (in && kib < 0 && fgets(line, sizeof line, in))
        sscanf(line, "MemAvailable: %lld", &kib);
    if (in)
        fclose(in);
    if (kib >= 0)
        return kib * 1024;
    return sysinfo(&info) ? INT64_C(1) << 30 : (int64_t)info.freeram * info.mem_unit;
}

/* The backends that were built in. */
static const struct kv_backend_ops *const backends[] = {
    &kv_backend_cpu,
#ifdef KV_CUDA
    &kv_backend_cuda,
#endif
};

static bool choose_backend(struct kv_host *h, const struct kv_args *args, struct kv_err *e)
{
    const char *name = kv_arg_text(args, "backend", kv_backend_cpu.name);
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++)
        if (!strcmp(name, backends[i]->name))
            h->ops = backends[i];
    if (h->ops)
        return true;
    return strcmp(name, "cuda") ? kv_fail(e, KV_USAGE, "--backend '%s' is neither cpu nor cuda", name)
                                : kv_fail(e, KV_ENV,
                                          "--backend cuda: this kvengine was built without CUDA; install the "
                                          "CUDA Toolkit and build it again");
}

/* Entries of what type: --kv-cache-dtype, if the backend holds such. */
static bool choose_dtype(struct kv_host *h, const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    const struct kv_backend_ops *ops = h->ops;
    int asked = (int)ops->dtype[0];
    const char *has = "";
    if (!kv_arg_choice(args, "kv-cache-dtype", kv_dtype_names, &asked, a, e))
        return false;
    h->asked.dtype = (enum kv_dtype)asked;
    for (int i = 0; i < ops->n_dtypes; i++) {
        if (ops->dtype[i] == h->asked.dtype)
            return true;
        has = kv_format(a, "%s%s%s", has,
                        !i                       ? ""
                        : i + 1 == ops->n_dtypes ? " or "
                                                 : ", ",
                        kv_dtype_names[ops->dtype[i]]);
    }
    bool narrow = h->asked.dtype == KV_BF16 || h->asked.dtype == KV_FP16 || h->asked.dtype == KV_FP8;
    return kv_fail(e, KV_USAGE, "--kv-cache-dtype %s: the %s backend holds entries in %s%s", kv_dtype_names[asked],
                   ops->name, has, narrow ? "; take --backend cuda" : "");
}

static bool read_options(struct kv_host *h, const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    int64_t threads = kv_team_cores(), pool = free_bytes() / 2;
    const char *bytes = kv_arg_text(args, "pool", NULL);
    if (!choose_backend(h, args, e) || !choose_dtype(h, args, a, e))
        return false;
    if (h->ops != &kv_backend_cpu)
        pool = 0; /* half of what is free there */
    h->run = (struct kv_defaults){.chunk = 512, .dtype = h->asked.dtype};
    h->output = 32;
    h->quiet = kv_arg_flag(args, "quiet");
    h->asked.page = 64;
    kv_arg_count(args, "output", 0, 1 << 30, &h->output, a, e);
    kv_arg_count(args, "chunk", 1, 1 << 30, &h->run.chunk, a, e);
    kv_arg_count(args, "block-size", 1, 65536, &h->asked.page, a, e);
    kv_arg_count(args, "threads", 1, 256, &threads, a, e);
    if (bytes) {
        const char *wrong = kv_read_bytes(a, bytes, &pool);
        if (wrong || pool < 1)
            kv_fail(e, KV_USAGE, "--pool: %s", wrong ? wrong : "it must be more than nothing");
    }
    h->asked.no_graph = kv_arg_flag(args, "no-graph");
    if (h->asked.no_graph && h->ops == &kv_backend_cpu)
        kv_fail(e, KV_USAGE, "--no-graph is of --backend cuda; leave it out");
    h->asked.threads = (int)threads;
    h->asked.pool_bytes = pool;
    return !e->n;
}

/* Weights are mapped, so they need not fit; what is computed with must. */
static bool check_memory(const struct kv_host *h, struct kv_err *e)
{
    const struct kv_config *c = &h->weights.config;
    int64_t longest = 0, token = 2 * c->layers * c->kv_heads * c->head_dim * (int64_t)sizeof(float),
            room = free_bytes();
    char needs[KV_NUMBER_TEXT], has[KV_NUMBER_TEXT];
    if (h->ops != &kv_backend_cpu)
        return true; /* it knows its own memory */
    for (int i = 0; i < h->n_prompts; i++)
        longest = h->prompt[i].n > longest ? h->prompt[i].n : longest;
    int64_t wide = 4 * c->hidden + (c->q_heads + c->kv_heads) * 2 * c->head_dim + 2 * c->intermediate;
    int64_t rows = longest < h->run.chunk ? longest : h->run.chunk,
            least = h->weights.bytes + rows * wide * 4 + c->vocab * 8;
    if (least <= room)
        return true;
    return kv_fail(e, KV_ENV,
                   "'%s' needs %s for weights and a pass of %lld tokens, and %s are free; a smaller chunk, a narrower "
                   "checkpoint or a smaller model would fit (a token of KV takes %lld bytes)",
                   h->folder, kv_print_bytes(needs, least), (long long)rows, kv_print_bytes(has, room),
                   (long long)token);
}

static bool open_weights(struct kv_host *h, const struct kv_args *args, struct kv_arena *a, struct kv_err *e)
{
    int64_t seed = 0;
    bool drawn = kv_arg_text(args, "random-weights", NULL) != NULL;
    if (!drawn)
        return kv_weights_open(&h->weights, h->folder, NULL, a, e);
    return kv_arg_count(args, "random-weights", 0, INT64_MAX, &seed, a, e) &&
           kv_weights_blank(&h->weights, h->folder, (uint64_t)seed, a, e);
}

bool kv_host_open(struct kv_host *h, const struct kv_args *args, bool needs_prompt, struct kv_arena *a,
                  struct kv_err *e)
{
    *h = (struct kv_host){.folder = args->operand[0]};
    if (!read_options(h, args, a, e) || !open_weights(h, args, a, e))
        return false;
    char *file = kv_format(a, "%s/tokenizer.json", h->folder);
    FILE *there = fopen(file, "rb");
    if (there)
        fclose(there);
    if ((there && !kv_tokenizer_open(&h->tokenizer, file, e)) || !read_prompts(h, args, a, e))
        return false;
    if (needs_prompt && !h->n_prompts)
        return kv_fail(e, KV_USAGE, "no prompt; give --prompt TEXT, --prompt-file FILE or --ids LIST");
    return check_memory(h, e) && kv_sampler_open(&h->sampler, h->weights.config.vocab, a, e) &&
           h->ops->open(&h->backend, &h->weights, &h->asked, e);
}

void kv_host_close(struct kv_host *h)
{
    if (h->backend)
        h->backend->ops->close(h->backend);
    if (h->tokenizer)
        kv_tokenizer_close(h->tokenizer);
    if (h->weights.layer)
        kv_weights_close(&h->weights);
    *h = (struct kv_host){0};
}
