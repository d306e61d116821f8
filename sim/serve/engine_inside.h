/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What the files of an engine share. */
#ifndef KV_ENGINE_INSIDE_H
#define KV_ENGINE_INSIDE_H

#include "sim/serve/engine.h"

#define KV_NOBODY (-1)

/* A sequence that runs. Decodes count by the step their run began with; pages and lengths follow from it. */
struct kv_slot {
    struct kv_job *job;
    struct kv_hold hold;
    const struct kv_hold_pass *pass; /* prefill: of this step; decode: the run */
    int64_t order;                   /* of admission */
    int32_t older, newer;            /* who was admitted before and after it */
    bool decoding, ending;           /* ending: its last token is out, and its pages go after the next step */
    int64_t target, seen;            /* prefill: tokens to compute, and those that are computed */
    double held;                     /* prefill: entries, mean over lanes */
    int64_t start;                   /* decode: step of the run's beginning; `seen` is of then */
    int64_t pages[KV_LAYOUTS];       /* of counted layouts, held between steps; of decodes the sums tell */
    bool single;                     /* the run is one pass that may give pages back */
    bool keeps;                      /* ending: its entries wait for the session's next turn */
    int64_t session;
    bool reserved;  /* pages of the whole prefill were taken at its beginning */
    int32_t *block; /* with prefix caching: in order of position */
    int64_t n_blocks, room;
    bool names_last; /* ending: the last one gets this name when it goes */
    uint64_t last_name;
    int64_t found; /* tokens that need no computing: from the cache, or kept of the turn before */
    int32_t phase_older, phase_newer;
};

/* What decodes add up to. Lengths are means over lanes. */
struct kv_decodes {
    int64_t n;
    double held, gain, gain_held, gain_gain, held_held;
    double moved_bytes, scored_bytes;
    int64_t rise[KV_LAYOUTS];   /* pages that are needed within a step and given back at its end */
    int64_t *phase[KV_LAYOUTS]; /* (page,) taken for good by the steps of that number modulo page */
    int64_t *dip[KV_LAYOUTS];   /* (page,) less than `rise` by so much in those steps */
};

/* Pages that they take in a step of that number modulo page, those they give back at its end included. */
static inline int64_t kv_decodes_take(const struct kv_decodes *d, enum kv_layout layout, int64_t phase)
{
    return d->phase[layout][phase] + d->rise[layout] + d->dip[layout][phase];
}

/* Entries of a session between two turns: in the pool, or on the host. */
struct kv_keep {
    int64_t session, tokens;
    int64_t pages[KV_LAYOUTS]; /* in the pool; all 0: on the host */
    double bytes;              /* that go to the host with the step of that number */
    int64_t step;
};

/* When a run ends. */
struct kv_event {
    int64_t step;
    int64_t order;
    int32_t slot;
};

struct kv_engine {
    struct kv_engine_rules rules; /* the pool's in pages of a layout that is counted */
    int64_t own_pages;            /* of the layout that was asked for, to each of them */
    const struct kv_holder *holder;
    const struct kv_timing *timing;
    const struct kv_engine_watch *watch;
    struct kv_arena *arena;
    struct kv_blocks *blocks; /* NULL: pages are only counted */

    double clock, begun; /* begun: the start of the step before */
    int64_t step, orders;
    bool ended; /* a request left since the run was asked for */

    struct kv_job *first_waiting, **last_waiting;
    int64_t n_waiting;

    struct kv_slot **slot;
    int32_t *idle, *ending; /* (room,) slots without a job; slots whose pages go after the next step */
    int32_t n_slots, room, n_idle, n_ending;
    int32_t oldest, newest;
    int64_t n_running; /* ending ones included */
    int32_t *prefill;  /* (room,) slots in prefill, in order of admission */
    int32_t n_prefill;
    struct kv_event *event; /* (room,) heap: when a decode's run ends */
    int32_t n_events;
    int32_t *in_phase; /* (page,) with prefix caching: the first of the decodes that take a block at those steps */

    struct kv_keep *keep; /* those kept longest first */
    int64_t n_keep, keep_room;
    double offload_bytes; /* that the next step waits for */

    struct kv_decodes decodes;
    int64_t pages[KV_LAYOUTS];  /* held between steps, here and below of layouts that are counted */
    int64_t claims[KV_LAYOUTS]; /* beside them within the step */

    /* Of this step. */
    struct kv_step now;
    struct kv_step_chunk *chunk; /* (room,) */
    int32_t *ran;                /* (room,) slots with a prefill pass in it */
    int32_t n_ran;
    double *away_s; /* (room,) of decodes that came back in it, the time since their last token */
    int32_t n_back;
    bool decodes_counted;       /* they are in `now`, `claims` and `budget` */
    int64_t budget, recomputed; /* tokens left to schedule; tokens that had been computed before */
    double prefill_held;        /* entries of slots in prefill, mean over lanes */
    enum kv_limit limit;        /* of the last admission that failed */
    int64_t tokens_left;
    bool full; /* the first that waits was refused for lack of pages, and none came back since */
    struct kv_engine_sums sums;
};

/* Pages that there must be for decodes in a step of that number modulo page: sarathi asks for a free one before it
 * looks whether one is needed. */
static inline int64_t kv_engine_decodes_need(const struct kv_engine *e, int64_t phase)
{
    enum kv_layout layout = e->rules.layout;
    int64_t need = kv_decodes_take(&e->decodes, layout, phase);
    return e->rules.scheduler == KV_SCHEDULER_SARATHI ? need + e->holder->table[layout]->tables : need;
}

/* ---- a step (engine.c) ---- */

/* Tokens that are computed where so many are asked for: a captured graph's. */
int64_t kv_engine_padded(const struct kv_engine *e, int64_t tokens);
/* Decodes whose run ends and prefills of the step that ended, in order of admission: so those that end give their pages
 * back. */
void kv_engine_end_runs(struct kv_engine *e);

/* ---- stretches of steps in which decodes alone run (engine_stretch.c) ---- */

/* Takes all steps from here on that are such, and begin before `until`. */
bool kv_engine_take_stretches(struct kv_engine *e, double until, struct kv_err *err);

/* ---- who runs (engine_schedule.c) ---- */

/* Decides what the step runs, of requests that had arrived by `cutoff`, and takes pages for it: see `now`, `chunk`,
 * `ran`. False when memory is out. */
bool kv_engine_schedule(struct kv_engine *e, double cutoff);
/* Begins with a step of all decodes and nothing else, as the above would. */
void kv_engine_begin_decodes(struct kv_engine *e);
/* Takes the first that waits out of the queue. */
struct kv_job *kv_engine_next_job(struct kv_engine *e);
void kv_engine_tell(const struct kv_engine *e, enum kv_engine_event what, struct kv_job *job, int64_t tokens,
                    int64_t computed);

/* ---- sequences (engine_slots.c) ---- */

/* An idle slot for the job. NULL when memory is out. */
struct kv_slot *kv_slot_take(struct kv_engine *e, struct kv_job *job, int32_t *number);
void kv_slot_run(struct kv_engine *e, int32_t number);   /* into the running list, as its newest */
void kv_slot_leave(struct kv_engine *e, int32_t number); /* out of it, and idle; its pages were given back */

void kv_slot_end_prefill(struct kv_engine *e, int32_t number);

/* The decode run that begins with this step joins the sums; false: the sequence has no step left. */
bool kv_slot_next_run(struct kv_engine *e, int32_t number);
void kv_slot_begin_run(struct kv_engine *e, int32_t number); /* the same, of the pass that is there */
void kv_slot_stop(struct kv_engine *e, int32_t number);      /* its run leaves the sums, before this step */
int64_t kv_slot_generated(const struct kv_engine *e, const struct kv_slot *s);
/* Pages that evictions of its run gave back until now. */
void kv_slot_add_returned(const struct kv_engine *e, const struct kv_slot *s, int64_t returned[KV_LAYOUTS]);

/* Pages this decode takes in the step that begins, those it gives back at its end included. */
int64_t kv_slot_need(const struct kv_engine *e, const struct kv_slot *s);
void kv_slot_give_pages(struct kv_engine *e, struct kv_slot *s);
static inline int64_t kv_engine_free_pages(const struct kv_engine *e)
{
    enum kv_layout layout = e->rules.layout;
    int64_t there = e->blocks ? kv_blocks_free(e->blocks) : e->rules.pages - e->pages[layout];
    return there - e->claims[layout];
}

/* ---- sessions and the host (engine_keep.c) ---- */

/* Puts a slot's entries by for the session's next turn. */
void kv_keep_slot(struct kv_engine *e, struct kv_slot *s);
/* Entries of the turn before this one, or NULL. View: until entries are put by or dropped. */
struct kv_keep *kv_keep_find(const struct kv_engine *e, const struct kv_job *job);
static inline bool kv_keep_in_pool(const struct kv_keep *k)
{
    return k->pages[KV_SHARED] > 0;
}
/* Its pages belong to somebody else now. */
void kv_keep_end(struct kv_engine *e, const struct kv_keep *k);
/* Gives back the pages kept longest, but not those of `but`. False: there are none. */
bool kv_keep_drop(struct kv_engine *e, const struct kv_keep *but);

/* With prefix caching: the name of a block of the job; blocks up to `tokens`, the full ones behind `from` named. */
uint64_t kv_job_block_name(const struct kv_engine *e, const struct kv_job *job, int64_t block);
void kv_slot_take_block(struct kv_slot *s, int32_t block);
void kv_slot_name_block(struct kv_engine *e, const struct kv_slot *s, int64_t n); /* it is full */
void kv_slot_take_blocks(struct kv_engine *e, struct kv_slot *s, int64_t from, int64_t tokens);

#endif
