/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A workload as our own CSV: request,arrival_s,prompt_tokens,output_tokens[,session][,block_tokens,hashes]. Arrivals
 * are decimals of whole nanoseconds; read back they are the same. */
#ifndef KV_WORKLOAD_STORE_H
#define KV_WORKLOAD_STORE_H

#include "sim/workload/workload.h"

#include <stdio.h>

/* Writes all that is left of the stream; `times`: with arrivals. False after every mistake was said. Of later turns
 * nothing can be written: they come when answers have ended. */
bool kv_workload_store(struct kv_workload *w, bool times, FILE *out, int64_t *written, struct kv_err *e);

#endif
