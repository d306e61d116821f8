/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/core/ini.h"

#include "sim/core/hash.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <stdlib.h>
#include <string.h>

/* inih's own limits are 199 characters a line and 49 a name, both cut in silence; a few are left for the line end. */
enum { MAX_LINE = 190, MAX_NAME = 48, MARK_BYTES = 3, LINE_ROOM = MAX_LINE + MARK_BYTES + 3, ENDLESS = 1 << 20 };

struct reading {
    FILE *in;
    struct kv_ini *ini;
    struct kv_arena *arena;
    struct kv_err *err;
    int line;
    bool indented; /* the line handed out last continues the value above */
    char key[64];  /* the key above, for messages */
    int key_line;
    bool in_section;
    bool ended;           /* nothing more is read */
    bool refused_section; /* its header was wrong: what stands in it is passed over */
};

static bool say(struct reading *r, const char *what)
{
    return kv_fail(r->err, KV_USAGE, "%s:%d: %s", r->ini->path, r->line, what);
}

static struct kv_ini_section *add_section(struct kv_ini *ini, const char *name, const char *where, struct kv_arena *a)
{
    if ((ini->n & (ini->n - 1)) == 0) { /* full at each power of two */
        struct kv_ini_section *more = KV_NEW_N(a, struct kv_ini_section, ini->n ? 2 * ini->n : 1);
        if (ini->n)
            memcpy(more, ini->section, sizeof *more * (size_t)ini->n);
        ini->section = more;
    }
    struct kv_ini_section *s = &ini->section[ini->n++];
    *s = (struct kv_ini_section){.name = kv_copy_text(a, name), .where = where};
    return s;
}

static void add_setting(struct kv_ini_section *s, struct kv_setting setting, struct kv_arena *a)
{
    if ((s->n & (s->n - 1)) == 0) {
        struct kv_setting *more = KV_NEW_N(a, struct kv_setting, s->n ? 2 * s->n : 1);
        if (s->n)
            memcpy(more, s->setting, sizeof *more * (size_t)s->n);
        s->setting = more;
    }
    s->setting[s->n++] = setting;
}

static struct kv_ini_section *find_section(const struct kv_ini *ini, const char *section)
{
    for (int i = 0; i < ini->n; i++)
        if (!strcmp(ini->section[i].name, section))
            return &ini->section[i];
    return NULL;
}

const struct kv_ini_section *kv_ini_find(const struct kv_ini *ini, const char *section)
{
    return find_section(ini, section);
}

static struct kv_setting *find_setting(const struct kv_ini_section *s, const char *key)
{
    for (int i = 0; s && i < s->n; i++)
        if (!strcmp(s->setting[i].key, key))
            return &s->setting[i];
    return NULL;
}

/* One physical line without its line end; false at the end of the file. Of a longer one, MAX_LINE + 2 characters: too
 * many even when the last is the CR of a line end. The first line may begin with a byte order mark, which does not
 * count. */
static bool get_line(struct reading *r, char line[LINE_ROOM])
{
    int c, n = 0, most = MAX_LINE + 2 + (r->line ? 0 : MARK_BYTES);
    long length = 0;
    bool any = false, zero = false, control = false, end_cr = false;
    while ((c = getc(r->in)) != EOF) {
        any = true;
        if (++length > ENDLESS)
            break;
        r->ini->hash = kv_hash_byte(r->ini->hash, c);
        if (c == '\n')
            break;
        control |= end_cr; /* a CR that no line end follows */
        end_cr = c == '\r';
        zero |= c == 0;
        control |= c && c < ' ' && c != '\t' && c != '\r';
        if (n < most)
            line[n++] = (char)(c ? c : '?');
    }
    if (n && n < most && line[n - 1] == '\r')
        n--;
    line[n] = '\0';
    if (!any || r->ended)
        return false;
    r->line++;
    if (length > ENDLESS) {
        say(r, "a line without end: this is no text file");
        r->ended = true;
        line[0] = '\0';
    } else if (zero || (control && n <= most - 2)) {
        say(r, zero ? "a NUL byte: this is no text file" : "a control character; remove it");
        line[0] = '\0';
    }
    return true;
}

/* A name with runs of blanks as one: [policy  a] is [policy a]. */
static const char *squeeze(struct kv_arena *a, const char *name)
{
    char *out = kv_copy_text(a, name), *end = out;
    for (const char *c = name; *c; c++)
        if (!isspace((unsigned char)*c) || !isspace((unsigned char)c[1]))
            *end++ = *c;
    *end = '\0';
    return out;
}

/* Where a comment begins: at a ';' with a blank before it. */
static size_t comment_start(const char *value)
{
    size_t n = 0;
    while (value[n] && !(value[n] == ';' && n && isspace((unsigned char)value[n - 1])))
        n++;
    return n;
}

/* `[name]` with nothing but a comment behind; opens the section. */
static bool judge_section(struct reading *r, const char *line)
{
    const char *close = strchr(line, ']');
    if (!close || close > line + comment_start(line))
        return say(r, "'[' without ']'");
    const char *rest = close + 1 + strspn(close + 1, " \t");
    if (*rest && *rest != ';')
        return say(r, kv_format(r->arena, "'%s' behind ']'; write it on a line of its own", rest));
    if (close - line - 1 > MAX_NAME)
        return say(r, kv_format(r->arena, "section name longer than %d characters", MAX_NAME));
    const char *written = kv_copy_part(r->arena, line + 1, (size_t)(close - line - 1));
    const char *name = squeeze(r->arena, written);
    r->in_section = true;
    r->key[0] = '\0';
    const struct kv_ini_section *before = kv_ini_find(r->ini, name);
    if (before)
        return say(
            r, kv_format(r->arena, "section [%s] again (first at %s); put its keys together", written, before->where));
    add_section(r->ini, name, kv_format(r->arena, "%s:%d", r->ini->path, r->line), r->arena);
    r->refused_section = false;
    return true;
}

static bool judge_key(struct reading *r, const char *line)
{
    size_t length = strcspn(line, "=:");
    if (line[length] != '=' || comment_start(line) < length)
        return say(r, kv_format(r->arena, "'%.60s' is neither '[section]' nor 'key = value'", line));
    while (length && isspace((unsigned char)line[length - 1]))
        length--;
    if (!length)
        return say(r, "no key before '='");
    if (length > MAX_NAME)
        return say(r, kv_format(r->arena, "key longer than %d characters", MAX_NAME));
    if (!r->in_section)
        return say(r, kv_format(r->arena, "'%.*s' stands before the first [section]", (int)length, line));
    memcpy(r->key, line, length);
    r->key[length] = '\0';
    r->key_line = r->line;
    return true;
}

/* An indented line: the next part of the value above, unless it looks like something else. */
static bool judge_indented(struct reading *r, const char *text)
{
    if (*text == '[')
        return say(r, kv_format(r->arena, "indented '%.60s'; remove the indent", text));
    size_t word = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.");
    if (word && text[word + strspn(text + word, " \t")] == '=') {
        if (!r->key[0])
            return say(r, kv_format(r->arena, "indented '%.60s'; remove the indent", text));
        return say(r, kv_format(r->arena, "indented '%.60s' would become part of '%s' (line %d); remove the indent",
                                text, r->key, r->key_line));
    }
    if (!r->key[0])
        return say(r, kv_format(r->arena, "indented '%.60s' continues no value; remove the indent", text));
    return true;
}

/* Whether the line is for inih: neither empty, nor a comment, nor wrong. */
static bool judge(struct reading *r, const char *line)
{
    const char *text = line + strspn(line, " \t");
    r->indented = false;
    if (*text == ';' || *text == '#')
        return false;                   /* of any length, so not for inih */
    r->refused_section |= *text == '['; /* until it is taken */
    if (strlen(line) > MAX_LINE)
        return say(
            r, kv_format(r->arena, "line longer than %d characters; continue it on an indented next line", MAX_LINE));
    if (!*text)
        return false;
    if (*text != '[' && r->refused_section)
        return false;
    if (text > line) {
        r->indented = true;
        return judge_indented(r, text);
    }
    return *text == '[' ? judge_section(r, line) : judge_key(r, line);
}

/* inih asks for the next line: it sees bad and blank ones as empty. */
static char *next_line(char *buffer, int size, void *stream)
{
    struct reading *r = stream;
    char line[LINE_ROOM];
    if (!get_line(r, line))
        return NULL;
    const char *start = line;
    if (r->line == 1 && !strncmp(line, "\xEF\xBB\xBF", MARK_BYTES))
        start += MARK_BYTES;
    snprintf(buffer, (size_t)size, "%s\n", judge(r, start) ? start : "");
    return buffer;
}

static int take_setting(void *user, const char *section, const char *key, const char *value)
{
    struct reading *r = user;
    struct kv_ini_section *s = find_section(r->ini, squeeze(r->arena, section));
    KV_ASSERT(s);
    struct kv_setting *before = find_setting(s, key);
    if (r->indented && before) {
        size_t length = comment_start(value); /* inih leaves comments of continued lines in place */
        while (length && isspace((unsigned char)value[length - 1]))
            length--;
        before->value = kv_format(r->arena, "%s, %.*s", before->value, (int)length, value);
        before->continued = true;
        return 1;
    }
    if (before) {
        say(r, kv_format(r->arena, "[%s] key '%s' again (first set at %s); keep one", section, key, before->origin));
        return 1;
    }
    add_setting(s,
                (struct kv_setting){
                    .key = kv_copy_text(r->arena, key),
                    .value = kv_copy_text(r->arena, value),
                    .where = kv_format(r->arena, "%s:%d: [%s]", r->ini->path, r->line, section),
                    .origin = kv_format(r->arena, "%s:%d", r->ini->path, r->line),
                },
                r->arena);
    return 1;
}

bool kv_ini_read(const char *path, struct kv_ini *ini, struct kv_arena *a, struct kv_err *e)
{
    bool standard = !strcmp(path, "-");
    *ini = (struct kv_ini){.path = standard ? "standard input" : kv_copy_text(a, path), .hash = KV_HASH_START};
    int errors = e->n;
    struct reading r = {.ini = ini, .arena = a, .err = e, .in = standard ? stdin : fopen(path, "r")};
    if (!r.in)
        return kv_fail(e, KV_DATA, "cannot open '%s': %s", path, strerror(errno));
    int rc = ini_parse_stream(next_line, &r, take_setting, &r);
    if (ferror(r.in))
        kv_fail(e, KV_DATA, "cannot read '%s': %s", path, strerror(errno));
    else if (rc && e->n == errors) /* a line inih refuses and we do not: still never passed over in silence */
        kv_fail(e, KV_USAGE, "%s:%d: neither '[section]' nor 'key = value'", path, rc);
    if (!standard)
        fclose(r.in);
    return e->n == errors;
}

static void trim_end(char *text)
{
    for (size_t n = strlen(text); n && isspace((unsigned char)text[n - 1]); n--)
        text[n - 1] = '\0';
}

bool kv_ini_set(struct kv_ini *ini, const char *assignment, const char *from, struct kv_arena *a, struct kv_err *e)
{
    const char *by = from ? from : "--set";
    const char *equals = strchr(assignment, '='), *dot = equals;
    while (dot && dot > assignment && *dot != '.')
        dot--;
    if (!equals || dot == assignment || dot + 1 == equals)
        return kv_fail(e, KV_USAGE, "%s '%s': write it as section.key=value", by, assignment);
    const char *name = squeeze(a, kv_copy_part(a, assignment, (size_t)(dot - assignment)));
    char *key = kv_copy_part(a, dot + 1, (size_t)(equals - dot - 1));
    char *value = kv_copy_text(a, equals + 1 + strspn(equals + 1, " \t"));
    trim_end(key);
    trim_end(value);
    for (const char *c = assignment; *c; c++)
        if ((unsigned char)*c < ' ' && *c != '\t')
            return kv_fail(e, KV_USAGE, "%s '%s': a value is one line", by, assignment);
    if (strlen(name) > MAX_NAME || strlen(key) > MAX_NAME || strchr(name, ']'))
        return kv_fail(e, KV_USAGE, "%s '%s': no config can hold such a %s; shorten it", by, assignment,
                       strlen(key) > MAX_NAME ? "key" : "section name");
    if (strlen(key) + strlen(value) + 3 > MAX_LINE && !strchr(value, ','))
        return kv_fail(e, KV_USAGE, "%s '%s': no line of a config can hold that; shorten it", by, assignment);
    if (value[comment_start(value)])
        return kv_fail(e, KV_USAGE, "%s '%s': ' ;' would begin a comment in a config; leave it out", by, assignment);
    if (!*key)
        return kv_fail(e, KV_USAGE, "%s '%s': write it as section.key=value", by, assignment);
    struct kv_ini_section *s = find_section(ini, name);
    if (!s)
        s = add_section(ini, name, by, a);
    struct kv_setting setting = {
        .key = key,
        .value = value,
        .where = from ? kv_format(a, "%s [%s]", from, name) : kv_format(a, "--set %s: [%s]", assignment, name),
        .origin = by,
    };
    struct kv_setting *before = find_setting(s, key);
    if (before)
        *before = setting;
    else
        add_setting(s, setting, a);
    return true;
}
