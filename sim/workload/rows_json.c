/* SPDX-License-Identifier: GPL-3.0-or-later */
/* JSON and logs: refused so far. */
#include "sim/workload/format.h"

static void *refuse(struct kv_rows *r, const struct kv_line *first, struct kv_err *e)
{
    (void)first;
    kv_row_fail(r, 1, 1, e, "JSON and logs are not read yet; write a CSV of arrival_s,prompt_tokens,output_tokens");
    return NULL;
}

const struct kv_row_reader kv_read_mooncake = {.open = refuse}, kv_read_vllm_result = {.open = refuse},
                           kv_read_vllm_log = {.open = refuse};
