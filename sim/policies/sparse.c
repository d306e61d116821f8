/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Dynamic sparse attention: every entry stays in memory, beside summaries of blocks by which each step chooses what to
 * read. MInference, which chooses by recorded patterns, has a file of its own. */
#include "sim/policies/laws.h"

struct sparse_params {
    int64_t block, top, window, skip_layers;
    double full_layers; /* made by prepare: share of layers that read everything */
};
#define AT(member) offsetof(struct sparse_params, member)
enum { BIG = 1 << 30 };

/* 1 + 2 + ... + n, as double: these sums only become shares. */
static double triangle(double n)
{
    return n * (n + 1) / 2;
}

/* Sum of min(n, bound) over n = first .. last. */
static double bounded_sum(int64_t first, int64_t last, int64_t bound)
{
    if (last < first)
        return 0;
    int64_t knee = last < bound ? last : bound;
    double below = knee >= first ? triangle((double)knee) - triangle((double)first - 1) : 0;
    int64_t above_from = knee + 1 > first ? knee + 1 : first;
    return below + (double)bound * (double)(last - above_from + 1);
}

static bool prepare_skip(struct kv_policy *p, const struct kv_shape *s, struct kv_arena *a, struct kv_err *e)
{
    (void)a;
    (void)e;
    struct sparse_params *own = p->reads_params;
    int64_t skip = own->skip_layers < s->layers ? own->skip_layers : s->layers;
    own->full_layers = (double)skip / (double)s->layers;
    return true;
}

/* ---- Quest ---- */

static const struct kv_field quest_fields[] = {
    {.key = "block_size",
     .type = KV_T_COUNT,
     .offset = AT(block),
     .def = "16",
     .min = 1,
     .max = BIG,
     .help = "entries that share a summary of least and largest keys"},
    {.key = "read_tokens",
     .type = KV_T_COUNT,
     .offset = AT(window),
     .def = "1024",
     .min = 1,
     .max = BIG,
     .help = "entries a decode step reads, in whole blocks, at least 3"},
    {.key = "full_layers",
     .type = KV_T_COUNT,
     .offset = AT(skip_layers),
     .def = "2",
     .min = 0,
     .max = 10000,
     .help = "first layers that read everything"},
};

static struct kv_summary quest_summary(const struct kv_policy *p)
{
    return (struct kv_summary){.block = ((const struct sparse_params *)p->reads_params)->block, .vectors = 2};
}

static double quest_read_sum(const struct kv_policy *p, int64_t prefill, int64_t last)
{
    const struct sparse_params *own = p->reads_params;
    int64_t blocks = own->window / own->block > 3 ? own->window / own->block : 3;
    double all = triangle((double)last) - triangle((double)prefill);
    double chosen = bounded_sum(prefill + 1, last, blocks * own->block);
    return triangle((double)prefill) + own->full_layers * all + (1 - own->full_layers) * chosen;
}

static const struct kv_reads reads_quest = {
    .field = quest_fields,
    .n_fields = sizeof quest_fields / sizeof *quest_fields,
    .params_size = sizeof(struct sparse_params),
    .prepare = prepare_skip,
    .summary = quest_summary,
    .read_sum = quest_read_sum,
};

const struct kv_kind kv_kind_quest = {
    .name = "quest",
    .title = "Quest: decode steps read the most promising blocks",
    .source = "Tang et al. 2024, arXiv 2406.10774",
    .differs = "reads are an upper bound where the query heads of a KV head choose different blocks",
    .preset = "when=never",
    .law = &kv_law_all,
    .score = &kv_score_none,
    .reads = &reads_quest,
};

/* ---- MoBA ---- */

static const struct kv_field moba_fields[] = {
    {.key = "block_size",
     .type = KV_T_COUNT,
     .offset = AT(block),
     .def = "4096",
     .min = 1,
     .max = BIG,
     .help = "entries of a block, whose mean key stands for it"},
    {.key = "top_blocks",
     .type = KV_T_COUNT,
     .offset = AT(top),
     .def = "12",
     .min = 1,
     .max = BIG,
     .help = "blocks a query reads, its own included"},
};

static struct kv_summary moba_summary(const struct kv_policy *p)
{
    return (struct kv_summary){.block = ((const struct sparse_params *)p->reads_params)->block, .vectors = 1};
}

/* A query in block q, r-th there, reads r entries of it and min(q, top - 1) whole ones: block after block. */
static double moba_read_sum(const struct kv_policy *p, int64_t prefill, int64_t last)
{
    (void)prefill;
    const struct sparse_params *own = p->reads_params;
    double block = (double)own->block, others = (double)own->top - 1, blocks = (double)(last / own->block),
           rest = (double)(last % own->block);
    double growing = blocks < others ? blocks : others; /* blocks 0 .. growing-1 read all before them */
    double whole = block * block * (triangle(growing - 1) + others * (blocks - growing));
    return blocks * triangle(block) + whole + triangle(rest) + rest * block * (blocks < others ? blocks : others);
}

static const struct kv_reads reads_moba = {
    .trained = "needs a model trained with it",
    .field = moba_fields,
    .n_fields = sizeof moba_fields / sizeof *moba_fields,
    .params_size = sizeof(struct sparse_params),
    .prepare = prepare_skip,
    .summary = moba_summary,
    .read_sum = moba_read_sum,
};

const struct kv_kind kv_kind_moba = {
    .name = "moba",
    .title = "MoBA: mixture of block attention",
    .source = "Lu et al. 2025, arXiv 2502.13189; MoonshotAI/MoBA",
    .differs = "reads are an upper bound where the query heads of a KV head choose different blocks",
    .preset = "when=never",
    .law = &kv_law_all,
    .score = &kv_score_none,
    .reads = &reads_moba,
};

/* ---- NSA ---- */

static const struct kv_field nsa_fields[] = {
    {.key = "block_size",
     .type = KV_T_COUNT,
     .offset = AT(block),
     .def = "64",
     .min = 1,
     .max = BIG,
     .help = "entries of a block, compressed to one key and value and chosen as a whole"},
    {.key = "top_blocks",
     .type = KV_T_COUNT,
     .offset = AT(top),
     .def = "16",
     .min = 1,
     .max = BIG,
     .help = "blocks a query reads"},
    {.key = "local_tokens",
     .type = KV_T_COUNT,
     .offset = AT(window),
     .def = "512",
     .min = 0,
     .max = BIG,
     .help = "newest entries every query reads"},
};

static struct kv_summary nsa_summary(const struct kv_policy *p)
{
    return (struct kv_summary){
        .block = ((const struct sparse_params *)p->reads_params)->block, .vectors = 2, .whole = true};
}

/* The compressed entries are read at every step too. */
static double nsa_read_sum(const struct kv_policy *p, int64_t prefill, int64_t last)
{
    (void)prefill;
    const struct sparse_params *own = p->reads_params;
    double blocks = (double)(last / own->block), rest = (double)(last % own->block);
    double compressed = (double)own->block * triangle(blocks - 1) + blocks * (rest + 1);
    return bounded_sum(1, last, own->top * own->block + own->window) + (blocks > 0 ? compressed : 0);
}

static const struct kv_reads reads_nsa = {
    .trained = "needs a model trained with it",
    .field = nsa_fields,
    .n_fields = sizeof nsa_fields / sizeof *nsa_fields,
    .params_size = sizeof(struct sparse_params),
    .prepare = prepare_skip,
    .summary = nsa_summary,
    .read_sum = nsa_read_sum,
};

const struct kv_kind kv_kind_nsa = {
    .name = "nsa",
    .title = "NSA: native sparse attention",
    .source = "Yuan et al. 2025, arXiv 2502.11089",
    .differs = "one compressed entry per block of 64, chosen blocks and window counted as if they never overlapped",
    .preset = "when=never",
    .law = &kv_law_all,
    .score = &kv_score_none,
    .reads = &reads_nsa,
};
