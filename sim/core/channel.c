/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/core/channel.h"

#include <string.h>

const struct kv_channel_about kv_channels[KV_CHANNELS] = {
    [KV_WINDOW_LOCAL] = {"window_local", KV_SPAN_NEW, true, true,
                         "attention of the last queries of each chunk, over the chunk's own keys"},
    [KV_WINDOW_SEEN] = {"window_seen", KV_SPAN_SEEN, true, true, "attention of the last queries, over all keys"},
    [KV_COLUMN_SUM] = {"column_sum", KV_SPAN_SEEN, true, false, "attention summed over the queries of each pass"},
    [KV_LAST_ROW] = {"last_row", KV_SPAN_SEEN, true, false, "attention of the last query"},
    [KV_LATER_SUM] = {"later_sum", KV_SPAN_SEEN, true, false, "attention summed over all later queries"},
    [KV_KEY_NORM] = {"key_norm", KV_SPAN_NEW, false, false, "norms of the keys"},
    [KV_VALUE_NORM] = {"value_norm", KV_SPAN_NEW, false, false, "norms of the values"},
    [KV_KEY_COSINE] = {"key_cosine", KV_SPAN_SEEN, false, false, "cosines of the keys with their mean direction"},
    [KV_LAG] = {"lag", KV_SPAN_SEEN, false, false, "LagKV's scores"},
    [KV_EXPECTED] = {"expected", KV_SPAN_SEEN, false, false, "Expected Attention's scores"},
    [KV_EXTERNAL] = {"external", KV_SPAN_NEW, false, false, "scores from a trained head"},
    [KV_WINDOW_LOGITS] = {"window_logits", KV_SPAN_SEEN, true, true, "logits of the last queries, a row for each"},
    [KV_KEYS] = {"keys", KV_SPAN_NEW, false, false, "the keys themselves"},
    [KV_VALUES] = {"values", KV_SPAN_NEW, false, false, "the values themselves"},
};

int kv_channel_find(const char *name)
{
    for (int i = 0; i < KV_CHANNELS; i++)
        if (!strcmp(kv_channels[i].name, name))
            return i;
    return -1;
}
