/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A replay as a table for people, as CSV and JSON, and as a folder of plain files. */
#ifndef KV_REPLAY_PRINT_H
#define KV_REPLAY_PRINT_H

#include "sim/replay.h"
#include "sim/table.h"

void kv_replay_print(const struct kv_replay *r, const char *path, struct kv_arena *a);
void kv_replay_csv(const struct kv_replay *r, FILE *out, struct kv_arena *a);
json_t *kv_replay_json(const struct kv_replay *r, const char *path, struct kv_arena *a);

/* provenance.json, timeline.csv, heads.csv, marks.csv, policies.csv, summary.json, with `kept` kept.csv,
 * and kept_passes.csv where kept positions were written down. KV_ENV. */
bool kv_replay_write(const struct kv_replay *r, const char *path, const char *folder, bool kept, struct kv_arena *a,
                     struct kv_err *e);

#endif
