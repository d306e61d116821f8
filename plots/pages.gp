# SPDX-License-Identifier: GPL-3.0-or-later
# The page tax: bytes of a request at its peak, as entries and in pages of each layout; a group of bars for each policy
# and chunk.

stats data skip 1 using (larger(larger(number(3), number(4)), larger(number(5), number(6)))) nooutput
title = 'The page tax: what a request takes at its peak' . \
        (one_chunk ? sprintf(', chunks of %s tokens', thousands(one_chunk)) : '')
series = 4
array field[4] = [3, 4, 5, 6]
array label[4] = ['entries held', 'pages, per-head', 'pages, per-layer', 'pages, shared']
array tint[4] = [0x009E73, 0x56B4E9, 0xE69F00, 0xD55E00]
scaled(x) = x / unit_bytes(STATS_max)
shown(x) = sprintf('%.2f', x)
full = scaled(STATS_max)
axis = 'peak of ' . (requests > 1 ? 'the largest' : 'one') . ' request, ' . unit(STATS_max)
