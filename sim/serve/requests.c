/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/serve/requests.h"

#include "sim/serve/serve.h"
#include "sim/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct kv_entry {
    struct kv_job job; /* first, so that a job is its entry */
    struct kv_entry *next;
    int64_t number;
    bool ended;
    uint64_t *block;
    int64_t room;
};

const char kv_serve_request_header[] = "request,arrival_s,prompt_tokens,output_tokens,queue_s,ttft_s,tpot_s,e2e_s,"
                                       "preemptions,kv_footprint,kv_peak_bytes,policy\n";

/* Numbers by hand: a row of eleven costs printf more than the simulation of its request. */
static char *put_whole(char *at, int64_t n)
{
    char digit[20];
    int i = 0;
    if (n < 0)
        *at++ = '-';
    for (uint64_t left = n < 0 ? (uint64_t)-n : (uint64_t)n; left || !i; left /= 10)
        digit[i++] = (char)('0' + left % 10);
    while (i)
        *at++ = digit[--i];
    return at;
}

/* With `places` digits behind the point, rounded; nothing when unknown. */
static char *put_fixed(char *at, double x, int places)
{
    static const double scale[] = {1, 10, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9};
    if (isnan(x) || fabs(x) >= 9e9)
        return isnan(x) ? at : at + sprintf(at, "%.*f", places, x);
    int64_t all = llrint(x * scale[places]), unit = (int64_t)scale[places];
    if (all < 0)
        *at++ = '-';
    all = all < 0 ? -all : all;
    at = put_whole(at, all / unit);
    *at++ = '.';
    int64_t rest = all % unit;
    for (int i = places - 1; i >= 0; i--, rest /= 10)
        at[i] = (char)('0' + rest % 10);
    return at + places;
}

static void write_row(const struct kv_jobs *j, const struct kv_entry *entry)
{
    const struct kv_job *job = &entry->job;
    char row[400], *at = row;
    double after = (double)(job->is.output - 1);
    at = put_whole(at, entry->number);
    *at++ = ',';
    at = put_fixed(at, job->arrival_s, 9);
    *at++ = ',';
    at = put_whole(at, job->is.prompt);
    *at++ = ',';
    at = put_whole(at, job->is.output);
    *at++ = ',';
    at = put_fixed(at, job->scheduled_s - job->arrival_s, 9);
    *at++ = ',';
    at = put_fixed(at, job->first_token_s - job->arrival_s, 9);
    *at++ = ',';
    at = put_fixed(at, after > 0 ? (job->finish_s - job->first_token_s) / after : 0 * job->finish_s, 9);
    *at++ = ',';
    at = put_fixed(at, job->finish_s - job->arrival_s, 9);
    *at++ = ',';
    at = put_whole(at, job->preemptions);
    *at++ = ',';
    if (!isnan(job->finish_s)) /* not known of a part */
        at = put_fixed(at, job->entry_steps / job->full_steps, 6);
    *at++ = ',';
    if (!isnan(job->finish_s))
        at = put_whole(at, job->peak_pages * j->page_bytes);
    *at++ = ',';
    fwrite(row, 1, (size_t)(at - row), j->out);
    kv_csv_put(j->policy, j->out);
    putc('\n', j->out);
}

void kv_jobs_open(struct kv_jobs *j, FILE *out, const char *policy)
{
    *j = (struct kv_jobs){.out = out, .policy = policy};
}

/* Those at the front that have ended. */
static void write_ended(struct kv_jobs *j, bool all)
{
    while (j->first && (all || j->first->ended)) {
        struct kv_entry *entry = j->first;
        if (j->out)
            write_row(j, entry);
        j->first = entry->next;
        if (!j->first)
            j->last = NULL;
        entry->next = j->idle;
        j->idle = entry;
        j->n--;
    }
}

void kv_jobs_close(struct kv_jobs *j)
{
    write_ended(j, true);
    while (j->idle) {
        struct kv_entry *entry = j->idle;
        j->idle = entry->next;
        free(entry->block);
        free(entry);
    }
}

static bool copy_blocks(struct kv_entry *entry, const struct kv_arrival *arrival)
{
    if (arrival->n_blocks > entry->room) {
        uint64_t *grown = realloc(entry->block, sizeof *grown * (size_t)arrival->n_blocks);
        if (!grown)
            return false;
        entry->block = grown;
        entry->room = arrival->n_blocks;
    }
    if (arrival->n_blocks)
        memcpy(entry->block, arrival->block, sizeof *entry->block * (size_t)arrival->n_blocks);
    entry->job.is.block = entry->block;
    return true;
}

struct kv_job *kv_jobs_begin(struct kv_jobs *j, const struct kv_arrival *arrival)
{
    struct kv_entry *entry = j->idle;
    if (entry)
        j->idle = entry->next;
    else if (!(entry = calloc(1, sizeof *entry)))
        return NULL;
    entry->job =
        (struct kv_job){.is = *arrival, .scheduled_s = NAN, .first_token_s = NAN, .last_token_s = NAN, .finish_s = NAN};
    entry->next = NULL;
    entry->ended = false;
    entry->number = j->numbers++;
    if (j->last)
        j->last->next = entry;
    else
        j->first = entry;
    j->last = entry;
    j->n++;
    j->follow += arrival->follows;
    return copy_blocks(entry, arrival) ? &entry->job : NULL;
}

const struct kv_job *kv_jobs_in_flight(const struct kv_jobs *j, const struct kv_job *last)
{
    const struct kv_entry *entry = last ? ((const struct kv_entry *)(const void *)last)->next : j->first;
    while (entry && entry->ended)
        entry = entry->next;
    return entry ? &entry->job : NULL;
}

void kv_jobs_end(struct kv_jobs *j, struct kv_job *job)
{
    struct kv_entry *entry = (struct kv_entry *)(void *)job;
    j->follow -= job->is.follows;
    entry->ended = true;
    write_ended(j, false);
}
