/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What a KV policy is: when it may evict x how many entries a lane may hold then x which ones stay, and a guard.
 *
 * Words. Entry: key and value of one token in one lane. Lane: one (layer, store head). Pass: one forward pass over new
 * tokens, a prefill chunk or one decoded token; it may be followed, in the same pass, by patch tokens that leave
 * nothing.
 *
 * How many is a law of lengths alone, so that footprints, plans and serving need no attention scores; which ones stay
 * is named here and decided from recorded or live attention. A kind (policies.def) is a preset of all of it; keys of a
 * config's [policy NAME], or of a SPEC `kind:key=value,...`, replace its parts. */
#ifndef KV_POLICY_H
#define KV_POLICY_H

#include "sim/core/score.h"
#include "sim/core/store.h"

/* ---- shapes and passes ---- */

struct kv_shape {
    int64_t layers, q_heads, kv_heads;
    int64_t store_heads;   /* kv_heads, or q_heads where upstream keeps a set for each query head */
    const int64_t *window; /* (layers,) entries a sliding-window layer may hold; 0: full attention. NULL: all full */
};

/* One request, by lengths. Query steps that run: prompt + output - 1, for the last output is never fed back. */
struct kv_request {
    int64_t prompt;  /* P >= 1 */
    int64_t output;  /* m >= 0 */
    int64_t prefill; /* N: P, or P-1 when the last prompt token is the first decode step (PruLong's runner) */
};

int64_t kv_request_steps(const struct kv_request *r);

enum kv_at { KV_AT_CHUNK = 1, KV_AT_POSTFILL = 2, KV_AT_DECODE = 4 };

/* When it may evict: data, no code. */
struct kv_when {
    unsigned at;   /* enum kv_at, together */
    int64_t chunk; /* tokens of a prefill pass; the last chunk is the remainder */
    int64_t tail;  /* tokens of a last chunk of its own (Locret's local_len); 0: none */
    int64_t patch; /* last prompt tokens appended to each chunk but the last (patched eviction); 0: none */
    int64_t every; /* decoded tokens between evictions */
};

/* One pass of one sequence; made by kv_pass_next only. */
struct kv_pass {
    int64_t index;
    int64_t seen; /* tokens before it; never falls, whatever is evicted */
    int64_t prompt, prefill;
    int64_t n_new, n_patch;
    int64_t n_unit;      /* tokens since the last eviction, the new ones included: n of the published formulas */
    int64_t decode_step; /* -1 in prefill */
    int64_t repeat;      /* how many passes from this one on are alike but for `seen`; at least 1 */
    bool evict;
    bool last; /* last of the prefill */
};

/* The next pass after `seen` tokens, of which `unit` came since the last eviction, with at most `limit` new and patch
 * tokens together (INT64_MAX: no limit; it must exceed when->patch). False when the request has ended. */
bool kv_pass_next(const struct kv_when *w, const struct kv_request *r, int64_t index, int64_t seen, int64_t unit,
                  int64_t limit, struct kv_pass *pass);

/* ---- how many ---- */

struct kv_top_work;

struct kv_lane {
    int64_t layer, head;
    int64_t held; /* after the last eviction */
};

/* How the answer goes on for later passes that are alike; checked against pass-by-pass counts in tests/laws. */
enum kv_steady {
    KV_VARIES,     /* ask again at each pass */
    KV_SAME_TOTAL, /* frozen = 0, and `keep` stays as it is */
    KV_SAME_GAIN   /* frozen = held, and `keep` stays as it is: each pass adds as much */
};

/* The oldest `frozen` entries stay unscored; of the rest, the candidates (patch left out), at most `keep` stay: the
 * `first` and the `newest` of them whatever their scores. */
struct kv_room {
    int64_t frozen, keep;
    int64_t first, newest;
    enum kv_steady steady;
};
#define KV_NO_BOUND INT64_MAX

enum kv_budget_form { KV_BUDGET_NONE = 0, KV_BUDGET_SHARE = 1, KV_BUDGET_TOKENS = 2 };

/* The paper's closed forms (sim/core/paper.h) are functions of these. */
struct kv_paper_form {
    bool defined;
    int64_t chunk, sinks, recents;
    double kv_sparsity;   /* share of a pass a non-streaming head drops */
    double head_sparsity; /* nominal share of streaming heads */
    bool locret;
    int64_t stabilizers, local;
};

struct kv_share_work {
    const struct kv_select *select;
    struct kv_top_work *top;
    float *score;   /* (entries of the layer + slack,) */
    uint64_t *mask; /* (entries of the layer) bits */
};

struct kv_law {
    const char *name, *help;
    const struct kv_field *field;
    int n_fields;
    size_t params_size;
    unsigned budget; /* enum kv_budget_form it understands, together */
    unsigned at;     /* enum kv_at it can act at, together */
    bool needs_budget;
    bool freezes; /* at chunks, what earlier ones left is frozen: so recents are several spans, one for each chunk */
    /* Reads files, checks the parameters against the shape; may set policy->note. NULL: nothing to do. */
    bool (*prepare)(struct kv_policy *p, const struct kv_shape *s, struct kv_arena *a, struct kv_err *e);
    /* Lanes with the same number always hold as much. NULL: all lanes of all layers do. */
    int64_t (*group)(const struct kv_policy *p, const struct kv_shape *s, int64_t layer, int64_t head);
    /* NULL: everything stays. Asked at passes with `evict` only. */
    struct kv_room (*room)(const struct kv_policy *p, const struct kv_shape *s, const struct kv_lane *lane,
                           const struct kv_pass *pass);
    /* Shares out what the lanes of one layer may keep together (rooms as the law gave them) from their scores:
     * keep[head](n[head],), protected ones INFINITY. `work` has room for all of them and slack. NULL: as room says. */
    void (*share)(const struct kv_policy *p, int heads, const int64_t *n, const float *const *keep,
                  struct kv_room *room, struct kv_share_work *work);
    /* What the paper's accounting would charge at this chunk. NULL: it has no form for this law. */
    struct kv_paper_form (*paper)(const struct kv_policy *p, const struct kv_request *r, int64_t chunk);
};

/* ---- reading less while storing all ---- */

/* Methods that leave every entry in memory and read some of them at a step: their footprint is 100 % and more. */
struct kv_reads {
    const char *trained; /* "needs a model trained with it", or NULL */
    const struct kv_field *field;
    int n_fields;
    size_t params_size;
    bool (*prepare)(struct kv_policy *p, const struct kv_shape *s, struct kv_arena *a, struct kv_err *e);
    /* Block summaries kept beside a lane: `vectors` of half an entry each for every block of `block` entries, the last
     * partial one included unless `whole`. block = 0: none. */
    struct kv_summary (*summary)(const struct kv_policy *p);
    /* Entries read by the query step that sees `n` entries (itself included), mean over lanes, summed over n = 1 ..
     * last; steps 1 .. prefill are prefill. At most what is read where heads overlap. */
    double (*read_sum)(const struct kv_policy *p, int64_t prefill, int64_t last);
};
struct kv_summary {
    int64_t block, vectors;
    bool whole;
};

/* ---- a policy ---- */

/* The keys every policy has. */
struct kv_policy_keys {
    const char *kind, *law, *score;
    int when;
    int64_t chunk, every, patch;
    double keep, compression_ratio;
    int64_t tokens, bytes;
    int64_t sink_size, recent_size, window_size, min_tokens;
    int store;
    int kv_cache_dtype;
    int64_t group_size, residual_length;
    double output_scale;
};

struct kv_kind {
    const char *name, *title;
    const char *source;  /* paper, section, code */
    const char *differs; /* how ours differs from what is published; "" when it does not */
    const char *preset;  /* "key=value, ...": what this kind puts in before the user's keys */
    const char *also;    /* other names, comma separated */
    const struct kv_law *law;
    const struct kv_score *score;
    const struct kv_reads *reads; /* NULL: reads all it holds */
};

extern const struct kv_kind *const kv_kinds[]; /* NULL at the end; from policies.def */

struct kv_policy {
    const char *name, *where;
    const struct kv_kind *kind;
    const struct kv_law *law;
    const struct kv_score *score;
    struct kv_policy_keys keys;
    void *law_params, *score_params, *reads_params;
    struct kv_bind bind[4]; /* common, law, score, reads: for `config show` */
    int n_binds;

    struct kv_when when; /* chunk = 0: the run's */
    int64_t floor;       /* no eviction leaves a lane with fewer entries */
    double kept;         /* share that stays, when the budget is a share; else NaN */
    int64_t budget; /* tokens a lane may hold, window included, when the budget is in tokens or bytes; else KV_UNSET */
    struct kv_store store;
    const char *input; /* the file its lanes or reads came from, or NULL */
    const char *note;  /* what a table must say beside it, or NULL: "synthetic mask", ... */
};

/* Reads keys into a policy; `where` begins messages that belong to no single key. KV_USAGE with every mistake. */
bool kv_policy_read(struct kv_policy *p, const char *name, const char *where, const struct kv_setting *setting, int n,
                    struct kv_arena *a, struct kv_err *e);

/* `kind[:key=value,...]`, as --policy takes it; the SPEC is its name. */
bool kv_policy_from_spec(struct kv_policy *p, const char *spec, struct kv_arena *a, struct kv_err *e);

/* Tokens of an answer that is `output` long under the full cache. */
int64_t kv_policy_output(const struct kv_policy *p, int64_t output);

/* What the run says where a policy says nothing. */
struct kv_defaults {
    int64_t chunk;
    enum kv_dtype dtype;
    int64_t limit; /* of new and patch tokens in a pass (max_num_batched_tokens); 0: none */
};

/* Fits it to a model: the shape its lanes have, bytes to tokens, masks read, combinations the model does not allow
 * refused. */
bool kv_policy_prepare(struct kv_policy *p, const struct kv_model *m, const struct kv_defaults *run,
                       struct kv_shape *shape, struct kv_arena *a, struct kv_err *e);

const struct kv_kind *kv_kind_find(const char *name);
/* What a kind puts in for a key, as a config would write it, or the key's own default. */
const char *kv_kind_default(const struct kv_kind *k, const struct kv_field *f, struct kv_arena *a);
/* Says that there is no such kind, with the nearest; false. */
bool kv_kind_unknown(const char *where, const char *name, struct kv_arena *a, struct kv_err *e);
extern const struct kv_field kv_policy_fields[];
extern const int kv_n_policy_fields;

/* What a pass leaves a lane of a layer whose sliding window is `window` (0: none): the law's answer under the guard.
 * Both counting from lengths and evicting by scores ask here, so they agree. */
struct kv_room kv_policy_room(const struct kv_policy *p, const struct kv_shape *s, const struct kv_lane *lane,
                              int64_t window, const struct kv_pass *pass);

/* Whether lengths alone tell which entries stay: pages freed without compaction can then be counted. */
bool kv_policy_in_place(const struct kv_policy *p);

/* trunc(share x n) in double, exactly as upstream writes int((1-s)*n). */
int64_t kv_trunc_share(double share, int64_t n);
int64_t kv_round_up(int64_t n, int64_t step);

#endif
