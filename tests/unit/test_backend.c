/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A backend against the double precision model: logits, keys, values and every channel, for shapes, chunks,
 * pages, threads and batches; with entries taken out of lanes at random, patches, and keys rotated by their place. */
#include "tests/unit/engine_model.h"
#ifdef KV_TESTED_CUDA
#include "tests/gpu/need_device.h"
#endif

enum { PROMPT = 70, STEPS = 3, TOKENS = PROMPT + STEPS, ROOM = TOKENS + 8, PARTS = 8 };

/* Architecture, layers, hidden, query heads, KV heads, head size. */
static const struct kv_config shapes[] = {
    {"r", LLAMA, 2, 32, 4, 4, 8, .tied = true},
    {"r", LLAMA, 2, 48, 4, 2, 64, .qkv_bias = true, .o_bias = true, .mlp_bias = true},
    {"r", LLAMA, 2, 64, 8, 2, 16, .rope = KV_ROPE_LLAMA3, .rope_factor = 8, .rope_low = 1, .rope_high = 4,
     .rope_original = 16},
    {"r", LLAMA, 2, 40, 8, 1, 128, .tied = true},
    {"r", "Qwen2ForCausalLM", 3, 33, 2, 1, 16, .qkv_bias = true, .rope = KV_ROPE_LINEAR, .rope_factor = 4},
    {"r", "Qwen3ForCausalLM", 2, 32, 4, 1, 8, .qk_norm = true, .tied = true},
    {"r", LLAMA, 1, 130, 6, 3, 10, .intermediate = 131, .vocab = 1100}, /* more outputs than a block; odd rows */
};
enum { SHAPES = sizeof shapes / sizeof *shapes, GROUPS = 3 };
static const enum kv_tensor_type types[] = {KV_TENSOR_F32, KV_TENSOR_BF16, KV_TENSOR_F16};
static const char *const type_names[] = {"f32", "bf16", "f16"};

/* A forward pass whose layers are looked at. */
struct drive {
    struct fixture *f;
    const char *what;
    struct kv_part *part;
    struct truth *const *t;
    int n;
    bool channels;
    int64_t window, unit;
    double leave;  /* share of the entries that leave, by chance; those of the last `window` tokens stay */
    bool together; /* the same ones in all lanes */
    uint64_t seed;
};

static void check_channels(struct drive *d, int part, int64_t layer)
{
    static const enum kv_channel list[] = {KV_WINDOW_LOCAL, KV_WINDOW_SEEN, KV_COLUMN_SUM, KV_LAST_ROW,
                                           KV_KEY_NORM,     KV_VALUE_NORM,  KV_KEY_COSINE};
    struct fixture *f = d->f;
    const struct truth *t = d->t[part];
    const struct kv_backend_ops *ops = f->b->ops;
    int64_t stride = ROOM + 3, lane = stride * t->group + 5, rows = t->heads * lane;
    float *apart = malloc(sizeof *apart * (size_t)rows), *sum = malloc(sizeof *sum * (size_t)rows);
    double *one = calloc((size_t)ROOM, sizeof *one), *all = calloc((size_t)ROOM, sizeof *all);
    for (size_t k = 0; k < sizeof list / sizeof *list; k++) {
        enum kv_channel what = list[k];
        const char *name = kv_channels[what].name;
        double queries = (double)(what == KV_COLUMN_SUM ? t->n_new : d->window);
        MUST(ops->channel(f->b, part, layer, what, d->window, d->unit, true, apart, lane, stride, &f->e));
        MUST(ops->channel(f->b, part, layer, what, d->window, d->unit, false, sum, lane, stride, &f->e));
        for (int64_t h = 0; h < t->heads; h++) {
            int64_t n = 0;
            memset(all, 0, sizeof *all * ROOM);
            for (int64_t q = 0; q < (kv_channels[what].attention ? t->group : 1); q++) {
                n = truth_channel(t, layer, h * t->group + q, what, d->window, d->unit, one);
                check_scores(d->f, d->what, name, layer, h * t->group + q, apart + h * lane + q * stride, one, n,
                             queries);
                for (int64_t i = 0; i < n; i++)
                    all[i] += one[i];
            }
            check_scores(d->f, d->what, name, layer, h, sum + h * lane, all, n, queries * (double)t->group);
        }
    }
    free(apart);
    free(sum);
    free(one);
    free(all);
}

/* LagKV's score is a rank: of the keys and values that are there, exactly. */
static void check_lag(struct drive *d, int part, int64_t layer)
{
    struct fixture *f = d->f;
    const struct truth *t = d->t[part];
    int64_t n = truth_entries(t, layer, 0) - t->n_patch;
    float *key = malloc(sizeof *key * (size_t)(2 * n * t->d)), *made = malloc(sizeof *made * (size_t)n),
          *got = malloc(sizeof *got * (size_t)(t->heads * ROOM));
    double *work = malloc(sizeof *work * (size_t)(256 + 4 * t->d));
    f->b->ops->entries(f->b, part, layer, 0, 0, n, key, key + n * t->d);
    kv_make_lag(key, key + n * t->d, n, t->d, 4, 128, work, made);
    MUST(f->b->ops->channel(f->b, part, layer, KV_LAG, 1, 1, false, got, ROOM, ROOM, &f->e));
    assert_memory_equal(got, made, sizeof *made * (size_t)n);
    free(key);
    free(made);
    free(got);
    free(work);
}

/* Who reads a lane within the same hook finds those that stayed, moved together, to the bit. */
static void compact_and_read(struct drive *d, int part, int64_t layer, int64_t head, const uint64_t *stay, int64_t n,
                             int64_t left)
{
    const struct kv_backend_ops *ops = d->f->b->ops;
    int64_t width = d->t[part]->d, kept = 0;
    size_t row = sizeof(float) * (size_t)width;
    float *was = malloc(4 * row * (size_t)n), *now = was + 2 * n * width;
    ops->entries(d->f->b, part, layer, head, 0, n, was, was + n * width);
    ops->compact(d->f->b, part, layer, head, left ? stay : NULL);
    ops->entries(d->f->b, part, layer, head, 0, n - left, now, now + n * width);
    for (int64_t i = 0; i < n; i++) {
        if (!(stay[i / 64] >> i % 64 & 1))
            continue;
        assert_memory_equal(now + kept * width, was + i * width, row);
        assert_memory_equal(now + (n + kept) * width, was + (n + i) * width, row);
        kept++;
    }
    free(was);
}

static void evict(struct drive *d, int part, int64_t layer, int64_t head)
{
    struct truth *t = d->t[part];
    uint8_t *held = truth_held(t, layer, head);
    int64_t n = truth_entries(t, layer, head) - t->n_patch, left = 0;
    uint64_t stay[ROOM / 64 + 1] = {0};
    for (int64_t i = 0; i < n; i++) {
        uint64_t lane = d->together ? 0 : (uint64_t)(layer * t->heads + head);
        bool leaves = t->at[i] < t->end - d->window &&
                      kv_uniform(kv_random(d->seed, (uint64_t)t->end, lane, (uint64_t)t->at[i])) < d->leave;
        stay[i / 64] |= (uint64_t)!leaves << (i % 64);
        held[t->at[i]] = !leaves;
        left += leaves;
    }
    bool read = d->channels && head % 2 && !d->part[part].seq->slot_positions;
    if (read && (left || t->n_patch))
        compact_and_read(d, part, layer, head, stay, n, left);
    else if (left || t->n_patch)
        d->f->b->ops->compact(d->f->b, part, layer, head, left ? stay : NULL);
    assert_int_equal(d->part[part].seq->lane[layer * t->heads + head].length, n - left);
}

static bool look(void *drive_, int64_t layer, struct kv_err *e)
{
    struct drive *d = drive_;
    (void)e;
    for (int p = 0; p < d->n; p++) {
        if (d->channels) {
            check_channels(d, p, layer);
            check_lag(d, p, layer);
        }
        for (int64_t h = 0; h < d->t[p]->heads; h++) {
            if (d->channels)
                check_entries(d->f, d->what, p, d->t[p], layer, h);
            evict(d, p, layer, h);
        }
    }
    return true;
}

static struct kv_seq open_sequence(struct fixture *f, int64_t heads, int64_t window, bool slots)
{
    struct kv_seq s = {.store_heads = heads, .window = window, .slot_positions = slots};
    MUST(f->b->ops->seq_open(f->b, &s, &f->e));
    return s;
}

static void check_pages(struct fixture *f, const struct kv_seq *s, int n, int64_t page)
{
    int64_t pages = 0;
    for (int i = 0; i < n; i++)
        for (int64_t l = 0; l < f->w.config.layers * s[i].store_heads; l++) {
            assert_int_equal(s[i].lane[l].n_pages, (s[i].lane[l].length + page - 1) / page);
            pages += s[i].lane[l].n_pages;
        }
    assert_int_equal(f->b->ops->use(f->b).pages_live, pages);
}

/* One sequence, chunk by chunk, then tokens alone; all logits. Returns how far they were off at most. */
static double run_one(struct drive *d, struct truth *t, const int32_t *token, int64_t chunk, int64_t patch,
                      int64_t page)
{
    struct fixture *f = d->f;
    struct kv_seq s = open_sequence(f, t->heads, d->window, false);
    float *logits = malloc(sizeof *logits * (size_t)(TOKENS * t->vocab));
    double worst = 0;
    for (int64_t at = 0, n; at < TOKENS; at += n) {
        n = at >= PROMPT ? 1 : chunk < PROMPT - at ? chunk : PROMPT - at;
        int64_t n_patch = at + n < PROMPT ? patch : 0;
        int32_t all[TOKENS + 8];
        memcpy(all, token + at, sizeof *all * (size_t)n);
        memcpy(all + n, token + PROMPT - n_patch, sizeof *all * (size_t)n_patch);
        struct kv_part part = {
            .seq = &s, .token = all, .n_new = n, .n_patch = n_patch, .n_logits = n, .logits = logits};
        d->part = &part;
        d->t = &t;
        d->n = 1;
        d->unit = n;
        truth_pass(t, all, n, n_patch);
        MUST(f->b->ops->forward(f->b, &part, 1, look, d, &f->e));
        check_logits(f, d->what, logits, t->logits, n * t->vocab, &worst);
        assert_int_equal(s.seen, at + n);
        check_pages(f, &s, 1, page);
    }
    free(logits);
    f->b->ops->seq_close(f->b, &s);
    assert_int_equal(f->b->ops->use(f->b).pages_live, 0);
    return worst;
}

/* Entries of another type than the backend's first, of which less is tested. */
static bool is_other(const struct fixture *f)
{
    return f->dtype != TESTED.dtype[0];
}

static void logits_and_channels_are_the_references(void **state)
{
    struct fixture *f = *state;
    static const int64_t chunks[] = {1, 7, 64, PROMPT};
    double worst = 0;
    for (int i = FIRST_SHAPE; i < SHAPES; i += NEXT_SHAPE)
        for (int k = 0; k < TYPES; k++) {
            open_model(f, &shapes[i], types[k], (uint64_t)(10 + i));
            int32_t *token = draw_tokens(f, TOKENS, (uint64_t)i);
            for (int c = FIRST_CHUNK; c < 4 && (c < 2 || !is_other(f)); c++) {
                int64_t page = (c + i) % 2 ? 4 : 64;
                int threads = 1 + (c / 2 + i + k) % 2;
                open_backend(f, page, 1 << 24, threads);
                struct truth *t = open_truth(f, f->w.config.kv_heads, ROOM);
                struct drive d = {.f = f, .channels = k == i % TYPES, .window = 5 + 4 * c};
                d.what = kv_format(f->a, "shape %d, %s, chunk %d, page %d, %d threads", i, type_names[k],
                                   (int)chunks[c], (int)page, threads);
                worst = fmax(worst, run_one(&d, t, token, chunks[c], 0, page));
                close_truth(t);
            }
        }
    print_message("# logits: %.1e at most\n", worst);
}

/* Each lane loses other entries, and what the next passes attend to is what is left; a patch is never left. */
static void evicted_entries_are_not_seen(void **state)
{
    struct fixture *f = *state;
    double worst = 0;
    for (int i = FIRST_SHAPE; i < SHAPES; i += NEXT_SHAPE)
        for (int k = 0; k < 4 && (k < 1 || !is_other(f)); k++) {
            open_model(f, &shapes[i], types[k % 3], (uint64_t)(20 + i));
            int32_t *token = draw_tokens(f, TOKENS, (uint64_t)i);
            open_backend(f, k < 2 ? 4 : 3, 1 << 24, 1 + k % 2);
            struct truth *t = open_truth(f, k == 3 ? f->w.config.q_heads : f->w.config.kv_heads, ROOM);
            struct drive d = {.f = f, .channels = true, .window = k == 1 ? 0 : 9, .leave = 0.2 + 0.2 * k, .seed = 5};
            d.what = kv_format(f->a, "shape %d, %s, %d %% leave%s", i, type_names[k % 3], 20 + 20 * k,
                               k == 3 ? ", lanes of query heads" : "");
            if (k == 1) { /* nothing is safe; windows cannot be asked for then */
                d.channels = false;
                d.leave = 0.9;
            }
            worst = fmax(worst, run_one(&d, t, token, 13 - 3 * k, k % 2 ? 5 : 0, k < 2 ? 4 : 3));
            close_truth(t);
        }
    print_message("# logits: %.1e at most\n", worst);
}

/* With a patch, and then again without: what comes next is the same. */
static void a_patch_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    int same = 0, all = 0;
    for (int i = FIRST_SHAPE; i < SHAPES; i += NEXT_SHAPE) {
        open_model(f, &shapes[i], types[i % 3], 3);
        int32_t *token = draw_tokens(f, TOKENS, 9);
        int64_t vocab = f->w.config.vocab;
        float *logits = malloc(sizeof *logits * (size_t)(2 * vocab));
        struct truth *t = open_truth(f, f->w.config.kv_heads, ROOM);
        struct drive d = {.f = f, .what = "patch", .t = &t, .n = 1, .channels = false};
        double worst = 0;
        open_backend(f, 4, 1 << 24, 2);
        for (int patched = 0; patched < 2; patched++) {
            struct kv_seq s = open_sequence(f, f->w.config.kv_heads, 0, false);
            struct kv_part part = {.seq = &s, .token = token, .n_new = 30, .n_patch = patched ? 7 : 0};
            d.part = &part;
            t->end = 0;
            kv_reference_reset(t->r);
            truth_pass(t, token, 30, patched ? 7 : 0);
            MUST(f->b->ops->forward(f->b, &part, 1, look, &d, &f->e));
            part = (struct kv_part){.seq = &s, .token = token + 40, .n_new = 20, .n_logits = 1};
            part.logits = logits + patched * vocab;
            truth_pass(t, token + 40, 20, 0);
            MUST(f->b->ops->forward(f->b, &part, 1, look, &d, &f->e));
            check_logits(f, "after the patch", part.logits, t->logits + 19 * vocab, vocab, &worst);
            f->b->ops->seq_close(f->b, &s);
        }
        all++;
        same += !memcmp(logits, logits + vocab, sizeof *logits * (size_t)vocab);
        free(logits);
        close_truth(t);
    }
    print_message("# %d of %d shapes: the same bits\n", same, all);
}

/* ---- several sequences ---- */

/* Sequences of `n` different lengths, every other one in steps of a chunk, the others token by token; logits of the
 * last token of each pass. */
static void run_batch(struct fixture *f, int n, int first, int64_t chunk, int32_t *const *token, struct truth **t,
                      float **logits)
{
    struct kv_seq s[PARTS];
    int64_t at[PARTS] = {0}, passes[PARTS] = {0}, vocab = f->w.config.vocab;
    double worst = 0;
    for (int i = 0; i < n; i++)
        s[i] = open_sequence(f, f->w.config.kv_heads, 0, false);
    for (bool going = true; going;) {
        struct kv_part part[PARTS];
        struct truth *of[PARTS];
        int p = 0, who[PARTS];
        struct drive d = {.f = f, .what = "batch", .part = part, .t = of, .leave = 0.3, .seed = 1};
        going = false;
        for (int i = 0; i < n; i++) {
            int64_t length = PROMPT - 8 * (first + i), left = length - at[i];
            if (left <= 0)
                continue;
            going = true;
            int64_t most = (first + i) % 2 ? chunk : 1, many = most < left ? most : left;
            part[p] = (struct kv_part){.seq = &s[i], .token = token[first + i] + at[i], .n_new = many, .n_logits = 1};
            part[p].logits = logits[first + i] + passes[i]++ * vocab;
            of[p] = t[first + i];
            truth_pass(of[p], part[p].token, many, 0);
            who[p++] = i;
            at[i] += many;
        }
        d.n = p;
        if (p)
            MUST(f->b->ops->forward(f->b, part, p, look, &d, &f->e));
        for (int j = 0; j < p; j++)
            check_logits(f, kv_format(f->a, "sequence %d of %d", who[j], n), part[j].logits,
                         of[j]->logits + (part[j].n_new - 1) * vocab, vocab, &worst);
        check_pages(f, s, n, 4);
    }
    for (int i = 0; i < n; i++)
        f->b->ops->seq_close(f->b, &s[i]);
}

/* A device splits its work by what there is of it: other sums in another order. */
static bool differ(const struct fixture *f, const float *a, const float *b, int64_t n)
{
#ifdef KV_TESTED_CUDA
    float most = 1, apart = 0;
    for (int64_t i = 0; i < n; i++) {
        most = fmaxf(most, fabsf(a[i]));
        apart = fmaxf(apart, fabsf(a[i] - b[i]));
    }
    return !(apart <= (float)LOGIT_GATE * most);
#else
    (void)f;
    return memcmp(a, b, sizeof *a * (size_t)n) != 0;
#endif
}

/* Bit for bit, whoever else is in the batch and however many threads there are. */
static void batches_are_their_sequences(void **state)
{
    struct fixture *f = *state;
    static const int sizes[] = {1, 3, 8};
    for (int i = FIRST_SHAPE; i < SHAPES; i += NEXT_SHAPE * NEXT_SHAPE * NEXT_SHAPE) {
        open_model(f, &shapes[i], types[i % 3], 8);
        int64_t vocab = f->w.config.vocab, room = TOKENS * vocab;
        int32_t *token[PARTS];
        for (int k = 0; k < PARTS; k++)
            token[k] = draw_tokens(f, TOKENS, (uint64_t)k);
        for (int64_t chunk = FIRST_CHUNK ? 16 : 1; chunk <= 16; chunk += 15) { /* each in the same passes */
            float *alone[PARTS], *together[PARTS];
            for (int size = 0; size < 3; size++) {
                struct truth *t[PARTS];
                for (int k = 0; k < PARTS; k++) {
                    t[k] = open_truth(f, f->w.config.kv_heads, ROOM);
                    together[k] = calloc((size_t)room, sizeof(float));
                }
                open_backend(f, 4, 1 << 24, 1 + (i + size) % 2);
                for (int k = 0; k < PARTS; k += sizes[size])
                    run_batch(f, sizes[size] < PARTS - k ? sizes[size] : PARTS - k, k, chunk, token, t, together);
                for (int k = 0; k < PARTS; k++) {
                    if (size == 0)
                        alone[k] = together[k];
                    if (size && differ(f, alone[k], together[k], room))
                        fail_msg("shape %d, chunk %d: sequence %d of %d has other bits than alone", i, (int)chunk, k,
                                 sizes[size]);
                    if (size)
                        free(together[k]);
                    close_truth(t[k]);
                }
            }
            for (int k = 0; k < PARTS; k++)
                free(alone[k]);
        }
    }
}

/* ---- steps of decodes ---- */

#if defined KV_TESTED_CUDA && !defined KV_ON_DEVICE
extern long kv_emulated_repeats;
#else
static long kv_emulated_repeats;
#endif
enum { ALIKE = 4, GOING = 3, ROUNDS = 4 * ALIKE };

/* Every third entry goes. */
static bool thin_out(void *fixture, int64_t layer, struct kv_err *e)
{
    struct fixture *f = fixture;
    uint64_t stay[2] = {UINT64_C(0xdb6db6db6db6db6d), UINT64_C(0xb6db6db6db6db6db)};
    (void)e;
    for (int64_t h = 0; h < f->w.config.kv_heads; h++)
        f->b->ops->compact(f->b, 0, layer, h, stay);
    return true;
}

/* Of three sequences, one token each: all of them, then without the first, then the first, which is thinned out before,
 * then all again. Logits of every step; returns how many steps were repeated. */
static long run_steps(struct fixture *f, bool no_graph, int32_t *token, float *logits)
{
    static const int64_t prompts[GOING] = {3, 30, 45};
    struct kv_backend_asked asked = {
        .dtype = TESTED.dtype[0], .page = 4, .pool_bytes = 1 << 24, .threads = 2, .no_graph = no_graph};
    struct kv_seq s[GOING];
    int64_t heads = f->w.config.kv_heads, vocab = f->w.config.vocab;
    long before = kv_emulated_repeats;
    close_backend(f);
    MUST(TESTED.open(&f->b, &f->w, &asked, &f->e));
    for (int i = 0; i < GOING; i++) {
        s[i] = open_sequence(f, heads, i == 1 ? 5 : 0, i == 2);
        struct kv_part part = {.seq = &s[i], .token = token, .n_new = prompts[i]};
        MUST(f->b->ops->forward(f->b, &part, 1, NULL, NULL, &f->e));
    }
    for (int round = 0; round < ROUNDS; round++) {
        struct kv_part part[GOING];
        int when = round / ALIKE, n = 0;
        bool thinned = when == 2 && round % ALIKE == 0;
        for (int i = when == 1; i < (when == 2 ? 1 : GOING); i++, logits += vocab)
            part[n++] =
                (struct kv_part){.seq = &s[i], .token = token + s[i].seen, .n_new = 1, .n_logits = 1, .logits = logits};
        MUST(f->b->ops->forward(f->b, part, n, thinned ? thin_out : NULL, f, &f->e));
    }
    check_pages(f, s, GOING, 4);
    for (int i = 0; i < GOING; i++)
        f->b->ops->seq_close(f->b, &s[i]);
    return kv_emulated_repeats - before;
}

/* The same bits, while lanes grow over the edges of pages and sequences come, go and lose entries. */
static void repeated_steps_are_those_asked_for(void **state)
{
    struct fixture *f = *state;
    for (int i = FIRST_SHAPE; i < SHAPES; i += NEXT_SHAPE) {
        open_model(f, &shapes[i], types[i % 3], 3);
        int64_t all = ROUNDS * GOING * f->w.config.vocab;
        float *repeated = calloc((size_t)all, sizeof *repeated), *asked_for = calloc((size_t)all, sizeof *asked_for);
        int32_t *token = draw_tokens(f, TOKENS, 5);
        assert_int_equal(run_steps(f, true, token, asked_for), 0);
        long repeats = run_steps(f, false, token, repeated);
#if defined KV_TESTED_CUDA && !defined KV_ON_DEVICE
        assert_int_equal(repeats, ROUNDS - 4 - 1); /* not the first of each kind, nor the one that was looked at */
#else
        assert_int_equal(repeats, 0);
#endif
        assert_memory_equal(repeated, asked_for, sizeof *repeated * (size_t)all);
        free(repeated);
        free(asked_for);
    }
}

/* ---- keys rotated by place ---- */

/* In a model of one layer a key depends on its token and its place alone: so what is left, read afresh, is the same. */
static void places_are_positions_among_survivors(void **state)
{
    struct fixture *f = *state;
    static const struct kv_config shape = {"r", LLAMA, 1, 40, 4, 2, 16, .tied = true};
    open_model(f, &shape, KV_TENSOR_F32, 6);
    int64_t vocab = f->w.config.vocab;
    int32_t *token = draw_tokens(f, TOKENS, 2), left[TOKENS];
    float *logits = malloc(sizeof *logits * (size_t)(TOKENS * vocab));
    for (int64_t chunk = 1; chunk < 30; chunk += 9) {
        struct truth *t = open_truth(f, 2, ROOM);
        double worst = 0;
        int64_t n_left = 0;
        open_backend(f, 4, 1 << 24, 2);
        struct kv_seq s = open_sequence(f, 2, 6, true);
        for (int64_t at = 0, n; at < TOKENS; at += n) {
            n = chunk < TOKENS - at ? chunk : TOKENS - at;
            memcpy(left + n_left, token + at, sizeof *left * (size_t)n);
            memset(t->held, 1, (size_t)(2 * ROOM));
            kv_reference_reset(t->r); /* what is left, then this pass: read as if nothing else had been */
            t->end = 0;
            if (n_left)
                truth_pass(t, left, n_left, 0);
            truth_pass(t, left + n_left, n, 0);
            struct kv_part part = {.seq = &s, .token = token + at, .n_new = n, .n_logits = n, .logits = logits};
            struct drive d = {.f = f, .what = "places", .part = &part, .t = &t, .n = 1, .channels = true};
            d.window = n < 6 ? n : 6; /* queries of earlier passes had other places */
            d.unit = n;
            d.leave = 0.4;
            d.together = true;
            d.seed = (uint64_t)at;
            MUST(f->b->ops->forward(f->b, &part, 1, look, &d, &f->e));
            check_logits(f, "places", logits, t->logits, n * vocab, &worst);
            n_left = truth_entries(t, 0, 0);
            for (int64_t i = 0; i < n_left; i++)
                left[i] = left[t->at[i]];
        }
        f->b->ops->seq_close(f->b, &s);
        close_truth(t);
    }
    free(logits);
}

/* ---- refusals and odd memory ---- */

/* The pool ends in the middle of a pass: what was in it is lost, and nothing else. */
static void a_full_pool_is_said(void **state)
{
    struct fixture *f = *state;
    open_model(f, &shapes[0], KV_TENSOR_F32, 1);
    int64_t vocab = f->w.config.vocab, page_bytes = 2 * 4 * 8 * kv_dtype_bits(f->dtype) / 8;
    float *alone = malloc(sizeof *alone * (size_t)vocab), *beside = malloc(sizeof *beside * (size_t)vocab);
    int32_t *token = draw_tokens(f, TOKENS, 1);
    for (int crowded = 0; crowded < 2; crowded++) {
        open_backend(f, 4, 51 * page_bytes, 1); /* 8 lanes of 4 entries a page */
        assert_int_equal(f->b->ops->use(f->b).page_bytes, page_bytes);
        struct kv_seq other = open_sequence(f, 4, 0, false), s = open_sequence(f, 4, 0, false);
        struct kv_part rest = {.seq = &other, .token = token + 20, .n_new = 3};
        struct kv_part part = {.seq = &s, .token = token, .n_new = 20};
        MUST(f->b->ops->forward(f->b, &rest, 1, NULL, NULL, &f->e));
        assert_int_equal(f->b->ops->use(f->b).pages_live, 8);
        if (crowded) {
            MUST(f->b->ops->forward(f->b, &part, 1, NULL, NULL, &f->e));
            assert_int_equal(f->b->ops->use(f->b).pages_live, 48);
            part.n_new = 1; /* one layer has 3 of the 4 pages it wants */
            assert_false(f->b->ops->forward(f->b, &part, 1, NULL, NULL, &f->e));
            assert_int_equal(f->e.status, KV_ENV);
            assert_non_null(strstr(f->e.text, kv_format(f->a, "the KV pool is full: 51 pages of %d bytes; raise --pool",
                                                        (int)page_bytes)));
            assert_int_equal(s.seen, 20);
            assert_true(s.lost && !other.lost);
            assert_int_equal(f->b->ops->use(f->b).pages_live, 51);
            f->e = (struct kv_err){0};
        }
        f->b->ops->seq_close(f->b, &s);
        assert_int_equal(f->b->ops->use(f->b).pages_live, 8);
        rest = (struct kv_part){.seq = &other, .token = token + 23, .n_new = 20, .n_logits = 1};
        rest.logits = crowded ? beside : alone;
        MUST(f->b->ops->forward(f->b, &rest, 1, NULL, NULL, &f->e));
        f->b->ops->seq_close(f->b, &other);
        assert_int_equal(f->b->ops->use(f->b).pages_live, 0);
    }
    assert_memory_equal(beside, alone, sizeof *alone * (size_t)vocab);
    free(alone);
    free(beside);
}

static bool ask_external(void *fixture, int64_t layer, struct kv_err *e)
{
    struct fixture *f = fixture;
    float row[ROOM * 8];
    return f->b->ops->channel(f->b, 0, layer, KV_EXTERNAL, 1, 1, false, row, ROOM, ROOM, e);
}

static void what_cannot_be_made_is_refused(void **state)
{
    struct fixture *f = *state;
    open_model(f, &shapes[0], KV_TENSOR_F32, 1);
    open_backend(f, 4, 1 << 20, 1);
    int32_t *token = draw_tokens(f, TOKENS, 1);
    struct kv_seq s = open_sequence(f, 4, 0, false);
    struct kv_part part = {.seq = &s, .token = token, .n_new = 3};
    assert_false(f->b->ops->forward(f->b, &part, 1, ask_external, f, &f->e));
    assert_int_equal(f->e.status, KV_USAGE);
    assert_string_equal(f->e.text, "channel 'external' cannot be made in a live run");
    assert_true(s.lost);
    f->b->ops->seq_close(f->b, &s);
}

/* Attention over a sliding window is not computed; what would need it is refused, and what would not is right. */
static void sliding_windows_end_at_their_size(void **state)
{
    struct fixture *f = *state;
    static const struct kv_config shape = {"r", "MistralForCausalLM", 2, 32, 4, 2, 8, .sliding_window = 24};
    open_model(f, &shape, KV_TENSOR_F32, 1);
    open_backend(f, 4, 1 << 20, 1);
    int32_t *token = draw_tokens(f, TOKENS, 1);
    struct truth *t = open_truth(f, 2, ROOM);
    struct kv_seq s = open_sequence(f, 2, 0, false);
    float logits[64];
    double worst = 0;
    struct kv_part part = {.seq = &s, .token = token, .n_new = 24, .n_logits = 1, .logits = logits};
    truth_pass(t, token, 24, 0);
    MUST(f->b->ops->forward(f->b, &part, 1, NULL, NULL, &f->e));
    check_logits(f, "in the window", logits, t->logits + 23 * t->vocab, t->vocab, &worst);
    part.n_new = 1;
    assert_false(f->b->ops->forward(f->b, &part, 1, NULL, NULL, &f->e));
    assert_int_equal(f->e.status, KV_USAGE);
    assert_non_null(strstr(f->e.text, "sliding window of 24 tokens"));
    assert_true(!s.lost && s.seen == 24); /* refused before it began */
    f->b->ops->seq_close(f->b, &s);
    close_truth(t);
}

/* Tensors may lie anywhere in their file. */
static void displace(struct fixture *f, struct kv_tensor *t)
{
    static const size_t element[] = {4, 2, 2};
    size_t bytes = (size_t)(t->rows * t->columns) * element[t->type];
    char *copy = kv_alloc(f->a, bytes + 8);
    copy += (uintptr_t)copy % 2 ? 0 : 1;
    memcpy(copy, t->data, bytes);
    t->data = copy;
}

static void tensors_need_no_alignment(void **state)
{
    struct fixture *f = *state;
    for (int k = 0; k < TYPES; k++) {
        open_model(f, &shapes[k], types[k], 4);
        struct kv_weights kept = f->w;
        displace(f, &f->w.embedding);
        displace(f, &f->w.norm);
        displace(f, &f->w.head);
        for (int64_t l = 0; l < f->w.config.layers; l++) {
            struct kv_layer_weights *w = &f->w.layer[l];
            struct kv_tensor *of[] = {&w->attention_norm, &w->q,    &w->k,  &w->v,   &w->o,
                                      &w->mlp_norm,       &w->gate, &w->up, &w->down};
            for (size_t i = 0; i < sizeof of / sizeof *of; i++)
                displace(f, of[i]);
        }
        open_backend(f, 4, 1 << 24, 2);
        struct truth *t = open_truth(f, f->w.config.kv_heads, ROOM);
        struct drive d = {.f = f, .what = "unaligned"};
        run_one(&d, t, draw_tokens(f, TOKENS, 1), 20, 0, 4);
        close_truth(t);
        close_backend(f);
        f->w.embedding = kept.embedding;
        f->w.norm = kept.norm;
        f->w.head = kept.head;
    }
}

#ifdef KV_TESTED_CUDA
static enum kv_dtype fp16 = KV_FP16, fp8 = KV_FP8;
#endif

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, engine_set_up, engine_tear_down)
#define TEST_OF(name, dtype)                                                                                           \
    {                                                                                                                  \
#name " (" #dtype ")", name, engine_set_up, engine_tear_down, &dtype                                           \
    }
    const struct CMUnitTest tests[] = {
        TEST(logits_and_channels_are_the_references),
        TEST(evicted_entries_are_not_seen),
        TEST(a_patch_leaves_nothing),
        TEST(batches_are_their_sequences),
        TEST(repeated_steps_are_those_asked_for),
        TEST(places_are_positions_among_survivors),
        TEST(a_full_pool_is_said),
        TEST(what_cannot_be_made_is_refused),
        TEST(sliding_windows_end_at_their_size),
        TEST(tensors_need_no_alignment),
#ifdef KV_TESTED_CUDA /* and of other entries, what touches them */
        TEST_OF(logits_and_channels_are_the_references, fp16),
        TEST_OF(logits_and_channels_are_the_references, fp8),
        TEST_OF(evicted_entries_are_not_seen, fp8),
        TEST_OF(places_are_positions_among_survivors, fp8),
        TEST_OF(a_full_pool_is_said, fp8),
#endif
    };
#ifdef KV_TESTED_CUDA
    need_device();
#endif
    return cmocka_run_group_tests(tests, NULL, NULL);
}
