/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What emulate.cpp and emulate_hopper.cpp know of each other. */
#ifndef KV_TESTS_EMULATE_INSIDE_H
#define KV_TESTS_EMULATE_INSIDE_H

#include <functional>

enum { KV_EMULATED_SHARED_MOST = 232448, KV_EMULATED_THREADS_MOST = 1024 };

[[noreturn]] void kv_emulated_stop(const char *why);
int kv_emulated_number(void);        /* of the thread, in its block */
unsigned kv_emulated_dice(unsigned); /* a number below */
/* The thread goes on a while later, now and then; at a time when this is so. */
void kv_emulated_pause(void);
void kv_emulated_until(const std::function<bool()> &so);
/* Shared memory as addresses of 32 bits count it. */
unsigned char *kv_emulated_window(void);
size_t kv_emulated_window_bytes(void);

void kv_emulated_hopper_begins(int threads); /* a block */
void kv_emulated_hopper_thread_ends(void);
void kv_emulated_hopper_ends(void);
/* Nobody can go on: something that is under way arrives. False: nothing is. */
bool kv_emulated_hopper_arrives(void);

#endif
