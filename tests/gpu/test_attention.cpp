/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Attention over ragged pages against plain sums in fp64, from the same numbers, whatever they are stored as. What a
 * kernel has no business with is NaN: pages that nobody has, entries behind the end, results before they are written.
 */
#include "tests/gpu/entries.h"
#ifdef KV_EMULATED
#include "tests/gpu/emulate_hopper.h"
#endif

#include <cmath>
#include <cstdlib>
#include <vector>

typedef std::vector<int32_t> ints;

struct part_asked {
    int heads, n_new, n_patch;
    bool slots;
    ints length; /* of the heads; repeated where there are more */
};

struct asked {
    int d, page, q_heads, kv_heads, multiprocessors;
    std::vector<part_asked> parts;
    float peak; /* factor of queries: the higher, the fewer entries matter */
    enum kv_cuda_entry kind = KV_CUDA_BF16;
};

enum { LAYERS = 2, LAYER = 1, POSITIONS = 4096 };

struct lane_numbers {
    std::vector<double> k, v;
};

struct world {
    asked a;
    struct kv_gpu *g;
    kv_cuda_shape shape;
    void *pool; /* as the host filled it; kernels have a copy */
    kv_query *q;
    kv_bf16 *out;
    int64_t pages;
    float *cosine, *sine, *lse;
    std::vector<std::vector<lane_numbers>> lane; /* of the layer: part, head */
    kv_cuda_part *part;
    int n_parts;
    std::vector<const int32_t *> length; /* of the parts */
    int64_t rows;
    uint64_t seed;
};

static uint64_t draw(world *w)
{
    w->seed ^= w->seed << 13;
    w->seed ^= w->seed >> 7;
    w->seed ^= w->seed << 17;
    return w->seed >> 11;
}

/* Something like a normal number. */
static double draw_normal(world *w, float factor)
{
    double sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (double)(draw(w) % 4096) / 4096 - 0.5;
    return (double)((float)(sum * 1.7) * factor);
}

static double of(kv_bf16 x)
{
    return (double)from_bf16(x);
}

static int tokens_of(const part_asked &p)
{
    return p.n_new + p.n_patch;
}

static int length_of(const part_asked &p, int layer, int head)
{
    int n = p.length[(size_t)head % p.length.size()];
    return layer == LAYER ? n : n / 2;
}

static void make_tables(world *w)
{
    int half = w->a.d / 2;
    w->cosine = room<float>(w->g, POSITIONS * half);
    w->sine = room<float>(w->g, POSITIONS * half);
    for (int i = 0; i < POSITIONS; i++)
        for (int k = 0; k < half; k++) {
            double angle = i * std::pow(10000.0, -(double)k / half);
            w->cosine[i * half + k] = (float)std::cos(angle);
            w->sine[i * half + k] = (float)std::sin(angle);
        }
}

static void fill_lane(world *w, const int32_t *table, int n, lane_numbers *numbers)
{
    int64_t page = w->a.page, d = w->a.d;
    for (int64_t i = 0; i < n; i++)
        for (int64_t which = 0; which < 2; which++)
            for (int64_t c = 0; c < d; c++) {
                int64_t at = (((int64_t)table[i / page] * 2 + which) * page + i % page) * d + c;
                put_element(w->a.kind, w->pool, at, draw_normal(w, 1));
                (which ? numbers->v : numbers->k).push_back(element_at(w->a.kind, w->pool, at));
            }
}

/* Pages of all lanes, and of a few more; their numbers in no order. */
static ints make_pool(world *w, int32_t *table_room)
{
    const asked &a = w->a;
    int32_t pages = 3;
    ints numbers;
    *table_room = 1;
    for (const part_asked &p : a.parts)
        for (int layer = 0; layer < LAYERS; layer++)
            for (int h = 0; h < p.heads; h++) {
                int32_t n = (length_of(p, layer, h) + tokens_of(p) + a.page - 1) / a.page;
                pages += n;
                *table_room = n + 1 > *table_room ? n + 1 : *table_room;
            }
    w->pages = pages;
    w->pool = room<uint8_t>(w->g, (int64_t)pages * 2 * a.page * a.d * kv_cuda_entry_bytes(a.kind));
    for (int32_t i = 0; i < pages; i++)
        numbers.push_back(i);
    for (size_t i = numbers.size() - 1; i; i--)
        std::swap(numbers[i], numbers[(size_t)draw(w) % (i + 1)]);
    return numbers;
}

static void make_part(world *w, const part_asked &p, int32_t table_room, ints *free_pages)
{
    kv_cuda_part *to = &w->part[w->n_parts++];
    int32_t *table = room<int32_t>(w->g, LAYERS * p.heads * table_room),
            *length = room<int32_t>(w->g, LAYERS * p.heads);
    std::vector<lane_numbers> lanes((size_t)p.heads);
    for (int layer = 0; layer < LAYERS; layer++)
        for (int h = 0; h < p.heads; h++) {
            int at = layer * p.heads + h, n = length_of(p, layer, h) + tokens_of(p);
            for (int i = 0; i * w->a.page < n; i++, free_pages->pop_back())
                table[at * table_room + i] = free_pages->back();
            length[at] = n - tokens_of(p);
            if (layer == LAYER)
                fill_lane(w, table + at * table_room, n, &lanes[(size_t)h]);
        }
    *to = {table, length, table_room, p.heads, (int32_t)w->rows, p.n_new, p.n_patch, 0, p.slots, nullptr, 0,
           nullptr, nullptr, nullptr, 0};
    w->rows += tokens_of(p);
    w->length.push_back(length);
    w->lane.push_back(lanes);
}

/* Where orders copy to, rather than the host. */
static char *device_room(struct kv_gpu *g, int64_t bytes)
{
    char *at;
    struct kv_err e = {};
    if (!kv_gpu_new(g, &at, bytes, 1, "work", &e))
        fail_msg("%s", e.text);
    return at;
}

static world *make_world(struct kv_gpu *g, const asked &a, uint64_t seed)
{
    world *w = new world();
    int32_t table_room;
    w->a = a;
    w->g = g;
    w->seed = seed * 0x9e3779b97f4a7c15u + 1;
    make_tables(w);
    ints free_pages = make_pool(w, &table_room);
    w->part = room<kv_cuda_part>(g, (int64_t)a.parts.size());
    for (const part_asked &p : a.parts)
        make_part(w, p, table_room, &free_pages);
    w->q = room<kv_query>(g, w->rows * a.q_heads * a.d);
    w->out = room<kv_bf16>(g, w->rows * a.q_heads * a.d);
    w->lse = room<float>(g, w->rows * a.q_heads);
    for (int64_t i = 0; i < w->rows * a.q_heads * a.d; i++)
        put_element(query_kind(a.kind), w->q, i, draw_normal(w, a.peak));
    int64_t bytes = w->pages * 2 * a.page * a.d * kv_cuda_entry_bytes(a.kind);
    w->shape = {LAYERS, a.q_heads, a.kv_heads, a.d, a.page, device_room(g, bytes), w->cosine, w->sine, a.kind, 0};
    kv_gpu_put(g, w->shape.pool, w->pool, (size_t)bytes);
    return w;
}

static void drop_world(world *w)
{
    for (int p = 0; p < w->n_parts; p++)
        drop(w->g, w->part[p].table, w->part[p].length);
    drop(w->g, w->pool, w->q, w->out, w->cosine, w->sine, w->lse, w->part);
    kv_gpu_delete(w->g, w->shape.pool);
    delete w;
}

static long pieces; /* that lanes were split into, in all */

static void run(world *w)
{
    const asked &a = w->a;
    memset(w->out, 0xff, (size_t)(w->rows * a.q_heads * a.d) * sizeof *w->out);
    memset(w->lse, 0xff, (size_t)(w->rows * a.q_heads) * sizeof *w->lse);
    const_cast<struct kv_gpu_facts *>(kv_gpu_about(w->g))->multiprocessors = a.multiprocessors;
    struct kv_cuda_attention_size size;
    kv_cuda_attention_measure(&w->shape, w->part, w->n_parts, a.multiprocessors, &size);
    char *work = device_room(w->g, size.work_bytes), *lists = room<char>(w->g, size.list_bytes);
    kv_cuda_attention_lists(&w->shape, w->part, w->length.data(), w->n_parts, a.multiprocessors, LAYER, &size, lists);
    const struct kv_cuda_attention_counts *n = (const struct kv_cuda_attention_counts *)(const void *)lists;
    pieces += n->pieces[0] + n->pieces[1];
    kv_cuda_attention(w->g, &w->shape, w->part, &size, LAYER, w->q, w->out, w->lse, lists, work);
    wait_for(w->g);
    kv_gpu_delete(w->g, work);
    drop(w->g, lists);
}

/* Matrix units want what queries are, so parts of many tokens have their rotated rows rounded to it. */
static bool rounds(const world *w, size_t p)
{
    return tokens_of(w->a.parts[p]) > 1 && (w->a.d == 32 || w->a.d == 64 || w->a.d == 128);
}

static void rotate(const world *w, size_t p, double *x, int64_t position)
{
    int half = w->a.d / 2;
    for (int i = 0; i < half; i++) {
        float cosine = w->cosine[position * half + i], sine = w->sine[position * half + i];
        double first = x[i], second = x[i + half];
        x[i] = first * (double)cosine - second * (double)sine;
        x[i + half] = second * (double)cosine + first * (double)sine;
        for (int k = i; rounds(w, p) && k < w->a.d; k += half)
            x[k] = rounded_to(query_kind(w->a.kind), x[k]);
    }
}

/* One row of one query head; gives its lse. */
static double reference(const world *w, size_t p, const std::vector<double> &keys, const std::vector<double> &values,
                        int token, int head, std::vector<double> *out)
{
    int64_t d = w->a.d, old = w->length[p][LAYER * w->part[p].heads + head * w->part[p].heads / w->a.q_heads];
    int64_t seen = old + token + 1;
    std::vector<double> q((size_t)d), s((size_t)seen);
    double top = -INFINITY, sum = 0;
    for (int64_t c = 0; c < d; c++)
        q[(size_t)c] =
            element_at(query_kind(w->a.kind), w->q, ((w->part[p].first + token) * w->a.q_heads + head) * d + c);
    if (w->a.parts[p].slots)
        rotate(w, p, q.data(), old + token);
    for (int64_t i = 0; i < seen; i++) {
        for (int64_t c = 0; c < d; c++)
            s[(size_t)i] += q[(size_t)c] * keys[(size_t)(i * d + c)];
        s[(size_t)i] /= std::sqrt((double)d);
        top = std::fmax(top, s[(size_t)i]);
    }
    out->assign((size_t)d, 0);
    for (int64_t i = 0; i < seen; i++) {
        double weight = std::exp(s[(size_t)i] - top);
        sum += weight;
        for (int64_t c = 0; c < d; c++)
            (*out)[(size_t)c] += weight * values[(size_t)(i * d + c)];
    }
    for (double &x : *out)
        x /= sum;
    return top + std::log(sum);
}

/* A row's errors, as parts of its range. */
static void compare_row(const world *w, size_t p, int token, int head, double lse, const std::vector<double> &want,
                        double most[2])
{
    int64_t d = w->a.d, at = (w->part[p].first + token) * (int64_t)w->a.q_heads + head;
    bool rotated = w->a.parts[p].slots && rounds(w, p); /* now and then to the other side */
    double range = 0, error = 0, is = (double)w->lse[at];
    for (int64_t c = 0; c < d; c++) {
        double difference = std::fabs(of(w->out[at * d + c]) - want[(size_t)c]);
        range = std::fmax(range, std::fabs(want[(size_t)c]));
        error = difference <= error ? error : difference; /* a NaN stays */
    }
    double out_error = error / range, lse_error = std::fabs(is - lse) / std::fmax(1, std::fabs(lse));
    if (!(out_error <= 8e-3) || !(lse_error <= (rotated ? 1e-3 : 1e-5)))
        fail_msg("%s, d %d, part %d, token %d, head %d: output off by %g of its range, lse %g instead of %g",
                 entry_names[w->a.kind], w->a.d, (int)p, token, head, out_error, is, lse);
    most[0] = std::fmax(most[0], out_error);
    most[1] = std::fmax(most[1], lse_error);
}

static void compare(const world *w)
{
    double most[2] = {0, 0};
    std::vector<double> want;
    for (size_t p = 0; p < w->a.parts.size(); p++)
        for (int h = 0; h < w->part[p].heads; h++) {
            int group = w->a.q_heads / w->part[p].heads;
            std::vector<double> keys = w->lane[p][(size_t)h].k;
            for (size_t i = 0; w->a.parts[p].slots && i * (size_t)w->a.d < keys.size(); i++)
                rotate(w, p, keys.data() + i * (size_t)w->a.d, (int64_t)i);
            for (int t = 0; t < tokens_of(w->a.parts[p]); t++)
                for (int head = h * group; head < (h + 1) * group; head++) {
                    double lse = reference(w, p, keys, w->lane[p][(size_t)h].v, t, head, &want);
                    compare_row(w, p, t, head, lse, want, most);
                }
        }
    if (std::getenv("KV_TEST_SAYS"))
        print_message("%s d %d page %d heads %d/%d: output %.2g, lse %.2g\n", entry_names[w->a.kind], w->a.d, w->a.page,
                      w->a.q_heads, w->a.kv_heads, most[0], most[1]);
}

/* So far: matrices whose rows lay in the same banks; blocks that prefilled as Hopper does; boxes that those had copied.
 * Only an emulated device counts. */
#ifdef KV_EMULATED
enum { COUNTS = 1 };
static long conflicts(void)
{
    return kv_emulated_conflicts;
}
static long hopper_blocks(void)
{
    return kv_emulated_blocks("attention_hopper");
}
static long boxes(void)
{
    return kv_emulated_boxes_copied();
}
#else
enum { COUNTS = 0 };
static long conflicts(void)
{
    return 0;
}
static long hopper_blocks(void)
{
    return 0;
}
static long boxes(void)
{
    return 0;
}
#endif

/* Tiles that the Hopper kernel has of it; also the boxes of pages that their last rows see. */
static int hopper_tiles(const asked &a, long *all)
{
    int n = 0;
    *all = 0;
    for (const part_asked &p : a.parts) {
        int group = a.q_heads / p.heads, rows = tokens_of(p) * group;
        if (a.page != 64 || (a.d != 64 && a.d != 128) || a.kind != KV_CUDA_BF16 || p.slots || tokens_of(p) == 1)
            continue;
        for (int h = 0; h < p.heads; h++)
            for (int first = 0; first < rows; first += 128, n++) {
                int behind = first + 128 < rows ? first + 128 : rows;
                *all += (length_of(p, LAYER, h) + (behind - 1) / group + 1 + 63) / 64 * (a.d / 64) * 2;
            }
    }
    return n;
}

/* With a pool of unknown size, which leaves all to kernels for any device, and, where another fits, of a known one. */
static void check_kind(struct kv_gpu *g, const asked &a, uint64_t seed)
{
    world *w = make_world(g, a, seed);
    long before = conflicts(), blocks = hopper_blocks(), copied = boxes(), all;
    int tiles = hopper_tiles(a, &all);
    run(w);
    assert_int_equal(conflicts(), before);
    assert_int_equal(hopper_blocks(), blocks);
    compare(w);
    w->shape.pages = w->pages;
    if (tiles) {
        run(w);
        if (COUNTS) {
            assert_int_equal(hopper_blocks() - blocks, tiles < a.multiprocessors ? tiles : a.multiprocessors);
            assert_int_equal(boxes() - copied, all);
        }
        compare(w);
    }
    drop_world(w);
}

static void check(struct kv_gpu *g, asked a, uint64_t seed)
{
    for (enum kv_cuda_entry kind : entry_kinds) {
        a.kind = kind;
        check_kind(g, a, seed);
    }
}

/* Decode: lanes of one entry, at edges of pages, of several pieces; raggedly. */
static void test_one_token(void **)
{
    struct kv_gpu *g = open_device();
    for (int d : {32, 64, 128})
        for (int group : {1, 2, 3, 8}) {
            int heads = d == 64 ? 3 : 2;
            check(g, {d, d == 128 ? 64 : 16, heads * group, heads, 3, {{heads, 1, 0, false, {0, 700, 15}}}, 3},
                  (uint64_t)(d + group));
        }
    check(g,
          {128, 16, 8, 2, 3, {{2, 1, 0, false, {63, 1}}, {2, 1, 0, false, {64, 129}}, {2, 1, 0, false, {0, 255}}}, 3},
          1);
    check(g, {64, 4, 8, 2, 5, {{2, 1, 0, false, {1500, 33}}, {2, 0, 1, false, {511, 7}}}, 3}, 2);
    check(g, {64, 5, 20, 2, 4, {{2, 1, 0, false, {513, 40}}, {20, 1, 0, false, {300, 0, 31}}}, 3}, 3);
    kv_gpu_close(g);
}

/* Any even d, any rows. */
static void test_plain(void **)
{
    struct kv_gpu *g = open_device();
    for (int d : {2, 8, 16, 40, 96, 256})
        check(g,
              {d,
               d == 8 ? 4 : 16,
               4,
               2,
               2,
               {{2, 1, 0, false, {0, 37}},
                {2, 6, 3, false, {31, 0}},
                {2, 17, 0, true, {5, 64}},
                {4, 1, 0, true, {20, 3}}},
               3},
              (uint64_t)d);
    check(g, {8, 64, 8, 1, 2, {{1, 9, 0, false, {60}}}, 3}, 7);
    kv_gpu_close(g);
}

static void test_one_token_slots(void **)
{
    struct kv_gpu *g = open_device();
    for (int d : {32, 64, 128})
        check(g,
              {d, 16, 8, 2, 3, {{2, 1, 0, true, {0, 600}}, {2, 1, 0, false, {77, 20}}, {2, 1, 0, true, {31, 300}}}, 2},
              (uint64_t)d);
    kv_gpu_close(g);
}

/* Tiles of 128 rows: parts that end in the first or just behind it, lanes that were empty, at edges of tiles and pages.
 */
static void test_many_tokens(void **)
{
    struct kv_gpu *g = open_device();
    check(g, {64, 64, 4, 1, 2, {{1, 33, 0, false, {31}}}, 3}, 1);
    check(g, {64, 16, 2, 2, 2, {{2, 65, 0, false, {0, 63}}, {2, 2, 0, false, {1, 64}}}, 3}, 2);
    check(g, {64, 4, 8, 1, 2, {{1, 17, 2, false, {130}}}, 3}, 3);
    check(g, {32, 16, 6, 2, 2, {{2, 50, 0, false, {7, 128}}, {6, 9, 1, false, {0, 5}}}, 3}, 4);
    check(g, {32, 16, 8, 1, 2, {{1, 48, 0, false, {20}}}, 3}, 8);
    check(g, {128, 64, 4, 1, 2, {{1, 34, 0, false, {95}}}, 3}, 5);
    check(g, {128, 48, 14, 2, 2, {{2, 10, 1, false, {0, 117}}}, 3}, 6);
    check(g, {64, 128, 1, 1, 2, {{1, 140, 0, false, {60}}}, 3}, 7);
    kv_gpu_close(g);
}

static void test_many_tokens_slots(void **)
{
    struct kv_gpu *g = open_device();
    check(g, {32, 16, 2, 1, 2, {{1, 70, 0, true, {9}}}, 2}, 1);
    check(g, {64, 64, 8, 2, 2, {{2, 17, 1, true, {0, 100}}, {2, 3, 0, false, {64, 2}}}, 2}, 2);
    check(g, {128, 16, 4, 1, 2, {{1, 5, 0, true, {70}}}, 2}, 3);
    kv_gpu_close(g);
}

/* Scores whose exponentials are far out of range, either way. */
static void test_far_scores(void **)
{
    struct kv_gpu *g = open_device();
    check(
        g,
        {64, 16, 4, 2, 3, {{2, 1, 0, false, {900, 30}}, {2, 20, 0, false, {100, 0}}, {2, 1, 0, true, {300, 40}}}, 200},
        1);
    check(g, {16, 16, 4, 2, 3, {{2, 1, 0, false, {90, 30}}, {2, 20, 0, false, {100, 0}}}, 200}, 2);
    kv_gpu_close(g);
}

/* Anything, small. */
static void test_anything(void **)
{
    struct kv_gpu *g = open_device();
    for (uint64_t seed = 1; seed <= 36; seed++) {
        world r = {};
        r.seed = seed * 7919 + 5;
        auto below = [&](int n) { return (int)(draw(&r) % (uint64_t)n); };
        const int sizes[] = {8, 16, 32, 32, 64, 64, 128, 128}, pages[] = {1, 4, 16, 64, 7},
                  groups[] = {1, 2, 4, 5, 8, 12};
        draw(&r);
        int d = sizes[below(8)], kv_heads = 1 + below(2), group = groups[below(6)];
        asked a = {d, pages[below(5)], kv_heads * group, kv_heads, 1 + below(4), {}, 3};
        for (int parts = 1 + below(4); parts; parts--) {
            bool alone = below(2);
            int tokens = alone ? 1 : 1 + below(d == 128 ? 12 : 24), patch = below(3) ? 0 : below(tokens + 1);
            part_asked p = {below(4) ? kv_heads : kv_heads * group, tokens - patch, patch, below(3) == 0, {}};
            for (int h = 0; h < p.heads; h++)
                p.length.push_back(below(3) ? below(140) : below(3) * 64 - (below(2) && alone));
            for (int32_t &n : p.length)
                n = n < 0 ? 0 : n;
            a.parts.push_back(p);
        }
        a.kind = entry_kinds[seed % ENTRY_KINDS];
        check_kind(g, a, seed);
    }
    kv_gpu_close(g);
}

/* Lanes of one token fill the device, however long each is; where they are more, they are cut into several turns. */
static void test_full_device(void **)
{
    struct kv_gpu *g = open_device();
    struct fill {
        asked a;
        int least, most;
    };
    const fill fills[] = {
        {{32, 64, 4, 4, 4, {{4, 1, 0, false, {2000}}}, 3}, 8, 8},
        {{32, 64, 4, 4, 4, {{4, 1, 0, false, {4000, 10, 10, 10}}}, 3}, 8, 8},
        {{32, 64, 4, 4, 4, {{4, 1, 0, false, {200}}}, 3}, 4, 4},
        {{32, 64, 8, 1, 4, {{1, 1, 0, false, {1500}}}, 3}, 4, 4},
        {{32, 64, 5, 5, 2, {{5, 1, 0, false, {3000, 10, 20, 30, 40}}}, 3}, 14, 20},
    };
    for (const fill &f : fills) {
        long before = pieces;
        check_kind(g, f.a, 17);
        assert_in_range(pieces - before, f.least, f.most);
    }
    kv_gpu_close(g);
}

/* One token, and a few, of lanes of 128K entries and of hardly any. */
static void test_long_lanes(void **)
{
    only_where_long_is_quick();
    struct kv_gpu *g = open_device();
    check(g, {128, 64, 8, 2, 132, {{2, 1, 0, false, {LONG - 1, 40}}}, 3}, 1);
    check(g, {128, 16, 4, 1, 132, {{1, 1, 0, false, {LONG - 1}}, {1, 1, 0, false, {7}}}, 3}, 2);
    check(g, {64, 64, 2, 2, 132, {{2, 1, 0, false, {LONG - 77, LONG - 1}}}, 3}, 3);
    check(g, {128, 64, 4, 1, 132, {{1, 12, 0, false, {LONG - 12}}}, 3}, 4);
    check(g, {64, 16, 2, 1, 132, {{1, 17, 2, false, {LONG - 19}}}, 3}, 5);
    kv_gpu_close(g);
}

/* However many pieces: the same up to rounding; twice: the same bits. */
static void test_same_again(void **)
{
    struct kv_gpu *g = open_device();
    asked a = {64, 16, 8, 2, 1, {{2, 1, 0, false, {1400, 600}}, {2, 5, 0, false, {70, 3}}, {2, 1, 0, true, {300, 2}}},
               3};
    for (int multiprocessors : {1, 2, 3, 7}) {
        a.multiprocessors = multiprocessors;
        a.kind = entry_kinds[multiprocessors % ENTRY_KINDS];
        world *w = make_world(g, a, 11);
        run(w);
        compare(w);
        std::vector<kv_bf16> out(w->out, w->out + w->rows * a.q_heads * a.d);
        std::vector<float> lse(w->lse, w->lse + w->rows * a.q_heads);
        run(w);
        assert_memory_equal(out.data(), w->out, out.size() * sizeof out[0]);
        assert_memory_equal(lse.data(), w->lse, lse.size() * sizeof lse[0]);
        drop_world(w);
    }
    kv_gpu_close(g);
}

/* What wgmma and bulk copies are for: lanes that end at edges of pages, of 128 keys and beside them, more tiles than
 * blocks, rows for one warpgroup only, lanes of one page, groups that 128 is no multiple of. */
static void test_hopper(void **)
{
    struct kv_gpu *g = open_device();
    check(g, {64, 64, 4, 1, 1, {{1, 33, 0, false, {95}}}, 3}, 1);
    check(g, {128, 64, 2, 2, 3, {{2, 64, 0, false, {0, 64}}, {2, 65, 0, false, {63, 191}}}, 3}, 2);
    check(g, {128, 64, 8, 1, 2, {{1, 70, 0, false, {250}}}, 3}, 3);
    check(g, {64, 64, 3, 1, 1, {{1, 100, 3, false, {0}}, {1, 2, 0, false, {700}}}, 3}, 4);
    check(g, {128, 64, 5, 1, 2, {{5, 30, 1, false, {1, 126, 62, 129, 0}}, {1, 27, 0, false, {100}}}, 3}, 5);
    check(g, {64, 64, 12, 2, 4, {{2, 2, 0, false, {126, 1020}}, {2, 40, 0, false, {640, 5}}}, 3}, 6);
    check(g, {128, 64, 7, 1, 3, {{1, 19, 0, false, {385}}, {1, 9, 0, true, {40}}, {1, 1, 0, false, {300}}}, 3}, 7);
    check(g, {128, 64, 1, 1, 2, {{1, 300, 0, false, {83}}}, 200}, 8);
    kv_gpu_close(g);
}

/* Any lengths. */
static void test_hopper_anything(void **)
{
    struct kv_gpu *g = open_device();
    for (uint64_t seed = 1; seed <= 16; seed++) {
        world r = {};
        r.seed = seed * 6007 + 3;
        auto below = [&](int n) { return (int)(draw(&r) % (uint64_t)n); };
        draw(&r);
        int kv_heads = 1 + below(2), group = 1 + below(8);
        asked a = {below(2) ? 128 : 64, 64, kv_heads * group, kv_heads, 1 + below(5), {}, 3};
        for (int parts = 1 + below(3); parts; parts--) {
            int tokens = 2 + below(260 / group), patch = below(3) ? 0 : below(tokens + 1);
            part_asked p = {below(4) ? kv_heads : kv_heads * group, tokens - patch, patch, false, {}};
            for (int h = 0; h < p.heads; h++)
                p.length.push_back(below(4) ? below(600) : below(3) * 64 + below(2));
            a.parts.push_back(p);
        }
        check(g, a, seed);
    }
    kv_gpu_close(g);
}

/* However many blocks there are: the same bits. */
static void test_hopper_same_again(void **)
{
    struct kv_gpu *g = open_device();
    asked a = {64, 64, 4, 2, 1, {{2, 150, 0, false, {70, 300}}, {2, 5, 0, false, {1, 3}}}, 3};
    std::vector<kv_bf16> out;
    std::vector<float> lse;
    for (int multiprocessors : {1, 2, 2, 7, 50}) {
        a.multiprocessors = multiprocessors;
        world *w = make_world(g, a, 11);
        w->shape.pages = w->pages;
        run(w);
        if (out.empty()) {
            out.assign(w->out, w->out + w->rows * a.q_heads * a.d);
            lse.assign(w->lse, w->lse + w->rows * a.q_heads);
        }
        assert_memory_equal(out.data(), w->out, out.size() * sizeof out[0]);
        assert_memory_equal(lse.data(), w->lse, lse.size() * sizeof lse[0]);
        drop_world(w);
    }
    kv_gpu_close(g);
}

/* Another device, and a pool with more rows than a bulk copy can count, go without it. */
static void test_hopper_refuses(void **)
{
    struct kv_gpu *g = open_device();
    struct kv_gpu_facts *facts = const_cast<struct kv_gpu_facts *>(kv_gpu_about(g)), real = *facts;
    world *w = make_world(g, {64, 64, 4, 1, 2, {{1, 40, 0, false, {95}}}, 3}, 3);
    long before = hopper_blocks();
    w->shape.pages = w->pages;
    facts->major = 8;
    run(w);
    compare(w);
    facts->major = real.major;
    facts->minor = real.minor + 1;
    run(w);
    compare(w);
    facts->minor = real.minor;
    w->shape.pages = INT64_C(1) << 24;
    run(w);
    compare(w);
    assert_int_equal(hopper_blocks(), before);
    drop_world(w);
    kv_gpu_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_token),
        cmocka_unit_test(test_one_token_slots),
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_many_tokens),
        cmocka_unit_test(test_many_tokens_slots),
        cmocka_unit_test(test_far_scores),
        cmocka_unit_test(test_full_device),
        cmocka_unit_test(test_anything),
        cmocka_unit_test(test_same_again),
        cmocka_unit_test(test_hopper),
        cmocka_unit_test(test_hopper_anything),
        cmocka_unit_test(test_hopper_same_again),
        cmocka_unit_test(test_hopper_refuses),
        cmocka_unit_test(test_long_lanes),
    };
    need_device();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
