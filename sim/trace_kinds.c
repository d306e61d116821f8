/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Which kinds of policies a trace can replay: each is offered to the replay as it would be asked for, and what the
 * replay says against it is kept. */
#include "sim/replay.h"
#include "sim/trace_verbs.h"

#include <string.h>

/* Whether a policy could be made of it at all, whatever is recorded. */
static bool makes_sense(const struct kv_replay *r, const char *spec, struct kv_arena *a, struct kv_err *e)
{
    struct kv_policy p;
    struct kv_shape shape;
    memset(e, 0, sizeof *e);
    return kv_policy_from_spec(&p, spec, a, e) && kv_policy_prepare(&p, &r->model, &r->asked.run, &shape, a, e);
}

/* A SPEC of the kind that needs nothing more to be said: its defaults, and 30 % where it needs a budget. */
static const char *plain_spec(const struct kv_replay *r, const struct kv_kind *k, struct kv_arena *a, struct kv_err *e)
{
    const char *with[] = {kv_format(a, "%s:keep=30%%", k->name),
                          kv_format(a, "%s:tokens=%lld", k->name, (long long)(r->about.n_prompt * 3 / 10 + 1)),
                          kv_format(a, "%s:sparsity=50%%", k->name)};
    if (makes_sense(r, k->name, a, e))
        return k->name;
    struct kv_err *other = KV_NEW(a, struct kv_err);
    bool wants_budget = k->law->needs_budget;
    for (size_t i = 0; i < sizeof with / sizeof *with; i++) {
        if (makes_sense(r, with[i], a, other))
            return with[i];
        if (!i && wants_budget)
            *e = *other; /* what is missing besides a budget */
    }
    return NULL;
}

static bool offer(struct kv_replay *r, const char *spec, struct kv_arena *a, struct kv_err *e)
{
    struct kv_policy p;
    struct kv_replay_run run;
    r->run = &run;
    r->n_runs = 0;
    memset(e, 0, sizeof *e);
    bool good = kv_policy_from_spec(&p, spec, a, e) && kv_replay_add(r, &p, a, e);
    if (r->n_runs && run.open)
        kv_cache_close(&run.cache);
    r->n_runs = 0;
    r->run = NULL;
    return good;
}

/* What the recording can be matched with, where a kind's defaults are not what was recorded. */
struct match {
    const char *key;
    int64_t value; /* 0: nothing was recorded that would tell */
};
enum { MATCHES = 3 };

static void find_recorded(const struct kv_trace_about *b, struct match match[MATCHES])
{
    int64_t window = 0, patch = 0, every = 0;
    for (int i = 0; i < b->n_channels; i++)
        window = b->channel[i].window ? b->channel[i].window : window;
    for (int64_t i = 0; i < b->n_ticks; i++) {
        const struct kv_tick *t = &b->tick[i];
        patch = t->n_patch ? t->n_patch : patch;
        every = t->kind == KV_TICK_DECODE && !every ? t->end - t->begin : every;
    }
    match[0] = (struct match){"window_size", window};
    match[1] = (struct match){"every", every};
    match[2] = (struct match){"patch", patch};
}

/* The SPEC with those keys whose bits are set; NULL when one of them has no value. */
static const char *add_keys(const char *spec, const struct match match[MATCHES], unsigned set, struct kv_arena *a)
{
    for (int i = 0; i < MATCHES; i++) {
        if (!(set & 1u << i))
            continue;
        if (!match[i].value)
            return NULL;
        spec =
            kv_format(a, "%s%s%s=%lld", spec, strchr(spec, ':') ? "," : ":", match[i].key, (long long)match[i].value);
    }
    return spec;
}

/* One sentence, without the SPEC that a message begins with. */
static const char *reason(const struct kv_err *e, struct kv_arena *a)
{
    const char *text = kv_copy_part(a, e->text, strcspn(e->text, "\n")), *spec = strstr(text, "': ");
    return !strncmp(text, "--policy '", 10) && spec ? spec + 3 : text;
}

static void try_kind(struct kv_replay *r, const struct kv_kind *k, struct kv_trace_kind *out, struct kv_arena *a,
                     struct kv_err *e)
{
    static const unsigned sets[] = {1, 2, 4, 3, 5, 6, 7}; /* few keys first */
    struct match match[MATCHES];
    const char *spec = plain_spec(r, k, a, e), *other;
    *out = (struct kv_trace_kind){.kind = k->name, .spec = spec ? spec : k->name};
    if (spec && offer(r, spec, a, e))
        return;
    out->why = reason(e, a);
    find_recorded(&r->about, match);
    for (size_t i = 0; spec && i < sizeof sets / sizeof *sets; i++)
        if ((other = add_keys(spec, match, sets[i], a)) && offer(r, other, a, e)) {
            out->spec = other;
            out->why = NULL;
            return;
        }
}

bool kv_trace_kinds(const char *path, struct kv_trace_kind **kind, int *n, struct kv_arena *a, struct kv_err *e)
{
    struct kv_replay r;
    struct kv_replay_asked asked = {.page = 16, .threads = 1, .quiet = true, .run = {.dtype = KV_BF16}};
    struct kv_err *own = KV_NEW(a, struct kv_err);
    for (*n = 0; kv_kinds[*n];)
        ++*n;
    *kind = KV_NEW_N(a, struct kv_trace_kind, *n + 1);
    bool good = kv_replay_open(&r, path, &asked, a, e);
    if (good && r.closed) {
        const char *spec = r.about.policy;
        *n = 1;
        (*kind)[0] = (struct kv_trace_kind){spec, spec, offer(&r, spec, a, own) ? NULL : reason(own, a)};
    }
    for (int i = 0; good && !r.closed && i < *n; i++)
        try_kind(&r, kv_kinds[i], &(*kind)[i], a, own);
    kv_replay_close(&r);
    return good;
}
