/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Steps whose lanes the device closes up by itself, against the same steps with the host deciding: what each lane
 * holds, ties, pages, ledgers and logits are the same bits, while a prompt is read in the same batch, and while
 * somebody looks in between, so that the host has to decide after all. */
#include "tests/gpu/need_device.h"
#include "tests/unit/engine_model.h"

#include "engine/live.h"

#ifdef KV_ON_DEVICE
static long kv_emulated_repeats;
enum { COUNTS = 0 };
#else
extern long kv_emulated_repeats;
enum { COUNTS = 1 };
#endif
enum { PROMPT = 40, LATE = 12, OUTPUT = 14, BATCH = 2, PAGE = 4, LOOKED = 9 };

static const struct kv_config shape = {"r", LLAMA, 2, 48, 4, 2, 32, .tied = true};

/* `alone`: steps that the device decides, of those of the first sequence. */
static const struct {
    const char *spec;
    int planned;
} specs[] = {
    {"streaming:sink_size=3,recent_size=20", 12},
    {"streaming:sink_size=0,recent_size=9,every=3", 12},
    {"duo:sparsity=50%,sink_size=4,recent_size=12", 12},
    {"prulong:sparsity=50%,sink_size=2,recent_size=30", 12},
    {"h2o:tokens=24,recent_size=6", 12},
    {"h2o:tokens=24,recent_size=6,store=query-head", 12},
    {"h2o:tokens=24,recent_size=6,group_reduce=max", 0},
    {"h2o:tokens=24,recent_size=6,when=decode", 11},
    {"h2o:tokens=24,recent_size=6,when=chunk+decode,every=2", 0},
    {"h2o:when=postfill,keep=40%,recent_size=5", 12},
    {"tova:tokens=24", 12},
    {"l2:tokens=24,recent_size=5", 12},
    {"l2:tokens=50,recent_size=5", 12},
    {"snapkv:keep=40%,window_size=8,when=chunk+decode", 0},
    {"adakv:tokens=24,window_size=8,when=chunk+decode", 0},
};

/* What a run came to, step after step. */
struct result {
    uint64_t set[OUTPUT + 4][BATCH][16][2];
    float logits[OUTPUT + 4][BATCH][61];
    int64_t pages[OUTPUT + 4], peak;
    int64_t ties[BATCH][16];
    double footprint[BATCH];
    int planned;
    long repeats;
};

static unsigned wants_nothing(void *context, const struct kv_live *l, bool *query_rows)
{
    (void)context, (void)l, (void)query_rows;
    return 0;
}

static bool looks(void *context, struct kv_live *l, int64_t layer, struct kv_err *e)
{
    (void)context, (void)l, (void)layer, (void)e;
    return true;
}

static bool ends(void *context, struct kv_live *l, struct kv_err *e)
{
    (void)context, (void)l, (void)e;
    return true;
}

static void note(struct fixture *f, struct kv_live *l, int i, int step, struct result *r)
{
    int64_t lanes = l->shape.layers * l->shape.store_heads;
    assert_in_range(lanes, 1, 16);
    for (int64_t k = 0; k < lanes; k++) {
        const uint64_t *set = kv_cache_set(&l->cache, k / l->shape.store_heads, k % l->shape.store_heads);
        memcpy(r->set[step][i][k], set, sizeof *set * (size_t)kv_words(l->cache.seen));
        r->ties[i][k] = l->cache.lane[k].ties;
        assert_int_equal(l->seq.lane[k].length,
                         kv_cache_held(&l->cache, k / l->shape.store_heads, k % l->shape.store_heads));
    }
    memcpy(r->logits[step][i], l->logits, sizeof r->logits[step][i]);
    r->pages[step] = f->b->ops->use(f->b).pages_live;
}

static void run_spec(struct fixture *f, const char *spec, const int32_t *token, bool host_decides, struct result *r)
{
    struct kv_live live[BATCH], *both[BATCH] = {&live[0], &live[1]};
    struct kv_defaults run = {.chunk = 16, .dtype = KV_BF16};
    struct kv_live_watch watch = {.wants = wants_nothing, .scores = looks, .ends = ends};
    struct kv_backend_ops ops = TESTED;
    long before = kv_emulated_repeats;
    memset(r, 0, sizeof *r);
    open_backend(f, PAGE, 1 << 24, 2);
    if (host_decides) {
        ops.set_column = NULL;
        f->b->ops = &ops;
    }
    for (int i = 0; i < BATCH; i++) {
        struct kv_policy policy;
        MUST(kv_policy_from_spec(&policy, spec, f->a, &f->e));
        MUST(kv_live_open(&live[i], f->b, &f->w, &policy, &run, token, PROMPT - 7 * i, OUTPUT, 0, PAGE, false, f->a,
                          &f->e));
    }
    int joined = 1;
    for (int step = 0; step < OUTPUT + 2; step++) {
        live[0].watch = step == LOOKED ? &watch : NULL;
        joined = step >= 5 ? BATCH : 1; /* the second reads its prompt beside the first one's steps */
        MUST(kv_live_step(both, joined, &f->e));
        r->planned += live[0].planned;
        for (int i = 0; i < joined; i++) {
            note(f, &live[i], i, step, r);
            if (live[i].cache.seen >= live[i].n_token && live[i].n_token < live[i].request.prompt + OUTPUT)
                kv_live_add(&live[i], token[live[i].n_token]);
        }
    }
    r->peak = f->b->ops->use(f->b).pages_peak;
    r->repeats = kv_emulated_repeats - before;
    for (int i = 0; i < BATCH; i++) {
        r->footprint[i] = (double)live[i].cache.ledger.pages[KV_PER_HEAD][KV_COMPACT].end;
        kv_live_close(&live[i]);
    }
    f->b->ops = &TESTED;
}

static void the_device_decides_as_the_host(void **state)
{
    struct fixture *f = *state;
    struct result *host = malloc(sizeof *host), *device = malloc(sizeof *device);
    open_model(f, &shape, KV_TENSOR_BF16, 4);
    int32_t *token = draw_tokens(f, PROMPT + OUTPUT, 3);
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        run_spec(f, specs[i].spec, token, true, host);
        run_spec(f, specs[i].spec, token, false, device);
        print_message("# %s: %d steps decided by the device, %ld repeated\n", specs[i].spec, device->planned,
                      device->repeats);
        assert_int_equal(host->planned, 0);
        if (device->planned != specs[i].planned)
            fail_msg("%s: %d steps were decided by the device, not %d", specs[i].spec, device->planned,
                     specs[i].planned);
        if (COUNTS && specs[i].planned)
            assert_true(device->repeats > 0);
        for (int step = 0; step < OUTPUT + 2; step++)
            if (memcmp(host->set[step], device->set[step], sizeof host->set[step]))
                fail_msg("%s: other entries are held after step %d", specs[i].spec, step);
        assert_memory_equal(host->logits, device->logits, sizeof host->logits);
        assert_memory_equal(host->pages, device->pages, sizeof host->pages);
        assert_memory_equal(host->ties, device->ties, sizeof host->ties);
        assert_memory_equal(host->footprint, device->footprint, sizeof host->footprint);
        assert_int_equal(host->peak, device->peak);
    }
    free(host);
    free(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_device_decides_as_the_host, engine_set_up, engine_tear_down),
    };
    need_device();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
