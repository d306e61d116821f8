/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What a result folder says of where it came from. */
#ifndef KV_PROVENANCE_H
#define KV_PROVENANCE_H

#include "sim/settings.h"

#include <stdio.h>

/* config.resolved.ini: every value that is set; reading it again gives the same results. */
void kv_write_config(const struct kv_settings *s, FILE *out, struct kv_arena *a);

/* provenance.json: program, version, hashes of the config and of what was read. `input`: files beside config, model and
 * device, NULL at the end. */
void kv_write_provenance(const struct kv_settings *s, const struct kv_model *m, const char *const *input, FILE *out,
                         struct kv_arena *a);

#endif
