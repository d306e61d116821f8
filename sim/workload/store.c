/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/workload/store.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* Seconds to the nanosecond, without zeros at the end. */
static void print_seconds(double s, FILE *out)
{
    int64_t ns = llrint(s * 1e9);
    char text[40];
    int n = snprintf(text, sizeof text, "%" PRId64 ".%09" PRId64, ns / 1000000000, ns % 1000000000);
    while (text[n - 1] == '0')
        n--;
    n -= text[n - 1] == '.';
    fprintf(out, "%.*s", n, text);
}

static void print_row(const struct kv_arrival *r, bool times, bool sessions, bool blocks, FILE *out)
{
    fprintf(out, "%" PRId64, r->request);
    if (times) {
        putc(',', out);
        print_seconds(r->arrival_s, out);
    }
    fprintf(out, ",%" PRId64 ",%" PRId64, r->prompt, r->output);
    if (sessions) {
        putc(',', out);
        if (r->session != KV_UNSET)
            fprintf(out, "%" PRId64, r->session);
    }
    if (blocks) {
        fprintf(out, ",%" PRId64 ",", r->block_tokens);
        for (int64_t i = 0; i < r->n_blocks; i++)
            fprintf(out, i ? " %" PRIu64 : "%" PRIu64, r->block[i]);
    }
    putc('\n', out);
}

bool kv_workload_store(struct kv_workload *w, bool times, FILE *out, int64_t *written, struct kv_err *e)
{
    struct kv_arrival r;
    bool sessions = false, blocks = false;
    *written = 0;
    for (enum kv_next next; (next = kv_workload_next(w, &r, e)) != KV_NEXT_END;) {
        if (next == KV_NEXT_BAD && e->n > KV_ERR_LINES)
            break;
        if (next == KV_NEXT_BAD || e->n)
            continue;
        if (!*written) {
            sessions = r.session != KV_UNSET;
            blocks = kv_workload_has_blocks(w);
            fprintf(out, "request%s,prompt_tokens,output_tokens%s%s\n", times ? ",arrival_s" : "",
                    sessions ? ",session" : "", blocks ? ",block_tokens,hashes" : "");
        }
        print_row(&r, times, sessions, blocks, out);
        ++*written;
    }
    return !e->n;
}
