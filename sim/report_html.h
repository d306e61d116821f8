/* SPDX-License-Identifier: GPL-3.0-or-later */
/* HTML of whatever users named. Nothing that comes from a file becomes markup: text is escaped, and a picture of
 * gnuplot is passed on only while it consists of what pictures consist of. */
#ifndef KV_REPORT_HTML_H
#define KV_REPORT_HTML_H

#include "sim/table.h"

/* Text with & < > " ' escaped; bytes that are no UTF-8, and controls, become U+FFFD. */
void kv_html_text(FILE *out, const char *text);
/* The same of a whole file, in <pre>; nothing when there is no such file. */
void kv_html_file(FILE *out, const char *heading, const char *path);

/* Rows of a CSV as a table. `wanted`: columns, in this order, NULL at the end (those that are not there are passed
 * over); NULL: all. Numbers are shown for people. KV_DATA. *n: columns shown. */
bool kv_html_csv(FILE *out, const char *path, const char *const *wanted, int *n, struct kv_arena *a, struct kv_err *e);

/* An SVG inline; `prefix` keeps its ids apart from those of other pictures. KV_DATA when it holds anything but shapes
 * and text. */
bool kv_html_svg(FILE *out, const char *path, const char *prefix, const char *title, struct kv_err *e);

#endif
