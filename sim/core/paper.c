/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/core/paper.h"

#include "sim/core/least.h"

#include <math.h>

enum { CHUNK_EXTRA = 64 };

static int64_t triangle(int64_t n)
{
    return n * (n + 1) / 2;
}

/* One streaming head and one other head, side by side through the passes. */
struct heads {
    int64_t streaming, other; /* entries summed over queries */
    int64_t past;             /* what the other head holds */
    double peak;              /* of the mix, in entries */
};

static void add_point(struct heads *h, const struct kv_paper_form *f, int64_t streaming, int64_t other)
{
    double mix = f->head_sparsity * (double)streaming + (1.0 - f->head_sparsity) * (double)other;
    if (mix > h->peak)
        h->peak = mix;
}

static void add_pass(struct heads *h, const struct kv_paper_form *f, int64_t start, int64_t w)
{
    int64_t window = kv_least(start, f->sinks + f->recents);
    h->streaming += triangle(w) + w * window;
    h->other += triangle(w) + w * h->past;
    add_point(h, f, window + w, h->past + w);
    double kept = rint((1.0 - f->kv_sparsity) * (double)w) + (double)(f->locret ? f->stabilizers : CHUNK_EXTRA);
    h->past += kept < (double)w ? (int64_t)kept : w;
}

static void add_decode(struct heads *h, const struct kv_paper_form *f, int64_t prompt, int64_t output)
{
    int64_t bound = f->sinks + f->recents, last = prompt + output - 1;
    int64_t growing_to = kv_least(last, bound - 1); /* steps that still see every earlier token */
    int64_t growing = growing_to >= prompt ? growing_to - prompt + 1 : 0;
    h->streaming += output + (output - growing) * bound;
    if (growing)
        h->streaming += triangle(growing_to) - triangle(prompt - 1);
    h->other += triangle(output) + output * h->past;
    add_point(h, f, 1 + kv_least(last, bound), h->past + output);
}

struct kv_paper kv_paper_count(const struct kv_paper_form *f, int64_t prompt, int64_t output)
{
    KV_ASSERT(prompt >= 1 && output >= 0 && f->chunk >= 1 && prompt <= KV_PAPER_TOKENS - output);
    struct heads h = {0};
    int64_t local = f->locret ? kv_least(f->local, prompt) : 0;
    for (int64_t start = 0; start < prompt - local; start += f->chunk)
        add_pass(&h, f, start, kv_least(f->chunk, prompt - local - start));
    if (local)
        add_pass(&h, f, prompt - local, local);
    if (output)
        add_decode(&h, f, prompt, output);
    double full = (double)triangle(prompt + output);
    return (struct kv_paper){
        .footprint = (double)h.streaming / full * f->head_sparsity + (double)h.other / full * (1.0 - f->head_sparsity),
        .peak = h.peak / (double)(prompt + output),
    };
}
