# SPDX-License-Identifier: GPL-3.0-or-later
# KV footprint and KV peak: a group of bars for each policy and chunk.

stats data skip 1 using (larger(number(3), larger(number(4), number(5)))) nooutput
title = 'KV footprint and KV peak of each policy' . \
        (one_chunk ? sprintf(', chunks of %s tokens', thousands(one_chunk)) : ' and chunk')
series = 3
array field[3] = [4, 3, 5]
array label[3] = ['KV footprint, actual', 'KV footprint, paper', 'KV peak, actual']
array tint[3] = [0x0072B2, 0x56B4E9, 0xE69F00]
scaled(x) = 100 * x
shown(x) = sprintf('%.1f %%', x)
full = larger(100, scaled(STATS_max))
axis = '% of keeping everything' . (requests > 1 ? ', mean over requests' : '')
