/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "traces/inside.h"

static int64_t set_bytes(const struct kv_set *s)
{
    int64_t bytes = 0, numbers = 1;
    for (int i = 0; i < s->rank; i++)
        numbers *= (int64_t)s->extent[i];
    if (s->layout != KV_LAYOUT_CHUNKS)
        return s->layout == KV_LAYOUT_COMPACT ? (int64_t)s->n : numbers * s->size;
    for (uint64_t i = 0; i < s->n; i++)
        bytes += kv_set_chunks(s)[i] == KV_NOWHERE ? 0 : kv_set_chunk_bytes(s)[i];
    return bytes;
}

int64_t kv_trace_stored_bytes(const struct kv_trace *t, int channel)
{
    const struct kv_rows *rows = &t->rows[channel];
    int64_t bytes = 0;
    for (int64_t tick = 0; tick < t->about.n_ticks; tick++) {
        if (!rows->at[tick])
            continue;
        int32_t end = t->index.node[rows->group[tick]].end;
        for (int32_t i = rows->group[tick] + 1; i < end; i = t->index.node[i].end)
            bytes += t->index.node[i].kind == KV_RECORD_SET ? set_bytes(t->index.node[i].set) : 0;
    }
    return bytes;
}
