/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What a plot is: the rows of a result's file that it draws, and the variables that tell its script about them. Hides
 * how rows become lines, and how text that a user chose becomes a string of gnuplot, with nothing in it to run. */
#ifndef KV_PLOT_DATA_H
#define KV_PLOT_DATA_H

#include "sim/table.h"

/* Beyond so many policies and chunks nobody reads a picture. */
enum { KV_PLOT_KINDS = 18, KV_PLOT_MOST_SERIES = 240 };

/* What kind of result a plot is of. */
enum kv_plot_result {
    KV_PLOT_PLAN,
    KV_PLOT_CRITICAL,
    KV_PLOT_REPLAY,
    KV_PLOT_TRAFFIC,
    KV_PLOT_MEASURED, /* traffic against a measured run */
    KV_PLOT_SWEEP
};

struct kv_plot;

/* One of the plots. */
struct kv_plot_kind {
    const char *name;
    const char *part[6];            /* templates of plots/, in this order; NULL at the end */
    const char *file;               /* of the result */
    const char *shown;              /* the column drawn, when its template draws one of several; or NULL */
    const struct kv_column *column; /* of the plot's data: line and chunk first, policy last */
    int n_columns;
    const char *const *source[2]; /* the file's names of columns 1 .., if not the same; two lists: a row gives two */
    bool by_chunk, by_row;        /* what starts a series besides another policy */
    bool (*read)(struct kv_plot *p, const char *result, struct kv_err *e); /* NULL: the rows of a plan */
    enum kv_plot_result of;
};

/* In the order they are drawn in, those of one kind of result together. */
extern const struct kv_plot_kind kv_plot_kinds[KV_PLOT_KINDS];

/* A plot's data, in an arena. */
struct kv_plot {
    const struct kv_plot_kind *kind;
    struct kv_table table;
    struct kv_plot_series *series; /* (n,) */
    int n, n_lines;                /* n: 0 when there is nothing to draw; a line: a policy's, in one colour */
    bool cut;                      /* the file has more than KV_PLOT_MOST_SERIES */
    const char *variables;         /* of results that are no plans: for the script, ready */
    const char *nothing;           /* why there is nothing to draw, when it is not that the file has no rows; or NULL */
    const char *note;              /* what it leaves out, as "shows the first ..."; or NULL */
    const char *measured;          /* KV_PLOT_MEASURED: the run beside the result */
    struct kv_arena *arena;
};

/* Reads what a plot draws from the folder of a result. KV_DATA; every mistake in the file is said. */
bool kv_plot_read(struct kv_plot *p, const struct kv_plot_kind *kind, const char *result, const char *measured,
                  struct kv_arena *a, struct kv_err *e);

/* Writes the data as CSV. */
void kv_plot_put_data(FILE *out, const struct kv_plot *p);

/* Writes the variables that a script begins with. `data`: the file of the data; `facts`: those of kv_plot_put_facts and
 * whatever else all plots share, as text. */
void kv_plot_put_variables(FILE *out, const struct kv_plot *p, const char *data, const char *facts);

/* The same for critical footprints, whose series are curves: it makes the variables too. */
bool kv_plot_read_critical(struct kv_plot *p, const char *result, struct kv_err *e);

/* And for a replay: maps of lanes, attention mass against footprints, the page tax, what is held over tokens. */
bool kv_plot_read_heads(struct kv_plot *p, const char *result, struct kv_err *e);
bool kv_plot_read_mass(struct kv_plot *p, const char *result, struct kv_err *e);
bool kv_plot_read_tax(struct kv_plot *p, const char *result, struct kv_err *e);
bool kv_plot_read_timeline(struct kv_plot *p, const char *result, struct kv_err *e);

/* Of traffic: the pool over time, latencies, points of policies; against a measured run; of a sweep over rates. */
bool kv_plot_read_traffic_memory(struct kv_plot *p, const char *result, struct kv_err *e);
bool kv_plot_read_traffic_latency(struct kv_plot *p, const char *result, struct kv_err *e);
bool kv_plot_read_traffic_points(struct kv_plot *p, const char *result, struct kv_err *e);
bool kv_plot_read_measured(struct kv_plot *p, const char *result, struct kv_err *e);
bool kv_plot_read_curves(struct kv_plot *p, const char *result, struct kv_err *e);
bool kv_plot_read_rate(struct kv_plot *p, const char *sweep, struct kv_err *e); /* the CSV itself */

/* Writes what titles say of a plan, for all its plots. `device`: a fuller name than that of its summary, or NULL.
 * KV_DATA. */
bool kv_plot_put_facts(FILE *out, const char *result, const char *device, struct kv_arena *a, struct kv_err *e);
/* The same of a replay. */
bool kv_plot_put_replay_facts(FILE *out, const char *result, struct kv_arena *a, struct kv_err *e);

/* And of traffic. */
bool kv_plot_put_traffic_facts(FILE *out, const char *result, const char *device, struct kv_arena *a, struct kv_err *e);

/* ---- what the readers share ---- */

/* summary.json of a result, for the caller to give back, and its path; NULL: it cannot be read. */
json_t *kv_plot_read_summary(const char *result, const char **path, struct kv_arena *a, struct kv_err *e);

/* Writes a script's variables into memory, then into the plot. */
struct kv_plot_variables {
    FILE *out;
    char *text;
    size_t length;
};
void kv_plot_begin_variables(struct kv_plot_variables *v);
void kv_plot_end_variables(struct kv_plot_variables *v, struct kv_plot *p);

/* At most `most` letters of a text, with '?' for what cannot be drawn. */
const char *kv_plot_printable(const char *text, int most, struct kv_arena *a);
int kv_plot_letters(const char *text);
/* NAME = 'TEXT', with nothing in it to run. */
void kv_plot_put_text(FILE *out, const char *name, const char *text);

/* NAME[n] = [...], n > 0 */
void kv_plot_put_wholes(FILE *out, const char *name, const int64_t *value, int n);

struct kv_csv;
/* Binds columns of a file by name; each missing one is said. `command`: whose file it should be. */
bool kv_plot_bind(const struct kv_csv *c, const char *const *names, int n, int *column, const char *command,
                  struct kv_err *e);
/* A cell within a range; an empty one is NaN where that is allowed. */
bool kv_plot_number(const struct kv_csv *in, int column, double least, double most, bool empty, double *out,
                    struct kv_err *e);
/* The next row that is well formed; false at the end. Every other row is said. */
bool kv_plot_next_row(struct kv_csv *c, struct kv_err *e);

#endif
