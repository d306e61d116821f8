/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/interrupt.h"

#include <signal.h>

static volatile sig_atomic_t noted;

static void note(int number)
{
    noted = number;
}

void kv_catch_signals(void)
{
    struct sigaction action = {.sa_handler = note};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

bool kv_interrupted(void)
{
    return noted != 0;
}

enum kv_status kv_interrupt_status(void)
{
    return noted == SIGTERM ? KV_TERMINATED : KV_INTERRUPTED;
}
