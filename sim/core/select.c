/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The choice of path, what they share, and the path of plain C. Inner loops of a fixed length are there for the
 * compiler: at -O2 gcc makes vectors of such loops only. */
#include "sim/core/select_paths.h"
#include "sim/core/error.h"

#include <math.h>
#include <stdlib.h>

/* Without the instruction, __builtin_popcountll is a call. */
static inline int64_t ones(uint64_t x)
{
    x -= x >> 1 & UINT64_C(0x5555555555555555);
    x = (x & UINT64_C(0x3333333333333333)) + (x >> 2 & UINT64_C(0x3333333333333333));
    x = (x + (x >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
    return (int64_t)(x * UINT64_C(0x0101010101010101) >> 56);
}

static inline uint64_t low_bits(int64_t n) /* 0 <= n <= 63 */
{
    return (UINT64_C(1) << n) - 1;
}

/* ---- top: a bracket around the k-th score, what lies in it, and its exact place there ---- */

enum {
    SMALL = 2048, /* so few that all are in the bracket */
    FEW = 4096,   /* so few that halving beats a histogram */
    COPIES = 4,   /* of the histogram: equal scores in a row would wait for each other's store */
    BINS = 4096
};

/* The keys in [low, high]: m of them are at hand, `above` are higher. */
struct bracket {
    int32_t low, high;
    int64_t m, above;
};

struct cut {
    int32_t key;
    int64_t equal, take; /* scores of that key, and how many of them are chosen */
};

/* Halves the bracket down to the key that at least k keys reach, or earlier, where at most `slack` more than k do. */
static struct cut halve(const struct kv_top_passes *pass, const int32_t *key, const struct bracket *b, int64_t k,
                        int64_t slack)
{
    int64_t low = b->low, high = (int64_t)b->high + 1, reach_low = b->above + b->m, reach_high = b->above;
    while (high - low > 1 && reach_low - k > slack) {
        int64_t middle = low + (high - low) / 2;
        int64_t reach = b->above + pass->count(key, b->m, (int32_t)middle);
        if (reach >= k) {
            low = middle;
            reach_low = reach;
        } else {
            high = middle;
            reach_high = reach;
        }
    }
    if (reach_low == k)
        return (struct cut){.key = (int32_t)low, .equal = 0, .take = INT64_MAX};
    return (struct cut){.key = (int32_t)low, .equal = reach_low - reach_high, .take = k - reach_high};
}

/* Two of the sample's scores that most likely have the k-th of all between them: 4 standard deviations. One draw from
 * each of equal stretches, at a place that follows no period. */
static struct bracket guess(const struct kv_top_passes *pass, const float *score, int64_t n, int64_t k, int32_t *sample)
{
    int64_t size = n < 32768 ? 512 : n < 262144 ? 1024 : 2048, stretch = n / size;
    for (int64_t i = 0; i < size; i++) {
        uint32_t draw = (uint32_t)i * UINT32_C(0x9e3779b1);
        sample[i] = kv_key_of(score[i * stretch + (int64_t)((draw * (uint64_t)stretch) >> 32)]);
    }
    double share = (double)k / (double)n, rank = share * (double)size;
    int64_t margin = (int64_t)(4 * sqrt(rank * (1 - share))) + 2;
    int64_t below = (int64_t)rank + margin, beyond = (int64_t)rank - margin;
    struct bracket b = {.low = INT32_MIN, .high = INT32_MAX, .m = size};
    if (below < size)
        b.low = halve(pass, sample, &b, below, 2 + margin / 4).key;
    if (beyond > 0)
        b.high = halve(pass, sample, &b, beyond, 0).key;
    return b;
}

static int bits_of(uint32_t x)
{
    return x ? 32 - __builtin_clz(x) : 0;
}

/* The bin in which the k-th key is, counted from above; *above goes up by what is in higher bins. */
static int64_t find_bin(const uint32_t *histogram, int64_t k, int64_t *above)
{
    for (int64_t bin = BINS - 1;; bin--) {
        const uint32_t *c = histogram + bin * COPIES;
        int64_t in = (int64_t)c[0] + c[1] + c[2] + c[3];
        if (*above + in >= k)
            return bin;
        *above += in;
    }
}

/* Makes the bracket 4096 times narrower and leaves the keys in it. */
static void narrow(struct bracket *b, int64_t k, int32_t *key, uint32_t *histogram)
{
    int width = bits_of((uint32_t)b->high - (uint32_t)b->low), shift = width > 12 ? width - 12 : 0;
    uint32_t low = (uint32_t)b->low;
    memset(histogram, 0, sizeof *histogram * COPIES * BINS);
    for (int64_t i = 0; i < b->m; i++)
        histogram[(((uint32_t)key[i] - low) >> shift) * COPIES + (uint32_t)(i % COPIES)]++;
    uint32_t bin = (uint32_t)find_bin(histogram, k, &b->above);
    int64_t m = 0;
    for (int64_t i = 0; i < b->m; i++) {
        int32_t own = key[i];
        key[m] = own;
        m += ((uint32_t)own - low) >> shift == bin;
    }
    int64_t first = (int64_t)b->low + ((int64_t)bin << shift), last = first + (INT64_C(1) << shift) - 1;
    b->low = (int32_t)first;
    b->high = last < b->high ? (int32_t)last : b->high;
    b->m = m;
}

int64_t kv_top_by(const struct kv_top_passes *pass, const float *score, int64_t n, int64_t k, uint64_t *mask,
                  struct kv_top_work *work)
{
    KV_ASSERT(0 <= k && k <= n);
    if (k == 0 || k == n) {
        memset(mask, 0, (size_t)kv_words(n) * sizeof *mask);
        kv_set_fill(mask, 0, k);
        return 0;
    }
    KV_ASSERT(n <= work->room);
    int32_t *key = (int32_t *)work->boundary;
    struct bracket b = {.low = INT32_MIN, .high = INT32_MAX};
    if (n > SMALL)
        b = guess(pass, score, n, k, key);
    b.m = pass->gather(score, n, b.low, b.high, key, &b.above);
    if (b.above >= k || b.above + b.m < k) {
        b = (struct bracket){.low = INT32_MIN, .high = INT32_MAX};
        b.m = pass->gather(score, n, b.low, b.high, key, &b.above);
    }
    while (b.m > FEW && b.low < b.high)
        narrow(&b, k, key, work->histogram);
    struct cut cut = halve(pass, key, &b, k, 0);
    pass->mark(score, n, kv_key_value(cut.key), cut.take, mask);
    return cut.equal > cut.take ? cut.equal : 0;
}

/* ---- plain C ---- */

static int64_t compress(const float *row, const uint64_t *set, int64_t n, float *out)
{
    int64_t rank = 0;
    for (int64_t w = 0; w < kv_words(n); w++) {
        const float *from = row + w * 64;
        uint64_t word = set[w];
        if (!~word) {
            memcpy(out + rank, from, 64 * sizeof *out);
            rank += 64;
            continue;
        }
        for (; word; word &= word - 1)
            out[rank++] = from[__builtin_ctzll(word)];
    }
    return rank;
}

/* Compiled once for sums, once for maxima. */
static inline __attribute__((always_inline)) void pool(const float *in, int64_t n, int width, bool adds, float *out)
{
    enum { BLOCK = 16 };
    int64_t half = width / 2, i = 0;
    for (; i < half && i < n; i++)
        out[i] = adds ? kv_pool_sum_at(in, n, half, i) : kv_pool_max_at(in, n, half, i);
    for (; i + BLOCK <= n - half; i += BLOCK) {
        const float *from = in + i - half;
        float own[BLOCK];
        memcpy(own, from, sizeof own);
        for (int j = 1; j < width; j++)
            for (int l = 0; l < BLOCK; l++)
                own[l] = adds ? own[l] + from[j + l] : kv_larger(from[j + l], own[l]);
        memcpy(out + i, own, sizeof own);
    }
    for (; i < n; i++)
        out[i] = adds ? kv_pool_sum_at(in, n, half, i) : kv_pool_max_at(in, n, half, i);
}

static void pool_sum(const float *in, int64_t n, int width, float *out)
{
    pool(in, n, width, true, out);
}

static void pool_max(const float *in, int64_t n, int width, float *out)
{
    pool(in, n, width, false, out);
}

static void add(float *out, const float *in, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] += in[i];
}

static void max(float *out, const float *in, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = kv_larger(in[i], out[i]);
}

/* In blocks: what needs no order first, as vectors. */
static int64_t gather(const float *score, int64_t n, int32_t low, int32_t high, int32_t *key, int64_t *above)
{
    enum { BLOCK = 16 };
    int32_t higher[BLOCK] = {0}, own[BLOCK], in[BLOCK];
    int64_t i = 0, m = 0, total = 0;
    for (; i + BLOCK <= n; i += BLOCK) {
        for (int l = 0; l < BLOCK; l++) {
            own[l] = kv_key_of(score[i + l]);
            higher[l] += own[l] > high;
            in[l] = (own[l] >= low) & (own[l] <= high);
        }
        for (int l = 0; l < BLOCK; l++) {
            key[m] = own[l];
            m += in[l];
        }
    }
    for (; i < n; i++) {
        own[0] = kv_key_of(score[i]);
        key[m] = own[0];
        m += own[0] >= low && own[0] <= high;
        total += own[0] > high;
    }
    for (int l = 0; l < BLOCK; l++)
        total += higher[l];
    *above = total;
    return m;
}

static int64_t count(const int32_t *key, int64_t n, int32_t least)
{
    enum { LANES = 16 };
    int32_t sum[LANES] = {0};
    int64_t i = 0, total = 0;
    for (; i + LANES <= n; i += LANES) /* n <= room of 32-bit counts: the histogram's are, too */
        for (int l = 0; l < LANES; l++)
            sum[l] += key[i + l] >= least;
    for (; i < n; i++)
        total += key[i] >= least;
    for (int l = 0; l < LANES; l++)
        total += sum[l];
    return total;
}

static const uint32_t bit[32] = {
    1u,       1u << 1,  1u << 2,  1u << 3,  1u << 4,  1u << 5,  1u << 6,  1u << 7,  1u << 8,  1u << 9,  1u << 10,
    1u << 11, 1u << 12, 1u << 13, 1u << 14, 1u << 15, 1u << 16, 1u << 17, 1u << 18, 1u << 19, 1u << 20, 1u << 21,
    1u << 22, 1u << 23, 1u << 24, 1u << 25, 1u << 26, 1u << 27, 1u << 28, 1u << 29, 1u << 30, 1u << 31,
};

static inline uint32_t at_least(const float x[32], float threshold)
{
    uint32_t word = 0;
    for (int l = 0; l < 32; l++)
        word |= bit[l] & -(uint32_t)(x[l] >= threshold);
    return word;
}

static inline uint32_t equal_to(const float x[32], float threshold)
{
    uint32_t word = 0;
    for (int l = 0; l < 32; l++)
        word |= bit[l] & -(uint32_t)(x[l] == threshold);
    return word;
}

static void mark(const float *score, int64_t n, float threshold, int64_t equals, uint64_t *mask)
{
    float rest[64];
    for (int64_t w = 0; w < kv_words(n); w++) {
        const float *x = score + w * 64;
        if (n - w * 64 < 64) { /* filled up with what no threshold is at or below */
            for (int l = 0; l < 64; l++)
                rest[l] = w * 64 + l < n ? x[l] : NAN;
            x = rest;
        }
        mask[w] = at_least(x, threshold) | (uint64_t)at_least(x + 32, threshold) << 32;
        if (equals == INT64_MAX)
            continue;
        uint64_t equal = equal_to(x, threshold) | (uint64_t)equal_to(x + 32, threshold) << 32;
        mask[w] = kv_mark_word(mask[w] & ~equal, equal, ones(equal), &equals);
    }
}

static int64_t top(const float *score, int64_t n, int64_t k, uint64_t *mask, struct kv_top_work *work)
{
    static const struct kv_top_passes passes = {gather, count, mark};
    return kv_top_by(&passes, score, n, k, mask, work);
}

static void restrict_to(uint64_t *set, int64_t n, const uint64_t *mask)
{
    int64_t rank = 0;
    for (int64_t w = 0; w < kv_words(n); w++) {
        uint64_t rest = set[w], stay = 0;
        if (!rest)
            continue;
        int64_t members = ones(rest);
        uint64_t bits = kv_bits_from(mask, rank, members);
        for (; rest; rest &= rest - 1, bits >>= 1)
            stay |= (rest & -rest) & -(bits & 1);
        set[w] = stay;
        rank += members;
    }
}

static double sum(const float *row, const uint64_t *set, int64_t n)
{
    double part[KV_SUMS] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint32_t in = set ? (uint32_t)(set[i / 64] >> i % 64) : 255;
        double *to = part + i % KV_SUMS;
        uint32_t bits[8];
        float x[8];
        memcpy(bits, row + i, sizeof bits);
        for (int l = 0; l < 8; l++)
            bits[l] &= -(uint32_t)((in & bit[l]) == bit[l]);
        memcpy(x, bits, sizeof x);
        for (int l = 0; l < 8; l++)
            to[l] += (double)x[l];
    }
    for (; i < n; i++)
        part[i % KV_SUMS] += !set || kv_set_has(set, i) ? (double)row[i] : 0.0;
    return kv_sum_pairs(part);
}

/* ---- the choice ---- */

static const struct kv_select kv_select_portable = {
    .simd = KV_SIMD_PORTABLE,
    .name = "portable",
    .compress = compress,
    .pool_sum = pool_sum,
    .pool_max = pool_max,
    .add = add,
    .max = max,
    .top = top,
    .restrict_to = restrict_to,
    .sum = sum,
};

const struct kv_select *kv_select_of(enum kv_simd simd)
{
#if KV_SELECT_X86
#define HAS __builtin_cpu_supports
    bool avx2 = HAS("avx2") && HAS("bmi") && HAS("bmi2") && HAS("popcnt");
    if (simd == KV_SIMD_AVX2)
        return avx2 ? &kv_select_avx2 : NULL;
    if (simd == KV_SIMD_AVX512)
        return avx2 && HAS("avx512f") && HAS("avx512bw") && HAS("avx512vl") && HAS("avx512dq") ? &kv_select_avx512
                                                                                               : NULL;
#undef HAS
#endif
    return simd == KV_SIMD_PORTABLE ? &kv_select_portable : NULL;
}

const struct kv_select *kv_select_best(void)
{
    static const char *const names[KV_SIMDS] = {"portable", "avx2", "avx512"};
    const char *wanted = getenv("KVSIM_SIMD");
    const struct kv_select *best = NULL;
    for (int simd = KV_SIMDS; !best && simd-- > 0;)
        if (!wanted || !strcmp(wanted, names[simd]))
            best = kv_select_of((enum kv_simd)simd);
    for (int simd = KV_SIMDS; !best && simd-- > 0;)
        best = kv_select_of((enum kv_simd)simd);
    return best;
}

/* ---- sets ---- */

static int64_t count_words(const uint64_t *a, const uint64_t *b, int64_t n)
{
    int64_t total = 0, whole = n / 64;
    for (int64_t w = 0; w < whole; w++)
        total += ones(a[w] & b[w]);
    return n % 64 ? total + ones(a[whole] & b[whole] & low_bits(n % 64)) : total;
}

int64_t kv_set_count(const uint64_t *set, int64_t n)
{
    return count_words(set, set, n);
}

int64_t kv_set_common(const uint64_t *a, const uint64_t *b, int64_t n)
{
    return count_words(a, b, n);
}

/* The first member at or behind `from`; n when there is none. */
static int64_t next_member(const uint64_t *set, int64_t n, int64_t from)
{
    if (from >= n)
        return n;
    int64_t w = from / 64, words = kv_words(n);
    uint64_t word = set[w] & ~low_bits(from % 64);
    while (!word && ++w < words)
        word = set[w];
    int64_t at = word ? w * 64 + __builtin_ctzll(word) : n;
    return at < n ? at : n;
}

/* Pages of 2, 4 .. 64 positions: all of a word's at once. */
static int64_t pages_in_words(const uint64_t *set, int64_t n, int64_t page)
{
    int64_t pages = 0;
    uint64_t firsts = ~UINT64_C(0) / (page < 64 ? low_bits(page) : ~UINT64_C(0));
    for (int64_t w = 0; w < kv_words(n); w++) {
        uint64_t word = (w + 1) * 64 <= n ? set[w] : set[w] & low_bits(n % 64);
        for (int64_t shift = 1; shift < page; shift *= 2)
            word |= word >> shift;
        pages += ones(word & firsts);
    }
    return pages;
}

int64_t kv_set_pages(const uint64_t *set, int64_t n, int64_t page)
{
    KV_ASSERT(page > 0);
    if (page <= 64 && (page & (page - 1)) == 0)
        return pages_in_words(set, n, page);
    int64_t pages = 0;
    for (int64_t at = next_member(set, n, 0); at < n; pages++) {
        int64_t left = page - at % page;
        at = left < n - at ? next_member(set, n, at + left) : n;
    }
    return pages;
}

/* The bits of word w that are in [begin, end). */
static uint64_t part_of_word(int64_t w, int64_t begin, int64_t end)
{
    uint64_t in = ~UINT64_C(0);
    if (begin > w * 64)
        in &= ~low_bits(begin - w * 64);
    if (end < (w + 1) * 64)
        in &= low_bits(end - w * 64);
    return in;
}

void kv_set_fill(uint64_t *set, int64_t begin, int64_t end)
{
    for (int64_t w = begin / 64; begin < end && w < kv_words(end); w++)
        set[w] |= part_of_word(w, begin, end);
}

void kv_set_clear(uint64_t *set, int64_t begin, int64_t end)
{
    for (int64_t w = begin / 64; begin < end && w < kv_words(end); w++)
        set[w] &= ~part_of_word(w, begin, end);
}

int64_t kv_set_count_range(const uint64_t *set, int64_t begin, int64_t end)
{
    int64_t total = 0;
    for (int64_t w = begin / 64; begin < end && w < kv_words(end); w++)
        total += ones(set[w] & part_of_word(w, begin, end));
    return total;
}

int64_t kv_set_position(const uint64_t *set, int64_t n, int64_t rank)
{
    for (int64_t w = 0; w < kv_words(n); w++) {
        int64_t in = ones(set[w]);
        if (rank >= in) {
            rank -= in;
            continue;
        }
        uint64_t word = set[w];
        for (; rank > 0; rank--)
            word &= word - 1;
        int64_t at = w * 64 + __builtin_ctzll(word);
        return at < n ? at : n;
    }
    return n;
}
