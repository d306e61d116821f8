/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Patterns of tokenizer.json are written for Oniguruma in its Ruby syntax. Here they are rewritten for PCRE2: what
 * means the same to both is copied, what can be said in PCRE2's terms is, and the rest is refused by name. */
#include "engine/tokenizer_parts.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_BYTES = 1 << 15 };

/* White_Space, and what is not. PCRE2's own \s has U+180E too, and a class cannot hold a negated one. */
#define BLANKS                                                                                                         \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NO_BLANKS                                                                                                      \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"                    \
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"

struct rewrite {
    const char *at, *end;
    bool in_class, dash; /* in a class: a '-' that may make a range came just before */
    struct kv_text out;
    struct kv_err *e;
};

static bool put(struct rewrite *r, const char *text, size_t bytes)
{
    return kv_text_add(&r->out, text, bytes, r->e);
}

/* Copies `bytes` of the pattern. */
static bool copy(struct rewrite *r, size_t bytes)
{
    r->at += bytes;
    return put(r, r->at - bytes, bytes);
}

static bool refuse(struct rewrite *r, int bytes)
{
    if (bytes > r->end - r->at)
        bytes = (int)(r->end - r->at);
    return kv_fail(r->e, KV_DATA, "'%.*s' in a pattern is not supported: it may mean another thing to Hugging Face",
                   bytes, r->at);
}

static bool begins(const struct rewrite *r, const char *text)
{
    size_t bytes = strlen(text);
    return (size_t)(r->end - r->at) >= bytes && !memcmp(r->at, text, bytes);
}

/* A set where a range could be made of it by a '-' beside it is refused. */
static bool put_set(struct rewrite *r, const char *alone, const char *inside)
{
    bool dash_after = r->end - r->at > 2 && r->at[2] == '-' && !(r->end - r->at > 3 && r->at[3] == ']');
    if (r->in_class && (r->dash || dash_after))
        return refuse(r, 3);
    r->at += 2;
    const char *text = r->in_class ? inside : alone;
    return put(r, text, strlen(text));
}

/* \p{...}: the names are PCRE2's business. */
static bool put_property(struct rewrite *r)
{
    const char *close = r->end - r->at > 3 && r->at[2] == '{' ? memchr(r->at, '}', (size_t)(r->end - r->at)) : NULL;
    if (!close || r->dash)
        return refuse(r, 3);
    return copy(r, (size_t)(close + 1 - r->at));
}

/* \uHHHH, \x{H...} and, below 80, \xHH. */
static bool put_code(struct rewrite *r)
{
    const char *digits = r->at + 2;
    bool braces = r->at[1] == 'x' && r->end - digits > 0 && *digits == '{';
    digits += braces;
    int most = braces ? 8 : r->at[1] == 'u' ? 4 : 2, n = 0;
    while (n < most && digits + n < r->end && isxdigit((unsigned char)digits[n]))
        n++;
    bool closed = !braces || (digits + n < r->end && digits[n] == '}');
    bool known = braces ? n > 0 : r->at[1] == 'u' ? n == 4 : n == 2 && *digits < '8';
    if (!known || !closed)
        return refuse(r, 4);
    r->at = digits + n + braces;
    return put(r, "\\x{", 3) && put(r, digits, (size_t)n) && put(r, "}", 1);
}

static bool put_escape(struct rewrite *r)
{
    char c = r->end - r->at > 1 ? r->at[1] : '\0';
    switch (c) {
    case 's':
        return put_set(r, "[" BLANKS "]", BLANKS);
    case 'S':
        return put_set(r, "[^" BLANKS "]", NO_BLANKS);
    case 'd':
        return put_set(r, "\\p{Nd}", "\\p{Nd}");
    case 'D':
        return put_set(r, "\\P{Nd}", "\\P{Nd}");
    case 'p':
    case 'P':
        return put_property(r);
    case 'x':
    case 'u':
        return put_code(r);
    case 'n':
    case 'r':
    case 't':
    case 'f':
        return copy(r, 2);
    default:
        return ispunct((unsigned char)c) ? copy(r, 2) : refuse(r, 2);
    }
}

static bool put_in_class(struct rewrite *r)
{
    if (*r->at == '[' || begins(r, "&&"))
        return refuse(r, 2);
    if (*r->at == ']')
        r->in_class = false;
    bool dash = *r->at == '-';
    if (!(*r->at == '\\' ? put_escape(r) : copy(r, 1)))
        return false;
    r->dash = dash;
    return true;
}

/* A '-' first in a class is a character in both. */
static bool open_class(struct rewrite *r)
{
    r->in_class = true;
    r->dash = false;
    if (!copy(r, begins(r, "[^") ? 2 : 1))
        return false;
    if (r->at < r->end && *r->at == ']')
        return refuse(r, 1);
    return r->at == r->end || *r->at != '-' || copy(r, 1);
}

static bool open_group(struct rewrite *r)
{
    static const char *const known[] = {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (begins(r, known[i]))
            return copy(r, strlen(known[i]));
    return begins(r, "(?") || begins(r, "(*") ? refuse(r, 4) : copy(r, 1);
}

/* {n}, {n,} and {n,m}. With a '?' or '+' behind them the two disagree. */
static bool put_interval(struct rewrite *r)
{
    const char *at = r->at + 1;
    while (at < r->end && isdigit((unsigned char)*at))
        at++;
    bool known = at > r->at + 1;
    if (at < r->end && *at == ',')
        at++;
    while (at < r->end && isdigit((unsigned char)*at))
        at++;
    known = known && at < r->end && *at == '}' && !(at + 1 < r->end && strchr("?+*{", at[1]));
    return known ? copy(r, (size_t)(at + 1 - r->at)) : refuse(r, (int)(at - r->at) + 2);
}

static bool put_next(struct rewrite *r)
{
    if (r->in_class)
        return put_in_class(r);
    switch (*r->at) {
    case '\\':
        return put_escape(r);
    case '[':
        return open_class(r);
    case '(':
        return open_group(r);
    case '{':
        return put_interval(r);
    case '^':
    case '$':
        return refuse(r, 1);
    default:
        return copy(r, 1);
    }
}

static pcre2_code *compile(const struct kv_text *pattern, struct kv_err *e)
{
    int number;
    PCRE2_SIZE at;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context) {
        kv_fail(e, KV_ENV, "no memory for a pattern");
        return NULL;
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)pattern->data, pattern->n,
                      PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED | PCRE2_NEVER_BACKSLASH_C, &number, &at, context);
    pcre2_compile_context_free(context);
    if (code) {
        pcre2_jit_compile(code, PCRE2_JIT_COMPLETE); /* where it fails, matching is slower */
        return code;
    }
    char why[256] = "";
    pcre2_get_error_message(number, (PCRE2_UCHAR *)why, sizeof why);
    kv_fail(e, KV_DATA, "the pattern '%s' is not one: %s", pattern->data, why);
    return NULL;
}

bool kv_split_add_regex(struct kv_split *s, const char *pattern, struct kv_err *e)
{
    size_t bytes = strlen(pattern);
    if (bytes > MOST_BYTES)
        return kv_fail(e, KV_DATA, "a pattern has %zu bytes; at most %d are taken", bytes, MOST_BYTES);
    if (s->n == KV_STAGES)
        return kv_fail(e, KV_DATA, "there are more than %d steps", KV_STAGES);
    struct rewrite r = {.at = pattern, .end = pattern + bytes, .e = e};
    bool good = put(&r, "", 0);
    while (good && r.at < r.end)
        good = put_next(&r);
    pcre2_code *code = good ? compile(&r.out, e) : NULL;
    free(r.out.data);
    if (code)
        s->step[s->n++] = (struct kv_split_step){.kind = KV_SPLIT_REGEX, .code = code};
    return code != NULL;
}
