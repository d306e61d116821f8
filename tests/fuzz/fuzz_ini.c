/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Any bytes as an INI file. What is read without a mistake is compared with a second, plainer reading of the same
 * bytes: no line may be lost or land elsewhere. The bytes up to a NUL are then tried as `--set`. */
#include "sim/core/ini.h"
#include "tests/fuzz/fuzz.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static bool blank(char c)
{
    return isspace((unsigned char)c);
}

/* Text between two places, without blanks at its ends. */
static const char *trimmed(struct kv_arena *a, const char *from, const char *to)
{
    while (from < to && blank(*from))
        from++;
    while (from < to && blank(to[-1]))
        to--;
    return kv_copy_part(a, from, (size_t)(to - from));
}

/* What follows '=', up to a ';' behind a blank. */
static const char *value_of(struct kv_arena *a, const char *equals)
{
    const char *end = equals + 1;
    while (*end && !(*end == ';' && end > equals + 1 && blank(end[-1])))
        end++;
    return trimmed(a, equals + 1, end);
}

struct place {
    int section, setting; /* the ones read last */
    bool continued;       /* a line continued the setting */
};

static void check_last(const struct kv_ini *ini, const struct place *at)
{
    if (at->setting >= 0)
        KV_ASSERT(ini->section[at->section].setting[at->setting].continued == at->continued);
}

static void check_line(const struct kv_ini *ini, char *line, int number, struct place *at, struct kv_arena *a)
{
    const char *start = line;
    while (blank(*start))
        start++;
    if (!*start || *start == ';' || *start == '#')
        return;
    if (start > line) {
        KV_ASSERT(at->setting >= 0);
        at->continued = true;
        return;
    }
    check_last(ini, at);
    at->continued = false;
    if (*line == '[') {
        KV_ASSERT(at->section < 0 || ini->section[at->section].n == at->setting + 1);
        KV_ASSERT(++at->section < ini->n);
        const char *close = strchr(line, ']');
        KV_ASSERT(close);
        KV_ASSERT(!strcmp(ini->section[at->section].name, kv_copy_part(a, line + 1, (size_t)(close - line - 1))));
        KV_ASSERT(!strcmp(ini->section[at->section].where, kv_format(a, "%s:%d", ini->path, number)));
        at->setting = -1;
        return;
    }
    const char *equals = strchr(line, '=');
    KV_ASSERT(equals && at->section >= 0 && ++at->setting < ini->section[at->section].n);
    const struct kv_setting *s = &ini->section[at->section].setting[at->setting];
    KV_ASSERT(!strcmp(s->key, trimmed(a, line, equals)));
    KV_ASSERT(!strcmp(s->origin, kv_format(a, "%s:%d", ini->path, number)));
    const char *value = value_of(a, equals);
    KV_ASSERT(s->continued ? !strncmp(s->value, value, strlen(value)) : !strcmp(s->value, value));
}

static void check_reading(const struct kv_ini *ini, const char *text, struct kv_arena *a)
{
    struct place at = {.section = -1, .setting = -1};
    int number = 0;
    if (!strncmp(text, "\xEF\xBB\xBF", 3))
        text += 3;
    while (*text) {
        size_t length = strcspn(text, "\n");
        check_line(ini, kv_copy_part(a, text, length), ++number, &at, a);
        text += length + (text[length] == '\n');
    }
    check_last(ini, &at);
    KV_ASSERT(ini->n == at.section + 1 && (at.section < 0 || ini->section[at.section].n == at.setting + 1));
}

static void check_mistakes(const struct kv_ini *ini, const struct kv_err *e)
{
    KV_ASSERT(e->n > 0 && e->status == KV_USAGE && strlen(e->text) == e->length);
    const char *line = e->text;
    for (int i = 0; i < e->n && i < KV_ERR_LINES; i++) {
        size_t path = strlen(ini->path);
        KV_ASSERT(line && !strncmp(line, ini->path, path) && line[path] == ':' &&
                  isdigit((unsigned char)line[path + 1]));
        line = strchr(line, '\n');
        line = line ? line + 1 : NULL;
    }
    KV_ASSERT(!line);
}

static void try_set(struct kv_ini *ini, const char *assignment, struct kv_arena *a)
{
    struct kv_err e = {0};
    if (!kv_ini_set(ini, assignment, NULL, a, &e)) {
        KV_ASSERT(e.n == 1 && e.status == KV_USAGE);
        return;
    }
    const char *dot = strchr(assignment, '=');
    while (*dot != '.')
        dot--;
    const struct kv_ini_section *s = kv_ini_find(ini, kv_copy_part(a, assignment, (size_t)(dot - assignment)));
    int found = 0;
    for (int i = 0; s && i < s->n; i++)
        found += !strcmp(s->setting[i].origin, "--set");
    KV_ASSERT(found == 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kv_arena *a = kv_arena_open();
    struct kv_err e = {0};
    struct kv_ini ini;
    int file = memfd_create("ini", 0);
    if (file < 0 || write(file, data ? (const char *)data : "", size) != (ssize_t)size)
        abort();
    if (kv_ini_read(kv_format(a, "/proc/self/fd/%d", file), &ini, a, &e)) {
        KV_ASSERT(e.n == 0 && !(data && memchr(data, 0, size)));
        check_reading(&ini, kv_copy_part(a, size ? (const char *)data : "", size), a);
    } else {
        check_mistakes(&ini, &e);
    }
    close(file);
    if (size && size < 200)
        try_set(&ini, kv_copy_part(a, (const char *)data, size), a);
    kv_arena_close(a);
    return 0;
}
