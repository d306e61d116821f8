/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Text into pieces. Pieces of one step are the text of the next, so steps call one another. */
#include "engine/tokenizer_parts.h"

#include <stdlib.h>
#include <string.h>

/* ---- matching ---- */

enum { FEW_STEPS = 1000, STEPS_GROW = 10 };

/* A pattern matches at one place in few steps, unless the match is long or the pattern is hostile. What needs more gets
 * ten times as many again and again, all of it at the cost of one sum for the whole text. */
static int match_at(const struct kv_split_step *s, const char *text, size_t bytes, size_t at, struct kv_encoding *c)
{
    uint32_t options = PCRE2_NO_UTF_CHECK;
    for (uint32_t steps = FEW_STEPS;; steps *= STEPS_GROW) {
        pcre2_set_match_limit(c->limits, steps);
        int rc = pcre2_match(s->code, (PCRE2_SPTR)text, bytes, at, options, c->match, c->limits);
        if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
            options |= PCRE2_NO_JIT; /* slower, but its stack is the heap */
            rc = pcre2_match(s->code, (PCRE2_SPTR)text, bytes, at, options, c->match, c->limits);
        }
        if (rc != PCRE2_ERROR_MATCHLIMIT || c->steps_left < (uint64_t)steps * STEPS_GROW ||
            steps > UINT32_MAX / STEPS_GROW)
            return rc;
        c->steps_left -= (uint64_t)steps * STEPS_GROW;
    }
}

static bool fail_match(int rc, size_t at, struct kv_err *e)
{
    char why[256] = "";
    pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
    return kv_fail(e, rc == PCRE2_ERROR_NOMEMORY ? KV_ENV : KV_DATA,
                   "the pattern of the pre_tokenizer fails at byte %zu of a text: %s", at, why);
}

/* ---- steps ---- */

static bool run(const struct kv_split *s, int step, const char *text, size_t bytes, bool first, struct kv_encoding *c,
                struct kv_err *e);

/* Matches and what lies between them are pieces. The pattern is anchored, so that what it costs is known for each
 * place. As with Oniguruma's iterator a match of nothing right after another match is passed over. */
static bool run_regex(const struct kv_split *s, int step, const char *text, size_t bytes, bool first,
                      struct kv_encoding *c, struct kv_err *e)
{
    size_t gap = 0, last_end = SIZE_MAX;
    for (size_t at = 0; at < bytes;) {
        int rc = match_at(&s->step[step], text, bytes, at, c);
        if (rc < 0 && rc != PCRE2_ERROR_NOMATCH)
            return fail_match(rc, at, e);
        size_t end = rc < 0 ? at : pcre2_get_ovector_pointer(c->match)[1];
        if (rc < 0 || (end == at && at == last_end)) {
            at += kv_utf8_length(text[at]);
            continue;
        }
        if (gap < at && !run(s, step + 1, text + gap, at - gap, first && gap == 0, c, e))
            return false;
        if (at < end && !run(s, step + 1, text + at, end - at, first && at == 0, c, e))
            return false;
        gap = at = last_end = end;
    }
    return gap == bytes || run(s, step + 1, text + gap, bytes - gap, first && gap == 0, c, e);
}

static bool run_prefix(const struct kv_split *s, int step, const char *text, size_t bytes, bool first,
                       struct kv_encoding *c, struct kv_err *e)
{
    struct kv_text with = {0};
    if (text[0] == ' ')
        return run(s, step + 1, text, bytes, first, c, e);
    bool good = kv_text_add(&with, " ", 1, e) && kv_text_add(&with, text, bytes, e) &&
                run(s, step + 1, with.data, with.n, first, c, e);
    free(with.data);
    return good;
}

static bool run_metaspace(const struct kv_split *s, int step, const char *text, size_t bytes, bool first,
                          struct kv_encoding *c, struct kv_err *e)
{
    const struct kv_split_step *m = &s->step[step];
    struct kv_text with = {0};
    bool has = text[0] == ' ' || (bytes >= KV_METASPACE_BYTES && !memcmp(text, KV_METASPACE, KV_METASPACE_BYTES));
    bool wants = m->prepend == KV_PREPEND_ALWAYS || (m->prepend == KV_PREPEND_FIRST && first);
    bool good = has || !wants || kv_text_add(&with, KV_METASPACE, KV_METASPACE_BYTES, e);
    for (const char *at = text, *end = text + bytes; good && at < end;) {
        const char *blank = memchr(at, ' ', (size_t)(end - at));
        good = kv_text_add(&with, at, (size_t)((blank ? blank : end) - at), e) &&
               (!blank || kv_text_add(&with, KV_METASPACE, KV_METASPACE_BYTES, e));
        at = blank ? blank + 1 : end;
    }
    for (size_t at = 0, end; good && at < with.n; at = end) {
        const char *next = m->cut && with.n - at > 1
                               ? memmem(with.data + at + 1, with.n - at - 1, KV_METASPACE, KV_METASPACE_BYTES)
                               : NULL;
        end = next ? (size_t)(next - with.data) : with.n;
        good = run(s, step + 1, with.data + at, end - at, first && at == 0, c, e);
    }
    free(with.data);
    return good;
}

static bool run(const struct kv_split *s, int step, const char *text, size_t bytes, bool first, struct kv_encoding *c,
                struct kv_err *e)
{
    if (step == s->n)
        return kv_bpe_encode(c->bpe, text, bytes, &c->work, c->ids, e);
    switch (s->step[step].kind) {
    case KV_SPLIT_REGEX:
        return run_regex(s, step, text, bytes, first, c, e);
    case KV_SPLIT_PREFIX:
        return run_prefix(s, step, text, bytes, first, c, e);
    default:
        return run_metaspace(s, step, text, bytes, first, c, e);
    }
}

bool kv_split_encode(const struct kv_split *s, const char *text, size_t bytes, bool first, struct kv_encoding *c,
                     struct kv_err *e)
{
    return bytes == 0 || run(s, 0, text, bytes, first, c, e);
}

void kv_split_close(struct kv_split *s)
{
    for (int i = 0; i < s->n; i++)
        pcre2_code_free(s->step[i].code);
}
