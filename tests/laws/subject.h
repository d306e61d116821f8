/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A draw as the code under test sees it, counted; and two counts compared field by field. */
#ifndef KV_TESTS_SUBJECT_H
#define KV_TESTS_SUBJECT_H

#include "sim/core/ledger.h"
#include "tests/laws/draw.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

/* What the tests of a program share. */
struct bench {
    char mask_file[256];
};

/* A draw as the code under test sees it. */
struct subject {
    struct draw draw;
    struct kv_arena *arena;
    struct kv_err e;
    struct kv_model model;
    struct kv_policy policy;
    struct kv_shape shape;
    struct kv_classes classes;
    struct kv_walk walk;
    bool skip_places; /* of the ledgers that count() makes */
};

static int set_up(void **state)
{
    struct bench *b = calloc(1, sizeof *b);
    const char *tmp = getenv("KV_TMP");
    snprintf(b->mask_file, sizeof b->mask_file, "%s/counts-%ld.tsv", tmp ? tmp : "/tmp", (long)getpid());
    *state = b;
    return 0;
}

static int tear_down(void **state)
{
    struct bench *b = *state;
    unlink(b->mask_file);
    free(b);
    return 0;
}

static void fail_draw(const struct subject *s, const char *why)
{
    fail_msg("%s\n%s", why, draw_text(&s->draw, s->arena));
}

/* Without a file, as many full heads as DuoAttention's loader makes at this sparsity (notes/policies.md 8.1), over
 * layers that differ by at most one. Where they are is read back. */
static void read_synthetic(struct subject *s)
{
    struct draw *d = &s->draw;
    int64_t lanes = d->layers * d->kv_heads, full = 0,
            wanted = lanes - (int64_t)ceil(d->sparsity * (double)(lanes - 1)), fewest = INT64_MAX, most = 0;
    struct kv_pass pass = {.prompt = 1, .n_new = 1, .n_unit = 1, .evict = true};
    for (int64_t layer = 0; layer < d->layers; layer++) {
        int64_t here = 0;
        for (int64_t head = 0; head < d->kv_heads; head++) {
            struct kv_lane lane = {.layer = layer, .head = head * (s->shape.store_heads / s->shape.kv_heads)};
            bool keeps = s->policy.law->room(&s->policy, &s->shape, &lane, &pass).keep == KV_NO_BOUND;
            d->full[layer * d->kv_heads + head] = keeps;
            here += keeps;
        }
        full += here;
        fewest = smaller(fewest, here);
        most = larger(most, here);
    }
    if (full != (d->sparsity >= 1 ? 0 : wanted))
        fail_draw(s, "wrong number of full heads in a synthetic mask");
    if (most - fewest > 1)
        fail_draw(s, "a synthetic mask is not even over the layers");
}

/* From s->draw, or any changed copy of one. */
static void prepare(struct subject *s, const struct bench *b)
{
    struct kv_defaults run = {.chunk = s->draw.run_chunk, .dtype = KV_BF16};
    s->arena = kv_arena_open();
    s->skip_places = false;
    memset(&s->e, 0, sizeof s->e);
    s->draw.mask_file = b->mask_file;
    s->model = draw_model(&s->draw, s->arena);
    bool reads = s->draw.rule == KV_RULE_HEADS || (s->draw.rule == KV_RULE_MASK && s->draw.mask_form != MASK_SYNTHETIC);
    if (reads && !draw_write_mask(&s->draw))
        fail_draw(s, "cannot write the mask");
    if (!kv_policy_from_spec(&s->policy, draw_spec(&s->draw, s->arena), s->arena, &s->e) ||
        !kv_policy_prepare(&s->policy, &s->model, &run, &s->shape, s->arena, &s->e) ||
        !kv_request_check(&s->draw.request, &s->shape, &s->e) ||
        !kv_classes_make(&s->classes, &s->policy, &s->shape, s->arena, &s->e))
        fail_draw(s, s->e.text);
    if (s->draw.rule == KV_RULE_MASK && s->draw.mask_form == MASK_SYNTHETIC)
        read_synthetic(s);
    kv_walk_start(&s->walk, &s->policy, &s->shape, &s->classes, &s->draw.request, s->arena);
}

static inline void prepare_draw(struct subject *s, const struct bench *b, uint64_t purpose, uint64_t number,
                                const struct kv_kind *kind)
{
    draw_make(&s->draw, purpose, number, kind);
    prepare(s, b);
}

static void done(struct subject *s)
{
    kv_arena_close(s->arena);
}

/* The whole request, by runs of at most `most` passes; 0: of random lengths. */
static inline struct kv_ledger count(struct subject *s, int64_t most)
{
    struct kv_ledger l;
    struct kv_run run;
    struct dice r = dice_for(98, s->draw.number);
    kv_ledger_open(&l, &s->policy, &s->shape, &s->classes, s->draw.page, s->arena);
    l.skip_places = s->skip_places;
    kv_walk_restart(&s->walk, &s->draw.request);
    while (kv_walk_next(&s->walk, most ? most : roll_size(&r, 1, 30), &run)) {
        if (run.passes < 1)
            fail_draw(s, "a run of no passes");
        kv_ledger_add(&l, &run);
    }
    return l;
}

/* ---- comparing ---- */

struct difference {
    char text[200];
};

static void compare(struct difference *d, const char *name, int64_t a, int64_t b)
{
    if (a != b && !*d->text)
        snprintf(d->text, sizeof d->text, "%s: %lld, expected %lld", name, (long long)a, (long long)b);
}

static void compare_peaks(struct difference *d, const char *name, const struct kv_peak *a, const struct kv_peak *b)
{
    struct difference inner = {""};
    compare(&inner, "value", a->value, b->value);
    compare(&inner, "pass", a->pass, b->pass);
    compare(&inner, "seen", a->seen, b->seen);
    compare(&inner, "layer", a->layer, b->layer);
    compare(&inner, "decode", a->decode, b->decode);
    compare(&inner, "patched", a->patched, b->patched);
    if (*inner.text && !*d->text)
        snprintf(d->text, sizeof d->text, "%.40s.%.140s", name, inner.text);
}

static void compare_pages(struct difference *d, int layout, int how, const struct kv_ledger *a,
                          const struct kv_ledger *b)
{
    static const char *const hows[] = {"compact", "in place"};
    const struct kv_page_count *x = &a->pages[layout][how], *y = &b->pages[layout][how];
    struct difference inner = {""};
    compare_peaks(&inner, "peak[layer]", &x->peak[KV_SCOPE_LAYER], &y->peak[KV_SCOPE_LAYER]);
    compare_peaks(&inner, "peak[pass]", &x->peak[KV_SCOPE_PASS], &y->peak[KV_SCOPE_PASS]);
    compare(&inner, "end_peak", x->end_peak, y->end_peak);
    compare(&inner, "end", x->end, y->end);
    compare(&inner, "resident", x->resident, y->resident);
    compare(&inner, "returned", x->returned, y->returned);
    compare(&inner, "steps", x->steps, y->steps);
    for (int scope = 0; scope < KV_SCOPES; scope++)
        compare(&inner, "in the last pass", a->pass_pages[layout][how][scope], b->pass_pages[layout][how][scope]);
    if (*inner.text && !*d->text)
        snprintf(d->text, sizeof d->text, "pages %s, %s: %.150s", kv_layout_names[layout], hows[how], inner.text);
}

/* The first field in which they differ; "" when none does. */
static struct difference compare_ledgers(const struct kv_ledger *a, const struct kv_ledger *b, bool in_place)
{
    struct difference d = {""};
    compare(&d, "steps", a->steps, b->steps);
    compare(&d, "passes", a->passes, b->passes);
    compare(&d, "evictions", a->evictions, b->evictions);
    compare(&d, "entry_steps", a->entry_steps, b->entry_steps);
    compare(&d, "end_entries", a->end_entries, b->end_entries);
    compare(&d, "end_entries_peak", a->end_entries_peak, b->end_entries_peak);
    compare(&d, "end_bytes", a->end_bytes, b->end_bytes);
    compare(&d, "end_peak_bytes", a->end_peak_bytes, b->end_peak_bytes);
    for (int scope = 0; scope < KV_SCOPES; scope++) {
        compare(&d, "pass_entries", a->pass_entries[scope], b->pass_entries[scope]);
        compare_peaks(&d, scope ? "entries[pass]" : "entries[layer]", &a->entries[scope], &b->entries[scope]);
        compare(&d, "peak_bytes", a->peak_bytes[scope], b->peak_bytes[scope]);
    }
    compare(&d, "scratch_entries", a->scratch_entries, b->scratch_entries);
    for (int layout = 0; layout < KV_LAYOUTS; layout++)
        for (int how = 0; how < (in_place ? KV_COMPACTIONS : 1); how++)
            compare_pages(&d, layout, how, a, b);
    return d;
}

static inline void must_agree(const struct subject *s, const char *what, const struct kv_ledger *a,
                              const struct kv_ledger *b, bool in_place)
{
    struct difference d = compare_ledgers(a, b, in_place);
    if (*d.text)
        fail_draw(s, kv_format(s->arena, "%s: %s", what, d.text));
}

#endif
