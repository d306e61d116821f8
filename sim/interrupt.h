/* SPDX-License-Identifier: GPL-3.0-or-later */
/* SIGINT and SIGTERM, noted for who works in steps: it ends the one in hand, closes its files and says what is missing.
 */
#ifndef KV_INTERRUPT_H
#define KV_INTERRUPT_H

#include "sim/core/error.h"

#include <stdbool.h>

void kv_catch_signals(void);
bool kv_interrupted(void);
/* What to exit with: KV_INTERRUPTED or KV_TERMINATED. */
enum kv_status kv_interrupt_status(void);

#endif
