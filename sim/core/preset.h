/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Things known by name: models (models/NAME.ini), hardware (configs/hardware/NAME.ini), plot scripts. They lie in the
 * data folder: $KVSIM_DATA, else share/kvsim beside the program's bin, else the source tree the program was built in.
 */
#ifndef KV_PRESET_H
#define KV_PRESET_H

#include "sim/core/model.h"

/* The data folder; KV_ENV, with the places looked at, when there is none. */
const char *kv_data_folder(struct kv_arena *a, struct kv_err *e);

/* WHAT is a preset's name in any case ("Llama-3.1-8B"), a preset file (*.ini), or a Hugging Face folder or config.json.
 * KV_USAGE for an unknown name, with the nearest; KV_DATA for a bad file. */
bool kv_model_find(const char *what, struct kv_model *m, struct kv_arena *a, struct kv_err *e);

/* The file of a preset of `folder` ("configs/hardware") named `what`, which may be a path to an .ini file itself. */
const char *kv_preset_file(const char *folder, const char *noun, const char *what, struct kv_arena *a,
                           struct kv_err *e);

#endif
