/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/report_html.h"

#include "sim/core/units.h"
#include "sim/csv.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void kv_html_text(FILE *out, const char *text)
{
    json_t *clean = kv_json_text(text ? text : "");
    for (const char *at = json_string_value(clean); *at; at++) {
        unsigned char c = (unsigned char)*at;
        if (c == '&')
            fputs("&amp;", out);
        else if (c == '<')
            fputs("&lt;", out);
        else if (c == '>')
            fputs("&gt;", out);
        else if (c == '"')
            fputs("&quot;", out);
        else if (c == '\'')
            fputs("&#39;", out);
        else if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7F)
            fputs("\xEF\xBF\xBD", out);
        else
            putc(c, out);
    }
    json_decref(clean);
}

/* The bytes of a file, a NUL behind; NULL when it cannot be read. To be freed. */
static char *whole_file(const char *path)
{
    FILE *in = fopen(path, "r");
    char *text = NULL;
    size_t length = 0;
    if (!in)
        return NULL;
    FILE *out = open_memstream(&text, &length);
    KV_ASSERT(out);
    for (int c; (c = getc(in)) != EOF;)
        putc(c ? c : 1, out); /* a NUL would end the text */
    fclose(in);
    fclose(out);
    return text;
}

void kv_html_file(FILE *out, const char *heading, const char *path)
{
    char *text = whole_file(path);
    if (!text)
        return;
    fputs("<details><summary>", out);
    kv_html_text(out, heading);
    fputs("</summary>\n<pre>", out);
    kv_html_text(out, text);
    fputs("</pre></details>\n", out);
    free(text);
}

/* ---- tables ---- */

static bool ends(const char *text, const char *with)
{
    size_t n = strlen(text), m = strlen(with);
    return n >= m && !strcmp(text + n - m, with);
}

static bool is_share(const char *column)
{
    return ends(column, "_share") || ends(column, "_kept") || !strncmp(column, "kv_footprint", 12) ||
           !strncmp(column, "kv_peak_p", 9) || !strncmp(column, "kv_peak_a", 9) || !strcmp(column, "kv_peak");
}

/* For people; what is no number stays as it is. */
static const char *shown(const char *column, const char *text, struct kv_arena *a)
{
    char number[KV_NUMBER_TEXT], *end;
    double value = strtod(text, &end);
    if (!*text)
        return "-";
    if (*end || !isfinite(value) || fabs(value) > 9e18)
        return text;
    if (ends(column, "_bytes"))
        return kv_copy_text(a, kv_print_bytes(number, llrint(value)));
    if (is_share(column))
        return kv_copy_text(a, kv_print_share(number, value));
    if (value == floor(value) && fabs(value) < 1e15 && !strpbrk(text, ".e"))
        return kv_copy_text(a, kv_print_count(number, llrint(value)));
    return kv_format(a, "%.4g", value);
}

static void put_heading(FILE *out, const char *column)
{
    fputs("<th scope=\"col\">", out);
    for (; *column; column++) {
        char one[2] = {*column == '_' ? ' ' : *column, '\0'};
        kv_html_text(out, one);
    }
    fputs("</th>", out);
}

bool kv_html_csv(FILE *out, const char *path, const char *const *wanted, int *n, struct kv_arena *a, struct kv_err *e)
{
    struct kv_csv in;
    enum kv_next next;
    *n = 0;
    if (!kv_csv_open(&in, path, a, e))
        return false;
    int *column = KV_NEW_N(a, int, in.n_columns + 1);
    for (int i = 0; wanted ? wanted[i] != NULL : i < in.n_columns; i++) {
        int at = wanted ? kv_csv_column(&in, wanted[i]) : i;
        if (at >= 0 && *n < in.n_columns)
            column[(*n)++] = at;
    }
    if (*n)
        fputs("<div class=\"wide\"><table>\n<thead><tr>", out);
    for (int i = 0; i < *n; i++)
        put_heading(out, in.name[column[i]]);
    if (*n)
        fputs("</tr></thead>\n<tbody>\n", out);
    while (*n && e->n <= KV_ERR_LINES && (next = kv_csv_next(&in, e)) != KV_NEXT_END) {
        if (next == KV_NEXT_BAD)
            continue;
        fputs("<tr>", out);
        for (int i = 0; i < *n; i++) {
            const char *text = in.cell[column[i]];
            bool number = *text && strspn(text, "0123456789.eE+-") == strlen(text);
            fputs(number ? "<td class=\"n\">" : "<td>", out);
            kv_html_text(out, shown(in.name[column[i]], text, a));
            fputs("</td>", out);
        }
        fputs("</tr>\n", out);
    }
    if (*n)
        fputs("</tbody></table></div>\n", out);
    kv_csv_close(&in);
    return !e->n;
}

/* ---- pictures ---- */

/* The elements that gnuplot's pictures consist of. */
static bool may(const char *tag, size_t length)
{
    static const char *const known[] = {"svg",     "g",        "path",        "text",     "tspan",   "title",  "desc",
                                        "defs",    "circle",   "rect",        "use",      "polygon", "filter", "line",
                                        "feFlood", "polyline", "feComposite", "clipPath", "pattern", "ellipse"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strlen(known[i]) == length && !strncmp(known[i], tag, length))
            return true;
    return false;
}

/* A tag from its '<': copied up to its '>', ids and what points to them with the prefix. The text behind it, or NULL
 * when it is none of a picture. */
static const char *copy_tag(FILE *out, const char *at, const char *prefix, int *depth)
{
    static const char *const before[] = {" id='", " id=\"", "href='#", "href=\"#", "url(#", "url('#"};
    const char *start = at, *name = at + 1 + (at[1] == '/');
    size_t length = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
    char quote = '\0';
    if (!may(name, length))
        return NULL;
    for (; *at && (quote || *at != '>'); at++) {
        bool handler = strchr("\n\r\t\f /'\"", *at) && !strncasecmp(at + 1, "on", 2);
        bool link = !strncasecmp(at, "href", 4) && strncmp(at, "href='#", 7) && strncmp(at, "href=\"#", 7);
        bool loads = !strncasecmp(at, "url(", 4) && strncmp(at, "url(#", 5) && strncmp(at, "url('#", 6);
        if (handler || link || loads || (*at == '<' && at > start))
            return NULL;
        size_t known = 0;
        for (size_t i = 0; i < sizeof before / sizeof *before && !known; i++)
            known = !strncmp(at, before[i], strlen(before[i])) ? strlen(before[i]) : 0;
        for (size_t i = 0; i + 1 < known; i++) { /* all but the last of it, which comes below */
            quote = *at == '\'' || *at == '"' ? quote == *at ? '\0' : quote ? quote : *at : quote;
            putc(*at++, out);
        }
        quote = *at == '\'' || *at == '"' ? quote == *at ? '\0' : quote ? quote : *at : quote;
        putc(*at, out);
        if (known)
            fputs(prefix, out);
    }
    if (!*at)
        return NULL;
    *depth += start[1] == '/' ? -1 : at[-1] != '/';
    putc('>', out);
    return at + 1;
}

static bool copy_svg(FILE *out, const char *text, const char *prefix, const char *title)
{
    static const char own_title[] = "<title>Gnuplot</title>";
    const char *at = strstr(text, "<svg");
    int depth = 0;
    while (at && *at && depth >= 0) {
        if (!strncmp(at, own_title, sizeof own_title - 1)) {
            fputs("<title>", out);
            kv_html_text(out, title);
            fputs("</title>", out);
            at += sizeof own_title - 1;
        } else if (!strncmp(at, "<!--", 4)) {
            at = strstr(at, "-->");
            at = at ? at + 3 : NULL;
        } else if (*at == '<') {
            at = copy_tag(out, at, prefix, &depth);
        } else {
            putc(*at++, out);
        }
    }
    return at && !depth;
}

bool kv_html_svg(FILE *out, const char *path, const char *prefix, const char *title, struct kv_err *e)
{
    char *text = whole_file(path), *made = NULL;
    size_t length = 0;
    if (!text)
        return kv_fail(e, KV_DATA, "cannot open '%s': %s", path, strerror(errno));
    FILE *picture = open_memstream(&made, &length);
    KV_ASSERT(picture);
    bool good = copy_svg(picture, text, prefix, title);
    fclose(picture);
    if (good)
        fwrite(made, 1, length, out);
    free(made);
    free(text);
    return good || kv_fail(e, KV_DATA, "'%s' is no picture that gnuplot draws, or holds more than one", path);
}
