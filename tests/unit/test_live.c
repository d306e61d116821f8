/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Every kind of policy on a running model. Beside each sequence run the double precision model, with what each lane
 * holds, and a second cache that is fed with its attention, one row for each query head: sets, pages, rows in the
 * pages, scores and logits are compared pass by pass, footprints with counts from lengths alone. The independent
 * selector watches. */
#include "tests/unit/engine_model.h"
#include "engine/witness.h"
#include "sim/count.h"

enum { PROMPT = 118, OUTPUT = 13, ROOM = PROMPT + OUTPUT + 24, PAGE = 4, CHUNK = 40, MOST = 8 };

static const struct kv_config shape = {"r", LLAMA, 3, 48, 8, 4, 16, .qkv_bias = true};

/* HEADS stands for a file of head scores. `live`: why a live run cannot have it. */
static const struct {
    const char *spec;
    const char *refused;
} specs[] = {
    {"full", NULL},
    {"streaming:sink_size=3,recent_size=30", NULL},
    {"streaming:sink_size=0,recent_size=9,every=3", NULL},
    {"h2o:tokens=50,recent_size=20", NULL},
    {"h2o:tokens=50,recent_size=20,group_reduce=max", NULL},
    {"h2o:tokens=50,recent_size=20,group_reduce=max,store=query-head", NULL},
    {"h2o:when=postfill,keep=40%,recent_size=5", NULL},
    {"tova:tokens=50", NULL},
    {"snapkv:keep=40%,window_size=8", NULL},
    {"snapkv:keep=40%,window_size=8,patch=8,pooling=max", NULL},
    {"snapkv:keep=40%,window_size=8,patch=8,group_reduce=max,kernel_size=3", NULL},
    {"snapkv:when=postfill,keep=40%,round_to=1,window_size=16", NULL},
    {"snapkv:when=postfill,keep=60%,round_to=1,window_size=60,pooling=max,reduce_order=reduce-first", NULL},
    {"snapkv:keep=40%,window_size=8,store=query-head", NULL},
    {"pyramidkv:keep=40%,window_size=8,beta=4", NULL},
    {"pyramidkv:when=postfill,tokens=40,window_size=8,store=query-head", NULL},
    {"adakv:tokens=50,window_size=8", NULL},
    {"adakv:tokens=50,window_size=8,when=chunk+decode", NULL},
    {"ada-snapkv:keep=40%,window_size=8", NULL},
    {"headkv:tokens=50,window_size=8,head_scores=HEADS", NULL},
    {"l2:tokens=50,recent_size=12", NULL},
    {"l2:keep=40%,skip_layers=1,recent_size=3", NULL},
    {"l2-upstream:tokens=50,recent_size=12", NULL},
    {"keydiff:keep=40%", NULL},
    {"observed:keep=40%", NULL},
    {"observed:keep=40%,group_reduce=max", NULL},
    {"cur:keep=40%", NULL},
    {"lagkv:keep=40%", NULL},
    {"expected:keep=40%", "needs channel 'expected', which a live run does not make"},
    {"locret:keep=40%", "needs channel 'external', which a live run does not make"},
    {"random:keep=40%", NULL},
    {"random:keep=40%,when=chunk+decode,every=4", NULL},
    {"duo:sparsity=50%,sink_size=4,recent_size=20", NULL},
    {"prulong:sparsity=70%,sink_size=2,recent_size=30", NULL},
    {"minference", NULL},
    {"moba", NULL},
    {"nsa", NULL},
    {"quest", NULL},
};
enum { SPECS = sizeof specs / sizeof *specs };

/* ---- a sequence and its truth ---- */

struct follow {
    struct fixture *f;
    const char *what;
    struct kv_policy policy;
    struct kv_live live;
    struct truth *t;
    struct kv_live_watch watch;
    struct kv_witness witness;
    struct kv_policy own; /* of the second cache */
    struct kv_shape shape;
    struct kv_cache cache;
    struct kv_cache_work work;
    int part;
    double worst;
    bool keeps_all; /* nothing left so far */
};

static unsigned wants_nothing(void *follow, const struct kv_live *l, bool *query_rows)
{
    (void)follow;
    (void)l;
    (void)query_rows;
    return 0;
}

/* Within the layer: rows in the pages are those of the positions that the lane holds, and scores are the truth's. */
static bool look(void *follow_, struct kv_live *l, int64_t layer, struct kv_err *e)
{
    struct follow *w = follow_;
    const struct truth *t = w->t;
    double *one = malloc(sizeof *one * ROOM), *all = malloc(sizeof *all * ROOM);
    (void)e;
    for (int64_t h = 0; h < t->heads; h++) {
        assert_int_equal(l->seq.lane[layer * t->heads + h].length, truth_entries(t, layer, h));
        check_entries(w->f, w->what, w->part, t, layer, h);
        for (int k = 0; k < KV_SCORE_CHANNELS; k++) {
            int64_t n = 0, rows = kv_channels[k].attention ? l->rows : 1;
            if (!(l->wants & KV_BIT(k)) || k == KV_LAG) /* a rank: tests/unit/test_backend.c */
                continue;
            memset(all, 0, sizeof *all * ROOM);
            for (int64_t q = 0; q < (kv_channels[k].attention ? t->group : 1); q++) {
                n = truth_channel(t, layer, h * t->group + q, (enum kv_channel)k, l->policy.keys.window_size,
                                  l->pass.n_unit, one);
                for (int64_t i = 0; i < n; i++)
                    all[i] = rows > 1 ? one[i] : all[i] + one[i];
                if (rows > 1 || q == t->group - 1 || !kv_channels[k].attention)
                    check_scores(w->f, w->what, kv_channels[k].name, layer, h,
                                 l->row[k] + (h * l->rows + (rows > 1 ? q : 0)) * l->stride, all, n,
                                 (double)(t->group * (t->n_new + 64)));
            }
        }
    }
    free(one);
    free(all);
    return true;
}

static bool nothing_in_layer(void *follow, struct kv_live *l, int64_t layer, struct kv_err *e)
{
    (void)follow;
    (void)l;
    (void)layer;
    (void)e;
    return true;
}

static bool nothing_more(void *follow, struct kv_live *l, struct kv_err *e)
{
    (void)follow;
    (void)l;
    (void)e;
    return true;
}

static struct follow *open_follow(struct fixture *f, const char *spec, const int32_t *token, int64_t prompt,
                                  int64_t output, int64_t chunk)
{
    struct follow *w = KV_NEW(f->a, struct follow);
    struct kv_defaults run = {.chunk = chunk, .dtype = KV_FP32};
    struct kv_model m;
    kv_config_model(&f->w.config, &m);
    w->f = f;
    w->what = spec;
    w->keeps_all = true;
    if (!kv_policy_from_spec(&w->policy, spec, f->a, &f->e) || !kv_policy_from_spec(&w->own, spec, f->a, &f->e) ||
        !kv_live_open(&w->live, f->b, &f->w, &w->policy, &run, token, prompt, output, 0, PAGE, false, f->a, &f->e))
        return NULL;
    MUST(kv_policy_prepare(&w->own, &m, &run, &w->shape, f->a, &f->e));
    MUST(kv_cache_open(&w->cache, &w->own, &w->shape, &w->live.request, PAGE, false, f->a, &f->e));
    MUST(kv_cache_work_open(&w->work, ROOM, (int)w->shape.store_heads, &f->e));
    w->t = open_truth(f, w->shape.store_heads, ROOM);
    w->watch = (struct kv_live_watch){.context = w, .wants = wants_nothing, .scores = look, .ends = nothing_more};
    w->live.watch = &w->watch;
    MUST(kv_witness_open(&w->witness, &w->live, f->a, &f->e));
    return w;
}

static void close_follow(struct follow *w)
{
    kv_witness_close(&w->witness);
    kv_live_close(&w->live);
    kv_cache_close(&w->cache);
    kv_cache_work_close(&w->work);
    close_truth(w->t);
}

/* The next pass of the truth; false when there is none. */
static bool begin(struct follow *w)
{
    struct kv_live *l = &w->live;
    struct kv_pass pass;
    int32_t token[ROOM];
    if (!kv_live_next(l) || !kv_cache_next(&l->cache, l->limit, &pass))
        return false;
    memcpy(token, l->token + pass.seen, sizeof *token * (size_t)pass.n_new);
    memcpy(token + pass.n_new, l->token + l->request.prefill - pass.n_patch, sizeof *token * (size_t)pass.n_patch);
    truth_pass(w->t, token, pass.n_new, pass.n_patch);
    return true;
}

/* What the second cache makes of a lane's attention. */
static void hand_in(struct follow *w, int64_t layer, int64_t head, unsigned wants)
{
    const struct truth *t = w->t;
    struct kv_lane_in in = {.rows = (int)t->group};
    double *made = malloc(sizeof *made * ROOM);
    float *rows = calloc((size_t)(KV_SCORE_CHANNELS * t->group * ROOM), sizeof *rows);
    for (int k = 0; k < KV_SCORE_CHANNELS; k++) {
        in.stride[k] = ROOM;
        if (!(wants & KV_BIT(k)))
            continue;
        in.channel[k] = rows + k * t->group * ROOM;
        for (int64_t q = 0; q < t->group; q++) {
            int64_t n = truth_channel(t, layer, head * t->group + q, (enum kv_channel)k, w->own.keys.window_size,
                                      w->cache.pass.n_unit, made);
            for (int64_t i = 0; i < n; i++)
                rows[(k * t->group + q) * ROOM + i] = (float)made[i];
        }
    }
    kv_cache_lane(&w->cache, layer, head, &in, &w->work);
    free(made);
    free(rows);
}

/* The pass has ended: the same sets in both caches, and logits as with what was held. */
static void compare(struct follow *w)
{
    struct fixture *f = w->f;
    struct kv_live *l = &w->live;
    struct kv_pass pass;
    struct truth *t = w->t;
    assert_true(kv_cache_next(&w->cache, INT64_MAX, &pass));
    assert_int_equal(pass.n_new, t->n_new);
    MUST(kv_cache_begin(&w->cache, &pass, 1, &f->e));
    for (int64_t layer = 0; layer < t->layers; layer++) {
        unsigned wants = kv_cache_wants(&w->cache, layer);
        for (int64_t h = 0; h < t->heads; h++)
            hand_in(w, layer, h, wants);
        kv_cache_layer(&w->cache, layer, &w->work);
        for (int64_t h = 0; h < t->heads; h++) {
            const uint64_t *expected = kv_cache_set(&w->cache, layer, h), *set = kv_cache_set(&l->cache, layer, h);
            int64_t held = 0;
            for (int64_t i = 0; i < t->end; i++) {
                bool stays = kv_set_has(set, i);
                if (stays != kv_set_has(expected, i))
                    fail_msg("%s: after %d tokens layer %d, head %d %s position %d", w->what, (int)t->end, (int)layer,
                             (int)h, stays ? "still holds" : "does not hold", (int)i);
                truth_held(t, layer, h)[i] = stays;
                held += stays;
            }
            assert_int_equal(held, kv_cache_held(&l->cache, layer, h));
            assert_int_equal(held, l->seq.lane[layer * t->heads + h].length);
            w->keeps_all &= held == t->end;
        }
    }
    kv_cache_end(&w->cache);
    if (*kv_witness_problem(&w->witness))
        fail_msg("%s: %s", w->what, kv_witness_problem(&w->witness));
    assert_int_equal(w->witness.checked, (w->witness.turn.index + 1) * t->layers);
    check_logits(w->f, w->what, l->logits, t->logits + (t->n_new - 1) * t->vocab, t->vocab, &w->worst);
}

/* Pages of the pool are those of the ledgers, at the end of a pass. */
static void check_pages(struct follow *const *w, int n)
{
    int64_t pages = 0;
    for (int i = 0; i < n; i++)
        pages += w[i]->live.cache.ledger.pages[KV_PER_HEAD][KV_COMPACT].end;
    assert_int_equal(w[0]->f->b->ops->use(w[0]->f->b).pages_live, pages);
}

static void step_all(struct follow *const *w, int n, struct kv_err *e)
{
    for (bool going = true; going;) {
        struct kv_live *live[MOST];
        bool goes[MOST];
        int parts = 0;
        going = false;
        for (int i = 0; i < n; i++) {
            goes[i] = begin(w[i]);
            w[i]->part = goes[i] ? parts++ : -1;
            live[i] = &w[i]->live;
            going |= goes[i];
        }
        if (!going)
            break;
        if (!kv_live_step(live, n, e))
            fail_msg("%s", e->text);
        for (int i = 0; i < n; i++) {
            struct kv_live *l = live[i];
            if (!goes[i])
                continue;
            compare(w[i]);
            if (l->cache.seen == l->n_token && l->n_token < l->request.prompt + l->request.output)
                kv_live_add(l, kv_live_greedy(l));
        }
        check_pages(w, n);
    }
}

/* Footprint and peaks as lengths alone have them; the pool's own peak too, where it was the only sequence. */
static void check_counts(struct follow *w, bool alone)
{
    struct fixture *f = w->f;
    struct kv_counter *c = KV_NEW(f->a, struct kv_counter);
    struct kv_defaults run = {.chunk = CHUNK, .dtype = KV_FP32};
    struct kv_policy policy;
    struct kv_count counted, live;
    struct kv_model m;
    const struct kv_ledger *g = &w->live.cache.ledger;
    kv_config_model(&f->w.config, &m);
    if (alone)
        assert_int_equal(f->b->ops->use(f->b).pages_peak, g->pages[KV_PER_HEAD][KV_COMPACT].peak[KV_SCOPE_LAYER].value);
    if (!strcmp(w->policy.law->name, "adaptive") || !strcmp(w->policy.law->name, "safeguard"))
        return;
    MUST(kv_policy_from_spec(&policy, w->what, f->a, &f->e));
    MUST(kv_counter_open(c, &policy, &m, &run, PAGE, f->a, &f->e));
    MUST(kv_counter_run(c, &w->live.request, &counted, &f->e));
    kv_count_read(&live, g, &w->live.request);
    if (counted.footprint_actual != live.footprint_actual || counted.peak_actual[0] != live.peak_actual[0] ||
        counted.peak_actual[1] != live.peak_actual[1] || counted.held_end != live.held_end ||
        counted.held_end_peak != live.held_end_peak || counted.passes != live.passes ||
        counted.pages[0][0][0].bytes != live.pages[0][0][0].bytes ||
        counted.pages[0][0][1].bytes != live.pages[0][0][1].bytes || counted.pages_end[0][0] != live.pages_end[0][0])
        fail_msg("%s: footprint %.9f, peaks %.9f and %.9f live; %.9f, %.9f and %.9f counted", w->what,
                 live.footprint_actual, live.peak_actual[0], live.peak_actual[1], counted.footprint_actual,
                 counted.peak_actual[0], counted.peak_actual[1]);
}

/* ---- the tests ---- */

/* The SPEC with the name of a file in it, which is made. */
static const char *with_heads(struct fixture *f, const char *spec)
{
    const char *at = strstr(spec, "HEADS");
    if (!at)
        return spec;
    const char *path = kv_format(f->a, "%s.heads.tsv", f->folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (int64_t l = 0; l < f->w.config.layers; l++)
        for (int64_t h = 0; h < f->w.config.kv_heads; h++)
            fprintf(file, "%.3f%c", 0.05 + 0.9 * kv_uniform(kv_random(1, 2, (uint64_t)l, (uint64_t)h)),
                    h + 1 < f->w.config.kv_heads ? '\t' : '\n');
    fclose(file);
    return kv_format(f->a, "%.*s%s", (int)(at - spec), spec, path);
}

static void run_specs(struct fixture *f, const int32_t *token)
{
    double worst = 0;
    int evicting = 0;
    for (int i = 0; i < SPECS; i++) {
        open_backend(f, PAGE, 1 << 24, 1 + i % 2);
        struct follow *w = open_follow(f, with_heads(f, specs[i].spec), token, PROMPT, OUTPUT, CHUNK);
        if (specs[i].refused) {
            assert_null(w);
            if (!strstr(f->e.text, specs[i].refused))
                fail_msg("%s: '%s', expected '%s'", specs[i].spec, f->e.text, specs[i].refused);
            print_message("# skipped: %s\n", f->e.text);
            memset(&f->e, 0, sizeof f->e);
            continue;
        }
        if (!w)
            fail_msg("%s: %s", specs[i].spec, f->e.text);
        step_all(&w, 1, &f->e);
        check_counts(w, true);
        evicting += !w->keeps_all;
        worst = fmax(worst, w->worst);
        close_follow(w);
        assert_int_equal(f->b->ops->use(f->b).pages_live, 0);
    }
    unlink(kv_format(f->a, "%s.heads.tsv", f->folder));
    print_message("# %d runs, %d of them evicted; logits: %.1e at most\n", SPECS, evicting, worst);
    assert_true(evicting >= 30);
}

static void every_kind_on_a_random_model(void **state)
{
    struct fixture *f = *state;
    open_model(f, &shape, KV_TENSOR_F32, 11);
    run_specs(f, draw_tokens(f, PROMPT, 4));
}

static void every_kind_on_recall(void **state)
{
    struct fixture *f = *state;
    open_recall(f);
    run_specs(f, draw_tokens(f, PROMPT, 5));
}

/* Feeds what it says itself, to the end; looked at by nobody, or in each layer. What its lanes hold by then, all sets
 * together, and the passes' logits in `seen`. */
static void run_alone(struct fixture *f, const char *spec, const int32_t *token, bool watched, uint64_t *set,
                      float *seen, double *entries)
{
    struct kv_defaults run = {.chunk = CHUNK, .dtype = KV_FP32};
    struct kv_live_watch watch = {.wants = wants_nothing, .scores = nothing_in_layer, .ends = nothing_more};
    struct kv_policy policy;
    struct kv_live l, *one[] = {&l};
    int64_t vocab = f->w.config.vocab;
    open_backend(f, PAGE, 1 << 24, 2);
    MUST(kv_policy_from_spec(&policy, spec, f->a, &f->e));
    MUST(kv_live_open(&l, f->b, &f->w, &policy, &run, token, PROMPT, OUTPUT, 0, PAGE, false, f->a, &f->e));
    l.watch = watched ? &watch : NULL;
    for (; kv_live_next(&l); seen += vocab) {
        MUST(kv_live_step(one, 1, &f->e));
        memcpy(seen, l.logits, sizeof *seen * (size_t)vocab);
        if (l.cache.seen == l.n_token && l.n_token < PROMPT + OUTPUT)
            kv_live_add(&l, kv_live_greedy(&l));
    }
    for (int64_t i = 0; i < l.cache.lanes; i++, set += ROOM / 64 + 1) {
        int64_t layer = i / l.shape.store_heads, head = i % l.shape.store_heads;
        memcpy(set, kv_cache_set(&l.cache, layer, head), sizeof *set * (size_t)kv_words(l.cache.seen));
        assert_int_equal(l.seq.lane[i].length, kv_cache_held(&l.cache, layer, head));
    }
    *entries = (double)l.cache.ledger.entry_steps;
    kv_live_close(&l);
}

/* A pass that nobody needs to look into leaves out the layers' hook: no other entries may stay for that. */
static void nobody_has_to_watch(void **state)
{
    struct fixture *f = *state;
    enum { SETS = 64 * (ROOM / 64 + 1), PASSES = PROMPT + OUTPUT };
    open_model(f, &shape, KV_TENSOR_F32, 11);
    int32_t *token = draw_tokens(f, PROMPT, 4);
    size_t numbers = (size_t)(PASSES * f->w.config.vocab);
    float *seen = malloc(sizeof *seen * numbers), *watched = malloc(sizeof *watched * numbers);
    for (int i = 0; i < SPECS; i++) {
        uint64_t sets[2][SETS] = {{0}};
        double entries[2];
        if (specs[i].refused)
            continue;
        memset(seen, 0, sizeof *seen * numbers);
        memset(watched, 0, sizeof *watched * numbers);
        const char *spec = with_heads(f, specs[i].spec);
        run_alone(f, spec, token, true, sets[0], watched, &entries[0]);
        run_alone(f, spec, token, false, sets[1], seen, &entries[1]);
        if (memcmp(sets[0], sets[1], sizeof sets[0]) || entries[0] != entries[1] ||
            memcmp(seen, watched, sizeof *seen * numbers))
            fail_msg("%s: %.0f entries over its steps where nobody looks, %.0f where somebody does", specs[i].spec,
                     entries[1], entries[0]);
    }
    unlink(kv_format(f->a, "%s.heads.tsv", f->folder));
    free(seen);
    free(watched);
}

/* Rules that are not those of the run: the witness says where they part. */
static void other_rules_are_noticed(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *spec, *problem;
        size_t offset;
        int64_t by;
    } wrong[] = {
#define OF(member) offsetof(struct kv_rules, member)
        {"streaming:sink_size=3,recent_size=30", "pass 0, layer 0, head 0: position 3 left and", OF(sinks), 1},
        {"h2o:tokens=50,recent_size=20", "candidates stay, expected 51", OF(tokens), 1},
        {"tova:tokens=50", "the cut is", OF(tokens), -1},
        {"snapkv:keep=40%,window_size=8", "pass 0, layer 0", OF(kernel), 8},
        {"l2-upstream:tokens=50,recent_size=12", "the cut is", OF(local_size), -58},
        {"random:keep=40%", "the cut is", OF(seed), 1},
        {"random:keep=40%,when=chunk+decode,every=4", "pass 3: another pass than the rules make", OF(every), -3},
        {"cur:keep=40%", "the cut is", OF(block), 5},
        {"adakv:tokens=50,window_size=8", "layer 0, head 0: ", OF(tokens), 1},
        {"ada-snapkv:tokens=50,window_size=8", "pass 2, layer 0, head 1: 50 candidates stay", OF(tokens), 1},
#undef OF
    };
    open_model(f, &shape, KV_TENSOR_F32, 11);
    int32_t *token = draw_tokens(f, PROMPT, 4);
    open_backend(f, PAGE, 1 << 24, 1);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct kv_policy policy;
        struct kv_live l, *one[] = {&l};
        struct kv_defaults run = {.chunk = CHUNK, .dtype = KV_FP32};
        struct kv_witness w;
        MUST(kv_policy_from_spec(&policy, wrong[i].spec, f->a, &f->e));
        MUST(kv_live_open(&l, f->b, &f->w, &policy, &run, token, PROMPT, OUTPUT, 0, PAGE, false, f->a, &f->e));
        MUST(kv_witness_open(&w, &l, f->a, &f->e));
        *(int64_t *)(void *)((char *)&w.selector.rules + wrong[i].offset) += wrong[i].by;
        while (kv_live_next(&l)) {
            MUST(kv_live_step(one, 1, &f->e));
            if (l.cache.seen == l.n_token && l.n_token < PROMPT + OUTPUT)
                kv_live_add(&l, kv_live_greedy(&l));
        }
        if (!strstr(kv_witness_problem(&w), wrong[i].problem))
            fail_msg("%s: '%s', expected '%s'", wrong[i].spec, kv_witness_problem(&w), wrong[i].problem);
        kv_witness_close(&w);
        kv_live_close(&l);
    }
}

static void every_kind_was_tried(void **state)
{
    (void)state;
    for (int k = 0; kv_kinds[k]; k++) {
        size_t length = strlen(kv_kinds[k]->name);
        bool there = false;
        for (int i = 0; i < SPECS; i++)
            there |= !strncmp(specs[i].spec, kv_kinds[k]->name, length) && !strchr("-_", specs[i].spec[length] | 0)
                         ? true
                         : !strcmp(specs[i].spec, kv_kinds[k]->name);
        if (!there)
            fail_msg("kind '%s' is not in the list of this test", kv_kinds[k]->name);
    }
}

/* Policies of all sorts in one batch, prompts of different lengths: each as if it were alone. */
static void sequences_do_not_disturb_each_other(void **state)
{
    struct fixture *f = *state;
    static const int picked[MOST] = {9, 1, 3, 16, 0, 20, 13, 33};
    struct follow *w[MOST];
    double worst = 0;
    open_model(f, &shape, KV_TENSOR_BF16, 12);
    open_backend(f, PAGE, 1 << 24, 2);
    for (int i = 0; i < MOST; i++) {
        w[i] =
            open_follow(f, specs[picked[i]].spec, draw_tokens(f, PROMPT, (uint64_t)i), PROMPT - 9 * i, OUTPUT, CHUNK);
        if (!w[i])
            fail_msg("%s: %s", specs[picked[i]].spec, f->e.text);
    }
    step_all(w, MOST, &f->e);
    for (int i = 0; i < MOST; i++) {
        check_counts(w[i], false);
        worst = fmax(worst, w[i]->worst);
        close_follow(w[i]);
    }
    print_message("# logits: %.1e at most\n", worst);
    assert_int_equal(f->b->ops->use(f->b).pages_live, 0);
}

/* ---- policies that keep everything ---- */

/* Tokens, and the logits of all passes behind one another; how many numbers. */
static int64_t run_plain(struct fixture *f, const char *spec, const int32_t *token, float *out)
{
    struct kv_live l, *one[] = {&l};
    struct kv_policy policy;
    struct kv_defaults run = {.chunk = CHUNK, .dtype = KV_FP32};
    int64_t n = 0, vocab = f->w.config.vocab;
    MUST(kv_policy_from_spec(&policy, spec, f->a, &f->e));
    if (!kv_live_open(&l, f->b, &f->w, &policy, &run, token, PROMPT, OUTPUT, 0, PAGE, false, f->a, &f->e))
        fail_msg("%s: %s", spec, f->e.text);
    while (kv_live_next(&l)) {
        MUST(kv_live_step(one, 1, &f->e));
        memcpy(out + n, l.logits, sizeof *out * (size_t)vocab);
        n += vocab;
        if (l.cache.seen == l.n_token && l.n_token < PROMPT + OUTPUT)
            kv_live_add(&l, kv_live_greedy(&l));
    }
    for (int64_t i = 0; i < OUTPUT; i++)
        out[n++] = (float)l.token[PROMPT + i];
    kv_live_close(&l);
    return n;
}

static void keeping_all_is_no_policy(void **state)
{
    struct fixture *f = *state;
    static const char *const keep[] = {
        "streaming:sink_size=3,recent_size=2000",
        "h2o:tokens=500,recent_size=20",
        "h2o:keep=100%,group_reduce=max",
        "tova:tokens=500",
        "snapkv:keep=100%,window_size=8",
        "snapkv:when=postfill,keep=100%,window_size=8,pooling=max",
        "pyramidkv:keep=100%,window_size=8",
        "adakv:tokens=500,window_size=8,when=chunk+decode",
        "ada-snapkv:keep=100%,window_size=8",
        "l2:tokens=500",
        "l2-upstream:tokens=500",
        "keydiff:keep=100%",
        "observed:keep=100%",
        "cur:keep=100%",
        "lagkv:keep=100%",
        "random:keep=100%",
        "duo:sparsity=0%",
        "prulong:sparsity=50%,recent_size=500",
        "quest",
    };
    float *plain = malloc(sizeof *plain * (ROOM * 61)), *kept = malloc(sizeof *kept * (ROOM * 61));
    for (int threads = 1; threads <= 2; threads++) {
        open_model(f, &shape, threads == 1 ? KV_TENSOR_F32 : KV_TENSOR_F16, 13);
        open_backend(f, PAGE, 1 << 24, threads);
        int32_t *token = draw_tokens(f, PROMPT, 8);
        int64_t n = run_plain(f, "full", token, plain);
        for (size_t i = 0; i < sizeof keep / sizeof *keep; i++) {
            assert_int_equal(run_plain(f, keep[i], token, kept), n);
            for (int64_t j = 0; j < n; j++)
                if (memcmp(&plain[j], &kept[j], sizeof *plain))
                    fail_msg("%s, %d threads: number %d is %.9g, without a policy %.9g", keep[i], threads, (int)j,
                             (double)kept[j], (double)plain[j]);
        }
    }
    free(plain);
    free(kept);
}

/* ---- memory ---- */

/* 30 % of a cache of 256 MiB: what is resident is what the ledger says. */
static void evicted_memory_leaves_the_process(void **state)
{
    struct fixture *f = *state;
    enum { LONG = 2304, DEEP = 32 };
    static const struct kv_config deep = {"r", LLAMA, DEEP, 32, 8, 8, 64, .intermediate = 32};
    struct kv_live l, *one[] = {&l};
    struct kv_policy policy;
    struct kv_defaults run = {.chunk = 512, .dtype = KV_FP32};
    open_model(f, &deep, KV_TENSOR_F32, 14);
    int32_t *token = draw_tokens(f, LONG, 1);
    open_backend(f, 64, 1 << 29, 2);
    MUST(kv_policy_from_spec(&policy, "l2:when=postfill,keep=30%,skip_layers=0", f->a, &f->e));
    MUST(kv_live_open(&l, f->b, &f->w, &policy, &run, token, LONG, 2, 0, 64, false, f->a, &f->e));
    int64_t most = 0;
    while (kv_live_next(&l)) {
        MUST(kv_live_step(one, 1, &f->e));
        struct kv_backend_use use = f->b->ops->use(f->b);
        most = use.resident_bytes > most ? use.resident_bytes : most;
    }
    const struct kv_ledger *g = &l.cache.ledger;
    struct kv_backend_use use = f->b->ops->use(f->b);
    int64_t page = kv_ledger_page_bytes(g, KV_PER_HEAD), left = g->pages[KV_PER_HEAD][KV_COMPACT].end * page,
            peak = g->pages[KV_PER_HEAD][KV_COMPACT].peak[KV_SCOPE_LAYER].value * page;
    assert_int_equal(page, use.page_bytes);
    print_message(
        "# pool: %.1f MiB resident at most (ends of passes), %.1f MiB after eviction; ledger: %.1f and %.1f\n",
        (double)most / 1048576, (double)use.resident_bytes / 1048576, (double)peak / 1048576, (double)left / 1048576);
    assert_true(peak >= 1 << 28 && left < peak * 2 / 5);
    if (fabs((double)use.resident_bytes - (double)left) > 0.01 * (double)left)
        fail_msg("%lld bytes are resident, and the ledger says %lld", (long long)use.resident_bytes, (long long)left);
    kv_live_close(&l);
    assert_int_equal(f->b->ops->use(f->b).resident_bytes, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, engine_set_up, engine_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(every_kind_was_tried),
        TEST(every_kind_on_a_random_model),
        TEST(every_kind_on_recall),
        TEST(nobody_has_to_watch),
        TEST(sequences_do_not_disturb_each_other),
        TEST(keeping_all_is_no_policy),
        TEST(other_rules_are_noticed),
        TEST(evicted_memory_leaves_the_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
