/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The cache that decides, driven pass by pass with drawn channels, against a selector that sorts lists of positions
 * (engine/selector.h) and counts what they cost (brute.h), for every kind of the table. The same requests are also run
 * in other orders, on two threads, on each path of the arithmetic, and with passes told at once. */
#include "engine/witness.h"
#include "tests/laws/pick.h"
#include "tests/laws/subject.h"

#include <pthread.h>

enum { FOR_KINDS = 21, FOR_PAIRS, FOR_ALL };
enum { KIND_DRAWS = 100, PAIR_DRAWS = 24, ALL_DRAWS = 20 };
static const struct limits small_draws = {300, 60, 3, 3, NULL, NULL};

/* ---- a cache that is fed ---- */

enum order { FORWARD, BACKWARD, THREADS };

struct runner {
    const struct subject *s;
    const struct pick *pick;
    struct kv_cache c;
    struct kv_cache_work work[2];
    enum order order;
    int64_t fed[SETS_LANES]; /* tokens whose static channels were handed in */
};

static const struct kv_select *select_for(uint64_t number)
{
    const struct kv_select *select = kv_select_of((enum kv_simd)(number % KV_SIMDS));
    return select ? select : kv_select_of(KV_SIMD_PORTABLE);
}

static void open_runner(struct runner *r, struct subject *s, const struct pick *pick, enum order order, uint64_t path)
{
    int64_t tokens = kv_request_steps(&s->draw.request);
    *r = (struct runner){.s = s, .pick = pick, .order = order};
    bool good = kv_cache_open(&r->c, &s->policy, &s->shape, &s->draw.request, s->draw.page, true, s->arena, &s->e);
    for (int i = 0; i < 2; i++) {
        good = good && kv_cache_work_open(&r->work[i], tokens, (int)s->shape.store_heads, &s->e);
        r->work[i].select = select_for(path + (uint64_t)i);
    }
    if (!good)
        fail_draw(s, s->e.text);
}

static void close_runner(struct runner *r)
{
    kv_cache_work_close(&r->work[0]);
    kv_cache_work_close(&r->work[1]);
    kv_cache_close(&r->c);
}

/* Positions that a channel's row has at this pass; how many. */
static int64_t list_row(struct runner *r, int channel, int64_t layer, int64_t head, int64_t *at)
{
    const struct kv_pass *p = &r->c.pass;
    int64_t end = p->seen + p->n_new, n = 0, from = 0;
    const uint64_t *set = kv_cache_set(&r->c, layer, head);
    bool all = channel != KV_WINDOW_LOCAL && !is_static(channel);
    if (channel == KV_WINDOW_LOCAL)
        from = end - p->n_unit;
    else if (is_static(channel))
        from = r->fed[layer * r->c.shape->store_heads + head];
    for (int64_t t = from; t < end; t++)
        if (!all || kv_set_has(set, t))
            at[n++] = t;
    for (int64_t i = 0; i < p->n_patch && !is_static(channel); i++)
        at[n++] = end + i;
    return n;
}

/* Rows lie apart, with numbers between them that nobody may take for scores. */
static float *make_rows(struct runner *r, int channel, int64_t layer, int64_t head, int64_t rows, int64_t *stride)
{
    int64_t *at = malloc(sizeof *at * (size_t)(r->c.tokens + r->c.pass.n_patch + 1));
    int64_t n = list_row(r, channel, layer, head, at), pad = (layer + head + r->c.index) % 5;
    float *out = malloc(sizeof *out * (size_t)(rows * (n + pad) + 1));
    *stride = n + pad;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < n + pad; i++)
            out[row * *stride + i] =
                i < n ? number_of(r->pick, channel, layer, head * rows + row, r->c.pass.index, at[i]) : 1e30F;
    free(at);
    return out;
}

static void hand_lane(struct runner *r, int64_t layer, int64_t head, unsigned wants, struct kv_cache_work *w)
{
    int64_t rows = r->s->draw.kv_heads * r->s->draw.group / r->c.shape->store_heads;
    struct kv_lane_in in = {.rows = (int)rows};
    float *made[KV_SCORE_CHANNELS] = {NULL};
    for (int k = 0; k < KV_SCORE_CHANNELS; k++) {
        if (wants & KV_BIT(k))
            made[k] = make_rows(r, k, layer, head, is_attention(k) ? rows : 1, &in.stride[k]);
        in.channel[k] = made[k];
    }
    kv_cache_lane(&r->c, layer, head, &in, w);
    if (wants & KV_STATIC_CHANNELS)
        r->fed[layer * r->c.shape->store_heads + head] = r->c.pass.seen + r->c.pass.n_new;
    for (int k = 0; k < KV_SCORE_CHANNELS; k++)
        free(made[k]);
}

static void hand_layer(struct runner *r, int64_t layer, struct kv_cache_work *w)
{
    unsigned wants = kv_cache_wants(&r->c, layer);
    for (int64_t head = 0; wants && head < r->c.shape->store_heads; head++)
        hand_lane(r, layer, head, wants, w);
    kv_cache_layer(&r->c, layer, w);
}

struct share_of_layers {
    struct runner *r;
    int which;
};

static void *hand_every_second(void *arg)
{
    const struct share_of_layers *own = arg;
    for (int64_t layer = own->which; layer < own->r->c.shape->layers; layer += 2)
        hand_layer(own->r, layer, &own->r->work[own->which]);
    return NULL;
}

static void hand_layers(struct runner *r)
{
    int64_t layers = r->c.shape->layers;
    if (r->order == THREADS) {
        struct share_of_layers share[2] = {{r, 0}, {r, 1}};
        pthread_t other;
        if (pthread_create(&other, NULL, hand_every_second, &share[1]))
            fail_draw(r->s, "no thread");
        hand_every_second(&share[0]);
        pthread_join(other, NULL);
        return;
    }
    for (int64_t i = 0; i < layers; i++)
        hand_layer(r, r->order == FORWARD ? i : layers - 1 - i, &r->work[i % 2]);
}

static void begin(struct runner *r, const struct kv_pass *pass, int64_t passes)
{
    struct kv_err e = {0};
    if (!kv_cache_begin(&r->c, pass, passes, &e))
        fail_draw(r->s, e.text);
}

/* ---- what must hold of every kind, whatever its score ---- */

struct watch {
    uint64_t before[SETS_LANES][(MOST_HELD + 63) / 64];
    struct kv_room room[SETS_LANES];
    int64_t held[SETS_LANES];
};

static void must(const struct runner *r, int64_t lane, bool truth, const char *law)
{
    int64_t heads = r->c.shape->store_heads;
    if (!truth)
        fail_draw(r->s, kv_format(r->s->arena, "pass %lld, layer %lld, head %lld: %s", (long long)r->c.index - 1,
                                  (long long)(lane / heads), (long long)(lane % heads), law));
}

static void look_before(struct runner *r, const struct kv_pass *pass, struct watch *w)
{
    int64_t heads = r->c.shape->store_heads;
    memset(w->before, 0, sizeof w->before);
    for (int64_t i = 0; i < r->c.lanes; i++) {
        struct kv_lane lane = {.layer = i / heads, .head = i % heads, .held = r->c.lane[i].last};
        int64_t window = r->s->shape.window ? r->s->shape.window[lane.layer] : 0;
        w->held[i] = kv_cache_held(&r->c, lane.layer, lane.head);
        memcpy(w->before[i], kv_cache_set(&r->c, lane.layer, lane.head), 8 * (size_t)kv_words(pass->seen));
        kv_set_fill(w->before[i], pass->seen, pass->seen + pass->n_new);
        w->room[i] = kv_policy_room(&r->s->policy, &r->s->shape, &lane, window, pass);
    }
}

static void check_lane(struct runner *r, const struct kv_pass *pass, const struct watch *w, int64_t i)
{
    const struct draw *d = &r->s->draw;
    int64_t heads = r->c.shape->store_heads, end = pass->seen + pass->n_new, layer = i / heads;
    int64_t held = kv_cache_held(&r->c, layer, i % heads), n = w->held[i] + pass->n_new;
    const uint64_t *set = kv_cache_set(&r->c, layer, i % heads);
    bool slides = draw_layer_slides(d, layer);
    must(r, i, kv_set_count(set, end) == held, "entries held are not those of the set");
    must(r, i, kv_set_common(set, w->before[i], end) == held, "an entry came back");
    must(r, i, slides || pass->evict || held == n, "something left without an eviction");
    must(r, i, slides || kv_set_count_range(set, 0, smaller(d->sinks, end)) == smaller(d->sinks, end), "a sink left");
    int64_t recents = smaller(d->recents, slides ? d->window : end), window = 0;
    recents = smaller(recents, end);
    must(r, i, kv_set_count_range(set, end - recents, end) == recents, "a recent entry left");
    if (pass->evict)
        window = smaller(draw_window(d, pass->n_patch), pass->n_unit);
    must(r, i, kv_set_count_range(set, end - window, end) == window, "a query of the window left");
    must(r, i, slides || held >= smaller(n, d->floor), "fewer than min_tokens");
    must(r, i, !(d->share >= 1) || slides || held == end, "keep = 100 % and something left");
    if (!draw_shares(d) && w->room[i].keep != KV_NO_BOUND)
        must(r, i, held <= w->room[i].frozen + w->room[i].keep, "budget not held");
}

/* Lanes that share hold no more than their mean, but for the rounding of AdaKV's counts. */
static void check_sharing(struct runner *r, const struct watch *w, int64_t layer)
{
    int64_t heads = r->c.shape->store_heads, held = 0, most = 0;
    for (int64_t i = layer * heads; i < (layer + 1) * heads; i++) {
        if (w->room[i].keep == KV_NO_BOUND)
            return;
        held += kv_cache_held(&r->c, layer, i % heads);
        most += w->room[i].keep;
    }
    must(r, layer * heads, held <= most + (r->s->draw.rule == KV_RULE_ADAPTIVE ? heads / 2 : 0),
         "the layer's budget is not held");
}

/* Whether anything must leave the layer. */
static bool is_full(const struct runner *r, const struct watch *w, int64_t layer)
{
    int64_t heads = r->c.shape->store_heads, all = 0, most = 0;
    bool any = false;
    for (int64_t i = layer * heads; i < (layer + 1) * heads; i++) {
        if (w->room[i].keep == KV_NO_BOUND)
            continue;
        int64_t n = w->held[i] + r->c.pass.n_new - w->room[i].frozen;
        any |= n > w->room[i].keep;
        all += n;
        most += w->room[i].keep;
    }
    return draw_shares(&r->s->draw) ? all > most : any;
}

static void check_wants(struct runner *r, const struct watch *w)
{
    const struct kv_score *score = r->s->policy.score;
    const unsigned windows = KV_BIT(KV_WINDOW_LOCAL) | KV_BIT(KV_WINDOW_SEEN);
    for (int64_t layer = 0; layer < r->c.shape->layers; layer++) {
        unsigned wants = kv_cache_wants(&r->c, layer), most = score->observes | (score->needs & KV_STATIC_CHANNELS);
        int64_t lane = layer * r->c.shape->store_heads;
        if (is_full(r, w, layer))
            most |= score->needs;
        must(r, lane, !(wants & ~(score->needs | score->observes)), "a channel is wanted that no score declares");
        must(r, lane, !(wants & ~most), "a channel is wanted that decides nothing");
        must(r, lane, (wants & windows) != windows, "both windows are wanted");
        must(r, lane, !score->positional || !wants, "positions want channels");
    }
}

/* ---- against the model ---- */

static void add_pass(struct brute *b, const struct kv_pass *p)
{
    b->step[p->index] = (struct kv_turn){.index = p->index,
                                         .start = p->seen,
                                         .n_new = p->n_new,
                                         .n_patch = p->n_patch,
                                         .decode_step = p->decode_step,
                                         .n_unit = p->n_unit,
                                         .evict = p->evict,
                                         .last = p->last};
    brute_step(b, &b->step[p->index]);
}

static void compare_sets(struct runner *r, const struct brute *b)
{
    int64_t heads = r->c.shape->store_heads;
    if (*b->model.problem)
        must(r, 0, false, b->model.problem);
    for (int64_t i = 0; i < r->c.lanes; i++) {
        const uint64_t *set = kv_cache_set(&r->c, i / heads, i % heads);
        int64_t held = kv_cache_held(&r->c, i / heads, i % heads);
        if (held != b->model.lane[i].n)
            must(r, i, false,
                 kv_format(r->s->arena, "%lld entries are left, expected %lld", (long long)held,
                           (long long)b->model.lane[i].n));
        for (int64_t j = 0; j < b->model.lane[i].n; j++)
            if (!kv_set_has(set, b->model.lane[i].at[j]))
                must(r, i, false,
                     kv_format(r->s->arena, "position %d left and should not have", b->model.lane[i].at[j]));
        must(r, i, r->c.lane[i].ties == b->model.lane[i].ties || !r->pick->exact || !b->model.known, "ties");
    }
}

/* L2 as released: the score's column is the place of each entry in storage, from 1. */
static void compare_storage(struct runner *r, const struct brute *b)
{
    int64_t heads = r->c.shape->store_heads;
    for (int64_t i = 0; i < r->c.lanes && !strcmp(b->d->score->name, "l2-upstream"); i++) {
        const float *place = kv_cache_column(&r->c, i / heads, i % heads, 0);
        for (int64_t slot = 0; slot < b->model.lane[i].n_stored; slot++) {
            int64_t rank = 0;
            while (rank < b->model.lane[i].n && b->model.lane[i].at[rank] != b->model.lane[i].stored[slot])
                rank++;
            must(r, i, rank < b->model.lane[i].n && place[rank] == (float)(slot + 1),
                 kv_format(r->s->arena, "position %d is not in slot %lld of the storage", b->model.lane[i].stored[slot],
                           (long long)slot));
        }
    }
}

static void compare_runners(struct runner *a, struct runner *b)
{
    int64_t heads = a->c.shape->store_heads;
    for (int64_t i = 0; i < a->c.lanes; i++) {
        const uint64_t *x = kv_cache_set(&a->c, i / heads, i % heads), *y = kv_cache_set(&b->c, i / heads, i % heads);
        must(b, i, !memcmp(x, y, 8 * (size_t)kv_words(a->c.seen)),
             kv_format(a->s->arena, "another set: layers %s, on the paths '%s' and '%s'",
                       b->order == THREADS ? "on two threads" : "from the last", b->work[0].select->name,
                       b->work[1].select->name));
        must(b, i, a->c.lane[i].ties == b->c.lane[i].ties, "another number of ties");
    }
}

/* ---- ledgers ---- */

static struct kv_ledger walk_alone(struct subject *s, int64_t limit)
{
    s->walk.limit = limit;
    return count(s, 1);
}

/* Passes that nothing leaves or is observed at are told at once. */
static void run_at_once(struct runner *r, int64_t limit)
{
    struct dice dice = dice_for(96, r->s->draw.number);
    struct kv_pass pass;
    while (kv_cache_next(&r->c, limit, &pass)) {
        bool calm = !pass.evict && !r->s->shape.window && !r->s->policy.score->observes;
        int64_t passes = calm ? roll_size(&dice, 1, pass.repeat) : 1;
        begin(r, &pass, passes);
        if (passes == 1)
            hand_layers(r);
        kv_cache_end(&r->c);
        if (one_in(&dice, 4))
            kv_cache_set(&r->c, 0, 0);
    }
}

static void compare_counts(struct subject *s, struct runner *a, struct runner *other, int64_t limit)
{
    struct runner once;
    must_agree(s, "another order of layers", &other->c.ledger, &a->c.ledger, true);
    open_runner(&once, s, a->pick, FORWARD, 0);
    run_at_once(&once, limit);
    compare_runners(a, &once);
    must_agree(s, "passes told at once", &once.c.ledger, &a->c.ledger, true);
    close_runner(&once);
    if (draw_shares(&s->draw))
        return;
    struct kv_ledger walked = walk_alone(s, limit);
    must_agree(s, "the cache against lengths alone", &a->c.ledger, &walked, walked.in_place);
}

/* ---- a request ---- */

static void check_after(struct runner *a, struct runner *other, struct brute *b, const struct kv_pass *pass,
                        const struct watch *watch)
{
    for (int64_t i = 0; i < a->c.lanes; i++)
        check_lane(a, pass, watch, i);
    for (int64_t layer = 0; layer < a->c.shape->layers && draw_shares(b->d); layer++)
        check_sharing(a, watch, layer);
    compare_runners(a, other);
    add_pass(b, pass);
    compare_sets(a, b);
    compare_storage(a, b);
    must_agree(a->s, kv_format(a->s->arena, "pass %lld against tokens", (long long)pass->index), &a->c.ledger, &b->sum,
               true);
}

struct lists {
    struct brute brute;
    struct pick pick;
    struct runner runner, other;
    struct watch watch;
    struct bench *bench;
};

static void check_request(struct lists *l, struct subject *s)
{
    struct dice dice = dice_for(95, s->draw.number);
    struct runner *a = &l->runner, *other = &l->other;
    struct kv_pass pass;
    int64_t limit = one_in(&dice, 4) ? s->policy.when.patch + roll_size(&dice, 1, 400) : INT64_MAX;
    struct kv_rules read;
    bool reads = one_in(&dice, 2); /* what a program has, that was not told of the draw */
    if (reads && !kv_rules_read(&read, &s->policy, &s->shape, &s->draw.request, s->arena, &s->e))
        fail_draw(s, s->e.text);
    pick_start(&l->pick, &l->brute, &s->draw, reads ? &read : NULL, s->arena);
    l->pick.subject = &a->c;
    open_runner(a, s, &l->pick, FORWARD, s->draw.number);
    open_runner(other, s, &l->pick, one_in(&dice, 5) ? THREADS : BACKWARD,
                s->draw.number + 1 + (uint64_t)one_in(&dice, 2));
    while (kv_cache_next(&a->c, limit, &pass)) {
        look_before(a, &pass, &l->watch);
        begin(a, &pass, 1);
        check_wants(a, &l->watch);
        hand_layers(a);
        kv_cache_end(&a->c);
        begin(other, &pass, 1);
        hand_layers(other);
        kv_cache_end(&other->c);
        check_after(a, other, &l->brute, &pass, &l->watch);
    }
    compare_counts(s, a, other, limit);
    close_runner(a);
    close_runner(other);
}

/* share: what is kept, where the law takes a share; NAN: left to chance. */
static void check_draw(struct lists *l, const struct limits *most, uint64_t purpose, uint64_t number,
                       const struct kv_kind *kind, double share)
{
    struct subject s = {0};
    draw_within(&s.draw, most, purpose, number, kind);
    if (s.draw.rule == KV_RULE_UNKNOWN || !parts_fit(&s.draw))
        return;
    if (!isnan(share) && s.draw.law->budget & KV_BUDGET_SHARE) {
        s.draw.share = share;
        s.draw.share_form = 0;
        s.draw.tokens = 0;
    }
    prepare(&s, l->bench);
    check_request(l, &s);
    done(&s);
}

static struct lists *open_lists(void **state)
{
    struct lists *l = calloc(1, sizeof *l);
    l->bench = *state;
    return l;
}

static void test_kinds(void **state)
{
    struct lists *l = open_lists(state);
    for (int k = 0; kv_kinds[k]; k++)
        for (uint64_t i = 0; i < KIND_DRAWS; i++)
            check_draw(l, &small_draws, FOR_KINDS + 100 * (uint64_t)k, i, kv_kinds[k], NAN);
    free(l);
}

static bool is_first_with(int kind, bool by_law)
{
    for (int k = 0; k < kind; k++)
        if (by_law ? kv_kinds[k]->law == kv_kinds[kind]->law : kv_kinds[k]->score == kv_kinds[kind]->score)
            return false;
    return kv_kinds[kind]->law->room != NULL;
}

/* Every law with every score. */
static void test_pairs(void **state)
{
    struct lists *l = open_lists(state);
    for (int k = 0; kv_kinds[k]; k++)
        for (int other = 0; is_first_with(k, true) && kv_kinds[other]; other++) {
            struct limits pair = small_draws;
            pair.law = kv_kinds[k]->law;
            pair.score = kv_kinds[other]->score;
            for (uint64_t i = 0; i < PAIR_DRAWS && is_first_with(other, false); i++)
                check_draw(l, &pair, FOR_PAIRS + 100 * (uint64_t)(k * 100 + other), i, kv_kinds[k], NAN);
        }
    free(l);
}

/* Keeping everything and nothing: no policy, and the guard alone. */
static void test_extremes(void **state)
{
    struct lists *l = open_lists(state);
    for (int k = 0; kv_kinds[k]; k++)
        for (uint64_t i = 0; i < ALL_DRAWS; i++)
            check_draw(l, &small_draws, FOR_ALL, i, kv_kinds[k], (double)(i % 2));
    free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_kinds, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_pairs, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_extremes, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
