/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What each fuzz target defines; libFuzzer calls it (`make fuzz`), and replay.c does in `make test`. */
#ifndef KV_FUZZ_H
#define KV_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* Any bytes may come, `data` may be NULL when there are none. Returns 0; what is wrong aborts. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
