/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Requests in order of arrival, read from a file or drawn: a stream, whose memory does not grow with its length. The
 * same seed and files give the same requests, whatever the policy that serves them.
 *
 * A session is a row of turns, each of which arrives some time after the answer to the one before: turns of a chat, of
 * an agent that waits for its tools, or the requests of a closed-loop client, which have no context in common. Only
 * first turns are in the stream; the others are asked for when an answer has ended. */
#ifndef KV_WORKLOAD_H
#define KV_WORKLOAD_H

#include "sim/csv.h"
#include "sim/settings.h"

struct kv_arrival {
    int64_t request;  /* number in the stream, from 0; of later turns the number of the first one */
    double arrival_s; /* from the start of the workload; in the stream it never falls. Of later turns: after the answer
                       * before it (think time) */
    int64_t prompt;   /* tokens, context of earlier turns included; at least 1. A file's may pass max_model_len */
    int64_t context;  /* of them those that are earlier turns, with their answers: known to be equal */
    int64_t output;   /* at least 1 */
    int64_t turn;     /* from 0 */
    int64_t session;  /* as a trace names it, KV_UNSET: it does not; rows of one arrive at their times all the same */
    bool follows;     /* there may be a turn after this one: ask kv_workload_follow */

    /* Which prompts begin alike: block[i] names the tokens [0, (i + 1) x block_tokens) of the prompt, and equal names
     * mean equal tokens. The last one may stand for less than a whole block, up to the prompt's end. n_blocks = 0:
     * nothing is known to be shared. View: until the next call on the stream. */
    const uint64_t *block;
    int64_t n_blocks, block_tokens;
};

struct kv_workload;

/* Whether [workload] says when requests arrive, and not only how many there are to count. */
bool kv_workload_has_traffic(const struct kv_settings *s);

/* Opens the workload of [workload]; every mistake is said. KV_USAGE, KV_DATA, KV_ENV. Close it even then. */
bool kv_workload_open(struct kv_workload **w, const struct kv_settings *s, uint64_t seed, struct kv_arena *a,
                      struct kv_err *e);
/* The same for who looks at lengths: a trace without times is no mistake, all its requests arrive at 0. */
bool kv_workload_open_lengths(struct kv_workload **w, const struct kv_settings *s, uint64_t seed, struct kv_arena *a,
                              struct kv_err *e);
void kv_workload_close(struct kv_workload *w);

/* The next of the stream. Rows that cannot be read are KV_NEXT_BAD after a message of file, line and column, or are
 * counted when [workload] skip_bad says so. */
enum kv_next kv_workload_next(struct kv_workload *w, struct kv_arrival *out, struct kv_err *e);
int64_t kv_workload_skipped(const struct kv_workload *w);

/* The turn after `last`, whose `arrival_s` is the time after the answer. `last` may be `next`, and its `output` what
 * was really answered: the next prompt brings it along. False: the session has ended, or `e` says what failed. Draws
 * depend on (seed, request, turn) alone; closed-loop clients of a file take its next row. */
bool kv_workload_follow(struct kv_workload *w, const struct kv_arrival *last, struct kv_arrival *next,
                        struct kv_err *e);

/* Before the first request: rows of a trace that do not stand in order of arrival are read into memory and sorted. */
bool kv_workload_sort(struct kv_workload *w, struct kv_err *e);

/* Whether arrivals mean anything: not of closed loops, nor of lengths alone. */
bool kv_workload_has_times(const struct kv_workload *w);
/* Whether sessions have more than one turn. */
bool kv_workload_has_turns(const struct kv_workload *w);
/* Whether prompts have block hashes from a file. */
bool kv_workload_has_blocks(const struct kv_workload *w);
/* "azure", ..., or "drawn". */
const char *kv_workload_format(const struct kv_workload *w);

/* Starts again from the first request. False when the input cannot be read twice (a pipe). */
bool kv_workload_rewind(struct kv_workload *w, struct kv_err *e);

#endif
